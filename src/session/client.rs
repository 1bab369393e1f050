//! From the client: each statement is classified, judged, and noted in the ledger before it passes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::companion::{Call, Companions, Edits};
use super::judge::{No, Ruled, Ruling, is_logged, logged_sql};
use super::ledger::{Kind, Script, Watched};
use super::lint::{Linted, Lints};
use super::moving::{self, Moves};
use super::prepared::{Prepared, Text};
use super::queue::{self, Held, Kept, Released};
use super::reroute::{Send, Sent, Shape};
use super::transaction::{Part, Step};
use super::{Batch, Effects, Env, Next, Rest, Session};
use crate::change::{Means, Told};
use crate::policy::lint::{Lint, LintAction};
use crate::policy::{Interest, Refusal, Rerouted, Verdict};
use crate::sql::{Class, Classified, Classifier, Statement, unread};
use crate::wire::frame::{self, BadLength, HEADER, Head, cstr};
use crate::wire::pipe::Pipe;

/// The names at the head of a Bind, Execute, Describe or Close are looked for in this many bytes.
const NAMES: usize = 64 << 10;

/// What to do with the frame at the front.
enum Judged {
    /// It passes.
    Pass,
    /// It cannot be judged before more of it is there.
    Wait,
    /// The recorder has to be asked first.
    Ask,
    /// The server has to answer what came before first; these bytes make it do so.
    Settle(Vec<u8>),
    /// Its first `old` bytes give way to `new`; what follows them passes, or is dropped.
    Replace { old: usize, new: Vec<u8>, drop_rest: bool },
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
        let judged = session.frame(&frame, classifier, fx);
        match &judged {
            Judged::Pass | Judged::Replace { .. } => {
                session.passed(head.tag);
                // Only a refused Parse gives way to another one.
                session.unnamed.passed(head.tag, bytes, head.total, matches!(judged, Judged::Replace { .. }));
            }
            Judged::Wait | Judged::Ask | Judged::Settle(_) => {}
        }
        match judged {
            Judged::Pass => session.client_rest = Rest::Pass(head.total),
            Judged::Wait => return Ok(Next::Read),
            Judged::Ask => return Ok(Next::AskRecorder),
            Judged::Settle(flush) => {
                pipe.push(&flush);
                return Ok(Next::AwaitServer);
            }
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

    fn frame(&mut self, frame: &Frame<'_>, classifier: &mut Classifier, fx: &mut Effects) -> Judged {
        match frame.head.tag {
            b'P' | b'B' | b'E' | b'D' | b'C' => self.batch = Batch::Open,
            b'S' => (self.batch, self.ran) = (Batch::Closed, false),
            b'Q' | b'F' if self.batch == Batch::Open => self.batch = Batch::Interrupted,
            _ => {}
        }
        match frame.head.tag {
            b'Q' => self.query(frame, classifier, fx),
            b'P' => self.parse(frame, classifier, fx),
            b'B' => self.bind(frame, fx),
            b'E' => {
                let judged = self.execute(frame, fx);
                self.ran |= matches!(judged, Judged::Pass | Judged::Replace { .. });
                judged
            }
            b'D' => self.owe(Kind::Describe, Class::Other, frame, None),
            b'C' => self.close(frame),
            b'S' => self.owe(Kind::Sync, Class::Other, frame, None),
            b'F' => self.call(frame, fx),
            b'c' | b'f' => self.owe(Kind::CopyEnd, Class::Other, frame, None),
            b'X' => {
                self.terminated = true;
                Judged::Pass
            }
            // CopyData, Flush, passwords; what is no message at all the server itself answers.
            _ => Judged::Pass,
        }
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

    fn query(&mut self, frame: &Frame<'_>, classifier: &mut Classifier, fx: &mut Effects) -> Judged {
        if self.replication && is_replication_command(frame.body) {
            return self.owe(Kind::Query, Class::Other, frame, None);
        }
        if frame.is_too_long() {
            return self.script(frame, &unread(0), b"", fx);
        }
        if !frame.is_whole() {
            return Judged::Wait;
        }
        let text = cstr(frame.body).map_or(frame.body, |(text, _)| text);
        match classifier.classify(text, self.encoding) {
            Classified::Plain(class) => match frame.env.policy.interest(class) {
                Interest::None => self.owe(Kind::Query, class, frame, None),
                Interest::Class => match frame.env.policy.judge_class(&self.who(), class) {
                    Verdict::Allow(_) => self.owe(Kind::Query, class, frame, None),
                    Verdict::Refuse(_) | Verdict::Queue(_) | Verdict::Reroute(_) => {
                        self.script(frame, &classifier.parse(text, self.encoding), text, fx)
                    }
                },
                Interest::Parse => self.script(frame, &classifier.parse(text, self.encoding), text, fx),
            },
            Classified::Statements(statements) => self.script(frame, &statements, text, fx),
        }
    }

    /// A Query whose statements are known.
    fn script(&mut self, frame: &Frame<'_>, statements: &[Statement], text: &[u8], fx: &mut Effects) -> Judged {
        let class = statements.first().map_or(Class::Other, |statement| statement.class);
        if let Some(flush) = self.waits_for_intents(statements) {
            return Judged::Settle(flush);
        }
        match self.lint(&Linted { statements, text: Some(text), shift: 0, is_bound: false }, frame.env, fx) {
            Lints::Go => {}
            Lints::Ask => return Judged::Ask,
            Lints::Settle(flush) => return Judged::Settle(flush),
        }
        // What stands in an open batch must stay one statement: PostgreSQL 18 goes on with the batch behind it, but not behind
        // several. And a malformed message is the server's to reject.
        let takes_calls = self.batch == Batch::Closed && frame.body.len() == text.len() + 1;
        let mut steps = VecDeque::new();
        let mut edits = Edits::default();
        // Most texts hold nothing that matters: only the first statement that does makes a place for those before it.
        let mut plain = 0;
        for (at, statement) in statements.iter().enumerate() {
            let sql = text.get(statement.range.clone()).unwrap_or_default();
            // One of several runs inside a transaction, or not at all.
            let ruled = if statements.len() == 1 {
                self.rule_alone(statement, sql, frame.env, fx)
            } else {
                self.rule(statement, sql, frame.env)
            };
            match ruled {
                Ok(None) => return Judged::Ask,
                Ok(Some(Ruling { rule, means })) => {
                    self.customs.note(statement.tag, sql);
                    let ruled = Ruled { statement, sql, rule };
                    let mut step = self.step(&ruled, frame.env);
                    if let Some(fact) = &step.fact {
                        fx.verdicts.push(fact.verdict);
                    }
                    if steps.is_empty() && !step.matters() {
                        plain += 1;
                        continue;
                    }
                    if steps.is_empty() {
                        steps.extend((0..plain).map(|_| Step::default()));
                    }
                    let companions =
                        if takes_calls { self.companions(statement, means, &step, text, frame.env) } else { None };
                    let Some(companions) = companions else {
                        steps.push_back(step);
                        continue;
                    };
                    step.part = Part::Accompanied;
                    edits.accompany(&statement.range, &companions);
                    steps.extend(companions.before.is_some().then(Step::companion));
                    steps.extend([step, Step::companion()]);
                }
                Err(no) => {
                    let (refusal, request) = match no {
                        No::Refuse(refusal) => (refusal, None),
                        No::Move(to) if statements.len() > 1 => (moving::not_alone(&to), None),
                        No::Move(to) => match self.move_to(&to, moving::Shape::Query, frame.env, fx) {
                            Moves::Ask => return Judged::Ask,
                            Moves::Wait => return Judged::Wait,
                            Moves::Settle(bytes) => return Judged::Settle(bytes),
                            Moves::Ignored => return self.owe(Kind::Query, class, frame, None),
                            Moves::Refuse(refusal) => (refusal, None),
                        },
                        No::Reroute(rerouted) => match self.send_query(&rerouted, frame, statements, text, fx) {
                            Ok(judged) => return judged,
                            Err(refusal) => (refusal, None),
                        },
                        No::Queue(queued) => {
                            let (is_utf8, max) = (self.is_utf8, frame.env.limits.max_logged_sql);
                            let mut kept = statements.iter().enumerate().skip(at).map(|(at, statement)| {
                                let sql = text.get(statement.range.clone()).unwrap_or_default();
                                Kept { statement, sql: queue::exact(sql, is_utf8, max), is_first: at == 0, takes_calls }
                            });
                            let Some(first) = kept.next() else { return Judged::Pass };
                            match self.hold(&queued, &first, kept, frame.env, fx) {
                                Held::Ask => return Judged::Ask,
                                Held::Again => return self.script(frame, statements, text, fx),
                                Held::Settle(flush) => return Judged::Settle(flush),
                                Held::Ignored => return self.owe(Kind::Query, class, frame, None),
                                Held::Refuse(refusal, request) => (refusal, request),
                            }
                        }
                    };
                    let refused = self.refused_as(request, statement, sql, refusal, frame.env, fx);
                    let (old, new) = if frame.is_too_long() {
                        (HEADER, refused.query(b"", &(0..0)))
                    } else {
                        let range = edits.place(statement.range.start)..edits.place(statement.range.end);
                        (frame.head.total, refused.query(&edits.apply(text), &range))
                    };
                    let script = Script { steps, refused: Some(refused), shifts: edits.shifts(text) };
                    self.owe(Kind::Query, class, frame, Some(Watched::Query(script)));
                    return Judged::Replace { old, new, drop_rest: true };
                }
            }
        }
        self.answer = None;
        let shifts = edits.shifts(text);
        let script = (!steps.is_empty()).then_some(Watched::Query(Script { steps, refused: None, shifts }));
        self.owe(Kind::Query, class, frame, script);
        if edits.is_empty() {
            return Judged::Pass;
        }
        let mut new = Vec::new();
        frame::put(&mut new, b'Q', |body| {
            body.extend_from_slice(&edits.apply(text));
            body.push(0);
        });
        Judged::Replace { old: frame.head.total, new, drop_rest: true }
    }

    /// A Query whose statement a rule reroutes; or why it cannot be.
    fn send_query(
        &mut self,
        rerouted: &Rerouted,
        frame: &Frame<'_>,
        statements: &[Statement],
        text: &[u8],
        fx: &mut Effects,
    ) -> Result<Judged, Refusal> {
        let [statement] = statements else {
            return Err(rerouted.impossible("it is one of several statements in one text"));
        };
        let sql = text.get(statement.range.clone()).unwrap_or_default();
        // A malformed message is the server's to reject.
        let text = (frame.body.len() == text.len() + 1).then_some(text);
        let replaced = |new| Judged::Replace { old: frame.head.total, new, drop_rest: true };
        let judged = match self.send_on(rerouted, &Sent { statement, sql, text, shape: Shape::Query }, frame.env, fx) {
            Send::Ask => Judged::Ask,
            Send::Wait => Judged::Wait,
            Send::Settle(bytes) => Judged::Settle(bytes),
            Send::Ignored => self.owe(Kind::Query, statement.class, frame, None),
            Send::Replied => replaced(Vec::new()),
            Send::Refuse(refusal) => return Err(refusal),
            Send::Lost(refusal) => {
                let refused = self.refuse(refusal);
                let new = refused.query(b"", &(0..0));
                let script = Script { refused: Some(refused), ..Script::default() };
                self.owe(Kind::Query, statement.class, frame, Some(Watched::Query(script)));
                replaced(new)
            }
        };
        Ok(judged)
    }

    /// An Execute whose statement a rule reroutes; or why it cannot be.
    fn send_execute(
        &mut self,
        rerouted: &Rerouted,
        frame: &Frame<'_>,
        known: &Text,
        portal: &[u8],
        fx: &mut Effects,
    ) -> Result<Judged, Refusal> {
        let class = known.statement.class;
        let max = frame.env.limits.max_logged_sql;
        let text = queue::exact(known.whole().as_bytes(), self.is_utf8, max).filter(|_| known.exact);
        let sent = Sent {
            statement: &known.statement,
            sql: known.sql.as_bytes(),
            text: text.map(str::as_bytes),
            shape: Shape::Execute { behind: frame.behind },
        };
        let replaced = |old, new| Judged::Replace { old, new, drop_rest: true };
        let judged = match self.send_on(rerouted, &sent, frame.env, fx) {
            Send::Ask => Judged::Ask,
            Send::Wait => Judged::Wait,
            Send::Settle(bytes) => Judged::Settle(bytes),
            Send::Ignored => self.owe(Kind::Execute, class, frame, None),
            Send::Replied => replaced(frame.head.total, Vec::new()),
            Send::Refuse(refusal) => return Err(refusal),
            Send::Lost(refusal) => {
                let refused = self.refuse(refusal);
                let new = refused.execute();
                self.owe(Kind::Execute, class, frame, Some(Watched::Bind(refused)));
                replaced(HEADER + portal.len() + 1, new)
            }
        };
        Ok(judged)
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

    fn parse(&mut self, frame: &Frame<'_>, classifier: &mut Classifier, fx: &mut Effects) -> Judged {
        let too_long = frame.is_too_long();
        if !frame.is_whole() && !too_long {
            return Judged::Wait;
        }
        let Some((name, rest)) = cstr(frame.body) else {
            if !frame.is_whole() && frame.body.len() < NAMES {
                return Judged::Wait;
            }
            return self.owe(Kind::Parse, Class::Other, frame, None);
        };
        let (text, tail) = if too_long { (&b""[..], &b"\0\0"[..]) } else { cstr(rest).unwrap_or((rest, b"")) };
        let prepared = if too_long {
            self.prepare(&unread(0), b"", frame.env)
        } else {
            match classifier.classify(text, self.encoding) {
                Classified::Plain(class) => match frame.env.policy.interest(class) {
                    Interest::None => Prepared::plain(class),
                    Interest::Class | Interest::Parse => {
                        self.prepare(&classifier.parse(text, self.encoding), text, frame.env)
                    }
                },
                Classified::Statements(statements) => self.prepare(&statements, text, frame.env),
            }
        };
        if let Some(known) = &prepared.text {
            let refusal = match self.rule(&known.statement, known.sql.as_bytes(), frame.env) {
                Ok(None) => return Judged::Ask,
                // A statement that is only prepared asks for nothing yet.
                Ok(Some(_)) | Err(No::Queue(_) | No::Reroute(_)) => None,
                Err(No::Move(to)) => {
                    let shape = moving::Shape::Parse { name, behind: frame.behind };
                    match self.move_to(&to, shape, frame.env, fx) {
                        Moves::Ask => return Judged::Ask,
                        Moves::Wait => return Judged::Wait,
                        Moves::Settle(bytes) => return Judged::Settle(bytes),
                        Moves::Ignored => return self.owe(Kind::Parse, Class::Other, frame, None),
                        Moves::Refuse(refusal) => Some(refusal),
                    }
                }
                Err(No::Refuse(refusal)) => Some(refusal),
            };
            match refusal {
                None => {}
                Some(refusal) => {
                    let refused = self.refused(&known.statement, text, refusal, frame.env, fx);
                    let new = refused.parse(name, tail);
                    let old = if too_long { HEADER + name.len() + 1 } else { frame.head.total };
                    let undo = self.statements.set_undoable(name, Prepared::default(), frame.env.limits.max_prepared);
                    self.owe(Kind::Parse, Class::Other, frame, Some(Watched::Parse(undo, Some(refused))));
                    return Judged::Replace { old, new, drop_rest: true };
                }
            }
        }
        self.answer = None;
        let max = frame.env.limits.max_prepared;
        if name.is_empty() {
            // A failed Parse leaves no unnamed statement at all, so there is nothing to undo.
            self.statements.set(name, prepared, max);
            return self.owe(Kind::Parse, Class::Other, frame, None);
        }
        let undo = self.statements.set_undoable(name, prepared, max);
        self.owe(Kind::Parse, Class::Other, frame, Some(Watched::Parse(undo, None)))
    }

    /// What is remembered of a Parse. Several statements in one are the server's to reject (42601).
    fn prepare(&mut self, statements: &[Statement], text: &[u8], env: &Env<'_>) -> Prepared {
        let [statement] = statements else { return Prepared::default() };
        // To know of settings that it never sets does no harm.
        self.customs.note(statement.tag, text);
        let matters = is_logged(statement)
            || Lint::is_about(statement)
            || !statement.transactional
            || statement.control.is_some()
            || statement.setting.is_some()
            || statement.checkout.is_some()
            || env.policy.interest(statement.class) != Interest::None;
        let text = matters.then(|| {
            let range = text.get(statement.range.clone()).unwrap_or_default();
            let sql = logged_sql(range, env.limits.max_logged_sql);
            let exact = queue::exact(range, self.is_utf8, env.limits.max_logged_sql).is_some();
            let before = text.get(..statement.range.start).unwrap_or_default();
            let commented = (!before.trim_ascii().is_empty()).then(|| logged_sql(text, env.limits.max_logged_sql));
            Arc::new(Text { statement: statement.clone(), sql, exact, commented })
        });
        Prepared { class: statement.class, text, means: None, held: false, bound: false }
    }

    fn bind(&mut self, frame: &Frame<'_>, fx: &mut Effects) -> Judged {
        let names = cstr(frame.body).and_then(|(portal, rest)| Some((portal, cstr(rest)?.0)));
        let Some((portal, name)) = names else {
            if frame.is_whole() {
                return self.owe(Kind::Bind, Class::Other, frame, None);
            }
            return if frame.body.len() < NAMES { Judged::Wait } else { self.names_too_long(frame) };
        };
        if portal.len() + name.len() >= NAMES {
            return self.names_too_long(frame);
        }
        let mut prepared = self.statements.find(name).cloned().unwrap_or_default();
        if let Some(known) = prepared.text.clone() {
            // The rules may have changed since Parse.
            let ruled = match self.rule(&known.statement, known.sql.as_bytes(), frame.env) {
                Err(No::Queue(queued)) => match has_parameters(frame) {
                    None => return Judged::Wait,
                    Some(true) => Err(queued.impossible("it has parameters, which only this session has").into()),
                    Some(false) => {
                        prepared.held = true;
                        Ok(Some(Ruling::default()))
                    }
                },
                Err(No::Move(to)) => Err(moving::not_now(&to).into()),
                Err(No::Reroute(rerouted)) => match has_parameters(frame) {
                    None => return Judged::Wait,
                    Some(true) => Err(rerouted.impossible("it has parameters").into()),
                    Some(false) => {
                        prepared.held = true;
                        Ok(Some(Ruling::default()))
                    }
                },
                ruled => ruled,
            };
            match ruled {
                Ok(None) => return Judged::Ask,
                Ok(Some(ruling)) => {
                    prepared.means = ruling.means;
                    if let Some(action) = self.is_linted(&known.statement, frame.env) {
                        prepared.held = true;
                        prepared.bound = match has_parameters(frame) {
                            None if action == LintAction::Queue => return Judged::Wait,
                            has => has == Some(true),
                        };
                    }
                }
                Err(No::Queue(_) | No::Reroute(_) | No::Move(_)) => {}
                Err(No::Refuse(refusal)) => {
                    let refused = self.refused(&known.statement, known.sql.as_bytes(), refusal, frame.env, fx);
                    let old = HEADER + portal.len() + 1 + name.len() + 1;
                    let new = refused.bind_head(portal, frame.head.total - old);
                    self.owe(Kind::Bind, Class::Other, frame, Some(Watched::Bind(refused)));
                    return Judged::Replace { old, new, drop_rest: false };
                }
            }
        }
        self.answer = None;
        self.portals.set(portal, prepared, frame.env.limits.max_prepared);
        self.owe(Kind::Bind, Class::Other, frame, None)
    }

    /// A Bind whose statement cannot be known may not pass: it might run what a rule forbids.
    fn names_too_long(&mut self, frame: &Frame<'_>) -> Judged {
        let refused = self.refuse(Refusal {
            sqlstate: "54000",
            rule: None,
            message: "names of portal and prepared statement are too long".into(),
            detail: Some(format!("Together they may have {NAMES} bytes.")),
            hint: None,
        });
        let new = refused.bind_head(b"", 0);
        self.owe(Kind::Bind, Class::Other, frame, Some(Watched::Bind(refused)));
        Judged::Replace { old: HEADER, new, drop_rest: true }
    }

    fn execute(&mut self, frame: &Frame<'_>, fx: &mut Effects) -> Judged {
        let Some((portal, _)) = cstr(frame.body) else {
            if !frame.is_whole() && frame.body.len() < NAMES {
                return Judged::Wait;
            }
            return self.owe(Kind::Execute, Class::Other, frame, None);
        };
        let Some(prepared) = self.portals.find(portal) else {
            return self.owe(Kind::Execute, Class::Other, frame, None);
        };
        let class = prepared.class;
        let Some(known) = prepared.text.clone() else { return self.owe(Kind::Execute, class, frame, None) };
        let (mut means, held, is_bound) = (prepared.means, prepared.held, prepared.bound);
        if let Some(flush) = self.waits_for_intents(std::slice::from_ref(&known.statement)) {
            return Judged::Settle(flush);
        }
        if !known.statement.transactional || held {
            let statement = &known.statement;
            // Of a long text only the beginning is kept.
            let is_whole = known.exact && known.whole().len() <= frame.env.limits.max_logged_sql;
            let text = is_whole.then(|| known.whole().as_bytes());
            let shift = if known.commented.is_some() { 0 } else { statement.range.start };
            match self.lint(
                &Linted { statements: std::slice::from_ref(statement), text, shift, is_bound },
                frame.env,
                fx,
            ) {
                Lints::Go => {}
                Lints::Ask => return Judged::Ask,
                Lints::Settle(flush) => return Judged::Settle(flush),
            }
            let ruled = match self.rule_alone(&known.statement, known.sql.as_bytes(), frame.env, fx) {
                Ok(ruling) => Ok(ruling),
                Err(No::Refuse(refusal)) => Err((refusal, None)),
                Err(No::Move(to)) => Err((moving::not_now(&to), None)),
                Err(No::Reroute(rerouted)) => match self.send_execute(&rerouted, frame, &known, portal, fx) {
                    Ok(judged) => return judged,
                    Err(refusal) => Err((refusal, None)),
                },
                Err(No::Queue(queued)) => {
                    let sql = known.exact.then_some(known.sql.as_str());
                    // By itself it could commit in the middle.
                    let is_atomic = self.known_status() == Some(b'T') || !matches!(known.statement.tag, "DO" | "CALL");
                    let kept = Kept { statement: &known.statement, sql, is_first: true, takes_calls: is_atomic };
                    match self.hold(&queued, &kept, std::iter::empty(), frame.env, fx) {
                        Held::Ask => return Judged::Ask,
                        Held::Again => return self.execute(frame, fx),
                        Held::Settle(flush) => return Judged::Settle(flush),
                        Held::Ignored => return self.owe(Kind::Execute, class, frame, None),
                        Held::Refuse(refusal, request) => Err((refusal, request)),
                    }
                }
            };
            match ruled {
                Ok(None) => return Judged::Ask,
                Ok(Some(ruling)) => means = ruling.means,
                Err((refusal, request)) => {
                    let old = HEADER + portal.len() + 1;
                    let sql = known.sql.as_bytes();
                    let refused = self.refused_as(request, &known.statement, sql, refusal, frame.env, fx);
                    let new = refused.execute();
                    self.owe(Kind::Execute, class, frame, Some(Watched::Bind(refused)));
                    return Judged::Replace { old, new, drop_rest: true };
                }
            }
            self.answer = None;
        }
        let ruled = Ruled { statement: &known.statement, sql: known.sql.as_bytes(), rule: None };
        let mut step = self.step(&ruled, frame.env);
        if step.fact.is_none() && step.control.is_none() && step.intent.is_none() {
            return self.owe(Kind::Execute, class, frame, None);
        }
        let Some(companions) = self.companions(&known.statement, means, &step, b"", frame.env) else {
            return self.owe(Kind::Execute, class, frame, Some(Watched::Execute(step)));
        };
        if !frame.is_whole() {
            return Judged::Wait;
        }
        step.part = Part::Accompanied;
        let mut new = Vec::new();
        if let Some(before) = &companions.before {
            self.accompany(before, known.whole(), frame, &mut new);
        }
        self.owe(Kind::Execute, class, frame, Some(Watched::Execute(step)));
        frame::put(&mut new, b'E', |body| body.extend_from_slice(frame.body));
        self.accompany(&companions.after, known.whole(), frame, &mut new);
        Judged::Replace { old: frame.head.total, new, drop_rest: true }
    }

    /// Adds the messages of a call, and what is owed for them.
    fn accompany(&mut self, call: &Call, sql: &str, frame: &Frame<'_>, out: &mut Vec<u8>) {
        self.calls = self.calls.wrapping_add(1);
        for _ in 0..call.messages(self.calls, sql, out) {
            self.owe(Kind::Hidden, Class::Other, frame, None);
        }
    }

    fn close(&mut self, frame: &Frame<'_>) -> Judged {
        if let Some((kind, rest)) = frame.body.split_first() {
            match cstr(rest) {
                Some((name, _)) if *kind == b'S' => self.statements.close(name),
                Some((name, _)) => self.portals.close(name),
                None if !frame.is_whole() && frame.body.len() < NAMES => return Judged::Wait,
                None => {}
            }
        } else if !frame.is_whole() {
            return Judged::Wait;
        }
        self.owe(Kind::Close, Class::Other, frame, None)
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
            let new = refused.query(b"", &(0..0));
            let script = Script { refused: Some(refused), ..Script::default() };
            self.owe(Kind::Query, Class::Opaque, frame, Some(Watched::Query(script)));
            return Judged::Replace { old: HEADER, new, drop_rest: true };
        }
        self.owe(Kind::Call, Class::Opaque, frame, None)
    }
}

/// Whether the client binds values; `None` where more of the message is needed to tell.
fn has_parameters(frame: &Frame<'_>) -> Option<bool> {
    let body = frame.body;
    let counted = || {
        let (_, rest) = cstr(body)?;
        let (_, rest) = cstr(rest)?;
        let (formats, rest) = rest.split_first_chunk::<2>()?;
        let count = rest.get(2 * usize::from(u16::from_be_bytes(*formats))..)?.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*count) > 0)
    };
    // A whole message that says nothing is the server's to reject; it binds nothing that it could use.
    counted().or_else(|| frame.is_whole().then_some(false))
}

/// The server ignores it: something before it failed.
fn never_run() -> Told {
    Told::Failed { sqlstate: String::new(), message: "an earlier message failed, so it was never run".into() }
}

/// The grammar of a WAL sender, which is no SQL.
/// <https://www.postgresql.org/docs/current/protocol-replication.html>
fn is_replication_command(body: &[u8]) -> bool {
    let word: Vec<u8> = body
        .trim_ascii_start()
        .iter()
        .take_while(|byte| byte.is_ascii_alphabetic() || **byte == b'_')
        .take(32)
        .map(u8::to_ascii_uppercase)
        .collect();
    matches!(
        word.as_slice(),
        b"IDENTIFY_SYSTEM"
            | b"START_REPLICATION"
            | b"CREATE_REPLICATION_SLOT"
            | b"ALTER_REPLICATION_SLOT"
            | b"DROP_REPLICATION_SLOT"
            | b"READ_REPLICATION_SLOT"
            | b"TIMELINE_HISTORY"
            | b"BASE_BACKUP"
            | b"UPLOAD_MANIFEST"
    )
}
