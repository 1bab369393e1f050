#!/usr/bin/env bash
# docs/operations/DISASTER_RECOVERY.md: the schema pggit was dropped.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/operations/lib.sh
source tests/operations/lib.sh
begin BACKUP_RESTORE.md
own_server db
step archive
lived_in
step base-backup
page=docs/operations/DISASTER_RECOVERY.md
through -c "CREATE TABLE late (a int)"
until_sealed
head=$(head_hash)
until_ready 200
WHEN=$(ask "SELECT clock_timestamp()")
export WHEN

! psql -X -q -h 127.0.0.1 -p "$proxy_port" -U postgres app -c "DROP SCHEMA pggit CASCADE" > "$work/refused.log" 2>&1 || fail "the proxy let it pass"
lap
direct -d app -c "SET client_min_messages = error" -c "DROP SCHEMA pggit CASCADE"
until_ready 503
measured "dropped schema: /readyz tells"
# Changes are refused from the next look at the branch on; before, one would pass, and the probe would find it.
end=$((SECONDS + 60))
until readyz > /dev/null && grep -q "on branch main" "$work/readyz"; do
    [ $SECONDS -lt $end ] || fail "/readyz: $(cat "$work/readyz")"
    sleep 0.1
done
! through -v VERBOSITY=verbose -c "CREATE TABLE never (a int)" 2> "$work/refused.log" || fail "a change passed that nobody records"
grep -q PG003 "$work/refused.log" || fail "another reason: $(cat "$work/refused.log")"
expect "plain traffic" "$(through -c "SELECT count(*) FROM customers")" 1000
# Round the proxy nobody is kept from it.
direct -d app -c "SET ROLE ann" -c "CREATE TABLE meanwhile (a int)"

lap
beside
step schema-pggit-back
until_through "CREATE TABLE afterwards (a int)" > /dev/null
measured "dropped schema: from a backup to the first recorded change"
step beside-away
history_has public.customers "CREATE ALTER"
history_has public.late CREATE
history_has public.afterwards CREATE
until_ready 200
until_sealed
verified --expect "$head"
until_is "CREATE probe" "SELECT change_type || ' ' || captured_by FROM pggit.history WHERE object_identity = 'public.meanwhile'"
observed "dropped schema: changes that nobody is named for" "those between the drop and the repair"

# Without a backup.
direct -d app -c "SET client_min_messages = error" -c "DROP SCHEMA pggit CASCADE"
until_ready 503
lap
step begin-anew
until_through "CREATE TABLE anew (a int)" > /dev/null
measured "dropped schema: without a backup, to the first recorded change"
history_has public.customers BASELINE
history_has public.anew CREATE
until_sealed
verified
