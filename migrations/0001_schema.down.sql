-- The schema stays: the migration runner's own table lives in it. The role stays: other databases of the server may use it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        ALTER DEFAULT PRIVILEGES IN SCHEMA pggit REVOKE SELECT ON TABLES FROM pggit_reader;
        ALTER DEFAULT PRIVILEGES IN SCHEMA pggit REVOKE EXECUTE ON FUNCTIONS FROM pggit_reader;
        REVOKE SELECT ON ALL TABLES IN SCHEMA pggit FROM pggit_reader;
        REVOKE USAGE ON SCHEMA pggit FROM pggit_reader;
    END IF;
END
$$;
