//! Several hosts of one server, as libpq names them: `host = "a,b"`, `port = "5432,5433"`, `target_session_attrs`.
//!
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-MULTIPLE-HOSTS>

use std::path::PathBuf;

use super::Upstream;
use crate::tls::ToServer;

/// Hosts that one configuration may name.
const MAX_HOSTS: usize = 16;

/// Another host of the server.
#[derive(Debug, Clone)]
pub struct Host {
    /// Host name, address, or the directory of a unix socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// As [`Upstream::tls`], for this host's name.
    pub tls: Option<ToServer>,
    /// As [`Upstream::road`].
    pub road: Option<PathBuf>,
}

/// Hosts of a URL as they stand there, each with its port if it has one.
pub(super) type WrittenHosts = Vec<(String, Option<String>)>;

/// Which of the hosts a session may be on: `target_session_attrs`, in libpq's words and meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SessionAttrs {
    /// Any that can be reached.
    #[default]
    Any,
    /// One that takes writes.
    ReadWrite,
    /// One that takes none, a standby or by its setting.
    ReadOnly,
    /// No standby.
    Primary,
    /// A standby.
    Standby,
    /// A standby, or any where there is none.
    PreferStandby,
}

impl SessionAttrs {
    /// The words, in libpq's order.
    pub(super) const WORDS: [(&'static str, Self); 6] = [
        ("any", Self::Any),
        ("read-write", Self::ReadWrite),
        ("read-only", Self::ReadOnly),
        ("primary", Self::Primary),
        ("standby", Self::Standby),
        ("prefer-standby", Self::PreferStandby),
    ];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, attrs)| *attrs == self).map_or("any", |(word, _)| word)
    }
}

impl Upstream {
    /// The same server at each of its hosts alone, in the order in which they are tried.
    pub fn each(&self) -> Vec<Self> {
        let first = Self { other_hosts: Vec::new(), ..self.clone() };
        let other = |host: &Host| Self {
            host: host.host.clone(),
            port: host.port,
            tls: host.tls.clone(),
            road: host.road.clone(),
            ..first.clone()
        };
        let others: Vec<Self> = self.other_hosts.iter().map(other).collect();
        std::iter::once(first).chain(others).collect()
    }

    /// Hosts and ports as they would be written.
    pub(super) fn written(&self) -> (String, String) {
        let hosts: Vec<&str> =
            std::iter::once(self.host.as_str()).chain(self.other_hosts.iter().map(|host| host.host.as_str())).collect();
        let ports = std::iter::once(self.port).chain(self.other_hosts.iter().map(|host| host.port));
        let mut ports: Vec<String> = ports.map(|port| port.to_string()).collect();
        if ports.iter().all(|port| *port == ports[0]) {
            ports.truncate(1);
        }
        (hosts.join(","), ports.join(","))
    }

    /// Takes hosts and ports as they are written; as many ports as hosts, or one for all.
    pub(super) fn set_hosts(&mut self, hosts: &[String], ports: &[u16]) -> Result<(), String> {
        let (Some(first), Some(port)) = (hosts.first(), ports.first()) else { return Ok(()) };
        if ports.len() > 1 && ports.len() != hosts.len() {
            return Err(format!(
                "there are {} ports for {} hosts; name as many, or one for all",
                ports.len(),
                hosts.len()
            ));
        }
        self.host.clone_from(first);
        self.port = *port;
        let port = |at: usize| ports.get(at).copied().unwrap_or(*port);
        let others = hosts.iter().enumerate().skip(1);
        let other = |(at, host): (usize, &String)| Host { host: host.clone(), port: port(at), tls: None, road: None };
        self.other_hosts = others.map(other).collect();
        Ok(())
    }
}

/// `a,b`
pub(super) fn read_hosts(text: &str, what: &str) -> Result<Vec<String>, String> {
    let hosts: Vec<String> = text.split(',').map(|host| host.trim().to_owned()).collect();
    if hosts.iter().any(|host| host.is_empty() || host.chars().any(char::is_control)) {
        return Err(format!("{what} cannot be empty or hold control characters"));
    }
    if hosts.len() > MAX_HOSTS {
        return Err(format!("{what} names more than {MAX_HOSTS} hosts"));
    }
    Ok(hosts)
}

/// `5432,5433`
pub(super) fn read_ports(text: &str) -> Result<Vec<u16>, String> {
    let port = |text: &str| text.trim().parse().ok().filter(|port: &u16| *port > 0);
    let ports: Option<Vec<u16>> = text.split(',').map(port).collect();
    ports.ok_or_else(|| format!("\"{text}\" is no port, nor a list such as \"5432,5433\""))
}

/// A URL of several hosts, `postgres://user@a:1,b:2/db`, as one with the first host only, and all hosts; `None` where it
/// names one or none. The `url` crate knows no such URLs.
pub(super) fn split_url(text: &str) -> Option<(String, WrittenHosts)> {
    let (scheme, rest) = text.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
    if !hosts.contains(',') {
        return None;
    }
    let parts = hosts.split(',').map(|part| match part.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host.to_owned(), Some(port.to_owned())),
        _ => (part.to_owned(), None),
    });
    let at = if user.is_empty() { "" } else { "@" };
    Some((format!("{scheme}://{user}{at}several{path}"), parts.collect()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_several_hosts_are_taken_apart() {
        let (one, hosts) = split_url("postgres://u:p%40@a:1,[::1]:2,c/db?x=1").unwrap();
        assert_eq!(one, "postgres://u:p%40@several/db?x=1");
        let named = |host: &str, port: Option<&str>| (host.to_owned(), port.map(str::to_owned));
        assert_eq!(hosts, [named("a", Some("1")), named("[::1]", Some("2")), named("c", None)]);
        assert_eq!(split_url("postgres://u@a:1/db?options=a,b"), None);
    }

    #[test]
    fn one_port_is_for_all_hosts() {
        let mut upstream = Upstream::default();
        let hosts = ["a", "b"].map(str::to_owned);
        upstream.set_hosts(&hosts, &[7]).unwrap();
        let second = |upstream: &Upstream| (upstream.each()[1].host.clone(), upstream.each()[1].port);
        assert_eq!(second(&upstream), ("b".to_owned(), 7));
        assert_eq!(upstream.written(), ("a,b".to_owned(), "7".to_owned()));
        upstream.set_hosts(&hosts, &[7, 8]).unwrap();
        assert_eq!(second(&upstream).1, 8);
        assert_eq!(upstream.written().1, "7,8");
        assert!(upstream.set_hosts(&hosts, &[7, 8, 9]).is_err());
        assert!(read_hosts("a,,b", "`host`").is_err() && read_ports("1,x").is_err() && read_ports("0").is_err());
    }
}
