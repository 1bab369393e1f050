#!/usr/bin/env bash
# What CHANGELOG.md says of a version: scripts/release-notes.sh 1.2.3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

version=${1:-$(cargo_version)}
notes=$(awk -v version="$version" '/^## / { on = $2 == version; next } on' CHANGELOG.md)
[ -n "${notes//[[:space:]]/}" ] || fail "CHANGELOG.md says nothing of $version"
# Without the blank lines around it.
sed -e '/./,$!d' <<< "$notes"
