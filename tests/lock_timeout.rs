//! `ddl_lock_timeout`: DDL waits no longer for its locks, and its session is as it was.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::wire::{bind, close, describe, execute, extended, parse, query, said, sync};
use support::{PgServer, Proxy, Repository, Wire, migrate_without_triggers, normalised, versions};

const ALLOW: &str = "[[rule]]\nname = \"owner\"\nuser = \"postgres\"\naction = \"allow\"\n";

/// Protected `main`.
fn config(keys: &str) -> String {
    format!("[branches.main]\nprotected = true\n{keys}{ALLOW}")
}

/// With event triggers and without them.
fn each(keys: &str, test: impl Fn(&Repository)) {
    for version in versions() {
        test(&Repository::new(version, &config(keys)));
        let server = PgServer::shared(version);
        let database = server.unique_database("app");
        migrate_without_triggers(server, &database);
        let text = format!("[upstream]\ndbname = \"{database}\"\n{}", config(keys));
        let proxy = Proxy::start(server, &text);
        test(&Repository { server, database, proxy });
    }
}

impl Repository {
    fn direct(&self) -> Wire {
        Wire::connect(self.server.address, &[("user", "postgres"), ("database", &self.database)])
    }

    /// Somebody who reads the table `t` and does not end.
    fn reader(&self) -> Wire {
        let mut reader = self.direct();
        reader.rows("begin; select * from t");
        reader
    }
}

impl Wire {
    /// Sooner or later: whoever looks at the table in passing, as we do, may be in its way for longer than it waits.
    fn goes_through(&mut self, sql: &str) {
        let done = support::eventually(support::PATIENCE, || {
            let found = self.ask(&query(sql));
            let failed = found.iter().any(|message| message.tag == b'E');
            assert!(!failed || said(&found) == GIVEN_UP, "{found:?}");
            !failed
        });
        assert!(done, "{sql}");
    }
}

const GIVEN_UP: &str = "55P03 canceling statement due to lock timeout";
const ALTER: &str = "alter table t add column b text";

#[test]
fn ddl_on_a_protected_branch_gives_up_with_the_servers_own_error() {
    each("ddl_lock_timeout = \"50ms\"\n", |r| {
        r.sql("create table t (a bigint)");
        let mut reader = r.reader();
        let mut client = r.client();
        assert_eq!(said(&client.ask(&query(ALTER))), GIVEN_UP);
        assert_eq!(said(&client.ask(&extended(ALTER, &[]))), GIVEN_UP);
        let error = client.error(&format!("select 1; {ALTER}; select 2"));
        assert_eq!(error.field(b'C').as_deref(), Some("55P03"));
        let batch = [
            parse("p", ALTER, &[]),
            bind("q", "p", &[]),
            describe(b'P', "q"),
            execute("q", 0),
            close(b'S', "p"),
            sync(),
        ];
        assert_eq!(said(&client.ask(&batch.concat())), GIVEN_UP);
        assert_eq!(client.value("show lock_timeout"), "0");
        // In a transaction with a savepoint it goes on.
        client.rows("begin");
        client.rows("savepoint s");
        assert_eq!(said(&client.ask(&query(ALTER))), GIVEN_UP);
        client.rows("rollback to s");
        assert_eq!(client.value("show lock_timeout"), "0");
        client.rows("create table u (a bigint)");
        client.rows("commit");
        reader.rows("rollback");
        client.goes_through(ALTER);
        assert_eq!(client.value("show lock_timeout"), "0");
        let row = "select count(*) from pggit.history where object_name = 't' and sql_executed ~ 'add column b' and sql_executed !~ 'companion'";
        assert_ne!(r.sql(row), "0");
    });
}

#[test]
fn what_the_session_says_itself_holds() {
    each("ddl_lock_timeout = \"50ms\"\n", |r| {
        r.sql("create table t (a bigint)");
        r.sql(&format!("alter database \"{}\" set statement_timeout = '60s'", r.database));
        let mut reader = r.reader();
        let long = |client: &mut Wire| {
            // It waits for the reader, longer than the branch allows: a cancel ends it.
            client.send(&query(ALTER));
            let waits = "select count(*) from pg_locks where not granted and relation = 't'::regclass";
            assert!(support::eventually(support::PATIENCE, || r.sql(waits) == "1"));
            let old = "with waiting as materialized (select pid from pg_stat_activity where wait_event_type = 'Lock' \
                       and query like '%alter table t%' and clock_timestamp() - query_start > '200ms') \
                       select count(pg_cancel_backend(pid)) from waiting";
            assert!(support::eventually(support::PATIENCE, || r.sql(old) == "1"));
            assert_eq!(said(&client.read_until_ready()), "57014 canceling statement due to user request");
        };
        let mut client = r.client();
        client.rows("set lock_timeout = '10min'");
        long(&mut client);
        assert_eq!(client.value("show lock_timeout"), "10min");
        client.rows("reset lock_timeout");
        assert_eq!(said(&client.ask(&query(ALTER))), GIVEN_UP);
        // Given at the connection's start; of the database.
        let options = [("user", "postgres"), ("database", r.database.as_str()), ("options", "-c lock_timeout=9min")];
        let mut client = Wire::connect(r.proxy.clients, &options);
        long(&mut client);
        r.sql(&format!("alter database \"{}\" set lock_timeout = '8min'", r.database));
        let mut client = r.client();
        long(&mut client);
        assert_eq!(client.value("show lock_timeout"), "8min");
        // In the same text, before it.
        r.sql(&format!("alter database \"{}\" reset lock_timeout", r.database));
        let mut client = r.client();
        let text = format!("set lock_timeout = '7ms'; {ALTER}");
        assert_eq!(said(&client.ask(&query(&text))), GIVEN_UP);
        reader.rows("rollback");
        client.goes_through(&text);
        assert_eq!(client.value("show lock_timeout"), "7ms");
    });
}

#[test]
fn nothing_of_it_is_seen() {
    each("", |r| {
        let database = r.server.unique_database("direct");
        let mut plain = Wire::connect(r.server.address, &[("user", "postgres"), ("database", &database)]);
        let mut client = r.client();
        for bytes in [
            query("create table t (a bigint, b text)"),
            query("show lock_timeout"),
            extended("alter table t add column c text", &[]),
            extended("show lock_timeout", &[]),
            query("begin"),
            query("alter table t add column d text"),
            query("show lock_timeout"),
            query("savepoint s"),
            query("alter table t drop column d"),
            query("alter table t drop column nothing"),
            query("rollback to s"),
            query("show lock_timeout"),
            query("alter table t drop column d; show lock_timeout; alter table t add column e text"),
            query("commit"),
            query("show lock_timeout"),
            query("select 1; alter table missing add column a int; select 2"),
            query("show lock_timeout; create table u (); show lock_timeout"),
            query("begin; create view v as select 1 as a; show lock_timeout; commit"),
            query("set lock_timeout = '3s'"),
            query("drop view v; show lock_timeout"),
            query("reset lock_timeout; show lock_timeout"),
            query("create index concurrently i on t (a)"),
            query("create temp table mine ()"),
            query("drop table t, u"),
            query("show lock_timeout"),
        ] {
            assert_eq!(normalised(&client.ask(&bytes)), normalised(&plain.ask(&bytes)), "{}", bytes.escape_ascii());
        }
    });
}

#[test]
fn only_protected_branches_have_it_unless_it_is_said() {
    let inside = "do $$ begin raise exception '%', current_setting('lock_timeout'); end $$";
    for (keys, wanted) in [
        ("", "0"),
        ("[branches.main]\nprotected = true\n", "5s"),
        ("[branches.main]\nprotected = true\nddl_lock_timeout = \"0s\"\n", "0"),
        ("[branches.main]\nddl_lock_timeout = \"70s\"\n", "70s"),
        ("[branches]\nddl_lock_timeout = \"3s\"\n", "0"),
        ("[branches]\nddl_lock_timeout = \"3s\"\n[branches.main]\nprotected = true\n", "3s"),
    ] {
        for version in versions() {
            let r = Repository::new(version, &format!("{keys}{ALLOW}"));
            r.sql("create table t (a bigint); create function told() returns text language plpgsql as $$ begin return current_setting('lock_timeout'); end $$");
            let mut client = r.client();
            client.rows("create table seen as select told() as a");
            let found = r.sql("select a from seen");
            assert_eq!(found, wanted, "{keys}");
            assert!(client.error(inside).field(b'M').unwrap() == "0", "no DDL by its text");
        }
    }
}

/// It would end them in the middle, with an index that is not valid left behind: docs/LINT.md.
#[test]
fn what_runs_concurrently_waits_as_long_as_it_takes() {
    each("ddl_lock_timeout = \"50ms\"\n", |r| {
        r.sql("create table t (a bigint)");
        for sql in ["create index concurrently i on t (a)", "drop index concurrently i"] {
            let mut writer = r.direct();
            writer.rows("begin; insert into t values (1)");
            let mut client = r.client();
            client.send(&query(sql));
            let waits = format!(
                "select count(*) from pg_stat_activity where query = '{sql}' and wait_event_type = 'Lock' \
                 and clock_timestamp() - query_start > '200ms'"
            );
            assert!(support::eventually(support::PATIENCE, || r.sql(&waits) == "1"), "{sql}");
            // Nobody has to wait behind it.
            r.sql("set lock_timeout = '50ms'; insert into t values (2); select count(*) from t");
            writer.rows("commit");
            let found = client.read_until_ready();
            assert!(found.iter().all(|message| message.tag != b'E'), "{sql}: {found:?}");
        }
        assert_eq!(r.sql("select count(*) from pg_index where indrelid = 't'::regclass"), "0");
    });
}
