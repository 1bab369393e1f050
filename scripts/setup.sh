#!/usr/bin/env bash
# Installs what is missing for one purpose, and nothing that is there already.
#   scripts/setup.sh build | demo | tests | bench | instructions | clients | packages | container | kubernetes | workflows | monitoring
# Installing needs apt-get and root (or sudo); elsewhere this says what to install and stops.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

purpose=${1:-build}
case $purpose in
    build | demo | tests | bench | instructions | clients | packages | container | kubernetes | workflows | monitoring) ;;
    *) fail "usage: scripts/setup.sh build|demo|tests|bench|instructions|clients|packages|container|kubernetes|workflows|monitoring" ;;
esac

missing=()
need() { # need PACKAGE CONDITION...: the package, unless the condition holds
    local package=$1
    shift
    "$@" > /dev/null 2>&1 || missing+=("$package")
}
has_libclang() {
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' || compgen -G '/usr/lib/*/libclang*.so*' \
        || [ -n "${LIBCLANG_PATH:-}" ]
}
has_server() { [ -n "$(newest_debian_server)" ] || [ -n "${PGGIT_PG_BIN:-}" ] || command -v postgres; }

# What libpg_query needs to be built, and what runs the scripts.
need build-essential command -v cc
need clang command -v clang
need libclang-dev has_libclang
case $purpose in build | packages | kubernetes | workflows) servers=no ;; *) servers=yes ;; esac
if [ $servers = yes ]; then
    need postgresql has_server
    need postgresql-client command -v psql
fi
if [ "$purpose" = tests ] || [ "$purpose" = clients ]; then
    need libpq-dev test -e /usr/include/postgresql/libpq-fe.h
    need bzip2 command -v bzip2
    need git command -v git
    # The versions that Debian does not have come from npm; npm brings node.
    [ -z "$(versions_from_npm)" ] || need npm command -v npm
    # Their pg_dump comes from PyPI.
    [ -z "$(clients_from_pypi)" ] || need python3-pip python3 -m pip --version
fi
if [ "$purpose" = bench ]; then
    need haproxy test -x /usr/sbin/haproxy -o -x "$(command -v haproxy || echo /nowhere)"
    need pgbouncer test -x /usr/sbin/pgbouncer -o -x "$(command -v pgbouncer || echo /nowhere)"
    need python3 command -v python3
fi
if [ "$purpose" = instructions ]; then
    need valgrind command -v valgrind
    need openssl command -v openssl
    need python3 command -v python3
fi
if [ "$purpose" = clients ]; then
    need python3-venv python3 -c 'import ensurepip, venv'
    need npm command -v npm
    need openssl command -v openssl
    need golang-go command -v go
    need golang-github-jackc-pgx-v4-dev test -d /usr/share/gocode/src/github.com/jackc/pgx/v4
    need golang-github-lib-pq-dev test -d /usr/share/gocode/src/github.com/lib/pq
    need libpostgresql-jdbc-java test -e /usr/share/java/postgresql.jar
    need default-jdk-headless command -v javac
    need ruby-activerecord ruby -e 'require "active_record"'
    need ruby-pg ruby -e 'require "pg"'
fi
if [ "$purpose" = packages ]; then
    need debhelper command -v dh
    need dpkg-dev command -v dpkg-buildpackage
    need rpm command -v rpmbuild
    need lintian command -v lintian
    need rpmlint command -v rpmlint
    need cpio command -v cpio
    need debootstrap test -x /usr/sbin/debootstrap
    need systemd command -v systemd-analyze
fi
if [ "$purpose" = container ]; then
    need mmdebstrap command -v mmdebstrap
    need buildah command -v buildah
    need python3 command -v python3
fi
if [ "$purpose" = kubernetes ] || [ "$purpose" = workflows ]; then
    need python3-venv python3 -c 'import ensurepip, venv'
fi
if [ "$purpose" = workflows ]; then
    need npm command -v npm
fi
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"

# pg_regress and the server's headers belong to one major version, known once the server is there.
if [ "$purpose" = tests ]; then
    major=$(newest_debian_server)
    if [ -n "$major" ] && ! { [ -x "$(pg_regress_of "$major")" ] && [ -e "/usr/include/postgresql/$major/server/postgres.h" ]; }; then
        install_packages "postgresql-server-dev-$major"
    fi
fi

need_rust

if [ "$purpose" = tests ] || [ "$purpose" = clients ]; then
    for major in $(versions_from_npm); do
        install_from_npm "$major"
    done
    for major in $(clients_from_pypi); do
        install_from_pypi "$major"
    done
fi
case $purpose in
    tests | monitoring) install_promtool ;;
    kubernetes) install_lint_from_pypi kubernetes-validate==1.37.0 ;;
    workflows)
        install_lint_from_pypi zizmor==1.32.0
        install_actionlint
        # With what it needs to check an SBOM.
        install_lint_from_pypi cyclonedx-python-lib==11.12.0 '[json-validation]'
        ;;
esac
