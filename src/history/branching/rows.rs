//! The rows of `pggit.branches` and `pggit.templates`, and the locks that go with them. All in the main database.
//!
//! An advisory lock of the session says who is at work on a branch or a template. It ends with the connection, and the
//! statements that make or drop the database run on that very connection: so where nobody has the lock, nobody is at work.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::branch::{Branch, Branches, Origin};
use crate::history::connect::{RecorderError, bounded};

/// A row of `pggit.branches`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Row {
    pub database: String,
    pub status: String,
    pub origin: String,
    pub protected: bool,
    /// A server process copies it.
    pub copied: bool,
}

/// A server process: its number comes again, its start does not.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub(super) struct Process {
    pub pid: i32,
    pub start: DateTime<Utc>,
}

/// Whether the process that copies the branch `b` is alive. Whose start one may not see is taken for it.
const COPIED: &str = "b.status = 'copying' AND EXISTS (SELECT FROM pg_stat_activity a \
     WHERE a.pid = b.maker_pid AND coalesce(a.backend_start = b.maker_start, true))";

/// What a database's history ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Tip {
    /// The newest commit.
    pub commit_id: Option<Uuid>,
    /// How many there are.
    pub commits: i64,
}

/// What is locked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lock<'a> {
    /// Whoever makes, drops or renames the branch.
    Branch(&'a str),
    /// Whoever makes or drops the template; shared: whoever makes a branch from it.
    Template(&'a str),
    /// Whoever sweeps.
    Sweep,
    /// Shared by whoever is at work in the main database; alone: whoever is about to end all sessions there, as he copies it.
    Work,
}

impl Lock<'_> {
    fn key(self) -> String {
        match self {
            Self::Branch(name) => format!("pggit.branch {name}"),
            Self::Template(database) => format!("pggit.template {database}"),
            Self::Sweep => "pggit.branch_sweep".to_owned(),
            Self::Work => "pggit.branch_work".to_owned(),
        }
    }

    /// Takes it, if nobody has it.
    pub async fn try_take(self, connection: &mut PgConnection) -> Result<bool, RecorderError> {
        let taken = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended($1, 0))").bind(self.key());
        bounded(taken.fetch_one(connection)).await
    }

    /// Shares it, unless somebody has it alone, or waits for that.
    pub async fn try_share(self, connection: &mut PgConnection) -> Result<bool, RecorderError> {
        let taken = sqlx::query_scalar("SELECT pg_try_advisory_lock_shared(hashtextextended($1, 0))").bind(self.key());
        bounded(taken.fetch_one(connection)).await
    }

    /// Waits for it: as long as the one who has it needs.
    pub async fn take(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT pg_advisory_lock(hashtextextended($1, 0))")
            .bind(self.key())
            .execute(connection)
            .await
            .map(drop)
    }

    /// Waits for it, together with others who share it.
    pub async fn share(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT pg_advisory_lock_shared(hashtextextended($1, 0))")
            .bind(self.key())
            .execute(connection)
            .await
            .map(drop)
    }

    /// Gives it back; the connection's end does so, too.
    pub async fn give_back(self, connection: &mut PgConnection) -> Result<(), RecorderError> {
        let given = sqlx::query("SELECT pg_advisory_unlock(hashtextextended($1, 0))").bind(self.key());
        bounded(given.execute(connection)).await.map(drop)
    }

    /// As [`Self::give_back`], of a shared one.
    pub async fn unshare(self, connection: &mut PgConnection) -> Result<(), RecorderError> {
        let given = sqlx::query("SELECT pg_advisory_unlock_shared(hashtextextended($1, 0))").bind(self.key());
        bounded(given.execute(connection)).await.map(drop)
    }
}

/// The branch's row, whatever its status.
pub(super) async fn row(connection: &mut PgConnection, name: &str) -> Result<Option<Row>, RecorderError> {
    let sql =
        format!("SELECT database, status, origin, protected, {COPIED} AS copied FROM pggit.branches b WHERE name = $1");
    let row = sqlx::query_as(AssertSqlSafe(sql)).bind(name);
    bounded(row.fetch_optional(connection)).await
}

/// All branches, as the main database alone knows them: for commands, which have no configuration.
pub async fn branches(connection: &mut PgConnection) -> Result<Branches, RecorderError> {
    let rows = sqlx::query_as::<_, (String, String, bool, Option<String>, bool)>(
        "SELECT b.name, b.database, b.protected, b.parent, b.origin = 'configuration' FROM pggit.branches b \
         WHERE b.status = 'active' ORDER BY 1",
    );
    let rows = bounded(rows.fetch_all(&mut *connection)).await?;
    let place = sqlx::query_as("SELECT current_database()::text, pggit.default_branch()");
    let (repository, named): (String, String) = bounded(place.fetch_one(connection)).await?;
    let mut all: Vec<Branch> = rows
        .into_iter()
        .map(|(name, database, protected, parent, declared)| {
            let origin = if declared { Origin::Configuration } else { Origin::Table };
            Branch { name, database, protected, parent, origin }
        })
        .collect();
    // No proxy was here yet: the branch of the main database has no row.
    if all.iter().all(|branch| branch.database != repository && branch.name != named) {
        let database = repository.clone();
        all.push(Branch { name: named.clone(), database, protected: false, parent: None, origin: Origin::Table });
    }
    let default = all.iter().find(|branch| branch.database == repository).map_or(named, |branch| branch.name.clone());
    Ok(Branches { repository, default, all: all.into_iter().map(Into::into).collect() })
}

/// A branch, as the main database lists it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What it was made from.
    pub parent: Option<String>,
    /// Its database.
    pub database: String,
    /// Whether it refuses schema changes.
    pub protected: bool,
    /// Since when it is known.
    pub created_at: DateTime<Utc>,
    /// When it is dropped; `None`: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Bytes; `None` where this role may not ask, or there is no such database.
    pub size: Option<i64>,
}

/// All branches that are served.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Listed>, RecorderError> {
    let rows = sqlx::query_as(
        "SELECT b.name, b.parent, b.database, b.protected, b.created_at, b.expires_at, \
                CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) END AS size \
         FROM pggit.branches b LEFT JOIN pg_database d ON d.datname = b.database \
         WHERE b.status = 'active' ORDER BY b.name",
    );
    bounded(rows.fetch_all(connection)).await
}

/// Whether the server has a database of that name.
pub(super) async fn has_database(connection: &mut PgConnection, database: &str) -> Result<bool, RecorderError> {
    let found = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)").bind(database);
    bounded(found.fetch_one(connection)).await
}

/// Branches that are being made or dropped, by whomever, but for those that are just copied.
pub(super) async fn unfinished(connection: &mut PgConnection) -> Result<Vec<String>, RecorderError> {
    let sql = format!(
        "SELECT b.name FROM pggit.branches b WHERE b.status IN ('creating', 'copying', 'dropping') \
         AND b.origin = 'table' AND NOT ({COPIED}) ORDER BY 1"
    );
    bounded(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection)).await
}

/// A branch that is about to be made.
pub(super) async fn begin(
    connection: &mut PgConnection,
    (name, parent, database): (&str, &str, &str),
    by: &str,
    maker: &str,
    stays: Option<Duration>,
) -> Result<(), RecorderError> {
    let insert = sqlx::query(
        "INSERT INTO pggit.branches (name, parent, database, status, created_by, maker, expires_at) \
         VALUES ($1, $2, $3, 'creating', $4, $5, now() + make_interval(secs => $6))",
    );
    let insert = insert.bind(name).bind(parent).bind(database).bind(by).bind(maker);
    bounded(insert.bind(stays.as_ref().map(Duration::as_secs_f64)).execute(connection)).await.map(drop)
}

/// It is copied by this server process.
pub(super) async fn copying(connection: &mut PgConnection, name: &str, by: Process) -> Result<(), RecorderError> {
    let update =
        sqlx::query("UPDATE pggit.branches SET status = 'copying', maker_pid = $2, maker_start = $3 WHERE name = $1");
    bounded(update.bind(name).bind(by.pid).bind(by.start).execute(connection)).await.map(drop)
}

/// It is made: every proxy serves it.
pub(super) async fn finish(connection: &mut PgConnection, name: &str, tip: Tip) -> Result<(), RecorderError> {
    let update = sqlx::query(
        "UPDATE pggit.branches SET status = 'active', created_at = now(), fork_commit = $2, fork_commits = $3 \
         WHERE name = $1",
    );
    bounded(update.bind(name).bind(tip.commit_id).bind(tip.commits).execute(connection)).await.map(drop)
}

/// Its status from now on.
pub(super) async fn set_status(connection: &mut PgConnection, name: &str, status: &str) -> Result<(), RecorderError> {
    let update = sqlx::query("UPDATE pggit.branches SET status = $2 WHERE name = $1").bind(name).bind(status);
    bounded(update.execute(connection)).await.map(drop)
}

/// There is no such branch any more. Nor is it frozen, nor does a request wait for it: a later one of its name, which has the
/// same database, begins anew.
pub(super) async fn forget(connection: &mut PgConnection, name: &str, by: &str) -> Result<(), RecorderError> {
    let delete = sqlx::query("DELETE FROM pggit.branches WHERE name = $1").bind(name);
    bounded(delete.execute(&mut *connection)).await?;
    let thaw = sqlx::query(
        "UPDATE pggit.freezes SET lifted_by = $2, lifted_at = now() WHERE branch = $1 AND lifted_at IS NULL",
    );
    bounded(thaw.bind(name).bind(by).execute(&mut *connection)).await?;
    let expire = sqlx::query(
        "UPDATE pggit.change_requests SET status = 'expired', error = 'the branch was dropped' \
         WHERE branch = $1 AND status IN ('pending', 'approved')",
    );
    bounded(expire.bind(name).execute(connection)).await.map(drop)
}

/// Whether the branch refuses changes.
pub(super) async fn protect(connection: &mut PgConnection, name: &str, on: bool) -> Result<(), RecorderError> {
    let update = sqlx::query("UPDATE pggit.branches SET protected = $2 WHERE name = $1").bind(name).bind(on);
    bounded(update.execute(connection)).await.map(drop)
}

/// When it is dropped, counted from now on; `None`: never.
pub(super) async fn expire(
    connection: &mut PgConnection,
    name: &str,
    after: Option<Duration>,
) -> Result<(), RecorderError> {
    let update =
        sqlx::query("UPDATE pggit.branches SET expires_at = now() + make_interval(secs => $2) WHERE name = $1");
    bounded(update.bind(name).bind(after.as_ref().map(Duration::as_secs_f64)).execute(connection)).await.map(drop)
}

/// Branches whose time is over.
pub(super) async fn expired(connection: &mut PgConnection) -> Result<Vec<String>, RecorderError> {
    let names = sqlx::query_scalar(
        "SELECT b.name FROM pggit.branches b \
         WHERE b.status = 'active' AND b.origin = 'table' AND NOT b.protected AND b.expires_at <= now() ORDER BY 1",
    );
    bounded(names.fetch_all(connection)).await
}

/// Another name, also where the branch is a parent or frozen, or a request waits for it.
pub(super) async fn rename(connection: &mut PgConnection, from: &str, to: &str) -> Result<(), RecorderError> {
    let renamed = sqlx::query(
        "WITH own AS (UPDATE pggit.branches SET name = $2 WHERE name = $1), \
              others AS (UPDATE pggit.branches SET parent = $2 WHERE parent = $1 AND name <> $1), \
              requests AS (UPDATE pggit.change_requests SET branch = $2 \
                           WHERE branch = $1 AND status IN ('pending', 'approved')) \
         UPDATE pggit.freezes SET branch = $2 WHERE branch = $1 AND lifted_at IS NULL",
    );
    bounded(renamed.bind(from).bind(to).execute(connection)).await.map(drop)
}

/// Sessions in a database that are not the recorder's, each in a few words; at most ten.
pub(super) async fn sessions(connection: &mut PgConnection, database: &str) -> Result<Vec<String>, RecorderError> {
    let sessions = sqlx::query_scalar(
        "SELECT concat_ws(' ', 'process', a.pid, 'of', coalesce(a.usename, 'nobody'), \
                          'from ' || host(a.client_addr), '(' || nullif(a.application_name, '') || ')') \
         FROM pg_stat_activity a \
         WHERE a.datname = $1 AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() \
           AND NOT (a.usename = current_user AND a.application_name = $2) \
         ORDER BY a.backend_start LIMIT 10",
    );
    bounded(sessions.bind(database).bind(crate::history::APPLICATION_NAME).fetch_all(connection)).await
}
