//! A connection of either leg, with TLS or without.

use std::io;
use std::task::{Context, Poll};

use super::transport::{Socket, Transport};

/// See the module.
pub(super) type Stream = crate::tls::Stream<Transport>;

impl Socket for Stream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_readable(cx),
            Self::Tls(stream) => {
                let (socket, tls) = stream.get_ref();
                // What was decrypted with an earlier read is there although the socket gives nothing, as is the end.
                if !tls.wants_read() { Poll::Ready(Ok(())) } else { socket.poll_readable(cx) }
            }
        }
    }

    fn wants_flush(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.wants_write(),
        }
    }
}
