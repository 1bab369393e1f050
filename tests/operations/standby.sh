#!/usr/bin/env bash
# docs/operations/DISASTER_RECOVERY.md: the server is lost, a standby is there, under a proxy that knows both.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/operations/lib.sh
source tests/operations/lib.sh
begin DISASTER_RECOVERY.md
own_server primary
direct -d postgres -c "CREATE ROLE ann LOGIN" -c "CREATE DATABASE app OWNER ann"
migrate app
primary=$DATA primary_port=$PGPORT
as_server_user pg_basebackup -D "$work/standby" --checkpoint=fast -R
servers+=("$(server_bin "$major") $work/standby")
DATA=$work/standby
start_own
standby_port=$PGPORT
# From now on a commit is told of when the standby has it.
PGPORT=$primary_port server_port=$primary_port
direct -d postgres -c "ALTER SYSTEM SET synchronous_standby_names = '*'" -c "SELECT pg_reload_conf()" > /dev/null
until_is sync "SELECT sync_state FROM pg_stat_replication"
as_server_user tee -a "$work/standby/postgresql.conf" > /dev/null <<< "synchronous_standby_names = '*'"

PGGIT_UPSTREAM_URL="postgres://postgres@127.0.0.1:$primary_port,127.0.0.1:$standby_port/app?target_session_attrs=read-write" \
    start_proxy proxy app
until_ready 200
through -c "CREATE TABLE customers (id int PRIMARY KEY, name text)"
# Somebody who writes until he gets an error: what he was told of is the last number in the file.
(i=0; while through -c "ALTER TABLE customers ADD c$i int"; do echo $((i++)); done > "$work/told" 2> /dev/null) &
writer=$!
end=$((SECONDS + 60))
until [ "$(wc -l < "$work/told")" -ge 20 ]; do [ $SECONDS -lt $end ] || fail "nobody writes"; done

lap
DATA=$primary lose_server
wait $writer || true
PGPORT=$standby_port server_port=$standby_port DATA=$work/standby
PGGIT_DATABASE_URL=postgres://postgres@127.0.0.1:$PGPORT/app
step promote
until_through "CREATE TABLE afterwards (a int)" > /dev/null
measured "standby: from the loss to the first recorded change"
until_ready 200
told=$(tail -1 "$work/told")
expect "what a client was told of" "$(ask "SELECT count(*) FROM pggit.history WHERE object_identity = 'public.customers' AND sql_executed LIKE '%ADD c' || $told || ' int'")" 1
# Each one in the catalogs is in the history, and the other way round.
expect "catalogs and history" "$(ask "SELECT count(*) FROM pg_attribute WHERE attrelid = 'customers'::regclass AND attname ~ '^c[0-9]' AND NOT attisdropped")" \
    "$(ask "SELECT count(*) FROM pggit.history WHERE object_identity = 'public.customers' AND change_type = 'ALTER'")"
observed "standby: changes lost that a client was told of" 0
history_has public.afterwards CREATE
until_sealed
step check-promoted
