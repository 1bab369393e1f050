-- After a step down: notes what the older version cannot hold: tables, columns, and rows that the step removed. These rows are
-- put beside the copy, for nobody could tell them later from rows that were removed since.
DO $$
DECLARE
    upgrade bigint := pg_catalog.current_setting('pggit.upgrade_id')::bigint;
    l record;
    t record;
    n bigint;
    lost jsonb;
    settled jsonb := '[]';
BEGIN
    SELECT * INTO l FROM pggit.upgrade_log g WHERE g.upgrade_id = upgrade;
    FOR t IN SELECT e.value, e.value ->> 'table' AS name, c.oid
               FROM jsonb_array_elements(l.tables) WITH ORDINALITY e
               -- By its name: a step may make a table anew.
               LEFT JOIN pg_class c ON c.relname = e.value ->> 'table' AND c.relnamespace = 'pggit'::regnamespace AND c.relkind = 'r'
              ORDER BY e.ordinality
    LOOP
        IF t.oid IS NULL THEN
            lost := jsonb_build_object('dropped', true);
        ELSE
            lost := jsonb_strip_nulls(jsonb_build_object('lost',
                (SELECT jsonb_agg(o.value) FROM jsonb_array_elements_text(t.value -> 'columns') o
                  WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attname = o.value AND NOT a.attisdropped))));
            IF t.value ? 'key' THEN
                EXECUTE format('CREATE TABLE %1$I.%2$I AS SELECT b.* FROM %1$I.%3$I b WHERE NOT EXISTS (SELECT FROM pggit.%3$I t WHERE %4$s)',
                               l.backup, t.name || '_removed', t.name,
                               (SELECT string_agg(format('t.%I = b.%1$I', k), ' AND ') FROM jsonb_array_elements_text(t.value -> 'key') k));
                GET DIAGNOSTICS n = ROW_COUNT;
                IF n > 0 THEN
                    lost := lost || jsonb_build_object('removed', n);
                ELSE
                    EXECUTE format('DROP TABLE %I.%I', l.backup, t.name || '_removed');
                END IF;
            END IF;
        END IF;
        settled := settled || (t.value || lost);
    END LOOP;
    UPDATE pggit.upgrade_log g SET tables = settled WHERE g.upgrade_id = upgrade AND g.tables IS NOT NULL;
END
$$;
