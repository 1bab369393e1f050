//! Looking back: the schema of a branch as it is or was, and who touched which column last. The branch's own database says so, by
//! its history (`pggit.schema`, `pggit.blame`).

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::error::BranchError;
use super::{find, sql};
use crate::branch::Branches;
use crate::history::connect::{Server, sqlstate};
use crate::history::recorder::close;

/// When a branch is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// As it is.
    Now,
    /// After a commit.
    Commit(Uuid),
    /// After every commit that was made by then; a time as the server reads it, in UTC where it does not say.
    Time(String),
}

/// One fact of a schema, and the change that made it so.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Fact {
    /// PostgreSQL's word for the kind of object.
    pub object_type: String,
    /// As `pg_identify_object` prints it.
    pub object_identity: String,
    /// `definition`, `comment`, `security label`; of the present also `grants`.
    pub fact: String,
    /// The definition, or whatever it is.
    pub value: String,
    /// It names something by a name that it did not have any more.
    pub stale: bool,
    /// `None` in this and the following: nobody recorded it.
    pub commit_id: Option<Uuid>,
    /// Who changed it last.
    pub author: Option<String>,
    /// When.
    pub changed_at: Option<DateTime<Utc>>,
    /// What for.
    pub message: Option<String>,
}

/// One column of a table, and the change that touched it last.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Blamed {
    /// Its name now.
    pub column_name: String,
    /// Its type now.
    pub data_type: String,
    /// `CREATE`, `ALTER`, `COMMENT` or `BASELINE`; `None` in this and the following: nobody recorded it.
    pub change_type: Option<String>,
    /// The commit.
    pub commit_id: Option<Uuid>,
    /// Whose it is.
    pub author: Option<String>,
    /// When it was made.
    pub changed_at: Option<DateTime<Utc>>,
    /// What for.
    pub message: Option<String>,
    /// The statement.
    pub sql_executed: Option<String>,
}

/// The schema of a branch, sorted by type and identity.
pub async fn schema(
    server: &Server,
    known: &Branches,
    branch: &str,
    moment: &Moment,
) -> Result<Vec<Fact>, BranchError> {
    let (call, argument) = match moment {
        Moment::Now => ("pggit.schema()", None),
        Moment::Commit(id) => ("pggit.schema($1::uuid)", Some(id.to_string())),
        Moment::Time(time) => ("pggit.schema($1::timestamptz)", Some(time.clone())),
    };
    // By place: one of the functions has a parameter of the name commit_id, and its column another.
    let query = format!(
        "SELECT * FROM {call} s(object_type, object_identity, fact, value, stale, commit_id, author, changed_at, message) \
         ORDER BY object_type, object_identity, fact"
    );
    ask(server, known, branch, &query, argument).await
}

/// Who touched the columns of a table or view last, in their order.
pub async fn blame(
    server: &Server,
    known: &Branches,
    branch: &str,
    relation: &str,
) -> Result<Vec<Blamed>, BranchError> {
    ask(server, known, branch, "SELECT * FROM pggit.blame($1::text::regclass)", Some(relation.to_owned())).await
}

/// A connection to a branch's database, for as long as it is needed.
pub(in crate::history) async fn connect_to(
    server: &Server,
    known: &Branches,
    branch: &str,
) -> Result<PgConnection, BranchError> {
    let branch = find(known, branch)?;
    sql::connect(server, &branch.database).await
}

async fn ask<T>(
    server: &Server,
    known: &Branches,
    branch: &str,
    query: &str,
    argument: Option<String>,
) -> Result<Vec<T>, BranchError>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let mut connection = connect_to(server, known, branch).await?;
    let rows = answer(&mut connection, query, argument).await;
    close(connection).await;
    rows.map_err(in_the_servers_words)
}

async fn answer<T>(connection: &mut PgConnection, query: &str, argument: Option<String>) -> Result<Vec<T>, sqlx::Error>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    // Names without a schema are looked for where most of them are.
    sql::run(connection, "SET TimeZone = 'UTC'; SET search_path = pg_catalog, public").await?;
    let query = sqlx::query_as(AssertSqlSafe(query.to_owned()));
    match argument {
        Some(argument) => query.bind(argument).fetch_all(connection).await,
        None => query.fetch_all(connection).await,
    }
}

/// There is no such commit, time or table, or it is no name.
pub(in crate::history) fn in_the_servers_words(error: sqlx::Error) -> BranchError {
    const ASKED: [&str; 7] = ["22023", "22007", "22008", "22009", "42P01", "42602", "3F000"];
    let known = sqlstate(&error).and_then(|code| ASKED.into_iter().find(|asked| *asked == code));
    match (known, error) {
        (Some(sqlstate), sqlx::Error::Database(error)) => {
            BranchError::NotThere { message: error.message().to_owned(), sqlstate }
        }
        (_, error) => error.into(),
    }
}
