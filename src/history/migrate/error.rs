//! Why a migration did not run.

use crate::history::connect::in_words;

use super::{LOCK_TIMEOUT, known_versions};

/// Why a migration did not run. Nothing is left half done: what is named failed as a whole, what was told before stays.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Somebody else's `pggit`.
    #[error(
        "database \"{database}\" has a schema pggit that pggit-proxy did not make (pgGit's own SQL, perhaps): \
         it is left as it is. Rename or remove it, or choose another database"
    )]
    Foreign {
        /// Where.
        database: String,
    },
    /// pgGit's own SQL, which was not to be taken over.
    #[error(
        "database \"{database}\" has a schema pggit that pggit-proxy did not make, but pgGit's own SQL: it is left as it is. \
         `migrate up --adopt` takes it over: its rows are kept and told in the history, its event triggers are retired; \
         `migrate down --to 0` gives it back"
    )]
    PgGit {
        /// Where.
        database: String,
    },
    /// Somebody else's extension owns it.
    #[error(
        "in database \"{database}\" pgGit's tables belong to the extension \"{extension}\", and cannot be moved aside: \
         take them out of it first, with ALTER EXTENSION … DROP"
    )]
    PgGitExtension {
        /// Where.
        database: String,
        /// Which.
        extension: String,
    },
    /// Event triggers need a superuser.
    #[error(
        "role \"{role}\" cannot install event triggers, which record the history: run this as a superuser, or as the \
         administrator role of your managed server (its member of rds_superuser, cloudsqlsuperuser …)"
    )]
    NotSuperuser {
        /// Who was connected.
        role: String,
    },
    /// The binary is the older one.
    #[error("the database is at version {found}, this program knows {latest}: use the newer pggit-proxy")]
    TooNew {
        /// The database's version.
        found: i64,
        /// The program's.
        latest: i64,
    },
    /// The text of an applied migration is another one.
    #[error(
        "migration {version} was applied with another text than this program has: it comes from another build; \
         use that one, or compare with `migrate status`"
    )]
    Differs {
        /// Which.
        version: i64,
    },
    /// `--to` names nothing.
    #[error("there is no migration {0}: known are {known}", known = known_versions())]
    NoSuchVersion(i64),
    /// The advisory lock is taken.
    #[error("another migration is running in this database: try again when it is done")]
    Busy,
    /// A client is in the way.
    #[error(
        "migration {version} waited {LOCK_TIMEOUT} in vain for a lock that another session holds; it changed nothing. \
         Try again when no schema change is running (see pg_stat_activity for long transactions)"
    )]
    Locked {
        /// Which.
        version: i64,
    },
    /// Cannot be written.
    #[error("this server is a read-only standby: run the migration on the primary")]
    Standby,
    /// Unsupported server.
    #[error("the server is PostgreSQL {0}: pggit-proxy needs 14 or newer")]
    ServerTooOld(String),
    /// The script itself failed.
    #[error("migration {version} ({name}) failed and changed nothing: {}", in_words(.source))]
    Script {
        /// Which.
        version: i64,
        /// Its name.
        name: String,
        /// The server's words.
        source: sqlx::Error,
    },
    /// Anything else between us and the server.
    #[error("{}", in_words(.0))]
    Sql(#[from] sqlx::Error),
}
