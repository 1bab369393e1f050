-- Change requests: statements that a rule queued, and what became of them.
--
-- All of this runs on the recorder's own connections. pggit.change_requests is used in the main database, beside
-- pggit.statements; pggit.applied_requests in each branch's own database, where it is written together with the change.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

CREATE TABLE pggit.change_requests (
    number           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Also the key of the statement's row in pggit.statements, and of its intent.
    id               uuid NOT NULL UNIQUE,
    session_id       uuid NOT NULL,
    branch           text NOT NULL,
    database         text NOT NULL,
    -- Who asked: the session user.
    author           text NOT NULL,
    application_name text NOT NULL,
    client_addr      inet,
    client_port      integer NOT NULL,
    rule             text NOT NULL,
    command_tag      text NOT NULL,
    class            text NOT NULL,
    objects          text[] NOT NULL,
    transactional    boolean NOT NULL,
    -- What lint found, when it was asked for, or again while it was pending.
    findings         text,
    -- The text exactly as it was sent, and as others may read it.
    exact_sql        text NOT NULL,
    sql              text NOT NULL GENERATED ALWAYS AS (pggit.without_secrets(exact_sql)) STORED,
    digest           bytea NOT NULL,
    -- Settings of the session that change what the text means, as far as the server reported them.
    settings         jsonb NOT NULL,
    -- The branch's newest commit when it was asked for.
    base_commit      uuid,
    proxy            text NOT NULL,
    status           text NOT NULL DEFAULT 'pending'
                     CHECK (status IN ('pending', 'approved', 'rejected', 'applied', 'failed', 'expired')),
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    expires_at       timestamptz NOT NULL,
    -- How often the same statement was sent again since.
    repeated         integer NOT NULL DEFAULT 0,
    -- Its client waited, and runs it: the key of that statement's row in pggit.statements.
    run_id           uuid,
    decided_by       text,
    decided_at       timestamptz,
    reason           text,
    applied_by       text,
    applied_at       timestamptz,
    error            text,
    CHECK ((decided_by IS NULL) = (decided_at IS NULL))
);
COMMENT ON TABLE pggit.change_requests IS 'Statements that a rule queued: they wait for approval, and are applied by the recorder.';
COMMENT ON COLUMN pggit.change_requests.error IS 'Why it failed; or, of one that is still approved, why it could not be applied at the last try';
-- The same statement of the same author on the same branch is one request for as long as it is open.
CREATE UNIQUE INDEX change_requests_open ON pggit.change_requests (branch, database, author, digest)
    WHERE status IN ('pending', 'approved');
CREATE INDEX change_requests_run ON pggit.change_requests (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX change_requests_expiry ON pggit.change_requests (expires_at) WHERE status IN ('pending', 'approved');

-- Clients wait for decisions.
CREATE TRIGGER announce AFTER UPDATE ON pggit.change_requests
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION pggit.announce();
ALTER TABLE pggit.change_requests ENABLE ALWAYS TRIGGER announce;

-- Written in the transaction that applies a request: so it cannot be applied twice, whoever tries. And by REJECT of one that was
-- approved: whoever was let through to run it a moment ago finds it closed.
CREATE TABLE pggit.applied_requests (
    id         uuid PRIMARY KEY,
    applied_by text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    xid        xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    -- Set: nobody applies it any more, and why.
    rejected   text,
    -- The main database knows of it.
    told       boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE pggit.applied_requests IS 'Change requests that were applied in this database, or closed in it.';
CREATE INDEX applied_requests_untold ON pggit.applied_requests (id) WHERE NOT told;

-- Makes a request, or finds the open one of the same statement. Run in the main database.
CREATE FUNCTION pggit.note_request(
    id uuid, session_id uuid, branch text, database text, author text, application_name text, client_addr inet, client_port integer,
    rule text, command_tag text, class text, objects text[], transactional boolean, sql text, settings jsonb, base_commit uuid,
    proxy text, expires interval, max_open bigint, findings text
) RETURNS pggit.change_requests LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    request pggit.change_requests;
    made_of bytea := sha256(convert_to(concat(sql, E'\n', settings ->> 'search_path'), 'UTF8'));
BEGIN
    -- What has expired is out of the way first: the same statement may be asked for again.
    PERFORM pggit.forget_expired();
    UPDATE pggit.change_requests r
       SET repeated = r.repeated + 1,
           findings = CASE WHEN r.status = 'pending' THEN note_request.findings ELSE r.findings END
     WHERE r.branch = note_request.branch AND r.database = note_request.database AND r.author = note_request.author
       AND r.digest = made_of AND r.status IN ('pending', 'approved')
    RETURNING r.* INTO request;
    IF request.number IS NULL THEN
        IF (SELECT count(*) FROM pggit.change_requests r WHERE r.status IN ('pending', 'approved')) >= note_request.max_open THEN
            RAISE EXCEPTION 'there are % open change requests already', note_request.max_open
                USING ERRCODE = 'configuration_limit_exceeded';
        END IF;
        INSERT INTO pggit.change_requests AS r (
            id, session_id, branch, database, author, application_name, client_addr, client_port, rule, command_tag, class, objects,
            transactional, findings, exact_sql, digest, settings, base_commit, proxy, expires_at)
        VALUES (note_request.id, note_request.session_id, note_request.branch, note_request.database, note_request.author,
                note_request.application_name, note_request.client_addr, note_request.client_port, note_request.rule,
                note_request.command_tag, note_request.class, note_request.objects, note_request.transactional, note_request.findings, note_request.sql,
                made_of, note_request.settings, note_request.base_commit, note_request.proxy, clock_timestamp() + expires)
        ON CONFLICT (branch, database, author, digest) WHERE status IN ('pending', 'approved')
        DO UPDATE SET repeated = r.repeated + 1
        RETURNING r.* INTO request;
    END IF;
    RETURN request;
END
$$;

-- Requests whose time is over; says how many. Locked ones are just being applied.
CREATE FUNCTION pggit.forget_expired() RETURNS bigint LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH over AS (
        SELECT r.number FROM pggit.change_requests r
         WHERE r.status IN ('pending', 'approved') AND r.expires_at <= clock_timestamp()
           FOR UPDATE SKIP LOCKED),
    done AS (
        UPDATE pggit.change_requests r SET status = 'expired' FROM over WHERE r.number = over.number RETURNING 1)
    SELECT count(*) FROM done
$$;

-- The client that waited for this request runs it now, and nobody else does; false where that may not be.
CREATE FUNCTION pggit.note_release(request bigint, run_id uuid) RETURNS boolean LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH done AS (
        UPDATE pggit.change_requests r SET run_id = note_release.run_id
         WHERE r.number = note_release.request AND r.status = 'approved' AND r.run_id IS NULL AND r.expires_at > clock_timestamp()
        RETURNING 1)
    SELECT count(*) > 0 FROM done
$$;

-- What came of statements that clients ran after they had waited, from the statement log.
CREATE FUNCTION pggit.note_runs(run_ids uuid[]) RETURNS void LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    UPDATE pggit.change_requests r
       SET status = CASE s.outcome WHEN 'applied' THEN 'applied' ELSE 'failed' END,
           error = CASE s.outcome WHEN 'applied' THEN NULL WHEN 'rolled_back' THEN 'it was rolled back'
                                  WHEN 'unknown' THEN 'the connection ended before the outcome was seen' ELSE s.error END,
           applied_by = r.author, applied_at = clock_timestamp()
      FROM pggit.statements s
     WHERE r.run_id = ANY (note_runs.run_ids) AND s.id = r.run_id AND r.status IN ('approved', 'expired')
$$;

-- The same of those that were approved before their authors ran them, each in a transaction with its row in
-- pggit.applied_requests: what failed or was rolled back left nothing, and may be run again. `moved`: the branch had changed since
-- it was asked for.
CREATE FUNCTION pggit.note_own_runs(requests uuid[], run_ids uuid[], moved boolean[]) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH ran AS (
        SELECT DISTINCT ON (x.request) x.request, s.id, s.outcome = 'applied' AS applied, s.started_at,
               CASE s.outcome WHEN 'rolled_back' THEN 'it was run and rolled back'
                              WHEN 'unknown' THEN 'the connection ended before the outcome was seen'
                              ELSE concat(s.error, CASE WHEN x.moved THEN '; the branch has changed since it was asked for' END)
               END AS error
          FROM unnest(requests, run_ids, note_own_runs.moved) x(request, run_id, moved)
          JOIN pggit.statements s ON s.id = x.run_id
         ORDER BY x.request, s.outcome = 'applied' DESC, s.started_at DESC)
    UPDATE pggit.change_requests r
       SET status = CASE WHEN ran.applied THEN 'applied' ELSE r.status END,
           run_id = CASE WHEN ran.applied THEN ran.id END,
           error = CASE WHEN NOT ran.applied THEN ran.error END,
           applied_by = CASE WHEN ran.applied THEN r.author END,
           applied_at = CASE WHEN ran.applied THEN clock_timestamp() END
      FROM ran
     WHERE r.id = ran.request AND (r.status = 'approved' OR ran.applied AND r.status IN ('expired', 'failed', 'applied') AND r.run_id IS NULL)
$$;

-- What pggit.applied_requests of a branch says of a request; true when that is known here. A locked one is just being settled.
CREATE FUNCTION pggit.note_applied(id uuid, applied_by text, applied_at timestamptz, rejected text) RETURNS boolean
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH open AS (
        SELECT r.number FROM pggit.change_requests r
         WHERE r.id = note_applied.id AND r.status IN ('approved', 'expired', 'failed') FOR UPDATE SKIP LOCKED),
    done AS (
        UPDATE pggit.change_requests r
           SET status = CASE WHEN note_applied.rejected IS NULL THEN 'applied' ELSE 'rejected' END, error = NULL,
               decided_by = CASE WHEN note_applied.rejected IS NULL THEN r.decided_by ELSE note_applied.applied_by END,
               reason = coalesce(note_applied.rejected, r.reason),
               applied_by = CASE WHEN note_applied.rejected IS NULL THEN note_applied.applied_by END,
               applied_at = CASE WHEN note_applied.rejected IS NULL THEN note_applied.applied_at END
          FROM open WHERE r.number = open.number
        RETURNING 1)
    SELECT EXISTS (SELECT FROM done)
        OR NOT EXISTS (SELECT FROM pggit.change_requests r
                        WHERE r.id = note_applied.id AND r.status IN ('approved', 'expired', 'failed'))
$$;

-- What the search_path of a new session of this role is in this database.
CREATE FUNCTION pggit.search_path_of(role_name text) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(
        (SELECT substr(c, length('search_path=') + 1)
           FROM pg_db_role_setting s
           CROSS JOIN unnest(s.setconfig) c
          WHERE c LIKE 'search\_path=%'
            AND s.setrole IN (0, (SELECT r.oid FROM pg_roles r WHERE r.rolname = search_path_of.role_name))
            AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
          ORDER BY s.setrole <> 0 AND s.setdatabase <> 0 DESC, s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1),
        '"$user", public')
$$;

-- The history rows of a request that this transaction applies say who asked, not who ran it. Run in the branch's database.
CREATE FUNCTION pggit.note_author(
    id uuid, author text, application_name text, sql text, message text
) RETURNS void LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    UPDATE pggit.changes c
       SET statement_id = note_author.id, created_by = note_author.author, role_name = note_author.author,
           application_name = note_author.application_name, sql_executed = pggit.kept_query(note_author.sql),
           message = note_author.message
     WHERE c.commit_id = pggit.current_commit() AND c.xid = pg_current_xact_id()
$$;

-- The author of an approved request runs it in this transaction: first of all it says so, and waits for whoever is at it, too. If the
-- client says of its commit nothing itself, the request is what it is for.
CREATE FUNCTION pggit.enter_request(id uuid, message text, own_message text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    said text;
BEGIN
    INSERT INTO pggit.applied_requests (id, applied_by) VALUES (enter_request.id, SESSION_USER) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'PG002', MESSAGE = split_part(message, ',', 1) || ' is applied already, or was rejected',
            HINT = 'Nothing was run. SHOW CHANGES on the control port tells what became of it.';
    END IF;
    IF own_message IS NULL THEN
        said := set_config('pggit.message', message, true);
        said := set_config('pggit.request', 'added', true);
    END IF;
END
$$;

-- The client's next change in this transaction has no message again.
CREATE FUNCTION pggit.leave_request() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    said text;
BEGIN
    IF current_setting('pggit.request', true) = 'added' THEN
        said := set_config('pggit.message', '', true);
        said := set_config('pggit.request', '', true);
    END IF;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pggit FROM PUBLIC;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        -- Passwords may stand in the exact text.
        REVOKE SELECT ON pggit.change_requests FROM pggit_reader;
        GRANT SELECT (number, id, session_id, branch, database, author, application_name, client_addr, client_port, rule, command_tag,
                      class, objects, transactional, findings, sql, settings, base_commit, proxy, status, created_at, expires_at, repeated,
                      run_id, decided_by, decided_at, reason, applied_by, applied_at, error) ON pggit.change_requests TO pggit_reader;
        REVOKE ALL ON FUNCTION pggit.note_author(uuid, text, text, text, text), pggit.forget_expired(), pggit.note_release(bigint, uuid), pggit.note_runs(uuid[]),
            pggit.note_own_runs(uuid[], uuid[], boolean[]), pggit.note_applied(uuid, text, timestamptz, text),
            pggit.enter_request(uuid, text, text), pggit.leave_request(),
            pggit.note_request(uuid, uuid, text, text, text, text, inet, integer, text, text, text, text[], boolean, text, jsonb, uuid,
                               text, interval, bigint, text) FROM pggit_reader;
    END IF;
END
$$;
