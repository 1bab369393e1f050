//! What event triggers do not report, and everything where there are none: calls that the proxy adds to its clients'
//! statements. That clients do not notice is shown by `transparency.rs`, which runs in both modes; this is what is recorded.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::wire::{bind, close, execute, extended, parse, query, sync};
use support::{PATIENCE, Pg, PgServer, Proxy, Wire, eventually, migrate, versions};

/// A database, its recorder's role, and the proxy in front.
struct Place {
    server: &'static PgServer,
    database: String,
    proxy: Proxy,
}

impl Place {
    /// The recorder is a plain role without any rights but on its own database.
    fn without_triggers(version: Pg) -> Self {
        let server = PgServer::shared(version);
        let database = server.unique_database("inject");
        let role = format!("{database}_recorder");
        server.psql("postgres", &format!("create role {role} login; alter database {database} owner to {role}"));
        let url = format!("postgres://{role}@{}/{database}", server.address);
        let output = support::proxy::run(&["migrate", "up", "--database-url", &url]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let config = format!("[upstream]\ndbname = \"{database}\"\nuser = \"{role}\"\n");
        Self { server, database, proxy: Proxy::start(server, &config) }
    }

    fn with_triggers(version: Pg) -> Self {
        let server = PgServer::shared(version);
        let database = server.unique_database("triggers");
        migrate(server, &database);
        let proxy = Proxy::start(server, &format!("[upstream]\ndbname = \"{database}\"\n"));
        Self { server, database, proxy }
    }

    fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.database, sql)
    }

    fn client(&self) -> Wire {
        self.proxy.connect(&self.database)
    }

    /// `CREATE table public.t` lines since the last call.
    fn news(&self, seen: &mut usize) -> Vec<String> {
        let all = self.sql(
            "select concat_ws(' ', change_type, object_type, object_identity) from pggit.history \
             where change_type <> 'BASELINE' order by created_at, ordinal",
        );
        let new: Vec<String> = all.lines().skip(*seen).map(str::to_owned).collect();
        *seen += new.len();
        new
    }
}

#[test]
fn comments_of_one_transaction_are_told_once_each() {
    for version in versions() {
        let place = Place::without_triggers(version);
        let mut client = place.client();
        client.rows("create table t (a int); create type mood as enum ('sad'); create index i on t (a)");
        let mut seen = 0;
        place.news(&mut seen);
        let told = [
            "COMMENT table public.t",
            "COMMENT table column public.t.a",
            "COMMENT type public.mood",
            "COMMENT index public.i",
        ];
        let statements = |word: &str| {
            ["table t", "column t.a", "type mood", "index i"]
                .map(|what| format!("comment on {what} is '{word} {what}'"))
        };
        client.rows(&statements("one").join("; "));
        assert_eq!(place.news(&mut seen), told, "in one text");
        client.rows("begin");
        for statement in statements("two") {
            client.rows(&statement);
        }
        client.rows("commit");
        assert_eq!(place.news(&mut seen), told, "in a block");
        let texts = "select string_agg(new_definition, ', ' order by created_at, ordinal) from pggit.history where new_definition ~ '^two'";
        assert_eq!(place.sql(texts), "two table t, two column t.a, two type mood, two index i");
    }
}

#[test]
fn what_follows_the_end_of_a_failed_transaction_is_recorded() {
    for version in versions() {
        for place in [Place::without_triggers(version), Place::with_triggers(version)] {
            let mut client = place.client();
            let mut seen = 0;
            place.news(&mut seen);
            let messages = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
            let create = |at: usize| format!("create table t{at} ()");
            let ways = [
                ("in one text", query(&format!("rollback; {}", create(0))), 1),
                ("pipelined queries", [query("rollback"), query(&create(1))].concat(), 2),
                ("pipelined messages", [messages("rollback"), messages(&create(2)), sync()].concat(), 1),
            ];
            for (at, (how, talk, answers)) in ways.into_iter().enumerate() {
                client.rows("begin");
                client.send(&query("no statement"));
                assert_eq!(client.read_until_ready().last().unwrap().body, b"E");
                client.send(&talk);
                for _ in 1..answers {
                    client.read_until_ready();
                }
                assert_eq!(client.read_until_ready().last().unwrap().body, b"I", "{how}");
                assert_eq!(place.news(&mut seen), [format!("CREATE table public.t{at}")], "{how}");
            }
        }
    }
}

/// What a statement leaves in the history without event triggers; in order.
const CHANGES: &[(&str, &[&str])] = &[
    ("create table t (a int primary key, b text)", &["CREATE table public.t", "CREATE index public.t_pkey"]),
    ("create table if not exists t (a int)", &[]),
    ("alter table t add c int default 5", &["ALTER table public.t"]),
    ("create index on t (b)", &["CREATE index public.t_b_idx"]),
    ("create view v as select a from t", &["CREATE view public.v"]),
    ("create or replace view v as select a, b from t", &["ALTER view public.v"]),
    ("create table u (x int references t)", &["CREATE table public.u"]),
    ("comment on table t is 'hello'", &["COMMENT table public.t"]),
    ("create function f(i int) returns int language sql as 'select 1'", &["CREATE function public.f(integer)"]),
    ("create temp table passing (a int)", &[]),
    ("drop table passing", &[]),
    ("analyze t", &[]),
    ("insert into t select i from generate_series(1, 100) i", &[]),
    ("alter table t rename to t2", &["RENAME table public.t2"]),
    ("alter table t2 rename column c to c2", &["RENAME table public.t2"]),
    ("alter table t2 rename constraint t_pkey to t_key", &["RENAME table public.t2", "RENAME index public.t_key"]),
    ("alter table t2 rename constraint t_key to t_pkey", &["RENAME table public.t2", "RENAME index public.t_pkey"]),
    (
        "alter table t2 drop column b cascade",
        &["DROP index public.t_b_idx", "DROP view public.v", "ALTER table public.t2"],
    ),
    ("drop table t2 cascade", &["DROP table public.t2", "DROP index public.t_pkey", "ALTER table public.u"]),
    ("drop table if exists nothing", &[]),
    (
        "create schema s create table inner_one (z int unique)",
        &["CREATE schema s", "CREATE table s.inner_one", "CREATE index s.inner_one_z_key"],
    ),
    ("drop schema s cascade", &["DROP schema s", "DROP table s.inner_one", "DROP index s.inner_one_z_key"]),
    ("create type mood as enum ('a')", &["CREATE type public.mood"]),
    ("alter type mood add value 'b'", &["ALTER type public.mood"]),
    ("create domain d as int check (value > 0)", &["CREATE type public.d"]),
    ("create sequence q", &["CREATE sequence public.q"]),
    ("select nextval('q')", &[]),
    ("grant select on u to public", &["GRANT table u"]),
    ("explain analyze create table ex as select 1 as i", &["CREATE table public.ex"]),
    ("select 1 as i into si", &["CREATE table public.si"]),
    ("create table p (a int) partition by range (a)", &["CREATE table public.p"]),
    ("create table p1 partition of p for values from (0) to (9)", &["CREATE table public.p1"]),
    ("alter table p add column b text", &["ALTER table public.p", "ALTER table public.p1"]),
    ("create index pa on p (a)", &["CREATE index public.pa", "CREATE index public.p1_a_idx"]),
    ("create index p1b on p1 (b)", &["CREATE index public.p1b"]),
    // p1b becomes its part, and stays what it is.
    ("create index pb on p (b)", &["CREATE index public.pb"]),
    ("create index if not exists pb on p (b)", &[]),
    ("drop index pa", &["DROP index public.pa", "DROP index public.p1_a_idx"]),
    ("drop table p", &["DROP table public.p", "DROP table public.p1", "DROP index public.p1b", "DROP index public.pb"]),
    (
        "create table pk (a int primary key) partition by range (a)",
        &["CREATE table public.pk", "CREATE index public.pk_pkey"],
    ),
    (
        "create table pk1 partition of pk for values from (0) to (9)",
        &["CREATE table public.pk1", "CREATE index public.pk1_pkey"],
    ),
    ("create table fk (a int references pk)", &["CREATE table public.fk"]),
    ("create table pk2 (a int not null) partition by range (a)", &["CREATE table public.pk2"]),
    (
        "alter table pk attach partition pk2 for values from (9) to (20)",
        &["ALTER table public.pk2", "CREATE index public.pk2_pkey"],
    ),
    ("alter table pk detach partition pk1", &["ALTER table public.pk1"]),
    ("alter table pk detach partition pk2", &["ALTER table public.pk2"]),
    ("create foreign data wrapper w", &["CREATE foreign-data wrapper w"]),
    ("create server s foreign data wrapper w", &["CREATE server s"]),
    ("create user mapping for public server s", &["CREATE user mapping public on server s"]),
    ("create user mapping if not exists for public server s", &[]),
    ("alter user mapping for public server s options (add x 'y')", &["ALTER user mapping public on server s"]),
    ("create user mapping for postgres server s", &["CREATE user mapping postgres on server s"]),
    ("alter user mapping for public server s options (set x 'z')", &["ALTER user mapping on server s"]),
    ("drop user mapping for postgres server s", &["DROP user mapping postgres on server s"]),
    ("drop server s cascade", &["DROP server s", "DROP user mapping public on server s"]),
    (
        "create subscription s connection 'host=a' publication p, q with (connect = false, slot_name = none)",
        &["CREATE subscription s"],
    ),
    ("alter subscription s connection 'host=b'", &["ALTER subscription s"]),
    ("alter subscription s set (binary = true)", &["ALTER subscription s"]),
    ("alter subscription s rename to s2", &["RENAME subscription s2"]),
    ("alter subscription s2 owner to postgres", &["ALTER subscription s2"]),
    ("drop subscription s2", &["DROP subscription s2"]),
];

fn sorted(rows: &[impl AsRef<str>]) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(|row| row.as_ref().to_owned()).collect();
    rows.sort();
    rows
}

#[test]
fn every_statement_leaves_its_rows_and_no_others() {
    for version in versions() {
        for protocol in ["simple", "extended", "named"] {
            let it = Place::without_triggers(version);
            let mut client = it.client();
            let mut seen = 0;
            for (sql, wanted) in CHANGES {
                match protocol {
                    "simple" => drop(client.rows(sql)),
                    "extended" => {
                        client.send(&extended(sql, &[]));
                        let reply = client.read_until_ready();
                        assert!(reply.iter().all(|message| message.tag != b'E'), "{sql}: {reply:?}");
                    }
                    _ => {
                        client.send(&[parse("s", sql, &[]), sync()].concat());
                        client.read_until_ready();
                        client.send(&[bind("p", "s", &[]), execute("p", 0), close(b'S', "s"), sync()].concat());
                        let reply = client.read_until_ready();
                        assert!(reply.iter().all(|message| message.tag != b'E'), "{sql}: {reply:?}");
                    }
                }
                assert_eq!(sorted(&it.news(&mut seen)), sorted(wanted), "{sql}, {protocol}, {version:?}");
            }
            assert_eq!(client.value("select count(*) from pg_prepared_statements"), "0");
            let context = "select count(*) from pggit.history where change_type <> 'BASELINE' and \
                           (captured_by <> case command_tag when 'DROP SUBSCRIPTION' then 'intent' else 'inject' end or not via_proxy or statement_id is null or sql_executed is null or sql_executed ~ 'companion')";
            assert_eq!(it.sql(context), "0");
        }
    }
}

#[test]
fn what_takes_a_name_that_another_has_left_is_new() {
    for version in versions() {
        for place in [Place::without_triggers(version), Place::with_triggers(version)] {
            let mut client = place.client();
            let mut seen = 0;
            client
                .rows("create table t (a int); create view v as select 1 as a; create schema s create table t (a int)");
            place.news(&mut seen);
            client.rows("alter table t rename to old_t; create table t (a int, b int); alter view v rename to old_v; create view v as select 2 as b");
            client.rows("alter schema s rename to old_s; create schema s create table t (a int, b int)");
            let wanted = [
                "RENAME table public.old_t",
                "CREATE table public.t",
                "RENAME view public.old_v",
                "CREATE view public.v",
                "RENAME schema old_s",
                "CREATE schema s",
                "CREATE table s.t",
            ];
            assert_eq!(place.news(&mut seen), wanted);
            let replaced =
                "select count(*) from pggit.history where change_type = 'CREATE' and old_definition is not null";
            assert_eq!(place.sql(replaced), "0");
        }
    }
}

#[test]
fn what_only_loses_a_part_has_changed() {
    const CHANGES: &[(&str, &[&str])] = &[
        ("alter text search configuration c drop mapping for word", &["ALTER text search configuration public.c"]),
        (
            "alter operator family f using btree drop operator 1 (int4, int4)",
            &["ALTER operator family public.f USING btree"],
        ),
        (
            "drop function cmp",
            &["ALTER operator family public.f USING btree", "DROP function public.cmp(integer,integer)"],
        ),
        ("alter publication p set tables in schema s", &["ALTER publication p"]),
        ("drop schema s", &["ALTER publication p", "DROP schema s"]),
        ("drop collation co cascade", &["ALTER type public.whole", "DROP collation public.co"]),
        ("drop type part cascade", &["ALTER type public.whole", "DROP type public.part", "DROP type public.ranges"]),
        ("alter table parted attach partition one for values in (1)", &["ALTER table public.one"]),
    ];
    for version in versions() {
        for place in [Place::without_triggers(version), Place::with_triggers(version)] {
            let mut client = place.client();
            client.rows(
                "create publication p for tables in schema public; create text search configuration c (copy = english); create schema s; create operator family f using btree; \
                 create function cmp(int, int) returns int language sql immutable as 'select 0'; \
                 alter operator family f using btree add operator 1 < (int4, int4), function 1 cmp(int4, int4); \
                 create collation co from \"C\"; create type part as (a int); create type ranges as range (subtype = part); \
                 create type whole as (a int, b text collate co, c part); create table known (a int primary key); \
                 create table parted (a int references known) partition by list (a); create table one (a int references known)",
            );
            let mut seen = 0;
            place.news(&mut seen);
            for (sql, wanted) in CHANGES {
                client.rows(sql);
                let mut news = place.news(&mut seen);
                // Columns have rows of their own only where event triggers tell of them; so has the table that was named.
                news.retain(|row| !row.contains(" column ") && !row.contains("public.parted"));
                news.sort();
                news.dedup();
                assert_eq!(news, *wanted, "{sql}, {version:?}");
            }
        }
    }
}

#[test]
fn what_a_type_does_to_the_tables_of_it_is_recorded_in_both_modes() {
    for version in versions() {
        for place in [Place::without_triggers(version), Place::with_triggers(version)] {
            let mut client = place.client();
            client.rows("create type ty as (a int, b int); create table t of ty; create table child () inherits (t); create table grandchild () inherits (child)");
            let mut seen = 0;
            place.news(&mut seen);
            for (sql, word) in [
                ("alter type ty add attribute c int cascade", "ALTER"),
                ("alter type ty drop attribute b cascade", "ALTER"),
                ("alter type ty alter attribute a type bigint cascade", "ALTER"),
                ("alter type ty rename attribute a to z cascade", "RENAME"),
            ] {
                client.rows(sql);
                let mut news = place.news(&mut seen);
                news.retain(|row| !row.contains(" column "));
                news.sort();
                let tables = ["child", "grandchild", "t"].map(|table| format!("ALTER table public.{table}"));
                let wanted = [tables.as_slice(), &[format!("{word} type public.ty")]].concat();
                assert_eq!(news, wanted, "{sql}, {version:?}");
            }
        }
    }
}

#[test]
fn what_is_rolled_back_leaves_no_row() {
    for version in versions() {
        let it = Place::without_triggers(version);
        let mut client = it.client();
        let mut seen = 0;
        client.rows("begin; create table a (); rollback");
        client
            .rows("begin; create table b (); savepoint s; create table c (); rollback to s; create table d (); commit");
        client.error("create table e (); create table f (); select 1/0");
        client.rows("create table g (i int primary key, k int references g deferrable initially deferred)");
        client.error("begin; create table h (); insert into g values (1, 2); commit");
        assert_eq!(client.value("select 1"), "1");
        // Pipelined: the second batch fails at its end.
        let batch =
            [extended_without_sync("create table j ()"), extended_without_sync("insert into g values (3, 4)"), sync()];
        client.send(&batch.concat());
        client.read_until_ready();
        client.send(
            &[extended_without_sync("create table k ()"), extended_without_sync("create table l ()"), sync()].concat(),
        );
        client.read_until_ready();
        let wanted = [
            "CREATE table public.b",
            "CREATE table public.d",
            "CREATE table public.g",
            "CREATE index public.g_pkey",
            "CREATE table public.k",
            "CREATE table public.l",
        ];
        assert_eq!(sorted(&it.news(&mut seen)), sorted(&wanted), "{version:?}");
        assert_eq!(it.sql("select count(distinct commit_id) from pggit.changes where action <> 'BASELINE'"), "3");
    }
}

fn extended_without_sync(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat()
}

#[test]
fn the_sessions_own_state_stays() {
    for version in versions() {
        let it = Place::without_triggers(version);
        let mut client = it.client();
        client.rows("create table t (a serial)");
        client.rows("insert into t default values");
        let before = client.value("select lastval()");
        client.rows("create table u (a int)");
        assert_eq!(client.value("select lastval()"), before);
        // The unnamed statement and a suspended portal survive a change.
        client.rows("begin");
        client.send(&[parse("", "select 7", &[]), sync()].concat());
        client.read_until_ready();
        client.send(
            &[parse("ddl", "create table w ()", &[]), bind("ddl", "ddl", &[]), execute("ddl", 0), sync()].concat(),
        );
        client.read_until_ready();
        client.send(&[bind("", "", &[]), execute("", 0), sync()].concat());
        let reply = client.read_until_ready();
        assert!(reply.iter().any(|message| message.tag == b'D' && message.body.ends_with(b"7")), "{reply:?}");
        client.rows("commit");
        assert_eq!(client.value("select string_agg(name, ',') from pg_prepared_statements"), "ddl");
        // Whatever the client did to its surroundings.
        client.rows("set standard_conforming_strings = off; set search_path = ''; set default_transaction_isolation = 'serializable'");
        client.rows("create table public.o (a text default E'\\\\')");
        client.rows("set session characteristics as transaction read write; set client_encoding = 'LATIN1'");
        client.send(&query("create table public.p_unusual (a int)"));
        assert!(client.read_until_ready().iter().all(|message| message.tag != b'E'));
        let names = it.sql("select string_agg(object_name, ',' order by created_at, ordinal) from pggit.history where object_type = 'table' and change_type = 'CREATE'");
        assert_eq!(names, "t,u,w,o,p_unusual");
    }
}

#[test]
fn positions_in_errors_are_those_of_the_clients_text() {
    for version in versions() {
        let it = Place::without_triggers(version);
        let mut client = it.client();
        let mut direct = Wire::connect(it.server.address, &[("user", "postgres"), ("database", &it.database)]);
        for sql in [
            "create table é1 (a int); select nosuch",
            "create table e2 (a int); create table e3 (b nosuchtype); select 1",
            "select 1; drop table if exists e9; select 'é', nosuch",
            "create table e4 (a int) -- and\n; select nosuch -- so on",
            // Found in the body, told as a place in the statement if the body stands there once and no more.
            "create function e5() returns int language sql as 'not even SQL'",
            "create function e6() returns int language sql as $$not even SQL$$; select 1",
        ] {
            let field = |wire: &mut Wire| wire.error(sql).field(b'P');
            let (through, straight) = (field(&mut client), field(&mut direct));
            assert!(straight.is_some() && through == straight, "{sql}: {through:?} and {straight:?}");
        }
    }
}

#[test]
fn what_is_kept_of_a_text_is_what_the_client_sent() {
    for version in versions() {
        let it = Place::without_triggers(version);
        let mut client = it.client();
        // Words of our own calls are a client's text like any other.
        for (n, sql) in [
            "drop table if exists é; create table k0 ()",
            "create table k1 as select 'CALL pggit.companion($pggit$' as a",
            "create table k2 as select $x$CALL pggit.companion($pggit${\"phase\":\"before\"}$pggit$, '00', NULL);$x$ as a",
            "create table \"k3', NULL)\" (); drop table \"k3', NULL)\"",
            "-- $pggit$, '\ncreate table k4 ()",
        ]
        .into_iter()
        .enumerate()
        {
            client.rows(sql);
            let kept = "select distinct sql_executed from pggit.history where object_name like";
            assert_eq!(it.sql(&format!("{kept} 'k{n}%'")), sql);
        }
    }
}

/// What belongs to the server, in both modes.
#[test]
fn what_event_triggers_never_report_is_recorded() {
    for version in versions() {
        for it in [Place::with_triggers(version), Place::without_triggers(version)] {
            let mut client = it.client();
            let (role, other) = (format!("{}_a", it.database), format!("{}_b", it.database));
            let database = &it.database;
            let mut seen = it.news(&mut 0).len();
            let steps = [
                (format!("create role {role} login password 'sesame'"), format!("CREATE role {role}")),
                (format!("create role {other}"), format!("CREATE role {other}")),
                (format!("grant {role} to {other}"), format!("GRANT role {role}")),
                (format!("revoke {role} from {other}"), format!("REVOKE role {role}")),
                (format!("alter role {role} set work_mem = '1MB'"), format!("ALTER role {role}")),
                (format!("alter role {other} rename to {other}2"), format!("RENAME role {other}2")),
                (format!("comment on role {role} is 'x'"), format!("COMMENT role {role}")),
                (format!("alter database {database} set work_mem = '2MB'"), format!("ALTER database {database}")),
                (format!("grant connect on database {database} to {role}"), format!("GRANT database {database}")),
                (format!("grant set on parameter work_mem to {role}"), "GRANT parameter ACL work_mem".into()),
                (format!("revoke set on parameter work_mem from {role}"), "REVOKE parameter ACL work_mem".into()),
                (format!("revoke connect on database {database} from {role}"), format!("REVOKE database {database}")),
                (
                    format!(
                        "create table owned_{version}_t (a int); alter table owned_{version}_t owner to {role}",
                        version = version.0
                    ),
                    String::new(),
                ),
                (format!("reassign owned by {role} to {other}2"), format!("ALTER table public.owned_{}_t", version.0)),
                (format!("drop table owned_{}_t", version.0), String::new()),
                ("explain analyze create table ex as select 1 as a".into(), "CREATE table public.ex".into()),
                ("drop role if exists nobody_of_that_name".into(), "nothing".into()),
                (format!("drop role {role}, {other}2"), format!("DROP role {role}")),
            ];
            for (sql, wanted) in steps {
                client.rows(&sql);
                let news = it.news(&mut seen);
                match wanted.as_str() {
                    "" => {}
                    "nothing" => assert_eq!(news, Vec::<String>::new(), "{sql}"),
                    wanted => assert!(news.contains(&wanted.to_owned()), "{sql}: {news:?}"),
                }
            }
            assert_eq!(
                it.sql("select count(*) from pggit.history where sql_executed ~ 'sesame'"),
                "0",
                "a password is not kept"
            );
            let logged = || it.sql("select sql from pggit.statements where sql ~ 'password'");
            assert!(eventually(PATIENCE, || !logged().is_empty()));
            assert_eq!(logged(), format!("create role {role} login password '...'"), "nor in the statement log");
            client.rows(&format!("begin; create role {role}_gone; rollback"));
            assert_eq!(it.news(&mut seen), Vec::<String>::new());
        }
        // Event triggers are a superuser's to make.
        let it = Place::with_triggers(version);
        let mut client = it.client();
        let mut seen = it.news(&mut 0).len();
        client.rows("create function et() returns event_trigger language plpgsql as 'begin end'");
        client.rows("create event trigger own on ddl_command_end execute function et()");
        client.rows("alter event trigger own disable");
        client.rows("drop event trigger own");
        let wanted = [
            "CREATE function public.et()",
            "CREATE event trigger own",
            "ALTER event trigger own",
            "DROP event trigger own",
        ];
        assert_eq!(it.news(&mut seen), wanted);
    }
}

/// A statement that drops has to wait for somebody who is just adding to what it drops: the call before it cannot see that.
#[test]
fn what_was_made_while_a_drop_waited_goes_with_it() {
    const RACES: &[(&str, &str, &str)] = &[
        ("create policy p on t", "drop table t", "DROP index t_pkey, DROP policy p, DROP table t"),
        ("create index i on t (b)", "alter table t drop b", "ALTER table t, DROP index i"),
        (
            "create view v as select from t; lock table t",
            "drop table t cascade",
            "DROP index t_pkey, DROP table t, DROP view v",
        ),
        (
            "alter table child add foreign key (a) references t",
            "drop table if exists t cascade",
            "ALTER table child, DROP index t_pkey, DROP table t",
        ),
        (
            "lock table t; create table late ()",
            "drop table t, late",
            "DROP index t_pkey, DROP table late, DROP table t",
        ),
        ("alter table t rename to u", "drop table if exists t, u", "DROP index t_pkey, DROP table u"),
        // Nothing of what others make elsewhere, or drop themselves.
        ("lock table t; create table apart ()", "drop table t", "DROP index t_pkey, DROP table t"),
        ("lock table t; create table brief (); drop table brief", "drop table t", "DROP index t_pkey, DROP table t"),
        (
            "comment on cast (mood as point) is 'held'; drop table aside",
            "drop cast (mood as point)",
            "DROP cast (public.mood AS pg_catalog.point)",
        ),
    ];
    for version in versions() {
        let it = Place::without_triggers(version);
        let (mut other, mut client) = (it.client(), it.client());
        let waits = format!("select count(*) from pg_locks where pid = {} and not granted", client.key().0);
        client.rows("create table child (a int); create table aside (); create type mood as enum (); create cast (mood as point) with inout");
        for (n, (added, dropped, news)) in RACES.iter().enumerate() {
            client.rows("drop table if exists t, u, apart; create table t (a int primary key, b int)");
            other.rows(&format!("begin; {added}"));
            client.send(&query(&format!("{dropped} /* {n} */")));
            assert!(eventually(PATIENCE, || it.sql(&waits) == "1"), "{dropped} does not wait for {added}");
            other.rows("commit");
            assert!(client.read_until_ready().iter().all(|message| message.tag != b'E'), "{dropped}");
            let told = it.sql(&format!(
                "select string_agg(concat_ws(' ', change_type, object_type, object_name), ', ' order by change_type, object_type, object_name) \
                   from pggit.history where sql_executed like '%/* {n} */'"
            ));
            assert_eq!(told, *news, "{added}, then {dropped}");
        }
        assert_eq!(it.sql("select count(*) from pggit.history where captured_by = 'probe'"), "0");
    }
}

#[test]
fn what_a_table_gets_from_another_like_it_is_recorded_in_both_modes() {
    for version in versions() {
        for it in [Place::with_triggers(version), Place::without_triggers(version)] {
            let mut client = it.client();
            client.rows("create table t (a int, b int, constraint k check (a > 0)); create index i on t (a, b); create statistics s on a, b from t");
            client.rows("comment on column t.b is 'b'; comment on constraint k on t is 'k'; comment on statistics s is 's'; comment on index i is 'i'");
            let mut seen = it.news(&mut 0).len();
            client.rows("create table u (like t including all)");
            let mut told = it.news(&mut seen);
            told.sort();
            let wanted = [
                "COMMENT index public.u_a_b_idx",
                "COMMENT statistics object public.u_a_b_stat",
                "COMMENT table column public.u.b",
                "COMMENT table constraint k on public.u",
                "CREATE index public.u_a_b_idx",
                "CREATE statistics object public.u_a_b_stat",
                "CREATE table public.u",
            ];
            assert_eq!(told, wanted, "{version:?}");
            assert_eq!(it.sql("select new_definition from pggit.history where object_identity = 'public.u.b'"), "b");
        }
    }
}

/// Which index a table is clustered on, or has its rows told apart by, is the table's; it may lose it with the index.
#[test]
fn what_a_table_has_an_index_for_changes_with_it() {
    for version in versions() {
        for it in [Place::with_triggers(version), Place::without_triggers(version)] {
            let mut client = it.client();
            client.rows("create table t (a int not null, b int); create unique index i on t (a); create index j on t (b); create index k on t (b)");
            client.rows("create temp table passing (a int); create index passing_i on passing (a)");
            let mut seen = it.news(&mut 0).len();
            for (sql, news, last) in [
                ("alter table t cluster on j", "ALTER table public.t", "ALTER TABLE public.t CLUSTER ON j"),
                ("cluster t", "", "ALTER TABLE public.t CLUSTER ON j"),
                ("cluster passing using passing_i; drop index passing_i", "", "ALTER TABLE public.t CLUSTER ON j"),
                ("drop index k", "DROP index public.k", "ALTER TABLE public.t CLUSTER ON j"),
                ("drop index j", "ALTER table public.t, DROP index public.j", ")"),
                (
                    "alter table t replica identity using index i",
                    "ALTER table public.t",
                    "ALTER TABLE public.t REPLICA IDENTITY USING INDEX i",
                ),
                ("drop index i", "ALTER table public.t, DROP index public.i", ")"),
            ] {
                client.rows(sql);
                let mut told = it.news(&mut seen);
                told.sort();
                assert_eq!(told.join(", "), news, "{sql}, {version:?}");
                let definition = "select new_definition from pggit.history where object_identity = 'public.t' order by created_at desc, ordinal desc limit 1";
                assert!(
                    it.sql(definition).ends_with(&format!("{last};\n-- Owner: postgres")),
                    "{sql}: {}",
                    it.sql(definition)
                );
            }
        }
    }
}

/// DROP IDENTITY takes the sequence. A partition that is detached loses its copies of the parent's triggers, with all of its
/// own partitions.
#[test]
fn what_an_alter_takes_along_unsaid_goes_with_it() {
    for version in versions() {
        for it in [Place::with_triggers(version), Place::without_triggers(version)] {
            let mut client = it.client();
            client.rows("create table p (a int) partition by range (a); create table q partition of p for values from (0) to (9) partition by range (a)");
            client.rows("create table r partition of q for values from (0) to (5); create table other partition of p for values from (9) to (20)");
            client.rows("create function f() returns trigger language plpgsql as 'begin return null; end'");
            client.rows("create trigger g after insert on p for each row execute function f(); create trigger own after insert on q for each row execute function f()");
            let mut seen = it.news(&mut 0).len();
            client.rows("begin; alter table p detach partition q; rollback");
            assert_eq!(it.news(&mut seen).join(", "), "");
            client.rows("alter table p detach partition q");
            let mut told = it.news(&mut seen);
            told.retain(|row| row != "ALTER table public.p");
            told.sort();
            assert_eq!(
                told.join(", "),
                "ALTER table public.q, DROP trigger g on public.q, DROP trigger g on public.r",
                "{version:?}"
            );
            client.rows("create table i (a int generated always as identity, b int generated always as identity, c int generated always as identity)");
            client.rows("create temp table passing (a int generated always as identity)");
            it.news(&mut seen);
            client.rows("alter table i alter a drop identity; alter table i alter b drop identity if exists, drop c; alter table passing alter a drop identity");
            let mut told = it.news(&mut seen);
            told.retain(|row| !row.ends_with("public.i") && !row.ends_with("public.i.c"));
            told.sort();
            assert_eq!(
                told.join(", "),
                "DROP sequence public.i_a_seq, DROP sequence public.i_b_seq, DROP sequence public.i_c_seq",
                "{version:?}"
            );
            client.rows("drop trigger own on q; drop trigger g on p");
            let mut told = it.news(&mut seen);
            told.sort();
            let wanted = "DROP trigger g on public.other, DROP trigger g on public.p, DROP trigger own on public.q, DROP trigger own on public.r";
            assert_eq!(told.join(", "), wanted, "{version:?}");
        }
    }
}

/// Whether a trigger or rule fires is theirs, not their table's, in both modes.
#[test]
fn triggers_and_rules_change_when_they_fire_no_more() {
    for version in versions() {
        for it in [Place::with_triggers(version), Place::without_triggers(version)] {
            let mut client = it.client();
            client.rows("create table t (a int); create function f() returns trigger language plpgsql as 'begin end'");
            client.rows("create trigger g before insert on t for each row execute function f()");
            client.rows("create rule r as on insert to t do also select 1");
            let mut seen = it.news(&mut 0).len();
            for (sql, news) in [
                ("alter table t disable trigger g", "ALTER trigger g on public.t"),
                ("alter table t enable always rule r", "ALTER rule r on public.t"),
                ("alter trigger g on t rename to h", "RENAME trigger h on public.t"),
                ("alter rule r on t rename to s", "RENAME rule s on public.t"),
                ("drop rule s on t", "DROP rule s on public.t"),
                (
                    "create or replace trigger h before insert on t for each row execute function f()",
                    "ALTER trigger h on public.t",
                ),
                ("drop function f() cascade", "DROP function public.f(), DROP trigger h on public.t"),
            ] {
                client.rows(sql);
                let mut told = it.news(&mut seen);
                told.retain(|row| row != "ALTER table public.t");
                told.sort();
                assert_eq!(told.join(", "), news, "{sql}");
            }
            let last =
                "select old_definition from pggit.history where change_type = 'RENAME' and object_type = 'trigger'";
            assert!(it.sql(last).ends_with(";\nALTER TABLE public.t DISABLE TRIGGER g;"), "{}", it.sql(last));
        }
    }
}
