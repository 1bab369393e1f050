//! `--database-url`: a connection of a command's own.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use crate::history::{APPLICATION_NAME, in_words};

/// A server that does not answer must not hang a deployment.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the database of a libpq URL.
pub(super) async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    // The URL may hold a password: errors name what is wrong with it, not the URL.
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        anyhow::bail!("--database-url is no PostgreSQL URL: it begins with postgres:// or postgresql://");
    }
    let options = PgConnectOptions::from_str(url).context("--database-url cannot be read")?;
    let options = options.application_name(APPLICATION_NAME).disable_statement_logging();
    let place = match options.get_socket() {
        Some(directory) => directory.display().to_string(),
        None => options.get_host().to_owned(),
    };
    let place = format!("{place}, port {}", options.get_port());
    match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => anyhow::bail!("cannot connect to {place}: {}", in_words(&error)),
        Err(_) => anyhow::bail!("cannot connect to {place}: no answer within {CONNECT_TIMEOUT:?}"),
    }
}
