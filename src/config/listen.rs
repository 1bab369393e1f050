//! `[listen]`, and what concerns connections in `[limits]`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::rules::network;
use super::section::Section;
use super::tls::read_listen_tls;
use super::{Listen, TcpLimits};

/// The longest path that a unix socket can have on Linux, without its closing zero.
const MAX_SOCKET_PATH: usize = 107;

/// Longest silence that can be asked for: the kernel's own bound on keepalive times.
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);

pub(super) fn read_listen(mut section: Section<'_>, folder: &Path) -> Listen {
    let default = Listen::default();
    let listen = Listen {
        address: section.address("address").map_or(default.address, |placed| placed.value),
        unix_socket_dir: section.parsed("unix_socket_dir", socket_dir).and_then(|placed| placed.value),
        unix_socket_permissions: section
            .parsed("unix_socket_permissions", permissions)
            .map_or(default.unix_socket_permissions, |placed| placed.value),
        reuse_port: section.flag("reuse_port", default.reuse_port),
        proxy_protocol: read_proxy_protocol(&mut section),
        max_clients: section.number("max_clients", default.max_clients, 1..=1_000_000),
        workers: section.count("workers", default.workers, 0..=1024),
        tls: read_listen_tls(section.section("tls"), folder),
    };
    section.finish();
    listen
}

/// Who is believed stands next to whether anybody is: neither alone says enough.
fn read_proxy_protocol(section: &mut Section<'_>) -> Vec<IpNet> {
    let wanted = section.flag("proxy_protocol", false);
    let texts = section.texts("proxy_protocol_from");
    let mut from = Vec::new();
    for text in &texts {
        match network(&text.value) {
            Ok(network) => from.push(network),
            Err(message) => section.problem(&text.span, message),
        }
    }
    if wanted && texts.is_empty() {
        let message = "`proxy_protocol` needs `proxy_protocol_from`: the addresses of the load balancers that say it";
        section.problem(&section.span().clone(), message);
    }
    if wanted { from } else { Vec::new() }
}

pub(super) fn read_tcp(section: &mut Section<'_>) -> TcpLimits {
    TcpLimits {
        keepalive_idle: section.duration_or_none("tcp_keepalive_idle", Duration::ZERO..=MAX_KEEPALIVE),
        keepalive_interval: section.duration_or_none("tcp_keepalive_interval", Duration::ZERO..=MAX_KEEPALIVE),
        keepalive_count: section.number_or_none("tcp_keepalive_count", 0..=127),
        user_timeout: section.duration_or_none("tcp_user_timeout", Duration::ZERO..=Duration::from_secs(24 * 3600)),
    }
}

impl Section<'_> {
    /// A duration; 0 and its absence are none.
    fn duration_or_none(&mut self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        Some(self.duration(key, Duration::ZERO, range)).filter(|duration| !duration.is_zero())
    }

    /// A timeout of up to 30 days; 0 and its absence mean never.
    pub(super) fn duration_or_never(&mut self, key: &str) -> Option<Duration> {
        self.duration_or_none(key, Duration::ZERO..=Duration::from_secs(30 * 24 * 3600))
    }

    /// A number; 0 and its absence are none.
    pub(super) fn number_or_none(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u32> {
        Some(self.number(key, 0, range)).filter(|number| *number != 0)
    }
}

/// A directory, or nothing.
fn socket_dir(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('/') {
        return Err(format!("\"{text}\" is no directory; write its whole path, from /"));
    }
    if text.len() + "/.s.PGSQL.65535".len() > MAX_SOCKET_PATH {
        return Err(format!("the path of a unix socket in it would be longer than {MAX_SOCKET_PATH} bytes"));
    }
    Ok(Some(PathBuf::from(text)))
}

/// As chmod takes them: "0770".
fn permissions(text: &str) -> Result<u32, String> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => Err(format!("\"{text}\" are no permissions; write them as chmod takes them, such as \"0770\"")),
    }
}
