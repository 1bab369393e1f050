SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP FUNCTION pggit.checkout(text);
DROP FUNCTION pggit.health_check();
DROP FUNCTION pggit.status();
DROP FUNCTION pggit.capture_triggers();
DROP FUNCTION pggit.version();
