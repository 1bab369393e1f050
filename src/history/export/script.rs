//! The statements of a history as a script for psql: each once, in its order, those of a transaction in one.

use std::collections::BTreeSet;
use std::io::{self, Write};

use super::said::{self, Meant, Row, Said};
use super::source::{Commit, Source};
use super::{ExportError, Told};
use crate::history::branching::{quoted, script};
use crate::sql::{Class, Classifier};

const ROWS: &str = "SELECT k.n, x.action, x.aspect, x.affected, x.ordinal, x.object_type, x.object_identity, x.objsubid, x.schema_name, x.object_name, \
            x.new_definition, x.begins, CASE WHEN x.begins THEN x.sql_executed END AS sql_executed, \
            x.statement_id, coalesce(x.session_id::text, x.backend_pid::text) AS session, x.role_name \
     FROM unnest($1) WITH ORDINALITY k(id, n) \
     CROSS JOIN LATERAL (SELECT c.*, lag(c.id) OVER w IS NULL OR c.sql_executed IS DISTINCT FROM lag(c.sql_executed) OVER w AS begins \
                           FROM pggit.changes c WHERE c.commit_id = k.id \
                         WINDOW w AS (ORDER BY c.created_at, c.ordinal, c.id)) x \
     ORDER BY k.n, x.created_at, x.ordinal, x.id";

/// Some procedure commits, so that a CALL may have made several commits.
const PROCEDURES: &str = "SELECT EXISTS (SELECT FROM pggit.changes c WHERE c.object_type = 'procedure' AND c.new_definition ILIKE '%commit%')";

/// What each part of the script may rely on.
const SETTINGS: &str =
    "SET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\nSET check_function_bodies = off;\n";

/// Texts that may go on in later commits, of so many sessions at a time.
const GOING_ON: usize = 64;

/// Writes it; says how many commits.
pub async fn write(source: &mut Source, out: &mut (dyn Write + Send), told: &mut Told<'_>) -> Result<u64, ExportError> {
    let procedures = source.ask(PROCEDURES).await?;
    let mut script = Script { out, path: None, schemas: BTreeSet::new(), procedures, going_on: Vec::new() };
    let mut classifier = Classifier::new(1 << 20);
    let mut commits = 0;
    remark(script.out, &format!("The history of branch {}, for psql -v ON_ERROR_STOP=1.", source.branch()))?;
    write!(script.out, "{SETTINGS}")?;
    loop {
        let page = source.page().await?;
        if page.is_empty() {
            break;
        }
        let mut at = 0;
        let mut texts: Vec<Said> = Vec::new();
        let read = source.rows(&page, ROWS, |place, row: Row| {
            if place != at {
                finish(&mut script, page.get(at), &mut texts)?;
                at = place;
            }
            if row.begins || texts.is_empty() {
                texts.push(Said::begin(&row, &mut classifier));
            }
            if let Some(said) = texts.last_mut() {
                said.add(row);
            }
            Ok(())
        });
        read.await?;
        finish(&mut script, page.get(at), &mut texts)?;
        commits += page.len() as u64;
        told(source.progress());
    }
    remark(script.out, "")?;
    remark(script.out, &format!("The end: {commits} commits."))?;
    Ok(commits)
}

fn finish(script: &mut Script<'_>, commit: Option<&Commit>, texts: &mut Vec<Said>) -> io::Result<()> {
    match commit {
        Some(commit) if !texts.is_empty() => script.commit(commit, std::mem::take(texts)),
        _ => Ok(()),
    }
}

struct Script<'a> {
    out: &'a mut (dyn Write + Send),
    /// The search path that is set; `None`: not known.
    path: Option<String>,
    /// Schemas that were in a search path.
    schemas: BTreeSet<String>,
    procedures: bool,
    /// Sessions and their last text, where it may have made further commits; and how many of them are to come.
    going_on: Vec<(String, String, usize)>,
}

impl Script<'_> {
    fn commit(&mut self, commit: &Commit, mut texts: Vec<Said>) -> io::Result<()> {
        header(self.out, commit, &texts)?;
        let went_on = texts.first().and_then(|first| self.goes_on(first));
        if let Some(left) = went_on {
            let first = texts.remove(0);
            remark(self.out, "")?;
            remark(self.out, "This, too, was done by the statement that stands above:")?;
            shown(self.out, &first.text)?;
            self.remember(&first, left);
        }
        if let Some(last) = texts.last() {
            self.remember(last, last.further_commits(self.procedures));
        }
        let single = match texts.as_slice() {
            [one] => matches!(&one.meant, Meant::Statements(all) if all.len() == 1) && one.repeats() == 1,
            _ => texts.is_empty(),
        };
        let alone = |said: &Said| match &said.meant {
            Meant::Statements(all) => all.iter().any(|one| !one.transactional && said::only_shown(one).is_none()),
            Meant::Lost(_) => false,
        };
        let in_one = !single && !texts.iter().any(alone);
        if in_one {
            writeln!(self.out, "\nBEGIN;")?;
        }
        for said in &texts {
            self.said(said)?;
        }
        if in_one {
            writeln!(self.out, "COMMIT;")?;
        }
        if texts.iter().any(sets) {
            write!(self.out, "RESET SESSION AUTHORIZATION;\nRESET ALL;\n{SETTINGS}")?;
            self.path = None;
        }
        Ok(())
    }

    /// Whether a commit's first text is that with which its session has made another commit already; how many are still to come.
    fn goes_on(&self, said: &Said) -> Option<usize> {
        let is_it = |(session, text, _): &&(String, String, usize)| *session == said.session && *text == said.text;
        self.going_on.iter().find(is_it).map(|(_, _, left)| left - 1)
    }

    fn remember(&mut self, said: &Said, left: usize) {
        self.going_on.retain(|(session, _, _)| *session != said.session);
        if left > 0 {
            if self.going_on.len() == GOING_ON {
                self.going_on.remove(0);
            }
            self.going_on.push((said.session.clone(), said.text.clone(), left));
        }
    }

    fn said(&mut self, said: &Said) -> io::Result<()> {
        match &said.meant {
            Meant::Lost(why) => self.told_otherwise(said, why),
            Meant::Statements(all) => {
                // Where something was made comes first; others may have what the statement names.
                let mut path = said.schemas.clone();
                self.schemas.extend(said.schemas.iter().cloned());
                for schema in std::iter::once("public").chain(self.schemas.iter().map(String::as_str)) {
                    if !path.iter().any(|known| known == schema) {
                        path.push(schema.to_owned());
                    }
                }
                let path: Vec<String> = path.iter().map(|schema| quoted(schema)).collect();
                self.set_path(path.join(", "))?;
                for _ in 0..said.repeats() {
                    self.statements(&said.text, all)?;
                }
                Ok(())
            }
        }
    }

    /// The text as it is, where all of it can be said again; else piece by piece.
    fn statements(&mut self, text: &str, all: &[crate::sql::Statement]) -> io::Result<()> {
        writeln!(self.out)?;
        let rolls_back = all.iter().any(|one| one.control == Some(crate::sql::Control::Rollback));
        let is_framed = |one: &crate::sql::Statement| said::frames(one) && !rolls_back;
        if all.iter().all(|one| !is_framed(one) && said::only_shown(one).is_none()) {
            return statement(self.out, text);
        }
        for one in all {
            let piece = text.get(one.range.clone()).unwrap_or_default();
            match said::only_shown(one) {
                Some(why) => {
                    remark(self.out, &format!("Not said again, {why}:"))?;
                    shown(self.out, piece)?;
                }
                // The transaction is framed already.
                None if is_framed(one) => {}
                None => statement(self.out, piece)?,
            }
        }
        Ok(())
    }

    /// What the catalogs were like afterwards, in the place of a statement.
    fn told_otherwise(&mut self, said: &Said, why: &str) -> io::Result<()> {
        let (made, gone, untold) = said::facts(&said.rows);
        remark(self.out, "")?;
        remark(self.out, &format!("By definitions, as {why}:"))?;
        shown(self.out, &said.text)?;
        for row in gone.iter().rev() {
            let kind = row.object_type.to_uppercase();
            let identity = row.object_identity.as_deref().unwrap_or_default();
            if !identity.is_empty() && row.aspect.is_empty() && droppable(&row.object_type) {
                writeln!(self.out, "DROP {kind} IF EXISTS {identity};")?;
            }
        }
        if !made.is_empty() {
            write!(self.out, "\n{}", script(&made))?;
            // It has turned the search path off.
            self.path = None;
        }
        for row in untold {
            let identity = row.object_identity.as_deref().unwrap_or_default();
            remark(self.out, &format!("NOT SAID AGAIN: {} of {} {identity}", row.action, row.object_type))?;
            shown(self.out, row.new_definition.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }

    fn set_path(&mut self, path: String) -> io::Result<()> {
        if self.path.as_ref() != Some(&path) {
            writeln!(self.out, "SET search_path = {path};")?;
            self.path = Some(path);
        }
        Ok(())
    }
}

/// Whether a text changes the session's settings, which those behind it must not feel.
fn sets(said: &Said) -> bool {
    let of_session = |one: &crate::sql::Statement| matches!(one.class, Class::Session) || one.setting.is_some();
    let set_config = || crate::sql::calls_set_config(said.text.as_bytes());
    matches!(&said.meant, Meant::Statements(all) if all.iter().any(of_session) || set_config())
}

/// Kinds for which DROP takes the kind's name and what `pg_identify_object` prints.
fn droppable(kind: &str) -> bool {
    const KINDS: [&str; 20] = [
        "table",
        "foreign table",
        "view",
        "materialized view",
        "index",
        "sequence",
        "function",
        "procedure",
        "type",
        "schema",
        "extension",
        "trigger",
        "policy",
        "rule",
        "collation",
        "conversion",
        "operator",
        "publication",
        "language",
        "server",
    ];
    KINDS.contains(&kind)
}

fn header(out: &mut dyn Write, commit: &Commit, texts: &[Said]) -> io::Result<()> {
    let seal = commit.seq.map_or("not sealed yet".to_owned(), |seq| format!("number {seq}"));
    let mut lines = vec![
        String::new(),
        format!("commit {} ({seal})", commit.id),
        format!("Branch: {}", commit.branch),
        format!("Author: {}", commit.author),
    ];
    let roles: BTreeSet<&str> =
        texts.iter().map(|said| said.role.as_str()).filter(|role| *role != commit.author).collect();
    lines.extend(roles.iter().map(|role| format!("Role: {role}")));
    lines.push(format!("Date: {}", commit.created_at.format("%FT%T%.6fZ")));
    if let Some(application) = commit.application_name.as_deref().filter(|name| !name.is_empty()) {
        lines.push(format!("Application: {application}"));
    }
    if let Some(message) = &commit.message {
        lines.push(String::new());
        lines.extend(message.lines().map(|line| format!("    {line}")));
    }
    writeln!(out)?;
    lines.iter().try_for_each(|line| remark(out, line))
}

/// A statement, with a semicolon where psql sees it.
fn statement(out: &mut dyn Write, text: &str) -> io::Result<()> {
    let text = text.trim_end().trim_end_matches(';');
    let last = text.lines().last().unwrap_or_default();
    if last.contains("--") { writeln!(out, "{text}\n;") } else { writeln!(out, "{text};") }
}

/// A statement as a comment.
fn shown(out: &mut dyn Write, text: &str) -> io::Result<()> {
    if text.is_empty() { Ok(()) } else { remark(out, text) }
}

/// A comment, whatever is in it: each line has its own.
fn remark(out: &mut dyn Write, text: &str) -> io::Result<()> {
    for line in text.split(['\n', '\r']) {
        writeln!(out, "{}", format!("-- {line}").trim_end())?;
    }
    Ok(())
}
