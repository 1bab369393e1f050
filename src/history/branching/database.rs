//! CREATE and DROP DATABASE, and what belongs to a database and is in no dump of its schema: owner, encoding, locale,
//! settings, grants. On a connection to the main database.

use sqlx::postgres::PgConnection;

use super::error::{BranchError, unmade};
use super::sql::{literal, name, run, value_of};
use crate::history::connect::{RecorderError, bounded, sqlstate};

/// What a database is like.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Shape {
    pub version: i32,
    owner: String,
    encoding: String,
    collate: String,
    ctype: String,
    provider: Option<String>,
    locale: Option<String>,
    rules: Option<String>,
    tablespace: String,
    connections: i32,
}

/// Of the catalog's columns some are there since 15, 16 or 17; `daticulocale` is `datlocale` since 17.
const SHAPE: &str = "SELECT current_setting('server_version_num')::int AS version, pg_get_userbyid(d.datdba)::text AS owner, \
     pg_encoding_to_char(d.encoding)::text AS encoding, d.datcollate::text AS collate, d.datctype::text AS ctype, \
     to_jsonb(d) ->> 'datlocprovider' AS provider, \
     coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale, \
     to_jsonb(d) ->> 'daticurules' AS rules, t.spcname::text AS tablespace, d.datconnlimit AS connections \
     FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = $1";

pub(super) async fn shape(main: &mut PgConnection, database: &str) -> Result<Shape, BranchError> {
    let found = sqlx::query_as(SHAPE).bind(database).fetch_optional(main);
    let gone = || RecorderError::Unreachable {
        database: database.to_owned(),
        place: "this server".to_owned(),
        reason: "there is no such database".to_owned(),
    };
    Ok(bounded(found).await?.ok_or_else(gone)?)
}

impl Shape {
    /// The default one is not named: one may be in it without a right on it.
    fn in_tablespace(&self) -> String {
        if self.tablespace == "pg_default" { String::new() } else { format!(" TABLESPACE {}", name(&self.tablespace)) }
    }
}

/// An empty database of that shape, the recorder's own.
pub(super) async fn create_empty(main: &mut PgConnection, database: &str, like: &Shape) -> Result<(), BranchError> {
    let mut sql = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING{} LC_COLLATE{} LC_CTYPE{}{}",
        name(database),
        literal(&like.encoding),
        literal(&like.collate),
        literal(&like.ctype),
        like.in_tablespace(),
    );
    let provider = like.provider.as_deref().unwrap_or("c");
    let locale = like.locale.as_deref().map(literal).unwrap_or_default();
    match provider {
        "i" => sql += &format!(" LOCALE_PROVIDER icu ICU_LOCALE{locale}"),
        "b" => sql += &format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE{locale}"),
        _ if like.version >= 150_000 => sql += " LOCALE_PROVIDER libc",
        _ => {}
    }
    if let Some(rules) = &like.rules {
        sql += &format!(" ICU_RULES{}", literal(rules));
    }
    create(main, database, &sql).await
}

/// How the server copies a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    /// Page by page through the log: by far the faster one without data.
    Log,
    /// File by file.
    Files,
}

/// A copy of a template, with the owner of the database that it stands for.
pub(super) async fn create_from(
    main: &mut PgConnection,
    database: &str,
    template: &str,
    like: &Shape,
    strategy: Strategy,
) -> Result<(), BranchError> {
    let mut sql = format!(
        "CREATE DATABASE {} TEMPLATE {} OWNER {}{}",
        name(database),
        name(template),
        name(&like.owner),
        like.in_tablespace()
    );
    if like.connections >= 0 {
        sql += &format!(" CONNECTION LIMIT {}", like.connections);
    }
    if like.version >= 150_000 {
        sql += match strategy {
            Strategy::Log => " STRATEGY wal_log",
            Strategy::Files => " STRATEGY file_copy",
        };
    }
    create(main, database, &sql).await
}

async fn create(main: &mut PgConnection, database: &str, sql: &str) -> Result<(), BranchError> {
    match run(main, sql).await {
        Err(error) if sqlstate(&error) == Some("42P04") => Err(BranchError::DatabaseTaken(database.to_owned())),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(()),
    }
}

/// What a DROP DATABASE does with sessions that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sessions {
    /// It fails after five seconds.
    Wait,
    /// It ends them.
    End,
}

pub(super) async fn drop(main: &mut PgConnection, database: &str, sessions: Sessions) -> Result<(), sqlx::Error> {
    let force = match sessions {
        Sessions::Wait => "",
        Sessions::End => " WITH (FORCE)",
    };
    run(main, &format!("DROP DATABASE IF EXISTS {}{force}", name(database))).await
}

/// Nobody gets in, and so nothing changes it.
pub(super) async fn close_to_all(main: &mut PgConnection, database: &str) -> Result<(), sqlx::Error> {
    run(main, &format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false", name(database))).await
}

/// Grants on one database as statements for another one, in their order. Those that somebody other than the owner gave are
/// given by the owner.
const GRANTS: &str = "SELECT 0 AS n, format('REVOKE ALL ON DATABASE %I FROM PUBLIC, %I', $2, pg_get_userbyid(d.datdba)) \
         FROM pg_database d WHERE d.datname = $1 AND d.datacl IS NOT NULL \
     UNION ALL \
     SELECT 1, format('GRANT %s ON DATABASE %I TO %s', a.privilege_type, $2, \
                      CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) \
               || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END \
         FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = $1 \
     ORDER BY 1, 2";

/// Gives a database the settings and grants that another one has.
pub(super) async fn carry_over(main: &mut PgConnection, from: &str, to: &str) -> Result<(), BranchError> {
    let settings = sqlx::query_as::<_, (Option<String>, String)>(
        "SELECT r.rolname::text, s.setting FROM pg_db_role_setting k \
         CROSS JOIN unnest(k.setconfig) WITH ORDINALITY s(setting, n) \
         LEFT JOIN pg_roles r ON r.oid = k.setrole \
         WHERE k.setdatabase = (SELECT d.oid FROM pg_database d WHERE d.datname = $1) ORDER BY 1, s.n",
    );
    let settings = bounded(settings.bind(from).fetch_all(&mut *main)).await?;
    let grants = bounded(sqlx::query_as::<_, (i32, String)>(GRANTS).bind(from).bind(to).fetch_all(&mut *main)).await?;
    for (role, setting) in settings {
        let Some((key, value)) = setting.split_once('=') else { continue };
        let whose = match &role {
            Some(role) => format!("ROLE {} IN DATABASE {}", name(role), name(to)),
            None => format!("DATABASE {}", name(to)),
        };
        // A setting of an extension has a dot in its name, of which both sides are names.
        let quoted: Vec<String> = key.split('.').map(name).collect();
        let sql = format!("ALTER {whose} SET {} TO{}", quoted.join("."), value_of(key, value));
        run(main, &sql).await.map_err(|error| unmade(from, &format!("setting {key}"), &error))?;
    }
    for (_, grant) in grants {
        run(main, &grant).await.map_err(|error| unmade(from, &grant, &error))?;
    }
    Ok(())
}
