//! The statement log's queue: facts stay in it until the database has them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::change::StatementFact;

/// Texts that wait may take this much memory, whatever their number.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// Bounded in facts and in bytes. One writer takes from it, anybody puts in.
pub(super) struct Queue {
    max_facts: usize,
    max_bytes: usize,
    waiting: Mutex<Waiting>,
    /// For the writer: there is something.
    filled: Notify,
    /// For those who wait for room, or for the end of the writing.
    drained: Notify,
    /// For the writer: somebody waits for the end, try again now.
    hurry: Notify,
}

#[derive(Default)]
struct Waiting {
    facts: VecDeque<Arc<StatementFact>>,
    bytes: usize,
    /// Facts ever put in, and ever taken out; their difference is what waits.
    logged: u64,
    written: u64,
}

impl Queue {
    pub fn new(max_facts: usize, max_bytes: usize) -> Self {
        Self {
            max_facts: max_facts.max(1),
            max_bytes,
            waiting: Mutex::default(),
            filled: Notify::new(),
            drained: Notify::new(),
            hurry: Notify::new(),
        }
    }

    /// Takes the fact, or hands it back when there is no room.
    #[allow(clippy::result_large_err, reason = "the fact itself comes back")]
    pub fn push(&self, fact: StatementFact) -> Result<(), StatementFact> {
        let size = size_of_fact(&fact);
        let mut waiting = self.lock();
        // A single fact above the bound must get through some time: when it is alone.
        let over = waiting.bytes + size > self.max_bytes && !waiting.facts.is_empty();
        if over || waiting.facts.len() >= self.max_facts {
            return Err(fact);
        }
        waiting.bytes += size;
        waiting.logged += 1;
        waiting.facts.push_back(Arc::new(fact));
        drop(waiting);
        self.filled.notify_one();
        Ok(())
    }

    /// As [`Self::push`], but waits for room. Cancel safe, but then the fact is not logged.
    pub async fn push_wait(&self, mut fact: StatementFact) {
        loop {
            let drained = self.drained.notified();
            match self.push(fact) {
                Ok(()) => return,
                Err(back) => fact = back,
            }
            drained.await;
        }
    }

    /// The oldest facts, at most so many and about so many bytes, at least one; waits while there are none.
    /// They stay in the queue until [`Self::written`]. Cancel safe.
    pub async fn oldest(&self, max_facts: usize, max_bytes: usize) -> Vec<Arc<StatementFact>> {
        loop {
            let filled = self.filled.notified();
            let batch = self.peek(max_facts, max_bytes);
            if !batch.is_empty() {
                return batch;
            }
            filled.await;
        }
    }

    /// Takes the oldest `count` facts out: the database has them.
    pub fn written(&self, count: usize) {
        let mut waiting = self.lock();
        for _ in 0..count {
            let Some(fact) = waiting.facts.pop_front() else { break };
            waiting.bytes = waiting.bytes.saturating_sub(size_of_fact(&fact));
            waiting.written += 1;
        }
        drop(waiting);
        self.drained.notify_waiters();
    }

    /// Waits until every fact put in before this call is out again. Cancel safe.
    pub async fn drained(&self) {
        let goal = self.lock().logged;
        self.hurry.notify_one();
        loop {
            let drained = self.drained.notified();
            if self.lock().written >= goal {
                return;
            }
            drained.await;
        }
    }

    /// Waits until somebody waits for the end. Cancel safe.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    pub fn len(&self) -> usize {
        self.lock().facts.len()
    }

    pub fn max_facts(&self) -> usize {
        self.max_facts
    }

    /// How many of each command tag wait, for the last words of a process that cannot write them.
    pub fn tags(&self) -> BTreeMap<&'static str, usize> {
        let mut tags = BTreeMap::new();
        for fact in &self.lock().facts {
            *tags.entry(fact.tag).or_default() += 1;
        }
        tags
    }

    fn peek(&self, max_facts: usize, max_bytes: usize) -> Vec<Arc<StatementFact>> {
        let waiting = self.lock();
        let mut bytes = 0;
        let fits = |fact: &&Arc<StatementFact>| {
            let first = bytes == 0;
            bytes += size_of_fact(fact);
            first || bytes <= max_bytes
        };
        waiting.facts.iter().take(max_facts).take_while(fits).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a fact costs in memory, near enough.
fn size_of_fact(fact: &StatementFact) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::capacity);
    size_of::<StatementFact>()
        + fact.sql.capacity()
        + fact.application_name.capacity()
        + text(&fact.rule)
        + text(&fact.sqlstate)
        + text(&fact.error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::super::tests::fact;
    use super::*;

    fn sql(facts: &[Arc<StatementFact>]) -> Vec<&str> {
        facts.iter().map(|fact| fact.sql.as_str()).collect()
    }

    #[test]
    fn a_full_queue_hands_the_fact_back() {
        let queue = Queue::new(2, MAX_BYTES);
        assert!(queue.push(fact("1")).is_ok());
        assert!(queue.push(fact("2")).is_ok());
        assert_eq!(queue.push(fact("3")).unwrap_err().sql, "3");
        queue.written(1);
        assert!(queue.push(fact("3")).is_ok());
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn a_queue_is_bounded_in_bytes_too() {
        let queue = Queue::new(100, 10_000);
        assert!(queue.push(fact(&"x".repeat(8_000))).is_ok());
        assert!(queue.push(fact(&"y".repeat(8_000))).is_err());
        queue.written(1);
        assert!(queue.push(fact(&"z".repeat(80_000))).is_ok(), "alone, any size passes");
    }

    #[tokio::test]
    async fn facts_stay_until_they_are_written() {
        let queue = Queue::new(10, MAX_BYTES);
        for text in ["1", "2", "3"] {
            queue.push(fact(text)).unwrap();
        }
        assert_eq!(sql(&queue.oldest(2, MAX_BYTES).await), ["1", "2"]);
        assert_eq!(sql(&queue.oldest(2, MAX_BYTES).await), ["1", "2"]);
        queue.written(2);
        assert_eq!(sql(&queue.oldest(2, MAX_BYTES).await), ["3"]);
    }

    #[tokio::test]
    async fn a_batch_is_bounded_in_bytes_but_never_empty() {
        let queue = Queue::new(10, MAX_BYTES);
        for _ in 0..3 {
            queue.push(fact(&"x".repeat(5_000))).unwrap();
        }
        assert_eq!(queue.oldest(10, 1).await.len(), 1);
        assert_eq!(queue.oldest(10, 11_000).await.len(), 2);
    }

    #[tokio::test]
    async fn waiting_for_room_ends_when_there_is_some() {
        let queue = Arc::new(Queue::new(1, MAX_BYTES));
        queue.push(fact("1")).unwrap();
        let waiter = tokio::spawn({
            let queue = queue.clone();
            async move { queue.push_wait(fact("2")).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        queue.written(1);
        tokio::time::timeout(Duration::from_secs(30), waiter).await.unwrap().unwrap();
        assert_eq!(sql(&queue.oldest(10, MAX_BYTES).await), ["2"]);
    }

    #[tokio::test]
    async fn draining_does_not_wait_for_later_facts() {
        let queue = Arc::new(Queue::new(10, MAX_BYTES));
        queue.push(fact("1")).unwrap();
        let drained = tokio::spawn({
            let queue = queue.clone();
            async move { queue.drained().await }
        });
        tokio::task::yield_now().await;
        queue.push(fact("2")).unwrap();
        queue.written(1);
        tokio::time::timeout(Duration::from_secs(30), drained).await.unwrap().unwrap();
        assert_eq!(queue.len(), 1);
    }
}
