//! What is read: the commits of one branch's database in their order, and the rows of each, in one snapshot.

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Executor as _, FromRow, Row as _};
use uuid::Uuid;

use super::{ExportError, Progress};
use crate::branch::Branches;
use crate::history::branching;
use crate::history::connect::Server;
use crate::history::recorder::close;

/// Commits that are held together.
const PAGE: usize = 250;

/// Which commits.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Those made at this time or later; a time as the server reads it, in UTC where it does not say.
    pub since: Option<String>,
    /// Those made before this time.
    pub until: Option<String>,
    /// Without those that are not sealed yet, of which some things may still change.
    pub sealed_only: bool,
}

/// A commit, as `pggit.commits` tells it.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(super) struct Commit {
    pub id: Uuid,
    pub seq: Option<i64>,
    pub branch: String,
    pub author: String,
    pub message: Option<String>,
    pub created_at: DateTime<Utc>,
    pub application_name: Option<String>,
    pub parent: Option<Uuid>,
    pub hash: Option<String>,
}

/// One branch's history in one snapshot that only reads.
pub struct Source {
    connection: PgConnection,
    branch: String,
    done: u64,
    of: u64,
}

impl Source {
    /// Begins to read.
    pub async fn open(
        server: &Server,
        known: &Branches,
        branch: &str,
        selection: &Selection,
    ) -> Result<Self, ExportError> {
        let mut connection = branching::connect_to(server, known, branch).await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'; \
                     SET LOCAL IntervalStyle = 'postgres'; SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; \
                     SET LOCAL search_path = pg_catalog; SET LOCAL jit = off";
        connection.execute(begin).await?;
        let chosen = "FROM pggit.commits c WHERE ($1::text IS NULL OR c.created_at >= $1::text::timestamptz) \
                      AND ($2::text IS NULL OR c.created_at < $2::text::timestamptz) AND (NOT $3 OR c.seq IS NOT NULL)";
        let count = format!("SELECT count(*) {chosen}");
        let count = sqlx::query_scalar::<_, i64>(AssertSqlSafe(count));
        let Selection { since, until, sealed_only } = selection;
        let of = count.bind(since).bind(until).bind(sealed_only).fetch_one(&mut connection).await;
        let of = of.map_err(branching::in_the_servers_words)?;
        // As they are sealed, and will be.
        let cursor = format!(
            "DECLARE commits NO SCROLL CURSOR FOR \
             SELECT c.id, c.seq, c.branch, c.author, c.message, c.created_at, c.application_name, c.parent, c.hash {chosen} \
             ORDER BY c.seq NULLS LAST, c.created_at, c.xid, c.id"
        );
        let cursor = sqlx::query(AssertSqlSafe(cursor)).bind(since).bind(until).bind(sealed_only);
        cursor.execute(&mut connection).await?;
        Ok(Self { connection, branch: branch.to_owned(), done: 0, of: u64::try_from(of).unwrap_or(0) })
    }

    /// The branch.
    pub fn branch(&self) -> &str {
        &self.branch
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress { branch: self.branch.clone(), commits: self.done, of: self.of }
    }

    /// The next commits; none at the end.
    pub(super) async fn page(&mut self) -> Result<Vec<Commit>, ExportError> {
        let fetch = format!("FETCH {PAGE} FROM commits");
        let page: Vec<Commit> = sqlx::query_as(AssertSqlSafe(fetch)).fetch_all(&mut self.connection).await?;
        self.done += page.len() as u64;
        Ok(page)
    }

    /// The rows of a page's commits, each with its commit's place in the page, in their order. `query` has the commits' ids in
    /// `$1`, and the place as its first column, beginning with 1.
    pub(super) async fn rows<R>(
        &mut self,
        page: &[Commit],
        query: &'static str,
        mut each: impl FnMut(usize, R) -> Result<(), ExportError>,
    ) -> Result<(), ExportError>
    where
        R: for<'r> FromRow<'r, PgRow>,
    {
        let ids: Vec<Uuid> = page.iter().map(|commit| commit.id).collect();
        let mut rows = sqlx::query(query).bind(ids).fetch(&mut self.connection);
        while let Some(row) = rows.try_next().await? {
            let place: i64 = row.try_get(0)?;
            each(usize::try_from(place - 1).unwrap_or(0), R::from_row(&row)?)?;
        }
        Ok(())
    }

    /// How many commits are not sealed yet.
    pub(super) async fn unsealed(&mut self) -> Result<u64, ExportError> {
        let count = "SELECT count(DISTINCT c.commit_id) FROM pggit.changes c \
                     WHERE NOT EXISTS (SELECT FROM pggit.seals s WHERE s.commit_id = c.commit_id)";
        let count: i64 = sqlx::query_scalar(count).fetch_one(&mut self.connection).await?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// One value of this database.
    pub(super) async fn ask(&mut self, query: &'static str) -> Result<bool, ExportError> {
        Ok(sqlx::query_scalar(query).fetch_one(&mut self.connection).await?)
    }

    /// Ends the snapshot.
    pub async fn close(self) {
        close(self.connection).await;
    }
}
