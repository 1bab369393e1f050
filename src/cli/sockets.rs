//! The sockets that listen: bound here, or inherited from a service manager.
//!
//! An inherited socket stays open while one process ends and the next one starts, so that nobody is refused in between.
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html>

use std::net::SocketAddr;

use anyhow::Context;
use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::unix_socket::UnixSocket;
use crate::config::Config;
use crate::proxy::Listener;

/// As many as the kernel allows: a burst of connections waits instead of being refused.
const BACKLOG: i32 = 4096;

/// All of them.
pub(super) struct Sockets {
    /// Where clients come in.
    pub clients: Vec<Listener>,
    /// The control port.
    pub control: Option<TcpListener>,
    /// Metrics and health.
    pub http: Option<TcpListener>,
    /// Removes the unix socket's files when dropped.
    pub unix: Option<UnixSocket>,
}

/// What came from the service manager, by purpose.
#[derive(Default)]
struct Inherited {
    clients: Vec<std::net::TcpListener>,
    sockets: Vec<std::os::unix::net::UnixListener>,
    control: Option<std::net::TcpListener>,
    http: Option<std::net::TcpListener>,
}

impl Sockets {
    /// Binds what was not inherited, and says where each listens: scripts and tests read these lines.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let inherited = Inherited::take()?;
        let mut clients = Vec::new();
        let mut tcp = inherited.clients;
        if tcp.is_empty() {
            tcp.push(bind("clients", config.listen.address, config.listen.reuse_port)?);
        }
        let mut port = config.listen.address.port();
        for listener in tcp {
            let address = listener.local_addr()?;
            port = address.port();
            println!("clients {address}");
            clients.push(Listener::Tcp(ready(listener)?));
        }
        let mut unix = None;
        if inherited.sockets.is_empty()
            && let Some(directory) = &config.listen.unix_socket_dir
        {
            let permissions = config.listen.unix_socket_permissions;
            let (socket, listener) = UnixSocket::open(directory, port, permissions, config.listen.reuse_port)?;
            println!("socket {}", socket.path().display());
            listener.set_nonblocking(true)?;
            clients.push(Listener::Unix(listener));
            unix = Some(socket);
        }
        for listener in inherited.sockets {
            listener.set_nonblocking(true)?;
            clients.push(Listener::Unix(listener));
        }
        Ok(Self {
            clients,
            control: port_of("control", inherited.control, config.control.address)?,
            http: port_of("http", inherited.http, config.http.address)?,
            unix,
        })
    }
}

impl Inherited {
    /// By their names in `LISTEN_FDNAMES`: `control`, `http`, and whatever has another name is for clients.
    fn take() -> anyhow::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        let mut given = ListenFd::from_env();
        let mut inherited = Self::default();
        for at in 0..given.len() {
            let name = names.get(at).copied().unwrap_or_default();
            if let Ok(Some(listener)) = given.take_unix_listener(at) {
                anyhow::ensure!(
                    !matches!(name, "control" | "http"),
                    "the inherited socket for {name} is no TCP socket"
                );
                inherited.sockets.push(listener);
                continue;
            }
            let listener = given.take_tcp_listener(at).with_context(|| format!("inherited socket {at}"))?;
            match name {
                "control" => inherited.control = listener,
                "http" => inherited.http = listener,
                _ => inherited.clients.extend(listener),
            }
        }
        Ok(inherited)
    }
}

fn port_of(
    name: &str,
    inherited: Option<std::net::TcpListener>,
    address: Option<SocketAddr>,
) -> anyhow::Result<Option<TcpListener>> {
    let listener = match (inherited, address) {
        (Some(listener), _) => listener,
        (None, Some(address)) => bind(name, address, false)?,
        (None, None) => return Ok(None),
    };
    println!("{name} {}", listener.local_addr()?);
    Ok(Some(TcpListener::from_std(ready(listener)?)?))
}

fn bind(name: &str, address: SocketAddr, reuse_port: bool) -> anyhow::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into()).with_context(|| format!("cannot bind {address} for {name}"))?;
    socket.listen(BACKLOG).with_context(|| format!("cannot listen on {address} for {name}"))?;
    Ok(socket.into())
}

fn ready(listener: std::net::TcpListener) -> std::io::Result<std::net::TcpListener> {
    listener.set_nonblocking(true)?;
    Ok(listener)
}
