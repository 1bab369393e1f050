-- A schema in the shape of pgGit's own SQL, version 0.1.0: its tables, columns, types, names of functions and event triggers. What
-- the functions do is written anew, and just enough to fill the tables as that version does: the object's name is its whole
-- identity, changes are numbered from the second on, and there are neither branches nor commits.
CREATE SCHEMA pggit;
CREATE TYPE pggit.object_type AS ENUM ('SCHEMA', 'TABLE', 'COLUMN', 'INDEX', 'CONSTRAINT', 'VIEW', 'MATERIALIZED_VIEW', 'FUNCTION',
                                       'PROCEDURE', 'TRIGGER', 'TYPE', 'SEQUENCE');
CREATE TYPE pggit.change_type AS ENUM ('CREATE', 'ALTER', 'DROP', 'RENAME', 'COMMENT');
CREATE TYPE pggit.change_severity AS ENUM ('MAJOR', 'MINOR', 'PATCH');
CREATE TABLE pggit.objects (
    id serial PRIMARY KEY,
    object_type pggit.object_type NOT NULL,
    schema_name text NOT NULL,
    object_name text NOT NULL,
    full_name text GENERATED ALWAYS AS (CASE WHEN schema_name = '' THEN object_name ELSE schema_name || '.' || object_name END) STORED,
    parent_id integer REFERENCES pggit.objects (id) ON DELETE CASCADE,
    version integer NOT NULL DEFAULT 1,
    version_major integer NOT NULL DEFAULT 1,
    version_minor integer NOT NULL DEFAULT 0,
    version_patch integer NOT NULL DEFAULT 0,
    metadata jsonb DEFAULT '{}',
    is_active boolean DEFAULT true,
    created_at timestamp DEFAULT current_timestamp,
    updated_at timestamp DEFAULT current_timestamp,
    UNIQUE (object_type, schema_name, object_name)
);
CREATE TABLE pggit.history (
    id serial PRIMARY KEY,
    object_id integer NOT NULL REFERENCES pggit.objects (id) ON DELETE CASCADE,
    change_type pggit.change_type NOT NULL,
    change_severity pggit.change_severity NOT NULL,
    old_version integer,
    new_version integer,
    old_metadata jsonb,
    new_metadata jsonb,
    change_description text,
    sql_executed text,
    created_at timestamp DEFAULT current_timestamp,
    created_by text DEFAULT current_user
);
CREATE TABLE pggit.dependencies (
    id serial PRIMARY KEY,
    dependent_id integer NOT NULL REFERENCES pggit.objects (id) ON DELETE CASCADE,
    depends_on_id integer NOT NULL REFERENCES pggit.objects (id) ON DELETE CASCADE,
    dependency_type text NOT NULL DEFAULT 'generic',
    metadata jsonb DEFAULT '{}',
    created_at timestamp DEFAULT current_timestamp,
    UNIQUE (dependent_id, depends_on_id)
);
CREATE TABLE pggit.migrations (
    id serial PRIMARY KEY,
    version text NOT NULL UNIQUE,
    description text,
    up_script text NOT NULL,
    down_script text,
    checksum text,
    applied_at timestamp,
    applied_by text,
    execution_time_ms integer,
    created_at timestamp DEFAULT current_timestamp
);
CREATE INDEX idx_history_object ON pggit.history (object_id);

CREATE FUNCTION pggit.handle_ddl_command() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    c record;
    o integer;
    kind pggit.object_type;
BEGIN
    FOR c IN SELECT * FROM pg_event_trigger_ddl_commands() d WHERE d.object_type IN ('table', 'view', 'index') LOOP
        kind := upper(c.object_type)::pggit.object_type;
        INSERT INTO pggit.objects (object_type, schema_name, object_name) VALUES (kind, c.schema_name, c.object_identity)
            ON CONFLICT (object_type, schema_name, object_name) DO UPDATE SET version = pggit.objects.version + 1 RETURNING id INTO o;
        INSERT INTO pggit.history (object_id, change_type, change_severity, change_description, new_metadata)
        VALUES (o, split_part(c.command_tag, ' ', 1)::pggit.change_type, 'MINOR', c.command_tag,
                jsonb_build_object('command_tag', c.command_tag, 'object_type', c.object_type));
    END LOOP;
END
$$;
CREATE FUNCTION pggit.handle_sql_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO pggit.history (object_id, change_type, change_severity, change_description)
    SELECT o.id, 'DROP', 'MAJOR', 'Object dropped'
      FROM pg_event_trigger_dropped_objects() d JOIN pggit.objects o ON o.object_name = d.object_identity AND o.is_active
     WHERE d.object_type <> 'type';
    UPDATE pggit.objects o SET is_active = false FROM pg_event_trigger_dropped_objects() d WHERE o.object_name = d.object_identity;
END
$$;
CREATE FUNCTION pggit.get_history(p_object_name text) RETURNS SETOF pggit.history LANGUAGE sql AS
    'SELECT h.* FROM pggit.history h JOIN pggit.objects o ON o.id = h.object_id WHERE o.object_name = p_object_name';
CREATE VIEW pggit.object_summary AS SELECT object_type, full_name, version, is_active FROM pggit.objects;
CREATE EVENT TRIGGER pggit_ddl_trigger ON ddl_command_end EXECUTE FUNCTION pggit.handle_ddl_command();
CREATE EVENT TRIGGER pggit_drop_trigger ON sql_drop EXECUTE FUNCTION pggit.handle_sql_drop();
