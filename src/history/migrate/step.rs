//! One step up or down: written to the log before it begins, then in one transaction the backup of the tables it changes, the
//! migration's script, and the return of what a step down took away earlier.
//!
//! A step that fails leaves its row in the log and nothing else. One whose program is lost leaves a row that says
//! `in_progress`; whoever migrates next holds the lock, knows that nobody is at it any more, and says so there.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx::migrate::{Migrate as _, MigrateError as SqlxMigrateError, Migration};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};

use super::adopt::IMPORT;
use super::error::MigrateError;
use super::{TABLE, plain};
use crate::history::connect::{in_words, sqlstate};
use crate::sql::{Classifier, Encoding};

pub(super) const LOG: &str = include_str!("log.sql");
pub(super) const BACK_UP: &str = include_str!("back_up.sql");
pub(super) const SETTLE: &str = include_str!("settle.sql");
pub(super) const GIVE_BACK: &str = include_str!("give_back.sql");

/// What a step down from version `$1` takes back.
pub(super) const TAKEN_BACK: &str = "UPDATE pggit.upgrade_log SET status = 'rolled_back' \
     WHERE to_version = $1 AND from_version < $1 AND status = 'completed'";

/// A migration may name tables that no statement of its text shows: `-- changes: branches, freezes`.
const MARK: &str = "-- changes:";

/// One step that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Applied or reverted.
    pub way: Way,
    /// The migration's number.
    pub version: i64,
    /// Its name, from the file's.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// The schema that has the tables as they were before; `None` where the step changed no row.
    pub backup: Option<String>,
    /// The backup whose rows were brought back.
    pub returned: Option<String>,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Applies the migration.
    Up,
    /// Reverts it.
    Down,
}

/// A step that is to be done.
pub(super) struct Plan<'a> {
    pub way: Way,
    pub migration: &'a Migration,
    pub from: i64,
    pub to: i64,
    /// What this run made itself, or what another backup has, needs none.
    pub back_up: bool,
}

/// Makes the log, and closes the rows of those that were lost on the way. Only for who holds the lock.
pub(super) async fn open_log(connection: &mut PgConnection) -> Result<(), MigrateError> {
    connection.execute(LOG).await?;
    let lost = "UPDATE pggit.upgrade_log SET status = 'failed', completed_at = pg_catalog.clock_timestamp(), \
                error_message = 'interrupted: the program or its connection was lost; the step was rolled back' \
                WHERE status = 'in_progress'";
    connection.execute(lost).await?;
    Ok(())
}

/// Does one step.
pub(super) async fn run(connection: &mut PgConnection, plan: &Plan<'_>) -> Result<Step, MigrateError> {
    let id: i64 = sqlx::query_scalar(
        "INSERT INTO pggit.upgrade_log (from_version, to_version, program) VALUES ($1, $2, $3) RETURNING upgrade_id",
    )
    .bind(plan.from)
    .bind(plan.to)
    .bind(env!("CARGO_PKG_VERSION"))
    .fetch_one(&mut *connection)
    .await?;
    match done(connection, plan, id).await {
        Ok(step) => Ok(step),
        Err(failure) => {
            // Without a connection there is no row either: the next migration writes it.
            let _ = sqlx::query(
                "UPDATE pggit.upgrade_log SET status = 'failed', completed_at = pg_catalog.clock_timestamp(), \
                 error_message = $2 WHERE upgrade_id = $1",
            )
            .bind(id)
            .bind(in_words(&failure))
            .execute(&mut *connection)
            .await;
            Err(explain(failure, plan.migration))
        }
    }
}

async fn done(connection: &mut PgConnection, plan: &Plan<'_>, id: i64) -> Result<Step, sqlx::Error> {
    let started = Instant::now();
    let mut transaction = connection.begin().await?;
    let tables: Vec<String> = if plan.back_up { changed(plan.migration.sql.as_str()) } else { Vec::new() };
    sqlx::query(
        "SELECT set_config('pggit.migration', 'on', true), set_config('pggit.upgrade_id', $1, true), \
         set_config('pggit.upgrade_version', $2, true), set_config('pggit.upgrade_tables', $3::text[]::text, true)",
    )
    .bind(id.to_string())
    .bind(plan.migration.version.to_string())
    .bind(tables)
    .execute(&mut *transaction)
    .await?;
    transaction.execute(BACK_UP).await?;
    match plan.way {
        Way::Up => {
            transaction.apply(TABLE, plan.migration).await.map_err(inner)?;
            transaction.execute(GIVE_BACK).await?;
            transaction.execute(IMPORT).await?;
        }
        Way::Down => {
            transaction.revert(TABLE, plan.migration).await.map_err(inner)?;
            transaction.execute(SETTLE).await?;
            sqlx::query(TAKEN_BACK).bind(plan.migration.version).execute(&mut *transaction).await?;
        }
    }
    let (backup, returned) = sqlx::query_as(
        "UPDATE pggit.upgrade_log l SET status = 'completed', completed_at = pg_catalog.clock_timestamp() \
         WHERE upgrade_id = $1 \
         RETURNING backup, (SELECT r.backup FROM pggit.upgrade_log r WHERE r.returned_by = l.upgrade_id)",
    )
    .bind(id)
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let (version, name) = (plan.migration.version, plan.migration.description.to_string());
    Ok(Step { way: plan.way, version, name, took: started.elapsed(), backup, returned })
}

/// The tables of the schema pggit out of which a script may take something, or which it may make another shape of. Rows that
/// are only added take nothing away.
pub(super) fn changed(script: &str) -> Vec<String> {
    let mut tables = BTreeSet::new();
    for statement in Classifier::new(0).parse(script.as_bytes(), Encoding::default()).iter() {
        if matches!(statement.tag, "DROP TABLE" | "ALTER TABLE" | "UPDATE" | "DELETE" | "MERGE" | "TRUNCATE TABLE") {
            let ours = statement.objects.iter().filter(|object| object.schema.as_deref() == Some("pggit"));
            tables.extend(ours.map(|object| object.name.clone()));
        }
    }
    let named = script.lines().filter_map(|line| line.strip_prefix(MARK)).flat_map(|names| names.split(','));
    tables.extend(named.map(|name| name.trim().to_owned()));
    tables.into_iter().collect()
}

fn explain(failure: sqlx::Error, migration: &Migration) -> MigrateError {
    let version = migration.version;
    match sqlstate(&failure) {
        Some("55P03") => MigrateError::Locked { version },
        Some(_) => MigrateError::Script { version, name: migration.description.to_string(), source: failure },
        None => MigrateError::Sql(failure),
    }
}

/// The server's own words, out of sqlx's.
fn inner(error: SqlxMigrateError) -> sqlx::Error {
    match error {
        SqlxMigrateError::ExecuteMigration(source, _) => source,
        other => match plain(other) {
            MigrateError::Sql(source) => source,
            other => sqlx::Error::Protocol(other.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_tells_which_tables_it_changes() {
        let script = "-- changes: freezes, statements\nDROP TABLE pggit.branches, public.mine; DROP VIEW pggit.history;\n\
                      ALTER TABLE pggit.changes ADD a int; INSERT INTO pggit.seals VALUES (1); UPDATE pggit.intents SET a = 1;\n\
                      CREATE TABLE pggit.new (a int);";
        assert_eq!(changed(script), ["branches", "changes", "freezes", "intents", "statements"]);
    }
}
