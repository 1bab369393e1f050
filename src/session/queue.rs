//! Statements that a rule queues: the recorder writes them down as change requests while they are held, and the client gets an
//! error with the number.
//!
//! A request is made only for what the server would run now: what was sent before is answered first (with a Flush of ours,
//! which is owed nothing), so that a statement that the server skips after an error makes none.
//!
//! Where the requests are there already, and approved, the statements go on: with a call that notes in their own transaction
//! whose requests they are ([`super::companion`]).

use uuid::Uuid;

use super::companion::takes_calls;
use super::judge::unrecordable;
use super::lint::Said;
use super::turn::{COPYING, Pause, Turn};
use super::{Effects, Env, Session};
use crate::change::{ChangeRequest, Enqueued, Noted, Recording, Run};
use crate::policy::{Queued, Refusal, Verdict};
use crate::sql::Statement;

/// Settings that the server reports and that change what a text means.
const SETTINGS: [&str; 5] = ["search_path", "standard_conforming_strings", "DateStyle", "IntervalStyle", "TimeZone"];

/// A longer value is no setting that anybody needs; it is left out.
const MAX_SETTING: usize = 1024;

/// What is known of the settings that change what a text means.
#[derive(Debug, Default)]
pub(super) struct Settings(Vec<(&'static str, Box<str>)>);

impl Settings {
    /// The server reported a parameter.
    pub fn reported(&mut self, name: &[u8], value: &str) {
        let Some(name) = SETTINGS.into_iter().find(|known| known.as_bytes() == name) else { return };
        self.0.retain(|(known, _)| *known != name);
        if value.len() <= MAX_SETTING {
            self.0.push((name, value.into()));
        }
    }

    fn known(&self) -> Vec<(&'static str, String)> {
        self.0.iter().map(|(name, value)| (*name, value.to_string())).collect()
    }
}

/// The statement at the front, where a rule queues it.
#[derive(Debug, Default)]
pub(super) enum Front {
    #[default]
    None,
    /// The requests are on their way to the recorder.
    Asked(Question),
    Answered(Question, Enqueued),
    /// These statements were approved, and may pass.
    Released(Vec<Released>),
}

/// The statements of one message that rules queue.
#[derive(Debug)]
pub(super) struct Question {
    /// The key of the first one's request.
    id: Uuid,
    statements: Vec<Asked>,
}

#[derive(Debug)]
struct Asked {
    /// Its place in the text.
    at: usize,
    queued: Queued,
    /// See [`ChangeRequest::runs_here`].
    runs_here: bool,
}

/// A statement that was approved.
#[derive(Debug)]
pub(super) struct Released {
    /// Its place in the text.
    at: usize,
    pub rule: String,
    how: How,
}

#[derive(Debug)]
enum How {
    /// The request says that it is the statement with this key in the log, and nobody else runs it.
    Alone(Uuid),
    /// The statement's transaction says that it is this request.
    Noted(Noted),
}

impl Released {
    /// The key for the statement's row in the log, where the request names it.
    pub fn key(&self) -> Option<Uuid> {
        match self.how {
            How::Alone(key) => Some(key),
            How::Noted(_) => None,
        }
    }

    /// The request that the statement's transaction has to name.
    pub fn noted(&self) -> Option<&Noted> {
        match &self.how {
            How::Alone(_) => None,
            How::Noted(noted) => Some(noted),
        }
    }

    /// The same, for the statement's row in the log.
    pub fn run(&self) -> Option<Run> {
        self.noted().map(|noted| Run { request: noted.id, moved: noted.moved })
    }
}

impl Front {
    /// What is known of the statement, where it is one that was approved.
    pub fn released(&self, statement: &Statement) -> Option<&Released> {
        match self {
            Self::Released(all) => all.iter().find(|released| released.at == statement.range.start),
            Self::None | Self::Asked(_) | Self::Answered(..) => None,
        }
    }

    /// The frame at the front is through: an answer that nobody took (the rules have changed) is no other statement's.
    #[inline]
    pub fn passed(&mut self) {
        if !matches!(self, Self::None) {
            *self = Self::None;
        }
    }
}

/// What comes of a statement that a rule queues.
pub(super) enum Held {
    /// It was approved: judge it again.
    Again,
    /// The server will not run it anyway.
    Ignored,
    /// Substitute it; the key of its row in the statement log, where it became a request.
    Refuse(Refusal, Option<Uuid>),
}

/// A statement, and its text where that can be kept.
pub(super) struct Kept<'a> {
    pub statement: &'a Statement,
    pub sql: Option<&'a str>,
    /// No other stands before it in its message.
    pub is_first: bool,
    /// Calls of ours can stand around it, in one transaction with it.
    pub takes_calls: bool,
}

impl Session {
    /// What comes of a statement that a rule queues. `later` are those behind it in the same text: they become requests, too.
    pub(super) fn hold<'a>(
        &mut self,
        queued: &Queued,
        kept: &Kept<'a>,
        later: impl Iterator<Item = Kept<'a>>,
        env: &Env<'_>,
        fx: &mut Effects,
    ) -> Result<Held, Pause> {
        match std::mem::take(&mut self.queue) {
            Front::Answered(question, answer) => return Ok(self.answered(question, answer, queued, kept.statement)),
            Front::None | Front::Asked(_) | Front::Released(_) => {}
        }
        match self.turn()? {
            // And so is everything behind it in the same text.
            Turn::Come if kept.is_first && self.is_aborted() => return Ok(Held::Ignored),
            Turn::Come => {}
            Turn::Never => return Ok(Held::Ignored),
            Turn::Copying => return Ok(Held::Refuse(queued.impossible(COPYING), None)),
        }
        let first = match self.request(queued, kept, env) {
            Ok(request) => request,
            Err(refusal) => return Ok(Held::Refuse(refusal, None)),
        };
        let mut question = Question { id: first.id, statements: vec![Asked::new(queued.clone(), kept, &first)] };
        let mut requests = vec![first];
        for kept in later {
            let queued = match (env.policy.judge(&self.who(), kept.statement), self.lint.says(kept.statement)) {
                (Verdict::Queue(queued), _) => queued,
                (Verdict::Allow(_), Some(Said::Queue(queued))) => queued.as_ref().clone(),
                _ => continue,
            };
            match self.request(&queued, &kept, env) {
                Ok(request) => {
                    question.statements.push(Asked::new(queued, &kept, &request));
                    requests.push(request);
                }
                Err(refusal) => return Ok(Held::Refuse(refusal, None)),
            }
        }
        if let [one] = requests.as_mut_slice() {
            one.wait = queued.queueing.wait;
        }
        self.queue = Front::Asked(question);
        fx.requests = requests;
        Err(Pause::Ask)
    }

    /// What the recorder's answer means for the first of the statements.
    fn answered(&mut self, question: Question, answer: Enqueued, queued: &Queued, statement: &Statement) -> Held {
        let Question { id, statements } = question;
        let noted = match answer {
            Enqueued::Noted(noted) => noted,
            Enqueued::Released => {
                let (at, rule) = (statement.range.start, queued.rule.clone());
                self.queue = Front::Released(vec![Released { at, rule, how: How::Alone(id) }]);
                return Held::Again;
            }
            Enqueued::Busy => return Held::Refuse(queued.busy(), Some(id)),
            Enqueued::Closed(number, why) => return Held::Refuse(queued.closed(number, &why), Some(id)),
            Enqueued::Cancelled(number) => return Held::Refuse(queued.cancelled(number), Some(id)),
            Enqueued::Failed(reason) => return Held::Refuse(unrecordable(statement, reason), None),
        };
        let all = || statements.iter().zip(&noted);
        let open: Vec<i64> =
            noted.iter().filter(|noted| noted.approved_by.is_none()).map(|noted| noted.number).collect();
        if let Some((asked, _)) = all().find(|(_, noted)| noted.approved_by.is_none()) {
            let run_again = statements.iter().all(|asked| asked.runs_here) || !statement.transactional;
            return Held::Refuse(asked.queued.refusal(&open, run_again), Some(id));
        }
        if let Some((asked, noted)) = all().find(|(asked, _)| !asked.runs_here) {
            return Held::Refuse(asked.queued.only_applied(noted.number), Some(id));
        }
        let released = statements.into_iter().zip(noted).map(|(asked, noted)| Released {
            at: asked.at,
            rule: asked.queued.rule,
            how: How::Noted(noted),
        });
        self.queue = Front::Released(released.collect());
        Held::Again
    }

    /// The recorder's answer to [`Effects::requests`].
    pub fn requests_answered(&mut self, answer: Enqueued) {
        match std::mem::take(&mut self.queue) {
            Front::Asked(question) => self.queue = Front::Answered(question, answer),
            other => self.queue = other,
        }
    }

    fn request(&self, queued: &Queued, kept: &Kept<'_>, env: &Env<'_>) -> Result<ChangeRequest, Refusal> {
        let statement = kept.statement;
        let Some(sql) = kept.sql else {
            let why = "its text cannot be kept exactly (it is longer than limits.max_logged_sql, or not in UTF-8)";
            return Err(queued.impossible(why));
        };
        if self.facts.branch.is_none() {
            return Err(queued.impossible("this database is no branch"));
        }
        match statement.tag {
            "COPY" => return Err(queued.impossible("its data come from the client")),
            "EXECUTE" => return Err(queued.impossible("it runs a statement that only this session has prepared")),
            _ => {}
        }
        let objects = statement.objects.iter().map(|object| match &object.schema {
            Some(schema) => format!("{schema}.{}", object.name),
            None => object.name.clone(),
        });
        Ok(ChangeRequest {
            id: (env.new_id)(),
            session: self.facts.clone(),
            rule: queued.rule.clone(),
            tag: statement.tag,
            class: statement.class,
            objects: objects.collect(),
            transactional: statement.transactional,
            sql: sql.to_owned(),
            settings: self.settings.known(),
            application_name: self.application.clone(),
            findings: queued.findings.clone(),
            expires: queued.queueing.expires,
            wait: None,
            runs_here: self.runs_here(kept, env),
        })
    }

    /// Whether a call can note, in the statement's own transaction, that it is an approved request's.
    fn runs_here(&self, kept: &Kept<'_>, env: &Env<'_>) -> bool {
        let recording = self.answer.unwrap_or_else(|| (env.recording)());
        kept.takes_calls && takes_calls(kept.statement) && !self.replication && recording != Recording::NotRequired
    }
}

impl Asked {
    fn new(queued: Queued, kept: &Kept<'_>, request: &ChangeRequest) -> Self {
        Self { at: kept.statement.range.start, queued, runs_here: request.runs_here }
    }
}

/// The text, where it is whole and means the same to everybody.
pub(super) fn exact(sql: &[u8], is_utf8: bool, max: usize) -> Option<&str> {
    let fits = !sql.is_empty() && sql.len() <= max && (is_utf8 || sql.is_ascii());
    if fits { std::str::from_utf8(sql).ok() } else { None }
}
