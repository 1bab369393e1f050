//! The four arms. Each does what can be done now and says whether it moved anything.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, ReadBuf};

use super::{Arm, Drive, End, MAX_BEFORE_LOGIN, MAX_OWED, Wait, is_farewell};
use crate::proxy::buffers;
use crate::proxy::transport::Socket;
use crate::wire::pipe::Pipe;

/// A whole Terminate.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// What a read gave.
enum Read {
    /// Nothing now.
    Nothing,
    /// So many bytes.
    Bytes(usize),
    /// No more, ever.
    End,
}

impl Drive<'_> {
    pub(super) fn read_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        // Whoever waits for a decision or a copy, perhaps for long, is read so that it is noticed when it leaves.
        let waits = matches!(self.wait, Some(Wait::Decision { .. } | Wait::Hold(_)))
            && self.up.incoming().len() < self.max_buffer;
        if (self.wait.is_some() && !waits) || self.session.owed() > MAX_OWED || self.unheard {
            return Ok(false);
        }
        let held = self.is_held();
        if self.login.is_some() && self.up.incoming().len() > MAX_BEFORE_LOGIN {
            return Ok(false);
        }
        match self.client.read(cx, &mut self.up, self.max_buffer) {
            Read::Nothing => Ok(false),
            Read::Bytes(n) => {
                self.place.bytes_in.fetch_add(n as u64, Ordering::Relaxed);
                if !self.is_errand {
                    self.relay.shared.metrics.bytes(n as u64, 0);
                }
                if waits {
                    return Ok(true);
                }
                // Who has left goes, also while it is held; what else it says is not looked at.
                self.unheard = held && !self.up.incoming().starts_with(TERMINATE);
                if !self.unheard {
                    self.judge_client()?;
                }
                Ok(true)
            }
            Read::End => Ok(true),
        }
    }

    pub(super) fn write_server(&mut self, cx: &mut Context<'_>) -> bool {
        let moved = self.server.write(cx, &mut self.up).is_some();
        if self.is_away() {
            return moved;
        }
        if !self.server.writes {
            // Its last words may still be on their way to us.
            self.up.clear();
        } else if !self.client.reads && self.wait.is_none() && !self.unheard && self.up.outgoing().is_empty() {
            // The client will send no more; what it asked for is still answered.
            if Pin::new(&mut self.server.stream).poll_shutdown(cx).is_ready() {
                self.server.writes = false;
            }
        }
        moved
    }

    pub(super) fn read_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match self.server.read(cx, &mut self.down, self.max_buffer) {
            Read::Nothing => Ok(false),
            Read::Bytes(_) => {
                self.match_server()?;
                Ok(true)
            }
            Read::End => {
                if !self.down.incoming().is_empty() {
                    // A message cut short is the client's to see, as it would be without us.
                    self.session.cut_short();
                    self.down.pass(self.down.incoming().len());
                }
                Ok(true)
            }
        }
    }

    pub(super) fn write_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.settling.is_some() {
            return Ok(false);
        }
        let Some(n) = self.client.write(cx, &mut self.down) else {
            return if self.client.writes { Ok(false) } else { Err(End::Closed) };
        };
        self.place.bytes_out.fetch_add(n as u64, Ordering::Relaxed);
        if !self.is_errand {
            self.relay.shared.metrics.bytes(0, n as u64);
        }
        Ok(true)
    }
}

impl<S: Socket> Arm<S> {
    fn read(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe, max_buffer: usize) -> Read {
        if !self.reads || pipe.outgoing().len() >= max_buffer {
            return Read::Nothing;
        }
        if pipe.is_empty() {
            // An idle session holds no buffer: ask first.
            match self.stream.poll_readable(cx) {
                Poll::Pending => return Read::Nothing,
                Poll::Ready(_) => buffers::lend(pipe, self.busy),
            }
        } else if !pipe.has_room() {
            if !pipe.outgoing().is_empty() {
                return Read::Nothing;
            }
            // One message that has to be whole fills it all; the session bounds how large that may be.
            pipe.grow();
        }
        let mut room = ReadBuf::new(pipe.room());
        let (read, n, full) = match Pin::new(&mut self.stream).poll_read(cx, &mut room) {
            Poll::Pending => (Read::Nothing, 0, false),
            Poll::Ready(Ok(())) => match room.filled().len() {
                0 => (Read::End, 0, false),
                n => (Read::Bytes(n), n, room.remaining() == 0),
            },
            Poll::Ready(Err(error)) => {
                if !is_farewell(&error) {
                    tracing::debug!(%error, "read failed");
                }
                (Read::End, 0, false)
            }
        };
        pipe.filled(n);
        match read {
            Read::Bytes(_) => self.busy = full,
            Read::End => {
                self.reads = false;
                buffers::release(pipe);
            }
            Read::Nothing => buffers::release(pipe),
        }
        read
    }

    /// How many bytes it took; `None` when none, or when it takes no more.
    fn write(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Option<usize> {
        if !self.writes {
            return None;
        }
        if pipe.outgoing().is_empty() {
            self.flush(cx);
            return None;
        }
        match Pin::new(&mut self.stream).poll_write(cx, pipe.outgoing()) {
            Poll::Ready(Ok(n)) if n > 0 => {
                pipe.wrote(n);
                self.cut = !pipe.outgoing().is_empty();
                buffers::release(pipe);
                Some(n)
            }
            Poll::Ready(_) => {
                self.writes = false;
                None
            }
            Poll::Pending => None,
        }
    }

    /// Sends what TLS has taken and could not send at once, and what it has to say itself.
    fn flush(&mut self, cx: &mut Context<'_>) {
        if self.stream.wants_flush()
            && let Poll::Ready(Err(_)) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            self.writes = false;
        }
    }

    /// Whether bytes that left the pipe are still on their way to the socket.
    pub(super) fn holds_back(&self) -> bool {
        self.writes && self.stream.wants_flush()
    }
}
