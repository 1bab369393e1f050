#!/usr/bin/env bash
# psql's own regression scripts and libpq's pipeline test: what they print directly, they must print through the proxy, recorded by event
# triggers and by added calls (CAPTURE=trigger or inject: one of them).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
source scripts/harness.sh

major=$(newest_debian_server)
fetch_source "$major"
make_work
prepare_regress "$major"
passed=0
failed=0

verdict() { # verdict NAME CONDITION...
    local name=$1
    shift
    if "$@"; then
        echo "ok    $name"
        passed=$((passed + 1))
    else
        echo "FAILED $name"
        failed=$((failed + 1))
    fi
}

same() { # same EXPECTED ACTUAL: prints the beginning of the difference
    local difference
    difference=$(diff -u "$1" "$2") && return
    sed -n 1,60p <<< "$difference"
    return 1
}

# --- psql's scripts. Each run has a server of its own: roles and tablespaces outlive a database.
scripts=(test_setup create_index psql psql_crosstab)
start_server "$major" direct
regression_database
run_regress "$major" direct "$server_port" "${scripts[@]}"

for capture in ${CAPTURE:-trigger inject}; do
    start_server "$major" "$capture"
    regression_database
    migrate regression "$capture"
    start_proxy "$capture" regression
    run_regress "$major" "$capture" "$proxy_port" "${scripts[@]}"
    for name in "${scripts[@]}"; do
        verdict "psql script $name, $capture" same "$work/out-direct/results/$name.out" "$work/out-$capture/results/$name.out"
    done
done

# --- libpq's pipeline test, with the traces of what libpq sent and received.
modules=.cache/pgsrc/$major/src/test/modules/libpq_pipeline
cc -O1 -w -I"/usr/include/postgresql/$major/server" -I/usr/include/postgresql -I/usr/include/postgresql/internal \
    "$modules/libpq_pipeline.c" -o "$work/libpq_pipeline" \
    -L"/usr/lib/postgresql/$major/lib" -lpq -lpgcommon -lpgport
direct -d postgres -c "create database pipeline_direct"

pipeline() { # pipeline TEST PORT DATABASE
    local dsn="host=127.0.0.1 port=$2 user=postgres dbname=$3 sslmode=disable" trace=()
    [ ! -e "$modules/traces/$1.trace" ] || trace=(-t "$work/$1.$3.trace")
    timeout 120 "$work/libpq_pipeline" -r 700 "${trace[@]}" "$1" "$dsn" > "$work/$1.$3.out" 2>&1 || {
        tail -5 "$work/$1.$3.out"
        return 1
    }
}
for name in $("$work/libpq_pipeline" tests); do
    pipeline "$name" "$server_port" pipeline_direct || fail "libpq_pipeline $name fails without the proxy"
done
for capture in ${CAPTURE:-trigger inject}; do
    database=pipeline_$capture
    direct -d postgres -c "create database $database"
    migrate "$database" "$capture"
    start_proxy "$database" "$database"
    for name in $("$work/libpq_pipeline" tests); do
        verdict "libpq_pipeline $name, $capture" pipeline "$name" "$proxy_port" "$database"
        # The others do as much as fits into the sockets, which differs from run to run.
        [ ! -e "$modules/traces/$name.trace" ] || verdict "libpq_pipeline $name, $capture, bytes" \
            same "$work/$name.pipeline_direct.trace" "$work/$name.$database.trace"
    done
done

echo "transparency: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
