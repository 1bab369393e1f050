//! Branches and how a session picks one: pure, no IO.

use std::sync::Arc;

/// A branch: a name, and the database on the server that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// As users write it, for example `feature/x`.
    pub name: String,
    /// The database on the server.
    pub database: String,
    /// DDL on it is refused unless a rule allows it.
    pub protected: bool,
    /// The branch it was made from, where known.
    pub parent: Option<String>,
    /// Where it was declared.
    pub origin: Origin,
}

/// Where a branch was declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `[branches.NAME]` in the configuration, or the default branch.
    Configuration,
    /// A row of `pggit.branches`.
    Table,
}

/// All branches known now; replaced as a whole when one changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Branches {
    /// The repository's name: the database of the default branch, the `app` of `app/feature-x`.
    pub repository: String,
    /// The branch of a session that names none.
    pub default: String,
    /// Every branch, the default one among them.
    pub all: Vec<Arc<Branch>>,
}

/// Where a session goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To a branch of the repository.
    Branch(Arc<Branch>),
    /// To a database that is no branch; nothing is recorded for it.
    Unmanaged(String),
}

impl Route {
    /// The database on the server.
    pub fn database(&self) -> &str {
        match self {
            Self::Branch(branch) => &branch.database,
            Self::Unmanaged(database) => database,
        }
    }

    /// The branch's name.
    pub fn branch(&self) -> Option<&str> {
        match self {
            Self::Branch(branch) => Some(&branch.name),
            Self::Unmanaged(_) => None,
        }
    }
}

/// What the start-up packet says about database and branch, before anything is decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carriers {
    /// The `database` parameter, or the user's name where it is absent (the server's own rule).
    pub database: String,
    /// The start-up parameter `pggit.branch`.
    pub parameter: Option<String>,
    /// `-c pggit.branch=…` or `--pggit.branch=…` in `options`.
    pub options: Option<String>,
}

/// Why a session has no branch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// SQLSTATE 3D000; `near` are the closest names, best first.
    #[error("branch \"{name}\" does not exist")]
    Unknown {
        /// As the client wrote it, percent-decoded.
        name: String,
        /// At most five.
        near: Vec<String>,
    },
    /// SQLSTATE 22023.
    #[error("the connection names two branches: \"{first}\" ({first_carrier}) and \"{second}\" ({second_carrier})")]
    Disagree {
        /// The first name.
        first: String,
        /// Where it stood.
        first_carrier: &'static str,
        /// The other name.
        second: String,
        /// Where that stood.
        second_carrier: &'static str,
    },
}
