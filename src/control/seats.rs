//! Who may be connected: a bound on sessions, and one on connections that have not logged in yet.
//!
//! When the second is reached the oldest of them has to go, so that any number of silent connections cannot keep
//! an operator out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Sessions at a time.
const MAX_SESSIONS: usize = 64;

/// Connections that are logging in at a time.
const MAX_LOGINS: usize = 64;

/// All seats of the control port.
pub(super) struct Seats {
    sessions: Arc<Semaphore>,
    logins: Mutex<VecDeque<Arc<Notify>>>,
}

/// One connection's seat; dropping it frees it.
pub(super) struct Seat {
    all: Arc<Seats>,
    evicted: Arc<Notify>,
    session: OnceLock<OwnedSemaphorePermit>,
}

impl Seats {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { sessions: Arc::new(Semaphore::new(MAX_SESSIONS)), logins: Mutex::default() })
    }

    /// A seat for a connection that has just come in.
    pub(super) fn take(self: &Arc<Self>) -> Seat {
        let evicted = Arc::new(Notify::new());
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        if logins.len() >= MAX_LOGINS
            && let Some(oldest) = logins.pop_front()
        {
            oldest.notify_one();
        }
        logins.push_back(evicted.clone());
        Seat { all: self.clone(), evicted, session: OnceLock::new() }
    }

    fn leave(&self, seat: &Arc<Notify>) {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, seat));
    }
}

impl Seat {
    /// Becomes a session; false when there are too many.
    pub(super) fn admit(&self) -> bool {
        let Ok(permit) = self.all.sessions.clone().try_acquire_owned() else { return false };
        self.all.leave(&self.evicted);
        self.session.set(permit).is_ok()
    }

    /// Whether the login is complete.
    pub(super) fn is_session(&self) -> bool {
        self.session.get().is_some()
    }

    /// Returns when a newer connection needs the place.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.all.leave(&self.evicted);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_silent_connection_gives_way() {
        let seats = Seats::new();
        let logged_in = seats.take();
        assert!(logged_in.admit());
        let silent: Vec<Seat> = (0..MAX_LOGINS + 1).map(|_| seats.take()).collect();
        let evicted: Vec<bool> = silent.iter().map(|seat| seat.evicted().now_or_never().is_some()).collect();
        assert!(evicted.first() == Some(&true) && evicted.iter().skip(1).all(|gone| !gone));
        assert!(logged_in.evicted().now_or_never().is_none());
    }

    #[test]
    fn sessions_are_bounded() {
        let seats = Seats::new();
        let sessions: Vec<Seat> = (0..MAX_SESSIONS).map(|_| seats.take()).collect();
        assert!(sessions.iter().all(Seat::admit));
        let late = seats.take();
        assert!(!late.admit());
        drop(sessions);
        assert!(late.admit());
    }
}
