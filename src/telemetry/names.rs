//! Every metric's name, kind, labels, unit and meaning: registration and `docs/METRICS.md` both follow this list.

use metrics::Unit;

/// What Prometheus does with a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl Kind {
    /// The word in a `# TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric of the proxy's own.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// With the prefix `pggit_proxy_`.
    pub name: &'static str,
    /// See [`Kind`].
    pub kind: Kind,
    /// Label names; each has a bounded set of values.
    pub labels: &'static [&'static str],
    /// What one is.
    pub unit: Unit,
    /// One sentence, without the full stop.
    pub help: &'static str,
}

macro_rules! names {
    ($($constant:ident $name:literal $kind:ident [$($label:literal),*] $unit:ident $help:literal;)*) => {
        $(pub(crate) const $constant: &str = $name;)*
        /// Every metric of the proxy's own; process metrics come on top.
        pub const ALL: &[Described] = &[
            $(Described { name: $name, kind: Kind::$kind, labels: &[$($label),*], unit: Unit::$unit, help: $help },)*
        ];
    };
}

names! {
    BUILD_INFO "pggit_proxy_build_info" Gauge ["version"] Count "Always 1; the label is the running version";
    CLIENTS "pggit_proxy_clients" Gauge ["branch"] Count "Clients that are logged in now";
    CONNECTIONS "pggit_proxy_connections_total" Counter ["result"] Count "Connection attempts, by how they ended";
    CLIENT_BYTES "pggit_proxy_client_bytes_total" Counter ["direction"] Bytes "Bytes received from clients (in) and sent to them (out)";
    STATEMENTS "pggit_proxy_statements_total" Counter ["class"] Count "Statements, by class";
    STATEMENT_DURATION "pggit_proxy_statement_duration_seconds" Histogram ["class"] Seconds "From a statement's arrival to its completion by the server";
    DDL "pggit_proxy_ddl_total" Counter ["branch", "tag", "outcome"] Count "Statements in the statement log, by what became of them";
    VERDICTS "pggit_proxy_verdicts_total" Counter ["branch", "verdict"] Count "Statements that the rules judged, by verdict";
    LINT_FINDINGS "pggit_proxy_lint_findings_total" Counter ["branch", "rule"] Count "Findings of lint in statements, by its rule";
    HISTORY_PENDING "pggit_proxy_history_pending" Gauge [] Count "Facts that wait to be written to the statement log";
    HISTORY_FAILURES "pggit_proxy_history_failures_total" Counter [] Count "Changes that could not be recorded, and failed writes to the statement log";
    PROBE_CHANGES "pggit_proxy_probe_changes_total" Counter [] Count "Changes that nothing had recorded and the probe found";
    SERVER_UP "pggit_proxy_server_up" Gauge ["branch"] Count "1 when the last connection to the branch's database succeeded, else 0";
    SERVER_CONNECT "pggit_proxy_server_connect_duration_seconds" Histogram [] Seconds "How long successful connections to the server took";
    AUTH_FAILURES "pggit_proxy_auth_failures_total" Counter ["reason"] Count "Logins that the server or the proxy refused, by reason";
    CACHE_HITS "pggit_proxy_parse_cache_hits_total" Counter [] Count "Statements whose classification was remembered";
    CACHE_MISSES "pggit_proxy_parse_cache_misses_total" Counter [] Count "Statements that had to be parsed";
    ERRORS "pggit_proxy_errors_total" Counter ["side"] Count "Connections that ended with an error, by whose side it was";
}
