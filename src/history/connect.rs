//! Connections of the recorder: who it is, how long it waits, how it comes back, how its errors read.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgSslMode};

use super::hosts::Hosts;
use crate::config::{Capture, SessionAttrs, Upstream};
use crate::tls::Negotiation;

/// How the schema comes into a database.
pub(super) const MIGRATE: &str = "pggit-proxy migrate up --database-url …";

/// What the server's log and `pg_stat_activity` call the recorder.
pub const APPLICATION_NAME: &str = "pggit-proxy";

/// A statement of the recorder that takes longer than this has failed.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the recorder could not do what it was asked. All of these are the server's side, or on the way to it,
/// but for `UnknownBranch`, which is the asker's.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// No connection.
    #[error("cannot connect to database \"{database}\" at {place}: {reason}")]
    Unreachable {
        /// The database.
        database: String,
        /// Host and port, or the socket.
        place: String,
        /// The server's words, or the system's.
        reason: String,
    },
    /// No answer in time.
    #[error("the server did not answer within {0:?}")]
    TimedOut(Duration),
    /// The server said no, or the connection broke.
    #[error("{}", in_words(.0))]
    Sql(#[from] sqlx::Error),
    /// The recorder was not told of this branch.
    #[error("branch \"{0}\" is not known to the recorder")]
    UnknownBranch(String),
    /// This handle has no recorder behind it.
    #[error("the recorder is not running")]
    NotRunning,
}

impl RecorderError {
    /// The server's SQLSTATE, where it sent one.
    pub(super) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Sql(error) => sqlstate(error),
            Self::Unreachable { .. } | Self::TimedOut(_) | Self::UnknownBranch(_) | Self::NotRunning => None,
        }
    }

    /// Whether the `pggit` schema, or the part of it that was asked for, is not there.
    pub(super) fn is_not_migrated(&self) -> bool {
        // invalid_schema_name, undefined_table, undefined_column
        matches!(self.sqlstate(), Some("3F000" | "42P01" | "42703"))
    }

    /// Whether the connection may still be used after this.
    pub(super) fn leaves_connection(&self) -> bool {
        self.sqlstate().is_some_and(|code| !code.starts_with("08") && !code.starts_with("57P"))
    }
}

/// The server, as the recorder reaches it.
pub struct Server {
    /// One for each host.
    options: Vec<PgConnectOptions>,
    place: String,
    hosts: Hosts,
    /// `upstream.target_session_attrs`, for clients' sessions.
    wanted: SessionAttrs,
    /// The repository's main database.
    pub main: String,
    /// How long one connection may take.
    pub timeout: Duration,
    /// `history.capture`.
    pub capture: Capture,
    /// `branches.pg_dump`.
    pub pg_dump: Option<PathBuf>,
    /// The same hosts, for programs of PostgreSQL's.
    each: Vec<Upstream>,
}

impl Server {
    /// As the configuration says.
    pub fn new(upstream: &Upstream, capture: Capture, pg_dump: Option<PathBuf>) -> Self {
        let each = upstream.each();
        let options = each.iter().map(|one| {
            reach(one)
                // Whatever the role or the database are set to, the recorder writes, and does not wait for ever.
                .options([
                    ("search_path", "pg_catalog"),
                    ("default_transaction_read_only", "off"),
                    ("default_transaction_isolation", "read committed"),
                    // Half of the default deadlock_timeout: who drops or locks tables of ours meets no deadlock with the
                    // recorder, which lets go first and comes again.
                    ("lock_timeout", "500ms"),
                    ("statement_timeout", "10s"),
                    ("idle_in_transaction_session_timeout", "60s"),
                ])
        });
        let places: Vec<String> = each.iter().map(|one| format!("{}:{}", one.host, one.port)).collect();
        Self {
            options: options.collect(),
            place: places.join(", "),
            hosts: Hosts::new(each.iter().map(reach).collect(), places, upstream.connect_timeout),
            wanted: upstream.target_session_attrs,
            main: upstream.dbname.clone(),
            timeout: upstream.connect_timeout,
            capture,
            pg_dump,
            each,
        }
    }

    /// The recorder's role.
    pub fn user(&self) -> &str {
        self.each.first().map_or("", |upstream| &upstream.user)
    }

    /// How one of PostgreSQL's own programs reaches a database as the recorder does, in libpq's variables. It goes its own
    /// way over TLS: the road lets nobody in but this process.
    pub async fn libpq_environment(&self, database: &str) -> Vec<(&'static str, OsString)> {
        let host = self.order().await.first().copied().unwrap_or_default();
        self.each.get(host).map(|upstream| libpq_environment(upstream, database)).unwrap_or_default()
    }

    /// How to connect to the main database, for a pool: to the host that the recorder would be on now.
    pub async fn options(&self) -> PgConnectOptions {
        let host = self.order().await.first().copied().unwrap_or_default();
        self.options[host].clone()
    }

    /// A connection to one of the server's databases, as the recorder's role.
    pub async fn connect(&self, database: &str) -> Result<PgConnection, RecorderError> {
        self.connect_with(database, &[]).await
    }

    /// The same, beginning with these settings, which go before the recorder's own.
    pub async fn connect_with(
        &self,
        database: &str,
        settings: &[(&str, String)],
    ) -> Result<PgConnection, RecorderError> {
        let unreachable =
            |reason| RecorderError::Unreachable { database: database.to_owned(), place: self.place.clone(), reason };
        let mut reason = String::new();
        for host in self.order().await {
            let options = self.options[host].clone().database(database);
            let options =
                if settings.is_empty() { options } else { options.options(settings.iter().map(|(k, v)| (*k, v))) };
            match tokio::time::timeout(self.timeout, options.connect()).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => reason = in_words(&error),
                Err(_) => reason = format!("no answer within {:?}", self.timeout),
            }
            self.hosts.forget(host);
        }
        Err(unreachable(reason))
    }

    /// Which hosts clients' sessions may be on, by their place in the list; or why none will do.
    pub async fn for_sessions(&self) -> Result<Vec<usize>, String> {
        self.hosts.choose(self.wanted).await
    }

    /// A connection to this host failed.
    pub fn host_failed(&self, host: usize) {
        self.hosts.forget(host);
    }

    /// The hosts that the recorder tries: it writes, wherever sessions are. Where no host takes writes, whichever
    /// answers says so.
    async fn order(&self) -> Vec<usize> {
        let all = || (0..self.options.len()).collect();
        if self.options.len() == 1 {
            return all();
        }
        self.hosts.choose(SessionAttrs::Primary).await.unwrap_or_else(|_| all())
    }
}

/// One host, as the recorder's role reaches it.
fn reach(upstream: &Upstream) -> PgConnectOptions {
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&upstream.host)
        .port(upstream.port)
        .username(&upstream.user)
        .database(&upstream.dbname)
        .ssl_mode(PgSslMode::Disable)
        .application_name(APPLICATION_NAME)
        .disable_statement_logging();
    if let Some(password) = &upstream.password {
        options = options.password(&password.0);
    }
    if let Some(road) = &upstream.road {
        options = options.socket(road);
    }
    options
}

fn libpq_environment(upstream: &Upstream, database: &str) -> Vec<(&'static str, OsString)> {
    let ssl = &upstream.ssl;
    let mut all: Vec<(&'static str, OsString)> = vec![
        ("PGHOST", upstream.host.clone().into()),
        ("PGPORT", upstream.port.to_string().into()),
        ("PGUSER", upstream.user.clone().into()),
        ("PGDATABASE", database.into()),
        ("PGAPPNAME", APPLICATION_NAME.into()),
        ("PGCONNECT_TIMEOUT", upstream.connect_timeout.as_secs().max(1).to_string().into()),
        ("PGSSLMODE", ssl.mode().as_str().into()),
        ("PGGSSENCMODE", "disable".into()),
        ("PGOPTIONS", "-c default_transaction_read_only=off".into()),
    ];
    if let Some(password) = &upstream.password {
        all.push(("PGPASSWORD", password.0.clone().into()));
    }
    match ssl.negotiation {
        Negotiation::Direct => all.push(("PGSSLNEGOTIATION", "direct".into())),
        Negotiation::Postgres => {}
    }
    // By its file: libpq knows the word `system` from 16 on.
    let roots = ssl.roots.as_ref().and_then(|roots| roots.file().ok());
    let files = [("PGSSLROOTCERT", roots), ("PGSSLCERT", ssl.certificate.clone()), ("PGSSLKEY", ssl.key.clone())];
    all.extend(files.into_iter().filter_map(|(variable, file)| Some((variable, file?.into_os_string()))));
    all
}

/// Runs one statement of the recorder with a bound that also holds when the server is gone without a word.
pub(super) async fn bounded<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, RecorderError> {
    // The server's own statement_timeout should speak first.
    let limit = STATEMENT_TIMEOUT + Duration::from_secs(2);
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(RecorderError::from),
        Err(_) => Err(RecorderError::TimedOut(limit)),
    }
}

/// The server's SQLSTATE.
pub(super) fn sqlstate(error: &sqlx::Error) -> Option<&str> {
    let error = error.as_database_error()?;
    Some(error.try_downcast_ref::<PgDatabaseError>()?.code())
}

/// What happened, without the driver's wrapping.
pub(crate) fn in_words(error: &sqlx::Error) -> String {
    let Some(database) = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>()) else {
        return match error {
            sqlx::Error::Io(io) => io.to_string(),
            other => other.to_string(),
        };
    };
    match database.detail() {
        Some(detail) => format!("{} ({detail})", database.message()),
        None => database.message().to_owned(),
    }
}

/// Doubling pauses with jitter, so that many proxies do not come back in step.
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(5);

    pub fn new() -> Self {
        Self { next: Self::FIRST }
    }

    pub fn reset(&mut self) {
        self.next = Self::FIRST;
    }

    /// How long to wait now: between half of the step and all of it.
    pub fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(Self::LAST);
        step / 2 + (step / 2).mul_f64(fraction())
    }
}

/// A random number from 0 to 1. Where the system has no randomness there is simply no jitter.
fn fraction() -> f64 {
    let number = getrandom::u32().unwrap_or(u32::MAX);
    f64::from(number) / f64::from(u32::MAX)
}

/// Whether something works; logs when it stops and when it works again, not at every try between.
pub(super) struct Condition {
    what: &'static str,
    state: Mutex<State>,
}

enum State {
    Untried,
    Good,
    Bad { since: Instant, reason: String },
}

impl Condition {
    pub fn new(what: &'static str) -> Self {
        Self { what, state: Mutex::new(State::Untried) }
    }

    pub fn fail(&self, reason: String) {
        let mut state = self.lock();
        match &mut *state {
            State::Untried | State::Good => {
                tracing::warn!(reason, "{} does not work", self.what);
                *state = State::Bad { since: Instant::now(), reason };
            }
            State::Bad { reason: known, .. } => *known = reason,
        }
    }

    pub fn succeed(&self) {
        let mut state = self.lock();
        if let State::Bad { since, .. } = &*state {
            tracing::info!(after = ?since.elapsed(), "{} works again", self.what);
        }
        *state = State::Good;
    }

    /// Whether it has not worked for at least so long.
    pub fn fails_for(&self, time: Duration) -> bool {
        matches!(&*self.lock(), State::Bad { since, .. } if since.elapsed() >= time)
    }

    /// Why it does not work; `None` where it does.
    pub fn trouble(&self) -> Option<String> {
        match &*self.lock() {
            State::Untried => Some("not tried yet".to_owned()),
            State::Good => None,
            State::Bad { reason, .. } => Some(reason.clone()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_seconds() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..8).map(|_| backoff.pause()).collect();
        for (pause, step) in pauses.iter().zip([100, 200, 400, 800, 1600, 3200, 5000, 5000]) {
            let step = Duration::from_millis(step);
            assert!(*pause >= step / 2 && *pause <= step, "{pause:?} for {step:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(100));
    }

    #[test]
    fn a_condition_remembers_why() {
        let condition = Condition::new("the test");
        assert!(condition.trouble().is_some());
        condition.succeed();
        assert_eq!(condition.trouble(), None);
        condition.fail("first".into());
        condition.fail("second".into());
        assert_eq!(condition.trouble().as_deref(), Some("second"));
    }
}
