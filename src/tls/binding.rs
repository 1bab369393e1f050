//! `tls-server-end-point`: the hash of the server's certificate that SCRAM-SHA-256-PLUS ties a login to.
//!
//! <https://www.rfc-editor.org/rfc/rfc5929#section-4.1>

use sha2::{Digest, Sha256, Sha384, Sha512};

use super::der;

/// The certificate's hash, by the hash algorithm it was signed with; `None` where there is no such algorithm (Ed25519),
/// and so no channel binding, as with the server itself.
pub fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (algorithm, parameters) = der::signature_algorithm(certificate)?;
    match algorithm {
        // sha512WithRSAEncryption, ecdsa-with-SHA512
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13] | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4] => {
            Some(Sha512::digest(certificate).to_vec())
        }
        // sha384WithRSAEncryption, ecdsa-with-SHA384
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12] | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3] => {
            Some(Sha384::digest(certificate).to_vec())
        }
        // MD5, SHA-1 and SHA-256, with RSA or ECDSA: all of them are hashed by SHA-256.
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4 | 5 | 11]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2] => Some(Sha256::digest(certificate).to_vec()),
        // RSASSA-PSS names its hash among the parameters.
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10] => match der::pss_hash(parameters) {
            Some([0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3]) => Some(Sha512::digest(certificate).to_vec()),
            Some([0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2]) => Some(Sha384::digest(certificate).to_vec()),
            None | Some([0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1]) => Some(Sha256::digest(certificate).to_vec()),
            Some(_) => None,
        },
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn signed(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let params = rcgen::CertificateParams::new(vec!["host.example".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let certificate = signed(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(end_point(&certificate), Some(Sha256::digest(&certificate).to_vec()));
        let certificate = signed(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(end_point(&certificate), Some(Sha384::digest(&certificate).to_vec()));
    }

    #[test]
    fn ed25519_has_no_hash_of_its_own() {
        assert_eq!(end_point(&signed(&rcgen::PKCS_ED25519)), None);
    }
}
