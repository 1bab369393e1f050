//! A session moves to another branch: with all that can come along, or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::wire::{bind, describe, execute, extended, parse, query, said, sync};
use support::{Message, PATIENCE, PgServer, Proxy, Wire, eventually, migrate, versions};

/// A repository with the branches `main` and `feature/x`.
struct Repository {
    server: &'static PgServer,
    app: String,
    feature: String,
    proxy: Proxy,
}

fn config(app: &str, feature: &str, rules: &str) -> String {
    format!("{rules}\n[upstream]\ndbname = \"{app}\"\n[branches.\"feature/x\"]\ndatabase = \"{feature}\"\n")
}

fn each(rules: &str, test: impl Fn(&Repository)) {
    for version in versions() {
        let server = PgServer::shared(version);
        let (app, feature) = (server.unique_database("app"), server.unique_database("feat"));
        migrate(server, &app);
        migrate(server, &feature);
        let proxy = Proxy::start(server, &config(&app, &feature, rules));
        test(&Repository { server, app, feature, proxy });
    }
}

impl Repository {
    fn client(&self) -> Wire {
        self.proxy.connect(&self.app)
    }

    fn history(&self, database: &str, object: &str) -> String {
        let sql = "select branch, rerouted_from, created_by from pggit.history where object_name";
        self.server.psql(database, &format!("{sql} = '{object}'"))
    }
}

/// Without ParameterStatus, which moving brings.
fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).filter(|tag| *tag != 'S').collect()
}

/// Why the session stays on its branch.
fn stays(messages: &[Message]) -> String {
    let said = said(messages);
    let head = "55P02 this session cannot be moved to branch \"feature/x\": ";
    said.strip_prefix(head).unwrap_or_else(|| panic!("{said}")).to_owned()
}

const SET: &str = "set pggit.branch = 'feature/x'";
const BACK: &str = "set pggit.branch to 'main'";
const CHECKOUT: &str = "select pggit.checkout('feature/x')";

#[test]
fn a_session_moves_and_everything_tells_the_truth() {
    each("", |it| {
        let mut client = it.client();
        let id = it.proxy.control("show clients id");
        client.rows("create table first ()");
        assert_eq!(tags(&client.ask(&query(SET))), "CZ");
        assert_eq!(client.value("select current_database()"), it.feature);
        assert_eq!(client.value("select pggit.current_branch()"), "feature/x");
        assert_eq!(client.value("show pggit.branch"), "feature/x");
        client.rows("create table second ()");
        assert_eq!(it.history(&it.feature, "second"), "feature/x||postgres");
        assert_eq!(it.history(&it.app, "second"), "");
        let pid = client.value("select pg_backend_pid()");
        assert_eq!(
            it.proxy.control("show clients id, branch, database, backend_pid"),
            format!("{id}|feature/x|{}|{pid}", it.feature)
        );
        assert_eq!(it.proxy.metric("pggit_proxy_clients{branch=\"feature/x\"}"), Some(1.0));
        assert_eq!(it.proxy.metric("pggit_proxy_clients{branch=\"main\"}"), Some(0.0));
        // To where it is: the server says so, also in a transaction.
        assert_eq!(tags(&client.ask(&query(SET))), "CZ");
        assert_eq!(client.value(CHECKOUT), "feature/x");
        client.rows(&format!("begin; {SET}; commit"));
        assert_eq!(client.value("select pg_backend_pid()"), pid);
        // And back, by the function.
        assert_eq!(client.value("select pggit.checkout('main')"), "main");
        assert_eq!(
            client.value("select current_database() || ' ' || pggit.current_branch()"),
            format!("{} main", it.app)
        );
        client.rows("create table third ()");
        assert_eq!(it.history(&it.app, "third"), "main||postgres");
        assert_eq!(client.value(CHECKOUT), "feature/x");
        // The statement log knows which was said where.
        let log = "select string_agg(branch || ' ' || sql, ', ' order by started_at) from pggit.statements";
        let wanted = "main create table first (), feature/x create table second (), main create table third ()";
        assert!(eventually(PATIENCE, || it.server.psql(&it.app, log) == wanted), "{}", it.server.psql(&it.app, log));
        // Nothing is left behind on the server.
        drop(client);
        let left = format!(
            "select count(*) from pg_stat_activity where datname in ('{}', '{}') and application_name not like 'pggit-proxy%'",
            it.app, it.feature
        );
        assert!(
            eventually(PATIENCE, || it.server.psql("postgres", &left) == "0"),
            "{}",
            it.server.psql("postgres", &left)
        );
        assert!(eventually(PATIENCE, || it.proxy.metric("pggit_proxy_clients{branch=\"feature/x\"}") == Some(0.0)));
    });
}

#[test]
fn settings_user_and_role_come_along_and_the_client_hears_of_parameters() {
    each("", |it| {
        it.server.psql(
            &it.app,
            "do $$ begin create role mover nologin; exception when duplicate_object or unique_violation then null; end $$",
        );
        it.server.psql(&it.app, &format!("alter database \"{}\" set datestyle = 'German'", it.feature));
        let parameters = [
            ("user", "postgres"),
            ("database", it.app.as_str()),
            ("application_name", "one"),
            ("options", "-c work_mem=5MB"),
        ];
        let mut client = Wire::connect(it.proxy.clients, &parameters);
        client.rows("set search_path = pg_catalog; set statement_timeout = '7s'; set app.who = 'ann'; set pggit.message = 'why'");
        client.rows("select set_config('app.other', 'a\\''b', false); set application_name = 'two'; set role mover");
        let answer = client.ask(&query(SET));
        let style = answer.iter().find(|message| message.tag == b'S' && message.body.starts_with(b"DateStyle\0"));
        assert_eq!(style.unwrap().body, b"DateStyle\0German, DMY\0");
        for (setting, value) in [
            ("search_path", "pg_catalog"),
            ("statement_timeout", "7s"),
            ("work_mem", "5MB"),
            ("app.who", "ann"),
            ("app.other", "a\\'b"),
            ("application_name", "two"),
            ("role", "mover"),
            ("pggit.message", "why"),
        ] {
            assert_eq!(client.value(&format!("show {setting}")), value, "{setting}");
        }
        assert_eq!(client.value("select session_user"), "postgres");
        assert_eq!(it.proxy.control("show clients application_name where branch = 'feature/x'"), "two");
        // Also the second time, and what was set in between.
        client.rows("set app.late = 'x'; reset role");
        assert_eq!(tags(&client.ask(&query(BACK))), "CZ");
        assert_eq!(client.value("show app.who"), "ann");
        assert_eq!(client.value("show app.late"), "x");
        assert_eq!(client.value("select current_user || current_setting('work_mem')"), "postgres5MB");
    });
}

#[test]
fn what_would_be_lost_keeps_the_session_where_it_is() {
    each("", |it| {
        let lost = |setup: &str, what: &str, undo: &str| {
            let mut client = it.client();
            client.rows(setup);
            for sql in [SET, CHECKOUT] {
                assert_eq!(stays(&client.ask(&query(sql))), format!("it has {what}, which would be lost"), "{setup}");
            }
            assert_eq!(client.value("select current_database()"), it.app);
            client.rows(undo);
            assert_eq!(tags(&client.ask(&query(SET))), "CZ", "{setup}");
            assert_eq!(client.value("select current_database()"), it.feature);
        };
        lost("prepare p as select 1", "the prepared statement \"p\"", "deallocate p");
        lost("begin; declare c cursor with hold for select 1; commit", "the cursor \"c\"", "close c");
        lost("listen news", "LISTEN \"news\"", "unlisten *");
        lost("create temp table mine (i int)", "the temporary relation \"mine\"", "drop table mine");
        lost("select pg_advisory_lock(1)", "an advisory lock", "select pg_advisory_unlock_all()");
        let function = "create function pg_temp.f() returns int language sql as 'select 1'";
        lost(function, "the temporary function \"f\"", "drop function pg_temp.f()");
        // Protocol-level prepared statements; and what only a function's text tells.
        let mut client = it.client();
        client.ask(&[parse("s", "select 'kept'", &[]), sync()].concat());
        assert_eq!(stays(&client.ask(&query(SET))), "it has the prepared statement \"s\", which would be lost");
        let kept = client.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat());
        assert_eq!(kept[1].values()[0].as_deref(), Some(&b"kept"[..]));
        let mut client = it.client();
        client.rows("select set_config('app.' || 'x', '1', false)");
        assert_eq!(
            stays(&client.ask(&query(SET))),
            "it may have settings whose names only its statements' functions know"
        );
        // A user who may not see much is told the same.
        let mut client = it.client();
        client.rows("begin");
        assert_eq!(stays(&client.ask(&query(SET))), "it is inside a transaction");
        assert_eq!(said(&client.ask(&query(SET))).split(' ').next(), Some("25P02"));
        client.rows("rollback");
        assert_eq!(client.value("select current_database()"), it.app);
    });
}

#[test]
fn every_way_of_sending_moves_it_or_is_refused_with_the_reason() {
    each("", |it| {
        let mut client = it.client();
        let here = |client: &mut Wire| client.value("select pggit.current_branch()");
        // Extended: unnamed, executed at once.
        assert_eq!(tags(&client.ask(&extended(SET, &[]))), "12nCZ");
        assert_eq!(here(&mut client), "feature/x");
        let answer = client.ask(&extended("select pggit.checkout('main')", &[]));
        assert_eq!(tags(&answer), "12TDCZ");
        assert_eq!(here(&mut client), "main");
        for part in [parse("", SET, &[]), bind("", "", &[]), execute("", 0)] {
            client.send(&part);
        }
        client.send(&sync());
        assert_eq!(tags(&client.read_until_ready()), "12CZ");
        assert_eq!(here(&mut client), "feature/x");
        // Pipelined, each behind its own end: in order, each on its branch.
        let where_ = query("select current_database()");
        let pipeline = [where_.clone(), query(BACK), where_.clone(), extended(SET, &[]), where_.clone()].concat();
        client.send(&pipeline);
        let answers: Vec<Vec<Message>> = (0..5).map(|_| client.read_until_ready()).collect();
        let at = |n: usize| String::from_utf8(answers[n][1].values()[0].clone().unwrap()).unwrap();
        assert_eq!([at(0), at(2), at(4)], [it.feature.clone(), it.app.clone(), it.feature.clone()]);
        assert_eq!(tags(&client.ask(&query(BACK))), "CZ");

        // Prepared, or not the only one: refused, and nothing has moved.
        let prepared = client.ask(&[parse("", SET, &[]), describe(b'S', ""), sync()].concat());
        assert_eq!(stays(&prepared), "it is only prepared, or not the only one up to its Sync");
        let named = client.ask(&[parse("s", SET, &[]), bind("", "s", &[]), execute("", 0), sync()].concat());
        assert_eq!(stays(&named), "the statement is prepared, and would be lost");
        let piped = [parse("", "select 1", &[]), bind("", "", &[]), execute("", 0), extended(SET, &[])].concat();
        let piped = client.ask(&piped);
        assert_eq!(tags(&piped), "12DCEZ");
        assert_eq!(stays(&piped), "messages of the extended protocol before the statement have had no Sync");
        for sql in ["select 1; set pggit.branch = 'feature/x'", "set pggit.branch = 'feature/x'; select 1"] {
            assert_eq!(stays(&client.ask(&query(sql))), "the statement is one of several in one text", "{sql}");
        }
        client.rows("begin");
        assert_eq!(stays(&client.ask(&extended(SET, &[]))), "it is inside a transaction");
        client.rows("rollback");
        // A function's argument that is not a literal: the function itself says so.
        for sql in ["select pggit.checkout('feature' || '/x')", "select pggit.checkout('feature/x'), 1"] {
            assert_eq!(
                said(&client.ask(&query(sql))),
                "55P02 this session cannot be moved to branch \"feature/x\"",
                "{sql}"
            );
        }
        // Other ways to set it are none.
        for sql in ["set local pggit.branch = 'feature/x'", "select set_config('pggit.branch', 'feature/x', false)"] {
            assert_eq!(
                said(&client.ask(&query(sql))),
                "55P02 parameter \"pggit.branch\" cannot be changed in this way",
                "{sql}"
            );
        }
        // Branches that are not there, with near names.
        let missing = client.ask(&query("set pggit.branch = 'feature/y'"));
        assert_eq!(said(&missing), "3D000 this session cannot be moved to branch \"feature/y\": it does not exist");
        assert!(missing[0].field(b'H').unwrap().contains("\"feature/x\""), "{missing:?}");
        assert_eq!(here(&mut client), "main");
        assert_eq!(client.value("select current_database()"), it.app);
        // A prepared statement of where it is, executed where it is not any more, moves nobody.
        client.ask(&[parse("", BACK, &[]), sync()].concat());
        assert_eq!(tags(&client.ask(&query("select 1"))), "TDCZ");
        // In a database that is no branch there is nothing to move.
        let mut other = it.proxy.connect("postgres");
        assert_eq!(said(&other.ask(&query(SET))), "55P02 parameter \"pggit.branch\" cannot be changed in this way");
    });
}

#[test]
fn in_the_middle_of_copy_nothing_waits_for_ever() {
    each("", |it| {
        let copy = query("create temp table copied (i int); copy copied from stdin");
        let mut direct = Wire::connect(it.server.address, &[("user", "postgres"), ("database", &it.app)]);
        let mut client = it.client();
        let ends = [&mut direct, &mut client].map(|wire| {
            wire.send(&copy);
            wire.read_until(b'G');
            wire.send(&query(SET));
            tags(&wire.read_to_end())
        });
        assert_eq!(ends[0], ends[1], "as without the proxy");
    });
}

#[test]
fn the_cancel_key_goes_along() {
    each("", |it| {
        let mut client = it.client();
        let (pid, secret) = client.key();
        for to in [SET, BACK] {
            assert_eq!(tags(&client.ask(&query(to))), "CZ");
            client.send(&query("select pg_sleep(601)"));
            let sleeps =
                "select count(*) from pg_stat_activity where query = 'select pg_sleep(601)' and state = 'active'";
            assert!(eventually(PATIENCE, || it.server.psql("postgres", sleeps) == "1"));
            Wire::open(it.proxy.clients).cancel(pid, &secret);
            assert_eq!(said(&client.read_until_ready()), "57014 canceling statement due to user request");
        }
    });
}

#[test]
fn rules_and_limits_of_the_other_branch_decide() {
    let rules = "[limits]\nmax_clients_per_branch = 1\n\
                 [[rule]]\nname = \"away\"\nbranch = \"main\"\nuser = \"post*\"\napplication = \"tool\"\naction = \"reroute\"\nto = \"feature/x\"\n";
    each(rules, |it| {
        // A rule sends whoever begins on main elsewhere.
        let mut client = Wire::connect(
            it.proxy.clients,
            &[("user", "postgres"), ("database", &it.app), ("application_name", "tool")],
        );
        assert_eq!(client.value("select pggit.current_branch()"), "feature/x");
        let refused = said(&client.ask(&query(BACK)));
        let why = "rule \"away\" sends sessions on it to branch \"feature/x\"";
        assert_eq!(refused, format!("55P02 this session cannot be moved to branch \"main\": {why}"));
        // Full is full, and who stays is counted as before.
        let mut other = it.client();
        let full =
            "53300 this session cannot be moved to branch \"feature/x\": too many connections for branch \"feature/x\"";
        assert_eq!(said(&other.ask(&query(SET))), full);
        assert_eq!(other.value("select current_database()"), it.app);
        drop(client);
        assert!(eventually(PATIENCE, || it.proxy.control("show clients branch") == "main"));
        assert!(eventually(PATIENCE, || tags(&other.ask(&query(SET))) == "CZ"));
        assert_eq!(other.value("select current_database()"), it.feature);
    });
}

#[test]
fn psql_moves_and_reconnects() {
    each("", |it| {
        let script = format!(
            "{SET};\nselect current_database();\n{BACK};\nselect current_database();\n{CHECKOUT};\nselect pggit.current_branch();\n\
             \\c {app}/main\nselect pggit.current_branch();\n\\c {app}/feature/x\nselect pggit.current_branch();\n{BACK};\nselect current_database();\n",
            app = it.app
        );
        let printed = it.proxy.psql(&it.app, &script);
        let values: Vec<&str> = printed.lines().filter(|line| !line.starts_with("You are")).collect();
        assert_eq!(values, [it.feature.as_str(), &it.app, "feature/x", "feature/x", "main", "feature/x", &it.app]);
    });
}

/// A user whom the server asks for a password.
#[test]
fn only_who_can_log_in_again_moves() {
    for version in versions() {
        let server =
            PgServer::with(version).hba("host all postgres all trust").hba("host all all all scram-sha-256").start();
        let (app, feature) = (server.create_database("app"), server.create_database("feature"));
        migrate(&server, &app);
        migrate(&server, &feature);
        server.psql(&app, "create role ann login password 'secret'");
        for mode in ["scram", "passthrough"] {
            let proxy = Proxy::start(&server, &config(&app, &feature, &format!("[auth]\nmode = \"{mode}\"")));
            let dsn = format!("{} password=secret", proxy.dsn(&app).replace("user=postgres", "user=ann"));
            let came = support::psql(&dsn, &format!("{SET};\nselect current_database(), current_user;\n"));
            let words = String::from_utf8_lossy(&came.stderr).into_owned();
            if mode == "scram" {
                assert_eq!(String::from_utf8_lossy(&came.stdout).trim(), "feature|ann", "{words}");
            } else {
                assert!(words.contains("55P02") && words.contains("the server asks for a password"), "{words}");
            }
        }
        // A server that refuses the user there: its own words, and the session goes on.
        server.psql(&app, "revoke connect on database feature from public");
        let proxy = Proxy::start(&server, &config(&app, &feature, "[auth]\nmode = \"scram\""));
        let dsn = format!("{} password=secret", proxy.dsn(&app).replace("user=postgres", "user=ann"));
        let script = format!("\\set ON_ERROR_STOP off\n{SET};\nselect current_database();\n");
        let came = support::psql(&dsn, &script);
        let words = String::from_utf8_lossy(&came.stderr).into_owned();
        assert!(words.contains("the server says \"permission denied for database \"feature\"\""), "{words}");
        assert_eq!(String::from_utf8_lossy(&came.stdout).trim(), "app");
    }
}
