//! What the server owes: one small entry for each message that it will answer, in order.
//!
//! The entries follow the server's own rules: after an error in the extended protocol it answers nothing until
//! Sync; while it reads COPY data it ignores Sync and Flush.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>

use std::collections::VecDeque;

use super::companion::Shifts;
use super::prepared::Undo;
use super::refusal::Refused;
use super::transaction::Step;
use crate::sql::Class;

/// Which message an answer is owed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The start-up packet: everything up to the first ReadyForQuery.
    Startup,
    /// Query: answered by ReadyForQuery at its end.
    Query,
    /// Parse: ParseComplete.
    Parse,
    /// Bind: BindComplete.
    Bind,
    /// Describe: RowDescription or NoData.
    Describe,
    /// Execute: CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Close: CloseComplete.
    Close,
    /// Sync: ReadyForQuery.
    Sync,
    /// FunctionCall: FunctionCallResponse, then ReadyForQuery.
    Call,
    /// A message of a companion: one answer, which the client does not see.
    Hidden,
    /// A Sync of ours: one ReadyForQuery, which the client does not see.
    HiddenSync,
    /// CopyDone or CopyFail: owed nothing; ends the COPY that stands before it.
    CopyEnd,
}

impl Kind {
    /// Whether an error for it makes the server skip to the next Sync.
    fn is_extended(self) -> bool {
        match self {
            Self::Parse | Self::Bind | Self::Describe | Self::Execute | Self::Close | Self::Hidden => true,
            Self::Startup | Self::Query | Self::Sync | Self::HiddenSync | Self::Call | Self::CopyEnd => false,
        }
    }
}

/// One answer owed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owed {
    pub kind: Kind,
    /// For metrics, where `kind` is a Query, Execute or Call.
    pub class: Class,
    /// Whether a [`Watched`] stands in the side queue for it.
    watched: bool,
    /// When the message came: microseconds of the session's life, wrapping after an hour.
    pub at: u32,
}

/// What has to be done when the answer comes.
#[derive(Debug)]
pub(super) enum Watched {
    /// A Query with statements that are logged, refused, or move the transaction.
    Query(Script),
    /// A Parse that changed what is known of prepared statements, or was refused.
    Parse(Undo, Option<Refused>),
    /// A Bind or Execute that was refused.
    Bind(Refused),
    /// An Execute of a statement that is logged or moves the transaction.
    Execute(Step),
}

/// The statements of one Query message, as far as they were answered.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// What is left to be answered, in order.
    pub steps: VecDeque<Step>,
    /// The statement that was replaced; it is the last one the server can reach.
    pub refused: Option<Refused>,
    /// What companions stand in the text: positions in errors are the server's.
    pub shifts: Shifts,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    owed: VecDeque<Owed>,
    watched: VecDeque<Watched>,
    /// The server ignores everything up to a Sync that has not been sent yet.
    skipping: bool,
    /// The server reads COPY data whose end has not been sent yet.
    copying: bool,
}

impl Ledger {
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Whether the server ignores what is sent now: after an error, up to the next Sync.
    pub fn ignores_all(&self) -> bool {
        self.skipping
    }

    /// Whether the server takes nothing but COPY data now; anything else ends the session.
    pub fn awaits_copy_data(&self) -> bool {
        self.copying
    }

    pub fn len(&self) -> usize {
        self.owed.len()
    }

    /// Notes a message on its way to the server. Gives `watched` back where the server will ignore the message.
    pub fn push(&mut self, kind: Kind, class: Class, at: u32, watched: Option<Watched>) -> Option<Watched> {
        if self.skipping {
            if kind != Kind::Sync {
                return watched;
            }
            self.skipping = false;
        }
        if self.copying {
            match kind {
                Kind::Sync => return watched,
                Kind::CopyEnd => {
                    self.copying = false;
                    return watched;
                }
                _ => {}
            }
        }
        if kind == Kind::CopyEnd && self.owed.is_empty() {
            return watched;
        }
        self.owed.push_back(Owed { kind, class, watched: watched.is_some(), at });
        self.watched.extend(watched);
        None
    }

    /// The answer owed next.
    #[inline]
    pub fn front(&mut self) -> Option<Owed> {
        while let Some(owed) = self.owed.front() {
            if owed.kind != Kind::CopyEnd {
                return Some(*owed);
            }
            self.owed.pop_front();
        }
        None
    }

    /// What has to be done with the answer owed next.
    pub fn front_watched(&mut self) -> Option<&mut Watched> {
        if self.front()?.watched { self.watched.front_mut() } else { None }
    }

    /// Whether the answer owed next is a companion's.
    #[inline]
    pub fn owes_hidden(&mut self) -> bool {
        self.front().is_some_and(|owed| owed.kind == Kind::Hidden)
    }

    /// The answer owed next has come.
    #[inline]
    pub fn pop(&mut self) -> Option<(Owed, Option<Watched>)> {
        let owed = self.front()?;
        self.owed.pop_front();
        let watched = if owed.watched { self.watched.pop_front() } else { None };
        Some((owed, watched))
    }

    /// The answer owed next has come, if it is of that kind.
    #[inline]
    pub fn pop_if(&mut self, kind: Kind) -> Option<(Owed, Option<Watched>)> {
        if self.front()?.kind == kind { self.pop() } else { None }
    }

    /// The server began to read COPY data for the message owed next: it ignores every Sync before the data's end.
    pub fn copy_in(&mut self) {
        self.copying = true;
        let mut at = 1;
        while let Some(owed) = self.owed.get(at) {
            match owed.kind {
                Kind::Sync => {
                    self.owed.remove(at);
                }
                Kind::CopyEnd => {
                    self.owed.remove(at);
                    self.copying = false;
                    return;
                }
                _ => at += 1,
            }
        }
    }

    /// The server answered with an error. In the extended protocol it skips to the next Sync:
    /// `dropped` gets what it will never answer, the failed message first.
    pub fn failed(&mut self, mut dropped: impl FnMut(Owed, Option<Watched>)) {
        self.copying = false;
        if !self.front().is_some_and(|owed| owed.kind.is_extended()) {
            return;
        }
        while let Some(owed) = self.front() {
            if matches!(owed.kind, Kind::Sync | Kind::HiddenSync) {
                return;
            }
            if let Some((owed, watched)) = self.pop() {
                dropped(owed, watched);
            }
        }
        self.skipping = true;
    }

    /// Everything still owed, when the connection has ended.
    pub fn drain(&mut self) -> impl Iterator<Item = Watched> {
        self.owed.clear();
        self.watched.drain(..)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ledger(kinds: &[Kind]) -> Ledger {
        let mut ledger = Ledger::default();
        for kind in kinds {
            ledger.push(*kind, Class::Other, 0, None);
        }
        ledger
    }

    fn left(ledger: &mut Ledger) -> Vec<Kind> {
        std::iter::from_fn(|| ledger.pop().map(|(owed, _)| owed.kind)).collect()
    }

    #[test]
    fn an_error_in_the_extended_protocol_skips_to_sync() {
        use Kind::*;
        let mut ledger = ledger(&[Bind, Execute, Parse, Query, Sync, Parse, Sync]);
        let mut dropped = 0;
        ledger.failed(|_, _| dropped += 1);
        assert_eq!(dropped, 4, "a Query without a Sync before it is skipped too");
        assert_eq!(left(&mut ledger), [Sync, Parse, Sync]);
    }

    #[test]
    fn without_a_sync_what_comes_later_is_skipped_as_well() {
        use Kind::*;
        let mut ledger = ledger(&[Parse]);
        ledger.failed(|_, _| {});
        for kind in [Bind, Execute, CopyEnd, Sync, Parse] {
            ledger.push(kind, Class::Other, 0, None);
        }
        assert_eq!(left(&mut ledger), [Sync, Parse]);
    }

    #[test]
    fn an_error_in_a_query_skips_nothing() {
        use Kind::*;
        let mut ledger = ledger(&[Query, Parse, Sync]);
        ledger.failed(|_, _| panic!("nothing is dropped"));
        assert_eq!(left(&mut ledger), [Query, Parse, Sync]);
    }

    #[test]
    fn sync_during_copy_is_ignored_whether_sent_before_or_after_the_server_began() {
        use Kind::*;
        let mut early = ledger(&[Execute, Sync, CopyEnd, Sync]);
        early.copy_in();
        assert_eq!(left(&mut early), [Execute, Sync]);

        let mut late = ledger(&[Execute, Sync]);
        late.copy_in();
        for kind in [Sync, CopyEnd, Sync] {
            late.push(kind, Class::Other, 0, None);
        }
        assert_eq!(left(&mut late), [Execute, Sync]);
    }

    #[test]
    fn a_stray_copy_end_is_owed_nothing() {
        use Kind::*;
        let mut ledger = ledger(&[CopyEnd, Query, CopyEnd, Sync]);
        assert_eq!(left(&mut ledger), [Query, Sync]);
    }
}
