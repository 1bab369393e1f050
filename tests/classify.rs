//! Classification: every kind of statement that PostgreSQL's grammar has, and texts made to harm.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use pggit_proxy::sql::{Classified, Classifier, Encoding};

/// A statement, and indented below it `tag | class | action | object type | objects`, where `-` stands
/// for none, and then `| alone` for what cannot run in a transaction, `| temp` for temporary objects.
const KINDS: &str = include_str!("classify/kinds.txt");

fn kinds() -> Vec<(&'static str, &'static str)> {
    let lines: Vec<&str> = KINDS.lines().collect();
    lines.chunks_exact(2).map(|pair| (pair[0], pair[1].trim_start())).collect()
}

fn described(classifier: &mut Classifier, sql: &str) -> String {
    let statements = classifier.parse(sql.as_bytes(), Encoding::AsciiSafe);
    assert_eq!(statements.len(), 1, "{sql}");
    let s = &statements[0];
    assert!(s.parsed, "{sql}");
    assert_eq!(s.range, 0..sql.len(), "{sql}");
    let objects: Vec<String> = s
        .objects
        .iter()
        .map(|o| o.schema.as_ref().map_or_else(|| o.name.clone(), |schema| format!("{schema}.{}", o.name)))
        .collect();
    let objects = if objects.is_empty() { "-".to_owned() } else { objects.join(", ") };
    let mut line = format!(
        "{} | {} | {} | {} | {objects}",
        s.tag,
        s.class.as_str(),
        s.action.unwrap_or("-"),
        s.object_type.unwrap_or("-")
    );
    if !s.transactional {
        line.push_str(" | alone");
    }
    if s.temporary {
        line.push_str(" | temp");
    }
    line
}

#[test]
fn every_kind_of_statement_is_named_as_the_server_names_it() {
    let kinds = kinds();
    assert!(kinds.len() >= 150);
    let mut classifier = Classifier::new(1 << 20);
    let wrong: Vec<String> = kinds
        .iter()
        .filter_map(|(sql, wanted)| {
            let found = described(&mut classifier, sql);
            (found != *wanted).then(|| format!("{sql}\n  wanted {wanted}\n  found  {found}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_pre_filter_says_what_the_parser_says() {
    let mut classifier = Classifier::new(1 << 20);
    for (sql, wanted) in kinds() {
        for text in [sql.to_owned(), format!(" -- c\n/* a /* b */ */{sql} ;\n"), sql.to_uppercase()] {
            if let Classified::Plain(class) = classifier.classify(text.as_bytes(), Encoding::AsciiSafe) {
                assert_eq!(Some(class.as_str()), wanted.split(" | ").nth(1), "{text}");
            }
            let two = format!("select 1; {text}");
            assert!(!matches!(classifier.classify(two.as_bytes(), Encoding::AsciiSafe), Classified::Plain(_)), "{two}");
        }
    }
}

#[test]
fn statements_keep_their_bytes_in_a_text_of_many() {
    let mut classifier = Classifier::new(1 << 24);
    let between = "  ; -- über\n /* ; é */\t";
    for window in kinds().windows(4) {
        let text: String = window.iter().map(|(sql, _)| format!("{between}{sql}")).collect();
        let statements = classifier.parse(text.as_bytes(), Encoding::AsciiSafe);
        let found: Vec<&str> = statements.iter().map(|s| &text[s.range.clone()]).collect();
        let wanted: Vec<&str> = window.iter().map(|(sql, _)| *sql).collect();
        assert_eq!(found, wanted);
        // In SJIS and its like, and in no UTF-8 at all, offsets are those of the client's bytes too.
        let latin: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        for encoding in [Encoding::AsciiSafe, Encoding::LeadByte] {
            let statements = classifier.parse(&latin, encoding);
            let found: Vec<&[u8]> = statements.iter().map(|s| &latin[s.range.clone()]).collect();
            assert_eq!(found, wanted.iter().map(|sql| sql.as_bytes()).collect::<Vec<_>>());
        }
    }
}

/// Runs as the proxy's worker threads do, with their stack of 2 MiB: an overflow would end the process.
fn on_a_small_stack(texts: Vec<String>) -> Vec<usize> {
    let classify = move || {
        let mut classifier = Classifier::new(0);
        texts.iter().map(|text| classifier.parse(text.as_bytes(), Encoding::AsciiSafe).len()).collect()
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(classify).unwrap().join().unwrap()
}

#[test]
fn no_nesting_ends_the_process() {
    const DEEP: usize = 100_000;
    let texts = vec![
        format!("select {}1{}", "(".repeat(DEEP), ")".repeat(DEEP)),
        "(".repeat(DEEP),
        format!("select {}1", "- ".repeat(DEEP)),
        format!("select {}true", "not ".repeat(DEEP)),
        format!("select 1{}", "+1".repeat(DEEP)),
        format!("select 1{}", " union select 1".repeat(DEEP)),
        format!("{}select 1{}", "select * from (".repeat(DEEP), ") x".repeat(DEEP)),
        format!("select {}1{}", "case when true then ".repeat(DEEP), " end".repeat(DEEP)),
        format!("select {}1{}", "array[".repeat(DEEP), "]".repeat(DEEP)),
        format!("select true{}", " and true".repeat(DEEP)),
        format!("select 1{}", "::int".repeat(DEEP)),
        format!("{}select 1", "explain ".repeat(DEEP)),
        format!("select * from t{}", " join t on true".repeat(DEEP)),
        format!("create table t (a int{})", "[]".repeat(DEEP)),
        format!("{}select 1{}", "/*".repeat(DEEP), "*/".repeat(DEEP)),
        "/**/".repeat(DEEP),
        "--\n".repeat(DEEP),
        format!("select {}1", "'a'\n".repeat(DEEP)),
        format!("with {} select 1", vec!["x as (select 1)"; DEEP].join(",")),
        format!("grant usage on schema s{} to r", ", s".repeat(DEEP)),
        format!("drop table t{}", ", t".repeat(DEEP)),
        format!("select * from json_table(j, '$' columns {}", "(nested path '$' columns ".repeat(DEEP)),
        format!("select {}1", "u&'a' uescape '!' || ".repeat(DEEP)),
        "create schema s ".to_owned() + &"create table t () ".repeat(DEEP),
        "$$".repeat(DEEP),
        "select 1;".repeat(DEEP),
    ];
    let counts = on_a_small_stack(texts);
    assert_eq!(*counts.last().unwrap(), DEEP);
}

#[test]
fn comments_cost_no_more_than_their_bytes() {
    let nested = format!("{}{} drop table t", "/*".repeat(50_000), "*/".repeat(50_000));
    let texts = [nested, format!("{}drop table t", "/**/".repeat(50_000)), "/*".repeat(50_000)];
    let mut classifier = Classifier::new(0);
    let tags: Vec<_> = texts.iter().map(|t| classifier.parse(t.as_bytes(), Encoding::AsciiSafe)[0].tag).collect();
    assert_eq!(tags, ["DROP TABLE", "DROP TABLE", ""]);
}

#[test]
fn many_threads_may_parse_at_once() {
    let threads: Vec<_> = (0..8)
        .map(|i| {
            std::thread::spawn(move || {
                let mut classifier = Classifier::new(0);
                for n in 0..200 {
                    let text = format!("create table t{i}_{n} (a int); syntax error");
                    assert!(!classifier.parse(text.as_bytes(), Encoding::AsciiSafe)[0].parsed);
                    let text = format!("create table t{i}_{n} (a int); drop table t");
                    assert_eq!(
                        classifier.parse(text.as_bytes(), Encoding::AsciiSafe)[0].objects[0].name,
                        format!("t{i}_{n}")
                    );
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn ddl_does_not_hide_in_what_a_setting_makes_a_string() {
    let mut classifier = Classifier::new(1 << 20);
    for text in [
        r"select '\'' ; drop table t; --'",
        r"select '\' ; drop table t; --'",
        r"begin; select '\'' ; drop table t; --'",
    ] {
        let Classified::Statements(statements) = classifier.classify(text.as_bytes(), Encoding::AsciiSafe) else {
            panic!("{text}")
        };
        assert!(statements.iter().any(pggit_proxy::sql::Statement::may_be_ddl), "{text}");
    }
    // Only one reading of these parses: no doubt is left.
    for text in
        [r"select 'C:\', split_part(a, '\', 1); begin", r#"select '{"a": "\"it''s"}'; begin"#, r"select E'\''; begin"]
    {
        let Classified::Statements(statements) = classifier.classify(text.as_bytes(), Encoding::AsciiSafe) else {
            panic!("{text}")
        };
        assert_eq!(statements.iter().map(|s| s.tag).collect::<Vec<_>>(), ["SELECT", "BEGIN"], "{text}");
    }
    let katakana = b"select '\xb1'; drop table t; --'";
    assert!(classifier.parse(katakana, Encoding::LeadByte).iter().any(|s| s.tag == "DROP TABLE"));
}

#[test]
fn settings_of_ours_are_seen() {
    let mut classifier = Classifier::new(1 << 20);
    for (text, setting) in [
        ("set pggit.session = 'x'", "pggit.session"),
        ("SET LOCAL PgGit.Client TO 'x'", "pggit.client"),
        ("set \"pggit.session\" = 'x'", "pggit.session"),
        ("reset pggit.branch", "pggit.branch"),
        ("select set_config('pggit.session', 'x', false)", "pggit.session"),
        ("select pg_catalog.set_config(E'\\x70ggit.session', 'x', false)", "pggit.session"),
        ("select set_config('pggit.branch', 'x', false), set_config('pggit.client', 'x', false)", "pggit.client"),
        ("insert into t select set_config('PGGIT.session', 'x', false)", "pggit.session"),
        ("update pg_settings set setting = 'x' where name = 'pggit.session'", "pggit.session"),
        ("alter role r set pggit.session = 'x'", "pggit.session"),
        ("alter database d set pggit.session = 'x'", "pggit.session"),
        ("create function f() returns int language sql set pggit.session = 'x' as 'select 1'", "pggit.session"),
        ("alter function f() set pggit.session = 'x'", "pggit.session"),
    ] {
        let Classified::Statements(statements) = classifier.classify(text.as_bytes(), Encoding::AsciiSafe) else {
            panic!("{text}")
        };
        assert_eq!(statements[0].setting.as_deref(), Some(setting), "{text}");
    }
    for text in ["select * from pggit.history", "set work_mem = '1MB'", "select 'pggit.session'", "reset all"] {
        assert_eq!(classifier.parse(text.as_bytes(), Encoding::AsciiSafe)[0].setting, None, "{text}");
    }
}
