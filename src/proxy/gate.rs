//! Where newcomers wait while clients are held (`PAUSE`), or their branch is copied: the server is not even connected to.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::handshake::Farewell;
use crate::state::{Client, ClientState, Life, Shared};
use crate::telemetry::Side;

pub(super) const SHUTTING_DOWN: &str = "terminating connection due to administrator command";

/// Returns when the client may go on to this database.
pub(super) async fn pass(shared: &Shared, place: &Client, database: &str, deadline: Instant) -> Result<(), Farewell> {
    let clients = &shared.clients;
    loop {
        // Before it is looked: whoever is not at the gate is asked.
        place.at_gate.store(false, Ordering::SeqCst);
        if !clients.pause.is_on() && clients.holds.on(database).is_none() {
            return Ok(());
        }
        place.at_gate.store(true, Ordering::Release);
        let mut life = shared.life.subscribe();
        let (opened, detail, message) = if clients.pause.is_on() {
            let opened = futures::future::Either::Left(clients.pause.over());
            (opened, "PAUSE was said on its control port.", "the proxy is paused")
        } else {
            place.state.store(ClientState::Held as u8, Ordering::Relaxed);
            let opened = futures::future::Either::Right(clients.holds.over(database));
            (opened, "It is let in when the copy is made.", "the branch is being copied with its data")
        };
        tokio::select! {
            biased;
            () = opened => {}
            _ = life.wait_for(|life| *life > Life::Serving) => {
                return Err(Farewell { side: Side::Proxy, ..Farewell::client("57P01", SHUTTING_DOWN.into()) });
            }
            () = tokio::time::sleep_until(deadline.into()) => return Err(Farewell {
                detail: Some(detail.into()),
                side: Side::Proxy,
                ..Farewell::client("57P03", message.into())
            }),
        }
        place.state.store(ClientState::Login as u8, Ordering::Relaxed);
    }
}
