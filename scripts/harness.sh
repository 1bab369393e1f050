# A private PostgreSQL and the proxy in front of it, for scripts; to be sourced after lib.sh.
# Everything is stopped and removed when the script ends.
# shellcheck shell=bash

PROGRAM=${PGGIT_PROXY:-$PWD/target/debug/pggit-proxy}
work=
servers=()
proxies=()

tidy_up() {
    local entry
    for entry in "${proxies[@]}"; do
        kill "$entry" 2> /dev/null || true
    done
    for entry in "${servers[@]}"; do
        as_server_user "${entry%% *}/pg_ctl" -D "${entry#* }" -m immediate stop > /dev/null 2>&1 || true
    done
    [ -z "$work" ] || rm -rf "$work"
}

# A directory that the server's user may enter.
make_work() {
    trap tidy_up EXIT
    trap 'exit 130' INT TERM
    local base=${TMPDIR:-/tmp}
    [ "$(id -u)" -ne 0 ] || base=/tmp
    work=$(mktemp -d "$base/pggit-check.XXXXXX")
    chmod 755 "$work"
}

# Where the server programs of a version are: Debian's, or those that scripts/setup.sh fetched.
server_bin() {
    local bin
    for bin in "/usr/lib/postgresql/$1/bin" "$PWD/.cache/postgres/$1/bin"; do
        [ ! -x "$bin/initdb" ] || { readlink -f "$bin" && return; }
    done
    fail "no PostgreSQL $1 here: scripts/setup.sh tests"
}

# start_server MAJOR NAME [COMMAND...]: sets server_port. The command is run before the start, with the data directory as its last argument.
start_server() {
    local data=$work/$2/data try bin
    bin=$(server_bin "$1")
    mkdir "$work/$2"
    [ "$(id -u)" -ne 0 ] || chown "$(server_user)" "$work/$2"
    (
        cd /
        as_server_user env LC_ALL=C "$bin/initdb" -N -U postgres -A trust -E UTF8 --no-locale -D "$data"
    ) > "$work/$2.initdb.log"
    [ $# -eq 2 ] || "${@:3}" "$data"
    for try in 1 2 3 4 5 6 7 8; do
        server_port=$((20000 + RANDOM % 12000))
        if (
            cd /
            as_server_user "$bin/pg_ctl" -D "$data" -s -w -t 60 -l "$work/$2/log" -o "-p $server_port \
                -c listen_addresses=127.0.0.1 -c unix_socket_directories=$work/$2 -c fsync=off \
                -c max_prepared_transactions=10 -c max_connections=100" start
        ) > /dev/null 2>&1; then
            servers+=("$bin $data")
            return
        fi
        grep -q "already in use" "$work/$2/log" || break
        say "port $server_port is taken; trying another ($try)"
    done
    cat "$work/$2/log" >&2
    fail "PostgreSQL $1 did not start"
}

# start_proxy NAME DATABASE [CONFIGURATION]: in front of the server last started; sets proxy_port and control_port.
start_proxy() {
    local file=$work/$1.toml
    cat > "$file" << END
[listen]
address = "127.0.0.1:0"
[control]
address = "127.0.0.1:0"
[http]
address = "127.0.0.1:0"
[upstream]
host = "127.0.0.1"
port = $server_port
dbname = "$2"
user = "postgres"
[log]
level = "warn"
${3:-}
END
    # Made before the program is, so that it can be looked into.
    : > "$work/$1.out"
    "$PROGRAM" serve --config "$file" > "$work/$1.out" 2> "$work/$1.log" < /dev/null &
    local pid=$! end=$((SECONDS + 30))
    proxies+=("$pid")
    until grep -qsx ready "$work/$1.out"; do
        if [ $SECONDS -ge $end ] || ! kill -0 "$pid" 2> /dev/null; then
            cat "$work/$1.log" >&2
            fail "the proxy did not start"
        fi
        sleep 0.05
    done
    proxy_port=$(sed -n 's/^clients .*:\([0-9]*\)$/\1/p' "$work/$1.out")
    # shellcheck disable=SC2034 # for whoever needs it
    control_port=$(sed -n 's/^control .*:\([0-9]*\)$/\1/p' "$work/$1.out")
}

direct() { psql -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$server_port" -U postgres "$@"; }

# migrate DATABASE [CAPTURE]: installs the pggit schema there.
migrate() { "$PROGRAM" migrate up --capture "${2:-auto}" --database-url "postgres://postgres${PGPASSWORD:+:$PGPASSWORD}@127.0.0.1:$server_port/$1" > "$work/migrate.log" 2>&1 || {
    cat "$work/migrate.log" >&2
    fail "migrate up failed"
}; }

# fetch_source MAJOR: PostgreSQL's own tests from Debian's source package, as .cache/pgsrc/MAJOR.
fetch_source() {
    local major=$1 target=$PWD/.cache/pgsrc/$1 lists=$PWD/.cache/apt file version got=
    [ -e "$target/complete" ] && return
    say "fetching the source of PostgreSQL $major from Debian"
    rm -rf "$target" "$lists"
    mkdir -p "$target" "$lists/parts" "$lists/lists/partial"
    # Source lists of our own: the system's stay as they are.
    for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
        [ -e "$file" ] || continue
        case $file in
            *.sources) sed 's/^Types:.*/Types: deb-src/' "$file" > "$lists/parts/debian.sources" ;;
            *) sed -n 's/^deb /deb-src /p' "$file" > "$lists/parts/debian.list" ;;
        esac
    done
    local options=(-qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$lists/parts"
        -o "Dir::State::lists=$lists/lists" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update || say "apt-get update had problems; going on"
    # Security mirrors do not always carry sources: then the newest of the main archive does as well.
    for version in $(apt-cache "${options[@]}" showsrc "postgresql-$major" | sed -n 's/^Version: //p' | sort -rVu); do
        if (cd "$target" && apt-get "${options[@]}" --download-only source "postgresql-$major=$version") \
            2> "$lists/log"; then
            got=$version
            break
        fi
    done
    [ -n "$got" ] || cat "$lists/log" >&2
    [ -n "$got" ] || fail "Debian's source package postgresql-$major could not be fetched"
    tar xf "$target"/*.orig.tar.* -C "$target" --strip-components=1 --wildcards \
        '*/src/test/regress' '*/src/test/modules/libpq_pipeline'
    rm -rf "$target"/*.tar.* "$target"/*.dsc "$lists"
    touch "$target/complete"
}

# prepare_regress MAJOR: compiles what the regression scripts load into the server, as $work/lib/regress.so.
prepare_regress() {
    mkdir -p "$work/lib"
    cc -O1 -fPIC -shared -w -I"/usr/include/postgresql/$1/server" -o "$work/lib/regress.so" \
        ".cache/pgsrc/$1/src/test/regress/regress.c"
    local library
    for library in refint autoinc; do
        ln -s "/usr/lib/postgresql/$1/lib/$library.so" "$work/lib/$library.so"
    done
    # The server reads data files from here, as its own user.
    cp -r ".cache/pgsrc/$1/src/test/regress" "$work/regress"
    chmod -R go+rX "$work/regress" "$work/lib"
}

# regression_database: as pg_regress itself makes it.
regression_database() {
    direct -d postgres -c "create database regression template template0"
    local setting
    for setting in "lc_messages='C'" "lc_monetary='C'" "lc_numeric='C'" "lc_time='C'" "bytea_output='hex'" \
        "timezone_abbreviations='Default'"; do
        direct -d postgres -c "alter database regression set ${setting%%=*} to ${setting#*=}"
    done
}

# run_regress MAJOR NAME PORT ARGUMENTS...: pg_regress on the database regression; output files in $work/NAME/results.
run_regress() {
    local major=$1 name=$2 port=$3
    shift 3
    # Errors of single tests are not ours to judge: the outputs are compared.
    mkdir -p "$work/out-$name"
    (
        cd "$work/out-$name"
        # Tests write files where the server may write them too.
        mkdir -p results testtablespace sql expected
        chmod -R a+rwX .
        "$(pg_regress_of "$major")" --inputdir="$work/regress" --outputdir=. --bindir="/usr/lib/postgresql/$major/bin" \
            --dlpath="$work/lib" --host=127.0.0.1 --port="$port" --user=postgres --dbname=regression --use-existing \
            --max-concurrent-tests=20 "$@"
    ) > "$work/$name.regress.log" 2>&1 || true
    grep -qE '^(ok|not ok|test |# |=+|All| [0-9]+)' "$work/$name.regress.log" || {
        cat "$work/$name.regress.log" >&2
        fail "pg_regress did not run"
    }
}
