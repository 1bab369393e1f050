-- Whether the history says what is in this database's catalogs: prints one line for each thing that was missed, invented or is
-- named or described wrongly; nothing where they agree. By PostgreSQL's own functions alone, none of ours.
\set ON_ERROR_STOP on
\set QUIET on
\pset tuples_only on
\pset format unaligned
BEGIN;
-- So that PostgreSQL qualifies the names that it prints, as the history does.
SET LOCAL search_path = pg_catalog, pg_temp;
-- And prints constants as it does, whatever the suite's clients prefer.
SET LOCAL DateStyle = 'ISO';
SET LOCAL TimeZone = 'UTC';
SET LOCAL IntervalStyle = 'postgres';

-- What is there: everything that has a statement to make it. No system schema, nothing temporary, nothing of ours, no member
-- of an extension, nothing that comes and goes with another object.
CREATE TEMP TABLE there ON COMMIT DROP AS
WITH spaces AS (
    SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'pggit')
), found(classid, objid) AS (
    SELECT 'pg_namespace'::regclass::oid, oid FROM spaces
    UNION ALL SELECT 'pg_class'::regclass, c.oid FROM pg_class c JOIN spaces s ON s.oid = relnamespace WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'i', 'I', 'f')
    UNION ALL SELECT 'pg_type'::regclass, t.oid FROM pg_type t JOIN spaces s ON s.oid = typnamespace LEFT JOIN pg_class c ON c.oid = typrelid
               WHERE (typrelid = 0 OR relkind = 'c') AND typtype <> 'm' AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
    UNION ALL SELECT 'pg_proc'::regclass, p.oid FROM pg_proc p JOIN spaces s ON s.oid = pronamespace
               WHERE NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'i')
    UNION ALL SELECT 'pg_trigger'::regclass, g.oid FROM pg_trigger g JOIN pg_class c ON c.oid = tgrelid JOIN spaces s ON s.oid = relnamespace
               WHERE NOT tgisinternal
    UNION ALL SELECT 'pg_policy'::regclass, p.oid FROM pg_policy p JOIN pg_class c ON c.oid = polrelid JOIN spaces s ON s.oid = relnamespace
    UNION ALL SELECT 'pg_rewrite'::regclass, w.oid FROM pg_rewrite w JOIN pg_class c ON c.oid = ev_class JOIN spaces s ON s.oid = relnamespace WHERE rulename <> '_RETURN'
    UNION ALL SELECT 'pg_statistic_ext'::regclass, x.oid FROM pg_statistic_ext x JOIN spaces s ON s.oid = stxnamespace
    UNION ALL SELECT 'pg_operator'::regclass, x.oid FROM pg_operator x JOIN spaces s ON s.oid = oprnamespace
    UNION ALL SELECT 'pg_opclass'::regclass, x.oid FROM pg_opclass x JOIN spaces s ON s.oid = opcnamespace
    UNION ALL SELECT 'pg_opfamily'::regclass, x.oid FROM pg_opfamily x JOIN spaces s ON s.oid = opfnamespace
    UNION ALL SELECT 'pg_collation'::regclass, x.oid FROM pg_collation x JOIN spaces s ON s.oid = collnamespace
    UNION ALL SELECT 'pg_conversion'::regclass, x.oid FROM pg_conversion x JOIN spaces s ON s.oid = connamespace
    UNION ALL SELECT 'pg_ts_config'::regclass, x.oid FROM pg_ts_config x JOIN spaces s ON s.oid = cfgnamespace
    UNION ALL SELECT 'pg_ts_dict'::regclass, x.oid FROM pg_ts_dict x JOIN spaces s ON s.oid = dictnamespace
    UNION ALL SELECT 'pg_ts_parser'::regclass, x.oid FROM pg_ts_parser x JOIN spaces s ON s.oid = prsnamespace
    UNION ALL SELECT 'pg_ts_template'::regclass, x.oid FROM pg_ts_template x JOIN spaces s ON s.oid = tmplnamespace
    UNION ALL SELECT 'pg_cast'::regclass, oid FROM pg_cast
    UNION ALL SELECT 'pg_language'::regclass, oid FROM pg_language
    UNION ALL SELECT 'pg_transform'::regclass, oid FROM pg_transform
    UNION ALL SELECT 'pg_am'::regclass, oid FROM pg_am
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server
    UNION ALL SELECT 'pg_user_mapping'::regclass, umid FROM pg_user_mappings
    UNION ALL SELECT 'pg_publication'::regclass, oid FROM pg_publication
    UNION ALL SELECT 'pg_subscription'::regclass, x.oid FROM pg_subscription x JOIN pg_database d ON d.oid = subdbid WHERE datname = current_database()
    UNION ALL SELECT 'pg_default_acl'::regclass, oid FROM pg_default_acl WHERE defaclnamespace = 0 OR defaclnamespace IN (SELECT oid FROM spaces)
    UNION ALL SELECT 'pg_event_trigger'::regclass, oid FROM pg_event_trigger WHERE evtname !~ '^pggit_'
    UNION ALL SELECT 'pg_extension'::regclass, oid FROM pg_extension
)
SELECT f.classid, f.objid, i.type, i.identity,
       CASE f.classid WHEN 'pg_class'::regclass THEN (SELECT relname FROM pg_class WHERE oid = f.objid)
                      WHEN 'pg_proc'::regclass THEN (SELECT proname FROM pg_proc WHERE oid = f.objid)
                      WHEN 'pg_type'::regclass THEN (SELECT typname FROM pg_type WHERE oid = f.objid)
                      WHEN 'pg_namespace'::regclass THEN (SELECT nspname FROM pg_namespace WHERE oid = f.objid) END AS name
  FROM found f CROSS JOIN LATERAL pg_identify_object(f.classid, f.objid, 0) i
 WHERE (f.objid >= 16384 OR f.classid IN ('pg_namespace'::regclass, 'pg_extension'::regclass))
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.deptype = 'e' AND d.classid = f.classid AND d.objid = f.objid)
   -- A cast of a range to its multirange is made along with the type.
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.deptype = 'i' AND d.classid = f.classid AND d.objid = f.objid AND f.classid = 'pg_cast'::regclass);
CREATE INDEX ON there (objid, classid);

-- The history's last word on each object.
CREATE TEMP TABLE told ON COMMIT DROP AS
SELECT DISTINCT ON (objid, classid) classid, objid, action, object_type, object_name, object_identity, new_definition, shape, captured_by, created_at
  FROM pggit.changes WHERE objid IS NOT NULL AND objsubid = 0 AND aspect = ''
 ORDER BY objid, classid, created_at DESC, ordinal DESC;
CREATE INDEX ON told (objid, classid);
-- The server makes indexes, statistics and triggers of partitions anew, under another oid: for another type of a column, or to
-- build them anew. Those go by their names: the last word on the name counts.
CREATE TEMP TABLE named ON COMMIT DROP AS
SELECT DISTINCT ON (classid, object_identity) classid, objid, object_identity, action FROM told ORDER BY classid, object_identity, created_at DESC;
CREATE INDEX ON named (object_identity);
ANALYZE there, told, named;

SELECT 'missed: ' || t.type || ' ' || t.identity
  FROM there t
 WHERE NOT EXISTS (SELECT FROM told h WHERE h.classid = t.classid AND h.objid = t.objid)
   AND NOT EXISTS (SELECT FROM named n WHERE n.classid = t.classid AND n.object_identity = t.identity AND n.action <> 'DROP')
   -- ALTER DEFAULT PRIVILEGES names no object to its event trigger: then its row is one of the same transaction.
   AND NOT EXISTS (SELECT FROM pg_default_acl a JOIN pggit.changes c ON c.xmin = a.xmin AND c.command_tag = 'ALTER DEFAULT PRIVILEGES'
                    WHERE t.classid = 'pg_default_acl'::regclass AND a.oid = t.objid);
SELECT 'invented: DROP ' || t.type || ' ' || t.identity || ', it is there'
  FROM there t JOIN told h USING (classid, objid) WHERE h.action = 'DROP';
SELECT 'invented: ' || h.object_type || ' ' || h.object_identity || ' is not there'
  FROM told h JOIN named n USING (classid, objid)
 WHERE h.action <> 'DROP' AND h.classid IN (SELECT classid FROM there) AND h.objid >= 16384
   AND NOT EXISTS (SELECT FROM there t WHERE t.classid = h.classid AND t.objid = h.objid)
   AND NOT EXISTS (SELECT FROM there t WHERE t.classid = h.classid AND t.identity = h.object_identity);
SELECT 'wrong name: ' || h.object_type || ' ' || h.object_identity || ', it is ' || t.identity
  FROM there t JOIN told h USING (classid, objid) WHERE h.action <> 'DROP' AND h.object_name <> t.name;

-- Columns: number, name, type, NOT NULL.
SELECT 'wrong columns: ' || t.identity || ': ' || h.shape::text || ' is ' || r.shape::text
  FROM there t JOIN told h USING (classid, objid)
 CROSS JOIN LATERAL (SELECT jsonb_object_agg(attnum, jsonb_build_array(attname, attnotnull)) AS shape
                       FROM pg_attribute WHERE attrelid = t.objid AND attnum > 0 AND NOT attisdropped) r
 WHERE t.classid = 'pg_class'::regclass AND h.action <> 'DROP' AND h.shape IS NOT NULL
   AND h.object_type IN ('table', 'view', 'materialized view', 'foreign table')
   AND r.shape IS DISTINCT FROM (SELECT jsonb_object_agg(key, jsonb_build_array(value -> 0, value -> 2)) FROM jsonb_each(h.shape));

-- Definitions, where PostgreSQL prints them itself.
SELECT 'wrong definition: ' || t.type || ' ' || t.identity || regexp_replace(' told: ' || h.new_definition || ' is: ' || d.text, '\s+', ' ', 'g')
  FROM there t JOIN told h USING (classid, objid)
 CROSS JOIN LATERAL (SELECT CASE
        WHEN t.classid = 'pg_class'::regclass AND t.type = 'index' THEN pg_get_indexdef(t.objid)
        WHEN t.classid = 'pg_class'::regclass AND t.type IN ('view', 'materialized view') THEN rtrim(pg_get_viewdef(t.objid), ';')
        WHEN t.classid = 'pg_proc'::regclass AND t.type <> 'aggregate' THEN rtrim(pg_get_functiondef(t.objid), E'\n')
        WHEN t.classid = 'pg_trigger'::regclass THEN pg_get_triggerdef(t.objid)
        WHEN t.classid = 'pg_rewrite'::regclass THEN pg_get_ruledef(t.objid)
        WHEN t.classid = 'pg_statistic_ext'::regclass THEN pg_get_statisticsobjdef(t.objid) END AS text) d
 WHERE h.action <> 'DROP' AND h.new_definition IS NOT NULL AND strpos(h.new_definition, d.text) = 0;
SELECT 'wrong constraint: ' || t.type || ' ' || t.identity 
       || regexp_replace(' told: ' || h.new_definition || ' is: ' || k.conname || ' ' || pg_get_constraintdef(k.oid), '\s+', ' ', 'g')
  FROM there t JOIN told h USING (classid, objid) JOIN pg_constraint k ON k.conrelid = t.objid
 WHERE t.classid = 'pg_class'::regclass AND h.action <> 'DROP' AND k.contype NOT IN ('n', 't') AND k.conparentid = 0 AND t.type = 'table'
   AND strpos(h.new_definition, pg_get_constraintdef(k.oid)) = 0;

-- Comments, by name: an index that was made anew under another oid keeps its comment.
SELECT 'missed: comment on ' || t.type || ' ' || t.identity
  FROM there t JOIN pg_description d ON d.classoid = t.classid AND d.objoid = t.objid AND d.objsubid = 0
 WHERE t.objid >= 16384 AND NOT EXISTS (SELECT FROM pggit.changes c WHERE c.classid = t.classid AND c.object_identity = t.identity
                     AND (strpos(c.new_definition, d.description) > 0 OR strpos(c.new_definition, quote_literal(d.description)) > 0));

-- The probe finds what nothing else recorded: where there are event triggers it must have had nothing to find.
SELECT 'left to the probe: ' || c.action || ' ' || c.object_type || ' ' || c.object_identity FROM pggit.changes c WHERE c.captured_by = 'probe' ORDER BY c.created_at;
ROLLBACK;
