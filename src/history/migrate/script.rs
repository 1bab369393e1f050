//! The way from one released version to another as plain SQL, for `psql -f`: the same steps as the runner's, with its log, its
//! backups and its table, so that either can go on from where the other stopped. All in one transaction.

use std::fmt::Write as _;

use sqlx::migrate::Migration;

use super::adopt::IMPORT;
use super::step::{self, BACK_UP, GIVE_BACK, LOG, SETTLE, Way};
use super::{LOCK, MIGRATOR, latest, ups};

/// Versions that were released before this one, oldest first, each with the newest step that it has.
const RELEASED: [(&str, i64); 0] = [];

/// A script and the name of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// `pggit--0.1.0.sql`: from nothing; `pggit--0.1.0--0.2.0.sql`: from one version to another; `pggit--0.1.0--0.sql`: to nothing.
    pub file: String,
    /// The text, for psql.
    pub sql: String,
}

/// Every version from nothing and to nothing, and the ways between neighbours.
pub fn scripts() -> Vec<Script> {
    let mut versions = RELEASED.to_vec();
    if !versions.iter().any(|(name, _)| *name == env!("CARGO_PKG_VERSION")) {
        versions.push((env!("CARGO_PKG_VERSION"), latest()));
    }
    let mut scripts = Vec::new();
    for (name, version) in &versions {
        scripts.push(Script { file: format!("pggit--{name}.sql"), sql: script("nothing", 0, name, *version) });
        scripts.push(Script { file: format!("pggit--{name}--0.sql"), sql: script(name, *version, "nothing", 0) });
    }
    for ((old, from), (new, to)) in versions.iter().zip(versions.iter().skip(1)) {
        scripts.push(Script { file: format!("pggit--{old}--{new}.sql"), sql: script(old, *from, new, *to) });
        scripts.push(Script { file: format!("pggit--{new}--{old}.sql"), sql: script(new, *to, old, *from) });
    }
    scripts
}

fn script(old: &str, from: i64, new: &str, to: i64) -> String {
    let mut sql = format!(
        "-- pggit-proxy: the schema pggit from {old} (step {from}) to {new} (step {to}).\n\
         -- Made from the migrations; does what `pggit-proxy migrate` does, which can go on from here.\n\
         --\n\
         --   psql -X -f THIS_FILE 'postgres://user@host/database'\n\
         --\n\
         -- One transaction: everything or nothing. Without event triggers: PGOPTIONS='-c pggit.capture=inject'.\n\
         \\set ON_ERROR_STOP on\n\
         BEGIN;\n\
         SET LOCAL client_min_messages = warning;\n\
         SET LOCAL client_encoding = 'UTF8';\n\
         SET LOCAL search_path = pg_catalog, pg_temp;\n\
         SET LOCAL lock_timeout = '10s';\n\
         SET LOCAL statement_timeout = 0;\n\
         \\o /dev/null\n\
         {};\n\
         {}\
         SELECT pg_catalog.set_config('pggit.migration', 'on', true);\n\
         CREATE SCHEMA IF NOT EXISTS pggit;\n\
         CREATE TABLE IF NOT EXISTS pggit.migrations (\n    version BIGINT PRIMARY KEY,\n    description TEXT NOT NULL,\n    \
         installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),\n    success BOOLEAN NOT NULL,\n    checksum BYTEA NOT NULL,\n    \
         execution_time BIGINT NOT NULL\n);\n{LOG}",
        LOCK.replace("pg_advisory_lock", "pg_advisory_xact_lock"),
        guard(old, from),
    );
    let known: Vec<&Migration> = ups().collect();
    let mut at = from;
    if from < to {
        for migration in known.iter().filter(|m| m.version > from && m.version <= to) {
            write_step(&mut sql, Way::Up, migration, at, migration.version, from > 0);
            at = migration.version;
        }
    } else {
        for migration in known.iter().rev().filter(|m| m.version > to && m.version <= from) {
            let below =
                known.iter().map(|m| m.version).filter(|version| *version < migration.version).max().unwrap_or(0);
            if let Some(down) = MIGRATOR.iter().find(|m| m.version == at && m.migration_type.is_down_migration()) {
                write_step(&mut sql, Way::Down, down, at, below, true);
            }
            at = below;
        }
    }
    sql.push_str("COMMIT;\n\\o\n");
    sql
}

/// The database must be exactly where the script begins, and at steps of the same text.
fn guard(old: &str, from: i64) -> String {
    let steps = ups().filter(|migration| migration.version <= from);
    let steps: Vec<String> =
        steps.map(|migration| format!("{} {}", migration.version, hex(&migration.checksum))).collect();
    format!(
        "DO $guard$\n\
         DECLARE\n    found text;\n\
         BEGIN\n    \
             IF to_regclass('pggit.migrations') IS NOT NULL THEN\n        \
                 SELECT string_agg(m.version || ' ' || encode(m.checksum, 'hex'), E'\\n' ORDER BY m.version) INTO found FROM pggit.migrations m;\n    \
             ELSIF EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_namespace'::regclass\n                  \
                           AND d.refobjid = to_regnamespace('pggit') AND d.classid <> 'pg_default_acl'::regclass) THEN\n        \
                 RAISE EXCEPTION 'there is a schema pggit that pggit-proxy did not make: it is left as it is';\n    \
             END IF;\n    \
             IF coalesce(found, '') <> '{}' THEN\n        \
                 RAISE EXCEPTION 'the schema pggit of this database is not {old}: see pggit-proxy migrate status';\n    \
             END IF;\n\
         END\n$guard$;\n",
        steps.join("\n")
    )
}

fn write_step(sql: &mut String, way: Way, migration: &Migration, from: i64, to: i64, back_up: bool) {
    let (version, name) = (migration.version, migration.description.replace('\'', "''"));
    let tables = if back_up { step::changed(migration.sql.as_str()) } else { Vec::new() };
    let rule = "-".repeat(120);
    // Writing to a String cannot fail.
    let _ = write!(
        sql,
        "\n{rule}\n-- {from} -> {to}: {name}\n{rule}\n\n\
         WITH step AS (\n    \
             INSERT INTO pggit.upgrade_log (from_version, to_version, program) VALUES ({from}, {to}, '{program}') RETURNING upgrade_id\n\
         )\n\
         SELECT pg_catalog.set_config('pggit.migration', 'on', true), pg_catalog.set_config('pggit.upgrade_id', step.upgrade_id::text, true),\n       \
             pg_catalog.set_config('pggit.upgrade_version', '{version}', true),\n       \
             pg_catalog.set_config('pggit.upgrade_tables', '{{{tables}}}', true)\n  FROM step;\n{BACK_UP}",
        program = env!("CARGO_PKG_VERSION"),
        tables = tables.join(","),
    );
    sql.push_str(migration.sql.as_str());
    let _ = match way {
        Way::Up => write!(
            sql,
            "\n{GIVE_BACK}{IMPORT}INSERT INTO pggit.migrations (version, description, success, checksum, execution_time)\n\
             VALUES ({version}, '{name}', true, '\\x{}', -1);\n",
            hex(&migration.checksum)
        ),
        Way::Down => write!(
            sql,
            "\n{SETTLE}DELETE FROM pggit.migrations WHERE version = {version};\n{};\n",
            step::TAKEN_BACK.replace("$1", &version.to_string())
        ),
    };
    sql.push_str(
        "UPDATE pggit.upgrade_log SET status = 'completed', completed_at = pg_catalog.clock_timestamp()\n \
         WHERE upgrade_id = pg_catalog.current_setting('pggit.upgrade_id')::bigint;\n",
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_version_comes_from_nothing_and_goes_back() {
        let files: Vec<String> = scripts().into_iter().map(|script| script.file).collect();
        let name = env!("CARGO_PKG_VERSION");
        assert!(
            files.contains(&format!("pggit--{name}.sql")) && files.contains(&format!("pggit--{name}--0.sql")),
            "{files:?}"
        );
    }

    #[test]
    fn released_versions_have_steps_that_are_there() {
        assert!(RELEASED.iter().all(|(_, version)| ups().any(|migration| migration.version == *version)));
        assert!(RELEASED.is_sorted_by_key(|(_, version)| *version));
    }
}
