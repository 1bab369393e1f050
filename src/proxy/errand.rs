//! A statement that a rule sends to another branch: it runs in a session of its own, with all that a session has (the rules of
//! that branch, its recording, its row in the statement log), whose client is this file.

use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::again::{self, Arrival};
use super::cancel::{Backend, Target};
use super::handshake::{Identity, Link};
use super::stream::Stream;
use super::transport::Transport;
use super::{Relay, drive};
use crate::change::{Errand, Reroute, Returned, SessionFacts};
use crate::session::Session;
use crate::state::Client;
use crate::wire::error::field;
use crate::wire::frame::{self, HEADER, Head};

/// A longer answer than DDL has; beyond it notices and rows are left out, and that is said.
const MAX_ANSWER: usize = 1 << 20;

/// While it runs, the client's cancel requests go there.
struct Turned(Arc<Target>, Arc<Backend>);

impl Turned {
    fn to(target: Arc<Target>, backend: Arc<Backend>) -> Self {
        let back = target.backend.swap(backend);
        Self(target, back)
    }
}

impl Drop for Turned {
    fn drop(&mut self) {
        self.0.backend.store(self.1.clone());
    }
}

/// Runs it. Not cancel safe: what is dropped in the middle may have been run.
pub(super) async fn run(
    relay: Arc<Relay>,
    identity: Arc<Identity>,
    facts: Arc<SessionFacts>,
    target: Option<Arc<Target>>,
    errand: Errand,
) -> Returned {
    let shared = &relay.shared;
    let deadline = Instant::now() + shared.config.load().limits.login_timeout;
    let branch = shared.branches.load().find(&errand.to).cloned();
    let Some(branch) = branch else { return Returned::Never(format!("branch \"{}\" does not exist", errand.to)) };
    let from = facts.branch.clone().unwrap_or_default();
    let facts = Arc::new(SessionFacts {
        database: branch.database.clone(),
        branch: Some(branch.name.clone()),
        rerouted: Some(Box::new(Reroute { from, rule: errand.rule })),
        ..SessionFacts::clone(&facts)
    });
    let arriving = async {
        shared.clients.holds.over(&facts.database).await;
        again::log_in(shared, &identity, &facts, errand.carried).await
    };
    let arrival = match tokio::time::timeout_at(deadline.into(), arriving).await {
        Ok(Ok(arrival)) => arrival,
        Ok(Err(not_in)) => return Returned::Never(not_in.reason),
        Err(_) => return Returned::Never("logging in there took too long".to_owned()),
    };
    let (ours, theirs) = match UnixStream::pair() {
        Ok(pair) => pair,
        Err(error) => return Returned::Never(error.to_string()),
    };
    let _turned = target.map(|target| Turned::to(target, arrival.backend.clone()));
    let link = link(theirs, arrival, facts, identity);
    let session = Box::pin(drive::run(&relay, link, deadline));
    let (returned, ()) = futures::future::join(ask(ours, &errand.sql), session).await;
    returned
}

fn link(client: UnixStream, arrival: Arrival, facts: Arc<SessionFacts>, identity: Arc<Identity>) -> Link {
    let place = Arc::new(Client::new(0, None));
    place.facts.store(Some(facts.clone()));
    Link {
        client: Stream::Plain(Transport::Unix(client)),
        server: arrival.server,
        // Its application_name is what the server reports.
        session: Session::new(facts.clone(), String::new(), [0; 32], false, Instant::now()).on_errand(),
        facts,
        place,
        address: arrival.address,
        secret: [0; 32],
        packet: Vec::new(),
        greeting: arrival.greeting,
        identity,
        is_errand: true,
    }
}

/// The client's part: waits until it is let in, asks, and leaves.
async fn ask(mut stream: UnixStream, sql: &[u8]) -> Returned {
    let mut incoming = Incoming { bytes: Vec::new(), said: None };
    if let Err(reason) = incoming.answer(&mut stream).await {
        return Returned::Never(reason);
    }
    let mut query = Vec::with_capacity(sql.len() + HEADER + 1);
    frame::put(&mut query, b'Q', |body| {
        body.extend_from_slice(sql);
        body.push(0);
    });
    if let Err(error) = stream.write_all(&query).await {
        return Returned::Lost(error.to_string());
    }
    let returned = match incoming.answer(&mut stream).await {
        Ok(answer) => Returned::Answered { frames: answer.frames, error: answer.error, ready: answer.ready },
        Err(reason) => Returned::Lost(reason),
    };
    let _ = stream.write_all(b"X\0\0\0\x04").await;
    returned
}

/// What comes from the session.
struct Incoming {
    bytes: Vec<u8>,
    /// The message of a FATAL error.
    said: Option<String>,
}

/// One answer.
#[derive(Default)]
struct Answer {
    frames: Vec<u8>,
    error: Option<(String, String)>,
    ready: Vec<u8>,
}

impl Incoming {
    /// The next answer, or why there is none.
    async fn answer(&mut self, stream: &mut UnixStream) -> Result<Answer, String> {
        let mut answer = Answer::default();
        let mut left_out = 0;
        loop {
            while let Some(frame) = self.next() {
                let body = frame.get(HEADER..).unwrap_or_default();
                let text = |code| String::from_utf8_lossy(field(body, code).unwrap_or_default()).into_owned();
                match frame.first() {
                    Some(b'Z') => {
                        answer.ready = body.to_vec();
                        if left_out > 0 {
                            answer.leave_out(left_out);
                        }
                        return Ok(answer);
                    }
                    Some(b'E') if field(body, b'V') == Some(b"FATAL") => self.said = Some(text(b'M')),
                    Some(b'N' | b'D') if answer.frames.len() > MAX_ANSWER => left_out += 1,
                    // A session's own affairs.
                    Some(b'S' | b'A' | b'K' | b'R' | b'v') => {}
                    Some(b'E') => {
                        answer.error = Some((text(b'C'), text(b'M')));
                        answer.frames.extend_from_slice(&frame);
                    }
                    _ => answer.frames.extend_from_slice(&frame),
                }
            }
            let mut chunk = [0; 8192];
            match stream.read(&mut chunk).await {
                Ok(n) if n > 0 => self.bytes.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                _ => return Err(self.said.take().unwrap_or_else(|| "the server hung up".to_owned())),
            }
        }
    }

    /// The next whole message.
    fn next(&mut self) -> Option<Vec<u8>> {
        let head = Head::read(&self.bytes).ok()??;
        let rest = (self.bytes.len() >= head.total).then(|| self.bytes.split_off(head.total))?;
        Some(std::mem::replace(&mut self.bytes, rest))
    }
}

impl Answer {
    fn leave_out(&mut self, messages: usize) {
        let mut out = Vec::new();
        let message = format!("{messages} messages of the other branch's answer are left out");
        let text = crate::wire::error::Text { sqlstate: "01000", message: &message, detail: None, hint: None };
        crate::wire::error::put_notice(&mut out, text);
        self.frames.splice(0..0, out);
    }
}
