//! `branches.auto_create`: which branches a connection to them makes, and how long they stay.

use std::time::Duration;

use globset::GlobMatcher;

use super::section::Section;
use crate::policy::glob;

/// Branches that are made when somebody connects to them.
#[derive(Debug, Clone)]
pub struct AutoCreate {
    /// What they are called; empty: none is made. Default empty.
    pub patterns: Vec<GlobMatcher>,
    /// How long they stay from then on; `None`: until somebody drops them. Default 168 h.
    pub ttl: Option<Duration>,
    /// While there are so many branches with such names, no more are made. Default 100.
    pub max: u32,
}

impl Default for AutoCreate {
    fn default() -> Self {
        Self { patterns: Vec::new(), ttl: Some(Self::TTL), max: Self::MAX }
    }
}

impl AutoCreate {
    const TTL: Duration = Duration::from_secs(7 * 24 * 3600);
    const MAX: u32 = 100;

    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let mut patterns = Vec::new();
        for placed in section.texts("auto_create") {
            match glob(&placed.value) {
                Ok(pattern) => patterns.push(pattern),
                Err(message) => section.problem(&placed.span, message),
            }
        }
        let ten_years = Duration::from_secs(10 * 365 * 24 * 3600);
        let ttl = section.duration("auto_create_ttl", Self::TTL, Duration::ZERO..=ten_years);
        let max = section.number("auto_create_max", Self::MAX, 1..=10_000);
        Self { patterns, ttl: Some(ttl).filter(|ttl| !ttl.is_zero()), max }
    }

    /// Whether a branch of that name is made.
    pub fn makes(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.is_match(name))
    }

    /// The patterns, as they were written.
    pub fn written(&self) -> String {
        self.patterns.iter().map(|pattern| pattern.glob().glob()).collect::<Vec<_>>().join(", ")
    }
}
