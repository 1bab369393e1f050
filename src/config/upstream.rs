//! `[upstream]`, its URL and its environment variables.

use std::path::Path;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;

use super::hosts::{WrittenHosts, read_hosts, read_ports, split_url};
use super::read::Environment;
use super::section::{Placed, Reader, Section, nearest, pick};
use super::tls::read_server_files;
use super::{Secret, SessionAttrs, Upstream, ValueOrigin};
use crate::branch::check_database_name;
use crate::tls::{Negotiation, Roots, ServerFiles, SslMode};

const URL: &str = "PGGIT_UPSTREAM_URL";
const PASSWORD: &str = "PGGIT_UPSTREAM_PASSWORD";
const PASSWORD_FILE: &str = "PGGIT_UPSTREAM_PASSWORD_FILE";

const CONNECT_TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);

/// Parameters of a URL's query that mean something here.
const PARAMETERS: [&str; 12] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "connect_timeout",
    "target_session_attrs",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslcert",
    "sslkey",
];

/// What a URL says; what it leaves out stays as it is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct UrlParts {
    hosts: Option<Vec<String>>,
    ports: Option<Vec<u16>>,
    dbname: Option<String>,
    user: Option<String>,
    password: Option<String>,
    connect_timeout: Option<Duration>,
    target_session_attrs: Option<SessionAttrs>,
    ssl: ServerFiles,
}

/// Reads `[upstream]`: the URL, over it the single keys, over both the environment.
pub(super) fn read_upstream(
    mut section: Section<'_>,
    reader: &Reader<'_>,
    folder: &Path,
    environment: Environment<'_>,
) -> Upstream {
    let mut upstream = Upstream::default();
    if let Some(url) = section.parsed("url", if section.has("dbname") { parse_url } else { parse_whole_url }) {
        upstream.take(url.value);
    }
    let hosts = section.parsed("host", |text| read_hosts(text, "`host`"));
    let ports = section.ports("port");
    if hosts.is_some() || ports.is_some() {
        let now = upstream.each();
        let place = ports.as_ref().map(|ports| &ports.span).or(hosts.as_ref().map(|hosts| &hosts.span)).cloned();
        let hosts = hosts.map_or_else(|| now.iter().map(|one| one.host.clone()).collect(), |hosts| hosts.value);
        let ports = ports.map_or_else(|| ports_for(&now, hosts.len()), |ports| ports.value);
        if let (Err(message), Some(place)) = (upstream.set_hosts(&hosts, &ports), place) {
            section.problem(&place, message);
        }
    }
    upstream.target_session_attrs =
        section.word("target_session_attrs", upstream.target_session_attrs, &SessionAttrs::WORDS);
    if let Some(dbname) =
        section.parsed("dbname", |text| check_database_name(text).map(|()| text.to_owned()).map_err(str::to_owned))
    {
        upstream.dbname = dbname.value;
    }
    if let Some(user) = section.parsed("user", |text| named(text, "`user`")) {
        upstream.user = user.value;
    }
    if let Ok(Some(password)) = read_secret(&mut section, folder) {
        upstream.password = Some(password);
    }
    upstream.connect_timeout = section.duration("connect_timeout", upstream.connect_timeout, CONNECT_TIMEOUT);
    upstream.ssl = read_server_files(&mut section, std::mem::take(&mut upstream.ssl), folder);
    section.finish();
    read_environment(&mut upstream, reader, environment);
    upstream
}

fn read_environment(upstream: &mut Upstream, reader: &Reader<'_>, environment: Environment<'_>) {
    if let Some(url) = environment(URL) {
        match parse_whole_url(&url) {
            Ok(parts) => {
                upstream.replace(parts);
                reader.set_by("upstream.url", ValueOrigin::Environment);
            }
            Err(message) => reader.problem_at(URL, message),
        }
    }
    let (password, file) = (environment(PASSWORD), environment(PASSWORD_FILE));
    if password.is_some() || file.is_some() {
        reader.set_by("upstream.password", ValueOrigin::Environment);
    }
    match (password, file) {
        (Some(_), Some(_)) => reader.problem_at(PASSWORD_FILE, format!("{PASSWORD} is set too; set one of them")),
        (Some(password), None) => upstream.password = Some(Secret(password)),
        (None, Some(file)) => match password_from(Path::new(&file)) {
            Ok(password) => upstream.password = Some(password),
            Err(message) => reader.problem_at(PASSWORD_FILE, message),
        },
        (None, None) => {}
    }
}

impl Upstream {
    /// Takes what the URL says; the rest stays.
    fn take(&mut self, url: UrlParts) {
        if url.hosts.is_some() || url.ports.is_some() {
            let hosts = url.hosts.unwrap_or_else(|| vec![self.host.clone()]);
            // As many ports as hosts, or one: the URL's reader has seen to it.
            let _ = self.set_hosts(&hosts, &url.ports.unwrap_or_else(|| vec![self.port]));
        }
        self.target_session_attrs = url.target_session_attrs.unwrap_or(self.target_session_attrs);
        self.dbname = url.dbname.unwrap_or_else(|| std::mem::take(&mut self.dbname));
        self.user = url.user.unwrap_or_else(|| std::mem::take(&mut self.user));
        self.password = url.password.map(Secret).or_else(|| self.password.take());
        self.connect_timeout = url.connect_timeout.unwrap_or(self.connect_timeout);
        self.ssl = url.ssl;
    }

    /// Another server: what the URL leaves out has its default, but the password and the patience stay.
    pub(super) fn replace(&mut self, url: UrlParts) {
        let default = Self::default();
        let kept = Self { password: self.password.take(), connect_timeout: self.connect_timeout, ..default };
        *self = kept;
        self.take(url);
    }
}

/// `password` or `password_file` of a section; `Err` when a problem was recorded.
pub(super) fn read_secret(section: &mut Section<'_>, folder: &Path) -> Result<Option<Secret>, ()> {
    let given = section.has("password") || section.has("password_file");
    let password = section.parsed("password", |text| {
        if text.is_empty() { Err("a password cannot be empty".to_owned()) } else { Ok(Secret(text.to_owned())) }
    });
    let file = section.parsed("password_file", |text| password_from(&folder.join(text)));
    match (password, file) {
        (Some(_), Some(Placed { span, .. })) => {
            section.problem(&span, "`password` is set too; keep one of them");
            Err(())
        }
        (Some(Placed { value, .. }), None) | (None, Some(Placed { value, .. })) => Ok(Some(value)),
        (None, None) if given => Err(()),
        (None, None) => Ok(None),
    }
}

/// The first line of a file.
fn password_from(path: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret(line.to_owned())),
        _ => Err(format!("{} holds no password in its first line", path.display())),
    }
}

/// Reads a libpq URL. The errors never repeat it: it may hold a password.
fn parse_url(text: &str) -> Result<UrlParts, String> {
    if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        return Err("the URL has to start with postgres:// or postgresql://".to_owned());
    }
    let several = split_url(text);
    let url = several.as_ref().map_or(text, |(one, _)| one.as_str());
    let url = Url::parse(url).map_err(|error| format!("the URL cannot be read: {error}"))?;
    if url.fragment().is_some() {
        return Err("the URL has a `#`; in a password it is written %23".to_owned());
    }
    let mut parts = UrlParts::default();
    if let Some((_, hosts)) = several {
        parts.take_hosts(hosts)?;
    } else {
        if let Some(host) = url.host_str().filter(|host| !host.is_empty()) {
            parts.hosts =
                Some(read_hosts(&decoded(host.trim_start_matches('[').trim_end_matches(']'))?, "the URL's host")?);
        }
        parts.ports = url.port().map(|port| vec![port]);
    }
    let path = url.path().strip_prefix('/').unwrap_or_default();
    parts.dbname = filled(path)?;
    parts.user = filled(url.username())?;
    parts.password = url.password().map(decoded).transpose()?;
    for (name, value) in url.query_pairs() {
        parts.parameter(&name, &value)?;
    }
    if let Some(name) = &parts.dbname {
        check_database_name(name)?;
    }
    let (hosts, ports) = (parts.hosts.as_ref().map_or(1, Vec::len), parts.ports.as_ref().map_or(1, Vec::len));
    if ports > 1 && ports != hosts {
        return Err(format!("the URL names {ports} ports for {hosts} hosts; name as many, or one for all"));
    }
    Ok(parts)
}

/// The ports that stay when only hosts are named: those of before where they still fit.
fn ports_for(now: &[Upstream], hosts: usize) -> Vec<u16> {
    let ports: Vec<u16> = now.iter().map(|one| one.port).collect();
    if ports.len() == hosts { ports } else { ports.into_iter().take(1).collect() }
}

impl Upstream {
    /// The server that a URL names, for a command that has a URL only. A password that it leaves out may be in PGPASSWORD.
    pub fn of_url(url: &str) -> Result<Self, String> {
        let mut upstream = Self::default();
        upstream.replace(parse_whole_url(url)?);
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        upstream.password = upstream.password.or_else(|| variable("PGPASSWORD").map(Secret));
        upstream.prepare()?;
        Ok(upstream)
    }
}

/// What a URL says of TLS, for a command that has a URL only; the rest of it is not looked at.
pub fn ssl_of_url(url: &str) -> Result<ServerFiles, String> {
    let url = Url::parse(url).map_err(|error| format!("the URL cannot be read: {error}"))?;
    let mut parts = UrlParts::default();
    for (name, value) in url.query_pairs().filter(|(name, _)| name.starts_with("ssl")) {
        parts.parameter(&name, &value)?;
    }
    Ok(parts.ssl)
}

/// As [`parse_url`], where nothing else names the database.
pub(super) fn parse_whole_url(text: &str) -> Result<UrlParts, String> {
    let parts = parse_url(text)?;
    match parts.dbname {
        Some(_) => Ok(parts),
        None => Err("the URL names no database: postgres://USER@HOST:PORT/DATABASE".to_owned()),
    }
}

impl UrlParts {
    /// Of `a:1,b,[::1]:2`; a host without a port has the standard one.
    fn take_hosts(&mut self, hosts: WrittenHosts) -> Result<(), String> {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for (host, port) in hosts {
            names.extend(read_hosts(&decoded(host.trim_start_matches('[').trim_end_matches(']'))?, "the URL's host")?);
            ports.extend(read_ports(port.as_deref().unwrap_or("5432")).map_err(|m| format!("the URL's port: {m}"))?);
        }
        (self.hosts, self.ports) = (Some(names), Some(ports));
        Ok(())
    }

    fn parameter(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "host" => self.hosts = Some(read_hosts(value, "the URL's host")?),
            "port" => self.ports = Some(read_ports(value).map_err(|message| format!("the URL's port: {message}"))?),
            "target_session_attrs" => {
                let attrs = pick("target_session_attrs", value, &SessionAttrs::WORDS);
                self.target_session_attrs = Some(attrs.map_err(|message| format!("the URL's {message}"))?);
            }
            "user" => self.user = Some(named(value, "the URL's user")?),
            "password" => self.password = Some(value.to_owned()),
            "dbname" => self.dbname = Some(value.to_owned()),
            "connect_timeout" => {
                let seconds = value.parse().ok().map(Duration::from_secs);
                let seconds = seconds.filter(|timeout| CONNECT_TIMEOUT.contains(timeout));
                self.connect_timeout = Some(seconds.ok_or("the URL's connect_timeout is in seconds, from 1 to 600")?);
            }
            "sslmode" => self.ssl.mode = Some(pick("sslmode", value, &SslMode::WORDS).map_err(of_the_url)?),
            "sslnegotiation" => {
                self.ssl.negotiation = pick("sslnegotiation", value, &Negotiation::WORDS).map_err(of_the_url)?;
            }
            "sslrootcert" => self.ssl.roots = Some(Roots::named(value, Path::new(""))),
            "sslcert" => self.ssl.certificate = Some(value.into()),
            "sslkey" => self.ssl.key = Some(value.into()),
            _ => {
                let near = nearest(name, PARAMETERS.into_iter());
                let near = near.map_or_else(|| PARAMETERS.join(", "), |near| format!("did you mean `{near}`?"));
                return Err(format!("the URL has an unknown parameter `{name}`; {near}"));
            }
        }
        Ok(())
    }
}

fn of_the_url(message: String) -> String {
    format!("the URL's {message}")
}

fn filled(text: &str) -> Result<Option<String>, String> {
    Ok(Some(decoded(text)?).filter(|text| !text.is_empty()))
}

fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| "the URL is no UTF-8 after percent-decoding".to_owned())
}

fn named(text: &str, what: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(format!("{what} cannot be empty or hold control characters"));
    }
    Ok(text.to_owned())
}
