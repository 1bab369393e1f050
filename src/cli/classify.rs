//! `pggit-proxy classify`: what the proxy makes of SQL, one JSON object a line and statement.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::sql::{self, Classifier, Encoding, ObjectName, Statement};

/// Texts come once: there is nothing to remember.
const NO_CACHE: usize = 0;

/// Reads SQL from the file, or from standard input without one, and prints its statements.
pub fn run(file: Option<&Path>) -> anyhow::Result<()> {
    let text = match file {
        Some(path) => std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => {
            let mut text = Vec::new();
            io::stdin().lock().read_to_end(&mut text).context("cannot read standard input")?;
            text
        }
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    match print(&text, &mut out).and_then(|()| out.flush()) {
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write"),
    }
}

fn print(text: &[u8], out: &mut impl Write) -> io::Result<()> {
    let mut classifier = Classifier::new(NO_CACHE);
    for (range, statement) in statements(&mut classifier, text) {
        serde_json::to_writer(&mut *out, &Line::of(&statement, &String::from_utf8_lossy(&text[range])))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Every statement and its bytes. Where one of them does not parse, the server rejects the whole
/// text; here the others are still shown.
fn statements(classifier: &mut Classifier, text: &[u8]) -> Vec<(Range<usize>, Statement)> {
    let whole = classifier.parse(text, Encoding::default());
    if whole.iter().all(|statement| statement.parsed) {
        return placed(&whole, 0);
    }
    let pieces = sql::split(text);
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(piece) = pieces.get(next) {
        let mut end = next;
        let mut answer = classifier.parse(&text[piece.clone()], Encoding::default());
        // A function's body (BEGIN ATOMIC … END) holds semicolons of its own.
        while answer.iter().any(|s| !s.parsed) && end + 1 < pieces.len() && begins_atomic(&text[piece.clone()]) {
            end += 1;
            answer = classifier.parse(&text[piece.start..pieces[end].end], Encoding::default());
        }
        if answer.iter().any(|s| !s.parsed) {
            end = next;
            answer = sql::unread(piece.len());
        }
        found.extend(placed(&answer, piece.start));
        next = end + 1;
    }
    found.into_iter().map(|(range, statement)| (trimmed(text, range), statement)).collect()
}

fn placed(statements: &[Statement], at: usize) -> Vec<(Range<usize>, Statement)> {
    statements.iter().map(|s| (s.range.start + at..s.range.end + at, s.clone())).collect()
}

fn begins_atomic(text: &[u8]) -> bool {
    let lower = String::from_utf8_lossy(text).to_ascii_lowercase();
    lower.split_whitespace().zip(lower.split_whitespace().skip(1)).any(|words| words == ("begin", "atomic"))
}

fn trimmed(text: &[u8], range: Range<usize>) -> Range<usize> {
    let bytes = &text[range.clone()];
    let start = range.start + (bytes.len() - bytes.trim_ascii_start().len());
    start..(start + bytes.trim_ascii().len())
}

/// One line; its keys stand in this order.
#[derive(Serialize)]
struct Line<'a> {
    tag: &'a str,
    class: &'a str,
    action: Option<&'a str>,
    object_type: Option<&'a str>,
    objects: Vec<Name<'a>>,
    transactional: bool,
    temporary: bool,
    parsed: bool,
    sql: &'a str,
}

#[derive(Serialize)]
struct Name<'a> {
    schema: Option<&'a str>,
    name: &'a str,
}

impl<'a> Line<'a> {
    fn of(statement: &'a Statement, sql: &'a str) -> Self {
        let name = |object: &'a ObjectName| Name { schema: object.schema.as_deref(), name: &object.name };
        Self {
            tag: statement.tag,
            class: statement.class.as_str(),
            action: statement.action,
            object_type: statement.object_type,
            objects: statement.objects.iter().map(name).collect(),
            transactional: statement.transactional,
            temporary: statement.temporary,
            parsed: statement.parsed,
            sql,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn printed(text: &str) -> String {
        let mut out = Vec::new();
        print(text.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_statement_is_one_line_with_the_keys_of_the_contract() {
        assert_eq!(
            printed("-- c\nalter table t add a int;"),
            "{\"tag\":\"ALTER TABLE\",\"class\":\"ddl\",\"action\":\"alter\",\"object_type\":\"table\",\
             \"objects\":[{\"schema\":null,\"name\":\"t\"}],\"transactional\":true,\"temporary\":false,\
             \"parsed\":true,\"sql\":\"alter table t add a int\"}\n"
        );
    }

    #[test]
    fn statements_beside_one_that_does_not_parse_are_still_classified() {
        let text = "create table a(); creat table b; \
                    create function f() returns int begin atomic select 1; select 2; end; drop table c;";
        let lines: Vec<serde_json::Value> = printed(text).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let tags: Vec<_> = lines.iter().map(|l| (l["tag"].as_str().unwrap(), l["parsed"].as_bool().unwrap())).collect();
        assert_eq!(tags, [("CREATE TABLE", true), ("", false), ("CREATE FUNCTION", true), ("DROP TABLE", true)]);
        assert_eq!(lines[1]["sql"], "creat table b");
        assert_eq!(lines[3]["sql"], "drop table c");
    }
}
