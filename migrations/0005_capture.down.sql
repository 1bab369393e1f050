SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP EVENT TRIGGER IF EXISTS pggit_record_drop;
DROP EVENT TRIGGER IF EXISTS pggit_record_ddl;
DROP EVENT TRIGGER IF EXISTS pggit_before_ddl;
DROP FUNCTION pggit.capture_mode();
DROP FUNCTION pggit.record_baseline();
DROP FUNCTION pggit.record_drop();
DROP FUNCTION pggit.before_ddl();
DROP FUNCTION pggit.record_ddl();
DROP FUNCTION pggit.begin_recording();
DROP FUNCTION pggit.is_migrating();
DROP FUNCTION pggit.enter_extension(integer);
DROP FUNCTION pggit.extension_depth();
DROP FUNCTION pggit.record_affected(oid[], oid[], text, integer);
DROP FUNCTION pggit.descendants(oid);
