//! What a client sees through the proxy is what it would see without it, byte for byte: the same conversations,
//! direct and through the proxy, on a branch and in a database that is none, in whole messages and in pieces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "transparency/conversations.rs"]
mod conversations;
#[path = "transparency/encrypted.rs"]
mod encrypted;
mod support;
#[path = "transparency/talk.rs"]
mod talk;

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use support::{Message, Pg, PgServer, Proxy, Wire, wire};
use talk::{Cut, Road, Talk, difference, hold};

/// A server with a branch and a database that is none, and the proxy before it.
struct Place {
    server: PgServer,
    proxy: Proxy,
}

/// Recorded by event triggers.
const BRANCH: &str = "app";
/// Recorded by calls added to the statements.
const INJECTED: &str = "inj";
const UNMANAGED: &str = "other";

impl Place {
    fn of(version: Pg) -> &'static Self {
        static PLACES: [OnceLock<Place>; 64] = [const { OnceLock::new() }; 64];
        PLACES[version.0 as usize].get_or_init(|| {
            let server = PgServer::with(version).config("wal_level = logical").start();
            let branches = prepare(&server);
            let proxy = Proxy::start(&server, &format!("[upstream]\ndbname = \"app\"\n{branches}"));
            Self { server, proxy }
        })
    }

    fn all() -> impl Iterator<Item = &'static Self> {
        support::versions().into_iter().map(Self::of)
    }
}

/// Makes the databases; returns the configuration of their branches.
fn prepare(server: &PgServer) -> String {
    for database in [BRANCH, INJECTED, UNMANAGED] {
        server.create_database(database);
        server.psql(database, conversations::SCHEMA);
    }
    support::migrate(server, BRANCH);
    support::migrate_without_triggers(server, INJECTED);
    let mut branches = String::new();
    for (group, _) in conversations::GROUPS {
        for database in [BRANCH, INJECTED, UNMANAGED] {
            server.psql("postgres", &format!("create database {database}_{group} template {database}"));
        }
        branches.push_str(&format!("[branches.{group}]\ndatabase = \"app_{group}\"\n"));
        branches.push_str(&format!("[branches.{group}_inj]\ndatabase = \"inj_{group}\"\n"));
    }
    branches
}

/// Each group of conversations has a branch and a database of its own.
fn all_the_same(group: &str, cuts: &[Cut]) {
    let conversations = conversations::GROUPS.iter().find(|(name, _)| *name == group).expect("a group").1;
    let mut problems = Vec::new();
    for place in Place::all() {
        let branch = (format!("{BRANCH}_{group}"), format!("{BRANCH}/{group}"));
        let injected = (format!("{INJECTED}_{group}"), format!("{BRANCH}/{group}_inj"));
        let unmanaged = (format!("{UNMANAGED}_{group}"), format!("{UNMANAGED}_{group}"));
        for (database, through) in [branch, injected, unmanaged] {
            for conversation in conversations {
                let mut talk = Talk::open(place.server.address, &Road::Plain, Cut::Whole, &database, &database);
                let heard = hold(&mut talk, conversation);
                drop(talk);
                for cut in cuts {
                    let mut talk = Talk::open(place.proxy.clients, &Road::Plain, *cut, &database, &through);
                    if let Some(problem) = difference(&heard, &hold(&mut talk, conversation)) {
                        let (name, version) = (conversation.name, place.server.version.0);
                        problems.push(format!("{name} on {version} in {through}, {cut:?}: {problem}"));
                    }
                }
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn startup_is_the_same() {
    all_the_same("startup", &[Cut::Whole, Cut::Bytes]);
}

#[test]
fn simple_queries_are_the_same() {
    all_the_same("simple", &[Cut::Whole, Cut::Bytes, Cut::Random(7)]);
}

#[test]
fn extended_queries_are_the_same() {
    all_the_same("extended", &[Cut::Whole, Cut::Bytes, Cut::Random(11)]);
}

#[test]
fn copy_is_the_same() {
    all_the_same("copy", &[Cut::Whole, Cut::Bytes, Cut::Random(13)]);
}

#[test]
fn large_copies_are_the_same() {
    all_the_same("big", &[Cut::Whole]);
}

#[test]
fn the_rest_is_the_same() {
    all_the_same("rest", &[Cut::Whole, Cut::Random(17)]);
}

#[test]
fn replication_is_the_same() {
    all_the_same("replication", &[Cut::Whole, Cut::Bytes]);
}

#[test]
fn statements_in_other_encodings_pass_as_they_are() {
    all_the_same("encodings", &[Cut::Whole, Cut::Bytes]);
}

/// The server may have GSSAPI or TLS, the proxy has neither yet.
#[test]
fn encryption_is_declined_in_any_order() {
    let place = Place::all().next().unwrap();
    for requests in [[wire::ssl_request(), wire::gss_request()], [wire::gss_request(), wire::ssl_request()]] {
        let mut client = Wire::open(place.proxy.clients);
        for request in requests {
            client.send(&request);
            assert_eq!(client.read_bytes(1).unwrap(), b"N");
        }
        client.send(&wire::startup(wire::V3_0, &[("user", "postgres"), ("database", UNMANAGED)]));
        assert_eq!(client.read_until_ready().last().unwrap().tag, b'Z');
    }
}

/// Every method with the right and a wrong password: as psql sees it.
#[test]
fn passwords_are_asked_for_as_the_server_does() {
    for version in support::versions() {
        for method in ["trust", "password", "md5", "scram-sha-256"] {
            let server = PgServer::with(version).auth(method).start();
            server.psql("postgres", "create role anna login password 'secret'; create role bob login");
            server.create_database("app");
            support::migrate(&server, "app");
            let proxy = Proxy::start(&server, "[upstream]\ndbname = \"app\"\n");
            for database in ["app", "postgres"] {
                for (user, password) in [("anna", "secret"), ("anna", "wrong"), ("bob", "x"), ("nobody_at_all", "x")] {
                    let run = |address: SocketAddr| {
                        let dsn = format!(
                            "host=127.0.0.1 port={} user={user} dbname={database} password={password}",
                            address.port()
                        );
                        let output = support::psql(&dsn, "select session_user, 1;");
                        let said = String::from_utf8_lossy(&output.stderr).replace(&address.port().to_string(), "PORT");
                        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), said)
                    };
                    assert_eq!(run(server.address), run(proxy.clients), "{method} {user} {password} {database}");
                }
            }
        }
    }
}

/// Rows and errors come when the server sends them, not with the next Sync.
#[test]
fn flush_brings_answers_without_sync() {
    for place in Place::all() {
        for database in [BRANCH, UNMANAGED] {
            let mut client = place.proxy.connect(database);
            client.send(&[wire::parse("", "select 1", &[]), wire::flush()].concat());
            assert_eq!(client.read_message().unwrap().tag, b'1');
            let rows = [wire::bind("", "", &[]), wire::execute("", 0), wire::flush()].concat();
            client.send(&rows);
            let tags: Vec<u8> = (0..3).map(|_| client.read_message().unwrap().tag).collect();
            assert_eq!(tags, b"2DC");
            client.send(&[wire::parse("", "create tabel x", &[]), wire::flush()].concat());
            assert_eq!(client.read_message().unwrap().field(b'C').unwrap(), "42601");
            // An error needs not even a Flush.
            client.send(&wire::sync());
            assert_eq!(client.read_message().unwrap().tag, b'Z');
            client.send(&wire::parse("", "select nothing from nowhere", &[]));
            assert_eq!(client.read_message().unwrap().field(b'C').unwrap(), "42P01");
            assert_eq!(client.ask(&wire::sync()).len(), 1);
        }
    }
}

/// 1 KiB requests and 16 KiB replies, the requests all under way before the first reply is read.
#[test]
fn deep_pipelines_never_stall() {
    for place in Place::all() {
        let mut client = place.proxy.connect(BRANCH);
        let text = format!("select repeat('x', 16384) /* {} */", "y".repeat(1000));
        let request = wire::extended(&text, &[]);
        let n = 1000;
        let mut writer = client.stream.try_clone().unwrap();
        let written = Arc::new(AtomicUsize::new(0));
        let count = written.clone();
        let writing = std::thread::spawn(move || {
            for _ in 0..n {
                writer.write_all(&request).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Nothing is read before the writer has run into the wall.
        let mut last = usize::MAX;
        assert!(support::eventually(support::PATIENCE, || {
            let now = written.load(Ordering::Relaxed);
            std::mem::replace(&mut last, now) == now
        }));
        for _ in 0..n {
            let tags: Vec<u8> = client.read_until_ready().iter().map(|message| message.tag).collect();
            assert_eq!(tags, b"12TDCZ");
        }
        writing.join().unwrap();
    }
}

/// The highest resident memory that the proxy ever had, in bytes.
fn peak_bytes(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).expect("kB") * 1024
}

/// Reads and throws away up to ReadyForQuery; how many bytes the messages had, and their tags in runs.
fn skim(client: &mut Wire) -> (u64, Vec<u8>) {
    use std::io::Read;
    let mut bytes = 0;
    let mut tags: Vec<u8> = Vec::new();
    let mut stream = std::io::BufReader::with_capacity(1 << 18, &client.stream);
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head).unwrap();
        let body = u64::from(u32::from_be_bytes(head[1..].try_into().unwrap())) - 4;
        assert_eq!(std::io::copy(&mut Read::by_ref(&mut stream).take(body), &mut std::io::sink()).unwrap(), body);
        bytes += body;
        if tags.last() != Some(&head[0]) {
            tags.push(head[0]);
        }
        if head[0] == b'Z' {
            return (bytes, tags);
        }
    }
}

#[test]
fn large_messages_need_little_memory() {
    for place in Place::all() {
        let proxy = Proxy::start(&place.server, "[upstream]\ndbname = \"app\"\n");
        let mut client = proxy.connect(UNMANAGED);
        client.value("select 1");
        let before = peak_bytes(&proxy);

        client.send(&wire::query("select repeat('x', 1000) from generate_series(1, 100000)"));
        let (bytes, tags) = skim(&mut client);
        assert!(bytes > 100_000_000);
        assert_eq!(tags, b"TDCZ");
        client.send(&wire::query("select repeat('x', 100000000)"));
        assert_eq!(skim(&mut client).1, b"TDCZ");

        let value = "v".repeat(50_000_000);
        let bind = wire::bind("", "", &[Some(&value)]);
        drop(value);
        client.send(&wire::parse("", "select length($1)", &[25]));
        client.send(&bind);
        drop(bind);
        let reply = client.ask(&[wire::execute("", 0), wire::sync()].concat());
        assert_eq!(reply[2].values(), [Some(b"50000000".to_vec())]);
        let grown = peak_bytes(&proxy).saturating_sub(before);
        assert!(grown < 8 << 20, "rows and parameters pass through small buffers: {grown} bytes more");

        // Over max_statement_parse: relayed unread.
        let text = format!("select length('{}')", "q".repeat(20_000_000));
        assert_eq!(client.value(&text), "20000000");
        let grown = peak_bytes(&proxy).saturating_sub(before);
        assert!(grown < 8 << 20, "a text that is too long to be read is not held: {grown} bytes more");

        // Within it: held once while it grows.
        let text = format!("select length('{}')", "q".repeat(10_000_000));
        assert_eq!(client.value(&text), "10000000");
        let grown = peak_bytes(&proxy).saturating_sub(before);
        assert!(grown < 64 << 20, "a text is held, and little more: {grown} bytes more");
        client.value("select 1");
        let kept = proxy.resident_bytes().saturating_sub(before);
        assert!(kept < 16 << 20, "and is given back: {kept} bytes more");
    }
}

#[test]
fn application_name_is_what_the_session_says_now() {
    for place in Place::all() {
        let name = format!("renamed {}", place.server.version.0);
        let mut client = place.proxy.connect(BRANCH);
        client.rows(&format!("set application_name = '{name}'"));
        let shown = || place.proxy.control("SHOW CLIENTS").contains(&name);
        assert!(support::eventually(support::PATIENCE, shown));
        client.rows("discard all");
        assert!(support::eventually(support::PATIENCE, || !shown()));
    }
}

#[test]
fn notifications_arrive_at_idle_sessions_of_both_kinds() {
    for place in Place::all() {
        for database in [BRANCH, UNMANAGED] {
            let mut listener = place.proxy.connect(database);
            listener.rows("listen news");
            let mut speakers = [
                place.proxy.connect(database),
                Wire::connect(place.server.address, &[("user", "postgres"), ("database", database)]),
            ];
            for (n, speaker) in speakers.iter_mut().enumerate() {
                let pid = speaker.key().0;
                speaker.rows(&format!("notify news, 'number {n}'"));
                let message = listener.read_message().unwrap();
                assert_eq!(message.tag, b'A');
                assert_eq!(message.body[..4], pid.to_be_bytes(), "the process id is the server's");
                assert!(message.body.ends_with(format!("number {n}\0").as_bytes()));
            }
        }
    }
}

#[test]
fn process_ids_are_the_servers() {
    for place in Place::all() {
        let mut client = place.proxy.connect(BRANCH);
        assert_eq!(client.value("select pg_backend_pid()"), client.key().0.to_string());
    }
}

fn wait_for_sleeper(place: &Place, pid: u32) {
    let mut look = Wire::connect(place.server.address, &[("user", "postgres")]);
    let sql = format!("select count(*) from pg_stat_activity where pid = {pid} and wait_event = 'PgSleep'");
    assert!(support::eventually(support::PATIENCE, || look.value(&sql) == "1"));
}

#[test]
fn cancel_stops_its_own_session_and_no_other() {
    for place in Place::all() {
        let long_keys = place.server.version >= Pg::V18;
        for (version, length) in [(wire::V3_0, 4), (wire::V3_2, if long_keys { 32 } else { 4 })] {
            let login = [("user", "postgres"), ("database", BRANCH)];
            let mut client = Wire::try_connect(place.proxy.clients, version, &login).unwrap();
            let (pid, secret) = client.key();
            assert_eq!(secret.len(), length);
            client.send(&wire::query("select pg_sleep(30)"));
            wait_for_sleeper(place, pid);
            let mut wrong = secret.clone();
            wrong[0] ^= 1;
            Wire::open(place.proxy.clients).cancel(pid, &wrong);
            Wire::open(place.proxy.clients).cancel(pid, &secret[..secret.len() - 1]);
            Wire::open(place.proxy.clients).cancel(pid, &[&secret[..], b"x"].concat());
            Wire::open(place.proxy.clients).cancel(pid + 1, &secret);
            Wire::open(place.proxy.clients).cancel(pid, &[0; 4]);
            let mut look = Wire::connect(place.server.address, &[("user", "postgres")]);
            let state = look.value(&format!("select state from pg_stat_activity where pid = {pid}"));
            assert_eq!(state, "active", "wrong keys do nothing");
            Wire::open(place.proxy.clients).cancel(pid, &secret);
            let reply = client.read_until_ready();
            assert_eq!(reply.iter().find_map(|message| message.field(b'C')).unwrap(), "57014");
            assert_eq!(client.value("select 1"), "1", "the session goes on");
        }
    }
}

#[test]
fn a_cancel_storm_hits_nobody_else() {
    for place in Place::all() {
        let mut clients: Vec<Wire> = (0..20).map(|_| place.proxy.connect(BRANCH)).collect();
        for client in &mut clients {
            client.send(&wire::query("select pg_sleep(60)"));
        }
        for client in &clients {
            wait_for_sleeper(place, client.key().0);
        }
        let keys: Vec<(u32, Vec<u8>)> = clients.iter().map(Wire::key).collect();
        let address = place.proxy.clients;
        // Each odd one is cancelled, with the key of its own and with keys mixed from two.
        let storm: Vec<_> = (0..20)
            .filter(|n| n % 2 == 1)
            .map(|n| {
                let (own, next) = (keys[n].clone(), keys[(n + 1) % 20].clone());
                std::thread::spawn(move || {
                    Wire::open(address).cancel(next.0, &own.1);
                    Wire::open(address).cancel(own.0, &own.1);
                })
            })
            .collect();
        storm.into_iter().for_each(|thread| thread.join().unwrap());
        for client in clients.iter_mut().skip(1).step_by(2) {
            let reply = client.read_until_ready();
            assert_eq!(reply.iter().find_map(|message| message.field(b'C')).unwrap(), "57014");
        }
        for client in clients.iter().step_by(2) {
            wait_for_sleeper(place, client.key().0);
        }
        for client in clients.iter_mut().step_by(2) {
            let (pid, secret) = client.key();
            Wire::open(address).cancel(pid, &secret);
            client.read_until_ready();
        }
    }
}

#[test]
fn a_client_that_has_said_all_still_hears_all() {
    for place in Place::all() {
        for database in [BRANCH, UNMANAGED] {
            let mut client = place.proxy.connect(database);
            let question = wire::query("select repeat('x', 10000) from generate_series(1, 2000), pg_sleep(0.1)");
            client.send(&[&question[..], &wire::extended("select 'last'", &[])].concat());
            client.stream.shutdown(Shutdown::Write).unwrap();
            let heard = client.read_to_end();
            assert_eq!(heard.iter().filter(|message| message.tag == b'D').count(), 2001);
            assert_eq!(heard.last().unwrap().tag, b'Z');
        }
    }
}

#[test]
fn terminate_ends_the_session_on_the_server_too() {
    for place in Place::all() {
        let mut client = place.proxy.connect(BRANCH);
        let pid = client.key().0;
        client.send(&wire::terminate());
        assert_eq!(client.read_to_end(), []);
        let mut look = Wire::connect(place.server.address, &[("user", "postgres")]);
        let sql = format!("select count(*) from pg_stat_activity where pid = {pid}");
        assert!(support::eventually(support::PATIENCE, || look.value(&sql) == "0"));
    }
}

#[test]
fn a_client_that_vanishes_is_forgotten() {
    for place in Place::all() {
        let proxy = Proxy::start(&place.server, "[upstream]\ndbname = \"app\"\n");
        let clients: Vec<Wire> = (0..10).map(|_| proxy.connect(UNMANAGED)).collect();
        assert_eq!(proxy.control("SHOW CLIENTS").lines().count(), 10);
        drop(clients);
        assert!(support::eventually(support::PATIENCE, || proxy.control("SHOW CLIENTS").is_empty()));
    }
}

#[test]
fn a_server_that_dies_in_mid_query_is_told_and_does_not_hang() {
    for version in support::versions() {
        let mut server = PgServer::start(version);
        let other = Place::of(version);
        let proxy = Proxy::start(&server, "");
        let mut busy = proxy.connect("postgres");
        let mut idle = proxy.connect("postgres");
        busy.send(&wire::query("select pg_sleep(60)"));
        let pid = busy.key().0;
        let mut look = Wire::connect(server.address, &[("user", "postgres")]);
        let sql = format!("select count(*) from pg_stat_activity where pid = {pid} and wait_event = 'PgSleep'");
        assert!(support::eventually(support::PATIENCE, || look.value(&sql) == "1"));
        // A killed process says nothing; the postmaster then ends all the others with a warning.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        let said = |messages: Vec<Message>| messages.last().and_then(|message| message.field(b'C'));
        assert_eq!(said(busy.read_to_end()).as_deref(), Some("08006"));
        assert_eq!(said(idle.read_to_end()).as_deref(), Some("08006"));
        server.stop();
        let refused = Wire::try_connect(proxy.clients, wire::V3_0, &[("user", "postgres")]).err().unwrap();
        assert_eq!(refused[0].field(b'C').as_deref(), Some("08006"));
        server.restart();
        assert_eq!(proxy.connect("postgres").value("select 1"), "1", "and comes back by itself");
        assert_eq!(other.proxy.connect(BRANCH).value("select 1"), "1");
    }
}

#[test]
fn a_terminated_backend_says_so_itself() {
    for place in Place::all() {
        let mut client = place.proxy.connect(BRANCH);
        let pid = client.key().0;
        client.send(&wire::query("select pg_sleep(60)"));
        wait_for_sleeper(place, pid);
        place.server.psql("postgres", &format!("select pg_terminate_backend({pid})"));
        let heard = client.read_to_end();
        let codes: Vec<_> = heard.iter().filter_map(|message| message.field(b'C')).collect();
        assert_eq!(codes, ["57P01"], "once, in the server's own words");
    }
}
