-- What cannot run inside a transaction: a row that says what is about to be done, before it is done; and what became of it.
-- And transactions that were prepared, whose end may come from any session, days later.
--
-- All of this runs on the recorder's own connections, never in a client's transaction. So it may read our tables and lock.
-- pggit.intents is used in each branch's own database, pggit.prepared in the main one, beside pggit.statements.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

CREATE TABLE pggit.intents (
    -- Also the key of the statement's row in pggit.statements.
    id               uuid PRIMARY KEY,
    session_id       uuid NOT NULL,
    branch           text NOT NULL,
    -- Where it was said. A copy of the database carries the row along, and must leave it alone.
    database         oid NOT NULL,
    command_tag      text NOT NULL,
    class            text NOT NULL,
    object_type      text,
    -- The objects that the text names, as far as it does.
    schema_name      text,
    object_names     text[] NOT NULL,
    sql              text NOT NULL,
    created_by       text NOT NULL,
    application_name text NOT NULL,
    client_addr      inet,
    client_port      integer,
    proxy            text NOT NULL,
    -- The server's process that runs it. A process number comes again, its start does not.
    backend_pid      integer NOT NULL,
    backend_start    timestamptz,
    -- What was written by this transaction or a later one may be its doing.
    since            xid8 NOT NULL,
    -- What there was before, of what belongs to the whole server.
    before           jsonb,
    opened_at        timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    outcome          text CHECK (outcome IN ('applied', 'failed', 'unknown')),
    sqlstate         text,
    reason           text,
    settled_at       timestamptz,
    rerouted_from    text,
    CHECK ((outcome IS NULL) = (settled_at IS NULL))
);
COMMENT ON TABLE pggit.intents IS
    'Statements that cannot run inside a transaction: written before they are run; outcome is NULL until it is known.';
COMMENT ON COLUMN pggit.intents.reason IS 'The server''s error, what a failed statement left behind, or why nobody can know';
CREATE INDEX intents_open ON pggit.intents (opened_at) WHERE outcome IS NULL;
CREATE INDEX intents_session ON pggit.intents (session_id, opened_at);

-- `before` holds hashes of settings, some of which are secrets.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        REVOKE SELECT ON pggit.intents FROM pggit_reader;
        GRANT SELECT (id, session_id, branch, database, command_tag, class, object_type, schema_name, object_names, sql, created_by,
                      application_name, client_addr, client_port, proxy, backend_pid, backend_start, opened_at, outcome, sqlstate,
                      reason, settled_at, rerouted_from) ON pggit.intents TO pggit_reader;
    END IF;
END
$$;

---------------------------------------------------------------------------------------------------------------------------
-- What belongs to the server (its printers are in 0011, for companions record changes of it, too)
---------------------------------------------------------------------------------------------------------------------------

-- What ALTER SYSTEM has set, by name: the text for the history and a hash of the value, so that a change of a secret is seen
-- and the secret is not. NULL where this role may not look.
CREATE FUNCTION pggit.system_settings() RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT (has_table_privilege('pg_file_settings', 'SELECT') AND has_function_privilege('pg_show_all_file_settings()', 'EXECUTE')) THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT coalesce(jsonb_object_agg(f.name, jsonb_build_array(
                       format('ALTER SYSTEM SET %s TO %s;', f.name,
                              CASE WHEN f.name ~* 'passw|passphrase|secret|token|conninfo' THEN '''...'''
                                   ELSE quote_literal(pggit.without_secrets(f.setting)) END),
                       encode(sha256(convert_to(f.setting, 'UTF8')), 'hex')) ORDER BY f.seqno), '{}')
              FROM pg_file_settings f WHERE f.sourcefile ~ '(^|/)postgresql\.auto\.conf$' AND f.setting IS NOT NULL);
END
$$;

-- Database, tablespace or subscription of that name, or of that oid where it is given.
CREATE FUNCTION pggit.look_up(object_type text, name text, known oid, OUT class oid, OUT obj oid, OUT object_name text,
                              OUT definition text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    CASE object_type
    WHEN 'database' THEN
        SELECT d.oid, d.datname, pggit.describe_database(d.oid) INTO obj, object_name, definition
          FROM pg_database d WHERE CASE WHEN known IS NULL THEN d.datname = name ELSE d.oid = known END;
        class := 'pg_database'::regclass;
    WHEN 'tablespace' THEN
        SELECT t.oid, t.spcname, pggit.describe_tablespace(t.oid) INTO obj, object_name, definition
          FROM pg_tablespace t WHERE CASE WHEN known IS NULL THEN t.spcname = name ELSE t.oid = known END;
        class := 'pg_tablespace'::regclass;
    ELSE
        SELECT s.oid, s.subname, (pggit.describe('pg_subscription'::regclass, s.oid)).definition INTO obj, object_name, definition
          FROM pg_subscription s
         WHERE s.subdbid = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database())
           AND CASE WHEN known IS NULL THEN s.subname = name ELSE s.oid = known END;
        class := 'pg_subscription'::regclass;
    END CASE;
END
$$;

---------------------------------------------------------------------------------------------------------------------------
-- Before the statement
---------------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION pggit.intend(
    id uuid, session_id uuid, branch text, command_tag text, class text, object_type text, schema_name text, object_names text[],
    sql text, created_by text, application_name text, client_addr inet, client_port integer, proxy text, backend_pid integer,
    rerouted_from text
) RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    started timestamptz;
    earlier jsonb;
    found_object record;
BEGIN
    -- For a role without pg_read_all_stats other roles' backend_start is NULL; the row is there all the same.
    SELECT a.backend_start INTO started FROM pg_stat_activity a WHERE a.pid = intend.backend_pid;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the session''s server process % is not to be seen in pg_stat_activity', intend.backend_pid
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF intend.command_tag = 'ALTER SYSTEM' THEN
        earlier := pggit.system_settings();
    ELSIF intend.object_type IN ('database', 'tablespace', 'subscription') AND intend.command_tag <> 'REINDEX' THEN
        SELECT * INTO found_object FROM pggit.look_up(intend.object_type, intend.object_names[1], NULL);
        earlier := jsonb_build_object('obj', found_object.obj, 'definition', found_object.definition);
    END IF;
    INSERT INTO pggit.intents (id, session_id, branch, database, command_tag, class, object_type, schema_name, object_names, sql,
                               created_by, application_name, client_addr, client_port, proxy, backend_pid, backend_start, since, before,
                               rerouted_from)
    SELECT intend.id, intend.session_id, intend.branch, d.oid, intend.command_tag, intend.class, intend.object_type, intend.schema_name,
           intend.object_names, pggit.without_secrets(intend.sql), intend.created_by, intend.application_name, intend.client_addr,
           intend.client_port, intend.proxy, intend.backend_pid, started, pg_snapshot_xmax(pg_current_snapshot()), earlier,
           intend.rerouted_from
      FROM pg_database d WHERE d.datname = current_database();
END
$$;

---------------------------------------------------------------------------------------------------------------------------
-- After it
---------------------------------------------------------------------------------------------------------------------------

-- Whether the server's process is still there that was to run it. Where its start may not be seen the number alone counts:
-- then an intent may wait longer than it must, and is never settled too early.
CREATE FUNCTION pggit.is_running(i pggit.intents) RETURNS boolean LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_stat_activity a
                    WHERE a.pid = i.backend_pid
                      AND (a.backend_start = i.backend_start OR a.backend_start IS NULL OR i.backend_start IS NULL))
$$;

-- One row of the history, with the context of the intent instead of the recorder's.
CREATE FUNCTION pggit.record_intended(
    i pggit.intents, action text, object_type text, schema_name text, object_name text, object_identity text,
    classid oid, objid oid, namespace oid, definition text, ordinal integer
) RETURNS void LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid, namespace,
                               new_definition, sql_executed, captured_by, session_id, statement_id, branch, created_by,
                               role_name, application_name, client_addr, client_port, backend_pid, message, ordinal,
                               rerouted_from)
    VALUES (action, i.command_tag, object_type, schema_name, object_name, object_identity, classid, objid, namespace, definition,
            i.sql, 'intent', i.session_id, i.id, i.branch, i.created_by, i.created_by, i.application_name, i.client_addr,
            i.client_port, i.backend_pid, pggit.message_of(i.sql), ordinal, i.rerouted_from)
$$;

-- Databases, tablespaces, subscriptions: what is there now, against what was there before. `changed` where that differs,
-- `broken` names what an interrupted DROP DATABASE left.
CREATE FUNCTION pggit.settle_object(i pggit.intents, told text, OUT changed boolean, OUT broken text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known oid := (i.before ->> 'obj')::oid;
    now_ record;
    latest record;
    action text;
BEGIN
    SELECT * INTO now_ FROM pggit.look_up(i.object_type, i.object_names[1], known);
    IF known IS NULL THEN
        -- CREATE that failed leaves nothing: what bears the name now is somebody else's.
        action := CASE WHEN now_.obj IS NOT NULL AND told IS DISTINCT FROM 'failed' AND i.command_tag LIKE 'CREATE %' THEN 'CREATE' END;
    ELSIF now_.obj IS NULL THEN
        action := CASE WHEN told IS DISTINCT FROM 'failed' AND i.command_tag LIKE 'DROP %' THEN 'DROP' END;
    ELSIF now_.definition IS DISTINCT FROM i.before ->> 'definition' THEN
        -- Other differences are other statements' doing.
        broken := CASE WHEN i.command_tag LIKE 'DROP %' AND now_.definition ~ '; -- invalid' THEN quote_ident(now_.object_name) END;
        action := CASE WHEN broken IS NOT NULL OR i.command_tag LIKE 'ALTER %' AND told IS DISTINCT FROM 'failed' THEN 'ALTER' END;
    END IF;
    changed := action IS NOT NULL;
    IF NOT changed THEN
        RETURN;
    END IF;
    SELECT k.action, k.new_definition INTO latest FROM pggit.changes k
     WHERE k.objid = coalesce(now_.obj, known) AND k.classid = now_.class AND k.objsubid = 0 AND k.aspect = ''
     ORDER BY k.created_at DESC, k.ordinal DESC LIMIT 1;
    -- Recorded already, by a trigger or for another statement.
    IF FOUND AND (action = 'DROP') = (latest.action = 'DROP') AND latest.new_definition IS NOT DISTINCT FROM now_.definition THEN
        RETURN;
    END IF;
    PERFORM pggit.record_intended(i, action, i.object_type, NULL, coalesce(now_.object_name, i.object_names[1]),
                                  quote_ident(coalesce(now_.object_name, i.object_names[1])), now_.class,
                                  coalesce(now_.obj, known), NULL, now_.definition, 1);
END
$$;

-- ALTER SYSTEM: one row for each setting that is another than before. NULL where this role may not look.
CREATE FUNCTION pggit.settle_settings(i pggit.intents) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    settings jsonb := pggit.system_settings();
    s record;
    n integer := 0;
BEGIN
    IF settings IS NULL OR i.before IS NULL OR jsonb_typeof(i.before) = 'null' THEN
        RETURN NULL;
    END IF;
    FOR s IN
        SELECT name, settings -> name ->> 0 AS definition,
               CASE WHEN NOT i.before ? name THEN 'CREATE' WHEN NOT settings ? name THEN 'DROP' ELSE 'ALTER' END AS action
          FROM (SELECT jsonb_object_keys(i.before) UNION SELECT jsonb_object_keys(settings)) k(name)
         WHERE i.before -> name ->> 1 IS DISTINCT FROM settings -> name ->> 1 ORDER BY name
    LOOP
        n := n + 1;
        -- Two at once see each other's settings: the one that comes second finds the row.
        CONTINUE WHEN EXISTS (
            SELECT FROM pggit.changes k
             WHERE hashtextextended(k.object_identity, 0) = hashtextextended(s.name, 0) AND k.object_identity = s.name
               AND k.object_type = 'setting' AND k.created_at > i.opened_at AND k.new_definition IS NOT DISTINCT FROM s.definition
               AND s.definition IS DISTINCT FROM i.before -> s.name ->> 0);
        PERFORM pggit.record_intended(i, s.action, 'setting', NULL, s.name, s.name, NULL, NULL, NULL, s.definition, n);
    END LOOP;
    RETURN n > 0;
END
$$;

-- Indexes made, rebuilt or dropped concurrently, partitions detached concurrently: what the catalogs hold, against what the
-- history says of it. Looks only at what was written since the intent. So it finds what the event triggers told already, and
-- what a failed statement left behind. `changed` says whether there was anything untold, `broken` names what is not whole,
-- `busy` is set while somebody else is still at it.
CREATE FUNCTION pggit.settle_relations(i pggit.intents, told text, OUT changed boolean, OUT broken text, OUT busy boolean)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' SET lc_monetary = 'C'
SET standard_conforming_strings = on SET quote_all_identifiers = off AS $$
DECLARE
    r record;
    n integer := 0;
BEGIN
    changed := false;
    busy := false;
    FOR r IN
        SELECT c.oid, c.relname, s.nspname, c.relnamespace, l.action, d.definition, d.definition ~ '-- (invalid|detach pending)' AS broken,
               CASE WHEN c.relkind IN ('i', 'I') THEN 'index' ELSE 'table' END AS type, coalesce(x.indrelid, c.oid) AS rel,
               -- By its name, as one that was rebuilt has another oid; but not if that one is gone, or was given another name since
               -- (by somebody else than the rebuilding itself).
               coalesce((SELECT o.action <> 'DROP' AND NOT EXISTS (
                                    SELECT FROM pggit.changes k WHERE k.objid = o.objid AND k.classid = o.classid AND k.objsubid = 0 AND k.aspect = ''
                                       AND (k.created_at, k.ordinal) > (o.created_at, o.ordinal) AND k.object_identity <> o.object_identity
                                       AND k.object_name !~ '_ccold\d*$')
                           FROM pggit.changes o
                          WHERE hashtextextended(o.object_identity, 0) = hashtextextended(y.identity, 0) AND o.object_identity = y.identity
                            AND o.object_type = 'index' AND o.aspect = '' ORDER BY o.created_at DESC, o.ordinal DESC LIMIT 1), false) AS was_known, y.identity,
               -- Settings of a session change how a definition is written: compared is only what these statements change.
               (l.action IS NULL OR l.action = 'DROP') AND c.relkind = 'i' OR l.object_name <> c.relname
                   OR (l.new_definition ~ '-- (invalid|detach pending)') IS DISTINCT FROM (d.definition ~ '-- (invalid|detach pending)')
                   OR (l.new_definition ~ ' ATTACH PARTITION ') IS DISTINCT FROM (d.definition ~ ' ATTACH PARTITION ') AS untold
          FROM pg_class c
          JOIN pg_namespace s ON s.oid = c.relnamespace
          LEFT JOIN pg_index x ON x.indexrelid = c.oid
          LEFT JOIN pg_inherits h ON h.inhrelid = c.oid AND c.relkind IN ('r', 'p', 'f')
          CROSS JOIN LATERAL pggit.describe('pg_class'::regclass, c.oid) d
          CROSS JOIN LATERAL (SELECT format('%I.%I', s.nspname, c.relname)) y(identity)
          LEFT JOIN LATERAL (
                SELECT k.action, k.object_name, k.new_definition FROM pggit.changes k
                 WHERE k.objid = c.oid AND k.classid = 'pg_class'::regclass AND k.objsubid = 0 AND k.aspect = ''
                 ORDER BY k.created_at DESC, k.ordinal DESC LIMIT 1) l ON true
         WHERE c.relkind = ANY (CASE WHEN i.command_tag = 'ALTER TABLE' THEN '{r,p,f}' ELSE '{i}' END::"char"[])
           AND c.relpersistence <> 't' AND c.oid >= 16384 AND s.nspname NOT IN ('pggit', 'pg_catalog', 'information_schema', 'pg_toast')
           AND least(age(c.xmin), age(x.xmin), age(h.xmin)) <= age(i.since::xid)
           AND NOT EXISTS (SELECT FROM pg_depend e
                            WHERE e.classid = 'pg_class'::regclass AND e.objid IN (c.oid, x.indrelid) AND e.deptype = 'e')
           AND CASE WHEN i.command_tag IN ('CREATE INDEX', 'DROP INDEX')
                         THEN (cardinality(i.object_names) = 0 OR c.relname = ANY (i.object_names))
                              AND s.nspname = coalesce(i.schema_name, s.nspname)
                    WHEN i.command_tag = 'REINDEX' THEN l.action IS NOT NULL OR c.relname ~ '_cc(new|old)\d*$' OR EXISTS (
                        SELECT FROM pggit.changes o
                         WHERE hashtextextended(o.object_identity, 0) = hashtextextended(y.identity, 0) AND o.object_identity = y.identity
                           AND o.object_type = 'index')
                    ELSE true END
         ORDER BY s.nspname, c.relname
    LOOP
        CONTINUE WHEN NOT r.untold AND NOT r.broken;
        -- Whoever builds an index holds this lock on its table until it is whole, or given up.
        IF r.broken AND EXISTS (SELECT FROM pg_locks k JOIN pg_database b ON b.oid = k.database
                                 WHERE b.datname = current_database() AND k.relation = r.rel AND k.granted
                                   AND k.mode = 'ShareUpdateExclusiveLock' AND k.pid <> i.backend_pid) THEN
            busy := true;
            CONTINUE;
        END IF;
        -- Nobody does now; but until a moment ago somebody may have.
        IF r.broken AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.oid AND c.relname = r.relname
                                       AND (pggit.describe('pg_class'::regclass, c.oid)).definition = r.definition) THEN
            busy := true;
            CONTINUE;
        END IF;
        IF r.broken THEN
            broken := concat_ws(', ', broken, r.identity);
        END IF;
        CONTINUE WHEN NOT r.untold;
        n := n + 1;
        changed := true;
        PERFORM pggit.record_intended(i, CASE WHEN r.action = 'DROP' OR r.action IS NULL AND NOT r.was_known THEN 'CREATE'
                                              ELSE 'ALTER' END, r.type, r.nspname, r.relname, r.identity, 'pg_class'::regclass, r.oid, r.relnamespace, r.definition, n);
    END LOOP;
    IF i.command_tag <> 'DROP INDEX' THEN
        RETURN;
    END IF;
    FOR r IN
        SELECT l.* FROM (
            SELECT DISTINCT ON (k.objid) k.objid, k.action, k.schema_name, k.object_name, k.object_identity, k.namespace,
                   k.created_at
              FROM pggit.changes k
             WHERE k.classid = 'pg_class'::regclass AND k.object_type = 'index' AND k.objsubid = 0 AND k.aspect = ''
               AND k.objid IN (SELECT o.objid FROM pggit.changes o WHERE o.object_name = ANY (i.object_names) AND o.object_type = 'index')
             ORDER BY k.objid, k.created_at DESC, k.ordinal DESC) l
         WHERE l.action <> 'DROP' AND l.object_name = ANY (i.object_names)
           AND l.schema_name = coalesce(i.schema_name, l.schema_name)
           AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = l.objid)
           -- A rebuilt index lived on under another number.
           AND to_regclass(l.object_identity) IS NULL
           AND NOT EXISTS (SELECT FROM pggit.changes n
                            WHERE hashtextextended(n.object_identity, 0) = hashtextextended(l.object_identity, 0)
                              AND n.object_identity = l.object_identity AND n.object_type = 'index' AND n.created_at > l.created_at)
    LOOP
        n := n + 1;
        changed := true;
        PERFORM pggit.record_intended(i, 'DROP', 'index', r.schema_name, r.object_name, r.object_identity, 'pg_class'::regclass,
                                      r.objid, r.namespace, NULL, n);
    END LOOP;
END
$$;

-- Whether a row of this very statement is in the history: it was written in the transaction that ended it.
CREATE FUNCTION pggit.was_recorded(i pggit.intents) RETURNS boolean LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pggit.changes k
         WHERE k.session_id = i.session_id AND k.command_tag = i.command_tag AND k.captured_by <> 'intent' AND k.created_at > i.opened_at
           AND k.created_at < coalesce((SELECT min(n.opened_at) FROM pggit.intents n
                                         WHERE n.session_id = i.session_id AND n.opened_at > i.opened_at), 'infinity')
           AND (cardinality(i.object_names) = 0 OR k.object_name = ANY (i.object_names)))
$$;

-- Settles an intent: by what the server told ('applied', 'failed'), or, told NULL, by looking at what is there. Returns the
-- outcome; 'open' while it cannot be settled yet; NULL where it is settled already. One at a time in each database, so that
-- nothing is recorded twice.
CREATE FUNCTION pggit.settle_intent(intent uuid, told text DEFAULT NULL, told_sqlstate text DEFAULT NULL, told_error text DEFAULT NULL)
RETURNS text LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    i pggit.intents;
    outcome_ text := told;
    reason_ text := told_error;
    changed boolean;
    broken text;
    r record;
BEGIN
    PERFORM pg_advisory_xact_lock(7020373861010);
    SELECT * INTO i FROM pggit.intents n WHERE n.id = intent AND n.outcome IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF i.database <> (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) THEN
        outcome_ := 'unknown';
        reason_ := 'it was said in the database that this one is a copy of';
    ELSIF told IS NULL AND pggit.is_running(i) THEN
        RETURN 'open';
    ELSIF i.command_tag = 'ALTER SYSTEM' THEN
        changed := pggit.settle_settings(i);
        IF told IS NULL THEN
            outcome_ := CASE WHEN changed THEN 'applied' ELSE 'unknown' END;
            reason_ := CASE WHEN changed IS NULL THEN 'this role may not read pg_file_settings'
                            WHEN NOT changed THEN 'the session ended, and every setting has the value it had before' END;
        ELSIF changed IS NULL AND told = 'applied' THEN
            PERFORM pggit.record_intended(i, 'ALTER', 'setting', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1);
        END IF;
    ELSIF i.before IS NOT NULL THEN
        SELECT * INTO r FROM pggit.settle_object(i, told);
        broken := r.broken;
        IF told IS NULL THEN
            IF r.broken IS NOT NULL THEN
                outcome_ := 'failed';
                reason_ := 'the session ended';
            ELSIF r.changed THEN
                outcome_ := 'applied';
            ELSIF i.command_tag LIKE 'CREATE %' AND i.before ->> 'obj' IS NULL AND NOT EXISTS (
                      SELECT FROM pggit.changes k WHERE k.object_type = i.object_type AND k.object_name = i.object_names[1]
                                                    AND k.action <> 'CREATE' AND k.created_at > i.opened_at)
                  OR i.command_tag LIKE 'DROP %' AND i.before ->> 'obj' IS NOT NULL THEN
                outcome_ := 'failed';
                reason_ := 'the session ended; it was not done';
            ELSE
                outcome_ := 'unknown';
                reason_ := 'the session ended, and whether it was done cannot be seen';
            END IF;
        END IF;
    ELSE
        SELECT * INTO r FROM pggit.settle_relations(i, told);
        IF r.busy THEN
            RETURN 'open';
        END IF;
        broken := r.broken;
        IF told IS NULL THEN
            IF pggit.was_recorded(i) THEN
                outcome_ := 'applied';
            ELSIF r.broken IS NOT NULL THEN
                outcome_ := 'failed';
                reason_ := 'the session ended';
            ELSIF r.changed THEN
                outcome_ := 'applied';
            ELSIF i.command_tag = 'REINDEX' OR cardinality(i.object_names) = 0 THEN
                outcome_ := 'unknown';
                reason_ := 'the session ended, and whether it was done cannot be seen';
            ELSE
                outcome_ := 'failed';
                reason_ := 'the session ended; it was not done';
            END IF;
        END IF;
    END IF;
    -- As companions do for one that can run inside a transaction.
    IF i.command_tag = 'REINDEX' AND outcome_ = 'applied' THEN
        PERFORM pggit.record_intended(i, 'REINDEX', i.object_type, i.schema_name, o.name,
                                      concat_ws('.', quote_ident(i.schema_name), quote_ident(o.name)), NULL, NULL, NULL, NULL, 1000)
           FROM unnest(CASE WHEN cardinality(i.object_names) = 0 THEN ARRAY[NULL] ELSE i.object_names END) o(name);
    END IF;
    IF broken IS NOT NULL THEN
        reason_ := concat_ws('; ', reason_, 'left behind, not whole: ' || broken);
    END IF;
    UPDATE pggit.intents n SET outcome = outcome_, sqlstate = told_sqlstate, reason = reason_, before = NULL, settled_at = clock_timestamp()
     WHERE n.id = intent;
    RETURN outcome_;
END
$$;

---------------------------------------------------------------------------------------------------------------------------
-- Two-phase commit
---------------------------------------------------------------------------------------------------------------------------

CREATE TABLE pggit.prepared (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    gid         text NOT NULL,
    database    text NOT NULL,
    session_id  uuid NOT NULL,
    xid         xid8 NOT NULL,
    -- Their rows in pggit.statements, whose outcome is open until the transaction's end.
    statements  uuid[] NOT NULL,
    prepared_at timestamptz NOT NULL,
    outcome     text CHECK (outcome IN ('applied', 'rolled_back', 'unknown')),
    settled_at  timestamptz,
    UNIQUE (xid, gid, database),
    CHECK ((outcome IS NULL) = (settled_at IS NULL))
);
COMMENT ON TABLE pggit.prepared IS
    'Prepared transactions with logged statements; outcome is NULL until COMMIT PREPARED or ROLLBACK PREPARED, from whichever session.';
CREATE INDEX prepared_open ON pggit.prepared (prepared_at) WHERE outcome IS NULL;

-- The full number of a transaction that is not older than two billion.
CREATE FUNCTION pggit.full_xid(short xid) RETURNS xid8 LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (n.next - ((n.next - short::text::bigint) & 4294967295))::text::xid8
      FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint) n(next)
$$;

-- Remembers a transaction that was just prepared; false where it is not to be seen (any more).
CREATE FUNCTION pggit.remember_prepared(gid text, database text, session_id uuid, statements uuid[]) RETURNS boolean
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH new AS (
        INSERT INTO pggit.prepared (gid, database, session_id, xid, statements, prepared_at)
        SELECT p.gid, p.database, remember_prepared.session_id, pggit.full_xid(p.transaction), remember_prepared.statements, p.prepared
          FROM pg_prepared_xacts p WHERE p.gid = remember_prepared.gid AND p.database = remember_prepared.database
        ON CONFLICT DO NOTHING RETURNING 1)
    SELECT EXISTS (SELECT FROM new)
$$;

-- Looks what became of prepared transactions, and says so in the statement log. One that is not in the list of prepared
-- transactions any more has ended, and the server remembers how for a long time.
CREATE FUNCTION pggit.settle_prepared() RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    settled bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM pggit.prepared p WHERE p.outcome IS NULL OR p.settled_at > now() - interval '1 hour') THEN
        RETURN 0;
    END IF;
    UPDATE pggit.prepared p
       SET outcome = CASE e.status WHEN 'committed' THEN 'applied' WHEN 'aborted' THEN 'rolled_back' ELSE 'unknown' END,
           settled_at = clock_timestamp()
      FROM pggit.prepared o
      -- A number that is still to come is another cluster's, from a dump.
      CROSS JOIN LATERAL (SELECT CASE WHEN o.xid < pg_snapshot_xmax(pg_current_snapshot()) THEN pg_xact_status(o.xid) END) e(status)
     WHERE p.id = o.id AND o.outcome IS NULL
       -- Between leaving the list and its end it is in progress.
       AND e.status IS DISTINCT FROM 'in progress'
       AND NOT EXISTS (SELECT FROM pg_prepared_xacts x
                        WHERE x.gid = o.gid AND x.database = o.database AND pggit.full_xid(x.transaction) = o.xid);
    -- Facts come into the log a little later than this may know; so it is said again for a while.
    UPDATE pggit.statements s SET outcome = p.outcome
      FROM pggit.prepared p CROSS JOIN LATERAL unnest(p.statements) u(id)
     WHERE p.settled_at > now() - interval '1 hour' AND p.outcome <> 'unknown' AND s.id = u.id AND s.outcome = 'unknown';
    GET DIAGNOSTICS settled = ROW_COUNT;
    RETURN settled;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pggit FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        REVOKE ALL ON FUNCTION pggit.system_settings(), pggit.look_up(text, text, oid),
            pggit.intend(uuid, uuid, text, text, text, text, text, text[], text, text, text, inet, integer, text, integer, text),
            pggit.record_intended(pggit.intents, text, text, text, text, text, oid, oid, oid, text, integer),
            pggit.settle_object(pggit.intents, text), pggit.settle_settings(pggit.intents), pggit.settle_relations(pggit.intents, text),
            pggit.settle_intent(uuid, text, text, text), pggit.remember_prepared(text, text, uuid, uuid[]),
            pggit.settle_prepared() FROM pggit_reader;
    END IF;
END
$$;
