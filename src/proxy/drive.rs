//! The loop that moves a session's bytes.
//!
//! Four arms are live at every wake-up: read the client, write the server, read the server, write the client. None
//! waits for another, so that no pipelining pattern can make both sides wait for each other; a full pipe stops
//! only the arm that reads into it. One wake-up makes one read and one write for each burst of bytes.

mod arms;
mod effects;
mod hold;
mod idle;
mod moving;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::time::Sleep;
use uuid::Uuid;

use self::idle::{Idle, IdleTimer};
use super::handshake::{Identity, Link};
use super::stream::Stream;
use super::upstream::Address;
use super::{LAST_ARRIVALS, Relay, cancel, handshake, refuse};
use crate::change::{Enqueued, Intended, Noted, Recording, Returned, SessionFacts, Stays};
use crate::policy::lint::Findings;
use crate::session::{Activity, Effects, Env, Limits, Next, Session};
use crate::state::{Client, ClientState, Full};
use crate::telemetry::{Connection, Side};
use crate::wire::error::Text;
use crate::wire::pipe::Pipe;

/// Unjudged bytes of a client that is not logged in, beyond which it is read no further: the server takes no longer
/// message from it either.
const MAX_BEFORE_LOGIN: usize = 64 << 10;

/// Answers the server may owe before the client is read no further.
const MAX_OWED: usize = 1 << 20;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client left, or both sides are through.
    Closed,
    /// The server hung up without a word.
    ServerLost,
    /// `KILL`, or the process ends.
    Terminated,
    /// Not logged in in time.
    LoginTimeout,
    /// Idle for too long.
    IdleTimeout(Idle),
    /// Logged in where there are as many as there may be.
    TooMany(Full),
    /// Its branch was copied meanwhile, and the server does not let it in again; the reason is in [`Drive::shut_out`].
    ShutOut,
    /// The client or the server broke the protocol.
    Protocol(Side),
}

/// Something a session waits for outside its own sockets; its client is not read meanwhile.
enum Wait {
    /// Whether the history can be written.
    Recorder(Pin<Box<dyn Future<Output = Recording> + Send>>),
    /// Whether the intent of the statement at the front is written.
    Intent(Pin<Box<dyn Future<Output = Intended> + Send>>),
    /// Whether the change requests of the statements at the front are written.
    Requests {
        answer: Pin<Box<dyn Future<Output = Enqueued> + Send>>,
        /// The key it is released to, if any, and how long its client waits for the decision.
        waits: Option<(Option<Uuid>, Duration)>,
    },
    /// Whether the statement at the front was approved.
    Decision { noted: Noted, answer: Pin<Box<dyn Future<Output = Enqueued> + Send>> },
    /// What the statement at the front comes to on another branch.
    Errand {
        answer: Pin<Box<dyn Future<Output = Returned> + Send>>,
        /// It has come, and waits for the end of a message on its way to the client.
        returned: Option<Returned>,
    },
    /// A server connection on another branch, where the session goes on.
    Move {
        answer: Pin<Box<dyn Future<Output = Result<moving::Place, Stays>> + Send>>,
        /// It has come, and waits for the end of a message on its way to the client.
        place: Option<Box<Result<moving::Place, Stays>>>,
    },
    /// A copy of its branch, which is made while nobody is on it.
    Hold(Box<hold::Hold>),
    /// What is dangerous about the statements at the front.
    Check(Pin<Box<dyn Future<Output = Findings> + Send>>),
    /// The server's answers to what came before the statement at the front, and the recorder, where it has to see what came of it.
    Answers,
    /// Room in the statement log.
    Log(Pin<Box<dyn Future<Output = ()> + Send>>),
}

struct Drive<'a> {
    relay: &'a Arc<Relay>,
    place: Arc<Client>,
    facts: Arc<SessionFacts>,
    address: Address,
    secret: [u8; 32],
    identity: Arc<Identity>,
    /// Its client is one of ours; see [`super::errand`].
    is_errand: bool,
    limits: Limits,
    max_buffer: usize,
    client: Arm<Stream>,
    server: Arm<Stream>,
    session: Session,
    /// From the client to the server.
    up: Pipe,
    /// From the server to the client.
    down: Pipe,
    wait: Option<Wait>,
    /// What came of a statement is being recorded: the client hears of it afterwards.
    settling: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    login: Option<Pin<Box<Sleep>>>,
    /// Since when the session is idle, and for how long it may be.
    idle: IdleTimer,
    /// A session that has asked nothing yet gets this long when the process drains.
    last_arrival: Option<Pin<Box<Sleep>>>,
    cancel: Option<cancel::Entry<'a>>,
    fx: Effects,
    counted: bool,
    /// Its user or its branch has as many clients as it may.
    full: Option<Full>,
    /// `PAUSE` holds bytes of the client that nobody has judged yet.
    unheard: bool,
    /// Why the server does not let the session in again.
    shut_out: String,
    /// The client sent what is no message: nothing more is read from it, and it is told so after the answers to what
    /// came before.
    broken: bool,
}

/// A socket and what has become of it.
struct Arm<S> {
    stream: S,
    /// It may still give bytes.
    reads: bool,
    /// It still takes bytes.
    writes: bool,
    /// The last read filled its buffer.
    busy: bool,
    /// The last write took less than there was: a message may be cut there.
    cut: bool,
}

/// Relays until one side is through.
pub(super) async fn run(relay: &Arc<Relay>, link: Link, deadline: Instant) {
    let config = relay.shared.config.load();
    let mut drive = Drive {
        relay,
        place: link.place,
        facts: link.facts,
        address: link.address,
        secret: link.secret,
        identity: link.identity,
        is_errand: link.is_errand,
        limits: Limits {
            max_statement_parse: config.limits.max_statement_parse,
            max_prepared: config.limits.max_prepared,
            max_logged_sql: config.limits.max_logged_sql,
        },
        max_buffer: config.limits.max_buffer,
        client: Arm::new(link.client),
        server: Arm::new(link.server),
        session: link.session,
        up: Pipe::default(),
        down: Pipe::default(),
        wait: None,
        settling: None,
        login: Some(Box::pin(tokio::time::sleep_until(deadline.into()))),
        idle: IdleTimer::default(),
        last_arrival: None,
        cancel: None,
        fx: Effects::default(),
        counted: false,
        full: None,
        unheard: false,
        shut_out: String::new(),
        broken: false,
    };
    drop(config);
    drive.up.push(&link.packet);
    drive.down.take_in(&link.greeting);
    let end = match drive.match_server() {
        Ok(()) => poll_fn(|cx| drive.turn(cx).map_or_else(Poll::Ready, |()| Poll::Pending)).await,
        Err(end) => end,
    };
    drive.finish(end).await;
}

impl Drive<'_> {
    /// Moves what can be moved now.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.place.waker.register(cx.waker());
        if let Some(login) = &mut self.login
            && login.as_mut().poll(cx).is_ready()
        {
            return Err(End::LoginTimeout);
        }
        loop {
            let mut moved = self.heed_hold();
            moved |= self.poll_wait(cx)?;
            moved |= self.hear_at_last()?;
            moved |= self.read_client(cx)?;
            moved |= self.write_server(cx);
            moved |= self.poll_settling(cx);
            moved |= self.read_server(cx)?;
            moved |= self.write_client(cx)?;
            if !self.server.reads && self.down.is_empty() && !self.client.holds_back() && !self.is_away() {
                let lost = !self.session.is_explained() && self.client.reads;
                return Err(match (self.broken, lost) {
                    (true, _) => End::Protocol(Side::Client),
                    (false, true) => End::ServerLost,
                    (false, false) => End::Closed,
                });
            }
            if !moved {
                break;
            }
        }
        let activity = self.session.activity();
        self.note(activity);
        if self.place.is_killed() || self.relay.shared.clients.is_ending() {
            return Err(End::Terminated);
        }
        if self.relay.shared.clients.is_draining() && !self.is_errand && self.may_go(activity, cx) {
            return Err(End::Terminated);
        }
        self.watch_idleness(activity, cx)
    }

    /// Whether a draining process may send this session away now.
    fn may_go(&mut self, activity: Activity, cx: &mut Context<'_>) -> bool {
        let has_asked = self.place.statements.load(Ordering::Relaxed) > 0;
        match activity {
            Activity::Idle if !self.up.is_empty() && !self.unheard => false,
            Activity::Idle if has_asked => true,
            Activity::Login | Activity::Idle => {
                let limit = self.last_arrival.get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST_ARRIVALS)));
                limit.as_mut().poll(cx).is_ready()
            }
            Activity::Active | Activity::IdleInTransaction => false,
        }
    }

    /// Goes on with what waited; true when it did.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match &mut self.wait {
            None => return Ok(false),
            Some(Wait::Hold(_)) => return self.poll_hold(cx),
            Some(Wait::Recorder(answer)) => match answer.as_mut().poll(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(answer) => self.session.recorder_answered(answer),
            },
            Some(Wait::Intent(answer)) => match answer.as_mut().poll(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(answer) => self.session.intent_answered(answer),
            },
            Some(Wait::Check(answer)) => match answer.as_mut().poll(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(findings) => self.session.checked(findings),
            },
            Some(Wait::Requests { answer, waits }) => match answer.as_mut().poll(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(answer) => match (&answer, *waits) {
                    (Enqueued::Noted(all), Some((run, wait)))
                        if let [noted] = all.as_slice()
                            && noted.approved_by.is_none() =>
                    {
                        self.wait = Some(self.await_decision(noted.clone(), run, wait));
                        return Ok(true);
                    }
                    _ => self.session.requests_answered(answer),
                },
            },
            Some(Wait::Decision { .. }) => {
                let Some(Wait::Decision { noted, mut answer }) = self.wait.take() else { return Ok(false) };
                let Some(decided) = self.poll_decision(&noted, &mut answer, cx) else {
                    self.wait = Some(Wait::Decision { noted, answer });
                    return Ok(false);
                };
                self.session.requests_answered(decided);
            }
            Some(Wait::Errand { answer, returned }) => {
                if returned.is_none() {
                    let Poll::Ready(come) = answer.as_mut().poll(cx) else { return Ok(false) };
                    *returned = Some(come);
                }
                if !self.session.is_between_messages() && self.server.reads {
                    return Ok(false);
                }
                if let Some(returned) = returned.take() {
                    self.session.errand_returned(returned);
                }
            }
            Some(Wait::Move { answer, place }) => {
                if place.is_none() {
                    let Poll::Ready(come) = answer.as_mut().poll(cx) else { return Ok(false) };
                    *place = Some(Box::new(come));
                }
                if !self.session.at_boundary(&self.down) && self.server.reads {
                    return Ok(false);
                }
                match place.take().map(|place| *place) {
                    Some(Ok(place)) => self.arrive(place)?,
                    Some(Err(stays)) => self.session.cannot_move(stays),
                    None => {}
                }
            }
            Some(Wait::Answers) => {
                if self.settling.is_some() || self.session.awaits_answers() && self.server.reads {
                    return Ok(false);
                }
            }
            Some(Wait::Log(room)) => match room.as_mut().poll(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(()) => {}
            },
        }
        self.wait = None;
        self.judge_client()?;
        Ok(true)
    }

    /// Lets the session judge what the client sent.
    fn judge_client(&mut self) -> Result<(), End> {
        if self.settling.is_some() {
            // What was done before it is recorded before it, too.
            self.wait = Some(Wait::Answers);
            return Ok(());
        }
        let shared = &self.relay.shared;
        let branch = self.facts.branch.as_deref();
        // In this order: rules that were loaded before the freezes were known hold for no change.
        let freezes_known = shared.history.knows_freezes();
        let policy = shared.policy.load();
        let env = Env {
            policy: &policy,
            recording: &|| match effects::recording(shared, branch) {
                Recording::Ready(_) if !freezes_known => Recording::Broken,
                recording => recording,
            },
            broken_because: &|| branch.map(|branch| shared.history.broken_because(branch)).unwrap_or_default(),
            now: Instant::now(),
            wall: SystemTime::now,
            new_id: Uuid::now_v7,
            limits: self.limits,
        };
        let (session, up, fx) = (&mut self.session, &mut self.up, &mut self.fx);
        let next = effects::with_classifier(shared, |classifier| session.from_client(up, &env, classifier, fx));
        drop(policy);
        match next {
            Ok(Next::Read) => {}
            Ok(Next::AskRecorder) => self.wait = Some(self.ask()),
            Ok(Next::AwaitServer) => self.wait = Some(Wait::Answers),
            Err(error) => {
                tracing::info!(session = %self.facts.id, %error, "protocol violation by the client");
                self.broken = true;
                self.client.reads = false;
                self.up.drop_incoming();
            }
        }
        self.apply();
        Ok(())
    }

    /// Lets the session match what the server sent.
    fn match_server(&mut self) -> Result<(), End> {
        self.hear_server()?;
        self.apply();
        self.full.map_or(Ok(()), |full| Err(End::TooMany(full)))
    }

    fn hear_server(&mut self) -> Result<(), End> {
        let env = Env {
            policy: &crate::policy::Policy::default(),
            recording: &|| Recording::NotRequired,
            broken_because: &String::new,
            now: Instant::now(),
            wall: SystemTime::now,
            new_id: Uuid::now_v7,
            limits: self.limits,
        };
        if let Err(error) = self.session.from_server(&mut self.down, &env, &mut self.fx) {
            tracing::error!(session = %self.facts.id, %error, "protocol violation by the server");
            return Err(End::Protocol(Side::Server));
        }
        Ok(())
    }

    fn note(&mut self, activity: Activity) {
        let state = match activity {
            _ if matches!(self.wait, Some(Wait::Hold(_))) => ClientState::Held,
            _ if self.wait.is_some() => ClientState::Waiting,
            _ if self.is_held() => ClientState::Paused,
            Activity::Login => ClientState::Login,
            Activity::Idle => ClientState::Idle,
            Activity::Active => ClientState::Active,
            Activity::IdleInTransaction => ClientState::IdleInTransaction,
        };
        self.place.state.store(state as u8, Ordering::Relaxed);
    }

    /// Settles what is open, tells the client why, and hangs up.
    async fn finish(mut self, end: End) {
        let shared = &self.relay.shared;
        let (too_many, shut_out);
        let (sqlstate, message) = match end {
            End::Closed => ("", ""),
            End::ServerLost => ("08006", "the PostgreSQL server closed the connection unexpectedly"),
            End::Terminated => ("57P01", "terminating connection due to administrator command"),
            // The server's words for its authentication_timeout; it has them for its log only.
            End::LoginTimeout => ("57014", "canceling authentication due to timeout"),
            End::IdleTimeout(Idle::Session) => ("57P05", "terminating connection due to idle-session timeout"),
            End::IdleTimeout(Idle::Transaction) => {
                ("25P03", "terminating connection due to idle-in-transaction timeout")
            }
            End::TooMany(full) => {
                shared.metrics.connection(Connection::TooMany);
                too_many = handshake::too_many(full, &self.facts);
                ("53300", too_many.as_str())
            }
            End::ShutOut => {
                shut_out = format!("this session was held while its branch was copied, and is lost: {}", self.shut_out);
                ("08006", shut_out.as_str())
            }
            End::Protocol(Side::Client) => ("08P01", "invalid message from the client"),
            End::Protocol(Side::Server | Side::Proxy) => ("08P01", "invalid message from the PostgreSQL server"),
        };
        match end {
            End::Closed => {}
            End::ServerLost | End::ShutOut | End::Protocol(Side::Server) => shared.metrics.error(Side::Server),
            End::Protocol(Side::Client) | End::LoginTimeout | End::IdleTimeout(_) | End::TooMany(_) => {
                shared.metrics.error(Side::Client);
            }
            End::Terminated | End::Protocol(Side::Proxy) => shared.metrics.error(Side::Proxy),
        }
        if end == End::Terminated
            && self.session.activity() == Activity::Active
            && let Some(entry) = &self.cancel
        {
            // The server would run the statement to its end before it noticed that nobody listens.
            let target = entry.target();
            let _ = tokio::time::timeout(self.address.timeout(), target.cancel()).await;
        }
        self.await_errand(end).await;
        if matches!(end, End::TooMany(_)) && !self.client.cut {
            // It is not told that it got in.
            self.down.clear();
        }
        if !sqlstate.is_empty() && self.session.at_boundary(&self.down) {
            let outgoing = self.down.outgoing().to_vec();
            let patience = std::time::Duration::from_secs(2);
            let sent = tokio::io::AsyncWriteExt::write_all(&mut self.client.stream, &outgoing);
            if matches!(tokio::time::timeout(patience, sent).await, Ok(Ok(()))) {
                refuse::say(&mut self.client.stream, Text { sqlstate, message, detail: None, hint: None }).await;
            }
        }
        if self.client.stream.is_tls() && self.client.writes {
            // Whoever speaks TLS is told that nothing was cut off.
            let goodbye = tokio::io::AsyncWriteExt::shutdown(&mut self.client.stream);
            let _ = tokio::time::timeout(std::time::Duration::from_secs(2), goodbye).await;
        }
        self.session.ended(Instant::now(), &mut self.fx);
        self.apply();
        if let Some(wait) = self.wait.take() {
            match wait {
                Wait::Log(room) => room.await,
                Wait::Recorder(_)
                | Wait::Intent(_)
                | Wait::Requests { .. }
                | Wait::Decision { .. }
                | Wait::Errand { .. }
                | Wait::Move { .. }
                | Wait::Hold(_)
                | Wait::Check(_)
                | Wait::Answers => {}
            }
        }
        if self.counted {
            shared.metrics.client_left(self.facts.branch.as_deref());
            shared.clients.quota.leave(&self.facts.user, self.facts.branch.as_deref());
        }
    }
}

impl Drive<'_> {
    /// What the statement came to that is under way elsewhere: the statement log wants to know. When the session is ended it
    /// is cancelled, else only when it takes too long.
    async fn await_errand(&mut self, end: End) {
        let Some(Wait::Errand { answer, returned }) = &mut self.wait else { return };
        let patience = self.address.timeout();
        let mut come = returned.take();
        if come.is_none() && end != End::Terminated {
            come = tokio::time::timeout(patience, answer.as_mut()).await.ok();
        }
        if come.is_none()
            && let Some(entry) = &self.cancel
        {
            let target = entry.target();
            let cancelled = async { drop(target.cancel().await) };
            let (come_now, ()) = futures::future::join(tokio::time::timeout(patience, answer), cancelled).await;
            come = come_now.ok();
        }
        if let Some(returned) = come {
            self.session.errand_returned(returned);
        }
    }
}

impl<S> Arm<S> {
    fn new(stream: S) -> Self {
        Self { stream, reads: true, writes: true, busy: false, cut: false }
    }
}

/// Whether an IO error is the other side's ordinary way to leave.
fn is_farewell(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            // Over TLS: without the word that it is the end.
            | io::ErrorKind::UnexpectedEof
    )
}
