//! The configuration: one TOML file, read into types that cannot be wrong.
//!
//! `section` reads TOML with places, `read` makes a [`Config`] of it, the environment and the flags of the command
//! line ([`Overrides`]) go over it. Every key is written down once, where it is read.

mod auto_create;
mod branches;
mod care;
mod circles;
mod hosts;
mod listen;
mod overrides;
mod read;
mod restart;
mod rules;
mod section;
mod summary;
mod tls;
mod units;
mod upstream;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

pub use auto_create::AutoCreate;
pub use care::CareConfig;
pub use hosts::{Host, SessionAttrs};
pub use overrides::Overrides;
pub use summary::ValueOrigin;
pub use units::{parse_duration, show_duration};
pub use upstream::ssl_of_url;

use crate::branch::Branch;
use crate::policy::Rule;
use crate::tls::{ForClients, ServerFiles, ToServer};

/// The whole configuration, every value set.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `[listen]`
    pub listen: Listen,
    /// `[upstream]`
    pub upstream: Upstream,
    /// `[auth]`
    pub auth: AuthConfig,
    /// `[history]`
    pub history: HistoryConfig,
    /// `[branches]`
    pub branches: BranchConfig,
    /// `[[rule]]`, in order.
    pub rules: Vec<Rule>,
    /// `[changes]`
    pub changes: ChangesConfig,
    /// `[control]`
    pub control: ControlConfig,
    /// `[http]`
    pub http: HttpConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[limits]`
    pub limits: Limits,
    /// The flags that stand over the file, for the next reload.
    pub overrides: Overrides,
    /// Where each key that is set was set.
    pub origins: BTreeMap<String, ValueOrigin>,
}

/// Where clients connect.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Default 127.0.0.1:6432.
    pub address: SocketAddr,
    /// Directory of the unix socket `.s.PGSQL.PORT`; `None`: there is none. Default none.
    pub unix_socket_dir: Option<PathBuf>,
    /// Permissions of the unix socket. Default 0777.
    pub unix_socket_permissions: u32,
    /// Another process may listen on the same address at the same time. Default false.
    pub reuse_port: bool,
    /// Who begins a connection with a PROXY protocol header, version 2; empty: nobody. Default empty.
    pub proxy_protocol: Vec<IpNet>,
    /// More clients get 53300. Default 1000.
    pub max_clients: u32,
    /// Worker threads that relay; 0: one for each core. Default 0.
    pub workers: usize,
    /// `[listen.tls]`
    pub tls: ListenTls,
}

/// TLS with clients.
#[derive(Debug, Clone, Default)]
pub struct ListenTls {
    /// Default `disable`.
    pub mode: TlsMode,
    /// Our certificate and those between it and its authority.
    pub cert: Option<PathBuf>,
    /// Our private key.
    pub key: Option<PathBuf>,
    /// The authorities of clients' certificates; with it, a client over TLS needs one.
    pub client_ca: Option<PathBuf>,
    /// A client's certificate has to be made out to the user that logs in. Default false.
    pub user_from_certificate: bool,
    /// The files, read; `None` without TLS.
    pub ready: Option<ForClients>,
}

/// `listen.tls.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// No TLS.
    #[default]
    Disable,
    /// TLS or not, as each client likes.
    Allow,
    /// No client without TLS, but over a unix socket.
    Require,
}

/// How clients log in.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// Default `passthrough`.
    pub mode: AuthMode,
    /// A user's name and stored password, for the name in `$1`.
    pub auth_query: String,
    /// Failed logins from one address in a minute, beyond which it is refused; 0: no bound. Default 100.
    pub max_failures: u32,
}

/// `auth.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// The server asks and the client answers, through us.
    Passthrough,
    /// Where the server asks for SCRAM, we ask the client, and answer the server with what that gave.
    Scram,
}

/// The PostgreSQL server.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Host name, address, or the directory of a unix socket.
    pub host: String,
    /// Default 5432.
    pub port: u16,
    /// More hosts, tried after the first one. Default none.
    pub other_hosts: Vec<Host>,
    /// Which hosts clients' sessions may be on. Default any.
    pub target_session_attrs: SessionAttrs,
    /// The repository's main database.
    pub dbname: String,
    /// The recorder's role.
    pub user: String,
    /// The recorder's password; never shown.
    pub password: Option<Secret>,
    /// How long a connection to the server may take. Default 5 s.
    pub connect_timeout: Duration,
    /// `sslmode` and its companions.
    pub ssl: ServerFiles,
    /// The same with its files read; `None` where there is no TLS to this server.
    pub tls: Option<ToServer>,
    /// Where the recorder connects instead, as a unix socket's directory: the program's own road over TLS.
    pub road: Option<PathBuf>,
}

/// A text that Debug and Display never show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

/// How changes are recorded.
#[derive(Debug, Clone)]
pub struct HistoryConfig {
    /// Default `auto`.
    pub capture: Capture,
    /// Default `refuse`.
    pub on_failure: OnFailure,
    /// How long DDL waits for a history that cannot be written before it is refused. Default 5 s.
    pub timeout: Duration,
    /// How many statement facts may wait for the recorder. Default 10000.
    pub queue: usize,
}

/// `history.capture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// As the migration left the database: event triggers where it could install them, else calls added to statements.
    Auto,
    /// Event triggers, or the branch counts as broken.
    Trigger,
    /// Calls added to statements, or the branch counts as broken.
    Inject,
}

/// What happens to DDL that cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It is refused with `PG003`.
    Refuse,
    /// It passes, and is counted.
    Allow,
}

/// Branches declared in the file.
#[derive(Debug, Clone)]
pub struct BranchConfig {
    /// Default `main`.
    pub default: String,
    /// The pg_dump that branches are made with; `None`: the newest that is found. Default none.
    pub pg_dump: Option<PathBuf>,
    /// Those that a connection to them makes.
    pub auto_create: AutoCreate,
    /// Declared branches, in the file's order.
    pub declared: Vec<Branch>,
    /// The default branch is declared without a database: it is in the main database, whatever that is.
    pub default_in_main: bool,
    /// How schema changes are run, on every branch.
    pub care: CareConfig,
    /// The same for branches of which more is said, by name.
    pub cares: BTreeMap<String, CareConfig>,
}

/// Change requests.
#[derive(Debug, Clone, Copy)]
pub struct ChangesConfig {
    /// Whether who asked for a change may approve it. Default false.
    pub self_approval: bool,
    /// How long one try to apply a change waits for locks. Default 2 s.
    pub lock_timeout: Duration,
    /// Requests that may be open at a time. Default 1000.
    pub max_open: u32,
}

/// The control port.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Default 127.0.0.1:6433; `None` turns it off.
    pub address: Option<SocketAddr>,
    /// Who may log in. Empty: anybody on a loopback address, as admin.
    pub users: Vec<ControlUser>,
    /// TLS with whoever logs in. Default none.
    pub tls: ListenTls,
}

/// One control user.
#[derive(Debug, Clone)]
pub struct ControlUser {
    /// Login name.
    pub name: String,
    /// Password for SCRAM-SHA-256.
    pub password: Secret,
    /// What it may do.
    pub role: ControlRole,
}

/// What a control user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlRole {
    /// SHOW only.
    Monitor,
    /// Everything.
    Admin,
}

/// The HTTP endpoint.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Default 127.0.0.1:9632; `None` turns it off.
    pub address: Option<SocketAddr>,
}

/// The log.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`. Default `info`.
    pub level: String,
    /// One JSON object a line instead of text. Default false.
    pub json: bool,
}

/// Every bound.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From connect to the end of authentication. Default 60 s.
    pub login_timeout: Duration,
    /// Sessions that are idle for so long end with 57P05; `None`: never. Default none.
    pub client_idle_timeout: Option<Duration>,
    /// Sessions that are idle in a transaction for so long end with 25P03; `None`: never. Default none.
    pub idle_in_transaction_timeout: Option<Duration>,
    /// Clients of one user that are logged in; `None`: as many as `listen.max_clients`. Default none.
    pub max_clients_per_user: Option<u32>,
    /// Clients of one branch that are logged in; `None`: as many as `listen.max_clients`. Default none.
    pub max_clients_per_branch: Option<u32>,
    /// TCP connections to clients and to the server.
    pub tcp: TcpLimits,
    /// Texts up to this size are held and classified; longer ones are relayed as they come, unread,
    /// and rules treat them as DDL. Default 16 MiB.
    pub max_statement_parse: usize,
    /// Statement cache of one worker thread. Default 4 MiB.
    pub cache_bytes: usize,
    /// Waiting bytes in one direction of one client. Default 256 KiB.
    pub max_buffer: usize,
    /// Named prepared statements of one client whose class is remembered. Default 10000.
    pub max_prepared: usize,
    /// How long a draining process waits for busy sessions. Default 60 s.
    pub drain_timeout: Duration,
    /// Characters of a statement kept in `pggit.statements.sql`. Default 1 MiB.
    pub max_logged_sql: usize,
}

/// How a peer that vanished without a word is noticed; `None` and 0: as the system does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpLimits {
    /// Silence before the first probe.
    pub keepalive_idle: Option<Duration>,
    /// Between probes.
    pub keepalive_interval: Option<Duration>,
    /// Unanswered probes that end the connection.
    pub keepalive_count: Option<u32>,
    /// How long sent bytes may stay unacknowledged.
    pub user_timeout: Option<Duration>,
}

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `file:line:column`, or a flag or variable.
    pub place: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Config {
    /// Reads and checks a file, and the environment. All problems, not only the first.
    pub fn load(path: &Path) -> Result<Self, Vec<Problem>> {
        let (text, file) = Self::text(path)?;
        Self::checked(read::read(&text, &file, &environment))
    }

    /// Where `/healthz` and `/readyz` are, by the file's section `http` alone: in the others there may be secrets that whoever asks
    /// cannot read, or changes that are not done yet. `None`: nowhere.
    pub fn http_address(path: Option<&Path>) -> Result<Option<SocketAddr>, Vec<Problem>> {
        let Some(path) = path else { return Ok(HttpConfig::default().address) };
        let (text, file) = Self::text(path)?;
        read::read_http_alone(&text, &file).map(|http| http.address)
    }

    fn text(path: &Path) -> Result<(String, String), Vec<Problem>> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Ok((text, file)),
            Err(error) => Err(vec![Problem { place: file, message: format!("cannot be read: {error}") }]),
        }
    }

    /// The default configuration under the environment, for a start without a file.
    pub fn from_environment() -> Result<Self, Vec<Problem>> {
        Self::checked(read::read("", "", &environment))
    }

    /// Reads and checks a text, without the environment. `file` stands in problems, and files that the text names
    /// are looked for beside it.
    pub fn parse(text: &str, file: &str) -> Result<Self, Vec<Problem>> {
        Self::checked(read::read(text, file, &|_| None))
    }

    /// Every key that a file may hold, with NAME for names that users choose.
    pub fn known_keys() -> Vec<String> {
        let one_of_each = "[branches.NAME]\n[[rule]]\n[[control.users]]\n";
        read::read(one_of_each, "", &|_| None).known.into_iter().collect()
    }

    fn checked(reading: read::Reading) -> Result<Self, Vec<Problem>> {
        if reading.problems.is_empty() { Ok(reading.config) } else { Err(reading.problems) }
    }
}

/// A variable that is set and not empty.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 6432)),
            unix_socket_dir: None,
            unix_socket_permissions: 0o777,
            reuse_port: false,
            proxy_protocol: Vec::new(),
            max_clients: 1000,
            workers: 0,
            tls: ListenTls::default(),
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 5432,
            other_hosts: Vec::new(),
            target_session_attrs: SessionAttrs::Any,
            dbname: "postgres".into(),
            user: "postgres".into(),
            password: None,
            connect_timeout: Duration::from_secs(5),
            ssl: ServerFiles::default(),
            tls: None,
            road: None,
        }
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            mode: AuthMode::Passthrough,
            // An expired password is none, as for the server.
            auth_query: "SELECT rolname::text, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END \
                         FROM pg_catalog.pg_authid WHERE rolname = $1"
                .to_owned(),
            max_failures: 100,
        }
    }
}

impl Default for ChangesConfig {
    fn default() -> Self {
        Self { self_approval: false, lock_timeout: Duration::from_secs(2), max_open: 1000 }
    }
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { capture: Capture::Auto, on_failure: OnFailure::Refuse, timeout: Duration::from_secs(5), queue: 10_000 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            login_timeout: Duration::from_secs(60),
            client_idle_timeout: None,
            idle_in_transaction_timeout: None,
            max_clients_per_user: None,
            max_clients_per_branch: None,
            tcp: TcpLimits::default(),
            max_statement_parse: 16 << 20,
            cache_bytes: 4 << 20,
            max_buffer: 256 << 10,
            max_prepared: 10_000,
            drain_timeout: Duration::from_secs(60),
            max_logged_sql: 1 << 20,
        }
    }
}

impl Default for BranchConfig {
    fn default() -> Self {
        Self {
            default: "main".into(),
            pg_dump: None,
            auto_create: AutoCreate::default(),
            declared: Vec::new(),
            default_in_main: false,
            care: CareConfig::default(),
            cares: BTreeMap::new(),
        }
    }
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self { address: Some(SocketAddr::from(([127, 0, 0, 1], 6433))), users: Vec::new(), tls: ListenTls::default() }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { address: Some(SocketAddr::from(([127, 0, 0, 1], 9632))) }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), json: false }
    }
}
