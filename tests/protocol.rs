//! The protocol's corners: versions and their negotiation, start-up packets of any size, function calls, replication
//! with the real tools. Where a server answers, the proxy's client hears the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::postgres::new_directory;
use support::repository::repository;
use support::wire::{self, V3_0, V3_2, frame, query, startup};
use support::{Message, PATIENCE, PgServer, Wire, eventually, normalised, versions};

/// What libpq 19 announces so that servers and middlemen learn to negotiate.
const GREASE: u32 = (3 << 16) | 9999;

/// The greeting of a login and what a statement answers.
fn conversation(address: SocketAddr, version: u32, parameters: &[(&str, &str)]) -> Vec<Message> {
    let mut client = Wire::open(address);
    client.send(&startup(version, parameters));
    let mut messages = client.read_until_ready();
    if messages.last().is_some_and(|message| message.tag == b'Z') {
        messages.extend(client.ask(&query("select current_setting('application_name'), 1")));
    }
    messages
}

#[test]
fn versions_and_options_are_negotiated_as_by_the_server() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, proxy) = repository(server, "");
        let plain: &[(&str, &str)] = &[("user", "postgres"), ("database", &database), ("application_name", "a b")];
        let odd = [plain, &[("_pq_.grease", ""), ("_pq_.no_such_thing", "x")]].concat();
        for announced in [V3_0, (3 << 16) | 1, V3_2, (3 << 16) | 3, GREASE] {
            for parameters in [plain, &odd] {
                let own = normalised(&conversation(server.address, announced, parameters));
                let ours = normalised(&conversation(proxy.clients, announced, parameters));
                assert_eq!(ours, own, "{announced:x} {parameters:?}");
            }
        }
    }
}

#[test]
fn cancel_keys_of_every_version_cancel() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, proxy) = repository(server, "");
        for announced in [V3_0, V3_2, GREASE] {
            let parameters = [("user", "postgres"), ("database", database.as_str())];
            let mut client = Wire::try_connect(proxy.clients, announced, &parameters).unwrap();
            let (pid, secret) = client.key();
            client.send(&query("select pg_sleep(600)"));
            let active = format!("select count(*) from pg_stat_activity where pid = {pid} and state = 'active'");
            assert!(eventually(PATIENCE, || server.psql(&database, &active) == "1"));
            Wire::open(proxy.clients).cancel(pid, &secret);
            let answer = client.read_until_ready();
            let error = answer.iter().find(|message| message.tag == b'E').expect("an error");
            assert_eq!(error.field(b'C').as_deref(), Some("57014"), "{announced:x}");
        }
    }
}

fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // Closed with bytes unread, a server resets; what it said before that counts.
    let _ = stream.read_to_end(&mut answer);
    let _ = stream.shutdown(Shutdown::Both);
    answer
}

#[test]
fn other_major_versions_hear_the_servers_words() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (_, proxy) = repository(server, "");
        for other in [1 << 16, 2 << 16, 4 << 16, (5 << 16) | 7, 0x7fff_0000] {
            let packet = startup(other, &[("user", "postgres")]);
            let own = raw(server.address, &packet);
            assert!(!own.is_empty());
            assert_eq!(raw(proxy.clients, &packet), own, "{other:x}");
        }
        assert_eq!(proxy.metric("pggit_proxy_connections_total{result=\"protocol\"}"), Some(5.0));
    }
}

/// A login whose packet has so many bytes, length word included.
fn login_of(bytes: usize, database: &str) -> Vec<u8> {
    let packet = |padding: &str| {
        let options = format!("-c search_path={padding}");
        startup(V3_0, &[("user", "postgres"), ("database", database), ("options", &options)])
    };
    packet(&"x".repeat(bytes - packet("").len()))
}

#[test]
fn long_startup_packets_pass_as_far_as_there_is_room() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, proxy) = repository(server, "");
        let ask = |bytes: usize| {
            let mut client = Wire::open(proxy.clients);
            client.send(&login_of(bytes, &database));
            client.read_until_ready().pop()
        };
        for bytes in [1000, 8000, 9000, 9_700] {
            assert_eq!(ask(bytes).unwrap().tag, b'Z', "{bytes}");
        }
        // The server takes it, with our settings it would not: said, and why.
        for bytes in [9_950, 10_000] {
            let mut own = Wire::open(server.address);
            own.send(&login_of(bytes, &database));
            assert_eq!(own.read_until_ready().pop().unwrap().tag, b'Z', "{bytes}");
            let error = ask(bytes).unwrap();
            assert_eq!(error.field(b'C').as_deref(), Some("08P01"), "{bytes}");
            assert!(error.field(b'M').unwrap().contains("leaves no room"), "{error:?}");
            assert!(error.field(b'H').is_some());
        }
        // Nobody takes it, and nobody answers.
        for bytes in [10_005, 12_000] {
            assert_eq!(raw(server.address, &login_of(bytes, &database)), b"");
            assert_eq!(raw(proxy.clients, &login_of(bytes, &database)), b"");
        }
    }
}

#[test]
fn function_calls_answer_as_the_servers() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (database, proxy) = repository(server, "");
        server.psql(&database, "create function twice(a int) returns int language sql as 'select a * 2'");
        let oid: u32 = server.psql(&database, "select 'twice'::regproc::oid").parse().unwrap();
        let call = |oid: u32, argument: &[u8]| {
            let mut body = oid.to_be_bytes().to_vec();
            body.extend_from_slice(&[0, 1, 0, 1, 0, 1]);
            body.extend_from_slice(&u32::try_from(argument.len()).unwrap().to_be_bytes());
            body.extend_from_slice(argument);
            body.extend_from_slice(&[0, 1]);
            frame(b'F', &body)
        };
        let talk = |address: SocketAddr| {
            let mut client = Wire::connect(address, &[("user", "postgres"), ("database", &database)]);
            let mut heard = client.ask(&call(oid, &21i32.to_be_bytes()));
            heard.extend(client.ask(&call(1, &[])));
            heard.extend(client.ask(&query("begin")));
            heard.extend(client.ask(&call(oid, b"bad")));
            heard.extend(client.ask(&call(oid, &1i32.to_be_bytes())));
            heard.extend(client.ask(&query("rollback; select 1")));
            // Several at once, mixed with statements.
            let many = [call(oid, &1i32.to_be_bytes()), query("select 2"), call(oid, &3i32.to_be_bytes())].concat();
            client.send(&many);
            (0..3).for_each(|_| heard.extend(client.read_until_ready()));
            heard
        };
        let own = talk(server.address);
        assert_eq!(own[0].body, [&4u32.to_be_bytes()[..], &42i32.to_be_bytes()].concat());
        assert_eq!(talk(proxy.clients), own);
    }
}

/// Severity, code, message and detail of what ends a conversation, and what came before it.
fn refused(address: SocketAddr, bytes: &[u8]) -> (Vec<u8>, [Option<String>; 4]) {
    let mut client = Wire::open(address);
    client.send(bytes);
    let answer = client.read_bytes(1).unwrap();
    let word = client.read_to_end().pop().expect("a last word");
    (answer, [b'S', b'C', b'M', b'D'].map(|field| word.field(field)))
}

#[test]
fn whoever_does_not_wait_for_the_answer_to_a_request_is_refused_as_by_the_server() {
    let login = startup(V3_0, &[("user", "postgres"), ("database", "postgres")]);
    for version in versions() {
        let server = PgServer::shared(version);
        let (_, proxy) = repository(server, "");
        let hasty = [wire::ssl_request(), login.clone()].concat();
        let own = refused(server.address, &hasty);
        assert_eq!(own.1[1].as_deref(), Some("08P01"));
        assert_eq!(refused(proxy.clients, &hasty), own);
        // The server's words depend on how it was built: with GSSAPI it begins to negotiate.
        let (answer, words) = refused(proxy.clients, &[wire::gss_request(), login.clone()].concat());
        assert_eq!(answer, b"N");
        assert_eq!(words[2].as_deref(), Some("received unencrypted data after GSSAPI encryption request"));
        // Who waits is let in.
        let mut client = Wire::open(proxy.clients);
        for request in [wire::gss_request(), wire::ssl_request()] {
            client.send(&request);
            assert_eq!(client.read_bytes(1).unwrap(), b"N");
        }
        assert_eq!(client.ask(&login).last().unwrap().tag, b'Z');
    }
}

/// A directory for what the tools write; gone when dropped.
struct Target(PathBuf);

impl Target {
    fn new() -> Self {
        Self(new_directory("target"))
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn replicating() -> PgServer {
    // Debian's tools are of 15, and a base backup asks for the same major version.
    PgServer::with(versions()[0]).config("wal_level = logical").config("max_wal_senders = 10").start()
}

fn tool(server: &PgServer, name: &str, at: SocketAddr) -> Command {
    let mut command = Command::new(server.bin.join(name));
    command.args(["-h", "127.0.0.1", "-p", &at.port().to_string(), "-U", "postgres"]);
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Ends a tool that goes on for ever, as Ctrl-C does; what it said.
fn interrupt(child: Child) -> String {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_base_backup_is_taken_through_the_proxy() {
    let server = replicating();
    let (database, proxy) = repository(&server, "");
    proxy.psql(&database, "create table kept as select generate_series(1, 100000) as a");
    let target = Target::new();
    let backup = target.at("backup");
    run(tool(&server, "pg_basebackup", proxy.clients).args(["-D", &backup, "-X", "stream", "-c", "fast"]));
    assert!(Path::new(&backup).join("PG_VERSION").exists() && Path::new(&backup).join("backup_label").exists());
    run(Command::new(server.bin.join("pg_verifybackup")).arg(&backup));
    assert!(eventually(PATIENCE, || proxy.control("show clients id").is_empty()));
}

#[test]
fn wal_is_received_through_the_proxy() {
    let server = replicating();
    let (database, proxy) = repository(&server, "");
    let target = Target::new();
    let wal = target.at("wal");
    fs::create_dir(&wal).unwrap();
    run(tool(&server, "pg_receivewal", proxy.clients).args(["--slot", "through", "--create-slot"]));
    let mut receiving = tool(&server, "pg_receivewal", proxy.clients);
    let child = receiving.args(["-D", &wal, "--slot", "through", "--synchronous"]).spawn().unwrap();
    let received = "select count(*) from pg_stat_replication where flush_lsn >= pg_current_wal_flush_lsn() \
                    and application_name = 'pg_receivewal'";
    for n in 0..3 {
        proxy.psql(&database, &format!("create table t{n} as select generate_series(1, 50000) as a"));
        server.psql(&database, "select pg_switch_wal()");
        assert!(eventually(PATIENCE, || server.psql(&database, received) == "1"));
    }
    assert_eq!(proxy.control("show clients state where application_name = 'pg_receivewal'"), "active");
    interrupt(child);
    let segments = fs::read_dir(&wal).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        !name.to_string_lossy().ends_with(".partial")
    });
    assert!(segments.count() >= 3);
    run(tool(&server, "pg_receivewal", proxy.clients).args(["--slot", "through", "--drop-slot"]));
}

#[test]
fn changes_are_decoded_through_the_proxy() {
    let server = replicating();
    let (database, proxy) = repository(&server, "");
    proxy.psql(&database, "create table t (a int primary key)");
    let target = Target::new();
    let decode = |at: SocketAddr, slot: &str| {
        let out = target.at(slot);
        let part = |arguments: &[&str]| {
            let mut command = tool(&server, "pg_recvlogical", at);
            command.args(["-d", &database, "--slot", slot]).args(arguments);
            command
        };
        run(&mut part(&["--create-slot", "-P", "test_decoding"]));
        let child = part(&["--start", "-f", &out, "-F", "0"]).spawn().unwrap();
        proxy.psql(&database, "insert into t values (1); begin; insert into t values (2); rollback; truncate t");
        let seen = || fs::read_to_string(&out).unwrap_or_default();
        assert!(eventually(PATIENCE, || seen().contains("TRUNCATE")), "{}", seen());
        let said = interrupt(child);
        run(&mut part(&["--drop-slot"]));
        let tables = seen().lines().filter(|line| line.starts_with("table public.t")).collect::<Vec<_>>().join("\n");
        (tables, said)
    };
    let own = decode(server.address, "direct");
    assert!(own.0.contains("a[integer]:1") && !own.0.contains("a[integer]:2"), "{}", own.0);
    assert_eq!(decode(proxy.clients, "through"), own);
    // Statements on a replication connection of a database are SQL like any other.
    let parameters = [("user", "postgres"), ("database", database.as_str()), ("replication", "database")];
    let mut walsender = Wire::connect(proxy.clients, &parameters);
    assert_eq!(walsender.rows("IDENTIFY_SYSTEM").len(), 1);
    walsender.rows("create table by_walsender ()");
    assert_eq!(walsender.rows("SHOW wal_level"), [[Some("logical".to_owned())]]);
    let recorded = "select count(*) from pggit.history where object_name = 'by_walsender'";
    assert_eq!(server.psql(&database, recorded), "1");
}

#[test]
fn a_standby_follows_through_the_proxy() {
    let server = replicating();
    let (database, proxy) = repository(&server, "");
    proxy.psql(&database, "create table before_backup ()");
    let standby = server.standby(proxy.clients);
    proxy.psql(&database, "create table behind_backup ()");
    let there = "select to_regclass('behind_backup') is not null";
    assert!(eventually(PATIENCE, || standby.psql(&database, there) == "t"));
    assert_eq!(standby.psql(&database, "select pg_is_in_recovery()"), "t");
}
