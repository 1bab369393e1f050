//! A session that moves to another branch: `SET pggit.branch = '…'` or `SELECT pggit.checkout('…')`, sent by itself.
//!
//! The statement is held at the front until what was sent before it is answered, and the session's own server has said which
//! settings it has and what could not come along. Then the driver logs in again, on the other branch, and goes on there with a new
//! [`Session`] that judges the same statement: it is where the statement wants it to be, so the statement passes, and it is
//! answered by the new server. Where it cannot move, the statement is refused and everything stays as it was.

use super::look::At;
use super::turn::{COPYING, Pause, Turn};
use super::{Effects, Env, Session};
use crate::change::{Move, Stays};
use crate::policy::Refusal;
use crate::wire::frame::Head;

/// As the server has for parameters that cannot be changed now.
const CANNOT_CHANGE_NOW: &str = "55P02";

/// What a message of the extended protocol and those behind it up to its Sync may have, bytes: it is no more than a name.
const MAX_BATCH: usize = 16 << 10;

/// The statement at the front, where it moves the session.
#[derive(Debug, Default)]
pub(super) enum Front {
    #[default]
    None,
    Looking,
    Asked,
    Refused(Stays),
}

/// How a statement is sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape<'a> {
    Query,
    /// Parse, with what stands behind it.
    Parse {
        name: &'a [u8],
        behind: &'a [u8],
    },
}

/// What comes of a statement that asks to move the session, but for moving it.
pub(super) enum Moves {
    /// The server will not run it anyway.
    Ignored,
    /// It stays.
    Refuse(Refusal),
}

impl Front {
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl Session {
    /// What comes of a statement that asks to move to this branch.
    pub(super) fn move_to(
        &mut self,
        to: &str,
        shape: Shape<'_>,
        env: &Env<'_>,
        fx: &mut Effects,
    ) -> Result<Moves, Pause> {
        let refuse = |because: &str| Ok(Moves::Refuse(stays(because).refusal(to)));
        match std::mem::take(&mut self.moving) {
            Front::Refused(stays) => return Ok(Moves::Refuse(stays.refusal(to))),
            Front::Looking => {
                let found = match self.looked() {
                    Some(Ok(found)) => found,
                    Some(Err(reason)) => return refuse(&format!("its settings cannot be read ({reason})")),
                    None => return refuse("its settings cannot be read"),
                };
                if let Some(tie) = found.tie {
                    return refuse(&format!("it has {tie}, which would be lost"));
                }
                fx.moving = Some(Box::new(Move { to: to.to_owned(), carried: found.carried }));
                self.moving = Front::Asked;
                return Err(Pause::Ask);
            }
            Front::None | Front::Asked => {}
        }
        match self.turn()? {
            Turn::Come if self.is_aborted() => return Ok(Moves::Ignored),
            Turn::Come => {}
            Turn::Never => return Ok(Moves::Ignored),
            Turn::Copying => return refuse(COPYING),
        }
        match self.what_keeps_it(shape) {
            Ok(true) => {}
            Ok(false) => return Err(Pause::Read),
            Err(because) => return refuse(because),
        }
        self.moving = Front::Looking;
        Err(Pause::Settle(self.look(At::Everything, env)))
    }

    /// Why the session cannot move now, as far as that is known here; `false` where more of what was sent has to be seen.
    fn what_keeps_it(&self, shape: Shape<'_>) -> Result<bool, &'static str> {
        if self.transaction.status != b'I' {
            return Err("it is inside a transaction");
        }
        if self.begun {
            return Err("messages of the extended protocol before the statement have had no Sync");
        }
        if self.replication {
            return Err("this is a replication connection");
        }
        if !self.customs.are_all_seen() {
            return Err("it may have settings whose names only its statements' functions know");
        }
        match shape {
            Shape::Query => Ok(true),
            Shape::Parse { name, .. } if !name.is_empty() => Err("the statement is prepared, and would be lost"),
            Shape::Parse { behind, .. } => is_run_at_once(behind),
        }
    }

    /// The driver could not do [`Effects::moving`].
    pub fn cannot_move(&mut self, stays: Stays) {
        if matches!(self.moving, Front::Asked) {
            self.moving = Front::Refused(stays);
        }
    }

    /// Takes over from the session that was on another branch what the server does not know: the new one goes on where that
    /// one stood.
    pub fn take_over(&mut self, other: &mut Session) {
        self.customs = std::mem::take(&mut other.customs);
        self.refusals = other.refusals;
        self.calls = other.calls;
    }
}

/// Whether what stands behind a Parse executes it and nothing else: Bind, Describe or not, Execute, Sync. `false`: it may, and
/// the rest has yet to come.
fn is_run_at_once(mut behind: &[u8]) -> Result<bool, &'static str> {
    let mut wanted: &[u8] = b"BES";
    let whole = behind.len();
    loop {
        let Ok(Some(head)) = Head::read(behind) else {
            return if whole < MAX_BATCH { Ok(false) } else { Err("it is not run at once") };
        };
        match (head.tag, wanted.split_first()) {
            // Describe asks for no more than what is there.
            (b'D', Some((b'B' | b'E', _))) => {}
            // What is closed between Execute and Sync is not needed any more.
            (b'C', Some((b'S', _))) => {}
            (tag, Some((first, rest))) if tag == *first => wanted = rest,
            _ => return Err("it is only prepared, or not the only one up to its Sync"),
        }
        if wanted.is_empty() {
            return Ok(true);
        }
        behind = behind.get(head.total..).unwrap_or_default();
    }
}

fn stays(because: &str) -> Stays {
    Stays { sqlstate: CANNOT_CHANGE_NOW, because: because.to_owned(), hint: None }
}

impl Stays {
    /// For whoever asked for this branch.
    fn refusal(self, to: &str) -> Refusal {
        let hint =
            || "Send it by itself, outside a transaction; or connect to the branch, in psql with \\c app/feature-x.";
        Refusal {
            sqlstate: self.sqlstate,
            rule: None,
            message: format!("this session cannot be moved to branch \"{to}\": {}", self.because),
            detail: Some("Parameter: pggit.branch.".to_owned()),
            hint: Some(self.hint.unwrap_or_else(|| hint().to_owned())),
        }
    }
}

/// The error for a statement that is not alone in its text.
pub(super) fn not_alone(to: &str) -> Refusal {
    stays("the statement is one of several in one text").refusal(to)
}

/// The error for a statement that was prepared when the session was there already.
pub(super) fn not_now(to: &str) -> Refusal {
    stays("the statement was prepared elsewhere").refusal(to)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::frame;

    fn frames(tags: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        tags.iter().for_each(|tag| frame::put(&mut out, *tag, |body| body.extend_from_slice(b"\0\0")));
        out
    }

    #[test]
    fn only_one_statement_up_to_its_sync_is_run_at_once() {
        for tags in [&b"BES"[..], b"DBES", b"BDES", b"BECS", b"BESQ"] {
            assert_eq!(is_run_at_once(&frames(tags)), Ok(true), "{tags:?}");
            let frames = frames(tags);
            for cut in 0..frames.len().min(15) {
                assert_eq!(is_run_at_once(&frames[..cut]), Ok(false), "{tags:?} {cut}");
            }
        }
        for tags in [&b"S"[..], b"H", b"BH", b"BEE", b"BEPBES", b"DS", b"ES", b"PBES", b"BCES"] {
            assert!(is_run_at_once(&frames(tags)).is_err(), "{tags:?}");
        }
    }
}
