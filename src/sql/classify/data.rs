//! Statements that read and write rows, and those that run others: EXPLAIN, COPY, cursors.

use super::super::{Class, ObjectName};
use super::facts::Facts;
use super::tree::{ConstValue, Node, ObjectType, nodes};
use super::{kind, name};

/// `None` for statements of other kinds.
pub fn facts(node: Node<'_>) -> Option<Facts> {
    Some(match node {
        Node::SelectStmt(select) => self::select(select),
        Node::InsertStmt(insert) => write("INSERT", insert.relation(), insert.with_clause()),
        Node::UpdateStmt(update) => write("UPDATE", update.relation(), update.with_clause()),
        Node::DeleteStmt(delete) => write("DELETE", delete.relation(), delete.with_clause()),
        Node::MergeStmt(merge) => write("MERGE", merge.relation(), merge.with_clause()),
        Node::TruncateStmt(truncate) => {
            Facts::new("TRUNCATE TABLE", Class::Write).on(kind::TABLE, name::relations(truncate.relations()))
        }
        Node::CopyStmt(copy) => self::copy(copy),
        Node::DeclareCursorStmt(_) => Facts::new("DECLARE CURSOR", Class::Read),
        Node::FetchStmt(fetch) => Facts::new(if fetch.ismove { "MOVE" } else { "FETCH" }, Class::Read),
        Node::ClosePortalStmt(close) => {
            Facts::new(if close.portalname().is_some() { "CLOSE CURSOR" } else { "CLOSE CURSOR ALL" }, Class::Read)
        }
        Node::CreateTableAsStmt(create) => create_table_as(create),
        Node::ExplainStmt(explain) => self::explain(explain),
        Node::DoStmt(_) => Facts::new("DO", Class::Opaque),
        Node::CallStmt(_) => Facts::new("CALL", Class::Opaque),
        Node::ExecuteStmt(_) => Facts::new("EXECUTE", Class::Opaque),
        _ => return None,
    })
}

fn select(select: &nodes::SelectStmt) -> Facts {
    // INTO stands in the leftmost SELECT of a set operation; WITH belongs to the whole.
    let mut leftmost = select;
    while let Some(left) = leftmost.larg() {
        leftmost = left;
    }
    if let Some(into) = leftmost.into_clause() {
        return Facts::new("SELECT INTO", Class::Ddl)
            .action("create")
            .on(kind::TABLE, name::relation(into.rel()))
            .temporary_if(name::is_temporary(into.rel()));
    }
    let written = written_by(select.with_clause());
    let facts = Facts::new("SELECT", if written.is_empty() { Class::Read } else { Class::Write });
    let facts = if written.is_empty() { facts } else { facts.on(kind::TABLE, written) };
    facts.setting(set_config(leftmost)).checkout(checkout(select))
}

/// The branch in `SELECT pggit.checkout('…')`, where that is all.
fn checkout(select: &nodes::SelectStmt) -> Option<String> {
    let alone =
        select.larg().is_none() && select.with_clause().is_none() && select.from_clause().iter().next().is_none();
    let mut columns = select.target_list().iter();
    let (Some(column), None, true) = (columns.next(), columns.next(), alone) else { return None };
    let Node::FuncCall(call) = column.val() else { return None };
    let mut path = call.funcname().iter();
    let mut part = || path.next().and_then(|part| part.as_str().map(str::to_owned));
    if (part()?.as_str(), part()?.as_str(), part()) != ("pggit", "checkout", None) {
        return None;
    }
    let mut arguments = call.args().iter();
    match (arguments.next(), arguments.next(), select.where_clause()) {
        (Some(Node::A_Const(argument)), None, Node::None) => name::text(argument),
        _ => None,
    }
}

/// The tables that statements in WITH write to. Only the topmost WITH of a statement may hold one that writes.
fn written_by(with: Option<&nodes::WithClause>) -> Vec<ObjectName> {
    let ctes = with.into_iter().flat_map(|with| with.ctes().iter());
    ctes.filter_map(|cte| match cte.ctequery() {
        Node::InsertStmt(insert) => Some(insert.relation()),
        Node::UpdateStmt(update) => Some(update.relation()),
        Node::DeleteStmt(delete) => Some(delete.relation()),
        Node::MergeStmt(merge) => Some(merge.relation()),
        _ => None,
    })
    .flat_map(name::relation)
    .collect()
}

/// The `pggit.*` setting that a call in the list of columns sets, however its literal is written.
fn set_config(select: &nodes::SelectStmt) -> Option<String> {
    select.target_list().iter().find_map(|column| {
        let Node::FuncCall(call) = column.val() else { return None };
        let function = call.funcname().iter().next_back()?.as_str()?;
        let Node::A_Const(argument) = call.args().first()? else { return None };
        match argument.val()? {
            ConstValue::String(name) if function.eq_ignore_ascii_case("set_config") => super::session::guarded(name),
            _ => None,
        }
    })
}

fn write(tag: &'static str, relation: Option<&nodes::RangeVar>, with: Option<&nodes::WithClause>) -> Facts {
    let mut objects = name::relation(relation);
    objects.extend(written_by(with));
    Facts::new(tag, Class::Write).on(kind::TABLE, objects)
}

fn copy(copy: &nodes::CopyStmt) -> Facts {
    let query = if matches!(copy.query(), Node::None) {
        Class::Read
    } else {
        facts(copy.query()).map_or(Class::Other, |f| f.class)
    };
    let class = if copy.is_from { Class::Write } else { query };
    let facts = Facts::new("COPY", class);
    if copy.relation().is_some() {
        facts.on(kind::TABLE, name::relation(copy.relation()))
    } else {
        let written = self::facts(copy.query()).map(|f| f.objects).unwrap_or_default();
        if written.is_empty() { facts } else { facts.on(kind::TABLE, written) }
    }
}

fn create_table_as(create: &nodes::CreateTableAsStmt) -> Facts {
    let relation = create.into().and_then(|into| into.rel());
    let kind = if create.objtype == ObjectType::OBJECT_MATVIEW { kind::MATERIALIZED_VIEW } else { kind::TABLE };
    let facts = Facts::create(kind, name::relation(relation)).temporary_if(name::is_temporary(relation));
    match create.objtype {
        ObjectType::OBJECT_MATVIEW => facts,
        _ if create.is_select_into => Facts { tag: "SELECT INTO", ..facts },
        _ => Facts { tag: "CREATE TABLE AS", ..facts },
    }
}

/// With ANALYZE it does what its statement does, and answers as EXPLAIN.
fn explain(explain: &nodes::ExplainStmt) -> Facts {
    // The last of several counts, as on the server.
    let analyze = explain.options().iter().rfind(|option| option.defname() == Some("analyze")).is_some_and(is_on);
    if !analyze {
        return Facts::new("EXPLAIN", Class::Read);
    }
    Facts { tag: "EXPLAIN", ..facts(explain.query()).unwrap_or_else(Facts::unknown) }
}

/// A boolean option's value, as the server reads it; what it would not take counts as on.
pub fn is_on(option: &nodes::DefElem) -> bool {
    let off =
        |word: Option<&str>| word.is_some_and(|w| w.eq_ignore_ascii_case("false") || w.eq_ignore_ascii_case("off"));
    match option.arg() {
        Node::Integer(number) => number.ival != 0,
        Node::Boolean(value) => value.boolval,
        Node::String(word) => !off(word.sval()),
        // In some lists of options the grammar takes a bare word for a type.
        Node::TypeName(word) => !off(word.names().iter().next_back().and_then(|part| part.sval())),
        _ => true,
    }
}
