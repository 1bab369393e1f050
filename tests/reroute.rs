//! Rules that reroute: a session or a statement goes to another branch as the same user, and both sides know it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use nix::sys::signal::Signal;
use support::wire::{V3_0, query};
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
