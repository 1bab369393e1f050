#!/usr/bin/env bash
# PostgreSQL's own regression suite, directly on a plain server and through the proxy on a database with the pggit schema,
# recorded by event triggers and by added calls (CAPTURE=trigger or inject: one of them). Prints which tests differ; fails for those that
# scripts/regress-expected.txt does not name. Afterwards the history must agree with the catalogs (scripts/agrees.sql), save for
# what scripts/agrees-expected.txt names.
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

keep=.cache/regress
rm -rf "$keep"
mkdir -p "$keep"
cp -r "$work/out-direct" "$keep/direct"

unexpected=0
compare() { # compare CAPTURE: the suite through the proxy, recorded in that way, against the one on a plain server
    local capture=$1 total=0 failed=0 file name reason
    start_server "$major" "$capture"
    regression_database
    migrate regression "$capture"
    start_proxy "$capture" regression
    say "the suite through the proxy, capture = $capture"
    run_regress "$major" "$capture" "$proxy_port" --schedule="$work/regress/$schedule"
    cp -r "$work/out-$capture" "$keep/$capture"
    cp "$work/$capture.log" "$keep/$capture.proxy.log"
    for file in "$keep"/direct/results/*.out; do
        name=$(basename "$file" .out)
        total=$((total + 1))
        cmp -s "$file" "$keep/$capture/results/$name.out" && continue
        reason=$(sed -n "s/^$name[[:space:]]\+//p" scripts/regress-expected.txt)
        if [ -n "$reason" ]; then
            echo "differs, as expected: $name ($reason)"
        else
            echo "DIFFERS: $name"
            diff -u "$file" "$keep/$capture/results/$name.out" | sed -n 1,25p || true
            failed=$((failed + 1))
        fi
    done
    echo "regress, $capture: $((total - failed)) passed, $failed failed (outputs in $keep)"
    unexpected=$((unexpected + failed))
}

agree() { # agree CAPTURE: the history against the catalogs of the regression database, by PostgreSQL's own functions
    local capture=$1 end=$((SECONDS + 60)) line reason pattern wrong
    # What neither triggers nor calls could record the probe finds within seconds.
    while :; do
        direct -d regression -f scripts/agrees.sql > "$work/agrees"
        : > "$work/disagrees"
        : > "$work/named"
        while IFS= read -r line; do
            reason=
            while IFS=$'\t' read -r pattern reason; do
                [[ -n $pattern && "$capture: $line" =~ $pattern ]] && break
                reason=
            done < scripts/agrees-expected.txt
            if [ -n "$reason" ]; then
                echo "as expected: $line ($reason)" >> "$work/named"
            else
                echo "DISAGREES: $line" >> "$work/disagrees"
            fi
        done < "$work/agrees"
        if [ ! -s "$work/disagrees" ] || [ $SECONDS -ge $end ]; then break; fi
        sleep 1
    done
    cat "$work/named" "$work/disagrees"
    wrong=$(wc -l < "$work/disagrees")
    echo "agrees, $capture: $(direct -At -d regression -c 'select count(*) from pggit.changes') rows, $(wc -l < "$work/named") differences named, $wrong not"
    unexpected=$((unexpected + wrong))
}

for capture in ${CAPTURE:-trigger inject}; do
    compare "$capture"
    agree "$capture"
done
[ "$unexpected" -eq 0 ]
