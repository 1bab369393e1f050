//! Goes over the hash chain of a database's history again, and says what does not fit.
//!
//! The queries are the bodies of the functions in `migrations/0008_commits.up.sql`, sent as texts: whoever may edit the
//! history may replace the functions in the database, too. They call nothing but the server's own functions, and run in one
//! snapshot that only reads.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;

use super::connect::in_words;

const MIGRATION: &str = include_str!("../../migrations/0008_commits.up.sql");

/// Seals that one query goes over.
const BATCH: i64 = 250;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// One thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Problem {
    /// What happened: `edited`, `deleted`, `inserted`, `not sealed`, `rewritten`.
    pub problem: String,
    /// The number of the seal.
    pub seq: Option<i64>,
    /// The commit; `None` where its seal is gone.
    pub commit_id: Option<Uuid>,
    /// The row of `pggit.changes`; `None` where it is the seal itself, or the commit as a whole.
    pub row_id: Option<Uuid>,
    /// More, in words.
    pub detail: String,
}

/// What was gone over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Sealed commits.
    pub commits: i64,
    /// Their rows of `pggit.changes`.
    pub rows: i64,
    /// The last seal.
    pub head: Option<Head>,
    /// Commits that are not sealed yet, and their rows.
    pub unsealed: (i64, i64),
}

/// The last seal.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Head {
    /// Its hash, in hexadecimal digits.
    pub hash: String,
    /// Its commit.
    pub commit_id: Uuid,
    /// When it was made.
    pub sealed_at: DateTime<Utc>,
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Commits done.
    pub commits: i64,
    /// Of so many.
    pub of: i64,
    /// Rows done.
    pub rows: i64,
    /// In this time.
    pub took: Duration,
}

/// What is told on the way.
pub enum Told {
    /// Something does not fit.
    Problem(Problem),
    /// How far it is; now and then.
    Progress(Progress),
}

/// Why it could not be gone over.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Nothing to verify.
    #[error("this database has no seals to verify: run `pggit-proxy migrate up` and let the proxy seal its history")]
    NoSeals,
    /// Something else stands where a table should be.
    #[error("pggit.{0} is not a table any more: somebody put something else in its place")]
    NotATable(String),
    /// The server said no, or the connection broke.
    #[error("{}", in_words(.0))]
    Sql(#[from] sqlx::Error),
}

/// Goes over everything. `expect` is a hash that ended the chain at some time, in hexadecimal digits.
pub async fn verify(
    connection: &mut PgConnection,
    expect: Option<&str>,
    told: &mut (dyn FnMut(Told) + Send),
) -> Result<Chain, VerifyError> {
    let mut snapshot = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
    // What the functions themselves set, and no limit on the time.
    snapshot
        .execute(
            "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL \"TimeZone\" = 'UTC'; SET LOCAL DateStyle = 'ISO'; \
             SET LOCAL jit = off; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0",
        )
        .await?;
    check_tables(&mut snapshot).await?;
    let mut chain = seals(&mut snapshot, told).await?;
    report(&mut snapshot, &end_query(), &[], told).await?;
    if let Some(expect) = expect {
        let found =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pggit.seals s WHERE encode(s.hash, 'hex') = lower($1))");
        if !found.bind(expect).fetch_one(&mut *snapshot).await? {
            let detail = format!("no seal has the hash {expect}");
            let (problem, seq, commit_id, row_id) = ("rewritten".to_owned(), None, None, None);
            told(Told::Problem(Problem { problem, seq, commit_id, row_id, detail }));
        }
    }
    let head = "SELECT encode(hash, 'hex') AS hash, commit_id, sealed_at FROM pggit.seals ORDER BY seq DESC LIMIT 1";
    chain.head = sqlx::query_as(head).fetch_optional(&mut *snapshot).await?;
    let unsealed = "SELECT count(DISTINCT c.commit_id), count(*) FROM pggit.changes c \
                    WHERE NOT EXISTS (SELECT FROM pggit.seals s WHERE s.commit_id = c.commit_id)";
    chain.unsealed = sqlx::query_as(unsealed).fetch_one(&mut *snapshot).await?;
    snapshot.rollback().await?;
    Ok(chain)
}

/// A view in a table's place would show what its maker wants.
async fn check_tables(connection: &mut PgConnection) -> Result<(), VerifyError> {
    let kinds: Vec<(String, Option<String>)> = sqlx::query_as(
        "SELECT w.name, c.relkind::text FROM unnest('{changes,seals,seal_state}'::text[]) w(name) \
         LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'pggit') \
              ON c.relname = w.name AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
    )
    .fetch_all(connection)
    .await?;
    for (name, kind) in kinds {
        match kind.as_deref() {
            Some("r") => {}
            Some(_) => return Err(VerifyError::NotATable(name)),
            None => return Err(VerifyError::NoSeals),
        }
    }
    Ok(())
}

/// Goes over the seals and their rows, batch by batch.
async fn seals(connection: &mut PgConnection, told: &mut (dyn FnMut(Told) + Send)) -> Result<Chain, VerifyError> {
    let of: i64 = sqlx::query_scalar("SELECT count(*) FROM pggit.seals").fetch_one(&mut *connection).await?;
    let query = seals_query();
    let (mut chain, mut after) = (Chain::default(), 0);
    let start = Instant::now();
    let mut tell_at = TELL_EVERY;
    loop {
        let batch = sqlx::query_as::<_, (Option<i64>, i64, i64)>(
            "SELECT max(s.seq), count(*), coalesce(sum(cardinality(s.row_ids)), 0)::bigint \
             FROM (SELECT seq, row_ids FROM pggit.seals WHERE seq > $1 ORDER BY seq LIMIT $2) s",
        );
        let (upto, commits, rows) = batch.bind(after).bind(BATCH).fetch_one(&mut *connection).await?;
        let Some(upto) = upto else { return Ok(chain) };
        report(connection, &query, &[after, upto], told).await?;
        chain.commits += commits;
        chain.rows += rows;
        after = upto;
        if start.elapsed() >= tell_at {
            tell_at = start.elapsed() + TELL_EVERY;
            let (commits, rows, took) = (chain.commits, chain.rows, start.elapsed());
            told(Told::Progress(Progress { commits, of, rows, took }));
        }
    }
}

/// Runs a query for problems, telling each as it comes.
async fn report(
    connection: &mut PgConnection,
    query: &str,
    arguments: &[i64],
    told: &mut (dyn FnMut(Told) + Send),
) -> Result<(), VerifyError> {
    let query = sqlx::query_as::<_, Problem>(AssertSqlSafe(query.to_owned()));
    let query = arguments.iter().fold(query, |query, argument| query.bind(*argument));
    let mut problems = query.fetch(connection);
    while let Some(problem) = problems.try_next().await? {
        told(Told::Problem(problem));
    }
    Ok(())
}

/// `pggit.verify_seals(after, upto)`, with nothing of schema `pggit` in it but the tables.
fn seals_query() -> String {
    let query = body("verify_seals")
        .replace("verify_seals.after", "$1")
        .replace("verify_seals.upto", "$2")
        .replace("pggit.row_hash(c)", &inlined("row_hash"))
        .replace("pggit.seal_hash(s)", &inlined("seal_hash"));
    columns(&query)
}

fn end_query() -> String {
    columns(&body("verify_end").replace("pggit.place()", &inlined("place")))
}

/// A function's body in the place of a call; the arguments have the names of the parameters.
fn inlined(function: &str) -> String {
    format!("({})", body(function).trim())
}

/// The names and types that the functions declare.
fn columns(query: &str) -> String {
    format!(
        "SELECT v.problem::text, v.seq::bigint, v.commit_id::uuid, v.row_id::uuid, v.detail::text \
         FROM ({query}) v(problem, seq, commit_id, row_id, detail)"
    )
}

/// The text of a function in the migration.
fn body(function: &str) -> &'static str {
    let start = MIGRATION.find(&format!("CREATE FUNCTION pggit.{function}(")).unwrap_or(MIGRATION.len());
    MIGRATION[start..].split("$$").nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_call_no_function_that_could_have_been_replaced() {
        for query in [seals_query(), end_query()] {
            assert!(query.contains("pggit.changes") && query.contains("pggit.seals"), "{query}");
            for (at, _) in query.match_indices("pggit.") {
                let name: String =
                    query[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || "._".contains(*c)).collect();
                let followed = query[at + name.len()..].trim_start().chars().next();
                assert!(followed != Some('('), "{name} is called");
            }
        }
        assert!(seals_query().contains("$1") && seals_query().contains("$2"));
        assert!(seals_query().contains("array_send") && seals_query().contains("to_jsonb"));
    }
}
