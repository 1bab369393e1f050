//! Relay buffers: a worker thread keeps a few and lends them to whichever session has bytes on the way.
//! An idle session holds none.

use std::cell::RefCell;

use crate::wire::pipe::Pipe;

/// What a session reads into at first, in bytes.
const SMALL: usize = 16 << 10;
/// What it reads into once a read has filled a small one: large results and COPY.
const LARGE: usize = 128 << 10;
/// Spare buffers of each size that a thread keeps.
const KEPT: usize = 32;

thread_local! {
    static SPARE: RefCell<[Vec<Box<[u8]>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Gives an empty pipe a buffer to read into.
pub(super) fn lend(pipe: &mut Pipe, large: bool) {
    let size = if large { LARGE } else { SMALL };
    if pipe.capacity() == size {
        return;
    }
    let spare = SPARE.with_borrow_mut(|spare| spare[usize::from(large)].pop());
    give_back(pipe.put_buffer(spare.unwrap_or_else(|| vec![0; size].into_boxed_slice())));
}

/// Takes the buffer of an empty pipe back.
pub(super) fn release(pipe: &mut Pipe) {
    if pipe.capacity() > 0 && pipe.is_empty() {
        give_back(pipe.put_buffer(Box::default()));
    }
}

/// Buffers that grew for one large message are not kept.
fn give_back(buffer: Box<[u8]>) {
    let size = usize::from(buffer.len() == LARGE);
    if buffer.len() == SMALL || buffer.len() == LARGE {
        SPARE.with_borrow_mut(|spare| {
            if spare[size].len() < KEPT {
                spare[size].push(buffer);
            }
        });
    }
}
