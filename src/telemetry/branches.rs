//! Counts by branch: handles are made when a branch is first seen, up to a bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use metrics::{Counter, Gauge};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::{counter, gauge, names};
use crate::change::{Outcome, VerdictKind};

/// Branches with series of their own; later ones share the label `other`. A time series costs the scraper
/// more than the proxy, and a repository may have thousands of short-lived branches.
pub(super) const MAX_BRANCHES: usize = 100;

/// The label of a session that is on no branch.
const NONE: &str = "none";

/// The label of branches beyond [`MAX_BRANCHES`].
const OTHER: &str = "other";

/// Handles by branch.
#[derive(Default)]
pub(super) struct BranchCounts {
    all: RwLock<HashMap<String, Arc<Counts>>>,
}

/// One branch's handles.
pub(super) struct Counts {
    label: String,
    pub(super) clients: Gauge,
    pub(super) up: Gauge,
    pub(super) allowed: Counter,
    pub(super) refused: Counter,
    pub(super) queued: Counter,
    pub(super) rerouted: Counter,
    /// Tags are the server's own, so there are some two hundred at most.
    ddl: Mutex<HashMap<(&'static str, &'static str), Counter>>,
    /// The rules of lint are some eighty.
    findings: Mutex<HashMap<String, Counter>>,
}

impl BranchCounts {
    /// The handles of this branch.
    pub(super) fn of(&self, recorder: &PrometheusRecorder, branch: Option<&str>) -> Arc<Counts> {
        let name = branch.unwrap_or(NONE);
        if let Some(found) = self.all.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return found.clone();
        }
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let named = all.keys().filter(|known| *known != OTHER).count();
        let label = if all.contains_key(name) || named < MAX_BRANCHES { name } else { OTHER };
        all.entry(label.to_owned()).or_insert_with(|| Arc::new(Counts::register(recorder, label))).clone()
    }
}

impl Counts {
    fn register(recorder: &PrometheusRecorder, label: &str) -> Self {
        let verdict =
            |kind: VerdictKind| counter(recorder, names::VERDICTS, &[("branch", label), ("verdict", kind.as_str())]);
        Self {
            label: label.to_owned(),
            clients: gauge(recorder, names::CLIENTS, &[("branch", label)]),
            up: gauge(recorder, names::SERVER_UP, &[("branch", label)]),
            allowed: verdict(VerdictKind::Allow),
            refused: verdict(VerdictKind::Refuse),
            queued: verdict(VerdictKind::Queue),
            rerouted: verdict(VerdictKind::Reroute),
            ddl: Mutex::default(),
            findings: Mutex::default(),
        }
    }

    /// Counts one finding.
    pub(super) fn finding(&self, recorder: &PrometheusRecorder, rule: String) {
        let mut all = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = all.entry(rule).or_insert_with_key(|rule| {
            counter(recorder, names::LINT_FINDINGS, &[("branch", self.label.as_str()), ("rule", rule.as_str())])
        });
        counted.increment(1);
    }

    /// Counts one statement of the statement log.
    pub(super) fn ddl(&self, recorder: &PrometheusRecorder, tag: &'static str, outcome: Outcome) {
        let tag = if tag.is_empty() { "unknown" } else { tag };
        let mut all = self.ddl.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry((tag, outcome.as_str()))
            .or_insert_with(|| {
                let labels = [("branch", self.label.as_str()), ("tag", tag), ("outcome", outcome.as_str())];
                counter(recorder, names::DDL, &labels)
            })
            .increment(1);
    }
}
