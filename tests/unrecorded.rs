//! When the history cannot be written: schema changes are refused with PG003 and leave nothing, everything else goes on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use support::wire::{bind, execute, extended, parse, query, sync};
use support::{Message, PATIENCE, PgServer, Proxy, Wire, eventually, migrate, psql_ok, versions};

const SHORT: &str = "[history]\ntimeout = \"300ms\"\n";

/// A repository whose branch was looked at already.
fn repository(server: &PgServer, config: &str) -> (String, Proxy) {
    let (database, proxy) = support::repository::repository(server, config);
    wait_for_first_look(&proxy);
    (database, proxy)
}

/// A change waits for the first look at its branch no longer than `history.timeout`, which is short here.
fn wait_for_first_look(proxy: &Proxy) {
    assert!(eventually(PATIENCE, || proxy.get("/readyz").0 == 200), "changes are recorded");
}

fn code(error: &Message) -> String {
    error.field(b'C').unwrap()
}

fn first_error(messages: &[Message]) -> Option<&Message> {
    messages.iter().find(|message| message.tag == b'E')
}

/// Until a schema change is refused with PG003; returns that error.
fn refused_soon(client: &mut Wire) -> Message {
    let mut found = None;
    eventually(PATIENCE, || {
        let messages = client.ask(&query("create table if not exists probe (); drop table probe"));
        found = first_error(&messages).cloned();
        found.is_some()
    });
    found.expect("schema changes are refused")
}

fn works_soon(client: &mut Wire) {
    assert!(
        eventually(PATIENCE, || first_error(
            &client.ask(&query("create table if not exists probe (); drop table probe"))
        )
        .is_none()),
        "schema changes work again"
    );
}

fn plain_traffic_goes_on(client: &mut Wire, proxy: &Proxy, database: &str) {
    let began = Instant::now();
    client.rows("insert into plain values (1)");
    client.rows("begin; update plain set a = a + 1; commit");
    client.rows("create temp table if not exists mine (a int)");
    assert_eq!(proxy.connect(database).value("select 1"), "1");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn what_breaks_a_branch_is_told_and_heals() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, proxy) = repository(server, SHORT);
        let sql = |sql: &str| server.psql(&database, sql);
        let mut client = proxy.connect(&database);
        client.rows("create table plain (a int)");
        client.ask(&[parse("s", "create table if not exists prepared ()", &[]), sync()].concat());

        sql("alter event trigger pggit_record_ddl disable");
        let error = refused_soon(&mut client);
        assert_eq!((code(&error).as_str(), error.field(b'S').unwrap().as_str()), ("PG003", "ERROR"));
        assert!(error.field(b'M').unwrap().contains("CREATE TABLE"), "{error:?}");
        assert!(error.field(b'D').unwrap().contains("pggit_record_ddl is disabled"), "{error:?}");
        assert!(error.field(b'H').unwrap().contains("SHOW HEALTH"), "{error:?}");
        plain_traffic_goes_on(&mut client, &proxy, &database);
        // Extended, prepared before, in a transaction, grants: all the same.
        assert_eq!(code(first_error(&client.ask(&extended("create table x ()", &[]))).unwrap()), "PG003");
        let messages = client.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat());
        assert_eq!(code(first_error(&messages).unwrap()), "PG003");
        assert_eq!(code(&client.error("grant select on plain to public")), "PG003");
        client.rows("begin");
        assert_eq!(code(&client.error("create table x ()")), "PG003");
        client.rows("rollback");
        assert!(proxy.control("show health message where ok = false").contains("pggit_record_ddl is disabled"));
        let (status, body) = proxy.get("/readyz");
        assert!(status == 503 && body.contains("pggit_record_ddl"), "{status} {body}");
        assert!(proxy.metric("pggit_proxy_history_failures_total").unwrap() >= 5.0);
        assert_eq!(sql("select to_regclass('x') is null"), "t");
        sql("alter event trigger pggit_record_ddl enable always");
        works_soon(&mut client);

        // The schema gone, and back.
        sql("drop schema pggit cascade");
        let error = refused_soon(&mut client);
        assert_eq!(code(&error), "PG003");
        assert!(error.field(b'D').unwrap().contains("migrate up"), "{error:?}");
        plain_traffic_goes_on(&mut client, &proxy, &database);
        migrate(server, &database);
        works_soon(&mut client);
        client.rows("create table after ()");
        assert_eq!(
            sql("select branch from pggit.history where object_name = 'after' and change_type = 'CREATE'"),
            "main"
        );
        assert!(eventually(PATIENCE, || proxy.get("/readyz").0 == 200));
        // The refusals that waited meanwhile are in the log, too.
        assert!(eventually(PATIENCE, || sql("select count(*) from pggit.statements where sqlstate = 'PG003'") != "0"));
    }
}

#[test]
fn a_recorder_that_may_not_log_in_stops_changes_only() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("app");
        migrate(server, &database);
        let recorder = format!("rec_{database}");
        server.psql("postgres", &format!("create role {recorder} superuser login"));
        let proxy =
            Proxy::start(server, &format!("[upstream]\ndbname = \"{database}\"\nuser = \"{recorder}\"\n{SHORT}"));
        wait_for_first_look(&proxy);
        let mut client = proxy.connect(&database);
        client.rows("create table plain (a int)");
        let hang_up = format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{recorder}'");
        server.psql("postgres", &format!("alter role {recorder} nologin; {hang_up}"));
        let error = refused_soon(&mut client);
        assert_eq!(code(&error), "PG003");
        assert!(error.field(b'D').unwrap().contains("not permitted to log in"), "{error:?}");
        plain_traffic_goes_on(&mut client, &proxy, &database);
        let began = Instant::now();
        assert_eq!(code(&client.error("create table x ()")), "PG003");
        assert!(began.elapsed() < Duration::from_secs(10), "history.timeout is 300ms");
        assert!(proxy.control("show health message where ok = false").contains("not permitted to log in"));
        server.psql("postgres", &format!("alter role {recorder} login"));
        works_soon(&mut client);
        assert!(eventually(PATIENCE, || proxy.get("/readyz").0 == 200));
        assert!(eventually(PATIENCE, || server
            .psql(&database, "select count(*) from pggit.statements where sql = 'create table x ()'")
            == "1"));
    }
}

#[test]
fn on_failure_allow_lets_changes_pass_and_counts_them() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, proxy) = repository(server, "[history]\non_failure = \"allow\"\n");
        server.psql(&database, "alter event trigger pggit_record_ddl disable");
        let mut client = proxy.connect(&database);
        assert!(eventually(PATIENCE, || proxy.control("show branches recording where name = 'main'") == "broken"));
        let before = proxy.metric("pggit_proxy_history_failures_total").unwrap();
        client.rows("create table passes ()");
        assert_eq!(proxy.metric("pggit_proxy_history_failures_total"), Some(before + 1.0));
        client.rows("select 1");
        assert_eq!(proxy.metric("pggit_proxy_history_failures_total"), Some(before + 1.0));
        assert_eq!(server.psql(&database, "select count(*) from pggit.history where object_name = 'passes'"), "0");
    }
}

#[test]
fn an_unmigrated_repository_never_hangs_anybody() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("bare");
        let config = format!(
            "[upstream]\ndbname = \"{database}\"\n[history]\nqueue = 50\ntimeout = \"500ms\"\n\
             [[rule]]\nname = \"no\"\ntag = \"COMMENT\"\naction = \"refuse\"\n"
        );
        let proxy = Proxy::start(server, &config);
        server.psql(&database, "create table plain (a int)");
        let mut client = proxy.connect(&database);
        let began = Instant::now();
        let pair = [query("comment on table plain is 'x'"), query("select 1")].concat();
        // Thousands, many of them in one packet, far more than the log's queue holds.
        for _ in 0..20 {
            client.send(&pair.repeat(100));
            for _ in 0..100 {
                assert_eq!(code(first_error(&client.read_until_ready()).unwrap()), "42501");
                assert!(first_error(&client.read_until_ready()).is_none());
            }
        }
        assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
        plain_traffic_goes_on(&mut client, &proxy, &database);
        let error = client.error("create table x ()");
        assert_eq!(code(&error), "PG003");
        assert!(error.field(b'D').unwrap().contains("migrate up"), "{error:?}");
        let health = proxy.control("show health message where ok = false");
        assert!(health.contains("migrate up") && health.contains("50 of"), "{health}");
        assert_eq!(proxy.metric("pggit_proxy_history_pending"), Some(50.0));
        // Once it is there, what waited is written.
        migrate(server, &database);
        works_soon(&mut client);
        assert!(eventually(PATIENCE, || proxy.metric("pggit_proxy_history_pending") == Some(0.0)));
        assert_eq!(server.psql(&database, "select count(*) > 0 from pggit.statements where rule = 'no'"), "t");
    }
}

#[test]
fn a_change_that_the_triggers_cannot_record_is_undone_and_told_as_ours() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, proxy) = repository(server, SHORT);
        let sql = |sql: &str| server.psql(&database, sql);
        let mut client = proxy.connect(&database);
        client.rows("create table t (a int)");
        sql("alter table pggit.changes add constraint broken check (object_name <> 'bad') not valid");
        let before = proxy.metric("pggit_proxy_history_failures_total").unwrap();

        let error = client.error("create table bad ()");
        assert_eq!(code(&error), "PG003");
        assert_eq!(error.field(b'S').unwrap(), "ERROR");
        assert_eq!(error.field(b'M').unwrap(), "CREATE TABLE refused: the history cannot be written");
        assert!(error.field(b'D').unwrap().contains("violates check constraint \"broken\""), "{error:?}");
        assert!(error.field(b'H').unwrap().contains("23514"), "{error:?}");
        // With others in one text, extended, in a transaction, in a function.
        assert_eq!(code(&client.error("create table good (); create table bad (); create table good2 ()")), "PG003");
        let messages = client.ask(&extended("create table bad ()", &[]));
        assert_eq!(code(first_error(&messages).unwrap()), "PG003");
        client.rows("begin; create table good3 (); savepoint s");
        assert_eq!(code(&client.error("alter table t rename to bad")), "PG003");
        client.rows("rollback to s; commit");
        let error = client.error("do $$ begin create table bad (); end $$");
        assert_eq!(
            (code(&error).as_str(), error.field(b'M').unwrap().as_str()),
            ("PG003", "change refused: the history cannot be written")
        );
        assert_eq!(proxy.metric("pggit_proxy_history_failures_total"), Some(before + 5.0));
        sql(
            "alter table pggit.changes drop constraint broken; alter table pggit.changes add constraint broken check (object_name <> 't') not valid",
        );
        assert_eq!(
            client.error("drop table t").field(b'M').unwrap(),
            "DROP TABLE refused: the history cannot be written"
        );
        sql("alter table pggit.changes drop constraint broken");

        // The history's table is locked by somebody, and the client does not wait for ever.
        let mut holder = Wire::connect(server.address, &[("user", "postgres"), ("database", &database)]);
        holder.rows("begin; lock table pggit.changes in access exclusive mode");
        assert_eq!(code(&client.error("create table locked ()")), "PG003", "within the configured time");
        client.rows("set lock_timeout = '100ms'");
        let error = client.error("create table locked ()");
        assert_eq!(code(&error), "PG003");
        assert!(error.field(b'H').unwrap().contains("55P03"), "{error:?}");
        // Cancelled is cancelled, whatever it was doing.
        client.rows("set lock_timeout = 0; set statement_timeout = '100ms'");
        assert_eq!(code(&client.error("create table locked ()")), "57014");
        client.rows("set statement_timeout = 0");
        // The client's own lock timeout on its own table is its own.
        holder.rows("rollback; begin; lock table t");
        client.rows("set lock_timeout = '100ms'");
        assert_eq!(code(&client.error("alter table t add b int")), "55P03");
        holder.rows("rollback");

        assert_eq!(
            sql(
                "select string_agg(relname, ',' order by relname) from pg_class where relnamespace = 'public'::regnamespace"
            ),
            "good3,t"
        );
        assert!(eventually(PATIENCE, || proxy.metric("pggit_proxy_history_pending") == Some(0.0)));
        assert_eq!(
            sql(
                "select string_agg(command_tag || ' ' || outcome || ' ' || coalesce(sqlstate, ''), ', ' order by started_at, id) \
                 from pggit.statements where sql like '%bad%' or sql like '%good%'"
            ),
            "CREATE TABLE failed PG003, CREATE TABLE rolled_back PG003, CREATE TABLE failed PG003, CREATE TABLE failed PG003, \
             CREATE TABLE applied , ALTER TABLE failed PG003"
        );
        assert!(sql("select error from pggit.statements where sql like '%bad%' limit 1").contains("broken"));
        // It is over as soon as it can be written again.
        assert_eq!(
            psql_ok(
                &proxy.dsn(&database),
                "create table bad (); select count(*) from pggit.history where object_name = 'bad'"
            ),
            "1"
        );
    }
}
