//! A connected socket, TCP or unix, of either leg.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::config::TcpLimits;

/// A connection.
pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection on its way from one worker's thread to another's.
pub(super) enum Parcel {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A socket whose readiness can be asked without a buffer at hand.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// Whether a read would give something.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Whether it holds bytes back that it took and could not send.
    fn wants_flush(&self) -> bool;
}

impl Transport {
    /// Whether the peer has sent bytes that nobody has read.
    pub fn has_unread(&self) -> bool {
        matches!(self.peek(), Ok(n) if n > 0)
    }

    /// Ready when the peer has hung up; not while there is something from it that nobody has read.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        while self.poll_readable(cx).is_ready() {
            let peeked = match self {
                Self::Tcp(stream) => stream.try_io(Interest::READABLE, || self.peek()),
                Self::Unix(stream) => stream.try_io(Interest::READABLE, || self.peek()),
            };
            match peeked {
                Ok(n) if n > 0 => return Poll::Pending,
                // It was ready for what has been read since.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    fn peek(&self) -> io::Result<usize> {
        let socket = match self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
        };
        socket.peek(&mut [MaybeUninit::uninit()])
    }

    /// Small messages leave at once, and a peer that vanished without a word is noticed: within the kernel's keepalive
    /// time, or the configured one. Nothing to do for a unix socket.
    pub fn tune(&self, limits: &TcpLimits) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        // Turns keepalive on, whatever of it is set.
        let mut keepalive = TcpKeepalive::new();
        if let Some(time) = limits.keepalive_idle {
            keepalive = keepalive.with_time(time);
        }
        if let Some(interval) = limits.keepalive_interval {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(count) = limits.keepalive_count {
            keepalive = keepalive.with_retries(count);
        }
        socket.set_tcp_keepalive(&keepalive)?;
        if limits.user_timeout.is_some() {
            socket.set_tcp_user_timeout(limits.user_timeout)?;
        }
        Ok(())
    }

    /// Takes it off this thread's reactor.
    pub fn pack(self) -> io::Result<Parcel> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(Parcel::Tcp),
            Self::Unix(stream) => stream.into_std().map(Parcel::Unix),
        }
    }
}

impl Parcel {
    /// Puts it on this thread's reactor.
    pub fn unpack(self) -> io::Result<Transport> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(Transport::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream).map(Transport::Unix),
        }
    }
}

impl Socket for Transport {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    fn wants_flush(&self) -> bool {
        false
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
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
