//! `[branches]`: the default branch, and those declared in the file.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::section::{Section, nearest};
use super::{AutoCreate, BranchConfig, CareConfig, Config};
use crate::branch::{Branch, Branches, Origin, check_branch_name, check_database_name};
use crate::policy::{Care, Freeze, Policy};

/// Reads the branches. The default branch is the one in the main database, declared or not.
pub(super) fn read_branches(mut section: Section<'_>, main_database: &str, folder: &Path) -> BranchConfig {
    let mut config = BranchConfig::default();
    let default = section.text("default");
    if let Some(default) = &default {
        match check_branch_name(&default.value) {
            Ok(()) => config.default.clone_from(&default.value),
            Err(message) => section.problem(&default.span, message),
        }
    }
    config.care = CareConfig::read(&mut section);
    config.pg_dump = section.text("pg_dump").map(|placed| folder.join(placed.value));
    config.auto_create = AutoCreate::read(&mut section);
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
        config.cares.insert(name.clone(), CareConfig::read(&mut branch));
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
        branch.finish();
        let place = database.as_ref().map_or(span, |placed| placed.span.clone());
        let database = database.map(|placed| placed.value).or_else(|| is_default.then(|| main_database.to_owned()));
        let Some(database) = database else { continue };
        places.push(place);
        config.declared.push(Branch {
            name,
            database,
            protected,
            parent: parent.map(|placed| placed.value),
            origin: Origin::Configuration,
        });
    }
    for conflict in config.conflicts(main_database) {
        let default = default.as_ref().filter(|_| conflict.with_default).map(|placed| &placed.span);
        let place = default.or_else(|| places.get(conflict.branch)).unwrap_or(section.span());
        section.problem(place, conflict.message);
    }
    section.finish();
    config
}

/// Two branches that cannot both be.
pub(super) struct Conflict {
    /// The declared branch that it is about, by its index.
    branch: usize,
    /// The other one is the default branch, which is not declared.
    with_default: bool,
    pub message: String,
}

impl BranchConfig {
    /// What is wrong with the branches together.
    pub(super) fn conflicts(&self, main_database: &str) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for (index, branch) in self.declared.iter().enumerate() {
            if let Some(other) = self.declared[..index].iter().find(|other| other.database == branch.database) {
                let message = format!(
                    "branches \"{}\" and \"{}\" cannot share the database \"{}\"",
                    other.name, branch.name, branch.database
                );
                conflicts.push(Conflict { branch: index, with_default: false, message });
            }
        }
        let implied = self.declared.iter().all(|branch| branch.name != self.default);
        let taken = self.declared.iter().position(|branch| branch.database == main_database);
        if let Some(index) = taken.filter(|_| implied) {
            let taken = &self.declared[index].name;
            let near = nearest(&self.default, self.declared.iter().map(|branch| branch.name.as_str()));
            let message = format!(
                "the main database \"{main_database}\" is branch \"{taken}\", and the default branch \"{}\" is not \
                 declared; did you mean default = \"{}\"?",
                self.default,
                near.unwrap_or(taken)
            );
            conflicts.push(Conflict { branch: index, with_default: true, message });
        }
        conflicts
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
        let cares = branches.all.iter().map(|branch| (branch.name.clone(), self.care(&branch.name, branch.protected)));
        let care = cares.filter(|(_, care)| *care != Care::default()).collect();
        Policy {
            rules: self.rules.clone(),
            freezes: freezes.to_vec(),
            protected: protected.map(|branch| branch.name.clone()).collect(),
            care,
        }
    }

    /// How schema changes of a branch are run.
    pub fn care(&self, branch: &str, is_protected: bool) -> Care {
        self.branches.care.of(self.branches.cares.get(branch), is_protected)
    }
}
