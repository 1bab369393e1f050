//! What the server stores of a user's password.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Key, hmac};

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, read.
#[derive(Clone)]
pub struct Secret {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

impl Secret {
    /// Reads `rolpassword`; `None` where it is something else, such as an MD5 hash.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| STANDARD.decode(text).ok()?.try_into().ok();
        Some(Self {
            iterations: iterations.parse().ok().filter(|n| *n > 0)?,
            salt: STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// A secret for a user who has none: always the same one for the same name and key, so that asking twice tells nothing,
    /// and no proof fits it. The key may serve other ends, too.
    pub fn mock(key: &[u8], iterations: u32, user: &str) -> Self {
        let key = hmac(key, &[b"pggit-proxy: users without a password"]);
        let part = |what: &[u8]| hmac(&key, &[what, user.as_bytes()]);
        Self {
            iterations,
            salt: part(b"salt")[..16].to_vec(),
            stored_key: part(b"stored"),
            server_key: part(b"server"),
        }
    }
}

/// Nothing of it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The server's for the password `pencil`, with RFC 7677's salt.
    pub(in crate::auth) const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
         WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn a_stored_secret_is_read() {
        let secret = Secret::parse(PENCIL).unwrap();
        assert_eq!((secret.iterations, secret.salt.len()), (4096, 16));
        assert_eq!(format!("{secret:?}"), "Secret");
    }

    #[test]
    fn what_is_no_secret_is_none() {
        for text in
            ["", "md5c3df8b0ae7b0c2d5d7c1c8a1f0d7e0b1", "SCRAM-SHA-256$", "SCRAM-SHA-256$0:aa==$a:b", &PENCIL[..60]]
        {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_mock_is_the_same_for_the_same_name() {
        let (one, again, other) =
            (Secret::mock(&[1; 32], 7, "ann"), Secret::mock(&[1; 32], 7, "ann"), Secret::mock(&[1; 32], 7, "bob"));
        assert_eq!((&one.salt, one.stored_key), (&again.salt, again.stored_key));
        assert_ne!(one.salt, other.salt);
        assert_ne!(one.salt, Secret::mock(&[2; 32], 7, "ann").salt);
    }
}
