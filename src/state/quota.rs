//! How many clients of one user and of one branch are logged in.
//!
//! Counted from the end of the login, as the server counts a role's: who only says another's name takes nothing from
//! him. Names leave with their last client, so there are never more than clients.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The counts of all users and branches.
#[derive(Default)]
pub struct Quota {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    users: HashMap<String, u32>,
    branches: HashMap<String, u32>,
}

/// At most so many clients; `None`: no bound of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Most {
    /// `limits.max_clients_per_user`
    pub per_user: Option<u32>,
    /// `limits.max_clients_per_branch`
    pub per_branch: Option<u32>,
}

/// What is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The user has as many clients as he may.
    User,
    /// The branch has.
    Branch,
}

impl Quota {
    /// Whether one more could log in now. A hint for those who are on their way; [`Self::enter`] decides.
    pub fn has_room(&self, user: &str, branch: Option<&str>, most: Most) -> Result<(), Full> {
        self.lock().room(user, branch, most)
    }

    /// Counts a client that has logged in, if there is room.
    pub fn enter(&self, user: &str, branch: Option<&str>, most: Most) -> Result<(), Full> {
        let mut counts = self.lock();
        counts.room(user, branch, most)?;
        add(&mut counts.users, user);
        if let Some(branch) = branch {
            add(&mut counts.branches, branch);
        }
        Ok(())
    }

    /// Takes a client out that had entered.
    pub fn leave(&self, user: &str, branch: Option<&str>) {
        let mut counts = self.lock();
        remove(&mut counts.users, user);
        if let Some(branch) = branch {
            remove(&mut counts.branches, branch);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn room(&self, user: &str, branch: Option<&str>, most: Most) -> Result<(), Full> {
        let is_full = |counts: &HashMap<String, u32>, name: &str, most: Option<u32>| {
            most.is_some_and(|most| counts.get(name).is_some_and(|count| *count >= most))
        };
        if is_full(&self.users, user, most.per_user) {
            return Err(Full::User);
        }
        if branch.is_some_and(|branch| is_full(&self.branches, branch, most.per_branch)) {
            return Err(Full::Branch);
        }
        Ok(())
    }
}

fn add(counts: &mut HashMap<String, u32>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => {
            counts.insert(name.to_owned(), 1);
        }
    }
}

fn remove(counts: &mut HashMap<String, u32>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_with_their_last_client() {
        let quota = Quota::default();
        let most = Most { per_user: Some(2), per_branch: Some(3) };
        assert_eq!(quota.enter("ann", Some("main"), most), Ok(()));
        assert_eq!(quota.enter("ann", Some("main"), most), Ok(()));
        assert_eq!(quota.enter("ann", None, most), Err(Full::User));
        assert_eq!(quota.enter("bob", Some("main"), most), Ok(()));
        assert_eq!(quota.has_room("eve", Some("main"), most), Err(Full::Branch));
        assert_eq!(quota.enter("eve", None, most), Ok(()));
        quota.leave("ann", Some("main"));
        assert_eq!(quota.enter("ann", Some("main"), most), Ok(()));
        for (user, branch) in [("ann", Some("main")), ("ann", Some("main")), ("bob", Some("main")), ("eve", None)] {
            quota.leave(user, branch);
        }
        let counts = quota.lock();
        assert!(counts.users.is_empty() && counts.branches.is_empty());
    }
}
