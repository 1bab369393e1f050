//! What functions of the schema pggit ask of the proxy, in a message to the client that the client never sees.
//!
//! `pggit.create_branch()` and `pggit.diff()` run in their caller's transaction, of which nobody else sees anything before its
//! end. A message of the severity INFO goes to the client at once, whatever its settings are, and so comes by here. It is
//! signed with the database's key, as companions are: anybody can raise such a message, and only a function of ours can sign
//! it. The answer is a row that the function waits for.

use serde::Deserialize;
use uuid::Uuid;

use super::companion::sign;
use crate::change::Key;
use crate::wire::error::field;

/// The SQLSTATE of the message, and how its text begins.
const SQLSTATE: &[u8] = b"PGASK";
const PREFIX: &str = "pggit:ask ";

/// A message that asks for something; nobody knows yet whether a function of ours sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    text: String,
    signature: String,
    /// What came before it in the same transaction may be undone, or its own statement may.
    pub in_transaction: bool,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Ask {
    /// The key of the answer.
    #[serde(deserialize_with = "uuid")]
    pub ask: Uuid,
    #[serde(deserialize_with = "uuid")]
    session: Uuid,
    /// The beginning of the text in which the function was called.
    query: String,
    /// What to do.
    #[serde(flatten)]
    pub what: Wanted,
}

/// Everything that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "do")]
pub enum Wanted {
    /// `pggit.create_branch(name, parent)`
    #[serde(rename = "create branch")]
    CreateBranch {
        /// The new branch.
        name: String,
        /// What it is made from; `None`: from the session's branch.
        parent: Option<String>,
    },
    /// What `pggit.diff(from, to)` needs to know of another branch.
    #[serde(rename = "facts")]
    Facts {
        /// Which.
        branch: String,
    },
}

impl Asked {
    /// Takes a NoticeResponse apart, where it is one of these.
    pub(super) fn read(notice: &[u8]) -> Option<Self> {
        if field(notice, b'C')? != SQLSTATE {
            return None;
        }
        let message = std::str::from_utf8(field(notice, b'M')?).ok()?;
        let (text, signature) = message.strip_prefix(PREFIX)?.split_once(' ')?;
        Some(Self { text: text.to_owned(), signature: signature.to_owned(), in_transaction: false })
    }

    /// What it asks for, where it was signed with this key, for this session.
    pub fn verified(&self, key: &Key, session: Uuid) -> Option<Ask> {
        // Whoever may try signatures learns nothing from the time that this takes: he would have to raise a message for each.
        if sign(key, self.text.as_bytes()) != self.signature {
            return None;
        }
        let ask: Ask = serde_json::from_slice(&from_base64(&self.text)?).ok()?;
        (ask.session == session).then_some(ask)
    }
}

impl Ask {
    /// Whether the function was not the only statement of its text.
    pub fn is_among_others(&self) -> bool {
        crate::sql::split(self.query.as_bytes()).len() > 1
    }
}

fn uuid<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Uuid, D::Error> {
    Uuid::try_parse(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

/// Standard alphabet, padded.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn notice(sqlstate: &str, message: &str) -> Vec<u8> {
        format!("SINFO\0VINFO\0C{sqlstate}\0M{message}\0\0").into_bytes()
    }

    fn encoded(text: &str) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    #[test]
    fn only_what_is_signed_for_the_session_is_believed() {
        let (key, session) = (Key([7; 64]), Uuid::from_u128(5));
        let text = encoded(&format!(
            r#"{{"ask":"{session}","session":"{session}","do":"create branch","name":"b","parent":null,"query":"select 1; select 2"}}"#
        ));
        let message = |signature: &str| notice("PGASK", &format!("pggit:ask {text} {signature}"));
        let asked = Asked::read(&message(&sign(&key, text.as_bytes()))).unwrap();
        let ask = asked.verified(&key, session).unwrap();
        assert_eq!(ask.what, Wanted::CreateBranch { name: "b".into(), parent: None });
        assert!(ask.is_among_others());
        assert_eq!(asked.verified(&key, Uuid::from_u128(6)), None);
        assert_eq!(asked.verified(&Key([8; 64]), session), None);
        assert_eq!(Asked::read(&message("00")).unwrap().verified(&key, session), None);
        assert_eq!(Asked::read(&notice("00000", "pggit:ask a b")), None);
        assert_eq!(Asked::read(&notice("PGASK", "something else")), None);
    }
}
