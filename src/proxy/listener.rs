//! Where clients come in: one listening socket or more, TCP and unix.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use tokio::net::{TcpListener, UnixListener};

use super::transport::Transport;

/// A socket that listens, not yet on any thread's reactor.
pub enum Listener {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A unix socket.
    Unix(std::os::unix::net::UnixListener),
}

/// The sockets on one worker's reactor.
pub(super) struct Door {
    listeners: Vec<Listening>,
    /// Who is asked first the next time, so that none can keep the others waiting.
    next: usize,
}

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A new connection; a unix socket has no address.
pub(super) type Arrival = (Transport, Option<SocketAddr>);

impl Listener {
    /// The same socket once more.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }
}

impl Door {
    pub fn open(listeners: Vec<Listener>) -> io::Result<Self> {
        let listening = |listener| match listener {
            Listener::Tcp(listener) => TcpListener::from_std(listener).map(Listening::Tcp),
            Listener::Unix(listener) => UnixListener::from_std(listener).map(Listening::Unix),
        };
        Ok(Self { listeners: listeners.into_iter().map(listening).collect::<io::Result<_>>()?, next: 0 })
    }

    /// The next client. Cancel safe.
    pub async fn accept(&mut self) -> io::Result<Arrival> {
        poll_fn(|cx| {
            let count = self.listeners.len();
            for turn in 0..count {
                let at = (self.next + turn) % count;
                let accepted = match &self.listeners[at] {
                    Listening::Tcp(listener) => {
                        listener.poll_accept(cx).map_ok(|(stream, peer)| (Transport::Tcp(stream), Some(peer)))
                    }
                    Listening::Unix(listener) => {
                        listener.poll_accept(cx).map_ok(|(stream, _)| (Transport::Unix(stream), None))
                    }
                };
                if accepted.is_ready() {
                    self.next = at + 1;
                    return accepted;
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Whoever has come already.
    pub async fn take_waiting(&mut self) -> Option<Arrival> {
        let mut arrival = None;
        poll_fn(|cx| {
            let accept = std::pin::pin!(self.accept());
            if let Poll::Ready(Ok(accepted)) = accept.poll(cx) {
                arrival = Some(accepted);
            }
            Poll::Ready(())
        })
        .await;
        arrival
    }
}
