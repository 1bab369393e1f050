//! ErrorResponse and NoticeResponse: reading their fields, and making our own.
//!
//! <https://www.postgresql.org/docs/current/protocol-error-fields.html>

use super::frame;

/// The fields of an ErrorResponse's or NoticeResponse's body, in their order.
pub fn fields(mut body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&code, rest) = body.split_first()?;
        if code == 0 {
            return None;
        }
        let (text, rest) = frame::cstr(rest)?;
        body = rest;
        Some((code, text))
    })
}

/// One field of an ErrorResponse's body.
pub fn field(body: &[u8], code: u8) -> Option<&[u8]> {
    fields(body).find(|(found, _)| *found == code).map(|(_, text)| text)
}

/// An error in the proxy's own words.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// Five characters.
    pub sqlstate: &'a str,
    /// One sentence, lower case, no full stop.
    pub message: &'a str,
    /// More about it.
    pub detail: Option<&'a str>,
    /// What to do about it.
    pub hint: Option<&'a str>,
}

/// The SQLSTATE of a notice that tells of no trouble.
pub const SUCCESSFUL_COMPLETION: &str = "00000";

/// Appends a FATAL ErrorResponse: the connection ends after it.
pub fn put_fatal(out: &mut Vec<u8>, text: Text<'_>) {
    put(out, b"FATAL", text);
}

/// Appends an ErrorResponse with the given (possibly translated) severity word.
pub fn put(out: &mut Vec<u8>, severity: &[u8], text: Text<'_>) {
    let fatal: &[u8] = if severity == b"FATAL" { b"FATAL" } else { b"ERROR" };
    put_message(out, b'E', severity, fatal, text);
}

/// Appends a NoticeResponse; it may stand wherever the server might send one.
pub fn put_notice(out: &mut Vec<u8>, text: Text<'_>) {
    put_message(out, b'N', b"NOTICE", b"NOTICE", text);
}

/// The same with the severity WARNING.
pub fn put_warning(out: &mut Vec<u8>, text: Text<'_>) {
    put_message(out, b'N', b"WARNING", b"WARNING", text);
}

fn put_message(out: &mut Vec<u8>, tag: u8, severity: &[u8], plain: &[u8], text: Text<'_>) {
    frame::put(out, tag, |body| {
        put_field(body, b'S', severity);
        put_field(body, b'V', plain);
        put_field(body, b'C', text.sqlstate.as_bytes());
        put_field(body, b'M', text.message.as_bytes());
        if let Some(detail) = text.detail {
            put_field(body, b'D', detail.as_bytes());
        }
        if let Some(hint) = text.hint {
            put_field(body, b'H', hint.as_bytes());
        }
        body.push(0);
    });
}

/// A text may hold a zero byte by way of a configuration; the field may not.
fn put_field(body: &mut Vec<u8>, code: u8, text: &[u8]) {
    body.push(code);
    body.extend(text.iter().copied().filter(|byte| *byte != 0));
    body.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_reads_back() {
        let mut out = Vec::new();
        put(&mut out, b"ERREUR", Text { sqlstate: "42501", message: "refused", detail: Some("Rule: a."), hint: None });
        let body = &out[frame::HEADER..];
        assert_eq!(field(body, b'S'), Some(&b"ERREUR"[..]));
        assert_eq!(field(body, b'V'), Some(&b"ERROR"[..]));
        assert_eq!(field(body, b'C'), Some(&b"42501"[..]));
        assert_eq!(field(body, b'D'), Some(&b"Rule: a."[..]));
        assert_eq!(field(body, b'H'), None);
    }

    #[test]
    fn a_truncated_body_has_only_its_whole_fields() {
        assert_eq!(fields(b"SERROR\0C425").count(), 1);
        assert_eq!(fields(b"").count(), 0);
        assert_eq!(fields(b"\0junk").count(), 0);
    }
}
