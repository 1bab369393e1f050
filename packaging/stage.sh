#!/usr/bin/env bash
# Lays out what a package contains, the same for every format:
#   packaging/stage.sh PROGRAM DESTINATION UNIT_DIRECTORY
set -euo pipefail
umask 022
program=$1 destination=$2 units=$destination$3
cd "$(dirname "${BASH_SOURCE[0]}")/.."

share=$destination/usr/share
install -D "$program" "$destination/usr/bin/pggit-proxy"
install -D -m 644 config/pggit-proxy.toml "$destination/etc/pggit-proxy/pggit-proxy.toml"
install -D -m 644 -t "$units" packaging/systemd/pggit-proxy.{service,socket}
install -D -m 644 packaging/systemd/sysusers.conf "$destination/usr/lib/sysusers.d/pggit-proxy.conf"
install -D -m 644 -t "$share/doc/pggit-proxy" README.md docs/*.md
install -D -m 644 -t "$share/doc/pggit-proxy/operations" docs/operations/*.md
install -D -m 644 -t "$share/pggit-proxy/migrations" migrations/*.sql
"$program" released-sql "$share/pggit-proxy/migrations"
install -D -m 644 -t "$share/pggit-proxy/monitoring" packaging/monitoring/{alerts.yml,grafana-dashboard.json}

mkdir -p "$share/man/man1"
"$program" man "$share/man/man1"
gzip -9n "$share"/man/man1/*.1
completion() { # completion SHELL FILE
    mkdir -p "$(dirname "$share/$2")"
    "$program" completions "$1" > "$share/$2"
}
completion bash bash-completion/completions/pggit-proxy
completion zsh zsh/vendor-completions/_pggit-proxy
completion fish fish/vendor_completions.d/pggit-proxy.fish
