//! Diesel: its migrations in the folders of its command line tool, over libpq.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_migrations::{FileBasedMigrations, MigrationHarness};
use pggit_proxy_clients::{url, write};

diesel::table! { diesel_item (id) { id -> Integer, name -> Text, } }

fn main() {
    let folder = write(&[
        ("2026-01-01-000000_items/up.sql", "create table diesel_item (id int primary key, name text not null)"),
        ("2026-01-01-000000_items/down.sql", "drop table diesel_item"),
        (
            "2026-01-02-000000_prices/up.sql",
            "alter table diesel_item add column price numeric(10, 2); create index diesel_item_name on diesel_item (name)",
        ),
        ("2026-01-02-000000_prices/down.sql", "alter table diesel_item drop column price"),
    ]);
    let mut connection = PgConnection::establish(&url("diesel")).unwrap();
    connection.run_pending_migrations(FileBasedMigrations::from_path(&folder).unwrap()).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let row = (diesel_item::id.eq(1), diesel_item::name.eq("a"));
    diesel::insert_into(diesel_item::table).values(row).execute(&mut connection).unwrap();
    let undone = connection.transaction::<(), diesel::result::Error, _>(|connection| {
        connection.batch_execute("create table diesel_gone (a int)")?;
        Err(diesel::result::Error::RollbackTransaction)
    });
    assert!(undone.is_err());
    let names: Vec<String> = diesel_item::table.select(diesel_item::name).load(&mut connection).unwrap();
    assert_eq!(names, ["a"]);
}
