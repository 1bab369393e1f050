//! The control port: operators talk to the proxy with psql or any PostgreSQL driver.
//!
//! [`open`] has TLS with whoever asks for it; [`server`] takes connections and reads whole, checked messages; pgwire carries
//! the conversation; [`auth`] logs users in; [`session`] runs what [`command`] parsed; [`show`] makes the rows and [`table`]
//! filters, sorts and cuts them. pgwire trusts lengths and counts that come from the network, so nothing reaches its decoders
//! that [`frame`] has not checked.

mod auth;
pub mod command;
pub mod diff;
mod filter;
pub mod frame;
pub mod look;
mod open;
mod pause;
mod seats;
mod server;
mod session;
pub mod show;
pub mod table;

pub use server::serve;

use pgwire::error::{ErrorInfo, PgWireError};

use crate::history::branching::BranchError;

/// An error that the user of the control port reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    /// Five characters.
    pub sqlstate: &'static str,
    /// One sentence, lower case, no full stop.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do instead.
    pub hint: Option<String>,
    /// Character of the query at which it was found, from 1.
    pub position: Option<usize>,
}

impl CommandError {
    fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into(), detail: None, hint: None, position: None }
    }

    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn at(mut self, position: Option<usize>) -> Self {
        self.position = position;
        self
    }

    fn info(self, severity: &str) -> ErrorInfo {
        let mut info = ErrorInfo::new(severity.to_owned(), self.sqlstate.to_owned(), self.message);
        info.severity_nonlocalized = Some(severity.to_owned());
        info.detail = self.detail;
        info.hint = self.hint;
        info.position = self.position.map(|position| position.to_string());
        info
    }

    fn fatal(self) -> PgWireError {
        PgWireError::UserError(Box::new(self.info("FATAL")))
    }
}

impl From<CommandError> for PgWireError {
    fn from(error: CommandError) -> Self {
        PgWireError::UserError(Box::new(error.info("ERROR")))
    }
}

impl From<BranchError> for CommandError {
    fn from(error: BranchError) -> Self {
        let (detail, hint) = (error.detail(), error.hint());
        Self { detail, hint, ..Self::new(error.sqlstate(), error.to_string()) }
    }
}

/// The closest of `names`, where one is close enough to be meant.
fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&word, &name.to_lowercase());
    let (best, name) = names.into_iter().map(|name| (distance(name), name)).min()?;
    (best <= 1 + name.chars().count() / 3).then_some(name)
}
