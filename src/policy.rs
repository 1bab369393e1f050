//! Rules and what they say: pure, from facts to a verdict.

use std::net::IpAddr;

use globset::GlobMatcher;
use ipnet::IpNet;

use crate::sql::{Class, Statement};

/// What a rule does with a statement that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let it pass, and look no further.
    Allow,
    /// Answer with an error; the server never runs it.
    Refuse,
}

/// One `[[rule]]`. An absent condition matches everything.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Shown to the client, in `SHOW RULES` and in `pggit.statements.rule`.
    pub name: String,
    /// Branch names.
    pub branch: Option<GlobMatcher>,
    /// Login names.
    pub user: Option<GlobMatcher>,
    /// `application_name`.
    pub application: Option<GlobMatcher>,
    /// Client addresses; a unix socket matches no network.
    pub client: Vec<IpNet>,
    /// Statement classes; `ddl` also matches what does not parse.
    pub class: Vec<Class>,
    /// Command tags, upper case.
    pub tag: Option<GlobMatcher>,
    /// `schema.name`; a name without schema is matched as `*.name`.
    pub object: Option<GlobMatcher>,
    /// What to do.
    pub action: Action,
    /// The error's message, instead of the standard one.
    pub message: Option<String>,
    /// The error's hint, instead of the standard one.
    pub hint: Option<String>,
}

/// Who sends the statement.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// `None`: the database is no branch; rules with a `branch` condition do not match.
    pub branch: Option<&'a str>,
    /// Login name.
    pub user: &'a str,
    /// `application_name` now.
    pub application: &'a str,
    /// `None` for a unix socket.
    pub client: Option<IpAddr>,
}

/// An error made by the proxy for one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Five characters.
    pub sqlstate: &'static str,
    /// The rule's name; `None` where it was no rule (history not writable, a guarded setting).
    pub rule: Option<String>,
    /// One sentence, lower case, no full stop.
    pub message: String,
    /// Rule and branch.
    pub detail: Option<String>,
    /// What to do instead.
    pub hint: Option<String>,
}

/// What the rules say of one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass; the rule that said so, if one did.
    Allow(Option<String>),
    /// It may not.
    Refuse(Refusal),
}

/// How much of a plain (pre-filtered) statement the rules want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// No rule can match this class: do not judge.
    None,
    /// Its class is enough.
    Class,
    /// A rule looks at the tag or the objects: parse it.
    Parse,
}

/// A branch on which DDL is refused by an operator's command until it is lifted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// The branch.
    pub branch: String,
    /// Who froze it.
    pub by: String,
}

/// All that decides: rules in order, then freezes, then protected branches.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Tried in order; the first match decides.
    pub rules: Vec<Rule>,
    /// Frozen branches: decide before any rule.
    pub freezes: Vec<Freeze>,
    /// Names of protected branches: DDL and role changes are refused unless a rule allowed them.
    pub protected: Vec<String>,
}
