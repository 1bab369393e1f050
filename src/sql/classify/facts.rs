//! What we say of one statement, and the way from its node to that.

use std::ops::Range;

use super::super::prefilter::contains;
use super::super::{Class, Control, ObjectName, Statement};
use super::kind::Kind;
use super::tree::Node;
use super::{alter, data, schema, session};

/// A [`Statement`] without its place in the text.
#[derive(Debug)]
pub struct Facts {
    pub tag: &'static str,
    pub class: Class,
    pub action: Option<&'static str>,
    pub object_type: Option<&'static str>,
    pub objects: Vec<ObjectName>,
    pub renamed_to: Option<String>,
    pub transactional: bool,
    pub temporary: bool,
    pub only_adds: bool,
    pub parsed: bool,
    pub control: Option<Control>,
    pub setting: Option<String>,
    pub checkout: Option<String>,
}

impl Facts {
    /// The tag and the class, and nothing else to say.
    pub fn new(tag: &'static str, class: Class) -> Self {
        Self {
            tag,
            class,
            action: None,
            object_type: None,
            objects: Vec::new(),
            renamed_to: None,
            transactional: true,
            temporary: false,
            only_adds: false,
            parsed: true,
            control: None,
            setting: None,
            checkout: None,
        }
    }

    /// A statement for which there is no answer here: rules treat it as DDL.
    pub fn unknown() -> Self {
        Self { parsed: false, ..Self::new("", Class::Other) }
    }

    /// CREATE of objects of a kind.
    pub fn create(kind: Kind, objects: Vec<ObjectName>) -> Self {
        Self::new(kind.create, Class::Ddl).action("create").on(kind, objects)
    }

    /// ALTER of objects of a kind.
    pub fn alter(kind: Kind, objects: Vec<ObjectName>) -> Self {
        Self::new(kind.alter, Class::Ddl).action("alter").on(kind, objects)
    }

    /// DROP of objects of a kind.
    pub fn drop(kind: Kind, objects: Vec<ObjectName>) -> Self {
        Self::new(kind.drop, Class::Ddl).action("drop").on(kind, objects)
    }

    pub fn action(self, action: &'static str) -> Self {
        Self { action: Some(action), ..self }
    }

    /// What it works on.
    pub fn on(self, kind: Kind, objects: Vec<ObjectName>) -> Self {
        let temporary = self.temporary || super::name::all_temporary(&objects);
        Self { object_type: Some(kind.word), objects, temporary, ..self }
    }

    pub fn class(self, class: Class) -> Self {
        Self { class, ..self }
    }

    pub fn temporary_if(self, temporary: bool) -> Self {
        Self { temporary: self.temporary || temporary, ..self }
    }

    pub fn not_transactional_if(self, alone: bool) -> Self {
        Self { transactional: self.transactional && !alone, ..self }
    }

    pub fn only_adds_if(self, adds: bool) -> Self {
        Self { only_adds: adds, ..self }
    }

    pub fn renamed_to(self, name: Option<&str>) -> Self {
        Self { renamed_to: name.map(str::to_owned), ..self }
    }

    pub fn setting(self, setting: Option<String>) -> Self {
        Self { setting, ..self }
    }

    pub fn checkout(self, checkout: Option<String>) -> Self {
        Self { checkout, ..self }
    }

    /// From the statement's node; `sql` are its bytes.
    pub fn of(node: Node<'_>, sql: &str) -> Self {
        data::facts(node)
            .or_else(|| session::facts(node))
            .or_else(|| schema::facts(node, sql))
            .or_else(|| alter::facts(node, sql))
            .unwrap_or_else(Self::unknown)
    }

    /// Also the `pggit.*` setting that the text names in quotes next to a call of `set_config`, or to
    /// an update of `pg_settings`, which comes to the same.
    pub fn with_settings_in(mut self, sql: &str) -> Self {
        if contains(sql.as_bytes(), b"pggit.") && may_set(sql.as_bytes()) {
            let quoted = settings(&sql.to_ascii_lowercase(), |before| before.ends_with(['\'', '$']));
            self.setting = first_guarded(self.setting.into_iter().chain(quoted).collect());
        }
        self
    }

    pub fn into_statement(self, range: Range<usize>) -> Statement {
        let Self {
            tag,
            class,
            action,
            object_type,
            objects,
            renamed_to,
            transactional,
            temporary,
            only_adds,
            parsed,
            control,
            setting,
            checkout,
        } = self;
        Statement {
            range,
            tag,
            class,
            action,
            object_type,
            objects,
            renamed_to,
            transactional,
            temporary,
            only_adds,
            parsed,
            control,
            setting,
            checkout,
        }
    }
}

fn may_set(sql: &[u8]) -> bool {
    // U&"…" can spell a function's name in a way that is not searched for.
    contains(sql, b"set_config") || contains(sql, b"u&\"") || contains(sql, b"pg_settings") && contains(sql, b"update")
}

/// The `pggit.*` setting that a text names anywhere.
pub fn named_setting(text: &[u8]) -> Option<String> {
    first_guarded(settings(&String::from_utf8_lossy(text).to_ascii_lowercase(), |_| true))
}

/// Of several the one that a client may set least: the proxy's own, then the branch, then its commit's message.
fn first_guarded(mut named: Vec<String>) -> Option<String> {
    let harmless = |name: &String| match name.as_str() {
        "pggit.message" => 2,
        "pggit.branch" => 1,
        _ => 0,
    };
    named.sort_by_key(harmless);
    named.into_iter().next()
}

/// Every `pggit.word` that stands behind what `after` accepts.
fn settings(lower: &str, after: fn(&str) -> bool) -> Vec<String> {
    lower
        .match_indices("pggit.")
        .filter(|(at, _)| after(&lower[..*at]))
        .map(|(at, _)| {
            let rest = &lower[at + "pggit.".len()..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            format!("pggit.{}", &rest[..end])
        })
        .collect()
}
