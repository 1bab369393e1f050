-- What the proxy itself writes: the statement log, the branches, the freezes.
-- None of it is written inside a client's transaction, so NOTIFY is allowed here.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

CREATE TABLE pggit.statements (
    id               uuid PRIMARY KEY,
    session_id       uuid NOT NULL,
    database         text NOT NULL,
    branch           text,
    command_tag      text NOT NULL,
    class            text NOT NULL,
    sql              text NOT NULL,
    verdict          text NOT NULL,
    rule             text,
    outcome          text NOT NULL,
    sqlstate         text,
    error            text,
    created_by       text NOT NULL,
    application_name text NOT NULL,
    client_addr      inet,
    client_port      integer NOT NULL,
    proxy            text NOT NULL,
    started_at       timestamptz NOT NULL,
    duration_ms      double precision NOT NULL,
    rerouted_to      text
);
COMMENT ON TABLE pggit.statements IS
    'Every DDL, role or refused statement a proxy saw, with its outcome. Written by the recorder, outside the client''s transaction.';
COMMENT ON COLUMN pggit.statements.branch IS 'NULL: the database was no branch of the repository';
COMMENT ON COLUMN pggit.statements.client_addr IS 'NULL: the client came through a unix socket';
COMMENT ON COLUMN pggit.statements.rerouted_to IS 'The branch where a rule had it run instead of this one; else NULL';
COMMENT ON COLUMN pggit.statements.proxy IS 'The proxy process that saw it: host name and process id';

CREATE INDEX statements_started_at ON pggit.statements (started_at DESC);
CREATE INDEX statements_session ON pggit.statements (session_id);

CREATE TABLE pggit.branches (
    name       text PRIMARY KEY,
    parent     text,
    database   text NOT NULL,
    status     text NOT NULL DEFAULT 'active',
    protected  boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL DEFAULT session_user,
    origin     text NOT NULL DEFAULT 'table' CHECK (origin IN ('configuration', 'table'))
);
COMMENT ON TABLE pggit.branches IS
    'The branches of the repository. Only the main database''s table counts.';
COMMENT ON COLUMN pggit.branches.origin IS
    '''configuration'': some proxy declares it in its file, and only those proxies serve it; ''table'': every proxy does';

CREATE TABLE pggit.freezes (
    id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    branch    text NOT NULL,
    frozen_by text NOT NULL,
    frozen_at timestamptz NOT NULL DEFAULT now(),
    lifted_by text,
    lifted_at timestamptz,
    CHECK ((lifted_by IS NULL) = (lifted_at IS NULL))
);
COMMENT ON TABLE pggit.freezes IS 'Who refused DDL on a branch and who allowed it again. Rows without lifted_at are in force.';

CREATE UNIQUE INDEX freezes_in_force ON pggit.freezes (branch) WHERE lifted_at IS NULL;

CREATE FUNCTION pggit.announce() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_notify('pggit', TG_TABLE_NAME);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION pggit.announce() IS 'Tells every proxy that branches or freezes changed.';
REVOKE ALL ON FUNCTION pggit.announce() FROM PUBLIC;

CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pggit.branches
    FOR EACH STATEMENT EXECUTE FUNCTION pggit.announce();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pggit.freezes
    FOR EACH STATEMENT EXECUTE FUNCTION pggit.announce();
ALTER TABLE pggit.branches ENABLE ALWAYS TRIGGER announce;
ALTER TABLE pggit.freezes ENABLE ALWAYS TRIGGER announce;
