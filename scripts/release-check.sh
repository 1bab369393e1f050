#!/usr/bin/env bash
# Whether everything names the version that a tag does: scripts/release-check.sh v1.2.3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

tag=${1:-}
[[ $tag =~ ^v[0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "a release is named v1.2.3, and not \"$tag\""
version=${tag#v}
wrong=()
says() { [ "$2" = "$version" ] || wrong+=("$1 says \"$2\""); }
says Cargo.toml "$(cargo_version)"
says Cargo.lock "$(grep -A1 '^name = "pggit-proxy"$' Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p')"
says packaging/debian/changelog "$(sed -n '1s/.*(\(.*\)).*/\1/p' packaging/debian/changelog)"
says packaging/rpm/pggit-proxy.spec "$(sed -n '/^%changelog/{n;s/.* \([0-9.]*\)-[0-9]*$/\1/p}' packaging/rpm/pggit-proxy.spec)"
for file in packaging/kubernetes/{deployment,migrate}.yaml; do
    says "$file" "$(sed -n 's/^ *image: pggit-proxy://p' "$file")"
done
says CHANGELOG.md "$(sed -n 's/^## \([0-9][0-9.]*\) - [0-9]\{4\}-[0-9][0-9]-[0-9][0-9]$/\1/p' CHANGELOG.md | head -1)"
[ ${#wrong[@]} -eq 0 ] || fail "this is not version $version: $(printf '\n       %s' "${wrong[@]}")"
scripts/release-notes.sh "$version" > /dev/null
say "everything says $version"
