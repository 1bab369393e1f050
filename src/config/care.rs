//! How schema changes of a branch are run: `lint` and `ddl_lock_timeout`, in `[branches]` for every branch and in
//! `[branches.NAME]` for one.

use std::sync::Arc;
use std::time::Duration;

use super::section::{Section, nearest};
use crate::policy::Care;
use crate::policy::lint::{Lint, LintAction, LintRule, OwnRule};

/// The keys as they were written; what is not written is as for every branch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CareConfig {
    /// `lint`; `Some(None)`: off.
    pub lint: Option<Option<LintAction>>,
    /// `lint_exclude`
    pub exclude: Option<Vec<String>>,
    /// `lint_include`
    pub include: Option<Vec<String>>,
    /// `ddl_lock_timeout`; zero: none is added.
    pub lock_timeout: Option<Duration>,
}

const ACTIONS: [(&str, Option<LintAction>); 4] = [
    ("off", None),
    ("warn", Some(LintAction::Warn)),
    ("refuse", Some(LintAction::Refuse)),
    ("queue", Some(LintAction::Queue)),
];

impl CareConfig {
    /// What a schema change on a protected branch waits for locks, where nothing else is said.
    pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let lint = section.word("lint", None, &ACTIONS);
        let lint = section.has("lint").then_some(lint);
        let exclude = read_rules(section, "lint_exclude");
        let include = read_rules(section, "lint_include");
        let day = Duration::from_secs(24 * 3600);
        let timeout = section.duration("ddl_lock_timeout", Self::LOCK_TIMEOUT, Duration::ZERO..=day);
        Self { lint, exclude, include, lock_timeout: section.has("ddl_lock_timeout").then_some(timeout) }
    }

    /// What holds for a branch, `self` being what is said of every branch.
    pub(super) fn of(&self, own: Option<&Self>, is_protected: bool) -> Care {
        let lint = own.and_then(|own| own.lint).or(self.lint).flatten();
        let list = |pick: fn(&Self) -> &Option<Vec<String>>| {
            own.and_then(|own| pick(own).clone()).or_else(|| pick(self).clone()).unwrap_or_default()
        };
        let rules = |names: &[String]| names.iter().filter_map(|name| LintRule::try_from(name.as_str()).ok()).collect();
        let lint = lint.map(|action| {
            let (exclude, include) = (list(|care| &care.exclude), list(|care| &care.include));
            let exclude_own = exclude.iter().filter_map(|name| OwnRule::named(name)).collect();
            Arc::new(Lint { action, exclude: rules(&exclude), include: rules(&include), exclude_own })
        });
        let usual = || is_protected.then(|| self.lock_timeout.unwrap_or(Self::LOCK_TIMEOUT));
        let lock_timeout = own.and_then(|own| own.lock_timeout).or_else(usual);
        Care { lint, lock_timeout: lock_timeout.filter(|timeout| !timeout.is_zero()) }
    }
}

/// Names of squawk's rules, and of those of our own, which are all asked unless they are excluded.
fn read_rules(section: &mut Section<'_>, key: &str) -> Option<Vec<String>> {
    let mut rules = Vec::new();
    for placed in section.texts(key) {
        let name = placed.value;
        let is_known =
            LintRule::try_from(name.as_str()).is_ok() || (key == "lint_exclude" && OwnRule::named(&name).is_some());
        if is_known {
            rules.push(name);
            continue;
        }
        let known: Vec<String> = Lint::rules().collect();
        let help = match nearest(&name, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "see docs/LINT.md".to_owned(),
        };
        section.problem(&placed.span, format!("unknown lint rule \"{name}\"; {help}"));
    }
    section.has(key).then_some(rules)
}
