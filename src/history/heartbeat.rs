//! A sign of life of this proxy in each branch's database, for those who look at it through SQL (`pggit.heartbeats`).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;

use super::connect::{RecorderError, bounded};
use super::recorder::instance;

/// Four of them before `pggit.health_check()` misses a proxy.
const EVERY: Duration = Duration::from_secs(30);

/// When the last one was given on one branch.
#[derive(Default)]
pub(super) struct Heartbeat(Mutex<Option<Instant>>);

impl Heartbeat {
    /// Gives one if it is time, on a connection to the branch. What the server does not take is given again with the next look.
    pub async fn beat(&self, connection: &mut PgConnection) -> Result<(), RecorderError> {
        if !self.is_due(Instant::now()) {
            return Ok(());
        }
        let beat = sqlx::query("SELECT pggit.note_heartbeat($1, $2)").bind(instance()).bind(env!("CARGO_PKG_VERSION"));
        match bounded(beat.execute(connection)).await {
            Ok(_) => *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now()),
            Err(error) if error.leaves_connection() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn is_due(&self, now: Instant) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_none_or(|last| now.saturating_duration_since(last) >= EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_beats_now_and_then() {
        let heart = Heartbeat::default();
        let now = Instant::now();
        assert!(heart.is_due(now), "the first one at once");
        *heart.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        assert!(!heart.is_due(now + EVERY / 2));
        assert!(heart.is_due(now + EVERY));
    }
}
