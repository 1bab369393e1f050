//! Whatever a client sends, it harms itself only: the proxy lives, forgets it, stays small, and serves the others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use support::rng::Rng;
use support::{PATIENCE, PgServer, Proxy, Wire, wire};

fn server() -> &'static PgServer {
    static SERVER: OnceLock<PgServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = PgServer::start(*support::versions().last().unwrap());
        server.create_database("app");
        support::migrate(&server, "app");
        server
    })
}

fn proxy(config: &str) -> Proxy {
    Proxy::start(server(), &format!("[upstream]\ndbname = \"app\"\n{config}"))
}

/// A proxy and a client that must be served whatever the others do.
struct Watch {
    proxy: Proxy,
    witness: Wire,
    resident: u64,
}

impl Watch {
    fn new(config: &str) -> Self {
        let proxy = proxy(config);
        let mut witness = proxy.connect("app");
        witness.value("select 1");
        let resident = proxy.resident_bytes();
        Self { proxy, witness, resident }
    }

    fn still_serves(&mut self) {
        assert_eq!(self.witness.value("select 1"), "1");
    }

    /// Everybody but the witness is forgotten, and the memory is given back.
    fn ends_as_before(mut self, more: u64) {
        self.still_serves();
        let alone = || self.proxy.control("SHOW CLIENTS").lines().count() == 1;
        assert!(support::eventually(PATIENCE, alone), "{}", self.proxy.control("SHOW CLIENTS"));
        let grown = self.proxy.resident_bytes().saturating_sub(self.resident);
        assert!(grown < more, "{grown} bytes more");
        assert_eq!(self.proxy.connect("app").value("select 2"), "2");
        let log = self.proxy.log();
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// Sends, hangs up, and reads what comes: nothing that is sent may fail the test.
fn say(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy.clients).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn login() -> Vec<u8> {
    wire::startup(wire::V3_0, &[("user", "postgres"), ("database", "app")])
}

#[test]
fn garbage_instead_of_a_startup_packet() {
    let mut watch = Watch::new("");
    let mut rng = Rng(99);
    let mut packets = vec![
        Vec::new(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        b"\0\0\0\x08\x04\xd2\x16\x2e".to_vec(),
        b"\x7f\xff\xff\xff\0\x03\0\0".to_vec(),
        b"\x80\0\0\0\0\x03\0\0".to_vec(),
        b"\0\0\x27\x15\0\x03\0\0".to_vec(),
        wire::untagged(&[b"\0\x03\0\0user\0postgres\0".as_slice(), &[b'x'; 20_000]].concat()),
        wire::untagged(b"\0\x03\0\0user\0\xff\xfe\0database\0\xc3\0application_name\0\xf0\x9f\0\0"),
        wire::untagged(b"\0\x03\0\0user\0postgres\0database\0app/\xff\0\0"),
        wire::untagged(b"\0\x03\0\0user\0postgres\0options\0-c\xffpggit.branch=\xfe\\\0\0"),
        wire::untagged(b"\0\x03\0\0\0\0"),
        wire::untagged(b"\0\x03\0\0user\0\0\0"),
        wire::cancel(0, b""),
        wire::cancel(1, &[1; 300]),
        wire::cancel(u32::MAX, &[0; 32]),
        [wire::ssl_request(), wire::ssl_request(), wire::ssl_request(), login()].concat(),
    ];
    packets.extend((0..200).map(|n| (0..n).map(|_| rng.next().to_le_bytes()[3]).collect::<Vec<u8>>()));
    for packet in packets {
        say(&watch.proxy, &packet);
        watch.still_serves();
    }
    watch.ends_as_before(16 << 20);
}

#[test]
fn startup_cut_at_every_byte() {
    let mut watch = Watch::new("");
    for packet in [login(), wire::cancel(7, &[7; 32]), wire::ssl_request()] {
        for cut in 0..packet.len() {
            say(&watch.proxy, &packet[..cut]);
        }
        watch.still_serves();
    }
    watch.ends_as_before(16 << 20);
}

fn every_message() -> Vec<Vec<u8>> {
    vec![
        wire::query("select 'one', 2; create table x_never (a int"),
        wire::parse("name", "select $1", &[25]),
        wire::bind("portal", "name", &[Some("value"), None]),
        wire::describe(b'S', "name"),
        wire::execute("portal", 5),
        wire::close(b'P', "portal"),
        wire::sync(),
        wire::flush(),
        wire::copy_data(b"1\tone\n"),
        wire::copy_done(),
        wire::copy_fail("enough"),
        wire::frame(b'F', &[0, 0, 0, 177, 0, 0, 0, 0, 0, 0]),
        wire::frame(b'p', b"secret\0"),
        wire::terminate(),
    ]
}

#[test]
fn every_message_cut_at_every_byte() {
    let mut watch = Watch::new("");
    for message in every_message() {
        for cut in 0..=message.len() {
            say(&watch.proxy, &[&login()[..], &message[..cut]].concat());
        }
        watch.still_serves();
    }
    watch.ends_as_before(16 << 20);
}

/// The answer's last error, as its SQLSTATE.
fn last_code(answer: &[u8]) -> Option<String> {
    let at = answer.windows(6).rposition(|window| window.starts_with(b"\0C"))?;
    Some(String::from_utf8_lossy(&answer[at + 2..at + 7]).into_owned())
}

#[test]
fn impossible_lengths_and_unknown_messages_are_refused() {
    let mut watch = Watch::new("");
    for tag in *b"QPBDECSHdcfFpX\0\xffz" {
        for length in [0u32, 1, 3, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let bad = [&login()[..], &wire::query("select 1"), &[tag], &length.to_be_bytes(), b"some body\0"].concat();
            let answer = say(&watch.proxy, &bad);
            assert_eq!(last_code(&answer).as_deref(), Some("08P01"), "{tag} {length}: {}", answer.escape_ascii());
            assert!(answer.windows(8).any(|window| window == b"SELECT 1"), "what came before is answered");
        }
        watch.still_serves();
    }
    watch.ends_as_before(16 << 20);
}

#[test]
fn messages_before_authentication_wait_or_are_refused() {
    let server = PgServer::with(*support::versions().last().unwrap()).auth("scram-sha-256").start();
    server.psql("postgres", "create role anna login password 'x'");
    let proxy = Proxy::start(&server, "[limits]\nlogin_timeout = \"5s\"\n");
    let before = proxy.resident_bytes();
    let login = wire::startup(wire::V3_0, &[("user", "anna"), ("database", "postgres")]);
    for message in every_message() {
        let answer = say(&proxy, &[&login[..], &message].concat());
        assert!(!answer.contains(&b'Z') || !answer.ends_with(b"Z\0\0\0\x05I"), "no session without a password");
    }
    // Nobody is read without end who has not said who he is.
    let mut hoard: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(proxy.clients).unwrap();
            stream.set_nonblocking(true).unwrap();
            let _ = stream.write(&login);
            let _ = stream.write(b"Q\0\xf0\0\0");
            stream
        })
        .collect();
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..50 {
        for stream in &mut hoard {
            let _ = stream.write(&chunk);
        }
    }
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "20 clients hold {grown} bytes");
    drop(hoard);
    assert!(support::eventually(PATIENCE, || proxy.control("SHOW CLIENTS").is_empty()));
}

#[test]
fn two_hundred_that_connect_and_say_nothing() {
    let mut watch = Watch::new("[limits]\nlogin_timeout = \"1s\"\n");
    let silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(watch.proxy.clients).unwrap()).collect();
    watch.still_serves();
    assert_eq!(watch.proxy.connect("app").value("select 1"), "1", "a newcomer is served");
    for mut stream in silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "they are shown the door");
    }
    watch.ends_as_before(16 << 20);
}

#[test]
fn startup_byte_by_byte_must_end_in_time() {
    let watch = Watch::new("[limits]\nlogin_timeout = \"1s\"\n");
    let packet = login();
    let mut stream = TcpStream::connect(watch.proxy.clients).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // Each read waits a little; the packet would take far more than the second.
    let ended = packet.iter().any(|byte| {
        let failed = stream.write_all(&[*byte]).is_err();
        failed || matches!(stream.read(&mut [0; 1]), Ok(0)) || matches!(stream.read(&mut [0; 1]), Ok(0))
    });
    assert!(ended, "slowness is no way round the timeout");
    // At a pace that fits, it is a login like any other.
    let mut slow = Wire::open(watch.proxy.clients);
    packet.iter().for_each(|byte| slow.send(&[*byte]));
    assert_eq!(slow.read_until_ready().last().unwrap().tag, b'Z');
    drop(slow);
    drop(stream);
    watch.ends_as_before(16 << 20);
}

#[test]
fn clients_that_stop_reading() {
    let mut watch = Watch::new("");
    let stuck: Vec<Wire> = (0..10)
        .map(|_| {
            let mut client = watch.proxy.connect("app");
            client.send(&wire::query("select repeat('x', 1000) from generate_series(1, 1000000)"));
            client
        })
        .collect();
    // Until the server stands still: nobody takes its rows.
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'ClientWrite'";
    let mut look = Wire::connect(server().address, &[("user", "postgres")]);
    assert!(support::eventually(PATIENCE, || look.value(waiting) == "10"));
    watch.still_serves();
    let grown = watch.proxy.resident_bytes().saturating_sub(watch.resident);
    assert!(grown < 32 << 20, "10 clients that do not read hold {grown} bytes");
    drop(stuck);
    watch.ends_as_before(32 << 20);
}

/// Thousands of conversations with mistakes: bytes changed, lost, doubled; messages out of order; cut anywhere.
#[test]
fn mutated_conversations() {
    mutate_under("", 700);
}

/// The same where statements are held until what came before them is answered: nobody waits for ever.
#[test]
fn mutated_conversations_under_rules_that_hold_statements() {
    for action in ["queue", "reroute\"\nto = \"nowhere"] {
        mutate_under(&format!("[[rule]]\nname = \"r\"\nclass = [\"ddl\", \"role\"]\naction = \"{action}\"\n"), 250);
    }
}

fn mutate_under(rules: &str, times: u64) {
    let mut watch = Watch::new(&format!("{rules}[limits]\nlogin_timeout = \"5s\"\n"));
    let threads: Vec<_> = (1..=4)
        .map(|thread: u64| {
            let address = watch.proxy.clients;
            std::thread::spawn(move || (0..times).for_each(|n| mutated(address, thread << 32 | (n + 1))))
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        watch.still_serves();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    watch.ends_as_before(48 << 20);
}

fn mutated(address: std::net::SocketAddr, seed: u64) {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut messages = every_message();
    messages.extend([
        wire::query("begin"),
        wire::query("selct"),
        wire::query("copy (select 1) to stdout"),
        wire::query("create temp table copied (a int, b text); copy copied from stdin"),
        wire::query("set statement_timeout = 1000; discard all"),
        wire::extended("create temp table x_m (a int)", &[]),
        wire::extended("select $1::int", &[Some("1")]),
        wire::query("set pggit.branch = 'x'"),
        wire::query("commit"),
    ]);
    let mut bytes = if rng.below(20) == 0 { Vec::new() } else { login() };
    if rng.below(10) == 0 {
        mutate(&mut bytes, &mut rng);
    }
    for _ in 0..rng.below(12) {
        let mut message = messages[rng.below(messages.len())].clone();
        if rng.below(4) == 0 {
            mutate(&mut message, &mut rng);
        }
        bytes.extend(message);
    }
    if rng.below(2) == 0 {
        bytes.extend(wire::sync());
    }
    let Ok(mut stream) = TcpStream::connect(address) else { panic!("the proxy takes no clients any more") };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let piece = [usize::MAX, 1 + rng.below(50)][rng.below(2)];
    let _ = bytes.chunks(piece).try_for_each(|piece| stream.write_all(piece));
    match rng.below(3) {
        // Gone without a word, with answers unread.
        0 => {}
        // Reads a little first.
        1 => drop(stream.read(&mut [0; 100])),
        _ => {
            let _ = stream.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
        }
    }
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.below(bytes.len());
    match rng.below(6) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes[at] = rng.next().to_le_bytes()[2],
        2 => drop(bytes.remove(at)),
        3 => bytes.insert(at, 0),
        4 => bytes.truncate(at),
        _ => bytes.extend_from_within(at..),
    }
}
