//! `pggit-proxy serve`: makes the shared state, binds the addresses, and waits for the end.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Config, Overrides, Problem};
use crate::history::History;
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

async fn serve(config: Config, path: Option<PathBuf>) -> anyhow::Result<()> {
    let clients = bind("clients", config.listen.address).await?;
    let control_port = bind_some("control", config.control.address).await?;
    let metrics_port = bind_some("http", config.http.address).await?;

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
    shared.refresh();

    if let Some(listener) = control_port {
        tokio::spawn(control::serve(listener, shared.clone()));
    }
    if let Some(listener) = metrics_port {
        tokio::spawn(http::serve(listener, shared.clone()));
    }
    tokio::spawn(watch_signals(shared.clone()));
    println!("ready");
    std::io::stdout().flush()?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "serving");

    proxy::serve(clients, shared.clone()).await?;
    if !shared.history.flush(FLUSH).await {
        tracing::error!("the statement log could not be written out in {FLUSH:?}");
    }
    shared.advance(Life::Ending);
    tracing::info!("ended");
    Ok(())
}

/// Binds, and says where: scripts and tests read these lines.
async fn bind(name: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("cannot bind {address} for {name}"))?;
    // As many as the kernel allows: a burst of connections waits instead of being refused.
    let listener = socket.listen(4096).with_context(|| format!("cannot listen on {address} for {name}"))?;
    println!("{name} {}", listener.local_addr()?);
    Ok(listener)
}

async fn bind_some(name: &str, address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    match address {
        Some(address) => bind(name, address).await.map(Some),
        None => Ok(None),
    }
}

async fn watch_signals(shared: Arc<Shared>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut asked = false;
    loop {
        let end = tokio::select! {
            _ = hangup.recv() => false,
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
        };
        if !end {
            match shared.reload() {
                Ok(()) => tracing::info!("configuration reloaded"),
                Err(problems) => {
                    for problem in problems {
                        tracing::error!(place = problem.place, "{}; the old configuration stays", problem.message);
                    }
                }
            }
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
fn report(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{}: {}", problem.place, problem.message);
    }
}
