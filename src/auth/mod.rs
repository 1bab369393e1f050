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
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Key::default() };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn hash(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

fn xor(mut a: Key, b: &Key) -> Key {
    a.iter_mut().zip(b).for_each(|(a, b)| *a ^= b);
    a
}
