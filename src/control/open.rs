//! From the first byte of a connection to its start-up packet: TLS where it is asked for, and who may come without.

use bytes::BytesMut;
use pgwire::messages::startup::Startup;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::CommandError;
use super::frame::{FrameError, Opening, read_opening};
use crate::config::{ListenTls, TlsMode};
use crate::tls::{self, Stream, clients};

/// SSLRequest and GSSENCRequest, each once.
const MAX_ENCRYPTION_REQUESTS: usize = 2;

/// A connection, and the start-up packet: `None` when there will be none.
pub(super) type Opened = (Stream<TcpStream>, Result<Option<BytesMut>, FrameError>);

/// Reads the start-up packet. Nothing is read ahead: what was not encrypted and came before the answer to an SSLRequest
/// is no TLS, and ends the connection.
pub(super) async fn open(stream: TcpStream, tls: &ListenTls) -> std::io::Result<Opened> {
    let ready = tls.ready.as_ref();
    let mut stream = Stream::Plain(stream);
    for _ in 0..=MAX_ENCRYPTION_REQUESTS {
        let opening = match read_opening(&mut stream).await {
            Ok(Some(opening)) => opening,
            Ok(None) => return Ok((stream, Ok(None))),
            Err(error) => return Ok((stream, Err(error))),
        };
        stream = match (opening, stream, ready) {
            (Opening::Startup(packet), stream, _) => return Ok((stream, Ok(Some(packet)))),
            (Opening::Cancel, stream, _) => return Ok((stream, Ok(None))),
            (Opening::Ssl, Stream::Plain(mut plain), Some(ready)) => {
                plain.write_all(b"S").await?;
                Box::pin(tls::accept(plain, ready, &[])).await?
            }
            (Opening::Handshake(begun), Stream::Plain(plain), Some(ready)) => {
                Box::pin(tls::accept(plain, ready, &begun)).await?
            }
            (Opening::Handshake(_), stream, _) => {
                return Ok((stream, Err(FrameError::Malformed("invalid length of startup packet"))));
            }
            (Opening::Ssl | Opening::Gssenc, mut stream, _) => {
                stream.write_all(b"N").await?;
                stream.flush().await?;
                stream
            }
        };
    }
    Ok((stream, Err(FrameError::Malformed("too many requests for encryption"))))
}

/// Whether whoever came this way may log in as this user.
pub(super) fn is_welcome(stream: &Stream<TcpStream>, tls: &ListenTls, startup: &Startup) -> Result<(), CommandError> {
    if tls.mode == TlsMode::Require && !stream.is_tls() {
        return Err(CommandError::new("28000", "connections without TLS are not accepted")
            .hint("Connect with sslmode=require."));
    }
    let user = startup.parameters.get("user").map(String::as_str).unwrap_or_default();
    match stream.peer_certificate().filter(|_| tls.user_from_certificate) {
        Some(certificate) if clients::common_name(certificate).as_deref() != Some(user) => {
            let message = format!("certificate authentication failed for user \"{user}\"");
            Err(CommandError::new("28000", message))
        }
        Some(_) | None => Ok(()),
    }
}
