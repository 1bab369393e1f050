//! The configuration as rows, for `SHOW CONFIG` and `check`.

use std::path::PathBuf;

use super::units::{show_duration, show_size};
use super::{Capture, CareConfig, Config, ControlRole, ListenTls, OnFailure};
use crate::policy::Rule;
use crate::policy::lint::LintAction;

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueOrigin {
    /// Nobody set it.
    Default,
    /// The file.
    File,
    /// A `PGGIT_*` variable.
    Environment,
    /// A flag of the command line.
    Flag,
}

impl ValueOrigin {
    /// The word in `SHOW CONFIG`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

impl Config {
    /// Every key in dotted notation, its value, and `default`, `file`, `environment` or `flag`. Secrets are `***`.
    pub fn summary(&self) -> Vec<(String, String, String)> {
        let mut rows = Vec::new();
        for (key, value) in self.values() {
            let origin = self.origin(&key).as_str().to_owned();
            rows.push((key, value, origin));
        }
        rows
    }

    fn origin(&self, key: &str) -> ValueOrigin {
        let own = self.origins.get(key).copied();
        let url = || self.origins.get("upstream.url").copied().filter(|_| key.starts_with("upstream."));
        let file = || self.origins.get("upstream.password_file").copied().filter(|_| key == "upstream.password");
        own.or_else(file).or_else(url).unwrap_or(ValueOrigin::Default)
    }

    fn values(&self) -> Vec<(String, String)> {
        let mut rows: Vec<(String, String)> = Vec::new();
        let mut row = |key: &str, value: String| rows.push((key.to_owned(), value));
        row("listen.address", self.listen.address.to_string());
        let socket_dir = self.listen.unix_socket_dir.as_ref().map(|dir| dir.display().to_string());
        row("listen.unix_socket_dir", socket_dir.unwrap_or_default());
        row("listen.unix_socket_permissions", format!("{:04o}", self.listen.unix_socket_permissions));
        row("listen.reuse_port", self.listen.reuse_port.to_string());
        row("listen.proxy_protocol", (!self.listen.proxy_protocol.is_empty()).to_string());
        let networks: Vec<String> = self.listen.proxy_protocol.iter().map(ToString::to_string).collect();
        row("listen.proxy_protocol_from", networks.join(", "));
        row("listen.max_clients", self.listen.max_clients.to_string());
        row("listen.workers", self.listen.workers.to_string());
        show_tls("listen.tls", &self.listen.tls, &mut row);
        let server = &self.upstream.ssl;
        let (hosts, ports) = self.upstream.written();
        row("upstream.host", hosts);
        row("upstream.port", ports);
        row("upstream.target_session_attrs", self.upstream.target_session_attrs.as_str().to_owned());
        row("upstream.dbname", self.upstream.dbname.clone());
        row("upstream.user", self.upstream.user.clone());
        row("upstream.password", self.upstream.password.as_ref().map(|_| "***").unwrap_or_default().to_owned());
        row("upstream.connect_timeout", show_duration(self.upstream.connect_timeout));
        row("upstream.sslmode", server.mode().as_str().to_owned());
        row("upstream.sslnegotiation", server.negotiation.as_str().to_owned());
        row("upstream.sslrootcert", server.roots.as_ref().map(ToString::to_string).unwrap_or_default());
        row("upstream.sslcert", show_path(&server.certificate));
        row("upstream.sslkey", show_path(&server.key));
        row("auth.mode", self.auth.mode.as_str().to_owned());
        row("auth.auth_query", self.auth.auth_query.clone());
        row("auth.max_failures", self.auth.max_failures.to_string());
        row("history.capture", self.history.capture.as_str().to_owned());
        row("history.on_failure", self.history.on_failure.as_str().to_owned());
        row("history.timeout", show_duration(self.history.timeout));
        row("history.queue", self.history.queue.to_string());
        row("branches.default", self.branches.default.clone());
        row("branches.pg_dump", show_path(&self.branches.pg_dump));
        let auto = &self.branches.auto_create;
        row("branches.auto_create", auto.written());
        row("branches.auto_create_ttl", show_duration(auto.ttl.unwrap_or_default()));
        row("branches.auto_create_max", auto.max.to_string());
        let every = &self.branches.care;
        row("branches.lint", show_lint(every.lint.flatten()));
        row("branches.lint_exclude", every.exclude.as_deref().unwrap_or_default().join(", "));
        row("branches.lint_include", every.include.as_deref().unwrap_or_default().join(", "));
        row("branches.ddl_lock_timeout", show_duration(every.lock_timeout.unwrap_or(CareConfig::LOCK_TIMEOUT)));
        for branch in &self.branches.declared {
            let care = self.care(&branch.name, branch.protected);
            let own = self.branches.cares.get(&branch.name);
            let rules = |pick: fn(&CareConfig) -> &Option<Vec<String>>| {
                own.and_then(|own| pick(own).as_deref()).or(pick(every).as_deref()).unwrap_or_default().join(", ")
            };
            row(&format!("branches.{}.lint", branch.name), show_lint(care.lint.map(|lint| lint.action)));
            row(&format!("branches.{}.lint_exclude", branch.name), rules(|care| &care.exclude));
            row(&format!("branches.{}.lint_include", branch.name), rules(|care| &care.include));
            row(
                &format!("branches.{}.ddl_lock_timeout", branch.name),
                show_duration(care.lock_timeout.unwrap_or_default()),
            );
            row(&format!("branches.{}.database", branch.name), branch.database.clone());
            row(&format!("branches.{}.protected", branch.name), branch.protected.to_string());
            row(&format!("branches.{}.parent", branch.name), branch.parent.clone().unwrap_or_default());
        }
        for rule in &self.rules {
            row(&format!("rule.{}", rule.name), show_rule(rule));
        }
        row("changes.self_approval", self.changes.self_approval.to_string());
        row("changes.lock_timeout", show_duration(self.changes.lock_timeout));
        row("changes.max_open", self.changes.max_open.to_string());
        row("control.address", show_address(self.control.address));
        show_tls("control.tls", &self.control.tls, &mut row);
        for user in &self.control.users {
            row(&format!("control.users.{}.role", user.name), user.role.as_str().to_owned());
            row(&format!("control.users.{}.password", user.name), "***".to_owned());
        }
        row("http.address", show_address(self.http.address));
        row("log.level", self.log.level.clone());
        row("log.format", if self.log.json { "json" } else { "text" }.to_owned());
        row("limits.login_timeout", show_duration(self.limits.login_timeout));
        let never = |duration: Option<std::time::Duration>| show_duration(duration.unwrap_or_default());
        let number = |number: Option<u32>| number.unwrap_or_default().to_string();
        row("limits.client_idle_timeout", never(self.limits.client_idle_timeout));
        row("limits.idle_in_transaction_timeout", never(self.limits.idle_in_transaction_timeout));
        row("limits.max_clients_per_user", number(self.limits.max_clients_per_user));
        row("limits.max_clients_per_branch", number(self.limits.max_clients_per_branch));
        row("limits.tcp_keepalive_idle", never(self.limits.tcp.keepalive_idle));
        row("limits.tcp_keepalive_interval", never(self.limits.tcp.keepalive_interval));
        row("limits.tcp_keepalive_count", number(self.limits.tcp.keepalive_count));
        row("limits.tcp_user_timeout", never(self.limits.tcp.user_timeout));
        row("limits.max_statement_parse", size(self.limits.max_statement_parse));
        row("limits.cache_bytes", size(self.limits.cache_bytes));
        row("limits.max_buffer", size(self.limits.max_buffer));
        row("limits.max_prepared", self.limits.max_prepared.to_string());
        row("limits.drain_timeout", show_duration(self.limits.drain_timeout));
        row("limits.max_logged_sql", size(self.limits.max_logged_sql));
        rows
    }
}

impl Capture {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Trigger => "trigger",
            Self::Inject => "inject",
        }
    }
}

impl OnFailure {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Allow => "allow",
        }
    }
}

impl ControlRole {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Admin => "admin",
        }
    }
}

fn show_address(address: Option<std::net::SocketAddr>) -> String {
    address.map_or_else(|| "off".to_owned(), |address| address.to_string())
}

fn show_tls(section: &str, tls: &ListenTls, row: &mut impl FnMut(&str, String)) {
    row(&format!("{section}.mode"), tls.mode.as_str().to_owned());
    row(&format!("{section}.cert"), show_path(&tls.cert));
    row(&format!("{section}.key"), show_path(&tls.key));
    row(&format!("{section}.client_ca"), show_path(&tls.client_ca));
    row(&format!("{section}.client_name"), tls.user_from_certificate.to_string());
}

fn show_lint(action: Option<LintAction>) -> String {
    action.map_or("off", LintAction::as_str).to_owned()
}

fn show_path(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
}

fn size(bytes: usize) -> String {
    show_size(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// The action, then the conditions.
fn show_rule(rule: &Rule) -> String {
    let conditions = Rule::FIELDS.into_iter().zip(rule.describe());
    let conditions = conditions.filter(|(field, _)| !["name", "action", "message", "hint"].contains(field));
    let conditions = conditions.filter_map(|(field, value)| Some(format!(" {field}={}", value?)));
    rule.action.as_str().to_owned() + &conditions.collect::<String>()
}
