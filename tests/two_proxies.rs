//! Two proxies over one repository, of which one is killed: no change request is applied twice or not at all, no branch stays
//! half-made. The one that is left settles it, whatever moment it was.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::rng::Rng;
use support::wire::{V3_0, query, startup};
use support::{PATIENCE, PgServer, Proxy, Repository, Wire, eventually, psql, versions};

const RULE: &str = "[[rule]]\nname = \"ask\"\nbranch = \"main\"\nclass = \"ddl\"\naction = \"queue\"\n";

/// How often each is killed at a random moment.
const KILLS: usize = 12;

/// Whose COMMIT is interrupted.
#[derive(Debug, Clone, Copy)]
enum By {
    Apply,
    Author,
}

const BOTH: [By; 2] = [By::Apply, By::Author];

/// The first proxy is the repository's own, and stays.
struct Scene {
    r: Repository,
    config: String,
}

impl Scene {
    fn each(test: impl Fn(&Self)) {
        for version in versions() {
            let server = PgServer::shared(version);
            let branches = format!("[branches]\npg_dump = \"{}\"\n", server.client_program("pg_dump").display());
            let config = format!("{branches}[changes]\nlock_timeout = \"1min\"\n{RULE}");
            let r = Repository::new(version, &config);
            r.sql("create table t (i int)");
            let config = format!("[upstream]\ndbname = \"{}\"\n{config}", r.database);
            test(&Self { r, config });
        }
    }

    fn second(&self) -> Proxy {
        Proxy::start(self.r.server, &self.config)
    }

    /// A statement that the server would run as often as it gets it, approved; each time it adds a constraint.
    fn approved(&self, number: i64) -> String {
        let sql = format!("alter table t add check (i > {number})");
        assert_eq!(self.r.client().error(&sql).field(b'C').unwrap(), "PG002");
        self.r.proxy.control(&format!("APPROVE CHANGE {number}"));
        sql
    }

    fn status(&self, number: i64) -> String {
        self.r.sql(&format!("select status from pggit.change_requests where number = {number}"))
    }

    /// How often the statement was run and committed.
    fn effects(&self, number: i64) -> String {
        self.r
            .sql(&format!("select count(*) from pg_constraint where pg_get_constraintdef(oid) like '%(i > {number})%'"))
    }

    fn is_applied_once(&self, number: i64) {
        assert!(eventually(PATIENCE, || self.status(number) == "applied"), "{number} is {}", self.status(number));
        assert_eq!(self.effects(number), "1", "of {number}");
        let rows = "select count(*) from pggit.applied_requests a join pggit.change_requests q using (id) where a.rejected is null and q.number";
        assert_eq!(self.r.sql(&format!("{rows} = {number}")), "1");
        let history = "select count(*) from pggit.history where sql_executed";
        assert_eq!(self.r.sql(&format!("{history} = 'alter table t add check (i > {number})'")), "1");
    }

    /// By the second proxy, which may be killed meanwhile; whether it said that it was done.
    fn begin(&self, by: By, second: &Proxy, sql: &str, number: i64) -> impl FnOnce() -> bool + Send + use<> {
        let (control, database, clients) = (second.control_dsn(), self.r.database.clone(), second.clients);
        let sql = sql.to_owned();
        move || match by {
            By::Apply => psql(&control, &format!("APPLY CHANGE {number}")).status.success(),
            By::Author => {
                let parameters = [("user", "postgres"), ("database", database.as_str())];
                let Ok(stream) = TcpStream::connect(clients) else { return false };
                let mut author = Wire::on(stream);
                author.try_ask(&startup(V3_0, &parameters)).is_ok()
                    && ["begin", &sql, "commit"].into_iter().all(|sql| author.try_ask(&query(sql)).is_ok())
            }
        }
    }

    /// What is not applied is applied by the proxy that is left, in the same way.
    fn complete(&self, by: By, sql: &str, number: i64) {
        match by {
            By::Apply => {
                let settled = || {
                    let output = psql(&self.r.proxy.control_dsn(), &format!("APPLY CHANGE {number}"));
                    let error = String::from_utf8_lossy(&output.stderr).into_owned();
                    output.status.success() || error.contains(&format!("change request {number} is applied"))
                };
                assert!(eventually(PATIENCE, settled), "{number} is {}", self.status(number));
            }
            By::Author => {
                // It waits for a transaction whose proxy is gone until the server has ended it.
                let answers = self.r.client().ask(&query(sql));
                let Some(error) = answers.iter().find(|message| message.tag == b'E') else { return };
                let said = format!("{} {}", error.field(b'C').unwrap(), error.field(b'M').unwrap());
                if said == format!("PG002 change request {number} is applied already, or was rejected") {
                    return;
                }
                // The status was there already, and so this was a request of its own.
                assert_eq!(self.status(number), "applied", "{said}");
                let newer = self.r.sql("select max(number) from pggit.change_requests where status = 'pending'");
                self.r.proxy.control(&format!("REJECT CHANGE {newer} BECAUSE 'it is there'"));
            }
        }
    }

    /// The number that the next request gets.
    fn next_number(&self) -> i64 {
        self.r.sql("select coalesce(max(number), 0) + 1 from pggit.change_requests").parse().unwrap()
    }
}

/// A COMMIT of a request waits, until the lock is let go.
fn hold_commits(scene: &Scene) -> Wire {
    scene.r.sql(
        "create function hold() returns trigger language plpgsql as \
         $$ begin perform pg_advisory_xact_lock_shared(4711); return null; end $$; \
         create constraint trigger hold after insert on pggit.applied_requests deferrable initially deferred \
         for each row execute function hold()",
    );
    let server = &scene.r.server;
    let mut holder = Wire::connect(server.address, &[("user", "postgres"), ("database", &scene.r.database)]);
    holder.rows("select pg_advisory_lock(4711)");
    holder
}

#[test]
fn a_commit_that_is_under_way_when_its_proxy_is_killed_counts_once() {
    Scene::each(|scene| {
        let mut holder = hold_commits(scene);
        let held = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory'";
        for by in BOTH {
            for is_committed in [true, false] {
                let number = scene.next_number();
                let sql = scene.approved(number);
                let mut second = scene.second();
                let work = std::thread::spawn(scene.begin(by, &second, &sql, number));
                assert!(eventually(PATIENCE, || !scene.r.sql(held).is_empty()), "{by:?}: no COMMIT is held");
                second.signal(Signal::SIGKILL);
                assert!(!work.join().unwrap());
                second.wait_exit(PATIENCE).expect("killed");
                let pid = scene.r.sql(held);
                // Nobody knows yet; and nobody else gets at it.
                let early = psql(&scene.r.proxy.control_dsn(), &format!("APPLY CHANGE {number}"));
                assert!(String::from_utf8_lossy(&early.stderr).contains("55006"), "{early:?}");
                let early = psql(&scene.r.proxy.control_dsn(), &format!("REJECT CHANGE {number} BECAUSE 'no'"));
                assert!(String::from_utf8_lossy(&early.stderr).contains("55006"), "{early:?}");
                if is_committed {
                    holder.rows("select pg_advisory_unlock(4711)");
                    // By itself: nobody asks for it.
                    scene.is_applied_once(number);
                } else {
                    scene.r.sql(&format!("select pg_terminate_backend({pid})"));
                    holder.rows("select pg_advisory_unlock(4711)");
                    assert!(eventually(PATIENCE, || scene.r.sql(held).is_empty()));
                    assert_eq!((scene.status(number).as_str(), scene.effects(number).as_str()), ("approved", "0"));
                    scene.complete(by, &sql, number);
                    scene.is_applied_once(number);
                }
                holder.rows("select pg_advisory_lock(4711)");
            }
        }
    });
}

#[test]
fn a_proxy_that_is_killed_at_any_moment_leaves_it_to_the_other() {
    Scene::each(|scene| {
        let mut rng = Rng(0x5eed);
        for by in BOTH {
            let mut told = 0;
            let mut whole = Duration::ZERO;
            for round in 0..=KILLS {
                let number = scene.next_number();
                let sql = scene.approved(number);
                let second = scene.second();
                let began = Instant::now();
                let work = std::thread::spawn(scene.begin(by, &second, &sql, number));
                if round == 0 {
                    // How long it takes when nobody is killed.
                    assert!(work.join().unwrap());
                    whole = began.elapsed();
                    scene.is_applied_once(number);
                    continue;
                }
                // Any moment of that, and a little later.
                std::thread::sleep(whole.mul_f64(rng.below(130) as f64 / 100.0));
                second.signal(Signal::SIGKILL);
                if work.join().unwrap() {
                    told += 1;
                    assert_eq!(scene.effects(number), "1", "{by:?} said that {number} was done");
                } else {
                    scene.complete(by, &sql, number);
                }
                scene.is_applied_once(number);
            }
            assert!(told < KILLS, "{by:?}: every kill came too late");
        }
        scene.r.sql("select pggit.seal()");
        assert_eq!(scene.r.sql("select count(*) from pggit.verify()"), "0");
    });
}

#[test]
fn what_cannot_run_in_a_transaction_is_settled_by_the_other() {
    Scene::each(|scene| {
        let sql = "create index concurrently i on t (i)";
        assert_eq!(scene.r.client().error(sql).field(b'C').unwrap(), "PG002");
        scene.r.proxy.control("APPROVE CHANGE 1");
        // It waits for a transaction that was there before.
        let server = &scene.r.server;
        let mut holder = Wire::connect(server.address, &[("user", "postgres"), ("database", &scene.r.database)]);
        holder.rows("begin; lock table t in share update exclusive mode");
        let mut second = scene.second();
        let mut author = second.connect(&scene.r.database);
        author.send(&query(sql));
        let waits = "select count(*) from pg_stat_activity where query like 'create index concurrently%' and wait_event_type = 'Lock'";
        assert!(eventually(PATIENCE, || scene.r.sql(waits) == "1"), "it does not wait");
        second.signal(Signal::SIGKILL);
        second.wait_exit(PATIENCE).expect("killed");
        holder.rows("commit");
        assert!(eventually(PATIENCE, || scene.status(1) == "applied"), "{}", scene.status(1));
        assert_eq!(scene.r.sql("select indisvalid from pg_index where indexrelid = 'i'::regclass"), "t");
        assert_eq!(scene.r.sql("select outcome from pggit.intents"), "applied");
    });
}

#[test]
fn no_branch_stays_half_made() {
    Scene::each(|scene| {
        let mut rng = Rng(0xb4a9c4);
        for number in 0..40 {
            scene.r.sql(&format!("create table t{number} (a int primary key, b text unique)"));
        }
        for round in 0..KILLS {
            // A commit that has no template yet, every other time.
            if round % 2 == 0 {
                scene.r.sql(&format!("comment on table t is '{round}'"));
            }
            let name = format!("b{round}");
            let command = format!("CREATE BRANCH {name} FROM main");
            let second = scene.second();
            let (control, made) = (second.control_dsn(), command.clone());
            let work = std::thread::spawn(move || psql(&control, &made).status.success());
            std::thread::sleep(Duration::from_micros(rng.below(900_000) as u64));
            second.signal(Signal::SIGKILL);
            let told = work.join().unwrap();
            let r = &scene.r;
            // Whoever wants it has it: it is there, or can be made.
            let is_there = || {
                let output = psql(&r.proxy.control_dsn(), &command);
                output.status.success() || String::from_utf8_lossy(&output.stderr).contains("42710")
            };
            assert!(eventually(PATIENCE * 2, is_there), "{name} cannot be made");
            let row = r.sql(&format!("select status, database from pggit.branches where name = '{name}'"));
            let (status, database) = row.split_once('|').unwrap();
            assert_eq!(status, "active", "{told}");
            // And whole.
            assert_eq!(r.server.psql(database, "select count(*) from pg_class where relname ~ '^t[0-9]+$'"), "40");
            assert_eq!(r.server.psql(database, "select pggit.default_branch()"), name);
            assert!(eventually(PATIENCE, || r.proxy.control("SHOW BRANCHES name").lines().any(|line| line == name)));
            r.proxy.control(&format!("DROP BRANCH {name}"));
        }
        let left = "select count(*) from pggit.branches where status <> 'active' or name <> 'main'";
        assert!(eventually(PATIENCE, || scene.r.sql(left) == "0"), "{}", scene.r.sql(left));
        // No database is left that nothing tells of.
        let orphans = format!(
            "select string_agg(datname, ' ') from pg_database where datname like '{}\\_\\_%' \
             and datname not in (select database from pggit.templates)",
            scene.r.database
        );
        assert!(eventually(PATIENCE, || scene.r.sql(&orphans).is_empty()), "{}", scene.r.sql(&orphans));
    });
}
