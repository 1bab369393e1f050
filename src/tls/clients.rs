//! The side of TLS that clients see.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;

use super::{ALPN, authorities, binding, certificates, der, private_key, provider};

/// Our certificate and key, ready to be used; replaced as a whole when the files are read again.
#[derive(Clone)]
pub struct ForClients {
    /// What rustls needs for a handshake.
    pub config: Arc<ServerConfig>,
    /// What SCRAM-SHA-256-PLUS binds to; `None` where our certificate has no such hash.
    pub binding: Option<Arc<[u8]>>,
}

impl ForClients {
    /// Reads the files. With `client_ca`, clients have to have a certificate signed by one of these authorities.
    pub fn load(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self, String> {
        let chain = certificates(certificate)?;
        let binding = chain.first().and_then(|own| binding::end_point(own)).map(Arc::from);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(authorities(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|error| format!("{} cannot be used: {error}", path.display()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, private_key(key)?)
            .map_err(|error| format!("{} and {} do not fit: {error}", certificate.display(), key.display()))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Sessions are resumed from what the client keeps: nothing has to be remembered here.
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|error| error.to_string())?;
        Ok(Self { config: Arc::new(config), binding })
    }
}

/// The name in a client's certificate.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    der::common_name(certificate)
}

/// Nothing of the key.
impl fmt::Debug for ForClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForClients")
    }
}
