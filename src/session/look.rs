//! What is asked of the client's own server connection, between its statements and unseen by it: the settings that another
//! connection would need to be like this one, what this one would lose by moving, what is known of a statement's tables.
//!
//! In the extended protocol, under names of its own: a Query would take the client's unnamed statement away. Within a Sync of
//! ours; in the client's open batch with a Flush.

use std::time::Instant;

use super::ledger::Kind;
use super::{Effects, Env, Session, hold, lint};
use crate::change::Carried;
use crate::policy::Refusal;
use crate::policy::lint::LOOK as TABLES;
use crate::sql::{Class, calls_set_config};
use crate::wire::error::field;
use crate::wire::frame;

/// What the names of statements and portals begin with. Each look has a new one: after an error the server skips the Close.
const NAME: &str = "pggit:look:";

/// A longer value is not carried.
const MAX_VALUE: usize = 64 << 10;

/// The answer as a whole: more nobody needs.
const MAX_ANSWER: usize = 1 << 20;

/// Every operator by its schema: the client's search_path must not change what this says.
const SETTINGS: &str = "SELECT s.name, s.setting, 'set' FROM pg_catalog.pg_settings s \
     WHERE s.source OPERATOR(pg_catalog.=) 'session' AND s.name OPERATOR(pg_catalog.<>) 'event_triggers' \
     UNION ALL SELECT n.n, pg_catalog.current_setting(n.n, true), 'set' FROM pg_catalog.unnest($1::pg_catalog.text[]) n(n) \
     UNION ALL SELECT 'session_authorization', SESSION_USER::pg_catalog.text, 'session user' \
     UNION ALL SELECT 'role', pg_catalog.current_setting('role'), 'role'";

/// What would be lost on any other connection.
const TIES: &str = "UNION ALL SELECT 'the cursor \"' OPERATOR(pg_catalog.||) c.name OPERATOR(pg_catalog.||) '\"', '', 'tie' \
     FROM pg_catalog.pg_cursors c WHERE NOT pg_catalog.starts_with(c.name, 'pggit:') \
     UNION ALL SELECT 'LISTEN \"' OPERATOR(pg_catalog.||) l.l OPERATOR(pg_catalog.||) '\"', '', 'tie' \
     FROM pg_catalog.pg_listening_channels() l(l) \
     UNION ALL SELECT 'the temporary relation \"' OPERATOR(pg_catalog.||) r.relname::pg_catalog.text OPERATOR(pg_catalog.||) '\"', '', 'tie' \
     FROM pg_catalog.pg_class r WHERE r.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
     UNION ALL SELECT 'the temporary function \"' OPERATOR(pg_catalog.||) f.proname::pg_catalog.text OPERATOR(pg_catalog.||) '\"', '', 'tie' \
     FROM pg_catalog.pg_proc f WHERE f.pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
     UNION ALL SELECT 'an advisory lock', '', 'tie' FROM pg_catalog.pg_locks a \
     WHERE a.locktype OPERATOR(pg_catalog.=) 'advisory' AND a.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()";

/// What would be lost on another branch, besides.
const STATEMENTS: &str = "UNION ALL SELECT 'the prepared statement \"' OPERATOR(pg_catalog.||) p.name OPERATOR(pg_catalog.||) '\"', '', 'tie' \
     FROM pg_catalog.pg_prepared_statements p WHERE NOT pg_catalog.starts_with(p.name, 'pggit:')";

/// What may well happen to any query: cancelled or too slow, no lock in time, nothing of it allowed, out of memory.
const EXPECTED: [&str; 4] = ["57014", "55P03", "42501", "53200"];

/// A look and what came of it.
#[derive(Debug, Default)]
pub(super) enum Look {
    #[default]
    None,
    /// Its answers are owed.
    Asked { found: Found, failed: Option<Failed> },
    /// They came.
    Seen(Result<Found, Failed>),
}

/// Why a look failed.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    sqlstate: String,
    message: String,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Settings, the session user and the role.
    pub carried: Carried,
    /// The first thing that would be lost.
    pub tie: Option<String>,
    /// Parameters as the client knows them.
    pub told: Carried,
    /// Parse of each named statement.
    pub statements: Vec<Vec<u8>>,
    size: usize,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At<'a> {
    /// Settings.
    Settings,
    /// Settings, and what cannot move to another branch.
    Everything,
    /// All that another connection on the same branch needs, and what it cannot be given.
    Belongings,
    /// These tables, in an array.
    Tables(&'a str),
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failed {
    fn new(sqlstate: &str, message: String) -> Self {
        Self { sqlstate: sqlstate.to_owned(), message }
    }

    /// The server's error, as one of the statement that the look was for.
    pub fn refusal(&self, detail: &str) -> Refusal {
        Refusal {
            sqlstate: EXPECTED.into_iter().find(|known| *known == self.sqlstate).unwrap_or("XX000"),
            rule: None,
            message: self.message.clone(),
            detail: Some(detail.to_owned()),
            hint: None,
        }
    }
}

impl Look {
    #[inline]
    pub fn is_asked(&self) -> bool {
        matches!(self, Self::Asked { .. })
    }
}

impl Session {
    /// The messages of a look; what is owed for them is noted. `Session::looked` gives the answer, once they are answered.
    pub(super) fn look(&mut self, at: At<'_>, env: &Env<'_>) -> Vec<u8> {
        self.look_at(at, env.now)
    }

    /// As [`Session::look`], at this time.
    pub(super) fn look_at(&mut self, at: At<'_>, now: Instant) -> Vec<u8> {
        let in_batch = self.begun;
        let names = match at {
            At::Settings | At::Everything | At::Belongings => self.customs.array(),
            At::Tables(names) => names.to_owned(),
        };
        self.calls = self.calls.wrapping_add(1);
        let name = format!("{NAME}{}\0", self.calls);
        let name = name.as_bytes();
        let mut out = Vec::new();
        frame::put(&mut out, b'P', |body| {
            body.extend_from_slice(name);
            let queries: &[&str] = match at {
                At::Settings => &[SETTINGS],
                At::Everything => &[SETTINGS, " ", TIES, " ", STATEMENTS],
                At::Belongings => &[SETTINGS, " ", TIES, " ", hold::OWN],
                At::Tables(_) => &[TABLES],
            };
            queries.iter().for_each(|query| body.extend_from_slice(query.as_bytes()));
            body.extend_from_slice(&[0, 0, 0]);
        });
        frame::put(&mut out, b'B', |body| {
            body.extend_from_slice(name);
            body.extend_from_slice(name);
            body.extend_from_slice(&[0, 0, 0, 1]);
            body.extend_from_slice(&u32::try_from(names.len()).unwrap_or(u32::MAX).to_be_bytes());
            body.extend_from_slice(names.as_bytes());
            body.extend_from_slice(&[0, 0]);
        });
        frame::put(&mut out, b'E', |body| {
            body.extend_from_slice(name);
            body.extend_from_slice(&0u32.to_be_bytes());
        });
        for kind in [b'P', b'S'] {
            frame::put(&mut out, b'C', |body| {
                body.push(kind);
                body.extend_from_slice(name);
            });
        }
        frame::put(&mut out, if in_batch { b'H' } else { b'S' }, |_| {});
        let at = self.micros(now);
        for _ in 0..5 {
            self.ledger.push(Kind::Hidden, Class::Other, at, None);
        }
        if !in_batch {
            self.ledger.push(Kind::HiddenSync, Class::Other, at, None);
        }
        self.look = Look::Asked { found: Found::default(), failed: None };
        out
    }

    /// What a look has found, where one is over; nothing is left of it then.
    pub(super) fn looked(&mut self) -> Option<Result<Found, Failed>> {
        match std::mem::take(&mut self.look) {
            Look::None => None,
            // The connection has ended meanwhile.
            Look::Asked { failed, .. } => {
                Some(Err(failed.unwrap_or_else(|| Failed::new("08006", "the server hung up".to_owned()))))
            }
            Look::Seen(seen) => Some(seen),
        }
    }

    /// A message that belongs to a look; what the client gets in its place. `None`: it is none of a look's.
    pub(super) fn overlook(&mut self, tag: u8, body: &[u8], fx: &mut Effects) -> Option<Vec<u8>> {
        let owed = self.ledger.front()?;
        let Look::Asked { found, failed } = &mut self.look else { return None };
        match (tag, owed.kind) {
            (b'D', Kind::Hidden) => {
                if let Err(reason) = found.take(body) {
                    failed.get_or_insert(Failed::new("54000", reason));
                }
            }
            (b'1' | b'2' | b'3' | b'C', Kind::Hidden) => drop(self.ledger.pop()),
            (b'E', Kind::Hidden) => {
                let text = |code| String::from_utf8_lossy(field(body, code).unwrap_or_default()).into_owned();
                failed.get_or_insert(Failed::new(&text(b'C'), text(b'M')));
                self.ledger.failed(|_, _| {});
                if self.ledger.ignores_all() {
                    // In the client's own batch, which has failed with it: it has to hear of that.
                    let failed = failed.take();
                    self.look = Look::None;
                    if matches!(self.lint, lint::Front::Looking(_)) {
                        // As its own statement would have failed: cancelled, or too slow.
                        self.transaction.failed(&text(b'C'), &text(b'M'));
                        let mut out = Vec::new();
                        frame::put(&mut out, b'E', |frame| frame.extend_from_slice(body));
                        return Some(out);
                    }
                    return Some(self.look_failed(&failed.map(|failed| failed.message).unwrap_or_default(), fx));
                }
            }
            (b'Z', Kind::HiddenSync) => drop(self.ledger.pop()),
            _ => return None,
        }
        let over = self.ledger.front().is_none_or(|owed| !matches!(owed.kind, Kind::Hidden | Kind::HiddenSync));
        if over && let Look::Asked { found, failed } = std::mem::take(&mut self.look) {
            self.look = Look::Seen(failed.map_or(Ok(found), Err));
        }
        Some(Vec::new())
    }
}

impl Found {
    /// One row: name, value, what it is.
    fn take(&mut self, row: &[u8]) -> Result<(), String> {
        let Some([Some(name), value, Some(kind)]) = three(row) else {
            return Err("its answer cannot be read".to_owned());
        };
        let Some(value) = value else { return Ok(()) };
        self.size += row.len();
        if value.len() > MAX_VALUE || self.size > MAX_ANSWER {
            return Err(format!("the value of \"{}\" is too long", String::from_utf8_lossy(name)));
        }
        match kind {
            b"tie" => {
                self.tie.get_or_insert_with(|| String::from_utf8_lossy(name).into_owned());
            }
            b"role" if value == b"none" => {}
            b"statement" => {
                self.statements.push(hold::parse(name, value).ok_or("a prepared statement cannot be read")?)
            }
            b"told" => self.told.push((name.to_vec(), value.to_vec())),
            _ => self.carried.push((name.to_vec(), value.to_vec())),
        }
        Ok(())
    }
}

/// The columns of a DataRow that has three.
fn three(row: &[u8]) -> Option<[Option<&[u8]>; 3]> {
    let mut rest = row.strip_prefix(&[0, 3])?;
    let mut columns = [None; 3];
    for column in &mut columns {
        let (length, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        if let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) {
            *column = Some(rest.get(..length)?);
            rest = rest.get(length..)?;
        }
    }
    Some(columns)
}

/// Names of settings that no extension declared (`app.user`), as far as statements have shown them: the server lists them
/// nowhere, but tells their values by name.
#[derive(Debug, Default)]
pub(super) struct Customs {
    names: Vec<Box<str>>,
    /// Some may have been set whose names were not seen.
    unseen: bool,
}

/// The name in a SET; `None` where it cannot be told.
fn set_name(sql: &[u8]) -> Option<&str> {
    let mut rest = std::str::from_utf8(sql).ok()?.get(3..)?.trim_start();
    for mode in ["session ", "local "] {
        if rest.get(..mode.len()).is_some_and(|word| word.eq_ignore_ascii_case(mode)) {
            rest = rest.get(mode.len()..)?.trim_start();
        }
    }
    let end = rest.find(|c: char| c.is_ascii_whitespace() || c == '=').unwrap_or(rest.len());
    let name = rest.get(..end)?;
    let odd = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.' | '$' | '"');
    let quoted_in_part = name.matches('"').count() % 2 == 1;
    (!name.is_empty() && !name.contains(odd) && !quoted_in_part).then_some(name)
}

/// A literal that is a whole argument, with another one behind it.
fn literal(argument: &[u8]) -> Option<&[u8]> {
    let text = argument.strip_prefix(b"'")?;
    let end = memchr::memchr(b'\'', text)?;
    let (text, rest) = text.split_at_checked(end)?;
    rest.get(1..)?.trim_ascii_start().starts_with(b",").then_some(text)
}

/// More than so many nobody has.
const MAX_CUSTOMS: usize = 200;

/// Nor a longer name.
const MAX_NAME: usize = 255;

impl Customs {
    /// Looks at a statement that may set something.
    pub fn note(&mut self, tag: &str, sql: &[u8]) {
        if tag == "SET" {
            match set_name(sql) {
                Some(name) if name.contains('.') => self.add(&name.replace('"', "")),
                Some(_) => {}
                None => self.unseen = true,
            }
        }
        if !calls_set_config(sql) {
            return;
        }
        for at in memchr::memmem::find_iter(&sql.to_ascii_lowercase(), b"set_config") {
            let call = sql.get(at + b"set_config".len()..).unwrap_or_default().trim_ascii_start();
            let argument = call.strip_prefix(b"(").unwrap_or_default().trim_ascii_start();
            match literal(argument) {
                Some(name) if !name.contains(&b'.') => {}
                Some(name) => self.add(&String::from_utf8_lossy(name)),
                None => self.unseen = true,
            }
        }
    }

    fn add(&mut self, name: &str) {
        let plain = name.len() <= MAX_NAME
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$'));
        if !plain || self.names.len() >= MAX_CUSTOMS {
            self.unseen = true;
        } else if !name.to_ascii_lowercase().starts_with("pggit.") && self.names.iter().all(|known| **known != *name) {
            self.names.push(name.into());
        }
    }

    /// Whether a session has shown all it has.
    pub fn are_all_seen(&self) -> bool {
        !self.unseen
    }

    /// All of them as a `text[]`, the commit's message among them.
    fn array(&self) -> String {
        let mut array = "{pggit.message".to_owned();
        for name in &self.names {
            array.push(',');
            array.push_str(name);
        }
        array + "}"
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn noted(statements: &[(&str, &str)]) -> (String, bool) {
        let mut customs = Customs::default();
        statements.iter().for_each(|(tag, sql)| customs.note(tag, sql.as_bytes()));
        (customs.array(), customs.unseen)
    }

    #[test]
    fn names_of_custom_settings_are_seen_in_statements() {
        let all = [
            ("SET", "SET app.one = 'x'"),
            ("SET", "set session app.two='y'"),
            ("SET", "set local \"app\".three to 1"),
            ("SET", "set work_mem = '1.5GB'"),
            ("SET", "set app.one to default"),
            ("SET", "set session characteristics as transaction read only"),
            ("SET", "set time zone 'UTC'"),
            ("SELECT", "select set_config('app.four', $1, false), pg_catalog.SET_CONFIG ( 'work_mem', '', true)"),
            ("SET", "set pggit.message = 'a'"),
        ];
        assert_eq!(noted(&all), ("{pggit.message,app.one,app.two,app.three,app.four}".to_owned(), false));
        for call in ["name, ''", "'a.' || 'b', ''", "'a''.b', ''", "$1, ''", "E'a.b', ''"] {
            assert!(noted(&[("SELECT", &format!("select set_config({call}, false)"))]).1, "{call}");
        }
        for sql in ["set app.\u{e9} = 1", "set /* a */ app.one = 1", "set/**/app.one = 1", "set \"a b\".c = 1"] {
            assert!(noted(&[("SET", sql)]).1, "{sql}");
        }
    }

    #[test]
    fn a_row_is_read() {
        assert_eq!(
            three(b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\x00"),
            Some([Some(&b"a"[..]), None, Some(&b""[..])])
        );
        assert_eq!(three(b"\0\x02\0\0\0\x01a\0\0\0\x01b"), None);
        assert_eq!(three(b"\0\x03\0\0\0\x09a"), None);
    }
}
