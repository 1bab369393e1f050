#!/usr/bin/env bash
# cargo-fuzz on every target, TIME seconds each (default 60; TARGETS="session text" for some). A crash is kept in fuzz/artifacts/ and
# fails this. What was found worth keeping stays below .cache/fuzz; KEEP=1 puts the smallest inputs that reach the most into
# fuzz/corpus/, which `make test` runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
need_rust

# The sanitizer is a nightly feature of the compiler; this makes the pinned one take it.
export RUSTC_BOOTSTRAP=1
version=0.13.2
tools=$PWD/.cache/cargo-fuzz
if [ ! -x "$tools/bin/cargo-fuzz" ]; then
    say "installing cargo-fuzz $version"
    scripts/cargo install --quiet --locked --version "$version" --root "$tools" cargo-fuzz
fi
PATH=$tools/bin:$PATH

most=60
passed=0
failed=0
for target in ${TARGETS:-$(sed -n 's/^name = "\([a-z]*\)"$/\1/p' fuzz/Cargo.toml)}; do
    found=$PWD/.cache/fuzz/$target
    kept=$PWD/fuzz/corpus/$target
    mkdir -p "$found" "$kept"
    say "$target for ${TIME:-60} seconds"
    if (cd fuzz && ../scripts/cargo fuzz run "$target" "$found" "$kept" -- \
        -max_total_time="${TIME:-60}" -max_len=2048 -timeout=20 -rss_limit_mb=3000 -print_final_stats=1) > "$found.log" 2>&1; then
        sed -n 's/^stat::number_of_executed_units: */  inputs tried: /p' "$found.log"
        passed=$((passed + 1))
    else
        tail -40 "$found.log"
        failed=$((failed + 1))
        continue
    fi
    if [ "${KEEP:-0}" != 0 ]; then
        # Those that cover all between them, of which a part is enough for a smoke test: evenly from the small to the large.
        rm -rf "$found.least"
        mkdir "$found.least"
        (cd fuzz && ../scripts/cargo fuzz run "$target" "$found.least" "$found" "$kept" -- -merge=1) > "$found.log" 2>&1
        # Those that it named itself go; what once broke something has a name of its own.
        find "$kept" -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
        find "$found.least" -type f -size -3k -printf '%s %p\n' | sort -n | awk -v most=$most '
            { size[NR] = $1; path[NR] = $2 }
            END { step = NR > most ? NR / most : 1; for (n = 1; n <= NR; n += step) print path[int(n)] }' \
            | xargs -r cp -t "$kept"
    fi
done
echo "fuzz: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
