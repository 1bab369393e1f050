//! What databases that we make are called.

use sha2::{Digest as _, Sha256};

use super::MAX_DATABASE_NAME;

/// The database of a new branch: `app__feature_x_1a2b3c4d`. The hash keeps names apart that look alike without their signs
/// and capitals, or are cut.
pub fn database_of(repository: &str, branch: &str) -> String {
    joined(repository, &plain(branch), &hash(&[repository, branch], 4))
}

/// A template of a database: `app__template_1a2b3c4d5e6f`. `state` tells apart what it was made from.
pub fn template_of(repository: &str, database: &str, state: &str) -> String {
    joined(repository, "template", &hash(&[repository, database, state], 6))
}

/// Cut to what a name may have: first the middle, then the repository.
fn joined(repository: &str, middle: &str, hash: &str) -> String {
    let room = MAX_DATABASE_NAME - hash.len() - "__".len() - "_".len();
    let repository = cut(repository, room - middle.len().min(room / 2));
    let middle = cut(middle, room - repository.len());
    format!("{repository}__{middle}_{hash}")
}

/// In lower case; whatever would have to be quoted is `_`.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
}

/// At most so many bytes, and no half character.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

fn hash(parts: &[&str], bytes: usize) -> String {
    // A NUL stands in no name: two lists never read alike.
    let digest = Sha256::digest(parts.join("\0"));
    digest.iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable_and_apart() {
        let name = database_of("app", "feature/x");
        assert!(name.starts_with("app__feature_x_") && name.len() == "app__feature_x_".len() + 8, "{name}");
        let all = ["feature/x", "feature_x", "Feature/X", "feature x", "feature\"x"].map(|b| database_of("app", b));
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
        assert_ne!(template_of("app", "app", "1"), template_of("app", "app", "2"));
    }

    #[test]
    fn names_have_room() {
        for (repository, branch) in [
            ("app", "b".repeat(255)),
            ("a".repeat(63).as_str(), "b".repeat(255)),
            ("é".repeat(31).as_str(), "x".into()),
        ] {
            let name = database_of(repository, &branch);
            assert!(name.len() <= MAX_DATABASE_NAME, "{name}");
            assert!(name.contains("__"), "{name}");
        }
        assert!(database_of("app", &"b".repeat(255)).starts_with("app__bbbbbbbb"));
    }
}
