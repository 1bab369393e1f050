//! Companions: calls of `pggit.companion` that travel with a client's statement, in its transaction, and record what no
//! event trigger reports. The client sees nothing of them. They also bound how long a schema change waits for locks, where its
//! branch says so, and note that a statement is a change request that was approved.
//!
//! In a Query they stand in the text: one behind the statement and, where it may drop something, one before it, which
//! notes what is there. In the extended protocol they are messages behind the client's Execute (or around it), within the
//! client's own Sync; they use names of their own, so that its unnamed statement and portal stay.
//!
//! Each is signed with the database's key and holds its statement's id, so that nobody else can record anything.

use std::ops::Range;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::change::{Capture, Key, Means, Noted, SessionFacts};
use crate::sql::{Class, Statement};
use crate::wire::error;
use crate::wire::frame::{self, HEADER};

/// The companions of one statement.
pub(super) struct Companions {
    /// The call in front of the statement, where it needs one.
    pub before: Option<Call>,
    /// The call behind it.
    pub after: Call,
}

/// One call: what it says, and the proof that the proxy says it.
pub(super) struct Call {
    payload: String,
    signature: String,
}

impl Companions {
    /// Those that the statement needs; `id` is its key in `pggit.statements`, `text` the Query that they will stand in, `wait` how
    /// long it may wait for locks if its session does not say, `request` the approved change request that it is.
    pub fn of(
        statement: &Statement,
        means: &Means,
        session: &SessionFacts,
        id: Uuid,
        text: &[u8],
        wait: Option<Duration>,
        request: Option<&Noted>,
    ) -> Option<Self> {
        if !takes_calls(statement) {
            return None;
        }
        let records = match means.capture {
            Capture::Trigger => statement.is_untriggered(),
            Capture::Inject => matches!(statement.class, Class::Ddl | Class::Role) || statement.is_untriggered(),
        };
        let wait = wait.filter(|_| statement.class == Class::Ddl);
        if !records && wait.is_none() && request.is_none() {
            return None;
        }
        let notes = match means.capture {
            Capture::Trigger => statement.is_untriggered() && statement.action == Some("drop"),
            Capture::Inject => statement.may_drop() || statement.action == Some("drop"),
        };
        let task = Task { records, notes, wait, request };
        let call = |phase, told| Call::new(phase, &task, statement, means, session, id, told);
        let before = notes || wait.is_some() || request.is_some();
        Some(Self {
            before: before.then(|| call("before", None)),
            after: call("after", told(text).filter(|_| records)),
        })
    }
}

/// Whether calls may stand around a statement at all: they need its transaction.
pub(super) fn takes_calls(statement: &Statement) -> bool {
    statement.parsed && statement.transactional && !statement.temporary
}

/// What the calls of one statement are for.
struct Task<'a> {
    records: bool,
    /// Notes what is there, and may be dropped.
    notes: bool,
    /// Bounds how long it waits for locks.
    wait: Option<Duration>,
    /// Notes that it is this change request.
    request: Option<&'a Noted>,
}

impl Call {
    fn new(
        phase: &str,
        task: &Task<'_>,
        statement: &Statement,
        means: &Means,
        session: &SessionFacts,
        id: Uuid,
        told: Option<&str>,
    ) -> Self {
        let objects: Vec<Value> = statement.objects.iter().map(|object| json!([object.schema, object.name])).collect();
        let mut payload = json!({
            "phase": phase,
            "capture": means.capture.as_str(),
            "session": session.id.to_string(),
            "statement": id.to_string(),
            "tag": statement.tag,
            "action": statement.action,
            "type": statement.object_type,
            "objects": objects,
            "renamed_to": statement.renamed_to,
            "query": told,
        });
        if task.wait.is_some() || task.request.is_some() {
            payload["records"] = task.records.into();
            payload["notes"] = task.notes.into();
        }
        if let Some(wait) = task.wait {
            payload["lock_timeout"] = format!("{}ms", wait.as_millis()).into();
        }
        if let Some(request) = task.request {
            payload["request"] = request.id.to_string().into();
            payload["message"] = request.message().into();
        }
        let payload = in_ascii(&payload.to_string());
        let signature = sign(&means.key, payload.as_bytes());
        Self { payload, signature }
    }

    /// The call as a statement of its own, in any client encoding and with any setting of the server's lexer.
    fn statement(&self) -> String {
        format!("CALL pggit.companion($pggit${}$pggit$, '{}', NULL)", self.payload, self.signature)
    }

    /// The messages of a call in the extended protocol, and how many answers they are owed. `number` makes their names
    /// new in the session: after an error the server skips the Close, and the name stays taken.
    pub fn messages(&self, number: u32, sql: &str, out: &mut Vec<u8>) -> usize {
        let name = format!("pggit:companion:{number}\0");
        let name = name.as_bytes();
        frame::put(out, b'P', |body| {
            body.extend_from_slice(name);
            body.extend_from_slice(b"CALL pggit.companion($1, $2, $3)\0");
            body.extend_from_slice(&3u16.to_be_bytes());
            body.extend_from_slice(&[TEXT.to_be_bytes(), TEXT.to_be_bytes(), TEXT.to_be_bytes()].concat());
        });
        frame::put(out, b'B', |body| {
            body.extend_from_slice(name);
            body.extend_from_slice(name);
            body.extend_from_slice(&0u16.to_be_bytes());
            body.extend_from_slice(&3u16.to_be_bytes());
            for value in [&self.payload, &self.signature, &readable(sql)] {
                body.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
                body.extend_from_slice(value.as_bytes());
            }
            body.extend_from_slice(&0u16.to_be_bytes());
        });
        frame::put(out, b'E', |body| {
            body.extend_from_slice(name);
            body.extend_from_slice(&0u32.to_be_bytes());
        });
        for kind in [b'P', b'S'] {
            frame::put(out, b'C', |body| {
                body.push(kind);
                body.extend_from_slice(name);
            });
        }
        5
    }
}

/// The calls before and behind a statement that the recorder runs itself, as statements of their own, where it needs any.
pub fn recording_calls(
    statement: &Statement,
    means: &Means,
    session: &SessionFacts,
    id: Uuid,
) -> Option<(Option<String>, Option<String>)> {
    let calls = Companions::of(statement, means, session, id, b"", None, None)?;
    Some((calls.before.map(|call| call.statement()), Some(calls.after.statement())))
}

/// The client's text, for the call to keep, where that is cheaper than to let the server take the calls out of its own copy of
/// it, and sure to read the same in any encoding.
fn told(text: &[u8]) -> Option<&str> {
    const SHORT: usize = 1024;
    let short = !text.is_empty() && text.len() <= SHORT && text.is_ascii();
    if short { std::str::from_utf8(text).ok() } else { None }
}

/// The type `text`, in every database.
const TEXT: u32 = 25;

/// A client's text with companions in it.
#[derive(Debug, Default)]
pub(super) struct Edits {
    /// Where in the client's text, and what; in order.
    inserted: Vec<(usize, String)>,
}

impl Edits {
    pub fn is_empty(&self) -> bool {
        self.inserted.is_empty()
    }

    /// Puts the companions round the statement at `range`.
    pub fn accompany(&mut self, range: &Range<usize>, companions: &Companions) {
        if let Some(before) = &companions.before {
            self.inserted.push((range.start, format!("{};", before.statement())));
        }
        // The statement may end in a comment that ends with its line.
        self.inserted.push((range.end, format!("\n;{}", companions.after.statement())));
    }

    /// The text for the server.
    pub fn apply(&self, text: &[u8]) -> Vec<u8> {
        let added: usize = self.inserted.iter().map(|(_, call)| call.len()).sum();
        let mut out = Vec::with_capacity(text.len() + added);
        let mut from = 0;
        for (at, call) in &self.inserted {
            out.extend_from_slice(text.get(from..*at).unwrap_or_default());
            out.extend_from_slice(call.as_bytes());
            from = *at;
        }
        out.extend_from_slice(text.get(from..).unwrap_or_default());
        out
    }

    /// Where a place in the client's text lies in the server's.
    pub fn place(&self, at: usize) -> usize {
        at + self.inserted.iter().take_while(|(place, _)| *place <= at).map(|(_, call)| call.len()).sum::<usize>()
    }

    /// How to bring positions in the server's errors back to the client's text.
    pub fn shifts(&self, text: &[u8]) -> Shifts {
        let mut shifts = Vec::with_capacity(self.inserted.len());
        let mut added = 0;
        for (at, call) in &self.inserted {
            shifts.push((characters(text.get(..*at).unwrap_or_default()) + added, call.len()));
            added += call.len();
        }
        Shifts(shifts)
    }
}

/// Where in a text, in characters, how many were inserted.
#[derive(Debug, Default)]
pub(super) struct Shifts(Vec<(usize, usize)>);

impl Shifts {
    /// The place in the client's text of the server's position (from 1).
    pub fn back(&self, position: usize) -> usize {
        let before = self.0.iter().take_while(|(at, _)| *at < position);
        position - before.map(|(at, inserted)| (*inserted).min(position - 1 - at)).sum::<usize>()
    }
}

impl Shifts {
    /// The error with the client's position in place of the server's, where that is another one.
    pub fn rewrite(&self, body: &[u8]) -> Option<Vec<u8>> {
        if self.0.is_empty() {
            return None;
        }
        let there: usize = std::str::from_utf8(error::field(body, b'P')?).ok()?.parse().ok()?;
        let here = self.back(there);
        if here == there {
            return None;
        }
        let mut out = Vec::with_capacity(HEADER + body.len());
        frame::put(&mut out, b'E', |new| {
            for (code, text) in error::fields(body) {
                new.push(code);
                if code == b'P' {
                    new.extend_from_slice(here.to_string().as_bytes())
                } else {
                    new.extend_from_slice(text)
                }
                new.push(0);
            }
            new.push(0);
        });
        Some(out)
    }
}

/// Positions count characters. A text that is not UTF-8 is taken for one of single bytes.
fn characters(text: &[u8]) -> usize {
    std::str::from_utf8(text).map_or(text.len(), |text| text.chars().count())
}

/// What the text is in an encoding that the proxy may not know: as it came if that is sure, else with question marks.
fn readable(sql: &str) -> String {
    if sql.contains(['\u{FFFD}', '…']) {
        return sql.chars().map(|character| if character.is_ascii() { character } else { '?' }).collect();
    }
    sql.to_owned()
}

/// JSON in plain ASCII, without dollar signs: fits into every encoding, and between dollar quotes. And without single quotes:
/// where the client's text is in it, the server must not find a function's body there, too, when it looks for the place of
/// an error.
fn in_ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() && !matches!(character, '$' | '\'') {
            out.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out
}

/// `sha256(outer key || sha256(inner key || payload))`, in hex; `pggit.companion` computes the same.
/// As the database signs and verifies.
pub(super) fn sign(Key(key): &Key, payload: &[u8]) -> String {
    let (inner, outer) = key.split_at(32);
    let inside = Sha256::new().chain_update(inner).chain_update(payload).finalize();
    let outside = Sha256::new().chain_update(outer).chain_update(inside).finalize();
    outside.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn edits(inserted: &[(usize, &str)]) -> Edits {
        Edits { inserted: inserted.iter().map(|(at, call)| (*at, (*call).to_owned())).collect() }
    }

    #[test]
    fn positions_come_back_to_the_clients_text() {
        let text = "drop é; select x".as_bytes();
        let edits = edits(&[(0, "AAA;"), (7, "\n;BBB")]);
        let server = edits.apply(text);
        assert_eq!(String::from_utf8_lossy(&server), "AAA;drop é\n;BBB; select x");
        let shifts = edits.shifts(text);
        let client: Vec<char> = String::from_utf8(text.to_vec()).unwrap().chars().collect();
        let sent: Vec<char> = String::from_utf8(server).unwrap().chars().collect();
        for (at, character) in client.iter().enumerate() {
            let there = sent.iter().position(|other| other == character).unwrap();
            if character.is_alphabetic() && client.iter().filter(|other| *other == character).count() == 1 {
                assert_eq!(shifts.back(there + 1), at + 1, "{character}");
            }
        }
        // A position within a companion is the place where it stands.
        assert_eq!(shifts.back(2), 1);
    }

    #[test]
    fn places_move_behind_what_was_inserted() {
        let edits = edits(&[(0, "AAA;"), (6, "\n;BBB")]);
        assert_eq!((edits.place(0), edits.place(3), edits.place(8)), (4, 7, 17));
    }

    #[test]
    fn a_payload_fits_into_any_quotes_and_encoding() {
        assert_eq!(in_ascii("\"é$pggit$'😀\""), "\"\\u00e9\\u0024pggit\\u0024\\u0027\\ud83d\\ude00\"");
    }
}
