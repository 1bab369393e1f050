//! `[branches]`: the default branch, and those declared in the file.

use std::ops::Range;
use std::sync::Arc;

use super::section::{Section, nearest};
use super::{BranchConfig, Config};
use crate::branch::{Branch, Branches, Origin, check_branch_name, check_database_name};
use crate::policy::{Freeze, Policy};

/// Reads the branches. The default branch is the one in the main database, declared or not.
pub(super) fn read_branches(mut section: Section<'_>, main_database: &str) -> BranchConfig {
    let mut config = BranchConfig::default();
    let default = section.text("default");
    if let Some(default) = &default {
        match check_branch_name(&default.value) {
            Ok(()) => config.default.clone_from(&default.value),
            Err(message) => section.problem(&default.span, message),
        }
    }
    let mut places: Vec<Range<usize>> = Vec::new();
    for (name, mut branch) in section.named_sections() {
        let span = branch.span().clone();
        if let Err(message) = check_branch_name(&name) {
            branch.problem(&span, message);
        }
        let is_default = name == config.default;
        let database = branch
            .parsed("database", |text| check_database_name(text).map(|()| text.to_owned()).map_err(str::to_owned));
        let protected = branch.flag("protected", false);
        let parent = branch.text("parent");
        if let Some(parent) = &parent
            && let Err(message) = check_branch_name(&parent.value)
        {
            branch.problem(&parent.span, message);
        }
        let missing = database.is_none() && !branch.has("database");
        if missing && is_default {
            config.default_in_main = true;
        } else if missing {
            branch.problem(&span, format!("branch \"{name}\" needs a `database`"));
        }
        places.push(database.as_ref().map_or(span, |placed| placed.span.clone()));
        branch.finish();
        config.declared.push(Branch {
            name,
            database: database.map_or_else(|| main_database.to_owned(), |placed| placed.value),
            protected,
            parent: parent.map(|placed| placed.value),
            origin: Origin::Configuration,
        });
    }
    for (index, message) in config.problems(main_database) {
        let place = index.and_then(|index| places.get(index)).or(default.as_ref().map(|placed| &placed.span));
        section.problem(place.unwrap_or(section.span()), message);
    }
    section.finish();
    config
}

impl BranchConfig {
    /// What is wrong with the branches together, each with the declared branch it is about; `None`: the default.
    pub(super) fn problems(&self, main_database: &str) -> Vec<(Option<usize>, String)> {
        let mut problems = Vec::new();
        for (index, branch) in self.declared.iter().enumerate() {
            if let Some(other) = self.declared[..index].iter().find(|other| other.database == branch.database) {
                let message = format!(
                    "branches \"{}\" and \"{}\" cannot share the database \"{}\"",
                    other.name, branch.name, branch.database
                );
                problems.push((Some(index), message));
            }
        }
        let implied = self.declared.iter().all(|branch| branch.name != self.default);
        let taken = self.declared.iter().find(|branch| branch.database == main_database);
        if implied && let Some(taken) = taken {
            let near = nearest(&self.default, self.declared.iter().map(|branch| branch.name.as_str()));
            let near = near.unwrap_or(&taken.name);
            let message = format!(
                "the default branch \"{}\" is not declared, and the main database \"{main_database}\" is branch \
                 \"{}\"; did you mean default = \"{near}\"?",
                self.default, taken.name
            );
            problems.push((None, message));
        }
        problems
    }
}

impl Config {
    /// The branches that these declarations and those rows make; a declaration wins over a row of the same name,
    /// and over a row of the same database. A default branch that is not declared takes protection and parent from
    /// its row.
    pub fn branches(&self, rows: &[Branch]) -> Branches {
        let mut all: Vec<Branch> = self.branches.declared.clone();
        let default = &self.branches.default;
        if all.iter().all(|branch| branch.name != *default) {
            let row = rows.iter().find(|row| row.name == *default);
            let branch = Branch {
                name: default.clone(),
                database: self.upstream.dbname.clone(),
                protected: row.is_some_and(|row| row.protected),
                parent: row.and_then(|row| row.parent.clone()),
                origin: Origin::Configuration,
            };
            all.insert(0, branch);
        }
        for row in rows {
            let valid = check_branch_name(&row.name).is_ok() && check_database_name(&row.database).is_ok();
            let taken = all.iter().any(|branch| branch.name == row.name || branch.database == row.database);
            if valid && !taken {
                all.push(Branch { origin: Origin::Table, ..row.clone() });
            }
        }
        Branches {
            repository: self.upstream.dbname.clone(),
            default: default.clone(),
            all: all.into_iter().map(Arc::new).collect(),
        }
    }

    /// The rules in force.
    pub fn policy(&self, branches: &Branches, freezes: &[Freeze]) -> Policy {
        let protected = branches.all.iter().filter(|branch| branch.protected);
        Policy {
            rules: self.rules.clone(),
            freezes: freezes.to_vec(),
            protected: protected.map(|branch| branch.name.clone()).collect(),
        }
    }
}
