//! Branches whose clients are held while their database is copied: which, and what this process says of its sessions there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use super::{Client, ClientState, Clients};
use crate::history::{Claim, Hold, Says};

/// Longer than logging in takes for those who want to.
const LOGIN: Duration = Duration::from_secs(5);

/// The holds now.
pub struct Holds {
    /// For sessions to look at on their way, at no cost.
    any: AtomicBool,
    now: watch::Sender<Arc<Vec<Hold>>>,
}

impl Default for Holds {
    fn default() -> Self {
        Self { any: AtomicBool::new(false), now: watch::Sender::default() }
    }
}

impl Holds {
    /// The hold on this database, if there is one: its id, and whether it is time to leave.
    pub fn on(&self, database: &str) -> Option<(Uuid, bool)> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.now.borrow().iter().find(|hold| hold.database == database).map(|hold| (hold.id, hold.leaving))
    }

    /// Returns when this database is not held. Cancel safe.
    pub async fn over(&self, database: &str) {
        // The sender lives as long as `self`: there is no error.
        let free = |now: &Arc<Vec<Hold>>| now.iter().all(|hold| hold.database != database);
        let _ = self.now.subscribe().wait_for(free).await;
    }

    /// Puts them in force; false when they were so already.
    pub(super) fn set(&self, holds: Arc<Vec<Hold>>) -> bool {
        let changed = **self.now.borrow() != *holds;
        if changed {
            self.any.store(!holds.is_empty(), Ordering::Release);
            self.now.send_replace(holds);
        }
        changed
    }
}

impl Clients {
    /// What there is to be said of every session on the database that is held. Newcomers that wait for the end of the hold have
    /// nothing to leave.
    pub fn claims(&self, hold: &Hold) -> Vec<Claim> {
        self.list().iter().filter_map(|client| client.claim(hold)).collect()
    }
}

impl Client {
    /// Says whether it could leave, as long as this hold lasts.
    pub fn answer_hold(&self, hold: Uuid, says: Says) {
        *self.hold.lock().unwrap_or_else(PoisonError::into_inner) = Some((hold, says));
    }

    /// Whether it has said so.
    pub fn has_answered(&self, hold: Uuid) -> bool {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|(id, _)| *id == hold)
    }

    fn claim(&self, hold: &Hold) -> Option<Claim> {
        let is_there = self.facts.load().as_ref().is_some_and(|facts| facts.database == hold.database);
        if !is_there || self.at_gate.load(Ordering::Acquire) {
            return None;
        }
        let pid = self.backend_pid.load(Ordering::Relaxed);
        let said = self.hold.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let says = match (said, self.client_state()) {
            (Some((id, says)), _) if id == hold.id => says,
            // Who says nothing is not in the database yet, and waits at the server if he says something later.
            (_, ClientState::Login) if self.connected_at.elapsed().is_ok_and(|time| time > LOGIN) => return None,
            (_, ClientState::Login) => Says::Busy("it is logging in"),
            (_, ClientState::IdleInTransaction) => Says::Busy("it is in a transaction"),
            (_, ClientState::Active | ClientState::Waiting) => Says::Busy("it is running a statement"),
            (_, ClientState::Idle | ClientState::Paused | ClientState::Held) => Says::Busy("it was not asked in time"),
        };
        Some(Claim { pid, says })
    }
}
