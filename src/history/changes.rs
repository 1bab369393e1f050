//! Change requests: statements that rules queued, in `pggit.change_requests` of the main database. What all proxies know of one
//! is its row; whoever decides on it or applies it holds the row's lock. The functions are in
//! `migrations/0013_changes.up.sql`, `apply` runs what was approved.

use std::time::Duration;

use serde_json::{Map, Value};
use sqlx::postgres::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::applied::{self, Entered};
use super::connect::{RecorderError, Server, bounded};
use super::recorder::{close, instance};
use super::store::{self, storable};
use super::{History, Inner, Rows, tables};
use crate::change::{ChangeRequest, Enqueued, Noted};

/// Columns of `SHOW CHANGES`.
const COLUMNS: &str = "number, status, branch, author, command_tag, sql, rule, created_at, expires_at, decided_by, decided_at, \
     reason, applied_by, applied_at, error, base_commit, objects, class, transactional, findings, settings, repeated, application_name, \
     client_addr, client_port, database, id, session_id, proxy";

/// What an administrator says to a change request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may be applied.
    Approve,
    /// It may not, and why.
    Reject(String),
}

/// Why a change request was not decided on, or not applied.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is none of this number.
    #[error("there is no change request {0}")]
    Unknown(i64),
    /// It is in another state than this takes.
    #[error("change request {number} is {status}")]
    Status {
        /// Its number.
        number: i64,
        /// Its `status`.
        status: String,
    },
    /// Who asked for it may not approve it.
    #[error("change request {number} was asked for by {author}, who may not approve it")]
    OwnChange {
        /// Its number.
        number: i64,
        /// Who asked.
        author: String,
    },
    /// Somebody else is applying it, or deciding on it.
    #[error("change request {0} is just being applied or decided on")]
    Busy(i64),
    /// It was tried, failed, and left nothing.
    #[error("change request {number} failed: {reason}")]
    Failed {
        /// Its number.
        number: i64,
        /// The server's words.
        reason: String,
    },
    /// It could not be tried, and may be applied later.
    #[error("change request {number} could not be applied now: {reason}")]
    NotNow {
        /// Its number.
        number: i64,
        /// What stands in the way.
        reason: String,
    },
    /// The recorder could not do it.
    #[error(transparent)]
    Recorder(#[from] RecorderError),
}

impl History {
    /// Writes change requests, in one transaction. Where somebody waits for less long than it takes, they may be written all
    /// the same: asked again, the same statement has the same number.
    pub async fn request(&self, requests: Vec<ChangeRequest>, timeout: Duration, max_open: u32) -> Enqueued {
        let Some(running) = &self.running else { return Enqueued::Failed(RecorderError::NotRunning.to_string()) };
        let server = running.inner.server.clone();
        let writing = running.inner.runtime.spawn(async move { write(&server, &requests, max_open).await });
        match tokio::time::timeout(timeout, writing).await {
            Ok(Ok(Ok(enqueued))) => enqueued,
            Ok(Ok(Err(error))) if error.sqlstate() == Some("55P03") => Enqueued::Busy,
            Ok(Ok(Err(error))) => Enqueued::Failed(tables::not_migrated(&error).unwrap_or_else(|| error.to_string())),
            Ok(Err(_)) => Enqueued::Failed(RecorderError::NotRunning.to_string()),
            Err(_) => Enqueued::Failed(RecorderError::TimedOut(timeout).to_string()),
        }
    }

    /// Waits until a request is decided on, at most `wait`. Approved, it is released to the statement with the key `run`, if that
    /// is said. Cancel safe: what was released and not told becomes `failed` or expires.
    pub async fn await_decision(&self, noted: Noted, run: Option<Uuid>, wait: Duration) -> Enqueued {
        let number = noted.number;
        let Some(inner) = self.inner() else { return Enqueued::Failed(RecorderError::NotRunning.to_string()) };
        let deadline = tokio::time::Instant::now() + wait;
        let mut rounds = inner.known.rounds();
        loop {
            match decision(inner, &noted, run).await {
                Ok(Some(answer)) => return answer,
                Ok(None) => {}
                // The server may come back in time.
                Err(error) => tracing::warn!(number, %error, "a decision cannot be looked for"),
            }
            match tokio::time::timeout_at(deadline, rounds.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Enqueued::Noted(vec![noted]),
            }
        }
    }

    /// The newest rows of `pggit.change_requests`, newest first; at most 10,000.
    pub async fn changes(&self, limit: u32) -> anyhow::Result<Rows> {
        let inner = self.running()?;
        let _reader = inner.readers.acquire().await?;
        let mut connection = inner.server.connect(&inner.server.main).await?;
        let rows = async {
            forget_expired(&mut connection).await?;
            store::newest(&mut connection, COLUMNS, "pggit.change_requests", "number DESC", limit).await
        };
        let rows = rows.await;
        close(connection).await;
        rows.map_err(tables::explained)
    }

    /// Approves or rejects a request; `by` is who says so. `self_approval`: it may be its author.
    pub async fn decide(
        &self,
        number: i64,
        decision: &Decision,
        by: &str,
        self_approval: bool,
    ) -> Result<(), ChangeError> {
        let inner = self.running()?;
        let mut connection = inner.server.connect(&inner.server.main).await?;
        let decided = decide(&inner.server, &mut connection, number, decision, by, self_approval).await;
        close(connection).await;
        decided
    }
}

/// What became of a request that somebody waits for; `None` while it is open.
async fn decision(inner: &Inner, noted: &Noted, run: Option<Uuid>) -> Result<Option<Enqueued>, RecorderError> {
    let number = noted.number;
    let _reader = inner.readers.acquire().await.map_err(|_| RecorderError::NotRunning)?;
    let mut connection = inner.server.connect(&inner.server.main).await?;
    let look = sqlx::query_as::<_, (String, Option<String>, Option<String>, Option<String>)>(
        "SELECT CASE WHEN status = 'approved' AND expires_at <= clock_timestamp() THEN 'expired' ELSE status END, \
         decided_by, reason, error FROM pggit.change_requests WHERE number = $1",
    );
    let row = bounded(look.bind(number).fetch_optional(&mut connection)).await?;
    let closed = |why: String| Some(Enqueued::Closed(number, why));
    let answer = match row {
        None => closed("is gone".to_owned()),
        Some((status, by, reason, error)) => match status.as_str() {
            "pending" => None,
            "approved" => match run {
                Some(run) => release(&mut connection, number, run).await?.then_some(Enqueued::Released),
                None => Some(Enqueued::Noted(vec![Noted { approved_by: by, ..noted.clone() }])),
            },
            "rejected" => closed(format!(
                "was rejected by {}: {}",
                by.as_deref().unwrap_or_default(),
                reason.as_deref().unwrap_or_default()
            )),
            "failed" => closed(format!("failed: {}", error.as_deref().unwrap_or_default())),
            status => closed(format!("is {status}")),
        },
    };
    close(connection).await;
    Ok(answer)
}

/// Whether nobody else runs it from here on.
async fn release(main: &mut PgConnection, number: i64, run: Uuid) -> Result<bool, RecorderError> {
    let release = sqlx::query_scalar("SELECT pggit.note_release($1, $2)").bind(number).bind(run);
    bounded(release.fetch_one(main)).await
}

async fn write(server: &Server, requests: &[ChangeRequest], max_open: u32) -> Result<Enqueued, RecorderError> {
    let mut all = Vec::with_capacity(requests.len());
    let Some(first) = requests.first() else { return Ok(Enqueued::Noted(all)) };
    let base = newest_commit(server, &first.session.database).await?;
    let mut connection = server.connect(&server.main).await?;
    bounded(sqlx::raw_sql("BEGIN").execute(&mut connection)).await?;
    for request in requests {
        all.push(note(&mut connection, request, base, max_open).await?);
    }
    bounded(sqlx::raw_sql("COMMIT").execute(&mut connection)).await?;
    let released = match (all.as_slice(), first.released_to()) {
        ([noted], Some(run)) if noted.approved_by.is_some() => release(&mut connection, noted.number, run).await?,
        _ => false,
    };
    close(connection).await;
    Ok(if released { Enqueued::Released } else { Enqueued::Noted(all) })
}

/// The newest commit of the branch in this database.
async fn newest_commit(server: &Server, database: &str) -> Result<Option<Uuid>, RecorderError> {
    let mut connection = server.connect(database).await?;
    let commit = head(&mut connection).await;
    close(connection).await;
    commit
}

pub(super) async fn head<'c>(connection: impl PgExecutor<'c>) -> Result<Option<Uuid>, RecorderError> {
    let newest =
        sqlx::query_scalar("SELECT commit_id FROM pggit.changes ORDER BY created_at DESC, ordinal DESC, id LIMIT 1");
    bounded(newest.fetch_optional(connection)).await
}

async fn note(
    connection: &mut PgConnection,
    request: &ChangeRequest,
    base: Option<Uuid>,
    max_open: u32,
) -> Result<Noted, RecorderError> {
    let session = &request.session;
    let settings: Map<String, Value> =
        request.settings.iter().map(|(name, value)| ((*name).to_owned(), Value::from(storable(value)))).collect();
    let insert = sqlx::query_as::<_, (i64, Uuid, Option<String>, bool)>(
        "SELECT number, id, CASE WHEN status = 'approved' AND run_id IS NULL THEN decided_by END, \
         base_commit IS DISTINCT FROM $16 \
         FROM pggit.note_request($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
         make_interval(secs => $18), $19, $20)",
    )
    .bind(request.id)
    .bind(session.id)
    .bind(session.branch.as_deref().map(storable))
    .bind(storable(&session.database))
    .bind(storable(&session.user))
    .bind(storable(&request.application_name))
    .bind(session.client_addr)
    .bind(i32::from(session.client_port))
    .bind(storable(&request.rule))
    .bind(request.tag)
    .bind(request.class.as_str())
    .bind(request.objects.iter().map(|name| storable(name)).collect::<Vec<_>>())
    .bind(request.transactional)
    .bind(&request.sql)
    .bind(Value::Object(settings))
    .bind(base)
    .bind(instance())
    .bind(request.expires.as_secs_f64())
    .bind(i64::from(max_open))
    .bind(request.findings.as_deref().map(storable));
    let (number, id, approved_by, moved) = bounded(insert.fetch_one(connection)).await?;
    Ok(Noted { number, id, approved_by, moved })
}

/// Requests whose time is over become `expired`.
pub(super) async fn forget_expired<'c>(main: impl PgExecutor<'c>) -> Result<(), RecorderError> {
    bounded(sqlx::query("SELECT pggit.forget_expired()").execute(main)).await.map(drop)
}

/// A request, as it is decided on.
#[derive(Debug, sqlx::FromRow)]
struct Decided {
    id: Uuid,
    status: String,
    author: String,
    database: String,
    is_released: bool,
}

async fn decide(
    server: &Server,
    connection: &mut PgConnection,
    number: i64,
    decision: &Decision,
    by: &str,
    self_approval: bool,
) -> Result<(), ChangeError> {
    forget_expired(&mut *connection).await?;
    bounded(sqlx::raw_sql("BEGIN").execute(&mut *connection)).await?;
    let look = sqlx::query_as::<_, Decided>(
        "SELECT id, status, author, database, run_id IS NOT NULL AS is_released \
         FROM pggit.change_requests WHERE number = $1 FOR UPDATE",
    );
    let request = match bounded(look.bind(number).fetch_optional(&mut *connection)).await {
        Err(error) if error.sqlstate() == Some("55P03") => return Err(ChangeError::Busy(number)),
        request => request?.ok_or(ChangeError::Unknown(number))?,
    };
    let (status, from, reason) = match decision {
        Decision::Approve => ("approved", &["pending"][..], None),
        // Also one that was approved, as long as it is not applied.
        Decision::Reject(reason) => ("rejected", &["pending", "approved"][..], Some(reason.as_str())),
    };
    if request.is_released && request.status == "approved" {
        return Err(ChangeError::Busy(number));
    }
    if !from.contains(&request.status.as_str()) {
        return Err(ChangeError::Status { number, status: request.status });
    }
    if *decision == Decision::Approve && request.author == by && !self_approval {
        return Err(ChangeError::OwnChange { number, author: request.author });
    }
    if let Some(reason) = reason
        && request.status == "approved"
    {
        close_off(server, number, &request, by, reason).await?;
    }
    let update = sqlx::query(
        "UPDATE pggit.change_requests SET status = $2, decided_by = $3, decided_at = clock_timestamp(), reason = $4 \
         WHERE number = $1",
    )
    .bind(number)
    .bind(status)
    .bind(storable(by))
    .bind(reason.map(storable));
    bounded(update.execute(&mut *connection)).await?;
    bounded(sqlx::raw_sql("COMMIT").execute(connection)).await?;
    Ok(())
}

/// An approved request may be on its way already, in its author's own transaction: sees to it that it is not, and never will be.
async fn close_off(server: &Server, number: i64, request: &Decided, by: &str, reason: &str) -> Result<(), ChangeError> {
    let mut branch = match server.connect(&request.database).await {
        Ok(branch) => branch,
        Err(error) => {
            return if database_is_gone(server, &request.database).await? { Ok(()) } else { Err(error.into()) };
        }
    };
    let entered = applied::enter(&mut branch, request.id, by, Some(reason)).await;
    close(branch).await;
    match entered? {
        Entered::Noted | Entered::Rejected => Ok(()),
        Entered::Busy => Err(ChangeError::Busy(number)),
        Entered::Applied => Err(ChangeError::Status { number, status: "applied".to_owned() }),
    }
}

/// A dropped branch applies nothing.
async fn database_is_gone(server: &Server, database: &str) -> Result<bool, RecorderError> {
    let mut main = server.connect(&server.main).await?;
    let gone = sqlx::query_scalar("SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = $1)");
    let gone = bounded(gone.bind(database).fetch_one(&mut main)).await;
    close(main).await;
    gone
}
