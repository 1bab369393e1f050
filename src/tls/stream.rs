//! A connection with TLS or without. Without, nothing stands between its user and the socket.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{ALPN, ForClients};

/// The first byte of a TLS handshake, which no start-up packet begins with: it would be hundreds of megabytes long.
pub const HANDSHAKE: u8 = 0x16;

/// See the module.
pub enum Stream<S> {
    /// As the socket has it.
    Plain(S),
    /// Encrypted.
    Tls(Box<TlsStream<S>>),
}

/// Shakes hands with a client. `begun` are bytes of its first message that were read already; without an SSLRequest
/// before them it has to say what it speaks, so that it is nobody who was led here.
pub async fn accept<S>(client: S, tls: &ForClients, begun: &[u8]) -> io::Result<Stream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let acceptor = TlsAcceptor::from(tls.config.clone());
    let mut unread = begun;
    let mut stream = acceptor
        .accept_with(client, |connection| {
            // Reading nothing would be the end of the connection.
            if !unread.is_empty() {
                // Reading from memory cannot fail, and a few bytes always fit.
                let _ = connection.read_tls(&mut unread);
            }
        })
        .await?;
    if !begun.is_empty() && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        let _ = stream.shutdown().await;
        let without = "direct TLS without the ALPN protocol \"postgresql\"";
        return Err(io::Error::new(io::ErrorKind::InvalidData, without));
    }
    Ok(Stream::Tls(Box::new(stream.into())))
}

impl<S> Stream<S> {
    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Its version as the server calls it (`pg_stat_ssl`), where it is encrypted.
    pub fn tls_version(&self) -> Option<&'static str> {
        let Self::Tls(stream) = self else { return None };
        Some(match stream.get_ref().1.protocol_version()? {
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => "unknown",
        })
    }

    /// The certificate of the other side, where it showed one.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
