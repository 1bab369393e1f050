//! `lint`: what a client is told of dangerous schema changes, in every way to send one; and nothing else changes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::wire::{bind, close, describe, execute, extended, parse, query, said, sync, tags};
use support::{Message, PATIENCE, Pg, Repository, Wire, eventually, normalised, psql, versions};

/// All squawk says, but for style.
const QUIET: &str =
    "lint_exclude = [\"prefer-robust-stmts\", \"require-timeout-settings\", \"prefer-bigint-over-int\"]\n";

fn config(action: &str) -> String {
    format!("[branches.main]\nlint = \"{action}\"\n{QUIET}")
}

fn each(config: &str, test: impl Fn(&Repository)) {
    for version in versions() {
        test(&Repository::new(version, config));
    }
}

/// Rules of the warnings.
fn rules(messages: &[Message]) -> Vec<String> {
    let warnings = messages.iter().filter(|message| is_finding(message));
    warnings.map(|message| message.field(b'M').unwrap().split(':').next().unwrap().to_owned()).collect()
}

fn is_finding(message: &Message) -> bool {
    message.tag == b'N' && message.field(b'C').as_deref() == Some("01000")
}

/// The message of a command by that tag.
fn complete(messages: &[Message], tag: &str) -> usize {
    let is_it = |message: &Message| message.tag == b'C' && message.command_tag() == tag;
    messages.iter().position(is_it).unwrap_or_else(|| panic!("no {tag} in {messages:?}"))
}

/// What is sent, up to so many ReadyForQuery.
type Talk = Vec<(Vec<u8>, usize)>;

fn one(bytes: impl AsRef<[u8]>) -> Talk {
    vec![(bytes.as_ref().to_vec(), 1)]
}

fn hold(client: &mut Wire, talk: &Talk) -> Vec<Message> {
    let mut all = Vec::new();
    for (bytes, times) in talk {
        client.send(bytes);
        for _ in 0..*times {
            all.extend(client.read_until_ready());
        }
    }
    all
}

const DROP: &str = "alter table t drop column b";

/// Every way to send a statement; it runs once in each.
fn uses() -> Vec<(&'static str, Talk)> {
    vec![
        ("simple", one(query(DROP))),
        ("extended", one(extended(DROP, &[]))),
        ("several statements", one(query(&format!("select 1; {DROP}; select 2")))),
        (
            "in a transaction",
            vec![
                (query("begin"), 1),
                (query("savepoint s"), 1),
                (query(DROP), 1),
                (query("select 1"), 1),
                (query("commit"), 1),
            ],
        ),
        ("pipelined queries", vec![([query("select 1"), query(DROP), query("select 2")].concat(), 3)]),
        (
            "pipelined in one batch",
            one([
                parse("", "select 1", &[]),
                bind("", "", &[]),
                execute("", 0),
                parse("p", DROP, &[]),
                bind("q", "p", &[]),
                describe(b'P', "q"),
                execute("q", 0),
                close(b'S', "p"),
                parse("", "select 2", &[]),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ]
            .concat()),
        ),
        (
            "prepared",
            vec![
                ([parse("p", DROP, &[]), describe(b'S', "p"), sync()].concat(), 1),
                ([bind("", "p", &[]), execute("", 0), sync()].concat(), 1),
                ([close(b'S', "p"), sync()].concat(), 1),
            ],
        ),
        (
            "a portal in a transaction",
            vec![
                (query("begin"), 1),
                ([parse("p", DROP, &[]), bind("q", "p", &[]), sync()].concat(), 1),
                ([execute("q", 0), sync()].concat(), 1),
                ([close(b'S', "p"), sync()].concat(), 1),
                (query("commit"), 1),
            ],
        ),
    ]
}

const TABLE: &str = "drop table if exists t; create table t (a bigint, b text); insert into t select i, 'x' from generate_series(1, 10) i";

/// A connection to the same database without us.
fn direct_to(r: &Repository) -> Wire {
    Wire::connect(r.server.address, &[("user", "postgres"), ("database", &r.database)])
}

/// A connection to the same server without us.
fn direct(r: &Repository) -> Wire {
    let database = r.server.unique_database("direct");
    r.server.psql(&database, "set client_min_messages = warning; create table if not exists t ()");
    Wire::connect(r.server.address, &[("user", "postgres"), ("database", &database)])
}

#[test]
fn a_warning_stands_before_the_answer_and_nothing_else_changes() {
    each(&config("warn"), |r| {
        let (mut plain, mut client) = (direct(r), r.client());
        for (how, talk) in uses() {
            plain.rows(TABLE);
            r.sql(TABLE);
            let (wanted, found) = (hold(&mut plain, &talk), hold(&mut client, &talk));
            assert_eq!(rules(&found), ["ban-drop-column"], "{how}: {found:?}");
            let at = found.iter().position(is_finding).unwrap();
            assert!(at < complete(&found, "ALTER TABLE"), "{how}: {found:?}");
            let rest: Vec<Message> = found.into_iter().filter(|message| !is_finding(message)).collect();
            assert_eq!(normalised(&rest), normalised(&wanted), "{how}");
        }
        assert_eq!(
            r.proxy.metric("pggit_proxy_lint_findings_total{branch=\"main\",rule=\"ban-drop-column\"}"),
            Some(8.0)
        );
        let row = "select distinct verdict, rule, outcome from pggit.statements where command_tag = 'ALTER TABLE'";
        assert!(eventually(PATIENCE, || r.sql(row) == "allow||applied"), "{}", r.sql(row));
    });
}

#[test]
fn a_refused_statement_fails_as_it_would_on_the_server() {
    each(&config("refuse"), |r| {
        let (mut plain, mut client) = (direct(r), r.client());
        for (how, talk) in uses() {
            plain.rows("drop table if exists t");
            r.sql(TABLE);
            // Directly the table is missing: an error at the same place. Only what an error in Parse ends, and one in Execute does
            // not, differs.
            let (wanted, found) = (hold(&mut plain, &talk), hold(&mut client, &talk));
            assert_eq!(said(&found), "42501 ALTER TABLE refused by lint: ban-drop-column", "{how}");
            assert_eq!(
                r.sql("select count(*) from pg_attribute where attrelid = 't'::regclass and attname = 'b'"),
                "1"
            );
            let ends = |messages: &[Message]| {
                messages
                    .iter()
                    .filter(|message| message.tag == b'Z')
                    .map(|message| message.body.clone())
                    .collect::<Vec<_>>()
            };
            assert_eq!(ends(&found), ends(&wanted), "{how}: {found:?}");
            if talk.iter().all(|(bytes, _)| bytes[0] == b'Q') {
                assert_eq!(tags(&found), tags(&wanted), "{how}");
            }
            for message in found.iter().filter(|message| message.field(b'C').as_deref() == Some("42501")) {
                let detail = message.field(b'D').unwrap();
                assert_eq!(detail, "Branch: main.\nban-drop-column: Dropping a column may break existing clients.");
                assert!(message.field(b'H').unwrap().contains("squawk-ignore"), "{message:?}");
            }
            for client in [&mut client, &mut plain] {
                client.ask(&query("rollback"));
                client.ask(&query("deallocate all"));
            }
        }
        // What is behind it in the same transaction is the server's to refuse.
        let row = "select distinct verdict, rule, outcome, sqlstate from pggit.statements where sql like '%drop column%' and sqlstate = '42501'";
        let wanted = "refuse|lint: ban-drop-column|refused|42501";
        assert!(eventually(PATIENCE, || r.sql(row) == wanted), "{}", r.sql(row));
    });
}

#[test]
fn what_follows_the_end_of_a_failed_transaction_is_checked() {
    each(&config("refuse"), |r| {
        let mut client = r.client();
        r.sql(TABLE);
        let messages = |sql| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
        let ways: [(&str, Talk); 4] = [
            ("in one text", one(query(&format!("rollback; {DROP}")))),
            ("behind a savepoint", one(query(&format!("rollback to s; {DROP}")))),
            ("pipelined queries", vec![([query("rollback"), query(DROP)].concat(), 2)]),
            ("pipelined messages", one([messages("rollback"), messages(DROP), sync()].concat())),
        ];
        for (how, talk) in ways {
            client.ask(&query("begin; savepoint s"));
            assert!(said(&client.ask(&query("no statement"))).starts_with("42601"));
            let aborted = client.ask(&query(DROP));
            assert!(said(&aborted).starts_with("25P02"), "{how}: {aborted:?}");
            assert_eq!(said(&hold(&mut client, &talk)), "42501 ALTER TABLE refused by lint: ban-drop-column", "{how}");
            client.ask(&query("rollback"));
        }
        assert_eq!(r.sql("select count(*) from pg_attribute where attrelid = 't'::regclass and attname = 'b'"), "1");
    });
}

#[test]
fn a_queued_statement_becomes_a_change_request_with_its_findings() {
    each(&config("queue"), |r| {
        let mut client = r.client();
        for (how, talk) in uses() {
            r.sql(TABLE);
            let found = hold(&mut client, &talk);
            // The same text has the same number.
            assert_eq!(said(&found), "PG002 change request 1: ALTER TABLE waits for approval", "{how}");
            let error = found.iter().find(|message| message.tag == b'E').unwrap();
            let detail = error.field(b'D').unwrap();
            assert_eq!(
                detail, "Branch: main.\nban-drop-column: Dropping a column may break existing clients.",
                "{how}"
            );
            client.ask(&query("rollback"));
            client.ask(&query("deallocate all"));
        }
        assert_eq!(r.sql("select distinct rule from pggit.change_requests"), "lint: ban-drop-column");
        let findings = "ban-drop-column: Dropping a column may break existing clients.";
        assert_eq!(r.proxy.control("SHOW CHANGES findings"), findings);
        // It is applied as any other, and not checked again.
        r.proxy.control("APPROVE CHANGE 1; APPLY CHANGE 1");
        assert_eq!(r.sql("select count(*) from pg_attribute where attrelid = 't'::regclass and attname = 'b'"), "0");
        // All of one text, each with its own number; those without findings stay where they are.
        let error = client.error("alter table t add column c text; alter table t rename a to aa; drop table t");
        assert!(error.field(b'D').unwrap().ends_with("Change requests: 2, 3."), "{error:?}");
        // Whoever decides reads all of it: what, how long at this size, who would wait, and what to do instead.
        let mut holder = direct_to(r);
        holder.rows("begin; lock table t in row share mode");
        client.error("create index on t (a)");
        let findings = r.proxy.control("SHOW CHANGES findings WHERE number = 4");
        let [what, detail, instead] = findings.lines().collect::<Vec<_>>()[..] else { panic!("{findings}") };
        assert!(what.starts_with("require-concurrent-index-creation: During normal index creation"), "{what}");
        assert!(detail.contains("to build an index takes less than a second"), "{detail}");
        assert!(detail.contains("1 other session holds a lock on public.t now"), "{detail}");
        assert_eq!(instead, "Use `concurrently` to avoid blocking writes.");
        // And again as it is now, for as long as nobody has decided.
        holder.rows("rollback");
        client.error("create index on t (a)");
        assert!(!r.proxy.control("SHOW CHANGES findings WHERE number = 4").contains("holds a lock"));
        assert_eq!(r.sql("select count(*) from pg_attribute where attrelid = 't'::regclass and attname = 'c'"), "0");
    });
}

#[test]
fn what_has_no_findings_is_not_touched() {
    for action in ["warn", "refuse", "queue"] {
        each(&config(action), |r| {
            let (mut plain, mut client) = (direct(r), r.client());
            plain.rows("drop table t");
            for sql in [
                "create table fine (a bigint primary key, b text)",
                "create table fine (a bigint)",
                "alter table fine add column c text",
                "select 1; create view v as select 1 as a; select 2",
                "begin; create table f2 (a bigint); create index on f2 (a); commit",
                "create table wrong (",
                "drop table nothing_here_squawk_ignores -- squawk-ignore ban-drop-table",
                "/* squawk-ignore ban-drop-table */ drop table fine",
                "create temp table mine (a char(3))",
                "alter table mine alter a type varchar(4)",
                "drop table mine",
                "vacuum",
            ] {
                for bytes in [query(sql), query("rollback")] {
                    assert_eq!(normalised(&client.ask(&bytes)), normalised(&plain.ask(&bytes)), "{action}: {sql}");
                }
            }
        });
    }
}

impl Repository {
    /// The repository's own database without us.
    fn direct(&self) -> Wire {
        Wire::connect(self.server.address, &[("user", "postgres"), ("database", &self.database)])
    }

    fn details(&self, client: &mut Wire, sql: &str) -> String {
        let found = client.ask(&query(sql));
        let details = found.iter().filter(|message| is_finding(message)).filter_map(|message| message.field(b'D'));
        details.collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn the_size_of_the_table_and_who_uses_it_are_told() {
    each(&config("warn"), |r| {
        r.sql(
            "create schema s; create table s.big (a bigint, b text); create index big_a on s.big (a); \
               insert into s.big select i, repeat('x', 1000) from generate_series(1, 20000) i; analyze s.big",
        );
        let mut client = r.client();
        let sql = "alter table s.big add constraint c check (a > 0)";
        let said = r.details(&mut client, sql);
        assert_eq!(said, "s.big has 22 MB and about 20000 rows: to read it takes less than a second at 500 MB/s.");
        // By the session's own search_path; an index by its table.
        client.rows("set search_path = s");
        let said = r.details(&mut client, "alter table big alter column a type numeric");
        assert!(
            said.starts_with(
                "s.big has 22 MB and about 20000 rows: where it is rewritten, with its indexes, that takes"
            ),
            "{said}"
        );
        assert!(r.details(&mut client, "create index on big (b)").starts_with("s.big has "));
        // Who holds a lock, and what that means inside a transaction.
        let mut other = r.direct();
        other.rows("begin; select count(*) from s.big limit 1");
        client.rows("begin; set local lock_timeout = '10ms'");
        let found = client.ask(&query("drop index big_a"));
        let detail = found.iter().find(|message| is_finding(message)).unwrap().field(b'D').unwrap();
        assert!(
            detail.starts_with("1 other session holds a lock on s.big now, the oldest in a transaction of "),
            "{detail}"
        );
        assert!(detail.ends_with("The lock is held until the transaction ends."), "{detail}");
        assert!(self::said(&found).starts_with("55P03 "), "the server's own error");
        client.rows("rollback");
        // The look waits for nobody, whatever is locked.
        other.rows("lock table s.big in access exclusive mode");
        client.rows("begin; set local lock_timeout = '10ms'");
        let found = client.ask(&query("alter table s.big drop column b"));
        assert_eq!(
            (rules(&found), self::said(&found)),
            (vec!["ban-drop-column".to_owned()], "55P03 canceling statement due to lock timeout".to_owned())
        );
        client.rows("rollback");
        other.rows("rollback");
    });
}

#[test]
fn what_the_session_shows_takes_findings_away() {
    let all = "[branches.main]\nlint = \"warn\"\nlint_exclude = [\"prefer-robust-stmts\"]\n";
    each(all, |r| {
        r.sql("create table t (a bigint, b text)");
        let mut client = r.client();
        let sql = "alter table t set (fillfactor = 90)";
        assert_eq!(rules(&client.ask(&query(sql))), ["require-lock-timeout", "require-statement-timeout"]);
        // One that ends it in the middle would leave half an index.
        let concurrent = "create index concurrently if not exists i on t (a)";
        assert_eq!(rules(&client.ask(&query(concurrent))), Vec::<String>::new());
        client.rows("set lock_timeout = '10min'");
        assert_eq!(rules(&client.ask(&query(sql))), ["require-statement-timeout"]);
        client.rows("set statement_timeout = '10min'");
        assert_eq!(rules(&client.ask(&query(sql))), Vec::<String>::new());
        // A table that this transaction has made locks nobody out, also in a savepoint.
        client.rows("begin; create table mine (a bigint)");
        assert_eq!(rules(&client.ask(&query("create index on mine (a)"))), Vec::<String>::new());
        client.rows("savepoint s; create table later (a bigint)");
        assert_eq!(rules(&client.ask(&query("create index on later (a)"))), Vec::<String>::new());
        assert_eq!(rules(&client.ask(&query("create index on t (b)"))), ["require-concurrent-index-creation"]);
        client.rows("commit");
        assert_eq!(rules(&client.ask(&query("create index on later (a)"))), ["require-concurrent-index-creation"]);
        // Nobody is warned who does not want to be.
        client.rows("set client_min_messages = error");
        assert_eq!(rules(&client.ask(&query("drop table t"))), Vec::<String>::new());
    });
}

/// Nothing may have been executed before it in the same batch, a question of ours either.
#[test]
fn what_cannot_run_in_a_transaction_still_runs() {
    let all = "[branches.main]\nlint = \"warn\"\nlint_exclude = [\"require-timeout-settings\"]\n";
    each(all, |r| {
        r.sql("create table t (a bigint)");
        let mut client = r.client();
        for bytes in
            [query("create index concurrently i on t (a)"), extended("create index concurrently j on t (a)", &[])]
        {
            let found = client.ask(&bytes);
            assert_eq!(rules(&found), ["prefer-robust-stmts"], "{found:?}");
            complete(&found, "CREATE INDEX");
        }
        let history = "select count(*) from pggit.history where object_name in ('i', 'j')";
        assert_eq!(r.sql(history), "2");
    });
}

#[test]
fn rules_come_first_and_other_branches_are_as_before() {
    let rules_of = "[[rule]]\nname = \"no\"\ntag = \"DROP *\"\naction = \"refuse\"\n";
    each(&format!("{}{rules_of}", config("warn")), |r| {
        let mut client = r.client();
        client.rows("create table t (a bigint, b text)");
        let found = client.ask(&query("drop table t"));
        assert_eq!((rules(&found), said(&found).starts_with("42501 DROP TABLE")), (Vec::new(), true), "{found:?}");
    });
    each("[branches]\nlint = \"refuse\"\n[branches.main]\nlint = \"off\"\n", |r| {
        let mut client = r.client();
        client.rows("create table t (a int); drop table t");
    });
    each("[branches]\nlint = \"refuse\"\n", |r| {
        let error = r.client().error("create table t (a char(3))");
        assert!(error.field(b'M').unwrap().contains("ban-char-field"), "{error:?}");
    });
}

#[test]
fn protected_main_is_checked_where_a_rule_lets_through() {
    let text = "[[rule]]\nname = \"owner\"\nuser = \"postgres\"\naction = \"allow\"\n";
    each(&format!("[branches.main]\nprotected = true\nlint = \"refuse\"\n{QUIET}{text}"), |r| {
        let mut client = r.client();
        client.rows("create table t (a bigint)");
        assert_eq!(said(&client.ask(&query("drop table t"))), "42501 DROP TABLE refused by lint: ban-drop-table");
    });
}

/// A client that cancels while the tables are looked at hears what it would have heard, and its transaction has failed.
#[test]
fn a_look_that_fails_fails_the_statement_and_nothing_else() {
    each(&config("warn"), |r| {
        r.sql("create role narrow login; grant create on schema public to narrow; create table t (a bigint, b text); alter table t owner to narrow; \
               revoke execute on function pg_lock_status() from public; revoke select on pg_locks from public");
        let login = || Wire::connect(r.proxy.clients, &[("user", "narrow"), ("database", &r.database)]);
        for (how, talk) in uses() {
            let mut client = login();
            let found = hold(&mut client, &talk);
            assert_eq!(said(&found), "42501 permission denied for view pg_locks", "{how}");
            let last = found.last().unwrap();
            assert_eq!(last.tag, b'Z', "{how}");
            client.ask(&query("rollback"));
            // It goes on, and what is not checked works.
            assert_eq!(client.value("select 1"), "1", "{how}");
        }
        assert_eq!(r.sql("select count(*) from pg_attribute where attrelid = 't'::regclass and attname = 'b'"), "1");
        r.sql(
            "grant select on pg_locks to public; grant execute on function pg_lock_status() to public; \
               drop owned by narrow cascade; drop role narrow",
        );
    });
}

/// Whatever the linter makes of a text, the session goes on as it would directly.
#[test]
fn no_text_ends_a_session() {
    let r = Repository::new(Pg::V18, "[branches.main]\nlint = \"warn\"\n");
    let mut client = r.client();
    let mut random = support::rng::Rng(7);
    let texts = include_str!("classify/kinds.txt").lines().filter(|line| !line.starts_with([' ', '#']));
    let mut findings = 0;
    for (n, text) in texts.enumerate() {
        let mut bytes = text.as_bytes().to_vec();
        if n % 2 == 1 && !bytes.is_empty() {
            let at = random.below(bytes.len());
            bytes[at] = b"();'\"$/*-\x7f\xc3"[random.below(11)];
        }
        // All of it is checked, and nothing of it is run.
        client.send(&support::wire::frame(b'Q', &[b"select 1/0; ".as_slice(), &bytes, b"\0"].concat()));
        let found = client.read_until_ready();
        assert!(found.iter().any(|message| message.tag == b'E'), "{text}: {found:?}");
        findings += rules(&found).len();
    }
    assert!(findings > 100, "{findings}");
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn psql_shows_the_warning_with_its_advice() {
    each(&config("warn"), |r| {
        r.sql("create table t (a bigint)");
        let output = psql(&r.proxy.dsn(&r.database), "create index on t (a);");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success()
                && said.contains("WARNING:  01000: require-concurrent-index-creation: During normal"),
            "{said}"
        );
        assert!(said.contains("HINT:  Use `concurrently` to avoid blocking writes."), "{said}");
    });
}

#[test]
fn an_error_in_the_configuration_has_its_place() {
    let problem = |text: &str| {
        let problems = pggit_proxy::config::Config::parse(text, "f.toml").unwrap_err();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let text = problem("[branches.main]\nlint = \"wran\"\n");
    assert!(
        text.starts_with("f.toml:2:8: `lint` cannot be \"wran\"") && text.ends_with("did you mean \"warn\"?"),
        "{text}"
    );
    let text = problem("[branches.main]\nlint = \"warn\"\nlint_exclude = [\"ban-drop-tabel\"]\n");
    assert_eq!(text, "f.toml:3:17: unknown lint rule \"ban-drop-tabel\"; did you mean \"ban-drop-table\"?");
    let text = problem("[branches.main]\nlint_exlude = [\"ban-drop-table\"]\n");
    assert!(text.contains("unknown key `lint_exlude` in [branches.main]; did you mean `lint_exclude`?"), "{text}");
}
