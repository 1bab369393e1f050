//! What the parser said of texts that came before, bounded in bytes.

use std::sync::Arc;

use hashlink::LruCache;

use super::{Encoding, Statement};

/// What an entry costs beside its text, names and statements: table, links, allocations.
const OVERHEAD: usize = 128;

/// Least recently used texts leave first.
pub struct Cache {
    entries: LruCache<Box<[u8]>, Entry>,
    capacity: usize,
    used: usize,
}

struct Entry {
    encoding: Encoding,
    statements: Arc<[Statement]>,
    cost: usize,
}

impl Cache {
    /// Holds at most about `capacity` bytes; 0 keeps nothing.
    pub fn new(capacity: usize) -> Self {
        Self { entries: LruCache::new_unbounded(), capacity, used: 0 }
    }

    /// The whole text is compared, not only its hash. Does not allocate.
    pub fn get(&mut self, text: &[u8], encoding: Encoding) -> Option<Arc<[Statement]>> {
        let entry = self.entries.get(text)?;
        (entry.encoding == encoding).then(|| entry.statements.clone())
    }

    /// Keeps the answer, unless it alone would take more than a sixteenth of the cache.
    pub fn put(&mut self, text: &[u8], encoding: Encoding, statements: &Arc<[Statement]>) {
        let cost = text.len() + OVERHEAD + statements.iter().map(size).sum::<usize>();
        if cost > self.capacity / 16 {
            return;
        }
        let entry = Entry { encoding, statements: statements.clone(), cost };
        if let Some(old) = self.entries.insert(text.into(), entry) {
            self.used -= old.cost;
        }
        self.used += cost;
        while self.used > self.capacity {
            let Some((_, old)) = self.entries.remove_lru() else { break };
            self.used -= old.cost;
        }
    }
}

fn size(statement: &Statement) -> usize {
    let names: usize = statement.objects.iter().map(|o| o.name.len() + o.schema.as_ref().map_or(0, String::len)).sum();
    size_of::<Statement>() + statement.objects.len() * size_of::<super::ObjectName>() + names
}

#[cfg(test)]
mod tests {
    use super::super::unread;
    use super::*;

    #[test]
    fn the_text_and_the_encoding_both_count() {
        let mut cache = Cache::new(1 << 20);
        cache.put(b"a", Encoding::AsciiSafe, &unread(1));
        assert!(cache.get(b"a", Encoding::AsciiSafe).is_some());
        assert!(cache.get(b"a", Encoding::LeadByte).is_none());
        assert!(cache.get(b"b", Encoding::AsciiSafe).is_none());
    }

    #[test]
    fn old_entries_leave_and_the_bound_holds() {
        let mut cache = Cache::new(32 * 1024);
        for i in 0..1000u32 {
            cache.put(&[i.to_be_bytes().as_slice(), &[0; 200]].concat(), Encoding::AsciiSafe, &unread(204));
            assert!(cache.used <= cache.capacity);
        }
        assert!(cache.entries.len() > 10);
        assert!(cache.get(&[999u32.to_be_bytes().as_slice(), &[0; 200]].concat(), Encoding::AsciiSafe).is_some());
        assert!(cache.get(&[0u32.to_be_bytes().as_slice(), &[0; 200]].concat(), Encoding::AsciiSafe).is_none());
    }

    #[test]
    fn an_entry_is_counted_once_when_it_is_replaced() {
        let mut cache = Cache::new(1 << 20);
        cache.put(b"a", Encoding::AsciiSafe, &unread(1));
        let used = cache.used;
        cache.put(b"a", Encoding::LeadByte, &unread(1));
        assert_eq!(cache.used, used);
    }

    #[test]
    fn a_text_that_is_too_big_for_the_cache_is_not_kept() {
        let mut cache = Cache::new(16 * 1024);
        let text = vec![b'x'; 1024];
        cache.put(&text, Encoding::AsciiSafe, &unread(1024));
        assert!(cache.get(&text, Encoding::AsciiSafe).is_none());
    }
}
