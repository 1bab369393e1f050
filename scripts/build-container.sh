#!/usr/bin/env bash
# target/packages/pggit-proxy-VERSION-container-ARCH.tar, for `docker load`, `podman load` and `skopeo copy docker-archive:…`. Needs root.
#   PG_DUMP=postgresql-client-15: with the pg_dump that CREATE BRANCH runs, from this Debian package (not older than the server)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
[ "$(id -u)" -eq 0 ] || fail "files of a container belong to root: sudo make container"

version=$(cargo_version)
# The same commit gives the same image, as far as Debian's packages are the same.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
context=$PWD/target/container
rm -rf "$context"
mkdir -p "$context" target/packages
trap 'rm -rf "$context/root" "$context/storage"' EXIT

say "Debian's files"
# Of Debian only what is linked or read: libc, authorities, time zones.
mmdebstrap --quiet --variant=extract --include="base-files,ca-certificates,libc6,libgcc-s1,netbase,tzdata${PG_DUMP:+,$PG_DUMP}" \
    "$(debian_suite)" "$context/root" > "$context/mmdebstrap.log" 2>&1 \
    || { tail -20 "$context/mmdebstrap.log" >&2; fail "mmdebstrap failed"; }
root=$context/root
mkdir -p "$root/etc/pggit-proxy" "$root/etc/ssl/certs"
# Scripts without an interpreter, openssl: nobody calls them. A pg_dump is below /usr/lib.
rm -rf "${root:?}"/{bin,sbin,usr/bin,usr/sbin}/*
# What the package's script would do, were there a shell.
cat "$root"/usr/share/ca-certificates/mozilla/*.crt > "$root/etc/ssl/certs/ca-certificates.crt"
printf 'root:x:0:0:root:/root:/usr/sbin/nologin\nnonroot:x:65532:65532:nonroot:/nonexistent:/usr/sbin/nologin\n' > "$root/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' > "$root/etc/group"
rm -rf "${root:?}"/dev/* "$root"/var/{cache,lib,log}/* "$root"/usr/share/{man,info,locale,lintian,bug}
install --strip target/release/pggit-proxy "$root/usr/bin/pggit-proxy"
install -m 644 packaging/container/pggit-proxy.toml "$root/etc/pggit-proxy/pggit-proxy.toml"
tar --sort=name --mtime="@$epoch" --numeric-owner --owner=0 --group=0 -C "$root" -cf "$context/rootfs.tar" .

say "the image"
# In a storage of its own, without anything mounted or run: it builds in a container, too.
buildah_in() { buildah --root "$context/storage/root" --runroot "$context/storage/run" --storage-driver vfs "$@"; }
buildah_in bud --quiet --format docker --timestamp "$epoch" --build-arg "VERSION=$version" \
    -f packaging/container/Containerfile -t "pggit-proxy:$version" "$context" > "$context/image"
archive=target/packages/pggit-proxy-$version-container-$(dpkg --print-architecture).tar
rm -f "$archive"
buildah_in push --quiet "pggit-proxy:$version" "docker-archive:$archive:pggit-proxy:$version"
ls "$archive"
