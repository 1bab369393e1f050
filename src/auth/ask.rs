//! The server's part: asks for a proof, and checks it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;

use super::{END_POINT, Key, SCRAM, SCRAM_PLUS, Secret, hash, hmac, xor};

/// Random bytes of one exchange; base64 makes a text of them.
pub type Nonce = [u8; 18];

/// What is offered: with channel binding where there is something to bind to, which comes first as it is better.
pub fn mechanisms(binding: bool) -> &'static [&'static str] {
    if binding { &[SCRAM_PLUS, SCRAM] } else { &[SCRAM] }
}

/// Why a login is refused. Sentences and codes are the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// It chose what was not offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// Not what SCRAM's messages look like.
    #[error("malformed SCRAM message")]
    Malformed,
    /// What the protocol has and PostgreSQL does not.
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    /// The same.
    #[error("client requires an unsupported SCRAM extension")]
    Extension,
    /// Another type than `tls-server-end-point`.
    #[error("unsupported SCRAM channel-binding type")]
    BindingType,
    /// The client was told that we offer no channel binding: somebody between us has taken it away.
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    /// The client has shaken hands with somebody else than us.
    #[error("SCRAM channel binding check failed")]
    Binding,
    /// Another exchange's message.
    #[error("invalid SCRAM response")]
    Nonce,
    /// The proof does not fit.
    #[error("password authentication failed")]
    Password,
}

impl Bad {
    /// The server's SQLSTATE.
    pub fn sqlstate(self) -> &'static str {
        match self {
            Self::Mechanism | Self::Malformed | Self::BindingType | Self::Nonce => "08P01",
            Self::AuthorizationIdentity | Self::Extension => "0A000",
            Self::Downgrade | Self::Binding => "28000",
            Self::Password => "28P01",
        }
    }
}

/// A question that was asked.
pub struct Question {
    secret: Secret,
    /// Base64 of what `c=` has to be.
    binding: String,
    nonce: String,
    client_first_bare: String,
    server_first: String,
}

/// A proof that was right.
pub struct Proven {
    /// What the next proof, to the server, is made with.
    pub client_key: Key,
    /// The last message to the client, which proves to it that we know what the server stores.
    pub last: Vec<u8>,
}

/// Reads the client's first message, and asks. `binding` is the hash of our certificate where channel binding was offered.
pub fn ask(
    secret: Secret,
    mechanism: &[u8],
    message: &[u8],
    binding: Option<&[u8]>,
    nonce: &Nonce,
) -> Result<(Vec<u8>, Question), Bad> {
    let plus = match mechanism {
        m if m == SCRAM.as_bytes() => false,
        m if m == SCRAM_PLUS.as_bytes() && binding.is_some() => true,
        _ => return Err(Bad::Mechanism),
    };
    let message = std::str::from_utf8(message).map_err(|_| Bad::Malformed)?;
    let (flag, rest) = message.split_once(',').ok_or(Bad::Malformed)?;
    let (identity, bare) = rest.split_once(',').ok_or(Bad::Malformed)?;
    let bound = match (flag, plus) {
        ("n", false) => None,
        ("y", false) if binding.is_some() => return Err(Bad::Downgrade),
        ("y", false) => None,
        (flag, true) => match flag.strip_prefix("p=").ok_or(Bad::Malformed)? {
            END_POINT => binding,
            _ => return Err(Bad::BindingType),
        },
        (_, false) => return Err(Bad::Malformed),
    };
    if !identity.is_empty() {
        return Err(if identity.starts_with("a=") { Bad::AuthorizationIdentity } else { Bad::Malformed });
    }
    if bare.starts_with("m=") {
        return Err(Bad::Extension);
    }
    // The name is that of the start-up packet; what stands here counts for nothing, as with the server.
    let mut fields = bare.split(',');
    let _name = fields.next().and_then(|field| field.strip_prefix("n=")).ok_or(Bad::Malformed)?;
    let theirs = fields.next().and_then(|field| field.strip_prefix("r=")).ok_or(Bad::Malformed)?;
    if theirs.is_empty() || !theirs.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        return Err(Bad::Malformed);
    }
    let nonce = format!("{theirs}{}", STANDARD.encode(nonce));
    let server_first = format!("r={nonce},s={},i={}", STANDARD.encode(&secret.salt), secret.iterations);
    let mut header = format!("{flag},,").into_bytes();
    header.extend_from_slice(bound.unwrap_or_default());
    let question = Question {
        secret,
        binding: STANDARD.encode(header),
        nonce,
        client_first_bare: bare.to_owned(),
        server_first: server_first.clone(),
    };
    Ok((server_first.into_bytes(), question))
}

impl Question {
    /// Checks the client's proof. A secret that nobody has takes the same steps.
    pub fn check(self, message: &[u8]) -> Result<Proven, Bad> {
        let message = std::str::from_utf8(message).map_err(|_| Bad::Malformed)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(Bad::Malformed)?;
        let mut fields = without_proof.split(',');
        let binding = fields.next().and_then(|field| field.strip_prefix("c=")).ok_or(Bad::Malformed)?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).ok_or(Bad::Malformed)?;
        if binding != self.binding {
            return Err(Bad::Binding);
        }
        if nonce != self.nonce {
            return Err(Bad::Nonce);
        }
        let proof: Key = STANDARD.decode(proof).ok().and_then(|proof| proof.try_into().ok()).ok_or(Bad::Malformed)?;
        let message =
            [self.client_first_bare.as_bytes(), b",", self.server_first.as_bytes(), b",", without_proof.as_bytes()];
        let client_key = xor(hmac(&self.secret.stored_key, &message), &proof);
        let signature = hmac(&self.secret.server_key, &message);
        if bool::from(hash(&client_key).ct_eq(&self.secret.stored_key)) {
            Ok(Proven { client_key, last: format!("v={}", STANDARD.encode(signature)).into_bytes() })
        } else {
            Err(Bad::Password)
        }
    }
}

/// A question whose nonce is given, for the RFC's example.
#[cfg(test)]
pub(super) fn tests_only_question(secret: Secret, client_first_bare: &str, server_first: &str) -> Question {
    let nonce = server_first.split(',').next().and_then(|field| field.strip_prefix("r=")).unwrap_or_default();
    Question {
        secret,
        binding: STANDARD.encode("n,,"),
        nonce: nonce.to_owned(),
        client_first_bare: client_first_bare.to_owned(),
        server_first: server_first.to_owned(),
    }
}
