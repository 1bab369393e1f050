//! Sockets: clients in, server connections out, and the loop that moves bytes between them.
//!
//! Each [`worker`] thread takes clients from the one listening socket; a client's two sockets, its task and its buffers
//! stay with one thread.
//! [`introduction`] learns whom a load balancer speaks for, [`handshake`] reads the start-up packet and finds the branch,
//! [`gate`] lets nobody in while clients are held, [`login`] has its part in logging in, [`upstream`] connects to the server,
//! with [`tls`] where it is to be, [`greet`] hears its first words, [`on_demand`] has a branch made that somebody connects to,
//! [`road`] does so for the recorder, [`lint`] has schema changes checked, [`drive`] relays until one side ends, [`cancel`]
//! carries cancel requests.

mod again;
mod buffers;
mod cancel;
mod drive;
mod errand;
mod foreign;
mod gate;
mod greet;
mod handshake;
mod introduction;
mod lint;
mod listener;
mod login;
mod logins;
mod on_demand;
mod refuse;
pub mod road;
mod stream;
mod tls;
mod transport;
mod upstream;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::state::{Client, Life, Shared};
use cancel::Cancels;
pub use listener::Listener;
use logins::Logins;
use transport::Transport;

/// What the tasks of all workers share, besides [`Shared`].
struct Relay {
    shared: Arc<Shared>,
    cancels: Cancels,
    logins: Logins,
}

/// Takes clients until the process drains, then waits for the ones that are there.
pub async fn serve(listeners: Vec<Listener>, shared: Arc<Shared>) -> io::Result<()> {
    let config = shared.config.load();
    let workers = match config.listen.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let relay = Arc::new(Relay { shared: shared.clone(), cancels: Cancels::default(), logins: Logins::default() });
    let threads = worker::start(workers, &listeners, relay)?;
    drop(listeners);
    let _ = shared.life.subscribe().wait_for(|life| *life > Life::Serving).await;

    let limit = shared.config.load().limits.drain_timeout;
    let ended = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
    tokio::pin!(ended);
    if tokio::time::timeout(limit, &mut ended).await.is_err() {
        tracing::warn!(clients = shared.clients.len(), "sessions still busy after the drain timeout; ending them");
        shared.advance(Life::Ending);
        let _ = ended.await;
    }
    Ok(())
}

/// How long those who have asked nothing yet may stay when the process drains: who was let in just before is served
/// like everybody else, who says nothing must not hold up the end.
const LAST_ARRIVALS: Duration = Duration::from_secs(1);

/// Returns when the process has drained for as long as newcomers may take.
async fn too_late(shared: &Shared) {
    // In a block of its own: what wait_for returns holds a lock.
    {
        let _ = shared.life.subscribe().wait_for(|life| *life > Life::Serving).await;
    }
    tokio::time::sleep(LAST_ARRIVALS).await;
}

/// A client's place: given back when dropped.
struct Place {
    relay: Arc<Relay>,
    client: Option<Arc<Client>>,
    count: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        if let Some(client) = &self.client {
            self.relay.shared.clients.leave(client);
        }
    }
}

async fn run(place: &Place, mut stream: Transport, peer: Option<SocketAddr>) -> io::Result<()> {
    let limit = place.relay.shared.config.load().limits.login_timeout;
    let deadline = Instant::now() + limit;
    let mut life = place.relay.shared.life.subscribe();
    let shared = &place.relay.shared;
    let link = async {
        let peer = introduction::hear(shared, place.client.as_deref(), &mut stream, peer, deadline).await?;
        handshake::run(&place.relay, place.client.clone(), stream, peer, deadline).await
    };
    let link = tokio::select! {
        biased;
        link = link => link?,
        // A server that does not answer must not hold it up, either.
        _ = life.wait_for(|life| *life == Life::Ending) => None,
    };
    if let Some(link) = link {
        // A task is as large as the largest thing it awaits. Behind a pointer, a session costs who has none nothing.
        Box::pin(drive::run(&place.relay, *link, deadline)).await;
    }
    Ok(())
}
