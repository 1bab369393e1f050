//! What a statement is: its class, its command tag, what it touches.
//!
//! [`prefilter`] answers for nearly all plain traffic by its first keyword; [`classify`] asks
//! libpg_query; [`cache`] remembers its answers. [`Classifier`] is the one way in. [`scan`] knows
//! where strings and comments end, [`mask`] makes texts in other encodings fit for the parser.

mod cache;
mod classify;
mod mask;
mod prefilter;
mod scan;

use std::ops::Range;
use std::sync::Arc;

use cache::Cache;

/// What a text holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classified {
    /// One statement whose class is all that its first keyword tells, or nothing at all (then `other`).
    Plain(Class),
    /// What the parser saw: none for a text without statements, one that is not `parsed` for a text
    /// that it could not read.
    Statements(Arc<[Statement]>),
}

/// Classifies texts, and remembers what the parser said. One for each worker thread: it has no lock.
pub struct Classifier {
    cache: Cache,
    hits: u64,
    misses: u64,
}

impl Classifier {
    /// Remembers at most about `cache_bytes` bytes of texts and answers.
    pub fn new(cache_bytes: usize) -> Self {
        Self { cache: Cache::new(cache_bytes), hits: 0, misses: 0 }
    }

    /// What the text of a Query or Parse message holds; the parser is asked only where the first
    /// keyword does not tell.
    pub fn classify(&mut self, text: &[u8], encoding: Encoding) -> Classified {
        match prefilter::plain(text) {
            Some(class) => Classified::Plain(class),
            None => Classified::Statements(self.parse(text, encoding)),
        }
    }

    /// The same with tags and objects for every statement, from the cache or from the parser.
    pub fn parse(&mut self, text: &[u8], encoding: Encoding) -> Arc<[Statement]> {
        if let Some(known) = self.cache.get(text, encoding) {
            self.hits += 1;
            return known;
        }
        self.misses += 1;
        let statements = classify::classify(text, encoding);
        self.cache.put(text, encoding, &statements);
        statements
    }

    /// Hits and misses of the cache since the last call.
    pub fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.hits), std::mem::take(&mut self.misses))
    }
}

/// What stands for a text that is not read, because it is too long or does not parse: one statement
/// of all its bytes, without a tag.
pub fn unread(len: usize) -> Arc<[Statement]> {
    Arc::new([Statement {
        range: 0..len,
        tag: "",
        class: Class::Other,
        action: None,
        object_type: None,
        objects: Vec::new(),
        renamed_to: None,
        transactional: true,
        temporary: false,
        only_adds: false,
        parsed: false,
        control: None,
        setting: None,
        checkout: None,
    }])
}

/// The byte ranges of the pieces between a text's semicolons, where these end a statement. By the
/// lexical rules alone: for texts of which not every statement parses.
pub fn split(text: &[u8]) -> Vec<Range<usize>> {
    scan::split(text)
}

/// Whether a text can only be read in one way: nothing in it is left open, and outside of strings and comments there is no
/// backslash, which means something to psql.
pub fn is_plain(text: &[u8]) -> bool {
    // What is left open takes the semicolon in.
    let closed = [text, b"\n;"].concat();
    let mut last = None;
    let plain = scan::Scanner::new(&closed, scan::Backslash::Plain).all(|token| {
        last = Some(token.kind);
        token.kind != scan::Kind::Byte(b'\\')
    });
    plain && last == Some(scan::Kind::Byte(b';'))
}

/// Whether a text has parameters: `$1` outside of strings.
pub fn has_parameters(text: &[u8]) -> bool {
    let mut after_dollar = false;
    scan::Scanner::new(text, scan::Backslash::Plain).any(|token| {
        let digit = text.get(token.range.start).is_some_and(u8::is_ascii_digit);
        let found = after_dollar && digit;
        after_dollar = token.kind == scan::Kind::Byte(b'$');
        found
    })
}

/// The byte ranges of a text's comments. By the lexical rules alone; strings are not looked into.
pub fn comments(text: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let comments = scan::Scanner::new(text, scan::Backslash::Plain);
    comments.filter(|token| matches!(token.kind, scan::Kind::Comment { .. })).map(|token| token.range)
}

/// The lower-cased names of functions of the schema `pggit` that a text calls by their qualified name: `pggit.name(`. By the
/// lexical rules alone; strings and comments are not looked into.
pub fn called_functions(text: &[u8]) -> impl Iterator<Item = String> + '_ {
    let text = if prefilter::contains(text, b"pggit") { text } else { b"" };
    scan::called_functions(text, "pggit")
}

/// Whether a text may call `set_config`: it stands somewhere in it, in any case.
pub fn calls_set_config(text: &[u8]) -> bool {
    prefilter::contains(text, b"set_config")
}

/// The class of a statement, as rules and metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// SELECT, VALUES, COPY TO, FETCH, EXPLAIN.
    Read,
    /// INSERT, UPDATE, DELETE, MERGE, COPY FROM, TRUNCATE.
    Write,
    /// Whatever creates, alters or drops an object.
    Ddl,
    /// Roles, memberships, GRANT and REVOKE.
    Role,
    /// VACUUM, ANALYZE, REINDEX, CLUSTER, CHECKPOINT, REFRESH.
    Maintenance,
    /// BEGIN, COMMIT, SAVEPOINT and so on.
    Transaction,
    /// SET, DISCARD, PREPARE, LISTEN and so on.
    Session,
    /// DO, CALL, EXECUTE and fast-path calls: what they do cannot be seen in their text.
    Opaque,
    /// Anything else, and texts that do not parse.
    Other,
}

impl Class {
    /// Every class, in the order of its number.
    pub const ALL: [Class; 9] = [
        Class::Read,
        Class::Write,
        Class::Ddl,
        Class::Role,
        Class::Maintenance,
        Class::Transaction,
        Class::Session,
        Class::Opaque,
        Class::Other,
    ];

    /// The word used in rules, metrics, `classify` and `pggit.statements.class`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Ddl => "ddl",
            Self::Role => "role",
            Self::Maintenance => "maintenance",
            Self::Transaction => "transaction",
            Self::Session => "session",
            Self::Opaque => "opaque",
            Self::Other => "other",
        }
    }
}

/// A name as the statement's text gives it, unquoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// `None` where the text names no schema.
    pub schema: Option<String>,
    /// The last part of the name.
    pub name: String,
}

/// A statement that moves the session's transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END.
    Commit,
    /// ROLLBACK, ABORT.
    Rollback,
    /// SAVEPOINT name.
    Savepoint(String),
    /// RELEASE SAVEPOINT name.
    Release(String),
    /// ROLLBACK TO SAVEPOINT name.
    RollbackTo(String),
    /// PREPARE TRANSACTION gid.
    Prepare(String),
    /// COMMIT PREPARED gid.
    CommitPrepared(String),
    /// ROLLBACK PREPARED gid.
    RollbackPrepared(String),
}

/// One statement of a message, as the parser saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its bytes in the message's text: no leading white space or comment, no trailing `;`.
    pub range: Range<usize>,
    /// The server's command tag; empty where the text does not parse.
    pub tag: &'static str,
    /// Its class.
    pub class: Class,
    /// `create`, `alter`, `drop`, `rename`, `comment`, `grant`, `revoke`, `security` …; `None` where nothing is changed.
    pub action: Option<&'static str>,
    /// `table`, `view`, `materialized view` …, in PostgreSQL's words.
    pub object_type: Option<&'static str>,
    /// The objects named as the targets.
    pub objects: Vec<ObjectName>,
    /// The name that its one object gets.
    pub renamed_to: Option<String>,
    /// False for what cannot run inside a transaction block.
    pub transactional: bool,
    /// It makes, or visibly works on, a temporary object.
    pub temporary: bool,
    /// An ALTER after which everything is there that was there before, under the same name.
    pub only_adds: bool,
    /// False where the text does not parse: then `class` is `other` and rules treat it as DDL.
    pub parsed: bool,
    /// Set for class `transaction`.
    pub control: Option<Control>,
    /// The `pggit.*` setting (or `event_triggers`) that it sets or resets (SET, RESET, or a literal call of set_config),
    /// lower-cased.
    pub setting: Option<String>,
    /// The branch that it asks to move the session to: `SET pggit.branch = '…'`, `SELECT pggit.checkout('…')`.
    pub checkout: Option<String>,
}

impl Statement {
    /// Whether rules on `ddl` apply: known DDL, or a text nobody could read.
    pub fn may_be_ddl(&self) -> bool {
        self.class == Class::Ddl || !self.parsed
    }

    /// Whether it changes what event triggers never report: what belongs to the whole server, event triggers themselves,
    /// and what hides behind EXPLAIN ANALYZE.
    /// <https://www.postgresql.org/docs/current/event-trigger-matrix.html>
    pub fn is_untriggered(&self) -> bool {
        match self.tag {
            "CREATE ROLE" | "ALTER ROLE" | "DROP ROLE" | "GRANT ROLE" | "REVOKE ROLE" | "REASSIGN OWNED" => true,
            "ALTER DATABASE" | "ALTER TABLESPACE" => true,
            "CREATE EVENT TRIGGER" | "ALTER EVENT TRIGGER" | "DROP EVENT TRIGGER" => true,
            "EXPLAIN" => self.class == Class::Ddl,
            "GRANT" | "REVOKE" | "COMMENT" | "SECURITY LABEL" => {
                matches!(self.object_type, Some("database" | "tablespace" | "role" | "parameter ACL" | "event trigger"))
            }
            _ => false,
        }
    }

    /// Whether it may take away objects, those that it does not name among them: an ALTER may make indexes and
    /// constraints anew.
    pub fn may_drop(&self) -> bool {
        let takes = self.tag.starts_with("DROP ") || self.tag.starts_with("ALTER ");
        self.class == Class::Ddl && takes && !self.only_adds && self.action != Some("rename")
    }
}

/// How bytes from 0x80 up are to be read; nothing else about the encoding matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Encoding {
    /// UTF-8, LATIN1, EUC_*, SQL_ASCII …: a byte below 0x80 is always that ASCII character.
    #[default]
    AsciiSafe,
    /// SJIS, BIG5, GBK, UHC, GB18030, JOHAB, SHIFT_JIS_2004: the byte after a lead byte (0x81 and up) belongs to it.
    LeadByte,
}

impl Encoding {
    /// From the value of `client_encoding`.
    pub fn of(name: &str) -> Self {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        match plain.to_ascii_uppercase().as_str() {
            "SJIS" | "SHIFTJIS" | "MSKANJI" | "WIN932" | "WINDOWS932" | "BIG5" | "WIN950" | "WINDOWS950" | "GBK"
            | "WIN936" | "WINDOWS936" | "UHC" | "WIN949" | "WINDOWS949" | "GB18030" | "JOHAB" | "SHIFTJIS2004" => {
                Self::LeadByte
            }
            _ => Self::AsciiSafe,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_psql_reads_otherwise_is_not_plain() {
        for text in ["select 'a\\', $$\\$$ -- \\", "", "create table t ()", "select E'\\'', \"a\\\" /* \\ */"] {
            assert!(is_plain(text.as_bytes()), "{text}");
        }
        for text in
            ["select 'a\\' \\! id '", "select 'a", "select $x$ $y$", "/* a", "select E'a\\'", "select \"a", "\\! id"]
        {
            assert!(!is_plain(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn parameters_stand_outside_of_strings() {
        assert!(has_parameters(b"create table t as select $1::int"));
        for text in ["create table t as select '$1', $$ $1 $$, a$1, 1", "select 1 -- $1"] {
            assert!(!has_parameters(text.as_bytes()), "{text}");
        }
    }
}
