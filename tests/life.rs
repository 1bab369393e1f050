//! The life of the process: configuration, servers that come and go, limits, draining, metrics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::proxy::run;
use support::wire::{V3_0, query, startup};
use support::{Message, PATIENCE, PgServer, Proxy, Wire, eventually, migrate, versions};

fn repository(server: &PgServer, config: &str) -> (String, Proxy) {
    let database = server.unique_database("app");
    migrate(server, &database);
    let proxy = Proxy::start(server, &format!("[upstream]\ndbname = \"{database}\"\n{config}"));
    (database, proxy)
}

#[test]
fn it_starts_from_the_environment_without_a_file() {
    use std::io::BufRead;
    let server = PgServer::shared(versions()[0]);
    let database = server.unique_database("app");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_pggit-proxy"))
        .args(["serve", "--listen", "127.0.0.1:0", "--control", "off", "--http", "off"])
        .env("PGGIT_UPSTREAM_URL", server.url(&database))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let clients = lines.find_map(|line| Some(line.strip_prefix("clients ")?.parse().unwrap()));
    let seen = clients.map(|address| {
        Wire::connect(address, &[("user", "postgres"), ("database", &database)]).value("select current_database()")
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen, Some(database));
}

/// What a client is told that does not get in.
fn turned_away(proxy: &Proxy, database: &str, user: &str) -> Message {
    let parameters = [("user", user), ("database", database)];
    match Wire::try_connect(proxy.clients, V3_0, &parameters) {
        Ok(_) => panic!("let in"),
        Err(messages) => messages.last().expect("a reason").clone(),
    }
}

fn code(error: &Message) -> String {
    error.field(b'C').unwrap()
}

/// The last message before the end of the connection.
fn last_word(client: &mut Wire) -> Message {
    client.read_to_end().pop().expect("a last word")
}

fn is_ready(proxy: &Proxy) -> bool {
    proxy.get("/readyz").0 == 200
}

#[test]
fn check_tells_every_problem_and_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.toml");
    let name = file.to_str().unwrap();
    std::fs::write(&file, "[branches.main]\nprotected = true\n").unwrap();
    let output = run(&["check", "--config", name]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("main in database postgres, default, protected"));

    std::fs::write(&file, "[listen]\nadress = \"x\"\n[http]\naddress = 5\n").unwrap();
    let output = run(&["check", "--config", name]);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains(&format!("{name}:2:1: ")) && words.contains("address"), "{words}");
    assert!(words.contains(&format!("{name}:4:")), "{words}");
    // Nobody serves with such a file, nor with flags that are none.
    let output = run(&["serve", "--config", name]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("{name}:2:1: ")));
    assert_eq!(run(&["serve", "--nonsense"]).status.code(), Some(2));
    assert_eq!(run(&["check", "--config", "/nowhere/at/all.toml"]).status.code(), Some(1));
}

#[test]
fn health_says_in_one_line_what_a_load_balancer_would_hear() {
    let health = |arguments: &[&str]| {
        let output = run(&[&["health"], arguments].concat());
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code().unwrap(), said.concat())
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.toml");
    let name = file.to_str().unwrap();
    for version in versions() {
        let mut server = PgServer::start(version);
        let database = server.unique_database("app");
        migrate(&server, &database);
        server.stop();
        let mut proxy = Proxy::start(&server, &format!("[upstream]\ndbname = \"{database}\"\n"));
        // What else is in the file does not matter: it may be in the middle of a change.
        let address = proxy.http;
        std::fs::write(
            &file,
            format!("[http]\naddress = \"{address}\"\n[upstream]\npassword_file = \"/nowhere\"\nx = 1\n"),
        )
        .unwrap();
        assert_eq!(health(&["--config", name]), (0, "ok\n".to_owned()));
        let (code, said) = health(&["--config", name, "--ready"]);
        assert!(
            code == 1 && said.contains("main") && said.contains(" answers 503") && said.lines().count() == 1,
            "{said}"
        );
        server.restart();
        assert!(eventually(PATIENCE, || health(&["--config", name, "--ready"]) == (0, "ready\n".to_owned())));
        // On a socket that is bound everywhere, too; and without a file.
        std::fs::write(&file, format!("[http]\naddress = \"0.0.0.0:{}\"\n", address.port())).unwrap();
        assert_eq!(health(&["--config", name]), (0, "ok\n".to_owned()));
        assert_eq!(health(&["--http", &address.to_string(), "--ready"]), (0, "ready\n".to_owned()));
        proxy.signal(Signal::SIGTERM);
        assert!(proxy.wait_exit(PATIENCE).is_some());
        let (code, said) = health(&["--config", name]);
        assert!(code == 1 && said.contains(&format!("no answer from 127.0.0.1:{}: ", address.port())), "{said}");
    }
    // Nobody who could answer, or would.
    for (text, words) in [
        ("[http]\naddress = \"off\"\n", "http.address is \"off\""),
        ("[http]\nadress = \"127.0.0.1:1\"\n", ":2:1: unknown key `adress`"),
        ("[http\n", ":1:6: "),
    ] {
        std::fs::write(&file, text).unwrap();
        let (code, said) = health(&["--config", name]);
        assert!(code == 1 && said.contains(words), "{said}");
    }
    assert_eq!(health(&["--config", "/nowhere/at/all.toml"]).0, 1);
    assert_eq!(health(&["--nonsense"]).0, 2);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (code, said) = health(&["--http", &address]);
    assert!(code == 1 && said.contains(&format!("no answer from {address} in 2s")), "{said}");
    let talker = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = silent.accept().unwrap();
            // Closed with something unread, a socket takes back what was written.
            std::io::Read::read(&mut stream, &mut [0; 1024]).unwrap();
            std::io::Write::write_all(&mut stream, b"SSH-2.0-x\r\n").unwrap();
        }
    });
    let (code, said) = health(&["--http", &address]);
    assert!(code == 1 && said.contains("does not speak HTTP"), "{said}");
    talker.join().unwrap();
}

#[test]
fn a_server_that_comes_later_is_served_without_a_restart() {
    for version in versions() {
        let mut server = PgServer::start(version);
        let database = server.unique_database("app");
        migrate(&server, &database);
        server.stop();
        let proxy = Proxy::start(&server, &format!("[upstream]\ndbname = \"{database}\"\n"));
        let error = turned_away(&proxy, &database, "postgres");
        assert_eq!((code(&error).as_str(), error.field(b'S').unwrap().as_str()), ("08006", "FATAL"));
        let (status, body) = proxy.get("/readyz");
        assert!(status == 503 && body.contains("main"), "{status} {body}");
        assert_eq!(proxy.get("/healthz").0, 200);
        assert!(proxy.control("show health message where ok = false").contains("refused"));
        assert_eq!(proxy.metric("pggit_proxy_server_up{branch=\"main\"}"), Some(0.0));
        server.restart();
        assert!(eventually(PATIENCE, || Wire::try_connect(
            proxy.clients,
            V3_0,
            &[("user", "postgres"), ("database", &database)]
        )
        .is_ok()));
        // Changes wait until the recorder has seen the branch, and pass.
        proxy.psql(&database, "create table t ()");
        assert_eq!(server.psql(&database, "select branch from pggit.history where object_name = 't'"), "main");
        assert!(eventually(PATIENCE, || is_ready(&proxy)));
        assert!(eventually(PATIENCE, || server.psql(&database, "select count(*) from pggit.statements") == "1"));
        assert_eq!(proxy.metric("pggit_proxy_server_up{branch=\"main\"}"), Some(1.0));
    }
}

#[test]
fn a_server_that_crashes_under_load_ends_sessions_not_the_proxy() {
    for version in versions() {
        let mut server = PgServer::start(version);
        let (database, proxy) = repository(&server, "");
        let mut busy: Vec<Wire> = (0..20).map(|_| proxy.connect(&database)).collect();
        let mut idle = proxy.connect(&database);
        let mut changing = proxy.connect(&database);
        changing.rows("create table locked (); begin; create table lost ()");
        for client in &mut busy {
            client.send(&query("select pg_sleep(600)"));
        }
        let asleep = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'";
        assert!(eventually(PATIENCE, || server.psql(&database, asleep) == "20"));
        server.stop();
        for client in &mut busy {
            let word = last_word(client);
            assert!(["57P01", "57P02", "08006"].contains(&code(&word).as_str()), "{word:?}");
        }
        assert!(["57P01", "57P02", "08006"].contains(&code(&last_word(&mut idle)).as_str()));
        assert_eq!(code(&turned_away(&proxy, &database, "postgres")), "08006");
        assert_eq!(proxy.get("/healthz").0, 200);
        assert!(eventually(PATIENCE, || !is_ready(&proxy)));
        server.restart();
        assert!(eventually(PATIENCE, || is_ready(&proxy)), "{:?}", proxy.get("/readyz"));
        proxy.psql(&database, "create table again ()");
        let outcomes =
            "select string_agg(command_tag || ' ' || outcome, ', ' order by started_at) from pggit.statements";
        assert!(
            eventually(PATIENCE, || server.psql(&database, outcomes)
                == "CREATE TABLE rolled_back, CREATE TABLE rolled_back, CREATE TABLE applied"),
            "{}",
            server.psql(&database, outcomes)
        );
        // The session with its table in one transaction text: the server undid all of it.
        assert_eq!(server.psql(&database, "select to_regclass('lost') is null and to_regclass('locked') is null"), "t");
        assert!(eventually(PATIENCE, || proxy.control("show clients id").is_empty()));
    }
}

#[test]
fn full_servers_and_full_proxies_say_so() {
    for version in versions() {
        let server = PgServer::with(version).config("max_connections = 15").start();
        let (database, proxy) = repository(&server, "[listen]\nmax_clients = 20\n");
        server.psql(&database, "create role plain login");
        let mut clients = Vec::new();
        let error = loop {
            match Wire::try_connect(proxy.clients, V3_0, &[("user", "plain"), ("database", &database)]) {
                Ok(client) => clients.push(client),
                Err(messages) => break messages.last().unwrap().clone(),
            }
            assert!(clients.len() < 16);
        };
        assert_eq!(code(&error), "53300");
        assert!(error.field(b'F').is_some(), "the server's own words: {error:?}");
        clients.pop();
        assert!(eventually(PATIENCE, || Wire::try_connect(
            proxy.clients,
            V3_0,
            &[("user", "plain"), ("database", &database)]
        )
        .is_ok()));
        drop(clients);

        // The proxy's own limit, reached by clients that are logged in and by one that has said nothing yet.
        proxy.rewrite(&format!("[upstream]\ndbname = \"{database}\"\n[listen]\nmax_clients = 3\n"));
        assert!(eventually(PATIENCE, || proxy.control("show clients id").is_empty()));
        proxy.control("RELOAD");
        let one = proxy.connect(&database);
        let _two = proxy.connect(&database);
        let silent = TcpStream::connect(proxy.clients).unwrap();
        assert!(eventually(PATIENCE, || proxy.control("show clients id").lines().count() == 3));
        let error = turned_away(&proxy, &database, "postgres");
        assert_eq!(code(&error), "53300");
        assert!(error.field(b'D').unwrap().contains("listen.max_clients"), "{error:?}");
        assert_eq!(proxy.metric("pggit_proxy_connections_total{result=\"too_many\"}"), Some(1.0));
        drop((one, silent));
        assert!(eventually(PATIENCE, || Wire::try_connect(
            proxy.clients,
            V3_0,
            &[("user", "postgres"), ("database", &database)]
        )
        .is_ok()));
    }
}

/// A session in a transaction, one idle, one silent connection, one in the middle of its start-up packet.
struct Guests {
    working: Wire,
    idle: Wire,
    _silent: TcpStream,
    _half: Wire,
}

fn guests(proxy: &Proxy, database: &str) -> Guests {
    let mut working = proxy.connect(database);
    working.rows("create table t (a int)");
    working.rows("begin; insert into t values (1)");
    let idle = proxy.connect(database);
    let silent = TcpStream::connect(proxy.clients).unwrap();
    let mut half = Wire::open(proxy.clients);
    half.send(&startup(V3_0, &[("user", "postgres")])[..9]);
    assert!(eventually(PATIENCE, || proxy.control("show clients id").lines().count() == 4));
    Guests { working, idle, _silent: silent, _half: half }
}

#[test]
fn draining_lets_transactions_finish() {
    for version in versions() {
        let server = PgServer::shared(version);
        for ask in ["signal", "command"] {
            let (database, mut proxy) = repository(server, "");
            let mut guests = guests(&proxy, &database);
            if ask == "signal" {
                proxy.signal(Signal::SIGTERM);
            } else {
                proxy.control("SHUTDOWN");
            }
            assert_eq!(code(&last_word(&mut guests.idle)), "57P01");
            assert!(eventually(PATIENCE, || TcpStream::connect(proxy.clients).is_err()), "nobody new");
            assert_eq!(proxy.get("/readyz").0, 503);
            guests.working.rows("insert into t values (2)");
            guests.working.rows("create table late ()");
            let messages = guests.working.ask(&query("commit"));
            assert_eq!(messages[0].command_tag(), "COMMIT");
            assert_eq!(code(&last_word(&mut guests.working)), "57P01");
            let status = proxy.wait_exit(Duration::from_secs(20));
            assert!(status.is_some_and(|status| status.success()), "{ask}: {status:?}");
            assert_eq!(server.psql(&database, "select count(*) from t"), "2");
            // Its statement log is complete.
            let outcomes = "select string_agg(outcome, ',' order by started_at) from pggit.statements";
            assert_eq!(server.psql(&database, outcomes), "applied,applied");
        }
    }
}

#[test]
fn asked_twice_it_ends_at_once() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, mut proxy) = repository(server, "");
        let mut guests = guests(&proxy, &database);
        let mut asleep = proxy.connect(&database);
        let pid = asleep.value("select pg_backend_pid()");
        asleep.send(&query("select pg_sleep(600)"));
        let active = format!("select state = 'active' from pg_stat_activity where pid = {pid}");
        assert!(eventually(PATIENCE, || server.psql(&database, &active) == "t"));
        proxy.signal(Signal::SIGTERM);
        assert_eq!(code(&last_word(&mut guests.idle)), "57P01");
        let began = Instant::now();
        proxy.signal(Signal::SIGTERM);
        assert_eq!(code(&last_word(&mut guests.working)), "57P01");
        let status = proxy.wait_exit(Duration::from_secs(20));
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let gone = format!("select count(*) from pg_stat_activity where pid = {pid}");
        assert!(eventually(PATIENCE, || server.psql(&database, &gone) == "0"), "the server does not sleep on");
        assert_eq!(server.psql(&database, "select count(*) from t"), "0");
    }
}

#[test]
fn kill_ends_one_session() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, proxy) = repository(server, "");
        let mut other = proxy.connect(&database);
        for (sql, answered) in [("select 1", true), ("begin", true), ("select pg_sleep(600)", false)] {
            let mut client = proxy.connect(&database);
            let pid = client.value("select pg_backend_pid()");
            client.send(&query(sql));
            if answered {
                client.read_until_ready();
            } else {
                let active = format!("select state = 'active' from pg_stat_activity where pid = {pid}");
                assert!(eventually(PATIENCE, || server.psql(&database, &active) == "t"));
            }
            let id = proxy.control(&format!("show clients id where backend_pid = {pid}"));
            proxy.control(&format!("KILL {id}"));
            assert_eq!(code(&last_word(&mut client)), "57P01", "{sql}");
            let gone = format!("select count(*) from pg_stat_activity where pid = {pid}");
            assert!(eventually(PATIENCE, || server.psql(&database, &gone) == "0"));
        }
        assert_eq!(other.value("select 1"), "1");
        let output = support::psql(&proxy.control_dsn(), "KILL 999999");
        assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("999999"));
    }
}

#[test]
fn metrics_count_what_happens() {
    for version in versions() {
        let server = PgServer::shared(version);
        let rules = "[[rule]]\nname = \"no\"\ntag = \"DROP TABLE\"\naction = \"refuse\"\n";
        let (database, proxy) = repository(server, rules);
        let names = [
            "connections_total{result=\"accepted\"}",
            "connections_total{result=\"no_branch\"}",
            "connections_total{result=\"auth_failed\"}",
            "auth_failures_total{reason=\"rejected\"}",
            "statements_total{class=\"read\"}",
            "statements_total{class=\"ddl\"}",
            "statements_total{class=\"write\"}",
            "statement_duration_seconds_count{class=\"read\"}",
            "ddl_total{branch=\"main\",tag=\"CREATE TABLE\",outcome=\"applied\"}",
            "ddl_total{branch=\"main\",tag=\"CREATE TABLE\",outcome=\"rolled_back\"}",
            "ddl_total{branch=\"main\",tag=\"CREATE TABLE\",outcome=\"failed\"}",
            "ddl_total{branch=\"main\",tag=\"DROP TABLE\",outcome=\"refused\"}",
            "verdicts_total{branch=\"main\",verdict=\"refuse\"}",
            "verdicts_total{branch=\"main\",verdict=\"allow\"}",
            "server_connect_duration_seconds_count",
            "parse_cache_misses_total",
            "parse_cache_hits_total",
            "history_failures_total",
        ];
        let read = || -> Vec<f64> {
            names.iter().map(|name| proxy.metric(&format!("pggit_proxy_{name}")).unwrap_or(0.0)).collect()
        };
        let before = read();
        let bytes = proxy.metric("pggit_proxy_client_bytes_total{direction=\"in\"}").unwrap();
        let mut client = proxy.connect(&database);
        assert!(eventually(PATIENCE, || proxy.metric("pggit_proxy_clients{branch=\"main\"}") == Some(1.0)));
        client.rows("select 1");
        client.rows("select 2");
        client.rows("create table t (a int)");
        client.rows("insert into t values (1)");
        client.error("create table t (a int)");
        client.rows("begin");
        client.rows("create table u ()");
        client.rows("rollback");
        client.error("drop table t");
        drop(client);
        turned_away(&proxy, &format!("{database}/nope"), "postgres");
        turned_away(&proxy, &database, "no_such_role");
        assert!(eventually(PATIENCE, || proxy.metric("pggit_proxy_clients{branch=\"main\"}") == Some(0.0)));
        let moved: Vec<(&str, f64)> = names
            .iter()
            .zip(read().iter().zip(&before))
            .map(|(name, (after, before))| (*name, after - before))
            .collect();
        let wanted = [1.0, 1.0, 1.0, 1.0, 2.0, 4.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 2.0];
        for ((name, found), wanted) in moved.iter().zip(wanted) {
            assert_eq!(*found, wanted, "{name} in {moved:?}");
        }
        let of = |name: &str| moved.iter().find(|(found, _)| *found == name).unwrap().1;
        assert!(of("parse_cache_misses_total") >= 2.0 && of("parse_cache_hits_total") >= 1.0, "{moved:?}");
        assert_eq!(of("history_failures_total"), 0.0);
        assert!(proxy.metric("pggit_proxy_client_bytes_total{direction=\"in\"}").unwrap() > bytes);
        assert_eq!(proxy.metric("pggit_proxy_server_up{branch=\"main\"}"), Some(1.0));
        let (_, text) = proxy.get("/metrics");
        assert!(text.contains("process_resident_memory_bytes") && text.contains("pggit_proxy_build_info{version="));
        assert!(!text.contains("no_such_role") && !text.contains("nope"), "no label holds a user's text");
    }
}
