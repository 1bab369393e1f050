//! A session moves to another branch: its client stays, its server connection becomes another one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::io::AsyncWriteExt;

use super::{Arm, Drive, End, Wait};
use crate::change::{Move, SessionFacts, Stays};
use crate::policy::Who;
use crate::proxy::again::{self, Arrival, TERMINATE};
use crate::proxy::handshake::{most, too_many};
use crate::session::Session;
use crate::wire::frame::{HEADER, Head, cstr};
use crate::wire::pipe::Pipe;

/// A server connection on the other branch, and what the session is there.
pub(super) type Place = (Arrival, Arc<SessionFacts>);

impl Drive<'_> {
    /// Logs in on the other branch. Cancel safe: what is not done is dropped.
    pub(super) fn go(&self, moving: Move) -> Wait {
        let (shared, identity, facts) = (self.relay.shared.clone(), self.identity.clone(), self.facts.clone());
        let application = self.place.application.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let answer = Box::pin(async move {
            let stays = |because: String| Stays { sqlstate: "55P02", because, hint: None };
            let branches = shared.branches.load_full();
            let branch = branches.find(&moving.to).ok_or_else(|| {
                let near: Vec<String> = branches.near(&moving.to).iter().map(|name| format!("\"{name}\"")).collect();
                let hint = (!near.is_empty()).then(|| format!("Near names: {}.", near.join(", ")));
                Stays { sqlstate: "3D000", because: "it does not exist".to_owned(), hint }
            })?;
            let who = Who {
                branch: Some(&branch.name),
                user: &facts.user,
                application: &application,
                client: facts.client_addr,
            };
            if let Some(detour) = shared.policy.load().detour(&who) {
                return Err(stays(format!(
                    "rule \"{}\" sends sessions on it to branch \"{}\"",
                    detour.rule, detour.to
                )));
            }
            let facts = Arc::new(SessionFacts {
                database: branch.database.clone(),
                branch: Some(branch.name.clone()),
                rerouted: None,
                ..SessionFacts::clone(&facts)
            });
            let limit = shared.config.load().limits.login_timeout;
            let began = Instant::now();
            let arriving = async {
                shared.clients.holds.over(&facts.database).await;
                again::log_in(&shared, &identity, &facts, moving.carried).await
            };
            let arrival = tokio::time::timeout(limit, arriving).await;
            shared
                .metrics
                .server_connected(facts.branch.as_deref(), matches!(arrival, Ok(Ok(_))).then(|| began.elapsed()));
            match arrival {
                Ok(Ok(arrival)) => Ok((arrival, facts)),
                Ok(Err(not_in)) => Err(stays(not_in.reason)),
                Err(_) => Err(stays("logging in there took too long".to_owned())),
            }
        });
        Wait::Move { answer, place: None }
    }

    /// Goes on there.
    pub(super) fn arrive(&mut self, (arrival, facts): Place) -> Result<(), End> {
        let shared = &self.relay.shared;
        let here = |drive: &Self| drive.facts.branch.clone();
        let was = here(self);
        // The same user is counted once: first out, then in.
        shared.clients.quota.leave(&self.facts.user, was.as_deref());
        if let Err(full) = shared.clients.quota.enter(&facts.user, facts.branch.as_deref(), most(shared)) {
            // There was room a moment ago; should there be none, it is counted anyway, as it is there.
            let nobody = crate::state::Most::default();
            let _ = shared.clients.quota.enter(&self.facts.user, was.as_deref(), nobody);
            let because = too_many(full, &facts);
            self.session.cannot_move(Stays { sqlstate: "53300", because, hint: None });
            return Ok(());
        }
        shared.metrics.client_left(was.as_deref());
        shared.metrics.client_joined(facts.branch.as_deref());
        self.session.ended(Instant::now(), &mut self.fx);
        self.apply();
        let parameters = self.change_server(arrival, facts, Session::take_over)?;
        self.down.push(&parameters.concat());
        Ok(())
    }

    /// Puts this connection in the place of the server's. The client's bytes, its cancel key and its place among the clients
    /// stay as they are; the new session takes over from the old one what it is to have of it. Returns the last ParameterStatus
    /// of each parameter, for the client.
    pub(super) fn change_server(
        &mut self,
        arrival: Arrival,
        facts: Arc<SessionFacts>,
        take_over: impl FnOnce(&mut Session, &mut Session),
    ) -> Result<Vec<Vec<u8>>, End> {
        let mut session = Session::new(facts.clone(), String::new(), self.secret, false, Instant::now());
        take_over(&mut session, &mut self.session);
        self.session = session;
        let mut old = std::mem::replace(&mut self.server, Arm::new(arrival.server)).stream;
        tokio::spawn(async move {
            let goodbye = async {
                old.write_all(TERMINATE).await?;
                old.shutdown().await
            };
            let _ = tokio::time::timeout(std::time::Duration::from_secs(2), goodbye).await;
        });
        self.address = arrival.address;
        self.place.server.store(Some(Arc::new(self.address.to_string())));
        self.place.backend_pid.store(arrival.backend.pid, Ordering::Relaxed);
        self.place.facts.store(Some(facts.clone()));
        self.facts = facts;
        if let Some(entry) = &self.cancel {
            entry.target().backend.store(arrival.backend);
        }
        // The session hears what its server said at login; the client, what parameters are now.
        let client = std::mem::take(&mut self.down);
        self.down.take_in(&arrival.greeting);
        let matched = self.match_greeting();
        let mut heard = std::mem::replace(&mut self.down, client);
        matched?;
        Ok(parameters(&mut heard))
    }

    /// As [`Drive::match_server`], of a login that the client has no part in.
    fn match_greeting(&mut self) -> Result<(), End> {
        let earlier = std::mem::take(&mut self.fx);
        let matched = self.hear_server();
        let heard = std::mem::replace(&mut self.fx, earlier);
        self.fx.application = heard.application;
        self.apply();
        matched
    }
}

/// The last ParameterStatus of each parameter.
fn parameters(heard: &mut Pipe) -> Vec<Vec<u8>> {
    let mut rest = heard.outgoing();
    let mut last = BTreeMap::new();
    while let Ok(Some(head)) = Head::read(rest) {
        let Some((frame, after)) = rest.split_at_checked(head.total) else { break };
        if head.tag == b'S'
            && let Some((name, _)) = cstr(frame.get(HEADER..).unwrap_or_default())
        {
            last.insert(name, frame.to_vec());
        }
        rest = after;
    }
    last.into_values().collect()
}
