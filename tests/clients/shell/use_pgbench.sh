#!/usr/bin/env bash
# pgbench: its initialisation is the migration; then a run in each -M mode, pipelined as well.
set -euo pipefail
export PGAPPNAME=pgbench PGHOST=$HOST PGPORT=$PORT PGUSER=postgres
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pgbench -i -I dtgp -s 1 -q "$DATABASE" > /dev/null 2>&1
# The same random numbers each time.
for mode in simple extended prepared; do
    pgbench --random-seed=1 -n -M "$mode" -c 4 -t 50 "$DATABASE" > "$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
    grep -q 'number of transactions actually processed: 200/200' "$work/out" || { cat "$work/out" >&2; exit 1; }
done
cat > "$work/ddl.sql" << 'END'
\startpipeline
begin;
create table pgbench_gone (a int);
drop table pgbench_gone;
rollback;
\endpipeline
END
pgbench --random-seed=1 -n -M extended -c 1 -t 10 -f "$work/ddl.sql" "$DATABASE" > "$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
pgbench --version | sed 's/.* (PostgreSQL) \([0-9.]*\).*/version \1/'
