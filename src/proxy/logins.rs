//! Logins that failed, by address, and what users who are not there are asked with.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long failures count.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered; beyond it the one whose failures are the oldest is forgotten.
const ADDRESSES: usize = 10_000;

/// See the module.
#[derive(Default)]
pub(super) struct Logins {
    failures: Mutex<HashMap<IpAddr, Failures>>,
    mock_key: OnceLock<[u8; 32]>,
}

struct Failures {
    since: Instant,
    count: u32,
}

impl Logins {
    /// Whether the address had `most` failures within a minute; 0: there is no bound.
    pub fn too_many(&self, address: IpAddr, most: u32) -> bool {
        let failures = self.lock();
        let recent = failures.get(&network(address)).filter(|failures| failures.since.elapsed() < WINDOW);
        most > 0 && recent.is_some_and(|failures| failures.count >= most)
    }

    /// A wrong password came from there.
    pub fn failed(&self, address: IpAddr) {
        let address = network(address);
        let mut failures = self.lock();
        if failures.len() >= ADDRESSES && !failures.contains_key(&address) {
            failures.retain(|_, failures| failures.since.elapsed() < WINDOW);
            if failures.len() >= ADDRESSES
                && let Some(oldest) = failures.iter().min_by_key(|(_, failures)| failures.since).map(|(at, _)| *at)
            {
                failures.remove(&oldest);
            }
        }
        let entry = failures.entry(address).or_insert_with(|| Failures { since: Instant::now(), count: 0 });
        if entry.since.elapsed() >= WINDOW {
            *entry = Failures { since: Instant::now(), count: 0 };
        }
        entry.count = entry.count.saturating_add(1);
    }

    /// This process' own key, from which the secrets of users without one are made where the repository has no key of its own;
    /// `None` without random numbers.
    pub fn mock_key(&self) -> Option<&[u8; 32]> {
        if self.mock_key.get().is_none() {
            let mut key = [0; 32];
            getrandom::fill(&mut key).ok()?;
            let _ = self.mock_key.set(key);
        }
        self.mock_key.get()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one party has: an address, or a whole network of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_by_address_and_network() {
        let logins = Logins::default();
        let (one, two): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        logins.failed(one);
        logins.failed("::ffff:10.0.0.1".parse().unwrap());
        assert!(logins.too_many(one, 2) && !logins.too_many(one, 3) && !logins.too_many(two, 1));
        assert!(!logins.too_many(one, 0));
        logins.failed("2001:db8::1".parse().unwrap());
        assert!(logins.too_many("2001:db8::2".parse().unwrap(), 1));
        assert!(!logins.too_many("2001:db8:0:1::1".parse().unwrap(), 1));
    }

    #[test]
    fn the_table_is_bounded() {
        let logins = Logins::default();
        for n in 0..=u32::try_from(ADDRESSES).unwrap() {
            logins.failed(IpAddr::V4(n.into()));
        }
        assert_eq!(logins.lock().len(), ADDRESSES);
        assert!(logins.too_many(IpAddr::V4(u32::try_from(ADDRESSES).unwrap().into()), 1), "the newest is there");
    }

    #[test]
    fn the_key_stays() {
        let logins = Logins::default();
        assert_eq!(logins.mock_key().copied(), logins.mock_key().copied());
        assert_ne!(logins.mock_key().copied(), Some([0; 32]));
    }
}
