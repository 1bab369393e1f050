//! Whom a connection speaks for: a load balancer that is believed says so first.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncReadExt;

use super::transport::Transport;
use crate::state::{Client, Shared};
use crate::telemetry::{Connection, Side};
use crate::wire::proxy_header::{self, FIXED, Source};

/// Reads the header where the peer is one that says it, and only there: whoever else begins with one is no client. The
/// client's address, for rules, limits and the history.
pub(super) async fn hear(
    shared: &Shared,
    place: Option<&Client>,
    stream: &mut Transport,
    peer: Option<SocketAddr>,
    deadline: Instant,
) -> io::Result<Option<SocketAddr>> {
    let Some(address) = peer.map(|peer| peer.ip().to_canonical()) else { return Ok(peer) };
    if !shared.config.load().listen.proxy_protocol.iter().any(|network| network.contains(&address)) {
        return Ok(peer);
    }
    let heard = tokio::select! {
        heard = tokio::time::timeout_at(deadline.into(), read(stream)) => heard,
        () = super::too_late(shared) => return Err(io::ErrorKind::Interrupted.into()),
    };
    let source = match heard {
        Ok(Ok(source)) => source,
        Ok(Err(error)) => {
            if error.kind() == io::ErrorKind::InvalidData {
                // Logged: most likely the load balancer and the configuration do not agree.
                tracing::warn!(%address, %error, "no client is let in by this load balancer");
                shared.metrics.connection(Connection::Protocol);
                shared.metrics.error(Side::Client);
            }
            return Err(error);
        }
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no PROXY protocol header in time")),
    };
    let Source::Address(client) = source else { return Ok(peer) };
    if let Some(place) = place {
        place.peer.store(Some(Arc::new(client)));
    }
    Ok(Some(client))
}

async fn read(stream: &mut Transport) -> io::Result<Source> {
    let invalid = |bad: proxy_header::Bad| io::Error::new(io::ErrorKind::InvalidData, bad.to_string());
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed).await?;
    let mut rest = vec![0; proxy_header::rest(fixed).map_err(invalid)?];
    stream.read_exact(&mut rest).await?;
    proxy_header::read(fixed, &rest).map_err(invalid)
}
