-- Where pgGit's own SQL was taken over: its history, as rows of ours; those that are not there yet, as soon as there is a table for
-- them. It has no definitions as statements, no oids and no connections: these stay empty. Columns that only some versions have
-- are read out of the row as JSON.
DO $$
DECLARE
    place text;
    zone text;
BEGIN
    IF to_regclass('pggit.changes') IS NULL THEN
        RETURN;
    END IF;
    SELECT g.backup INTO place FROM pggit.upgrade_log g JOIN pg_namespace s ON s.nspname = g.backup
     WHERE g.adopted IS NOT NULL AND g.status = 'completed' ORDER BY g.upgrade_id DESC LIMIT 1;
    IF place IS NULL THEN
        RETURN;
    END IF;
    -- Its times have no zone: they are of the zone that the server gives to sessions of this database.
    BEGIN
        SELECT coalesce((SELECT split_part(c.setting, '=', 2) FROM pg_db_role_setting s
                           JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = current_database()
                          CROSS JOIN LATERAL unnest(s.setconfig) c(setting)
                          WHERE s.setrole = 0 AND lower(split_part(c.setting, '=', 1)) = 'timezone'),
                        (SELECT f.setting FROM pg_file_settings f WHERE lower(f.name) = 'timezone' AND f.error IS NULL
                          ORDER BY f.seqno DESC LIMIT 1)) INTO zone;
    EXCEPTION WHEN insufficient_privilege THEN
        zone := NULL;
    END;
    zone := coalesce(zone, 'UTC');
    EXECUTE format(
        $import$
        WITH branch AS MATERIALIZED (
            %2$s
        ), note AS MATERIALIZED (
            %3$s
        ), old AS (
            SELECT to_jsonb(h) AS h, to_jsonb(o) AS o,
                   o.schema_name::text AS schema_name,
                   -- The first version has the identity for the name, quoted where it has to be. In the others a column's name has its
                   -- table's before it, a function's its arguments behind it.
                   CASE WHEN i.whole AND o.object_name ~ '^("[^"]+"|[^".]+)\."[^"]+"$' THEN split_part(o.object_name, '"', -2)
                        WHEN i.whole THEN substr(o.object_name, length(quote_ident(o.schema_name)) + 2)
                        ELSE o.object_name END AS name,
                   CASE WHEN i.whole THEN o.object_name
                        ELSE concat_ws('.', quote_ident(nullif(o.schema_name, '')),
                                       CASE WHEN o.object_name ~ '[.("]' THEN o.object_name ELSE quote_ident(o.object_name) END) END AS identity,
                   %4$s AS at
              FROM %1$I.history h LEFT JOIN %1$I.objects o ON o.id = h.object_id
             CROSS JOIN LATERAL (SELECT o.schema_name <> '' AND starts_with(o.object_name, quote_ident(o.schema_name) || '.') AS whole) i
        ), told AS (
            SELECT x.*, upper(x.h ->> 'change_type') AS action,
                   CASE x.o ->> 'object_type' WHEN 'COLUMN' THEN 'table column' WHEN 'CONSTRAINT' THEN 'table constraint' WHEN 'PARTITION' THEN 'table'
                        ELSE lower(replace(coalesce(x.o ->> 'object_type', 'unknown'), '_', ' ')) END AS type,
                   encode(substring(sha256(convert_to('pgGit history ' || (x.h ->> 'id') || ' ' || (x.h ->> 'created_at'), 'UTF8')), 1, 16), 'hex')::uuid AS id,
                   -- What has no commit of its own belongs to its transaction, of which the time is that of the start.
                   encode(substring(sha256(convert_to(coalesce('pgGit commit ' || (x.h ->> 'commit_hash'),
                       concat_ws(' ', 'pgGit transaction', x.h ->> 'created_at', x.h ->> 'created_by')), 'UTF8')), 1, 16), 'hex')::uuid AS commit_id
              FROM old x
        )
        INSERT INTO pggit.changes (id, commit_id, session_id, branch, action, command_tag, object_type, schema_name, object_name,
                                   object_identity, sql_executed, captured_by, created_at, ordinal, created_by, role_name,
                                   application_name, client_addr, client_port, backend_pid, message, snapshot)
        SELECT r.id, r.commit_id, NULL,
               coalesce((SELECT b.name FROM branch b WHERE b.id = (r.h ->> 'branch_id')::bigint), r.o ->> 'branch_name', pggit.default_branch()),
               r.action,
               coalesce(nullif(r.h -> 'new_metadata' ->> 'command_tag', ''),
                        CASE WHEN r.action = 'COMMENT' THEN 'COMMENT' WHEN r.type IN ('table column', 'table constraint') THEN 'ALTER TABLE'
                             WHEN r.action IN ('CREATE', 'DROP') THEN r.action || ' ' || upper(r.type)
                             WHEN r.action IN ('ALTER', 'RENAME') THEN 'ALTER ' || upper(r.type) ELSE r.action END),
               r.type, r.schema_name, r.name,
               r.identity,
               pggit.kept_query(r.h ->> 'sql_executed'), 'pggit', coalesce(r.at, transaction_timestamp()),
               mod((r.h ->> 'id')::bigint, 2147483648)::integer,
               coalesce(r.h ->> 'created_by', ''), coalesce(r.h ->> 'created_by', ''), NULL, NULL, NULL, 0,
               left(coalesce((SELECT m.message FROM note m WHERE m.hash = r.h ->> 'commit_hash'), r.h ->> 'change_description'), 4096), NULL
          FROM told r
         WHERE NOT EXISTS (SELECT FROM pggit.changes c WHERE c.id = r.id)
        $import$, place,
        CASE WHEN to_regclass(format('%I.branches', place)) IS NULL THEN 'SELECT NULL::bigint AS id, NULL::text AS name WHERE false'
             ELSE format('SELECT b.id::bigint AS id, b.name::text AS name FROM %I.branches b', place) END,
        CASE WHEN to_regclass(format('%I.commits', place)) IS NULL THEN 'SELECT NULL::text AS hash, NULL::text AS message WHERE false'
             ELSE format('SELECT c.hash::text AS hash, c.message::text AS message FROM %I.commits c', place) END,
        CASE WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(format('%I.history', place)) AND a.attname = 'created_at'
                             AND a.atttypid = 'timestamp'::regtype)
             THEN format('h.created_at AT TIME ZONE %L', zone) ELSE 'h.created_at' END);
END
$$;
