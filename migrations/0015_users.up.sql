-- What users of a branch call: what the schema was, who changed what, and what is new on this branch.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

---------------------------------------------------------------------------------------------------------------------------
-- Where this branch comes from
---------------------------------------------------------------------------------------------------------------------------

-- Written once, by whoever makes the branch, in the branch's own database: that knows nothing of the main database's table.
-- Everything in the history up to forked_at is the parent's.
CREATE TABLE pggit.fork (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    parent    text NOT NULL,
    commit_id uuid,
    forked_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE pggit.fork IS 'What this branch was made from; no row in a database that was not made from a branch';

-- A copy has no dropped columns, so its columns have other numbers. Of tables that had some: every column that came along.
CREATE TABLE pggit.origin_columns (
    objid      oid NOT NULL,
    attnum     smallint NOT NULL,
    was        oid NOT NULL,
    was_attnum smallint NOT NULL,
    PRIMARY KEY (was, was_attnum)
);
COMMENT ON TABLE pggit.origin_columns IS 'Numbers that columns had in the databases that this branch was made from, where they have others';

-- What is kept by numbers of columns, by those that they have in this database; negative: a column that was dropped before.
CREATE FUNCTION pggit.own_columns(relation oid, by_number jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN jsonb_typeof(by_number) = 'object' AND EXISTS (SELECT FROM pggit.origin_columns o WHERE o.was = relation)
                THEN (SELECT coalesce(jsonb_object_agg(coalesce(o.attnum::text, '-' || e.key), e.value), '{}')
                        FROM jsonb_each(by_number) e
                        LEFT JOIN pggit.origin_columns o ON o.was = relation AND o.was_attnum = e.key::integer)
                ELSE by_number END
$$;

---------------------------------------------------------------------------------------------------------------------------
-- The schema as it was
---------------------------------------------------------------------------------------------------------------------------

-- The history's rows as they matter for a moment, under the oids and numbers that objects and columns have in this database. past: the row's
-- commit was complete by then. Commits stand in the order of their last changes, as they are sealed.
CREATE FUNCTION pggit.rows_by(moment timestamptz)
RETURNS TABLE (id uuid, classid oid, objid oid, objsubid integer, aspect text, action text, object_type text, object_name text,
               namespace oid, object_identity text, shape jsonb, commit_id uuid, created_at timestamptz, ordinal integer, past boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH late AS MATERIALIZED (
        SELECT DISTINCT c.commit_id FROM pggit.changes c WHERE c.created_at > moment
    )
    SELECT c.id, c.classid, coalesce(g.objid, c.objid),
           CASE WHEN x.moved AND c.objsubid <> 0
                THEN coalesce((SELECT o.attnum FROM pggit.origin_columns o WHERE o.was = c.objid AND o.was_attnum = c.objsubid), -c.objsubid)
                ELSE c.objsubid END,
           c.aspect, c.action, c.object_type, c.object_name, coalesce(n.objid, c.namespace), c.object_identity,
           CASE WHEN x.moved THEN pggit.own_columns(c.objid, c.shape) ELSE c.shape END,
           c.commit_id, c.created_at, c.ordinal, l.commit_id IS NULL
      FROM pggit.changes c
     CROSS JOIN LATERAL (SELECT c.classid = 'pg_class'::regclass AND c.objid IN (SELECT o.was FROM pggit.origin_columns o) AS moved) x
      LEFT JOIN late l ON l.commit_id = c.commit_id
      LEFT JOIN pggit.origins g ON g.was = c.objid AND g.classid = c.classid
      LEFT JOIN pggit.origins n ON n.was = c.namespace AND n.classid = 'pg_namespace'::regclass
     WHERE c.objid IS NOT NULL
$$;

-- A word as a pattern: whole names only.
CREATE FUNCTION pggit.as_word(word text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT '(^|[^[:alnum:]_$])' || regexp_replace(word, '([][\\.(){}*+?^$|])', '\\\1', 'g') || '($|[^[:alnum:]_$])'
$$;

-- Every object that was there at a moment, with what was known of it. Grants are not: the history tells of the statement, not of
-- the object.
--
-- A definition is the text that was printed when the object itself was changed last. What it names may have been renamed since
-- (a table that a view reads, a column, a label of an enum), and the server prints the new name from then on, without a change
-- of the object. Where that happened before the moment, and neither the object nor a name in it changed after it, the text that
-- the server prints now is the right one; else the old text is given, and it is `stale`. A name that merely looks the same makes
-- a text stale, too.
CREATE FUNCTION pggit.objects_at(moment timestamptz)
RETURNS TABLE (classid oid, objid oid, objsubid integer, object_type text, object_identity text, fact text, value text,
               shape jsonb, change_id uuid, stale boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
SET "TimeZone" = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' SET lc_monetary = 'C'
SET standard_conforming_strings = on SET quote_all_identifiers = off AS $$
    WITH known AS MATERIALIZED (
        SELECT r.* FROM pggit.rows_by(moment) r
    ), newest AS MATERIALIZED (
        SELECT DISTINCT ON (k.classid, k.objid, k.objsubid, k.aspect) k.* FROM known k WHERE k.past
         ORDER BY k.classid, k.objid, k.objsubid, k.aspect, k.created_at DESC, k.ordinal DESC
    ), ours AS MATERIALIZED (
        -- Roles, databases and the like are the server's; default privileges have no rows of their own.
        SELECT c.oid FROM pg_class c
         WHERE c.relnamespace = 'pg_catalog'::regnamespace AND (NOT c.relisshared OR c.oid = 'pg_subscription'::regclass)
           AND c.oid NOT IN ('pg_event_trigger'::regclass, 'pg_default_acl'::regclass)
    ), alive AS MATERIALIZED (
        SELECT n.* FROM newest n
         WHERE n.aspect = '' AND n.objsubid = 0 AND n.action <> 'DROP' AND n.classid IN (SELECT o.oid FROM ours o)
           -- The server makes indexes and statistics anew for another type of a column, and tells of no drop: a later one took the name.
           AND NOT (n.object_type IN ('index', 'statistics object') AND EXISTS (
                   SELECT FROM known k
                    WHERE k.past AND k.aspect = '' AND k.objsubid = 0 AND k.object_type = n.object_type AND k.object_identity = n.object_identity
                      AND k.objid <> n.objid AND (k.created_at, k.ordinal) > (n.created_at, n.ordinal)))
    ), steps AS (
        SELECT k.classid, k.objid, k.created_at, k.ordinal, k.past, k.object_name, k.namespace, k.shape,
               lag(k.object_name) OVER w AS old_name, lag(k.namespace) OVER w AS old_namespace, lag(k.shape) OVER w AS old_shape
          FROM known k WHERE k.aspect = '' AND k.objsubid = 0
        WINDOW w AS (PARTITION BY k.classid, k.objid ORDER BY k.created_at, k.ordinal)
    ), renames AS MATERIALIZED (
        SELECT s.classid, s.objid, s.created_at, s.ordinal, s.past, x.old, pggit.as_word(x.old) AS old_word, x.new, pggit.as_word(x.new) AS new_word
          FROM steps s
         CROSS JOIN LATERAL (
            SELECT quote_ident(s.old_name), quote_ident(s.object_name)
             WHERE s.old_name <> s.object_name OR s.old_namespace <> s.namespace
            UNION ALL
            SELECT quote_ident(a.value ->> 0), quote_ident(b.value ->> 0)
              FROM jsonb_each(CASE WHEN s.old_shape <> s.shape AND jsonb_typeof(s.old_shape) = 'object' THEN s.old_shape ELSE '{}' END) a
              JOIN jsonb_each(CASE WHEN jsonb_typeof(s.shape) = 'object' THEN s.shape ELSE '{}' END) b ON b.key = a.key
             WHERE a.value ->> 0 <> b.value ->> 0
            UNION ALL
            SELECT a.label, b.label
              FROM jsonb_array_elements_text(CASE WHEN s.old_shape <> s.shape AND jsonb_typeof(s.old_shape) = 'array' THEN s.old_shape ELSE '[]' END)
                   WITH ORDINALITY a(label, n)
              JOIN jsonb_array_elements_text(CASE WHEN jsonb_typeof(s.shape) = 'array' THEN s.shape ELSE '[]' END)
                   WITH ORDINALITY b(label, n) ON b.n = a.n
             WHERE a.label <> b.label AND NOT s.shape ? a.label) x(old, new)
    ), judged AS (
        SELECT a.*, c.new_definition AS text,
               EXISTS (SELECT FROM renames r
                        WHERE r.past AND (r.created_at, r.ordinal) > (a.created_at, a.ordinal)
                          AND (r.objid, r.classid) <> (a.objid, a.classid)
                          AND strpos(concat_ws(' ', c.new_definition, a.object_identity), r.old) > 0
                          AND concat_ws(' ', c.new_definition, a.object_identity) ~ r.old_word) AS outdated
          FROM alive a JOIN pggit.changes c ON c.id = a.id
    ), now AS MATERIALIZED (
        SELECT j.classid, j.objid, i.identity, d.definition
          FROM judged j
         CROSS JOIN LATERAL pg_identify_object(j.classid, j.objid, 0) i
         CROSS JOIN LATERAL pggit.describe(j.classid, j.objid) d
         WHERE j.outdated AND i.identity IS NOT NULL
           AND NOT EXISTS (SELECT FROM known k WHERE NOT k.past AND k.objid = j.objid AND k.classid = j.classid AND k.aspect = '')
           AND NOT EXISTS (SELECT FROM renames r WHERE NOT r.past AND concat_ws(' ', d.definition, i.identity) ~ r.new_word)
    ), object AS MATERIALIZED (
        SELECT j.classid, j.objid, j.object_type, coalesce(n.identity, j.object_identity) AS identity,
               CASE WHEN n.objid IS NULL THEN j.text ELSE n.definition END AS definition, j.shape, j.id, j.outdated AND n.objid IS NULL AS stale
          FROM judged j LEFT JOIN now n ON n.objid = j.objid AND n.classid = j.classid
    ), remarks AS (
        SELECT n.classid, n.objid, n.objsubid, n.object_type, n.object_identity, n.id,
               CASE n.aspect WHEN 'label' THEN 'security label' ELSE n.aspect END AS fact, c.new_definition AS value
          FROM newest n JOIN pggit.changes c ON c.id = n.id
         WHERE n.aspect <> '' AND n.action <> 'DROP' AND c.new_definition IS NOT NULL
        UNION ALL
        -- Comments that the history never told of have been there ever since: it does not begin with them, and
        -- those that an extension brought belong to it.
        SELECT d.classoid, d.objoid, d.objsubid, i.type, i.identity, NULL, 'comment', d.description
          FROM pg_description d CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
         WHERE (d.classoid IN (SELECT o.oid FROM ours o) AND EXISTS (SELECT FROM object o WHERE o.objid = d.objoid AND o.classid = d.classoid)
                OR d.classoid = 'pg_constraint'::regclass)
           AND NOT EXISTS (SELECT FROM known k WHERE k.objid = d.objoid AND k.classid = d.classoid AND k.objsubid = d.objsubid AND k.aspect = 'comment')
    )
    SELECT o.classid, o.objid, 0, o.object_type, o.identity, 'definition', coalesce(o.definition, ''), o.shape, o.id, o.stale FROM object o
    UNION ALL
    -- Kinds in the words of pg_identify_object: calls that the proxy adds have the statement's.
    SELECT r.classid, r.objid, r.objsubid, o.object_type || CASE WHEN r.objsubid <> 0 THEN ' column' ELSE '' END,
           CASE WHEN r.objsubid = 0 THEN o.identity ELSE o.identity || '.' || quote_ident(o.shape -> r.objsubid::text ->> 0) END,
           r.fact, r.value, NULL, r.id, o.stale
      FROM remarks r JOIN object o ON o.classid = r.classid AND o.objid = r.objid
     WHERE r.objsubid = 0 OR o.shape ? r.objsubid::text
    UNION ALL
    -- Constraints have no rows of their own until they are dropped.
    SELECT r.classid, r.objid, 0, CASE WHEN o.classid = 'pg_type'::regclass THEN 'domain constraint' ELSE 'table constraint' END,
           coalesce(i.identity, r.object_identity), r.fact, r.value, NULL, r.id, coalesce(o.stale, true)
      FROM remarks r
      LEFT JOIN pg_constraint k ON k.oid = r.objid
      LEFT JOIN LATERAL (SELECT p.identity FROM pg_identify_object(r.classid, r.objid, 0) p WHERE k.oid IS NOT NULL) i ON true
      LEFT JOIN LATERAL (
            SELECT a.* FROM object a
             WHERE CASE WHEN k.conrelid <> 0 THEN a.classid = 'pg_class'::regclass AND a.objid = k.conrelid
                        WHEN k.contypid <> 0 THEN a.classid = 'pg_type'::regclass AND a.objid = k.contypid
                        ELSE a.object_type IN ('table', 'foreign table', 'type', 'domain')
                             AND right(r.object_identity, length(' on ' || a.identity)) = ' on ' || a.identity END
             LIMIT 1) o ON true
     WHERE r.classid = 'pg_constraint'::regclass AND o.objid IS NOT NULL
       AND NOT EXISTS (SELECT FROM newest n WHERE n.objid = r.objid AND n.classid = r.classid AND n.aspect = '' AND n.action = 'DROP')
$$;

-- What the newest change of an object's fact was, for people.
CREATE FUNCTION pggit.change_told(id uuid, OUT commit_id uuid, OUT author text, OUT changed_at timestamptz, OUT message text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.commit_id, c.created_by, c.created_at, coalesce(s.message, c.message)
      FROM pggit.changes c LEFT JOIN pggit.seals s ON s.commit_id = c.commit_id WHERE c.id = change_told.id
$$;

-- The schema of this database as it is: definitions, comments, grants and labels, with the commit that changed each last. NULL
-- there: no one recorded it. Of grants the history does not know whose they are.
CREATE FUNCTION pggit.schema()
RETURNS TABLE (object_type text, object_identity text, fact text, value text, stale boolean, commit_id uuid, author text,
               changed_at timestamptz, message text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH newest AS MATERIALIZED (
        SELECT DISTINCT ON (k.classid, k.objid, k.objsubid, k.aspect) k.id, k.classid, k.objid, k.objsubid, k.aspect
          FROM pggit.rows_by(NULL) k ORDER BY k.classid, k.objid, k.objsubid, k.aspect, k.created_at DESC, k.ordinal DESC
    ), told AS MATERIALIZED (
        SELECT i.type, i.identity, CASE n.aspect WHEN '' THEN 'definition' WHEN 'label' THEN 'security label' ELSE n.aspect END AS fact, n.id
          FROM newest n CROSS JOIN LATERAL pg_identify_object(n.classid, n.objid, n.objsubid) i
         WHERE i.identity IS NOT NULL AND (n.objsubid = 0 OR n.aspect <> '')
    )
    SELECT f.object_type, f.object_identity, f.fact, f.value, false, c.commit_id, c.author, c.changed_at, c.message
      FROM pggit.facts() f
      LEFT JOIN told t ON t.type = f.object_type AND t.identity = f.object_identity AND t.fact = f.fact
      LEFT JOIN LATERAL pggit.change_told(t.id) c ON true
$$;
COMMENT ON FUNCTION pggit.schema() IS 'The schema of this database, with the commit that changed each fact last';

-- The schema as it was at a time: after every commit whose last change was made by then.
CREATE FUNCTION pggit.schema(at timestamptz)
RETURNS TABLE (object_type text, object_identity text, fact text, value text, stale boolean, commit_id uuid, author text,
               changed_at timestamptz, message text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    first timestamptz := (SELECT min(c.created_at) FROM pggit.changes c);
BEGIN
    IF at < first OR first IS NULL THEN
        RAISE EXCEPTION 'the history of this branch begins at %', coalesce(first::text, 'no time: it is empty')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'What was there before nobody recorded.';
    END IF;
    RETURN QUERY
    SELECT o.object_type, o.object_identity, o.fact, o.value, o.stale, c.commit_id, c.author, c.changed_at, c.message
      FROM pggit.objects_at(at) o LEFT JOIN LATERAL pggit.change_told(o.change_id) c ON true;
END
$$;
COMMENT ON FUNCTION pggit.schema(timestamptz) IS 'The schema as it was at a time, by the history; without grants';

CREATE FUNCTION pggit.schema(commit_id uuid)
RETURNS TABLE (object_type text, object_identity text, fact text, value text, stale boolean, last_commit uuid, author text,
               changed_at timestamptz, message text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    made timestamptz := (SELECT max(c.created_at) FROM pggit.changes c WHERE c.commit_id = schema.commit_id);
BEGIN
    IF made IS NULL THEN
        RAISE EXCEPTION 'the history of this branch has no commit %', schema.commit_id
            USING ERRCODE = 'invalid_parameter_value', HINT = 'pggit.log() shows the newest ones.';
    END IF;
    RETURN QUERY SELECT * FROM pggit.schema(made);
END
$$;
COMMENT ON FUNCTION pggit.schema(uuid) IS 'The schema as it was after a commit, by the history; without grants';

---------------------------------------------------------------------------------------------------------------------------
-- Who touched which column last
---------------------------------------------------------------------------------------------------------------------------

-- What a definition says of each column: number -> text. Of a table its line and its settings, of a view name and type.
CREATE FUNCTION pggit.column_texts(definition text, shape jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    texts jsonb := '{}';
    is_table boolean := definition ~ '^CREATE (UNLOGGED |FOREIGN )?TABLE ';
    rest text := CASE WHEN is_table THEN substr(definition, strpos(definition, E'(\n') + 2) END;
    line text;
    behind integer;
    c record;
BEGIN
    FOR c IN SELECT e.key, quote_ident(e.value ->> 0) AS name, concat_ws(' ', quote_ident(e.value ->> 0), e.value ->> 1) AS head,
                    lead(concat_ws(' ', quote_ident(e.value ->> 0), e.value ->> 1)) OVER (ORDER BY e.key::integer) AS next
               FROM jsonb_each(shape) e ORDER BY e.key::integer
    LOOP
        line := c.head;
        IF is_table THEN
            behind := CASE WHEN c.next IS NOT NULL THEN strpos(rest, E',\n    ' || c.next)
                           ELSE coalesce(nullif(strpos(rest, E',\n    CONSTRAINT '), 0), strpos(rest, E'\n)')) END;
            line := concat(substr(rest, 5, greatest(behind - 5, 0)),
                (SELECT string_agg(' ' || m[1], '' ORDER BY n)
                   FROM regexp_matches(definition, '\nALTER [^\n]* ALTER COLUMN ' || regexp_replace(c.name, '([][\\.(){}*+?^$|])', '\\\1', 'g')
                                       || ' SET ([^\n;]*)', 'g') WITH ORDINALITY AS s(m, n)));
            rest := substr(rest, behind + 2);
        END IF;
        texts := texts || jsonb_build_object(c.key, line);
    END LOOP;
    RETURN texts;
END
$$;

-- Which change touched each column of a table, view or foreign table last: made it, or changed its name, type, default, NOT NULL,
-- collation, settings or comment. Constraints and indexes are the table's. NULL: no one recorded it.
CREATE FUNCTION pggit.blame(relation regclass)
RETURNS TABLE (column_name text, data_type text, change_type text, commit_id uuid, author text, changed_at timestamptz,
               message text, sql_executed text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    r record;
    texts jsonb := '{}';
    is_ jsonb;
    -- Number of the column -> the change, and what it was.
    touched jsonb := '{}';
    key text;
BEGIN
    FOR r IN
        SELECT c.id, c.aspect, c.action, c.new_definition, c.shape, c.objid, m.key
          FROM pggit.changes c
         CROSS JOIN LATERAL jsonb_object_keys(pggit.own_columns(c.objid, jsonb_build_object(c.objsubid, 0))) m(key)
         WHERE c.classid = 'pg_class'::regclass AND (c.aspect = '' AND c.objsubid = 0 AND c.action <> 'DROP' OR c.aspect = 'comment' AND c.objsubid > 0)
           AND c.objid IN (SELECT relation::oid UNION SELECT g.was FROM pggit.origins g WHERE g.classid = 'pg_class'::regclass AND g.objid = relation)
         ORDER BY c.created_at, c.ordinal
    LOOP
        IF r.aspect = 'comment' THEN
            touched := touched || jsonb_build_object(r.key, jsonb_build_array(r.id, 'COMMENT'));
            CONTINUE;
        END IF;
        -- A transaction that did not see the whole table.
        CONTINUE WHEN r.shape IS NULL OR r.new_definition IS NULL;
        is_ := pggit.own_columns(r.objid, pggit.column_texts(r.new_definition, r.shape));
        FOR key IN SELECT k FROM jsonb_object_keys(is_) k WHERE texts -> k IS DISTINCT FROM is_ -> k LOOP
            touched := touched || jsonb_build_object(key, jsonb_build_array(r.id,
                CASE WHEN r.action = 'BASELINE' THEN r.action WHEN texts ? key THEN 'ALTER' ELSE 'CREATE' END));
        END LOOP;
        texts := is_;
    END LOOP;
    RETURN QUERY
    SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), touched -> a.attnum::text ->> 1,
           t.commit_id, t.author, t.changed_at, t.message, c.sql_executed
      FROM pg_attribute a
      LEFT JOIN pggit.changes c ON c.id = (touched -> a.attnum::text ->> 0)::uuid
      LEFT JOIN LATERAL pggit.change_told(c.id) t ON true
     WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum;
END
$$;
COMMENT ON FUNCTION pggit.blame(regclass) IS 'Which commit touched each column of a table or view last';

---------------------------------------------------------------------------------------------------------------------------
-- What is new on this branch
---------------------------------------------------------------------------------------------------------------------------

-- In what the schema is another one than when the branch was made, by the branch's own changes: what was put back is not there.
-- No row on a branch that was not made from another one.
CREATE FUNCTION pggit.changed_since_fork()
RETURNS TABLE (change text, object_type text, object_identity text, fact text, old_value text, new_value text, commit_id uuid,
               author text, changed_at timestamptz, message text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH own AS MATERIALIZED (
        SELECT DISTINCT ON (k.classid, k.objid, k.objsubid, k.aspect) k.*
          FROM pggit.fork f CROSS JOIN LATERAL pggit.rows_by(NULL) k
         WHERE k.created_at > f.forked_at AND (k.objsubid = 0 AND k.classid <> 'pg_constraint'::regclass OR k.aspect <> '')
         ORDER BY k.classid, k.objid, k.objsubid, k.aspect, k.created_at DESC, k.ordinal DESC
    ), before AS MATERIALIZED (
        SELECT DISTINCT ON (k.classid, k.objid, k.objsubid, k.aspect) k.*
          FROM pggit.fork f CROSS JOIN LATERAL pggit.rows_by(NULL) k
         WHERE k.created_at <= f.forked_at
           AND EXISTS (SELECT FROM own o WHERE (o.classid, o.objid, o.objsubid, o.aspect) = (k.classid, k.objid, k.objsubid, k.aspect))
         ORDER BY k.classid, k.objid, k.objsubid, k.aspect, k.created_at DESC, k.ordinal DESC
    ), pairs AS (
        SELECT o.*, b.object_identity AS old_identity, w.new_definition AS old_value, n.new_definition AS new_value,
               coalesce(b.action <> 'DROP' AND (b.aspect = '' OR w.new_definition IS NOT NULL), false) AS was_there,
               o.action <> 'DROP' AND (o.aspect = '' OR n.new_definition IS NOT NULL) AS is_there
          FROM own o JOIN pggit.changes n ON n.id = o.id
          LEFT JOIN before b ON (b.classid, b.objid, b.objsubid, b.aspect) = (o.classid, o.objid, o.objsubid, o.aspect)
          LEFT JOIN pggit.changes w ON w.id = b.id
    )
    SELECT CASE WHEN NOT p.was_there THEN 'added' WHEN NOT p.is_there THEN 'removed'
                WHEN p.old_identity <> p.object_identity THEN 'renamed' ELSE 'changed' END,
           p.object_type, p.object_identity, CASE p.aspect WHEN '' THEN 'definition' WHEN 'label' THEN 'security label' ELSE p.aspect END,
           CASE WHEN p.was_there THEN p.old_value END, CASE WHEN p.is_there THEN p.new_value END,
           t.commit_id, t.author, t.changed_at, t.message
      FROM pairs p CROSS JOIN LATERAL pggit.change_told(p.id) t
     WHERE (p.was_there OR p.is_there)
       AND (p.was_there <> p.is_there OR p.old_value IS DISTINCT FROM p.new_value OR p.old_identity <> p.object_identity)
     ORDER BY p.created_at, p.ordinal
$$;
COMMENT ON FUNCTION pggit.changed_since_fork() IS 'In what this branch differs from what it was made from, by its own changes';

-- As before (0007), and what the branch changed since its fork.
DROP FUNCTION pggit.status();
CREATE FUNCTION pggit.status()
RETURNS TABLE (schema_version text, database text, branch text, recording boolean, changes bigint, commits bigint, first_change timestamptz,
               last_change timestamptz, last_author text, tracked_objects bigint, parent text, fork_commit uuid, forked_at timestamptz,
               commits_since_fork bigint, changed_since_fork text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pggit.version(), current_database()::text, pggit.default_branch(),
           pggit.capture_mode() = 'inject' OR (SELECT bool_and(t.working) FROM pggit.capture_triggers() t),
           h.*, f.parent, f.commit_id, f.forked_at,
           CASE WHEN f.only_row THEN (SELECT count(DISTINCT c.commit_id) FROM pggit.changes c WHERE c.created_at > f.forked_at) END,
           CASE WHEN f.only_row THEN
               (SELECT coalesce(array_agg(concat_ws(' ', x.change, CASE WHEN x.fact <> 'definition' THEN x.fact || ' of' END, x.object_type, x.object_identity)
                                          ORDER BY x.changed_at), '{}') FROM pggit.changed_since_fork() x) END
      FROM (SELECT count(*) FILTER (WHERE NOT c.affected AND c.action <> 'BASELINE'), count(DISTINCT c.commit_id), min(c.created_at), max(c.created_at),
                   (SELECT l.created_by FROM pggit.changes l ORDER BY l.created_at DESC, l.ordinal DESC LIMIT 1),
                   (SELECT count(*) FROM (SELECT DISTINCT ON (k.objid, k.classid, k.objsubid, k.aspect) k.action FROM pggit.changes k
                                           WHERE k.objid IS NOT NULL AND k.aspect = '' AND k.objsubid = 0
                                           ORDER BY k.objid, k.classid, k.objsubid, k.aspect, k.created_at DESC, k.ordinal DESC) x WHERE x.action <> 'DROP')
              FROM pggit.changes c) h
      LEFT JOIN pggit.fork f ON true
$$;
COMMENT ON FUNCTION pggit.status() IS 'What is recorded in this database, and what this branch changed since it was made';

-- As before (0008), and the statements.
DROP FUNCTION pggit.log(text, integer);
CREATE FUNCTION pggit.log(branch text DEFAULT NULL, max_commits integer DEFAULT 20)
RETURNS TABLE (commit_id uuid, commit_branch text, author text, created_at timestamptz, message text, changes bigint,
               severity text, objects text[], statements text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH newest AS MATERIALIZED (
        SELECT k.* FROM pggit.commits k WHERE log.branch IS NULL OR k.branch = log.branch
         ORDER BY k.created_at DESC, k.seq DESC NULLS FIRST LIMIT greatest(coalesce(max_commits, 20), 0)
    )
    SELECT n.id, n.branch, n.author, n.created_at, n.message, count(*),
           -- MAJOR, MINOR, PATCH sort by weight.
           min(h.change_severity),
           array_agg(h.change_type || ' ' || h.object_type || coalesce(' ' || h.object_identity, '') ORDER BY h.created_at, h.ordinal),
           -- A statement that changed several objects once, and again where it was said again later.
           (SELECT array_agg(s.sql_executed ORDER BY s.created_at, s.ordinal)
              FROM (SELECT c.sql_executed, c.created_at, c.ordinal,
                           lag(c.sql_executed) OVER (ORDER BY c.created_at, c.ordinal) AS before
                      FROM pggit.changes c WHERE c.commit_id = n.id AND c.sql_executed IS NOT NULL) s
             WHERE s.before IS DISTINCT FROM s.sql_executed)
      FROM newest n CROSS JOIN LATERAL (SELECT * FROM pggit.history v WHERE v.commit_id = n.id OFFSET 0) h
     GROUP BY n.id, n.branch, n.author, n.created_at, n.message, n.seq ORDER BY n.created_at DESC, n.seq DESC NULLS FIRST
$$;
COMMENT ON FUNCTION pggit.log(text, integer) IS 'The newest commits, newest first: who, when, what for, which objects, which statements';

---------------------------------------------------------------------------------------------------------------------------
-- Asking the proxy, which knows the other branches: to make one, to look at one
---------------------------------------------------------------------------------------------------------------------------

-- Who is a member may make branches.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_brancher') THEN
        CREATE ROLE pggit_brancher NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'there is no role pggit_brancher, and % may not make it', CURRENT_USER;
END
$$;

-- What a proxy answers to those who wait. Written by the recorder, outside of their transactions.
CREATE TABLE pggit.answers (
    id       uuid PRIMARY KEY,
    done     boolean NOT NULL DEFAULT false,
    sqlstate text,
    message  text,
    detail   text,
    hint     text,
    result   jsonb,
    at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE pggit.answers IS 'Answers of the proxy to functions that wait for it; removed after an hour';
REVOKE ALL ON pggit.answers FROM PUBLIC;

-- Asks the proxy of this session for something, and waits for the answer. Nothing that this transaction writes can be seen by anybody
-- before it ends, but what it says to its client at once goes through the proxy: it takes the message out, believes it by the signature,
-- and has the recorder do the work and write the answer. Whoever cancels this does not stop the work.
CREATE FUNCTION pggit.ask_proxy(call jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    secret bytea := (SELECT k.key FROM pggit.companion_key k);
    ask uuid := gen_random_uuid();
    text_of text;
    a pggit.answers;
    begun timestamptz := clock_timestamp();
BEGIN
    RESET pggit.session;
    IF pggit.current_session() IS NULL THEN
        RAISE EXCEPTION 'this connection does not go through pggit-proxy, which knows the other branches'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Connect through the proxy, or use its commands: pggit-proxy branch, pggit-proxy diff.';
    ELSIF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a transaction under % cannot see the answer of pggit-proxy', upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'active_sql_transaction', HINT = 'Call it under READ COMMITTED.';
    END IF;
    text_of := translate(encode(convert_to((call || jsonb_build_object('ask', ask, 'session', current_setting('pggit.session'),
                         'query', left(current_query(), 10000)))::text, 'UTF8'), 'base64'), E'\n', '');
    RAISE INFO USING ERRCODE = 'PGASK', MESSAGE = 'pggit:ask ' || text_of || ' '
        || encode(sha256(substring(secret, 33) || sha256(substring(secret, 1, 32) || convert_to(text_of, 'UTF8'))), 'hex');
    LOOP
        SELECT * INTO a FROM pggit.answers w WHERE w.id = ask;
        EXIT WHEN a.done;
        IF a.id IS NULL AND clock_timestamp() > begun + interval '15 seconds' OR clock_timestamp() > begun + interval '30 minutes' THEN
            RAISE EXCEPTION 'pggit-proxy did not answer' USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Its log may say why.';
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
    IF a.sqlstate IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = a.sqlstate, MESSAGE = a.message, DETAIL = coalesce(a.detail, ''), HINT = coalesce(a.hint, '');
    END IF;
    RETURN a.result;
END
$$;

-- A branch with its parent's schema and history, and without its data; returns its name. Without a parent: from this session's branch.
CREATE FUNCTION pggit.create_branch(name text, parent text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF name IS NULL THEN
        RAISE EXCEPTION 'a branch needs a name' USING ERRCODE = 'null_value_not_allowed';
    ELSIF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'active_sql_transaction', MESSAGE = 'branches cannot be made inside a transaction that does anything else',
            HINT = 'A branch is not undone with the transaction. Call it by itself, under READ COMMITTED.';
    END IF;
    PERFORM pggit.ask_proxy(jsonb_build_object('do', 'create branch', 'name', name, 'parent', parent));
    RETURN name;
END
$$;
COMMENT ON FUNCTION pggit.create_branch(text, text) IS
    'Makes a branch, for members of pggit_brancher, through the proxy: it is served when this returns';

-- The facts of a branch: of this session's own as this transaction sees them, of another one as the proxy finds them.
CREATE FUNCTION pggit.facts_of(branch text) RETURNS TABLE (object_type text, object_identity text, fact text, value text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    IF branch = pggit.current_branch() THEN
        RETURN QUERY SELECT f.* FROM pggit.facts() f;
    ELSE
        RETURN QUERY SELECT f.value ->> 0, f.value ->> 1, f.value ->> 2, f.value ->> 3
                       FROM jsonb_array_elements(pggit.ask_proxy(jsonb_build_object('do', 'facts', 'branch', branch))) f;
    END IF;
END
$$;

-- In what one branch differs from another: what DIFF on the control port says. Without a second one: this session's branch.
CREATE FUNCTION pggit.diff(from_branch text, to_branch text DEFAULT NULL)
RETURNS TABLE (object_type text, object_identity text, fact text, change text, old_value text, new_value text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
BEGIN
    IF from_branch IS NULL THEN
        RAISE EXCEPTION 'a branch is named, not NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    RETURN QUERY
      WITH a AS MATERIALIZED (SELECT f.* FROM pggit.facts_of(from_branch) f),
           b AS MATERIALIZED (SELECT f.* FROM pggit.facts_of(coalesce(to_branch, pggit.current_branch())) f)
    SELECT object_type, object_identity, fact,
           CASE WHEN a.value IS NULL THEN 'added' WHEN b.value IS NULL THEN 'removed' ELSE 'changed' END, a.value, b.value
      FROM a FULL JOIN b USING (object_type, object_identity, fact)
     WHERE a.value IS DISTINCT FROM b.value
     ORDER BY object_type COLLATE "C", object_identity COLLATE "C", fact COLLATE "C";
END
$$;
COMMENT ON FUNCTION pggit.diff(text, text) IS
    'In what the second branch (or this one) differs from the first, for members of pggit_reader, through the proxy';

-- In what the schema of this branch was another one after a commit than after an earlier one. Without a second commit: the newest change,
-- this transaction's own ones included. stale: one of both texts names something by a name that it did not have any more.
CREATE FUNCTION pggit.diff(from_commit uuid, to_commit uuid DEFAULT NULL)
RETURNS TABLE (object_type text, object_identity text, fact text, change text, old_value text, new_value text, stale boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
      WITH a AS MATERIALIZED (SELECT s.object_type, s.object_identity, s.fact, s.value, s.stale FROM pggit.schema(from_commit) s),
           b AS MATERIALIZED (SELECT s.object_type, s.object_identity, s.fact, s.value, s.stale FROM pggit.schema(to_commit) s WHERE to_commit IS NOT NULL
                              UNION ALL SELECT s.object_type, s.object_identity, s.fact, s.value, s.stale FROM pggit.schema('infinity'::timestamptz) s WHERE to_commit IS NULL)
    SELECT object_type, object_identity, fact,
           CASE WHEN a.value IS NULL THEN 'added' WHEN b.value IS NULL THEN 'removed' ELSE 'changed' END, a.value, b.value,
           coalesce(a.stale, false) OR coalesce(b.stale, false)
      FROM a FULL JOIN b USING (object_type, object_identity, fact)
     WHERE a.value IS DISTINCT FROM b.value
     ORDER BY object_type COLLATE "C", object_identity COLLATE "C", fact COLLATE "C"
$$;
COMMENT ON FUNCTION pggit.diff(uuid, uuid) IS 'In what the schema differs between two commits of this branch, by the history; without grants';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pggit FROM PUBLIC;
-- But for what everybody may ask.
GRANT EXECUTE ON FUNCTION pggit.current_branch(), pggit.default_branch(), pggit.checkout(text) TO PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        -- It only reads the catalogs, and pggit.schema() needs it.
        GRANT EXECUTE ON FUNCTION pggit.recordable_objects() TO pggit_reader;
        REVOKE ALL ON FUNCTION pggit.ask_proxy(jsonb), pggit.facts_of(text), pggit.create_branch(text, text) FROM pggit_reader;
        REVOKE ALL ON pggit.answers FROM pggit_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_brancher') THEN
        GRANT USAGE ON SCHEMA pggit TO pggit_brancher;
        GRANT EXECUTE ON FUNCTION pggit.create_branch(text, text) TO pggit_brancher;
    END IF;
END
$$;
