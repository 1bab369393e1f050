//! The statement log's writer: one task that moves facts from the queue into `pggit.statements`.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::connect::{Backoff, Condition, RecorderError, Server};
use super::queue::Queue;
use super::store;
use super::tables::not_migrated;
use crate::change::StatementFact;

/// One INSERT carries at most so many facts, and about so many bytes of text.
const BATCH_FACTS: usize = 500;
const BATCH_BYTES: usize = 8 << 20;

/// Between two INSERTs: facts of a burst travel together, and the server commits less often. The first one does not wait.
const LULL: Duration = Duration::from_millis(20);

/// Writes what comes into the queue until it is aborted. Nothing leaves the queue before the database has it.
pub(super) async fn write(server: Arc<Server>, queue: Arc<Queue>, condition: Arc<Condition>) {
    let proxy = instance();
    let mut connection = None;
    let mut backoff = Backoff::new();
    loop {
        let batch = queue.oldest(BATCH_FACTS, BATCH_BYTES).await;
        match write_batch(&server, &mut connection, &batch, &proxy).await {
            Ok(written) => {
                queue.written(written);
                backoff.reset();
                condition.succeed();
                let _ = tokio::time::timeout(LULL, queue.hurried()).await;
            }
            Err(error) => {
                condition.fail(not_migrated(&error).unwrap_or_else(|| error.to_string()));
                let step = pause_after(&error, backoff.pause());
                // Whoever waits for the queue to be empty may not have the time.
                let _ = tokio::time::timeout(step, queue.hurried()).await;
            }
        }
    }
}

/// Says what is lost when the process ends before the database took it.
pub(super) fn report_lost(queue: &Queue, condition: &Condition) {
    let tags: Vec<String> = queue.tags().iter().map(|(tag, count)| format!("{tag} x{count}")).collect();
    let reason = condition.trouble().unwrap_or_else(|| "not enough time".to_owned());
    tracing::error!(count = queue.len(), tags = tags.join(", "), reason, "statement facts could not be written");
}

/// Writes a batch, or its first facts; says how many.
async fn write_batch(
    server: &Server,
    connection: &mut Option<PgConnection>,
    batch: &[Arc<StatementFact>],
    proxy: &str,
) -> Result<usize, RecorderError> {
    // Taken out while it is used: after an error, or when the task is aborted, it is not used again.
    let mut open = match connection.take() {
        Some(open) => open,
        None => server.connect(&server.main).await?,
    };
    let written = match store::insert_facts(&mut open, batch, proxy).await {
        Err(error) if blames_a_row(&error) => write_singly(&mut open, batch, proxy).await?,
        Err(error) => {
            if error.leaves_connection() {
                *connection = Some(open);
            }
            return Err(error);
        }
        Ok(()) => batch.len(),
    };
    *connection = Some(open);
    Ok(written)
}

/// Writes the facts of a batch that failed one by one, so that the one at fault does not hold up the others.
async fn write_singly(
    connection: &mut PgConnection,
    batch: &[Arc<StatementFact>],
    proxy: &str,
) -> Result<usize, RecorderError> {
    for fact in batch {
        match store::insert_facts(connection, std::slice::from_ref(fact), proxy).await {
            Ok(()) => {}
            Err(error) if blames_a_row(&error) => write_reduced(connection, fact, proxy, &error).await?,
            Err(error) => return Err(error),
        }
    }
    Ok(batch.len())
}

/// Writes a fact that the server does not take as it is in a form that it does: plain ASCII, other characters escaped.
async fn write_reduced(
    connection: &mut PgConnection,
    fact: &StatementFact,
    proxy: &str,
    why: &RecorderError,
) -> Result<(), RecorderError> {
    tracing::warn!(id = %fact.id, session = %fact.session.id, tag = fact.tag, reason = %why, "a statement fact is stored with characters escaped");
    match store::insert_facts(connection, &[Arc::new(in_ascii(fact))], proxy).await {
        Err(error) if blames_a_row(&error) => {
            tracing::error!(
                id = %fact.id, session = %fact.session.id, tag = fact.tag, user = fact.session.user,
                branch = fact.session.branch, outcome = fact.outcome.as_str(), reason = %error,
                "a statement fact cannot be stored in any form and is lost"
            );
            Ok(())
        }
        result => result,
    }
}

/// The database may be in an encoding that has no such characters.
fn in_ascii(fact: &StatementFact) -> StatementFact {
    let ascii = |text: &str| text.chars().map(escaped).collect::<String>();
    let maybe = |text: &Option<String>| text.as_deref().map(ascii);
    let mut session = (*fact.session).clone();
    session.user = ascii(&session.user);
    session.database = ascii(&session.database);
    session.branch = maybe(&session.branch);
    StatementFact {
        session: Arc::new(session),
        sql: ascii(&fact.sql),
        rule: maybe(&fact.rule),
        error: maybe(&fact.error),
        application_name: ascii(&fact.application_name),
        ..fact.clone()
    }
}

fn escaped(character: char) -> String {
    if character.is_ascii() && character != '\0' {
        character.to_string()
    } else {
        character.escape_unicode().to_string()
    }
}

/// Whether a value in one of the rows is at fault, so that trying the same again is in vain.
fn blames_a_row(error: &RecorderError) -> bool {
    match error.sqlstate() {
        // Data exceptions (22P05: no such character in the database's encoding), constraints, size limits.
        Some(code) => code.starts_with("22") || code.starts_with("23") || code.starts_with("54"),
        None => matches!(error, RecorderError::Sql(sqlx::Error::Encode(_))),
    }
}

/// Nobody knows when a migration comes; looking once a second costs nothing.
fn pause_after(error: &RecorderError, step: Duration) -> Duration {
    if error.is_not_migrated() { step.min(Duration::from_secs(1)) } else { step }
}

/// Which process wrote a row: host name and process id.
pub(super) fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "unknown" } else { host.trim() };
    format!("{host}/{}", std::process::id())
}

/// Closes a connection properly, without waiting long for it.
pub(super) async fn close(connection: PgConnection) {
    let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
}

#[cfg(test)]
mod tests {
    use super::super::tests::fact;
    use super::*;

    #[test]
    fn a_reduced_fact_loses_nothing() {
        let mut odd = fact("create table \"é\u{FFFD}\0\" ()");
        odd.error = Some("größer".into());
        let reduced = in_ascii(&odd);
        assert_eq!(reduced.sql, "create table \"\\u{e9}\\u{fffd}\\u{0}\" ()");
        assert_eq!(reduced.error.as_deref(), Some("gr\\u{f6}\\u{df}er"));
        assert_eq!(reduced.id, odd.id);
    }
}
