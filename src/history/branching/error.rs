//! Why a branch was not made, changed or dropped.

use crate::branch::check_branch_name;
use crate::history::connect::{RecorderError, in_words, sqlstate};

/// Why nothing was done. Whatever was begun is undone, or left to the sweep where even that was not possible.
#[derive(Debug, thiserror::Error)]
pub enum BranchError {
    /// The name cannot be a branch's.
    #[error("\"{name}\" cannot be the name of a branch: {why}")]
    BadName {
        /// As it was asked for.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is one already.
    #[error("branch \"{0}\" exists already")]
    Taken(String),
    /// A database of that name is there, and is no branch.
    #[error("database \"{0}\", which the branch would have, exists already")]
    DatabaseTaken(String),
    /// There are as many as clients may have made by connecting.
    #[error("branch \"{name}\" is not made, as there are {max} such branches already")]
    TooMany {
        /// As it was asked for.
        name: String,
        /// How many there may be.
        max: u32,
    },
    /// Somebody is at it.
    #[error("branch \"{0}\" is just being created, changed or dropped by somebody else")]
    Busy(String),
    /// There is none.
    #[error("branch \"{name}\" does not exist")]
    Unknown {
        /// As it was asked for.
        name: String,
        /// Names like it, the best first.
        near: Vec<String>,
    },
    /// The default branch stays.
    #[error("\"{0}\" is the default branch: it stays, under its name")]
    Default(String),
    /// A configuration file says what it is.
    #[error("branch \"{0}\" is declared in a proxy's configuration file")]
    Declared(String),
    /// It is protected.
    #[error("branch \"{0}\" is protected")]
    Protected(String),
    /// Somebody is connected.
    #[error("branch \"{name}\" is in use")]
    InUse {
        /// Which.
        name: String,
        /// Who: one for each session.
        sessions: Vec<String>,
    },
    /// It is copied already.
    #[error("branch \"{0}\" is just being copied by somebody else")]
    Copied(String),
    /// All sessions in the main database are about to be ended, as it is copied.
    #[error("the main database is just being copied by somebody else")]
    MainCopied,
    /// Others are at work in the main database, which is to be copied.
    #[error("branch \"{0}\" cannot be copied now: other branches are just being created, changed or dropped")]
    AtWork(String),
    /// Somebody cannot be held while it is copied.
    #[error("branch \"{name}\" cannot be copied now: not all of its clients can be held meanwhile")]
    Unheld {
        /// Which.
        name: String,
        /// Who, and why: one for each session.
        sessions: Vec<String>,
    },
    /// The template of that commit is gone, or never was.
    #[error("there is no template of branch \"{parent}\" at commit {commit}")]
    NoTemplate {
        /// The parent.
        parent: String,
        /// The commit.
        commit: String,
    },
    /// The parent's schema changed again and again while it was read.
    #[error("branch \"{0}\" is changed faster than it can be read")]
    Restless(String),
    /// No pg_dump, or none that will do.
    #[error("{0}")]
    NoDump(String),
    /// pg_dump said no.
    #[error("pg_dump failed: {0}")]
    Dump(String),
    /// What pg_dump wrote cannot be run.
    #[error("the schema of \"{parent}\" cannot be made anew: {reason} ({entry})")]
    Restore {
        /// The parent's database.
        parent: String,
        /// The server's words.
        reason: String,
        /// What was being made, as pg_dump calls it.
        entry: String,
        /// The server's SQLSTATE.
        sqlstate: Option<String>,
    },
    /// The commit, time or table that one asked to see.
    #[error("{message}")]
    NotThere {
        /// In the server's words.
        message: String,
        /// Its SQLSTATE.
        sqlstate: &'static str,
    },
    /// He may not look at it.
    #[error("permission denied for branch \"{branch}\"")]
    NoReader {
        /// At which.
        branch: String,
        /// Who.
        user: String,
    },
    /// The server, or the way to it.
    #[error(transparent)]
    Server(#[from] RecorderError),
}

impl BranchError {
    pub(super) fn bad_name(name: &str) -> Result<(), Self> {
        check_branch_name(name).map_err(|why| Self::BadName { name: name.to_owned(), why })
    }

    /// For whoever asked.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::BadName { .. } => "42602",
            Self::Taken(_) => "42710",
            Self::DatabaseTaken(_) => "42P04",
            Self::TooMany { .. } => "53400",
            Self::Busy(_) | Self::InUse { .. } | Self::Copied(_) | Self::Unheld { .. } => "55006",
            Self::MainCopied | Self::AtWork(_) => "55006",
            Self::Unknown { .. } => "3D000",
            Self::Default(_) | Self::Declared(_) | Self::Protected(_) | Self::Restless(_) => "55000",
            Self::NoTemplate { .. } => "02000",
            Self::NoDump(_) => "58P01",
            Self::Dump(_) => "58000",
            Self::Restore { sqlstate, .. } => of_the_server(sqlstate.as_deref()),
            Self::NotThere { sqlstate, .. } => sqlstate,
            Self::NoReader { .. } => "42501",
            Self::Server(error) => of_the_server(error.sqlstate()),
        }
    }

    /// More about it.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::InUse { sessions, .. } => Some(format!("Connected: {}.", sessions.join("; "))),
            Self::Unheld { sessions, .. } => Some(format!("{}.", sessions.join("; "))),
            Self::Copied(_) | Self::MainCopied | Self::AtWork(_) => None,
            Self::BadName { .. } | Self::Taken(_) | Self::DatabaseTaken(_) | Self::Busy(_) | Self::Unknown { .. } => {
                None
            }
            Self::TooMany { .. } => Some("The proxy's branches.auto_create_max is reached.".to_owned()),
            Self::Default(_) | Self::Declared(_) | Self::Protected(_) | Self::NoTemplate { .. } | Self::Restless(_) => {
                None
            }
            Self::NoReader { user, .. } => Some(format!("User: {user}.")),
            Self::NoDump(_) | Self::Dump(_) | Self::Restore { .. } | Self::NotThere { .. } | Self::Server(_) => None,
        }
    }

    /// What to do instead.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unknown { near, .. } if near.is_empty() => "SHOW BRANCHES shows them.".to_owned(),
            Self::Unknown { near, .. } => {
                let names: Vec<String> = near.iter().map(|name| format!("\"{name}\"")).collect();
                format!("Near names: {}.", names.join(", "))
            }
            Self::Unheld { .. } => {
                "Nobody was disturbed. Let them end what they have there, or add FORCE, which ends them.".to_owned()
            }
            Self::Busy(_) | Self::Copied(_) | Self::MainCopied | Self::AtWork(_) | Self::Restless(_) => {
                "Try again.".to_owned()
            }
            Self::Declared(_) => "Change it there, and RELOAD.".to_owned(),
            Self::TooMany { .. } => "Drop those that nobody needs.".to_owned(),
            Self::Protected(name) => format!("ALTER BRANCH \"{name}\" UNPROTECT first."),
            Self::InUse { .. } => "Let them leave, or add FORCE where the command has it.".to_owned(),
            Self::NoTemplate { .. } => {
                "A branch is made from its parent's newest commit, or from one whose template is still kept.".to_owned()
            }
            Self::NoReader { .. } => {
                "It needs CONNECT on that branch's database, and membership in pggit_reader.".to_owned()
            }
            Self::Restore { .. } | Self::Server(_) => match self.sqlstate() {
                "42501" => {
                    "The recorder's role needs CREATEDB, membership in the roles that own the parent and its objects, \
                            and, where event triggers record, to be a superuser."
                        .to_owned()
                }
                "53100" => "The server's disk is full.".to_owned(),
                _ => return None,
            },
            Self::BadName { .. } | Self::Taken(_) | Self::DatabaseTaken(_) | Self::Default(_) => return None,
            Self::NoDump(_) | Self::Dump(_) | Self::NotThere { .. } => return None,
        })
    }
}

impl From<sqlx::Error> for BranchError {
    fn from(error: sqlx::Error) -> Self {
        Self::Server(RecorderError::from(error))
    }
}

/// An error of a statement that made a part of the schema.
pub(super) fn unmade(parent: &str, entry: &str, error: &sqlx::Error) -> BranchError {
    BranchError::Restore {
        parent: parent.to_owned(),
        reason: in_words(error),
        entry: entry.to_owned(),
        sqlstate: sqlstate(error).map(str::to_owned),
    }
}

/// Those that say what to do pass; others are some trouble of the server.
fn of_the_server(sqlstate: Option<&str>) -> &'static str {
    const PASSING: [&str; 10] =
        ["42501", "53000", "53100", "53200", "53300", "55006", "55P03", "57014", "57P03", "25006"];
    match sqlstate {
        Some(code) => PASSING.into_iter().find(|known| *known == code).unwrap_or("58000"),
        None => "08006",
    }
}
