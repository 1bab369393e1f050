#!/usr/bin/env bash
# pg_dump and pg_restore: what lies on branch main is dumped and restored on the other branch, in one transaction.
set -euo pipefail
export PGAPPNAME=pg_restore PGHOST=$HOST PGPORT=$PORT PGUSER=postgres
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
psql -X -q -v ON_ERROR_STOP=1 -d app << 'END'
create table dump_item (id serial primary key, name text);
alter table dump_item add column price numeric(10, 2);
create index dump_item_name on dump_item (name);
insert into dump_item (name) select 'n' || i from generate_series(1, 1000) i;
begin;
create table dump_gone (a int);
rollback;
END
pg_dump -Fc -t dump_item -f "$work/dump" app
pg_restore --single-transaction --exit-on-error -d "$DATABASE" "$work/dump" 2> "$work/errors" \
    || { cat "$work/errors" >&2; exit 1; }
[ "$(psql -X -A -t -d "$DATABASE" -c 'select count(*) from dump_item')" = 1000 ]
# Directory format opens several connections.
pg_dump -Fd -j 2 -t dump_item -f "$work/folder" app
# Again: everything is there, so nothing may change.
if pg_restore --single-transaction -d "$DATABASE" "$work/dump" 2> /dev/null; then exit 1; fi
pg_dump --version | sed 's/.* (PostgreSQL) \([0-9.]*\).*/version \1/'
