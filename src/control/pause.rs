//! `PAUSE`: holds clients and waits until nothing runs.

use std::time::Duration;

use crate::state::{ClientState, Shared};

/// How long PAUSE waits for those who are busy; less than a command may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often it looks: sessions tell their state, and are not asked to call back.
const LOOK: Duration = Duration::from_millis(5);

/// Holds clients; returns how many are still busy when patience ends. They finish, and are held then.
pub(super) async fn hold(shared: &Shared) -> usize {
    shared.pause(true);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let busy = busy(shared);
        if busy == 0 || !shared.clients.pause.is_on() || tokio::time::Instant::now() >= deadline {
            return busy;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Clients that are logged in and not held. A session says that it is held itself, after it has seen that it is to be:
/// none that says so can have a statement under way.
fn busy(shared: &Shared) -> usize {
    let is_busy = |state| match state {
        ClientState::Login | ClientState::Paused | ClientState::Held => false,
        ClientState::Idle | ClientState::Active | ClientState::IdleInTransaction | ClientState::Waiting => true,
    };
    shared.clients.list().iter().filter(|client| is_busy(client.client_state())).count()
}
