//! Whole messages from a client, their lengths and inner structure checked.
//!
//! pgwire's decoders read counts and lengths from a message and take that many bytes; a message that lies makes
//! them panic, and this process must not. So a message is looked through here first, and one that does not add up
//! ends its connection with 08P01. Formats: <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::tls::HANDSHAKE;
use crate::wire::startup::{GSSENC_REQUEST, SSL_REQUEST};

/// A start-up packet, as the server limits it.
const MAX_STARTUP: usize = 10_000;

/// A message before the login is complete: SASL texts are a few hundred bytes.
pub(super) const MAX_LOGIN_MESSAGE: usize = 4096;

/// A message after login: commands are short, psql's longest catalog query is under 8 KiB.
pub const MAX_MESSAGE: usize = 64 << 10;

/// How a client's bytes disappoint.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Not a message; the text is for the client.
    #[error("{0}")]
    Malformed(&'static str),
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What opened the connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    /// The start-up packet with its length.
    Startup(BytesMut),
    /// SSLRequest: answer, and read again.
    Ssl,
    /// GSSENCRequest: answer `N` and read again.
    Gssenc,
    /// TLS has begun unasked; these are its first bytes.
    Handshake([u8; 8]),
    /// CancelRequest: nothing here runs long enough to be cancelled.
    Cancel,
}

/// Reads the first packet; `None` when the client went away. Not cancel safe.
pub async fn read_opening(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Opening>, FrameError> {
    let mut head = [0; 8];
    match stream.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    if head.first() == Some(&HANDSHAKE) {
        return Ok(Some(Opening::Handshake(head)));
    }
    let mut fields = &head[..];
    let (length, code) = (fields.get_u32() as usize, fields.get_u32());
    match (length, code) {
        (8, SSL_REQUEST) => return Ok(Some(Opening::Ssl)),
        (8, GSSENC_REQUEST) => return Ok(Some(Opening::Gssenc)),
        (12..=MAX_LOGIN_MESSAGE, 80_877_102) => return Ok(Some(Opening::Cancel)),
        (9..=MAX_STARTUP, _) if code >> 16 == 3 => {}
        (9..=MAX_STARTUP, _) => return Err(FrameError::Malformed("unsupported frontend protocol")),
        _ => return Err(FrameError::Malformed("invalid length of startup packet")),
    }
    let mut packet = BytesMut::from(&head[..]);
    packet.resize(length, 0);
    stream.read_exact(packet.get_mut(8..).unwrap_or_default()).await?;
    let malformed = FrameError::Malformed("invalid startup packet layout: expected terminator as last byte");
    let mut body = Reader(packet.get(8..).unwrap_or_default());
    loop {
        match body.text() {
            Some([]) if body.0.is_empty() => return Ok(Some(Opening::Startup(packet))),
            Some([]) | None => return Err(malformed),
            Some(_) if body.text().is_some() => {}
            Some(_) => return Err(malformed),
        }
    }
}

/// Reads one message into `inbox` and takes it out, tag and length included; `None` when the client went away.
/// Cancel safe: what was read stays in `inbox`.
pub async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
    inbox: &mut BytesMut,
    limit: usize,
) -> Result<Option<BytesMut>, FrameError> {
    loop {
        if let [tag, a, b, c, d, ..] = inbox[..] {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if !(4..=limit).contains(&length) {
                return Err(FrameError::Malformed("invalid message length"));
            }
            if inbox.len() > length {
                let message = inbox.split_to(length + 1);
                let body = message.get(5..).unwrap_or_default();
                return if is_well_formed(tag, body) {
                    Ok(Some(message))
                } else {
                    Err(FrameError::Malformed("invalid message format"))
                };
            }
            inbox.reserve(length + 1 - inbox.len());
        }
        if stream.read_buf(inbox).await? == 0 {
            return Ok(None);
        }
    }
}

/// Whether a SASLInitialResponse (the first answer to a SASL request) adds up.
pub(super) fn is_sasl_initial(body: &Bytes) -> bool {
    let mut body = Reader(body);
    match (body.text(), body.int()) {
        (Some(_), Some(u32::MAX)) => body.0.is_empty(),
        (Some(_), Some(length)) => body.0.len() == length as usize,
        (None, _) | (Some(_), None) => false,
    }
}

fn is_well_formed(tag: u8, body: &[u8]) -> bool {
    let mut body = Reader(body);
    let read = match tag {
        b'p' => return true,
        b'Q' => body.text().map(drop),
        b'P' => body.parse(),
        b'B' => body.bind(),
        b'D' | b'C' => body
            .take(1)
            .and_then(|kind| (kind == b"S" || kind == b"P").then_some(()))
            .and_then(|()| body.text().map(drop)),
        b'E' => body.text().and_then(|_| body.int()).map(drop),
        b'H' | b'S' | b'X' => Some(()),
        _ => None,
    };
    read.is_some() && body.0.is_empty()
}

/// Takes fields from the front; `None` where there is less than a field needs.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// Up to a NUL, which is passed over.
    fn text(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(0, self.0)?;
        let text = self.take(end)?;
        self.take(1).map(|_| text)
    }

    fn short(&mut self) -> Option<usize> {
        self.take(2).map(|mut bytes| bytes.get_u16() as usize)
    }

    fn int(&mut self) -> Option<u32> {
        self.take(4).map(|mut bytes| bytes.get_u32())
    }

    fn parse(&mut self) -> Option<()> {
        self.text()?;
        self.text()?;
        let types = self.short()?;
        self.take(types * 4).map(drop)
    }

    fn bind(&mut self) -> Option<()> {
        self.text()?;
        self.text()?;
        let formats = self.short()?;
        self.take(formats * 2)?;
        for _ in 0..self.short()? {
            match self.int()? {
                u32::MAX => {}
                length => self.take(length as usize).map(drop)?,
            }
        }
        let formats = self.short()?;
        self.take(formats * 2).map(drop)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use futures::FutureExt;
    use pgwire::messages::{DecodeContext, PgWireFrontendMessage};
    use proptest::prelude::*;

    use super::*;

    fn context() -> DecodeContext {
        let mut context = DecodeContext::default();
        context.awaiting_frontend_ssl = false;
        context.awaiting_frontend_startup = false;
        context
    }

    fn read(bytes: &[u8]) -> Result<Option<BytesMut>, FrameError> {
        let mut inbox = BytesMut::new();
        read_message(&mut &bytes[..], &mut inbox, MAX_MESSAGE).now_or_never().unwrap()
    }

    proptest! {
        #[test]
        fn what_passes_never_panics_in_the_decoder(tag in prop::sample::select(b"pQPBDCEHSXdcfZ\0".to_vec()),
                                                   body in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..60)) {
            let mut bytes = vec![tag];
            bytes.extend((body.len() as u32 + 4).to_be_bytes());
            bytes.extend(&body);
            if let Ok(Some(mut message)) = read(&bytes) {
                let decoded = PgWireFrontendMessage::decode(&mut message, &context());
                prop_assert!(decoded.unwrap().is_some());
                prop_assert!(message.is_empty());
            }
        }

        #[test]
        fn openings_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(read_opening(&mut &bytes[..]).now_or_never().is_some());
        }
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_kept() {
        for length in [0u32, 3, MAX_MESSAGE as u32 + 1, u32::MAX] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert!(matches!(read(&bytes), Err(FrameError::Malformed(_))), "{length}");
        }
    }

    #[test]
    fn startup_packets_are_read_whole() {
        let mut packet = 23u32.to_be_bytes().to_vec();
        packet.extend(196_608u32.to_be_bytes());
        packet.extend(b"user\0operator\0\0");
        packet[3] = packet.len() as u8;
        let opening = read_opening(&mut &packet[..]).now_or_never().unwrap().unwrap();
        assert_eq!(opening, Some(Opening::Startup(BytesMut::from(&packet[..]))));
        let last = packet.len() - 1;
        packet[last] = b'x';
        assert!(read_opening(&mut &packet[..]).now_or_never().unwrap().is_err());
    }
}
