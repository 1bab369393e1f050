//! Sessions that are idle: how long they may be, and those that `PAUSE` holds.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Instant;

use tokio::time::Sleep;

use super::{Drive, End};
use crate::session::Activity;

/// Which kind of idleness, each with a limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idle {
    /// No transaction: `limits.client_idle_timeout`.
    Session,
    /// In a transaction: `limits.idle_in_transaction_timeout`.
    Transaction,
}

/// One timer for a session, made at its first idleness and then only pushed back when it fires too early: a statement
/// costs a look at the clock, and nothing where no limit is set.
#[derive(Default)]
pub(super) struct IdleTimer {
    since: Option<(Idle, u64, Instant)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Drive<'_> {
    /// Ends a session that was idle for too long. Not while bytes are on their way, nor while `PAUSE` holds it: whether
    /// its client has said something cannot be known then.
    pub(super) fn watch_idleness(&mut self, activity: Activity, cx: &mut Context<'_>) -> Result<(), End> {
        let idle = match activity {
            Activity::Idle => Idle::Session,
            Activity::IdleInTransaction => Idle::Transaction,
            Activity::Login | Activity::Active => return self.is_not_idle(),
        };
        let moving = self.is_errand || self.wait.is_some() || !self.up.outgoing().is_empty() || !self.down.is_empty();
        if moving || self.session.in_batch() || self.is_held() {
            return self.is_not_idle();
        }
        let limits = &self.relay.shared.config.load().limits;
        let limit = match idle {
            Idle::Session => limits.client_idle_timeout,
            Idle::Transaction => limits.idle_in_transaction_timeout,
        };
        let Some(limit) = limit else { return self.is_not_idle() };
        // The same idleness only when nothing was answered in between.
        let statements = self.place.statements.load(Ordering::Relaxed);
        let since = match self.idle.since {
            Some((kind, at, since)) if (kind, at) == (idle, statements) => since,
            _ => Instant::now(),
        };
        self.idle.since = Some((idle, statements, since));
        let deadline = tokio::time::Instant::from_std(since + limit);
        let timer = self.idle.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= deadline {
                return Err(End::IdleTimeout(idle));
            }
            timer.as_mut().reset(deadline);
        }
        Ok(())
    }

    /// After `RESUME`, judges what was said while it held the session; true when there was something.
    pub(super) fn hear_at_last(&mut self) -> Result<bool, End> {
        if !self.unheard || self.relay.shared.clients.pause.is_on() {
            return Ok(false);
        }
        self.unheard = false;
        self.judge_client()?;
        Ok(true)
    }

    fn is_not_idle(&mut self) -> Result<(), End> {
        self.idle.since = None;
        Ok(())
    }

    /// Whether `PAUSE` holds this session: its client is read once, so that it is noticed when it leaves, and what it says
    /// waits. Only between statements and outside a transaction.
    pub(super) fn is_held(&mut self) -> bool {
        self.relay.shared.clients.pause.is_on() && self.is_at_rest()
    }

    /// Whether nothing is under way: it is between statements and outside a transaction.
    pub(super) fn is_at_rest(&mut self) -> bool {
        !self.is_errand
            && self.login.is_none()
            && (self.up.is_empty() || self.unheard)
            && self.down.is_empty()
            && !self.session.in_batch()
            && self.session.activity() == Activity::Idle
    }
}
