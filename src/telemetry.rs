//! Metrics and the log. Handles are registered once; label values are bounded, never a user's text.
//!
//! What sessions count lives in plain atomics and is handed to the exporter when somebody looks, so a statement
//! costs three relaxed additions and `SHOW STATS` can read what `/metrics` shows.

mod branches;
mod histogram;
pub mod names;

use std::fmt::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tracing_subscriber::EnvFilter;

use crate::change::{Outcome, VerdictKind};
use crate::config::LogConfig;
use crate::sql::Class;
use branches::BranchCounts;
use histogram::Histogram;

const METADATA: Metadata<'static> = Metadata::new("pggit_proxy", Level::INFO, None);

/// Values of the label `reason` of `auth_failures_total`.
const REASONS: [&str; 6] = ["password", "rejected", "no_database", "too_many", "unavailable", "other"];

/// Pre-registered handles.
pub struct Metrics {
    recorder: PrometheusRecorder,
    exporter: PrometheusHandle,
    process: metrics_process::Collector,
    connections: [Total; Connection::ALL.len()],
    bytes_in: Total,
    bytes_out: Total,
    durations: [Histogram; Class::ALL.len()],
    statements: [Counter; Class::ALL.len()],
    branches: BranchCounts,
    history_pending: Gauge,
    history_failures: Total,
    probe_changes: Total,
    server_connect: Histogram,
    auth_failures: [Total; REASONS.len()],
    cache_hits: Total,
    cache_misses: Total,
    errors: [Total; Side::ALL.len()],
}

/// A count that we can read, and the exporter's handle that shows it.
struct Total {
    value: AtomicU64,
    shown: Counter,
}

impl Total {
    fn add(&self, n: u64) {
        self.value.fetch_add(n, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }

    fn publish(&self) {
        self.shown.absolute(self.now());
    }
}

/// How a connection attempt ended, label `result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Logged in.
    Accepted,
    /// The server refused the login.
    AuthFailed,
    /// No such branch, or two that disagree.
    NoBranch,
    /// `listen.max_clients`.
    TooMany,
    /// The server could not be reached.
    ServerUnreachable,
    /// Not the protocol, or too slow.
    Protocol,
    /// A cancel request.
    Cancel,
}

impl Connection {
    /// Every way, in the order of its number.
    pub const ALL: [Connection; 7] = [
        Self::Accepted,
        Self::AuthFailed,
        Self::NoBranch,
        Self::TooMany,
        Self::ServerUnreachable,
        Self::Protocol,
        Self::Cancel,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::AuthFailed => "auth_failed",
            Self::NoBranch => "no_branch",
            Self::TooMany => "too_many",
            Self::ServerUnreachable => "server_unreachable",
            Self::Protocol => "protocol",
            Self::Cancel => "cancel",
        }
    }
}

/// Whose fault an error was, label `side`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The server.
    Server,
    /// The proxy.
    Proxy,
}

impl Side {
    /// Every side, in the order of its number.
    pub const ALL: [Side; 3] = [Self::Client, Self::Server, Self::Proxy];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Proxy => "proxy",
        }
    }
}

/// One line of `SHOW STATS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// What is counted.
    pub name: &'static str,
    /// Of which kind; empty where there is one kind.
    pub label: &'static str,
    /// How much.
    pub value: u64,
    /// `count`, `bytes` or `microseconds`.
    pub unit: &'static str,
}

impl Metrics {
    /// Registers everything with an exporter of its own; nothing is global, so a process may have several.
    pub fn register() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for metric in names::ALL {
            let (name, unit, help) = (KeyName::from_const_str(metric.name), Some(metric.unit), metric.help.into());
            match metric.kind {
                names::Kind::Counter => recorder.describe_counter(name, unit, help),
                names::Kind::Gauge => recorder.describe_gauge(name, unit, help),
                names::Kind::Histogram => {}
            }
        }
        let process = metrics_process::Collector::default();
        metrics::with_local_recorder(&recorder, || process.describe());
        gauge(&recorder, names::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        Self {
            exporter: recorder.handle(),
            process,
            connections: Connection::ALL.map(|c| total(&recorder, names::CONNECTIONS, &[("result", c.as_str())])),
            bytes_in: total(&recorder, names::CLIENT_BYTES, &[("direction", "in")]),
            bytes_out: total(&recorder, names::CLIENT_BYTES, &[("direction", "out")]),
            durations: std::array::from_fn(|_| Histogram::default()),
            statements: Class::ALL.map(|c| counter(&recorder, names::STATEMENTS, &[("class", c.as_str())])),
            branches: BranchCounts::default(),
            history_pending: gauge(&recorder, names::HISTORY_PENDING, &[]),
            history_failures: total(&recorder, names::HISTORY_FAILURES, &[]),
            probe_changes: total(&recorder, names::PROBE_CHANGES, &[]),
            server_connect: Histogram::default(),
            auth_failures: REASONS.map(|reason| total(&recorder, names::AUTH_FAILURES, &[("reason", reason)])),
            cache_hits: total(&recorder, names::CACHE_HITS, &[]),
            cache_misses: total(&recorder, names::CACHE_MISSES, &[]),
            errors: Side::ALL.map(|side| total(&recorder, names::ERRORS, &[("side", side.as_str())])),
            recorder,
        }
    }

    /// `connections_total{result}`
    pub fn connection(&self, result: Connection) {
        self.connections[result as usize].add(1);
    }

    /// `clients{branch}` up; branches beyond a bound count as `other`. `None`: no branch.
    pub fn client_joined(&self, branch: Option<&str>) {
        self.branches.of(&self.recorder, branch).clients.increment(1.0);
    }

    /// `clients{branch}` down.
    pub fn client_left(&self, branch: Option<&str>) {
        self.branches.of(&self.recorder, branch).clients.decrement(1.0);
    }

    /// `client_bytes_total{direction}`
    pub fn bytes(&self, from_client: u64, to_client: u64) {
        self.bytes_in.add(from_client);
        self.bytes_out.add(to_client);
    }

    /// `statements_total{class}` and `statement_duration_seconds{class}`
    pub fn statement(&self, class: Class, duration: Duration) {
        self.durations[class as usize].record(duration);
    }

    /// `ddl_total{branch,tag,outcome}`
    pub fn ddl(&self, branch: Option<&str>, tag: &'static str, outcome: Outcome) {
        self.branches.of(&self.recorder, branch).ddl(&self.recorder, tag, outcome);
    }

    /// `lint_findings_total{branch,rule}`
    pub fn lint_finding(&self, branch: Option<&str>, rule: String) {
        self.branches.of(&self.recorder, branch).finding(&self.recorder, rule);
    }

    /// `verdicts_total{branch,verdict}`
    pub fn verdict(&self, branch: Option<&str>, verdict: VerdictKind) {
        let counts = self.branches.of(&self.recorder, branch);
        match verdict {
            VerdictKind::Allow => counts.allowed.increment(1),
            VerdictKind::Refuse => counts.refused.increment(1),
            VerdictKind::Queue => counts.queued.increment(1),
            VerdictKind::Reroute => counts.rerouted.increment(1),
        }
    }

    /// `probe_changes_total`: the recorder counts, this shows how far it is.
    pub fn probe_changes(&self, so_far: u64) {
        self.probe_changes.value.fetch_max(so_far, Ordering::Relaxed);
    }

    /// `history_failures_total`
    pub fn history_failure(&self) {
        self.history_failures.add(1);
    }

    /// `server_connect_duration_seconds`, and `server_up{branch}`; `None`: the server could not be reached.
    pub fn server_connected(&self, branch: Option<&str>, duration: Option<Duration>) {
        self.branches.of(&self.recorder, branch).up.set(if duration.is_some() { 1.0 } else { 0.0 });
        if let Some(duration) = duration {
            self.server_connect.record(duration);
        }
    }

    /// `auth_failures_total{reason}`, by the server's SQLSTATE.
    pub fn auth_failure(&self, sqlstate: &str) {
        let reason = match sqlstate {
            "28P01" => 0,
            "28000" => 1,
            "3D000" => 2,
            "53300" => 3,
            "57P03" | "57P01" | "57P02" => 4,
            _ => 5,
        };
        self.auth_failures[reason].add(1);
    }

    /// `parse_cache_{hits,misses}_total`
    pub fn cache(&self, hits: u64, misses: u64) {
        self.cache_hits.add(hits);
        self.cache_misses.add(misses);
    }

    /// `errors_total{side}`
    pub fn error(&self, side: Side) {
        self.errors[side as usize].add(1);
    }

    /// Everything in Prometheus' text format. `pending`: facts that wait for the recorder.
    pub fn render(&self, pending: usize) -> String {
        self.publish(pending);
        let mut text = self.exporter.render();
        header(&mut text, names::STATEMENT_DURATION);
        for (class, durations) in Class::ALL.iter().zip(&self.durations) {
            durations.render(&mut text, names::STATEMENT_DURATION, &format!("class=\"{}\"", class.as_str()));
        }
        header(&mut text, names::SERVER_CONNECT);
        self.server_connect.render(&mut text, names::SERVER_CONNECT, "");
        text
    }

    /// The totals of `SHOW STATS`.
    pub fn stats(&self) -> Vec<Stat> {
        let stat = |name, label, value, unit| Stat { name, label, value, unit };
        let mut all = Vec::new();
        for (class, durations) in Class::ALL.iter().zip(&self.durations) {
            all.push(stat("statements", class.as_str(), durations.count(), "count"));
        }
        for (class, durations) in Class::ALL.iter().zip(&self.durations) {
            all.push(stat("statement_duration", class.as_str(), durations.micros(), "microseconds"));
        }
        for (result, total) in Connection::ALL.iter().zip(&self.connections) {
            all.push(stat("connections", result.as_str(), total.now(), "count"));
        }
        all.push(stat("client_bytes", "in", self.bytes_in.now(), "bytes"));
        all.push(stat("client_bytes", "out", self.bytes_out.now(), "bytes"));
        all.push(stat("server_connects", "", self.server_connect.count(), "count"));
        all.push(stat("server_connect_duration", "", self.server_connect.micros(), "microseconds"));
        for (reason, total) in REASONS.iter().zip(&self.auth_failures) {
            all.push(stat("auth_failures", reason, total.now(), "count"));
        }
        all.push(stat("history_failures", "", self.history_failures.now(), "count"));
        all.push(stat("probe_changes", "", self.probe_changes.now(), "count"));
        all.push(stat("parse_cache", "hits", self.cache_hits.now(), "count"));
        all.push(stat("parse_cache", "misses", self.cache_misses.now(), "count"));
        for (side, total) in Side::ALL.iter().zip(&self.errors) {
            all.push(stat("errors", side.as_str(), total.now(), "count"));
        }
        all
    }

    fn publish(&self, pending: usize) {
        for (counter, durations) in self.statements.iter().zip(&self.durations) {
            counter.absolute(durations.count());
        }
        let single = [&self.bytes_in, &self.bytes_out, &self.history_failures, &self.probe_changes];
        let cache = [&self.cache_hits, &self.cache_misses];
        let many = self.connections.iter().chain(&self.auth_failures).chain(&self.errors).chain(cache);
        single.into_iter().chain(many).for_each(Total::publish);
        self.history_pending.set(pending as f64);
        metrics::with_local_recorder(&self.recorder, || self.process.collect());
    }
}

/// Starts the log on standard error. A second call in one process changes nothing.
pub fn init_log(config: &LogConfig) {
    let level = if config.level.is_empty() { "info" } else { &config.level };
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    // Standard error under a number of its own: libpg_query takes number 2 away while it parses.
    let Ok(stderr) = std::io::stderr().as_fd().try_clone_to_owned() else { return };
    let stderr = Mutex::new(std::fs::File::from(stderr));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    if config.json {
        // A panic ends its session, and is a line like any other. As text, Rust's own words say more.
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string);
            tracing::error!(place, "panicked: {}", panic.payload_as_str().unwrap_or("without words"));
        }));
        let log = log.json().flatten_event(true).with_filter_reloading();
        let handle = log.reload_handle();
        let _ = log.try_init().map(|()| SET_FILTER.set(Box::new(move |filter| drop(handle.reload(filter)))));
    } else {
        let log = log.with_ansi(false).with_filter_reloading();
        let handle = log.reload_handle();
        let _ = log.try_init().map(|()| SET_FILTER.set(Box::new(move |filter| drop(handle.reload(filter)))));
    }
}

/// Sets the level of a log that was started.
pub fn set_log_level(level: &str) {
    if let (Some(set), Ok(filter)) = (SET_FILTER.get(), EnvFilter::try_new(level)) {
        set(filter);
    }
}

/// How the log's filter is replaced; its type depends on the format.
static SET_FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

fn header(text: &mut String, name: &str) {
    for metric in names::ALL.iter().filter(|metric| metric.name == name) {
        let _ = writeln!(text, "# HELP {name} {}", metric.help);
        let _ = writeln!(text, "# TYPE {name} {}", metric.kind.as_str());
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels.iter().map(|(label, value)| Label::new(*label, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

fn counter(recorder: &PrometheusRecorder, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
    recorder.register_counter(&key(name, labels), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
    recorder.register_gauge(&key(name, labels), &METADATA)
}

fn total(recorder: &PrometheusRecorder, name: &'static str, labels: &[(&'static str, &str)]) -> Total {
    Total { value: AtomicU64::new(0), shown: counter(recorder, name, labels) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn known_series_are_there_from_the_start() {
        let text = Metrics::register().render(0);
        for line in [
            "pggit_proxy_build_info{version=\"0.1.0\"} 1",
            "pggit_proxy_connections_total{result=\"accepted\"} 0",
            "pggit_proxy_client_bytes_total{direction=\"in\"} 0",
            "pggit_proxy_statements_total{class=\"ddl\"} 0",
            "pggit_proxy_statement_duration_seconds_count{class=\"read\"} 0",
            "pggit_proxy_server_connect_duration_seconds_count 0",
            "pggit_proxy_auth_failures_total{reason=\"password\"} 0",
            "pggit_proxy_history_pending 0",
            "pggit_proxy_errors_total{side=\"proxy\"} 0",
            "# TYPE pggit_proxy_statement_duration_seconds histogram",
            "# HELP pggit_proxy_errors_total Connections that ended with an error, by whose side it was",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }

    /// In a process of its own, whose log is started.
    #[test]
    fn a_panic_is_a_line_of_the_log() {
        const INSIDE: &str = "PGGIT_TEST_PANICS";
        if std::env::var_os(INSIDE).is_some() {
            init_log(&LogConfig { level: "info".into(), json: true });
            let ended = std::thread::spawn(|| panic!("of \"{}\"\nlines", 2)).join();
            assert!(ended.is_err());
            return;
        }
        let test = "telemetry::tests::a_panic_is_a_line_of_the_log";
        let itself = std::env::current_exe().unwrap();
        let output =
            std::process::Command::new(itself).args(["--exact", test]).arg("--nocapture").env(INSIDE, "1").output();
        let said = String::from_utf8(output.unwrap().stderr).unwrap();
        let line: serde_json::Value = serde_json::from_str(said.trim_end()).expect(&said);
        assert_eq!(
            [&line["level"], &line["message"]].map(|value| value.as_str().unwrap()),
            ["ERROR", "panicked: of \"2\"\nlines"]
        );
        assert!(line["place"].as_str().unwrap().starts_with("src/telemetry.rs:"), "{line}");
    }

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::register();
        metrics.connection(Connection::Cancel);
        metrics.bytes(3, 5);
        metrics.statement(Class::Ddl, Duration::from_millis(3));
        metrics.statement(Class::Ddl, Duration::from_millis(4));
        metrics.cache(7, 2);
        metrics.error(Side::Server);
        metrics.auth_failure("28P01");
        metrics.server_connected(Some("main"), Some(Duration::from_millis(1)));
        metrics.server_connected(Some("old"), None);
        metrics.client_joined(Some("main"));
        metrics.client_joined(None);
        metrics.client_left(None);
        metrics.ddl(Some("main"), "CREATE TABLE", Outcome::Applied);
        metrics.ddl(Some("main"), "", Outcome::Failed);
        metrics.verdict(Some("main"), VerdictKind::Refuse);
        let text = metrics.render(4);
        for line in [
            "pggit_proxy_connections_total{result=\"cancel\"} 1",
            "pggit_proxy_client_bytes_total{direction=\"out\"} 5",
            "pggit_proxy_statements_total{class=\"ddl\"} 2",
            "pggit_proxy_statement_duration_seconds_sum{class=\"ddl\"} 0.007",
            "pggit_proxy_parse_cache_hits_total 7",
            "pggit_proxy_errors_total{side=\"server\"} 1",
            "pggit_proxy_auth_failures_total{reason=\"password\"} 1",
            "pggit_proxy_server_up{branch=\"main\"} 1",
            "pggit_proxy_server_up{branch=\"old\"} 0",
            "pggit_proxy_clients{branch=\"main\"} 1",
            "pggit_proxy_clients{branch=\"none\"} 0",
            "pggit_proxy_ddl_total{branch=\"main\",tag=\"CREATE TABLE\",outcome=\"applied\"} 1",
            "pggit_proxy_ddl_total{branch=\"main\",tag=\"unknown\",outcome=\"failed\"} 1",
            "pggit_proxy_verdicts_total{branch=\"main\",verdict=\"refuse\"} 1",
            "pggit_proxy_verdicts_total{branch=\"main\",verdict=\"allow\"} 0",
            "pggit_proxy_history_pending 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        let stats = metrics.stats();
        let found = stats.iter().find(|stat| stat.name == "statements" && stat.label == "ddl").unwrap();
        assert_eq!((found.value, found.unit), (2, "count"));
    }

    #[test]
    fn branch_labels_are_bounded() {
        let metrics = Metrics::register();
        for n in 0..500 {
            metrics.client_joined(Some(&format!("feature/{n}")));
        }
        let text = metrics.render(0);
        let series = text.lines().filter(|line| line.starts_with("pggit_proxy_clients{")).count();
        assert_eq!(series, branches::MAX_BRANCHES + 1);
        assert!(text.contains("pggit_proxy_clients{branch=\"other\"} 400"), "{text}");
    }

    #[test]
    fn odd_branch_names_are_escaped() {
        let metrics = Metrics::register();
        metrics.client_joined(Some("a\"b\\c\nd"));
        assert!(metrics.render(0).contains(r#"pggit_proxy_clients{branch="a\"b\\c\nd"} 1"#));
    }
}
