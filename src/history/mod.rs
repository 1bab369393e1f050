//! The recorder: its own connections to the server, the statement log, what it knows of each branch.

use std::sync::Arc;
use std::time::Duration;

use crate::branch::Branch;
use crate::change::{Recording, StatementFact};
use crate::config::Config;
use crate::policy::Freeze;

/// A handle on the recorder; cheap to clone.
#[derive(Clone, Default)]
pub struct History {
    inner: Arc<()>,
}

/// One line of `SHOW HEALTH`, `pggit.health_check()` and `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthRow {
    /// The branch it was checked on; empty for the process itself.
    pub branch: String,
    /// What was checked.
    pub check: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was found.
    pub message: String,
}

/// A table of texts from the server, for the control port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Column names.
    pub columns: Vec<String>,
    /// Values; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

impl History {
    /// Starts the recorder's tasks on the current runtime. `changed` is called after branches or freezes changed.
    pub fn start(config: &Config, changed: impl Fn() + Send + Sync + 'static) -> Self {
        let _ = (config, changed);
        Self::default()
    }

    /// Tells the recorder which branches there are, after a reload.
    pub fn watch_branches(&self, branches: &crate::branch::Branches) {
        let _ = (branches, &self.inner);
    }

    /// Rows of `pggit.branches` in the main database, as last read.
    pub fn branch_rows(&self) -> Vec<Branch> {
        Vec::new()
    }

    /// Branches frozen by an operator, as last read.
    pub fn freezes(&self) -> Vec<Freeze> {
        Vec::new()
    }

    /// Whether a change on this branch can be recorded now. No IO, no lock held for long.
    pub fn recording(&self, branch: &str) -> Recording {
        let _ = branch;
        Recording::Ready
    }

    /// Waits until [`Self::recording`] is no longer `Broken`, at most `timeout`; returns what it is then.
    pub async fn wait_recording(&self, branch: &str, timeout: Duration) -> Recording {
        let _ = timeout;
        self.recording(branch)
    }

    /// Why the branch is `Broken`, for the error's DETAIL.
    pub fn broken_because(&self, branch: &str) -> String {
        let _ = branch;
        String::new()
    }

    /// Puts a fact into the statement log's queue; hands it back when the queue is full.
    pub fn log(&self, fact: StatementFact) -> Result<(), StatementFact> {
        let _ = fact;
        Ok(())
    }

    /// As [`Self::log`], but waits for room.
    pub async fn log_wait(&self, fact: StatementFact) {
        let _ = fact;
    }

    /// Facts that wait to be written.
    pub fn pending(&self) -> usize {
        0
    }

    /// Waits until every fact logged so far is written, at most `timeout`; false when it was too short.
    pub async fn flush(&self, timeout: Duration) -> bool {
        let _ = timeout;
        true
    }

    /// The newest rows of `pggit.history` of one branch, newest first.
    pub async fn history(&self, branch: &str, limit: u32) -> anyhow::Result<Rows> {
        let _ = (branch, limit);
        Ok(Rows::default())
    }

    /// The newest rows of `pggit.statements`, newest first.
    pub async fn statements(&self, limit: u32) -> anyhow::Result<Rows> {
        let _ = limit;
        Ok(Rows::default())
    }

    /// Records a freeze and puts it in force; false when there was one already.
    pub async fn freeze(&self, branch: &str, by: &str) -> anyhow::Result<bool> {
        let _ = (branch, by);
        Ok(false)
    }

    /// Lifts a freeze; false when there was none.
    pub async fn thaw(&self, branch: &str, by: &str) -> anyhow::Result<bool> {
        let _ = (branch, by);
        Ok(false)
    }

    /// What the recorder last saw, for `SHOW HEALTH` and `/readyz`.
    pub fn health(&self) -> Vec<HealthRow> {
        Vec::new()
    }
}
