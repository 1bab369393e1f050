#!/usr/bin/env bash
# Real clients through the proxy (tests/clients/): each on a branch by its connection string, with its migrations in the history. And
# migration tools on a protected branch and on one whose changes are queued.
# On each version and in each capture: PGGIT_TEST_VERSIONS="15,18", CAPTURE="trigger inject". ONLY="psql,Knex": just those.
# And once more on each version over TLS, asked for and at once, before a proxy that takes nobody without it: ROADS="plain tls direct".
# On each road every client also runs before a server without the proxy: what it says and hears must be the same.
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
    -addext subjectAltName=IP:127.0.0.1,DNS:localhost -addext basicConstraints=critical,CA:FALSE \
    -keyout "$work/tls.key" -out "$work/tls.crt" 2> "$work/openssl.log" \
    || { cat "$work/openssl.log" >&2; fail "no certificate"; }
# Clients write times without a zone, too. Passwords are asked for, as anywhere; both servers store the same secret, as its salt is among what
# clients hear.
export TZ=UTC PGPASSWORD=secret PGGIT_UPSTREAM_PASSWORD=secret
secret=

# prepare MAJOR ROAD DATA: what a server is told before it starts.
prepare() {
    local major=$1 road=$2 data=$3 bin=/usr/lib/postgresql/$1/bin
    {
        # Statistics that it gathers would show in what pg_dump asks.
        echo "autovacuum = off"
        [ "$road" = plain ] || echo "ssl = on"
    } >> "$data/postgresql.conf"
    echo "local all all trust
host all all 127.0.0.1/32 scram-sha-256" > "$data/pg_hba.conf"
    install "$work/tls.crt" "$data/server.crt"
    install -m 600 "$work/tls.key" "$data/server.key"
    [ "$(id -u)" -ne 0 ] || chown "$(server_user)" "$data/server.key"
    # Oids that can be told from other numbers (tests/clients/messages.py). npm's packages do not have the program, and the server's user
    # may not come to where it lies.
    [ -x "$bin/pg_resetwal" ] || bin=$PWD/.cache/clients/$major/bin
    [ -x "$work/pg_resetwal-$major" ] || install "$bin/pg_resetwal" "$work/pg_resetwal-$major"
    (cd / && as_server_user "$work/pg_resetwal-$major" -o 2146304000 "$data") > "$work/pg_resetwal.log" || fail "no oid was set"
}

# start_prepared MAJOR NAME ROAD CAPTURE DATABASES...
start_prepared() {
    start_server "$1" "$2" prepare "$1" "$3"
    local own=(psql -X -q -A -t -h "$work/$2" -p "$server_port" -U postgres)
    "${own[@]}" -c "alter role postgres password '${secret:-$PGPASSWORD}'"
    secret=$("${own[@]}" -c "select rolpassword from pg_authid where rolname = 'postgres'")
    local database
    for database in "${@:5}"; do
        direct -d postgres -c "create database $database"
        migrate "$database" "$4"
    done
}

passes=()
for road in ${ROADS:-plain tls direct}; do
    for capture in ${CAPTURE:-trigger inject}; do
        # How TLS begins has nothing to do with how a change is recorded.
        [ "$road-$capture" = direct-inject ] || passes+=("$road $capture")
    done
done
failed=0
passed=0
debian=$(newest_debian_server)
for major in $(test_versions); do
    for pass in "${passes[@]}"; do
        read -r road capture <<< "$pass"
        # Servers know it since 17.
        [ "$road" != direct ] || [ "$major" -ge 17 ] || continue
        say "PostgreSQL $major, capture = $capture, $road"
        name=$major-$capture-$road
        sslmode=disable
        negotiation=postgres
        protocol=3.0
        tls=
        if [ "$road" != plain ]; then
            sslmode=require
            # Whoever knows this has a client library that may know the newer protocol as well.
            [ "$road" = tls ] || { negotiation=direct && protocol=3.2; }
            tls="[auth]
mode = \"scram\"
[listen.tls]
mode = \"require\"
cert = \"$work/tls.crt\"
key = \"$work/tls.key\""
        fi
        start_prepared "$major" "$name-direct" "$road" "$capture" app feature_x
        direct_port=$server_port
        start_prepared "$major" "$name" "$road" "$capture" app feature_x feature_tools
        start_proxy "$name" app "[branches.\"feature/x\"]
database = \"feature_x\"
[branches.\"feature/tools\"]
database = \"feature_tools\"
$tls"
        # pg_dump of the server's own version; pgbench comes with Debian's server.
        path=$PATH:/usr/lib/postgresql/$debian/bin
        [ ! -d ".cache/clients/$major/bin" ] || path=$PWD/.cache/clients/$major/bin:$path
        # Clients on Debian's libpq, which does not know TLS at once, run on this version's there.
        libraries=
        [ "$road" != direct ] || libraries=$PWD/.cache/clients/$major/lib
        # The table tells of one run: on Debian's own version, with event triggers.
        page=leave
        [ "$major-$capture" != "$debian-trigger" ] || page=${WRITE:+write}
        places=(PATH="$path" LD_LIBRARY_PATH="$libraries" HOST=127.0.0.1 PORT="$proxy_port" SERVER_PORT="$server_port" DIRECT_PORT="$direct_port")
        told=(PGSSLMODE="$sslmode" PGSSLNEGOTIATION="$negotiation" PGMAXPROTOCOLVERSION="$protocol")
        told+=(CERTIFICATE="$work/tls.crt" KEY="$work/tls.key" NODE_EXTRA_CA_CERTS="$work/tls.crt")
        if env "${places[@]}" "${told[@]}" python3 $here/same_itself.py \
            && env "${places[@]}" "${told[@]}" python3 $here/run.py --work "$drivers" --only "${ONLY:-}" --page "${page:-check}"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
        [ "$road" = plain ] || continue
        # Last: it makes rules, and leaves tables in main.
        if env "${places[@]}" PGSSLMODE=disable CONTROL_PORT="$control_port" CONFIGURATION="$work/$name.toml" \
            python3 $here/tools.py --work "$drivers" --only "${ONLY:-}"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
    done
done
echo "clients: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
