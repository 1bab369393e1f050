//! Crowds and sloths: five thousand at once, slowness at every stage, peers that are gone and do not say so. They cost
//! bounded memory, and nobody else his time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::repository::repository;
use support::wire::{self, V3_0, query, startup};
use support::{PATIENCE, PgServer, Proxy, Wire, eventually, migrate, versions};

/// What a connection may cost while nobody is logged in on it: the task, the entry in SHOW CLIENTS, the kernel's part
/// not counted. `docs/ARCHITECTURE.md` states it.
const EACH: u64 = 4 << 10;

/// What the rest may grow by meanwhile: the allocator's reserves.
const SLACK: u64 = 8 << 20;

fn login(database: &str) -> Vec<u8> {
    startup(V3_0, &[("user", "postgres"), ("database", database)])
}

/// Both processes need a descriptor for each connection; the proxy inherits the bound.
fn room_for(descriptors: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard >= descriptors, "`ulimit -Hn` has to be at least {descriptors}, not {hard}");
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(1 << 16), hard).unwrap();
}

/// How long one statement takes at most, out of so many; nobody else may make it long.
fn slowest(witness: &mut Wire, times: usize) -> Duration {
    let one = |_| {
        let began = Instant::now();
        assert_eq!(witness.value("select 1"), "1");
        began.elapsed()
    };
    (0..times).map(one).max().unwrap()
}

#[test]
fn five_thousand_at_once() {
    const CROWD: u32 = 5000;
    room_for(u64::from(CROWD) + 1000);
    let server = PgServer::shared(*versions().last().unwrap());
    let (database, proxy) = repository(server, "[listen]\nmax_clients = 6000\n");
    let mut witness = proxy.connect(&database);
    slowest(&mut witness, 20);
    let before = proxy.resident_bytes();
    // Half have said nothing, half are in the middle of their start-up packet.
    let packet = login(&database);
    let mut crowd: Vec<TcpStream> = (0..CROWD)
        .map(|n| {
            let mut stream = TcpStream::connect(proxy.clients).unwrap();
            if n % 2 == 0 {
                stream.write_all(&packet[..packet.len() / 2]).unwrap();
            }
            stream
        })
        .collect();
    let stat = || proxy.control("show stats value where name = 'clients'");
    assert!(eventually(PATIENCE, || stat() == (CROWD + 1).to_string()), "{}", stat());
    let each = proxy.resident_bytes().saturating_sub(before) / u64::from(CROWD);
    assert!(each < EACH, "{each} bytes for each");
    let slowest = slowest(&mut witness, 200);
    assert!(slowest < Duration::from_secs(2), "{slowest:?} for one statement");
    assert_eq!(proxy.connect(&database).value("select 1"), "1", "a newcomer is served");

    // All at once they leave, and the memory comes back for the next.
    crowd.clear();
    assert!(eventually(PATIENCE, || stat() == "1"), "{}", stat());
    let left = proxy.resident_bytes();
    for _ in 0..3 {
        crowd.extend((0..CROWD).map(|_| TcpStream::connect(proxy.clients).unwrap()));
        assert!(eventually(PATIENCE, || stat() == (CROWD + 1).to_string()), "{}", stat());
        crowd.clear();
        assert!(eventually(PATIENCE, || stat() == "1"), "{}", stat());
    }
    let more = proxy.resident_bytes().saturating_sub(left);
    assert!(more < SLACK, "{more} bytes more after three more crowds");
    assert_eq!(witness.value("select 2"), "2");
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
}

#[test]
fn five_thousand_where_a_thousand_may_be() {
    const CROWD: u32 = 5000;
    room_for(u64::from(CROWD) + 1000);
    let server = PgServer::shared(*versions().last().unwrap());
    let (database, proxy) = repository(server, "[listen]\nmax_clients = 1000\n");
    let mut witness = proxy.connect(&database);
    let before = proxy.resident_bytes();
    let crowd: Vec<TcpStream> = (0..CROWD).map(|_| TcpStream::connect(proxy.clients).unwrap()).collect();
    let stat = || proxy.control("show stats value where name = 'clients'");
    assert!(eventually(PATIENCE, || stat() == "1000"), "{}", stat());
    let more = proxy.resident_bytes().saturating_sub(before);
    assert!(more < u64::from(CROWD) * EACH, "{more} bytes more");
    // One who says who he is hears why he cannot come in; who is in is served.
    match Wire::try_connect(proxy.clients, V3_0, &[("user", "postgres"), ("database", &database)]) {
        Ok(_) => panic!("let in"),
        Err(messages) => assert_eq!(messages.last().unwrap().field(b'C').as_deref(), Some("53300")),
    }
    assert_eq!(witness.value("select 1"), "1");
    drop(crowd);
    assert!(eventually(PATIENCE, || {
        Wire::try_connect(proxy.clients, V3_0, &[("user", "postgres"), ("database", &database)]).is_ok()
    }));
}

/// What a sloth has said when it begins to be slow, for each stage of the handshake.
fn stages(database: &str) -> Vec<(&'static str, Vec<u8>)> {
    let packet = startup(V3_0, &[("user", "anna"), ("database", database)]);
    let balancer = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    vec![
        ("nothing", Vec::new()),
        ("one byte", packet[..1].to_vec()),
        ("the length", packet[..4].to_vec()),
        ("half of the packet", packet[..packet.len() / 2].to_vec()),
        ("a length that is never filled", 10_000u32.to_be_bytes().to_vec()),
        ("a request for TLS", wire::ssl_request()),
        ("two requests for encryption", [wire::gss_request(), wire::ssl_request()].concat()),
        ("a request and half of the packet", [&wire::ssl_request(), &packet[..9]].concat()),
        ("half of a cancel request", wire::cancel(7, &[7; 32])[..20].to_vec()),
        ("half of a load balancer's header", balancer),
        ("a packet, and no password", packet.clone()),
        ("a packet, and half of a message", [&packet[..], b"p\0\0"].concat()),
    ]
}

#[test]
fn slowness_at_every_stage_ends_in_time() {
    let server = PgServer::with(*versions().last().unwrap()).auth("scram-sha-256").start();
    let database = server.create_database("app");
    migrate(&server, &database);
    server.psql(&database, "create role anna login password 'x'");
    for listen in ["", "[listen]\nproxy_protocol = true\nproxy_protocol_from = \"127.0.0.1\"\n"] {
        let config = format!("[upstream]\ndbname = \"{database}\"\n[limits]\nlogin_timeout = \"1s\"\n{listen}");
        let proxy = Proxy::start(&server, &config);
        let began = Instant::now();
        let mut sloths: Vec<(&str, TcpStream)> = Vec::new();
        for (stage, said) in stages(&database) {
            for _ in 0..20 {
                let mut stream = TcpStream::connect(proxy.clients).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(&said).unwrap();
                sloths.push((stage, stream));
            }
        }
        for (stage, mut stream) in sloths {
            let mut answer = Vec::new();
            // A reset is an end, too.
            let end = stream.read_to_end(&mut answer);
            let timed_out = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            assert!(!timed_out, "{stage}: still there after {:?}", began.elapsed());
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert!(eventually(PATIENCE, || proxy.control("show clients id").is_empty()));
        let servers = "select count(*) from pg_stat_activity where application_name <> 'pggit-proxy' \
                       and backend_type = 'client backend' and pid <> pg_backend_pid()";
        assert!(eventually(PATIENCE, || server.psql(&database, servers) == "0"), "none is left on the server");
        assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    }
}

/// Clients that have shut down their writing side and are never heard of again, and some whose socket is reset.
#[test]
fn half_open_peers_leave_nothing_behind() {
    let server = PgServer::shared(*versions().last().unwrap());
    let (database, proxy) = repository(server, "[limits]\nclient_idle_timeout = \"3s\"\n");
    let before = proxy.resident_bytes();
    let mut silent = Vec::new();
    for round in 0..40 {
        let mut client = proxy.connect(&database);
        match round % 4 {
            // Asks, and shuts down: answered, then over.
            0 => {
                client.send(&query("select 1"));
                client.shut_writing();
                assert_eq!(client.read_until_ready().last().unwrap().tag, b'Z');
            }
            // Resets while the answer is on its way.
            1 => {
                client.send(&query("select repeat('x', 1000) from generate_series(1, 100000)"));
                let socket = socket2::SockRef::from(&client.stream);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
                drop(client);
                continue;
            }
            // Half a message, and nothing more: the idle timeout ends it.
            2 => client.send(&query("select 1")[..3]),
            _ => {}
        }
        silent.push(client);
    }
    assert!(eventually(PATIENCE, || proxy.control("show clients id").is_empty()), "{}", proxy.control("show clients"));
    let own = "select count(*) from pg_stat_activity where datname = current_database() \
               and application_name <> 'pggit-proxy' and pid <> pg_backend_pid()";
    assert!(eventually(PATIENCE, || server.psql(&database, own) == "0"));
    let more = proxy.resident_bytes().saturating_sub(before);
    assert!(more < 16 << 20, "{more} bytes more");
    drop(silent);
}

/// A server that takes connections and never says a word: clients wait, and no longer than they may.
#[test]
fn a_server_that_says_nothing_holds_nobody_for_ever() {
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = deaf.local_addr().unwrap();
    let proxy = Proxy::try_start(address, "[limits]\nlogin_timeout = \"500ms\"\n").unwrap();
    let mut clients: Vec<Wire> = (0..50).map(|_| Wire::open(proxy.clients)).collect();
    clients.iter_mut().for_each(|client| client.send(&login("postgres")));
    for client in &mut clients {
        let word = client.read_to_end().pop().expect("a last word");
        assert_eq!(word.field(b'C').as_deref(), Some("57014"), "{word:?}");
    }
    assert!(eventually(PATIENCE, || proxy.control("show clients id").is_empty()));
}
