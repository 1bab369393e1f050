//! What `SHOW BRANCHES` tells of each branch besides its row: where it was made, how far it has gone since, its size.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::history::connect::{RecorderError, bounded};

/// Facts of one branch; `None` where they are not known now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BranchFacts {
    /// The parent's newest commit when the branch was made.
    pub fork_commit: Option<Uuid>,
    /// Commits on the branch since then.
    pub ahead: Option<i64>,
    /// Commits on the parent since then.
    pub behind: Option<i64>,
    /// Bytes.
    pub size: Option<i64>,
    /// Sessions in its database, whichever way they came, without the recorder's.
    pub sessions: Option<i64>,
    /// When its last change was made.
    pub changed_at: Option<DateTime<Utc>>,
    /// When it is dropped.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What a branch's history ends with, as the last look at the branch found it.
#[derive(Default)]
pub(in crate::history) struct SeenTip(Mutex<Option<Ending>>);

#[derive(Debug, Clone, Copy, sqlx::FromRow)]
struct Ending {
    commits: i64,
    changed_at: Option<DateTime<Utc>>,
}

impl SeenTip {
    /// Looks, on a connection to the branch.
    pub async fn look(&self, connection: &mut PgConnection) -> Result<(), RecorderError> {
        let ending = sqlx::query_as("SELECT commits, changed_at FROM pggit.tip()").fetch_one(connection);
        let seen = match bounded(ending).await {
            Ok(ending) => Some(ending),
            Err(error) if error.leaves_connection() => None,
            Err(error) => return Err(error),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        Ok(())
    }

    fn get(&self) -> Option<Ending> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A row of the main database's.
#[derive(sqlx::FromRow)]
pub(in crate::history) struct Row {
    name: String,
    parent: Option<String>,
    fork_commit: Option<Uuid>,
    fork_commits: Option<i64>,
    size: Option<i64>,
    sessions: Option<i64>,
    expires_at: Option<DateTime<Utc>>,
}

/// One question for all branches, to the main database.
pub(in crate::history) async fn read(main: &mut PgConnection) -> Result<Vec<Row>, RecorderError> {
    let rows = sqlx::query_as(
        "SELECT b.name, b.parent, b.fork_commit, b.fork_commits, b.expires_at, \
                CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) END AS size, \
                CASE WHEN d.oid IS NOT NULL THEN coalesce(s.sessions, 0) END AS sessions \
         FROM pggit.branches b LEFT JOIN pg_database d ON d.datname = b.database \
         LEFT JOIN (SELECT a.datid, count(*) AS sessions FROM pg_stat_activity a \
                    WHERE a.backend_type = 'client backend' AND NOT (a.usename = current_user AND a.application_name = $1) \
                    GROUP BY a.datid) s ON s.datid = d.oid \
         WHERE b.status = 'active'",
    );
    bounded(rows.bind(crate::history::APPLICATION_NAME).fetch_all(main)).await
}

/// Puts together what was read and what was seen.
pub(in crate::history) fn together<'a>(
    rows: Vec<Row>,
    seen: impl Iterator<Item = (&'a str, &'a SeenTip)>,
) -> HashMap<String, BranchFacts> {
    let seen: HashMap<&str, Ending> = seen.filter_map(|(name, tip)| Some((name, tip.get()?))).collect();
    let mut all: HashMap<String, BranchFacts> = seen
        .iter()
        .map(|(name, ending)| {
            ((*name).to_owned(), BranchFacts { changed_at: ending.changed_at, ..BranchFacts::default() })
        })
        .collect();
    for row in rows {
        // A history that was cut back has fewer; that is no distance.
        let since = |name: &str| Some((seen.get(name)?.commits - row.fork_commits?).max(0));
        let facts = all.entry(row.name.clone()).or_default();
        facts.fork_commit = row.fork_commit;
        facts.ahead = since(&row.name);
        facts.behind = row.parent.as_deref().and_then(since);
        facts.size = row.size;
        facts.sessions = row.sessions;
        facts.expires_at = row.expires_at;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_from_the_fork() {
        let tip = |commits| SeenTip(Mutex::new(Some(Ending { commits, changed_at: None })));
        let (main, branch) = (tip(10), tip(8));
        let row = Row {
            name: "b".into(),
            parent: Some("main".into()),
            fork_commit: None,
            fork_commits: Some(7),
            size: Some(1),
            sessions: Some(0),
            expires_at: None,
        };
        let all = together(vec![row], [("main", &main), ("b", &branch)].into_iter());
        let facts = all.get("b").map(|facts| (facts.ahead, facts.behind));
        assert_eq!(facts, Some((Some(1), Some(3))));
        assert_eq!(all.get("main").map(|facts| facts.ahead), Some(None));
    }
}
