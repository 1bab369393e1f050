#!/usr/bin/env bash
# What the packages do on a machine that has never seen the program: a Debian of its own in target/packages/root (debootstrap),
# in which the .deb is installed, run, upgraded, removed and purged. And what is in the .rpm. Needs root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
[ "$(id -u)" -eq 0 ] || fail "a clean root directory can only be made by root: sudo make test-packages"

packages=target/packages
root=$PWD/$packages/root
version=$(cargo_version)
# Greater than any version of ours that this file is run for.
later=$version+test

pass() { echo "ok: $*"; }
inside() { chroot "$root" env PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }
expect() { # expect WHAT COMMAND...: the command succeeds
    local what=$1
    shift
    "$@" > "$packages/output" 2>&1 || { cat "$packages/output" >&2; fail "$what"; }
    pass "$what"
}

say "a later version, to upgrade to"
VERSION=$later scripts/build-deb.sh > /dev/null
deb=$(echo $packages/pggit-proxy_"$version"_*.deb)
newer=$(echo $packages/pggit-proxy_"$later"_*.deb)

say "a clean Debian"
rm -rf "$root"
trap 'rm -rf "$root"' EXIT
suite=$(debian_suite)
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2> /dev/null \
    | sed -n 's/^\(deb \|URIs: \)\(\[[^]]*\] \)\?\(https\?:[^ ]*\).*/\3/p' | grep -v security | head -1 || true)
mirror=${mirror:-http://deb.debian.org/debian}
debootstrap --variant=minbase --include=systemd-standalone-sysusers "$suite" "$root" "$mirror" > "$packages/debootstrap.log" 2>&1 \
    || { tail -20 "$packages/debootstrap.log" >&2; fail "debootstrap failed ($packages/debootstrap.log)"; }
cp "$deb" "$newer" "$root/"
[ ! -e "$root/usr/bin/pggit-proxy" ] || fail "the clean Debian is not clean"

installed() { [ "$(inside dpkg-query -W -f '${Version} ${Status}' pggit-proxy)" = "$1 install ok installed" ]; }
serves() { # as its own user, with the configuration as it was installed; there is no server, which it must bear
    local log=$packages/serve.log pid n code=0
    chroot --userspec=pggit-proxy:pggit-proxy "$root" /usr/bin/pggit-proxy serve --config /etc/pggit-proxy/pggit-proxy.toml \
        --listen 127.0.0.1:0 --control 127.0.0.1:0 --http 127.0.0.1:0 > "$log" 2>&1 &
    pid=$!
    for ((n = 0; n < 300; n++)); do
        ! grep -qx ready "$log" || break
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.1
    done
    kill -TERM "$pid"
    wait "$pid" || code=$?
    cat "$log"
    grep -qx ready "$log" && [ "$code" -eq 0 ]
}

expect "installs" inside dpkg -i "/$(basename "$deb")"
expect "says its version" test "$(inside pggit-proxy --version)" = "pggit-proxy $version"
expect "made its user, who cannot log in" test "$(inside getent passwd pggit-proxy | cut -d: -f6,7)" = "/nonexistent:/usr/sbin/nologin"
expect "the example configuration is sound" inside pggit-proxy check --config /etc/pggit-proxy/pggit-proxy.toml
expect "serves, and ends when it is told to" serves
expect "its manual is there" test -s "$root/usr/share/man/man1/pggit-proxy-migrate.1.gz"
expect "nothing but the configuration is in /etc" test "$(inside dpkg -L pggit-proxy | grep '^/etc/pggit-proxy/')" = /etc/pggit-proxy/pggit-proxy.toml
expect "no service is enabled or started by itself" test -z "$(inside find /etc/systemd -name 'pggit*')"

echo "# an operator's line" >> "$root/etc/pggit-proxy/pggit-proxy.toml"
# The later package brings another example, as a later version would.
expect "upgrades" inside dpkg -i --force-confold "/$(basename "$newer")"
expect "is the later version" installed "$later"
expect "an edited configuration stays" grep -q "an operator's line" "$root/etc/pggit-proxy/pggit-proxy.toml"
expect "goes back" inside dpkg -i --force-downgrade --force-confold "/$(basename "$deb")"
expect "is the earlier version" installed "$version"
expect "is removed" inside dpkg -r pggit-proxy
expect "its program is gone" test ! -e "$root/usr/bin/pggit-proxy"
expect "its configuration stays" grep -q "an operator's line" "$root/etc/pggit-proxy/pggit-proxy.toml"
expect "is purged" inside dpkg -P pggit-proxy
expect "nothing is left in /etc" test ! -e "$root/etc/pggit-proxy"

say "the unit"
dpkg-deb -x "$deb" "$packages/tree"
trap 'rm -rf "$root" "$PWD/$packages/tree"' EXIT
unit=$packages/tree/lib/systemd/system/pggit-proxy.service
# Exposure in tenths; systemd calls 20 and less well protected.
expect "systemd finds it well protected" systemd-analyze security --offline=true --threshold=20 "$unit"
# The one word that older versions of systemd do not know; and what is not installed here.
known='notify-reload|is not executable: No such file|man pggit-proxy'
! systemd-analyze verify --man=no "$unit" 2>&1 | grep -v 'Proc\|^$' | grep "pggit-proxy" | grep -Ev "$known" || fail "systemd does not understand the unit"
pass "systemd understands the unit"

say "the packages' contents"
rpm=$(echo $packages/pggit-proxy-"$version"-*.rpm)
# From a long listing, without directories; units are elsewhere in Debian, and documents each format has in its own way.
contents() { sed -n 's#^[^d].* \./#/#p' | sed 's#^/lib/#/usr/lib/#' | grep -v '^/usr/share/doc/' | sort; }
expect ".deb and .rpm hold the same files" diff \
    <(dpkg-deb --fsys-tarfile "$deb" | tar tv | contents) \
    <(rpm2cpio "$rpm" | cpio -itv --quiet | contents)
expect "lintian has no objection" lintian --allow-root --fail-on error,warning --suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog "$deb"
# It is not signed here, and names no packager: whoever publishes it does that.
rpmlint "$rpm" > "$packages/output" 2>&1 || true
! grep ': E: ' "$packages/output" | grep -Ev 'no-signature|no-packager-tag' || fail "rpmlint objects"
pass "rpmlint has no objection"
rm -f "$newer" "$packages/output"
