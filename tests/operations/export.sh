#!/usr/bin/env bash
# docs/operations/BACKUP_RESTORE.md, selective export: of a branch, since a time, as a script that is run, as a git repository that goes on.
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=tests/operations/lib.sh
source tests/operations/lib.sh
begin BACKUP_RESTORE.md
own_server db
lived_in
pggit-proxy branch create feature/x --from main --pg-dump "$(command -v pg_dump)"
WHEN=$(ask "SELECT clock_timestamp()")
export WHEN BRANCH=feature/x
until_through "SELECT 1" > /dev/null
PGOPTIONS="-c pggit.branch=feature/x" through -c "ALTER TABLE customers ADD phone text" -c "CREATE TABLE orders (a int)"
through -c "CREATE TABLE on_main (a int)"
branch=$(ask "SELECT database FROM pggit.branches WHERE name = 'feature/x'")
until_sealed
DATABASE=$branch until_sealed
step export

expect "in the JSON: of the branch, since then" "$(python3 -c 'import json, sys; print(*(one["change_type"] + " " + one["object_identity"] for one in map(json.loads, open(sys.argv[1]))), sep=", ")' "$BACKUPS/since.jsonl")" \
    "ALTER public.customers, CREATE public.orders"
step restore-export
columns="SELECT string_agg(relname || '.' || attname, ' ' ORDER BY relname, attnum) FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
          WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
expect "what the script makes" "$(DATABASE=replayed ask "$columns")" "$(DATABASE=$branch ask "$columns")"

repository() { as_server_user git -C "$BACKUPS/schema.git" "$@"; }
expect "the branches of the repository" "$(repository for-each-ref --format '%(refname:short)' refs/heads | xargs)" "feature/x main"
expect "on the branch alone" "$(repository diff --no-renames --name-only main feature/x | xargs)" "public/table/customers.sql public/table/on_main.sql public/table/orders.sql"
before=$(repository rev-parse main)
through -c "DROP TABLE on_main"
until_sealed
step export
expect "what was there stays, one commit is new" "$(repository rev-list "$before..main" | wc -l)" 1
expect "the file of the dropped table" "$(repository ls-tree -r --name-only main -- public/table/on_main.sql)" ""
