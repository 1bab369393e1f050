-- Takes over a database in which pgGit's own SQL is installed: its schema is moved aside as it is, its event triggers are dropped
-- and remembered, and a schema pggit of ours takes its place; the one that an earlier give-back left, if there is one.
DO $$
DECLARE
    theirs constant oid := 'pggit'::regnamespace;
    ours text;
    upgrade bigint;
    t record;
    n bigint;
    triggers jsonb;
    owner name;
    kept jsonb := '[]';
BEGIN
    SELECT jsonb_agg(jsonb_build_object('name', e.evtname, 'event', e.evtevent, 'tags', e.evttags, 'enabled', e.evtenabled::text,
                                        'function', format('%I.%I', s.nspname, p.proname), 'owner', pg_get_userbyid(e.evtowner),
                                        'comment', obj_description(e.oid, 'pg_event_trigger')) ORDER BY e.evtname)
      INTO triggers
      FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid JOIN pg_namespace s ON s.oid = p.pronamespace
     WHERE s.oid = theirs OR s.nspname LIKE 'pggit\_%';
    -- First these: they would fire below, and find their tables gone.
    FOR t IN SELECT g.value ->> 'name' AS name FROM jsonb_array_elements(triggers) g LOOP
        EXECUTE format('DROP EVENT TRIGGER %I', t.name);
    END LOOP;

    SELECT pg_get_userbyid(s.nspowner) INTO owner FROM pg_namespace s WHERE s.oid = theirs;
    SELECT s.nspname INTO ours FROM pg_namespace s
      JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = 'upgrade_log' AND c.relkind = 'r'
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'adopted' AND NOT a.attisdropped
     WHERE s.nspname ~ '^pggit_backup_[0-9]{1,18}$' ORDER BY substr(s.nspname, 14)::bigint DESC LIMIT 1;
    ALTER SCHEMA pggit RENAME TO pggit_adopting;
    IF ours IS NULL THEN
        CREATE SCHEMA pggit;
    ELSE
        EXECUTE format('ALTER SCHEMA %I RENAME TO pggit', ours);
    END IF;
    PERFORM set_config('pggit.adopted', jsonb_build_object('owner', owner, 'triggers', coalesce(triggers, '[]'))::text, true);
END
$$;
