//! Branches that are made because somebody connects to them: one at work for each name, whoever waits for it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::runtime::Handle;

use super::History;
use super::ask::MAKING;
use super::branching::{BranchError, NewBranch};
use super::connect::RecorderError;
use crate::branch::Branches;
use crate::config::AutoCreate;

/// How long another proxy that is at the same branch is waited for. Reading a parent of 5,000 tables takes some 20 s.
const PATIENCE: Duration = Duration::from_mins(10);

/// How often it is looked whether it is through.
const PAUSE: Duration = Duration::from_millis(200);

/// What came of it, for everybody who waits.
type Made = Result<(), Arc<BranchError>>;

/// The branches that are being made, by their names.
type UnderWay = HashMap<String, Shared<BoxFuture<'static, Made>>>;

/// See the module.
#[derive(Default)]
pub(super) struct OnDemand(Mutex<UnderWay>);

impl OnDemand {
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// Makes a branch for somebody who connects to it, if it is not there by then. Cancel safe: the work goes on when nobody
    /// waits for it any more.
    pub async fn create_on_demand(
        &self,
        auto: &AutoCreate,
        branches: Arc<Branches>,
        new: NewBranch,
    ) -> Result<(), Arc<BranchError>> {
        let inner = self.running().map_err(|error| Arc::new(error.into()))?;
        let made = {
            // Whoever is through takes himself out: not before he is in.
            let mut under_way = inner.on_demand.lock();
            match under_way.get(&new.name) {
                Some(made) => made.clone(),
                None => {
                    self.has_room(auto, &under_way, &new.name)?;
                    let name = new.name.clone();
                    let made = self.clone().begin(inner.runtime.clone(), branches, new);
                    under_way.insert(name, made.clone());
                    made
                }
            }
        };
        made.await
    }

    /// Whether there may be one more.
    fn has_room(&self, auto: &AutoCreate, under_way: &UnderWay, name: &str) -> Result<(), BranchError> {
        let mut there: HashSet<String> = self.branch_rows().into_iter().map(|branch| branch.name).collect();
        there.retain(|name| auto.makes(name));
        there.extend(under_way.keys().cloned());
        if there.contains(name) || there.len() < usize::try_from(auto.max).unwrap_or(usize::MAX) {
            return Ok(());
        }
        Err(BranchError::TooMany { name: name.to_owned(), max: auto.max })
    }

    fn begin(self, runtime: Handle, branches: Arc<Branches>, new: NewBranch) -> Shared<BoxFuture<'static, Made>> {
        let work = runtime.spawn(async move {
            let made = self.make(branches, &new).await;
            if let Some(inner) = self.inner() {
                inner.on_demand.lock().remove(&new.name);
            }
            made.map_err(Arc::new)
        });
        async move { work.await.unwrap_or_else(|_| Err(Arc::new(RecorderError::NotRunning.into()))) }.boxed().shared()
    }

    async fn make(&self, branches: Arc<Branches>, new: &NewBranch) -> Result<(), BranchError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let turn = MAKING.acquire().await;
            let made = self.create_branch(branches.clone(), new.clone()).await;
            drop(turn);
            match made {
                // Somebody else was quicker.
                Ok(_) | Err(BranchError::Taken(_)) => return Ok(()),
                // Another proxy is at it, or it is just being dropped; or the main database is copied.
                Err(BranchError::Busy(_) | BranchError::MainCopied) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await
                }
                Err(error) => return Err(error),
            }
        }
    }
}
