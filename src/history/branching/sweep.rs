//! Takes away what was left half made or half dropped, branches whose time is over, and templates that nobody needs.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::database::{self, Sessions};
use super::error::BranchError;
use super::remove::{self, Force};
use super::rows::{self, Lock};
use super::templates;
use crate::history::Inner;
use crate::history::connect::Server;
use crate::history::recorder::{close, instance};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(30);

/// Sweeps at the start and then now and then, until it is aborted.
pub(in crate::history) async fn keep_sweeping(inner: Arc<Inner>) {
    loop {
        inner.known.first_read().await;
        match sweep(&inner.server).await {
            Ok(swept) => {
                for what in swept {
                    tracing::info!(what, "swept");
                }
            }
            // The recorder says by itself when the server or the schema is not there.
            Err(error) => tracing::debug!(%error, "branches cannot be swept"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// One sweep; says what was taken away. Another one that is under way is enough.
pub async fn sweep(server: &Server) -> Result<Vec<String>, BranchError> {
    // Most often there is nothing to do, and one question tells.
    let mut main = super::at_work(server).await?;
    let swept = match Lock::Sweep.try_take(&mut main).await? {
        true => sweep_locked(&mut main).await,
        false => Ok(Vec::new()),
    };
    close(main).await;
    swept
}

async fn sweep_locked(main: &mut PgConnection) -> Result<Vec<String>, BranchError> {
    let mut swept = Vec::new();
    for name in rows::unfinished(main).await? {
        let lock = Lock::Branch(&name);
        if !lock.try_take(main).await? {
            continue;
        }
        // Whoever was at it may have come to an end just now.
        if let Some(row) = rows::row(main, &name).await?
            && row.status != "active"
            && !row.copied
        {
            clear(main, &name, &row.database).await?;
            swept.push(format!("branch {name}, {}", row.status));
        }
        lock.give_back(main).await?;
    }
    drop_expired(main, &mut swept).await?;
    for database in templates::unneeded(main).await? {
        let lock = Lock::Template(&database);
        if !lock.try_take(main).await? {
            continue;
        }
        if templates::unneeded(main).await?.contains(&database) {
            database::drop(main, &database, Sessions::End).await?;
            templates::forget(main, &database).await?;
            swept.push(format!("template {database}"));
        }
        lock.give_back(main).await?;
    }
    Ok(swept)
}

/// Drops branches whose time is over, as DROP BRANCH does. One that is in use has time until a later sweep finds nobody on it.
async fn drop_expired(main: &mut PgConnection, swept: &mut Vec<String>) -> Result<(), BranchError> {
    for name in rows::expired(main).await? {
        let lock = Lock::Branch(&name);
        if !lock.try_take(main).await? {
            continue;
        }
        // Somebody may have given it more time just now.
        if rows::expired(main).await?.contains(&name) {
            let known = rows::branches(main).await?;
            match remove::remove_locked(main, &known, &name, &instance(), Force::No).await {
                Ok(()) => swept.push(format!("branch {name}, expired")),
                Err(BranchError::InUse { sessions, .. }) => {
                    tracing::debug!(branch = name, ?sessions, "a branch whose time is over is in use");
                }
                // The others go all the same.
                Err(error) => tracing::warn!(branch = name, %error, "a branch whose time is over cannot be dropped"),
            }
        }
        lock.give_back(main).await?;
    }
    Ok(())
}

/// Takes away a branch's database and its row; whoever calls has the branch's lock.
pub(super) async fn clear(main: &mut PgConnection, name: &str, database: &str) -> Result<(), BranchError> {
    database::drop(main, database, Sessions::End).await?;
    Ok(rows::forget(main, name, &instance()).await?)
}
