//! Logging in where the proxy has a part in it. The server's rules decide how: it is asked first, and what it asks for is
//! passed on, save for SCRAM, which ties a login to a TLS connection and so cannot be carried from one to another.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Relay;
use super::greet::{greet, read_frame};
use super::handshake::{Farewell, Start};
use super::stream::Stream;
use crate::auth::{self, Answer, Bad, Channel, Nonce, Proven, SCRAM_PLUS, Secret};
use crate::change::SessionFacts;
use crate::config::AuthMode;
use crate::telemetry::{Connection, Side};
use crate::tls::binding;
use crate::wire::frame::{self, HEADER, cstr};

/// Longer answers to SASL the server takes from nobody.
pub(super) const MAX_ANSWER: usize = 1024;

/// Longer passwords the server takes from nobody.
pub(super) const MAX_PASSWORD: usize = 65535;

/// The server's own default.
const DEFAULT_ITERATIONS: u32 = 4096;

pub(super) const SASL: u32 = 10;
pub(super) const SASL_CONTINUE: u32 = 11;
pub(super) const SASL_FINAL: u32 = 12;

/// Why there is no session.
pub(super) enum Stop {
    /// The client is told.
    Farewell(Farewell),
    /// One side has left.
    Gone(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

/// Does what has to be done before client and server can be left to each other. `end_point` is what a client can bind
/// its login to. Leaves in [`Start::greeting`] what the server said and the client has not heard.
pub(super) async fn run(
    relay: &Relay,
    client: &mut Stream,
    end_point: Option<&[u8]>,
    start: &mut Start,
) -> Result<(), Stop> {
    let mode = relay.shared.config.load().auth.mode;
    // A client without TLS takes it for an attack when it is offered to bind its login to TLS.
    let hides_binding = start.server.is_tls() && !client.is_tls();
    let may_turn = start.address.other_road(start.server.is_tls()).is_some();
    if mode == AuthMode::Passthrough && !hides_binding && !may_turn {
        return Ok(());
    }
    let packet = std::mem::take(&mut start.packet);
    let greeting = greet(&mut start.server, &mut start.address, &packet).await?;
    start.greeting = greeting.notices;
    let Some(first) = greeting.first else { return Ok(()) };
    if request(&first) != Some(SASL) {
        start.greeting.extend_from_slice(&first);
        return Ok(());
    }
    let question = first;
    match mode {
        AuthMode::Passthrough => {
            let mechanisms: Vec<_> = offered(&question).filter(|name| *name != SCRAM_PLUS.as_bytes()).collect();
            put_mechanisms(&mut start.greeting, &mechanisms);
            Ok(())
        }
        AuthMode::Scram => {
            client.write_all(&std::mem::take(&mut start.greeting)).await?;
            let secret = secret_of(relay, &start.facts).await?;
            let end_point = end_point.filter(|_| client.is_tls());
            let proven =
                ask(client, secret.clone(), end_point).await.map_err(|stop| counted(relay, &start.facts, stop))?;
            let proof = Proof { secret, client_key: proven.client_key };
            match prove(&mut start.server, &start.facts, &proof, &question).await? {
                // The server's own error is the client's to see.
                Some(refused) => start.greeting.extend_from_slice(&refused),
                // Only now it is told that it was right.
                None => put_request(client, SASL_FINAL, &proven.last).await?,
            }
            start.proof = Some(proof);
            Ok(())
        }
    }
}

/// What the server stores for this user, or what takes its place where there is nothing that SCRAM can use.
async fn secret_of(relay: &Relay, facts: &SessionFacts) -> Result<Secret, Stop> {
    let shared = &relay.shared;
    let query = shared.config.load().auth.auth_query.clone();
    let stored = shared.history.stored_password(&query, &facts.user).await.map_err(|error| {
        tracing::error!(session = %facts.id, %error, "auth_query failed: nobody can log in with a password");
        Stop::Farewell(Farewell {
            detail: Some("The proxy could not read the user's secret from the server (auth_query).".into()),
            side: Side::Proxy,
            result: Connection::AuthFailed,
            ..Farewell::client("08006", "the password cannot be checked".into())
        })
    })?;
    // Made for everybody, so that it takes everybody's time.
    let mock = match stored.shared {
        Some(shared) => Secret::mock(&shared.key.0, shared.iterations, &facts.user),
        None => {
            let key = relay.logins.mock_key().ok_or_else(no_random_numbers)?;
            Secret::mock(key, DEFAULT_ITERATIONS, &facts.user)
        }
    };
    let stored = stored.password;
    if let Some(stored) = &stored
        && Secret::parse(stored).is_none()
    {
        tracing::info!(session = %facts.id, "the user's password is not stored for SCRAM: it has to be set anew");
    }
    Ok(stored.and_then(|stored| Secret::parse(&stored)).unwrap_or(mock))
}

/// Asks the client for a proof.
async fn ask(client: &mut Stream, secret: Secret, end_point: Option<&[u8]>) -> Result<Proven, Refused> {
    let mut out = Vec::new();
    let names: Vec<_> = auth::mechanisms(end_point.is_some()).iter().map(|name| name.as_bytes()).collect();
    put_mechanisms(&mut out, &names);
    client.write_all(&out).await?;
    let initial = read_answer(client, MAX_ANSWER).await?;
    let (mechanism, rest) = cstr(&initial).ok_or(Bad::Malformed)?;
    let (length, message) = rest.split_first_chunk::<4>().ok_or(Bad::Malformed)?;
    let first = match u32::from_be_bytes(*length) {
        // Without a first message it is asked for one.
        u32::MAX => {
            put_request(client, SASL_CONTINUE, b"").await?;
            read_answer(client, MAX_ANSWER).await?
        }
        n if n as usize == message.len() => message.to_vec(),
        _ => return Err(Bad::Malformed.into()),
    };
    let (server_first, question) = auth::ask(secret, mechanism, &first, end_point, &nonce()?)?;
    put_request(client, SASL_CONTINUE, &server_first).await?;
    let last = read_answer(client, MAX_ANSWER).await?;
    Ok(question.check(&last)?)
}

/// What a user's proof gave away: enough to log in at the server as that user again. It lives as long as the session.
pub(super) struct Proof {
    secret: Secret,
    client_key: [u8; 32],
}

/// Logs in at the server that asked this question. The server's error, where it has one.
pub(super) async fn prove(
    server: &mut Stream,
    facts: &SessionFacts,
    proof: &Proof,
    question: &[u8],
) -> Result<Option<Vec<u8>>, Stop> {
    let hash = server.peer_certificate().and_then(|certificate| binding::end_point(certificate));
    let channel = match (&hash, offered(question).any(|name| name == SCRAM_PLUS.as_bytes())) {
        (Some(hash), true) => Channel::EndPoint(hash),
        (Some(_), false) => Channel::NotOffered,
        (None, _) => Channel::None,
    };
    let nonce = nonce().map_err(|_| no_random_numbers())?;
    let (mechanism, first, answer) = Answer::begin(proof.secret.clone(), proof.client_key, channel, &nonce);
    let mut out = Vec::new();
    frame::put(&mut out, b'p', |body| {
        body.extend_from_slice(mechanism.as_bytes());
        body.push(0);
        body.extend_from_slice(&u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend_from_slice(&first);
    });
    server.write_all(&out).await?;
    let Some(question) = read_frame(server).await? else { return Err(not_genuine()) };
    if request(&question) != Some(SASL_CONTINUE) {
        return refused_by_server(question);
    }
    let Some((proof, expected)) = answer.prove(question.get(HEADER + 4..).unwrap_or_default()) else {
        tracing::warn!(session = %facts.id, "the server stores another secret than auth_query returns");
        return Err(Stop::Farewell(wrong_password(facts)));
    };
    out.clear();
    frame::put(&mut out, b'p', |body| body.extend_from_slice(&proof));
    server.write_all(&out).await?;
    let Some(last) = read_frame(server).await? else { return Err(not_genuine()) };
    if request(&last) != Some(SASL_FINAL) {
        return refused_by_server(last);
    }
    if !Answer::is_genuine(&expected, last.get(HEADER + 4..).unwrap_or_default()) {
        return Err(not_genuine());
    }
    Ok(None)
}

/// The server's error; anything else is none of SCRAM.
fn refused_by_server(frame: Vec<u8>) -> Result<Option<Vec<u8>>, Stop> {
    if frame.first() == Some(&b'E') { Ok(Some(frame)) } else { Err(not_genuine()) }
}

fn not_genuine() -> Stop {
    Stop::Farewell(Farewell {
        side: Side::Server,
        result: Connection::AuthFailed,
        ..Farewell::client("08P01", "the PostgreSQL server did not finish the login as SCRAM has it".into())
    })
}

fn no_random_numbers() -> Stop {
    let message = "could not generate random numbers".to_owned();
    Stop::Farewell(Farewell { side: Side::Proxy, ..Farewell::client("XX000", message) })
}

/// The server's words, the same for a user who is not there.
fn wrong_password(facts: &SessionFacts) -> Farewell {
    Farewell {
        result: Connection::AuthFailed,
        ..Farewell::client("28P01", format!("password authentication failed for user \"{}\"", facts.user))
    }
}

/// How asking the client ended.
enum Refused {
    Bad(Bad),
    /// Another message than an answer.
    Unexpected(u8),
    NoRandomNumbers,
    Gone(io::Error),
}

impl From<Bad> for Refused {
    fn from(bad: Bad) -> Self {
        Self::Bad(bad)
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

fn counted(relay: &Relay, facts: &SessionFacts, refused: Refused) -> Stop {
    let bad = match refused {
        Refused::Bad(bad) => bad,
        Refused::Unexpected(tag) => {
            let message = format!("expected SASL response, got message type {tag}");
            return Stop::Farewell(Farewell::client("08P01", message));
        }
        Refused::NoRandomNumbers => return no_random_numbers(),
        Refused::Gone(error) => return Stop::Gone(error),
    };
    if let Some(address) = facts.client_addr {
        relay.logins.failed(address);
    }
    tracing::info!(session = %facts.id, client = ?facts.client_addr, reason = %bad, "login refused");
    Stop::Farewell(match bad {
        Bad::Password => wrong_password(facts),
        _ => Farewell { result: Connection::AuthFailed, ..Farewell::client(bad.sqlstate(), bad.to_string()) },
    })
}

fn nonce() -> Result<Nonce, Refused> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|_| Refused::NoRandomNumbers)?;
    Ok(nonce)
}

/// The number that says what an Authentication message is about.
pub(super) fn request(frame: &[u8]) -> Option<u32> {
    let (code, _) = frame.get(HEADER..)?.split_first_chunk::<4>()?;
    frame.first().filter(|tag| **tag == b'R').map(|_| u32::from_be_bytes(*code))
}

/// The mechanisms of an AuthenticationSASL.
fn offered(frame: &[u8]) -> impl Iterator<Item = &[u8]> {
    let names = frame.get(HEADER + 4..).unwrap_or_default();
    names.split(|byte| *byte == 0).take_while(|name| !name.is_empty())
}

fn put_mechanisms(out: &mut Vec<u8>, names: &[&[u8]]) {
    frame::put(out, b'R', |body| {
        body.extend_from_slice(&SASL.to_be_bytes());
        for name in names {
            body.extend_from_slice(name);
            body.push(0);
        }
        body.push(0);
    });
}

async fn put_request(client: &mut Stream, code: u32, message: &[u8]) -> io::Result<()> {
    let mut out = Vec::new();
    frame::put(&mut out, b'R', |body| {
        body.extend_from_slice(&code.to_be_bytes());
        body.extend_from_slice(message);
    });
    client.write_all(&out).await?;
    client.flush().await
}

/// What the client answers to a question of the server that was passed on.
pub(super) async fn answer(
    relay: &Relay,
    client: &mut Stream,
    facts: &SessionFacts,
    longest: usize,
) -> Result<Vec<u8>, Stop> {
    read_answer(client, longest).await.map_err(|refused| counted(relay, facts, refused))
}

/// The body of the client's next message, which has to be an answer.
async fn read_answer(client: &mut Stream, longest: usize) -> Result<Vec<u8>, Refused> {
    client.flush().await?;
    let mut head = [0; HEADER];
    client.read_exact(&mut head).await?;
    let [tag, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    if tag != b'p' {
        return Err(Refused::Unexpected(tag));
    }
    if !(4..=longest + 4).contains(&length) {
        return Err(Bad::Malformed.into());
    }
    let mut body = vec![0; length - 4];
    client.read_exact(&mut body).await?;
    Ok(body)
}
