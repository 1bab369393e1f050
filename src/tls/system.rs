//! The authorities that this machine believes: `sslrootcert = "system"`.

use std::path::PathBuf;

use rustls::RootCertStore;

use super::certificates;

/// Where distributions keep them in one file: Debian, Fedora, openSUSE, Alpine.
const FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// OpenSSL's own variable, which libpq heeds by way of it.
const VARIABLE: &str = "SSL_CERT_FILE";

/// Reads them. One that cannot be used is left out: the file is not ours to mend.
pub(super) fn authorities() -> Result<RootCertStore, String> {
    let path = file()?;
    let mut store = RootCertStore::empty();
    let (taken, _) = store.add_parsable_certificates(certificates(&path)?);
    if taken == 0 { Err(format!("{} holds no authority that can be used", path.display())) } else { Ok(store) }
}

/// The file that holds them.
pub(super) fn file() -> Result<PathBuf, String> {
    let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
    named.or_else(|| FILES.iter().map(PathBuf::from).find(|path| path.exists())).ok_or_else(|| {
        format!("this machine keeps its authorities in none of {}: {VARIABLE} may name their file", FILES.join(", "))
    })
}
