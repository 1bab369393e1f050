//! `SHOW name [columns] [WHERE …] [ORDER BY …] [LIMIT n] [OFFSET n]`

use sqlparser::ast::{Expr, OrderBySort, Value as Literal};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::{Command, Words, position};
use crate::control::filter::{Filter, column_name, find_column};
use crate::control::show::Show;
use crate::control::table::{Column, Query, SortKey};
use crate::control::{CommandError, nearest};

impl Words<'_> {
    pub(super) fn show(&mut self) -> Result<Command, CommandError> {
        let all: Vec<&str> = Show::ALL.iter().map(|show| show.name()).collect();
        let list = format!("There are {}.", all.join(", "));
        let Some(word) = self.word() else {
            return Err(CommandError::new("42601", "SHOW needs the name of what to show")
                .hint(list)
                .at(self.position(1)));
        };
        if word == "SCHEMA" {
            return self.show_schema();
        }
        let Some(show) = Show::ALL.into_iter().find(|show| show.name() == word) else {
            let error = CommandError::new("42601", format!("there is no SHOW {word}")).at(self.position(1));
            return Err(match nearest(&word, all) {
                Some(near) => error.hint(format!("Perhaps you meant SHOW {near}. {list}")),
                None => error.hint(list),
            });
        };
        Ok(Command::Show(show, self.query(show.columns())?))
    }

    /// The rest of a SHOW. Words that are columns of this table are quoted first, so that `user`, `default` or
    /// `position` are names to the expression parser and nothing else.
    pub(super) fn query(&self, columns: &'static [Column]) -> Result<Query, CommandError> {
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
        let mut query = Query { columns: self.columns(&mut parser, columns)?, ..Query::default() };
        let wrong = |error| self.wrong(error);
        if parser.parse_keyword(Keyword::WHERE) {
            let expr = parser.parse_expr().map_err(wrong)?;
            query.filter = Some(Filter::new(&expr, columns)?);
        }
        if parser.parse_keywords(&[Keyword::ORDER, Keyword::BY]) {
            let keys = parser.parse_comma_separated(Parser::parse_order_by_expr).map_err(wrong)?;
            for key in keys {
                let descending = matches!(key.options.sort, Some(OrderBySort::Desc));
                let column = self.sort_column(&key.expr, columns, &query.columns)?;
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
    fn columns(&self, parser: &mut Parser, known: &[Column]) -> Result<Vec<usize>, CommandError> {
        let all = || (0..known.len()).collect();
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
            chosen.push(find_column(&name, known).map_err(|error| error.at(at))?);
            if !parser.consume_token(&Token::Comma) {
                return Ok(chosen);
            }
        }
    }

    fn sort_column(&self, expr: &Expr, known: &[Column], printed: &[usize]) -> Result<usize, CommandError> {
        if let Some(name) = column_name(expr) {
            return find_column(&name, known);
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
}

fn row_count(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
