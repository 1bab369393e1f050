//! The history of a branch, written out: as rows, as a script, as a git repository.
//!
//! ```text
//! source   one branch's database in one snapshot: its commits page by page, their rows as they come
//! json     each row of pggit.history as an object
//! script   the statements again, for psql; said says which texts a commit has and how they can be said again
//! git      a stream for `git fast-import`: tree is the schema as files, path and message name them
//! ```
//!
//! Only one page of commits and the rows of one commit are held at a time; for git the schema of one branch, too.

mod git;
mod json;
mod said;
mod script;
mod source;

use std::io;

pub use git::{Written as WrittenGit, reference as git_reference, write as write_git};
pub use json::write as write_json;
pub use script::write as write_script;
pub use source::{Selection, Source};

use super::branching::BranchError;
use super::connect::in_words;

/// Why the history could not be written out.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no such branch, or it cannot be reached.
    #[error(transparent)]
    Branch(#[from] BranchError),
    /// The server said no, or the connection broke.
    #[error("{}", in_words(.0))]
    Sql(#[from] sqlx::Error),
    /// Whoever reads does not read on, or the disk is full.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// How far it is, for whoever waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The branch.
    pub branch: String,
    /// Commits done.
    pub commits: u64,
    /// Of so many.
    pub of: u64,
}

/// Hears of it with every page.
pub type Told<'a> = dyn FnMut(Progress) + Send + 'a;
