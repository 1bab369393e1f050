//! Names of objects, from the tree and, where the bindings do not show them, from the text.

use super::super::ObjectName;
use super::super::scan::{Backslash, Kind as Lexeme, Scanner, Token};
use super::kind::{self, Kind};
use super::tree::{ConstValue, Node, NodeList, nodes};

/// A name without schema: roles, databases, extensions, schemas themselves.
pub fn plain(name: Option<&str>) -> Vec<ObjectName> {
    name.map(|name| ObjectName { schema: None, name: name.to_owned() }).into_iter().collect()
}

/// A table's or other relation's own name.
pub fn relation(range: Option<&nodes::RangeVar>) -> Vec<ObjectName> {
    range.and_then(relation_name).into_iter().collect()
}

/// The name of what belongs to a table (index, trigger, policy, rule): its own, in the table's schema.
pub fn beside(name: Option<&str>, table: Option<&nodes::RangeVar>) -> Vec<ObjectName> {
    let schema = || table.and_then(|t| t.schemaname()).map(str::to_owned);
    name.map(|name| ObjectName { schema: schema(), name: name.to_owned() }).into_iter().collect()
}

/// `a`, `schema.a` or `catalog.schema.a` as the grammar's list of strings.
pub fn dotted<'a>(parts: impl Iterator<Item = Option<&'a str>>) -> Vec<ObjectName> {
    let parts: Vec<&str> = parts.flatten().collect();
    from_parts(&parts).into_iter().collect()
}

/// As [`dotted`], for a list of any nodes.
pub fn listed(list: &NodeList) -> Vec<ObjectName> {
    dotted(list.iter().map(Node::as_str))
}

/// The roles of a list.
pub fn roles(list: &NodeList) -> Vec<ObjectName> {
    list.iter()
        .flat_map(|node| match node {
            Node::RoleSpec(role) => plain(role.rolename()),
            Node::AccessPriv(granted) => plain(granted.priv_name()),
            _ => Vec::new(),
        })
        .collect()
}

/// The relations of a list.
pub fn relations(list: &NodeList) -> Vec<ObjectName> {
    list.iter()
        .flat_map(|node| if let Node::RangeVar(range) = node { relation(Some(range)) } else { Vec::new() })
        .collect()
}

/// The object that DROP, COMMENT, ALTER … OWNER and the like name, whatever node the grammar made of it.
pub fn object(kind: Kind, node: Node<'_>) -> Vec<ObjectName> {
    match node {
        Node::String(name) => plain(name.sval()),
        Node::Integer(number) => plain(Some(&number.ival.to_string())),
        Node::Float(number) => plain(number.fval()),
        Node::RangeVar(range) => relation(Some(range)),
        Node::TypeName(name) => dotted(name.names().iter().map(|part| part.sval())),
        Node::ObjectWithArgs(function) => listed(function.objname()),
        Node::NodeList(list) => in_list(kind, list),
        _ => Vec::new(),
    }
}

fn in_list(kind: Kind, list: &NodeList) -> Vec<ObjectName> {
    let parts: Vec<&str> = list.iter().filter_map(Node::as_str).collect();
    let found = match kind {
        // The access method stands first.
        kind::OPERATOR_CLASS | kind::OPERATOR_FAMILY => parts.get(1..).and_then(from_parts),
        // Schema and table, then the own name.
        kind::TRIGGER | kind::RULE | kind::POLICY => parts.split_last().map(|(name, table)| ObjectName {
            schema: from_parts(table).and_then(|table| table.schema),
            name: (*name).to_owned(),
        }),
        // Parts of a table count as the table.
        kind::COLUMN | kind::TABLE_CONSTRAINT => parts.split_last().and_then(|(_, table)| from_parts(table)),
        // A list of a type's name and the constraint's; of two types; of a type and a language.
        kind::DOMAIN_CONSTRAINT => return list.first().map_or_else(Vec::new, |domain| object(kind, domain)),
        kind::CAST | kind::TRANSFORM => None,
        _ => from_parts(&parts),
    };
    found.into_iter().collect()
}

fn from_parts(parts: &[&str]) -> Option<ObjectName> {
    let (name, before) = parts.split_last()?;
    Some(ObjectName { schema: before.last().map(|s| (*s).to_owned()), name: (*name).to_owned() })
}

fn relation_name(range: &nodes::RangeVar) -> Option<ObjectName> {
    Some(ObjectName { schema: range.schemaname().map(str::to_owned), name: range.relname()?.to_owned() })
}

/// Whether the relation is a temporary one, by its words or by its schema.
pub fn is_temporary(range: Option<&nodes::RangeVar>) -> bool {
    range.is_some_and(|range| {
        u8::try_from(range.relpersistence) == Ok(b't') || range.schemaname().is_some_and(is_temporary_schema)
    })
}

/// Whether all of them (and there are some) are in the session's own schema.
pub fn all_temporary(names: &[ObjectName]) -> bool {
    !names.is_empty() && names.iter().all(|name| name.schema.as_deref().is_some_and(is_temporary_schema))
}

fn is_temporary_schema(schema: &str) -> bool {
    schema == "pg_temp"
        || schema.strip_prefix("pg_temp_").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The name in `CREATE FOREIGN TABLE [IF NOT EXISTS] name …`, for which the bindings have no node.
pub fn of_foreign_table(sql: &str) -> Vec<ObjectName> {
    let mut words = Words::new(sql).skip(3).peekable();
    if words.peek().is_some_and(|word| word.is("if")) {
        words.nth(2);
    }
    names(words.take_while(|word| !word.is("partition") && word.text != "(")).into_iter().take(1).collect()
}

/// The names after ON in a GRANT or REVOKE on anything but relations: the bindings take them for relations.
pub fn of_grant(sql: &str, kind: Kind, all_in_schema: bool) -> Vec<ObjectName> {
    let before = match kind {
        _ if all_in_schema => 4,
        kind::FOREIGN_DATA_WRAPPER => 3,
        kind::SERVER | kind::LARGE_OBJECT => 2,
        _ => 1,
    };
    let after_on = Words::new(sql).skip_while(|word| !word.is("on")).skip(1 + before);
    let found = names(after_on.take_while(|word| !word.is("to") && !word.is("from")));
    if all_in_schema {
        // All of its objects, those of a name that nobody wrote: `*` matches the patterns of rules.
        return found.into_iter().map(|s| ObjectName { schema: Some(s.name), name: "*".to_owned() }).collect();
    }
    if kind == kind::PARAMETER {
        // A dot in a setting's name sets no schema apart.
        let join = |n: ObjectName| n.schema.map_or_else(|| n.name.clone(), |schema| format!("{schema}.{}", n.name));
        return found.into_iter().map(|n| ObjectName { schema: None, name: join(n) }).collect();
    }
    found
}

/// Comma-separated names, each with its dots.
fn names(words: impl Iterator<Item = Word>) -> Vec<ObjectName> {
    let mut all: Vec<Vec<String>> = vec![Vec::new()];
    for word in words {
        match word.text.as_str() {
            "," if !word.quoted => all.push(Vec::new()),
            "." | "(" | ")" if !word.quoted => {}
            _ => {
                if let Some(parts) = all.last_mut() {
                    parts.push(word.text);
                }
            }
        }
    }
    all.iter().filter_map(|parts| from_parts(&parts.iter().map(String::as_str).collect::<Vec<_>>())).collect()
}

/// Names, keywords and punctuation outside of parentheses, of which only `(` and `)` themselves appear.
struct Words<'a> {
    sql: &'a str,
    tokens: Scanner<'a>,
    depth: usize,
}

/// One of them, unquoted, or folded to lower case.
struct Word {
    text: String,
    quoted: bool,
}

impl Word {
    fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

impl<'a> Words<'a> {
    fn new(sql: &'a str) -> Self {
        Self { sql, tokens: Scanner::new(sql.as_bytes(), Backslash::Plain), depth: 0 }
    }

    fn word(&self, token: &Token) -> Word {
        let text = self.sql.get(token.range.clone()).unwrap_or_default();
        if token.kind == Lexeme::Quoted {
            let inner = text.split_once('"').map_or("", |(_, rest)| rest.strip_suffix('"').unwrap_or(rest));
            return Word { text: inner.replace("\"\"", "\""), quoted: true };
        }
        Word { text: text.to_ascii_lowercase(), quoted: false }
    }
}

impl Iterator for Words<'_> {
    type Item = Word;

    fn next(&mut self) -> Option<Word> {
        loop {
            let token = self.tokens.next()?;
            let outside = self.depth == 0;
            match token.kind {
                Lexeme::Space | Lexeme::Comment { .. } => continue,
                Lexeme::Byte(b'(') => self.depth += 1,
                Lexeme::Byte(b')') => self.depth = self.depth.saturating_sub(1),
                Lexeme::Byte(_) | Lexeme::Word | Lexeme::Quoted | Lexeme::String | Lexeme::FixedString => {}
            }
            if outside {
                return Some(self.word(&token));
            }
        }
    }
}

/// The text of a literal that is one.
pub fn text(literal: &nodes::A_Const) -> Option<String> {
    match literal.val()? {
        ConstValue::String(text) => Some(text.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(schema: Option<&str>, name: &str) -> ObjectName {
        ObjectName { schema: schema.map(str::to_owned), name: name.to_owned() }
    }

    #[test]
    fn foreign_tables_are_named_by_their_text() {
        for (sql, wanted) in [
            ("CREATE FOREIGN TABLE Ft (a int) SERVER s", name(None, "ft")),
            ("create /* c */ foreign table if not exists S . \"F\"\"t\" (a int) server s", name(Some("s"), "F\"t")),
            ("create foreign table db.s.ft partition of p default server s", name(Some("s"), "ft")),
            ("create foreign table \"if\" () server s", name(None, "if")),
        ] {
            assert_eq!(of_foreign_table(sql), [wanted], "{sql}");
        }
    }

    #[test]
    fn temporary_schemas_are_known() {
        assert!(is_temporary_schema("pg_temp") && is_temporary_schema("pg_temp_12"));
        assert!(!is_temporary_schema("pg_temp_") && !is_temporary_schema("pg_temporary"));
    }
}
