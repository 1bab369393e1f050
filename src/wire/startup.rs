//! What a client may send first: a start-up packet, or one of the requests that look like one.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-STARTUPMESSAGE>

use super::frame;

/// The server's own bound on a start-up packet: `MAX_STARTUP_PACKET_LENGTH` and the length word, in bytes.
pub const MAX_PACKET: usize = 10_004;

const CANCEL_REQUEST: u32 = 80_877_102;
/// The code of an SSLRequest, where a protocol version would stand.
pub const SSL_REQUEST: u32 = 80_877_103;
/// The code of a GSSENCRequest.
pub const GSSENC_REQUEST: u32 = 80_877_104;

/// A first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    /// Asks for TLS.
    Ssl,
    /// Asks for GSSAPI encryption.
    Gssenc,
    /// Asks to cancel what the session with this key runs.
    Cancel {
        /// The process id of BackendKeyData.
        pid: u32,
        /// The secret of BackendKeyData: 4 bytes in protocol 3.0, up to 256 in 3.2.
        secret: Vec<u8>,
    },
    /// Starts a session.
    Startup(Startup),
}

/// A parameter's name and value.
pub type Parameter = (Vec<u8>, Vec<u8>);

/// A start-up packet's content; texts are bytes in whatever encoding the client uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// Major and minor protocol version, as sent.
    pub version: u32,
    /// Names and values in their order.
    pub parameters: Vec<Parameter>,
}

/// What is wrong with a first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// Shorter or longer than any can be.
    #[error("invalid length of startup packet")]
    Length,
    /// Its parameters do not end where it ends.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// Another major version than 3.
    #[error("unsupported frontend protocol {}.{}: server supports 3.0 to 3.2", .0 >> 16, .0 & 0xffff)]
    Version(u32),
    /// Bytes that were there before the answer to a request for encryption, by the code of the request.
    #[error("received unencrypted data after {} request", if *.0 == SSL_REQUEST { "SSL" } else { "GSSAPI encryption" })]
    Unencrypted(u32),
}

/// Checks the length word of a first packet; the whole packet's length in bytes.
pub fn length(word: [u8; 4]) -> Result<usize, Bad> {
    let length = u32::from_be_bytes(word) as usize;
    if (8..=MAX_PACKET).contains(&length) { Ok(length) } else { Err(Bad::Length) }
}

/// Reads a whole first packet without its length word.
pub fn read(packet: &[u8]) -> Result<First, Bad> {
    let Some((code, body)) = packet.split_first_chunk::<4>() else { return Err(Bad::Length) };
    match u32::from_be_bytes(*code) {
        SSL_REQUEST => Ok(First::Ssl),
        GSSENC_REQUEST => Ok(First::Gssenc),
        CANCEL_REQUEST => match body.split_first_chunk::<4>() {
            Some((pid, secret)) if !secret.is_empty() && secret.len() <= 256 => {
                Ok(First::Cancel { pid: u32::from_be_bytes(*pid), secret: secret.to_vec() })
            }
            _ => Err(Bad::Length),
        },
        version if version >> 16 == 3 => Ok(First::Startup(Startup { version, parameters: parameters(body)? })),
        version => Err(Bad::Version(version)),
    }
}

fn parameters(mut body: &[u8]) -> Result<Vec<Parameter>, Bad> {
    let mut found = Vec::new();
    loop {
        let (name, rest) = frame::cstr(body).ok_or(Bad::Layout)?;
        if name.is_empty() {
            return if rest.is_empty() { Ok(found) } else { Err(Bad::Layout) };
        }
        let (value, rest) = frame::cstr(rest).ok_or(Bad::Layout)?;
        found.push((name.to_vec(), value.to_vec()));
        body = rest;
    }
}

impl Startup {
    /// The value of a parameter; the last one where it is given twice, as the server takes it.
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().rev().find(|(found, _)| found == name.as_bytes()).map(|(_, value)| value.as_slice())
    }

    /// Sets a parameter, in its place if it was there.
    pub fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        let value = value.into();
        match self.parameters.iter_mut().rev().find(|(found, _)| found == name.as_bytes()) {
            Some((_, old)) => *old = value,
            None => self.parameters.push((name.as_bytes().to_vec(), value)),
        }
    }

    /// Takes every parameter of that name out; the last value. Names of settings have no case.
    pub fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        let mut last = None;
        self.parameters.retain_mut(|(found, value)| {
            let same = found.eq_ignore_ascii_case(name.as_bytes());
            if same {
                last = Some(std::mem::take(value));
            }
            !same
        });
        last
    }

    /// The packet as it goes to the server, length word included; an error when it has become too long.
    pub fn to_packet(&self) -> Result<Vec<u8>, Bad> {
        let mut out = vec![0; 4];
        out.extend_from_slice(&self.version.to_be_bytes());
        for (name, value) in &self.parameters {
            for text in [name, value] {
                out.extend_from_slice(text);
                out.push(0);
            }
        }
        out.push(0);
        if out.len() > MAX_PACKET {
            return Err(Bad::Length);
        }
        let length = u32::try_from(out.len()).map_err(|_| Bad::Length)?;
        out[..4].copy_from_slice(&length.to_be_bytes());
        Ok(out)
    }
}

/// An SSLRequest, length word included.
pub fn ssl_request() -> [u8; 8] {
    let [a, b, c, d] = SSL_REQUEST.to_be_bytes();
    [0, 0, 0, 8, a, b, c, d]
}

/// A CancelRequest for the server, length word included.
pub fn cancel_request(pid: u32, secret: &[u8]) -> Vec<u8> {
    let length = 12 + secret.len();
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
    out.extend_from_slice(&pid.to_be_bytes());
    out.extend_from_slice(secret);
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn startup() -> Startup {
        Startup {
            version: 0x0003_0002,
            parameters: vec![
                (b"user".to_vec(), b"ann".to_vec()),
                (b"database".to_vec(), b"app/x".to_vec()),
                (b"_pq_.x".to_vec(), b"".to_vec()),
            ],
        }
    }

    #[test]
    fn a_packet_reads_back() {
        let packet = startup().to_packet().unwrap();
        assert_eq!(length(packet[..4].try_into().unwrap()), Ok(packet.len()));
        assert_eq!(read(&packet[4..]), Ok(First::Startup(startup())));
    }

    #[test]
    fn every_truncation_is_an_error_and_no_panic() {
        let packet = startup().to_packet().unwrap();
        for n in 4..packet.len() {
            assert!(read(&packet[4..n]).is_err(), "cut at {n}");
        }
        let mut longer = packet;
        longer.push(0);
        assert_eq!(read(&longer[4..]), Err(Bad::Layout));
    }

    #[test]
    fn lengths_outside_the_servers_bounds_are_errors() {
        for word in [0u32, 7, 10_005, u32::MAX] {
            assert_eq!(length(word.to_be_bytes()), Err(Bad::Length));
        }
    }

    #[test]
    fn cancel_requests_carry_keys_of_any_legal_length() {
        for n in [4, 32, 256] {
            let packet = cancel_request(7, &vec![9; n]);
            assert_eq!(read(&packet[4..]), Ok(First::Cancel { pid: 7, secret: vec![9; n] }));
        }
        assert_eq!(read(&cancel_request(7, &[])[4..]), Err(Bad::Length));
    }

    #[test]
    fn a_request_for_tls_reads_back() {
        assert_eq!(length([0, 0, 0, 8]), Ok(ssl_request().len()));
        assert_eq!(read(&ssl_request()[4..]), Ok(First::Ssl));
    }

    #[test]
    fn a_parameter_is_replaced_in_its_place_and_taken_whatever_its_case() {
        let mut startup = startup();
        startup.set("database", "app");
        assert_eq!(startup.parameters[1], (b"database".to_vec(), b"app".to_vec()));
        startup.set("pggit.Branch", "x");
        assert_eq!(startup.take("pggit.branch"), Some(b"x".to_vec()));
        assert_eq!(startup.parameter("pggit.Branch"), None);
    }
}
