//! A text is given to squawk as a whole, as it would get a migration's file: so it sees the tables made before, timeouts set
//! before, and its own comments.

use std::borrow::Cow;

use squawk_linter::{Linter, LinterSettings, Version, Violation};
use squawk_syntax::ast;
use squawk_syntax::{Parse, SourceFile};

use super::own::{self, OwnRule, Silenced, Sort};
use super::{Check, Effect, Finding, Findings, LintRule};
use crate::sql::ObjectName;

/// Longer texts are not checked: what squawk needs grows with the square of how deep expressions are nested.
pub const MAX_TEXT: usize = 64 << 10;

/// More findings in one text nobody reads.
const MAX_FINDINGS: usize = 50;

impl Check {
    /// What squawk finds in the statements it is about. Takes up to minutes and much stack for texts that are made to take
    /// long, and may panic: who calls it has to bound that.
    pub fn run(&self) -> Result<Findings, &'static str> {
        let text = self.text.as_ref().ok_or("its text is not known exactly")?;
        if text.len() > MAX_TEXT {
            return Err("its text is too long");
        }
        let text = readable(text);
        let file = SourceFile::parse(&text);
        let mut linter = Linter::with_rules(&self.lint.include, &self.lint.exclude);
        let pg_version = self.version.to_string().parse::<Version>().unwrap_or_default();
        linter.settings = LinterSettings { pg_version, assume_in_transaction: self.in_transaction };
        let mut about = self.about.clone();
        for (at, table) in indexed_tables(&file) {
            if let Some(about) = about.iter_mut().find(|about| about.range.contains(&at)) {
                about.tables.push(table);
            }
        }
        let statement_at = |at: usize| about.iter().position(|about| about.range.contains(&at));
        let found = linter.lint(&file, &text).into_iter().filter(|violation| !names_own_rule(violation));
        let found = found
            .filter_map(|violation| Some(finding(statement_at(usize::from(violation.text_range.start()))?, violation)));
        let mut all: Vec<Finding> = found.collect();
        let silenced = Silenced::read(&file, &text);
        for (at, sort) in own::sorts(&file, self.version) {
            let Some(statement) = statement_at(at) else { continue };
            match sort {
                Sort::Harmless => all.retain(|finding| finding.statement != statement),
                Sort::Concurrent => all.retain(|finding| {
                    let is_timeout = matches!(finding.effect, Effect::WaitsForLock | Effect::TakesLong);
                    finding.statement != statement || !is_timeout
                }),
                Sort::Under(rule) if self.lint.exclude_own.contains(&rule) || silenced.has(rule, &text, at) => {}
                Sort::Under(rule) => all.push(own_finding(statement, rule)),
            }
        }
        all.sort_by_key(|finding| finding.statement);
        all.truncate(MAX_FINDINGS);
        Ok(Findings { all, about })
    }

    /// What stands for the findings where the text could not be checked.
    pub fn unchecked(&self, because: &str) -> Findings {
        let finding = |statement| Finding {
            message: format!("It was not checked: {because}."),
            help: None,
            ..own_finding(statement, OwnRule::NotLinted)
        };
        let all = if self.lint.exclude_own.contains(&OwnRule::NotLinted) { 0..0 } else { 0..self.about.len() };
        Findings { all: all.take(MAX_FINDINGS).map(finding).collect(), about: self.about.clone() }
    }
}

fn own_finding(statement: usize, rule: OwnRule) -> Finding {
    let (message, help) = rule.words();
    Finding {
        statement,
        rule: rule.as_str().to_owned(),
        effect: rule.effect(),
        message: message.to_owned(),
        help: Some(help.to_owned()),
    }
}

/// A comment that silences a rule of ours: squawk does not know the name.
fn names_own_rule(violation: &Violation) -> bool {
    let unknown = violation.message.strip_prefix("unknown name ").filter(|_| violation.code == LintRule::UnusedIgnore);
    unknown.is_some_and(|name| OwnRule::named(name).is_some())
}

fn finding(statement: usize, violation: Violation) -> Finding {
    Finding {
        statement,
        rule: violation.code.to_string(),
        effect: Effect::from(violation.code),
        message: violation.message,
        help: violation.help,
    }
}

/// UTF-8 with the same offsets.
fn readable(text: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(text) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(text.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { 'z' }).collect()),
    }
}

/// The tables of CREATE INDEX, which is known by the index's name, each with its statement's place.
fn indexed_tables(file: &Parse<SourceFile>) -> Vec<(usize, ObjectName)> {
    let named = |index: &ast::CreateIndex| {
        let path = index.table_relation_name()?.table_name_ref()?.path_ref()?;
        let schema = path.qualifier().and_then(|path| Some(path.segment()?.text()));
        Some(ObjectName { schema, name: path.segment()?.text() })
    };
    let tables = file.tree().stmts().filter_map(|statement| {
        let ast::Stmt::CreateIndex(index) = statement else { return None };
        Some((usize::from(index.index_token()?.text_range().start()), named(&index)?))
    });
    tables.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::Arc;

    use super::super::{About, Lint, LintAction, LintRule};
    use super::*;
    use crate::sql::{Classifier, Encoding};

    fn check(text: &[u8], include: &[LintRule], exclude: &[LintRule]) -> Check {
        let statements = Classifier::new(0).parse(text, Encoding::default());
        let about = statements.iter().filter(|statement| Lint::is_about(statement));
        Check {
            lint: Arc::new(Lint {
                action: LintAction::Warn,
                exclude: exclude.to_vec(),
                include: include.to_vec(),
                exclude_own: Vec::new(),
            }),
            text: Some(text.to_vec()),
            about: about.map(|statement| About::new(statement, statement.range.clone())).collect(),
            version: 18,
            in_transaction: true,
        }
    }

    fn rules(text: &str) -> Vec<String> {
        let found = check(text.as_bytes(), &[], &[]).run().unwrap();
        found.all.iter().map(|finding| format!("{} {}", finding.statement, finding.rule)).collect()
    }

    #[test]
    fn findings_belong_to_their_statements() {
        let text = "set lock_timeout = '1s'; set statement_timeout = '1s'; drop table a; select 1; alter table b drop column c";
        assert_eq!(rules(text), ["0 ban-drop-table", "1 ban-drop-column"]);
    }

    #[test]
    fn a_table_made_before_in_the_same_text_is_known() {
        let text = "set lock_timeout = '1s'; set statement_timeout = '1s'; create index on a (b)";
        assert_eq!(rules(text), ["0 require-concurrent-index-creation"]);
        assert_eq!(rules(&format!("create table a (b text); {text}")), Vec::<String>::new());
    }

    #[test]
    fn comments_silence_as_they_do_for_squawk() {
        let quiet = "set lock_timeout = '1s'; set statement_timeout = '1s';\n";
        for comment in ["-- squawk-ignore ban-drop-table\n", "/* squawk-ignore ban-drop-table */\n"] {
            assert_eq!(rules(&format!("{quiet}{comment}drop table a")), Vec::<String>::new());
        }
        assert_eq!(rules(&format!("{quiet}-- squawk-ignore ban-drop-column\ndrop table a")), ["0 ban-drop-table"]);
        assert_eq!(rules(&format!("-- squawk-ignore-file\n{quiet}drop table a")), Vec::<String>::new());
    }

    #[test]
    fn maintenance_that_blocks_comes_under_rules_of_our_own() {
        let quiet = "set lock_timeout = '1s'; set statement_timeout = '1s';\n";
        let of = |text: &str| rules(&format!("{quiet}{text}"));
        let found = [
            ("cluster t using i", "0 ban-cluster"),
            ("cluster", "0 ban-cluster"),
            ("vacuum full", "0 ban-vacuum-full"),
            ("vacuum (analyze, full) t, u", "0 ban-vacuum-full"),
            ("refresh materialized view m with data", "0 require-concurrent-refresh"),
            ("reindex (verbose) table t", "0 require-concurrent-reindex"),
            ("reindex database d", "0 require-concurrent-reindex"),
        ];
        for (text, rule) in found {
            assert_eq!(of(text), [rule], "{text}");
            let timeouts = ["0 require-lock-timeout", "0 require-statement-timeout"];
            assert!(timeouts.iter().all(|timeout| rules(text).iter().any(|rule| rule == timeout)), "{text}");
        }
        for text in [
            "vacuum",
            "vacuum (full false, verbose) t",
            "refresh materialized view concurrently m",
            "reindex table concurrently t",
            "analyze t",
            "checkpoint",
        ] {
            assert_eq!(rules(text), Vec::<String>::new(), "{text}");
        }
        assert_eq!(of("refresh materialized view m with no data"), Vec::<String>::new());
        assert_eq!(of("vacuum t; drop table a; vacuum full t"), ["1 ban-drop-table", "2 ban-vacuum-full"]);
    }

    #[test]
    fn our_own_rules_are_silenced_as_squawks_are() {
        let quiet = "set lock_timeout = '1s'; set statement_timeout = '1s';\n";
        for comment in
            ["-- squawk-ignore ban-drop-table, ban-cluster -- at night\n", "/* squawk-ignore ban-cluster */ "]
        {
            assert_eq!(rules(&format!("{quiet}{comment}cluster t")), Vec::<String>::new(), "{comment}");
            assert_eq!(rules(&format!("{quiet}{comment}vacuum full t")), ["0 ban-vacuum-full"], "{comment}");
            assert_eq!(rules(&format!("{quiet}{comment}\n\ncluster t")), ["0 ban-cluster"], "{comment}");
        }
        for comment in ["-- squawk-ignore-file\n", "-- squawk-ignore-file ban-cluster\n"] {
            assert_eq!(rules(&format!("{comment}{quiet}\ncluster t")), Vec::<String>::new(), "{comment}");
        }
        let mut check = check(b"vacuum full t", &[], &[LintRule::RequireTimeoutSettings]);
        assert_eq!(check.run().unwrap().all.len(), 1);
        check.version = 19;
        assert_eq!(check.run().unwrap().all[0].rule, "prefer-repack");
        check.version = 18;
        check.lint = Arc::new(Lint { exclude_own: vec![OwnRule::BanVacuumFull], ..Lint::clone(&check.lint) });
        assert_eq!(check.run().unwrap().all, []);
    }

    #[test]
    fn no_timeout_is_asked_for_where_it_would_leave_something_half_done() {
        for text in ["create index concurrently i on t (a)", "drop index concurrently i"] {
            assert!(rules(text).iter().all(|rule| !rule.contains("timeout")), "{text}: {:?}", rules(text));
            assert!(rules(&text.replace("concurrently", "")).iter().any(|rule| rule.contains("timeout")), "{text}");
        }
    }

    #[test]
    fn rules_are_left_out_and_asked_for() {
        let run = |include: &[LintRule], exclude: &[LintRule]| {
            let found = check(b"drop trigger t on a", include, exclude).run().unwrap();
            found.all.into_iter().map(|finding| finding.rule).collect::<Vec<_>>()
        };
        let timeouts = [LintRule::RequireTimeoutSettings, LintRule::PreferRobustStmts];
        assert_eq!(run(&[], &timeouts), Vec::<String>::new());
        assert_eq!(run(&[LintRule::BanDropTrigger], &timeouts), ["ban-drop-trigger"]);
    }

    #[test]
    fn the_table_of_an_index_is_known() {
        let found = check(b"create index i on \"S\".\"T t\" (a); drop index j", &[], &[]).run().unwrap();
        let tables: Vec<_> = found.about.iter().map(|about| about.tables.clone()).collect();
        assert!(tables[0].contains(&ObjectName { schema: Some("S".into()), name: "T t".into() }), "{tables:?}");
        assert_eq!(tables[1], [ObjectName { schema: None, name: "j".into() }]);
    }

    #[test]
    fn other_encodings_keep_their_offsets() {
        let found = check(b"comment on table a is '\xe4\xe4\xe4'; drop table \xe4", &[], &[]).run().unwrap();
        assert!(
            found.all.iter().any(|finding| finding.statement == 1 && finding.rule == "ban-drop-table"),
            "{found:?}"
        );
    }

    #[test]
    fn what_is_too_long_is_said_to_be_unchecked() {
        let mut long = check(format!("drop table a{}", " ".repeat(MAX_TEXT)).as_bytes(), &[], &[]);
        assert!(long.run().is_err());
        assert_eq!(long.unchecked("because").all[0].rule, OwnRule::NotLinted.as_str());
        long.text = None;
        assert!(long.run().is_err());
    }
}
