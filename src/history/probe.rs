//! Notices, branch by branch, what was changed and not recorded: event triggers disabled, catalogs edited, history rows
//! deleted.
//!
//! The comparing itself is SQL (`migrations/0009_probe.up.sql`, which also says why it takes no recorded change for an
//! unrecorded one). Here it is asked for: `pggit.probe_due()` reads a counter of the server's every second or two; where it
//! moved, `pggit.probe()` takes a look. A first look only suspects; the next one records what it suspects again. What looks
//! have seen stands in the database, so that any proxy goes on where another stopped, and a restart forgets nothing.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use tokio::sync::Semaphore;

use super::HealthRow;
use super::connect::{RecorderError, Server, bounded};
use super::health::{AT_ONCE, INTERVAL};
use super::recorder::close;
use super::tables::not_migrated;
use crate::branch::Branch;

/// What its row in `SHOW HEALTH` is called.
pub(super) const CHECK: &str = "probe";

/// How often the counter is read where a connection stays open, and the shortest time between two looks.
const COUNTED: Duration = Duration::from_secs(1);

/// After a look the probe rests for so many times what the look took: it takes a tenth of one backend at most.
const REST: u32 = 10;

/// So many branches are compared together. Less than there are places for health: a look may take seconds.
pub(super) const PROBED_AT_ONCE: usize = 2;

/// The longest look. The first one at tens of thousands of tables takes seconds.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// One branch, and what the probe says of it.
pub(super) struct Probed {
    branch: Arc<Branch>,
    last: Mutex<Last>,
    /// Changes that the probe recorded, of all branches.
    found: Arc<AtomicU64>,
}

enum Last {
    Untried,
    Worked { recorded: u64 },
    Failed { reason: String },
}

/// What came of asking once.
enum Asked {
    /// The counter says that nothing happened, or another proxy is at it.
    Quiet,
    Looked(Look),
}

struct Look {
    suspected: i64,
    recorded: i64,
    unfinished: bool,
    took: Duration,
}

impl Probed {
    pub fn new(branch: Arc<Branch>, found: Arc<AtomicU64>) -> Self {
        Self { branch, last: Mutex::new(Last::Untried), found }
    }

    pub fn row(&self) -> HealthRow {
        let (ok, message) = match &*self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            Last::Untried => (true, "has not looked yet".to_owned()),
            Last::Worked { recorded: 0 } => (true, "every change was recorded when it was made".to_owned()),
            Last::Worked { recorded } => (true, format!("recorded {recorded} changes that nothing else had recorded")),
            Last::Failed { reason } => (false, format!("cannot look for unrecorded changes: {reason}")),
        };
        HealthRow { branch: self.branch.name.clone(), check: CHECK.into(), ok, message }
    }

    fn publish(&self, asked: Result<&Asked, RecorderError>) {
        let branch = &self.branch.name;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = if let Last::Worked { recorded } = &*last { *recorded } else { 0 };
        let new = match asked {
            Ok(Asked::Quiet) => 0,
            Ok(Asked::Looked(look)) => u64::try_from(look.recorded).unwrap_or(0),
            Err(error) => {
                let reason = not_migrated(&error).unwrap_or_else(|| error.to_string());
                if !matches!(&*last, Last::Failed { .. }) {
                    tracing::warn!(branch, reason, "the probe cannot look");
                }
                *last = Last::Failed { reason };
                return;
            }
        };
        if new > 0 {
            tracing::warn!(branch, changes = new, "changes that nothing had recorded are in the history now");
            self.found.fetch_add(new, Ordering::Relaxed);
        }
        *last = Last::Worked { recorded: before + new };
    }
}

/// Asks until it is aborted. `places` bounds how many branches are asked together, `branches` is how many there are.
pub(super) async fn keep_asking(
    server: Arc<Server>,
    probed: Arc<Probed>,
    places: Arc<Semaphore>,
    branches: Arc<AtomicUsize>,
) {
    let mut kept = None;
    loop {
        let asked = {
            let _place = places.acquire().await;
            ask(&server, &probed.branch.database, &mut kept).await
        };
        let rounds = branches.load(Ordering::Relaxed).div_ceil(AT_ONCE).max(1);
        let interval = INTERVAL.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
        let pause = match &asked {
            Ok(Asked::Quiet) if kept.is_some() => COUNTED,
            Ok(Asked::Quiet) | Err(_) => interval,
            Ok(Asked::Looked(look)) => {
                // What is suspected, or not seen yet, is not to wait.
                let soon = look.suspected > 0 || look.unfinished;
                let least = if soon { COUNTED } else { interval };
                least.max(look.took.saturating_mul(REST))
            }
        };
        match asked {
            Ok(asked) => probed.publish(Ok(&asked)),
            Err(error) => probed.publish(Err(error)),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Asks once. As with health, a connection stays open for the main database only: elsewhere it would stand in the way of
/// `DROP DATABASE` and `CREATE DATABASE … TEMPLATE`.
async fn ask(server: &Server, database: &str, kept: &mut Option<PgConnection>) -> Result<Asked, RecorderError> {
    // A kept connection may have died since: an error on it is no news.
    if let Some(mut old) = kept.take()
        && let Ok(asked) = look_if_due(&mut old).await
    {
        *kept = Some(old);
        return Ok(asked);
    }
    let mut connection = server.connect(database).await?;
    let asked = look_if_due(&mut connection).await?;
    if database == server.main {
        *kept = Some(connection);
    } else {
        close(connection).await;
    }
    Ok(asked)
}

async fn look_if_due(connection: &mut PgConnection) -> Result<Asked, RecorderError> {
    // The counters are read before the transaction that looks: what is committed later moves them again.
    let counters =
        sqlx::query_as::<_, (bool, i64, i64)>("SELECT due, catalog_writes, history_edits FROM pggit.probe_due()");
    let (due, catalog_writes, history_edits) = bounded(counters.fetch_one(&mut *connection)).await?;
    if !due {
        return Ok(Asked::Quiet);
    }
    let started = Instant::now();
    let looking = look(connection, catalog_writes, history_edits);
    // The server's own statement_timeout should speak first.
    let limit = LOOK_TIMEOUT + Duration::from_secs(5);
    let (looked, suspected, recorded, unfinished) = match tokio::time::timeout(limit, looking).await {
        Ok(result) => result?,
        Err(_) => return Err(RecorderError::TimedOut(limit)),
    };
    if !looked {
        return Ok(Asked::Quiet);
    }
    Ok(Asked::Looked(Look { suspected, recorded, unfinished, took: started.elapsed() }))
}

async fn look(
    connection: &mut PgConnection,
    catalog_writes: i64,
    history_edits: i64,
) -> Result<(bool, i64, i64, bool), sqlx::Error> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ WRITE; SET LOCAL statement_timeout = {}",
        LOOK_TIMEOUT.as_millis()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(begin)).execute(&mut *connection).await?;
    let row = sqlx::query_as("SELECT looked, suspected, recorded, unfinished FROM pggit.probe($1, $2)")
        .bind(catalog_writes)
        .bind(history_edits)
        .fetch_one(&mut *connection)
        .await?;
    sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
    Ok(row)
}
