//! A branch's database knows the branch's name, for connections that go round the proxy.
//!
//! A branch made by copying a database brings its parent's name along; the first look at it puts that right.

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::connect::{RecorderError, bounded};

/// Makes `pggit.default_branch()` say `branch`. Does nothing where it does already.
pub(super) async fn settle(connection: &mut PgConnection, branch: &str) -> Result<(), RecorderError> {
    let known = sqlx::query_scalar::<_, String>("SELECT pggit.default_branch()");
    if bounded(known.fetch_one(&mut *connection)).await? == branch {
        return Ok(());
    }
    bounded(rename(connection, branch)).await
}

/// In one transaction that says it is ours, so that it is no change in the history.
async fn rename(connection: &mut PgConnection, branch: &str) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT set_config('pggit.migration', 'on', true), set_config('pggit.renamed_to', $1, true)")
        .bind(branch)
        .execute(&mut *transaction)
        .await?;
    sqlx::raw_sql(
        "DO $$ BEGIN EXECUTE pg_catalog.format('CREATE OR REPLACE FUNCTION pggit.default_branch() RETURNS text \
         LANGUAGE sql STABLE RETURN %L::text', pg_catalog.current_setting('pggit.renamed_to')); END $$",
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}
