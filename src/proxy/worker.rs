//! Worker threads: each takes clients from the shared listening socket and relays those it has.
//!
//! Whichever thread is free takes a client, so that usually no other thread has to be woken for it; where that
//! thread has more clients than another one, the other one gets it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::listener::{Door, Listener};
use super::transport::{Parcel, Transport};
use super::{Place, Relay, run};
use crate::state::{Client, Life};

/// A client's socket on its way to another worker, with its place among the clients; without one it is told 53300.
type Newcomer = (Parcel, Option<SocketAddr>, Option<Arc<Client>>);

/// Newcomers that wait for a worker, each. Beyond it they stay with the worker that took them.
const WAITING: usize = 1024;

/// Out of descriptors, most likely: those who are there may leave meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How the others reach a worker, and how much it has to do.
struct Seat {
    newcomers: mpsc::Sender<Newcomer>,
    clients: Arc<AtomicUsize>,
}

/// One worker's own part.
struct Worker {
    relay: Arc<Relay>,
    seats: Arc<[Seat]>,
    own: usize,
    tasks: JoinSet<()>,
}

/// Starts so many threads. They end when the process drains and their clients have left.
pub(super) fn start(count: usize, listeners: &[Listener], relay: Arc<Relay>) -> io::Result<Vec<JoinHandle<()>>> {
    let (seats, waiting): (Vec<_>, Vec<_>) = (0..count)
        .map(|_| {
            let (newcomers, waiting) = mpsc::channel(WAITING);
            (Seat { newcomers, clients: Arc::default() }, waiting)
        })
        .unzip();
    let seats: Arc<[Seat]> = seats.into();
    let mut threads = Vec::with_capacity(count);
    for (own, waiting) in waiting.into_iter().enumerate() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listeners = listeners.iter().map(Listener::try_clone).collect::<io::Result<Vec<_>>>()?;
        let worker = Worker { relay: relay.clone(), seats: seats.clone(), own, tasks: JoinSet::new() };
        let work = move || {
            if let Err(error) = runtime.block_on(worker.work(listeners, waiting)) {
                tracing::error!(%error, "a worker thread cannot take clients");
            }
        };
        threads.push(std::thread::Builder::new().name(format!("relay-{own}")).spawn(work)?);
    }
    Ok(threads)
}

impl Worker {
    async fn work(mut self, listeners: Vec<Listener>, mut waiting: mpsc::Receiver<Newcomer>) -> io::Result<()> {
        let mut door = Door::open(listeners)?;
        let mut life = self.relay.shared.life.subscribe();
        loop {
            tokio::select! {
                accepted = door.accept() => match accepted {
                    Ok((stream, peer)) => self.take(stream, peer),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a client");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(newcomer) = waiting.recv() => self.receive(newcomer),
                Some(_) = self.tasks.join_next() => {}
                // In a block of its own: what wait_for returns holds a lock.
                () = async { drop(life.wait_for(|life| *life > Life::Serving).await) } => break,
            }
        }
        // Closing the last handle of a socket resets those who wait in the kernel's queue.
        while let Some((stream, peer)) = door.take_waiting().await {
            self.take(stream, peer);
        }
        drop(door);
        waiting.close();
        while let Some(newcomer) = waiting.recv().await {
            self.receive(newcomer);
        }
        while self.tasks.join_next().await.is_some() {}
        Ok(())
    }

    /// A client that this thread took: it stays, or goes to the thread with the fewest.
    fn take(&mut self, stream: Transport, peer: Option<SocketAddr>) {
        let shared = &self.relay.shared;
        let config = shared.config.load();
        let _ = stream.tune(&config.limits.tcp);
        let client = shared.clients.admit(config.listen.max_clients, peer);
        drop(config);
        let load = |seat: &Seat| seat.clients.load(Ordering::Relaxed);
        let own = &self.seats[self.own];
        let other = self.seats.iter().min_by_key(|seat| load(seat)).filter(|seat| load(seat) < load(own));
        let Some(other) = other else { return self.relay_here(stream, peer, client) };
        match stream.pack() {
            Ok(stream) => {
                other.clients.fetch_add(1, Ordering::Relaxed);
                if let Err(refused) = other.newcomers.try_send((stream, peer, client)) {
                    other.clients.fetch_sub(1, Ordering::Relaxed);
                    own.clients.fetch_add(1, Ordering::Relaxed);
                    self.receive(refused.into_inner());
                }
            }
            Err(error) => {
                client.iter().for_each(|client| shared.clients.leave(client));
                tracing::warn!(%error, "lost a client");
            }
        }
    }

    /// A client that was counted here already.
    fn receive(&mut self, (stream, peer, client): Newcomer) {
        match stream.unpack() {
            Ok(stream) => self.relay(stream, peer, client),
            Err(error) => {
                drop(self.place(client));
                tracing::warn!(%error, "lost a client");
            }
        }
    }

    fn relay_here(&mut self, stream: Transport, peer: Option<SocketAddr>, client: Option<Arc<Client>>) {
        self.seats[self.own].clients.fetch_add(1, Ordering::Relaxed);
        self.relay(stream, peer, client);
    }

    fn relay(&mut self, stream: Transport, peer: Option<SocketAddr>, client: Option<Arc<Client>>) {
        // Dropped in any case, also when the task panics: no place is ever lost.
        let place = self.place(client);
        self.tasks.spawn(async move {
            if let Err(error) = run(&place, stream, peer).await {
                tracing::debug!(?peer, %error, "client ended");
            }
        });
    }

    fn place(&self, client: Option<Arc<Client>>) -> Place {
        Place { relay: self.relay.clone(), client, count: self.seats[self.own].clients.clone() }
    }
}
