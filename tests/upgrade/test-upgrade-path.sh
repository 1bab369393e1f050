#!/usr/bin/env bash
# Leads a database with a lived-in schema pggit down to every version and up again, kills migrations at ever other moments, and
# compares: no row may be missing, the schema of each version must be the same whichever way led there.
#
#   tests/upgrade/test-upgrade-path.sh [MAJOR ...]      (default: PGGIT_TEST_VERSIONS, 15 and 18)
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh
# shellcheck source=scripts/harness.sh
source scripts/harness.sh

KILLS=${KILLS:-24}

url() { echo "postgres://postgres@127.0.0.1:$server_port/app"; }
run_migrate() { "$PROGRAM" migrate "$@" --database-url "$(url)" > "$work/migrate.log" 2>&1; }
migrated() { run_migrate "$@" || {
    cat "$work/migrate.log" >&2
    fail "migrate $*"
}; }
ask() { direct -At -d app -c "$1"; }
version() { ask "SELECT coalesce(max(version), 0) FROM pggit.migrations"; }
rows() { LC_ALL=C direct -At -d app -f tests/upgrade/rows.sql | LC_ALL=C sort > "$1"; }

# The schema without its rows, and the event triggers, as text.
schema() {
    "$dump" --schema-only --schema=pggit -h 127.0.0.1 -p "$server_port" -U postgres app | grep -vE '^\\(un)?restrict ' > "$1"
    ask "SELECT evtname, evtenabled, evtfoid::regproc FROM pg_event_trigger ORDER BY 1" >> "$1"
}

pg_dump_of() {
    local program
    for program in "$(server_bin "$1")/pg_dump" "$PWD/.cache/clients/$1/bin/pg_dump"; do
        [ ! -x "$program" ] || { echo "$program" && return; }
    done
    fail "no pg_dump $1 here: scripts/setup.sh tests"
}

# compare BEFORE AFTER WHAT: nothing is missing; what is new tells what is there, and is known by its words.
compare() {
    local lost new
    lost=$(LC_ALL=C comm -23 "$1" "$2")
    [ -z "$lost" ] || fail "$3: rows are lost: $lost"
    new=$(LC_ALL=C comm -13 "$1" "$2" | grep -vE '^(changes .*"action": "BASELINE"|probe_facts )' || true)
    [ -z "$new" ] || fail "$3: rows that nobody wrote: $new"
}

same() { cmp -s "$1" "$2" || {
    diff "$1" "$2" | head -40 >&2 || true
    fail "$3"
}; }

# The server's process of a killed migration ends by itself, as soon as it wants to say something.
until_unlocked() {
    local end=$((SECONDS + 60))
    while [ "$(ask "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = 'app')")" != 0 ]; do
        [ $SECONDS -lt $end ] || fail "a killed migration still holds its lock"
    done
}

lived_in() {
    direct -d postgres -c "CREATE DATABASE app"
    migrated up
    start_proxy "proxy-$1" app
    psql -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$proxy_port" -U postgres app << 'END'
CREATE TABLE customers (id int PRIMARY KEY, name text);
ALTER TABLE customers ADD email text;
CREATE INDEX CONCURRENTLY customers_name ON customers (name);
CREATE VIEW known AS SELECT * FROM customers;
CREATE TABLE short_lived (a int);
DROP TABLE short_lived;
END
    # What the proxy writes behind the change: the statement log, the seals.
    local end=$((SECONDS + 60))
    until [ "$(ask "SELECT (SELECT count(*) FROM pggit.statements) >= 6 AND NOT EXISTS (SELECT FROM pggit.unsealed())")" = t ]; do
        [ $SECONDS -lt $end ] || fail "the proxy has not written all of it"
    done
    kill "${proxies[-1]}"
    wait "${proxies[-1]}" || true
    direct -d app -f tests/upgrade/fill.sql
}

path_of() {
    local major=$1 steps latest to i at killed=0
    dump=$(pg_dump_of "$major")
    start_server "$major" "server-$major"
    lived_in "$major"
    latest=$(version)
    steps=$(ask "SELECT string_agg(version::text, ' ' ORDER BY version DESC) FROM pggit.migrations WHERE version < $latest")
    schema "$work/schema.$latest"
    rows "$work/first"

    for to in $steps 0; do
        rows "$work/before"
        migrated down --to "$to"
        schema "$work/schema.$to"
        migrated up
        rows "$work/after"
        compare "$work/before" "$work/after" "down to $to and up"
        schema "$work/schema"
        same "$work/schema.$latest" "$work/schema" "down to $to and up: the schema is another one"
    done
    migrated down --to 0
    for to in $(tr ' ' '\n' <<< "$steps $latest" | sort -n); do
        migrated up --to "$to"
        schema "$work/schema"
        same "$work/schema.$to" "$work/schema" "version $to: the schema from below is another one than from above"
    done
    say "PostgreSQL $major: down to each of $(wc -w <<< "$steps") versions and to nothing, and up again: every row is there"

    rows "$work/before"
    local way=(down --to 0) began=${EPOCHREALTIME/./} took
    migrated down --to 0
    migrated up
    took=$(((${EPOCHREALTIME/./} - began) / 2))
    for ((i = 1; i <= KILLS; i++)); do
        "$PROGRAM" migrate "${way[@]}" --database-url "$(url)" > "$work/migrate.log" 2>&1 &
        local pid=$!
        # Another moment each time, from before the connection to behind the end.
        sleep "$(awk -v i="$i" -v n="$KILLS" -v took="$took" 'BEGIN { printf "%.3f", took / 1e6 * i / n }')"
        if kill -9 "$pid" 2> /dev/null; then killed=$((killed + 1)); fi
        wait "$pid" 2> /dev/null || true
        until_unlocked
        at=$(version)
        schema "$work/schema"
        same "$work/schema.$at" "$work/schema" "killed at version $at: the schema is not that version's"
        # On, half of the time to the end.
        if ((i % 4 == 0)); then migrated "${way[@]}"; fi
        if [ "${way[0]}" = up ]; then way=(down --to 0); else way=(up); fi
    done
    migrated up
    rows "$work/after"
    compare "$work/before" "$work/after" "after $killed kills"
    compare "$work/first" "$work/after" "after all"
    schema "$work/schema"
    same "$work/schema.$latest" "$work/schema" "after $killed kills: the schema is another one"
    [ "$(ask "SELECT count(*) FROM pggit.upgrade_log WHERE status = 'in_progress'")" = 0 ] || fail "a step is still in progress"
    say "PostgreSQL $major: $killed of $KILLS migrations killed, $(ask "SELECT count(*) FROM pggit.upgrade_log WHERE status = 'failed'") in the middle of a step: every row is there"

    # The filled-in rows are no history; the history itself is whole, and goes on.
    "$PROGRAM" verify --database-url "$(url)" > "$work/verify.log" 2>&1 || {
        cat "$work/verify.log" >&2
        fail "the history is not what was sealed"
    }
    direct -d app -c "CREATE TABLE afterwards (a int)"
    [ "$(ask "SELECT change_type FROM pggit.history WHERE object_identity = 'public.afterwards'")" = CREATE ] || fail "nothing is recorded any more"
    migrated down --to 0
    migrated prune --all
    [ -z "$(ask "SELECT nspname FROM pg_namespace WHERE nspname ~ '^pggit'")" ] || fail "something is left"
}

make_work
read -ra majors <<< "${*:-$(test_versions)}"
for major in "${majors[@]}"; do
    path_of "$major"
done
say "done"
