//! `[listen] tls`, the TLS keys of `[upstream]`, and `[auth]`: who is who, and over what.

use std::path::{Path, PathBuf};

use super::section::{Section, pick};
use super::{AuthConfig, AuthMode, Config, ListenTls, TlsMode, Upstream};
use crate::tls::{ForClients, Negotiation, Roots, ServerFiles, SslMode, ToServer};

impl TlsMode {
    const WORDS: [(&'static str, Self); 3] =
        [("disable", Self::Disable), ("allow", Self::Allow), ("require", Self::Require)];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Require => "require",
        }
    }
}

impl AuthMode {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Scram => "scram",
        }
    }
}

/// Reads `[listen.tls]`, and its files where they are wanted.
pub(super) fn read_listen_tls(mut section: Section<'_>, folder: &Path) -> ListenTls {
    let mut path = |key: &str| section.text(key).map(|text| folder.join(text.value));
    let (cert, key, client_ca) = (path("cert"), path("key"), path("client_ca"));
    let mut tls = ListenTls {
        mode: section.word("mode", TlsMode::Disable, &TlsMode::WORDS),
        user_from_certificate: section.flag("client_name", false),
        ready: None,
        cert,
        key,
        client_ca,
    };
    let span = section.span().clone();
    match (tls.mode, &tls.cert, &tls.key) {
        (TlsMode::Disable, ..) => {}
        (TlsMode::Allow | TlsMode::Require, Some(cert), Some(key)) => {
            match ForClients::load(cert, key, tls.client_ca.as_deref()) {
                Ok(ready) => tls.ready = Some(ready),
                Err(message) => section.problem(&span, message),
            }
        }
        (TlsMode::Allow | TlsMode::Require, ..) => section.problem(&span, "TLS needs `cert` and `key`"),
    }
    if tls.user_from_certificate && tls.client_ca.is_none() {
        section.problem(&span, "`client_name` needs `client_ca`: without it, clients have no certificate");
    }
    section.finish();
    tls
}

/// Reads the TLS keys of `[upstream]` over what its URL says.
pub(super) fn read_server_files(section: &mut Section<'_>, mut files: ServerFiles, folder: &Path) -> ServerFiles {
    if let Some(mode) = section.parsed("sslmode", |text| pick("sslmode", text, &SslMode::WORDS)) {
        files.mode = Some(mode.value);
    }
    files.negotiation = section.word("sslnegotiation", files.negotiation, &Negotiation::WORDS);
    let mut path = |key: &str, from_url: Option<PathBuf>| match section.text(key) {
        Some(text) => Some(folder.join(text.value)),
        None => from_url,
    };
    files.certificate = path("sslcert", files.certificate.take());
    files.key = path("sslkey", files.key.take());
    if let Some(text) = section.text("sslrootcert") {
        files.roots = Some(Roots::named(&text.value, folder));
    }
    files
}

/// Reads `[auth]`.
pub(super) fn read_auth(mut section: Section<'_>) -> AuthConfig {
    let default = AuthConfig::default();
    let modes = [("passthrough", AuthMode::Passthrough), ("scram", AuthMode::Scram)];
    let auth = AuthConfig {
        mode: section.word("mode", default.mode, &modes),
        auth_query: section.text("auth_query").map_or(default.auth_query, |text| text.value),
        max_failures: section.number("max_failures", default.max_failures, 0..=1_000_000),
    };
    section.finish();
    auth
}

impl Upstream {
    /// Makes TLS to the server ready; called when the host and `sslmode` are known for good.
    pub fn prepare(&mut self) -> Result<(), String> {
        self.tls = ToServer::load(&self.ssl, &self.host)?;
        for host in &mut self.other_hosts {
            host.tls = ToServer::load(&self.ssl, &host.host)?;
        }
        Ok(())
    }
}

impl Config {
    /// Why clients could not log in with the passwords that pass through us. A client that speaks TLS with us, and could
    /// tie its login to our certificate, is told by the server to tie it to the server's: SCRAM takes that for an attack,
    /// and is right.
    pub(crate) fn unsound_passthrough(&self) -> Option<String> {
        let both =
            self.listen.tls.ready.is_some() && self.upstream.each().iter().any(|upstream| upstream.tls.is_some());
        (both && self.auth.mode == AuthMode::Passthrough).then(|| {
            format!(
                "with TLS to clients (listen.tls.mode = \"{}\") and to the server (upstream.sslmode = \"{}\") passwords \
                 cannot pass through: SCRAM's channel binding would tell the client or the server that somebody is \
                 between them; set auth.mode = \"scram\", or upstream.sslmode = \"disable\"",
                self.listen.tls.mode.as_str(),
                self.upstream.ssl.mode().as_str()
            )
        })
    }
}
