//! `--database-url`: a connection of a command's own.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};

use crate::config::{Capture, Upstream, ssl_of_url};
use crate::history::{APPLICATION_NAME, Server, in_words};
use crate::proxy::road;
use crate::tls::{Roots, SslMode};

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
    let options = over_tls(options, url).await.with_context(|| format!("cannot connect to {place}"))?;
    match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => anyhow::bail!("cannot connect to {place}: {}", in_words(&error)),
        Err(_) => anyhow::bail!("cannot connect to {place}: no answer within {CONNECT_TIMEOUT:?}"),
    }
}

/// The server of a libpq URL, with its main database, for work on several of its databases.
pub(super) async fn server(url: &str, pg_dump: Option<PathBuf>) -> anyhow::Result<Server> {
    let mut upstream = Upstream::of_url(url).map_err(|why| anyhow::anyhow!("--database-url cannot be used: {why}"))?;
    upstream.road = road::open(&upstream).await?;
    Ok(Server::new(&upstream, Capture::Auto, pg_dump))
}

/// Lets the connection go the way that sessions and the recorder go, where there is TLS. What the URL does not say, libpq's
/// environment variables may.
async fn over_tls(options: PgConnectOptions, url: &str) -> anyhow::Result<PgConnectOptions> {
    let mut ssl = ssl_of_url(url).map_err(anyhow::Error::msg)?;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if ssl.mode.is_some() || variable("PGSSLMODE").is_some() {
        ssl.mode = Some(match options.get_ssl_mode() {
            PgSslMode::Disable => SslMode::Disable,
            PgSslMode::Allow => SslMode::Allow,
            PgSslMode::Prefer => SslMode::Prefer,
            PgSslMode::Require => SslMode::Require,
            PgSslMode::VerifyCa => SslMode::VerifyCa,
            PgSslMode::VerifyFull => SslMode::VerifyFull,
        });
    }
    ssl.roots = ssl.roots.or_else(|| variable("PGSSLROOTCERT").map(|name| Roots::named(&name, Path::new(""))));
    ssl.certificate = ssl.certificate.or_else(|| variable("PGSSLCERT").map(Into::into));
    ssl.key = ssl.key.or_else(|| variable("PGSSLKEY").map(Into::into));
    let options = options.ssl_mode(PgSslMode::Disable);
    if options.get_socket().is_some() {
        return Ok(options);
    }
    let mut upstream = Upstream {
        host: options.get_host().to_owned(),
        port: options.get_port(),
        connect_timeout: CONNECT_TIMEOUT,
        ssl,
        ..Upstream::default()
    };
    upstream.prepare().map_err(anyhow::Error::msg)?;
    Ok(match road::open(&upstream).await? {
        Some(road) => options.socket(road),
        None => options,
    })
}
