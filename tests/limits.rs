//! How long and how many: timeouts, clients of a user and of a branch, `PAUSE`, whom a load balancer speaks for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::repository::repository;
use support::wire::{self, V3_0, query};
use support::{Certs, Message, PATIENCE, PgServer, Proxy, Wire, eventually, migrate, versions, wait_for};

fn direct(server: &PgServer, database: &str) -> Wire {
    Wire::connect(server.address, &[("user", "postgres"), ("database", database)])
}

/// Severity, code and message of the last word before the end.
fn last_word(client: &mut Wire) -> [String; 3] {
    words(&client.read_to_end().pop().expect("a last word"))
}

fn words(message: &Message) -> [String; 3] {
    assert_eq!(message.tag, b'E', "{message:?}");
    [b'S', b'C', b'M'].map(|field| message.field(field).unwrap())
}

fn turned_away(address: SocketAddr, parameters: &[(&str, &str)]) -> Message {
    match Wire::try_connect(address, V3_0, parameters) {
        Ok(_) => panic!("let in"),
        Err(messages) => messages.last().expect("a reason").clone(),
    }
}

#[test]
fn idle_sessions_end_in_the_servers_words() {
    for version in versions() {
        let server = PgServer::shared(version);
        let limits = "[limits]\nclient_idle_timeout = \"2s\"\nidle_in_transaction_timeout = \"2s\"\n";
        let (database, proxy) = repository(server, limits);
        let mut own = direct(server, &database);
        own.rows("set idle_session_timeout = 10");
        let mut own_transaction = direct(server, &database);
        own_transaction.rows("set idle_in_transaction_session_timeout = 10; create table t (a int)");
        own_transaction.rows("begin");

        let mut idle = proxy.connect(&database);
        assert_eq!(last_word(&mut idle), last_word(&mut own));
        let mut in_transaction = proxy.connect(&database);
        let pid = in_transaction.value("select pg_backend_pid()");
        in_transaction.rows("begin; insert into t values (1)");
        let word = last_word(&mut in_transaction);
        assert_eq!(word, last_word(&mut own_transaction));
        assert_eq!(word[1], "25P03");
        let gone = format!("select count(*) from pg_stat_activity where pid = {pid}");
        assert!(eventually(PATIENCE, || server.psql(&database, &gone) == "0"), "the server is rid of it, too");
        assert_eq!(server.psql(&database, "select count(*) from t"), "0");
    }
}

#[test]
fn who_works_is_not_idle() {
    for version in versions() {
        let server = PgServer::shared(version);
        let limits = "[limits]\nclient_idle_timeout = \"2s\"\nidle_in_transaction_timeout = \"2s\"\n";
        let (database, proxy) = repository(server, limits);
        let mut client = proxy.connect(&database);
        // A statement takes longer than the limit, inside a transaction and outside of one.
        assert_eq!(client.value("select pg_sleep(2.5)::text"), "");
        client.rows("begin");
        assert_eq!(client.value("select pg_sleep(2.5)::text"), "");
        client.rows("commit");
        // A batch that waits for its Sync, whose messages are answered one by one.
        client.send(&[wire::parse("", "select 1", &[]), wire::flush()].concat());
        assert_eq!(client.read_message().unwrap().tag, b'1');
        let mut other = proxy.connect(&database);
        assert_eq!(last_word(&mut other)[1], "57P05", "meanwhile the time has passed");
        client.send(&wire::sync());
        assert_eq!(client.read_until_ready().len(), 1);
        // Short pauses again and again are no long one.
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2500) {
            assert_eq!(client.value("select pg_sleep(0.02)::text"), "");
        }
        assert_eq!(last_word(&mut client)[1], "57P05");
    }
}

/// A Query behind a Parse ends the wait for its Sync: the server has said that it is ready, on 15 outside of the transaction and on
/// 18 within it.
#[test]
fn a_query_in_the_middle_of_a_batch_does_not_keep_a_session_for_ever() {
    for version in versions() {
        let server = PgServer::shared(version);
        let limits = "[limits]\nclient_idle_timeout = \"1s\"\nidle_in_transaction_timeout = \"1s\"\n";
        let (database, proxy) = repository(server, limits);
        for ends in [query("select 1"), query("create table u (a int)")] {
            let mut client = proxy.connect(&database);
            let heard = client.ask(&[wire::parse("", "select 1", &[]), ends].concat());
            let code = match heard.last().unwrap().body[..] {
                [b'I'] => "57P05",
                _ => "25P03",
            };
            assert_eq!(last_word(&mut client)[1], code, "{heard:?}");
        }
    }
}

#[test]
fn a_login_that_takes_too_long_ends_with_the_reason() {
    for version in versions() {
        let server = PgServer::with(version).auth("scram-sha-256").config("authentication_timeout = 6").start();
        server.psql("postgres", "create role anna login password 'x'");
        let proxy = Proxy::start(&server, "[limits]\nlogin_timeout = \"2s\"\n");
        let silent = |address| {
            let mut client = Wire::open(address);
            client.send(&wire::startup(V3_0, &[("user", "anna"), ("database", "postgres")]));
            client.read_to_end()
        };
        let ours = silent(proxy.clients);
        assert_eq!(ours.len(), 2, "{ours:?}");
        let words = words(&ours[1]);
        assert_eq!(words, ["FATAL", "57014", "canceling authentication due to timeout"]);
        // The server tells only its log.
        assert_eq!(silent(server.address).len(), 1);
        assert!(server.log().contains(&words[2]));
    }
}

#[test]
fn a_user_and_a_branch_have_so_many_clients() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("app");
        let other = server.unique_database("other");
        migrate(server, &database);
        let config = |limits: &str| {
            format!("[upstream]\ndbname = \"{database}\"\n[branches.dev]\ndatabase = \"{other}\"\n[limits]\n{limits}\n")
        };
        let proxy = Proxy::start(server, &config("max_clients_per_user = 2\nmax_clients_per_branch = 3"));
        let role = |name: &str| {
            let name = format!("{name}_{database}");
            server.psql(&database, &format!("create role {name} login"));
            name
        };
        let (ann, bob) = (role("ann"), role("bob"));
        let connect = |user: &str, at: &str| Wire::connect(proxy.clients, &[("user", user), ("database", at)]);
        let refused = |user: &str, at: &str| {
            let word = turned_away(proxy.clients, &[("user", user), ("database", at)]);
            words(&word)
        };
        let first = connect(&ann, &database);
        let _second = connect(&ann, &other);
        // The server's words for a role's own limit.
        server.psql(&database, &format!("alter role {bob} connection limit 0"));
        let own = words(&turned_away(server.address, &[("user", &bob), ("database", &database)]));
        server.psql(&database, &format!("alter role {bob} connection limit -1"));
        assert_eq!(refused(&ann, &database), own.map(|word| word.replace(&bob, &ann)));
        let _third = connect(&bob, &database);
        let _fourth = connect("postgres", &database);
        let word = refused("postgres", &database);
        assert_eq!((word[1].as_str(), word[2].as_str()), ("53300", "too many connections for branch \"main\""));
        // Another branch has room, and a database that is none has no such limit.
        let _fifth = connect("postgres", &other);
        assert_eq!(proxy.metric("pggit_proxy_connections_total{result=\"too_many\"}"), Some(2.0));
        drop(first);
        assert!(eventually(PATIENCE, || Wire::try_connect(
            proxy.clients,
            V3_0,
            &[("user", &ann), ("database", &database)]
        )
        .is_ok()));
        proxy.rewrite(&config(""));
        proxy.signal(Signal::SIGHUP);
        let more = [("user", "postgres"), ("database", database.as_str())];
        assert!(eventually(PATIENCE, || Wire::try_connect(proxy.clients, V3_0, &more).is_ok()));
    }
}

/// Many at once, so that several are past the first look when the last place is taken.
#[test]
fn a_rush_does_not_pass_the_limit() {
    let server = PgServer::shared(*versions().last().unwrap());
    let (database, proxy) = repository(server, "[limits]\nmax_clients_per_user = 3\n");
    let parameters = [("user", "postgres"), ("database", database.as_str())];
    let mut coming: Vec<Wire> = (0..30).map(|_| Wire::open(proxy.clients)).collect();
    coming.iter_mut().for_each(|client| client.send(&wire::startup(V3_0, &parameters)));
    let mut inside = 0;
    for client in &mut coming {
        let messages = client.read_until_ready();
        let last = messages.last().unwrap();
        if last.tag == b'Z' {
            inside += 1;
        } else {
            assert_eq!(words(last)[1], "53300");
            assert!(messages.iter().all(|message| message.tag != b'Z'), "not told that it got in: {messages:?}");
        }
    }
    assert_eq!(inside, 3);
    drop(coming);
    assert!(eventually(PATIENCE, || proxy.control("show clients id").is_empty()));
    // Every place was given back.
    let again: Vec<Wire> = (0..3).map(|_| Wire::connect(proxy.clients, &parameters)).collect();
    assert_eq!(again.len(), 3);
}

fn states(proxy: &Proxy) -> String {
    proxy.control("show clients state order by id").replace('\n', ", ")
}

#[test]
fn pause_holds_statements_and_newcomers() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, proxy) = repository(server, "");
        let mut idle = proxy.connect(&database);
        let mut working = proxy.connect(&database);
        working.rows("create table t (a int)");
        working.rows("begin; insert into t values (1)");
        let control = proxy.control_dsn();
        let pausing = std::thread::spawn(move || support::psql_ok(&control, "PAUSE"));
        assert!(eventually(PATIENCE, || states(&proxy) == "paused, idle in transaction"), "{}", states(&proxy));
        // It goes on to the end of its transaction; PAUSE waits for that.
        idle.send(&query("insert into t values (100)"));
        working.rows("insert into t values (2)");
        assert!(!pausing.is_finished());
        working.rows("commit");
        pausing.join().unwrap();
        assert_eq!(states(&proxy), "paused, paused");
        assert_eq!(proxy.control("show version state"), "paused");
        assert_eq!(proxy.get("/readyz").0, 200);

        let mut newcomer = Wire::open(proxy.clients);
        newcomer.send(&wire::startup(V3_0, &[("user", "postgres"), ("database", &database)]));
        working.send(&query("insert into t values (3)"));
        assert!(eventually(PATIENCE, || states(&proxy) == "paused, paused, login"), "{}", states(&proxy));
        let servers = "show servers client order by client";
        assert_eq!(proxy.control(servers).lines().count(), 2, "the server is not connected to");
        assert_eq!(server.psql(&database, "select string_agg(a::text, ',') from t"), "1,2");
        proxy.control("RESUME");
        for client in [&mut idle, &mut working] {
            assert_eq!(client.read_until_ready()[0].command_tag(), "INSERT 0 1");
        }
        assert_eq!(newcomer.read_until_ready().last().unwrap().tag, b'Z');
        assert_eq!(newcomer.value("select count(*) from t"), "4");
        let answer = support::psql(&proxy.control_dsn(), "RESUME");
        assert!(String::from_utf8_lossy(&answer.stderr).contains("it was not paused"));
    }
}

#[test]
fn who_leaves_during_a_pause_is_gone_and_what_was_said_before_still_runs() {
    for version in versions() {
        let server = PgServer::shared(version);
        let certs = Certs::new();
        let tls = format!("sslmode = \"disable\"\n[listen.tls]\n{}", certs.listen("allow"));
        let (database, proxy) = repository(server, &tls);
        let login = [("user", "postgres"), ("database", &*database)];
        let mut staying = proxy.connect(&database);
        staying.rows("create table t (a int)");
        let (vanishing, mut ending, mut asking) =
            (proxy.connect(&database), proxy.connect(&database), proxy.connect(&database));
        let mut encrypted = Wire::open_tls(proxy.clients, &certs.rustls(None, true)).unwrap();
        encrypted.log_in(V3_0, &login);
        let last = asking.key().0;
        proxy.control("PAUSE");
        assert_eq!(states(&proxy), ["paused"; 5].join(", "));
        drop(vanishing);
        ending.send(&wire::terminate());
        assert!(ending.read_to_end().is_empty());
        encrypted.shut_writing();
        assert!(encrypted.read_to_end().is_empty());
        asking.send(&query("insert into t values (1)"));
        asking.shut_writing();
        staying.send(&query("insert into t values (2)"));
        assert!(eventually(PATIENCE, || states(&proxy) == "paused, paused"), "{}", states(&proxy));
        assert_eq!(server.psql(&database, "select count(*) from t"), "0");
        // It leaves without a word, but has asked before.
        let there = format!("select count(*) from pg_stat_activity where pid = {last}");
        assert_eq!(server.psql(&database, &there), "1");
        proxy.control("RESUME");
        for client in [&mut asking, &mut staying] {
            assert_eq!(client.read_until_ready()[0].command_tag(), "INSERT 0 1");
        }
        assert_eq!(staying.value("select count(*) from t"), "2");
    }
}

#[test]
fn a_pause_does_not_stop_kill_the_login_timeout_or_the_end() {
    let server = PgServer::shared(*versions().last().unwrap());
    let (database, mut proxy) = repository(server, "[limits]\nlogin_timeout = \"3s\"\n");
    let mut one = proxy.connect(&database);
    let mut two = proxy.connect(&database);
    proxy.control("PAUSE");
    let word = turned_away(proxy.clients, &[("user", "postgres"), ("database", &database)]);
    assert_eq!(words(&word), ["FATAL", "57P03", "the proxy is paused"]);
    let id = proxy.control("show clients id order by id limit 1");
    proxy.control(&format!("KILL {id}"));
    assert_eq!(last_word(&mut one)[1], "57P01");
    proxy.signal(Signal::SIGTERM);
    assert_eq!(last_word(&mut two)[1], "57P01");
    assert!(proxy.wait_exit(PATIENCE).is_some_and(|status| status.success()));
}

#[test]
fn servers_are_shown() {
    let server = PgServer::shared(*versions().last().unwrap());
    let (database, proxy) = repository(server, "");
    let mut client = proxy.connect(&database);
    let pid = client.value("select pg_backend_pid()");
    let shown = proxy.control("show servers backend_pid, address, user, database, branch, state");
    assert_eq!(shown, format!("{pid}|{}|postgres|{database}|main|idle", server.address));
}

#[test]
fn a_reload_says_what_needs_a_restart() {
    let server = PgServer::shared(*versions().last().unwrap());
    let (database, proxy) = repository(server, "");
    let mut client = proxy.connect(&database);
    proxy.rewrite(&format!(
        "[upstream]\ndbname = \"{database}\"\nhost = \"127.0.0.9\"\n[listen]\nworkers = 3\nmax_clients = 77\n\
         [limits]\ncache_bytes = \"1MiB\"\nclient_idle_timeout = \"2s\"\n[history]\nqueue = 5\n"
    ));
    let answer = support::psql(&proxy.control_dsn(), "RELOAD");
    let warning = String::from_utf8_lossy(&answer.stderr).into_owned();
    let keys = "need a restart: listen.workers, upstream.host, history.queue, limits.cache_bytes";
    assert!(answer.status.success() && warning.contains(keys), "{warning}");
    // What can change has changed, for those who are there as well; what cannot is as it was.
    assert_eq!(proxy.control("show config value where key = 'listen.max_clients'"), "77");
    assert_eq!(proxy.control("show config value where key = 'upstream.host'"), "127.0.0.1");
    assert_eq!(last_word(&mut client)[1], "57P05", "who was idle before is, too");
    assert_eq!(proxy.connect(&database).value("select 2"), "2");
    proxy.signal(Signal::SIGHUP);
    assert!(eventually(PATIENCE, || proxy.log().contains("need a restart")), "{}", proxy.log());

    // The log's level is one of those that can change.
    let cut_short = || Wire::open(proxy.clients).send(&[0, 0, 0, 100, 0]);
    cut_short();
    proxy.rewrite(&format!("[upstream]\ndbname = \"{database}\"\n[log]\nlevel = \"debug\"\n"));
    proxy.control("RELOAD");
    assert!(!proxy.log().contains("client ended"), "{}", proxy.log());
    cut_short();
    assert!(eventually(PATIENCE, || proxy.log().contains("client ended")), "{}", proxy.log());
}

fn proxy_header(command: u8, source: [u8; 4], port: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend_from_slice(&[0x20 | command, 0x11, 0, 12]);
    header.extend_from_slice(&[source, [192, 0, 2, 1]].concat());
    header.extend_from_slice(&port.to_be_bytes());
    header.extend_from_slice(&5432u16.to_be_bytes());
    header
}

#[test]
fn a_load_balancer_says_whom_it_speaks_for() {
    for version in versions() {
        let server = PgServer::shared(version);
        let rules = "[listen]\nproxy_protocol = true\nproxy_protocol_from = [\"127.0.0.0/8\", \"::1\"]\n\
                     [[rule]]\nname = \"far\"\nclient = \"203.0.113.0/24\"\ntag = \"DROP TABLE\"\naction = \"refuse\"\n";
        let (database, proxy) = repository(server, rules);
        let login = wire::startup(V3_0, &[("user", "postgres"), ("database", &database)]);
        let mut client = Wire::open(proxy.clients);
        // Cut anywhere.
        let header = [proxy_header(1, [203, 0, 113, 7], 4711), login.clone()].concat();
        header.iter().for_each(|byte| client.send(&[*byte]));
        assert_eq!(client.read_until_ready().last().unwrap().tag, b'Z');
        client.rows("create table t ()");
        assert_eq!(client.error("drop table t").field(b'C').as_deref(), Some("42501"));
        assert_eq!(proxy.control("show clients client_addr, client_port"), "203.0.113.7|4711");
        let recorded = "select client_addr, client_port from pggit.history where object_name = 't'";
        assert_eq!(server.psql(&database, recorded), "203.0.113.7|4711");
        let logged = "select string_agg(distinct client_addr || ' ' || client_port, ',') from pggit.statements";
        assert!(eventually(PATIENCE, || server.psql(&database, logged) == "203.0.113.7/32 4711"));
        // For itself: its own address, and no rule for those far away.
        let mut own = Wire::open(proxy.clients);
        own.send(&[proxy_header(0, [203, 0, 113, 7], 4711), login.clone()].concat());
        assert_eq!(own.read_until_ready().last().unwrap().tag, b'Z');
        own.rows("drop table t");
        // Without a header nobody gets in, whatever comes instead.
        for opening in [login, b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n".to_vec()] {
            let mut nobody = Wire::open(proxy.clients);
            nobody.send(&opening);
            assert!(nobody.read_to_end().is_empty());
        }
        assert!(eventually(PATIENCE, || proxy.log().contains("no PROXY protocol header of version 2")));
    }
}

#[test]
fn whoever_is_not_believed_says_no_address() {
    let server = PgServer::shared(*versions().last().unwrap());
    let listen = "[listen]\nproxy_protocol = true\nproxy_protocol_from = \"10.0.0.0/8\"\n";
    let (database, proxy) = repository(server, listen);
    let mut liar = Wire::open(proxy.clients);
    liar.send(&proxy_header(1, [203, 0, 113, 7], 4711));
    assert!(liar.read_to_end().is_empty());
    assert_eq!(proxy.connect(&database).value("select 1"), "1");
}

/// The keepalive timer of a socket as the kernel shows it, in seconds until it fires; by its two ports.
fn keepalive(local: u16, remote: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let wanted = [format!(":{local:04X}"), format!(":{remote:04X}")];
    let row = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|row| row.get(1).is_some_and(|own| own.ends_with(&wanted[0])) && row[2].ends_with(&wanted[1]))?;
    // `02`: a keepalive timer, in hundredths of a second.
    let hundredths = row[5].strip_prefix("02:")?;
    u64::from_str_radix(hundredths, 16).ok().map(|hundredths| hundredths / 100)
}

#[test]
fn keepalive_is_set_on_both_legs() {
    let server = PgServer::shared(*versions().last().unwrap());
    let (database, proxy) = repository(server, "[limits]\ntcp_keepalive_idle = \"1234s\"\n");
    let mut client = proxy.connect(&database);
    let port = client.stream.local_addr().unwrap().port();
    let upstream: u16 = client.value("select inet_client_port()").parse().unwrap();
    for (local, remote) in [(proxy.clients.port(), port), (upstream, server.address.port())] {
        let left = wait_for("a keepalive timer", || keepalive(local, remote));
        assert!((1100..=1234).contains(&left), "{left} seconds");
    }
}
