//! What a rule that reroutes says: of a session when it begins, of a statement when it is sent.

use std::sync::Arc;

use super::{Action, Policy, Refusal, Rule, Who};

/// The SQLSTATE of what has to be rerouted and cannot be.
pub const CANNOT_REROUTE: &str = "PG004";

/// Where a session goes instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detour<'a> {
    /// The rule that says so.
    pub rule: &'a str,
    /// The branch.
    pub to: &'a str,
}

/// A statement that is to be run on another branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rerouted {
    /// The rule that says so.
    pub rule: String,
    /// The other branch.
    pub to: Arc<str>,
    /// The statement, as errors name it.
    pub what: String,
    /// Rule and branch.
    pub detail: String,
    /// The rule's own message, for a refusal.
    pub message: Option<String>,
    /// The rule's own hint.
    pub hint: Option<String>,
}

impl Policy {
    /// Where a session goes that begins, if not where it wants to. Rules that look at statements say nothing of that; of
    /// the others the first one that matches decides.
    pub fn detour(&self, who: &Who<'_>) -> Option<Detour<'_>> {
        let rule = self.rules.iter().find(|rule| rule.is_about_sessions() && rule.is_about(who))?;
        match &rule.action {
            Action::Reroute(to) => Some(Detour { rule: &rule.name, to }),
            Action::Allow | Action::Refuse | Action::Queue(_) => None,
        }
    }
}

impl Rule {
    /// Whether it has no condition on statements.
    pub fn is_about_sessions(&self) -> bool {
        self.class.is_empty() && self.tag.is_none() && self.object.is_none()
    }
}

impl Rerouted {
    /// The error where the connection to the other branch broke.
    pub fn lost(&self, reason: &str) -> Refusal {
        Refusal {
            sqlstate: "08006",
            rule: Some(self.rule.clone()),
            message: format!(
                "{} was sent to branch \"{}\", and nobody knows what became of it: {reason}",
                self.what, self.to
            ),
            detail: Some(self.detail.clone()),
            hint: Some(format!("See the history of branch \"{}\".", self.to)),
        }
    }

    /// The error where the statement cannot be run there, and so not at all.
    pub fn impossible(&self, because: &str) -> Refusal {
        let hint =
            || format!("Connect to branch \"{}\" and send it there, by itself and outside a transaction.", self.to);
        Refusal {
            sqlstate: CANNOT_REROUTE,
            rule: Some(self.rule.clone()),
            message: match &self.message {
                Some(message) => format!("{message}: {because}"),
                None => format!("{} belongs on branch \"{}\", and cannot be rerouted: {because}", self.what, self.to),
            },
            detail: Some(self.detail.clone()),
            hint: Some(self.hint.clone().unwrap_or_else(hint)),
        }
    }
}
