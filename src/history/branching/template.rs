//! Templates: a database with the schema and the history of a branch at a commit, without its data, closed to everybody.
//!
//! One is made by pg_dump, in a snapshot that also the history is read in, and kept. Making a branch from it takes a fraction of a
//! second, and touches the parent no more.

use futures::TryStreamExt as _;
use sqlx::postgres::PgConnection;
use sqlx::postgres::types::Oid;
use uuid::Uuid;

use super::database::{self, Sessions, Shape};
use super::error::{BranchError, unmade};
use super::rows::{Lock, Tip};
use super::script::{Entry, entries};
use super::sql::{connect, run};
use super::{Source, Stage, Told, dump, templates};
use crate::branch::template_of;
use crate::history::connect::{Server, bounded, sqlstate};
use crate::history::recorder::{close, instance};

/// How often a parent is read that changes while it is read.
const TRIES: usize = 3;

/// The server keeps locks for at least 6,400 objects by default, and an entry needs a handful.
const ENTRIES_AT_ONCE: usize = 100;

/// Texts that are sent together.
const BYTES_AT_ONCE: usize = 1 << 20;

/// Tables of the schema pggit whose rows travel along. What is about the server, the proxies or the main database stays there.
const TRAVELLING: [&str; 4] = ["migrations", "changes", "seals", "seal_state"];

/// What objects are called, whose past is to be found under the oids of the copy, too; and the oids they had in still older
/// databases.
const NAMED: &str = "SELECT i.type, i.identity, r.class, w.was FROM pggit.recordable_objects() r \
     CROSS JOIN LATERAL pg_identify_object(r.class, r.obj, 0) i \
     CROSS JOIN LATERAL (SELECT r.obj UNION SELECT g.was FROM pggit.origins g \
                         WHERE g.classid = r.class AND g.objid = r.obj) w(was) \
     WHERE i.identity IS NOT NULL";

/// The objects of the same names here.
const ORIGINS: &str = "INSERT INTO pggit.origins (classid, objid, was) SELECT DISTINCT r.class, r.obj, p.was \
     FROM pggit.recordable_objects() r CROSS JOIN LATERAL pg_identify_object(r.class, r.obj, 0) i \
     JOIN unnest($1::text[], $2::text[], $3::oid[], $4::oid[]) p(type, identity, class, was) \
       ON p.type = i.type AND p.identity = i.identity AND p.class = r.class \
     WHERE p.was <> r.obj";

/// Objects that came from older databases and are not there any more: their end has another oid than their past.
const GONE: &str = "SELECT g.classid, g.objid, g.was FROM pggit.origins g \
     WHERE NOT EXISTS (SELECT FROM pggit.recordable_objects() r WHERE r.class = g.classid AND r.obj = g.objid)";

/// The same here.
const ORIGINS_GONE: &str = "INSERT INTO pggit.origins (classid, objid, was) \
     SELECT * FROM unnest($1::oid[], $2::oid[], $3::oid[]) ON CONFLICT DO NOTHING";

/// The columns of tables that have dropped ones, here or in older databases, by name: dropped ones are not made anew.
const COLUMNS: &str = "SELECT c.oid::regclass::text, a.attname::text, w.was, w.attnum FROM pg_class c \
     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
     CROSS JOIN LATERAL (SELECT c.oid, a.attnum \
        UNION SELECT o.was, o.was_attnum FROM pggit.origin_columns o WHERE o.objid = c.oid AND o.attnum = a.attnum \
        UNION SELECT g.was, a.attnum FROM pggit.origins g WHERE g.classid = 'pg_class'::regclass AND g.objid = c.oid \
              AND NOT EXISTS (SELECT FROM pggit.origin_columns o WHERE o.was = g.was)) w(was, attnum) \
     WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'f') \
       AND (EXISTS (SELECT FROM pg_attribute d WHERE d.attrelid = c.oid AND d.attisdropped) \
            OR EXISTS (SELECT FROM pggit.origin_columns o WHERE o.objid = c.oid))";

/// Their numbers here.
const ORIGIN_COLUMNS: &str = "INSERT INTO pggit.origin_columns (objid, attnum, was, was_attnum) \
     SELECT a.attrelid, a.attnum, p.was, p.attnum \
     FROM unnest($1::text[], $2::text[], $3::oid[], $4::int2[]) p(relation, name, was, attnum) \
     JOIN pg_attribute a ON a.attrelid = to_regclass(p.relation) AND a.attname = p.name AND NOT a.attisdropped";

/// Objects are other ones in a copy: whoever knew the parent's key must not be believed there.
pub(super) const NEW_KEY: &str = "INSERT INTO pggit.companion_key (key) SELECT \
     sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) \
     || sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))";

/// A template, and what its history ends with. It stays as long as the connection that has its lock.
pub(super) struct Template {
    pub database: String,
    pub tip: Tip,
}

/// The template of the parent as it is now; made, if there is none.
pub(super) async fn newest(
    server: &Server,
    main: &mut PgConnection,
    parent: &Source<'_>,
    told: &Told<'_>,
) -> Result<Template, BranchError> {
    for _ in 0..TRIES {
        let mut snapshot = Snapshot::take(server, parent.database).await?;
        let database = template_of(&server.main, parent.database, &snapshot.state);
        if let Some(tip) = used(main, &database).await? {
            close(snapshot.connection).await;
            return Ok(Template { database, tip });
        }
        let lock = Lock::Template(&database);
        lock.take(main).await?;
        // Another proxy may have made it while we waited.
        if templates::using(main, &database).await?.is_none() {
            told(Stage::Template);
            make(server, main, parent, &mut snapshot, &database).await?;
        }
        let same = Snapshot::take(server, parent.database).await?.is_like(&snapshot);
        close(snapshot.connection).await;
        if !same {
            // pg_dump prints some definitions as they are now, not as the snapshot has them.
            discard(main, &database).await;
            lock.give_back(main).await?;
            continue;
        }
        lock.share(main).await?;
        lock.give_back(main).await?;
        return Ok(Template { database, tip: snapshot.tip });
    }
    Err(BranchError::Restless(parent.name.to_owned()))
}

/// The template of the parent at a commit, where one is kept.
pub(super) async fn at(main: &mut PgConnection, parent: &Source<'_>, commit: Uuid) -> Result<Template, BranchError> {
    if let Some(database) = templates::at(main, parent.database, commit).await?
        && let Some(tip) = used(main, &database).await?
    {
        return Ok(Template { database, tip });
    }
    Err(BranchError::NoTemplate { parent: parent.name.to_owned(), commit: commit.to_string() })
}

/// The newest commit of a database.
pub(super) async fn tip(server: &Server, database: &str) -> Result<Tip, BranchError> {
    let snapshot = Snapshot::take(server, database).await?;
    close(snapshot.connection).await;
    Ok(snapshot.tip)
}

/// The template's end, where it is there and ready; then nobody drops it before we are done.
async fn used(main: &mut PgConnection, database: &str) -> Result<Option<Tip>, BranchError> {
    let lock = Lock::Template(database);
    lock.share(main).await?;
    let found = templates::using(main, database).await?;
    if found.is_none() {
        lock.unshare(main).await?;
    }
    Ok(found)
}

/// The parent in one snapshot, which others may use while the connection is there.
struct Snapshot {
    connection: PgConnection,
    id: String,
    /// What the schema and the history are, as a mark.
    state: String,
    tip: Tip,
}

impl Snapshot {
    async fn take(server: &Server, database: &str) -> Result<Self, BranchError> {
        let mut connection = connect(server, database).await?;
        run(&mut connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let tip = sqlx::query_as("SELECT commit_id, commits FROM pggit.tip()");
        let tip: Tip = bounded(tip.fetch_one(&mut connection)).await?;
        let state = sqlx::query_as("SELECT pg_export_snapshot(), pggit.schema_state()");
        let (id, state): (String, String) = bounded(state.fetch_one(&mut connection)).await?;
        let state = format!("{state} {:?} {}", tip.commit_id, tip.commits);
        Ok(Self { connection, id, state, tip })
    }

    fn is_like(&self, other: &Self) -> bool {
        self.state == other.state
    }
}

/// Makes the template; whoever calls has its lock. What cannot be made whole is taken away again.
async fn make(
    server: &Server,
    main: &mut PgConnection,
    parent: &Source<'_>,
    snapshot: &mut Snapshot,
    database: &str,
) -> Result<(), BranchError> {
    templates::begin(main, (database, parent.database), snapshot.tip, &instance()).await?;
    let made = async {
        let shape = database::shape(main, parent.database).await?;
        database::drop(main, database, Sessions::End).await?;
        database::create_empty(main, database, &shape).await?;
        fill(server, parent, snapshot, database, &shape).await?;
        database::close_to_all(main, database).await?;
        templates::finish(main, database).await?;
        Ok(())
    };
    let made = made.await;
    if made.is_err() {
        discard(main, database).await;
    }
    made
}

/// Takes a template away, as far as that is possible; the sweep does the rest.
async fn discard(main: &mut PgConnection, database: &str) {
    match database::drop(main, database, Sessions::End).await {
        Ok(()) => {
            let _ = templates::forget(main, database).await;
        }
        Err(error) => tracing::warn!(database, %error, "a template is left to the sweep"),
    }
}

async fn fill(
    server: &Server,
    parent: &Source<'_>,
    snapshot: &mut Snapshot,
    database: &str,
    shape: &Shape,
) -> Result<(), BranchError> {
    let script = dump::schema(server, parent.database, &snapshot.id, shape.version).await?;
    let (settings, entries) = entries(&script);
    let (last, entries): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(Entry::is_event_trigger);
    let mut target = connect(server, database).await?;
    // If the machine fails now, the sweep takes it away: nothing has to be on the disk.
    run(&mut target, "SET synchronous_commit = off").await?;
    set(&mut target, parent, &settings).await?;
    if !has_schema_public(&mut snapshot.connection).await? {
        run(&mut target, "DROP SCHEMA public").await?;
    }
    restore(&mut target, parent, &entries).await?;
    populate(&mut snapshot.connection, &mut target).await?;
    let rows = copy_history(&mut snapshot.connection, &mut target).await?;
    note_origins(&mut snapshot.connection, &mut target).await?;
    run(&mut target, NEW_KEY).await?;
    // From here on whatever is made is recorded.
    restore(&mut target, parent, &last).await?;
    let kept = bounded(sqlx::query_scalar::<_, i64>(COUNT).fetch_one(&mut target)).await?;
    close(target).await;
    if kept != rows {
        return Err(BranchError::Restore {
            parent: parent.database.to_owned(),
            reason: format!("its history has {rows} rows, and that of the copy {kept}"),
            entry: "pggit.changes".to_owned(),
            sqlstate: None,
        });
    }
    Ok(())
}

const COUNT: &str = "SELECT count(*) FROM pggit.changes";

/// The settings of a newer pg_dump may be unknown to the server.
async fn set(target: &mut PgConnection, parent: &Source<'_>, settings: &str) -> Result<(), BranchError> {
    let pieces = crate::sql::split(settings.as_bytes());
    for sql in pieces.into_iter().filter_map(|range| settings.get(range)) {
        match run(target, sql).await {
            Err(error) if sqlstate(&error) == Some("42704") => {}
            Err(error) => return Err(unmade(parent.database, sql.trim(), &error)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Runs entries in their order, many in one message, which is one transaction.
async fn restore(target: &mut PgConnection, parent: &Source<'_>, entries: &[Entry]) -> Result<(), BranchError> {
    let mut rest = entries;
    while !rest.is_empty() {
        let mut sql = String::new();
        let mut count = 0;
        for entry in rest.iter().take(ENTRIES_AT_ONCE) {
            if count > 0 && sql.len() + entry.sql.len() > BYTES_AT_ONCE {
                break;
            }
            sql.push_str(&entry.sql);
            count += 1;
        }
        let (batch, more) = rest.split_at(count);
        rest = more;
        if run(target, &sql).await.is_err() {
            // Nothing of it was done. One by one, to say which it is.
            for entry in batch {
                run(target, &entry.sql).await.map_err(|error| unmade(parent.database, &entry.name, &error))?;
            }
        }
    }
    Ok(())
}

/// Materialized views that can be read in the parent can be read in the copy: over empty tables. One that another one reads is
/// older than it, or was made anew since; a second round finds those.
async fn populate(parent: &mut PgConnection, target: &mut PgConnection) -> Result<(), BranchError> {
    let views = sqlx::query_scalar::<_, String>(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid",
    );
    let mut views = bounded(views.fetch_all(parent)).await?;
    loop {
        let before = views.len();
        let mut failed = Vec::new();
        for view in views {
            if run(target, &format!("REFRESH MATERIALIZED VIEW {view}")).await.is_err() {
                failed.push(view);
            }
        }
        if failed.len() == before || failed.is_empty() {
            for view in &failed {
                tracing::warn!(
                    view,
                    "a materialized view has no rows in a template: its query fails over empty tables"
                );
            }
            return Ok(());
        }
        views = failed;
    }
}

/// Copies the history as the snapshot has it; says how many changes there are.
async fn copy_history(parent: &mut PgConnection, target: &mut PgConnection) -> Result<i64, BranchError> {
    for table in TRAVELLING {
        let out = format!("COPY pggit.{table} TO STDOUT (FORMAT binary)");
        let into = format!("COPY pggit.{table} FROM STDIN (FORMAT binary)");
        let mut rows = parent.copy_out_raw(&out).await?;
        let mut copy = target.copy_in_raw(&into).await?;
        while let Some(bytes) = rows.try_next().await? {
            copy.send(bytes).await?;
        }
        copy.finish().await?;
    }
    Ok(bounded(sqlx::query_scalar(COUNT).fetch_one(parent)).await?)
}

/// Objects are other ones in the copy: their past is found by the oids that they had, and their columns by number.
async fn note_origins(parent: &mut PgConnection, target: &mut PgConnection) -> Result<(), BranchError> {
    let named = sqlx::query_as::<_, (String, String, Oid, Oid)>(NAMED).fetch_all(&mut *parent).await?;
    let (mut kinds, mut names, mut classes, mut oids) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (kind, name, class, was) in named {
        kinds.push(kind);
        names.push(name);
        classes.push(class);
        oids.push(was);
    }
    sqlx::query(ORIGINS).bind(kinds).bind(names).bind(classes).bind(oids).execute(&mut *target).await?;
    let gone = sqlx::query_as::<_, (Oid, Oid, Oid)>(GONE).fetch_all(&mut *parent).await?;
    let (mut classes, mut oids, mut were) = (Vec::new(), Vec::new(), Vec::new());
    for (class, oid, was) in gone {
        classes.push(class);
        oids.push(oid);
        were.push(was);
    }
    sqlx::query(ORIGINS_GONE).bind(classes).bind(oids).bind(were).execute(&mut *target).await?;
    let columns = sqlx::query_as::<_, (String, String, Oid, i16)>(COLUMNS).fetch_all(parent).await?;
    let (mut relations, mut names, mut oids, mut numbers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (relation, name, was, number) in columns {
        relations.push(relation);
        names.push(name);
        oids.push(was);
        numbers.push(number);
    }
    let columns = sqlx::query(ORIGIN_COLUMNS).bind(relations).bind(names).bind(oids).bind(numbers);
    columns.execute(target).await?;
    Ok(())
}

async fn has_schema_public(parent: &mut PgConnection) -> Result<bool, BranchError> {
    Ok(bounded(sqlx::query_scalar("SELECT to_regnamespace('public') IS NOT NULL").fetch_one(parent)).await?)
}
