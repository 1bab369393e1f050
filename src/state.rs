//! The state that the proxy, the control port and the HTTP endpoint share; made once by `serve`.

mod holds;
mod pause;
mod quota;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures::task::AtomicWaker;
use tokio::sync::watch;

use crate::branch::Branches;
use crate::change::SessionFacts;
use crate::config::{Config, Problem};
use crate::history::{History, Says};
use crate::policy::Policy;
use crate::telemetry::Metrics;

pub use holds::Holds;
pub use pause::Pause;
pub use quota::{Full, Most, Quota};

/// Everything that outlives a session.
pub struct Shared {
    /// The configuration in force.
    pub config: ArcSwap<Config>,
    /// The file it came from, for `RELOAD`.
    pub config_path: Option<PathBuf>,
    /// Rules, freezes and protected branches in force.
    pub policy: ArcSwap<Policy>,
    /// The branches known now: configuration and `pggit.branches`.
    pub branches: ArcSwap<Branches>,
    /// Every client connection.
    pub clients: Clients,
    /// Pre-registered metric handles.
    pub metrics: Metrics,
    /// The recorder: statement log, queries on the history, freezes, health.
    pub history: History,
    /// Whether the process takes clients, drains or ends.
    pub life: watch::Sender<Life>,
    /// For uptimes.
    pub started: Instant,
}

/// Held while rules and branches are put in force: whoever read earlier must not overwrite what was read later.
static APPLYING: Mutex<()> = Mutex::new(());

/// The process' own state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// Taking clients.
    Serving,
    /// No new clients; idle sessions end with 57P01, busy ones may finish their transaction.
    Draining,
    /// Everybody ends now.
    Ending,
}

impl Shared {
    /// Reads the file again and puts what can change in force for what comes next; sessions stay. Returns the keys
    /// whose new value waits for a restart. On any problem nothing changes.
    pub fn reload(&self) -> Result<Vec<String>, Vec<Problem>> {
        let Some(path) = &self.config_path else { return Ok(Vec::new()) };
        let running = self.config.load_full();
        let mut config = Config::load(path)?.with_overrides(running.overrides.clone())?;
        let waiting = config.keep_what_needs_a_restart(&running);
        if let Some(message) = config.unsound_passthrough() {
            // The file may name another server, which waits for a restart.
            return Err(vec![Problem { place: "auth.mode".to_owned(), message }]);
        }
        crate::telemetry::set_log_level(&config.log.level);
        self.apply(config);
        // Sessions that are idle begin to count by the new limits.
        self.clients.wake_all();
        Ok(waiting)
    }

    /// Puts a configuration in force.
    pub fn apply(&self, config: Config) {
        let _one_at_a_time = APPLYING.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = self.history.branch_rows();
        let branches = config.branches(&rows);
        let policy = config.policy(&branches, &self.history.freezes());
        self.history.watch_branches(&branches);
        self.branches.store(Arc::new(branches));
        self.policy.store(Arc::new(policy));
        self.config.store(Arc::new(config));
    }

    /// After the recorder saw branches, freezes or holds change.
    pub fn refresh(&self) {
        let _one_at_a_time = APPLYING.lock().unwrap_or_else(PoisonError::into_inner);
        let config = self.config.load_full();
        let branches = config.branches(&self.history.branch_rows());
        self.policy.store(Arc::new(config.policy(&branches, &self.history.freezes())));
        self.history.watch_branches(&branches);
        self.branches.store(Arc::new(branches));
        if self.clients.holds.set(self.history.holds()) {
            self.clients.wake_all();
        }
    }

    /// Moves the process towards its end; never back.
    pub fn advance(&self, to: Life) {
        self.life.send_if_modified(|now| {
            let later = *now < to;
            if later {
                *now = to;
            }
            later
        });
        self.clients.closing.fetch_max(to as u8, Ordering::AcqRel);
        self.clients.wake_all();
    }

    /// Holds clients, or lets them go on; false when it was so already.
    pub fn pause(&self, on: bool) -> bool {
        let changed = self.clients.pause.set(on);
        self.clients.wake_all();
        changed
    }
}

/// Every client connection, by its number.
#[derive(Default)]
pub struct Clients {
    next: AtomicU64,
    count: AtomicU32,
    /// [`Life`] as a number, for the sessions' tasks to look at on their way.
    closing: AtomicU8,
    /// `PAUSE` and `RESUME`.
    pub pause: Pause,
    /// Branches that are just copied.
    pub holds: Holds,
    /// Clients of each user and branch.
    pub quota: Quota,
    all: Mutex<HashMap<u64, Arc<Client>>>,
}

/// What others may know of one client connection, and how they reach its task.
pub struct Client {
    /// The number that `SHOW CLIENTS` shows and `KILL` takes.
    pub id: u64,
    /// The client's address; `None` for a unix socket. Behind a load balancer it may become another one.
    pub peer: ArcSwapOption<SocketAddr>,
    /// When it connected.
    pub connected_at: SystemTime,
    /// Set at login; others when the session moves to another branch.
    pub facts: ArcSwapOption<SessionFacts>,
    /// The version of TLS with the client, where there is TLS.
    pub tls: std::sync::OnceLock<&'static str>,
    /// `application_name` now.
    pub application: Mutex<String>,
    /// The server's address, as it is dialled: host and port, or the socket. Set when it is connected.
    pub server: ArcSwapOption<String>,
    /// The server's process id of this session; 0 before login.
    pub backend_pid: AtomicU32,
    /// See [`ClientState`].
    pub state: AtomicU8,
    /// Statements so far.
    pub statements: AtomicU64,
    /// Bytes from the client so far.
    pub bytes_in: AtomicU64,
    /// Bytes to the client so far.
    pub bytes_out: AtomicU64,
    killed: AtomicBool,
    /// Whether its statement waits for a decision, and was cancelled meanwhile.
    decision: AtomicU8,
    /// What it said when it was asked whether it could be held, and by which hold.
    hold: Mutex<Option<(uuid::Uuid, Says)>>,
    /// It waits to be let in, and is not connected to the server.
    pub at_gate: AtomicBool,
    /// The session task's waker.
    pub waker: AtomicWaker,
}

/// What a client's session is doing, as `SHOW CLIENTS` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ClientState {
    /// Start-up and authentication.
    Login,
    /// Nothing owed, no transaction.
    Idle,
    /// The server owes a reply.
    Active,
    /// Nothing owed, in a transaction.
    IdleInTransaction,
    /// A statement waits for the recorder.
    Waiting,
    /// Held by `PAUSE`.
    Paused,
    /// Held while its branch is copied.
    Held,
}

impl ClientState {
    /// The word in `SHOW CLIENTS`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Idle => "idle",
            Self::Active => "active",
            Self::IdleInTransaction => "idle in transaction",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Held => "held",
        }
    }
}

impl Clients {
    /// A place for a new client, or `None` when `max` are there already.
    pub fn admit(&self, max: u32, peer: Option<SocketAddr>) -> Option<Arc<Client>> {
        self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < max).then_some(n + 1)).ok()?;
        let client = Arc::new(Client::new(self.next.fetch_add(1, Ordering::Relaxed) + 1, peer));
        self.lock().insert(client.id, client.clone());
        Some(client)
    }

    /// Takes the client out.
    pub fn leave(&self, client: &Client) {
        if self.lock().remove(&client.id).is_some() {
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// All of them now, by number.
    pub fn list(&self) -> Vec<Arc<Client>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|client| client.id);
        all
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends one client's session with 57P01; false when there is no such client.
    pub fn kill(&self, id: u64) -> bool {
        let Some(client) = self.lock().get(&id).cloned() else { return false };
        client.killed.store(true, Ordering::Release);
        client.waker.wake();
        true
    }

    /// Whether idle sessions are to end.
    pub fn is_draining(&self) -> bool {
        self.closing.load(Ordering::Acquire) >= Life::Draining as u8
    }

    /// Whether all sessions are to end.
    pub fn is_ending(&self) -> bool {
        self.closing.load(Ordering::Acquire) >= Life::Ending as u8
    }

    /// Lets every session look at the process' state.
    pub fn wake_all(&self) {
        for client in self.lock().values() {
            client.waker.wake();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Client>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`Client`]'s statement waits for no decision.
const NO_DECISION: u8 = 0;
/// It does.
const AWAITED: u8 = 1;
/// It did, and was cancelled.
const CANCELLED: u8 = 2;

impl Client {
    /// One that is not listed.
    pub fn new(id: u64, peer: Option<SocketAddr>) -> Self {
        Self {
            id,
            peer: ArcSwapOption::from_pointee(peer),
            server: ArcSwapOption::empty(),
            connected_at: SystemTime::now(),
            facts: ArcSwapOption::empty(),
            tls: std::sync::OnceLock::new(),
            application: Mutex::new(String::new()),
            backend_pid: AtomicU32::new(0),
            state: AtomicU8::new(ClientState::Login as u8),
            statements: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            killed: AtomicBool::new(false),
            decision: AtomicU8::new(NO_DECISION),
            hold: Mutex::default(),
            at_gate: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// Its statement waits for a decision from now on, or does so no longer.
    pub fn await_decision(&self, waits: bool) {
        self.decision.store(if waits { AWAITED } else { NO_DECISION }, Ordering::Release);
    }

    /// Cancels the statement where it waits for a decision; false where it does not.
    pub fn cancel_waiting(&self) -> bool {
        let waits = self.decision.compare_exchange(AWAITED, CANCELLED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if waits {
            self.waker.wake();
        }
        waits
    }

    /// Whether the statement that waits was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.decision.load(Ordering::Acquire) == CANCELLED
    }

    /// Whether `KILL` named this client.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// For `SHOW CLIENTS`.
    pub fn client_state(&self) -> ClientState {
        match self.state.load(Ordering::Relaxed) {
            1 => ClientState::Idle,
            2 => ClientState::Active,
            3 => ClientState::IdleInTransaction,
            4 => ClientState::Waiting,
            5 => ClientState::Paused,
            6 => ClientState::Held,
            _ => ClientState::Login,
        }
    }
}
