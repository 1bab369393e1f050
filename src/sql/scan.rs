//! PostgreSQL's lexical rules, as far as they decide where strings, comments and statements end.
//!
//! See <https://www.postgresql.org/docs/current/sql-syntax-lexical.html>. The server's own scanner
//! is the authority (`scan.l`); bytes from 0x80 up are letters there, and here.

use std::ops::Range;

use memchr::{memchr, memchr2, memmem};

/// One token: what it is and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its bytes in the text.
    pub range: Range<usize>,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// White space.
    Space,
    /// A comment of either kind.
    Comment {
        /// False where the text ends before it does.
        closed: bool,
    },
    /// An unquoted name or keyword, or a run of digits.
    Word,
    /// A quoted identifier, `U&"…"` too.
    Quoted,
    /// `'…'`, whose backslashes mean what `standard_conforming_strings` says.
    String,
    /// `E'…'`, `B'…'`, `X'…'`, `U&'…'` and `$tag$…$tag$`, whose meaning no setting changes.
    FixedString,
    /// Any other byte.
    Byte(u8),
}

/// How a backslash in `'…'` is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backslash {
    /// `standard_conforming_strings = on`: as itself.
    Plain,
    /// `standard_conforming_strings = off`: it takes the next byte with it.
    Escapes,
}

/// The tokens of a text, up to its end; what is not terminated ends there.
#[derive(Debug, Clone)]
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    backslash: Backslash,
}

impl<'a> Scanner<'a> {
    /// From the text's beginning.
    pub fn new(text: &'a [u8], backslash: Backslash) -> Self {
        Self { text, at: 0, backslash }
    }

    fn kind_and_end(&self, first: u8) -> (Kind, usize) {
        let (text, at) = (self.text, self.at);
        let second = text.get(at + 1).copied();
        match first {
            b if is_space(b) => (Kind::Space, run(text, at, is_space)),
            b'-' if second == Some(b'-') => (Kind::Comment { closed: true }, line_end(text, at)),
            b'/' if second == Some(b'*') => {
                let (closed, end) = block_comment(text, at);
                (Kind::Comment { closed }, end)
            }
            b'\'' => (Kind::String, string_end(text, at, self.backslash == Backslash::Escapes)),
            b'"' => (Kind::Quoted, quoted_end(text, at, b'"')),
            b'$' => dollar(text, at),
            b'e' | b'E' if second == Some(b'\'') => (Kind::FixedString, string_end(text, at + 1, true)),
            b'b' | b'B' | b'x' | b'X' if second == Some(b'\'') => (Kind::FixedString, string_end(text, at + 1, false)),
            b'u' | b'U' if second == Some(b'&') && text.get(at + 2) == Some(&b'\'') => {
                (Kind::FixedString, string_end(text, at + 2, false))
            }
            b'u' | b'U' if second == Some(b'&') && text.get(at + 2) == Some(&b'"') => {
                (Kind::Quoted, quoted_end(text, at + 2, b'"'))
            }
            b if starts_word(b) => (Kind::Word, run(text, at, continues_word)),
            b if b.is_ascii_digit() => (Kind::Word, run(text, at, |b| b.is_ascii_digit())),
            b => (Kind::Byte(b), at + 1),
        }
    }
}

impl Iterator for Scanner<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let first = *self.text.get(self.at)?;
        let (kind, end) = self.kind_and_end(first);
        let range = self.at..end;
        self.at = end;
        Some(Token { kind, range })
    }
}

/// Where the white space and comments at the beginning end.
pub fn skip_blank(text: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match text.get(at) {
            Some(b) if is_space(*b) => at += 1,
            Some(b'-') if text.get(at + 1) == Some(&b'-') => at = line_end(text, at),
            Some(b'/') if text.get(at + 1) == Some(&b'*') => at = block_comment(text, at).1,
            _ => return at,
        }
    }
}

/// The names `x` in `schema.x(`, lower-cased.
pub fn called_functions<'a>(text: &'a [u8], schema: &'a str) -> impl Iterator<Item = String> + 'a {
    let mut tokens = Scanner::new(text, Backslash::Plain)
        .filter(|token| !matches!(token.kind, Kind::Space | Kind::Comment { .. }))
        .map(|token| (token.kind, &text[token.range]));
    let mut last: [(Kind, &[u8]); 3] = [(Kind::Space, b""); 3];
    std::iter::from_fn(move || {
        for token in tokens.by_ref() {
            let [owner, dot, name] = last;
            last = [dot, name, token];
            if token.0 == Kind::Byte(b'(') && dot.0 == Kind::Byte(b'.') && unquoted(owner) == schema {
                return Some(unquoted(name));
            }
        }
        None
    })
}

/// A name without its quotes, in lower case.
fn unquoted((kind, bytes): (Kind, &[u8])) -> String {
    let name = String::from_utf8_lossy(bytes);
    let name = if kind == Kind::Quoted { name.trim_matches('"') } else { &name };
    name.to_ascii_lowercase()
}

/// The byte ranges between the semicolons that stand outside of strings, comments and parentheses.
pub fn split(text: &[u8]) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let (mut start, mut depth) = (0, 0usize);
    for token in Scanner::new(text, Backslash::Plain) {
        match token.kind {
            Kind::Byte(b'(') => depth += 1,
            Kind::Byte(b')') => depth = depth.saturating_sub(1),
            Kind::Byte(b';') if depth == 0 => {
                pieces.push(start..token.range.start);
                start = token.range.end;
            }
            _ => {}
        }
    }
    pieces.push(start..text.len());
    pieces
}

/// Whether the byte is white space to PostgreSQL's scanner.
pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Whether an unquoted name may begin with the byte.
pub fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

/// Whether an unquoted name may go on with the byte.
pub fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn run(text: &[u8], at: usize, belongs: fn(u8) -> bool) -> usize {
    text[at..].iter().position(|b| !belongs(*b)).map_or(text.len(), |n| at + n)
}

fn line_end(text: &[u8], at: usize) -> usize {
    memchr2(b'\n', b'\r', &text[at..]).map_or(text.len(), |n| at + n)
}

/// Whether the comment that begins at `at` is closed, and where it ends.
fn block_comment(text: &[u8], at: usize) -> (bool, usize) {
    let (mut depth, mut at) = (1, at + 2);
    while let Some(n) = memchr2(b'/', b'*', &text[at.min(text.len())..]) {
        at += n;
        match (text[at], text.get(at + 1)) {
            (b'/', Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (b'*', Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return (true, at);
                }
            }
            _ => at += 1,
        }
    }
    (false, text.len())
}

/// The end of the string whose quote stands at `at`, with the pieces that a line break joins to it.
fn string_end(text: &[u8], at: usize, escapes: bool) -> usize {
    let mut end = if escapes { escaped_end(text, at) } else { quoted_end(text, at, b'\'') };
    // `E'a'` NEWLINE `'b'` is one string, and its second piece knows backslashes too.
    while let Some(next) = continuation(text, end) {
        end = if escapes { escaped_end(text, next) } else { quoted_end(text, next, b'\'') };
    }
    end
}

fn quoted_end(text: &[u8], at: usize, quote: u8) -> usize {
    let mut at = at + 1;
    while let Some(n) = memchr(quote, &text[at.min(text.len())..]) {
        at += n + 1;
        if text.get(at) != Some(&quote) {
            return at;
        }
        at += 1;
    }
    text.len()
}

fn escaped_end(text: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(n) = memchr2(b'\'', b'\\', &text[at.min(text.len())..]) {
        at += n + 1;
        if text[at - 1] == b'\\' || text.get(at) == Some(&b'\'') {
            at += 1;
        } else {
            return at;
        }
    }
    text.len()
}

fn continuation(text: &[u8], at: usize) -> Option<usize> {
    let (mut at, mut line_break) = (at, false);
    loop {
        match text.get(at)? {
            b'\n' | b'\r' => (at, line_break) = (at + 1, true),
            b if is_space(*b) => at += 1,
            b'-' if text.get(at + 1) == Some(&b'-') => at = line_end(text, at),
            b'\'' if line_break => return Some(at),
            _ => return None,
        }
    }
}

/// `$tag$…$tag$`, or the lone `$` of a parameter.
fn dollar(text: &[u8], at: usize) -> (Kind, usize) {
    let tag = run(text, at + 1, |b| continues_word(b) && b != b'$');
    let opens = text.get(tag) == Some(&b'$') && !text[at + 1].is_ascii_digit();
    if !opens {
        return (Kind::Byte(b'$'), at + 1);
    }
    let (open, body) = (&text[at..=tag], tag + 1);
    let end = memmem::find(&text[body..], open).map_or(text.len(), |n| body + n + open.len());
    (Kind::FixedString, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str, backslash: Backslash) -> Vec<(Kind, &str)> {
        Scanner::new(text.as_bytes(), backslash).map(|t| (t.kind, &text[t.range])).collect()
    }

    fn pieces(text: &str) -> Vec<&str> {
        split(text.as_bytes()).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn strings_end_where_the_server_says() {
        use Kind::*;
        for (text, first) in [
            ("'a''b' x", (String, "'a''b'")),
            ("e'a\\'b' x", (FixedString, "e'a\\'b'")),
            ("E'a\\''  -- c\n 'b\\'c' x", (FixedString, "E'a\\''  -- c\n 'b\\'c'")),
            ("'a' 'b'", (String, "'a'")),
            ("$$a;$b$ $$ x", (FixedString, "$$a;$b$ $$")),
            ("$q$ $$ $q$ x", (FixedString, "$q$ $$ $q$")),
            ("$1 $2", (Byte(b'$'), "$")),
            ("a$b$c d", (Word, "a$b$c")),
            ("u&\"a;\"\"b\" x", (Quoted, "u&\"a;\"\"b\"")),
            ("'open ; to the end", (String, "'open ; to the end")),
            ("x'1f' y", (FixedString, "x'1f'")),
            ("$", (Byte(b'$'), "$")),
        ] {
            assert_eq!(kinds(text, Backslash::Plain)[0], first, "{text}");
        }
    }

    #[test]
    fn a_setting_decides_what_a_backslash_means() {
        assert_eq!(kinds(r"'\' ;'", Backslash::Plain)[0], (Kind::String, r"'\'"));
        assert_eq!(kinds(r"'\' ;'", Backslash::Escapes)[0], (Kind::String, r"'\' ;'"));
    }

    #[test]
    fn semicolons_inside_of_something_do_not_split() {
        assert_eq!(pieces("a;b"), ["a", "b"]);
        assert_eq!(
            pieces("a ';' \";\" $$;$$ /* ; /* ; */ ; */ -- ;\n b; c"),
            ["a ';' \";\" $$;$$ /* ; /* ; */ ; */ -- ;\n b", " c"]
        );
        assert_eq!(
            pieces("create rule r as on insert to t do (a; b); c"),
            ["create rule r as on insert to t do (a; b)", " c"]
        );
    }

    #[test]
    fn comments_nest() {
        fn comment(text: &str) -> (Kind, &str) {
            kinds(text, Backslash::Plain)[0]
        }
        assert_eq!(comment("/* /* */ */ x"), (Kind::Comment { closed: true }, "/* /* */ */"));
        assert_eq!(comment("/* /* */ x"), (Kind::Comment { closed: false }, "/* /* */ x"));
        assert_eq!(comment("/*/ x"), (Kind::Comment { closed: false }, "/*/ x"));
        assert_eq!(comment("-- /*\nx"), (Kind::Comment { closed: true }, "-- /*"));
    }

    #[test]
    fn tokens_rejoin_to_the_text() {
        use proptest::prelude::*;
        let pieces = proptest::sample::select(vec![
            "'", "\"", "$", "$a$", "E", "e'", "\\", ";", "/*", "*/", "--", "\n", " ", "u&", "é", "1", "(", "x",
        ]);
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(parts in proptest::collection::vec(pieces, 0..24))| {
            let text = parts.concat();
            for backslash in [Backslash::Plain, Backslash::Escapes] {
                let mut end = 0;
                for token in Scanner::new(text.as_bytes(), backslash) {
                    prop_assert_eq!(token.range.start, end);
                    prop_assert!(token.range.end > end && token.range.end <= text.len());
                    end = token.range.end;
                }
                prop_assert_eq!(end, text.len());
            }
        });
    }
}
