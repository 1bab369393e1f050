-- After a step up: brings back what the last step down from this version took away, if it was not brought back yet. Rows that
-- the step up made itself give way to those of the same key.
--
-- pggit.upgrade_version: the version that the step leads to.
DO $$
DECLARE
    upgrade bigint := pg_catalog.current_setting('pggit.upgrade_id')::bigint;
    l record;
    t record;
    key text;
    columns text;
    sequence record;
BEGIN
    SELECT * INTO l FROM pggit.upgrade_log g
     WHERE g.from_version = current_setting('pggit.upgrade_version')::bigint AND g.to_version < g.from_version
       AND g.status = 'completed' AND g.backup IS NOT NULL AND g.returned_by IS NULL
     ORDER BY g.upgrade_id DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    FOR t IN SELECT e.value, e.value ->> 'table' AS name FROM jsonb_array_elements(l.tables) WITH ORDINALITY e
              WHERE e.value ?| '{dropped,lost,removed}' ORDER BY e.ordinality
    LOOP
        IF to_regclass(format('%I.%I', l.backup, t.name)) IS NULL THEN
            RAISE EXCEPTION 'the backup %.% is gone, with the rows that this step would bring back', l.backup, t.name
                USING HINT = format('If they are given up: UPDATE pggit.upgrade_log SET returned_by = 0 WHERE upgrade_id = %s', l.upgrade_id);
        END IF;
        SELECT string_agg(format('t.%I = b.%1$I', k), ' AND ') INTO key FROM jsonb_array_elements_text(t.value -> 'key') k;
        SELECT string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum) INTO columns
          FROM pg_attribute a
         WHERE a.attrelid = format('pggit.%I', t.name)::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
           AND t.value -> 'columns' ? a.attname;
        IF t.value ? 'dropped' THEN
            IF key IS NOT NULL THEN
                EXECUTE format('DELETE FROM pggit.%1$I t USING %2$I.%1$I b WHERE %3$s', t.name, l.backup, key);
            END IF;
            EXECUTE format('INSERT INTO pggit.%1$I (%2$s) OVERRIDING SYSTEM VALUE SELECT %2$s FROM %3$I.%1$I', t.name, columns, l.backup);
        ELSE
            IF t.value ? 'removed' THEN
                EXECUTE format('INSERT INTO pggit.%1$I (%2$s) OVERRIDING SYSTEM VALUE SELECT %2$s FROM %3$I.%4$I b'
                               || ' WHERE NOT EXISTS (SELECT FROM pggit.%1$I t WHERE %5$s)',
                               t.name, columns, l.backup, t.name || '_removed', key);
            END IF;
            SELECT string_agg(format('%I = b.%1$I', a.attname), ', ' ORDER BY a.attnum) INTO columns
              FROM pg_attribute a
             WHERE a.attrelid = format('pggit.%I', t.name)::regclass AND NOT a.attisdropped AND a.attgenerated = ''
               AND t.value -> 'lost' ? a.attname;
            IF columns IS NOT NULL AND key IS NOT NULL THEN
                EXECUTE format('UPDATE pggit.%1$I t SET %2$s FROM %3$I.%1$I b WHERE %4$s', t.name, columns, l.backup, key);
            END IF;
        END IF;
        FOR sequence IN
            SELECT pg_get_serial_sequence(format('pggit.%I', t.name), s.key) AS name, s.value::bigint AS last
              FROM jsonb_each_text(t.value -> 'sequences') s
             WHERE EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = format('pggit.%I', t.name)::regclass AND a.attname = s.key)
        LOOP
            -- Numbers that were given out are not given out again.
            PERFORM setval(sequence.name, greatest(sequence.last, pg_sequence_last_value(sequence.name::regclass)))
              WHERE sequence.name IS NOT NULL;
        END LOOP;
    END LOOP;
    UPDATE pggit.upgrade_log g SET returned_by = upgrade WHERE g.upgrade_id = l.upgrade_id;
END
$$;
