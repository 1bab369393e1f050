//! What creates and drops objects, COMMENT and SECURITY LABEL.

use super::super::{Class, ObjectName};
use super::facts::Facts;
use super::kind::{self, Kind};
use super::tree::{Node, nodes};
use super::{data, name, session};

/// `None` for statements of other kinds; `sql` are the statement's own bytes.
pub fn facts(node: Node<'_>, sql: &str) -> Option<Facts> {
    create_relation(node).or_else(|| create(node)).or_else(|| create_apart(node)).or_else(|| drop(node)).or_else(|| {
        match node {
            Node::CommentStmt(comment) => {
                Some(describe("COMMENT", "comment", Kind::of(comment.objtype), comment.object()))
            }
            Node::SecLabelStmt(label) => {
                Some(describe("SECURITY LABEL", "security", Kind::of(label.objtype), label.object()))
            }
            // The grammar took it, and the bindings have no node for its one kind that has none.
            Node::Invalid(_) if is_foreign_table(sql) => {
                let objects = name::of_foreign_table(sql);
                Some(Facts::create(kind::FOREIGN_TABLE, objects))
            }
            _ => None,
        }
    })
}

/// Tables, views, sequences, and what belongs to a table.
fn create_relation(node: Node<'_>) -> Option<Facts> {
    let own = |kind: Kind, relation: Option<&nodes::RangeVar>| {
        Facts::create(kind, name::relation(relation)).temporary_if(name::is_temporary(relation))
    };
    let beside = |kind: Kind, own: Option<&str>, table: Option<&nodes::RangeVar>| {
        Facts::create(kind, name::beside(own, table)).temporary_if(name::is_temporary(table))
    };
    Some(match node {
        Node::CreateStmt(s) => own(kind::TABLE, s.relation()),
        Node::ViewStmt(s) => own(kind::VIEW, s.view()),
        Node::CreateSeqStmt(s) => own(kind::SEQUENCE, s.sequence()),
        Node::CompositeTypeStmt(s) => own(kind::TYPE, s.typevar()),
        Node::IndexStmt(s) => beside(kind::INDEX, s.idxname(), s.relation()).not_transactional_if(s.concurrent),
        Node::CreateTrigStmt(s) => beside(kind::TRIGGER, s.trigname(), s.relation()),
        Node::RuleStmt(s) => beside(kind::RULE, s.rulename(), s.relation()),
        Node::CreatePolicyStmt(s) => beside(kind::POLICY, s.policy_name(), s.table()),
        _ => return None,
    })
}

/// Objects of a schema, and those beside schemas.
fn create(node: Node<'_>) -> Option<Facts> {
    let strings = |kind, list: Vec<ObjectName>| Facts::create(kind, list);
    Some(match node {
        Node::CreateSchemaStmt(s) => {
            // AUTHORIZATION alone gives the schema its owner's name.
            let named = s.schemaname().or_else(|| s.authrole().and_then(|role| role.rolename()));
            Facts::create(kind::SCHEMA, name::plain(named))
        }
        Node::CreateFunctionStmt(s) => {
            let kind = if s.is_procedure { kind::PROCEDURE } else { kind::FUNCTION };
            Facts::create(kind, name::listed(s.funcname())).setting(function_setting(s.options().iter()))
        }
        Node::DefineStmt(s) => strings(Kind::of(s.kind), name::dotted(s.defnames().iter().map(|n| n.sval()))),
        Node::CreateEnumStmt(s) => strings(kind::TYPE, name::dotted(s.type_name().iter().map(|n| n.sval()))),
        Node::CreateRangeStmt(s) => strings(kind::TYPE, name::dotted(s.type_name().iter().map(|n| n.sval()))),
        Node::CreateDomainStmt(s) => strings(kind::DOMAIN, name::dotted(s.domainname().iter().map(|n| n.sval()))),
        Node::CreateStatsStmt(s) => strings(kind::STATISTICS, name::dotted(s.defnames().iter().map(|n| n.sval()))),
        Node::CreateOpClassStmt(s) => {
            strings(kind::OPERATOR_CLASS, name::dotted(s.opclassname().iter().map(|n| n.sval())))
        }
        Node::CreateOpFamilyStmt(s) => {
            strings(kind::OPERATOR_FAMILY, name::dotted(s.opfamilyname().iter().map(|n| n.sval())))
        }
        Node::CreateConversionStmt(s) => Facts::create(kind::CONVERSION, name::listed(s.conversion_name())),
        Node::CreateCastStmt(_) => Facts::create(kind::CAST, Vec::new()),
        Node::CreateTransformStmt(_) => Facts::create(kind::TRANSFORM, Vec::new()),
        Node::CreateExtensionStmt(s) => Facts::create(kind::EXTENSION, name::plain(s.extname())),
        Node::CreateFdwStmt(s) => Facts::create(kind::FOREIGN_DATA_WRAPPER, name::plain(s.fdwname())),
        Node::CreateForeignServerStmt(s) => Facts::create(kind::SERVER, name::plain(s.servername())),
        // A mapping has no name but its server's.
        Node::CreateUserMappingStmt(s) => Facts::create(kind::USER_MAPPING, name::plain(s.servername())),
        Node::CreateAmStmt(s) => Facts::create(kind::ACCESS_METHOD, name::plain(s.amname())),
        Node::CreatePLangStmt(s) => Facts::create(kind::LANGUAGE, name::plain(s.plname())),
        Node::CreateEventTrigStmt(s) => Facts::create(kind::EVENT_TRIGGER, name::plain(s.trigname())),
        Node::CreatePublicationStmt(s) => Facts::create(kind::PUBLICATION, name::plain(s.pubname())),
        Node::ImportForeignSchemaStmt(s) => {
            // Which tables that makes is the other server's to say: `*` matches the patterns of rules.
            let schema = s.local_schema().map(str::to_owned);
            let objects = vec![ObjectName { schema, name: "*".to_owned() }];
            Facts { tag: "IMPORT FOREIGN SCHEMA", ..Facts::create(kind::FOREIGN_TABLE, objects) }
        }
        _ => return None,
    })
}

/// What is made outside of transactions, and roles.
fn create_apart(node: Node<'_>) -> Option<Facts> {
    Some(match node {
        Node::CreatedbStmt(s) => Facts::create(kind::DATABASE, name::plain(s.dbname())).not_transactional_if(true),
        Node::CreateTableSpaceStmt(s) => {
            Facts::create(kind::TABLESPACE, name::plain(s.tablespacename())).not_transactional_if(true)
        }
        Node::CreateSubscriptionStmt(s) => {
            let off = |option: &nodes::DefElem| {
                matches!(option.defname(), Some("connect" | "create_slot")) && !data::is_on(option)
            };
            let makes_slot = !s.options().iter().any(off);
            Facts::create(kind::SUBSCRIPTION, name::plain(s.subname())).not_transactional_if(makes_slot)
        }
        Node::CreateRoleStmt(s) => Facts::create(kind::ROLE, name::plain(s.role())).class(Class::Role),
        _ => return None,
    })
}

fn drop(node: Node<'_>) -> Option<Facts> {
    Some(match node {
        Node::DropStmt(s) => {
            let kind = Kind::of(s.remove_type);
            let objects = s.objects().iter().flat_map(|object| name::object(kind, object)).collect();
            Facts::drop(kind, objects).not_transactional_if(s.concurrent)
        }
        Node::DropdbStmt(s) => Facts::drop(kind::DATABASE, name::plain(s.dbname())).not_transactional_if(true),
        Node::DropTableSpaceStmt(s) => {
            Facts::drop(kind::TABLESPACE, name::plain(s.tablespacename())).not_transactional_if(true)
        }
        // With a slot it cannot run in a transaction; whether it has one is not in the text.
        Node::DropSubscriptionStmt(s) => {
            Facts::drop(kind::SUBSCRIPTION, name::plain(s.subname())).not_transactional_if(true)
        }
        Node::DropUserMappingStmt(s) => Facts::drop(kind::USER_MAPPING, name::plain(s.servername())),
        Node::DropRoleStmt(s) => Facts::drop(kind::ROLE, name::roles(s.roles())).class(Class::Role),
        Node::DropOwnedStmt(s) => {
            Facts::new("DROP OWNED", Class::Ddl).action("drop").on(kind::ROLE, name::roles(s.roles()))
        }
        _ => return None,
    })
}

fn describe(tag: &'static str, action: &'static str, kind: Kind, object: Node<'_>) -> Facts {
    Facts::new(tag, Class::Ddl).action(action).on(kind, name::object(kind, object))
}

/// A `pggit.*` setting that a function sets for as long as it runs.
pub fn function_setting<'a>(options: impl Iterator<Item = &'a nodes::DefElem>) -> Option<String> {
    options.into_iter().find_map(|option| match option.arg() {
        Node::VariableSetStmt(set) => session::setting(Some(set)),
        _ => None,
    })
}

fn is_foreign_table(sql: &str) -> bool {
    !name::of_foreign_table(sql).is_empty() && sql.len() > 6 && sql.as_bytes()[..6].eq_ignore_ascii_case(b"create")
}
