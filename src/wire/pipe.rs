//! The bytes of one direction, from the socket they were read from to the socket they go to.
//!
//! One buffer, three cursors: bytes are read in at the end, judged by the session in the middle,
//! and written out from the start. Nothing is copied on the way, unless a message is rewritten.
//!
//! ```text
//! | written | outgoing (judged) | incoming (not judged yet) | room |
//!           start               judged                      end
//! ```

/// See the module.
#[derive(Default)]
pub struct Pipe {
    bytes: Box<[u8]>,
    start: usize,
    judged: usize,
    end: usize,
}

impl Pipe {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that may be written now.
    pub fn outgoing(&self) -> &[u8] {
        &self.bytes[self.start..self.judged]
    }

    /// Takes written bytes out.
    pub fn wrote(&mut self, n: usize) {
        self.start = (self.start + n).min(self.judged);
        if self.start == self.end {
            (self.start, self.judged, self.end) = (0, 0, 0);
        }
    }

    /// Bytes that were read and are not judged yet.
    #[inline]
    pub fn incoming(&self) -> &[u8] {
        &self.bytes[self.judged..self.end]
    }

    /// Lets the next `n` incoming bytes go out as they are.
    #[inline]
    pub fn pass(&mut self, n: usize) {
        self.judged = (self.judged + n).min(self.end);
    }

    /// Puts `with` in the place of the next `n` incoming bytes, and lets it go out.
    pub fn replace(&mut self, n: usize, with: &[u8]) {
        let n = n.min(self.end - self.judged);
        let tail = self.end - self.judged - n;
        let need = self.judged + with.len() + tail;
        if need > self.bytes.len() {
            self.resize(need.next_power_of_two());
        }
        let from = self.judged + n;
        self.bytes.copy_within(from..from + tail, self.judged + with.len());
        self.bytes[self.judged..self.judged + with.len()].copy_from_slice(with);
        self.judged += with.len();
        self.end = self.judged + tail;
    }

    /// Adds bytes of our own behind what was judged.
    pub fn push(&mut self, bytes: &[u8]) {
        self.replace(0, bytes);
    }

    /// Takes bytes in that were read elsewhere.
    pub fn take_in(&mut self, bytes: &[u8]) {
        if bytes.len() > self.bytes.len() - self.end {
            self.resize((self.end + bytes.len()).next_power_of_two());
        }
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Forgets what is not judged yet.
    pub fn drop_incoming(&mut self) {
        self.end = self.judged;
        self.wrote(0);
    }

    /// Forgets everything that has not been written.
    pub fn clear(&mut self) {
        (self.start, self.judged, self.end) = (0, 0, 0);
    }

    /// Room to read into. Moves what is there to the front when the end is reached.
    pub fn room(&mut self) -> &mut [u8] {
        if self.end == self.bytes.len() && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.judged -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// Whether [`Self::room`] would give any.
    pub fn has_room(&self) -> bool {
        self.end < self.bytes.len() || self.start > 0
    }

    /// Takes bytes in that were read into [`Self::room`].
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.bytes.len());
    }

    /// Doubles the buffer, for a message that has to be whole.
    pub fn grow(&mut self) {
        self.resize(self.bytes.len().max(4096) * 2);
    }

    /// Gives an empty pipe a buffer; returns the one it had.
    pub fn put_buffer(&mut self, bytes: Box<[u8]>) -> Box<[u8]> {
        debug_assert!(self.is_empty(), "a buffer is changed only when nothing is in it");
        self.clear();
        std::mem::replace(&mut self.bytes, bytes)
    }

    fn resize(&mut self, capacity: usize) {
        let mut bytes = vec![0; capacity].into_boxed_slice();
        let held = self.end - self.start;
        bytes[..held].copy_from_slice(&self.bytes[self.start..self.end]);
        self.judged -= self.start;
        self.end = held;
        self.start = 0;
        self.bytes = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(capacity: usize, bytes: &[u8]) -> Pipe {
        let mut pipe = Pipe::default();
        pipe.put_buffer(vec![0; capacity].into_boxed_slice());
        pipe.room()[..bytes.len()].copy_from_slice(bytes);
        pipe.filled(bytes.len());
        pipe
    }

    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let mut pipe = pipe(8, b"abcdef");
        assert_eq!(pipe.outgoing(), b"");
        pipe.pass(4);
        assert_eq!(pipe.outgoing(), b"abcd");
        pipe.wrote(3);
        assert_eq!((pipe.outgoing(), pipe.incoming()), (&b"d"[..], &b"ef"[..]));
        pipe.room()[..2].copy_from_slice(b"gh");
        pipe.filled(2);
        assert_eq!(pipe.room().len(), 3, "what was written makes room");
        pipe.pass(99);
        assert_eq!(pipe.outgoing(), b"defgh");
    }

    #[test]
    fn a_replaced_message_may_be_longer_or_shorter() {
        let mut pipe = pipe(8, b"abcdef");
        pipe.pass(1);
        pipe.replace(2, b"XYZXYZXYZ");
        assert_eq!((pipe.outgoing(), pipe.incoming()), (&b"aXYZXYZXYZ"[..], &b"def"[..]));
        pipe.replace(3, b"");
        pipe.push(b"!");
        assert_eq!((pipe.outgoing(), pipe.incoming()), (&b"aXYZXYZXYZ!"[..], &b""[..]));
    }

    #[test]
    fn what_is_not_judged_can_be_forgotten() {
        let mut pipe = pipe(8, b"abcdef");
        pipe.pass(2);
        pipe.drop_incoming();
        assert_eq!((pipe.outgoing(), pipe.incoming()), (&b"ab"[..], &b""[..]));
        pipe.wrote(2);
        assert!(pipe.is_empty());
    }

    #[test]
    fn bytes_read_elsewhere_are_judged_like_others() {
        let mut pipe = Pipe::default();
        pipe.take_in(b"abc");
        assert_eq!((pipe.outgoing(), pipe.incoming()), (&b""[..], &b"abc"[..]));
        pipe.pass(3);
        pipe.wrote(3);
        assert!(pipe.is_empty());
    }

    #[test]
    fn growing_keeps_what_is_there() {
        let mut pipe = pipe(4, b"abcd");
        pipe.pass(2);
        pipe.wrote(1);
        assert!(pipe.has_room());
        pipe.grow();
        assert_eq!((pipe.outgoing(), pipe.incoming()), (&b"b"[..], &b"cd"[..]));
        assert!(pipe.capacity() >= 8192);
    }
}
