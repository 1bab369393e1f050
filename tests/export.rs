//! `pggit-proxy export`: the history as JSON lines, and as a script that psql can run again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Output;

use support::proxy::run;
use support::workload::{Workload, live_through};
use support::{PgServer, Proxy, Repository, Wire, eventually, psql, versions, wire};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn export(it: &Repository, arguments: &[&str]) -> String {
    let output = try_export(it, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn try_export(it: &Repository, arguments: &[&str]) -> Output {
    run(&[&["export", "--database-url", &it.server.url(&it.database)], arguments].concat())
}

/// The schema without what is ours, statement by statement.
fn dump(server: &PgServer, database: &str, more: &[&str]) -> Vec<String> {
    let text = server.schema_dump(database, &[&["-N", "pggit", "-N", "pggit_backup_*"], more].concat());
    let told = |line: &&str| !line.starts_with("--") && !line.is_empty();
    let statements = text.lines().filter(told).collect::<Vec<_>>().join("\n");
    let ours = |one: &&str| one.contains("EXECUTE FUNCTION pggit.") || one.contains("EVENT TRIGGER pggit_");
    statements.trim_end_matches(';').split(";\n").filter(|one| !ours(one)).map(str::to_owned).collect()
}

/// Runs a script in a new database of this server.
fn replay(server: &PgServer, script: &str) -> String {
    let database = server.unique_database("replayed");
    let output = psql(&server.url(&database), script);
    assert!(output.status.success(), "{}\n{script}", text(&output.stderr));
    database
}

fn assert_same(server: &PgServer, database: &str, script: &str, more: &[&str]) {
    let replayed = replay(server, script);
    let (there, made) = (dump(server, database, more), dump(server, &replayed, more));
    let only = |one: &[String], other: &[String]| {
        one.iter().filter(|part| !other.contains(part)).cloned().collect::<Vec<_>>().join(";\n")
    };
    assert!(there == made, "only there:\n{}\nonly anew:\n{}\n{script}", only(&there, &made), only(&made, &there));
}

fn run_all(client: &mut Wire, texts: &[&str]) {
    for sql in texts {
        client.rows(sql);
    }
}

/// Everything that makes saying it again hard, and is possible.
#[test]
fn a_script_makes_the_same_schema() {
    for version in versions() {
        let it = Repository::new(version, "");
        let mut client = it.client();
        run_all(
            &mut client,
            &[
                "create schema app; create schema \"Odd S\"",
                "create table customers (id int primary key, name text) -- a comment at the end",
                // One transaction of several messages, with a savepoint that is rolled back.
                "begin",
                "create table kept (a int)",
                "savepoint s",
                "create table undone (a int)",
                "rollback to s",
                "create index on kept (a)",
                "create index on kept (a)",
                "/* pggit: twice,\n-- and \\! odd */ alter table kept add check (a > 0); alter table kept add check (a > 0);",
                "commit",
                // Names that only the search path leads to.
                "set search_path = app, public",
                "create table orders (id serial primary key, customer int references customers, kind text default 'é''\\')",
                "create view big as select * from orders where id > 10",
                "set search_path = \"Odd S\", app",
                "create table \"T t\" (a int references orders); comment on column \"T t\".a is 'x; y'",
                "reset search_path",
                "set search_path = app; create table told (a int)",
                "reset all",
                "create table in_public (a int)",
                // Transactions within a text.
                "begin; create table one (a int); commit; create table two (a int)",
                "begin; create table three (a int)",
                "create table four (a int); commit",
                "begin; create table never (a int); rollback; create table five (a int)",
                // What functions and blocks do is said by the call.
                "create function make(name text) returns void language plpgsql as $$ begin execute format('create table %I (a int)', name); \
                 execute format('create index on %I (a)', name); end $$",
                "select make('by_function_1'), make('by_function_2')",
                "do $$ begin for i in 1..3 loop execute format('create table block_%s ()', i); end loop; end $$",
                "create procedure steps(name text) language plpgsql as $$ begin execute format('create table %I ()', name || 1); commit; \
                 execute format('create table %I ()', name || 2); commit; execute format('create table %I ()', name || 3); end $$",
                "call steps('step')",
                "do $$ begin create table c1 (); commit; create table c2 (); end $$",
                "create table made_of as select 1 as a, 'x'::text as b",
                "alter table customers rename to clients; alter table clients rename name to label",
                "create type mood as enum ('sad'); alter type mood add value 'ok'",
                "create or replace view seen as select label from clients; create or replace view seen as select label, id from clients",
                "drop table two; drop view app.big",
                "grant select on clients to public; revoke execute on function make(text) from public",
            ],
        );
        for alone in [
            "create index concurrently by_label on clients (label)",
            "drop index concurrently by_label",
            "reindex table concurrently clients",
        ] {
            client.rows(alone);
        }
        // The same text twice from one session, and somebody else in between.
        let again = "begin; drop table if exists again; create table again (a int); commit";
        client.rows(again);
        it.sql("alter table again add lost int");
        client.rows(again);
        client.ask(&wire::query("create table broken (a int); select 1/0"));
        let script = export(&it, &["--branch", "main", "--format", "sql"]);
        assert_same(it.server, &it.database, &script, &[]);
        // What is not transactional stands alone.
        let at = script.find("\ncreate index concurrently").unwrap();
        let before = &script[..at];
        assert!(before.rfind("\nBEGIN;") < before.rfind("\nCOMMIT;"), "{script}");
        assert!(!script.contains("broken") && !script.contains("undone"), "{script}");
        for said_once in ["call steps('step')", "begin; create table never", "create table c1 ()"] {
            let live = script.lines().filter(|line| line.contains(said_once) && !line.starts_with("--"));
            assert_eq!(live.count(), 1, "{said_once} in {script}");
        }
        // The end is to be seen, so that half a script is not taken for all of it.
        let commits = it.sql("select count(*) from pggit.commits");
        assert!(script.ends_with(&format!("\n-- The end: {commits} commits.\n")), "{script}");
    }
}

/// A generated life of a schema, with its failures.
#[test]
fn a_generated_history_makes_the_same_schema() {
    let it = Repository::new(versions()[0], "");
    let seed = std::env::var("PGGIT_EXPORT_SEED").map_or(11, |seed| seed.parse().unwrap());
    let mut workload = Workload::new(seed, "w").read_committed();
    live_through(&mut workload, 150, &mut it.client(), &it.server.url(&it.database));
    assert_same(it.server, &it.database, &export(&it, &["--format", "sql"]), &[]);
}

/// Without event triggers what a text of several statements made is told statement by statement: it is said once all the same.
#[test]
fn added_calls_make_no_second_statement() {
    let server = PgServer::shared(versions()[0]);
    let database = server.unique_database("calls");
    support::migrate_without_triggers(server, &database);
    let proxy = Proxy::start(server, &format!("[upstream]\ndbname = \"{database}\"\n"));
    let mut client = proxy.connect(&database);
    run_all(
        &mut client,
        &[
            "create schema s; create table s.t (a int); create index on s.t (a); create index on s.t (a); drop table if exists nothing; create view v as select * from s.t",
            "begin",
            "create index on s.t (a)",
            "create index on s.t (a)",
            "alter table s.t add b int, drop column a cascade",
            "commit",
            "set search_path = s",
            "create table u (like t); alter table u rename to w",
        ],
    );
    // Whoever may read the history may write it out.
    let reader = format!("reader_{database}");
    server.psql(&database, &format!("create role {reader} login in role pggit_reader"));
    let url = server.url(&database).replace("postgres@", &format!("{reader}@"));
    for format in ["json", "git-fast-import", "sql"] {
        let output = run(&["export", "--format", format, "--database-url", &url]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        if format == "sql" {
            assert_same(server, &database, &text(&output.stdout), &[]);
        }
    }
}

/// Where there is no statement, definitions say what was made.
#[test]
fn what_nobody_recorded_is_made_by_its_definition() {
    let it = Repository::new(versions()[0], "");
    it.sql("set session_replication_role = replica; alter event trigger pggit_record_ddl disable; alter event trigger pggit_record_drop disable");
    it.sql("create table unseen (a int primary key, b text); create view over as select a from unseen; alter event trigger pggit_record_ddl enable always; alter event trigger pggit_record_drop enable always");
    let found = "select count(*) from pggit.history where captured_by = 'probe' and object_type in ('table', 'view')";
    assert!(eventually(support::PATIENCE, || it.sql(found) == "2"), "{}", it.proxy.log());
    let script = export(&it, &["--format", "sql"]);
    assert!(script.contains("-- By definitions, as nobody recorded the statement:"), "{script}");
    let replayed = replay(it.server, &script);
    for object in ["unseen", "over"] {
        let definition = format!(
            "select pg_get_viewdef('over'), string_agg(attname || atttypid::text, ' ' order by attnum) from pg_attribute where attrelid = '{object}'::regclass and attnum > 0"
        );
        assert_eq!(it.server.psql(&replayed, &definition), it.sql(&definition));
    }
    // What was there before, and a text that was too long to be kept.
    let server = it.server;
    let database = server.unique_database("grown");
    server.psql(
        &database,
        "create schema s; create table s.old (a int primary key); create table s.child (a int references s.old)",
    );
    support::migrate(server, &database);
    let table = |n| format!("create table s.t{n} (a int primary key, b text default '{}');", "b".repeat(900));
    let long = (0..100).map(table).collect::<String>();
    assert!(long.len() > 65536);
    server.psql(&database, &format!("do $pggit$ begin {long} end $pggit$"));
    server.psql(&database, "create table s.last (a int references s.t99)");
    let output = run(&["export", "--format", "sql", "--database-url", &server.url(&database)]);
    let script = text(&output.stdout);
    assert_same(server, &database, &script, &[]);
}

/// Whoever may change the schema, or choose a name, must not run anything else with the one who runs the script.
#[test]
fn a_script_says_nothing_that_the_history_did_not() {
    let it = Repository::new(versions()[0], "");
    let evil = "x\n\\! touch /tmp/pggit_evil\nDROP TABLE kept;\r\\! touch /tmp/pggit_evil";
    let role = format!("\"r_{} {}\"", it.database, evil.replace('\\', "/"));
    it.sql(&format!("create role {role} login superuser"));
    let mut client = Wire::connect(
        it.proxy.clients,
        &[("user", role.trim_matches('"')), ("database", &it.database), ("application_name", evil)],
    );
    client.rows("create table kept (a int)");
    client.rows(&format!(
        "select set_config('pggit.message', {}, false)",
        "'m\nDROP TABLE kept;\n\\! touch /tmp/pggit_evil'"
    ));
    client.rows(&format!("create table \"{}\" (a int)", evil.replace('\\', "/")));
    // A string here; with standard strings, the end of one and a program.
    client.rows("set standard_conforming_strings = off");
    client.rows("comment on table kept is 'a\\' \\! touch /tmp/pggit_evil '");
    client.rows("set standard_conforming_strings = off; comment on table kept is 'b\\' \\! touch /tmp/pggit_evil '");
    client.rows("set standard_conforming_strings = on");
    // Of the server, and what would reach out.
    client.rows(&format!("create role other_{}; create table beside (a int)", it.database));
    let _ = std::fs::remove_file("/tmp/pggit_evil");
    let script = export(&it, &["--format", "sql"]);
    it.sql(&format!("drop role other_{}", it.database));
    // Whoever runs it owns what it makes.
    assert_same(it.server, &it.database, &script, &["--no-owner"]);
    assert!(!std::path::Path::new("/tmp/pggit_evil").exists(), "{script}");
    assert_eq!(it.sql(&format!("select count(*) from pg_roles where rolname = 'other_{}'", it.database)), "0");
    assert_eq!(script.lines().filter(|line| line.starts_with('\\')).count(), 0, "{script}");
}

#[test]
fn json_has_every_row_with_every_field() {
    for version in versions() {
        let it = Repository::new(version, "");
        let mut client = it.client();
        run_all(
            &mut client,
            &[
                "/* pggit: what \"for\" */ create table t (a int primary key, b text default E'\\n\"é')",
                "begin; alter table t add c int; create view v as select * from t; commit",
                "drop view v",
            ],
        );
        let sealed = "select not exists (select from pggit.commits where seq is null)";
        assert!(eventually(support::PATIENCE, || it.sql(sealed) == "t"), "{}", it.proxy.log());
        let told = export(&it, &["--branch", "main", "--format", "json"]);
        let columns = "select string_agg(attname, ' ' order by attnum) from pg_attribute where attrelid = 'pggit.history'::regclass";
        let columns = it.sql(columns);
        let expected = it.sql(
            "set timezone = 'UTC'; select (to_jsonb(h) || jsonb_build_object('commit_seq', c.seq, 'commit_parent', c.parent, 'commit_message', c.message, 'commit_hash', c.hash))::text
               from pggit.history h join pggit.commits c on c.id = h.commit_id order by c.seq, h.created_at, h.ordinal, h.id",
        );
        let parse = |text: &str| -> Vec<serde_json::Value> {
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
                .collect()
        };
        let (told, expected) = (parse(&told), parse(&expected));
        assert!(told.len() > 5);
        assert_eq!(told, expected);
        let names = told[0].as_object().unwrap();
        assert!(columns.split(' ').all(|name| names.contains_key(name)), "{columns}: {names:?}");
        // The manual tells of each.
        let manual = include_str!("../docs/EXPORT.md");
        for name in names.keys() {
            assert!(manual.contains(&format!("`{name}`")), "the manual says nothing of {name}");
        }
    }
}

#[test]
fn parts_of_a_history_by_time_and_branch_make_the_whole() {
    let it = Repository::new(versions()[0], "");
    let mut client = it.client();
    let mut times = Vec::new();
    for n in 0..4 {
        client.rows(&format!("create table t{n} (a int)"));
        times.push(it.sql("select max(created_at at time zone 'UTC') from pggit.commits"));
    }
    let all = export(&it, &["--format", "json"]);
    let sealed = "select not exists (select from pggit.commits where seq is null)";
    assert!(eventually(support::PATIENCE, || it.sql(sealed) == "t"), "{}", it.proxy.log());
    let whole = export(&it, &["--format", "json"]);
    assert_eq!(all.lines().count(), whole.lines().count(), "not sealed yet is told, too");
    let (first, second) = (
        export(&it, &["--format", "json", "--until", &times[2]]),
        export(&it, &["--format", "json", "--since", &times[2]]),
    );
    assert_eq!(format!("{first}{second}"), whole, "no commit twice, and none left out");
    assert!(second.lines().count() == 2 && second.contains("public.t2"), "{second}");
    let between = export(&it, &["--format", "sql", "--since", &times[1], "--until", &times[3]]);
    let made: Vec<&str> = between.lines().filter(|line| line.starts_with("create")).collect();
    assert_eq!(made, ["create table t1 (a int);", "create table t2 (a int);"]);
    assert_eq!(export(&it, &["--format", "json", "--since", "infinity"]), "");

    let dump = it.server.client_program("pg_dump").display().to_string();
    let url = it.server.url(&it.database);
    let made = run(&["branch", "create", "side/x", "--database-url", &url, "--pg-dump", &dump]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let database = it.sql("select database from pggit.branches where name = 'side/x'");
    it.server.psql(&database, "create table on_side (a int)");
    let side = export(&it, &["--format", "json", "--branch", "side/x"]);
    assert!(side.starts_with(&whole), "a branch has its parent's history");
    assert!(side[whole.len()..].contains("on_side") && !export(&it, &["--format", "json"]).contains("on_side"));
}

#[test]
fn files_are_whole_or_not_there() {
    let it = Repository::new(versions()[0], "");
    it.client().rows("create table t (a int)");
    let directory = support::postgres::new_directory("exported");
    let file = directory.join("history.json");
    let name = file.display().to_string();
    assert_eq!(export(&it, &["--format", "json", "--output", &name]), "");
    let expected = export(&it, &["--format", "json"]);
    let rows = |text: &str| text.lines().count();
    assert_eq!(rows(&std::fs::read_to_string(&file).unwrap()), rows(&expected));
    // By the proxy's own configuration.
    let config = directory.join("pggit-proxy.toml");
    let address = it.server.address;
    std::fs::write(
        &config,
        format!(
            "[upstream]\nhost = \"{}\"\nport = {}\nuser = \"postgres\"\ndbname = \"{}\"\n",
            address.ip(),
            address.port(),
            it.database
        ),
    )
    .unwrap();
    let by_file = run(&["export", "--format", "json", "--config", &config.display().to_string()]);
    assert_eq!(rows(&text(&by_file.stdout)), rows(&expected), "{}", text(&by_file.stderr));

    // What fails says so, and leaves nothing that looks whole.
    let other = directory.join("other.sql").display().to_string();
    for (arguments, why) in [
        (&["--format", "sql", "--branch", "nowhere", "--output", &other][..], "\"nowhere\" does not exist"),
        (&["--format", "sql", "--since", "yesterday or so"], "yesterday or so"),
        (&["--format", "sql", "--output", "/nowhere/x"], "/nowhere/x"),
        (&["--format", "git-fast-import", "--since", "today"], "whole history"),
    ] {
        let output = try_export(&it, arguments);
        assert!(
            output.status.code() == Some(1) && text(&output.stderr).contains(why),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
    assert!(!std::path::Path::new(&other).exists());
    assert_eq!(try_export(&it, &[]).status.code(), Some(2), "what is written has to be said");
}
