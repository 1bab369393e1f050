//! The PROXY protocol's header, version 2: a load balancer says whom it speaks for.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, section 2.2

use std::net::{IpAddr, SocketAddr};

/// What each header begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The fixed part: the signature, version and command, family, length of the rest.
pub const FIXED: usize = 16;

/// Longest rest that is read, in bytes: addresses need 36, what else may stand there is not looked at.
pub const MAX_REST: usize = 4096;

/// What a header says of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Its address.
    Address(SocketAddr),
    /// Nothing: the load balancer speaks for itself, or the client came in by another way than TCP.
    Unknown,
}

/// Why a header cannot be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// No header of version 2.
    #[error("no PROXY protocol header of version 2")]
    Signature,
    /// Its length or its family say other than what stands there.
    #[error("invalid PROXY protocol header")]
    Layout,
}

/// Reads the fixed part: how many bytes follow it.
pub fn rest(fixed: [u8; FIXED]) -> Result<usize, Bad> {
    // Version 2 in the upper half.
    if fixed[..12] != SIGNATURE || fixed[12] >> 4 != 2 {
        return Err(Bad::Signature);
    }
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > MAX_REST { Err(Bad::Layout) } else { Ok(length) }
}

/// Reads a whole header.
pub fn read(fixed: [u8; FIXED], rest: &[u8]) -> Result<Source, Bad> {
    match fixed[12] & 0xf {
        // LOCAL: whatever addresses stand there mean nothing.
        0 => return Ok(Source::Unknown),
        1 => {}
        _ => return Err(Bad::Layout),
    }
    match fixed[13] {
        0x11 => addresses::<4>(rest),
        0x21 => addresses::<16>(rest),
        // Unspecified, datagrams, unix sockets.
        _ => Ok(Source::Unknown),
    }
}

/// Source address, destination address, source port, destination port.
fn addresses<const N: usize>(rest: &[u8]) -> Result<Source, Bad>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = rest.split_first_chunk::<N>().ok_or(Bad::Layout)?;
    let (_, rest) = rest.split_first_chunk::<N>().ok_or(Bad::Layout)?;
    let (port, rest) = rest.split_first_chunk::<2>().ok_or(Bad::Layout)?;
    rest.first_chunk::<2>().ok_or(Bad::Layout)?;
    Ok(Source::Address(SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes(*port))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> [u8; FIXED] {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length].concat().try_into().unwrap()
    }

    fn parsed(command: u8, family: u8, body: &[u8]) -> Result<Source, Bad> {
        let fixed = header(command, family, body);
        assert_eq!(rest(fixed), Ok(body.len()));
        read(fixed, body)
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        let v4 = [[203, 0, 113, 7], [192, 0, 2, 1]].concat();
        let ports = [0x12, 0x34, 0x19, 0x20];
        let address = |text: &str| Ok(Source::Address(text.parse().unwrap()));
        assert_eq!(parsed(1, 0x11, &[&v4[..], &ports].concat()), address("203.0.113.7:4660"));
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[5], &[0; 16], &ports].concat();
        assert_eq!(parsed(1, 0x21, &v6), address("[2001:db8::5]:4660"));
        // What follows the addresses is not looked at.
        assert_eq!(parsed(1, 0x11, &[&v4[..], &ports, b"\x04\0\x01x"].concat()), address("203.0.113.7:4660"));
    }

    #[test]
    fn what_says_no_address_says_nothing() {
        assert_eq!(parsed(0, 0x11, &[1; 12]), Ok(Source::Unknown));
        assert_eq!(parsed(1, 0, b""), Ok(Source::Unknown));
        assert_eq!(parsed(1, 0x31, &[0; 216]), Ok(Source::Unknown));
    }

    #[test]
    fn what_is_cut_or_no_header_is_an_error() {
        for n in 0..12 {
            assert_eq!(parsed(1, 0x11, &[7; 12][..n]), Err(Bad::Layout), "{n}");
        }
        assert_eq!(parsed(2, 0x11, &[7; 12]), Err(Bad::Layout));
        assert_eq!(rest(*b"PROXY TCP4 1.2.3"), Err(Bad::Signature));
        let mut version = header(1, 0x11, b"");
        version[12] = 0x11;
        assert_eq!(rest(version), Err(Bad::Signature));
        let mut long = header(1, 0x11, b"");
        long[14..].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(rest(long), Err(Bad::Layout));
    }
}
