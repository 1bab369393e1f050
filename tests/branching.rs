//! Branches made, changed and dropped on demand: what they hold, what is refused, what a crash leaves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::proxy::{PROGRAM, run};
use support::{PATIENCE, PgServer, Proxy, Wire, eventually, migrate, psql, psql_ok, versions};

/// A repository whose proxy makes branches with the server's own pg_dump.
struct Repository {
    server: &'static PgServer,
    app: String,
    proxy: Proxy,
}

fn configured(server: &PgServer, app: &str) -> String {
    format!(
        "[upstream]\ndbname = \"{app}\"\n[branches]\npg_dump = \"{}\"\n",
        server.client_program("pg_dump").display()
    )
}

fn each(test: impl Fn(&Repository)) {
    for version in versions() {
        let server = PgServer::shared(version);
        let app = server.unique_database("app");
        migrate(server, &app);
        let proxy = Proxy::start(server, &configured(server, &app));
        test(&Repository { server, app, proxy });
    }
}

impl Repository {
    /// Directly, in the main database.
    fn main(&self, sql: &str) -> String {
        self.server.psql(&self.app, sql)
    }

    /// Directly, in the branch's database.
    fn on(&self, branch: &str, sql: &str) -> String {
        self.server.psql(&self.database(branch), sql)
    }

    fn database(&self, branch: &str) -> String {
        let branch = branch.replace('\'', "''");
        let database = self.main(&format!("select database from pggit.branches where name = '{branch}'"));
        assert!(!database.is_empty(), "{branch} has no row");
        database
    }

    fn client(&self, branch: &str) -> Wire {
        Wire::connect(self.proxy.clients, &[("user", "postgres"), ("database", &self.app), ("pggit.branch", branch)])
    }

    /// What the control port says of a command that must fail.
    fn refused(&self, command: &str) -> String {
        let output = psql(&self.proxy.control_dsn(), command);
        assert!(!output.status.success(), "{command} was done");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let (url, dump) = (self.server.url(&self.app), self.server.client_program("pg_dump"));
        let dump = dump.display().to_string();
        run(&[&["branch", "--database-url", &url, "--pg-dump", &dump], arguments].concat())
    }

    /// The schema as pg_dump prints it, without what a branch has of its own.
    fn dump(&self, database: &str) -> String {
        let text = self.server.schema_dump(database, &[]);
        let named = |line: &str| line.contains("RETURN 'main'::text") || line.starts_with("    RETURN '");
        text.lines().filter(|line| !named(line)).collect::<Vec<_>>().join("\n")
    }

    fn databases(&self) -> Vec<String> {
        let like = format!("select datname from pg_database where datname like '{}\\_\\_%' order by 1", self.app);
        self.main(&like).lines().map(str::to_owned).collect()
    }

    fn templates(&self) -> String {
        self.main("select database from pggit.templates where status = 'ready' order by 1")
    }
}

#[test]
fn a_branch_goes_its_own_way() {
    each(|it| {
        let mut main = it.client("main");
        main.rows("create table t (a int primary key); insert into t values (1)");
        main.rows("alter table t add b text");
        it.proxy.control("create branch feature/x from main");
        // At once, through this proxy: by name, and recorded as that branch.
        let mut branch = it.client("feature/x");
        assert_eq!(branch.value("select count(*) from t"), "0", "without data");
        branch.rows("alter table t add on_branch int");
        main.rows("alter table t add on_main int");
        let columns = "select string_agg(attname, ' ' order by attnum) from pg_attribute \
                       where attrelid = 't'::regclass and attnum > 0";
        assert_eq!(branch.value(columns), "a b on_branch");
        assert_eq!(main.value(columns), "a b on_main");
        // The parent's history came along, as it was; each side goes on by itself.
        let rows = "select string_agg(id::text, ' ' order by id) from pggit.changes where created_at <= \
                    (select created_at from pggit.changes where new_definition ~ 'b text' and object_name = 't' limit 1)";
        assert_eq!(it.on("feature/x", rows), it.main(rows));
        let newest = "select branch, via_proxy from pggit.history order by created_at desc limit 1";
        assert_eq!((it.on("feature/x", newest), it.main(newest)), ("feature/x|t".into(), "main|t".into()));
        let altered =
            "select count(*) from pggit.history where old_definition ~ 'b text' and new_definition ~ 'on_branch'";
        assert_eq!(it.on("feature/x", altered), "1", "a change on the branch knows what it replaced");
        branch.rows("alter table t rename to u; alter table u drop column on_branch");
        let renamed = "select string_agg(change_type || ' ' || object_name, ', ' order by created_at) from pggit.history \
                       where branch = 'feature/x' and object_type = 'table' and object_name in ('t', 'u')";
        assert_eq!(it.on("feature/x", renamed), "ALTER t, RENAME u, ALTER u");
        // A branch of the branch knows all of it.
        it.proxy.control("create branch grandchild from feature/x");
        it.client("grandchild").rows("alter table u rename to w");
        let told = "select change_type, old_definition like '%TABLE public.u %' from pggit.history \
                    where object_name = 'w' and object_type = 'table'";
        assert_eq!(it.on("grandchild", told), "RENAME|t");
        // Its row says where it comes from.
        let fork = it.main("select fork_commit from pggit.branches where name = 'feature/x'");
        let theirs = it.on("feature/x", &format!("select branch, message from pggit.commits where id = '{fork}'"));
        assert_eq!(theirs, "main|");
        let row = "select parent, status, created_by, protected from pggit.branches where name = 'feature/x'";
        assert_eq!(it.main(row), "main|active|admin|f");
        // One change on either side since.
        let show = "show branches fork_commit, ahead, behind, sessions where name = 'feature/x'";
        assert!(
            eventually(PATIENCE, || it.proxy.control(show) == format!("{fork}|2|1|1")),
            "{}",
            it.proxy.control(show)
        );
        let seen = "show branches name where size > 1000000 and last_change is not null order by name";
        assert!(eventually(PATIENCE, || it.proxy.control(seen) == "feature/x\ngrandchild\nmain"));
        // The seals hold, and go on.
        let database = it.database("feature/x");
        assert!(eventually(PATIENCE, || it.server.psql(&database, "select count(*) from pggit.unsealed()") == "0"));
        let verified = run(&["verify", "--database-url", &it.server.url(&database)]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        // Nothing of it was taken for an unrecorded change.
        let probed = "select count(*) from pggit.changes where captured_by = 'probe'";
        let looked = "select count(*) from pggit.probe_state where catalog_writes is not null";
        assert!(eventually(PATIENCE, || it.server.psql(&database, looked) == "1"), "the probe has looked");
        assert_eq!(it.server.psql(&database, probed), "0");
    });
}

#[test]
fn the_schema_is_the_same() {
    each(|it| {
        let role = format!("owner_{}", it.app);
        it.main(&format!(
            "create role {role}; create extension hstore; create extension citext;
             create schema own authorization {role}; create table own.t (id bigint generated always as identity, c citext, h hstore);
             create sequence big as bigint increment by 7 maxvalue 9223372036854775807 start with 9000000000000000000 cache 50;
             create view v as select id, c from own.t; create materialized view m as select count(*) as n from v;
             create materialized view empty as select 1 as one with no data; create unique index on m (n);
             create function f(a int, b text default 'it''s; -- no') returns text language plpgsql as $$
             --
             -- Name: trap; Type: EVENT TRIGGER; Schema: -; Owner: postgres
             --
             begin return b; end $$;
             create function g(a int) returns int language sql begin atomic select a + 1; select a + 2; end;
             create procedure p() language sql as 'select 1; select 2';
             create type mood as enum ('sad', 'ok; \\fine'); create domain positive as int check (value > 0);
             create table parts (k int, m mood) partition by list (k); create table parts_1 partition of parts for values in (1);
             alter table own.t add primary key (id), enable row level security; create policy po on own.t using (c <> 'x');
             create trigger tr before insert on own.t for each row execute function suppress_redundant_updates_trigger();
             create rule r as on delete to v do instead nothing;
             grant select on own.t to public; grant all on v to {role} with grant option; grant execute on function f to {role};
             revoke execute on function f from public; alter table own.t owner to {role};
             alter default privileges in schema own grant select on tables to public;
             alter default privileges for role {role} revoke execute on functions from public;
             comment on table own.t is 'It''s; a \"comment\"'; comment on column own.t.c is 'é ü';
             create publication pub for table own.t; create statistics st on id, c from own.t;
             grant connect on database {app} to {role} with grant option; revoke temporary on database {app} from public;
             alter database {app} set work_mem = '7MB'; alter database {app} set search_path = \"$user\", own, \"odd, \"\"name\";
             alter role {role} in database {app} set statement_timeout = '7min'; alter database {app} connection limit 77;
             alter database {app} owner to {role}",
            app = it.app
        ));
        it.proxy.control("create branch twin from main");
        let twin = it.database("twin");
        assert_eq!(it.dump(&twin), it.dump(&it.app));
        assert_eq!(it.server.psql(&twin, "select n from public.m"), "0", "a filled view can be read");
        assert_eq!(
            it.server.psql(&twin, "select count(*) from pg_class where relname = 'empty' and relispopulated"),
            "0"
        );
        let like = |database: &str| {
            it.main(&format!(
                "select pg_get_userbyid(datdba), encoding, datcollate, datctype, datconnlimit, datallowconn, datistemplate, \
                        datacl::text from pg_database where datname = '{database}'"
            ))
        };
        assert_eq!(like(&twin), like(&it.app));
        let settings = |database: &str| {
            it.main(&format!(
                "select string_agg(concat_ws(' ', r.rolname, s.setconfig), '; ' order by r.rolname) from pg_db_role_setting s \
                 left join pg_roles r on r.oid = s.setrole join pg_database d on d.oid = s.setdatabase \
                 where d.datname = '{database}'"
            ))
        };
        assert_eq!(settings(&twin), settings(&it.app));
        let key = "select key from pggit.companion_key";
        assert_ne!(it.server.psql(&twin, key), it.main(key));
        assert_eq!(it.server.psql(&twin, "select count(*) from pggit.statements"), "0");
        // A template is nobody's to change, and a later branch costs no pg_dump.
        let template = it.templates();
        let error = it.server.try_psql(&template, "select 1");
        assert!(String::from_utf8_lossy(&error.stderr).contains("not currently accepting connections"));
        it.proxy.control("create branch triplet from main");
        assert_eq!(it.templates(), template, "the template was used again");
        assert_eq!(it.dump(&it.database("triplet")), it.dump(&it.app));
        // What nobody recorded makes another template, too.
        it.main("alter table own.t disable trigger tr");
        it.main(
            "set session_replication_role = replica; alter event trigger pggit_record_ddl disable; \
                 create table unrecorded (); alter event trigger pggit_record_ddl enable always",
        );
        it.proxy.control("create branch fourth from main");
        assert_eq!(it.on("fourth", "select count(*) from pg_class where relname = 'unrecorded'"), "1");
    });
}

/// Prints how long it takes; what is asserted is the work.
#[test]
fn a_second_branch_of_many_tables_reads_nothing_anew() {
    for version in versions() {
        let server = PgServer::shared(version);
        let app = server.unique_database("app");
        migrate(server, &app);
        let (directory, real) = (support::postgres::new_directory("dumps"), server.client_program("pg_dump"));
        let (program, runs) = (directory.join("pg_dump"), directory.join("runs"));
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in --version) ;; *) echo run >> '{}' ;; esac\nexec '{}' \"$@\"\n",
            runs.display(),
            real.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let proxy = Proxy::start(
            server,
            &format!("[upstream]\ndbname = \"{app}\"\n[branches]\npg_dump = \"{}\"\n", program.display()),
        );
        // More of them for who wants to measure: beyond what one transaction may lock.
        let tables: usize = std::env::var("PGGIT_BRANCHING_TABLES").map_or(500, |tables| tables.parse().unwrap());
        for part in 0..tables / 50 {
            let table =
                |n| format!("create table t{part}_{n} (id int primary key, a text unique, b int not null default 0);");
            server.psql(&app, &(0..50).map(table).collect::<String>());
        }
        let counted = || fs::read_to_string(&runs).unwrap_or_default().lines().count();
        let create = |name: &str| {
            let begun = Instant::now();
            proxy.control(&format!("create branch {name} from main"));
            begun.elapsed()
        };
        let first = create("first");
        assert_eq!(counted(), 1);
        let (second, third) = (create("second"), create("third"));
        assert_eq!(counted(), 1, "the template is there");
        println!(
            "PostgreSQL {}, {tables} tables: template and branch {first:?}, branches {second:?}, {third:?}",
            version.0
        );
        let database = server.psql(&app, "select database from pggit.branches where name = 'third'");
        assert_eq!(
            server.psql(&database, "select count(*) from pg_tables where schemaname = 'public'"),
            tables.to_string()
        );
        fs::remove_dir_all(&directory).unwrap();
    }
}

#[test]
fn a_commit_whose_template_is_kept_can_be_had_again() {
    each(|it| {
        let mut main = it.client("main");
        let newest = || it.main("select commit_id from pggit.tip()");
        let make =
            |name: &str, commit: &str| it.proxy.control(&format!("create branch {name} from main at commit {commit}"));
        main.rows("create table one ()");
        let first = newest();
        make("first", &first);
        main.rows("create table two ()");
        let second = newest();
        make("second", &second);
        make("again", &first);
        let tables = "select string_agg(relname, ' ' order by relname) from pg_class where relname in ('one', 'two')";
        assert_eq!(
            [it.on("first", tables), it.on("second", tables), it.on("again", tables)],
            ["one", "one two", "one"]
        );
        assert_eq!(it.main("select fork_commit from pggit.branches where name = 'again'"), first);
        // As the last look at main has it.
        let behind = || it.proxy.control("show branches behind where name = 'again'");
        assert!(eventually(PATIENCE, || behind() == "1"), "{}", behind());
        main.rows("create table three ()");
        let third = newest();
        main.rows("create table four ()");
        assert!(
            it.refused(&format!("create branch third from main at commit {third}")).contains("there is no template")
        );
    });
}

#[test]
fn data_comes_along() {
    each(|it| {
        let mut main = it.client("main");
        main.rows("create table t (a serial primary key, b text)");
        main.rows("insert into t (b) select 'row ' || n from generate_series(1, 1000) n");
        main.rows("alter table t add c int");
        main.rows("create temporary table mine ()");
        let error = it.refused("create branch copy from main with data");
        assert!(error.contains("55006") && error.contains("of postgres") && error.contains("\"mine\""), "{error}");
        assert_eq!(main.value("select count(*) from t"), "1000", "nobody was ended");
        assert_eq!(it.main("select count(*) from pggit.branches where name = 'copy'"), "0");
        drop(main);
        it.proxy.control("create branch copy from main with data");
        let database = it.database("copy");
        assert_eq!(it.server.psql(&database, "select count(*) from t"), "1000");
        assert_eq!(it.server.psql(&database, "select nextval('t_a_seq')"), "1001");
        assert_eq!(it.server.psql(&database, "select count(*) from pggit.statements"), "0");
        let key = "select key from pggit.companion_key";
        assert_ne!(it.server.psql(&database, key), it.main(key));
        // The recorder is back, on either side.
        let (mut copy, mut main) = (it.client("copy"), it.client("main"));
        copy.rows("alter table t rename to u");
        main.rows("alter table t drop c");
        let newest = "select change_type, branch from pggit.history order by created_at desc limit 1";
        assert_eq!(it.server.psql(&database, newest), "RENAME|copy");
        assert_eq!(it.main(newest), "ALTER|main");
        let verified = run(&["verify", "--database-url", &it.server.url(&database)]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        // FORCE ends them; of another branch than main, too, and by the command line.
        let made = it.command(&["create", "deeper", "--from", "copy", "--with-data", "--force"]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert_eq!(it.on("deeper", "select count(*) from u"), "1000");
        it.proxy.control("create branch again from main with data force");
        assert_eq!(it.on("again", "select count(*) from t"), "1000");
        assert!(
            it.proxy
                .control("show branches name where parent is not null order by name")
                .lines()
                .eq(["again", "copy", "deeper"])
        );
    });
}

#[test]
fn odd_names_are_names() {
    each(|it| {
        let long = "n".repeat(200);
        let names = ["with space", "Feature/UPPER", "feature/upper", "it's \"quoted\"", "é/ü", "a.b;c", long.as_str()];
        for name in names {
            it.proxy.control(&format!("create branch \"{}\" from main", name.replace('"', "\"\"")));
            assert_eq!(it.client(name).value("select current_setting('pggit.branch')"), name);
            let database = it.database(name);
            assert!(database.len() <= 63 && database.starts_with(&format!("{}__", it.app)), "{database}");
            assert_eq!(it.server.psql(&database, "select pggit.default_branch()"), name);
        }
        let databases: std::collections::BTreeSet<_> = names.iter().map(|name| it.database(name)).collect();
        assert_eq!(databases.len(), names.len());
        for bad in ["''", "/x", "x/", "\"a\tb\""] {
            assert!(it.refused(&format!("create branch {bad} from main")).contains("ERROR"), "{bad}");
        }
        for name in names {
            it.proxy.control(&format!("drop branch \"{}\"", name.replace('"', "\"\"")));
        }
        assert_eq!(it.databases().len(), 1, "the template: {:?}", it.databases());
    });
}

#[test]
fn what_cannot_be_is_said_and_leaves_nothing() {
    each(|it| {
        it.proxy.control("create branch dev from main");
        let before = it.databases();
        for (command, code, text) in [
            ("create branch dev from main", "42710", "branch \"dev\" exists already"),
            ("create branch main from dev", "42710", "exists already"),
            ("create branch x from mian", "3D000", "Near names: \"main\""),
            ("create branch /x from main", "42602", "neither starts nor ends"),
            ("drop branch nope", "3D000", "does not exist"),
            ("drop branch main", "55000", "the default branch"),
            ("alter branch main rename to other", "55000", "the default branch"),
            ("alter branch dev rename to main", "42710", "exists already"),
            (
                "create branch x from main at commit 0198c0de-0000-7000-8000-00000000000a",
                "02000",
                "there is no template",
            ),
        ] {
            let error = it.refused(command);
            assert!(error.contains(code) && error.contains(text), "{command}: {error}");
        }
        // A database that is there and is no branch is not touched.
        let taken = pggit_proxy::branch::database_of(&it.app, "mine");
        it.server.create_database(&taken);
        let error = it.refused("create branch mine from main");
        assert!(error.contains("42P04") && error.contains(&taken), "{error}");
        assert_eq!(it.main(&format!("select count(*) from pg_database where datname = '{taken}'")), "1");
        it.main(&format!("drop database \"{taken}\""));
        // What cannot be made anew: the template and the row go, the words say what it was.
        it.main("create schema broken; create function broken.f() returns int immutable language sql as 'select 1';
                 create table broken.t (a int default broken.f());
                 update pg_proc set probin = null, prosrc = 'nonsense', prolang = (select oid from pg_language where lanname = 'c') \
                 where proname = 'f' and pronamespace = 'broken'::regnamespace");
        let error = it.refused("create branch x from main");
        assert!(error.contains("cannot be made anew") || error.contains("pg_dump failed"), "{error}");
        it.main("drop schema broken cascade");
        assert_eq!(it.databases(), before);
        assert_eq!(it.main("select string_agg(name, ' ' order by name) from pggit.branches"), "dev main");
        assert_eq!(it.main("select count(*) from pggit.templates where status <> 'ready'"), "0");
    });
}

#[test]
fn a_pg_dump_has_to_be_there() {
    let server = PgServer::shared(versions()[0]);
    let app = server.unique_database("app");
    migrate(server, &app);
    let config = format!("[upstream]\ndbname = \"{app}\"\n[branches]\npg_dump = \"/nowhere/pg_dump\"\n");
    let proxy = Proxy::start(server, &config);
    let output = psql(&proxy.control_dsn(), "create branch x from main");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("58P01") && error.contains("/nowhere/pg_dump"), "{error}");
    assert_eq!(
        server.psql(&app, "select count(*) from pg_database where datname like current_database() || '\\_\\_%'"),
        "0"
    );
}

#[test]
fn dropping_is_refused_while_somebody_is_there() {
    each(|it| {
        it.proxy.control("create branch dev from main");
        let database = it.database("dev");
        let mut client = it.client("dev");
        let error = it.refused("drop branch dev");
        assert!(error.contains("55006") && error.contains("of postgres"), "{error}");
        assert!(it.refused("alter branch dev rename to other").contains("55006"));
        it.proxy.control("alter branch dev protect");
        assert_eq!(client.error("create table t ()").field(b'C').unwrap(), "42501");
        assert!(it.refused("drop branch dev force").contains("is protected"));
        it.proxy.control("alter branch dev unprotect");
        client.rows("create table t ()");
        let request = |sql: &str| {
            it.main(&format!(
                "insert into pggit.change_requests (id, session_id, branch, database, author, application_name, client_port, rule, \
                 command_tag, class, objects, transactional, exact_sql, digest, settings, proxy, expires_at) \
                 values (gen_random_uuid(), gen_random_uuid(), 'dev', '{database}', 'ann', '', 1, 'r', 'CREATE TABLE', 'ddl', '{{}}', \
                 true, '{sql}', sha256('{sql}'), '{{}}', 'p', now() + interval '1 day')"
            ));
        };
        let requests =
            "select string_agg(concat_ws(' ', branch, status), ', ' order by number) from pggit.change_requests";
        request("create table asked ()");
        it.proxy.control("drop branch dev force");
        assert_eq!(it.main(requests), "dev expired", "it is not for the next branch of that name");
        assert_eq!(it.main(&format!("select count(*) from pg_database where datname = '{database}'")), "0");
        assert!(it.refused("drop branch dev").contains("3D000"));
        assert_eq!(it.proxy.control("show branches name"), "main");
        // The name is free, and the new branch begins anew.
        it.proxy.control("create branch dev from main");
        assert_eq!(it.client("dev").value("select count(*) from pg_class where relname = 't'"), "0");
        request("create table asked_again ()");
        it.proxy.control("alter branch dev rename to \"other one\"");
        assert_eq!(it.main(requests), "dev expired, other one pending");
        assert_eq!(it.client("other one").value("select pggit.default_branch()"), "other one");
        assert_eq!(it.proxy.control("show branches name, parent where name <> 'main'"), "other one|main");
    });
}

#[test]
fn two_who_want_the_same_make_it_once() {
    each(|it| {
        let other = Proxy::start(it.server, &configured(it.server, &it.app));
        let ways = [it.proxy.control_dsn(), other.control_dsn()];
        let outputs: Vec<Output> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                ways.iter().map(|way| scope.spawn(move || psql(way, "create branch both from main"))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let failed: Vec<_> = outputs.iter().filter(|output| !output.status.success()).collect();
        assert_eq!(failed.len(), 1);
        let error = String::from_utf8_lossy(&failed[0].stderr);
        assert!(error.contains("55006") || error.contains("42710"), "{error}");
        // Two names at once share one template.
        std::thread::scope(|scope| {
            for (way, name) in ways.iter().zip(["left", "right"]) {
                scope.spawn(move || psql_ok(way, &format!("create branch {name} from main")));
            }
        });
        assert_eq!(it.templates().lines().count(), 1);
        // The other proxy hears of it.
        assert!(eventually(PATIENCE, || other.control("show branches name").lines().count() == 4));
    });
}

#[test]
fn a_maker_that_is_lost_leaves_nothing() {
    each(|it| {
        for n in 0..40 {
            it.main(&format!("create table t{n} (a int primary key, b text unique)"));
        }
        // At different points of the work, told by what is there by then.
        let points = [
            "select exists (select from pggit.branches where status = 'creating')",
            "select exists (select from pggit.templates where status = 'creating')",
            "select exists (select from pg_stat_activity where datname like current_database() || '\\_\\_template\\_%')",
            "select exists (select from pggit.templates where status = 'ready')",
        ];
        for point in points {
            let (url, dump) = (it.server.url(&it.app), it.server.client_program("pg_dump"));
            let mut maker = Command::new(PROGRAM)
                .args(["branch", "--database-url", &url, "create", "lost", "--pg-dump"])
                .arg(dump)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut watcher = Wire::connect(it.server.address, &[("user", "postgres"), ("database", &it.app)]);
            assert!(
                eventually(PATIENCE, || watcher.value(point) == "t" || maker.try_wait().unwrap().is_some()),
                "{point}"
            );
            let _ = kill(Pid::from_raw(maker.id().cast_signed()), Signal::SIGKILL);
            maker.wait().unwrap();
            // Whoever wants the name next gets it, whatever was left.
            let made = it.command(&["create", "lost"]);
            let error = String::from_utf8_lossy(&made.stderr).into_owned();
            assert!(
                made.status.success() || error.contains("exists already") || error.contains("is just being"),
                "{error}"
            );
            let gone = || it.command(&["drop", "lost"]).status.success();
            assert!(eventually(PATIENCE, gone), "{point}");
            it.main("alter table t0 add x int; alter table t0 drop x");
        }
        // In the middle of a copy, of which only the server process knows.
        let (url, copying) =
            (it.server.url(&it.app), "select count(*) from pg_stat_activity where query ~ '^CREATE DATABASE'");
        let mut maker = Command::new(PROGRAM)
            .args(["branch", "--database-url", &url, "create", "copied", "--with-data", "--force"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let seen = || it.server.psql("postgres", copying) != "0";
        assert!(eventually(PATIENCE, || seen() || maker.try_wait().unwrap().is_some()));
        let _ = kill(Pid::from_raw(maker.id().cast_signed()), Signal::SIGKILL);
        maker.wait().unwrap();
        assert!(eventually(PATIENCE, || it.command(&["create", "copied"]).status.success()
            || it.main("select status from pggit.branches where name = 'copied'") == "active"));
        assert!(eventually(PATIENCE, || it.command(&["drop", "copied", "--force"]).status.success()));
        // A proxy that starts sweeps what others left.
        let orphan = pggit_proxy::branch::database_of(&it.app, "orphan");
        it.main(&format!("create database \"{orphan}\""));
        it.main(&format!(
            "insert into pggit.branches (name, database, status) values ('orphan', '{orphan}', 'creating'), \
             ('half', '{orphan}_2', 'dropping')"
        ));
        let _sweeper = Proxy::start(it.server, &configured(it.server, &it.app));
        let left = "select count(*) from pggit.branches where status <> 'active'";
        assert!(eventually(PATIENCE, || it.main(left) == "0"));
        assert!(eventually(PATIENCE, || it.databases().len() <= 2), "two templates are kept: {:?}", it.databases());
    });
}

#[test]
fn the_command_line_does_the_same() {
    each(|it| {
        let made = it.command(&["create", "by/command", "--from", "main"]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert!(eventually(PATIENCE, || it.proxy.control("show branches name").contains("by/command")));
        let listed = String::from_utf8(it.command(&["list"]).stdout).unwrap();
        assert!(listed.contains("by/command") && listed.contains("MB"), "{listed}");
        assert!(it.command(&["protect", "by/command"]).status.success());
        let refused = it.command(&["drop", "by/command"]);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("is protected"));
        assert!(it.command(&["unprotect", "by/command"]).status.success());
        assert!(it.command(&["rename", "by/command", "renamed"]).status.success());
        assert!(it.command(&["drop", "renamed"]).status.success());
        let nothing = it.command(&["drop", "renamed"]);
        assert_eq!(nothing.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&nothing.stderr).contains("does not exist"));
    });
}

#[test]
fn a_plain_role_makes_branches_too() {
    for version in versions() {
        let server = PgServer::shared(version);
        let role = server.unique_database("recorder");
        server.psql("postgres", &format!("drop database {role}; create role {role} login createdb createrole"));
        let app = server.unique_database("app");
        server.psql("postgres", &format!("alter database {app} owner to {role}"));
        let url = server.url(&app).replace("postgres@", &format!("{role}@"));
        let migrated = run(&["migrate", "up", "--database-url", &url]);
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        let config = configured(server, &app).replace("[branches]", &format!("user = \"{role}\"\n[branches]"));
        let proxy = Proxy::start(server, &config);
        let connect = |branch: &str| {
            Wire::connect(proxy.clients, &[("user", &role), ("database", &app), ("pggit.branch", branch)])
        };
        connect("main").rows("create table t (a int)");
        proxy.control("create branch dev from main");
        connect("dev").rows("alter table t add b int");
        let database = server.psql(&app, "select database from pggit.branches where name = 'dev'");
        let rows = "select string_agg(concat_ws(' ', branch, change_type, captured_by), '; ' order by created_at) \
                    from pggit.history where object_name = 't'";
        assert_eq!(server.psql(&database, rows), "main CREATE inject; dev ALTER inject");
        proxy.control("drop branch dev");
        // Without the right to make databases nothing is left behind.
        server.psql("postgres", &format!("alter role {role} nocreatedb"));
        connect("main").rows("create table u (a int)");
        let error = psql(&proxy.control_dsn(), "create branch dev from main");
        let error = String::from_utf8_lossy(&error.stderr).into_owned();
        assert!(error.contains("42501") && error.contains("CREATEDB"), "{error}");
        assert_eq!(server.psql(&app, "select count(*) from pggit.branches where name = 'dev'"), "0");
    }
}
