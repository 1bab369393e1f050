#!/usr/bin/env bash
# docs/operations/BACKUP_RESTORE.md, base backup and archive: back to a moment, under a proxy that goes on running.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/operations/lib.sh
source tests/operations/lib.sh
begin BACKUP_RESTORE.md
own_server db
step archive
lived_in
lap
step base-backup
measured "base backup, checked"

through -c "CREATE TABLE kept (a int)" -c "INSERT INTO kept VALUES (1)"
until_sealed
WHEN=$(ask "SELECT clock_timestamp()")
export WHEN
# The mistake.
through -c "ALTER TABLE customers DROP COLUMN email" -c "CREATE TABLE too_late (a int)" -c "DROP TABLE kept"
until_sealed
history_has public.kept "CREATE DROP"

lap
step restore-to-a-moment
until_ready 200
until_through "SELECT count(*) FROM customers" > /dev/null
measured "back to a moment: from the stop to the first client"
step check-restored

expect "catalogs" "$(ask "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')")" "customers kept known"
expect "the dropped column" "$(ask "SELECT count(*) FROM pg_attribute WHERE attrelid = 'customers'::regclass AND attname = 'email' AND NOT attisdropped")" 1
history_has public.kept CREATE
history_has public.too_late ""
history_has public.customers "CREATE ALTER"
expect "changes after the moment" "$(ask "SELECT count(*) FROM pggit.history WHERE created_at > '$WHEN'")" 0
expect "rows" "$(through -c "SELECT count(*) FROM customers")" 1000

# It goes on from there, recorded by the same proxy, sealed, and without a word of what was undone.
through -c "CREATE TABLE afterwards (a int)"
until_sealed
history_has public.afterwards CREATE
expect "recorded by" "$(ask "SELECT captured_by || ' ' || via_proxy FROM pggit.history WHERE object_identity = 'public.afterwards'")" "trigger true"
expect "what the probe found" "$(ask "SELECT count(*) FROM pggit.history WHERE captured_by = 'probe'")" 0
verified
