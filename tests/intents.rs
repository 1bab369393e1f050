//! What cannot run inside a transaction: in the history with its outcome, once, whatever became of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use nix::sys::signal::Signal;
use support::wire::{bind, execute, extended, flush, parse, query, sync};
use support::{Message, PATIENCE, PgServer, Proxy, Repository, Wire, eventually, migrate, versions, wait_for};

impl Repository {
    /// `CHANGE tag type identity by` of the rows since the last call.
    fn changes(&self) -> Vec<String> {
        let rows = self.sql(
            "with n as (select id from pggit.changes where action <> 'BASELINE' and id not in (select id from seen)), \
             s as (insert into seen select id from n) \
             select concat_ws(' ', h.change_type, h.command_tag, h.object_type, h.object_identity, h.captured_by) \
             from pggit.history h join n on n.id = h.id order by h.created_at, h.ordinal",
        );
        rows.lines().map(str::to_owned).collect()
    }

    fn remember(&self) {
        // Outside of the history's view: made before anything is looked at.
        self.sql("create table if not exists seen (id uuid)");
        self.changes();
    }

    /// The newest intent: outcome and reason.
    fn intent(&self) -> String {
        self.sql("select concat_ws(': ', coalesce(outcome, 'open'), reason) from pggit.intents order by opened_at desc limit 1")
    }

    fn open(&self) -> String {
        self.sql("select count(*) from pggit.intents where outcome is null")
    }
}

fn each_version(test: impl Fn(Repository)) {
    for version in versions() {
        let repository = Repository::new(version, "");
        repository.remember();
        test(repository);
    }
}

fn code(message: &Message) -> String {
    message.field(b'C').unwrap()
}

fn first_error(messages: &[Message]) -> Option<&Message> {
    messages.iter().find(|message| message.tag == b'E')
}

#[test]
fn concurrent_index_work_is_recorded_once_and_with_what_it_leaves_behind() {
    each_version(|r| {
        let mut client = r.client();
        client.rows("create table t (a int, b int); insert into t values (1, 1), (1, 2)");
        r.changes();
        let mut leaves = |sql: &str, wanted: &[&str]| {
            let messages = client.ask(&query(sql));
            // Nothing is waited for: what the client was told of is there.
            assert_eq!(r.changes(), wanted, "{sql}");
            assert_eq!(r.open(), "0", "{sql}");
            first_error(&messages).map(code)
        };
        assert_eq!(
            leaves("create index concurrently i on t (b)", &["CREATE CREATE INDEX index public.i trigger"]),
            None
        );
        assert_eq!(
            leaves("create index concurrently on t (b)", &["CREATE CREATE INDEX index public.t_b_idx trigger"]),
            None
        );
        assert_eq!(leaves("create index concurrently if not exists i on t (b)", &[]), None);
        // Fails half-way: the index is there, and is not whole.
        assert_eq!(
            leaves("create unique index concurrently u on t (a)", &["CREATE CREATE INDEX index public.u intent"])
                .unwrap(),
            "23505"
        );
        assert!(
            r.intent().starts_with("failed: could not create unique index \"u\"; left behind, not whole: public.u")
        );
        let row = r.sql(
            "select new_definition, via_proxy, branch, created_by, sql_executed, statement_id = (select id from pggit.intents \
             order by opened_at desc limit 1) from pggit.history where object_name = 'u'",
        );
        assert_eq!(
            row,
            "CREATE UNIQUE INDEX u ON public.t USING btree (a); -- invalid|t|main|postgres|create unique index concurrently u on t (a)|t"
        );
        // Fails before it makes anything.
        assert_eq!(leaves("create index concurrently u on t (a)", &[]).unwrap(), "42P07");
        assert_eq!(leaves("create index concurrently x on nowhere (a)", &[]).unwrap(), "42P01");
        // Without a name: what was left behind is known by when it came.
        assert_eq!(
            leaves("create unique index concurrently on t (a)", &["CREATE CREATE INDEX index public.t_a_idx intent"])
                .unwrap(),
            "23505"
        );
        assert_eq!(leaves("drop index concurrently t_a_idx", &["DROP DROP INDEX index public.t_a_idx trigger"]), None);
        // An index that was rebuilt is another one of the same name.
        assert_eq!(
            leaves(
                "reindex index concurrently i",
                &["ALTER REINDEX index public.i intent", "REINDEX REINDEX index i intent"]
            ),
            None
        );
        assert_eq!(leaves("alter index i rename to j", &["RENAME ALTER INDEX index public.j trigger"]), None);
        assert_eq!(
            leaves(
                "reindex table concurrently t",
                &[
                    "ALTER REINDEX index public.j intent",
                    "ALTER REINDEX index public.t_b_idx intent",
                    "REINDEX REINDEX table t intent"
                ]
            ),
            None
        );
        let code = leaves("reindex index concurrently u", &["CREATE REINDEX index public.u_ccnew intent"]);
        assert_eq!(code.unwrap(), "23505");
        assert_eq!(leaves("drop index concurrently u", &["DROP DROP INDEX index public.u trigger"]), None);
        assert_eq!(leaves("drop index concurrently u_ccnew", &["DROP DROP INDEX index public.u_ccnew trigger"]), None);
        assert_eq!(leaves("drop index concurrently j", &["DROP DROP INDEX index public.j trigger"]), None);
        assert_eq!(leaves("reindex schema public", &["REINDEX REINDEX schema public intent"]), None);
        // No intent for what is sure to fail, nor for what changes nothing.
        let before = r.sql("select count(*) from pggit.intents");
        assert_eq!(leaves("vacuum t", &[]), None);
        assert_eq!(leaves("create index concurrently k on t (a); select 1", &[]).unwrap(), "25001");
        assert_eq!(leaves("begin; create index concurrently k on t (a)", &[]).unwrap(), "25001");
        assert_eq!(leaves("create index concurrently k on t (a)", &[]).unwrap(), "25P02");
        leaves("rollback", &[]);
        assert_eq!(r.sql("select count(*) from pggit.intents"), before);
    });
}

#[test]
fn interrupted_work_is_told_as_it_was_left() {
    each_version(|r| {
        let mut client = r.client();
        client.rows(
            "create table p (a int) partition by range (a); create table p1 partition of p for values from (0) to (9); \
             create table p2 partition of p for values from (10) to (19); create index i on p1 (a)",
        );
        r.changes();
        let mut reader = Wire::connect(r.server.address, &[("user", "postgres"), ("database", &r.database)]);
        reader.rows("begin; select * from p; select * from p1");
        client.rows("set statement_timeout = '300ms'");
        assert_eq!(code(&client.error("alter table p detach partition p1 concurrently")), "57014");
        assert_eq!(r.changes(), ["ALTER ALTER TABLE table public.p1 intent"]);
        assert!(
            r.sql("select new_definition from pggit.history where object_name = 'p1' order by created_at desc limit 1")
                .contains("detach pending")
        );
        assert!(r.intent().contains("left behind, not whole: public.p1"), "{}", r.intent());
        assert_eq!(code(&client.error("drop index concurrently i")), "57014");
        assert_eq!(r.changes(), ["ALTER DROP INDEX index public.i intent"]);
        assert!(
            r.sql("select new_definition from pggit.history where object_name = 'i' order by created_at desc limit 1")
                .contains("-- invalid")
        );
        reader.rows("rollback");
        client.rows("set statement_timeout = 0");
        client.rows("alter table p detach partition p1 finalize");
        r.changes();
        client.rows("alter table p detach partition p2 concurrently");
        assert_eq!(
            r.changes(),
            ["ALTER ALTER TABLE table public.p trigger", "ALTER ALTER TABLE table public.p2 trigger"]
        );
        assert!(
            !r.sql(
                "select new_definition from pggit.history where object_name = 'p2' order by created_at desc limit 1"
            )
            .contains("ATTACH")
        );
    });
}

#[test]
fn databases_tablespaces_and_settings_belong_to_the_branch_where_it_was_said() {
    each_version(|r| {
        let mut client = r.client();
        let name = format!("{}_x", r.database);
        client.rows(&format!("create database {name}"));
        assert_eq!(r.changes(), [format!("CREATE CREATE DATABASE database {name} intent")]);
        let row = r.sql(&format!("select new_definition from pggit.history where object_name = '{name}'"));
        assert!(row.starts_with(&format!("CREATE DATABASE {name} ENCODING 'UTF8'")), "{row}");
        assert_eq!(code(&client.error(&format!("create database {name}"))), "42P04");
        assert_eq!(r.changes(), [""; 0]);
        // The branch's own database is a template like any other: no connection of ours stands in the way.
        let copy = format!("{}_copy", r.database);
        drop(client);
        let elsewhere = r.server.unique_database("plain");
        let mut plain = r.proxy.connect(&elsewhere);
        plain.rows(&format!("create database {copy} template {name}"));
        assert_eq!(r.changes(), [""; 0], "that database is no branch");
        plain.rows(&format!("drop database {copy}"));

        let mut client = r.client();
        client.rows(&format!("alter database {name} set tablespace pg_default"));
        client.rows(&format!("drop database {name} with (force)"));
        assert_eq!(r.changes(), [format!("DROP DROP DATABASE database {name} intent")]);
        client.rows(&format!("drop database if exists {name}"));
        assert_eq!(r.changes(), [""; 0]);

        let space = format!("{}_space", r.database);
        let directory = support::postgres::new_directory("space");
        client.rows(&format!("create tablespace {space} location '{}'", directory.display()));
        assert_eq!(r.changes(), [format!("CREATE CREATE TABLESPACE tablespace {space} intent")]);
        client.rows(&format!("drop tablespace {space}"));
        assert_eq!(r.changes(), [format!("DROP DROP TABLESPACE tablespace {space} intent")]);
        std::fs::remove_dir_all(directory).unwrap();

        client.rows("alter system set work_mem = '7MB'");
        assert_eq!(r.changes(), ["CREATE ALTER SYSTEM setting work_mem intent"]);
        client.rows("alter system set work_mem = '7MB'");
        assert_eq!(r.changes(), [""; 0]);
        client.rows("alter system set work_mem = '8MB'");
        assert_eq!(r.changes(), ["ALTER ALTER SYSTEM setting work_mem intent"]);
        assert_eq!(
            r.sql("select old_definition, new_definition from pggit.history where object_name = 'work_mem' order by created_at desc limit 1"),
            "ALTER SYSTEM SET work_mem TO '7MB';|ALTER SYSTEM SET work_mem TO '8MB';"
        );
        client.rows("alter system set primary_conninfo = 'host=x password=sesame1'");
        assert_eq!(r.changes(), ["CREATE ALTER SYSTEM setting primary_conninfo intent"]);
        client.rows("alter system set primary_conninfo = 'host=x password=sesame2'");
        assert_eq!(r.changes(), ["ALTER ALTER SYSTEM setting primary_conninfo intent"]);
        assert_eq!(r.sql("select count(*) from pggit.changes c where c::text like '%sesame%'"), "0");
        assert_eq!(r.sql("select count(*) from pggit.intents i where i::text like '%sesame%'"), "0");
        client.rows("alter system reset all");
        assert_eq!(
            r.changes(),
            ["DROP ALTER SYSTEM setting primary_conninfo intent", "DROP ALTER SYSTEM setting work_mem intent"]
        );
        assert_eq!(code(&client.error("alter system set no_such_thing = 1")), "42704");
        assert_eq!(r.changes(), [""; 0]);
        assert_eq!(r.open(), "0");
    });
}

#[test]
fn every_way_of_sending_it_is_held_until_the_intent_is_there() {
    each_version(|r| {
        let mut client = r.client();
        client.rows("create table t (a int)");
        r.changes();
        assert!(first_error(&client.ask(&extended("create index concurrently i on t (a)", &[]))).is_none());
        client.ask(&[parse("s", "drop index concurrently i", &[]), sync()].concat());
        assert!(first_error(&client.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat())).is_none());
        assert_eq!(
            r.changes(),
            ["CREATE CREATE INDEX index public.i trigger", "DROP DROP INDEX index public.i trigger"]
        );
        assert_eq!(r.sql("select count(*), min(outcome) from pggit.intents"), "2|applied");
        // Many in one packet, with others between them; the answers keep their order.
        let texts: Vec<String> = (0..5).map(|n| format!("create index concurrently i{n} on t (a)")).collect();
        let mut bytes = Vec::new();
        for text in &texts {
            bytes.extend(query(text));
            bytes.extend(query("select 1"));
        }
        bytes.extend(query("begin"));
        bytes.extend(query("commit"));
        bytes.extend(query("drop index concurrently i0"));
        client.send(&bytes);
        let mut tags = Vec::new();
        for _ in 0..13 {
            for message in client.read_until_ready() {
                assert_ne!(message.tag, b'E', "{message:?}");
                if message.tag == b'C' {
                    tags.push(message.command_tag());
                }
            }
        }
        let pair = ["CREATE INDEX", "SELECT 1"];
        let wanted = [&pair[..], &pair, &pair, &pair, &pair, &["BEGIN", "COMMIT", "DROP INDEX"]].concat();
        assert_eq!(tags, wanted);
        assert_eq!(r.changes().len(), 6);
        assert_eq!(r.sql("select count(*), min(outcome), max(outcome) from pggit.intents"), "8|applied|applied");
        // The statement log has the same key.
        assert!(eventually(PATIENCE, || r.sql(
            "select count(*) from pggit.intents i join pggit.statements s using (id, session_id, outcome, command_tag)"
        ) == "8"));
        // Behind a COMMIT of which nothing but its completion has come.
        client.rows("begin");
        let steps = [
            (vec![parse("", "commit", &[]), bind("", "", &[]), execute("", 0)], b'C'),
            (vec![parse("", "drop index concurrently i2", &[]), bind("", "", &[])], b'2'),
        ];
        for (messages, last) in steps {
            client.send(&[messages.concat(), flush()].concat());
            while client.read_message().unwrap().tag != last {}
        }
        assert!(first_error(&client.ask(&[execute("", 0), sync()].concat())).is_none());
        assert_eq!(r.changes(), ["DROP DROP INDEX index public.i2 trigger"]);
        assert_eq!(r.sql("select count(*), min(outcome), max(outcome) from pggit.intents"), "9|applied|applied");
        // An Execute that the server never comes to.
        let messages = client.ask(
            &[
                parse("", "drop index concurrently i1", &[]),
                bind("", "", &[]),
                parse("", "no sql", &[]),
                execute("", 0),
                sync(),
            ]
            .concat(),
        );
        assert_eq!(code(first_error(&messages).unwrap()), "42601");
        assert_eq!(r.changes(), [""; 0]);
        assert_eq!(r.open(), "0");
    });
}

#[test]
fn what_fails_behind_it_in_the_same_batch_takes_back_no_more_than_it_does() {
    each_version(|r| {
        let mut client = r.client();
        client.rows("create table t (a int)");
        r.changes();
        let made = format!("{}_made", r.database);
        let outcome = || {
            r.sql(
                "select i.outcome, s.outcome, i.reason from pggit.intents i join pggit.statements s using (id) order by i.opened_at desc limit 1",
            )
        };
        let mut batch = |sql: &str| {
            let messages = |sql| [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat();
            let answer = client.ask(&[messages(sql), messages("select 1 / 0"), sync()].concat());
            assert_eq!(code(first_error(&answer).unwrap()), "22012", "{sql}");
            assert!(answer.iter().any(|message| message.tag == b'C'), "{sql}: {answer:?}");
        };
        // The server commits it as soon as it is complete.
        batch(&format!("create database {made}"));
        assert_eq!(
            r.server.psql("postgres", &format!("select count(*) from pg_database where datname = '{made}'")),
            "1"
        );
        assert_eq!(r.changes(), [format!("CREATE CREATE DATABASE database {made} intent")]);
        assert!(eventually(PATIENCE, || outcome() == "applied|applied|"), "{}", outcome());
        // The last of its transactions ends with the batch: without it the index is not valid.
        batch("create index concurrently i on t (a)");
        assert_eq!(r.sql("select indisvalid from pg_index where indexrelid = 'i'::regclass"), "f");
        assert!(eventually(PATIENCE, || r.changes() == ["CREATE CREATE INDEX index public.i intent"]));
        let left = "failed|rolled_back|division by zero; left behind, not whole: public.i";
        assert!(eventually(PATIENCE, || outcome() == left), "{}", outcome());
        r.server.psql("postgres", &format!("drop database {made}"));
    });
}

#[test]
fn without_an_intent_it_does_not_run() {
    for version in versions() {
        let r = Repository::new(version, "[history]\ntimeout = \"1s\"\n");
        let mut client = r.client();
        client.rows("create table t (a int)");
        r.sql("alter table pggit.intents add constraint broken check (sql !~ 'bad') not valid");
        let error = client.error("create index concurrently bad on t (a)");
        assert_eq!(code(&error), "PG003");
        assert_eq!(error.field(b'M').unwrap(), "CREATE INDEX refused: the history cannot be written");
        assert!(error.field(b'D').unwrap().contains("\"broken\""), "{error:?}");
        let messages = client.ask(&extended("create index concurrently bad on t (a)", &[]));
        assert_eq!(code(first_error(&messages).unwrap()), "PG003");
        assert_eq!(messages.last().unwrap().body, b"I");
        assert_eq!(r.sql("select to_regclass('bad') is null"), "t");
        client.rows("create index concurrently good on t (a)");
        assert!(r.proxy.metric("pggit_proxy_history_failures_total").unwrap() >= 2.0);
        // Locked: refused in time, and it works again afterwards.
        let mut holder = Wire::connect(r.server.address, &[("user", "postgres"), ("database", &r.database)]);
        holder.rows("begin; lock table pggit.intents");
        assert_eq!(code(&client.error("drop index concurrently good")), "PG003");
        assert_eq!(client.value("select 1"), "1");
        holder.rows("rollback");
        assert!(eventually(PATIENCE, || first_error(&client.ask(&query("drop index concurrently if exists good")))
            .is_none()));
        assert!(eventually(PATIENCE, || r.sql("select count(*) from pggit.statements where sqlstate = 'PG003'") == "3"));

        let allow = Proxy::start(
            r.server,
            &format!("[upstream]\ndbname = \"{}\"\n[history]\non_failure = \"allow\"\n", r.database),
        );
        let mut client = allow.connect(&r.database);
        assert!(eventually(PATIENCE, || allow.control("show branches recording where name = 'main'") == "ready"));
        let before = allow.metric("pggit_proxy_history_failures_total").unwrap();
        client.rows("create index concurrently bad on t (a)");
        assert_eq!(allow.metric("pggit_proxy_history_failures_total"), Some(before + 1.0));
        assert_eq!(r.sql("select to_regclass('bad') is null"), "f");
    }
}

/// The client's server process, as the intent has it.
fn begin_and_lose(r: &Repository, victim: &Proxy, sql: &str) -> Wire {
    let mut client = victim.connect(&r.database);
    client.send(&query(sql));
    let running = "select count(*) from pg_stat_activity a join pggit.intents i on a.pid = i.backend_pid \
                   where i.outcome is null and a.state = 'active'";
    assert!(eventually(PATIENCE, || r.sql(running) == "1"), "{sql} runs");
    client
}

#[test]
fn a_living_session_of_another_proxy_is_left_alone_and_a_lost_one_is_settled() {
    each_version(|r| {
        let config = format!("[upstream]\ndbname = \"{}\"\n", r.database);
        r.sql("create table t (a int, b int); insert into t values (1, 1)");
        let mut holder = Wire::connect(r.server.address, &[("user", "postgres"), ("database", &r.database)]);
        for (sql, open_while, outcome) in [
            // Waits for the holder's snapshot: it ends well after its proxy is gone, as nobody is told.
            ("create index concurrently i on t (a)", "begin; insert into t values (2, 2)", "applied"),
            ("create unique index concurrently u on t (b)", "begin; insert into t values (3, 1)", "failed"),
        ] {
            holder.rows(open_while);
            let mut victim = Proxy::start(r.server, &config);
            let _client = begin_and_lose(&r, &victim, sql);
            victim.signal(Signal::SIGKILL);
            victim.wait_exit(PATIENCE).unwrap();
            // The other proxy looks at the branch, several times, and leaves it alone.
            let looks = || r.proxy.control("show health message where branch = 'main' and check = 'server'");
            for _ in 0..2 {
                let seen = looks();
                assert!(eventually(PATIENCE, || looks() != seen));
            }
            assert_eq!(r.open(), "1", "{sql}");
            holder.rows("commit");
            assert!(eventually(PATIENCE, || r.open() == "0"), "{sql}");
            assert!(r.intent().starts_with(outcome), "{sql}: {}", r.intent());
            let logged = format!("select outcome from pggit.statements where sql = '{sql}'");
            assert_eq!(wait_for("the log", || Some(r.sql(&logged)).filter(|found| !found.is_empty())), outcome);
        }
        let rows = r.sql(
            "select object_name, change_type, captured_by, new_definition ~ '-- invalid' from pggit.history \
             where object_type = 'index' and change_type <> 'BASELINE' order by 1",
        );
        assert_eq!(rows, "i|CREATE|trigger|f\nu|CREATE|intent|t");
    });
}

#[test]
fn what_a_crash_of_the_server_cut_short_is_found_by_looking() {
    for version in versions() {
        let mut server = PgServer::start(version);
        let database = server.create_database("app");
        migrate(&server, &database);
        let proxy = Proxy::start(&server, "[upstream]\ndbname = \"app\"\n");
        let sql = |server: &PgServer, sql: &str| server.psql("app", sql);
        sql(&server, "create table t (a int, b int)");
        let mut holder = Wire::connect(server.address, &[("user", "postgres"), ("database", &database)]);
        holder.rows("begin; insert into t values (2, 2)");
        let mut client = proxy.connect(&database);
        client.send(&query("create index concurrently i on t (a)"));
        let running = "select count(*) from pg_stat_progress_create_index";
        assert!(eventually(PATIENCE, || sql(&server, running) == "1"));
        server.restart();
        assert!(eventually(PATIENCE, || {
            let output = server.try_psql("app", "select count(*) from pggit.intents where outcome is null");
            String::from_utf8_lossy(&output.stdout).trim() == "0"
        }));
        let row = sql(
            &server,
            "select change_type, captured_by, new_definition ~ '-- invalid', statement_id is not null, session_id is not null \
             from pggit.history where object_name = 'i'",
        );
        assert_eq!(row, "CREATE|intent|t|t|t");
        let outcome = "select outcome from pggit.statements where sql like 'create index%'";
        assert!(eventually(PATIENCE, || sql(&server, outcome) == "failed"), "{}", sql(&server, outcome));
        let mut client = proxy.connect(&database);
        client.rows("drop index concurrently i");
        assert_eq!(sql(&server, "select count(*) from pggit.history where object_name = 'i'"), "2");
    }
}

#[test]
fn each_kind_is_settled_by_looking() {
    // The proxy looks after another branch here: nobody settles but this test.
    each_version(|mut r| {
        r.database = r.server.unique_database("looked_at");
        migrate(r.server, &r.database);
        r.remember();
        // As if a proxy had written it, for a process that is gone, and done or not done the work.
        let settled = |tag: &str, kind: &str, name: &str, work: &dyn Fn()| {
            r.sql(&format!(
                "select pggit.intend(gen_random_uuid(), gen_random_uuid(), 'main', '{tag}', 'ddl', '{kind}', null, array['{name}'], \
                 '{tag} {name} password=sesame', 'postgres', 'x', null, 0, 'p', pg_backend_pid(), null)"
            ));
            work();
            // The process that wrote it may take a moment to be gone.
            assert!(eventually(PATIENCE, || r.sql(
                "select coalesce(string_agg(pggit.settle_intent(id), ''), '') from pggit.intents where outcome is null"
            ) != "open"));
            r.intent()
        };
        let nothing: &dyn Fn() = &|| ();
        let not_done = "failed: the session ended; it was not done";
        let name = format!("{}_d", r.database);
        let make = || drop(r.server.psql("postgres", &format!("create database {name}")));
        let drop_it = || drop(r.server.psql("postgres", &format!("drop database {name}")));
        assert_eq!(settled("CREATE DATABASE", "database", &name, nothing), not_done);
        assert_eq!(settled("CREATE DATABASE", "database", &name, &make), "applied");
        assert_eq!(r.changes(), [format!("CREATE CREATE DATABASE database {name} intent")]);
        assert_eq!(settled("DROP DATABASE", "database", &name, nothing), not_done);
        assert_eq!(settled("DROP DATABASE", "database", &name, &drop_it), "applied");
        assert_eq!(r.changes(), [format!("DROP DROP DATABASE database {name} intent")]);
        assert!(settled("DROP DATABASE", "database", &name, nothing).starts_with("unknown"));
        let set = || drop(r.sql("alter system set temp_buffers = '9MB'"));
        assert_eq!(settled("ALTER SYSTEM", "", "", &set), "applied");
        assert_eq!(r.changes(), ["CREATE ALTER SYSTEM setting temp_buffers intent"]);
        assert!(settled("ALTER SYSTEM", "", "", nothing).starts_with("unknown"));
        assert!(settled("REINDEX", "table", "seen", nothing).starts_with("unknown"));
        assert_eq!(settled("CREATE INDEX", "index", "nowhere", nothing), not_done);
        assert_eq!(r.changes(), [""; 0]);
        assert_eq!(r.sql("select count(*) from pggit.intents where sql ~ 'sesame' or before is not null"), "0");
        r.sql("alter system reset temp_buffers");

        // A copy of the database has the parent's open intents, and leaves them alone.
        r.sql(&format!(
            "insert into pggit.intents (id, session_id, branch, database, command_tag, class, object_names, sql, created_by, \
             application_name, proxy, backend_pid, since) select gen_random_uuid(), gen_random_uuid(), 'main', 1, 'CREATE INDEX', 'ddl', \
             array['i'], 'x', 'x', 'x', 'x', {}, '3'",
            i32::MAX
        ));
        r.sql("select pggit.settle_intent(id) from pggit.intents where outcome is null");
        assert!(r.intent().starts_with("unknown: it was said in the database that this one is a copy of"));
        // Readers see what was done, not what the settings were.
        assert!(
            r.server
                .try_psql(&r.database, "set role pggit_reader; select outcome, reason from pggit.intents")
                .status
                .success()
        );
        assert!(
            !r.server.try_psql(&r.database, "set role pggit_reader; select before from pggit.intents").status.success()
        );
    });
}

#[test]
fn subscriptions_are_recorded_once() {
    for version in versions() {
        let server = PgServer::with(version).config("wal_level = logical").start();
        let database = server.create_database("app");
        migrate(&server, &database);
        let publisher = server.create_database("publisher");
        server.psql(&publisher, "create table t (a int); create publication p for table t");
        let proxy = Proxy::start(&server, "[upstream]\ndbname = \"app\"\n");
        let mut client = proxy.connect(&database);
        client.rows("create table t (a int)");
        // The slot beforehand: on the same server CREATE SUBSCRIPTION would wait for itself.
        server.psql(&publisher, "select pg_create_logical_replication_slot('s', 'pgoutput')");
        let connection =
            format!("host=127.0.0.1 port={} dbname=publisher user=postgres password=sesame", server.address.port());
        client
            .rows(&format!("create subscription s connection '{connection}' publication p with (create_slot = false)"));
        client.rows("alter subscription s refresh publication");
        assert_eq!(
            code(&client.error(&format!("create subscription s connection '{connection}' publication p"))),
            "42710"
        );
        client.rows("drop subscription s");
        let rows = "select string_agg(change_type || ' ' || captured_by, ', ' order by created_at) from pggit.history where object_name = 's'";
        assert_eq!(server.psql(&database, rows), "CREATE trigger, ALTER trigger, DROP trigger");
        let intents = "select string_agg(command_tag || ' ' || coalesce(outcome, 'open'), ', ' order by opened_at) from pggit.intents";
        assert_eq!(
            server.psql(&database, intents),
            "ALTER SUBSCRIPTION applied, CREATE SUBSCRIPTION failed, DROP SUBSCRIPTION applied"
        );
        assert_eq!(server.psql(&database, "select count(*) from pggit.intents i where i::text ~ 'sesame'"), "0");
    }
}

#[test]
fn procedures_that_commit_are_recorded_as_far_as_they_did() {
    each_version(|r| {
        let mut client = r.client();
        client.rows(
            "create procedure p() language plpgsql as $$ begin create table a (); commit; create table b (); rollback; \
             create table c (); commit; create table d (); raise exception 'x'; end $$",
        );
        r.changes();
        client.error("call p()");
        assert_eq!(
            r.changes(),
            ["CREATE CREATE TABLE table public.a trigger", "CREATE CREATE TABLE table public.c trigger"]
        );
        assert_eq!(r.sql("select count(distinct commit_id) from pggit.history where object_name in ('a', 'c')"), "2");
        client.rows("do $$ begin create table e (); commit; create table f (); end $$");
        assert_eq!(
            r.changes(),
            ["CREATE CREATE TABLE table public.e trigger", "CREATE CREATE TABLE table public.f trigger"]
        );
    });
}

#[test]
fn without_event_triggers_intents_record_all_of_it() {
    for version in versions() {
        let server = PgServer::with(version).config("wal_level = logical").start();
        let database = server.create_database("app");
        // The recorder is no superuser, and may not read what others do.
        server.psql(&database, "create role rec login; grant create on database app to rec");
        let url = format!("postgres://rec@{}/app", server.address);
        let output = support::proxy::run(&["migrate", "up", "--capture", "inject", "--database-url", &url]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let proxy = Proxy::start(&server, "[upstream]\ndbname = \"app\"\nuser = \"rec\"\n");
        let mut client = proxy.connect(&database);
        client.rows("create table t (a int, b int); insert into t values (1, 1), (1, 2)");
        client.rows("create table p (a int) partition by range (a)");
        client.rows("create table p1 partition of p for values from (0) to (9)");
        let mut seen: Vec<String> = Vec::new();
        let mut leaves = |sql: &str, wanted: &[&str]| {
            let messages = client.ask(&query(sql));
            let rows = server.psql(
                &database,
                "select concat_ws(' ', h.change_type, h.command_tag, h.object_type, h.object_identity, h.captured_by) from pggit.history h \
                 where h.captured_by = 'intent' order by h.created_at, h.ordinal",
            );
            let rows: Vec<String> = rows.lines().map(str::to_owned).collect();
            assert_eq!(rows[seen.len()..], *wanted, "{sql}");
            seen = rows;
            first_error(&messages).map(code)
        };
        assert_eq!(
            leaves("create index concurrently i on t (b)", &["CREATE CREATE INDEX index public.i intent"]),
            None
        );
        assert_eq!(leaves("create index concurrently if not exists i on t (b)", &[]), None);
        assert_eq!(
            leaves("create index concurrently on t (b)", &["CREATE CREATE INDEX index public.t_b_idx intent"]),
            None
        );
        let failed =
            leaves("create unique index concurrently u on t (a)", &["CREATE CREATE INDEX index public.u intent"]);
        assert_eq!(failed.unwrap(), "23505");
        assert_eq!(leaves("drop index concurrently i", &["DROP DROP INDEX index public.i intent"]), None);
        assert_eq!(leaves("drop index concurrently u", &["DROP DROP INDEX index public.u intent"]), None);
        // Names that others had before.
        for _ in 0..2 {
            let made = leaves("create index concurrently i on t (b)", &["CREATE CREATE INDEX index public.i intent"]);
            assert_eq!(made, None);
            assert_eq!(leaves("alter index i rename to j", &[]), None);
            let made = leaves("create index concurrently i on t (b)", &["CREATE CREATE INDEX index public.i intent"]);
            assert_eq!(made, None);
            assert_eq!(leaves("drop index i; drop index j", &[]), None);
        }
        assert_eq!(
            leaves("alter table p detach partition p1 concurrently", &["ALTER ALTER TABLE table public.p1 intent"]),
            None
        );
        assert_eq!(leaves("create database d", &["CREATE CREATE DATABASE database d intent"]), None);
        assert_eq!(leaves("drop database d", &["DROP DROP DATABASE database d intent"]), None);
        // What was set this role may not see: that something was, is said.
        assert_eq!(leaves("alter system set work_mem = '7MB'", &["ALTER ALTER SYSTEM setting intent"]), None);
        server.psql(&database, "alter system reset work_mem");
        assert_eq!(server.psql(&database, "select count(*) from pggit.intents where outcome is null"), "0");
    }
}
