#!/usr/bin/env bash
# docs/operations/BACKUP_RESTORE.md, dump: a repository with a branch goes to a new server.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/operations/lib.sh
source tests/operations/lib.sh
begin BACKUP_RESTORE.md
own_server old
lived_in
# So many that oids of a new server would be among theirs.
direct -d app -c "DO 'BEGIN FOR i IN 1..300 LOOP EXECUTE format(''CREATE TABLE many_%s (a int)'', i); END LOOP; END'"
through -c "CREATE TABLE narrowed (a int, b int, c int)" -c "ALTER TABLE narrowed DROP COLUMN a"
direct -d app -c "CREATE ROLE auditor" -c "GRANT SELECT ON known TO auditor" -c "GRANT pggit_reader TO auditor"
pggit-proxy branch create feature/x --from main --pg-dump "$(command -v pg_dump)"
until_through "SELECT 1" > /dev/null
PGOPTIONS="-c pggit.branch=feature/x" through -c "ALTER TABLE customers ADD phone text"
branch=$(ask "SELECT database FROM pggit.branches WHERE name = 'feature/x'")
until_sealed
rows() { # what there is to compare, of both databases; oids are others
    local database
    for database in app "$branch"; do
        direct -At -d "$database" -c "SELECT to_jsonb(c) FROM pggit.changes c ORDER BY id" -c "SELECT to_jsonb(s) FROM pggit.seals s ORDER BY seq" \
            -c "SELECT id, change_type, change_severity, old_definition, new_definition FROM pggit.history ORDER BY id" \
            -c "SELECT evtname, evtenabled, evtfoid::regproc, evtowner::regrole FROM pg_event_trigger ORDER BY 1" \
            -c "SELECT datdba::regrole, datname FROM pg_database WHERE datname = current_database()" \
            -c "SELECT relname, relowner::regrole, coalesce(relacl, acldefault('r', relowner)) FROM pg_class WHERE relnamespace IN ('public'::regnamespace, 'pggit'::regnamespace) ORDER BY 1"
    done
}
DATABASE=$branch until_sealed
rows > "$work/before"
lap
step dump
measured "dump of two databases"

kill "${proxies[-1]}"
wait "${proxies[-1]}" || true
as_server_user pg_ctl -D "$DATA" -s -m fast stop
DATA=$work/new
lap
step restore-dump-in-a-new-server
as_server_user tee -a "$DATA/postgresql.conf" > /dev/null << END
listen_addresses = '127.0.0.1'
unix_socket_directories = '$work'
fsync = off
max_prepared_transactions = 10
END
servers+=("$(server_bin "$major") $DATA")
start_own
step restore-dump
step restore-origins
start_proxy new app
until_ready 200 new
until_through "SELECT count(*) FROM customers" > /dev/null
measured "restore of the dump: from an empty directory to the first client"
step check-restored

rows > "$work/after"
cmp "$work/before" "$work/after" || { diff "$work/before" "$work/after" | head -20 >&2; fail "something else was restored"; }
# No object got the number of another one in the history.
strangers="SELECT count(*) FROM pg_class c JOIN pggit.changes k ON k.classid = 'pg_class'::regclass AND k.objid = c.oid"
expect "numbers that the history has for others" "$(ask "$strangers")" 0

through -c "ALTER TABLE customers ADD country text" -c "ALTER TABLE customers RENAME TO clients" -c "DROP VIEW known"
PGOPTIONS="-c pggit.branch=feature/x" through -c "ALTER TABLE customers ADD fax text"
until_sealed
expect "the past of a dropped view" "$(ask "SELECT old_definition LIKE 'CREATE VIEW public.known%' FROM pggit.history WHERE change_type = 'DROP' AND object_identity = 'public.known'")" t
expect "the past of a changed table" "$(ask "SELECT old_definition LIKE '%email text%' AND old_definition NOT LIKE '%country%' FROM pggit.history WHERE object_identity = 'public.customers' ORDER BY created_at DESC LIMIT 1")" t
expect "the branch's history" "$(direct -At -d "$branch" -c "SELECT string_agg(change_type, ' ' ORDER BY created_at) FROM pggit.history WHERE object_identity = 'public.customers'")" "CREATE ALTER ALTER ALTER"
history_has public.clients RENAME
# On the branch: made with it, added on main, added on the branch, added after the restore.
expect "who touched which column" "$(direct -At -d "$branch" -c "SELECT count(DISTINCT commit_id) FROM pggit.blame('customers') WHERE commit_id IS NOT NULL")" 4
# Of a table that had dropped columns nothing false is said.
expect "who touched columns with other numbers" "$(ask "SELECT count(*) FROM pggit.blame('narrowed') WHERE commit_id IS NOT NULL")" 0
expect "what the probe found" "$(ask "SELECT count(*) FROM pggit.history WHERE captured_by = 'probe'")" 0
verified
verified --database-url "${PGGIT_DATABASE_URL%/*}/$branch"
