//! One client's conversation, without IO: bytes in, bytes out, and the facts they made.
//!
//! The driver reads into a [`Pipe`], calls [`Session::from_client`] or [`Session::from_server`], and writes what they
//! let pass. In between, statements are classified ([`client`]) and judged ([`judge`]), the answers that the server owes are
//! kept in a ledger ([`ledger`]), schema changes checked ([`lint`]), refused statements are replaced ([`refusal`]), others wait
//! for approval ([`queue`]), go elsewhere ([`reroute`]) or move the whole session ([`moving`]); a session may change its server
//! process ([`hold`]). Outcomes become known ([`server`], [`transaction`]). What the server's triggers cannot record, calls of
//! ours do ([`companion`]). Functions that a client calls may ask for something ([`ask`]). Rows and COPY data are never looked
//! into and never held whole.

mod ask;
mod client;
mod companion;
mod guard;
mod hold;
mod intent;
mod judge;
mod ledger;
mod lint;
mod look;
mod moving;
mod prepared;
mod queue;
mod refusal;
mod reroute;
mod server;
mod transaction;
mod turn;
mod unnamed;
mod unrecorded;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use crate::change::{
    ChangeRequest, Errand, Intended, Intent, Move, Outcome, PreparedTransaction, Recording, Returned, SessionFacts,
    StatementFact, Told, VerdictKind,
};
use crate::policy::lint::Check;
use crate::policy::{Policy, Refusal, Who};
use crate::sql::{Class, Encoding};
use crate::wire::frame::BadLength;
use crate::wire::pipe::Pipe;

pub use ask::{Ask, Asked, Wanted};
pub use companion::recording_calls;
use intent::Intents;
use ledger::{Kind, Ledger, Watched};
use prepared::{Names, Prepared};
use refusal::Refused;
use transaction::Transaction;

/// Messages of the extended protocol, up to their Sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batch {
    /// None since the last Sync.
    Closed,
    /// Some.
    Open,
    /// Some, and a Query or a function call after them. PostgreSQL 18 goes on with the batch behind it, 15 does not: the
    /// transaction state in its ReadyForQuery says which.
    Interrupted,
}

/// One client's conversation.
pub struct Session {
    facts: Arc<SessionFacts>,
    application: String,
    encoding: Encoding,
    /// What the client gets in place of the server's cancel secret.
    secret: [u8; 32],
    /// A replication connection: its commands are no SQL.
    replication: bool,
    ledger: Ledger,
    statements: Names,
    unnamed: unnamed::Unnamed,
    portals: Names,
    transaction: Transaction,
    /// The rest of a frame from the client whose head is judged.
    client_rest: Rest,
    /// Bytes of a frame from the server that pass unread.
    server_rest: usize,
    /// What the recorder said of the statement that was held.
    answer: Option<Recording>,
    /// Intents of statements that cannot run inside a transaction.
    intent: Intents,
    /// The statement at the front, where a rule queues it.
    queue: queue::Front,
    /// The statement at the front, where a rule reroutes it.
    errand: reroute::Front,
    /// The statement at the front, where it moves the session to another branch.
    moving: moving::Front,
    /// The statements at the front, where they are checked.
    lint: lint::Front,
    /// The server's major version.
    version: u32,
    /// It is itself on an errand: its one statement was sent here by a rule, and goes no further.
    on_errand: bool,
    /// What its own server is asked.
    look: look::Look,
    /// Settings whose values only their names tell.
    customs: look::Customs,
    /// What is known of the session's settings.
    settings: queue::Settings,
    /// Whether the client writes UTF-8.
    is_utf8: bool,
    refusals: u32,
    /// How many companions and looks were sent as messages: their names.
    calls: u32,
    /// What the client has sent of the extended protocol since its last Sync.
    batch: Batch,
    /// Statements of the extended protocol that completed since the last ReadyForQuery.
    executed: u32,
    /// Whether one of these has passed.
    begun: bool,
    /// Whether something was executed since then.
    ran: bool,
    /// A completion that waits for its companion's.
    held: Option<Held>,
    /// Set by Terminate.
    terminated: bool,
    /// The server sent a FATAL error: the client knows why the connection ends.
    fatal: bool,
    origin: Instant,
}

/// A statement that completed, of which the client hears when it is recorded.
struct Held {
    step: transaction::Step,
    /// Its CommandComplete.
    frame: Vec<u8>,
}

/// What happens to the rest of a frame, once its head is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Pass(usize),
    Drop(usize),
}

/// What the session may look at while it judges.
pub struct Env<'a> {
    /// The rules in force.
    pub policy: &'a Policy,
    /// Whether a change can be recorded now; asked for DDL and role changes only.
    pub recording: &'a dyn Fn() -> Recording,
    /// Why it cannot, for the error's DETAIL.
    pub broken_because: &'a dyn Fn() -> String,
    /// When the bytes were read.
    pub now: Instant,
    /// The same as a time of day; asked for logged statements only.
    pub wall: fn() -> SystemTime,
    /// A new row's key.
    pub new_id: fn() -> uuid::Uuid,
    /// Bounds.
    pub limits: Limits,
}

/// The session's bounds; see `[limits]` in the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longer statement texts are relayed unread, bytes.
    pub max_statement_parse: usize,
    /// Named prepared statements whose class is remembered.
    pub max_prepared: usize,
    /// Bytes of a statement that are logged.
    pub max_logged_sql: usize,
}

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Read more.
    Read,
    /// Ask the recorder, tell it to [`Session::recorder_answered`], and call again with the same bytes. Where
    /// [`Effects::intent`] is set it has to be written, and [`Session::intent_answered`] be told.
    /// Where [`Effects::check`] is set it has to be run, and [`Session::checked`] be told. Where [`Effects::requests`] has any,
    /// [`Session::requests_answered`]; where [`Effects::errand`] is set, [`Session::errand_returned`].
    AskRecorder,
    /// Wait until [`Session::awaits_answers`] is false, and call again with the same bytes.
    AwaitServer,
}

/// What happened that others want to know. Reused from call to call, so that nothing is allocated.
#[derive(Default)]
pub struct Effects {
    /// Statements that were answered, and how long that took.
    pub statements: Vec<(Class, Duration)>,
    /// Logged statements whose outcome is known.
    pub facts: Vec<StatementFact>,
    /// Verdicts on statements that were judged by a rule, or could have been recorded.
    pub verdicts: Vec<VerdictKind>,
    /// `application_name` has changed.
    pub application: Option<String>,
    /// The server's cancel key: process id and secret.
    pub key: Option<(u32, Vec<u8>)>,
    /// The session became ready for the first time.
    pub ready: bool,
    /// The server refused the login, with this SQLSTATE.
    pub login_failed: Option<String>,
    /// Errors the server answered with.
    pub errors: u64,
    /// Changes that the server undid because it could not record them.
    pub unrecorded: u64,
    /// To be written before the statement at the front passes.
    pub intent: Option<Box<Intent>>,
    /// To be written before the statement at the front is answered.
    pub requests: Vec<ChangeRequest>,
    /// To be run on another branch before the statement at the front is answered.
    pub errand: Option<Box<Errand>>,
    /// To be done before the statement at the front is judged again, by the session that comes after this one; or
    /// [`Session::cannot_move`] is told why not.
    pub moving: Option<Box<Move>>,
    /// To be checked before the statement at the front passes; [`Session::checked`] is told what was found.
    pub check: Option<Box<Check>>,
    /// Rules of lint that statements came under.
    pub findings: Vec<String>,
    /// For the client, behind what the server has sent so far.
    pub reply: Vec<u8>,
    /// Intents whose statement was answered, or never will be.
    pub settled: Vec<(Uuid, Told)>,
    /// Transactions that were prepared.
    pub prepared: Vec<PreparedTransaction>,
    /// What functions of ours, which the client called, ask of the proxy.
    pub asked: Vec<Asked>,
    /// Some prepared transaction has ended.
    pub prepared_ended: bool,
}

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Not logged in yet.
    Login,
    /// Nothing owed, no transaction.
    Idle,
    /// The server owes a reply.
    Active,
    /// Nothing owed, in a transaction.
    IdleInTransaction,
}

impl Session {
    /// A session whose start-up packet is on its way to the server.
    pub fn new(
        facts: Arc<SessionFacts>,
        application: String,
        secret: [u8; 32],
        replication: bool,
        now: Instant,
    ) -> Self {
        let mut ledger = Ledger::default();
        ledger.push(Kind::Startup, Class::Other, 0, None);
        Self {
            facts,
            application,
            encoding: Encoding::default(),
            secret,
            replication,
            ledger,
            statements: Names::default(),
            unnamed: unnamed::Unnamed::default(),
            portals: Names::default(),
            transaction: Transaction::default(),
            client_rest: Rest::Pass(0),
            server_rest: 0,
            answer: None,
            intent: Intents::default(),
            queue: queue::Front::default(),
            errand: reroute::Front::default(),
            moving: moving::Front::default(),
            lint: lint::Front::default(),
            version: 0,
            on_errand: false,
            look: look::Look::default(),
            customs: look::Customs::default(),
            settings: queue::Settings::default(),
            is_utf8: false,
            refusals: 0,
            calls: 0,
            batch: Batch::Closed,
            executed: 0,
            begun: false,
            ran: false,
            held: None,
            terminated: false,
            fatal: false,
            origin: now,
        }
    }

    /// Judges what the client sent. On an error the session has to end with 08P01.
    pub fn from_client(
        &mut self,
        pipe: &mut Pipe,
        env: &Env<'_>,
        classifier: &mut crate::sql::Classifier,
        fx: &mut Effects,
    ) -> Result<Next, BadLength> {
        client::judge(self, pipe, env, classifier, fx)
    }

    /// Matches what the server sent with what it owed.
    pub fn from_server(&mut self, pipe: &mut Pipe, env: &Env<'_>, fx: &mut Effects) -> Result<(), BadLength> {
        server::relay(self, pipe, env, fx)
    }

    /// The answer to [`Next::AskRecorder`].
    pub fn recorder_answered(&mut self, answer: Recording) {
        self.answer = Some(answer);
    }

    /// What came of writing [`Effects::intent`].
    pub fn intent_answered(&mut self, answer: Intended) {
        if answer == Intended::NotRequired {
            self.answer = Some(Recording::NotRequired);
        }
        self.intent.answered(answer);
    }

    /// As [`Session::new`], for one statement that a rule sent to this branch.
    pub fn on_errand(mut self) -> Self {
        self.on_errand = true;
        self
    }

    /// What came of [`Effects::errand`].
    pub fn errand_returned(&mut self, returned: Returned) {
        self.errand.returned(returned);
    }

    /// Whether what is put behind the bytes from the server that were judged stands between two messages.
    pub fn is_between_messages(&self) -> bool {
        self.server_rest == 0
    }

    /// The connection has ended: settles what is still open.
    pub fn ended(&mut self, now: Instant, fx: &mut Effects) {
        let mut commit_under_way = false;
        if let Some(fact) = self.held.take().and_then(|held| held.step.fact) {
            fx.facts.push(finished(*fact, Outcome::Unknown, self.origin, now));
        }
        for watched in self.ledger.drain() {
            let steps = match watched {
                Watched::Query(script) => script.steps,
                Watched::Execute(step) => [step].into(),
                Watched::Parse(..) | Watched::Bind(_) => continue,
            };
            for step in steps {
                commit_under_way |= may_end_transaction(&step);
                self.intent.settle(step.intent, Told::Nothing);
                if let Some(fact) = step.fact {
                    // In autocommit the server may have committed it before the connection broke.
                    fx.facts.push(finished(*fact, Outcome::Unknown, self.origin, now));
                }
            }
        }
        self.errand_ended(now, fx);
        self.transaction.ended(commit_under_way, &mut fx.facts);
        self.intent.lost(fx);
    }

    /// What it is doing.
    pub fn activity(&mut self) -> Activity {
        match self.ledger.front() {
            Some(owed) if owed.kind == Kind::Startup => Activity::Login,
            Some(_) => Activity::Active,
            None if self.transaction.status == b'I' => Activity::Idle,
            None => Activity::IdleInTransaction,
        }
    }

    /// Whether messages of the extended protocol were sent whose end has not been: a Sync, or a Query, which the server
    /// answers with ReadyForQuery too.
    pub fn in_batch(&self) -> bool {
        self.batch == Batch::Open
    }

    /// How many answers the server owes.
    pub fn owed(&self) -> usize {
        self.ledger.len()
    }

    /// Whether a message of our own may be put into the stream to the client: no frame is cut there.
    pub fn at_boundary(&self, to_client: &Pipe) -> bool {
        self.server_rest == 0 && to_client.incoming().is_empty()
    }

    /// Whether the end of the connection needs no explanation: the client said Terminate, or the server FATAL.
    pub fn is_explained(&self) -> bool {
        self.terminated || self.fatal
    }

    /// The server's last message came only in part: nothing can be said to the client any more.
    pub fn cut_short(&mut self) {
        self.fatal = true;
    }

    /// Microseconds of the session's life, wrapping.
    fn micros(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.origin).as_micros() as u32
    }

    fn who(&self) -> Who<'_> {
        Who {
            branch: self.facts.branch.as_deref(),
            user: &self.facts.user,
            application: &self.application,
            client: self.facts.client_addr,
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Refused {
        self.refusals = self.refusals.wrapping_add(1);
        Refused { number: self.refusals, refusal, always: self.lint.has_failed() }
    }
}

/// COMMIT, PREPARE TRANSACTION, or a text that nobody read.
fn may_end_transaction(step: &transaction::Step) -> bool {
    matches!(step.control, Some(crate::sql::Control::Commit | crate::sql::Control::Prepare(_)))
        || step.fact.as_ref().is_some_and(|fact| fact.tag.is_empty())
}

/// Fills in what became of it. `started_at` holds the time of day; the duration counts from the session's clock.
fn finished(mut fact: StatementFact, outcome: Outcome, origin: Instant, now: Instant) -> StatementFact {
    fact.outcome = outcome;
    fact.duration = now.saturating_duration_since(origin).saturating_sub(fact.duration);
    fact
}

impl Prepared {
    fn plain(class: Class) -> Self {
        Self { class, text: None, means: None, held: false, bound: false }
    }
}
