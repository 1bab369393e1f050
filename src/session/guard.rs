//! What no client may do through the proxy: say whose change it is, write the history itself, or stop its recording.
//!
//! This reads the statement's text, and so refuses with a clear word what is done openly. What a text does not show (names
//! computed in a DO block) meets the database's own locks: the procedures want the proxy's signature, the triggers take the
//! settings that the session began with, and `pggit.verify()` and the probe notice the rest.

use crate::policy::Refusal;
use crate::sql::{Class, Statement, called_functions};

/// The recorder's schema.
const SCHEMA: &str = "pggit";

/// Functions of the schema that write begin with one of these words; all others only read.
const WRITERS: [&str; 14] = [
    "announce",
    "before_",
    "cleanup_",
    "companion",
    "enter_",
    "forget",
    "intent",
    "note_",
    "probe",
    "record",
    "refuse_",
    "seal",
    "settle",
    "sweep",
];

/// Why the statement may not run, if so.
pub(super) fn refuses(statement: &Statement, sql: &[u8]) -> Option<Refusal> {
    guarded_setting(statement).or_else(|| guarded_object(statement)).or_else(|| guarded_call(statement, sql))
}

/// The settings that say whose change it is, and how it is recorded, are the proxy's.
fn guarded_setting(statement: &Statement) -> Option<Refusal> {
    if statement.tag == "RESET" {
        return None;
    }
    let setting = statement.setting.as_deref()?;
    let (sqlstate, message, hint) = match setting {
        "pggit.message" => return None,
        "pggit.branch" => (
            "55P02",
            "parameter \"pggit.branch\" cannot be changed in this way",
            "SET pggit.branch = '…' by itself moves the session; or connect to the branch, in psql with \\c app/feature-x.",
        ),
        "event_triggers" => (
            "42501",
            "permission denied to set a parameter that would stop the history",
            "Event triggers record changes.",
        ),
        _ => ("42501", "permission denied to set a parameter of the proxy's own", "It is set by the proxy at connect."),
    };
    Some(refusal(sqlstate, message.to_owned(), format!("Parameter: {setting}."), hint))
}

fn guarded_object(statement: &Statement) -> Option<Refusal> {
    let changes = match statement.class {
        Class::Ddl | Class::Role | Class::Write => true,
        Class::Other => statement.tag == "LOCK TABLE",
        Class::Read | Class::Maintenance | Class::Transaction | Class::Session | Class::Opaque => false,
    };
    if !changes {
        return None;
    }
    let kind = statement.object_type.unwrap_or_default();
    let object = statement.objects.iter().find(|object| match kind {
        "schema" => is_ours(&object.name),
        "event trigger" => object.name.starts_with("pggit_"),
        _ => object.schema.as_deref().is_some_and(is_ours),
    })?;
    let name = match &object.schema {
        Some(schema) => format!("{schema}.{}", object.name),
        None => object.name.clone(),
    };
    Some(refusal(
        "42501",
        format!("permission denied for {kind} {name}"),
        "The schema pggit is written by the recorder alone.".to_owned(),
        "Read pggit.history. Branches and freezes are changed on the control port.",
    ))
}

/// The recorder's schema, and those in which a migration keeps its tables: what it brings back from there is history again.
fn is_ours(schema: &str) -> bool {
    let backup = |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    schema == SCHEMA || schema.strip_prefix("pggit_backup_").is_some_and(backup)
}

fn guarded_call(statement: &Statement, sql: &[u8]) -> Option<Refusal> {
    let readable = matches!(statement.class, Class::Read | Class::Write | Class::Ddl | Class::Opaque);
    if !readable {
        return None;
    }
    let name = called_functions(sql).find(|name| WRITERS.iter().any(|writer| name.starts_with(writer)))?;
    Some(refusal(
        "42501",
        format!("permission denied for function {SCHEMA}.{name}"),
        "It is called by the recorder alone.".to_owned(),
        "Read pggit.history.",
    ))
}

fn refusal(sqlstate: &'static str, message: String, detail: String, hint: &str) -> Refusal {
    Refusal { sqlstate, rule: None, message, detail: Some(detail), hint: Some(hint.to_owned()) }
}
