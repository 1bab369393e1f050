-- What a rule sent to another branch than it was meant for says so: where it came from stands in its rows, wherever they are
-- copied to.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

-- Two steps: rows that are there keep NULL, and so their hashes.
ALTER TABLE pggit.changes ADD COLUMN rerouted_from text;
ALTER TABLE pggit.changes ALTER COLUMN rerouted_from SET DEFAULT nullif(pg_catalog.current_setting('pggit.rerouted_from', true), '');
COMMENT ON COLUMN pggit.changes.rerouted_from IS 'The branch that the session or statement was meant for, where a rule sent it here; else NULL';

-- As before (0012), with the new column at its end.
CREATE OR REPLACE VIEW pggit.history AS
SELECT c.id, c.commit_id, c.session_id, c.statement_id, c.branch, t.change_type,
       pggit.severity(t.change_type, c.command_tag, c.object_type, p.shape, c.shape) AS change_severity,
       c.command_tag, c.object_type, c.schema_name, c.object_name, c.object_identity,
       CASE WHEN c.objsubid = 0 OR c.aspect <> '' THEN p.new_definition
            ELSE pg_catalog.quote_ident(p.shape -> c.objsubid::text ->> 0) || ' ' || (p.shape -> c.objsubid::text ->> 1)
                 || CASE WHEN (p.shape -> c.objsubid::text ->> 2)::boolean THEN ' NOT NULL' ELSE '' END END AS old_definition,
       c.new_definition, c.sql_executed, c.captured_by, c.via_proxy, c.created_at, c.created_by, c.role_name,
       c.application_name, c.client_addr, c.client_port, c.backend_pid, c.xid, c.ordinal,
       c.rerouted_from
  FROM pggit.changes c
  LEFT JOIN LATERAL (
        SELECT k.action, k.object_name, k.namespace, k.new_definition, k.shape FROM pggit.changes k
         WHERE k.objid = c.objid AND k.classid = c.classid AND k.aspect = c.aspect
           AND k.objsubid = CASE WHEN c.aspect = '' THEN 0 ELSE c.objsubid END
           AND (k.created_at, k.ordinal) < (c.created_at, c.ordinal)
         ORDER BY k.created_at DESC, k.ordinal DESC LIMIT 1) o ON true
  LEFT JOIN LATERAL (
        SELECT k.action, k.object_name, coalesce(n.objid, k.namespace) AS namespace, k.new_definition, k.shape
          FROM pggit.origins g
          JOIN pggit.changes k ON k.objid = g.was AND k.classid = g.classid AND k.aspect = c.aspect
               AND k.objsubid = CASE WHEN c.aspect = '' THEN 0 ELSE c.objsubid END
               AND (k.created_at, k.ordinal) < (c.created_at, c.ordinal)
          LEFT JOIN pggit.origins n ON n.classid = 'pg_catalog.pg_namespace'::regclass AND n.was = k.namespace
         WHERE o.action IS NULL AND g.classid = c.classid AND g.objid = c.objid
         ORDER BY k.created_at DESC, k.ordinal DESC LIMIT 1) a ON true
  LEFT JOIN LATERAL (
        SELECT k.action, k.object_name, k.namespace, k.new_definition, k.shape FROM pggit.changes k
         WHERE o.action IS NULL AND a.action IS NULL AND c.objsubid = 0 AND c.action IN ('ALTER', 'RENAME', 'DROP')
           AND pg_catalog.hashtextextended(k.object_identity, 0) = pg_catalog.hashtextextended(c.object_identity, 0)
           AND k.object_identity = c.object_identity AND k.object_type = c.object_type AND k.aspect = c.aspect
           AND (k.created_at, k.ordinal) < (c.created_at, c.ordinal)
         ORDER BY k.created_at DESC, k.ordinal DESC LIMIT 1) i ON true
  CROSS JOIN LATERAL (
        SELECT coalesce(o.action, a.action, i.action), coalesce(o.new_definition, a.new_definition, i.new_definition),
               coalesce(o.shape, a.shape, i.shape)) p(action, new_definition, shape)
  CROSS JOIN LATERAL (
        SELECT coalesce(o.action, a.action), coalesce(o.object_name, a.object_name),
               coalesce(o.namespace, a.namespace)) s(action, object_name, namespace)
  CROSS JOIN LATERAL (
        SELECT CASE
            WHEN c.action = 'ALTER' AND s.action <> 'DROP' AND (s.object_name <> c.object_name OR s.namespace <> c.namespace) THEN 'RENAME'
            WHEN c.action = 'ALTER' AND c.affected AND coalesce(p.action, 'DROP') = 'DROP' THEN 'CREATE'
            WHEN c.action = 'CREATE' AND s.action <> 'DROP' THEN 'ALTER'
            ELSE c.action END) t(change_type)
 WHERE NOT (c.affected AND CASE WHEN c.action = 'DROP' THEN coalesce(p.action, 'DROP') = 'DROP'
                                ELSE coalesce(p.action, 'DROP') <> 'DROP' AND p.new_definition IS NOT DISTINCT FROM c.new_definition END);

-- As before (0005), with one more setting that is the proxy's.
CREATE OR REPLACE FUNCTION pggit.begin_recording() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
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
        -- Assignments, because PERFORM would start a query for each.
        bound := set_config('lock_timeout', bound, true);
        LOCK TABLE pggit.changes IN ROW EXCLUSIVE MODE;
        own := set_config('lock_timeout', own, true);
    END IF;
END
$$;

ALTER TABLE pggit.intents ADD COLUMN rerouted_from text;

-- As before (0010), with the new column.
CREATE OR REPLACE FUNCTION pggit.record_intended(
    i pggit.intents, action text, object_type text, schema_name text, object_name text, object_identity text,
    classid oid, objid oid, namespace oid, definition text, ordinal integer
) RETURNS void LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid, namespace,
                               new_definition, sql_executed, captured_by, via_proxy, session_id, statement_id, branch, created_by,
                               role_name, application_name, client_addr, client_port, backend_pid, message, ordinal,
                               rerouted_from)
    VALUES (action, i.command_tag, object_type, schema_name, object_name, object_identity, classid, objid, namespace, definition,
            i.sql, 'intent', true, i.session_id, i.id, i.branch, i.created_by, i.created_by, i.application_name, i.client_addr,
            i.client_port, i.backend_pid, pggit.message_of(i.sql), ordinal, i.rerouted_from)
$$;

-- The same as the one with fewer arguments, of a statement that a rule sent here.
CREATE FUNCTION pggit.intend(
    id uuid, session_id uuid, branch text, command_tag text, class text, object_type text, schema_name text, object_names text[],
    sql text, created_by text, application_name text, client_addr inet, client_port integer, proxy text, backend_pid integer,
    rerouted_from text
) RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pggit.intend(id, session_id, branch, command_tag, class, object_type, schema_name, object_names, sql, created_by,
                         application_name, client_addr, client_port, proxy, backend_pid);
    UPDATE pggit.intents i SET rerouted_from = intend.rerouted_from WHERE i.id = intend.id;
END
$$;

ALTER TABLE pggit.statements ADD COLUMN rerouted_to text;
COMMENT ON COLUMN pggit.statements.rerouted_to IS 'The branch where a rule had it run instead of this one; else NULL';

-- The proxy moves the session before this runs, where the call is a statement by itself.
CREATE FUNCTION pggit.checkout(branch text) RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF branch IS DISTINCT FROM pggit.current_branch() THEN
        RAISE EXCEPTION 'this session cannot be moved to branch "%"', branch
            USING ERRCODE = 'cant_change_runtime_param',
                  HINT = 'Through the proxy, SELECT pggit.checkout(''branch'') by itself moves it: with a literal, and nothing else in the text.';
    END IF;
    RETURN branch;
END
$$;
COMMENT ON FUNCTION pggit.checkout(text) IS 'Moves the session to another branch, through the proxy';

-- Everybody may ask where he is.
GRANT EXECUTE ON FUNCTION pggit.current_branch(), pggit.default_branch(), pggit.checkout(text) TO PUBLIC;

REVOKE ALL ON FUNCTION
    pggit.intend(uuid, uuid, text, text, text, text, text, text[], text, text, text, inet, integer, text, integer, text) FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        REVOKE ALL ON FUNCTION
            pggit.intend(uuid, uuid, text, text, text, text, text, text[], text, text, text, inet, integer, text, integer, text)
            FROM pggit_reader;
        GRANT SELECT (rerouted_from) ON pggit.intents TO pggit_reader;
    END IF;
END
$$;
