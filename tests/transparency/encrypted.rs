//! The same conversations with TLS on one leg or on both.

use std::sync::OnceLock;

use super::talk::{Cut, Road, Talk, difference, hold};
use super::{BRANCH, INJECTED, UNMANAGED, conversations, prepare};
use crate::support::{self, Certs, Pg, PgServer, Proxy};

/// A server with TLS, and a proxy for each way to reach it.
struct Place {
    server: PgServer,
    /// What goes to the server, and the proxy that takes it there.
    proxies: Vec<(Leg, Proxy)>,
    tls: Road,
    direct: Road,
    _certs: Certs,
}

/// How the proxy reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    Plain,
    Tls,
    Direct,
}

impl Leg {
    fn keys(self) -> &'static str {
        match self {
            Self::Plain => "sslmode = \"disable\"",
            Self::Tls => "sslmode = \"require\"",
            Self::Direct => "sslmode = \"require\"\nsslnegotiation = \"direct\"",
        }
    }
}

impl Place {
    fn of(version: Pg) -> &'static Self {
        static PLACES: [OnceLock<Place>; 64] = [const { OnceLock::new() }; 64];
        PLACES[version.0 as usize].get_or_init(|| {
            let certs = Certs::new();
            let server = PgServer::with(version).tls(&certs, "server").config("wal_level = logical").start();
            let branches = prepare(&server);
            let mut legs = vec![Leg::Plain, Leg::Tls];
            legs.extend((version >= Pg::V17).then_some(Leg::Direct));
            // SCRAM ties a login to TLS; where the server asks for nothing, as here, the mode makes no difference to see.
            let start = |leg: Leg| {
                let listen = format!("[auth]\nmode = \"scram\"\n[listen.tls]\n{}", certs.listen("allow"));
                Proxy::start(&server, &format!("{listen}[upstream]\ndbname = \"app\"\n{}\n{branches}", leg.keys()))
            };
            let proxies = legs.into_iter().map(|leg| (leg, start(leg))).collect();
            let (tls, direct) = (Road::Tls(certs.rustls(None, false)), Road::Direct(certs.rustls(None, true)));
            Self { server, proxies, tls, direct, _certs: certs }
        })
    }

    /// From a client's road through a leg to the server, and what it is compared with.
    fn ways(&self) -> impl Iterator<Item = (&Road, &Road, Leg, &Proxy)> {
        self.proxies.iter().flat_map(|(leg, proxy)| {
            let ways = match leg {
                Leg::Plain => vec![(&self.tls, &self.tls)],
                // Before 17 there is no direct TLS to compare with; what is said in it is the same all the same.
                Leg::Tls if self.server.version < Pg::V17 => {
                    vec![(&Road::Plain, &Road::Plain), (&self.tls, &self.tls), (&self.direct, &self.tls)]
                }
                Leg::Tls => vec![(&Road::Plain, &Road::Plain), (&self.tls, &self.tls)],
                Leg::Direct => vec![(&self.direct, &self.direct)],
            };
            ways.into_iter().map(move |(client, direct)| (client, direct, *leg, proxy))
        })
    }
}

/// Conversations that are none over these roads. A plain client that is given TLS and goes on without it: each TLS library has
/// its own last words for that. A client that asks for TLS a second time and takes the first byte of the error for an answer.
/// And what may be asked within direct TLS, where the server has none.
fn is_absurd(conversation: &str, client: &Road, direct: &Road) -> bool {
    match (client, direct) {
        (Road::Direct(_), Road::Direct(_)) => false,
        (Road::Plain | Road::Direct(_), _) => ["encryption_then_startup", "encryption_twice"].contains(&conversation),
        (Road::Tls(_), _) => conversation == "encryption_then_startup",
    }
}

fn all_the_same(group: &str, cuts: &[Cut]) {
    let conversations = conversations::GROUPS.iter().find(|(name, _)| *name == group).expect("a group").1;
    let mut problems = Vec::new();
    for place in support::versions().into_iter().map(Place::of) {
        let branch = (format!("{BRANCH}_{group}"), format!("{BRANCH}/{group}"));
        let injected = (format!("{INJECTED}_{group}"), format!("{BRANCH}/{group}_inj"));
        let unmanaged = (format!("{UNMANAGED}_{group}"), format!("{UNMANAGED}_{group}"));
        for (database, through) in [branch, injected, unmanaged] {
            for conversation in conversations {
                for (client, direct, leg, proxy) in place.ways() {
                    if is_absurd(conversation.name, client, direct) {
                        continue;
                    }
                    let mut talk = Talk::open(place.server.address, direct, Cut::Whole, &database, &database);
                    let heard = hold(&mut talk, conversation);
                    drop(talk);
                    let vain = heard.iter().any(|message| message.tag == b'!');
                    assert!(!vain, "{}, {}: the server itself was silent", conversation.name, direct.name());
                    for cut in cuts {
                        let mut talk = Talk::open(proxy.clients, client, *cut, &database, &through);
                        if let Some(problem) = difference(&heard, &hold(&mut talk, conversation)) {
                            let (name, version) = (conversation.name, place.server.version.0);
                            let way = format!("{} client, {leg:?} server", client.name());
                            problems.push(format!("{name} on {version} in {through}, {way}, {cut:?}: {problem}"));
                        }
                    }
                }
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn startup_is_the_same_over_tls() {
    all_the_same("startup", &[Cut::Whole, Cut::Bytes]);
}

#[test]
fn simple_queries_are_the_same_over_tls() {
    all_the_same("simple", &[Cut::Whole, Cut::Random(7)]);
}

#[test]
fn extended_queries_are_the_same_over_tls() {
    all_the_same("extended", &[Cut::Whole, Cut::Random(11)]);
}

#[test]
fn copy_is_the_same_over_tls() {
    all_the_same("copy", &[Cut::Whole, Cut::Bytes]);
}

#[test]
fn large_copies_are_the_same_over_tls() {
    all_the_same("big", &[Cut::Whole]);
}

#[test]
fn the_rest_is_the_same_over_tls() {
    all_the_same("rest", &[Cut::Whole]);
}

#[test]
fn replication_is_the_same_over_tls() {
    all_the_same("replication", &[Cut::Whole]);
}

#[test]
fn statements_in_other_encodings_pass_as_they_are_over_tls() {
    all_the_same("encodings", &[Cut::Whole]);
}
