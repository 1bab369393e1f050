//! Frames after start-up: one tag byte, a length of four bytes that counts itself, a body.

/// Bytes before a frame's body.
pub const HEADER: usize = 5;

/// The longest length word a PostgreSQL server accepts or sends (its `MaxAllocSize`).
pub const MAX_LENGTH: usize = 0x3fff_ffff;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The message's tag.
    pub tag: u8,
    /// The whole frame in bytes, tag and length word included.
    pub total: usize,
}

/// A length word that no frame can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message of type {:?} has the impossible length {length}", char::from(*tag))]
pub struct BadLength {
    /// The frame's tag.
    pub tag: u8,
    /// The length word.
    pub length: u32,
}

impl Head {
    /// Reads the head of the frame at the start of `bytes`; `None` when fewer than five are there.
    #[inline]
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, BadLength> {
        let Some((head, _)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [tag, a, b, c, d] = *head;
        let length = u32::from_be_bytes([a, b, c, d]);
        if length < 4 || length as usize > MAX_LENGTH {
            return Err(BadLength { tag, length });
        }
        Ok(Some(Self { tag, total: length as usize + 1 }))
    }
}

/// The zero-terminated text at the start of `bytes`, and what follows it.
#[inline]
pub fn cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Appends a frame whose body `fill` writes.
pub fn put(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(word) = out.get_mut(at..at + 4) {
        word.copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_head_needs_five_bytes() {
        for n in 0..5 {
            assert_eq!(Head::read(&b"Z\0\0\0\x05I"[..n]), Ok(None));
        }
        assert_eq!(Head::read(b"Z\0\0\0\x05I"), Ok(Some(Head { tag: b'Z', total: 6 })));
    }

    #[test]
    fn impossible_lengths_are_errors() {
        for length in [0u32, 3, 0x4000_0000, u32::MAX] {
            let mut bytes = vec![b'Q'];
            bytes.extend_from_slice(&length.to_be_bytes());
            assert_eq!(Head::read(&bytes), Err(BadLength { tag: b'Q', length }));
        }
    }

    #[test]
    fn a_written_frame_reads_back() {
        let mut out = Vec::new();
        put(&mut out, b'Q', |body| body.extend_from_slice(b"select 1\0"));
        let head = Head::read(&out).unwrap().unwrap();
        assert_eq!((head.tag, head.total), (b'Q', out.len()));
        assert_eq!(cstr(&out[HEADER..]), Some((&b"select 1"[..], &b""[..])));
    }
}
