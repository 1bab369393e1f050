//! Random schema changes: statements about what is there, about what is not, transactions of them, with a seed.

use super::oracle::{Facts, Object};
use super::rng::Rng;
use super::wire::{self, Wire};

/// What a client does at once.
#[derive(Debug, Clone)]
pub enum Unit {
    /// One statement.
    Single(String),
    /// Several in one simple query, one implicit transaction.
    Together(Vec<String>),
    /// BEGIN, statements one by one, COMMIT or ROLLBACK as the last of them.
    Block(Vec<String>),
}

/// Lives through so many units as one client of the database at that URL; what fails is as it is.
pub fn live_through(workload: &mut Workload, units: usize, client: &mut Wire, url: &str) {
    for _ in 0..units {
        let facts = Facts::of(url);
        let all = match workload.unit(&facts) {
            Unit::Single(sql) => vec![sql],
            Unit::Together(all) => vec![all.join(";\n")],
            Unit::Block(all) => all,
        };
        for sql in &all {
            client.ask(&wire::query(sql));
        }
        client.ask(&wire::query("rollback"));
    }
}

/// Makes units of a database's objects.
pub struct Workload {
    rng: Rng,
    made: usize,
    /// Keeps the names of clients apart.
    prefix: String,
    /// Whether statements hide in DO blocks now and then.
    blocks: bool,
    /// Whether transactions keep their first snapshot now and then.
    snapshots: bool,
}

impl Workload {
    pub fn new(seed: u64, prefix: &str) -> Self {
        Self {
            rng: Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            made: 0,
            prefix: prefix.to_owned(),
            blocks: true,
            snapshots: true,
        }
    }

    /// Without DO blocks: nobody sees in their text what they do.
    pub fn without_blocks(self) -> Self {
        Self { blocks: false, ..self }
    }

    /// Without REPEATABLE READ and SERIALIZABLE: while others change the same objects, queries there see them as they were, so
    /// that a recorded definition or name may be an old one (see docs/ARCHITECTURE.md).
    pub fn read_committed(self) -> Self {
        Self { snapshots: false, ..self }
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.rng.below(n)
    }

    /// The next thing to do, given what is there.
    pub fn unit(&mut self, facts: &Facts) -> Unit {
        let statements = |it: &mut Self, n: usize| (0..n).map(|_| it.statement(facts)).collect::<Vec<_>>();
        match self.below(10) {
            0..=4 => Unit::Single(self.statement(facts)),
            5 => {
                let n = 2 + self.below(3);
                Unit::Together(statements(self, n))
            }
            _ => {
                const BEGIN: [&str; 3] =
                    ["begin", "begin isolation level repeatable read", "begin isolation level serializable"];
                let level = self.below(3);
                let mut all = vec![BEGIN[if self.snapshots { level } else { 0 }].to_owned()];
                let mut savepoints = 0;
                for _ in 0..1 + self.below(5) {
                    match self.below(6) {
                        0 => {
                            savepoints += 1;
                            all.push(format!("savepoint s{savepoints}"));
                        }
                        1 if savepoints > 0 => all.push(format!("rollback to s{}", 1 + self.below(savepoints))),
                        2 if savepoints > 0 => all.push(format!("release s{savepoints}")),
                        _ => all.push(self.statement(facts)),
                    }
                    if self.below(12) == 0 {
                        // Fails at COMMIT.
                        let name = self.name();
                        all.push(format!("create table {name} (a int unique deferrable initially deferred)"));
                        all.push(format!("insert into {name} values (1), (1)"));
                    }
                }
                all.push(if self.below(5) == 0 { "rollback" } else { "commit" }.to_owned());
                Unit::Block(all)
            }
        }
    }

    fn name(&mut self) -> String {
        self.made += 1;
        let (prefix, n) = (&self.prefix, self.made);
        match self.rng.below(8) {
            0 => format!("\"{prefix} Odd.{n}\""),
            1 => format!("\"{prefix}\u{fc}n\"\"\u{ef}_{n}\""),
            _ => format!("{prefix}{n}"),
        }
    }

    fn pick<'a>(&mut self, facts: &'a Facts, kinds: &[&str]) -> Option<&'a Object> {
        let all = facts.all(kinds);
        if all.is_empty() { None } else { Some(all[self.below(all.len())]) }
    }

    fn column(&mut self, object: &Object) -> String {
        if object.parts.is_empty() { "nothing".into() } else { object.parts[self.below(object.parts.len())].clone() }
    }

    fn schema(&mut self, facts: &Facts) -> String {
        self.pick(facts, &["schema"]).map_or("public".into(), |schema| schema.identity.clone())
    }

    fn place(&mut self, facts: &Facts) -> String {
        let (schema, name) = (self.schema(facts), self.name());
        format!("{schema}.{name}")
    }

    fn data_type(&mut self, facts: &Facts) -> String {
        match self.below(9) {
            0 | 1 => {
                self.pick(facts, &["enum", "domain", "composite", "range"]).map_or("int".into(), |t| t.identity.clone())
            }
            n => ["int", "bigint", "text", "numeric(8,2)", "timestamptz", "boolean", "varchar(20)"][n - 2].into(),
        }
    }

    /// One statement; now and then inside a DO block, a function or EXPLAIN, now and then one that fails.
    pub fn statement(&mut self, facts: &Facts) -> String {
        let plain = self.plain(facts);
        let choice = self.below(14);
        match choice {
            0 | 1 if !self.blocks => plain,
            0 => format!("do $do$ begin execute $x${plain}$x$; end $do$"),
            1 => {
                let other = self.plain(facts);
                format!(
                    "do $do$ begin execute $x${plain}$x$; raise 'undone'; exception when others then execute $x${other}$x$; end $do$"
                )
            }
            2 => {
                let name = self.name();
                format!("create table {name} (a int); {plain}")
            }
            _ => plain,
        }
    }

    fn plain(&mut self, facts: &Facts) -> String {
        const TABLES: &[&str] = &["table", "partitioned table", "table partition"];
        let choice = self.below(64);
        let Some(table) = self.pick(facts, TABLES) else {
            return format!("create table {} (a int primary key, b text)", self.place(facts));
        };
        let t = table.identity.clone();
        let c = self.column(table);
        match choice {
            0..=3 => {
                let (place, a, b) = (self.place(facts), self.data_type(facts), self.data_type(facts));
                let extra =
                    ["", ", unique (b)", ", check (id > 0)", ", constraint \"Odd k\" unique (id, a)"][self.below(4)];
                format!("create table {place} (id serial primary key, a {a}, b {b}, c int default 1{extra})")
            }
            4 => format!("create table {} (like {t} including all)", self.place(facts)),
            5 => format!("create table {} (x int) inherits ({t})", self.place(facts)),
            6 => format!("create table {} as select * from {t}", self.place(facts)),
            7 => format!("select * into {} from {t}", self.place(facts)),
            8 => format!("create table {} (a int, b text, d date) partition by range (a)", self.place(facts)),
            9 | 10 => match self.pick(facts, &["partitioned table"]) {
                Some(parent) => {
                    let from = self.below(500) * 10;
                    format!(
                        "create table {} partition of {} for values from ({from}) to ({})",
                        self.place(facts),
                        parent.identity,
                        from + 10
                    )
                }
                None => format!("create table {} (a int, b text) partition by list (b)", self.place(facts)),
            },
            11 => match (self.pick(facts, &["partitioned table"]), self.pick(facts, &["table partition"])) {
                (Some(parent), Some(part)) => {
                    format!("alter table {} detach partition {}", parent.identity, part.identity)
                }
                _ => format!("alter table {t} add column {} int", self.name()),
            },
            12 => match (self.pick(facts, &["partitioned table"]), self.pick(facts, &["table"])) {
                (Some(parent), Some(part)) => format!(
                    "alter table {} attach partition {} for values from (100000) to (200000)",
                    parent.identity, part.identity
                ),
                _ => format!("alter table {t} add column {} int", self.name()),
            },
            13..=15 => {
                let (name, kind) = (self.name(), self.data_type(facts));
                format!(
                    "alter table {t} add column {name} {kind}{}",
                    ["", " default null", " not null", " unique"][self.below(4)]
                )
            }
            16 => format!("alter table {t} drop column {c}{}", ["", " cascade"][self.below(2)]),
            17 => format!("alter table {t} rename column {c} to {}", self.name()),
            18 => format!("alter table {t} alter column {c} type {}", ["text", "bigint", "varchar(30)"][self.below(3)]),
            19 => format!("alter table {t} alter column {c} {} not null", ["set", "drop"][self.below(2)]),
            20 => format!(
                "alter table {t} alter column {c} {}",
                ["set default null", "drop default", "set statistics 7"][self.below(3)]
            ),
            21 => format!("alter table {t} add constraint {} check ({c} is not null)", self.name()),
            22 => match self.pick(facts, &["table"]) {
                Some(other) => format!("alter table {t} add column {} int references {}", self.name(), other.identity),
                None => "select 1".into(),
            },
            23 => format!("alter table {t} rename to {}", self.name()),
            24 => format!("alter table {t} set schema {}", self.schema(facts)),
            25 => format!("alter table {t} {} row level security", ["enable", "force", "disable"][self.below(3)]),
            26 => format!("alter table {t} set ({})", ["fillfactor = 70", "autovacuum_enabled = off"][self.below(2)]),
            27 => format!("alter table {t} owner to {}", ["postgres", "pg_database_owner"][self.below(2)]),
            28 => format!("alter table {t} replica identity {}", ["full", "nothing", "default"][self.below(3)]),
            29 => format!("drop table {t}{}", ["", " cascade", " cascade"][self.below(3)]),
            30 => match self.pick(facts, TABLES) {
                Some(other) => format!("drop table if exists {t}, {}, nowhere.nothing cascade", other.identity),
                None => "select 1".into(),
            },
            31 | 32 => format!("create {}index {} on {t} ({c})", ["", "unique ", ""][self.below(3)], self.name()),
            33 => match self.pick(facts, &["index"]) {
                Some(index) => match self.below(3) {
                    0 => format!("drop index {} cascade", index.identity),
                    1 => format!("alter index {} rename to {}", index.identity, self.name()),
                    _ => format!("alter index {} set (fillfactor = 60)", index.identity),
                },
                None => format!("create index on {t} ({c})"),
            },
            34 | 35 => format!("create or replace view {} as select {c} from {t}", self.place(facts)),
            36 => match self.pick(facts, &["view"]) {
                Some(view) => match self.below(4) {
                    0 => format!("drop view {}{}", view.identity, ["", " cascade"][self.below(2)]),
                    1 => format!("alter view {} rename to {}", view.identity, self.name()),
                    2 => format!("create or replace view {} as select 1 as one", view.identity),
                    _ => format!("alter view {} set schema {}", view.identity, self.schema(facts)),
                },
                None => format!("create view {} as select 1 as one", self.place(facts)),
            },
            37 => format!(
                "create materialized view {} as select {c} from {t}{}",
                self.place(facts),
                ["", " with no data"][self.below(2)]
            ),
            38 => match self.pick(facts, &["materialized view"]) {
                Some(view) => match self.below(4) {
                    0 => format!("refresh materialized view {}", view.identity),
                    1 => format!("drop materialized view {} cascade", view.identity),
                    2 => format!("alter materialized view {} rename to {}", view.identity, self.name()),
                    _ => format!("alter materialized view {} set schema {}", view.identity, self.schema(facts)),
                },
                None => "analyze".into(),
            },
            39 => format!(
                "create function {}(i int) returns int language sql as 'select {}'",
                self.place(facts),
                self.below(9)
            ),
            40 => {
                let n = self.below(4);
                format!(
                    "create or replace function public.{}f{n}() returns trigger language plpgsql as 'begin return new; end'",
                    self.prefix
                )
            }
            41 => match self.pick(facts, &["function", "procedure"]) {
                Some(function) => match self.below(4) {
                    0 => format!("drop function {} cascade", function.identity),
                    1 => format!("alter function {} rename to {}", function.identity, self.name()),
                    2 => format!(
                        "alter function {} {}",
                        function.identity,
                        ["stable", "strict", "security definer", "set work_mem = '1MB'"][self.below(4)]
                    ),
                    _ => format!("alter function {} set schema {}", function.identity, self.schema(facts)),
                },
                None => format!("create procedure {}() language sql as 'select 1'", self.place(facts)),
            },
            42 | 43 => match self.pick(facts, &["function trigger"]) {
                Some(function) => format!(
                    "create trigger {} {} on {t} for each row execute function {}",
                    self.name(),
                    ["before insert", "after update or delete"][self.below(2)],
                    function.identity
                ),
                None => format!(
                    "create function {}() returns trigger language plpgsql as 'begin return new; end'",
                    self.place(facts)
                ),
            },
            44 => match self.pick(facts, &["trigger"]) {
                Some(trigger) => match self.below(3) {
                    0 => format!("drop trigger {} on {}", trigger.identity, trigger.parts[0]),
                    1 => {
                        format!("alter trigger {} on {} rename to {}", trigger.identity, trigger.parts[0], self.name())
                    }
                    _ => format!(
                        "alter table {} {} trigger {}",
                        trigger.parts[0],
                        ["disable", "enable always", "enable"][self.below(3)],
                        trigger.identity
                    ),
                },
                None => format!("alter table {t} disable trigger all"),
            },
            45 => format!("create policy {} on {t} using (true)", self.name()),
            46 => match self.pick(facts, &["policy"]) {
                Some(policy) => match self.below(3) {
                    0 => format!("drop policy {} on {}", policy.identity, policy.parts[0]),
                    1 => format!("alter policy {} on {} rename to {}", policy.identity, policy.parts[0], self.name()),
                    _ => {
                        format!("alter policy {} on {} using (1 > {})", policy.identity, policy.parts[0], self.below(3))
                    }
                },
                None => format!("create policy {} on {t} for select using (true)", self.name()),
            },
            47 => match self.pick(facts, &["rule"]) {
                Some(rule) if self.below(2) == 0 => format!("drop rule {} on {}", rule.identity, rule.parts[0]),
                _ => format!("create rule {} as on update to {t} do also select 1", self.name()),
            },
            48 => format!("create type {} as enum ('a', 'b')", self.place(facts)),
            49 => match self.pick(facts, &["enum"]) {
                Some(name) => match self.below(4) {
                    0 => format!("alter type {} add value '{}'", name.identity, self.below(100)),
                    1 => format!("alter type {} rename to {}", name.identity, self.name()),
                    2 => format!("drop type {} cascade", name.identity),
                    _ => format!(
                        "alter type {} rename value {} to '{}'",
                        name.identity,
                        self.column(name),
                        self.below(1000)
                    ),
                },
                None => format!("create type {} as enum ()", self.place(facts)),
            },
            50 => match self.pick(facts, &["domain"]) {
                Some(domain) => match self.below(5) {
                    0 => format!(
                        "alter domain {} add constraint {} check (value is not null)",
                        domain.identity,
                        self.name()
                    ),
                    1 => format!("alter domain {} set default {}", domain.identity, self.below(9)),
                    2 => format!("alter domain {} rename to {}", domain.identity, self.name()),
                    3 => format!("drop domain {} cascade", domain.identity),
                    _ => format!("alter domain {} {} not null", domain.identity, ["set", "drop"][self.below(2)]),
                },
                None => format!("create domain {} as int check (value > 0)", self.place(facts)),
            },
            51 => match self.pick(facts, &["composite"]) {
                Some(name) => match self.below(4) {
                    0 => format!("alter type {} add attribute {} int cascade", name.identity, self.name()),
                    1 => format!("alter type {} drop attribute {} cascade", name.identity, self.column(name)),
                    2 => format!("drop type {} cascade", name.identity),
                    _ => format!(
                        "alter type {} rename attribute {} to {}",
                        name.identity,
                        self.column(name),
                        self.name()
                    ),
                },
                None => format!("create type {} as (a int, b text)", self.place(facts)),
            },
            52 => format!("create type {} as range (subtype = int)", self.place(facts)),
            53 => match self.pick(facts, &["range", "base"]) {
                Some(name) => format!("drop type {} cascade", name.identity),
                None => format!("create type {}", self.place(facts)),
            },
            54 => format!("create sequence {}", self.place(facts)),
            55 => match self.pick(facts, &["sequence"]) {
                Some(sequence) => match self.below(6) {
                    0 => format!("alter sequence {} increment by {}", sequence.identity, 1 + self.below(9)),
                    1 => format!("alter sequence {} rename to {}", sequence.identity, self.name()),
                    2 => format!("drop sequence {} cascade", sequence.identity),
                    3 => format!("select nextval($s${}$s$)", sequence.identity),
                    4 => format!("alter sequence {} owned by {t}.{c}", sequence.identity),
                    _ => format!("alter sequence {} set schema {}", sequence.identity, self.schema(facts)),
                },
                None => format!("alter table {t} add column {} int generated always as identity", self.name()),
            },
            56 => format!("create schema {}", self.name()),
            57 => match self.pick(facts, &["schema"]) {
                Some(schema) if schema.name != "public" => match self.below(4) {
                    0 => format!("drop schema {} cascade", schema.identity),
                    1 => format!("alter schema {} rename to {}", schema.identity, self.name()),
                    2 => format!(
                        "alter schema {} owner to {}",
                        schema.identity,
                        ["postgres", "pg_database_owner"][self.below(2)]
                    ),
                    _ => format!("create table {}.{} (a int)", schema.identity, self.name()),
                },
                _ => {
                    let (schema, table, view) = (self.name(), self.name(), self.name());
                    format!(
                        "create schema {schema} create table {table} (a int primary key) create view {view} as select a from {table}"
                    )
                }
            },
            58 => match self.pick(facts, &["statistics"]) {
                Some(statistics) if self.below(2) == 0 => format!("drop statistics {}", statistics.identity),
                _ => format!("create statistics {} on {c}, {} from {t}", self.place(facts), self.column(table)),
            },
            59 | 60 => match self.below(4) {
                0 => format!("comment on table {t} is '{}'", self.below(3)),
                1 => format!("comment on column {t}.{c} is 'c{}'", self.below(3)),
                2 => format!("comment on table {t} is null"),
                _ => {
                    let schema = self.schema(facts);
                    format!("comment on schema {schema} is '{}'", self.below(3))
                }
            },
            61 => {
                let (a, b) = (self.name(), self.name());
                format!(
                    "create temp table {a} (a serial primary key, b text unique); create temp view {b} as select * from {a}; create index on {a} (b); drop table {a} cascade"
                )
            }
            62 => match self.below(5) {
                0 => format!("grant select on {t} to public"),
                1 => format!("grant update ({c}) on {t} to public"),
                2 => format!("truncate {t} cascade"),
                3 => format!("analyze {t}"),
                _ => format!(
                    "alter table {t} alter column {c} type text using null; alter table {t} add primary key ({c})"
                ),
            },
            _ => [
                "create table broken (",
                "alter table nowhere.nothing add x int",
                "drop table nowhere.nothing",
                "select 1 / 0",
                "create table public.twice (); create table public.twice ()",
            ][self.below(5)]
            .into(),
        }
    }
}
