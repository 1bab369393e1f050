//! What the session's facts do outside: metrics, the statement log, what `SHOW CLIENTS` shows.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use uuid::Uuid;

use super::{Drive, Wait};
use crate::change::{ChangeRequest, Enqueued, Errand, Intended, Intent, Noted, Outcome, Recording, StatementFact};
use crate::config::OnFailure;
use crate::proxy::cancel::{Backend, Entry, Target};
use crate::proxy::errand;
use crate::proxy::handshake::most;
use crate::proxy::lint;
use crate::sql::{Class, Classifier};
use crate::state::Shared;
use crate::telemetry::{Connection, Side};

thread_local! {
    static CLASSIFIER: RefCell<Option<Classifier>> = const { RefCell::new(None) };
}

/// Runs `work` with this thread's classifier, and counts its cache.
pub(super) fn with_classifier<T>(shared: &Shared, work: impl FnOnce(&mut Classifier) -> T) -> T {
    CLASSIFIER.with_borrow_mut(|classifier| {
        let classifier = classifier.get_or_insert_with(|| Classifier::new(shared.config.load().limits.cache_bytes));
        let done = work(classifier);
        let (hits, misses) = classifier.take_counts();
        if hits + misses > 0 {
            shared.metrics.cache(hits, misses);
        }
        done
    })
}

/// Whether a change on this branch can be recorded; with `on_failure = "allow"` it need not be, but is counted.
pub(super) fn recording(shared: &Shared, branch: Option<&str>) -> Recording {
    let Some(branch) = branch else { return Recording::NotRequired };
    match shared.history.recording(branch) {
        Recording::Broken if shared.config.load().history.on_failure == OnFailure::Allow => {
            shared.metrics.history_failure();
            Recording::NotRequired
        }
        recording => recording,
    }
}

impl Drive<'_> {
    /// Waits for what the session has to know first.
    pub(super) fn ask(&mut self) -> Wait {
        if !self.fx.requests.is_empty() {
            let requests = std::mem::take(&mut self.fx.requests);
            return self.request(requests);
        }
        if let Some(moving) = self.fx.moving.take() {
            return self.go(*moving);
        }
        if let Some(check) = self.fx.check.take() {
            return Wait::Check(Box::pin(lint::run(*check)));
        }
        if let Some(errand) = self.fx.errand.take() {
            return self.send_on(*errand);
        }
        match self.fx.intent.take() {
            Some(intent) => self.intend(*intent),
            None => self.ask_recorder(),
        }
    }

    /// Waits for a history that can be written, for as long as the configuration says.
    fn ask_recorder(&self) -> Wait {
        let shared = self.relay.shared.clone();
        let branch = self.facts.branch.clone().unwrap_or_default();
        Wait::Recorder(Box::pin(async move {
            let timeout = shared.config.load().history.timeout;
            let answer = shared.history.wait_recording(&branch, timeout).await;
            if answer == Recording::Broken {
                shared.metrics.history_failure();
            }
            answer
        }))
    }

    /// Writes down what cannot run inside a transaction, before it is run.
    fn intend(&self, intent: Intent) -> Wait {
        let shared = self.relay.shared.clone();
        let backend = self.place.backend_pid.load(Ordering::Relaxed);
        Wait::Intent(Box::pin(async move {
            let history = shared.config.load().history.clone();
            let allow = history.on_failure == OnFailure::Allow;
            let branch = intent.session.branch.clone().unwrap_or_default();
            if allow && shared.history.recording(&branch) == Recording::Broken {
                // Counted when it was judged.
                return Intended::NotRequired;
            }
            let answer = shared.history.intend(intent, backend, history.timeout).await;
            let Intended::Failed(reason) = answer else { return answer };
            shared.metrics.history_failure();
            if allow { Intended::NotRequired } else { Intended::Failed(reason) }
        }))
    }

    /// Has a statement run on another branch.
    fn send_on(&self, errand: Errand) -> Wait {
        let target = self.cancel.as_ref().map(Entry::target);
        let answer = errand::run(self.relay.clone(), self.identity.clone(), self.facts.clone(), target, errand);
        Wait::Errand { answer: Box::pin(answer), returned: None }
    }

    /// Writes change requests down.
    fn request(&self, requests: Vec<ChangeRequest>) -> Wait {
        let shared = self.relay.shared.clone();
        // Only a single one waits.
        let waits = requests.first().and_then(|request| Some((request.released_to(), request.wait?)));
        let answer = Box::pin(async move {
            let (timeout, max_open) = {
                let config = shared.config.load();
                (config.history.timeout, config.changes.max_open)
            };
            let answer = shared.history.request(requests, timeout, max_open).await;
            if matches!(answer, Enqueued::Failed(_)) {
                shared.metrics.history_failure();
            }
            answer
        });
        Wait::Requests { answer, waits }
    }

    /// Waits until a change request is decided on.
    pub(super) fn await_decision(&self, noted: Noted, run: Option<Uuid>, wait: Duration) -> Wait {
        let shared = self.relay.shared.clone();
        self.place.await_decision(true);
        let awaited = noted.clone();
        let answer = Box::pin(async move { shared.history.await_decision(awaited, run, wait).await });
        Wait::Decision { noted, answer }
    }

    /// What a wait for a decision came to, if it is over.
    pub(super) fn poll_decision(
        &self,
        noted: &Noted,
        answer: &mut Pin<Box<dyn Future<Output = Enqueued> + Send>>,
        cx: &mut Context<'_>,
    ) -> Option<Enqueued> {
        let answer = match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => answer,
            Poll::Pending if self.place.is_cancelled() => Enqueued::Cancelled(noted.number),
            // Nobody waits any more, or not for long: the request stays.
            Poll::Pending if !self.client.reads || self.relay.shared.clients.is_draining() => {
                Enqueued::Noted(vec![noted.clone()])
            }
            Poll::Pending => return None,
        };
        self.place.await_decision(false);
        Some(answer)
    }

    /// Records what came of statements with intents, and which transactions were prepared. The client's answer waits for it,
    /// as long as the configuration says: what it is told of is in the history.
    fn settle(&mut self) {
        let shared = &self.relay.shared;
        let intents = shared.history.settle(&self.facts, std::mem::take(&mut self.fx.settled));
        let prepared = shared.history.prepared(&self.facts, std::mem::take(&mut self.fx.prepared));
        let timeout = shared.config.load().history.timeout;
        let earlier = self.settling.take();
        self.settling = Some(Box::pin(async move {
            if let Some(earlier) = earlier {
                earlier.await;
            }
            let both = async { futures::future::join(intents, prepared).await };
            let _ = tokio::time::timeout(timeout, both).await;
        }));
    }

    /// Whether the client may hear of it now; true when that has just become so.
    pub(super) fn poll_settling(&mut self, cx: &mut Context<'_>) -> bool {
        let settled = self.settling.as_mut().is_some_and(|settling| settling.as_mut().poll(cx).is_ready());
        if settled {
            self.settling = None;
        }
        settled
    }

    /// Hands the effects on; leaves them empty.
    pub(super) fn apply(&mut self) {
        let shared = &self.relay.shared;
        let metrics = &shared.metrics;
        let branch = self.facts.branch.as_deref();
        if !self.fx.statements.is_empty() {
            self.place.statements.fetch_add(self.fx.statements.len() as u64, Ordering::Relaxed);
            for (class, duration) in self.fx.statements.drain(..) {
                if self.is_errand {
                    // The session that sent it counts it.
                    continue;
                }
                metrics.statement(class, duration);
            }
        }
        for verdict in self.fx.verdicts.drain(..) {
            metrics.verdict(branch, verdict);
        }
        for rule in self.fx.findings.drain(..) {
            metrics.lint_finding(branch, rule);
        }
        for _ in 0..std::mem::take(&mut self.fx.errors) {
            metrics.error(Side::Server);
        }
        for _ in 0..std::mem::take(&mut self.fx.unrecorded) {
            metrics.history_failure();
        }
        if let Some(application) = self.fx.application.take() {
            *self.place.application.lock().unwrap_or_else(PoisonError::into_inner) = application;
        }
        if let Some(sqlstate) = self.fx.login_failed.take() {
            metrics.auth_failure(&sqlstate);
            if sqlstate == "28P01"
                && let Some(address) = self.facts.client_addr
            {
                self.relay.logins.failed(address);
            }
            metrics.connection(Connection::AuthFailed);
        }
        if let Some((pid, secret)) = self.fx.key.take() {
            let ours = self.secret.get(..secret.len()).unwrap_or(&self.secret).to_vec();
            self.place.backend_pid.store(pid, Ordering::Relaxed);
            self.cancel = Some({
                let backend = Backend { address: self.address.clone(), pid, secret };
                let backend = ArcSwap::from_pointee(backend);
                self.relay.cancels.enter(Target { place: self.place.clone(), pid, ours, backend })
            });
        }
        if std::mem::take(&mut self.fx.ready) {
            self.login = None;
            // An errand is a part of what another session does, which is counted.
            let entered = (!self.is_errand).then(|| shared.clients.quota.enter(&self.facts.user, branch, most(shared)));
            match entered {
                None => {}
                Some(Ok(())) => {
                    self.counted = true;
                    metrics.connection(Connection::Accepted);
                    metrics.client_joined(branch);
                }
                Some(Err(full)) => self.full = Some(full),
            }
        }
        if !self.fx.reply.is_empty() {
            self.down.push(&self.fx.reply);
            self.fx.reply.clear();
        }
        if !self.fx.facts.is_empty() {
            self.log();
        }
        if !self.fx.settled.is_empty() || !self.fx.prepared.is_empty() {
            self.settle();
        }
        for asked in self.fx.asked.drain(..) {
            let (shared, session) = (self.relay.shared.clone(), self.facts.clone());
            tokio::spawn(async move {
                let branches = shared.branches.load_full();
                shared.history.answer(&session, asked, branches, || shared.refresh()).await;
            });
        }
        if std::mem::take(&mut self.fx.prepared_ended) {
            shared.history.prepared_ended();
        }
    }

    /// Puts facts into the statement log. When it is full the session waits; what finds no room in time is
    /// reported, never dropped in silence.
    fn log(&mut self) {
        let shared = &self.relay.shared;
        let mut left = Vec::new();
        for fact in self.fx.facts.drain(..) {
            if matters(&fact) {
                shared.metrics.ddl(fact.session.branch.as_deref(), fact.tag, fact.outcome);
            }
            // A database that is no branch is not ours to keep a log of, save for what we refused in it.
            if fact.session.branch.is_none() && fact.outcome != Outcome::Refused {
                continue;
            }
            if !left.is_empty() {
                left.push(fact);
            } else if let Err(fact) = shared.history.log(fact) {
                left.push(fact);
            }
        }
        if left.is_empty() {
            return;
        }
        let (shared, session, waiting) = (shared.clone(), self.facts.id, self.wait.take());
        self.wait = Some(Wait::Log(Box::pin(async move {
            if let Some(Wait::Log(earlier)) = waiting {
                earlier.await;
            }
            let timeout = shared.config.load().history.timeout;
            // All of them share one deadline; and where nothing was written for that long, refusals do not wait in vain.
            let deadline = tokio::time::Instant::now() + timeout;
            let in_vain = shared.history.log_fails_for(timeout);
            let mut lost = 0;
            for fact in left {
                let limit =
                    if in_vain && fact.outcome == Outcome::Refused { tokio::time::Instant::now() } else { deadline };
                if tokio::time::timeout_at(limit, shared.history.log_wait(fact)).await.is_err() {
                    shared.metrics.history_failure();
                    lost += 1;
                }
            }
            if lost > 0 {
                tracing::error!(%session, lost, "the statement log is full: rows of statements are lost");
            }
        })));
    }
}

/// Whether it counts in `ddl_total`.
fn matters(fact: &StatementFact) -> bool {
    fact.class == Class::Ddl || fact.tag.is_empty()
}
