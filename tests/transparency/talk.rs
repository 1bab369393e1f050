//! A client that keeps what it hears, over any road.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::conversations::Conversation;
use crate::support::rng::Rng;
use crate::support::{self, Message, Wire, wire};

/// How a client comes.
#[derive(Clone, Debug)]
pub(super) enum Road {
    Plain,
    /// After an SSLRequest.
    Tls(Arc<rustls::ClientConfig>),
    /// TLS from the first byte.
    Direct(Arc<rustls::ClientConfig>),
}

impl Road {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls(_) => "TLS",
            Self::Direct(_) => "direct TLS",
        }
    }

    fn open(&self, address: SocketAddr) -> Wire {
        match self {
            Self::Plain => Wire::open(address),
            Self::Tls(config) => Wire::open_tls(address, config).unwrap(),
            Self::Direct(config) => {
                let mut wire = Wire::open(address);
                wire.start_tls(config).unwrap();
                wire
            }
        }
    }
}

/// How a client's bytes are cut.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    /// Each write as it is.
    Whole,
    /// One byte at a time.
    Bytes,
    /// Random pieces.
    Random(u64),
}

/// A conversation under way: what is sent goes out in pieces, what is read is kept.
pub(super) struct Talk {
    wire: Wire,
    address: SocketAddr,
    road: Road,
    cut: Cut,
    /// The database's own name, for names that are shared by a whole server.
    pub(super) label: String,
    /// As it is called from here.
    pub(super) database: String,
    pub(super) heard: Vec<Message>,
}

impl Talk {
    pub(super) fn open(address: SocketAddr, road: &Road, cut: Cut, label: &str, database: &str) -> Self {
        let wire = road.open(address);
        wire.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (road, label, database) = (road.clone(), label.to_owned(), database.to_owned());
        Self { wire, address, road, cut, label, database, heard: Vec::new() }
    }

    /// Sends; the other side may have hung up already.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let mut rng = Rng(1);
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = match self.cut {
                Cut::Whole => rest.len(),
                Cut::Bytes => 1,
                Cut::Random(seed) => {
                    rng.0 ^= seed;
                    1 + rng.below(40)
                }
            };
            let (piece, after) = rest.split_at(n.min(rest.len()));
            if self.wire.try_send(piece).is_err() {
                return;
            }
            rest = after;
        }
    }

    /// Sends, and reads up to ReadyForQuery.
    pub(super) fn ask(&mut self, bytes: &[u8]) {
        self.send(bytes);
        self.until(b'Z');
    }

    pub(super) fn query(&mut self, sql: &str) {
        self.ask(&wire::query(sql));
    }

    /// Reads up to a message of this kind.
    pub(super) fn until(&mut self, tag: u8) {
        let messages = self.wire.read_until(tag);
        self.heard.extend(messages);
    }

    /// Reads up to where the other side closes.
    pub(super) fn end(&mut self) {
        let messages = self.wire.read_to_end();
        self.heard.extend(messages);
    }

    /// The one-byte answer to a request for encryption, kept as a message.
    pub(super) fn byte(&mut self) {
        let byte = self.wire.read_bytes(1).expect("an answer");
        self.heard.push(Message { tag: byte[0], body: Vec::new() });
    }

    pub(super) fn shut_writing(&mut self) {
        self.wire.shut_writing();
    }

    /// A second client of the same place; what it hears is its own.
    pub(super) fn another(&self, database: &str) -> Wire {
        let mut wire = self.road.open(self.address);
        wire.log_in(wire::V3_0, &[("user", "postgres"), ("database", database)]);
        wire
    }

    /// The process id of the last BackendKeyData, and its secret.
    pub(super) fn key(&self) -> (u32, Vec<u8>) {
        let body = &self.heard.iter().rfind(|message| message.tag == b'K').expect("a key").body;
        (u32::from_be_bytes(body[..4].try_into().unwrap()), body[4..].to_vec())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Holds a conversation; what was heard, without what differs from one time to the next.
pub(super) fn hold(talk: &mut Talk, conversation: &Conversation) -> Vec<Message> {
    let database = talk.database.clone();
    let talking = AssertUnwindSafe(|| (conversation.talk)(talk, &database));
    if catch_unwind(talking).is_err() {
        // It waited in vain, most likely; what came before is compared all the same.
        talk.heard.push(Message { tag: b'!', body: conversation.name.into() });
    }
    let mut heard = support::normalised(&talk.heard);
    heard.iter_mut().filter(|message| message.tag == b'T').for_each(without_oids);
    heard
}

pub(super) fn difference(direct: &[Message], through: &[Message]) -> Option<String> {
    if direct == through {
        return None;
    }
    let at = direct.iter().zip(through).take_while(|(a, b)| a == b).count();
    let three = |messages: &[Message]| format!("{:?}", messages.iter().skip(at).take(3).collect::<Vec<_>>());
    Some(format!("message {at} differs\ndirect:  {}\nthrough: {}", three(direct), three(through)))
}

/// A table that was made anew has another number.
fn without_oids(message: &mut Message) {
    let mut at = 2;
    while let Some(end) = message.body.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == 0)) {
        at += end + 1;
        message.body[at..at + 4].fill(0);
        at += 18;
    }
}
