-- What people ask with psql: which version, what is recorded, is it well.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

-- The version of the schema pggit.
CREATE FUNCTION pggit.version() RETURNS text LANGUAGE sql IMMUTABLE
RETURN '0.1.0'::text;

-- The event triggers that record, each with whether it does what it should: enabled ALWAYS, and its function in the schema
-- pggit, SECURITY DEFINER, of the same owner, who may write the history.
CREATE FUNCTION pggit.capture_triggers() RETURNS TABLE (name text, working boolean, problem text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT w.name, x.problem IS NULL, x.problem
      FROM (VALUES ('pggit_before_ddl', 'before_ddl', 'ddl_command_start'), ('pggit_record_ddl', 'record_ddl', 'ddl_command_end'),
                   ('pggit_record_drop', 'record_drop', 'sql_drop')) w(name, function, event)
      LEFT JOIN pg_event_trigger e ON e.evtname = w.name
      LEFT JOIN pg_proc p ON p.oid = e.evtfoid
      CROSS JOIN LATERAL (SELECT CASE
          WHEN e.oid IS NULL THEN 'is missing'
          WHEN e.evtenabled = 'D' THEN 'is disabled'
          WHEN e.evtenabled <> 'A' THEN 'is not ENABLE ALWAYS'
          WHEN e.evtevent <> w.event OR p.proname <> w.function OR p.pronamespace <> 'pggit'::regnamespace THEN 'calls another function'
          WHEN NOT p.prosecdef OR p.proconfig IS NULL THEN 'its function is not SECURITY DEFINER with a fixed search_path'
          WHEN p.proowner <> e.evtowner OR NOT has_table_privilege(p.proowner, 'pggit.changes', 'INSERT') THEN 'has the wrong owner'
          -- PostgreSQL 17 and later can turn all event triggers off for a session.
          WHEN current_setting('event_triggers', true) = 'off' THEN 'event_triggers is off'
      END) x(problem)
$$;

-- What is recorded on this database. Rows that the view hides (partitions that an ALTER of their parent left as they were)
-- are not counted, nor are partitions that it did change.
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

-- Whether recording works here. status: ok, warning or critical. Fast enough to be asked every few seconds.
CREATE FUNCTION pggit.health_check() RETURNS TABLE (check_name text, status text, message text, details jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bytes bigint;
    n bigint;
    last timestamptz;
    applied bigint;
    failed bigint;
    oldest timestamptz;
BEGIN
    IF pggit.capture_mode() = 'inject' THEN
        RETURN QUERY SELECT 'event_triggers', 'warning', 'there are none: only what comes through the proxy is recorded at once', '{}'::jsonb;
    ELSE
        RETURN QUERY
        SELECT 'event_triggers', CASE WHEN bool_and(t.working) THEN 'ok' ELSE 'critical' END,
               coalesce(string_agg(t.name || ' ' || t.problem, '; ' ORDER BY t.name), 'every schema change is recorded'),
               jsonb_object_agg(t.name, coalesce(t.problem, 'ok'))
          FROM pggit.capture_triggers() t;
    END IF;

    SELECT max(c.created_at) INTO last FROM pggit.changes c;
    SELECT count(*) INTO n FROM pggit.changes c WHERE c.created_at > now() - interval '1 day';
    RETURN QUERY SELECT 'recent_activity', 'ok', CASE WHEN last IS NULL THEN 'nothing recorded yet' ELSE n || ' changes in 24 hours' END,
                        jsonb_build_object('changes_24h', n, 'last_change', last);

    -- Some proxy seals within seconds; where none runs nobody does.
    IF to_regclass('pggit.seals') IS NOT NULL THEN
        SELECT count(*), min(u.at) INTO n, oldest FROM pggit.unsealed() u;
        RETURN QUERY SELECT 'seals', CASE WHEN oldest < now() - interval '5 minutes' THEN 'warning' ELSE 'ok' END,
                            n || ' commits wait to be sealed',
                            jsonb_build_object('unsealed', n, 'oldest', oldest, 'sealed', t.head_seq, 'head', encode(t.head_hash, 'hex'))
                       FROM pggit.seal_state t;
    END IF;

    SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) INTO bytes FROM pg_class c
     WHERE c.relnamespace = 'pggit'::regnamespace AND c.relkind IN ('r', 'm');
    RETURN QUERY SELECT 'storage', CASE WHEN bytes > 50 * 1024 ^ 3 THEN 'critical' WHEN bytes > 5 * 1024 ^ 3 THEN 'warning' ELSE 'ok' END,
                        'the schema pggit takes ' || pg_size_pretty(bytes),
                        jsonb_build_object('bytes', bytes, 'warning_above', 5 * 1024 ^ 3, 'critical_above', 50 * 1024 ^ 3);

    SELECT count(*) INTO n FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't' AND c.oid >= 16384
       AND s.nspname NOT IN ('pggit', 'pg_catalog', 'information_schema', 'pg_toast');
    RETURN QUERY SELECT 'objects', 'ok', n || ' tables, views and sequences', jsonb_build_object('relations', n);

    -- The migration runner's own table; somebody who applied the files by hand has none.
    IF to_regclass('pggit.migrations') IS NULL THEN
        RETURN QUERY SELECT 'schema_version', 'ok', pggit.version(), jsonb_build_object('version', pggit.version());
    ELSE
        EXECUTE 'SELECT max(version) FILTER (WHERE success), count(*) FILTER (WHERE NOT success) FROM pggit.migrations' INTO applied, failed;
        RETURN QUERY SELECT 'schema_version', CASE WHEN failed > 0 THEN 'critical' ELSE 'ok' END,
                            CASE WHEN failed > 0 THEN failed || ' migrations failed half-way' ELSE pggit.version() || ', migration ' || applied END,
                            jsonb_build_object('version', pggit.version(), 'migration', applied, 'failed', failed);
    END IF;
END
$$;

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

REVOKE ALL ON FUNCTION pggit.version(), pggit.capture_triggers(), pggit.status(), pggit.health_check(), pggit.checkout(text) FROM PUBLIC;
