-- Who, from where, in which transaction: column defaults of what is recorded, so that every way of recording gets them alike.
-- SQL-standard bodies are bound when they are made: a client's search_path cannot change their meaning.

-- The schema pggit is our own: what a migration does in it is no change of the user's. The rule: an object of the schema
-- pggit, or a grant, goes unrecorded only if the recorder's owner makes the change in a transaction that says so like this.
SELECT pg_catalog.set_config('pggit.migration', 'on', true);

-- The branch of this database when a session does not name one.
CREATE FUNCTION pggit.default_branch() RETURNS text LANGUAGE sql STABLE
RETURN 'main'::text;

CREATE FUNCTION pggit.current_branch() RETURNS text LANGUAGE sql STABLE
RETURN coalesce(nullif(pg_catalog.current_setting('pggit.branch', true), ''), pggit.default_branch());

-- Whether a text is a uuid as the server writes it. Not by a regular expression: that takes five times as long.
CREATE FUNCTION pggit.is_uuid(text text) RETURNS boolean LANGUAGE sql IMMUTABLE
RETURN text LIKE '________-____-____-____-____________' AND pg_catalog.translate(text, '0123456789abcdefABCDEF', '') = '----';

-- The proxy's session, or NULL for a connection that went round the proxy. Text that is no uuid counts as none.
CREATE FUNCTION pggit.current_session() RETURNS uuid LANGUAGE sql STABLE
RETURN CASE WHEN pggit.is_uuid(pg_catalog.current_setting('pggit.session', true))
            THEN pg_catalog.current_setting('pggit.session', true)::uuid END;

-- The address in `[::1]:567`, in the forms that the type inet accepts, so that an odd text gives NULL instead of an error.
CREATE FUNCTION pggit.address_in_brackets(client text) RETURNS inet
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE
        WHEN client ~* '^\[::ffff:((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\]:[0-9]{1,5}$'
            THEN substring(client, '([0-9.]+)\]')::inet
        WHEN client ~* '^\[(([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|(([0-9a-f]{1,4}:){0,5}[0-9a-f]{1,4})?::(([0-9a-f]{1,4}:){0,5}[0-9a-f]{1,4})?)(%[^\]]*)?\]:[0-9]{1,5}$'
             AND length(regexp_replace(split_part(client, ']', 1), '%.*|[^:]', '', 'g')) <= 7
            THEN substring(client, '^\[([0-9a-fA-F:]+)')::inet
    END;
END
$$;

-- The address in `1.2.3.4:567` or `[::1]:567`.
CREATE FUNCTION pggit.address_of(client text) RETURNS inet LANGUAGE sql IMMUTABLE
RETURN CASE WHEN client ~ '^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]):[0-9]{1,5}$'
            THEN pg_catalog.split_part(client, ':', 1)::inet
            ELSE pggit.address_in_brackets(client) END;

CREATE FUNCTION pggit.port_of(client text) RETURNS integer LANGUAGE sql IMMUTABLE
RETURN pg_catalog.substring(client, ':([0-9]{1,5})$')::integer;

-- The functions from here to the end are column defaults of pggit.changes, or serve them, and so are worked out for each change. What is asked
-- in every case stands in functions that the planner inlines; what is seldom needed is PL/pgSQL, which it leaves alone and which costs
-- nothing where it is not called.

-- The client of the proxy's session, as the proxy writes it: 1.2.3.4:567 or [::1]:567. What it means is worked out when the history is read.
CREATE FUNCTION pggit.current_client() RETURNS text LANGUAGE sql STABLE
RETURN CASE WHEN pg_catalog.current_setting('pggit.session', true) <> '' THEN coalesce(pg_catalog.current_setting('pggit.client', true), '') END;

-- One id for all changes of a transaction, the same in every savepoint, without remembering anything anywhere. The
-- transaction's start keeps it unique when a dump is restored into a new cluster, where transaction numbers begin again; the
-- hash comes first, so that a few characters of it tell it from others.
CREATE FUNCTION pggit.commit_of(xid xid8, started timestamptz) RETURNS uuid LANGUAGE sql STABLE
RETURN pg_catalog.encode(
    pg_catalog.int8send(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', pg_catalog.current_database(), xid, extract(epoch FROM started)), 0))
    || pg_catalog.xid8send(xid), 'hex')::uuid;

CREATE FUNCTION pggit.current_commit() RETURNS uuid LANGUAGE sql VOLATILE
RETURN pggit.commit_of(pg_catalog.pg_current_xact_id(), pg_catalog.transaction_timestamp());

-- SET ROLE's role; inside our SECURITY DEFINER functions current_user would be the recorder.
CREATE FUNCTION pggit.client_role() RETURNS text LANGUAGE sql STABLE
RETURN CASE WHEN pg_catalog.current_setting('role') = 'none' THEN SESSION_USER::text
            ELSE pg_catalog.current_setting('role') END;

-- Whether there may be a password in a text. Not by a regular expression: that takes five times as long.
CREATE FUNCTION pggit.may_have_secrets(query text) RETURNS boolean LANGUAGE sql IMMUTABLE
RETURN pg_catalog.lower(query COLLATE pg_catalog."C") LIKE ANY ('{%passw%,%secret%,%token%}');

-- Passwords in a text (user mappings, foreign servers, connection strings of subscriptions) are not kept.
CREATE FUNCTION pggit.without_secrets(query text) RETURNS text LANGUAGE sql IMMUTABLE
RETURN CASE WHEN pggit.may_have_secrets(query)
            -- First password=... inside a connection string, where quotes are doubled, then password '...' as an option.
            THEN pg_catalog.regexp_replace(pg_catalog.regexp_replace(query,
                     '(passw|secret|token)([a-z_]*\s*=\s*)([^''"\s][^''\s]*|''''([^'']|\\'''')*'''')', '\1\2...', 'gi'),
                     '(passw|secret|token)([a-z_]*"?\s*=?\s*)(E?''([^'']|'''')*''|\$(\w*)\$.*?\$\5\$)', '\1\2''...''', 'gi')
            ELSE query END;

-- The client's own text: the proxy may have put calls of pggit.companion into it, `CALL ...;` before a statement and `\n;CALL ...` behind it. Cut out
-- by their fixed words: a regular expression takes five times as long.
CREATE FUNCTION pggit.without_companions(query text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    opening CONSTANT text := 'CALL pggit.companion($pggit$';
    -- Between these two is the signature, 64 characters long.
    middle CONSTANT text := '$pggit$, ''';
    closing CONSTANT text := ''', NULL)';
    parts text[] := string_to_array(query, opening);
    -- Nothing has no parts.
    own text := coalesce(parts[1], '');
    signed integer;
    ends integer;
BEGIN
    FOR n IN 2 .. cardinality(parts) LOOP
        signed := strpos(parts[n], middle);
        ends := signed + length(middle) + 64;
        IF signed = 0 OR substr(parts[n], ends, length(closing)) <> closing THEN
            own := own || opening || parts[n];
        ELSIF strpos(left(parts[n], signed), '"phase":"before"') > 0 THEN
            own := own || substr(parts[n], ends + length(closing) + 1);
        ELSE
            own := left(own, -2) || substr(parts[n], ends + length(closing));
        END IF;
    END LOOP;
    RETURN own;
END
$$;

-- 64 Ki characters: a script of thousands of statements sent as one text is stored once for every object it makes.
CREATE FUNCTION pggit.kept_query(query text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF length(query) > 65536 THEN
        RETURN pggit.without_secrets(left(query, 65536)) || E'\n-- [pggit: cut here, ' || length(query) || ' characters in all]';
    END IF;
    RETURN pggit.without_secrets(query);
END
$$;

CREATE FUNCTION pggit.client_query() RETURNS text LANGUAGE sql VOLATILE
RETURN CASE
    WHEN pg_catalog.octet_length(pg_catalog.current_query()) > 65536 OR pggit.may_have_secrets(pg_catalog.current_query())
         OR pg_catalog.strpos(pg_catalog.current_query(), 'pggit.companion') > 0
        THEN pggit.kept_query(pggit.without_companions(pg_catalog.current_query()))
    ELSE pg_catalog.current_query()
END;

-- The message in a text that begins with a comment like /* pggit: what for */. Blank space and other comments may stand
-- before it.
CREATE FUNCTION pggit.message_in(query text) RETURNS text LANGUAGE sql IMMUTABLE
RETURN nullif(pg_catalog.btrim((pg_catalog.regexp_match(query,
    '^(?:\s|--[^\n]*(?:\n|$)|/\*(?!\s*pggit:)(?:[^*]|\*(?!/))*\*/)*/\*\s*pggit:((?:[^*]|\*(?!/))*)\*/'))[1],
    E' \t\r\n'), '');

-- What the client says its commit is for: the setting pggit.message, else the comment that its text begins with. Only texts
-- that begin with a comment are searched.
CREATE FUNCTION pggit.message_of(query text) RETURNS text LANGUAGE sql STABLE
RETURN pg_catalog.left(coalesce(
    nullif(pg_catalog.current_setting('pggit.message', true), ''),
    CASE WHEN pg_catalog.left(pg_catalog.ltrim(pg_catalog.left(query, 256), E' \t\r\n'), 2) IN ('/*', '--')
         THEN pggit.message_in(pg_catalog.left(query, 16384)) END), 4096);

CREATE FUNCTION pggit.message_here() RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN pggit.message_of(pggit.without_companions(current_query()));
END
$$;

-- The same of the text that runs. Only one that may have a message is looked at: behind a CALL of ours, too.
CREATE FUNCTION pggit.current_message() RETURNS text LANGUAGE sql VOLATILE
RETURN CASE WHEN pg_catalog.current_setting('pggit.message', true) <> ''
                 OR pg_catalog.left(pg_catalog.ltrim(pg_catalog.left(pg_catalog.current_query(), 256), E' \t\r\n'), 2) IN ('/*', '--', 'CA')
            THEN pggit.message_here() END;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pggit FROM PUBLIC;
