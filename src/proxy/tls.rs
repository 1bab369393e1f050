//! TLS on a connection that was just made: with a client that asks for it, with the server that is asked.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>

use std::io;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::stream::Stream;
use super::transport::Transport;
use crate::tls::{ALPN, ForClients, ToServer};
use crate::wire::startup::ssl_request;

/// The first byte of a TLS handshake, which no start-up packet begins with: it would be hundreds of megabytes long.
pub(super) const HANDSHAKE: u8 = 0x16;

/// Shakes hands with a client. `begun` are bytes of its first message that were read already; without an SSLRequest
/// before them it has to say what it speaks, so that it is nobody who was led here.
pub(super) async fn accept(client: Transport, tls: &ForClients, begun: &[u8]) -> io::Result<Stream> {
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

/// Asks the server for TLS; where it has none and need not have any, the connection stays as it is.
pub(super) async fn connect(mut server: Transport, tls: &ToServer) -> io::Result<Stream> {
    let no = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if tls.optional && tls.refused.lately() {
        return Ok(Stream::Plain(server));
    }
    if !tls.direct {
        server.write_all(&ssl_request()).await?;
        // One byte and no more: what follows belongs to TLS, or is no answer.
        match server.read_u8().await? {
            b'S' => {}
            b'N' if tls.optional => {
                tls.refused.note();
                return Ok(Stream::Plain(server));
            }
            b'N' => return Err(no("the server does not support TLS, but sslmode requires it".to_owned())),
            other => return Err(no(format!("the server answered {:?} to a request for TLS", char::from(other)))),
        }
    }
    let name: ServerName<'static> = tls.name.clone();
    let stream = TlsConnector::from(tls.config.clone()).connect(name, server).await?;
    if tls.direct && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(no("the server did not choose the ALPN protocol \"postgresql\"".to_owned()));
    }
    Ok(Stream::Tls(Box::new(stream.into())))
}
