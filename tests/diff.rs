//! DIFF says that two branches differ where pg_dump prints them differently, and nowhere else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::proxy::run;
use support::{TwoBranches, psql, psql_ok, versions};

/// Each makes a difference that pg_dump shows, and is a difference in this kind of object and this fact.
const CHANGES: &[(&str, &str, &str)] = &[
    ("create table t (a int primary key, b varchar(10) default 'x')", "table", "definition"),
    ("alter table t add c timestamptz not null default '2026-01-01 12:00+00'", "table", "definition"),
    ("alter table t alter b type varchar(20)", "table", "definition"),
    ("alter table t alter b set storage external", "table", "definition"),
    ("alter table t add constraint positive check (a > 0)", "table", "definition"),
    ("comment on table t is 'it''s é'", "table", "comment"),
    ("comment on column t.a is 'a column'", "table column", "comment"),
    ("comment on constraint positive on t is 'a constraint'", "table constraint", "comment"),
    ("create index on t (b)", "index", "definition"),
    ("comment on index t_b_idx is 'an index'", "index", "comment"),
    ("create view v as select a, b from t", "view", "definition"),
    ("create or replace view v as select a, b, c from t", "view", "definition"),
    ("create materialized view m as select count(*) from t", "materialized view", "definition"),
    ("create function f(i int) returns int language sql as 'select 1'", "function", "definition"),
    ("create or replace function f(i int) returns int language sql as 'select 2'", "function", "definition"),
    ("create function f(i text) returns int language sql as 'select 3'", "function", "definition"),
    ("comment on function f(int) is 'a function'", "function", "comment"),
    ("revoke execute on function f(int) from public", "function", "grants"),
    ("grant select, insert on t to public", "table", "grants"),
    ("grant update (b) on t to public", "table column", "grants"),
    ("create sequence q increment 5", "sequence", "definition"),
    ("alter sequence q increment 6", "sequence", "definition"),
    ("create type mood as enum ('sad')", "type", "definition"),
    ("alter type mood add value 'ok' before 'sad'", "type", "definition"),
    ("create domain d as int check (value > 1)", "type", "definition"),
    ("create schema s", "schema", "definition"),
    ("grant usage on schema s to public", "schema", "grants"),
    ("comment on schema s is 'a schema'", "schema", "comment"),
    (
        "create trigger g before update on t for each row execute function suppress_redundant_updates_trigger()",
        "trigger",
        "definition",
    ),
    ("alter table t disable trigger g", "trigger", "definition"),
    ("alter table t enable row level security", "table", "definition"),
    ("create policy p on t for select using (a > 5)", "policy", "definition"),
    ("create rule r as on insert to v do instead nothing", "rule", "definition"),
    ("create statistics st on a, b from t", "statistics object", "definition"),
    ("create publication pub for table t", "publication", "definition"),
    ("alter default privileges in schema s grant select on tables to public", "default acl", "definition"),
    (
        "create table p (k int) partition by list (k); create table p1 partition of p for values in (1)",
        "table",
        "definition",
    ),
    ("alter table p detach partition p1", "table", "definition"),
    ("alter table t rename column b to bb", "table", "definition"),
    ("alter table t set (fillfactor = 70)", "table", "definition"),
    ("alter table t replica identity full", "table", "definition"),
    ("drop policy p on t", "policy", "definition"),
    ("drop function f(text)", "function", "definition"),
];

fn each(test: impl Fn(&TwoBranches)) {
    versions().into_iter().for_each(|version| test(&TwoBranches::new(version)));
}

impl TwoBranches {
    /// Kind of object, fact and change, a line each.
    fn differences(&self) -> String {
        let rows = self.proxy.control("diff main other");
        rows.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>().join("\n")
    }

    fn dumps(&self) -> [String; 2] {
        [&self.app, &self.other].map(|database| self.server.schema_dump(database, &["-N", "pggit"]))
    }
}

#[test]
fn it_agrees_with_pg_dump_after_every_change() {
    each(|it| {
        assert_eq!(it.differences(), "");
        for (sql, kind, fact) in CHANGES {
            it.server.psql(&it.other, sql);
            let [main, other] = it.dumps();
            assert_ne!(main, other, "{sql}");
            let told = it.differences();
            let found =
                told.lines().any(|line| line.starts_with(&format!("{kind}|")) && line.contains(&format!("|{fact}|")));
            assert!(found, "{sql}, {:?}: {told}", it.server.version);
            it.server.psql(&it.app, sql);
            let [main, other] = it.dumps();
            assert_eq!(main, other, "{sql}");
            assert_eq!(it.differences(), "", "{sql}, {:?}", it.server.version);
        }
    });
}

#[test]
fn each_side_is_told() {
    each(|it| {
        it.server.psql(&it.app, "create table only_here (a int); create table shared (a int)");
        it.server.psql(&it.other, "create table shared (a bigint); comment on table shared is 'there'");
        let rows = psql_ok(&it.proxy.control_dsn(), "diff main other").replace("\n-- Owner: postgres", "");
        assert_eq!(
            rows,
            "table|public.only_here|definition|removed|CREATE TABLE public.only_here (\n    a integer\n);|\n\
             table|public.shared|comment|added||there\n\
             table|public.shared|definition|changed|CREATE TABLE public.shared (\n    a integer\n);|CREATE TABLE public.shared (\n    a bigint\n);"
        );
        let unknown = psql(&it.proxy.control_dsn(), "diff main othr");
        let words = String::from_utf8_lossy(&unknown.stderr).into_owned();
        assert!(words.contains("branch \"othr\" does not exist") && words.contains("other"), "{words}");
    });
}

#[test]
fn the_command_line_prints_a_unified_text() {
    each(|it| {
        // The branches are in the table: a command line reads no configuration.
        it.server
            .psql(&it.app, &format!("insert into pggit.branches (name, database) values ('side', '{}')", it.other));
        let url = it.server.url(&it.app);
        let diff = |more: &[&str]| run(&[&["diff", "main", "side", "--database-url", &url], more].concat());
        let same = diff(&["--exit-code"]);
        assert_eq!((same.status.code(), same.stdout.len()), (Some(0), 0), "{}", String::from_utf8_lossy(&same.stderr));
        it.server.psql(&it.app, "create table t (a int, b text)");
        it.server.psql(&it.other, "create table t (a int, b text, c text)");
        let differs = diff(&["--exit-code"]);
        assert_eq!(differs.status.code(), Some(1));
        let text = String::from_utf8(differs.stdout).unwrap();
        assert!(text.starts_with("diff table public.t (definition)\n--- main: table public.t"), "{text}");
        assert!(text.contains("\n+    c text\n") && !text.contains('\x1b'), "{text}");
        assert_eq!(diff(&[]).status.code(), Some(0));
        assert!(
            String::from_utf8(diff(&["--color", "always"]).stdout).unwrap().contains("\x1b[32m+    c text\x1b[m\n")
        );
        let unknown = run(&["diff", "main", "nowhere", "--database-url", &url]);
        assert_eq!(unknown.status.code(), Some(1));
    });
}
