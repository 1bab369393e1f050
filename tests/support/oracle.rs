//! An oracle: what is in a database, by queries of its own on the catalogs, held against what the history says happened.
//!
//! Nothing here uses a function of ours. Facts go by oid where an object refers to another one, so that renaming a type
//! is no change of the tables that use it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::psql_ok;

/// What tells an object for ever: catalog, oid, and 0. A comment: its object's, with `comment` before the catalog.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub catalog: String,
    pub oid: u32,
    pub column: i32,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.catalog, self.oid, self.column)
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// `table`, `partitioned table`, `index`, `enum` …
    pub kind: String,
    /// As a statement names it.
    pub identity: String,
    /// Its own name, without schema.
    pub name: String,
    /// Its columns' names, or what else a statement about it needs.
    pub parts: Vec<String>,
    /// What makes it what it is.
    fact: String,
}

/// Everything that is there at one moment.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub objects: BTreeMap<Key, Object>,
    /// Columns (`oid column`) and constraints (`oid`) that are there.
    parts: BTreeSet<String>,
}

/// A row of `pggit.history`.
#[derive(Debug, Clone)]
pub struct Row {
    pub id: String,
    pub change: String,
    pub key: Key,
    aspect: String,
    affected: bool,
    same_definition: bool,
    pub identity: String,
    name: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} [{}{}]", self.change, self.identity, self.key, if self.affected { ", affected" } else { "" })
    }
}

const SEPARATOR: &str = "\u{1f}";

/// The user's own: no system schema, nothing temporary, nothing of ours, no member of an extension. `tree(x)`: see [`trees`].
const FACTS: &str = r#"
with spaces as (select oid, nspname from pg_namespace where nspname !~ '^pg_' and nspname not in ('information_schema', 'pggit')),
member as (select classid, objid from pg_depend where deptype = 'e'),
rel as (select c.*, format('%I.%I', s.nspname, c.relname) as ident from pg_class c join spaces s on s.oid = c.relnamespace
         where not exists (select from member where classid = 'pg_class'::regclass and objid = c.oid)),
facts(catalog, oid, col, kind, ident, name, parts, fact) as (
  select 'pg_namespace', n.oid, 0, 'schema', quote_ident(n.nspname), n.nspname, '', concat(n.nspname, n.nspowner) from pg_namespace n join spaces using (oid)
  union all
  select 'pg_class', c.oid, 0,
    case c.relkind when 'r' then 'table' when 'p' then 'partitioned table' when 'v' then 'view' when 'm' then 'materialized view'
                   when 'S' then 'sequence' when 'i' then 'index' when 'I' then 'index' else c.relkind::text end
      || case when c.relispartition and c.relkind in ('r', 'p') then ' partition' else '' end,
    c.ident, c.relname,
    (select string_agg(quote_ident(attname), ',' order by attnum) from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped),
    concat_ws('|', c.relname, c.relnamespace, case when c.relkind not in ('i', 'I') then c.relowner end, c.relpersistence, c.reloptions, c.relrowsecurity, c.relforcerowsecurity, c.relispartition, c.relpartbound, c.relreplident,
      (select string_agg(concat_ws(':', attnum, attname, atttypid, atttypmod, case when c.relkind in ('r', 'p') then attnotnull end, attidentity, attgenerated, attcollation, attstattarget), ';' order by attnum)
         from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped),
      (select string_agg(concat_ws(':', adnum, tree(adbin)), ';' order by adnum) from pg_attrdef where adrelid = c.oid),
      (select string_agg(concat_ws(':', conname, contype, conkey, confrelid, confkey, confdeltype, condeferrable, condeferred, convalidated, tree(conbin)), ';' order by conname)
         from pg_constraint where conrelid = c.oid and contype not in ('n', 't')),
      (select concat_ws(':', indrelid, indkey, indisunique, indisprimary, indisvalid, indclass, tree(indexprs), tree(indpred)) from pg_index where indexrelid = c.oid),
      (select string_agg(inhparent::text, ';' order by inhseqno) from pg_inherits where inhrelid = c.oid),
      (select concat_ws(':', seqtypid, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle) from pg_sequence where seqrelid = c.oid),
      (select concat_ws(':', refobjid, refobjsubid) from pg_depend where c.relkind = 'S' and classid = 'pg_class'::regclass and objid = c.oid and deptype in ('a', 'i') and refobjsubid > 0),
      (select tree(ev_action) from pg_rewrite where ev_class = c.oid and rulename = '_RETURN'))
  from rel c where c.relkind in ('r', 'p', 'v', 'm', 'S', 'i', 'I')
  union all
  select 'pg_type', t.oid, 0, case t.typtype when 'e' then 'enum' when 'd' then 'domain' when 'c' then 'composite' when 'r' then 'range' else 'base' end,
    format('%I.%I', s.nspname, t.typname), t.typname,
    coalesce((select string_agg(quote_literal(enumlabel), ',' order by enumsortorder) from pg_enum where enumtypid = t.oid),
             (select string_agg(quote_ident(attname), ',' order by attnum) from pg_attribute where attrelid = t.typrelid and attnum > 0 and not attisdropped)),
    concat_ws('|', t.typname, t.typnamespace, t.typowner, t.typbasetype, t.typnotnull, t.typdefault,
      (select string_agg(enumlabel, ';' order by enumsortorder) from pg_enum where enumtypid = t.oid),
      (select string_agg(concat_ws(':', conname, tree(conbin)), ';' order by conname) from pg_constraint where contypid = t.oid and contype <> 'n'),
      (select string_agg(concat_ws(':', attnum, attname, atttypid, atttypmod), ';' order by attnum) from pg_attribute where attrelid = t.typrelid and attnum > 0 and not attisdropped))
  from pg_type t join spaces s on s.oid = t.typnamespace left join pg_class c on c.oid = t.typrelid
  where (t.typrelid = 0 or c.relkind = 'c') and t.typtype <> 'm' and not exists (select from pg_type e where e.typarray = t.oid)
    and not exists (select from member where classid = 'pg_type'::regclass and objid = t.oid)
  union all
  select 'pg_proc', p.oid, 0, case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end || case when p.prorettype = 'trigger'::regtype then ' trigger' else '' end,
    format('%I.%I(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), p.proname, '',
    concat_ws('|', p.proname, p.pronamespace, p.proowner, p.prosrc, p.proargtypes, p.prorettype, p.provolatile, p.proisstrict, p.prosecdef, p.procost, p.proconfig, tree(p.prosqlbody))
  from pg_proc p join spaces s on s.oid = p.pronamespace
  where not exists (select from pg_depend where classid = 'pg_proc'::regclass and objid = p.oid and deptype in ('e', 'i'))
  union all
  select 'pg_trigger', g.oid, 0, 'trigger', quote_ident(g.tgname), g.tgname, r.ident, concat_ws('|', g.tgname, g.tgrelid, g.tgfoid, g.tgtype, g.tgattr, tree(g.tgqual), g.tgenabled)
  from pg_trigger g join rel r on r.oid = g.tgrelid where not g.tgisinternal
  union all
  select 'pg_policy', p.oid, 0, 'policy', quote_ident(p.polname), p.polname, r.ident, concat_ws('|', p.polname, p.polrelid, p.polcmd, p.polpermissive, p.polroles, tree(p.polqual), tree(p.polwithcheck))
  from pg_policy p join rel r on r.oid = p.polrelid
  union all
  select 'pg_rewrite', w.oid, 0, 'rule', quote_ident(w.rulename), w.rulename, r.ident, concat_ws('|', w.rulename, w.ev_class, w.ev_type, w.is_instead, tree(w.ev_qual), tree(w.ev_action), w.ev_enabled)
  from pg_rewrite w join rel r on r.oid = w.ev_class where w.rulename <> '_RETURN'
  union all
  select 'pg_statistic_ext', x.oid, 0, 'statistics', format('%I.%I', s.nspname, x.stxname), x.stxname, '', concat_ws('|', x.stxname, x.stxnamespace, x.stxowner, x.stxrelid, x.stxkeys, x.stxkind, x.stxstattarget)
  from pg_statistic_ext x join spaces s on s.oid = x.stxnamespace
  union all
  select 'pg_extension', e.oid, 0, 'extension', quote_ident(e.extname), e.extname, '', concat_ws('|', e.extname, e.extversion, e.extnamespace) from pg_extension e
), commented as (
  select 'comment ' || d.classoid::regclass, d.objoid, d.objsubid, 'comment', f.ident, f.name, '', d.description
  from pg_description d join facts f on f.catalog = d.classoid::regclass::text and f.oid = d.objoid and f.oid >= 16384
)
select concat_ws(chr(31), catalog, oid, col, kind, ident, name, coalesce(parts, ''), regexp_replace(fact, '[\n\x1f]', ' ', 'g'))
  from (select * from facts where oid >= 16384 or catalog in ('pg_namespace', 'pg_extension') union all select * from commented) x
union all
select concat_ws(chr(31), 'column', attrelid, attnum) from pg_attribute where attrelid >= 16384 and attnum > 0 and not attisdropped
union all
select concat_ws(chr(31), 'constraint', oid) from pg_constraint where oid >= 16384
"#;

const ROWS: &str = r"
select concat_ws(chr(31), h.id, h.change_type, c.classid::regclass, c.objid, c.objsubid, c.aspect, c.affected,
                 h.old_definition is not distinct from h.new_definition,
                 regexp_replace(coalesce(h.object_identity, ''), '[\n\x1f]', ' ', 'g'), regexp_replace(coalesce(h.object_name, ''), '[\n\x1f]', ' ', 'g'))
  from pggit.history h join pggit.changes c using (id) where c.objid is not null and h.captured_by not in ('baseline', 'probe')";

/// `tree(x)` in a query: an expression or a query as the server keeps it, without where it stood in the statement's text.
fn trees(sql: &str) -> String {
    let mut parts = sql.split("tree(");
    let mut whole = parts.next().unwrap().to_owned();
    for part in parts {
        let (tree, rest) = part.split_once(')').unwrap();
        whole +=
            &format!("md5(regexp_replace({tree}::text, ':(location|stmt_location|stmt_len) -?[0-9]+', '', 'g')){rest}");
    }
    whole
}

impl Facts {
    /// What is there now.
    pub fn of(url: &str) -> Self {
        let mut facts = Self::default();
        for line in psql_ok(url, &trees(FACTS)).lines() {
            let words: Vec<&str> = line.split(SEPARATOR).collect();
            let [catalog, oid, column, kind, identity, name, parts, fact] = words[..] else {
                facts.parts.insert(words.join(" "));
                continue;
            };
            let key = Key { catalog: catalog.into(), oid: oid.parse().unwrap(), column: column.parse().unwrap() };
            let parts = parts.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
            let (kind, identity, name, fact) = (kind.into(), identity.into(), name.into(), fact.into());
            facts.objects.insert(key, Object { kind, identity, name, parts, fact });
        }
        facts
    }

    /// Objects of these kinds.
    pub fn all(&self, kinds: &[&str]) -> Vec<&Object> {
        self.objects.values().filter(|object| kinds.contains(&object.kind.as_str())).collect()
    }

    fn has_part(&self, key: &Key) -> bool {
        match key.catalog.as_str() {
            "pg_constraint" => self.parts.contains(&format!("constraint {}", key.oid)),
            _ => self.parts.contains(&format!("column {} {}", key.oid, key.column)),
        }
    }
}

/// Rows of the history, oldest first; those after the first `known`.
pub fn rows(url: &str, known: usize) -> Vec<Row> {
    let text = psql_ok(url, &format!("{ROWS} order by c.created_at, c.ordinal offset {known}"));
    text.lines().map(row).collect()
}

fn row(line: &str) -> Row {
    let words: Vec<&str> = line.split(SEPARATOR).collect();
    let [id, change, catalog, oid, column, aspect, affected, same, identity, name] = words[..] else {
        panic!("no row: {line:?}")
    };
    let catalog = if aspect == "comment" { format!("comment {catalog}") } else { catalog.to_owned() };
    Row {
        id: id.into(),
        change: change.into(),
        key: Key { catalog, oid: oid.parse().unwrap(), column: column.parse().unwrap() },
        aspect: aspect.into(),
        affected: affected == "t",
        same_definition: same == "t",
        identity: identity.into(),
        name: name.into(),
    }
}

/// What is wrong with the rows of one transaction, given what was there before and after it.
pub fn judge(before: &Facts, after: &Facts, rows: &[Row]) -> Vec<String> {
    let mut wrong = Vec::new();
    let of = |key: &Key| rows.iter().filter(|row| row.key == *key).collect::<Vec<_>>();
    let keys: BTreeSet<&Key> = before.objects.keys().chain(after.objects.keys()).collect();
    for key in keys {
        let (was, is, told) = (before.objects.get(key), after.objects.get(key), of(key));
        let comment = key.catalog.starts_with("comment ");
        let (first, last) = (told.first().map(|row| row.change.as_str()), told.last().map(|row| row.change.as_str()));
        let identity = &is.or(was).unwrap().identity;
        let twin = |there: &Facts, other: &Object| {
            there
                .objects
                .iter()
                .any(|(k, o)| (&k.catalog, &o.kind, &o.identity) == (&key.catalog, &other.kind, &other.identity))
        };
        match (was, is) {
            _ if comment => {
                let of = Key { catalog: key.catalog[8..].into(), ..key.clone() };
                let gone = is.is_none()
                    && (!after.objects.contains_key(&Key { column: 0, ..of.clone() })
                        || of.column != 0 && !after.has_part(&of));
                if was.map(|w| &w.fact) != is.map(|i| &i.fact) && told.is_empty() && !gone {
                    wrong.push(format!("missed: comment on {identity} [{key}]"));
                }
            }
            // The server made an index or statistics anew, for another type of a column.
            (None, Some(is)) if first.is_none_or(|first| first == "ALTER") && twin(before, is) => {}
            (Some(was), None) if told.is_empty() && twin(after, was) => {}
            (None, Some(_)) if first != Some("CREATE") || last == Some("DROP") => {
                wrong.push(format!("missed: CREATE {identity} [{key}], told is {first:?} .. {last:?}"));
            }
            (Some(_), None) if last != Some("DROP") => {
                wrong.push(format!("missed: DROP {identity} [{key}], told is {last:?}"));
            }
            (Some(was), Some(is)) if was.fact != is.fact => {
                if told.is_empty() {
                    wrong.push(format!("missed: ALTER {identity} [{key}]\n  was {}\n  is  {}", was.fact, is.fact));
                }
                wrong.extend(
                    told.iter()
                        .filter(|row| ["CREATE", "DROP"].contains(&row.change.as_str()))
                        .map(|row| format!("wrong: {row}")),
                );
            }
            // A statement may name an object and leave it as it was, or as another one put it back.
            (Some(was), Some(is)) if was == is || was.fact == is.fact => {
                wrong.extend(
                    told.iter()
                        .filter(|row| {
                            ["CREATE", "DROP"].contains(&row.change.as_str())
                                || row.affected && !row.same_definition && told.len() == 1
                        })
                        .map(|row| format!("invented: {row}")),
                );
            }
            _ => {}
        }
        if let (Some(is), Some(last)) = (is, told.last())
            && !comment
            && last.name != is.name
        {
            wrong.push(format!("wrong name: {last}, it is {}", is.name));
        }
    }
    for row in rows {
        let known = before.objects.contains_key(&row.key) || after.objects.contains_key(&row.key);
        if known || !row.aspect.is_empty() {
            continue;
        }
        let is_part = row.key.column != 0 || row.key.catalog == "pg_constraint";
        let changes: Vec<_> = of(&row.key).iter().map(|row| row.change.clone()).collect();
        if is_part && (row.change != "DROP" || after.has_part(&row.key)) {
            wrong.push(format!("invented: {row}"));
        } else if !is_part
            && (changes.first().is_none_or(|c| c != "CREATE") || changes.last().is_none_or(|c| c != "DROP"))
        {
            wrong.push(format!("invented: {row}, of {changes:?}"));
        }
    }
    wrong
}

/// Whether it is in its catalog all the same: some versions let a schema be dropped while somebody is making a type or function
/// in it, which is then in no schema.
fn is_left_behind(url: &str, key: &Key) -> bool {
    psql_ok(url, &format!("select count(*) from {} where oid = {}", key.catalog, key.oid)) == "1"
}

/// What is wrong with the history as a whole: its last word on each object must be what is there.
pub fn judge_end(url: &str, after: &Facts) -> Vec<String> {
    // Rows that the view hides, too: an index made anew under another oid looks as before and shows no change. Relations by their
    // schema's present name: it may have been renamed since.
    let every = psql_ok(
        url,
        "select concat_ws(chr(31), c.id, c.action, c.classid::regclass, c.objid, c.objsubid, c.aspect, \
                c.affected, true, \
                regexp_replace(coalesce(quote_ident(s.nspname) || '.' || quote_ident(c.object_name), c.object_identity, ''), '[\\n\\x1f]', ' ', 'g'), \
                regexp_replace(coalesce(c.object_name, ''), '[\\n\\x1f]', ' ', 'g')) \
           from pggit.changes c left join pg_namespace s on c.classid in ('pg_class'::regclass, 'pg_statistic_ext'::regclass) and s.oid = c.namespace \
          where c.objid is not null and c.objsubid = 0 and c.aspect = '' \
          order by c.created_at, c.ordinal",
    );
    let every: Vec<Row> = every.lines().map(row).collect();
    let last: BTreeMap<Key, Row> = every.iter().map(|row| (row.key.clone(), row.clone())).collect();
    let mut wrong = Vec::new();
    // By oid, or by name where the server made it anew under another oid.
    let mut named: BTreeMap<(&str, &str), &Row> = BTreeMap::new();
    for row in last.values().filter(|row| row.change != "DROP" && !after.objects.contains_key(&row.key)) {
        named.insert((&row.key.catalog, &row.identity), row);
    }
    for (key, object) in after.objects.iter().filter(|(key, _)| !key.catalog.starts_with("comment ")) {
        match last.get(key) {
            None if named.remove(&(&key.catalog, &object.identity)).is_some() => {}
            None => wrong.push(format!("missed: {} {} [{key}] is not in the history", object.kind, object.identity)),
            Some(row) if row.change == "DROP" => wrong.push(format!("invented: {row}, it is there")),
            Some(row) if row.name != object.name => wrong.push(format!("wrong name: {row}, it is {}", object.name)),
            Some(_) => {}
        }
    }
    let named = named.values().filter(|row| {
        let anew = after
            .objects
            .iter()
            .any(|(key, object)| (&key.catalog, &object.identity) == (&row.key.catalog, &row.identity))
            || every.iter().any(|other| {
                other.key != row.key && (&other.key.catalog, &other.identity) == (&row.key.catalog, &row.identity)
            });
        !anew && row.key.catalog != "pg_constraint" && !is_left_behind(url, &row.key)
    });
    wrong.extend(named.map(|row| format!("invented: {row} is not there")));
    // The columns that the history believes in: number, name, NOT NULL. It has none to tell where a transaction with an older
    // snapshot altered a table that somebody else had just altered: that snapshot shows half of the table.
    let columns = psql_ok(
        url,
        "select k.objid::regclass, k.shape from (select distinct on (c.objid) c.* from pggit.changes c where c.classid = 'pg_class'::regclass \
            and c.objsubid = 0 and c.aspect = '' and c.object_type in ('table', 'view', 'materialized view') order by c.objid, c.created_at desc, c.ordinal desc) k \
          cross join lateral (select jsonb_object_agg(a.attnum, jsonb_build_array(a.attname, a.attnotnull)) as shape from pg_attribute a \
                               where a.attrelid = k.objid and a.attnum > 0 and not a.attisdropped) r \
          where k.action <> 'DROP' and k.shape is not null and r.shape is distinct from (select jsonb_object_agg(key, jsonb_build_array(value->0, value->2)) from jsonb_each(k.shape))",
    );
    wrong.extend(columns.lines().map(|line| format!("wrong columns: {line}")));
    wrong
}
