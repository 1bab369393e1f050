-- Recording by event triggers.
--
-- Everything here that runs in a client's transaction (the three event trigger functions and what they call) reads the
-- system catalogs and inserts into pggit.changes; it never reads a table of ours. So it adds no serialization failure under
-- SERIALIZABLE and misses nothing under REPEATABLE READ. It uses no sequence (the client's lastval() stays), no NOTIFY and
-- no temporary object (PREPARE TRANSACTION stays possible) and no subtransaction.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

-- Objects that a command on a table or index may have changed or made without the server naming them: partitions and
-- inheritance children, and what partitions get from their parents (indexes, triggers). Those of which this very
-- (sub)transaction wrote something: where the parent gets another name, its children stay what they are.
CREATE FUNCTION pggit.descendants(rel oid, written xid) RETURNS TABLE (class oid, obj oid)
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE r(oid) AS (
        -- OFFSET 0: by index, for one parent after the other.
        SELECT rel UNION SELECT i.inhrelid FROM r CROSS JOIN LATERAL (SELECT h.inhrelid FROM pg_inherits h WHERE h.inhparent = r.oid OFFSET 0) i
    ), kept AS (
        SELECT c.oid, c.xmin, c.relispartition FROM r JOIN pg_class c ON c.oid = r.oid WHERE c.relpersistence <> 't'
    )
    SELECT 'pg_class'::regclass::oid, k.oid FROM kept k
     WHERE k.oid <> rel AND (k.xmin = written OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = k.oid AND a.xmin = written)
                             OR EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = k.oid AND c.xmin = written))
    UNION ALL
    SELECT 'pg_class'::regclass, x.indexrelid FROM kept k JOIN pg_index x ON x.indrelid = k.oid
      JOIN pg_class ic ON ic.oid = x.indexrelid AND ic.relispartition WHERE k.relispartition
    UNION ALL
    SELECT 'pg_trigger'::regclass, g.oid FROM kept k JOIN pg_trigger g ON g.tgrelid = k.oid AND g.tgparentid <> 0 AND NOT g.tgisinternal
     WHERE k.relispartition
$$;

-- Whether this transaction may have written to a catalog. The server's own counts: they may hold what the session wrote within the
-- last second, too, never less. Catalogs that it did not write to are not looked into: some grow with every table.
CREATE FUNCTION pggit.wrote(catalog regclass) RETURNS boolean LANGUAGE sql VOLATILE
RETURN pg_catalog.pg_stat_get_xact_tuples_inserted(catalog) + pg_catalog.pg_stat_get_xact_tuples_updated(catalog) > 0
       OR NOT pg_catalog.current_setting('track_counts')::boolean;

-- What ALTER TABLE makes, renames or moves together with the table and names nowhere: indexes of constraints, indexes and
-- statistics made anew for another type, sequences of columns, triggers and rules that fire or not; and tables that are no
-- partitions any more. And the table whose constraint ALTER INDEX renames. It has rows in the catalogs that this very
-- (sub)transaction wrote.
--
-- Mostly there is none of it, so each question is small and by itself: a join, or one query for all, would cost more to start than
-- all of these.
CREATE FUNCTION pggit.followers(rel oid, kind "char", written xid, OUT classes oid[], OUT objects oid[])
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found_objects oid[];
BEGIN
    IF kind IN ('i', 'I') THEN
        objects := ARRAY(SELECT k.conrelid FROM pg_index x JOIN pg_constraint k ON k.conrelid = x.indrelid AND k.conindid = rel
                          WHERE x.indexrelid = rel AND k.xmin = written);
    ELSE
        -- Its indexes, and the sequences of its columns: those that were written.
        objects := ARRAY(
            SELECT c.oid FROM pg_class c
             WHERE c.oid = ANY (ARRAY(SELECT x.indexrelid FROM pg_index x WHERE x.indrelid = rel)
                                || ARRAY(SELECT d.objid FROM pg_depend d
                                          WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = rel AND d.refobjsubid > 0
                                            AND d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND d.deptype IN ('a', 'i')))
               AND c.xmin = written AND c.relkind IN ('i', 'I', 'S'));
        IF objects <> '{}' THEN
            -- A table that is rewritten touches its indexes, too: those made, renamed or moved.
            objects := ARRAY(
                SELECT c.oid FROM pg_class c
                 WHERE c.oid = ANY (objects)
                   AND (c.relkind = 'S'
                        OR EXISTS (SELECT FROM pg_index x WHERE x.indrelid = rel AND x.indexrelid = c.oid AND x.xmin = written)
                        OR EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = rel AND k.conindid = c.oid AND k.xmin = written)
                        OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = rel
                                      AND d.refclassid = 'pg_namespace'::regclass AND d.xmin = written)));
        END IF;
        IF kind = 'p' THEN
            objects := objects || ARRAY(SELECT c.oid FROM pg_class c
                                         WHERE c.xmin = written AND c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition);
        END IF;
    END IF;
    classes := array_fill('pg_class'::regclass::oid, ARRAY[cardinality(objects)]);

    IF pggit.wrote('pg_statistic_ext') THEN
        found_objects := ARRAY(SELECT e.oid FROM pg_statistic_ext e WHERE e.stxrelid = rel AND e.xmin = written);
        classes := classes || array_fill('pg_statistic_ext'::regclass::oid, ARRAY[cardinality(found_objects)]);
        objects := objects || found_objects;
    END IF;
    IF pggit.wrote('pg_trigger') THEN
        found_objects := ARRAY(SELECT g.oid FROM pg_trigger g WHERE g.tgrelid = rel AND g.xmin = written AND NOT g.tgisinternal);
        classes := classes || array_fill('pg_trigger'::regclass::oid, ARRAY[cardinality(found_objects)]);
        objects := objects || found_objects;
    END IF;
    IF pggit.wrote('pg_rewrite') THEN
        found_objects := ARRAY(SELECT r.oid FROM pg_rewrite r WHERE r.ev_class = rel AND r.xmin = written AND r.rulename <> '_RETURN');
        classes := classes || array_fill('pg_rewrite'::regclass::oid, ARRAY[cardinality(found_objects)]);
        objects := objects || found_objects;
    END IF;
END
$$;

-- Whether an extension brought it. A function, so that it is asked for one object at a time: as a part of a larger query it may be
-- answered for all objects first.
CREATE FUNCTION pggit.is_member(class oid, obj oid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_depend m WHERE m.classid = class AND m.objid = obj AND m.objsubid = 0 AND m.deptype = 'e');
END
$$;

-- Rows for objects that may have been changed. The view decides by comparing definitions.
CREATE FUNCTION pggit.record_affected(classes oid[], objects oid[], tag text, first_ordinal integer) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid,
                               namespace, new_definition, shape, affected, ordinal)
    SELECT 'ALTER', tag, i.type, s.nspname, coalesce(t.typname, a.object_names[array_length(a.object_names, 1)]), i.identity,
           u.class, u.obj, s.oid, d.definition, d.shape, true, first_ordinal + u.n
      FROM unnest(classes, objects) WITH ORDINALITY AS u(class, obj, n)
      CROSS JOIN LATERAL pg_identify_object(u.class, u.obj, 0) i
      CROSS JOIN LATERAL pg_identify_object_as_address(u.class, u.obj, 0) a
      LEFT JOIN pg_type t ON u.class = 'pg_type'::regclass AND t.oid = u.obj
      LEFT JOIN pg_namespace s ON CASE WHEN t.oid IS NULL THEN s.nspname = a.object_names[1] ELSE s.oid = t.typnamespace END
      CROSS JOIN LATERAL pggit.describe(u.class, u.obj) d
     WHERE i.identity IS NOT NULL AND a.object_names[1] IS DISTINCT FROM 'pg_temp'
       AND NOT pggit.is_member(u.class, u.obj);
END
$$;

-- How deep in extension commands (a script may hold ALTER EXTENSION ... ADD) this transaction is. A client who sets this hides
-- nothing: see changes.affected.
CREATE FUNCTION pggit.extension_depth() RETURNS integer LANGUAGE sql STABLE
RETURN CASE WHEN pg_catalog.current_setting('pggit.extension', true) ~ '^[0-9]{1,4}$'
            THEN pg_catalog.current_setting('pggit.extension', true)::integer ELSE 0 END;

CREATE FUNCTION pggit.enter_extension(step integer) RETURNS text LANGUAGE sql VOLATILE
RETURN pg_catalog.set_config('pggit.extension', greatest(pggit.extension_depth() + step, 0)::text, true);

-- Our own schemas: pggit, and those in which a migration keeps tables as they were before it.
CREATE FUNCTION pggit.is_own(schema_name text) RETURNS boolean LANGUAGE sql IMMUTABLE
RETURN schema_name = 'pggit' OR pg_catalog.starts_with(schema_name, 'pggit_backup_') AND schema_name ~ '^pggit_backup_[0-9]+$';

-- Whether a change in our own schemas is our own migration's: those do not come through the proxy.
CREATE FUNCTION pggit.is_migrating() RETURNS boolean LANGUAGE sql STABLE
RETURN coalesce(pg_catalog.current_setting('pggit.migration', true), '') = 'on' AND SESSION_USER = CURRENT_USER
       AND pggit.current_session() IS NULL;

-- What every recording in a client's transaction begins with.
--
-- Takes back what the client made of the proxy's settings in the meantime (with a computed name, say): a reset brings the
-- value that the session began with. What a connection that goes round the proxy says of its branch is its own affair.
--
-- And waits for the history's table, should somebody hold a lock on it, but not for ever: for as long as the proxy says, or
-- less if the client says so for itself.
--
-- Its callers assign what it gives, which is nothing: PERFORM would start a query for it.
CREATE FUNCTION pggit.begin_recording() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    own text := current_setting('lock_timeout');
    bound text := coalesce(nullif(current_setting('pggit.timeout', true), ''), '5s');
BEGIN
    RESET pggit.session;
    RESET pggit.client;
    RESET pggit.rerouted_from;
    IF current_setting('pggit.session', true) <> '' THEN
        RESET pggit.branch;
    END IF;
    IF own = '0' OR own::interval > bound::interval THEN
        bound := set_config('lock_timeout', bound, true);
        LOCK TABLE pggit.changes IN ROW EXCLUSIVE MODE;
        own := set_config('lock_timeout', own, true);
    END IF;
END
$$;

-- The settings besides search_path are for speed: every lookup here is for one object, by index; a plan made once serves. For
-- speed too, what most commands need is one query here, a few small ones in the printer and the INSERT, with few assignments between them:
-- each of those costs a part of what CREATE TABLE itself costs. Those from TimeZone to quote_all_identifiers are how constants in definitions are printed.
CREATE FUNCTION pggit.record_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET "TimeZone" = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' SET lc_monetary = 'C'
SET standard_conforming_strings = on SET quote_all_identifiers = off
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
    begun text;
    o record;
    d record;
    names text[];
    seen text[] := '{}';
    n integer := 0;
    families oid[] := '{}';
    opfamilies oid[] := '{}';
    altered oid[] := '{}';
    altered_kinds "char"[] := '{}';
    row_types oid[] := '{}';
    written xid;
    family oid;
    classes oid[];
    objects oid[];
BEGIN
    -- Of a drop sql_drop tells. But DROP OWNED revokes too.
    IF tg_tag LIKE 'DROP %' AND tg_tag <> 'DROP OWNED' THEN
        RETURN;
    END IF;
    begun := pggit.begin_recording();
    -- An extension is one change, with its version; what its script makes belongs to it.
    FOR o IN
        SELECT e.classid, e.objid, e.objsubid, e.command_tag, e.object_type, e.schema_name, e.object_identity,
               CASE split_part(e.command_tag, ' ', 1) WHEN 'SELECT' THEN 'CREATE'    -- SELECT INTO
                    ELSE split_part(e.command_tag, ' ', 1) END AS action,
               CASE split_part(e.command_tag, ' ', 1) WHEN 'COMMENT' THEN 'comment' WHEN 'SECURITY' THEN 'label' ELSE '' END AS aspect,
               concat_ws(' ', e.classid, e.objid, e.objsubid) AS key,
               c.relname::text AS name, c.relnamespace AS space, c.relkind, c.reltype, c.relhassubclass OR c.relispartition AS in_tree,
               c AS relation
          FROM pg_event_trigger_ddl_commands() e
          LEFT JOIN pg_class c ON e.classid = 'pg_class'::regclass AND c.oid = e.objid
         WHERE NOT e.in_extension AND e.schema_name IS DISTINCT FROM 'pg_temp'
           AND e.command_tag NOT IN ('REFRESH MATERIALIZED VIEW', 'REINDEX')
    LOOP
        IF o.classid IS NULL THEN                                   -- GRANT, REVOKE, ALTER DEFAULT PRIVILEGES: no object is told
            CONTINUE WHEN pggit.is_migrating();
            n := n + 1;
            INSERT INTO pggit.changes (action, command_tag, object_type, ordinal)
            VALUES (o.action, o.command_tag, lower(o.object_type), n);
            CONTINUE;
        END IF;

        -- What has no definition of its own stands in that of its table, type or publication. Columns and constraints are
        -- reported for a rename only. A composite type's attributes are reported as its relation's.
        IF o.aspect = '' AND (o.objsubid <> 0 OR o.relkind = 'c' OR o.classid IN ('pg_constraint'::regclass, 'pg_publication_rel'::regclass,
                                                               'pg_publication_namespace'::regclass)) THEN
            IF o.classid = 'pg_publication_rel'::regclass THEN
                SELECT 'pg_publication'::regclass AS classid, r.prpubid AS objid INTO d FROM pg_publication_rel r WHERE r.oid = o.objid;
            ELSIF o.classid = 'pg_publication_namespace'::regclass THEN
                SELECT 'pg_publication'::regclass AS classid, r.pnpubid AS objid INTO d
                    FROM pg_publication_namespace r WHERE r.oid = o.objid;
            ELSIF o.classid = 'pg_constraint'::regclass THEN
                SELECT CASE WHEN k.conrelid <> 0 THEN 'pg_class'::regclass ELSE 'pg_type'::regclass END AS classid,
                       CASE WHEN k.conrelid <> 0 THEN k.conrelid ELSE k.contypid END AS objid INTO d
                  FROM pg_constraint k WHERE k.oid = o.objid;
            ELSE
                SELECT CASE WHEN o.relkind = 'c' THEN 'pg_type'::regclass ELSE 'pg_class'::regclass END AS classid,
                       CASE WHEN o.relkind = 'c' THEN o.reltype ELSE o.objid END AS objid INTO d;
            END IF;
            IF d.objid IS NOT NULL THEN
                SELECT d.classid::oid AS classid, d.objid AS objid, 0 AS objsubid, o.command_tag AS command_tag,
                       i.type AS object_type, CASE WHEN d.classid <> 'pg_publication'::regclass THEN o.schema_name END AS schema_name,
                       i.identity AS object_identity,
                       CASE WHEN o.action = 'ALTER' AND (o.objsubid <> 0 OR o.classid = 'pg_constraint'::regclass) THEN 'RENAME'
                            ELSE o.action END AS action,
                       o.aspect AS aspect, concat_ws(' ', d.classid::oid, d.objid, 0) AS key,
                       c.relname::text AS name, c.relnamespace AS space, c.relkind AS relkind, c.reltype AS reltype,
                       c.relhassubclass OR c.relispartition AS in_tree, c AS relation
                  INTO o
                  FROM pg_identify_object(d.classid, d.objid, 0) i
                  LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid;
            END IF;
        END IF;

        -- One command reports the same object several times (CREATE TABLE, then ALTER TABLE for a foreign key): the first counts.
        CONTINUE WHEN o.key = ANY (seen);
        seen := seen || o.key;
        CONTINUE WHEN (pggit.is_own(o.schema_name) OR o.classid = 'pg_namespace'::regclass AND pggit.is_own(o.object_identity))
                  AND pggit.is_migrating();

        IF o.classid = 'pg_class'::regclass AND o.objsubid = 0 AND o.aspect = '' THEN
            IF o.relkind IN ('r', 'p', 'f') THEN
                d := pggit.describe_table(o.relation);
            ELSE
                d := pggit.describe_relation(o.relation);
            END IF;
            IF o.relkind = 'I' OR o.in_tree AND o.relkind IN ('r', 'p', 'f') THEN
                families := families || o.objid;
            END IF;
        ELSE
            IF o.classid = 'pg_type'::regclass THEN
                SELECT t.typname, t.typnamespace INTO o.name, o.space FROM pg_type t WHERE t.oid = o.objid;
            ELSIF o.classid = 'pg_proc'::regclass THEN
                SELECT p.proname, p.pronamespace INTO o.name, o.space FROM pg_proc p WHERE p.oid = o.objid;
            ELSIF o.classid <> 'pg_class'::regclass OR o.objsubid <> 0 THEN
                names := (pg_identify_object_as_address(o.classid, o.objid, o.objsubid)).object_names;
                o.name := CASE WHEN o.classid IN ('pg_cast'::regclass, 'pg_transform'::regclass) THEN o.object_identity
                               ELSE names[array_length(names, 1)] END;
                IF o.classid IN ('pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_rewrite'::regclass) THEN
                    CONTINUE WHEN names[1] = 'pg_temp' OR pggit.is_own(names[1]) AND pggit.is_migrating();
                    o.schema_name := names[1];
                    IF o.classid = 'pg_trigger'::regclass AND o.aspect = '' THEN
                        families := families || (SELECT c.oid FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
                                                  WHERE g.oid = o.objid AND c.relkind = 'p');
                    END IF;
                ELSIF o.classid = 'pg_opclass'::regclass AND o.aspect = '' THEN
                    opfamilies := opfamilies || (SELECT c.opcfamily FROM pg_opclass c WHERE c.oid = o.objid);
                ELSIF o.classid = 'pg_statistic_ext'::regclass THEN
                    CONTINUE WHEN EXISTS (SELECT FROM pg_statistic_ext x JOIN pg_class c ON c.oid = x.stxrelid
                                           WHERE x.oid = o.objid AND c.relpersistence = 't');
                END IF;
            END IF;

            IF o.aspect = 'comment' THEN
                SELECT max(t.description) AS definition, NULL::jsonb AS shape INTO d FROM pg_description t
                 WHERE t.classoid = o.classid AND t.objoid = o.objid AND t.objsubid = o.objsubid;
            ELSIF o.aspect = 'label' THEN
                SELECT string_agg(format('%I: %s', t.provider, t.label), E'\n' ORDER BY t.provider) AS definition, NULL::jsonb AS shape
                  INTO d FROM pg_seclabel t
                 WHERE t.classoid = o.classid AND t.objoid = o.objid AND t.objsubid = o.objsubid;
            ELSE
                d := pggit.describe(o.classid, o.objid);
            END IF;
        END IF;
        IF o.space IS NULL AND o.schema_name IS NOT NULL THEN
            SELECT s.oid INTO o.space FROM pg_namespace s WHERE s.nspname = o.schema_name;
        END IF;

        n := n + 1;
        INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid,
                                   objsubid, namespace, aspect, new_definition, shape, ordinal)
        VALUES (o.action, o.command_tag, o.object_type, o.schema_name, o.name, o.object_identity, o.classid, o.objid, o.objsubid,
                o.space, o.aspect, d.definition, d.shape, n)
        RETURNING xmin INTO written;
        IF o.relkind IN ('r', 'p', 'm', 'f', 'i', 'I') AND o.action IN ('ALTER', 'RENAME') THEN
            altered := altered || o.objid;
            altered_kinds := altered_kinds || o.relkind;
        ELSIF o.classid = 'pg_type'::regclass AND o.action IN ('ALTER', 'RENAME') THEN
            row_types := row_types || o.objid;
        END IF;
    END LOOP;

    -- What changed along, and was not named.
    FOREACH family IN ARRAY opfamilies LOOP
        classes := classes || 'pg_opfamily'::regclass::oid;
        objects := objects || family;
    END LOOP;
    FOR nth IN 1 .. cardinality(altered) LOOP
        d := pggit.followers(altered[nth], altered_kinds[nth], written);
        FOR i IN 1 .. cardinality(d.objects) LOOP
            CONTINUE WHEN concat_ws(' ', d.classes[i], d.objects[i], 0) = ANY (seen);
            seen := seen || concat_ws(' ', d.classes[i], d.objects[i], 0);
            classes := classes || d.classes[i];
            objects := objects || d.objects[i];
        END LOOP;
    END LOOP;
    IF row_types <> '{}' THEN
        -- ALTER TYPE ... CASCADE: tables of that type, and those that inherit from them.
        FOR family IN SELECT c.oid FROM pg_class c
                       WHERE c.reloftype = ANY (row_types) AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.xmin = written OFFSET 0)
        LOOP
            classes := classes || 'pg_class'::regclass::oid;
            objects := objects || family;
            families := families || family;
        END LOOP;
    END IF;
    FOREACH family IN ARRAY families LOOP
        FOR d IN SELECT m.class, m.obj FROM pggit.descendants(family, written) m LOOP
            CONTINUE WHEN concat_ws(' ', d.class, d.obj, 0) = ANY (seen);
            seen := seen || concat_ws(' ', d.class, d.obj, 0);
            classes := classes || d.class;
            objects := objects || d.obj;
        END LOOP;
    END LOOP;
    IF classes IS NOT NULL THEN
        PERFORM pggit.record_affected(classes, objects, tg_tag, n);
    END IF;

    -- LIKE ... INCLUDING COMMENTS: those of indexes and statistics are told by nobody.
    IF tg_tag = 'CREATE TABLE' AND pggit.has_like(current_query()) THEN
        INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid, namespace, aspect,
                                   new_definition, ordinal)
        SELECT 'COMMENT', 'COMMENT', i.type, s.nspname, a.object_names[array_length(a.object_names, 1)], i.identity, t.classoid, t.objoid, s.oid, 'comment',
               t.description, n + row_number() OVER ()
          FROM unnest(seen) k(key)
          JOIN pg_description t ON t.classoid = split_part(k.key, ' ', 1)::oid AND t.objoid = split_part(k.key, ' ', 2)::oid AND t.objsubid = 0
          CROSS JOIN LATERAL pg_identify_object(t.classoid, t.objoid, 0) i
          CROSS JOIN LATERAL pg_identify_object_as_address(t.classoid, t.objoid, 0) a
          LEFT JOIN pg_namespace s ON s.nspname = a.object_names[1]
         WHERE t.classoid IN ('pg_class'::regclass, 'pg_statistic_ext'::regclass);
    END IF;

    -- If what they hang on is gone, too, sql_drop told of both. CONCURRENTLY ends in another transaction, where nothing is noted.
    IF tg_tag = 'ALTER TABLE' AND pggit.takes_along() THEN
        INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid, namespace, ordinal)
        SELECT 'DROP', tg_tag, k.type, k.schema_name, k.name, k.identity, k.class, k.obj, k.space,
               n + coalesce(cardinality(classes), 0) + row_number() OVER (ORDER BY k.obj)
          FROM jsonb_to_recordset(coalesce(nullif(current_setting('pggit.along', true), ''), '[]')::jsonb)
               AS k(class oid, obj oid, type text, name text, identity text, schema_name text, space oid, root oid, part smallint)
         WHERE (pg_identify_object(k.class, k.obj, 0)).identity IS NULL
           AND CASE k.type WHEN 'trigger' THEN EXISTS (SELECT FROM pg_trigger g WHERE g.oid = k.root)
                           ELSE EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = k.root AND a.attnum = k.part AND NOT a.attisdropped) END;
    END IF;

    IF tg_tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        PERFORM pggit.enter_extension(-1);
    END IF;
END
$$;

-- Whether this CREATE TABLE may copy another one's comments.
CREATE FUNCTION pggit.has_like(query text) RETURNS boolean LANGUAGE sql IMMUTABLE
RETURN pg_catalog.lower(query COLLATE pg_catalog."C") LIKE '%like%' AND query ~* '\mlike\M';

-- Whether this ALTER TABLE may take objects along of which sql_drop does not tell: DETACH PARTITION the partition's copies of triggers,
-- DROP IDENTITY the sequence. What a function makes up is left to the probe.
CREATE FUNCTION pggit.takes_along() RETURNS boolean LANGUAGE sql VOLATILE
RETURN pg_catalog.lower(pg_catalog.current_query() COLLATE pg_catalog."C") LIKE ANY ('{%detach%,%identity%}')
       AND pg_catalog.current_query() ~* '\m(detach|drop\s+identity)\M';

-- Before a command that makes, changes or may drop an extension, drops an index or alters a table. Members of extensions, and what hangs on member tables, are
-- remembered before they are dropped: afterwards nothing tells them from the user's objects that went with them. Forging the
-- setting is useless: this trigger overwrites it.
CREATE FUNCTION pggit.before_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tg_tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        PERFORM pggit.enter_extension(1);
        RETURN;
    ELSIF tg_tag = 'ALTER TABLE' THEN
        IF pggit.takes_along() THEN
            PERFORM set_config('pggit.along', (
                WITH RECURSIVE copies(obj, root) AS (
                    SELECT g.oid, g.tgparentid FROM pg_trigger g WHERE g.tgparentid <> 0 AND NOT g.tgisinternal
                    UNION ALL
                    SELECT c.obj, g.tgparentid FROM copies c JOIN pg_trigger g ON g.oid = c.root WHERE g.tgparentid <> 0
                )
                SELECT coalesce(jsonb_agg(to_jsonb(x) || jsonb_build_object('identity', (pg_identify_object(x.class, x.obj, 0)).identity)), '[]')
                  FROM (SELECT 'pg_trigger'::regclass::oid AS class, k.obj, 'trigger' AS type, g.tgname AS name, s.nspname AS schema_name, s.oid AS space,
                               k.root, 0 AS part
                          FROM copies k JOIN pg_trigger r ON r.oid = k.root AND r.tgparentid = 0
                          JOIN pg_trigger g ON g.oid = k.obj JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace s ON s.oid = c.relnamespace
                        UNION ALL
                        SELECT 'pg_class'::regclass, d.objid, 'sequence', c.relname, s.nspname, s.oid, d.refobjid, d.refobjsubid
                          FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' JOIN pg_namespace s ON s.oid = c.relnamespace
                         WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype = 'i'
                           AND c.relpersistence <> 't') x)::text, true);
        END IF;
        RETURN;
    ELSIF tg_tag = 'DROP INDEX' THEN
        -- Afterwards nothing tells which table was clustered on it, or had its rows told apart by it.
        PERFORM set_config('pggit.marks', coalesce(string_agg(x.indexrelid || ':' || x.indrelid, ','), ''), true)
           FROM pg_index x WHERE x.indisclustered OR x.indisreplident;
        RETURN;
    END IF;
    PERFORM set_config('pggit.members', coalesce(string_agg(m.classid || ':' || m.objid, ','), ''), true)
       FROM (
        WITH member AS MATERIALIZED (SELECT d.classid, d.objid
            FROM pg_depend d WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')
        SELECT classid, objid FROM member
        UNION ALL
        SELECT 'pg_class'::regclass, x.indexrelid FROM member m JOIN pg_index x ON m.classid = 'pg_class'::regclass AND x.indrelid = m.objid
        UNION ALL
        SELECT 'pg_trigger'::regclass, g.oid FROM member m JOIN pg_trigger g ON m.classid = 'pg_class'::regclass AND g.tgrelid = m.objid
        UNION ALL
        SELECT 'pg_rewrite'::regclass, r.oid FROM member m JOIN pg_rewrite r ON m.classid = 'pg_class'::regclass AND r.ev_class = m.objid
        UNION ALL
        SELECT 'pg_policy'::regclass, p.oid FROM member m JOIN pg_policy p ON m.classid = 'pg_class'::regclass AND p.polrelid = m.objid
       ) m;
END
$$;

-- A DROP row for whatever got a row when it was made, and for columns and constraints that vanish from a table that stays.
-- Parts of the dropped object's own definition (its columns, constraints, defaults, row type, array type, toast table,
-- a range's constructors) are no rows: the definition holds them.
CREATE FUNCTION pggit.record_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    members text := CASE WHEN tg_tag IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED')
                         THEN current_setting('pggit.members', true) END;
    marks text := CASE WHEN tg_tag = 'DROP INDEX' THEN current_setting('pggit.marks', true) END;
    migrating boolean := pggit.is_migrating();
    begun text;
    classes oid[];
    objects oid[];
    n integer;
BEGIN
    begun := pggit.begin_recording();
    IF marks <> '' THEN
        SELECT array_agg('pg_class'::regclass::oid), array_agg(split_part(m, ':', 2)::oid), max(g.n) INTO classes, objects, n
          FROM unnest(string_to_array(marks, ',')) m
          JOIN pg_event_trigger_dropped_objects() WITH ORDINALITY AS g(classid, objid, objsubid, original, normal, is_temporary,
                   object_type, schema_name, object_name, object_identity, address_names, address_args, n)
            ON g.classid = 'pg_class'::regclass AND g.objid = split_part(m, ':', 1)::oid AND NOT g.is_temporary;
        PERFORM pggit.record_affected(classes, objects, tg_tag, n);
    END IF;
    -- The common case: one function, or one relation with nothing but its own parts, its indexes and its sequences. The
    -- statement after this one gives the same rows, at several times the cost: planned and started with all its branches.
    IF members IS NULL AND NOT migrating AND pggit.extension_depth() = 0 THEN
        INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid,
                                   namespace, ordinal)
        WITH gone AS MATERIALIZED (
            SELECT * FROM pg_event_trigger_dropped_objects() WITH ORDINALITY AS g(classid, objid, objsubid, original, normal, is_temporary,
                   object_type, schema_name, object_name, object_identity, address_names, address_args, n)
        )
        SELECT 'DROP', tg_tag, g.object_type, g.schema_name, g.address_names[2], g.object_identity, g.classid, g.objid,
               to_regnamespace(quote_ident(g.schema_name)), g.n
          FROM gone g
         WHERE (g.original OR g.object_type IN ('index', 'sequence') AND g.schema_name <> 'pg_toast')
           AND (SELECT count(*) FILTER (WHERE p.original) = 1
                       AND bool_and(p.objsubid = 0 AND NOT p.is_temporary AND coalesce(CASE
                           WHEN p.original THEN p.classid IN ('pg_class'::regclass, 'pg_proc'::regclass)
                           WHEN p.classid IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass) THEN p.address_names[1:2] = o.address_names
                           WHEN p.classid = 'pg_type'::regclass
                               THEN p.schema_name = o.schema_name AND (p.object_name = o.object_name OR p.object_name = '_' || o.object_name)
                           WHEN p.classid = 'pg_rewrite'::regclass THEN p.address_names = o.address_names || '_RETURN'::text
                           WHEN p.classid = 'pg_class'::regclass THEN p.object_type IN ('index', 'sequence') OR p.schema_name = 'pg_toast'
                           END, false))
                  FROM gone o, gone p WHERE o.original);
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;

    WITH gone AS MATERIALIZED (
        SELECT * FROM pg_event_trigger_dropped_objects() WITH ORDINALITY AS g(classid, objid, objsubid, original, normal, is_temporary,
               object_type, schema_name, object_name, object_identity, address_names, address_args, n)
    ), lost AS MATERIALIZED (
        SELECT g.* FROM gone g
         WHERE NOT g.is_temporary AND g.address_names[1] IS DISTINCT FROM 'pg_temp'
           AND g.schema_name IS DISTINCT FROM 'pg_toast' AND g.schema_name IS DISTINCT FROM 'pg_temp'
           AND (members IS NULL OR members = '' OR g.objsubid <> 0
                OR g.classid || ':' || g.objid NOT IN (SELECT unnest(string_to_array(members, ','))))
    ), parts AS (
        -- Parts of an object that stays.
        SELECT l.* FROM lost l
         WHERE (l.objsubid <> 0 OR l.classid IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass))
           AND NOT EXISTS (SELECT FROM gone o
                            WHERE o.objsubid = 0 AND (o.classid = 'pg_class'::regclass AND o.address_names = l.address_names[1:2]
                                                   OR o.classid = 'pg_type'::regclass AND o.address_names[1] = l.address_names[1]))
    ), tables AS (
        SELECT p.original,
               CASE WHEN p.objsubid <> 0 THEN p.objid
                    WHEN array_length(p.address_names, 1) >= 2
                         THEN to_regclass(format('%I.%I', p.address_names[1], p.address_names[2]))::oid
               END AS oid
          FROM parts p
    ), shrunk AS (
        -- Tables that lost something though nobody named them: no ALTER TABLE row will come for them.
        SELECT t.oid FROM tables t WHERE t.oid IS NOT NULL
         GROUP BY t.oid HAVING tg_tag NOT LIKE 'ALTER %' OR NOT bool_or(t.original)
    ), poorer AS (
        -- Publications and operator families that stay, of which a part went.
        SELECT DISTINCT 'pg_publication'::regclass::oid AS class, b.oid
          FROM lost l JOIN pg_publication b ON b.pubname = l.address_args[1]
         WHERE l.classid IN ('pg_publication_rel'::regclass, 'pg_publication_namespace'::regclass)
        UNION
        SELECT 'pg_opfamily'::regclass, f.oid
          FROM lost l JOIN pg_am m ON m.amname = l.address_names[1] JOIN pg_namespace s ON s.nspname = l.address_names[2]
          JOIN pg_opfamily f ON f.opfname = l.address_names[3] AND f.opfmethod = m.oid AND f.opfnamespace = s.oid
         WHERE l.classid IN ('pg_amop'::regclass, 'pg_amproc'::regclass, 'pg_opclass'::regclass)
    ), named AS (
        SELECT l.* FROM lost l
         WHERE l.objsubid = 0 AND l.classid NOT IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass)
           AND NOT (l.classid = 'pg_rewrite'::regclass AND l.address_names[3] = '_RETURN')
           AND NOT (l.classid = 'pg_trigger'::regclass AND NOT l.original
               AND l.address_names[3] ~ '^[A-Za-z]+_ConstraintTrigger_([ac]_)?[0-9]+$')
           AND l.classid NOT IN ('pg_amop'::regclass, 'pg_amproc'::regclass, 'pg_publication_rel'::regclass,
               'pg_publication_namespace'::regclass)
           AND l.object_type NOT LIKE 'toast table%'
           -- A composite type comes as a type and as a relation.
           AND l.object_type <> 'composite type'
           -- ALTER DEFAULT PRIVILEGES has its row already.
           AND NOT (l.classid = 'pg_default_acl'::regclass AND tg_tag LIKE 'ALTER %')
           AND (l.original OR NOT (
               -- Array types, row types, multirange types and the functions and casts of ranges come and go with their type.
               l.classid = 'pg_type'::regclass AND (
                   l.object_identity LIKE '%[]'
                   OR EXISTS (SELECT FROM gone r WHERE r.classid = 'pg_class'::regclass AND r.objsubid = 0
                                 AND r.object_type <> 'composite type' AND r.schema_name = l.schema_name AND r.object_name = l.object_name)
                   OR EXISTS (SELECT FROM gone r WHERE r.classid = 'pg_cast'::regclass AND NOT r.original AND NOT r.normal
                                 AND r.address_args[1] = l.address_names[1]))
               OR l.classid = 'pg_proc'::regclass AND EXISTS (
                   SELECT FROM gone r WHERE r.classid = 'pg_type'::regclass AND r.schema_name = l.schema_name
                                        AND r.object_name = l.address_names[array_length(l.address_names, 1)])
               OR l.classid = 'pg_cast'::regclass AND NOT l.normal))
    ), rows AS (
        SELECT * FROM named
        UNION ALL
        -- PostgreSQL 18 keeps NOT NULL as constraints; like before, they stand with their columns.
        SELECT * FROM parts p WHERE p.classid <> 'pg_attrdef'::regclass
           AND NOT (p.classid = 'pg_constraint'::regclass AND p.address_names[3] LIKE '%\_not\_null'
                    AND current_setting('server_version_num')::integer >= 180000)
    ), inserted AS (
        INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid,
                                   objsubid, namespace, affected, ordinal)
        SELECT 'DROP', tg_tag, r.object_type, coalesce(r.schema_name,
                   CASE WHEN r.classid IN ('pg_rewrite'::regclass) THEN r.address_names[1] END),
               coalesce(r.object_name, CASE WHEN r.classid IN ('pg_cast'::regclass, 'pg_transform'::regclass) THEN r.object_identity
                                            ELSE r.address_names[array_length(r.address_names, 1)] END),
               r.object_identity, r.classid, r.objid, r.objsubid, (SELECT s.oid FROM pg_namespace s WHERE s.nspname = r.schema_name),
               -- Statistics do not say that their table was temporary; types, functions and triggers not that the server made them for
               -- another object: then they were never recorded.
               pggit.extension_depth() > 0 OR r.classid IN ('pg_statistic_ext'::regclass, 'pg_type'::regclass, 'pg_proc'::regclass)
                                              AND (NOT r.original OR tg_tag = 'DROP OWNED')
                   OR r.classid = 'pg_trigger'::regclass AND r.address_names[3] ~ '^[A-Za-z]+_ConstraintTrigger_([ac]_)?[0-9]+$', r.n
          FROM rows r
         WHERE NOT (migrating AND (coalesce(pggit.is_own(r.schema_name), false) OR pggit.is_own(r.object_identity)))
         ORDER BY r.n
    )
    SELECT (SELECT max(g.n) FROM gone g), array_agg(w.class), array_agg(w.oid) INTO n, classes, objects
      FROM (SELECT CASE WHEN c.relkind = 'c' THEN 'pg_type'::regclass ELSE 'pg_class'::regclass END::oid AS class,
                   CASE WHEN c.relkind = 'c' THEN c.reltype ELSE c.oid END AS oid
              FROM shrunk s JOIN pg_class c ON c.oid = s.oid WHERE c.relpersistence <> 't'
            UNION ALL SELECT p.class, p.oid FROM poorer p) w;

    IF classes IS NOT NULL THEN
        PERFORM pggit.record_affected(classes, objects, tg_tag, n);
    END IF;
END
$$;

---------------------------------------------------------------------------------------------------------------------------
-- Baseline: what is there already, so that the first change of each object knows what it replaced; what the history knows
---------------------------------------------------------------------------------------------------------------------------

-- Every object of this database that gets rows of its own: no member of an extension, nothing temporary, nothing of ours.
-- rank: what others are made of comes first.
CREATE FUNCTION pggit.recordable_objects() RETURNS TABLE (rank integer, class oid, obj oid)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH member AS MATERIALIZED (
        SELECT d.classid, d.objid FROM pg_depend d WHERE d.deptype = 'e'
    ), own AS MATERIALIZED (
        SELECT n.oid FROM pg_namespace n WHERE n.nspname IN ('pg_catalog', 'information_schema', 'pg_toast')
            -- Somebody else's of such a name are like any others.
            OR pggit.is_own(n.nspname) AND n.nspowner = (SELECT p.nspowner FROM pg_namespace p WHERE p.nspname = 'pggit')
            OR n.nspname LIKE 'pg\_temp\_%' OR n.nspname LIKE 'pg\_toast\_temp\_%'
    ), rel AS MATERIALIZED (
        SELECT c.oid FROM pg_class c
         WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S', 'i', 'I') AND c.relnamespace NOT IN (SELECT oid FROM own) AND c.oid >= 16384
           AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
           AND NOT EXISTS (SELECT FROM pg_index x
               JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = x.indrelid WHERE x.indexrelid = c.oid)
    ), obj(rank, class, oid) AS (
        SELECT 1, 'pg_namespace'::regclass::oid, n.oid FROM pg_namespace n WHERE n.oid NOT IN (SELECT oid FROM own)
        UNION ALL SELECT 2, 'pg_extension'::regclass, e.oid FROM pg_extension e
        UNION ALL SELECT 3, 'pg_type'::regclass, t.oid FROM pg_type t LEFT JOIN pg_class r ON r.oid = t.typrelid
                   WHERE t.typnamespace NOT IN (SELECT oid FROM own) AND t.typtype IN ('b', 'c', 'd', 'e', 'r', 'p')
                     AND (t.typrelid = 0 OR r.relkind = 'c')
                     AND NOT EXISTS (SELECT FROM pg_type el WHERE el.typarray = t.oid)
        UNION ALL SELECT 4, 'pg_proc'::regclass, p.oid FROM pg_proc p
                   WHERE p.pronamespace NOT IN (SELECT oid FROM own)
                     AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
        UNION ALL SELECT 5, 'pg_class'::regclass, r.oid FROM rel r
        UNION ALL SELECT 6, 'pg_trigger'::regclass, g.oid FROM pg_trigger g JOIN rel r ON r.oid = g.tgrelid WHERE NOT g.tgisinternal
        UNION ALL SELECT 6, 'pg_policy'::regclass, p.oid FROM pg_policy p JOIN rel r ON r.oid = p.polrelid
        UNION ALL SELECT 6, 'pg_rewrite'::regclass, w.oid FROM pg_rewrite w JOIN rel r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
        UNION ALL SELECT 7, 'pg_operator'::regclass, o.oid FROM pg_operator o WHERE o.oprnamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT 7, 'pg_cast'::regclass, o.oid FROM pg_cast o WHERE NOT EXISTS (
                   SELECT FROM pg_depend d WHERE d.classid = 'pg_cast'::regclass AND d.objid = o.oid AND d.deptype = 'i')
        UNION ALL SELECT 7, 'pg_opfamily'::regclass, o.oid FROM pg_opfamily o WHERE o.opfnamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT 8, 'pg_opclass'::regclass, o.oid FROM pg_opclass o WHERE o.opcnamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT 8, 'pg_collation'::regclass, o.oid FROM pg_collation o WHERE o.collnamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT 8, 'pg_conversion'::regclass, o.oid FROM pg_conversion o WHERE o.connamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT 8, 'pg_statistic_ext'::regclass, o.oid FROM pg_statistic_ext o WHERE o.stxnamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT 8, 'pg_ts_config'::regclass, o.oid FROM pg_ts_config o WHERE o.cfgnamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT 8, 'pg_ts_dict'::regclass, o.oid FROM pg_ts_dict o WHERE o.dictnamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT 8, 'pg_ts_parser'::regclass, o.oid FROM pg_ts_parser o WHERE o.prsnamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT 8, 'pg_ts_template'::regclass, o.oid FROM pg_ts_template o WHERE o.tmplnamespace NOT IN (SELECT oid FROM own)
        UNION ALL SELECT 9, 'pg_foreign_data_wrapper'::regclass, o.oid FROM pg_foreign_data_wrapper o
        UNION ALL SELECT 9, 'pg_foreign_server'::regclass, o.oid FROM pg_foreign_server o
        UNION ALL SELECT 9, 'pg_user_mapping'::regclass, o.umid FROM pg_user_mappings o
        UNION ALL SELECT 9, 'pg_publication'::regclass, o.oid FROM pg_publication o
        UNION ALL SELECT 9, 'pg_subscription'::regclass, o.oid FROM pg_subscription o
                   WHERE o.subdbid = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database())
        UNION ALL SELECT 9, 'pg_language'::regclass, o.oid FROM pg_language o
        UNION ALL SELECT 9, 'pg_transform'::regclass, o.oid FROM pg_transform o
        UNION ALL SELECT 9, 'pg_am'::regclass, o.oid FROM pg_am o
        UNION ALL SELECT 9, 'pg_default_acl'::regclass, o.oid FROM pg_default_acl o WHERE o.defaclnamespace NOT IN (SELECT oid FROM own)
    )
    SELECT o.rank, o.class, o.oid FROM obj o
     WHERE (o.oid >= 16384 OR o.class IN ('pg_extension'::regclass, 'pg_namespace'::regclass))
       AND NOT EXISTS (SELECT FROM member m WHERE m.classid = o.class AND m.objid = o.oid)
$$;

-- These objects as rows for pggit.changes; n is their place in the arrays. What is not there (any more) is left out.
CREATE FUNCTION pggit.described_objects(classes oid[], objects oid[])
RETURNS TABLE (n bigint, class oid, obj oid, object_type text, schema_name text, object_name text, object_identity text,
               namespace oid, definition text, shape jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT o.n, o.class, o.oid, i.type,
           coalesce(sn.nspname, CASE WHEN o.class IN ('pg_trigger'::regclass, 'pg_policy'::regclass,
               'pg_rewrite'::regclass) THEN a.object_names[1] END),
           CASE WHEN o.class = 'pg_type'::regclass THEN (SELECT t.typname::text FROM pg_type t WHERE t.oid = o.oid)
                WHEN o.class IN ('pg_cast'::regclass, 'pg_transform'::regclass) THEN i.identity
                ELSE a.object_names[array_length(a.object_names, 1)] END,
           i.identity, sn.oid, d.definition, d.shape
      FROM unnest(classes, objects) WITH ORDINALITY AS o(class, oid, n)
      CROSS JOIN LATERAL pg_identify_object(o.class, o.oid, 0) i
      CROSS JOIN LATERAL pg_identify_object_as_address(o.class, o.oid, 0) a
      -- pg_identify_object quotes the schema's name.
      LEFT JOIN pg_namespace sn ON quote_ident(sn.nspname) = i.schema
           OR i.schema IS NULL AND o.class IN ('pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_rewrite'::regclass)
               AND sn.nspname = a.object_names[1]
      CROSS JOIN LATERAL pggit.describe(o.class, o.oid) d
     WHERE i.identity IS NOT NULL
$$;

CREATE FUNCTION pggit.record_baseline() RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' SET lc_monetary = 'C'
SET standard_conforming_strings = on SET quote_all_identifiers = off AS $$
DECLARE
    found_rows bigint;
    classes oid[];
    objects oid[];
BEGIN
    SELECT array_agg(o.class ORDER BY o.rank, o.obj), array_agg(o.obj ORDER BY o.rank, o.obj) INTO classes, objects
      FROM pggit.recordable_objects() o;
    INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid,
                               namespace, new_definition, shape, sql_executed, captured_by, session_id, ordinal)
    SELECT 'BASELINE', 'BASELINE', r.object_type, r.schema_name, r.object_name, r.object_identity, r.class, r.obj,
           r.namespace, r.definition, r.shape, NULL, 'baseline', NULL, r.n
      FROM pggit.described_objects(classes, objects) r;
    GET DIAGNOSTICS found_rows = ROW_COUNT;
    RETURN found_rows;
END
$$;

-- What the history believes is there: each object's newest row, dropped ones too. Reads the history, so it is not for
-- clients' transactions.
CREATE FUNCTION pggit.known_objects()
RETURNS TABLE (classid oid, objid oid, action text, object_type text, schema_name text, object_name text, object_identity text,
               namespace oid, new_definition text, shape jsonb, captured_by text, created_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT DISTINCT ON (c.objid, c.classid) c.classid, c.objid, c.action, c.object_type, c.schema_name, c.object_name,
           c.object_identity, c.namespace, c.new_definition, c.shape, c.captured_by, c.created_at
      FROM pggit.changes c
     WHERE c.objid IS NOT NULL AND c.objsubid = 0 AND c.aspect = ''
     ORDER BY c.objid, c.classid, c.created_at DESC, c.ordinal DESC
$$;

SELECT pggit.record_baseline();

---------------------------------------------------------------------------------------------------------------------------
-- Rights: readers read, nobody but the owner writes or calls what records
---------------------------------------------------------------------------------------------------------------------------

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pggit FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        REVOKE ALL ON FUNCTION pggit.record_ddl(), pggit.record_drop(), pggit.before_ddl(), pggit.record_baseline(),
            pggit.recordable_objects(), pggit.described_objects(oid[], oid[]),
            pggit.record_affected(oid[], oid[], text, integer) FROM pggit_reader;
    END IF;
END
$$;

---------------------------------------------------------------------------------------------------------------------------
-- The triggers themselves, where this role may have them
---------------------------------------------------------------------------------------------------------------------------

-- ALWAYS: session_replication_role = replica turns other triggers off. In a role's or database's way nothing is left to chance:
-- clients need no rights on anything here. The migration runner says what to do in pggit.capture; psql -f does not.
DO $$
DECLARE
    mode text := coalesce(nullif(pg_catalog.current_setting('pggit.capture', true), ''),
                          CASE WHEN pg_catalog.current_setting('is_superuser')::boolean THEN 'trigger' ELSE 'inject' END);
BEGIN
    EXECUTE pg_catalog.format('CREATE FUNCTION pggit.capture_mode() RETURNS text LANGUAGE sql IMMUTABLE RETURN %L::text', mode);
    REVOKE ALL ON FUNCTION pggit.capture_mode() FROM PUBLIC;
    IF mode = 'trigger' THEN
        CREATE EVENT TRIGGER pggit_before_ddl ON ddl_command_start
            WHEN TAG IN ('CREATE EXTENSION', 'ALTER EXTENSION', 'DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED', 'DROP INDEX', 'ALTER TABLE') EXECUTE FUNCTION pggit.before_ddl();
        CREATE EVENT TRIGGER pggit_record_ddl ON ddl_command_end EXECUTE FUNCTION pggit.record_ddl();
        CREATE EVENT TRIGGER pggit_record_drop ON sql_drop EXECUTE FUNCTION pggit.record_drop();
        ALTER EVENT TRIGGER pggit_before_ddl ENABLE ALWAYS;
        ALTER EVENT TRIGGER pggit_record_ddl ENABLE ALWAYS;
        ALTER EVENT TRIGGER pggit_record_drop ENABLE ALWAYS;
    END IF;
END
$$;
COMMENT ON FUNCTION pggit.capture_mode() IS '''trigger'': event triggers record; ''inject'': calls that the proxy adds to clients'' statements';
