//! The last word to a client that gets no session.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::wire::error::{Text, put_fatal};

/// How long a refused client may take to read the reason and hang up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends a FATAL error and closes so that the client can read it: closing with bytes unread would reset the connection.
pub(super) async fn say<S: AsyncReadExt + AsyncWriteExt + Unpin>(stream: &mut S, text: Text<'_>) {
    let mut out = Vec::new();
    put_fatal(&mut out, text);
    let farewell = async {
        stream.write_all(&out).await?;
        stream.shutdown().await?;
        let mut ignored = [0; 1024];
        // A bound in bytes too: nobody may keep us reading.
        for _ in 0..64 {
            if stream.read(&mut ignored).await? == 0 {
                break;
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let _ = tokio::time::timeout(PATIENCE, farewell).await;
}

/// Closes without a word; whoever speaks TLS is told that nothing was cut off.
pub(super) async fn leave<S: AsyncWriteExt + Unpin>(stream: &mut S) {
    let _ = tokio::time::timeout(PATIENCE, stream.shutdown()).await;
}
