-- Branches made on demand: what a branch was made from, and the templates that are kept for making more.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

-- status: 'creating' and 'dropping' belong to whoever holds the advisory lock of the branch's name; where nobody does, the
-- maker was lost on the way, and the sweep removes the database and the row. 'copying' belongs to the server process that
-- maker_pid and maker_start tell, for as long as it lives. Proxies serve 'active' ones only.
ALTER TABLE pggit.branches
    ADD COLUMN fork_commit  uuid,
    ADD COLUMN fork_commits bigint,
    ADD COLUMN maker        text,
    ADD COLUMN maker_pid    integer,
    ADD COLUMN maker_start  timestamptz,
    ADD COLUMN expires_at   timestamptz;
COMMENT ON COLUMN pggit.branches.fork_commit IS 'The newest commit of the parent when the branch was made from it';
COMMENT ON COLUMN pggit.branches.fork_commits IS 'How many commits the parent had then';
COMMENT ON COLUMN pggit.branches.maker IS 'The process that made it: host name and process id';
COMMENT ON COLUMN pggit.branches.expires_at IS
    'When it is dropped, or as soon after that as nobody is on it; protected branches stay. NULL: never';

CREATE TABLE pggit.templates (
    database        text PRIMARY KEY,
    parent_database text NOT NULL,
    commit_id       uuid,
    commits         bigint NOT NULL,
    status          text NOT NULL DEFAULT 'creating' CHECK (status IN ('creating', 'ready')),
    maker           text NOT NULL,
    used_at         timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pggit.templates IS
    'Databases with the schema of a branch as it was at a commit, and without its data. Only the main database''s table counts.';
COMMENT ON COLUMN pggit.templates.commit_id IS 'The newest commit in it; NULL: none';

-- A mark of everything that a dump of the schema would show, to tell whether a template is still like its parent, also where
-- nobody recorded the change. Rows are known by the transaction that wrote them, but for pg_class, in which TRUNCATE, VACUUM and
-- the like write, too. Temporary objects do not count. About 20 ms for 500 tables.
CREATE FUNCTION pggit.schema_state() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH passing AS MATERIALIZED (
        SELECT n.oid FROM pg_namespace n WHERE n.nspname ~ '^pg_(toast_)?temp_'
    ), gone AS MATERIALIZED (
        SELECT c.oid FROM pg_class c WHERE c.relnamespace IN (SELECT p.oid FROM passing p)
    ), marks(mark) AS (
        SELECT concat_ws(' ', 'c', c.oid, c.relname, c.relnamespace, c.reloftype, c.relowner, c.relam, c.reltablespace, c.relpersistence,
                         c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relreplident, c.relispartition, c.relacl, c.reloptions,
                         c.relpartbound)
          FROM pg_class c WHERE c.relkind <> 't' AND c.oid NOT IN (SELECT g.oid FROM gone g)
        UNION ALL SELECT concat_ws(' ', 'a', r.attrelid, r.attnum, r.xmin) FROM pg_attribute r WHERE r.attnum > 0 AND r.attrelid NOT IN (SELECT g.oid FROM gone g)
        UNION ALL SELECT concat_ws(' ', 'ad', r.oid, r.xmin) FROM pg_attrdef r WHERE r.adrelid NOT IN (SELECT g.oid FROM gone g)
        UNION ALL SELECT concat_ws(' ', 'co', r.oid, r.xmin) FROM pg_constraint r WHERE r.connamespace NOT IN (SELECT p.oid FROM passing p)
        UNION ALL SELECT concat_ws(' ', 'i', r.indexrelid, r.xmin) FROM pg_index r WHERE r.indexrelid NOT IN (SELECT g.oid FROM gone g)
        UNION ALL SELECT concat_ws(' ', 'ih', r.inhrelid, r.inhparent, r.xmin) FROM pg_inherits r WHERE r.inhrelid NOT IN (SELECT g.oid FROM gone g)
        UNION ALL SELECT concat_ws(' ', 'pt', r.partrelid, r.xmin) FROM pg_partitioned_table r WHERE r.partrelid NOT IN (SELECT g.oid FROM gone g)
        UNION ALL SELECT concat_ws(' ', 's', r.seqrelid, r.xmin) FROM pg_sequence r WHERE r.seqrelid NOT IN (SELECT g.oid FROM gone g)
        UNION ALL SELECT concat_ws(' ', 'ft', r.ftrelid, r.xmin) FROM pg_foreign_table r
        UNION ALL SELECT concat_ws(' ', 'rw', r.oid, r.xmin) FROM pg_rewrite r WHERE r.ev_class NOT IN (SELECT g.oid FROM gone g)
        UNION ALL SELECT concat_ws(' ', 'tg', r.oid, r.xmin) FROM pg_trigger r WHERE r.tgrelid NOT IN (SELECT g.oid FROM gone g)
        UNION ALL SELECT concat_ws(' ', 'po', r.oid, r.xmin) FROM pg_policy r WHERE r.polrelid NOT IN (SELECT g.oid FROM gone g)
        UNION ALL SELECT concat_ws(' ', 'se', r.oid, r.xmin) FROM pg_statistic_ext r
        UNION ALL SELECT concat_ws(' ', 'ty', r.oid, r.xmin) FROM pg_type r WHERE r.typnamespace NOT IN (SELECT p.oid FROM passing p)
                     AND r.typnamespace <> 'pg_toast'::regnamespace
        UNION ALL SELECT concat_ws(' ', 'en', r.oid, r.xmin) FROM pg_enum r
        UNION ALL SELECT concat_ws(' ', 'ra', r.rngtypid, r.xmin) FROM pg_range r
        UNION ALL SELECT concat_ws(' ', 'pr', r.oid, r.xmin) FROM pg_proc r WHERE r.pronamespace NOT IN (SELECT p.oid FROM passing p)
        UNION ALL SELECT concat_ws(' ', 'ag', r.aggfnoid::oid, r.xmin) FROM pg_aggregate r
        UNION ALL SELECT concat_ws(' ', 'n', r.oid, r.xmin) FROM pg_namespace r WHERE r.oid NOT IN (SELECT p.oid FROM passing p)
        UNION ALL SELECT concat_ws(' ', 'ex', r.oid, r.xmin) FROM pg_extension r
        UNION ALL SELECT concat_ws(' ', 'et', r.oid, r.xmin) FROM pg_event_trigger r
        UNION ALL SELECT concat_ws(' ', 'op', r.oid, r.xmin) FROM pg_operator r
        UNION ALL SELECT concat_ws(' ', 'of', r.oid, r.xmin) FROM pg_opfamily r
        UNION ALL SELECT concat_ws(' ', 'oc', r.oid, r.xmin) FROM pg_opclass r
        UNION ALL SELECT concat_ws(' ', 'ao', r.oid, r.xmin) FROM pg_amop r
        UNION ALL SELECT concat_ws(' ', 'ap', r.oid, r.xmin) FROM pg_amproc r
        UNION ALL SELECT concat_ws(' ', 'am', r.oid, r.xmin) FROM pg_am r
        UNION ALL SELECT concat_ws(' ', 'ca', r.oid, r.xmin) FROM pg_cast r
        UNION ALL SELECT concat_ws(' ', 'cl', r.oid, r.xmin) FROM pg_collation r
        UNION ALL SELECT concat_ws(' ', 'cv', r.oid, r.xmin) FROM pg_conversion r
        UNION ALL SELECT concat_ws(' ', 'fd', r.oid, r.xmin) FROM pg_foreign_data_wrapper r
        UNION ALL SELECT concat_ws(' ', 'fs', r.oid, r.xmin) FROM pg_foreign_server r
        UNION ALL SELECT concat_ws(' ', 'um', r.umid, r.umuser, r.umoptions) FROM pg_user_mappings r
        UNION ALL SELECT concat_ws(' ', 'la', r.oid, r.xmin) FROM pg_language r
        UNION ALL SELECT concat_ws(' ', 'tf', r.oid, r.xmin) FROM pg_transform r
        UNION ALL SELECT concat_ws(' ', 'pu', r.oid, r.xmin) FROM pg_publication r
        UNION ALL SELECT concat_ws(' ', 'pb', r.oid, r.xmin) FROM pg_publication_rel r
        UNION ALL SELECT concat_ws(' ', 'pn', r.oid, r.xmin) FROM pg_publication_namespace r
        UNION ALL SELECT concat_ws(' ', 'tc', r.oid, r.xmin) FROM pg_ts_config r
        UNION ALL SELECT concat_ws(' ', 'tm', r.mapcfg, r.maptokentype, r.mapseqno, r.xmin) FROM pg_ts_config_map r
        UNION ALL SELECT concat_ws(' ', 'td', r.oid, r.xmin) FROM pg_ts_dict r
        UNION ALL SELECT concat_ws(' ', 'tp', r.oid, r.xmin) FROM pg_ts_parser r
        UNION ALL SELECT concat_ws(' ', 'tt', r.oid, r.xmin) FROM pg_ts_template r
        UNION ALL SELECT concat_ws(' ', 'da', r.oid, r.xmin) FROM pg_default_acl r
        UNION ALL SELECT concat_ws(' ', 'ip', r.classoid, r.objoid, r.objsubid, r.xmin) FROM pg_init_privs r
        UNION ALL SELECT concat_ws(' ', 'de', r.classoid, r.objoid, r.objsubid, r.xmin) FROM pg_description r
                   WHERE NOT (r.classoid = 'pg_class'::regclass AND r.objoid IN (SELECT g.oid FROM gone g))
        UNION ALL SELECT concat_ws(' ', 'sl', r.classoid, r.objoid, r.objsubid, r.xmin) FROM pg_seclabel r
    )
    SELECT concat_ws(' ', count(*), sum(hashtextextended(m.mark, 0)), sum(hashtextextended(m.mark, 1))) FROM marks m
$$;
COMMENT ON FUNCTION pggit.schema_state() IS 'A mark that changes with the schema';

-- The newest commit in this database's history, how many there are, and when the last change was made. Cheap: what is sealed is
-- counted already.
CREATE FUNCTION pggit.tip(OUT commit_id uuid, OUT commits bigint, OUT changed_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT count(*), (array_agg(u.commit_id ORDER BY u.at DESC, u.xid DESC, u.commit_id DESC))[1] INTO commits, commit_id FROM pggit.unsealed() u;
    commits := commits + coalesce((SELECT s.head_seq FROM pggit.seal_state s), 0);
    commit_id := coalesce(commit_id, (SELECT s.commit_id FROM pggit.seals s ORDER BY s.seq DESC LIMIT 1));
    changed_at := (SELECT c.created_at FROM pggit.changes c ORDER BY c.created_at DESC LIMIT 1);
END
$$;
COMMENT ON FUNCTION pggit.tip() IS 'The newest commit, how many there are, and when the last change was made';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pggit FROM PUBLIC;
