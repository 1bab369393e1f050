#!/usr/bin/env bash
# docs/operations/DISASTER_RECOVERY.md: somebody dropped a table.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/operations/lib.sh
source tests/operations/lib.sh
begin BACKUP_RESTORE.md
own_server db
step archive
lived_in
step base-backup
page=docs/operations/DISASTER_RECOVERY.md

through -c "INSERT INTO customers VALUES (1001, 'the last one')"
through -c "DROP TABLE customers CASCADE"
through -c "CREATE TABLE later (a int)" -c "INSERT INTO later VALUES (1)"
lap
export TABLE=public.customers
step who-dropped-it
grep -q "ann.*psql.*127.0.0.1.*DROP TABLE customers CASCADE" "$work/step.log" || fail "who dropped it: $(cat "$work/step.log")"
measured "operator error: who it was is found"
expect "what went with it" "$(ask "SELECT string_agg(object_identity, ' ' ORDER BY object_identity) FROM pggit.history WHERE commit_id = (SELECT commit_id FROM pggit.history WHERE change_type = 'DROP' AND object_identity = '$TABLE')")" \
    "public.customers public.customers_pkey public.known"
expect "the definition" "$(ask "SELECT old_definition LIKE 'CREATE TABLE public.customers (%email text%' FROM pggit.history WHERE change_type = 'DROP' AND object_identity = '$TABLE'")" t

XID=$(ask "SELECT xid::xid FROM pggit.history WHERE change_type = 'DROP' AND object_identity = '$TABLE'")
export XID OBJECTS="--table=public.customers --table=public.known"
beside
step table-back
measured "operator error: the table with its rows is back"
step beside-away
expect "rows" "$(through -c "SELECT count(*) || ' ' || max(name) FROM customers WHERE id IN (1, 1001)")" "2 the last one"
expect "the view" "$(through -c "SELECT count(*) FROM known")" 1001
expect "what came later" "$(through -c "SELECT count(*) FROM later")" 1
observed "operator error: rows lost" 0
# pg_dump's script makes it, then gives it its owner and its key.
history_has public.customers "CREATE ALTER DROP CREATE ALTER ALTER"
until_sealed
verified
