//! A server's first words, and the other road to it, with TLS or without, where `sslmode` leaves both open.
//!
//! <https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION>

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stream::Stream;
use super::upstream::Address;
use crate::wire::error;
use crate::wire::frame::HEADER;

/// Longer messages the server does not send before a login; libpq's own bound for an error at that time.
const MAX_GREETING: usize = 30_000;

/// What a server answered to a start-up packet.
pub(super) struct Greeting {
    /// NegotiateProtocolVersion and notices.
    pub notices: Vec<u8>,
    /// The first message that is more than that: a question, a welcome, an error. `None`: it hung up.
    pub first: Option<Vec<u8>>,
}

/// Sends a start-up packet. Where the server refuses whoever comes this way, and `sslmode` allows the other way, that is
/// tried: as libpq does, but only where the server has asked for nothing yet. Who has answered a question is known to the
/// server by this road, and what was proven on it is not carried to another.
///
/// The server and its address are then those of the road that was taken; cancel requests take no other.
pub(super) async fn greet(server: &mut Stream, address: &mut Address, packet: &[u8]) -> io::Result<Greeting> {
    let mut greeting = ask(server, packet).await?;
    if greeting.refuses_the_road()
        && let Some(other) = address.other_road(server.is_tls())
    {
        // What goes wrong there is no answer to anybody: the one that is there stands.
        match ask_at(&other, packet).await {
            Ok((taken, answer)) => (*server, greeting) = (taken, answer),
            Err(error) => tracing::debug!(%error, "the other road to the server leads nowhere"),
        }
    }
    address.keep_to(server.is_tls());
    Ok(greeting)
}

async fn ask_at(address: &Address, packet: &[u8]) -> io::Result<(Stream, Greeting)> {
    let mut server = address.connect().await?;
    let greeting = tokio::time::timeout(address.timeout(), ask(&mut server, packet)).await??;
    Ok((server, greeting))
}

async fn ask(server: &mut Stream, packet: &[u8]) -> io::Result<Greeting> {
    server.write_all(packet).await?;
    let mut notices = Vec::new();
    loop {
        match read_frame(server).await? {
            Some(frame) if matches!(frame.first(), Some(b'v' | b'N')) && notices.len() <= MAX_GREETING => {
                notices.extend_from_slice(&frame);
            }
            first => return Ok(Greeting { notices, first }),
        }
    }
}

impl Greeting {
    /// `pg_hba.conf` lets nobody in who comes from there this way.
    fn refuses_the_road(&self) -> bool {
        let Some(first) = &self.first else { return false };
        first.first() == Some(&b'E')
            && error::field(first.get(HEADER..).unwrap_or_default(), b'C') == Some(b"28000".as_slice())
    }
}

/// One whole message of the server; `None` when it has closed. Not a byte more is read.
pub(super) async fn read_frame(server: &mut Stream) -> io::Result<Option<Vec<u8>>> {
    server.flush().await?;
    let mut head = [0; HEADER];
    if let Err(error) = server.read_exact(&mut head).await {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let [_, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    if !(4..=MAX_GREETING).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of the server is too long before a login"));
    }
    let mut frame = head.to_vec();
    frame.resize(length + 1, 0);
    server.read_exact(frame.get_mut(HEADER..).unwrap_or_default()).await?;
    Ok(Some(frame))
}
