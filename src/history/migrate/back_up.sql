-- Copies the tables that a step changes, as they are, into a schema of its own; in the step's own transaction, with the tables
-- locked from here on: the copy is what the step finds. Tables without rows are not copied.
--
-- pggit.upgrade_id: the step's row in the log; pggit.upgrade_tables: the names of the tables.
DO $$
DECLARE
    upgrade bigint := pg_catalog.current_setting('pggit.upgrade_id')::bigint;
    place text := 'pggit_backup_' || upgrade;
    locks text;
    t record;
    n bigint;
    used boolean;
    sequences jsonb;
    kept jsonb := '[]';
BEGIN
    -- In one order, and as the step itself will need them: with a weaker lock first, we and a client could wait for each other.
    SELECT string_agg(format('pggit.%I', c.relname), ', ' ORDER BY c.relname) INTO locks
      FROM pg_class c
     WHERE c.relnamespace = 'pggit'::regnamespace AND c.relkind = 'r'
       AND c.relname = ANY (current_setting('pggit.upgrade_tables')::text[]);
    IF locks IS NULL THEN
        RETURN;
    END IF;
    EXECUTE 'LOCK TABLE ' || locks || ' IN ACCESS EXCLUSIVE MODE';
    FOR t IN
        SELECT c.oid, c.relname AS name,
               (SELECT coalesce(jsonb_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
               (SELECT jsonb_agg(a.attname ORDER BY array_position(i.indkey::smallint[], a.attnum))
                  FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey::smallint[])
                 WHERE i.indrelid = c.oid AND i.indisprimary) AS key
          FROM pg_class c
         WHERE c.relnamespace = 'pggit'::regnamespace AND c.relkind = 'r'
           AND c.relname = ANY (current_setting('pggit.upgrade_tables')::text[])
         -- Older ones first: others may point to their rows.
         ORDER BY c.oid
    LOOP
        SELECT jsonb_object_agg(q.column, q.last) FILTER (WHERE q.last IS NOT NULL) INTO sequences
          FROM (SELECT a.attname AS column, pg_sequence_last_value(d.objid) AS last
                  FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
                  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
                   AND d.deptype IN ('a', 'i')) q;
        EXECUTE format('SELECT EXISTS (SELECT FROM pggit.%I)', t.name) INTO used;
        CONTINUE WHEN NOT used AND sequences IS NULL;
        IF jsonb_array_length(kept) = 0 THEN
            EXECUTE format('CREATE SCHEMA %I', place);
            EXECUTE format('COMMENT ON SCHEMA %I IS %L', place,
                           'Tables of the schema pggit as they were before the step ' || upgrade || ' of pggit.upgrade_log');
        END IF;
        EXECUTE format('CREATE TABLE %1$I.%2$I AS TABLE pggit.%2$I', place, t.name);
        GET DIAGNOSTICS n = ROW_COUNT;
        kept := kept || jsonb_strip_nulls(jsonb_build_object('table', t.name, 'rows', n, 'columns', t.columns, 'key', t.key,
                                                             'sequences', sequences));
    END LOOP;
    IF jsonb_array_length(kept) > 0 THEN
        UPDATE pggit.upgrade_log l SET backup = place, tables = kept WHERE l.upgrade_id = upgrade;
    END IF;
END
$$;
