//! Rules that reroute in a circle: somebody would be sent from branch to branch, back to where he was.

use globset::GlobMatcher;

use crate::policy::{Action, Rule};

/// Each circle once: the index of the rule that it is told at, and what is wrong. Only rules that never hold for the same
/// session or statement make none: their conditions begin with different texts, or their networks do not meet.
pub(super) fn circles(rules: &[Rule]) -> Vec<(usize, String)> {
    let mut found: Vec<(Vec<usize>, String)> = Vec::new();
    for (start, rule) in rules.iter().enumerate() {
        let Some(to) = target(rule) else { continue };
        if rule.branch.as_ref().is_some_and(|branch| branch.glob().glob() == to) {
            found.push((vec![start], format!("a rule cannot reroute from \"{to}\" to itself")));
            continue;
        }
        let mut path = vec![start];
        if !goes_on(rules, &mut path) {
            continue;
        }
        let mut members = path.clone();
        members.sort_unstable();
        if found.iter().all(|(known, _)| *known != members) {
            let names: Vec<String> =
                path.iter().filter_map(|at| rules.get(*at)).map(|rule| format!("\"{}\"", rule.name)).collect();
            let message = format!("rules {} reroute in a circle", names.join(" and "));
            found.push((members, message));
        }
    }
    found.into_iter().filter_map(|(members, message)| Some((*members.last()?, message))).collect()
}

/// Makes a circle of the path that leads back to its first rule, if there is one.
fn goes_on(rules: &[Rule], path: &mut Vec<usize>) -> bool {
    let (Some(first), Some(last)) = (path.first().copied(), path.last().copied()) else { return false };
    for next in 0..rules.len() {
        if !leads_on(rules, path, last, next) {
            continue;
        }
        if next == first {
            return path.len() > 1;
        }
        if path.contains(&next) {
            continue;
        }
        path.push(next);
        if goes_on(rules, path) {
            return true;
        }
        path.pop();
    }
    false
}

/// Whether whoever was sent on by the rule `last` may be sent on by `next`.
fn leads_on(rules: &[Rule], path: &[usize], last: usize, next: usize) -> bool {
    let (Some(from), Some(rule)) = (rules.get(last), rules.get(next)) else { return false };
    let (Some(here), Some(to)) = (target(from), target(rule)) else { return false };
    here != to
        && rule.branch.as_ref().is_none_or(|branch| branch.is_match(here))
        && path.iter().filter_map(|at| rules.get(*at)).all(|other| may_meet(rule, other))
}

fn target(rule: &Rule) -> Option<&str> {
    match &rule.action {
        Action::Reroute(to) => Some(to),
        Action::Allow | Action::Refuse | Action::Queue(_) => None,
    }
}

/// Whether both rules may hold for one session or statement, their branches aside.
fn may_meet(a: &Rule, b: &Rule) -> bool {
    let networks = a.client.is_empty()
        || b.client.is_empty()
        || a.client.iter().any(|one| b.client.iter().any(|other| one.contains(other) || other.contains(one)));
    let classes = a.class.is_empty() || b.class.is_empty() || a.class.iter().any(|class| b.class.contains(class));
    networks
        && classes
        && globs_may_meet(&a.user, &b.user)
        && globs_may_meet(&a.application, &b.application)
        && globs_may_meet(&a.tag, &b.tag)
}

/// Whether a text may match both; by what stands before the first special character.
fn globs_may_meet(a: &Option<GlobMatcher>, b: &Option<GlobMatcher>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return true };
    let (a, b) = (a.glob().glob(), b.glob().glob());
    let special = |c: char| matches!(c, '*' | '?' | '[' | '{' | '\\');
    match (a.split_once(special), b.split_once(special)) {
        (None, None) => a.eq_ignore_ascii_case(b),
        (Some((start, _)), None) => begins(b, start),
        (None, Some((start, _))) => begins(a, start),
        (Some((one, _)), Some((other, _))) => begins(one, other) || begins(other, one),
    }
}

/// In any case, as tags have none.
fn begins(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}
