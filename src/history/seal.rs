//! Seals commits into the hash chain of their branch, after the fact: `pggit.seal()` does it, this says when.
//!
//! Each look at a branch's health asks, on the connection it has anyway, how many commits wait. Only then is a connection
//! made for sealing. Any number of proxies may do so: an advisory lock in the database lets one at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;
use tokio::sync::{Notify, Semaphore};

use super::HealthRow;
use super::connect::{RecorderError, Server, bounded};
use super::health::Watched;
use super::recorder::close;

/// The name of the line in `SHOW HEALTH`.
pub(super) const CHECK: &str = "seals";

/// So many branches are sealed together by one proxy.
pub(super) const AT_ONCE: usize = 2;

/// Commits of one transaction of ours.
const BATCH: i32 = 500;

/// One commit may have a great many rows (the baseline of a large database), so more than other statements get.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);

/// What is known of one branch's seals.
#[derive(Default)]
pub(super) struct Sealing {
    wanted: Notify,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Commits that wait and when the oldest was made; `None` before the first look.
    waiting: Option<(i64, Option<DateTime<Utc>>)>,
    trouble: Option<String>,
}

impl Sealing {
    /// Looks whether commits wait, on a connection to the branch, and has them sealed.
    pub async fn look(&self, connection: &mut PgConnection) -> Result<(), RecorderError> {
        let waiting = sqlx::query_as("SELECT count(*), min(at) FROM pggit.unsealed()").fetch_one(connection);
        let (commits, oldest) = match bounded(waiting).await {
            Ok(found) => found,
            Err(error) if error.leaves_connection() => {
                self.lock().trouble = Some(error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut seen = self.lock();
        seen.waiting = Some((commits, oldest));
        drop(seen);
        if commits > 0 {
            self.wanted.notify_one();
        }
        Ok(())
    }

    /// A line of `SHOW HEALTH`; none before the first look.
    pub fn row(&self, branch: &str) -> Option<HealthRow> {
        let seen = self.lock();
        let (commits, oldest) = seen.waiting?;
        let since = oldest.map(|at| format!(", the oldest of {}", at.to_rfc3339_opts(SecondsFormat::Secs, true)));
        let mut message = format!("{commits} commits wait to be sealed{}", since.unwrap_or_default());
        if let Some(trouble) = &seen.trouble {
            message = format!("{message}: {trouble}");
        }
        Some(HealthRow { branch: branch.to_owned(), check: CHECK.to_owned(), ok: seen.trouble.is_none(), message })
    }

    /// Says it in the log when it stops working and when it works again.
    fn publish(&self, branch: &str, trouble: Option<String>) {
        let mut seen = self.lock();
        match (&seen.trouble, &trouble) {
            (None, Some(reason)) => tracing::warn!(branch, reason, "commits cannot be sealed"),
            (Some(_), None) => tracing::info!(branch, "commits are sealed again"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        seen.trouble = trouble;
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seals whenever commits wait, until it is aborted. `places` bounds how many branches are sealed together.
pub(super) async fn keep_sealing(server: Arc<Server>, watched: Arc<Watched>, places: Arc<Semaphore>) {
    loop {
        watched.sealing.wanted.notified().await;
        let _place = places.acquire().await;
        let trouble = seal(&server, &watched.branch.database).await.err().map(|error| error.to_string());
        watched.sealing.publish(&watched.branch.name, trouble);
    }
}

/// Seals what there is, or leaves it to another proxy that is at it.
async fn seal(server: &Server, database: &str) -> Result<(), RecorderError> {
    let mut connection = server.connect(database).await?;
    let timeout = format!("SET statement_timeout = {}", STATEMENT_TIMEOUT.as_millis());
    bounded(connection.execute(sqlx::AssertSqlSafe(timeout))).await?;
    loop {
        // The server's own timeout should speak first.
        let limit = STATEMENT_TIMEOUT + Duration::from_secs(5);
        let batch = sqlx::query_scalar::<_, Option<i32>>("SELECT pggit.seal($1)").bind(BATCH);
        let sealed = tokio::time::timeout(limit, batch.fetch_one(&mut connection)).await;
        match sealed.map_err(|_| RecorderError::TimedOut(limit))?? {
            Some(BATCH..) => {}
            // All that was there. What came meanwhile waits for the next look: many at a time cost less than each by itself.
            None | Some(_) => break,
        }
    }
    close(connection).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_waits_and_what_is_wrong() {
        let sealing = Sealing::default();
        assert_eq!(sealing.row("b"), None);
        sealing.lock().waiting = Some((0, None));
        let row = sealing.row("b").map(|row| (row.ok, row.message));
        assert_eq!(row, Some((true, "0 commits wait to be sealed".into())));
        sealing.publish("b", Some("no".into()));
        let row = sealing.row("b").map(|row| (row.ok, row.message));
        assert_eq!(row, Some((false, "0 commits wait to be sealed: no".into())));
    }
}
