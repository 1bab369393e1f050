//! The simple protocol: a Query, of one statement or several.

use std::collections::VecDeque;

use super::{Frame, Instead, Judged};
use crate::policy::{Interest, Rerouted, Verdict};
use crate::session::companion::Edits;
use crate::session::judge::{No, Ruled, Ruling};
use crate::session::ledger::{Kind, Script, Watched};
use crate::session::lint::Linted;
use crate::session::moving::{self, Moves};
use crate::session::queue::{self, Held, Kept};
use crate::session::refusal::Refused;
use crate::session::reroute::{Send, Sent, Shape};
use crate::session::transaction::{Part, Step};
use crate::session::turn::Pause;
use crate::session::{Batch, Effects, Session};
use crate::sql::{Class, Classified, Classifier, Statement, unread};
use crate::wire::frame::{self, HEADER, cstr};

/// A Query's text, taken apart.
struct Read<'a> {
    text: &'a [u8],
    statements: &'a [Statement],
    /// Calls of ours can stand in it. What stands in an open batch must stay one statement: PostgreSQL 18 goes on with the batch
    /// behind it, but not behind several. And a malformed message is the server's to reject.
    takes_calls: bool,
}

impl<'a> Read<'a> {
    fn sql(&self, statement: &Statement) -> &'a [u8] {
        self.text.get(statement.range.clone()).unwrap_or_default()
    }

    fn class(&self) -> Class {
        self.statements.first().map_or(Class::Other, |statement| statement.class)
    }
}

impl Session {
    pub(super) fn query(
        &mut self,
        frame: &Frame<'_>,
        classifier: &mut Classifier,
        fx: &mut Effects,
    ) -> Result<Judged, Pause> {
        if self.replication && is_replication_command(frame.body) {
            return Ok(self.owe(Kind::Query, Class::Other, frame, None));
        }
        if frame.is_too_long() {
            return self.script(frame, &unread(0), b"", fx);
        }
        if !frame.is_whole() {
            return Err(Pause::Read);
        }
        let text = cstr(frame.body).map_or(frame.body, |(text, _)| text);
        match classifier.classify(text, self.encoding) {
            Classified::Plain(class) => match frame.env.policy.interest(class) {
                Interest::None => Ok(self.owe(Kind::Query, class, frame, None)),
                Interest::Class => match frame.env.policy.judge_class(&self.who(), class) {
                    Verdict::Allow(_) => Ok(self.owe(Kind::Query, class, frame, None)),
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
    fn script(
        &mut self,
        frame: &Frame<'_>,
        statements: &[Statement],
        text: &[u8],
        fx: &mut Effects,
    ) -> Result<Judged, Pause> {
        self.wait_for_intents(statements)?;
        self.lint(&Linted { statements, text: Some(text), shift: 0, is_bound: false }, frame.env, fx)?;
        let takes_calls = self.batch == Batch::Closed && frame.body.len() == text.len() + 1;
        let read = Read { text, statements, takes_calls };
        let mut steps = VecDeque::new();
        let mut edits = Edits::default();
        // Most texts hold nothing that matters: only the first statement that does makes a place for those before it.
        let mut plain = 0;
        for (at, statement) in statements.iter().enumerate() {
            let sql = read.sql(statement);
            // One of several runs inside a transaction, or not at all.
            let ruled = if statements.len() == 1 {
                self.rule_alone(statement, sql, frame.env, fx)
            } else {
                self.rule(statement, sql, frame.env)
            };
            let Ruling { rule, means } = match ruled {
                Ok(Some(ruling)) => ruling,
                Ok(None) => return Err(Pause::Ask),
                Err(no) => {
                    let (refusal, request) = match self.instead_of_query(no, at, &read, frame, fx)? {
                        Instead::Done(judged) => return Ok(judged),
                        Instead::Again => return self.script(frame, statements, text, fx),
                        Instead::Refuse(refusal, request) => (refusal, request),
                    };
                    let refused = self.refused_as(request, statement, sql, refusal, frame.env, fx);
                    let (old, new) = if frame.is_too_long() {
                        (HEADER, refused.query(b"", &(0..0)))
                    } else {
                        let range = edits.place(statement.range.start)..edits.place(statement.range.end);
                        (frame.head.total, refused.query(&edits.apply(text), &range))
                    };
                    let script = Script { steps, refused: Some(refused), shifts: edits.shifts(text) };
                    self.owe(Kind::Query, read.class(), frame, Some(Watched::Query(script)));
                    return Ok(Judged::Replace { old, new, drop_rest: true });
                }
            };
            self.customs.note(statement.tag, sql);
            let mut step = self.step(&Ruled { statement, sql, rule }, frame.env);
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
            let companions = if takes_calls { self.companions(statement, means, &step, text, frame.env) } else { None };
            let Some(companions) = companions else {
                steps.push_back(step);
                continue;
            };
            step.part = Part::Accompanied;
            edits.accompany(&statement.range, &companions);
            steps.extend(companions.before.is_some().then(Step::companion));
            steps.extend([step, Step::companion()]);
        }
        self.answer = None;
        let shifts = edits.shifts(text);
        let script = (!steps.is_empty()).then_some(Watched::Query(Script { steps, refused: None, shifts }));
        let passed = self.owe(Kind::Query, read.class(), frame, script);
        if edits.is_empty() {
            return Ok(passed);
        }
        let mut new = Vec::new();
        frame::put(&mut new, b'Q', |body| {
            body.extend_from_slice(&edits.apply(text));
            body.push(0);
        });
        Ok(Judged::Replace { old: frame.head.total, new, drop_rest: true })
    }

    /// What happens instead of running the statement at this place in the text.
    fn instead_of_query(
        &mut self,
        no: No,
        at: usize,
        read: &Read<'_>,
        frame: &Frame<'_>,
        fx: &mut Effects,
    ) -> Result<Instead, Pause> {
        let is_alone = read.statements.len() == 1;
        Ok(match no {
            No::Refuse(refusal) => refusal.into(),
            No::Move(to) if !is_alone => moving::not_alone(&to).into(),
            No::Move(to) => match self.move_to(&to, moving::Shape::Query, frame.env, fx)? {
                Moves::Ignored => Instead::Done(self.owe(Kind::Query, read.class(), frame, None)),
                Moves::Refuse(refusal) => refusal.into(),
            },
            No::Reroute(rerouted) => self.send_query(&rerouted, read, frame, fx)?,
            No::Queue(queued) => {
                let (is_utf8, max) = (self.is_utf8, frame.env.limits.max_logged_sql);
                let mut kept = read.statements.iter().enumerate().skip(at).map(|(at, statement)| {
                    let sql = queue::exact(read.sql(statement), is_utf8, max);
                    Kept { statement, sql, is_first: at == 0, takes_calls: read.takes_calls }
                });
                let Some(first) = kept.next() else { return Ok(Instead::Done(Judged::Pass)) };
                match self.hold(&queued, &first, kept, frame.env, fx)? {
                    Held::Again => Instead::Again,
                    Held::Ignored => Instead::Done(self.owe(Kind::Query, read.class(), frame, None)),
                    Held::Refuse(refusal, request) => Instead::Refuse(refusal, request),
                }
            }
        })
    }

    /// A Query whose statement a rule reroutes.
    fn send_query(
        &mut self,
        rerouted: &Rerouted,
        read: &Read<'_>,
        frame: &Frame<'_>,
        fx: &mut Effects,
    ) -> Result<Instead, Pause> {
        let [statement] = read.statements else {
            return Ok(rerouted.impossible("it is one of several statements in one text").into());
        };
        // A malformed message is the server's to reject.
        let text = (frame.body.len() == read.text.len() + 1).then_some(read.text);
        let sent = Sent { statement, sql: read.sql(statement), text, shape: Shape::Query };
        let replaced = |new| Instead::Done(Judged::Replace { old: frame.head.total, new, drop_rest: true });
        Ok(match self.send_on(rerouted, &sent, frame.env, fx)? {
            Send::Ignored => Instead::Done(self.owe(Kind::Query, statement.class, frame, None)),
            Send::Replied => replaced(Vec::new()),
            Send::Refuse(refusal) => refusal.into(),
            Send::Lost(refusal) => {
                let refused = self.refuse(refusal);
                replaced(self.owe_refused(refused, statement.class, frame))
            }
        })
    }

    /// What stands for a Query, or a function call, of which nothing is run; its answer is owed.
    pub(super) fn owe_refused(&mut self, refused: Refused, class: Class, frame: &Frame<'_>) -> Vec<u8> {
        let new = refused.query(b"", &(0..0));
        let script = Script { refused: Some(refused), ..Script::default() };
        self.owe(Kind::Query, class, frame, Some(Watched::Query(script)));
        new
    }
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
