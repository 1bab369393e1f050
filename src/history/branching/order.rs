//! A schema's facts as a script, in an order in which it can be run in an empty database.
//!
//! Definitions name what they need with its schema, so that what stands in them tells what has to be there before. What would need
//! each other is taken apart: foreign keys come after all tables, a sequence learns its owner when the table is there. What
//! comes with something else is left out: indexes of constraints, sequences of identity columns, a partition's own copies of
//! triggers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::look::Fact;
use super::sql::literal;

/// Kinds whose objects may need each other, those first that need others least.
const NEEDING: [&str; 22] = [
    "collation",
    "type",
    "function",
    "procedure",
    "aggregate",
    "operator",
    "operator family",
    "operator class",
    "cast",
    "transform",
    "conversion",
    "text search parser",
    "text search template",
    "text search dictionary",
    "text search configuration",
    "foreign-data wrapper",
    "server",
    "user mapping",
    "sequence",
    "table",
    "foreign table",
    "view",
];

/// Not told of by a definition that could be run: a connection string, and rights.
const UNTOLD: [&str; 2] = ["subscription", "default acl"];

/// The script. Grants are not in it.
pub fn script(facts: &[Fact]) -> String {
    let mut parts = Parts::of(facts);
    let mut out =
        String::from("SET check_function_bodies = off;\nSELECT pg_catalog.set_config('search_path', '', false);\n");
    for kind in ["schema", "extension", "language", "access method"] {
        parts.write(kind, &mut out);
    }
    parts.write_needing(&mut out);
    for statement in parts.owned.iter().chain(&parts.keys_by_depth()) {
        put(&mut out, statement);
    }
    parts.write_indexes(&mut out);
    for kind in ["trigger", "rule", "policy", "statistics object", "publication"] {
        parts.write(kind, &mut out);
    }
    for statement in &parts.late {
        put(&mut out, statement);
    }
    for fact in facts.iter().filter(|fact| fact.fact != "definition") {
        remark(fact, &mut out);
    }
    out
}

/// One object's statements.
struct Part<'a> {
    fact: &'a Fact,
    statements: Vec<String>,
    owner: Option<String>,
}

/// A table, as far as others have to know of it.
#[derive(Default)]
struct Table {
    /// Of which it is a partition.
    parent: Option<String>,
    /// Constraints that have an index of their name.
    indexed: BTreeSet<String>,
}

/// The schema, taken apart.
struct Parts<'a> {
    all: BTreeMap<(&'a str, &'a str), Part<'a>>,
    tables: HashMap<&'a str, Table>,
    /// Foreign keys, and what is not validated, each with its table.
    keys: Vec<(&'a str, String)>,
    /// Sequences that belong to columns.
    owned: Vec<String>,
    /// What needs triggers, rules or indexes.
    late: Vec<String>,
}

impl<'a> Parts<'a> {
    fn of(facts: &'a [Fact]) -> Self {
        let mut it = Self {
            all: BTreeMap::new(),
            tables: HashMap::new(),
            keys: Vec::new(),
            owned: Vec::new(),
            late: Vec::new(),
        };
        let definitions = facts.iter().filter(|fact| fact.fact == "definition");
        for fact in definitions.filter(|fact| !UNTOLD.contains(&fact.object_type.as_str())) {
            let (text, owner) = match fact.value.rsplit_once("\n-- Owner: ") {
                Some((text, owner)) => (text, Some(owner.to_owned())),
                None => (fact.value.as_str(), None),
            };
            let statements = crate::sql::split(text.as_bytes()).into_iter().filter_map(|range| text.get(range));
            let statements = statements.map(|statement| statement.trim().to_owned()).filter(|text| !text.is_empty());
            let part = Part { fact, statements: statements.collect(), owner };
            it.all.insert((&fact.object_type, &fact.object_identity), part);
        }
        it.take_tables_apart();
        it.give_sequences();
        it.leave_out_copies();
        for part in it.all.values_mut() {
            match (part.fact.object_type.as_str(), part.statements.first_mut()) {
                ("materialized view", Some(create)) => create.push_str("\n  WITH NO DATA"),
                ("schema" | "extension", Some(create)) => {
                    for what in ["SCHEMA ", "EXTENSION "] {
                        *create =
                            create.replacen(&format!("CREATE {what}"), &format!("CREATE {what}IF NOT EXISTS "), 1);
                    }
                }
                _ => {}
            }
        }
        it
    }

    /// Moves what cannot be said when the table is made.
    fn take_tables_apart(&mut self) {
        for ((kind, identity), part) in &mut self.all {
            if !matches!(*kind, "table" | "foreign table") {
                continue;
            }
            let mut table = Table::default();
            let mut kept = Vec::new();
            for (at, statement) in std::mem::take(&mut part.statements).into_iter().enumerate() {
                let waits = [" TRIGGER ", " RULE ", " CLUSTER ON ", " REPLICA IDENTITY USING INDEX "];
                if at == 0 {
                    let (create, moved) = without_keys(&statement, &mut table.indexed);
                    let kind = if *kind == "table" { "TABLE ONLY" } else { "FOREIGN TABLE" };
                    let add = |constraint| format!("ALTER {kind} {identity} ADD CONSTRAINT {constraint}");
                    self.keys.extend(moved.into_iter().map(|constraint| (*identity, add(constraint))));
                    kept.push(create);
                } else if let Some((parent, _)) =
                    statement.strip_prefix("ALTER TABLE ONLY ").and_then(|rest| rest.split_once(" ATTACH PARTITION "))
                {
                    table.parent = Some(parent.to_owned());
                    kept.push(statement.trim_end_matches(" -- detach pending").to_owned());
                } else if waits.iter().any(|word| statement.contains(word)) {
                    self.late.push(statement);
                } else {
                    kept.push(statement);
                }
            }
            part.statements = kept;
            self.tables.insert(*identity, table);
        }
        // The server knows these as ON ONLY: a key of a partitioned table is one of its partitions, too.
        for (table, key) in &mut self.keys {
            if self.all.get(&("table", *table)).is_some_and(|part| part.is_partitioned()) {
                *key = key.replacen("ALTER TABLE ONLY ", "ALTER TABLE ", 1);
            }
        }
    }

    /// An identity column's sequence is made with it; another one is given to its column later.
    fn give_sequences(&mut self) {
        let sequences: Vec<(&str, String)> = self
            .all
            .iter()
            .filter(|((kind, _), _)| *kind == "sequence")
            .filter_map(|((_, identity), part)| Some((*identity, part.statements.first()?.clone())))
            .collect();
        for (sequence, create) in sequences {
            let Some((made, column)) = create.rsplit_once(" OWNED BY ") else { continue };
            let options = made.find(" INCREMENT BY ").and_then(|at| made.get(at..)).unwrap_or_default();
            if self.identity_column(column, sequence, options) {
                self.all.remove(&("sequence", sequence));
            } else {
                self.owned.push(format!("ALTER SEQUENCE {sequence} OWNED BY {column}"));
                if let Some(part) = self.all.get_mut(&("sequence", sequence)) {
                    part.statements = vec![made.to_owned()];
                }
            }
        }
    }

    /// Names the sequence in the table's text, where the column is an identity column.
    fn identity_column(&mut self, column: &str, sequence: &str, options: &str) -> bool {
        let tables = self.all.iter_mut().filter(|((kind, _), _)| *kind == "table");
        let found = tables.filter_map(|((_, identity), part)| {
            let name = column.strip_prefix(*identity)?.strip_prefix('.')?;
            Some((name, part.statements.first_mut()?))
        });
        for (name, create) in found {
            let (head, word) = (format!("\n    {name} "), " AS IDENTITY");
            let Some(line) = create.find(&head) else { continue };
            let end =
                create.get(line + 1..).and_then(|rest| rest.find('\n')).map_or(create.len(), |end| line + 1 + end);
            if let Some(at) = create.get(line..end).and_then(|text| text.find(word)) {
                create.insert_str(line + at + word.len(), &format!(" (SEQUENCE NAME {sequence}{options})"));
                return true;
            }
        }
        false
    }

    /// Indexes of constraints and triggers of partitions come with what they belong to.
    fn leave_out_copies(&mut self) {
        let tables = &self.tables;
        let triggers: BTreeSet<String> = self
            .all
            .keys()
            .filter(|(kind, _)| *kind == "trigger")
            .map(|(_, identity)| (*identity).to_owned())
            .collect();
        self.all.retain(|(kind, identity), part| match *kind {
            "index" => {
                let Some((name, table)) = part.index() else { return true };
                if tables.get(table.as_str()).is_some_and(|table| table.indexed.contains(&name)) {
                    // Of how it is stored the constraint says nothing.
                    let create = part.statements.remove(0);
                    let stored = create.rsplit_once(" WITH (").and_then(|(_, rest)| rest.split_once(')'));
                    part.statements
                        .extend(stored.map(|(options, _)| format!("ALTER INDEX {identity} SET ({options})")));
                }
                !part.statements.is_empty()
            }
            "trigger" => {
                let Some((name, table)) = identity.rsplit_once(" on ") else { return true };
                let parent = tables.get(table).and_then(|table| table.parent.as_deref());
                parent.is_none_or(|parent| !triggers.contains(&format!("{name} on {parent}")))
            }
            _ => true,
        });
    }

    /// How many tables a table is a partition of.
    fn depth(&self, table: &str) -> usize {
        let parent = |table: &str| self.tables.get(table).and_then(|table| table.parent.as_deref());
        std::iter::successors(parent(table), |above| parent(above)).take(self.tables.len()).count()
    }

    /// Those of partitions first: that of the partitioned table takes them in.
    fn keys_by_depth(&self) -> Vec<String> {
        let mut keys: Vec<(usize, String)> =
            self.keys.iter().map(|(table, key)| (self.depth(table), key.clone())).collect();
        keys.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Indexes, those of partitions first: made for the partitioned table, an index takes those in that are like it.
    fn write_indexes(&self, out: &mut String) {
        let indexes = self.all.iter().filter(|((kind, _), _)| *kind == "index");
        let mut indexes: Vec<_> =
            indexes.map(|(_, part)| (part.index().map_or(0, |(_, table)| self.depth(&table)), part)).collect();
        indexes.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
        for (_, part) in indexes {
            part.write(out);
        }
    }

    fn write(&mut self, kind: &str, out: &mut String) {
        for (_, part) in self.all.iter().filter(|((own, _), _)| *own == kind) {
            part.write(out);
        }
    }

    /// Each after what its text names; where two name each other, the kind decides.
    fn write_needing(&mut self, out: &mut String) {
        let rank = |kind: &str| match kind {
            "materialized view" => Some(NEEDING.len()),
            kind => NEEDING.iter().position(|known| *known == kind),
        };
        let mut parts: Vec<(usize, &Part<'_>)> =
            self.all.iter().filter_map(|((kind, _), part)| Some((rank(kind)?, part))).collect();
        parts.sort_by_key(|(rank, part)| (*rank, &part.fact.object_identity));
        let parts: Vec<&Part<'_>> = parts.into_iter().map(|(_, part)| part).collect();
        let mut named: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, part) in parts.iter().enumerate() {
            named.entry(part.name()).or_default().push(at);
        }
        // A type of its own kind needs its functions, and they it.
        for part in parts.iter().filter(|part| part.is_base_type()) {
            put(out, &format!("CREATE TYPE {}", part.fact.object_identity));
        }
        let mut done = vec![false; parts.len()];
        for first in 0..parts.len() {
            // A path, each with what it still has to look at: recursion would go as deep as somebody's views do.
            let mut path = vec![(first, parts[first].needs(&named))];
            if std::mem::replace(&mut done[first], true) {
                continue;
            }
            while let Some((at, needs)) = path.last_mut() {
                match needs.pop() {
                    Some(next) if !std::mem::replace(&mut done[next], true) => {
                        path.push((next, parts[next].needs(&named)));
                    }
                    Some(_) => {}
                    None => {
                        parts[*at].write(out);
                        path.pop();
                    }
                }
            }
        }
    }
}

impl Part<'_> {
    fn write(&self, out: &mut String) {
        if self.fact.stale {
            out.push_str("\n-- Something that this names had another name by then.");
        }
        for statement in &self.statements {
            // `; -- invalid` stands behind an index that is none.
            if statement.starts_with("--") {
                continue;
            }
            put(out, &statement.replacen(" ON ONLY ", " ON ", usize::from(self.fact.object_type == "index")));
        }
        if let Some(owner) = &self.owner {
            let kind = match self.fact.object_type.as_str() {
                "type" if self.statements.iter().any(|text| text.starts_with("CREATE DOMAIN ")) => "DOMAIN".to_owned(),
                kind => kind.to_uppercase(),
            };
            put(
                out,
                &format!(
                    "ALTER {kind} {} OWNER TO {owner}",
                    signature(&self.fact.object_type, &self.fact.object_identity)
                ),
            );
        }
    }

    /// As others name it: without arguments.
    fn name(&self) -> &str {
        let identity = self.fact.object_identity.as_str();
        match self.fact.object_type.as_str() {
            "function" | "procedure" | "aggregate" => identity.split_once('(').map_or(identity, |(name, _)| name),
            _ => identity,
        }
    }

    /// What has to be there before; the last one is looked at first.
    fn needs(&self, named: &HashMap<&str, Vec<usize>>) -> Vec<usize> {
        let mut all = BTreeSet::new();
        for statement in &self.statements {
            // A body that is a string is not read when the function is made.
            let read = match self.fact.object_type.as_str() {
                "function" | "procedure" => statement.split_once("\nAS $").map_or(statement.as_str(), |(head, _)| head),
                _ => statement,
            };
            for name in qualified_names(read) {
                all.extend(named.get(name.as_str()).into_iter().flatten().copied());
            }
        }
        all.into_iter().rev().collect()
    }

    fn is_partitioned(&self) -> bool {
        self.statements.first().is_some_and(|create| create.contains("\nPARTITION BY "))
    }

    fn is_base_type(&self) -> bool {
        self.statements
            .first()
            .is_some_and(|create| create.starts_with("CREATE TYPE ") && create.contains(" (INPUT = "))
    }

    /// An index' name and its table.
    fn index(&self) -> Option<(String, String)> {
        let (_, rest) = self.statements.first()?.split_once("INDEX ")?;
        let (name, rest) = rest.split_at_checked(word_end(rest, 0))?;
        let table = rest.strip_prefix(" ON ")?;
        let table = table.strip_prefix("ONLY ").unwrap_or(table);
        let (table, _) = table.split_once(" USING ")?;
        Some((name.to_owned(), table.to_owned()))
    }
}

/// The text of CREATE TABLE without its foreign keys and what is NOT VALID; and these. Notes constraints that have an index.
fn without_keys(create: &str, indexed: &mut BTreeSet<String>) -> (String, Vec<String>) {
    const NEXT: &str = ",\n    CONSTRAINT ";
    let Some((columns, constraints)) = create.split_once(NEXT) else { return (create.to_owned(), Vec::new()) };
    let mut pieces: Vec<&str> = constraints.split(NEXT).collect();
    let last = pieces.pop().unwrap_or_default();
    let (last, rest) = last.split_once("\n)").unwrap_or((last, ""));
    pieces.push(last);
    let (mut out, mut moved) = (columns.to_owned(), Vec::new());
    for piece in pieces {
        let (name, what) = piece.split_at_checked(word_end(piece, 0)).unwrap_or((piece, ""));
        if what.starts_with(" FOREIGN KEY ") || what.ends_with(" NOT VALID") {
            moved.push(piece.to_owned());
            continue;
        }
        if [" PRIMARY KEY", " UNIQUE", " EXCLUDE"].iter().any(|word| what.starts_with(word)) {
            indexed.insert(name.to_owned());
        }
        out.push_str(NEXT);
        out.push_str(piece);
    }
    (format!("{out}\n){rest}"), moved)
}

/// Where a name ends that begins there, in quotes or not; there, if none does.
fn word_end(text: &str, from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()));
        return from + end.unwrap_or(rest.len());
    };
    let mut at = 0;
    while let Some(quote) = quoted.get(at..).and_then(|rest| rest.find('"')) {
        at += quote + 1;
        if !quoted.get(at..).is_some_and(|rest| rest.starts_with('"')) {
            return from + 1 + at;
        }
        at += 1;
    }
    text.len()
}

/// Every `schema.name` in a text, those within strings too: `nextval('s.q'::regclass)`.
fn qualified_names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let end = word_end(text, at);
        if end == at {
            at += text.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
            continue;
        }
        let second =
            if text.get(end..).is_some_and(|rest| rest.starts_with('.')) { word_end(text, end + 1) } else { end };
        if second > end + 1 {
            names.extend(text.get(at..second).map(str::to_owned));
        }
        at = end;
    }
    names
}

fn put(out: &mut String, statement: &str) {
    out.push('\n');
    out.push_str(statement.trim_end_matches(';'));
    out.push_str(";\n");
}

/// As a statement names it.
fn signature(kind: &str, identity: &str) -> String {
    if kind == "aggregate" { identity.replace("()", "(*)") } else { identity.to_owned() }
}

/// A comment or a label.
pub(in crate::history) fn remark(fact: &Fact, out: &mut String) {
    let (kind, identity) = (fact.object_type.as_str(), fact.object_identity.as_str());
    let of = match kind {
        _ if kind.ends_with(" column") => format!("COLUMN {identity}"),
        "table constraint" => format!("CONSTRAINT {identity}"),
        "domain constraint" => format!("CONSTRAINT {}", identity.replacen(" on ", " on DOMAIN ", 1)),
        "statistics object" => format!("STATISTICS {identity}"),
        "foreign-data wrapper" => format!("FOREIGN DATA WRAPPER {identity}"),
        kind => format!("{} {}", kind.to_uppercase(), signature(kind, identity)),
    };
    match fact.fact.as_str() {
        "comment" => put(out, &format!("COMMENT ON {of} IS{}", literal(&fact.value))),
        "security label" => {
            for (provider, label) in fact.value.lines().filter_map(|line| line.split_once(": ")) {
                put(out, &format!("SECURITY LABEL FOR {provider} ON {of} IS{}", literal(label)));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_wherever_they_stand() {
        let text = r#"nextval('public.t_id_seq'::regclass), "odd.s"."t ""u""".c, f(x), a.b.c, é.ü"#;
        assert_eq!(
            qualified_names(text),
            ["public.t_id_seq", r#""odd.s"."t ""u""""#, r#""t ""u""".c"#, "a.b", "b.c", "é.ü"]
        );
    }

    #[test]
    fn keys_leave_the_table() {
        let create = "CREATE TABLE s.t (\n    a integer,\n    CONSTRAINT \"f k\" FOREIGN KEY (a) REFERENCES s.u(a),\n    \
                      CONSTRAINT p PRIMARY KEY (a),\n    CONSTRAINT z CHECK ((a > 0)) NOT VALID\n)\nWITH (fillfactor=70)";
        let mut indexed = BTreeSet::new();
        let (kept, moved) = without_keys(create, &mut indexed);
        assert_eq!(
            kept,
            "CREATE TABLE s.t (\n    a integer,\n    CONSTRAINT p PRIMARY KEY (a)\n)\nWITH (fillfactor=70)"
        );
        assert_eq!(moved, ["\"f k\" FOREIGN KEY (a) REFERENCES s.u(a)", "z CHECK ((a > 0)) NOT VALID"]);
        assert_eq!(indexed, BTreeSet::from(["p".to_owned()]));
    }
}
