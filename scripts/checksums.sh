#!/usr/bin/env bash
# target/packages/SHA256SUMS of the files that are published; CHECK=1: whether they are still the same.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
cd "${DIR:-target/packages}"

if [ -n "${CHECK:-}" ]; then
    sha256sum --check --strict --quiet SHA256SUMS
    exit
fi
shopt -s nullglob
files=(*.deb *.rpm *-container-*.tar *.cdx.json)
[ ${#files[@]} -gt 0 ] || fail "nothing to publish in $PWD: make packages container sbom"
sha256sum "${files[@]}" | tee SHA256SUMS
