#!/usr/bin/env bash
# docs/operations/DISASTER_RECOVERY.md: a proxy is lost in mid-change, another one goes on.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/operations/lib.sh
source tests/operations/lib.sh
begin DISASTER_RECOVERY.md
own_server db
lived_in
first_port=$proxy_port
start_proxy second app
until_ready 200 second
second_port=$proxy_port
both() { psql -X -q -At -v ON_ERROR_STOP=1 "host=127.0.0.1,127.0.0.1 port=$first_port,$second_port user=ann dbname=app connect_timeout=5" "$@"; }

# One in a transaction that it never ends, one who makes an index that has to wait for the first.
mkfifo "$work/never"
proxy_port=$first_port through < "$work/never" > /dev/null 2>&1 &
exec 9> "$work/never"
echo "BEGIN; CREATE TABLE half (a int); INSERT INTO customers VALUES (5000);" >&9
until_is 1 "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.state = 'idle in transaction' AND l.relation = 'customers'::regclass AND l.mode = 'RowExclusiveLock'"
proxy_port=$first_port through -c "CREATE INDEX CONCURRENTLY customers_name ON customers (name)" > /dev/null 2>&1 &
until_is 1 "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"
expect "open intents" "$(ask "SELECT count(*) FROM pggit.intents WHERE outcome IS NULL")" 1

lap
kill -9 "${proxies[0]}"
wait "${proxies[0]}" 2> /dev/null || true
both -c "CREATE TABLE afterwards (a int)"
measured "lost proxy: to the first recorded change, by another one"
until_is 0 "SELECT count(*) FROM pggit.intents WHERE outcome IS NULL"
measured "lost proxy: what it had under way is settled"
exec 9>&-
step settled
grep -q "(0 rows)" "$work/step.log" || fail "something stayed open: $(cat "$work/step.log")"
history_has public.afterwards CREATE
history_has public.half ""
expect "what is there of the transaction" "$(ask "SELECT to_regclass('half') IS NULL AND NOT EXISTS (SELECT FROM customers WHERE id = 5000)")" t
# What is left of the index is what the history says of it.
expect "the index" "$(ask "SELECT coalesce((SELECT indisvalid::text FROM pg_index WHERE indexrelid = to_regclass('customers_name')), 'none')")" \
    "$(ask "SELECT coalesce((SELECT (new_definition NOT LIKE '%-- invalid%')::text FROM pggit.history WHERE object_identity = 'public.customers_name' ORDER BY created_at DESC, ordinal DESC LIMIT 1), 'none')")"
observed "lost proxy: changes lost" 0
until_sealed
verified
