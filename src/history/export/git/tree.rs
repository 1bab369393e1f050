//! The schema of one branch as files, as its rows make it: commit by commit, what changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::postgres::types::Oid;

use super::path;
use crate::history::branching::{Fact, remark};

/// The catalog of schemas, whose number is the same in every database.
const PG_NAMESPACE: Oid = Oid(2615);

/// A row of `pggit.changes`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Row {
    pub action: String,
    pub aspect: String,
    pub affected: bool,
    pub command_tag: String,
    pub object_type: String,
    pub schema_name: Option<String>,
    pub object_name: Option<String>,
    pub object_identity: Option<String>,
    pub classid: Option<Oid>,
    pub objid: Option<Oid>,
    pub objsubid: i32,
    pub namespace: Option<Oid>,
    pub new_definition: Option<String>,
    pub numbers: Option<Vec<i32>>,
    pub columns: Option<Vec<String>>,
    pub is_here: bool,
    pub sql_executed: Option<String>,
}

/// What happens to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It is not there any more.
    Remove(String),
    /// It has this content.
    Write(String, String),
}

type Key = (Oid, Oid);

/// The files, and what they are made of.
#[derive(Debug, Default)]
pub(super) struct Tree {
    objects: HashMap<Key, Object>,
    /// Whose file it is.
    files: HashMap<String, Key>,
    /// What schemas are called.
    schemas: HashMap<Oid, String>,
    touched: BTreeSet<(u32, u32)>,
}

#[derive(Debug, Default)]
struct Object {
    kind: String,
    namespace: Option<Oid>,
    /// The schema that stands in the identity.
    named: Option<String>,
    identity: String,
    definition: String,
    columns: BTreeMap<i32, String>,
    /// Comments and labels, by aspect and column; 0: of the object itself.
    remarks: BTreeMap<(String, i32), String>,
    file: Option<String>,
    gone: bool,
}

impl Tree {
    /// Does what a row tells.
    pub fn apply(&mut self, row: Row) {
        let (true, Some(class), Some(object)) = (row.is_here, row.classid, row.objid) else { return };
        let key = (class, object);
        match (row.aspect.as_str(), row.action.as_str()) {
            ("", "DROP") if row.objsubid == 0 => {
                if let Some(object) = self.objects.get_mut(&key) {
                    object.gone = true;
                }
            }
            ("", "DROP") => {
                if let Some(object) = self.objects.get_mut(&key) {
                    object.remarks.retain(|(_, column), _| *column != row.objsubid);
                }
            }
            ("", _) if row.objsubid == 0 => self.define(key, row),
            ("", _) => return,
            (_, _) => {
                let Some(object) = self.objects.get_mut(&key) else { return };
                match row.new_definition {
                    Some(text) => object.remarks.insert((row.aspect, row.objsubid), text),
                    None => object.remarks.remove(&(row.aspect, row.objsubid)),
                };
            }
        }
        self.touched.insert((class.0, object.0));
    }

    fn define(&mut self, key: Key, row: Row) {
        if key.0 == PG_NAMESPACE
            && let Some(name) = row.object_name
            && self.schemas.insert(key.1, name.clone()).is_some_and(|old| old != name)
        {
            // What is in a schema moves along with its name, and has no rows for that.
            let inside = self.objects.iter().filter(|(_, object)| object.namespace == Some(key.1));
            self.touched.extend(inside.map(|((class, object), _)| (class.0, object.0)));
        }
        let object = self.objects.entry(key).or_default();
        if object.gone {
            *object = Object { file: object.file.take(), ..Object::default() };
        }
        object.kind = row.object_type;
        object.namespace = row.namespace;
        object.named = row.schema_name;
        object.identity = row.object_identity.unwrap_or_default();
        // Where nobody can tell what it was, the older text stays.
        if let Some(definition) = row.new_definition {
            object.definition = definition;
        }
        if let (Some(numbers), Some(columns)) = (row.numbers, row.columns) {
            object.columns = numbers.into_iter().zip(columns).collect();
        }
    }

    /// What has changed since the last call: first what goes, then what comes.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let (mut removed, mut written) = (BTreeSet::new(), BTreeMap::new());
        let touched: Vec<Key> =
            std::mem::take(&mut self.touched).into_iter().map(|(class, object)| (Oid(class), Oid(object))).collect();
        // All of them leave their places before any takes one.
        for key in &touched {
            let Some(object) = self.objects.get_mut(key) else { continue };
            if let Some(file) = object.file.take() {
                self.files.remove(&file);
                removed.insert(file);
            }
            if object.gone {
                self.objects.remove(key);
            }
        }
        for key in touched {
            let Some(object) = self.objects.get(&key) else { continue };
            let schema = object.namespace.and_then(|oid| self.schemas.get(&oid)).or(object.named.as_ref());
            let file = path::file(schema.map(String::as_str), object.named.as_deref(), &object.kind, &object.identity);
            written.insert(file.clone(), object.content());
            // An index that the server made anew has another number and the same name: nobody told of the old one's end.
            if let Some(older) = self.files.insert(file.clone(), key) {
                self.objects.remove(&older);
            }
            if let Some(object) = self.objects.get_mut(&key) {
                object.file = Some(file);
            }
        }
        let removed =
            removed.into_iter().filter(|file| !written.contains_key(file)).map(Change::Remove).collect::<Vec<_>>();
        removed.into_iter().chain(written.into_iter().map(|(file, content)| Change::Write(file, content))).collect()
    }
}

impl Object {
    /// The definition, then what is remarked on it.
    fn content(&self) -> String {
        let mut text = format!("{}\n", self.definition);
        for ((aspect, column), value) in &self.remarks {
            let (kind, identity) = match (column, self.columns.get(column)) {
                (0, _) => (self.kind.clone(), self.identity.clone()),
                (_, Some(name)) => (format!("{} column", self.kind), format!("{}.{}", self.identity, ident(name))),
                (_, None) => continue,
            };
            let fact = if aspect == "label" { "security label" } else { aspect };
            let fact = Fact {
                object_type: kind,
                object_identity: identity,
                fact: fact.to_owned(),
                value: value.clone(),
                stale: false,
                commit_id: None,
                author: None,
                changed_at: None,
                message: None,
            };
            remark(&fact, &mut text);
        }
        text
    }
}

/// A column's name as a statement has it: in quotes where it needs them; a keyword may have them.
fn ident(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        name.to_owned()
    } else {
        crate::history::branching::quoted(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(action: &str, object: u32, identity: &str, definition: &str) -> Row {
        Row {
            action: action.into(),
            aspect: String::new(),
            affected: false,
            command_tag: String::new(),
            object_type: "table".into(),
            schema_name: Some("s".into()),
            object_name: None,
            object_identity: Some(format!("s.{identity}")),
            classid: Some(Oid(1259)),
            objid: Some(Oid(object)),
            objsubid: 0,
            namespace: Some(Oid(5)),
            new_definition: Some(definition.into()).filter(|text: &String| !text.is_empty()),
            numbers: None,
            columns: None,
            is_here: true,
            sql_executed: None,
        }
    }

    fn wrote(file: &str, content: &str) -> Change {
        Change::Write(file.into(), content.into())
    }

    #[test]
    fn two_that_change_names_both_stay() {
        let mut tree = Tree::default();
        tree.apply(row("CREATE", 1, "a", "one"));
        tree.apply(row("CREATE", 2, "b", "two"));
        assert_eq!(tree.take_changes(), [wrote("s/table/a.sql", "one\n"), wrote("s/table/b.sql", "two\n")]);
        for (object, name) in [(1, "c"), (2, "a"), (1, "b")] {
            tree.apply(row("ALTER", object, name, ""));
        }
        assert_eq!(tree.take_changes(), [wrote("s/table/a.sql", "two\n"), wrote("s/table/b.sql", "one\n")]);
        tree.apply(row("DROP", 1, "b", ""));
        assert_eq!(tree.take_changes(), [Change::Remove("s/table/b.sql".into())]);
        assert_eq!(tree.take_changes(), []);
    }

    #[test]
    fn what_is_made_anew_takes_the_file() {
        let mut tree = Tree::default();
        tree.apply(row("CREATE", 1, "a", "one"));
        tree.take_changes();
        tree.apply(row("ALTER", 9, "a", "other"));
        assert_eq!(tree.take_changes(), [wrote("s/table/a.sql", "other\n")]);
        tree.apply(row("ALTER", 1, "a", "late"));
        assert_eq!(tree.take_changes(), [wrote("s/table/a.sql", "late\n")]);
    }

    #[test]
    fn a_schema_takes_everything_along() {
        let mut tree = Tree::default();
        let schema = |name: &str| Row {
            object_type: "schema".into(),
            object_name: Some(name.into()),
            object_identity: Some(name.into()),
            schema_name: None,
            namespace: None,
            classid: Some(PG_NAMESPACE),
            ..row("ALTER", 5, "", "schema")
        };
        tree.apply(schema("s"));
        tree.apply(row("CREATE", 1, "a", "one"));
        tree.take_changes();
        tree.apply(schema("t"));
        let gone = ["s/table/a.sql", "schema/s.sql"].map(|file| Change::Remove(file.into()));
        let come = [wrote("schema/t.sql", "schema\n"), wrote("t/table/a.sql", "one\n")];
        assert_eq!(tree.take_changes(), [gone, come].concat());
    }
}
