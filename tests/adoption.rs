//! Databases in which pgGit's own SQL is installed: left alone unless it is said otherwise, taken over with every row, and given
//! back as they were.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::{Command, Stdio};

use support::postgres::new_directory;
use support::proxy::{PROGRAM, run};
use support::{Pg, PgServer, Proxy, versions, wait_for};

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Oldest,
    WithBranches,
}

const OLDEST: &str = include_str!("upgrade/pggit-0.1.0.sql");
const BRANCHES: &str = include_str!("upgrade/pggit-0.1.3.sql");

/// A database that pgGit has recorded for a while.
fn with_pggit(server: &PgServer, shape: Shape) -> (String, String) {
    let database = server.unique_database("pggit");
    let url = server.url(&database);
    server.psql(&database, OLDEST);
    if shape == Shape::WithBranches {
        server.psql(&database, BRANCHES);
    }
    server.psql(
        &database,
        "create table customers (id int primary key); alter table customers add name text; create view known as select * from customers; \
         create table \"Odd name\" (a int); create table passing (a int); drop table passing; \
         insert into pggit.dependencies (dependent_id, depends_on_id) select max(id), min(id) from pggit.objects",
    );
    if shape == Shape::WithBranches {
        server.psql(
            &database,
            "insert into pggit.commits (hash, branch_id, message) values ('abc', 2, 'customers get a name'); \
             update pggit.history set commit_hash = 'abc', branch_id = 2 where change_type = 'ALTER'",
        );
    }
    (database, url)
}

/// Everything of pgGit's, as it is in the schema of that name: definitions, rows, event triggers.
fn theirs(server: &PgServer, database: &str, schema: &str) -> String {
    let tables = format!(
        "select relname from pg_class where relnamespace = '{schema}'::regnamespace and relkind = 'r' order by 1"
    );
    let rows = server.psql(database, &tables).lines().fold(String::new(), |all, table| {
        let rows = format!("select to_jsonb(t)::text from {schema}.{table} t order by 1");
        format!("{all}{table}\n{}\n", server.psql(database, &rows))
    });
    let dump = server.schema_dump(database, &[&format!("--schema={schema}")]);
    let triggers = "select evtname, evtevent, evtenabled, evttags, evtowner::regrole, evtfoid::regproc, obj_description(oid, 'pg_event_trigger') \
                    from pg_event_trigger order by 1";
    format!("{dump}\n{rows}\n{}", server.psql(database, triggers))
}

#[test]
fn it_is_left_alone_unless_it_is_said_otherwise() {
    let server = PgServer::shared(Pg::V15);
    for shape in [Shape::Oldest, Shape::WithBranches] {
        let (database, url) = with_pggit(server, shape);
        let before = theirs(server, &database, "pggit");
        for arguments in [&["up"][..], &["down"], &["down", "--to", "0"], &["status"], &["prune", "--all"]] {
            let error = migrate_fails(arguments, &url);
            assert!(error.contains("pgGit's own SQL") && error.contains("migrate up --adopt"), "{error}");
        }
        assert_eq!(theirs(server, &database, "pggit"), before);
    }
    // What only has the name is not taken over, either.
    let database = server.unique_database("other");
    server.psql(&database, "create schema pggit; create table pggit.objects (id int)");
    let error = migrate_fails(&["up", "--adopt"], &server.url(&database));
    assert!(error.contains("did not make") && !error.contains("--adopt"), "{error}");
}

#[test]
fn its_rows_are_in_the_new_history() {
    for version in versions() {
        for shape in [Shape::Oldest, Shape::WithBranches] {
            let server = PgServer::shared(version);
            let (database, url) = with_pggit(server, shape);
            server.psql(&database, &format!("alter database {database} set timezone = 'Asia/Tokyo'"));
            server.psql(&database, "create table in_tokyo (a int)");
            let count = server.psql(&database, "select count(*) from pggit.history");
            let changes = server.psql(&database, "select change_type from pggit.history order by id");
            migrate_ok(&["up", "--adopt"], &url);

            let told = |columns: &str, more: &str| {
                let query = format!(
                    "select {columns} from pggit.history where captured_by = 'pggit' {more} order by created_at, ordinal"
                );
                server.psql(&database, &query)
            };
            assert_eq!(told("change_type", ""), changes, "each row, in its order");
            assert_eq!(
                told("command_tag || ' ' || object_type || ' ' || object_identity", "and object_name = 'customers'"),
                "CREATE TABLE table public.customers\nALTER TABLE table public.customers"
            );
            assert_eq!(
                told("distinct object_identity, created_at, ordinal", "and object_name = 'Odd name'").split('|').next(),
                Some("public.\"Odd name\"")
            );
            assert_eq!(
                told(
                    "command_tag || ' ' || change_severity",
                    "and object_identity = 'public.passing' and change_type = 'DROP'"
                ),
                "DROP TABLE MAJOR"
            );
            assert_eq!(
                told("distinct created_by, created_at, ordinal", "")
                    .lines()
                    .filter(|line| line.starts_with("postgres|"))
                    .count(),
                count.parse::<usize>().unwrap()
            );
            let minutes =
                told("abs(extract(epoch from created_at - now())) < 600", "and object_identity = 'public.in_tokyo'");
            assert_eq!(minutes, "t", "its times were those of the database's zone");
            if shape == Shape::WithBranches {
                assert_eq!(
                    told("branch || ' ' || sql_executed", "and change_type = 'ALTER'"),
                    "feature/x alter table customers add name text;"
                );
                let commit = "select message, changes from pggit.commits where branch = 'feature/x'";
                assert_eq!(server.psql(&database, commit), "customers get a name|1");
            } else {
                assert_eq!(
                    told("distinct branch, created_at, ordinal", "")
                        .lines()
                        .filter(|line| line.starts_with("main|"))
                        .count()
                        .to_string(),
                    count
                );
            }

            // Nothing of pgGit's is recorded as the user's, all that is the user's is; and recording goes on, now by us.
            let baseline = "select count(*) from pggit.history where change_type = 'BASELINE' and object_identity ~ 'pggit|history'";
            assert_eq!(server.psql(&database, baseline), "0");
            server.psql(&database, "alter table customers add later int; drop view known");
            let ours = "select change_type, old_definition is not null from pggit.history where captured_by = 'trigger' order by created_at, ordinal";
            assert_eq!(server.psql(&database, ours), "ALTER|t\nDROP|t");
            let kept = server.psql(&database, "select backup from pggit.upgrade_log where adopted is not null");
            assert_eq!(
                server.psql(&database, &format!("select count(*) from {kept}.history")),
                count,
                "and none of it by pgGit any more"
            );
            let triggers = "select string_agg(evtname, ' ' order by evtname) from pg_event_trigger";
            assert_eq!(server.psql(&database, triggers), "pggit_before_ddl pggit_record_ddl pggit_record_drop");
            assert_eq!(server.psql(&database, "select pggit.version()"), env!("CARGO_PKG_VERSION"));

            // It can be sealed, and the proxy serves it.
            let proxy = Proxy::start(server, &format!("[upstream]\ndbname = \"{database}\"\n"));
            proxy.psql(&database, "create table by_proxy (a int)");
            server.psql(&database, "select pggit.seal()");
            assert_eq!(server.psql(&database, "select count(*) from pggit.verify()"), "0");
            assert!(migrate_ok(&["status"], &url).contains("gives them back"));
        }
    }
}

#[test]
fn it_is_given_back_as_it_was_and_taken_over_again() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, url) = with_pggit(server, Shape::WithBranches);
        let role = format!("{database}_owner");
        server.psql(
            &database,
            &format!("create role {role} superuser; alter schema pggit owner to {role}; alter event trigger pggit_drop_trigger owner to {role}; \
                      comment on event trigger pggit_ddl_trigger is 'theirs'; \
                      create event trigger pggit_quiet on ddl_command_end when tag in ('CREATE TABLE', 'DROP TABLE') execute function pggit.handle_ddl_command(); \
                      alter event trigger pggit_quiet disable; alter event trigger pggit_drop_trigger enable always"),
        );
        let before = theirs(server, &database, "pggit");
        migrate_ok(&["up", "--adopt"], &url);
        server.psql(&database, "create table ours (a int)");
        let down = migrate_ok(&["down", "--to", "0"], &url);
        assert!(down.contains("pgGit's own again"), "{down}");
        assert_eq!(theirs(server, &database, "pggit"), before);
        let error = migrate_fails(&["up"], &url);
        assert!(error.contains("migrate up --adopt"), "{error}");

        // It works again; and what it records meanwhile is told after the next time, beside what we had recorded.
        server.psql(&database, "create table meanwhile (a int)");
        assert_eq!(server.psql(&database, "select count(*) from pggit.history h join pggit.objects o on o.id = h.object_id where o.object_name = 'meanwhile'"), "1");
        let theirs_now = server.psql(&database, "select count(*) from pggit.history");
        migrate_ok(&["up", "--adopt"], &url);
        let told = "select captured_by || ' ' || change_type || ' ' || object_identity from pggit.history \
                    where object_identity in ('public.ours', 'public.meanwhile') and change_type <> 'BASELINE' order by created_at";
        assert_eq!(server.psql(&database, told), "trigger CREATE public.ours\npggit CREATE public.meanwhile");
        assert_eq!(
            server.psql(&database, "select count(*) from pggit.history where captured_by = 'pggit'"),
            theirs_now
        );
        assert_eq!(
            server.psql(
                &database,
                "select count(*) from pggit.upgrade_log where adopted is not null and status = 'completed'"
            ),
            "1"
        );

        // For good: then there is nothing to give back.
        assert!(migrate_ok(&["prune", "--all"], &url).contains("dropped pggit_backup_"));
        assert!(migrate_ok(&["down", "--to", "0"], &url).contains("at version 0"));
    }
}

#[test]
fn members_of_a_foreign_extension_are_not_moved() {
    let server = PgServer::shared(Pg::V15);
    let (database, url) = with_pggit(server, Shape::Oldest);
    server.psql(&database, "alter extension plpgsql add table pggit.objects");
    let before = theirs(server, &database, "pggit");
    let error = migrate_fails(&["up", "--adopt"], &url);
    assert!(error.contains("belong to the extension \"plpgsql\""), "{error}");
    assert_eq!(theirs(server, &database, "pggit"), before);
}

/// PostgreSQL 18 finds extensions elsewhere, too.
#[test]
fn an_extension_is_dissolved() {
    if !versions().contains(&Pg::V18) {
        return;
    }
    let directory = new_directory("extension");
    std::fs::create_dir(directory.join("extension")).unwrap();
    let script = |file: &str, text: &str| std::fs::write(directory.join("extension").join(file), text).unwrap();
    script("pggit.control", "default_version = '0.1.3'\nschema = pggit\nrelocatable = false\n");
    script("pggit--0.1.3.sql", &format!("{OLDEST}{BRANCHES}").replace("CREATE SCHEMA pggit;\n", ""));
    let path = format!("extension_control_path = '$system:{}'", directory.display());
    let server = PgServer::with(Pg::V18).config(&path).start();
    let database = server.create_database("app");
    let url = server.url(&database);
    server.psql(&database, "create extension pggit; create table customers (a int)");
    let rows = "select count(*) from pggit.history";
    assert_eq!(server.psql(&database, rows), "1");

    let count = server.psql(&database, "select count(*) from pg_depend where deptype = 'e' and refobjid = (select oid from pg_extension where extname = 'pggit')");
    assert!(count.parse::<i64>().unwrap() > 10, "{count}");
    migrate_ok(&["up", "--adopt"], &url);
    assert_eq!(
        server.psql(&database, "select object_identity from pggit.history where captured_by = 'pggit'"),
        "public.customers"
    );
    assert_eq!(server.psql(&database, "select count(*) from pg_extension where extname = 'pggit'"), "0");
    assert_eq!(
        server.psql(&database, "select adopted ->> 'extension' from pggit.upgrade_log where adopted is not null"),
        "0.1.3"
    );
    migrate_ok(&["down", "--to", "0"], &url);
    server.psql(&database, "create table more (a int)");
    assert_eq!(server.psql(&database, rows), "2", "it works as it did, if not as an extension");
    drop(server);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_failed_adoption_changes_nothing() {
    let server = PgServer::shared(Pg::V15);
    let (database, url) = with_pggit(server, Shape::WithBranches);
    server.psql(&database, "create schema pggit_adopting");
    let before = theirs(server, &database, "pggit");
    let error = migrate_fails(&["up", "--adopt"], &url);
    assert!(error.contains("pggit_adopting"), "{error}");
    assert_eq!(theirs(server, &database, "pggit"), before);

    // Nor may a role that could not go on.
    let role = format!("{database}_plain");
    server.psql(
        &database,
        &format!("drop schema pggit_adopting; create role {role} login; grant create on database {database} to {role}"),
    );
    let plain = format!("postgres://{role}@{}/{database}", server.address);
    migrate_fails(&["up", "--adopt"], &plain);
    assert_eq!(theirs(server, &database, "pggit"), before);
}

#[test]
fn one_that_is_killed_changes_nothing() {
    let server = PgServer::shared(Pg::V15);
    let (database, url) = with_pggit(server, Shape::WithBranches);
    let before = theirs(server, &database, "pggit");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (client, connection) = runtime.block_on(tokio_postgres::connect(&url, tokio_postgres::NoTls)).unwrap();
    let driving = runtime.spawn(connection);
    // A table of theirs that is only counted: it is moved aside by then.
    runtime.block_on(client.batch_execute("begin; lock table pggit.dependencies in access exclusive mode")).unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["migrate", "up", "--adopt", "--database-url", &url])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    wait_for("the adoption waits", || (server.psql(&database, waiting) == "1").then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(client);
    runtime.block_on(driving).unwrap().unwrap();
    let others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'";
    wait_for("the killed one's server process ends", || (server.psql(&database, others) == "0").then_some(()));
    assert_eq!(theirs(server, &database, "pggit"), before);
    migrate_ok(&["up", "--adopt"], &url);
}

#[test]
fn what_its_triggers_write_late_is_told_at_the_next_up() {
    let server = PgServer::shared(Pg::V15);
    let (database, url) = with_pggit(server, Shape::WithBranches);
    migrate_ok(&["up", "--adopt"], &url);
    let kept = server.psql(&database, "select backup from pggit.upgrade_log where adopted is not null");
    server.psql(&database, &format!("insert into {kept}.history (object_id, change_type, change_severity) select max(id), 'ALTER', 'MINOR' from {kept}.objects"));
    for _ in 0..2 {
        migrate_ok(&["up"], &url);
        let told = format!(
            "select count(*) - (select count(*) from {kept}.history) from pggit.history where captured_by = 'pggit'"
        );
        assert_eq!(server.psql(&database, &told), "0");
    }
}
