#!/usr/bin/env bash
# docs/operations/DISASTER_RECOVERY.md: the server is lost with its disk, and there is no standby.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/operations/lib.sh
source tests/operations/lib.sh
begin BACKUP_RESTORE.md
own_server db
step archive
lived_in
step base-backup
page=docs/operations/DISASTER_RECOVERY.md
through -c "CREATE TABLE archived (a int)"
until_sealed
head=$(head_hash)
# As after archive_timeout.
segment=$(ask "SELECT pg_walfile_name(pg_switch_wal())")
until_is t "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver"
through -c "CREATE TABLE not_archived (a int)"

lap
lose_server
step restore-everything
until_ready 200
until_through "CREATE TABLE afterwards (a int)" > /dev/null
measured "no standby: from the loss to the first recorded change"
expect "catalogs" "$(ask "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")" "afterwards archived customers"
observed "no standby: changes lost" "1, behind the last archived segment"
history_has public.archived CREATE
history_has public.not_archived ""
history_has public.afterwards CREATE
until_sealed
verified --expect "$head"
