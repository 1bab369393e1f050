//! From the file's sections to a [`Config`].

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use toml_edit::Document;

use super::branches::read_branches;
use super::listen::{read_listen, read_tcp};
use super::rules::read_rules;
use super::section::{Reader, Section};
use super::tls::{read_auth, read_listen_tls};
use super::upstream::{read_secret, read_upstream};
use super::{
    Capture, ChangesConfig, Config, ControlConfig, ControlRole, ControlUser, HistoryConfig, HttpConfig, Limits,
    LogConfig, OnFailure, Problem,
};

/// Where environment variables come from: the process, or nowhere.
pub(super) type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

/// What reading one file gave.
pub(super) struct Reading {
    pub config: Config,
    pub problems: Vec<Problem>,
    /// Every key that exists, with NAME for names that users choose.
    pub known: BTreeSet<String>,
}

/// Reads a whole file. A syntax error is the only problem then: what follows it cannot be known.
pub(super) fn read(text: &str, file: &str, environment: Environment<'_>) -> Reading {
    let reader = Reader::new(text, file);
    let mut config = Config::default();
    match Document::parse(text) {
        Ok(document) => {
            let mut top = Section::top(&reader, document.as_table());
            read_all(&mut config, &mut top, &reader, environment);
            top.finish();
        }
        Err(error) => reader.problem(&error.span().unwrap_or(0..0), one_line(error.message())),
    }
    let (problems, known, origins) = reader.finish();
    config.origins = origins;
    Reading { config, problems, known }
}

/// The section `http` of a file.
pub(super) fn read_http_alone(text: &str, file: &str) -> Result<HttpConfig, Vec<Problem>> {
    let reader = Reader::new(text, file);
    let mut http = HttpConfig::default();
    match Document::parse(text) {
        Ok(document) => http = read_http(Section::top(&reader, document.as_table()).section("http")),
        Err(error) => reader.problem(&error.span().unwrap_or(0..0), one_line(error.message())),
    }
    let (problems, ..) = reader.finish();
    if problems.is_empty() { Ok(http) } else { Err(problems) }
}

fn read_all(config: &mut Config, top: &mut Section<'_>, reader: &Reader<'_>, environment: Environment<'_>) {
    let folder = Path::new(reader.file()).parent().unwrap_or(Path::new(""));
    config.listen = read_listen(top.section("listen"), folder);
    let upstream = top.section("upstream");
    let upstream_span = upstream.span().clone();
    config.upstream = read_upstream(upstream, reader, folder, environment);
    if let Err(message) = config.upstream.prepare() {
        reader.problem(&upstream_span, message);
    }
    let auth = top.section("auth");
    let auth_span = auth.span().clone();
    config.auth = read_auth(auth);
    if let Some(message) = config.unsound_passthrough() {
        reader.problem(&auth_span, message);
    }
    config.history = read_history(top.section("history"));
    config.branches = read_branches(top.section("branches"), &config.upstream.dbname, folder);
    config.rules = read_rules(top.sections("rule"));
    config.changes = read_changes(top.section("changes"));
    config.control = read_control(top.section("control"), folder);
    config.http = read_http(top.section("http"));
    config.log = read_log(top.section("log"));
    config.limits = read_limits(top.section("limits"));
    if let Some(message) = config.shared_address() {
        top.problem(&top.span().clone(), message);
    }
}

fn read_history(mut section: Section<'_>) -> HistoryConfig {
    let default = HistoryConfig::default();
    let capture = [("auto", Capture::Auto), ("trigger", Capture::Trigger), ("inject", Capture::Inject)];
    let on_failure = [("refuse", OnFailure::Refuse), ("allow", OnFailure::Allow)];
    let history = HistoryConfig {
        capture: section.word("capture", default.capture, &capture),
        on_failure: section.word("on_failure", default.on_failure, &on_failure),
        timeout: section.duration("timeout", default.timeout, Duration::ZERO..=HOUR),
        queue: section.count("queue", default.queue, 1..=10_000_000),
    };
    section.finish();
    history
}

fn read_changes(mut section: Section<'_>) -> ChangesConfig {
    let default = ChangesConfig::default();
    let changes = ChangesConfig {
        self_approval: section.flag("self_approval", default.self_approval),
        lock_timeout: section.duration("lock_timeout", default.lock_timeout, Duration::from_millis(10)..=HOUR),
        max_open: section.number("max_open", default.max_open, 1..=1_000_000),
    };
    section.finish();
    changes
}

fn read_control(mut section: Section<'_>, folder: &Path) -> ControlConfig {
    let default = ControlConfig::default();
    let mut users: Vec<ControlUser> = Vec::new();
    for mut user in section.sections("users") {
        let span = user.span().clone();
        let name = user.text("name");
        let password = read_secret(&mut user, folder);
        let role = user.word(
            "role",
            ControlRole::Monitor,
            &[("monitor", ControlRole::Monitor), ("admin", ControlRole::Admin)],
        );
        match (name, password) {
            (Some(name), _) if name.value.is_empty() => user.problem(&name.span, "a user's name cannot be empty"),
            (Some(name), _) if users.iter().any(|user| user.name == name.value) => {
                user.problem(&name.span, format!("there is another control user \"{}\"", name.value));
            }
            (Some(name), Ok(Some(password))) => users.push(ControlUser { name: name.value, password, role }),
            (Some(_), Err(())) => {}
            (None, _) if !user.has("name") => user.problem(&span, "a control user needs a `name`"),
            (None, _) => {}
            (Some(_), Ok(None)) => user.problem(&span, "a control user needs a `password` or a `password_file`"),
        }
        user.finish();
    }
    let address = section.address_or_off("address");
    if let Some(placed) = &address
        && let Some(message) = open_control(placed.value, !users.is_empty())
    {
        section.problem(&placed.span, message);
    }
    let tls = read_listen_tls(section.section("tls"), folder);
    section.finish();
    ControlConfig { address: address.map_or(default.address, |placed| placed.value), users, tls }
}

/// What is wrong with a control port that everybody may reach.
pub(super) fn open_control(address: Option<std::net::SocketAddr>, has_users: bool) -> Option<String> {
    let address = address.filter(|address| !address.ip().to_canonical().is_loopback() && !has_users)?;
    Some(format!(
        "the control port on {address} would be open to everybody: add [[control.users]], or use a loopback address"
    ))
}

fn read_http(mut section: Section<'_>) -> HttpConfig {
    let address = section.address_or_off("address");
    section.finish();
    HttpConfig { address: address.map_or(HttpConfig::default().address, |placed| placed.value) }
}

fn read_log(mut section: Section<'_>) -> LogConfig {
    let levels = ["error", "warn", "info", "debug", "trace"].map(|level| (level, level));
    let log = LogConfig {
        level: section.word("level", "info", &levels).to_owned(),
        json: section.word("format", false, &[("text", false), ("json", true)]),
    };
    section.finish();
    log
}

fn read_limits(mut section: Section<'_>) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        login_timeout: section.duration("login_timeout", default.login_timeout, MILLISECOND..=HOUR),
        client_idle_timeout: section.duration_or_never("client_idle_timeout"),
        idle_in_transaction_timeout: section.duration_or_never("idle_in_transaction_timeout"),
        max_clients_per_user: section.number_or_none("max_clients_per_user", 0..=1_000_000),
        max_clients_per_branch: section.number_or_none("max_clients_per_branch", 0..=1_000_000),
        tcp: read_tcp(&mut section),
        max_statement_parse: section.size("max_statement_parse", default.max_statement_parse, 1 << 10..=1 << 30),
        cache_bytes: section.size("cache_bytes", default.cache_bytes, 0..=4 << 30),
        max_buffer: section.size("max_buffer", default.max_buffer, 8 << 10..=1 << 30),
        max_prepared: section.count("max_prepared", default.max_prepared, 1..=10_000_000),
        drain_timeout: section.duration("drain_timeout", default.drain_timeout, Duration::ZERO..=24 * HOUR),
        max_logged_sql: section.size("max_logged_sql", default.max_logged_sql, 1..=1 << 30),
    };
    section.finish();
    limits
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
