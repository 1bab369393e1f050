//! `pggit-proxy branch create|drop|list|protect|unprotect|rename`: the same work as on the control port, without a proxy.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use sqlx::Connection as _;
use uuid::Uuid;

use super::connect;
use crate::branch::Branches;
use crate::config::{parse_duration, show_duration};
use crate::history::Server;
use crate::history::branching::{self, Alteration, BranchError, Data, Force, Listed, NewBranch, Stage};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub enum Action {
    /// Make a branch with the schema and the history of another one
    Create {
        /// The new branch
        name: String,
        /// The branch that it is made from; without it the default one
        #[arg(long, value_name = "BRANCH")]
        from: Option<String>,
        /// The parent's commit, if its template is still kept; without it the newest
        #[arg(long, value_name = "COMMIT")]
        at: Option<Uuid>,
        /// Copy the parent with its data, while the proxies hold its clients
        #[arg(long, conflicts_with = "at")]
        with_data: bool,
        /// With --with-data: end the sessions that cannot be held
        #[arg(long, requires = "with_data")]
        force: bool,
    },
    /// Drop a branch and its database
    Drop {
        /// The branch
        name: String,
        /// End the sessions that are on it
        #[arg(long)]
        force: bool,
    },
    /// List the branches
    List,
    /// Refuse schema changes on a branch, unless a rule allows them
    Protect {
        /// The branch
        name: String,
    },
    /// Take that back
    Unprotect {
        /// The branch
        name: String,
    },
    /// Say when a branch is dropped
    Expire {
        /// The branch
        name: String,
        /// So long from now, as in 48h
        #[arg(long, value_name = "DURATION", value_parser = parse_duration, required_unless_present = "never")]
        after: Option<Duration>,
        /// It stays until somebody drops it
        #[arg(long, conflicts_with = "after")]
        never: bool,
    },
    /// Give a branch another name
    Rename {
        /// The branch
        name: String,
        /// Its new name
        to: String,
    },
}

/// Does it on the repository of that main database.
pub async fn run(action: Action, url: Option<&str>, pg_dump: Option<PathBuf>) -> anyhow::Result<()> {
    let url = url.context("--database-url is missing: the repository's main database, as a libpq URL")?;
    let server = connect::server(url, pg_dump).await?;
    let mut main = server.connect(&server.main).await?;
    let known = branching::branches(&mut main).await?;
    let by = server.user().to_owned();
    match action {
        Action::Create { name, from, at, with_data, force } => {
            let parent = from.unwrap_or_else(|| known.default.clone());
            let data = match (with_data, force) {
                (false, _) => Data::Without,
                (true, false) => Data::With(Force::No),
                (true, true) => Data::With(Force::Yes),
            };
            // Nobody may be in the database that is copied.
            main.close().await?;
            return create(&server, &known, NewBranch { name, parent, at, data, by, stays: None }).await;
        }
        Action::Drop { name, force } => {
            let force = if force { Force::Yes } else { Force::No };
            branching::remove(&server, &known, &name, &by, force).await.map_err(explained)?;
            println!("dropped branch {name}");
        }
        Action::List => print!("{}", table(&branching::list(&mut main).await?)),
        Action::Protect { name } => alter(&server, &known, &name, Alteration::Protect).await?,
        Action::Unprotect { name } => alter(&server, &known, &name, Alteration::Unprotect).await?,
        Action::Expire { name, after, never: _ } => alter(&server, &known, &name, Alteration::Expire(after)).await?,
        Action::Rename { name, to } => alter(&server, &known, &name, Alteration::Rename(to)).await?,
    }
    main.close().await.context("cannot close the connection")
}

async fn create(server: &Server, known: &Branches, new: NewBranch) -> anyhow::Result<()> {
    let begun = Instant::now();
    let told = |stage: Stage| match stage {
        Stage::Template => eprintln!("{:5.1} s  reading the parent's schema", begun.elapsed().as_secs_f64()),
        Stage::Hold => eprintln!("{:5.1} s  holding the parent's clients", begun.elapsed().as_secs_f64()),
        Stage::Data => eprintln!("{:5.1} s  copying the parent's database", begun.elapsed().as_secs_f64()),
        Stage::Copy => eprintln!("{:5.1} s  making the database", begun.elapsed().as_secs_f64()),
    };
    let database = branching::create(server, known, &new, &told).await.map_err(explained)?;
    println!("created branch {} in database {database} ({:.1} s)", new.name, begun.elapsed().as_secs_f64());
    Ok(())
}

async fn alter(server: &Server, known: &Branches, name: &str, what: Alteration) -> anyhow::Result<()> {
    branching::alter(server, known, name, &what).await.map_err(explained)?;
    match what {
        Alteration::Protect => println!("branch {name} is protected"),
        Alteration::Unprotect => println!("branch {name} is not protected"),
        Alteration::Rename(to) => println!("branch {name} is branch {to} now"),
        Alteration::Expire(Some(after)) => println!("branch {name} is dropped in {}", show_duration(after)),
        Alteration::Expire(None) => println!("branch {name} stays until it is dropped"),
    }
    Ok(())
}

/// With what the control port would say besides.
pub(super) fn explained(error: BranchError) -> anyhow::Error {
    let more: Vec<String> = [error.detail(), error.hint()].into_iter().flatten().collect();
    let error = anyhow::Error::new(error);
    if more.is_empty() { error } else { anyhow::anyhow!("{error:#}\n{}", more.join("\n")) }
}

fn table(all: &[Listed]) -> String {
    let head = ["name", "parent", "database", "size", "protected", "created", "expires"].map(str::to_owned);
    let rows = all.iter().map(|branch| {
        let size = branch.size.map(|bytes| format!("{:.1} MB", bytes as f64 / 1e6)).unwrap_or_default();
        let time = |time: DateTime<Utc>| time.format("%FT%TZ").to_string();
        let (created, expires) = (time(branch.created_at), branch.expires_at.map(time).unwrap_or_default());
        let protected = if branch.protected { "yes" } else { "no" }.to_owned();
        let parent = branch.parent.clone().unwrap_or_default();
        [branch.name.clone(), parent, branch.database.clone(), size, protected, created, expires]
    });
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(rows).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_lines_up() {
        let created_at = chrono::DateTime::from_timestamp(0, 0).unwrap_or_default();
        let branch = |name: &str, size, expires_at| Listed {
            name: name.into(),
            parent: None,
            database: "app".into(),
            protected: false,
            created_at,
            expires_at,
            size,
        };
        let all = [branch("main", Some(8_000_000), None), branch("feature/x", None, Some(created_at))];
        assert_eq!(
            table(&all),
            "name       parent  database  size    protected  created               expires\n\
             main               app       8.0 MB  no         1970-01-01T00:00:00Z\n\
             feature/x          app               no         1970-01-01T00:00:00Z  1970-01-01T00:00:00Z\n"
        );
    }
}
