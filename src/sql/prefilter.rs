//! Names the class of nearly all plain traffic by its first keyword, without parsing.
//!
//! An allow-list: what it does not know for certain is `None`, and goes to the parser. Nothing that
//! creates, alters or drops an object, changes a role, moves the transaction or touches a `pggit.*`
//! setting may ever get a class here.

use memchr::{memchr, memchr2_iter};

use super::Class;
use super::scan::{self, Backslash, Kind, Scanner};

/// The class of a text that is empty or holds exactly one plain statement.
pub fn plain(text: &[u8]) -> Option<Class> {
    let body = &text[scan::skip_blank(text)..];
    if body.is_empty() {
        return Some(Class::Other);
    }
    let class = by_keyword(body)?;
    let guarded = contains(body, b"pggit") || contains(body, b"set_config");
    (!guarded && is_single(body)).then_some(class)
}

fn by_keyword(body: &[u8]) -> Option<Class> {
    let length = body.iter().position(|b| !scan::continues_word(*b)).unwrap_or(body.len());
    let is = |word: &[u8]| body[..length].eq_ignore_ascii_case(word);
    match (length, body[0] | 0x20) {
        // The bit that lowers a letter leaves `(` as it is.
        (0, b'(') => read(body),
        (6, b's') if is(b"select") => reads_only_without_into(body),
        (6, b'v') if is(b"values") => reads_only_without_into(body),
        (5, b't') if is(b"table") => reads_only_without_into(body),
        (4, b'w') if is(b"with") => read(body),
        (6, b'i') if is(b"insert") => Some(Class::Write),
        (6, b'u') if is(b"update") => Some(Class::Write),
        (6, b'd') if is(b"delete") => Some(Class::Write),
        (5, b'm') if is(b"merge") => Some(Class::Write),
        (5, b'f') if is(b"fetch") => Some(Class::Read),
        (4, b'm') if is(b"move") => Some(Class::Read),
        (5, b'c') if is(b"close") => Some(Class::Read),
        (7, b'd') if is(b"declare") => Some(Class::Read),
        (7, b'e') if is(b"explain") => explain(body),
        (7, b'e') if is(b"execute") => Some(Class::Opaque),
        (2, b'd') if is(b"do") => Some(Class::Opaque),
        (4, b'c') if is(b"call") => Some(Class::Opaque),
        (7, b'p') if is(b"prepare") => prepare(body),
        (4, b's') if is(b"show") => Some(Class::Session),
        (4, b'l') if is(b"load") => Some(Class::Session),
        (6, b'l') if is(b"listen") => Some(Class::Session),
        (6, b'n') if is(b"notify") => Some(Class::Session),
        (8, b'u') if is(b"unlisten") => Some(Class::Session),
        (7, b'd') if is(b"discard") => Some(Class::Session),
        (10, b'd') if is(b"deallocate") => Some(Class::Session),
        (4, b'l') if is(b"lock") => Some(Class::Other),
        (7, b'a') if is(b"analyze") || is(b"analyse") => Some(Class::Maintenance),
        (10, b'c') if is(b"checkpoint") => Some(Class::Maintenance),
        _ => None,
    }
}

/// SELECT, VALUES, TABLE: they only read, unless INTO makes a table of it.
fn reads_only_without_into(body: &[u8]) -> Option<Class> {
    (!contains(body, b"into")).then_some(Class::Read)
}

/// WITH and what begins with a parenthesis may also hold a statement that writes.
fn read(body: &[u8]) -> Option<Class> {
    let writes = contains(body, b"update") || contains(body, b"delete") || contains(body, b"merge");
    if writes { None } else { reads_only_without_into(body) }
}

/// EXPLAIN runs its statement only with ANALYZE, which `U&"…"` could spell in another way.
fn explain(body: &[u8]) -> Option<Class> {
    (!contains(body, b"analy") && memchr(b'&', body).is_none()).then_some(Class::Read)
}

fn prepare(body: &[u8]) -> Option<Class> {
    (!contains(body, b"transaction")).then_some(Class::Session)
}

/// Whether no semicolon ends a statement before the text's end.
fn is_single(body: &[u8]) -> bool {
    let Some(first) = memchr(b';', body) else { return true };
    if body[first + 1..].iter().all(|b| scan::is_space(*b)) {
        return true;
    }
    // What a backslash means depends on a setting that is not known here.
    if memchr(b'\\', body).is_some() {
        return false;
    }
    let mut ended = false;
    for token in Scanner::new(body, Backslash::Plain) {
        match token.kind {
            Kind::Byte(b';') if ended => return false,
            Kind::Byte(b';') => ended = true,
            Kind::Space | Kind::Comment { .. } => {}
            Kind::Word | Kind::Quoted | Kind::String | Kind::FixedString | Kind::Byte(_) if ended => return false,
            Kind::Word | Kind::Quoted | Kind::String | Kind::FixedString | Kind::Byte(_) => {}
        }
    }
    true
}

/// Whether the text holds the lower-case `needle`, in any case; anywhere, in quotes too.
#[inline]
pub(super) fn contains<const N: usize>(text: &[u8], needle: &[u8; N]) -> bool {
    // Looks for the needle's rarest character, then around it.
    let at = rarest(needle);
    let (lower, upper) = (needle[at], needle[at].to_ascii_uppercase());
    memchr2_iter(lower, upper, text).any(|found| {
        found
            .checked_sub(at)
            .and_then(|start| text.get(start..start + N))
            .is_some_and(|window| window.eq_ignore_ascii_case(needle))
    })
}

/// Where the character stands that is least likely in English and SQL: no letter at all, or a rare one.
/// Folds to a constant where the needle is one.
#[inline]
fn rarest<const N: usize>(needle: &[u8; N]) -> usize {
    let rank = |byte: u8| match byte {
        b'e' | b't' | b'a' | b'o' | b'i' | b'n' | b's' | b'r' => 0,
        b'h' | b'l' | b'd' | b'c' | b'u' | b'm' => 1,
        b'a'..=b'z' => 2,
        _ => 3,
    };
    let mut best = 0;
    for at in 1..N {
        if rank(needle[at]) > rank(needle[best]) {
            best = at;
        }
    }
    best
}
