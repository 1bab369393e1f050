//! What a client is told of findings: which of them hold here, how long they take at this size, what to do instead.

use super::seen::Table;
use super::{Effect, Finding, Findings, LintAction, Seen};
use crate::policy::{Queued, Refusal};

const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Bytes a second with which a table is read, an index built, a table written anew. No more than an order of magnitude:
/// docs/LINT.md says how they were measured.
const READING: u64 = 500_000_000;
const INDEXING: u64 = 50_000_000;
const REWRITING: u64 = 50_000_000;

/// A finding as a client is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The rule and what it says.
    pub message: String,
    /// How large the table is, how long it takes, who holds locks.
    pub detail: Option<String>,
    /// What to do instead.
    pub hint: Option<String>,
}

impl Findings {
    /// Takes away what does not hold here: timeouts that the session has, or that we add, and what concerns a table that nobody
    /// else sees, or sees yet.
    pub fn sharpen(&mut self, seen: &Seen, adds_lock_timeout: bool) {
        let mut all = std::mem::take(&mut self.all);
        all.retain(|finding| {
            let tables = self.tables_of(finding.statement, seen);
            let all_are = |is: fn(&Table) -> bool| !tables.is_empty() && tables.iter().all(|table| is(table));
            match finding.effect {
                Effect::WaitsForLock
                    if seen.lock_timeout || adds_lock_timeout && self.is_bounded(finding.statement) =>
                {
                    false
                }
                Effect::TakesLong if seen.statement_timeout => false,
                effect if effect.concerns_others() => !all_are(|table| table.is_new || table.is_temporary),
                _ => !all_are(|table| table.is_temporary),
            }
        });
        self.all = all;
    }

    /// The findings of a statement, for its client.
    pub fn warnings<'a>(
        &'a self,
        statement: usize,
        seen: &'a Seen,
        in_transaction: bool,
    ) -> impl Iterator<Item = Warning> + 'a {
        self.of(statement).map(move |finding| {
            let tables = self.tables_of(statement, seen);
            let mut said: Vec<String> = tables.iter().flat_map(|table| sentences(finding.effect, table)).collect();
            if in_transaction && finding.effect.concerns_others() && !said.is_empty() {
                said.push("The lock is held until the transaction ends.".to_owned());
            }
            Warning {
                message: format!("{}: {}", finding.rule, finding.message.trim_end_matches('.')),
                detail: (!said.is_empty()).then(|| said.join(" ")),
                hint: finding.help.clone(),
            }
        })
    }

    /// The error that refuses a statement.
    pub fn refusal(&self, statement: usize, seen: &Seen, branch: &str, in_transaction: bool) -> Refusal {
        let rules = self.rules(statement);
        Refusal {
            sqlstate: INSUFFICIENT_PRIVILEGE,
            rule: Some(format!("lint: {rules}")),
            message: format!("{} refused by lint: {rules}", self.tag(statement)),
            detail: Some(format!("Branch: {branch}.{}", self.listed(statement, seen, in_transaction))),
            hint: Some(self.instead(statement)),
        }
    }

    /// What makes a statement a change request.
    pub fn queued(&self, statement: usize, seen: &Seen, branch: &str, in_transaction: bool) -> Queued {
        Queued {
            rule: format!("lint: {}", self.rules(statement)),
            what: self.tag(statement).to_owned(),
            detail: format!("Branch: {branch}.{}", self.listed(statement, seen, in_transaction)),
            message: None,
            hint: None,
            queueing: LintAction::QUEUEING,
            findings: Some(self.in_full(statement, seen, in_transaction)),
        }
    }

    fn of(&self, statement: usize) -> impl Iterator<Item = &Finding> {
        self.all.iter().filter(move |finding| finding.statement == statement)
    }

    fn is_bounded(&self, statement: usize) -> bool {
        self.about.get(statement).is_some_and(|about| about.is_bounded)
    }

    fn tag(&self, statement: usize) -> &'static str {
        self.about.get(statement).map_or("statement", |about| about.tag)
    }

    /// The rules' names, each once.
    fn rules(&self, statement: usize) -> String {
        let mut names: Vec<&str> = Vec::new();
        for finding in self.of(statement) {
            if !names.contains(&finding.rule.as_str()) {
                names.push(&finding.rule);
            }
        }
        names.join(", ")
    }

    /// One line for each finding.
    fn listed(&self, statement: usize, seen: &Seen, in_transaction: bool) -> String {
        let lines = self.warnings(statement, seen, in_transaction).map(|warning| {
            let detail = warning.detail.map(|detail| format!(" {detail}")).unwrap_or_default();
            format!("\n{}.{detail}", warning.message)
        });
        lines.collect()
    }

    /// The same with what to do instead, a paragraph for each finding.
    fn in_full(&self, statement: usize, seen: &Seen, in_transaction: bool) -> String {
        let paragraphs = self.warnings(statement, seen, in_transaction).map(|warning| {
            let more = warning.detail.into_iter().chain(warning.hint);
            more.fold(format!("{}.", warning.message), |said, line| format!("{said}\n{line}"))
        });
        paragraphs.collect::<Vec<_>>().join("\n\n")
    }

    fn instead(&self, statement: usize) -> String {
        let mut said: Vec<&str> = Vec::new();
        for help in self.of(statement).filter_map(|finding| finding.help.as_deref()) {
            if !said.contains(&help) {
                said.push(help);
            }
        }
        said.push("To run it as it is, put the comment -- squawk-ignore and the rules' names on the line before it.");
        said.join("\n")
    }

    /// Those tables of a statement that are there.
    fn tables_of<'a>(&self, statement: usize, seen: &'a Seen) -> Vec<&'a Table> {
        let before: usize = self.about.iter().take(statement).map(|about| about.tables.len()).sum();
        let own = self.about.get(statement).map_or(0, |about| about.tables.len());
        let mut tables: Vec<&Table> = Vec::new();
        for (number, table) in &seen.tables {
            let is_own = *number > before && *number <= before + own;
            if is_own && tables.iter().all(|known| known.name != table.name) {
                tables.push(table);
            }
        }
        tables
    }
}

/// How large a table is and how long that takes; who else uses it.
fn sentences(effect: Effect, table: &Table) -> Vec<String> {
    let Table { name, bytes, index_bytes, .. } = table;
    let rows = table.rows.map(|rows| format!(" and about {rows} rows")).unwrap_or_default();
    let size = size(*bytes);
    let takes = |bytes: u64, rate: u64| format!("{} at {} MB/s", duration(bytes / rate), rate / 1_000_000);
    let how_long = match effect {
        Effect::Rewrites => {
            let all = bytes.saturating_add(*index_bytes);
            Some(format!("where it is rewritten, with its indexes, that takes {}", takes(all, REWRITING)))
        }
        Effect::Scans => Some(format!("to read it takes {}", takes(*bytes, READING))),
        Effect::BuildsIndex => Some(format!("to build an index takes {}", takes(*bytes, INDEXING))),
        Effect::Fills => {
            let all = bytes.saturating_add(*index_bytes);
            Some(format!("its query is run, and to write it anew, with its indexes, takes {}", takes(all, REWRITING)))
        }
        Effect::Locks | Effect::WaitsForLock => None,
        Effect::TakesLong | Effect::Other => return Vec::new(),
    };
    let mut said = Vec::new();
    if let Some(how_long) = how_long {
        said.push(format!("{name} has {size}{rows}: {how_long}."));
    }
    if table.holders > 0 {
        let (who, are) = if table.holders == 1 { ("session holds", "it") } else { ("sessions hold", "them") };
        let since = match table.held_for {
            Some(seconds) => format!(", the oldest in a transaction of {}", duration(seconds)),
            None => String::new(),
        };
        said.push(format!(
            "{} other {who} a lock on {name} now{since}: where that conflicts, the statement waits for {are}, and whoever comes \
             later waits behind it.",
            table.holders
        ));
    }
    said
}

fn size(bytes: u64) -> String {
    let units = [("TB", 40), ("GB", 30), ("MB", 20), ("kB", 10)];
    match units.into_iter().find(|(_, bits)| bytes >> bits >= 1) {
        Some((unit, bits)) => format!("{} {unit}", bytes >> bits),
        None => format!("{bytes} bytes"),
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0 => "less than a second".to_owned(),
        1..120 => format!("about {seconds} s"),
        120..7200 => format!("about {} min", seconds / 60),
        _ => format!("about {} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::super::About;
    use super::*;
    use crate::sql::ObjectName;

    fn finding(effect: Effect) -> Finding {
        let (rule, message) = ("rule".to_owned(), "It is dangerous.".to_owned());
        Finding { statement: 0, rule, effect, message, help: Some("Do not.".to_owned()) }
    }

    fn findings(effects: &[Effect]) -> Findings {
        let about = About {
            range: 0..9,
            tag: "ALTER TABLE",
            tables: vec![ObjectName { schema: None, name: "t".to_owned() }],
            is_bounded: true,
        };
        Findings { all: effects.iter().map(|effect| finding(*effect)).collect(), about: vec![about] }
    }

    fn seen(table: Table) -> Seen {
        Seen { tables: vec![(1, Table { name: "public.t".to_owned(), ..table })], ..Seen::default() }
    }

    const ALL: [Effect; 8] = [
        Effect::Rewrites,
        Effect::Scans,
        Effect::BuildsIndex,
        Effect::Fills,
        Effect::Locks,
        Effect::WaitsForLock,
        Effect::TakesLong,
        Effect::Other,
    ];

    fn left(seen: &Seen, adds: bool) -> Vec<Effect> {
        let mut findings = findings(&ALL);
        findings.sharpen(seen, adds);
        findings.all.iter().map(|finding| finding.effect).collect()
    }

    #[test]
    fn what_does_not_hold_here_is_left_out() {
        assert_eq!(left(&seen(Table::default()), false), ALL);
        assert_eq!(left(&Seen::default(), false), ALL, "nothing is known of the table");
        let without = |gone: Effect| ALL.into_iter().filter(|effect| *effect != gone).collect::<Vec<_>>();
        assert_eq!(left(&seen(Table::default()), true), without(Effect::WaitsForLock));
        let mut alone = findings(&ALL);
        alone.about[0].is_bounded = false;
        alone.sharpen(&seen(Table::default()), true);
        assert_eq!(alone.all.len(), ALL.len(), "it cannot be bounded");
        assert_eq!(left(&Seen { lock_timeout: true, ..Seen::default() }, false), without(Effect::WaitsForLock));
        assert_eq!(left(&Seen { statement_timeout: true, ..Seen::default() }, false), without(Effect::TakesLong));
        assert_eq!(left(&seen(Table { is_new: true, ..Table::default() }), false), [Effect::Other]);
        assert_eq!(left(&seen(Table { is_temporary: true, ..Table::default() }), false), []);
    }

    #[test]
    fn time_is_told_by_size() {
        let large =
            seen(Table { bytes: 60_000_000_000, index_bytes: 30_000_000_000, rows: Some(7), ..Table::default() });
        let said = |effect| findings(&[effect]).warnings(0, &large, true).next().and_then(|warning| warning.detail);
        let rewrite = "public.t has 55 GB and about 7 rows: where it is rewritten, with its indexes, that takes about 30 min at 50 MB/s. \
                       The lock is held until the transaction ends.";
        assert_eq!(said(Effect::Rewrites).as_deref(), Some(rewrite));
        assert!(said(Effect::Scans).is_some_and(|said| said.contains("to read it takes about 2 min at 500 MB/s.")));
        assert_eq!(said(Effect::Other), None);
        assert_eq!(duration(0), "less than a second");
        assert_eq!(duration(4 * 3600), "about 4 h");
        assert_eq!(size(1023), "1023 bytes");
    }

    #[test]
    fn who_holds_locks_is_told() {
        let held = seen(Table { holders: 2, held_for: Some(200), ..Table::default() });
        let said = findings(&[Effect::Locks]).warnings(0, &held, false).next().and_then(|warning| warning.detail);
        assert!(said.is_some_and(|said| said.starts_with(
            "2 other sessions hold a lock on public.t now, the oldest in a \
                                                          transaction of about 3 min:"
        )));
    }

    #[test]
    fn a_refusal_has_all_findings() {
        let findings = findings(&[Effect::Other, Effect::Other]);
        let refusal = findings.refusal(0, &Seen::default(), "main", false);
        assert_eq!(refusal.message, "ALTER TABLE refused by lint: rule");
        assert_eq!(refusal.detail.as_deref(), Some("Branch: main.\nrule: It is dangerous.\nrule: It is dangerous."));
        assert!(refusal.hint.is_some_and(|hint| hint.starts_with("Do not.\nTo run it")));
    }
}
