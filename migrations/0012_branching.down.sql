-- The databases of branches and templates stay: who does not want them drops them.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

-- As 0004 made it.
CREATE OR REPLACE VIEW pggit.history AS
SELECT c.id, c.commit_id, c.session_id, c.statement_id, c.branch, t.change_type,
       pggit.severity(t.change_type, c.command_tag, c.object_type, p.shape, c.shape) AS change_severity,
       c.command_tag, c.object_type, c.schema_name, c.object_name, c.object_identity,
       CASE WHEN c.objsubid = 0 OR c.aspect <> '' THEN p.new_definition
            ELSE pg_catalog.quote_ident(p.shape -> c.objsubid::text ->> 0) || ' ' || (p.shape -> c.objsubid::text ->> 1)
                 || CASE WHEN (p.shape -> c.objsubid::text ->> 2)::boolean THEN ' NOT NULL' ELSE '' END END AS old_definition,
       c.new_definition, c.sql_executed, c.captured_by, c.via_proxy, c.created_at, c.created_by, c.role_name,
       c.application_name, c.client_addr, c.client_port, c.backend_pid, c.xid, c.ordinal
  FROM pggit.changes c
  LEFT JOIN LATERAL (
        SELECT k.action, k.object_name, k.namespace, k.new_definition, k.shape FROM pggit.changes k
         WHERE k.objid = c.objid AND k.classid = c.classid AND k.aspect = c.aspect
           AND k.objsubid = CASE WHEN c.aspect = '' THEN 0 ELSE c.objsubid END
           AND (k.created_at, k.ordinal) < (c.created_at, c.ordinal)
         ORDER BY k.created_at DESC, k.ordinal DESC LIMIT 1) o ON true
  LEFT JOIN LATERAL (
        SELECT k.action, k.object_name, k.namespace, k.new_definition, k.shape FROM pggit.changes k
         WHERE o.action IS NULL AND c.objsubid = 0 AND c.action IN ('ALTER', 'RENAME', 'DROP')
           AND pg_catalog.hashtextextended(k.object_identity, 0) = pg_catalog.hashtextextended(c.object_identity, 0)
           AND k.object_identity = c.object_identity AND k.object_type = c.object_type AND k.aspect = c.aspect
           AND (k.created_at, k.ordinal) < (c.created_at, c.ordinal)
         ORDER BY k.created_at DESC, k.ordinal DESC LIMIT 1) i ON true
  CROSS JOIN LATERAL (
        SELECT coalesce(o.action, i.action), coalesce(o.new_definition, i.new_definition),
               coalesce(o.shape, i.shape)) p(action, new_definition, shape)
  CROSS JOIN LATERAL (
        SELECT CASE
            WHEN c.action = 'ALTER' AND o.action <> 'DROP' AND (o.object_name <> c.object_name OR o.namespace <> c.namespace) THEN 'RENAME'
            WHEN c.action = 'ALTER' AND c.affected AND coalesce(p.action, 'DROP') = 'DROP' THEN 'CREATE'
            WHEN c.action = 'CREATE' AND o.action <> 'DROP' THEN 'ALTER'
            ELSE c.action END) t(change_type)
 WHERE NOT (c.affected AND CASE WHEN c.action = 'DROP' THEN coalesce(p.action, 'DROP') = 'DROP'
                                ELSE coalesce(p.action, 'DROP') <> 'DROP' AND p.new_definition IS NOT DISTINCT FROM c.new_definition END);

DROP TABLE pggit.origins;
DROP FUNCTION pggit.tip();
DROP FUNCTION pggit.schema_state();
DROP TABLE pggit.templates;
ALTER TABLE pggit.branches DROP COLUMN maker_start, DROP COLUMN maker_pid, DROP COLUMN maker, DROP COLUMN fork_commits, DROP COLUMN fork_commit;
