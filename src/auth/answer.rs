//! The client's part: answers the server with the key that a client's proof gave away.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;

use super::{END_POINT, Key, Nonce, SCRAM, SCRAM_PLUS, Secret, hash, hmac, xor};

/// What the connection to the server can be bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel<'a> {
    /// Nothing: no TLS, or a certificate without such a hash.
    None,
    /// The server offered nothing to bind to, although there is TLS; it is told that we noticed.
    NotOffered,
    /// The hash of the server's certificate.
    EndPoint(&'a [u8]),
}

/// Our side of the exchange with the server.
pub struct Answer {
    secret: Secret,
    client_key: Key,
    header: Vec<u8>,
    nonce: String,
}

impl Answer {
    /// Begins: the mechanism, the first message, and what comes after.
    pub fn begin(
        secret: Secret,
        client_key: Key,
        channel: Channel<'_>,
        nonce: &Nonce,
    ) -> (&'static str, Vec<u8>, Self) {
        let (mechanism, flag, bound) = match channel {
            Channel::None => (SCRAM, "n,,".to_owned(), &[][..]),
            Channel::NotOffered => (SCRAM, "y,,".to_owned(), &[][..]),
            Channel::EndPoint(hash) => (SCRAM_PLUS, format!("p={END_POINT},,"), hash),
        };
        let nonce = STANDARD.encode(nonce);
        let first = format!("{flag}n=,r={nonce}").into_bytes();
        let header = [flag.as_bytes(), bound].concat();
        (mechanism, first, Self { secret, client_key, header, nonce })
    }

    /// Answers the server's question; and what its last message has to be. `None` where it is no question of ours: not
    /// SCRAM, or about another password than the one that the client has just proven.
    pub fn prove(self, server_first: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let server_first = std::str::from_utf8(server_first).ok()?;
        let mut fields = server_first.split(',');
        let nonce = fields.next()?.strip_prefix("r=")?;
        let salt = STANDARD.decode(fields.next()?.strip_prefix("s=")?).ok()?;
        let iterations: u32 = fields.next()?.strip_prefix("i=")?.parse().ok()?;
        let same_password = salt == self.secret.salt && iterations == self.secret.iterations;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() || !same_password {
            return None;
        }
        let without_proof = format!("c={},r={nonce}", STANDARD.encode(&self.header));
        let bare = format!("n=,r={}", self.nonce);
        let message = [bare.as_bytes(), b",", server_first.as_bytes(), b",", without_proof.as_bytes()];
        let proof = xor(hmac(&hash(&self.client_key), &message), &self.client_key);
        let last = format!("v={}", STANDARD.encode(hmac(&self.secret.server_key, &message)));
        Some((format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes(), last.into_bytes()))
    }

    /// Whether the server's last message is what [`Self::prove`] expected: it knows the password's secret, too.
    pub fn is_genuine(expected: &[u8], server_final: &[u8]) -> bool {
        expected.ct_eq(server_final).into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Bad, ask};
    use super::*;

    /// The keys of a password, made as the server does for CREATE ROLE.
    fn keys() -> (Secret, Key) {
        let salted = hmac(b"stands for the salted password", &[b"x"]);
        let client_key = hmac(&salted, &[b"Client Key"]);
        let server_key = hmac(&salted, &[b"Server Key"]);
        let text = format!(
            "SCRAM-SHA-256$4096:{}${}:{}",
            STANDARD.encode([7; 16]),
            STANDARD.encode(hash(&client_key)),
            STANDARD.encode(server_key)
        );
        (Secret::parse(&text).unwrap(), client_key)
    }

    fn exchange(key: Key, channel: Channel<'_>, binding: Option<&[u8]>) -> Result<Key, Bad> {
        let (secret, _) = keys();
        let (mechanism, first, answer) = Answer::begin(secret.clone(), key, channel, &[1; 18]);
        let (server_first, question) = ask(secret, mechanism.as_bytes(), &first, binding, &[2; 18])?;
        let (last, expected) = answer.prove(&server_first).unwrap();
        let proven = question.check(&last)?;
        assert!(Answer::is_genuine(&expected, &proven.last));
        assert!(!Answer::is_genuine(&expected, b"v=AAAA"));
        Ok(proven.client_key)
    }

    #[test]
    fn the_two_sides_agree_and_the_key_is_harvested() {
        let (_, key) = keys();
        assert_eq!(exchange(key, Channel::None, None), Ok(key));
        assert_eq!(exchange(key, Channel::None, Some(b"hash")), Ok(key));
        assert_eq!(exchange(key, Channel::NotOffered, None), Ok(key));
        assert_eq!(exchange(key, Channel::EndPoint(b"hash"), Some(b"hash")), Ok(key));
    }

    #[test]
    fn a_wrong_key_and_whoever_stands_between_are_found() {
        let (_, key) = keys();
        assert_eq!(exchange([9; 32], Channel::None, None), Err(Bad::Password));
        assert_eq!(exchange(key, Channel::EndPoint(b"theirs"), Some(b"ours")), Err(Bad::Binding));
        assert_eq!(exchange(key, Channel::NotOffered, Some(b"ours")), Err(Bad::Downgrade));
        assert_eq!(exchange(key, Channel::EndPoint(b"hash"), None), Err(Bad::Mechanism));
    }

    #[test]
    fn a_secret_nobody_has_is_asked_about_and_never_proven() {
        let (_, key) = keys();
        let mock = Secret::mock(&[3; 32], 4096, "nobody");
        let (mechanism, first, answer) = Answer::begin(mock.clone(), key, Channel::None, &[1; 18]);
        let (server_first, question) = ask(mock, mechanism.as_bytes(), &first, None, &[2; 18]).unwrap();
        let (last, _) = answer.prove(&server_first).unwrap();
        assert_eq!(question.check(&last).map(|proven| proven.client_key), Err(Bad::Password));
    }

    #[test]
    fn the_vectors_of_rfc_7677_hold() {
        let secret = Secret::parse(concat!(
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$",
            "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        ))
        .unwrap();
        // Our own half of the nonce is base64, so the RFC's is taken apart where ours would begin.
        let question = super::super::ask::tests_only_question(
            secret,
            "n=user,r=rOprNGfwEbeRWgbNEkqO",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        );
        let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                     p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let proven = question.check(last).unwrap();
        assert_eq!(proven.last, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn what_is_malformed_is_told_as_the_server_tells_it() {
        let first =
            |message: &str| ask(keys().0, b"SCRAM-SHA-256", message.as_bytes(), None, &[2; 18]).map(|_| ()).err();
        assert_eq!(first("n,,n=,r=abc"), None);
        for message in
            ["", "n", "n,,", "n,,n=", "n,,n=,r=", "x,,n=,r=a", "p=tls-unique,,n=,r=a", "n,x,n=,r=a", "n,,n=,r=\u{e9}"]
        {
            assert_eq!(first(message), Some(Bad::Malformed), "{message}");
        }
        assert_eq!(first("n,a=ann,n=,r=a"), Some(Bad::AuthorizationIdentity));
        assert_eq!(first("n,,m=x,n=,r=a"), Some(Bad::Extension));
        let bound =
            |message: &[u8]| ask(keys().0, b"SCRAM-SHA-256-PLUS", message, Some(b"h"), &[2; 18]).map(|_| ()).err();
        assert_eq!(bound(b"p=tls-unique,,n=,r=a"), Some(Bad::BindingType));
        assert_eq!(bound(b"n,,n=,r=a"), Some(Bad::Malformed));
        let last = |message: &str| {
            let (_, question) = ask(keys().0, b"SCRAM-SHA-256", b"n,,n=,r=abc", None, &[2; 18]).unwrap();
            question.check(message.as_bytes()).map(|_| ()).err()
        };
        assert_eq!(last("c=biws"), Some(Bad::Malformed));
        assert_eq!(last("c=biws,r=abc,p=AAAA"), Some(Bad::Nonce));
        assert_eq!(last("c=eSws,r=abc,p=AAAA"), Some(Bad::Binding));
    }

    proptest::proptest! {
        /// Whatever either side says, nothing panics, and nothing but the right proof is one.
        #[test]
        fn any_bytes_are_survived(
            mechanism in "(SCRAM-SHA-256(-PLUS)?|[A-Z-]{0,9})",
            first in "([nyp]=?[a-z-]{0,20},(a=)?[a-z]?,[nm]=[a-z]{0,3},r=[!-~]{0,9}|.{0,40})",
            last in "(c=[a-zA-Z=]{0,9},r=[!-~]{0,40},p=[a-zA-Z0-9+/=]{0,48}|.{0,60})",
            server in "(r=[!-~]{0,40},s=[a-zA-Z=]{0,9},i=[0-9]{0,12}|.{0,60})",
            stored in "(SCRAM-SHA-256\\$[0-9]{0,12}:[a-zA-Z=]{0,9}\\$[a-zA-Z=]{0,50}:[a-zA-Z=]{0,50}|.{0,40})",
        ) {
            let (secret, key) = keys();
            let _ = Secret::parse(&stored);
            for binding in [None, Some(&b"hash"[..])] {
                if let Ok((_, question)) = ask(secret.clone(), mechanism.as_bytes(), first.as_bytes(), binding, &[2; 18]) {
                    proptest::prop_assert!(question.check(last.as_bytes()).is_err());
                }
            }
            let (_, _, answer) = Answer::begin(secret, key, Channel::None, &[1; 18]);
            proptest::prop_assert!(answer.prove(server.as_bytes()).is_none());
        }
    }
}
