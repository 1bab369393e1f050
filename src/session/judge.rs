//! May this statement run? What no client may do, then the rules, then whether it can be recorded.

use uuid::Uuid;

use super::guard;
use super::intent::commits_at_once;
use super::lint::Said;
use super::queue::Released;
use super::refusal::Refused;
use super::transaction::{Part, Step};
use super::{Effects, Env, Session};
use crate::change::{Means, Outcome, Recording, StatementFact, VerdictKind};
use crate::policy::{CANNOT_REROUTE, QUEUED, Queued, Refusal, Rerouted, Verdict};
use crate::sql::{Class, Statement};

/// A statement that is to be run, and what the rules said.
pub(super) struct Ruled<'a> {
    pub statement: &'a Statement,
    pub sql: &'a [u8],
    pub rule: Option<String>,
}

/// A statement may run.
#[derive(Default)]
pub(super) struct Ruling {
    /// The rule that said so.
    pub rule: Option<String>,
    /// How it is recorded, where it has to be.
    pub means: Option<Means>,
}

/// Why a statement may not run.
pub(super) enum No {
    /// It is not to be run.
    Refuse(Refusal),
    /// It is to wait for approval.
    Queue(Box<Queued>),
    /// It is to be run elsewhere.
    Reroute(Box<Rerouted>),
    /// It asks to move to this branch.
    Move(String),
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

impl Session {
    /// Whether the statement may run, `None` where the recorder has to be asked first,
    /// or why not.
    pub(super) fn rule(&self, statement: &Statement, sql: &[u8], env: &Env<'_>) -> Result<Option<Ruling>, No> {
        if let Some(rerouted) = self.errand.left() {
            return Err(No::Reroute(Box::new(rerouted.clone())));
        }
        let moves = statement.checkout.as_ref().filter(|_| !self.on_errand).zip(self.facts.branch.as_ref());
        match moves {
            // It is there: the server says so.
            Some((to, here)) if to == here => return Ok(Some(Ruling::default())),
            Some((to, _)) => return Err(No::Move(to.clone())),
            None => {}
        }
        if let Some(refusal) = guard::refuses(statement, sql) {
            return Err(refusal.into());
        }
        let released = self.queue.released(statement);
        let rule = match env.policy.judge(&self.who(), statement) {
            Verdict::Refuse(refusal) => return Err(refusal.into()),
            Verdict::Queue(queued) if self.on_errand => {
                return Err(queued.impossible("a rule has sent it here from another branch").into());
            }
            Verdict::Queue(queued) => match released {
                Some(released) => Some(released.rule.clone()),
                None => return Err(No::Queue(Box::new(queued))),
            },
            Verdict::Reroute(rerouted) if self.on_errand => {
                return Err(rerouted.impossible("a rule has sent it here already").into());
            }
            Verdict::Reroute(rerouted) => return Err(No::Reroute(Box::new(rerouted))),
            Verdict::Allow(rule) => match self.lint.says(statement) {
                None => rule,
                Some(Said::Refuse(refusal)) => return Err(refusal.clone().into()),
                Some(Said::Queue(queued)) => match released {
                    Some(released) => Some(released.rule.clone()),
                    None => return Err(No::Queue(queued.clone())),
                },
            },
        };
        let noted = released.and_then(Released::noted);
        if noted.is_none() && (!is_logged(statement) || statement.temporary) {
            return Ok(Some(Ruling { rule, means: None }));
        }
        match self.answer.unwrap_or_else(|| (env.recording)()) {
            Recording::NotRequired if noted.is_some() => {
                let because = "whose change request it is cannot be noted with it".to_owned();
                Err(unrecordable(statement, because).into())
            }
            Recording::NotRequired => Ok(Some(Ruling { rule, means: None })),
            Recording::Ready(means) => Ok(Some(Ruling { rule, means: Some(means) })),
            Recording::Broken if self.answer.is_none() => Ok(None),
            Recording::Broken => Err(unrecordable(statement, (env.broken_because)()).into()),
        }
    }

    /// Logs the refusal, and gives it a number.
    pub(super) fn refused(
        &mut self,
        statement: &Statement,
        sql: &[u8],
        refusal: Refusal,
        env: &Env<'_>,
        fx: &mut Effects,
    ) -> Refused {
        self.refused_as(None, statement, sql, refusal, env, fx)
    }

    /// The same where the statement became a change request: its key is the request's.
    pub(super) fn refused_as(
        &mut self,
        request: Option<Uuid>,
        statement: &Statement,
        sql: &[u8],
        refusal: Refusal,
        env: &Env<'_>,
        fx: &mut Effects,
    ) -> Refused {
        self.answer = None;
        let released = self.queue.released(statement);
        let run = released.and_then(Released::run);
        let key = request.or(released.and_then(Released::key));
        let (verdict, outcome) = if released.is_some() {
            // It was approved, and something else says no.
            (VerdictKind::Queue, Outcome::Refused)
        } else if refusal.sqlstate == QUEUED {
            (VerdictKind::Queue, Outcome::Queued)
        } else if refusal.sqlstate == CANNOT_REROUTE {
            (VerdictKind::Reroute, Outcome::Refused)
        } else {
            (VerdictKind::Refuse, Outcome::Refused)
        };
        let mut fact = self.fact(&Ruled { statement, sql, rule: refusal.rule.clone() }, env);
        if let Some(id) = key {
            fact.id = id;
        }
        fact.request = run;
        fact.verdict = verdict;
        fact.outcome = outcome;
        fact.duration = std::time::Duration::ZERO;
        fact.sqlstate = Some(refusal.sqlstate.to_owned());
        fact.error = Some(refusal.message.clone());
        fx.verdicts.push(verdict);
        fx.facts.push(fact);
        self.refuse(refusal)
    }

    pub(super) fn step(&mut self, ruled: &Ruled<'_>, env: &Env<'_>) -> Step {
        let intent = self.intent.take_written();
        let released = self.queue.released(ruled.statement);
        let logged = released.is_some() || is_logged(ruled.statement);
        let mut fact = logged.then(|| Box::new(self.fact(ruled, env)));
        if let (Some(fact), Some(released)) = (&mut fact, released) {
            fact.id = released.key().unwrap_or(fact.id);
            fact.rule = Some(released.rule.clone());
            fact.verdict = VerdictKind::Queue;
            fact.request = released.run();
        }
        if let (Some(fact), Some(id)) = (&mut fact, intent) {
            fact.id = id;
        }
        Step {
            control: ruled.statement.control.clone(),
            fact,
            intent,
            is_committed: commits_at_once(ruled.statement),
            part: Part::Whole,
        }
    }

    /// A fact whose outcome is still open; `duration` holds the session's age until then.
    pub(super) fn fact(&self, ruled: &Ruled<'_>, env: &Env<'_>) -> StatementFact {
        StatementFact {
            id: (env.new_id)(),
            session: self.facts.clone(),
            tag: ruled.statement.tag,
            class: ruled.statement.class,
            sql: logged_sql(ruled.sql, env.limits.max_logged_sql),
            verdict: VerdictKind::Allow,
            rule: ruled.rule.clone(),
            outcome: Outcome::Unknown,
            sqlstate: None,
            error: None,
            application_name: self.application.clone(),
            rerouted_to: None,
            request: None,
            started_at: (env.wall)(),
            duration: env.now.saturating_duration_since(self.origin),
        }
    }
}

/// Whether the statement log keeps it, and the history waits for it.
pub(super) fn is_logged(statement: &Statement) -> bool {
    statement.may_be_ddl() || statement.class == Class::Role || statement.tag == "REINDEX"
}

/// Refused because nobody could say afterwards that it was done.
pub(super) fn unrecordable(statement: &Statement, because: String) -> Refusal {
    Refusal {
        sqlstate: "PG003",
        rule: None,
        message: format!("{} refused: the history cannot be written", tag(statement)),
        detail: Some(because),
        hint: Some("See SHOW HEALTH on the control port, and pggit-proxy migrate status.".into()),
    }
}

fn tag(statement: &Statement) -> &str {
    if statement.tag.is_empty() { "statement" } else { statement.tag }
}

/// The text as it is logged: UTF-8, cut at the bound with a mark.
pub(super) fn logged_sql(sql: &[u8], max: usize) -> String {
    match sql.get(..max) {
        Some(head) if sql.len() > max => format!("{} … [{} bytes]", String::from_utf8_lossy(head), sql.len()),
        _ => String::from_utf8_lossy(sql).into_owned(),
    }
}
