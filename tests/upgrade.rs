//! What a migration leaves behind: its log, its backups, and every row on the way down and up again, also when it is killed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use support::proxy::{PROGRAM, run};
use support::{Pg, PgServer, versions, wait_for};

fn migrate_ok(arguments: &[&str], url: &str) -> String {
    let output = run(&[&["migrate"], arguments, &["--database-url", url]].concat());
    assert!(output.status.success(), "migrate {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn migrate_fails(arguments: &[&str], url: &str) -> String {
    let output = run(&[&["migrate"], arguments, &["--database-url", url]].concat());
    assert_eq!(output.status.code(), Some(1), "migrate {arguments:?} went well");
    String::from_utf8(output.stderr).unwrap()
}

fn latest(server: &PgServer, database: &str) -> i64 {
    server.psql(database, "select max(version) from pggit.migrations").parse().unwrap()
}

/// Three rows in each table that has none.
const FILL: &str = include_str!("upgrade/fill.sql");

/// A database with a history and rows in every table.
fn lived_in(server: &PgServer, name: &str) -> (String, String) {
    let database = server.unique_database(name);
    let url = server.url(&database);
    migrate_ok(&["up"], &url);
    server.psql(
        &database,
        "create table kept (a int primary key); alter table kept add b text; create view seen as select * from kept",
    );
    server.psql(&database, "create table dropped (a int)");
    server.psql(&database, "drop table dropped; comment on table kept is 'kept'");
    server.psql(&database, "select pggit.seal()");
    look(server, &database);
    server.psql(&database, FILL);
    server.psql(&database, "delete from pggit.change_requests where number = 3");
    (database, url)
}

/// What the probe finds.
fn look(server: &PgServer, database: &str) -> String {
    server.psql(
        database,
        "begin isolation level repeatable read; select suspected || ' ' || recorded from pggit.probe(); commit",
    )
}

fn tables(server: &PgServer, database: &str) -> Vec<String> {
    let all = "select relname from pg_class where relnamespace = 'pggit'::regnamespace and relkind = 'r' \
               and relname not in ('migrations', 'upgrade_log') order by 1";
    server.psql(database, all).lines().map(str::to_owned).collect()
}

/// Every row of every table.
fn rows(server: &PgServer, database: &str) -> BTreeSet<String> {
    let each =
        tables(server, database).into_iter().map(|t| format!("select '{t} ' || to_jsonb(t)::text from pggit.{t} t"));
    let all = each.collect::<Vec<_>>().join(" union all ");
    server.psql(database, &all).lines().map(str::to_owned).collect()
}

/// Of the rows of before none is missing; what is new is a baseline of the objects that are there, and that the probe knows them.
fn assert_nothing_lost(before: &BTreeSet<String>, after: &BTreeSet<String>, when: &str) {
    let lost: Vec<_> = before.difference(after).collect();
    assert!(lost.is_empty(), "{when}: {} of {} rows are lost: {lost:#?}", lost.len(), before.len());
    let known = |row: &&String| row.contains("\"action\": \"BASELINE\"") || row.starts_with("probe_facts ");
    let new: Vec<_> = after.difference(before).filter(|row| !known(row)).collect();
    assert!(new.is_empty(), "{when}: rows that nobody wrote: {new:#?}");
}

#[test]
fn no_row_is_lost_on_the_way_down_and_up_again() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, url) = lived_in(server, "rows");
        for table in tables(server, &database) {
            assert_ne!(
                server.psql(&database, &format!("select count(*) from pggit.{table}")),
                "0",
                "{table} has no rows"
            );
        }
        let history = "select count(*) from pggit.changes where action <> 'BASELINE'";
        for to in (0..latest(server, &database)).rev() {
            if to > 0 && version != Pg::V15 {
                continue;
            }
            // Neither sealed nor looked at by the probe.
            server.psql(&database, &format!("create table fresh_{to} (a int)"));
            let changes = server.psql(&database, history);
            let before = rows(server, &database);
            let down = run(&["migrate", "down", "--to", &to.to_string(), "--database-url", &url]);
            if String::from_utf8_lossy(&down.stderr).contains("there is no migration") {
                continue;
            }
            assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
            migrate_ok(&["up"], &url);
            assert_nothing_lost(&before, &rows(server, &database), &format!("down to {to} and up"));
            assert_eq!(server.psql(&database, history), changes, "no migration is a change of the user's");
            assert_eq!(server.psql(&database, "select count(*) from pggit.verify()"), "0", "the chain is whole");
        }
        for _ in 0..2 {
            assert_eq!(look(server, &database), "0 0", "all that is there is explained");
        }
        let number = "select nextval(pg_get_serial_sequence('pggit.change_requests', 'number'))";
        assert_eq!(server.psql(&database, number), "4", "what was given out is not given out again");

        // And the recording goes on.
        server.psql(&database, "create table later (a int)");
        let recorded = "select change_type from pggit.history where object_identity = 'public.later'";
        assert_eq!(server.psql(&database, recorded), "CREATE");
        let ours = "select count(*) from pggit.recordable_objects() r, pg_identify_object(r.class, r.obj, 0) i where i.identity ~ 'pggit'";
        assert_eq!(server.psql(&database, ours), "0");
    }
}

/// What no migration does yet: rows that the older version cannot hold.
#[test]
fn rows_that_a_step_removes_come_back_unless_their_key_is_taken() {
    let server = PgServer::shared(Pg::V15);
    let (database, _) = lived_in(server, "removed");
    let step = |from: i64, to: i64, before: &str, script: &str, after: &str| {
        server.psql(
            &database,
            &format!(
                "begin; set local search_path = pg_catalog, pg_temp;
                 with step as (insert into pggit.upgrade_log (from_version, to_version, program) values ({from}, {to}, 'a test') returning upgrade_id)
                 select set_config('pggit.upgrade_id', upgrade_id::text, true), set_config('pggit.upgrade_version', '{from_or_to}', true),
                        set_config('pggit.upgrade_tables', '{{freezes,branches}}', true) from step;
                 {before} {script}; {after}
                 update pggit.upgrade_log set status = 'completed' where status = 'in_progress'; commit",
                from_or_to = from.max(to),
            ),
        );
    };
    let back_up = include_str!("../src/history/migrate/back_up.sql");
    let settle = include_str!("../src/history/migrate/settle.sql");
    let give_back = include_str!("../src/history/migrate/give_back.sql");
    server.psql(&database, "update pggit.branches set maker = 'maker of ' || name");
    step(
        99,
        98,
        back_up,
        "delete from pggit.freezes where branch in ('x1', 'x2'); alter table pggit.branches drop column maker",
        settle,
    );
    server
        .psql(&database, "delete from pggit.freezes where branch = 'x3'; delete from pggit.branches where name = 'x3'");
    let kept = server.psql(&database, "select backup from pggit.upgrade_log where from_version = 99");
    server.psql(&database, &format!("insert into pggit.freezes (id, branch, frozen_by) select id, 'taken', 'meanwhile' from {kept}.freezes where branch = 'x2'"));
    step(98, 99, "", "alter table pggit.branches add column maker text", give_back);
    assert_eq!(
        server.psql(&database, "select branch from pggit.freezes order by 1"),
        "taken\nx1",
        "what was deleted since stays deleted"
    );
    assert_eq!(
        server.psql(&database, "select name, maker from pggit.branches order by 1"),
        "x1|maker of x1\nx2|maker of x2"
    );
    assert_eq!(server.psql(&database, &format!("select count(*) from {kept}.freezes")), "3");
}

#[test]
fn what_changed_while_there_was_no_schema_is_told_afterwards() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, url) = lived_in(server, "meanwhile");
        server.psql(&database, "create table gone (a int)");
        look(server, &database);
        migrate_ok(&["down", "--to", "0"], &url);
        server.psql(&database, "alter table kept add c int; drop table gone; create table made (a int)");
        migrate_ok(&["up"], &url);
        // What is suspected at one look is recorded at the next if it is still so.
        look(server, &database);
        look(server, &database);
        let told = "select change_type || ' ' || object_identity || ' ' || captured_by from pggit.history \
                    where created_at > (select max(started_at) from pggit.upgrade_log where to_version = 5) \
                    and object_identity in ('public.kept', 'public.gone', 'public.made') order by 1";
        let told = server.psql(&database, told);
        assert_eq!(told, "BASELINE public.kept baseline\nBASELINE public.made baseline\nDROP public.gone probe");
        assert_eq!(look(server, &database), "0 0");
    }
}

#[test]
fn each_step_is_in_the_log_with_its_backup() {
    let server = PgServer::shared(Pg::V15);
    let (database, url) = lived_in(server, "log");
    let latest = latest(server, &database);
    let log = |columns: &str, which: &str| {
        server.psql(&database, &format!("select {columns} from pggit.upgrade_log where {which}"))
    };
    let steps = server.psql(&database, "select count(*) from pggit.migrations");
    assert_eq!(log("count(*)", "status = 'completed' and completed_at >= started_at"), steps);
    assert_eq!(log("count(*)", "true"), steps);
    assert_eq!(log("from_version", "to_version = 1"), "0");
    assert_eq!(log("count(*)", "backup is not null"), "0", "from nothing there is nothing to keep");

    let down = migrate_ok(&["down", "--to", "5"], &url);
    assert!(down.contains(", backup in pggit_backup_"), "{down}");
    let six = server.psql(
        &database,
        "select backup from pggit.upgrade_log where from_version = 6 and to_version = 5 and status = 'completed'",
    );
    let kept = format!("select count(*) from {six}.statements");
    assert_eq!(server.psql(&database, &kept), "3");
    assert_eq!(
        server.psql(&database, "select status from pggit.upgrade_log where from_version = 5 and to_version = 6"),
        "rolled_back"
    );
    assert_eq!(
        server.psql(&database, &format!("select has_schema_privilege('pggit_reader', '{six}', 'usage'), has_table_privilege('public', '{six}.statements', 'select')")),
        "f|f",
        "only the owner reads it"
    );
    assert!(migrate_ok(&["status"], &url).contains(&format!("{six}: ")), "status tells of it");

    let up = migrate_ok(&["up"], &url);
    assert!(up.contains(&format!(", rows back from {six}")), "{up}");
    let by = "select u.from_version || ' ' || u.to_version from pggit.upgrade_log d join pggit.upgrade_log u on u.upgrade_id = d.returned_by \
              where d.from_version = 6";
    assert_eq!(server.psql(&database, by), "5 6");

    // What is in the schema, too, may go; what is nowhere else stays until somebody insists.
    migrate_ok(&["down"], &url);
    let pruned = migrate_ok(&["prune"], &url);
    assert!(pruned.contains(&format!("dropped {six}")), "{pruned}");
    let left = "select nspname from pg_namespace where nspname ~ '^pggit_backup_'";
    let before = server.psql(&database, left);
    migrate_ok(&["down", "--to", "5"], &url);
    migrate_ok(&["prune"], &url);
    assert!(server.psql(&database, left).lines().count() > before.lines().count());
    migrate_ok(&["prune", "--all"], &url);
    assert_eq!(server.psql(&database, left), "");
    assert_eq!(server.psql(&database, "select max(version) from pggit.migrations"), "5");
    migrate_ok(&["up"], &url);
    assert_eq!(self::latest(server, &database), latest);
}

#[test]
fn a_failed_step_leaves_its_row_in_the_log_and_nothing_else() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, url) = lived_in(server, "failed");
        migrate_ok(&["down", "--to", "6"], &url);
        let before = rows(server, &database);
        server.psql(&database, "create view public.needs as select * from pggit.freezes");
        let error = migrate_fails(&["down", "--to", "5"], &url);
        assert!(error.contains("failed and changed nothing") && error.contains("depend"), "{error}");
        let logged = "select from_version, to_version, status, completed_at is not null, backup from pggit.upgrade_log order by upgrade_id desc limit 1";
        assert_eq!(server.psql(&database, logged), "6|5|failed|t|");
        let message = server.psql(&database, "select error_message from pggit.upgrade_log where status = 'failed'");
        assert!(message.contains("cannot drop table pggit.freezes"), "{message}");
        let after = rows(server, &database);
        assert_eq!(before.difference(&after).count(), 0);
        assert_eq!(server.psql(&database, "select max(version) from pggit.migrations"), "6");
        server.psql(&database, "drop view public.needs");
        migrate_ok(&["down", "--to", "5"], &url);
    }
}

#[test]
fn a_backup_that_is_gone_is_not_passed_over() {
    let server = PgServer::shared(Pg::V15);
    let (database, url) = lived_in(server, "gone");
    migrate_ok(&["down", "--to", "5"], &url);
    let six = server.psql(&database, "select backup from pggit.upgrade_log where from_version = 6 and to_version = 5");
    server.psql(&database, &format!("drop table {six}.statements"));
    let error = migrate_fails(&["up"], &url);
    assert!(error.contains(&format!("the backup {six}.statements is gone")), "{error}");
    assert_eq!(server.psql(&database, "select max(version) from pggit.migrations"), "5");
    server.psql(&database, "update pggit.upgrade_log set returned_by = 0 where from_version = 6 and to_version = 5");
    migrate_ok(&["up"], &url);
    assert_eq!(server.psql(&database, "select count(*) from pggit.statements"), "0");
}

/// A migration that waits for a lock that somebody else holds, in the middle of a step.
fn stuck(server: &PgServer, database: &str, arguments: &[&str]) -> Child {
    let url = server.url(database);
    let child = Command::new(PROGRAM)
        .arg("migrate")
        .args(arguments)
        .args(["--database-url", &url])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    wait_for("the migration waits", || (server.psql(database, waiting) == "1").then_some(()));
    child
}

#[test]
fn one_that_is_killed_has_done_each_step_or_not() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, url) = lived_in(server, "killed");
        let before = rows(server, &database);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let locked = |lock: &str, arguments: &[&str]| {
            let (client, connection) = runtime.block_on(tokio_postgres::connect(&url, tokio_postgres::NoTls)).unwrap();
            let driving = runtime.spawn(connection);
            runtime.block_on(client.batch_execute(&format!("begin; {lock}"))).unwrap();
            let mut child = stuck(server, &database, arguments);
            child.kill().unwrap();
            child.wait().unwrap();
            let open = "select count(*) from pggit.upgrade_log where status = 'in_progress'";
            assert_eq!(server.psql(&database, open), "1");
            drop(client);
            runtime.block_on(driving).unwrap().unwrap();
            // The server's own process gets its lock now, finds that nobody is there, and rolls back.
            let held = "select count(*) from pg_locks l join pg_database d on d.oid = l.database \
                        where l.locktype = 'advisory' and d.datname = current_database()";
            wait_for("the killed one's server process ends", || (server.psql(&database, held) == "0").then_some(()));
            let (from, to): (i64, i64) = {
                let row = server.psql(
                    &database,
                    "select from_version, to_version from pggit.upgrade_log where status = 'in_progress'",
                );
                let (from, to) = row.split_once('|').unwrap();
                (from.parse().unwrap(), to.parse().unwrap())
            };
            assert_eq!(latest(server, &database), from, "the step to {to} is not done");
            migrate_ok(arguments, &url);
            assert_eq!(server.psql(&database, open), "0");
            let told =
                "select count(*) from pggit.upgrade_log where status = 'failed' and error_message like 'interrupted%'";
            assert_ne!(server.psql(&database, told), "0");
        };
        // It waits to copy; in the midst of the script, with its copies made; there on the way up, with other steps done.
        locked("lock table pggit.statements in access share mode", &["down", "--to", "5"]);
        migrate_ok(&["up"], &url);
        locked("lock table pggit.history in access share mode", &["down", "--to", "0"]);
        migrate_ok(&["up", "--to", "8"], &url);
        locked("lock table pggit.branches in access share mode", &["up"]);
        assert_nothing_lost(&before, &rows(server, &database), "after kills");
    }
}

#[test]
fn a_branch_gets_no_backups() {
    let server = PgServer::shared(Pg::V15);
    let (database, url) = lived_in(server, "parent");
    server.psql(&database, "truncate pggit.branches, pggit.templates, pggit.origins");
    migrate_ok(&["down"], &url);
    migrate_ok(&["down", "--to", "5"], &url);
    migrate_ok(&["up"], &url);
    let created = run(&["branch", "create", "fresh", "--database-url", &url]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let branch = server.psql(&database, "select database from pggit.branches where name = 'fresh'");
    let left = "select count(*) from pg_namespace where nspname ~ '^pggit_backup_'";
    assert_ne!(server.psql(&database, left), "0");
    assert_eq!(server.psql(&branch, left), "0");
    assert_eq!(server.psql(&branch, "select count(*) from pggit.upgrade_log"), "0");
}

/// The scripts of this version: from nothing, and to nothing.
fn released() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let written = run(&["released-sql", directory.path().to_str().unwrap()]);
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let file = |end: &str| directory.path().join(format!("pggit--{}{end}.sql", env!("CARGO_PKG_VERSION")));
    let (install, remove) = (file(""), file("--0"));
    (directory, install, remove)
}

fn psql_file(url: &str, file: &Path) -> Output {
    let mut psql = Command::new("psql");
    psql.args(["-X", "-q", "-d", url, "-f"]).arg(file).stdin(Stdio::null()).output().unwrap()
}

fn psql_file_ok(url: &str, file: &Path) {
    let output = psql_file(url, file);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty() && output.stdout.is_empty(), "{said}");
}

/// What pg_dump and the catalogs say of the schema, and which steps the runner knows.
fn shape(server: &PgServer, database: &str) -> String {
    let triggers = "select evtname, evtenabled, evtfoid::regproc from pg_event_trigger order by 1";
    let steps = "select version, description, success, checksum from pggit.migrations order by 1";
    let dump = server.schema_dump(database, &["--schema=pggit"]);
    [dump, server.psql(database, triggers), server.psql(database, steps)].join("\n")
}

#[test]
fn psql_does_what_migrate_does_and_either_goes_on_from_the_other() {
    let (_directory, install, remove) = released();
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("psql");
        let url = server.url(&database);
        let (other, _) = lived_in(server, "runner");

        psql_file_ok(&url, &install);
        let by_migrate = shape(server, &other);
        assert_eq!(shape(server, &database), by_migrate);
        let status = migrate_ok(&["status"], &url);
        assert!(!status.contains("pending") && !status.contains("DIFFERS"), "{status}");
        assert!(!migrate_ok(&["up"], &url).contains("applied"));
        server.psql(&database, "create table recorded (a int); select pggit.seal()");
        server.psql(&database, FILL);

        // Down by psql, up by the runner, and the other way round; and of one that the runner made.
        for database in [&database, &other] {
            let url = server.url(database);
            for by_psql in [true, false] {
                let before = rows(server, database);
                if by_psql {
                    psql_file_ok(&url, &remove);
                    assert!(migrate_ok(&["up"], &url).contains("rows back from"));
                } else {
                    migrate_ok(&["down", "--to", "0"], &url);
                    psql_file_ok(&url, &install);
                }
                assert_nothing_lost(&before, &rows(server, database), "by psql and by the runner");
                assert_eq!(shape(server, database), by_migrate);
            }
        }
        let unfinished = "select count(*) from pggit.upgrade_log where status not in ('completed', 'rolled_back')";
        assert_eq!(server.psql(&database, unfinished), "0");
    }
}

#[test]
fn psql_refuses_what_migrate_refuses() {
    let (_directory, install, remove) = released();
    let server = PgServer::shared(Pg::V15);
    let database = server.unique_database("refused");
    let url = server.url(&database);
    let refused = |file: &Path, why: &str| {
        let output = psql_file(&url, file);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{said}");
    };
    refused(&remove, "the schema pggit of this database is not");
    migrate_ok(&["up", "--to", "5"], &url);
    refused(&install, "the schema pggit of this database is not nothing");
    refused(&remove, "the schema pggit of this database is not");
    assert_eq!(latest(server, &database), 5);
    migrate_ok(&["up"], &url);
    server.psql(&database, "update pggit.migrations set checksum = '\\x00' where version = 3");
    refused(&remove, "the schema pggit of this database is not");

    server.psql(&database, "drop schema pggit cascade; create schema pggit; create table pggit.objects (a int)");
    refused(&install, "that pggit-proxy did not make");
}
