//! What relaying costs: the engine allocates nothing for plain traffic, once a session is under way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/counting.rs"]
mod counting;
#[path = "support/engine.rs"]
mod engine;

use counting::allocations;
use engine::{LIMITS, READY, feed};
use pggit_proxy::policy::Policy;
use pggit_proxy::session::{Effects, Env, Next, Session};
use pggit_proxy::sql::Classifier;
use pggit_proxy::wire::{frame, pipe::Pipe};

/// A session that is logged in, with buffers as the driver lends them.
struct Relay {
    session: Session,
    classifier: Classifier,
    policy: Policy,
    up: Pipe,
    down: Pipe,
    fx: Effects,
    answered: usize,
}

impl Relay {
    fn new() -> Self {
        let mut up = Pipe::default();
        up.put_buffer(vec![0; 16 << 10].into_boxed_slice());
        let mut down = Pipe::default();
        down.put_buffer(vec![0; 128 << 10].into_boxed_slice());
        let mut relay = Self {
            session: engine::session(),
            classifier: Classifier::new(1 << 20),
            policy: Policy::default(),
            up,
            down,
            fx: Effects::default(),
            answered: 0,
        };
        relay.server(&message(b'Z', b"I"));
        relay
    }

    fn client(&mut self, bytes: &[u8]) {
        feed(&mut self.up, bytes);
        let env = env(&self.policy);
        let next = self.session.from_client(&mut self.up, &env, &mut self.classifier, &mut self.fx).unwrap();
        assert_eq!(next, Next::Read);
        pass_on(&mut self.up);
        self.take_effects();
    }

    fn server(&mut self, bytes: &[u8]) {
        feed(&mut self.down, bytes);
        self.session.from_server(&mut self.down, &env(&self.policy), &mut self.fx).unwrap();
        pass_on(&mut self.down);
        self.take_effects();
    }

    /// As the driver does: emptied, not dropped.
    fn take_effects(&mut self) {
        self.answered += self.fx.statements.drain(..).count();
        self.fx.verdicts.clear();
        self.fx.facts.clear();
    }

    /// Allocations of `times` rounds, after one that may fill tables and caches.
    fn rounds(&mut self, times: usize, mut round: impl FnMut(&mut Self)) -> usize {
        round(self);
        allocations(|| (0..times).for_each(|_| round(self))).0
    }
}

fn env(policy: &Policy) -> Env<'_> {
    engine::env(policy, &|| READY, LIMITS)
}

fn pass_on(pipe: &mut Pipe) {
    pipe.wrote(pipe.outgoing().len());
    assert!(pipe.is_empty());
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, tag, |to| to.extend_from_slice(body));
    out
}

#[test]
fn a_hundred_thousand_rows_allocate_nothing() {
    let mut relay = Relay::new();
    relay.client(&message(b'Q', b"select * from t\0"));
    relay.server(&message(b'T', b"\0\0"));
    let row = message(b'D', &[b'x'; 100]);
    let burst: Vec<u8> = row.repeat(1000);
    let count = relay.rounds(100, |relay| relay.server(&burst));
    assert_eq!(count, 0);
    // Cut anywhere.
    let count = relay.rounds(10, |relay| burst.chunks(997).for_each(|piece| relay.server_part(piece)));
    assert_eq!(count, 0);
    relay.server(&[message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat());
    assert_eq!(relay.answered, 1);
}

impl Relay {
    /// Some bytes; what is not judged stays for the next.
    fn server_part(&mut self, bytes: &[u8]) {
        feed(&mut self.down, bytes);
        self.session.from_server(&mut self.down, &env(&self.policy), &mut self.fx).unwrap();
        self.down.wrote(self.down.outgoing().len());
        self.take_effects();
    }
}

#[test]
fn copy_data_allocates_nothing() {
    let mut relay = Relay::new();
    relay.client(&message(b'Q', b"copy t from stdin\0"));
    relay.server(&message(b'G', b"\0\0\0"));
    let burst = message(b'd', &[b'x'; 50]).repeat(200);
    assert_eq!(relay.rounds(100, |relay| relay.client(&burst)), 0);
}

#[test]
fn a_simple_query_allocates_nothing() {
    for text in
        ["select 1", "insert into t values (1)", "begin", "commit", "set work_mem = '1MB'", "select 1; select 2"]
    {
        let mut relay = Relay::new();
        let query = message(b'Q', format!("{text}\0").as_bytes());
        let answer = [message(b'C', b"DONE\0"), message(b'Z', b"I")].concat();
        let count = relay.rounds(1000, |relay| {
            relay.client(&query);
            relay.server(&answer);
        });
        assert_eq!(relay.answered, 1001, "{text}");
        // What ends a transaction is kept, for the outcome of what the statement log holds.
        assert_eq!(count, if text == "commit" { 1000 } else { 0 }, "{text}");
    }
}

#[test]
fn an_extended_query_allocates_nothing() {
    let mut relay = Relay::new();
    let question = [
        message(b'P', b"\0select $1\0\0\0"),
        message(b'B', b"\0\0\0\0\0\x01\0\0\0\x011\0\0"),
        message(b'D', b"P\0"),
        message(b'E', b"\0\0\0\0\0"),
        message(b'S', b""),
    ]
    .concat();
    let answer = [
        message(b'1', b""),
        message(b'2', b""),
        message(b'T', b"\0\0"),
        message(b'D', b"\0\0"),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
    ]
    .concat();
    let count = relay.rounds(1000, |relay| {
        relay.client(&question);
        relay.server(&answer);
    });
    assert_eq!((count, relay.answered), (0, 1001));
}

#[test]
fn a_prepared_statement_allocates_nothing() {
    let mut relay = Relay::new();
    relay.client(&[message(b'P', b"s1\0select $1\0\0\0"), message(b'S', b"")].concat());
    relay.server(&[message(b'1', b""), message(b'Z', b"I")].concat());
    let question =
        [message(b'B', b"\0s1\0\0\0\0\x01\0\0\0\x011\0\0"), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat();
    let answer =
        [message(b'2', b""), message(b'D', b"\0\0"), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat();
    let count = relay.rounds(1000, |relay| {
        relay.client(&question);
        relay.server(&answer);
    });
    assert_eq!((count, relay.answered), (0, 1001));
}

#[test]
fn a_deep_pipeline_allocates_nothing_once_it_has_been_as_deep() {
    let mut relay = Relay::new();
    let questions = message(b'Q', b"select 1\0").repeat(500);
    let answers = [message(b'D', b"\0\0"), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat().repeat(500);
    let count = relay.rounds(20, |relay| {
        relay.client(&questions);
        relay.server(&answers);
    });
    assert_eq!((count, relay.answered), (0, 21 * 500));
}
