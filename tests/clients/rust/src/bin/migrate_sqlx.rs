//! sqlx: `migrate_sqlx DATABASE N`: its migrator over a folder with the first N of two migrations.

use pggit_proxy_clients::{variable, write};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

const MIGRATIONS: [(&str, &str); 2] = [
    ("1_items.sql", "create table sqlx_tool (id int primary key)"),
    ("2_prices.sql", "alter table sqlx_tool add column price numeric(10, 2)"),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), sqlx::Error> {
    let mut arguments = std::env::args().skip(1);
    let (database, upto) = (arguments.next().unwrap(), arguments.next().unwrap().parse().unwrap());
    let options = PgConnectOptions::new()
        .host(&variable("HOST"))
        .port(variable("PORT").parse().unwrap())
        .username("postgres")
        .database(&database)
        .application_name("sqlx");
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await?;
    let folder = write(&MIGRATIONS[..upto]);
    let done = Migrator::new(folder.as_path()).await?.run(&pool).await;
    std::fs::remove_dir_all(folder)?;
    pool.close().await;
    Ok(done?)
}
