-- Monitoring through SQL: more checks, metrics for Prometheus, overviews, and a table for measurements of the operator's own.
--
-- None of it goes over the history: what is not found by an index is the server's own estimate, and its name says so.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

---------------------------------------------------------------------------------------------------------------------------
-- What is written: each proxy's heartbeat, and what operators record
---------------------------------------------------------------------------------------------------------------------------

CREATE TABLE pggit.heartbeats (
    proxy    text PRIMARY KEY,
    version  text NOT NULL,
    since    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    beat_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE pggit.heartbeats IS 'The proxies that look at this database, each with its last sign of life; a row is removed after a day';

-- The recorder's, every half a minute.
CREATE FUNCTION pggit.note_heartbeat(proxy text, version text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM pggit.heartbeats h WHERE h.beat_at < now() - interval '1 day' AND h.proxy <> note_heartbeat.proxy;
    INSERT INTO pggit.heartbeats AS h (proxy, version) VALUES (note_heartbeat.proxy, note_heartbeat.version)
    ON CONFLICT (proxy) DO UPDATE SET version = excluded.version, beat_at = clock_timestamp();
$$;

CREATE TABLE pggit.metrics (
    id          uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    name        text NOT NULL,
    labels      jsonb NOT NULL DEFAULT '{}',
    value       double precision NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    recorded_by text NOT NULL DEFAULT SESSION_USER
);
CREATE INDEX metrics_series ON pggit.metrics (name, labels, recorded_at DESC);
CREATE INDEX metrics_time ON pggit.metrics (recorded_at);
COMMENT ON TABLE pggit.metrics IS 'What pggit.record_metric() was told, until pggit.cleanup_old_metrics() removes it';

-- SECURITY DEFINER: whom the owner grants EXECUTE may record, and nothing else; the row says who it was.
CREATE FUNCTION pggit.record_metric(name text, value double precision, labels jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF name IS NULL OR value IS NULL OR labels IS NULL THEN
        RAISE EXCEPTION 'a metric needs a name, a value and labels' USING ERRCODE = 'null_value_not_allowed';
    ELSIF name !~ '^[a-zA-Z_:][a-zA-Z0-9_:]{0,199}$' THEN
        RAISE EXCEPTION 'this cannot be the name of a metric: %', left(name, 200)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'At most 200 letters, digits, _ and :, and no digit first.';
    ELSIF name LIKE 'pggit\_%' THEN
        RAISE EXCEPTION 'names that begin with pggit_ are those of pggit.prometheus_metrics() itself' USING ERRCODE = 'invalid_parameter_value';
    ELSIF jsonb_typeof(labels) <> 'object' OR octet_length(labels::text) > 1000
        OR EXISTS (SELECT FROM jsonb_each(labels) l
                    WHERE l.key !~ '^[a-zA-Z_][a-zA-Z0-9_]*$' OR l.key LIKE '\_\_%' OR jsonb_typeof(l.value) NOT IN ('string', 'number', 'boolean')) THEN
        RAISE EXCEPTION 'these cannot be the labels of a metric: %', left(labels::text, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'An object of at most 1000 bytes. Names are of letters, digits and _, and do not begin with a digit or with __.';
    END IF;
    INSERT INTO pggit.metrics (name, labels, value) VALUES (record_metric.name, record_metric.labels, record_metric.value);
END
$$;
COMMENT ON FUNCTION pggit.record_metric(text, double precision, jsonb) IS
    'Keeps a measurement; pggit.prometheus_metrics() shows the newest of each name and labels';

CREATE FUNCTION pggit.cleanup_old_metrics(days integer DEFAULT 30) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    removed bigint;
BEGIN
    IF days IS NULL OR days < 0 THEN
        RAISE EXCEPTION 'the number of days must be 0 or more' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    DELETE FROM pggit.metrics m WHERE m.recorded_at < now() - make_interval(days => days);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;
COMMENT ON FUNCTION pggit.cleanup_old_metrics(integer) IS 'Removes measurements that are older than so many days; says how many';

---------------------------------------------------------------------------------------------------------------------------
-- Checks
---------------------------------------------------------------------------------------------------------------------------

-- What migrations keep: a schema for each step that changed tables. The log is the migration runner's table; somebody who
-- applied the files by hand has none.
CREATE FUNCTION pggit.kept_backups(OUT schemas bigint, OUT bytes bigint, OUT oldest timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own oid[] := ARRAY(SELECT n.oid FROM pg_namespace n
                        WHERE n.nspname ~ '^pggit_backup_[0-9]+$'
                          AND n.nspowner = (SELECT p.nspowner FROM pg_namespace p WHERE p.nspname = 'pggit'));
BEGIN
    schemas := cardinality(own);
    bytes := (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c WHERE c.relnamespace = ANY (own) AND c.relkind IN ('r', 'm'));
    IF schemas > 0 AND to_regclass('pggit.upgrade_log') IS NOT NULL THEN
        EXECUTE 'SELECT min(l.started_at) FROM pggit.upgrade_log l JOIN pg_namespace n ON n.nspname = l.backup WHERE n.oid = ANY ($1)' INTO oldest USING own;
    END IF;
END
$$;

-- As 0007 made it: event triggers, activity, seals, storage, objects, version.
ALTER FUNCTION pggit.health_check() RENAME TO health_of_history;

-- Whether recording works here, and whether somebody looks after it. status: ok, warning or critical. Fast enough to be asked
-- every few seconds.
CREATE FUNCTION pggit.health_check() RETURNS TABLE (check_name text, status text, message text, details jsonb)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT h.* FROM pggit.health_of_history() h
    UNION ALL
    SELECT 'proxy_heartbeat', CASE WHEN p.alive > 0 THEN 'ok' ELSE 'warning' END,
           CASE WHEN p.alive > 0 THEN p.alive || ' proxies look after this database'
                WHEN p.last IS NULL THEN 'no proxy has been here in the last day: nobody seals, probes or settles'
                ELSE 'no proxy has been here since ' || date_trunc('second', p.last) END,
           jsonb_build_object('alive', p.alive, 'last_beat', p.last, 'alive_within_seconds', 120)
      FROM (SELECT count(*) FILTER (WHERE b.beat_at > now() - interval '2 minutes') AS alive, max(b.beat_at) AS last FROM pggit.heartbeats b) p
    UNION ALL
    -- A copy of a database carries open intents along; they are not its own.
    SELECT 'intents', CASE WHEN i.lost > 0 THEN 'warning' ELSE 'ok' END,
           CASE WHEN i.lost > 0 THEN i.lost || ' statements ended minutes ago, and nobody has settled what became of them'
                ELSE i.open || ' statements that cannot run in a transaction are under way' END,
           jsonb_build_object('open', i.open, 'lost', i.lost, 'oldest', i.oldest)
      FROM (SELECT count(*) AS open, min(n.opened_at) AS oldest,
                   count(*) FILTER (WHERE n.opened_at < now() - interval '5 minutes' AND a.pid IS NULL) AS lost
              FROM pggit.intents n
              LEFT JOIN pg_stat_activity a ON a.pid = n.backend_pid AND coalesce(a.backend_start = n.backend_start, true)
             WHERE n.outcome IS NULL AND n.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) i
    UNION ALL
    SELECT 'probe', CASE WHEN p.suspects > 0 OR p.found > 0 THEN 'warning' ELSE 'ok' END,
           CASE WHEN p.suspects > 0 THEN p.suspects || ' objects are not as the history has them, and will be recorded soon'
                WHEN p.found > 0 THEN p.found || ' changes of the last 24 hours were recorded by nobody, and found by comparing'
                ELSE 'the catalogs are as the history has them' END
           || coalesce(' (looked at ' || date_trunc('second', p.at) || ')', ' (not looked at yet)'),
           jsonb_build_object('suspects', p.suspects, 'found_24h', p.found, 'looked_at', p.at)
      FROM (SELECT (SELECT count(*) FROM pggit.probe_suspects) AS suspects, (SELECT max(s.looked_at) FROM pggit.probe_state s) AS at,
                   (SELECT count(*) FROM pggit.changes c WHERE c.created_at > now() - interval '1 day' AND c.captured_by = 'probe') AS found) p
    UNION ALL
    SELECT 'backups', CASE WHEN k.oldest < now() - interval '30 days' THEN 'warning' ELSE 'ok' END,
           k.schemas || ' backups of migrations take ' || pg_size_pretty(k.bytes) || coalesce(', the oldest of ' || date_trunc('second', k.oldest), ''),
           jsonb_build_object('schemas', k.schemas, 'bytes', k.bytes, 'oldest', k.oldest, 'warning_after_days', 30)
      FROM pggit.kept_backups() k
$$;
COMMENT ON FUNCTION pggit.health_check() IS 'Whether changes are recorded in this database, and whether somebody looks after it: ok, warning, critical';

---------------------------------------------------------------------------------------------------------------------------
-- Metrics
---------------------------------------------------------------------------------------------------------------------------

-- What can be told of this database as numbers. Estimates are those of the planner: they are as old as the last VACUUM or ANALYZE.
CREATE FUNCTION pggit.measurements() RETURNS TABLE (name text, kind text, help text, labels jsonb, value double precision)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH h AS MATERIALIZED (
        SELECT c.* FROM pggit.health_check() c
    ), d AS MATERIALIZED (
        SELECT jsonb_object_agg(h.check_name, h.details) AS all FROM h
    ), own AS MATERIALIZED (
        SELECT c.oid, c.relname, c.reltuples FROM pg_class c WHERE c.relnamespace = 'pggit'::regnamespace AND c.relkind = 'r'
    )
    SELECT 'pggit_info', 'gauge', 'The schema pggit of this database; always 1.',
           jsonb_build_object('version', pggit.version(), 'database', current_database(), 'branch', pggit.default_branch(), 'capture', pggit.capture_mode()), 1
    UNION ALL
    SELECT 'pggit_health_status', 'gauge', 'Each check of pggit.health_check(): 0 ok, 1 warning, 2 critical.', jsonb_build_object('check', h.check_name),
           CASE h.status WHEN 'ok' THEN 0 WHEN 'warning' THEN 1 ELSE 2 END FROM h
    UNION ALL
    SELECT 'pggit_commits_total', 'counter', 'Sealed commits in the history.', '{}', s.head_seq FROM pggit.seal_state s
    UNION ALL
    SELECT v.name, 'gauge', v.help, '{}', v.value
      FROM d CROSS JOIN LATERAL (VALUES
        ('pggit_commits_unsealed', 'Commits that wait to be sealed.', (d.all #>> '{seals,unsealed}')::double precision),
        ('pggit_changes_last_day', 'Changes recorded in the last 24 hours.', (d.all #>> '{recent_activity,changes_24h}')::double precision),
        ('pggit_last_change_timestamp_seconds', 'When the last change was made.',
         extract(epoch FROM (d.all #>> '{recent_activity,last_change}')::timestamptz)::double precision),
        ('pggit_unrecorded_changes_last_day', 'Changes of the last 24 hours that nobody recorded and the probe found.',
         (d.all #>> '{probe,found_24h}')::double precision),
        ('pggit_probe_suspects', 'Objects that are not as the history has them.', (d.all #>> '{probe,suspects}')::double precision),
        ('pggit_intents_open', 'Statements under way that cannot run inside a transaction.', (d.all #>> '{intents,open}')::double precision),
        ('pggit_relations', 'Tables, views and sequences in this database, without those of pggit.', (d.all #>> '{objects,relations}')::double precision),
        ('pggit_proxies', 'Proxies that looked at this database within two minutes.', (d.all #>> '{proxy_heartbeat,alive}')::double precision),
        ('pggit_backup_schemas', 'Backups that migrations keep.', (d.all #>> '{backups,schemas}')::double precision),
        ('pggit_backup_bytes', 'Size of the backups that migrations keep.', (d.all #>> '{backups,bytes}')::double precision)) v(name, help, value)
     WHERE v.value IS NOT NULL
    UNION ALL
    SELECT 'pggit_heartbeat_timestamp_seconds', 'gauge', 'The last sign of life of each proxy.', jsonb_build_object('proxy', b.proxy, 'version', b.version),
           extract(epoch FROM b.beat_at) FROM pggit.heartbeats b
    UNION ALL
    SELECT 'pggit_table_bytes', 'gauge', 'Size of each table of the schema pggit, with its indexes.', jsonb_build_object('table', o.relname),
           pg_total_relation_size(o.oid) FROM own o
    UNION ALL
    SELECT 'pggit_table_rows_estimate', 'gauge', 'Rows of each table of the schema pggit, as the planner estimates them.', jsonb_build_object('table', o.relname),
           o.reltuples FROM own o WHERE o.reltuples >= 0
$$;

-- The newest measurement of each series, one look into the index for each.
CREATE FUNCTION pggit.newest_metrics() RETURNS TABLE (name text, labels jsonb, value double precision, recorded_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH RECURSIVE series AS (
        (SELECT m.name, m.labels, m.value, m.recorded_at FROM pggit.metrics m ORDER BY m.name, m.labels, m.recorded_at DESC LIMIT 1)
        UNION ALL
        SELECT n.* FROM series s CROSS JOIN LATERAL (
            SELECT m.name, m.labels, m.value, m.recorded_at FROM pggit.metrics m
             WHERE (m.name, m.labels) > (s.name, s.labels) ORDER BY m.name, m.labels, m.recorded_at DESC LIMIT 1) n
    )
    SELECT * FROM series
$$;

-- {a="1",b="2"}, or nothing.
CREATE FUNCTION pggit.prometheus_labels(labels jsonb) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce('{' || string_agg(format('%s="%s"', l.key, replace(replace(replace(l.value, '\', '\\'), '"', '\"'), E'\n', '\n')), ',' ORDER BY l.key) || '}', '')
      FROM jsonb_each_text(labels) l
$$;

-- In the text format of https://prometheus.io/docs/instrumenting/exposition_formats/, one row a line.
CREATE FUNCTION pggit.prometheus_metrics() RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 SET jit = off AS $$
    WITH sample AS MATERIALIZED (
        SELECT m.name, m.kind, m.help, m.labels, m.value FROM pggit.measurements() m
        UNION ALL
        SELECT n.name, CASE WHEN n.name LIKE '%\_total' THEN 'counter' ELSE 'gauge' END, 'Recorded by pggit.record_metric().', n.labels, n.value
          FROM pggit.newest_metrics() n
    ), line AS (
        SELECT s.name, 0 AS part, '' AS labels, format(E'# HELP %1$s %2$s\n# TYPE %1$s %3$s', s.name, min(s.help), min(s.kind)) AS text FROM sample s GROUP BY s.name
        UNION ALL
        SELECT s.name, 1, l.labels, s.name || l.labels || ' ' || replace(s.value::text, 'Infinity', 'Inf')
          FROM sample s CROSS JOIN LATERAL pggit.prometheus_labels(s.labels) l(labels)
    )
    SELECT w.text FROM line l CROSS JOIN LATERAL string_to_table(l.text, E'\n') WITH ORDINALITY w(text, n)
     ORDER BY l.name COLLATE "C", l.part, l.labels COLLATE "C", w.n
$$;
COMMENT ON FUNCTION pggit.prometheus_metrics() IS 'Metrics of this database in the text format of Prometheus, one row a line';

---------------------------------------------------------------------------------------------------------------------------
-- Overviews
---------------------------------------------------------------------------------------------------------------------------

CREATE VIEW pggit.metrics_summary AS
SELECT m.name, m.labels, count(*) AS samples, min(m.recorded_at) AS first_at, max(m.recorded_at) AS last_at,
       (array_agg(m.value ORDER BY m.recorded_at DESC))[1] AS last_value, min(m.value) AS min, max(m.value) AS max, avg(m.value) AS avg
  FROM pggit.metrics m GROUP BY m.name, m.labels;
COMMENT ON VIEW pggit.metrics_summary IS 'What pggit.record_metric() was told, for each name and labels';

CREATE VIEW pggit.system_overview AS
SELECT current_database()::text AS database, pggit.default_branch() AS branch, h.all #>> '{schema_version,version}' AS schema_version, pggit.capture_mode() AS capture,
       h.status, h.problems,
       (h.all #>> '{proxy_heartbeat,alive}')::bigint AS proxies,
       (h.all #>> '{seals,sealed}')::bigint AS commits_sealed,
       (h.all #>> '{seals,unsealed}')::bigint AS commits_unsealed,
       (h.all #>> '{recent_activity,changes_24h}')::bigint AS changes_24h,
       (h.all #>> '{recent_activity,last_change}')::timestamptz AS last_change,
       (h.all #>> '{intents,open}')::bigint AS intents_open,
       (h.all #>> '{objects,relations}')::bigint AS relations,
       (h.all #>> '{storage,bytes}')::bigint AS history_bytes,
       (h.all #>> '{backups,bytes}')::bigint AS backup_bytes
  FROM (SELECT CASE WHEN bool_or(c.status = 'critical') THEN 'critical' WHEN bool_or(c.status = 'warning') THEN 'warning' ELSE 'ok' END AS status,
               coalesce(array_agg(c.check_name || ': ' || c.message ORDER BY c.status, c.check_name) FILTER (WHERE c.status <> 'ok'), '{}') AS problems,
               jsonb_object_agg(c.check_name, c.details) AS all
          FROM pggit.health_check() c) h;
COMMENT ON VIEW pggit.system_overview IS 'This database in one row: the worst of its checks, and the numbers behind them';

-- A name for each column of each part: else the view reads differently after a dump.
CREATE VIEW pggit.maintenance_status AS
SELECT t.task, t.due, t.amount, t.unit, t.since, t.what_to_do
  FROM (SELECT jsonb_object_agg(c.check_name, c.details) AS all, jsonb_object_agg(c.check_name, c.status) AS status FROM pggit.health_check() c) h
 CROSS JOIN LATERAL (
    SELECT 'backups of migrations' AS task, h.status ->> 'backups' <> 'ok' AS due, (h.all #>> '{backups,bytes}')::bigint AS amount, 'bytes' AS unit,
           (h.all #>> '{backups,oldest}')::timestamptz AS since, 'pggit-proxy migrate prune' AS what_to_do
    UNION ALL
    SELECT 'sealing' AS task, h.status ->> 'seals' <> 'ok' AS due, (h.all #>> '{seals,unsealed}')::bigint AS amount, 'commits' AS unit,
           (h.all #>> '{seals,oldest}')::timestamptz AS since, 'start a proxy, or SELECT pggit.seal() until it says 0' AS what_to_do
    UNION ALL
    SELECT 'lost statements' AS task, h.status ->> 'intents' <> 'ok' AS due, (h.all #>> '{intents,lost}')::bigint AS amount, 'statements' AS unit,
           (h.all #>> '{intents,oldest}')::timestamptz AS since, 'start a proxy: it settles them' AS what_to_do
    UNION ALL
    SELECT 'recorded metrics' AS task, coalesce(m.oldest < now() - interval '90 days', false) AS due, pg_total_relation_size('pggit.metrics') AS amount,
           'bytes' AS unit, m.oldest AS since, 'SELECT pggit.cleanup_old_metrics(30)' AS what_to_do
      FROM (SELECT min(x.recorded_at) AS oldest FROM pggit.metrics x) m
    UNION ALL
    SELECT 'statement log' AS task, pg_total_relation_size('pggit.statements') > 5 * 1024::bigint ^ 3 AS due,
           pg_total_relation_size('pggit.statements') AS amount, 'bytes' AS unit, s.oldest AS since,
           'DELETE FROM pggit.statements WHERE started_at < ..., as its owner and directly; the history does not need it' AS what_to_do
      FROM (SELECT min(x.started_at) AS oldest FROM pggit.statements x) s
    UNION ALL
    SELECT 'dead rows' AS task, coalesce(max(u.n_dead_tup) > 10000 AND bool_or(u.n_dead_tup > 10000 AND u.n_dead_tup > u.n_live_tup / 5), false) AS due,
           coalesce(sum(u.n_dead_tup), 0)::bigint AS amount, 'rows' AS unit, max(greatest(u.last_vacuum, u.last_autovacuum)) AS since,
           'VACUUM the tables of the schema pggit' AS what_to_do
      FROM pg_stat_user_tables u WHERE u.schemaname = 'pggit') t;
COMMENT ON VIEW pggit.maintenance_status IS 'What somebody should do now and then, and whether it is due';

---------------------------------------------------------------------------------------------------------------------------
-- Rights: readers read. Who records metrics, the owner says.
---------------------------------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION pggit.note_heartbeat(text, text), pggit.record_metric(text, double precision, jsonb), pggit.cleanup_old_metrics(integer),
    pggit.kept_backups(), pggit.health_check(), pggit.measurements(), pggit.newest_metrics(), pggit.prometheus_labels(jsonb),
    pggit.prometheus_metrics() FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        REVOKE ALL ON FUNCTION pggit.note_heartbeat(text, text), pggit.record_metric(text, double precision, jsonb),
            pggit.cleanup_old_metrics(integer) FROM pggit_reader;
    END IF;
END
$$;
