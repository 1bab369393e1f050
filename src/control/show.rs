//! What each SHOW prints: its columns, and the rows made from what the proxy knows now.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};

use super::CommandError;
use super::command::COMMANDS;
use super::table::{Column, Kind, Value};
use crate::branch::Origin;
use crate::change::Recording;
use crate::config::Config;
use crate::history::Rows;
use crate::policy::Rule;
use crate::state::{Client, Life, Shared};

/// Rows of `SHOW HISTORY` taken from each branch, and rows of `SHOW STATEMENTS`: the newest.
pub const NEWEST: usize = 1000;

/// Rows of one SHOW at most.
pub const MAX_ROWS: usize = 50_000;

/// Branches whose history is read at the same time.
const BRANCHES_AT_ONCE: usize = 4;

/// Rows of a table, in its columns' order.
type Table = Vec<Vec<Value>>;

/// What there is to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// The commands.
    Help,
    /// The program.
    Version,
    /// The configuration in force.
    Config,
    /// Client connections.
    Clients,
    /// Connections to the server.
    Servers,
    /// Totals since the start.
    Stats,
    /// Branches.
    Branches,
    /// `pggit.history` of every branch.
    History,
    /// `pggit.statements`.
    Statements,
    /// `pggit.change_requests`.
    Changes,
    /// Rules in force.
    Rules,
    /// What works and what does not.
    Health,
}

macro_rules! columns {
    ($($constant:ident: $($name:literal $kind:ident $about:literal,)*;)*) => {
        $(const $constant: &[Column] = &[$(Column { name: $name, kind: Kind::$kind, about: $about },)*];)*
    };
}

columns! {
    HELP:
        "command" Text "syntax",
        "role" Text "who may use it: `monitor` (so may an admin) or `admin`",
        "description" Text "what it does",;
    VERSION:
        "version" Text "of pggit-proxy",
        "pid" Int "the process",
        "state" Text "`serving`, `paused`, `draining` or `ending`",
        "uptime_seconds" Int "seconds since the start",;
    CONFIG:
        "key" Text "section and key, as in the file",
        "value" Text "in force now; secrets are never shown",
        "origin" Text "`default`, `file`, `environment` or `flag`",;
    CLIENTS:
        "id" Int "the number that KILL takes",
        "user" Text "login name; NULL before login",
        "database" Text "on the server; NULL before login",
        "branch" Text "NULL on a database that is no branch",
        "application_name" Text "as the client says",
        "client_addr" Text "address; NULL for a unix socket",
        "client_port" Int "NULL for a unix socket",
        "state" Text "`login`, `idle`, `active`, `idle in transaction`, `waiting` for the recorder, a decision or another branch, `paused`, or `held` while its branch is copied",
        "backend_pid" Int "process id of the session's server connection; NULL before login",
        "statements" Int "so far",
        "bytes_in" Int "bytes from the client so far",
        "bytes_out" Int "bytes to the client so far",
        "connected_at" Text "time, UTC",
        "session" Text "`session_id` of its rows in `pggit.history` and `pggit.statements`",
        "tls" Text "version of TLS with the client, such as `TLSv1.3`; empty without",
        "rerouted_from" Text "the branch that it asked for, where a rule sent it to another; NULL: it is where it wants to be",;
    SERVERS:
        "backend_pid" Int "process id on the server; NULL while it logs in",
        "client" Int "the client that it serves, as in SHOW CLIENTS",
        "address" Text "host and port, or the socket",
        "user" Text "login name",
        "database" Text "on the server",
        "branch" Text "NULL on a database that is no branch",
        "state" Text "as in SHOW CLIENTS",;
    STATS:
        "name" Text "what is counted",
        "label" Text "of which kind; empty where there is one kind",
        "value" Int "since the start, or now (`clients`, `history_pending`, `uptime`)",
        "unit" Text "`count`, `bytes`, `microseconds` or `seconds`",;
    BRANCHES:
        "name" Text "as clients write it",
        "database" Text "on the server",
        "default" Bool "the branch of a client that names none",
        "protected" Bool "schema changes are refused unless a rule allows them",
        "frozen_by" Text "who refused DDL on it; NULL: not frozen",
        "parent" Text "the branch it was made from, where known",
        "origin" Text "`configuration` or `table` (`pggit.branches`)",
        "recording" Text "`ready`, `broken` or `not required`",
        "clients" Int "logged in now",
        "fork_commit" Text "the parent's newest commit when the branch was made from it; NULL in this and the next columns: not known",
        "ahead" Int "commits on the branch since then",
        "behind" Int "commits on the parent since then",
        "size" Int "bytes of its database",
        "sessions" Int "in its database, whichever way they came, without the recorder's",
        "last_change" Text "time of its last recorded change",
        "expires_at" Text "when it is dropped, or as soon after that as nobody is on it; NULL: never",;
    HISTORY:
        "id" Text "of the row (uuid)",
        "commit_id" Text "all changes of one transaction share it",
        "session_id" Text "of the client's session",
        "statement_id" Text "of the row in `pggit.statements`",
        "branch" Text "where it was made",
        "change_type" Text "CREATE, ALTER, DROP, RENAME, COMMENT, GRANT, REVOKE, SECURITY",
        "change_severity" Text "MAJOR, MINOR or PATCH",
        "command_tag" Text "the server's",
        "object_type" Text "in PostgreSQL's words",
        "schema_name" Text "of the object",
        "object_name" Text "of the object",
        "object_identity" Text "as PostgreSQL identifies it",
        "old_definition" Text "where PostgreSQL can print it",
        "new_definition" Text "where PostgreSQL can print it",
        "sql_executed" Text "the statement's text",
        "captured_by" Text "trigger, inject, intent or probe",
        "via_proxy" Bool "false: made on a connection that went round the proxy",
        "created_at" Text "time",
        "created_by" Text "session user",
        "role_name" Text "role in force",
        "application_name" Text "of the session",
        "client_addr" Text "the client's address",
        "client_port" Int "the client's port",
        "backend_pid" Int "of the server connection",
        "xid" Text "the transaction",
        "rerouted_from" Text "the branch that it was meant for, where a rule sent it here; NULL: it was not",;
    STATEMENTS:
        "id" Text "of the row (uuid)",
        "session_id" Text "of the client's session",
        "database" Text "on the server",
        "branch" Text "NULL on a database that is no branch",
        "command_tag" Text "the server's",
        "class" Text "read, write, ddl, role, maintenance, transaction, session, opaque or other",
        "sql" Text "its text",
        "verdict" Text "allow, refuse, queue or reroute",
        "rule" Text "that said so; NULL where none matched",
        "outcome" Text "applied, failed, refused, queued, rerouted, rolled_back or unknown",
        "sqlstate" Text "of the error",
        "error" Text "its message",
        "created_by" Text "login name",
        "application_name" Text "at that time",
        "client_addr" Text "the client's address",
        "client_port" Int "the client's port",
        "proxy" Text "which proxy saw it",
        "started_at" Text "time",
        "duration_ms" Float "milliseconds from arrival to completion",
        "rerouted_to" Text "the branch where a rule had it run instead; NULL: none",;
    CHANGES:
        "number" Int "that APPROVE, REJECT and APPLY take",
        "status" Text "`pending`, `approved`, `rejected`, `applied`, `failed` or `expired`",
        "branch" Text "where it is to be made",
        "author" Text "who asked: the session user",
        "command_tag" Text "the server's",
        "sql" Text "its text, without passwords",
        "rule" Text "that queued it",
        "created_at" Text "time",
        "expires_at" Text "time; until then it has to be approved and applied",
        "decided_by" Text "the control user who approved or rejected it",
        "decided_at" Text "time",
        "reason" Text "why it was rejected",
        "applied_by" Text "the control user who had it applied, or its author, who ran it",
        "applied_at" Text "time, also of one that failed",
        "error" Text "why it failed; of one that is still approved: why it could not be applied at the last try",
        "base_commit" Text "the branch's newest commit when it was asked for",
        "objects" Text "that its text names",
        "class" Text "as in SHOW STATEMENTS",
        "transactional" Bool "false: it cannot run inside a transaction",
        "findings" Text "what `lint` found, in full, while it was pending: what takes how long, who would wait, what to do instead; NULL where a rule queued it",
        "settings" Text "of the session that asked, as far as they are known (JSON)",
        "repeated" Int "how often the same statement was sent again while it was open",
        "application_name" Text "at that time",
        "client_addr" Text "the client's address",
        "client_port" Int "the client's port",
        "database" Text "on the server",
        "id" Text "also of its row in `pggit.statements` (uuid)",
        "session_id" Text "of the client's session",
        "proxy" Text "which proxy saw it",;
    RULES:
        "position" Int "rules are tried in this order, the first match decides",
        "name" Text "of the rule",
        "branch" Text "glob; NULL in this and the next columns: matches everything",
        "user" Text "glob",
        "application" Text "glob",
        "client" Text "networks",
        "class" Text "statement classes",
        "tag" Text "glob on the command tag",
        "object" Text "glob on schema.name",
        "action" Text "`allow`, `refuse`, `queue` or `reroute`",
        "to" Text "the branch that the rule reroutes to; NULL: it does not",
        "expires" Text "how long a change request may wait; NULL: the rule does not queue",
        "wait" Text "how long clients wait for the decision; NULL: not at all",
        "message" Text "the error's message, instead of the standard one",
        "hint" Text "the error's hint, instead of the standard one",;
    HEALTH:
        "branch" Text "where it was checked; empty for the process",
        "check" Text "what was checked",
        "ok" Bool "whether it is well",
        "message" Text "what was found",;
}

impl Show {
    /// All there is, in the order of SHOW HELP.
    pub const ALL: [Show; 12] = [
        Self::Help,
        Self::Version,
        Self::Config,
        Self::Clients,
        Self::Servers,
        Self::Stats,
        Self::Branches,
        Self::History,
        Self::Statements,
        Self::Changes,
        Self::Rules,
        Self::Health,
    ];

    /// The word after SHOW.
    pub fn name(self) -> &'static str {
        match self {
            Self::Help => "HELP",
            Self::Version => "VERSION",
            Self::Config => "CONFIG",
            Self::Clients => "CLIENTS",
            Self::Servers => "SERVERS",
            Self::Stats => "STATS",
            Self::Branches => "BRANCHES",
            Self::History => "HISTORY",
            Self::Statements => "STATEMENTS",
            Self::Changes => "CHANGES",
            Self::Rules => "RULES",
            Self::Health => "HEALTH",
        }
    }

    /// What it shows, in one line.
    pub fn about(self) -> &'static str {
        match self {
            Self::Help => "the commands of the control port",
            Self::Version => "the program and its process",
            Self::Config => "the configuration in force",
            Self::Clients => "every client connection",
            Self::Servers => "every client's connection to the server",
            Self::Stats => "totals since the start",
            Self::Branches => "the branches, and whether changes on them can be recorded",
            Self::History => "recorded schema changes, the newest 1000 of each branch",
            Self::Statements => "the statement log: the newest 1000 DDL, role and refused statements",
            Self::Changes => "change requests: the newest 1000 statements that wait for approval, or did",
            Self::Rules => "the rules in force, in order",
            Self::Health => "what works and what does not",
        }
    }

    /// Its columns; known without running it.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Help => HELP,
            Self::Version => VERSION,
            Self::Config => CONFIG,
            Self::Clients => CLIENTS,
            Self::Servers => SERVERS,
            Self::Stats => STATS,
            Self::Branches => BRANCHES,
            Self::History => HISTORY,
            Self::Statements => STATEMENTS,
            Self::Changes => CHANGES,
            Self::Rules => RULES,
            Self::Health => HEALTH,
        }
    }
}

/// The rows of a SHOW, and what the user should be warned of. `needed`: no more rows than these will be looked at.
pub async fn rows(show: Show, shared: &Shared, needed: Option<usize>) -> Result<(Table, Vec<String>), CommandError> {
    let newest = u32::try_from(needed.unwrap_or(NEWEST).min(NEWEST)).unwrap_or(u32::MAX);
    let table = match show {
        Show::Help => help(),
        Show::Version => version(shared),
        Show::Config => configuration(&shared.config.load()),
        Show::Clients => shared.clients.list().iter().map(|client| client_row(client)).collect(),
        Show::Servers => shared.clients.list().iter().filter_map(|client| server_row(client)).collect(),
        Show::Stats => stats(shared),
        Show::Branches => branches(shared).await,
        Show::History => return history(shared, newest).await,
        Show::Statements => {
            let read = shared.history.statements(newest).await.map_err(|error| {
                CommandError::new("08006", "the statement log cannot be read now").detail(format!("{error:#}"))
            })?;
            from_server(read, STATEMENTS)
        }
        Show::Changes => {
            let read = shared.history.changes(newest).await.map_err(|error| {
                CommandError::new("08006", "change requests cannot be read now").detail(format!("{error:#}"))
            })?;
            from_server(read, CHANGES)
        }
        Show::Rules => shared.policy.load().rules.iter().enumerate().map(|(at, rule)| rule_row(at, rule)).collect(),
        Show::Health => health(shared),
    };
    Ok((table, Vec::new()))
}

fn help() -> Table {
    let tail = "[columns] [WHERE …] [ORDER BY …] [LIMIT n] [OFFSET n]";
    let shows = Show::ALL
        .iter()
        .map(|show| vec![format!("SHOW {} {tail}", show.name()).into(), "monitor".into(), show.about().into()]);
    let others = COMMANDS.iter().map(|help| vec![help.syntax.into(), help.role.into(), help.about.into()]);
    shows.chain(others).collect()
}

fn life_word(shared: &Shared) -> &'static str {
    match *shared.life.borrow() {
        Life::Serving if shared.clients.pause.is_on() => "paused",
        Life::Serving => "serving",
        Life::Draining => "draining",
        Life::Ending => "ending",
    }
}

fn version(shared: &Shared) -> Table {
    vec![vec![
        env!("CARGO_PKG_VERSION").into(),
        Value::count(std::process::id()),
        life_word(shared).into(),
        Value::count(shared.started.elapsed().as_secs()),
    ]]
}

fn configuration(config: &Config) -> Table {
    config.summary().into_iter().map(|(key, value, origin)| vec![key.into(), value.into(), origin.into()]).collect()
}

fn client_row(client: &Client) -> Vec<Value> {
    let facts = client.facts.load_full();
    let facts = facts.as_ref();
    let peer = client.peer.load_full();
    let pid = client.backend_pid.load(Relaxed);
    let application = client.application.lock().unwrap_or_else(PoisonError::into_inner).clone();
    vec![
        Value::count(client.id),
        facts.map(|facts| facts.user.clone()).into(),
        facts.map(|facts| facts.database.clone()).into(),
        facts.and_then(|facts| facts.branch.clone()).into(),
        application.into(),
        peer.as_ref().map(|peer| peer.ip().to_canonical().to_string()).into(),
        peer.as_ref().map_or(Value::Null, |peer| Value::count(peer.port())),
        client.client_state().as_str().into(),
        if pid == 0 { Value::Null } else { Value::count(pid) },
        Value::count(client.statements.load(Relaxed)),
        Value::count(client.bytes_in.load(Relaxed)),
        Value::count(client.bytes_out.load(Relaxed)),
        time(client.connected_at).into(),
        facts.map(|facts| facts.id.to_string()).into(),
        client.tls.get().copied().unwrap_or_default().into(),
        facts.and_then(|facts| Some(facts.rerouted.as_ref()?.from.clone())).into(),
    ]
}

/// `None` for a client that has no server yet.
fn server_row(client: &Client) -> Option<Vec<Value>> {
    let (address, facts) = (client.server.load_full()?, client.facts.load_full()?);
    let pid = client.backend_pid.load(Relaxed);
    Some(vec![
        if pid == 0 { Value::Null } else { Value::count(pid) },
        Value::count(client.id),
        address.as_str().into(),
        facts.user.clone().into(),
        facts.database.clone().into(),
        facts.branch.clone().into(),
        client.client_state().as_str().into(),
    ])
}

fn stats(shared: &Shared) -> Table {
    let mut all: Table = vec![
        vec!["uptime".into(), "".into(), Value::count(shared.started.elapsed().as_secs()), "seconds".into()],
        vec!["clients".into(), "".into(), Value::count(shared.clients.len()), "count".into()],
        vec!["history_pending".into(), "".into(), Value::count(shared.history.pending()), "count".into()],
    ];
    shared.metrics.probe_changes(shared.history.probed());
    for stat in shared.metrics.stats() {
        all.push(vec![stat.name.into(), stat.label.into(), Value::count(stat.value), stat.unit.into()]);
    }
    all
}

async fn branches(shared: &Shared) -> Table {
    let facts = shared.history.branch_facts().await;
    let (branches, policy) = (shared.branches.load(), shared.policy.load());
    let clients = shared.clients.list();
    let is_on = |client: &Client, name: &str| {
        client.facts.load().as_ref().is_some_and(|facts| facts.branch.as_deref() == Some(name))
    };
    let row = |branch: &crate::branch::Branch| {
        let frozen = policy.freezes.iter().find(|freeze| freeze.branch == branch.name);
        let facts = facts.get(&branch.name).cloned().unwrap_or_default();
        let int = |n: Option<i64>| n.map_or(Value::Null, Value::Int);
        vec![
            branch.name.as_str().into(),
            branch.database.as_str().into(),
            Value::Bool(branch.name == branches.default),
            Value::Bool(branch.protected),
            frozen.map(|freeze| freeze.by.clone()).into(),
            branch.parent.clone().into(),
            match branch.origin {
                Origin::Configuration => "configuration".into(),
                Origin::Table => "table".into(),
            },
            match shared.history.recording(&branch.name) {
                Recording::NotRequired => "not required".into(),
                Recording::Ready(_) => "ready".into(),
                Recording::Broken => "broken".into(),
            },
            Value::count(clients.iter().filter(|client| is_on(client, &branch.name)).count()),
            facts.fork_commit.map(|id| id.to_string()).into(),
            int(facts.ahead),
            int(facts.behind),
            int(facts.size),
            int(facts.sessions),
            facts.changed_at.map(time).into(),
            facts.expires_at.map(time).into(),
        ]
    };
    branches.all.iter().map(|branch| row(branch)).collect()
}

fn rule_row(at: usize, rule: &Rule) -> Vec<Value> {
    std::iter::once(Value::count(at + 1)).chain(rule.describe().into_iter().map(Value::from)).collect()
}

fn health(shared: &Shared) -> Table {
    let config = shared.config.load();
    let (clients, most) = (shared.clients.len(), config.listen.max_clients);
    let life = life_word(shared);
    let own = [
        ("process", life == "serving", format!("pggit-proxy {} is {life}", env!("CARGO_PKG_VERSION"))),
        ("clients", clients < most, format!("{clients} of {most}")),
    ];
    let own = own.into_iter().map(|(check, ok, text)| vec!["".into(), check.into(), Value::Bool(ok), text.into()]);
    let seen = shared
        .history
        .health()
        .into_iter()
        .map(|row| vec![row.branch.into(), row.check.into(), Value::Bool(row.ok), row.message.into()]);
    own.chain(seen).collect()
}

/// Newest first, over all branches. A branch starts with its parent's history, so a row may be found on several.
async fn history(shared: &Shared, newest: u32) -> Result<(Table, Vec<String>), CommandError> {
    let branches = shared.branches.load_full();
    let names: Vec<String> = branches.all.iter().map(|branch| branch.name.clone()).collect();
    let reads = names.into_iter().map(|name| async move {
        let read = shared.history.history(&name, newest).await;
        (name, read)
    });
    let reads: Vec<_> = stream::iter(reads).buffered(BRANCHES_AT_ONCE).collect().await;
    let (mut table, mut warnings, mut read_any) = (Table::new(), Vec::new(), reads.is_empty());
    for (name, read) in reads {
        match read {
            Ok(read) => {
                read_any = true;
                table.extend(from_server(read, HISTORY));
            }
            Err(error) => warnings.push(format!("the history of branch \"{name}\" cannot be read now: {error:#}")),
        }
    }
    if !read_any {
        return Err(CommandError::new("08006", "the history cannot be read now").detail(warnings.join("\n")));
    }
    let created_at = HISTORY.iter().position(|column| column.name == "created_at").unwrap_or(0);
    table.sort_by(|a, b| cell(b, created_at).compare(cell(a, created_at)).unwrap_or(std::cmp::Ordering::Equal));
    let mut seen = std::collections::HashSet::new();
    table.retain(|row| match cell(row, 0) {
        Value::Text(id) => seen.insert(id.clone()),
        Value::Null | Value::Int(_) | Value::Float(_) | Value::Bool(_) => true,
    });
    table.truncate(MAX_ROWS);
    Ok((table, warnings))
}

fn cell(row: &[Value], at: usize) -> &Value {
    row.get(at).unwrap_or(&Value::Null)
}

/// Puts a table of the server's into our columns, by name; a column that it does not have is NULL.
fn from_server(read: Rows, columns: &[Column]) -> Table {
    let places: Vec<Option<usize>> =
        columns.iter().map(|column| read.columns.iter().position(|name| name == column.name)).collect();
    let convert = |mut row: Vec<Option<String>>| {
        let cells = columns.iter().zip(&places).map(|(column, place)| {
            let text = place.and_then(|place| row.get_mut(place)).and_then(Option::take);
            Value::read(text, column.kind)
        });
        cells.collect()
    };
    read.rows.into_iter().take(MAX_ROWS).map(convert).collect()
}

pub(super) fn time(at: impl Into<DateTime<Utc>>) -> String {
    at.into().format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_rows_are_placed_by_name_and_kind() {
        let read = Rows {
            columns: vec!["sql".into(), "duration_ms".into(), "id".into(), "extra".into()],
            rows: vec![vec![Some("create table t()".into()), Some("1.25".into()), Some("x".into()), None]],
        };
        let table = from_server(read, STATEMENTS);
        let at = |name| STATEMENTS.iter().position(|column| column.name == name).unwrap_or(usize::MAX);
        let row = table.first().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(cell(row, at("id")), &Value::from("x"));
        assert_eq!(cell(row, at("duration_ms")), &Value::Float(1.25));
        assert_eq!(cell(row, at("error")), &Value::Null);
        assert_eq!(row.len(), STATEMENTS.len());
    }

    #[test]
    fn rules_have_a_column_for_each_field() {
        let names: Vec<&str> = RULES.iter().skip(1).map(|column| column.name).collect();
        assert_eq!(names, Rule::FIELDS);
    }

    #[test]
    fn times_sort_as_text() {
        assert_eq!(time(DateTime::UNIX_EPOCH), "1970-01-01 00:00:00.000000+00");
    }
}
