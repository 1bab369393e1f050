//! Sockets: clients in, server connections out, and the loop that moves bytes between them.
//!
//! A client is accepted once and handed to one worker thread, where its two sockets, its task and its buffers stay.
//! [`handshake`] reads the start-up packet and finds the branch, [`upstream`] connects to the server,
//! [`drive`] relays until one side ends, [`cancel`] carries cancel requests.

mod buffers;
mod cancel;
mod drive;
mod handshake;
mod refuse;
mod upstream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::state::{Client, Life, Shared};
use cancel::Cancels;

/// A client's socket on its way to a worker, with its place among the clients; without one it is told 53300.
type Newcomer = (std::net::TcpStream, SocketAddr, Option<Arc<Client>>);

/// Newcomers that wait for a worker, each. Beyond it the accept loop waits, and the kernel's backlog holds the rest.
const WAITING: usize = 1024;

/// What the tasks of all workers share, besides [`Shared`].
struct Relay {
    shared: Arc<Shared>,
    cancels: Cancels,
}

/// One relaying thread.
struct Worker {
    newcomers: mpsc::Sender<Newcomer>,
    clients: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

/// Takes clients until the process drains, then waits for the ones that are there.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let config = shared.config.load();
    let workers = match config.listen.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let relay = Arc::new(Relay { shared: shared.clone(), cancels: Cancels::default() });
    let workers = (0..workers).map(|n| Worker::start(n, relay.clone())).collect::<io::Result<Vec<_>>>()?;

    let mut life = shared.life.subscribe();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => hand_over(&shared, &workers, stream, peer).await,
                Err(error) => {
                    // Out of descriptors, most likely: those who are there may leave.
                    tracing::warn!(%error, "cannot accept a client");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            _ = life.wait_for(|life| *life > Life::Serving) => break,
        }
    }
    drop(listener);

    let limit = shared.config.load().limits.drain_timeout;
    let threads = workers.into_iter().map(|worker| worker.thread).collect::<Vec<_>>();
    let ended = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
    tokio::pin!(ended);
    if tokio::time::timeout(limit, &mut ended).await.is_err() {
        tracing::warn!(clients = shared.clients.len(), "sessions still busy after the drain timeout; ending them");
        shared.advance(Life::Ending);
        let _ = ended.await;
    }
    Ok(())
}

async fn hand_over(shared: &Shared, workers: &[Worker], stream: tokio::net::TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    // As the server does: a client that vanished without a word is noticed within the kernel's keepalive time.
    let _ = socket2::SockRef::from(&stream).set_keepalive(true);
    let client = shared.clients.admit(shared.config.load().listen.max_clients, Some(peer));
    let Some(worker) = workers.iter().min_by_key(|worker| worker.clients.load(Ordering::Relaxed)) else { return };
    worker.clients.fetch_add(1, Ordering::Relaxed);
    match stream.into_std() {
        Ok(stream) => drop(worker.newcomers.send((stream, peer, client)).await),
        Err(error) => tracing::warn!(%error, "lost a client"),
    }
}

impl Worker {
    fn start(n: usize, relay: Arc<Relay>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (newcomers, waiting) = mpsc::channel(WAITING);
        let clients = Arc::new(AtomicUsize::new(0));
        let count = clients.clone();
        let thread = std::thread::Builder::new()
            .name(format!("relay-{n}"))
            .spawn(move || runtime.block_on(work(relay, waiting, count)))?;
        Ok(Self { newcomers, clients, thread })
    }
}

/// Runs one worker's clients until there will be no more.
async fn work(relay: Arc<Relay>, mut waiting: mpsc::Receiver<Newcomer>, count: Arc<AtomicUsize>) {
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            newcomer = waiting.recv() => {
                let Some((stream, peer, client)) = newcomer else { break };
                let (relay, count) = (relay.clone(), count.clone());
                tasks.spawn(async move {
                    // Dropped in any case, also when the task panics: no place is ever lost.
                    let place = Place { relay, client, count };
                    if let Err(error) = run(&place, stream, peer).await {
                        tracing::debug!(%peer, %error, "client ended");
                    }
                });
            }
            Some(_) = tasks.join_next() => {}
        }
    }
    while tasks.join_next().await.is_some() {}
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

async fn run(place: &Place, stream: std::net::TcpStream, peer: SocketAddr) -> io::Result<()> {
    let stream = tokio::net::TcpStream::from_std(stream)?;
    let limit = place.relay.shared.config.load().limits.login_timeout;
    let deadline = Instant::now() + limit;
    let mut life = place.relay.shared.life.subscribe();
    let link = tokio::select! {
        biased;
        link = handshake::run(&place.relay, place.client.clone(), stream, peer, deadline) => link?,
        // A server that does not answer must not hold it up, either.
        _ = life.wait_for(|life| *life == Life::Ending) => None,
    };
    if let Some(link) = link {
        drive::run(&place.relay, link, deadline).await;
    }
    Ok(())
}
