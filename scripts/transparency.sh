#!/usr/bin/env bash
# psql's own regression scripts and libpq's pipeline test: what they print directly, they must print through the proxy.
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

start_server "$major" proxied
regression_database
migrate regression
start_proxy proxied regression
run_regress "$major" proxied "$proxy_port" "${scripts[@]}"
for name in "${scripts[@]}"; do
    verdict "psql script $name" same "$work/out-direct/results/$name.out" "$work/out-proxied/results/$name.out"
done

# --- libpq's pipeline test, with the traces of what libpq sent and received.
modules=.cache/pgsrc/$major/src/test/modules/libpq_pipeline
cc -O1 -w -I"/usr/include/postgresql/$major/server" -I/usr/include/postgresql -I/usr/include/postgresql/internal \
    "$modules/libpq_pipeline.c" -o "$work/libpq_pipeline" \
    -L"/usr/lib/postgresql/$major/lib" -lpq -lpgcommon -lpgport
direct -d postgres -c "create database pipeline_direct" -c "create database pipeline_proxied"
migrate pipeline_proxied
start_proxy pipeline pipeline_proxied

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
    verdict "libpq_pipeline $name" pipeline "$name" "$proxy_port" pipeline_proxied
    # The others do as much as fits into the sockets, which differs from run to run.
    [ ! -e "$modules/traces/$name.trace" ] || verdict "libpq_pipeline $name, bytes" \
        same "$work/$name.pipeline_direct.trace" "$work/$name.pipeline_proxied.trace"
done

echo "transparency: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
