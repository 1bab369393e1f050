//! The history in the database: what is recorded, what is not, and that recording harms nobody.
//! Connections here go straight to the server; what the proxy adds is tested elsewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use support::{PgServer, migrate, psql, psql_ok, versions};

/// A database with the `pggit` schema in it.
struct Db {
    server: &'static PgServer,
    name: String,
}

impl Db {
    /// Runs statements in one psql session.
    fn run(&self, sql: &str) -> String {
        self.server.psql(&self.name, sql)
    }

    /// Runs statements of which one must fail; returns what psql said.
    fn fails(&self, sql: &str) -> String {
        let output = self.server.try_psql(&self.name, sql);
        assert!(!output.status.success(), "this should fail: {sql}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// As another role.
    fn run_as(&self, role: &str, options: &str, sql: &str) -> String {
        psql_ok(&self.url_as(role, options), sql)
    }

    fn url_as(&self, role: &str, options: &str) -> String {
        let address = self.server.address;
        let options = options.replace('\\', "\\\\").replace('\'', "\\'");
        format!(
            "host={} port={} user={role} dbname={} application_name=tests options='{options}'",
            address.ip(),
            address.port(),
            self.name
        )
    }

    /// `CHANGE SEVERITY type identity` of what was recorded since the baseline, oldest first.
    fn changes(&self) -> Vec<String> {
        self.lines(
            "select concat_ws(' ', change_type, change_severity, object_type, object_identity) from pggit.history \
             where change_type <> 'BASELINE' order by created_at, ordinal",
        )
    }

    fn lines(&self, sql: &str) -> Vec<String> {
        self.run(sql).lines().map(str::to_owned).collect()
    }

    /// Forgets what was recorded so far in this test, by looking only at later rows.
    fn changes_of(&self, sql: &str) -> Vec<String> {
        let before = self.changes().len();
        self.run(sql);
        self.changes().split_off(before)
    }
}

fn bare(server: &'static PgServer) -> Db {
    Db { server, name: server.unique_database("history") }
}

fn each_version(test: impl Fn(Db)) {
    for version in versions() {
        let db = bare(PgServer::shared(version));
        migrate(db.server, &db.name);
        test(db);
    }
}

#[test]
fn one_statement_leaves_one_row_for_each_object() {
    each_version(|db| {
        let made = db.changes_of("create table t (id serial primary key, v text unique)");
        assert_eq!(
            made,
            [
                "CREATE MINOR sequence public.t_id_seq",
                "CREATE MINOR table public.t",
                "CREATE PATCH index public.t_pkey",
                "CREATE PATCH index public.t_v_key",
            ]
        );
        let mut dropped = db.changes_of("drop table t");
        dropped.sort();
        assert_eq!(
            dropped,
            [
                "DROP MAJOR sequence public.t_id_seq",
                "DROP MAJOR table public.t",
                "DROP PATCH index public.t_pkey",
                "DROP PATCH index public.t_v_key",
            ]
        );
    });
}

#[test]
fn every_kind_of_object_is_recorded_with_its_definition() {
    each_version(|db| {
        db.run(
            "create schema s;
             create type s.mood as enum ('sad', 'ok'); create type s.pair as (a int, b text);
             create domain s.positive as int check (value > 0); create type s.span as range (subtype = float8);
             create sequence s.q; create table s.t (a int primary key, m s.mood);
             create view s.v as select * from s.t; create materialized view s.mv as select 1 as one;
             create index i on s.t (m); create function s.f() returns trigger language plpgsql as 'begin return new; end';
             create procedure s.p() language sql as 'select 1';
             create aggregate s.total (int) (sfunc = int4pl, stype = int, initcond = '0');
             create trigger g before insert on s.t for each row execute function s.f();
             create rule r as on update to s.t do instead nothing; create policy pol on s.t using (a > 0);
             create statistics s.st on a, m from s.t; create cast (s.pair as text) with inout;
             create operator s.=== (leftarg = int, rightarg = int, function = int4eq);
             create operator class s.oc for type int using btree as operator 1 <, function 1 btint4cmp(int, int);
             create collation s.c (locale = 'C'); create conversion s.cv for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8;
             create text search dictionary s.d (template = simple); create text search configuration s.tc (copy = simple);
             create foreign data wrapper w; create server srv foreign data wrapper w;
             create user mapping for public server srv options (user 'u', password 'geheim');
             create foreign table s.ft (a int) server srv options (schema_name 'x'); create publication pub for table s.t;
             create access method am type index handler bthandler; create type s.shell;
             create subscription sub connection 'host=nowhere password=geheim' publication p with (connect = false);",
        );
        let undefined = db.lines(
            "select object_identity from pggit.history where change_type <> 'BASELINE' and new_definition is null",
        );
        assert!(undefined.is_empty(), "no definition: {undefined:?}");
        assert_eq!(
            db.run("select count(distinct object_type) >= 24 from pggit.history where change_type = 'CREATE'"),
            "t"
        );

        let secrets = db.lines("select object_identity from pggit.history h where h::text like '%geheim%'");
        assert!(secrets.is_empty(), "a password is in the history: {secrets:?}");

        db.run("alter subscription sub set (slot_name = none); drop subscription sub; drop publication pub; drop schema s cascade; drop server srv cascade; drop foreign data wrapper w; drop access method am;");
        let alive = db.lines(
            "select object_identity from (select distinct on (object_type, object_identity) * from pggit.history
              where change_type not in ('BASELINE', 'COMMENT') order by object_type, object_identity, created_at desc, ordinal desc) h
             where change_type <> 'DROP'",
        );
        assert!(alive.is_empty(), "their end was not recorded: {alive:?}");
        let lost =
            db.lines("select object_identity from pggit.history where change_type = 'DROP' and old_definition is null");
        assert!(lost.is_empty(), "no old definition: {lost:?}");
    });
}

#[test]
fn definitions_before_and_after_stand_in_the_row() {
    each_version(|db| {
        db.run(
            "create table t (a int not null default 1, b varchar(10) collate \"C\", g int generated always as (a * 2) stored,
                             i int generated by default as identity, constraint c check (a > 0)) with (fillfactor = 70);
             alter table t add column z text;",
        );
        let row =
            db.run("select old_definition || '=>' || new_definition from pggit.history where change_type = 'ALTER'");
        let (old, new) = row.split_once("=>").unwrap();
        let expected = "CREATE TABLE public.t (\n    a integer DEFAULT 1 NOT NULL,\n    b character varying(10) COLLATE pg_catalog.\"C\",\n    \
                        g integer GENERATED ALWAYS AS ((a * 2)) STORED,\n    i integer GENERATED BY DEFAULT AS IDENTITY NOT NULL,\n    \
                        CONSTRAINT c CHECK ((a > 0))\n)\nWITH (fillfactor=70);\n-- Owner: postgres";
        assert_eq!(old, expected);
        assert_eq!(new, expected.replace(" NOT NULL,\n    CONSTRAINT", " NOT NULL,\n    z text,\n    CONSTRAINT"));
    });
}

#[test]
fn definitions_make_the_same_table_again() {
    each_version(|db| {
        db.run(
            "create table p (a int, b text not null) partition by range (a); alter table p alter b set storage external;
             create unlogged table u (like p including all) ; create table k (x int, y u) inherits (u);
             alter table k enable row level security; alter table u alter b set statistics 7;
             create table p1 partition of p for values from (1) to (9);",
        );
        let definitions = db.lines("select distinct on (object_identity) quote_literal(new_definition) from pggit.history where object_type = 'table' order by object_identity, created_at desc").len();
        assert!(definitions >= 4);
        let script = db.run("select string_agg(d, E'\\n' order by o) from (select distinct on (object_identity) new_definition as d, objid as o
                               from pggit.changes where object_type = 'table' and action <> 'BASELINE' order by object_identity, created_at desc) x");
        db.run("create table keep as select object_identity i, pggit.definition(classid, objid) d from pggit.changes where object_type = 'table' and action <> 'BASELINE'");
        db.run(&format!("drop table p, k, u cascade; {script}"));
        let different = db.lines("select k.i from keep k where k.i <> 'public.keep' and k.d is distinct from pggit.definition('pg_class'::regclass, k.i::regclass)");
        assert!(different.is_empty(), "{different:?}");
    });
}

#[test]
fn a_definition_does_not_follow_the_order_of_the_catalogs_rows() {
    each_version(|db| {
        db.run("create table t (a int not null, b int not null); create unique index ia on t (a); create unique index ib on t (b)");
        let of = |marks: &str| {
            db.run(marks);
            db.run("select right(pggit.definition('pg_class'::regclass, 't'::regclass), -strpos(pggit.definition('pg_class'::regclass, 't'::regclass), ';'))")
        };
        let first = of("alter table t cluster on ib; alter table t replica identity using index ia");
        assert!(first.contains("CLUSTER ON ib") && first.contains("REPLICA IDENTITY USING INDEX ia"), "{first}");
        // The rows of pg_index are written anew, in the other order.
        let second = of("alter table t set without cluster; alter table t replica identity default; drop index ib; \
                         create unique index ib on t (b); alter table t replica identity using index ia; alter table t cluster on ib");
        assert_eq!(first, second);
        let third = of("alter table t set without cluster; alter table t replica identity default; drop index ia; \
                        create unique index ia on t (a); alter table t cluster on ib; alter table t replica identity using index ia");
        assert_eq!(first, third);
    });
}

#[test]
fn a_rename_is_recognised_whichever_way_it_was_made() {
    each_version(|db| {
        db.run("create table t (a int constraint k check (a > 0)); create schema s; create function f() returns int language sql as 'select 1'");
        assert_eq!(
            db.changes_of("do $$ begin execute 'alter table t rename to u'; end $$"),
            ["RENAME MAJOR table public.u"]
        );
        assert_eq!(db.changes_of("alter table u rename column a to b"), ["RENAME MAJOR table public.u"]);
        assert_eq!(db.changes_of("alter table u rename constraint k to l"), ["RENAME MAJOR table public.u"]);
        assert_eq!(db.changes_of("alter table u set schema s"), ["RENAME MAJOR table s.u"]);
        assert_eq!(db.changes_of("alter function f() rename to g"), ["RENAME MAJOR function public.g()"]);
        // The schema was renamed, the table in it was not.
        assert_eq!(
            db.changes_of("alter schema s rename to r; alter table r.u add column c int"),
            ["RENAME MAJOR schema r", "ALTER MINOR table r.u"]
        );
        let old = db.run("select split_part(old_definition, ' (', 1) from pggit.history where object_identity = 's.u'");
        assert_eq!(old, "CREATE TABLE public.u");
    });
}

#[test]
fn severity_tells_narrowing_from_adding() {
    each_version(|db| {
        db.run("create table t (a smallint, b varchar(10), c numeric(6,2), d text, e int, n int); create type m as enum ('x', 'y')");
        let severity = |sql: &str| {
            let rows = db.changes_of(sql);
            rows.iter().map(|row| row.split(' ').nth(1).unwrap().to_owned()).min().unwrap()
        };
        for (sql, expected) in [
            ("alter table t add column f int", "MINOR"),
            ("alter table t alter a type int", "MINOR"),
            ("alter table t alter a type bigint", "MINOR"),
            ("alter table t alter a type int", "MAJOR"),
            ("alter table t alter b type varchar(20)", "MINOR"),
            ("alter table t alter b type text", "MINOR"),
            ("alter table t alter b type varchar(5)", "MAJOR"),
            ("alter table t alter c type numeric(8,3)", "MINOR"),
            ("alter table t alter c type numeric(8,4)", "MAJOR"),
            ("alter table t alter c type numeric", "MINOR"),
            ("alter table t alter n set not null", "MAJOR"),
            ("alter table t alter n drop not null", "MINOR"),
            ("alter table t alter e set default 5", "MINOR"),
            ("alter table t add constraint pos check (e > 0)", "MINOR"),
            ("alter table t drop column d", "MAJOR"),
            ("create index ti on t (e)", "PATCH"),
            ("alter index ti set (fillfactor = 50)", "PATCH"),
            ("drop index ti", "PATCH"),
            ("comment on table t is 'x'", "PATCH"),
            ("grant select on t to public", "PATCH"),
            ("revoke select on t from public", "PATCH"),
            ("alter default privileges grant select on tables to public", "PATCH"),
            ("alter type m add value 'z'", "MINOR"),
            ("alter type m rename value 'x' to 'w'", "MAJOR"),
            ("create or replace view v as select 1 as a", "MINOR"),
            ("create or replace view v as select 1 as a, 2 as b", "MINOR"),
            ("drop view v", "MAJOR"),
        ] {
            assert_eq!(severity(sql), expected, "{sql} on {:?}", db.server.version);
        }
    });
}

#[test]
fn replacing_what_exists_is_an_alter() {
    each_version(|db| {
        let sql = "create or replace function f() returns int language sql as 'select 1'";
        assert_eq!(db.changes_of(sql), ["CREATE MINOR function public.f()"]);
        assert_eq!(db.changes_of(&sql.replace('1', "2")), ["ALTER MINOR function public.f()"]);
        assert_eq!(
            db.changes_of(&format!("drop function f(); {sql}")).last().unwrap(),
            "CREATE MINOR function public.f()"
        );
    });
}

#[test]
fn cascades_are_seen() {
    each_version(|db| {
        db.run("create type e as enum ('a'); create table t (x e, y int); create view v as select x from t; create table o (i int primary key); create table r (i int references o)");
        let rows = db.changes_of("drop type e cascade");
        for row in [
            "DROP MAJOR type public.e",
            "DROP MAJOR table column public.t.x",
            "DROP MAJOR view public.v",
            "ALTER MAJOR table public.t",
        ] {
            assert!(rows.iter().any(|got| got == row), "{row} is not in {rows:?}");
        }
        assert_eq!(db.run("select old_definition from pggit.history where object_type = 'table column'"), "x public.e");
        let rows = db.changes_of("drop table o cascade");
        for row in [
            "DROP MAJOR table public.o",
            "DROP PATCH index public.o_pkey",
            "DROP MAJOR table constraint r_i_fkey on public.r",
            "ALTER MINOR table public.r",
        ] {
            assert!(rows.iter().any(|got| got == row), "{row} is not in {rows:?}");
        }
        assert_eq!(rows.len(), 4, "{rows:?}");
    });
}

#[test]
fn rights_that_go_with_drop_owned_are_recorded() {
    each_version(|db| {
        db.run("create table granted (a int)");
        let role = format!("owner_{}", db.name);
        let rows = db.changes_of(&format!(
            "create role {role}; grant select on granted to {role}; drop owned by {role}; drop role {role}"
        ));
        assert_eq!(rows, ["GRANT PATCH table", "REVOKE PATCH table"]);
    });
}

#[test]
fn partitions_follow_their_parent() {
    each_version(|db| {
        db.run("create table p (a int, b int) partition by range (a); create index pb on p (b)");
        assert_eq!(
            db.changes_of("create table p1 partition of p for values from (0) to (9)"),
            ["CREATE MINOR table public.p1", "CREATE PATCH index public.p1_b_idx"]
        );
        db.run("create table p2 (a int, b int)");
        let rows = db.changes_of("alter table p attach partition p2 for values from (10) to (19)");
        assert_eq!(
            rows,
            ["ALTER MINOR table public.p", "ALTER MINOR table public.p2", "CREATE PATCH index public.p2_b_idx"]
        );
        assert_eq!(db.changes_of("alter table p add column c int").len(), 3);
        // Nothing changed in the partitions: no rows for them.
        assert_eq!(db.changes_of("alter table p alter c set default 1").len(), 3);
        assert_eq!(db.changes_of("alter table only p alter c drop default"), ["ALTER MINOR table public.p"]);
        assert_eq!(db.changes_of("alter table p rename to q"), ["RENAME MAJOR table public.q"]);
        assert_eq!(db.changes_of("alter table q rename c to d").len(), 3);
    });
}

#[test]
fn tables_of_a_type_follow_it() {
    each_version(|db| {
        db.run("create type y as (a int); create table t of y; create table other (a int)");
        assert_eq!(
            db.changes_of("alter type y add attribute b text cascade"),
            ["ALTER MINOR type public.y", "ALTER MINOR table public.t"]
        );
        assert_eq!(
            db.changes_of("alter type y drop attribute a cascade"),
            [
                "DROP MAJOR table column public.t.a",
                "DROP MAJOR composite type column public.y.a",
                "ALTER MAJOR type public.y",
                "ALTER MAJOR table public.t",
            ]
        );
        assert_eq!(db.changes_of("alter type y rename to z"), ["RENAME MAJOR type public.z"]);
    });
}

/// The server adds constraints to the table that refers to a partitioned one: no change of anybody's, and not in a definition.
#[test]
fn a_partition_changes_no_table_that_refers_to_its_parent() {
    each_version(|db| {
        db.run("create table p (a int primary key) partition by range (a); create table r (a int references p)");
        let definition = "select pggit.definition('pg_class'::regclass, 'r'::regclass)";
        let before = db.run(definition);
        assert!(before.contains("FOREIGN KEY (a) REFERENCES public.p(a)"), "{before}");
        db.run("create table p1 partition of p for values from (0) to (9)");
        assert_eq!(
            db.run("select count(*) > 1 from pg_constraint where conrelid = 'r'::regclass and contype = 'f'"),
            "t"
        );
        assert_eq!(db.run(definition), before);
        for _ in 0..2 {
            db.run("begin isolation level repeatable read; select suspected from pggit.probe(); commit");
        }
        assert_eq!(db.run("select count(*) from pggit.history where captured_by = 'probe'"), "0");
    });
}

#[test]
fn what_is_rolled_back_leaves_no_row() {
    each_version(|db| {
        db.run("create table d (i int primary key deferrable initially deferred)");
        let before = db.changes();
        db.run("begin; create table x (); rollback");
        db.run("begin; savepoint a; create table x (); rollback to a; create table y (); rollback to a; commit");
        db.fails("begin; create table x (); insert into d values (1), (1); commit");
        db.fails("create table x (a int); select 1/0;");
        db.run("drop table x");
        db.fails("begin; create table z (); create table z (); commit");
        db.fails("create table bad (a int, a int)");
        let rows = db.changes().split_off(before.len());
        assert_eq!(rows, ["CREATE MINOR table public.x", "DROP MAJOR table public.x"]);
        assert_eq!(
            db.changes_of("begin; savepoint a; create table k1 (); rollback to a; create table k2 (); commit"),
            ["CREATE MINOR table public.k2"]
        );
    });
}

#[test]
fn a_transaction_is_one_commit() {
    each_version(|db| {
        db.run("begin; create table a (); savepoint s; create table b (); release s; savepoint t; create table c (); rollback to t; create table d (); commit; create table e ()");
        assert_eq!(
            db.run(
                "select count(distinct commit_id), count(distinct xid) from pggit.history where change_type = 'CREATE'"
            ),
            "2|2"
        );
        assert_eq!(
            db.run("select changes, severity, objects from pggit.log('main', 2) order by changes desc"),
            "3|MINOR|{\"CREATE table public.a\",\"CREATE table public.b\",\"CREATE table public.d\"}\n1|MINOR|{\"CREATE table public.e\"}"
        );
        assert_eq!(db.run("select count(*) from pggit.commits where id in (select commit_id from pggit.history where change_type = 'CREATE')"), "2");
    });
}

#[test]
fn temporary_objects_are_not_recorded() {
    each_version(|db| {
        db.run("create type keep as (a int)");
        let rows = db.changes_of(
            "create temp table t (id serial primary key, c text check (c <> '')); create index on t (c); comment on table t is 'x'; comment on column t.c is 'y';
             create temp view v as select * from t; create temp sequence q; create function pg_temp.f() returns trigger language plpgsql as 'begin return new; end';
             create trigger g before insert on t for each row execute function pg_temp.f(); create policy p on t; create rule r as on update to t do instead nothing;
             alter table t add column d int; alter table t rename d to e; alter table t drop column e; alter table t drop constraint t_c_check;
             create temp table k () inherits (t); create type pg_temp.ty as (a int); select 1 into temp s; create statistics st on id, c from t;
             drop rule r on t; drop trigger g on t; drop policy p on t; drop view v; drop table t cascade; drop sequence q; drop type pg_temp.ty;",
        );
        assert!(rows.is_empty(), "{rows:?}");
    });
}

#[test]
fn what_changes_nothing_is_not_recorded() {
    each_version(|db| {
        db.run("create table t (a int primary key); create materialized view m as select * from t; create schema s");
        let rows = db.changes_of(
            "create table if not exists t (b int); create schema if not exists s; drop table if exists nothing; refresh materialized view m;
             alter table if exists nothing add column a int; reindex table t; truncate t; vacuum t; analyze t; cluster t using t_pkey",
        );
        // CLUSTER … USING marks the index, which no event trigger reports either.
        assert!(rows.is_empty(), "{rows:?}");
    });
}

#[test]
fn changes_made_out_of_sight_are_recorded() {
    each_version(|db| {
        db.run("create function make(name text) returns void language plpgsql as $$ begin execute format('create table %I ()', name); end $$;
                create procedure twice() language plpgsql as $$ begin create table p1 (); commit; create table p2 (); end $$;");
        let rows = db.changes_of(
            "do $$ begin create table d (); end $$; select make('f'); call twice(); select 1 as a into i; create table c as select 2 as b;
             prepare s as select 3 as z; create table e as execute s; create schema n create table nt (a int) create view nv as select * from nt;
             set session_replication_role = replica; create table r (); reset session_replication_role;
             create index concurrently ci on c (b); drop index concurrently ci;",
        );
        for name in ["d", "f", "p1", "p2", "i", "c", "e", "r"] {
            let row = format!("CREATE MINOR table public.{name}");
            assert!(rows.contains(&row), "{row} is not in {rows:?}");
        }
        for row in [
            "CREATE MINOR schema n",
            "CREATE MINOR table n.nt",
            "CREATE MINOR view n.nv",
            "CREATE PATCH index public.ci",
            "DROP PATCH index public.ci",
        ] {
            assert!(rows.iter().any(|got| got == row), "{row} is not in {rows:?}");
        }
        assert_eq!(rows.len(), 13, "{rows:?}");
    });
}

#[test]
fn an_extension_is_one_change() {
    each_version(|db| {
        for (name, extra) in [
            ("hstore", ""),
            ("citext", ""),
            ("pgcrypto", ""),
            ("pg_trgm", ""),
            ("postgres_fdw", ""),
            ("ltree", " version '1.1'"),
        ] {
            assert_eq!(
                db.changes_of(&format!("create extension {name}{extra}")),
                [format!("CREATE MINOR extension {name}")]
            );
        }
        assert_eq!(db.changes_of("alter extension ltree update"), ["ALTER MINOR extension ltree"]);
        let versions = db.run("select old_definition ~ '1\\.1' and new_definition !~ '1\\.1''' from pggit.history where change_type = 'ALTER'");
        assert_eq!(versions, "t");
        db.run("create table t (a int, h hstore, c citext); create index ti on t using gin (h)");
        let rows = db.changes_of("drop extension hstore cascade");
        assert_eq!(
            rows,
            [
                "DROP MAJOR extension hstore",
                "DROP MAJOR table column public.t.h",
                "DROP PATCH index public.ti",
                "ALTER MAJOR table public.t"
            ]
        );
        assert_eq!(db.changes_of("drop extension pg_trgm, pgcrypto, ltree, postgres_fdw").len(), 4);
    });
}

#[test]
fn a_forged_setting_hides_no_drop() {
    each_version(|db| {
        db.run("create table t (); create table u ()");
        let rows = db.changes_of(
            "select set_config('pggit.extension', '1', false), set_config('pggit.migration', 'on', false),
                    set_config('pggit.members', 'pg_class'::regclass::oid || ':' || 't'::regclass::oid, false);
             drop table t; drop table u",
        );
        assert_eq!(rows, ["DROP MAJOR table public.t", "DROP MAJOR table public.u"]);
    });
}

#[test]
fn base_types_made_by_hand_pass() {
    each_version(|db| {
        db.run(
            "create type b; create function b_in(cstring) returns b language internal immutable strict as 'int4in';
             create function b_out(b) returns cstring language internal immutable strict as 'int4out';
             create type b (input = b_in, output = b_out, like = int4, category = 'x', delimiter = ';', default = '7');
             create table t (v b); alter type b set (storage = plain); drop type b cascade",
        );
        assert_eq!(db.run("select count(*) from pggit.history where object_type = 'type' and change_type = 'DROP' and old_definition like 'CREATE TYPE public.b (INPUT = public.b_in%'"), "1");
    });
}

#[test]
fn rows_say_who_and_from_where() {
    each_version(|db| {
        let role = format!("owner_{}", db.name);
        let user = format!("user_{}", db.name);
        db.run(&format!("create role {role}; create role {user} login; grant {role} to {user}; grant create on schema public to {role}"));
        let session = "0b1f5c1e-7b0a-4a56-9d2c-5b6f9a3c1d2e";
        let made = |options: &str, table: &str| {
            db.run_as(&user, options, &format!("set role {role}; create table {table} ()"));
            db.run(&format!(
                "select concat_ws(' ', via_proxy, coalesce(session_id::text, '-'), coalesce(host(client_addr), '-'), coalesce(client_port::text, '-'), branch)
                   from pggit.history where object_name = '{table}'"
            ))
        };
        assert_eq!(
            made(&format!("-c pggit.session={session} -c pggit.client=10.1.2.3:4567 -c pggit.branch=feature/x"), "t1"),
            format!("t {session} 10.1.2.3 4567 feature/x")
        );
        assert_eq!(
            made(&format!("-c pggit.session={session} -c pggit.client=[2001:db8::1]:65000"), "t2"),
            format!("t {session} 2001:db8::1 65000 main")
        );
        assert_eq!(
            made(&format!("-c pggit.session={session} -c pggit.client="), "t3"),
            format!("t {session} - - main")
        );
        let direct = made("", "t4");
        assert!(direct.starts_with("f - 127.0.0.1 ") && direct.ends_with(" main"), "{direct}");
        // Nonsense is no reason to fail.
        let bad = [
            "[::1::]:5",
            "[1:2:3:4:5:6:7:8:9]:1",
            "999.1.1.1:4",
            "1.2.3.4:999999",
            "[fe80::1%eth0]:1",
            "[::ffff:1.2.3.4]:9",
            "[:::]:1",
            "[::]:0",
            "\u{e9}:1",
            "a:b",
        ];
        for (number, bad) in bad.into_iter().enumerate() {
            made(&format!("-c pggit.session={session} -c pggit.client={bad}"), &format!("b{number}"));
            made(&format!("-c pggit.session={bad} -c pggit.branch="), &format!("c{number}"));
        }
        assert_eq!(
            db.run("select distinct created_by || ' ' || role_name || ' ' || application_name from pggit.history where object_name like 't_'"),
            format!("{user} {role} tests")
        );
        assert_eq!(db.run("select sql_executed from pggit.history where object_name = 't4'"), "create table t4 ()");
    });
}

#[test]
fn a_plain_user_needs_no_rights_and_cannot_hijack() {
    each_version(|db| {
        let user = format!("plain_{}", db.name);
        db.run(&format!("create role {user} login; create schema own authorization {user}; grant usage, create on schema public to {user}"));
        db.run_as(
            &user,
            "-c search_path=own,pg_catalog,pggit",
            "create function own.quote_ident(text) returns text language plpgsql as $$ begin raise 'hijacked'; end $$;
             create function own.format_type(oid, int) returns text language plpgsql as $$ begin raise 'hijacked'; end $$;
             create function own.eq(text, text) returns boolean language plpgsql as $$ begin raise 'hijacked'; end $$;
             create operator own.= (leftarg = text, rightarg = text, function = own.eq);
             create table own.pg_class (a text default 'x'); create table t (a text); alter table t add b int; drop table t; create temp table pg_attribute (a int); create table u (c int)",
        );
        assert_eq!(
            db.run("select split_part(new_definition, E'\\n', 2) from pggit.history where object_identity = 'own.u'"),
            "c integer"
        );
        for sql in [
            "insert into pggit.changes (action, command_tag, object_type) values ('x', 'x', 'x')",
            "select * from pggit.history",
            "select pggit.record_baseline()",
            "delete from pggit.changes",
            "select pggit.version()",
        ] {
            let output = psql(&db.url_as(&user, ""), sql);
            assert!(String::from_utf8_lossy(&output.stderr).contains("42501"), "{sql} is allowed");
        }
    });
}

#[test]
fn readers_read_and_write_nothing() {
    each_version(|db| {
        let user = format!("reader_{}", db.name);
        db.run(&format!(
            "create role {user} login; grant pggit_reader to {user}; create table t (a int); alter table t add b int"
        ));
        for sql in [
            "select count(*) from pggit.history",
            "select count(*) from pggit.commits",
            "select count(*) from pggit.log()",
            "select * from pggit.status()",
            "select * from pggit.health_check()",
            "select pggit.version()",
            "select count(*) from pggit.branches",
            "select count(*) from pggit.statements",
            "select * from pggit.system_overview",
            "select * from pggit.maintenance_status",
            "select count(*) from pggit.metrics_summary",
            "select * from pggit.prometheus_metrics()",
        ] {
            assert!(!db.run_as(&user, "", sql).is_empty(), "{sql}");
        }
        assert_eq!(
            db.run_as(
                &user,
                "-c search_path=public",
                "select pggit.definition('pg_class'::regclass, 't'::regclass) like 'CREATE TABLE public.t%'"
            ),
            "t"
        );
        for sql in [
            "insert into pggit.changes (action, command_tag, object_type) values ('x', 'x', 'x')",
            "update pggit.changes set branch = 'x'",
            "truncate pggit.changes",
            "select pggit.record_baseline()",
            "select pggit.record_affected('{}', '{}', 'x', 1)",
            "select pggit.record_metric('x', 1)",
            "select pggit.cleanup_old_metrics(0)",
            "select pggit.note_heartbeat('x', 'x')",
            "insert into pggit.metrics (name, value) values ('x', 1)",
            "insert into pggit.heartbeats (proxy, version) values ('x', 'x')",
        ] {
            assert!(
                String::from_utf8_lossy(&psql(&db.url_as(&user, ""), sql).stderr).contains("42501"),
                "{sql} is allowed"
            );
        }
    });
}

#[test]
fn the_clients_session_is_as_before() {
    each_version(|db| {
        let seen = db.run(
            "create table s (id serial); insert into s default values; create table x (a int primary key); drop table x; select lastval();
             begin; create table y (); select count(*) from pg_settings where name in ('search_path', 'plan_cache_mode', 'enable_seqscan', 'jit') and source = 'session'; commit;
             begin; create table prepared (); prepare transaction 'history-test'; select count(*) from pggit.history where object_name = 'prepared';
             commit prepared 'history-test'; select count(*) from pggit.history where object_name = 'prepared'",
        );
        assert_eq!(seen, "1\n0\n0\n1");
    });
}

#[test]
fn strict_isolation_adds_no_failure() {
    each_version(|db| {
        for level in ["repeatable read", "serializable"] {
            let tag = &level[..3];
            // Two transactions, each with a snapshot older than the other's change.
            let begin = format!("begin isolation level {level}; select 1 from pg_class limit 1;");
            let mut first = Session::start(&db);
            let mut second = Session::start(&db);
            first.ask(&begin);
            second.ask(&begin);
            first.ask(&format!("create table a_{tag} (x int primary key); alter table a_{tag} add y int;"));
            second.ask(&format!("create table b_{tag} (x int primary key); alter table b_{tag} add y int;"));
            first.ask("commit;");
            second.ask("commit;");
            let rows = db.run(&format!(
                "select count(*), count(old_definition) from pggit.history where object_name in ('a_{tag}', 'b_{tag}')"
            ));
            assert_eq!(rows, "4|2");
        }
    });
}

/// A psql that stays, for what needs two sessions at once.
struct Session {
    child: std::process::Child,
    output: std::io::BufReader<std::process::ChildStdout>,
}

impl Session {
    fn start(db: &Db) -> Self {
        let mut child = std::process::Command::new("psql")
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &db.server.url(&db.name)])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Waits until the statements are done.
    fn ask(&mut self, sql: &str) {
        use std::io::{BufRead as _, Write as _};
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{sql}\n\\echo done").unwrap();
        input.flush().unwrap();
        let mut line = String::new();
        while line.trim_end() != "done" {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "psql ended in: {sql}");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
fn the_baseline_gives_the_first_alter_its_old_definition() {
    for version in versions() {
        let db = bare(PgServer::shared(version));
        db.run(
            "create extension hstore; create schema \"S\"; create table \"S\".\"T\" (a serial primary key, h hstore); create view v as select 1 as a;
             create type e as enum ('a'); create function f() returns trigger language plpgsql as 'begin return new; end';
             create trigger g before insert on \"S\".\"T\" for each row execute function f(); create temp table gone (a int)",
        );
        migrate(db.server, &db.name);
        let rows = db.lines("select concat_ws(' ', object_type, schema_name, object_name) from pggit.history where change_type = 'BASELINE' and captured_by = 'baseline' and not via_proxy order by created_at, ordinal");
        assert_eq!(
            rows,
            [
                "schema public",
                "schema S",
                "extension plpgsql",
                "extension hstore",
                "type public e",
                "function public f",
                "sequence S T_a_seq",
                "table S T",
                "index S T_pkey",
                "view public v",
                "trigger S g"
            ]
        );
        assert_eq!(db.run("select count(distinct commit_id) from pggit.history"), "1");
        let rows = db.changes_of("alter table \"S\".\"T\" drop column h; create or replace view v as select 1 as a, 2 as b; alter type e add value 'b'");
        assert_eq!(
            rows,
            [
                "DROP MAJOR table column \"S\".\"T\".h",
                "ALTER MAJOR table \"S\".\"T\"",
                "ALTER MINOR view public.v",
                "ALTER MINOR type public.e"
            ]
        );
        assert_eq!(
            db.run("select count(*) from pggit.history where change_type <> 'BASELINE' and old_definition is null"),
            "0"
        );
    }
}

#[test]
fn odd_names_pass() {
    each_version(|db| {
        let long = "\u{e9}".repeat(31);
        for name in ["a b", "A\"\"B", "x'y", "\u{1f418}", "%s%I", "select", ".", "a.b", &long] {
            db.run(&format!(
                "create schema \"{name}\"; create table \"{name}\".\"{name}\" (\"{name}\" serial primary key check (\"{name}\" > 0)); comment on column \"{name}\".\"{name}\".\"{name}\" is 'c';
                 create index on \"{name}\".\"{name}\" (\"{name}\"); alter table \"{name}\".\"{name}\" rename \"{name}\" to z; alter table \"{name}\".\"{name}\" add q int; alter table \"{name}\".\"{name}\" drop z;
                 create type \"{name}\".\"t{name}\" as enum ('{quoted}'); drop schema \"{name}\" cascade",
                quoted = name.replace('\'', "''").chars().take(20).collect::<String>()
            ));
            let raw = name.replace("\"\"", "\"");
            let found = db.run(&format!("select count(*) from pggit.history where object_type = 'table' and schema_name = $q${raw}$q$ and object_name = $q${raw}$q$"));
            assert_eq!(found, "5", "{name}");
        }
    });
}

#[test]
fn a_history_that_cannot_be_written_stops_the_change() {
    each_version(|db| {
        db.run("alter event trigger pggit_record_ddl disable; alter table pggit.changes rename to hidden; alter event trigger pggit_record_ddl enable always");
        db.fails("create table t ()");
        assert_eq!(db.run("select to_regclass('t') is null"), "t");
        assert_eq!(db.run("select 1"), "1");
    });
}

#[test]
fn changes_to_our_own_schema_are_recorded_unless_a_migration_makes_them() {
    each_version(|db| {
        assert_eq!(db.run("select count(*) from pggit.history where schema_name = 'pggit'"), "0");
        assert_eq!(db.changes_of("alter table pggit.changes add column mine int"), ["ALTER MINOR table pggit.changes"]);
        // In a session that never heard of the setting.
        assert_eq!(db.changes_of("drop function pggit.version()"), ["DROP MAJOR function pggit.version()"]);
    });
}

#[test]
fn health_check_names_what_is_wrong() {
    each_version(|db| {
        // But for the proxy, which is not there.
        assert_eq!(db.run("select check_name from pggit.health_check() where status <> 'ok'"), "proxy_heartbeat");
        assert_eq!(db.run("select recording, schema_version = pggit.version() from pggit.status()"), "t|t");
        for (harm, message) in [
            ("alter event trigger pggit_record_drop disable", "is disabled"),
            ("alter event trigger pggit_record_drop enable", "is not ENABLE ALWAYS"),
            ("drop event trigger pggit_record_drop", "is missing"),
        ] {
            db.run(harm);
            assert_eq!(
                db.run(
                    "select status || ': ' || message from pggit.health_check() where check_name = 'event_triggers'"
                ),
                format!("critical: pggit_record_drop {message}")
            );
        }
        assert_eq!(db.run("select recording from pggit.status()"), "f");
    });
}

#[test]
fn the_newest_rows_are_found_by_index() {
    each_version(|db| {
        db.run(
            "insert into pggit.changes (action, command_tag, object_type, object_identity, object_name, classid, objid, new_definition, shape, created_at)
             select 'ALTER', 'ALTER TABLE', 'table', 'public.t' || i % 5000, 't' || i % 5000, 1259, 100000 + i % 5000, 'create table ' || i,
                    jsonb_build_object('1', jsonb_build_array('a', 'integer', false)), timestamptz '2020-01-01' + i * interval '1 second' from generate_series(1, 100000) i; analyze pggit.changes",
        );
        let plan = db.run("explain select * from pggit.history order by created_at desc, ordinal desc, id limit 100");
        assert!(plan.contains("changes_time_idx") && !plan.contains("Seq Scan"), "{plan}");
        assert_eq!(db.run("set statement_timeout = '5s'; select count(*), count(old_definition) from (select * from pggit.history where object_name like 't%' order by created_at desc limit 100) h"), "100|100");
    });
}

#[test]
fn down_takes_everything_away_and_up_brings_it_back() {
    each_version(|db| {
        db.run("create table t (a int)");
        let run = |arguments: &[&str]| {
            let url = db.server.url(&db.name);
            let mut all = vec!["migrate"];
            all.extend(arguments);
            all.extend(["--database-url", &url]);
            let output = support::proxy::run(&all);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        run(&["down", "--to", "0"]);
        assert_eq!(db.run("select count(*) from pg_event_trigger"), "0");
        assert_eq!(db.run("select count(*) from pg_proc where pronamespace = to_regnamespace('pggit')"), "0");
        assert_eq!(db.run("select count(*) from pg_default_acl"), "0");
        assert_eq!(db.run("select string_agg(relname, ' ' order by relname) from pg_class where relnamespace = to_regnamespace('pggit') and relkind in ('r', 'v')"), "migrations upgrade_log");
        db.run("alter table t add b int");
        run(&["up"]);
        assert_eq!(db.changes_of("alter table t add c int"), ["ALTER MINOR table public.t"]);
        assert_eq!(
            db.run("select old_definition like '%b integer%' from pggit.history where change_type = 'ALTER'"),
            "t"
        );
    });
}
