//! What is known of a session's prepared statements and portals: their class, and the text of those that matter.

use std::collections::HashMap;
use std::sync::Arc;

use crate::change::Means;
use crate::sql::{Class, Statement};

/// What a prepared statement, or a portal made from it, will do when executed.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    /// For metrics.
    pub class: Class,
    /// Kept where its execution is judged, logged, or moves the transaction.
    pub text: Option<Arc<Text>>,
    /// How a portal's change is recorded, as it was known at Bind.
    pub means: Option<Means>,
    /// A portal whose statement a rule queues or reroutes, or which is checked: it is judged again when it is executed.
    pub held: bool,
    /// A portal with values, as far as that matters.
    pub bound: bool,
}

/// A statement and its text.
#[derive(Debug)]
pub(super) struct Text {
    pub statement: Statement,
    pub sql: String,
    /// Whether `sql` is the text exactly.
    pub exact: bool,
    /// The statement with what stands before it, if anything does: a comment may hold the commit's message.
    pub commented: Option<String>,
}

impl Text {
    /// The client's whole text, as the server knows it.
    pub fn whole(&self) -> &str {
        self.commented.as_deref().unwrap_or(&self.sql)
    }
}

impl Default for Prepared {
    fn default() -> Self {
        Self { class: Class::Other, text: None, means: None, held: false, bound: false }
    }
}

/// Puts back what a failed Parse had changed.
#[derive(Debug)]
pub(super) struct Undo {
    name: Box<[u8]>,
    previous: Option<Prepared>,
}

/// Statements and portals by name. The unnamed ones have a place of their own, as they are in nearly every message.
#[derive(Debug, Default)]
pub(super) struct Names {
    unnamed: Option<Prepared>,
    named: HashMap<Box<[u8]>, Prepared>,
}

impl Names {
    /// The one of that name.
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<&Prepared> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    /// Makes it known. Beyond `max` names only those that matter are kept.
    pub fn set(&mut self, name: &[u8], prepared: Prepared, max: usize) -> Option<Prepared> {
        if name.is_empty() {
            return self.unnamed.replace(prepared);
        }
        if let Some(known) = self.named.get_mut(name) {
            return Some(std::mem::replace(known, prepared));
        }
        if self.named.len() < max || prepared.text.is_some() {
            self.named.insert(name.into(), prepared);
        }
        None
    }

    /// As [`Self::set`], and how to undo it if the server says no.
    pub fn set_undoable(&mut self, name: &[u8], prepared: Prepared, max: usize) -> Undo {
        Undo { name: name.into(), previous: self.set(name, prepared, max) }
    }

    /// Forgets it.
    pub fn close(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = None;
        } else if !self.named.is_empty() {
            self.named.remove(name);
        }
    }

    /// Puts back what was there before.
    pub fn undo(&mut self, undo: Undo) {
        match undo.previous {
            Some(previous) => drop(self.set(&undo.name, previous, usize::MAX)),
            None => self.close(&undo.name),
        }
    }

    /// Forgets all of them: portals do not outlive their transaction.
    pub fn clear(&mut self) {
        self.unnamed = None;
        if !self.named.is_empty() {
            self.named.clear();
        }
    }
}
