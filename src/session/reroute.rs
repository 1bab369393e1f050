//! What rules make go elsewhere: a session that came to another branch than it asked for is told so.

use crate::change::SessionFacts;
use crate::wire::error::{Text, put_notice};
use crate::wire::frame;

/// What is said where nothing went wrong.
const SUCCESSFUL_COMPLETION: &str = "00000";

/// A notice and the first ReadyForQuery, which has this body; `None` where the session is where it wanted to be.
pub(super) fn notice_at_login(facts: &SessionFacts, ready: &[u8]) -> Option<Vec<u8>> {
    let rerouted = facts.rerouted.as_ref()?;
    let branch = facts.branch.as_deref().unwrap_or_default();
    let mut out = Vec::new();
    put_notice(
        &mut out,
        Text {
            sqlstate: SUCCESSFUL_COMPLETION,
            message: &format!("this session is on branch \"{branch}\", not on \"{}\"", rerouted.from),
            detail: Some(&format!("Rule: {}.", rerouted.rule)),
            hint: None,
        },
    );
    frame::put(&mut out, b'Z', |body| body.extend_from_slice(ready));
    Some(out)
}
