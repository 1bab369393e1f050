//! Clients that are held while their branch is copied: those of several proxies, of a proxy that goes, at work, and by a
//! recorder that is no superuser.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;

use nix::sys::signal::Signal;
use support::copies::{Brake, each, is_ended, pid, tags};
use support::proxy::run;
use support::wire::{extended, query};
use support::{PATIENCE, PgServer, Proxy, Wire, eventually, psql, versions};

const COPY: &str = "create branch copy from main with data";

#[test]
fn every_proxy_holds_its_clients_and_a_lost_one_holds_nobody_up() {
    each(|it| {
        let other = it.another_proxy();
        let (mut mine, mut theirs) = (it.client(), other.connect(&it.database));
        let pids = [&mut mine, &mut theirs].map(pid);
        // By a client of this one, both are held.
        theirs.rows("set app.who = 'ann'");
        it.proxy.control(COPY);
        assert_eq!(theirs.value("select current_setting('app.who') || count(*) from t"), "ann1000");
        assert!([&mut mine, &mut theirs].map(pid).iter().zip(&pids).all(|(now, before)| now != before));
        // One that cannot be held is so for all.
        theirs.rows("create temporary table mine ()");
        let error = it.refused("create branch two from main with data");
        assert!(error.contains("it has the temporary relation"), "{error}");
        theirs.rows("drop table mine");
        // The proxy that copies is lost in the middle: the others' clients come back as soon as the server has ended its work.
        let mut lost = it.another_proxy();
        let brake = Brake::on(it.server);
        scope(|scope| {
            let copying = scope.spawn(|| psql(&lost.control_dsn(), "create branch lost from main with data"));
            it.copy_has_begun();
            assert_eq!(it.states(), "held");
            theirs.send(&query("insert into t values (0)"));
            lost.signal(Signal::SIGKILL);
            assert!(!copying.join().unwrap().status.success());
            brake.release();
            assert_eq!(tags(&theirs.read_until_ready()), "CZ");
            assert_eq!(mine.value("select count(*) from t"), "1001");
        });
        lost.wait_exit(PATIENCE);
        // What was left half made goes; the name and the branch can be used again.
        it.proxy.control("create branch lost from main with data");
        assert_eq!(it.copied("lost", "select count(*) from t"), "1001");
        assert_eq!(mine.value("select count(*) from t"), "1001");
    });
}

#[test]
fn a_proxy_that_ends_lets_its_clients_go_and_finishes_for_those_who_have_asked() {
    each(|it| {
        let mut other = it.another_proxy();
        let (idle, mut asking, mut mine) = (other.connect(&it.database), other.connect(&it.database), it.client());
        asking.rows("select 1");
        let brake = Brake::on(it.server);
        scope(|scope| {
            let copying = it.begin_copy(scope, "copy");
            asking.send(&query("insert into t values (0)"));
            other.control("shutdown");
            assert!(is_ended(idle));
            brake.release();
            copying.join().unwrap();
        });
        assert_eq!(tags(&asking.read_until_ready()), "CZ");
        assert!(is_ended(asking));
        assert!(other.wait_exit(PATIENCE).is_some_and(|status| status.success()), "{}", other.log());
        assert_eq!(mine.value("select count(*) from t"), "1001");
        assert_eq!(it.copied("copy", "select count(*) from t"), "1000");
    });
}

#[test]
fn a_copy_of_the_main_database_cuts_off_no_other_work_on_branches() {
    each(|it| {
        it.proxy.control(COPY);
        it.proxy.control("create branch old from copy with data");
        let mut client = it.client();
        let own = it.server.psql(&it.database, "select database from pggit.branches where name = 'copy'");
        // What has begun before is waited for, and nobody is held meanwhile.
        let brake = Brake::on(it.server);
        scope(|scope| {
            let dropping = scope.spawn(|| it.proxy.control("drop branch old"));
            let begun = "select status from pggit.branches where name = 'old'";
            assert!(eventually(PATIENCE, || it.sql(begun) == "dropping"), "{}", it.proxy.log());
            let copying = scope.spawn(|| it.proxy.control("create branch two from main with data"));
            let waiting = format!(
                "select count(*) from pg_locks l join pg_database d on d.oid = l.database \
                 where d.datname = '{}' and l.locktype = 'advisory' and not l.granted",
                it.database
            );
            assert!(eventually(PATIENCE, || it.sql(&waiting) == "1"), "{}", it.proxy.log());
            assert_eq!(client.value("select count(*) from t"), "1000");
            brake.release();
            dropping.join().unwrap();
            copying.join().unwrap();
        });
        // What would begin while it is about to be copied is refused.
        let mut worker = it.client();
        worker.rows("begin");
        scope(|scope| {
            let copying = scope.spawn(|| it.proxy.control("create branch three from main with data"));
            assert!(eventually(PATIENCE, || it.states() == "held, idle in transaction"), "{}", it.states());
            for command in ["create branch four from copy with data", "alter branch copy protect", "drop branch copy"] {
                let error = it.refused(command);
                assert!(error.contains("55006") && error.contains("main database is just being copied"), "{error}");
            }
            worker.rows("commit");
            copying.join().unwrap();
        });
        // A copy of another branch, which may take hours, goes on beside it.
        let brake = Brake::on(it.server);
        scope(|scope| {
            let four = scope.spawn(|| it.proxy.control("create branch four from copy with data"));
            it.copy_of_has_begun(&own);
            let five = it.begin_copy(scope, "five");
            brake.release();
            four.join().unwrap();
            five.join().unwrap();
        });
        for name in ["two", "three", "four", "five"] {
            assert_eq!(it.copied(name, "select count(*) from t"), "1000", "{name}");
        }
        assert_eq!(client.value("select count(*) from t"), "1000");
    });
}

#[test]
fn a_recorder_that_sees_little_of_others_holds_them_all_the_same() {
    for version in versions() {
        let server = PgServer::shared(version);
        let role = server.unique_database("recorder");
        let app = server.unique_database("app");
        server.psql(
            "postgres",
            &format!("drop database {role}; create role {role} login createdb; alter database {app} owner to {role}"),
        );
        let url = server.url(&app).replace("postgres@", &format!("{role}@"));
        let migrated = run(&["migrate", "up", "--database-url", &url]);
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        let proxy = Proxy::start(server, &format!("[upstream]\ndbname = \"{app}\"\nuser = \"{role}\"\n"));
        let mut own = Wire::connect(proxy.clients, &[("user", &role), ("database", &app)]);
        let mut other = proxy.connect(&app);
        own.rows("create table t (n int); insert into t values (1)");
        let pids = [&mut own, &mut other].map(pid);
        proxy.control(COPY);
        let now = [&mut own, &mut other].map(pid);
        assert!(now.iter().zip(&pids).all(|(now, before)| now != before), "{now:?} {pids:?}");
        let copied = server.psql(&app, "select database from pggit.branches where name = 'copy'");
        assert_eq!(server.psql(&copied, "select count(*) from t"), "1");
        let direct = Wire::connect(server.address, &[("user", "postgres"), ("database", &app)]);
        let error = psql(&proxy.control_dsn(), "create branch again from main with data");
        let error = String::from_utf8_lossy(&error.stderr).into_owned();
        assert!(error.contains("of postgres") && error.contains("round the proxies"), "{error}");
        drop(direct);
        assert_eq!([&mut own, &mut other].map(pid), now);
    }
}

#[test]
fn work_goes_on_over_copies_and_each_of_them_is_of_one_moment() {
    const CLIENTS: usize = 6;
    each(|it| {
        let other = it.another_proxy();
        it.proxy.psql(
            &it.database,
            "create table a (c int primary key, n int); create table b (c int primary key, n int); \
             insert into a select g, 0 from generate_series(0, 5) g; insert into b select * from a",
        );
        let over = AtomicBool::new(false);
        let work = &|at: usize, proxy: &Proxy| {
            let mut client = proxy.connect(&it.database);
            let mut done = 0;
            let both = |table| format!("update {table} set n = n + 1 where c = {at}");
            while !over.load(Ordering::Relaxed) {
                // In one transaction, in one of several texts, in one of the extended protocol.
                match done % 3 {
                    0 => drop([
                        client.rows("begin"),
                        client.rows(&both("a")),
                        client.rows(&both("b")),
                        client.rows("commit"),
                    ]),
                    1 => drop(client.rows(&format!("{}; {}", both("a"), both("b")))),
                    _ => {
                        let one = format!(
                            "with one as ({} returning c) update b set n = n + 1 where c in (select c from one)",
                            both("a")
                        );
                        let answer = client.ask(&extended(&one, &[]));
                        assert_eq!(tags(&answer), "12nCZ", "{answer:?}");
                    }
                }
                done += 1;
            }
            done
        };
        let done: Vec<u32> = scope(|scope| {
            let workers: Vec<_> = (0..CLIENTS)
                .map(|at| (at, if at % 2 == 0 { &it.proxy } else { &other }))
                .map(|(at, proxy)| scope.spawn(move || work(at, proxy)))
                .collect();
            for (name, proxy) in [("one", &it.proxy), ("two", &other), ("three", &it.proxy)] {
                proxy.control(&format!("create branch {name} from main with data"));
            }
            over.store(true, Ordering::Relaxed);
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        let sums = "select concat_ws(' ', (select sum(n) from a), (select sum(n) from b))";
        let total: u32 = done.iter().sum();
        assert_eq!(it.sql(sums), format!("{total} {total}"));
        let copies = ["one", "two", "three"].map(|name| it.copied(name, sums));
        for copy in &copies {
            let (a, b) = copy.split_once(' ').unwrap();
            assert_eq!(a, b, "{copies:?}");
        }
        assert!(total > 0 && done.iter().all(|one| *one > 0), "{done:?}");
    });
}
