//! From the client: each statement is classified, judged, and noted in the ledger before it passes.

mod extended;
mod query;

use uuid::Uuid;

use super::companion::Companions;
use super::ledger::{Kind, Watched};
use super::queue::Released;
use super::transaction::Step;
use super::turn::Pause;
use super::{Batch, Effects, Env, Next, Rest, Session};
use crate::change::{Means, Told};
use crate::policy::{Interest, Refusal, Verdict};
use crate::sql::{Class, Classifier, Statement, unread};
use crate::wire::frame::{BadLength, HEADER, Head};
use crate::wire::pipe::Pipe;

/// What to do with the frame at the front.
enum Judged {
    /// It passes.
    Pass,
    /// Its first `old` bytes give way to `new`; what follows them passes, or is dropped.
    Replace { old: usize, new: Vec<u8>, drop_rest: bool },
}

/// What comes of a statement that may not simply run.
enum Instead {
    /// Its frame is judged.
    Done(Judged),
    /// It may run after all: judge its frame again.
    Again,
    /// Its refusal stands for it; with the key of its row in the statement log, where it became a request.
    Refuse(Refusal, Option<Uuid>),
}

impl From<Refusal> for Instead {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal, None)
    }
}

/// Judges as many frames as are there.
pub(super) fn judge(
    session: &mut Session,
    pipe: &mut Pipe,
    env: &Env<'_>,
    classifier: &mut Classifier,
    fx: &mut Effects,
) -> Result<Next, BadLength> {
    loop {
        match session.client_rest {
            Rest::Pass(0) | Rest::Drop(0) => {}
            Rest::Pass(rest) => {
                let n = rest.min(pipe.incoming().len());
                pipe.pass(n);
                session.client_rest = Rest::Pass(rest - n);
            }
            Rest::Drop(rest) => {
                let n = rest.min(pipe.incoming().len());
                pipe.replace(n, b"");
                session.client_rest = Rest::Drop(rest - n);
            }
        }
        let bytes = pipe.incoming();
        let Some(head) = Head::read(bytes)? else { return Ok(Next::Read) };
        let body = bytes.get(HEADER..head.total.min(bytes.len())).unwrap_or_default();
        let behind = bytes.get(head.total..).unwrap_or_default();
        let frame = Frame { head, body, behind, env };
        let judged = match session.frame(&frame, classifier, fx) {
            Ok(judged) => judged,
            Err(Pause::Read) => return Ok(Next::Read),
            Err(Pause::Ask) => return Ok(Next::AskRecorder),
            Err(Pause::Settle(flush)) => {
                pipe.push(&flush);
                return Ok(Next::AwaitServer);
            }
        };
        session.passed(head.tag);
        // Only a refused Parse gives way to another one.
        session.unnamed.passed(head.tag, bytes, head.total, matches!(judged, Judged::Replace { .. }));
        match judged {
            Judged::Pass => session.client_rest = Rest::Pass(head.total),
            Judged::Replace { old, new, drop_rest } => {
                pipe.replace(old, &new);
                let rest = head.total - old;
                session.client_rest = if drop_rest { Rest::Drop(rest) } else { Rest::Pass(rest) };
            }
        }
    }
}

/// A frame, as much of it as is there.
struct Frame<'a> {
    head: Head,
    body: &'a [u8],
    /// What stands behind it.
    behind: &'a [u8],
    env: &'a Env<'a>,
}

impl Frame<'_> {
    fn is_whole(&self) -> bool {
        self.body.len() + HEADER == self.head.total
    }

    fn is_too_long(&self) -> bool {
        self.head.total > self.env.limits.max_statement_parse
    }
}

impl Session {
    /// The frame at the front is through: what was found out for it is no other statement's.
    #[inline]
    fn passed(&mut self, tag: u8) {
        match tag {
            b'P' | b'B' | b'E' | b'D' | b'C' => self.begun = true,
            b'S' => self.begun = false,
            _ => {}
        }
        self.queue.passed();
        if self.is_leaving() {
            self.forget_leaving();
        }
    }

    fn frame(&mut self, frame: &Frame<'_>, classifier: &mut Classifier, fx: &mut Effects) -> Result<Judged, Pause> {
        match frame.head.tag {
            b'P' | b'B' | b'E' | b'D' | b'C' => self.batch = Batch::Open,
            b'S' => (self.batch, self.ran) = (Batch::Closed, false),
            b'Q' | b'F' if self.batch == Batch::Open => self.batch = Batch::Interrupted,
            _ => {}
        }
        match frame.head.tag {
            b'Q' => return self.query(frame, classifier, fx),
            b'P' => return self.parse(frame, classifier, fx),
            b'B' => return self.bind(frame, fx),
            b'E' => {
                let judged = self.execute(frame, fx)?;
                self.ran = true;
                return Ok(judged);
            }
            b'C' => return self.close(frame),
            _ => {}
        }
        Ok(match frame.head.tag {
            b'D' => self.owe(Kind::Describe, Class::Other, frame, None),
            b'S' => self.owe(Kind::Sync, Class::Other, frame, None),
            b'F' => self.call(frame, fx),
            b'c' | b'f' => self.owe(Kind::CopyEnd, Class::Other, frame, None),
            b'X' => {
                self.terminated = true;
                Judged::Pass
            }
            // CopyData, Flush, passwords; what is no message at all the server itself answers.
            _ => Judged::Pass,
        })
    }

    fn owe(&mut self, kind: Kind, class: Class, frame: &Frame<'_>, watched: Option<Watched>) -> Judged {
        let at = self.micros(frame.env.now);
        match self.ledger.push(kind, class, at, watched) {
            Some(Watched::Parse(undo, _)) => self.statements.undo(undo),
            Some(Watched::Execute(step)) => self.intent.settle(step.intent, never_run()),
            Some(Watched::Query(script)) => {
                script.steps.into_iter().for_each(|step| self.intent.settle(step.intent, never_run()));
            }
            Some(Watched::Bind(_)) | None => {}
        }
        Judged::Pass
    }

    /// The calls that record the statement, where no event trigger does, or bound its waiting. `text` is what they will stand in.
    fn companions(
        &self,
        statement: &Statement,
        means: Option<Means>,
        step: &Step,
        text: &[u8],
        env: &Env<'_>,
    ) -> Option<Companions> {
        let id = step.fact.as_ref()?.id;
        let care = self.facts.branch.as_deref().and_then(|branch| env.policy.care.get(branch));
        let wait = care.and_then(|care| care.lock_timeout);
        let request = self.queue.released(statement).and_then(Released::noted);
        if self.replication { None } else { Companions::of(statement, &means?, &self.facts, id, text, wait, request) }
    }

    /// A fast-path call runs a function by its number: nobody can see in its text what it does.
    fn call(&mut self, frame: &Frame<'_>, fx: &mut Effects) -> Judged {
        let judged = match frame.env.policy.interest(Class::Opaque) {
            Interest::None => Verdict::Allow(None),
            Interest::Class | Interest::Parse => frame.env.policy.judge_class(&self.who(), Class::Opaque),
        };
        let refusal = match judged {
            Verdict::Allow(_) => None,
            Verdict::Refuse(refusal) => Some(refusal),
            Verdict::Queue(queued) => Some(queued.impossible("a function call has no text")),
            Verdict::Reroute(rerouted) => Some(rerouted.impossible("a function call has no text")),
        };
        if let Some(refusal) = refusal {
            let mut statement = unread(0)[0].clone();
            statement.class = Class::Opaque;
            let refused = self.refused(&statement, b"", refusal, frame.env, fx);
            let new = self.owe_refused(refused, Class::Opaque, frame);
            return Judged::Replace { old: HEADER, new, drop_rest: true };
        }
        self.owe(Kind::Call, Class::Opaque, frame, None)
    }
}

/// The server ignores it: something before it failed.
fn never_run() -> Told {
    Told::Failed { sqlstate: String::new(), message: "an earlier message failed, so it was never run".into() }
}
