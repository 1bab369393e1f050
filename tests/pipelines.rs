//! Generated conversations: statements in texts and in messages, by themselves and pipelined, with a Sync, a Flush or nothing
//! between them, in transactions that go well, fail and end half-way through a packet. Through the proxy they must be answered, and
//! remembered, as on a direct connection to a database whose own triggers record.
//!
//! `PGGIT_PIPELINES_SEED` repeats a run, `PGGIT_PIPELINES_LENGTH` makes it longer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::rng::Rng;
use support::wire::{bind, close, describe, execute, flush, parse, query, sync};
use support::{
    Message, PATIENCE, Pg, PgServer, Proxy, Wire, eventually, migrate, migrate_without_triggers, normalised, versions,
};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What the server owes for a message, until the client stops to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    /// Of a Query or Sync.
    Ready,
}

impl Owed {
    /// Whether the message is the last of what is owed.
    fn ends_with(self, tag: u8) -> bool {
        match self {
            Self::Parse => tag == b'1',
            Self::Bind => tag == b'2',
            Self::Describe => matches!(tag, b'n' | b'T'),
            Self::Execute => matches!(tag, b'C' | b'I' | b's'),
            Self::Close => tag == b'3',
            Self::Ready => tag == b'Z',
        }
    }
}

/// What is sent at once; then everything that is owed is read.
struct Packet {
    bytes: Vec<u8>,
    owed: Vec<Owed>,
    /// In words.
    told: Vec<String>,
}

/// A client's conversation, as it comes to its author's mind.
struct Author {
    rng: Rng,
    /// Whether there are messages without a Sync.
    in_batch: bool,
    /// Prepared statements that were asked for.
    names: usize,
}

impl Author {
    fn new(seed: u64) -> Self {
        Self { rng: Rng(seed), in_batch: false, names: 0 }
    }

    fn statement(&mut self) -> String {
        let (n, m) = (self.rng.below(3), self.rng.below(3));
        match self.rng.below(44) {
            0 => format!("create table t{n} (a int primary key, b text)"),
            1 => format!("create table t{n} as select 1 as a"),
            2 => format!("create table t{n} (like t{m} including all)"),
            3 => format!("drop table t{n}"),
            4 => format!("drop table if exists t{n} cascade"),
            5 => format!("alter table t{n} add c{m} int default 1"),
            6 => format!("alter table t{n} drop column c{m}"),
            7 => format!("alter table t{n} rename to t{m}"),
            8 => format!("alter table t{n} rename column a to d"),
            9 => format!("alter table t{n} add unique (a)"),
            10 => format!("comment on table t{n} is 'number {m}'"),
            11 => format!("create index i{n} on t{m} (a)"),
            12 => format!("create index concurrently i{n} on t{m} (a)"),
            13 => format!("reindex index i{n}"),
            14 => format!("drop index i{n}"),
            15 => format!("drop index concurrently i{n}"),
            16 => format!("create view v{n} as select a from t{m}"),
            17 => format!("create or replace view v{n} as select a, {m} as b from t{m}"),
            18 => format!("alter view v{n} rename to v{m}"),
            19 => format!("drop view v{n}"),
            20 => format!("create or replace function f{n}() returns int language sql as 'select {m}'"),
            21 => format!("drop function f{n}"),
            22 => format!("create sequence q{n} start {}", m + 1),
            23 => format!("alter sequence q{n} increment by {}", m + 1),
            24 => format!("drop sequence q{n}"),
            25 => format!("create type e{n} as enum ('a', 'b')"),
            26 => format!("alter type e{n} add value if not exists 'c{m}'"),
            27 => format!("drop type e{n}"),
            28 => format!("create schema w{n} create table x (a int) create view y as select a from x"),
            29 => format!("alter schema w{n} rename to w{m}"),
            30 => format!("alter table w{n}.x set schema public"),
            31 => format!("drop schema w{n} cascade"),
            32 => "begin isolation level repeatable read".to_owned(),
            33 | 34 => "begin".to_owned(),
            35 | 36 => "commit".to_owned(),
            37 | 38 => "rollback".to_owned(),
            39 => "savepoint s".to_owned(),
            40 => "rollback to s".to_owned(),
            41 => "release s".to_owned(),
            42 => "select 1 / 0".to_owned(),
            _ => "select 1".to_owned(),
        }
    }

    fn packet(&mut self) -> Packet {
        let mut packet = Packet { bytes: Vec::new(), owed: Vec::new(), told: Vec::new() };
        for _ in 0..=self.rng.below(4) {
            if self.rng.below(3) > 0 {
                self.messages(&mut packet);
                if self.rng.below(3) == 0 {
                    self.sync(&mut packet);
                }
            } else {
                self.sync(&mut packet);
                let all: Vec<String> = (0..=self.rng.below(3)).map(|_| self.statement()).collect();
                packet.say(format!("Query {}", all.join("; ")), query(&all.join("; ")), Owed::Ready);
            }
        }
        if self.in_batch && self.rng.below(2) == 0 {
            self.sync(&mut packet);
        }
        if self.in_batch {
            packet.bytes.extend(flush());
            packet.told.push("Flush".to_owned());
        }
        packet
    }

    fn sync(&mut self, packet: &mut Packet) {
        if std::mem::take(&mut self.in_batch) {
            packet.say("Sync".to_owned(), sync(), Owed::Ready);
        }
    }

    /// One statement in messages, or one that was prepared before.
    fn messages(&mut self, packet: &mut Packet) {
        self.in_batch = true;
        let name = match self.rng.below(4) {
            0 => {
                self.names += 1;
                format!("s{}", self.names)
            }
            1 if self.names > 0 => format!("s{}", 1 + self.rng.below(self.names)),
            _ => String::new(),
        };
        let is_new = name.is_empty() || name == format!("s{}", self.names);
        let mut ends_batch = !is_new;
        if is_new {
            let sql = self.statement();
            ends_batch = sql.contains("concurrently");
            packet.say(format!("Parse {name:?} {sql}"), parse(&name, &sql, &[]), Owed::Parse);
        }
        let portal = ["", "p"][self.rng.below(2)];
        packet.say(format!("Bind {portal:?} {name:?}"), bind(portal, &name, &[]), Owed::Bind);
        if self.rng.below(3) == 0 {
            packet.say(format!("Describe {portal:?}"), describe(b'P', portal), Owed::Describe);
        }
        packet.say(format!("Execute {portal:?}"), execute(portal, 0), Owed::Execute);
        if !portal.is_empty() {
            packet.say(format!("Close {portal:?}"), close(b'P', portal), Owed::Close);
        }
        // What follows in one batch with work in several transactions decides what comes of it (`intents.rs`).
        if ends_batch {
            self.sync(packet);
        }
    }
}

impl Packet {
    fn say(&mut self, told: String, bytes: Vec<u8>, owed: Owed) {
        self.told.push(told);
        self.bytes.extend(bytes);
        self.owed.push(owed);
    }
}

/// Sends a packet, and reads all that is owed for it. After an error nothing is owed up to the next Sync, `failed` says.
fn talk(client: &mut Wire, packet: &Packet, failed: &mut bool) -> Vec<Message> {
    client.send(&packet.bytes);
    let mut all = Vec::new();
    for owed in &packet.owed {
        while *owed == Owed::Ready || !*failed {
            let message = client.read_message().unwrap_or_else(|| panic!("hung up after {all:?}"));
            let tag = message.tag;
            all.push(message);
            if *owed != Owed::Ready && tag == b'E' {
                *failed = true;
            }
            if owed.ends_with(tag) {
                break;
            }
        }
        *failed &= *owed != Owed::Ready;
    }
    all
}

/// What the history says of one database: what was sent, and in no order what came of it. Columns have rows only where event
/// triggers tell of them, and so has an ALTER that changes nothing.
fn history(server: &PgServer, database: &str) -> Vec<String> {
    let rows = server.psql(
        database,
        "select replace(concat(sql_executed, chr(31), change_type, ' ', object_type, ' ', object_identity, ' ', new_definition), E'\\n', ' ') \
           from pggit.history where change_type <> 'BASELINE' and object_type <> 'table column' \
                and (change_type <> 'ALTER' or new_definition is distinct from old_definition) order by created_at, ordinal",
    );
    let mut rows: Vec<String> = rows.lines().map(str::to_owned).collect();
    let text = |row: &String| row.split('\u{1f}').next().map(str::to_owned);
    rows.chunk_by_mut(|one, next| text(one) == text(next)).for_each(<[String]>::sort);
    rows
}

fn hold(version: Pg, triggers: bool, seed: u64) {
    let server = PgServer::shared(version);
    let (plain, own) = (server.unique_database("plain"), server.unique_database("pipelines"));
    migrate(server, &plain);
    if triggers {
        migrate(server, &own);
    } else {
        migrate_without_triggers(server, &own);
    }
    let proxy = Proxy::start(server, &format!("[upstream]\ndbname = \"{own}\"\n"));
    let mut direct = Wire::connect(server.address, &[("user", "postgres"), ("database", &plain)]);
    let mut client = proxy.connect(&own);
    let mut author = Author::new(seed);
    let (mut failed, mut failed_here) = (false, false);
    let mut log = format!("PGGIT_PIPELINES_SEED={seed} on {version:?}, triggers: {triggers}\n");
    let mut applied = 0;
    for at in 0..number("PGGIT_PIPELINES_LENGTH", 150) {
        let packet = author.packet();
        let wanted = talk(&mut direct, &packet, &mut failed);
        log += &format!("{at} {}\n   -> {wanted:?}\n", packet.told.join("\n  "));
        let found = talk(&mut client, &packet, &mut failed_here);
        assert_eq!(normalised(&found), normalised(&wanted), "{log}");
        applied += wanted.iter().filter(|message| message.tag == b'C').count();
    }
    for client in [&mut direct, &mut client] {
        client.send(&sync());
        client.read_until_ready();
        client.ask(&query("rollback"));
    }
    assert!(applied > 50, "the conversation does little: {applied}\n{log}");
    let (wanted, found) = (history(server, &plain), history(server, &own));
    if let Some(at) = (0..wanted.len().max(found.len())).find(|at| wanted.get(*at) != found.get(*at)) {
        let around = |rows: &[String]| {
            rows.iter().skip(at.saturating_sub(20)).take(22).cloned().collect::<Vec<_>>().join("\n  ")
        };
        panic!("row {at}, directly:\n  {}\nhere:\n  {}\n{log}", around(&wanted), around(&found));
    }
    assert!(wanted.len() > 20, "{wanted:?}\n{log}");
    // The statement log agrees.
    let unsaid = "select count(*) from pggit.history h left join pggit.statements s on s.id = h.statement_id \
                  where h.statement_id is not null and s.outcome is distinct from 'applied'";
    assert!(eventually(PATIENCE, || server.psql(&own, unsaid) == "0"), "{}\n{log}", server.psql(&own, unsaid));
}

#[test]
fn however_it_is_sent_the_answers_and_the_history_are_the_servers_own() {
    for version in versions() {
        for triggers in [true, false] {
            for seed in match std::env::var("PGGIT_PIPELINES_SEED") {
                Ok(_) => vec![number("PGGIT_PIPELINES_SEED", 0)],
                Err(_) => vec![1, 2],
            } {
                hold(version, triggers, seed);
            }
        }
    }
}
