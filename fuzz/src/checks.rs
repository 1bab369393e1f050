//! What must hold for any bytes. The fuzz targets and `tests/fuzz_smoke.rs` run the same functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../tests/support/engine.rs"]
mod engine;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use engine::{READY, feed};
use futures::FutureExt;
use pggit_proxy::branch::{Branch, Branches, Carriers, Origin, Route, take_branch_option};
use pggit_proxy::change::{ChangeRequest, Enqueued, Intended, Noted, Returned, Stays, VerdictKind};
use pggit_proxy::control::command::parse;
use pggit_proxy::control::frame::{MAX_MESSAGE, Opening, read_message, read_opening};
use pggit_proxy::policy::lint::{Lint, LintAction};
use pggit_proxy::policy::{Action, Care, Policy, Queueing, Rule};
use pggit_proxy::session::{Effects, Env, Limits, Next, Session};
use pggit_proxy::sql::{Classifier, Encoding, called_functions, split};
use pggit_proxy::wire::frame::{BadLength, Head};
use pggit_proxy::wire::pipe::Pipe;
use pggit_proxy::wire::proxy_header::{self, Source};
use pggit_proxy::wire::startup::{self, First, Startup};
use pgwire::messages::{DecodeContext, PgWireFrontendMessage};

/// Takes bytes off the front of the input: the fuzzer's choices.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Frames through a pipe: whatever the pieces in which bytes come, are judged, replaced and written, what goes out is
/// what a plain vector would hold.
pub fn scanner(data: &[u8]) {
    let (choices, stream) = data.split_at(data.len() / 4);
    let mut choices = Choices(choices);
    let mut pipe = Pipe::default();
    let (mut expected, mut written, mut fed, mut judged) = (Vec::new(), Vec::new(), 0, 0);
    loop {
        let step = choices.byte().unwrap_or(0xff);
        let piece = (usize::from(step) + 1).min(stream.len() - fed);
        feed(&mut pipe, &stream[fed..fed + piece]);
        fed += piece;
        let ended = loop {
            assert_eq!(pipe.incoming(), &stream[judged..fed], "what is not judged is as it came");
            match Head::read(pipe.incoming()) {
                Ok(None) => break false,
                Err(BadLength { tag, length }) => {
                    assert_eq!(stream[judged], tag);
                    assert!(!(4..=0x3fff_ffff).contains(&length));
                    break true;
                }
                Ok(Some(head)) => {
                    assert!(head.total >= 5);
                    if head.total > fed - judged {
                        break false;
                    }
                    let frame = &stream[judged..judged + head.total];
                    judged += head.total;
                    match step % 4 {
                        0 => {
                            let new = vec![step; usize::from(step)];
                            pipe.replace(head.total, &new);
                            expected.extend_from_slice(&new);
                        }
                        1 => {
                            pipe.push(b"ours");
                            pipe.pass(head.total);
                            expected.extend_from_slice(b"ours");
                            expected.extend_from_slice(frame);
                        }
                        _ => {
                            pipe.pass(head.total);
                            expected.extend_from_slice(frame);
                        }
                    }
                }
            }
        };
        let n = pipe.outgoing().len().min(usize::from(choices.byte().unwrap_or(0xff)) * 3);
        written.extend_from_slice(&pipe.outgoing()[..n]);
        pipe.wrote(n);
        if ended || fed == stream.len() {
            break;
        }
    }
    written.extend_from_slice(pipe.outgoing());
    assert_eq!(written, expected, "what goes out is what was let through, in order");
    pipe.drop_incoming();
    pipe.wrote(pipe.outgoing().len());
    assert!(pipe.is_empty());
}

/// Start-up packets: what reads, writes back as it was; the branch is taken out of `options` for good.
pub fn startup(data: &[u8]) {
    if let Some(word) = data.first_chunk::<4>()
        && let Ok(length) = startup::length(*word)
    {
        assert!((8..=startup::MAX_PACKET).contains(&length));
    }
    let versioned = [&(3u32 << 16).to_be_bytes()[..], data].concat();
    for packet in [data, &versioned] {
        match startup::read(packet) {
            Ok(First::Startup(mut read)) => {
                if let Ok(again) = read.to_packet() {
                    assert_eq!(&again[4..], packet, "a start-up packet goes on as it came");
                }
                if let Some(options) = read.parameter("options").map(<[u8]>::to_vec) {
                    self::options(&options);
                }
                route(&read);
                read.take("pggit.branch");
                assert_eq!(read.parameter("pggit.branch"), None);
                read.set("pggit.branch", &b"main"[..]);
                assert_eq!(read.parameter("pggit.branch"), Some(&b"main"[..]));
            }
            Ok(First::Cancel { pid, secret }) => {
                assert_eq!(&startup::cancel_request(pid, &secret)[4..], packet);
            }
            Ok(First::Ssl | First::Gssenc) | Err(_) => {}
        }
    }
    options(data);
}

fn options(data: &[u8]) {
    let found = take_branch_option(data);
    if found.branch.is_none() {
        assert_eq!(found.rest, data, "options without a branch stay as they came");
    }
    if found.guarded.is_none() {
        let again = take_branch_option(&found.rest);
        assert_eq!(again.branch, None, "{} -> {}", data.escape_ascii(), found.rest.escape_ascii());
    }
}

/// A connection's first bytes, as the handshake takes them: perhaps a load balancer's header, requests for encryption, then a
/// start-up packet or a cancel request. Lengths are believed only within their bounds.
pub fn handshake(data: &[u8]) {
    let mut stream = data;
    if let Some((fixed, after)) = stream.split_first_chunk::<{ proxy_header::FIXED }>()
        && let Ok(length) = proxy_header::rest(*fixed)
    {
        assert!(length <= proxy_header::MAX_REST);
        let Some((rest, after)) = after.split_at_checked(length) else { return };
        if let Ok(Source::Address(address)) = proxy_header::read(*fixed, rest) {
            let said = if address.is_ipv4() { 12 } else { 36 };
            assert!(rest.len() >= said, "an address that stands in the header");
        }
        stream = after;
    }
    while let Some((word, after)) = stream.split_first_chunk::<4>() {
        let Ok(length) = startup::length(*word) else { return };
        let Some((packet, after)) = after.split_at_checked(length - 4) else { return };
        stream = after;
        match startup::read(packet) {
            Ok(First::Ssl | First::Gssenc) => {}
            Ok(First::Startup(read)) => return route(&read),
            Ok(First::Cancel { secret, .. }) => return assert!((1..=256).contains(&secret.len())),
            Err(_) => return,
        }
    }
}

/// Where such a client goes: to a branch that is there, to the database that it named, or nowhere for a reason.
fn route(startup: &Startup) {
    let text = |name| startup.parameter(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let carriers = Carriers {
        database: text("database").unwrap_or_default(),
        parameter: text("pggit.branch"),
        options: startup.parameter("options").and_then(|options| take_branch_option(options).branch),
    };
    let branch = |name: &str, database: &str| {
        let (name, database) = (name.to_owned(), database.to_owned());
        Arc::new(Branch { name, database, protected: false, parent: None, origin: Origin::Table })
    };
    let all = [("main", "app"), ("feature/x", "app__x"), ("a@b", "app__ab"), ("odd%2Fname", "app__odd")];
    let branches = Branches {
        repository: "app".into(),
        default: "main".into(),
        all: all.into_iter().map(|(name, database)| branch(name, database)).collect(),
    };
    let named = [carriers.parameter.as_ref(), carriers.options.as_ref()];
    match branches.resolve(&carriers) {
        Ok(Route::Branch(found)) => {
            assert!(branches.all.contains(&found));
            assert!(named.into_iter().flatten().all(|name| *name == found.name), "no carrier is passed over");
        }
        Ok(Route::Unmanaged(database)) => {
            assert_eq!(database, carriers.database);
            assert_eq!(named, [None, None], "a branch that was named is never passed over");
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(["3D000", "22023"].contains(&error.sqlstate()), "{error}: {}", error.sqlstate());
            error.hint();
        }
    }
}

/// Any text: the parser and the lexical rules give ranges that lie in it, in order, whichever way bytes from 0x80 up are
/// to be read; and what the cache says is what the parser said.
pub fn text(data: &[u8]) {
    for encoding in [Encoding::AsciiSafe, Encoding::LeadByte] {
        let mut classifier = Classifier::new(1 << 16);
        let statements = classifier.parse(data, encoding);
        let ranges: Vec<_> = statements.iter().map(|statement| statement.range.clone()).collect();
        in_order(data, &ranges);
        assert_eq!(classifier.parse(data, encoding), statements);
        classifier.classify(data, encoding);
    }
    in_order(data, &split(data));
    for name in called_functions(data) {
        assert!(!name.is_empty());
    }
}

fn in_order(text: &[u8], ranges: &[Range<usize>]) {
    let mut last = 0;
    for range in ranges {
        assert!(last <= range.start && range.start <= range.end && range.end <= text.len(), "{ranges:?}");
        last = range.end;
    }
}

/// What a client may say to the control port: each message is refused, or pgwire's decoder can read it and what is in
/// it is a command or a clear error.
pub fn control(data: &[u8]) {
    // Any chain of requests, then any chain of messages; in memory nothing ever waits.
    let mut stream = data;
    let opened = loop {
        match read_opening(&mut stream).now_or_never().expect("memory does not wait") {
            Ok(Some(Opening::Ssl | Opening::Gssenc)) => {}
            Ok(Some(Opening::Startup(mut packet))) => break decoded(&mut packet, true).is_some(),
            Ok(Some(Opening::Cancel | Opening::Handshake(_)) | None) | Err(_) => break false,
        }
    };
    // What is no start-up packet may be the rest of a conversation, or a command as it stands.
    let (mut stream, mut inbox) = (if opened { stream } else { data }, BytesMut::new());
    while let Ok(Some(mut message)) =
        read_message(&mut stream, &mut inbox, MAX_MESSAGE).now_or_never().expect("memory does not wait")
    {
        match decoded(&mut message, false) {
            Some(PgWireFrontendMessage::Query(query)) => command(&query.query),
            Some(PgWireFrontendMessage::Parse(parse)) => command(&parse.query),
            _ => {}
        }
    }
    command(&String::from_utf8_lossy(data));
}

fn decoded(message: &mut BytesMut, startup: bool) -> Option<PgWireFrontendMessage> {
    let mut context = DecodeContext::default();
    context.awaiting_frontend_ssl = false;
    context.awaiting_frontend_startup = startup;
    // Before the protocol version is known pgwire may say that it wants more; it must not panic.
    PgWireFrontendMessage::decode(message, &context).ok().flatten()
}

fn command(text: &str) {
    match parse(text) {
        Ok(commands) => assert!(commands.len() <= 100),
        Err(error) => assert!(error.sqlstate.len() == 5 && !error.message.is_empty()),
    }
}

/// A session between a client and a server that say anything, in any pieces: it never panics, holds no more than one
/// message, and lets out what came in, as far as no statement was refused.
pub fn session(data: &[u8]) {
    for policy in policies() {
        session_under(policy, data);
    }
}

fn session_under(policy: Policy, data: &[u8]) {
    let mut choices = Choices(data);
    let mut between = Between::new(policy);
    while let Some(choice) = choices.byte() {
        let length = usize::from(choices.byte().unwrap_or(0));
        let bytes = choices.bytes(if choice & 2 == 0 { length } else { length * 16 });
        if choice & 1 == 0 {
            between.client(bytes);
        } else {
            between.server(bytes);
        }
    }
    between.end();
}

/// The same for messages of one's own making: each is given whole or in pieces of `cut` bytes.
pub fn conversation(messages: &[(bool, Vec<u8>)], cut: usize) {
    for policy in policies() {
        conversation_under(policy, messages, cut);
    }
}

fn policies() -> [Policy; 5] {
    [Policy::default(), queueing(), rerouting(), linting(LintAction::Warn), linting(LintAction::Refuse)]
}

/// Every change has findings, and is bounded in its waiting.
fn linting(action: LintAction) -> Policy {
    let lint = Lint { action, exclude: Vec::new(), include: Vec::new(), exclude_own: Vec::new() };
    let care = Care { lint: Some(Arc::new(lint)), lock_timeout: Some(Duration::from_secs(5)) };
    Policy { care: [("main".to_owned(), care)].into(), ..Policy::default() }
}

/// Every change waits for approval.
fn queueing() -> Policy {
    everything(Action::Queue(Queueing { expires: Queueing::EXPIRES, wait: None }))
}

/// Every change goes to another branch.
fn rerouting() -> Policy {
    everything(Action::Reroute("staging".into()))
}

fn everything(action: Action) -> Policy {
    let rule = Rule {
        name: "ask".into(),
        branch: None,
        user: None,
        application: None,
        client: Vec::new(),
        class: Vec::new(),
        tag: None,
        object: None,
        action,
        message: None,
        hint: None,
    };
    Policy { rules: vec![rule], ..Policy::default() }
}

fn conversation_under(policy: Policy, messages: &[(bool, Vec<u8>)], cut: usize) {
    let mut between = Between::new(policy);
    for (from_client, message) in messages {
        for piece in message.chunks(cut.max(1)) {
            if *from_client {
                between.client(piece);
            } else {
                between.server(piece);
            }
        }
    }
    between.end();
}

const LIMITS: Limits = Limits { max_statement_parse: 4096, max_prepared: 8, max_logged_sql: 64 };

/// A frame that is judged only when it is whole, or the names at its head.
const MAX_HELD: usize = 80 << 10;

struct Between {
    session: Session,
    classifier: Classifier,
    policy: Policy,
    /// A statement waits until the server has answered: the client is not read meanwhile.
    waiting: bool,
    up: Way,
    down: Way,
}

/// One direction.
#[derive(Default)]
struct Way {
    pipe: Pipe,
    sent: Vec<u8>,
    received: Vec<u8>,
    /// The session ended here: what was sent is no protocol.
    broken: bool,
    /// Something was rewritten: bytes cannot be compared any more.
    rewritten: bool,
}

impl Between {
    fn new(policy: Policy) -> Self {
        Self {
            session: engine::session(),
            classifier: Classifier::new(1 << 16),
            policy,
            waiting: false,
            up: Way::default(),
            down: Way::default(),
        }
    }

    fn client(&mut self, bytes: &[u8]) {
        if self.up.broken || self.waiting {
            return;
        }
        feed(&mut self.up.pipe, bytes);
        self.up.sent.extend_from_slice(bytes);
        self.judge();
    }

    fn judge(&mut self) {
        self.waiting = false;
        let mut fx = Effects::default();
        let (up, env) = (&mut self.up, env(&self.policy));
        loop {
            match self.session.from_client(&mut up.pipe, &env, &mut self.classifier, &mut fx) {
                Ok(Next::Read) => break,
                Ok(Next::AwaitServer) => {
                    assert!(self.session.awaits_answers(), "it waits for what will come");
                    self.waiting = true;
                    // A Flush of ours may stand in it, or a question whose answers are ours.
                    up.rewritten = true;
                    self.down.rewritten = true;
                    break;
                }
                Ok(Next::AskRecorder) if !fx.requests.is_empty() => {
                    // Every other one is approved.
                    let noted = |request: &ChangeRequest| Noted {
                        number: 1,
                        id: request.id,
                        approved_by: request.sql.len().is_multiple_of(2).then(String::new),
                        moved: false,
                    };
                    let noted = fx.requests.drain(..).collect::<Vec<_>>().iter().map(noted).collect();
                    self.session.requests_answered(Enqueued::Noted(noted));
                    continue;
                }
                Ok(Next::AskRecorder) if fx.moving.is_some() => {
                    fx.moving = None;
                    let because = "the test says so".to_owned();
                    self.session.cannot_move(Stays { sqlstate: "55P02", because, hint: None });
                    continue;
                }
                Ok(Next::AskRecorder) if fx.errand.is_some() => {
                    let errand = fx.errand.take().unwrap();
                    self.session.errand_returned(returned(errand.sql.len()));
                    continue;
                }
                Ok(Next::AskRecorder) if fx.check.is_some() => {
                    let findings = fx.check.take().unwrap().unchecked("the test says so");
                    self.session.checked(findings);
                    continue;
                }
                Ok(Next::AskRecorder) => assert!(fx.intent.take().is_some(), "the history can be written"),
                Err(_) => {
                    up.broken = true;
                    break;
                }
            }
            self.session.intent_answered(Intended::Written);
        }
        // It was put in as a whole, so it stands in what goes out now.
        let accompanied =
            !up.rewritten && up.pipe.outgoing().windows(COMPANION.len()).any(|window| window == COMPANION);
        up.drain();
        if accompanied || !fx.reply.is_empty() || fx.verdicts.iter().any(|verdict| *verdict != VerdictKind::Allow) {
            up.rewritten = true;
            self.down.rewritten = true;
        }
        up.check(MAX_HELD);
    }

    fn server(&mut self, bytes: &[u8]) {
        if self.down.broken {
            return;
        }
        feed(&mut self.down.pipe, bytes);
        self.down.sent.extend_from_slice(bytes);
        let mut fx = Effects::default();
        let (down, env) = (&mut self.down, env(&self.policy));
        if self.session.from_server(&mut down.pipe, &env, &mut fx).is_err() {
            down.broken = true;
        }
        down.rewritten |= fx.key.is_some();
        down.drain();
        down.check((1 << 20) + 5);
        if self.waiting && !self.up.broken && !self.session.awaits_answers() {
            self.judge();
        }
    }

    fn end(mut self) {
        let mut fx = Effects::default();
        self.session.ended(Instant::now(), &mut fx);
        assert_eq!(self.session.owed(), 0);
    }
}

impl Way {
    fn drain(&mut self) {
        let n = self.pipe.outgoing().len();
        self.received.extend_from_slice(self.pipe.outgoing());
        self.pipe.wrote(n);
    }

    fn check(&self, max_held: usize) {
        assert!(self.pipe.incoming().len() <= max_held || self.broken, "{} bytes held", self.pipe.incoming().len());
        if !self.rewritten {
            assert!(self.sent.starts_with(&self.received), "bytes pass as they came");
            assert_eq!(self.sent.len() - self.received.len(), self.pipe.incoming().len(), "none is lost");
        }
    }
}

/// Each way in which a statement may come back.
fn returned(choice: usize) -> Returned {
    match choice % 3 {
        0 => Returned::Never("the test says so".into()),
        1 => Returned::Lost("the test says so".into()),
        _ => Returned::Answered { frames: b"C\0\0\0\x05\0".to_vec(), error: None, ready: b"I".to_vec() },
    }
}

/// A call that records, as it stands in a text.
const COMPANION: &[u8] = b"CALL pggit.companion(";

fn env(policy: &Policy) -> Env<'_> {
    engine::env(policy, &|| READY, LIMITS)
}
