//! Another connection to the server as the same user: a session that is like the client's own, on another branch or on the same.
//!
//! The server decides by its own rules whether the user may come. Where it asks nothing, nothing is needed; where it asks for
//! SCRAM, what the user proved at login answers; any other question only the client could answer, who is not asked twice.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::cancel::Backend;
use super::greet::{greet, read_frame};
use super::handshake::Identity;
use super::login::{self, SASL, Stop};
use super::stream::Stream;
use super::upstream::{self, Address, NoServer};
use crate::change::{Carried, SessionFacts};
use crate::state::Shared;
use crate::wire::error::field;
use crate::wire::frame::{self, HEADER, cstr};
use crate::wire::startup::{self, First};

const OK: u32 = 0;

/// Sets one setting.
const SET: &[u8] = b"SELECT pg_catalog.set_config($1, $2, false)\0";

/// The server is told that nobody is there any more.
pub(super) const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// A server that does not hang up then is not waited for.
const FAREWELL: Duration = Duration::from_secs(2);

/// So many statements are prepared between two answers.
const PREPARED: usize = 64;

/// Too many connections; the server is starting up.
const PASSING: [&str; 2] = ["53300", "57P03"];

/// Why there is none.
pub(super) struct NotIn {
    /// For the user to read.
    pub reason: String,
    /// It may be otherwise in a moment.
    pub is_passing: bool,
}

impl From<String> for NotIn {
    fn from(reason: String) -> Self {
        Self { reason, is_passing: false }
    }
}

impl From<&str> for NotIn {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

/// A server connection that is logged in and ready.
pub(super) struct Arrival {
    pub server: Stream,
    pub address: Address,
    /// All that it said, its first ReadyForQuery at the end.
    pub greeting: Vec<u8>,
    pub backend: Arc<Backend>,
}

/// Logs in for the session of these facts, and gives it these settings.
/// Cancel safe: what is not done is dropped.
pub(super) async fn log_in(
    shared: &Shared,
    identity: &Identity,
    facts: &SessionFacts,
    carried: Carried,
) -> Result<Arrival, NotIn> {
    let (mut address, mut server) = upstream::reach(shared).await.map_err(|error| match error {
        NoServer::Io(error) => format!("the server cannot be reached ({})", error.kind()),
        NoServer::NoneWillDo(_) => "no host of the server will do".to_owned(),
    })?;
    let packet = packet(identity, facts, &carried).ok_or("its start-up packet cannot be made")?;
    let broken = |error: io::Error| format!("the connection broke ({})", error.kind());
    let greeted = greet(&mut server, &mut address, &packet).await.map_err(broken)?;
    let mut greeting = greeted.notices;
    let first = greeted.first.ok_or("the server hung up")?;
    let welcome = match (login::request(&first), &identity.proof) {
        (Some(OK), _) => first,
        (Some(SASL), Some(proof)) => {
            let proven = login::prove(&mut server, facts, proof, &first).await;
            if let Some(refused) = proven.map_err(stopped)? {
                return Err(refused_with(&refused));
            }
            read_frame(&mut server).await.map_err(broken)?.ok_or("the server hung up")?
        }
        (Some(_), _) => {
            return Err(
                "the server asks for a password, which the proxy does not know (auth.mode = \"scram\" helps)".into()
            );
        }
        (None, _) => return Err(refused_with(&first)),
    };
    if login::request(&welcome) != Some(OK) {
        return Err(refused_with(&welcome));
    }
    greeting.extend_from_slice(&welcome);
    let mut key = None;
    let mut ready = until_ready(&mut server, |frame| {
        if frame.first() == Some(&b'K') {
            key = frame
                .get(HEADER..)
                .and_then(<[u8]>::split_first_chunk::<4>)
                .map(|(pid, secret)| (*pid, secret.to_vec()));
        }
        greeting.extend_from_slice(frame);
    })
    .await?;
    let settings = settings(carried, facts);
    if !settings.is_empty() {
        server.write_all(&settings).await.map_err(broken)?;
        ready = until_ready(&mut server, |frame| {
            if frame.first() == Some(&b'S') {
                greeting.extend_from_slice(frame);
            }
        })
        .await?;
    }
    greeting.extend_from_slice(&ready);
    let (pid, secret) = key.ok_or("the server gave no key")?;
    let backend = Arc::new(Backend { address: address.clone(), pid: u32::from_be_bytes(pid), secret });
    Ok(Arrival { server, address, greeting, backend })
}

impl Arrival {
    /// Gives it prepared statements, by these messages. Returns what the server says of the first one that it does not take.
    pub async fn prepare(&mut self, statements: &[Vec<u8>]) -> Result<Option<String>, NotIn> {
        let broken = |error: io::Error| format!("the connection broke ({})", error.kind());
        let mut refused = None;
        // Not all at once: while both sides write, neither reads.
        for some in statements.chunks(PREPARED) {
            let mut messages = Vec::new();
            for parse in some {
                messages.extend_from_slice(parse);
                frame::put(&mut messages, b'S', |_| {});
            }
            self.server.write_all(&messages).await.map_err(broken)?;
            for _ in some {
                if let Err(not_in) = until_ready(&mut self.server, |_| {}).await {
                    refused = refused.or(Some(not_in.reason));
                }
            }
        }
        Ok(refused)
    }

    /// Takes leave; returns when the server process has gone, or after some time.
    pub async fn leave(mut self) {
        let goodbye = async {
            self.server.write_all(TERMINATE).await?;
            while read_frame(&mut self.server).await?.is_some() {}
            self.server.shutdown().await
        };
        let _ = tokio::time::timeout(FAREWELL, goodbye).await;
    }
}

/// The client's own start-up packet, for this branch.
fn packet(identity: &Identity, facts: &SessionFacts, carried: &Carried) -> Option<Vec<u8>> {
    let Ok(First::Startup(mut startup)) = startup::read(identity.packet.get(4..)?) else { return None };
    startup.set("database", facts.database.as_bytes());
    startup.set("pggit.branch", facts.branch.as_deref()?.as_bytes());
    startup.take("pggit.rerouted_from");
    if let Some(rerouted) = &facts.rerouted {
        startup.set("pggit.rerouted_from", rerouted.from.as_bytes());
    }
    // From the first byte on: all that follows is written in it.
    if let Some((_, encoding)) = carried.iter().find(|(name, _)| name == b"client_encoding") {
        startup.set("client_encoding", encoding.as_slice());
    }
    startup.to_packet().ok()
}

/// The messages that set them: the role last, as it may not be allowed to set the others.
fn settings(mut carried: Carried, facts: &SessionFacts) -> Vec<u8> {
    carried.retain(|(name, value)| match name.as_slice() {
        b"client_encoding" => false,
        b"session_authorization" => value != facts.user.as_bytes(),
        _ => true,
    });
    carried.sort_by_key(|(name, _)| match name.as_slice() {
        b"role" => 2,
        b"session_authorization" => 1,
        _ => 0,
    });
    let mut out = Vec::new();
    if carried.is_empty() {
        return out;
    }
    frame::put(&mut out, b'P', |body| {
        body.push(0);
        body.extend_from_slice(SET);
        body.extend_from_slice(&[0, 0]);
    });
    for (name, value) in &carried {
        frame::put(&mut out, b'B', |body| {
            body.extend_from_slice(&[0, 0, 0, 0, 0, 2]);
            for text in [name, value] {
                body.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
                body.extend_from_slice(text);
            }
            body.extend_from_slice(&[0, 0]);
        });
        frame::put(&mut out, b'E', |body| body.extend_from_slice(&[0; 5]));
    }
    // The unnamed statement is not the client's; it is not to find it there.
    frame::put(&mut out, b'C', |body| body.extend_from_slice(b"S\0"));
    frame::put(&mut out, b'S', |_| {});
    out
}

/// Reads up to the next ReadyForQuery, which is returned.
async fn until_ready(server: &mut Stream, mut each: impl FnMut(&[u8])) -> Result<Vec<u8>, NotIn> {
    let mut failed: Option<NotIn> = None;
    loop {
        let frame = read_frame(server).await.map_err(|error| format!("the connection broke ({})", error.kind()))?;
        let Some(frame) = frame else { return Err(failed.unwrap_or_else(|| "the server hung up".into())) };
        match frame.first() {
            Some(b'E') => failed = failed.or_else(|| Some(refused_with(&frame))),
            Some(b'Z') => return failed.map_or(Ok(frame), Err),
            _ => each(&frame),
        }
    }
}

/// The server's error, as a reason.
fn refused_with(frame: &[u8]) -> NotIn {
    let body = frame.get(HEADER..).unwrap_or_default();
    let reason = match (frame.first(), field(body, b'M')) {
        (Some(b'E'), Some(message)) => format!("the server says \"{}\"", String::from_utf8_lossy(message)),
        _ => format!("the server says {:?}", cstr(frame).map_or(b"".as_slice(), |(tag, _)| tag).first()),
    };
    NotIn { reason, is_passing: PASSING.into_iter().any(|code| field(body, b'C') == Some(code.as_bytes())) }
}

fn stopped(stop: Stop) -> String {
    match stop {
        Stop::Farewell(farewell) if farewell.sqlstate == "28P01" => "the user's password has changed".to_owned(),
        Stop::Farewell(farewell) => farewell.message,
        Stop::Gone(error) => format!("the connection broke ({})", error.kind()),
    }
}
