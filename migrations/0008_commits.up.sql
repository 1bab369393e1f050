-- Commits: all changes of one transaction, sealed into a hash chain once the transaction is over.
--
-- A seal is one row of pggit.seals. It holds what the commit is (branch, parent, author, message ...), the hash of each of its
-- rows in pggit.changes, the hash of the seal before it, and a hash over all of that. So whoever edits, deletes or adds
-- anything later breaks the chain, and pggit.verify() says where. Somebody who may rewrite everything can make a new chain; it
-- ends in another hash, which is why the last hash is worth keeping elsewhere.
--
-- Nothing here runs in a client's transaction.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

CREATE TABLE pggit.seals (
    seq              bigint PRIMARY KEY CHECK (seq > 0),
    commit_id        uuid NOT NULL UNIQUE,
    branch           text NOT NULL,
    parent           uuid,
    author           text NOT NULL,
    message          text,
    created_at       timestamptz NOT NULL,
    application_name text,
    xid              xid8 NOT NULL,
    changes          bigint NOT NULL,
    row_ids          uuid[] NOT NULL,
    row_hashes       bytea[] NOT NULL,
    sealed_at        timestamptz NOT NULL,
    previous         bytea NOT NULL,
    hash             bytea NOT NULL
);
CREATE INDEX seals_branch_idx ON pggit.seals (branch, seq DESC);
CREATE INDEX seals_time_idx ON pggit.seals (created_at DESC, seq DESC);
COMMENT ON TABLE pggit.seals IS 'One row per commit, in the order of sealing: a hash chain over pggit.changes. Read pggit.commits instead.';
COMMENT ON COLUMN pggit.seals.changes IS 'How many rows of pggit.history the commit had when it was sealed';
COMMENT ON COLUMN pggit.seals.row_ids IS 'The ids of its rows in pggit.changes, in order; row_hashes has their hashes, in the same order';
COMMENT ON COLUMN pggit.seals.previous IS 'The hash of the seal before it; empty for the first';

-- Where sealing stands. Transactions that are over in `seen` were sealed if they changed anything; that only means something
-- where it was taken, for a restored dump has the transaction numbers of another cluster: pggit.place() tells.
CREATE TABLE pggit.seal_state (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    seen      pg_snapshot,
    place     text,
    head_seq  bigint NOT NULL DEFAULT 0,
    head_hash bytea NOT NULL DEFAULT '',
    edits     bigint NOT NULL DEFAULT 0
);
INSERT INTO pggit.seal_state DEFAULT VALUES;
COMMENT ON TABLE pggit.seal_state IS 'The end of the chain of pggit.seals, and which transactions were looked at when it grew last.';
COMMENT ON COLUMN pggit.seal_state.edits IS 'How many rows of pggit.changes were ever put right before they were sealed: the probe is alarmed by other edits only';

-- The cluster, and which table it is there: a dump may be restored into a copy of the cluster that it came from. A database
-- made from a template keeps its tables' oids, and its transaction numbers are good there.
CREATE FUNCTION pggit.place() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT concat_ws(' ', k.system_identifier, 'pggit.seal_state'::regclass::oid) FROM pg_control_system() k
$$;

---------------------------------------------------------------------------------------------------------------------------
-- Hashes. They depend on nothing but the rows, as long as TimeZone is UTC and DateStyle ISO: whoever calls these sets them.
---------------------------------------------------------------------------------------------------------------------------

-- sha256 over the row as JSON: jsonb's text form (keys by length, then by bytes), columns that are NULL left out, times in
-- UTC, shape as a text, in the database's encoding. A column that a later version adds is NULL in older rows and so changes
-- nothing. What no JSON can hold is taken in the row's own text form.
CREATE FUNCTION pggit.row_hash(c pggit.changes) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(CASE
        WHEN octet_length(c.new_definition) > 64000000 THEN c::text
        ELSE jsonb_strip_nulls(to_jsonb(c) || jsonb_build_object('shape', c.shape::text))::text
    END, getdatabaseencoding()))
$$;

-- sha256 over the seal as JSON, of the same form; the two arrays by the sha256 of their binary form, as the server sends it.
CREATE FUNCTION pggit.seal_hash(s pggit.seals) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(jsonb_strip_nulls(jsonb_build_object(
        'seq', s.seq, 'commit_id', s.commit_id, 'branch', s.branch, 'parent', s.parent, 'author', s.author, 'message', s.message,
        'created_at', s.created_at, 'application_name', s.application_name, 'xid', s.xid, 'changes', s.changes,
        'row_ids', encode(sha256(array_send(s.row_ids)), 'hex'), 'row_hashes', encode(sha256(array_send(s.row_hashes)), 'hex'),
        'sealed_at', s.sealed_at, 'previous', encode(s.previous, 'hex')))::text, getdatabaseencoding()))
$$;

---------------------------------------------------------------------------------------------------------------------------
-- What a commit is
---------------------------------------------------------------------------------------------------------------------------

-- Commits as their rows tell them. Several messages are told one after the other, each once.
--
-- The settings are for speed, here and where commits are sealed: everything is found by the ids of a few hundred commits.
CREATE FUNCTION pggit.describe_commits(ids uuid[])
RETURNS TABLE (commit_id uuid, branch text, author text, message text, created_at timestamptz, application_name text, xid xid8, changes bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
BEGIN
    RETURN QUERY
    SELECT c.commit_id,
           (array_agg(c.branch ORDER BY c.created_at, c.ordinal, c.id))[1],
           (array_agg(c.created_by ORDER BY c.created_at, c.ordinal, c.id))[1],
           CASE WHEN bool_or(c.message IS NOT NULL) THEN (
                    SELECT string_agg(m.message, E'\n' ORDER BY m.at, m.ordinal) FROM (
                        SELECT DISTINCT ON (d.message) d.message, d.created_at AS at, d.ordinal FROM pggit.changes d
                         WHERE d.commit_id = c.commit_id AND d.message IS NOT NULL
                         ORDER BY d.message, d.created_at, d.ordinal) m)
                WHEN bool_and(c.action = 'BASELINE') THEN 'what was there before' END,
           max(c.created_at),
           (array_agg(c.application_name ORDER BY c.created_at, c.ordinal, c.id))[1],
           max(c.xid),
           -- Only pggit.history knows which of the affected objects did change.
           CASE WHEN bool_or(c.affected) THEN (SELECT count(*) FROM pggit.history h WHERE h.commit_id = c.commit_id)
                ELSE count(*) END
      FROM pggit.changes c WHERE c.commit_id = ANY (ids)
     GROUP BY c.commit_id;
END
$$;

-- Transactions that changed something and are not sealed yet, in the order in which they have to be: whatever one of them
-- builds on was committed before its own last change was made.
--
-- A transaction that was running at the last sealing (prepared ones are) is looked for by its number, for ever if need be;
-- all others have greater numbers. In another place than the last time everything is compared, once.
--
-- The settings are for speed: every few seconds this finds nothing, by index, whatever the statistics say.
CREATE FUNCTION pggit.unsealed(max_commits integer DEFAULT NULL) RETURNS TABLE (commit_id uuid, xid xid8, at timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    last pg_snapshot;
    running xid8[];
BEGIN
    SELECT s.seen INTO last FROM pggit.seal_state s
     WHERE s.place = pggit.place();
    IF last IS NULL THEN
        RETURN QUERY
        SELECT c.commit_id, max(c.xid), max(c.created_at) FROM pggit.changes c
         WHERE NOT EXISTS (SELECT FROM pggit.seals s WHERE s.commit_id = c.commit_id)
         GROUP BY c.commit_id ORDER BY 3, 2, 1 LIMIT max_commits;
    ELSE
        running := ARRAY(SELECT pg_snapshot_xip(last));
        RETURN QUERY
        SELECT n.commit_id, max(n.xid), max(n.created_at)
          FROM (SELECT c.commit_id, c.xid, c.created_at FROM pggit.changes c
                 -- The upper bound keeps out the rows of a restored dump, whose numbers this cluster has not reached.
                 WHERE c.xid >= pg_snapshot_xmax(last) AND c.xid < pg_snapshot_xmax(pg_current_snapshot())
                UNION ALL
                SELECT c.commit_id, c.xid, c.created_at FROM pggit.changes c WHERE c.xid = ANY (running)) n
         WHERE NOT EXISTS (SELECT FROM pggit.seals s WHERE s.commit_id = n.commit_id)
         GROUP BY n.commit_id ORDER BY 3, 2, 1 LIMIT max_commits;
    END IF;
END
$$;

-- The migration that a tool notes in a table of its own, in the same transaction: the row is there with that transaction's
-- number. Only plain tables of exactly these names, with plain columns of exactly these names, of a moderate size, and only
-- if nobody holds a lock on them: then nothing of the user's can run here or wait for us.
--
-- Tools that note it in another transaction (Flyway, Liquibase, golang-migrate) cannot be told apart from any other work.
CREATE FUNCTION pggit.tool_messages(commits uuid[], xids xid8[]) RETURNS TABLE (commit_id uuid, message text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
    t record;
    written text := 't.xmin::text = x.xid::xid::text';
BEGIN
    FOR t IN
        SELECT c.oid, format('%I.%I', s.nspname, c.relname) AS name, w.columns, w.label, w.how
          FROM (VALUES ('alembic_version', '{version_num}'::text[], $q$'alembic ' || t.version_num$q$, written),
                       ('django_migrations', '{app,name}', $q$'django ' || t.app || '.' || t.name$q$, written),
                       -- Rails, Ecto, dbmate
                       ('schema_migrations', '{version}', $q$'migration ' || t.version$q$, written),
                       -- sqlx writes its row again afterwards; but the row keeps the start of the transaction that made it.
                       ('_sqlx_migrations', '{version,description,installed_on}', $q$'sqlx ' || t.version || ' ' || t.description$q$,
                        'pggit.commit_of(x.xid, t.installed_on) = x.id'),
                       ('__diesel_schema_migrations', '{version}', $q$'diesel ' || t.version$q$, written),
                       ('__EFMigrationsHistory', '{MigrationId}', $q$'Entity Framework ' || t."MigrationId"$q$, written),
                       ('goose_db_version', '{version_id}', $q$'goose ' || t.version_id$q$, written),
                       ('knex_migrations', '{name}', $q$'knex ' || t.name$q$, written),
                       ('pgmigrations', '{name}', $q$'node-pg-migrate ' || t.name$q$, written)) w(name, columns, label, how)
          JOIN pg_class c ON c.relname = w.name AND c.relkind = 'r' AND c.relpersistence = 'p'
          JOIN pg_namespace s ON s.oid = c.relnamespace
         ORDER BY 2
    LOOP
        BEGIN
            EXECUTE format('LOCK TABLE ONLY %s IN ACCESS SHARE MODE NOWAIT', t.name);
            -- Only now that nobody can change it. (The size would have waited for the lock, too.)
            CONTINUE WHEN to_regclass(t.name) IS DISTINCT FROM t.oid
                OR NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.oid AND c.relkind = 'r')
                OR pg_relation_size(t.oid) > 16 * 1024 * 1024
                OR cardinality(t.columns) <> (
                    SELECT count(*) FROM pg_attribute a
                     WHERE a.attrelid = t.oid AND a.attname = ANY (t.columns) AND a.attgenerated = '' AND NOT a.attisdropped
                       AND a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'integer'::regtype, 'bigint'::regtype,
                                          'timestamptz'::regtype));
            RETURN QUERY EXECUTE format(
                $q$SELECT x.id, left(string_agg(%s, ', ' ORDER BY %1$s), 4096)
                     FROM ONLY %s t JOIN unnest($1, $2) x(id, xid) ON %s GROUP BY x.id$q$, t.label, t.name, t.how) USING commits, xids;
        EXCEPTION WHEN OTHERS THEN
            -- No message, then.
        END;
    END LOOP;
END
$$;

---------------------------------------------------------------------------------------------------------------------------
-- Sealing
---------------------------------------------------------------------------------------------------------------------------

-- A transaction that sees the catalogs as they were at its start (REPEATABLE READ, SERIALIZABLE) may have told an older name or
-- definition of an object that somebody else had changed meanwhile. Now that it is over, the object says how it is; unless it was
-- changed again since: then a definition that was too old is taken away. Whatever was committed before the object was described
-- has its row by the time we look for a newer one. And what was made anew goes on where it was. Says how many rows it edited.
CREATE FUNCTION pggit.put_right(commits uuid[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET "TimeZone" = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' SET lc_monetary = 'C'
SET standard_conforming_strings = on SET quote_all_identifiers = off AS $$
DECLARE
    c record;
    d record;
    who record;
    done bigint;
    edits bigint := 0;
BEGIN
    FOR c IN
        SELECT h.id, h.classid, h.objid, h.created_at, h.ordinal, h.object_name, h.xmin AS written,
               bool_or(o.classid = h.classid AND o.objid = h.objid AND o.aspect = '') AS same
          FROM pggit.changes h
          JOIN pggit.changes o ON o.xid >= pg_snapshot_xmin(h.snapshot) AND o.xid <> h.xid AND o.created_at < h.created_at
                              AND NOT pg_visible_in_snapshot(o.xid, h.snapshot)
         WHERE h.commit_id = ANY (commits) AND h.snapshot IS NOT NULL AND h.action <> 'DROP'
           AND h.classid IS NOT NULL AND h.objsubid = 0 AND h.aspect = ''
         GROUP BY h.id, h.xmin
    LOOP
        d := pggit.describe(c.classid, c.objid);
        SELECT i.identity, n.nspname, n.oid AS namespace,
               CASE WHEN c.classid IN ('pg_cast'::regclass, 'pg_transform'::regclass) THEN i.identity
                    ELSE coalesce((SELECT t.typname FROM pg_type t WHERE c.classid = 'pg_type'::regclass AND t.oid = c.objid),
                                  a.object_names[array_length(a.object_names, 1)]) END AS name
          INTO who FROM pg_identify_object(c.classid, c.objid, 0) i CROSS JOIN pg_identify_object_as_address(c.classid, c.objid, 0) a
          LEFT JOIN pg_namespace n ON quote_ident(n.nspname) = i.schema;
        IF NOT EXISTS (SELECT FROM pggit.changes o WHERE o.objid = c.objid AND o.classid = c.classid AND o.objsubid = 0
                          AND o.aspect = '' AND (o.created_at, o.ordinal) > (c.created_at, c.ordinal))
        THEN
            UPDATE pggit.changes h SET new_definition = d.definition, shape = d.shape, object_identity = who.identity,
                   object_name = who.name, schema_name = coalesce(who.nspname, h.schema_name),
                   namespace = coalesce(who.namespace, h.namespace), written = c.written
             WHERE h.id = c.id AND who.identity IS NOT NULL;
            GET DIAGNOSTICS done = ROW_COUNT;
            edits := edits + done;
        ELSIF c.same THEN
            UPDATE pggit.changes h SET new_definition = NULL, shape = NULL, written = c.written WHERE h.id = c.id;
            edits := edits + 1;
        END IF;
    END LOOP;

    -- An index that ALTER TABLE made anew has another oid; and another identity than it was known by, if its schema was renamed before.
    -- Only then, for no index leads to the names.
    WITH made AS MATERIALIZED (
        SELECT n.classid, n.objid, n.namespace, n.object_name, n.object_identity, n.created_at, n.ordinal FROM pggit.changes n
         WHERE n.commit_id = ANY (commits) AND n.affected AND n.command_tag = 'ALTER TABLE' AND n.object_type IN ('index', 'statistics object')
           AND EXISTS (SELECT FROM pggit.changes s WHERE s.objid = n.namespace AND s.classid = 'pg_namespace'::regclass AND s.object_name <> n.schema_name)
           AND NOT EXISTS (SELECT FROM pggit.changes o WHERE o.objid = n.objid AND o.classid = n.classid
                              AND (o.created_at, o.ordinal) < (n.created_at, n.ordinal))
    )
    INSERT INTO pggit.origins (classid, objid, was)
    SELECT DISTINCT n.classid, n.objid, k.objid
      FROM made n
      JOIN pggit.changes k ON k.classid = n.classid AND k.objid <> n.objid AND k.objsubid = 0 AND k.aspect = ''
           AND k.namespace = n.namespace AND k.object_name = n.object_name AND k.object_identity <> n.object_identity
           AND (k.created_at, k.ordinal) < (n.created_at, n.ordinal)
     WHERE NOT EXISTS (SELECT FROM pggit.changes g WHERE g.objid = k.objid AND g.classid = k.classid AND g.action = 'DROP'
                          AND g.objsubid = 0 AND g.aspect = '')
       AND (pg_identify_object(k.classid, k.objid, 0)).identity IS NULL
    ON CONFLICT DO NOTHING;
    RETURN edits;
END
$$;

-- Seals the oldest commits that are not sealed yet; says how many it was, or NULL if another session is at it. Call it again
-- until it says 0. Reads, and writes nothing, where there is nothing new.
CREATE FUNCTION pggit.seal(max_commits integer DEFAULT 200) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC' SET DateStyle = 'ISO'
SET enable_seqscan = off SET jit = off AS $$
DECLARE
    now_seen pg_snapshot;
    ids uuid[];
    xids xid8[];
    messages jsonb;
    one record;
    s pggit.seals;
    state pggit.seal_state;
    n integer := 0;
    most integer := greatest(coalesce(max_commits, 200), 1);
    is_all boolean;
BEGIN
    -- Every statement below must see what the session that had the lock before has written.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'pggit.seal() must run under READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('pggit.seal', 0)) THEN
        RETURN NULL;
    END IF;
    -- Before the commits are looked for: what is over by now is among them.
    SELECT pg_current_snapshot() INTO now_seen;
    SELECT array_agg(u.commit_id ORDER BY u.at, u.xid, u.commit_id), array_agg(u.xid ORDER BY u.at, u.xid, u.commit_id)
      INTO ids, xids FROM pggit.unsealed(most + 1) u;
    is_all := coalesce(cardinality(ids), 0) <= most;
    ids := ids[:most];
    SELECT * INTO state FROM pggit.seal_state;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pggit.seal_state has lost its row' USING ERRCODE = 'data_corrupted',
            HINT = 'Somebody deleted it. See what pggit.verify() says.';
    END IF;

    IF ids IS NOT NULL THEN
        state.edits := state.edits + pggit.put_right(ids);
        SELECT jsonb_object_agg(m.commit_id, m.message) INTO messages FROM (
            SELECT t.commit_id, string_agg(t.message, ', ') AS message FROM pggit.tool_messages(ids, xids) t GROUP BY 1) m;
        FOR one IN
            SELECT d.*, h.row_ids, h.row_hashes,
                   -- The first commit of a branch follows what its database had before.
                   coalesce(lag(d.commit_id) OVER (PARTITION BY d.branch ORDER BY o.n),
                            (SELECT p.commit_id FROM pggit.seals p WHERE p.branch = d.branch ORDER BY p.seq DESC LIMIT 1),
                            lag(d.commit_id) OVER (ORDER BY o.n),
                            (SELECT p.commit_id FROM pggit.seals p ORDER BY p.seq DESC LIMIT 1)) AS parent
              FROM unnest(ids) WITH ORDINALITY AS o(id, n)
              JOIN pggit.describe_commits(ids) d ON d.commit_id = o.id
              JOIN (SELECT c.commit_id, array_agg(c.id ORDER BY c.id) AS row_ids, array_agg(pggit.row_hash(c) ORDER BY c.id) AS row_hashes
                      FROM pggit.changes c WHERE c.commit_id = ANY (ids) GROUP BY c.commit_id) h ON h.commit_id = o.id
             ORDER BY o.n
        LOOP
            s.seq := state.head_seq + 1;
            s.commit_id := one.commit_id;
            s.branch := one.branch;
            s.parent := one.parent;
            s.author := one.author;
            s.message := coalesce(one.message, messages ->> one.commit_id::text);
            s.created_at := one.created_at;
            s.application_name := one.application_name;
            s.xid := one.xid;
            s.changes := one.changes;
            s.row_ids := one.row_ids;
            s.row_hashes := one.row_hashes;
            s.sealed_at := clock_timestamp();
            s.previous := state.head_hash;
            s.hash := pggit.seal_hash(s);
            INSERT INTO pggit.seals VALUES (s.*);
            state.head_seq := s.seq;
            state.head_hash := s.hash;
            n := n + 1;
        END LOOP;
    END IF;

    -- While commits remain, the next call looks for them as this one did.
    IF is_all AND (n > 0 OR state.place IS DISTINCT FROM pggit.place()) THEN
        state.seen := now_seen;
        state.place := pggit.place();
    ELSIF n = 0 THEN
        RETURN 0;
    END IF;
    UPDATE pggit.seal_state SET seen = state.seen, place = state.place, head_seq = state.head_seq, head_hash = state.head_hash,
           edits = state.edits;
    RETURN n;
END
$$;

---------------------------------------------------------------------------------------------------------------------------
-- Verifying
---------------------------------------------------------------------------------------------------------------------------

-- What is wrong with the seals above `after`, up to `upto`, and with the rows of pggit.changes that they hold.
CREATE FUNCTION pggit.verify_seals(after bigint, upto bigint)
RETURNS TABLE (problem text, seq bigint, commit_id uuid, row_id uuid, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC' SET DateStyle = 'ISO' SET jit = off AS $$
    SELECT x.problem, x.seq, x.commit_id, NULL::uuid, x.detail
      FROM pggit.seals s
      LEFT JOIN LATERAL (SELECT p.* FROM pggit.seals p WHERE p.seq < s.seq ORDER BY p.seq DESC LIMIT 1) p ON true
      CROSS JOIN LATERAL (
        SELECT 'deleted' AS problem, coalesce(p.seq, 0) + 1 AS seq,
               CASE WHEN NOT EXISTS (SELECT FROM pggit.seals q WHERE q.commit_id = s.parent) THEN s.parent END AS commit_id,
               CASE WHEN s.seq - coalesce(p.seq, 0) = 2 THEN 'the seal with this number is missing'
                    ELSE 'the seals up to number ' || s.seq - 1 || ' are missing' END AS detail
         WHERE s.seq > coalesce(p.seq, 0) + 1
        UNION ALL
        SELECT 'edited', s.seq, s.commit_id, 'the seal does not have the hash that its columns give'
         WHERE s.hash <> pggit.seal_hash(s)
        UNION ALL
        SELECT 'edited', p.seq, p.commit_id, 'the next seal was made upon another one than this'
         WHERE s.seq = p.seq + 1 AND s.previous <> p.hash
        UNION ALL
        SELECT 'edited', s.seq, s.commit_id, 'the first seal names one before it' WHERE s.seq = 1 AND s.previous <> ''
      ) x
     WHERE s.seq > verify_seals.after AND s.seq <= verify_seals.upto
    UNION ALL
    SELECT r.problem, s.seq, s.commit_id, CASE WHEN r.all_gone THEN NULL ELSE r.id END,
           CASE WHEN r.all_gone THEN 'all rows of the commit are missing (' || cardinality(s.row_ids) || ')' ELSE r.detail END
      FROM pggit.seals s
      CROSS JOIN LATERAL (
        SELECT d.*, d.problem = 'deleted' AND count(*) OVER w = cardinality(s.row_ids) AS all_gone, row_number() OVER w_ordered AS n
          FROM (
            SELECT coalesce(l.id, f.id) AS id,
                   CASE WHEN l.id IS NULL THEN 'inserted' WHEN f.id IS NOT NULL OR m.id IS NOT NULL THEN 'edited' ELSE 'deleted' END AS problem,
                   CASE WHEN m.id IS NOT NULL THEN 'its commit_id is ' || m.commit_id || ' now'
                        WHEN f.id IS NULL THEN 'the row is missing'
                        WHEN l.id IS NULL THEN concat_ws(' ', 'the row was not there:', f.command_tag, f.object_identity)
                        ELSE concat_ws(' ', 'the row is not as it was:', f.command_tag, f.object_identity) END AS detail
              FROM unnest(s.row_ids, s.row_hashes) l(id, hash)
              FULL JOIN (SELECT c.id, c.command_tag, c.object_identity, pggit.row_hash(c) AS hash
                           FROM pggit.changes c WHERE c.commit_id = s.commit_id) f ON f.id = l.id
              LEFT JOIN pggit.changes m ON f.id IS NULL AND m.id = l.id
             WHERE f.hash IS DISTINCT FROM l.hash
          ) d
        WINDOW w AS (PARTITION BY d.problem), w_ordered AS (PARTITION BY d.problem ORDER BY d.id)
      ) r
     WHERE s.seq > verify_seals.after AND s.seq <= verify_seals.upto AND (r.n = 1 OR NOT r.all_gone)
$$;

-- What is wrong beyond the single seals: commits that must have been sealed and were not, and the end of the chain.
CREATE FUNCTION pggit.verify_end() RETURNS TABLE (problem text, seq bigint, commit_id uuid, row_id uuid, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH state AS MATERIALIZED (SELECT * FROM pggit.seal_state),
    head AS MATERIALIZED (SELECT s.seq, s.commit_id, s.hash FROM pggit.seals s ORDER BY s.seq DESC LIMIT 1),
    whole AS MATERIALIZED (
        SELECT coalesce((SELECT h.seq FROM head h), 0) >= coalesce((SELECT t.head_seq FROM state t), 0)
               AND (SELECT count(*) FROM pggit.seals) = coalesce((SELECT h.seq FROM head h), 0) AS yes
    )
    SELECT 'deleted', h.seq + 1, NULL::uuid, NULL::uuid,
           CASE WHEN t.head_seq = h.seq + 1 THEN 'the last seal is missing'
                ELSE 'the last seals are missing, up to number ' || t.head_seq END
      FROM state t, (SELECT coalesce((SELECT h.seq FROM head h), 0) AS seq) h WHERE t.head_seq > h.seq
    UNION ALL
    SELECT 'inserted', h.seq, h.commit_id, NULL, 'the chain ended before this seal, at number ' || t.head_seq
      FROM state t, head h WHERE t.head_seq < h.seq
    UNION ALL
    SELECT 'edited', h.seq, h.commit_id, NULL, 'the chain ended in another seal than this'
      FROM state t, head h WHERE t.head_seq = h.seq AND t.head_hash <> h.hash
    UNION ALL
    SELECT 'deleted', NULL, NULL, NULL, 'the row of pggit.seal_state is missing' WHERE NOT EXISTS (SELECT FROM state)
    UNION ALL
    SELECT CASE WHEN k.orphaned THEN 'deleted' WHEN w.yes THEN 'inserted' ELSE 'not sealed' END, NULL, c.commit_id,
           CASE WHEN count(*) = 1 AND NOT k.orphaned THEN min(c.id::text)::uuid END,
           CASE WHEN k.orphaned THEN 'the commit''s seal is missing'
                WHEN w.yes THEN 'the commit is older than the last seal and was not there then'
                ELSE 'the commit has no seal: it is one of the missing ones, or was inserted' END
           || ': ' || (array_agg(concat_ws(' ', c.command_tag, c.object_identity) ORDER BY c.created_at, c.ordinal))[1]
           || CASE WHEN count(*) > 1 THEN ', ' || count(*) || ' rows' ELSE '' END
      FROM state t, whole w, pggit.changes c
     CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM pggit.seals q WHERE q.parent = c.commit_id) AS orphaned) k
     WHERE t.place = pggit.place() AND pg_visible_in_snapshot(c.xid, t.seen)
       AND NOT EXISTS (SELECT FROM pggit.seals s WHERE s.commit_id = c.commit_id)
     GROUP BY w.yes, k.orphaned, c.commit_id
$$;

-- Every problem of the whole history; no row if there is none. `expect` is a hash that ended the chain once: the chain must
-- still go through it.
CREATE FUNCTION pggit.verify(expect text DEFAULT NULL)
RETURNS TABLE (problem text, seq bigint, commit_id uuid, row_id uuid, detail text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM pggit.verify_seals(0, (SELECT max(s.seq) FROM pggit.seals s))
    UNION ALL
    SELECT * FROM pggit.verify_end()
    UNION ALL
    SELECT 'rewritten', NULL, NULL, NULL, 'no seal has the hash ' || expect
     WHERE expect <> '' AND NOT EXISTS (SELECT FROM pggit.seals s WHERE encode(s.hash, 'hex') = lower(expect))
$$;

---------------------------------------------------------------------------------------------------------------------------
-- For readers
---------------------------------------------------------------------------------------------------------------------------

CREATE VIEW pggit.commits AS
SELECT s.commit_id AS id, s.branch, s.parent, s.author, s.message, s.created_at, s.application_name, s.xid, s.changes,
       s.seq, s.sealed_at, pg_catalog.encode(s.hash, 'hex') AS hash
  FROM pggit.seals s
UNION ALL
SELECT u.commit_id, d.branch, NULL, d.author, d.message, d.created_at, d.application_name, d.xid, d.changes, NULL, NULL, NULL
  FROM (SELECT DISTINCT c.commit_id FROM pggit.changes c
         WHERE NOT EXISTS (SELECT FROM pggit.seals s WHERE s.commit_id = c.commit_id)) u
 CROSS JOIN LATERAL pggit.describe_commits(ARRAY[u.commit_id]) d;
COMMENT ON VIEW pggit.commits IS
    'The transactions that changed something. parent, seq, sealed_at and hash are there once a commit is sealed, some seconds later.';

-- The newest commits, newest first; of one branch, or of all.
CREATE FUNCTION pggit.log(branch text DEFAULT NULL, max_commits integer DEFAULT 20)
RETURNS TABLE (commit_id uuid, commit_branch text, author text, created_at timestamptz, message text, changes bigint,
               severity text, objects text[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH newest AS MATERIALIZED (
        SELECT k.* FROM pggit.commits k WHERE log.branch IS NULL OR k.branch = log.branch
         ORDER BY k.created_at DESC, k.seq DESC NULLS FIRST LIMIT greatest(coalesce(max_commits, 20), 0)
    )
    SELECT n.id, n.branch, n.author, n.created_at, n.message, count(*),
           -- MAJOR, MINOR, PATCH sort by weight.
           min(h.change_severity),
           array_agg(h.change_type || ' ' || h.object_type || coalesce(' ' || h.object_identity, '') ORDER BY h.created_at, h.ordinal)
      FROM newest n CROSS JOIN LATERAL (SELECT * FROM pggit.history v WHERE v.commit_id = n.id OFFSET 0) h
     GROUP BY n.id, n.branch, n.author, n.created_at, n.message, n.seq ORDER BY n.created_at DESC, n.seq DESC NULLS FIRST
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pggit FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        REVOKE ALL ON FUNCTION pggit.seal(integer), pggit.put_right(uuid[]), pggit.tool_messages(uuid[], xid8[]) FROM pggit_reader;
    END IF;
END
$$;
