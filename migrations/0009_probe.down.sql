SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP FUNCTION pggit.probe(bigint, bigint, integer);
DROP FUNCTION pggit.probe_record(text[], oid[], oid[], uuid[]);
DROP FUNCTION pggit.probe_findings(boolean, integer);
DROP FUNCTION pggit.probe_reworded(oid, oid, xid[], text);
DROP FUNCTION pggit.probe_explained(oid, oid, xid[], text);
DROP FUNCTION pggit.probe_in_progress(oid, oid);
DROP FUNCTION pggit.probe_exists(oid, oid);
DROP FUNCTION pggit.probe_adopt();
DROP FUNCTION pggit.probe_place();
DROP FUNCTION pggit.probe_accept(oid[], oid[], text[], uuid[]);
DROP FUNCTION pggit.probe_due();
DROP FUNCTION pggit.fingerprint(oid, oid);
DROP VIEW pggit.probe_rows;
DROP TABLE pggit.probe_suspects;
DROP TABLE pggit.probe_facts;
DROP TABLE pggit.probe_state;
