//! From the server: answers are matched with what was owed. Rows and COPY data pass unread.

use super::ask::Asked;
use super::ledger::{Kind, Script, Watched};
use super::transaction::{Part, Step};
use super::unrecorded::Unrecorded;
use super::{Effects, Env, Held, Session, finished, reroute};
use crate::change::{Outcome, Told};
use crate::sql::Encoding;
use crate::wire::error::field;
use crate::wire::frame::{self, BadLength, HEADER, Head, cstr};
use crate::wire::pipe::Pipe;

/// Longer errors pass unread; their statement then has no message in the log.
const MAX_HELD: usize = 1 << 20;

/// Matches as many frames as are there, and lets them pass.
pub(super) fn relay(session: &mut Session, pipe: &mut Pipe, env: &Env<'_>, fx: &mut Effects) -> Result<(), BadLength> {
    loop {
        if session.server_rest > 0 {
            let n = session.server_rest.min(pipe.incoming().len());
            pipe.pass(n);
            session.server_rest -= n;
            if session.server_rest > 0 {
                return Ok(());
            }
        }
        let bytes = pipe.incoming();
        let Some(passed) = unwatched(session, bytes)? else { return Ok(()) };
        if passed > 0 {
            session.server_rest = passed;
            continue;
        }
        let Some(head) = Head::read(bytes)? else { return Ok(()) };
        let Some(frame) = bytes.get(..head.total) else {
            if head.total > MAX_HELD {
                session.unread(head.tag);
                session.server_rest = head.total;
                continue;
            }
            return Ok(());
        };
        let replaced = session.answer(head.tag, &frame[HEADER..], env, fx);
        match replaced {
            None => pipe.pass(head.total),
            Some(new) => pipe.replace(head.total, &new),
        }
    }
}

/// How many of the bytes belong to a run of frames that nobody looks into, the last one perhaps only in part;
/// 0 when the next frame is watched, `None` when even its head is not there.
#[inline]
fn unwatched(session: &mut Session, bytes: &[u8]) -> Result<Option<usize>, BadLength> {
    let looking = session.look.is_asked();
    let mut run = 0;
    while run < bytes.len() {
        let Some(head) = Head::read(&bytes[run..])? else { break };
        match head.tag {
            b'D' if looking => break,
            // DataRow, CopyData, NotificationResponse, ParameterDescription, CopyDone, FunctionCallResponse
            b'D' | b'd' | b'A' | b't' | b'c' | b'V' | b'R' | b'v' | b'H' => {}
            b'T' | b'n' => drop(session.ledger.pop_if(Kind::Describe)),
            b'2' | b'3' if session.ledger.owes_hidden() => break,
            b'2' if session.ledger.front_watched().is_none() => drop(session.ledger.pop_if(Kind::Bind)),
            b'3' => drop(session.ledger.pop_if(Kind::Close)),
            _ => break,
        }
        run += head.total;
    }
    if run == 0 && bytes.len() < HEADER { Ok(None) } else { Ok(Some(run)) }
}

impl Session {
    /// One watched message; what goes to the client in its place, if anything.
    fn answer(&mut self, tag: u8, body: &[u8], env: &Env<'_>, fx: &mut Effects) -> Option<Vec<u8>> {
        if self.look.is_asked()
            && let Some(instead) = self.overlook(tag, body, fx)
        {
            return Some(instead);
        }
        match tag {
            b'1' | b'2' | b'3' | b'C' if self.ledger.owes_hidden() => return Some(self.hidden(tag, fx)),
            b'C' => return self.completed(body, env, fx),
            b'I' | b's' => {
                if let Some((owed, _)) = self.ledger.pop_if(Kind::Execute) {
                    fx.statements.push((owed.class, self.since(owed.at, env)));
                }
            }
            b'1' => drop(self.ledger.pop_if(Kind::Parse)),
            b'2' => drop(self.ledger.pop_if(Kind::Bind)),
            b'G' | b'W' => self.ledger.copy_in(),
            b'N' => return self.notice(body, fx),
            b'E' => return self.error(body, env, fx),
            b'Z' => return self.ready(body, env, fx),
            b'S' => self.parameter(body, fx),
            b'K' => return self.key(body, fx),
            _ => {}
        }
        None
    }

    /// What a function asks of the proxy is not for the client.
    fn notice(&mut self, body: &[u8], fx: &mut Effects) -> Option<Vec<u8>> {
        let mut asked = Asked::read(body)?;
        asked.in_transaction = self.transaction.status != b'I' || self.executed > 0;
        fx.asked.push(asked);
        Some(Vec::new())
    }

    /// An answer to a companion's message: nothing for the client, save for what waited for it.
    fn hidden(&mut self, tag: u8, fx: &mut Effects) -> Vec<u8> {
        self.ledger.pop();
        if tag == b'C' { self.release(fx) } else { Vec::new() }
    }

    /// The companion behind a statement has completed: now the statement has.
    fn release(&mut self, fx: &mut Effects) -> Vec<u8> {
        let Some(Held { step, frame }) = self.held.take() else { return Vec::new() };
        let tag = cstr(&frame[HEADER..]).map_or(&b""[..], |(tag, _)| tag);
        fx.prepared.extend(self.transaction.completed(step, tag, &mut fx.facts));
        frame
    }

    fn completed(&mut self, body: &[u8], env: &Env<'_>, fx: &mut Effects) -> Option<Vec<u8>> {
        let owed = self.ledger.front()?;
        let step = match owed.kind {
            Kind::Query => match self.ledger.front_watched() {
                Some(Watched::Query(script)) => script.steps.pop_front(),
                _ => None,
            },
            Kind::Execute => {
                fx.statements.push((owed.class, self.since(owed.at, env)));
                self.executed = self.executed.saturating_add(1);
                match self.ledger.pop() {
                    Some((_, Some(Watched::Execute(step)))) => Some(step),
                    _ => None,
                }
            }
            Kind::Startup
            | Kind::Parse
            | Kind::Bind
            | Kind::Describe
            | Kind::Close
            | Kind::Sync
            | Kind::Call
            | Kind::Hidden
            | Kind::HiddenSync
            | Kind::CopyEnd => None,
        };
        let tag = cstr(body).map_or(body, |(tag, _)| tag);
        if matches!(tag, b"DISCARD ALL" | b"DEALLOCATE ALL")
            && self.ledger.len() == 1
            && self.ledger.front().is_some_and(|owed| matches!(owed.kind, Kind::Query | Kind::Sync))
        {
            // With more under way, some of the names known now may have been made after it.
            self.statements.clear();
        }
        let mut step = step?;
        if let Some(fact) = &mut step.fact {
            fact.duration = env.now.saturating_duration_since(self.origin).saturating_sub(fact.duration);
        }
        match step.part {
            Part::Whole => {
                self.intent.completed(&step);
                fx.prepared_ended |= matches!(tag, b"COMMIT PREPARED" | b"ROLLBACK PREPARED");
                fx.prepared.extend(self.transaction.completed(step, tag, &mut fx.facts));
            }
            Part::Accompanied => {
                let mut frame = Vec::new();
                frame::put(&mut frame, b'C', |out| out.extend_from_slice(body));
                self.held = Some(Held { step, frame });
                return Some(Vec::new());
            }
            Part::Companion => return Some(self.release(fx)),
        }
        None
    }

    fn error(&mut self, body: &[u8], env: &Env<'_>, fx: &mut Effects) -> Option<Vec<u8>> {
        fx.errors += 1;
        let text = |code| String::from_utf8_lossy(field(body, code).unwrap_or_default()).into_owned();
        let (mut sqlstate, mut message) = (text(b'C'), text(b'M'));
        if field(body, b'V') == Some(b"FATAL") {
            self.fatal = true;
        }
        if self.ledger.front().is_some_and(|owed| owed.kind == Kind::Startup) {
            fx.login_failed = Some(sqlstate);
            return None;
        }
        let mut rewritten = None;
        if let Some(unrecorded) = Unrecorded::read(body, self.tag_under_way()) {
            fx.unrecorded += 1;
            rewritten = Some(unrecorded.error(body));
            sqlstate = Unrecorded::SQLSTATE.to_owned();
            message = format!("{}: {}", unrecorded.message, unrecorded.cause);
        }
        self.transaction.failed(&sqlstate, &message);
        let told = Told::Failed { sqlstate: sqlstate.clone(), message: message.clone() };
        // Its companion failed, and so did it.
        let held = self.held.take().and_then(|held| held.step.fact);

        let (origin, now) = (self.origin, env.now);
        let mut fail = |fact: Option<Box<crate::change::StatementFact>>| {
            if let Some(fact) = fact {
                let mut fact = finished(*fact, Outcome::Failed, origin, now);
                fact.sqlstate = Some(sqlstate.clone());
                fact.error = Some(message.clone());
                fx.facts.push(fact);
            }
        };
        // Else it may be the call before a statement: then the statement failed with it.
        let is_before = held.is_none();
        fail(held);
        if let Some(Watched::Query(Script { steps, refused, shifts })) = self.ledger.front_watched() {
            rewritten = rewritten.or_else(|| refused.as_ref().and_then(|refused| refused.rewrite(body)));
            rewritten = rewritten.or_else(|| shifts.rewrite(body));
            let is_call = |step: &Step| is_before && step.part == Part::Companion;
            let failed = steps.pop_front();
            let failed = if failed.as_ref().is_some_and(is_call) { steps.pop_front() } else { failed };
            if let Some(step) = failed {
                self.intent.settle(step.intent, told.clone());
                fail(step.fact);
            }
            // The server runs none of the statements behind it.
            steps.clear();
        }
        let mut undone = Vec::new();
        let mut first = true;
        self.ledger.failed(|owed, watched| {
            match watched {
                Some(Watched::Parse(undo, refused)) => {
                    rewritten = rewritten.take().or_else(|| refused.and_then(|refused| refused.rewrite(body)));
                    undone.push(undo);
                }
                Some(Watched::Bind(refused)) => rewritten = rewritten.take().or_else(|| refused.rewrite(body)),
                // What stands behind the failed message is never run: there is no outcome to log.
                Some(Watched::Execute(step)) => {
                    self.intent.settle(step.intent, told.clone());
                    if first {
                        fail(step.fact);
                    }
                }
                Some(Watched::Query(_)) | None => {}
            }
            first &= is_before && owed.kind == Kind::Hidden;
        });
        for undo in undone.into_iter().rev() {
            self.statements.undo(undo);
        }
        rewritten
    }

    /// The command tag of the logged statement that the server is working on.
    fn tag_under_way(&mut self) -> Option<&'static str> {
        if let Some(held) = &self.held {
            return held.step.fact.as_ref().map(|fact| fact.tag);
        }
        let step = match self.ledger.front_watched()? {
            Watched::Query(script) => script.steps.iter().find(|step| step.part != Part::Companion)?,
            Watched::Execute(step) => step,
            Watched::Parse(..) | Watched::Bind(_) => return None,
        };
        step.fact.as_ref().map(|fact| fact.tag)
    }

    fn ready(&mut self, body: &[u8], env: &Env<'_>, fx: &mut Effects) -> Option<Vec<u8>> {
        let mut said = None;
        let status = body.first().copied().unwrap_or(b'I');
        self.executed = 0;
        // One of these is always the next: should the count be wrong, it is right again from here.
        while let Some((owed, _)) = self.ledger.pop() {
            match owed.kind {
                Kind::Query | Kind::Call => {
                    fx.statements.push((owed.class, self.since(owed.at, env)));
                    break;
                }
                Kind::Startup => {
                    fx.ready = true;
                    said = reroute::notice_at_login(&self.facts, body);
                    break;
                }
                Kind::Sync | Kind::HiddenSync => break,
                Kind::Parse
                | Kind::Bind
                | Kind::Describe
                | Kind::Execute
                | Kind::Close
                | Kind::Hidden
                | Kind::CopyEnd => {}
            }
        }
        if status == b'I' && self.ledger.is_empty() {
            // Portals do not outlive their transaction. Those of messages under way belong to the next one.
            self.portals.clear();
        }
        self.intent.ready(self.transaction.error(), fx);
        self.transaction.ready(status, &mut fx.facts);
        said
    }

    fn parameter(&mut self, body: &[u8], fx: &mut Effects) {
        let Some((name, rest)) = cstr(body) else { return };
        let value = String::from_utf8_lossy(cstr(rest).map_or(rest, |(value, _)| value));
        match name {
            b"application_name" => {
                self.application = value.clone().into_owned();
                fx.application = Some(value.into_owned());
            }
            b"client_encoding" => {
                self.encoding = Encoding::of(&value);
                self.is_utf8 = value == "UTF8";
            }
            b"server_version" => {
                let major: String = value.chars().take_while(char::is_ascii_digit).collect();
                self.version = major.parse().unwrap_or_default();
            }
            _ => self.settings.reported(name, &value),
        }
    }

    /// BackendKeyData: the process id stays, the secret becomes ours, of the same length.
    fn key(&mut self, body: &[u8], fx: &mut Effects) -> Option<Vec<u8>> {
        let (pid, secret) = body.split_first_chunk::<4>()?;
        let ours = self.secret.get(..secret.len()).unwrap_or(&self.secret);
        let mut out = Vec::with_capacity(HEADER + 4 + ours.len());
        frame::put(&mut out, b'K', |body| {
            body.extend_from_slice(pid);
            body.extend_from_slice(ours);
        });
        fx.key = Some((u32::from_be_bytes(*pid), secret.to_vec()));
        Some(out)
    }

    /// A watched message too long to be held.
    fn unread(&mut self, tag: u8) {
        if tag == b'E' {
            self.transaction.failed("", "");
            self.ledger.failed(|_, _| {});
        }
    }

    fn since(&self, at: u32, env: &Env<'_>) -> std::time::Duration {
        std::time::Duration::from_micros(u64::from(self.micros(env.now).wrapping_sub(at)))
    }
}
