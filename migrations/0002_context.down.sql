SELECT pg_catalog.set_config('pggit.migration', 'on', true);

DROP FUNCTION pggit.current_message();
DROP FUNCTION pggit.message_of(text);
DROP FUNCTION pggit.message_in(text);
DROP FUNCTION pggit.client_query();
DROP FUNCTION pggit.kept_query(text);
DROP FUNCTION pggit.without_companions(text);
DROP FUNCTION pggit.without_secrets(text);
DROP FUNCTION pggit.client_role();
DROP FUNCTION pggit.current_commit();
DROP FUNCTION pggit.commit_of(xid8, timestamptz);
DROP FUNCTION pggit.client_port();
DROP FUNCTION pggit.client_addr();
DROP FUNCTION pggit.address_of(text);
DROP FUNCTION pggit.current_session();
DROP FUNCTION pggit.current_branch();
DROP FUNCTION pggit.default_branch();
