-- Takes over a database in which pgGit's own SQL is installed: its schema is moved aside as it is, its event triggers are dropped
-- and remembered, and a schema pggit of ours takes its place; the one that an earlier give-back left, if there is one. Where it is
-- an extension, its objects are taken out of that first, and the extension is dropped: it would hold its schema.
DO $$
DECLARE
    theirs constant oid := 'pggit'::regnamespace;
    ours text;
    t record;
    triggers jsonb;
    owner name;
    extension text;
BEGIN
    -- Whoever has changed something is waited for: pgGit has noted it then.
    LOCK TABLE pggit.objects, pggit.history IN ACCESS EXCLUSIVE MODE;
    SELECT jsonb_agg(jsonb_build_object('name', e.evtname, 'event', e.evtevent, 'tags', e.evttags, 'enabled', e.evtenabled::text,
                                        'function', format('%I.%I', s.nspname, p.proname), 'owner', pg_get_userbyid(e.evtowner),
                                        'comment', obj_description(e.oid, 'pg_event_trigger')) ORDER BY e.evtname)
      INTO triggers
      FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid JOIN pg_namespace s ON s.oid = p.pronamespace
     WHERE s.oid = theirs OR s.nspname LIKE 'pggit\_%';
    -- First these: they would note what follows, and find their tables gone.
    FOR t IN SELECT g.value ->> 'name' AS name FROM jsonb_array_elements(triggers) g LOOP
        EXECUTE format('ALTER EVENT TRIGGER %I DISABLE', t.name);
    END LOOP;
    FOR t IN
        SELECT i.type, i.identity FROM pg_extension e
          JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
         CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i
         WHERE e.extname = 'pggit'
           -- Array, row and multirange types go with theirs.
           AND NOT (d.classid = 'pg_type'::regclass
                    AND (EXISTS (SELECT FROM pg_type y WHERE y.typarray = d.objid)
                         OR EXISTS (SELECT FROM pg_type y LEFT JOIN pg_class c ON c.oid = y.typrelid
                                     WHERE y.oid = d.objid AND (y.typtype = 'm' OR c.relkind <> 'c'))))
    LOOP
        EXECUTE format('ALTER EXTENSION pggit DROP %s %s', t.type, t.identity);
    END LOOP;
    SELECT e.extversion INTO extension FROM pg_extension e WHERE e.extname = 'pggit';
    IF extension IS NOT NULL THEN
        DROP EXTENSION pggit;
    END IF;
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
    PERFORM set_config('pggit.adopted', (jsonb_strip_nulls(jsonb_build_object('owner', owner, 'extension', extension))
                                        || jsonb_build_object('triggers', coalesce(triggers, '[]')))::text, true);
END
$$;
