//! The clients of a branch are held while its database is copied: every proxy holds its own, and says so in `pggit.held_sessions`.
//!
//! First all are asked whether they could leave. Nobody leaves before all said yes, or, with FORCE, before those who cannot are
//! about to be ended. What nobody answers for is connected round the proxies.

use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::error::BranchError;
use super::remove::Force;
use super::rows::Process;
use crate::branch::Branch;
use crate::history::APPLICATION_NAME;
use crate::history::connect::{RecorderError, bounded, sqlstate};
use crate::history::holds::ALIVE;
use crate::history::recorder::instance;

/// How long sessions may take to come to rest: then transactions are ended by FORCE, or nothing is done.
const GRACE: Duration = Duration::from_secs(20);

/// How long the proxies may take to say anything at all. One that was lost a moment ago says nothing.
const ANSWER: Duration = Duration::from_secs(3);

/// As long as the server itself waits for others to leave a database.
const STRANGERS: &str = "5 s";

/// Where somebody cannot be held, others who may be there with him get so long to say so, too.
const MORE: Duration = Duration::from_millis(500);

/// How long sessions that said yes may take to leave.
const LEAVE: Duration = Duration::from_secs(10);

/// How often it is looked what they say.
const LOOK: Duration = Duration::from_millis(50);

/// No more of them are named.
const NAMED: usize = 10;

/// Whoever is in the database, with what his proxy says of him; sessions that proxies know and the server does not, as they are
/// just coming; and prepared transactions, which nobody can hold. The recorder's own are left out: they are ended without asking.
const LOOK_AT_ALL: &str = "WITH said AS ( \
         SELECT s.* FROM pggit.held_sessions h, unnest(h.pids, h.states, h.reasons) s(pid, state, reason) WHERE h.hold = $1 \
     ), here AS ( \
         SELECT a.pid, a.usename, a.client_addr, a.application_name, a.xact_start, \
                clock_timestamp() - greatest(a.backend_start, h.since) > $3::text::interval AS is_settled \
         FROM pg_stat_activity a, pggit.holds h \
         WHERE h.id = $1 AND a.datname = $2 AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid() \
           AND coalesce(a.backend_type, 'client backend') IN ('client backend', 'walsender') \
     ) \
     SELECT a.pid, concat_ws(' ', 'process', a.pid, 'of', coalesce(a.usename, 'nobody'), \
                             'from ' || host(a.client_addr), '(' || nullif(a.application_name, '') || ')') AS who, \
            coalesce(s.state, CASE WHEN a.is_settled THEN 'stays' ELSE 'busy' END) AS state, \
            coalesce(s.reason, 'it is connected round the proxies') AS reason, a.xact_start IS NOT NULL AS in_transaction \
     FROM here a LEFT JOIN said s USING (pid) \
     WHERE s.pid IS NOT NULL OR NOT (a.usename IS NOT DISTINCT FROM current_user AND a.application_name = $4) \
     UNION ALL \
     SELECT NULL, 'a client', s.state, s.reason, true FROM said s \
     WHERE s.state = 'busy' AND NOT EXISTS (SELECT FROM here a WHERE a.pid = s.pid) \
     UNION ALL \
     SELECT NULL, format('the prepared transaction %L of %s', x.gid, x.owner), 'prepared', 'it has to be committed or rolled back', false \
     FROM pg_prepared_xacts x WHERE x.database = $2 \
     ORDER BY 1, 2";

/// Whether every proxy has answered that gave a sign of life in the last minute.
const ALL_ANSWERED: &str = "SELECT NOT EXISTS (SELECT FROM pggit.heartbeats b WHERE b.beat_at > now() - interval '1 minute' \
         AND NOT EXISTS (SELECT FROM pggit.held_sessions h WHERE h.hold = $1 AND h.proxy = b.proxy))";

#[derive(Debug, sqlx::FromRow)]
struct Session {
    pid: Option<i32>,
    who: String,
    state: String,
    reason: String,
    in_transaction: bool,
}

/// Whether the branch of that database is held.
pub(super) async fn is_on(main: &mut PgConnection, database: &str) -> Result<bool, RecorderError> {
    let sql = format!("SELECT EXISTS (SELECT FROM pggit.holds h WHERE h.database = $1 AND {ALIVE})");
    bounded(sqlx::query_scalar(AssertSqlSafe(sql)).bind(database).fetch_one(main)).await
}

/// A branch that is held. It is over when the row is gone, or the server process that copies.
pub(super) struct Hold(Uuid);

impl Hold {
    /// Asks the clients of the branch to come to rest. `by` is who will copy.
    pub async fn begin(main: &mut PgConnection, branch: &Branch, by: Process) -> Result<Self, BranchError> {
        let lost = format!("DELETE FROM pggit.holds h WHERE NOT {ALIVE}");
        bounded(sqlx::query(AssertSqlSafe(lost)).execute(&mut *main)).await?;
        let said = "DELETE FROM pggit.held_sessions s WHERE NOT EXISTS (SELECT FROM pggit.holds h WHERE h.id = s.hold)";
        bounded(sqlx::query(said).execute(&mut *main)).await?;
        let insert = sqlx::query_scalar(
            "INSERT INTO pggit.holds (database, branch, maker, maker_pid, maker_start) VALUES ($1, $2, $3, $4, $5) RETURNING id",
        );
        let insert = insert.bind(&branch.database).bind(&branch.name).bind(instance()).bind(by.pid).bind(by.start);
        match bounded(insert.fetch_one(main)).await {
            Ok(id) => Ok(Self(id)),
            Err(RecorderError::Sql(error)) if sqlstate(&error) == Some("23505") => {
                Err(BranchError::Copied(branch.name.clone()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until everybody can leave, and has them do so; with FORCE, until those who cannot may be ended. Otherwise says who
    /// cannot and why; then nobody has left.
    pub async fn gather(&self, main: &mut PgConnection, branch: &Branch, force: Force) -> Result<(), BranchError> {
        let ready = self.ask(main, branch, force).await?;
        let leave = sqlx::query("UPDATE pggit.holds SET stage = 'copying' WHERE id = $1").bind(self.0);
        bounded(leave.execute(&mut *main)).await?;
        let deadline = Instant::now() + LEAVE;
        loop {
            let left = sqlx::query_scalar(
                "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = $1 AND pid = ANY ($2))",
            );
            // Should somebody not leave, the server says so when it comes to copying.
            if bounded(left.bind(&branch.database).bind(&ready).fetch_one(&mut *main)).await?
                || Instant::now() > deadline
            {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The processes that could leave.
    async fn ask(&self, main: &mut PgConnection, branch: &Branch, force: Force) -> Result<Vec<i32>, BranchError> {
        let begun = Instant::now();
        let mut refusing = None;
        loop {
            // First: what they have answered by now is seen below.
            let answered = sqlx::query_scalar(ALL_ANSWERED).bind(self.0);
            let answered: bool = bounded(answered.fetch_one(&mut *main)).await? || begun.elapsed() > ANSWER;
            let sessions = sqlx::query_as::<_, Session>(LOOK_AT_ALL).bind(self.0).bind(&branch.database);
            let sessions = bounded(sessions.bind(STRANGERS).bind(APPLICATION_NAME).fetch_all(&mut *main)).await?;
            let is_late = begun.elapsed() > GRACE;
            let busy = sessions.iter().any(|session| session.state == "busy");
            let prepared = sessions.iter().any(|session| session.state == "prepared");
            let stays = sessions.iter().any(|session| session.state == "stays");
            let works = sessions.iter().any(|session| session.state == "stays" && session.in_transaction);
            let go = match force {
                Force::No => answered && !busy && !stays,
                Force::Yes => (answered && !busy && !works) || is_late,
            };
            if go && !prepared {
                return Ok(sessions.iter().filter(|s| s.state == "ready").filter_map(|s| s.pid).collect());
            }
            if prepared || (stays && force == Force::No) {
                refusing.get_or_insert_with(Instant::now);
            }
            if is_late || refusing.is_some_and(|since| since.elapsed() > MORE || (answered && !busy)) {
                let name = |session: &Session| format!("{}: {}", session.who, session.reason);
                let mut those: Vec<String> = sessions.iter().filter(|s| s.state != "ready").map(name).collect();
                let more = those.len().saturating_sub(NAMED);
                those.truncate(NAMED);
                those.extend((more > 0).then(|| format!("and {more} more")));
                return Err(BranchError::Unheld { name: branch.name.clone(), sessions: those });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Lets everybody come back.
    pub async fn end(self, main: &mut PgConnection) -> Result<(), RecorderError> {
        let end =
            "WITH said AS (DELETE FROM pggit.held_sessions WHERE hold = $1) DELETE FROM pggit.holds WHERE id = $1";
        bounded(sqlx::query(end).bind(self.0).execute(main)).await.map(drop)
    }
}
