//! Statements that cannot run inside a transaction: the recorder writes down what is about to be done, the statement is held
//! until that is committed, and what came of it is told when the server is ready for the next one.

use uuid::Uuid;

use super::judge::{No, Ruling, is_logged, logged_sql, unrecordable};
use super::queue::Released;
use super::transaction::Step;
use super::turn::Pause;
use super::{Effects, Env, Session};
use crate::change::{Intended, Intent, Told};
use crate::sql::{Class, Statement};

/// The session's intents.
#[derive(Debug, Default)]
pub(super) struct Intents {
    /// The one of the statement at the front.
    front: Front,
    /// Answered, but the server is not ready yet: it may still have work to do, and locks.
    answered: Vec<(Uuid, Told)>,
    /// Completed but for the last of several transactions, which ends with the client's batch.
    unfinished: Vec<Uuid>,
    /// How many statements have passed of which it is not known yet.
    under_way: usize,
}

#[derive(Debug, Default)]
enum Front {
    #[default]
    None,
    Asked(Uuid),
    Answered(Uuid, Intended),
    /// The statement may pass; its step takes it along.
    Passing(Uuid),
}

impl Intents {
    /// The recorder's answer.
    pub fn answered(&mut self, answer: Intended) {
        if let Front::Asked(id) = self.front {
            self.front = Front::Answered(id, answer);
        }
    }

    /// The intent of the statement that passes now.
    pub fn take_written(&mut self) -> Option<Uuid> {
        match std::mem::take(&mut self.front) {
            Front::Passing(id) => {
                self.under_way += 1;
                Some(id)
            }
            Front::None | Front::Asked(_) | Front::Answered(..) => None,
        }
    }

    /// The server answered, or will not.
    pub fn settle(&mut self, intent: Option<Uuid>, told: Told) {
        self.answered.extend(intent.map(|id| (id, told)));
    }

    /// The server has completed the statement.
    pub fn completed(&mut self, step: &Step) {
        match step.intent {
            Some(id) if !step.is_committed => self.unfinished.push(id),
            intent => self.settle(intent, Told::Applied),
        }
    }

    /// The server is ready for the next statement, after this error if there was one.
    pub fn ready(&mut self, error: Option<&(String, String)>, fx: &mut Effects) {
        let told = || match error {
            None => Told::Applied,
            Some((sqlstate, message)) => Told::Failed { sqlstate: sqlstate.clone(), message: message.clone() },
        };
        self.under_way = self.under_way.saturating_sub(self.answered.len() + self.unfinished.len());
        fx.settled.append(&mut self.answered);
        fx.settled.extend(self.unfinished.drain(..).map(|id| (id, told())));
    }

    /// The connection ended: what was not final will be found out by looking.
    pub fn lost(&mut self, fx: &mut Effects) {
        let unsure = self.answered.drain(..).map(|(id, _)| id).chain(self.unfinished.drain(..));
        fx.settled.extend(unsure.map(|id| (id, Told::Nothing)));
    }
}

impl Session {
    /// As [`Session::rule`], for a statement that the server runs by itself: where it cannot run inside a transaction, an
    /// intent has to be written first (`None`, and `fx` has it).
    pub(super) fn rule_alone(
        &mut self,
        statement: &Statement,
        sql: &[u8],
        env: &Env<'_>,
        fx: &mut Effects,
    ) -> Result<Option<Ruling>, No> {
        let Some(rule) = self.rule(statement, sql, env)? else { return Ok(None) };
        if !self.needs_intent(statement) {
            return Ok(Some(rule));
        }
        match std::mem::take(&mut self.intent.front) {
            Front::None | Front::Asked(_) | Front::Passing(_) => {
                let intent = self.intent_of(statement, sql, env);
                self.intent.front = Front::Asked(intent.id);
                fx.intent = Some(Box::new(intent));
                Ok(None)
            }
            Front::Answered(id, Intended::Written) => {
                self.intent.front = Front::Passing(id);
                Ok(Some(rule))
            }
            Front::Answered(_, Intended::NotRequired) => Ok(Some(rule)),
            Front::Answered(_, Intended::Failed(reason)) => Err(unrecordable(statement, reason).into()),
        }
    }

    /// Waits until what came of others is seen: without event triggers that is done by looking, and this one may change it again.
    /// Within one batch nobody can.
    pub(super) fn wait_for_intents(&mut self, statements: &[Statement]) -> Result<(), Pause> {
        if self.intent.under_way > 0 && statements.iter().any(is_logged) {
            self.turn()?;
        }
        Ok(())
    }

    fn needs_intent(&mut self, statement: &Statement) -> bool {
        // There the server says no to it by itself.
        let in_transaction = self.known_status().is_some_and(|status| status != b'I');
        self.facts.branch.is_some() && changes_alone(statement) && !statement.temporary && !in_transaction
    }

    fn intent_of(&self, statement: &Statement, sql: &[u8], env: &Env<'_>) -> Intent {
        Intent {
            id: self.queue.released(statement).and_then(Released::key).unwrap_or_else(env.new_id),
            session: self.facts.clone(),
            tag: statement.tag,
            class: statement.class,
            object_type: statement.object_type,
            schema: statement.objects.first().and_then(|object| object.schema.clone()),
            names: statement.objects.iter().map(|object| object.name.clone()).collect(),
            sql: logged_sql(sql, env.limits.max_logged_sql),
            application_name: self.application.clone(),
        }
    }
}

/// Whether the server has committed the statement by the time it says that it is complete, whatever comes behind it in the same
/// batch: what cannot run inside a transaction, save for work in several transactions, the last of which is left open.
pub(super) fn commits_at_once(statement: &Statement) -> bool {
    !statement.transactional && !matches!(statement.tag, "CREATE INDEX" | "DROP INDEX" | "REINDEX" | "ALTER TABLE")
}

/// Whether it changes something and cannot run inside a transaction. REINDEX changes what indexes there are when it runs
/// concurrently, or fails doing so; VACUUM, CLUSTER, DISCARD and COMMIT PREPARED change no object.
fn changes_alone(statement: &Statement) -> bool {
    !statement.transactional && (statement.class == Class::Ddl || statement.tag == "REINDEX")
}
