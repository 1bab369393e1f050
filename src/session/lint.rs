//! Schema changes on a branch with `lint`: each is checked before the server hears of it.
//!
//! The statement is held at the front until what was sent before it is answered; then its text is checked, and where something
//! was found the session's own server is asked about its tables ([`super::look`]). Where nothing was found, nothing else happens.

use super::look::At;
use super::turn::{Pause, Turn};
use super::{Effects, Env, Session};
use crate::policy::lint::{About, Check, Findings, Lint, LintAction, Seen, Warning};
use crate::policy::{Queued, Refusal, Verdict};
use crate::sql::Statement;
use crate::wire::error::{Text, put_warning};

/// `warning`, which is no error.
const WARNING: &str = "01000";

/// The statements at the front, where they are checked.
#[derive(Debug, Default)]
pub(super) enum Front {
    #[default]
    None,
    /// The check is under way.
    Asked,
    Checked(Findings),
    /// The server is asked about the tables.
    Looking(Findings),
    Decided(Decided),
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// Statements that are not to be run, by their place.
    said: Vec<(usize, Said)>,
    /// The server could not be asked, and the transaction may have failed with that.
    has_failed: bool,
}

/// Why a statement is not run.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Refuse(Refusal),
    Queue(Box<Queued>),
}

/// What is checked.
pub(super) struct Linted<'a> {
    pub statements: &'a [Statement],
    /// The whole text, where it is known exactly.
    pub text: Option<&'a [u8]>,
    /// How many bytes stand before it in the text that the statements have their places in.
    pub shift: usize,
    /// Values were bound to it.
    pub is_bound: bool,
}

impl Front {
    #[inline]
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Why this statement is not run, if so.
    pub fn says(&self, statement: &Statement) -> Option<&Said> {
        let Self::Decided(decided) = self else { return None };
        decided.said.iter().find(|(at, _)| *at == statement.range.start).map(|(_, said)| said)
    }

    /// Whether the error for the statement is to stand for whatever the server says.
    pub fn has_failed(&self) -> bool {
        matches!(self, Self::Decided(Decided { has_failed: true, .. }))
    }
}

impl Session {
    /// Whether such a statement is checked on this branch.
    pub(super) fn is_linted(&self, statement: &Statement, env: &Env<'_>) -> Option<LintAction> {
        if !Lint::is_about(statement) || self.replication {
            return None;
        }
        let lint = env.policy.care.get(self.facts.branch.as_deref()?)?.lint.as_ref()?;
        Some(lint.action)
    }

    /// Checks statements that the rules let pass: [`Front::says`] knows then which of them are not run.
    pub(super) fn lint(&mut self, linted: &Linted<'_>, env: &Env<'_>, fx: &mut Effects) -> Result<(), Pause> {
        // Nearly every text ends here.
        if !linted.statements.iter().any(Lint::is_about) {
            return Ok(());
        }
        let Some(care) = self.facts.branch.as_deref().and_then(|branch| env.policy.care.get(branch)) else {
            return Ok(());
        };
        let Some(lint) = &care.lint else { return Ok(()) };
        match std::mem::take(&mut self.lint) {
            Front::None | Front::Asked => {}
            Front::Decided(decided) => {
                self.lint = Front::Decided(decided);
                return Ok(());
            }
            Front::Checked(findings) => return self.found(findings, linted, lint.action, env, fx),
            Front::Looking(mut findings) => {
                let seen = match self.looked() {
                    Some(Ok(found)) => Seen::read(&found.carried),
                    Some(Err(failed)) => {
                        let refusal = failed.refusal("Looking at the tables of the statement, for lint.");
                        let first = findings.all.first().and_then(|finding| findings.about.get(finding.statement));
                        let at = first.map_or(0, |about| about.range.start) + linted.shift;
                        self.lint =
                            Front::Decided(Decided { said: vec![(at, Said::Refuse(refusal))], has_failed: true });
                        return Ok(());
                    }
                    // In the client's own batch: it was told, and the batch has failed.
                    None => return Ok(()),
                };
                findings.sharpen(&seen, care.lock_timeout.is_some());
                self.decide(&findings, &seen, lint.action, linted, fx);
                return Ok(());
            }
        }
        let allowed = linted.statements.iter().filter(|statement| {
            self.is_linted(statement, env).is_some()
                && matches!(env.policy.judge(&self.who(), statement), Verdict::Allow(_))
        });
        let about: Vec<About> = allowed
            .map(|statement| {
                let (from, to) = (statement.range.start - linted.shift, statement.range.end - linted.shift);
                About::new(statement, from..to)
            })
            .collect();
        if about.is_empty() {
            return Ok(());
        }
        match self.turn()? {
            Turn::Come => {}
            Turn::Never | Turn::Copying => return Ok(()),
        }
        if self.is_aborted() && linted.statements.first().is_none_or(|first| first.control.is_none()) {
            // 25P02.
            return Ok(());
        }
        fx.check = Some(Box::new(Check {
            lint: lint.clone(),
            text: linted.text.map(<[u8]>::to_vec),
            about,
            version: self.version,
            in_transaction: self.transaction.status != b'I' || linted.statements.len() > 1,
        }));
        self.lint = Front::Asked;
        Err(Pause::Ask)
    }

    /// What came of [`Effects::check`].
    pub fn checked(&mut self, findings: Findings) {
        if matches!(self.lint, Front::Asked) {
            self.lint = Front::Checked(findings);
        }
    }

    fn found(
        &mut self,
        findings: Findings,
        linted: &Linted<'_>,
        action: LintAction,
        env: &Env<'_>,
        fx: &mut Effects,
    ) -> Result<(), Pause> {
        if findings.all.is_empty() {
            self.lint = Front::Decided(Decided::default());
            return Ok(());
        }
        // What is executed before it in the same batch would keep it from running. A transaction that has failed answers
        // nothing, and what stands behind its end comes with that end.
        let cannot_look = self.transaction.status == b'E'
            || self.begun && linted.statements.iter().any(|statement| !statement.transactional);
        if cannot_look {
            self.decide(&findings, &Seen::default(), action, linted, fx);
            return Ok(());
        }
        let wanted = findings.wanted(self.is_utf8);
        self.lint = Front::Looking(findings);
        Err(Pause::Settle(self.look(At::Tables(&wanted), env)))
    }

    fn decide(&mut self, findings: &Findings, seen: &Seen, action: LintAction, linted: &Linted<'_>, fx: &mut Effects) {
        let branch = self.facts.branch.clone().unwrap_or_default();
        let in_transaction = self.transaction.status != b'I';
        let mut said = Vec::new();
        for (number, about) in findings.about.iter().enumerate() {
            let rules = findings.all.iter().filter(|finding| finding.statement == number);
            let before = fx.findings.len();
            fx.findings.extend(rules.map(|finding| finding.rule.clone()));
            if fx.findings.len() == before {
                continue;
            }
            let at = about.range.start + linted.shift;
            match action {
                LintAction::Warn if seen.is_quiet => {}
                LintAction::Warn => {
                    let warnings = findings.warnings(number, seen, in_transaction);
                    warnings.for_each(|warning| put(&mut fx.reply, &warning));
                }
                LintAction::Refuse => {
                    said.push((at, Said::Refuse(findings.refusal(number, seen, &branch, in_transaction))));
                }
                LintAction::Queue => {
                    let queued = findings.queued(number, seen, &branch, in_transaction);
                    let parameters = "it has parameters, which only this session has";
                    said.push(match () {
                        () if self.on_errand => {
                            let refusal = queued.impossible("a rule has sent it here from another branch");
                            (at, Said::Refuse(refusal))
                        }
                        () if linted.is_bound => (at, Said::Refuse(queued.impossible(parameters))),
                        () => (at, Said::Queue(Box::new(queued))),
                    });
                }
            }
        }
        self.lint = Front::Decided(Decided { said, has_failed: false });
    }
}

fn put(out: &mut Vec<u8>, warning: &Warning) {
    put_warning(
        out,
        Text {
            sqlstate: WARNING,
            message: &warning.message,
            detail: warning.detail.as_deref(),
            hint: warning.hint.as_deref(),
        },
    );
}
