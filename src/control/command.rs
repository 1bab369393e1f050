//! The grammar of the control port, on sqlparser's tokens and expressions.

use sqlparser::ast::{Expr, OrderBySort, Value as Literal};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use uuid::Uuid;

use super::filter::{Filter, column_name, find_column};
use super::show::Show;
use super::table::{Query, SortKey};
use super::{CommandError, nearest};
use crate::history::branching::{Alteration, Data, Force};

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
    /// `ALTER BRANCH b PROTECT | UNPROTECT | RENAME TO c`
    AlterBranch(String, Alteration),
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

/// A command as `SHOW HELP` and the manual list it.
pub struct Help {
    /// Its syntax.
    pub syntax: &'static str,
    /// Who may use it.
    pub role: &'static str,
    /// What it does.
    pub about: &'static str,
}

/// Commands other than SHOW.
pub const COMMANDS: &[Help] = &[
    Help {
        syntax: "RELOAD",
        role: "admin",
        about: "read the configuration file again; on any problem nothing changes",
    },
    Help { syntax: "KILL <client>", role: "admin", about: "end a client's session with 57P01" },
    Help {
        syntax: "SHUTDOWN [NOW]",
        role: "admin",
        about: "let sessions finish their transactions, then end; NOW: end at once",
    },
    Help {
        syntax: "PAUSE",
        role: "admin",
        about: "hold statements outside of transactions and new clients; returns when nothing runs",
    },
    Help { syntax: "RESUME", role: "admin", about: "let them go on" },
    Help {
        syntax: "REFUSE DDL ON BRANCH <branch>",
        role: "admin",
        about: "freeze the branch: refuse every schema change on it",
    },
    Help { syntax: "ALLOW DDL ON BRANCH <branch>", role: "admin", about: "lift the freeze" },
    Help {
        syntax: "CREATE BRANCH <branch> FROM <parent> [AT COMMIT <commit>]",
        role: "admin",
        about: "make a branch with the parent's schema and history, without its data",
    },
    Help {
        syntax: "CREATE BRANCH <branch> FROM <parent> WITH DATA [FORCE]",
        role: "admin",
        about: "make a copy of the parent, on which nobody may be; FORCE: end the sessions on it",
    },
    Help {
        syntax: "DROP BRANCH <branch> [FORCE]",
        role: "admin",
        about: "drop a branch and its database; FORCE: end the sessions on it",
    },
    Help {
        syntax: "ALTER BRANCH <branch> PROTECT | UNPROTECT",
        role: "admin",
        about: "refuse schema changes on it, or no longer",
    },
    Help { syntax: "ALTER BRANCH <branch> RENAME TO <name>", role: "admin", about: "rename it; nobody may be on it" },
    Help {
        syntax: "DIFF <branch> <other>",
        role: "monitor",
        about: "in what the other branch differs: definitions, comments, grants, labels, a row each",
    },
    Help {
        syntax: "APPROVE CHANGE <number>",
        role: "admin",
        about: "let a change request be applied; not one that the user asked for himself",
    },
    Help {
        syntax: "REJECT CHANGE <number> BECAUSE '<reason>'",
        role: "admin",
        about: "say no to a change request, also to one that was approved and is not applied yet",
    },
    Help {
        syntax: "APPLY CHANGE <number>",
        role: "admin",
        about: "run an approved change request on its branch, as its author",
    },
];

/// First words, for the hint of an unknown command.
const WORDS: [&str; 15] = [
    "SHOW", "RELOAD", "KILL", "PAUSE", "RESUME", "SHUTDOWN", "REFUSE", "ALLOW", "CREATE", "DROP", "ALTER", "APPROVE",
    "REJECT", "APPLY", "DIFF",
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
            "DIFF" => {
                let from = self.name()?;
                let to = self.name()?;
                self.end(Command::Diff(from, to))
            }
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

    fn show(&mut self) -> Result<Command, CommandError> {
        let all: Vec<&str> = Show::ALL.iter().map(|show| show.name()).collect();
        let list = format!("There are {}.", all.join(", "));
        let Some(word) = self.word() else {
            return Err(CommandError::new("42601", "SHOW needs the name of what to show")
                .hint(list)
                .at(self.position(1)));
        };
        let Some(show) = Show::ALL.into_iter().find(|show| show.name() == word) else {
            let error = CommandError::new("42601", format!("there is no SHOW {word}")).at(self.position(1));
            return Err(match nearest(&word, all) {
                Some(near) => error.hint(format!("Perhaps you meant SHOW {near}. {list}")),
                None => error.hint(list),
            });
        };
        Ok(Command::Show(show, self.query(show)?))
    }

    /// The rest of a SHOW. Words that are columns of this table are quoted first, so that `user`, `default` or
    /// `position` are names to the expression parser and nothing else.
    fn query(&self, show: Show) -> Result<Query, CommandError> {
        let columns = show.columns();
        let rest = self.tokens.get(self.at..).unwrap_or_default().iter().map(|token| {
            let mut token = token.clone();
            if let Token::Word(word) = &token.token
                && word.quote_style.is_none()
                && let Some(column) = columns.iter().find(|column| column.name == word.value.to_lowercase())
            {
                token.token = Token::make_word(column.name, Some('"'));
            }
            token
        });
        let dialect = PostgreSqlDialect {};
        let mut parser = Parser::new(&dialect).with_tokens_with_locations(rest.collect());
        let mut query = Query { columns: self.columns(&mut parser, show)?, ..Query::default() };
        let wrong = |error| self.wrong(error);
        if parser.parse_keyword(Keyword::WHERE) {
            let expr = parser.parse_expr().map_err(wrong)?;
            query.filter = Some(Filter::new(&expr, columns)?);
        }
        if parser.parse_keywords(&[Keyword::ORDER, Keyword::BY]) {
            let keys = parser.parse_comma_separated(Parser::parse_order_by_expr).map_err(wrong)?;
            for key in keys {
                let descending = matches!(key.options.sort, Some(OrderBySort::Desc));
                let column = self.sort_column(&key.expr, show, &query.columns)?;
                let nulls_first = key.options.nulls_first.unwrap_or(descending);
                query.order.push(SortKey { column, descending, nulls_first });
            }
        }
        if parser.parse_keyword(Keyword::LIMIT) && !parser.parse_keyword(Keyword::ALL) {
            query.limit = Some(row_count(parser.parse_literal_uint().map_err(wrong)?));
        }
        if parser.parse_keyword(Keyword::OFFSET) {
            query.offset = row_count(parser.parse_literal_uint().map_err(wrong)?);
        }
        match parser.peek_token().token {
            Token::EOF => Ok(query),
            _ => Err(self.near(&parser.peek_token())),
        }
    }

    /// The list after the table's name; without one, all columns.
    fn columns(&self, parser: &mut Parser, show: Show) -> Result<Vec<usize>, CommandError> {
        let all = || (0..show.columns().len()).collect();
        let starts_clause = match parser.peek_token().token {
            Token::EOF => true,
            Token::Word(word) => {
                matches!(word.keyword, Keyword::WHERE | Keyword::ORDER | Keyword::LIMIT | Keyword::OFFSET)
            }
            _ => false,
        };
        if starts_clause || parser.consume_token(&Token::Mul) {
            return Ok(all());
        }
        let mut chosen = Vec::new();
        loop {
            let token = parser.next_token();
            let Token::Word(word) = &token.token else { return Err(self.near(&token)) };
            let name = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
            let at = position(self.text, token.span.start);
            chosen.push(find_column(&name, show.columns()).map_err(|error| error.at(at))?);
            if !parser.consume_token(&Token::Comma) {
                return Ok(chosen);
            }
        }
    }

    fn sort_column(&self, expr: &Expr, show: Show, printed: &[usize]) -> Result<usize, CommandError> {
        if let Some(name) = column_name(expr) {
            return find_column(&name, show.columns());
        }
        let number = match expr {
            Expr::Value(value) => match &value.value {
                Literal::Number(text, _) => text.parse::<usize>().ok(),
                _ => None,
            },
            _ => None,
        };
        let Some(number) = number else {
            return Err(CommandError::new("0A000", "ORDER BY takes names or positions of columns"));
        };
        number.checked_sub(1).and_then(|at| printed.get(at)).copied().ok_or_else(|| {
            CommandError::new("42P10", format!("ORDER BY position {number} is not in the list of columns"))
        })
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

    /// `CHANGE n`
    fn change(&mut self) -> Result<i64, CommandError> {
        let hint = "APPROVE CHANGE 7, REJECT CHANGE 7 BECAUSE 'reason', APPLY CHANGE 7; SHOW CHANGES shows the numbers";
        if self.word().as_deref() != Some("CHANGE") {
            return Err(self.unexpected(self.at.saturating_sub(1)).hint(hint));
        }
        let number = match self.tokens.get(self.at).map(|token| &token.token) {
            Some(Token::Number(text, _)) => text.parse().ok(),
            _ => None,
        };
        self.at += 1;
        number.ok_or_else(|| self.unexpected(self.at - 1).hint(hint))
    }

    /// `CHANGE n BECAUSE 'text'`
    fn reject(&mut self) -> Result<Command, CommandError> {
        let number = self.change()?;
        let because = self.word();
        let reason = match self.tokens.get(self.at).map(|token| &token.token) {
            Some(Token::SingleQuotedString(text)) if because.as_deref() == Some("BECAUSE") => text.trim().to_owned(),
            _ => String::new(),
        };
        if reason.is_empty() {
            return Err(CommandError::new("42601", "REJECT needs a reason")
                .hint("REJECT CHANGE 7 BECAUSE 'reason'")
                .at(self.position(self.at.saturating_sub(1))));
        }
        self.at += 1;
        self.end(Command::RejectChange(number, reason))
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

    /// `name FROM parent [AT COMMIT id | WITH DATA [FORCE]]`
    fn create_branch(&mut self) -> Result<Command, CommandError> {
        const HINT: &str = "CREATE BRANCH name FROM parent [AT COMMIT id | WITH DATA [FORCE]]";
        let name = self.name()?;
        if !self.takes("FROM") {
            return Err(self.unexpected(self.at).hint(HINT));
        }
        let parent = self.name()?;
        let at = match self.takes("AT") {
            true if self.takes("COMMIT") => {
                let at = self.position(self.at);
                let id = Uuid::try_parse(&self.name()?);
                Some(id.map_err(|_| CommandError::new("22P02", "a commit is named by its whole id").hint(HINT).at(at))?)
            }
            true => return Err(self.unexpected(self.at).hint(HINT)),
            false => None,
        };
        let data = match at.is_none() && self.takes("WITH") {
            true if !self.takes("DATA") => return Err(self.unexpected(self.at).hint(HINT)),
            true => Data::With(self.force()),
            false => Data::Without,
        };
        self.end(Command::CreateBranch { name, parent, at, data })
    }

    /// `name [FORCE]`
    fn drop_branch(&mut self) -> Result<Command, CommandError> {
        let name = self.name()?;
        let force = self.force();
        self.end(Command::DropBranch(name, force))
    }

    /// `name PROTECT | UNPROTECT | RENAME TO other`
    fn alter_branch(&mut self) -> Result<Command, CommandError> {
        let name = self.name()?;
        let what = match self.word().as_deref() {
            Some("PROTECT") => Alteration::Protect,
            Some("UNPROTECT") => Alteration::Unprotect,
            Some("RENAME") if self.takes("TO") => Alteration::Rename(self.name()?),
            _ => {
                let at = self.at.saturating_sub(1);
                return Err(self.unexpected(at).hint("ALTER BRANCH name PROTECT | UNPROTECT | RENAME TO other"));
            }
        };
        self.end(Command::AlterBranch(name, what))
    }

    fn force(&mut self) -> Force {
        if self.takes("FORCE") { Force::Yes } else { Force::No }
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

fn row_count(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Line and column, from 1, as a count of characters from 1.
fn position(text: &str, place: Location) -> Option<usize> {
    let line = usize::try_from(place.line).ok()?.checked_sub(1)?;
    let column = usize::try_from(place.column).ok()?.max(1);
    let before: usize = text.split_inclusive('\n').take(line).map(|line| line.chars().count()).sum();
    Some(before + column)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn one(text: &str) -> Command {
        let mut all = parse(text).unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    fn error(text: &str) -> CommandError {
        parse(text).unwrap_err()
    }

    #[test]
    fn commands_are_read_in_any_case() {
        assert_eq!(one("reload"), Command::Reload);
        assert_eq!(one("KILL 17;"), Command::Kill(17));
        assert_eq!(one("Shutdown now"), Command::Shutdown { now: true });
        assert_eq!(one("deallocate all"), Command::Deallocate(None));
        assert_eq!(one("SET client_encoding TO 'UTF8'"), Command::Setting("SET"));
        assert_eq!(parse(" ; ;; -- nothing\n").unwrap(), []);
        assert_eq!(parse("begin; commit").unwrap().len(), 2);
    }

    #[test]
    fn branch_names_stand_bare_or_quoted() {
        for text in ["feature/x-1", "\"feature/x-1\"", "'feature/x-1'"] {
            assert_eq!(one(&format!("refuse ddl on branch {text}")), Command::RefuseDdl("feature/x-1".into()));
        }
        assert_eq!(one("ALLOW DDL ON BRANCH Main"), Command::AllowDdl("Main".into()));
        assert_eq!(error("allow ddl on branch").sqlstate, "42601");
        assert_eq!(error("allow ddl on branch a b").message, "syntax error at or near \"b\"");
        assert_eq!(error("refuse dml on branch a").position, Some(8));
    }

    #[test]
    fn branches_are_made_and_dropped() {
        let made = |name: &str, parent: &str, at| Command::CreateBranch {
            name: name.into(),
            parent: parent.into(),
            at,
            data: Data::Without,
        };
        let with_data = |data| Command::CreateBranch { name: "b".into(), parent: "a".into(), at: None, data };
        assert_eq!(one("create branch b from a with data"), with_data(Data::With(Force::No)));
        assert_eq!(one("create branch b from a with data force"), with_data(Data::With(Force::Yes)));
        assert_eq!(error("create branch b from main with date").sqlstate, "42601");
        assert_eq!(one("create branch feature/x-1 from main"), made("feature/x-1", "main", None));
        assert_eq!(one("CREATE BRANCH \"it's \"\"one\" FROM 'a b'"), made("it's \"one", "a b", None));
        let id = "0198c0de-0000-7000-8000-00000000000a";
        let at = Some(Uuid::try_parse(id).unwrap());
        assert_eq!(one(&format!("create branch b from main at commit {id}")), made("b", "main", at));
        assert_eq!(one(&format!("create branch b from main at commit '{id}'")), made("b", "main", at));
        assert_eq!(error("create branch b from main at commit 17").sqlstate, "22P02");
        for text in
            ["create branch", "create branch b", "create branch b from", "create branch b from c d", "drop branch"]
        {
            assert_eq!(error(text).sqlstate, "42601", "{text}");
        }
        assert_eq!(error("create table t ()").sqlstate, "0A000");
        assert_eq!(one("drop branch b"), Command::DropBranch("b".into(), Force::No));
        assert_eq!(one("drop branch feature/b force"), Command::DropBranch("feature/b".into(), Force::Yes));
        assert_eq!(one("alter branch b protect"), Command::AlterBranch("b".into(), Alteration::Protect));
        let renamed = Command::AlterBranch("a/b".into(), Alteration::Rename("c/d".into()));
        assert_eq!(one("alter branch a/b rename to c/d"), renamed);
        assert_eq!(error("alter branch b").sqlstate, "42601");
    }

    #[test]
    fn two_branches_are_compared() {
        assert_eq!(one("diff main feature/x-1"), Command::Diff("main".into(), "feature/x-1".into()));
        assert_eq!(one("DIFF 'a b' \"c\""), Command::Diff("a b".into(), "c".into()));
        for text in ["diff", "diff main", "diff a b c"] {
            assert_eq!(error(text).sqlstate, "42601", "{text}");
        }
    }

    #[test]
    fn change_requests_are_named_by_number() {
        assert_eq!(one("approve change 7"), Command::ApproveChange(7));
        assert_eq!(one("APPLY CHANGE 7;"), Command::ApplyChange(7));
        assert_eq!(one("reject change 7 because 'it''s late'"), Command::RejectChange(7, "it's late".into()));
        for text in [
            "approve 7",
            "approve change",
            "approve change x",
            "apply change 7 8",
            "approve change 99999999999999999999",
        ] {
            assert_eq!(error(text).sqlstate, "42601", "{text}");
        }
        for text in ["reject change 7", "reject change 7 because", "reject change 7 because ' '", "reject change 7 'x'"]
        {
            assert_eq!(error(text).message, "REJECT needs a reason", "{text}");
        }
    }

    #[test]
    fn columns_that_are_keywords_are_names() {
        let text =
            "SHOW CLIENTS user, branch WHERE user = 'x' AND state <> 'idle' ORDER BY user DESC, 2 LIMIT 5 OFFSET 1";
        let Command::Show(Show::Clients, query) = one(text) else { panic!("not a show") };
        assert_eq!(query.columns.len(), 2);
        assert_eq!((query.limit, query.offset, query.order.len()), (Some(5), 1, 2));
        assert!(query.filter.is_some());
        for show in Show::ALL {
            for column in show.columns() {
                let text = format!("show {} {1} where {1} is not null order by {1}", show.name(), column.name);
                assert!(parse(&text).is_ok(), "{text}: {:?}", parse(&text));
            }
        }
    }

    #[test]
    fn star_and_nothing_mean_all_columns() {
        assert_eq!(one("SHOW CLIENTS *"), one("SHOW CLIENTS"));
    }

    #[test]
    fn mistakes_name_what_was_meant() {
        assert_eq!(error("SHWO CLIENTS").hint.unwrap(), "Perhaps you meant SHOW. Try SHOW HELP.");
        assert!(error("SHOW CLIENT").hint.unwrap().starts_with("Perhaps you meant SHOW CLIENTS."));
        let unknown = error("SHOW CLIENTS usr");
        assert_eq!((unknown.sqlstate, unknown.position), ("42703", Some(14)));
        assert_eq!(unknown.hint.unwrap(), "Perhaps you meant \"user\".");
        let select = error("select 1");
        assert_eq!((select.sqlstate, select.hint.unwrap().as_str()), ("0A000", "Try SHOW HELP."));
        assert_eq!(error("SHOW CLIENTS WHERE id =").sqlstate, "42601");
        assert_eq!(error("SHOW CLIENTS LIMIT 1 2").message, "syntax error at or near \"2\"");
        assert_eq!(error("KILL everybody").sqlstate, "42601");
        assert_eq!(error("'unterminated").sqlstate, "42601");
    }

    #[test]
    fn conditions_are_checked_before_they_run() {
        for (condition, sqlstate) in [
            ("id", "42804"),
            ("id = 'x'", "22P02"),
            ("branch = 5", "42883"),
            ("nobody = 5", "42703"),
            ("lower(branch) = 'x'", "0A000"),
            ("id + 1 = 2", "0A000"),
            ("id = (select 1)", "0A000"),
            ("id = $1", "0A000"),
            ("branch ~ 'x'", "0A000"),
        ] {
            assert_eq!(error(&format!("SHOW CLIENTS WHERE {condition}")).sqlstate, sqlstate, "{condition}");
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let deep = format!("SHOW CLIENTS WHERE {}id = 1{}", "(".repeat(110), ")".repeat(110));
        assert_eq!(error(&deep).sqlstate, "54001");
        // sqlparser falls back to a column's name where NOT leads nowhere.
        let nots = format!("SHOW CLIENTS WHERE {} id = 1", "NOT ".repeat(900));
        assert!(["54001", "42703"].contains(&error(&nots).sqlstate));
        let minus = format!("SHOW CLIENTS WHERE id = {}1", "- ".repeat(900));
        assert_eq!(error(&minus).sqlstate, "54001");
        let long = format!("SHOW CLIENTS WHERE id = 1{}", " OR id = 1".repeat(20_000));
        assert_eq!(error(&long).sqlstate, "54001");
        let chain = format!("SHOW CLIENTS WHERE id = 1{}", " OR id = 1".repeat(70));
        assert!(parse(&chain).is_ok());
        assert_eq!(error(&"begin;".repeat(200)).sqlstate, "54001");
    }

    #[test]
    fn going_back_in_the_parser_does_not_multiply() {
        let start = std::time::Instant::now();
        for word in [
            "NOT ",
            "(",
            "CASE ",
            "CASE WHEN ",
            "INTERVAL ",
            "CAST(",
            "ARRAY[",
            "[",
            "EXISTS(",
            "f(",
            "{",
            "- ",
            "id IN (",
            "STRUCT(",
            "id BETWEEN ",
        ] {
            for count in [20, 40, 200] {
                let text = format!("SHOW CLIENTS WHERE {} id = 1", word.repeat(count));
                let _ = parse(&text);
                assert!(start.elapsed().as_secs() < 20, "{word} {count}");
            }
        }
    }
}
