//! The recorder: its own connections to the server, the statement log, what it knows of each branch.
//!
//! ```text
//! log() ─> queue ─> recorder ─> pggit.statements          one task, one connection to the main database
//! tables: LISTEN, pggit.branches, pggit.freezes ─> changed()   one task, one connection to the main database
//! health: one look at each branch, every 2 s or when asked     one task a branch, connections of a moment
//! holds: branches that are just copied with their data, and what the sessions on them say     by `tables`
//! heartbeat: a sign of life in each branch's database, now and then, by the same look
//! intents: what cannot run in a transaction, before and after  connections of a moment; health looks for lost ones
//! changes, apply: what rules queued, and what was approved of it     connections of a moment
//! seal: the hash chain of each branch, when a look saw commits that wait     one task a branch, connections of a moment
//! verify: the whole chain again; run by the command line, not by the recorder
//! ask: what functions that a client called want of the proxy, and the answers to them
//! branching: makes, changes and drops branches when asked; sweeps what was left half made
//! on_demand: makes a branch because somebody connects to it
//! export: the history of a branch as rows, as a script, as a git repository; run by the command line
//! probe: unrecorded changes, one look where a counter moved       one task a branch, connections of a moment
//! migrate: the schema itself; run by the command line, not by the recorder
//! ```
//!
//! History rows themselves are written by event triggers in the client's own transaction; from here only the probe's, for
//! what the triggers did not see.

mod applied;
mod apply;
mod ask;
pub mod branching;
mod changes;
mod connect;
pub mod export;
mod health;
mod heartbeat;
mod holds;
mod hosts;
mod intents;
pub mod migrate;
mod name;
mod on_demand;
mod probe;
mod queue;
mod recorder;
mod seal;
mod secrets;
mod store;
mod tables;
pub mod verify;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

pub use self::changes::{ChangeError, Decision};
pub(crate) use self::connect::in_words;
pub use self::connect::{APPLICATION_NAME, RecorderError, Server};
pub use self::holds::{Claim, Hold, Says};

use self::branching::{
    Alteration, Blamed, BranchError, BranchFacts, Difference, Fact, Force, Moment, NewBranch, Stage,
};
use self::connect::Condition;
use self::health::Watched;
use self::probe::Probed;
use self::queue::Queue;
use self::store::Tables;
use self::tables::Known;
use crate::branch::{Branch, Branches, Origin};
use crate::change::{Recording, SessionFacts, StatementFact};
use crate::config::Config;
use crate::policy::Freeze;
use crate::session::Asked;

/// So many questions of operators are answered together; others wait.
const READERS: usize = 4;

/// A handle on the recorder; cheap to clone. The recorder ends when the last one is dropped.
/// The default one has no recorder behind it: every branch is `Broken`, and facts only wait.
#[derive(Clone, Default)]
pub struct History {
    running: Option<Arc<Running>>,
}

/// One line of `SHOW HEALTH`, `pggit.health_check()` and `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthRow {
    /// The branch it was checked on; empty for the process itself.
    pub branch: String,
    /// What was checked.
    pub check: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was found.
    pub message: String,
}

impl HealthRow {
    /// Whether changes are refused while this is not well. Sealing and probing can be made up for later.
    pub fn is_needed(&self) -> bool {
        self.check != seal::CHECK && self.check != probe::CHECK
    }
}

/// A table of texts from the server, for the control port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Column names.
    pub columns: Vec<String>,
    /// Values; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

/// Ends the tasks when the last handle goes.
struct Running {
    inner: Arc<Inner>,
    tasks: Vec<AbortHandle>,
}

/// What tasks and handles share.
struct Inner {
    server: Arc<Server>,
    queue: Arc<Queue>,
    log: Arc<Condition>,
    /// The connection that follows branches and freezes.
    main: Condition,
    known: Known,
    holds: holds::Holds,
    /// The default branch, when the configuration does not declare it.
    implied: Option<String>,
    watched: ArcSwap<HashMap<String, Watching>>,
    /// Held while `watched` is replaced.
    watching: Mutex<()>,
    /// How many branches are watched.
    branches: Arc<AtomicUsize>,
    places: Arc<Semaphore>,
    sealing: Arc<Semaphore>,
    /// As `places`, for the probe.
    probing: Arc<Semaphore>,
    /// Changes that the probe recorded.
    probed: Arc<AtomicU64>,
    readers: Semaphore,
    /// Branches that are being made because somebody connects to them.
    on_demand: on_demand::OnDemand,
    secrets: Arc<secrets::Secrets>,
    runtime: runtime::Handle,
    changed: Box<dyn Fn() + Send + Sync>,
}

/// A watched branch and the tasks that look at it, seal it and probe it.
#[derive(Clone)]
struct Watching {
    watched: Arc<Watched>,
    probed: Arc<Probed>,
    _tasks: Arc<[Task; 3]>,
}

struct Task(AbortHandle);

impl History {
    /// Starts the recorder's tasks on the current runtime; the server need not be there yet. `changed` is called
    /// after branches or freezes changed, when [`Self::branch_rows`] and [`Self::freezes`] have the new ones.
    pub fn start(config: &Config, changed: impl Fn() + Send + Sync + 'static) -> Self {
        let inner = Arc::new(Inner {
            server: Arc::new(Server::new(&config.upstream, config.history.capture, config.branches.pg_dump.clone())),
            queue: Arc::new(Queue::new(config.history.queue, queue::MAX_BYTES)),
            log: Arc::new(Condition::new("the statement log")),
            main: Condition::new("the recorder's connection"),
            known: Known::default(),
            holds: holds::Holds::default(),
            implied: implied(config),
            watched: ArcSwap::default(),
            watching: Mutex::default(),
            branches: Arc::default(),
            places: Arc::new(Semaphore::new(health::AT_ONCE)),
            sealing: Arc::new(Semaphore::new(seal::AT_ONCE)),
            probing: Arc::new(Semaphore::new(probe::PROBED_AT_ONCE)),
            probed: Arc::default(),
            readers: Semaphore::new(READERS),
            on_demand: on_demand::OnDemand::default(),
            secrets: Arc::default(),
            runtime: runtime::Handle::current(),
            changed: Box::new(changed),
        });
        let write = recorder::write(inner.server.clone(), inner.queue.clone(), inner.log.clone());
        let tasks = vec![
            inner.runtime.spawn(write).abort_handle(),
            inner.runtime.spawn(tables::follow(inner.clone())).abort_handle(),
            inner.runtime.spawn(branching::keep_sweeping(inner.clone())).abort_handle(),
        ];
        let history = Self { running: Some(Arc::new(Running { inner, tasks })) };
        history.watch_branches(&config.branches(&[]));
        history
    }

    /// Which of the server's hosts clients' sessions may be on now, by their place in the configuration's list, the best
    /// first; or why none will do.
    pub async fn hosts_for_sessions(&self) -> Result<Vec<usize>, String> {
        match self.inner() {
            Some(inner) => inner.server.for_sessions().await,
            None => Ok(vec![0]),
        }
    }

    /// A connection to this host failed: what is known of it is asked again.
    pub fn host_failed(&self, host: usize) {
        if let Some(inner) = self.inner() {
            inner.server.host_failed(host);
        }
    }

    /// Tells the recorder which branches there are, after a reload. Declared ones are written to `pggit.branches`.
    pub fn watch_branches(&self, branches: &Branches) {
        let Some(inner) = self.inner() else { return };
        let declared = branches.all.iter().filter(|branch| branch.origin == Origin::Configuration);
        inner.known.declare(declared.cloned().collect());
        inner.watch();
    }

    /// Rows of `pggit.branches` in the main database, as last read; without those that a configuration declares.
    pub fn branch_rows(&self) -> Vec<Branch> {
        self.inner().map(|inner| inner.known.tables().branches).unwrap_or_default()
    }

    /// Branches frozen by an operator, as last read.
    pub fn freezes(&self) -> Vec<Freeze> {
        self.inner().map(|inner| inner.known.tables().freezes).unwrap_or_default()
    }

    /// Whether branches and freezes were read at least once, and are in force.
    pub fn knows_freezes(&self) -> bool {
        self.inner().is_some_and(|inner| inner.known.is_read())
    }

    /// Branches whose sessions are held while a copy is made, as last read.
    pub fn holds(&self) -> Arc<Vec<Hold>> {
        self.inner().map(|inner| inner.holds.now()).unwrap_or_default()
    }

    /// Who answers for this proxy's sessions on branches that are held.
    pub fn answer_holds_with(&self, claims: impl Fn(&Hold) -> Vec<Claim> + Send + Sync + 'static) {
        if let Some(inner) = self.inner() {
            inner.holds.answer_with(Box::new(claims));
        }
    }

    /// What the server stores of a user's password, by the configured query.
    pub async fn stored_password(&self, query: &str, user: &str) -> anyhow::Result<secrets::Stored> {
        let inner = self.running()?;
        let (secrets, server) = (inner.secrets.clone(), inner.server.clone());
        let (query, user) = (query.to_owned(), user.to_owned());
        // On the recorder's runtime: its connections outlive the client's thread.
        let asked = inner.runtime.spawn(async move { secrets.stored(&server, &query, &user).await });
        Ok(asked.await??)
    }

    /// Whether a change on this branch can be recorded now. No IO, no lock held for long.
    pub fn recording(&self, branch: &str) -> Recording {
        match self.watched(branch) {
            // Before the first read a freeze of the branch may be in force and not known here.
            Some(watched) if self.inner().is_some_and(|inner| inner.known.is_read()) => watched.recording(),
            Some(_) | None => Recording::Broken,
        }
    }

    /// Waits until [`Self::recording`] is no longer `Broken`, at most `timeout`; returns what it is then.
    /// The branch is looked at in the meantime. Cancel safe.
    pub async fn wait_recording(&self, branch: &str, timeout: Duration) -> Recording {
        let (Some(inner), Some(watched)) = (self.inner(), self.watched(branch)) else { return Recording::Broken };
        let deadline = Instant::now() + timeout;
        if tokio::time::timeout(timeout, inner.known.first_read()).await.is_err() {
            return Recording::Broken;
        }
        match watched.recording() {
            Recording::Broken => watched.wait(deadline.saturating_duration_since(Instant::now())).await,
            known @ (Recording::Ready(_) | Recording::NotRequired) => known,
        }
    }

    /// Why the branch is `Broken`, for the error's DETAIL.
    pub fn broken_because(&self, branch: &str) -> String {
        match (self.inner(), self.watched(branch)) {
            (None, _) => RecorderError::NotRunning.to_string(),
            (Some(_), None) => RecorderError::UnknownBranch(branch.to_owned()).to_string(),
            (Some(inner), Some(_)) if !inner.known.is_read() => {
                let why = inner.main.trouble().unwrap_or_default();
                format!("it is not known yet whether the branch is frozen: {why}")
            }
            (Some(_), Some(watched)) => watched.reason(),
        }
    }

    /// Puts a fact into the statement log's queue; hands it back when the queue is full.
    #[allow(clippy::result_large_err, reason = "the fact itself comes back, to be waited for or counted as lost")]
    pub fn log(&self, fact: StatementFact) -> Result<(), StatementFact> {
        match self.inner() {
            Some(inner) => inner.queue.push(fact),
            None => Err(fact),
        }
    }

    /// As [`Self::log`], but waits for room. When cancelled, the fact may not be logged.
    pub async fn log_wait(&self, fact: StatementFact) {
        if let Some(inner) = self.inner() {
            inner.queue.push_wait(fact).await;
        }
    }

    /// Whether no fact could be written for at least so long.
    pub fn log_fails_for(&self, time: Duration) -> bool {
        self.inner().is_none_or(|inner| inner.log.fails_for(time))
    }

    /// Facts that wait to be written.
    pub fn pending(&self) -> usize {
        self.inner().map_or(0, |inner| inner.queue.len())
    }

    /// Changes that the probe recorded, because nothing else had.
    pub fn probed(&self) -> u64 {
        self.inner().map_or(0, |inner| inner.probed.load(Ordering::Relaxed))
    }

    /// Waits until every fact logged so far is written, at most `timeout`; false when it was too short, and then the
    /// log says what is missing. For the end of the process.
    pub async fn flush(&self, timeout: Duration) -> bool {
        let Some(inner) = self.inner() else { return true };
        let written = tokio::time::timeout(timeout, inner.queue.drained()).await.is_ok();
        if !written {
            recorder::report_lost(&inner.queue, &inner.log);
        }
        written
    }

    /// The newest rows of `pggit.history` of one branch, newest first; at most 10,000.
    pub async fn history(&self, branch: &str, limit: u32) -> anyhow::Result<Rows> {
        let inner = self.running()?;
        let watched = self.watched(branch).ok_or_else(|| RecorderError::UnknownBranch(branch.to_owned()))?;
        let _reader = inner.readers.acquire().await?;
        let mut connection = inner.server.connect(&watched.branch.database).await?;
        let rows = store::history(&mut connection, limit).await;
        recorder::close(connection).await;
        rows.map_err(tables::explained)
    }

    /// The newest rows of `pggit.statements`, newest first; at most 10,000.
    pub async fn statements(&self, limit: u32) -> anyhow::Result<Rows> {
        let inner = self.running()?;
        let _reader = inner.readers.acquire().await?;
        let mut connection = inner.server.connect(&inner.server.main).await?;
        let rows = store::statements(&mut connection, limit).await;
        recorder::close(connection).await;
        rows.map_err(tables::explained)
    }

    /// Records a freeze and puts it in force; false when there was one already. An error: not recorded, not in force.
    pub async fn freeze(&self, branch: &str, by: &str) -> anyhow::Result<bool> {
        let inner = self.running()?;
        let mut connection = inner.server.connect(&inner.server.main).await?;
        let new = store::freeze(&mut connection, branch, by).await.map_err(tables::explained)?;
        inner.reread(connection).await?;
        Ok(new)
    }

    /// Lifts a freeze; false when there was none.
    pub async fn thaw(&self, branch: &str, by: &str) -> anyhow::Result<bool> {
        let inner = self.running()?;
        let mut connection = inner.server.connect(&inner.server.main).await?;
        let lifted = store::thaw(&mut connection, branch, by).await.map_err(tables::explained)?;
        inner.reread(connection).await?;
        Ok(lifted)
    }

    /// Makes a branch; returns its database. It is known here from then on. The work goes on when nobody waits for it any more.
    pub async fn create_branch(&self, branches: Arc<Branches>, new: NewBranch) -> Result<String, BranchError> {
        self.at_work(move |inner| async move {
            let told = |stage: Stage| tracing::info!(branch = new.name, parent = new.parent, ?stage, "making a branch");
            branching::create(&inner.server, &branches, &new, &told).await
        })
        .await
    }

    /// Does what a function asked for, and answers it. `refresh` makes this proxy take note of what is new.
    pub async fn answer(&self, session: &SessionFacts, asked: Asked, branches: Arc<Branches>, refresh: impl FnOnce()) {
        ask::answer(self, session, asked, branches, refresh).await;
    }

    /// In what the second branch differs from the first.
    pub async fn diff(&self, branches: &Branches, from: &str, to: &str) -> Result<Vec<Difference>, BranchError> {
        let running = self.running.clone().ok_or(RecorderError::NotRunning)?;
        branching::diff(&running.inner.server, branches, from, to).await
    }

    /// The schema of a branch as it is or was.
    pub async fn schema(&self, branches: &Branches, branch: &str, moment: &Moment) -> Result<Vec<Fact>, BranchError> {
        let running = self.running.clone().ok_or(RecorderError::NotRunning)?;
        branching::schema(&running.inner.server, branches, branch, moment).await
    }

    /// Who touched the columns of a table last.
    pub async fn blame(&self, branches: &Branches, branch: &str, relation: &str) -> Result<Vec<Blamed>, BranchError> {
        let running = self.running.clone().ok_or(RecorderError::NotRunning)?;
        branching::blame(&running.inner.server, branches, branch, relation).await
    }

    /// Drops a branch and its database.
    pub async fn drop_branch(
        &self,
        branches: Arc<Branches>,
        name: String,
        by: String,
        force: Force,
    ) -> Result<(), BranchError> {
        self.at_work(move |inner| async move { branching::remove(&inner.server, &branches, &name, &by, force).await })
            .await
    }

    /// Protects or renames a branch.
    pub async fn alter_branch(
        &self,
        branches: Arc<Branches>,
        name: String,
        what: Alteration,
    ) -> Result<(), BranchError> {
        self.at_work(move |inner| async move { branching::alter(&inner.server, &branches, &name, &what).await }).await
    }

    /// What is known of each branch besides its row; empty where nothing is. One question, to the main database.
    pub async fn branch_facts(&self) -> HashMap<String, BranchFacts> {
        let Some(inner) = self.inner() else { return HashMap::new() };
        let rows = match inner.main.trouble() {
            // Nobody waits for a server that does not answer.
            Some(_) => Vec::new(),
            None => inner.read_facts().await.unwrap_or_default(),
        };
        let watched = inner.watched.load();
        branching::together(rows, watched.iter().map(|(name, watching)| (name.as_str(), &watching.watched.tip)))
    }

    /// Does what may take long on the recorder's runtime, to its end, and then reads the branches again: whoever asked finds
    /// them as they are now.
    async fn at_work<T, W>(&self, work: impl FnOnce(Arc<Inner>) -> W + Send + 'static) -> Result<T, BranchError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, BranchError>> + Send + 'static,
    {
        let running = self.running.clone().ok_or(RecorderError::NotRunning)?;
        let inner = running.inner.clone();
        let runtime = inner.runtime.clone();
        let done = runtime.spawn(async move {
            let _running = running;
            let done = work(inner.clone()).await;
            let connection = inner.server.connect(&inner.server.main).await?;
            inner.reread(connection).await?;
            done
        });
        done.await.unwrap_or_else(|_| Err(RecorderError::NotRunning.into()))
    }

    /// What the recorder last saw, for `SHOW HEALTH` and `/readyz`.
    pub fn health(&self) -> Vec<HealthRow> {
        let own = |check: &str, ok, message| HealthRow { branch: String::new(), check: check.into(), ok, message };
        let Some(inner) = self.inner() else {
            return vec![own("recorder", false, RecorderError::NotRunning.to_string())];
        };
        let trouble = inner.main.trouble();
        let mut rows =
            vec![own("recorder", trouble.is_none(), trouble.unwrap_or_else(|| "branches and freezes are read".into()))];
        rows.push(inner.log_health());
        let watched = inner.watched.load();
        let mut branches: Vec<_> = watched.values().collect();
        branches.sort_by(|a, b| a.watched.branch.name.cmp(&b.watched.branch.name));
        for watching in branches {
            rows.extend(watching.watched.rows());
            rows.push(watching.probed.row());
        }
        rows
    }

    fn inner(&self) -> Option<&Inner> {
        self.running.as_ref().map(|running| &*running.inner)
    }

    fn running(&self) -> Result<&Inner, RecorderError> {
        self.inner().ok_or(RecorderError::NotRunning)
    }

    fn watched(&self, branch: &str) -> Option<Arc<Watched>> {
        Some(self.inner()?.watched.load().get(branch)?.watched.clone())
    }
}

impl Inner {
    /// Takes over what was read from the main database, and tells who has to know.
    fn take_over(&self, ticket: u64, tables: Tables) {
        if self.known.finish_read(ticket, tables) {
            self.watch();
            (self.changed)();
        }
        self.known.published();
    }

    /// Reads branches and freezes again, on a connection that has just changed them.
    async fn reread(&self, mut connection: sqlx::PgConnection) -> Result<(), RecorderError> {
        let ticket = self.known.begin_read();
        let tables = store::read_tables(&mut connection).await?;
        recorder::close(connection).await;
        self.take_over(ticket, tables);
        Ok(())
    }

    async fn read_facts(&self) -> anyhow::Result<Vec<branching::FactsRow>> {
        let _reader = self.readers.acquire().await?;
        let mut connection = self.server.connect(&self.server.main).await?;
        let rows = branching::read_facts(&mut connection).await;
        recorder::close(connection).await;
        Ok(rows?)
    }

    /// Starts watching new branches, and stops for those that are gone or lie elsewhere now.
    fn watch(&self) {
        let _one_at_a_time = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        let branches = self.known.branches();
        self.branches.store(branches.len(), Ordering::Relaxed);
        let old = self.watched.load();
        let watching = |branch: &Arc<Branch>| {
            let known = old.get(&branch.name).filter(|known| known.watched.branch.database == branch.database);
            known.cloned().unwrap_or_else(|| self.look_at(branch.clone()))
        };
        let new = branches.iter().map(|branch| (branch.name.clone(), watching(branch))).collect();
        self.watched.store(Arc::new(new));
    }

    fn look_at(&self, branch: Arc<Branch>) -> Watching {
        let watched = Arc::new(Watched::new(branch.clone()));
        let looking =
            health::keep_looking(self.server.clone(), watched.clone(), self.places.clone(), self.branches.clone());
        let sealing = seal::keep_sealing(self.server.clone(), watched.clone(), self.sealing.clone());
        let probed = Arc::new(Probed::new(branch, self.probed.clone()));
        let probing =
            probe::keep_asking(self.server.clone(), probed.clone(), self.probing.clone(), self.branches.clone());
        let task = |handle: tokio::task::JoinHandle<()>| Task(handle.abort_handle());
        let tasks = [self.runtime.spawn(looking), self.runtime.spawn(sealing), self.runtime.spawn(probing)].map(task);
        Watching { watched, probed, _tasks: Arc::new(tasks) }
    }

    /// Has every branch looked at soon.
    fn check_all(&self) {
        for watching in self.watched.load().values() {
            watching.watched.look();
        }
    }

    fn log_health(&self) -> HealthRow {
        let (waiting, max) = (self.queue.len(), self.queue.max_facts());
        let (ok, message) = match self.log.trouble() {
            // Nothing written yet is no trouble as long as nothing waits.
            Some(reason) if waiting > 0 => (false, format!("{waiting} of at most {max} facts wait: {reason}")),
            Some(_) | None => (waiting < max, format!("{waiting} of at most {max} facts wait")),
        };
        HealthRow { branch: String::new(), check: "statement log".into(), ok, message }
    }
}

fn implied(config: &Config) -> Option<String> {
    let default = &config.branches.default;
    let declared = config.branches.declared.iter().any(|branch| branch.name == *default);
    (!declared).then(|| default.clone())
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.inner.watched.store(Arc::default());
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use uuid::Uuid;

    use super::*;
    use crate::change::{Outcome, SessionFacts, VerdictKind};
    use crate::sql::Class;

    pub(super) fn fact(sql: &str) -> StatementFact {
        let session = SessionFacts {
            id: Uuid::now_v7(),
            user: "alice".into(),
            database: "app".into(),
            branch: Some("main".into()),
            client_addr: None,
            client_port: 0,
            rerouted: None,
        };
        StatementFact {
            id: Uuid::now_v7(),
            session: Arc::new(session),
            tag: "CREATE TABLE",
            class: Class::Ddl,
            sql: sql.into(),
            verdict: VerdictKind::Allow,
            rule: None,
            outcome: Outcome::Applied,
            sqlstate: None,
            error: None,
            application_name: "test".into(),
            rerouted_to: None,
            request: None,
            started_at: SystemTime::now(),
            duration: Duration::from_millis(3),
        }
    }

    #[tokio::test]
    async fn without_a_recorder_every_branch_is_broken() {
        let history = History::default();
        assert_eq!(history.recording("main"), Recording::Broken);
        assert_eq!(history.broken_because("main"), "the recorder is not running");
        assert!(history.log(fact("create table t ()")).is_err());
        assert!(history.freeze("main", "x").await.is_err());
        assert!(history.health().iter().all(|row| !row.ok));
    }
}
