//! Refusing by substitution: the server gets, in place of the refused statement, one that it must reject itself.
//!
//! So the order of answers, the abort of the transaction and the skipping to Sync are the server's own. Only its
//! one ErrorResponse is rewritten into ours. In a transaction that had failed before, its 25P02 stands.

use std::ops::Range;

use crate::policy::Refusal;
use crate::wire::{error, frame};

/// A statement that was replaced.
#[derive(Debug)]
pub(super) struct Refused {
    /// Its number in the session; stands in the replacement.
    pub number: u32,
    /// What the client is told.
    pub refusal: Refusal,
    /// Whatever the server says of the replacement: its transaction had failed by then, and the client does not know.
    pub always: bool,
}

impl Refused {
    /// A name that exists nowhere: the server answers 42703 as a column, 26000 as a prepared statement, 34000 as a portal.
    fn marker(&self) -> String {
        format!("pggit:refused:{}", self.number)
    }

    fn statement(&self) -> String {
        format!("SELECT \"{}\"", self.marker())
    }

    /// A Query in which the statement at `range` of `text` is replaced. Keeps the length where it can,
    /// so that the positions in errors on later text stay right.
    pub fn query(&self, text: &[u8], range: &Range<usize>) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len() + 64);
        frame::put(&mut out, b'Q', |body| {
            body.extend_from_slice(text.get(..range.start).unwrap_or_default());
            let from = body.len();
            body.extend_from_slice(self.statement().as_bytes());
            let length = range.len().max(body.len() - from);
            body.resize(from + length, b' ');
            body.extend_from_slice(text.get(range.end..).unwrap_or_default());
            body.push(0);
        });
        out
    }

    /// A Parse of that name whose text is replaced; `tail` are its parameter types as they came.
    pub fn parse(&self, name: &[u8], tail: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(name.len() + tail.len() + 64);
        frame::put(&mut out, b'P', |body| {
            body.extend_from_slice(name);
            body.push(0);
            body.extend_from_slice(self.statement().as_bytes());
            body.push(0);
            body.extend_from_slice(tail);
        });
        out
    }

    /// The head of a Bind to that portal whose statement is replaced; `tail` bytes follow it unchanged.
    pub fn bind_head(&self, portal: &[u8], tail: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(portal.len() + 64);
        frame::put(&mut out, b'B', |body| {
            body.extend_from_slice(portal);
            body.push(0);
            body.extend_from_slice(self.marker().as_bytes());
            body.push(0);
        });
        let length = u32::try_from(out.len() - 1 + tail).unwrap_or(u32::MAX);
        out[1..frame::HEADER].copy_from_slice(&length.to_be_bytes());
        out
    }

    /// The head of an Execute of a portal that does not exist (34000).
    pub fn execute(&self) -> Vec<u8> {
        let mut out = Vec::new();
        frame::put(&mut out, b'E', |body| {
            body.extend_from_slice(self.marker().as_bytes());
            body.extend_from_slice(&[0; 5]);
        });
        out
    }

    /// Our error in place of the server's, if the server's is about the replacement.
    pub fn rewrite(&self, body: &[u8]) -> Option<Vec<u8>> {
        let message = error::field(body, b'M')?;
        let marker = format!("\"{}\"", self.marker());
        if !self.always {
            memchr::memmem::find(message, marker.as_bytes())?;
        }
        let severity = error::field(body, b'S').unwrap_or(b"ERROR");
        let mut out = Vec::new();
        error::put(
            &mut out,
            severity,
            error::Text {
                sqlstate: self.refusal.sqlstate,
                message: &self.refusal.message,
                detail: self.refusal.detail.as_deref(),
                hint: self.refusal.hint.as_deref(),
            },
        );
        Some(out)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused() -> Refused {
        let refusal = Refusal {
            sqlstate: "42501",
            rule: Some("no".into()),
            message: "refused".into(),
            detail: None,
            hint: Some("branch".into()),
        };
        Refused { number: 7, refusal, always: false }
    }

    #[test]
    fn the_replacement_keeps_the_place_of_what_follows() {
        let text = b"select 1; create table a_long_name_here (i int); select 2";
        let query = refused().query(text, &(10..47));
        let new = &query[frame::HEADER..query.len() - 1];
        assert_eq!(new.len(), text.len());
        assert_eq!(&new[..10], &text[..10]);
        assert!(new[10..].starts_with(b"SELECT \"pggit:refused:7\" "));
        assert_eq!(&new[47..], &text[47..]);
    }

    #[test]
    fn a_bind_keeps_its_tail() {
        let head = refused().bind_head(b"p", 100);
        let read = frame::Head::read(&head).unwrap().unwrap();
        assert_eq!(read.total, head.len() + 100);
    }

    #[test]
    fn only_the_error_about_the_replacement_is_rewritten() {
        let refused = refused();
        assert!(refused.rewrite(b"SERROR\0C42703\0Mcolumn \"pggit:refused:7\" does not exist\0\0").is_some());
        assert!(refused.rewrite(b"SERROR\0C42703\0Mcolumn \"pggit:refused:71\" does not exist\0\0").is_none());
        assert!(refused.rewrite(b"SERROR\0C25P02\0Mcurrent transaction is aborted\0\0").is_none());
    }
}
