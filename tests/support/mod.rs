//! What the integration tests stand on: throw-away PostgreSQL servers, the proxy on port 0, a raw-wire client.
//!
//! ```ignore
//! mod support;
//! use support::{Pg, PgServer, Proxy, Wire, wire};
//!
//! for version in support::versions() {
//!     let server = PgServer::start(version);
//!     let database = server.create_database("app");
//!     support::migrate(&server, &database);
//!     let proxy = Proxy::start(&server, "[upstream]\ndbname = \"app\"\n");
//!     let mut client = Wire::connect(proxy.clients, &[("user", "postgres"), ("database", "app")]);
//!     let replies = client.ask(&wire::query("create table t (a int)"));
//! }
//! ```

// Each test binary uses its own part of this.
#![allow(dead_code, unused_imports)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod certs;
pub mod copies;
pub mod oracle;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod repository;
pub mod requests;
pub mod rng;
pub mod wire;
pub mod workload;

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

pub use certs::Certs;
pub use postgres::{Pg, PgServer, versions};
pub use proxy::{Proxy, migrate, migrate_without_triggers};
pub use repository::{Repository, TwoBranches};
pub use wire::{Message, Wire, normalised};

/// How long anything may take that normally takes no time, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until the condition holds; false when the deadline passed first.
pub fn eventually(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Polls until there is a value; panics with `what` when the deadline passed first.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually(PATIENCE, || {
        found = look();
        found.is_some()
    });
    found.unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// Runs psql on a connection string (`host=… port=… dbname=…` or a URL), unaligned, tuples only, stopping at the first
/// error. The commands come from standard input, so that each is sent by itself and `\c` and the like work.
pub fn psql(connection: &str, sql: &str) -> Output {
    use std::io::Write;
    let mut child = Command::new("psql")
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-d", connection])
        .env_remove("PGOPTIONS")
        .env_remove("PGSERVICE")
        .env("PGCONNECT_TIMEOUT", "30")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql is installed (scripts/setup.sh does it)");
    child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// As [`psql`], for statements that must succeed; returns what was printed, trimmed.
pub fn psql_ok(connection: &str, sql: &str) -> String {
    let output = psql(connection, sql);
    assert!(output.status.success(), "psql failed on {sql}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
