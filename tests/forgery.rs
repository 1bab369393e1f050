//! Nobody writes the history but the recorder, nobody says whose change it is but the proxy, nobody stops the recording
//! through the proxy: each attempt is refused and logged, and what a text does not show has no effect.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{PATIENCE, PgServer, Proxy, Wire, eventually, migrate, migrate_without_triggers, versions};

/// A superuser's session through the proxy: the one with all rights on the server.
fn each(test: impl Fn(&PgServer, &str, &Proxy)) {
    for version in versions() {
        for with_triggers in [true, false] {
            let server = PgServer::shared(version);
            let database = server.unique_database("forgery");
            let install = if with_triggers { migrate } else { migrate_without_triggers };
            install(server, &database);
            let proxy = Proxy::start(server, &format!("[upstream]\ndbname = \"{database}\"\n"));
            test(server, &database, &proxy);
        }
    }
}

const REFUSED: &[&str] = &[
    "set pggit.session = '00000000-0000-0000-0000-000000000000'",
    "set local pggit.since = '1'",
    "select set_config('pggit.client', 'x', false)",
    "set event_triggers = off",
    "insert into pggit.changes (action, command_tag, object_type) values ('CREATE', 'CREATE TABLE', 'table')",
    "update pggit.changes set created_by = 'somebody else'",
    "with gone as (delete from pggit.changes returning id) select count(*) from gone",
    "delete from \"pggit\".\"statements\"",
    "truncate pggit.changes",
    "copy pggit.changes from stdin",
    "lock table pggit.changes",
    "select pggit.record_baseline()",
    "select 1 from PgGit . \"record_baseline\" ( )",
    "call pggit.companion('{}', 'x', null)",
    "drop schema pggit cascade",
    "drop schema pggit_backup_7 cascade",
    "update pggit_backup_7.changes set created_by = 'somebody else'",
    "alter schema pggit rename to other",
    "create table pggit.mine (a int)",
    "create or replace function pggit.current_branch() returns text language sql as 'select 1::text'",
    "alter table pggit.changes disable trigger all",
    "grant insert on pggit.changes to public",
    "drop view pggit.history",
    "alter event trigger pggit_record_ddl disable",
    "drop event trigger if exists pggit_record_drop",
    "select 1; drop schema pggit cascade",
];

#[test]
fn what_is_done_openly_is_refused_and_logged() {
    each(|server, database, proxy| {
        let mut client = proxy.connect(database);
        for sql in REFUSED {
            let error = client.error(sql);
            assert_eq!(error.field(b'C').as_deref(), Some("42501"), "{sql}: {error:?}");
        }
        let logged = "select count(*) from pggit.statements where outcome = 'refused'";
        assert!(eventually(PATIENCE, || server.psql(database, logged) == REFUSED.len().to_string()), "all are logged");
        assert_eq!(server.psql(database, "select count(*) from pggit.history where change_type <> 'BASELINE'"), "0");
        // Reading is nobody's business.
        for sql in [
            "select count(*) from pggit.history",
            "select count(*) from pggit.log()",
            "select * from pggit.status()",
            "select * from pggit.diff('main')",
            "select 'pggit.record_baseline()'",
            "select pggit.current_branch()",
        ] {
            client.rows(sql);
        }
    });
}

#[test]
fn what_is_done_with_computed_names_has_no_effect() {
    each(|server, database, proxy| {
        let mut client = proxy.connect(database);
        let session = client.value("select current_setting('pggit.session')");
        let forged = "select set_config('pg' || 'git.session', gen_random_uuid()::text, false), \
                      set_config('pg' || 'git.client', '9.9.9.9:9', false), set_config('pg' || 'git.branch', 'other', false), \
                      set_config('pg' || 'git.since', '999999', false), set_config('pg' || 'git.migration', 'on', false)";
        client.rows(forged);
        client.rows("create table t (a int)");
        client.rows("begin");
        client.rows(forged);
        client.rows("alter table t add b int");
        client.rows("commit");
        client.rows(forged);
        client.rows("drop table t");
        let rows = "select string_agg(distinct concat_ws('|', session_id, via_proxy, branch, host(client_addr)), ','), count(*) \
                    from pggit.history where object_name = 't'";
        assert_eq!(server.psql(database, rows), format!("{session}|t|main|127.0.0.1|3"));
    });
}

#[test]
fn the_recording_procedure_believes_the_proxy_alone() {
    each(|server, database, _| {
        let mut direct = Wire::connect(server.address, &[("user", "postgres"), ("database", database)]);
        let error = direct.error(
            "call pggit.companion('{\"phase\":\"after\",\"tag\":\"CREATE ROLE\",\"type\":\"role\",\"action\":\"create\",\"objects\":[[null,\"x\"]]}', repeat('0', 64), null)",
        );
        assert_eq!(error.field(b'C').as_deref(), Some("42501"));
        // A plain role has no way to the key, nor to anything that writes.
        let role = format!("{database}_plain");
        direct.rows(&format!("create role {role} login"));
        let mut plain = Wire::connect(server.address, &[("user", &role), ("database", database)]);
        for sql in [
            "select * from pggit.companion_key",
            "select pggit.record_baseline()",
            "insert into pggit.changes default values",
        ] {
            assert_eq!(plain.error(sql).field(b'C').as_deref(), Some("42501"), "{sql}");
        }
        let mut reader = direct;
        reader.rows("set role pggit_reader");
        assert_eq!(reader.error("select * from pggit.companion_key").field(b'C').as_deref(), Some("42501"));
    });
}
