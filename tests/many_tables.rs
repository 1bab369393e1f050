//! What recording a change costs the client does not grow with the database. Counted, not timed: the rows that the server reads
//! from its catalogs for one statement with the recording in it, less those that it reads for the same statement alone, in a
//! small database and in one with many tables.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{Pg, PgServer, Proxy, Wire, migrate, migrate_without_triggers, versions};

const TABLES: usize = 800;

/// One after the other; `{n}` is another number each time.
const CHANGES: [&str; 20] = [
    "create table one{n} (id int primary key, name text not null, n serial, check (id > 0))",
    "create table two{n} (id int references one{n})",
    "alter table one{n} add column note text default 'none'",
    "alter table one{n} alter column id type bigint",
    "alter table one{n} rename column note to remark",
    "create index index{n} on one{n} (name)",
    "alter index index{n} rename to index_of{n}",
    "create view view{n} as select id from one{n}",
    "create type label{n} as enum ('a')",
    "create type pair{n} as (a int)",
    "create domain some{n} as int check (value > 0)",
    "create function f{n}() returns int language sql as 'select 1'",
    "create table parts{n} (id int) partition by range (id)",
    "create table part{n} partition of parts{n} for values from (1) to (2)",
    "alter table two{n} rename to three{n}",
    "drop view view{n}",
    "drop type label{n}",
    "alter table one{n} drop column name",
    "drop table three{n}",
    "drop table one{n}",
];

/// Rows of the catalogs that grow with every table, as this session has read them in its transaction.
const READ: &str = "select sum(pg_stat_get_xact_tuples_returned(c) + pg_stat_get_xact_tuples_fetched(c)) \
                    from unnest('{pg_class,pg_attribute,pg_attrdef,pg_type,pg_depend,pg_constraint,pg_index,pg_sequence}'::regclass[]) c";

fn rows_read(client: &mut Wire, change: &str) -> i64 {
    client.rows("begin");
    let before: i64 = client.value(READ).parse().unwrap();
    client.rows(change);
    let after: i64 = client.value(READ).parse().unwrap();
    client.rows("commit");
    after - before
}

/// For each change, once the session has made all of them: the first time plans are made, and caches filled.
fn measure(client: &mut Wire) -> Vec<i64> {
    for number in 0..2 {
        for change in CHANGES {
            client.rows(&change.replace("{n}", &number.to_string()));
        }
    }
    CHANGES.iter().map(|change| rows_read(client, &change.replace("{n}", "_last"))).collect()
}

/// The rows that recording reads.
fn of_recording(version: Pg, capture: &str, tables: usize) -> Vec<i64> {
    let server = PgServer::shared(version);
    let plain = server.unique_database("plain");
    for first in (0..tables).step_by(200) {
        let last = first + 199;
        server.psql(
            &plain,
            &format!(
                "do $$ begin for i in {first} .. {last} loop execute format( \
                 'create table many%s (id int primary key, name text not null, n serial, check (id > 0))', i); end loop; end $$"
            ),
        );
    }
    server.psql(&plain, "vacuum analyze");
    let recorded = format!("{plain}_recorded");
    server.psql("postgres", &format!("create database {recorded} template {plain}"));
    match capture {
        "trigger" => migrate(server, &recorded),
        _ => migrate_without_triggers(server, &recorded),
    }
    let config = format!("[upstream]\ndbname = \"{recorded}\"\n[history]\ncapture = \"{capture}\"\n");
    let proxy = Proxy::start(server, &config);
    let alone = measure(&mut Wire::connect(server.address, &[("user", "postgres"), ("database", &plain)]));
    let with = measure(&mut proxy.connect(&recorded));
    alone.iter().zip(with).map(|(alone, with)| with - alone).collect()
}

#[test]
fn recording_reads_no_more_where_there_are_many_tables() {
    let mut more = Vec::new();
    for version in versions() {
        for capture in ["trigger", "inject"] {
            let (few, many) = (of_recording(version, capture, 0), of_recording(version, capture, TABLES));
            for ((change, few), many) in CHANGES.iter().zip(few).zip(many) {
                if many > few + 200 {
                    more.push(format!("{version:?}, {capture}: {few} rows, with {TABLES} tables {many}: {change}"));
                }
            }
        }
    }
    assert!(more.is_empty(), "{}", more.join("\n"));
}
