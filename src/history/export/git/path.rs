//! Names of the database as names of files and of git's branches: each name gives another one, and none that git, a file
//! system or a shell takes for something else.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::branch::Branches;

/// A part of a path may have 255 bytes, and git wants some for itself.
const LONGEST: usize = 200;

/// The file of an object: `public/table/customers.sql`; without a schema `extension/hstore.sql`. `named` is the schema that
/// stands in the identity, `schema` the one that the object is in.
pub(super) fn file(schema: Option<&str>, named: Option<&str>, kind: &str, identity: &str) -> String {
    let name = named.map_or(identity, |schema| without_schema(identity, schema));
    let kind = short(encode(kind).replace(' ', "-"), "");
    let name = short(encode(&unquoted(name)), ".sql");
    match schema {
        Some(schema) => format!("{}/{kind}/{name}", short(encode(schema), "")),
        None => format!("{kind}/{name}"),
    }
}

/// The branch in git, as `refs/heads/…`. git cannot have both `a` and `a/b`: then the latter is `a%2Fb`.
pub fn reference(branch: &str, known: &Branches) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut from = 0;
    for (at, _) in branch.match_indices('/').chain([(branch.len(), "")]) {
        let is_branch = at < branch.len() && known.find(&branch[..at]).is_some();
        if is_branch || (at < branch.len() && at == from) {
            continue;
        }
        let part = encode_with(&branch[from..at], |c| c.is_alphanumeric() || "_-+=,.#!$&()'".contains(c));
        let part = match part.strip_suffix(".lock") {
            Some(name) => format!("{name}%2Elock"),
            None if part == "HEAD" => "%48EAD".to_owned(),
            None => part.replace("..", ".%2E"),
        };
        parts.push(short(part, ""));
        from = at + 1;
    }
    format!("refs/heads/{}", parts.join("/"))
}

/// A part of a path. Letters and digits of all languages stay, other characters are written as `%` and their bytes.
fn encode(text: &str) -> String {
    encode_with(text, |c| c.is_alphanumeric() || "_-.$+=,()[] ".contains(c))
}

fn encode_with(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut out = String::new();
    let last = text.chars().count().saturating_sub(1);
    for (at, c) in text.chars().enumerate() {
        // `.git`, `..`, `-option`; and what some file systems cut off.
        let at_an_end = (at == 0 && ".- ".contains(c)) || (at == last && ". ".contains(c));
        if stays(c) && !at_an_end {
            out.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// With a suffix; what is too long ends in a hash of all of it. No other name has a `~`.
fn short(name: String, suffix: &str) -> String {
    if name.len() + suffix.len() <= LONGEST {
        return name + suffix;
    }
    let hash: String = Sha256::digest(&name).iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    let mut cut = LONGEST - suffix.len() - hash.len() - 1;
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}~{hash}{suffix}", name.get(..cut).unwrap_or_default())
}

fn without_schema<'a>(identity: &'a str, schema: &str) -> &'a str {
    let quoted = format!("\"{}\".", schema.replace('"', "\"\""));
    let plain = format!("{schema}.");
    identity.strip_prefix(&quoted).or_else(|| identity.strip_prefix(&plain)).unwrap_or(identity)
}

/// What a quoted name stands for; whatever is more than a name stays as it is.
fn unquoted(name: &str) -> String {
    let inner = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).map(|inner| inner.replace("\"\"", "\0"));
    match inner {
        Some(inner) if !inner.is_empty() && !inner.contains('"') => inner.replace('\0', "\""),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_as_their_objects() {
        let table = |schema: &str, identity: &str| file(Some(schema), Some(schema), "table", identity);
        assert_eq!(table("public", "public.customers"), "public/table/customers.sql");
        assert_eq!(table("Odd S", "\"Odd S\".\"T \"\"1\"\"\""), "Odd S/table/T %221%22.sql");
        assert_eq!(table("public", "public.größe"), "public/table/größe.sql");
        assert_eq!(table("public", "public.\"a/../b\""), "public/table/a%2F..%2Fb.sql");
        assert_eq!(table(".git", "\".git\".\"..\""), "%2Egit/table/%2E%2E.sql");
        assert_eq!(table("public", "public.\"a\nb%~\""), "public/table/a%0Ab%25%7E.sql");
        assert_eq!(file(None, None, "foreign-data wrapper", "postgres_fdw"), "foreign-data-wrapper/postgres_fdw.sql");
        let function = file(Some("new"), Some("old"), "function", "old.f(integer,pg_catalog.\"char\"[])");
        assert_eq!(function, "new/function/f(integer,pg_catalog.%22char%22[]).sql");
    }

    #[test]
    fn long_names_stay_different() {
        let long = |end: &str| {
            file(Some("public"), Some("public"), "function", &format!("public.f({}{end})", "é".repeat(300)))
        };
        let (one, other) = (long("a"), long("b"));
        assert_ne!(one, other);
        assert!(one.split('/').all(|part| part.len() <= LONGEST) && one.ends_with(".sql"), "{one}");
    }

    #[test]
    fn references_are_what_git_takes() {
        let branch = |name: &str| crate::branch::Branch {
            name: name.into(),
            database: name.into(),
            protected: false,
            parent: None,
            origin: crate::branch::Origin::Table,
        };
        let all = ["feature", "main"].map(|name| std::sync::Arc::new(branch(name)));
        let known = Branches { repository: "app".into(), default: "main".into(), all: all.into() };
        for (name, expected) in [
            ("main", "main"),
            ("fix/x", "fix/x"),
            ("feature/x/y", "feature%2Fx/y"),
            ("a..b/.c/d.lock", "a.%2Eb/%2Ec/d%2Elock"),
            ("a b~^:?*[\\@{%", "a%20b%7E%5E%3A%3F%2A%5B%5C%40%7B%25"),
            ("HEAD", "%48EAD"),
            ("-x", "%2Dx"),
            ("a//b", "a/%2Fb"),
        ] {
            assert_eq!(reference(name, &known), format!("refs/heads/{expected}"));
        }
    }
}
