//! Patterns of rules: globs in which `*` crosses `/` and `.`.

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};

use crate::sql::ObjectName;

/// A glob for names: `*`, `?`, `[a-z]`, `{a,b}`; the error says what is wrong with it.
pub fn glob(pattern: &str) -> Result<GlobMatcher, String> {
    build(pattern, false)
}

/// As [`glob`], for command tags: upper and lower case are the same.
pub fn any_case_glob(pattern: &str) -> Result<GlobMatcher, String> {
    build(pattern, true)
}

fn build(pattern: &str, any_case: bool) -> Result<GlobMatcher, String> {
    if pattern.is_empty() {
        return Err("an empty pattern matches nothing; leave the key out, or write \"*\"".to_owned());
    }
    let glob = GlobBuilder::new(pattern).literal_separator(false).case_insensitive(any_case).build();
    match glob {
        Ok(glob) => Ok(glob.compile_matcher()),
        Err(error) => Err(format!("\"{pattern}\" is no pattern: {}", error.kind())),
    }
}

/// A pattern for objects, `schema.name`. Schema and name are matched apart, so that a dot in a quoted name means nothing.
#[derive(Debug, Clone)]
pub struct ObjectPattern {
    /// `None`: any schema.
    schema: Option<GlobMatcher>,
    name: GlobMatcher,
}

impl ObjectPattern {
    /// Reads `schema.name`, or `name` for `*.name`. The first dot outside of `[…]` and `{…}` separates them.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let Some(dot) = first_dot(pattern) else {
            if pattern.contains('.') {
                return Err("a pattern of objects is `schema.name`, its dot outside of `{…}` and `[…]`".to_owned());
            }
            return Ok(Self { schema: None, name: glob(pattern)? });
        };
        let (schema, name) = (&pattern[..dot], &pattern[dot + 1..]);
        let any = !schema.is_empty() && schema.bytes().all(|byte| byte == b'*');
        Ok(Self { schema: if any { None } else { Some(glob(schema)?) }, name: glob(name)? })
    }

    /// Whether the object may match: without a schema in the text, any schema is possible.
    pub fn may_match(&self, object: &ObjectName) -> bool {
        self.name.is_match(&object.name) && self.schema_matches(object).unwrap_or(true)
    }

    /// Whether the object matches for certain.
    pub fn must_match(&self, object: &ObjectName) -> bool {
        self.name.is_match(&object.name) && self.schema_matches(object).unwrap_or(false)
    }

    /// `None` where the text does not say.
    fn schema_matches(&self, object: &ObjectName) -> Option<bool> {
        match (&self.schema, &object.schema) {
            (None, _) => Some(true),
            (Some(pattern), Some(schema)) => Some(pattern.is_match(schema)),
            (Some(_), None) => None,
        }
    }
}

impl fmt::Display for ObjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.schema.as_ref().map_or("*", |schema| schema.glob().glob());
        write!(f, "{schema}.{}", self.name.glob().glob())
    }
}

fn first_dot(pattern: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut escaped = false;
    for (at, byte) in pattern.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'.' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn object(schema: Option<&str>, name: &str) -> ObjectName {
        ObjectName { schema: schema.map(str::to_owned), name: name.to_owned() }
    }

    #[test]
    fn star_crosses_slash_and_dot() {
        assert!(glob("feature*").unwrap().is_match("feature/a/b.c"));
    }

    #[test]
    fn tags_match_in_any_case_and_names_do_not() {
        assert!(any_case_glob("create *").unwrap().is_match("CREATE TABLE"));
        assert!(!glob("Main").unwrap().is_match("main"));
    }

    #[test]
    fn pattern_without_schema_means_any_schema() {
        let pattern = ObjectPattern::new("orders").unwrap();
        assert!(pattern.must_match(&object(Some("audit"), "orders")));
        assert!(pattern.must_match(&object(None, "orders")));
        assert!(!pattern.may_match(&object(None, "order")));
        assert_eq!(pattern.to_string(), "*.orders");
    }

    #[test]
    fn object_without_schema_may_be_anywhere() {
        let pattern = ObjectPattern::new("audit.*").unwrap();
        assert!(pattern.must_match(&object(Some("audit"), "log")));
        assert!(pattern.may_match(&object(None, "log")) && !pattern.must_match(&object(None, "log")));
        assert!(!pattern.may_match(&object(Some("public"), "log")));
    }

    #[test]
    fn dot_in_a_quoted_schema_is_no_separator() {
        assert!(!ObjectPattern::new("audit.*").unwrap().may_match(&object(Some("audit.x"), "log")));
        assert!(ObjectPattern::new("{a,b}.t[0-9.]").unwrap().must_match(&object(Some("b"), "t.")));
    }

    #[test]
    fn bad_patterns_are_errors() {
        for pattern in ["", ".t", "s.", "{a.b,c.d}", "a.[", "*.{x"] {
            assert!(ObjectPattern::new(pattern).is_err(), "{pattern}");
        }
    }
}
