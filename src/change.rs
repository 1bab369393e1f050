//! The facts that travel: what a session was, what a statement came to.
//!
//! The session engine makes them, the recorder writes them, the control port shows them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::sql::Class;

/// Who is at the other end of one client connection. Fixed from login on.
#[derive(Debug, Clone)]
pub struct SessionFacts {
    /// Also the server-side setting `pggit.session` of this session.
    pub id: Uuid,
    /// The user name of the start-up packet.
    pub user: String,
    /// The database on the server.
    pub database: String,
    /// The branch, or `None` for a database that is no branch of the repository.
    pub branch: Option<String>,
    /// The client's address; `None` for a unix socket.
    pub client_addr: Option<IpAddr>,
    /// The client's port; 0 for a unix socket.
    pub client_port: u16,
    /// Set where a rule sent the session to another branch than it asked for.
    pub rerouted: Option<Box<Reroute>>,
}

/// How a session came to its branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reroute {
    /// The branch that was asked for. Also the server-side setting `pggit.rerouted_from` of this session.
    pub from: String,
    /// The rule that sent it on.
    pub rule: String,
}

/// What became of a statement, as in `pggit.statements.outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Committed.
    Applied,
    /// The server answered with an error.
    Failed,
    /// The proxy refused it.
    Refused,
    /// It became a change request.
    Queued,
    /// It was run on another branch, and committed there.
    Rerouted,
    /// It succeeded, and its transaction (or savepoint) was rolled back.
    RolledBack,
    /// The connection ended before the outcome was seen.
    Unknown,
}

impl Outcome {
    /// The word stored in `pggit.statements.outcome`, and the metrics' label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Queued => "queued",
            Self::Rerouted => "rerouted",
            Self::RolledBack => "rolled_back",
            Self::Unknown => "unknown",
        }
    }
}

/// The word for what a rule said, as in `pggit.statements.verdict`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerdictKind {
    /// It went to the server.
    Allow,
    /// It did not.
    Refuse,
    /// It did not: it became a change request.
    Queue,
    /// It went to another branch.
    Reroute,
}

impl VerdictKind {
    /// The word stored in `pggit.statements.verdict`, and the metrics' label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Refuse => "refuse",
            Self::Queue => "queue",
            Self::Reroute => "reroute",
        }
    }
}

/// One row for `pggit.statements`: a DDL, role or refused statement and its outcome.
#[derive(Debug, Clone)]
pub struct StatementFact {
    /// The row's key.
    pub id: Uuid,
    /// The session that sent it.
    pub session: Arc<SessionFacts>,
    /// The server's command tag.
    pub tag: &'static str,
    /// The statement's class.
    pub class: Class,
    /// The text as sent; bytes that are not UTF-8 appear as U+FFFD.
    pub sql: String,
    /// What the rules said.
    pub verdict: VerdictKind,
    /// The rule that said it; `None` where none matched.
    pub rule: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// The server's SQLSTATE when it failed, or ours when refused.
    pub sqlstate: Option<String>,
    /// The error's message.
    pub error: Option<String>,
    /// `application_name` at that time.
    pub application_name: String,
    /// The branch where it was run instead.
    pub rerouted_to: Option<Arc<str>>,
    /// The approved change request that it was, run by its author.
    pub request: Option<Run>,
    /// When its bytes arrived.
    pub started_at: SystemTime,
    /// From its bytes' arrival to the server's completion.
    pub duration: Duration,
}

/// A statement that cannot run inside a transaction, before it goes to the server.
#[derive(Debug, Clone)]
pub struct Intent {
    /// Also the key of its [`StatementFact`].
    pub id: Uuid,
    /// The session that sent it.
    pub session: Arc<SessionFacts>,
    /// The server's command tag.
    pub tag: &'static str,
    /// Its class.
    pub class: Class,
    /// What kind of object it names.
    pub object_type: Option<&'static str>,
    /// The schema that its text names.
    pub schema: Option<String>,
    /// The names in its text, without schemas.
    pub names: Vec<String>,
    /// The text as sent, as far as it is logged.
    pub sql: String,
    /// `application_name` at that time.
    pub application_name: String,
}

/// What came of writing an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intended {
    /// Nothing has to be recorded: the statement may pass.
    NotRequired,
    /// It is committed: the statement may pass.
    Written,
    /// Why it could not be written.
    Failed(String),
}

/// A statement that is to wait for approval: a row of `pggit.change_requests`.
#[derive(Debug, Clone)]
pub struct ChangeRequest {
    /// Also the key of its [`StatementFact`].
    pub id: Uuid,
    /// The session that sent it.
    pub session: Arc<SessionFacts>,
    /// The rule that queues it.
    pub rule: String,
    /// The server's command tag.
    pub tag: &'static str,
    /// Its class.
    pub class: Class,
    /// The objects in its text, as `schema.name` or `name`.
    pub objects: Vec<String>,
    /// Whether it runs inside a transaction.
    pub transactional: bool,
    /// The text exactly as sent.
    pub sql: String,
    /// What is known of the settings that change its meaning.
    pub settings: Vec<(&'static str, String)>,
    /// `application_name` at that time.
    pub application_name: String,
    /// What lint found, in full.
    pub findings: Option<String>,
    /// How long it may wait.
    pub expires: Duration,
    /// How long its client waits for the decision.
    pub wait: Option<Duration>,
    /// Once it is approved its client may run it, in a transaction that says so.
    pub runs_here: bool,
}

impl ChangeRequest {
    /// The key of the statement's row in the log, where nothing in the statement's transaction can say that it was the request's:
    /// then the request says beforehand who runs it, and nobody else does.
    pub fn released_to(&self) -> Option<Uuid> {
        let released = !self.runs_here && (!self.transactional || self.wait.is_some());
        released.then_some(self.id)
    }
}

/// A change request as it stands in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Its number.
    pub number: i64,
    /// Its key.
    pub id: Uuid,
    /// Who approved it; `None` while it is to be decided on, or where somebody runs it.
    pub approved_by: Option<String>,
    /// The branch has changed since it was made.
    pub moved: bool,
}

impl Noted {
    /// What its commit is for, where nobody says anything else.
    pub fn message(&self) -> String {
        let by = self.approved_by.as_deref().unwrap_or_default();
        format!("change request {}, approved by {by}", self.number)
    }
}

/// A run of an approved change request by its author.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The request's key.
    pub request: Uuid,
    /// The branch had changed since it was made.
    pub moved: bool,
}

/// What came of writing change requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enqueued {
    /// They are in the queue, in the order of the statements.
    Noted(Vec<Noted>),
    /// It was approved: the statement may go on, and nobody else applies it.
    Released,
    /// Somebody is just deciding on one of them, or applying it.
    Busy,
    /// The client waited, and it is not to be run: its number, and why.
    Closed(i64, String),
    /// The client waited until it cancelled the statement.
    Cancelled(i64),
    /// Why they could not be written.
    Failed(String),
}

/// Names and values of the settings that another connection needs to be like a session's own, in the client's encoding.
pub type Carried = Vec<(Vec<u8>, Vec<u8>)>;

/// A statement that is to be run on another branch, in a session of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errand {
    /// The branch.
    pub to: Arc<str>,
    /// The rule that sends it there.
    pub rule: String,
    /// The client's text.
    pub sql: Vec<u8>,
    /// The session's settings.
    pub carried: Carried,
}

/// Where a session wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The branch.
    pub to: String,
    /// The session's settings.
    pub carried: Carried,
}

/// What a session has on its server that another connection can be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Belongings {
    /// Settings, the session user and the role.
    pub carried: Carried,
    /// Parameters as the server has told the client of them.
    pub told: Carried,
    /// The Parse of each of its named statements.
    pub statements: Vec<Vec<u8>>,
    /// The Parse of its unnamed statement; empty without one.
    pub unnamed: Vec<u8>,
}

/// Why a session stays where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stays {
    /// Five characters.
    pub sqlstate: &'static str,
    /// The reason.
    pub because: String,
    /// What to do about it, where that is something else than usual.
    pub hint: Option<String>,
}

/// What came of an [`Errand`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Returned {
    /// The other branch's server answered.
    Answered {
        /// Its messages, without ReadyForQuery.
        frames: Vec<u8>,
        /// SQLSTATE and message of its error, if it is one.
        error: Option<(String, String)>,
        /// The body of its ReadyForQuery.
        ready: Vec<u8>,
    },
    /// It was never run, and why.
    Never(String),
    /// The connection broke; nobody knows whether it was run.
    Lost(String),
}

/// What the server told of a statement with an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It completed.
    Applied,
    /// It failed, or was never run.
    Failed {
        /// The server's SQLSTATE.
        sqlstate: String,
        /// The server's message.
        message: String,
    },
    /// Nothing: the connection ended.
    Nothing,
}

/// A transaction with logged statements that was prepared: its end may come from any session, days later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedTransaction {
    /// Its name.
    pub gid: String,
    /// The keys of its statements' facts.
    pub statements: Vec<Uuid>,
}

/// Whether a change made by this session can be recorded now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recording {
    /// The database is no branch: nothing has to be recorded.
    NotRequired,
    /// Schema, capture and recorder were seen working.
    Ready(Means),
    /// Something is missing: DDL waits, then is refused with `PG003`.
    Broken,
}

/// What changes of a database are recorded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Means {
    /// Who sees the changes.
    pub capture: Capture,
    /// Signs the session's own calls of the recording procedure.
    pub key: Key,
}

/// Who sees the changes of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// Event triggers; the session adds calls only for what they never report.
    Trigger,
    /// Calls that the session adds to the client's statements.
    Inject,
}

impl Capture {
    /// The word in `history.capture` and `pggit.history.captured_by`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trigger => "trigger",
            Self::Inject => "inject",
        }
    }
}

/// A database's `pggit.companion_key`. Never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(pub [u8; 64]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}
