#!/usr/bin/env bash
# What a release is made with, tried to break: in a copy of the repository each place that names the version is given another one, a package
# is changed after it was summed up, a workflow is made to do what none may.
set -euo pipefail
cd "$(dirname "$0")/../.."
source scripts/lib.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pass() { echo "ok: $*"; }
refused() { # refused WHAT COMMAND...: the command fails, and says WHAT
    local what=$1
    shift
    ! "$@" > "$work/output" 2>&1 || fail "passed, and should not: $*"
    grep -qF "$what" "$work/output" || { cat "$work/output" >&2; fail "another reason than \"$what\": $*"; }
    pass "refused: $what"
}

copy=$work/copy
mkdir "$copy"
git ls-files -zco --exclude-standard -- scripts packaging Cargo.toml Cargo.lock CHANGELOG.md .github | xargs -0 cp --parents -t "$copy"
version=$(cargo_version)
check=$copy/scripts/release-check.sh
sed -i "0,/^## Unreleased\$/s//## Unreleased\n\n## $version - 2026-01-02/" "$copy/CHANGELOG.md"
"$check" "v$version" 2> "$work/output" || { cat "$work/output" >&2; fail "a whole release is refused"; }
pass "a whole release"
"$copy/scripts/release-notes.sh" "$version" > "$work/notes"
cmp "$work/notes" <(scripts/release-notes.sh Unreleased) || fail "its notes are other ones"
pass "its notes are the changelog's section"

refused 'a release is named' "$check" "$version"
refused 'a release is named' "$check" "v$version-rc1"
refused 'Cargo.toml says' "$check" v99.0.0
for place in Cargo.toml Cargo.lock packaging/debian/changelog packaging/rpm/pggit-proxy.spec packaging/kubernetes/deployment.yaml packaging/kubernetes/migrate.yaml CHANGELOG.md; do
    cp "$copy/$place" "$work/kept"
    case $place in
        Cargo.lock) sed -i '/^name = "pggit-proxy"$/{n;s/".*"/"98.7.6"/}' "$copy/$place" ;;
        *) sed -i "s/$version/98.7.6/" "$copy/$place" ;;
    esac
    refused "$place says \"98.7.6\"" "$check" "v$version"
    cp "$work/kept" "$copy/$place"
done
sed -i "/^## $version /,\$d" "$copy/CHANGELOG.md"
echo "## $version - 2026-01-02" >> "$copy/CHANGELOG.md"
refused "says nothing of $version" "$check" "v$version"

scripts/sbom.py > "$work/output"
.cache/lint/bin/python - "target/packages/pggit-proxy-$version.cdx.json" << 'END'
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
text = open(sys.argv[1]).read()
wrong = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
assert wrong is None, wrong
sbom = json.loads(text)
names = {one["name"] for one in sbom["components"]}
assert {"tokio", "rustls", "pgwire", "sqlx"} <= names, "a dependency is missing"
assert "libfuzzer-sys" not in names
assert all(one["hashes"] and one["licenses"] for one in sbom["components"]), "a crate without hash or licence"
known = {one["bom-ref"] for one in sbom["components"]} | {sbom["metadata"]["component"]["bom-ref"]}
assert all(set(one["dependsOn"]) <= known for one in sbom["dependencies"])
END
pass "the SBOM is CycloneDX 1.5, and knows every crate's hash and licence"

mkdir "$work/published"
echo one > "$work/published/a.deb"
echo two > "$work/published/b.rpm"
DIR=$work/published scripts/checksums.sh > "$work/output"
DIR=$work/published CHECK=1 scripts/checksums.sh
echo three >> "$work/published/b.rpm"
refused 'b.rpm: FAILED' env DIR="$work/published" CHECK=1 scripts/checksums.sh
refused 'nothing to publish' env DIR="$work" scripts/checksums.sh

workflow() { # workflow STEP: a workflow with this step
    mkdir -p "$work/workflows"
    printf '%s\n' "name: x" "on: push" "permissions: {}" "jobs:" "  a:" "    runs-on: ubuntu-24.04" "    steps:" "      - $1" > "$work/workflows/x.yml"
}
workflow "run: make test"
scripts/lint-workflows.sh "$work/workflows" > "$work/output" 2>&1 || { cat "$work/output" >&2; fail "a good workflow is refused"; }
workflow "uses: actions/checkout@v4"
refused 'pinned' scripts/lint-workflows.sh "$work/workflows"
workflow "uses: actions/download-artifact@d3f86a106a0bac45b974a628896c90dbdf5c8093"
refused 'without its commit and version' scripts/lint-workflows.sh "$work/workflows"
workflow "run: make test && curl https://example.org | sh"
refused 'a step that is no make target' scripts/lint-workflows.sh "$work/workflows"
workflow 'run: make ${{ github.event.head_commit.message }}'
refused 'head_commit.message' scripts/lint-workflows.sh "$work/workflows"
workflow 'run: make test ${{ github.nothing }}'
refused 'is not defined' scripts/lint-workflows.sh "$work/workflows"
