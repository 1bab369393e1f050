//! The recorder's SQL on `pggit.statements`, `pggit.branches`, `pggit.freezes` and `pggit.history`.

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnection, PgExecutor, PgRow};
use sqlx::{AssertSqlSafe, Column as _, Row as _};
use uuid::Uuid;

use super::Rows;
use super::connect::{RecorderError, bounded};
use crate::branch::{Branch, Origin};
use crate::change::{Outcome, Run, StatementFact, VerdictKind};
use crate::policy::Freeze;

/// Columns of `SHOW HISTORY`.
const HISTORY_COLUMNS: &str = "id, commit_id, session_id, statement_id, branch, change_type, change_severity, \
     command_tag, object_type, schema_name, object_name, object_identity, old_definition, new_definition, \
     sql_executed, captured_by, via_proxy, created_at, created_by, role_name, application_name, client_addr, \
     client_port, backend_pid, xid, rerouted_from";

/// Columns of `SHOW STATEMENTS`.
const STATEMENT_COLUMNS: &str = "id, session_id, database, branch, command_tag, class, sql, verdict, rule, outcome, \
     sqlstate, error, created_by, application_name, client_addr, client_port, proxy, started_at, duration_ms, rerouted_to";

/// At most so many rows are read for one question, whatever was asked.
const MAX_ROWS: u32 = 10_000;

/// Branches and freezes, as one read found them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tables {
    /// Active rows that no configuration declares.
    pub branches: Vec<Branch>,
    pub freezes: Vec<Freeze>,
}

/// Adds facts to the statement log, in their order; those that are there already stay as they are. Passwords are not kept.
pub(super) async fn insert_facts(
    connection: &mut PgConnection,
    facts: &[Arc<StatementFact>],
    proxy: &str,
) -> Result<(), RecorderError> {
    let texts = |text: fn(&StatementFact) -> &str| facts.iter().map(|f| storable(text(f))).collect::<Vec<_>>();
    let options =
        |text: fn(&StatementFact) -> Option<&str>| facts.iter().map(|f| text(f).map(storable)).collect::<Vec<_>>();
    let ids: Vec<Uuid> = facts.iter().map(|f| f.id).collect();
    let sessions: Vec<Uuid> = facts.iter().map(|f| f.session.id).collect();
    let addresses: Vec<Option<IpAddr>> = facts.iter().map(|f| f.session.client_addr).collect();
    let ports: Vec<i32> = facts.iter().map(|f| i32::from(f.session.client_port)).collect();
    let starts: Vec<DateTime<Utc>> = facts.iter().map(|f| f.started_at.into()).collect();
    let durations: Vec<f64> = facts.iter().map(|f| f.duration.as_secs_f64() * 1000.0).collect();
    let insert = sqlx::query(
        "INSERT INTO pggit.statements (id, session_id, database, branch, command_tag, class, sql, verdict, rule, \
         outcome, sqlstate, error, created_by, application_name, client_addr, client_port, started_at, duration_ms, \
         rerouted_to, proxy) \
         SELECT *, $20 FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], \
         ARRAY(SELECT pggit.without_secrets(t) FROM unnest($7::text[]) WITH ORDINALITY x(t, n) ORDER BY n), $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], \
         $15::inet[], $16::int4[], $17::timestamptz[], $18::float8[], $19::text[]) \
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(ids)
    .bind(sessions)
    .bind(texts(|f| &f.session.database))
    .bind(options(|f| f.session.branch.as_deref()))
    .bind(texts(|f| f.tag))
    .bind(texts(|f| f.class.as_str()))
    .bind(texts(|f| &f.sql))
    .bind(texts(|f| f.verdict.as_str()))
    .bind(options(|f| f.rule.as_deref()))
    .bind(texts(|f| f.outcome.as_str()))
    .bind(options(|f| f.sqlstate.as_deref()))
    .bind(options(|f| f.error.as_deref()))
    .bind(texts(|f| &f.session.user))
    .bind(texts(|f| &f.application_name))
    .bind(addresses)
    .bind(ports)
    .bind(starts)
    .bind(durations)
    .bind(options(|f| f.rerouted_to.as_deref()))
    .bind(proxy);
    bounded(insert.execute(&mut *connection)).await?;
    let ran = |f: &&Arc<StatementFact>| f.verdict == VerdictKind::Queue && f.outcome != Outcome::Queued;
    let runs: Vec<Uuid> = facts.iter().filter(ran).map(|f| f.id).collect();
    if !runs.is_empty() {
        bounded(sqlx::query("SELECT pggit.note_runs($1)").bind(runs).execute(&mut *connection)).await?;
    }
    note_own_runs(connection, facts).await
}

/// What came of approved change requests that their authors ran.
async fn note_own_runs(connection: &mut PgConnection, facts: &[Arc<StatementFact>]) -> Result<(), RecorderError> {
    let ran: Vec<(Run, Uuid)> = facts.iter().filter_map(|fact| Some((fact.request?, fact.id))).collect();
    if ran.is_empty() {
        return Ok(());
    }
    let note = sqlx::query("SELECT pggit.note_own_runs($1, $2, $3)")
        .bind(ran.iter().map(|(run, _)| run.request).collect::<Vec<_>>())
        .bind(ran.iter().map(|(_, id)| *id).collect::<Vec<_>>())
        .bind(ran.iter().map(|(run, _)| run.moved).collect::<Vec<_>>());
    bounded(note.execute(connection)).await.map(drop)
}

/// Reads branches and freezes in one snapshot.
pub(super) async fn read_tables<'c>(connection: impl PgExecutor<'c>) -> Result<Tables, RecorderError> {
    let rows = sqlx::query_as::<_, (bool, String, Option<String>, Option<String>, Option<bool>)>(
        "SELECT false, name, parent, database, protected FROM pggit.branches \
         WHERE status = 'active' AND origin <> 'configuration' \
         UNION ALL \
         SELECT true, branch, frozen_by, NULL, NULL FROM pggit.freezes WHERE lifted_at IS NULL \
         ORDER BY 1, 2",
    )
    .persistent(true)
    .fetch_all(connection);
    let mut tables = Tables::default();
    for (frozen, name, other, database, protected) in bounded(rows).await? {
        if frozen {
            tables.freezes.push(Freeze { branch: name, by: other.unwrap_or_default() });
        } else if let Some(database) = database {
            let protected = protected.unwrap_or(false);
            tables.branches.push(Branch { name, database, protected, parent: other, origin: Origin::Table });
        }
    }
    Ok(tables)
}

/// Puts declared branches into `pggit.branches`. A row that somebody made by SQL stays as it is. So does the row of the
/// `implied` branch, the default one when no file declares it: what holds for it is what its row says.
pub(super) async fn declare_branches<'c>(
    connection: impl PgExecutor<'c>,
    branches: &[Arc<Branch>],
    implied: Option<&str>,
) -> Result<(), RecorderError> {
    let insert = sqlx::query(
        "INSERT INTO pggit.branches AS b (name, parent, database, protected, origin) \
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[], $5::text[]) \
         ON CONFLICT (name) DO UPDATE \
         SET parent = excluded.parent, database = excluded.database, protected = excluded.protected, \
             status = 'active', origin = excluded.origin \
         WHERE b.origin = 'configuration' \
           AND (b.parent, b.database, b.protected, b.status, b.origin) IS DISTINCT FROM \
               (excluded.parent, excluded.database, excluded.protected, 'active', excluded.origin)",
    )
    .bind(branches.iter().map(|b| b.name.as_str()).collect::<Vec<_>>())
    .bind(branches.iter().map(|b| b.parent.as_deref()).collect::<Vec<_>>())
    .bind(branches.iter().map(|b| b.database.as_str()).collect::<Vec<_>>())
    .bind(branches.iter().map(|b| b.protected).collect::<Vec<_>>())
    .bind(
        branches.iter().map(|b| if implied == Some(&b.name) { "table" } else { "configuration" }).collect::<Vec<_>>(),
    );
    bounded(insert.execute(connection)).await.map(drop)
}

/// What a configuration declares does not expire, also where somebody made it to expire: no proxy's sweep drops it then.
pub(super) async fn keep_declared<'c>(
    connection: impl PgExecutor<'c>,
    branches: &[Arc<Branch>],
) -> Result<(), RecorderError> {
    let update = sqlx::query(
        "UPDATE pggit.branches SET expires_at = NULL \
         WHERE (name = ANY ($1) OR database = ANY ($2)) AND expires_at IS NOT NULL",
    )
    .bind(branches.iter().map(|b| b.name.as_str()).collect::<Vec<_>>())
    .bind(branches.iter().map(|b| b.database.as_str()).collect::<Vec<_>>());
    bounded(update.execute(connection)).await.map(drop)
}

/// Records a freeze; false when there was one in force.
pub(super) async fn freeze(connection: &mut PgConnection, branch: &str, by: &str) -> Result<bool, RecorderError> {
    let insert = sqlx::query(
        "INSERT INTO pggit.freezes (branch, frozen_by) VALUES ($1, $2) \
         ON CONFLICT (branch) WHERE lifted_at IS NULL DO NOTHING",
    )
    .bind(branch)
    .bind(by);
    Ok(bounded(insert.execute(connection)).await?.rows_affected() > 0)
}

/// Records that a freeze was lifted; false when there was none.
pub(super) async fn thaw(connection: &mut PgConnection, branch: &str, by: &str) -> Result<bool, RecorderError> {
    let update = sqlx::query(
        "UPDATE pggit.freezes SET lifted_by = $2, lifted_at = now() WHERE branch = $1 AND lifted_at IS NULL",
    )
    .bind(branch)
    .bind(by);
    Ok(bounded(update.execute(connection)).await?.rows_affected() > 0)
}

/// The newest rows of `pggit.history`, newest first.
pub(super) async fn history(connection: &mut PgConnection, limit: u32) -> Result<Rows, RecorderError> {
    newest(connection, HISTORY_COLUMNS, "pggit.history", "created_at DESC, ordinal DESC, id", limit).await
}

/// The newest rows of `pggit.statements`, newest first.
pub(super) async fn statements(connection: &mut PgConnection, limit: u32) -> Result<Rows, RecorderError> {
    newest(connection, STATEMENT_COLUMNS, "pggit.statements", "started_at DESC, id DESC", limit).await
}

pub(super) async fn newest(
    connection: &mut PgConnection,
    columns: &str,
    table: &str,
    order: &str,
    limit: u32,
) -> Result<Rows, RecorderError> {
    let limit = limit.min(MAX_ROWS);
    let sql = format!("SELECT {columns} FROM {table} ORDER BY {order} LIMIT {limit}");
    // The simple protocol answers with texts, times in ISO format, and the driver keeps sessions in UTC.
    let rows = bounded(sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection)).await?;
    Ok(Rows {
        columns: columns.split(", ").map(|column| column.trim().to_owned()).collect(),
        rows: rows.iter().map(texts_of).collect::<Result<_, _>>()?,
    })
}

/// A row's values as the server wrote them.
fn texts_of(row: &PgRow) -> Result<Vec<Option<String>>, sqlx::Error> {
    let text = |column: &sqlx::postgres::PgColumn| {
        let value = row.try_get_raw(column.ordinal())?;
        if sqlx::ValueRef::is_null(&value) {
            return Ok(None);
        }
        value.as_str().map(|text| Some(text.to_owned())).map_err(sqlx::Error::Decode)
    };
    row.columns().iter().map(text).collect()
}

/// PostgreSQL has no U+0000 in its texts.
pub(super) fn storable(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}").into() } else { text.into() }
}
