//! What `SHOW SCHEMA` and `BLAME` print.

use super::show::time;
use super::table::{Column, Kind, Value};
use crate::history::branching::{Blamed, Fact};

/// The columns of `SHOW SCHEMA`.
pub const SCHEMA: &[Column] = &[
    Column { name: "object_type", kind: Kind::Text, about: "in PostgreSQL's words" },
    Column { name: "object_identity", kind: Kind::Text, about: "its name with the schema, and arguments or its table" },
    Column {
        name: "fact",
        kind: Kind::Text,
        about: "`definition`, `comment` or `security label`; without AT also `grants`",
    },
    Column { name: "value", kind: Kind::Text, about: "the definition, or whatever it is" },
    Column {
        name: "stale",
        kind: Kind::Bool,
        about: "it names something by the name that it had when the object itself was changed last; only with AT",
    },
    Column {
        name: "commit_id",
        kind: Kind::Text,
        about: "that changed it last; NULL in this and the next: not recorded",
    },
    Column { name: "author", kind: Kind::Text, about: "the commit's user" },
    Column { name: "changed_at", kind: Kind::Text, about: "when it was changed last" },
    Column { name: "message", kind: Kind::Text, about: "of that commit" },
];

/// The columns of `BLAME`.
pub const BLAME: &[Column] = &[
    Column { name: "column_name", kind: Kind::Text, about: "as it is called now" },
    Column { name: "data_type", kind: Kind::Text, about: "as it is now" },
    Column {
        name: "change_type",
        kind: Kind::Text,
        about: "`CREATE`, `ALTER`, `COMMENT`, or `BASELINE`: older than the history; NULL in this and the next: not recorded",
    },
    Column { name: "commit_id", kind: Kind::Text, about: "that touched the column last" },
    Column { name: "author", kind: Kind::Text, about: "the user of that commit" },
    Column { name: "changed_at", kind: Kind::Text, about: "when that was" },
    Column { name: "message", kind: Kind::Text, about: "what it was for" },
    Column { name: "sql_executed", kind: Kind::Text, about: "the statement that did it" },
];

fn text(text: Option<String>) -> Value {
    text.map_or(Value::Null, Value::Text)
}

/// One row of the schema.
pub(super) fn fact(fact: Fact) -> Vec<Value> {
    vec![
        Value::Text(fact.object_type),
        Value::Text(fact.object_identity),
        Value::Text(fact.fact),
        Value::Text(fact.value),
        Value::Bool(fact.stale),
        text(fact.commit_id.map(|id| id.to_string())),
        text(fact.author),
        text(fact.changed_at.map(time)),
        text(fact.message),
    ]
}

/// One column of a table.
pub(super) fn column(blamed: Blamed) -> Vec<Value> {
    vec![
        Value::Text(blamed.column_name),
        Value::Text(blamed.data_type),
        text(blamed.change_type),
        text(blamed.commit_id.map(|id| id.to_string())),
        text(blamed.author),
        text(blamed.changed_at.map(time)),
        text(blamed.message),
        text(blamed.sql_executed),
    ]
}
