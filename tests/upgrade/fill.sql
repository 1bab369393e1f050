-- Three rows (one, where no more are allowed) in each table of the schema pggit that has none, with a value in every column that no
-- CHECK forbids: what a migration has to carry.
DO $$
DECLARE
    t record;
    used boolean;
BEGIN
    FOR t IN
        SELECT c.oid, c.relname,
               string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns,
               string_agg(CASE format_type(a.atttypid, NULL)
                          WHEN 'text' THEN $q$'x' || n$q$ WHEN 'uuid' THEN 'gen_random_uuid()' WHEN 'boolean' THEN 'true'
                          WHEN 'timestamp with time zone' THEN 'clock_timestamp()' WHEN 'interval' THEN $q$'1 s'$q$ WHEN 'jsonb' THEN $q$'{"a": 1}'$q$
                          WHEN 'bytea' THEN $q$'\x00'$q$ WHEN 'inet' THEN $q$'::1'$q$ WHEN 'text[]' THEN $q$'{a,b}'$q$ WHEN 'integer[]' THEN $q$'{1,2}'$q$
                          WHEN 'uuid[]' THEN 'array[gen_random_uuid()]' WHEN 'xid8' THEN $q$'700'$q$ WHEN 'xid' THEN $q$'700'$q$
                          WHEN 'xid[]' THEN $q$'{700}'$q$ ELSE 'n' END, ', ' ORDER BY a.attnum) AS value
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'pggit'::regnamespace AND c.relkind = 'r' AND c.relname NOT IN ('migrations', 'upgrade_log')
           AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity = ''
           AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND a.attnum = ANY (k.conkey)
                                                         AND (NOT a.attnotnull OR a.atthasdef))
         GROUP BY c.oid, c.relname ORDER BY c.oid
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM pggit.%I)', t.relname) INTO used;
        IF NOT used THEN
            EXECUTE format('INSERT INTO pggit.%I (%s) SELECT %s FROM generate_series(1, 3) n ON CONFLICT DO NOTHING', t.relname, t.columns, t.value);
        END IF;
    END LOOP;
END
$$;
