//! WHERE: an expression of sqlparser's, checked against a table's columns once, then asked of every row.
//!
//! Three-valued as in SQL: a comparison with NULL is unknown, and a row is kept when the whole is true.

use std::cmp::Ordering;

use sqlparser::ast::{BinaryOperator, Expr, FunctionArguments, UnaryOperator, Value as Literal};

use super::table::{Column, Kind, Value};
use super::{CommandError, nearest};

/// A condition on rows; every column in it is known to be there.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Node);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Column(usize),
    Literal(Value),
    Compare(Box<Node>, Comparison, Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Not(Box<Node>),
    In(Box<Node>, Vec<Node>),
    Like {
        text: Box<Node>,
        pattern: Box<Node>,
        any_case: bool,
    },
    /// IS NULL, IS TRUE, IS FALSE: never unknown themselves.
    Is(Box<Node>, Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A node and its kind; `None` is a literal that takes the kind of what it stands against.
type Typed = (Node, Option<Kind>);

impl Filter {
    /// Checks the expression against the columns.
    pub fn new(expr: &Expr, columns: &[Column]) -> Result<Self, CommandError> {
        condition(expr, columns).map(Self)
    }

    /// Whether the row is one of those asked for.
    pub fn keeps(&self, row: &[Value]) -> bool {
        self.0.evaluate(row) == Value::Bool(true)
    }
}

/// The position of the column of this name.
pub fn find_column(name: &str, columns: &[Column]) -> Result<usize, CommandError> {
    if let Some(at) = columns.iter().position(|column| column.name == name) {
        return Ok(at);
    }
    let error = CommandError::new("42703", format!("column \"{name}\" does not exist"));
    let all: Vec<&str> = columns.iter().map(|column| column.name).collect();
    let error = error.detail(format!("The columns are {}.", all.join(", ")));
    Err(match nearest(name, all) {
        Some(near) => error.hint(format!("Perhaps you meant \"{near}\".")),
        None => error,
    })
}

/// The name in an expression that is nothing but a column's name.
pub fn column_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) if name.quote_style.is_some() => Some(name.value.clone()),
        Expr::Identifier(name) => Some(name.value.to_lowercase()),
        // `user` and its like parse as functions without parentheses.
        Expr::Function(call) if matches!(call.args, FunctionArguments::None) => {
            Some(call.name.to_string().to_lowercase())
        }
        _ => None,
    }
}

fn condition(expr: &Expr, columns: &[Column]) -> Result<Node, CommandError> {
    match typed(expr, columns)? {
        (node, Some(Kind::Bool)) | (node @ Node::Literal(Value::Null), None) => Ok(node),
        (_, Some(kind @ (Kind::Text | Kind::Int | Kind::Float))) => {
            Err(CommandError::new("42804", format!("a condition must be of type boolean, not type {}", kind.as_str())))
        }
        (node, None) => Ok(coerce((node, None), Kind::Bool)?.0),
    }
}

fn typed(expr: &Expr, columns: &[Column]) -> Result<Typed, CommandError> {
    let boolean = |node| Ok((node, Some(Kind::Bool)));
    let operand = |expr: &Expr| typed(expr, columns);
    let test = |expr: &Expr, value, negated| {
        let node = match value {
            Value::Null => typed(expr, columns)?.0,
            Value::Text(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_) => condition(expr, columns)?,
        };
        boolean(not_if(negated, Node::Is(Box::new(node), value)))
    };
    if let Some(name) = column_name(expr) {
        let at = find_column(&name, columns)?;
        return Ok((Node::Column(at), columns.get(at).map(|column| column.kind)));
    }
    match expr {
        Expr::Nested(inner) => operand(inner),
        Expr::Value(value) => literal(&value.value),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => boolean(Node::Not(Box::new(condition(expr, columns)?))),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match operand(expr)? {
            (Node::Literal(Value::Int(n)), kind) => Ok((Node::Literal(Value::Int(n.saturating_neg())), kind)),
            (Node::Literal(Value::Float(n)), kind) => Ok((Node::Literal(Value::Float(-n)), kind)),
            _ => Err(unsupported(expr)),
        },
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            boolean(Node::And(Box::new(condition(left, columns)?), Box::new(condition(right, columns)?)))
        }
        Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
            boolean(Node::Or(Box::new(condition(left, columns)?), Box::new(condition(right, columns)?)))
        }
        Expr::BinaryOp { left, op, right } => {
            let comparison = Comparison::of(op).ok_or_else(|| unsupported(expr))?;
            boolean(compare(operand(left)?, comparison, operand(right)?)?)
        }
        Expr::InList { expr, list, negated } => {
            let mut needle = operand(expr)?;
            let mut nodes = Vec::with_capacity(list.len());
            for item in list {
                let (left, right) = unify(needle, operand(item)?, "=")?;
                needle = left;
                nodes.push(right.0);
            }
            boolean(not_if(*negated, Node::In(Box::new(needle.0), nodes)))
        }
        Expr::Between { expr, negated, low, high } => {
            let from = compare(operand(expr)?, Comparison::GreaterOrEqual, operand(low)?)?;
            let to = compare(operand(expr)?, Comparison::LessOrEqual, operand(high)?)?;
            boolean(not_if(*negated, Node::And(Box::new(from), Box::new(to))))
        }
        Expr::Like { negated, any: false, expr, pattern, escape_char: None } => {
            boolean(not_if(*negated, like(operand(expr)?, operand(pattern)?, false)?))
        }
        Expr::ILike { negated, any: false, expr, pattern, escape_char: None } => {
            boolean(not_if(*negated, like(operand(expr)?, operand(pattern)?, true)?))
        }
        Expr::IsNull(inner) => test(inner, Value::Null, false),
        Expr::IsNotNull(inner) => test(inner, Value::Null, true),
        Expr::IsUnknown(inner) => test(inner, Value::Null, false),
        Expr::IsNotUnknown(inner) => test(inner, Value::Null, true),
        Expr::IsTrue(inner) => test(inner, Value::Bool(true), false),
        Expr::IsNotTrue(inner) => test(inner, Value::Bool(true), true),
        Expr::IsFalse(inner) => test(inner, Value::Bool(false), false),
        Expr::IsNotFalse(inner) => test(inner, Value::Bool(false), true),
        _ => Err(unsupported(expr)),
    }
}

fn literal(value: &Literal) -> Result<Typed, CommandError> {
    match value {
        Literal::SingleQuotedString(text) | Literal::EscapedStringLiteral(text) => {
            Ok((Node::Literal(Value::Text(text.clone())), None))
        }
        Literal::Number(text, _) => match (text.parse(), text.parse()) {
            (Ok(n), _) => Ok((Node::Literal(Value::Int(n)), Some(Kind::Int))),
            (_, Ok(n)) => Ok((Node::Literal(Value::Float(n)), Some(Kind::Float))),
            _ => Err(CommandError::new("22P02", format!("invalid number \"{text}\""))),
        },
        Literal::Boolean(value) => Ok((Node::Literal(Value::Bool(*value)), Some(Kind::Bool))),
        Literal::Null => Ok((Node::Literal(Value::Null), None)),
        Literal::Placeholder(_) => Err(CommandError::new("0A000", "the control port takes no parameters")
            .hint("Write the value into the command.")),
        other => Err(CommandError::new("0A000", format!("the control port does not know the literal {other}"))),
    }
}

fn compare(left: Typed, comparison: Comparison, right: Typed) -> Result<Node, CommandError> {
    let (left, right) = unify(left, right, comparison.as_str())?;
    Ok(Node::Compare(Box::new(left.0), comparison, Box::new(right.0)))
}

fn like(text: Typed, pattern: Typed, any_case: bool) -> Result<Node, CommandError> {
    let operator = if any_case { "~~*" } else { "~~" };
    let text = unify(text, (Node::Literal(Value::Text(String::new())), Some(Kind::Text)), operator)?.0;
    let pattern = unify((Node::Literal(Value::Text(String::new())), Some(Kind::Text)), pattern, operator)?.1;
    Ok(Node::Like { text: Box::new(text.0), pattern: Box::new(pattern.0), any_case })
}

/// Gives literals without a kind the kind of the other side, as the server does with `'5'`.
fn unify(left: Typed, right: Typed, operator: &str) -> Result<(Typed, Typed), CommandError> {
    match (left.1, right.1) {
        (Some(kind), None) => Ok((left, coerce(right, kind)?)),
        (None, Some(kind)) => Ok((coerce(left, kind)?, right)),
        (None, None) => Ok((left, right)),
        (Some(a), Some(b)) if a == b || (is_number(a) && is_number(b)) => Ok((left, right)),
        (Some(a), Some(b)) => {
            let message = format!("operator does not exist: {} {operator} {}", a.as_str(), b.as_str());
            Err(CommandError::new("42883", message).hint("Texts and times are written in single quotes."))
        }
    }
}

fn is_number(kind: Kind) -> bool {
    matches!(kind, Kind::Int | Kind::Float)
}

fn coerce(literal: Typed, kind: Kind) -> Result<Typed, CommandError> {
    let Node::Literal(Value::Text(text)) = literal.0 else { return Ok((literal.0, Some(kind))) };
    let value = match kind {
        Kind::Text => Value::Text(text),
        Kind::Int | Kind::Float | Kind::Bool => match Value::read(Some(text.trim().to_lowercase()), kind) {
            Value::Null => {
                let message = format!("invalid input syntax for type {}: \"{text}\"", kind.as_str());
                return Err(CommandError::new("22P02", message));
            }
            value @ (Value::Text(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_)) => value,
        },
    };
    Ok((Node::Literal(value), Some(kind)))
}

fn unsupported(expr: &Expr) -> CommandError {
    let text: String = expr.to_string().chars().take(100).collect();
    CommandError::new("0A000", format!("the control port cannot evaluate {text}"))
        .hint("WHERE knows =, <>, <, <=, >, >=, AND, OR, NOT, IN, BETWEEN, LIKE, ILIKE, IS [NOT] NULL and literals.")
}

fn not_if(negated: bool, node: Node) -> Node {
    if negated { Node::Not(Box::new(node)) } else { node }
}

impl Comparison {
    fn of(op: &BinaryOperator) -> Option<Self> {
        Some(match op {
            BinaryOperator::Eq => Self::Equal,
            BinaryOperator::NotEq => Self::NotEqual,
            BinaryOperator::Lt => Self::Less,
            BinaryOperator::LtEq => Self::LessOrEqual,
            BinaryOperator::Gt => Self::Greater,
            BinaryOperator::GtEq => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

impl Node {
    fn evaluate(&self, row: &[Value]) -> Value {
        let known = |truth: Option<bool>| truth.map_or(Value::Null, Value::Bool);
        match self {
            Self::Column(at) => row.get(*at).cloned().unwrap_or(Value::Null),
            Self::Literal(value) => value.clone(),
            Self::Compare(left, comparison, right) => {
                known(left.evaluate(row).compare(&right.evaluate(row)).map(|order| comparison.holds(order)))
            }
            Self::And(left, right) => match (left.truth(row), right.truth(row)) {
                (Some(false), _) | (_, Some(false)) => Value::Bool(false),
                (Some(true), Some(true)) => Value::Bool(true),
                (None, _) | (_, None) => Value::Null,
            },
            Self::Or(left, right) => match (left.truth(row), right.truth(row)) {
                (Some(true), _) | (_, Some(true)) => Value::Bool(true),
                (Some(false), Some(false)) => Value::Bool(false),
                (None, _) | (_, None) => Value::Null,
            },
            Self::Not(inner) => known(inner.truth(row).map(|truth| !truth)),
            Self::In(needle, list) => {
                let needle = needle.evaluate(row);
                let mut unknown = false;
                for item in list {
                    match needle.compare(&item.evaluate(row)) {
                        Some(Ordering::Equal) => return Value::Bool(true),
                        Some(Ordering::Less | Ordering::Greater) => {}
                        None => unknown = true,
                    }
                }
                if unknown { Value::Null } else { Value::Bool(false) }
            }
            Self::Like { text, pattern, any_case } => match (text.evaluate(row), pattern.evaluate(row)) {
                (Value::Text(text), Value::Text(pattern)) if *any_case => {
                    Value::Bool(matches_like(&text.to_lowercase(), &pattern.to_lowercase()))
                }
                (Value::Text(text), Value::Text(pattern)) => Value::Bool(matches_like(&text, &pattern)),
                _ => Value::Null,
            },
            Self::Is(inner, wanted) => Value::Bool(inner.evaluate(row) == *wanted),
        }
    }

    fn truth(&self, row: &[Value]) -> Option<bool> {
        match self.evaluate(row) {
            Value::Bool(truth) => Some(truth),
            Value::Null | Value::Text(_) | Value::Int(_) | Value::Float(_) => None,
        }
    }
}

/// LIKE with `%`, `_` and `\`. Goes back to the last `%` only, so it takes at most text times pattern steps.
fn matches_like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut t, mut p) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        let (literal, width) = match (pattern.get(p), pattern.get(p + 1)) {
            (Some('\\'), Some(next)) => (Some(*next), 2),
            (Some('%'), _) => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some('_'), _) => (text.get(t).copied(), 1),
            (found, _) => (found.copied(), 1),
        };
        if literal.is_some() && literal == text.get(t).copied() {
            t += 1;
            p += width;
        } else if let Some((after, from)) = retry {
            p = after;
            t = from + 1;
            retry = Some((after, from + 1));
        } else {
            return false;
        }
    }
    pattern.get(p..).is_none_or(|rest| rest.iter().all(|c| *c == '%'))
}
