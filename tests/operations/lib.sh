# What the procedures share; to be sourced from the root of the repository. The commands themselves are in docs/operations: `step NAME`
# runs the block of that name as it stands on the page, as the server's user, so what an operator reads is what was tried here.
# shellcheck shell=bash
set -euo pipefail
# shellcheck source=scripts/lib.sh
source scripts/lib.sh
# shellcheck source=scripts/harness.sh
source scripts/harness.sh

# What a page says an operator sets first. DATABASE is the name of the main database.
export DATA ARCHIVE BACKUPS LOG PGHOST=127.0.0.1 PGPORT PGUSER=postgres PGGIT_DATABASE_URL DATABASE=app
# psql's file of passwords and its history are nobody's business here.
export HOME=/nonexistent

major=${PGGIT_OPERATIONS_VERSION:-$(newest_debian_server)}
page=

# begin PAGE: the page whose blocks are run; a directory to work in, with the programs that the blocks call.
begin() {
    page=docs/operations/$1
    make_work
    mkdir "$work/bin" "$work/archive" "$work/backups"
    ARCHIVE=$work/archive BACKUPS=$work/backups LOG=$work/restored.log
    cp "$PROGRAM" "$work/bin/pggit-proxy"
    local clients=/usr/lib/postgresql/$major/bin
    if [ ! -x "$clients/pg_basebackup" ]; then
        # In a place that the server's user may enter.
        cp -r ".cache/clients/$major" "$work/clients"
        clients=$work/clients/bin
    fi
    export PATH=$work/bin:$(server_bin "$major"):$clients:$PATH
    [ "$(id -u)" -ne 0 ] || chown -R "$(server_user)" "$work/archive" "$work/backups" "$work/bin"
    [ "$(id -u)" -ne 0 ] || chown "$(server_user)" "$work"
}

# step NAME: runs the block ```sh NAME of the page.
step() {
    local text
    text=$(block "$1")
    [ -n "$text" ] || fail "$page has no block $1"
    say "$1"
    (cd "$work" && as_server_user timeout 300 bash -euo pipefail -c "$text") > "$work/step.log" 2>&1 || {
        cat "$work/step.log" >&2
        [ ! -e "$LOG" ] || tail -20 "$LOG" >&2
        fail "$page: $1"
    }
    [ -z "${STEPS_DONE:-}" ] || echo "$page $1" >> "$STEPS_DONE"
}

block() {
    awk -v name="$1" '$0 == "```sh " name { on = 1; next } /^```/ { on = 0 } on' "$page"
}

# own_server NAME: a server whose configuration is all in its data directory, so that a copy of that is a server. Sets DATA, PGPORT.
own_server() {
    DATA=$work/$1
    (cd / && as_server_user env LC_ALL=C initdb -N -U postgres -A trust -E UTF8 --no-locale -D "$DATA") > "$work/$1.initdb.log"
    as_server_user tee -a "$DATA/postgresql.conf" > /dev/null << END
listen_addresses = '127.0.0.1'
unix_socket_directories = '$work'
fsync = off
max_prepared_transactions = 10
END
    servers+=("$(server_bin "$major") $DATA")
    start_own
}

# Starts the server in DATA on a free port.
start_own() {
    local try
    for try in 1 2 3 4 5 6 7 8; do
        PGPORT=$((20000 + RANDOM % 12000))
        as_server_user tee "$DATA/port.conf" > /dev/null <<< "port = $PGPORT"
        grep -q "^include 'port.conf'" "$DATA/postgresql.conf" \
            || as_server_user tee -a "$DATA/postgresql.conf" > /dev/null <<< "include 'port.conf'"
        if (cd / && as_server_user pg_ctl -D "$DATA" -s -w -t 60 -l "$DATA.log" start) > /dev/null 2>&1; then
            server_port=$PGPORT
            PGGIT_DATABASE_URL=postgres://postgres@127.0.0.1:$PGPORT/$DATABASE
            return
        fi
        say "port $PGPORT is taken; trying another ($try)"
    done
    cat "$DATA.log" >&2
    fail "PostgreSQL did not start in $DATA"
}

# A main database with a history, and the proxy in front of it.
lived_in() {
    direct -d postgres -c "CREATE ROLE ann LOGIN" -c "CREATE DATABASE app OWNER ann"
    migrate app
    start_proxy proxy app
    through << 'END'
CREATE TABLE customers (id int PRIMARY KEY, name text);
INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 1000) i;
ALTER TABLE customers ADD email text;
CREATE VIEW known AS SELECT id, name FROM customers;
END
    until_sealed
}

# As a client of the proxy, and round it.
through() { psql -X -q -At -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$proxy_port" -U ann "$@" app; }
ask() { direct -At -d "$DATABASE" -c "$1"; }

# The machine in PGPORT and DATA is gone, with its disk and all that it had in memory.
lose_server() {
    kill -9 "$(head -1 "$DATA/postmaster.pid")"
    rm -rf "$DATA" "$work/.s.PGSQL.$PGPORT"*
}

# until_is VALUE QUERY: waits until a query says so.
until_is() {
    local end=$((SECONDS + 60)) got=
    until got=$(ask "$2" 2>&1) && [ "$got" = "$1" ]; do
        [ $SECONDS -lt $end ] || fail "$2: $got, and not $1"
        sleep 0.1
    done
}
until_sealed() { until_is t "SELECT NOT EXISTS (SELECT FROM pggit.unsealed())"; }

# readyz: the status code, and why in $work/readyz.
readyz() {
    local port
    port=$(sed -n 's/^http .*:\([0-9]*\)$/\1/p' "$work/${1:-proxy}.out")
    curl -s -o "$work/readyz" -w '%{http_code}' "http://127.0.0.1:$port/readyz" || true
}
# until_ready CODE [PROXY]
until_ready() {
    local end=$((SECONDS + 60))
    until [ "$(readyz "${2:-proxy}")" = "$1" ]; do
        [ $SECONDS -lt $end ] || fail "/readyz is not $1: $(cat "$work/readyz")"
        sleep 0.1
    done
}

# until_through SQL: waits until the proxy's clients may do it; prints what psql says of it at last.
until_through() {
    local end=$((SECONDS + 60))
    until through -c "$1" > "$work/through.log" 2>&1; do
        [ $SECONDS -lt $end ] || fail "$1: $(cat "$work/through.log")"
        sleep 0.1
    done
    cat "$work/through.log"
}

expect() { [ "$2" = "$3" ] || fail "$1: $2, and not $3"; }
history_has() { expect "history of $1" "$(ask "SELECT string_agg(change_type, ' ' ORDER BY created_at, ordinal) FROM pggit.history WHERE object_identity = '$1'")" "$2"; }

verified() {
    pggit-proxy verify "$@" > "$work/verify.log" 2>&1 || {
        cat "$work/verify.log" >&2
        fail "the history is not as it was sealed"
    }
}
head_hash() { pggit-proxy verify | sed -n 's/^head *\([0-9a-f]\{64\}\).*/\1/p'; }

# The stopwatch: `lap` starts it, `measured WHAT` prints the seconds since.
lap() { lap_began=${EPOCHREALTIME/./}; }
measured() {
    local line
    line=$(awk -v us=$((${EPOCHREALTIME/./} - lap_began)) -v what="$1" 'BEGIN { printf "measured  %-60s %6.1f s", what, us / 1e6 }')
    echo "$line"
    [ -z "${FIGURES:-}" ] || echo "$line" >> "$FIGURES"
}
# observed WHAT FIGURE: what was lost, or not.
observed() {
    local line
    line=$(printf 'observed  %-60s %s' "$1" "$2")
    echo "$line"
    [ -z "${FIGURES:-}" ] || echo "$line" >> "$FIGURES"
}

# beside: the server of the step of that name; sets SIDE, SIDE_PORT.
beside() {
    export SIDE=$work/side SIDE_PORT
    SIDE_PORT=$(free_port)
    servers+=("$(server_bin "$major") $SIDE")
    step beside
}

# One that nobody listens on.
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
