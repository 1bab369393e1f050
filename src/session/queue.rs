//! Statements that a rule queues: the recorder writes them down as change requests while they are held, and the client gets an
//! error with the number.
//!
//! A request is made only for what the server would run now: what was sent before is answered first (with a Flush of ours,
//! which is owed nothing), so that a statement that the server skips after an error makes none.

use uuid::Uuid;

use super::judge::unrecordable;
use super::lint::Said;
use super::{Batch, Effects, Env, Session};
use crate::change::{ChangeRequest, Enqueued};
use crate::policy::{Queued, Refusal, Verdict};
use crate::sql::Statement;
use crate::wire::frame;

/// Settings that the server reports and that change what a text means.
const SETTINGS: [&str; 5] = ["search_path", "standard_conforming_strings", "DateStyle", "IntervalStyle", "TimeZone"];

/// Why nothing can be done about a statement that comes while the server reads COPY data.
pub(super) const COPYING: &str = "the server reads COPY data";

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
    /// What was sent before it has to be answered first.
    Settling,
    /// The requests are on their way to the recorder; the first one's key.
    Asked(Uuid),
    Answered(Uuid, Enqueued),
    /// It was approved while its client waited, and may pass; with its place in the text.
    Released {
        id: Uuid,
        at: usize,
        rule: String,
    },
}

impl Front {
    /// The rule's name and the key for the statement's row in the log, where it is this one that was approved.
    pub fn released(&self, statement: &Statement) -> Option<(&str, Uuid)> {
        match self {
            Self::Released { id, at, rule } if *at == statement.range.start => Some((rule, *id)),
            Self::Released { .. } | Self::None | Self::Settling | Self::Asked(_) | Self::Answered(..) => None,
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

/// What to do with a statement that a rule queues.
pub(super) enum Held {
    /// Wait until the server has answered everything; with these bytes to make it do so, if any.
    Settle(Vec<u8>),
    /// The recorder has to be asked.
    Ask,
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
    /// The first one of a Query.
    pub is_first: bool,
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
    ) -> Held {
        match std::mem::take(&mut self.queue) {
            Front::Answered(id, Enqueued::Waiting(numbers)) => {
                return Held::Refuse(queued.refusal(&numbers), Some(id));
            }
            Front::Answered(id, Enqueued::Released) => {
                self.queue = Front::Released { id, at: kept.statement.range.start, rule: queued.rule.clone() };
                return Held::Again;
            }
            Front::Answered(id, Enqueued::Closed(number, why)) => {
                return Held::Refuse(queued.closed(number, &why), Some(id));
            }
            Front::Answered(id, Enqueued::Cancelled(number)) => {
                return Held::Refuse(queued.cancelled(number), Some(id));
            }
            Front::Answered(_, Enqueued::Failed(reason)) => {
                return Held::Refuse(unrecordable(kept.statement, reason), None);
            }
            Front::None | Front::Settling | Front::Asked(_) | Front::Released { .. } => {}
        }
        if self.ledger.ignores_all() {
            return Held::Ignored;
        }
        if self.ledger.awaits_copy_data() {
            return Held::Refuse(queued.impossible(COPYING), None);
        }
        if self.awaits_answers() {
            self.queue = Front::Settling;
            let mut flush = Vec::new();
            if self.batch != Batch::Closed {
                frame::put(&mut flush, b'H', |_| {});
            }
            return Held::Settle(flush);
        }
        if kept.is_first && self.transaction.status == b'E' && self.batch == Batch::Closed {
            // 25P02, and so is everything behind it in the same text.
            return Held::Ignored;
        }
        let mut requests = Vec::new();
        let first = match self.request(queued, kept, env) {
            Ok(request) => request,
            Err(refusal) => return Held::Refuse(refusal, None),
        };
        let id = first.id;
        requests.push(first);
        for kept in later {
            let queued = match (env.policy.judge(&self.who(), kept.statement), self.lint.says(kept.statement)) {
                (Verdict::Queue(queued), _) => queued,
                (Verdict::Allow(_), Some(Said::Queue(queued))) => queued.as_ref().clone(),
                _ => continue,
            };
            match self.request(&queued, &kept, env) {
                Ok(request) => requests.push(request),
                Err(refusal) => return Held::Refuse(refusal, None),
            }
        }
        if let [one] = requests.as_mut_slice() {
            one.wait = queued.queueing.wait;
        }
        self.queue = Front::Asked(id);
        fx.requests = requests;
        Held::Ask
    }

    /// The recorder's answer to [`Effects::requests`].
    pub fn requests_answered(&mut self, answer: Enqueued) {
        if let Front::Asked(id) = self.queue {
            self.queue = Front::Answered(id, answer);
        }
    }

    /// Whether the server has still to answer what was sent before a statement that waits for that. While it reads COPY data it
    /// will not, and takes no statement either.
    pub fn awaits_answers(&mut self) -> bool {
        let owed = self.ledger.front().is_some() && !self.ledger.ignores_all() && !self.ledger.awaits_copy_data();
        owed || self.server_rest > 0
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
            expires: queued.queueing.expires,
            wait: None,
        })
    }
}

/// The text, where it is whole and means the same to everybody.
pub(super) fn exact(sql: &[u8], is_utf8: bool, max: usize) -> Option<&str> {
    let fits = !sql.is_empty() && sql.len() <= max && (is_utf8 || sql.is_ascii());
    if fits { std::str::from_utf8(sql).ok() } else { None }
}
