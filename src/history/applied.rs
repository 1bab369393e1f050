//! What a branch's own database says of change requests: `pggit.applied_requests`, whose rows are written in the transaction
//! that applies a request, by `APPLY` or by its author's own run. The status in the main database follows.

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::connect::{RecorderError, Server, bounded};
use super::recorder::close;
use super::store::storable;

/// One look tells of at most so many.
const AT_ONCE: i64 = 100;

/// What became of noting a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    /// It is noted, in the transaction that is open.
    Noted,
    /// It was applied before.
    Applied,
    /// It was rejected before.
    Rejected,
    /// Another transaction is at it.
    Busy,
}

/// Notes in the open transaction that the request is applied by it, or (`rejected`, with the reason) that nobody may apply it.
/// Unless it is [`Entered::Noted`] the transaction is of no more use.
pub(super) async fn enter(
    branch: &mut PgConnection,
    id: Uuid,
    by: &str,
    rejected: Option<&str>,
) -> Result<Entered, RecorderError> {
    // The connection's lock_timeout, which is short: an author's own transaction may be open for hours.
    let insert = sqlx::query(
        "INSERT INTO pggit.applied_requests (id, applied_by, rejected) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    );
    let insert = insert.bind(id).bind(storable(by)).bind(rejected.map(storable));
    match bounded(insert.execute(&mut *branch)).await {
        Ok(done) if done.rows_affected() > 0 => return Ok(Entered::Noted),
        Ok(_) => {}
        Err(error) if error.sqlstate() == Some("55P03") => return Ok(Entered::Busy),
        Err(error) => return Err(error),
    }
    let look = sqlx::query_scalar::<_, bool>("SELECT rejected IS NOT NULL FROM pggit.applied_requests WHERE id = $1");
    let is_rejected = bounded(look.bind(id).fetch_one(branch)).await?;
    Ok(if is_rejected { Entered::Rejected } else { Entered::Applied })
}

/// Tells the main database what it may not know yet: an author's transaction was committed and nobody saw it, or a proxy ended
/// before it could say so.
pub(super) async fn tell(branch: &mut PgConnection, server: &Server) -> Result<(), RecorderError> {
    type Row = (Uuid, String, chrono::DateTime<chrono::Utc>, Option<String>);
    let untold = sqlx::query_as::<_, Row>(
        "SELECT id, applied_by, applied_at, rejected FROM pggit.applied_requests WHERE NOT told ORDER BY id LIMIT $1",
    );
    let untold = bounded(untold.bind(AT_ONCE).fetch_all(&mut *branch)).await?;
    if untold.is_empty() {
        return Ok(());
    }
    let mut main = server.connect(&server.main).await?;
    let mut told = Vec::with_capacity(untold.len());
    for (id, by, at, rejected) in untold {
        let note = sqlx::query_scalar::<_, bool>("SELECT pggit.note_applied($1, $2, $3, $4)");
        if bounded(note.bind(id).bind(by).bind(at).bind(rejected).fetch_one(&mut main)).await? {
            told.push(id);
        }
    }
    close(main).await;
    let update = sqlx::query("UPDATE pggit.applied_requests SET told = true WHERE id = ANY ($1)");
    bounded(update.bind(told).execute(branch)).await.map(drop)
}
