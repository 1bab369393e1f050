SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP TABLE pggit.held_sessions;
DROP TABLE pggit.holds;
