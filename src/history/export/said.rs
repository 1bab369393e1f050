//! What a commit's rows say of the statements that made it: which texts, in which order, and whether they can be said again.

use uuid::Uuid;

use crate::history::branching::Fact;
use crate::sql::{self, Class, Classifier, Control, Encoding, Statement};

/// What `pggit.kept_query` puts behind a text that it has cut.
const CUT: &str = "\n-- [pggit: cut here, ";

/// A row of `pggit.changes`.
#[derive(Debug, Clone, Default, sqlx::FromRow)]
pub(super) struct Row {
    pub action: String,
    pub aspect: String,
    pub affected: bool,
    pub ordinal: i32,
    pub object_type: String,
    pub object_identity: Option<String>,
    pub objsubid: i32,
    pub schema_name: Option<String>,
    pub object_name: Option<String>,
    pub new_definition: Option<String>,
    /// Its text is not that of the row before it; only then it is here.
    pub begins: bool,
    pub sql_executed: Option<String>,
    /// Of rows that calls and intents have written.
    pub statement_id: Option<Uuid>,
    /// The session; of a connection round the proxy, the server's process.
    pub session: String,
    pub role_name: String,
}

/// One text and what it changed.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub text: String,
    pub session: String,
    pub role: String,
    pub meant: Meant,
    /// How often it was said, one time behind the other.
    times: usize,
    last_id: Option<Uuid>,
    /// Schemas of what it changed without naming them: they stood in the search path. First the one where something was made.
    pub schemas: Vec<String>,
    /// Names that have no schema in the text.
    names: Vec<String>,
    /// Of some statement it cannot be told what it names.
    is_vague: bool,
    /// What it changed, where the text cannot be said again.
    pub rows: Vec<Row>,
}

/// What a text is, for whoever wants to say it again.
#[derive(Debug, Clone)]
pub(super) enum Meant {
    /// These statements.
    Statements(Vec<Statement>),
    /// It cannot be said again: why.
    Lost(&'static str),
}

impl Said {
    /// From the first row of a text.
    pub fn begin(row: &Row, classifier: &mut Classifier) -> Self {
        let text = row.sql_executed.clone().unwrap_or_default();
        let meant = match &row.sql_executed {
            None => Meant::Lost("nobody recorded the statement"),
            Some(_) => meaning(&text, classifier),
        };
        let (session, role) = (row.session.clone(), row.role_name.clone());
        let statements = match &meant {
            Meant::Statements(all) => all.as_slice(),
            Meant::Lost(_) => &[],
        };
        // These are in their table's schema, and are named without one.
        let is_of_table = |one: &Statement| matches!(one.object_type, Some("trigger" | "policy" | "rule"));
        let named = statements.iter().filter(|one| !is_of_table(one)).flat_map(|one| &one.objects);
        let names = named.filter(|object| object.schema.is_none());
        let names: Vec<String> = names.map(|object| object.name.clone()).collect();
        let is_vague = statements.iter().any(|one| {
            let is_told = one.class == Class::Ddl
                && !is_of_table(one)
                && !one.objects.is_empty()
                && !matches!(one.action, Some("rename" | "comment"));
            !is_told && one.control.is_none()
        });
        let (times, last_id, schemas, rows) = (0, None, Vec::new(), Vec::new());
        Self { text, session, role, meant, times, last_id, schemas, names, is_vague, rows }
    }

    /// Takes one of its rows.
    pub fn add(&mut self, row: Row) {
        if let Meant::Lost(_) = self.meant {
            self.rows.push(row);
            return;
        }
        // The trigger numbers what one command did from 1 on; of what was dropped another trigger tells.
        let told_anew = match row.statement_id {
            Some(_) => row.statement_id != self.last_id,
            None => row.ordinal == 1 && !row.affected && row.action != "DROP",
        };
        self.times += usize::from(told_anew);
        self.last_id = row.statement_id;
        let Some(schema) = row.schema_name.filter(|schema| !self.schemas.contains(schema)) else { return };
        let is_named = row.object_name.is_some_and(|name| self.names.contains(&name));
        if !is_named && (!self.is_vague || self.mentions(&schema)) {
            return;
        }
        let at = if row.action == "CREATE" { 0 } else { self.schemas.len() };
        self.schemas.insert(at, schema);
    }

    fn mentions(&self, schema: &str) -> bool {
        let (text, schema) = (self.text.to_lowercase(), schema.to_lowercase());
        text.contains(&schema) || text.contains(&schema.replace('"', "\"\""))
    }

    /// How often it has to be said again. Only of a single plain statement it is known.
    pub fn repeats(&self) -> usize {
        match &self.meant {
            Meant::Statements(all) if all.len() == 1 && all.iter().all(|one| one.class == Class::Ddl) => {
                self.times.max(1)
            }
            Meant::Statements(_) | Meant::Lost(_) => 1,
        }
    }

    /// How many commits it may have made behind the first one. `procedures`: some procedure of this branch commits.
    pub fn further_commits(&self, procedures: bool) -> usize {
        let Meant::Statements(all) = &self.meant else { return 0 };
        let says_commit = || self.text.to_ascii_lowercase().contains("commit");
        let unknown =
            |one: &Statement| one.class == Class::Opaque && (says_commit() || procedures && one.tag == "CALL");
        if all.iter().any(unknown) {
            return usize::MAX;
        }
        // Between the words that begin and end transactions; and DETACH PARTITION CONCURRENTLY, which is two.
        let parts = all.split(frames).filter(|part| !part.is_empty()).count();
        let detached = all.iter().filter(|one| one.tag == "ALTER TABLE" && !one.transactional).count();
        (parts + detached).saturating_sub(1)
    }
}

fn meaning(text: &str, classifier: &mut Classifier) -> Meant {
    if text.contains(CUT) {
        return Meant::Lost("the statement was too long to be kept");
    }
    // What psql would read in another way than the server did could make it run programs: \! in what it takes to be no string.
    if !sql::is_plain(text.as_bytes()) || text.contains("standard_conforming_strings") {
        return Meant::Lost("the statement's text depends on settings that are not known");
    }
    let statements = classifier.parse(text.as_bytes(), Encoding::AsciiSafe);
    if statements.iter().any(|one| !one.parsed) {
        return Meant::Lost("the statement's text cannot be read");
    }
    if sql::has_parameters(text.as_bytes())
        && !statements.iter().all(|one| matches!(one.object_type, Some("function" | "procedure")))
    {
        return Meant::Lost("the statement had parameters, which are not recorded");
    }
    Meant::Statements(statements.to_vec())
}

/// Why a statement is only shown; `None` where it is said again.
pub(super) fn only_shown(one: &Statement) -> Option<&'static str> {
    let server = matches!(one.object_type, Some("database" | "tablespace" | "role" | "parameter ACL"))
        || ["DATABASE", "TABLESPACE", "ROLE", "SYSTEM"].iter().any(|word| one.tag.ends_with(&format!(" {word}")));
    if server {
        Some("of the server, not of this database")
    } else if one.tag.ends_with(" SUBSCRIPTION") {
        Some("it would begin to replicate")
    } else if one.tag == "COPY" {
        Some("data")
    } else if one.objects.iter().any(|object| object.schema.as_deref() == Some("pggit")) {
        Some("of the schema pggit")
    } else {
        None
    }
}

/// Whether it begins or ends a transaction; savepoints do not.
pub(super) fn frames(one: &Statement) -> bool {
    match &one.control {
        Some(Control::Savepoint(_) | Control::Release(_) | Control::RollbackTo(_)) | None => false,
        Some(
            Control::Begin
            | Control::Commit
            | Control::Rollback
            | Control::Prepare(_)
            | Control::CommitPrepared(_)
            | Control::RollbackPrepared(_),
        ) => true,
    }
}

/// What is known of rows whose statement cannot be said again: objects that are there afterwards, as facts; the others' ends.
pub(super) fn facts(rows: &[Row]) -> (Vec<Fact>, Vec<&Row>, Vec<&Row>) {
    let (mut made, mut gone, mut untold): (Vec<Fact>, Vec<&Row>, Vec<&Row>) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let identity = row.object_identity.clone().unwrap_or_default();
        let fact = match row.aspect.as_str() {
            "" => "definition",
            "label" => "security label",
            aspect => aspect,
        };
        let is_it = |other: &Fact| {
            other.fact == fact && other.object_type == row.object_type && other.object_identity == identity
        };
        match (row.action.as_str(), &row.new_definition) {
            ("DROP", _) if row.objsubid == 0 => {
                made.retain(|other| !(other.object_type == row.object_type && other.object_identity == identity));
                gone.push(row);
            }
            ("CREATE" | "BASELINE" | "COMMENT" | "SECURITY", Some(definition)) => {
                made.retain(|other| !is_it(other));
                made.push(Fact {
                    object_type: row.object_type.clone(),
                    object_identity: identity,
                    fact: fact.to_owned(),
                    value: definition.clone(),
                    stale: false,
                    commit_id: None,
                    author: None,
                    changed_at: None,
                    message: None,
                });
            }
            (_, Some(definition)) => match made.iter_mut().find(|other| is_it(other)) {
                Some(other) => other.value.clone_from(definition),
                None => untold.push(row),
            },
            (_, None) => untold.push(row),
        }
    }
    (made, gone, untold)
}
