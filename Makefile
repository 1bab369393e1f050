# Each target installs what it needs (scripts/setup.sh) and nothing that is there already.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test unit transparency regress clients fuzz lint lint-workflows deny bench instructions packages test-packages test-installed container test-container test-kubernetes test-monitoring test-upgrade test-operations sbom checksums release-check release-notes test-release msrv released-sql setup

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: ## A private PostgreSQL, the proxy in front of it, a tour; stays until Ctrl-C (ONCE=1: ends after the tour)
	@scripts/setup.sh demo
	@scripts/cargo build --bin pggit-proxy
	@exec target/debug/pggit-proxy demo $(if $(filter-out 0,$(ONCE)),--once)

test: unit transparency ## Everything, against real PostgreSQL servers (PGGIT_TEST_VERSIONS="15,18")

unit: ## Rust tests only (ARGS="--test history")
	@scripts/setup.sh tests
	@scripts/cargo test $(ARGS)

transparency: ## psql's regression scripts and libpq's pipeline test, direct and through the proxy
	@scripts/setup.sh tests
	@scripts/cargo build --bin pggit-proxy
	@scripts/transparency.sh

regress: ## PostgreSQL's whole regression suite, direct and through the proxy; prints which tests differ
	@scripts/setup.sh tests
	@scripts/cargo build --bin pggit-proxy
	@scripts/regress.sh

clients: ## Real clients, each on a branch with its migrations in the history, and the same bytes as without the proxy (ONLY="psql,Knex")
	@scripts/setup.sh clients
	@scripts/cargo build --bin pggit-proxy
	@scripts/clients.sh

fuzz: ## cargo-fuzz on every target for a while each (TIME=60, in seconds; TARGETS="session text")
	@scripts/setup.sh build
	@scripts/fuzz.sh

lint: ## Formatting, clippy and documentation, warnings as errors
	@scripts/setup.sh build
	@scripts/cargo fmt --all --check
	@scripts/cargo clippy --all-targets --locked -- -D warnings
	@RUSTDOCFLAGS="-D warnings" scripts/cargo doc --no-deps --document-private-items --locked

lint-workflows: ## .github/workflows: actionlint, zizmor, actions pinned by commit, commands that run at home
	@scripts/setup.sh workflows
	@scripts/lint-workflows.sh

deny: ## Licences and sources of the dependencies as deny.toml allows them; advisories too where cargo-deny is installed
	@if scripts/cargo deny --version > /dev/null 2>&1; then scripts/cargo deny --locked check; \
	else scripts/deny.py && echo "cargo-deny is not installed: advisories were not looked at"; fi

bench: ## The proxy against direct, HAProxy and pgbouncer, interleaved (ARGS="--rounds 5 --seconds 10")
	@scripts/setup.sh bench
	@scripts/cargo build --release --bin pggit-proxy
	@python3 bench/run.py $(ARGS)

instructions: ## What recording costs the server, counted instead of timed: instructions for each schema change (ARGS="--statements 40")
	@scripts/setup.sh instructions
	@scripts/cargo build --bin pggit-proxy
	@python3 bench/instructions.py $(ARGS)

packages: ## target/packages: .deb and .rpm
	@scripts/setup.sh packages
	@scripts/cargo build --release --locked --bin pggit-proxy
	@scripts/build-deb.sh
	@scripts/build-rpm.sh

test-packages: packages ## Installs, upgrades, removes and purges the .deb in a clean Debian (needs root); looks into the .rpm
	@scripts/test-packages.sh

test-installed: ## The program of the .deb in target/packages against each PostgreSQL (PGGIT_TEST_VERSIONS)
	@scripts/setup.sh tests
	@scripts/test-installed.sh

container: ## target/packages: the container image, as an archive for docker load (needs root; PG_DUMP=postgresql-client-15)
	@scripts/setup.sh container
	@scripts/cargo build --release --locked --bin pggit-proxy
	@scripts/build-container.sh

test-container: container ## Loads the image, looks what is in it, and runs it in a chroot, health check and all (needs root)
	@scripts/test-container.sh

test-kubernetes: ## The manifests: Kubernetes' schemas, ports, selectors, drain time; their configuration by pggit-proxy check
	@scripts/setup.sh kubernetes
	@scripts/cargo build --bin pggit-proxy
	@.cache/lint/bin/python scripts/test-kubernetes.py

test-monitoring: ## Alerts, dashboard and metrics through SQL: promtool fires each alert, every metric exists
	@scripts/setup.sh monitoring
	@PATH=".cache/bin:$$PATH" promtool check rules packaging/monitoring/alerts.yml
	@PATH=".cache/bin:$$PATH" promtool test rules packaging/monitoring/alerts_test.yml
	@$(MAKE) --no-print-directory unit ARGS="--test monitoring --test monitoring_sql"

test-upgrade: ## The schema pggit down to every version and up again, with data, migrations killed on the way; rows compared
	@scripts/setup.sh tests
	@scripts/cargo build --bin pggit-proxy
	@tests/upgrade/test-upgrade-path.sh

test-operations: ## Backup, restore and disaster: every procedure of docs/operations, on real servers (ONLY="dump standby")
	@scripts/setup.sh tests
	@scripts/cargo build --bin pggit-proxy
	@tests/operations/run.sh $(ONLY)

sbom: ## target/packages: what the program is made of, as CycloneDX
	@scripts/setup.sh build
	@scripts/sbom.py

checksums: ## target/packages/SHA256SUMS of everything that is published (CHECK=1: whether it is still that)
	@scripts/checksums.sh

release-check: ## Whether every file names the version of TAG=v1.2.3, and the changelog says something of it
	@scripts/release-check.sh $(TAG)

release-notes: ## target/release-notes.md: what the changelog says of VERSION=1.2.3
	@mkdir -p target
	@scripts/release-notes.sh $(VERSION) > target/release-notes.md

test-release: ## Checks of a release, notes, SBOM, checksums and the rules for workflows: tried to break
	@scripts/setup.sh workflows
	@tests/release/test-release.sh

msrv: ## The oldest Rust that Cargo.toml allows is the one that all of this is built with
	@scripts/setup.sh build
	@grep -q "^channel = \"$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)\." rust-toolchain.toml
	@scripts/cargo check --locked --all-targets

released-sql: ## The schema pggit of the released versions as SQL for psql -f, each way (DIR=target/released-sql)
	@scripts/setup.sh build
	@scripts/cargo build --bin pggit-proxy
	@mkdir -p $(or $(DIR),target/released-sql)
	@target/debug/pggit-proxy released-sql $(or $(DIR),target/released-sql)

setup: ## Installs what all the others need
	@scripts/setup.sh demo
	@scripts/setup.sh tests
	@scripts/setup.sh bench
