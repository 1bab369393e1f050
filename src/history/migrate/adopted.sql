-- The second half, with our own tables there: the log's row, whose number names the schema with pgGit's tables.
DO $$
DECLARE
    upgrade bigint;
    t record;
    n bigint;
    kept jsonb := '[]';
BEGIN
    INSERT INTO pggit.upgrade_log (from_version, to_version, status, completed_at, program, adopted)
    VALUES (-1, 0, 'completed', clock_timestamp(), current_setting('pggit.upgrade_program'), current_setting('pggit.adopted')::jsonb)
    RETURNING upgrade_id INTO upgrade;
    FOR t IN SELECT c.oid, c.relname FROM pg_class c
              WHERE c.relnamespace = 'pggit_adopting'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.oid
    LOOP
        EXECUTE format('SELECT count(*) FROM pggit_adopting.%I', t.relname) INTO n;
        kept := kept || jsonb_build_object('table', t.relname, 'rows', n);
    END LOOP;
    EXECUTE format('ALTER SCHEMA pggit_adopting RENAME TO %I', 'pggit_backup_' || upgrade);
    EXECUTE format('ALTER SCHEMA %I OWNER TO CURRENT_USER', 'pggit_backup_' || upgrade);
    UPDATE pggit.upgrade_log l SET backup = 'pggit_backup_' || upgrade, tables = kept WHERE l.upgrade_id = upgrade;
END
$$;
