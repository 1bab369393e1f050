//! Which of the server's hosts is what: primary, standby, read-only, gone.
//!
//! A client's session cannot be asked before it has logged in, so the recorder's role asks, at the time of a login and
//! at most once a second. Where there is one host and any will do, nobody asks.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use super::connect::in_words;
use crate::config::SessionAttrs;

/// How long an answer holds.
const FRESH: Duration = Duration::from_secs(1);

/// How long a host that could not be reached is left alone, while others can be.
const GONE: Duration = Duration::from_secs(5);

/// What a host is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It takes writes.
    ReadWrite,
    /// No standby, and transactions are read-only by its settings.
    ReadOnly,
    /// In recovery.
    Standby,
    /// It could not be asked, and why.
    Unreachable(String),
}

/// The hosts, in the configuration's order.
pub(super) struct Hosts {
    /// How to ask each, without settings that would change the answer.
    ask: Vec<PgConnectOptions>,
    places: Vec<String>,
    timeout: Duration,
    seen: Mutex<Vec<Option<(Instant, State)>>>,
    asking: tokio::sync::Mutex<()>,
}

impl Hosts {
    pub fn new(ask: Vec<PgConnectOptions>, places: Vec<String>, timeout: Duration) -> Self {
        let seen = Mutex::new(vec![None; ask.len()]);
        Self { ask, places, timeout, seen, asking: tokio::sync::Mutex::default() }
    }

    /// The hosts that will do, by their place in the list, the best first; or why none does. Cancel safe.
    pub async fn choose(&self, wanted: SessionAttrs) -> Result<Vec<usize>, String> {
        if wanted == SessionAttrs::Any {
            return Ok((0..self.ask.len()).collect());
        }
        self.refresh().await;
        let seen = self.lock();
        let states: Vec<&State> = seen.iter().flatten().map(|(_, state)| state).collect();
        let mut fitting: Vec<usize> = Vec::new();
        let first = if wanted == SessionAttrs::PreferStandby { SessionAttrs::Standby } else { wanted };
        fitting
            .extend(states.iter().enumerate().filter(|(_, state)| objection(first, state).is_none()).map(|(at, _)| at));
        if wanted == SessionAttrs::PreferStandby {
            let rest = states.iter().enumerate().filter(|(_, state)| {
                objection(SessionAttrs::Any, state).is_none() && objection(SessionAttrs::Standby, state).is_some()
            });
            fitting.extend(rest.map(|(at, _)| at));
        }
        if fitting.is_empty() {
            let why = self.places.iter().zip(&states);
            let why = why.map(|(place, state)| format!("{place}: {}", objection(wanted, state).unwrap_or_default()));
            return Err(why.collect::<Vec<_>>().join("; "));
        }
        Ok(fitting)
    }

    /// A connection failed: what was known of this host no longer holds.
    pub fn forget(&self, host: usize) {
        if let Some(seen) = self.lock().get_mut(host) {
            *seen = None;
        }
    }

    /// Asks those of whom nothing fresh is known. While one asks, the others go by what is known, if anything is.
    async fn refresh(&self) {
        let stale = |seen: &[Option<(Instant, State)>]| -> Vec<usize> {
            let is_stale = |seen: &Option<(Instant, State)>| match seen {
                None => true,
                Some((at, State::Unreachable(_))) => at.elapsed() > GONE,
                Some((at, _)) => at.elapsed() > FRESH,
            };
            seen.iter().enumerate().filter(|(_, seen)| is_stale(seen)).map(|(at, _)| at).collect()
        };
        let (wanted, any_unknown) = {
            let seen = self.lock();
            (stale(&seen), seen.iter().any(Option::is_none))
        };
        if wanted.is_empty() {
            return;
        }
        let _one_at_a_time = if any_unknown {
            self.asking.lock().await
        } else {
            let Ok(turn) = self.asking.try_lock() else { return };
            turn
        };
        // Somebody may have asked while we waited.
        let wanted = stale(&self.lock());
        let states = join_all(wanted.iter().map(|host| self.look(*host))).await;
        let mut seen = self.lock();
        for (host, state) in wanted.into_iter().zip(states) {
            seen[host] = Some((Instant::now(), state));
        }
    }

    async fn look(&self, host: usize) -> State {
        let asked = async {
            let mut connection = self.ask[host].connect().await?;
            let sql =
                "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only') = 'on'";
            let answer: (bool, bool) = sqlx::query_as(sql).fetch_one(&mut connection).await?;
            // Before it is let go: a server counts who leaves without a word as lost.
            let _ = sqlx::Connection::close(connection).await;
            Ok::<_, sqlx::Error>(answer)
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(Ok((true, _))) => State::Standby,
            Ok(Ok((false, true))) => State::ReadOnly,
            Ok(Ok((false, false))) => State::ReadWrite,
            Ok(Err(error)) => State::Unreachable(in_words(&error)),
            Err(_) => State::Unreachable(format!("no answer within {:?}", self.timeout)),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Option<(Instant, State)>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a host will not do, in libpq's words.
fn objection(wanted: SessionAttrs, state: &State) -> Option<String> {
    let no = |text: &str| Some(text.to_owned());
    match (wanted, state) {
        (_, State::Unreachable(reason)) => Some(reason.clone()),
        (SessionAttrs::Any | SessionAttrs::PreferStandby, _) => None,
        (SessionAttrs::ReadWrite, State::ReadWrite) => None,
        (SessionAttrs::ReadWrite, State::ReadOnly | State::Standby) => no("session is read-only"),
        (SessionAttrs::ReadOnly, State::ReadOnly | State::Standby) => None,
        (SessionAttrs::ReadOnly, State::ReadWrite) => no("session is not read-only"),
        (SessionAttrs::Primary, State::ReadWrite | State::ReadOnly) => None,
        (SessionAttrs::Primary, State::Standby) => no("server is in hot standby mode"),
        (SessionAttrs::Standby, State::Standby) => None,
        (SessionAttrs::Standby, State::ReadWrite | State::ReadOnly) => no("server is not in hot standby mode"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hosts(states: &[State]) -> Hosts {
        let ask = vec![PgConnectOptions::new_without_pgpass(); states.len()];
        let places = (1..=states.len()).map(|at| format!("h{at}:1")).collect();
        let hosts = Hosts::new(ask, places, Duration::ZERO);
        *hosts.lock() = states.iter().map(|state| Some((Instant::now(), state.clone()))).collect();
        hosts
    }

    #[tokio::test]
    async fn hosts_are_chosen_as_libpq_does() {
        let gone = State::Unreachable("connection refused".to_owned());
        let all = hosts(&[gone.clone(), State::Standby, State::ReadOnly, State::ReadWrite, State::Standby]);
        for (wanted, chosen) in [
            (SessionAttrs::Any, &[0, 1, 2, 3, 4][..]),
            (SessionAttrs::ReadWrite, &[3]),
            (SessionAttrs::ReadOnly, &[1, 2, 4]),
            (SessionAttrs::Primary, &[2, 3]),
            (SessionAttrs::Standby, &[1, 4]),
            (SessionAttrs::PreferStandby, &[1, 4, 2, 3]),
        ] {
            assert_eq!(all.choose(wanted).await.unwrap(), chosen, "{wanted:?}");
        }
        let none = hosts(&[gone, State::ReadWrite]);
        let why = none.choose(SessionAttrs::Standby).await.unwrap_err();
        assert_eq!(why, "h1:1: connection refused; h2:1: server is not in hot standby mode");
        assert_eq!(none.choose(SessionAttrs::PreferStandby).await.unwrap(), [1]);
    }
}
