//! A history as a stream for `git fast-import`: a commit for each sealed commit, a file for each object.
//!
//! The stream holds everything from the first commit on, and the same history always gives the same stream: git knows what it
//! has already, and adds the rest. What a file holds is what the object's newest row says, so nothing of it changes later.
//!
//! <https://git-scm.com/docs/git-fast-import>

mod message;
mod path;
mod tree;

use std::collections::HashMap;
use std::io::{self, Write};

use uuid::Uuid;

use self::message::Message;
use self::tree::{Change, Tree};
use super::source::{Commit, Selection, Source};
use super::{ExportError, Told};
use crate::branch::Branches;
use crate::history::Server;

pub use path::reference;

/// As `pggit.rows_by` tells them: under the oids and numbers that objects and columns have in this database. Roles, databases and
/// the like are the server's, and not in the tree; default privileges have no rows of their own.
const ROWS: &str = "SELECT k.n, c.action, c.aspect, c.affected, c.command_tag, c.object_type, c.schema_name, c.object_name, c.object_identity, c.classid, \
            coalesce(g.objid, c.objid) AS objid, coalesce(a.objid, c.namespace) AS namespace, c.new_definition, \
            CASE WHEN m.moved AND c.objsubid <> 0 \
                 THEN coalesce((SELECT o.attnum FROM pggit.origin_columns o WHERE o.was = c.objid AND o.was_attnum = c.objsubid), -c.objsubid) \
                 ELSE c.objsubid END::integer AS objsubid, \
            (SELECT array_agg(e.key::integer ORDER BY e.key::integer) FROM jsonb_each(s.shape) e) AS numbers, \
            (SELECT array_agg(e.value ->> 0 ORDER BY e.key::integer) FROM jsonb_each(s.shape) e) AS columns, \
            EXISTS (SELECT FROM pg_class t WHERE t.oid = c.classid AND (NOT t.relisshared OR t.oid = 'pg_subscription'::regclass) \
                       AND t.oid NOT IN ('pg_event_trigger'::regclass, 'pg_default_acl'::regclass)) AS is_here, \
            CASE WHEN c.sql_executed IS DISTINCT FROM lag(c.sql_executed) OVER (PARTITION BY k.n ORDER BY c.created_at, c.ordinal, c.id) \
                 THEN c.sql_executed END AS sql_executed \
     FROM unnest($1) WITH ORDINALITY k(id, n) JOIN pggit.changes c ON c.commit_id = k.id \
     CROSS JOIN LATERAL (SELECT c.classid = 'pg_class'::regclass AND c.objid IN (SELECT o.was FROM pggit.origin_columns o) AS moved) m \
     CROSS JOIN LATERAL (SELECT CASE WHEN jsonb_typeof(c.shape) <> 'object' THEN NULL WHEN m.moved THEN pggit.own_columns(c.objid, c.shape) \
                                     ELSE c.shape END AS shape) s \
     LEFT JOIN pggit.origins g ON g.was = c.objid AND g.classid = c.classid \
     LEFT JOIN pggit.origins a ON a.was = c.namespace AND a.classid = 'pg_namespace'::regclass \
     ORDER BY k.n, c.created_at, c.ordinal, c.id";

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Commits, each counted once.
    pub commits: u64,
    /// Branches.
    pub branches: u64,
    /// Commits that are left out, as they are not sealed yet; counted on each branch.
    pub unsealed: u64,
}

/// Writes the history of these branches, parents first: what two of them have in common is there once.
pub async fn write(
    server: &Server,
    known: &Branches,
    branches: &[String],
    out: &mut (dyn Write + Send),
    told: &mut Told<'_>,
) -> Result<Written, ExportError> {
    let mut stream = Stream { out, marks: HashMap::new(), next: 1 };
    writeln!(stream.out, "feature done")?;
    let mut written = Written::default();
    for branch in parents_first(known, branches) {
        let selection = Selection { sealed_only: true, ..Selection::default() };
        let mut source = Source::open(server, known, branch, &selection).await?;
        written.unsealed += source.unsealed().await?;
        let ended = one_branch(&mut source, &mut stream, &reference(branch, known), told).await;
        source.close().await;
        written.branches += u64::from(ended?);
    }
    writeln!(stream.out, "done")?;
    written.commits = stream.next - 1;
    Ok(written)
}

/// One branch; whether it has any commit.
async fn one_branch(
    source: &mut Source,
    stream: &mut Stream<'_>,
    reference: &str,
    told: &mut Told<'_>,
) -> Result<bool, ExportError> {
    let mut tree = Tree::default();
    let mut tip = 0;
    loop {
        let page = source.page().await?;
        if page.is_empty() {
            break;
        }
        let mut at = 0;
        let mut message = Message::default();
        let read = source.rows(&page, ROWS, |place, row: tree::Row| {
            // A commit whose rows somebody has deleted is a commit all the same.
            while at < place {
                tip = stream.commit(reference, tip, page.get(at), std::mem::take(&mut message), tree.take_changes())?;
                at += 1;
            }
            message.add(&row);
            tree.apply(row);
            Ok(())
        });
        read.await?;
        while at < page.len() {
            tip = stream.commit(reference, tip, page.get(at), std::mem::take(&mut message), tree.take_changes())?;
            at += 1;
        }
        told(source.progress());
    }
    if tip > 0 {
        writeln!(stream.out, "reset {reference}\nfrom :{tip}\n")?;
    }
    Ok(tip > 0)
}

struct Stream<'a> {
    out: &'a mut (dyn Write + Send),
    /// What follows a commit: its mark and the next one's id -> that one's mark. Branches have their past in common.
    marks: HashMap<(u64, Uuid), u64>,
    next: u64,
}

impl Stream<'_> {
    /// Writes a commit, unless another branch has it at the same place; returns its mark.
    fn commit(
        &mut self,
        reference: &str,
        parent: u64,
        commit: Option<&Commit>,
        message: Message,
        changes: Vec<Change>,
    ) -> io::Result<u64> {
        let Some(commit) = commit else { return Ok(parent) };
        if let Some(mark) = self.marks.get(&(parent, commit.id)) {
            return Ok(*mark);
        }
        let mark = self.next;
        self.next += 1;
        self.marks.insert((parent, commit.id), mark);
        let who = format!("{} {} +0000", message::person(&commit.author), commit.created_at.timestamp().max(0));
        writeln!(self.out, "commit {reference}\nmark :{mark}\nauthor {who}\ncommitter {who}")?;
        self.data(&message.text(commit))?;
        if parent > 0 {
            writeln!(self.out, "from :{parent}")?;
        }
        for change in changes {
            match change {
                Change::Remove(path) => writeln!(self.out, "D {path}")?,
                Change::Write(path, content) => {
                    writeln!(self.out, "M 100644 inline {path}")?;
                    self.data(&content)?;
                }
            }
        }
        writeln!(self.out)?;
        Ok(mark)
    }

    fn data(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "data {}\n{text}", text.len())
    }
}

/// So that what a branch has from its parent is written from the parent's rows.
fn parents_first<'a>(known: &Branches, branches: &'a [String]) -> Vec<&'a String> {
    let depth = |branch: &String| {
        let mut depth = 0;
        let mut at = known.find(branch);
        // Names that lead in a circle end somewhere.
        while let Some(parent) = at.and_then(|branch| branch.parent.as_deref()).filter(|_| depth <= known.all.len()) {
            depth += 1;
            at = known.find(parent);
        }
        depth
    };
    let mut all: Vec<&String> = branches.iter().collect();
    all.sort_by_key(|branch| (depth(branch), branch.as_str()));
    all.dedup();
    all
}
