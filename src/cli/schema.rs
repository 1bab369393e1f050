//! `pggit-proxy schema`: the schema of a branch as it is or was, as a script.

use std::io::Write as _;

use anyhow::Context as _;
use sqlx::Connection as _;
use uuid::Uuid;

use super::connect;
use crate::history::branching::{self, Moment};

/// Prints it.
pub async fn run(branch: &str, commit: Option<Uuid>, time: Option<String>, url: &str) -> anyhow::Result<()> {
    let server = connect::server(url, None).await?;
    let mut main = server.connect(&server.main).await?;
    let known = branching::branches(&mut main).await?;
    main.close().await.context("cannot close the connection")?;
    let (moment, when) = match (commit, time) {
        (Some(id), _) => (Moment::Commit(id), format!("after commit {id}")),
        (None, Some(time)) => {
            let when = format!("at {}", time.replace('\n', " "));
            (Moment::Time(time), when)
        }
        (None, None) => (Moment::Now, "now".to_owned()),
    };
    let facts = branching::schema(&server, &known, branch, &moment).await.map_err(super::branch::explained)?;
    let text = format!("-- Branch {branch}, {when}. Without grants.\n\n{}", branching::script(&facts));
    std::io::stdout().write_all(text.as_bytes()).context("cannot write")
}
