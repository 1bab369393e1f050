//! TLS on both legs and on the control port: certificates and keys from files, in the form they are used in.
//!
//! [`clients`] is the side that clients see, [`server`] the one that the server sees, [`stream`] a connection with it or
//! without, [`binding`] what SCRAM ties a password exchange to. One implementation, rustls, with one provider of cryptography,
//! ring.

pub mod binding;
pub mod clients;
mod der;
pub mod server;
mod stream;
mod system;
mod verify;

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use clients::ForClients;
pub use server::{Negotiation, Order, Roots, ServerFiles, SslMode, ToServer};
pub use stream::{HANDSHAKE, Stream, accept};

/// What both sides of a connection call PostgreSQL's protocol, in ALPN.
///
/// <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL>
pub const ALPN: &[u8] = b"postgresql";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// All certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(all) if all.is_empty() => Err(format!("{} holds no certificate", path.display())),
        Ok(all) => Ok(all),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// The first private key of a PEM file. The errors say nothing of what is in it.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    match PrivateKeyDer::from_pem_file(path) {
        Ok(key) => Ok(key),
        Err(PemError::NoItemsFound) => Err(format!("{} holds no private key without a passphrase", path.display())),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// The certificates of a PEM file, as authorities.
fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store
            .add(certificate)
            .map_err(|error| format!("{} holds a certificate that cannot be used: {error}", path.display()))?;
    }
    Ok(store)
}

fn unreadable(path: &Path, error: &PemError) -> String {
    match error {
        PemError::Io(error) => format!("cannot read {}: {error}", path.display()),
        _ => format!("{} is no PEM file", path.display()),
    }
}
