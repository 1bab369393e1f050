//! A database in which pgGit's own SQL is installed: taking it over, and giving it back.
//!
//! Nothing of it is changed or copied away: its schema is renamed as it is, to the backup of the step that took it over (from
//! version -1, which is pgGit's, to 0, which is nothing of ours), and renamed back. Its event triggers are dropped meanwhile, for
//! their functions would look for their tables in vain. An extension pggit is dissolved, for it would hold its schema: its objects
//! are given back, the extension is not. What is left of ours at version 0, the log above all, goes aside in
//! turn, and the next adoption finds it.

use sqlx::migrate::Migrate as _;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};

use super::error::MigrateError;
use super::step;
use super::{TABLE, plain};

const ADOPT: &str = include_str!("adopt.sql");
const ADOPTED: &str = include_str!("adopted.sql");
const HAND_BACK: &str = include_str!("hand_back.sql");

/// Its history as rows of ours, once there is a table for them.
pub(super) const IMPORT: &str = include_str!("import.sql");

/// Takes the schema over.
pub(super) async fn adopt(connection: &mut PgConnection, database: String) -> Result<(), MigrateError> {
    // pgGit's own is dissolved; what somebody else's has is not ours to take.
    let extension = "SELECT e.extname::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid \
         WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e' AND e.extname <> 'pggit' \
           AND (d.classid = 'pg_catalog.pg_namespace'::regclass AND d.objid = 'pggit'::regnamespace \
                OR d.classid = 'pg_catalog.pg_class'::regclass \
                   AND d.objid IN ('pggit.objects'::regclass, 'pggit.history'::regclass)) LIMIT 1";
    if let Some(extension) = sqlx::query_scalar(extension).fetch_optional(&mut *connection).await? {
        return Err(MigrateError::PgGitExtension { database, extension });
    }
    let mut transaction = connection.begin().await?;
    note_program(&mut transaction).await?;
    transaction.execute(ADOPT).await?;
    transaction.ensure_migrations_table(TABLE).await.map_err(plain)?;
    step::open_log(&mut transaction).await?;
    transaction.execute(ADOPTED).await?;
    Ok(transaction.commit().await?)
}

/// Gives it back, where it was taken over and nothing of ours is left but the log. Says whether it was.
pub(super) async fn hand_back(connection: &mut PgConnection) -> Result<bool, MigrateError> {
    let adopted = "SELECT EXISTS (SELECT FROM pggit.upgrade_log l JOIN pg_catalog.pg_namespace s ON s.nspname = l.backup \
         WHERE l.adopted IS NOT NULL AND l.status = 'completed')";
    if !sqlx::query_scalar::<_, bool>(adopted).fetch_one(&mut *connection).await? {
        return Ok(false);
    }
    let mut transaction = connection.begin().await?;
    note_program(&mut transaction).await?;
    transaction.execute(HAND_BACK).await?;
    transaction.commit().await?;
    Ok(true)
}

async fn note_program(connection: &mut PgConnection) -> Result<(), MigrateError> {
    sqlx::query("SELECT set_config('pggit.upgrade_program', $1, true), set_config('pggit.migration', 'on', true)")
        .bind(env!("CARGO_PKG_VERSION"))
        .execute(connection)
        .await?;
    Ok(())
}
