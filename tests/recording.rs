//! What is recorded, end to end: rows of `pggit.history` exactly when the change is committed, rows of
//! `pggit.statements` for every attempt, once, with what became of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use support::wire::{bind, execute, extended, parse, query, sync};
use support::{PATIENCE, Repository, Wire, eventually, versions};

fn each(test: impl Fn(&Repository)) {
    for version in versions() {
        test(&Repository::new(version, ""));
    }
}

impl Repository {
    /// `CREATE t, ALTER t`: changes to objects whose name is like this, in order.
    fn changes(&self, like: &str) -> String {
        self.sql(&format!(
            "select string_agg(change_type || ' ' || object_name, ', ' order by created_at, ordinal) \
             from pggit.history where object_name like '{like}'"
        ))
    }

    /// `TAG outcome [sqlstate]` of statements whose text is like this, in order, once all are written.
    fn statements(&self, like: &str) -> Vec<String> {
        assert!(eventually(PATIENCE, || self.proxy.metric("pggit_proxy_history_pending") == Some(0.0)), "facts wait");
        let rows = self.sql(&format!(
            "select command_tag || ' ' || outcome || coalesce(' ' || sqlstate, '') from pggit.statements \
             where sql like '{like}' order by started_at, id"
        ));
        rows.lines().map(str::to_owned).collect()
    }

    fn has_statements(&self, like: &str, wanted: &[&str]) {
        let mut found = Vec::new();
        eventually(PATIENCE, || {
            found = self.statements(like);
            found == wanted
        });
        assert_eq!(found, wanted, "statements like {like}");
    }
}

#[test]
fn rows_say_who_from_where_and_on_which_branch() {
    each(|it| {
        let role = format!("migrator_{}", it.database);
        it.sql(&format!("create role {role} login; create role {role}_group; grant {role}_group to {role}; grant create on schema public to {role}_group"));
        let mut client = Wire::connect(
            it.proxy.clients,
            &[("user", &role), ("database", &it.database), ("application_name", "the tests")],
        );
        let address = client.stream.local_addr().unwrap();
        client.rows(&format!("set role {role}_group; create table t (a int)"));
        let pid = client.value("select pg_backend_pid()");
        let session = client.value("select current_setting('pggit.session')");
        assert_eq!(
            it.sql(
                "select branch, change_type, object_identity, created_by, role_name, application_name, host(client_addr), \
                 client_port, backend_pid, session_id, via_proxy, captured_by from pggit.history where object_type = 'table'"
            ),
            format!(
                "main|CREATE|public.t|{role}|{role}_group|the tests|127.0.0.1|{}|{pid}|{session}|t|trigger",
                address.port()
            )
        );
        it.has_statements("create table t%", &["CREATE TABLE applied"]);
        assert_eq!(
            it.sql(
                "select database, branch, created_by, application_name, host(client_addr), client_port, session_id, verdict, \
                 duration_ms >= 0, started_at between now() - interval '10min' and now() from pggit.statements where sql like 'create table t%'"
            ),
            format!("{}|main|{role}|the tests|127.0.0.1|{}|{session}|allow|t|t", it.database, address.port())
        );
        // The name a session goes by may change.
        client.rows("set application_name = 'later'");
        client.rows("alter table t add b int");
        assert_eq!(it.sql("select application_name from pggit.history where change_type = 'ALTER'"), "later");
        it.has_statements("alter table t add b int", &["ALTER TABLE applied"]);
        assert_eq!(
            it.sql("select application_name from pggit.statements where sql like 'alter table t add b%'"),
            "later"
        );
        // Whoever is under a hostile search_path or has no rights on the schema is recorded all the same.
        client.rows("set search_path = public, pg_catalog");
        client.rows("create function gen_random_uuid() returns uuid language sql as 'select null::uuid'");
        client.rows("create function now() returns timestamptz language sql as 'select null::timestamptz'");
        client.rows("create table public.hostile()");
        assert_eq!(it.changes("hostile"), "CREATE hostile");
    });
}

#[test]
fn rows_are_there_exactly_when_the_change_is() {
    each(|it| {
        let mut client = it.client();
        client.rows("begin; create table a1 (); rollback");
        client.rows(
            "begin; create table a2 (); savepoint s; create table a3 (); rollback to s; create table a4 (); commit",
        );
        assert_eq!(it.changes("a_"), "CREATE a2, CREATE a4");
        it.has_statements(
            "create table a_ ()",
            &["CREATE TABLE rolled_back", "CREATE TABLE applied", "CREATE TABLE rolled_back", "CREATE TABLE applied"],
        );

        // Fails at COMMIT, in a deferred trigger.
        client.rows(
            "create table guarded (i int); \
             create function fails() returns trigger language plpgsql as 'begin raise exception ''no''; end'; \
             create constraint trigger guard after insert on guarded deferrable initially deferred \
             for each row execute function fails()",
        );
        client.rows("begin");
        client.rows("create table b1 ()");
        client.rows("insert into guarded values (1)");
        assert_eq!(client.error("commit").field(b'C').unwrap(), "P0001");
        // The same in autocommit, where only ReadyForQuery tells; and extended, where Sync does.
        assert_eq!(client.error("create table b2 (); insert into guarded values (1)").field(b'C').unwrap(), "P0001");
        let statement = |sql| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
        let both = [statement("create table b3 ()"), statement("insert into guarded values (1)"), sync()].concat();
        assert!(client.ask(&both).iter().any(|message| message.tag == b'E'));
        assert_eq!(it.changes("b_"), "");
        it.has_statements("create table b_ ()", &["CREATE TABLE rolled_back P0001"; 3]);

        // A failed transaction commits as ROLLBACK.
        client.rows("begin; create table c1 ()");
        client.error("select 1/0");
        client.rows("commit");
        assert_eq!(it.changes("c_"), "");
        it.has_statements("create table c_ ()", &["CREATE TABLE rolled_back"]);

        // One that fails, and one behind it that is never run.
        client.error("create table d1 (); create table d1 (); create table d2 ()");
        assert_eq!(it.changes("d_"), "");
        it.has_statements("create table d_ ()", &["CREATE TABLE rolled_back 42P07", "CREATE TABLE failed 42P07"]);
    });
}

#[test]
fn outcomes_are_right_in_transactions_of_every_shape() {
    each(|it| {
        let mut client = it.client();
        client.rows(
            "begin; create table f1 (); savepoint \"A b\"; create table f2 (); rollback to savepoint \"A b\"; release \"A b\"; \
             commit and chain; create table f3 (); rollback and chain; create table f4 (); commit",
        );
        // What was committed inside of a text stays, though the text fails; a block takes what stands before it along.
        client.error("begin; create table f5 (); commit; select 1/0");
        client.rows("create table f6 (); begin; create table f7 (); rollback; create table f8 ()");
        // A name used twice means the newer one, and after its release the older one.
        client.rows(
            "begin; savepoint s; create table f9 (); savepoint s; create table fa (); release s; rollback to s; commit",
        );
        assert_eq!(it.changes("f_"), "CREATE f1, CREATE f4, CREATE f5, CREATE f8");
        let outcomes =
            "applied rolled_back rolled_back applied applied rolled_back rolled_back applied rolled_back rolled_back";
        let wanted: Vec<String> = outcomes.split(' ').map(|outcome| format!("CREATE TABLE {outcome}")).collect();
        it.has_statements("create table f_ ()", &wanted.iter().map(String::as_str).collect::<Vec<_>>());
        // The statement log and the server agree on what is there.
        assert_eq!(
            it.sql("select string_agg(relname, ',' order by relname) from pg_class where relname ~ '^f.$'"),
            "f1,f4,f5,f8"
        );
    });
}

#[test]
fn two_phase_commit_records_when_the_second_phase_comes() {
    each(|it| {
        let mut client = it.client();
        for (name, end) in [("p1", "commit prepared"), ("p2", "rollback prepared")] {
            client.rows(&format!("begin; create table {name} (); prepare transaction '{name}_{}'", it.database));
            assert_eq!(it.changes(name), "", "prepared is not committed");
            // From another session, as after a crash of the first.
            it.client().rows(&format!("{end} '{name}_{}'", it.database));
        }
        assert_eq!(it.changes("p_"), "CREATE p1");
        it.has_statements("create table p_ ()", &["CREATE TABLE applied", "CREATE TABLE rolled_back"]);
        // The session goes on as if nothing had been.
        client.rows("create table p3 ()");
        assert_eq!(it.changes("p3"), "CREATE p3");
    });
}

#[test]
fn what_ends_in_mid_transaction_leaves_no_row() {
    each(|it| {
        // The client goes without a word.
        let mut client = it.client();
        client.rows("begin; create table gone1 ()");
        drop(client);
        it.has_statements("create table gone1 ()", &["CREATE TABLE rolled_back"]);

        // The server ends the session.
        let mut client = it.client();
        client.rows("begin; create table gone2 ()");
        it.sql(&format!("select pg_terminate_backend({})", client.value("select pg_backend_pid()")));
        assert_eq!(client.read_to_end().last().unwrap().field(b'C').unwrap(), "57P01");
        it.has_statements("create table gone2 ()", &["CREATE TABLE rolled_back"]);

        // In the middle of the statement itself: the FATAL error is its answer.
        let mut holder = it.client();
        holder.rows("create table busy ()");
        holder.rows("begin; lock table busy");
        let mut client = it.client();
        let pid = client.value("select pg_backend_pid()");
        client.send(&query("alter table busy add a int"));
        let waits = format!("select count(*) from pg_locks where pid = {pid} and not granted");
        assert!(eventually(PATIENCE, || it.sql(&waits) == "1"));
        it.sql(&format!("select pg_terminate_backend({pid})"));
        assert_eq!(client.read_to_end().last().unwrap().field(b'C').unwrap(), "57P01");
        it.has_statements("alter table busy%", &["ALTER TABLE failed 57P01"]);

        // The client goes while the server still works on it: nobody saw the outcome.
        let mut client = it.client();
        let pid = client.value("select pg_backend_pid()");
        client.send(&query("alter table busy add b int"));
        let waits = format!("select count(*) from pg_locks where pid = {pid} and not granted");
        assert!(eventually(PATIENCE, || it.sql(&waits) == "1"));
        drop(client);
        holder.rows("rollback");
        assert!(eventually(PATIENCE, || it.statements("alter table busy add b int").len() == 1));
        let seen = it.statements("alter table busy add b int");
        // It got the lock and committed, whether or not its answer came before the client was missed.
        assert!(["ALTER TABLE unknown", "ALTER TABLE applied"].contains(&seen[0].as_str()), "{seen:?}");
    });
}

#[test]
fn a_killed_proxy_leaves_the_database_right() {
    for version in versions() {
        let mut it = Repository::new(version, "");
        let mut client = it.client();
        client.rows("create table before ()");
        client.rows("begin; create table during ()");
        let pid = client.value("select pg_backend_pid()");
        it.proxy.signal(Signal::SIGKILL);
        it.proxy.wait_exit(PATIENCE).unwrap();
        assert!(client.read_message().is_none());
        let gone = format!("select count(*) from pg_stat_activity where pid = {pid}");
        assert!(eventually(PATIENCE, || it.sql(&gone) == "0"));
        assert_eq!(it.changes("before"), "CREATE before");
        assert_eq!(it.changes("during"), "");
        assert_eq!(it.sql("select to_regclass('during') is null"), "t");
    }
}

#[test]
fn changes_are_recorded_however_they_are_made() {
    each(|it| {
        let mut client = it.client();
        client.rows("do $$ begin execute 'create table in_do (a int)'; end $$");
        client.rows("create function f() returns void language plpgsql as $$ begin create table in_f (a int); end $$");
        client.rows("select f()");
        client.rows("create table multi1 (); create table multi2 ()");
        client.ask(&extended("create table ext (a int)", &[]));
        let one = |sql: &str| extended(sql, &[]);
        client.send(&[one("create table pipe1 ()"), one("create table pipe2 ()"), one("drop table pipe1")].concat());
        for _ in 0..3 {
            assert!(client.read_until_ready().iter().all(|message| message.tag != b'E'));
        }
        // Prepared once, executed twice.
        client.ask(&[parse("s", "create table if not exists again ()", &[]), sync()].concat());
        for _ in 0..2 {
            client.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat());
        }
        assert_eq!(
            it.sql(
                "select string_agg(object_name, ',' order by created_at, ordinal) from pggit.history \
                    where object_type = 'table' and change_type = 'CREATE' and via_proxy"
            ),
            "in_do,in_f,multi1,multi2,ext,pipe1,pipe2,again"
        );
        it.has_statements("create table%", &["CREATE TABLE applied"; 7]);
        it.has_statements("drop table pipe1", &["DROP TABLE applied"]);

        // Cascades, renames, old and new definitions.
        client.rows("create table parent (id int primary key); create view v as select id from parent");
        client.rows("alter table parent rename to elder; alter table elder rename column id to key");
        client.rows("drop table elder cascade");
        assert_eq!(
            it.sql("select string_agg(distinct change_type || ' ' || object_type || ' ' || object_identity, ', ') from pggit.history \
                    where object_name in ('v', 'elder') and change_type in ('DROP', 'RENAME')"),
            "DROP table public.elder, DROP view public.v, RENAME table public.elder"
        );
        assert_eq!(
            it.sql(
                "select old_definition ~ 'elder' and new_definition is null from pggit.history \
                    where object_identity = 'public.elder' and change_type = 'DROP'"
            ),
            "t"
        );
        // An extension is one change.
        client.rows("create extension hstore");
        assert_eq!(it.sql("select count(*) from pggit.history where command_tag = 'CREATE EXTENSION'"), "1");
        // What goes round the proxy is recorded, and said to.
        it.sql("create table direct ()");
        assert_eq!(
            it.sql("select via_proxy, session_id is null, created_by, branch from pggit.history where object_name = 'direct'"),
            "f|t|postgres|main"
        );
        assert_eq!(it.sql("select count(*) from pggit.statements where sql like '%direct%'"), "0");
        // Temporary objects are not.
        client.rows("create temp table mine (a int); drop table mine");
        assert_eq!(it.changes("mine"), "");
    });
}

#[test]
fn sessions_see_nothing_of_the_recording() {
    each(|it| {
        let mut client = it.client();
        client.rows("create sequence q; select nextval('q')");
        client.rows("create table t (id serial)");
        assert_eq!(client.value("select lastval()"), "1");
        // Error positions are those of the client's text.
        let error = client.error("create table u (a int); create table w (a nonsense)");
        assert_eq!((error.field(b'C').unwrap().as_str(), error.field(b'P').unwrap().as_str()), ("42704", "43"));
        let error = client.error("create table w (a nonsense)");
        assert_eq!(error.field(b'P').unwrap(), "19");
        // No notices, no notifications, no temporary objects, one command tag.
        let tags: Vec<u8> = client.ask(&query("alter table t add b int")).iter().map(|message| message.tag).collect();
        assert_eq!(tags, b"CZ");
        // Serializable sessions see no failures of ours.
        let (mut one, mut two) = (it.client(), it.client());
        for client in [&mut one, &mut two] {
            client.rows("begin isolation level serializable; select count(*) from t");
        }
        one.rows("create table ser1 ()");
        two.rows("create table ser2 ()");
        one.rows("commit");
        two.rows("commit");
        assert_eq!(it.sql("select count(*) from pggit.history where object_name like 'ser_'"), "2");
        // What says whose change it is cannot be changed.
        let session = client.value("select current_setting('pggit.session')");
        for sql in [
            "set pggit.session = 'x'",
            "select set_config('pggit.session', 'x', false)",
            "set local pggit.client = 'x'",
        ] {
            assert_eq!(client.error(sql).field(b'C').unwrap(), "42501", "{sql}");
        }
        client.rows("reset all");
        client.rows("discard all");
        assert_eq!(client.value("select current_setting('pggit.session')"), session);
    });
}

#[test]
fn every_attempt_is_in_the_statement_log_once() {
    each(|it| {
        let policy = "\n[[rule]]\nname = \"no-keep\"\nclass = \"ddl\"\nobject = \"keep*\"\naction = \"refuse\"\n";
        it.proxy.rewrite(&format!("[upstream]\ndbname = \"{}\"\n{policy}", it.database));
        it.proxy.control("RELOAD");
        let role = format!("r_{}", it.database);
        let mut client = it.client();
        client.rows(&format!("create role {role}"));
        client.error(&format!("create role {role}"));
        client.error("drop table nothing");
        client.error("drop table keep");
        client.error("creat table x ()");
        client.rows("select 1; create table if not exists plain (a int)");
        client.rows("insert into plain values (1)");
        it.has_statements(
            "%",
            &[
                "CREATE ROLE applied",
                "CREATE ROLE failed 42710",
                "DROP TABLE failed 42P01",
                "DROP TABLE refused 42501",
                " refused 42501",
                "CREATE TABLE applied",
            ],
        );
        assert_eq!(
            it.sql("select verdict, rule, outcome, error, class from pggit.statements where sql = 'drop table keep'"),
            "refuse|no-keep|refused|DROP TABLE refused by rule \"no-keep\"|ddl"
        );
        // In an unmanaged database only what was refused is.
        let mut other = it.proxy.connect("postgres");
        other.rows("create table if not exists elsewhere ()");
        other.error("drop table keep, elsewhere");
        it.has_statements("%elsewhere%", &["DROP TABLE refused 42501"]);
        assert_eq!(it.sql("select branch is null from pggit.statements where sql like '%elsewhere%'"), "t");
        it.server.psql("postgres", "drop table elsewhere");

        // The recorder's connection is lost, again and again, while statements come.
        for number in 0..30 {
            client.rows(&format!("create table once{number} ()"));
            if number % 5 == 0 {
                it.server.psql(
                    &it.database,
                    "select pg_terminate_backend(pid) from pg_stat_activity \
                     where application_name = 'pggit-proxy' and datname = current_database()",
                );
            }
        }
        it.has_statements("create table once%", &["CREATE TABLE applied"; 30]);
        assert_eq!(
            it.sql("select count(distinct sql) from pggit.statements where sql like 'create table once%'"),
            "30"
        );
    });
}

#[test]
fn a_dump_is_restored_through_the_proxy() {
    each(|it| {
        let source = it.server.unique_database("source");
        it.server.psql(
            &source,
            "create extension citext; create type mood as enum ('sad', 'ok'); create domain d as int check (value > 0); \
             create table t (id serial primary key, m mood, c citext, x d); create index on t (m); \
             create view v as select * from t; create materialized view mv as select 1 as one; \
             create function f(int) returns int language sql as 'select $1'; \
             create function tr() returns trigger language plpgsql as 'begin return new; end'; \
             create trigger tg before insert on t for each row execute function tr(); \
             create table p (a int) partition by range (a); create table p1 partition of p for values from (0) to (9); \
             comment on table t is 'tt'; insert into t (m, c, x) select 'ok', 'C', g from generate_series(1, 100) g;",
        );
        let bin = |name: &str| it.server.client_program(name);
        let port = it.proxy.clients.port().to_string();
        let via =
            |database: &str| ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", database].map(str::to_owned);
        let dump = Command::new(bin("pg_dump")).args(via(&source)).output().unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let mut script = tempfile::NamedTempFile::new().unwrap();
        script.write_all(&dump.stdout).unwrap();
        // Of the same version: a script may hold words of psql's that an older one does not know.
        let mut psql = Command::new(bin("psql"));
        psql.args(via(&it.database)).args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(script.path());
        let restored = psql.output().unwrap();
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        let count = |what: &str| it.sql(&format!("select count(*) from pggit.history where {what} and via_proxy"));
        assert_eq!(it.sql("select count(*) from t"), "100");
        assert_eq!(count("object_type = 'table' and change_type = 'CREATE'"), "3");
        assert_eq!(count("command_tag = 'CREATE EXTENSION'"), "1");
        assert_eq!(count("object_type = 'trigger' and change_type = 'CREATE'"), "1");
        assert_eq!(count("object_type = 'view' and change_type = 'CREATE'"), "1");

        // And as one transaction: all or nothing.
        it.proxy.psql(&it.database, "drop table t, p cascade; drop function f, tr; drop materialized view mv; drop type mood; drop domain d; drop extension citext");
        let file = tempfile::NamedTempFile::new().unwrap();
        let custom = Command::new(bin("pg_dump"))
            .args(via(&source))
            .arg("-Fc")
            .stdout(Stdio::from(file.reopen().unwrap()))
            .status();
        assert!(custom.unwrap().success());
        let restore = || {
            let mut command = Command::new(bin("pg_restore"));
            command.args(via(&it.database)).args(["--single-transaction", "--exit-on-error"]).arg(file.path());
            command.output().unwrap()
        };
        let output = restore();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(count("object_type = 'table' and change_type = 'CREATE'"), "6");
        assert_eq!(it.sql("select count(distinct commit_id) from pggit.history where object_name = 'mood' and change_type = 'CREATE'"), "2");
        let before = count("true");
        assert!(!restore().status.success(), "everything is there already");
        assert_eq!(count("true"), before);
    });
}
