#!/usr/bin/env bash
# The program of the .deb in target/packages against each PostgreSQL (PGGIT_TEST_VERSIONS): it migrates, serves, records, verifies, and goes down again.
# The package is unpacked and not installed: nothing of this machine changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh
# shellcheck source=scripts/harness.sh
source scripts/harness.sh

deb=$(echo "target/packages/pggit-proxy_$(cargo_version)"_*.deb)
[ -e "$deb" ] || fail "no .deb in target/packages: make packages"
make_work
dpkg-deb -x "$deb" "$work/tree"
PROGRAM=$work/tree/usr/bin/pggit-proxy
read -ra versions <<< "$(test_versions)"
for major in "${versions[@]}"; do
    start_server "$major" "server-$major"
    direct -d postgres -c "CREATE DATABASE app"
    migrate app
    start_proxy "proxy-$major" app
    psql -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$proxy_port" -U postgres app -c "CREATE TABLE t (a int)" -c "ALTER TABLE t ADD b int"
    told=$(direct -At -d app -c "SELECT string_agg(change_type || ' ' || via_proxy, ',' ORDER BY created_at) FROM pggit.history WHERE object_identity = 'public.t'")
    [ "$told" = "CREATE true,ALTER true" ] || fail "PostgreSQL $major: the history says \"$told\""
    "$PROGRAM" verify --database-url "postgres://postgres@127.0.0.1:$server_port/app" > "$work/verify.log" || fail "PostgreSQL $major: verify"
    # The same schema from the SQL that the package brings.
    direct -d postgres -c "CREATE DATABASE by_script"
    direct -d by_script -f "$work/tree/usr/share/pggit-proxy/migrations/pggit--$(cargo_version).sql" > "$work/script.log"
    "$PROGRAM" migrate status --database-url "postgres://postgres@127.0.0.1:$server_port/by_script" > "$work/status.log"
    ! grep -qE 'pending|DIFFERS|UNKNOWN' "$work/status.log" || fail "PostgreSQL $major: $(cat "$work/status.log")"
    echo "ok: PostgreSQL $major"
done
