//! Checks of statements run on threads of their own: what a text that is made for it costs squawk is bounded by time, not
//! by what it does.

use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use crate::policy::lint::{Check, Findings};

/// How long a check may take, the wait for its turn included. An ordinary migration takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Checks at a time. One that takes too long keeps its place until it has ended, and those behind it are given up.
static PLACES: Semaphore = Semaphore::const_new(2);

/// squawk calls itself for each level of nesting: what the longest text can need, of which only what is used is taken.
const STACK: usize = 512 << 20;

/// What a check finds, or that it could not be made.
pub(super) async fn run(check: Check) -> Findings {
    let because = match tokio::time::timeout(PATIENCE, on_a_thread(check.clone())).await {
        Ok(Ok(findings)) => return findings,
        Ok(Err(because)) => because,
        Err(_) => "it takes too long",
    };
    check.unchecked(because)
}

async fn on_a_thread(check: Check) -> Result<Findings, &'static str> {
    let place = PLACES.acquire().await.map_err(|_| "the proxy ends")?;
    let (tell, told) = oneshot::channel();
    let work = move || {
        let _place = place;
        let _ = tell.send(check.run());
    };
    let thread = std::thread::Builder::new().name("lint".to_owned()).stack_size(STACK);
    thread.spawn(work).map_err(|_| "there is no thread for it")?;
    // Who panics tells nothing.
    told.await.unwrap_or(Err("squawk failed on it"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::lint::{About, Lint, LintAction, MAX_TEXT, NOT_LINTED};

    async fn rules(text: &str) -> Vec<String> {
        let lint = Lint { action: LintAction::Warn, exclude: Vec::new(), include: Vec::new(), exclude_own: Vec::new() };
        let about = vec![About { range: 0..text.len(), tag: "CREATE VIEW", tables: Vec::new(), is_bounded: true }];
        let text = Some(text.as_bytes().to_vec());
        let check = Check { lint: Arc::new(lint), text, about, version: 18, in_transaction: true };
        run(check).await.all.into_iter().map(|finding| finding.rule).collect()
    }

    /// In time or not: neither the process nor the patience of its client ends.
    #[tokio::test]
    async fn what_is_nested_as_deep_as_a_text_can_be_is_told_of() {
        for (open, close) in [("(", ")"), ("- ", ""), ("(select ", ")"), ("not ", ""), ("array[", "]")] {
            let times = (MAX_TEXT - 100) / (open.len() + close.len());
            let text = format!("create view v as select {}1{}", open.repeat(times), close.repeat(times));
            let rules = rules(&text).await;
            assert!(rules.iter().any(|rule| rule == NOT_LINTED || rule == "require-lock-timeout"), "{open}: {rules:?}");
        }
    }
}
