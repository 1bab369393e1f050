//! `pggit-proxy health`: asks the proxy of this configuration whether it lives, or whether it is ready, as a load balancer would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::serve::report;
use crate::config::Config;

/// For all of it: a container's health check may take three seconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// `/readyz` has a line for each check that fails.
const LONGEST: u64 = 64 << 10;

/// Asks, and prints the answer in one line. An error: it is not well, or nobody answers.
pub async fn run(config: Option<&Path>, http: Option<SocketAddr>, ready: bool) -> anyhow::Result<()> {
    let address = match http {
        Some(address) => Some(address),
        None => Config::http_address(config).map_err(|problems| {
            report(&problems);
            anyhow::anyhow!("nobody knows where the proxy answers")
        })?,
    };
    let Some(address) = address else { bail!("http.address is \"off\": nobody answers") };
    let address = reachable(address);
    let path = if ready { "/readyz" } else { "/healthz" };
    let answer = tokio::time::timeout(PATIENCE, ask(address, path)).await;
    let answer = answer.with_context(|| format!("no answer from {address} in {PATIENCE:?}"))?;
    let (status, said) = answer.with_context(|| format!("no answer from {address}"))?;
    let said = said.lines().collect::<Vec<_>>().join("; ");
    if status != 200 {
        bail!("{said} ({address}{path} answers {status})");
    }
    println!("{said}");
    Ok(())
}

/// A socket that is bound to every address is reached on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

/// Status and body.
async fn ask(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("what answers there does not speak HTTP")?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    Ok((status.context("what answers there does not speak HTTP")?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bound_everywhere_is_reached_here() {
        let reached = |address: &str| address.parse().map(|address| reachable(address).to_string());
        assert_eq!(reached("0.0.0.0:1").as_deref(), Ok("127.0.0.1:1"));
        assert_eq!(reached("[::]:1").as_deref(), Ok("[::1]:1"));
        assert_eq!(reached("10.0.0.1:1").as_deref(), Ok("10.0.0.1:1"));
    }
}
