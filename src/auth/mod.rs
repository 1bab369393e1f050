//! SCRAM-SHA-256 without IO: the proxy asks the client as the server would, and answers the server as the client
//! would. It knows no password at any time: what the server stores is enough to check a proof, and a proof that is
//! right gives away the key that the next one is made with.
//!
//! <https://www.postgresql.org/docs/current/sasl-authentication.html>, <https://www.rfc-editor.org/rfc/rfc5802>

mod answer;
mod ask;
mod secret;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

pub use answer::{Answer, Channel};
pub use ask::{Bad, Nonce, Proven, Question, ask, mechanisms};
pub use secret::Secret;

/// The mechanism without channel binding.
pub const SCRAM: &str = "SCRAM-SHA-256";
/// The mechanism with it.
pub const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The only type of channel binding there is in PostgreSQL.
const END_POINT: &str = "tls-server-end-point";

type Key = [u8; 32];

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    #[cfg(test)]
    tests::count();
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Key::default() };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn hash(bytes: &[u8]) -> Key {
    #[cfg(test)]
    tests::count();
    Sha256::digest(bytes).into()
}

fn xor(mut a: Key, b: &Key) -> Key {
    a.iter_mut().zip(b).for_each(|(a, b)| *a ^= b);
    a
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    thread_local! {
        static HASHES: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count() {
        HASHES.set(HASHES.get() + 1);
    }

    /// Time is not measured: what costs it is counted.
    #[test]
    fn a_user_who_is_not_there_costs_as_many_hashes() {
        let key = STANDARD.encode([3; 32]);
        let known = Secret::parse(&format!("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${key}:{key}")).unwrap();
        let nobody = Secret::mock(&[1; 64], 4096, "nobody");
        let proof = STANDARD.encode([7; 32]);
        let cost = |secret: Secret| {
            let before = HASHES.get();
            let (asked, question) = ask(secret, SCRAM.as_bytes(), b"n,,n=,r=abc", None, &[5; 18]).unwrap();
            let nonce = String::from_utf8(asked).unwrap().split(',').next().unwrap().to_owned();
            let answer = format!("c=biws,{nonce},p={proof}");
            assert_eq!(question.check(answer.as_bytes()).err(), Some(Bad::Password));
            HASHES.get() - before
        };
        let (known, nobody) = (cost(known), cost(nobody));
        assert_eq!(known, nobody);
        // ClientSignature, ServerSignature, and the hash of the ClientKey; no password is known, so none is derived from.
        assert_eq!(known, 3);
    }
}
