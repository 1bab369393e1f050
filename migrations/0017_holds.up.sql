-- Branches whose clients are held while their database is copied (WITH DATA), and what each proxy says of its sessions there.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

-- A row counts for as long as the server process lives that maker_pid and maker_start tell: it is the one that copies. What is left of
-- a lost one, and of what was said to it, goes when the next begins.
CREATE TABLE pggit.holds (
    id          uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    database    text NOT NULL UNIQUE,
    branch      text NOT NULL,
    stage       text NOT NULL DEFAULT 'asking' CHECK (stage IN ('asking', 'copying')),
    maker       text NOT NULL,
    maker_pid   integer NOT NULL,
    maker_start timestamptz NOT NULL,
    since       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE pggit.holds IS 'Branches that are just copied with their data: every proxy holds its clients on them';
COMMENT ON COLUMN pggit.holds.stage IS
    '''asking'': sessions come to rest and say whether they could leave; ''copying'': those that could have left until the row is gone';

-- One row for each proxy: its sessions in that database, by the server''s process id (0: none yet, or none any more).
CREATE TABLE pggit.held_sessions (
    hold    uuid NOT NULL,
    proxy   text NOT NULL,
    pids    integer[] NOT NULL,
    states  text[] NOT NULL,
    reasons text[] NOT NULL,
    PRIMARY KEY (hold, proxy)
);
COMMENT ON TABLE pggit.held_sessions IS 'What each proxy says of its sessions on a branch that is held';
COMMENT ON COLUMN pggit.held_sessions.states IS '''ready'': it can leave and come back; ''busy'': not yet; ''stays'': it would lose something';

REVOKE ALL ON pggit.holds, pggit.held_sessions FROM PUBLIC;

CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pggit.holds
    FOR EACH STATEMENT EXECUTE FUNCTION pggit.announce();
ALTER TABLE pggit.holds ENABLE ALWAYS TRIGGER announce;
