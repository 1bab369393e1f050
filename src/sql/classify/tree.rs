//! The one file that knows libpg_query: PostgreSQL 18's own grammar, by way of `pg_raw_parse`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

pub use pg_raw_parse::list::NodeList;
pub use pg_raw_parse::nodes;
pub use pg_raw_parse::raw::{
    AlterSubscriptionType, AlterTableType, DiscardMode, GrantTargetType, ObjectType, ReindexObjectType,
    TransactionStmtKind, VariableSetKind,
};
pub use pg_raw_parse::{ConstValue, Node};

/// libpg_query points the process' file descriptor 2 at a pipe while it parses, and back afterwards.
/// Two threads that do so at once can leave it pointing at a closed pipe for good.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Calls `see` with every statement and its bytes as the grammar gives them: from where it begins to
/// the next semicolon or the text's end. `None` where the text does not parse, or anything panics
/// (the bindings do so on a tree that they do not expect).
pub fn parse<T>(text: &str, mut see: impl FnMut(Node<'_>, std::ops::Range<usize>) -> T) -> Option<Vec<T>> {
    let parsed = {
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        pg_raw_parse::parse(text).ok()?
    };
    catch_unwind(AssertUnwindSafe(|| {
        parsed
            .iter()
            .map(|raw| {
                let start = usize::try_from(raw.stmt_location).unwrap_or(0);
                let length = usize::try_from(raw.stmt_len).unwrap_or(0);
                let end = if length == 0 { text.len() } else { (start + length).min(text.len()) };
                see(raw.stmt(), start.min(end)..end)
            })
            .collect()
    }))
    .ok()
}
