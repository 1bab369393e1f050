//! The grammar: what is read, and what is refused in which words.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn one(text: &str) -> Command {
    let mut all = parse(text).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn error(text: &str) -> CommandError {
    parse(text).unwrap_err()
}

#[test]
fn commands_are_read_in_any_case() {
    assert_eq!(one("reload"), Command::Reload);
    assert_eq!(one("KILL 17;"), Command::Kill(17));
    assert_eq!(one("Shutdown now"), Command::Shutdown { now: true });
    assert_eq!(one("deallocate all"), Command::Deallocate(None));
    assert_eq!(one("SET client_encoding TO 'UTF8'"), Command::Setting("SET"));
    assert_eq!(parse(" ; ;; -- nothing\n").unwrap(), []);
    assert_eq!(parse("begin; commit").unwrap().len(), 2);
}

#[test]
fn branch_names_stand_bare_or_quoted() {
    for text in ["feature/x-1", "\"feature/x-1\"", "'feature/x-1'"] {
        assert_eq!(one(&format!("refuse ddl on branch {text}")), Command::RefuseDdl("feature/x-1".into()));
    }
    assert_eq!(one("ALLOW DDL ON BRANCH Main"), Command::AllowDdl("Main".into()));
    assert_eq!(error("allow ddl on branch").sqlstate, "42601");
    assert_eq!(error("allow ddl on branch a b").message, "syntax error at or near \"b\"");
    assert_eq!(error("refuse dml on branch a").position, Some(8));
}

#[test]
fn branches_are_made_and_dropped() {
    let made = |name: &str, parent: &str, at| Command::CreateBranch {
        name: name.into(),
        parent: parent.into(),
        at,
        data: Data::Without,
    };
    let with_data = |data| Command::CreateBranch { name: "b".into(), parent: "a".into(), at: None, data };
    assert_eq!(one("create branch b from a with data"), with_data(Data::With(Force::No)));
    assert_eq!(one("create branch b from a with data force"), with_data(Data::With(Force::Yes)));
    assert_eq!(error("create branch b from main with date").sqlstate, "42601");
    assert_eq!(one("create branch feature/x-1 from main"), made("feature/x-1", "main", None));
    assert_eq!(one("CREATE BRANCH \"it's \"\"one\" FROM 'a b'"), made("it's \"one", "a b", None));
    let id = "0198c0de-0000-7000-8000-00000000000a";
    let at = Some(Uuid::try_parse(id).unwrap());
    assert_eq!(one(&format!("create branch b from main at commit {id}")), made("b", "main", at));
    assert_eq!(one(&format!("create branch b from main at commit '{id}'")), made("b", "main", at));
    assert_eq!(error("create branch b from main at commit 17").sqlstate, "22P02");
    for text in ["create branch", "create branch b", "create branch b from", "create branch b from c d", "drop branch"]
    {
        assert_eq!(error(text).sqlstate, "42601", "{text}");
    }
    assert_eq!(error("create table t ()").sqlstate, "0A000");
    assert_eq!(one("drop branch b"), Command::DropBranch("b".into(), Force::No));
    assert_eq!(one("drop branch feature/b force"), Command::DropBranch("feature/b".into(), Force::Yes));
    assert_eq!(one("alter branch b protect"), Command::AlterBranch("b".into(), Alteration::Protect));
    let renamed = Command::AlterBranch("a/b".into(), Alteration::Rename("c/d".into()));
    assert_eq!(one("alter branch a/b rename to c/d"), renamed);
    assert_eq!(error("alter branch b").sqlstate, "42601");
    let two_days = std::time::Duration::from_secs(48 * 3600);
    let expire = |after| Command::AlterBranch("b".into(), Alteration::Expire(after));
    assert_eq!(one("alter branch b expires after '48h'"), expire(Some(two_days)));
    assert_eq!(one("alter branch b expires never"), expire(None));
    assert_eq!(error("alter branch b expires after 'soon'").sqlstate, "22007");
    assert_eq!(error("alter branch b expires").sqlstate, "42601");
}

#[test]
fn two_branches_are_compared() {
    assert_eq!(one("diff main feature/x-1"), Command::Diff("main".into(), "feature/x-1".into()));
    assert_eq!(one("DIFF 'a b' \"c\""), Command::Diff("a b".into(), "c".into()));
    for text in ["diff", "diff main", "diff a b c"] {
        assert_eq!(error(text).sqlstate, "42601", "{text}");
    }
}

#[test]
fn schemas_are_looked_at() {
    let moment = |text: &str| match one(text) {
        Command::ShowSchema(branch, moment, query) => (branch, moment, query.columns.len()),
        other => panic!("{other:?}"),
    };
    let id = "0198c0de-0000-7000-8000-00000000000a";
    let commit = Moment::Commit(Uuid::try_parse(id).unwrap());
    assert_eq!(moment("show schema of feature/x"), ("feature/x".into(), Moment::Now, 9));
    assert_eq!(moment(&format!("show schema of main at commit {id}")), ("main".into(), commit, 9));
    let time = ("main".into(), Moment::Time("2026-05-01".into()), 2);
    assert_eq!(moment("SHOW SCHEMA OF main AT TIME '2026-05-01' fact, value WHERE stale LIMIT 5"), time);
    let bad =
        ["show schema", "show schema of", "show schema of b at", "show schema of b at time 5", "blame", "blame t on b"];
    for text in bad {
        assert_eq!(error(text).sqlstate, "42601", "{text}");
    }
    assert_eq!(error("show schema of main at commit 17").sqlstate, "22P02");
    assert_eq!(error("show schema of main nothing").sqlstate, "42703");
    let blame = |relation: &str, branch: Option<&str>| Command::Blame(relation.into(), branch.map(str::to_owned));
    assert_eq!(one("blame public.t"), blame("public.t", None));
    assert_eq!(one("BLAME \"T u\" ON BRANCH feature/x"), blame("\"T u\"", Some("feature/x")));
    assert_eq!(one("blame s.\"T u\""), blame("s.\"T u\"", None));
    assert_eq!(one("blame 's.t'"), blame("s.t", None));
}

#[test]
fn change_requests_are_named_by_number() {
    assert_eq!(one("approve change 7"), Command::ApproveChange(7));
    assert_eq!(one("APPLY CHANGE 7;"), Command::ApplyChange(7));
    assert_eq!(one("reject change 7 because 'it''s late'"), Command::RejectChange(7, "it's late".into()));
    for text in
        ["approve 7", "approve change", "approve change x", "apply change 7 8", "approve change 99999999999999999999"]
    {
        assert_eq!(error(text).sqlstate, "42601", "{text}");
    }
    for text in ["reject change 7", "reject change 7 because", "reject change 7 because ' '", "reject change 7 'x'"] {
        assert_eq!(error(text).message, "REJECT needs a reason", "{text}");
    }
}

#[test]
fn columns_that_are_keywords_are_names() {
    let text = "SHOW CLIENTS user, branch WHERE user = 'x' AND state <> 'idle' ORDER BY user DESC, 2 LIMIT 5 OFFSET 1";
    let Command::Show(Show::Clients, query) = one(text) else { panic!("not a show") };
    assert_eq!(query.columns.len(), 2);
    assert_eq!((query.limit, query.offset, query.order.len()), (Some(5), 1, 2));
    assert!(query.filter.is_some());
    for show in Show::ALL {
        for column in show.columns() {
            let text = format!("show {} {1} where {1} is not null order by {1}", show.name(), column.name);
            assert!(parse(&text).is_ok(), "{text}: {:?}", parse(&text));
        }
    }
}

#[test]
fn star_and_nothing_mean_all_columns() {
    assert_eq!(one("SHOW CLIENTS *"), one("SHOW CLIENTS"));
}

#[test]
fn mistakes_name_what_was_meant() {
    assert_eq!(error("SHWO CLIENTS").hint.unwrap(), "Perhaps you meant SHOW. Try SHOW HELP.");
    assert!(error("SHOW CLIENT").hint.unwrap().starts_with("Perhaps you meant SHOW CLIENTS."));
    let unknown = error("SHOW CLIENTS usr");
    assert_eq!((unknown.sqlstate, unknown.position), ("42703", Some(14)));
    assert_eq!(unknown.hint.unwrap(), "Perhaps you meant \"user\".");
    let select = error("select 1");
    assert_eq!((select.sqlstate, select.hint.unwrap().as_str()), ("0A000", "Try SHOW HELP."));
    assert_eq!(error("SHOW CLIENTS WHERE id =").sqlstate, "42601");
    assert_eq!(error("SHOW CLIENTS LIMIT 1 2").message, "syntax error at or near \"2\"");
    assert_eq!(error("KILL everybody").sqlstate, "42601");
    assert_eq!(error("'unterminated").sqlstate, "42601");
}

#[test]
fn conditions_are_checked_before_they_run() {
    for (condition, sqlstate) in [
        ("id", "42804"),
        ("id = 'x'", "22P02"),
        ("branch = 5", "42883"),
        ("nobody = 5", "42703"),
        ("lower(branch) = 'x'", "0A000"),
        ("id + 1 = 2", "0A000"),
        ("id = (select 1)", "0A000"),
        ("id = $1", "0A000"),
        ("branch ~ 'x'", "0A000"),
    ] {
        assert_eq!(error(&format!("SHOW CLIENTS WHERE {condition}")).sqlstate, sqlstate, "{condition}");
    }
}

#[test]
fn depth_and_length_are_bounded() {
    let deep = format!("SHOW CLIENTS WHERE {}id = 1{}", "(".repeat(110), ")".repeat(110));
    assert_eq!(error(&deep).sqlstate, "54001");
    // sqlparser falls back to a column's name where NOT leads nowhere.
    let nots = format!("SHOW CLIENTS WHERE {} id = 1", "NOT ".repeat(900));
    assert!(["54001", "42703"].contains(&error(&nots).sqlstate));
    let minus = format!("SHOW CLIENTS WHERE id = {}1", "- ".repeat(900));
    assert_eq!(error(&minus).sqlstate, "54001");
    let long = format!("SHOW CLIENTS WHERE id = 1{}", " OR id = 1".repeat(20_000));
    assert_eq!(error(&long).sqlstate, "54001");
    let chain = format!("SHOW CLIENTS WHERE id = 1{}", " OR id = 1".repeat(70));
    assert!(parse(&chain).is_ok());
    assert_eq!(error(&"begin;".repeat(200)).sqlstate, "54001");
}

#[test]
fn going_back_in_the_parser_does_not_multiply() {
    let start = std::time::Instant::now();
    for word in [
        "NOT ",
        "(",
        "CASE ",
        "CASE WHEN ",
        "INTERVAL ",
        "CAST(",
        "ARRAY[",
        "[",
        "EXISTS(",
        "f(",
        "{",
        "- ",
        "id IN (",
        "STRUCT(",
        "id BETWEEN ",
    ] {
        for count in [20, 40, 200] {
            let text = format!("SHOW CLIENTS WHERE {} id = 1", word.repeat(count));
            let _ = parse(&text);
            assert!(start.elapsed().as_secs() < 20, "{word} {count}");
        }
    }
}
