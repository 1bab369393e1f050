#!/usr/bin/env bash
# target/packages/pggit-proxy-VERSION-1.ARCH.rpm
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

work=$PWD/target/packages/rpm
rm -rf "$work"
mkdir -p "$work"
packaging/stage.sh target/release/pggit-proxy "$work/payload" /usr/lib/systemd/system
rpmbuild -bb --define "_topdir $work" --define "payload $work/payload" --define "version $(cargo_version)" \
    packaging/rpm/pggit-proxy.spec > "$work/build.log" 2>&1 \
    || { tail -40 "$work/build.log" >&2; fail "the package could not be built ($work/build.log)"; }
mv "$work"/RPMS/*/*.rpm target/packages/
ls target/packages/*.rpm
