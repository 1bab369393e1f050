#!/usr/bin/env bash
# psql: a connection string, \c to the branch from main, a file in one transaction, \copy, \d.
set -euo pipefail
export PGAPPNAME=psql
psql=(psql -X -q -A -t -v ON_ERROR_STOP=1 "host=$HOST port=$PORT user=postgres dbname=app" -v "database=$DATABASE")
"${psql[@]}" << 'END'
\c :database
begin;
create table psql_item (id int primary key, name text);
alter table psql_item add column price numeric(10, 2);
create index psql_item_name on psql_item (name);
commit;
begin;
create table psql_gone (a int);
rollback;
\copy psql_item (id, name) from stdin
1	a
2	b
\.
select 1 / (count(*) = 2)::int from psql_item;
\o /dev/null
\d psql_item
END
psql --version | sed 's/.* (PostgreSQL) \([0-9.]*\).*/version \1/'
