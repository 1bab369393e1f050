//! Clients of a protocol version that nobody speaks here: the server tells them which ones it does.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stream::Stream;
use super::upstream::{self, NoServer};
use crate::state::Shared;

/// Longest answer that is passed on, in bytes; it is one error.
const MAX_ANSWER: usize = 4096;

/// Asks the server by a start-up packet without content, and passes its words on. Not cancel safe.
pub(super) async fn answer(shared: &Shared, client: &mut Stream, version: u32) -> io::Result<()> {
    let (address, mut server) = match upstream::reach(shared).await {
        Ok(reached) => reached,
        Err(NoServer::Io(error)) => return Err(error),
        Err(NoServer::NoneWillDo(why)) => return Err(io::Error::other(why)),
    };
    let packet = [8u32.to_be_bytes(), version.to_be_bytes()].concat();
    let mut answer = Vec::with_capacity(256);
    let asked = async {
        server.write_all(&packet).await?;
        (&mut server).take(MAX_ANSWER as u64).read_to_end(&mut answer).await
    };
    tokio::time::timeout(address.timeout(), asked).await??;
    client.write_all(&answer).await?;
    client.shutdown().await
}
