//! `SELECT * FROM pggit.diff(…)` on a branch: what DIFF says on the control port, seen from within a transaction; and between
//! commits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::wire::{extended, query};
use support::{TwoBranches, Wire, migrate, psql, psql_ok, versions};

fn each(test: impl Fn(&TwoBranches)) {
    versions().into_iter().for_each(|version| test(&TwoBranches::new(version)));
}

impl TwoBranches {
    fn on(&self, branch: &str, user: &str) -> Wire {
        Wire::connect(self.proxy.clients, &[("user", user), ("database", &format!("{}/{branch}", self.app))])
    }
}

/// One for each row, as psql prints it.
fn lines(rows: Vec<Vec<Option<String>>>) -> String {
    rows.iter().map(|row| row.iter().map(|cell| cell.as_deref().unwrap_or("")).collect::<Vec<_>>().join("|")).fold(
        String::new(),
        |all, row| match all.is_empty() {
            true => row,
            false => all + "\n" + &row,
        },
    )
}

fn diff(client: &mut Wire, arguments: &str) -> String {
    lines(client.rows(&format!("select * from pggit.diff({arguments})")))
}

/// In short: what became of what.
fn short(client: &mut Wire, arguments: &str) -> String {
    let sql = "select coalesce(string_agg(change || ' ' || object_identity || ' ' || fact, ', '), '') from pggit.diff";
    client.value(&format!("{sql}({arguments})"))
}

/// SQLSTATE, message and hint of the statement's error.
fn refused(client: &mut Wire, sql: &str) -> [String; 3] {
    let replies = client.ask(&query(sql));
    let error = replies.iter().find(|reply| reply.tag == b'E').unwrap_or_else(|| panic!("no error: {replies:?}"));
    [b'C', b'M', b'H'].map(|code| error.field(code).unwrap_or_default())
}

#[test]
fn it_says_what_the_control_port_says() {
    each(|it| {
        it.server.psql(
            &it.app,
            "create table only_here (a int); create table shared (a int, b text default 'a\\b'); create schema s",
        );
        it.server.psql(
            &it.other,
            "create table shared (a bigint, b text default 'a\\b'); comment on table shared is 'dört \\ ''4'''; \
             create function \"Odd f\"(int) returns int language sql as 'select 1'; grant select on shared to public",
        );
        let shown = |command: &str| psql_ok(&it.proxy.control_dsn(), command);
        let (there, back) = (shown("diff main other"), shown("diff other main"));
        let kinds = ["|removed|", "|changed|", "|added|", "|comment|", "|grants|", "|definition|"];
        assert!(kinds.iter().all(|word| there.contains(word)), "{there}");
        // What is printed does not depend on the session.
        let settings = "set standard_conforming_strings = off; set quote_all_identifiers = on; set search_path = public; \
                        set client_min_messages = error";
        for branch in ["main", "other"] {
            let mut client = it.on(branch, "postgres");
            for settings in ["select 1", settings] {
                client.rows(settings);
                assert_eq!(diff(&mut client, "'main', 'other'"), there, "on {branch}, {settings}");
                assert_eq!(diff(&mut client, "'other', 'main'"), back, "on {branch}, {settings}");
            }
            // Without a second branch: this one.
            let (from, expected) = if branch == "main" { ("'other'", &back) } else { ("'main'", &there) };
            assert_eq!(&diff(&mut client, from), expected);
            assert_eq!(diff(&mut client, &format!("'{branch}'")), "");
        }
        // Both are other branches.
        let third = it.server.unique_database("third");
        migrate(it.server, &third);
        it.server.psql(&it.app, &format!("insert into pggit.branches (name, database) values ('third', '{third}')"));
        it.proxy.control("reload");
        assert_eq!(diff(&mut it.on("third", "postgres"), "'main', 'other'"), there);
        // With parameters, and the client sees nothing but its answer.
        let replies = it.on("main", "postgres").ask(&extended("select count(*) from pggit.diff($1)", &[Some("other")]));
        assert_eq!(replies.iter().map(|reply| reply.tag as char).collect::<String>(), "12TDCZ");
    });
}

/// pg_dump of the two databases, with what a transaction did in one of them before it was undone.
#[test]
fn a_transaction_sees_its_own_changes_and_nobody_elses() {
    each(|it| {
        let (mut here, mut there) = (it.on("other", "postgres"), it.on("main", "postgres"));
        here.rows("begin; create table mine (a int); savepoint s; create table undone (a int); rollback to s");
        assert_eq!(short(&mut here, "'main'"), "added public.mine definition");
        assert_eq!(short(&mut there, "'other', 'main'"), "", "not committed");
        there.rows("begin; create table theirs (a int)");
        assert_eq!(short(&mut here, "'main'"), "added public.mine definition", "not committed");
        there.rows("commit");
        let both = "added public.mine definition, removed public.theirs definition";
        assert_eq!(short(&mut here, "'main'"), both, "committed, and seen within the same transaction");
        // Among other statements, and where nothing may be written.
        assert_eq!(
            lines(here.rows(&format!("select 1; select count(*) from pggit.diff('main'); {}", "commit"))),
            "1\n2"
        );
        here.rows("begin read only");
        assert_eq!(short(&mut here, "'main'"), both);
        here.rows("commit");
        let dumps = [&it.app, &it.other].map(|database| it.server.schema_dump(database, &["-N", "pggit"]));
        assert!(dumps[0].contains("TABLE public.theirs") && dumps[1].contains("TABLE public.mine"));
        here.rows("drop table mine; create table theirs (a int)");
        assert_eq!(short(&mut here, "'main'"), "");
        let dumps = [&it.app, &it.other].map(|database| it.server.schema_dump(database, &["-N", "pggit"]));
        assert_eq!(dumps[0], dumps[1]);
    });
}

#[test]
fn what_cannot_be_answered_is_said() {
    each(|it| {
        let mut client = it.on("main", "postgres");
        let call = |arguments: &str| format!("select * from pggit.diff({arguments})");
        let unknown = refused(&mut client, &call("'othr'"));
        assert_eq!(unknown[..2], ["3D000", "branch \"othr\" does not exist"]);
        assert!(unknown[2].contains("\"other\""), "{unknown:?}");
        assert_eq!(refused(&mut client, &call("null::text"))[0], "22004");
        for level in ["repeatable read", "serializable"] {
            client.rows(&format!("begin isolation level {level}"));
            let error = refused(&mut client, &call("'other'"));
            assert!(error[0] == "25001" && error[2].contains("READ COMMITTED"), "{error:?}");
            client.rows("rollback");
        }
        assert_eq!(diff(&mut client, "'other'"), "", "the session goes on");
        // Round the proxy this branch is there, and no other.
        let direct = |sql: &str| psql(&it.server.url(&it.app), sql);
        let error = String::from_utf8_lossy(&direct(&call("'other'")).stderr).into_owned();
        assert!(error.contains("55000") && error.contains("pggit-proxy diff"), "{error}");
        assert!(direct(&call("'main'")).status.success());
        // A database whose encoding cannot hold what the other branch says.
        let narrow = it.server.unique_database("narrow");
        it.server.psql("postgres", &format!("drop database {narrow}"));
        it.server.psql(
            "postgres",
            &format!("create database {narrow} encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0"),
        );
        migrate(it.server, &narrow);
        it.server.psql(&it.app, &format!("insert into pggit.branches (name, database) values ('narrow', '{narrow}')"));
        it.proxy.control("reload");
        it.server.psql(&it.other, "create table t (a int); comment on table t is 'Ω'");
        let mut narrow = it.on("narrow", "postgres");
        let error = refused(&mut narrow, &call("'other'"));
        assert!(error[0] == "22000" && error[1].contains("encoding"), "{error:?}");
        assert_eq!(diff(&mut it.on("other", "postgres"), "'narrow', 'main'"), "");
    });
}

#[test]
fn readers_may_where_they_may_connect() {
    each(|it| {
        let [reader, late, nobody] = ["reader", "late", "nobody"].map(|name| format!("{name}_{}", it.app));
        it.server.psql(
            &it.app,
            &format!(
                "create role {reader} login; grant pggit_reader to {reader}; create role {nobody} login; \
                 create role {late} login noinherit; grant pggit_reader to {late}"
            ),
        );
        it.server.psql(&it.other, "create table t (a int)");
        let call = "select * from pggit.diff('other')";
        let seen = "removed public.t definition";
        let mut client = it.on("main", &reader);
        assert_eq!(short(&mut client, "'other'"), seen);
        assert_eq!(refused(&mut it.on("main", &nobody), call)[0], "42501");
        let mut late = it.on("main", &late);
        assert_eq!(refused(&mut late, call)[0], "42501");
        late.rows("set role pggit_reader");
        assert_eq!(short(&mut late, "'other'"), seen);
        // The parts it is made of are nobody's.
        for sql in ["select pggit.ask_proxy('{}')", "select * from pggit.facts_of('other')", "table pggit.answers"] {
            assert_eq!(refused(&mut client, sql)[0], "42501", "{sql}");
        }
        // Who may not go there may not look there.
        it.server.psql(&it.other, &format!("revoke connect on database {} from public", it.other));
        let error = refused(&mut client, call);
        assert!(error[0] == "42501" && error[1] == "permission denied for branch \"other\"", "{error:?}");
        assert_eq!(short(&mut it.on("main", "postgres"), "'other'"), seen);
    });
}

#[test]
fn commits_are_compared_by_the_history() {
    each(|it| {
        let mut client = it.on("main", "postgres");
        let facts = |client: &mut Wire| {
            let sql = "select object_type, object_identity, fact, value from pggit.facts() where fact <> 'grants' \
                       and object_type <> 'extension' and object_identity not in ('public', 'plpgsql')";
            client.rows(sql).into_iter().map(|row| {
                let mut cells = row.into_iter().map(Option::unwrap_or_default);
                let key: Vec<String> = cells.by_ref().take(3).collect();
                (key.join("|"), cells.next().unwrap_or_default())
            })
        };
        let steps = [
            "create table t (a int, b text); create view v as select a from t; comment on table t is 'one'",
            "alter table t add c int default 5; comment on table t is 'two'; create index on t (c)",
            "drop view v; create function f() returns int language sql as 'select 1'; comment on table t is null",
            "create view v as select a from t; drop function f(); alter table t drop c",
        ];
        let mut seen = Vec::new();
        for step in steps {
            client.rows(step);
            let then: std::collections::BTreeMap<_, _> = facts(&mut client).collect();
            seen.push((client.value("select commit_id from pggit.tip()"), then));
        }
        for (from, before) in &seen {
            for (to, after) in &seen {
                let changed = |key: &&String| before.get(*key) != after.get(*key);
                let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).filter(changed).collect();
                let expected: Vec<String> = keys
                    .iter()
                    .map(|key| {
                        let (old, new) = (before.get(*key), after.get(*key));
                        let change = match (old, new) {
                            (None, _) => "added",
                            (_, None) => "removed",
                            _ => "changed",
                        };
                        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
                        format!("{key}|{change}|{}|{}|f", text(old), text(new))
                    })
                    .collect();
                let mut told: Vec<_> = client
                    .rows(&format!("select * from pggit.diff('{from}'::uuid, '{to}')"))
                    .into_iter()
                    .map(|row| lines(vec![row]))
                    .collect();
                told.sort();
                let mut expected = expected;
                expected.sort();
                assert_eq!(told, expected);
            }
        }
        // Up to now, round the proxy, by readers.
        let first = &seen[0].0;
        let (last, reader) = (&seen[3].0, format!("reader_{}", it.app));
        it.server.psql(&it.app, &format!("create role {reader} login; grant pggit_reader to {reader}"));
        let url = it.server.url(&it.app).replace("postgres@", &format!("{reader}@"));
        let ask = |arguments: &str| psql_ok(&url, &format!("select * from pggit.diff({arguments})"));
        assert_eq!(ask(&format!("'{first}'::uuid")), ask(&format!("'{first}'::uuid, '{last}'")));
        client.rows("begin; create table uncommitted (a int)");
        assert_eq!(
            lines(client.rows(&format!("select change, object_identity from pggit.diff('{last}'::uuid)"))),
            "added|public.uncommitted"
        );
        client.rows("rollback");
        let nothing = refused(&mut client, "select * from pggit.diff('0198c0de-0000-7000-8000-00000000000a'::uuid)");
        assert!(nothing[0] == "22023" && nothing[1].contains("no commit"), "{nothing:?}");
        // Of a table that was renamed twice nobody knows any more how a view of it read in between.
        client.rows("create or replace view v as select a, b from t");
        client.rows("alter table t rename to u");
        let between = client.value("select commit_id from pggit.tip()");
        let of_view = "select change, stale from pggit.diff";
        let view = format!("{of_view}('{first}'::uuid, '{between}') where object_type = 'view'");
        assert_eq!(lines(client.rows(&view)), "changed|f");
        client.rows("alter table u rename to x");
        assert_eq!(lines(client.rows(&view)), "changed|t");
    });
}
