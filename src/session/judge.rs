//! May this statement run? Settings that are the proxy's own, then the rules, then whether it can be recorded.

use super::refusal::Refused;
use super::transaction::Step;
use super::{Effects, Env, Session};
use crate::change::{Outcome, Recording, StatementFact, VerdictKind};
use crate::policy::{Refusal, Verdict};
use crate::sql::{Class, Statement};

/// A statement that is to be run, and what the rules said.
pub(super) struct Ruled<'a> {
    pub statement: &'a Statement,
    pub sql: &'a [u8],
    pub rule: Option<String>,
}

impl Session {
    /// Whether the statement may run: the rule that said so, `None` where the recorder has to be asked first,
    /// or why not.
    pub(super) fn rule(&self, statement: &Statement, env: &Env<'_>) -> Result<Option<Option<String>>, Refusal> {
        if let Some(refusal) = guarded_setting(statement) {
            return Err(refusal);
        }
        let rule = match env.policy.judge(&self.who(), statement) {
            Verdict::Refuse(refusal) => return Err(refusal),
            Verdict::Allow(rule) => rule,
        };
        if !is_logged(statement) || statement.temporary || self.transaction.status == b'E' {
            return Ok(Some(rule));
        }
        match self.answer.unwrap_or_else(|| (env.recording)()) {
            Recording::NotRequired | Recording::Ready => Ok(Some(rule)),
            Recording::Broken if self.answer.is_none() => Ok(None),
            Recording::Broken => Err(unrecordable(statement, (env.broken_because)())),
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
        self.answer = None;
        let mut fact = self.fact(&Ruled { statement, sql, rule: refusal.rule.clone() }, env);
        fact.verdict = VerdictKind::Refuse;
        fact.outcome = Outcome::Refused;
        fact.duration = std::time::Duration::ZERO;
        fact.sqlstate = Some(refusal.sqlstate.to_owned());
        fact.error = Some(refusal.message.clone());
        fx.verdicts.push(VerdictKind::Refuse);
        fx.facts.push(fact);
        self.refuse(refusal)
    }

    pub(super) fn step(&mut self, ruled: &Ruled<'_>, env: &Env<'_>) -> Step {
        let intent = self.intent.take_written();
        let mut fact = is_logged(ruled.statement).then(|| Box::new(self.fact(ruled, env)));
        if let (Some(fact), Some(id)) = (&mut fact, intent) {
            fact.id = id;
        }
        Step { control: ruled.statement.control.clone(), fact, intent }
    }

    /// A fact whose outcome is still open; `duration` holds the session's age until then.
    fn fact(&self, ruled: &Ruled<'_>, env: &Env<'_>) -> StatementFact {
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
            started_at: (env.wall)(),
            duration: env.now.saturating_duration_since(self.origin),
        }
    }
}

/// Whether the statement log keeps it, and the history waits for it.
pub(super) fn is_logged(statement: &Statement) -> bool {
    statement.may_be_ddl() || statement.class == Class::Role
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

/// The settings that say whose change it is are set by the proxy alone, at connect.
fn guarded_setting(statement: &Statement) -> Option<Refusal> {
    if statement.tag == "RESET" {
        return None;
    }
    let setting = statement.setting.as_deref()?;
    let (sqlstate, message, hint) = match setting {
        "pggit.branch" => (
            "55P02",
            "parameter \"pggit.branch\" cannot be changed in a session",
            "Connect to the branch instead, in psql with \\c app/feature-x.",
        ),
        "pggit.session" | "pggit.client" => {
            ("42501", "permission denied to set a parameter of the proxy's own", "It is set by the proxy at connect.")
        }
        _ => return None,
    };
    Some(Refusal {
        sqlstate,
        rule: None,
        message: message.to_owned(),
        detail: Some(format!("Parameter: {setting}.")),
        hint: Some(hint.to_owned()),
    })
}
