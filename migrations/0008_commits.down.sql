-- Takes the seals away: `migrate down` keeps them in a backup, and without them nothing proves what was there.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP FUNCTION pggit.log(text, integer);
DROP VIEW pggit.commits;
DROP FUNCTION pggit.verify(text);
DROP FUNCTION pggit.verify_end();
DROP FUNCTION pggit.verify_seals(bigint, bigint);
DROP FUNCTION pggit.seal(integer);
DROP FUNCTION pggit.put_right(uuid[]);
DROP FUNCTION pggit.tool_messages(uuid[], xid8[]);
DROP FUNCTION pggit.unsealed(integer);
DROP FUNCTION pggit.describe_commits(uuid[]);
DROP FUNCTION pggit.seal_hash(pggit.seals);
DROP FUNCTION pggit.row_hash(pggit.changes);
DROP FUNCTION pggit.place();
DROP TABLE pggit.seal_state;
DROP TABLE pggit.seals;
