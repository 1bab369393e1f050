//! The schemas in which migrations keep tables as they were: looking at them, and dropping them on demand.

use sqlx::Connection as _;
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;

use super::error::MigrateError;
use super::{Found, applied, find, prepare, release, verify};
use crate::history::connect::sqlstate;

/// What a step kept.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Backup {
    /// Its schema.
    pub schema: String,
    /// The version that the step came from.
    pub from_version: i64,
    /// The version that it led to.
    pub to_version: i64,
    /// How many rows it has, of all tables.
    pub rows: i64,
    /// Whether it has what is nowhere else: the step was one down, and was not followed by the one up again; or it is pgGit's.
    pub only: bool,
    /// Whether it is the schema of pgGit's own SQL, which was taken over.
    pub adopted: bool,
}

/// The backups that are there, oldest first.
pub async fn backups(connection: &mut PgConnection) -> Result<Vec<Backup>, MigrateError> {
    let log = sqlx::query_scalar::<_, bool>("SELECT to_regclass('pggit.upgrade_log') IS NOT NULL");
    if !matches!(find(connection).await?, Found::Ours) || !log.fetch_one(&mut *connection).await? {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as(
        "SELECT l.backup AS schema, l.from_version, l.to_version, \
                (SELECT coalesce(sum((t ->> 'rows')::bigint), 0)::bigint FROM jsonb_array_elements(l.tables) t) AS rows, \
                l.adopted IS NOT NULL OR l.to_version < l.from_version AND l.returned_by IS NULL \
                    AND EXISTS (SELECT FROM jsonb_array_elements(l.tables) t WHERE t ?| '{dropped,lost,removed}') AS only, \
                l.adopted IS NOT NULL AS adopted \
         FROM pggit.upgrade_log l JOIN pg_catalog.pg_namespace n ON n.nspname = l.backup \
         WHERE l.status IN ('completed', 'rolled_back') ORDER BY l.upgrade_id",
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Drops the backups that have nothing that is not in the schema, too; with `all` every one, and at version 0 the log and the
/// schema as well. Returns those that were dropped.
pub async fn prune(connection: &mut PgConnection, all: bool) -> Result<Vec<Backup>, MigrateError> {
    prepare(connection).await?;
    let result = prune_locked(connection, all).await;
    release(connection).await;
    result
}

async fn prune_locked(connection: &mut PgConnection, all: bool) -> Result<Vec<Backup>, MigrateError> {
    let applied = applied(connection).await?;
    verify(&applied)?;
    let mut going = backups(connection).await?;
    going.retain(|backup| all || !backup.only);
    for backup in &going {
        let mut transaction = connection.begin().await?;
        transaction.execute("SELECT pg_catalog.set_config('pggit.migration', 'on', true)").await?;
        let drop = format!("DROP SCHEMA \"{}\" CASCADE", backup.schema.replace('"', "\"\""));
        transaction.execute(sqlx::AssertSqlSafe(drop)).await?;
        sqlx::query("UPDATE pggit.upgrade_log SET backup = NULL, tables = NULL WHERE backup = $1")
            .bind(&backup.schema)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
    }
    if all && applied.is_empty() && matches!(find(connection).await?, Found::Ours) {
        let mut transaction = connection.begin().await?;
        transaction.execute("DROP TABLE IF EXISTS pggit.upgrade_log; DROP TABLE pggit.migrations").await?;
        transaction.commit().await?;
        match connection.execute("DROP SCHEMA pggit RESTRICT").await {
            // dependent_objects_still_exist: somebody keeps something of their own there.
            Err(error) if sqlstate(&error) == Some("2BP01") => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
    }
    Ok(going)
}
