SELECT pg_catalog.set_config('pggit.migration', 'on', true);

REVOKE EXECUTE ON FUNCTION pggit.current_branch(), pggit.default_branch(), pggit.checkout(text) FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        REVOKE ALL ON FUNCTION pggit.recordable_objects() FROM pggit_reader;
    END IF;
END
$$;

-- The role stays: other databases may have it. What it was given here goes.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_brancher') THEN
        REVOKE ALL ON SCHEMA pggit FROM pggit_brancher;
    END IF;
END
$$;
DROP FUNCTION pggit.diff(uuid, uuid);
DROP FUNCTION pggit.diff(text, text);
DROP FUNCTION pggit.facts_of(text);
DROP FUNCTION pggit.create_branch(text, text);
DROP FUNCTION pggit.ask_proxy(jsonb);
DROP TABLE pggit.answers;

-- As 0007 and 0008 made them.
DROP FUNCTION pggit.log(text, integer);
CREATE FUNCTION pggit.log(branch text DEFAULT NULL, max_commits integer DEFAULT 20)
RETURNS TABLE (commit_id uuid, commit_branch text, author text, created_at timestamptz, message text, changes bigint,
               severity text, objects text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH newest AS MATERIALIZED (
        SELECT k.* FROM pggit.commits k WHERE log.branch IS NULL OR k.branch = log.branch
         ORDER BY k.created_at DESC, k.seq DESC NULLS FIRST LIMIT greatest(coalesce(max_commits, 20), 0)
    )
    SELECT n.id, n.branch, n.author, n.created_at, n.message, count(*),
           -- MAJOR, MINOR, PATCH sort by weight.
           min(h.change_severity),
           array_agg(h.change_type || ' ' || h.object_type || coalesce(' ' || h.object_identity, '') ORDER BY h.created_at, h.ordinal)
      FROM newest n CROSS JOIN LATERAL (SELECT * FROM pggit.history v WHERE v.commit_id = n.id OFFSET 0) h
     GROUP BY n.id, n.branch, n.author, n.created_at, n.message, n.seq ORDER BY n.created_at DESC, n.seq DESC NULLS FIRST
$$;

DROP FUNCTION pggit.status();
CREATE FUNCTION pggit.status()
RETURNS TABLE (schema_version text, database text, branch text, recording boolean, changes bigint, commits bigint, first_change timestamptz,
               last_change timestamptz, last_author text, tracked_objects bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pggit.version(), current_database()::text, pggit.default_branch(), 
           pggit.capture_mode() = 'inject' OR (SELECT bool_and(t.working) FROM pggit.capture_triggers() t),
           count(*) FILTER (WHERE NOT c.affected AND c.action <> 'BASELINE'), count(DISTINCT c.commit_id), min(c.created_at), max(c.created_at),
           (SELECT l.created_by FROM pggit.changes l ORDER BY l.created_at DESC, l.ordinal DESC LIMIT 1),
           (SELECT count(*) FROM (SELECT DISTINCT ON (k.objid, k.classid, k.objsubid, k.aspect) k.action FROM pggit.changes k
                                   WHERE k.objid IS NOT NULL AND k.aspect = '' AND k.objsubid = 0
                                   ORDER BY k.objid, k.classid, k.objsubid, k.aspect, k.created_at DESC, k.ordinal DESC) x WHERE x.action <> 'DROP')
      FROM pggit.changes c
$$;
REVOKE ALL ON FUNCTION pggit.status(), pggit.log(text, integer) FROM PUBLIC;

DROP FUNCTION pggit.changed_since_fork();
DROP FUNCTION pggit.blame(regclass);
DROP FUNCTION pggit.column_texts(text, jsonb);
DROP FUNCTION pggit.schema(uuid);
DROP FUNCTION pggit.schema(timestamptz);
DROP FUNCTION pggit.schema();
DROP FUNCTION pggit.change_told(uuid);
DROP FUNCTION pggit.objects_at(timestamptz);
DROP FUNCTION pggit.as_word(text);
DROP FUNCTION pggit.rows_by(timestamptz);
DROP FUNCTION pggit.own_columns(oid, jsonb);
DROP TABLE pggit.origin_columns;
DROP TABLE pggit.fork;
