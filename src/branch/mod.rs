//! Branches and how a session picks one: pure, no IO.
//!
//! A client names its branch by the start-up parameter `pggit.branch`, by the start-up `options` (`options.rs`
//! reads them as the server does), or by the database name. [`Branches::resolve`] makes one [`Route`] of what they say.

mod database;
mod options;
mod resolve;

use std::sync::Arc;

pub use database::{database_of, template_of};
pub use options::{BranchOption, GUARDED, take_branch_option};

/// The server's limit for names (NAMEDATALEN - 1), in bytes.
pub const MAX_DATABASE_NAME: usize = 63;

/// Our limit for branch names, in bytes: they stand in settings, rows and metric labels.
pub const MAX_BRANCH_NAME: usize = 255;

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
    /// SQLSTATE 22023. Going to either would be a wrong guess: the database is not recorded, and the branch is not
    /// the database that was asked for.
    #[error("branch \"{branch}\" ({carrier}) was asked for in database \"{database}\", which is not \"{repository}\"")]
    NotInRepository {
        /// The branch's name.
        branch: String,
        /// Where it stood.
        carrier: &'static str,
        /// The database name, as sent.
        database: String,
        /// The database name that would have fitted.
        repository: String,
    },
}

impl RouteError {
    /// The SQLSTATE for the client.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "3D000",
            Self::Disagree { .. } | Self::NotInRepository { .. } => "22023",
        }
    }

    /// What the client can do instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Unknown { near, .. } if near.is_empty() => {
                "SHOW BRANCHES on the control port lists the branches.".to_owned()
            }
            Self::Unknown { near, .. } => {
                let names: Vec<String> = near.iter().map(|name| format!("\"{name}\"")).collect();
                format!("Near names: {}.", names.join(", "))
            }
            Self::Disagree { .. } => "Name the branch in one place only.".to_owned(),
            Self::NotInRepository { branch, repository, .. } => {
                format!("Connect to database \"{repository}/{branch}\", or leave the branch out.")
            }
        }
    }
}

/// Why a name cannot be a branch's name; `Ok` when it can.
pub fn check_branch_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("a branch name cannot be empty")
    } else if name.len() > MAX_BRANCH_NAME {
        Err("a branch name has at most 255 bytes")
    } else if name.chars().any(char::is_control) {
        Err("a branch name has no control characters")
    } else if name.starts_with('/') || name.ends_with('/') {
        Err("a branch name neither starts nor ends with `/`")
    } else {
        Ok(())
    }
}

/// Why a name cannot be a database's name; `Ok` when it can.
pub fn check_database_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("a database name cannot be empty")
    } else if name.len() > MAX_DATABASE_NAME {
        Err("a database name has at most 63 bytes")
    } else if name.chars().any(char::is_control) {
        Err("a database name has no control characters")
    } else {
        Ok(())
    }
}
