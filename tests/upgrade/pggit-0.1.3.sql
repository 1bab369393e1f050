-- The same in the shape of version 0.1.3 (beside pggit-0.1.0.sql, which is read first): branches, commits and what belongs to
-- them, and the object's name without its schema.
CREATE TYPE pggit.branch_status AS ENUM ('ACTIVE', 'MERGED', 'DELETED', 'CONFLICTED');
CREATE TYPE pggit.merge_resolution AS ENUM ('AUTO_RESOLVED', 'MANUAL_RESOLVED', 'CONFLICT_PENDING', 'MERGE_REJECTED');
CREATE TABLE pggit.branches (
    id serial PRIMARY KEY,
    name text NOT NULL UNIQUE,
    parent_branch_id integer REFERENCES pggit.branches (id),
    head_commit_hash text,
    status pggit.branch_status DEFAULT 'ACTIVE',
    created_at timestamp DEFAULT current_timestamp,
    created_by text DEFAULT current_user,
    merged_at timestamp,
    merged_by text,
    branch_type text DEFAULT 'standard',
    total_objects integer DEFAULT 0,
    modified_objects integer DEFAULT 0,
    storage_efficiency decimal(5,2) DEFAULT 100.00,
    description text
);
CREATE TABLE pggit.commits (
    id serial PRIMARY KEY,
    hash text NOT NULL UNIQUE,
    branch_id integer NOT NULL REFERENCES pggit.branches (id),
    parent_commit_hash text,
    message text,
    author text DEFAULT current_user,
    authored_at timestamp DEFAULT current_timestamp,
    committer text DEFAULT current_user,
    committed_at timestamp DEFAULT current_timestamp,
    tree_hash text,
    object_hashes jsonb DEFAULT '{}',
    metadata jsonb DEFAULT '{}'
);
ALTER TABLE pggit.objects ADD content_hash text, ADD ddl_normalized text, ADD branch_id integer DEFAULT 1, ADD branch_name text DEFAULT 'main';
ALTER TABLE pggit.history ADD commit_hash text, ADD branch_id integer REFERENCES pggit.branches (id), ADD merge_base_hash text,
    ADD merge_resolution pggit.merge_resolution;
CREATE OR REPLACE FUNCTION pggit.handle_ddl_command() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
    c record;
    o integer;
    kind pggit.object_type;
BEGIN
    FOR c IN SELECT * FROM pg_event_trigger_ddl_commands() d WHERE d.object_type IN ('table', 'view', 'index') LOOP
        kind := upper(c.object_type)::pggit.object_type;
        INSERT INTO pggit.objects (object_type, schema_name, object_name)
        VALUES (kind, c.schema_name, (pg_identify_object_as_address(c.classid, c.objid, 0)).object_names[2])
            ON CONFLICT (object_type, schema_name, object_name) DO UPDATE SET version = pggit.objects.version + 1 RETURNING id INTO o;
        INSERT INTO pggit.history (object_id, change_type, change_severity, change_description, new_metadata, sql_executed)
        VALUES (o, split_part(c.command_tag, ' ', 1)::pggit.change_type, 'MINOR', format('%s %s', c.command_tag, c.object_identity),
                jsonb_build_object('oid', c.objid), current_query());
    END LOOP;
END
$$;
CREATE OR REPLACE FUNCTION pggit.handle_sql_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO pggit.history (object_id, change_type, change_severity, change_description, sql_executed)
    SELECT o.id, 'DROP', 'MAJOR', 'Dropped ' || o.full_name, current_query()
      FROM pg_event_trigger_dropped_objects() d
      JOIN pggit.objects o ON o.schema_name = d.schema_name AND o.object_name = d.object_name AND o.is_active
     WHERE d.object_type <> 'type';
    UPDATE pggit.objects o SET is_active = false
      FROM pg_event_trigger_dropped_objects() d WHERE o.schema_name = d.schema_name AND o.object_name = d.object_name;
END
$$;
INSERT INTO pggit.branches (name) VALUES ('main'), ('feature/x');
-- What that version's upgrades leave, under the names that we use too.
CREATE TABLE pggit.upgrade_log (upgrade_id uuid PRIMARY KEY DEFAULT gen_random_uuid(), from_version text NOT NULL, to_version text NOT NULL,
    started_at timestamp DEFAULT current_timestamp, completed_at timestamp, status text, error_message text);
INSERT INTO pggit.upgrade_log (from_version, to_version, status) VALUES ('0.1.0', '0.1.3', 'completed');
CREATE FUNCTION pggit.version() RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''0.1.3''::text';
CREATE FUNCTION pggit.health_check() RETURNS TABLE (check_name text, status text) LANGUAGE sql AS 'SELECT ''none''::text, ''ok''::text';
-- The triggers of the file before have seen all this; those of that version are made last.
TRUNCATE pggit.objects, pggit.history, pggit.dependencies;
