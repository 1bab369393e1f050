//! sqlx: its migrator over a folder of SQL files, then queries through a pool.

use pggit_proxy_clients::{url, write};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), sqlx::Error> {
    // One: which of several a statement takes would differ from run to run.
    let pool = PgPoolOptions::new().max_connections(1).connect(&url("sqlx")).await?;
    let folder = write(&[
        ("1_items.sql", "create table sqlx_item (id int primary key, name text)"),
        (
            "2_prices.sql",
            "alter table sqlx_item add column price numeric(10, 2); create index sqlx_item_name on sqlx_item (name)",
        ),
    ]);
    Migrator::new(folder.as_path()).await?.run(&pool).await?;
    std::fs::remove_dir_all(folder)?;
    sqlx::query("insert into sqlx_item (id, name) values ($1, $2)").bind(1).bind("a").execute(&pool).await?;
    let mut transaction = pool.begin().await?;
    sqlx::query("create table sqlx_gone (a int)").execute(&mut *transaction).await?;
    transaction.rollback().await?;
    let name: String = sqlx::query_scalar("select name from sqlx_item where id = $1").bind(1).fetch_one(&pool).await?;
    assert_eq!(name, "a");
    pool.close().await;
    Ok(())
}
