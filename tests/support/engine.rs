//! The session engine without sockets: what the tests and the fuzz checks share that give it bytes by hand.
#![allow(dead_code, reason = "each of them uses a part")]

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use pggit_proxy::change::{Capture, Key, Means, Recording, SessionFacts};
use pggit_proxy::policy::Policy;
use pggit_proxy::session::{Env, Limits, Session};
use pggit_proxy::wire::pipe::Pipe;

/// Event triggers record.
pub const READY: Recording = ready(Capture::Trigger);

/// The history can be written, in this way.
pub const fn ready(capture: Capture) -> Recording {
    Recording::Ready(Means { capture, key: Key([7; 64]) })
}

/// Bounds that no test reaches unawares.
pub const LIMITS: Limits = Limits { max_statement_parse: 1 << 20, max_prepared: 100, max_logged_sql: 1000 };

/// A session of `ann` on branch `main`, with its server connected and not yet logged in.
pub fn session() -> Session {
    let facts = SessionFacts {
        id: uuid::Uuid::nil(),
        user: "ann".into(),
        database: "app".into(),
        branch: Some("main".into()),
        client_addr: None,
        client_port: 0,
        rerouted: None,
    };
    Session::new(Arc::new(facts), "test".into(), [7; 32], false, Instant::now())
}

/// What the driver would tell the session now.
pub fn env<'a>(policy: &'a Policy, recording: &'a dyn Fn() -> Recording, limits: Limits) -> Env<'a> {
    Env {
        policy,
        recording,
        broken_because: &|| "the test says so".into(),
        now: Instant::now(),
        wall: SystemTime::now,
        new_id: uuid::Uuid::nil,
        limits,
    }
}

/// Bytes as if they had been read.
pub fn feed(pipe: &mut Pipe, bytes: &[u8]) {
    while pipe.room().len() < bytes.len() {
        pipe.grow();
    }
    pipe.room()[..bytes.len()].copy_from_slice(bytes);
    pipe.filled(bytes.len());
}

/// What goes out, as if it had been written.
pub fn drain(pipe: &mut Pipe) -> Vec<u8> {
    let out = pipe.outgoing().to_vec();
    pipe.wrote(out.len());
    out
}
