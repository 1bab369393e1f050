# Each target installs what it needs (scripts/setup.sh) and nothing that is there already.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test unit transparency regress clients fuzz lint deny bench packages test-packages test-monitoring test-upgrade test-operations released-sql setup

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

deny: ## Licences and sources of the dependencies as deny.toml allows them; advisories too where cargo-deny is installed
	@if scripts/cargo deny --version > /dev/null 2>&1; then scripts/cargo deny --locked check; \
	else scripts/deny.py && echo "cargo-deny is not installed: advisories were not looked at"; fi

bench: ## The proxy against direct, HAProxy and pgbouncer, interleaved (ARGS="--rounds 5 --seconds 10")
	@scripts/setup.sh bench
	@scripts/cargo build --release --bin pggit-proxy
	@python3 bench/run.py $(ARGS)

packages: ## target/packages: .deb and .rpm
	@scripts/setup.sh packages
	@scripts/cargo build --release --locked --bin pggit-proxy
	@scripts/build-deb.sh
	@scripts/build-rpm.sh

test-packages: packages ## Installs, upgrades, removes and purges the .deb in a clean Debian (needs root); looks into the .rpm
	@scripts/test-packages.sh

test-monitoring: ## Alerts and dashboard: promtool fires each alert, every metric in them exists
	@scripts/setup.sh monitoring
	@promtool check rules packaging/monitoring/alerts.yml
	@promtool test rules packaging/monitoring/alerts_test.yml
	@$(MAKE) --no-print-directory unit ARGS="--test monitoring"

test-upgrade: ## The schema pggit down to every version and up again, with data, migrations killed on the way; rows compared
	@scripts/setup.sh tests
	@scripts/cargo build --bin pggit-proxy
	@tests/upgrade/test-upgrade-path.sh

test-operations: ## Backup, restore and disaster: every procedure of docs/operations, on real servers (ONLY="dump standby")
	@scripts/setup.sh tests
	@scripts/cargo build --bin pggit-proxy
	@tests/operations/run.sh $(ONLY)

released-sql: ## The schema pggit of the released versions as SQL for psql -f, each way (DIR=target/released-sql)
	@scripts/setup.sh build
	@scripts/cargo build --bin pggit-proxy
	@mkdir -p $(or $(DIR),target/released-sql)
	@target/debug/pggit-proxy released-sql $(or $(DIR),target/released-sql)

setup: ## Installs what all the others need
	@scripts/setup.sh demo
	@scripts/setup.sh tests
	@scripts/setup.sh bench
