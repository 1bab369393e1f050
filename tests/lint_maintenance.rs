//! `lint` of maintenance that keeps everybody out of a table: REINDEX, CLUSTER, VACUUM FULL, REFRESH MATERIALIZED VIEW.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::wire::{bind, describe, execute, extended, parse, query, sync};
use support::{Message, PATIENCE, Repository, Wire, eventually, normalised, versions};

const QUIET: &str = "lint_exclude = [\"prefer-robust-stmts\", \"require-timeout-settings\"]\n";

fn config(action: &str) -> String {
    format!("[branches.main]\nlint = \"{action}\"\n{QUIET}")
}

fn each(config: &str, test: impl Fn(&Repository)) {
    for version in versions() {
        let r = Repository::new(version, config);
        r.sql(OBJECTS);
        test(&r);
    }
}

const OBJECTS: &str = "create table t (a bigint primary key, b text); insert into t select i, repeat('x', 1000) from generate_series(1, 20000) i; \
     create materialized view m as select a from t; create unique index on m (a); create schema s; create table s.u (a bigint primary key)";

/// Statement, tag, rule, what is written anew by it.
const BLOCKING: [(&str, &str, &str, &str); 6] = [
    ("cluster t using t_pkey", "CLUSTER", "ban-cluster", "t"),
    ("vacuum full t", "VACUUM", "ban-vacuum-full", "t"),
    ("vacuum (full, analyze) t, s.u", "VACUUM", "ban-vacuum-full", "t"),
    ("refresh materialized view m", "REFRESH MATERIALIZED VIEW", "require-concurrent-refresh", "m"),
    ("reindex index t_pkey", "REINDEX", "require-concurrent-reindex", "t_pkey"),
    ("reindex schema s", "REINDEX", "require-concurrent-reindex", "s.u_pkey"),
];

/// The same work, or less, with nobody kept waiting.
const HARMLESS: [&str; 6] = [
    "vacuum t",
    "vacuum (full false, analyze) t",
    "refresh materialized view concurrently m",
    "reindex table concurrently t",
    "analyze t",
    "refresh materialized view m with no data",
];

fn is_finding(message: &Message) -> bool {
    message.tag == b'N' && message.field(b'C').as_deref() == Some("01000")
}

fn rules(messages: &[Message]) -> Vec<String> {
    let warnings = messages.iter().filter(|message| is_finding(message));
    warnings.map(|message| message.field(b'M').unwrap().split(':').next().unwrap().to_owned()).collect()
}

fn error(messages: &[Message]) -> String {
    let error = messages.iter().find(|message| message.tag == b'E').unwrap_or_else(|| panic!("no error: {messages:?}"));
    format!("{} {}", error.field(b'C').unwrap(), error.field(b'M').unwrap())
}

/// The file that a relation is in.
fn file(r: &Repository, name: &str) -> String {
    r.sql(&format!("select pg_relation_filenode('{name}')"))
}

/// A connection to the same server without us.
fn direct(r: &Repository) -> Wire {
    let database = r.server.unique_database("direct");
    r.server.psql(&database, OBJECTS);
    Wire::connect(r.server.address, &[("user", "postgres"), ("database", &database)])
}

/// Every way to send it by itself.
fn ways(sql: &str) -> Vec<Vec<u8>> {
    vec![
        query(sql),
        extended(sql, &[]),
        [
            parse("p", sql, &[]),
            describe(b'S', "p"),
            bind("", "p", &[]),
            execute("", 0),
            support::wire::close(b'S', "p"),
            sync(),
        ]
        .concat(),
    ]
}

#[test]
fn a_warning_stands_before_the_answer_and_it_is_done() {
    each(&config("warn"), |r| {
        let (mut plain, mut client) = (direct(r), r.client());
        for (sql, tag, rule, written) in BLOCKING {
            for bytes in ways(sql) {
                let before = file(r, written);
                let (wanted, found) = (plain.ask(&bytes), client.ask(&bytes));
                assert_eq!(rules(&found), [rule], "{sql}: {found:?}");
                let complete = found.iter().position(|m| m.tag == b'C' && m.command_tag() == tag).expect(sql);
                assert!(found.iter().position(is_finding).unwrap() < complete, "{sql}");
                let rest: Vec<Message> = found.into_iter().filter(|message| !is_finding(message)).collect();
                assert_eq!(normalised(&rest), normalised(&wanted), "{sql}");
                assert_ne!(file(r, written), before, "{sql}");
            }
        }
        for (sql, ..) in BLOCKING.into_iter().filter(|(sql, ..)| !sql.starts_with("vacuum") && !sql.contains("schema"))
        {
            // Where it can be part of a transaction it says so.
            client.rows("begin");
            let found = client.ask(&query(&format!("select 1; {sql}; select 2")));
            let detail = found.iter().find(|message| is_finding(message)).unwrap().field(b'D').unwrap();
            assert!(detail.ends_with("The lock is held until the transaction ends."), "{sql}: {detail}");
            client.rows("rollback");
        }
        let metric = "pggit_proxy_lint_findings_total{branch=\"main\",rule=\"ban-cluster\"}";
        assert_eq!(r.proxy.metric(metric), Some(4.0));
    });
}

#[test]
fn size_time_and_who_is_there_are_told() {
    each(&config("warn"), |r| {
        r.sql("vacuum analyze t; vacuum analyze m");
        let mut client = r.client();
        let mut holder = Wire::connect(r.server.address, &[("user", "postgres"), ("database", &r.database)]);
        holder.rows("begin; select * from t limit 1; select * from m limit 1");
        client.rows("set lock_timeout = '50ms'");
        for (sql, told, advice) in [
            (
                "cluster t using t_pkey",
                "public.t has 22 MB and about 20000 rows: where it is rewritten, with its indexes, that takes ",
                "pg_repack",
            ),
            (
                "vacuum full t",
                "public.t has 22 MB and about 20000 rows: where it is rewritten, with its indexes, that takes ",
                "A plain `vacuum` blocks neither",
            ),
            ("refresh materialized view m", "public.m has 7", "a unique index"),
            (
                "reindex table t",
                "public.t has 22 MB and about 20000 rows: to build an index takes ",
                "Use `concurrently`",
            ),
        ] {
            let found = client.ask(&query(sql));
            let finding = found.iter().find(|message| is_finding(message)).unwrap();
            let detail = finding.field(b'D').unwrap();
            assert!(detail.starts_with(told) && detail.contains("1 other session holds a lock on "), "{sql}: {detail}");
            assert!(finding.field(b'H').unwrap().contains(advice), "{sql}: {finding:?}");
            assert_eq!(error(&found), "55P03 canceling statement due to lock timeout", "{sql}: the server's own");
        }
        let found = client.ask(&query("refresh materialized view m"));
        let detail = found.iter().find(|message| is_finding(message)).unwrap().field(b'D').unwrap();
        assert!(
            detail.contains("its query is run, and to write it anew, with its indexes, takes less than a second"),
            "{detail}"
        );
        holder.rows("rollback");
        // Of everything there is no size.
        let found = client.ask(&query("reindex schema s"));
        assert_eq!(found.iter().find(|message| is_finding(message)).unwrap().field(b'D'), None);
        // What nobody else sees keeps nobody waiting, also under the name of a schema.
        client.rows("create temp table s (a bigint primary key)");
        assert_eq!(rules(&client.ask(&query("cluster s using s_pkey"))), Vec::<String>::new());
        assert_eq!(rules(&client.ask(&query("reindex schema s"))), ["require-concurrent-reindex"]);
        client.rows("begin; create table mine (a bigint primary key)");
        assert_eq!(rules(&client.ask(&query("reindex table mine"))), Vec::<String>::new());
        assert_eq!(rules(&client.ask(&query("cluster mine using mine_pkey"))), Vec::<String>::new());
        client.rows("rollback");
    });
}

#[test]
fn refused_it_is_not_run_and_queued_it_waits_for_approval() {
    each(&config("refuse"), |r| {
        let mut client = r.client();
        for (sql, tag, rule, written) in BLOCKING {
            for bytes in ways(sql) {
                let before = file(r, written);
                let found = client.ask(&bytes);
                assert_eq!(error(&found), format!("42501 {tag} refused by lint: {rule}"), "{sql}");
                assert_eq!(file(r, written), before, "{sql}");
                client.rows("deallocate all");
            }
            assert_eq!(client.ask(&query(&format!("-- squawk-ignore {rule}\n{sql}"))).len(), 2, "{sql}");
        }
        let row = "select count(*) from pggit.statements where outcome = 'refused' and sqlstate = '42501' and rule like 'lint: %'";
        assert!(eventually(PATIENCE, || r.sql(row) == "18"), "{}", r.sql(row));
    });
    each(&config("queue"), |r| {
        let mut client = r.client();
        for (at, (sql, tag, rule, written)) in BLOCKING.into_iter().enumerate() {
            let before = file(r, written);
            let number = at + 1;
            for bytes in ways(sql) {
                let found = client.ask(&bytes);
                assert_eq!(error(&found), format!("PG002 change request {number}: {tag} waits for approval"), "{sql}");
                client.rows("deallocate all");
            }
            assert_eq!(file(r, written), before, "{sql}");
            assert_eq!(
                r.sql(&format!("select rule from pggit.change_requests where number = {number}")),
                format!("lint: {rule}")
            );
            r.proxy.control(&format!("APPROVE CHANGE {number}; APPLY CHANGE {number}"));
            assert_ne!(file(r, written), before, "{sql}");
        }
    });
}

#[test]
fn what_keeps_nobody_waiting_is_not_touched() {
    // Also where every rule is asked.
    for action in ["warn", "refuse", "queue"] {
        each(&format!("[branches.main]\nlint = \"{action}\"\n"), |r| {
            let (mut plain, mut client) = (direct(r), r.client());
            for sql in &HARMLESS[..5] {
                for bytes in ways(sql) {
                    assert_eq!(normalised(&client.ask(&bytes)), normalised(&plain.ask(&bytes)), "{action}: {sql}");
                }
            }
            let several = query("vacuum t; select 1");
            assert_eq!(normalised(&client.ask(&several)), normalised(&plain.ask(&several)), "{action}");
        });
    }
    each(&config("refuse"), |r| {
        for bytes in ways(HARMLESS[5]) {
            r.client().ask(&bytes);
            assert_eq!(r.sql("select relispopulated from pg_class where relname = 'm'"), "f");
            r.sql("refresh materialized view m");
        }
    });
    each(
        "[branches.main]\nlint = \"refuse\"\nlint_exclude = [\"ban-cluster\", \"ban-vacuum-full\", \"require-concurrent-refresh\", \
          \"require-concurrent-reindex\", \"require-timeout-settings\"]\n",
        |r| {
            let mut client = r.client();
            for (sql, ..) in BLOCKING {
                assert_eq!(client.ask(&query(sql)).len(), 2, "{sql}");
            }
        },
    );
}

/// `ddl_lock_timeout` is for DDL: it takes nothing away here.
#[test]
fn a_timeout_is_asked_for_where_none_is_given() {
    let all = "[branches.main]\nlint = \"warn\"\nddl_lock_timeout = \"5s\"\nlint_exclude = [\"require-statement-timeout\", \"ban-cluster\", \"prefer-robust-stmts\"]\n";
    each(all, |r| {
        let mut client = r.client();
        assert_eq!(rules(&client.ask(&query("cluster t using t_pkey"))), ["require-lock-timeout"]);
        assert_eq!(rules(&client.ask(&query("alter table t set (fillfactor = 90)"))), Vec::<String>::new());
        client.rows("set lock_timeout = '1s'");
        assert_eq!(rules(&client.ask(&query("cluster t using t_pkey"))), Vec::<String>::new());
    });
}
