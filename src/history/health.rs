//! What the recorder knows of each branch: whether a change made there now reaches the history.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::postgres::PgConnection;
use tokio::sync::{Notify, Semaphore, watch};

use super::branching::SeenTip;
use super::connect::{RecorderError, Server, bounded};
use super::heartbeat::Heartbeat;
use super::recorder::close;
use super::seal::Sealing;
use super::tables::not_migrated;
use super::{HealthRow, applied, intents, migrate};
use crate::branch::Branch;
use crate::change::{Capture, Key, Means, Recording};
use crate::config;

/// A branch is looked at so often, as long as there are not more than [`AT_ONCE`].
pub(super) const INTERVAL: Duration = Duration::from_secs(2);

/// So many branches are looked at together; with more of them each one is looked at less often.
pub(super) const AT_ONCE: usize = 8;

/// While a statement waits for a broken branch.
const HURRIED: Duration = Duration::from_millis(200);

/// Between two looks at one branch, however many ask for one.
const SPACING: Duration = Duration::from_millis(50);

/// One branch and what was last seen there.
pub(super) struct Watched {
    pub branch: Arc<Branch>,
    pub sealing: Sealing,
    pub tip: SeenTip,
    heartbeat: Heartbeat,
    seen: watch::Sender<Report>,
    look: Notify,
    waiters: AtomicUsize,
}

/// What one look found.
#[derive(Debug, Clone)]
pub(super) struct Report {
    at: Option<SystemTime>,
    checks: Vec<Check>,
    /// What changes are recorded by, if all is well.
    means: Option<Means>,
}

#[derive(Debug, Clone)]
struct Check {
    name: &'static str,
    ok: bool,
    message: String,
}

impl Watched {
    pub fn new(branch: Arc<Branch>) -> Self {
        let unseen = Report::bad(None, Check::bad("recording", "not checked yet".into()));
        Self {
            branch,
            sealing: Sealing::default(),
            tip: SeenTip::default(),
            heartbeat: Heartbeat::default(),
            seen: watch::Sender::new(unseen),
            look: Notify::new(),
            waiters: AtomicUsize::new(0),
        }
    }

    pub fn recording(&self) -> Recording {
        self.seen.borrow().recording()
    }

    /// Why it is `Broken`; empty when it is not.
    pub fn reason(&self) -> String {
        self.seen.borrow().reason().to_owned()
    }

    /// Has it looked at soon.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Has it looked at, and again and again, until it is not `Broken` or time is over. Cancel safe.
    pub async fn wait(&self, timeout: Duration) -> Recording {
        let mut seen = self.seen.subscribe();
        let _waiter = Waiter::new(&self.waiters);
        self.look();
        let ready = seen.wait_for(|report| report.recording() != Recording::Broken);
        let _ = tokio::time::timeout(timeout, ready).await;
        self.recording()
    }

    pub fn rows(&self) -> Vec<HealthRow> {
        let report = self.seen.borrow();
        let at = match report.at {
            Some(at) => DateTime::<Utc>::from(at).to_rfc3339_opts(SecondsFormat::Millis, true),
            None => "never".to_owned(),
        };
        let row = |check: &Check| HealthRow {
            branch: self.branch.name.clone(),
            check: check.name.to_owned(),
            ok: check.ok,
            message: format!("{} (checked: {at})", check.message),
        };
        report.checks.iter().map(row).chain(self.sealing.row(&self.branch.name)).collect()
    }

    fn publish(&self, report: Report) {
        let branch = &self.branch.name;
        match (self.recording(), report.recording()) {
            (Recording::Broken, Recording::Ready(_)) => tracing::info!(branch, "changes are recorded"),
            (Recording::Ready(_), Recording::Broken) => {
                tracing::warn!(branch, reason = report.reason(), "changes cannot be recorded");
            }
            (Recording::Broken, Recording::Broken) if report.reason() != self.seen.borrow().reason() => {
                tracing::warn!(branch, reason = report.reason(), "changes cannot be recorded");
            }
            (Recording::NotRequired | Recording::Ready(_) | Recording::Broken, _) => {}
        }
        self.seen.send_replace(report);
    }
}

impl Report {
    fn bad(at: Option<SystemTime>, check: Check) -> Self {
        Self { at, checks: vec![check], means: None }
    }

    fn recording(&self) -> Recording {
        match self.means {
            Some(means) if self.checks.iter().all(|check| check.ok) => Recording::Ready(means),
            _ => Recording::Broken,
        }
    }

    fn reason(&self) -> &str {
        self.checks.iter().find(|check| !check.ok).map_or("", |check| &check.message)
    }
}

impl Check {
    fn good(name: &'static str, message: String) -> Self {
        Self { name, ok: true, message }
    }

    fn bad(name: &'static str, message: String) -> Self {
        Self { name, ok: false, message }
    }
}

/// Counts those who wait, also when they give up.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn new(waiters: &'a AtomicUsize) -> Self {
        waiters.fetch_add(1, Ordering::AcqRel);
        Self(waiters)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Looks at a branch until it is aborted. `places` bounds how many branches are looked at together, `branches` is how
/// many there are.
pub(super) async fn keep_looking(
    server: Arc<Server>,
    watched: Arc<Watched>,
    places: Arc<Semaphore>,
    branches: Arc<AtomicUsize>,
) {
    let mut kept = None;
    loop {
        {
            let _place = places.acquire().await;
            look_at(&server, &watched, &mut kept).await;
        }
        let rounds = branches.load(Ordering::Relaxed).div_ceil(AT_ONCE).max(1);
        let interval = INTERVAL.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
        let awaited = watched.recording() == Recording::Broken && watched.waiters.load(Ordering::Acquire) > 0;
        let pause = if awaited { HURRIED } else { interval };
        tokio::time::sleep(SPACING).await;
        let _ = tokio::time::timeout(pause, watched.look.notified()).await;
    }
}

/// One look. A connection stays open for the main database only: elsewhere it would stand in the way of
/// `DROP DATABASE` and `CREATE DATABASE … TEMPLATE`.
async fn look_at(server: &Server, watched: &Watched, kept: &mut Option<PgConnection>) {
    let at = Some(SystemTime::now());
    let (mut connection, checks, means) = match checked(server, watched, kept).await {
        Ok(found) => found,
        Err(error) => return watched.publish(Report::bad(at, Check::bad("server", error.to_string()))),
    };
    watched.publish(Report { at, checks, means });
    // Nobody who waits for the report waits for this.
    let usable = match watched.recording() {
        Recording::Ready(_) => {
            swept(server, &mut connection, &watched.branch.name).await
                && watched.sealing.look(&mut connection).await.is_ok()
                && watched.tip.look(&mut connection).await.is_ok()
                && watched.heartbeat.beat(&mut connection).await.is_ok()
        }
        Recording::Broken | Recording::NotRequired => true,
    };
    if usable && watched.branch.database == server.main {
        *kept = Some(connection);
    } else {
        close(connection).await;
    }
}

/// Settles what lost sessions left open; whether the connection may be used further.
async fn swept(server: &Server, connection: &mut PgConnection, branch: &str) -> bool {
    let swept = match intents::sweep(connection, server).await {
        Ok(()) => applied::tell(connection, server).await,
        failed => failed,
    };
    match swept {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(branch, %error, "intents and change requests cannot be settled");
            error.leaves_connection()
        }
    }
}

/// The connection, the checks made on it, and what changes are recorded by.
async fn checked(
    server: &Server,
    watched: &Watched,
    kept: &mut Option<PgConnection>,
) -> Result<(PgConnection, Vec<Check>, Option<Means>), RecorderError> {
    // A kept connection may have died since; only a new one is proof.
    if let Some(mut old) = kept.take()
        && let Ok((checks, means)) = check(&mut old, &watched.branch.name, server.capture).await
    {
        return Ok((old, checks, means));
    }
    let mut connection = server.connect(&watched.branch.database).await?;
    let (checks, means) = check(&mut connection, &watched.branch.name, server.capture).await?;
    Ok((connection, checks, means))
}

/// All checks on one branch, and what changes are recorded by; an error only where the server did not answer them.
async fn check(
    connection: &mut PgConnection,
    branch: &str,
    wanted: config::Capture,
) -> Result<(Vec<Check>, Option<Means>), RecorderError> {
    let recovery = sqlx::query_scalar::<_, bool>("SELECT pg_is_in_recovery()").fetch_one(&mut *connection);
    if bounded(recovery).await? {
        let standby = "the server is a standby or in recovery: it takes no changes";
        return Ok((vec![Check::bad("server", standby.into())], None));
    }
    let mut checks = vec![Check::good("server", "reachable".into()), schema(connection).await?];
    if checks.iter().any(|check| !check.ok) {
        return Ok((checks, None));
    }
    let (means, capture) = capture(connection, wanted).await?;
    checks.push(capture);
    if checks.iter().all(|check| check.ok) {
        checks.push(branch_name(connection, branch).await?);
    }
    Ok((checks, Some(means)))
}

/// How the migration left the database, and whether that works.
async fn capture(connection: &mut PgConnection, wanted: config::Capture) -> Result<(Means, Check), RecorderError> {
    let row =
        sqlx::query_as::<_, (bool, Vec<u8>)>("SELECT pggit.capture_mode() = 'inject', key FROM pggit.companion_key");
    let (injects, key) = bounded(row.fetch_one(&mut *connection)).await?;
    let capture = if injects { Capture::Inject } else { Capture::Trigger };
    let key = Key(key.try_into().unwrap_or([0; 64]));
    let check = match (capture, wanted) {
        // Where there are event triggers they see more than calls would: whatever was wished for, they record.
        (Capture::Trigger, _) => event_triggers(connection).await?,
        (Capture::Inject, config::Capture::Trigger) => Check::bad(
            "capture",
            "history.capture is \"trigger\", but no event triggers were installed here: migrate as a superuser".into(),
        ),
        (Capture::Inject, config::Capture::Auto | config::Capture::Inject) => {
            Check::good("capture", "by calls added to clients' statements, as there are no event triggers".into())
        }
    };
    Ok((Means { capture, key }, check))
}

async fn schema(connection: &mut PgConnection) -> Result<Check, RecorderError> {
    let name = "schema";
    let expected = migrate::latest();
    let version = sqlx::query_scalar::<_, Option<i64>>("SELECT max(version) FROM pggit.migrations WHERE success");
    let found = match bounded(version.fetch_one(connection)).await {
        Ok(found) => found.unwrap_or(0),
        Err(error) if error.leaves_connection() => {
            return Ok(Check::bad(name, not_migrated(&error).unwrap_or_else(|| error.to_string())));
        }
        Err(error) => return Err(error),
    };
    Ok(match found.cmp(&expected) {
        std::cmp::Ordering::Equal => Check::good(name, format!("schema pggit is at version {found}")),
        std::cmp::Ordering::Less => Check::bad(
            name,
            format!("schema pggit is at version {found}, expected {expected}: run `pggit-proxy migrate up`"),
        ),
        std::cmp::Ordering::Greater => Check::bad(
            name,
            format!("schema pggit is at version {found}, this program knows {expected}: run the newer pggit-proxy"),
        ),
    })
}

/// A history that names the wrong branch would lie.
async fn branch_name(connection: &mut PgConnection, branch: &str) -> Result<Check, RecorderError> {
    let name = "branch name";
    match super::name::settle(connection, branch).await {
        Ok(()) => Ok(Check::good(name, format!("direct connections are recorded on branch {branch}"))),
        Err(error) if error.leaves_connection() => Ok(Check::bad(name, error.to_string())),
        Err(error) => Err(error),
    }
}

/// Every trigger of ours must fire, both events that report changes must have one, and its function's owner must be
/// able to write the history.
async fn event_triggers(connection: &mut PgConnection) -> Result<Check, RecorderError> {
    let name = "event triggers";
    let triggers = sqlx::query_as::<_, (String, String, String, bool)>(
        "SELECT t.evtname::text, t.evtevent::text, t.evtenabled::text, \
                p.prosecdef AND c.oid IS NOT NULL AND has_table_privilege(p.proowner, c.oid, 'INSERT') \
         FROM pg_event_trigger t \
         JOIN pg_proc p ON p.oid = t.evtfoid \
         JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'pggit' \
         LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'changes' AND c.relkind IN ('r', 'p') \
         ORDER BY t.evtname",
    );
    let triggers = bounded(triggers.fetch_all(&mut *connection)).await?;
    // Since PostgreSQL 17 a setting turns them all off.
    let setting = sqlx::query_scalar::<_, Option<String>>("SELECT current_setting('event_triggers', true)");
    if bounded(setting.fetch_one(connection)).await?.as_deref() == Some("off") {
        return Ok(Check::bad(name, "the server's setting event_triggers is off".into()));
    }
    for event in ["ddl_command_end", "sql_drop"] {
        if !triggers.iter().any(|(_, on, _, _)| on == event) {
            return Ok(Check::bad(name, format!("there is no event trigger of schema pggit on {event}")));
        }
    }
    let mut plain = "";
    for (trigger, _, enabled, writes) in &triggers {
        match enabled.as_str() {
            "A" => {}
            "O" => plain = ", but not ALWAYS: sessions with session_replication_role = replica are not recorded",
            _ => return Ok(Check::bad(name, format!("event trigger {trigger} is disabled"))),
        }
        if !writes {
            return Ok(Check::bad(name, format!("event trigger {trigger} cannot write to pggit.changes")));
        }
    }
    Ok(Check::good(name, format!("{} enabled{plain}", triggers.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::branch::Origin;

    fn watched() -> Watched {
        let branch =
            Branch { name: "b".into(), database: "d".into(), protected: false, parent: None, origin: Origin::Table };
        Watched::new(Arc::new(branch))
    }

    const MEANS: Means = Means { capture: Capture::Trigger, key: Key([7; 64]) };

    fn report(ok: bool) -> Report {
        let checks = vec![Check { name: "schema", ok, message: "so it is".into() }];
        Report { at: None, checks, means: Some(MEANS) }
    }

    #[test]
    fn a_branch_never_looked_at_is_broken() {
        let watched = watched();
        assert_eq!(watched.recording(), Recording::Broken);
        assert_eq!(watched.reason(), "not checked yet");
    }

    #[test]
    fn one_bad_check_makes_it_broken() {
        let watched = watched();
        watched.publish(report(true));
        assert_eq!((watched.recording(), watched.reason().as_str()), (Recording::Ready(MEANS), ""));
        watched.publish(report(false));
        assert_eq!((watched.recording(), watched.reason().as_str()), (Recording::Broken, "so it is"));
    }

    #[tokio::test]
    async fn waiting_ends_when_it_is_ready() {
        let watched = Arc::new(watched());
        let waiter = tokio::spawn({
            let watched = watched.clone();
            async move { watched.wait(Duration::from_secs(30)).await }
        });
        watched.look.notified().await;
        watched.publish(report(true));
        assert_eq!(waiter.await.ok(), Some(Recording::Ready(MEANS)));
        assert_eq!(watched.waiters.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn waiting_ends_when_time_is_over() {
        assert_eq!(watched().wait(Duration::from_millis(1)).await, Recording::Broken);
    }
}
