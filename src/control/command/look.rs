//! `SHOW SCHEMA OF`, `BLAME`, `DIFF`

use sqlparser::tokenizer::Token;
use uuid::Uuid;

use super::{Command, Words};
use crate::control::CommandError;
use crate::control::look::SCHEMA;
use crate::history::branching::Moment;

impl Words<'_> {
    /// `OF branch [AT COMMIT id | AT TIME 'time'] [columns] [WHERE …] …`
    pub(super) fn show_schema(&mut self) -> Result<Command, CommandError> {
        const HINT: &str = "SHOW SCHEMA OF branch [AT COMMIT id | AT TIME 'time']";
        if !self.takes("OF") {
            return Err(self.unexpected(self.at).hint(HINT));
        }
        let branch = self.name()?;
        let moment = match self.takes("AT") {
            true if self.takes("COMMIT") => Moment::Commit(self.commit(HINT)?),
            true if self.takes("TIME") => match self.tokens.get(self.at).map(|token| &token.token) {
                Some(Token::SingleQuotedString(time)) => {
                    self.at += 1;
                    Moment::Time(time.clone())
                }
                _ => return Err(self.unexpected(self.at).hint(HINT)),
            },
            true => return Err(self.unexpected(self.at).hint(HINT)),
            false => Moment::Now,
        };
        Ok(Command::ShowSchema(branch, moment, self.query(SCHEMA)?))
    }

    /// A commit's whole id.
    pub(super) fn commit(&mut self, hint: &str) -> Result<Uuid, CommandError> {
        let at = self.position(self.at);
        let id = Uuid::try_parse(&self.name()?);
        id.map_err(|_| CommandError::new("22P02", "a commit is named by its whole id").hint(hint).at(at))
    }

    /// `table [ON BRANCH branch]`
    pub(super) fn blame(&mut self) -> Result<Command, CommandError> {
        let relation = self.relation()?;
        let branch = match self.takes("ON") {
            true if self.takes("BRANCH") => Some(self.name()?),
            true => return Err(self.unexpected(self.at).hint("BLAME table [ON BRANCH branch]")),
            false => None,
        };
        self.end(Command::Blame(relation, branch))
    }

    /// `a b`
    pub(super) fn diff(&mut self) -> Result<Command, CommandError> {
        let from = self.name()?;
        let to = self.name()?;
        self.end(Command::Diff(from, to))
    }

    /// A table's name as the server reads it: quotes are a part of it.
    fn relation(&mut self) -> Result<String, CommandError> {
        let quoted = self.tokens.get(self.at).and_then(|token| match &token.token {
            Token::Word(word) if word.quote_style.is_some() => Some(token.token.to_string()),
            _ => None,
        });
        let name = self.name()?;
        // Of a quoted word that stands alone the quotes are gone.
        Ok(quoted.filter(|_| !name.starts_with('"')).unwrap_or(name))
    }
}
