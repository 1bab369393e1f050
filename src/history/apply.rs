//! Applying a change request that was approved: on its branch, as its author, once.
//!
//! ```text
//! main database:   lock the request's row ──────────────────────────────────────────> its new status
//! branch:                                └─> BEGIN, pggit.applied_requests, the statement, COMMIT ─┘
//! ```
//!
//! The row in `pggit.applied_requests` ([`super::applied`]) is written first, in the transaction of the change itself: so it says
//! whether the change is there, also when a proxy ended between its COMMIT and the new status, and whoever applies it again finds
//! it. What cannot run inside a transaction has an intent in its place.
//!
//! The statement runs inside a function of the author's own, SECURITY DEFINER, made for this connection: there the server lets
//! nobody take back the recorder's role (RESET ROLE), whatever functions the statement calls.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::applied::{self, Entered};
use super::changes::{ChangeError, head};
use super::connect::{Backoff, RecorderError, bounded, in_words, sqlstate};
use super::intents;
use super::recorder::close;
use super::store::storable;
use super::{History, Inner};
use crate::change::{Intent, Recording, SessionFacts, Told};
use crate::session::recording_calls;
use crate::sql::{Classifier, Encoding, Statement};

/// A lock that is not to be had is waited for so often, with pauses between.
const TRIES: u32 = 5;

/// A change that takes longer has failed.
const LONGEST: Duration = Duration::from_secs(3600);

/// How long the branch may take to be seen well.
const HEALTH: Duration = Duration::from_secs(5);

/// Settings that a request may bring along; see `session::queue`.
const SETTINGS: [&str; 4] = ["standard_conforming_strings", "DateStyle", "IntervalStyle", "TimeZone"];

/// A request, as it is applied.
#[derive(Debug, Clone, sqlx::FromRow)]
struct Request {
    number: i64,
    id: Uuid,
    session_id: Uuid,
    branch: String,
    database: String,
    author: String,
    application_name: String,
    client_addr: Option<std::net::IpAddr>,
    client_port: i32,
    transactional: bool,
    exact_sql: String,
    settings: Value,
    base_commit: Option<Uuid>,
    status: String,
    decided_by: Option<String>,
    /// Its client waited, and runs it.
    run_id: Option<Uuid>,
}

/// What came of one try.
enum Try {
    Applied,
    /// The server said no; nothing is left of it.
    Failed(String),
    /// Locks were not to be had.
    Blocked(String),
    /// It is no use to try now.
    NotNow(String),
    /// Its author is just running it himself.
    Busy,
}

impl History {
    /// Applies a request that was approved. `by` is who says so; `lock_timeout` how long one try waits for locks. Goes on by
    /// itself when nobody waits any more.
    pub async fn apply(&self, number: i64, by: &str, lock_timeout: Duration) -> Result<(), ChangeError> {
        let Some(running) = &self.running else { return Err(RecorderError::NotRunning.into()) };
        let (history, inner, by) = (self.clone(), running.inner.clone(), by.to_owned());
        let applying =
            running.inner.runtime.spawn(async move { apply(&history, &inner, number, &by, lock_timeout).await });
        applying.await.unwrap_or_else(|_| Err(RecorderError::NotRunning.into()))
    }
}

async fn apply(
    history: &History,
    inner: &Inner,
    number: i64,
    by: &str,
    lock_timeout: Duration,
) -> Result<(), ChangeError> {
    let mut main = inner.server.connect(&inner.server.main).await?;
    let request = lock(&mut main, number).await?;
    let tried = run(history, inner, &request, by, lock_timeout).await?;
    let (status, error) = match &tried {
        Try::Applied => ("applied", None),
        Try::Failed(reason) => ("failed", Some(reason)),
        Try::Blocked(reason) | Try::NotNow(reason) => ("approved", Some(reason)),
        Try::Busy => return Err(ChangeError::Busy(number)),
    };
    let update = sqlx::query(
        "UPDATE pggit.change_requests SET status = $2, error = $3, \
         applied_by = CASE WHEN $2 = 'approved' THEN applied_by ELSE $4 END, \
         applied_at = CASE WHEN $2 = 'approved' THEN applied_at ELSE clock_timestamp() END WHERE number = $1",
    )
    .bind(number)
    .bind(status)
    .bind(error.map(|text| storable(text)))
    .bind(storable(by));
    bounded(update.execute(&mut main)).await?;
    bounded(sqlx::raw_sql("COMMIT").execute(&mut main)).await?;
    close(main).await;
    match tried {
        Try::Applied => Ok(()),
        Try::Failed(reason) => Err(ChangeError::Failed { number, reason }),
        Try::Blocked(reason) | Try::NotNow(reason) => Err(ChangeError::NotNow { number, reason }),
        Try::Busy => Err(ChangeError::Busy(number)),
    }
}

/// Locks the request in a transaction that lasts as long as the applying, and reads it.
async fn lock(main: &mut PgConnection, number: i64) -> Result<Request, ChangeError> {
    super::changes::forget_expired(&mut *main).await?;
    let begin = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0";
    bounded(sqlx::raw_sql(begin).execute(&mut *main)).await?;
    let row = sqlx::query_as::<_, Request>(
        "SELECT number, id, session_id, branch, database, author, application_name, client_addr, client_port, \
         transactional, exact_sql, settings, base_commit, status, decided_by, run_id \
         FROM pggit.change_requests WHERE number = $1 FOR UPDATE NOWAIT",
    );
    let row = match bounded(row.bind(number).fetch_optional(main)).await {
        Err(error) if error.sqlstate() == Some("55P03") => return Err(ChangeError::Busy(number)),
        row => row?,
    };
    match row {
        None => Err(ChangeError::Unknown(number)),
        Some(request) if request.status == "approved" && request.run_id.is_some() => Err(ChangeError::Busy(number)),
        Some(request) if request.status == "approved" => Ok(request),
        Some(request) => Err(ChangeError::Status { number, status: request.status }),
    }
}

async fn run(
    history: &History,
    inner: &Inner,
    request: &Request,
    by: &str,
    lock_timeout: Duration,
) -> Result<Try, RecorderError> {
    let recording = history.wait_recording(&request.branch, HEALTH).await;
    if recording == Recording::Broken {
        return Ok(Try::NotNow(history.broken_because(&request.branch)));
    }
    let parsed = Classifier::new(0).parse(request.exact_sql.as_bytes(), Encoding::default());
    let Some(statement) = parsed.first() else { return Ok(Try::Failed("there is no statement in it".to_owned())) };
    let mut branch = match connect(inner, request).await {
        Ok(branch) => branch,
        Err(error) => return Ok(Try::NotNow(error.to_string())),
    };
    let tried = if request.transactional {
        in_transaction(&mut branch, &Applying { request, statement, recording, by }, lock_timeout).await
    } else {
        alone(&mut branch, inner, request, statement).await
    };
    close(branch).await;
    tried
}

/// A connection to the branch whose changes are the author's session's.
async fn connect(inner: &Inner, request: &Request) -> Result<PgConnection, RecorderError> {
    let client = request.client_addr.map(|addr| match addr {
        std::net::IpAddr::V4(addr) => format!("{addr}:{}", request.client_port),
        std::net::IpAddr::V6(addr) => format!("[{addr}]:{}", request.client_port),
    });
    let settings = [
        ("pggit.session", request.session_id.to_string()),
        ("pggit.branch", request.branch.clone()),
        ("pggit.client", client.unwrap_or_default()),
        ("pggit.message", message(request)),
        ("statement_timeout", format!("{}ms", LONGEST.as_millis())),
        ("idle_in_transaction_session_timeout", "60s".to_owned()),
    ];
    inner.server.connect_with(&request.database, &settings).await
}

/// What the history says the commit is for.
fn message(request: &Request) -> String {
    let by = request.decided_by.as_deref().unwrap_or_default();
    format!("change request {}, approved by {by}", request.number)
}

/// What is applied, how it is recorded, and who says so.
struct Applying<'a> {
    request: &'a Request,
    statement: &'a Statement,
    recording: Recording,
    by: &'a str,
}

/// Tries until locks are to be had, or it is no use.
async fn in_transaction(
    branch: &mut PgConnection,
    applying: &Applying<'_>,
    lock_timeout: Duration,
) -> Result<Try, RecorderError> {
    let request = applying.request;
    if let Err(error) = take_role(branch, &request.author).await {
        return Ok(Try::NotNow(format!("the recorder cannot act as {}: {}", request.author, in_words(&error))));
    }
    let mut backoff = Backoff::new();
    let mut tried = 0;
    loop {
        tried += 1;
        bounded(sqlx::raw_sql("BEGIN").execute(&mut *branch)).await?;
        match applied::enter(branch, request.id, applying.by, None).await? {
            Entered::Noted => {}
            // By its author, or by a proxy that could not say so any more.
            Entered::Applied => return Ok(Try::Applied),
            Entered::Rejected => return Ok(Try::NotNow("it is just being rejected".to_owned())),
            Entered::Busy => return Ok(Try::Busy),
        }
        let result = attempt(branch, applying, lock_timeout).await;
        let Err(error) = result else { return Ok(Try::Applied) };
        if error.as_database_error().is_none() {
            // The connection broke: whether it was committed is found out by whoever applies it next.
            return Ok(Try::NotNow(in_words(&error)));
        }
        sqlx::raw_sql("ROLLBACK").execute(&mut *branch).await?;
        match sqlstate(&error) {
            // lock_not_available, deadlock_detected, serialization_failure
            Some("55P03" | "40P01" | "40001") if tried < TRIES => tokio::time::sleep(backoff.pause()).await,
            Some("55P03" | "40P01" | "40001") => {
                return Ok(Try::Blocked(format!("{} (tried {tried} times)", in_words(&error))));
            }
            Some(code) if code.starts_with("57P") || code.starts_with("08") => {
                return Ok(Try::NotNow(in_words(&error)));
            }
            _ => {
                let moved = head(&mut *branch).await? != request.base_commit;
                let since = if moved { "; the branch has changed since it was asked for" } else { "" };
                return Ok(Try::Failed(format!("{}{since}", in_words(&error))));
            }
        }
    }
}

/// Makes the function that runs a text as the author, who owns it.
async fn take_role(branch: &mut PgConnection, author: &str) -> Result<(), sqlx::Error> {
    let make = format!(
        "BEGIN; SET LOCAL ROLE {}; CREATE FUNCTION pg_temp.pggit_apply(sql text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER \
         AS 'BEGIN EXECUTE sql; END'; COMMIT",
        quoted(author)
    );
    sqlx::raw_sql(AssertSqlSafe(make)).execute(branch).await.map(drop)
}

/// The rest of the transaction in which the request is noted.
async fn attempt(
    branch: &mut PgConnection,
    applying: &Applying<'_>,
    lock_timeout: Duration,
) -> Result<(), sqlx::Error> {
    let Applying { request, statement, recording, by: _ } = *applying;
    settings(branch, request, true).await?;
    sqlx::query("SELECT pg_catalog.set_config('lock_timeout', $1, true)")
        .bind(format!("{}ms", lock_timeout.as_millis()))
        .execute(&mut *branch)
        .await?;
    let calls = match recording {
        Recording::Ready(means) => recording_calls(statement, &means, &facts(request), request.id),
        Recording::NotRequired | Recording::Broken => None,
    };
    let (before, after) = calls.unwrap_or_default();
    if let Some(call) = before {
        sqlx::raw_sql(AssertSqlSafe(call)).execute(&mut *branch).await?;
    }
    let role = format!("SET LOCAL ROLE {}", quoted(&request.author));
    sqlx::raw_sql(AssertSqlSafe(role)).execute(&mut *branch).await?;
    sqlx::query("SELECT pg_temp.pggit_apply($1)").bind(&request.exact_sql).execute(&mut *branch).await?;
    sqlx::raw_sql("SET LOCAL ROLE NONE").execute(&mut *branch).await?;
    if let Some(call) = after {
        sqlx::raw_sql(AssertSqlSafe(call)).execute(&mut *branch).await?;
    }
    sqlx::query("SELECT pggit.note_author($1, $2, $3, $4, $5)")
        .bind(request.id)
        .bind(&request.author)
        .bind(&request.application_name)
        .bind(&request.exact_sql)
        .bind(message(request))
        .execute(&mut *branch)
        .await?;
    sqlx::raw_sql("COMMIT").execute(branch).await.map(drop)
}

/// The settings that the text was written under, as far as they are known; else those of a new session of the author's.
async fn settings(branch: &mut PgConnection, request: &Request, local: bool) -> Result<(), sqlx::Error> {
    let text = |name: &str| request.settings.get(name).and_then(Value::as_str);
    let set = "SELECT pg_catalog.set_config($1, $2, $3)";
    for (name, value) in SETTINGS.into_iter().filter_map(|name| Some((name, text(name)?))) {
        sqlx::query(set).bind(name).bind(value).bind(local).execute(&mut *branch).await?;
    }
    sqlx::query("SELECT pg_catalog.set_config('search_path', coalesce($1, pggit.search_path_of($2)), $3)")
        .bind(text("search_path"))
        .bind(&request.author)
        .bind(local)
        .execute(branch)
        .await
        .map(drop)
}

/// Runs what cannot run inside a transaction, once: an intent says that it was begun. It waits for locks as long as it takes: what
/// runs concurrently keeps nobody waiting meanwhile, and a bound would end it in the middle and leave an index that is not valid.
async fn alone(
    branch: &mut PgConnection,
    inner: &Inner,
    request: &Request,
    statement: &Statement,
) -> Result<Try, RecorderError> {
    // A try before this one whose proxy was lost.
    let begun = sqlx::query_as::<_, (Option<String>, Option<String>)>(
        "SELECT coalesce(pggit.settle_intent(id), outcome), reason FROM pggit.intents WHERE id = $1",
    );
    match bounded(begun.bind(request.id).fetch_optional(&mut *branch)).await? {
        None => {}
        Some((Some(outcome), _)) if outcome == "applied" => return Ok(Try::Applied),
        Some((Some(outcome), reason)) if outcome != "open" => {
            return Ok(Try::Failed(reason.unwrap_or_else(|| format!("an earlier try is {outcome}"))));
        }
        Some(_) => return Ok(Try::NotNow("an earlier try is still at it".to_owned())),
    }
    let backend: i32 =
        bounded(sqlx::query_scalar("SELECT pg_catalog.pg_backend_pid()").fetch_one(&mut *branch)).await?;
    if let Err(error) = settings(branch, request, false).await {
        return Ok(Try::Failed(in_words(&error)));
    }
    // Where the recorder may be anybody, the history says who asked; else only in which role it was done.
    let author = quoted(&request.author);
    let becomes = format!("SET SESSION AUTHORIZATION {author}");
    if sqlx::raw_sql(AssertSqlSafe(becomes)).execute(&mut *branch).await.is_err() {
        let role = format!("SET ROLE {author}");
        if let Err(error) = sqlx::raw_sql(AssertSqlSafe(role)).execute(&mut *branch).await {
            return Ok(Try::NotNow(format!("the recorder cannot act as {}: {}", request.author, in_words(&error))));
        }
    }
    if let Err(error) = sqlx::raw_sql("SET lock_timeout = 0").execute(&mut *branch).await {
        return Ok(Try::NotNow(in_words(&error)));
    }
    intents::intend(&inner.server, &intent(request, statement), backend.cast_unsigned()).await?;
    let run = sqlx::raw_sql(AssertSqlSafe(request.exact_sql.clone())).execute(&mut *branch).await;
    let (told, tried) = match run {
        Ok(_) => (Told::Applied, Try::Applied),
        Err(error) if error.as_database_error().is_none() => return Ok(Try::NotNow(in_words(&error))),
        Err(error) => {
            let reason = in_words(&error);
            let sqlstate = sqlstate(&error).unwrap_or_default().to_owned();
            (Told::Failed { sqlstate, message: reason.clone() }, Try::Failed(reason))
        }
    };
    intents::settle(&inner.server, &request.database, &[(request.id, told)]).await?;
    Ok(tried)
}

fn intent(request: &Request, statement: &Statement) -> Intent {
    Intent {
        id: request.id,
        session: Arc::new(facts(request)),
        tag: statement.tag,
        class: statement.class,
        object_type: statement.object_type,
        schema: statement.objects.first().and_then(|object| object.schema.clone()),
        names: statement.objects.iter().map(|object| object.name.clone()).collect(),
        sql: request.exact_sql.clone(),
        application_name: request.application_name.clone(),
    }
}

/// The session that asked.
fn facts(request: &Request) -> SessionFacts {
    SessionFacts {
        id: request.session_id,
        user: request.author.clone(),
        database: request.database.clone(),
        branch: Some(request.branch.clone()),
        client_addr: request.client_addr,
        client_port: u16::try_from(request.client_port).unwrap_or(0),
        rerouted: None,
    }
}

/// An identifier in quotes.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
