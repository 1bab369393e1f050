//! The probe: what was changed and not recorded is found and recorded, what was recorded is never taken for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{PATIENCE, Pg, PgServer, Proxy, Wire, eventually, migrate, versions, wait_for};

/// A database with the `pggit` schema in it; looks are asked for by hand.
struct Db {
    server: &'static PgServer,
    name: String,
}

fn database(version: Pg) -> Db {
    let server = PgServer::shared(version);
    let name = server.unique_database("probe");
    migrate(server, &name);
    Db { server, name }
}

impl Db {
    fn run(&self, sql: &str) -> String {
        self.server.psql(&self.name, sql)
    }

    /// One look; what it suspects and what it recorded.
    fn look(&self) -> (u32, u32) {
        let answer = self.run(
            "select catalog_writes as c, history_edits as h from pggit.probe_due() \\gset\n\
             begin isolation level repeatable read;\n\
             select suspected || ' ' || recorded || ' ' || unfinished from pggit.probe(:c, :h);\n\
             commit;",
        );
        let words: Vec<&str> = answer.split(' ').collect();
        assert_eq!(words[2], "false", "{answer}");
        (words[0].parse().unwrap(), words[1].parse().unwrap())
    }

    /// What two looks record, as `CHANGE type identity`.
    fn found(&self) -> Vec<String> {
        let before = self.recorded().len();
        self.look();
        let (left, recorded) = self.look();
        let rows = self.recorded().split_off(before);
        assert_eq!((left, recorded as usize), (0, rows.len()), "{rows:?}");
        rows
    }

    fn recorded(&self) -> Vec<String> {
        let rows = self.run(
            "select concat_ws(' ', change_type, object_type, object_identity) from pggit.history \
             where captured_by = 'probe' order by created_at, ordinal",
        );
        rows.lines().map(str::to_owned).collect()
    }

    fn client(&self) -> Wire {
        Wire::connect(self.server.address, &[("user", "postgres"), ("database", &self.name)])
    }
}

/// Without event triggers, as a superuser can.
fn unseen(sql: &str) -> String {
    format!(
        "alter event trigger pggit_record_ddl disable; alter event trigger pggit_record_drop disable;\n{sql};\n\
         alter event trigger pggit_record_ddl enable always; alter event trigger pggit_record_drop enable always;"
    )
}

const SCHEMA: &str = "create type mood as enum ('sad'); create domain positive as int check (value > 0); create schema s;
    create table t (id serial primary key, m mood, x text unique, y int default 1);
    create table r (t int references t, y int check (y > 0)); create view v as select id, x from t;
    create function f(m mood) returns int language sql as 'select 1';
    create function g() returns trigger language plpgsql as 'begin return new; end';
    create trigger tr before insert on r for each row execute function g(); create index ri on r (y);
    create policy pol on r using (y > 1); create table p (a int) partition by range (a);
    create table p1 partition of p for values from (0) to (10); create index on p (a); create materialized view mv as select 1 as one;
    create unique index on mv (one);";

#[test]
fn recorded_changes_are_not_suspected() {
    for version in versions() {
        let db = database(version);
        assert_eq!(db.found(), [""; 0], "right after the migration");
        db.run(SCHEMA);
        assert_eq!(db.found(), [""; 0]);
        for sql in [
            // Texts read differently after these, though nobody touched the objects.
            "alter type mood rename to feeling; alter schema s rename to s2; alter table t rename to tt; alter table tt rename column x to xx",
            "create table late (m feeling); alter type feeling rename to mood; grant select on late to public; grant update (m) on late to public",
            "alter table tt set schema s2; alter table s2.tt alter y type bigint; alter table r disable trigger tr; alter domain positive drop constraint positive_check",
            "begin; create table a (i int); savepoint x; create table b (i int); rollback to x; alter table a add j int; commit",
            "do $$ begin create table c (i int); begin create table d (i int); raise 'no'; exception when others then create table e (i int); end; end $$",
            "alter default privileges grant select on tables to public; alter default privileges in schema s2 grant execute on functions to public",
            "alter default privileges grant update on tables to public; alter default privileges revoke all on tables from public",
            "select lo_create(77777); alter large object 77777 owner to pg_database_owner; comment on large object 77777 is 'a'",
            "create extension hstore; create table with_hstore (h hstore); drop extension hstore cascade",
            "alter table r owner to pg_database_owner; alter table r enable row level security; alter sequence s2.t_id_seq owned by none",
            "alter view v rename to w; create or replace view w as select id, xx as x, 1 as more from s2.tt; drop table e; drop schema s2 cascade",
        ] {
            db.run(sql);
            assert_eq!(db.found(), [""; 0], "{sql} on {version:?}");
        }
    }
}

#[test]
fn what_is_no_change_raises_no_alarm() {
    for version in versions() {
        let db = database(version);
        db.run(SCHEMA);
        db.run("insert into t (x) select i::text from generate_series(1, 100) i");
        db.found();
        for sql in [
            "create temp table tmp (a int primary key, b serial); create temp view tv as select * from tmp; create index on tmp (b); \
             create type pg_temp.pair as (a int); create function pg_temp.h() returns int language sql as 'select 1'",
            "begin; create table gone (a int); alter table t add z int; drop view v; rollback",
            "analyze; vacuum; vacuum full; cluster; reindex table t; truncate t, r; refresh materialized view mv; \
             refresh materialized view concurrently mv",
            "reindex table concurrently t; reindex (verbose) index r_pkey_none;",
            "grant all on t to public; grant select (x) on t to public; revoke all on t from public; grant usage on schema s to public",
            "select nextval('t_id_seq'), setval('t_id_seq', 7); insert into t (x) values ('n'); update t set x = 'm'; delete from t",
            "alter role postgres set work_mem = '4MB'; create role probe_nobody; drop role probe_nobody",
        ] {
            // One of them fails half-way on purpose.
            db.server.try_psql(&db.name, sql);
            assert_eq!(db.found(), [""; 0], "{sql} on {version:?}");
        }
        // What lived on under a new oid is dropped like anything else.
        db.run("drop table t cascade");
        assert_eq!(db.found(), [""; 0]);
    }
}

/// Sealing puts rows right of transactions that saw the catalogs as they were at their start. That is no edit that shakes what the
/// probe has been told; somebody else's is.
#[test]
fn rows_that_are_put_right_are_no_news() {
    for version in versions() {
        let db = database(version);
        db.run("create role probe_wary; alter default privileges for role probe_wary revoke usage on types from probe_wary");
        db.run("create schema b; create table b.t (x int)");
        assert_eq!(db.found(), [""; 0]);
        let (mut early, mut other) = (db.client(), db.client());
        for round in 0..2 {
            early.rows("begin isolation level repeatable read; select count(*) from pg_class");
            other.rows(&format!("alter table b.t add y{round} int"));
            early.rows(&format!("alter table b.t add z{round} int; commit"));
            db.run("select pggit.seal()");
            assert_eq!(db.run("select edits from pggit.seal_state"), (round + 1).to_string());
            assert_eq!(db.found(), [""; 0], "{version:?}, round {round}");
        }
        db.run("update pggit.changes set message = 'forged' where object_identity = 'b.t'");
        let noticed = || {
            db.run("select (pggit.probe_due()).history_edits > history_edits + edits - own_edits from pggit.probe_state, pggit.seal_state")
        };
        assert!(eventually(PATIENCE, || noticed() == "t"), "{}", noticed());
        assert_eq!(db.found(), [""; 0], "default privileges have a row that does not name them, {version:?}");
        db.run("delete from pggit.changes where command_tag = 'ALTER DEFAULT PRIVILEGES'");
        let gone = || db.found() == ["CREATE default acl for role probe_wary on types"];
        assert!(eventually(PATIENCE, gone), "{version:?}");
        drop((early, other));
        db.run("drop owned by probe_wary; drop role probe_wary");
    }
}

/// What follows its table or its schema without a row of its own: another owner, another name, another oid.
#[test]
fn what_is_made_anew_or_reworded_is_the_same_object() {
    for version in versions() {
        let db = database(version);
        db.run("create schema a; create table a.t (p int primary key, q int); create index i on a.t (q); create statistics a.s on p, q from a.t");
        for sql in [
            "alter table a.t rename q to r; alter table a.t owner to pg_database_owner",
            "alter table a.t alter r type bigint",
            "alter schema a rename to b; alter table b.t alter r type text",
            "alter table b.t rename to u; alter schema b rename to c; alter table c.u alter r type varchar(3), alter p type bigint",
            "alter schema c rename to b; alter index b.i rename to j",
        ] {
            db.run(sql);
            db.run("select pggit.seal()");
            assert_eq!(db.found(), Vec::<String>::new(), "{sql}");
        }
        let told = db.run(
            "select object_name || ': ' || string_agg(change_type, ' ' order by created_at, ordinal) from pggit.history \
              where object_type in ('index', 'statistics object') group by object_name order by 1",
        );
        assert_eq!(told, "i: CREATE ALTER ALTER ALTER\nj: RENAME\ns: CREATE ALTER ALTER ALTER\nt_pkey: CREATE ALTER");
        db.run("drop schema b cascade");
        assert_eq!(db.found(), Vec::<String>::new());
    }
}

#[test]
fn what_nobody_recorded_is_found() {
    for version in versions() {
        let db = database(version);
        db.run(SCHEMA);
        db.found();
        let with_setting = if version >= Pg::V17 {
            "set event_triggers = off; alter table secret add column e int; reset event_triggers"
        } else {
            "alter event trigger pggit_record_ddl disable; alter table secret add column e int; alter event trigger pggit_record_ddl enable always"
        };
        for (sql, expected) in [
            (unseen("create table secret (a int primary key)"), vec!["CREATE table public.secret", "CREATE index public.secret_pkey"]),
            (unseen("alter table r add column z int; drop view v"), vec!["DROP view public.v", "ALTER table public.r"]),
            (with_setting.into(), vec!["ALTER table public.secret"]),
            // The table remembers which index it was.
            ("cluster secret using secret_pkey".into(), vec!["ALTER table public.secret"]),
            ("update pg_class set relname = 'renamed' where relname = 'secret'".into(), vec!["RENAME table public.renamed"]),
            ("update pg_attribute set attname = 'zz' where attrelid = 'r'::regclass and attname = 'z'".into(), vec!["ALTER table public.r"]),
            ("update pg_proc set prosrc = 'select 2' where proname = 'f'".into(), vec!["ALTER function public.f(public.mood)"]),
            ("delete from pg_enum; insert into pg_enum select oid, 'mood'::regtype, 1, 'glad' from (select 99999::oid) o".into(), vec!["ALTER type public.mood"]),
            // In replica mode triggers that are not ENABLE ALWAYS do not fire.
            (
                "alter event trigger pggit_record_ddl enable; set session_replication_role = replica; create sequence unseen; \
                 reset session_replication_role; alter event trigger pggit_record_ddl enable always".into(),
                vec!["CREATE sequence public.unseen"],
            ),
            // Hidden behind a change that is recorded, in the same transaction.
            (
                "begin; create table decoy (); alter event trigger pggit_record_ddl disable; alter table r add hidden int; \
                 alter event trigger pggit_record_ddl enable always; commit".into(),
                vec!["ALTER table public.r"],
            ),
            ("begin; create table decoy2 (); update pg_class set relname = 'rr' where relname = 'r'; commit".into(), vec!["RENAME table public.rr"]),
            ("delete from pggit.changes where object_name = 'decoy'".into(), vec!["CREATE table public.decoy"]),
            ("delete from pggit.changes where object_name = 'g' ; update pggit.changes set action = 'DROP' where object_name = 'decoy2'".into(),
             vec!["CREATE function public.g()", "CREATE table public.decoy2"]),
            // Gone again before anybody looked: the history must not believe in it.
            ("create table brief (a int);".to_owned() + &unseen("drop table brief"), vec!["DROP table public.brief"]),
            // Unrecorded first, recorded then.
            (unseen("create table half (a int)") + "drop table half", vec![]),
        ] {
            db.run(&sql);
            let mut found = db.found();
            let mut expected = expected;
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{sql} on {version:?}");
            assert_eq!(db.found(), [""; 0], "once is enough: {sql}");
        }
        db.run("truncate pggit.changes");
        assert!(db.found().contains(&"CREATE table public.rr".to_owned()), "the history was emptied");
    }
}

#[test]
fn a_row_of_the_probe_says_what_is_known_and_no_more() {
    for version in versions() {
        let db = database(version);
        db.run("create table t (a int, b int)");
        db.run(&unseen("alter table t drop column a; create table u ()"));
        db.found();
        let row = db.run(
            "select change_type, change_severity, command_tag, schema_name, object_name, via_proxy, branch, created_by, role_name, \
                    session_id is null and sql_executed is null and application_name is null and client_addr is null, backend_pid, \
                    old_definition ~ 'a integer', new_definition !~ 'a integer' from pggit.history where captured_by = 'probe' and object_name = 't'",
        );
        assert_eq!(row, "ALTER|MAJOR|PROBE|public|t|f|main|unknown|unknown|t|0|t|t");
        let commits = db.run("select count(distinct commit_id) from pggit.history where captured_by = 'probe'");
        assert_eq!(commits, "1", "one look, one commit");
        // What comes next knows what it replaces.
        db.run("drop table u");
        assert_eq!(db.run("select old_definition is not null from pggit.history where change_type = 'DROP'"), "t");
    }
}

#[test]
fn a_suspicion_is_dropped_when_the_next_look_does_not_share_it() {
    for version in versions() {
        let db = database(version);
        db.run(&unseen("create table t (a int)"));
        assert_eq!(db.look(), (1, 0));
        // Something else is suspected now.
        db.run(&unseen("alter table t add b int"));
        assert_eq!(db.look(), (1, 0));
        db.run("drop table t");
        assert_eq!(db.look(), (0, 0));
        assert_eq!(db.recorded(), [""; 0]);
    }
}

#[test]
fn what_is_not_committed_yet_is_no_matter() {
    for version in versions() {
        let db = database(version);
        db.run("create table t (a int)");
        let mut client = db.client();
        client.rows("begin; create table open (a int); alter table t add b int; drop table if exists nothing");
        assert_eq!((db.look(), db.look()), ((0, 0), (0, 0)));
        client.rows("commit");
        assert_eq!((db.look(), db.look()), ((0, 0), (0, 0)));
    }
}

#[test]
fn an_index_being_built_is_left_to_its_builder() {
    for version in versions() {
        let db = database(version);
        db.run("create table t (a int)");
        let mut writer = db.client();
        writer.rows("begin; insert into t values (1)");
        let mut builder = db.client();
        builder.send(&support::wire::query("create index concurrently slow on t (a)"));
        let invalid = "select count(*) from pg_index where not indisvalid";
        wait_for("the index to be there", || (db.run(invalid) == "1").then_some(()));
        assert_eq!((db.look(), db.look()), ((0, 0), (0, 0)));
        writer.rows("commit");
        builder.read_until_ready();
        assert_eq!((db.look(), db.look()), ((0, 0), (0, 0)));
        assert_eq!(db.run("select count(*) from pggit.history where object_name = 'slow'"), "1");
    }
}

#[test]
fn changes_under_way_are_never_taken_for_unrecorded() {
    for version in versions() {
        let db = database(version);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for number in 0..3 {
                let mut client = db.client();
                let stop = &stop;
                scope.spawn(move || {
                    for round in 0.. {
                        client.rows(&format!(
                            "create table c{number} (a int primary key, b text unique); alter table c{number} add c{round} int; \
                             create index on c{number} (c{round}); create or replace view v{number} as select a from c{number}"
                        ));
                        client.rows(&format!("begin; alter table c{number} rename to d{number}; alter table d{number} drop column b; commit"));
                        client.rows(&format!("drop table d{number} cascade"));
                        if stop.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                    }
                });
            }
            let looks: Vec<_> = (0..30).map(|_| db.look()).collect();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            let recorded: u32 = looks.iter().map(|(_, recorded)| recorded).sum();
            assert_eq!(recorded, 0, "{:?} on {version:?}", db.recorded());
        });
        assert_eq!(db.found(), [""; 0]);
    }
}

#[test]
fn many_objects_are_seen_in_several_looks() {
    let db = database(Pg::V15);
    db.run(&unseen("do $$ begin for i in 1..250 loop execute format('create table t%s (a int)', i); end loop; end $$"));
    for _ in 0..8 {
        db.run("begin isolation level repeatable read; select pggit.probe(1, null, 100); commit");
    }
    assert_eq!(db.recorded().len(), 250);
    assert_eq!(db.found(), [""; 0]);
}

#[test]
fn only_the_recorder_may_look() {
    let db = database(Pg::V15);
    let role = format!("{}_reader", db.name);
    db.run(&format!("create role {role} login; grant pggit_reader to {role}"));
    let url = format!("postgres://{role}@{}/{}", db.server.address, db.name);
    for call in
        ["pggit.probe()", "pggit.probe_due()", "pggit.probe_adopt()", "pggit.probe_record('{}', '{}', '{}', '{}')"]
    {
        let output = support::psql(&url, &format!("begin isolation level repeatable read; select {call}"));
        assert!(String::from_utf8_lossy(&output.stderr).contains("42501"), "{call}: {output:?}");
    }
    let output = db.server.try_psql(&db.name, "select pggit.probe()");
    assert!(String::from_utf8_lossy(&output.stderr).contains("REPEATABLE READ"), "a look needs one snapshot");
}

#[test]
fn a_serving_proxy_finds_it_and_says_so() {
    for version in versions() {
        let db = database(version);
        let feature = db.server.unique_database("feature");
        migrate(db.server, &feature);
        let config = format!("[upstream]\ndbname = \"{}\"\n[branches.feature]\ndatabase = \"{feature}\"\n", db.name);
        // Two of them, one row.
        let (proxy, _other) = (Proxy::start(db.server, &config), Proxy::start(db.server, &config));
        proxy.psql(&db.name, "create table t (a int)");
        db.run(&unseen("alter table t add b int"));
        db.server.psql(&feature, &unseen("create table f (a int)"));
        let rows = |database: &str| {
            db.server.psql(database, "select string_agg(change_type || ' ' || object_name, ',') from pggit.history where captured_by = 'probe'")
        };
        assert!(
            eventually(PATIENCE, || rows(&db.name) == "ALTER t" && rows(&feature) == "CREATE f"),
            "{}",
            rows(&db.name)
        );
        let health =
            |message: &str| proxy.control("SHOW HEALTH branch, message WHERE check = 'probe'").contains(message);
        assert!(eventually(PATIENCE, || health("recorded 1 change") || health("every change was recorded")));
        // History rows deleted, with nothing else done.
        db.run("delete from pggit.changes where object_name = 't'");
        assert!(eventually(PATIENCE, || rows(&db.name) == "CREATE t"), "{}", rows(&db.name));
        assert_eq!(proxy.get("/readyz").0, 200);
    }
}

#[test]
fn what_happened_while_no_proxy_ran_is_found_later() {
    for version in versions() {
        let mut server = PgServer::start(version);
        let database = server.create_database("app");
        migrate(&server, &database);
        let config = "[upstream]\ndbname = \"app\"\n";
        let proxy = Proxy::start(&server, config);
        proxy.psql(&database, "create table t (a int)");
        assert!(eventually(PATIENCE, || server
            .psql(&database, "select count(*) from pggit.probe_facts where objid = 't'::regclass")
            == "1"));
        drop(proxy);
        server.psql(&database, &unseen("alter table t add b int"));
        server.stop();
        server.restart();
        let proxy = Proxy::start(&server, config);
        let found = "select count(*) from pggit.history where captured_by = 'probe' and object_name = 't' and change_type = 'ALTER'";
        assert!(eventually(PATIENCE, || server.psql(&database, found) == "1"));
        // And it goes on after a crash under way.
        server.stop();
        server.restart();
        server.psql(&database, &unseen("create table u (a int)"));
        assert!(eventually(PATIENCE, || server
            .psql(&database, "select count(*) from pggit.history where captured_by = 'probe'")
            == "2"));
        assert!(eventually(PATIENCE, || proxy.metric("pggit_proxy_probe_changes_total") == Some(2.0)));
    }
}
