//! The rows of `pggit.templates`, in the main database.

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::rows::Tip;
use crate::history::connect::{RecorderError, bounded};

/// Templates of one parent that are kept: those used last.
const KEPT: i64 = 2;

/// A template that is ready is used now.
pub(super) async fn using(connection: &mut PgConnection, database: &str) -> Result<Option<Tip>, RecorderError> {
    let used = sqlx::query_as(
        "UPDATE pggit.templates t SET used_at = now() WHERE t.database = $1 AND t.status = 'ready' \
         AND EXISTS (SELECT FROM pg_database d WHERE d.datname = t.database) RETURNING t.commit_id, t.commits",
    );
    bounded(used.bind(database).fetch_optional(connection)).await
}

/// The template of a parent at a commit, where one is kept.
pub(super) async fn at(
    connection: &mut PgConnection,
    parent: &str,
    commit: Uuid,
) -> Result<Option<String>, RecorderError> {
    let found = sqlx::query_scalar(
        "SELECT t.database FROM pggit.templates t \
         WHERE t.parent_database = $1 AND t.commit_id = $2 AND t.status = 'ready' ORDER BY t.used_at DESC LIMIT 1",
    );
    bounded(found.bind(parent).bind(commit).fetch_optional(connection)).await
}

/// A template is about to be made.
pub(super) async fn begin(
    connection: &mut PgConnection,
    (database, parent): (&str, &str),
    tip: Tip,
    maker: &str,
) -> Result<(), RecorderError> {
    let insert = sqlx::query(
        "INSERT INTO pggit.templates (database, parent_database, commit_id, commits, maker) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (database) DO UPDATE SET status = 'creating', maker = excluded.maker",
    );
    let insert = insert.bind(database).bind(parent).bind(tip.commit_id).bind(tip.commits).bind(maker);
    bounded(insert.execute(connection)).await.map(drop)
}

/// It is made.
pub(super) async fn finish(connection: &mut PgConnection, database: &str) -> Result<(), RecorderError> {
    let update = sqlx::query("UPDATE pggit.templates SET status = 'ready', used_at = now() WHERE database = $1");
    bounded(update.bind(database).execute(connection)).await.map(drop)
}

/// It is gone.
pub(super) async fn forget(connection: &mut PgConnection, database: &str) -> Result<(), RecorderError> {
    let delete = sqlx::query("DELETE FROM pggit.templates WHERE database = $1").bind(database);
    bounded(delete.execute(connection)).await.map(drop)
}

/// Those that nobody needs, as long as nobody is at work on them: half made, of a parent that is gone, or older than the
/// last ones of their parent.
pub(super) async fn unneeded(connection: &mut PgConnection) -> Result<Vec<String>, RecorderError> {
    let found = sqlx::query_scalar(
        "SELECT t.database FROM ( \
             SELECT t.*, row_number() OVER (PARTITION BY t.parent_database, t.status ORDER BY t.used_at DESC) AS n \
             FROM pggit.templates t) t \
         WHERE t.status <> 'ready' OR t.n > $1 \
            OR NOT EXISTS (SELECT FROM pg_database d WHERE d.datname = t.database) \
            OR NOT EXISTS (SELECT FROM pg_database d WHERE d.datname = t.parent_database) \
         ORDER BY t.used_at",
    );
    bounded(found.bind(KEPT).fetch_all(connection)).await
}
