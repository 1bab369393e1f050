//! An approved change request that its author runs himself: in his own transaction, and once, whoever else tries.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::requests::{RULE, each, each_version};
use support::wire::{V3_0, bind, describe, execute, extended, parse, query, said, sync, tags};
use support::{Message, PATIENCE, PgServer, Proxy, Repository, Wire, eventually, versions};

impl Repository {
    /// `number status` of all requests.
    fn requests(&self) -> String {
        self.sql("select string_agg(concat_ws(' ', number, status), ', ' order by number) from pggit.change_requests")
    }

    fn becomes(&self, requests: &str) {
        assert!(eventually(PATIENCE, || self.requests() == requests), "{} is not {requests}", self.requests());
    }

    fn approve(&self, numbers: impl IntoIterator<Item = i64>) {
        numbers.into_iter().for_each(|number| drop(self.proxy.control(&format!("APPROVE CHANGE {number}"))));
    }

    /// Sent once, it is a request; approved.
    fn approved(&self, sql: &str, number: i64) {
        let said = said(&self.client().ask(&query(sql)));
        assert!(said.starts_with(&format!("PG002 change request {number}:")), "{said}");
        self.approve([number]);
    }

    /// Somebody waits for a lock on the row that says that a request is applied.
    fn waits_for_the_row(&self) -> bool {
        let waits =
            "select count(*) from pg_stat_activity where wait_event = 'transactionid' and datname = current_database()";
        eventually(PATIENCE, || self.sql(waits) == "1")
    }
}

#[test]
fn once_it_is_approved_its_author_runs_it() {
    each_version(|r| {
        let mut client = r.client();
        let error = client.error("create table a (i int)");
        assert_eq!(error.field(b'C').unwrap(), "PG002");
        assert_eq!(
            error.field(b'H').unwrap(),
            "Nothing was run. An administrator decides on the control port with APPROVE CHANGE 1 or REJECT CHANGE 1 BECAUSE '…'. \
             Once it is approved, run it again; or APPLY CHANGE 1 runs it."
        );
        r.approve([1]);
        // Somebody else's, or another text, is another request.
        r.sql(
            "do $$ begin create role dev login; exception when duplicate_object or unique_violation then null; end $$",
        );
        let parameters = [("user", "dev"), ("database", r.database.as_str())];
        let mut dev = Wire::try_connect(r.proxy.clients, V3_0, &parameters).unwrap();
        assert!(said(&dev.ask(&query("create table a (i int)"))).starts_with("PG002 change request 2:"));
        assert!(said(&client.ask(&query("create table a (j int)"))).starts_with("PG002 change request 3:"));
        assert_eq!(tags(&client.ask(&query("create table a (i int)"))), "CZ");
        r.becomes("1 applied, 2 pending, 3 pending");
        let row = r.sql(
            "select q.applied_by, q.applied_at > q.decided_at, q.repeated, s.verdict, s.rule, s.outcome, a.rejected is null \
             from pggit.change_requests q join pggit.statements s on s.id = q.run_id join pggit.applied_requests a on a.id = q.id",
        );
        assert_eq!(row, "postgres|t|1|queue|ask|applied|t");
        let row = r.sql(
            "select h.change_type, h.captured_by, h.sql_executed, k.message from pggit.history h \
             join pggit.commits k on k.id = h.commit_id where h.object_name = 'a'",
        );
        assert_eq!(row, "CREATE|trigger|create table a (i int)|change request 1, approved by admin");
        // It is used up.
        assert!(r.control_error("APPLY CHANGE 1").contains("55000: change request 1 is applied"));
        client.ask(&query("drop table a"));
        assert!(said(&client.ask(&query("create table a (i int)"))).starts_with("PG002 change request 5:"));
        r.sql("select pggit.seal()");
        assert_eq!(r.sql("select count(*) from pggit.verify()"), "0");
    });
}

#[test]
fn it_is_applied_together_with_its_transaction() {
    each_version(|r| {
        r.approved("create table a ()", 1);
        let mut client = r.client();
        client.rows("begin; create table a (); rollback");
        let error = "select error from pggit.change_requests";
        assert!(eventually(PATIENCE, || r.sql(error) == "it was run and rolled back"));
        client.rows("begin; savepoint s");
        assert_eq!(tags(&client.ask(&query("create table a ()"))), "CZ");
        client.rows("rollback to s; commit");
        client.rows("begin");
        assert_eq!(tags(&client.ask(&query("create table a ()"))), "CZ");
        drop(client);
        assert!(eventually(PATIENCE, || r.proxy.control("SHOW CLIENTS id").is_empty()));
        assert_eq!((r.requests().as_str(), r.has("a")), ("1 approved", false));
        assert_eq!(r.sql("select count(*) from pggit.applied_requests"), "0");
        // What was let through in time counts.
        let mut client = r.client();
        r.approved("create table b ()", 2);
        client.rows("begin");
        assert_eq!(tags(&client.ask(&query("create table b ()"))), "CZ");
        r.sql("update pggit.change_requests set expires_at = clock_timestamp() where number = 2");
        r.becomes("1 approved, 2 expired");
        client.rows("commit");
        r.becomes("1 approved, 2 applied");
        // Prepared, it is nobody's to say until it ends.
        client.rows("begin");
        assert_eq!(tags(&client.ask(&query("create table a ()"))), "CZ");
        let gid = format!("{}_gid", r.database);
        client.rows(&format!("prepare transaction '{gid}'"));
        assert!(r.control_error("APPLY CHANGE 1").contains("55006"));
        assert_eq!(r.requests(), "1 approved, 2 applied");
        r.sql(&format!("commit prepared '{gid}'"));
        r.becomes("1 applied, 2 applied");
        assert!(r.has("a"));
        assert_eq!(r.sql("select applied_by from pggit.change_requests where number = 1"), "postgres");
    });
}

#[test]
fn a_migration_in_one_transaction_passes_statement_by_statement() {
    each_version(|r| {
        let migration = [
            "begin",
            "create table a (i int)",
            "create table b (i int)",
            "alter table a add j int",
            "insert into a values (1, 2)",
            "commit",
        ];
        // As a tool does it: up to the first error, and then away.
        let run = || {
            let mut client = r.client();
            migration.iter().map(|sql| tags(&client.ask(&query(sql)))).find(|tags| tags.contains('E')).is_none()
        };
        for number in 1..=3 {
            assert!(!run(), "nobody has approved {number}");
            assert!(eventually(PATIENCE, || r.requests().ends_with(&format!("{number} pending"))), "{}", r.requests());
            r.approve([number]);
            assert!(!r.has("a"), "it is rolled back");
        }
        assert!(run());
        r.becomes("1 applied, 2 applied, 3 applied");
        assert_eq!(r.sql("select i + j from a"), "3");
        let message = r.sql("select message, changes from pggit.commits where message ~ 'change request'");
        let one = |number| format!("change request {number}, approved by admin");
        assert_eq!(message, format!("{}\n{}\n{}|3", one(1), one(2), one(3)));
        // And several in one text: none of it runs before all may.
        let text = "create table c (); select 1; create table d (); create index on a (i)";
        let mut client = r.client();
        let error = said(&client.ask(&query(text)));
        assert_eq!(error, "PG002 change request 4: CREATE TABLE waits for approval");
        r.approve([4, 6]);
        let answers = client.ask(&query(text));
        assert_eq!(said(&answers), "PG002 change request 5: CREATE TABLE waits for approval");
        let error = answers.iter().find(|message| message.tag == b'E').unwrap();
        assert_eq!(error.field(b'D').unwrap(), "Rule: ask; branch: main.");
        r.approve([5]);
        assert_eq!(tags(&client.ask(&query(text))), "CTDCCCZ");
        r.becomes("1 applied, 2 applied, 3 applied, 4 applied, 5 applied, 6 applied");
        // A text that ends its transactions itself.
        let text = "begin; create table e (); commit; create table f ()";
        client.ask(&query(text));
        client.ask(&query("rollback"));
        r.approve([7, 8]);
        assert_eq!(tags(&client.ask(&query(text))), "CCCCZ");
        assert!(r.has("e") && r.has("f"));
    });
}

#[test]
fn every_way_of_sending_runs_it() {
    each_version(|r| {
        let mut client = r.client();
        let create = |name: &str| format!("create table {name} ()");
        for (number, name) in ["a", "b", "c", "d", "e"].iter().enumerate() {
            r.approved(&create(name), number as i64 + 1);
        }
        assert_eq!(tags(&client.ask(&extended(&create("a"), &[]))), "12nCZ");
        // Prepared by name, in a transaction, executed twice: the second time it is used up.
        let prepared = client.ask(&[parse("s", &create("b"), &[]), describe(b'S', "s"), sync()].concat());
        assert_eq!(tags(&prepared), "1tnZ");
        client.rows("begin");
        let executed = [bind("", "s", &[]), execute("", 0), sync()].concat();
        assert_eq!(tags(&client.ask(&executed)), "2CZ");
        assert_eq!(said(&client.ask(&executed)), "PG002 change request 2 is applied already, or was rejected");
        client.rows("rollback");
        assert_eq!(tags(&client.ask(&executed)), "2CZ");
        // A batch with others, and what comes behind it without waiting.
        let step = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
        let batch =
            [step("select 1"), step(&create("c")), step("select 2"), step(&create("d")), sync(), query("select 3")];
        client.send(&batch.concat());
        assert_eq!(tags(&client.read_until_ready()), "12DC12C12DC12CZ");
        assert_eq!(tags(&client.read_until_ready()), "TDCZ");
        // A batch that fails leaves it as it was.
        assert_eq!(
            said(&client.ask(&[step(&create("e")), step("select 1/0"), sync()].concat())),
            "22012 division by zero"
        );
        r.becomes("1 applied, 2 applied, 3 applied, 4 applied, 5 approved");
        let pipelined = [query("begin"), query(&create("e")), query("commit")].concat();
        client.send(&pipelined);
        let answers: Vec<String> = (0..3).map(|_| tags(&client.read_until_ready())).collect();
        assert_eq!(answers, ["CZ", "CZ", "CZ"]);
        r.becomes("1 applied, 2 applied, 3 applied, 4 applied, 5 applied");
        assert_eq!(r.sql("select count(*) from pggit.applied_requests"), "5");
    });
}

#[test]
fn two_sessions_run_it_once() {
    each_version(|r| {
        r.approved("create table a as select 1 as i", 1);
        let (mut first, mut second) = (r.client(), r.client());
        first.rows("begin");
        assert_eq!(tags(&first.ask(&query("create table a as select 1 as i"))), "CZ");
        second.send(&query("create table a as select 1 as i"));
        assert!(r.waits_for_the_row());
        // Nobody else decides on it or applies it meanwhile.
        assert!(r.control_error("APPLY CHANGE 1").contains("55006: change request 1 is just being applied"));
        assert!(r.control_error("REJECT CHANGE 1 BECAUSE 'late'").contains("55006"));
        assert_eq!(r.requests(), "1 approved");
        first.rows("commit");
        assert_eq!(said(&second.read_until_ready()), "PG002 change request 1 is applied already, or was rejected");
        r.becomes("1 applied");
        let logged = "select string_agg(outcome, ' ' order by started_at) from pggit.statements where command_tag = 'CREATE TABLE AS'";
        assert!(eventually(PATIENCE, || r.sql(logged) == "queued applied failed"), "{}", r.sql(logged));
        // The other way round: the first one gives it up, and the second one goes on.
        r.approved("create table b ()", 2);
        first.rows("begin");
        assert_eq!(tags(&first.ask(&query("create table b ()"))), "CZ");
        second.send(&query("create table b ()"));
        assert!(r.waits_for_the_row());
        first.rows("rollback");
        assert_eq!(tags(&second.read_until_ready()), "CZ");
        r.becomes("1 applied, 2 applied");
    });
}

#[test]
fn what_apply_is_at_its_author_does_not_run() {
    each_version(|r| {
        r.approved("create table a ()", 1);
        let mut client = r.client();
        // Whoever applies it holds the request.
        let mut holder = Wire::connect(r.server.address, &[("user", "postgres"), ("database", &r.database)]);
        holder.rows("begin; select 1 from pggit.change_requests for update");
        let busy = said(&client.ask(&query("create table a ()")));
        assert_eq!(busy, "PG002 the change request of this CREATE TABLE is just being decided on or applied");
        holder.rows("rollback");
        // It is let through, and then held up on its way to the row.
        holder.rows("begin; lock table pggit.applied_requests in share mode");
        client.send(&query("create table a ()"));
        let waits =
            "select count(*) from pg_stat_activity where wait_event = 'relation' and query like '%create table a ()%'";
        assert!(eventually(PATIENCE, || r.sql(waits) == "1"), "it does not wait");
        holder.rows("insert into pggit.applied_requests (id, applied_by) select id, 'somebody' from pggit.change_requests; commit");
        assert_eq!(said(&client.read_until_ready()), "PG002 change request 1 is applied already, or was rejected");
        assert!(!r.has("a"));
        r.becomes("1 applied");
        assert_eq!(r.sql("select applied_by from pggit.change_requests"), "somebody");
    });
}

#[test]
fn what_was_rejected_or_is_over_does_not_run() {
    each_version(|r| {
        for (number, table) in [(1, "a"), (2, "b"), (3, "c")] {
            r.approved(&format!("create table {table} ()"), number);
        }
        let mut client = r.client();
        r.proxy.control("REJECT CHANGE 1 BECAUSE 'no'");
        assert!(said(&client.ask(&query("create table a ()"))).starts_with("PG002 change request 4:"));
        r.sql("update pggit.change_requests set expires_at = clock_timestamp() where number = 2");
        assert!(said(&client.ask(&query("create table b ()"))).starts_with("PG002 change request 5:"));
        // Rejected when it had been let through already.
        let mut holder = Wire::connect(r.server.address, &[("user", "postgres"), ("database", &r.database)]);
        holder.rows("begin; lock table pggit.companion_key in access exclusive mode");
        client.send(&query("create table c ()"));
        let waits =
            "select count(*) from pg_stat_activity where wait_event = 'relation' and query like '%create table c ()%'";
        assert!(eventually(PATIENCE, || r.sql(waits) == "1"), "it does not wait");
        r.proxy.control("REJECT CHANGE 3 BECAUSE 'no'");
        holder.rows("rollback");
        assert_eq!(said(&client.read_until_ready()), "PG002 change request 3 is applied already, or was rejected");
        r.becomes("1 rejected, 2 expired, 3 rejected, 4 pending, 5 pending");
        assert!(!r.has("a") && !r.has("b") && !r.has("c"));
        // A proxy that ended between the row and the status: what the row says holds.
        r.sql("update pggit.applied_requests set told = false; update pggit.change_requests set status = 'approved' where number = 3");
        r.becomes("1 rejected, 2 expired, 3 rejected, 4 pending, 5 pending");
        let row = "select decided_by, reason from pggit.change_requests where number = 3";
        assert_eq!(r.sql(row), "admin|no");
    });
}

#[test]
fn what_fails_stays_approved_and_says_why() {
    each_version(|r| {
        r.sql("create table t (i int)");
        r.approved("alter table t add column j int", 1);
        r.approved("create table later ()", 2);
        let mut holder = Wire::connect(r.server.address, &[("user", "postgres"), ("database", &r.database)]);
        holder.rows("begin; select * from t");
        let mut client = r.client();
        client.rows("set lock_timeout = '10ms'");
        assert_eq!(
            said(&client.ask(&query("alter table t add column j int"))),
            "55P03 canceling statement due to lock timeout"
        );
        let error = |number| r.sql(&format!("select status, error from pggit.change_requests where number = {number}"));
        assert!(
            eventually(PATIENCE, || error(1) == "approved|canceling statement due to lock timeout"),
            "{}",
            error(1)
        );
        holder.rows("rollback");
        client.rows("reset lock_timeout");
        assert_eq!(tags(&client.ask(&query("alter table t add column j int"))), "CZ");
        // It was asked for before that.
        r.sql("create table later ()");
        assert_eq!(said(&client.ask(&query("create table later ()"))), "42P07 relation \"later\" already exists");
        let wanted = "approved|relation \"later\" already exists; the branch has changed since it was asked for";
        assert!(eventually(PATIENCE, || error(2) == wanted), "{}", error(2));
        assert_eq!(r.sql("select count(*) from pggit.applied_requests"), "1");
        // Once nothing stands in its way it goes on.
        r.sql("drop table later");
        assert_eq!(tags(&client.ask(&query("create table later ()"))), "CZ");
        r.becomes("1 applied, 2 applied");
        assert_eq!(error(2), "applied|");
    });
}

#[test]
fn its_author_says_what_the_commit_is_for() {
    let free = "[[rule]]\nname = \"free\"\nobject = \"*.free\"\naction = \"allow\"\n";
    each(&format!("{free}{RULE}"), |r| {
        let commented = "/* pggit: in a comment */ create table c ()";
        for (number, sql) in (1..).zip(["create table a ()", "create table b ()", commented, "create table d ()"]) {
            r.approved(sql, number);
        }
        let mut client = r.client();
        client.rows("set pggit.message = 'in a setting'");
        client.rows("create table a ()");
        assert_eq!(client.value("show pggit.message"), "in a setting");
        client.rows("reset pggit.message");
        client.ask(&extended("create table b ()", &[]));
        client.ask(&extended(commented, &[]));
        // In one transaction with a change that no rule queues.
        client.rows("begin; create table d (); create table free (); commit");
        let messages = r.sql(
            "select string_agg(concat(object_name, ': ', message), ', ' order by object_name) from pggit.changes \
             where command_tag = 'CREATE TABLE' and session_id is not null",
        );
        assert_eq!(
            messages,
            "a: in a setting, b: change request 2, approved by admin, c: in a comment, \
             d: change request 4, approved by admin, free:"
        );
    });
}

#[test]
fn what_cannot_run_in_a_transaction_runs_with_an_intent() {
    each_version(|r| {
        r.sql("create table t (i int)");
        r.approved("create index concurrently i on t (i)", 1);
        let mut client = r.client();
        assert_eq!(tags(&client.ask(&query("create index concurrently i on t (i)"))), "CZ");
        r.becomes("1 applied");
        assert_eq!(
            r.sql("select i.outcome from pggit.intents i join pggit.change_requests q on q.run_id = i.id"),
            "applied"
        );
        r.sql("insert into t values (1), (1)");
        r.approved("create unique index concurrently u on t (i)", 2);
        assert!(said(&client.ask(&query("create unique index concurrently u on t (i)"))).starts_with("23505"));
        r.becomes("1 applied, 2 failed");
    });
}

#[test]
fn what_takes_no_call_is_left_to_apply() {
    let rules = format!("{RULE}[[rule]]\nname = \"opaque\"\nclass = [\"opaque\"]\naction = \"queue\"\n");
    each(&rules, |r| {
        let only_applied = |answers: &[Message], number: i64| {
            let error = answers.iter().find(|message| message.tag == b'E').expect("an error");
            assert_eq!(error.field(b'C').unwrap(), "PG002");
            assert!(error.field(b'M').unwrap().ends_with("is approved, but cannot be run in this way"), "{error:?}");
            assert_eq!(
                error.field(b'H').unwrap(),
                format!("Nothing was run. On the control port APPLY CHANGE {number} runs it.")
            );
        };
        r.approved("create table a ()", 1);
        // A Query in an open batch.
        let mut client = r.client();
        client.send(&[parse("", "select 1", &[]), query("create table a ()"), sync()].concat());
        let answers = client.read_until_ready();
        only_applied(&answers, 1);
        client.read_until_ready();
        // A connection that may ask for replication.
        let parameters = [("user", "postgres"), ("database", r.database.as_str()), ("replication", "database")];
        let mut replication = Wire::try_connect(r.proxy.clients, V3_0, &parameters).unwrap();
        only_applied(&replication.ask(&query("create table a ()")), 1);
        // By itself it could commit in the middle; in a transaction it cannot.
        let block = "do $$ begin create table b (); commit; perform 1/0; end $$";
        r.approved(block, 2);
        only_applied(&client.ask(&extended(block, &[])), 2);
        assert!(said(&client.ask(&query(block))).starts_with("2D000"));
        assert!(!r.has("b"));
        r.proxy.control("APPLY CHANGE 1");
        r.becomes("1 applied, 2 approved");
    });
}

#[test]
fn it_is_so_without_event_triggers_too() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("app");
        support::migrate_without_triggers(server, &database);
        let proxy = Proxy::start(server, &format!("[upstream]\ndbname = \"{database}\"\n{RULE}"));
        let mut client = proxy.connect(&database);
        let text = "create table a (); create table b (i int); drop table a";
        client.ask(&query(text));
        proxy.control("APPROVE CHANGE 1; APPROVE CHANGE 2; APPROVE CHANGE 3");
        assert_eq!(tags(&client.ask(&query(text))), "CCCZ");
        let rows = server.psql(
            &database,
            "select concat_ws(' ', h.change_type, h.object_identity, h.captured_by, c.message) from pggit.history h \
             join pggit.changes c on c.id = h.id where h.change_type <> 'BASELINE' order by h.created_at, h.ordinal",
        );
        assert_eq!(
            rows,
            "CREATE public.a inject change request 1, approved by admin\n\
             CREATE public.b inject change request 2, approved by admin\nDROP public.a inject change request 3, approved by admin"
        );
        client.ask(&extended("alter table b add j int", &[]));
        proxy.control("APPROVE CHANGE 4");
        assert_eq!(tags(&client.ask(&extended("alter table b add j int", &[]))), "12nCZ");
        let requests = "select string_agg(status, ' ' order by number) from pggit.change_requests";
        assert!(eventually(PATIENCE, || server.psql(&database, requests) == "applied applied applied applied"));
    }
}

#[test]
fn what_lint_queues_runs_once_it_is_approved() {
    each(
        "[branches.main]\nlint = \"queue\"\nlint_exclude = [\"prefer-robust-stmts\", \"require-lock-timeout\", \"require-statement-timeout\"]\n",
        |r| {
            let mut client = r.client();
            client.rows("create table t (i bigint)");
            r.approved("alter table t drop column i", 1);
            assert_eq!(tags(&client.ask(&query("alter table t drop column i"))), "CZ");
            r.becomes("1 applied");
            client.rows("alter table t add column k text");
            r.approved("alter table t drop column k", 2);
            assert_eq!(tags(&client.ask(&extended("alter table t drop column k", &[]))), "12nCZ");
            r.becomes("1 applied, 2 applied");
            // Maintenance that blocks: in a transaction, and what cannot run in one.
            r.sql("create materialized view m as select 1 as i");
            r.approved("refresh materialized view m", 3);
            client.rows("begin");
            assert_eq!(tags(&client.ask(&query("refresh materialized view m"))), "CZ");
            client.rows("rollback");
            r.becomes("1 applied, 2 applied, 3 approved");
            assert_eq!(tags(&client.ask(&query("refresh materialized view m"))), "CZ");
            r.approved("vacuum full t", 4);
            assert_eq!(tags(&client.ask(&query("vacuum full t"))), "CZ");
            r.becomes("1 applied, 2 applied, 3 applied, 4 applied");
        },
    );
}

#[test]
fn with_a_wait_it_may_be_rolled_back_too() {
    each(&format!("{RULE}wait = \"10min\"\n"), |r| {
        let mut client = r.client();
        client.rows("begin");
        client.send(&query("create table a ()"));
        assert!(eventually(PATIENCE, || r.requests() == "1 pending"));
        r.approve([1]);
        assert_eq!(tags(&client.read_until_ready()), "CZ");
        client.rows("rollback");
        let error = "select status, error from pggit.change_requests";
        assert!(eventually(PATIENCE, || r.sql(error) == "approved|it was run and rolled back"), "{}", r.sql(error));
        // Approved already, it waits for nobody.
        assert_eq!(tags(&client.ask(&query("create table a ()"))), "CZ");
        r.becomes("1 applied");
    });
}
