//! Rules and what they say: pure, from facts to a verdict.
//!
//! Order: a freeze, then the rules (the first match decides), then the protection of a branch. A rule that reroutes and says
//! nothing of statements decides about whole sessions, when they begin. What cannot be known
//! (a text that does not parse, a table named without its schema) counts as matched by a rule that refuses and as
//! not matched by a rule that allows.

mod judge;
pub mod lint;
mod pattern;
mod queued;
mod reroute;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use globset::GlobMatcher;
use ipnet::IpNet;

pub use pattern::{ObjectPattern, any_case_glob, glob};
pub use queued::{QUEUED, Queued};
pub use reroute::{CANNOT_REROUTE, Detour, Rerouted};

use crate::sql::Class;
use lint::Lint;

/// What a rule does with a statement that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Let it pass, and look no further.
    Allow,
    /// Answer with an error; the server never runs it.
    Refuse,
    /// Make it a change request that waits for approval; the client gets an error with its number.
    Queue(Queueing),
    /// Send the session, or the statement, to this branch.
    Reroute(Arc<str>),
}

/// How a rule queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queueing {
    /// How long a request may wait to be approved and applied.
    pub expires: Duration,
    /// How long the client waits for the decision; `None`: it is told the number at once.
    pub wait: Option<Duration>,
}

impl Queueing {
    /// A week.
    pub const EXPIRES: Duration = Duration::from_secs(7 * 24 * 3600);
}

impl Action {
    /// Whether it keeps statements from the branch: then what cannot be known counts as matched.
    fn holds_back(&self) -> bool {
        match self {
            Self::Allow => false,
            Self::Refuse | Self::Queue(_) | Self::Reroute(_) => true,
        }
    }

    /// The word in the configuration and in `SHOW RULES`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Refuse => "refuse",
            Self::Queue(_) => "queue",
            Self::Reroute(_) => "reroute",
        }
    }
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
    /// `schema.name`; a pattern without schema is read as `*.name`.
    pub object: Option<ObjectPattern>,
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
    /// It becomes a change request.
    Queue(Queued),
    /// It is run on another branch.
    Reroute(Rerouted),
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
    /// How schema changes of a branch are run, by its name; without an entry: as they come.
    pub care: BTreeMap<String, Care>,
}

/// How schema changes of a branch are run that the rules let pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Care {
    /// They are checked first.
    pub lint: Option<Arc<Lint>>,
    /// How long they wait for locks where their session says nothing.
    pub lock_timeout: Option<Duration>,
}

impl Rule {
    /// The columns of [`Rule::describe`], as the configuration names them.
    pub const FIELDS: [&'static str; 14] = [
        "name",
        "branch",
        "user",
        "application",
        "client",
        "class",
        "tag",
        "object",
        "action",
        "to",
        "expires",
        "wait",
        "message",
        "hint",
    ];

    /// The rule's values in the order of [`Rule::FIELDS`]; `None` for an absent condition.
    pub fn describe(&self) -> [Option<String>; 14] {
        let glob = |glob: &Option<GlobMatcher>| glob.as_ref().map(|glob| glob.glob().glob().to_owned());
        let list = |words: Vec<String>| if words.is_empty() { None } else { Some(words.join(", ")) };
        [
            Some(self.name.clone()),
            glob(&self.branch),
            glob(&self.user),
            glob(&self.application),
            list(self.client.iter().map(ToString::to_string).collect()),
            list(self.class.iter().map(|class| class.as_str().to_owned()).collect()),
            glob(&self.tag),
            self.object.as_ref().map(ToString::to_string),
            Some(self.action.as_str().to_owned()),
            match &self.action {
                Action::Reroute(to) => Some(to.to_string()),
                Action::Allow | Action::Refuse | Action::Queue(_) => None,
            },
            match self.action {
                Action::Queue(queueing) => Some(format!("{}s", queueing.expires.as_secs())),
                Action::Allow | Action::Refuse | Action::Reroute(_) => None,
            },
            match self.action {
                Action::Queue(queueing) => queueing.wait.map(|wait| format!("{}s", wait.as_secs())),
                Action::Allow | Action::Refuse | Action::Reroute(_) => None,
            },
            self.message.clone(),
            self.hint.clone(),
        ]
    }
}
