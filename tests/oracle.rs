//! The history against an oracle: generated schema changes, through the proxy and round it, one after the other and all at
//! once. What the history says must be what happened in the catalogs: nothing missed, nothing invented.
//!
//! `PGGIT_ORACLE_SEED` repeats a run, `PGGIT_ORACLE_UNITS` makes it longer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::oracle::{Facts, judge, judge_end, rows};
use support::wire::{extended, query};
use support::workload::{Unit, Workload};
use support::{Message, PATIENCE, Pg, PgServer, Proxy, Wire, eventually, migrate, migrate_without_triggers, versions};

/// How changes get into the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Capture {
    Trigger,
    Inject,
}

impl Capture {
    const ALL: [Self; 2] = [Self::Trigger, Self::Inject];

    fn word(self) -> &'static str {
        match self {
            Self::Trigger => "trigger",
            Self::Inject => "inject",
        }
    }

    /// Whether connections that go round the proxy are recorded, too.
    fn sees_all(self) -> bool {
        self == Self::Trigger
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

struct Repository {
    server: &'static PgServer,
    database: String,
    proxy: Proxy,
    capture: Capture,
}

impl Repository {
    fn new(version: Pg, capture: Capture) -> Self {
        let server = PgServer::shared(version);
        let database = server.unique_database("oracle");
        match capture {
            Capture::Trigger => migrate(server, &database),
            Capture::Inject => migrate_without_triggers(server, &database),
        }
        let config = format!("[upstream]\ndbname = \"{database}\"\n[history]\ncapture = \"{}\"\n", capture.word());
        Self { server, proxy: Proxy::start(server, &config), database, capture }
    }

    fn url(&self) -> String {
        self.server.url(&self.database)
    }

    /// Through the proxy, or round it where that is recorded.
    fn client(&self, direct: bool) -> Wire {
        if direct && self.capture.sees_all() {
            Wire::connect(self.server.address, &[("user", "postgres"), ("database", &self.database)])
        } else {
            self.proxy.connect(&self.database)
        }
    }

    fn workload(&self, seed: u64, prefix: &str) -> Workload {
        let workload = Workload::new(seed, prefix);
        if self.capture.sees_all() { workload } else { workload.without_blocks() }
    }

    /// The probe has had no reason to record anything, and has none now.
    fn assert_unsuspected(&self, log: &str) {
        // Objects that were made anew are told from others when their commits are sealed.
        let unsealed = || self.server.psql(&self.database, "select count(*) from pggit.unsealed()") == "0";
        assert!(eventually(PATIENCE, unsealed), "{}", self.proxy.log());
        let look = "begin isolation level repeatable read; select suspected from pggit.probe(); commit";
        for _ in 0..2 {
            self.server.psql(&self.database, look);
        }
        let found = self.server.psql(
            &self.database,
            "select change_type, object_type, object_identity, old_definition, new_definition from pggit.history where captured_by = 'probe'",
        );
        assert_eq!(found, "", "the probe recorded what was recorded\n{log}");
    }
}

/// How statements are sent.
#[derive(Debug, Clone, Copy)]
enum Protocol {
    Simple,
    Extended,
}

/// Sends one unit; whether it took effect, and what came back.
fn run(client: &mut Wire, unit: &Unit, protocol: Protocol) -> (bool, Vec<String>) {
    let mut told = Vec::new();
    let mut send = |sql: &str, protocol: Protocol| {
        // Several statements in one text are for the simple protocol.
        let bytes = match protocol {
            Protocol::Extended if !sql.contains(';') || sql.starts_with("do ") => extended(sql, &[]),
            Protocol::Extended | Protocol::Simple => query(sql),
        };
        let replies = client.ask(&bytes);
        assert!(replies.last().is_some_and(|last| last.tag == b'Z'), "the connection ended after {sql}: {replies:?}");
        let error = replies.iter().find(|reply| reply.tag == b'E').and_then(|reply| reply.field(b'M'));
        told.push(format!("{sql}\n      -> {}", error.as_deref().unwrap_or("ok")));
        let tag = replies.iter().filter(|reply| reply.tag == b'C').map(Message::command_tag).next_back();
        (error.is_none(), tag.unwrap_or_default())
    };
    let done = match unit {
        Unit::Single(sql) => send(sql, protocol).0,
        Unit::Together(all) => send(&all.join(";\n"), Protocol::Simple).0,
        Unit::Block(all) => {
            let mut last = (false, String::new());
            for sql in all {
                last = send(sql, protocol);
            }
            last.0 && last.1 == "COMMIT"
        }
    };
    (done, told)
}

#[test]
fn the_oracle_sees_what_is_missed_and_what_is_invented() {
    for version in versions() {
        let it = Repository::new(version, Capture::Trigger);
        // The probe would mend it.
        let (server, database) = (it.server, it.database.clone());
        let url = it.url();
        drop(it);
        server.psql(&database, "create table t (a int); create view v as select a from t");
        let before = Facts::of(&url);
        let known = rows(&url, 0).len();
        let verdict = |sql: &str| {
            server.psql(&database, sql);
            let (after, new) = (Facts::of(&url), rows(&url, known));
            let wrong = judge(&before, &after, &new);
            let end = judge_end(&url, &after);
            server.psql(&database, &format!("delete from pggit.changes where id in (select id from pggit.changes order by created_at desc, ordinal desc limit {})", new.len()));
            [wrong, end].map(|all| {
                all.iter()
                    .map(|line| line.split([' ', '|']).take(3).collect::<Vec<_>>().join(" "))
                    .collect::<Vec<_>>()
                    .join("; ")
            })
        };
        let missed = verdict(
            "alter event trigger pggit_record_ddl disable; create table u (a int); alter table t add b int; \
             alter event trigger pggit_record_ddl enable always",
        );
        assert_eq!(
            missed,
            ["missed: ALTER public.t; missed: CREATE public.u", "missed: table public.u; wrong columns: t",]
        );
        server.psql(&database, "alter event trigger pggit_record_drop disable; drop table u; alter table t drop column b; alter event trigger pggit_record_drop enable always");
        server.psql(&database, "delete from pggit.changes where object_name = 'u' or action = 'ALTER'");
        let copy = "insert into pggit.changes (action, command_tag, object_type, object_name, object_identity, classid, objid, new_definition, shape) \
                    select {action}, command_tag, object_type, {name}, classid, {objid}, new_definition, shape \
                    from pggit.changes where object_name = 't'";
        let invented = verdict(
            &copy
                .replace("{action}", "'DROP'")
                .replace("{objid}", "objid")
                .replace("{name}", "object_name, object_identity"),
        );
        assert_eq!(invented, ["invented: DROP public.t", "invented: DROP public.t"]);
        let invented =
            verdict(&copy.replace("{action}", "'CREATE'").replace("{objid}", "1").replace("{name}", "'x', 'public.x'"));
        assert_eq!(invented[0], "invented: CREATE public.x");
    }
}

#[test]
fn each_transaction_leaves_the_rows_of_what_it_changed() {
    for (version, capture) in versions().into_iter().flat_map(|version| Capture::ALL.map(|capture| (version, capture)))
    {
        let it = Repository::new(version, capture);
        let seed = number("PGGIT_ORACLE_SEED", 1);
        let mut workload = it.workload(seed, "o");
        let mut clients: Vec<Wire> = [false, true, false].map(|direct| it.client(direct)).into();
        let mut before = Facts::of(&it.url());
        let mut known = 0;
        let mut log = format!("PGGIT_ORACLE_SEED={seed} on {version:?}, {capture:?}\n");
        let (mut applied, mut wrong) = (0, Vec::new());
        for round in 0..number("PGGIT_ORACLE_UNITS", 100) {
            let unit = workload.unit(&before);
            let (client, protocol) =
                (workload.below(clients.len()), [Protocol::Simple, Protocol::Extended][workload.below(2)]);
            let (done, told) = run(&mut clients[client], &unit, protocol);
            log += &format!(
                "{round} client {client} {protocol:?} {}\n  {}\n",
                if done { "done" } else { "undone" },
                told.join("\n  ")
            );
            let after = Facts::of(&it.url());
            let new = rows(&it.url(), known);
            known += new.len();
            let mut bad = judge(&before, &after, &new);
            if !done && !new.is_empty() {
                bad.push("rows of what was undone".into());
            }
            if !bad.is_empty() {
                let told: Vec<String> = new.iter().map(ToString::to_string).collect();
                wrong.push(format!(
                    "unit {round}:\n  {}\nsaid:\n  {}\nrows:\n  {}\n",
                    bad.join("\n  "),
                    log.lines().rev().take(14).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n  "),
                    told.join("\n  ")
                ));
            }
            applied += usize::from(done && !new.is_empty());
            before = after;
        }
        wrong.extend(judge_end(&it.url(), &before));
        assert!(wrong.is_empty(), "{} wrong:\n{}\n\n{log}", wrong.len(), wrong.join("\n"));
        assert!(applied > 20, "the workload does little: {applied}\n{log}");
        it.assert_unsuspected(&log);
    }
}

#[test]
fn clients_at_once_leave_a_history_that_ends_where_the_catalogs_are() {
    for (version, capture) in versions().into_iter().flat_map(|version| Capture::ALL.map(|capture| (version, capture)))
    {
        let it = Repository::new(version, capture);
        let seed = number("PGGIT_ORACLE_SEED", 1);
        let units = number("PGGIT_ORACLE_UNITS", 100) / 4;
        let logs: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|number| {
                    let it = &it;
                    scope.spawn(move || {
                        let prefix = ["w", "x", "y", "z"][usize::try_from(number).unwrap()];
                        let mut workload = it.workload(seed + number, prefix).read_committed();
                        let mut client = it.client(number == 3);
                        client.rows("set lock_timeout = '300ms'");
                        let mut log = format!("client {number}\n");
                        let mut facts = Facts::of(&it.url());
                        for round in 0..units {
                            let unit = workload.unit(&facts);
                            let protocol = [Protocol::Simple, Protocol::Extended][workload.below(2)];
                            let (done, told) = run(&mut client, &unit, protocol);
                            log += &format!(
                                "{round} {protocol:?} {}\n  {}\n",
                                if done { "done" } else { "undone" },
                                told.join("\n  ")
                            );
                            if round % 3 == 0 {
                                facts = Facts::of(&it.url());
                            }
                        }
                        log
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let log = format!("PGGIT_ORACLE_SEED={seed} on {version:?}, {capture:?}\n{}", logs.join("\n"));
        let wrong = judge_end(&it.url(), &Facts::of(&it.url()));
        assert!(wrong.is_empty(), "{} wrong:\n{}\n\n{log}", wrong.len(), wrong.join("\n"));
        it.assert_unsuspected(&log);
    }
}
