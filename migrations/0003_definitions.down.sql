SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP FUNCTION pggit.definition(oid, oid, integer);
DROP FUNCTION pggit.describe(oid, oid);
DROP FUNCTION pggit.describe_other(regclass, oid);
DROP FUNCTION pggit.describe_subscription(oid);
DROP FUNCTION pggit.firing(text, name, oid, "char");
DROP FUNCTION pggit.describe_function(oid);
DROP FUNCTION pggit.describe_type(oid);
DROP FUNCTION pggit.describe_relation(oid, "char");
DROP FUNCTION pggit.index_statistics(oid);
DROP FUNCTION pggit.in_tablespace(oid);
DROP FUNCTION pggit.describe_table(oid);
DROP FUNCTION pggit.column_settings(text, name, oid, "char", "char", integer, text[]);
DROP FUNCTION pggit.table_clauses(oid, boolean);
DROP FUNCTION pggit.index_marks(text, oid, boolean, boolean);
DROP FUNCTION pggit.is_partitions_copy(oid, oid);
DROP FUNCTION pggit.column_collation(oid, oid);
DROP FUNCTION pggit.options(text[]);
