//! CREATE BRANCH … WITH DATA while clients are on the parent: they are held, and notice nothing but the wait.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::thread::scope;

use support::copies::{Brake, each, is_ended, pid, tags};
use support::proxy::run;
use support::wire::{bind, describe, execute, parse, query, sync};
use support::{PATIENCE, PgServer, Proxy, Wire, eventually, migrate, psql, versions};

const COPY: &str = "create branch copy from main with data";

#[test]
fn clients_keep_what_they_have_and_are_answered_after_the_copy() {
    each(|it| {
        it.server.psql(
            &it.database,
            "do $$ begin create role held_one; exception when duplicate_object or unique_violation then null; end $$",
        );
        let mut one = it.client();
        one.rows("grant select on t to held_one");
        one.rows("set search_path = pg_catalog, public; set work_mem = '7MB'; set app.who = 'ann'; set timezone = 'Asia/Tokyo'");
        one.rows("set role held_one");
        let before = pid(&mut one);
        // Prepared without a name, bound after the copy; and one whose text matters to the proxy.
        let mut two = it.client();
        assert_eq!(
            tags(&two.ask(&[parse("", "select $1 || count(*) from t", &[25]), describe(b'S', ""), sync()].concat())),
            "1tTZ"
        );
        let mut three = it.client();
        assert_eq!(tags(&three.ask(&[parse("", "create table made ()", &[]), sync()].concat())), "1Z");
        let mut quiet = it.client();
        let named =
            [parse("the {one}", "select $1::text || $2", &[0, 23]), parse("", "select 1", &[]), sync()].concat();
        assert_eq!(tags(&quiet.ask(&named)), "11Z");
        let brake = Brake::on(it.server);
        scope(|scope| {
            let copying = it.begin_copy(scope, "copy");
            assert_eq!(it.states(), "held, held, held, held");
            let there = format!("select count(*) from pg_stat_activity where datname = '{}'", it.database);
            assert_eq!(it.server.psql("postgres", &there), "0");
            one.send(&query("select concat_ws(' ', current_user, current_setting('search_path'), current_setting('work_mem'), \
                             current_setting('app.who'), current_setting('timezone'), pg_backend_pid(), count(*)) from t"));
            two.send(&[bind("", "", &[Some("n = ")]), execute("", 0), sync()].concat());
            three.send(&[bind("", "", &[]), execute("", 0), sync()].concat());
            // Cancelled by its own key, nothing happens to it.
            let (key_pid, secret) = one.key();
            Wire::open(it.proxy.clients).cancel(key_pid, &secret);
            // Whoever comes now waits.
            let newcomer = scope.spawn(|| it.client().value("select count(*) from t"));
            assert!(eventually(PATIENCE, || it.states() == "held, held, held, held, held"), "{}", it.states());
            brake.release();
            copying.join().unwrap();
            assert_eq!(newcomer.join().unwrap(), "1000");
        });
        let answer = one.read_until_ready();
        assert_eq!(tags(&answer), "TDCZ", "no ParameterStatus: {answer:?}");
        let row = String::from_utf8(answer[1].values().remove(0).unwrap()).unwrap();
        let (settings, rest) = row.split_at(row.find("Tokyo").unwrap() + 5);
        assert_eq!(settings, "held_one pg_catalog, public 7MB ann Asia/Tokyo");
        assert!(rest.ends_with(" 1000") && !rest.contains(&before), "{rest} {before}");
        let answer = two.read_until_ready();
        assert_eq!(tags(&answer), "2DCZ", "{answer:?}");
        assert_eq!(answer[1].values(), [Some(b"n = 1000".to_vec())]);
        assert_eq!(tags(&three.read_until_ready()), "2CZ");
        assert_eq!(it.copied("copy", "select count(*) || ' ' || (to_regclass('made') is null) from t"), "1000 true");
        assert_eq!(quiet.value("select count(*) from t"), "1000");
        let answer = quiet.ask(&[bind("", "the {one}", &[Some("a"), Some("2")]), execute("", 0), sync()].concat());
        assert_eq!(answer[1].values(), [Some(b"a2".to_vec())], "{answer:?}");
        assert_eq!(it.sql("select branch from pggit.history where object_name = 'made'"), "main");
        // The key that the client knows reaches the process that it has now.
        let (key_pid, secret) = quiet.key();
        quiet.send(&query("select pg_sleep(600)"));
        assert!(eventually(PATIENCE, || it.states().ends_with("active")), "{}", it.states());
        Wire::open(it.proxy.clients).cancel(key_pid, &secret);
        assert_eq!(quiet.read_until_ready()[1].field(b'C').unwrap(), "57014");
        assert_eq!(it.sql("select count(*) from pggit.holds"), "0");
    });
}

#[test]
fn who_cannot_be_held_is_named_and_nobody_is_hurt() {
    each(|it| {
        let mut plain = it.client();
        let mut owner = it.client();
        owner.rows("create temporary table mine ()");
        let mut locker = it.client();
        locker.rows("select pg_advisory_lock(7)");
        let mut preparer = it.client();
        preparer.rows("prepare one as select 1");
        // Prepared by messages, but it cannot be prepared again.
        let mut stale = it.client();
        stale.rows("create table gone ()");
        assert_eq!(tags(&stale.ask(&[parse("s", "select from gone", &[]), sync()].concat())), "1Z");
        stale.rows("drop table gone");
        let mut worker = it.client();
        worker.rows("begin; insert into t values (0)");
        let pids = [&mut plain, &mut owner, &mut locker, &mut worker, &mut preparer, &mut stale].map(pid);
        let error = it.refused(COPY);
        assert!(error.contains("55006") && error.contains("not all of its clients can be held"), "{error}");
        for (at, reason) in [
            (1, "it has the temporary relation \"mine\""),
            (2, "it has an advisory lock"),
            (3, "it is in a transaction"),
            (4, "it has the statement \"one\" of PREPARE"),
            (5, "it could not come back: the server says \"relation \"gone\" does not exist\""),
        ] {
            let line = error.lines().find(|line| line.contains(reason)).unwrap_or_else(|| panic!("{reason}: {error}"));
            assert!(line.contains(&format!("process {} of postgres from 127.0.0.1", pids[at])), "{line}");
        }
        assert!(!error.contains(&pids[0]), "{error}");
        worker.rows("commit");
        assert_eq!([&mut plain, &mut owner, &mut locker, &mut worker, &mut preparer, &mut stale].map(pid), pids);
        assert_eq!(it.sql("select count(*) from pggit.branches where name = 'copy'"), "0");
        assert_eq!(it.sql("select count(*) from pggit.holds"), "0");
        // Round the proxy, and prepared: that cannot be held, either.
        owner.rows("discard temp");
        preparer.rows("deallocate one");
        stale.rows("deallocate all");
        locker.rows("select pg_advisory_unlock_all()");
        let mut direct = Wire::connect(it.server.address, &[("user", "postgres"), ("database", &it.database)]);
        let error = it.refused(COPY);
        assert!(
            error.contains(&format!("process {}", pid(&mut direct))) && error.contains("round the proxies"),
            "{error}"
        );
        let url = it.server.url(&it.database);
        let command = || run(&["branch", "--database-url", &url, "create", "copy", "--with-data"]);
        let refused = command();
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && error.contains("round the proxies"), "{error}");
        drop(direct);
        worker.rows("begin; insert into t values (-1); prepare transaction 'held'");
        let error = it.refused(&format!("{COPY} force"));
        assert!(error.contains("the prepared transaction 'held' of postgres"), "{error}");
        worker.rows("rollback prepared 'held'");
        // Without those it can be done, by the command line, too.
        let made = command();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert_eq!(it.copied("copy", "select count(*) from t"), "1001");
        let after = [&mut plain, &mut owner, &mut locker, &mut worker].map(pid);
        assert!(after.iter().zip(&pids).all(|(after, before)| after != before), "{after:?} {pids:?}");
    });
}

#[test]
fn a_transaction_gets_some_time_to_end() {
    each(|it| {
        let (mut held, mut worker) = (it.client(), it.client());
        worker.rows("begin; delete from t where n = 1");
        scope(|scope| {
            let copying = scope.spawn(|| it.proxy.control(COPY));
            assert!(eventually(PATIENCE, || it.states() == "held, idle in transaction"), "{}", it.states());
            held.send(&query("select count(*) from t"));
            // A session that is held is not in the way of what others still do.
            worker.rows("delete from t where n = 2");
            worker.rows("commit");
            copying.join().unwrap();
        });
        assert_eq!(held.read_until_ready()[1].values(), [Some(b"998".to_vec())]);
        assert_eq!(it.copied("copy", "select count(*) from t"), "998");
        assert_eq!(worker.value("select count(*) from t"), "998");
    });
}

#[test]
fn force_ends_only_those_who_cannot_be_held() {
    each(|it| {
        let (mut held, mut worker, mut owner) = (it.client(), it.client(), it.client());
        owner.rows("create temporary table mine ()");
        worker.rows("begin; delete from t where n = 1");
        let before = pid(&mut held);
        it.proxy.control(&format!("{COPY} force"));
        assert_ne!(pid(&mut held), before);
        assert_eq!(held.value("select count(*) from t"), "1000");
        for ended in [worker, owner] {
            assert!(is_ended(ended));
        }
        assert_eq!(it.copied("copy", "select count(*) from t"), "1000");
    });
}

#[test]
fn who_does_not_end_a_transaction_is_in_the_way_of_its_own_branch_only() {
    each(|it| {
        it.proxy.control(COPY);
        let on_copy = || it.proxy.connect(&format!("{}/copy", it.database));
        let (mut resting, mut working) = (on_copy(), on_copy());
        working.rows("begin; delete from t where n = 1");
        let pids = [&mut resting, &mut working].map(pid);
        // For as long as a transaction may take to end.
        let error = it.refused("create branch deeper from copy with data");
        assert!(error.contains(&pids[1]) && error.contains("in a transaction") && !error.contains(&pids[0]), "{error}");
        it.proxy.control("create branch another from main with data");
        assert_eq!([&mut resting, &mut working].map(pid), pids);
        working.rows("commit");
        it.proxy.control("create branch deeper from copy with data");
        assert_eq!(it.copied("deeper", "select count(*) from t"), "999");
        assert_eq!(resting.value("select count(*) from t"), "999");
    });
}

#[test]
fn held_clients_can_leave_be_killed_and_wait_through_a_pause() {
    each(|it| {
        let (leaver, killed, mut paused, mut last) = (it.client(), it.client(), it.client(), it.client());
        let id = it.proxy.control("show clients id order by id").lines().nth(1).unwrap().to_owned();
        let brake = Brake::on(it.server);
        scope(|scope| {
            let copying = it.begin_copy(scope, "copy");
            drop(leaver);
            last.send(&query("insert into t values (0)"));
            last.shut_writing();
            it.proxy.control(&format!("kill {id}"));
            assert!(is_ended(killed));
            assert!(eventually(PATIENCE, || it.states() == "held, held"), "{}", it.states());
            paused.send(&query("delete from t"));
            it.proxy.control("pause");
            brake.release();
            copying.join().unwrap();
        });
        assert!(eventually(PATIENCE, || it.states() == "paused, paused"), "{}", it.states());
        assert_eq!(it.sql("select count(*) from t"), "1000");
        it.proxy.control("resume");
        assert_eq!(tags(&paused.read_until_ready()), "CZ");
        // What was said before leaving is done, as it is without a proxy.
        assert_eq!(tags(&last.read_until_ready()), "CZ");
        assert!(eventually(PATIENCE, || it.states() == "idle"), "{}", it.states());
    });
}

#[test]
fn a_user_that_the_server_does_not_let_in_again_is_told_why() {
    for version in versions() {
        let server = PgServer::with(version).auth("scram-sha-256").start();
        let app = server.create_database("app");
        migrate(&server, &app);
        server.psql(&app, "create role ann login password 'one'; create table t (); grant all on t to ann");
        let own = |mode: &str| format!("[upstream]\ndbname = \"{app}\"\n[auth]\nmode = \"{mode}\"\n");
        let dsn =
            |proxy: &Proxy| format!("host=127.0.0.1 port={} user=ann password=one dbname={app}", proxy.clients.port());
        // The proxy does not know the password: it says so before anybody has left.
        let proxy = Proxy::start(&server, &own("passthrough"));
        let asks = format!("\\setenv PGOPTIONS ''\n\\! psql -X -q -d '{}' -c '{COPY}'\n", proxy.control_dsn());
        let output = psql(&dsn(&proxy), &format!("{asks}select 'alive'"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("of ann from 127.0.0.1") && text.contains("the proxy does not know"), "{text}");
        assert!(text.contains("alive"), "{text}");
        drop(proxy);
        // It does.
        let proxy = Proxy::start(&server, &own("scram"));
        let copy = format!("\\! psql -X -q -d '{}' -c 'create branch first from main with data'", proxy.control_dsn());
        let output = psql(
            &dsn(&proxy),
            &format!("select pg_backend_pid()\n\\gset\n{copy}\nselect pg_backend_pid() <> :pg_backend_pid;"),
        );
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "t", "{}", String::from_utf8_lossy(&output.stderr));
        // And then the password is changed while the session is held.
        let mut brake = Brake::on(&server);
        let shell = format!(
            "\\! psql -X -q -d '{}' -c '{COPY}' & while test -z \"$(psql -X -A -t -d '{}' -c \"select 1 from pg_stat_activity \
             where query like 'CREATE DATABASE%' and wait_event_type = 'Lock'\")\"; do :; done; \
             psql -X -q -d '{}' -c \"alter role ann password 'two'\" -c \"select pg_terminate_backend({})\"; wait\nselect 'alive';\n",
            proxy.control_dsn(),
            server.url("postgres"),
            server.url("postgres"),
            brake.pid(),
        );
        let output = psql(&dsn(&proxy), &shell);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("08006") && text.contains("held while its branch was copied, and is lost"), "{text}");
        assert!(text.contains("the user's password has changed"), "{text}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("alive"));
    }
}
