//! The side of TLS that the server sees.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::ServerName;

use super::verify::{Belief, Verifier};
use super::{ALPN, authorities, certificates, private_key, provider, system};

/// libpq's `sslmode`.
///
/// <https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION>
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Where the server lets nobody in without.
    Allow,
    /// Where the server speaks it.
    #[default]
    Prefer,
    /// Always, with whoever answers.
    Require,
    /// Always, with a server whose certificate an authority of ours signed.
    VerifyCa,
    /// The same, and the certificate is made out to the host we asked for.
    VerifyFull,
}

/// libpq's `sslnegotiation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Negotiation {
    /// An SSLRequest comes first.
    #[default]
    Postgres,
    /// The first byte is TLS; PostgreSQL 17 and later.
    Direct,
}

/// What the configuration says of TLS to the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFiles {
    /// `sslmode`, where it is said
    pub mode: Option<SslMode>,
    /// `sslnegotiation`
    pub negotiation: Negotiation,
    /// `sslrootcert`
    pub roots: Option<Roots>,
    /// `sslcert`
    pub certificate: Option<PathBuf>,
    /// `sslkey`
    pub key: Option<PathBuf>,
}

/// libpq's `sslrootcert`: the authorities to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Those of a PEM file.
    File(PathBuf),
    /// `system`: those that everybody on this machine believes, so that the name has to be right too.
    System,
}

/// Which way a server is reached first. The other way is for a server that has no TLS, or that refuses whoever comes the
/// first way before it has asked for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// With TLS or not at all.
    TlsOnly,
    /// `prefer`
    TlsFirst,
    /// `allow`
    PlainFirst,
}

/// TLS to the server, ready to be used.
#[derive(Clone)]
pub struct ToServer {
    /// What rustls needs for a handshake. Sessions are resumed from here.
    pub config: Arc<ClientConfig>,
    /// Whom we expect.
    pub name: ServerName<'static>,
    /// Whether TLS can be done without, and when.
    pub order: Order,
    /// No SSLRequest first.
    pub direct: bool,
    /// Whether it lately said that it has none.
    pub refused: Arc<Refused>,
}

/// When a server last said that it has no TLS. Whoever need not have TLS does not ask it again at once: that would cost
/// each new session a round trip.
#[derive(Default)]
pub struct Refused(Mutex<Option<Instant>>);

impl Refused {
    /// As long as TLS that a server has just been given may go unused.
    const LATELY: Duration = Duration::from_secs(1);

    /// It said so now.
    pub fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether it is still believed.
    pub fn lately(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < Self::LATELY)
    }
}

impl SslMode {
    /// libpq's words.
    pub const WORDS: [(&'static str, Self); 6] = [
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// `None`: there is no TLS.
    fn order(self) -> Option<Order> {
        match self {
            Self::Disable => None,
            Self::Allow => Some(Order::PlainFirst),
            Self::Prefer => Some(Order::TlsFirst),
            Self::Require | Self::VerifyCa | Self::VerifyFull => Some(Order::TlsOnly),
        }
    }
}

impl Negotiation {
    /// libpq's words.
    pub const WORDS: [(&'static str, Self); 2] = [("postgres", Self::Postgres), ("direct", Self::Direct)];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Direct => "direct",
        }
    }
}

impl Roots {
    /// A file in this folder, or libpq's word for no file.
    pub fn named(text: &str, folder: &Path) -> Self {
        if text == "system" { Self::System } else { Self::File(folder.join(text)) }
    }

    /// Where they are.
    pub fn file(&self) -> Result<PathBuf, String> {
        match self {
            Self::File(path) => Ok(path.clone()),
            Self::System => system::file(),
        }
    }
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::System => f.write_str("system"),
        }
    }
}

impl ServerFiles {
    /// `sslmode`. Unsaid it is what libpq makes of it.
    pub fn mode(&self) -> SslMode {
        let unsaid = if self.roots == Some(Roots::System) { SslMode::VerifyFull } else { SslMode::default() };
        self.mode.unwrap_or(unsaid)
    }

    /// What is wrong with these together, whatever is in the files.
    fn contradiction(&self) -> Option<String> {
        let mode = self.mode();
        if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) && self.roots.is_none() {
            let mode = mode.as_str();
            return Some(format!("`sslmode` = \"{mode}\" needs `sslrootcert`, the authorities to believe"));
        }
        if self.roots == Some(Roots::System) && mode != SslMode::VerifyFull {
            // Anybody can have a certificate of theirs: it is the name in it that counts.
            return Some("`sslrootcert` = \"system\" needs `sslmode` = \"verify-full\"".to_owned());
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Some("`sslcert` and `sslkey` are needed together".to_owned());
        }
        if self.negotiation == Negotiation::Direct && mode.order() != Some(Order::TlsOnly) {
            return Some("`sslnegotiation` = \"direct\" needs `sslmode` = \"require\" or more".to_owned());
        }
        None
    }
}

impl ToServer {
    /// Reads the files; `None` where there is no TLS to this host: none wanted, or a unix socket.
    pub fn load(files: &ServerFiles, host: &str) -> Result<Option<Self>, String> {
        if let Some(contradiction) = files.contradiction() {
            return Err(contradiction);
        }
        let Some(order) = files.mode().order().filter(|_| !host.starts_with('/')) else { return Ok(None) };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("\"{host}\" is no host name that a certificate could be made out to"))?;
        let verifier = Verifier { provider: provider(), belief: belief(files)? };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&files.certificate, &files.key) {
            (Some(certificate), Some(key)) => builder
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| format!("{} and {} do not fit: {error}", certificate.display(), key.display()))?,
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        let direct = files.negotiation == Negotiation::Direct;
        Ok(Some(Self { config: Arc::new(config), name, order, direct, refused: Arc::default() }))
    }
}

/// As libpq: `require` verifies like `verify-ca` where there is something to verify with.
fn belief(files: &ServerFiles) -> Result<Belief, String> {
    let optional = files.mode().order() != Some(Order::TlsOnly);
    let Some(roots) = files.roots.as_ref().filter(|_| !optional) else { return Ok(Belief::Anyone) };
    let (store, known) = match roots {
        Roots::File(path) => (authorities(path)?, certificates(path)?),
        Roots::System => (system::authorities()?, Vec::new()),
    };
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
        .build()
        .map_err(|error| format!("{roots} cannot be used: {error}"))?;
    Ok(Belief::Signed { chains, known, named: files.mode() == SslMode::VerifyFull })
}

/// Nothing of the key.
impl fmt::Debug for ToServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToServer").field("name", &self.name).finish_non_exhaustive()
    }
}
