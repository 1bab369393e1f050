//! Throw-away PostgreSQL servers.

use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use super::certs::{Certs, write_private};
use super::process::Watchdog;
use super::{eventually, psql, psql_ok};

/// A major version of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pg(pub u32);

impl Pg {
    pub const V15: Pg = Pg(15);
    pub const V16: Pg = Pg(16);
    pub const V17: Pg = Pg(17);
    pub const V18: Pg = Pg(18);
}

/// The versions to test against: `PGGIT_TEST_VERSIONS`, or 15 and 18.
pub fn versions() -> Vec<Pg> {
    let wanted = std::env::var("PGGIT_TEST_VERSIONS").unwrap_or_default();
    let all: Vec<Pg> = wanted
        .split([',', ' '])
        .filter(|word| !word.is_empty())
        .map(|word| Pg(word.parse().expect("PGGIT_TEST_VERSIONS is a list of major versions")))
        .collect();
    if all.is_empty() { vec![Pg::V15, Pg::V18] } else { all }
}

/// A running server; stopped and removed on drop.
pub struct PgServer {
    pub version: Pg,
    /// 127.0.0.1 and its port.
    pub address: SocketAddr,
    /// The directory of the unix socket.
    pub socket_dir: PathBuf,
    /// Its server programs.
    pub bin: PathBuf,
    directory: PathBuf,
    child: Child,
    _watchdog: Watchdog,
}

/// What may differ from a plain server.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    version: Option<Pg>,
    config: Vec<String>,
    hba: Vec<String>,
    /// Files of the data directory that nobody else may read.
    files: Vec<(String, String)>,
}

impl Builder {
    /// A line for postgresql.conf.
    pub fn config(mut self, line: &str) -> Self {
        self.config.push(line.to_owned());
        self
    }

    /// A line for pg_hba.conf, before the ones that trust everybody; the first line that matches decides.
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// Users other than `postgres` log in over TCP by this method: `md5`, `scram-sha-256`, `password`, `trust`.
    pub fn auth(self, method: &str) -> Self {
        let encryption = if method == "md5" { "md5" } else { "scram-sha-256" };
        self.hba("host all postgres all trust")
            .hba(&format!("host all all all {method}"))
            .config(&format!("password_encryption = '{encryption}'"))
    }

    /// TLS with the certificate `FILE.crt` and its key; clients' certificates are believed as `root.crt` says.
    pub fn tls(mut self, certs: &Certs, file: &str) -> Self {
        let (certificate, key) = (format!("{file}.crt"), format!("{file}.key"));
        for (from, to) in [(&*certificate, "server.crt"), (&*key, "server.key"), ("root.crt", "root.crt")] {
            self.files.push((to.to_owned(), fs::read_to_string(certs.path(from)).unwrap()));
        }
        self.config("ssl = on").config("ssl_ca_file = 'root.crt'")
    }

    /// Starts it.
    pub fn start(self) -> PgServer {
        PgServer::launch(self)
    }
}

impl PgServer {
    /// A server that trusts everybody, superuser `postgres`.
    pub fn start(version: Pg) -> Self {
        Self::with(version).start()
    }

    /// A server with options.
    pub fn with(version: Pg) -> Builder {
        Builder { version: Some(version), ..Builder::default() }
    }

    /// A client program of this server's version.
    pub fn client_program(&self, name: &str) -> PathBuf {
        client_program(self.version, &self.bin, name)
    }

    /// The schema as pg_dump prints it, without what differs from call to call.
    pub fn schema_dump(&self, database: &str, more: &[&str]) -> String {
        let output = Command::new(self.client_program("pg_dump"))
            .args(["-s", "-h", "127.0.0.1", "-p", &self.address.port().to_string(), "-U", "postgres"])
            .args(more)
            .arg(database)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let own = |line: &&str| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict ");
        text.lines().filter(own).collect::<Vec<_>>().join("\n")
    }

    /// One server of this version for all tests of this test binary; give each test its own database.
    pub fn shared(version: Pg) -> &'static Self {
        static SERVERS: [OnceLock<PgServer>; 64] = [const { OnceLock::new() }; 64];
        SERVERS[version.0 as usize].get_or_init(|| Self::start(version))
    }

    /// A database with this prefix and a number that no other has.
    pub fn unique_database(&self, prefix: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.create_database(&format!("{prefix}_{}_{number}", std::process::id()))
    }

    /// A database of exactly this name.
    pub fn create_database(&self, name: &str) -> String {
        self.psql("postgres", &format!("create database \"{name}\""));
        name.to_owned()
    }

    /// A new directory of the server's, gone with it.
    pub fn owned_directory(&self, name: &str) -> PathBuf {
        let directory = self.directory.join(name);
        fs::create_dir(&directory).unwrap();
        own(&directory);
        directory
    }

    /// For libpq and for `--database-url`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address)
    }

    /// Runs statements directly on the server, as superuser; they must succeed.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        psql_ok(&self.url(database), sql)
    }

    /// As [`Self::psql`], whatever comes of it.
    pub fn try_psql(&self, database: &str, sql: &str) -> std::process::Output {
        psql(&self.url(database), sql)
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops the server at once, as a crash would; its clients' sockets close.
    pub fn stop(&mut self) {
        // Of one that has ended, the number may be somebody else's by now.
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGQUIT);
        if !eventually(super::PATIENCE, || matches!(self.child.try_wait(), Ok(Some(_)))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// Starts it again on the same address and data after [`Self::stop`].
    pub fn restart(&mut self) {
        self.stop();
        self.child = spawn(&self.bin, &self.directory);
        self._watchdog = Watchdog::start(self.child.id(), "QUIT", &self.directory);
        let is_ready = wait_ready(&mut self.child, &self.directory);
        assert!(is_ready, "the server did not come back, {:?}:\n{}", self.child.try_wait(), self.log());
    }

    /// A standby that follows the server behind this address, by its own pg_basebackup; ready for queries.
    pub fn standby(&self, primary: SocketAddr) -> Self {
        let directory = new_directory("standby");
        let data = directory.join("data");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let from = ["-h", "127.0.0.1", "-p", &primary.port().to_string(), "-U", "postgres"].map(str::to_owned);
        run(as_owner(&self.bin.join("pg_basebackup"))
            .args(from)
            .args(["-X", "stream", "-c", "fast", "-R", "-D"])
            .arg(&data));
        let mut config = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        let sockets = directory.display();
        writeln!(config, "port = {port}\nunix_socket_directories = '{sockets}'").unwrap();
        let mut child = spawn(&self.bin, &directory);
        let watchdog = Watchdog::start(child.id(), "QUIT", &directory);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let ready = wait_ready(&mut child, &directory);
        let socket_dir = directory.clone();
        let bin = self.bin.clone();
        let standby = Self { version: self.version, address, socket_dir, bin, directory, child, _watchdog: watchdog };
        assert!(ready, "the standby did not start:\n{}", standby.log());
        standby
    }

    fn launch(options: Builder) -> Self {
        let version = options.version.expect("a version was chosen");
        let bin = binaries(version);
        // Between finding a free port and using it, somebody else may take it.
        for _ in 0..10 {
            let directory = new_directory(&format!("pg{}", version.0));
            let data = directory.join("data");
            run(Command::new("cp").arg("-r").arg(template(version, &bin)).arg(&data));
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            configure(&data, &directory, port, &options);
            own(&directory);
            let mut child = spawn(&bin, &directory);
            let watchdog = Watchdog::start(child.id(), "QUIT", &directory);
            if wait_ready(&mut child, &directory) {
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                let socket_dir = directory.clone();
                return Self { version, address, socket_dir, bin, directory, child, _watchdog: watchdog };
            }
            let _ = child.kill();
            let _ = child.wait();
            let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
            let _ = fs::remove_dir_all(&directory);
            assert!(log.contains("Address already in use"), "PostgreSQL {} did not start:\n{log}", version.0);
        }
        panic!("no free port found for PostgreSQL {}", version.0);
    }
}

impl Drop for PgServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(40).collect::<Vec<_>>();
            eprintln!("--- end of the server's log");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        self.stop();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The directory with `initdb` and `postgres` of that version: `PGGIT_TEST_PG` (directories, separated by colons),
/// `.cache/postgres/N`, Debian's.
pub fn binaries(version: Pg) -> PathBuf {
    let named = std::env::var("PGGIT_TEST_PG").unwrap_or_default();
    let mut places: Vec<PathBuf> = named.split(':').filter(|place| !place.is_empty()).map(PathBuf::from).collect();
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/postgres").join(version.0.to_string()));
    places.push(Path::new("/usr/lib/postgresql").join(version.0.to_string()));
    let is_it = |bin: &Path| {
        let output = Command::new(bin.join("postgres")).arg("--version").output();
        let wanted = format!("(PostgreSQL) {}.", version.0);
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(&wanted))
    };
    places
        .iter()
        .flat_map(|place| [place.join("bin"), place.clone()])
        .find(|bin| is_it(bin))
        .map(|bin| bin.canonicalize().unwrap())
        .unwrap_or_else(|| panic!("no PostgreSQL {} here: run `scripts/setup.sh tests`", version.0))
}

/// `pg_dump` and the like, of the server's own version: beside its programs, or where `scripts/setup.sh tests` put them.
fn client_program(version: Pg, bin: &Path, name: &str) -> PathBuf {
    let fetched = super::proxy::root().join(format!(".cache/clients/{}/bin", version.0));
    [bin, &fetched]
        .map(|place| place.join(name))
        .into_iter()
        .find(|program| program.exists())
        .unwrap_or_else(|| panic!("no {name} of PostgreSQL {} here: run `scripts/setup.sh tests`", version.0))
}

/// PostgreSQL refuses to run as root: then it runs as `postgres`, or as `nobody`.
fn unprivileged() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
        if !geteuid().is_root() {
            return None;
        }
        let known = |name| User::from_name(name).ok().flatten();
        let user = known("postgres").or_else(|| known("nobody")).expect("a user postgres or nobody");
        Some((user.uid.as_raw(), user.gid.as_raw()))
    })
}

fn as_owner(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = unprivileged() {
        command.uid(uid).gid(gid);
    }
    // The locale and time zone of whoever runs the tests do not matter.
    command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
    command
}

fn own(directory: &Path) {
    if let Some((uid, gid)) = unprivileged() {
        run(Command::new("chown").arg("-R").arg(format!("{uid}:{gid}")).arg(directory));
    }
}

/// A new directory that only the server's owner may enter; its path is short, for it holds the unix socket.
pub fn new_directory(what: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let base = if unprivileged().is_some() { PathBuf::from("/tmp") } else { std::env::temp_dir() };
    let directory = base.join(format!("pggit-test-{what}-{}-{number}", std::process::id()));
    // Left behind by a process of the same number that was killed together with its watchdog.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    if let Some((uid, gid)) = unprivileged() {
        chown(&directory, Some(uid), Some(gid)).unwrap();
    }
    directory
}

/// A data directory to copy from: initdb takes seconds. Made once for each build directory and server version.
fn template(version: Pg, bin: &Path) -> PathBuf {
    let full = Command::new(bin.join("postgres")).arg("--version").output().unwrap().stdout;
    let full: String =
        String::from_utf8_lossy(&full).chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(base).unwrap();
    let finished = base.join(format!("pg-template-1-{full}"));
    // Test binaries and threads may come here together.
    let lock = File::create(base.join(format!("pg-template-{}.lock", version.0))).unwrap();
    lock.lock().unwrap();
    if finished.exists() {
        return finished;
    }
    let directory = new_directory("initdb");
    let data = directory.join("data");
    run(as_owner(&bin.join("initdb"))
        .args(["-N", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"])
        .arg(&data)
        .stdout(Stdio::null()));
    let half = base.join(format!("pg-template-{}.half", version.0));
    let _ = fs::remove_dir_all(&half);
    run(Command::new("cp").arg("-r").arg(&data).arg(&half));
    fs::rename(&half, &finished).unwrap();
    let _ = fs::remove_dir_all(&directory);
    finished
}

fn configure(data: &Path, directory: &Path, port: u16, options: &Builder) {
    let mut config = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
    writeln!(
        config,
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\n\
         fsync = off\nfull_page_writes = off\nshared_buffers = 32MB\nmax_prepared_transactions = 20\n\
         max_connections = 150\nlog_line_prefix = '%m [%p] %a '\ntimezone = 'UTC'\nlog_timezone = 'UTC'",
        directory.display()
    )
    .unwrap();
    options.config.iter().for_each(|line| writeln!(config, "{line}").unwrap());
    let mut hba = options.hba.join("\n");
    hba.push_str(
        "\nlocal all all trust\nhost all all 127.0.0.1/32 trust\nlocal replication all trust\n\
         host replication all 127.0.0.1/32 trust\n",
    );
    fs::write(data.join("pg_hba.conf"), hba).unwrap();
    options.files.iter().for_each(|(name, text)| write_private(&data.join(name), text));
    fs::set_permissions(data, fs::Permissions::from_mode(0o700)).unwrap();
}

fn spawn(bin: &Path, directory: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap();
    let _ = fs::remove_file(directory.join("data/postmaster.pid"));
    as_owner(&bin.join("postgres"))
        .arg("-D")
        .arg(directory.join("data"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The server writes its state into the eighth line of postmaster.pid; pg_ctl waits the same way.
fn wait_ready(child: &mut Child, directory: &Path) -> bool {
    let mut ready = false;
    eventually(super::PATIENCE, || {
        let file = fs::read_to_string(directory.join("data/postmaster.pid")).unwrap_or_default();
        ready = file.lines().nth(7).is_some_and(|line| line.trim() == "ready");
        ready || matches!(child.try_wait(), Ok(Some(_)))
    });
    ready
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?} failed");
}
