//! What is dangerous about a schema change: the checks of squawk, made sharper by what is known of the tables.
//!
//! [`Check`] reads a text ([`read`]); [`Findings`] are what it found. What the server says of the tables ([`seen`]) takes away
//! those that hold for nobody, and says how long the others take ([`say`]).
//! <https://squawkhq.com/docs/rules>

mod own;
mod read;
mod say;
mod seen;

use std::ops::Range;
use std::sync::Arc;

pub use own::OwnRule;
pub use read::MAX_TEXT;
pub use say::Warning;
pub use seen::{LOOK, Seen};
pub use squawk_linter::Rule as LintRule;

use super::Queueing;
use crate::sql::{Class, ObjectName, Statement};

/// The rule of a text that could not be checked.
pub const NOT_LINTED: &str = "not-linted";

/// What comes of a statement with findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LintAction {
    /// It is run, and the client gets a WARNING for each.
    Warn,
    /// It is refused.
    Refuse,
    /// It becomes a change request.
    Queue,
}

impl LintAction {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Refuse => "refuse",
            Self::Queue => "queue",
        }
    }

    /// How a statement is queued that has findings.
    pub const QUEUEING: Queueing = Queueing { expires: Queueing::EXPIRES, wait: None };
}

/// How statements of a branch are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lint {
    /// What comes of findings.
    pub action: LintAction,
    /// Rules of squawk's own choice that are not asked.
    pub exclude: Vec<LintRule>,
    /// Rules that squawk has, and does not ask by itself.
    pub include: Vec<LintRule>,
    /// Rules of our own that are not asked.
    pub exclude_own: Vec<OwnRule>,
}

/// Maintenance that may keep everybody else out of a table: which of its forms do, the check finds.
const MAINTENANCE: [&str; 4] = ["CLUSTER", "REFRESH MATERIALIZED VIEW", "REINDEX", "VACUUM"];

impl Lint {
    /// The name of every rule.
    pub fn rules() -> impl Iterator<Item = String> {
        enum_iterator::all::<LintRule>()
            .map(|rule| rule.to_string())
            .chain(OwnRule::ALL.map(|rule| rule.as_str().to_owned()))
    }

    /// Whether it looks at such statements at all.
    pub fn is_about(statement: &Statement) -> bool {
        let is_it = match statement.class {
            Class::Ddl => true,
            Class::Maintenance => MAINTENANCE.contains(&statement.tag),
            Class::Read
            | Class::Write
            | Class::Role
            | Class::Transaction
            | Class::Session
            | Class::Opaque
            | Class::Other => false,
        };
        is_it && statement.parsed && !statement.temporary
    }
}

/// A text that is to be checked.
#[derive(Debug, Clone)]
pub struct Check {
    /// How.
    pub lint: Arc<Lint>,
    /// The whole text, as the client sent it; `None`: it is not known.
    pub text: Option<Vec<u8>>,
    /// The statements in it that are looked at.
    pub about: Vec<About>,
    /// The server's major version.
    pub version: u32,
    /// Whether the text runs inside a transaction.
    pub in_transaction: bool,
}

/// One statement of a text that is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its bytes in the text.
    pub range: Range<usize>,
    /// The server's command tag.
    pub tag: &'static str,
    /// The tables that it names, and what else it names.
    pub tables: Vec<ObjectName>,
    /// Where its branch has a `ddl_lock_timeout`, that holds for it.
    pub is_bounded: bool,
}

impl About {
    /// A statement with its place in the text that is checked.
    pub fn new(statement: &Statement, range: Range<usize>) -> Self {
        let is_bounded = statement.class == Class::Ddl && statement.transactional;
        // Of other kinds the names are no tables'.
        let names_tables = !matches!(
            statement.object_type,
            Some("database" | "schema" | "extension" | "function" | "procedure" | "routine" | "aggregate")
        );
        let tables = if names_tables { statement.objects.clone() } else { Vec::new() };
        Self { range, tag: statement.tag, tables, is_bounded }
    }
}

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// In the text's order.
    pub all: Vec<Finding>,
    /// The statements, with all their tables.
    pub about: Vec<About>,
}

/// One thing that is dangerous about one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which statement of [`Findings::about`].
    pub statement: usize,
    /// The rule's name.
    pub rule: String,
    /// What takes long.
    pub effect: Effect,
    /// What it says.
    pub message: String,
    /// What to do instead.
    pub help: Option<String>,
}

/// What a finding means for those who use the table meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The table and its indexes are written anew.
    Rewrites,
    /// The whole table is read.
    Scans,
    /// An index is built over the whole table.
    BuildsIndex,
    /// A query is run, and what it finds is written with its indexes.
    Fills,
    /// A lock is needed, for a moment.
    Locks,
    /// Nothing bounds how long a lock is waited for.
    WaitsForLock,
    /// Nothing bounds how long it takes.
    TakesLong,
    /// It is not about time.
    Other,
}

impl Effect {
    /// Whether somebody else could be kept waiting: nobody is by a table that nobody else sees yet.
    fn concerns_others(self) -> bool {
        match self {
            Self::Rewrites
            | Self::Scans
            | Self::BuildsIndex
            | Self::Fills
            | Self::Locks
            | Self::WaitsForLock
            | Self::TakesLong => true,
            Self::Other => false,
        }
    }
}

impl From<LintRule> for Effect {
    fn from(rule: LintRule) -> Self {
        match rule {
            LintRule::AddingFieldWithDefault | LintRule::ChangingColumnType | LintRule::PreferRepack => Self::Rewrites,
            LintRule::ConstraintMissingNotValid
            | LintRule::AddingForeignKeyConstraint
            | LintRule::AddingNotNullableField => Self::Scans,
            LintRule::RequireConcurrentIndexCreation
            | LintRule::RequireConcurrentReindex
            | LintRule::AddingSerialPrimaryKeyField
            | LintRule::DisallowedUniqueConstraint => Self::BuildsIndex,
            LintRule::RequireConcurrentIndexDeletion | LintRule::RequireConcurrentPartitionDetach => Self::Locks,
            LintRule::RequireLockTimeout => Self::WaitsForLock,
            LintRule::RequireStatementTimeout => Self::TakesLong,
            _ => Self::Other,
        }
    }
}
