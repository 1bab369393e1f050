//! Branches on demand: databases that the recorder makes and drops.
//!
//! ```text
//! create   row 'creating' ─> template of the parent's newest commit ─> CREATE DATABASE … TEMPLATE ─> row 'active'
//! template pg_dump -s and the history in one snapshot; made once, kept, closed to everybody
//! copy     with data: the parent's clients are held (hold) ─> row 'copying' ─> CREATE DATABASE … TEMPLATE of the parent itself
//! ─> row 'active' remove   row 'dropping' ─> DROP DATABASE ─> no row diff     the facts of two databases, side by side look
//! the facts of one, now or at a commit or time of its history; who touched which column order    such facts as a script sweep
//! what nobody is at work on any more, branches whose time is over, and templates that nobody needs
//! ```
//!
//! [`rows`] says whose work is whose: an advisory lock, held by the connection that makes and drops the databases. The control port
//! and the command line call the same functions; the recorder sweeps.

mod alter;
mod copy;
mod database;
mod diff;
mod dump;
mod error;
mod facts;
mod hold;
mod look;
mod order;
mod remove;
mod rows;
mod script;
mod sql;
mod sweep;
mod template;
mod templates;

use std::time::Duration;

use sqlx::postgres::PgConnection;
use uuid::Uuid;

pub use alter::{Alteration, alter};
pub use diff::{Difference, diff, facts_for};
pub use error::BranchError;
pub use facts::BranchFacts;
pub(super) use facts::{Row as FactsRow, SeenTip, read as read_facts, together};
pub use look::{Blamed, Fact, Moment, blame, schema};
pub(super) use look::{connect_to, in_the_servers_words};
pub(super) use order::remark;
pub use order::script;
pub use remove::{Force, remove};
pub use rows::{Listed, Tip, branches, list};
pub(super) use sql::name as quoted;
pub(super) use sweep::keep_sweeping;
pub use sweep::sweep;

use self::database::Strategy;
use self::rows::Lock;
use super::connect::{RecorderError, Server, bounded};
use super::name;
use super::recorder::{close, instance};
use crate::branch::{Branch, Branches, database_of};

/// A branch to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBranch {
    /// Its name.
    pub name: String,
    /// The branch that it is made from.
    pub parent: String,
    /// The parent's commit; its newest without one.
    pub at: Option<Uuid>,
    /// Whether the parent's data comes along.
    pub data: Data,
    /// Who wants it.
    pub by: String,
    /// How long it stays; `None`: until somebody drops it.
    pub stays: Option<Duration>,
}

/// Whether a branch has its parent's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Its tables are empty.
    Without,
    /// It is a copy of the parent, whose clients are held meanwhile. Who cannot be held is ended, or nothing is done.
    With(Force),
}

/// What is being done, for whoever waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The parent has no template of its newest commit: one is made.
    Template,
    /// The branch's database is made.
    Copy,
    /// The parent's clients come to rest.
    Hold,
    /// The parent's database is copied.
    Data,
}

/// Hears of the stages.
pub type Told<'a> = dyn Fn(Stage) + Send + Sync + 'a;

/// What a branch is made from.
struct Source<'a> {
    name: &'a str,
    database: &'a str,
}

/// Makes a branch; returns its database. On an error nothing is left of it. Not cancel safe: what is cut short is left to the
/// sweep.
pub async fn create(
    server: &Server,
    branches: &Branches,
    new: &NewBranch,
    told: &Told<'_>,
) -> Result<String, BranchError> {
    BranchError::bad_name(&new.name)?;
    let parent = find(branches, &new.parent)?;
    if branches.find(&new.name).is_some() {
        return Err(BranchError::Taken(new.name.clone()));
    }
    let mut main = locked(server, &new.name).await?;
    let made = create_locked(server, &mut main, &parent, new, told).await;
    close(main).await;
    made
}

async fn create_locked(
    server: &Server,
    main: &mut PgConnection,
    parent: &Branch,
    new: &NewBranch,
    told: &Told<'_>,
) -> Result<String, BranchError> {
    match rows::row(main, &new.name).await? {
        Some(row) if row.status == "active" || row.origin != "table" => {
            return Err(BranchError::Taken(new.name.clone()));
        }
        Some(row) if row.copied => return Err(BranchError::Busy(new.name.clone())),
        Some(row) => sweep::clear(main, &new.name, &row.database).await?,
        None => {}
    }
    let database = database_of(&server.main, &new.name);
    if rows::has_database(main, &database).await? {
        return Err(BranchError::DatabaseTaken(database));
    }
    rows::begin(main, (&new.name, &parent.name, &database), &new.by, &instance(), new.stays).await?;
    let made = fill(server, main, parent, new, &database, told).await;
    if let Err(error) = &made {
        undo(main, new, &database, error).await;
    }
    made.map(|()| database)
}

async fn fill(
    server: &Server,
    main: &mut PgConnection,
    parent: &Branch,
    new: &NewBranch,
    database: &str,
    told: &Told<'_>,
) -> Result<(), BranchError> {
    if let Data::With(force) = new.data {
        return copy::copy(server, main, parent, new, (database, force), told).await;
    }
    let source = Source { name: &parent.name, database: &parent.database };
    let template = match new.at {
        Some(commit) if template::tip(server, &parent.database).await?.commit_id != Some(commit) => {
            template::at(main, &source, commit).await?
        }
        Some(_) | None => template::newest(server, main, &source, told).await?,
    };
    told(Stage::Copy);
    let shape = database::shape(main, &parent.database).await?;
    database::create_from(main, database, &template.database, &shape, Strategy::Log).await?;
    database::carry_over(main, &parent.database, database).await?;
    let mut branch = server.connect(database).await?;
    let named = own(&mut branch, &new.name, &parent.name, template.tip).await;
    close(branch).await;
    named?;
    Ok(rows::finish(main, &new.name, template.tip).await?)
}

/// A copy learns its own name, and where it comes from.
async fn own(branch: &mut PgConnection, name: &str, parent: &str, tip: rows::Tip) -> Result<(), RecorderError> {
    name::settle(branch, name).await?;
    let fork = sqlx::query(
        "INSERT INTO pggit.fork (parent, commit_id) VALUES ($1, $2) \
         ON CONFLICT (only_row) DO UPDATE SET parent = $1, commit_id = $2, forked_at = clock_timestamp()",
    );
    bounded(fork.bind(parent).bind(tip.commit_id).execute(branch)).await.map(drop)
}

/// Takes back what was begun. A database that somebody else made in the meantime stays.
async fn undo(main: &mut PgConnection, new: &NewBranch, database: &str, error: &BranchError) {
    let cleared = match error {
        BranchError::DatabaseTaken(_) => rows::forget(main, &new.name, &new.by).await.map_err(BranchError::from),
        _ => sweep::clear(main, &new.name, database).await,
    };
    if let Err(error) = cleared {
        tracing::warn!(branch = new.name, %error, "a branch that could not be made is left to the sweep");
    }
}

fn find(branches: &Branches, name: &str) -> Result<Branch, BranchError> {
    match branches.find(name) {
        Some(branch) => Ok(Branch::clone(branch)),
        None => Err(BranchError::Unknown { name: name.to_owned(), near: branches.near(name) }),
    }
}

/// A connection to the main database that nobody ends to copy that database.
async fn at_work(server: &Server) -> Result<PgConnection, BranchError> {
    let mut main = sql::connect(server, &server.main).await?;
    // In this order: who copies has the lock first, and gives it up when the hold is there.
    if Lock::Work.try_share(&mut main).await? && !hold::is_on(&mut main, &server.main).await? {
        return Ok(main);
    }
    close(main).await;
    Err(BranchError::MainCopied)
}

/// A connection to the main database that has the branch's lock.
async fn locked(server: &Server, name: &str) -> Result<PgConnection, BranchError> {
    let mut main = at_work(server).await?;
    if Lock::Branch(name).try_take(&mut main).await? {
        return Ok(main);
    }
    close(main).await;
    Err(BranchError::Busy(name.to_owned()))
}
