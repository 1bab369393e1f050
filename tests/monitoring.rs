//! The dashboard and the alerts ask for what the proxy exports, and the manual says what to do about each alert.
//! `make test-monitoring` has Prometheus' own promtool fire each of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;

use support::repository::repository;
use support::{PATIENCE, PgServer, eventually, versions};

const ALERTS: &str = include_str!("../packaging/monitoring/alerts.yml");
const ALERT_TESTS: &str = include_str!("../packaging/monitoring/alerts_test.yml");
const DASHBOARD: &str = include_str!("../packaging/monitoring/grafana-dashboard.json");
const MANUAL: &str = include_str!("../docs/operations/MONITORING.md");

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// `a` of each `key: a`.
fn values<'a>(text: &'a str, key: &str) -> BTreeSet<&'a str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(key)).map(str::trim).collect()
}

#[test]
fn every_metric_that_is_asked_for_is_there() {
    let (database, proxy) = repository(PgServer::shared(versions()[0]), "");
    // Series with a branch appear with its first client and its first change.
    support::psql_ok(&proxy.dsn(&database), "create table monitored (a int)");
    let told = || proxy.get("/metrics").1.contains("\npggit_proxy_ddl_total{");
    assert!(eventually(PATIENCE, told), "{}", proxy.log());
    let (status, exported) = proxy.get("/metrics");
    assert_eq!(status, 200, "{exported}");
    let exported: BTreeSet<&str> =
        exported.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for (file, text) in [("alerts.yml", ALERTS), ("alerts_test.yml", ALERT_TESTS), ("the dashboard", DASHBOARD)] {
        let asked: BTreeSet<&str> = words(text)
            .filter(|word| word.starts_with("pggit_proxy_") || word.starts_with("process_"))
            .map(|word| word.strip_suffix("_bucket").unwrap_or(word))
            .collect();
        assert!(asked.len() > 5, "{file} asks for {asked:?}");
        let unknown: Vec<_> = asked.difference(&exported).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}, which nobody exports");
    }
}

#[test]
fn every_alert_is_tested_and_explained() {
    let alerts = values(ALERTS, "- alert:");
    assert!(alerts.len() > 5, "{alerts:?}");
    for alert in &alerts {
        assert!(ALERT_TESTS.contains(&format!("alertname: {alert}}}")), "{alert} is not held down by a test");
        assert!(ALERT_TESTS.contains(&format!("alertname=\"{alert}\"")), "{alert} is not fired by a test");
        assert!(MANUAL.contains(&format!("\n| `{alert}` |")), "the manual says nothing of {alert}");
    }
    assert_eq!(MANUAL.matches("\n| `Pggit").count(), alerts.len(), "the manual tells of alerts that are not there");
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap();
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
        for target in panel["targets"].as_array().unwrap() {
            let asked = target["expr"].as_str().unwrap();
            let (open, closed) = (asked.matches(['(', '{', '[']).count(), asked.matches([')', '}', ']']).count());
            assert_eq!(open, closed, "{title}: {asked}");
        }
    }
}
