//! What the server stores of users' passwords, for `auth.mode = "scram"`: read anew at each login, kept nowhere.

use std::sync::{Mutex, OnceLock, PoisonError};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::sync::Semaphore;

use super::connect::{RecorderError, Server, bounded};
use crate::change::Key;

/// Logins that are looked up at a time; each has a connection of the recorder's role, which stays for the next one.
const AT_ONCE: usize = 4;

/// What the server stores of a user's password, and what a user without one is asked with.
pub struct Stored {
    /// The password as it is stored; `None` where there is no such user, or the user has none.
    pub password: Option<String>,
    /// What all proxies of the repository share; `None` where the main database has no `pggit` schema.
    pub shared: Option<Shared>,
}

/// See [`Stored`].
#[derive(Clone, Copy)]
pub struct Shared {
    /// A key that clients cannot read.
    pub key: Key,
    /// With how many iterations the server would store a password now.
    pub iterations: u32,
}

/// Connections on which nothing else is ever done, so that nothing a client or another task sets reaches them.
pub(super) struct Secrets {
    idle: Mutex<Vec<PgConnection>>,
    places: Semaphore,
    /// Read once: it does not change.
    shared: OnceLock<Shared>,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { idle: Mutex::default(), places: Semaphore::new(AT_ONCE), shared: OnceLock::new() }
    }
}

impl Secrets {
    /// The same questions for every user, whether it is there or not.
    pub async fn stored(&self, server: &Server, query: &str, user: &str) -> Result<Stored, RecorderError> {
        let _place = self.places.acquire().await.map_err(|_| RecorderError::NotRunning)?;
        if let Some(mut connection) = self.take() {
            match self.look(&mut connection, query, user).await {
                // The server may have gone and come back since.
                Err(error) if !error.leaves_connection() => {}
                answer => {
                    self.put_back(connection);
                    return answer;
                }
            }
        }
        let mut connection = server.connect(&server.main).await?;
        let answer = self.look(&mut connection, query, user).await;
        if answer.as_ref().map_or_else(RecorderError::leaves_connection, |_| true) {
            self.put_back(connection);
        }
        answer
    }

    async fn look(&self, connection: &mut PgConnection, query: &str, user: &str) -> Result<Stored, RecorderError> {
        let shared = match self.shared.get() {
            Some(shared) => Some(*shared),
            None => match read_shared(connection).await {
                // Without the schema, or without the right to read it.
                Err(error) if error.leaves_connection() => None,
                read => {
                    let read = read?;
                    Some(*self.shared.get_or_init(|| read))
                }
            },
        };
        Ok(Stored { password: read_password(connection, query, user).await?, shared })
    }

    fn take(&self) -> Option<PgConnection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put_back(&self, connection: PgConnection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

async fn read_shared(connection: &mut PgConnection) -> Result<Shared, RecorderError> {
    // The setting came with PostgreSQL 16.
    let query = "SELECT key, coalesce(pg_catalog.current_setting('scram_iterations', true), '4096')::pg_catalog.int4 \
                 FROM pggit.companion_key";
    let (key, iterations) = bounded(sqlx::query_as::<_, (Vec<u8>, i32)>(query).fetch_one(connection)).await?;
    Ok(Shared { key: Key(key.try_into().unwrap_or([0; 64])), iterations: iterations.unsigned_abs() })
}

async fn read_password(
    connection: &mut PgConnection,
    query: &str,
    user: &str,
) -> Result<Option<String>, RecorderError> {
    bounded(async {
        let row = sqlx::query(AssertSqlSafe(query.to_owned())).bind(user).fetch_optional(connection).await?;
        // Of another type than text where somebody else wrote the query: then it is said, not guessed.
        row.map_or(Ok(None), |row| row.try_get::<Option<String>, _>(1))
    })
    .await
}
