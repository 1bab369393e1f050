//! `kill -9` of the proxy and of the server in the middle of schema changes, hundreds of times. Afterwards the history holds
//! what the catalogs hold, no more and no less, and the statement log has told no lie.
//!
//! Four clients change things of their own, each by names that are used once; so the catalogs say at the end which statement
//! was committed. Every one of them goes on with the next proxy, or the same server, as soon as there is one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::rng::Rng;
use support::wire::{V3_0, query, startup};
use support::{PATIENCE, Pg, PgServer, Proxy, eventually, migrate, versions};

const CLIENTS: u64 = 4;

const CONFIG: &str = "[upstream]\ndbname = \"app\"\n[history]\ntimeout = \"2s\"\n";

/// A client whose connection may break at any time.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut client = Self(stream);
        let options = "-c statement_timeout=10s -c lock_timeout=5s -c client_min_messages=error";
        client.0.write_all(&startup(V3_0, &[("user", "postgres"), ("database", "app"), ("options", options)]))?;
        match client.answer()? {
            Ok(()) => Ok(client),
            Err(code) => Err(io::Error::other(code)),
        }
    }

    /// Runs a text; the first error's SQLSTATE.
    fn run(&mut self, sql: &str) -> io::Result<Result<(), String>> {
        self.0.write_all(&query(sql))?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Result<(), String>> {
        let mut result = Ok(());
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
            let mut body = vec![0; length - 4];
            self.0.read_exact(&mut body)?;
            match head[0] {
                b'Z' => return Ok(result),
                b'E' if result.is_ok() => {
                    let code = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&b'C'));
                    result = Err(String::from_utf8_lossy(code.map_or(&b""[..], |field| &field[1..])).into_owned());
                }
                _ => {}
            }
        }
    }
}

/// What the clients and the one who kills share.
struct Scene {
    /// Where the proxy of the moment listens.
    address: Mutex<SocketAddr>,
    /// Statements sent so far.
    sent: AtomicU64,
    stop: AtomicBool,
}

impl Scene {
    /// Waits for so many more statements; what is under way then is cut off wherever it is.
    fn wait_for_statements(&self, n: usize) {
        let goal = self.sent.load(Ordering::Relaxed) + n as u64;
        assert!(eventually(PATIENCE * 2, || self.sent.load(Ordering::Relaxed) >= goal), "the clients stand still");
    }
}

/// One client's life, over many connections.
struct Worker {
    scene: Arc<Scene>,
    rng: Rng,
    number: u64,
    /// For names that nobody uses twice.
    next: u64,
    /// Indexes and databases that may be there.
    indexes: Vec<String>,
    databases: Vec<String>,
}

impl Worker {
    fn work(mut self) {
        while !self.scene.stop.load(Ordering::Relaxed) {
            let address = *self.scene.address.lock().unwrap();
            if let Ok(mut client) = Client::connect(address) {
                let mut lives = true;
                while lives && !self.scene.stop.load(Ordering::Relaxed) {
                    lives = self.step(&mut client).is_ok();
                }
            } else {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Something that a client would do. An error of the server's is no error here.
    fn step(&mut self, client: &mut Client) -> io::Result<()> {
        let w = self.number;
        match self.rng.below(20) {
            0..=3 => {
                let name = self.name("u");
                self.run(client, &format!("create table w{w}.{name} ()"))?;
            }
            4..=6 => {
                let (a, b, c) = (self.name("u"), self.name("u"), self.name("u"));
                self.run(client, "begin")?;
                self.run(client, &format!("create table w{w}.{a} ()"))?;
                self.run(client, "savepoint s")?;
                self.run(client, &format!("create table w{w}.{b} ()"))?;
                self.run(client, "rollback to s")?;
                self.run(client, &format!("create table w{w}.{c} ()"))?;
                let end = if self.rng.below(3) == 0 { "rollback" } else { "commit" };
                self.run(client, end)?;
            }
            7 => {
                let (a, b) = (self.name("u"), self.name("u"));
                self.run(client, &format!("create table w{w}.{a} (); create table w{w}.{b} ()"))?;
            }
            8 => {
                let column = self.name("c");
                self.run(client, &format!("alter table w{w}.altered add column {column} int"))?;
            }
            9 => {
                let table = self.rng.below(3);
                self.run(client, &format!("drop table if exists w{w}.d{table}"))?;
                self.run(client, &format!("create table w{w}.d{table} (a int primary key, b serial)"))?;
            }
            10 => {
                let (table, gid) = (self.name("u"), self.name("gid"));
                self.run(client, "begin")?;
                self.run(client, &format!("create table w{w}.{table} ()"))?;
                self.run(client, &format!("prepare transaction '{gid}'"))?;
                let end = if self.rng.below(2) == 0 { "rollback" } else { "commit" };
                self.run(client, &format!("{end} prepared '{gid}'"))?;
            }
            11..=13 => {
                let name = self.name("i");
                self.run(client, &format!("create index concurrently {name} on w{w}.base (b)"))?;
                self.indexes.push(name);
            }
            14 => {
                let name = self.name("i");
                // There are duplicates: it fails and leaves an index that is not whole.
                self.run(client, &format!("create unique index concurrently {name} on w{w}.base (a)"))?;
                self.indexes.push(name);
            }
            15..=16 => {
                if let Some(name) = self.indexes.pop() {
                    self.run(client, &format!("drop index concurrently w{w}.{name}"))?;
                }
            }
            17 => self.run(client, &format!("reindex table concurrently w{w}.base"))?,
            18 => {
                let name = format!("kill_{}", self.name("x"));
                self.run(client, &format!("create database {name}"))?;
                self.databases.push(name);
            }
            _ => {
                if let Some(name) = self.databases.pop() {
                    self.run(client, &format!("drop database {name}"))?;
                }
            }
        }
        Ok(())
    }

    fn run(&self, client: &mut Client, sql: &str) -> io::Result<()> {
        self.scene.sent.fetch_add(1, Ordering::Relaxed);
        if client.run(sql)?.is_err() {
            client.run("rollback")?.ok();
        }
        Ok(())
    }

    fn name(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}_{}_{}", self.number, self.next)
    }
}

/// A server with something to work on.
fn server(version: Pg) -> PgServer {
    // A process that is killed may have written half a page.
    let server = PgServer::with(version)
        .config("full_page_writes = on")
        .config("autovacuum = off")
        .config("max_prepared_transactions = 200")
        .start();
    server.create_database("app");
    migrate(&server, "app");
    for w in 0..CLIENTS {
        server.psql(
            "app",
            &format!(
                "create schema w{w}; create table w{w}.base (a int, b int); create table w{w}.altered (); \
                 insert into w{w}.base select 1, n from generate_series(1, 200) n"
            ),
        );
    }
    server
}

/// Starts the clients, lets `murder` do its work, and waits until they have ended.
fn perform(address: SocketAddr, seed: u64, murder: impl FnOnce(&Scene)) {
    let scene = Arc::new(Scene { address: Mutex::new(address), sent: AtomicU64::new(0), stop: AtomicBool::new(false) });
    let workers: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let worker = Worker {
                scene: scene.clone(),
                rng: Rng(seed + 1 + number),
                number,
                next: 0,
                indexes: Vec::new(),
                databases: Vec::new(),
            };
            std::thread::spawn(move || worker.work())
        })
        .collect();
    murder(&scene);
    scene.stop.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

fn kill_9(pid: u32) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
}

fn proxies_are_killed(version: Pg, kills: usize, seed: u64) {
    let server = server(version);
    let mut proxy = Proxy::start(&server, CONFIG);
    let mut rng = Rng(seed);
    perform(proxy.clients, seed, |scene| {
        for _ in 0..kills {
            scene.wait_for_statements(1 + rng.below(12));
            kill_9(proxy.pid());
            proxy.wait_exit(PATIENCE).unwrap();
            proxy = Proxy::start(&server, CONFIG);
            *scene.address.lock().unwrap() = proxy.clients;
        }
    });
    check(&server, &proxy);
}

fn servers_are_killed(version: Pg, kills: usize, seed: u64) {
    let mut server = server(version);
    let proxy = Proxy::start(&server, CONFIG);
    let mut rng = Rng(seed);
    perform(proxy.clients, seed, |scene| {
        for n in 0..kills {
            scene.wait_for_statements(10 + rng.below(40));
            if n % 2 == 0 {
                // The postmaster, and then its children, which it does not tell any more. It must not make new ones meanwhile.
                kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGSTOP).unwrap();
                let children = children(server.pid());
                kill_9(server.pid());
                children.iter().for_each(|pid| kill_9(*pid));
                let gone = |pid: &u32| !std::path::Path::new(&format!("/proc/{pid}")).exists();
                assert!(eventually(PATIENCE, || children.iter().all(gone)));
                server.restart();
            } else {
                // One backend of a client's, and the server restarts all of them.
                let backends = "select string_agg(pid::text, ' ') from pg_stat_activity \
                                where datname = 'app' and application_name <> 'pggit-proxy' and pid <> pg_backend_pid()";
                let mut backend = None;
                assert!(eventually(PATIENCE, || {
                    let found = String::from_utf8_lossy(&server.try_psql("app", backends).stdout).trim().to_owned();
                    let pids: Vec<u32> = found.split(' ').filter_map(|pid| pid.parse().ok()).collect();
                    backend = (!pids.is_empty()).then(|| pids[rng.below(pids.len())]);
                    backend.is_some()
                }));
                kill_9(backend.unwrap());
                assert!(
                    eventually(PATIENCE, || server.log().matches("all server processes terminated").count() > n / 2)
                );
            }
            assert!(eventually(PATIENCE, || server.try_psql("app", "select 1").status.success()), "recovery");
        }
    });
    check(&server, &proxy);
}

/// Process ids of the children of a process.
fn children(parent: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after_name.split(' ').nth(1).and_then(|ppid| ppid.parse().ok()) == Some(parent)
    })
    .collect()
}

/// The history against the catalogs, and the statement log against both.
fn check(server: &PgServer, proxy: &Proxy) {
    let sql = |sql: &str| server.psql("app", sql);
    let lines = |text: &str| sql(text).lines().map(str::to_owned).collect::<BTreeSet<String>>();
    // What was prepared and left alone ends one way or the other, some of it round the proxy.
    for (n, gid) in lines("select gid from pg_prepared_xacts").iter().enumerate() {
        let end = format!("{} prepared '{gid}'", if n % 2 == 0 { "commit" } else { "rollback" });
        if n % 4 < 2 {
            sql(&end)
        } else {
            proxy.psql("app", &end)
        };
    }
    assert!(
        eventually(PATIENCE, || sql(
            "select count(*) from pg_stat_activity where application_name = '' and datname = 'app'"
        ) == "0"
            || sql(
                "select count(*) from pg_stat_activity where state = 'active' and application_name <> 'pggit-proxy' and datname = 'app'"
            ) == "1"),
        "every statement of a lost client has ended"
    );
    assert!(
        eventually(PATIENCE, || sql("select count(*) from pggit.intents where outcome is null") == "0"),
        "open intents:\n{}",
        sql("select * from pggit.intents where outcome is null")
    );
    let prepared = "select count(*) from pggit.prepared where outcome is null";
    assert!(eventually(PATIENCE, || sql(prepared) == "0"), "{} prepared transactions are open", sql(prepared));
    assert!(eventually(PATIENCE, || proxy.metric("pggit_proxy_history_pending") == Some(0.0)));

    // No change without its row, no row without its change: the newest row of each object against what there is.
    let there = "select case when c.relkind = 'i' then 'index' when c.relkind = 'S' then 'sequence' else 'table' end || ' ' || \
                 format('%I.%I', n.nspname, c.relname) || E'\\t' || coalesce(replace(pggit.definition('pg_class'::regclass, c.oid), E'\\n', ' '), '') \
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname ~ '^w\\d' and c.relkind in ('r', 'i', 'S') \
                 union all select 'database ' || datname || E'\\t' || replace(pggit.describe_database(oid), E'\\n', ' ') from pg_database where datname ~ '^kill_'";
    let told = "select object_type || ' ' || object_identity || E'\\t' || coalesce(replace(new_definition, E'\\n', ' '), '') from ( \
                select distinct on (object_type, object_identity) object_type, object_identity, change_type, new_definition \
                from pggit.history where change_type <> 'REINDEX' and (schema_name ~ '^w\\d' and object_type in ('table', 'index', 'sequence')) or change_type <> 'REINDEX' and object_type = 'database' \
                order by object_type, object_identity, created_at desc, ordinal desc) h where change_type <> 'DROP'";
    let (there, told) = (lines(there), lines(told));
    let missed: Vec<_> = there.difference(&told).collect();
    let invented: Vec<_> = told.difference(&there).collect();
    assert!(missed.is_empty() && invented.is_empty(), "missed: {missed:#?}\ninvented: {invented:#?}");
    assert!(there.len() > 50, "there was something to compare");
    // And none of them twice.
    let twice = "select object_identity from pggit.changes where action = 'CREATE' and object_name ~ '^(u|i|kill_x)_\\d+_\\d+$' \
                 group by 1 having count(*) > 1";
    assert_eq!(sql(twice), "");

    // What the log claims, against what is there.
    let claims = "with claim as (select substring(sql from 'create table (w\\d\\.u_\\d+_\\d+) \\(\\)$') as name, outcome from pggit.statements) \
                  select name || ' ' || outcome from claim where name is not null and \
                  case outcome when 'applied' then to_regclass(name) is null when 'unknown' then false else to_regclass(name) is not null end";
    assert_eq!(sql(claims), "", "outcomes of CREATE TABLE");
    // A DROP INDEX CONCURRENTLY that was killed midway leaves the index invalid.
    let claims = "with claim as (select 'w' || substring(sql from 'on w(\\d)') || '.' || substring(sql from '(i_\\d+_\\d+)') as name, outcome \
                  from pggit.statements where sql ~ '^create (unique )?index') \
                  select name || ' ' || outcome || ' ' || coalesce(indisvalid::text, 'none') from claim left join pg_index on indexrelid = to_regclass(name) \
                  where case outcome \
                  when 'applied' then not coalesce(indisvalid, true) and not exists (select from pggit.intents d \
                      where d.command_tag = 'DROP INDEX' and d.schema_name || '.' || d.object_names[1] = name) \
                  when 'unknown' then false else coalesce(indisvalid, false) end";
    assert_eq!(sql(claims), "", "outcomes of CREATE INDEX");
    // The one that it names may never have been made.
    let claims = "select s.sql || ' ' || s.outcome from pggit.statements s left join pg_database d on d.datname = substring(s.sql from 'kill_\\w+') \
                  where s.command_tag = 'DROP DATABASE' and \
                  case s.outcome when 'applied' then d.oid is not null when 'unknown' then false \
                  else d.oid is null and exists (select from pggit.statements c where c.sql = replace(s.sql, 'drop', 'create') and c.outcome = 'applied') end";
    assert_eq!(sql(claims), "", "outcomes of DROP DATABASE");
    let summary = sql(
        "select 'statements ' || string_agg(outcome || ' ' || n, ', ' order by outcome) from (select outcome, count(*) n from pggit.statements group by 1) s \
         union all select 'intents ' || string_agg(outcome || ' ' || n, ', ' order by outcome) from (select outcome, count(*) n from pggit.intents group by 1) s \
         union all select 'swept ' || count(*) from pggit.intents where reason ~ 'session ended' \
         union all select 'rows ' || string_agg(captured_by || ' ' || n, ', ' order by captured_by) from (select captured_by, count(*) n from pggit.changes group by 1) s",
    );
    println!("{summary}");
}

fn wanted(version: Pg) -> bool {
    versions().contains(&version)
}

#[test]
fn two_hundred_proxies_are_killed() {
    if wanted(Pg::V15) {
        proxies_are_killed(Pg::V15, 200, 0x5eed);
    }
}

#[test]
fn some_proxies_are_killed_on_18() {
    if wanted(Pg::V18) {
        proxies_are_killed(Pg::V18, 40, 0xfeed);
    }
}

#[test]
fn twenty_servers_are_killed() {
    if wanted(Pg::V15) {
        servers_are_killed(Pg::V15, 20, 0xdead);
    }
}

#[test]
fn some_servers_are_killed_on_18() {
    if wanted(Pg::V18) {
        servers_are_killed(Pg::V18, 6, 0xbeef);
    }
}
