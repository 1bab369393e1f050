//! The `pggit` schema comes and goes: up, down, status, and what refuses to run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Output;

use support::proxy::run;
use support::{Pg, PgServer, psql_ok, versions};

fn migrate(arguments: &[&str], url: &str) -> Output {
    let mut all = vec!["migrate"];
    all.extend(arguments);
    all.extend(["--database-url", url]);
    run(&all)
}

fn migrate_ok(arguments: &[&str], url: &str) -> String {
    let output = migrate(arguments, url);
    assert!(output.status.success(), "migrate {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn migrate_fails(arguments: &[&str], url: &str) -> String {
    let output = migrate(arguments, url);
    assert_eq!(output.status.code(), Some(1), "migrate {arguments:?} went well");
    String::from_utf8(output.stderr).unwrap()
}

/// Everything in the database that is not the server's own, nor a backup of a migration.
fn objects(server: &PgServer, database: &str) -> String {
    server.psql(
        database,
        "select 'schema ' || nspname from pg_namespace
          where nspname !~ '^pg_' and nspname not in ('information_schema', 'public') and nspname !~ '^pggit_backup_'
         union all select 'relation ' || oid::regclass from pg_class
          where oid >= 16384 and relnamespace <> 'pg_toast'::regnamespace and relnamespace::regnamespace::text !~ '^pggit_backup_'
         union all select 'function ' || oid::regprocedure from pg_proc where oid >= 16384
         union all select 'event trigger ' || evtname from pg_event_trigger
         union all select 'default acl' from pg_default_acl
         order by 1",
    )
}

/// How much of it lies outside `pggit`.
fn objects_elsewhere(server: &PgServer, database: &str) -> String {
    server.psql(
        database,
        "select oid::regclass from pg_class
          where oid >= 16384 and relnamespace not in ('pg_toast'::regnamespace, 'pggit'::regnamespace)
         union all select oid::regprocedure::text::regclass from pg_proc where oid >= 16384 and pronamespace <> 'pggit'::regnamespace",
    )
}

#[test]
fn up_down_and_up_again() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("updown");
        let url = server.url(&database);
        let before = objects(server, &database);

        let status = migrate_ok(&["status"], &url);
        assert!(status.contains("pending") && !status.contains("applied"), "{status}");
        assert_eq!(objects(server, &database), before, "status changes nothing");

        let up = migrate_ok(&["up"], &url);
        assert!(up.contains("applied 0001 schema (") && up.contains("applied 0006 proxy ("), "{up}");
        let full = objects(server, &database);
        assert_eq!(objects_elsewhere(server, &database), "");
        let recorded = server.psql(&database, "select distinct change_type from pggit.history");
        assert_eq!(recorded, "BASELINE", "the migrations themselves are no changes of the user's");
        let open = "select string_agg(oid::regprocedure::text, ' ' order by oid::regprocedure::text) from pg_proc \
                    where pronamespace = 'pggit'::regnamespace and has_function_privilege('public', oid, 'execute')";
        assert_eq!(
            server.psql(&database, open),
            "pggit.checkout(text) pggit.companion(text,text,text) pggit.current_branch() pggit.default_branch()",
            "what everybody may call"
        );
        let status = migrate_ok(&["status"], &url);
        assert!(!status.contains("pending") && status.contains("applied"), "{status}");

        let again = migrate_ok(&["up"], &url);
        assert!(!again.contains("applied"), "{again}");

        let down = migrate_ok(&["down"], &url);
        assert_eq!(down.matches("reverted").count(), 1, "{down}");
        assert_eq!(migrate_ok(&["status"], &url).matches("pending").count(), 1);
        migrate_ok(&["up"], &url);
        assert_eq!(objects(server, &database), full);

        let down = migrate_ok(&["down", "--to", "5"], &url);
        assert!(down.contains("reverted 0006 proxy") && down.contains("at version 5 of"), "{down}");
        migrate_ok(&["up", "--to", "6"], &url);
        assert_eq!(server.psql(&database, "select max(version) from pggit.migrations"), "6");

        let down = migrate_ok(&["down", "--to", "0"], &url);
        assert!(down.contains("schema pggit is at version 0"), "{down}");
        migrate_ok(&["prune", "--all"], &url);
        assert_eq!(objects(server, &database), before);
        migrate_ok(&["up"], &url);
        assert_eq!(objects(server, &database), full);
        // The migrations themselves are no changes of the user's.
        let recorded = server.psql(
            &database,
            "select change_type, command_tag, object_identity from pggit.history \
             where change_type <> 'BASELINE' or object_identity ~ 'pggit'",
        );
        assert_eq!(recorded, "");
    }
}

#[test]
fn a_foreign_schema_is_left_alone() {
    let server = PgServer::shared(Pg::V15);
    for table in ["pggit.objects (id int)", "pggit.migrations (id int)"] {
        let database = server.unique_database("foreign");
        server.psql(&database, &format!("create schema pggit; create table {table}"));
        let before = objects(server, &database);
        for arguments in [&["up"][..], &["down"], &["down", "--to", "0"], &["status"]] {
            let error = migrate_fails(arguments, &server.url(&database));
            assert!(error.contains("did not make"), "{error}");
        }
        assert_eq!(objects(server, &database), before);
    }
}

#[test]
fn an_empty_schema_is_taken_over() {
    let server = PgServer::shared(Pg::V15);
    let database = server.unique_database("empty");
    server.psql(&database, "create schema pggit");
    migrate_ok(&["up"], &server.url(&database));
}

#[test]
fn what_somebody_keeps_in_the_schema_survives_its_removal() {
    let server = PgServer::shared(Pg::V15);
    let database = server.unique_database("kept");
    let url = server.url(&database);
    migrate_ok(&["up"], &url);
    server.psql(&database, "create table pggit.mine (a int)");
    migrate_ok(&["down", "--to", "0"], &url);
    migrate_ok(&["prune", "--all"], &url);
    assert_eq!(server.psql(&database, "select count(*) from pggit.mine"), "0");
}

#[test]
fn a_plain_role_does_without_event_triggers() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("plain");
        let role = format!("{database}_role");
        server.psql(&database, &format!("create role {role} login; grant create on database {database} to {role}"));
        let url = format!("postgres://{role}@{}/{database}", server.address);
        let error = migrate_fails(&["up", "--capture", "trigger"], &url);
        assert!(error.contains("cannot install event triggers") && error.contains("superuser"), "{error}");
        assert_eq!(objects(server, &database), "");
        // Left to itself it does without, and says what that means.
        let up = migrate_ok(&["up"], &url);
        assert!(up.contains("capture is inject") && up.contains("there are no event triggers"), "{up}");
        assert_eq!(server.psql(&database, "select pggit.capture_mode(), count(*) from pg_event_trigger"), "inject|0");
        assert!(migrate_ok(&["down", "--to", "0"], &url).contains("schema pggit is at version 0"));
        migrate_ok(&["prune", "--all"], &url);
        assert_eq!(objects(server, &database), "");
    }
}

#[test]
fn a_newer_or_changed_schema_is_not_touched() {
    let server = PgServer::shared(Pg::V15);
    let database = server.unique_database("newer");
    let url = server.url(&database);
    migrate_ok(&["up"], &url);
    let insert =
        "insert into pggit.migrations select 99, 'later', now(), true, checksum, 1 from pggit.migrations limit 1";
    server.psql(&database, insert);
    for arguments in [&["up"][..], &["down"]] {
        let error = migrate_fails(arguments, &url);
        assert!(error.contains("at version 99") && error.contains("newer pggit-proxy"), "{error}");
    }
    assert!(migrate_ok(&["status"], &url).contains("UNKNOWN"));

    server.psql(&database, "delete from pggit.migrations where version = 99");
    server.psql(&database, "update pggit.migrations set checksum = '\\x00' where version = 1");
    for arguments in [&["up"][..], &["down"]] {
        assert!(migrate_fails(arguments, &url).contains("migration 1 was applied with another text"));
    }
    assert!(migrate_ok(&["status"], &url).contains("DIFFERS"));
}

#[test]
fn an_unknown_target_is_refused() {
    let server = PgServer::shared(Pg::V15);
    let url = server.url(&server.unique_database("target"));
    assert!(migrate_fails(&["up", "--to", "99"], &url).contains("there is no migration 99"));
}

#[test]
fn a_lock_in_the_way_ends_in_words() {
    let server = PgServer::shared(Pg::V15);
    let database = server.unique_database("locked");
    let url = server.url(&database);
    migrate_ok(&["up"], &url);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (client, connection) = runtime.block_on(tokio_postgres::connect(&url, tokio_postgres::NoTls)).unwrap();
    runtime.spawn(connection);
    runtime.block_on(client.batch_execute("begin; lock table pggit.freezes in access share mode")).unwrap();
    let error = migrate_fails(&["down", "--to", "5"], &url);
    assert!(error.contains("waited 10s in vain for a lock"), "{error}");
    // What stood above it is gone, it itself is whole.
    assert_eq!(server.psql(&database, "select max(version) from pggit.migrations"), "6");
    runtime.block_on(client.batch_execute("rollback")).unwrap();
    migrate_ok(&["down", "--to", "5"], &url);
}

#[test]
fn another_migration_in_the_way_ends_in_words() {
    let server = PgServer::shared(Pg::V15);
    let database = server.unique_database("busy");
    let url = server.url(&database);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (client, connection) = runtime.block_on(tokio_postgres::connect(&url, tokio_postgres::NoTls)).unwrap();
    runtime.spawn(connection);
    let lock = "select pg_advisory_lock(hashtextextended('pggit.migrations', 0))";
    runtime.block_on(client.batch_execute(lock)).unwrap();
    let error = migrate_fails(&["up"], &url);
    assert!(error.contains("another migration is running"), "{error}");
    assert_eq!(objects(server, &database), "");
}

#[test]
fn a_unix_socket_and_an_environment_password_will_do() {
    let server = PgServer::with(Pg::V15).auth("scram-sha-256").start();
    server.psql("postgres", "create role admin superuser login password 'sésame'");
    let database = server.create_database("app");
    let url = format!(
        "postgresql:///{database}?host={}&port={}&user=postgres",
        server.socket_dir.display(),
        server.address.port()
    );
    migrate_ok(&["up", "--to", "1"], &url);
    let url = format!("postgres://admin@{}/{database}", server.address);
    let output = std::process::Command::new(support::proxy::PROGRAM)
        .args(["migrate", "up", "--database-url", &url])
        .env("PGPASSWORD", "sésame")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = std::process::Command::new(support::proxy::PROGRAM)
        .args(["migrate", "status", "--database-url", &url])
        .env("PGPASSWORD", "wrong")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("password authentication failed") && !error.contains("wrong"), "{error}");
    assert_eq!(psql_ok(&server.url(&database), "select count(*) > 1 from pggit.migrations"), "t");
}

#[test]
fn nobody_there_is_said_at_once() {
    let error = migrate_fails(&["status"], "postgres://x@127.0.0.1:1/app");
    assert!(error.contains("cannot connect to 127.0.0.1, port 1"), "{error}");
    let error = migrate_fails(&["status"], "mysql://x/app");
    assert!(error.contains("--database-url"), "{error}");
}
