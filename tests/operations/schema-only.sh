#!/usr/bin/env bash
# docs/operations/BACKUP_RESTORE.md, schema only: now and as it was, into an empty database.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/operations/lib.sh
source tests/operations/lib.sh
begin BACKUP_RESTORE.md
own_server db
lived_in
WHEN=$(ask "SELECT clock_timestamp()")
export WHEN SCRIPT
through -c "ALTER TABLE customers DROP COLUMN email CASCADE" -c "GRANT SELECT ON known TO PUBLIC"
step schema-as-it-was
step schema-from-pg-dump

tables="SELECT string_agg(c.relname || '.' || a.attname, ' ' ORDER BY 1) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
tables=${tables/ORDER BY 1/ORDER BY relname, attnum}
restored() { # restored FILE COLUMNS GRANTED
    SCRIPT=$BACKUPS/$1
    step restore-schema
    expect "$1: columns" "$(DATABASE=fresh ask "$tables")" "$2"
    expect "$1: rows" "$(DATABASE=fresh ask "SELECT count(*) FROM customers")" 0
    expect "$1: grants" "$(DATABASE=fresh ask "SELECT has_table_privilege('auditor', 'known', 'SELECT')")" "$3"
    expect "$1: owner" "$(DATABASE=fresh ask "SELECT relowner::regrole FROM pg_class WHERE oid = 'customers'::regclass")" ann
    expect "$1: the history begins" "$(DATABASE=fresh ask "SELECT string_agg(DISTINCT change_type, ' ') FROM pggit.history")" BASELINE
    expect "$1: event triggers" "$(DATABASE=fresh ask "SELECT count(*) FROM pg_event_trigger")" 3
    direct -d postgres -c "DROP DATABASE fresh"
}
direct -d postgres -c "CREATE ROLE auditor"
restored schema-now.sql "customers.id customers.name known.id known.name" f
restored schema-then.sql "customers.id customers.name customers.email known.id known.name" f
restored schema-only.sql "customers.id customers.name known.id known.name" t
