//! The extended protocol: Parse, Bind, Execute, Close.

use std::sync::Arc;

use super::{Frame, Instead, Judged};
use crate::policy::lint::{Lint, LintAction};
use crate::policy::{Interest, Refusal, Rerouted};
use crate::session::companion::Call;
use crate::session::judge::{No, Ruled, Ruling, is_logged, logged_sql};
use crate::session::ledger::{Kind, Watched};
use crate::session::lint::Linted;
use crate::session::moving::{self, Moves};
use crate::session::prepared::{Prepared, Text};
use crate::session::queue::{self, Held, Kept};
use crate::session::refusal::Refused;
use crate::session::reroute::{Send, Sent, Shape};
use crate::session::transaction::Part;
use crate::session::turn::Pause;
use crate::session::{Effects, Env, Session};
use crate::sql::{Class, Classified, Classifier, Statement, unread};
use crate::wire::frame::{self, HEADER, cstr};

/// The names at the head of a Bind, Execute, Describe or Close are looked for in this many bytes.
const NAMES: usize = 64 << 10;

impl Session {
    pub(super) fn parse(
        &mut self,
        frame: &Frame<'_>,
        classifier: &mut Classifier,
        fx: &mut Effects,
    ) -> Result<Judged, Pause> {
        let too_long = frame.is_too_long();
        if !frame.is_whole() && !too_long {
            return Err(Pause::Read);
        }
        let Some((name, rest)) = cstr(frame.body) else {
            if !frame.is_whole() && frame.body.len() < NAMES {
                return Err(Pause::Read);
            }
            return Ok(self.owe(Kind::Parse, Class::Other, frame, None));
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
                Ok(None) => return Err(Pause::Ask),
                // A statement that is only prepared asks for nothing yet.
                Ok(Some(_)) | Err(No::Queue(_) | No::Reroute(_)) => None,
                Err(No::Move(to)) => {
                    let shape = moving::Shape::Parse { name, behind: frame.behind };
                    match self.move_to(&to, shape, frame.env, fx)? {
                        Moves::Ignored => return Ok(self.owe(Kind::Parse, Class::Other, frame, None)),
                        Moves::Refuse(refusal) => Some(refusal),
                    }
                }
                Err(No::Refuse(refusal)) => Some(refusal),
            };
            if let Some(refusal) = refusal {
                let refused = self.refused(&known.statement, text, refusal, frame.env, fx);
                let new = refused.parse(name, tail);
                let old = if too_long { HEADER + name.len() + 1 } else { frame.head.total };
                let undo = self.statements.set_undoable(name, Prepared::default(), frame.env.limits.max_prepared);
                self.owe(Kind::Parse, Class::Other, frame, Some(Watched::Parse(undo, Some(refused))));
                return Ok(Judged::Replace { old, new, drop_rest: true });
            }
        }
        self.answer = None;
        let max = frame.env.limits.max_prepared;
        if name.is_empty() {
            // A failed Parse leaves no unnamed statement at all, so there is nothing to undo.
            self.statements.set(name, prepared, max);
            return Ok(self.owe(Kind::Parse, Class::Other, frame, None));
        }
        let undo = self.statements.set_undoable(name, prepared, max);
        Ok(self.owe(Kind::Parse, Class::Other, frame, Some(Watched::Parse(undo, None))))
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

    pub(super) fn bind(&mut self, frame: &Frame<'_>, fx: &mut Effects) -> Result<Judged, Pause> {
        let names = cstr(frame.body).and_then(|(portal, rest)| Some((portal, cstr(rest)?.0)));
        let Some((portal, name)) = names else {
            if frame.is_whole() {
                return Ok(self.owe(Kind::Bind, Class::Other, frame, None));
            }
            return if frame.body.len() < NAMES { Err(Pause::Read) } else { Ok(self.names_too_long(frame)) };
        };
        if portal.len() + name.len() >= NAMES {
            return Ok(self.names_too_long(frame));
        }
        let mut prepared = self.statements.find(name).cloned().unwrap_or_default();
        if let Some(known) = prepared.text.clone() {
            // The rules may have changed since Parse.
            let ruled = match self.rule(&known.statement, known.sql.as_bytes(), frame.env) {
                Err(No::Queue(queued)) => match has_parameters(frame) {
                    None => return Err(Pause::Read),
                    Some(true) => Err(queued.impossible("it has parameters, which only this session has").into()),
                    Some(false) => {
                        prepared.held = true;
                        Ok(Some(Ruling::default()))
                    }
                },
                Err(No::Move(to)) => Err(moving::not_now(&to).into()),
                Err(No::Reroute(rerouted)) => match has_parameters(frame) {
                    None => return Err(Pause::Read),
                    Some(true) => Err(rerouted.impossible("it has parameters").into()),
                    Some(false) => {
                        prepared.held = true;
                        Ok(Some(Ruling::default()))
                    }
                },
                ruled => ruled,
            };
            match ruled {
                Ok(None) => return Err(Pause::Ask),
                Ok(Some(ruling)) => {
                    prepared.means = ruling.means;
                    if let Some(action) = self.is_linted(&known.statement, frame.env) {
                        prepared.held = true;
                        prepared.bound = match has_parameters(frame) {
                            None if action == LintAction::Queue => return Err(Pause::Read),
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
                    return Ok(Judged::Replace { old, new, drop_rest: false });
                }
            }
        }
        self.answer = None;
        self.portals.set(portal, prepared, frame.env.limits.max_prepared);
        Ok(self.owe(Kind::Bind, Class::Other, frame, None))
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

    pub(super) fn execute(&mut self, frame: &Frame<'_>, fx: &mut Effects) -> Result<Judged, Pause> {
        let Some((portal, _)) = cstr(frame.body) else {
            if !frame.is_whole() && frame.body.len() < NAMES {
                return Err(Pause::Read);
            }
            return Ok(self.owe(Kind::Execute, Class::Other, frame, None));
        };
        let Some(prepared) = self.portals.find(portal) else {
            return Ok(self.owe(Kind::Execute, Class::Other, frame, None));
        };
        let class = prepared.class;
        let Some(known) = prepared.text.clone() else { return Ok(self.owe(Kind::Execute, class, frame, None)) };
        let (mut means, held, is_bound) = (prepared.means, prepared.held, prepared.bound);
        self.wait_for_intents(std::slice::from_ref(&known.statement))?;
        if !known.statement.transactional || held {
            let statement = &known.statement;
            // Of a long text only the beginning is kept.
            let is_whole = known.exact && known.whole().len() <= frame.env.limits.max_logged_sql;
            let text = is_whole.then(|| known.whole().as_bytes());
            let shift = if known.commented.is_some() { 0 } else { statement.range.start };
            let statements = std::slice::from_ref(statement);
            self.lint(&Linted { statements, text, shift, is_bound }, frame.env, fx)?;
            let sql = known.sql.as_bytes();
            match self.rule_alone(statement, sql, frame.env, fx) {
                Ok(Some(ruling)) => means = ruling.means,
                Ok(None) => return Err(Pause::Ask),
                Err(no) => match self.instead_of_execute(no, &known, portal, frame, fx)? {
                    Instead::Done(judged) => return Ok(judged),
                    Instead::Again => return self.execute(frame, fx),
                    Instead::Refuse(refusal, request) => {
                        let refused = self.refused_as(request, statement, sql, refusal, frame.env, fx);
                        return Ok(self.refuse_execute(refused, class, portal, frame));
                    }
                },
            }
            self.answer = None;
        }
        let ruled = Ruled { statement: &known.statement, sql: known.sql.as_bytes(), rule: None };
        let mut step = self.step(&ruled, frame.env);
        if step.fact.is_none() && step.control.is_none() && step.intent.is_none() {
            return Ok(self.owe(Kind::Execute, class, frame, None));
        }
        let Some(companions) = self.companions(&known.statement, means, &step, b"", frame.env) else {
            return Ok(self.owe(Kind::Execute, class, frame, Some(Watched::Execute(step))));
        };
        if !frame.is_whole() {
            return Err(Pause::Read);
        }
        step.part = Part::Accompanied;
        let mut new = Vec::new();
        if let Some(before) = &companions.before {
            self.accompany(before, known.whole(), frame, &mut new);
        }
        self.owe(Kind::Execute, class, frame, Some(Watched::Execute(step)));
        frame::put(&mut new, b'E', |body| body.extend_from_slice(frame.body));
        self.accompany(&companions.after, known.whole(), frame, &mut new);
        Ok(Judged::Replace { old: frame.head.total, new, drop_rest: true })
    }

    /// Adds the messages of a call, and what is owed for them.
    fn accompany(&mut self, call: &Call, sql: &str, frame: &Frame<'_>, out: &mut Vec<u8>) {
        self.calls = self.calls.wrapping_add(1);
        for _ in 0..call.messages(self.calls, sql, out) {
            self.owe(Kind::Hidden, Class::Other, frame, None);
        }
    }

    pub(super) fn close(&mut self, frame: &Frame<'_>) -> Result<Judged, Pause> {
        if let Some((kind, rest)) = frame.body.split_first() {
            match cstr(rest) {
                Some((name, _)) if *kind == b'S' => self.statements.close(name),
                Some((name, _)) => self.portals.close(name),
                None if !frame.is_whole() && frame.body.len() < NAMES => return Err(Pause::Read),
                None => {}
            }
        } else if !frame.is_whole() {
            return Err(Pause::Read);
        }
        Ok(self.owe(Kind::Close, Class::Other, frame, None))
    }

    /// What happens instead of running the portal's statement.
    fn instead_of_execute(
        &mut self,
        no: No,
        known: &Text,
        portal: &[u8],
        frame: &Frame<'_>,
        fx: &mut Effects,
    ) -> Result<Instead, Pause> {
        Ok(match no {
            No::Refuse(refusal) => refusal.into(),
            No::Move(to) => moving::not_now(&to).into(),
            No::Reroute(rerouted) => self.send_execute(&rerouted, known, portal, frame, fx)?,
            No::Queue(queued) => {
                let statement = &known.statement;
                let sql = known.exact.then_some(known.sql.as_str());
                // By itself it could commit in the middle.
                let is_atomic = self.known_status() == Some(b'T') || !matches!(statement.tag, "DO" | "CALL");
                let kept = Kept { statement, sql, is_first: true, takes_calls: is_atomic };
                match self.hold(&queued, &kept, std::iter::empty(), frame.env, fx)? {
                    Held::Again => Instead::Again,
                    Held::Ignored => Instead::Done(self.owe(Kind::Execute, statement.class, frame, None)),
                    Held::Refuse(refusal, request) => Instead::Refuse(refusal, request),
                }
            }
        })
    }

    /// An Execute whose statement a rule reroutes.
    fn send_execute(
        &mut self,
        rerouted: &Rerouted,
        known: &Text,
        portal: &[u8],
        frame: &Frame<'_>,
        fx: &mut Effects,
    ) -> Result<Instead, Pause> {
        let class = known.statement.class;
        let max = frame.env.limits.max_logged_sql;
        let text = queue::exact(known.whole().as_bytes(), self.is_utf8, max).filter(|_| known.exact);
        let sent = Sent {
            statement: &known.statement,
            sql: known.sql.as_bytes(),
            text: text.map(str::as_bytes),
            shape: Shape::Execute { behind: frame.behind },
        };
        Ok(match self.send_on(rerouted, &sent, frame.env, fx)? {
            Send::Ignored => Instead::Done(self.owe(Kind::Execute, class, frame, None)),
            Send::Replied => Instead::Done(Judged::Replace { old: frame.head.total, new: Vec::new(), drop_rest: true }),
            Send::Refuse(refusal) => refusal.into(),
            Send::Lost(refusal) => {
                let refused = self.refuse(refusal);
                Instead::Done(self.refuse_execute(refused, class, portal, frame))
            }
        })
    }

    /// An Execute that gives way to its refusal.
    fn refuse_execute(&mut self, refused: Refused, class: Class, portal: &[u8], frame: &Frame<'_>) -> Judged {
        let new = refused.execute();
        self.owe(Kind::Execute, class, frame, Some(Watched::Bind(refused)));
        Judged::Replace { old: HEADER + portal.len() + 1, new, drop_rest: true }
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
