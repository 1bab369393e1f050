//! Rules, protection and freezes, end to end: what is refused never reaches the server, what is allowed does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use nix::sys::signal::Signal;
use support::wire::{V3_0, bind, describe, execute, extended, parse, query, sync, tags};
use support::{Message, PATIENCE, PgServer, Proxy, Wire, eventually, migrate, versions};

struct Repository {
    server: &'static PgServer,
    app: String,
    feature: String,
    proxy: Proxy,
}

impl Repository {
    fn with(server: &'static PgServer, rules: &str) -> Self {
        let (app, feature) = (server.unique_database("app"), server.unique_database("feat"));
        migrate(server, &app);
        migrate(server, &feature);
        let proxy = Proxy::start(server, &config(&app, &feature, rules));
        Self { server, app, feature, proxy }
    }

    fn rewrite(&self, rules: &str) {
        self.proxy.rewrite(&config(&self.app, &self.feature, rules));
    }

    fn main(&self) -> Wire {
        self.proxy.connect(&self.app)
    }

    fn login(&self, database: &str, user: &str, application: &str) -> Wire {
        let parameters = [("user", user), ("database", database), ("application_name", application)];
        Wire::try_connect(self.proxy.clients, V3_0, &parameters).unwrap()
    }

    fn exists(&self, table: &str) -> bool {
        self.server.psql(&self.app, &format!("select to_regclass('{table}') is not null")) == "t"
    }
}

fn config(app: &str, feature: &str, rules: &str) -> String {
    format!("[upstream]\ndbname = \"{app}\"\n[branches.\"feature/x\"]\ndatabase = \"{feature}\"\n{rules}")
}

fn each(rules: &str, test: impl Fn(&Repository)) {
    for version in versions() {
        test(&Repository::with(PgServer::shared(version), rules));
    }
}

/// The SQLSTATEs of the errors among the messages.
fn errors(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag == b'E').map(|message| message.field(b'C').unwrap()).collect()
}

fn code(error: &Message) -> String {
    error.field(b'C').unwrap()
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = r#"
[[rule]]
name = "migrator"
user = "migrator"
application = "release *"
class = ["ddl", "role"]
action = "allow"
[[rule]]
name = "audit"
object = "audit.*"
class = ["ddl", "write"]
action = "refuse"
message = "audit is not yours"
hint = "ask Ann"
[[rule]]
name = "no-drop-on-features"
branch = "feature/*"
tag = "drop *"
action = "refuse"
[[rule]]
name = "network"
client = "192.0.2.0/24"
action = "refuse"
[[rule]]
name = "no-do-from-here"
client = ["10.0.0.0/8", "127.0.0.0/8"]
class = "opaque"
branch = "main"
action = "refuse"
[branches.main]
protected = true
"#;
    each(rules, |it| {
        it.server.psql(
            &it.app,
            "do $$ begin create role migrator superuser login; exception when duplicate_object then end $$",
        );
        it.server.psql(&it.app, "create schema audit; create table audit.log (a int); create table t (a int)");
        let mut plain = it.main();
        // Protected: the last word where no rule matched.
        let error = plain.error("create table public.x ()");
        assert_eq!(code(&error), "42501");
        assert_eq!(error.field(b'M').unwrap(), "CREATE TABLE on protected branch \"main\" refused");
        assert_eq!(error.field(b'D').unwrap(), "Protected branch: main.");
        assert!(error.field(b'H').is_some());
        assert_eq!(code(&plain.error("grant select on t to public")), "42501");
        // A rule with its own words, by object; unqualified names may be any schema's.
        let error = plain.error("insert into audit.log values (1)");
        assert_eq!(error.field(b'M').unwrap(), "audit is not yours");
        assert_eq!(error.field(b'H').unwrap(), "ask Ann");
        assert_eq!(error.field(b'D').unwrap(), "Rule: audit; branch: main.");
        plain.rows("insert into public.t values (1)");
        assert_eq!(code(&plain.error("insert into log values (1)")), "42501");
        assert_eq!(
            code(&plain.error("with w as (insert into audit.log values (1) returning 1) select * from w")),
            "42501"
        );
        // By address and class.
        let error = plain.error("do $$ begin end $$");
        assert_eq!(error.field(b'D').unwrap(), "Rule: no-do-from-here; branch: main.");
        // By user and application together.
        assert_eq!(code(&it.login(&it.app, "migrator", "psql").error("create table public.m0 ()")), "42501");
        let mut release = it.login(&it.app, "migrator", "release 12");
        release.rows("create table m1 (); drop table audit.log");
        release.rows("set application_name = 'other'");
        assert_eq!(code(&release.error("create table m2 ()")), "42501");
        release.rows("set application_name = 'release 13'");
        release.rows("create table m3 ()");
        // By branch and tag.
        let mut feature = it.login(&it.feature, "postgres", "x");
        feature.rows("create table public.f (); do $$ begin end $$");
        assert_eq!(
            feature.error("drop table public.f").field(b'D').unwrap(),
            "Rule: no-drop-on-features; branch: feature/x."
        );
        assert_eq!(
            (it.exists("x"), it.exists("m0"), it.exists("m1"), it.exists("m2"), it.exists("m3")),
            (false, false, true, false, true)
        );
        // Reads and temporary objects are nobody's business.
        plain.rows("create temp table pg_temp.mine (a int); select * from t; drop table pg_temp.mine");
        assert!(it.proxy.control("show rules name where action = 'refuse'").contains("no-drop-on-features"));
        assert!(it.proxy.metric("pggit_proxy_verdicts_total{branch=\"main\",verdict=\"refuse\"}").unwrap() >= 8.0);
        assert_eq!(
            it.proxy.metric("pggit_proxy_ddl_total{branch=\"main\",tag=\"CREATE TABLE\",outcome=\"refused\"}"),
            Some(3.0)
        );
    });
}

const NO_DDL: &str = "[[rule]]\nname = \"no-ddl\"\nclass = \"ddl\"\naction = \"refuse\"\n";

#[test]
fn refused_in_every_protocol_and_nothing_reaches_the_server() {
    each(NO_DDL, |it| {
        it.server
            .psql(&it.app, "create table t (a int); alter system set log_statement = 'all'; select pg_reload_conf()");
        let mut client = it.main();
        assert!(eventually(PATIENCE, || client.value("show log_statement") == "all"));
        client.rows("set log_parser_stats = off");
        assert_eq!(code(&client.error("create table marker_simple ()")), "42501");
        // Several in one text: those before run (and are undone by the error), those behind do not.
        let messages =
            client.ask(&query("insert into t values (1); create table marker_multi (); insert into t values (2)"));
        assert_eq!(tags(&messages), "CEZ");
        assert_eq!(client.value("select count(*) from t"), "0");
        // Extended: refused at Parse, all of them skipped up to Sync; the next one is served.
        let messages = client.ask(&extended("create table marker_extended ()", &[]));
        assert_eq!((tags(&messages).as_str(), errors(&messages)), ("EZ", vec!["42501".to_owned()]));
        // Pipelined, without waiting: each Sync its own fate.
        let one = |sql: &str| extended(sql, &[]);
        client.send(
            &[one("select 1"), one("create table marker_pipe ()"), query("drop table t"), one("select 2")].concat(),
        );
        let all: Vec<String> = (0..4).map(|_| tags(&client.read_until_ready())).collect();
        assert_eq!(all, ["12TDCZ", "EZ", "EZ", "12TDCZ"]);
        // In one pipeline with an insert before it: that one is undone, too.
        let step = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
        let messages = client.ask(
            &[step("insert into t values (3)"), step("drop table t"), step("insert into t values (4)"), sync()]
                .concat(),
        );
        assert_eq!(tags(&messages), "12CEZ");
        assert_eq!(client.value("select count(*) from t"), "0");
        // A name that was refused at Parse is not there; the older one of that name stays.
        client.ask(&[parse("s", "select 7", &[]), sync()].concat());
        let messages = client.ask(&[parse("s", "drop table t", &[]), sync()].concat());
        assert_eq!(errors(&messages), ["42501"]);
        let messages = client.ask(&[bind("", "s", &[]), describe(b'P', ""), execute("", 0), sync()].concat());
        assert_eq!(tags(&messages), "2TDCZ");
        // What does not parse counts as DDL, and so does what hides behind EXPLAIN ANALYZE, WITH, PREPARE.
        let error = client.error("creat table marker_odd ()");
        assert_eq!((code(&error).as_str(), error.field(b'M').unwrap().contains("cannot be parsed")), ("42501", true));
        for sql in [
            "explain analyze create table marker_explain as select 1",
            "select 1 as a into marker_into",
            "/* select */ create /**/ table marker_comment ()",
            "-- select\ncreate table marker_line ()",
            "create schema marker_schema create table marker_in ()",
            ";;  create table marker_semicolon ()",
            "create view marker_view as select 1",
            "comment on table t is 'marker'",
            "truncate t; alter table t rename to marker_alter",
        ] {
            let messages = client.ask(&query(sql));
            assert!(errors(&messages).contains(&"42501".to_owned()), "{sql}: {messages:?}");
        }
        assert_eq!(client.value("select count(*) from t"), "0");
        // The server saw nothing of them, not even as text, but for the recorder's rows.
        let log = it.server.log();
        let seen: Vec<&str> =
            log.lines().filter(|line| line.contains("marker") && !line.contains("] pggit-proxy ")).collect();
        assert!(seen.is_empty(), "{seen:?}");
        it.server.psql(&it.app, "alter system reset log_statement; select pg_reload_conf()");
    });
}

#[test]
fn a_refusal_in_a_transaction_is_an_error_as_any() {
    each(NO_DDL, |it| {
        it.server.psql(&it.app, "create table t (a int)");
        let mut client = it.main();
        client.rows("begin; insert into t values (1)");
        let messages = client.ask(&query("create table x ()"));
        assert_eq!(messages.last().unwrap().body, b"E");
        assert_eq!(code(&client.error("select 1")), "25P02");
        assert_eq!(code(&client.error("create table x ()")), "25P02", "the server's own error stands");
        assert_eq!(client.ask(&query("commit"))[0].command_tag(), "ROLLBACK");
        // A savepoint saves, as from any error.
        client.rows("begin; insert into t values (2); savepoint s");
        client.error("create table x ()");
        client.rows("rollback to s; insert into t values (3); commit");
        assert_eq!(client.value("select string_agg(a::text, ',') from t"), "2,3");
    });
}

#[test]
fn rules_change_under_open_sessions() {
    each("", |it| {
        let mut client = it.main();
        let pid = client.value("select pg_backend_pid()");
        client.rows("create table t (a int)");
        client.ask(&[parse("add", "alter table t add b int", &[]), sync()].concat());
        // In the middle of a transaction, too.
        client.rows("begin");
        it.rewrite(NO_DDL);
        it.proxy.signal(Signal::SIGHUP);
        assert!(eventually(PATIENCE, || it.proxy.control("show rules").contains("no-ddl")));
        assert_eq!(code(&client.error("create table x ()")), "42501");
        client.rows("rollback");
        // Prepared before the rule was there: refused at Bind.
        let messages = client.ask(&[bind("", "add", &[]), execute("", 0), sync()].concat());
        assert_eq!((tags(&messages).as_str(), errors(&messages)), ("EZ", vec!["42501".to_owned()]));
        // A broken file changes nothing, by signal or by command, and says where it is broken.
        it.rewrite("[[rule]]\nname = \"x\"\nacton = \"allow\"\n");
        it.proxy.signal(Signal::SIGHUP);
        assert!(eventually(PATIENCE, || it.proxy.log().contains("acton")), "{}", it.proxy.log());
        let output = support::psql(&it.proxy.control_dsn(), "RELOAD");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && words.contains("acton") && words.contains("action"), "{words}");
        it.proxy.rewrite("[[rule\n");
        assert!(!support::psql(&it.proxy.control_dsn(), "RELOAD").status.success());
        assert_eq!(code(&client.error("create table x ()")), "42501");
        // And back.
        it.rewrite("");
        it.proxy.control("RELOAD");
        let messages = client.ask(&[bind("", "add", &[]), execute("", 0), sync()].concat());
        assert_eq!(tags(&messages), "2CZ");
        client.rows("create table x ()");
        assert_eq!(client.value("select pg_backend_pid()"), pid, "the session was not touched");
    });
}

#[test]
fn a_freeze_is_at_once_in_force_and_outlives_the_proxy() {
    for version in versions() {
        let mut it = Repository::with(PgServer::shared(version), "[[rule]]\nname = \"all\"\naction = \"allow\"\n");
        let mut client = it.main();
        client.rows("create table t (); begin");
        it.proxy.control("REFUSE DDL ON BRANCH main");
        let error = client.error("create table x ()");
        assert_eq!(code(&error), "42501", "before any rule: {error:?}");
        assert!(
            error.field(b'M').unwrap().contains("frozen") && error.field(b'D').unwrap().contains("admin"),
            "{error:?}"
        );
        client.rows("rollback; create temp table mine ()");
        assert_eq!(code(&client.error("create role nobody_x")), "42501");
        it.login(&it.feature, "postgres", "x").rows("create table f ()");
        assert_eq!(it.proxy.control("show branches frozen_by where name = 'main'"), "admin");
        // Twice is once.
        let _ = support::psql(&it.proxy.control_dsn(), "REFUSE DDL ON BRANCH main");
        assert_eq!(it.server.psql(&it.app, "select branch, frozen_by, lifted_by from pggit.freezes"), "main|admin|");

        // Another process, even one that was not asked: the freeze is the repository's.
        let second = Proxy::start(it.server, &config(&it.app, &it.feature, ""));
        let mut other = second.connect(&it.app);
        assert!(eventually(PATIENCE, || second.control("show branches frozen_by where name = 'main'") == "admin"));
        assert_eq!(code(&other.error("create table x ()")), "42501");
        it.proxy.signal(Signal::SIGTERM);
        drop(client);
        assert!(it.proxy.wait_exit(PATIENCE).is_some_and(|status| status.success()));
        let proxy = Proxy::start(it.server, &config(&it.app, &it.feature, ""));
        assert!(eventually(PATIENCE, || proxy.control("show branches frozen_by where name = 'main'") == "admin"));
        let mut client = proxy.connect(&it.app);
        assert_eq!(code(&client.error("create table x ()")), "42501");
        proxy.control("ALLOW DDL ON BRANCH main");
        client.rows("create table x ()");
        // The other proxy hears of it.
        assert!(eventually(PATIENCE, || errors(&other.ask(&query("create table if not exists y ()"))).is_empty()));
        assert_eq!(
            it.server.psql(&it.app, "select branch, frozen_by, lifted_by, lifted_at >= frozen_at from pggit.freezes"),
            "main|admin|admin|t"
        );
        let output = support::psql(&proxy.control_dsn(), "REFUSE DDL ON BRANCH nope");
        assert!(String::from_utf8_lossy(&output.stderr).contains("nope") && !output.status.success());
    }
}

#[test]
fn a_freeze_holds_from_the_first_statement_after_a_restart() {
    each("", |it| {
        it.proxy.control("REFUSE DDL ON BRANCH main");
        for _ in 0..5 {
            // No waiting for anything: the first client of the new process must not slip through.
            let proxy = Proxy::start(it.server, &config(&it.app, &it.feature, ""));
            assert_eq!(code(&proxy.connect(&it.app).error("create table slipped ()")), "42501");
        }
        assert!(!it.exists("slipped"));
    });
}
