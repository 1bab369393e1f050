-- The log of the steps, the migration runner's own table like pggit.migrations: it outlives every step, also the first one's end.
CREATE TABLE IF NOT EXISTS pggit.upgrade_log (
    upgrade_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    from_version  bigint NOT NULL,
    to_version    bigint NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    completed_at  timestamptz,
    status        text NOT NULL DEFAULT 'in_progress' CHECK (status IN ('in_progress', 'completed', 'failed', 'rolled_back')),
    error_message text,
    program       text NOT NULL,
    run_by        text NOT NULL DEFAULT SESSION_USER,
    backup        text,
    tables        jsonb,
    returned_by   bigint,
    adopted       jsonb
);
COMMENT ON TABLE pggit.upgrade_log IS 'One row for each step of a migration, up or down, that was tried in this database';
COMMENT ON COLUMN pggit.upgrade_log.status IS
    '''failed'': its transaction was rolled back, it changed nothing; ''rolled_back'': it was done, and a later step down took it back';
COMMENT ON COLUMN pggit.upgrade_log.program IS 'The version of the program that ran it';
COMMENT ON COLUMN pggit.upgrade_log.backup IS 'The schema with the tables as they were before the step';
COMMENT ON COLUMN pggit.upgrade_log.tables IS 'What is in the backup, and what of it the step took away';
COMMENT ON COLUMN pggit.upgrade_log.returned_by IS 'The step up that brought back what this step down took away';
COMMENT ON COLUMN pggit.upgrade_log.adopted IS 'Where pgGit''s own SQL was taken over (version -1): its schema''s owner and its event triggers';
