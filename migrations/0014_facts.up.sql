-- What the schema of this database is made of, as rows that can be compared with those of another one.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

-- An object's rights as lines, one for each grantee and grantor; NULL where they are those that every such object has.
CREATE FUNCTION pggit.grants(kind "char", owner oid, acl aclitem[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(g.line, E'\n' ORDER BY g.line)
      FROM (SELECT format('%s: %s (by %s)', CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
                          string_agg(x.privilege_type || CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END, ', '
                                     ORDER BY x.privilege_type, x.is_grantable),
                          quote_ident(pg_get_userbyid(x.grantor))) AS line
              FROM aclexplode(acl) x GROUP BY x.grantee, x.grantor) g
     WHERE (SELECT array_agg(a ORDER BY a::text) FROM unnest(acl) a)
           IS DISTINCT FROM (SELECT array_agg(a ORDER BY a::text) FROM unnest(CASE WHEN kind <> '' THEN acldefault(kind, owner) END) a)
$$;

-- fact: definition, comment, grants, security label. No member of an extension, nothing temporary, nothing of ours.
--
-- The settings say how constants in definitions are printed.
CREATE FUNCTION pggit.facts() RETURNS TABLE (object_type text, object_identity text, fact text, value text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
SET "TimeZone" = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' SET lc_monetary = 'C'
SET standard_conforming_strings = on SET quote_all_identifiers = off AS $$
    WITH object AS MATERIALIZED (
        SELECT r.class, r.obj FROM pggit.recordable_objects() r
    ), rights(class, obj, sub, grants) AS (
        SELECT 'pg_class'::regclass::oid, c.oid, 0, pggit.grants(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner, c.relacl)
          FROM pg_class c WHERE c.relacl IS NOT NULL
        UNION ALL SELECT 'pg_class'::regclass, a.attrelid, a.attnum, pggit.grants('', 0, a.attacl) FROM pg_attribute a WHERE a.attacl IS NOT NULL AND NOT a.attisdropped
        UNION ALL SELECT 'pg_proc'::regclass, p.oid, 0, pggit.grants('f', p.proowner, p.proacl) FROM pg_proc p WHERE p.proacl IS NOT NULL
        UNION ALL SELECT 'pg_namespace'::regclass, n.oid, 0, pggit.grants('n', n.nspowner, n.nspacl) FROM pg_namespace n WHERE n.nspacl IS NOT NULL
        UNION ALL SELECT 'pg_type'::regclass, t.oid, 0, pggit.grants('T', t.typowner, t.typacl) FROM pg_type t WHERE t.typacl IS NOT NULL
        UNION ALL SELECT 'pg_language'::regclass, l.oid, 0, pggit.grants('l', l.lanowner, l.lanacl) FROM pg_language l WHERE l.lanacl IS NOT NULL
        UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, f.oid, 0, pggit.grants('F', f.fdwowner, f.fdwacl) FROM pg_foreign_data_wrapper f WHERE f.fdwacl IS NOT NULL
        UNION ALL SELECT 'pg_foreign_server'::regclass, v.oid, 0, pggit.grants('S', v.srvowner, v.srvacl) FROM pg_foreign_server v WHERE v.srvacl IS NOT NULL
    ), found(class, obj, sub, fact, value) AS (
        SELECT o.class, o.obj, 0, 'definition', coalesce(d.definition, '') FROM object o CROSS JOIN LATERAL pggit.describe(o.class, o.obj) d
        UNION ALL SELECT o.class, o.obj, c.objsubid, 'comment', c.description FROM pg_description c JOIN object o ON o.class = c.classoid AND o.obj = c.objoid
        -- Constraints have no rows of their own in the history; their comments belong to somebody.
        UNION ALL SELECT 'pg_constraint'::regclass, k.oid, 0, 'comment', c.description
                    FROM pg_description c JOIN pg_constraint k ON c.classoid = 'pg_constraint'::regclass AND k.oid = c.objoid
                    JOIN object o ON o.class = 'pg_class'::regclass AND o.obj = k.conrelid OR o.class = 'pg_type'::regclass AND o.obj = k.contypid
        UNION ALL SELECT o.class, o.obj, l.objsubid, 'security label', string_agg(l.provider || ': ' || l.label, E'\n' ORDER BY l.provider)
                    FROM pg_seclabel l JOIN object o ON o.class = l.classoid AND o.obj = l.objoid GROUP BY o.class, o.obj, l.objsubid
        UNION ALL SELECT o.class, o.obj, g.sub, 'grants', g.grants FROM rights g JOIN object o ON o.class = g.class AND o.obj = g.obj WHERE g.grants IS NOT NULL
    )
    SELECT i.type, i.identity, f.fact, f.value FROM found f CROSS JOIN LATERAL pg_identify_object(f.class, f.obj, f.sub) i WHERE i.identity IS NOT NULL
$$;
COMMENT ON FUNCTION pggit.facts() IS 'Every object of this database with its definition, comment, grants and security labels';

REVOKE ALL ON FUNCTION pggit.grants("char", oid, aclitem[]), pggit.facts() FROM PUBLIC;
