//! Asks libpg_query what a text is, and tells it in our words.
//!
//! [`tree`] parses; [`Facts::of`](facts::Facts::of) goes from a node to what we say of it, by way of
//! [`schema`] (what makes, changes and drops objects), [`session`] (transactions, settings) and
//! [`data`] (reading and writing); [`kind`] and [`name`] know objects. Every match on a number of
//! PostgreSQL's has an arm for numbers of later grammars: those are `???`, which rules treat as DDL.

mod alter;
mod data;
mod facts;
mod kind;
mod name;
mod schema;
mod session;
mod tree;

use std::sync::Arc;

use super::{Encoding, Statement, mask, scan};
use facts::Facts;

/// Every statement of the text; one unread statement where it does not parse, or where settings
/// that are not known here decide what it says.
pub fn classify(text: &[u8], encoding: Encoding) -> Arc<[Statement]> {
    let mut answer: Option<Vec<Statement>> = None;
    for reading in mask::readings(text, encoding) {
        let Some(statements) = read(&reading) else { continue };
        match &answer {
            Some(other) if *other != statements => return unreadable(text),
            Some(_) => {}
            None => answer = Some(statements),
        }
    }
    answer.map_or_else(|| unreadable(text), Into::into)
}

/// The server might still read it: so the settings of ours that it names count as being set.
fn unreadable(text: &[u8]) -> Arc<[Statement]> {
    let whole = Facts { setting: facts::named_setting(text), ..Facts::unknown() };
    Arc::new([whole.into_statement(0..text.len())])
}

fn read(text: &str) -> Option<Vec<Statement>> {
    tree::parse(text, |node, range| {
        let range = trim(text, range);
        let sql = text.get(range.clone()).unwrap_or_default();
        Facts::of(node, sql).with_settings_in(sql).into_statement(range)
    })
}

/// Without the white space around it; comments have become white space.
fn trim(text: &str, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let bytes = text.as_bytes().get(range.clone()).unwrap_or_default();
    let start = range.start + bytes.iter().take_while(|b| scan::is_space(**b)).count();
    let blank = bytes.iter().rev().take_while(|b| scan::is_space(**b)).count();
    start..(range.end - blank).max(start)
}
