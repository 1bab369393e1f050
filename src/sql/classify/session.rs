//! Transactions, settings and what else concerns the session, and maintenance.

use super::super::{Class, Control};
use super::facts::Facts;
use super::kind::{self, Kind};
use super::tree::{DiscardMode, Node, ReindexObjectType, TransactionStmtKind, VariableSetKind, nodes};
use super::{data, name};

/// `None` for statements of other kinds.
pub fn facts(node: Node<'_>) -> Option<Facts> {
    let session = |tag| Facts::new(tag, Class::Session);
    Some(match node {
        Node::TransactionStmt(statement) => transaction(statement),
        Node::VariableSetStmt(set) => session(set_tag(set)).setting(setting(Some(set))).checkout(checkout(set)),
        Node::VariableShowStmt(_) => session("SHOW"),
        Node::ConstraintsSetStmt(_) => session("SET CONSTRAINTS"),
        Node::PrepareStmt(_) => session("PREPARE"),
        Node::DeallocateStmt(statement) => session(if statement.isall { "DEALLOCATE ALL" } else { "DEALLOCATE" }),
        Node::DiscardStmt(statement) => discard(statement.target),
        Node::ListenStmt(_) => session("LISTEN"),
        Node::UnlistenStmt(_) => session("UNLISTEN"),
        Node::NotifyStmt(_) => session("NOTIFY"),
        Node::LoadStmt(_) => session("LOAD"),
        Node::LockStmt(lock) => {
            Facts::new("LOCK TABLE", Class::Other).on(kind::TABLE, name::relations(lock.relations()))
        }
        Node::CheckPointStmt(_) => Facts::new("CHECKPOINT", Class::Maintenance),
        Node::VacuumStmt(vacuum) => self::vacuum(vacuum),
        Node::ClusterStmt(cluster) => Facts::new("CLUSTER", Class::Maintenance)
            .on(kind::TABLE, name::relation(cluster.relation()))
            .not_transactional_if(cluster.relation().is_none()),
        Node::ReindexStmt(reindex) => self::reindex(reindex),
        Node::RefreshMatViewStmt(refresh) => Facts::new("REFRESH MATERIALIZED VIEW", Class::Maintenance)
            .on(kind::MATERIALIZED_VIEW, name::relation(refresh.relation())),
        _ => return None,
    })
}

/// The lower-cased name of a guarded setting that SET or RESET names; `None` for all others.
pub fn setting(set: Option<&nodes::VariableSetStmt>) -> Option<String> {
    guarded(set?.name()?)
}

/// The branch in `SET pggit.branch = '…'`; not in SET LOCAL, which lasts for a transaction only.
fn checkout(set: &nodes::VariableSetStmt) -> Option<String> {
    let is_branch = set.name()?.eq_ignore_ascii_case("pggit.branch");
    let sets = set.kind == VariableSetKind::VAR_SET_VALUE && !set.is_local;
    let mut arguments = set.args().iter();
    match (is_branch && sets, arguments.next(), arguments.next()) {
        (true, Some(Node::A_Const(argument)), None) => name::text(argument),
        _ => None,
    }
}

/// The name in lower case, if it is one of ours, or `event_triggers`, which stops recording: PostgreSQL does not tell cases
/// of settings apart.
pub fn guarded(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    (lower.starts_with("pggit.") || lower == "event_triggers").then_some(lower)
}

fn set_tag(set: &nodes::VariableSetStmt) -> &'static str {
    match set.kind {
        VariableSetKind::VAR_RESET | VariableSetKind::VAR_RESET_ALL => "RESET",
        _ => "SET",
    }
}

fn transaction(statement: &nodes::TransactionStmt) -> Facts {
    let savepoint = || statement.savepoint_name().unwrap_or_default().to_owned();
    let gid = || statement.gid().unwrap_or_default().to_owned();
    let (tag, control) = match statement.kind {
        TransactionStmtKind::TRANS_STMT_BEGIN => ("BEGIN", Control::Begin),
        TransactionStmtKind::TRANS_STMT_START => ("START TRANSACTION", Control::Begin),
        TransactionStmtKind::TRANS_STMT_COMMIT => ("COMMIT", Control::Commit),
        TransactionStmtKind::TRANS_STMT_ROLLBACK => ("ROLLBACK", Control::Rollback),
        TransactionStmtKind::TRANS_STMT_SAVEPOINT => ("SAVEPOINT", Control::Savepoint(savepoint())),
        TransactionStmtKind::TRANS_STMT_RELEASE => ("RELEASE", Control::Release(savepoint())),
        TransactionStmtKind::TRANS_STMT_ROLLBACK_TO => ("ROLLBACK", Control::RollbackTo(savepoint())),
        TransactionStmtKind::TRANS_STMT_PREPARE => ("PREPARE TRANSACTION", Control::Prepare(gid())),
        TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED => ("COMMIT PREPARED", Control::CommitPrepared(gid())),
        TransactionStmtKind::TRANS_STMT_ROLLBACK_PREPARED => ("ROLLBACK PREPARED", Control::RollbackPrepared(gid())),
        _ => return Facts::unknown(),
    };
    let alone = matches!(control, Control::CommitPrepared(_) | Control::RollbackPrepared(_));
    Facts { control: Some(control), ..Facts::new(tag, Class::Transaction).not_transactional_if(alone) }
}

fn discard(target: DiscardMode::Type) -> Facts {
    let tag = match target {
        DiscardMode::DISCARD_ALL => "DISCARD ALL",
        DiscardMode::DISCARD_PLANS => "DISCARD PLANS",
        DiscardMode::DISCARD_SEQUENCES => "DISCARD SEQUENCES",
        DiscardMode::DISCARD_TEMP => "DISCARD TEMP",
        _ => return Facts::unknown(),
    };
    Facts::new(tag, Class::Session).not_transactional_if(target == DiscardMode::DISCARD_ALL)
}

fn vacuum(vacuum: &nodes::VacuumStmt) -> Facts {
    let tables = vacuum.rels().iter().flat_map(|table| name::relation(table.relation())).collect();
    Facts::new(if vacuum.is_vacuumcmd { "VACUUM" } else { "ANALYZE" }, Class::Maintenance)
        .on(kind::TABLE, tables)
        .not_transactional_if(vacuum.is_vacuumcmd)
}

fn reindex(reindex: &nodes::ReindexStmt) -> Facts {
    let (kind, alone): (Kind, bool) = match reindex.kind {
        ReindexObjectType::REINDEX_OBJECT_INDEX => (kind::INDEX, false),
        ReindexObjectType::REINDEX_OBJECT_TABLE => (kind::TABLE, false),
        ReindexObjectType::REINDEX_OBJECT_SCHEMA => (kind::SCHEMA, true),
        ReindexObjectType::REINDEX_OBJECT_SYSTEM | ReindexObjectType::REINDEX_OBJECT_DATABASE => (kind::DATABASE, true),
        _ => return Facts::unknown(),
    };
    let named =
        if reindex.relation().is_some() { name::relation(reindex.relation()) } else { name::plain(reindex.name()) };
    let concurrently = reindex.params().iter().rfind(|p| p.defname() == Some("concurrently")).is_some_and(data::is_on);
    Facts::new("REINDEX", Class::Maintenance).on(kind, named).not_transactional_if(alone || concurrently)
}
