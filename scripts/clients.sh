#!/usr/bin/env bash
# Real clients through the proxy (tests/clients/): each on a branch by its connection string, with its migrations in the history. And
# migration tools on a protected branch and on one whose changes are queued.
# On each version and in each capture: PGGIT_TEST_VERSIONS="15,18", CAPTURE="trigger inject". ONLY="psql,Knex": just those.
# And once more on each version over TLS, before a proxy that takes nobody without it: ROADS="plain tls".
# WRITE=1 writes the table of docs/CLIENTS.md from what ran.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
source scripts/harness.sh

here=tests/clients
drivers=$PWD/.cache/drivers
mkdir -p "$drivers"

# changed FILE NAME: whether NAME was installed from another FILE, or never.
changed() { ! cmp -s "$1" "$drivers/$2/installed-from"; }

if changed $here/python/requirements.txt python; then
    say "installing Python clients"
    rm -rf "$drivers/python"
    python3 -m venv "$drivers/python"
    "$drivers/python/bin/pip" install -q --disable-pip-version-check --only-binary :all: -r $here/python/requirements.txt
    cp $here/python/requirements.txt "$drivers/python/installed-from"
fi
if changed $here/node/package-lock.json node; then
    say "installing Node clients"
    rm -rf "$drivers/node"
    mkdir "$drivers/node"
    cp $here/node/package.json $here/node/package-lock.json "$drivers/node"
    (cd "$drivers/node" && npm ci --silent --no-audit --no-fund --ignore-scripts)
    cp $here/node/package-lock.json "$drivers/node/installed-from"
fi
# Modules are found from where a script lies.
cp $here/node/*.mjs "$drivers/node"
say "building Rust clients"
CARGO_TARGET_DIR=$drivers/rust scripts/cargo build --quiet --locked --manifest-path $here/rust/Cargo.toml
mkdir -p "$drivers/go" "$drivers/java"
for name in use_pgx use_pq; do
    [ "$drivers/go/$name" -nt $here/go/$name.go ] && continue
    say "building $name.go"
    # Debian's packages are sources in a GOPATH of their own.
    GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS=-trimpath go build -o "$drivers/go/$name" $here/go/$name.go
done
[ "$drivers/java/UseJdbc.class" -nt $here/java/UseJdbc.java ] || javac -d "$drivers/java" $here/java/UseJdbc.java

make_work
# A certificate for 127.0.0.1 that signed itself: clients that verify it are given it as an authority.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost \
    -addext subjectAltName=IP:127.0.0.1,DNS:localhost -keyout "$work/tls.key" -out "$work/tls.crt" 2> "$work/openssl.log" \
    || { cat "$work/openssl.log" >&2; fail "no certificate"; }
passes=()
for road in ${ROADS:-plain tls}; do
    for capture in ${CAPTURE:-trigger inject}; do
        # How a change is recorded and how its client came have nothing to do with each other.
        [ "$road-$capture" = tls-inject ] || passes+=("$road $capture")
    done
done
failed=0
passed=0
debian=$(newest_debian_server)
for major in $(test_versions); do
    for pass in "${passes[@]}"; do
        read -r road capture <<< "$pass"
        say "PostgreSQL $major, capture = $capture, $road"
        name=$major-$capture-$road
        sslmode=disable
        tls=
        if [ "$road" = tls ]; then
            sslmode=require
            tls="[auth]
mode = \"scram\"
[listen.tls]
mode = \"require\"
cert = \"$work/tls.crt\"
key = \"$work/tls.key\""
        fi
        start_server "$major" "$name"
        for database in app feature_x feature_tools; do
            direct -d postgres -c "create database $database"
            migrate "$database" "$capture"
        done
        start_proxy "$name" app "[branches.\"feature/x\"]
database = \"feature_x\"
[branches.\"feature/tools\"]
database = \"feature_tools\"
$tls"
        # pg_dump of the server's own version; pgbench comes with Debian's server.
        path=$PATH:/usr/lib/postgresql/$debian/bin
        [ ! -d ".cache/clients/$major/bin" ] || path=$PWD/.cache/clients/$major/bin:$path
        # The table tells of one run: on Debian's own version, with event triggers.
        page=leave
        [ "$major-$capture" != "$debian-trigger" ] || page=${WRITE:+write}
        if PATH=$path PGSSLMODE=$sslmode NODE_EXTRA_CA_CERTS=$work/tls.crt HOST=127.0.0.1 PORT=$proxy_port SERVER_PORT=$server_port \
            python3 $here/run.py --work "$drivers" --only "${ONLY:-}" --page "${page:-check}"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
        [ "$road" = plain ] || continue
        # Last: it makes rules, and leaves tables in main.
        if PATH=$path PGSSLMODE=disable HOST=127.0.0.1 PORT=$proxy_port CONTROL_PORT=$control_port SERVER_PORT=$server_port \
            CONFIGURATION=$work/$name.toml python3 $here/tools.py --work "$drivers" --only "${ONLY:-}"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
    done
done
echo "clients: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
