//! What the parser is given: UTF-8 text with the same offsets as the client's bytes.
//!
//! SQL need not be UTF-8, and what a backslash in `'…'` means depends on a setting. Both matter: a
//! statement could hide in what one reading takes for a string. So a text has [`readings`], and it
//! counts as read only where all of them that parse say the same.

use std::borrow::Cow;

use memchr::{memchr, memmem};

use super::Encoding;
use super::scan::{self, Backslash, Kind, Scanner};

/// Stands for a byte from 0x80 up: a letter that is no string prefix (`B`, `E`, `N`, `U`, `X`).
const LETTER: u8 = b'z';

/// Every way in which the server may read the text, depending on settings that are not known here;
/// with spaces for comments. Those that the server must reject, or that masking would make ambiguous,
/// are not among them.
pub fn readings(text: &[u8], encoding: Encoding) -> Vec<Cow<'_, str>> {
    let mut readings: Vec<Cow<'_, str>> = Vec::with_capacity(1);
    for copy in masked(text, encoding) {
        let escaped = without_escapes(copy.as_bytes());
        readings.extend(without_comments(copy));
        readings.extend(escaped.and_then(|copy| without_comments(Cow::Owned(copy))));
    }
    readings
}

/// Spaces for comments. libpg_query takes quadratic time for nested ones, and for many side by side
/// it calls itself until the stack ends, and the process with it.
fn without_comments(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    if memmem::find(text.as_bytes(), b"/*").is_none() && memmem::find(text.as_bytes(), b"--").is_none() {
        return Some(text);
    }
    let mut copy = text.as_bytes().to_vec();
    for token in Scanner::new(text.as_bytes(), Backslash::Plain) {
        match token.kind {
            Kind::Comment { closed: true } => copy[token.range].fill(b' '),
            Kind::Comment { closed: false } => return None,
            Kind::Space | Kind::Word | Kind::Quoted | Kind::String | Kind::FixedString | Kind::Byte(_) => {}
        }
    }
    // A comment begins and ends at characters, so the copy is still UTF-8.
    String::from_utf8(copy).ok().map(Cow::Owned)
}

/// UTF-8 stays as it is; of anything else a copy with letters for the bytes from 0x80 up.
fn masked(text: &[u8], encoding: Encoding) -> Vec<Cow<'_, str>> {
    if (text.is_ascii() || encoding == Encoding::AsciiSafe)
        && let Ok(utf8) = std::str::from_utf8(text)
    {
        return vec![Cow::Borrowed(utf8)];
    }
    if names_dollar_quote_beyond_ascii(text) {
        return Vec::new();
    }
    match encoding {
        Encoding::AsciiSafe => vec![owned(mask(text, |_, _| false))],
        Encoding::LeadByte => {
            let pairs = mask(text, |_, next| is_trail(next));
            // In SJIS 0xA1 to 0xDF are characters of one byte; elsewhere they lead one of two.
            let katakana = mask(text, |byte, next| is_trail(next) && !(0xa1..=0xdf).contains(&byte));
            let same = pairs == katakana;
            let mut copies = vec![owned(pairs)];
            if !same {
                copies.push(owned(katakana));
            }
            copies
        }
    }
}

/// Bytes from 0x80 up become letters, and with them the byte after, if `leads` says so of the two.
fn mask(text: &[u8], leads: fn(u8, u8) -> bool) -> Vec<u8> {
    let mut copy = text.to_vec();
    let mut at = 0;
    while at < copy.len() {
        if copy[at] >= 0x80 {
            let pair = at + 1 < copy.len() && text[at] > 0x80 && leads(text[at], text[at + 1]);
            copy[at] = LETTER;
            if pair {
                at += 1;
                copy[at] = LETTER;
            }
        }
        at += 1;
    }
    copy
}

/// Second bytes in SJIS, BIG5, GBK, UHC, GB18030 and JOHAB: never a quote, a semicolon or white space.
fn is_trail(byte: u8) -> bool {
    byte.is_ascii_digit() || byte >= 0x40
}

fn owned(copy: Vec<u8>) -> Cow<'static, str> {
    // A masked copy is ASCII, so nothing is lost.
    Cow::Owned(String::from_utf8_lossy(&copy).into_owned())
}

fn names_dollar_quote_beyond_ascii(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(n) = memchr(b'$', &text[at..]) {
        at += n + 1;
        let tag = text[at..].iter().take_while(|b| scan::continues_word(**b) && **b != b'$').count();
        if text.get(at + tag) == Some(&b'$') && !text[at..at + tag].is_ascii() {
            return true;
        }
    }
    false
}

/// The text as `standard_conforming_strings = off` reads it, in the words of `on`; `None` if that
/// is the same. An escape becomes two letters, so that it hides no quote from the parser.
fn without_escapes(text: &[u8]) -> Option<String> {
    memchr(b'\\', text)?;
    let mut copy = text.to_vec();
    for token in Scanner::new(text, Backslash::Escapes).filter(|token| token.kind == Kind::String) {
        let mut at = token.range.start;
        while let Some(n) = memchr(b'\\', &text[at..token.range.end]) {
            at += n;
            let end = (at + 2).min(token.range.end);
            copy[at..end].fill(LETTER);
            at = end;
        }
    }
    // Of a longer character only the first byte was escaped; the copy must stay UTF-8.
    (copy != text).then(|| match String::from_utf8(copy) {
        Ok(copy) => copy,
        Err(error) => mask(error.as_bytes(), |_, _| false).into_iter().map(char::from).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8], encoding: Encoding) -> Vec<String> {
        readings(text, encoding).into_iter().map(Cow::into_owned).collect()
    }

    #[test]
    fn utf8_is_not_copied() {
        assert!(matches!(readings("select 'ü'".as_bytes(), Encoding::AsciiSafe)[..], [Cow::Borrowed(_)]));
    }

    #[test]
    fn offsets_stay() {
        assert_eq!(of(b"select '\xfc', a", Encoding::AsciiSafe), ["select 'z', a"]);
        assert_eq!(of(b"select '\x83\x5c', a", Encoding::LeadByte), ["select 'zz', a"]);
    }

    #[test]
    fn a_single_byte_katakana_is_also_read_alone() {
        assert_eq!(of(b"'\xb1\x5c'", Encoding::LeadByte), ["'zz'", "'z\\'", "'zzz"]);
        assert_eq!(of(b"'\xb1'", Encoding::LeadByte), ["'z'"]);
    }

    #[test]
    fn comments_become_spaces() {
        assert_eq!(of("a/* é /**/ */b -- '\n'--'".as_bytes(), Encoding::AsciiSafe), ["a             b     \n'--'"]);
        assert!(of(b"a /* /* */", Encoding::AsciiSafe).is_empty());
    }

    #[test]
    fn a_backslash_is_read_both_ways() {
        assert_eq!(
            of(br"select '\'' ; drop table t; --'", Encoding::AsciiSafe),
            [r"select '\'' ; drop table t; --'", r"select 'zz' ; drop table t;    "]
        );
        assert_eq!(of(br"select E'\''", Encoding::AsciiSafe), [r"select E'\''"]);
        assert_eq!(of("select '\\ü'".as_bytes(), Encoding::AsciiSafe), ["select '\\ü'", "select 'zzz'"]);
    }

    #[test]
    fn dollar_quotes_that_masking_would_confuse_are_not_read() {
        assert!(of(b"select $\xe9$ a $\xe0$ b $\xe9$", Encoding::AsciiSafe).is_empty());
        assert_eq!(of("select $é$ a $é$".as_bytes(), Encoding::AsciiSafe).len(), 1);
    }
}
