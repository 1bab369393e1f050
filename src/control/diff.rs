//! What `DIFF` prints.

use super::table::{Column, Kind, Value};
use crate::history::branching::Difference;

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column { name: "object_type", kind: Kind::Text, about: "`table`, `function` …" },
    Column { name: "object_identity", kind: Kind::Text, about: "its name with the schema, and arguments" },
    Column { name: "fact", kind: Kind::Text, about: "`definition`, `comment`, `grants` or `security label`" },
    Column { name: "change", kind: Kind::Text, about: "on the other branch: `added`, `removed` or `changed`" },
    Column { name: "from", kind: Kind::Text, about: "on the first branch; NULL: not there" },
    Column { name: "to", kind: Kind::Text, about: "on the other branch; NULL: not there" },
];

/// One row.
pub(super) fn row(difference: Difference) -> Vec<Value> {
    let change = difference.change();
    let text = |text: Option<String>| text.map_or(Value::Null, Value::Text);
    vec![
        Value::Text(difference.object_type),
        Value::Text(difference.object_identity),
        Value::Text(difference.fact),
        Value::Text(change.to_owned()),
        text(difference.from),
        text(difference.to),
    ]
}
