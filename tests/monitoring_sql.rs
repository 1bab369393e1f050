//! Monitoring through SQL: the checks say what is wrong, the metrics are what Prometheus reads, operators record their own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{PATIENCE, PgServer, Repository, Wire, eventually, migrate, psql, versions, wire};

const MANUAL: &str = include_str!("../docs/operations/MONITORING.md");

fn check(server: &PgServer, database: &str, name: &str) -> String {
    server.psql(
        database,
        &format!("select status || ': ' || message from pggit.health_check() where check_name = '{name}'"),
    )
}

/// The value of a sample, by the beginning of its line.
fn sample(server: &PgServer, database: &str, series: &str) -> Option<String> {
    let exported = server.psql(database, "select pggit.prometheus_metrics()");
    exported.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
}

/// What promtool says of a text; nothing where it is well. `make test` fetches it where it is not installed.
fn promtool(text: &str) -> String {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/bin/promtool");
    let mut child = Command::new(if fetched.exists() { fetched } else { "promtool".into() })
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error}"));
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() { said } else { format!("{}: {said}", output.status) }
}

#[test]
fn the_metrics_are_what_prometheus_reads() {
    for version in versions() {
        let it = Repository::new(version, "");
        let server = it.server;
        it.client().ask(&wire::query("create table monitored (a int); create view seen as select * from monitored"));
        it.sql(
            "analyze pggit.changes;
             select pggit.record_metric('nightly_dump_bytes', 5);
             select pggit.record_metric('nightly_dump_bytes', 1.5e12);
             select pggit.record_metric('nightly_runs_total', 3, '{\"host\": \"a\\\"b\\\\c\\nd\", \"is_whole\": true, \"n\": 2}');
             select pggit.record_metric('nightly_runs_total', 'NaN', '{\"host\": \"ü\"}');
             select pggit.record_metric('nightly_limit', '-Infinity')",
        );
        let sealed = || sample(server, &it.database, "pggit_commits_unsealed").as_deref() == Some("0");
        assert!(eventually(PATIENCE, sealed), "{}", it.proxy.log());
        let told = |series: &str| sample(server, &it.database, series);
        let exported = it.sql("select pggit.prometheus_metrics()");
        for (series, value) in [
            ("pggit_commits_total", it.sql("select count(*) from pggit.commits")),
            ("pggit_changes_last_day", it.sql("select count(*) from pggit.changes")),
            ("pggit_relations", "2".into()),
            ("pggit_proxies", "1".into()),
            ("pggit_intents_open", "0".into()),
            ("pggit_health_status{check=\"event_triggers\"}", "0".into()),
            ("pggit_table_rows_estimate{table=\"changes\"}", it.sql("select count(*) from pggit.changes")),
            ("nightly_dump_bytes", "1500000000000".into()),
            ("nightly_runs_total{host=\"a\\\"b\\\\c\\nd\",is_whole=\"true\",n=\"2\"}", "3".into()),
            ("nightly_runs_total{host=\"ü\"}", "NaN".into()),
            ("nightly_limit", "-Inf".into()),
        ] {
            // Of what Prometheus reads as one number there are several forms.
            let got =
                told(series).map(|got| got.parse::<f64>().unwrap_or_else(|_| panic!("{series} {got}")).to_string());
            let expected = value.parse::<f64>().unwrap().to_string();
            assert_eq!(got.as_deref(), Some(expected.as_str()), "{series} in\n{exported}");
        }
        let heartbeat = it.sql("select 'pggit_heartbeat_timestamp_seconds{proxy=\"' || proxy || '\",version=\"' || version || '\"}' from pggit.heartbeats");
        assert!(told(&heartbeat).is_some(), "{heartbeat}\n{exported}");
        // The manual tells of each metric and each check.
        let metrics = exported.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let checks = it.sql("select check_name from pggit.health_check()");
        for name in metrics.filter(|name| name.starts_with("pggit_")).chain(checks.lines()) {
            assert!(MANUAL.contains(&format!("`{name}`")), "the manual says nothing of {name}");
        }
        assert_eq!(promtool(&format!("{exported}\n")), "", "{exported}");
        let broken = exported.replace("pggit_commits_total ", "pggit_commits_total{ ");
        assert_ne!(promtool(&format!("{broken}\n")), "", "promtool looks at nothing");
    }
}

#[test]
fn the_checks_say_what_is_wrong() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("checked");
        migrate(server, &database);
        let said = |name: &str| check(server, &database, name);
        assert!(said("proxy_heartbeat").starts_with("warning: no proxy has been here"));
        server.psql(&database, "select pggit.note_heartbeat('a/1', '1'); select pggit.note_heartbeat('a/2', '1')");
        assert_eq!(said("proxy_heartbeat"), "ok: 2 proxies look after this database");
        server.psql(&database, "update pggit.heartbeats set beat_at = now() - interval '3 minutes'");
        assert!(said("proxy_heartbeat").starts_with("warning: no proxy has been here since 2"));
        // Who has been gone for a day is forgotten.
        server.psql(&database, "update pggit.heartbeats set beat_at = now() - interval '25 hours' where proxy = 'a/1'; select pggit.note_heartbeat('a/2', '2')");
        assert_eq!(server.psql(&database, "select proxy || version from pggit.heartbeats"), "a/22");

        assert!(said("intents").starts_with("ok: 0 "));
        let intent = |opened: &str, pid: &str, place: &str| {
            format!(
                "insert into pggit.intents (id, session_id, branch, database, command_tag, class, object_names, sql, created_by, application_name, proxy, backend_pid, since, opened_at)
                 select gen_random_uuid(), gen_random_uuid(), 'main', oid, 'REINDEX', 'ddl', '{{}}', 'x', 'x', 'x', 'x', {pid}, '3', now() - interval '{opened}'
                   from pg_database where datname = '{place}';"
            )
        };
        // Under way; not minutes ago; of the database that this one is a copy of.
        let alive = "(select pid from pg_stat_activity where backend_type = 'checkpointer')";
        server.psql(
            &database,
            &(intent("1 hour", alive, &database)
                + &intent("1 minute", "2147483647", &database)
                + &intent("1 hour", "2147483647", "postgres")),
        );
        assert_eq!(said("intents"), "ok: 2 statements that cannot run in a transaction are under way");
        server.psql(&database, &intent("1 hour", "2147483647", &database));
        assert!(said("intents").starts_with("warning: 1 statements ended"), "{}", said("intents"));

        assert!(said("probe").starts_with("ok: the catalogs are as the history has them"));
        server.psql(&database, "insert into pggit.probe_suspects (classid, objid, action) values (1259, 1, 'DROP')");
        assert!(said("probe").starts_with("warning: 1 objects are not"));
        server.psql(&database, "delete from pggit.probe_suspects; insert into pggit.changes (action, command_tag, object_type, captured_by) values ('ALTER', 'ALTER TABLE', 'table', 'probe')");
        assert!(said("probe").starts_with("warning: 1 changes of the last 24 hours"));

        assert!(said("backups").starts_with("ok: "));
        // Somebody else's schema of such a name is not ours.
        let other = format!("other_{database}");
        server.psql(
            &database,
            &format!("create role {other}; create schema pggit_backup_99 authorization {other}; create table pggit_backup_99.t as select 1"),
        );
        let before = server.psql(&database, "select (pggit.kept_backups()).schemas");
        server.psql(
            &database,
            "insert into pggit.upgrade_log (from_version, to_version, started_at, program, backup, status) values (1, 2, now() - interval '31 days', 'x', 'pggit_backup_98', 'completed');
             create schema pggit_backup_98; create table pggit_backup_98.t as select 1",
        );
        assert_eq!(server.psql(&database, &format!("select (pggit.kept_backups()).schemas - {before}")), "1");
        assert!(said("backups").starts_with("warning: "), "{}", said("backups"));
        let due = "select task from pggit.maintenance_status where due order by 1";
        assert_eq!(server.psql(&database, due), "backups of migrations\nlost statements");
        let overview = server.psql(
            &database,
            "select status, cardinality(problems), database = current_database() from pggit.system_overview",
        );
        assert_eq!(overview, "warning|3|t");
    }
}

#[test]
fn a_proxy_gives_signs_of_life_in_every_branch() {
    let it = Repository::new(versions()[0], "");
    let alive = || check(it.server, &it.database, "proxy_heartbeat").starts_with("ok: 1 ");
    assert!(eventually(PATIENCE, alive), "{}", it.proxy.log());
    let seen = it.sql(
        "select proxy like '%/' || $$PID$$ from pggit.heartbeats".replace("PID", &it.proxy.pid().to_string()).as_str(),
    );
    assert_eq!(seen, "t");
}

#[test]
fn what_is_recorded_is_kept_until_it_is_cleaned_up() {
    let server = PgServer::shared(versions()[0]);
    let database = server.unique_database("recorded");
    migrate(server, &database);
    let sql = |sql: &str| server.psql(&database, sql);
    for (odd, why) in [
        ("'a b', 1", "name"),
        ("'1a', 1", "name"),
        ("E'a\\n# TYPE b', 1", "name"),
        ("'pggit_info', 1", "pggit_"),
        ("repeat('a', 201), 1", "name"),
        ("'a', null", "needs"),
        ("'a', 1, null", "needs"),
        ("'a', 1, '[1]'", "labels"),
        ("'a', 1, '{\"b c\": 1}'", "labels"),
        ("'a', 1, '{\"__name__\": \"x\"}'", "labels"),
        ("'a', 1, '{\"b\": {\"c\": 1}}'", "labels"),
        ("'a', 1, '{\"b\": null}'", "labels"),
        ("'a', 1, jsonb_build_object('b', repeat('x', 1000))", "labels"),
    ] {
        let output = server.try_psql(&database, &format!("select pggit.record_metric({odd})"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{odd}: {said}");
    }
    assert_eq!(sql("select count(*) from pggit.metrics"), "0");
    sql(
        "select pggit.record_metric('a', n, '{\"b\": 1}') from generate_series(1, 3) n; select pggit.record_metric('a', 9)",
    );
    sql("update pggit.metrics set recorded_at = now() - interval '40 days' where value = 1");
    assert_eq!(
        sql("select name, labels, samples, last_value, min, max, avg from pggit.metrics_summary order by samples"),
        "a|{}|1|9|9|9|9\na|{\"b\": 1}|3|3|1|3|2"
    );
    assert_eq!(sql("select name, labels, value from pggit.newest_metrics()"), "a|{}|9\na|{\"b\": 1}|3");
    assert_eq!(sql("select pggit.cleanup_old_metrics(41)"), "0");
    assert_eq!(sql("select pggit.cleanup_old_metrics()"), "1");
    assert!(!server.try_psql(&database, "select pggit.cleanup_old_metrics(-1)").status.success());
    assert_eq!(sql("select count(*), min(recorded_by) from pggit.metrics"), "3|postgres");
}

#[test]
fn only_whom_the_owner_lets_records() {
    let it = Repository::new(versions()[0], "");
    let (plain, operator) = (format!("plain_{}", it.database), format!("operator_{}", it.database));
    it.sql(&format!(
        "create role {plain} login; create role {operator} login;
         grant execute on function pggit.record_metric(text, double precision, jsonb) to {operator}"
    ));
    let url = |user: &str| {
        let address = it.server.address;
        format!("host={} port={} user={user} dbname={}", address.ip(), address.port(), it.database)
    };
    for sql in [
        "select pggit.record_metric('a', 1)",
        "select pggit.cleanup_old_metrics(0)",
        "select pggit.note_heartbeat('a', 'b')",
        "select * from pggit.health_check()",
        "select * from pggit.prometheus_metrics()",
        "select * from pggit.system_overview",
        "insert into pggit.metrics (name, value) values ('a', 1)",
    ] {
        let said = psql(&url(&plain), sql);
        assert!(String::from_utf8_lossy(&said.stderr).contains("42501"), "{sql} is allowed");
    }
    assert!(psql(&url(&operator), "select pggit.record_metric('a', 1)").status.success());
    assert_eq!(it.sql("select recorded_by from pggit.metrics"), operator);

    // Through the proxy everybody reads what he may, and nobody writes.
    let mut client = Wire::connect(it.proxy.clients, &[("user", "postgres"), ("database", &it.database)]);
    for sql in [
        "select * from pggit.system_overview",
        "select * from pggit.maintenance_status",
        "select * from pggit.metrics_summary",
        "select * from pggit.health_check()",
        "select pggit.prometheus_metrics()",
    ] {
        let said = format!("{:?}", client.ask(&wire::query(sql)));
        assert!(!said.contains("ERROR"), "{sql}: {said}");
    }
    for sql in [
        "select pggit.record_metric('a', 1)",
        "select pggit.cleanup_old_metrics(0)",
        "select pggit.note_heartbeat('a', 'b')",
        "delete from pggit.metrics",
    ] {
        let said = format!("{:?}", client.ask(&wire::query(sql)));
        assert!(said.contains("42501"), "{sql}: {said}");
    }
    assert_eq!(it.sql("select count(*) from pggit.metrics"), "1");
}

/// A history of many rows costs a scrape what one of few does.
#[test]
fn a_scrape_does_not_go_over_the_history() {
    let server = PgServer::shared(versions()[0]);
    let database = server.unique_database("scraped");
    migrate(server, &database);
    server.psql(
        &database,
        "insert into pggit.changes (action, command_tag, object_type, object_identity, objid, classid, created_at, xid)
         select 'ALTER', 'ALTER TABLE', 'table', 'public.t' || i, 100000 + i, 1259, now() - interval '2 days', '3' from generate_series(1, 50000) i;
         update pggit.seal_state set seen = pg_current_snapshot(), place = pggit.place(); vacuum analyze pggit.changes",
    );
    let reads = "select seq_scan, seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relid = 'pggit.changes'::regclass";
    for scrape in [
        "select count(*) from pggit.prometheus_metrics()",
        "select count(*) from pggit.system_overview",
        "select count(*) from pggit.maintenance_status",
    ] {
        let read = server.psql(&database, &format!("begin; {scrape}; {reads}; commit"));
        let (scans, rows) = read.lines().last().unwrap().split_once('|').unwrap();
        let rows: u64 = rows.parse().unwrap();
        assert!(scans == "0" && rows < 1000, "{scrape} reads {rows} rows, {scans} of them scans");
    }
}
