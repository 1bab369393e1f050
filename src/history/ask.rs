//! Answers to functions that a client called, and that wait for the proxy: see `session::ask`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::branching::{self, BranchError, Data, NewBranch};
use super::connect::{RecorderError, bounded};
use super::recorder::close;
use super::{History, Inner};
use crate::branch::Branches;
use crate::change::{Recording, SessionFacts};
use crate::session::{Ask, Asked, Wanted};

/// Others wait for their turn: each may run a pg_dump.
pub(super) static MAKING: Semaphore = Semaphore::const_new(2);

/// The same for those who look: the facts of a large schema are some megabytes.
static LOOKING: Semaphore = Semaphore::const_new(4);

/// How long a branch that is just served may take until it is known to be well. The function waits longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long rows of answers stay.
const KEPT: &str = "1 hour";

/// What the function tells its caller.
struct Refusal {
    sqlstate: &'static str,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

/// Does what was asked, and writes the answer into the session's own database.
pub(super) async fn answer(
    history: &History,
    session: &SessionFacts,
    asked: Asked,
    branches: Arc<Branches>,
    refresh: impl FnOnce(),
) {
    let Some(branch) = session.branch.as_deref() else { return };
    let (Some(inner), Some(database)) = (history.inner(), branches.find(branch).map(|branch| branch.database.clone()))
    else {
        return;
    };
    let Recording::Ready(means) = history.wait_recording(branch, PATIENCE).await else {
        tracing::warn!(branch, session = %session.id, "a function asks for something while the branch cannot be recorded");
        return;
    };
    let Some(ask) = asked.verified(&means.key, session.id) else {
        tracing::warn!(branch, session = %session.id, user = session.user, "a message that is not ours asks for something");
        return;
    };
    if let Err(error) = tell(inner, &database, &ask, None).await {
        tracing::warn!(branch, session = %session.id, %error, "a function that asks for something cannot be answered");
        return;
    }
    let done = match &ask.what {
        Wanted::CreateBranch { name, parent } if !asked.in_transaction && !ask.is_among_others() => {
            let _turn = MAKING.acquire().await;
            let made = make(history, session, name, parent.as_ref(), branches).await;
            refresh();
            made.map(|()| None).map_err(Refusal::from)
        }
        Wanted::CreateBranch { .. } => Err(Refusal {
            sqlstate: "25001",
            message: "branches cannot be made inside a transaction block".to_owned(),
            detail: None,
            hint: Some("A branch is not undone with the transaction. Call it by itself.".to_owned()),
        }),
        Wanted::Facts { branch } => {
            let _turn = LOOKING.acquire().await;
            branching::facts_for(&inner.server, &branches, branch, &session.user).await.map(Some).map_err(Refusal::from)
        }
    };
    let told = tell(inner, &database, &ask, Some(done)).await;
    let told = match told {
        // The server had the row before: it is the answer that it cannot take, as for characters that its encoding does not have.
        Err(error) if error.sqlstate().is_some() => {
            let refusal = Refusal {
                sqlstate: "22000",
                message: format!("the answer cannot be kept in database \"{database}\": {error}"),
                detail: None,
                hint: None,
            };
            tell(inner, &database, &ask, Some(Err(refusal))).await
        }
        told => told,
    };
    if let Err(error) = told {
        tracing::warn!(branch, session = %session.id, %error, "a function that asked for something cannot be told what came of it");
    }
}

async fn make(
    history: &History,
    session: &SessionFacts,
    name: &str,
    parent: Option<&String>,
    branches: Arc<Branches>,
) -> Result<(), BranchError> {
    let parent = parent.or(session.branch.as_ref()).cloned().unwrap_or_default();
    tracing::info!(branch = name, parent, session = %session.id, user = session.user, "a client makes a branch");
    let by = session.user.clone();
    let new = NewBranch { name: name.to_owned(), parent, at: None, data: Data::Without, by, stays: None };
    history.create_branch(branches, new).await.map(drop)
}

/// Writes the row that the function looks for: that somebody is at it, then what came of it.
async fn tell(
    inner: &Inner,
    database: &str,
    ask: &Ask,
    done: Option<Result<Option<String>, Refusal>>,
) -> Result<(), RecorderError> {
    let mut connection = inner.server.connect(database).await?;
    let is_done = done.is_some();
    let (result, refusal) = match done {
        Some(Ok(result)) => (result, None),
        Some(Err(refusal)) => (None, Some(refusal)),
        None => (None, None),
    };
    let row = sqlx::query(
        "WITH old AS (DELETE FROM pggit.answers a WHERE a.at < now() - $8::text::interval) \
         INSERT INTO pggit.answers (id, done, sqlstate, message, detail, hint, result) VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb) \
         ON CONFLICT (id) DO UPDATE SET done = $2, sqlstate = $3, message = $4, detail = $5, hint = $6, result = $7::text::jsonb",
    );
    let (sqlstate, message, detail, hint) = match refusal {
        Some(refusal) => (Some(refusal.sqlstate), Some(refusal.message), refusal.detail, refusal.hint),
        None => (None, None, None, None),
    };
    let row = row.bind(ask.ask).bind(is_done).bind(sqlstate).bind(message).bind(detail).bind(hint);
    let row = row.bind(result).bind(KEPT);
    let written = bounded(row.execute(&mut connection)).await.map(drop);
    close(connection).await;
    written
}

impl From<BranchError> for Refusal {
    fn from(error: BranchError) -> Self {
        let (detail, hint) = (error.detail(), error.hint());
        Self { sqlstate: error.sqlstate(), message: error.to_string(), detail, hint }
    }
}
