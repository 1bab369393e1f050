//! The unnamed prepared statement: the server tells nobody its text, and a client may still bind it after another connection has
//! taken the place of its own. So its Parse is kept as it was sent.

/// A longer Parse is not kept.
const MAX: usize = 64 << 10;

/// A buffer of more bytes than that goes with its statement.
const USUAL: usize = 4 << 10;

/// The Parse of the unnamed statement that the server has now.
#[derive(Debug, Default)]
pub(super) struct Unnamed {
    parse: Vec<u8>,
    /// There is one that was too long.
    is_lost: bool,
}

impl Unnamed {
    /// A Parse or a Query passes; with as much of it as is there, and whether it was put in the place of one that was refused.
    #[inline]
    pub fn passed(&mut self, tag: u8, frame: &[u8], total: usize, is_refused: bool) {
        // A Query takes the unnamed statement away, and a Parse of that name puts another one in its place.
        match (tag, frame.get(5)) {
            (b'Q', _) | (b'P', Some(0) | None) => {
                self.is_lost = false;
                self.parse.clear();
                if self.parse.capacity() > USUAL {
                    self.parse = Vec::new();
                }
            }
            _ => return,
        }
        if tag == b'P' && !is_refused {
            match frame.get(..total) {
                Some(whole) if total <= MAX => self.parse.extend_from_slice(whole),
                Some(_) | None => self.is_lost = true,
            }
        }
    }

    /// What makes it anew, where there may be one; an error where that is not known.
    pub fn parse(&self) -> Result<&[u8], &'static str> {
        if self.is_lost { Err("its unnamed statement is too long to be kept") } else { Ok(&self.parse) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(unnamed: &mut Unnamed, frame: &[u8]) {
        unnamed.passed(frame[0], frame, frame.len(), false);
    }

    #[test]
    fn the_last_one_is_kept_until_a_query() {
        let mut unnamed = Unnamed::default();
        pass(&mut unnamed, b"P\0\0\0\x0a\0one\0\0\0");
        pass(&mut unnamed, b"P\0\0\0\x0an\0one\0\0\0");
        pass(&mut unnamed, b"S\0\0\0\x04");
        assert_eq!(unnamed.parse(), Ok(&b"P\0\0\0\x0a\0one\0\0\0"[..]));
        pass(&mut unnamed, b"Q\0\0\0\x05\0");
        assert_eq!(unnamed.parse(), Ok(&b""[..]));
    }

    #[test]
    fn what_is_not_kept_is_known_to_be_there() {
        let mut unnamed = Unnamed::default();
        unnamed.passed(b'P', b"P\0\x10\0\0\0select", 1 << 20, false);
        assert!(unnamed.parse().is_err());
        pass(&mut unnamed, b"P\0\0\0\x0a\0one\0\0\0");
        assert!(unnamed.parse().is_ok());
        unnamed.passed(b'P', b"P\0\0\0\x0a\0two\0\0\0", 11, true);
        assert_eq!(unnamed.parse(), Ok(&b""[..]), "a Parse that failed leaves none");
    }
}
