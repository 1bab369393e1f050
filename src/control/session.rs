//! One operator's session: runs commands and encodes what comes of them.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use futures::{Sink, SinkExt, stream};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::QueryParser;
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, DEFAULT_NAME, Type};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::extendedquery::{Bind, Close, Execute, Parse, TARGET_TYPE_BYTE_STATEMENT};
use pgwire::messages::response::TransactionStatus;

use super::command::{self, Command};
use super::seats::Seat;
use super::show;
use super::table::{Column, Kind, Value};
use super::{CommandError, diff, look, nearest, pause};
use crate::config::ControlRole;
use crate::history::branching::NewBranch;
use crate::history::{ChangeError, Decision};
use crate::state::{Life, Shared};

/// Prepared statements and portals of one session, together.
const MAX_NAMES: usize = 200;

/// Who is logged in.
#[derive(Debug, Clone)]
pub(super) struct Operator {
    pub(super) name: String,
    pub(super) role: ControlRole,
}

/// One connection to the control port.
pub(super) struct Session {
    shared: Arc<Shared>,
    seat: Seat,
    operator: OnceLock<Operator>,
    answered: AtomicBool,
    /// Names of prepared statements and portals, to bound them; statements for DEALLOCATE ALL.
    names: Mutex<HashSet<(Named, String)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Named {
    Statement,
    Portal,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, seat: Seat) -> Self {
        Self { shared, seat, operator: OnceLock::new(), answered: AtomicBool::new(false), names: Mutex::default() }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// True once: for the first message that answers a SASL request.
    pub(super) fn is_first_answer(&self) -> bool {
        !self.answered.swap(true, Ordering::Relaxed)
    }

    /// Completes the login; false when there are too many sessions.
    pub(super) fn admit(&self, operator: Operator) -> bool {
        self.seat.admit() && self.operator.set(operator).is_ok()
    }

    fn remember(&self, kind: Named, name: &str) -> Result<(), CommandError> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert((kind, name.to_owned()));
        if names.len() > MAX_NAMES {
            names.remove(&(kind, name.to_owned()));
            return Err(CommandError::new("53400", "too many prepared statements and portals in this session"));
        }
        Ok(())
    }

    fn forget(&self, kind: Named, name: &str) -> bool {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(&(kind, name.to_owned()))
    }

    fn operator(&self) -> Result<&Operator, CommandError> {
        self.operator.get().ok_or_else(|| CommandError::new("28000", "not logged in"))
    }

    /// For whatever changes something; says so in the log.
    fn admin(&self, command: &Command) -> Result<&str, CommandError> {
        let operator = self.operator()?;
        match operator.role {
            ControlRole::Admin => {
                tracing::info!(user = operator.name, ?command, "control: command");
                Ok(&operator.name)
            }
            ControlRole::Monitor => Err(CommandError::new("42501", "permission denied: a monitor may only SHOW")
                .hint("Log in as a user with role = \"admin\".")),
        }
    }

    /// `failed`: the transaction is; pgwire's own state lags behind inside a message of several commands.
    async fn run<C>(&self, client: &mut C, command: &Command, format: &Format, failed: bool) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if failed && !matches!(command, Command::Commit | Command::Rollback) {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(CommandError::new("25P02", message).into());
        }
        let done = |tag: &str| Ok(Response::Execution(Tag::new(tag)));
        match command {
            Command::Show(show, query) => {
                let (rows, warnings) = show::rows(*show, &self.shared, query.rows_needed()).await?;
                for warning in warnings {
                    notice(client, "WARNING", warning).await?;
                }
                Ok(Response::Query(encode("SHOW", &printed(command), query.apply(rows), format)))
            }
            Command::Diff(from, to) => {
                let branches = self.shared.branches.load_full();
                let differences = self.shared.history.diff(&branches, from, to).await.map_err(CommandError::from)?;
                let rows = differences.into_iter().map(diff::row).collect();
                Ok(Response::Query(encode("DIFF", &printed(command), rows, format)))
            }
            Command::ShowSchema(branch, moment, query) => {
                let branches = self.shared.branches.load_full();
                let facts = self.shared.history.schema(&branches, branch, moment).await.map_err(CommandError::from)?;
                let rows = facts.into_iter().map(look::fact).collect();
                Ok(Response::Query(encode("SHOW", &printed(command), query.apply(rows), format)))
            }
            Command::Blame(relation, branch) => {
                let branches = self.shared.branches.load_full();
                let branch = branch.as_deref().unwrap_or(&branches.default);
                let columns =
                    self.shared.history.blame(&branches, branch, relation).await.map_err(CommandError::from)?;
                let rows = columns.into_iter().map(look::column).collect();
                Ok(Response::Query(encode("BLAME", &printed(command), rows, format)))
            }
            Command::Reload => {
                self.admin(command)?;
                let waiting = self.reload()?;
                if !waiting.is_empty() {
                    let text = format!("these have changed in the file and need a restart: {}", waiting.join(", "));
                    notice(client, "WARNING", text).await?;
                }
                done("RELOAD")
            }
            Command::Kill(id) => {
                self.admin(command)?;
                if !self.shared.clients.kill(*id) {
                    let error = CommandError::new("22023", format!("there is no client {id}"));
                    return Err(error.hint("SHOW CLIENTS shows them.").into());
                }
                done("KILL")
            }
            Command::Shutdown { now } => {
                self.admin(command)?;
                self.shared.advance(if *now { Life::Ending } else { Life::Draining });
                done("SHUTDOWN")
            }
            Command::Pause => {
                self.admin(command)?;
                let busy = pause::hold(&self.shared).await;
                if busy > 0 {
                    let text = format!("{busy} clients are still busy; everybody else is held");
                    notice(client, "WARNING", text).await?;
                }
                done("PAUSE")
            }
            Command::Resume => {
                self.admin(command)?;
                if !self.shared.pause(false) {
                    notice(client, "NOTICE", "it was not paused".to_owned()).await?;
                }
                done("RESUME")
            }
            Command::RefuseDdl(branch) => {
                let by = self.admin(command)?;
                self.check_branch(branch)?;
                let new = self.shared.history.freeze(branch, by).await.map_err(unrecorded)?;
                self.shared.refresh();
                if !new {
                    notice(client, "NOTICE", format!("branch \"{branch}\" is frozen already")).await?;
                }
                done("REFUSE DDL")
            }
            Command::AllowDdl(branch) => {
                let by = self.admin(command)?;
                // A freeze may outlive its branch, and has to be lifted all the same.
                if !self.shared.policy.load().freezes.iter().any(|freeze| freeze.branch == *branch) {
                    self.check_branch(branch)?;
                }
                let lifted = self.shared.history.thaw(branch, by).await.map_err(unrecorded)?;
                self.shared.refresh();
                if !lifted {
                    notice(client, "NOTICE", format!("branch \"{branch}\" is not frozen")).await?;
                }
                done("ALLOW DDL")
            }
            Command::CreateBranch { name, parent, at, data } => {
                let by = self.admin(command)?.to_owned();
                let new =
                    NewBranch { name: name.clone(), parent: parent.clone(), at: *at, data: *data, by, stays: None };
                let made = self.shared.history.create_branch(self.shared.branches.load_full(), new).await;
                self.shared.refresh();
                made.map_err(CommandError::from)?;
                done("CREATE BRANCH")
            }
            Command::DropBranch(name, force) => {
                let by = self.admin(command)?.to_owned();
                let branches = self.shared.branches.load_full();
                let dropped = self.shared.history.drop_branch(branches, name.clone(), by, *force).await;
                self.shared.refresh();
                dropped.map_err(CommandError::from)?;
                done("DROP BRANCH")
            }
            Command::AlterBranch(name, what) => {
                self.admin(command)?;
                let branches = self.shared.branches.load_full();
                let altered = self.shared.history.alter_branch(branches, name.clone(), what.clone()).await;
                self.shared.refresh();
                altered.map_err(CommandError::from)?;
                done("ALTER BRANCH")
            }
            Command::ApproveChange(number) => {
                let by = self.admin(command)?;
                let own = self.shared.config.load().changes.self_approval;
                let decided = self.shared.history.decide(*number, &Decision::Approve, by, own).await;
                decided.map_err(undecided)?;
                done("APPROVE CHANGE")
            }
            Command::RejectChange(number, reason) => {
                let by = self.admin(command)?;
                let decision = Decision::Reject(reason.clone());
                self.shared.history.decide(*number, &decision, by, true).await.map_err(undecided)?;
                done("REJECT CHANGE")
            }
            Command::ApplyChange(number) => {
                let by = self.admin(command)?;
                let lock_timeout = self.shared.config.load().changes.lock_timeout;
                self.shared.history.apply(*number, by, lock_timeout).await.map_err(undecided)?;
                done("APPLY CHANGE")
            }
            Command::Begin(tag) => Ok(Response::TransactionStart(Tag::new(tag))),
            Command::Commit => Ok(Response::TransactionEnd(Tag::new(if failed { "ROLLBACK" } else { "COMMIT" }))),
            Command::Rollback => Ok(Response::TransactionEnd(Tag::new("ROLLBACK"))),
            Command::Setting(tag) => done(tag),
            Command::Deallocate(Some(name)) => {
                if !self.forget(Named::Statement, name) {
                    let message = format!("prepared statement \"{name}\" does not exist");
                    return Err(CommandError::new("26000", message).into());
                }
                client.portal_store().rm_statement(name);
                done("DEALLOCATE")
            }
            Command::Deallocate(None) => {
                let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
                names.retain(|(kind, name)| {
                    if *kind == Named::Statement {
                        client.portal_store().rm_statement(name);
                    }
                    *kind == Named::Portal
                });
                done("DEALLOCATE ALL")
            }
        }
    }

    fn reload(&self) -> Result<Vec<String>, CommandError> {
        let problems = match self.shared.reload() {
            Ok(waiting) => return Ok(waiting),
            Err(problems) => problems,
        };
        let lines: Vec<String> = problems.iter().map(|p| format!("{}: {}", p.place, p.message)).collect();
        Err(CommandError::new("F0000", "the configuration has problems; the old one stays in force")
            .detail(lines.join("\n"))
            .hint("pggit-proxy check shows the same list."))
    }

    fn check_branch(&self, name: &str) -> Result<(), CommandError> {
        let branches = self.shared.branches.load();
        if branches.all.iter().any(|branch| branch.name == name) {
            return Ok(());
        }
        let error = CommandError::new("3D000", format!("branch \"{name}\" does not exist"));
        Err(match nearest(name, branches.all.iter().map(|branch| branch.name.as_str())) {
            Some(near) => error.hint(format!("Perhaps you meant \"{near}\".")),
            None => error.hint("SHOW BRANCHES shows them."),
        })
    }
}

fn unrecorded(error: anyhow::Error) -> CommandError {
    CommandError::new("PG003", "it could not be recorded, so nothing has changed").detail(format!("{error:#}"))
}

fn undecided(error: ChangeError) -> CommandError {
    let text = error.to_string();
    match error {
        ChangeError::Unknown(_) => CommandError::new("22023", text).hint("SHOW CHANGES shows them."),
        ChangeError::Status { .. } => CommandError::new("55000", text),
        ChangeError::OwnChange { .. } => {
            CommandError::new("42501", text).hint("Somebody else approves it, or changes.self_approval allows it.")
        }
        ChangeError::Busy(_) => CommandError::new("55006", text),
        ChangeError::Failed { .. } => {
            CommandError::new("55000", text).hint("Nothing of it is left. SHOW CHANGES has it.")
        }
        ChangeError::NotNow { .. } => {
            CommandError::new("55000", text).hint("It stays approved: APPLY CHANGE tries again.")
        }
        ChangeError::Recorder(_) => {
            CommandError::new("PG003", "the repository cannot be reached, so nothing was decided").detail(text)
        }
    }
}

async fn notice<C>(client: &mut C, severity: &str, text: String) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let sqlstate = if severity == "WARNING" { "01000" } else { "00000" };
    let info = CommandError::new(sqlstate, text).info(severity);
    Ok(client.feed(PgWireBackendMessage::NoticeResponse(info.into())).await?)
}

fn fields(columns: &[&Column], format: Option<&Format>) -> Vec<FieldInfo> {
    let described = columns.iter().enumerate().map(|(at, column)| {
        let (kind, size) = match column.kind {
            Kind::Text => (Type::TEXT, -1),
            Kind::Int => (Type::INT8, 8),
            Kind::Float => (Type::FLOAT8, 8),
            Kind::Bool => (Type::BOOL, 1),
        };
        let format = format.map_or(FieldFormat::Text, |format| format.format_for(at));
        FieldInfo::new(column.name.to_owned(), None, None, kind, format).with_type_size(size)
    });
    described.collect()
}

/// The columns of what a command answers; none where it answers no rows.
fn printed(command: &Command) -> Vec<&'static Column> {
    match command {
        Command::Show(show, query) => query.columns.iter().filter_map(|at| show.columns().get(*at)).collect(),
        Command::ShowSchema(_, _, query) => query.columns.iter().filter_map(|at| look::SCHEMA.get(*at)).collect(),
        Command::Blame(..) => look::BLAME.iter().collect(),
        Command::Diff(..) => diff::COLUMNS.iter().collect(),
        _ => Vec::new(),
    }
}

fn encode(tag: &str, columns: &[&Column], rows: Vec<Vec<Value>>, format: &Format) -> QueryResponse {
    let fields = Arc::new(fields(columns, Some(format)));
    let mut encoder = DataRowEncoder::new(fields.clone());
    let rows = rows.into_iter().map(move |row| {
        for value in row {
            match value {
                Value::Null => encoder.encode_field(&None::<String>)?,
                Value::Text(text) => encoder.encode_field(&text)?,
                Value::Int(n) => encoder.encode_field(&n)?,
                Value::Float(n) => encoder.encode_field(&n)?,
                Value::Bool(truth) => encoder.encode_field(&truth)?,
            }
        }
        Ok(encoder.take_row())
    });
    let mut response = QueryResponse::new(fields, stream::iter(rows));
    response.set_command_tag(tag);
    response
}

#[async_trait]
impl SimpleQueryHandler for Session {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let mut responses = Vec::new();
        let mut failed = client.transaction_status() == TransactionStatus::Error;
        for command in command::parse(query)? {
            match self.run(client, &command, &Format::UnifiedText, failed).await {
                Ok(response) => {
                    failed &= !matches!(response, Response::TransactionEnd(_));
                    responses.push(response);
                }
                // What went before was done and is answered; what comes after is not done.
                Err(PgWireError::UserError(error)) => {
                    responses.push(Response::Error(error));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if responses.is_empty() {
            responses.push(Response::EmptyQuery);
        }
        Ok(responses)
    }
}

#[async_trait]
impl ExtendedQueryHandler for Session {
    type Statement = Command;
    type QueryParser = Grammar;

    fn query_parser(&self) -> Arc<Grammar> {
        Arc::new(Grammar)
    }

    async fn on_parse<C>(&self, client: &mut C, message: Parse) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Command>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !message.type_oids.is_empty() {
            return Err(Grammar::no_parameters().into());
        }
        let name = message.name.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let parsed = pgwire::api::stmt::StoredStatement::parse(client, &message, self.query_parser()).await?;
        self.remember(Named::Statement, &name)?;
        match parsed {
            Some(statement) => client.portal_store().put_statement(Arc::new(statement)),
            None => client.portal_store().put_empty_statement(&name),
        }
        let complete = pgwire::messages::extendedquery::ParseComplete::new();
        Ok(client.feed(PgWireBackendMessage::ParseComplete(complete)).await?)
    }

    async fn on_bind<C>(&self, client: &mut C, message: Bind) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Command>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.statement_name.as_deref().unwrap_or(DEFAULT_NAME);
        let shown = message.statement_name.as_deref().unwrap_or_default();
        let portal_name = message.portal_name.as_deref().unwrap_or(DEFAULT_NAME);
        if !message.parameters.is_empty() {
            let count = message.parameters.len();
            let text =
                format!("bind message supplies {count} parameters, but prepared statement \"{shown}\" requires 0");
            return Err(CommandError::new("08P01", text).into());
        }
        let Some(entry) = client.portal_store().get_statement(name) else {
            return Err(CommandError::new("26000", format!("prepared statement \"{shown}\" does not exist")).into());
        };
        let columns = entry.value().map_or(0, |statement| printed(&statement.statement).len());
        let formats = &message.result_column_format_codes;
        // pgwire looks a column's format up by its position, so there has to be one for each.
        if formats.len() > 1 && formats.len() != columns {
            let text = format!("bind message has {} result formats but query has {columns} columns", formats.len());
            return Err(CommandError::new("08P01", text).into());
        }
        self.remember(Named::Portal, portal_name)?;
        match entry.value() {
            Some(statement) => {
                let portal = Portal::try_new(&message, statement.clone())?;
                client.portal_store().put_portal(Arc::new(portal));
            }
            None => client.portal_store().put_empty_portal(portal_name),
        }
        let complete = pgwire::messages::extendedquery::BindComplete::new();
        Ok(client.feed(PgWireBackendMessage::BindComplete(complete)).await?)
    }

    async fn on_execute<C>(&self, client: &mut C, mut message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Command>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // pgwire makes room for this many rows at once; no table here has more than the bound.
        if !(0..=show::MAX_ROWS as i32).contains(&message.max_rows) {
            message.max_rows = 0;
        }
        self._on_execute(client, message).await
    }

    async fn on_close<C>(&self, client: &mut C, message: Close) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Command>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        if message.target_type == TARGET_TYPE_BYTE_STATEMENT {
            self.forget(Named::Statement, name);
            client.portal_store().rm_statement(name);
        } else {
            self.forget(Named::Portal, name);
            client.portal_store().rm_portal(name);
        }
        let complete = pgwire::messages::extendedquery::CloseComplete::new();
        Ok(client.feed(PgWireBackendMessage::CloseComplete(complete)).await?)
    }

    async fn do_query<C>(&self, client: &mut C, portal: &Portal<Command>, _max_rows: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Command>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let failed = client.transaction_status() == TransactionStatus::Error;
        self.run(client, &portal.statement.statement, &portal.result_column_format, failed).await
    }
}

/// The way from Parse to a command, and from a command to its columns.
pub(super) struct Grammar;

impl Grammar {
    fn no_parameters() -> CommandError {
        CommandError::new("0A000", "the control port takes no parameters").hint("Write the value into the command.")
    }
}

#[async_trait]
impl QueryParser for Grammar {
    type Statement = Command;

    async fn parse_sql<C>(&self, _client: &C, sql: &str, _types: &[Option<Type>]) -> PgWireResult<Option<Command>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let mut commands = command::parse(sql)?;
        if commands.len() > 1 {
            return Err(CommandError::new("42601", "cannot insert multiple commands into a prepared statement").into());
        }
        Ok(commands.pop())
    }

    fn get_parameter_types(&self, _command: &Command) -> PgWireResult<Vec<Type>> {
        Ok(Vec::new())
    }

    fn get_result_schema(&self, command: &Command, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        Ok(fields(&printed(command), format))
    }
}
