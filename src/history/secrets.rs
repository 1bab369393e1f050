//! What the server stores of users' passwords, for `auth.mode = "scram"`: read anew at each login, kept nowhere.

use std::sync::{Mutex, PoisonError};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::sync::Semaphore;

use super::connect::{RecorderError, Server, bounded};

/// Logins that are looked up at a time; each has a connection of the recorder's role, which stays for the next one.
const AT_ONCE: usize = 4;

/// Connections on which nothing else is ever done, so that nothing a client or another task sets reaches them.
pub(super) struct Secrets {
    idle: Mutex<Vec<PgConnection>>,
    places: Semaphore,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { idle: Mutex::default(), places: Semaphore::new(AT_ONCE) }
    }
}

impl Secrets {
    /// The user's stored password; `None` where there is no such user, or the user has none.
    pub async fn stored(&self, server: &Server, query: &str, user: &str) -> Result<Option<String>, RecorderError> {
        let _place = self.places.acquire().await.map_err(|_| RecorderError::NotRunning)?;
        if let Some(mut connection) = self.take() {
            match look(&mut connection, query, user).await {
                // The server may have gone and come back since.
                Err(error) if !error.leaves_connection() => {}
                answer => {
                    self.put_back(connection);
                    return answer;
                }
            }
        }
        let mut connection = server.connect(&server.main).await?;
        let answer = look(&mut connection, query, user).await;
        if answer.as_ref().map_or_else(RecorderError::leaves_connection, |_| true) {
            self.put_back(connection);
        }
        answer
    }

    fn take(&self) -> Option<PgConnection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put_back(&self, connection: PgConnection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

async fn look(connection: &mut PgConnection, query: &str, user: &str) -> Result<Option<String>, RecorderError> {
    bounded(async {
        let row = sqlx::query(AssertSqlSafe(query.to_owned())).bind(user).fetch_optional(connection).await?;
        // Of another type than text where somebody else wrote the query: then it is said, not guessed.
        row.map_or(Ok(None), |row| row.try_get::<Option<String>, _>(1))
    })
    .await
}
