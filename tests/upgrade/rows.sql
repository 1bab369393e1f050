-- Every row of every table of the schema pggit, but for the migration runner's own two; in order.
SELECT string_agg(format('SELECT %L || to_jsonb(t)::text AS line FROM pggit.%I t', c.relname || ' ', c.relname), ' UNION ALL ') || ' ORDER BY 1'
  FROM pg_class c
 WHERE c.relnamespace = 'pggit'::regnamespace AND c.relkind = 'r' AND c.relname NOT IN ('migrations', 'upgrade_log') \gexec
