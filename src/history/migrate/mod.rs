//! The `pggit` schema's migrations: embedded in the program, applied and reverted one transaction each.
//!
//! sqlx's table of applied migrations is `pggit.migrations`; beside it `pggit.upgrade_log` has a row for each [`step`]. These two
//! are the runner's own and stay when everything is reverted, as do the backups, schemas `pggit_backup_<upgrade_id>`: only
//! [`prune`] takes them away. The sequence is ours, not [`Migrator::run`]'s, because of these, and because a schema that is not
//! ours must stay untouched.

mod adopt;
mod backups;
mod error;
mod script;
mod step;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::migrate::{Migrate as _, MigrateError as SqlxMigrateError, Migration, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};

pub use backups::{Backup, backups, prune};
pub use error::MigrateError;
pub use script::{Script, scripts};
pub use step::{Step, Way};

use super::connect::sqlstate;
use crate::change::Capture;
use crate::config;
use step::Plan;

static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

const TABLE: &str = "pggit.migrations";

/// The columns of sqlx's table; another `pggit.migrations` (pgGit's own SQL has one) is not ours.
const COLUMNS: [&str; 6] = ["version", "description", "installed_on", "success", "checksum", "execution_time"];

/// The released scripts take the same one.
const LOCK: &str = "SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended('pggit.migrations', 0))";
const UNLOCK: &str = "SELECT pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended('pggit.migrations', 0))";

/// A migration waits this long for a lock that a client holds, and for another migration that runs.
const LOCK_TIMEOUT: &str = "10s";

/// One migration, as `migrate status` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The migration's number.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// Whether the database has it.
    pub state: State,
}

/// Whether the database has a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not yet.
    Pending,
    /// Since then.
    Applied(DateTime<Utc>),
    /// Since then, but from another text than this program has.
    Differs(DateTime<Utc>),
    /// Since then, by a newer program; this one does not know it.
    Unknown(DateTime<Utc>),
}

/// The version that this program expects.
pub fn latest() -> i64 {
    ups().map(|migration| migration.version).max().unwrap_or(0)
}

/// How to go up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Up {
    /// Not further than this version.
    pub to: Option<i64>,
    /// Event triggers are installed if this wants them, or leaves it open and this role may; see [`mode`].
    pub capture: config::Capture,
    /// Take over a database in which pgGit's own SQL is installed.
    pub adopt: bool,
}

/// Where a way down ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// At this version; of 0 only the log and the backups are left.
    Version(i64),
    /// At nothing of ours: pgGit's own SQL, which was taken over once, is there again.
    HandedBack,
}

/// Applies what is pending. Returns the version reached.
pub async fn up(
    connection: &mut PgConnection,
    how: Up,
    told: &mut (dyn FnMut(&Step) + Send),
) -> Result<i64, MigrateError> {
    let to = known_version(how.to)?.unwrap_or(i64::MAX);
    prepare(connection).await?;
    let result = up_locked(connection, to, how, told).await;
    release(connection).await;
    result
}

/// Reverts what is above version `to`; without it the newest one.
pub async fn down(
    connection: &mut PgConnection,
    to: Option<i64>,
    told: &mut (dyn FnMut(&Step) + Send),
) -> Result<Reached, MigrateError> {
    let to = known_version(to)?;
    prepare(connection).await?;
    let result = down_locked(connection, to, told).await;
    release(connection).await;
    result
}

/// What the database's changes are recorded by; `None` where it has no capture yet.
pub async fn mode(connection: &mut PgConnection) -> Result<Option<Capture>, MigrateError> {
    let injects = sqlx::query_scalar::<_, bool>("SELECT pggit.capture_mode() = 'inject'").fetch_one(connection).await;
    match injects {
        Ok(injects) => Ok(Some(if injects { Capture::Inject } else { Capture::Trigger })),
        // invalid_schema_name, undefined_function
        Err(error) if matches!(sqlstate(&error), Some("3F000" | "42883")) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Every migration that the program or the database knows, by version. Only reads.
pub async fn status(connection: &mut PgConnection) -> Result<Vec<Status>, MigrateError> {
    let applied = applied(connection).await?;
    let mut all = BTreeMap::new();
    for migration in ups() {
        let (version, name) = (migration.version, migration.description.to_string());
        all.insert(version, Status { version, name, state: State::Pending });
    }
    for (version, row) in applied {
        let state = match ups().find(|migration| migration.version == version) {
            Some(known) if *known.checksum == *row.checksum => State::Applied(row.at),
            Some(_) => State::Differs(row.at),
            None => State::Unknown(row.at),
        };
        all.insert(version, Status { version, name: row.name, state });
    }
    Ok(all.into_values().collect())
}

/// A row of `pggit.migrations`.
struct Applied {
    name: String,
    checksum: Vec<u8>,
    at: DateTime<Utc>,
}

/// What a database has under the name `pggit`.
enum Found {
    Nothing,
    Ours,
    /// Made by pgGit's own SQL.
    PgGit,
    Foreign,
}

async fn up_locked(
    connection: &mut PgConnection,
    to: i64,
    how: Up,
    told: &mut (dyn FnMut(&Step) + Send),
) -> Result<i64, MigrateError> {
    if how.adopt && to > 0 && matches!(find(connection).await?, Found::PgGit) {
        // Before anything is touched: whether this role may do what follows.
        choose(connection, how.capture).await?;
        let database = database(connection).await?;
        adopt::adopt(connection, database).await?;
    }
    let applied = applied(connection).await?;
    verify(&applied)?;
    let pending: Vec<_> = ups().filter(|m| m.version <= to && !applied.contains_key(&m.version)).collect();
    let mut reached = applied.keys().last().copied().unwrap_or(0);
    if pending.is_empty() {
        if !applied.is_empty() {
            make_tables(connection).await?;
            // What pgGit's triggers wrote behind our back, if any.
            connection.execute(adopt::IMPORT).await?;
        }
        return Ok(reached);
    }
    let mode = choose(connection, how.capture).await?;
    sqlx::query("SELECT set_config('pggit.capture', $1, false)").bind(mode.as_str()).execute(&mut *connection).await?;
    make_tables(connection).await?;
    // What this run makes from nothing needs no backup, and what it brings back has one.
    let back_up = reached > 0;
    for migration in pending {
        let plan = Plan { way: Way::Up, migration, from: reached, to: migration.version, back_up };
        told(&step::run(connection, &plan).await?);
        reached = reached.max(migration.version);
    }
    Ok(reached)
}

async fn down_locked(
    connection: &mut PgConnection,
    to: Option<i64>,
    told: &mut (dyn FnMut(&Step) + Send),
) -> Result<Reached, MigrateError> {
    let mut applied = applied(connection).await?;
    verify(&applied)?;
    // The one below the newest.
    let to = to.unwrap_or_else(|| applied.keys().rev().nth(1).copied().unwrap_or(0));
    let downs = MIGRATOR.iter().filter(|m| m.migration_type.is_down_migration());
    let mut downs: Vec<_> = downs.filter(|m| m.version > to && applied.contains_key(&m.version)).collect();
    downs.sort_by_key(|migration| std::cmp::Reverse(migration.version));
    let ours = matches!(find(connection).await?, Found::Ours);
    if ours {
        make_tables(connection).await?;
    }
    for migration in downs {
        applied.remove(&migration.version);
        let to = applied.keys().last().copied().unwrap_or(0);
        let plan = Plan { way: Way::Down, migration, from: migration.version, to, back_up: true };
        told(&step::run(connection, &plan).await?);
    }
    if ours && applied.is_empty() && adopt::hand_back(connection).await? {
        return Ok(Reached::HandedBack);
    }
    Ok(Reached::Version(applied.keys().last().copied().unwrap_or(0)))
}

/// Checks the server, and takes the lock so that no two migrations run together.
async fn prepare(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let (number, version, standby): (i32, String, bool) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery()",
    )
    .fetch_one(&mut *connection)
    .await?;
    if number < 140_000 {
        return Err(MigrateError::ServerTooOld(version));
    }
    if standby {
        return Err(MigrateError::Standby);
    }
    // Whatever role and database are set to: an unqualified name must not land in anybody's schema, a lock must not
    // be waited for behind which everybody else would queue.
    connection
        .execute(
            "SET search_path = pg_catalog, pg_temp; SET lock_timeout = '10s'; SET statement_timeout = 0; \
             SET idle_in_transaction_session_timeout = 0; SET default_transaction_read_only = off; \
             SET default_transaction_isolation = 'read committed'; SET client_min_messages = warning",
        )
        .await?;
    match connection.execute(LOCK).await {
        Ok(_) => Ok(()),
        Err(error) if sqlstate(&error) == Some("55P03") => Err(MigrateError::Busy),
        Err(error) => Err(error.into()),
    }
}

async fn release(connection: &mut PgConnection) {
    // The server does it anyway when the connection ends.
    let _ = connection.execute(UNLOCK).await;
}

async fn find(connection: &mut PgConnection) -> Result<Found, sqlx::Error> {
    let (columns, used, pggit): (Option<Vec<String>>, Option<bool>, bool) = sqlx::query_as(
        "SELECT (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
                 WHERE a.attrelid = to_regclass('pggit.migrations') AND a.attnum > 0 AND NOT a.attisdropped), \
                (SELECT EXISTS (SELECT FROM pg_catalog.pg_depend d \
                                WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = n.oid \
                                  AND d.classid <> 'pg_catalog.pg_default_acl'::regclass) \
                 FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pggit'), \
                (SELECT count(*) = 9 FROM pg_catalog.pg_attribute a \
                 WHERE NOT a.attisdropped AND (a.attrelid, a.attname::text) IN ( \
                    (to_regclass('pggit.objects'), 'id'), (to_regclass('pggit.objects'), 'object_type'), \
                    (to_regclass('pggit.objects'), 'schema_name'), (to_regclass('pggit.objects'), 'object_name'), \
                    (to_regclass('pggit.history'), 'id'), (to_regclass('pggit.history'), 'object_id'), \
                    (to_regclass('pggit.history'), 'change_type'), (to_regclass('pggit.history'), 'sql_executed'), \
                    (to_regclass('pggit.history'), 'created_at')))",
    )
    .fetch_one(connection)
    .await?;
    Ok(match (columns, used) {
        (Some(columns), _) if columns == COLUMNS => Found::Ours,
        (Some(_), _) | (None, Some(true)) if pggit => Found::PgGit,
        (Some(_), _) | (None, Some(true)) => Found::Foreign,
        (None, None | Some(false)) => Found::Nothing,
    })
}

async fn database(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("SELECT current_database()::text").fetch_one(connection).await
}

async fn applied(connection: &mut PgConnection) -> Result<BTreeMap<i64, Applied>, MigrateError> {
    match find(connection).await? {
        Found::Nothing => return Ok(BTreeMap::new()),
        Found::Foreign => return Err(MigrateError::Foreign { database: database(connection).await? }),
        Found::PgGit => return Err(MigrateError::PgGit { database: database(connection).await? }),
        Found::Ours => {}
    }
    let rows: Vec<(i64, String, Vec<u8>, DateTime<Utc>)> =
        sqlx::query_as("SELECT version, description, checksum, installed_on FROM pggit.migrations")
            .fetch_all(connection)
            .await?;
    let row = |(version, name, checksum, at)| (version, Applied { name, checksum, at });
    Ok(rows.into_iter().map(row).collect())
}

/// The database must have nothing that this program does not know exactly.
fn verify(applied: &BTreeMap<i64, Applied>) -> Result<(), MigrateError> {
    for (version, row) in applied {
        match ups().find(|migration| migration.version == *version) {
            Some(known) if *known.checksum == *row.checksum => {}
            Some(_) => return Err(MigrateError::Differs { version: *version }),
            None => return Err(MigrateError::TooNew { found: *version, latest: latest() }),
        }
    }
    Ok(())
}

/// What changes will be recorded by: event triggers only for roles that may have them.
async fn choose(connection: &mut PgConnection, wanted: config::Capture) -> Result<Capture, MigrateError> {
    let (role, able): (String, bool) = sqlx::query_as(
        "SELECT current_user::text, rolsuper OR EXISTS (SELECT FROM pg_catalog.pg_roles r \
             WHERE r.rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'alloydbsuperuser', 'azure_pg_admin') \
               AND pg_has_role(current_user, r.oid, 'MEMBER')) \
         FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    .fetch_one(connection)
    .await?;
    match wanted {
        config::Capture::Inject => Ok(Capture::Inject),
        config::Capture::Auto | config::Capture::Trigger if able => Ok(Capture::Trigger),
        config::Capture::Auto => Ok(Capture::Inject),
        config::Capture::Trigger => Err(MigrateError::NotSuperuser { role }),
    }
}

/// Schema and tables together, so that there is never an empty schema that nobody owns up to.
async fn make_tables(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let mut transaction = connection.begin().await?;
    // Where triggers record already, what the runner makes is no change of the user's.
    transaction.execute("SELECT pg_catalog.set_config('pggit.migration', 'on', true)").await?;
    transaction.create_schema_if_not_exists("pggit").await.map_err(plain)?;
    transaction.ensure_migrations_table(TABLE).await.map_err(plain)?;
    step::open_log(&mut transaction).await?;
    Ok(transaction.commit().await?)
}

/// The errors that sqlx's steps have apart from a script's own.
fn plain(error: SqlxMigrateError) -> MigrateError {
    match error {
        SqlxMigrateError::Execute(error) => MigrateError::Sql(error),
        other => MigrateError::Sql(sqlx::Error::Protocol(other.to_string())),
    }
}

fn ups() -> impl Iterator<Item = &'static Migration> {
    MIGRATOR.iter().filter(|migration| !migration.migration_type.is_down_migration())
}

fn known_version(to: Option<i64>) -> Result<Option<i64>, MigrateError> {
    match to {
        Some(version) if version != 0 && !MIGRATOR.version_exists(version) => Err(MigrateError::NoSuchVersion(version)),
        Some(_) | None => Ok(to),
    }
}

fn known_versions() -> String {
    let versions: Vec<String> = ups().map(|migration| migration.version.to_string()).collect();
    format!("0, {}", versions.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_can_be_reverted() {
        for up in ups() {
            let down = MIGRATOR.iter().find(|m| m.version == up.version && m.migration_type.is_down_migration());
            assert!(down.is_some(), "migration {} has no down script", up.version);
            assert!(
                !up.no_tx && down.is_some_and(|down| !down.no_tx),
                "migration {} must run in a transaction",
                up.version
            );
        }
    }

    #[test]
    fn migrations_can_be_sent_to_a_database_of_any_encoding() {
        for migration in MIGRATOR.iter() {
            assert!(migration.sql.as_str().is_ascii(), "migration {} is not plain ASCII", migration.version);
        }
    }

    #[test]
    fn an_unknown_target_names_the_known_ones() {
        let error = known_version(Some(999)).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with("there is no migration 999: known are 0, "), "{error}");
    }
}
