-- Takes the history away, with all its rows: `migrate down` keeps them in a backup.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP VIEW pggit.history;
DROP TABLE pggit.origins;
DROP TABLE pggit.changes;
DROP FUNCTION pggit.severity(text, text, text, jsonb, jsonb);
DROP FUNCTION pggit.is_narrower(jsonb, jsonb);
DROP FUNCTION pggit.is_wider(text, text);
