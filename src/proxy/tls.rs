//! TLS on a connection that was just made to the server.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>

use std::io;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::stream::Stream;
use super::transport::Transport;
use crate::tls::{ALPN, Order, ToServer};
use crate::wire::startup::ssl_request;

/// Asks the server for TLS; where it has none and need not have any, the connection stays as it is.
pub(super) async fn connect(mut server: Transport, tls: &ToServer) -> io::Result<Stream> {
    let no = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let optional = tls.order == Order::TlsFirst;
    if optional && tls.refused.lately() {
        return Ok(Stream::Plain(server));
    }
    if !tls.direct {
        server.write_all(&ssl_request()).await?;
        // One byte and no more: what follows belongs to TLS, or is no answer.
        match server.read_u8().await? {
            b'S' => {}
            b'N' if optional => {
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
