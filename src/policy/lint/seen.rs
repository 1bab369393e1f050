//! What the server says of the tables of a statement, just before it would be run: asked in the client's own session, so that
//! its search_path and what its transaction has done hold.

use super::Findings;
use crate::sql::ObjectName;

/// Rows of a name, a value and `seen`, for an array of names in `$1`: schema, [`BETWEEN`], name. Every function and operator by its
/// schema (and all such operators bind alike): the client's search_path must not change what this says. It takes no lock that
/// somebody may hold: the size is asked for where nobody has, or waits for, an ACCESS EXCLUSIVE lock, and is else the one of
/// the last VACUUM or ANALYZE.
pub const LOOK: &str = "SELECT 'lock_timeout', pg_catalog.current_setting('lock_timeout'), 'seen' \
     UNION ALL SELECT 'statement_timeout', pg_catalog.current_setting('statement_timeout'), 'seen' \
     UNION ALL SELECT 'client_min_messages', pg_catalog.current_setting('client_min_messages'), 'seen' \
     UNION ALL SELECT w.i::pg_catalog.text OPERATOR(pg_catalog.||) ':' OPERATOR(pg_catalog.||) pg_catalog.format('%I.%I', n.nspname, c.relname), \
     pg_catalog.concat_ws(' ', \
         (CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock' \
                             AND l.relation OPERATOR(pg_catalog.=) ANY (ARRAY[c.oid, c.reltoastrelid]) \
                             AND coalesce(l.pid, 0) OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()) \
               THEN c.relpages::pg_catalog.int8 OPERATOR(pg_catalog.*) b.size \
               ELSE coalesce(pg_catalog.pg_relation_size(c.oid), 0) OPERATOR(pg_catalog.+) coalesce(pg_catalog.pg_relation_size(c.reltoastrelid), 0) END) \
             OPERATOR(pg_catalog.+) (parts.pages OPERATOR(pg_catalog.*) b.size), \
         indexes.pages OPERATOR(pg_catalog.*) b.size, \
         c.reltuples::pg_catalog.int8 OPERATOR(pg_catalog.+) parts.tuples, \
         CASE WHEN c.relpersistence OPERATOR(pg_catalog.=) 't' THEN 'temporary' \
              WHEN pg_catalog.age(a.xmin) OPERATOR(pg_catalog.<=) pg_catalog.age(pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.xid) THEN 'new' \
              ELSE 'old' END, \
         held.sessions, held.seconds), 'seen' \
     FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY w(name, i) \
     JOIN pg_catalog.pg_class o ON o.relname OPERATOR(pg_catalog.=) pg_catalog.split_part(w.name, pg_catalog.chr(31), 2)::pg_catalog.name \
          AND CASE pg_catalog.length(pg_catalog.split_part(w.name, pg_catalog.chr(31), 1)) WHEN 0 THEN pg_catalog.pg_table_is_visible(o.oid) \
              ELSE o.relnamespace OPERATOR(pg_catalog.=) (SELECT s.oid FROM pg_catalog.pg_namespace s \
                   WHERE s.nspname OPERATOR(pg_catalog.=) pg_catalog.split_part(w.name, pg_catalog.chr(31), 1)::pg_catalog.name) END \
     LEFT JOIN pg_catalog.pg_index x ON x.indexrelid OPERATOR(pg_catalog.=) o.oid \
     JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) coalesce(x.indrelid, o.oid) \
          AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'm']::pg_catalog.\"char\"[]) \
     JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
     JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.=) -1 \
     CROSS JOIN (SELECT pg_catalog.current_setting('block_size')::pg_catalog.int8 AS size) b \
     CROSS JOIN LATERAL (WITH RECURSIVE tree AS (SELECT i.inhrelid AS part FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) c.oid \
              UNION ALL SELECT i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) tree.part) \
          SELECT coalesce(pg_catalog.sum(p.relpages), 0)::pg_catalog.int8 AS pages, \
                 coalesce(pg_catalog.sum(p.reltuples::pg_catalog.int8), 0)::pg_catalog.int8 AS tuples \
            FROM tree JOIN pg_catalog.pg_class p ON p.oid OPERATOR(pg_catalog.=) tree.part) parts \
     CROSS JOIN LATERAL (SELECT coalesce(pg_catalog.sum(r.relpages), 0)::pg_catalog.int8 AS pages FROM pg_catalog.pg_index y \
            JOIN pg_catalog.pg_class r ON r.oid OPERATOR(pg_catalog.=) y.indexrelid WHERE y.indrelid OPERATOR(pg_catalog.=) c.oid) indexes \
     CROSS JOIN LATERAL (SELECT pg_catalog.count(DISTINCT coalesce(l.pid, 0)) AS sessions, \
                 pg_catalog.max(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) v.xact_start))::pg_catalog.int8 AS seconds \
            FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity v ON v.pid OPERATOR(pg_catalog.=) l.pid \
           WHERE l.granted AND l.relation OPERATOR(pg_catalog.=) c.oid \
             AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()) \
             AND coalesce(l.pid, 0) OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()) held";

/// Between schema and name: no name that anybody has holds it.
const BETWEEN: char = '\u{1f}';

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The session bounds how long it waits for a lock.
    pub(super) lock_timeout: bool,
    /// The session bounds how long a statement takes.
    pub(super) statement_timeout: bool,
    /// The client does not want to hear warnings.
    pub is_quiet: bool,
    /// Each with its number in [`Findings::wanted`], from 1.
    pub(super) tables: Vec<(usize, Table)>,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Quoted where it has to be.
    pub name: String,
    /// With what is stored beside it, and its partitions.
    pub bytes: u64,
    pub index_bytes: u64,
    /// As estimated by the last VACUUM or ANALYZE.
    pub rows: Option<u64>,
    /// Nobody else ever sees it.
    pub is_temporary: bool,
    /// No older than the session's transaction.
    pub is_new: bool,
    /// Other sessions that hold a lock on it.
    pub holders: u64,
    /// How long the oldest of their transactions has been running, as far as the session may see it.
    pub held_for: Option<u64>,
}

impl Findings {
    /// What [`LOOK`] is asked for, as a `text[]`. A name that the client's encoding may not have is left out.
    pub fn wanted(&self, is_utf8: bool) -> String {
        // All names of all statements, in order.
        let names = self.about.iter().flat_map(|about| &about.tables).map(|ObjectName { schema, name }| {
            let text = format!("{}{BETWEEN}{name}", schema.as_deref().unwrap_or_default());
            let text = if is_utf8 || text.is_ascii() { text } else { String::new() };
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
        });
        format!("{{{}}}", names.collect::<Vec<_>>().join(","))
    }
}

impl Seen {
    /// From the rows of [`LOOK`]: names and values.
    pub fn read(rows: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let mut seen = Self::default();
        for (name, value) in rows {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            match (&*name, &*value) {
                ("lock_timeout", value) => seen.lock_timeout = value != "0",
                ("statement_timeout", value) => seen.statement_timeout = value != "0",
                ("client_min_messages", value) => seen.is_quiet = matches!(value, "error" | "fatal" | "panic"),
                (name, value) => seen.tables.extend(table(name, value)),
            }
        }
        seen
    }
}

fn table(name: &str, value: &str) -> Option<(usize, Table)> {
    let (number, name) = name.split_once(':')?;
    let mut values = value.split(' ');
    let mut next = || values.next();
    let (bytes, index_bytes) = (next()?.parse().ok()?, next()?.parse().ok()?);
    // -1: nobody knows.
    let rows = next()?.parse().ok();
    let whose = next()?;
    let table = Table {
        name: name.to_owned(),
        bytes,
        index_bytes,
        rows,
        is_temporary: whose == "temporary",
        is_new: whose == "new",
        holders: next()?.parse().ok()?,
        held_for: next().and_then(|seconds| seconds.parse().ok()),
    };
    Some((number.parse().ok()?, table))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::About;
    use super::*;

    #[test]
    fn names_are_quoted_for_an_array() {
        let about = About {
            range: 0..0,
            is_bounded: true,
            tag: "DROP TABLE",
            tables: vec![
                ObjectName { schema: None, name: "a\"b\\".to_owned() },
                ObjectName { schema: Some("s".to_owned()), name: "\u{e4}".to_owned() },
            ],
        };
        let findings = Findings { all: Vec::new(), about: vec![about] };
        assert_eq!(findings.wanted(true), "{\"\u{1f}a\\\"b\\\\\",\"s\u{1f}\u{e4}\"}");
        assert_eq!(findings.wanted(false), "{\"\u{1f}a\\\"b\\\\\",\"\"}");
    }

    #[test]
    fn rows_are_read() {
        let row = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let rows = [row("lock_timeout", "5s"), row("statement_timeout", "0"), row("2:public.a:b", "8192 0 -1 new 1")];
        let seen = Seen::read(&rows);
        assert!(seen.lock_timeout && !seen.statement_timeout && !seen.is_quiet);
        let table = Table { name: "public.a:b".to_owned(), bytes: 8192, is_new: true, holders: 1, ..Table::default() };
        assert_eq!(seen.tables, [(2, table)]);
    }
}
