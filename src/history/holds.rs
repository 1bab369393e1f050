//! Branches that are held while their database is copied (WITH DATA), as every proxy of the repository hears of them.
//!
//! ```text
//! who copies            row in pggit.holds, 'asking' ──────────> answers? ─> 'copying' ─> CREATE DATABASE ─> no row
//! each proxy, from here      └─> its sessions come to rest ─> pggit.held_sessions └─> they leave        └─> they come back
//! ```
//!
//! What is known stays as it is until a read says otherwise: while the main database itself is copied nobody can read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgListener;
use uuid::Uuid;

use super::connect::{RecorderError, bounded};
use super::recorder::instance;

/// How often a proxy looks while a branch is held: who copies waits for what it says.
const ASKED: Duration = Duration::from_millis(50);

/// The same while the copy is made: that it is over is announced, that whoever made it was lost is not.
const COPYING: Duration = Duration::from_millis(500);

/// Of `pggit.holds h`: a row whose maker is gone counts no more. Whose start one may not see is taken for it.
pub(super) const ALIVE: &str = "EXISTS (SELECT FROM pg_stat_activity a \
     WHERE a.pid = h.maker_pid AND coalesce(a.backend_start = h.maker_start, true))";

/// A branch that is held.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Hold {
    /// Another one for each copy.
    pub id: Uuid,
    /// The branch's database.
    pub database: String,
    /// Whether its sessions that can leave have to do so now; until then they say whether they could.
    pub leaving: bool,
}

/// What a proxy says of one of its sessions on a branch that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The server's process; 0 where there is none yet, or none any more.
    pub pid: u32,
    /// What it says.
    pub says: Says,
}

/// Whether a session can leave its server process, and come back to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// It waits for nothing else.
    Ready,
    /// Not now, for this reason; perhaps later.
    Busy(&'static str),
    /// It would lose something.
    Stays(String),
}

type Claims = Box<dyn Fn(&Hold) -> Vec<Claim> + Send + Sync>;

/// The holds as last read, and what was answered.
#[derive(Default)]
pub(super) struct Holds {
    now: ArcSwap<Vec<Hold>>,
    claims: OnceLock<Claims>,
    told: Mutex<HashMap<Uuid, Vec<Claim>>>,
}

impl Holds {
    pub fn now(&self) -> Arc<Vec<Hold>> {
        self.now.load_full()
    }

    /// Who knows the sessions.
    pub fn answer_with(&self, claims: Claims) {
        let _ = self.claims.set(claims);
    }

    /// How long until the next look, where there is anything to look for.
    pub fn pause(&self) -> Option<Duration> {
        let now = self.now.load();
        let copying = now.iter().all(|hold| hold.leaving);
        (!now.is_empty()).then_some(if copying { COPYING } else { ASKED })
    }

    /// Reads the holds, calls `changed` where they are others than before, and answers for this proxy's sessions.
    pub async fn attend(&self, listener: &mut PgListener, changed: impl FnOnce()) -> Result<(), RecorderError> {
        let read = format!(
            "SELECT h.id, h.database, h.stage = 'copying' AS leaving FROM pggit.holds h WHERE {ALIVE} ORDER BY 1"
        );
        let read = sqlx::query_as::<_, Hold>(AssertSqlSafe(read));
        let now = bounded(read.fetch_all(&mut *listener)).await?;
        if *self.now.load_full() != now {
            self.now.store(Arc::new(now.clone()));
            changed();
        }
        let mut told = std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner));
        told.retain(|id, _| now.iter().any(|hold| hold.id == *id));
        for hold in &now {
            let claims = self.claims.get().map(|claims| claims(hold)).unwrap_or_default();
            if told.get(&hold.id) != Some(&claims) {
                answer(&mut *listener, hold, &claims).await?;
                told.insert(hold.id, claims);
            }
        }
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
        Ok(())
    }
}

/// Writes what this proxy says of its sessions, in the place of what it said before.
async fn answer(listener: &mut PgListener, hold: &Hold, claims: &[Claim]) -> Result<(), RecorderError> {
    let of = |says: &Says| match says {
        Says::Ready => ("ready", String::new()),
        Says::Busy(reason) => ("busy", (*reason).to_owned()),
        Says::Stays(reason) => ("stays", reason.clone()),
    };
    let pids: Vec<i32> = claims.iter().map(|claim| i32::try_from(claim.pid).unwrap_or_default()).collect();
    let (states, reasons): (Vec<_>, Vec<_>) = claims.iter().map(|claim| of(&claim.says)).unzip();
    // It may be over by now: then there is nobody to be told.
    let insert = sqlx::query(
        "INSERT INTO pggit.held_sessions AS s (hold, proxy, pids, states, reasons) \
         SELECT h.id, $2, $3, $4, $5 FROM pggit.holds h WHERE h.id = $1 FOR KEY SHARE \
         ON CONFLICT (hold, proxy) DO UPDATE SET pids = $3, states = $4, reasons = $5",
    );
    let insert = insert.bind(hold.id).bind(instance()).bind(pids).bind(states).bind(reasons);
    bounded(insert.execute(listener)).await.map(drop)
}
