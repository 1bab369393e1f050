//! Certificates for one test: an authority, a server's, a client's, and a stranger's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Files in a directory that goes with it: `NAME.crt` and `NAME.key`.
pub struct Certs {
    directory: tempfile::TempDir,
    authority: Issuer<'static, KeyPair>,
}

impl Certs {
    /// An authority (`root.crt`), a certificate for localhost and 127.0.0.1 (`server`), and one for user `ann` (`ann`).
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, authority) = authority("the tests' authority");
        fs::write(directory.path().join("root.crt"), certificate).unwrap();
        let certs = Self { directory, authority };
        certs.server("server");
        certs.client("ann");
        certs
    }

    /// The path of a file.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// A new certificate and key for localhost and 127.0.0.1, over what was there.
    pub fn server(&self, file: &str) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.issue(file, CertificateParams::new(names).unwrap(), ExtendedKeyUsagePurpose::ServerAuth);
    }

    /// The same for a host that is not this one.
    pub fn server_elsewhere(&self, file: &str) {
        let names = vec!["elsewhere.example".to_owned()];
        self.issue(file, CertificateParams::new(names).unwrap(), ExtendedKeyUsagePurpose::ServerAuth);
    }

    /// A client's certificate made out to this user.
    pub fn client(&self, user: &str) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        self.issue(user, params, ExtendedKeyUsagePurpose::ClientAuth);
    }

    /// Another authority, which signed nothing: `FILE.crt`.
    pub fn stranger(&self, file: &str) {
        fs::write(self.path(&format!("{file}.crt")), authority("a stranger").0).unwrap();
    }

    /// A certificate that signed itself, as `openssl req -x509` makes them.
    pub fn self_signed(&self, file: &str) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        self.write(file, &certificate.pem(), &key);
    }

    /// `[listen.tls]` keys for `mode`.
    pub fn listen(&self, mode: &str) -> String {
        let path = |file: &str| self.path(file).display().to_string();
        format!("mode = \"{mode}\"\ncert = \"{}\"\nkey = \"{}\"\n", path("server.crt"), path("server.key"))
    }

    /// For a raw-wire client that speaks these versions only.
    pub fn rustls_versions(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap();
        Arc::new(builder.with_root_certificates(self.roots()).with_no_client_auth())
    }

    /// For a raw-wire client that wants to speak another protocol.
    pub fn rustls_alpn(&self, protocol: &[u8]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.rustls(None, true));
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }

    /// For a raw-wire client: trusts the authority, and shows the certificate of that user where one is named.
    pub fn rustls(&self, user: Option<&str>, alpn: bool) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match user {
            None => builder.with_no_client_auth(),
            Some(user) => {
                let chain = vec![CertificateDer::from_pem_file(self.path(&format!("{user}.crt"))).unwrap()];
                let key = PemObject::from_pem_file(self.path(&format!("{user}.key"))).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        if alpn {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Arc::new(config)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("root.crt")).unwrap()).unwrap();
        roots
    }

    fn issue(&self, file: &str, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose) {
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        self.write(file, &certificate.pem(), &key);
    }

    fn write(&self, file: &str, certificate: &str, key: &KeyPair) {
        fs::write(self.path(&format!("{file}.crt")), certificate).unwrap();
        write_private(&self.path(&format!("{file}.key")), &key.serialize_pem());
    }
}

/// libpq and the server take no key that others may read.
pub fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), Issuer::new(params, key))
}
