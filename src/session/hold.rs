//! A session that gives its server process up while its branch is copied, and goes on with another one on the same branch: the
//! client is not to notice.
//!
//! The driver asks for what the session has on its server ([`Session::ask_for_belongings`]), while nothing is under way. Where
//! nothing would be lost ([`Session::belongings`]) it logs in again after the copy, and the new [`Session`] goes on where the old
//! one stood ([`Session::come_back`]).

use std::time::Instant;

use super::Session;
use super::look::At;
use crate::change::Belongings;
use crate::wire::frame;

/// What the server has told the client of its parameters, those that only some versions tell of among them; and the statements
/// that were prepared by messages. Of one that SQL prepared the server may have more text than its own.
/// <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC>
pub(super) const OWN: &str = "UNION ALL SELECT n.n, pg_catalog.current_setting(n.n, true), 'told' FROM pg_catalog.unnest( \
     '{application_name,client_encoding,DateStyle,default_transaction_read_only,in_hot_standby,integer_datetimes,IntervalStyle,\
       is_superuser,scram_iterations,search_path,server_encoding,server_version,session_authorization,\
       standard_conforming_strings,TimeZone}'::pg_catalog.text[]) n(n) \
     UNION ALL SELECT p.parameter_types::pg_catalog.oid[]::pg_catalog.text OPERATOR(pg_catalog.||) p.name, p.statement, 'statement' \
     FROM pg_catalog.pg_prepared_statements p WHERE NOT p.from_sql AND NOT pg_catalog.starts_with(p.name, 'pggit:') \
     UNION ALL SELECT 'the statement \"' OPERATOR(pg_catalog.||) p.name OPERATOR(pg_catalog.||) '\" of PREPARE', '', 'tie' \
     FROM pg_catalog.pg_prepared_statements p WHERE p.from_sql";

impl Session {
    /// The messages that ask the server; once they are answered, [`Session::belongings`] tells. An error is the reason why the
    /// session stays where it is.
    pub fn ask_for_belongings(&mut self, now: Instant) -> Result<Vec<u8>, &'static str> {
        if self.replication {
            return Err("it is a replication connection");
        }
        if !self.customs.are_all_seen() {
            return Err("it may have settings whose names only its statements' functions know");
        }
        self.unnamed.parse()?;
        Ok(self.look_at(At::Belongings, now))
    }

    /// What the session has, or why it stays where it is.
    pub fn belongings(&mut self) -> Result<Belongings, String> {
        let found = match self.looked() {
            Some(Ok(found)) => found,
            Some(Err(reason)) => return Err(format!("its settings cannot be read ({reason})")),
            None => return Err("its settings cannot be read".to_owned()),
        };
        match found.tie {
            Some(tie) => Err(format!("it has {tie}, which would be lost")),
            None => Ok(Belongings {
                carried: found.carried,
                told: found.told,
                statements: found.statements,
                unnamed: self.unnamed.parse()?.to_owned(),
            }),
        }
    }

    /// Takes over from the session that had another server process on the same branch.
    pub fn come_back(&mut self, other: &mut Session) {
        self.take_over(other);
        self.unnamed = std::mem::take(&mut other.unnamed);
        self.statements = std::mem::take(&mut other.statements);
    }
}

/// The Parse of a statement that the server knows: the numbers of its parameters' types and its name, `{23,25}name`, and its text.
pub(super) fn parse(types_and_name: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    let at = memchr::memchr(b'}', types_and_name)?;
    let (types, name) = (std::str::from_utf8(types_and_name.get(1..at)?).ok()?, types_and_name.get(at + 1..)?);
    let types = types.split(',').filter(|oid| !oid.is_empty()).map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
    let count = u16::try_from(types.len()).ok()?;
    let mut out = Vec::new();
    frame::put(&mut out, b'P', |body| {
        body.extend_from_slice(name);
        body.push(0);
        body.extend_from_slice(text);
        body.push(0);
        body.extend_from_slice(&count.to_be_bytes());
        types.iter().for_each(|oid| body.extend_from_slice(&oid.to_be_bytes()));
    });
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_prepared_as_the_server_knows_it() {
        let made = b"P\0\0\0\x19a}b\0select\0\0\x02\0\0\0\x17\0\0\x04\x13";
        assert_eq!(parse(b"{23,1043}a}b", b"select").as_deref(), Some(&made[..]));
        assert_eq!(parse(b"{}s", b"x").as_deref(), Some(&b"P\0\0\0\x0as\0x\0\0\0"[..]));
        assert_eq!(parse(b"s", b"x"), None);
    }
}
