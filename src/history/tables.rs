//! What all proxies of a repository share: branches and freezes in the main database, kept up to date.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::{Notify, watch};

use super::connect::{Backoff, RecorderError, bounded};
use super::recorder::close;
use super::store::{self, Tables};
use super::{Inner, connect};
use crate::branch::Branch;

/// The channel of the triggers in `migrations/0006_proxy.up.sql`.
const CHANNEL: &str = "pggit";

/// Read at least so often, in case a notification was lost on the way.
const REREAD: Duration = Duration::from_secs(5);

/// While the `pggit` schema is not there.
const UNMIGRATED: Duration = Duration::from_secs(1);

/// Branches and freezes as last read, and what this process declares.
#[derive(Default)]
pub(super) struct Known {
    state: Mutex<State>,
    /// The declared branches are to be written again.
    pub redeclare: Notify,
    /// Whether the tables were read at all, and everybody knows what they say.
    read: watch::Sender<bool>,
    /// How often the tables were looked at: whoever waits for a decision looks again then.
    rounds: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    tables: Tables,
    /// The number of the read that `tables` came from, and of the newest that was begun.
    read: u64,
    begun: u64,
    declared: Vec<Arc<Branch>>,
    /// Not yet in the table.
    undeclared: bool,
}

impl Known {
    pub fn tables(&self) -> Tables {
        self.lock().tables.clone()
    }

    /// Every branch there is: the declared ones, then rows of other names and databases.
    pub fn branches(&self) -> Vec<Arc<Branch>> {
        let state = self.lock();
        let mut all = state.declared.clone();
        for row in &state.tables.branches {
            if !all.iter().any(|known| known.name == row.name || known.database == row.database) {
                all.push(Arc::new(row.clone()));
            }
        }
        all
    }

    /// Takes over the configuration's branches; if they are others than before, the next round writes them to the table.
    pub fn declare(&self, branches: Vec<Arc<Branch>>) {
        let mut state = self.lock();
        if state.declared == branches {
            return;
        }
        state.undeclared = true;
        state.declared = branches;
        drop(state);
        self.redeclare.notify_one();
    }

    /// A ticket for a read that begins now.
    pub fn begin_read(&self) -> u64 {
        let mut state = self.lock();
        state.begun += 1;
        state.begun
    }

    /// Takes over what a read found, unless one that began later came first; true when that changed something.
    pub fn finish_read(&self, ticket: u64, tables: Tables) -> bool {
        let mut state = self.lock();
        if ticket < state.read {
            return false;
        }
        state.read = ticket;
        let changed = state.tables != tables;
        state.tables = tables;
        changed
    }

    /// Whether it is known which branches are frozen or protected.
    pub fn is_read(&self) -> bool {
        *self.read.borrow()
    }

    /// Everybody has been told what was read, or that there is nothing to be read.
    pub fn published(&self) {
        self.read.send_replace(true);
    }

    /// Returns once [`Self::is_read`]. Cancel safe.
    pub async fn first_read(&self) {
        let _ = self.read.subscribe().wait_for(|read| *read).await;
    }

    /// Changes when something in the main database may have.
    pub fn rounds(&self) -> watch::Receiver<u64> {
        self.rounds.subscribe()
    }

    fn to_declare(&self) -> Option<Vec<Arc<Branch>>> {
        let mut state = self.lock();
        std::mem::take(&mut state.undeclared).then(|| state.declared.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the tables until it is aborted, over lost connections.
pub(super) async fn follow(inner: Arc<Inner>) {
    let mut backoff = Backoff::new();
    loop {
        let Err(error) = listen(&inner, &mut backoff).await;
        inner.main.fail(error.to_string());
        // Whatever broke this connection may have broken the branches'.
        inner.check_all();
        if inner.holds.pause().is_some() {
            // Whoever is held waits for this to work again.
            backoff.reset();
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// One connection's life.
async fn listen(inner: &Inner, backoff: &mut Backoff) -> Result<Infallible, RecorderError> {
    let server = &inner.server;
    // The pool behind the listener would hide why there is no connection.
    close(server.connect(&server.main).await?).await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(server.timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(server.options().await);
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.ignore_pool_close_event(true);
    bounded(listener.listen(CHANNEL)).await?;
    // From here on nothing is missed: what changed before is read now, what changes later is announced.
    inner.check_all();
    loop {
        let pause = match round(inner, &mut listener).await {
            Ok(()) => {
                backoff.reset();
                inner.main.succeed();
                inner.holds.pause().unwrap_or(REREAD)
            }
            // The main connection works, the schema does not: say so, and look again soon.
            Err(error) if error.leaves_connection() => {
                if error.is_not_migrated() {
                    inner.known.published();
                }
                inner.main.fail(not_migrated(&error).unwrap_or_else(|| error.to_string()));
                UNMIGRATED
            }
            Err(error) => return Err(error),
        };
        tokio::select! {
            notification = listener.try_recv() => {
                if notification?.is_none() {
                    return Err(RecorderError::Sql(sqlx::Error::Io(std::io::ErrorKind::UnexpectedEof.into())));
                }
                // One read answers for all that came together.
                while listener.next_buffered().is_some() {}
            }
            () = inner.known.redeclare.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Writes what is to be declared, then reads.
async fn round(inner: &Inner, listener: &mut PgListener) -> Result<(), RecorderError> {
    if let Some(declared) = inner.known.to_declare()
        && let Err(error) = declare(inner, listener, &declared).await
    {
        inner.known.lock().undeclared = true;
        return Err(error);
    }
    let ticket = inner.known.begin_read();
    let tables = store::read_tables(&mut *listener).await?;
    inner.take_over(ticket, tables);
    inner.holds.attend(listener, || (inner.changed)()).await?;
    super::intents::settle_prepared(&mut *listener).await?;
    super::changes::forget_expired(&mut *listener).await?;
    inner.known.rounds.send_modify(|rounds| *rounds += 1);
    Ok(())
}

async fn declare(inner: &Inner, listener: &mut PgListener, declared: &[Arc<Branch>]) -> Result<(), RecorderError> {
    store::declare_branches(&mut *listener, declared, inner.implied.as_deref()).await?;
    store::keep_declared(&mut *listener, declared).await
}

/// An error for an operator, with what to do where that is known.
pub(super) fn explained(error: RecorderError) -> anyhow::Error {
    match not_migrated(&error) {
        Some(advice) => anyhow::Error::new(error).context(advice),
        None => error.into(),
    }
}

/// The sentence for a database without the `pggit` schema.
pub(super) fn not_migrated(error: &RecorderError) -> Option<String> {
    error.is_not_migrated().then(|| format!("schema pggit is not there or too old: run `{}`", connect::MIGRATE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::branch::Origin;
    use crate::policy::Freeze;

    fn branch(name: &str, origin: Origin) -> Branch {
        Branch { name: name.into(), database: format!("{name}_{origin:?}"), protected: false, parent: None, origin }
    }

    fn frozen(branch: &str) -> Tables {
        Tables { freezes: vec![Freeze { branch: branch.into(), by: "x".into() }], ..Tables::default() }
    }

    #[test]
    fn a_read_that_began_earlier_does_not_undo_a_later_one() {
        let known = Known::default();
        let early = known.begin_read();
        let late = known.begin_read();
        assert!(known.finish_read(late, frozen("main")));
        assert!(!known.finish_read(early, Tables::default()));
        assert_eq!(known.tables(), frozen("main"));
    }

    #[test]
    fn the_same_tables_again_are_no_change() {
        let known = Known::default();
        assert!(known.finish_read(known.begin_read(), frozen("main")));
        assert!(!known.finish_read(known.begin_read(), frozen("main")));
    }

    #[test]
    fn a_declaration_wins_over_a_row() {
        let known = Known::default();
        known.declare(vec![Arc::new(branch("main", Origin::Configuration))]);
        let rows = vec![branch("main", Origin::Table), branch("x", Origin::Table)];
        known.finish_read(known.begin_read(), Tables { branches: rows, ..Tables::default() });
        let databases: Vec<_> = known.branches().iter().map(|b| b.database.clone()).collect();
        assert_eq!(databases, ["main_Configuration", "x_Table"]);
    }
}
