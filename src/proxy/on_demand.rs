//! A branch that is made because somebody connects to it (`branches.auto_create`).
//!
//! Nobody makes one who could not log in. So the client logs in on the default branch first, by the server's rules for that, up to
//! the first ReadyForQuery; of that session it hears no more than what it is asked for. Then the branch is made, and the proxy
//! logs in there for it once more. What the client hears is the start of that session, and a notice.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use super::Relay;
use super::again::{self, Arrival, TERMINATE};
use super::gate::{self, SHUTTING_DOWN};
use super::greet::read_frame;
use super::handshake::{Farewell, Identity, Start};
use super::login::{self, SASL, SASL_CONTINUE, SASL_FINAL, Stop};
use super::stream::Stream;
use crate::branch::{Branch, Branches, RouteError, check_branch_name};
use crate::change::{Carried, SessionFacts};
use crate::history::branching::{BranchError, Data, NewBranch};
use crate::policy::Who;
use crate::state::{Client, ClientState, Shared};
use crate::telemetry::{Connection, Side};
use crate::wire::error::{SUCCESSFUL_COMPLETION, Text, put_notice};
use crate::wire::frame::{self, HEADER, Head};

/// How long a client waits for its branch at most. Reading a parent of 5,000 tables takes some 20 s, and others may come first.
const PATIENCE: Duration = Duration::from_mins(10);

const OK: u32 = 0;
const CLEARTEXT_PASSWORD: u32 = 3;
const MD5_PASSWORD: u32 = 5;

/// The default branch, and the name of the one that is to be made from it, where a session cannot begin for this reason and the
/// configuration says that there shall be one. Not where a rule sends sessions on it elsewhere.
pub(super) fn wanted(shared: &Shared, error: &RouteError, who: Who<'_>) -> Option<(Arc<Branch>, String)> {
    let RouteError::Unknown { name, .. } = error else { return None };
    let is_made = check_branch_name(name).is_ok() && shared.config.load().branches.auto_create.makes(name);
    if !is_made || shared.policy.load().detour(&Who { branch: Some(name), ..who }).is_some() {
        return None;
    }
    let branches = shared.branches.load();
    Some((branches.find(&branches.default)?.clone(), name.clone()))
}

/// From a start on the default branch to one on the branch that is made. Where the default branch's server says no, the client is
/// left to it.
pub(super) async fn run(
    relay: &Relay,
    place: &Client,
    client: &mut Stream,
    start: &mut Start,
    name: String,
    deadline: Instant,
) -> Result<(), Stop> {
    let asked = match tokio::time::timeout_at(deadline.into(), knock(relay, client, start)).await {
        Ok(Ok(Knock::Welcome { asked })) => asked || start.proof.is_some(),
        Ok(Ok(Knock::Refused)) => return Ok(()),
        Ok(Err(stop)) => return Err(stop),
        Err(_) => return Err(Stop::Farewell(Farewell::login_timeout())),
    };
    // It would find out without.
    let _ = start.server.write_all(TERMINATE).await;
    let _ = start.server.flush().await;
    let shared = &relay.shared;
    place.state.store(ClientState::Waiting as u8, Ordering::Relaxed);
    // It is in nobody's way who copies the default branch.
    place.at_gate.store(true, Ordering::Release);
    place.server.store(None);
    let branch = tokio::select! {
        made = make(shared, start, name) => made.map_err(Stop::Farewell)?,
        stop = given_up(place, client) => return Err(stop),
    };
    place.state.store(ClientState::Login as u8, Ordering::Relaxed);
    let limit = shared.config.load().limits.login_timeout;
    gate::pass(shared, place, &branch.database, Instant::now() + limit).await.map_err(Stop::Farewell)?;
    move_in(shared, place, start, &branch, asked, limit).await.map_err(Stop::Farewell)
}

/// How the default branch's server met the client.
enum Knock {
    /// It would serve him; whether he was asked for something that is not known here.
    Welcome { asked: bool },
    /// What it says instead is in the greeting.
    Refused,
}

/// Logs the client in on the default branch, to the end.
async fn knock(relay: &Relay, client: &mut Stream, start: &mut Start) -> Result<Knock, Stop> {
    let packet = std::mem::take(&mut start.packet);
    if !packet.is_empty() {
        start.server.write_all(&packet).await?;
    }
    let mut heard = frames(&std::mem::take(&mut start.greeting)).into_iter();
    let (mut asked, mut logged_in) = (false, false);
    loop {
        let frame = match heard.next() {
            Some(frame) => Some(frame),
            None => read_frame(&mut start.server).await?,
        };
        // It has hung up, which is found again.
        let Some(frame) = frame else { return Ok(Knock::Refused) };
        let request = login::request(&frame);
        start.greeting.extend_from_slice(&frame);
        let longest = match (frame.first(), request) {
            (Some(b'E'), _) => {
                start.greeting.extend(heard.flatten());
                return Ok(Knock::Refused);
            }
            (Some(b'Z'), _) if logged_in => return Ok(Knock::Welcome { asked }),
            (_, Some(OK)) => {
                logged_in = true;
                continue;
            }
            (_, Some(CLEARTEXT_PASSWORD | MD5_PASSWORD)) => login::MAX_PASSWORD,
            (_, Some(SASL | SASL_CONTINUE)) => login::MAX_ANSWER,
            (_, Some(SASL_FINAL)) => 0,
            (_, Some(_)) => return Err(Stop::Farewell(unknown_question())),
            (_, None) => continue,
        };
        client.write_all(&std::mem::take(&mut start.greeting)).await?;
        client.flush().await?;
        asked = true;
        if longest > 0 {
            let answer = login::answer(relay, client, &start.facts, longest).await?;
            let mut out = Vec::with_capacity(HEADER + answer.len());
            frame::put(&mut out, b'p', |body| body.extend_from_slice(&answer));
            start.server.write_all(&out).await?;
        }
    }
}

/// Whole messages, apart.
fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Ok(Some(head)) = Head::read(bytes) {
        let Some((frame, rest)) = bytes.split_at_checked(head.total) else { break };
        frames.push(frame.to_vec());
        bytes = rest;
    }
    frames
}

/// Has the branch made, if it is not there by now.
async fn make(shared: &Shared, start: &Start, name: String) -> Result<Arc<Branch>, Farewell> {
    let auto = shared.config.load().branches.auto_create.clone();
    let branches = shared.branches.load_full();
    let new = NewBranch {
        name: name.clone(),
        parent: branches.default.clone(),
        at: None,
        data: Data::Without,
        by: start.facts.user.clone(),
        stays: auto.ttl,
    };
    let (user, session) = (&start.facts.user, start.facts.id);
    tracing::info!(branch = name, user, %session, "a client connects to a branch that is to be made");
    let made = tokio::time::timeout(PATIENCE, shared.history.create_on_demand(&auto, branches, new)).await;
    shared.refresh();
    match made {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(unmade(&name, &error)),
        Err(_) => return Err(Farewell::not_now(format!("branch \"{name}\" is still being made: connect again later"))),
    }
    let known = shared.branches.load();
    // Only another proxy's configuration declares it.
    known.find(&name).cloned().ok_or_else(|| no_branch(&known, name))
}

/// Returns when nobody waits any more: `KILL` has named the client, or it has left without a word. Over TLS leaving is a word.
async fn given_up(place: &Client, client: &Stream) -> Stop {
    let socket = match client {
        Stream::Plain(socket) => socket,
        Stream::Tls(stream) => stream.get_ref().0,
    };
    poll_fn(|cx| {
        place.waker.register(cx.waker());
        if place.is_killed() {
            let farewell = Farewell { side: Side::Proxy, ..Farewell::client("57P01", SHUTTING_DOWN.into()) };
            return Poll::Ready(Stop::Farewell(farewell));
        }
        socket.poll_gone(cx).map(|()| Stop::Gone(io::ErrorKind::UnexpectedEof.into()))
    })
    .await
}

/// Begins the session on the branch, as the same user.
async fn move_in(
    shared: &Shared,
    place: &Client,
    start: &mut Start,
    branch: &Branch,
    asked: bool,
    limit: Duration,
) -> Result<(), Farewell> {
    let facts = Arc::new(SessionFacts {
        database: branch.database.clone(),
        branch: Some(branch.name.clone()),
        ..SessionFacts::clone(&start.facts)
    });
    let identity = Identity { packet: std::mem::take(&mut start.said), proof: start.proof.take() };
    let began = Instant::now();
    let arrived = tokio::time::timeout(limit, again::log_in(shared, &identity, &facts, Carried::new())).await;
    let took = matches!(arrived, Ok(Ok(_))).then(|| began.elapsed());
    shared.metrics.server_connected(facts.branch.as_deref(), took);
    let Arrival { server, address, greeting, backend: _ } = match arrived {
        Ok(Ok(arrival)) => arrival,
        Ok(Err(not_in)) => return Err(made_without_him(&branch.name, &not_in.reason)),
        Err(_) => return Err(made_without_him(&branch.name, "logging in there took too long")),
    };
    (start.said, start.proof) = (identity.packet, identity.proof);
    place.server.store(Some(Arc::new(address.to_string())));
    place.facts.store(Some(facts.clone()));
    (start.server, start.address, start.facts) = (server, address, facts);
    start.greeting = with_notice(&greeting, branch, asked);
    Ok(())
}

/// The greeting, with a notice as the last word before its ReadyForQuery; without what comes before the login's questions where
/// the client has heard that.
fn with_notice(greeting: &[u8], branch: &Branch, asked: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let is_news = |frame: &Vec<u8>| !asked || login::request(frame) == Some(OK);
    for frame in frames(greeting).into_iter().skip_while(|frame| !is_news(frame)) {
        if frame.first() == Some(&b'Z') {
            let parent = branch.parent.as_deref().unwrap_or_default();
            let message = format!("branch \"{}\" was made from \"{parent}\"", branch.name);
            let text = Text { sqlstate: SUCCESSFUL_COMPLETION, message: &message, detail: None, hint: None };
            put_notice(&mut out, text);
        }
        out.extend_from_slice(&frame);
    }
    out
}

fn no_branch(known: &Branches, name: String) -> Farewell {
    let error = RouteError::Unknown { near: known.near(&name), name };
    Farewell::no_route(&error)
}

/// With GSSAPI and SSPI only both ends know whose turn it is.
fn unknown_question() -> Farewell {
    let message = "a branch cannot be made by connecting to it with this way to log in".to_owned();
    Farewell {
        detail: Some("The server asks for something other than a password.".to_owned()),
        hint: Some("Connect to a branch that is there, and call pggit.create_branch().".to_owned()),
        result: Connection::NoBranch,
        ..Farewell::client("0A000", message)
    }
}

fn unmade(name: &str, error: &BranchError) -> Farewell {
    tracing::warn!(branch = name, %error, "a branch that a client connects to is not made");
    Farewell {
        detail: error.detail(),
        hint: error.hint(),
        result: Connection::NoBranch,
        side: Side::Proxy,
        ..Farewell::client(error.sqlstate(), error.to_string())
    }
}

/// The branch is there, and the server did not let the proxy in for the client.
fn made_without_him(name: &str, reason: &str) -> Farewell {
    Farewell {
        detail: Some(format!("The proxy cannot log in there for the client: {reason}.")),
        ..Farewell::not_now(format!("branch \"{name}\" is made now: connect again"))
    }
}

impl Farewell {
    /// What libpq and others take for a reason to try again.
    fn not_now(message: String) -> Self {
        Self { result: Connection::NoBranch, side: Side::Proxy, ..Self::client("57P03", message) }
    }
}
