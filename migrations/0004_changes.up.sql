-- The history: one table that is only inserted into, and the views that tell what each row meant.
--
-- What needs a row's past (the old definition, whether an ALTER was a rename, the severity) is worked out by the view
-- pggit.history when it is read: what runs in a client's transaction only inserts.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

CREATE TABLE pggit.changes (
    id               uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    commit_id        uuid NOT NULL DEFAULT pggit.current_commit(),
    -- Of the proxy; NULL for what went round it.
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
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    -- Orders the rows that one command wrote.
    ordinal          integer NOT NULL DEFAULT 0,
    created_by       text NOT NULL DEFAULT SESSION_USER,
    role_name        text NOT NULL DEFAULT pggit.client_role(),
    application_name text DEFAULT pg_catalog.current_setting('application_name'),
    -- Of the proxy's client, else of the server's own.
    client           text DEFAULT pggit.current_client(),
    client_addr      inet DEFAULT pg_catalog.inet_client_addr(),
    client_port      integer DEFAULT pg_catalog.inet_client_port(),
    backend_pid      integer NOT NULL DEFAULT pg_catalog.pg_backend_pid(),
    xid              xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    message          text DEFAULT pggit.current_message(),
    -- Where a transaction sees the catalogs as they were at its start: what it saw. pggit.put_right() needs it.
    snapshot         pg_snapshot DEFAULT CASE WHEN pg_catalog.current_setting('transaction_isolation') IN ('repeatable read', 'serializable')
                                              THEN pg_catalog.pg_current_snapshot() END,
    -- The row's xmin before it was put right: that of the catalog rows it tells of.
    written          xid,
    -- The branch that the session or statement was meant for, where a rule sent it here.
    rerouted_from    text DEFAULT nullif(pg_catalog.current_setting('pggit.rerouted_from', true), ''),
    CONSTRAINT changes_pkey PRIMARY KEY (id)
);
CREATE INDEX changes_object_idx ON pggit.changes (objid, classid, objsubid, aspect, created_at DESC, ordinal DESC);
CREATE INDEX changes_time_idx ON pggit.changes (created_at DESC, ordinal DESC, id);
CREATE INDEX changes_commit_idx ON pggit.changes (commit_id);
-- Finds what is not sealed yet.
CREATE INDEX changes_xid_idx ON pggit.changes (xid);
-- By hash: an identity may be longer than an index entry.
CREATE INDEX changes_identity_idx ON pggit.changes (pg_catalog.hashtextextended(object_identity, 0), created_at DESC, ordinal DESC);
COMMENT ON TABLE pggit.changes IS 'One row per object a committed statement changed, as captured. Read pggit.history instead.';

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
    WHEN change_type IN ('COMMENT', 'SECURITY', 'GRANT', 'REVOKE', 'REINDEX', 'BASELINE') THEN 'PATCH'
    WHEN object_type = 'index' OR command_tag = 'ALTER DEFAULT PRIVILEGES' THEN 'PATCH'
    WHEN change_type IN ('DROP', 'RENAME') THEN 'MAJOR'
    WHEN change_type = 'ALTER' AND pggit.is_narrower(old_shape, new_shape) THEN 'MAJOR'
    ELSE 'MINOR'
END;

-- Under which oids an object was known before: in the databases that a branch's history comes from (written once, when the branch's
-- template is made), or here, where the server made it anew (pggit.put_right).
CREATE TABLE pggit.origins (
    classid oid NOT NULL,
    objid   oid NOT NULL,
    was     oid NOT NULL,
    PRIMARY KEY (classid, objid, was)
);
CREATE INDEX origins_was ON pggit.origins (was, classid);
COMMENT ON TABLE pggit.origins IS 'Oids that objects had before, in this database or in those that it was made from';

-- What a change replaced is the object's row before it: by oid, else by an oid that it had before, else (the server made it anew
-- under another oid, or the history came from a dump) by its name. An ALTER after which the object has another name or schema
-- was a rename; a CREATE of what was there already (CREATE OR REPLACE) was an ALTER.
CREATE VIEW pggit.history AS
SELECT c.id, c.commit_id, c.session_id, c.statement_id, c.branch, t.change_type,
       pggit.severity(t.change_type, c.command_tag, c.object_type, p.shape, c.shape) AS change_severity,
       c.command_tag, c.object_type, c.schema_name, c.object_name, c.object_identity,
       CASE WHEN c.objsubid = 0 OR c.aspect <> '' THEN p.new_definition
            ELSE pg_catalog.quote_ident(p.shape -> c.objsubid::text ->> 0) || ' ' || (p.shape -> c.objsubid::text ->> 1)
                 || CASE WHEN (p.shape -> c.objsubid::text ->> 2)::boolean THEN ' NOT NULL' ELSE '' END END AS old_definition,
       c.new_definition, c.sql_executed, c.captured_by, c.session_id IS NOT NULL AS via_proxy, c.created_at, c.created_by, c.role_name,
       c.application_name, CASE WHEN c.client IS NULL THEN c.client_addr ELSE pggit.address_of(c.client) END AS client_addr,
       CASE WHEN c.client IS NULL THEN c.client_port ELSE pggit.port_of(c.client) END AS client_port, c.backend_pid, c.xid, c.ordinal,
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
           -- Not if that one has another name or schema by now: this is a new one in its place.
           AND NOT EXISTS (SELECT FROM pggit.changes l
                            WHERE l.objid IN (k.objid, k.namespace) AND l.objsubid = 0 AND l.aspect = ''
                              AND (l.created_at, l.ordinal) > (k.created_at, k.ordinal) AND (l.created_at, l.ordinal) < (c.created_at, c.ordinal)
                              AND CASE l.classid WHEN k.classid THEN l.object_identity <> k.object_identity
                                                 WHEN 'pg_catalog.pg_namespace'::regclass THEN l.object_name <> k.schema_name END)
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

COMMENT ON VIEW pggit.history IS 'One row per object a committed statement created, altered or dropped.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pggit FROM PUBLIC;
