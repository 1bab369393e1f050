//! WITH DATA: a branch as a copy of its parent's database, files and all.
//!
//! The server copies a database only while nobody is in it, and whoever comes meanwhile waits until it is done. So the clients that
//! are there are held by their proxies ([`super::hold`]); where some cannot be, the work is refused, or with FORCE these are
//! ended. The recorder's own sessions, of every proxy, are always ended: they come again by themselves.
//!
//! The parent may be the main database, in which the locks are; nobody can hold one there while it is copied. So the row says
//! 'copying', and which server process is at it. That process is in another database, and stays until all is done: the sweep
//! leaves the row alone as long as it lives. No work on branches of any proxy may be cut off by that: it is waited for, before
//! anybody is held ([`Lock::Work`]), and while a copy of another branch is made, its connections are not in the main database,
//! either.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use tokio::sync::Notify;

use super::database::{self, Shape, Strategy};
use super::error::BranchError;
use super::hold::Hold;
use super::remove::Force;
use super::rows::{self, Lock, Tip};
use super::sql::{connect, run};
use super::template::NEW_KEY;
use super::{NewBranch, Stage, Told};
use crate::branch::Branch;
use crate::history::APPLICATION_NAME;
use crate::history::connect::{RecorderError, Server, bounded, sqlstate};
use crate::history::recorder::{close, instance};

/// Where one may be while a database is copied, the better place last: everybody's CREATE DATABASE needs template1.
const ELSEWHERE: [&str; 2] = ["template1", "postgres"];

/// How long others may be at work in the main database before it is not copied.
const WORK: &str = "20s";

/// How often it is looked who is there.
const LOOK: Duration = Duration::from_millis(100);

/// What is about the main database, or another one's sessions, is not the copy's.
const PRUNE: &str = "TRUNCATE pggit.statements, pggit.branches, pggit.freezes, pggit.templates, pggit.prepared, pggit.intents, \
     pggit.change_requests, pggit.companion_key, pggit.answers, pggit.holds, pggit.held_sessions";

/// Makes the branch's database. `main` has the branch's lock, and is given up for another connection that has it again at the end.
/// On an error what was begun is taken back by the caller.
pub(super) async fn copy(
    server: &Server,
    main: &mut PgConnection,
    parent: &Branch,
    new: &NewBranch,
    (database, force): (&str, Force),
    told: &Told<'_>,
) -> Result<(), BranchError> {
    let shape = database::shape(main, &parent.database).await?;
    if parent.database == server.main {
        alone(main, parent).await?;
    }
    let (mut copier, elsewhere) = connect_elsewhere(server, parent).await?;
    let by = pid_and_start(&mut copier).await?;
    told(Stage::Hold);
    let hold = Hold::begin(main, parent, by).await?;
    if let Err(error) = hold.gather(main, parent, force).await {
        hold.end(main).await?;
        return Err(error);
    }
    rows::copying(main, &new.name, by).await?;
    // Whoever is in the database that is copied stands in the way, this one not excepted.
    close(std::mem::replace(main, connect(server, elsewhere).await?)).await;
    told(Stage::Data);
    // Neither is cut short: CREATE DATABASE would go on at the server, and nobody would know of the database; and what ends
    // sessions might still end those that come after it.
    let over = Notify::new();
    let creating = async {
        let created = create(&mut copier, parent, database, &shape).await;
        over.notify_one();
        created
    };
    let (copied, kept_out) = futures::future::join(creating, keep_out(main, &parent.database, force, &over)).await;
    if let Err(error) = kept_out {
        tracing::warn!(%error, "sessions cannot be ended");
    }
    let back = back_at_work(server, &mut copier).await?;
    close(std::mem::replace(main, back)).await;
    hold.end(main).await?;
    Lock::Branch(&new.name).take(main).await?;
    copied?;
    database::carry_over(main, &parent.database, database).await?;
    let tip = make_own(server, database, &new.name, &parent.name).await?;
    rows::finish(main, &new.name, tip).await?;
    close(copier).await;
    tracing::info!(branch = new.name, parent = parent.name, maker = instance(), "a branch with data is made");
    Ok(())
}

/// Waits until nobody else is at work in the main database.
async fn alone(main: &mut PgConnection, parent: &Branch) -> Result<(), BranchError> {
    run(main, &format!("SET lock_timeout = '{WORK}'")).await?;
    // Two who kept their share would wait for each other.
    Lock::Work.unshare(main).await?;
    match Lock::Work.take(main).await {
        Err(error) if sqlstate(&error) == Some("55P03") => Err(BranchError::AtWork(parent.name.clone())),
        taken => Ok(taken?),
    }
}

/// A connection to a database that is neither the main one nor copied here; where there is none, to the main one.
async fn connect_elsewhere<'a>(server: &'a Server, parent: &Branch) -> Result<(PgConnection, &'a str), BranchError> {
    let main = server.main.as_str();
    let mut places = vec![main];
    places.extend(ELSEWHERE.into_iter().filter(|place| *place != main));
    places.retain(|place| *place != parent.database);
    loop {
        // One is left at least: of two or three names one is left out.
        let place = places.pop().unwrap_or(main);
        match connect(server, place).await {
            Err(error) if !places.is_empty() => tracing::debug!(%error, place, "a copy is run from another database"),
            reached => return reached.map(|connection| (connection, place)),
        }
    }
}

/// A connection to the main database, where it is being copied, after that; as long as the copier is there.
async fn back_at_work(server: &Server, copier: &mut PgConnection) -> Result<PgConnection, BranchError> {
    loop {
        let reached = match connect(server, &server.main).await {
            Ok(mut main) => Lock::Work.share(&mut main).await.map(|()| main).map_err(BranchError::from),
            Err(error) => Err(error),
        };
        match reached {
            Err(error) => tracing::debug!(%error, "the main database cannot be reached after a copy"),
            reached => return reached,
        }
        run(copier, "SELECT 1").await?;
        tokio::time::sleep(LOOK).await;
    }
}

/// With a reflink where server and file system can (PostgreSQL 18), else file by file.
async fn create(copier: &mut PgConnection, parent: &Branch, database: &str, shape: &Shape) -> Result<(), BranchError> {
    if shape.version >= 180_000 && run(copier, "SET file_copy_method = clone").await.is_ok() {
        match database::create_from(copier, database, &parent.database, shape, Strategy::Files).await {
            Err(BranchError::Server(RecorderError::Sql(error))) if is_of_the_files(&error) => {
                run(copier, "RESET file_copy_method").await?;
            }
            done => return in_use(done, parent),
        }
    }
    in_use(database::create_from(copier, database, &parent.database, shape, Strategy::Files).await, parent)
}

/// The file system cannot: `could not clone file`, as an error of the system's.
fn is_of_the_files(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| code.starts_with("58") || code.starts_with("0A") || code.starts_with("XX"))
}

fn in_use(done: Result<(), BranchError>, parent: &Branch) -> Result<(), BranchError> {
    match done {
        Err(BranchError::Server(RecorderError::Sql(error))) if sqlstate(&error) == Some("55006") => {
            let sessions = vec![RecorderError::from(error).to_string()];
            Err(BranchError::InUse { name: parent.name.clone(), sessions })
        }
        done => done,
    }
}

/// Ends the recorder's sessions there, with FORCE everybody's, again and again until it is over.
async fn keep_out(
    connection: &mut PgConnection,
    database: &str,
    force: Force,
    over: &Notify,
) -> Result<(), RecorderError> {
    loop {
        let end = sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = $1 AND backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid() \
               AND ($3 OR usename = current_user AND application_name = $2)",
        );
        let end = end.bind(database).bind(APPLICATION_NAME).bind(force == Force::Yes);
        bounded(end.execute(&mut *connection)).await?;
        if tokio::time::timeout(LOOK, over.notified()).await.is_ok() {
            return Ok(());
        }
    }
}

/// Makes the copy a branch of its own: its name, its key, none of the main database's rows.
async fn make_own(server: &Server, database: &str, branch: &str, parent: &str) -> Result<Tip, BranchError> {
    let mut connection = connect(server, database).await?;
    run(&mut connection, &format!("BEGIN; {PRUNE}; {NEW_KEY}; COMMIT")).await?;
    let tip = sqlx::query_as("SELECT commit_id, commits FROM pggit.tip()");
    let tip = bounded(tip.fetch_one(&mut connection)).await?;
    super::own(&mut connection, branch, parent, tip).await?;
    close(connection).await;
    Ok(tip)
}

async fn pid_and_start(connection: &mut PgConnection) -> Result<rows::Process, RecorderError> {
    let own = sqlx::query_as("SELECT pid, backend_start AS start FROM pg_stat_activity WHERE pid = pg_backend_pid()");
    bounded(own.fetch_one(connection)).await
}
