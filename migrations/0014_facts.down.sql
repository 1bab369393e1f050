SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP FUNCTION pggit.facts();
DROP FUNCTION pggit.grants("char", oid, aclitem[]);
