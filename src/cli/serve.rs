//! `pggit-proxy serve`: makes the shared state, binds the addresses, and waits for the end.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::manager::Manager;
use super::sockets::Sockets;
use crate::config::{Config, Overrides, Problem, Upstream};
use crate::history::{History, Server};
use crate::state::{Clients, Life, Shared};
use crate::telemetry::{self, Metrics};
use crate::{control, http, proxy};

/// How long the statement log may take to be written out at the end.
const FLUSH: Duration = Duration::from_secs(5);

/// The configuration has problems: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has problems")]
pub struct BadConfig;

/// Serves until SIGTERM or SIGINT; a second one ends at once.
pub fn run(path: Option<PathBuf>, overrides: Overrides) -> anyhow::Result<()> {
    let config = path
        .as_deref()
        .map_or_else(Config::from_environment, Config::load)
        .and_then(|config| config.with_overrides(overrides))
        .map_err(|problems| {
            report(&problems);
            BadConfig
        })?;
    telemetry::init_log(&config.log);
    // Clients are relayed by threads of their own; these two carry the recorder, the control port and metrics.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(config, path))
}

async fn serve(mut config: Config, path: Option<PathBuf>) -> anyhow::Result<()> {
    let manager = Manager::from_environment();
    let Sockets { clients, control, http, unix } = Sockets::open(&config)?;
    open_roads(&mut config.upstream).await.context("cannot open the recorder's road to the server")?;

    let slot: Arc<OnceLock<Weak<Shared>>> = Arc::default();
    let seen = slot.clone();
    let history = History::start(&config, move || {
        if let Some(shared) = seen.get().and_then(Weak::upgrade) {
            shared.refresh();
        }
    });
    let shared = Arc::new(Shared {
        config: Default::default(),
        config_path: path,
        policy: Default::default(),
        branches: Default::default(),
        clients: Clients::default(),
        metrics: Metrics::register(),
        history,
        life: watch::Sender::new(Life::Serving),
        started: Instant::now(),
    });
    shared.apply(config);
    let _ = slot.set(Arc::downgrade(&shared));
    let there = Arc::downgrade(&shared);
    shared
        .history
        .answer_holds_with(move |hold| there.upgrade().map(|all| all.clients.claims(hold)).unwrap_or_default());
    shared.refresh();

    if let Some(listener) = control {
        tokio::spawn(control::serve(listener, shared.clone()));
    }
    if let Some(listener) = http {
        tokio::spawn(http::serve(listener, shared.clone()));
    }
    let signals = Signals::catch()?;
    println!("ready");
    std::io::stdout().flush()?;
    manager.tell("READY=1");
    tokio::spawn(watch_signals(shared.clone(), manager.clone(), signals));
    let leaving = shared.clone();
    let leave = tokio::spawn(async move {
        let _ = leaving.life.subscribe().wait_for(|life| *life > Life::Serving).await;
        manager.tell("STOPPING=1");
        // Whoever comes next finds no socket, or another process'.
        drop(unix);
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "serving");

    proxy::serve(clients, shared.clone()).await?;
    if !shared.history.flush(FLUSH).await {
        tracing::error!("the statement log could not be written out in {FLUSH:?}");
    }
    shared.advance(Life::Ending);
    // Where nobody was there, all this took no time: it is said and tidied up all the same.
    let _ = leave.await;
    tracing::info!("ended");
    Ok(())
}

/// The server of a configuration file, for a command, with the configuration.
pub(super) async fn server_of(path: &Path) -> anyhow::Result<(Server, Config)> {
    let mut config = Config::load(path).map_err(|problems| {
        report(&problems);
        BadConfig
    })?;
    open_roads(&mut config.upstream).await.context("cannot open the road to the server")?;
    let server = Server::new(&config.upstream, config.history.capture, config.branches.pg_dump.clone());
    Ok((server, config))
}

/// The recorder reaches each host over TLS as sessions do.
async fn open_roads(upstream: &mut Upstream) -> std::io::Result<()> {
    let each = upstream.each();
    let mut roads = Vec::with_capacity(each.len());
    for one in &each {
        roads.push(proxy::road::open(one).await?);
    }
    let mut roads = roads.into_iter();
    upstream.road = roads.next().flatten();
    for (host, road) in upstream.other_hosts.iter_mut().zip(roads) {
        host.road = road;
    }
    Ok(())
}

/// The signals that are answered. Whoever is told `ready` may send them: they are caught before that.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

async fn watch_signals(shared: Arc<Shared>, manager: Manager, mut signals: Signals) {
    let mut asked = false;
    loop {
        let end = tokio::select! {
            _ = signals.hangup.recv() => false,
            _ = signals.terminate.recv() => true,
            _ = signals.interrupt.recv() => true,
        };
        if !end {
            manager.tell_reloading();
            match shared.reload() {
                Ok(waiting) => {
                    tracing::info!("configuration reloaded");
                    if !waiting.is_empty() {
                        let keys = waiting.join(", ");
                        tracing::warn!(keys, "these have changed in the file and need a restart");
                    }
                }
                Err(problems) => {
                    for problem in problems {
                        tracing::error!(place = problem.place, "{}; the old configuration stays", problem.message);
                    }
                }
            }
            manager.tell("READY=1");
        } else if asked {
            tracing::warn!("asked again: ending every session now");
            shared.advance(Life::Ending);
        } else {
            tracing::info!(clients = shared.clients.len(), "draining");
            shared.advance(Life::Draining);
            asked = true;
        }
    }
}

/// Prints every problem and its place.
pub(super) fn report(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{}: {}", problem.place, problem.message);
    }
}
