#!/usr/bin/env bash
# PostgreSQL's own regression suite, directly on a plain server and through the proxy on a database with the pggit
# schema and its triggers. Prints which tests differ; fails for those that scripts/regress-expected.txt does not name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
source scripts/harness.sh

major=$(newest_debian_server)
schedule=parallel_schedule
fetch_source "$major"
make_work
prepare_regress "$major"

start_server "$major" direct
regression_database
say "the suite on a plain server"
run_regress "$major" direct "$server_port" --schedule="$work/regress/$schedule"

start_server "$major" proxied
regression_database
migrate regression
start_proxy proxied regression
say "the suite through the proxy"
run_regress "$major" proxied "$proxy_port" --schedule="$work/regress/$schedule"

total=0
differing=()
for file in "$work"/out-direct/results/*.out; do
    name=$(basename "$file" .out)
    total=$((total + 1))
    cmp -s "$file" "$work/out-proxied/results/$name.out" || differing+=("$name")
done
keep=.cache/regress
rm -rf "$keep"
mkdir -p "$keep"
cp -r "$work/out-direct" "$keep/direct"
cp -r "$work/out-proxied" "$keep/proxied"
cp "$work"/*.regress.log "$work/proxied.log" "$keep/"

unexpected=0
for name in "${differing[@]}"; do
    reason=$(sed -n "s/^$name[[:space:]]\+//p" scripts/regress-expected.txt)
    if [ -n "$reason" ]; then
        echo "differs, as expected: $name ($reason)"
    else
        echo "DIFFERS: $name"
        diff -u "$keep/direct/results/$name.out" "$keep/proxied/results/$name.out" | sed -n 1,25p || true
        unexpected=$((unexpected + 1))
    fi
done
echo "regress: $((total - unexpected)) passed, $unexpected failed (outputs in $keep)"
[ "$unexpected" -eq 0 ]
