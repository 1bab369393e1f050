#!/usr/bin/env bash
# docs/operations/DISASTER_RECOVERY.md: the history was tampered with.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/operations/lib.sh
source tests/operations/lib.sh
begin BACKUP_RESTORE.md
own_server db
step archive
lived_in
step base-backup
page=docs/operations/DISASTER_RECOVERY.md

through -c "CREATE TABLE secret (a int)"
until_sealed
WHEN=$(ask "SELECT clock_timestamp()")
export WHEN
# By a superuser who goes round the proxy: one row edited, one deleted, one seal edited.
direct -d app -c "UPDATE pggit.changes SET created_by = 'somebody else' WHERE object_identity = 'public.secret'" \
    -c "DELETE FROM pggit.changes WHERE object_identity = 'public.known'" -c "UPDATE pggit.seals SET author = 'nobody' WHERE seq = 2"
through -c "CREATE TABLE later (a int)"
until_sealed
# The probe misses the deleted row, too, and writes down what is there.
until_is 1 "SELECT count(*) FROM pggit.history WHERE captured_by = 'probe' AND object_identity = 'public.known'"
lap
! pggit-proxy verify > "$work/verify.log" 2>&1 || fail "nothing was noticed"
measured "corruption: verify names the rows"
expect "problems" "$(cut -d, -f1 "$work/verify.log" | grep -E '^(edited|deleted|inserted|not sealed|rewritten)$' | sort | xargs)" "deleted edited edited"
COMMITS=$(sed -n "s/^.*, commit \([0-9a-f-]*\)[,:].*/'\1'/p" "$work/verify.log" | paste -sd,)
export COMMITS
beside
step history-rows-back
measured "corruption: the rows are back, and verified"
step beside-away
expect "who it was" "$(ask "SELECT created_by FROM pggit.history WHERE object_identity = 'public.secret'")" ann
history_has public.known "CREATE ALTER"
history_has public.later CREATE
through -c "DROP VIEW known"
until_sealed
verified
