//! Rules that reroute: a session or a statement goes to another branch as the same user, and both sides know it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use nix::sys::signal::Signal;
use support::wire::{V3_0, bind, close, describe, execute, extended, parse, query, sync, tags};
use support::{Message, PATIENCE, PgServer, Proxy, Wire, eventually, migrate, versions};

/// A repository with the branches `main` and `staging`.
struct Repository {
    server: &'static PgServer,
    app: String,
    staging: String,
    proxy: Proxy,
}

fn config(app: &str, staging: &str, rules: &str) -> String {
    format!("[upstream]\ndbname = \"{app}\"\n[branches.staging]\ndatabase = \"{staging}\"\n{rules}")
}

fn each(rules: &str, test: impl Fn(&Repository)) {
    for version in versions() {
        let server = PgServer::shared(version);
        let (app, staging) = (server.unique_database("app"), server.unique_database("staging"));
        migrate(server, &app);
        migrate(server, &staging);
        let proxy = Proxy::start(server, &config(&app, &staging, rules));
        test(&Repository { server, app, staging, proxy });
    }
}

impl Repository {
    fn try_login(&self, database: &str, user: &str, application: &str) -> Result<Wire, Vec<Message>> {
        let parameters = [("user", user), ("database", database), ("application_name", application)];
        Wire::try_connect(self.proxy.clients, V3_0, &parameters)
    }

    fn login(&self, user: &str, application: &str) -> Wire {
        self.try_login(&self.app, user, application).unwrap()
    }

    /// The SQLSTATE and the message that a login fails with.
    fn refused(&self, database: &str) -> String {
        match self.try_login(database, "postgres", "") {
            Ok(_) => panic!("was let in"),
            Err(messages) => said(messages.last().unwrap()),
        }
    }

    fn has(&self, database: &str, table: &str) -> bool {
        self.server.psql(database, &format!("select to_regclass('{table}') is not null")) == "t"
    }

    /// `branch|rerouted_from|created_by` of the rows about an object.
    fn history(&self, database: &str, object: &str) -> String {
        let sql = "select branch, rerouted_from, created_by from pggit.history where object_name";
        self.server.psql(database, &format!("{sql} = '{object}' order by created_at, ordinal"))
    }
}

fn said(message: &Message) -> String {
    format!("{} {}", message.field(b'C').unwrap(), message.field(b'M').unwrap())
}

fn notices(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag == b'N').map(said).collect()
}

const SESSIONS: &str =
    "[[rule]]\nname = \"tools\"\nbranch = \"main\"\napplication = \"tool*\"\naction = \"reroute\"\nto = \"staging\"\n";

#[test]
fn a_session_goes_where_the_rule_says_and_both_sides_know() {
    each(SESSIONS, |it| {
        it.server.psql(
            &it.app,
            "do $$ begin create role visitor login; exception when duplicate_object or unique_violation then null; end $$",
        );
        it.server.psql(&it.staging, "grant create on schema public to visitor");
        let mut client = it.login("visitor", "tool 1");
        let notice = "00000 this session is on branch \"staging\", not on \"main\"";
        assert_eq!(notices(&client.greeting), [notice]);
        let tags: String = client.greeting.iter().map(|message| char::from(message.tag)).collect();
        assert!(tags.ends_with("KNZ"), "the last word before the first ReadyForQuery: {tags}");
        assert_eq!(client.value("select current_database()"), it.staging);
        assert_eq!(client.value("select session_user || ' ' || pggit.current_branch()"), "visitor staging");
        client.rows("create table seen ()");
        assert!(it.has(&it.staging, "seen") && !it.has(&it.app, "seen"));
        assert_eq!(it.history(&it.staging, "seen"), "staging|main|visitor");
        assert_eq!(it.proxy.control("show clients branch, rerouted_from where user = 'visitor'"), "staging|main");
        let row = "show history branch, rerouted_from where object_name = 'seen'";
        assert_eq!(it.proxy.control(row), "staging|main");
        // Whoever is not meant is told nothing, and stays.
        let mut other = it.login("postgres", "psql");
        assert_eq!(notices(&other.greeting), Vec::<String>::new());
        assert_eq!(other.value("select current_database()"), it.app);
        other.rows("create table stays ()");
        assert_eq!(it.history(&it.app, "stays"), "main||postgres");
        // Who asked for the other branch was not rerouted.
        let mut direct = it.try_login(&format!("{}/staging", it.app), "postgres", "tool 2").unwrap();
        assert_eq!(notices(&direct.greeting), Vec::<String>::new());
        direct.rows("create table asked_for ()");
        assert_eq!(it.history(&it.staging, "asked_for"), "staging||postgres");
        // Nobody makes the history say otherwise: not openly, not by a computed name, not at login.
        for sql in ["set pggit.rerouted_from = ''", "select set_config('pggit.rerouted_from', 'x', false)"] {
            assert_eq!(client.error(sql).field(b'C').unwrap(), "42501", "{sql}");
        }
        client.rows("do $$ begin perform set_config('pgg' || 'it.rerouted_from', '', false); end $$");
        client.rows("create table forged ()");
        assert_eq!(it.history(&it.staging, "forged"), "staging|main|visitor");
        // It is sealed with the rest of the row: whoever edits it is found.
        let verify =
            || support::proxy::run(&["verify", "--database-url", &it.server.url(&it.staging)]).status.success();
        let open = "select count(*) from pggit.changes c where not exists (select from pggit.seals s where s.commit_id = c.commit_id)";
        assert!(eventually(PATIENCE, || it.server.psql(&it.staging, open) == "0"));
        assert!(verify());
        it.server.psql(&it.staging, "update pggit.changes set rerouted_from = null where object_name = 'forged'");
        assert!(!verify());
        let forged = [("user", "postgres"), ("database", it.app.as_str()), ("pggit.rerouted_from", "x")];
        let error = Wire::try_connect(it.proxy.clients, V3_0, &forged).map(|_| ()).unwrap_err();
        assert_eq!(error.last().unwrap().field(b'C').unwrap(), "42501");
    });
}

#[test]
fn a_session_that_cannot_go_there_is_refused_with_the_reason() {
    let missing = SESSIONS.replace("application = \"tool*\"\n", "").replace("staging", "nowhere");
    each(&missing, |it| {
        assert_eq!(it.refused(&it.app), "3D000 this session is rerouted to branch \"nowhere\", which does not exist");
        let mut client = it.try_login(&format!("{}/staging", it.app), "postgres", "").unwrap();
        assert_eq!(client.value("select current_database()"), it.staging);
        // As soon as the branch is there, it works.
        let late = it.server.unique_database("late");
        migrate(it.server, &late);
        it.server.psql(&it.app, &format!("insert into pggit.branches (name, database) values ('nowhere', '{late}')"));
        assert!(eventually(PATIENCE, || it.try_login(&it.app, "postgres", "").is_ok()));
        assert_eq!(it.login("postgres", "").value("select current_database()"), late);
        // From branch to branch; the history names the one that was asked for.
        let onward = "[[rule]]\nname = \"on\"\nbranch = \"nowhere\"\naction = \"reroute\"\nto = \"staging\"\n";
        it.proxy.rewrite(&config(&it.app, &it.staging, &format!("{missing}{onward}")));
        it.proxy.signal(Signal::SIGHUP);
        let there = || {
            it.try_login(&it.app, "postgres", "")
                .is_ok_and(|mut client| client.value("select current_database()") == it.staging)
        };
        assert!(eventually(PATIENCE, there));
        it.login("postgres", "").rows("create table by_two_rules ()");
        assert_eq!(it.history(&it.staging, "by_two_rules"), "staging|main|postgres");
        drop(client.ask(&query("select 1")));
    });
}

const DDL: &str = "[[rule]]\nname = \"ddl\"\nbranch = \"main\"\nclass = [\"ddl\", \"role\"]\naction = \"reroute\"\nto = \"staging\"\n";

const SENT: &str = "00000 CREATE TABLE was sent to branch \"staging\", and is answered from there";

/// SQLSTATE and message of the error.
fn error(messages: &[Message]) -> String {
    said(messages.iter().find(|message| message.tag == b'E').unwrap_or_else(|| panic!("no error in {messages:?}")))
}

/// What a refusal says after the reason's colon.
fn why(messages: &[Message]) -> String {
    let error = error(messages);
    let (head, why) = error.split_once("cannot be rerouted: ").unwrap_or_else(|| panic!("{error}"));
    assert!(head.starts_with("PG004 "), "{error}");
    why.to_owned()
}

#[test]
fn a_statement_is_run_on_the_other_branch_and_answered_from_there() {
    each(DDL, |it| {
        let mut client = it.login("postgres", "psql");
        let pid = client.value("select pg_backend_pid()");
        let answer = client.ask(&query("create table sent (i int)"));
        assert_eq!(tags(&answer), "NCZ");
        assert_eq!(notices(&answer), [SENT]);
        assert_eq!(answer[0].field(b'D').unwrap(), "Rule: ddl; branch: main.");
        assert_eq!(answer[1].command_tag(), "CREATE TABLE");
        assert!(it.has(&it.staging, "sent") && !it.has(&it.app, "sent"));
        assert_eq!(it.history(&it.staging, "sent"), "staging|main|postgres");
        // Its own notices and errors, with their places in the client's text.
        let answer = client.ask(&query("/* why */ create table if not exists sent (i int)"));
        assert_eq!(tags(&answer), "NNCZ");
        assert_eq!(notices(&answer)[1], "42P07 relation \"sent\" already exists, skipping");
        let answer = client.ask(&query("/* \u{e9} */ create table bad (i nosuchtype)"));
        assert_eq!(tags(&answer), "NEZ");
        assert_eq!(error(&answer), "42704 type \"nosuchtype\" does not exist");
        assert_eq!(answer[1].field(b'P').unwrap(), "29");
        // Everything else is as before: the same server process, nothing of it elsewhere.
        assert_eq!(client.value("select pg_backend_pid()"), pid);
        assert_eq!(client.value("select current_database()"), it.app);
        client.rows("create temp table mine (i int); insert into mine values (1)");
        assert_eq!(client.value("select count(*) from mine"), "1");
        // What cannot run in a transaction goes, too, and so do roles.
        let role = format!("made_{}", it.staging);
        assert_eq!(tags(&client.ask(&query("create index concurrently sent_i on sent (i)"))), "NCZ");
        assert_eq!(tags(&client.ask(&query(&format!("create role {role}")))), "NCZ");
        assert_eq!(it.history(&it.staging, "sent_i"), "staging|main|postgres");
        assert_eq!(it.history(&it.staging, &role), "staging|main|postgres");
        it.server.psql("postgres", &format!("drop role {role}"));
        // A failed CREATE INDEX CONCURRENTLY leaves something behind, of which only the intent tells.
        it.server.psql(&it.staging, "insert into sent values (1), (1)");
        assert!(error(&client.ask(&query("create unique index concurrently twice on sent (i)"))).starts_with("23505"));
        assert_eq!(it.history(&it.staging, "twice"), "staging|main|postgres");
        // The statement log has it on both branches.
        let log = |branch: &str| {
            let sql = "select string_agg(concat_ws(' ', verdict, rule, outcome, sqlstate, rerouted_to), ', ' order by started_at) \
                       from pggit.statements where command_tag = 'CREATE TABLE' and sql not like '%temp%' and branch";
            it.server.psql(&it.app, &format!("{sql} = '{branch}'"))
        };
        let main = "reroute ddl rerouted staging, reroute ddl rerouted staging, reroute ddl failed 42704 staging";
        assert!(eventually(PATIENCE, || log("main") == main), "{}", log("main"));
        let staging = "allow applied, allow applied, allow failed 42704";
        assert!(eventually(PATIENCE, || log("staging") == staging), "{}", log("staging"));
        assert_eq!(
            it.proxy.metric("pggit_proxy_ddl_total{branch=\"main\",tag=\"CREATE TABLE\",outcome=\"rerouted\"}"),
            Some(2.0)
        );
        assert_eq!(it.proxy.metric("pggit_proxy_verdicts_total{branch=\"main\",verdict=\"reroute\"}"), Some(6.0));
        // Nobody but the client was there.
        assert_eq!(it.proxy.metric("pggit_proxy_clients{branch=\"staging\"}").unwrap_or(0.0), 0.0);
        assert_eq!(it.proxy.control("show clients branch"), "main");
    });
}

#[test]
fn the_session_is_carried_along() {
    each(DDL, |it| {
        for database in [&it.app, &it.staging] {
            it.server.psql(
                database,
                "do $$ begin create role maker nologin; exception when duplicate_object or unique_violation then null; end $$; \
                 create schema work; grant all on schema work to maker",
            );
        }
        // A function that is there only tells what it sees: the table's name.
        it.server.psql(
            &it.staging,
            "create function work.seen() returns event_trigger language plpgsql security definer as $f$ begin \
             if tg_tag <> 'CREATE TABLE' then return; end if; \
             raise notice '%', concat_ws('|', current_setting('search_path'), current_setting('role'), current_setting('application_name'), \
             current_setting('work_mem'), current_setting('DateStyle'), current_setting('app.who', true), \
             current_setting('app.other', true), current_setting('statement_timeout')); end $f$; \
             create event trigger zz_seen on ddl_command_end execute function work.seen()",
        );
        let mut client = Wire::connect(
            it.proxy.clients,
            &[
                ("user", "postgres"),
                ("database", &it.app),
                ("application_name", "one"),
                ("options", "-c statement_timeout=9s"),
            ],
        );
        client.rows("set search_path = work, pg_catalog; set application_name = 'it''s \\ two'; set work_mem = '7MB'; set datestyle = german");
        client.rows("set app.who = 'ann'; set pggit.message = 'why'");
        client.rows("select set_config('app.other', 'x,y', false)");
        client.rows("set role maker");
        let answer = client.ask(&query("create table here (i int)"));
        let seen = "00000 work, pg_catalog|maker|it's \\ two|7MB|German, DMY|ann|x,y|9s";
        assert_eq!(notices(&answer), [SENT, seen], "{answer:?}");
        assert_eq!(
            it.server.psql(
                &it.staging,
                "select branch, rerouted_from, object_identity, created_by, role_name, application_name \
                 from pggit.history where object_name = 'here'"
            ),
            "staging|main|work.here|postgres|maker|it's \\ two"
        );
        assert_eq!(it.server.psql(&it.staging, "select message from pggit.changes where object_name = 'here'"), "why");
        assert_eq!(client.value("show search_path"), "work, pg_catalog", "nothing was changed in the session");
        // What the user may not do there he may not do here, either.
        it.server.psql(&it.staging, "revoke all on schema work from maker");
        assert_eq!(error(&client.ask(&query("create table work.no ()"))), "42501 permission denied for schema work");
        // In another encoding: the bytes are the client's.
        client.rows("reset role; set client_encoding = 'LATIN1'; reset search_path");
        client.send(&support::wire::frame(b'Q', b"create table \"caf\xe9\" ()\0"));
        assert_eq!(tags(&client.read_until_ready()), "NNCZ");
        assert!(it.has(&it.staging, "\"caf\u{e9}\""));
        // A setting that cannot be carried: nothing is run.
        client.rows("set client_encoding = 'UTF8'");
        client.rows(&format!("set app.long = '{}'", "x".repeat(70_000)));
        let refused = client.ask(&query("create table no ()"));
        assert_eq!(why(&refused), "its settings cannot be read (the value of \"app.long\" is too long)");
        assert!(!it.has(&it.staging, "no") && !it.has(&it.app, "no"));
        assert_eq!(client.value("select 1"), "1");
    });
}

#[test]
fn every_way_of_sending_is_rerouted_or_refused_with_the_reason() {
    each(DDL, |it| {
        let mut client = it.login("postgres", "psql");
        let here = |table: &str| it.has(&it.staging, table) && !it.has(&it.app, table);
        let nowhere = |table: &str| !it.has(&it.staging, table) && !it.has(&it.app, table);
        // Extended, unnamed and prepared, with Describe and without.
        let answer = client.ask(&extended("create table a ()", &[]));
        assert_eq!(tags(&answer), "12nNCZ", "{answer:?}");
        assert!(here("a"));
        assert_eq!(
            tags(&client.ask(&[parse("s", "create table b ()", &[]), describe(b'S', "s"), sync()].concat())),
            "1tnZ"
        );
        assert!(nowhere("b"), "it is only prepared");
        assert_eq!(tags(&client.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat())), "2NCZ");
        assert!(here("b"));
        let again = client.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat());
        assert_eq!((tags(&again).as_str(), error(&again).as_str()), ("2NEZ", "42P07 relation \"b\" already exists"));
        assert_eq!(client.value("select 1"), "1");
        // What is closed before the Sync is closed.
        let closing =
            [parse("t", "create table b2 ()", &[]), bind("", "t", &[]), execute("", 0), close(b'S', "t"), sync()];
        assert_eq!(tags(&client.ask(&closing.concat())), "12NC3Z");
        assert!(here("b2"));
        // Parts that arrive one by one: the Sync decides.
        for part in [parse("", "create table c ()", &[]), bind("", "", &[]), execute("", 0)] {
            client.send(&part);
        }
        client.send(&sync());
        assert_eq!(tags(&client.read_until_ready()), "12NCZ");
        assert!(here("c"));
        // Pipelined with others, each behind its own Sync or in its own Query: in order.
        let pipeline = [
            query("select 1"),
            extended("create table d ()", &[]),
            query("create table e ()"),
            extended("select 2", &[]),
            query("select 3"),
        ];
        client.send(&pipeline.concat());
        let answers: Vec<String> = (0..5).map(|_| tags(&client.read_until_ready())).collect();
        assert_eq!(answers, ["TDCZ", "12nNCZ", "NCZ", "12TDCZ", "TDCZ"]);
        assert!(here("d") && here("e"));
        // A named portal of the client's own, and its unnamed statement, are as they were.
        client.ask(&[parse("", "select 'mine'", &[]), sync()].concat());
        assert_eq!(
            tags(
                &client
                    .ask(&[parse("q", "create table f ()", &[]), bind("", "q", &[]), execute("", 0), sync()].concat())
            ),
            "12NCZ"
        );
        let mine = client.ask(&[bind("", "", &[]), execute("", 0), sync()].concat());
        assert_eq!(mine[1].values()[0].as_deref(), Some(&b"mine"[..]));

        // Not alone: refused, and nothing of it is anywhere.
        let several = client.ask(&query("create table g (); select 1"));
        assert_eq!(why(&several), "it is one of several statements in one text");
        let both = client.ask(&query("select 1; create table g ()"));
        assert_eq!(why(&both), "it is one of several statements in one text");
        assert_eq!(tags(&client.ask(&query("begin"))), "CZ");
        let inside = client.ask(&query("create table g ()"));
        assert_eq!((tags(&inside).as_str(), why(&inside).as_str()), ("EZ", "it is inside a transaction"));
        assert_eq!(inside[0].field(b'D').unwrap(), "Rule: ddl; branch: main.");
        assert!(inside[0].field(b'H').unwrap().contains("\"staging\""), "{inside:?}");
        assert!(error(&client.ask(&query("create table g ()"))).starts_with("25P02"), "the transaction has failed");
        assert_eq!(client.ask(&query("rollback")).len(), 2);
        client.rows("begin");
        let inside = client.ask(&extended("create table g ()", &[]));
        assert_eq!((tags(&inside).as_str(), why(&inside).as_str()), ("12nEZ", "it is inside a transaction"));
        client.rows("rollback");
        let batch = [
            parse("", "select 1", &[]),
            bind("", "", &[]),
            execute("", 0),
            parse("", "create table g ()", &[]),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ];
        let piped = client.ask(&batch.concat());
        assert_eq!(tags(&piped), "12DC12EZ");
        assert_eq!(why(&piped), "something else was executed before it in the same pipeline");
        let first = [
            parse("", "create table g ()", &[]),
            bind("", "", &[]),
            execute("", 0),
            parse("", "select 1", &[]),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ];
        let piped = client.ask(&first.concat());
        assert_eq!((tags(&piped).as_str(), why(&piped).as_str()), ("12EZ", "no Sync follows it at once"));
        // A Query in an open batch.
        let open = [parse("x", "select 1", &[]), query("create table g ()")].concat();
        client.send(&open);
        let answer = client.read_until_ready();
        assert_eq!(why(&answer), "messages of the extended protocol before it have had no Sync", "{answer:?}");
        let bound = client.ask(&extended("create table g as select $1 as one", &[Some("1")]));
        assert_eq!(why(&bound), "it has parameters");
        // Behind an error it is not run, and nobody is told that it was.
        let failing = [
            parse("", "select 1/0", &[]),
            bind("", "", &[]),
            execute("", 0),
            parse("", "create table g ()", &[]),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ];
        let failed = client.ask(&failing.concat());
        assert!(error(&failed).starts_with("22012") && !tags(&failed).contains('N'), "{failed:?}");
        assert_eq!(why(&client.ask(&query("create tabel g ()"))), "it cannot be read");
        assert!(nowhere("g"));
        assert_eq!(client.value("select 1"), "1");
        // Each of these is in the statement log: sent, or refused.
        let counts = || {
            it.server.psql(
                &it.app,
                "select string_agg(o, ' ' order by o) from (select outcome || ' ' || count(*) o from pggit.statements \
                 where branch = 'main' and verdict = 'reroute' group by outcome) c",
            )
        };
        assert!(eventually(PATIENCE, || counts() == "failed 1 refused 9 rerouted 7"), "{}", counts());
    });
}

#[test]
fn the_other_branch_has_its_own_word() {
    let rules = format!(
        "{DDL}[branches.guarded]\ndatabase = \"GUARDED\"\nprotected = true\n\
         [[rule]]\nname = \"views\"\nbranch = \"staging\"\ntag = \"CREATE VIEW\"\naction = \"queue\"\n\
         [[rule]]\nname = \"on\"\nbranch = \"staging\"\ntag = \"CREATE SEQUENCE\"\naction = \"reroute\"\nto = \"guarded\"\n\
         [[rule]]\nname = \"guard\"\nbranch = \"other\"\naction = \"reroute\"\nto = \"guarded\"\n"
    );
    for version in versions() {
        let server = PgServer::shared(version);
        let [app, staging, guarded] = ["app", "staging", "guarded"].map(|name| {
            let database = server.unique_database(name);
            migrate(server, &database);
            database
        });
        let config = |rules: &str| config(&app, &staging, &rules.replace("GUARDED", &guarded));
        let proxy = Proxy::start(server, &config(&rules));
        let mut client = proxy.connect(&app);
        // Frozen there, queued there, sent on from there.
        proxy.control("REFUSE DDL ON BRANCH staging");
        assert_eq!(
            error(&client.ask(&query("create table a ()"))),
            "42501 CREATE TABLE refused: branch \"staging\" is frozen"
        );
        proxy.control("ALLOW DDL ON BRANCH staging");
        assert_eq!(tags(&client.ask(&query("create table a ()"))), "NCZ");
        let queued = error(&client.ask(&query("create view v as select 1")));
        assert_eq!(queued, "0A000 CREATE VIEW cannot wait for approval: a rule has sent it here from another branch");
        let sent_on = client.ask(&query("create sequence s"));
        assert_eq!(why(&sent_on), "a rule has sent it here already");
        assert_eq!(server.psql(&app, "select count(*) from pggit.change_requests"), "0");
        // Protected there.
        proxy.rewrite(&config(&rules.replacen("to = \"staging\"", "to = \"guarded\"", 1)));
        proxy.signal(Signal::SIGHUP);
        let refused = "42501 CREATE TABLE on protected branch \"guarded\" refused";
        assert!(eventually(PATIENCE, || {
            let answer = client.ask(&query("create table if not exists a ()"));
            answer.iter().any(|message| message.tag == b'E' && said(message) == refused)
        }));
        // Not there at all.
        proxy.rewrite(&config(&rules.replacen("to = \"staging\"", "to = \"nowhere\"", 1)));
        proxy.signal(Signal::SIGHUP);
        assert!(eventually(PATIENCE, || {
            let answer = client.ask(&query("create table if not exists a ()"));
            tags(&answer).contains('E') && why_or(&answer) == "branch \"nowhere\" does not exist"
        }));
        for database in [&app, &guarded] {
            assert_eq!(server.psql(database, "select to_regclass('a') is null and to_regclass('v') is null"), "t");
        }
    }
}

fn why_or(messages: &[Message]) -> String {
    let error = error(messages);
    error.split_once("cannot be rerouted: ").map(|(_, why)| why.to_owned()).unwrap_or(error)
}

/// A table on staging that a transaction of the test holds: DDL on it waits.
fn hold(it: &Repository) -> Wire {
    it.server.psql(&it.staging, "create table held (i int)");
    let mut holder = Wire::connect(it.server.address, &[("user", "postgres"), ("database", &it.staging)]);
    holder.rows("begin; lock table held in access exclusive mode");
    holder
}

/// Waits until somebody's statement waits for a lock there.
fn somebody_waits(it: &Repository) {
    let waits = format!(
        "select count(*) from pg_stat_activity where datname = '{}' and wait_event_type = 'Lock' and query like 'alter table held%'",
        it.staging
    );
    assert!(eventually(PATIENCE, || it.server.psql("postgres", &waits) == "1"), "nobody waits");
}

fn nobody_waits(it: &Repository) {
    let there = format!(
        "select count(*) from pg_stat_activity where datname = '{}' and query like 'alter table held%'",
        it.staging
    );
    assert!(eventually(PATIENCE, || it.server.psql("postgres", &there) == "0"), "somebody is still there");
}

const ALTER: &str = "alter table held add column added int";

impl Repository {
    fn outcome(&self, branch: &str) -> String {
        let sql = "select concat_ws(' ', outcome, sqlstate) from pggit.statements where sql like 'alter table held%' and branch";
        self.server.psql(&self.app, &format!("{sql} = '{branch}'"))
    }
}

#[test]
fn a_cancel_request_reaches_the_statement_wherever_it_is() {
    each(DDL, |it| {
        let holder = hold(it);
        let mut client = it.login("postgres", "psql");
        let (pid, secret) = client.key();
        client.send(&query(ALTER));
        somebody_waits(it);
        assert_eq!(it.proxy.control("show clients state where user = 'postgres'"), "waiting");
        Wire::open(it.proxy.clients).cancel(pid, &secret);
        let answer = client.read_until_ready();
        assert_eq!(tags(&answer), "NEZ");
        assert_eq!(error(&answer), "57014 canceling statement due to user request");
        nobody_waits(it);
        // And again the session's own server.
        client.send(&query("select pg_sleep(600)"));
        let sleeps = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'";
        assert!(eventually(PATIENCE, || it.server.psql("postgres", sleeps) == "1"));
        Wire::open(it.proxy.clients).cancel(pid, &secret);
        assert_eq!(error(&client.read_until_ready()), "57014 canceling statement due to user request");
        drop(holder);
        assert!(eventually(PATIENCE, || it.outcome("main") == "failed 57014"));
    });
}

#[test]
fn a_session_that_ends_meanwhile_leaves_nothing_and_its_outcome_is_known() {
    each(DDL, |it| {
        let holder = hold(it);
        // KILL: the statement is cancelled.
        let mut client = it.login("postgres", "psql");
        client.send(&query(ALTER));
        somebody_waits(it);
        let id = it.proxy.control("show clients id where user = 'postgres'");
        it.proxy.control(&format!("KILL {id}"));
        let last = client.read_to_end();
        assert_eq!(error(&last), "57P01 terminating connection due to administrator command");
        nobody_waits(it);
        assert!(eventually(PATIENCE, || it.outcome("main") == "failed 57014"), "{}", it.outcome("main"));
        it.server.psql(&it.app, "delete from pggit.statements");
        // The other server process is lost: the client hears that nobody knows, and goes on.
        let mut client = it.login("postgres", "psql");
        client.send(&query(ALTER));
        somebody_waits(it);
        it.server.psql(
            "postgres",
            &format!(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}' and query = '{ALTER}'",
                it.staging
            ),
        );
        let lost = error(&client.read_until_ready());
        assert!(
            lost.starts_with("08006 ALTER TABLE was sent to branch \"staging\", and nobody knows what became of it"),
            "{lost}"
        );
        assert_eq!(client.value("select 1"), "1");
        assert!(eventually(PATIENCE, || it.outcome("main") == "unknown 08006"), "{}", it.outcome("main"));
        it.server.psql(&it.app, "delete from pggit.statements");
        // PAUSE does not hold what is under way, and the process' end waits for it.
        client.send(&query(ALTER));
        somebody_waits(it);
        it.proxy.signal(Signal::SIGTERM);
        drop(holder);
        assert_eq!(tags(&client.read_until_ready()), "NCZ");
        assert_eq!(error(&client.read_to_end()), "57P01 terminating connection due to administrator command");
        assert_eq!(it.history(&it.staging, "held").lines().last(), Some("staging|main|postgres"));
        assert!(eventually(PATIENCE, || it.outcome("main") == "rerouted"), "{}", it.outcome("main"));
    });
}

#[test]
fn a_pause_holds_no_statement_that_is_under_way() {
    each(DDL, |it| {
        let holder = hold(it);
        let mut client = it.login("postgres", "psql");
        client.send(&query(ALTER));
        somebody_waits(it);
        let dsn = it.proxy.control_dsn();
        let pause = std::thread::spawn(move || support::psql(&dsn, "PAUSE"));
        assert!(eventually(PATIENCE, || it.proxy.control("show version state") == "paused"));
        drop(holder);
        assert_eq!(tags(&client.read_until_ready()), "NCZ");
        assert!(pause.join().unwrap().status.success());
        it.proxy.control("RESUME");
        assert_eq!(tags(&client.ask(&query("create table after_it ()"))), "NCZ");
    });
}

#[test]
fn without_event_triggers_the_history_knows_it_too() {
    for version in versions() {
        let server = PgServer::shared(version);
        let [app, staging] = ["app", "staging"].map(|name| {
            let database = server.unique_database(name);
            support::migrate_without_triggers(server, &database);
            database
        });
        let proxy = Proxy::start(server, &config(&app, &staging, &format!("{DDL}{SESSIONS}")));
        let it = Repository { server, app, staging, proxy };
        let mut client = it.login("postgres", "psql");
        assert_eq!(tags(&client.ask(&query("create table a (i int)"))), "NCZ");
        assert_eq!(tags(&client.ask(&extended("create table b (i int)", &[]))), "12nNCZ");
        assert_eq!(tags(&client.ask(&query("create index concurrently a_i on a (i)"))), "NCZ");
        it.login("postgres", "tool").rows("create table c ()");
        for object in ["a", "b", "c", "a_i"] {
            assert_eq!(it.history(&it.staging, object), "staging|main|postgres", "{object}");
        }
        let ids = "select count(*) from pggit.changes where statement_id is not null and rerouted_from = 'main'";
        assert_eq!(it.server.psql(&it.staging, ids), "4");
    }
}

#[test]
fn a_session_whose_settings_cannot_be_read_keeps_its_statement_and_goes_on() {
    each(DDL, |it| {
        it.server.psql(
            &it.app,
            "do $$ begin create role plain login; exception when duplicate_object or unique_violation then null; end $$; \
             revoke select on pg_catalog.pg_settings from public",
        );
        it.server.psql(&it.staging, "grant create on schema public to plain");
        let mut client = it.login("plain", "psql");
        let reason = "its settings cannot be read (permission denied for view pg_settings)";
        for _ in 0..2 {
            let answer = client.ask(&query("create table a ()"));
            assert_eq!((tags(&answer).as_str(), why(&answer).as_str()), ("EZ", reason));
            let answer = client.ask(&extended("create table a ()", &[]));
            assert_eq!((tags(&answer).as_str(), why(&answer).as_str()), ("12nEZ", reason));
            assert_eq!(client.value("select 1"), "1");
        }
        let refused = "select count(*) from pggit.statements where verdict = 'reroute' and outcome = 'refused' and sqlstate = 'PG004'";
        assert!(eventually(PATIENCE, || it.server.psql(&it.app, refused) == "4"));
        it.server.psql(&it.app, "grant select on pg_catalog.pg_settings to public");
        assert_eq!(tags(&client.ask(&query("create table a ()"))), "NCZ");
        assert_eq!(tags(&client.ask(&extended("create table b ()", &[]))), "12nNCZ");
        assert!(it.has(&it.staging, "a") && it.has(&it.staging, "b") && !it.has(&it.app, "a"));
    });
}

#[test]
fn a_rule_that_goes_away_does_not_make_a_statement_run_twice() {
    each(DDL, |it| {
        let holder = hold(it);
        it.server.psql(&it.app, "create table held (i int)");
        let mut client = it.login("postgres", "psql");
        client.send(&query(ALTER));
        somebody_waits(it);
        it.proxy.rewrite(&config(&it.app, &it.staging, ""));
        it.proxy.signal(Signal::SIGHUP);
        assert!(eventually(PATIENCE, || it.proxy.control("show rules").is_empty()));
        drop(holder);
        assert_eq!(tags(&client.read_until_ready()), "NCZ");
        let columns = "select count(*) from pg_attribute where attrelid = 'held'::regclass and attname = 'added'";
        assert_eq!((it.server.psql(&it.app, columns), it.server.psql(&it.staging, columns)), ("0".into(), "1".into()));
        client.rows("create table stays_here ()");
        assert!(it.has(&it.app, "stays_here"));
    });
}

/// A user whom the server asks for a password, with each way to log in.
#[test]
fn the_same_user_logs_in_again_where_the_proxy_can() {
    for version in versions() {
        let server = PgServer::with(version)
            .hba("host all postgres all trust")
            .hba("host guarded all all reject")
            .hba("host all all all scram-sha-256")
            .start();
        let (app, staging) = (server.create_database("app"), server.create_database("staging"));
        let guarded = server.create_database("guarded");
        for database in [&app, &staging, &guarded] {
            migrate(&server, database);
            server.psql(database, "grant create on schema public to public");
        }
        server.psql(&app, "create role ann login password 'secret'");
        for mode in ["scram", "passthrough"] {
            let proxy = Proxy::start(&server, &format!("[auth]\nmode = \"{mode}\"\n{}", config(&app, &staging, DDL)));
            let dsn = format!("{} password=secret", proxy.dsn(&app).replace("user=postgres", "user=ann"));
            let came = support::psql(&dsn, &format!("create table by_{mode} ()"));
            let words = String::from_utf8_lossy(&came.stderr).into_owned();
            if mode == "scram" {
                assert!(words.contains("NOTICE:  00000: CREATE TABLE was sent to branch \"staging\""), "{words}");
                assert_eq!(
                    server.psql(&staging, "select tableowner from pg_tables where tablename = 'by_scram'"),
                    "ann"
                );
                // The key is that of the password that was proven: with another one it opens nothing.
                let script = "\\! true\ncreate table one ();\n\\! PGPASSWORD= psql -X -q -h 127.0.0.1 -p PORT -U postgres -d app -c \
                     \"alter role ann password 'other'\"\ncreate table two ();\n";
                let script = script.replace("PORT", &server.address.port().to_string());
                let came = support::psql(&dsn, &script);
                let words = String::from_utf8_lossy(&came.stderr).into_owned();
                assert!(words.contains("PG004") && words.contains("the user's password has changed"), "{words}");
                server.psql(&app, "alter role ann password 'secret'");
                assert_eq!(
                    server.psql(&staging, "select to_regclass('one') is not null, to_regclass('two') is null"),
                    "t|t"
                );
                // What the server refuses there is the reason.
                let rules = DDL.replace("staging", "guarded");
                let more = format!("[branches.guarded]\ndatabase = \"guarded\"\n{rules}");
                let other =
                    Proxy::start(&server, &format!("[auth]\nmode = \"{mode}\"\n{}", config(&app, &staging, &more)));
                let dsn = format!("{} password=secret", other.dsn(&app).replace("user=postgres", "user=ann"));
                let words = String::from_utf8_lossy(&support::psql(&dsn, "create table three ()").stderr).into_owned();
                assert!(
                    words.contains("cannot be rerouted: the server says \"pg_hba.conf rejects connection"),
                    "{words}"
                );
            } else {
                let why = "cannot be rerouted: the server asks for a password, which the proxy does not know (auth.mode = \"scram\" helps)";
                assert!(words.contains(why) && !came.status.success(), "{words}");
                assert_eq!(server.psql(&staging, "select to_regclass('by_passthrough') is null"), "t");
            }
            // Whoever is asked for nothing goes anyway.
            let words = String::from_utf8_lossy(&proxy.try_psql(&app, &format!("create table free_{mode} ()")).stderr)
                .into_owned();
            assert!(words.contains("was sent to branch"), "{words}");
        }
    }
}

#[test]
fn the_other_branch_checks_what_is_sent_there() {
    let linted = |action: &str| format!("lint = \"{action}\"\nlint_exclude = \"require-timeout-settings\"\n{DDL}");
    let sql = "create table if not exists checked (a char(3))";
    let found = "01000 ban-char-field: Using `character` is likely a mistake and should almost always be replaced by \
                 `text` or `varchar`";
    each(&linted("warn"), |it| {
        let mut client = it.login("postgres", "psql");
        for bytes in [query(sql), extended(sql, &[])] {
            let answer = client.ask(&bytes);
            assert_eq!(notices(&answer)[..2], [SENT, found], "{answer:?}");
        }
        assert!(it.has(&it.staging, "checked"));
    });
    each(&linted("refuse"), |it| {
        let answer = it.login("postgres", "psql").ask(&query(sql));
        assert_eq!(error(&answer), "42501 CREATE TABLE refused by lint: ban-char-field");
        assert!(!it.has(&it.staging, "checked"));
    });
    each(&linted("queue"), |it| {
        let answer = it.login("postgres", "psql").ask(&query(sql));
        let why = "0A000 CREATE TABLE cannot wait for approval: a rule has sent it here from another branch";
        assert_eq!(error(&answer), why);
    });
}
