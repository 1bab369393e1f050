#!/usr/bin/env bash
# target/packages/pggit-proxy_VERSION_ARCH.deb. VERSION=1.2.3: another version than Cargo.toml's, for tests of upgrades.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

version=${VERSION:-$(cargo_version)}
work=target/packages/deb
rm -rf "$work"
mkdir -p "$work/source"
cp -r packaging/debian "$work/source/debian"
if [ "$version" != "$(cargo_version)" ]; then
    sed -i "1s/(.*)/($version)/" "$work/source/debian/changelog"
fi
[ "$(sed -n '1s/.*(\(.*\)).*/\1/p' "$work/source/debian/changelog")" = "$version" ] \
    || fail "packaging/debian/changelog begins with another version than Cargo.toml's $version"
packaging/stage.sh target/release/pggit-proxy "$work/source/payload" /lib/systemd/system
(cd "$work/source" && DEB_BUILD_OPTIONS="noautodbgsym" dpkg-buildpackage --build=binary --no-sign) > "$work/build.log" 2>&1 \
    || { tail -40 "$work/build.log" >&2; fail "the package could not be built ($work/build.log)"; }
mv "$work"/*.deb target/packages/
ls target/packages/*"_${version}_"*.deb
