//! Intents: statements that cannot run inside a transaction, written down before and settled after; and prepared
//! transactions. The functions in `migrations/0010_intents.up.sql` do the looking.
//!
//! ```text
//! intend() ─> pggit.intents ─> the statement runs ─> settle(): what the server told, and what there is to be seen
//!                                             └ session gone ─> sweep(), by whichever proxy looks at the branch next
//! ```
//!
//! An intent is the business of the proxy that wrote it for as long as the server's process lives that runs its statement;
//! after that it is anybody's. That a process lives is read from `pg_stat_activity`, by its number and its start: so it
//! does not matter which proxy asks, on which host, or what became of the one that wrote it. Only one settles at a time in a
//! database (an advisory lock), and whoever comes second finds it settled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, PgExecutor};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::connect::{Backoff, RecorderError, Server, bounded};
use super::recorder::{close, instance};
use super::store::storable;
use super::{History, Inner};
use crate::change::{Intended, Intent, PreparedTransaction, Recording, SessionFacts, Told};

/// What a proxy cannot settle in this time it leaves to a sweep.
const PATIENCE: Duration = Duration::from_secs(600);

/// One look settles at most so many.
const AT_ONCE: i64 = 100;

impl History {
    /// Writes an intent; `Written` when it is committed. `backend` is the server's process that will run the statement.
    pub async fn intend(&self, intent: Intent, backend: u32, timeout: Duration) -> Intended {
        let Some(running) = &self.running else { return Intended::Failed(RecorderError::NotRunning.to_string()) };
        let branch = intent.session.branch.clone().unwrap_or_default();
        if self.recording(&branch) == Recording::Broken
            && self.wait_recording(&branch, timeout).await == Recording::Broken
        {
            return Intended::Failed(self.broken_because(&branch));
        }
        // On the recorder's own runtime; whoever waits may go away.
        let server = running.inner.server.clone();
        let writing = running.inner.runtime.spawn(async move { intend(&server, &intent, backend).await });
        match tokio::time::timeout(timeout, writing).await {
            Ok(Ok(Ok(()))) => Intended::Written,
            Ok(Ok(Err(error))) => Intended::Failed(error.to_string()),
            Ok(Err(_)) => Intended::Failed(RecorderError::NotRunning.to_string()),
            Err(_) => Intended::Failed(RecorderError::TimedOut(timeout).to_string()),
        }
    }

    /// Settles intents of one session, by what the server told; done when that is written, or nothing more can be done here.
    /// Goes on by itself when nobody waits any more.
    pub fn settle(
        &self,
        session: &Arc<SessionFacts>,
        told: Vec<(Uuid, Told)>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let session = session.clone();
        let (lost, known): (Vec<_>, Vec<_>) = told.into_iter().partition(|(_, told)| *told == Told::Nothing);
        if !lost.is_empty()
            && let Some(watched) = self.watched(session.branch.as_deref().unwrap_or_default())
        {
            watched.look();
        }
        let settling = (!known.is_empty()).then(|| {
            self.spawn(|inner| async move { insist(&inner, || settle(&inner.server, &session.database, &known)).await })
        });
        ended(settling.flatten())
    }

    /// Remembers transactions that were just prepared, so that what becomes of them is found out.
    pub fn prepared(
        &self,
        session: &Arc<SessionFacts>,
        prepared: Vec<PreparedTransaction>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let session = session.clone();
        let remembering = (!prepared.is_empty()).then(|| {
            self.spawn(|inner| async move { insist(&inner, || remember(&inner.server, &session, &prepared)).await })
        });
        ended(remembering.flatten())
    }

    /// On the recorder's own runtime, at once, whoever waits for it.
    fn spawn<F: Future<Output = ()> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Inner>) -> F,
    ) -> Option<JoinHandle<()>> {
        let inner = &self.running.as_ref()?.inner;
        Some(inner.runtime.spawn(work(inner.clone())))
    }

    /// Some prepared transaction has ended: has it found out soon which.
    pub fn prepared_ended(&self) {
        if let Some(running) = &self.running {
            running.inner.known.redeclare.notify_one();
        }
    }
}

async fn ended(task: Option<JoinHandle<()>>) {
    if let Some(task) = task {
        let _ = task.await;
    }
}

/// Tries until it is done (`true`) or patience ends.
async fn insist<F: Future<Output = Result<bool, RecorderError>>>(inner: &Inner, work: impl Fn() -> F) {
    let mut backoff = Backoff::new();
    let began = Instant::now();
    loop {
        match work().await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                if began.elapsed() > PATIENCE {
                    tracing::error!(%error, "intents could not be settled here; a sweep will do it");
                    return;
                }
                inner.check_all();
            }
        }
        if began.elapsed() > PATIENCE {
            return;
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

pub(super) async fn intend(server: &Server, intent: &Intent, backend: u32) -> Result<(), RecorderError> {
    let session = &intent.session;
    let mut connection = server.connect(&session.database).await?;
    let insert =
        sqlx::query("SELECT pggit.intend($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)")
            .bind(intent.id)
            .bind(session.id)
            .bind(session.branch.as_deref().map(storable))
            .bind(intent.tag)
            .bind(intent.class.as_str())
            .bind(intent.object_type)
            .bind(intent.schema.as_deref().map(storable))
            .bind(intent.names.iter().map(|name| storable(name)).collect::<Vec<_>>())
            .bind(storable(&intent.sql))
            .bind(storable(&session.user))
            .bind(storable(&intent.application_name))
            .bind(session.client_addr)
            .bind(i32::from(session.client_port))
            .bind(instance())
            .bind(backend.cast_signed())
            .bind(session.rerouted.as_ref().map(|rerouted| storable(&rerouted.from)));
    let written = bounded(insert.execute(&mut connection)).await.map(drop);
    // Before the statement runs: CREATE DATABASE … TEMPLATE wants the database for itself.
    close(connection).await;
    written
}

/// False while one of them is still open.
pub(super) async fn settle(server: &Server, database: &str, told: &[(Uuid, Told)]) -> Result<bool, RecorderError> {
    let mut connection = server.connect(database).await?;
    let mut done = true;
    for (id, told) in told {
        let (outcome, sqlstate, message) = match told {
            Told::Applied => (Some("applied"), None, None),
            Told::Failed { sqlstate, message } => (Some("failed"), Some(sqlstate.as_str()), Some(message.as_str())),
            Told::Nothing => (None, None, None),
        };
        let settled = sqlx::query_scalar::<_, Option<String>>("SELECT pggit.settle_intent($1, $2, $3, $4)")
            .bind(id)
            .bind(outcome)
            .bind(sqlstate)
            .bind(message.map(storable));
        done &= bounded(settled.fetch_one(&mut connection)).await?.as_deref() != Some("open");
    }
    close(connection).await;
    Ok(done)
}

/// Settles the open intents of a branch whose session is gone, and tells the statement log.
pub(super) async fn sweep(connection: &mut PgConnection, server: &Server) -> Result<(), RecorderError> {
    let open = sqlx::query_scalar::<_, Uuid>(
        "SELECT i.id FROM pggit.intents i WHERE i.outcome IS NULL AND NOT pggit.is_running(i) ORDER BY i.opened_at LIMIT $1",
    )
    .bind(AT_ONCE);
    for id in bounded(open.fetch_all(&mut *connection)).await? {
        let settled = sqlx::query_scalar::<_, Option<String>>("SELECT pggit.settle_intent($1)").bind(id);
        match bounded(settled.fetch_one(&mut *connection)).await?.as_deref() {
            None | Some("open") => {}
            Some(outcome) => {
                tracing::info!(intent = %id, outcome, "settled what a lost session had begun");
                tell_log(connection, server, id).await?;
            }
        }
    }
    Ok(())
}

/// A statement whose session was lost: its row in the log says `unknown`, or is not there when its proxy was lost, too.
async fn tell_log(connection: &mut PgConnection, server: &Server, intent: Uuid) -> Result<(), RecorderError> {
    let row = sqlx::query_as::<_, (serde_json::Value,)>(
        "SELECT to_jsonb(i) FROM (SELECT id, session_id, current_database()::text AS database, branch, command_tag, class, sql, \
         'allow' AS verdict, outcome, sqlstate, reason AS error, created_by, application_name, client_addr, \
         coalesce(client_port, 0) AS client_port, proxy, opened_at AS started_at, 0::float8 AS duration_ms \
         FROM pggit.intents WHERE id = $1) i",
    )
    .bind(intent);
    let (row,) = bounded(row.fetch_one(&mut *connection)).await?;
    let mut main = server.connect(&server.main).await?;
    let upsert = sqlx::query(
        "INSERT INTO pggit.statements AS s SELECT r.* FROM jsonb_populate_record(NULL::pggit.statements, $1) r \
         ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome, error = coalesce(s.error, excluded.error) \
         WHERE s.outcome = 'unknown'",
    )
    .bind(row);
    bounded(upsert.execute(&mut main)).await?;
    // It may have been a change request.
    bounded(sqlx::query("SELECT pggit.note_runs($1)").bind(vec![intent]).execute(&mut main)).await?;
    close(main).await;
    Ok(())
}

async fn remember(
    server: &Server,
    session: &SessionFacts,
    prepared: &[PreparedTransaction],
) -> Result<bool, RecorderError> {
    let mut main = server.connect(&server.main).await?;
    for transaction in prepared {
        let insert = sqlx::query("SELECT pggit.remember_prepared($1, $2, $3, $4)")
            .bind(storable(&transaction.gid))
            .bind(storable(&session.database))
            .bind(session.id)
            .bind(&transaction.statements);
        bounded(insert.execute(&mut main)).await?;
    }
    close(main).await;
    Ok(true)
}

/// Finds out what became of prepared transactions, on a connection to the main database.
pub(super) async fn settle_prepared<'c>(main: impl PgExecutor<'c>) -> Result<(), RecorderError> {
    bounded(sqlx::query("SELECT pggit.settle_prepared()").execute(main)).await.map(drop)
}
