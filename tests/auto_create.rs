//! Branches that a connection to them makes, and that are dropped when their time is over.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::wire::{V3_0, V3_2, query, startup};
use support::{Message, PATIENCE, PgServer, Proxy, Wire, eventually, migrate, normalised, psql, versions};

/// A repository whose proxies make branches `pr-*` and `agent/*`.
struct Repository {
    server: &'static PgServer,
    app: String,
    proxy: Proxy,
    /// Until this file is there, pg_dump waits.
    gate: PathBuf,
    _directory: tempfile::TempDir,
}

fn each(keys: &str, test: impl Fn(&Repository)) {
    for version in versions() {
        let server = PgServer::shared(version);
        let app = server.unique_database("app");
        migrate(server, &app);
        let directory = tempfile::tempdir().unwrap();
        let gate = directory.path().join("open");
        fs::write(&gate, "").unwrap();
        let dump = directory.path().join("pg_dump");
        let real = server.client_program("pg_dump");
        let waits = format!("while [ ! -e '{}' ]; do sleep 0.02; done", gate.display());
        fs::write(&dump, format!("#!/bin/sh\n{waits}\nexec '{}' \"$@\"\n", real.display())).unwrap();
        fs::set_permissions(&dump, fs::Permissions::from_mode(0o755)).unwrap();
        let proxy = Proxy::start(server, &configured(&app, &directory, keys));
        test(&Repository { server, app, proxy, gate, _directory: directory });
    }
}

fn configured(app: &str, directory: &tempfile::TempDir, keys: &str) -> String {
    let dump = directory.path().join("pg_dump");
    format!(
        "[upstream]\ndbname = \"{app}\"\n[branches]\nauto_create = [\"pr-*\", \"agent/*\"]\npg_dump = \"{}\"\n{keys}",
        dump.display()
    )
}

impl Repository {
    fn config(&self, keys: &str) -> String {
        configured(&self.app, &self._directory, keys)
    }

    fn main(&self, sql: &str) -> String {
        self.server.psql(&self.app, sql)
    }

    fn parameters<'a>(&self, user: &'a str, database: &'a str) -> Vec<(&'static str, &'a str)> {
        vec![("user", user), ("database", database), ("application_name", "a test")]
    }

    fn log_in(&self, proxy: &Proxy, branch: &str) -> Result<Wire, Vec<Message>> {
        let database = format!("{}/{branch}", self.app);
        Wire::try_connect(proxy.clients, V3_0, &self.parameters("postgres", &database))
    }

    /// SQLSTATE and message of a login that must fail.
    fn refused(&self, branch: &str) -> String {
        match self.log_in(&self.proxy, branch) {
            Ok(_) => panic!("was let in to {branch}"),
            Err(messages) => said(messages.last().unwrap()),
        }
    }

    fn branches(&self) -> String {
        self.main(
            "select string_agg(name || ' ' || status, ', ' order by name) from pggit.branches where name <> 'main'",
        )
    }

    /// Besides the main one and templates.
    fn databases(&self) -> usize {
        let like = "select count(*) from pg_database where datname like current_database() || '\\_\\_%' \
                    and datname not like current_database() || '\\_\\_template\\_%'";
        self.main(like).parse().unwrap()
    }

    /// From now on pg_dump waits, and the parent has no template that would do.
    fn shut(&self) {
        fs::remove_file(&self.gate).unwrap();
        self.main("create table if not exists changes (); alter table changes add x int; alter table changes drop x");
    }

    fn open(&self) {
        fs::write(&self.gate, "").unwrap();
    }

    fn until(&self, what: &str, branches: &str) {
        assert!(eventually(PATIENCE, || self.branches() == branches), "{what}: {}", self.branches());
    }
}

fn said(message: &Message) -> String {
    format!("{} {}", message.field(b'C').unwrap(), message.field(b'M').unwrap())
}

fn notices(wire: &Wire) -> Vec<String> {
    wire.greeting.iter().filter(|message| message.tag == b'N').map(said).collect()
}

const MADE: &str = "00000 branch \"pr-17\" was made from \"main\"";

#[test]
fn the_first_connection_makes_the_branch() {
    each("", |it| {
        it.main("create table t (a int primary key)");
        for (version, branch) in [(V3_0, "pr-17"), (V3_2, "agent/a b")] {
            let database = format!("{}/{branch}", it.app);
            let mut first =
                Wire::try_connect(it.proxy.clients, version, &it.parameters("postgres", &database)).unwrap();
            assert_eq!(notices(&first), [MADE.replace("pr-17", branch)]);
            let tags: String = first.greeting.iter().map(|message| char::from(message.tag)).collect();
            assert!(tags.ends_with("KNZ"), "the last word before the first ReadyForQuery: {tags}");
            let own = it.main(&format!("select database from pggit.branches where name = '{branch}'"));
            assert_eq!(
                first.value("select current_database() || ' ' || pggit.current_branch()"),
                format!("{own} {branch}")
            );
            // Save for the notice it is what a direct connection hears.
            let mut heard = normalised(&first.greeting);
            heard.retain(|message| message.tag != b'N');
            let direct = Wire::try_connect(it.server.address, version, &it.parameters("postgres", &own)).unwrap();
            assert_eq!(heard, normalised(&direct.greeting));
            // It is a branch as any other.
            first.rows("alter table t add b int");
            let newest = "select branch, via_proxy from pggit.history order by created_at desc limit 1";
            assert_eq!(it.server.psql(&own, newest), format!("{branch}|t"));
            let clients = format!("show clients branch, state where branch = '{branch}'");
            assert!(it.proxy.control(&clients).starts_with(&format!("{branch}|")));
            // The key it was given is that of its session there.
            first.send(&query("select pg_sleep(60)"));
            let sleeps = "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)'";
            assert!(eventually(PATIENCE, || it.server.psql(&own, &format!("{sleeps} and datname = '{own}'")) == "1"));
            let (pid, secret) = first.key();
            Wire::open(it.proxy.clients).cancel(pid, &secret);
            assert!(first.read_until_ready().iter().any(|message| message.field(b'C').as_deref() == Some("57014")));
            // The next one finds it.
            let mut second =
                Wire::try_connect(it.proxy.clients, version, &it.parameters("postgres", &database)).unwrap();
            assert_eq!(notices(&second), Vec::<String>::new());
            assert_eq!(second.value("select current_database()"), own);
        }
        let row = "select parent, created_by, expires_at - created_at between '167 h 59 min' and '168 h' \
                   from pggit.branches where name = 'pr-17'";
        assert_eq!(it.main(row), "main|postgres|t");
        assert_eq!(it.proxy.control("show branches name where expires_at >= '2'"), "agent/a b\npr-17");
        // What is sent ahead is said on the branch, and nowhere else.
        let mut hasty = Wire::open(it.proxy.clients);
        let database = format!("{}/pr-0", it.app);
        let ahead = query("create table ahead as select pggit.current_branch()");
        hasty.send(&[startup(V3_0, &it.parameters("postgres", &database)), ahead].concat());
        hasty.read_until_ready();
        assert_eq!(hasty.read_until_ready()[0].tag, b'C');
        assert_eq!(hasty.value("select * from ahead"), "pr-0");
        assert_eq!(it.main("select to_regclass('ahead') is null"), "t");
        // By every carrier; names that match nothing, or are none, are unknown as ever.
        let parameters = [("user", "postgres"), ("database", it.app.as_str()), ("options", "-c pggit.branch=pr-18")];
        assert_eq!(Wire::connect(it.proxy.clients, &parameters).value("select pggit.current_branch()"), "pr-18");
        let there = it.databases();
        for name in ["qr-1", "pr", &format!("pr-{}", "x".repeat(300)), "agent/"] {
            assert_eq!(it.refused(name), format!("3D000 branch \"{name}\" does not exist"));
        }
        let replication =
            [("user", "postgres"), ("database", &format!("{}/pr-19", it.app)), ("replication", "database")];
        let refused = Wire::try_connect(it.proxy.clients, V3_0, &replication).map(|_| ()).unwrap_err();
        assert_eq!(said(&refused[0]), "3D000 branch \"pr-19\" does not exist");
        assert_eq!((it.databases(), there), (4, 4));
    });
}

#[test]
fn who_cannot_log_in_makes_nothing() {
    each("", |it| {
        let (locked, stranger) = (format!("locked_{}", it.app), format!("stranger_{}", it.app));
        it.main(&format!("create role {locked} nologin; create role {stranger} login"));
        it.main(&format!("revoke connect on database {} from public", it.app));
        for user in [&locked, &stranger, "nobody at all"] {
            // The same words as on the default branch itself.
            let hear = |database: &str| {
                let heard = Wire::try_connect(it.proxy.clients, V3_0, &it.parameters(user, database));
                normalised(&heard.map(|_| ()).unwrap_err())
            };
            assert_eq!(hear(&format!("{}/pr-17", it.app)), hear(&it.app), "{user}");
        }
        assert_eq!((it.branches(), it.databases()), (String::new(), 0));
        // The configuration is the permission: who may come to the default branch may have one.
        it.main(&format!("grant connect on database {} to {stranger}", it.app));
        let database = format!("{}/pr-17", it.app);
        let mut client = Wire::try_connect(it.proxy.clients, V3_0, &it.parameters(&stranger, &database)).unwrap();
        assert_eq!(client.value("select session_user"), stranger);
        drop(client);
        assert!(eventually(PATIENCE, || psql(&it.proxy.control_dsn(), "drop branch pr-17").status.success()));
        it.main(&format!("drop owned by {stranger}; drop role {stranger}; drop role {locked}"));
    });
}

#[test]
fn many_at_once_make_one() {
    each("", |it| {
        let other = Proxy::start(it.server, &it.config(""));
        let landed = std::thread::scope(|scope| {
            let come = |n: u32| {
                let proxy = if n.is_multiple_of(2) { &it.proxy } else { &other };
                scope.spawn(move || it.log_in(proxy, "pr-17").unwrap().value("select current_database()"))
            };
            let all: Vec<_> = (0..8).map(come).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect::<std::collections::BTreeSet<_>>()
        });
        assert_eq!(landed.len(), 1, "{landed:?}");
        assert_eq!((it.branches(), it.databases()), ("pr-17 active".into(), 1));
    });
}

#[test]
fn a_slow_branch_is_waited_for_and_finished_without_its_client() {
    each("[limits]\nlogin_timeout = \"1s\"\nmax_clients_per_branch = 1\n", |it| {
        it.shut();
        // The default branch is full, which is nothing to this client.
        let _full = it.proxy.connect(&it.app);
        let begun = Instant::now();
        let mut client = Wire::open(it.proxy.clients);
        let database = format!("{}/pr-17", it.app);
        client.send(&startup(V3_0, &it.parameters("postgres", &database)));
        it.until("it is being made", "pr-17 creating");
        assert_eq!(it.proxy.control("show clients state where branch = 'main' order by id desc limit 1"), "waiting");
        assert!(eventually(PATIENCE, || begun.elapsed() > Duration::from_secs(2)), "longer than login_timeout");
        // PAUSE waits for the branch, as for a statement, and then holds the client.
        std::thread::scope(|scope| {
            let pause = scope.spawn(|| it.proxy.control("pause"));
            let held = || it.proxy.control("show clients state where branch = 'main' order by id limit 1") == "paused";
            assert!(eventually(PATIENCE, held));
            assert!(!pause.is_finished());
            it.open();
            pause.join().unwrap();
        });
        assert_eq!(it.branches(), "pr-17 active");
        assert_eq!(it.proxy.control("show clients branch, state order by id desc limit 1"), "main|login");
        it.proxy.control("resume");
        let heard = client.read_until_ready();
        assert_eq!(said(&heard[heard.len() - 2]), MADE);
        assert_eq!(client.value("select pggit.current_branch()"), "pr-17");
        assert_eq!(it.refused("pr-17"), "53300 too many connections for branch \"pr-17\"");
        // One leaves, one is sent away: the branches are made all the same.
        it.shut();
        let mut gone = Wire::open(it.proxy.clients);
        let database = format!("{}/pr-18", it.app);
        gone.send(&startup(V3_0, &it.parameters("postgres", &database)));
        it.until("another one", "pr-17 active, pr-18 creating");
        assert_eq!(it.proxy.control("show clients id where state = 'waiting'").lines().count(), 1);
        drop(gone);
        assert!(eventually(PATIENCE, || it.proxy.control("show clients id where state = 'waiting'").is_empty()));
        assert_eq!(it.branches(), "pr-17 active, pr-18 creating", "its place is free at once");
        let mut killed = Wire::open(it.proxy.clients);
        let database = format!("{}/pr-19", it.app);
        killed.send(&startup(V3_0, &it.parameters("postgres", &database)));
        it.until("and a third", "pr-17 active, pr-18 creating, pr-19 creating");
        let id = it.proxy.control("show clients id where state = 'waiting' order by id desc limit 1");
        it.proxy.control(&format!("kill {id}"));
        assert_eq!(said(&killed.read_to_end()[0]), "57P01 terminating connection due to administrator command");
        it.open();
        it.until("both are there", "pr-17 active, pr-18 active, pr-19 active");
    });
}

#[test]
fn a_proxy_that_is_killed_leaves_nothing_half_made() {
    each("", |it| {
        for ready in [false, true] {
            it.shut();
            let mut lost = Proxy::start(it.server, &it.config(""));
            let mut client = Wire::open(lost.clients);
            let database = format!("{}/pr-17", it.app);
            client.send(&startup(V3_0, &it.parameters("postgres", &database)));
            it.until("in the middle", "pr-17 creating");
            if ready {
                it.open();
                let there = "select exists (select from pggit.templates where status = 'ready')";
                assert!(eventually(PATIENCE, || it.main(there) == "t"));
            }
            lost.signal(Signal::SIGKILL);
            lost.wait_exit(PATIENCE).expect("it was killed");
            it.open();
            // The next one gets it, whatever was left.
            let mut next = it.log_in(&it.proxy, "pr-17").unwrap();
            assert_eq!(next.value("select count(*) from pggit.fork where parent = 'main'"), "1");
            drop(next);
            assert_eq!((it.branches(), it.databases()), ("pr-17 active".into(), 1));
            assert!(eventually(PATIENCE, || psql(&it.proxy.control_dsn(), "drop branch pr-17").status.success()));
        }
    });
}

#[test]
fn rules_limits_and_reload_hold() {
    let rule = "[[rule]]\nname = \"away\"\nbranch = \"pr-away*\"\naction = \"reroute\"\nto = \"main\"\n";
    let keys = format!("auto_create_max = 2\nauto_create_ttl = \"0s\"\n{rule}");
    each(&keys, |it| {
        assert_eq!(it.refused("pr-away1"), "3D000 branch \"pr-away1\" does not exist", "a rule sends it elsewhere");
        // A freeze of the default branch is none of the new one.
        it.proxy.control("refuse ddl on branch main");
        it.log_in(&it.proxy, "pr-1").unwrap().rows("create table t ()");
        // Of many who come at once for branches of their own, only so many get one.
        let came = std::thread::scope(|scope| {
            let come = |n| scope.spawn(move || it.log_in(&it.proxy, &format!("agent/{n}")).is_ok());
            let all: Vec<_> = (0..6).map(come).collect();
            all.into_iter().filter_map(|one| one.join().unwrap().then_some(())).count()
        });
        assert_eq!((came, it.databases()), (1, 2));
        assert_eq!(it.main("select count(*) from pggit.branches where expires_at is not null"), "0");
        assert_eq!(it.refused("pr-3"), "53400 branch \"pr-3\" is not made, as there are 2 such branches already");
        drop(it.log_in(&it.proxy, "pr-1").unwrap());
        // What cannot be made is told, and leaves nothing.
        let taken = pggit_proxy::branch::database_of(&it.app, "task/1");
        it.main(&format!("create database \"{taken}\""));
        it.proxy.rewrite(&it.config(&keys).replace("agent/*", "task/*"));
        it.proxy.control("reload");
        assert!(it.refused("task/1").starts_with("42P04 database "), "{}", it.refused("task/1"));
        assert_eq!(it.refused("agent/7"), "3D000 branch \"agent/7\" does not exist");
        drop(it.log_in(&it.proxy, "task/2").unwrap());
        assert_eq!(it.databases(), 4, "with the one that is no branch");
        it.main(&format!("drop database \"{taken}\""));
    });
}

#[test]
fn who_comes_after_its_time_gets_a_new_one() {
    each("auto_create_ttl = \"1h\"\n", |it| {
        it.log_in(&it.proxy, "pr-17").unwrap().rows("create table old ()");
        assert_eq!(it.main("select expires_at - created_at <= '1 h' from pggit.branches where name = 'pr-17'"), "t");
        let there = "show branches sessions where name = 'pr-17'";
        assert!(eventually(PATIENCE, || it.proxy.control(there) == "0"));
        it.main("update pggit.branches set expires_at = now() - interval '1 min' where name = 'pr-17'");
        // A proxy sweeps when it starts.
        let _sweeper = Proxy::start(it.server, &it.config(""));
        it.until("its time is over", "");
        let mut anew = it.log_in(&it.proxy, "pr-17").unwrap();
        assert_eq!(notices(&anew), [MADE]);
        assert_eq!(anew.value("select to_regclass('old') is null"), "t");
    });
}
