//! A session is held while its branch is copied: its client stays and waits, its server connection is closed and becomes another
//! one on the same branch.
//!
//! ```text
//! at rest ─> Looking ─> Trying ─> Ready ──────────> Leaving ─> Away ─> Returning ─> at rest
//!               └─────────┴─ stays, and goes on ─┘     (only when all others could leave, too)
//! ```
//!
//! Up to `Ready` nothing has changed: when the hold ends early, the session goes on with the server process that it has.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{Drive, End, Wait};
use crate::change::{Belongings, Carried, SessionFacts};
use crate::history::Says;
use crate::proxy::again::{self, Arrival, NotIn, TERMINATE};
use crate::proxy::handshake::Identity;
use crate::session::Session;
use crate::state::Shared;
use crate::wire::frame::{HEADER, cstr};

/// How long logging in may take that is only tried.
const TRIED: Duration = Duration::from_secs(10);

/// So many try it at a time: each needs one more connection to the server.
static TRIES: Semaphore = Semaphore::const_new(4);

/// Where the server has no room for whoever comes back, he tries again after this, and then more rarely.
const RETRY: Duration = Duration::from_millis(50);
const MAX_RETRY: Duration = Duration::from_secs(1);

/// A session that is held.
pub(super) struct Hold {
    id: Uuid,
    step: Step,
}

enum Step {
    /// Its server is asked what it has there.
    Looking,
    /// It logs in once more, to see whether it could.
    Trying { had: Belongings, tried: Pin<Box<dyn Future<Output = Result<(), String>> + Send>> },
    /// It could leave.
    Ready(Belongings),
    /// Its server is told so.
    Leaving(Belongings),
    /// It has no server process.
    Away(Belongings),
    /// It logs in again.
    Returning { told: Carried, arriving: Pin<Box<dyn Future<Output = Result<Arrival, String>> + Send>> },
}

/// What a step came to.
enum Then {
    /// It is not over.
    Wait(Step),
    /// The next one.
    Go(Step),
    /// The session is not held any more.
    GoOn,
}

impl Drive<'_> {
    /// Begins to be held, where the branch is copied and the session is at rest; true when it does.
    pub(super) fn heed_hold(&mut self) -> bool {
        if self.wait.is_some() {
            return false;
        }
        let Some((id, _)) = self.relay.shared.clients.holds.on(&self.facts.database) else { return false };
        if !self.is_at_rest() || self.place.has_answered(id) || !self.client.reads {
            return false;
        }
        match self.session.ask_for_belongings(Instant::now()) {
            Ok(messages) => {
                self.up.push(&messages);
                self.wait = Some(Wait::Hold(Box::new(Hold { id, step: Step::Looking })));
                true
            }
            Err(reason) => {
                self.place.answer_hold(id, Says::Stays(reason.to_owned()));
                false
            }
        }
    }

    /// Whether it has no server connection, or none that counts.
    pub(super) fn is_away(&self) -> bool {
        let Some(Wait::Hold(hold)) = &self.wait else { return false };
        match hold.step {
            Step::Looking | Step::Trying { .. } | Step::Ready(_) => false,
            Step::Leaving(_) | Step::Away(_) | Step::Returning { .. } => true,
        }
    }

    /// Goes on with being held; true when something came of it.
    pub(super) fn poll_hold(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(Wait::Hold(mut hold)) = self.wait.take() else { return Ok(false) };
        match self.take_step(hold.id, hold.step, cx)? {
            Then::Wait(step) => {
                hold.step = step;
                self.wait = Some(Wait::Hold(hold));
                Ok(false)
            }
            Then::Go(step) => {
                hold.step = step;
                self.wait = Some(Wait::Hold(hold));
                Ok(true)
            }
            Then::GoOn if self.relay.shared.clients.pause.is_on() => {
                self.unheard = !self.up.incoming().is_empty();
                Ok(true)
            }
            Then::GoOn => {
                self.judge_client()?;
                Ok(true)
            }
        }
    }

    fn take_step(&mut self, id: Uuid, step: Step, cx: &mut Context<'_>) -> Result<Then, End> {
        let now = self.relay.shared.clients.holds.on(&self.facts.database).filter(|(now, _)| *now == id);
        let has_left =
            (!self.client.reads && self.up.incoming().is_empty()) || self.up.incoming().starts_with(TERMINATE);
        Ok(match step {
            Step::Looking => {
                if self.session.awaits_answers() && self.server.reads {
                    return Ok(Then::Wait(Step::Looking));
                }
                match self.session.belongings() {
                    Ok(_) if has_left => Then::GoOn,
                    Ok(had) => {
                        let tried = self.try_log_in(&had);
                        Then::Go(Step::Trying { had, tried })
                    }
                    Err(reason) => self.stays(id, reason),
                }
            }
            Step::Trying { .. } | Step::Ready(_) if has_left || now.is_none() => Then::GoOn,
            Step::Trying { had, mut tried } => match tried.as_mut().poll(cx) {
                Poll::Pending => Then::Wait(Step::Trying { had, tried }),
                Poll::Ready(Err(reason)) => self.stays(id, reason),
                Poll::Ready(Ok(())) => {
                    self.place.answer_hold(id, Says::Ready);
                    Then::Go(Step::Ready(had))
                }
            },
            Step::Ready(had) if now == Some((id, true)) && self.up.outgoing().is_empty() && self.down.is_empty() => {
                self.up.push(TERMINATE);
                Then::Go(Step::Leaving(had))
            }
            Step::Ready(had) => Then::Wait(Step::Ready(had)),
            Step::Leaving(_) | Step::Away(_) | Step::Returning { .. } if has_left => return Err(End::Closed),
            // Even where the server does not hang up: its connection is given up when the new one is there.
            Step::Leaving(had) if !self.server.reads || now.is_none() => {
                self.server.reads = false;
                let unsent = self.up.outgoing().len();
                self.up.wrote(unsent);
                Then::Go(Step::Away(had))
            }
            Step::Leaving(had) => Then::Wait(Step::Leaving(had)),
            Step::Away(had) if now.is_some() => Then::Wait(Step::Away(had)),
            Step::Away(had) => {
                let told = had.told.clone();
                Then::Go(Step::Returning { told, arriving: Box::pin(self.log_in_again(had)) })
            }
            Step::Returning { told, mut arriving } => match arriving.as_mut().poll(cx) {
                Poll::Pending => Then::Wait(Step::Returning { told, arriving }),
                Poll::Ready(Err(reason)) => {
                    self.shut_out = reason;
                    return Err(End::ShutOut);
                }
                Poll::Ready(Ok(arrival)) => {
                    self.come_back(arrival, &told)?;
                    Then::GoOn
                }
            },
        })
    }

    fn stays(&self, id: Uuid, reason: String) -> Then {
        self.place.answer_hold(id, Says::Stays(reason));
        Then::GoOn
    }

    /// Logs in and leaves.
    fn try_log_in(&self, had: &Belongings) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
        let (shared, identity, facts) = (self.relay.shared.clone(), self.identity.clone(), self.facts.clone());
        let (carried, statements) = (had.carried.clone(), had.statements.clone());
        Box::pin(async move {
            // The semaphore is never closed.
            let _turn = TRIES.acquire().await;
            let trying = async {
                let mut arrival = again::log_in(&shared, &identity, &facts, carried).await?;
                let refused = arrival.prepare(&statements).await?;
                arrival.leave().await;
                refused.map_or(Ok(()), |refused| Err(refused.into()))
            };
            let tried: Result<Result<(), NotIn>, _> = tokio::time::timeout(TRIED, trying).await;
            let tried = tried.unwrap_or_else(|_| Err("logging in takes too long".into()));
            tried.map_err(|not_in| format!("it could not come back: {}", not_in.reason))
        })
    }

    fn log_in_again(&self, had: Belongings) -> impl Future<Output = Result<Arrival, String>> + Send + use<> {
        let (shared, identity, facts) = (self.relay.shared.clone(), self.identity.clone(), self.facts.clone());
        async move {
            let limit = shared.config.load().limits.login_timeout;
            let began = Instant::now();
            let arrival = tokio::time::timeout(limit, arrive(&shared, &identity, &facts, &had)).await;
            let took = matches!(arrival, Ok(Ok(_))).then(|| began.elapsed());
            shared.metrics.server_connected(facts.branch.as_deref(), took);
            match arrival {
                Ok(arrived) => arrived.map_err(|not_in| not_in.reason),
                Err(_) => Err("logging in took too long".to_owned()),
            }
        }
    }

    /// Goes on with another server process. The client hears of parameters that are others now.
    fn come_back(&mut self, arrival: Arrival, told: &Carried) -> Result<(), End> {
        let parameters = self.change_server(arrival, self.facts.clone(), Session::come_back)?;
        let is_known = |frame: &Vec<u8>| {
            let body = frame.get(HEADER..).unwrap_or_default();
            let pair = cstr(body).and_then(|(name, rest)| Some((name, cstr(rest)?.0)));
            pair.is_some_and(|(name, value)| told.iter().any(|(known, was)| known == name && was == value))
        };
        let news: Vec<u8> = parameters.into_iter().filter(|frame| !is_known(frame)).flatten().collect();
        self.down.push(&news);
        tracing::debug!(session = %self.facts.id, pid = self.place.backend_pid.load(Ordering::Relaxed), "back after a copy");
        Ok(())
    }
}

/// A connection with all that the session had.
async fn arrive(
    shared: &Shared,
    identity: &Identity,
    facts: &SessionFacts,
    had: &Belongings,
) -> Result<Arrival, NotIn> {
    let mut pause = RETRY;
    let mut arrival = loop {
        match again::log_in(shared, identity, facts, had.carried.clone()).await {
            // Newcomers may have taken the last places; they leave again.
            Err(not_in) if not_in.is_passing => tokio::time::sleep(pause).await,
            arrived => break arrived?,
        }
        pause = (pause * 2).min(MAX_RETRY);
    };
    // What the server does not take any more, somebody has just changed: it would not have run it either.
    arrival.prepare(&had.statements).await?;
    if !had.unnamed.is_empty() {
        arrival.prepare(std::slice::from_ref(&had.unnamed)).await?;
    }
    Ok(arrival)
}
