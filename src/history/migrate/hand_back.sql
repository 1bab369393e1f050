-- Gives the schema pggit back to pgGit's own SQL, with its event triggers. What is left of ours goes aside, with its log.
DO $$
DECLARE
    l record;
    t record;
    upgrade bigint;
BEGIN
    SELECT * INTO l FROM pggit.upgrade_log g
     WHERE g.adopted IS NOT NULL AND g.status = 'completed' ORDER BY g.upgrade_id DESC LIMIT 1;
    INSERT INTO pggit.upgrade_log (from_version, to_version, status, completed_at, program)
    VALUES (0, -1, 'completed', clock_timestamp(), current_setting('pggit.upgrade_program')) RETURNING upgrade_id INTO upgrade;
    UPDATE pggit.upgrade_log g SET status = 'rolled_back', backup = NULL WHERE g.upgrade_id = l.upgrade_id;
    EXECUTE format('ALTER SCHEMA pggit RENAME TO %I', 'pggit_backup_' || upgrade);
    EXECUTE format('ALTER SCHEMA %I RENAME TO pggit', l.backup);
    EXECUTE format('ALTER SCHEMA pggit OWNER TO %I', l.adopted ->> 'owner');
    FOR t IN SELECT g.value FROM jsonb_array_elements(l.adopted -> 'triggers') g LOOP
        EXECUTE format('CREATE EVENT TRIGGER %I ON %s %s EXECUTE FUNCTION %s()', t.value ->> 'name', t.value ->> 'event',
                       'WHEN TAG IN (' || (SELECT string_agg(quote_literal(g.tag), ', ')
                                             FROM jsonb_array_elements_text(nullif(t.value -> 'tags', 'null')) g(tag)) || ')',
                       t.value ->> 'function');
        EXECUTE format('ALTER EVENT TRIGGER %I OWNER TO %I', t.value ->> 'name', t.value ->> 'owner');
        EXECUTE format('COMMENT ON EVENT TRIGGER %I IS %L', t.value ->> 'name', t.value ->> 'comment');
        EXECUTE format('ALTER EVENT TRIGGER %I %s', t.value ->> 'name',
                       CASE t.value ->> 'enabled' WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END);
    END LOOP;
END
$$;
