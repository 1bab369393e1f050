//! What rules make go elsewhere. A session that came to another branch than it asked for is told so; a statement that is to be
//! run on another branch is held, while the driver has it run there, and then answered with what that server said.
//!
//! Only a statement that commits by itself can go: what was sent before it is answered first, nothing may have been executed
//! since the last Sync, and in the extended protocol its Execute has to be the last message before the Sync. Then the session's
//! own server never hears of it, and the transaction that the client sees is the other server's.

use super::judge::Ruled;
use super::look::{At, Found, Look};
use super::turn::{COPYING, Pause, Turn};
use super::{Batch, Effects, Env, Session, finished};
use crate::change::{Errand, Outcome, Returned, SessionFacts, StatementFact, VerdictKind};
use crate::policy::{Refusal, Rerouted};
use crate::sql::Statement;
use crate::wire::error::{self, SUCCESSFUL_COMPLETION, Text, put_notice};
use crate::wire::frame::{self, Head};

/// What may stand between an Execute and its Sync, bytes: names.
const MAX_BEHIND: usize = 16 << 10;

/// The statement at the front, where a rule reroutes it.
#[derive(Debug, Default)]
pub(super) enum Front {
    #[default]
    None,
    /// The session's own server is asked for its settings.
    Looking(Box<Pending>),
    /// It is on its way.
    Sent(Box<Pending>),
    Returned(Box<Pending>, Returned),
}

/// What is known of the statement until its end is.
#[derive(Debug)]
pub(super) struct Pending {
    rerouted: Rerouted,
    fact: StatementFact,
}

/// How a statement is sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape<'a> {
    Query,
    /// With what stands behind it.
    Execute {
        behind: &'a [u8],
    },
}

/// A statement, and the text that can be sent on.
pub(super) struct Sent<'a> {
    pub statement: &'a Statement,
    pub sql: &'a [u8],
    /// The client's whole text, where that is known exactly.
    pub text: Option<&'a [u8]>,
    pub shape: Shape<'a>,
}

/// What comes of a statement that a rule reroutes.
pub(super) enum Send {
    /// The server will not run it anyway.
    Ignored,
    /// It is answered: `fx` has the reply.
    Replied,
    /// Substitute it.
    Refuse(Refusal),
    /// Substitute it; the statement log has it already.
    Lost(Refusal),
}

impl Front {
    /// What was said of a statement that has left: what the rules say now comes too late for it.
    pub fn left(&self) -> Option<&Rerouted> {
        match self {
            Self::Sent(pending) | Self::Returned(pending, _) => Some(&pending.rerouted),
            Self::None | Self::Looking(_) => None,
        }
    }

    pub fn returned(&mut self, returned: Returned) {
        if let Self::Sent(pending) = std::mem::take(self) {
            *self = Self::Returned(pending, returned);
        }
    }
}

impl Session {
    /// What comes of a statement that a rule reroutes.
    pub(super) fn send_on(
        &mut self,
        rerouted: &Rerouted,
        sent: &Sent<'_>,
        env: &Env<'_>,
        fx: &mut Effects,
    ) -> Result<Send, Pause> {
        let refuse = |because: &str| Ok(Send::Refuse(rerouted.impossible(because)));
        match std::mem::take(&mut self.errand) {
            Front::Returned(pending, returned) => return Ok(self.answer_with(*pending, returned, sent, env, fx)),
            Front::Looking(pending) => {
                let carried = match self.looked() {
                    Some(Ok(Found { carried, .. })) => carried,
                    Some(Err(reason)) => return refuse(&format!("its settings cannot be read ({reason})")),
                    // In the client's own batch: it was told, and the batch has failed.
                    None => return Ok(Send::Ignored),
                };
                let Some(text) = sent.text else { return refuse("its text is not known") };
                let (to, rule) = (rerouted.to.clone(), rerouted.rule.clone());
                fx.errand = Some(Box::new(Errand { to, rule, sql: text.to_vec(), carried }));
                self.errand = Front::Sent(pending);
                return Err(Pause::Ask);
            }
            Front::None | Front::Sent(_) => {}
        }
        match self.turn()? {
            Turn::Come if self.is_aborted() => return Ok(Send::Ignored),
            Turn::Come => {}
            Turn::Never => return Ok(Send::Ignored),
            Turn::Copying => return refuse(COPYING),
        }
        match self.obstacle(sent) {
            Ok(true) => {}
            Ok(false) => return Err(Pause::Read),
            Err(because) => return refuse(because),
        }
        let ruled = Ruled { statement: sent.statement, sql: sent.sql, rule: Some(rerouted.rule.clone()) };
        let mut fact = self.fact(&ruled, env);
        fact.verdict = VerdictKind::Reroute;
        fact.rerouted_to = Some(rerouted.to.clone());
        self.errand = Front::Looking(Box::new(Pending { rerouted: rerouted.clone(), fact }));
        Err(Pause::Settle(self.look(At::Settings, env)))
    }

    /// Whether something was found out for the statement at the front.
    #[inline]
    pub(super) fn is_leaving(&self) -> bool {
        !matches!((&self.errand, &self.look), (Front::None, Look::None))
            || !self.moving.is_none()
            || !self.lint.is_none()
    }

    /// That statement is through, whatever became of it.
    pub(super) fn forget_leaving(&mut self) {
        (self.errand, self.look) = (Front::None, Look::None);
        self.moving = super::moving::Front::None;
        self.lint = super::lint::Front::None;
    }

    /// Why the statement cannot leave its session, if so; `false` where the client's next message has to be seen first.
    fn obstacle(&self, sent: &Sent<'_>) -> Result<bool, &'static str> {
        if self.transaction.status != b'I' {
            return Err("it is inside a transaction");
        }
        if self.replication {
            return Err("this is a replication connection");
        }
        if sent.text.is_none() {
            return Err("its text is not known exactly (longer than limits.max_logged_sql, or not in UTF-8)");
        }
        if !sent.statement.parsed {
            return Err("it cannot be read");
        }
        let Shape::Execute { behind } = sent.shape else {
            let alone = self.batch == Batch::Closed;
            return if alone { Ok(true) } else { Err("messages of the extended protocol before it have had no Sync") };
        };
        if self.batch == Batch::Interrupted || self.ran {
            return Err("something else was executed before it in the same pipeline");
        }
        if sent.statement.tag == "EXPLAIN" {
            return Err("its answer has rows, whose form was asked of this branch");
        }
        ends_its_batch(behind)
    }

    /// Answers the client with what the other server said.
    fn answer_with(
        &mut self,
        pending: Pending,
        returned: Returned,
        sent: &Sent<'_>,
        env: &Env<'_>,
        fx: &mut Effects,
    ) -> Send {
        let Pending { rerouted, fact } = pending;
        let (frames, ready) = match returned {
            Returned::Never(reason) => return Send::Refuse(rerouted.impossible(&reason)),
            Returned::Lost(ref reason) => {
                let refusal = rerouted.lost(reason);
                fx.facts.push(ended(fact, &returned, self.origin, env.now));
                fx.verdicts.push(VerdictKind::Reroute);
                return Send::Lost(refusal);
            }
            Returned::Answered { ref frames, ref ready, .. } => (frames, ready),
        };
        put_notice(
            &mut fx.reply,
            Text {
                sqlstate: SUCCESSFUL_COMPLETION,
                message: &format!(
                    "{} was sent to branch \"{}\", and is answered from there",
                    rerouted.what, rerouted.to
                ),
                detail: Some(&rerouted.detail),
                hint: None,
            },
        );
        fx.reply.extend_from_slice(frames);
        if matches!(sent.shape, Shape::Query) {
            frame::put(&mut fx.reply, b'Z', |body| body.extend_from_slice(ready));
        }
        let fact = ended(fact, &returned, self.origin, env.now);
        fx.statements.push((fact.class, fact.duration));
        fx.verdicts.push(VerdictKind::Reroute);
        fx.facts.push(fact);
        Send::Replied
    }

    /// A look failed within the client's own batch, and the batch with it: what the client gets for the server's error.
    pub(super) fn look_failed(&mut self, reason: &str, fx: &mut Effects) -> Vec<u8> {
        let mut out = Vec::new();
        let Front::Looking(pending) = std::mem::take(&mut self.errand) else { return out };
        let Pending { rerouted, mut fact } = *pending;
        let refusal = rerouted.impossible(&format!("its settings cannot be read ({reason})"));
        self.transaction.failed(refusal.sqlstate, &refusal.message);
        fact.outcome = Outcome::Refused;
        fact.rerouted_to = None;
        fact.duration = std::time::Duration::ZERO;
        fact.sqlstate = Some(refusal.sqlstate.to_owned());
        fact.error = Some(refusal.message.clone());
        fx.verdicts.push(VerdictKind::Reroute);
        fx.facts.push(fact);
        let text = Text {
            sqlstate: refusal.sqlstate,
            message: &refusal.message,
            detail: refusal.detail.as_deref(),
            hint: refusal.hint.as_deref(),
        };
        error::put(&mut out, b"ERROR", text);
        out
    }

    /// The connection ends while a statement is elsewhere, or has just come back.
    pub(super) fn errand_ended(&mut self, now: std::time::Instant, fx: &mut Effects) {
        let (pending, returned) = match std::mem::take(&mut self.errand) {
            Front::Sent(pending) => (pending, Returned::Lost("the session has ended".to_owned())),
            Front::Returned(pending, returned) => (pending, returned),
            Front::None | Front::Looking(_) => return,
        };
        fx.facts.push(ended(pending.fact, &returned, self.origin, now));
    }
}

/// Whether a Sync is all that follows; what is closed before it changes nothing. `false`: that has yet to come.
fn ends_its_batch(mut behind: &[u8]) -> Result<bool, &'static str> {
    let whole = behind.len();
    loop {
        match Head::read(behind) {
            Ok(Some(Head { tag: b'S', .. })) => return Ok(true),
            Ok(Some(Head { tag: b'C', total })) => behind = behind.get(total..).unwrap_or_default(),
            Ok(None) if whole < MAX_BEHIND => return Ok(false),
            _ => return Err("no Sync follows it at once"),
        }
    }
}

/// The statement log's row, with what became of it.
fn ended(
    fact: StatementFact,
    returned: &Returned,
    origin: std::time::Instant,
    now: std::time::Instant,
) -> StatementFact {
    let (outcome, error) = match returned {
        Returned::Answered { error: None, .. } => (Outcome::Rerouted, None),
        Returned::Answered { error: Some(error), .. } => (Outcome::Failed, Some(error.clone())),
        Returned::Never(reason) => (Outcome::Failed, Some((crate::policy::CANNOT_REROUTE.to_owned(), reason.clone()))),
        Returned::Lost(reason) => (Outcome::Unknown, Some(("08006".to_owned(), reason.clone()))),
    };
    let mut fact = finished(fact, outcome, origin, now);
    (fact.sqlstate, fact.error) = error.unzip();
    fact
}

/// A notice and the first ReadyForQuery, which has this body; `None` where the session is where it wanted to be.
pub(super) fn notice_at_login(facts: &SessionFacts, ready: &[u8]) -> Option<Vec<u8>> {
    let rerouted = facts.rerouted.as_ref()?;
    let branch = facts.branch.as_deref().unwrap_or_default();
    let mut out = Vec::new();
    put_notice(
        &mut out,
        Text {
            sqlstate: SUCCESSFUL_COMPLETION,
            message: &format!("this session is on branch \"{branch}\", not on \"{}\"", rerouted.from),
            detail: Some(&format!("Rule: {}.", rerouted.rule)),
            hint: None,
        },
    );
    frame::put(&mut out, b'Z', |body| body.extend_from_slice(ready));
    Some(out)
}
