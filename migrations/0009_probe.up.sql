-- The probe: finds what was changed and not recorded (event triggers disabled, catalogs edited, rows of the history deleted).
--
-- pggit.probe_due() is a counter of the server's: one millisecond. Where it moved, pggit.probe() takes one look: it holds the
-- objects that are there against the history. Both are the recorder's own calls, on its own connection, never in a client's
-- transaction; they lock nothing but rows of the probe's own tables.
--
-- Why a look cannot take a recorded change for an unrecorded one:
-- 1. A history row is committed together with the change. A look is one REPEATABLE READ transaction, so that it sees both or
--    neither: objects, their rows in the catalogs and the history are read by plain queries under the same snapshot.
-- 2. Names and definitions are printed by functions of the server that look at the catalogs as they are now, not as the snapshot
--    has them. So one look never records anything: it leaves a suspicion. Only the next look, whose snapshot was taken after
--    the first look had committed, records it, if it suspects the same object of the same again: the same fingerprint (read
--    under the snapshot), the same definition (printed), and the same newest history row as before. Whatever was committed
--    between the two snapshots changes the fingerprint or brings a history row. If something is committed after the second
--    snapshot and printed by the second look, the definition is not that of the first look, and nothing is recorded.
-- 3. Two looks at once would record twice: an advisory lock lets one in, and recording deletes the suspicion's row, which only
--    one of two transactions can do.
--
-- What counts as a change of an object is its own rows in the catalogs, without what VACUUM, TRUNCATE, REFRESH, GRANT and the
-- like write there. A text that reads differently because something else was renamed is no change. Such a row is explained
-- if the transaction that wrote it wrote a history row for the same object: both carry the same xmin.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

CREATE TABLE pggit.probe_state (
    one             boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- pggit.probe_due()'s counters as they were before the last look; NULL: not all was looked at.
    catalog_writes  bigint,
    history_edits   bigint,
    -- Of those, how many were the sealing's own (pggit.seal_state.edits). The server counts an edit a moment after it is seen.
    own_edits       bigint NOT NULL DEFAULT 0,
    -- Where the facts were taken: a copied or restored database has other oids, another version writes its catalogs differently.
    place           text NOT NULL,
    looked_at       timestamptz NOT NULL
);
COMMENT ON TABLE pggit.probe_state IS 'The probe''s last look at this database.';

CREATE TABLE pggit.probe_facts (
    classid     oid NOT NULL,
    objid       oid NOT NULL,
    -- Sum of the xmin of the object's rows in the catalogs: whether there is anything to look at.
    version     numeric NOT NULL,
    xmins       xid[] NOT NULL,
    fingerprint text NOT NULL,
    -- The history row that tells of it: its newest, or that of its name, where it lives on under a new oid.
    change_id   uuid,
    PRIMARY KEY (classid, objid)
);
CREATE INDEX probe_facts_fingerprint ON pggit.probe_facts (fingerprint);
CREATE INDEX probe_facts_change ON pggit.probe_facts (change_id);
COMMENT ON TABLE pggit.probe_facts IS 'What the probe''s last look found and the history explains.';

CREATE TABLE pggit.probe_suspects (
    classid     oid NOT NULL,
    objid       oid NOT NULL,
    action      text NOT NULL,
    fingerprint text,
    definition  text,
    change_id   uuid,
    PRIMARY KEY (classid, objid)
);
COMMENT ON TABLE pggit.probe_suspects IS 'What the last look could not explain; recorded by the next one if it is still so.';

-- The rows that make up an object, each with the transaction that wrote it. main: the object's own row, which changes of other
-- objects (an index, a trigger, a foreign key) touch, too.
CREATE VIEW pggit.probe_rows AS
    SELECT 'pg_catalog.pg_class'::regclass::oid AS class, r.oid AS obj, true AS main, r.xmin FROM pg_catalog.pg_class r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_class'::regclass, r.attrelid, false, r.xmin FROM pg_catalog.pg_attribute r
               WHERE r.attrelid >= 16384 AND r.attnum > 0
    UNION ALL SELECT 'pg_catalog.pg_class'::regclass, r.adrelid, false, r.xmin FROM pg_catalog.pg_attrdef r
    UNION ALL SELECT 'pg_catalog.pg_class'::regclass, r.conrelid, false, r.xmin FROM pg_catalog.pg_constraint r WHERE r.conrelid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_class'::regclass, r.indexrelid, false, r.xmin FROM pg_catalog.pg_index r WHERE r.indexrelid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_class'::regclass, r.indrelid, false, r.xmin FROM pg_catalog.pg_index r
               WHERE r.indrelid >= 16384 AND (r.indisclustered OR r.indisreplident)
    UNION ALL SELECT 'pg_catalog.pg_class'::regclass, r.inhrelid, false, r.xmin FROM pg_catalog.pg_inherits r
    UNION ALL SELECT 'pg_catalog.pg_class'::regclass, r.partrelid, false, r.xmin FROM pg_catalog.pg_partitioned_table r
    UNION ALL SELECT 'pg_catalog.pg_class'::regclass, r.seqrelid, false, r.xmin FROM pg_catalog.pg_sequence r
    UNION ALL SELECT 'pg_catalog.pg_class'::regclass, r.ftrelid, false, r.xmin FROM pg_catalog.pg_foreign_table r
    UNION ALL SELECT 'pg_catalog.pg_class'::regclass, r.ev_class, false, r.xmin FROM pg_catalog.pg_rewrite r
               WHERE r.rulename = '_RETURN' AND r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_type'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_type r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_type'::regclass, r.enumtypid, false, r.xmin FROM pg_catalog.pg_enum r
    UNION ALL SELECT 'pg_catalog.pg_type'::regclass, r.contypid, false, r.xmin FROM pg_catalog.pg_constraint r WHERE r.contypid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_type'::regclass, c.reltype, false, r.xmin FROM pg_catalog.pg_class c
                JOIN pg_catalog.pg_attribute r ON r.attrelid = c.oid AND r.attnum > 0 WHERE c.relkind = 'c' AND c.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_proc r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, r.aggfnoid, false, r.xmin FROM pg_catalog.pg_aggregate r WHERE r.aggfnoid::oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_namespace'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_namespace r
    UNION ALL SELECT 'pg_catalog.pg_extension'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_extension r
    UNION ALL SELECT 'pg_catalog.pg_trigger'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_trigger r WHERE NOT r.tgisinternal
    UNION ALL SELECT 'pg_catalog.pg_policy'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_policy r
    UNION ALL SELECT 'pg_catalog.pg_rewrite'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_rewrite r
               WHERE r.oid >= 16384 AND r.rulename <> '_RETURN'
    UNION ALL SELECT 'pg_catalog.pg_operator'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_operator r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_cast'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_cast r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_opfamily'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_opfamily r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_opfamily'::regclass, r.amopfamily, false, r.xmin FROM pg_catalog.pg_amop r WHERE r.amopfamily >= 16384
    UNION ALL SELECT 'pg_catalog.pg_opfamily'::regclass, r.amprocfamily, false, r.xmin FROM pg_catalog.pg_amproc r WHERE r.amprocfamily >= 16384
    UNION ALL SELECT 'pg_catalog.pg_opclass'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_opclass r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_collation'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_collation r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_conversion'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_conversion r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_statistic_ext r
    UNION ALL SELECT 'pg_catalog.pg_ts_config'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_ts_config r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_ts_config'::regclass, r.mapcfg, false, r.xmin FROM pg_catalog.pg_ts_config_map r WHERE r.mapcfg >= 16384
    UNION ALL SELECT 'pg_catalog.pg_ts_dict'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_ts_dict r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_ts_parser'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_ts_parser r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_ts_template'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_ts_template r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_foreign_data_wrapper'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_foreign_data_wrapper r
    UNION ALL SELECT 'pg_catalog.pg_foreign_server'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_foreign_server r
    -- Only a superuser may read the table itself.
    UNION ALL SELECT 'pg_catalog.pg_user_mapping'::regclass, r.umid, true, NULL FROM pg_catalog.pg_user_mappings r
    UNION ALL SELECT 'pg_catalog.pg_publication'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_publication r
    UNION ALL SELECT 'pg_catalog.pg_publication'::regclass, r.prpubid, false, r.xmin FROM pg_catalog.pg_publication_rel r
    UNION ALL SELECT 'pg_catalog.pg_publication'::regclass, r.pnpubid, false, r.xmin FROM pg_catalog.pg_publication_namespace r
    -- Its system columns are a superuser's, too.
    UNION ALL SELECT 'pg_catalog.pg_subscription'::regclass, r.oid, true, NULL FROM pg_catalog.pg_subscription r
    UNION ALL SELECT 'pg_catalog.pg_language'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_language r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_transform'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_transform r
    UNION ALL SELECT 'pg_catalog.pg_am'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_am r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_catalog.pg_default_acl'::regclass, r.oid, true, r.xmin FROM pg_catalog.pg_default_acl r;
COMMENT ON VIEW pggit.probe_rows IS 'Rows of the catalogs by the object they belong to.';

-- What an object is, by oids and not by names of others, without what is no change of the schema.
CREATE FUNCTION pggit.fingerprint(class oid, obj oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    facts text;
BEGIN
    IF class = 'pg_class'::regclass THEN
        -- relhasindex and the like are the other objects'; relfilenode, relpages, relpopulated are the data's; relacl is for GRANT. An
        -- index is its table's owner's.
        SELECT concat_ws(E'\n',
            (SELECT row(c.relname, c.relnamespace, c.reloftype, CASE WHEN c.relkind NOT IN ('i', 'I') THEN c.relowner END, c.relam, c.reltablespace, c.relpersistence, c.relkind,
                        c.relrowsecurity, c.relforcerowsecurity, c.relreplident, c.relispartition, c.reloptions, c.relpartbound)::text
               FROM pg_class c WHERE c.oid = obj),
            (SELECT string_agg(row(a.attnum, a.attname, a.atttypid, a.atttypmod, a.attstattarget, a.attndims, a.attstorage, a.attcompression,
                                   a.attnotnull, a.attidentity, a.attgenerated, a.attisdropped, a.attislocal, a.attcollation,
                                   a.attfdwoptions, (SELECT array_agg(o) FROM unnest(a.attoptions) o WHERE o NOT LIKE 'pg\_%'))::text,
                               E'\n' ORDER BY a.attnum)
               FROM pg_attribute a WHERE a.attrelid = obj AND a.attnum > 0),
            (SELECT string_agg(row(d.adnum, d.adbin)::text, E'\n' ORDER BY d.adnum) FROM pg_attrdef d WHERE d.adrelid = obj),
            -- 18 keeps NOT NULL here, too: it stands with the columns.
            (SELECT string_agg((to_jsonb(k) - '{oid,conindid,conparentid,conpfeqop,conppeqop,conffeqop}'::text[])::text, E'\n' ORDER BY k.conname)
               FROM pg_constraint k WHERE k.conrelid = obj AND k.contype NOT IN ('n', 't')
                AND (k.conparentid = 0 OR NOT EXISTS (SELECT FROM pg_constraint p WHERE p.oid = k.conparentid AND p.conrelid = obj))),
            (SELECT row(x.indrelid, x.indnatts, x.indnkeyatts, x.indisunique, to_jsonb(x)->'indnullsnotdistinct', x.indisprimary, x.indisexclusion,
                        x.indimmediate, x.indisvalid, x.indisreplident, x.indkey, x.indcollation, x.indclass, x.indoption, x.indexprs,
                        x.indpred)::text
               FROM pg_index x WHERE x.indexrelid = obj),
            (SELECT string_agg(row(c.relname, x.indisclustered, x.indisreplident)::text, E'\n' ORDER BY c.relname)
               FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = obj AND (x.indisclustered OR x.indisreplident)),
            (SELECT string_agg(row(i.inhparent, i.inhseqno)::text, E'\n' ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = obj),
            (SELECT row(p.*)::text FROM pg_partitioned_table p WHERE p.partrelid = obj),
            (SELECT row(q.*)::text FROM pg_sequence q WHERE q.seqrelid = obj),
            (SELECT row(f.*)::text FROM pg_foreign_table f WHERE f.ftrelid = obj),
            (SELECT w.ev_action FROM pg_rewrite w WHERE w.ev_class = obj AND w.rulename = '_RETURN'))
          INTO facts;
    ELSIF class = 'pg_type'::regclass THEN
        SELECT concat_ws(E'\n',
            (SELECT (to_jsonb(t) - '{oid,typacl,typarray}'::text[])::text FROM pg_type t WHERE t.oid = obj),
            (SELECT string_agg(row(e.enumsortorder, e.enumlabel)::text, E'\n' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = obj),
            (SELECT string_agg((to_jsonb(k) - 'oid')::text, E'\n' ORDER BY k.conname) FROM pg_constraint k
              WHERE k.contypid = obj AND k.contype <> 'n'),
            (SELECT string_agg(row(a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attisdropped)::text, E'\n' ORDER BY a.attnum)
               FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c' JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
              WHERE t.oid = obj))
          INTO facts;
    ELSIF class = 'pg_proc'::regclass THEN
        SELECT concat_ws(E'\n', (SELECT (to_jsonb(p) - '{oid,proacl}'::text[])::text FROM pg_proc p WHERE p.oid = obj),
                         (SELECT (to_jsonb(a) - 'aggfnoid')::text FROM pg_aggregate a WHERE a.aggfnoid = obj)) INTO facts;
    ELSIF has_table_privilege(class, 'SELECT') THEN
        EXECUTE format('SELECT (to_jsonb(t) - ''{oid,nspacl,fdwacl,srvacl,lanacl,tgparentid,subtwophasestate,subskiplsn}''::text[])::text '
                       'FROM %s t WHERE t.oid = $1', class::regclass) INTO facts USING obj;
        IF class = 'pg_opfamily'::regclass THEN
            SELECT concat_ws(E'\n', facts,
                (SELECT string_agg((to_jsonb(o) - 'oid')::text, E'\n' ORDER BY o.amoplefttype, o.amoprighttype, o.amopstrategy)
                   FROM pg_amop o WHERE o.amopfamily = obj),
                (SELECT string_agg((to_jsonb(f) - 'oid')::text, E'\n' ORDER BY f.amproclefttype, f.amprocrighttype, f.amprocnum)
                   FROM pg_amproc f WHERE f.amprocfamily = obj)) INTO facts;
        ELSIF class = 'pg_ts_config'::regclass THEN
            SELECT concat_ws(E'\n', facts, string_agg(to_jsonb(m)::text, E'\n' ORDER BY m.maptokentype, m.mapseqno)) INTO facts
              FROM pg_ts_config_map m WHERE m.mapcfg = obj;
        ELSIF class = 'pg_publication'::regclass THEN
            SELECT concat_ws(E'\n', facts,
                (SELECT string_agg((to_jsonb(r) - 'oid')::text, E'\n' ORDER BY r.prrelid) FROM pg_publication_rel r WHERE r.prpubid = obj),
                (SELECT string_agg((to_jsonb(r) - 'oid')::text, E'\n' ORDER BY r.pnnspid) FROM pg_publication_namespace r
                  WHERE r.pnpubid = obj)) INTO facts;
        END IF;
    END IF;
    -- Not md5: it is an error on servers in FIPS mode.
    RETURN encode(sha256(convert_to(coalesce(facts, ''), 'UTF8')), 'hex');
END
$$;

-- Whether something was written to the catalogs, or history rows were changed or deleted, since the last look. The counters
-- are read before a look and handed to it: read inside it, they could count what its snapshot does not see. They are a second
-- or so late, seldom ten.
CREATE FUNCTION pggit.probe_due(OUT due boolean, OUT catalog_writes bigint, OUT history_edits bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT sum(pg_stat_get_tuples_inserted(c) + pg_stat_get_tuples_updated(c) + pg_stat_get_tuples_deleted(c)) INTO catalog_writes
      FROM unnest('{pg_class,pg_attribute,pg_attrdef,pg_constraint,pg_index,pg_inherits,pg_partitioned_table,pg_sequence,pg_foreign_table,
                    pg_type,pg_enum,pg_range,pg_proc,pg_aggregate,pg_namespace,pg_extension,pg_trigger,pg_event_trigger,pg_policy,pg_rewrite,
                    pg_operator,pg_cast,pg_opfamily,pg_opclass,pg_amop,pg_amproc,pg_collation,pg_conversion,pg_statistic_ext,pg_ts_config,
                    pg_ts_config_map,pg_ts_dict,pg_ts_parser,pg_ts_template,pg_foreign_data_wrapper,pg_foreign_server,pg_user_mapping,
                    pg_publication,pg_publication_rel,pg_publication_namespace,pg_subscription,pg_language,pg_transform,pg_am,
                    pg_default_acl}'::regclass[]) c;
    -- The file's number tells of TRUNCATE.
    history_edits := pg_stat_get_tuples_updated('pggit.changes'::regclass) + pg_stat_get_tuples_deleted('pggit.changes'::regclass)
                     + pg_relation_filenode('pggit.changes')::bigint * 4294967296;
    due := NOT EXISTS (SELECT FROM pggit.probe_state s
                        WHERE s.catalog_writes = probe_due.catalog_writes AND s.history_edits = probe_due.history_edits)
        OR EXISTS (SELECT FROM pggit.probe_suspects);
END
$$;

-- The facts of these objects are explained from now on by these history rows. marks: their fingerprints.
CREATE FUNCTION pggit.probe_accept(classes oid[], objects oid[], marks text[], change_ids uuid[]) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off SET enable_nestloop = off AS $$
    INSERT INTO pggit.probe_facts AS f (classid, objid, version, xmins, fingerprint, change_id)
    SELECT o.class, o.obj, v.version, v.xmins, o.mark, o.change_id
      FROM unnest(classes, objects, marks, change_ids) o(class, obj, mark, change_id)
      JOIN (SELECT r.class, r.obj, coalesce(sum(r.xmin::text::bigint), 0) AS version,
                   coalesce(array_agg(DISTINCT r.xmin::text) FILTER (WHERE r.xmin IS NOT NULL), '{}')::xid[] AS xmins
              FROM pggit.probe_rows r GROUP BY r.class, r.obj) v ON v.class = o.class AND v.obj = o.obj
    ON CONFLICT (classid, objid) DO UPDATE SET version = excluded.version, xmins = excluded.xmins,
           fingerprint = excluded.fingerprint, change_id = excluded.change_id
$$;

-- Takes over what is there and known as it is. For the first look at a database.
CREATE FUNCTION pggit.probe_adopt() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    classes oid[];
    objects oid[];
    marks text[];
    change_ids uuid[];
BEGIN
    DELETE FROM pggit.probe_facts;
    DELETE FROM pggit.probe_suspects;
    SELECT array_agg(k.classid), array_agg(k.objid), array_agg(pggit.fingerprint(k.classid, k.objid)), array_agg(k.id)
      INTO classes, objects, marks, change_ids
      FROM pggit.recordable_objects() r
      JOIN (SELECT DISTINCT ON (c.objid, c.classid) c.classid, c.objid, c.id, c.action FROM pggit.changes c
             WHERE c.objid IS NOT NULL AND c.objsubid = 0 AND c.aspect = ''
             ORDER BY c.objid, c.classid, c.created_at DESC, c.ordinal DESC) k
        ON k.classid = r.class AND k.objid = r.obj AND k.action <> 'DROP';
    PERFORM pggit.probe_accept(classes, objects, marks, change_ids);
    DELETE FROM pggit.probe_state;
    INSERT INTO pggit.probe_state (place, looked_at) VALUES (pggit.probe_place(), clock_timestamp());
END
$$;

CREATE FUNCTION pggit.probe_place() RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT concat_ws(' ', current_setting('server_version_num')::integer / 10000, d.oid) FROM pg_database d WHERE d.datname = current_database()
$$;

CREATE FUNCTION pggit.probe_exists(class oid, obj oid) RETURNS boolean
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found boolean;
BEGIN
    IF class = 'pg_user_mapping'::regclass THEN
        RETURN EXISTS (SELECT FROM pg_user_mappings u WHERE u.umid = obj);
    END IF;
    -- Large objects are known by the catalog of their pieces, whose rows have no oid.
    EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE t.oid = $1)',
                   CASE class WHEN 'pg_largeobject'::regclass THEN 'pg_largeobject_metadata'::regclass ELSE class END::regclass)
       INTO found USING obj;
    RETURN found;
END
$$;

-- An index that somebody seems to be at work on: CREATE, DROP and REINDEX ... CONCURRENTLY commit several times and write their
-- history row at the end. Until then they hold this lock on the table. And while an intent (0010) is open that may explain an
-- index or a partition, whoever settles it will say so. In plpgsql, which looks for the intents' table when it is run.
CREATE FUNCTION pggit.probe_in_progress(class oid, obj oid) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN class = 'pg_class'::regclass AND (EXISTS (
        SELECT FROM pg_index x
          JOIN pg_locks l ON l.relation = x.indrelid AND l.locktype = 'relation' AND l.mode = 'ShareUpdateExclusiveLock'
               AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
         WHERE x.indexrelid = obj AND NOT x.indisvalid)
     OR EXISTS (
        SELECT FROM pggit.intents i
         WHERE i.outcome IS NULL
           AND CASE WHEN i.command_tag IN ('CREATE INDEX', 'DROP INDEX', 'REINDEX') THEN EXISTS (SELECT FROM pg_index x WHERE x.indexrelid = obj)
                    WHEN i.command_tag = 'ALTER TABLE' THEN EXISTS (SELECT FROM pg_class c WHERE c.oid = obj AND c.relkind IN ('r', 'p', 'f'))
                    ELSE false END));
END
$$;

-- Whether each row of the object that was written since its facts were taken (mains, subs: the transactions) is of a transaction
-- that wrote a history row for this object. For the main row a history row for anything will do, if the name is still the known
-- one: other objects' changes touch it, too. GRANT touches columns, and its history row names no object.
CREATE FUNCTION pggit.probe_explained(class oid, obj oid, mains xid[], subs xid[], name text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own xid[] := (SELECT coalesce(array_agg(coalesce(c.written, c.xmin)), '{}') FROM pggit.changes c
                   WHERE c.classid = probe_explained.class AND c.objid = probe_explained.obj AND c.objsubid = 0);
    x xid;
    main boolean;
BEGIN
    FOR x, main IN
        SELECT m.x, true FROM unnest(mains) m(x) WHERE m.x <> ALL (own) UNION ALL SELECT m.x, false FROM unnest(subs) m(x) WHERE m.x <> ALL (own)
    LOOP
        IF NOT EXISTS (SELECT FROM pggit.changes c
                        WHERE coalesce(c.written, c.xmin) = x AND c.created_at > (SELECT s.looked_at FROM pggit.probe_state s) - interval '1 hour'
                          AND (c.classid IS NULL OR main AND (class <> 'pg_class'::regclass
                                                              OR name = (SELECT t.relname FROM pg_class t WHERE t.oid = obj))))
        THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END
$$;

-- Whether a definition may differ from the recorded one because something else has another name since: there was a rename, the object
-- itself was recorded, and only its main row was written by somebody else (TRUNCATE, VACUUM FULL, a trigger made).
CREATE FUNCTION pggit.probe_reworded(class oid, obj oid, subs xid[], name text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN class = 'pg_class'::regclass
       AND name = (SELECT t.relname FROM pg_class t WHERE t.oid = obj)
       AND NOT EXISTS (SELECT FROM unnest(subs) m(x)
                        WHERE NOT EXISTS (SELECT FROM pggit.changes c WHERE c.classid = probe_reworded.class
                                             AND c.objid = probe_reworded.obj AND c.objsubid = 0 AND coalesce(c.written, c.xmin) = m.x))
       AND EXISTS (SELECT FROM pggit.changes c
                    CROSS JOIN LATERAL (SELECT k.object_name, k.namespace FROM pggit.changes k
                                         WHERE k.objid = c.objid AND k.classid = c.classid AND k.objsubid = 0 AND k.aspect = ''
                                           AND (k.created_at, k.ordinal) < (c.created_at, c.ordinal)
                                         ORDER BY k.created_at DESC, k.ordinal DESC LIMIT 1) p
                    WHERE c.created_at > (SELECT s.looked_at FROM pggit.probe_state s) - interval '1 minute'
                      AND c.action IN ('ALTER', 'RENAME') AND c.objsubid = 0 AND c.aspect = ''
                      AND (c.action = 'RENAME' OR p.object_name <> c.object_name OR p.namespace <> c.namespace));
END
$$;

-- Objects that are new, changed or gone since their facts were taken, at most max_objects of those that are there. One pass over
-- everything, so by hashing: new catalogs have no statistics, and a nested loop over them takes for ever.
CREATE FUNCTION pggit.probe_candidates(trusting boolean, max_objects integer)
RETURNS TABLE (action text, class oid, obj oid, id uuid, fingerprint text, change_id uuid, mains xid[], subs xid[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET enable_nestloop = off SET enable_mergejoin = off AS $$
    WITH versions AS MATERIALIZED (
        SELECT p.class, p.obj, coalesce(sum(p.xmin::text::bigint), 0) AS version FROM pggit.probe_rows p GROUP BY 1, 2
    ), here AS MATERIALIZED (
        SELECT r.class, r.obj, v.version FROM pggit.recordable_objects() r JOIN versions v ON v.class = r.class AND v.obj = r.obj
    ), known AS MATERIALIZED (
        SELECT DISTINCT ON (c.objid, c.classid) c.classid, c.objid, c.action, c.id FROM pggit.changes c
         WHERE c.objid IS NOT NULL AND c.objsubid = 0 AND c.aspect = ''
         ORDER BY c.objid, c.classid, c.created_at DESC, c.ordinal DESC
    ), there AS MATERIALIZED (
        SELECT CASE WHEN k.action = 'DROP' OR k.action IS NULL AND (f.objid IS NULL OR NOT trusting) THEN 'CREATE' ELSE 'ALTER' END AS action,
               h.class, h.obj, coalesce(k.id, f.change_id) AS id, f.fingerprint, f.change_id, f.xmins
          FROM here h
          LEFT JOIN known k ON k.classid = h.class AND k.objid = h.obj
          LEFT JOIN pggit.probe_facts f ON f.classid = h.class AND f.objid = h.obj
         WHERE f.objid IS NULL OR f.version <> h.version OR h.version = 0 OR k.id <> f.change_id OR k.action = 'DROP'
            OR NOT trusting AND k.id IS NULL
         ORDER BY h.class, h.obj LIMIT max_objects
    )
    SELECT t.action, t.class, t.obj, t.id, t.fingerprint, t.change_id, w.mains, w.subs
      FROM there t
      LEFT JOIN (SELECT p.class, p.obj, array_agg(p.xmin) FILTER (WHERE p.main AND p.xmin <> ALL (coalesce(u.xmins, '{}'))) AS mains,
                        array_agg(p.xmin) FILTER (WHERE NOT p.main AND p.xmin <> ALL (coalesce(u.xmins, '{}'))) AS subs
                   FROM pggit.probe_rows p JOIN there u ON u.class = p.class AND u.obj = p.obj GROUP BY 1, 2) w
        ON w.class = t.class AND w.obj = t.obj
    UNION ALL
    -- Shared objects are changed from other databases, too; subscriptions belong to one.
    SELECT 'DROP', k.classid, k.objid, k.id, NULL, NULL, NULL, NULL
      FROM known k LEFT JOIN here h ON h.class = k.classid AND h.obj = k.objid
      JOIN pg_class c ON c.oid = k.classid AND (NOT c.relisshared OR c.oid = 'pg_subscription'::regclass)
     WHERE k.action <> 'DROP' AND h.obj IS NULL
     ORDER BY 1
$$;

-- What one look finds about the candidates. action NULL: explained. change_id: the history row held against.
CREATE FUNCTION pggit.probe_findings(trusting boolean, max_objects integer)
RETURNS TABLE (action text, class oid, obj oid, mark text, definition text, change_id uuid)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    o record;
    twin record;
    twins uuid[] := '{}';
BEGIN
    FOR o IN SELECT c.* FROM pggit.probe_candidates(trusting, max_objects) c
    LOOP
        action := o.action;
        class := o.class;
        obj := o.obj;
        change_id := o.id;
        mark := NULL;
        definition := NULL;
        IF action = 'DROP' THEN
            -- It may have become an extension's member, live on under another oid (REINDEX CONCURRENTLY, ALTER COLUMN TYPE, a
            -- restored dump), or there is newer news of its name.
            CONTINUE WHEN o.id = ANY (twins)
                       OR EXISTS (SELECT FROM pggit.origins g WHERE g.classid = o.class AND g.was = o.obj)
                       OR EXISTS (SELECT FROM pggit.probe_facts f
                                   WHERE f.change_id = o.id AND f.objid <> o.obj
                                     AND (pggit.probe_exists(f.classid, f.objid)
                                          OR EXISTS (SELECT FROM pggit.changes c WHERE c.classid = f.classid AND c.objid = f.objid
                                                        AND c.objsubid = 0 AND c.aspect = '' AND c.action = 'DROP')))
                       OR pggit.probe_exists(o.class, o.obj)
                       OR EXISTS (SELECT FROM pggit.changes k JOIN pggit.changes c
                                    ON hashtextextended(c.object_identity, 0) = hashtextextended(k.object_identity, 0)
                                       AND c.object_identity = k.object_identity AND c.object_type = k.object_type AND c.aspect = ''
                                       AND c.objsubid = 0 AND (c.created_at, c.ordinal) > (k.created_at, k.ordinal)
                                   WHERE k.id = o.id)
                       -- It was rebuilt, and whoever settles that will say so.
                       OR EXISTS (SELECT FROM pggit.changes k
                                   WHERE k.id = o.id AND k.object_type = 'index' AND pggit.probe_in_progress(o.class, to_regclass(k.object_identity)));
            RETURN NEXT;
            CONTINUE;
        END IF;

        CONTINUE WHEN pggit.probe_in_progress(o.class, o.obj);
        mark := pggit.fingerprint(o.class, o.obj);
        IF action = 'ALTER' AND (mark = o.fingerprint AND (trusting OR o.id IS NOT DISTINCT FROM o.change_id)
                                 OR trusting AND o.id IS DISTINCT FROM o.change_id
                                    AND pggit.probe_explained(o.class, o.obj, o.mains, o.subs, (SELECT c.object_name FROM pggit.changes c WHERE c.id = o.id)))
        THEN
            action := NULL;
        ELSIF action = 'CREATE' AND o.class = 'pg_default_acl'::regclass AND o.id IS NULL AND EXISTS (
                SELECT FROM pggit.changes c WHERE c.command_tag = 'ALTER DEFAULT PRIVILEGES'
                   AND (mark = o.fingerprint
                        OR coalesce(c.written, c.xmin) = ANY (o.mains)
                           AND c.created_at > (SELECT s.looked_at FROM pggit.probe_state s) - interval '1 hour'))
        THEN
            -- ALTER DEFAULT PRIVILEGES has its row; an event trigger is not told of which object. So one that was explained stays so as
            -- long as there is any.
            action := NULL;
        ELSIF action = 'CREATE' AND o.id IS NULL THEN
            -- Known under an oid that is no more: it looks the same to the last bit, or has the same name?
            SELECT f.change_id AS id, '' AS action, f.classid, f.objid INTO twin FROM pggit.probe_facts f
             WHERE f.fingerprint = mark AND f.classid = o.class AND f.objid <> o.obj AND NOT pggit.probe_exists(f.classid, f.objid) LIMIT 1;
            IF NOT FOUND THEN
                SELECT c.id, c.action, c.classid, c.objid INTO twin
                  FROM pg_identify_object(o.class, o.obj, 0) i
                  JOIN pggit.changes c ON hashtextextended(c.object_identity, 0) = hashtextextended(i.identity, 0)
                       AND c.object_identity = i.identity AND c.object_type = i.type AND c.aspect = '' AND c.objsubid = 0
                 ORDER BY c.created_at DESC, c.ordinal DESC LIMIT 1;
            END IF;
            IF twin.action <> 'DROP' AND NOT pggit.probe_exists(twin.classid, twin.objid) THEN
                action := NULL;
                change_id := twin.id;
                twins := twins || twin.id;
            END IF;
        END IF;
        IF action IS NOT NULL THEN
            definition := (pggit.describe(o.class, o.obj)).definition;
            IF action = 'ALTER' AND (definition IS NOT DISTINCT FROM (SELECT c.new_definition FROM pggit.changes c WHERE c.id = o.id)
                OR trusting AND o.id IS DISTINCT FROM o.change_id
                   AND pggit.probe_reworded(o.class, o.obj, o.subs, (SELECT c.object_name FROM pggit.changes c WHERE c.id = o.id)))
            THEN
                action := NULL;
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Rows for what two looks found alike. change_ids: the last that was known of them.
CREATE FUNCTION pggit.probe_record(actions text[], classes oid[], objects oid[], change_ids uuid[]) RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH what AS (
        SELECT u.* FROM unnest(actions, classes, objects, change_ids) WITH ORDINALITY AS u(action, class, obj, change_id, n)
    ), written AS (
        -- Nobody knows who it was, from where.
        INSERT INTO pggit.changes (action, command_tag, object_type, schema_name, object_name, object_identity, classid, objid, namespace,
               new_definition, shape, sql_executed, captured_by, session_id, created_by, role_name, application_name,
               client_addr, client_port, backend_pid, ordinal)
        SELECT w.action, 'PROBE', coalesce(d.object_type, k.object_type), coalesce(d.schema_name, k.schema_name),
               coalesce(d.object_name, k.object_name), coalesce(d.object_identity, k.object_identity), w.class, w.obj,
               coalesce(d.namespace, k.namespace), d.definition, d.shape, NULL, 'probe', NULL, 'unknown', 'unknown', NULL,
               NULL, NULL, 0, w.n
          FROM what w
          LEFT JOIN pggit.described_objects(classes, objects) d ON d.n = w.n AND w.action <> 'DROP'
          LEFT JOIN pggit.changes k ON k.id = w.change_id
         WHERE w.action = 'DROP' OR d.n IS NOT NULL
        RETURNING 1
    )
    SELECT count(*) FROM written
$$;

-- Facts of what is gone. Those of a second oid stay: they tell that the first one lived on.
CREATE FUNCTION pggit.probe_forget() RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off SET enable_nestloop = off AS $$
    DELETE FROM pggit.probe_facts f USING (
        SELECT k.classid, k.objid, k.change_id FROM pggit.probe_facts k
         WHERE NOT EXISTS (SELECT FROM pggit.probe_rows r WHERE r.main AND r.class = k.classid AND r.obj = k.objid)) g
     WHERE f.classid = g.classid AND f.objid = g.objid
       AND NOT EXISTS (SELECT FROM pggit.changes c WHERE c.id = g.change_id AND c.objid <> g.objid)
$$;

-- One look, in a transaction of its own, REPEATABLE READ. The counters are probe_due()'s from before the transaction. looked: false
-- where another one was at it. suspected: what the next look will record if it finds it again. unfinished: there is more to see.
CREATE FUNCTION pggit.probe(catalog_writes bigint DEFAULT NULL, history_edits bigint DEFAULT NULL, max_objects integer DEFAULT 2000,
                            OUT looked boolean, OUT suspected bigint, OUT recorded bigint, OUT unfinished boolean)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off
SET "TimeZone" = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' SET lc_monetary = 'C'
SET standard_conforming_strings = on SET quote_all_identifiers = off AS $$
DECLARE
    trusting boolean;
    news bigint;
    own bigint := coalesce((SELECT s.edits FROM pggit.seal_state s), 0);
    found record;
    sure record;
BEGIN
    IF current_setting('transaction_isolation') <> 'repeatable read' THEN
        RAISE EXCEPTION 'the probe looks in a REPEATABLE READ transaction' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    suspected := 0;
    recorded := 0;
    unfinished := false;
    looked := pg_try_advisory_xact_lock(1885827433, 9);             -- 'pggi', and this file
    IF NOT looked THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pggit.probe_state s WHERE s.place = pggit.probe_place()) THEN
        PERFORM pggit.probe_adopt();
        unfinished := true;
        RETURN;
    END IF;
    -- After history rows were changed or deleted, being explained once is no explanation.
    SELECT probe.history_edits - s.history_edits, coalesce(probe.history_edits - s.history_edits BETWEEN 0 AND own - s.own_edits, true)
      INTO news, trusting FROM pggit.probe_state s;

    SELECT array_agg(f.action) FILTER (WHERE f.action IS NOT NULL) AS actions,
           array_agg(f.class) FILTER (WHERE f.action IS NOT NULL) AS classes,
           array_agg(f.obj) FILTER (WHERE f.action IS NOT NULL) AS objects,
           array_agg(f.mark) FILTER (WHERE f.action IS NOT NULL) AS marks,
           array_agg(f.definition) FILTER (WHERE f.action IS NOT NULL) AS definitions,
           array_agg(f.change_id) FILTER (WHERE f.action IS NOT NULL) AS change_ids,
           array_agg(f.class) FILTER (WHERE f.action IS NULL) AS fine_classes,
           array_agg(f.obj) FILTER (WHERE f.action IS NULL) AS fine_objects,
           array_agg(f.mark) FILTER (WHERE f.action IS NULL) AS fine_marks,
           array_agg(f.change_id) FILTER (WHERE f.action IS NULL) AS fine_ids,
           count(*) FILTER (WHERE f.mark IS NOT NULL) >= max_objects AS more
      INTO found FROM pggit.probe_findings(trusting, max_objects) f;
    unfinished := found.more;

    WITH again AS (
        DELETE FROM pggit.probe_suspects s
         USING unnest(found.actions, found.classes, found.objects, found.marks, found.definitions, found.change_ids)
               f(action, class, obj, mark, definition, change_id)
         WHERE s.classid = f.class AND s.objid = f.obj AND s.action = f.action AND s.fingerprint IS NOT DISTINCT FROM f.mark
           AND s.definition IS NOT DISTINCT FROM f.definition AND s.change_id IS NOT DISTINCT FROM f.change_id
        RETURNING s.*
    )
    SELECT array_agg(a.action ORDER BY a.action, a.classid, a.objid) AS actions, array_agg(a.classid ORDER BY a.action, a.classid, a.objid) AS classes,
           array_agg(a.objid ORDER BY a.action, a.classid, a.objid) AS objects,
           array_agg(a.fingerprint ORDER BY a.action, a.classid, a.objid) AS marks,
           array_agg(a.change_id ORDER BY a.action, a.classid, a.objid) AS change_ids
      INTO sure FROM again a;
    IF sure.actions IS NOT NULL THEN
        recorded := pggit.probe_record(sure.actions, sure.classes, sure.objects, sure.change_ids);
    END IF;

    DELETE FROM pggit.probe_suspects;
    INSERT INTO pggit.probe_suspects (classid, objid, action, fingerprint, definition, change_id)
    SELECT f.class, f.obj, f.action, f.mark, f.definition, f.change_id
      FROM unnest(found.actions, found.classes, found.objects, found.marks, found.definitions, found.change_ids)
           f(action, class, obj, mark, definition, change_id)
     WHERE NOT EXISTS (SELECT FROM unnest(sure.classes, sure.objects) x(class, obj) WHERE x.class = f.class AND x.obj = f.obj);
    GET DIAGNOSTICS suspected = ROW_COUNT;

    -- What was recorded just now is explained by its row.
    IF found.fine_classes IS NOT NULL OR sure.classes IS NOT NULL THEN
        PERFORM pggit.probe_accept(found.fine_classes || sure.classes, found.fine_objects || sure.objects, found.fine_marks || sure.marks,
            found.fine_ids || (SELECT array_agg((SELECT c.id FROM pggit.changes c
                    WHERE c.classid = x.class AND c.objid = x.obj AND c.objsubid = 0 AND c.aspect = ''
                    ORDER BY c.created_at DESC, c.ordinal DESC LIMIT 1) ORDER BY x.n)
                FROM unnest(sure.classes, sure.objects) WITH ORDINALITY x(class, obj, n)));
    END IF;
    PERFORM pggit.probe_forget();
    UPDATE pggit.probe_state s SET looked_at = clock_timestamp(),
           catalog_writes = CASE WHEN NOT found.more THEN probe.catalog_writes END,
           -- Not trusted again before there is nothing left to record.
           history_edits = CASE WHEN trusting OR suspected = 0 AND NOT found.more THEN probe.history_edits ELSE s.history_edits END,
           own_edits = CASE WHEN s.history_edits IS NULL THEN own WHEN trusting THEN s.own_edits + coalesce(news, 0)
                            WHEN suspected = 0 AND NOT found.more THEN own ELSE s.own_edits END;
END
$$;

-- A row of a database that was migrated just now; so its facts are known from the start.
SELECT pggit.probe_adopt();

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pggit FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        REVOKE ALL ON FUNCTION pggit.fingerprint(oid, oid), pggit.probe_due(), pggit.probe_accept(oid[], oid[], text[], uuid[]),
            pggit.probe_adopt(), pggit.probe_place(), pggit.probe_exists(oid, oid), pggit.probe_in_progress(oid,
            oid), pggit.probe_explained(oid, oid, xid[], xid[], text), pggit.probe_reworded(oid, oid, xid[], text),
            pggit.probe_candidates(boolean, integer), pggit.probe_findings(boolean, integer),
            pggit.probe_record(text[], oid[], oid[], uuid[]), pggit.probe_forget(), pggit.probe(bigint, bigint,
            integer)
            FROM pggit_reader;
    END IF;
END
$$;
