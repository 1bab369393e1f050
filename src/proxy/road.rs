//! The recorder's road to a server with TLS: the same one that sessions take, so that `sslmode` and its files mean one
//! thing only. The recorder speaks without TLS to a socket of this process; what it says goes on over TLS.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use uuid::Uuid;

use super::greet::greet;
use super::refuse;
use super::stream::Stream;
use super::upstream::Address;
use crate::config::{TcpLimits, Upstream};
use crate::tls::Order;
use crate::wire::error::Text;
use crate::wire::startup;

/// How long a start waits to hear whether the server has TLS.
const PROBE: Duration = Duration::from_secs(1);

/// Opens the road, and returns where it begins: the directory of a unix socket, as libpq takes it. `None` where there is
/// no TLS to this server, or with `prefer` the server has none now. It is there as long as the process.
///
/// The socket has a name and no file (Linux' abstract namespace): nothing is left behind, and nobody but this process is
/// let in, by its number.
pub async fn open(upstream: &Upstream) -> io::Result<Option<PathBuf>> {
    let Some(tls) = &upstream.tls else { return Ok(None) };
    let address = Address::of(upstream, TcpLimits::default());
    if tls.order == Order::TlsFirst
        && matches!(tokio::time::timeout(PROBE, address.connect()).await, Ok(Ok(Stream::Plain(_))))
    {
        return Ok(None);
    }
    let directory = format!("pggit-proxy-{}", Uuid::new_v4());
    let name = net::SocketAddr::from_abstract_name(format!("{directory}/.s.PGSQL.{}", upstream.port))?;
    let listener = net::UnixListener::bind_addr(&name)?;
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if is_own(&stream) => drop(tokio::spawn(carry(stream, address.clone()))),
                Ok(_) => tracing::warn!("another process tried to use the recorder's connection"),
                Err(error) => {
                    tracing::warn!(%error, "the recorder's connection cannot be taken");
                    tokio::time::sleep(address.timeout()).await;
                }
            }
        }
    });
    Ok(Some(PathBuf::from(std::ffi::OsString::from_vec(format!("\0{directory}").into_bytes()))))
}

fn is_own(stream: &UnixStream) -> bool {
    let own = i32::try_from(std::process::id()).ok();
    stream.peer_cred().is_ok_and(|peer| peer.pid().is_some() && peer.pid() == own)
}

async fn carry(mut recorder: UnixStream, mut address: Address) {
    match begin(&mut recorder, &mut address).await {
        Ok(mut server) => {
            // Either side's end is told to the other; why it ended is the server's to say.
            let _ = tokio::io::copy_bidirectional(&mut recorder, &mut server).await;
        }
        Err(error) => {
            let message = error.to_string();
            refuse::say(&mut recorder, Text { sqlstate: "08006", message: &message, detail: None, hint: None }).await;
        }
    }
}

/// Connects, and goes on from the server's first answer, which may send us by another road.
async fn begin(recorder: &mut UnixStream, address: &mut Address) -> io::Result<Stream> {
    let mut server = address.connect().await?;
    let mut word = [0; 4];
    recorder.read_exact(&mut word).await?;
    let length = startup::length(word).map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad.to_string()))?;
    let mut packet = word.to_vec();
    packet.resize(length, 0);
    recorder.read_exact(packet.get_mut(word.len()..).unwrap_or_default()).await?;
    let patience = address.timeout();
    let greeting = tokio::time::timeout(patience, greet(&mut server, address, &packet)).await??;
    recorder.write_all(&greeting.notices).await?;
    recorder.write_all(&greeting.first.unwrap_or_default()).await?;
    Ok(server)
}
