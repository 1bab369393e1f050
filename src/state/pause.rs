//! `PAUSE` and `RESUME`: whether clients are held.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Whether clients are held now.
pub struct Pause {
    /// For sessions to look at on their way, at no cost.
    now: AtomicBool,
    /// For newcomers to wait on.
    changes: watch::Sender<bool>,
}

impl Default for Pause {
    fn default() -> Self {
        Self { now: AtomicBool::new(false), changes: watch::Sender::new(false) }
    }
}

impl Pause {
    /// Whether clients are held.
    pub fn is_on(&self) -> bool {
        self.now.load(Ordering::Acquire)
    }

    /// Holds clients, or lets them go; false when it was so already.
    pub(super) fn set(&self, on: bool) -> bool {
        self.now.store(on, Ordering::Release);
        self.changes.send_replace(on) != on
    }

    /// Returns when clients are not held.
    pub async fn over(&self) {
        // The sender lives as long as `self`: there is no error.
        let _ = self.changes.subscribe().wait_for(|on| !*on).await;
    }
}
