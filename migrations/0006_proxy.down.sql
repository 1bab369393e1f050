-- Takes the statement log away, with all its rows, and who froze what: `migrate down` keeps them in a backup.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP TABLE pggit.freezes;
DROP TABLE pggit.branches;
DROP TABLE pggit.statements;
DROP FUNCTION pggit.announce();
