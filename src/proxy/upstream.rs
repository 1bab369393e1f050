//! Connections to the PostgreSQL server.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::stream::Stream;
use super::tls;
use super::transport::Transport;
use crate::config::{TcpLimits, Upstream};
use crate::state::Shared;
use crate::tls::{Order, ToServer};

/// Where the server listens; kept for cancel requests, which go the same way, with TLS where the session has it.
#[derive(Debug, Clone)]
pub(super) struct Address {
    host: String,
    port: u16,
    timeout: Duration,
    tcp: TcpLimits,
    tls: Option<ToServer>,
}

impl Address {
    pub fn of(upstream: &Upstream, tcp: TcpLimits) -> Self {
        Self {
            host: upstream.host.clone(),
            port: upstream.port,
            timeout: upstream.connect_timeout,
            tcp,
            tls: upstream.tls.clone(),
        }
    }

    /// How long connecting, and what goes over the connection at once, may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Connects, within the configured time.
    pub async fn connect(&self) -> io::Result<Stream> {
        match tokio::time::timeout(self.timeout, self.connect_patiently()).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "timeout expired")),
        }
    }

    async fn connect_patiently(&self) -> io::Result<Stream> {
        let stream = self.reach().await?;
        let Some(tls) = self.tls.as_ref().filter(|tls| tls.order != Order::PlainFirst) else {
            return Ok(Stream::Plain(stream));
        };
        match tls::connect(stream, tls).await {
            Err(error) if tls.order == Order::TlsFirst => {
                // As libpq does: a server whose TLS does not work is taken without.
                tracing::debug!(%error, "no TLS with the server");
                Ok(Stream::Plain(self.reach().await?))
            }
            connected => connected,
        }
    }

    /// The way that is left when the server refused whoever came by this one.
    pub fn other_road(&self, came_by_tls: bool) -> Option<Self> {
        let tls = self.tls.as_ref()?;
        let tls = match (tls.order, came_by_tls) {
            (Order::TlsFirst, true) => None,
            (Order::PlainFirst, false) => Some(ToServer { order: Order::TlsOnly, ..tls.clone() }),
            (Order::TlsOnly | Order::TlsFirst | Order::PlainFirst, _) => return None,
        };
        Some(Self { tls, ..self.clone() })
    }

    /// From now on with TLS only, or without.
    pub fn keep_to(&mut self, by_tls: bool) {
        self.tls = self.tls.take().filter(|_| by_tls).map(|tls| ToServer { order: Order::TlsOnly, ..tls });
    }

    async fn reach(&self) -> io::Result<Transport> {
        if self.host.starts_with('/') {
            let path = Path::new(&self.host).join(format!(".s.PGSQL.{}", self.port));
            return Ok(Transport::Unix(UnixStream::connect(path).await?));
        }
        let stream = Transport::Tcp(TcpStream::connect((self.host.as_str(), self.port)).await?);
        stream.tune(&self.tcp)?;
        Ok(stream)
    }
}

/// Why there is no connection to the server.
pub(super) enum NoServer {
    /// The last host that was tried did not answer.
    Io(io::Error),
    /// None of the hosts is what `target_session_attrs` asks for.
    NoneWillDo(String),
}

/// Connects to the first host that will do and answers.
pub(super) async fn reach(shared: &Shared) -> Result<(Address, Stream), NoServer> {
    let hosts = shared.history.hosts_for_sessions().await.map_err(NoServer::NoneWillDo)?;
    let config = shared.config.load_full();
    let mut failure = io::ErrorKind::NotFound.into();
    if let [0] = hosts[..]
        && config.upstream.other_hosts.is_empty()
    {
        let address = Address::of(&config.upstream, config.limits.tcp);
        return address.connect().await.map(|server| (address, server)).map_err(NoServer::Io);
    }
    let each = config.upstream.each();
    for (host, upstream) in hosts.into_iter().filter_map(|host| Some((host, each.get(host)?))) {
        let address = Address::of(upstream, config.limits.tcp);
        match address.connect().await {
            Ok(server) => return Ok((address, server)),
            Err(error) => {
                tracing::info!(%error, %address, "a host of the server does not answer");
                shared.history.host_failed(host);
                failure = error;
            }
        }
    }
    Err(NoServer::Io(failure))
}

/// As `SHOW SERVERS` names it.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.as_str() {
            socket if socket.starts_with('/') => write!(f, "{socket}/.s.PGSQL.{}", self.port),
            v6 if v6.contains(':') => write!(f, "[{v6}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}
