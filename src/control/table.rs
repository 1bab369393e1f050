//! Rows and columns of a SHOW, and what a user asked of them.

use std::cmp::Ordering;

use super::filter::Filter;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `text`; times are ISO 8601 in UTC, so that they sort as text.
    Text,
    /// `bigint`
    Int,
    /// `double precision`
    Float,
    /// `boolean`
    Bool,
}

impl Kind {
    /// PostgreSQL's name of the type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int => "bigint",
            Self::Float => "double precision",
            Self::Bool => "boolean",
        }
    }
}

/// One column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What it means, with its unit.
    pub about: &'static str,
}

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Not known, or does not apply.
    Null,
    /// See [`Kind::Text`].
    Text(String),
    /// See [`Kind::Int`].
    Int(i64),
    /// See [`Kind::Float`].
    Float(f64),
    /// See [`Kind::Bool`].
    Bool(bool),
}

impl Value {
    /// Reads a text that a server printed; what does not fit its column's kind becomes NULL.
    pub fn read(text: Option<String>, kind: Kind) -> Self {
        let Some(text) = text else { return Self::Null };
        match kind {
            Kind::Text => Self::Text(text),
            Kind::Int => text.parse().map_or(Self::Null, Self::Int),
            Kind::Float => text.parse().map_or(Self::Null, Self::Float),
            Kind::Bool => match text.as_str() {
                "t" | "true" => Self::Bool(true),
                "f" | "false" => Self::Bool(false),
                _ => Self::Null,
            },
        }
    }

    /// A count; what is beyond `bigint` (no real count is) shows as its largest value.
    pub fn count(n: impl TryInto<i64>) -> Self {
        Self::Int(n.try_into().unwrap_or(i64::MAX))
    }

    /// The order of two values of comparable kinds; `None` where one is NULL or they do not compare.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(_) | Self::Float(_), Self::Int(_) | Self::Float(_)) => {
                Some(self.as_float()?.total_cmp(&other.as_float()?))
            }
            (Self::Null | Self::Text(_) | Self::Int(_) | Self::Float(_) | Self::Bool(_), _) => None,
        }
    }

    fn as_float(&self) -> Option<f64> {
        match self {
            Self::Int(n) => Some(*n as f64),
            Self::Float(n) => Some(*n),
            Self::Null | Self::Text(_) | Self::Bool(_) => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// What is asked of a table: which columns and rows, in which order. Positions are those of the whole table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Query {
    /// Columns to print, in this order.
    pub columns: Vec<usize>,
    /// Rows to keep.
    pub filter: Option<Filter>,
    /// Sort keys, the most important first.
    pub order: Vec<SortKey>,
    /// Rows to skip.
    pub offset: usize,
    /// Rows to print at most.
    pub limit: Option<usize>,
}

/// One ORDER BY item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SortKey {
    /// The column.
    pub column: usize,
    /// DESC.
    pub descending: bool,
    /// NULLS FIRST.
    pub nulls_first: bool,
}

impl Query {
    /// How many rows have to be made at most, where that can be known before they are.
    pub fn rows_needed(&self) -> Option<usize> {
        let unchanged = self.filter.is_none() && self.order.is_empty();
        self.limit.filter(|_| unchanged).map(|limit| limit.saturating_add(self.offset))
    }

    /// The rows asked for.
    pub fn apply(&self, mut rows: Vec<Vec<Value>>) -> Vec<Vec<Value>> {
        if let Some(filter) = &self.filter {
            rows.retain(|row| filter.keeps(row));
        }
        if !self.order.is_empty() {
            rows.sort_by(|a, b| {
                self.order.iter().map(|key| key.compare(a, b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
            });
        }
        let kept = rows.into_iter().skip(self.offset).take(self.limit.unwrap_or(usize::MAX));
        kept.map(|row| self.columns.iter().map(|at| row.get(*at).cloned().unwrap_or(Value::Null)).collect()).collect()
    }
}

impl SortKey {
    fn compare(&self, a: &[Value], b: &[Value]) -> Ordering {
        let (a, b) = (a.get(self.column).unwrap_or(&Value::Null), b.get(self.column).unwrap_or(&Value::Null));
        let nulls = if self.nulls_first { Ordering::Less } else { Ordering::Greater };
        match (a, b) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) => nulls,
            (_, Value::Null) => nulls.reverse(),
            (a, b) => {
                let order = a.compare(b).unwrap_or(Ordering::Equal);
                if self.descending { order.reverse() } else { order }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<Value>> {
        let row = |id: Option<i64>, name: &str| vec![id.map_or(Value::Null, Value::Int), name.into()];
        vec![row(Some(10), "b"), row(None, "a"), row(Some(9), "c")]
    }

    fn names(query: &Query) -> Vec<Value> {
        query.apply(rows()).into_iter().flatten().collect()
    }

    fn by(column: usize, descending: bool) -> Vec<SortKey> {
        vec![SortKey { column, descending, nulls_first: descending }]
    }

    #[test]
    fn numbers_sort_as_numbers_and_null_is_largest() {
        let ascending = Query { columns: vec![1], order: by(0, false), ..Query::default() };
        assert_eq!(names(&ascending), ["c".into(), "b".into(), Value::from("a")]);
        let descending = Query { columns: vec![1], order: by(0, true), ..Query::default() };
        assert_eq!(names(&descending), ["a".into(), "b".into(), Value::from("c")]);
    }

    #[test]
    fn offset_and_limit_come_after_sorting() {
        let query = Query { columns: vec![1], order: by(1, false), offset: 1, limit: Some(1), filter: None };
        assert_eq!(names(&query), [Value::from("b")]);
        assert_eq!(query.rows_needed(), None);
        assert_eq!(Query { order: vec![], ..query }.rows_needed(), Some(2));
    }

    #[test]
    fn texts_of_the_server_are_read_by_kind() {
        assert_eq!(Value::read(Some("17".into()), Kind::Int), Value::Int(17));
        assert_eq!(Value::read(Some("x".into()), Kind::Int), Value::Null);
        assert_eq!(Value::read(Some("t".into()), Kind::Bool), Value::Bool(true));
        assert_eq!(Value::read(None, Kind::Text), Value::Null);
    }
}
