//! A change that the event triggers could not record: the server has undone it, and the client is told why.
//!
//! The server's error is about the history's own table, of which the client knows nothing. It becomes `PG003`, the
//! same as when the proxy knew beforehand.

use crate::wire::error::{self, field};

/// What in `migrations/` runs in a client's transaction, as the server prints them in an
/// error's context. Their search_path does not hold their schema, so it always stands before the name.
const CAPTURE: [&[u8]; 4] =
    [b"pggit.record_ddl()", b"pggit.record_drop()", b"pggit.before_ddl()", b"pggit.companion(text,text,text)"];

/// What the client and the statement log are told instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unrecorded {
    pub message: String,
    /// The server's own words.
    pub cause: String,
    /// The server's own SQLSTATE.
    pub sqlstate: String,
}

impl Unrecorded {
    pub const SQLSTATE: &str = "PG003";

    /// Reads an ErrorResponse: `None` where it is about something else.
    pub fn read(body: &[u8], tag: Option<&str>) -> Option<Self> {
        let context = field(body, b'W')?;
        if !CAPTURE.iter().any(|name| memchr::memmem::find(context, name).is_some()) {
            return None;
        }
        let text = |code| String::from_utf8_lossy(field(body, code).unwrap_or_default()).into_owned();
        let sqlstate = text(b'C');
        // Cancelled, shut down, to be tried again: that is so whatever the statement was doing, and clients know what to do.
        if sqlstate.starts_with("57") || sqlstate.starts_with("40") {
            return None;
        }
        // It waited in vain for somebody who is at the same change request, or finds it done.
        if memchr::memmem::find(context, b"pggit.enter_request(").is_some() {
            return None;
        }
        let what = tag.filter(|tag| !tag.is_empty()).unwrap_or("change");
        Some(Self { message: format!("{what} refused: the history cannot be written"), cause: text(b'M'), sqlstate })
    }

    /// The error for the client, as severe as the server's.
    pub fn error(&self, body: &[u8]) -> Vec<u8> {
        let hint = format!("The server's error was {}. See SHOW HEALTH on the control port.", self.sqlstate);
        let mut out = Vec::new();
        error::put(
            &mut out,
            field(body, b'S').unwrap_or(b"ERROR"),
            error::Text {
                sqlstate: Self::SQLSTATE,
                message: &self.message,
                detail: Some(&self.cause),
                hint: Some(&hint),
            },
        );
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BODY: &[u8] = b"SFEHLER\0VERROR\0C55P03\0Mlock timeout\0WSQL statement \"INSERT INTO pggit.changes\"\n\
        PL/pgSQL function pggit.record_ddl() line 9 at SQL statement\0\0";

    fn with(from: &str, to: &str) -> Vec<u8> {
        String::from_utf8(BODY.to_vec()).unwrap().replace(from, to).into_bytes()
    }

    #[test]
    fn an_error_of_the_triggers_is_told_as_ours() {
        let found = Unrecorded::read(BODY, Some("CREATE TABLE")).unwrap();
        assert_eq!(found.message, "CREATE TABLE refused: the history cannot be written");
        assert_eq!((found.cause.as_str(), found.sqlstate.as_str()), ("lock timeout", "55P03"));
        let error = found.error(BODY);
        let field = |code| field(&error[crate::wire::frame::HEADER..], code).map(<[u8]>::to_vec);
        assert_eq!(field(b'S').unwrap(), b"FEHLER");
        assert_eq!(field(b'C').unwrap(), b"PG003");
        assert_eq!(field(b'D').unwrap(), b"lock timeout");
        assert_eq!(field(b'P'), None);
    }

    #[test]
    fn other_errors_stay() {
        for sqlstate in ["57014", "57P01", "40001", "40P01"] {
            assert_eq!(Unrecorded::read(&with("55P03", sqlstate), None), None, "{sqlstate}");
        }
        assert_eq!(Unrecorded::read(&with("pggit.record_ddl()", "public.record_ddl()"), None), None);
        assert_eq!(Unrecorded::read(b"SERROR\0C42P01\0Mno\0\0", None), None);
    }

    #[test]
    fn everything_that_records_is_known() {
        let capture = include_str!("../../migrations/0005_capture.up.sql");
        let companion = include_str!("../../migrations/0011_companion.up.sql");
        assert!(companion.contains("CREATE PROCEDURE pggit.companion(payload text, signature text, sql text)"));
        let functions: Vec<&str> = capture
            .lines()
            .filter(|line| line.contains("RETURNS event_trigger"))
            .filter_map(|line| line.strip_prefix("CREATE FUNCTION ")?.split(' ').next())
            .chain(["pggit.companion(text,text,text)"])
            .collect();
        assert_eq!(functions.len(), CAPTURE.len());
        assert!(functions.iter().all(|name| CAPTURE.contains(&name.as_bytes())), "{functions:?}");
    }
}
