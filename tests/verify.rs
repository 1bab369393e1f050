//! `pggit-proxy verify`: whatever is done to a sealed history, by a superuser in the tables themselves, is found and named;
//! a history to which nothing was done passes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use support::proxy::run;
use support::{Pg, PgServer, Proxy, migrate, versions};

/// A database with a sealed history of some commits.
struct Sealed {
    server: &'static PgServer,
    database: String,
}

/// What `verify` came to.
struct Verdict {
    code: i32,
    problems: Vec<String>,
    summary: String,
    error: String,
}

fn each(test: impl Fn(&Sealed)) {
    for version in versions() {
        test(&sealed(version));
    }
}

fn sealed(version: Pg) -> Sealed {
    let server = PgServer::shared(version);
    let database = server.unique_database("sealed");
    migrate(server, &database);
    let it = Sealed { server, database };
    it.sql("begin; set local pggit.message = 'orders'; create table orders (id int primary key, note text); commit");
    it.sql("alter table orders add total numeric");
    it.sql("begin; create table customers (id int); create index on customers (id); create view v as select 1 as a; commit");
    it.sql("create table last ()");
    it.seal();
    it
}

impl Sealed {
    fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.database, sql)
    }

    fn seal(&self) {
        while self.sql("select pggit.seal()") != "0" {}
    }

    fn verify(&self, more: &[&str]) -> Verdict {
        self.verify_as(&self.server.url(&self.database), more)
    }

    fn verify_as(&self, url: &str, more: &[&str]) -> Verdict {
        let output = run(&[&["verify", "--database-url", url], more].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        let (summary, problems) = text.lines().partition::<Vec<&str>, _>(|line| {
            ["commits ", "rows ", "head ", "unsealed "].iter().any(|start| line.starts_with(start))
        });
        Verdict {
            code: output.status.code().unwrap(),
            problems: problems.into_iter().map(str::to_owned).collect(),
            summary: summary.join("\n"),
            error: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn passes(&self) {
        // On a busy machine standard error tells of progress.
        let verdict = self.verify(&[]);
        assert_eq!((verdict.code, verdict.problems), (0, vec![]), "{}", verdict.error);
    }

    /// Verifies after something was done: exactly these problems, each named by these words.
    fn finds(&self, done: &str, wanted: &[&[&str]]) {
        self.sql(done);
        let verdict = self.verify(&[]);
        assert_eq!(verdict.code, 1, "after {done}:\n{}", verdict.summary);
        assert_eq!(verdict.problems.len(), wanted.len(), "after {done}:\n{}", verdict.problems.join("\n"));
        for words in wanted {
            let named = |line: &&String| words.iter().all(|word| line.contains(word));
            assert!(verdict.problems.iter().any(|line| named(&line)), "{words:?} in {:#?}", verdict.problems);
        }
        let count = if wanted.len() == 1 { "1 problem".to_owned() } else { format!("{} problems", wanted.len()) };
        assert!(verdict.error.contains(&count), "{}", verdict.error);
        // psql users are told the same.
        assert_eq!(self.sql("select count(*) from pggit.verify()"), wanted.len().to_string());
    }

    /// Of the row that made or last changed this object.
    fn row(&self, object: &str) -> String {
        self.sql(&format!(
            "select id from pggit.changes where object_name = '{object}' order by created_at desc limit 1"
        ))
    }

    fn commit(&self, object: &str) -> String {
        self.sql(&format!(
            "select commit_id from pggit.changes where object_name = '{object}' order by created_at desc limit 1"
        ))
    }

    fn head(&self) -> String {
        self.sql("select hash from pggit.commits order by seq desc nulls last limit 1")
    }

    fn columns(&self, table: &str) -> Vec<(String, String)> {
        let rows = self.sql(&format!(
            "select attname || ' ' || atttypid::regtype from pg_attribute \
             where attrelid = 'pggit.{table}'::regclass and attnum > 0 and not attisdropped order by attnum"
        ));
        rows.lines().map(|row| row.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap()).collect()
    }
}

/// Another value than the one that is there.
fn other(column: &str, kind: &str) -> String {
    match kind {
        "uuid" => "gen_random_uuid()".into(),
        "text" => format!("coalesce({column}, '') || ' '"),
        "integer" | "bigint" => format!("coalesce({column}, 0) + 1"),
        "oid" => format!("(coalesce({column}::bigint, 0) + 1)::oid"),
        "boolean" => format!("not {column}"),
        "timestamp with time zone" => format!("{column} + interval '1 microsecond'"),
        // A null inside a value is another value, too.
        "jsonb" => format!("coalesce({column}, '{{}}') || '{{\"99\": null}}'"),
        "inet" => "'9.9.9.9'".into(),
        "xid8" => format!("(({column}::text::bigint) + 1)::text::xid8"),
        "xid" => format!("(coalesce({column}::text::bigint, 0) + 1)::text::xid"),
        "pg_snapshot" => "'1:1:'".into(),
        "uuid[]" => format!("{column} || null::uuid"),
        "bytea[]" => format!("{column} || '\\x00'::bytea"),
        "bytea" => format!("{column} || '\\x00'::bytea"),
        _ => panic!("column {column} is of a type that this test does not know: {kind}"),
    }
}

#[test]
fn a_clean_history_passes() {
    each(|it| {
        it.passes();
        let rows = it.sql("select count(*) from pggit.changes");
        let head = it.head();
        let verdict = it.verify(&["--expect", &head]);
        assert_eq!(verdict.code, 0, "{:?}", verdict.problems);
        let commit = it.commit("last");
        let summary = verdict.summary.lines().map(|line| line.split_once(char::is_whitespace).unwrap().1.trim());
        let [commits, told, end, unsealed] = summary.collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((commits, told, unsealed), ("5", rows.as_str(), "0 rows in 0 commits"));
        assert!(end.starts_with(&format!("{head} (commit {commit}, sealed 20")), "{end}");

        it.sql("create table later (id int primary key)");
        assert!(it.verify(&[]).summary.ends_with("2 rows in 1 commits"));
        it.seal();
        // The chain goes on from where it was.
        assert_eq!(it.verify(&["--expect", &head.to_uppercase()]).code, 0);
        assert_ne!(it.head(), head);
    });
}

#[test]
fn a_reader_may_verify_and_not_seal() {
    each(|it| {
        let role = format!("{}_reader", it.database);
        it.sql(&format!("create role {role} login in role pggit_reader"));
        it.seal();
        let url = format!("postgres://{role}@{}/{}", it.server.address, it.database);
        let verdict = it.verify_as(&url, &[]);
        assert_eq!((verdict.code, verdict.error.as_str()), (0, ""));
        assert_eq!(support::psql_ok(&url, "select count(*) from pggit.verify()"), "0");
        for refused in ["select pggit.seal()", "delete from pggit.seals", "update pggit.seal_state set head_seq = 0"] {
            let error = support::psql(&url, refused);
            assert!(String::from_utf8_lossy(&error.stderr).contains("permission denied"), "{refused}");
        }
        let stranger = format!("{}_stranger", it.database);
        it.sql(&format!("create role {stranger} login"));
        let verdict = it.verify_as(&format!("postgres://{stranger}@{}/{}", it.server.address, it.database), &[]);
        assert_eq!(verdict.code, 1);
        assert!(verdict.error.contains("permission denied"), "{}", verdict.error);
    });
}

#[test]
fn an_edit_of_any_column_of_any_row_is_found() {
    each(|it| {
        let row = it.row("orders");
        for (column, kind) in it.columns("changes") {
            let found = it.sql(&format!(
                "begin; update pggit.changes set {column} = {} where id = '{row}'; \
                 select problem || ' ' || coalesce(row_id::text, 'all') from pggit.verify(); rollback",
                other(&column, &kind)
            ));
            match column.as_str() {
                "id" => assert!(found.contains("deleted") && found.contains("inserted"), "{column}: {found}"),
                // The commit that it says it is of has no seal.
                "commit_id" => {
                    assert!(
                        found.contains("edited all") || found.contains(&format!("edited {row}")),
                        "{column}: {found}"
                    );
                }
                _ => assert_eq!(found, format!("edited {row}"), "{column}"),
            }
        }
        // A NULL is not an empty text.
        let found = "select problem from pggit.verify()";
        let sql = format!("begin; update pggit.changes set message = '' where id = '{row}'; {found}; rollback");
        assert_eq!(it.sql(&sql), "edited");
        it.passes();
    });
}

#[test]
fn an_edit_of_any_column_of_any_seal_is_found() {
    each(|it| {
        for seq in 1..=5 {
            for (column, kind) in it.columns("seals") {
                let found = it.sql(&format!(
                    "begin; update pggit.seals set {column} = {} where seq = {seq}; \
                     select count(*) from pggit.verify() where problem in ('edited', 'deleted'); rollback",
                    if column == "seq" { "seq + 100".into() } else { other(&column, &kind) }
                ));
                assert_ne!(found, "0", "{column} of seal {seq}");
            }
        }
        for (column, value) in [("head_seq", "head_seq + 1"), ("head_seq", "head_seq - 1"), ("head_hash", "'\\x00'")] {
            let found = it.sql(&format!(
                "begin; update pggit.seal_state set {column} = {value}; select count(*) from pggit.verify(); rollback"
            ));
            assert_eq!(found, "1", "{column} of the state");
        }
        it.passes();
    });
}

#[test]
fn an_edited_row_is_named() {
    each(|it| {
        let (row, commit) = (it.row("customers"), it.commit("customers"));
        it.finds(
            &format!("update pggit.changes set created_by = 'somebody else' where id = '{row}'"),
            &[&["edited, seal 4", &commit, &row, "CREATE TABLE public.customers"]],
        );
    });
}

#[test]
fn deleted_rows_are_named() {
    each(|it| {
        let (row, index, commit) = (it.row("customers"), it.row("customers_id_idx"), it.commit("customers"));
        it.finds(
            &format!("delete from pggit.changes where id in ('{row}', '{index}')"),
            &[&["deleted, seal 4", &commit, &row], &["deleted, seal 4", &commit, &index]],
        );
    });
    each(|it| {
        let commit = it.commit("last");
        it.finds(
            "delete from pggit.changes where object_name = 'last'",
            &[&["deleted, seal 5", &commit, "all rows", "(1)"]],
        );
    });
    each(|it| {
        it.finds("truncate pggit.changes", &[&["seal 1"], &["seal 2"], &["seal 3"], &["seal 4"], &["seal 5"]]);
    });
}

#[test]
fn inserted_rows_are_named() {
    // As another row of a commit.
    each(|it| {
        let commit = it.commit("last");
        let id = "6ec1a4e0-0000-4000-8000-000000000001";
        it.finds(
            &format!(
                "insert into pggit.changes select (jsonb_populate_record(c, '{{\"id\": \"{id}\", \"object_identity\": \"public.more\"}}')).* \
                 from pggit.changes c where commit_id = '{commit}'"
            ),
            &[&["inserted, seal 5", &commit, id, "CREATE TABLE public.more"]],
        );
    });
    // As a commit of its own, in the past.
    each(|it| {
        let (id, commit) = ("6ec1a4e0-0000-4000-8000-000000000001", "6ec1a4e0-0000-4000-8000-000000000002");
        let insert = format!(
            "insert into pggit.changes select (jsonb_populate_record(c, '{{\"id\": \"{id}\", \"commit_id\": \"{commit}\"}}')).* \
             from pggit.changes c where object_name = 'last'"
        );
        let wanted: &[&[&str]] = &[&["inserted, commit", commit, id, "CREATE TABLE public.last"]];
        it.finds(&insert, wanted);
        // It is not taken for a new one later.
        it.sql("create table more ()");
        it.seal();
        it.finds("select 1", wanted);
    });
    // A row moved from one commit to another.
    each(|it| {
        let (from, to, row) = (it.commit("v"), it.commit("last"), it.row("v"));
        it.finds(
            &format!("update pggit.changes set commit_id = '{to}' where id = '{row}'"),
            &[&["edited, seal 4", &from, &row, &to], &["inserted, seal 5", &to, &row]],
        );
    });
}

#[test]
fn other_orders_are_found() {
    each(|it| {
        let (a, b) = (it.row("customers"), it.row("v"));
        it.finds(
            &format!(
                "update pggit.changes c set created_at = o.created_at, ordinal = o.ordinal from pggit.changes o \
                 where (c.id, o.id) in (('{a}', '{b}'), ('{b}', '{a}'))"
            ),
            &[&["edited", &a], &["edited", &b]],
        );
    });
    each(|it| {
        it.finds(
            "update pggit.seals set seq = 1000 where seq = 2; update pggit.seals set seq = 2 where seq = 3; \
             update pggit.seals set seq = 3 where seq = 1000",
            // Both numbers are in their hashes, and neither follows upon what is before it.
            &[
                &["edited, seal 2", "columns"],
                &["edited, seal 3", "columns"],
                &["edited, seal 1", "next"],
                &["edited, seal 2", "next"],
                &["edited, seal 3", "next"],
            ],
        );
    });
}

#[test]
fn deleted_seals_are_named() {
    each(|it| {
        let commit = it.commit("orders");
        it.finds(
            &format!("delete from pggit.changes where commit_id = '{commit}'; delete from pggit.seals where seq = 3"),
            &[&["deleted, seal 3", &commit, "missing"]],
        );
    });
    each(|it| {
        it.finds(
            "delete from pggit.changes where commit_id in (select commit_id from pggit.seals where seq >= 4); \
             delete from pggit.seals where seq >= 4",
            &[&["deleted, seal 4", "up to number 5"]],
        );
    });
    each(|it| {
        it.finds("truncate pggit.changes, pggit.seals", &[&["deleted, seal 1", "up to number 5"]]);
    });
    each(|it| {
        it.finds("delete from pggit.seal_state", &[&["deleted", "seal_state"]]);
    });
    // Rows that lost their seal are not sealed anew.
    each(|it| {
        let commit = it.commit("last");
        let lost: &[&[&str]] = &[&["deleted, seal 5", "missing"], &["not sealed", &commit, "CREATE TABLE public.last"]];
        it.finds("delete from pggit.seals where seq = 5", lost);
        it.seal();
        it.finds("select 1", lost);
    });
}

#[test]
fn a_new_hash_on_an_edited_seal_breaks_the_chain() {
    let edit = |seq: i32| {
        format!(
            "set timezone = 'UTC'; update pggit.seals set author = 'somebody else' where seq = {seq}; \
             update pggit.seals s set hash = pggit.seal_hash(s) where seq = {seq}"
        )
    };
    each(|it| it.finds(&edit(3), &[&["edited, seal 3", "next seal"]]));
    each(|it| it.finds(&edit(5), &[&["edited, seal 5", "chain ended in another"]]));
}

#[test]
fn a_whole_new_chain_does_not_go_through_the_noted_hash() {
    each(|it| {
        let noted = it.head();
        it.sql(
            "update pggit.changes set created_by = 'somebody else'; truncate pggit.seals, pggit.seal_state; \
             insert into pggit.seal_state default values",
        );
        it.seal();
        it.passes();
        let verdict = it.verify(&["--expect", &noted]);
        assert_eq!(verdict.code, 1);
        assert_eq!(verdict.problems, [format!("rewritten: no seal has the hash {noted}")]);
        assert!(verdict.summary.contains(&it.head()));
        assert_eq!(it.sql(&format!("select problem from pggit.verify('{noted}')")), "rewritten");
        // The end cut off, and the state with it.
        let noted = it.head();
        it.sql(
            "delete from pggit.changes where commit_id = (select commit_id from pggit.seals where seq = 5); delete from pggit.seals where seq = 5; \
             update pggit.seal_state t set head_seq = 4, head_hash = s.hash from pggit.seals s where s.seq = 4",
        );
        it.passes();
        assert_eq!(it.verify(&["--expect", &noted]).code, 1);
    });
}

#[test]
fn the_databases_own_functions_are_not_trusted() {
    each(|it| {
        it.sql(
            "delete from pggit.changes where object_name = 'last'; \
             create or replace function pggit.verify_seals(after bigint, upto bigint) \
                 returns table (problem text, seq bigint, commit_id uuid, row_id uuid, detail text) language sql as 'select null::text, 1::bigint, null::uuid, null::uuid, null::text where false'; \
             create or replace function pggit.verify_end() \
                 returns table (problem text, seq bigint, commit_id uuid, row_id uuid, detail text) language sql as 'select null::text, 1::bigint, null::uuid, null::uuid, null::text where false'; \
             create or replace function pggit.row_hash(c pggit.changes) returns bytea language sql as 'select null::bytea'; \
             create function public.sha256(bytea) returns bytea language sql as 'select null::bytea'; \
             alter database current_database_ set search_path = public, pg_catalog"
                .replace("current_database_", &format!("\"{}\"", it.database))
                .as_str(),
        );
        assert_eq!(it.sql("select count(*) from pggit.verify()"), "0", "they were replaced");
        let verdict = it.verify(&[]);
        assert_eq!(verdict.code, 1);
        assert_eq!(verdict.problems.len(), 1, "{:?}", verdict.problems);
        assert!(verdict.problems[0].starts_with("deleted, seal 5"), "{:?}", verdict.problems);
    });
    each(|it| {
        it.sql("alter event trigger pggit_record_ddl disable; alter table pggit.changes rename to hidden; create view pggit.changes as select * from pggit.hidden");
        let verdict = it.verify(&[]);
        assert_eq!(verdict.code, 1);
        assert!(verdict.error.contains("pggit.changes is not a table any more"), "{}", verdict.error);
    });
}

#[test]
fn what_cannot_be_verified_says_why() {
    let server = PgServer::shared(Pg::V15);
    let empty = Sealed { server, database: server.unique_database("empty") };
    let verdict = empty.verify(&[]);
    assert_eq!(verdict.code, 1);
    assert!(verdict.error.contains("migrate up"), "{}", verdict.error);
    assert_eq!(empty.verify(&["--expect", "abc"]).code, 2);
    migrate(server, &empty.database);
    let verdict = empty.verify(&[]);
    assert_eq!(verdict.code, 0, "nothing sealed yet: {}", verdict.error);
    assert!(
        verdict.summary.contains("head      none") && verdict.summary.contains("2 rows in 1 commits"),
        "{}",
        verdict.summary
    );
    let verdict = empty.verify_as("postgres://x@127.0.0.1:1/app", &[]);
    assert!(verdict.code == 1 && verdict.error.contains("cannot connect"), "{}", verdict.error);
}

#[test]
fn it_passes_at_any_moment_while_proxies_seal_and_clients_work() {
    each(|it| {
        let config = format!("[upstream]\ndbname = \"{}\"\n", it.database);
        let proxies = [Proxy::start(it.server, &config), Proxy::start(it.server, &config)];
        let working = AtomicBool::new(true);
        /// Also when an assertion fails: the scope waits for its threads.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        std::thread::scope(|scope| {
            let _stop = Stop(&working);
            for worker in 0..4 {
                let (proxy, working) = (&proxies[worker % 2], &working);
                scope.spawn(move || {
                    let mut client = proxy.connect(&it.database);
                    for round in (0..300).take_while(|_| working.load(Ordering::Relaxed)) {
                        client
                            .rows(&format!("begin; create table w_{worker}_{round} (); drop table w_{worker}_{round}"));
                        client.rows("commit");
                    }
                });
            }
            let mut sealed_meanwhile = 0;
            for _ in 0..15 {
                it.passes();
                it.sql("select pggit.seal(10)");
                sealed_meanwhile = it.sql("select count(*) from pggit.seals").parse().unwrap();
            }
            assert!(sealed_meanwhile > 5, "{sealed_meanwhile}");
        });
        it.seal();
        it.passes();
    });
}

#[test]
fn a_history_restored_into_another_cluster_passes_and_goes_on() {
    for version in versions() {
        let it = sealed(version);
        it.sql("create table not_sealed_yet ()");
        let files = support::postgres::new_directory("dump");
        std::fs::set_permissions(&files, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        // Its transaction numbers lie above and below those of the other cluster.
        let tables = ["changes", "seals", "seal_state"];
        let file = |table: &str| files.join(table).display().to_string();
        for table in tables {
            it.sql(&format!("copy pggit.{table} to '{}'", file(table)));
        }
        let noted = it.head();
        for burn in [0, 5_000] {
            let server = PgServer::start(version);
            // All these servers are copies of one; another table has this one's oid then.
            server.psql("postgres", "create table filler (); drop table filler");
            server.psql(
                "postgres",
                &format!("do $$ begin for i in 1..{burn} loop perform pg_current_xact_id(); commit; end loop; end $$"),
            );
            let database = server.create_database("restored");
            migrate(&server, &database);
            server.psql(&database, "truncate pggit.changes, pggit.seals, pggit.seal_state");
            for table in tables {
                server.psql(&database, &format!("copy pggit.{table} from '{}'", file(table)));
            }
            let verify = || run(&["verify", "--expect", &noted, "--database-url", &server.url(&database)]);
            let before = verify();
            assert!(before.status.success(), "{}", String::from_utf8_lossy(&before.stdout));
            let whole = String::from_utf8_lossy(&before.stdout).into_owned();
            assert!(whole.ends_with("1 rows in 1 commits\n"), "{whole}");
            server.psql(&database, "create table here ()");
            while server.psql(&database, "select pggit.seal(1)") != "0" {}
            server.psql(&database, "create table here_too ()");
            while server.psql(&database, "select pggit.seal(1)") != "0" {}
            assert_eq!(
                server.psql(
                    &database,
                    "select string_agg(object_name, ' ' order by seq) from pggit.commits k join pggit.changes c on c.commit_id = k.id where seq > 5"
                ),
                "not_sealed_yet here here_too"
            );
            let after = verify();
            assert!(after.status.success(), "{}", String::from_utf8_lossy(&after.stdout));
            // From here on old numbers mean something.
            server.psql(&database, "update pggit.seals set xid = '3' where seq = 6");
            assert!(!verify().status.success());
        }
        std::fs::remove_dir_all(files).unwrap();
    }
}
