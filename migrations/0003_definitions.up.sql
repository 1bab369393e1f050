-- What an object is, as text: the definitions that the history keeps.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

-- The functions from here to pggit.definition() expect search_path = pg_catalog, pg_temp, as their callers set it: setting it
-- anew in each of them would cost as much as the work.
--
-- LIMIT 1 in a subquery for one object: under REPEATABLE READ a transaction that changes what others have changed since its snapshot sees
-- two rows of it, theirs of before and its own.

-- ` OPTIONS (a '1', password '...')`: values that may be secrets are not shown.
CREATE FUNCTION pggit.options(options text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(' OPTIONS (' || string_agg(
               quote_ident(split_part(o, '=', 1)) || ' '
               || CASE WHEN split_part(o, '=', 1) ~* 'pass|secret|token|credential|key|conninfo|dsn|connection'
                       THEN '''...''' ELSE quote_literal(substr(o, strpos(o, '=') + 1)) END, ', ' ORDER BY n) || ')', '')
      FROM unnest(options) WITH ORDINALITY AS u(o, n)
$$;

-- What few columns have. Functions, because what is not called costs nothing; in plpgsql, which keeps its plans.
CREATE FUNCTION pggit.column_collation(typ oid, coll oid) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT format(' COLLATE %s.%I', co.collnamespace::regnamespace, co.collname)
              FROM pg_collation co JOIN pg_type y ON y.oid = typ WHERE co.oid = coll AND co.oid <> y.typcollation LIMIT 1);
END
$$;

-- A constraint of a partitioned table that is there once more for one of its partitions: a foreign key within the same table.
CREATE FUNCTION pggit.is_partitions_copy(parent oid, rel oid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pg_constraint p WHERE p.oid = parent AND p.conrelid = rel);
END
$$;

-- Which of a table's indexes it is clustered on, and which identifies its rows to subscribers.
CREATE FUNCTION pggit.index_marks(table_name text, index oid, clustered boolean, identity boolean) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    name text := (SELECT quote_ident(i.relname) FROM pg_class i WHERE i.oid = index LIMIT 1);
BEGIN
    RETURN concat(CASE WHEN clustered THEN format(E';\nALTER TABLE %s CLUSTER ON %s', table_name, name) END,
                  CASE WHEN identity THEN format(E';\nALTER TABLE %s REPLICA IDENTITY USING INDEX %s', table_name, name) END);
END
$$;

-- What few tables have: before the word TABLE, behind the name, behind the columns, and as statements of its own.
CREATE FUNCTION pggit.table_clauses(rel oid, inherits boolean) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT ARRAY[
            concat(CASE WHEN c.relpersistence = 'u' THEN 'UNLOGGED ' END, CASE WHEN c.relkind = 'f' THEN 'FOREIGN ' END),
            CASE WHEN c.reloftype <> 0 THEN ' OF ' || format_type(c.reloftype, NULL) END,
            concat(
                CASE WHEN inherits AND NOT c.relispartition
                     THEN (SELECT E'\nINHERITS (' || string_agg(format('%s.%I', p.relnamespace::regnamespace, p.relname), ', ' ORDER BY i.inhseqno) || ')'
                             FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = rel) END,
                CASE c.relkind WHEN 'p' THEN E'\nPARTITION BY ' || pg_get_partkeydef(rel)
                               WHEN 'f' THEN (SELECT E'\nSERVER ' || quote_ident(v.srvname) || pggit.options(f.ftoptions)
                                                FROM pg_foreign_table f JOIN pg_foreign_server v ON v.oid = f.ftserver WHERE f.ftrelid = rel LIMIT 1) END,
                (SELECT E'\nUSING ' || quote_ident(m.amname) FROM pg_am m WHERE m.oid = c.relam AND m.oid <> 2 LIMIT 1),          -- 2 is heap
                E'\nWITH (' || array_to_string(c.reloptions, ', ') || ')',
                (SELECT E'\nTABLESPACE ' || quote_ident(b.spcname) FROM pg_tablespace b WHERE b.oid = c.reltablespace LIMIT 1)),
            concat(
                -- Detached concurrently, and interrupted half-way: it is there and takes no rows.
                CASE WHEN c.relispartition
                     THEN (SELECT format(E';\nALTER TABLE ONLY %s.%I ATTACH PARTITION %s %s', p.relnamespace::regnamespace, p.relname, c.name,
                                         pg_get_expr(c.relpartbound, rel)) || CASE WHEN i.inhdetachpending THEN ' -- detach pending' ELSE '' END
                             FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = rel LIMIT 1) END,
                CASE WHEN c.relrowsecurity THEN format(E';\nALTER TABLE %s ENABLE ROW LEVEL SECURITY', c.name) END,
                CASE WHEN c.relforcerowsecurity THEN format(E';\nALTER TABLE %s FORCE ROW LEVEL SECURITY', c.name) END,
                CASE c.relreplident WHEN 'f' THEN format(E';\nALTER TABLE %s REPLICA IDENTITY FULL', c.name)
                                    WHEN 'n' THEN format(E';\nALTER TABLE %s REPLICA IDENTITY NOTHING', c.name) END)]
          FROM (SELECT r.*, format('%s.%I', r.relnamespace::regnamespace, r.relname) AS name FROM pg_class r WHERE r.oid = rel LIMIT 1) c);
END
$$;

-- How a type's values are stored where nobody says how. A function, as a subquery would be started for tables without such columns, too.
CREATE FUNCTION pggit.storage_of(typ oid) RETURNS "char" LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT y.typstorage FROM pg_type y WHERE y.oid = typ LIMIT 1);
END
$$;

-- What only pg_dump's ALTER TABLE lines can say.
CREATE FUNCTION pggit.column_settings(only_name text, name name, typ oid, storage "char", compression "char", target integer, options text[])
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
    SELECT string_agg(format(E';\nALTER %s ALTER COLUMN %I SET %s', only_name, name, s.setting), '' ORDER BY s.n)
      FROM (VALUES
          (1, CASE WHEN storage <> pggit.storage_of(typ)
                   THEN 'STORAGE ' || CASE storage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' WHEN 'x' THEN 'EXTENDED' END END),
          (2, 'COMPRESSION ' || CASE compression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END),
          (3, CASE WHEN target >= 0 THEN 'STATISTICS ' || target END),
          -- 15.20 keeps a stamp of its own among the options (pg_attver=...): no one set it, and it differs from table to table.
          (4, (SELECT '(' || string_agg(o, ', ') || ')' FROM unnest(options) o WHERE o NOT LIKE 'pg\_%'))) s(n, setting)
     WHERE s.setting IS NOT NULL);
END
$$;

-- A table, foreign table or partition. NULL if the catalogs as this snapshot sees them do not hold all columns: under
-- REPEATABLE READ a table that another transaction made after the snapshot would be printed with some of them only.
--
-- This is most of what recording a CREATE TABLE or ALTER TABLE costs. So: one small query for the table and one for its columns (a join
-- costs more than both; who calls has the table's row), others only where the table's row says that there is something, what few tables and columns have in
-- functions of its own, and few statements (each costs about as much as reading a row by index).
CREATE FUNCTION pggit.describe_table(t pg_class, OUT definition text, OUT shape jsonb)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    rel CONSTANT oid := t.oid;
    name CONSTANT text := format('%s.%I', t.relnamespace::regnamespace, t.relname);
    c record;
    constraints text;
    indexes text;
    clauses text[];
BEGIN
    -- Sorted in the subquery, where the index gives the order: an ORDER BY in each aggregate would sort each time. The types that
    -- are named here are those of which it is known how they are stored and collated without looking them up.
    SELECT count(*) AS columns, coalesce(bool_or(a.inherited), true) AS inherits,
           string_agg(concat('    ', quote_ident(a.attname), ' ', a.type, a.extra), E',\n') FILTER (WHERE NOT a.attisdropped) AS lines,
           jsonb_object_agg(a.attnum, jsonb_build_array(a.attname, a.type, a.attnotnull)) FILTER (WHERE NOT a.attisdropped) AS shape,
           string_agg(a.settings, '') FILTER (WHERE NOT a.attisdropped) AS settings
      INTO c
      FROM (SELECT a.attnum, a.attname, a.attnotnull, a.attisdropped, a.attinhcount > 0 AS inherited,
                   format_type(a.atttypid, a.atttypmod) AS type,
                   concat(CASE WHEN a.attcollation <> 0 AND (a.attcollation <> '"default"'::regcollation
                                                             OR a.atttypid NOT IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype))
                               THEN pggit.column_collation(a.atttypid, a.attcollation) END,
                          CASE WHEN a.attfdwoptions IS NOT NULL THEN pggit.options(a.attfdwoptions) END,
                          CASE WHEN a.atthasdef
                               THEN CASE a.attgenerated WHEN '' THEN ' DEFAULT ' ELSE ' GENERATED ALWAYS AS (' END
                                    || (SELECT pg_get_expr(d.adbin, rel) FROM pg_attrdef d WHERE d.adrelid = rel AND d.adnum = a.attnum LIMIT 1)
                                    || CASE a.attgenerated WHEN '' THEN '' WHEN 's' THEN ') STORED' ELSE ') VIRTUAL' END END,
                          CASE a.attidentity WHEN 'a' THEN ' GENERATED ALWAYS AS IDENTITY'
                                             WHEN 'd' THEN ' GENERATED BY DEFAULT AS IDENTITY' END,
                          CASE WHEN a.attnotnull THEN ' NOT NULL' END) AS extra,
                   CASE WHEN a.attlen = -1
                             AND a.attstorage <> CASE WHEN a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype, 'jsonb'::regtype) THEN 'x'
                                                      WHEN a.atttypid = 'numeric'::regtype THEN 'm'
                                                      ELSE pggit.storage_of(a.atttypid) END
                             OR a.attcompression <> '' OR a.attstattarget >= 0 OR a.attoptions[1] NOT LIKE 'pg\_%' OR cardinality(a.attoptions) > 1
                        THEN pggit.column_settings(CASE t.relkind WHEN 'f' THEN 'FOREIGN ' ELSE '' END || 'TABLE ONLY ' || name, a.attname, a.atttypid,
                                                   a.attstorage, a.attcompression, a.attstattarget, a.attoptions) END AS settings
              FROM pg_attribute a WHERE a.attrelid = rel AND a.attnum > 0 ORDER BY a.attnum) a;
    IF c.columns <> t.relnatts THEN
        RETURN;
    END IF;
    shape := c.shape;

    -- PostgreSQL 18 keeps NOT NULL as constraints too: they stand with their columns already.
    IF t.relhasindex OR t.relchecks > 0 OR t.relhastriggers THEN
        constraints := array_to_string(ARRAY(
            SELECT format(E',\n    CONSTRAINT %I %s', k.conname, pg_get_constraintdef(k.oid)) FROM pg_constraint k
             WHERE k.conrelid = rel AND k.contype NOT IN ('n', 't')
               AND (k.conparentid = 0 OR NOT pggit.is_partitions_copy(k.conparentid, rel))
             ORDER BY k.contypid, k.conname), '');
    END IF;
    IF t.relhasindex THEN
        -- In an order of its own: that of the catalog's rows may be another one tomorrow.
        indexes := array_to_string(ARRAY(
            SELECT pggit.index_marks(name, x.indexrelid, x.indisclustered, x.indisreplident)
              FROM pg_index x WHERE x.indrelid = rel AND (x.indisclustered OR x.indisreplident) ORDER BY x.indisclustered DESC), '');
    END IF;

    IF c.inherits
       OR NOT (t.relkind = 'r' AND t.relpersistence = 'p' AND t.reloftype = 0 AND NOT t.relispartition AND t.relam IN (0, 2) AND t.reloptions IS NULL
               AND t.reltablespace = 0 AND NOT t.relrowsecurity AND NOT t.relforcerowsecurity AND t.relreplident IN ('d', 'i'))
    THEN
        clauses := pggit.table_clauses(rel, c.inherits);
    END IF;
    definition := concat('CREATE ', clauses[1], 'TABLE ', name, clauses[2],
        E' (\n', CASE WHEN c.lines IS NULL THEN substr(constraints, 3) ELSE concat(c.lines, constraints) END, E'\n)',
        clauses[3], c.settings, clauses[4], indexes, E';\n-- Owner: ', quote_ident(pg_get_userbyid(t.relowner)));
END
$$;

-- What few indexes have.
CREATE FUNCTION pggit.in_tablespace(space oid) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT ' TABLESPACE ' || quote_ident(b.spcname) FROM pg_tablespace b WHERE b.oid = space LIMIT 1);
END
$$;

CREATE FUNCTION pggit.index_statistics(index oid) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT string_agg(format(E'\nALTER INDEX %s.%I ALTER COLUMN %s SET STATISTICS %s;', c.relnamespace::regnamespace, c.relname, a.attnum, a.attstattarget),
                              '' ORDER BY a.attnum)
              FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.oid = index AND a.attstattarget >= 0);
END
$$;

-- Any other relation: an index, a view, a sequence, the columns of a composite type.
CREATE FUNCTION pggit.describe_relation(r pg_class, OUT definition text, OUT shape jsonb)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    rel CONSTANT oid := r.oid;
    kind CONSTANT "char" := r.relkind;
    name text;
BEGIN
    IF kind IN ('i', 'I') THEN
        SELECT concat(pg_get_indexdef(rel), CASE WHEN r.reltablespace <> 0 THEN pggit.in_tablespace(r.reltablespace) END,
                      CASE WHEN x.indisvalid OR kind = 'I' THEN ';' ELSE E'; -- invalid' END,
                      -- Only expressions have statistics of their own.
                      CASE WHEN x.indexprs IS NOT NULL THEN pggit.index_statistics(rel) END)
          INTO definition FROM pg_index x WHERE x.indexrelid = rel;
        RETURN;
    ELSIF kind IS NULL THEN                                         -- made after this snapshot was taken
        RETURN;
    END IF;
    name := format('%s.%I', r.relnamespace::regnamespace, r.relname);
    IF kind IN ('v', 'm') THEN
        definition := 'CREATE ' || CASE kind WHEN 'v' THEN 'VIEW ' ELSE 'MATERIALIZED VIEW ' END || name
            || coalesce(E'\nWITH (' || array_to_string(r.reloptions, ', ') || ')', '') || E' AS\n' || pg_get_viewdef(rel);
        definition := definition || coalesce(
            (SELECT string_agg(format(E'\nALTER VIEW %s ALTER COLUMN %I SET DEFAULT %s;', name, a.attname, pg_get_expr(d.adbin, rel)),
                    '' ORDER BY a.attnum)
               FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE d.adrelid = rel), '');
        SELECT jsonb_object_agg(a.attnum, jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull))
          INTO shape FROM pg_attribute a WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped;
    ELSIF kind = 'S' THEN
        SELECT 'CREATE ' || CASE WHEN r.relpersistence = 'u' THEN 'UNLOGGED ' ELSE '' END || 'SEQUENCE ' || name || ' AS '
               || format_type(q.seqtypid, NULL) || ' INCREMENT BY ' || q.seqincrement || ' MINVALUE ' || q.seqmin
               || ' MAXVALUE ' || q.seqmax || ' START WITH ' || q.seqstart || ' CACHE ' || q.seqcache
               || CASE WHEN q.seqcycle THEN ' CYCLE' ELSE '' END
               || coalesce((SELECT format(' OWNED BY %I.%I.%I', s.nspname, t.relname, a.attname)
                              FROM pg_depend d JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace s ON s.oid = t.relnamespace
                              JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
                             WHERE d.classid = 'pg_class'::regclass AND d.objid = rel AND d.objsubid = 0
                               AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
                                   AND d.deptype IN ('a', 'i') LIMIT 1), '') || ';'
          INTO definition FROM pg_sequence q WHERE q.seqrelid = rel;
    ELSIF kind = 'c' THEN
        SELECT 'CREATE TYPE ' || name || E' AS (\n' || coalesce(string_agg('    ' || quote_ident(a.attname) || ' '
                   || format_type(a.atttypid, a.atttypmod)
                   || CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation
                           THEN (SELECT format(' COLLATE %I.%I', cn.nspname, co.collname) FROM pg_collation co
                                   JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation)
                           ELSE '' END, E',\n' ORDER BY a.attnum), '') || E'\n);',
               jsonb_object_agg(a.attnum, jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull))
                   FILTER (WHERE a.attnum IS NOT NULL)
          INTO definition, shape
          FROM pg_attribute a LEFT JOIN pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped;
        RETURN;
    END IF;
    definition := rtrim(definition, E'\n') || E'\n-- Owner: ' || quote_ident(pg_get_userbyid(r.relowner));
END
$$;

CREATE FUNCTION pggit.describe_type(typ oid, OUT definition text, OUT shape jsonb)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    t record;
    name text;
BEGIN
    SELECT y.*, format('%I.%I', s.nspname, y.typname) AS name INTO t
      FROM pg_type y JOIN pg_namespace s ON s.oid = y.typnamespace WHERE y.oid = typ;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    name := t.name;
    IF NOT t.typisdefined THEN
        definition := 'CREATE TYPE ' || name || ';';
    ELSIF t.typtype = 'c' THEN
        SELECT d.definition, d.shape INTO definition, shape FROM pg_class r, pggit.describe_relation(r) d WHERE r.oid = t.typrelid;
    ELSIF t.typtype = 'e' THEN
        SELECT 'CREATE TYPE ' || name || E' AS ENUM ('
            || coalesce(string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder), '') || ');',
               jsonb_agg(e.enumlabel ORDER BY e.enumsortorder)
          INTO definition, shape FROM pg_enum e WHERE e.enumtypid = typ;
    ELSIF t.typtype = 'd' THEN
        definition := 'CREATE DOMAIN ' || name || ' AS ' || format_type(t.typbasetype, t.typtypmod)
            || CASE WHEN t.typcollation <> 0 AND t.typcollation <> (SELECT b.typcollation FROM pg_type b WHERE b.oid = t.typbasetype)
                    THEN (SELECT format(' COLLATE %I.%I', cn.nspname, co.collname) FROM pg_collation co
                            JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = t.typcollation) ELSE '' END
            || coalesce(' DEFAULT ' || t.typdefault, '') || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
            || coalesce((SELECT string_agg(format(E'\n    CONSTRAINT %I %s', k.conname, pg_get_constraintdef(k.oid)), '' ORDER BY k.conname)
                           FROM pg_constraint k WHERE k.contypid = typ AND k.contype <> 'n'), '') || ';';
        shape := jsonb_build_object('0', jsonb_build_array('', format_type(t.typbasetype, t.typtypmod), t.typnotnull));
    ELSIF t.typtype = 'r' THEN
        SELECT 'CREATE TYPE ' || name || ' AS RANGE (SUBTYPE = ' || format_type(r.rngsubtype, NULL)
               || coalesce((SELECT format(', SUBTYPE_OPCLASS = %I.%I', s.nspname, o.opcname) FROM pg_opclass o
                              JOIN pg_namespace s ON s.oid = o.opcnamespace WHERE o.oid = r.rngsubopc AND NOT o.opcdefault), '')
               || coalesce((SELECT format(', COLLATION = %I.%I', s.nspname, o.collname) FROM pg_collation o
                              JOIN pg_namespace s ON s.oid = o.collnamespace
                             WHERE o.oid = r.rngcollation
                               AND o.oid <> (SELECT b.typcollation FROM pg_type b WHERE b.oid = r.rngsubtype)), '')
               || CASE WHEN r.rngcanonical = 0 THEN '' ELSE ', CANONICAL = ' || r.rngcanonical::regproc END
               || CASE WHEN r.rngsubdiff = 0 THEN '' ELSE ', SUBTYPE_DIFF = ' || r.rngsubdiff::regproc END
               || ', MULTIRANGE_TYPE_NAME = ' || format_type(r.rngmultitypid, NULL) || ');'
          INTO definition FROM pg_range r WHERE r.rngtypid = typ;
    ELSIF t.typtype = 'b' THEN
        definition := 'CREATE TYPE ' || name || ' (INPUT = ' || t.typinput::regproc || ', OUTPUT = ' || t.typoutput::regproc
            || CASE WHEN t.typreceive = 0 THEN '' ELSE ', RECEIVE = ' || t.typreceive::regproc END
            || CASE WHEN t.typsend = 0 THEN '' ELSE ', SEND = ' || t.typsend::regproc END
            || CASE WHEN t.typmodin = 0 THEN '' ELSE ', TYPMOD_IN = ' || t.typmodin::regproc END
            || CASE WHEN t.typmodout = 0 THEN '' ELSE ', TYPMOD_OUT = ' || t.typmodout::regproc END
            || CASE WHEN t.typanalyze = 0 THEN '' ELSE ', ANALYZE = ' || t.typanalyze::regproc END
            || CASE WHEN t.typsubscript = 0 THEN '' ELSE ', SUBSCRIPT = ' || t.typsubscript::regproc END
            || ', INTERNALLENGTH = ' || CASE t.typlen WHEN -1 THEN 'VARIABLE' ELSE t.typlen::text END
            || CASE WHEN t.typbyval THEN ', PASSEDBYVALUE' ELSE '' END
            || ', ALIGNMENT = ' || CASE t.typalign WHEN 'c' THEN 'char' WHEN 's' THEN 'int2' WHEN 'i' THEN 'int4' ELSE 'double' END
            || ', STORAGE = ' || CASE t.typstorage WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' ELSE 'extended' END
            || CASE WHEN t.typcategory = 'U' THEN '' ELSE ', CATEGORY = ' || quote_literal(t.typcategory::text) END
            || CASE WHEN t.typispreferred THEN ', PREFERRED = true' ELSE '' END
            || CASE WHEN t.typdefault IS NULL THEN '' ELSE ', DEFAULT = ' || quote_literal(t.typdefault) END
            || CASE WHEN t.typelem = 0 THEN '' ELSE ', ELEMENT = ' || format_type(t.typelem, NULL) END
            || CASE WHEN t.typdelim = ',' THEN '' ELSE ', DELIMITER = ' || quote_literal(t.typdelim::text) END
            || CASE WHEN t.typcollation = 0 THEN '' ELSE ', COLLATABLE = true' END || ');';
    END IF;
END
$$;

CREATE FUNCTION pggit.describe_function(fn oid) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    f record;
    definition text;
BEGIN
    SELECT p.prokind, p.proowner INTO f FROM pg_proc p WHERE p.oid = fn;
    IF f.prokind <> 'a' THEN
        definition := rtrim(pg_get_functiondef(fn), E'\n') || ';';
    ELSE
        SELECT format('CREATE AGGREGATE %I.%I(%s) (SFUNC = %s, STYPE = %s', s.nspname, p.proname,
                   coalesce(nullif(pg_get_function_identity_arguments(p.oid), ''), '*'),
                   a.aggtransfn::regproc, format_type(a.aggtranstype, NULL))
               || CASE WHEN a.aggtransspace = 0 THEN '' ELSE ', SSPACE = ' || a.aggtransspace END
               || CASE WHEN a.aggfinalfn = 0 THEN '' ELSE ', FINALFUNC = ' || a.aggfinalfn::regproc END
               || CASE WHEN a.aggfinalextra THEN ', FINALFUNC_EXTRA' ELSE '' END
               || CASE WHEN a.aggcombinefn = 0 THEN '' ELSE ', COMBINEFUNC = ' || a.aggcombinefn::regproc END
               || CASE WHEN a.aggserialfn = 0 THEN '' ELSE ', SERIALFUNC = ' || a.aggserialfn::regproc END
               || CASE WHEN a.aggdeserialfn = 0 THEN '' ELSE ', DESERIALFUNC = ' || a.aggdeserialfn::regproc END
               || CASE WHEN a.agginitval IS NULL THEN '' ELSE ', INITCOND = ' || quote_literal(a.agginitval) END
               || CASE WHEN a.aggmtransfn = 0 THEN '' ELSE ', MSFUNC = ' || a.aggmtransfn::regproc || ', MINVFUNC = '
                  || a.aggminvtransfn::regproc || ', MSTYPE = ' || format_type(a.aggmtranstype, NULL) END
               || CASE WHEN a.aggmfinalfn = 0 THEN '' ELSE ', MFINALFUNC = ' || a.aggmfinalfn::regproc END
               || CASE WHEN a.aggminitval IS NULL THEN '' ELSE ', MINITCOND = ' || quote_literal(a.aggminitval) END
               || CASE WHEN a.aggsortop = 0 THEN '' ELSE ', SORTOP = ' || a.aggsortop::regoperator END
               || CASE WHEN a.aggkind = 'h' THEN ', HYPOTHETICAL' ELSE '' END
               || CASE p.proparallel WHEN 's' THEN ', PARALLEL = SAFE' WHEN 'r' THEN ', PARALLEL = RESTRICTED' ELSE '' END || ');'
          INTO definition
          FROM pg_proc p JOIN pg_aggregate a ON a.aggfnoid = p.oid JOIN pg_namespace s ON s.oid = p.pronamespace
         WHERE p.oid = fn;
    END IF;
    RETURN rtrim(definition, E'\n') || E'\n-- Owner: ' || quote_ident(pg_get_userbyid(f.proowner));
END
$$;

-- Whether a trigger or rule fires, where that is not as when it was made. pg_dump, too, has it with the trigger.
CREATE FUNCTION pggit.firing(kind text, name name, rel oid, state "char") RETURNS text LANGUAGE sql STABLE
RETURN CASE WHEN state <> 'O' THEN format(E'\nALTER TABLE %s %s %s %I;', rel::regclass,
            CASE state WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, kind, name) END;

-- What there is to set differs from version to version. Never the connection string: it holds passwords.
CREATE FUNCTION pggit.describe_subscription(obj oid) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    u jsonb;
BEGIN
    EXECUTE format('SELECT to_jsonb(s) FROM (SELECT %s FROM pg_subscription WHERE oid = $1) s',
                   (SELECT string_agg(a.attname, ', ') FROM pg_attribute a
                     WHERE a.attrelid = 'pg_subscription'::regclass AND a.attnum > 0 AND a.attname <> 'subconninfo'
                       AND has_column_privilege(a.attrelid, a.attnum, 'SELECT')))
       INTO u USING obj;
    RETURN format(E'CREATE SUBSCRIPTION %I CONNECTION ''...'' PUBLICATION %s WITH (%s);\n-- Owner: %s', u ->> 'subname',
                  (SELECT string_agg(quote_ident(p), ', ' ORDER BY n) FROM jsonb_array_elements_text(u -> 'subpublications') WITH ORDINALITY x(p, n)),
                  concat_ws(', ', 'enabled = ' || (u ->> 'subenabled'), 'slot_name = ' || coalesce(quote_literal(u ->> 'subslotname'), 'NONE'),
                            'binary = ' || nullif(u ->> 'subbinary', 'false'),
                            'streaming = ' || CASE u ->> 'substream' WHEN 'p' THEN 'parallel' WHEN 't' THEN 'on' WHEN 'true' THEN 'on' ELSE 'off' END,
                            -- Enabled, or going to be.
                            CASE WHEN u ->> 'subtwophasestate' <> 'd' THEN 'two_phase = on' END,
                            'disable_on_error = ' || nullif(u ->> 'subdisableonerr', 'false'),
                            'synchronous_commit = ' || nullif(u ->> 'subsynccommit', 'off'),
                            'origin = ' || nullif(u ->> 'suborigin', 'any'), 'run_as_owner = ' || nullif(u ->> 'subrunasowner', 'false'),
                            'password_required = ' || nullif(u ->> 'subpasswordrequired', 'true'), 'failover = ' || nullif(u ->> 'subfailover', 'false')),
                  quote_ident(pg_get_userbyid((u ->> 'subowner')::oid)));
END
$$;

-- The kinds of object that are seldom made. One query each; an unknown kind gives NULL.
CREATE FUNCTION pggit.describe_other(class regclass, obj oid) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    d text;
BEGIN
    CASE class
    WHEN 'pg_namespace'::regclass THEN
        SELECT format('CREATE SCHEMA %I;', n.nspname) INTO d FROM pg_namespace n WHERE n.oid = obj;
    WHEN 'pg_extension'::regclass THEN
        SELECT format('CREATE EXTENSION %I WITH SCHEMA %I VERSION %L;', e.extname, s.nspname, e.extversion) INTO d
          FROM pg_extension e JOIN pg_namespace s ON s.oid = e.extnamespace WHERE e.oid = obj;
    WHEN 'pg_trigger'::regclass THEN
        SELECT concat(pg_get_triggerdef(g.oid), ';', pggit.firing('TRIGGER', g.tgname, g.tgrelid, g.tgenabled)) INTO d
          FROM pg_trigger g WHERE g.oid = obj;
    WHEN 'pg_rewrite'::regclass THEN
        SELECT concat(pg_get_ruledef(obj), pggit.firing('RULE', r.rulename, r.ev_class, r.ev_enabled)) INTO d FROM pg_rewrite r WHERE r.oid = obj;
    WHEN 'pg_constraint'::regclass THEN
        SELECT format('CONSTRAINT %I %s', k.conname, pg_get_constraintdef(k.oid)) INTO d FROM pg_constraint k WHERE k.oid = obj;
    WHEN 'pg_policy'::regclass THEN
        SELECT format('CREATE POLICY %I ON %I.%I', p.polname, s.nspname, c.relname)
               || CASE WHEN p.polpermissive THEN '' ELSE ' AS RESTRICTIVE' END
               || ' FOR ' || CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                   WHEN 'd' THEN 'DELETE' ELSE 'ALL' END
               || ' TO ' || (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END,
                                        ', ' ORDER BY r) FROM unnest(p.polroles) r)
               || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
               || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '') || ';'
          INTO d FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace s ON s.oid = c.relnamespace WHERE p.oid = obj;
    WHEN 'pg_statistic_ext'::regclass THEN
        SELECT pg_get_statisticsobjdef(x.oid) || ';'
               || CASE WHEN x.stxstattarget >= 0 THEN format(E'\nALTER STATISTICS %I.%I SET STATISTICS %s;', s.nspname,
                   x.stxname, x.stxstattarget) ELSE '' END
          INTO d FROM pg_statistic_ext x JOIN pg_namespace s ON s.oid = x.stxnamespace WHERE x.oid = obj;
    WHEN 'pg_cast'::regclass THEN
        SELECT format('CREATE CAST (%s AS %s) ', format_type(c.castsource, NULL), format_type(c.casttarget, NULL))
               || CASE c.castmethod WHEN 'f' THEN 'WITH FUNCTION ' || c.castfunc::regprocedure
                   WHEN 'i' THEN 'WITH INOUT' ELSE 'WITHOUT FUNCTION' END
               || CASE c.castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT' ELSE '' END || ';'
          INTO d FROM pg_cast c WHERE c.oid = obj;
    WHEN 'pg_operator'::regclass THEN
        SELECT format('CREATE OPERATOR %I.%s (', s.nspname, o.oprname)
               || concat_ws(', ', CASE WHEN o.oprcode = 0 THEN NULL ELSE 'FUNCTION = ' || o.oprcode::regproc END,
                   CASE WHEN o.oprleft = 0 THEN NULL ELSE 'LEFTARG = ' || format_type(o.oprleft, NULL) END,
                   CASE WHEN o.oprright = 0 THEN NULL ELSE 'RIGHTARG = ' || format_type(o.oprright, NULL) END,
                   CASE WHEN o.oprcom = 0 THEN NULL ELSE 'COMMUTATOR = ' || o.oprcom::regoper END,
                   CASE WHEN o.oprnegate = 0 THEN NULL ELSE 'NEGATOR = ' || o.oprnegate::regoper END,
                   CASE WHEN o.oprrest = 0 THEN NULL ELSE 'RESTRICT = ' || o.oprrest::regproc END,
                   CASE WHEN o.oprjoin = 0 THEN NULL ELSE 'JOIN = ' || o.oprjoin::regproc END,
                   CASE WHEN o.oprcanhash THEN 'HASHES' END, CASE WHEN o.oprcanmerge THEN 'MERGES' END) || ');'
          INTO d FROM pg_operator o JOIN pg_namespace s ON s.oid = o.oprnamespace WHERE o.oid = obj;
    WHEN 'pg_opfamily'::regclass THEN
        SELECT format('CREATE OPERATOR FAMILY %I.%I USING %I;', s.nspname, f.opfname, m.amname)
               || coalesce(E'\n' || (SELECT string_agg(x.line, E'\n' ORDER BY x.line) FROM (
                       SELECT format('-- OPERATOR %s %s', ao.amopstrategy, ao.amopopr::regoperator) AS line
                           FROM pg_amop ao WHERE ao.amopfamily = obj
                       UNION ALL
                       SELECT format('-- FUNCTION %s (%s, %s) %s', ap.amprocnum, format_type(ap.amproclefttype, NULL),
                                     format_type(ap.amprocrighttype, NULL), ap.amproc::oid::regprocedure)
                                         FROM pg_amproc ap WHERE ap.amprocfamily = obj) x), '')
          INTO d FROM pg_opfamily f JOIN pg_namespace s ON s.oid = f.opfnamespace JOIN pg_am m ON m.oid = f.opfmethod WHERE f.oid = obj;
    WHEN 'pg_opclass'::regclass THEN
        SELECT format('CREATE OPERATOR CLASS %I.%I%s FOR TYPE %s USING %I FAMILY %I.%I AS ', s.nspname, o.opcname,
                      CASE WHEN o.opcdefault THEN ' DEFAULT' ELSE '' END, format_type(o.opcintype, NULL), m.amname, fs.nspname, f.opfname)
               || concat_ws(', ',
                   (SELECT string_agg(format('OPERATOR %s %s', ao.amopstrategy, ao.amopopr::regoperator),
                       ', ' ORDER BY ao.amopstrategy, ao.amopopr)
                      FROM pg_amop ao WHERE ao.amopfamily = o.opcfamily AND ao.amoplefttype = o.opcintype
                          AND ao.amoprighttype = o.opcintype),
                   (SELECT string_agg(format('FUNCTION %s %s', ap.amprocnum, ap.amproc::oid::regprocedure), ', ' ORDER BY ap.amprocnum)
                      FROM pg_amproc ap WHERE ap.amprocfamily = o.opcfamily AND ap.amproclefttype = o.opcintype
                          AND ap.amprocrighttype = o.opcintype),
                   'STORAGE ' || format_type(CASE WHEN o.opckeytype = 0 THEN o.opcintype ELSE o.opckeytype END, NULL)) || ';'
          INTO d FROM pg_opclass o JOIN pg_namespace s ON s.oid = o.opcnamespace JOIN pg_am m ON m.oid = o.opcmethod
          JOIN pg_opfamily f ON f.oid = o.opcfamily JOIN pg_namespace fs ON fs.oid = f.opfnamespace WHERE o.oid = obj;
    WHEN 'pg_collation'::regclass THEN
        -- Column names differ between versions (colliculocale, colllocale): take them from the row as jsonb.
        SELECT format('CREATE COLLATION %I.%I (%s);', s.nspname, l.collname, concat_ws(', ',
                   'PROVIDER = ' || CASE l.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' WHEN 'c' THEN 'libc' ELSE 'default' END,
                   'LOCALE = ' || quote_literal(coalesce(to_jsonb(l)->>'colllocale', to_jsonb(l)->>'colliculocale')),
                   'LC_COLLATE = ' || quote_literal(l.collcollate), 'LC_CTYPE = ' || quote_literal(l.collctype),
                   CASE WHEN l.collisdeterministic THEN NULL ELSE 'DETERMINISTIC = false' END,
                   'RULES = ' || quote_literal(to_jsonb(l)->>'collicurules'), 'VERSION = ' || quote_literal(l.collversion)))
          INTO d FROM pg_collation l JOIN pg_namespace s ON s.oid = l.collnamespace WHERE l.oid = obj;
    WHEN 'pg_conversion'::regclass THEN
        SELECT format('CREATE %sCONVERSION %I.%I FOR %L TO %L FROM %s;', CASE WHEN c.condefault THEN 'DEFAULT '
            ELSE '' END, s.nspname, c.conname,
                      pg_encoding_to_char(c.conforencoding), pg_encoding_to_char(c.contoencoding), c.conproc)
          INTO d FROM pg_conversion c JOIN pg_namespace s ON s.oid = c.connamespace WHERE c.oid = obj;
    WHEN 'pg_ts_config'::regclass THEN
        SELECT format('CREATE TEXT SEARCH CONFIGURATION %I.%I (PARSER = %I.%I);', s.nspname, c.cfgname, ps.nspname, p.prsname)
               || coalesce((SELECT string_agg(format(E'\nALTER TEXT SEARCH CONFIGURATION %I.%I ADD MAPPING FOR %s WITH %s;',
                   s.nspname, c.cfgname, x.token, x.dicts), '' ORDER BY x.token)
                     FROM (SELECT coalesce(t.alias, m.maptokentype::text) AS token,
                         string_agg(m.mapdict::regdictionary::text, ', ' ORDER BY m.mapseqno) AS dicts
                             FROM pg_ts_config_map m LEFT JOIN ts_token_type(c.cfgparser) t ON t.tokid = m.maptokentype
                            WHERE m.mapcfg = obj GROUP BY 1) x), '')
          INTO d FROM pg_ts_config c JOIN pg_namespace s ON s.oid = c.cfgnamespace JOIN pg_ts_parser p ON p.oid = c.cfgparser
          JOIN pg_namespace ps ON ps.oid = p.prsnamespace WHERE c.oid = obj;
    WHEN 'pg_ts_dict'::regclass THEN
        SELECT format('CREATE TEXT SEARCH DICTIONARY %I.%I (TEMPLATE = %I.%I%s);', s.nspname, t.dictname, ts.nspname,
            m.tmplname, coalesce(', ' || t.dictinitoption, ''))
          INTO d FROM pg_ts_dict t JOIN pg_namespace s ON s.oid = t.dictnamespace JOIN pg_ts_template m ON m.oid = t.dicttemplate
          JOIN pg_namespace ts ON ts.oid = m.tmplnamespace WHERE t.oid = obj;
    WHEN 'pg_ts_parser'::regclass THEN
        SELECT format('CREATE TEXT SEARCH PARSER %I.%I (START = %s, GETTOKEN = %s, END = %s, LEXTYPES = %s%s);', s.nspname, p.prsname,
                      p.prsstart, p.prstoken, p.prsend, p.prslextype, CASE WHEN p.prsheadline = 0 THEN ''
                          ELSE ', HEADLINE = ' || p.prsheadline END)
          INTO d FROM pg_ts_parser p JOIN pg_namespace s ON s.oid = p.prsnamespace WHERE p.oid = obj;
    WHEN 'pg_ts_template'::regclass THEN
        SELECT format('CREATE TEXT SEARCH TEMPLATE %I.%I (%sLEXIZE = %s);', s.nspname, t.tmplname,
                      CASE WHEN t.tmplinit = 0 THEN '' ELSE 'INIT = ' || t.tmplinit || ', ' END, t.tmpllexize)
          INTO d FROM pg_ts_template t JOIN pg_namespace s ON s.oid = t.tmplnamespace WHERE t.oid = obj;
    WHEN 'pg_foreign_data_wrapper'::regclass THEN
        SELECT format('CREATE FOREIGN DATA WRAPPER %I', w.fdwname)
               || CASE WHEN w.fdwhandler = 0 THEN '' ELSE ' HANDLER ' || w.fdwhandler::regproc END
               || CASE WHEN w.fdwvalidator = 0 THEN '' ELSE ' VALIDATOR ' || w.fdwvalidator::regproc END
                   || pggit.options(w.fdwoptions) || ';'
          INTO d FROM pg_foreign_data_wrapper w WHERE w.oid = obj;
    WHEN 'pg_foreign_server'::regclass THEN
        SELECT format('CREATE SERVER %I', v.srvname) || coalesce(' TYPE ' || quote_literal(v.srvtype), '')
            || coalesce(' VERSION ' || quote_literal(v.srvversion), '')
               || format(' FOREIGN DATA WRAPPER %I', w.fdwname) || pggit.options(v.srvoptions) || ';'
          INTO d FROM pg_foreign_server v JOIN pg_foreign_data_wrapper w ON w.oid = v.srvfdw WHERE v.oid = obj;
    WHEN 'pg_user_mapping'::regclass THEN
        SELECT format('CREATE USER MAPPING FOR %s SERVER %I', CASE WHEN u.umuser = 0 THEN 'PUBLIC'
            ELSE quote_ident(u.usename) END, u.srvname)
               || pggit.options(u.umoptions) || ';'
          INTO d FROM pg_user_mappings u WHERE u.umid = obj;
    WHEN 'pg_publication'::regclass THEN
        SELECT format('CREATE PUBLICATION %I', p.pubname) || CASE WHEN p.puballtables THEN ' FOR ALL TABLES' ELSE '' END
               || format(' WITH (publish = %L%s);', concat_ws(', ', CASE WHEN p.pubinsert THEN 'insert' END,
                      CASE WHEN p.pubupdate THEN 'update' END,
                      CASE WHEN p.pubdelete THEN 'delete' END, CASE WHEN p.pubtruncate THEN 'truncate' END),
                      CASE WHEN p.pubviaroot THEN ', publish_via_partition_root = true' ELSE '' END)
               || coalesce((SELECT string_agg(format(E'\nALTER PUBLICATION %I ADD TABLE ONLY %I.%I%s%s;', p.pubname, s.nspname, c.relname,
                        coalesce((SELECT ' (' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || ')' FROM pg_attribute a
                                   WHERE a.attrelid = c.oid AND a.attnum = ANY (r.prattrs)), ''),
                        coalesce(' WHERE ' || pg_get_expr(r.prqual, r.prrelid), '')), '' ORDER BY s.nspname, c.relname)
                     FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid
                         JOIN pg_namespace s ON s.oid = c.relnamespace WHERE r.prpubid = obj), '')
               || coalesce((SELECT string_agg(format(E'\nALTER PUBLICATION %I ADD TABLES IN SCHEMA %I;', p.pubname,
                   s.nspname), '' ORDER BY s.nspname)
                     FROM pg_publication_namespace r JOIN pg_namespace s ON s.oid = r.pnnspid WHERE r.pnpubid = obj), '')
          INTO d FROM pg_publication p WHERE p.oid = obj;
    WHEN 'pg_subscription'::regclass THEN
        d := pggit.describe_subscription(obj);
    WHEN 'pg_language'::regclass THEN
        SELECT format('CREATE %sLANGUAGE %I', CASE WHEN l.lanpltrusted THEN 'TRUSTED ' ELSE '' END, l.lanname)
               || CASE WHEN l.lanplcallfoid = 0 THEN '' ELSE ' HANDLER ' || l.lanplcallfoid::regproc END
               || CASE WHEN l.laninline = 0 THEN '' ELSE ' INLINE ' || l.laninline::regproc END
               || CASE WHEN l.lanvalidator = 0 THEN '' ELSE ' VALIDATOR ' || l.lanvalidator::regproc END || ';'
          INTO d FROM pg_language l WHERE l.oid = obj;
    WHEN 'pg_transform'::regclass THEN
        SELECT format('CREATE TRANSFORM FOR %s LANGUAGE %I (%s);', format_type(t.trftype, NULL), l.lanname, concat_ws(', ',
                   CASE WHEN t.trffromsql = 0 THEN NULL ELSE 'FROM SQL WITH FUNCTION ' || t.trffromsql::oid::regprocedure END,
                   CASE WHEN t.trftosql = 0 THEN NULL ELSE 'TO SQL WITH FUNCTION ' || t.trftosql::oid::regprocedure END))
          INTO d FROM pg_transform t JOIN pg_language l ON l.oid = t.trflang WHERE t.oid = obj;
    WHEN 'pg_am'::regclass THEN
        SELECT format('CREATE ACCESS METHOD %I TYPE %s HANDLER %s;', m.amname, CASE m.amtype WHEN 'i' THEN 'INDEX'
            ELSE 'TABLE' END, m.amhandler)
          INTO d FROM pg_am m WHERE m.oid = obj;
    WHEN 'pg_default_acl'::regclass THEN
        SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s: %s', pg_get_userbyid(a.defaclrole),
                      CASE WHEN a.defaclnamespace = 0 THEN '' ELSE ' IN SCHEMA ' || a.defaclnamespace::regnamespace END, a.defaclacl)
          INTO d FROM pg_default_acl a WHERE a.oid = obj;
    ELSE
        d := NULL;
    END CASE;
    RETURN d;
END
$$;

-- An object's definition and shape, and the owner, so that ALTER ... OWNER TO shows up as a difference. NULL for what is not
-- there (any more) or has no printer; never an error.
CREATE FUNCTION pggit.describe(class oid, obj oid, OUT definition text, OUT shape jsonb)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    owner oid;
    r pg_class;
    d record;
BEGIN
    IF class = 'pg_class'::regclass THEN
        SELECT c.* INTO r FROM pg_class c WHERE c.oid = obj;
        IF NOT FOUND THEN
            RETURN;
        ELSIF r.relkind IN ('r', 'p', 'f') THEN
            d := pggit.describe_table(r);
        ELSE
            d := pggit.describe_relation(r);
        END IF;
        definition := d.definition;
        shape := d.shape;
    ELSIF class = 'pg_proc'::regclass THEN
        definition := pggit.describe_function(obj);
    ELSE
        -- The many seldom used printers: one that fails on something new must not cost the client its statement. Only here
        -- is a subtransaction worth it; it writes nothing, so it takes no transaction number.
        BEGIN
            IF class = 'pg_type'::regclass THEN
                SELECT y.definition, y.shape INTO definition, shape FROM pggit.describe_type(obj) y;
                SELECT t.typowner INTO owner FROM pg_type t WHERE t.oid = obj;
            ELSE
                definition := pggit.describe_other(class::regclass, obj);
                IF class = 'pg_namespace'::regclass THEN
                    SELECT n.nspowner INTO owner FROM pg_namespace n WHERE n.oid = obj;
                END IF;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            definition := NULL;
        END;
        IF owner IS NOT NULL THEN
            definition := rtrim(definition, E'\n') || E'\n-- Owner: ' || quote_ident(pg_get_userbyid(owner));
        END IF;
    END IF;
END
$$;

CREATE FUNCTION pggit.definition(classid oid, objid oid, objsubid integer DEFAULT 0) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT d.definition FROM pggit.describe(classid, objid) d WHERE coalesce(objsubid, 0) = 0
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pggit FROM PUBLIC;
