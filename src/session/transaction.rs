//! What became of logged statements: they are applied when their transaction commits, and only then.

use uuid::Uuid;

use crate::change::{Outcome, PreparedTransaction, StatementFact};
use crate::sql::Control;

/// One statement that was sent: what to do when its CommandComplete comes.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Set where it moves the transaction.
    pub control: Option<Control>,
    /// Set where it is logged; its outcome is filled in later.
    pub fact: Option<Box<StatementFact>>,
    /// Set where an intent was written for it.
    pub intent: Option<Uuid>,
    /// Once it has completed, nothing takes it back.
    pub is_committed: bool,
    pub part: Part,
}

/// Whether the client gets the statement's CommandComplete when it comes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It does.
    #[default]
    Whole,
    /// It gets it when the companion behind the statement has completed as well.
    Accompanied,
    /// A companion: a statement of ours, of which the client hears nothing.
    Companion,
}

impl Step {
    pub fn companion() -> Self {
        Self { part: Part::Companion, ..Self::default() }
    }

    /// Whether its CommandComplete changes anything here.
    pub fn matters(&self) -> bool {
        self.fact.is_some()
            || self.intent.is_some()
            || self.control.as_ref().is_some_and(|control| *control != Control::Begin)
    }
}

/// The session's transaction, as far as the statement log needs it.
#[derive(Debug)]
pub(super) struct Transaction {
    /// The status byte of the last ReadyForQuery: `I`, `T` or `E`.
    pub status: u8,
    /// Statements that succeeded, whose transaction is still open.
    done: Vec<StatementFact>,
    /// Name, and how many of `done` came before it.
    savepoints: Vec<(String, usize)>,
    /// The error since the last ReadyForQuery, if there was one: SQLSTATE and message.
    error: Option<(String, String)>,
}

impl Default for Transaction {
    fn default() -> Self {
        Self { status: b'I', done: Vec::new(), savepoints: Vec::new(), error: None }
    }
}

impl Transaction {
    /// A statement completed with this command tag. `resolved` gets every fact whose outcome is now known, and those of a
    /// transaction that was prepared, which is returned.
    pub fn completed(
        &mut self,
        step: Step,
        tag: &[u8],
        resolved: &mut Vec<StatementFact>,
    ) -> Option<PreparedTransaction> {
        match step.fact {
            Some(mut fact) if step.is_committed => {
                fact.outcome = Outcome::Applied;
                resolved.push(*fact);
            }
            Some(fact) => self.done.push(*fact),
            None => {}
        }
        match step.control {
            None => {}
            Some(Control::Begin) => {}
            // COMMIT of a failed transaction completes as ROLLBACK.
            Some(Control::Commit) if tag == b"COMMIT" => self.end(Outcome::Applied, resolved),
            Some(Control::Commit | Control::Rollback) => self.end(Outcome::RolledBack, resolved),
            // COMMIT PREPARED may come from any session, any time later.
            Some(Control::Prepare(gid)) if tag == b"PREPARE TRANSACTION" => {
                let statements: Vec<Uuid> = self.done.iter().map(|fact| fact.id).collect();
                self.end(Outcome::Unknown, resolved);
                return (!statements.is_empty()).then_some(PreparedTransaction { gid, statements });
            }
            // Of a transaction that had failed.
            Some(Control::Prepare(_)) => self.end(Outcome::RolledBack, resolved),
            Some(Control::CommitPrepared(_) | Control::RollbackPrepared(_)) => {}
            Some(Control::Savepoint(name)) => self.savepoints.push((name, self.done.len())),
            Some(Control::Release(name)) => {
                if let Some(at) = self.savepoint(&name) {
                    self.savepoints.truncate(at);
                }
            }
            Some(Control::RollbackTo(name)) => {
                if let Some(at) = self.savepoint(&name) {
                    let from = self.savepoints.get(at).map_or(0, |(_, done)| *done);
                    self.resolve(from, Outcome::RolledBack, resolved);
                    self.savepoints.truncate(at + 1);
                }
            }
        }
        None
    }

    /// The server answered with an error.
    pub fn failed(&mut self, sqlstate: &str, message: &str) {
        self.error = Some((sqlstate.to_owned(), message.to_owned()));
    }

    /// The error since the last ReadyForQuery: SQLSTATE and message.
    pub fn error(&self) -> Option<&(String, String)> {
        self.error.as_ref()
    }

    /// ReadyForQuery. An implicit transaction has ended by now: with an error since, it was rolled back.
    pub fn ready(&mut self, status: u8, resolved: &mut Vec<StatementFact>) {
        self.status = status;
        let error = self.error.take();
        if status == b'I' {
            match error {
                None => self.end(Outcome::Applied, resolved),
                Some((sqlstate, message)) => {
                    for fact in &mut self.done {
                        fact.sqlstate = Some(sqlstate.clone());
                        fact.error = Some(message.clone());
                    }
                    self.end(Outcome::RolledBack, resolved);
                }
            }
        }
    }

    /// The connection ended. With a COMMIT under way nobody knows, and neither where the server ends the transaction by
    /// itself, as it may have done so; else it rolled back.
    pub fn ended(&mut self, commit_under_way: bool, resolved: &mut Vec<StatementFact>) {
        let may_be_over = commit_under_way || self.status == b'I';
        let outcome = if may_be_over { Outcome::Unknown } else { Outcome::RolledBack };
        self.end(outcome, resolved);
    }

    fn end(&mut self, outcome: Outcome, resolved: &mut Vec<StatementFact>) {
        self.savepoints.clear();
        self.resolve(0, outcome, resolved);
    }

    fn savepoint(&self, name: &str) -> Option<usize> {
        self.savepoints.iter().rposition(|(found, _)| found == name)
    }

    fn resolve(&mut self, from: usize, outcome: Outcome, resolved: &mut Vec<StatementFact>) {
        resolved.extend(self.done.drain(from.min(self.done.len())..).map(|mut fact| {
            fact.outcome = outcome;
            fact
        }));
    }
}
