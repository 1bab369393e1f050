//! DROP BRANCH.

use sqlx::postgres::PgConnection;

use super::database::{self, Sessions};
use super::error::BranchError;
use super::{find, locked, rows, sweep};
use crate::branch::{Branches, Origin};
use crate::history::connect::{RecorderError, Server, sqlstate};
use crate::history::recorder::close;

/// Whether sessions on the branch are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// While somebody is there, nothing happens.
    No,
    /// They are ended.
    Yes,
}

/// Drops a branch and its database. Branches that were made from it stay. On an error the branch is as it was, unless the
/// connection broke on the way: then the sweep ends the work.
pub async fn remove(
    server: &Server,
    branches: &Branches,
    name: &str,
    by: &str,
    force: Force,
) -> Result<(), BranchError> {
    if branches.default == name {
        return Err(BranchError::Default(name.to_owned()));
    }
    let mut main = locked(server, name).await?;
    let removed = remove_locked(&mut main, branches, name, by, force).await;
    close(main).await;
    removed
}

/// As [`remove`], of a branch whose lock is held.
pub(super) async fn remove_locked(
    main: &mut PgConnection,
    branches: &Branches,
    name: &str,
    by: &str,
    force: Force,
) -> Result<(), BranchError> {
    let Some(row) = rows::row(main, name).await? else {
        find(branches, name)?;
        return Err(BranchError::Declared(name.to_owned()));
    };
    let declared = branches.find(name).is_some_and(|branch| branch.origin == Origin::Configuration);
    if declared || row.origin != "table" || row.database == main_database(branches) {
        return Err(BranchError::Declared(name.to_owned()));
    }
    if row.copied {
        return Err(BranchError::Busy(name.to_owned()));
    }
    if row.status != "active" {
        // Its maker was lost on the way.
        return sweep::clear(main, name, &row.database).await;
    }
    if row.protected {
        return Err(BranchError::Protected(name.to_owned()));
    }
    if force == Force::No {
        let sessions = rows::sessions(main, &row.database).await?;
        if !sessions.is_empty() {
            return Err(BranchError::InUse { name: name.to_owned(), sessions });
        }
    }
    // From here on no proxy lets anybody in, and no recorder looks at it.
    rows::set_status(main, name, "dropping").await?;
    let ending = match force {
        Force::No => Sessions::Wait,
        Force::Yes => Sessions::End,
    };
    if let Err(error) = database::drop(main, &row.database, ending).await {
        // Somebody was quicker, or has a prepared transaction or a replication slot there.
        rows::set_status(main, name, "active").await?;
        if sqlstate(&error) == Some("55006") {
            let mut sessions = rows::sessions(main, &row.database).await?;
            sessions.push(RecorderError::from(error).to_string());
            return Err(BranchError::InUse { name: name.to_owned(), sessions });
        }
        return Err(error.into());
    }
    Ok(rows::forget(main, name, by).await?)
}

fn main_database(branches: &Branches) -> &str {
    &branches.repository
}
