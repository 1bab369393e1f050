//! ALTER BRANCH.

use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::error::BranchError;
use super::{find, locked, rows};
use crate::branch::{Branches, Origin};
use crate::history::connect::Server;
use crate::history::name;
use crate::history::recorder::close;

/// What becomes of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alteration {
    /// Schema changes are refused, unless a rule allows them; and it cannot be dropped.
    Protect,
    /// They are not, and it can.
    Unprotect,
    /// Another name. The database keeps its own.
    Rename(String),
    /// It is dropped when so much time is over; `None`: it stays.
    Expire(Option<Duration>),
}

/// Changes a branch.
pub async fn alter(server: &Server, branches: &Branches, name: &str, what: &Alteration) -> Result<(), BranchError> {
    let branch = find(branches, name)?;
    let is_default = branches.default == name;
    if branch.origin == Origin::Configuration && !is_default {
        return Err(BranchError::Declared(name.to_owned()));
    }
    let mut main = locked(server, name).await?;
    let altered = match rows::row(&mut main, name).await {
        Ok(Some(row)) if row.origin != "table" => Err(BranchError::Declared(name.to_owned())),
        Ok(None) => Err(BranchError::Unknown { name: name.to_owned(), near: Vec::new() }),
        Ok(Some(row)) if row.status != "active" => Err(BranchError::Busy(name.to_owned())),
        Ok(Some(_)) => match what {
            Alteration::Protect => rows::protect(&mut main, name, true).await.map_err(BranchError::from),
            Alteration::Unprotect => rows::protect(&mut main, name, false).await.map_err(BranchError::from),
            Alteration::Rename(_) | Alteration::Expire(_) if is_default => Err(BranchError::Default(name.to_owned())),
            Alteration::Expire(after) => rows::expire(&mut main, name, *after).await.map_err(BranchError::from),
            Alteration::Rename(to) => rename(server, &mut main, branches, (name, &branch.database), to).await,
        },
        Err(error) => Err(error.into()),
    };
    close(main).await;
    altered
}

/// Sessions say the name that they began with: so nobody may be there.
async fn rename(
    server: &Server,
    main: &mut PgConnection,
    branches: &Branches,
    (name, database): (&str, &str),
    to: &str,
) -> Result<(), BranchError> {
    BranchError::bad_name(to)?;
    // For as long as this connection is there.
    if !rows::Lock::Branch(to).try_take(main).await? {
        return Err(BranchError::Busy(to.to_owned()));
    }
    if branches.find(to).is_some() || rows::row(main, to).await?.is_some() {
        return Err(BranchError::Taken(to.to_owned()));
    }
    let sessions = rows::sessions(main, database).await?;
    if !sessions.is_empty() {
        return Err(BranchError::InUse { name: name.to_owned(), sessions });
    }
    rows::rename(main, name, to).await?;
    let mut branch = server.connect(database).await?;
    let mut named = name::settle(&mut branch, to).await;
    if named.is_err() {
        // A proxy has heard of it and is at the same.
        named = name::settle(&mut branch, to).await;
    }
    close(branch).await;
    Ok(named?)
}
