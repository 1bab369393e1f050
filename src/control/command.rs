//! The grammar of the control port, on sqlparser's tokens and expressions: [`Words`] reads a command from the left, one file
//! below has the words of one family of commands.

mod branches;
mod changes;
mod help;
mod look;
mod show;
#[cfg(test)]
mod tests;

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::ParserError;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use uuid::Uuid;

pub use self::help::{COMMANDS, Help};
use super::show::Show;
use super::table::Query;
use super::{CommandError, nearest};
use crate::history::branching::{Alteration, Data, Force, Moment};

/// Tokens of one command.
const MAX_TOKENS: usize = 1000;

/// Tokens of one command that are neither literals nor commas. The parser nests a chain of ANDs as deep as it is
/// long, and such a tree is walked and dropped by recursion.
const MAX_NESTING_TOKENS: usize = 250;

/// Signs such as `-` in one command: the parser recurses for each, and does not count.
const MAX_SIGNS: usize = 30;

/// Commands of one message.
const MAX_COMMANDS: usize = 100;

/// What a user can ask of the control port.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `SHOW name [columns] [WHERE …] [ORDER BY …] [LIMIT n] [OFFSET n]`
    Show(Show, Query),
    /// `RELOAD`
    Reload,
    /// `KILL id`
    Kill(u64),
    /// `SHUTDOWN [NOW]`
    Shutdown {
        /// Do not wait for sessions.
        now: bool,
    },
    /// `PAUSE`
    Pause,
    /// `RESUME`
    Resume,
    /// `REFUSE DDL ON BRANCH b`
    RefuseDdl(String),
    /// `ALLOW DDL ON BRANCH b`
    AllowDdl(String),
    /// `CREATE BRANCH b FROM p [AT COMMIT c | WITH DATA [FORCE]]`
    CreateBranch {
        /// The new branch.
        name: String,
        /// What it is made from.
        parent: String,
        /// The parent's commit.
        at: Option<Uuid>,
        /// `WITH DATA [FORCE]`
        data: Data,
    },
    /// `DROP BRANCH b [FORCE]`
    DropBranch(String, Force),
    /// `ALTER BRANCH b PROTECT | UNPROTECT | RENAME TO c | EXPIRES …`
    AlterBranch(String, Alteration),
    /// `SHOW SCHEMA OF b [AT COMMIT c | AT TIME 't']`, with the rest of a SHOW
    ShowSchema(String, Moment, Query),
    /// `BLAME table [ON BRANCH b]`; without one the default branch
    Blame(String, Option<String>),
    /// `DIFF a b`
    Diff(String, String),
    /// `APPROVE CHANGE n`
    ApproveChange(i64),
    /// `REJECT CHANGE n BECAUSE 'text'`
    RejectChange(i64, String),
    /// `APPLY CHANGE n`
    ApplyChange(i64),
    /// `BEGIN`, `START TRANSACTION`: for drivers; nothing here is transactional.
    Begin(&'static str),
    /// `COMMIT`, `END`
    Commit,
    /// `ROLLBACK`, `ABORT`
    Rollback,
    /// `SET …`, `RESET …`, `DISCARD …`: for drivers; nothing changes. With the command tag.
    Setting(&'static str),
    /// `DEALLOCATE name`; `None`: all of them.
    Deallocate(Option<String>),
}

/// First words, for the hint of an unknown command.
const WORDS: [&str; 16] = [
    "SHOW", "RELOAD", "KILL", "PAUSE", "RESUME", "SHUTDOWN", "REFUSE", "ALLOW", "CREATE", "DROP", "ALTER", "APPROVE",
    "REJECT", "APPLY", "DIFF", "BLAME",
];

/// First words of SQL that a database would know; psql's tab completion and `\d` send some.
const SQL_WORDS: [&str; 24] = [
    "SELECT", "WITH", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "CREATE", "ALTER", "DROP",
    "GRANT", "REVOKE", "TRUNCATE", "EXPLAIN", "PREPARE", "EXECUTE", "DECLARE", "FETCH", "CALL", "DO", "LISTEN",
    "ANALYZE",
];

/// The commands of a text, separated by `;`; empty ones are left out.
pub fn parse(text: &str) -> Result<Vec<Command>, CommandError> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text)
        .tokenize_with_location()
        .map_err(|error| CommandError::new("42601", error.message.to_lowercase()).at(position(text, error.location)))?;
    let mut commands = Vec::new();
    for tokens in tokens.split(|token| token.token == Token::SemiColon) {
        let tokens: Vec<_> =
            tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).cloned().collect();
        if is_too_long(&tokens) || commands.len() >= MAX_COMMANDS {
            return Err(CommandError::new("54001", "the command is too long"));
        }
        if !tokens.is_empty() {
            commands.push(Words { text, tokens: &tokens, at: 0 }.command()?);
        }
    }
    Ok(commands)
}

fn is_too_long(tokens: &[TokenWithSpan]) -> bool {
    let (mut nesting, mut signs) = (0, 0);
    for token in tokens {
        match &token.token {
            Token::Number(..) | Token::SingleQuotedString(_) | Token::Comma => {}
            Token::Word(_) | Token::LParen | Token::RParen | Token::Eq | Token::Neq => nesting += 1,
            Token::Lt | Token::Gt | Token::LtEq | Token::GtEq => nesting += 1,
            _ => (nesting, signs) = (nesting + 1, signs + 1),
        }
    }
    tokens.len() > MAX_TOKENS || nesting > MAX_NESTING_TOKENS || signs > MAX_SIGNS
}

/// One command's tokens, read from the left.
struct Words<'a> {
    text: &'a str,
    tokens: &'a [TokenWithSpan],
    at: usize,
}

impl Words<'_> {
    fn command(mut self) -> Result<Command, CommandError> {
        let Some(first) = self.word() else { return Err(self.unexpected(0)) };
        match first.as_str() {
            "SHOW" => self.show(),
            "RELOAD" => self.end(Command::Reload),
            "KILL" => self.kill(),
            "PAUSE" => self.end(Command::Pause),
            "RESUME" => self.end(Command::Resume),
            "SHUTDOWN" => match self.word().as_deref() {
                None => self.end(Command::Shutdown { now: false }),
                Some("NOW") => self.end(Command::Shutdown { now: true }),
                Some(_) => Err(self.unexpected(1)),
            },
            "REFUSE" => Ok(Command::RefuseDdl(self.branch()?)),
            "ALLOW" => Ok(Command::AllowDdl(self.branch()?)),
            "CREATE" if self.takes("BRANCH") => self.create_branch(),
            "DROP" if self.takes("BRANCH") => self.drop_branch(),
            "ALTER" if self.takes("BRANCH") => self.alter_branch(),
            "DIFF" => self.diff(),
            "BLAME" => self.blame(),
            "APPROVE" => {
                let number = self.change()?;
                self.end(Command::ApproveChange(number))
            }
            "APPLY" => {
                let number = self.change()?;
                self.end(Command::ApplyChange(number))
            }
            "REJECT" => self.reject(),
            "BEGIN" => Ok(Command::Begin("BEGIN")),
            "START" => Ok(Command::Begin("START TRANSACTION")),
            "COMMIT" | "END" => Ok(Command::Commit),
            "ROLLBACK" | "ABORT" => Ok(Command::Rollback),
            "SET" => Ok(Command::Setting("SET")),
            "RESET" => Ok(Command::Setting("RESET")),
            "DISCARD" => Ok(Command::Setting("DISCARD ALL")),
            "DEALLOCATE" => self.deallocate(),
            word if SQL_WORDS.contains(&word) => {
                Err(CommandError::new("0A000", format!("the control port takes commands, not SQL: {word}"))
                    .hint("Try SHOW HELP.")
                    .at(self.position(0)))
            }
            word => {
                let error = CommandError::new("42601", format!("unknown command \"{word}\"")).at(self.position(0));
                Err(match nearest(word, WORDS) {
                    Some(near) => error.hint(format!("Perhaps you meant {near}. Try SHOW HELP.")),
                    None => error.hint("Try SHOW HELP."),
                })
            }
        }
    }

    fn kill(&mut self) -> Result<Command, CommandError> {
        let id = self.tokens.get(self.at).and_then(|token| match &token.token {
            Token::Number(text, _) => text.parse().ok(),
            Token::SingleQuotedString(text) => text.parse().ok(),
            _ => None,
        });
        self.at += 1;
        match id {
            Some(id) => self.end(Command::Kill(id)),
            None => Err(CommandError::new("42601", "KILL needs the number of a client")
                .hint("SHOW CLIENTS shows the numbers in the column id.")
                .at(self.position(1))),
        }
    }

    /// `DDL ON BRANCH name`; a name may stand bare, although it is no identifier: `feature/x-1`.
    fn branch(&mut self) -> Result<String, CommandError> {
        for expected in ["DDL", "ON", "BRANCH"] {
            if self.word().as_deref() != Some(expected) {
                return Err(self
                    .unexpected(self.at.saturating_sub(1))
                    .hint("REFUSE DDL ON BRANCH name, ALLOW DDL ON BRANCH name"));
            }
        }
        let name = self.name()?;
        if self.at < self.tokens.len() { Err(self.unexpected(self.at)) } else { Ok(name) }
    }

    /// The name of a branch; tokens that stand apart are not one name.
    fn name(&mut self) -> Result<String, CommandError> {
        let rest = self.tokens.get(self.at..).unwrap_or_default();
        let apart = rest.windows(2).position(|pair| pair[0].span.end != pair[1].span.start);
        let own = rest.get(..apart.map_or(rest.len(), |at| at + 1)).unwrap_or_default();
        let name: String = match own {
            [one] => match &one.token {
                Token::Word(word) => word.value.clone(),
                Token::SingleQuotedString(text) => text.clone(),
                other => other.to_string(),
            },
            many => many.iter().map(|token| token.token.to_string()).collect(),
        };
        if name.is_empty() {
            return Err(CommandError::new("42601", "the name of a branch is missing").at(self.position(self.at)));
        }
        self.at += own.len();
        Ok(name)
    }

    /// Passes over this word, if it comes next.
    fn takes(&mut self, word: &str) -> bool {
        let there = self.peek_word().as_deref() == Some(word);
        self.at += usize::from(there);
        there
    }

    fn deallocate(&mut self) -> Result<Command, CommandError> {
        if self.peek_word().as_deref() == Some("PREPARE") {
            self.at += 1;
        }
        let Some(Token::Word(word)) = self.tokens.get(self.at).map(|token| &token.token) else {
            return Err(self.unexpected(self.at));
        };
        let all = word.quote_style.is_none() && word.value.eq_ignore_ascii_case("ALL");
        let name = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
        self.at += 1;
        self.end(Command::Deallocate((!all).then_some(name)))
    }

    fn peek_word(&self) -> Option<String> {
        match &self.tokens.get(self.at)?.token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
            _ => None,
        }
    }

    /// The next unquoted word, upper case; what is no word is passed over.
    fn word(&mut self) -> Option<String> {
        let word = self.peek_word();
        self.at += 1;
        word
    }

    fn end(&self, command: Command) -> Result<Command, CommandError> {
        if self.at < self.tokens.len() { Err(self.unexpected(self.at)) } else { Ok(command) }
    }

    fn unexpected(&self, at: usize) -> CommandError {
        match self.tokens.get(at) {
            Some(token) => self.near(token),
            None => CommandError::new("42601", "syntax error at end of input"),
        }
    }

    fn near(&self, token: &TokenWithSpan) -> CommandError {
        if token.token == Token::EOF {
            return CommandError::new("42601", "syntax error at end of input");
        }
        let error = CommandError::new("42601", format!("syntax error at or near \"{}\"", token.token));
        error.at(position(self.text, token.span.start))
    }

    fn position(&self, at: usize) -> Option<usize> {
        position(self.text, self.tokens.get(at)?.span.start)
    }

    fn wrong(&self, error: ParserError) -> CommandError {
        match error {
            ParserError::RecursionLimitExceeded => CommandError::new("54001", "the condition is nested too deeply"),
            ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
                let (message, place) = message.split_once(" at Line: ").unwrap_or((&message, ""));
                let place = place.split_once(", Column: ").and_then(|(line, column)| {
                    Some(Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
                });
                CommandError::new("42601", format!("syntax error: {}", message.to_lowercase()))
                    .at(place.and_then(|place| position(self.text, place)))
            }
        }
    }
}

/// Line and column, from 1, as a count of characters from 1.
fn position(text: &str, place: Location) -> Option<usize> {
    let line = usize::try_from(place.line).ok()?.checked_sub(1)?;
    let column = usize::try_from(place.column).ok()?.max(1);
    let before: usize = text.split_inclusive('\n').take(line).map(|line| line.chars().count()).sum();
    Some(before + column)
}
