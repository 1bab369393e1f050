//! Sockets: unix ones on both legs, inherited and shared ones, a restart that refuses nobody, the service manager.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::postgres::new_directory;
use support::proxy::PROGRAM;
use support::{PATIENCE, PgServer, Proxy, Wire, eventually, migrate, psql, psql_ok, versions};

/// A directory for sockets; gone when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        Self(new_directory("sock"))
    }

    fn socket(&self, proxy: &Proxy) -> PathBuf {
        self.0.join(format!(".s.PGSQL.{}", proxy.clients.port()))
    }

    fn dsn(&self, proxy: &Proxy, database: &str) -> String {
        format!("host={} port={} user=postgres dbname={database}", self.0.display(), proxy.clients.port())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn migrated(server: &PgServer) -> String {
    let database = server.unique_database("app");
    migrate(server, &database);
    database
}

#[test]
fn unix_sockets_on_both_legs() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = migrated(server);
        let directory = Directory::new();
        let config = format!(
            "[upstream]\ndbname = \"{database}\"\nhost = \"{}\"\n\
             [listen]\nunix_socket_dir = \"{}\"\nunix_socket_permissions = \"0700\"\n",
            server.socket_dir.display(),
            directory.0.display()
        );
        let mut proxy = Proxy::start(server, &config);
        let socket = directory.socket(&proxy);
        let metadata = fs::metadata(&socket).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
        let dsn = directory.dsn(&proxy, &database);
        psql_ok(&dsn, "create table t (a int)");
        // The server's leg is a unix socket: it knows no address, and neither do we.
        assert_eq!(psql_ok(&dsn, "select inet_client_addr() is null"), "t");
        let recorded = "select client_addr is null, client_port is null, via_proxy, branch from pggit.history \
                        where object_name = 't' and object_type = 'table'";
        assert_eq!(server.psql(&database, recorded), "t|t|t|main");
        let logged = "select count(*) from pggit.statements where client_addr is null and outcome = 'applied'";
        assert!(eventually(PATIENCE, || server.psql(&database, logged) == "1"));
        assert_eq!(proxy.control("show servers address"), "");
        let mut asleep = Command::new("psql")
            .args(["-X", "-d", &dsn, "-c", "select pg_sleep(600)"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let active = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active' \
                      and datname = current_database()";
        assert!(eventually(PATIENCE, || server.psql(&database, active) == "1"));
        let shown = proxy.control("show clients client_addr, client_port, state");
        assert_eq!(shown, "||active");
        let address = format!("{}/.s.PGSQL.{}", server.socket_dir.display(), server.address.port());
        assert_eq!(proxy.control("show servers address"), address);
        // psql sends a cancel request by the same way.
        kill(Pid::from_raw(asleep.id().cast_signed()), Signal::SIGINT).unwrap();
        let mut said = String::new();
        asleep.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        asleep.wait().unwrap();
        assert!(said.contains("canceling statement due to user request"), "{said}");
        proxy.signal(Signal::SIGTERM);
        assert!(proxy.wait_exit(PATIENCE).is_some_and(|status| status.success()));
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 0, "socket and lock file are gone");
    }
}

#[test]
fn a_socket_in_use_is_not_taken_and_a_stale_one_is() {
    let server = PgServer::shared(*versions().last().unwrap());
    let database = migrated(server);
    let directory = Directory::new();
    let config = |port: u16| {
        format!(
            "[upstream]\ndbname = \"{database}\"\n[listen]\nunix_socket_dir = \"{}\"\naddress = \"127.0.0.1:{port}\"\n",
            directory.0.display()
        )
    };
    let first = Proxy::start(server, &config(0));
    let port = first.clients.port();
    let socket = directory.socket(&first);
    let lock = directory.0.join(format!(".s.PGSQL.{port}.lock"));
    assert_eq!(fs::read_to_string(&lock).unwrap().trim(), first.pid().to_string());
    // The same port on another address: only the socket is in the way.
    let same = config(0).replace("127.0.0.1:0", &format!("127.0.0.2:{port}"));
    let log = Proxy::try_start(server.address, &same).err().expect("it must not start");
    assert!(log.contains("already exists") && log.contains(&first.pid().to_string()), "{log}");
    let dsn = directory.dsn(&first, &database);
    assert_eq!(psql_ok(&dsn, "select 1"), "1", "the first one was left alone");

    // Killed without a chance to clean up.
    drop(first);
    assert!(socket.exists() && lock.exists() && UnixStream::connect(&socket).is_err());
    let next = Proxy::start(server, &config(port));
    assert_eq!(psql_ok(&dsn, "select 2"), "2");
    assert_eq!(fs::read_to_string(&lock).unwrap().trim(), next.pid().to_string());
}

/// Clients that come one after the other, each with one statement, until told to stop; what went wrong.
fn come_and_go(stop: &AtomicBool, served: &AtomicU32, mut connect: impl FnMut() -> Result<(), String>) -> Vec<String> {
    let mut wrong = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match connect() {
            Ok(()) => {
                served.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => wrong.push(error),
        }
    }
    wrong
}

fn one_statement(address: SocketAddr, database: &str) -> Result<(), String> {
    let stream = std::net::TcpStream::connect(address).map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut wire = Wire::on(stream);
    let login = support::wire::startup(support::wire::V3_0, &[("user", "postgres"), ("database", database)]);
    wire.try_ask(&login).and_then(|_| wire.try_ask(&support::wire::query("select 1"))).map(drop)
}

/// Each of two processes takes over from the other, several times, while clients come and go.
fn nobody_is_refused(
    address: SocketAddr,
    database: &str,
    mut old: Proxy,
    mut start: impl FnMut() -> Proxy,
    allowed: impl Fn(&str) -> bool,
) {
    let (stop, served) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..3).map(|_| scope.spawn(|| come_and_go(&stop, &served, || one_statement(address, database)))).collect();
        for _ in 0..3 {
            let next = start();
            let before = served.load(Ordering::Relaxed);
            old.signal(Signal::SIGTERM);
            assert!(old.wait_exit(PATIENCE).is_some_and(|status| status.success()));
            assert!(eventually(PATIENCE, || served.load(Ordering::Relaxed) > before + 20), "the next one serves");
            old = next;
        }
        stop.store(true, Ordering::Relaxed);
        let wrong: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        let wrong: Vec<&String> = wrong.iter().filter(|error| !allowed(error)).collect();
        assert!(wrong.is_empty(), "{} of {served:?}: {wrong:?}", wrong.len());
    });
}

fn inheriting(listener: &TcpListener) -> Command {
    let mut command = Command::new("sh");
    // The socket becomes number 3, as a service manager hands it over; exec keeps the process id.
    let script = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 </dev/null";
    command.args(["-c", script, PROGRAM]);
    command.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    command
}

#[test]
fn a_restart_on_an_inherited_socket_refuses_nobody() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = migrated(server);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = format!("[upstream]\ndbname = \"{database}\"\n");
        let start = || Proxy::launch(server.address, &config, inheriting(&listener)).unwrap();
        let first = start();
        assert_eq!(first.clients, address, "the configured address is not bound");
        nobody_is_refused(address, &database, first, start, |_| false);
    }
}

#[test]
fn who_comes_while_nobody_is_there_waits() {
    let server = PgServer::shared(*versions().last().unwrap());
    let database = migrated(server);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = format!("[upstream]\ndbname = \"{database}\"\n");
    let mut proxy = Proxy::launch(server.address, &config, inheriting(&listener)).unwrap();
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.wait_exit(PATIENCE).is_some());
    let early = std::thread::scope(|scope| {
        let early = scope.spawn(|| one_statement(address, &database));
        let _next = Proxy::launch(server.address, &config, inheriting(&listener)).unwrap();
        early.join().unwrap()
    });
    assert_eq!(early, Ok(()));
}

#[test]
fn a_restart_on_a_shared_port_takes_the_queue_along() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = migrated(server);
        let directory = Directory::new();
        let config = |port: u16| {
            format!(
                "[upstream]\ndbname = \"{database}\"\n[listen]\nreuse_port = true\naddress = \"127.0.0.1:{port}\"\n\
                 unix_socket_dir = \"{}\"\n",
                directory.0.display()
            )
        };
        let first = Proxy::start(server, &config(0));
        let address = first.clients;
        let dsn = directory.dsn(&first, &database);
        // The kernel resets who is handed to a socket in the instant of its closing; nothing else may go wrong.
        let reset = |error: &str| error.contains("reset") || error.contains("Broken pipe");
        nobody_is_refused(address, &database, first, || Proxy::start(server, &config(address.port())), reset);
        // The last one was stopped with the test; the socket's files were its own.
        let again = Proxy::start(server, &config(address.port()));
        assert_eq!(psql_ok(&dsn, "select 1"), "1");
        let mut successor = Proxy::start(server, &config(address.port()));
        drop(again);
        assert_eq!(psql_ok(&dsn, "select 2"), "2", "the successor has the socket");
        successor.signal(Signal::SIGTERM);
        assert!(successor.wait_exit(PATIENCE).is_some());
        assert!(!psql(&dsn, "select 3").status.success());
    }
}

fn heard(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let n = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..n]).into_owned()
}

fn monotonic() -> i128 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = uptime.split_whitespace().next().unwrap().parse().unwrap();
    (seconds * 1e6) as i128
}

#[test]
fn the_service_manager_is_told() {
    let server = PgServer::shared(*versions().last().unwrap());
    let database = migrated(server);
    let directory = Directory::new();
    let path: &Path = &directory.0.join("notify");
    let manager = UnixDatagram::bind(path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new(PROGRAM);
    command.env("NOTIFY_SOCKET", path).stdin(Stdio::null());
    let config = format!("[upstream]\ndbname = \"{database}\"\n");
    let mut proxy = Proxy::launch(server.address, &config, command).unwrap();
    assert_eq!(heard(&manager), "READY=1");
    proxy.signal(Signal::SIGHUP);
    let reloading = heard(&manager);
    let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the time").parse::<i128>().unwrap();
    // The machine may have slept, which this clock leaves out and the other counts.
    assert!(at > 0 && at <= monotonic() + 1_000_000, "{at}");
    assert_eq!(heard(&manager), "READY=1");
    // Also when nothing could be changed: it serves on.
    fs::write(&proxy.config, "[listen]\nnonsense = 1\n").unwrap();
    proxy.signal(Signal::SIGHUP);
    assert!(heard(&manager).starts_with("RELOADING=1\n"));
    assert_eq!(heard(&manager), "READY=1");
    proxy.signal(Signal::SIGTERM);
    assert_eq!(heard(&manager), "STOPPING=1");
    assert!(proxy.wait_exit(Duration::from_secs(20)).is_some_and(|status| status.success()));
}
