//! Whether it is a statement's turn: what is found out for it holds only if everything before it is answered.

use super::Session;
use crate::wire::frame;

/// Why nothing can be done about a statement that comes while the server reads COPY data.
pub(super) const COPYING: &str = "the server reads COPY data";

/// Why the frame at the front stays there for now.
pub(super) enum Pause {
    /// More of what the client sends has to be seen.
    Read,
    /// The driver has to find something out; `fx` says what, where it is not whether the recorder is there.
    Ask,
    /// The server has to answer what was sent before; these bytes, if any, make it do so.
    Settle(Vec<u8>),
}

/// How far the server is.
pub(super) enum Turn {
    /// Everything before the statement is answered.
    Come,
    /// It ignores all up to the next Sync, as something before it failed.
    Never,
    /// It reads COPY data, and takes no statement.
    Copying,
}

impl Session {
    /// Whether the server has come to the statement at the front. A Flush, which is owed nothing, makes it answer what had no Sync.
    pub(super) fn turn(&mut self) -> Result<Turn, Pause> {
        if self.ledger.ignores_all() {
            Ok(Turn::Never)
        } else if self.ledger.awaits_copy_data() {
            Ok(Turn::Copying)
        } else if self.awaits_answers() {
            let mut flush = Vec::new();
            if self.begun {
                frame::put(&mut flush, b'H', |_| {});
            }
            Err(Pause::Settle(flush))
        } else {
            Ok(Turn::Come)
        }
    }

    /// Whether the server has still to answer what was sent before a statement that waits for that. While it reads COPY data it
    /// will not, and takes no statement either.
    pub fn awaits_answers(&mut self) -> bool {
        let owed = self.ledger.front().is_some() && !self.ledger.ignores_all() && !self.ledger.awaits_copy_data();
        owed || self.server_rest > 0
    }

    /// The transaction's state (`I`, `T` or `E`), where nothing can have changed it since the server said so.
    pub(super) fn known_status(&self) -> Option<u8> {
        (self.ledger.is_empty() && self.executed == 0).then_some(self.transaction.status)
    }

    /// Whether the server will answer 25P02 to whatever comes now, save to what ends a failed transaction.
    pub(super) fn is_aborted(&self) -> bool {
        self.known_status() == Some(b'E')
    }
}
