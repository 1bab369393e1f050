//! In what two branches differ, by what their databases hold now: definitions, comments, grants, labels.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;

use super::error::BranchError;
use super::{find, sql};
use crate::branch::Branches;
use crate::history::connect::{RecorderError, Server};
use crate::history::recorder::close;

/// One fact that is not the same on both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// PostgreSQL's word for the kind of object.
    pub object_type: String,
    /// As `pg_identify_object` prints it.
    pub object_identity: String,
    /// `definition`, `comment`, `grants` or `security label`.
    pub fact: String,
    /// On the first branch; `None` where it has none.
    pub from: Option<String>,
    /// On the second.
    pub to: Option<String>,
}

impl Difference {
    /// What happened on the way from the first to the second.
    pub fn change(&self) -> &'static str {
        match (&self.from, &self.to) {
            (None, _) => "added",
            (Some(_), None) => "removed",
            (Some(_), Some(_)) => "changed",
        }
    }
}

/// Type, identity and fact; sorted, so that what belongs together stands together.
type Facts = BTreeMap<(String, String, String), String>;

/// In what `to` differs from `from`, sorted by type and identity.
pub async fn diff(server: &Server, known: &Branches, from: &str, to: &str) -> Result<Vec<Difference>, BranchError> {
    let (from, to) = (find(known, from)?, find(known, to)?);
    let (mut from, to) = tokio::try_join!(facts(server, &from.database), facts(server, &to.database))?;
    let mut differences = Vec::new();
    for (key, value) in to {
        let old = from.remove(&key);
        if old.as_ref() != Some(&value) {
            differences.push((key, old, Some(value)));
        }
    }
    differences.extend(from.into_iter().map(|(key, value)| (key, Some(value), None)));
    differences.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(differences
        .into_iter()
        .map(|((object_type, object_identity, fact), from, to)| Difference {
            object_type,
            object_identity,
            fact,
            from,
            to,
        })
        .collect())
}

/// All facts, read as one statement sees them.
async fn facts(server: &Server, database: &str) -> Result<Facts, BranchError> {
    let mut connection = sql::connect(server, database).await?;
    let query = "SELECT object_type, object_identity, fact, value FROM pggit.facts()";
    let rows = sqlx::query_as::<_, (String, String, String, String)>(query).fetch(&mut connection);
    let facts = rows.map_ok(|(kind, identity, fact, value)| ((kind, identity, fact), value)).try_collect().await;
    close(connection).await;
    Ok(facts.map_err(RecorderError::from)?)
}

/// All facts of a branch for `pggit.facts_of()`: rows of texts, as JSON. Only for somebody who may connect there and, in one of
/// his roles, ask there.
pub async fn facts_for(server: &Server, known: &Branches, branch: &str, user: &str) -> Result<String, BranchError> {
    const MAY: &str = "SELECT has_database_privilege($1::text::name, current_database(), 'CONNECT') \
         AND EXISTS (SELECT FROM pg_roles r WHERE pg_has_role($1::text::name, r.oid, 'MEMBER') \
                        AND has_function_privilege(r.oid, 'pggit.facts()', 'EXECUTE'))";
    const FACTS: &str = "SELECT coalesce(jsonb_agg(jsonb_build_array(object_type, object_identity, fact, value)), '[]')::text \
         FROM pggit.facts()";
    let found = find(known, branch)?;
    let mut connection = sql::connect(server, &found.database).await?;
    let facts = async {
        if sqlx::query_scalar::<_, bool>(MAY).bind(user).fetch_one(&mut connection).await? {
            Ok(sqlx::query_scalar::<_, String>(FACTS).fetch_one(&mut connection).await?)
        } else {
            Err(BranchError::NoReader { branch: branch.to_owned(), user: user.to_owned() })
        }
    }
    .await;
    close(connection).await;
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_from_the_first_to_the_second() {
        let told = |from: Option<&str>, to: Option<&str>| {
            let (from, to) = (from.map(str::to_owned), to.map(str::to_owned));
            Difference { object_type: String::new(), object_identity: String::new(), fact: String::new(), from, to }
                .change()
        };
        assert_eq!(told(None, Some("a")), "added");
        assert_eq!(told(Some("a"), None), "removed");
        assert_eq!(told(Some("a"), Some("b")), "changed");
    }
}
