//! What a service manager is told: systemd's `Type=notify-reload`.
//!
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};

/// The service manager's socket, if there is one.
#[derive(Clone)]
pub(super) struct Manager {
    address: Option<Arc<SocketAddr>>,
}

impl Manager {
    /// From `NOTIFY_SOCKET`: a path, or `@` and a name in the abstract namespace.
    pub fn from_environment() -> Self {
        let named = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
        let address = match named.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&named),
        };
        Self { address: address.ok().filter(|_| !named.is_empty()).map(Arc::new) }
    }

    /// Says it, if anybody listens. A manager that does not take it is its own trouble.
    pub fn tell(&self, state: &str) {
        let Some(address) = &self.address else { return };
        let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to_addr(state.as_bytes(), address));
        if let Err(error) = sent {
            tracing::debug!(%error, state, "cannot tell the service manager");
        }
    }

    /// RELOADING; the time lets the manager see that it is about the reload it asked for.
    pub fn tell_reloading(&self) {
        let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return };
        let micros = i128::from(now.tv_sec()) * 1_000_000 + i128::from(now.tv_nsec()) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }
}
