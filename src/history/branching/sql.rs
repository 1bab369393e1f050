//! Statements that take no parameters: names and texts in them are quoted here. And what every connection of ours that
//! makes or drops databases needs.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use crate::history::connect::Server;

use super::error::BranchError;

/// As an identifier.
pub(in crate::history) fn name(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// As a string constant, whatever `standard_conforming_strings` is.
pub(super) fn literal(text: &str) -> String {
    format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A connection whose statements may take as long as they need. Locks are waited for, but not for ever.
pub(super) async fn connect(server: &Server, database: &str) -> Result<PgConnection, BranchError> {
    let mut connection = server.connect(database).await?;
    run(
        &mut connection,
        "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '10min'; \
         SET client_min_messages = error",
    )
    .await?;
    Ok(connection)
}

/// Runs statements as they stand.
pub(super) async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    connection.execute(AssertSqlSafe(sql.to_owned())).await.map(drop)
}

/// A setting's value as `pg_db_role_setting` keeps it, as `ALTER … SET` takes it. Lists are kept as lists of identifiers.
pub(super) fn value_of(setting: &str, kept: &str) -> String {
    const LISTS: [&str; 6] = [
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    ];
    if !LISTS.contains(&setting.to_ascii_lowercase().as_str()) {
        return literal(kept);
    }
    let items: Vec<String> = list(kept).iter().map(|item| literal(item)).collect();
    if items.is_empty() { literal("") } else { items.join(",") }
}

/// The members of `"$user", public`.
fn list(kept: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut rest = kept.trim();
    while !rest.is_empty() {
        let item;
        (item, rest) = match rest.strip_prefix('"') {
            Some(quoted) => up_to_quote(quoted),
            None => {
                let (item, rest) = rest.split_once(',').unwrap_or((rest, ""));
                (item.trim().to_owned(), rest)
            }
        };
        items.push(item);
        rest = rest.trim_start().trim_start_matches(',').trim_start();
    }
    items
}

/// What stands before the closing quote, two quotes being one, and what behind it.
fn up_to_quote(text: &str) -> (String, &str) {
    let mut item = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('"') {
        item.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                item.push('"');
                rest = more;
            }
            None => return (item, after),
        }
    }
    (item + rest, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(name("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's \\"), " E'it''s \\\\'");
    }

    #[test]
    fn lists_are_taken_apart() {
        assert_eq!(value_of("search_path", "\"$user\", public,  \"a \"\"b, c\""), " E'$user', E'public', E'a \"b, c'");
        assert_eq!(value_of("search_path", "\"\""), " E''");
        assert_eq!(value_of("search_path", ""), " E''");
        assert_eq!(value_of("work_mem", "64MB, x"), " E'64MB, x'");
    }
}
