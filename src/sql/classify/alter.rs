//! What alters objects: ALTER in all its forms, GRANT, REVOKE and ownership.

use super::super::{Class, ObjectName};
use super::facts::Facts;
use super::kind::{self, Kind};
use super::schema::function_setting;
use super::session::setting;
use super::tree::{AlterSubscriptionType, AlterTableType, GrantTargetType, Node, ObjectType, nodes};
use super::{data, name};

/// `None` for statements of other kinds; `sql` are the statement's own bytes.
pub fn facts(node: Node<'_>, sql: &str) -> Option<Facts> {
    relation(node)
        .or_else(|| any_object(node))
        .or_else(|| own_form(node))
        .or_else(|| apart(node))
        .or_else(|| role(node, sql))
}

/// ALTER TABLE and its like.
fn relation(node: Node<'_>) -> Option<Facts> {
    Some(match node {
        Node::AlterTableStmt(s) => {
            let concurrently = s.cmds().iter().any(is_detach_concurrently);
            Facts::alter(Kind::of(s.objtype), name::relation(s.relation()))
                .not_transactional_if(concurrently)
                .only_adds_if(s.cmds().iter().all(only_adds))
        }
        Node::AlterTableMoveAllStmt(s) => Facts::alter(Kind::of(s.objtype), Vec::new()),
        Node::AlterSeqStmt(s) => Facts::alter(kind::SEQUENCE, name::relation(s.sequence())),
        Node::AlterPolicyStmt(s) => Facts::alter(kind::POLICY, name::beside(s.policy_name(), s.table())),
        _ => return None,
    })
}

fn is_detach_concurrently(command: Node<'_>) -> bool {
    let Node::AlterTableCmd(command) = command else { return false };
    command.subtype == AlterTableType::AT_DetachPartition
        && matches!(command.def(), Node::PartitionCmd(partition) if partition.concurrent)
}

/// What neither drops anything nor makes it anew.
fn only_adds(command: Node<'_>) -> bool {
    use AlterTableType as T;
    let Node::AlterTableCmd(command) = command else { return false };
    matches!(
        command.subtype,
        T::AT_AddColumn
            | T::AT_AddConstraint
            | T::AT_ValidateConstraint
            | T::AT_ColumnDefault
            | T::AT_SetNotNull
            | T::AT_DropNotNull
            | T::AT_SetStatistics
            | T::AT_SetOptions
            | T::AT_ResetOptions
            | T::AT_SetStorage
            | T::AT_SetCompression
            | T::AT_ChangeOwner
            | T::AT_SetRelOptions
            | T::AT_ResetRelOptions
            | T::AT_EnableRowSecurity
            | T::AT_DisableRowSecurity
            | T::AT_ForceRowSecurity
            | T::AT_NoForceRowSecurity
    )
}

/// RENAME, SET SCHEMA, OWNER TO, DEPENDS ON EXTENSION: one node each for objects of every kind.
fn any_object(node: Node<'_>) -> Option<Facts> {
    Some(match node {
        Node::RenameStmt(s) => rename(s),
        Node::AlterObjectSchemaStmt(s) => alter_any(s.object_type, s.relation(), s.object()),
        Node::AlterOwnerStmt(s) => alter_any(s.object_type, s.relation(), s.object()),
        Node::AlterObjectDependsStmt(s) => {
            let kind = Kind::of(s.object_type);
            let objects = match (s.relation(), s.object()) {
                // A trigger: its table apart, its own name in a list.
                (Some(table), Node::NodeList(list)) => {
                    name::beside(list.iter().next_back().and_then(Node::as_str), Some(table))
                }
                (Some(relation), _) => name::relation(Some(relation)),
                (None, object) => name::object(kind, object),
            };
            Facts::alter(kind, objects)
        }
        _ => return None,
    })
}

fn alter_any(object_type: ObjectType::Type, relation: Option<&nodes::RangeVar>, object: Node<'_>) -> Facts {
    let kind = Kind::of(object_type);
    let objects = if relation.is_some() { name::relation(relation) } else { name::object(kind, object) };
    Facts::alter(kind, objects)
}

fn rename(rename: &nodes::RenameStmt) -> Facts {
    // What a column belongs to gives the tag, as on the server.
    let kind = match rename.rename_type {
        ObjectType::OBJECT_COLUMN => Kind::of(rename.relation_type),
        ObjectType::OBJECT_TABCONSTRAINT => kind::TABLE,
        ObjectType::OBJECT_DOMCONSTRAINT => kind::DOMAIN,
        other => Kind::of(other),
    };
    let objects = match (kind, rename.relation()) {
        (kind::TRIGGER | kind::RULE | kind::POLICY, table) => name::beside(rename.subname(), table),
        (_, Some(relation)) => name::relation(Some(relation)),
        // Roles, databases and schemas are named like a part of something.
        (_, None) if matches!(rename.object(), Node::None) => name::plain(rename.subname()),
        (_, None) => name::object(kind, rename.object()),
    };
    let of_a_part = matches!(
        rename.rename_type,
        ObjectType::OBJECT_COLUMN
            | ObjectType::OBJECT_ATTRIBUTE
            | ObjectType::OBJECT_TABCONSTRAINT
            | ObjectType::OBJECT_DOMCONSTRAINT
    );
    let facts = Facts::alter(kind, objects).action("rename").renamed_to(rename.newname().filter(|_| !of_a_part));
    if kind == kind::ROLE { facts.class(Class::Role) } else { facts }
}

/// Kinds of objects that have an ALTER of their own.
fn own_form(node: Node<'_>) -> Option<Facts> {
    Some(match node {
        Node::AlterDomainStmt(s) => Facts::alter(kind::DOMAIN, name::listed(s.type_name())),
        Node::AlterEnumStmt(s) => Facts::alter(kind::TYPE, name::dotted(s.type_name().iter().map(|n| n.sval()))),
        Node::AlterTypeStmt(s) => Facts::alter(kind::TYPE, name::listed(s.type_name())),
        Node::AlterCollationStmt(s) => Facts::alter(kind::COLLATION, name::listed(s.collname())),
        Node::AlterStatsStmt(s) => Facts::alter(kind::STATISTICS, name::dotted(s.defnames().iter().map(|n| n.sval()))),
        Node::AlterFunctionStmt(s) => {
            let function = s.func().map_or_else(Vec::new, |function| name::listed(function.objname()));
            Facts::alter(Kind::of(s.objtype), function).setting(function_setting(s.actions().iter()))
        }
        Node::AlterOperatorStmt(s) => {
            let operator = s.opername().map_or_else(Vec::new, |operator| name::listed(operator.objname()));
            Facts::alter(kind::OPERATOR, operator)
        }
        Node::AlterOpFamilyStmt(s) => {
            Facts::alter(kind::OPERATOR_FAMILY, name::dotted(s.opfamilyname().iter().map(|n| n.sval())))
        }
        Node::AlterTSDictionaryStmt(s) => {
            Facts::alter(kind::TS_DICTIONARY, name::dotted(s.dictname().iter().map(|n| n.sval())))
        }
        Node::AlterTSConfigurationStmt(s) => {
            Facts::alter(kind::TS_CONFIGURATION, name::dotted(s.cfgname().iter().map(|n| n.sval())))
        }
        Node::AlterExtensionStmt(s) => Facts::alter(kind::EXTENSION, name::plain(s.extname())),
        Node::AlterExtensionContentsStmt(s) => Facts::alter(kind::EXTENSION, name::plain(s.extname())),
        Node::AlterFdwStmt(s) => Facts::alter(kind::FOREIGN_DATA_WRAPPER, name::plain(s.fdwname())),
        Node::AlterForeignServerStmt(s) => Facts::alter(kind::SERVER, name::plain(s.servername())),
        Node::AlterUserMappingStmt(s) => Facts::alter(kind::USER_MAPPING, name::plain(s.servername())),
        Node::AlterEventTrigStmt(s) => Facts::alter(kind::EVENT_TRIGGER, name::plain(s.trigname())),
        Node::AlterPublicationStmt(s) => Facts::alter(kind::PUBLICATION, name::plain(s.pubname())),
        Node::AlterSubscriptionStmt(s) => {
            Facts::alter(kind::SUBSCRIPTION, name::plain(s.subname())).not_transactional_if(refreshes(s))
        }
        _ => return None,
    })
}

/// Whether it fetches the publisher's list of tables, which it may not do in a transaction.
fn refreshes(subscription: &nodes::AlterSubscriptionStmt) -> bool {
    let refresh = subscription.options().iter().find(|option| option.defname() == Some("refresh"));
    match subscription.kind {
        AlterSubscriptionType::ALTER_SUBSCRIPTION_REFRESH => true,
        AlterSubscriptionType::ALTER_SUBSCRIPTION_SET_PUBLICATION
        | AlterSubscriptionType::ALTER_SUBSCRIPTION_ADD_PUBLICATION
        | AlterSubscriptionType::ALTER_SUBSCRIPTION_DROP_PUBLICATION => refresh.is_none_or(data::is_on),
        AlterSubscriptionType::ALTER_SUBSCRIPTION_OPTIONS => {
            subscription.options().iter().any(|o| matches!(o.defname(), Some("failover" | "two_phase")))
        }
        _ => false,
    }
}

/// The cluster's own objects.
fn apart(node: Node<'_>) -> Option<Facts> {
    Some(match node {
        Node::AlterDatabaseStmt(s) => {
            let moves = s.options().iter().any(|option| option.defname() == Some("tablespace"));
            Facts::alter(kind::DATABASE, name::plain(s.dbname())).not_transactional_if(moves)
        }
        Node::AlterDatabaseRefreshCollStmt(s) => Facts::alter(kind::DATABASE, name::plain(s.dbname())),
        Node::AlterDatabaseSetStmt(s) => {
            Facts::alter(kind::DATABASE, name::plain(s.dbname())).setting(setting(s.setstmt()))
        }
        Node::AlterTableSpaceOptionsStmt(s) => Facts::alter(kind::TABLESPACE, name::plain(s.tablespacename())),
        Node::AlterSystemStmt(s) => Facts::new("ALTER SYSTEM", Class::Ddl)
            .action("alter")
            .not_transactional_if(true)
            .setting(setting(s.setstmt())),
        _ => return None,
    })
}

/// Roles, privileges and ownership.
fn role(node: Node<'_>, sql: &str) -> Option<Facts> {
    let role = |tag, action, objects| Facts::new(tag, Class::Role).action(action).on(kind::ROLE, objects);
    let named = |role: Option<&nodes::RoleSpec>| name::plain(role.and_then(|role| role.rolename()));
    Some(match node {
        Node::AlterRoleStmt(s) => role("ALTER ROLE", "alter", named(s.role())),
        Node::AlterRoleSetStmt(s) => role("ALTER ROLE", "alter", named(s.role())).setting(setting(s.setstmt())),
        Node::GrantRoleStmt(s) if s.is_grant => role("GRANT ROLE", "grant", name::roles(s.granted_roles())),
        Node::GrantRoleStmt(s) => role("REVOKE ROLE", "revoke", name::roles(s.granted_roles())),
        Node::ReassignOwnedStmt(s) => role("REASSIGN OWNED", "alter", name::roles(s.roles())),
        Node::AlterDefaultPrivilegesStmt(_) => Facts::alter(kind::DEFAULT_ACL, Vec::new()).class(Class::Role),
        Node::GrantStmt(s) => {
            let kind = Kind::of(s.objtype);
            let (tag, action) = if s.is_grant { ("GRANT", "grant") } else { ("REVOKE", "revoke") };
            Facts::new(tag, Class::Role).action(action).on(kind, granted(s, kind, sql))
        }
        _ => return None,
    })
}

fn granted(grant: &nodes::GrantStmt, kind: Kind, sql: &str) -> Vec<ObjectName> {
    let all_in_schema = grant.targtype == GrantTargetType::ACL_TARGET_ALL_IN_SCHEMA;
    match grant.objtype {
        ObjectType::OBJECT_TABLE | ObjectType::OBJECT_SEQUENCE if !all_in_schema => {
            grant.objects().iter().flat_map(|relation| name::relation(Some(relation))).collect()
        }
        _ => name::of_grant(sql, kind, all_in_schema),
    }
}
