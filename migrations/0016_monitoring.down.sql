SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP VIEW pggit.maintenance_status;
DROP VIEW pggit.system_overview;
DROP VIEW pggit.metrics_summary;
DROP FUNCTION pggit.prometheus_metrics();
DROP FUNCTION pggit.prometheus_labels(jsonb);
DROP FUNCTION pggit.newest_metrics();
DROP FUNCTION pggit.measurements();
DROP FUNCTION pggit.health_check();
ALTER FUNCTION pggit.health_of_history() RENAME TO health_check;
DROP FUNCTION pggit.kept_backups();
DROP FUNCTION pggit.cleanup_old_metrics(integer);
DROP FUNCTION pggit.record_metric(text, double precision, jsonb);
DROP TABLE pggit.metrics;
DROP FUNCTION pggit.note_heartbeat(text, text);
DROP TABLE pggit.heartbeats;
