-- The databases of branches and templates stay: who does not want them drops them.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP FUNCTION pggit.tip();
DROP FUNCTION pggit.schema_state();
DROP TABLE pggit.templates;
ALTER TABLE pggit.branches DROP COLUMN expires_at, DROP COLUMN maker_start, DROP COLUMN maker_pid, DROP COLUMN maker, DROP COLUMN fork_commits, DROP COLUMN fork_commit;
