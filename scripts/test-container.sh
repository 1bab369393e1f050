#!/usr/bin/env bash
# The container image, loaded as a user would load it: what it says of itself, what is in it, and that it migrates, serves, is found healthy and drains,
# as its own user, in a chroot of its files. No container runtime is needed, and none is tested. Needs root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh
# shellcheck source=scripts/harness.sh
source scripts/harness.sh
[ "$(id -u)" -eq 0 ] || fail "a container's files belong to root: sudo make test-container"

version=$(cargo_version)
archive=$(echo "target/packages/pggit-proxy-$version-container-"*.tar)
pass() { echo "ok: $*"; }
expect() { # expect WHAT COMMAND...: the command succeeds
    local what=$1
    shift
    "$@" > "$work/output" 2>&1 || { cat "$work/output" >&2; fail "$what"; }
    pass "$what"
}

make_work
buildah_in() { buildah --root "$work/storage/root" --runroot "$work/storage/run" --storage-driver vfs "$@"; }
container=$(buildah_in from --quiet "docker-archive:$archive")
root=$(buildah_in mount "$container")
said() { buildah_in inspect --format "$1" "$container"; }

expect "is loaded under its version" grep -q "/pggit-proxy:$version\$" <(buildah_in images --format '{{.Name}}:{{.Tag}}')
user=$(said '{{.Docker.Config.User}}')
expect "is not root" test "$user" = 65532:65532
expect "starts the program itself" test "$(said '{{.Docker.Config.Entrypoint}} {{.Docker.Config.Cmd}}')" = "[/usr/bin/pggit-proxy] [serve]"
expect "is stopped by the signal that drains" test "$(said '{{.Docker.Config.StopSignal}}')" = SIGTERM
mapfile -t health < <(said '{{range .Docker.Config.Healthcheck.Test}}{{println .}}{{end}}' | sed -e 1d -e '/^$/d')

expect "has one program in its paths, itself" test "$(find "$root"/bin/ "$root"/sbin/ "$root"/usr/bin/ "$root"/usr/sbin/ ! -type d)" = "$root/usr/bin/pggit-proxy"
expect "has nothing that gives rights" test -z "$(find "$root" -xdev -type f -perm /6000)"
expect "has nothing that its user may change" test -z "$(find "$root" -xdev \( -uid 65532 -o -gid 65532 -o -perm -0002 ! -type l ! -perm -1000 \))"
expect "is small: at most 40 MB besides the program" test "$(($(du -sm "$root" | cut -f1) - $(du -sm "$root/usr/bin/pggit-proxy" | cut -f1)))" -le 40

inside() { chroot --userspec="$user" "$root" "$@"; }
expect "says its version" test "$(inside /usr/bin/pggit-proxy --version)" = "pggit-proxy $version"
config=/etc/pggit-proxy/pggit-proxy.toml
expect "its configuration is sound" inside /usr/bin/pggit-proxy check --config $config
expect "knows the authorities of Debian" grep -q 'BEGIN CERTIFICATE' "$root/etc/ssl/certs/ca-certificates.crt"

start_server "$(newest_debian_server)" server
direct -d postgres -c "CREATE DATABASE app"
url=postgres://postgres@127.0.0.1:$server_port/app
expect "migrates" inside /usr/bin/pggit-proxy migrate up --database-url "$url"
serve() { # with the image's configuration; the ports of this machine may be taken
    PGGIT_CONFIG=$config PGGIT_UPSTREAM_URL=$url chroot --userspec="$user" "$root" /usr/bin/pggit-proxy serve \
        --listen 127.0.0.1:0 --control 127.0.0.1:0 --http 127.0.0.1:"$1" > "$work/serve.out" 2> "$work/serve.log" < /dev/null &
    serving=$!
    proxies+=("$serving")
    local end=$((SECONDS + 30))
    until grep -qsx ready "$work/serve.out"; do
        [ $SECONDS -lt $end ] && kill -0 $serving || { cat "$work/serve.log" >&2; fail "it does not serve"; }
        sleep 0.05
    done
}
# The configuration names the port, which may be taken here: so it is asked of another one.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
expect "its health check is the program's own" test "${health[*]}" = "/usr/bin/pggit-proxy health"
health+=(--http "127.0.0.1:$port")
unwell() { ! inside "${health[@]}"; }
expect "is not healthy before it serves" unwell
serve "$port"
expect "is healthy when it serves" inside "${health[@]}"
proxy_port=$(sed -n 's/^clients .*:\([0-9]*\)$/\1/p' "$work/serve.out")
expect "takes clients, and records" psql -X -q -h 127.0.0.1 -p "$proxy_port" -U postgres app -c "CREATE TABLE t (a int)"
expect "the history has it" test "$(direct -At -d app -c "SELECT via_proxy FROM pggit.history WHERE object_identity = 'public.t'")" = t
kill -TERM "$serving"
code=0
wait "$serving" || code=$?
expect "ends with 0 when it is told to" test $code = 0
expect "is not healthy then" unwell
