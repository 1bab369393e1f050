//! From what the start-up packet says to one route.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use super::{Branch, Branches, Carriers, MAX_BRANCH_NAME, Route, RouteError, check_branch_name};

/// How carriers are called in errors.
const PARAMETER: &str = "start-up parameter pggit.branch";
const OPTIONS: &str = "start-up options";
const DATABASE: &str = "database name";

/// Names that a hint shows at most.
const NEAR_MAX: usize = 5;

/// Names less alike than this are no help.
const NEAR_ENOUGH: f64 = 0.4;

/// What a database name says.
enum Named {
    /// The repository, no branch: the others may name one, else it is the default branch.
    Repository,
    /// A branch.
    Branch(String),
    /// Nothing of ours.
    Unmanaged,
}

impl Branches {
    /// The branch of that name.
    pub fn find(&self, name: &str) -> Option<&Arc<Branch>> {
        self.all.iter().find(|branch| branch.name == name)
    }

    /// Where a session goes. Every carrier counts; two that name different branches are an error.
    pub fn resolve(&self, carriers: &Carriers) -> Result<Route, RouteError> {
        let mut named: Option<(String, &'static str)> = None;
        for (name, carrier) in [(&carriers.parameter, PARAMETER), (&carriers.options, OPTIONS)] {
            if let Some(name) = name {
                agree(&mut named, name.clone(), carrier)?;
            }
        }
        match self.read_database(&carriers.database) {
            Named::Repository => {}
            Named::Branch(name) => agree(&mut named, name, DATABASE)?,
            Named::Unmanaged => {
                return match named {
                    None => Ok(Route::Unmanaged(carriers.database.clone())),
                    Some((branch, carrier)) => Err(RouteError::NotInRepository {
                        branch,
                        carrier,
                        database: carriers.database.clone(),
                        repository: self.repository.clone(),
                    }),
                };
            }
        }
        let name = named.map_or_else(|| self.default.clone(), |(name, _)| name);
        match self.find(&name) {
            Some(branch) if check_branch_name(&name).is_ok() => Ok(Route::Branch(branch.clone())),
            _ => Err(RouteError::Unknown { near: self.near(&name), name }),
        }
    }

    /// The names most like this one, best first, at most five.
    pub fn near(&self, name: &str) -> Vec<String> {
        if name.is_empty() || name.len() > MAX_BRANCH_NAME {
            return Vec::new();
        }
        let wanted = name.to_lowercase();
        let mut scored: Vec<(f64, &str)> = self
            .all
            .iter()
            .map(|branch| (likeness(&wanted, &branch.name.to_lowercase()), branch.name.as_str()))
            .filter(|(score, _)| *score >= NEAR_ENOUGH)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        scored.into_iter().take(NEAR_MAX).map(|(_, name)| name.to_owned()).collect()
    }

    /// The name as sent first, then percent-decoded: some drivers send `%2F` as it stands in their URL.
    fn read_database(&self, sent: &str) -> Named {
        let decoded = match percent_decode_str(sent).decode_utf8() {
            Ok(decoded) if decoded != sent => Some(decoded),
            Ok(_) | Err(_) => None,
        };
        let decoded: Option<&str> = decoded.as_ref().map(Cow::as_ref);
        if let Some(found) = self.exact(sent) {
            return found;
        }
        let suffix = self.suffix(sent);
        if let Some(name) = suffix.filter(|name| self.find(name).is_some()) {
            return Named::Branch(name.to_owned());
        }
        if let Some(found) = decoded.and_then(|decoded| self.exact(decoded)) {
            return found;
        }
        match decoded.and_then(|decoded| self.suffix(decoded)).or(suffix) {
            Some(name) => Named::Branch(name.to_owned()),
            None => Named::Unmanaged,
        }
    }

    fn exact(&self, database: &str) -> Option<Named> {
        if database == self.repository {
            return Some(Named::Repository);
        }
        let branch = self.all.iter().find(|branch| branch.database == database)?;
        Some(Named::Branch(branch.name.clone()))
    }

    /// What follows the repository's name and the first `/` or `@`; the rest may hold more of them.
    fn suffix<'a>(&self, database: &'a str) -> Option<&'a str> {
        let rest = database.strip_prefix(self.repository.as_str())?;
        rest.strip_prefix('/').or_else(|| rest.strip_prefix('@'))
    }
}

/// Adds what one carrier says to what the ones before it said.
fn agree(named: &mut Option<(String, &'static str)>, name: String, carrier: &'static str) -> Result<(), RouteError> {
    match named {
        Some((first, first_carrier)) if *first != name => {
            Err(RouteError::Disagree { first: first.clone(), first_carrier, second: name, second_carrier: carrier })
        }
        Some(_) => Ok(()),
        None => {
            *named = Some((name, carrier));
            Ok(())
        }
    }
}

/// 1 for equal names; a name within the other (`x` for `feature/x`) is at least near.
fn likeness(wanted: &str, name: &str) -> f64 {
    let score = strsim::normalized_damerau_levenshtein(wanted, name);
    if name.contains(wanted) || wanted.contains(name) { score.max(0.5) } else { score }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::branch::Origin;

    fn branches() -> Branches {
        let all = [("main", "app"), ("feature/x", "app__x"), ("feature/y", "app__y"), ("odd%2Fname", "app__odd")];
        Branches {
            repository: "app".into(),
            default: "main".into(),
            all: all
                .into_iter()
                .map(|(name, database)| {
                    Arc::new(Branch {
                        name: name.into(),
                        database: database.into(),
                        protected: false,
                        parent: None,
                        origin: Origin::Configuration,
                    })
                })
                .collect(),
        }
    }

    fn resolve(database: &str, parameter: Option<&str>, options: Option<&str>) -> Result<Route, RouteError> {
        branches().resolve(&Carriers {
            database: database.into(),
            parameter: parameter.map(str::to_owned),
            options: options.map(str::to_owned),
        })
    }

    fn branch_of(database: &str) -> String {
        resolve(database, None, None).unwrap().branch().unwrap_or("(none)").to_owned()
    }

    #[test]
    fn repository_is_the_default_branch() {
        assert_eq!(branch_of("app"), "main");
    }

    #[test]
    fn database_name_names_a_branch_in_every_form() {
        for database in ["app/feature/x", "app@feature/x", "app%2Ffeature%2Fx", "app%40feature/x", "app__x"] {
            assert_eq!(branch_of(database), "feature/x", "{database}");
        }
    }

    #[test]
    fn raw_name_goes_before_the_decoded_one() {
        assert_eq!(branch_of("app/odd%2Fname"), "odd%2Fname");
    }

    #[test]
    fn other_databases_are_unmanaged() {
        for database in ["postgres", "foo@bar", "application", "appx/main", "100%"] {
            assert_eq!(resolve(database, None, None), Ok(Route::Unmanaged(database.into())));
        }
    }

    #[test]
    fn unknown_branch_comes_with_near_names() {
        let Err(RouteError::Unknown { name, near }) = resolve("app%2Ffeature%2Fz", None, None) else { panic!() };
        assert_eq!(name, "feature/z");
        assert_eq!(near, ["feature/x", "feature/y"]);
        assert_eq!(branches().near("x").first().map(String::as_str), Some("feature/x"));
        assert_eq!(branches().near("MIAN"), ["main"]);
    }

    #[test]
    fn empty_names_are_unknown() {
        for (database, parameter) in [("app/", None), ("app@", None), ("app", Some(""))] {
            let error = resolve(database, parameter, None).unwrap_err();
            assert_eq!(error, RouteError::Unknown { name: String::new(), near: Vec::new() });
            assert_eq!(error.sqlstate(), "3D000");
        }
    }

    #[test]
    fn repository_alone_disagrees_with_nothing() {
        assert_eq!(resolve("app", Some("feature/x"), None).unwrap().database(), "app__x");
        assert_eq!(resolve("app", None, Some("feature/x")).unwrap().database(), "app__x");
    }

    #[test]
    fn carriers_that_agree_are_one() {
        let route = resolve("app/feature/x", Some("feature/x"), Some("feature/x")).unwrap();
        assert_eq!(route.branch(), Some("feature/x"));
    }

    #[test]
    fn carriers_that_disagree_are_an_error() {
        for (database, parameter, options) in [
            ("app", Some("feature/x"), Some("feature/y")),
            ("app/main", Some("feature/x"), None),
            ("app__y", None, Some("feature/x")),
            ("app@main", None, Some("nope")),
        ] {
            let error = resolve(database, parameter, options).unwrap_err();
            assert!(matches!(error, RouteError::Disagree { .. }), "{error}");
            assert_eq!(error.sqlstate(), "22023");
        }
    }

    #[test]
    fn branch_of_a_foreign_database_is_an_error() {
        let error = resolve("postgres", Some("main"), None).unwrap_err();
        assert!(matches!(error, RouteError::NotInRepository { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn never_panics(database in ".{0,20}", parameter: Option<String>, options: Option<String>) {
            let _ = resolve(&database, parameter.as_deref(), options.as_deref());
        }

        #[test]
        fn what_follows_the_repository_is_never_unmanaged(name in ".{0,20}", at: bool) {
            let database = format!("app{}{name}", if at { '@' } else { '/' });
            prop_assert!(!matches!(resolve(&database, None, None), Ok(Route::Unmanaged(_))));
        }
    }
}
