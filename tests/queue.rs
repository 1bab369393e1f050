//! The queue: what a rule makes wait for approval is not run, gets a number, and is applied once, as who asked for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use nix::sys::signal::Signal;
use support::requests::{RULE, control_error, each, each_version};
use support::wire::{V3_0, bind, close, describe, execute, extended, parse, query, said, sync, tags};
use support::{PATIENCE, PgServer, Proxy, Repository, Wire, eventually, migrate, psql, versions, wait_for};

impl Repository {
    /// `number status sql` of all requests.
    fn requests(&self) -> Vec<String> {
        let rows = self.sql("select concat_ws(' ', number, status, sql) from pggit.change_requests order by number");
        rows.lines().map(str::to_owned).collect()
    }

    /// Approved by somebody else, and applied.
    fn apply(&self, number: i64) {
        self.proxy.control(&format!("APPROVE CHANGE {number}; APPLY CHANGE {number}"));
    }

    /// A client who is no superuser and may make tables.
    fn developer(&self) -> Wire {
        self.sql(
            "do $$ begin create role dev login; exception when duplicate_object or unique_violation then null; end $$; \
             create schema if not exists work; grant all on schema work, public to dev",
        );
        self.login("dev")
    }

    fn login(&self, user: &str) -> Wire {
        let parameters = [("user", user), ("database", self.database.as_str()), ("application_name", "tool")];
        Wire::try_connect(self.proxy.clients, V3_0, &parameters).unwrap()
    }
}

#[test]
fn a_queued_statement_is_not_run_and_gets_a_number() {
    each_version(|r| {
        let mut client = r.client();
        let error = client.error("create table a (i int)");
        assert_eq!(error.field(b'C').unwrap(), "PG002");
        assert_eq!(error.field(b'M').unwrap(), "change request 1: CREATE TABLE waits for approval");
        assert_eq!(error.field(b'D').unwrap(), "Rule: ask; branch: main.");
        assert!(error.field(b'H').unwrap().contains("APPROVE CHANGE 1"), "{error:?}");
        assert!(!r.has("a"));
        // Reading, temporary objects and other branches are none of the rule's business.
        client.rows("select 1; create temp table mine (i int)");
        // A migration tool that runs again has the same number; another statement another one.
        assert_eq!(
            said(&r.client().ask(&query("create table a (i int)"))),
            said(&client.ask(&query("create table a (i int)")))
        );
        assert!(client.error("create table b (i int)").field(b'M').unwrap().starts_with("change request 2:"));
        assert_eq!(r.requests(), ["1 pending create table a (i int)", "2 pending create table b (i int)"]);
        let row = r.sql(
            "select author, branch, command_tag, class, objects, transactional, repeated, settings ->> 'standard_conforming_strings', \
             base_commit = (select commit_id from pggit.changes order by created_at desc, ordinal desc limit 1) \
             from pggit.change_requests where number = 1",
        );
        assert_eq!(row, "postgres|main|CREATE TABLE|ddl|{a}|t|2|on|t");
        // The statement log has each, the first with the request's own key.
        let logged = || {
            r.sql(
                "select string_agg(concat_ws(' ', verdict, rule, outcome, sqlstate), ', '), \
                 count(*) filter (where s.id in (select id from pggit.change_requests)) \
                 from pggit.statements s where command_tag = 'CREATE TABLE' and sql like '%(i int)' and verdict <> 'allow'",
            )
        };
        let one = "queue ask queued PG002";
        let wanted = format!("{}|2", [one; 4].join(", "));
        assert!(eventually(PATIENCE, || logged() == wanted), "{}", logged());
        assert_eq!(r.proxy.metric("pggit_proxy_verdicts_total{branch=\"main\",verdict=\"queue\"}"), Some(4.0));
        // It can be read with the control port's own words.
        let shown = r
            .proxy
            .control("SHOW CHANGES number, status, author, sql WHERE status = 'pending' ORDER BY number LIMIT 1");
        assert_eq!(shown, "1|pending|postgres|create table a (i int)");
        // Nobody writes the table himself.
        assert_eq!(client.error("update pggit.change_requests set status = 'approved'").field(b'C').unwrap(), "42501");
        assert_eq!(client.error("select pggit.note_author(null, '', '', '', '')").field(b'C').unwrap(), "42501");
    });
}

#[test]
fn every_way_of_sending_makes_one_request_for_each_statement() {
    each_version(|r| {
        let mut client = r.client();
        let count = || r.sql("select count(*) from pggit.change_requests");
        // In a transaction: it fails, as after any error.
        assert_eq!(tags(&client.ask(&query("begin"))), "CZ");
        assert_eq!(
            said(&client.ask(&query("create table a ()"))),
            "PG002 change request 1: CREATE TABLE waits for approval"
        );
        assert!(said(&client.ask(&query("create table b ()"))).starts_with("25P02"));
        assert_eq!(client.ask(&query("rollback")).len(), 2);
        assert_eq!(count(), "1", "what an aborted transaction would not have run makes no request");
        // Several in one text: each is a request, the client is told all numbers, and nothing of the text stays.
        client.rows("create temp table t (i int)");
        let several = client.ask(&query("insert into t values (1); create table c (); create table d (); select 1"));
        assert!(said(&several).starts_with("PG002 change request 2:"), "{several:?}");
        let error = several.iter().find(|message| message.tag == b'E').unwrap();
        assert_eq!(error.field(b'D').unwrap(), "Rule: ask; branch: main. Change requests: 2, 3.");
        assert_eq!(client.value("select count(*) from t"), "0");
        // Prepared and never executed: no request.
        let prepared = client.ask(&[parse("s", "create table e ()", &[]), describe(b'S', "s"), sync()].concat());
        assert_eq!(tags(&prepared), "1tnZ");
        assert_eq!(tags(&client.ask(&[bind("p", "s", &[]), sync()].concat())), "2Z");
        assert_eq!(count(), "3");
        for number in 4..=4 {
            let executed = client.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat());
            assert_eq!(tags(&executed), "2EZ");
            assert!(said(&executed).starts_with(&format!("PG002 change request {number}:")));
        }
        client.ask(&[close(b'S', "s"), sync()].concat());
        // Pipelined: what stands behind an error is not run, and makes no request.
        let pipelined = [extended("create table f ()", &[]), query("create table g ()")].concat();
        client.send(&pipelined);
        assert!(said(&client.read_until_ready()).starts_with("PG002 change request 5:"));
        assert!(said(&client.read_until_ready()).starts_with("PG002 change request 6:"));
        let failing = [
            parse("", "select 1/0", &[]),
            bind("", "", &[]),
            execute("", 0),
            parse("", "create table h ()", &[]),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ];
        assert!(said(&client.ask(&failing.concat())).starts_with("22012"));
        assert_eq!(count(), "6");
        let behind = [query("rollback"), query("begin"), query("create table i ()"), query("rollback")].concat();
        client.send(&behind);
        let answers: Vec<String> = (0..4).map(|_| tags(&client.read_until_ready())).collect();
        assert_eq!(answers, ["NCZ", "CZ", "EZ", "CZ"]);
        assert_eq!(count(), "7");
        assert_eq!(client.value("select 1"), "1");
        assert!(["a", "b", "c", "d", "e", "f", "g", "h", "i"].iter().all(|table| !r.has(table)));
    });
}

#[test]
fn what_cannot_be_kept_is_refused_with_the_reason() {
    let rules = "[limits]\nmax_logged_sql = \"2KiB\"\n[[rule]]\nname = \"ask\"\nclass = [\"ddl\", \"write\", \"opaque\"]\naction = \"queue\"\n";
    each(rules, |r| {
        let mut client = r.client();
        let long = format!("create table a (i int default {})", "1+".repeat(2000) + "1");
        for (sql, why) in [
            (long.as_str(), "its text cannot be kept exactly"),
            ("copy t from stdin", "its data come from the client"),
            ("execute s", "it runs a statement that only this session has prepared"),
        ] {
            let said = said(&client.ask(&query(sql)));
            assert!(said.starts_with("0A000") && said.contains(why), "{said}");
        }
        r.sql("create table t (i int)");
        let bound = client.ask(&extended("insert into t values ($1)", &[Some("1")]));
        assert!(said(&bound).contains("it has parameters"), "{bound:?}");
        assert_eq!(r.sql("select count(*) from t"), "0");
        // In another encoding only ASCII is the same to everybody.
        client.rows("set client_encoding = 'LATIN1'");
        assert!(said(&client.ask(&query("create table \"\u{e9}\" ()"))).starts_with("0A000"));
        assert_eq!(r.requests(), Vec::<String>::new());
        // Without parameters it is a request as any other.
        assert!(said(&client.ask(&extended("insert into t values (7)", &[]))).starts_with("PG002"));
        r.apply(1);
        assert_eq!(r.sql("select i from t"), "7");
    });
}

#[test]
fn an_approved_change_is_applied_as_its_author() {
    each_version(|r| {
        let mut dev = r.developer();
        assert!(said(&dev.ask(&query("create table work.t (i int)"))).starts_with("PG002"));
        assert!(r.control_error("APPLY CHANGE 1").contains("55000: change request 1 is pending"));
        r.apply(1);
        assert_eq!(r.sql("select tableowner from pg_tables where tablename = 't'"), "dev");
        let row = r.sql(
            "select h.change_type, h.object_identity, h.created_by, h.role_name, h.application_name, h.sql_executed, h.captured_by, \
             h.via_proxy, h.branch, h.statement_id = q.id, h.session_id = q.session_id, h.client_addr, k.message \
             from pggit.history h join pggit.commits k on k.id = h.commit_id, pggit.change_requests q where h.object_name = 't'",
        );
        assert_eq!(
            row,
            "CREATE|work.t|dev|dev|tool|create table work.t (i int)|trigger|t|main|t|t|127.0.0.1|change request 1, approved by admin"
        );
        let row =
            "select status, decided_by, applied_by, error is null, applied_at > decided_at from pggit.change_requests";
        assert_eq!(r.sql(row), "applied|admin|admin|t|t");
        assert!(r.control_error("APPLY CHANGE 1").contains("55000: change request 1 is applied"));
        assert!(r.control_error("APPROVE CHANGE 9").contains("22023: there is no change request 9"));
        // A role change, of which no event trigger reports, is recorded too.
        let name = format!("r_{}", r.database);
        r.client().ask(&query(&format!("create role {name}")));
        r.apply(2);
        let row = format!("select change_type, created_by from pggit.history where object_name = '{name}'");
        assert_eq!(r.sql(&row), "CREATE|postgres");
        r.sql(&format!("drop role {name}"));
        // The sealed history still fits together.
        r.sql("select pggit.seal()");
        assert_eq!(r.sql("select count(*) from pggit.verify()"), "0");
    });
}

#[test]
fn a_change_that_fails_leaves_nothing_and_gives_no_role_away() {
    each_version(|r| {
        let mut dev = r.developer();
        // Not the author's to do.
        r.sql("create table theirs (i int)");
        dev.ask(&query("alter table public.theirs add column j int"));
        r.sql("create table since ()");
        r.proxy.control("APPROVE CHANGE 1");
        let failed = r.control_error("APPLY CHANGE 1");
        assert!(
            failed.contains("change request 1 failed: must be owner of table theirs; the branch has changed"),
            "{failed}"
        );
        assert_eq!(r.sql("select status from pggit.change_requests"), "failed");
        // What the author's functions do while it is applied they do as the author.
        r.sql(
            "create function work.take() returns int language plpgsql as $$ begin execute 'reset role'; return 1; end $$; \
             alter function work.take() owner to dev",
        );
        dev.ask(&query("create table work.u as select work.take()"));
        r.proxy.control("APPROVE CHANGE 2");
        let failed = r.control_error("APPLY CHANGE 2");
        assert!(failed.contains("cannot set parameter \"role\" within security-definer function"), "{failed}");
        // A role that is gone.
        dev.ask(&query("create table work.v ()"));
        r.proxy.control("APPROVE CHANGE 3");
        r.sql("update pggit.change_requests set author = 'nobody_here' where number = 3");
        assert!(r.control_error("APPLY CHANGE 3").contains("the recorder cannot act as nobody_here"));
        assert_eq!(r.sql("select status, error is not null from pggit.change_requests where number = 3"), "approved|t");
        assert!(!r.has("work.u") && !r.has("work.v"));
        assert_eq!(r.sql("select count(*) from pggit.applied_requests"), "0");
    });
}

#[test]
fn names_mean_what_they_meant_to_the_author() {
    each_version(|r| {
        let mut dev = r.developer();
        r.sql(&format!("alter role dev in database \"{}\" set search_path = work, public", r.database));
        drop(dev);
        dev = r.login("dev");
        dev.ask(&query("create table plain (i int)"));
        r.apply(1);
        assert!(r.has("work.plain"));
        // From PostgreSQL 18 on the server reports the path of each session.
        if dev.parameter("search_path").is_some() {
            dev.rows("set search_path = public");
            dev.ask(&query("create table plain (i int)"));
            r.apply(2);
            assert!(r.has("public.plain"));
        }
    });
}

#[test]
fn an_author_does_not_approve_himself_unless_he_may() {
    each_version(|r| {
        let config = |more: &str| format!("[upstream]\ndbname = \"{}\"\n{RULE}{more}", r.database);
        let users = "[[control.users]]\nname = \"postgres\"\npassword = \"x\"\nrole = \"admin\"\n\
                     [[control.users]]\nname = \"ann\"\npassword = \"x\"\nrole = \"admin\"\n\
                     [[control.users]]\nname = \"eye\"\npassword = \"x\"\n";
        r.proxy.rewrite(&config(users));
        r.proxy.control("RELOAD");
        let ask = |user: &str, command: &str| {
            let dsn = format!("host=127.0.0.1 port={} user={user} password=x dbname=pggit", r.proxy.control.port());
            String::from_utf8_lossy(&psql(&dsn, command).stderr).into_owned()
        };
        r.client().ask(&query("create table a ()"));
        r.client().ask(&query("create table b ()"));
        assert!(ask("postgres", "APPROVE CHANGE 1").contains("42501: change request 1 was asked for by postgres"));
        assert!(ask("eye", "APPROVE CHANGE 1").contains("42501: permission denied"));
        assert!(ask("eye", "APPLY CHANGE 1").contains("42501: permission denied"));
        assert_eq!(ask("ann", "APPROVE CHANGE 1"), "");
        // Who asked may apply what somebody else approved, and take his own request back.
        assert_eq!(ask("postgres", "APPLY CHANGE 1"), "");
        assert!(r.has("a"));
        assert_eq!(ask("postgres", "REJECT CHANGE 2 BECAUSE 'no longer needed'"), "");
        assert_eq!(
            r.sql("select status, reason, decided_by from pggit.change_requests where number = 2"),
            "rejected|no longer needed|postgres"
        );
        assert!(ask("ann", "APPROVE CHANGE 2").contains("55000: change request 2 is rejected"));
        // Sent again it is a new request.
        r.proxy.rewrite(&config(&format!("[changes]\nself_approval = true\n{users}")));
        assert_eq!(ask("ann", "RELOAD"), "");
        assert!(said(&r.client().ask(&query("create table b ()"))).starts_with("PG002 change request 3:"));
        assert_eq!(ask("postgres", "APPROVE CHANGE 3"), "");
    });
}

#[test]
fn a_request_whose_time_is_over_is_not_applied() {
    each(&format!("{RULE}expires = \"1s\"\n"), |r| {
        let mut client = r.client();
        client.ask(&query("create table a ()"));
        // The sweep of any proxy finds it.
        assert!(eventually(PATIENCE, || r.sql("select status from pggit.change_requests") == "expired"));
        assert!(r.control_error("APPROVE CHANGE 1").contains("55000: change request 1 is expired"));
        assert!(said(&client.ask(&query("create table a ()"))).starts_with("PG002 change request 2:"));
        r.sql("update pggit.change_requests set status = 'approved', expires_at = clock_timestamp() where number = 2");
        assert!(r.control_error("APPLY CHANGE 2").contains("55000: change request 2 is expired"));
        assert!(!r.has("a"));
    });
}

#[test]
fn a_change_is_applied_although_the_branch_has_moved_if_it_still_works() {
    each_version(|r| {
        let mut client = r.client();
        client.ask(&query("create table a ()"));
        client.ask(&query("alter table later add column j int"));
        r.sql("create table later (i int)");
        r.apply(1);
        r.apply(2);
        assert_eq!(r.sql("select count(*) from pg_attribute where attrelid = 'later'::regclass and attnum > 0"), "2");
    });
}

#[test]
fn locks_are_waited_for_and_given_up() {
    each(&format!("[changes]\nlock_timeout = \"50ms\"\n{RULE}"), |r| {
        r.sql("create table t (i int)");
        r.client().ask(&query("alter table public.t add column j int"));
        r.proxy.control("APPROVE CHANGE 1");
        let mut holder = Wire::connect(r.server.address, &[("user", "postgres"), ("database", &r.database)]);
        holder.rows("begin; select * from t");
        let error = r.control_error("APPLY CHANGE 1");
        assert!(
            error.contains("could not be applied now: canceling statement due to lock timeout (tried 5 times)"),
            "{error}"
        );
        assert_eq!(r.sql("select status from pggit.change_requests"), "approved");
        holder.rows("rollback");
        r.proxy.control("APPLY CHANGE 1");
        assert_eq!(r.sql("select status, error is null from pggit.change_requests"), "applied|t");
    });
}

#[test]
fn what_cannot_run_in_a_transaction_is_applied_with_an_intent() {
    each_version(|r| {
        let mut dev = r.developer();
        r.sql("create table work.t (i int); insert into work.t values (1), (1); alter table work.t owner to dev");
        dev.ask(&query("create index concurrently i on work.t (i)"));
        dev.ask(&query("create unique index concurrently u on work.t (i)"));
        r.apply(1);
        let row = "select h.created_by, h.captured_by, i.outcome, q.status from pggit.history h, pggit.intents i, pggit.change_requests q \
                   where h.object_name = 'i' and i.id = q.id and q.number = 1";
        assert_eq!(r.sql(row), "dev|trigger|applied|applied");
        r.proxy.control("APPROVE CHANGE 2");
        assert!(r.control_error("APPLY CHANGE 2").contains("change request 2 failed: could not create unique index"));
        assert!(
            r.sql("select reason from pggit.intents where outcome = 'failed'")
                .contains("left behind, not whole: work.u")
        );
        assert_eq!(r.sql("select count(*) from pggit.intents where outcome is null"), "0");
    });
}

#[test]
fn what_runs_concurrently_is_applied_however_long_it_waits() {
    each(&format!("{RULE}[changes]\nlock_timeout = \"10ms\"\n"), |r| {
        r.sql("create table t (i int)");
        r.client().ask(&query("create index concurrently i on t (i)"));
        r.proxy.control("APPROVE CHANGE 1");
        let mut holder = Wire::connect(r.server.address, &[("user", "postgres"), ("database", &r.database)]);
        holder.rows("begin; insert into t values (1)");
        std::thread::scope(|scope| {
            let applied = scope.spawn(|| r.proxy.control("APPLY CHANGE 1"));
            // More than all tries of what can be tried again would take together.
            let waits = "select clock_timestamp() - query_start > '3s' from pg_stat_activity where wait_event_type = 'Lock' \
                         and query like 'create index concurrently%'";
            assert!(eventually(PATIENCE, || r.sql(waits) == "t"), "it does not wait: {}", r.proxy.log());
            holder.rows("commit");
            applied.join().unwrap();
        });
        assert_eq!(r.sql("select status from pggit.change_requests"), "applied");
        assert_eq!(r.sql("select indisvalid from pg_index where indexrelid = 'i'::regclass"), "t");
    });
}

/// A second proxy on the same repository.
fn another(r: &Repository) -> Proxy {
    Proxy::start(r.server, &format!("[upstream]\ndbname = \"{}\"\n{RULE}", r.database))
}

#[test]
fn two_proxies_apply_a_change_once() {
    each_version(|r| {
        let second = another(r);
        r.client().ask(&query("create table a ()"));
        assert!(
            said(&second.connect(&r.database).ask(&query("create table a ()"))).starts_with("PG002 change request 1:")
        );
        second.control("APPROVE CHANGE 1");
        // Held up in the middle by a lock that the statement needs.
        let mut holder = Wire::connect(r.server.address, &[("user", "postgres"), ("database", &r.database)]);
        holder.rows("begin; create table a ()");
        std::thread::scope(|scope| {
            let first = scope.spawn(|| psql(&r.proxy.control_dsn(), "APPLY CHANGE 1"));
            let waits =
                "select count(*) from pg_stat_activity where query like '%pggit_apply%' and wait_event_type = 'Lock'";
            assert!(eventually(PATIENCE, || r.sql(waits) == "1"), "it does not wait");
            assert!(control_error(&second, "APPLY CHANGE 1").contains("55006: change request 1 is just being applied"));
            assert!(control_error(&second, "REJECT CHANGE 1 BECAUSE 'late'").contains("55006"));
            holder.rows("rollback");
            assert!(first.join().unwrap().status.success());
        });
        assert!(control_error(&second, "APPLY CHANGE 1").contains("is applied"));
        assert_eq!(r.sql("select count(*) from pggit.history where object_name = 'a'"), "1");
    });
}

#[test]
fn a_proxy_that_is_killed_while_applying_leaves_it_to_another() {
    each_version(|r| {
        let mut second = another(r);
        r.client().ask(&query("create table a as select 1 as i"));
        r.proxy.control("APPROVE CHANGE 1");
        let mut holder = Wire::connect(r.server.address, &[("user", "postgres"), ("database", &r.database)]);
        holder.rows("begin; create table a ()");
        std::thread::scope(|scope| {
            let applying = scope.spawn(|| psql(&second.control_dsn(), "APPLY CHANGE 1"));
            let waits =
                "select count(*) from pg_stat_activity where query like '%pggit_apply%' and wait_event_type = 'Lock'";
            assert!(eventually(PATIENCE, || r.sql(waits) == "1"), "it does not wait");
            second.signal(Signal::SIGKILL);
            assert!(!applying.join().unwrap().status.success());
        });
        second.wait_exit(PATIENCE).expect("killed");
        holder.rows("rollback");
        let applied = || psql(&r.proxy.control_dsn(), "APPLY CHANGE 1").status.success();
        assert!(eventually(PATIENCE, applied), "the other proxy cannot apply it");
        assert_eq!(r.sql("select count(*) from a"), "1");
        // Committed, and the proxy ended before it could say so: found, not done again.
        r.sql("update pggit.change_requests set status = 'approved', applied_at = null");
        r.sql("insert into a values (2)");
        r.proxy.control("APPLY CHANGE 1");
        assert_eq!(r.sql("select status from pggit.change_requests"), "applied");
        assert_eq!(r.sql("select count(*) from a"), "2");
        assert_eq!(r.sql("select count(*) from pggit.applied_requests"), "1");
    });
}

#[test]
fn without_event_triggers_it_is_recorded_all_the_same() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("app");
        support::migrate_without_triggers(server, &database);
        let proxy = Proxy::start(server, &format!("[upstream]\ndbname = \"{database}\"\n{RULE}"));
        let mut client = proxy.connect(&database);
        client.ask(&query("create table a ()"));
        proxy.control("APPROVE CHANGE 1; APPLY CHANGE 1");
        client.ask(&query("drop table a"));
        proxy.control("APPROVE CHANGE 2; APPLY CHANGE 2");
        let rows = server.psql(
            &database,
            "select concat_ws(' ', change_type, object_identity, captured_by, created_by, sql_executed) from pggit.history \
             where change_type <> 'BASELINE' order by created_at, ordinal",
        );
        assert_eq!(
            rows,
            "CREATE public.a inject postgres create table a ()\nDROP public.a inject postgres drop table a"
        );
    }
}

#[test]
fn without_a_repository_that_can_be_written_nothing_is_queued() {
    each(&format!("[history]\ntimeout = \"1s\"\n{RULE}"), |r| {
        let mut client = r.client();
        r.sql("alter table pggit.change_requests rename to gone");
        let error = client.error("create table a ()");
        assert_eq!(error.field(b'C').unwrap(), "PG003");
        r.sql("alter table pggit.gone rename to change_requests");
        assert!(said(&client.ask(&query("create table a ()"))).starts_with("PG002"));
    });
}

#[test]
fn the_queue_is_bounded() {
    each(&format!("[changes]\nmax_open = 2\n{RULE}"), |r| {
        let mut client = r.client();
        for table in ["a", "b", "a"] {
            assert!(said(&client.ask(&query(&format!("create table {table} ()")))).starts_with("PG002"));
        }
        let refused = said(&client.ask(&query("create table c ()")));
        assert!(
            refused.starts_with("PG003") && refused.contains("there are 2 open change requests already"),
            "{refused}"
        );
        r.proxy.control("REJECT CHANGE 1 BECAUSE 'no'");
        assert!(said(&client.ask(&query("create table c ()"))).starts_with("PG002"));
    });
}

#[test]
fn a_change_waits_for_its_branch_in_another_database() {
    for version in versions() {
        let server = PgServer::shared(version);
        let (app, feature) = (server.unique_database("app"), server.unique_database("feat"));
        migrate(server, &app);
        migrate(server, &feature);
        let rule = RULE.replace("\"main\"", "\"feature/*\"");
        let config =
            format!("[upstream]\ndbname = \"{app}\"\n[branches.\"feature/x\"]\ndatabase = \"{feature}\"\n{rule}");
        let proxy = Proxy::start(server, &config);
        proxy.connect(&app).rows("create table free ()");
        let mut client = proxy.connect(&format!("{app}/feature/x"));
        assert!(said(&client.ask(&query("create table a ()"))).starts_with("PG002 change request 1:"));
        assert_eq!(server.psql(&feature, "select count(*) from pggit.change_requests"), "0");
        assert_eq!(
            server.psql(&app, "select branch, database = current_database() from pggit.change_requests"),
            "feature/x|f"
        );
        proxy.control("APPROVE CHANGE 1; APPLY CHANGE 1");
        assert_eq!(server.psql(&feature, "select branch from pggit.history where object_name = 'a'"), "feature/x");
        let status = wait_for("the status", || {
            let status = server.psql(&app, "select status from pggit.change_requests");
            (status == "applied").then_some(status)
        });
        assert_eq!(status, "applied");
    }
}

/// Sends it, and returns when its client waits for the decision on this request.
fn wait_with(r: &Repository, client: &mut Wire, bytes: &[u8], number: i64) {
    client.send(bytes);
    let open = format!("select count(*) from pggit.change_requests where number = {number} and status = 'pending'");
    assert!(eventually(PATIENCE, || r.sql(&open) == "1"), "no request {number}");
    let waits = || r.proxy.control("SHOW CLIENTS state WHERE state = 'waiting'") == "waiting";
    assert!(eventually(PATIENCE, waits), "the client does not wait");
}

fn each_waiting(test: impl Fn(&Repository)) {
    each(&format!("{RULE}wait = \"10min\"\n"), test);
}

#[test]
fn a_client_that_waits_goes_on_when_it_is_approved() {
    each_waiting(|r| {
        let mut client = r.client();
        wait_with(r, &mut client, &query("create table a ()"), 1);
        r.proxy.control("APPROVE CHANGE 1");
        assert_eq!(tags(&client.read_until_ready()), "CZ");
        assert!(r.has("a"));
        let row = "select status, applied_by, applied_at is not null from pggit.change_requests where number = 1";
        assert!(eventually(PATIENCE, || r.sql(row) == "applied|postgres|t"), "{}", r.sql(row));
        let logged = "select s.verdict, s.rule, s.outcome from pggit.statements s join pggit.change_requests q on q.run_id = s.id";
        assert_eq!(r.sql(logged), "queue|ask|applied");
        assert_eq!(
            r.sql("select count(*) from pggit.history where object_name = 'a' and captured_by = 'trigger'"),
            "1"
        );
        assert!(r.control_error("APPLY CHANGE 1").contains("is applied"));
        // In a transaction, prepared, and what cannot run in one. What is sent meanwhile waits behind it.
        client.rows("begin");
        let pipelined = [extended("create table b ()", &[]), query("select 7")].concat();
        wait_with(r, &mut client, &pipelined, 2);
        r.proxy.control("APPROVE CHANGE 2");
        assert_eq!(tags(&client.read_until_ready()), "12nCZ");
        assert_eq!(tags(&client.read_until_ready()), "TDCZ");
        assert_eq!(r.sql("select status from pggit.change_requests where number = 2"), "approved", "it may roll back");
        assert!(r.control_error("APPLY CHANGE 2").contains("55006"), "its client is at it");
        client.rows("commit");
        assert!(r.has("b"));
        r.sql("create table c (i int)");
        wait_with(r, &mut client, &query("create index concurrently i on c (i)"), 3);
        r.proxy.control("APPROVE CHANGE 3");
        assert_eq!(tags(&client.read_until_ready()), "CZ");
        assert_eq!(r.sql("select count(*) from pggit.intents i join pggit.change_requests q on q.run_id = i.id"), "1");
        // It may fail at the server.
        wait_with(r, &mut client, &query("create table a ()"), 4);
        r.proxy.control("APPROVE CHANGE 4");
        assert!(said(&client.read_until_ready()).starts_with("42P07"));
        let failed = "select status, error from pggit.change_requests where number = 4";
        let wanted = "approved|relation \"a\" already exists";
        assert!(eventually(PATIENCE, || r.sql(failed) == wanted), "{}", r.sql(failed));
    });
}

#[test]
fn a_client_that_waits_is_told_of_every_other_end() {
    each_waiting(|r| {
        let mut client = r.client();
        wait_with(r, &mut client, &query("create table a ()"), 1);
        r.proxy.control("REJECT CHANGE 1 BECAUSE 'not today'");
        assert_eq!(
            said(&client.read_until_ready()),
            "PG002 change request 1: CREATE TABLE was rejected by admin: not today"
        );
        wait_with(r, &mut client, &query("create table a ()"), 2);
        r.sql("update pggit.change_requests set expires_at = clock_timestamp() where number = 2");
        assert_eq!(said(&client.read_until_ready()), "PG002 change request 2: CREATE TABLE is expired");
        // A cancel request reaches the statement although it is at no server.
        wait_with(r, &mut client, &query("create table a ()"), 3);
        let (pid, secret) = client.key();
        Wire::open(r.proxy.clients).cancel(pid, &secret);
        let error = said(&client.read_until_ready());
        assert_eq!(error, "57014 canceling statement due to user request");
        assert_eq!(client.value("select 1"), "1");
        // A client that leaves, or is killed, leaves the request in the queue.
        wait_with(r, &mut client, &query("create table a ()"), 3);
        drop(client);
        assert!(eventually(PATIENCE, || r.proxy.control("SHOW CLIENTS id").is_empty()), "it is still there");
        client = r.client();
        wait_with(r, &mut client, &query("create table a ()"), 3);
        let id = r.proxy.control("SHOW CLIENTS id");
        r.proxy.control(&format!("KILL {id}"));
        assert!(said(&client.read_to_end()).starts_with("57P01"));
        assert_eq!(r.sql("select status, repeated from pggit.change_requests where number = 3"), "pending|2");
        // Nobody waits any more: it is applied as any other.
        r.apply(3);
        assert!(r.has("a"));
    });
}

#[test]
fn a_process_that_ends_does_not_wait_for_decisions() {
    for version in versions() {
        let mut r = Repository::new(version, &format!("{RULE}wait = \"10min\"\n"));
        let mut client = r.client();
        wait_with(&r, &mut client, &query("create table a ()"), 1);
        r.proxy.control("SHUTDOWN");
        let answers = client.read_to_end();
        assert!(said(&answers).starts_with("PG002 change request 1: CREATE TABLE waits"), "{answers:?}");
        assert_eq!(answers.last().unwrap().field(b'C').unwrap(), "57P01");
        assert!(r.proxy.wait_exit(PATIENCE).is_some_and(|status| status.success()));
        assert_eq!(r.sql("select status from pggit.change_requests"), "pending");
    }
}

#[test]
fn a_client_waits_no_longer_than_the_rule_says() {
    each(&format!("{RULE}wait = \"1s\"\n"), |r| {
        let mut client = r.client();
        assert_eq!(
            said(&client.ask(&query("create table a ()"))),
            "PG002 change request 1: CREATE TABLE waits for approval"
        );
        assert_eq!(r.sql("select status from pggit.change_requests"), "pending");
        // Several of one text do not wait.
        let several = client.ask(&query("create table b (); create table c ()"));
        assert!(said(&several).starts_with("PG002 change request 2:"));
    });
}

#[test]
fn a_recorder_without_rights_acts_only_as_its_members() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("app");
        let (recorder, author) = (format!("{database}_recorder"), format!("{database}_author"));
        server.psql(
            "postgres",
            &format!("create role {recorder} login; create role {author} login; alter database {database} owner to {recorder}"),
        );
        server.psql(&database, &format!("grant create on schema public to {author}"));
        let url = server.url(&database).replace("postgres@", &format!("{recorder}@"));
        let output = support::proxy::run(&["migrate", "up", "--database-url", &url]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let proxy =
            Proxy::start(server, &format!("[upstream]\ndbname = \"{database}\"\nuser = \"{recorder}\"\n{RULE}"));
        let mut client = Wire::try_connect(proxy.clients, V3_0, &[("user", &author), ("database", &database)]).unwrap();
        assert!(said(&client.ask(&query("create table a (i int)"))).starts_with("PG002"));
        proxy.control("APPROVE CHANGE 1");
        let error = control_error(&proxy, "APPLY CHANGE 1");
        assert!(
            error.contains(&format!("the recorder cannot act as {author}: permission denied to set role")),
            "{error}"
        );
        server.psql("postgres", &format!("grant {author} to {recorder}"));
        proxy.control("APPLY CHANGE 1");
        client.ask(&query("create index concurrently i on a (i)"));
        proxy.control("APPROVE CHANGE 2; APPLY CHANGE 2");
        let rows = server.psql(
            &database,
            "select concat_ws(' ', h.change_type, h.object_identity, h.captured_by, h.created_by, h.role_name, \
             (select tableowner from pg_tables where tablename = 'a')) \
             from pggit.history h where h.object_name in ('a', 'i') order by h.created_at",
        );
        let author_twice = format!("{author} {author} {author}");
        assert_eq!(rows, format!("CREATE public.a inject {author_twice}\nCREATE public.i intent {author_twice}"));
        drop((client, proxy));
        server.psql(&database, &format!("drop owned by {author}"));
        server.psql("postgres", &format!("drop database {database}; drop role {author}, {recorder}"));
    }
}
