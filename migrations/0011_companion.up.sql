-- Recording by calls that the proxy adds to clients' statements ("companions"): in both modes for what event triggers never
-- report (roles, databases, tablespaces, parameters, event triggers themselves, EXPLAIN ANALYZE CREATE TABLE AS ...), and for
-- everything where there are no event triggers.
--
-- A call runs in the client's transaction, behind its statement. There it finds what changed by itself: catalog rows that
-- this transaction wrote since the call before (their xmin is still in progress and yet visible, so it is ours). What may be
-- dropped is noted by a call before the statement. As with event triggers it only inserts, and reads catalogs; the one row
-- that it reads of ours, the key, never changes.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

-- Signs the proxy's calls: clients may call the procedure, but not make it record.
CREATE TABLE pggit.companion_key (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    key bytea NOT NULL CHECK (pg_catalog.length(key) = 64)
);
COMMENT ON TABLE pggit.companion_key IS 'Signs the proxy''s calls of pggit.companion: 32 bytes for the inner hash, 32 for the outer';
REVOKE ALL ON pggit.companion_key FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        REVOKE ALL ON pggit.companion_key FROM pggit_reader;
    END IF;
END
$$;
INSERT INTO pggit.companion_key (key)
SELECT pg_catalog.sha256(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) || pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
                         || pg_catalog.uuid_send(pg_catalog.gen_random_uuid()))
       || pg_catalog.sha256(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) || pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
                            || pg_catalog.uuid_send(pg_catalog.gen_random_uuid()));

-- The functions from here on expect search_path = pg_catalog, pg_temp, as the procedure sets it.

---------------------------------------------------------------------------------------------------------------------------
-- What belongs to the whole server
---------------------------------------------------------------------------------------------------------------------------

-- The settings that ALTER ROLE and ALTER DATABASE ... SET made, as such statements.
CREATE FUNCTION pggit.stored_settings(head text, rol oid, db oid) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT string_agg(format(E'\nALTER %s%s SET %s = %s;', head,
                             CASE WHEN rol <> 0 AND s.setdatabase <> 0
                                  THEN ' IN DATABASE ' || quote_ident((SELECT d.datname FROM pg_database d WHERE d.oid = s.setdatabase)) END,
                             quote_ident(split_part(c, '=', 1)),
                             CASE WHEN split_part(c, '=', 1) ~* 'pass|secret|token' THEN '''...''' ELSE quote_literal(substr(c, strpos(c, '=') + 1)) END),
                      '' ORDER BY s.setdatabase, c)
      FROM pg_db_role_setting s, unnest(s.setconfig) c
     WHERE s.setrole = rol AND (rol <> 0 OR s.setdatabase = db)
$$;

CREATE FUNCTION pggit.access_list(acl aclitem[]) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT E'\n-- Access: ' || string_agg(a::text, ', ' ORDER BY a::text) FROM unnest(acl) a
$$;

CREATE FUNCTION pggit.shared_comment(object_type text, name text, obj oid, class regclass) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT format(E'\nCOMMENT ON %s %I IS %L;', upper(object_type), name, shobj_description(obj, class::name))
     WHERE shobj_description(obj, class::name) IS NOT NULL
$$;

CREATE FUNCTION pggit.describe_role(obj oid) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat('CREATE ROLE ', quote_ident(r.rolname),
                  CASE WHEN r.rolsuper THEN ' SUPERUSER' END, CASE WHEN r.rolcreatedb THEN ' CREATEDB' END,
                  CASE WHEN r.rolcreaterole THEN ' CREATEROLE' END, CASE WHEN NOT r.rolinherit THEN ' NOINHERIT' END,
                  CASE WHEN r.rolcanlogin THEN ' LOGIN' END, CASE WHEN r.rolreplication THEN ' REPLICATION' END,
                  CASE WHEN r.rolbypassrls THEN ' BYPASSRLS' END,
                  CASE WHEN r.rolconnlimit >= 0 THEN ' CONNECTION LIMIT ' || r.rolconnlimit END,
                  ' VALID UNTIL ' || quote_literal(r.rolvaliduntil), ';',
                  (SELECT string_agg(format(E'\nGRANT %I TO %I%s;', r.rolname, m.rolname, CASE WHEN a.admin_option THEN ' WITH ADMIN OPTION' END),
                                     '' ORDER BY m.rolname, a.admin_option)
                     FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member WHERE a.roleid = obj),
                  pggit.stored_settings('ROLE ' || quote_ident(r.rolname), obj, 0), pggit.shared_comment('role', r.rolname, obj, 'pg_authid'))
      FROM pg_roles r WHERE r.oid = obj
$$;

CREATE FUNCTION pggit.describe_database(obj oid) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat('CREATE DATABASE ', quote_ident(d.datname), ' ENCODING ', quote_literal(pg_encoding_to_char(d.encoding)),
                  ' LC_COLLATE ', quote_literal(d.datcollate), ' LC_CTYPE ', quote_literal(d.datctype),
                  ' TABLESPACE ' || quote_ident((SELECT t.spcname FROM pg_tablespace t WHERE t.oid = d.dattablespace)),
                  CASE WHEN d.datconnlimit >= 0 THEN ' CONNECTION LIMIT ' || d.datconnlimit END,
                  CASE WHEN NOT d.datallowconn THEN ' ALLOW_CONNECTIONS false' END, CASE WHEN d.datistemplate THEN ' IS_TEMPLATE true' END, ';',
                  -- A DROP DATABASE that was interrupted: nothing can be done with it but to drop it again.
                  CASE WHEN d.datconnlimit = -2 THEN ' -- invalid' END,
                  pggit.stored_settings('DATABASE ' || quote_ident(d.datname), 0, obj), pggit.shared_comment('database', d.datname, obj, 'pg_database'),
                  pggit.access_list(d.datacl), E'\n-- Owner: ', quote_ident(pg_get_userbyid(d.datdba)))
      FROM pg_database d WHERE d.oid = obj
$$;

CREATE FUNCTION pggit.describe_tablespace(obj oid) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat('CREATE TABLESPACE ', quote_ident(t.spcname), ' LOCATION ', quote_literal(pg_tablespace_location(obj)),
                  ' WITH (' || array_to_string(t.spcoptions, ', ') || ')', ';', pggit.shared_comment('tablespace', t.spcname, obj, 'pg_tablespace'),
                  pggit.access_list(t.spcacl), E'\n-- Owner: ', quote_ident(pg_get_userbyid(t.spcowner)))
      FROM pg_tablespace t WHERE t.oid = obj
$$;

CREATE FUNCTION pggit.describe_event_trigger(obj oid) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat('CREATE EVENT TRIGGER ', quote_ident(e.evtname), ' ON ', e.evtevent,
                  (SELECT E'\n    WHEN TAG IN (' || string_agg(quote_literal(t), ', ') || ')' FROM unnest(e.evttags) t),
                  E'\n    EXECUTE FUNCTION ', format('%s()', e.evtfoid::regproc), ';',
                  CASE e.evtenabled WHEN 'D' THEN format(E'\nALTER EVENT TRIGGER %I DISABLE;', e.evtname)
                                    WHEN 'R' THEN format(E'\nALTER EVENT TRIGGER %I ENABLE REPLICA;', e.evtname)
                                    WHEN 'A' THEN format(E'\nALTER EVENT TRIGGER %I ENABLE ALWAYS;', e.evtname) END,
                  format(E'\nCOMMENT ON EVENT TRIGGER %I IS %L;', e.evtname, obj_description(obj, 'pg_event_trigger')),
                  E'\n-- Owner: ', quote_ident(pg_get_userbyid(e.evtowner)))
      FROM pg_event_trigger e WHERE e.oid = obj
$$;

-- Since PostgreSQL 15.
CREATE FUNCTION pggit.describe_parameter(parameter text, OUT obj oid, OUT definition text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    EXECUTE 'SELECT p.oid, ''-- Parameter '' || p.parname || pggit.access_list(p.paracl) FROM pg_parameter_acl p WHERE p.parname = lower($1)'
       INTO obj, definition USING parameter;
END
$$;

-- Which of the roles or event triggers that a DROP names are there: of the others IF EXISTS says that there is nothing to drop.
CREATE FUNCTION pggit.shared_there(call jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(o -> 1), '[]') FROM jsonb_array_elements(call -> 'objects') o
     WHERE CASE call ->> 'type' WHEN 'role' THEN EXISTS (SELECT FROM pg_roles r WHERE r.rolname = o ->> 1)
                                WHEN 'event trigger' THEN EXISTS (SELECT FROM pg_event_trigger e WHERE e.evtname = o ->> 1) END
$$;

-- One row for each name in the statement's text.
CREATE FUNCTION pggit.record_shared(call jsonb, query text, secret bytea) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    kind text := call ->> 'type';
    tag text := call ->> 'tag';
    act text := upper(call ->> 'action');
    class regclass := CASE kind WHEN 'role' THEN 'pg_authid' WHEN 'database' THEN 'pg_database' WHEN 'tablespace' THEN 'pg_tablespace'
                                WHEN 'event trigger' THEN 'pg_event_trigger' WHEN 'parameter ACL' THEN 'pg_parameter_acl' END;
    there jsonb := pggit.noted('there', secret);
    entry jsonb;
    named text;
    obj oid;
    def text;
    n integer := 0;
BEGIN
    -- ALTER ROLE ALL names none.
    FOR entry IN SELECT * FROM jsonb_array_elements(CASE WHEN jsonb_array_length(call -> 'objects') = 0
                                                         THEN '[[null, null]]'::jsonb ELSE call -> 'objects' END) LOOP
        named := coalesce(call ->> 'renamed_to', entry ->> 1);
        obj := NULL;
        def := NULL;
        CASE kind
            WHEN 'role' THEN
                SELECT r.oid, pggit.describe_role(r.oid) INTO obj, def FROM pg_roles r WHERE r.rolname = named;
            WHEN 'database' THEN
                SELECT d.oid, pggit.describe_database(d.oid) INTO obj, def FROM pg_database d WHERE d.datname = named;
            WHEN 'tablespace' THEN
                SELECT t.oid, pggit.describe_tablespace(t.oid) INTO obj, def FROM pg_tablespace t WHERE t.spcname = named;
            WHEN 'event trigger' THEN
                SELECT e.oid, pggit.describe_event_trigger(e.oid) INTO obj, def FROM pg_event_trigger e WHERE e.evtname = named;
            WHEN 'parameter ACL' THEN
                SELECT p.obj, p.definition INTO obj, def FROM pggit.describe_parameter(named) p;
            ELSE
                NULL;
        END CASE;
        CONTINUE WHEN act = 'DROP' AND NOT there ? named;
        n := n + 1;
        INSERT INTO pggit.changes (action, command_tag, object_type, object_name, object_identity, classid, objid, new_definition,
                                   aspect, statement_id, sql_executed, message, captured_by, ordinal)
        VALUES (act, tag, kind, named, quote_ident(named), class, obj, def, CASE act WHEN 'COMMENT' THEN 'comment' WHEN 'SECURITY' THEN 'label' ELSE '' END,
                (call ->> 'statement')::uuid, query, pggit.message_of(query), 'inject', n);
    END LOOP;
END
$$;

---------------------------------------------------------------------------------------------------------------------------
-- What this transaction wrote
---------------------------------------------------------------------------------------------------------------------------

-- Whether the transaction that wrote a row goes on. A function, because few rows come that far, and a query that has this in it many times
-- takes long to start.
CREATE FUNCTION pggit.is_in_progress(row_xmin xid, top xid8, top_age integer) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN pg_xact_status((top::text::numeric + top_age - age(row_xmin))::text::xid8) = 'in progress';
END
$$;

-- Whether a visible catalog row is this transaction's own work, after the command number `since`. `top` is the transaction's
-- number, `top_age` its age. Subtransactions are younger; so are later transactions of others, but if their rows are visible
-- they are done. Inlined, as it is asked for every row of a catalog.
CREATE FUNCTION pggit.is_ours(row_xmin xid, row_cmin cid, top xid8, top_age integer, since integer) RETURNS boolean LANGUAGE sql VOLATILE
RETURN pg_catalog.age(row_xmin) <= top_age AND row_cmin::text::bigint > since AND pggit.is_in_progress(row_xmin, top, top_age);

-- Relations of these names that this transaction made, with what was made along with them: what CREATE TABLE and CREATE INDEX
-- need, at the price of a part of it.
CREATE FUNCTION pggit.created(names name[], top xid8, top_age integer, since integer) RETURNS TABLE (class oid, obj oid)
LANGUAGE sql STABLE AS $$
    WITH made AS MATERIALIZED (
        SELECT c.oid, c.relkind FROM pg_class c WHERE c.relname = ANY (names) AND pggit.is_ours(c.xmin, c.cmin, top, top_age, since)
    )
    SELECT 'pg_class'::regclass::oid, m.oid FROM made m
    UNION ALL SELECT 'pg_class'::regclass, i.indexrelid FROM made m JOIN pg_index i ON i.indrelid = m.oid
    UNION ALL SELECT 'pg_class'::regclass, d.objid FROM made m JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = m.oid
                 AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
                 JOIN pg_sequence q ON q.seqrelid = d.objid
    -- Those of partitions, made or taken as a part of it.
    UNION ALL SELECT 'pg_class'::regclass, t.relid FROM made m CROSS JOIN LATERAL pg_partition_tree(m.oid) t WHERE m.relkind = 'I' AND t.relid <> m.oid
    UNION ALL SELECT 'pg_trigger'::regclass, g.oid FROM made m JOIN pg_trigger g ON g.tgrelid = m.oid AND NOT g.tgisinternal
    UNION ALL SELECT 'pg_statistic_ext'::regclass, e.oid FROM made m JOIN pg_statistic_ext e ON e.stxrelid = m.oid
$$;

-- Objects in which this transaction changed something: of the relations `rels` (by index), and the functions, types and others
-- of the names `names`.
CREATE FUNCTION pggit.touched_near(rels oid[], names name[], top xid8, top_age integer, since integer) RETURNS TABLE (class oid, obj oid)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    catalog regclass;
BEGIN
    -- What nearly every change of a relation writes to, in one query; the rest by itself, where it was written to.
    RETURN QUERY SELECT CASE c.relkind WHEN 'c' THEN 'pg_type' ELSE 'pg_class' END::regclass::oid, CASE c.relkind WHEN 'c' THEN c.reltype ELSE c.oid END
        FROM pg_class c
        WHERE c.oid = ANY (rels)
          -- A table that is rewritten touches its indexes, too.
          AND (pggit.is_ours(c.xmin, c.cmin, top, top_age, since)
                   AND (c.relkind NOT IN ('i', 'I') OR c.relname = ANY (names)
                        OR EXISTS (SELECT FROM pg_index i JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indrelid
                                           AND d.refclassid = 'pg_namespace'::regclass AND pggit.is_ours(d.xmin, d.cmin, top, top_age, since)
                                    WHERE i.indexrelid = c.oid)
                        -- It has the name of its constraint.
                        OR EXISTS (SELECT FROM pg_index i JOIN pg_constraint k ON k.conrelid = i.indrelid AND k.conindid = c.oid
                                           AND pggit.is_ours(k.xmin, k.cmin, top, top_age, since)
                                    WHERE i.indexrelid = c.oid))
            OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND pggit.is_ours(a.xmin, a.cmin, top, top_age, since))
            OR EXISTS (SELECT FROM pg_attrdef a WHERE a.adrelid = c.oid AND pggit.is_ours(a.xmin, a.cmin, top, top_age, since))
            OR EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND pggit.is_ours(k.xmin, k.cmin, top, top_age, since))
            OR EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = c.oid AND pggit.is_ours(i.xmin, i.cmin, top, top_age, since))
            OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND pggit.is_ours(i.xmin, i.cmin, top, top_age, since)));
    FOREACH catalog IN ARRAY ARRAY['pg_inherits', 'pg_sequence', 'pg_depend', 'pg_rewrite', 'pg_foreign_table', 'pg_partitioned_table', 'pg_trigger',
                                   'pg_policy', 'pg_statistic_ext', 'pg_type', 'pg_proc', 'pg_namespace']::regclass[] LOOP
        CONTINUE WHEN NOT pggit.wrote(catalog);
        CASE catalog
            WHEN 'pg_inherits'::regclass THEN
                RETURN QUERY SELECT 'pg_class'::regclass::oid, i.inhrelid FROM pg_inherits i
                    WHERE i.inhrelid = ANY (rels) AND pggit.is_ours(i.xmin, i.cmin, top, top_age, since);
            WHEN 'pg_sequence'::regclass THEN
                RETURN QUERY SELECT 'pg_class'::regclass::oid, q.seqrelid FROM pg_sequence q
                    WHERE q.seqrelid = ANY (rels) AND pggit.is_ours(q.xmin, q.cmin, top, top_age, since);
            WHEN 'pg_depend'::regclass THEN
                -- Whose column a sequence is.
                RETURN QUERY SELECT 'pg_class'::regclass::oid, d.objid FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = ANY (rels) AND pggit.is_ours(d.xmin, d.cmin, top, top_age, since)
                      AND EXISTS (SELECT FROM pg_sequence q WHERE q.seqrelid = d.objid);
            WHEN 'pg_rewrite'::regclass THEN
                RETURN QUERY SELECT CASE w.rulename WHEN '_RETURN' THEN 'pg_class' ELSE 'pg_rewrite' END::regclass::oid,
                                    CASE w.rulename WHEN '_RETURN' THEN w.ev_class ELSE w.oid END
                    FROM pg_rewrite w WHERE w.ev_class = ANY (rels) AND pggit.is_ours(w.xmin, w.cmin, top, top_age, since);
            WHEN 'pg_foreign_table'::regclass THEN
                RETURN QUERY SELECT 'pg_class'::regclass::oid, f.ftrelid FROM pg_foreign_table f
                    WHERE f.ftrelid = ANY (rels) AND pggit.is_ours(f.xmin, f.cmin, top, top_age, since);
            WHEN 'pg_partitioned_table'::regclass THEN
                RETURN QUERY SELECT 'pg_class'::regclass::oid, f.partrelid FROM pg_partitioned_table f
                    WHERE f.partrelid = ANY (rels) AND pggit.is_ours(f.xmin, f.cmin, top, top_age, since);
            WHEN 'pg_trigger'::regclass THEN
                RETURN QUERY SELECT 'pg_trigger'::regclass::oid, g.oid FROM pg_trigger g
                    WHERE g.tgrelid = ANY (rels) AND pggit.is_ours(g.xmin, g.cmin, top, top_age, since);
            WHEN 'pg_policy'::regclass THEN
                RETURN QUERY SELECT 'pg_policy'::regclass::oid, g.oid FROM pg_policy g
                    WHERE g.polrelid = ANY (rels) AND pggit.is_ours(g.xmin, g.cmin, top, top_age, since);
            WHEN 'pg_statistic_ext'::regclass THEN
                RETURN QUERY SELECT 'pg_statistic_ext'::regclass::oid, e.oid FROM pg_statistic_ext e
                    WHERE e.stxrelid = ANY (rels) AND pggit.is_ours(e.xmin, e.cmin, top, top_age, since);
            WHEN 'pg_type'::regclass THEN
                RETURN QUERY SELECT 'pg_type'::regclass::oid, t.oid FROM pg_type t
                    WHERE t.typname = ANY (names) AND pggit.is_ours(t.xmin, t.cmin, top, top_age, since);
            WHEN 'pg_proc'::regclass THEN
                RETURN QUERY SELECT 'pg_proc'::regclass::oid, p.oid FROM pg_proc p
                    WHERE p.proname = ANY (names) AND pggit.is_ours(p.xmin, p.cmin, top, top_age, since);
            WHEN 'pg_namespace'::regclass THEN
                RETURN QUERY SELECT 'pg_namespace'::regclass::oid, p.oid FROM pg_namespace p
                    WHERE p.nspname = ANY (names) AND pggit.is_ours(p.xmin, p.cmin, top, top_age, since);
        END CASE;
    END LOOP;
END
$$;

-- Relations of these names, with their indexes, partitions, sequences, views, and the tables whose foreign keys refer to any
-- of them (a new partition adds to those): what an ALTER of one may reach.
CREATE FUNCTION pggit.relations_near(names name[]) RETURNS oid[]
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    RETURN ARRAY(
        WITH RECURSIVE r(rel) AS (
            SELECT n.obj FROM pggit.objects_named(names, 'table') n
            UNION
            SELECT x.oid FROM r, LATERAL (
                SELECT d.objid FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = r.rel AND d.classid = 'pg_class'::regclass
                UNION ALL SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = r.rel
                UNION ALL SELECT i.indrelid FROM pg_index i WHERE i.indexrelid = r.rel) x(oid)
        )
        SELECT r.rel FROM r
        -- OFFSET 0: row by row. A join may begin with all constraints.
        UNION SELECT k.conrelid
                FROM r CROSS JOIN LATERAL (SELECT d.objid FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = r.rel
                                              AND d.classid = 'pg_constraint'::regclass OFFSET 0) d
                CROSS JOIN LATERAL (SELECT c.conrelid FROM pg_constraint c WHERE c.oid = d.objid AND c.contype = 'f' OFFSET 0) k);
END
$$;

-- The same without knowing where: every catalog that was written to is looked through.
CREATE FUNCTION pggit.touched(top xid8, top_age integer, since integer) RETURNS TABLE (class oid, obj oid)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    catalog regclass;
BEGIN
    -- Parts of objects.
    IF pggit.wrote('pg_class') THEN
        RETURN QUERY SELECT CASE c.relkind WHEN 'c' THEN 'pg_type' ELSE 'pg_class' END::regclass::oid, CASE c.relkind WHEN 'c' THEN c.reltype ELSE c.oid END FROM pg_class c WHERE pggit.is_ours(c.xmin, c.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_attribute') THEN
        -- Those of composite types are the type's.
        RETURN QUERY SELECT CASE c.relkind WHEN 'c' THEN 'pg_type' ELSE 'pg_class' END::regclass::oid, CASE c.relkind WHEN 'c' THEN c.reltype ELSE c.oid END
            FROM pg_class c WHERE c.oid IN (SELECT a.attrelid FROM pg_attribute a WHERE pggit.is_ours(a.xmin, a.cmin, top, top_age, since));
    END IF;
    IF pggit.wrote('pg_attrdef') THEN
        RETURN QUERY SELECT DISTINCT 'pg_class'::regclass::oid, a.adrelid FROM pg_attrdef a WHERE pggit.is_ours(a.xmin, a.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_constraint') THEN
        RETURN QUERY SELECT DISTINCT CASE k.conrelid WHEN 0 THEN 'pg_type' ELSE 'pg_class' END::regclass::oid, CASE k.conrelid WHEN 0 THEN k.contypid ELSE k.conrelid END FROM pg_constraint k WHERE pggit.is_ours(k.xmin, k.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_index') THEN
        RETURN QUERY SELECT 'pg_class'::regclass::oid, w.rel FROM pg_index i, LATERAL (VALUES (i.indexrelid), (i.indrelid)) w(rel)
            WHERE pggit.is_ours(i.xmin, i.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_inherits') THEN
        RETURN QUERY SELECT 'pg_class'::regclass::oid, i.inhrelid FROM pg_inherits i WHERE pggit.is_ours(i.xmin, i.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_sequence') THEN
        RETURN QUERY SELECT 'pg_class'::regclass::oid, q.seqrelid FROM pg_sequence q WHERE pggit.is_ours(q.xmin, q.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_rewrite') THEN
        RETURN QUERY SELECT CASE w.rulename WHEN '_RETURN' THEN 'pg_class' ELSE 'pg_rewrite' END::regclass::oid,
                            CASE w.rulename WHEN '_RETURN' THEN w.ev_class ELSE w.oid END
            FROM pg_rewrite w WHERE pggit.is_ours(w.xmin, w.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_foreign_table') THEN
        RETURN QUERY SELECT 'pg_class'::regclass::oid, f.ftrelid FROM pg_foreign_table f WHERE pggit.is_ours(f.xmin, f.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_partitioned_table') THEN
        RETURN QUERY SELECT 'pg_class'::regclass::oid, f.partrelid FROM pg_partitioned_table f WHERE pggit.is_ours(f.xmin, f.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_enum') THEN
        RETURN QUERY SELECT DISTINCT 'pg_type'::regclass::oid, e.enumtypid FROM pg_enum e WHERE pggit.is_ours(e.xmin, e.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_aggregate') THEN
        RETURN QUERY SELECT 'pg_proc'::regclass::oid, o.aggfnoid::oid FROM pg_aggregate o WHERE pggit.is_ours(o.xmin, o.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_amop') THEN
        RETURN QUERY SELECT DISTINCT 'pg_opfamily'::regclass::oid, o.amopfamily FROM pg_amop o WHERE pggit.is_ours(o.xmin, o.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_amproc') THEN
        RETURN QUERY SELECT DISTINCT 'pg_opfamily'::regclass::oid, o.amprocfamily FROM pg_amproc o WHERE pggit.is_ours(o.xmin, o.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_ts_config_map') THEN
        RETURN QUERY SELECT DISTINCT 'pg_ts_config'::regclass::oid, o.mapcfg FROM pg_ts_config_map o WHERE pggit.is_ours(o.xmin, o.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_publication_rel') THEN
        RETURN QUERY SELECT DISTINCT 'pg_publication'::regclass::oid, o.prpubid FROM pg_publication_rel o WHERE pggit.is_ours(o.xmin, o.cmin, top, top_age, since);
    END IF;
    IF pggit.wrote('pg_publication_namespace') THEN
        RETURN QUERY SELECT DISTINCT 'pg_publication'::regclass::oid, o.pnpubid FROM pg_publication_namespace o WHERE pggit.is_ours(o.xmin, o.cmin, top, top_age, since);
    END IF;
    -- What is an object itself.
    FOREACH catalog IN ARRAY ARRAY['pg_type', 'pg_trigger', 'pg_policy', 'pg_proc', 'pg_namespace', 'pg_operator', 'pg_opclass', 'pg_opfamily',
                                   'pg_cast', 'pg_transform', 'pg_collation', 'pg_conversion', 'pg_statistic_ext', 'pg_ts_config', 'pg_ts_dict',
                                   'pg_ts_parser', 'pg_ts_template', 'pg_foreign_data_wrapper', 'pg_foreign_server', 'pg_publication',
                                   'pg_language', 'pg_extension', 'pg_am', 'pg_default_acl']::regclass[] LOOP
        IF pggit.wrote(catalog) THEN
            RETURN QUERY EXECUTE format('SELECT %L::oid, o.oid FROM %s o WHERE pggit.is_ours(o.xmin, o.cmin, $1, $2, $3)', catalog::oid, catalog)
                USING top, top_age, since;
        END IF;
    END LOOP;
END
$$;

-- Whether the history keeps rows for it: not for parts (they stand in their table's or type's definition), not for what the
-- server makes itself (row and array types, the rules of views, triggers of constraints), not for temporary objects.
CREATE FUNCTION pggit.is_kept(class oid, obj oid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- One small query for each class: one for all of them would start them all.
    CASE class
        WHEN 'pg_class'::regclass THEN
            RETURN EXISTS (SELECT FROM pg_class c WHERE c.oid = obj AND c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S', 'i', 'I') AND c.relpersistence <> 't'
                              AND c.relnamespace NOT IN ('pg_toast'::regnamespace, 'pggit'::regnamespace));
        WHEN 'pg_type'::regclass THEN
            -- Row types, array types and multiranges are parts of a table, a type, a range.
            RETURN NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = class AND d.objid = obj AND d.deptype = 'i')
               AND EXISTS (SELECT FROM pg_type t WHERE t.oid = obj AND t.typnamespace <> 'pggit'::regnamespace);
        WHEN 'pg_trigger'::regclass THEN
            RETURN EXISTS (SELECT FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
                            WHERE g.oid = obj AND NOT g.tgisinternal AND c.relpersistence <> 't' AND c.relnamespace <> 'pggit'::regnamespace);
        WHEN 'pg_policy'::regclass THEN
            RETURN EXISTS (SELECT FROM pg_policy g JOIN pg_class c ON c.oid = g.polrelid WHERE g.oid = obj AND c.relpersistence <> 't');
        WHEN 'pg_rewrite'::regclass THEN
            RETURN EXISTS (SELECT FROM pg_rewrite g JOIN pg_class c ON c.oid = g.ev_class
                            WHERE g.oid = obj AND g.rulename <> '_RETURN' AND c.relpersistence <> 't');
        WHEN 'pg_statistic_ext'::regclass THEN
            RETURN EXISTS (SELECT FROM pg_statistic_ext x JOIN pg_class c ON c.oid = x.stxrelid WHERE x.oid = obj AND c.relpersistence <> 't');
        WHEN 'pg_proc'::regclass THEN
            RETURN EXISTS (SELECT FROM pg_proc p WHERE p.oid = obj AND p.pronamespace <> 'pggit'::regnamespace
                              AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = class AND d.objid = obj AND d.deptype = 'i'));
        WHEN 'pg_namespace'::regclass THEN
            RETURN EXISTS (SELECT FROM pg_namespace s WHERE s.oid = obj AND s.nspname !~ '^pg_' AND s.nspname <> 'pggit');
        WHEN 'pg_cast'::regclass THEN
            RETURN NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = class AND d.objid = obj AND d.deptype = 'i');
        ELSE
            RETURN class NOT IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass, 'pg_amop'::regclass, 'pg_amproc'::regclass,
                                 'pg_publication_rel'::regclass, 'pg_publication_namespace'::regclass);
    END CASE;
END
$$;

---------------------------------------------------------------------------------------------------------------------------
-- Notes from one call to the next, in the transaction's settings: these are undone with it
---------------------------------------------------------------------------------------------------------------------------

-- Signed for this transaction, so that nobody else's are believed.
CREATE FUNCTION pggit.note_signature(content text, secret bytea) RETURNS text LANGUAGE sql VOLATILE
RETURN pg_catalog.encode(pg_catalog.sha256(secret || pg_catalog.convert_to(pg_catalog.pg_current_xact_id()::text || ' ' || content, 'UTF8')), 'hex');

CREATE FUNCTION pggit.note(name text, content text, secret bytea) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN set_config('pggit.' || name, coalesce(pggit.note_signature(content, secret) || content, ''), true);
END
$$;

CREATE FUNCTION pggit.noted(name text, secret bytea) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    kept text := current_setting('pggit.' || name, true);
BEGIN
    RETURN CASE WHEN length(kept) > 64 AND left(kept, 64) = pggit.note_signature(substr(kept, 65), secret) THEN substr(kept, 65) END;
END
$$;

---------------------------------------------------------------------------------------------------------------------------
-- What a statement may drop
---------------------------------------------------------------------------------------------------------------------------

-- Every object of this kind with one of these names: which of them the statement meant shows afterwards. A kind that is not
-- here, or none: whatever has the name.
--
-- ROWS: what is worked out from it recursively has a hash table of ten times as many rows, and one for the usual thousand takes
-- longer to make than all the rest.
CREATE FUNCTION pggit.objects_named(names name[], kind text) RETURNS TABLE (class oid, obj oid)
LANGUAGE plpgsql STABLE ROWS 1 AS $$
BEGIN
    IF kind IN ('table', 'foreign table', 'view', 'materialized view', 'index', 'sequence') THEN
        RETURN QUERY SELECT 'pg_class'::regclass::oid, c.oid FROM pg_class c WHERE c.relname = ANY (names);
        RETURN;
    END IF;
    RETURN QUERY
    SELECT 'pg_class'::regclass::oid, oid FROM pg_class WHERE relname = ANY (names)
    UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typname = ANY (names)
    UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE proname = ANY (names)
    UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspname = ANY (names)
    UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgname = ANY (names)
    UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polname = ANY (names)
    UNION ALL SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE rulename = ANY (names)
    UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator WHERE oprname = ANY (names)
    UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass WHERE opcname = ANY (names)
    UNION ALL SELECT 'pg_opfamily'::regclass, oid FROM pg_opfamily WHERE opfname = ANY (names)
    UNION ALL SELECT 'pg_collation'::regclass, oid FROM pg_collation WHERE collname = ANY (names)
    UNION ALL SELECT 'pg_conversion'::regclass, oid FROM pg_conversion WHERE conname = ANY (names)
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxname = ANY (names)
    UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config WHERE cfgname = ANY (names)
    UNION ALL SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict WHERE dictname = ANY (names)
    UNION ALL SELECT 'pg_ts_parser'::regclass, oid FROM pg_ts_parser WHERE prsname = ANY (names)
    UNION ALL SELECT 'pg_ts_template'::regclass, oid FROM pg_ts_template WHERE tmplname = ANY (names)
    UNION ALL SELECT 'pg_extension'::regclass, oid FROM pg_extension WHERE extname = ANY (names)
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper WHERE fdwname = ANY (names)
    UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server WHERE srvname = ANY (names)
    UNION ALL SELECT 'pg_publication'::regclass, oid FROM pg_publication WHERE pubname = ANY (names)
    UNION ALL SELECT 'pg_subscription'::regclass, oid FROM pg_subscription WHERE subname = ANY (names)
    UNION ALL SELECT 'pg_language'::regclass, oid FROM pg_language WHERE lanname = ANY (names)
    UNION ALL SELECT 'pg_am'::regclass, oid FROM pg_am WHERE amname = ANY (names)
    -- User mappings are named by their server.
    UNION ALL SELECT 'pg_user_mapping'::regclass, umid FROM pg_user_mappings WHERE srvname = ANY (names);
END
$$;

-- With what depends on them, and what they are a part of. Without names (DROP CAST, DROP OWNED): everything of the users', also
-- what depends on nothing but its owner.
CREATE FUNCTION pggit.droppable(names name[], kind text) RETURNS TABLE (class oid, obj oid)
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE r(class, obj) AS (
        (SELECT n.class, n.obj FROM pggit.objects_named(names, kind) n WHERE n.obj >= 16384
         UNION ALL SELECT d.classid, d.objid FROM pg_depend d WHERE names IS NULL AND d.objid >= 16384
         UNION ALL SELECT s.classid, s.objid FROM pg_shdepend s WHERE names IS NULL AND s.objid >= 16384
                      AND s.dbid = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database()))
        UNION
        SELECT x.class, x.obj FROM r, LATERAL (
            SELECT d.classid, d.objid FROM pg_depend d WHERE d.refclassid = r.class AND d.refobjid = r.obj AND d.objid >= 16384
            UNION ALL
            -- The rule of a view, the parts of a type: dropping them drops the whole.
            SELECT d.refclassid, d.refobjid FROM pg_depend d
             WHERE d.classid = r.class AND d.objid = r.obj AND d.deptype = 'i' AND d.refobjid >= 16384) x(class, obj)
    )
    SELECT r.class, r.obj FROM r
$$;

-- What loses a part where these go: as [class, oid, class of the part, oid of the part]. A table its foreign key, a publication its table.
CREATE FUNCTION pggit.wholes_of(part_class oid, parts oid[]) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- One small query for each class: one for all of them would start them all.
    CASE part_class
        WHEN 'pg_constraint'::regclass THEN
            RETURN (SELECT jsonb_agg(jsonb_build_array(CASE k.conrelid WHEN 0 THEN 'pg_type'::regclass ELSE 'pg_class'::regclass END::oid,
                                                       CASE k.conrelid WHEN 0 THEN k.contypid ELSE k.conrelid END, part_class, k.oid))
                      FROM pg_constraint k WHERE k.oid = ANY (parts));
        WHEN 'pg_attrdef'::regclass THEN
            RETURN (SELECT jsonb_agg(jsonb_build_array('pg_class'::regclass::oid, a.adrelid, part_class, a.oid)) FROM pg_attrdef a WHERE a.oid = ANY (parts));
        WHEN 'pg_class'::regclass THEN
            -- It was clustered on the index, or its rows were told apart by it.
            RETURN (SELECT jsonb_agg(jsonb_build_array(part_class, x.indrelid, part_class, x.indexrelid))
                      FROM pg_index x WHERE x.indexrelid = ANY (parts) AND (x.indisclustered OR x.indisreplident));
        WHEN 'pg_publication_rel'::regclass THEN
            RETURN (SELECT jsonb_agg(jsonb_build_array('pg_publication'::regclass::oid, p.prpubid, part_class, p.oid)) FROM pg_publication_rel p WHERE p.oid = ANY (parts));
        WHEN 'pg_publication_namespace'::regclass THEN
            RETURN (SELECT jsonb_agg(jsonb_build_array('pg_publication'::regclass::oid, p.pnpubid, part_class, p.oid)) FROM pg_publication_namespace p WHERE p.oid = ANY (parts));
        WHEN 'pg_amop'::regclass THEN
            RETURN (SELECT jsonb_agg(jsonb_build_array('pg_opfamily'::regclass::oid, o.amopfamily, part_class, o.oid)) FROM pg_amop o WHERE o.oid = ANY (parts));
        WHEN 'pg_amproc'::regclass THEN
            RETURN (SELECT jsonb_agg(jsonb_build_array('pg_opfamily'::regclass::oid, o.amprocfamily, part_class, o.oid)) FROM pg_amproc o WHERE o.oid = ANY (parts));
        WHEN 'pg_opclass'::regclass THEN
            RETURN (SELECT jsonb_agg(jsonb_build_array('pg_opfamily'::regclass::oid, o.opcfamily, part_class, o.oid)) FROM pg_opclass o WHERE o.oid = ANY (parts));
        ELSE
            RETURN NULL;
    END CASE;
END
$$;

-- Notes what may go, and what may lose a part by it, for the call behind the statement; and what it saw when it looked. In the transaction's
-- settings: those are undone with it.
CREATE FUNCTION pggit.note_droppable(names text[], kind text, secret bytea) RETURNS void
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    -- Has a number from here on, so that the snapshot stays the same where nobody else does anything.
    top xid8 := pg_current_xact_id();
    seen pg_snapshot := pg_current_snapshot();
    classes oid[];
    objects oid[];
    part_class oid;
    wholes jsonb := '[]';
    noted jsonb;
    said text;
BEGIN
    SELECT array_agg(d.class), array_agg(d.obj) INTO classes, objects FROM pggit.droppable(names::name[], kind) d;
    FOREACH part_class IN ARRAY ARRAY(SELECT DISTINCT u.class FROM unnest(classes) u(class)) LOOP
        wholes := wholes || coalesce(pggit.wholes_of(part_class, ARRAY(SELECT u.obj FROM unnest(classes, objects) u(class, obj) WHERE u.class = part_class)), '[]');
    END LOOP;
    SELECT jsonb_build_object('seen', seen, 'wholes', nullif(wholes, '[]'), 'objects',
               jsonb_agg(jsonb_build_array(d.class, d.obj, i.type, s.nspname, coalesce(t.typname::text, a.object_names[array_length(a.object_names, 1)]),
                                           i.identity, s.oid)))
      INTO noted
      -- OFFSET 0: first these, as most are parts of others.
      FROM (SELECT u.class, u.obj FROM unnest(classes, objects) u(class, obj)
             WHERE pggit.is_kept(u.class, u.obj) AND NOT pggit.is_member(u.class, u.obj) OFFSET 0) d
      CROSS JOIN LATERAL pg_identify_object(d.class, d.obj, 0) i
      CROSS JOIN LATERAL pg_identify_object_as_address(d.class, d.obj, 0) a
      LEFT JOIN pg_type t ON d.class = 'pg_type'::regclass AND t.oid = d.obj
      LEFT JOIN pg_namespace s ON CASE WHEN t.oid IS NULL THEN s.nspname = a.object_names[1] AND d.class <> 'pg_namespace'::regclass
                                       ELSE s.oid = t.typnamespace END
     WHERE i.identity IS NOT NULL;
    said := pggit.note('droppable', jsonb_strip_nulls(noted)::text, secret);
END
$$;

-- What others have made or changed since `seen`, by the newest row of each object; not what is known to be gone. A statement that
-- had to wait for them may have dropped such an object, which the call before it could not see.
--
-- Under READ COMMITTED, where the snapshot is new and reading our table is no reason for a serialization failure. In other
-- transactions the probe finds what is missing then.
CREATE FUNCTION pggit.changed_since(seen pg_snapshot) RETURNS SETOF pggit.changes
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    IF seen::text = pg_current_snapshot()::text OR current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT k.* FROM (
        SELECT c.objid, c.classid FROM pggit.changes c WHERE c.xid >= pg_snapshot_xmax(seen) AND c.xid <> pg_current_xact_id()
        UNION
        SELECT c.objid, c.classid FROM pggit.changes c WHERE c.xid IN (SELECT pg_snapshot_xip(seen))) u
      CROSS JOIN LATERAL (SELECT c.* FROM pggit.changes c
                           WHERE c.objid = u.objid AND c.classid = u.classid AND c.objsubid = 0 AND c.aspect = ''
                           ORDER BY c.created_at DESC, c.ordinal DESC LIMIT 1) k
     WHERE k.action <> 'DROP';
END
$$;

-- What this transaction has locked against everybody, as `class oid`. The server locks so whatever it drops, and keeps the lock: what is gone
-- without it somebody else has dropped meanwhile, and records it himself. NULL where nobody else has done anything since `seen`; a transaction
-- that keeps its snapshot cannot tell.
CREATE FUNCTION pggit.locked_here(seen pg_snapshot) RETURNS text[] LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF seen::text = pg_current_snapshot()::text AND current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN
        RETURN NULL;
    END IF;
    RETURN ARRAY(SELECT concat_ws(' ', coalesce(l.classid, 'pg_class'::regclass::oid), coalesce(l.objid, l.relation)) FROM pg_locks l
                  WHERE l.pid = pg_backend_pid() AND l.granted AND l.mode = 'AccessExclusiveLock' AND l.locktype IN ('relation', 'object'));
END
$$;

-- Default privileges go without a lock.
CREATE FUNCTION pggit.is_dropped_here(class oid, obj oid, locked text[]) RETURNS boolean LANGUAGE sql STABLE
RETURN locked IS NULL OR class = 'pg_catalog.pg_default_acl'::regclass OR concat_ws(' ', class, obj) = ANY (locked);

---------------------------------------------------------------------------------------------------------------------------
-- The call
---------------------------------------------------------------------------------------------------------------------------

-- What changed in this database since the last call in this transaction, and what went of what was noted.
CREATE FUNCTION pggit.record_found(call jsonb, query text, secret bytea) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    tag text := call ->> 'tag';
    act text := upper(call ->> 'action');
    kind text := call ->> 'type';
    statement uuid := (call ->> 'statement')::uuid;
    -- DROP OWNED names roles, not what it drops.
    names text[] := (SELECT array_agg(DISTINCT o ->> 1) FROM jsonb_array_elements(call -> 'objects') o WHERE o ->> 1 <> '*' AND tag <> 'DROP OWNED');
    top xid8 := pg_current_xact_id();
    top_age integer := age(top::xid);
    since integer := coalesce(pggit.noted('since', secret)::integer, -1);
    noted jsonb := pggit.noted('droppable', secret);
    droppable jsonb := noted -> 'objects';
    wholes jsonb := noted -> 'wholes';
    others pggit.changes[] := '{}';
    locked text[];
    rels oid[];
    classes oid[];
    objects oid[];
    done bigint := 0;
    more bigint;
    last integer;
    said text;
BEGIN
    IF noted IS NOT NULL THEN
        said := pggit.note('droppable', NULL, secret);
        others := ARRAY(SELECT c FROM pggit.changed_since((noted ->> 'seen')::pg_snapshot) c);
        locked := pggit.locked_here((noted ->> 'seen')::pg_snapshot);
        INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid,
                                   namespace, statement_id, sql_executed, message, captured_by, ordinal)
        SELECT 'DROP', tag, d.type, d.schema_name, d.name, d.identity, d.class, d.obj, d.namespace, statement, query, pggit.message_of(query), 'inject',
               row_number() OVER ()
          FROM (SELECT (d ->> 0)::oid, (d ->> 1)::oid, d ->> 2, d ->> 3, d ->> 4, d ->> 5, (d ->> 6)::oid FROM jsonb_array_elements(droppable) d
                 WHERE NOT EXISTS (SELECT FROM unnest(others) o WHERE o.classid = (d ->> 0)::oid AND o.objid = (d ->> 1)::oid)
                UNION ALL
                SELECT o.classid, o.objid, o.object_type, o.schema_name, o.object_name, o.object_identity, o.namespace FROM unnest(others) o
               ) d(class, obj, type, schema_name, name, identity, namespace)
         WHERE (pg_identify_object(d.class, d.obj, 0)).identity IS NULL AND pggit.is_dropped_here(d.class, d.obj, locked);
        GET DIAGNOSTICS done = ROW_COUNT;
    END IF;

    IF act IN ('GRANT', 'REVOKE', 'COMMENT', 'SECURITY') AND tag <> 'ALTER DEFAULT PRIVILEGES' THEN
        -- No definition shows it.
        NULL;
    ELSIF names IS NOT NULL AND tag IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'EXPLAIN', 'CREATE INDEX') THEN
        SELECT array_agg(t.class), array_agg(t.obj) INTO classes, objects FROM pggit.created(names::name[], top, top_age, since) t;
    ELSIF kind = 'user mapping' AND act <> 'DROP' THEN
        -- Who wrote a mapping only a superuser may know: all of the server's, of which the view shows those that are new or differ.
        SELECT array_agg('pg_user_mapping'::regclass::oid), array_agg(u.umid) INTO classes, objects FROM pg_user_mappings u WHERE u.srvname = ANY (names);
    ELSIF kind = 'subscription' AND act <> 'DROP' THEN
        -- Only a superuser sees who wrote it.
        SELECT array_agg('pg_subscription'::regclass::oid), array_agg(s.oid) INTO classes, objects
          FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
         WHERE s.subname = coalesce(call ->> 'renamed_to', names[1]);
    ELSIF act = 'DROP' AND names IS NOT NULL THEN
        -- What stays of what might have gone; a table that lost a column, say.
        rels := ARRAY(SELECT x.rel FROM (SELECT (d ->> 1)::oid FROM jsonb_array_elements(droppable) d WHERE (d ->> 0)::oid = 'pg_class'::regclass
                                         UNION ALL SELECT t.typrelid FROM jsonb_array_elements(droppable) d JOIN pg_type t ON t.oid = (d ->> 1)::oid
                                                    WHERE (d ->> 0)::oid = 'pg_type'::regclass AND t.typrelid <> 0) x(rel)
                       WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = x.rel OFFSET 0));
        IF rels <> '{}' THEN
            SELECT array_agg(t.class), array_agg(t.obj) INTO classes, objects FROM pggit.touched_near(rels, names::name[], top, top_age, since) t;
        END IF;
    ELSIF names IS NOT NULL AND tag IN ('CREATE VIEW', 'CREATE SEQUENCE', 'CREATE FUNCTION', 'CREATE TYPE', 'CREATE DOMAIN', 'ALTER FUNCTION', 'ALTER TABLE',
                      'ALTER INDEX', 'ALTER VIEW', 'ALTER SEQUENCE') THEN
        -- And what was near before: a partition that was detached.
        names := names || (call ->> 'renamed_to');
        rels := pggit.relations_near(names::name[])
                || ARRAY(SELECT (d ->> 1)::oid FROM jsonb_array_elements(droppable) d WHERE (d ->> 0)::oid = 'pg_class'::regclass);
        SELECT array_agg(t.class), array_agg(t.obj) INTO classes, objects FROM pggit.touched_near(rels, names::name[], top, top_age, since) t;
    ELSE
        SELECT array_agg(t.class), array_agg(t.obj) INTO classes, objects FROM pggit.touched(top, top_age, since) t;
    END IF;
    IF tag IN ('CREATE INDEX', 'CREATE TRIGGER', 'CREATE RULE') THEN
        -- Their table's row is marked as having some: no change of the table.
        SELECT array_agg(w.class), array_agg(w.obj) INTO classes, objects FROM unnest(classes, objects) w(class, obj)
         WHERE w.class <> 'pg_class'::regclass OR (SELECT c.relkind FROM pg_class c WHERE c.oid = w.obj LIMIT 1) NOT IN ('r', 'p', 'f', 'm');
    END IF;
    IF tag IN ('ALTER OPERATOR FAMILY', 'ALTER TEXT SEARCH CONFIGURATION', 'ALTER PUBLICATION') THEN
        -- They may have lost a part, of which no row is left.
        SELECT classes || array_agg(n.class), objects || array_agg(n.obj) INTO classes, objects FROM pggit.objects_named(names::name[], kind) n
         WHERE n.class IN ('pg_opfamily'::regclass, 'pg_ts_config'::regclass, 'pg_publication'::regclass);
    END IF;
    IF wholes IS NOT NULL THEN
        SELECT classes || array_agg((w ->> 0)::oid), objects || array_agg((w ->> 1)::oid) INTO classes, objects
          FROM jsonb_array_elements(wholes) w
         WHERE (pg_identify_object((w ->> 2)::oid, (w ->> 3)::oid, 0)).identity IS NULL AND (pg_identify_object((w ->> 0)::oid, (w ->> 1)::oid, 0)).identity IS NOT NULL;
    END IF;
    -- A table, say, whose foreign key somebody had just added, to a table that went. Taking a part of it takes this lock, and under it
    -- nobody drops it while it is described.
    IF cardinality(others) > 0 THEN
        WITH held AS MATERIALIZED (
            SELECT o.* FROM unnest(others) o
             WHERE o.classid = 'pg_class'::regclass
               AND EXISTS (SELECT FROM pg_locks l
                            WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.relation = o.objid AND l.mode = 'AccessExclusiveLock' AND l.granted)
        )
        SELECT classes || array_agg(h.classid), objects || array_agg(h.objid) INTO classes, objects
          FROM held h WHERE h.new_definition IS DISTINCT FROM (pggit.describe(h.classid, h.objid)).definition;
    END IF;
    IF classes IS NOT NULL THEN
        WITH made AS (
            INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid,
                                       namespace, new_definition, shape, affected, statement_id, sql_executed, message, captured_by, ordinal)
            -- The connection string of a subscription may have changed unseen; another name of a column or constraint is for the text to tell.
            SELECT CASE WHEN f.type = 'subscription' OR act = 'RENAME' AND call ->> 'renamed_to' IS NULL AND f.name = names[1] THEN act
                        ELSE 'ALTER' END, tag, f.type, f.schema_name, f.name, f.identity, f.class, f.obj, f.namespace,
                   f.definition, f.shape, f.type <> 'subscription', statement, query, pggit.message_of(query), 'inject', done + f.n
              FROM pggit.found(classes, objects) f
            RETURNING cmin
        )
        SELECT count(*), max(cmin::text::integer) INTO more, last FROM made;
        done := done + more;
    END IF;

    -- What has no definition that could show it. The next call must not tell of these comments again.
    IF act IN ('GRANT', 'REVOKE', 'COMMENT', 'SECURITY') OR tag = 'ALTER DEFAULT PRIVILEGES' THEN
        WITH told AS (
        INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid, objsubid, aspect,
                                   new_definition, statement_id, sql_executed, message, captured_by, ordinal)
        SELECT act, tag, coalesce(c.type, kind), o.entry ->> 0, o.entry ->> 1,
               coalesce(c.identity, concat_ws('.', quote_ident(o.entry ->> 0), quote_ident(o.entry ->> 1))), c.class, c.obj, coalesce(c.sub, 0),
               CASE act WHEN 'COMMENT' THEN 'comment' WHEN 'SECURITY' THEN 'label' ELSE '' END, c.text, statement, query, pggit.message_of(query), 'inject', done + o.n
          FROM jsonb_array_elements(CASE WHEN jsonb_array_length(call -> 'objects') = 0 THEN '[[null, null]]'::jsonb ELSE call -> 'objects' END)
                   WITH ORDINALITY AS o(entry, n)
          LEFT JOIN LATERAL pggit.comment_made(act, top, top_age, since) c ON true
        RETURNING cmin
        )
        SELECT greatest(last, max(cmin::text::integer)) INTO last FROM told;
    END IF;
    IF tag = 'CREATE TABLE' AND pggit.has_like(query) THEN
        -- INCLUDING COMMENTS
        WITH told AS (
        INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid, objsubid, aspect,
                                   new_definition, statement_id, sql_executed, message, captured_by, ordinal)
        SELECT 'COMMENT', 'COMMENT', i.type, a.object_names[1], a.object_names[array_length(a.object_names, 1)], c.identity, c.class, c.obj, c.sub, 'comment',
               c.text, statement, query, pggit.message_of(query), 'inject', done + row_number() OVER (ORDER BY c.class, c.obj, c.sub)
          FROM pggit.comment_made('COMMENT', top, top_age, since) c
          CROSS JOIN LATERAL pg_identify_object(c.class, c.obj, c.sub) i
          CROSS JOIN LATERAL pg_identify_object_as_address(c.class, c.obj, c.sub) a
         WHERE a.object_names[1] IS DISTINCT FROM 'pg_temp'
        RETURNING cmin
        )
        SELECT greatest(last, max(cmin::text::integer)) INTO last FROM told;
    END IF;
    -- A mapping's options are shown to few, and so may have changed unseen. Which of several it was, the call does not say.
    IF tag = 'ALTER USER MAPPING' THEN
        INSERT INTO pggit.changes (action, command_tag, object_type, object_name, object_identity, classid, objid, new_definition,
                                   statement_id, sql_executed, message, captured_by, ordinal)
        SELECT act, tag, kind, coalesce(f.name, m.server), coalesce(f.identity, 'on server ' || quote_ident(m.server)), f.class, f.obj, f.definition,
               statement, query, pggit.message_of(query), 'inject', done + 1
          FROM (SELECT n.server, array_agg('pg_user_mapping'::regclass::oid) AS classes, array_agg(u.umid) AS objects
                  FROM unnest(names) n(server) LEFT JOIN pg_user_mappings u ON u.srvname = n.server
                 GROUP BY n.server HAVING count(u.umoptions) = 0) m
          LEFT JOIN LATERAL pggit.found(m.classes, m.objects) f ON cardinality(m.objects) = 1;
    END IF;

    -- The next call looks only at what comes after this one.
    IF last IS NOT NULL THEN
        said := pggit.note('since', last::text, secret);
    END IF;
END
$$;

-- Found objects as rows: described, without members of extensions and what is temporary.
CREATE FUNCTION pggit.found(classes oid[], objects oid[])
RETURNS TABLE (class oid, obj oid, type text, schema_name text, name text, identity text, namespace oid, definition text, shape jsonb, n bigint)
LANGUAGE sql STABLE AS $$
    SELECT u.class, u.obj, i.type, s.nspname::text, coalesce(t.typname::text,
               CASE WHEN u.class IN ('pg_cast'::regclass, 'pg_transform'::regclass) THEN i.identity ELSE a.object_names[array_length(a.object_names, 1)] END),
           i.identity, s.oid, d.definition, d.shape, row_number() OVER (ORDER BY u.obj)
      FROM (SELECT DISTINCT w.class, w.obj FROM unnest(classes, objects) w(class, obj)) u
      CROSS JOIN LATERAL pg_identify_object(u.class, u.obj, 0) i
      CROSS JOIN LATERAL pg_identify_object_as_address(u.class, u.obj, 0) a
      LEFT JOIN pg_type t ON u.class = 'pg_type'::regclass AND t.oid = u.obj
      LEFT JOIN pg_namespace s ON CASE WHEN t.oid IS NULL THEN s.nspname = a.object_names[1] AND u.class <> 'pg_namespace'::regclass
                                       ELSE s.oid = t.typnamespace END
      CROSS JOIN LATERAL pggit.describe(u.class, u.obj) d
     WHERE i.identity IS NOT NULL AND a.object_names[1] IS DISTINCT FROM 'pg_temp' AND pggit.is_kept(u.class, u.obj)
       AND NOT pggit.is_member(u.class, u.obj)
$$;

-- The comment that COMMENT made; none where it took one away.
CREATE FUNCTION pggit.comment_made(act text, top xid8, top_age integer, since integer) RETURNS TABLE (class oid, obj oid, sub integer, text text, type text, identity text)
LANGUAGE sql STABLE AS $$
    SELECT d.classoid, d.objoid, d.objsubid, d.description, i.type, i.identity
      FROM pg_description d CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i WHERE act = 'COMMENT' AND pggit.is_ours(d.xmin, d.cmin, top, top_age, since)
$$;

-- A schema change on a branch with ddl_lock_timeout waits no longer for its locks, where its session has no lock_timeout (0 is none). The
-- call behind it leaves the session as it was. If the statement fails, its transaction or savepoint takes the setting back.
CREATE FUNCTION pggit.bound_lock_wait(bound text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    said text;
BEGIN
    IF bound IS NOT NULL AND current_setting('lock_timeout') = '0' THEN
        said := set_config('lock_timeout', bound, true);
        said := set_config('pggit.lock_timeout', 'added', true);
    END IF;
END
$$;

CREATE FUNCTION pggit.unbound_lock_wait() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    said text;
BEGIN
    IF current_setting('pggit.lock_timeout', true) = 'added' THEN
        said := set_config('lock_timeout', '0', true);
        said := set_config('pggit.lock_timeout', '', true);
    END IF;
END
$$;

-- A call may be there for the lock_timeout only, or for a change request: then 'notes' and 'records' are false.
CREATE PROCEDURE pggit.companion(payload text, signature text, sql text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET "TimeZone" = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' SET lc_monetary = 'C'
SET standard_conforming_strings = on SET quote_all_identifiers = off
SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    secret bytea := (SELECT k.key FROM pggit.companion_key k);
    call jsonb;
    query text;
    shared boolean;
    -- What is called for what it does is assigned: PERFORM would start a query for it.
    said text;
BEGIN
    IF encode(sha256(substring(secret, 33) || sha256(substring(secret, 1, 32) || convert_to(payload, 'UTF8'))), 'hex') IS DISTINCT FROM signature THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'only pggit-proxy may record changes';
    END IF;
    call := payload::jsonb;
    IF call ->> 'phase' = 'after' THEN
        said := pggit.unbound_lock_wait();
    END IF;
    said := pggit.begin_recording();
    IF call ->> 'session' IS DISTINCT FROM current_setting('pggit.session', true) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'this call was signed for another session';
    END IF;
    shared := coalesce(call ->> 'type' IN ('role', 'database', 'tablespace', 'event trigger', 'parameter ACL')
                       AND call ->> 'tag' NOT IN ('REASSIGN OWNED', 'DROP OWNED'), false);
    IF call ->> 'phase' = 'before' THEN
        said := pggit.bound_lock_wait(call ->> 'lock_timeout');
        IF call ? 'request' THEN
            PERFORM pggit.enter_request((call ->> 'request')::uuid, call ->> 'message',
                                        CASE WHEN sql IS NULL THEN pggit.current_message() ELSE pggit.message_of(sql) END);
        END IF;
        IF shared AND call ->> 'action' = 'drop' THEN
            said := pggit.note('there', pggit.shared_there(call)::text, secret);
        ELSIF NOT shared AND call -> 'notes' IS DISTINCT FROM 'false' THEN
            PERFORM pggit.note_droppable((SELECT array_agg(DISTINCT o ->> 1) FROM jsonb_array_elements(call -> 'objects') o
                                           HAVING bool_and(o ->> 1 <> '*' AND call ->> 'tag' <> 'DROP OWNED')), call ->> 'type', secret);
        END IF;
        RETURN;
    END IF;
    IF call -> 'records' IS DISTINCT FROM 'false' THEN
        query := coalesce(call ->> 'query', sql);
        query := CASE WHEN query IS NULL THEN pggit.client_query() ELSE pggit.kept_query(query) END;
        IF shared THEN
            said := pggit.record_shared(call, query, secret);
        ELSE
            said := pggit.record_found(call, query, secret);
        END IF;
    END IF;
    IF call ? 'request' THEN
        said := pggit.leave_request();
    END IF;
END
$$;
COMMENT ON PROCEDURE pggit.companion(text, text, text) IS 'Records a statement of a proxied client, in its transaction. Only the proxy can sign its calls.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pggit FROM PUBLIC;
REVOKE ALL ON ALL PROCEDURES IN SCHEMA pggit FROM PUBLIC;
-- It runs as whoever the client is just then.
GRANT USAGE ON SCHEMA pggit TO PUBLIC;
GRANT EXECUTE ON PROCEDURE pggit.companion(text, text, text) TO PUBLIC;
