//! What a client is told of a statement that a rule queues.

use super::{Queueing, Refusal};

/// The SQLSTATE of a statement that became a change request.
pub const QUEUED: &str = "PG002";

/// A statement that became, or is to become, a change request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The rule that queues it.
    pub rule: String,
    /// The statement, as errors name it.
    pub what: String,
    /// Rule and branch.
    pub detail: String,
    /// The rule's own message.
    pub message: Option<String>,
    /// The rule's own hint.
    pub hint: Option<String>,
    /// For how long.
    pub queueing: Queueing,
    /// What lint found, in full, for whoever decides.
    pub findings: Option<String>,
}

impl Queued {
    /// The error that names the change request; `numbers` are those of all statements of one text that wait, the first one's first.
    /// `run_again`: once they are approved, their client may run them.
    pub fn refusal(&self, numbers: &[i64], run_again: bool) -> Refusal {
        let first = numbers.first().copied().unwrap_or_default();
        let said = self.message.clone().unwrap_or_else(|| format!("{} waits for approval", self.what));
        let list: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        let all = if list.len() > 1 { format!(" Change requests: {}.", list.join(", ")) } else { String::new() };
        let hint = || {
            let then = match (run_again, list.len() > 1) {
                (false, _) => format!("APPLY CHANGE {first} runs it once it is approved"),
                (true, false) => format!("Once it is approved, run it again; or APPLY CHANGE {first} runs it"),
                (true, true) => format!("Once all are approved, run it again; or APPLY CHANGE {first} runs the first"),
            };
            format!(
                "Nothing was run. An administrator decides on the control port with APPROVE CHANGE {first} or REJECT CHANGE \
                 {first} BECAUSE '…'. {then}."
            )
        };
        Refusal {
            sqlstate: QUEUED,
            rule: Some(self.rule.clone()),
            message: format!("change request {first}: {said}"),
            detail: Some(format!("{}{all}", self.detail)),
            hint: Some(self.hint.clone().unwrap_or_else(hint)),
        }
    }

    /// The error where it is approved, and nothing could note with the statement that it was this request.
    pub fn only_applied(&self, number: i64) -> Refusal {
        let hint = format!("Nothing was run. On the control port APPLY CHANGE {number} runs it.");
        Refusal {
            message: format!("change request {number}: {} is approved, but cannot be run in this way", self.what),
            hint: Some(self.hint.clone().unwrap_or(hint)),
            ..self.refusal(&[number], false)
        }
    }

    /// The error where somebody else has the request in hand.
    pub fn busy(&self) -> Refusal {
        Refusal {
            message: format!("the change request of this {} is just being decided on or applied", self.what),
            hint: Some("Nothing was run. SHOW CHANGES on the control port tells what becomes of it.".to_owned()),
            ..self.refusal(&[], false)
        }
    }

    /// The error of a client that waited for the decision in vain.
    pub fn closed(&self, number: i64, why: &str) -> Refusal {
        Refusal {
            message: format!("change request {number}: {} {why}", self.what),
            hint: Some("Nothing was run. Sent again it is a new change request.".to_owned()),
            ..self.refusal(&[number], false)
        }
    }

    /// The error of a client that cancelled it while it waited.
    pub fn cancelled(&self, number: i64) -> Refusal {
        Refusal {
            sqlstate: "57014",
            message: "canceling statement due to user request".to_owned(),
            detail: Some(format!("{} Change request {number} stays.", self.detail)),
            hint: None,
            rule: Some(self.rule.clone()),
        }
    }

    /// The error where the statement cannot become a change request, and so cannot be run at all.
    pub fn impossible(&self, because: &str) -> Refusal {
        Refusal {
            sqlstate: "0A000",
            rule: Some(self.rule.clone()),
            message: format!("{} cannot wait for approval: {because}", self.what),
            detail: Some(self.detail.clone()),
            hint: Some("The rule makes such statements change requests: send it in another way.".to_owned()),
        }
    }
}
