//! Rules of our own, in the manner of squawk's: maintenance that keeps everybody out of a table until it has ended. And what is
//! not to be said of maintenance that keeps out nobody, and of what a timeout would leave half done.

use squawk_linter::ignore::{IgnoreKind, ignore_rule_info};
use squawk_syntax::ast;
use squawk_syntax::{Parse, SourceFile, SyntaxToken};

use super::{Effect, NOT_LINTED};

/// The first version with REPACK, of which squawk's `prefer-repack` tells.
const HAS_REPACK: u32 = 19;

/// A rule that squawk has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnRule {
    /// CLUSTER.
    BanCluster,
    /// VACUUM FULL.
    BanVacuumFull,
    /// REFRESH MATERIALIZED VIEW without CONCURRENTLY.
    RequireConcurrentRefresh,
    /// A text that could not be checked.
    NotLinted,
}

impl OwnRule {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::BanCluster, Self::BanVacuumFull, Self::RequireConcurrentRefresh, Self::NotLinted];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BanCluster => "ban-cluster",
            Self::BanVacuumFull => "ban-vacuum-full",
            Self::RequireConcurrentRefresh => "require-concurrent-refresh",
            Self::NotLinted => NOT_LINTED,
        }
    }

    /// The rule of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == name)
    }

    pub(super) fn effect(self) -> Effect {
        match self {
            Self::BanCluster | Self::BanVacuumFull => Effect::Rewrites,
            Self::RequireConcurrentRefresh => Effect::Fills,
            Self::NotLinted => Effect::Other,
        }
    }

    /// What it says, and what to do instead.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        const REPACK: &str = "pg_repack, an extension, writes a table anew and needs such a lock for a moment only.";
        match self {
            Self::BanCluster => (
                "`cluster` requires an `ACCESS EXCLUSIVE` lock which blocks reads and writes until the table is written anew.",
                REPACK,
            ),
            Self::BanVacuumFull => (
                "`vacuum full` requires an `ACCESS EXCLUSIVE` lock which blocks reads and writes until the table is written anew.",
                "A plain `vacuum` blocks neither, and makes the space usable again, if not for other tables. pg_repack, an \
                 extension, writes a table anew and needs such a lock for a moment only.",
            ),
            Self::RequireConcurrentRefresh => (
                "Refreshing a materialized view without `concurrently` blocks reads of it until it is filled.",
                "Use `concurrently` to avoid blocking reads. The view has to be filled already, and to have a unique index on \
                 columns, over all rows.",
            ),
            Self::NotLinted => ("It was not checked.", ""),
        }
    }
}

/// What is to be known of a statement beyond what squawk finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// It comes under a rule of ours.
    Under(OwnRule),
    /// Maintenance that keeps nobody waiting: nothing is to be said of it.
    Harmless,
    /// It keeps nobody waiting, and a timeout in the middle leaves it half done: none is to be asked for.
    Concurrent,
}

/// Those statements of a text of which there is something to know, with their places.
pub(super) fn sorts(file: &Parse<SourceFile>, version: u32) -> Vec<(usize, Sort)> {
    let sort = |statement: ast::Stmt| {
        let (token, sort) = match &statement {
            ast::Stmt::Cluster(cluster) => (cluster.cluster_token(), under(OwnRule::BanCluster, version)),
            ast::Stmt::Vacuum(vacuum) if vacuum.is_full() => {
                (vacuum.vacuum_token(), under(OwnRule::BanVacuumFull, version))
            }
            ast::Stmt::Vacuum(vacuum) => (vacuum.vacuum_token(), Some(Sort::Harmless)),
            ast::Stmt::Refresh(refresh) if refresh.concurrently_token().is_some() => {
                (refresh.refresh_token(), Some(Sort::Harmless))
            }
            // It is empty afterwards, which takes no time.
            ast::Stmt::Refresh(refresh) if is_without_data(refresh) => (None, None),
            ast::Stmt::Refresh(refresh) => {
                (refresh.refresh_token(), Some(Sort::Under(OwnRule::RequireConcurrentRefresh)))
            }
            ast::Stmt::Reindex(reindex) if reindex.is_concurrently() => (reindex.reindex_token(), Some(Sort::Harmless)),
            ast::Stmt::CreateIndex(index) if index.concurrently_token().is_some() => {
                (index.index_token(), Some(Sort::Concurrent))
            }
            ast::Stmt::DropIndex(index) if index.concurrently_token().is_some() => {
                (index.index_token(), Some(Sort::Concurrent))
            }
            _ => return None,
        };
        Some((usize::from(token?.text_range().start()), sort?))
    };
    file.tree().stmts().filter_map(sort).collect()
}

fn under(rule: OwnRule, version: u32) -> Option<Sort> {
    (version < HAS_REPACK).then_some(Sort::Under(rule))
}

fn is_without_data(refresh: &ast::Refresh) -> bool {
    matches!(refresh.data_option(), Some(ast::DataOption::WithNoData(_)))
}

/// squawk's comments that silence rules, read for ours as it reads them for its own: `squawk-ignore NAME, …` in the line of a
/// statement's beginning or in the one before, `squawk-ignore-file` anywhere.
#[derive(Debug, Default)]
pub(super) struct Silenced {
    /// By the line, from 0; `None`: the whole text.
    rules: Vec<(Option<usize>, OwnRule)>,
    all: bool,
}

impl Silenced {
    pub fn read(file: &Parse<SourceFile>, text: &str) -> Self {
        let mut silenced = Self::default();
        let tokens = file.syntax_node().descendants_with_tokens().filter_map(|element| element.into_token());
        for token in tokens {
            let token: SyntaxToken = token;
            let Some((names, range, kind)) = ignore_rule_info(&token) else { continue };
            let line = match kind {
                IgnoreKind::File => None,
                IgnoreKind::Line => Some(line_of(text, usize::from(range.start()))),
            };
            silenced.all |= line.is_none() && names.trim().is_empty();
            silenced.rules.extend(names.split(',').filter_map(|name| Some((line, OwnRule::named(name.trim())?))));
        }
        silenced
    }

    pub fn has(&self, rule: OwnRule, text: &str, at: usize) -> bool {
        let line = line_of(text, at);
        let holds = |from: Option<usize>| from.is_none_or(|from| from == line || from + 1 == line);
        self.all || self.rules.iter().any(|(from, silenced)| *silenced == rule && holds(*from))
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}
