-- The schema, and the role that may read it. sqlx keeps its own table (pggit.migrations) here and may have made the
-- schema before this file runs.
CREATE SCHEMA IF NOT EXISTS pggit;

-- Whoever made the schema earlier must not be able to drop or replace what the recorder puts into it.
ALTER SCHEMA pggit OWNER TO CURRENT_USER;
REVOKE ALL ON SCHEMA pggit FROM PUBLIC;

-- Roles belong to the whole server: another database may have made it, perhaps at this very moment. Who may not make roles
-- goes without: then nobody but the owner reads the history, unless somebody makes the role and grants it what it needs.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        CREATE ROLE pggit_reader NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'there is no role pggit_reader, and % may not make it', CURRENT_USER;
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pggit_reader') THEN
        GRANT USAGE ON SCHEMA pggit TO pggit_reader;
        -- The migration runner's table, if it is there.
        GRANT SELECT ON ALL TABLES IN SCHEMA pggit TO pggit_reader;
        -- Readers see the tables of later migrations too; functions are closed unless a migration opens them.
        ALTER DEFAULT PRIVILEGES IN SCHEMA pggit GRANT SELECT ON TABLES TO pggit_reader;
        ALTER DEFAULT PRIVILEGES IN SCHEMA pggit GRANT EXECUTE ON FUNCTIONS TO pggit_reader;
    END IF;
END
$$;
