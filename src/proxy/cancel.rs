//! Cancel requests: a key of ours stands for one session's server connection, and for no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::upstream::Address;
use crate::state::Client;
use crate::wire::startup::cancel_request;

/// Where a session's cancel requests go.
pub(super) struct Target {
    /// The session: its statement may wait here, and not be at the server at all.
    pub place: Arc<Client>,
    /// The process id that the client knows.
    pub pid: u32,
    /// What the client was given in place of the server's secret.
    pub ours: Vec<u8>,
    /// What runs its statements now.
    pub backend: ArcSwap<Backend>,
}

/// A server process, and how to cancel what it does.
pub(super) struct Backend {
    pub address: Address,
    /// The server's own key.
    pub pid: u32,
    pub secret: Vec<u8>,
}

/// The targets of all sessions, by the process id that the client knows, which is the server's.
#[derive(Default)]
pub(super) struct Cancels {
    by_pid: Mutex<HashMap<u32, Vec<Arc<Target>>>>,
}

/// A session's entry; gone when dropped.
pub(super) struct Entry<'a> {
    cancels: &'a Cancels,
    target: Arc<Target>,
}

impl Cancels {
    pub fn enter(&self, target: Target) -> Entry<'_> {
        let target = Arc::new(target);
        self.lock().entry(target.pid).or_default().push(target.clone());
        Entry { cancels: self, target }
    }

    /// The target whose key this is. Secrets are compared in constant time.
    pub fn find(&self, pid: u32, secret: &[u8]) -> Option<Arc<Target>> {
        self.lock().get(&pid)?.iter().find(|target| bool::from(target.ours.ct_eq(secret))).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Vec<Arc<Target>>>> {
        self.by_pid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry<'_> {
    pub fn target(&self) -> Arc<Target> {
        self.target.clone()
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut by_pid = self.cancels.lock();
        if let Some(targets) = by_pid.get_mut(&self.target.pid) {
            targets.retain(|target| !Arc::ptr_eq(target, &self.target));
            if targets.is_empty() {
                by_pid.remove(&self.target.pid);
            }
        }
    }
}

impl Target {
    /// How long a cancel request may take.
    pub fn timeout(&self) -> std::time::Duration {
        self.backend.load().address.timeout()
    }

    /// Asks the server to cancel, and waits until it has hung up: then the signal is sent.
    pub async fn cancel(&self) -> std::io::Result<()> {
        let backend = self.backend.load_full();
        let mut server = backend.address.connect().await?;
        server.write_all(&cancel_request(backend.pid, &backend.secret)).await?;
        let mut nothing = [0; 64];
        while server.read(&mut nothing).await? > 0 {}
        Ok(())
    }
}
