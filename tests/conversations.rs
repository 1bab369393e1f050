//! The session engine against scripted conversations, without IO: see `tests/scripts/`.
//!
//! ```text
//! > Q create table t()        the client sends
//! >> Q SELECT "pggit:…"       the server gets this instead (without such a line: the same)
//! < C CREATE TABLE            the server sends
//! << E 42501 …                the client gets this instead (without such a line: the same)
//! ! applied CREATE TABLE      facts that this line made known: outcome, tag, SQLSTATE if any
//! <<, >> - and nothing        anything, and nothing
//! ! intent CREATE DATABASE    an intent was asked for; `! settled applied` and the like: what was told of one
//! recording broken            from here on the history cannot be written
//! intents broken              from here on intents cannot be written (`allowed`: need not be)
//! recording inject            from here on there are no event triggers: calls are added
//! policy refuse-ddl           from here on DDL is refused
//! ```
//!
//! Every script runs twice: message by message, and byte by byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/engine.rs"]
mod engine;

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use engine::{LIMITS, READY, drain, env, feed, ready};
use pggit_proxy::change::{Capture, Intended, Recording, Told};
use pggit_proxy::config::Config;
use pggit_proxy::policy::Policy;
use pggit_proxy::session::{Effects, Limits, Next, Session};
use pggit_proxy::sql::Classifier;
use pggit_proxy::wire::{error, frame, pipe::Pipe};

#[test]
fn every_script_goes_as_written() {
    let mut scripts: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 10, "the scripts are there");
    for path in scripts {
        for chunk in [usize::MAX, 1, 7] {
            run(&path, chunk);
        }
    }
}

struct Conversation {
    session: Session,
    classifier: Classifier,
    policy: Policy,
    recording: Cell<Recording>,
    intended: Intended,
    limits: Limits,
    up: Pipe,
    down: Pipe,
    facts: Vec<String>,
}

fn run(path: &Path, chunk: usize) {
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut conversation = Conversation::new();
    conversation.server(b"Z", b"I", usize::MAX);
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let place = format!("{}:{} (in pieces of {chunk})", path.file_name().unwrap().to_string_lossy(), at + 1);
        at += 1;
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut expected = None;
        let mut facts = Vec::new();
        let answers = if word == ">" { ">>" } else { "<<" };
        if matches!(word, ">" | "<" | "end") {
            while let Some(next) = lines.get(at) {
                if let Some(instead) = next.strip_prefix(&format!("{answers} ")) {
                    expected.get_or_insert_with(Vec::new).extend(encode(instead, word == ">"));
                } else if let Some(fact) = next.strip_prefix("! ") {
                    facts.push(fact.to_owned());
                } else {
                    break;
                }
                at += 1;
            }
        }
        let got = match word {
            ">" => conversation.client(&encode(rest, true), chunk),
            "<" => {
                let bytes = encode(rest, false);
                conversation.server(&bytes[..1], &bytes[5..], chunk)
            }
            "end" => {
                conversation.end();
                Vec::new()
            }
            "recording" => {
                let state = match rest {
                    "broken" => Recording::Broken,
                    "inject" => ready(Capture::Inject),
                    _ => READY,
                };
                conversation.recording.set(state);
                continue;
            }
            "intents" => {
                conversation.intended = match rest {
                    "broken" => Intended::Failed("the test says so".into()),
                    "allowed" => Intended::NotRequired,
                    _ => Intended::Written,
                };
                continue;
            }
            "policy" => {
                conversation.policy = policy(rest);
                continue;
            }
            "limit" => {
                conversation.limits.max_statement_parse = rest.parse().unwrap();
                continue;
            }
            "" | "#" => continue,
            other => panic!("{place}: what is {other:?}?"),
        };
        let wanted = match (word, expected) {
            (_, Some(bytes)) => bytes,
            (">", None) => encode(rest, true),
            ("<", None) => encode(rest, false),
            _ => Vec::new(),
        };
        if wanted != b"-" {
            assert_eq!(show(&got), show(&wanted), "{place}: {line}");
        }
        let seen: Vec<String> = conversation.facts.drain(..).collect();
        assert_eq!(seen, facts, "{place}: facts of {line}");
    }
}

fn policy(name: &str) -> Policy {
    let rule = match name {
        "open" => "",
        "refuse-ddl" => "[[rule]]\nname = \"no-ddl\"\nclass = \"ddl\"\naction = \"refuse\"\n",
        "refuse-write" => "[[rule]]\nname = \"no-write\"\nclass = \"write\"\naction = \"refuse\"\n",
        "refuse-opaque" => "[[rule]]\nname = \"no-do\"\nclass = \"opaque\"\naction = \"refuse\"\n",
        other => panic!("what is the policy {other:?}?"),
    };
    let config = Config::parse(rule, "test.toml").unwrap();
    config.policy(&config.branches(&[]), &[])
}

impl Conversation {
    fn new() -> Self {
        Self {
            session: engine::session(),
            classifier: Classifier::new(1 << 20),
            policy: Policy::default(),
            recording: Cell::new(READY),
            intended: Intended::Written,
            limits: LIMITS,
            up: Pipe::default(),
            down: Pipe::default(),
            facts: Vec::new(),
        }
    }

    fn client(&mut self, bytes: &[u8], chunk: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in bytes.chunks(chunk) {
            feed(&mut self.up, piece);
            loop {
                let mut fx = Effects::default();
                let recording = self.recording.get();
                let recording_now = || recording;
                let env = env(&self.policy, &recording_now, self.limits);
                let next = self.session.from_client(&mut self.up, &env, &mut self.classifier, &mut fx).unwrap();
                let intent = fx.intent.is_some();
                self.note(fx);
                if next == Next::Read {
                    break;
                }
                if intent {
                    self.session.intent_answered(self.intended.clone());
                } else {
                    self.session.recorder_answered(recording);
                }
            }
            out.extend(drain(&mut self.up));
        }
        out
    }

    fn server(&mut self, tag: &[u8], body: &[u8], chunk: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::put(&mut bytes, tag[0], |out| out.extend_from_slice(body));
        let mut out = Vec::new();
        for piece in bytes.chunks(chunk) {
            feed(&mut self.down, piece);
            let mut fx = Effects::default();
            let env = env(&self.policy, &|| READY, self.limits);
            self.session.from_server(&mut self.down, &env, &mut fx).unwrap();
            self.note(fx);
            out.extend(drain(&mut self.down));
        }
        out
    }

    fn end(&mut self) {
        let mut fx = Effects::default();
        self.session.ended(Instant::now(), &mut fx);
        self.note(fx);
    }

    fn note(&mut self, fx: Effects) {
        if let Some(intent) = fx.intent {
            self.facts.push(format!("intent {}", intent.tag));
        }
        for (_, told) in fx.settled {
            self.facts.push(match told {
                Told::Applied => "settled applied".into(),
                Told::Failed { sqlstate, .. } => format!("settled failed {sqlstate}").trim_end().into(),
                Told::Nothing => "settled by looking".into(),
            });
        }
        for prepared in fx.prepared {
            self.facts.push(format!("prepared {} x{}", prepared.gid, prepared.statements.len()));
        }
        if fx.prepared_ended {
            self.facts.push("some prepared transaction ended".into());
        }
        for fact in fx.facts {
            assert!(fact.duration < Duration::from_secs(60), "durations count from the statement's arrival");
            let state = fact.sqlstate.as_deref().map(|state| format!(" {state}")).unwrap_or_default();
            let tag = if fact.tag.is_empty() { "?" } else { fact.tag };
            self.facts.push(format!("{} {tag}{state}", fact.outcome.as_str()));
        }
    }
}

/// One message from its line.
fn encode(line: &str, from_client: bool) -> Vec<u8> {
    if line == "-" {
        return b"-".to_vec();
    }
    if line == "nothing" {
        return Vec::new();
    }
    let (tag, rest) = line.split_once(' ').unwrap_or((line, ""));
    let tag = tag.as_bytes()[0];
    let mut out = Vec::new();
    let text = |body: &mut Vec<u8>, text: &str| {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    };
    if !from_client && tag == b'E' {
        // E 42501 message | detail | hint | context
        let (state, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut parts = rest.split(" | ");
        let message = parts.next().unwrap_or("");
        error::put(
            &mut out,
            b"ERROR",
            error::Text { sqlstate: state, message, detail: parts.next(), hint: parts.next() },
        );
        if let Some(context) = parts.next() {
            out.pop();
            out.push(b'W');
            text(&mut out, context);
            out.push(0);
            let length = u32::try_from(out.len() - 1).unwrap();
            out[1..5].copy_from_slice(&length.to_be_bytes());
        }
        return out;
    }
    frame::put(&mut out, tag, |body| match (from_client, tag) {
        (true, b'Q') | (false, b'C') => text(body, rest),
        (true, b'P') => {
            let (name, sql) = rest.split_once('|').unwrap();
            text(body, name);
            text(body, sql);
            body.extend_from_slice(&[0, 0]);
        }
        (true, b'B') => {
            let (portal, name) = rest.split_once('|').unwrap();
            text(body, &portal.replace("<long>", &"p".repeat(70_000)));
            text(body, name);
            body.extend_from_slice(&[0; 6]);
        }
        (true, b'E') => {
            text(body, rest);
            body.extend_from_slice(&[0; 4]);
        }
        (true, b'D' | b'C') => {
            let (kind, name) = rest.split_once('|').unwrap();
            body.extend_from_slice(kind.as_bytes());
            text(body, name);
        }
        (false, b'S') => rest.split('=').for_each(|part| text(body, part)),
        (false, b'Z') => body.extend_from_slice(rest.as_bytes()),
        (_, b'd') => body.extend_from_slice(rest.as_bytes()),
        (false, b'G' | b'H' | b'W') => body.extend_from_slice(&[0, 0, 0]),
        _ => assert_eq!(rest, "", "{line}"),
    });
    out
}

fn show(bytes: &[u8]) -> String {
    bytes.iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '·' }).collect()
}
