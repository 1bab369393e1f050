//! PostgreSQL's kinds of objects: the word for each, and the command tags made with it.

use super::tree::ObjectType::{self, *};

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// As in `pg_identify_object`, but `domain` for a domain.
    pub word: &'static str,
    /// `CREATE …`
    pub create: &'static str,
    /// `ALTER …`
    pub alter: &'static str,
    /// `DROP …`
    pub drop: &'static str,
}

macro_rules! kinds {
    ($($name:ident = $word:literal, $tag:literal;)*) => {
        $(
            #[doc = concat!("`", $tag, "`")]
            pub const $name: Kind = Kind {
                word: $word,
                create: concat!("CREATE ", $tag),
                alter: concat!("ALTER ", $tag),
                drop: concat!("DROP ", $tag),
            };
        )*
    };
}

kinds! {
    ACCESS_METHOD = "access method", "ACCESS METHOD";
    AGGREGATE = "aggregate", "AGGREGATE";
    CAST = "cast", "CAST";
    COLLATION = "collation", "COLLATION";
    COLUMN = "table column", "TABLE";
    CONVERSION = "conversion", "CONVERSION";
    DATABASE = "database", "DATABASE";
    DEFAULT_ACL = "default acl", "DEFAULT PRIVILEGES";
    DOMAIN = "domain", "DOMAIN";
    DOMAIN_CONSTRAINT = "domain constraint", "DOMAIN";
    EVENT_TRIGGER = "event trigger", "EVENT TRIGGER";
    EXTENSION = "extension", "EXTENSION";
    FOREIGN_DATA_WRAPPER = "foreign-data wrapper", "FOREIGN DATA WRAPPER";
    FOREIGN_TABLE = "foreign table", "FOREIGN TABLE";
    FUNCTION = "function", "FUNCTION";
    INDEX = "index", "INDEX";
    LANGUAGE = "language", "LANGUAGE";
    LARGE_OBJECT = "large object", "LARGE OBJECT";
    MATERIALIZED_VIEW = "materialized view", "MATERIALIZED VIEW";
    OPERATOR = "operator", "OPERATOR";
    OPERATOR_CLASS = "operator class", "OPERATOR CLASS";
    OPERATOR_FAMILY = "operator family", "OPERATOR FAMILY";
    PARAMETER = "parameter ACL", "PARAMETER";
    POLICY = "policy", "POLICY";
    PROCEDURE = "procedure", "PROCEDURE";
    PUBLICATION = "publication", "PUBLICATION";
    ROLE = "role", "ROLE";
    ROUTINE = "routine", "ROUTINE";
    RULE = "rule", "RULE";
    SCHEMA = "schema", "SCHEMA";
    SEQUENCE = "sequence", "SEQUENCE";
    SERVER = "server", "SERVER";
    STATISTICS = "statistics object", "STATISTICS";
    SUBSCRIPTION = "subscription", "SUBSCRIPTION";
    TABLE = "table", "TABLE";
    TABLE_CONSTRAINT = "table constraint", "TABLE";
    TABLESPACE = "tablespace", "TABLESPACE";
    TRANSFORM = "transform", "TRANSFORM";
    TRIGGER = "trigger", "TRIGGER";
    TS_CONFIGURATION = "text search configuration", "TEXT SEARCH CONFIGURATION";
    TS_DICTIONARY = "text search dictionary", "TEXT SEARCH DICTIONARY";
    TS_PARSER = "text search parser", "TEXT SEARCH PARSER";
    TS_TEMPLATE = "text search template", "TEXT SEARCH TEMPLATE";
    TYPE = "type", "TYPE";
    USER_MAPPING = "user mapping", "USER MAPPING";
    VIEW = "view", "VIEW";
    UNKNOWN = "object", "???";
}

impl Kind {
    /// From the grammar's number. A column's attribute of a composite type counts as its type.
    pub fn of(object_type: ObjectType::Type) -> Self {
        match object_type {
            OBJECT_ACCESS_METHOD => ACCESS_METHOD,
            OBJECT_AGGREGATE => AGGREGATE,
            OBJECT_ATTRIBUTE | OBJECT_TYPE => TYPE,
            OBJECT_CAST => CAST,
            OBJECT_COLUMN => COLUMN,
            OBJECT_COLLATION => COLLATION,
            OBJECT_CONVERSION => CONVERSION,
            OBJECT_DATABASE => DATABASE,
            OBJECT_DEFACL => DEFAULT_ACL,
            OBJECT_DOMAIN => DOMAIN,
            OBJECT_DOMCONSTRAINT => DOMAIN_CONSTRAINT,
            OBJECT_EVENT_TRIGGER => EVENT_TRIGGER,
            OBJECT_EXTENSION => EXTENSION,
            OBJECT_FDW => FOREIGN_DATA_WRAPPER,
            OBJECT_FOREIGN_SERVER => SERVER,
            OBJECT_FOREIGN_TABLE => FOREIGN_TABLE,
            OBJECT_FUNCTION => FUNCTION,
            OBJECT_INDEX => INDEX,
            OBJECT_LANGUAGE => LANGUAGE,
            OBJECT_LARGEOBJECT => LARGE_OBJECT,
            OBJECT_MATVIEW => MATERIALIZED_VIEW,
            OBJECT_OPCLASS => OPERATOR_CLASS,
            OBJECT_OPERATOR => OPERATOR,
            OBJECT_OPFAMILY => OPERATOR_FAMILY,
            OBJECT_PARAMETER_ACL => PARAMETER,
            OBJECT_POLICY => POLICY,
            OBJECT_PROCEDURE => PROCEDURE,
            OBJECT_PUBLICATION => PUBLICATION,
            OBJECT_ROLE => ROLE,
            OBJECT_ROUTINE => ROUTINE,
            OBJECT_RULE => RULE,
            OBJECT_SCHEMA => SCHEMA,
            OBJECT_SEQUENCE => SEQUENCE,
            OBJECT_SUBSCRIPTION => SUBSCRIPTION,
            OBJECT_STATISTIC_EXT => STATISTICS,
            OBJECT_TABCONSTRAINT => TABLE_CONSTRAINT,
            OBJECT_TABLE => TABLE,
            OBJECT_TABLESPACE => TABLESPACE,
            OBJECT_TRANSFORM => TRANSFORM,
            OBJECT_TRIGGER => TRIGGER,
            OBJECT_TSCONFIGURATION => TS_CONFIGURATION,
            OBJECT_TSDICTIONARY => TS_DICTIONARY,
            OBJECT_TSPARSER => TS_PARSER,
            OBJECT_TSTEMPLATE => TS_TEMPLATE,
            OBJECT_USER_MAPPING => USER_MAPPING,
            OBJECT_VIEW => VIEW,
            _ => UNKNOWN,
        }
    }
}
