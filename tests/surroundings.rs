//! Whatever a client made of its session, a change is recorded like any other, or fails as it would have without us: isolation
//! levels, read-only defaults, roles, search paths, timeouts, cancel, deferred constraints. With event triggers and without.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::wire::query;
use support::{Message, PATIENCE, PgServer, Proxy, Wire, eventually, migrate, migrate_without_triggers, versions};

struct Place {
    server: &'static PgServer,
    database: String,
    proxy: Proxy,
}

fn each(test: impl Fn(&Place)) {
    for version in versions() {
        for install in [migrate, migrate_without_triggers] {
            let server = PgServer::shared(version);
            let database = server.unique_database("around");
            install(server, &database);
            let proxy = Proxy::start(server, &format!("[upstream]\ndbname = \"{database}\"\n"));
            test(&Place { server, database, proxy });
        }
    }
}

impl Place {
    fn client(&self) -> Wire {
        self.proxy.connect(&self.database)
    }

    /// Tables that are there, and those that the history believes to be there; both must be the same.
    fn tables(&self) -> String {
        let there = self.server.psql(
            &self.database,
            "select string_agg(oid::regclass::text, ' ' order by oid::regclass::text) from (select oid from pg_class where relkind = 'r' and \
             relnamespace not in ('pggit'::regnamespace, 'pg_catalog'::regnamespace, 'information_schema'::regnamespace) \
             order by oid::regclass::text) t",
        );
        let believed = self.server.psql(
            &self.database,
            "select string_agg(objid::regclass::text, ' ' order by objid::regclass::text) from (select distinct on (objid) objid, change_type from (
                 select c.objid, h.change_type, h.created_at, h.ordinal from pggit.changes c join pggit.history h using (id)
                  where c.classid = 'pg_class'::regclass and c.object_type = 'table') x
             order by objid, created_at desc, ordinal desc) y where change_type <> 'DROP'",
        );
        assert_eq!(there, believed, "on {:?}", self.server.version);
        there
    }
}

fn codes(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag == b'E').filter_map(|message| message.field(b'C')).collect()
}

#[test]
fn every_isolation_level_gives_the_same_rows() {
    each(|it| {
        let mut client = it.client();
        for (n, level) in ["read committed", "repeatable read", "serializable"].iter().enumerate() {
            client.rows(&format!("begin isolation level {level}; select count(*) from pg_class"));
            // What others made after the snapshot is no hindrance.
            it.server.psql(&it.database, &format!("create table meanwhile{n} (a int)"));
            client.rows(&format!("create table made{n} (a int)"));
            client.rows(&format!("alter table made{n} add b int; drop table if exists nothing; commit"));
        }
        let rows = it.server.psql(
            &it.database,
            "select string_agg(change_type || ' ' || object_name, ', ' order by created_at, ordinal) from pggit.history where object_name like 'made%'",
        );
        assert_eq!(rows, "CREATE made0, ALTER made0, CREATE made1, ALTER made1, CREATE made2, ALTER made2");
    });
}

/// Who sees the catalogs as they were at the start of its transaction changes an object that others have changed since: once the
/// commit is sealed, its row says what became of the object. What was changed again cannot be told any more, and is not.
#[test]
fn what_a_first_snapshot_hides_is_put_right() {
    each(|it| {
        let (mut client, mut other) = (it.client(), it.client());
        let direct = |sql: &str| it.server.psql(&it.database, sql);
        for level in ["repeatable read", "serializable"] {
            other.rows("create schema old; create table old.t (a int, b varchar(10)); create table old.again (a int); create type old.e as enum ('x')");
            client.rows(&format!("begin isolation level {level}; select count(*) from pg_class"));
            other.rows("alter table old.t rename a to a2; alter table old.t alter b type varchar(20)");
            other.rows("alter table old.t add constraint positive check (a2 > 0); alter table old.t rename to t2; alter schema old rename to new");
            other.rows(
                "alter table new.again rename a to a2; alter type new.e add value 'y'; create table new.unseen (a int)",
            );
            client.rows("set local search_path = new; alter table t2 add c text not null default 'c'; alter table again add c int");
            client.rows("alter table unseen add c int; alter type e rename to f; create index on t2 (c); commit");
            other.rows("alter table new.again add d int");

            let sealed = || direct("select count(*) from pggit.unsealed()") == "0";
            assert!(eventually(PATIENCE, sealed), "{}", it.proxy.log());
            let last = "select distinct on (objid) * from pggit.changes where schema_name = 'new' order by objid, created_at desc, ordinal desc";
            let rows = format!(
                "select object_name, object_identity, new_definition = pggit.definition(classid, objid) from ({last}) l where action <> 'DROP' order by object_identity collate \"C\""
            );
            assert_eq!(
                direct(&rows),
                "again|new.again|t\nf|new.f|t\nt2|new.t2|t\nt2_c_idx|new.t2_c_idx|t\nunseen|new.unseen|t",
                "{level}"
            );
            let again = "select string_agg(coalesce(new_definition, 'not known'), ', ' order by created_at) from (
                select created_at, case when new_definition like '%,%' then 'known' when new_definition is not null then 'first' end as new_definition
                from pggit.changes where object_name = 'again' and objid in (select oid from pg_class)) x";
            assert_eq!(direct(again), "first, first, not known, known", "{level}");
            assert_eq!(direct("select count(*) from pggit.verify()"), "0");
            // Nor does the probe take the rows for a change that nobody recorded.
            for _ in 0..2 {
                direct("begin isolation level repeatable read; select suspected from pggit.probe(); commit");
            }
            assert_eq!(direct("select count(*) from pggit.history where captured_by = 'probe'"), "0", "{level}");
            other.rows("drop schema new cascade");
        }
    });
}

#[test]
fn no_serialization_failure_is_added() {
    each(|it| {
        let mut clients: Vec<Wire> = (0..4).map(|_| it.client()).collect();
        for client in &mut clients {
            client.rows("begin isolation level serializable");
            client.rows("select count(*) from pg_namespace");
        }
        for (n, client) in clients.iter_mut().enumerate() {
            client.rows(&format!("create table one{n} (a int)"));
            client.rows(&format!("create table two{n} (a int); drop table one{n}"));
        }
        for client in &mut clients {
            client.rows("commit");
        }
        assert_eq!(it.tables(), "two0 two1 two2 two3");
    });
}

#[test]
fn roles_and_paths_are_the_clients_affair() {
    each(|it| {
        let role = format!("{}_plain", it.database);
        let mut client = it.client();
        client.rows(&format!("create role {role}; create schema evil; create schema own authorization {role}"));
        // Functions and operators that would be found before the server's, if anything of ours were looked for by name.
        client.rows("create function evil.now() returns timestamptz language plpgsql as $$ begin raise exception 'hijacked'; end $$");
        client.rows("create function evil.current_setting(text, boolean) returns text language plpgsql as $$ begin raise exception 'hijacked'; end $$");
        client.rows("create function evil.concat_ws(text, variadic text[]) returns text language plpgsql as $$ begin raise exception 'hijacked'; end $$");
        client.rows("create table evil.pg_class (a int); create table evil.changes (a int)");
        client.rows("set search_path = evil, pg_catalog, public");
        client.rows("create table own.hostile (a int primary key)");
        client.rows(&format!("set role {role}"));
        client.rows("create table own.by_role (a int)");
        client.rows("reset role");
        client.rows(&format!("set session authorization {role}"));
        client.rows("create table own.by_authorization (a int); alter table own.by_authorization add b int");
        client.rows("reset session authorization");
        client.rows("set search_path = ''");
        client.rows("create table own.without_path (a int)");
        assert_eq!(
            it.tables(),
            "evil.changes evil.pg_class own.by_authorization own.by_role own.hostile own.without_path"
        );
        let role_names = it.server.psql(
            &it.database,
            "select string_agg(role_name, ' ' order by created_at) from pggit.history where object_name like 'by_%' and change_type = 'CREATE'",
        );
        assert_eq!(role_names, format!("{role} {role}"));
    });
}

#[test]
fn read_only_defaults_and_deferred_constraints_behave_as_without_us() {
    each(|it| {
        let mut client = it.client();
        client.rows("set default_transaction_read_only = on");
        assert_eq!(codes(&client.ask(&query("create table refused (a int)"))), ["25006"]);
        client.rows("begin read write; create table allowed (a int); commit");
        client.rows("set default_transaction_read_only = off");
        client.rows("create table node (id int primary key, up int references node deferrable initially deferred)");
        assert_eq!(codes(&client.ask(&query("insert into node values (1, 9); create table never (a int)"))), ["23503"]);
        client.rows("begin; insert into node values (1, 9); create table never (a int)");
        assert_eq!(codes(&client.ask(&query("commit"))), ["23503"]);
        client.rows("create or replace function f() returns int language plpgsql as $$ begin create table by_function (a int); return 1; end $$");
        assert_eq!(it.tables(), "allowed node");
    });
}

/// The timeout set before may cancel this, too.
fn set_timeout(client: &mut Wire, milliseconds: u32) {
    let set = query(&format!("set statement_timeout = '{milliseconds}ms'"));
    assert!(eventually(PATIENCE, || codes(&client.ask(&set)).is_empty()));
}

#[test]
fn timeouts_and_cancel_leave_both_or_neither() {
    each(|it| {
        let mut client = it.client();
        for n in 0..60 {
            set_timeout(&mut client, 1 + n % 6);
            let messages =
                client.ask(&query(&format!("create table timed{n} (a int primary key, b text default 'x')")));
            assert!(codes(&messages).iter().all(|code| code == "57014"), "{messages:?}");
        }
        set_timeout(&mut client, 0);
        client.rows("set lock_timeout = '50ms'; create table held (a int)");
        let mut holder = Wire::connect(it.server.address, &[("user", "postgres"), ("database", &it.database)]);
        holder.rows("begin; lock table held");
        assert_eq!(codes(&client.ask(&query("alter table held add b int"))), ["55P03"]);
        client.rows("set lock_timeout = 0");
        // Cancelled while it waits.
        let (pid, secret) = client.key();
        client.send(&query("alter table held add c int"));
        let waits = format!("select count(*) from pg_stat_activity where pid = {pid} and wait_event_type = 'Lock'");
        assert!(eventually(PATIENCE, || it.server.psql("postgres", &waits) == "1"));
        Wire::open(it.proxy.clients).cancel(pid, &secret);
        assert_eq!(codes(&client.read_until_ready()), ["57014"]);
        holder.rows("rollback");
        client.rows("alter table held add d int");
        it.tables();
        let columns = it.server.psql(
            &it.database,
            "select string_agg(change_type, ' ' order by created_at) from pggit.history where object_name = 'held'",
        );
        assert_eq!(columns, "CREATE ALTER");
    });
}

#[test]
fn a_definition_reads_the_same_whatever_the_client_prefers_to_read() {
    let statements = |schema: &str| {
        format!(
            "create table {schema}.t (d date check (d > '2020-02-01'), i interval default '1 day 2 hours', b bytea default E'\\\\x00ff', \
               at timestamptz default '2020-03-04 05:06:07+00', f float8 default 0.1, s text default E'a\\\\b') partition by range (at); \
             create table {schema}.p partition of {schema}.t for values from ('2020-01-01 00:00+00') to ('2021-01-01 00:00+00'); \
             create view {schema}.v as select d from {schema}.t where at > '2020-06-01 00:00+00' and s <> E'c\\\\d'; \
             create rule r as on update to {schema}.t where new.d > '2021-03-04' do also nothing"
        )
    };
    each(|it| {
        let mut client = it.client();
        client.rows("create schema plain; create schema other");
        client.rows(&statements("plain"));
        client.rows(
            "set DateStyle = 'German, DMY'; set TimeZone = 'Asia/Tokyo'; set IntervalStyle = 'sql_standard'; \
             set extra_float_digits = -5; set bytea_output = 'escape'; set quote_all_identifiers = on; \
             set standard_conforming_strings = off",
        );
        client.rows(&statements("other"));
        let definitions = |schema: &str| {
            it.server.psql(
                &it.database,
                &format!(
                    "select replace(new_definition, '{schema}.', '') from pggit.history where schema_name = '{schema}' \
                     and object_type in ('table', 'view', 'rule') and change_type = 'CREATE' order by object_type, object_name"
                ),
            )
        };
        let plain = definitions("plain");
        assert!(plain.contains("2020-02-01") && plain.contains("05:06:07+00"), "{plain}");
        assert_eq!(definitions("other"), plain);
        // The client still reads what it prefers, and is told nothing of our reading.
        let told = client.ask(&query("create table other.u (a int); show DateStyle"));
        assert!(told.iter().all(|message| message.tag != b'S'), "{told:?}");
        assert_eq!(
            client.value("select date '2020-02-01' || ' ' || current_setting('TimeZone')"),
            "01.02.2020 Asia/Tokyo"
        );
    });
}

/// What the recorder describes by itself: an index that was made concurrently; without event triggers, what went round the proxy.
#[test]
fn a_definition_reads_the_same_whatever_the_database_prefers_to_read() {
    each(|it| {
        let prefers =
            ["IntervalStyle = 'sql_standard'", "standard_conforming_strings = off", "quote_all_identifiers = on"];
        for setting in prefers {
            it.server.psql("postgres", &format!("alter database {} set {setting}", it.database));
        }
        let proxy = Proxy::start(it.server, &format!("[upstream]\ndbname = \"{}\"\n", it.database));
        let mut client = proxy.connect(&it.database);
        let index = |how: &str, name: &str| {
            format!("create index {how} {name} on t (s) where i > interval '1 day 2 hours' and s <> E'a\\\\b'")
        };
        client.rows("create table t (i interval, s text)");
        client.rows(&index("", "index_1"));
        client.rows(&index("concurrently", "index_2"));
        it.server.psql(&it.database, &index("", "index_3"));
        let definitions = || {
            it.server.psql(
                &it.database,
                "select string_agg(distinct replace(new_definition, object_name, 'index'), ' ') || count(*) from pggit.history \
                 where object_type = 'index'",
            )
        };
        let same = "CREATE INDEX index ON public.t USING btree (s) WHERE ((i > '1 day 02:00:00'::interval) AND (s <> 'a\\b'::text));3";
        assert!(eventually(PATIENCE, || definitions() == same), "{:?}: {}", it.server.version, definitions());
    });
}
