//! The recorder on real servers: the statement log, branches and freezes, what it knows of each branch.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use pggit_proxy::branch::{Branch, Branches, Origin};
use pggit_proxy::change::{Outcome, Recording, SessionFacts, StatementFact, VerdictKind};
use pggit_proxy::config::{Capture, Config};
use pggit_proxy::history::{History, migrate};
use pggit_proxy::sql::Class;
use sqlx::Connection as _;
use support::{PATIENCE, Pg, PgServer, versions};
use uuid::Uuid;

/// The configuration of a proxy whose main database is this one.
fn config(server: &PgServer, database: &str) -> Config {
    let mut config = Config::default();
    config.upstream.host = server.address.ip().to_string();
    config.upstream.port = server.address.port();
    config.upstream.dbname = database.to_owned();
    config.upstream.user = "postgres".to_owned();
    config.branches.default = "main".to_owned();
    config
}

fn start(config: &Config) -> History {
    History::start(config, || {})
}

async fn installed(server: &PgServer, database: &str) {
    let mut connection = sqlx::PgConnection::connect(&server.url(database)).await.unwrap();
    let how = migrate::Up { to: None, capture: Capture::Auto, adopt: false };
    migrate::up(&mut connection, how, &mut |_| {}).await.unwrap();
}

async fn down(server: &PgServer, database: &str) {
    let mut connection = sqlx::PgConnection::connect(&server.url(database)).await.unwrap();
    migrate::down(&mut connection, Some(0), &mut |_| {}).await.unwrap();
    migrate::prune(&mut connection, true).await.unwrap();
}

/// Polls until the condition holds.
async fn until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + deadline;
    while !condition() {
        assert!(tokio::time::Instant::now() < end, "waited {deadline:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn fact(number: usize) -> StatementFact {
    let session = SessionFacts {
        id: Uuid::now_v7(),
        user: "alice".into(),
        database: "app".into(),
        branch: Some("main".into()),
        client_addr: Some("192.0.2.7".parse().unwrap()),
        client_port: 40_000,
        rerouted: None,
    };
    StatementFact {
        id: Uuid::now_v7(),
        session: Arc::new(session),
        tag: "CREATE TABLE",
        class: Class::Ddl,
        sql: format!("create table t{number} ()"),
        verdict: VerdictKind::Allow,
        rule: None,
        outcome: Outcome::Applied,
        sqlstate: None,
        error: None,
        application_name: "test".into(),
        rerouted_to: None,
        request: None,
        started_at: SystemTime::now(),
        duration: Duration::from_micros(1500),
    }
}

fn branch(name: &str, database: &str) -> Arc<Branch> {
    let (name, database) = (name.to_owned(), database.to_owned());
    Arc::new(Branch { name, database, protected: false, parent: None, origin: Origin::Configuration })
}

fn branches(repository: &str, all: Vec<Arc<Branch>>) -> Branches {
    Branches { repository: repository.to_owned(), default: "main".to_owned(), all }
}

/// The rows' own order is the order they were written in.
const NUMBERS: &str = "select string_agg(substr(sql, 15, length(sql) - 17), ',' order by ctid) from pggit.statements";

fn numbers(upto: usize) -> String {
    (0..upto).map(|number| number.to_string()).collect::<Vec<_>>().join(",")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_becomes_a_row() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("fact");
        installed(server, &database).await;
        let history = start(&config(server, &database));
        let mut refused = fact(1);
        refused.verdict = VerdictKind::Refuse;
        refused.outcome = Outcome::Refused;
        refused.rule = Some("no ddl".into());
        refused.sqlstate = Some("42501".into());
        refused.error = Some("not here".into());
        history.log(refused).unwrap();
        assert!(history.flush(PATIENCE).await);
        let row = server.psql(
            &database,
            "select database, branch, command_tag, class, sql, verdict, rule, outcome, sqlstate, error, created_by,
                    application_name, client_addr, client_port, duration_ms, proxy ~ '/[0-9]+$', started_at > now() - '1min'::interval
             from pggit.statements",
        );
        assert_eq!(
            row,
            "app|main|CREATE TABLE|ddl|create table t1 ()|refuse|no ddl|refused|42501|not here|alice|test|192.0.2.7|40000|1.5|t|t"
        );
        let rows = history.statements(10).await.unwrap();
        assert_eq!(rows.columns.len(), 20);
        let value = |name: &str| rows.rows[0][rows.columns.iter().position(|column| column == name).unwrap()].clone();
        assert_eq!(value("rule").as_deref(), Some("no ddl"));
        assert!(value("started_at").unwrap().ends_with("+00"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_survive_a_server_restart_in_order_and_once() {
    for version in versions() {
        let mut server = PgServer::start(version);
        installed(&server, "postgres").await;
        let history = start(&config(&server, "postgres"));
        for number in 0..300 {
            history.log(fact(number)).unwrap();
        }
        // Crashes at whatever point the writer is.
        tokio::task::block_in_place(|| server.stop());
        for number in 300..1500 {
            history.log(fact(number)).unwrap();
        }
        assert!(!history.flush(Duration::from_millis(300)).await, "nobody is there to take them");
        assert!(history.pending() >= 1200);
        tokio::task::block_in_place(|| server.restart());
        assert!(history.flush(PATIENCE).await);
        assert_eq!(history.pending(), 0);
        assert_eq!(server.psql("postgres", NUMBERS), numbers(1500));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_loses_no_fact() {
    let server = PgServer::shared(Pg::V15);
    let database = server.unique_database("lost");
    installed(server, &database).await;
    let history = start(&config(server, &database));
    let killer = format!("select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = '{database}'");
    for round in 0..10 {
        for number in 0..50 {
            history.log(fact(round * 50 + number)).unwrap();
        }
        tokio::task::block_in_place(|| server.psql("postgres", &killer));
    }
    assert!(history.flush(PATIENCE).await);
    assert_eq!(server.psql(&database, NUMBERS), numbers(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_hands_back_and_goes_on_when_the_schema_comes() {
    let server = PgServer::shared(Pg::V15);
    let database = server.unique_database("full");
    let mut config = config(server, &database);
    config.history.queue = 3;
    let history = start(&config);
    for number in 0..3 {
        history.log(fact(number)).unwrap();
    }
    assert_eq!(history.log(fact(3)).unwrap_err().sql, "create table t3 ()");
    until("health tells why", PATIENCE, || {
        history.health().iter().any(|row| row.check == "statement log" && !row.ok && row.message.contains("migrate up"))
    })
    .await;
    let waiting = tokio::spawn({
        let history = history.clone();
        async move { history.log_wait(fact(3)).await }
    });
    installed(server, &database).await;
    tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert!(history.flush(PATIENCE).await);
    assert_eq!(server.psql(&database, NUMBERS), numbers(4));
    until("health is well", PATIENCE, || history.health().iter().all(|row| row.ok)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_texts_are_stored_and_hold_nobody_up() {
    let server = PgServer::shared(Pg::V15);
    let database = server.unique_database("latin");
    server.psql("postgres", &format!("drop database {database}"));
    let create = format!("create database {database} encoding latin1 locale 'C' template template0");
    server.psql("postgres", &create);
    installed(server, &database).await;
    let history = start(&config(server, &database));
    for (number, text) in ["plain", "nul\0here", "é", "snow ☃", "after"].into_iter().enumerate() {
        let mut fact = fact(number);
        fact.sql = text.to_owned();
        history.log(fact).unwrap();
    }
    assert!(history.flush(PATIENCE).await);
    let rows = server
        .psql(&database, "set client_encoding = utf8; select string_agg(sql, ',' order by ctid) from pggit.statements");
    assert_eq!(rows, "plain,nul\\u{0}here,é,snow \\u{2603},after");

    let database = server.unique_database("utf");
    installed(server, &database).await;
    let history = start(&config(server, &database));
    let mut fact = fact(0);
    fact.sql = "nul\0here ☃".to_owned();
    history.log(fact).unwrap();
    assert!(history.flush(PATIENCE).await);
    assert_eq!(server.psql(&database, "select sql from pggit.statements"), "nul\u{FFFD}here ☃");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_is_ready_only_while_its_changes_are_recorded() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (main, other) = (server.unique_database("ready"), server.unique_database("other"));
        installed(server, &main).await;
        let history = start(&config(server, &main));
        history.watch_branches(&branches(&main, vec![branch("main", &main), branch("other", &other)]));
        assert_eq!(history.recording("other"), Recording::Broken);
        assert!(matches!(history.wait_recording("main", PATIENCE).await, Recording::Ready(_)));
        assert_eq!(history.broken_because("main"), "");

        assert_eq!(history.wait_recording("other", Duration::from_millis(300)).await, Recording::Broken);
        let reason = history.broken_because("other");
        assert!(reason.contains("schema pggit is not there"), "{reason}");
        installed(server, &other).await;
        assert!(matches!(history.wait_recording("other", PATIENCE).await, Recording::Ready(_)));

        for database in [&main, &other] {
            let name = if *database == main { "main" } else { "other" };
            for (breaking, mending, words) in [
                (
                    "alter event trigger pggit_record_ddl disable",
                    "alter event trigger pggit_record_ddl enable",
                    "pggit_record_ddl is disabled",
                ),
                (
                    "alter event trigger pggit_record_drop enable replica",
                    "alter event trigger pggit_record_drop enable always",
                    "pggit_record_drop is disabled",
                ),
                (
                    "update pggit.migrations set success = false where version = (select max(version) from pggit.migrations)",
                    "update pggit.migrations set success = true",
                    "expected",
                ),
            ] {
                server.psql(database, breaking);
                until("it is broken", Duration::from_secs(3), || history.recording(name) == Recording::Broken).await;
                let reason = history.broken_because(name);
                assert!(reason.contains(words), "{reason}");
                assert!(
                    history.health().iter().any(|row| row.branch == name && !row.ok && row.message.contains(words))
                );
                server.psql(database, mending);
                let ready = history.wait_recording(name, Duration::from_secs(3)).await;
                assert!(matches!(ready, Recording::Ready(_)), "{}", history.broken_because(name));
            }
        }
        down(server, &other).await;
        until("it is broken", Duration::from_secs(3), || history.recording("other") == Recording::Broken).await;
        assert!(matches!(history.recording("main"), Recording::Ready(_)));
        assert_eq!(history.recording("nobody"), Recording::Broken);
        assert!(history.broken_because("nobody").contains("not known"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_a_branch_does_not_stand_in_the_way_of_its_removal() {
    let server = PgServer::shared(Pg::V15);
    let (main, other) = (server.unique_database("stay"), server.unique_database("go"));
    installed(server, &main).await;
    installed(server, &other).await;
    let history = start(&config(server, &main));
    history.watch_branches(&branches(&main, vec![branch("main", &main), branch("other", &other)]));
    assert!(matches!(history.wait_recording("other", PATIENCE).await, Recording::Ready(_)));
    server.psql("postgres", &format!("create database {other}_copy template {other}"));
    server.psql("postgres", &format!("drop database {other}"));
    until("it is broken", Duration::from_secs(5), || history.recording("other") == Recording::Broken).await;
    assert!(history.broken_because("other").contains("does not exist"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_later_is_found() {
    let mut server = PgServer::start(Pg::V15);
    installed(&server, "postgres").await;
    tokio::task::block_in_place(|| server.stop());
    let history = start(&config(&server, "postgres"));
    history.log(fact(0)).unwrap();
    assert_eq!(history.wait_recording("main", Duration::from_millis(300)).await, Recording::Broken);
    assert!(history.broken_because("main").contains("cannot connect"), "{}", history.broken_because("main"));
    let error = history.freeze("main", "ops").await.unwrap_err().to_string();
    assert!(error.contains("cannot connect"), "{error}");
    assert!(history.freezes().is_empty(), "what is not recorded is not in force");
    tokio::task::block_in_place(|| server.restart());
    assert!(matches!(history.wait_recording("main", PATIENCE).await, Recording::Ready(_)));
    assert!(history.flush(PATIENCE).await);
    until("all is well", PATIENCE, || history.health().iter().all(|row| row.ok)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_reaches_other_proxies_and_outlives_this_one() {
    let server = PgServer::shared(Pg::V15);
    let database = server.unique_database("freeze");
    installed(server, &database).await;
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = |seen: &Arc<AtomicUsize>| {
        let seen = seen.clone();
        move || {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    };
    let (one, two) = (History::start(&config(server, &database), counted(&seen)), start(&config(server, &database)));
    until("both have read", PATIENCE, || !one.branch_rows().is_empty() && !two.branch_rows().is_empty()).await;

    let before = seen.load(Ordering::SeqCst);
    assert!(one.freeze("main", "ops").await.unwrap());
    assert_eq!(one.freezes().len(), 1, "in force at once");
    assert!(seen.load(Ordering::SeqCst) > before);
    assert!(!one.freeze("main", "somebody else").await.unwrap());
    // Sooner than the next reading without a notification.
    until("the other one knows", PATIENCE, || two.freezes().len() == 1).await;
    assert_eq!(two.freezes()[0].by, "ops");

    drop(one);
    let three = start(&config(server, &database));
    until("a new one reads it", PATIENCE, || three.freezes().len() == 1).await;
    assert!(three.thaw("main", "boss").await.unwrap());
    assert!(!three.thaw("main", "boss").await.unwrap());
    assert!(three.freezes().is_empty());
    until("the other one knows", PATIENCE, || two.freezes().is_empty()).await;
    assert!(two.freeze("main", "ops").await.unwrap());
    let kept = server.psql(&database, "select frozen_by, lifted_by from pggit.freezes order by frozen_at");
    assert_eq!(kept, "ops|boss\nops|");
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_are_declared_to_the_table_and_read_from_it() {
    let server = PgServer::shared(Pg::V15);
    let (database, other) = (server.unique_database("rows"), server.unique_database("rowsother"));
    installed(server, &database).await;
    installed(server, &other).await;
    let history = start(&config(server, &database));
    let declared = vec![branch("main", &database), branch("declared", "somewhere")];
    history.watch_branches(&branches(&database, declared));
    let rows = "select name, database, status, origin from pggit.branches order by name";
    until("they are declared", PATIENCE, || server.psql(&database, rows).lines().count() == 2).await;
    assert_eq!(
        server.psql(&database, rows),
        format!("declared|somewhere|active|configuration\nmain|{database}|active|table")
    );

    server.psql(
        &database,
        &format!("insert into pggit.branches (name, parent, database) values ('feature/x', 'main', '{other}')"),
    );
    until("the row is read", PATIENCE, || history.branch_rows().len() == 2).await;
    let row = history.branch_rows().into_iter().find(|row| row.name == "feature/x").unwrap();
    let expected = Branch {
        name: "feature/x".into(),
        database: other.clone(),
        protected: false,
        parent: Some("main".into()),
        origin: Origin::Table,
    };
    assert_eq!(row, expected);
    // Rows are there a moment before their branches are looked after.
    until("it is recorded", PATIENCE, || matches!(history.recording("feature/x"), Recording::Ready(_))).await;
    server.psql(&database, "update pggit.branches set status = 'dropped' where name = 'feature/x'");
    until("it is gone", PATIENCE, || history.branch_rows().len() == 1).await;
    assert_eq!(history.recording("feature/x"), Recording::Broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_branch_is_read_from_its_database() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (main, other) = (server.unique_database("hist"), server.unique_database("histother"));
        installed(server, &main).await;
        installed(server, &other).await;
        let history = start(&config(server, &main));
        history.watch_branches(&branches(&main, vec![branch("main", &main), branch("other", &other)]));
        server.psql(&other, "create table public.first (a int)");
        server.psql(&other, "alter table public.first add b text");
        let rows = history.history("other", 10).await.unwrap();
        let column = |name: &str| rows.columns.iter().position(|column| column == name).unwrap();
        let value = |row: usize, name: &str| rows.rows[row][column(name)].clone().unwrap_or_default();
        assert_eq!((value(0, "command_tag"), value(0, "object_name")), ("ALTER TABLE".into(), "first".into()));
        assert_eq!((value(1, "command_tag"), value(1, "via_proxy")), ("CREATE TABLE".into(), "f".into()));
        assert_eq!(history.history("other", 1).await.unwrap().rows.len(), 1);
        let main = history.history("main", 10).await.unwrap().rows;
        assert!(main.iter().all(|row| row[column("object_name")].as_deref() != Some("first")));
        assert!(history.history("nobody", 10).await.unwrap_err().to_string().contains("not known"));
        down(server, &other).await;
        let error = history.history("other", 10).await.unwrap_err().to_string();
        assert!(error.contains("run `pggit-proxy migrate up"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_recorder_leaves_no_connection() {
    let server = PgServer::shared(Pg::V15);
    let database = server.unique_database("gone");
    installed(server, &database).await;
    let history = start(&config(server, &database));
    assert!(matches!(history.wait_recording("main", PATIENCE).await, Recording::Ready(_)));
    let count = "select count(*) from pg_stat_activity where application_name = 'pggit-proxy' and datname = ";
    let count = format!("{count}'{database}'");
    assert_ne!(server.psql("postgres", &count), "0");
    drop(history);
    until("they are closed", PATIENCE, || server.psql("postgres", &count) == "0").await;
}
