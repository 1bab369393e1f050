//! What pg_dump wrote, cut into what can be run by itself.

use std::ops::Range;

use crate::sql::comments;

/// How pg_dump's header of an entry begins; a line before it is `--`.
const HEADER: &[u8] = b"-- Name: ";

/// How its last comment begins.
const END: &[u8] = b"-- PostgreSQL database dump complete";

/// One thing that the dump makes, with whatever goes along (its owner, settings for it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// As its header says: `t; Type: TABLE; Schema: public; Owner: ann`.
    pub name: String,
    /// Its statements.
    pub sql: String,
}

impl Entry {
    /// Event triggers would record whatever is made after them.
    pub fn is_event_trigger(&self) -> bool {
        self.name.contains("; Type: EVENT TRIGGER;") || self.name.starts_with("EVENT TRIGGER ")
    }
}

/// The settings at the beginning, and the entries in their order. Only comments between statements count as headers: what
/// looks like one inside a function's body is a part of it.
pub(super) fn entries(dump: &str) -> (String, Vec<Entry>) {
    let mut all: Vec<Entry> = Vec::new();
    let mut name = String::new();
    let mut start = 0;
    let mut end = dump.len();
    let text = |range: Range<usize>| dump.get(range).unwrap_or_default().to_owned();
    for comment in comments(dump.as_bytes()) {
        let bytes = dump.as_bytes().get(comment.clone()).unwrap_or_default();
        if bytes.starts_with(END) {
            end = comment.start;
            break;
        }
        if bytes.starts_with(HEADER) {
            all.push(Entry { name: std::mem::take(&mut name), sql: text(start..comment.start) });
            name = dump.get(comment.start + HEADER.len()..comment.end).unwrap_or_default().trim().to_owned();
            start = comment.end;
        }
    }
    all.push(Entry { name, sql: text(start..end) });
    let entries = all.split_off(1.min(all.len()));
    // psql's own command stands there, too; the one that ends it stands behind the end.
    let is_command = |line: &str| line.starts_with('\\');
    let settings = all.iter().flat_map(|entry| entry.sql.split_inclusive('\n'));
    (settings.filter(|line| !is_command(line)).collect(), entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\n-- Dumped by pg_dump version 18\n\n\
        SET statement_timeout = 0;\nSET transaction_timeout = 0;\n\n--\n-- Name: f(); Type: FUNCTION; Schema: public; Owner: a\n--\n\n\
        CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$\n--\n-- Name: x; Type: EVENT TRIGGER; Schema: -; Owner: a\n--\nselect ';'\n$$;\n\n\n\
        --\n-- Name: e; Type: EVENT TRIGGER; Schema: -; Owner: a\n--\n\nCREATE EVENT TRIGGER e;\n\n\n\
        --\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n";

    #[test]
    fn entries_begin_at_headers_outside_of_texts() {
        let (settings, all) = entries(DUMP);
        assert!(settings.contains("SET transaction_timeout") && !settings.contains('\\'), "{settings}");
        let names: Vec<&str> = all.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(
            names,
            ["f(); Type: FUNCTION; Schema: public; Owner: a", "e; Type: EVENT TRIGGER; Schema: -; Owner: a"]
        );
        assert_eq!(all.iter().map(Entry::is_event_trigger).collect::<Vec<_>>(), [false, true]);
        assert!(!all[1].sql.contains("unrestrict"));
    }
}
