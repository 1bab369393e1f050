//! Statements that cannot run inside a transaction: the recorder writes down what is about to be done, the statement is held
//! until that is committed, and what came of it is told when the server is ready for the next one.

use uuid::Uuid;

use super::judge::{No, Ruling, logged_sql, unrecordable};
use super::queue::Released;
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
            Front::Passing(id) => Some(id),
            Front::None | Front::Asked(_) | Front::Answered(..) => None,
        }
    }

    /// The server answered, or will not.
    pub fn settle(&mut self, intent: Option<Uuid>, told: Told) {
        self.answered.extend(intent.map(|id| (id, told)));
    }

    /// The server is ready for the next statement.
    pub fn ready(&mut self, fx: &mut Effects) {
        fx.settled.append(&mut self.answered);
    }

    /// The connection ended: what was not final will be found out by looking.
    pub fn lost(&mut self, fx: &mut Effects) {
        fx.settled.extend(self.answered.drain(..).map(|(id, _)| (id, Told::Nothing)));
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

/// Whether it changes something and cannot run inside a transaction. REINDEX changes what indexes there are when it runs
/// concurrently, or fails doing so; VACUUM, CLUSTER, DISCARD and COMMIT PREPARED change no object.
fn changes_alone(statement: &Statement) -> bool {
    !statement.transactional && (statement.class == Class::Ddl || statement.tag == "REINDEX")
}
