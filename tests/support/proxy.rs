//! The proxy under test, as its own process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use toml_edit::{DocumentMut, Item, Table, value};

use super::postgres::{PgServer, new_directory};
use super::process::Watchdog;
use super::wire::Wire;
use super::{PATIENCE, eventually, psql, psql_ok};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pggit-proxy");

/// A running proxy; killed on drop.
pub struct Proxy {
    /// Where clients connect.
    pub clients: SocketAddr,
    /// The control port.
    pub control: SocketAddr,
    /// `/metrics` and the rest.
    pub http: SocketAddr,
    /// The configuration file; see [`Self::rewrite`].
    pub config: PathBuf,
    /// Where the server listens, for [`Self::rewrite`].
    upstream: SocketAddr,
    directory: PathBuf,
    child: Child,
    _watchdog: Watchdog,
}

impl Proxy {
    /// Serves with this configuration, to which addresses and `[upstream]` are added where it does not have them
    /// (database `postgres`, user `postgres`).
    pub fn start(server: &PgServer, config: &str) -> Self {
        Self::try_start(server.address, config).unwrap_or_else(|log| panic!("the proxy did not start:\n{log}"))
    }

    /// As [`Self::start`], to any address; what it wrote to its log where it ended or hung before `ready`.
    pub fn try_start(upstream: SocketAddr, config: &str) -> Result<Self, String> {
        let mut command = Command::new(PROGRAM);
        command.stdin(Stdio::null());
        Self::launch(upstream, config, command)
    }

    /// As [`Self::try_start`], by a command that runs the program with the arguments that are added here.
    pub fn launch(upstream: SocketAddr, config: &str, mut command: Command) -> Result<Self, String> {
        let directory = new_directory("proxy");
        let path = directory.join("pggit-proxy.toml");
        fs::write(&path, complete(config, upstream)).unwrap();
        let log = File::create(directory.join("log")).unwrap();
        let mut child =
            command.arg("serve").arg("--config").arg(&path).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let watchdog = Watchdog::start(child.id(), "KILL", &directory);
        let lines = announcements(&mut child);
        let mut found = [None; 3];
        let ready = loop {
            let Ok(line) = lines.recv_timeout(PATIENCE) else { break false };
            match line.split_once(' ') {
                Some(("clients", address)) => found[0] = address.parse().ok(),
                Some(("control", address)) => found[1] = address.parse().ok(),
                Some(("http", address)) => found[2] = address.parse().ok(),
                _ if line == "ready" => break true,
                _ => {}
            }
        };
        let none = SocketAddr::from(([127, 0, 0, 1], 0));
        let [clients, control, http] = found.map(|address| address.unwrap_or(none));
        let proxy = Self { clients, control, http, config: path, upstream, directory, child, _watchdog: watchdog };
        if ready && clients.port() != 0 { Ok(proxy) } else { Err(proxy.log()) }
    }

    /// A client of this database, logged in as `postgres`.
    pub fn connect(&self, database: &str) -> Wire {
        Wire::connect(self.clients, &[("user", "postgres"), ("database", database)])
    }

    /// For libpq. The database may be any carrier of a branch, such as `app/feature-x`.
    pub fn dsn(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname='{database}'", self.clients.port())
    }

    /// Runs statements through the proxy; they must succeed.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        psql_ok(&self.dsn(database), sql)
    }

    /// As [`Self::psql`], whatever comes of it.
    pub fn try_psql(&self, database: &str, sql: &str) -> Output {
        psql(&self.dsn(database), sql)
    }

    /// Runs a command on the control port, as user `admin`; it must succeed.
    pub fn control(&self, command: &str) -> String {
        psql_ok(&self.control_dsn(), command)
    }

    /// For libpq.
    pub fn control_dsn(&self) -> String {
        format!("host=127.0.0.1 port={} user=admin dbname=pggit", self.control.port())
    }

    /// Status and body of an HTTP GET.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    /// The value of one sample of `/metrics`, named as it stands there: `name{label="x"}`.
    pub fn metric(&self, sample: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == sample))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    /// Writes another configuration into its file; [`Self::signal`] SIGHUP puts it in force.
    pub fn rewrite(&self, config: &str) {
        fs::write(&self.config, complete(config, self.upstream)).unwrap();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits until it has ended by itself.
    pub fn wait_exit(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let mut status = None;
        eventually(deadline, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).expect("kB") * 1024
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the proxy's log\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Installs the `pggit` schema in a database.
pub fn migrate(server: &PgServer, database: &str) {
    let output = run(&["migrate", "up", "--database-url", &server.url(database)]);
    assert!(output.status.success(), "migrate up failed:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The same without event triggers: changes are recorded by calls that the proxy adds.
pub fn migrate_without_triggers(server: &PgServer, database: &str) {
    let output = run(&["migrate", "up", "--capture", "inject", "--database-url", &server.url(database)]);
    assert!(output.status.success(), "migrate up failed:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn complete(config: &str, upstream: SocketAddr) -> String {
    // A test of broken files wants exactly what it wrote.
    let Ok(mut document) = config.parse::<DocumentMut>() else { return config.to_owned() };
    let mut add = |table: &str, key: &str, default: Item| {
        let table = document.entry(table).or_insert(Item::Table(Table::new()));
        if let Some(table) = table.as_table_like_mut()
            && !table.contains_key(key)
        {
            table.insert(key, default);
        }
    };
    for table in ["listen", "control", "http"] {
        add(table, "address", value("127.0.0.1:0"));
    }
    add("upstream", "host", value(upstream.ip().to_string()));
    add("upstream", "port", value(i64::from(upstream.port())));
    add("upstream", "user", value("postgres"));
    add("upstream", "dbname", value("postgres"));
    document.to_string()
}

/// Its standard output line by line; the thread goes on reading so that the proxy never blocks on it.
fn announcements(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let stdout = child.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

/// The directory of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
