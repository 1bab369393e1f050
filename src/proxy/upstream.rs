//! Connections to the PostgreSQL server.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::config::Upstream;

/// A connection to the server.
pub(super) enum ServerStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Where the server listens; kept for cancel requests, which go the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    host: String,
    port: u16,
    timeout: Duration,
}

impl Address {
    pub fn of(upstream: &Upstream) -> Self {
        Self { host: upstream.host.clone(), port: upstream.port, timeout: upstream.connect_timeout }
    }

    /// How long connecting, and what goes over the connection at once, may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Connects, within the configured time.
    pub async fn connect(&self) -> io::Result<ServerStream> {
        match tokio::time::timeout(self.timeout, self.connect_patiently()).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "timeout expired")),
        }
    }

    async fn connect_patiently(&self) -> io::Result<ServerStream> {
        if self.host.starts_with('/') {
            let path = Path::new(&self.host).join(format!(".s.PGSQL.{}", self.port));
            return Ok(ServerStream::Unix(UnixStream::connect(path).await?));
        }
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        // A server that vanished without a word is noticed within the kernel's keepalive time.
        socket2::SockRef::from(&stream).set_keepalive(true)?;
        Ok(ServerStream::Tcp(stream))
    }
}

/// A socket whose readiness can be asked without a buffer at hand.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// Whether a read would give something.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Socket for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }
}

impl Socket for ServerStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
