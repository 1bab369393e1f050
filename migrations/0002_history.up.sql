-- The history: what committed statements did to the objects of this database.
--
-- Everything below that runs in a client's transaction (the three event trigger functions and what they call) reads the
-- system catalogs and inserts into pggit.changes; it never reads a table of ours. So it adds no serialization failure under
-- SERIALIZABLE and misses nothing under REPEATABLE READ. It uses no sequence (the client's lastval() stays), no NOTIFY and
-- no temporary object (PREPARE TRANSACTION stays possible) and no subtransaction. What needs a row's past (the old
-- definition, whether an ALTER was a rename, the severity) is worked out by the view pggit.history when it is read.

-- The schema pggit is our own: what a migration does in it is no change of the user's. The rule: an object of the schema
-- pggit, or a grant, goes unrecorded only if the recorder's owner makes the change in a transaction that says so like this.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

---------------------------------------------------------------------------------------------------------------------------
-- Who, from where, in which transaction: column defaults, so that every way of recording gets them alike.
-- SQL-standard bodies are bound when they are made: a client's search_path cannot change their meaning.
---------------------------------------------------------------------------------------------------------------------------

-- The branch of this database when a session does not name one.
CREATE FUNCTION pggit.default_branch() RETURNS text LANGUAGE sql STABLE
RETURN 'main'::text;

CREATE FUNCTION pggit.current_branch() RETURNS text LANGUAGE sql STABLE
RETURN coalesce(nullif(pg_catalog.current_setting('pggit.branch', true), ''), pggit.default_branch());

-- The proxy's session, or NULL for a connection that went round the proxy. Text that is no uuid counts as none.
CREATE FUNCTION pggit.current_session() RETURNS uuid LANGUAGE sql STABLE
RETURN CASE WHEN pg_catalog.current_setting('pggit.session', true)
                 ~ '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$'
            THEN pg_catalog.current_setting('pggit.session', true)::uuid END;

-- The address in `1.2.3.4:567` or `[::1]:567`. The patterns accept only what the type inet accepts, so that an odd text
-- gives NULL instead of an error.
CREATE FUNCTION pggit.address_of(client text) RETURNS inet LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN client ~ '^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]):[0-9]{1,5}$'
        THEN pg_catalog.split_part(client, ':', 1)::inet
    WHEN client ~* '^\[::ffff:((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\]:[0-9]{1,5}$'
        THEN pg_catalog.substring(client, '([0-9.]+)\]')::inet
    WHEN client ~* '^\[(([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|(([0-9a-f]{1,4}:){0,5}[0-9a-f]{1,4})?::(([0-9a-f]{1,4}:){0,5}[0-9a-f]{1,4})?)(%[^\]]*)?\]:[0-9]{1,5}$'
         AND pg_catalog.length(pg_catalog.regexp_replace(pg_catalog.split_part(client, ']', 1), '%.*|[^:]', '', 'g')) <= 7
        THEN pg_catalog.substring(client, '^\[([0-9a-fA-F:]+)')::inet
END;

CREATE FUNCTION pggit.client_addr() RETURNS inet LANGUAGE sql STABLE
RETURN CASE WHEN pggit.current_session() IS NULL THEN pg_catalog.inet_client_addr()
            ELSE pggit.address_of(pg_catalog.current_setting('pggit.client', true)) END;

CREATE FUNCTION pggit.client_port() RETURNS integer LANGUAGE sql STABLE
RETURN CASE WHEN pggit.current_session() IS NULL THEN pg_catalog.inet_client_port()
            ELSE pg_catalog.substring(pg_catalog.current_setting('pggit.client', true), ':([0-9]{1,5})$')::integer END;

-- One id for all changes of a transaction, the same in every savepoint, without remembering anything anywhere. The
-- transaction's start keeps it unique when a dump is restored into a new cluster, where transaction numbers begin again.
-- Not md5: it is an error on servers in FIPS mode.
CREATE FUNCTION pggit.current_commit() RETURNS uuid LANGUAGE sql VOLATILE
RETURN pg_catalog.encode(pg_catalog.substring(pg_catalog.sha256(pg_catalog.convert_to(
    pg_catalog.concat_ws(' ', pg_catalog.current_database(), pg_catalog.pg_current_xact_id(),
                         extract(epoch FROM pg_catalog.transaction_timestamp())), 'UTF8')), 1, 16), 'hex')::uuid;

-- SET ROLE's role; inside our SECURITY DEFINER functions current_user would be the recorder.
CREATE FUNCTION pggit.client_role() RETURNS text LANGUAGE sql STABLE
RETURN CASE WHEN pg_catalog.current_setting('role') = 'none' THEN SESSION_USER::text
            ELSE pg_catalog.current_setting('role') END;

-- Passwords in a text (user mappings, foreign servers, connection strings of subscriptions) are not kept.
CREATE FUNCTION pggit.without_secrets(query text) RETURNS text LANGUAGE sql IMMUTABLE
RETURN CASE WHEN query ~* 'passw|secret|token'
            -- First password=... inside a connection string, where quotes are doubled, then password '...' as an option.
            THEN pg_catalog.regexp_replace(pg_catalog.regexp_replace(query,
                     '(passw|secret|token)([a-z_]*\s*=\s*)([^''"\s][^''\s]*|''''([^'']|\\'''')*'''')', '\1\2...', 'gi'),
                     '(passw|secret|token)([a-z_]*"?\s*=?\s*)(E?''([^'']|'''')*''|\$(\w*)\$.*?\$\5\$)', '\1\2''...''', 'gi')
            ELSE query END;

-- 64 Ki characters: a script of thousands of statements sent as one text is stored once for every object it makes.
-- The test for secrets stands here too: so the common case is inlined, and a call would cost more than all else here.
CREATE FUNCTION pggit.client_query() RETURNS text LANGUAGE sql VOLATILE
RETURN CASE
    WHEN pg_catalog.length(pg_catalog.current_query()) > 65536
        THEN pggit.without_secrets(pg_catalog.left(pg_catalog.current_query(), 65536)) || E'\n-- [pggit: cut here, '
             || pg_catalog.length(pg_catalog.current_query()) || ' characters in all]'
    WHEN pg_catalog.current_query() ~* 'passw|secret|token' THEN pggit.without_secrets(pg_catalog.current_query())
    ELSE pg_catalog.current_query()
END;

---------------------------------------------------------------------------------------------------------------------------
-- The table
---------------------------------------------------------------------------------------------------------------------------

CREATE TABLE pggit.changes (
    id               uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    commit_id        uuid NOT NULL DEFAULT pggit.current_commit(),
    session_id       uuid DEFAULT pggit.current_session(),
    statement_id     uuid,
    branch           text NOT NULL DEFAULT pggit.current_branch(),
    -- What the server reported: CREATE ALTER RENAME DROP COMMENT SECURITY GRANT REVOKE, or BASELINE.
    action           text NOT NULL,
    command_tag      text NOT NULL,
    object_type      text NOT NULL,
    schema_name      text,
    object_name      text,
    object_identity  text,
    -- What stays the same when the object is renamed. NULL for grants, of which the server tells no object.
    classid          oid,
    objid            oid,
    objsubid         integer NOT NULL DEFAULT 0,
    -- The schema's oid: tells SET SCHEMA from a rename of the schema.
    namespace        oid,
    -- What new_definition is about: the object itself (''), its comment or its security label.
    aspect           text NOT NULL DEFAULT '',
    new_definition   text,
    -- What severity is judged by: column number -> [name, type, not null], or the labels of an enum.
    shape            jsonb,
    -- Perhaps no change, which only the object's past can tell; the view decides. An object that the server did not name, but
    -- which the same command may have changed (a partition of an altered table), is shown if its definition did change. One
    -- dropped by an extension's script is shown if it was known before, and so was no member of the extension.
    affected         boolean NOT NULL DEFAULT false,
    sql_executed     text DEFAULT pggit.client_query(),
    captured_by      text NOT NULL DEFAULT 'trigger',
    via_proxy        boolean NOT NULL DEFAULT (pggit.current_session() IS NOT NULL),
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    -- Orders the rows that one command wrote.
    ordinal          integer NOT NULL DEFAULT 0,
    created_by       text NOT NULL DEFAULT SESSION_USER,
    role_name        text NOT NULL DEFAULT pggit.client_role(),
    application_name text DEFAULT pg_catalog.current_setting('application_name'),
    client_addr      inet DEFAULT pggit.client_addr(),
    client_port      integer DEFAULT pggit.client_port(),
    backend_pid      integer NOT NULL DEFAULT pg_catalog.pg_backend_pid(),
    xid              xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    CONSTRAINT changes_pkey PRIMARY KEY (id)
);
CREATE INDEX changes_object_idx ON pggit.changes (objid, classid, objsubid, aspect, created_at DESC, ordinal DESC);
CREATE INDEX changes_time_idx ON pggit.changes (created_at DESC, ordinal DESC, id);
CREATE INDEX changes_commit_idx ON pggit.changes (commit_id);
-- By hash: an identity may be longer than an index entry.
CREATE INDEX changes_identity_idx ON pggit.changes (pg_catalog.hashtextextended(object_identity, 0), created_at DESC, ordinal DESC);
COMMENT ON TABLE pggit.changes IS 'One row per object a committed statement changed, as captured. Read pggit.history instead.';

---------------------------------------------------------------------------------------------------------------------------
-- Definitions
---------------------------------------------------------------------------------------------------------------------------

-- The functions from here to pggit.definition() expect search_path = pg_catalog, pg_temp, as their callers set it: setting it
-- anew in each of them would cost as much as the work.

-- ` OPTIONS (a '1', password '...')`: values that may be secrets are not shown.
CREATE FUNCTION pggit.options(options text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(' OPTIONS (' || string_agg(
               quote_ident(split_part(o, '=', 1)) || ' '
               || CASE WHEN split_part(o, '=', 1) ~* 'pass|secret|token|credential|key|conninfo|dsn|connection'
                       THEN '''...''' ELSE quote_literal(substr(o, strpos(o, '=') + 1)) END, ', ' ORDER BY n) || ')', '')
      FROM unnest(options) WITH ORDINALITY AS u(o, n)
$$;

-- What few columns have. Functions, because what is not called costs nothing.
CREATE FUNCTION pggit.column_collation(coll oid) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT format(' COLLATE %s.%I', co.collnamespace::regnamespace, co.collname) FROM pg_collation co WHERE co.oid = coll
$$;

CREATE FUNCTION pggit.column_default(rel oid, attnum smallint, generated "char") RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE generated
               WHEN '' THEN ' DEFAULT ' || pg_get_expr(d.adbin, rel)
               ELSE ' GENERATED ALWAYS AS (' || pg_get_expr(d.adbin, rel) || ')'
                    || CASE generated WHEN 's' THEN ' STORED' ELSE ' VIRTUAL' END END
      FROM pg_attrdef d WHERE d.adrelid = rel AND d.adnum = attnum
$$;

-- What only pg_dump's ALTER TABLE lines can say.
CREATE FUNCTION pggit.column_settings(only_name text, name name, storage "char", compression "char", target integer, options text[])
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT string_agg(format(E';\nALTER %s ALTER COLUMN %I SET %s', only_name, name, s.setting), '' ORDER BY s.n)
      FROM (VALUES
          (1, 'STORAGE ' || CASE storage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' WHEN 'x' THEN 'EXTENDED' END),
          (2, 'COMPRESSION ' || CASE compression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END),
          (3, CASE WHEN target >= 0 THEN 'STATISTICS ' || target END),
          -- 15.20 keeps a stamp of its own among the options (pg_attver=...): no one set it, and it differs from table to table.
          (4, (SELECT '(' || string_agg(o, ', ') || ')' FROM unnest(options) o WHERE o NOT LIKE 'pg\_%'))) s(n, setting)
     WHERE s.setting IS NOT NULL
$$;

-- A table, foreign table or partition. NULL if the catalogs as this snapshot sees them do not hold all columns: under
-- REPEATABLE READ a table that another transaction made after the snapshot would be printed with some of them only.
-- One query for what every table has; other catalogs are looked into only where pg_class says that there is something. Each
-- query, join and sort more would be felt in CREATE TABLE.
CREATE FUNCTION pggit.describe_table(rel oid, OUT definition text, OUT shape jsonb)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    t record;
    constraints text;
    indexes text;
    more text;
BEGIN
    SELECT c.*, x.* INTO t
      FROM (SELECT r.oid, r.relkind, r.relpersistence, r.relnatts, r.reloptions, r.relispartition, r.relchecks, r.relowner,
                   r.relrowsecurity, r.relforcerowsecurity, r.relreplident, r.reloftype, r.reltablespace, r.relam,
                   r.relhasindex, r.relhastriggers, r.relhasrules, r.relpartbound,
                   format('%s.%I', r.relnamespace::regnamespace, r.relname) AS name FROM pg_class r) c
     -- Sorted in the subquery, where the index gives the order: an ORDER BY in each aggregate would sort each time.
     CROSS JOIN LATERAL (
        SELECT count(*) AS columns, coalesce(bool_or(a.inherited), true) AS inherits,
               string_agg(concat('    ', quote_ident(a.attname), ' ', a.type, a.extra), E',\n')
                   FILTER (WHERE NOT a.attisdropped) AS lines,
               jsonb_object_agg(a.attnum, jsonb_build_array(a.attname, a.type, a.attnotnull))
                   FILTER (WHERE NOT a.attisdropped) AS shape,
               string_agg(a.settings, '') FILTER (WHERE NOT a.attisdropped) AS settings
          FROM (SELECT a.attnum, a.attname, a.attnotnull, a.attisdropped, a.attinhcount > 0 AS inherited,
                       format_type(a.atttypid, a.atttypmod) AS type,
                       concat(CASE WHEN a.attcollation NOT IN (0, y.typcollation) THEN pggit.column_collation(a.attcollation) END,
                              CASE WHEN a.attfdwoptions IS NOT NULL THEN pggit.options(a.attfdwoptions) END,
                              CASE WHEN a.atthasdef THEN pggit.column_default(rel, a.attnum, a.attgenerated) END,
                              CASE a.attidentity WHEN 'a' THEN ' GENERATED ALWAYS AS IDENTITY'
                                                 WHEN 'd' THEN ' GENERATED BY DEFAULT AS IDENTITY' END,
                              CASE WHEN a.attnotnull THEN ' NOT NULL' END) AS extra,
                       CASE WHEN a.attstorage <> y.typstorage OR a.attcompression <> '' OR a.attstattarget >= 0
                                 OR array_to_string(a.attoptions, ' ') !~ '^pg_\w+=\S*$'
                            THEN pggit.column_settings(
                                     CASE c.relkind WHEN 'f' THEN 'FOREIGN ' ELSE '' END || 'TABLE ONLY ' || c.name, a.attname,
                                     CASE WHEN a.attstorage <> y.typstorage THEN a.attstorage END, a.attcompression,
                                     a.attstattarget, a.attoptions) END AS settings
                  FROM pg_attribute a LEFT JOIN pg_type y ON y.oid = a.atttypid
                 WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum) a) x
     WHERE c.oid = rel;
    IF NOT FOUND OR t.columns <> t.relnatts THEN
        RETURN;
    END IF;
    shape := t.shape;

    -- PostgreSQL 18 keeps NOT NULL as constraints too: they stand with their columns already.
    IF t.relhasindex OR t.relchecks > 0 OR t.relhastriggers THEN
        SELECT (SELECT string_agg(format(E',\n    CONSTRAINT %I %s', k.conname, pg_get_constraintdef(k.oid)), '' ORDER BY k.conname)
                  FROM pg_constraint k WHERE k.conrelid = rel AND k.contype NOT IN ('n', 't')),
               (SELECT concat(string_agg(format(E';\nALTER TABLE %s CLUSTER ON %I', t.name, i.relname), '') FILTER (WHERE x.indisclustered),
                              string_agg(format(E';\nALTER TABLE %s REPLICA IDENTITY USING INDEX %I', t.name, i.relname), '')
                                  FILTER (WHERE x.indisreplident))
                  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
                 WHERE x.indrelid = rel AND (x.indisclustered OR x.indisreplident))
          INTO constraints, indexes;
    END IF;

    definition := concat('CREATE ', CASE WHEN t.relpersistence = 'u' THEN 'UNLOGGED ' END, CASE WHEN t.relkind = 'f' THEN 'FOREIGN ' END,
        'TABLE ', t.name, CASE WHEN t.reloftype <> 0 THEN ' OF ' || format_type(t.reloftype, NULL) END,
        E' (\n', CASE WHEN t.lines IS NULL THEN substr(constraints, 3) ELSE concat(t.lines, constraints) END, E'\n)');
    IF t.inherits AND NOT t.relispartition THEN
        definition := concat(definition,
            (SELECT E'\nINHERITS (' || string_agg(format('%s.%I', p.relnamespace::regnamespace, p.relname), ', ' ORDER BY i.inhseqno) || ')'
               FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = rel));
    END IF;
    IF t.relkind = 'p' THEN
        definition := concat(definition, E'\nPARTITION BY ', pg_get_partkeydef(rel));
    ELSIF t.relkind = 'f' THEN
        definition := concat(definition,
            (SELECT E'\nSERVER ' || quote_ident(v.srvname) || pggit.options(f.ftoptions)
               FROM pg_foreign_table f JOIN pg_foreign_server v ON v.oid = f.ftserver WHERE f.ftrelid = rel));
    END IF;
    IF t.relam NOT IN (0, 2) OR t.reltablespace <> 0 THEN            -- 2 is heap
        definition := concat(definition,
            (SELECT E'\nUSING ' || quote_ident(m.amname) FROM pg_am m WHERE m.oid = t.relam AND m.oid <> 2));
        more := (SELECT E'\nTABLESPACE ' || quote_ident(b.spcname) FROM pg_tablespace b WHERE b.oid = t.reltablespace);
    END IF;
    IF t.reloptions IS NOT NULL THEN
        definition := concat(definition, E'\nWITH (', array_to_string(t.reloptions, ', '), ')');
    END IF;
    definition := concat(definition, more, t.settings);
    IF t.relispartition THEN
        definition := concat(definition,
            (SELECT format(E';\nALTER TABLE ONLY %s.%I ATTACH PARTITION %s %s', p.relnamespace::regnamespace, p.relname, t.name,
                           pg_get_expr(t.relpartbound, rel))
               FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = rel));
    END IF;
    definition := concat(definition,
        CASE WHEN t.relrowsecurity THEN format(E';\nALTER TABLE %s ENABLE ROW LEVEL SECURITY', t.name) END,
        CASE WHEN t.relforcerowsecurity THEN format(E';\nALTER TABLE %s FORCE ROW LEVEL SECURITY', t.name) END,
        CASE t.relreplident WHEN 'f' THEN format(E';\nALTER TABLE %s REPLICA IDENTITY FULL', t.name)
                            WHEN 'n' THEN format(E';\nALTER TABLE %s REPLICA IDENTITY NOTHING', t.name) END,
        indexes);
    IF t.relhastriggers THEN
        definition := concat(definition,
            (SELECT string_agg(format(E';\nALTER TABLE %s %s TRIGGER %I', t.name,
                        CASE g.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, g.tgname),
                        '' ORDER BY g.tgname)
               FROM pg_trigger g WHERE g.tgrelid = rel AND NOT g.tgisinternal AND g.tgenabled <> 'O'));
    END IF;
    IF t.relhasrules THEN
        definition := concat(definition,
            (SELECT string_agg(format(E';\nALTER TABLE %s %s RULE %I', t.name,
                        CASE r.ev_enabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, r.rulename),
                        '' ORDER BY r.rulename)
               FROM pg_rewrite r WHERE r.ev_class = rel AND r.ev_enabled <> 'O'));
    END IF;
    definition := concat(definition, E';\n-- Owner: ', quote_ident(pg_get_userbyid(t.relowner)));
END
$$;

CREATE FUNCTION pggit.describe_relation(rel oid, kind "char", OUT definition text, OUT shape jsonb)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    name text;
    persistence "char";
    options text[];
    owner oid;
BEGIN
    IF kind IN ('i', 'I') THEN
        SELECT concat(pg_get_indexdef(rel),
                      CASE WHEN c.reltablespace <> 0
                           THEN (SELECT ' TABLESPACE ' || quote_ident(b.spcname) FROM pg_tablespace b WHERE b.oid = c.reltablespace) END,
                      CASE WHEN x.indisvalid OR kind = 'I' THEN ';' ELSE E'; -- invalid' END,
                      (SELECT string_agg(format(E'\nALTER INDEX %s.%I ALTER COLUMN %s SET STATISTICS %s;',
                                                c.relnamespace::regnamespace, c.relname, a.attnum, a.attstattarget),
                                         '' ORDER BY a.attnum)
                         FROM pg_attribute a WHERE a.attrelid = rel AND a.attstattarget >= 0))
          INTO definition FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indexrelid = rel;
        RETURN;
    END IF;
    SELECT format('%s.%I', c.relnamespace::regnamespace, c.relname), c.relpersistence, c.reloptions, c.relowner
      INTO name, persistence, options, owner FROM pg_class c WHERE c.oid = rel;
    IF kind IN ('v', 'm') THEN
        definition := 'CREATE ' || CASE kind WHEN 'v' THEN 'VIEW ' ELSE 'MATERIALIZED VIEW ' END || name
            || coalesce(E'\nWITH (' || array_to_string(options, ', ') || ')', '') || E' AS\n' || pg_get_viewdef(rel);
        definition := definition || coalesce(
            (SELECT string_agg(format(E'\nALTER VIEW %s ALTER COLUMN %I SET DEFAULT %s;', name, a.attname, pg_get_expr(d.adbin, rel)),
                    '' ORDER BY a.attnum)
               FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE d.adrelid = rel), '');
        SELECT jsonb_object_agg(a.attnum, jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull))
          INTO shape FROM pg_attribute a WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped;
    ELSIF kind = 'S' THEN
        SELECT 'CREATE ' || CASE WHEN persistence = 'u' THEN 'UNLOGGED ' ELSE '' END || 'SEQUENCE ' || name || ' AS '
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
    definition := rtrim(definition, E'\n') || E'\n-- Owner: ' || quote_ident(pg_get_userbyid(owner));
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
        SELECT d.definition, d.shape INTO definition, shape FROM pggit.describe_relation(t.typrelid, 'c') d;
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
        SELECT pg_get_triggerdef(g.oid) || ';' INTO d FROM pg_trigger g WHERE g.oid = obj;
    WHEN 'pg_rewrite'::regclass THEN
        d := pg_get_ruledef(obj);
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
        -- Never the connection string: it holds passwords.
        SELECT format('CREATE SUBSCRIPTION %I CONNECTION ''...'' PUBLICATION %s WITH (enabled = %s, slot_name = %s);', u.subname,
                      (SELECT string_agg(quote_ident(x), ', ')
                          FROM unnest(u.subpublications) x), u.subenabled, coalesce(quote_literal(u.subslotname), 'NONE'))
          INTO d FROM pg_subscription u WHERE u.oid = obj;
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
    kind "char";
    d record;
BEGIN
    IF class = 'pg_class'::regclass THEN
        SELECT c.relkind INTO kind FROM pg_class c WHERE c.oid = obj;
        IF kind IN ('r', 'p', 'f') THEN
            d := pggit.describe_table(obj);
        ELSE
            d := pggit.describe_relation(obj, kind);
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

---------------------------------------------------------------------------------------------------------------------------
-- Capture
---------------------------------------------------------------------------------------------------------------------------

-- Objects that a command on a table or index may have changed or made without the server naming them: partitions and
-- inheritance children, and what partitions get from their parents (indexes, triggers).
CREATE FUNCTION pggit.descendants(rel oid) RETURNS TABLE (class oid, obj oid)
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE r(oid) AS (
        SELECT rel UNION SELECT i.inhrelid FROM pg_inherits i JOIN r ON i.inhparent = r.oid
    ), kept AS (
        SELECT c.oid, c.relispartition FROM r JOIN pg_class c ON c.oid = r.oid WHERE c.relpersistence <> 't'
    )
    SELECT 'pg_class'::regclass::oid, k.oid FROM kept k WHERE k.oid <> rel
    UNION ALL
    SELECT 'pg_class'::regclass, x.indexrelid FROM kept k JOIN pg_index x ON x.indrelid = k.oid
      JOIN pg_class ic ON ic.oid = x.indexrelid AND ic.relispartition WHERE k.relispartition
    UNION ALL
    SELECT 'pg_trigger'::regclass, g.oid FROM kept k JOIN pg_trigger g ON g.tgrelid = k.oid AND g.tgparentid <> 0 AND NOT g.tgisinternal
     WHERE k.relispartition
$$;

-- Rows for objects that may have been changed. The view decides by comparing definitions.
CREATE FUNCTION pggit.record_affected(classes oid[], objects oid[], tag text, first_ordinal integer) RETURNS void
LANGUAGE sql VOLATILE AS $$
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
       AND NOT EXISTS (SELECT FROM pg_depend m WHERE m.classid = u.class AND m.objid = u.obj AND m.objsubid = 0 AND m.deptype = 'e')
$$;

-- How deep in extension commands (a script may hold ALTER EXTENSION ... ADD) this transaction is. A client who sets this hides
-- nothing: see changes.affected.
CREATE FUNCTION pggit.extension_depth() RETURNS integer LANGUAGE sql STABLE
RETURN CASE WHEN pg_catalog.current_setting('pggit.extension', true) ~ '^[0-9]{1,4}$'
            THEN pg_catalog.current_setting('pggit.extension', true)::integer ELSE 0 END;

CREATE FUNCTION pggit.enter_extension(step integer) RETURNS text LANGUAGE sql VOLATILE
RETURN pg_catalog.set_config('pggit.extension', greatest(pggit.extension_depth() + step, 0)::text, true);

-- Whether a change in the schema pggit is our own migration's.
CREATE FUNCTION pggit.is_migrating() RETURNS boolean LANGUAGE sql STABLE
RETURN coalesce(pg_catalog.current_setting('pggit.migration', true), '') = 'on' AND SESSION_USER = CURRENT_USER;

-- The settings besides search_path are for speed: every lookup here is for one object, by index; a plan made once serves. For
-- speed too, what most commands need is one query here, one in the printer and the INSERT, with few assignments between them:
-- each of those costs a part of what CREATE TABLE itself costs.
CREATE FUNCTION pggit.record_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off AS $$
DECLARE
    o record;
    d record;
    names text[];
    seen text[] := '{}';
    n integer := 0;
    families oid[];
    opfamilies oid[];
    family oid;
    classes oid[];
    objects oid[];
BEGIN
    -- Of a drop sql_drop tells. But DROP OWNED revokes too.
    IF tg_tag LIKE 'DROP %' AND tg_tag <> 'DROP OWNED' THEN
        RETURN;
    END IF;
    -- An extension is one change, with its version; what its script makes belongs to it.
    FOR o IN
        SELECT e.classid, e.objid, e.objsubid, e.command_tag, e.object_type, e.schema_name, e.object_identity,
               CASE split_part(e.command_tag, ' ', 1) WHEN 'SELECT' THEN 'CREATE'    -- SELECT INTO
                    ELSE split_part(e.command_tag, ' ', 1) END AS action,
               CASE split_part(e.command_tag, ' ', 1) WHEN 'COMMENT' THEN 'comment' WHEN 'SECURITY' THEN 'label' ELSE '' END AS aspect,
               concat_ws(' ', e.classid, e.objid, e.objsubid) AS key,
               c.relname::text AS name, c.relnamespace AS space, c.relkind, c.reltype, c.relhassubclass OR c.relispartition AS in_tree
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
        -- reported for a rename only.
        IF o.aspect = '' AND (o.objsubid <> 0 OR o.classid IN ('pg_constraint'::regclass, 'pg_publication_rel'::regclass,
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
                       CASE WHEN o.action = 'ALTER' AND d.classid <> 'pg_publication'::regclass THEN 'RENAME' ELSE o.action END AS action,
                       o.aspect AS aspect, concat_ws(' ', d.classid::oid, d.objid, 0) AS key,
                       c.relname::text AS name, c.relnamespace AS space, c.relkind AS relkind, c.reltype AS reltype,
                       c.relhassubclass OR c.relispartition AS in_tree
                  INTO o
                  FROM pg_identify_object(d.classid, d.objid, 0) i
                  LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid;
            END IF;
        END IF;

        -- One command reports the same object several times (CREATE TABLE, then ALTER TABLE for a foreign key): the first counts.
        CONTINUE WHEN o.key = ANY (seen);
        seen := seen || o.key;
        CONTINUE WHEN (o.schema_name = 'pggit' OR o.classid = 'pg_namespace'::regclass AND o.object_identity = 'pggit')
                  AND pggit.is_migrating();

        IF o.classid = 'pg_class'::regclass AND o.objsubid = 0 AND o.aspect = '' THEN
            IF o.relkind IN ('r', 'p', 'f') THEN
                d := pggit.describe_table(o.objid);
            ELSE
                d := pggit.describe_relation(o.objid, o.relkind);
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
                    CONTINUE WHEN names[1] = 'pg_temp' OR names[1] = 'pggit' AND pggit.is_migrating();
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
                o.space, o.aspect, d.definition, d.shape, n);
    END LOOP;

    IF opfamilies IS NOT NULL THEN
        PERFORM pggit.record_affected(array_fill('pg_opfamily'::regclass::oid, ARRAY[array_length(opfamilies, 1)]), opfamilies, tg_tag, n);
        n := n + array_length(opfamilies, 1);
    END IF;
    IF families IS NOT NULL THEN
        FOREACH family IN ARRAY families LOOP
            SELECT array_agg(m.class), array_agg(m.obj) INTO classes, objects FROM pggit.descendants(family) m
             WHERE NOT concat_ws(' ', m.class, m.obj, 0) = ANY (seen);
            PERFORM pggit.record_affected(classes, objects, tg_tag, n);
            n := n + coalesce(array_length(classes, 1), 0);
        END LOOP;
    END IF;

    IF tg_tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        PERFORM pggit.enter_extension(-1);
    END IF;
END
$$;

-- Before a command that makes, changes or may drop an extension. Members of extensions, and what hangs on member tables, are
-- remembered before they are dropped: afterwards nothing tells them from the user's objects that went with them. Forging the
-- setting is useless: this trigger overwrites it.
CREATE FUNCTION pggit.before_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tg_tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        PERFORM pggit.enter_extension(1);
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
    migrating boolean := pggit.is_migrating();
    classes oid[];
    objects oid[];
    n integer;
BEGIN
    -- The common case: one function, or one relation with nothing but its own parts, its indexes and its sequences. The
    -- statement after this one gives the same rows, at several times the cost: planned and started with all its branches.
    IF members IS NULL AND NOT migrating AND pggit.extension_depth() = 0
       AND (SELECT count(*) FILTER (WHERE g.original) = 1
                   AND bool_and(g.objsubid = 0 AND NOT g.is_temporary AND coalesce(CASE
                       WHEN g.original THEN g.classid IN ('pg_class'::regclass, 'pg_proc'::regclass)
                       WHEN g.classid IN ('pg_constraint'::regclass, 'pg_attrdef'::regclass) THEN g.address_names[1:2] = o.address_names
                       WHEN g.classid = 'pg_type'::regclass
                           THEN g.schema_name = o.schema_name AND (g.object_name = o.object_name OR g.object_name = '_' || o.object_name)
                       WHEN g.classid = 'pg_rewrite'::regclass THEN g.address_names = o.address_names || '_RETURN'::text
                       WHEN g.classid = 'pg_class'::regclass THEN g.object_type IN ('index', 'sequence') OR g.schema_name = 'pg_toast'
                       END, false))
              FROM pg_event_trigger_dropped_objects() o, pg_event_trigger_dropped_objects() g WHERE o.original)
    THEN
        INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid,
                                   namespace, ordinal)
        SELECT 'DROP', tg_tag, g.object_type, g.schema_name, g.address_names[2], g.object_identity, g.classid, g.objid,
               s.oid, g.n
          FROM pg_event_trigger_dropped_objects() WITH ORDINALITY AS g(classid, objid, objsubid, original, normal, is_temporary,
                   object_type, schema_name, object_name, object_identity, address_names, address_args, n)
          LEFT JOIN pg_namespace s ON s.nspname = g.schema_name
         WHERE g.original OR g.object_type IN ('index', 'sequence') AND g.schema_name <> 'pg_toast';
        RETURN;
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
               -- Statistics do not say that their table was temporary; then they were never recorded.
               pggit.extension_depth() > 0 OR r.classid = 'pg_statistic_ext'::regclass AND NOT r.original, r.n
          FROM rows r
         WHERE NOT (migrating AND (r.schema_name IS NOT DISTINCT FROM 'pggit' OR r.object_identity = 'pggit'))
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
-- Severity and the view
---------------------------------------------------------------------------------------------------------------------------

-- Whether every value of the old type is a value of the new one.
CREATE FUNCTION pggit.is_wider(old_type text, new_type text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was text[] := regexp_match(old_type, '^([^(]*?)(?:\((\d+)(?:,(-?\d+))?\))?( with(?:out)? time zone)?$');
    is_ text[] := regexp_match(new_type, '^([^(]*?)(?:\((\d+)(?:,(-?\d+))?\))?( with(?:out)? time zone)?$');
BEGIN
    IF old_type = new_type THEN
        RETURN true;
    ELSIF old_type IN ('smallint', 'integer') AND new_type IN ('integer', 'bigint') THEN
        RETURN true;
    ELSIF old_type = 'real' AND new_type = 'double precision' THEN
        RETURN true;
    ELSIF old_type IN ('smallint', 'integer', 'bigint') AND new_type = 'numeric' THEN
        RETURN true;
    ELSIF was IS NULL OR is_ IS NULL THEN
        RETURN false;
    ELSIF was[1] = 'character varying' AND is_[1] IN ('character varying', 'text') THEN
        RETURN is_[2] IS NULL OR coalesce(was[2]::integer <= is_[2]::integer, false);
    ELSIF was[1] = 'numeric' AND is_[1] = 'numeric' THEN
        RETURN is_[2] IS NULL OR coalesce(coalesce(was[3], '0')::integer <= coalesce(is_[3], '0')::integer
            AND was[2]::integer - coalesce(was[3], '0')::integer <= is_[2]::integer - coalesce(is_[3], '0')::integer, false);
    ELSIF was[1] IN ('bit varying', 'timestamp', 'time', 'interval') AND was[1] = is_[1] AND was[4] IS NOT DISTINCT FROM is_[4] THEN
        RETURN is_[2] IS NULL OR coalesce(was[2]::integer <= is_[2]::integer, false);
    END IF;
    RETURN false;
END
$$;

-- Whether something that was allowed before is not any more: a column gone, renamed, of a narrower type or now NOT NULL, an
-- enum label gone.
CREATE FUNCTION pggit.is_narrower(old_shape jsonb, new_shape jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was jsonb;
    is_ jsonb;
    key text;
BEGIN
    IF old_shape IS NULL OR new_shape IS NULL OR old_shape = new_shape OR jsonb_typeof(old_shape) <> jsonb_typeof(new_shape) THEN
        RETURN false;
    ELSIF jsonb_typeof(old_shape) = 'array' THEN
        RETURN NOT new_shape @> old_shape;
    END IF;
    FOR key, was IN SELECT * FROM jsonb_each(old_shape) LOOP
        is_ := new_shape -> key;
        IF is_ IS NULL OR was ->> 0 <> is_ ->> 0 OR NOT pggit.is_wider(was ->> 1, is_ ->> 1)
           OR (is_ ->> 2)::boolean AND NOT (was ->> 2)::boolean THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END
$$;

-- Dropping and narrowing is MAJOR, and so is a rename: who uses the old name breaks. Adding and other changes are MINOR.
-- Comments, labels, grants, and anything done to an index are PATCH: no statement gets another meaning by them.
CREATE FUNCTION pggit.severity(change_type text, command_tag text, object_type text, old_shape jsonb, new_shape jsonb) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN change_type IN ('COMMENT', 'SECURITY', 'GRANT', 'REVOKE', 'BASELINE') THEN 'PATCH'
    WHEN object_type = 'index' OR command_tag = 'ALTER DEFAULT PRIVILEGES' THEN 'PATCH'
    WHEN change_type IN ('DROP', 'RENAME') THEN 'MAJOR'
    WHEN change_type = 'ALTER' AND pggit.is_narrower(old_shape, new_shape) THEN 'MAJOR'
    ELSE 'MINOR'
END;

-- What a change replaced is the object's row before it: by oid, else (the server made it anew under another oid, or the
-- history came from a dump) by its name. An ALTER after which the object has another name or schema was a rename; a CREATE of
-- what was there already (CREATE OR REPLACE) was an ALTER.
CREATE VIEW pggit.history AS
SELECT c.id, c.commit_id, c.session_id, c.statement_id, c.branch, t.change_type,
       pggit.severity(t.change_type, c.command_tag, c.object_type, p.shape, c.shape) AS change_severity,
       c.command_tag, c.object_type, c.schema_name, c.object_name, c.object_identity,
       CASE WHEN c.objsubid = 0 OR c.aspect <> '' THEN p.new_definition
            ELSE pg_catalog.quote_ident(p.shape -> c.objsubid::text ->> 0) || ' ' || (p.shape -> c.objsubid::text ->> 1)
                 || CASE WHEN (p.shape -> c.objsubid::text ->> 2)::boolean THEN ' NOT NULL' ELSE '' END END AS old_definition,
       c.new_definition, c.sql_executed, c.captured_by, c.via_proxy, c.created_at, c.created_by, c.role_name,
       c.application_name, c.client_addr, c.client_port, c.backend_pid, c.xid, c.ordinal
  FROM pggit.changes c
  LEFT JOIN LATERAL (
        SELECT k.action, k.object_name, k.namespace, k.new_definition, k.shape FROM pggit.changes k
         WHERE k.objid = c.objid AND k.classid = c.classid AND k.aspect = c.aspect
           AND k.objsubid = CASE WHEN c.aspect = '' THEN 0 ELSE c.objsubid END
           AND (k.created_at, k.ordinal) < (c.created_at, c.ordinal)
         ORDER BY k.created_at DESC, k.ordinal DESC LIMIT 1) o ON true
  LEFT JOIN LATERAL (
        SELECT k.action, k.object_name, k.namespace, k.new_definition, k.shape FROM pggit.changes k
         WHERE o.action IS NULL AND c.objsubid = 0 AND c.action IN ('ALTER', 'RENAME', 'DROP') AND (NOT c.affected OR c.action = 'DROP')
           AND pg_catalog.hashtextextended(k.object_identity, 0) = pg_catalog.hashtextextended(c.object_identity, 0)
           AND k.object_identity = c.object_identity AND k.object_type = c.object_type AND k.aspect = c.aspect
           AND (k.created_at, k.ordinal) < (c.created_at, c.ordinal)
         ORDER BY k.created_at DESC, k.ordinal DESC LIMIT 1) i ON true
  CROSS JOIN LATERAL (
        SELECT coalesce(o.action, i.action), coalesce(o.new_definition, i.new_definition),
               coalesce(o.shape, i.shape)) p(action, new_definition, shape)
  CROSS JOIN LATERAL (
        SELECT CASE
            WHEN c.action = 'ALTER' AND o.action <> 'DROP' AND (o.object_name <> c.object_name OR o.namespace <> c.namespace) THEN 'RENAME'
            WHEN c.action = 'ALTER' AND c.affected AND p.action IS NULL THEN 'CREATE'
            WHEN c.action = 'CREATE' AND o.action <> 'DROP' THEN 'ALTER'
            ELSE c.action END) t(change_type)
 WHERE NOT (c.affected AND CASE WHEN c.action = 'DROP' THEN coalesce(p.action, 'DROP') = 'DROP'
                                ELSE p.action IS NOT NULL AND p.new_definition IS NOT DISTINCT FROM c.new_definition END);

COMMENT ON VIEW pggit.history IS 'One row per object a committed statement created, altered or dropped.';

-- All changes of one transaction.
CREATE VIEW pggit.commits AS
SELECT c.commit_id AS id, pg_catalog.min(c.branch) AS branch, NULL::uuid AS parent, pg_catalog.min(c.created_by) AS author,
       NULL::text AS message, pg_catalog.min(c.created_at) AS created_at, pg_catalog.min(c.application_name) AS application_name,
       pg_catalog.max(c.xid) AS xid
  FROM pggit.changes c GROUP BY c.commit_id;
COMMENT ON VIEW pggit.commits IS 'The transactions that changed something; parent and message are not known yet.';

---------------------------------------------------------------------------------------------------------------------------
-- Baseline: what is there already, so that the first change of each object knows what it replaced
---------------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pggit.record_baseline() RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_rows bigint;
BEGIN
    WITH member AS MATERIALIZED (
        SELECT d.classid, d.objid FROM pg_depend d WHERE d.deptype = 'e'
    ), own AS MATERIALIZED (
        SELECT n.oid FROM pg_namespace n WHERE n.nspname IN ('pggit', 'pg_catalog', 'information_schema', 'pg_toast')
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
    INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid,
                               namespace, new_definition, shape, sql_executed, captured_by, via_proxy, session_id, ordinal)
    SELECT 'BASELINE', 'BASELINE', i.type,
           coalesce(sn.nspname, CASE WHEN o.class IN ('pg_trigger'::regclass, 'pg_policy'::regclass,
               'pg_rewrite'::regclass) THEN a.object_names[1] END),
           CASE WHEN o.class = 'pg_type'::regclass THEN (SELECT t.typname::text FROM pg_type t WHERE t.oid = o.oid)
                WHEN o.class IN ('pg_cast'::regclass, 'pg_transform'::regclass) THEN i.identity
                ELSE a.object_names[array_length(a.object_names, 1)] END,
           i.identity, o.class, o.oid, sn.oid, d.definition, d.shape, NULL, 'baseline', false, NULL,
           row_number() OVER (ORDER BY o.rank, o.oid)
      FROM obj o
      CROSS JOIN LATERAL pg_identify_object(o.class, o.oid, 0) i
      CROSS JOIN LATERAL pg_identify_object_as_address(o.class, o.oid, 0) a
      -- pg_identify_object quotes the schema's name.
      LEFT JOIN pg_namespace sn ON quote_ident(sn.nspname) = i.schema
           OR i.schema IS NULL AND o.class IN ('pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_rewrite'::regclass)
               AND sn.nspname = a.object_names[1]
      CROSS JOIN LATERAL pggit.describe(o.class, o.oid) d
     WHERE (o.oid >= 16384 OR o.class IN ('pg_extension'::regclass, 'pg_namespace'::regclass))
       AND NOT EXISTS (SELECT FROM member m WHERE m.classid = o.class AND m.objid = o.oid)
       AND i.identity IS NOT NULL;
    GET DIAGNOSTICS found_rows = ROW_COUNT;
    RETURN found_rows;
END
$$;

SELECT pggit.record_baseline();

---------------------------------------------------------------------------------------------------------------------------
-- Rights: readers read, nobody but the owner writes or calls what records
---------------------------------------------------------------------------------------------------------------------------

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pggit FROM PUBLIC;
REVOKE ALL ON FUNCTION pggit.record_ddl(), pggit.record_drop(), pggit.before_ddl(), pggit.record_baseline(),
    pggit.record_affected(oid[], oid[], text, integer) FROM pggit_reader;
GRANT SELECT ON pggit.changes, pggit.history, pggit.commits TO pggit_reader;

-- ALWAYS: session_replication_role = replica turns other triggers off. In a role's or database's way nothing is left to chance:
-- clients need no rights on anything here.
CREATE EVENT TRIGGER pggit_before_ddl ON ddl_command_start
    WHEN TAG IN ('CREATE EXTENSION', 'ALTER EXTENSION', 'DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED') EXECUTE FUNCTION pggit.before_ddl();
CREATE EVENT TRIGGER pggit_record_ddl ON ddl_command_end EXECUTE FUNCTION pggit.record_ddl();
CREATE EVENT TRIGGER pggit_record_drop ON sql_drop EXECUTE FUNCTION pggit.record_drop();
ALTER EVENT TRIGGER pggit_before_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER pggit_record_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER pggit_record_drop ENABLE ALWAYS;
