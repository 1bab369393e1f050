//! Commits: all changes of a transaction, with a message and a parent, each sealed once and none left out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::wire::{extended, query};
use support::{PATIENCE, Pg, PgServer, Proxy, Wire, eventually, migrate, migrate_without_triggers, psql_ok, versions};

/// A database with a history.
struct Repository<'a> {
    server: &'a PgServer,
    database: String,
}

fn each(test: impl Fn(&Repository)) {
    for version in versions() {
        test(&repository(PgServer::shared(version)));
    }
}

fn repository(server: &PgServer) -> Repository<'_> {
    let database = server.unique_database("app");
    migrate(server, &database);
    Repository { server, database }
}

impl Repository<'_> {
    /// Directly on the server.
    fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.database, sql)
    }

    fn lines(&self, sql: &str) -> Vec<String> {
        self.sql(sql).lines().map(str::to_owned).collect()
    }

    /// A session directly on the server.
    fn session(&self) -> Wire {
        Wire::connect(self.server.address, &[("user", "postgres"), ("database", &self.database)])
    }

    fn proxy(&self) -> Proxy {
        Proxy::start(self.server, &format!("[upstream]\ndbname = \"{}\"\n", self.database))
    }

    /// Seals all that can be sealed, as a proxy would.
    fn seal(&self) {
        while self.sql("select pggit.seal(3)") != "0" {}
    }

    /// The message of the commit that last changed this object; `-` where there is none.
    fn message(&self, object: &str) -> String {
        self.sql(&format!(
            "select coalesce(k.message, '-') from pggit.commits k join pggit.history h on h.commit_id = k.id \
             where h.object_name = '{object}' order by h.created_at desc limit 1"
        ))
    }

    /// Names of the tables of each sealed commit since the baseline, in the order of sealing.
    fn sealed(&self) -> Vec<String> {
        self.lines(
            "select string_agg(h.object_name, ' ' order by h.ordinal, h.created_at) from pggit.commits k \
             join pggit.history h on h.commit_id = k.id where k.seq > 1 and h.object_type = 'table' \
             group by k.seq order by k.seq",
        )
    }

    /// Every row sealed, once, in an unbroken chain.
    fn is_whole(&self) {
        assert_eq!(self.sql("select * from pggit.verify()"), "");
        assert_eq!(
            self.sql(
                "select count(*) from (select id from pggit.changes except all select unnest(row_ids) from pggit.seals) x"
            ),
            "0"
        );
        assert_eq!(
            self.sql("select count(*) from (select commit_id from pggit.changes group by 1) x"),
            self.sql("select count(*) from pggit.seals")
        );
    }
}

#[test]
fn messages_come_from_the_setting_or_the_leading_comment() {
    each(|it| {
        let proxy = it.proxy();
        let mut client = proxy.connect(&it.database);
        client.rows("/* pggit: a table for Zoë's orders */ create table a1 ()");
        client.rows("\n -- ticket 7\n/* app:web */\n\t/*pggit:second line\n of two*/ create table a2 ()");
        client.rows("create /* pggit: not in front */ table a3 ()");
        client.rows("/* pgGit: another word */ create table a4 ()");
        client.rows("/* pggit: */ create table a5 ()");
        client.rows("create table a6 () /* pggit: behind */");
        assert_eq!(it.message("a1"), "a table for Zoë's orders");
        assert_eq!(it.message("a2"), "second line\n of two");
        for plain in ["a3", "a4", "a5", "a6"] {
            assert_eq!(it.message(plain), "-", "{plain}");
        }

        let replies = client.ask(&extended("/* pggit: extended */ create table b1 ()", &[]));
        assert!(replies.iter().all(|reply| reply.tag != b'E'), "{replies:?}");
        client.rows("/* pggit: of the whole text */ create table b2 (); create table b3 ()");
        assert_eq!(it.message("b1"), "extended");
        assert_eq!(it.message("b3"), "of the whole text");

        client.rows("set pggit.message = 'set'; create table c1 ()");
        client.rows("/* pggit: comment */ create table c2 ()");
        client.rows("begin; set local pggit.message = 'local'; create table c3 (); commit");
        client.rows("create table c4 ()");
        client.rows("reset pggit.message; create table c5 ()");
        let found: Vec<_> = ["c1", "c2", "c3", "c4", "c5"].iter().map(|object| it.message(object)).collect();
        assert_eq!(found, ["set", "set", "local", "set", "-"]);

        let start = |name, value| {
            let mut client = Wire::connect(
                proxy.clients,
                &[("user", "postgres"), ("database", it.database.as_str()), (name, value)],
            );
            client.rows("create table d1 ()");
            let message = it.message("d1");
            client.rows("drop table d1");
            message
        };
        assert_eq!(start("pggit.message", "by parameter"), "by parameter");
        assert_eq!(start("options", "-c pggit.message=by\\ options"), "by options");

        let long = format!("set pggit.message = '{}'", "é".repeat(5000));
        client.rows(&long);
        client.rows("create table e1 ()");
        assert_eq!(it.message("e1").chars().count(), 4096);

        // What is sealed says the same.
        it.seal();
        assert_eq!(it.message("a2"), "second line\n of two");
        assert_eq!(it.message("a3"), "-");
        it.is_whole();
        assert_eq!(
            it.sql("select message from pggit.log() where objects::text ~ 'a1'"),
            "a table for Zoë's orders",
            "the log shows it"
        );
    });
}

#[test]
fn messages_are_the_same_without_event_triggers() {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("inject");
        migrate_without_triggers(server, &database);
        let it = Repository { server, database };
        let proxy = it.proxy();
        let mut client = proxy.connect(&it.database);
        client.rows("/* pggit: simple */ create table a1 ()");
        client.rows("/* pggit: several */ create table a2 (); create table a3 (i int); drop table a2");
        client.ask(&extended("/* pggit: extended */ create table a4 ()", &[]));
        client.rows("begin; set local pggit.message = 'set'; create table a5 (); comment on table a5 is 'x'; commit");
        client.rows("/* pggit: a role */ comment on database postgres is 'of a test'");
        client.rows("create table a6 ()");
        let found: Vec<_> =
            ["a1", "a2", "a3", "a4", "a5", "postgres", "a6"].iter().map(|object| it.message(object)).collect();
        assert_eq!(found, ["simple", "several", "several", "extended", "set", "a role", "-"]);
        it.seal();
        it.is_whole();
    }
}

#[test]
fn a_message_costs_no_error_in_any_text() {
    each(|it| {
        let proxy = it.proxy();
        let mut client = proxy.connect(&it.database);
        for text in [
            "/* pggit: nested /* comment */ ends later */ create table a1 ()",
            "/* /* pggit: inside */ */ create table a2 ()",
            "--\n--\n/**//***/ create table a3 ()",
            "/* pggit: stars ** and * slash */ create table a4 ()",
            &format!("{}/* pggit: behind much space */ create table a5 ()", " ".repeat(10_000)),
            &format!("/* {} */ create table a6 ()", "* x".repeat(20_000)),
            &format!("/* pggit: {} */ create table a7 ()", "m".repeat(20_000)),
            &format!("{}create table a8 ()", "/* x */ -- y\n".repeat(3_000)),
        ] {
            let replies = client.ask(&query(text));
            assert!(replies.iter().all(|reply| reply.tag != b'E'), "{}: {replies:?}", &text[..60.min(text.len())]);
        }
        assert_eq!(it.sql("select count(*) from pggit.history where object_name ~ '^a[1-8]$'"), "8");
        assert_eq!(it.message("a4"), "stars ** and * slash");
        it.seal();
        it.is_whole();
    });
}

#[test]
fn one_transaction_is_one_commit() {
    each(|it| {
        let role = format!("{}_author", it.database);
        it.sql(&format!("create role {role} login superuser"));
        it.seal();
        let before: i64 = it.sql("select count(*) from pggit.commits").parse().unwrap();
        let mut client = Wire::connect(
            it.server.address,
            &[("user", &role), ("database", &it.database), ("application_name", "migrator")],
        );
        client.rows("begin");
        client.rows("/* pggit: first */ create table a1 (i int primary key)");
        client.rows("savepoint s");
        client.rows("/* pggit: never */ create table a2 ()");
        client.rows("rollback to s");
        client.rows("/* pggit: second */ create table a3 ()");
        client.rows("savepoint t");
        client.rows("/* pggit: first */ alter table a1 add j int");
        client.rows("release t");
        client.rows("do $$ begin begin create table a4 (); exception when others then null; end; end $$");
        assert_eq!(it.sql("select count(*) from pggit.commits").parse::<i64>().unwrap(), before);
        client.rows("commit");
        client.rows("begin; create table b1 (); rollback");
        let columns = "branch, author, message, application_name, changes, xid = (select max(xid) from pggit.history \
                       where object_name = 'a1'), parent is null, seq is null, sealed_at is null";
        let newest = "from pggit.commits order by created_at desc limit 1";
        assert_eq!(
            it.sql(&format!("select {columns} {newest}")),
            format!("main|{role}|first\nsecond|migrator|5|t|t|t|t"),
            "not sealed yet"
        );
        it.seal();
        assert_eq!(
            it.sql(&format!("select {columns} {newest}")),
            format!("main|{role}|first\nsecond|migrator|5|t|f|f|f")
        );
        assert_eq!(it.sql("select count(*) from pggit.commits").parse::<i64>().unwrap(), before + 1);
        assert_eq!(
            it.sql(&format!("select created_at = (select max(created_at) from pggit.changes) {newest}")),
            "t",
            "the time is that of the last change"
        );
        it.is_whole();
    });
}

#[test]
fn parents_follow_the_order_of_sealing() {
    each(|it| {
        it.seal();
        let run = |branch: &str, table: &str| {
            let dsn = format!("{}?options=-c%20pggit.branch%3D{branch}", it.server.url(&it.database));
            psql_ok(&dsn, &format!("create table {table} ()"));
        };
        for (branch, table) in [("main", "a1"), ("main", "a2"), ("side", "b1"), ("main", "a3"), ("side", "b2")] {
            run(branch, table);
        }
        it.seal();
        let pairs = it.lines(
            "select h.object_name || ' on ' || k.branch || ' after ' || coalesce(p.object_name, 'the baseline') \
             from pggit.commits k join pggit.history h on h.commit_id = k.id \
             left join pggit.history p on p.commit_id = k.parent and p.object_type = 'table' \
             where h.object_type = 'table' order by k.seq",
        );
        assert_eq!(
            pairs,
            [
                "a1 on main after the baseline",
                "a2 on main after a1",
                // The first commit of a branch goes on from what its database had.
                "b1 on side after a2",
                "a3 on main after a2",
                "b2 on side after b1"
            ]
        );
        assert_eq!(
            it.sql("select parent is null, message from pggit.commits where seq = 1"),
            "t|what was there before"
        );
    });
}

#[test]
fn a_transaction_that_commits_late_is_sealed_late_and_never_left_out() {
    each(|it| {
        let (mut early, mut late) = (it.session(), it.session());
        late.rows("begin; create table late ()");
        early.rows("begin; create table early ()");
        it.sql("create table a1 ()");
        it.seal();
        assert_eq!(it.sealed(), ["a1"], "nobody waits for a transaction that is still running");
        it.sql("create table a2 ()");
        early.rows("commit");
        it.seal();
        it.sql("create table a3 ()");
        it.seal();
        assert_eq!(it.sealed(), ["a1", "early", "a2", "a3"]);
        assert_eq!(it.sql("select pggit.seal()"), "0");
        late.rows("create table later (); commit");
        it.seal();
        assert_eq!(it.sealed(), ["a1", "early", "a2", "a3", "late later"]);
        it.is_whole();
    });
}

#[test]
fn what_builds_on_a_commit_is_sealed_after_it() {
    each(|it| {
        it.sql("create table shared ()");
        it.seal();
        let mut first = it.session();
        // The first to begin is the last to finish, and has the smaller number.
        first.rows("begin; create table begun_first ()");
        it.sql("alter table shared add a int");
        first.rows("alter table shared add b int; commit");
        it.seal();
        assert_eq!(
            it.lines(
                "select h.new_definition ~ 'b integer' from pggit.commits k join pggit.history h on h.commit_id = k.id \
                 where h.object_name = 'shared' order by k.seq"
            ),
            ["f", "f", "t"]
        );
        it.is_whole();
    });
}

#[test]
fn prepared_transactions_are_sealed_when_they_are_committed() {
    for version in versions() {
        let mut server = PgServer::with(version).config("max_prepared_transactions = 10").start();
        let database = server.unique_database("prepared");
        migrate(&server, &database);
        {
            let it = Repository { server: &server, database: database.clone() };
            it.sql("begin; create table kept (); prepare transaction 'kept'");
            it.sql("begin; create table dropped (); prepare transaction 'dropped'");
            it.sql("create table a1 ()");
            it.seal();
            assert_eq!(it.sealed(), ["a1"]);
        }
        server.restart();
        let it = Repository { server: &server, database };
        it.sql("create table a2 ()");
        it.seal();
        it.sql("commit prepared 'kept'");
        it.sql("rollback prepared 'dropped'");
        it.seal();
        assert_eq!(it.sealed(), ["a1", "a2", "kept"]);
        it.is_whole();
    }
}

#[test]
fn migration_tools_name_their_commits() {
    each(|it| {
        it.sql(
            "create table alembic_version (version_num varchar(32) primary key); insert into alembic_version values ('000'); \
             create table django_migrations (id bigint generated by default as identity primary key, app varchar(255) not null, \
                 name varchar(255) not null, applied timestamptz not null); \
             create schema rails; create table rails.schema_migrations (version varchar not null primary key); \
             create schema golang; create table golang.schema_migrations (version bigint primary key, dirty boolean not null); \
             create table _sqlx_migrations (version bigint primary key, description text not null, installed_on timestamptz not null \
                 default now(), success boolean not null, checksum bytea not null, execution_time bigint not null); \
             create table \"__EFMigrationsHistory\" (\"MigrationId\" varchar(150) primary key, \"ProductVersion\" varchar(32) not null)",
        );
        it.seal();
        it.sql("begin; create table a1 (); update alembic_version set version_num = '1975ea83b712'; commit");
        it.sql("begin; create table a2 (); insert into django_migrations (app, name, applied) values ('polls', '0002_votes', now()); commit");
        it.sql("begin; create table a3 (); insert into rails.schema_migrations values ('20240101120000'), ('20240101130000'); commit");
        it.sql("begin; create table a4 (); insert into _sqlx_migrations values (7, 'init users', default, true, '', -1); commit; \
                update _sqlx_migrations set execution_time = 5");
        it.sql("begin; create table a5 (); insert into \"__EFMigrationsHistory\" values ('2024_Init', '9'); commit");
        it.sql("begin; create table a6 (); insert into rails.schema_migrations values ('6'); set local pggit.message = 'own'; create table a7 (); commit");
        it.sql("insert into golang.schema_migrations values (8, false)");
        it.sql("create table a8 ()");
        it.seal();
        let found: Vec<_> = (1..=8).map(|n| it.message(&format!("a{n}"))).collect();
        assert_eq!(
            found,
            [
                "alembic 1975ea83b712",
                "django polls.0002_votes",
                "migration 20240101120000, migration 20240101130000",
                "sqlx 7 init users",
                "Entity Framework 2024_Init",
                "own",
                "own",
                "-"
            ]
        );
        it.is_whole();
    });
}

#[test]
fn reading_a_tools_table_neither_waits_nor_runs_anything() {
    each(|it| {
        it.sql(
            "create table public.ran (what text); \
             create function public.run(text) returns text language plpgsql as 'begin insert into public.ran values ($1); return $1; end'; \
             create view alembic_version as select public.run('view') as version_num; \
             create domain odd as text check (public.run(value) is not null); \
             create schema other; create table other.django_migrations (app odd, name int[]); \
             create table knex_migrations (name varchar); alter table knex_migrations enable row level security; \
             create policy p on knex_migrations using (public.run('policy') is not null); \
             create table schema_migrations (version bigint)",
        );
        it.sql(
            "create function public.concat(text, text) returns text language sql as $$ select public.run('concat') $$; \
                create operator public.|| (function = public.concat, leftarg = text, rightarg = text)",
        );
        it.seal();
        it.sql("truncate public.ran");
        it.sql("begin; create table a1 (); insert into schema_migrations values (5); insert into knex_migrations values ('k'); commit");
        let mut holder = it.session();
        holder.rows("begin; lock table schema_migrations in access exclusive mode");
        it.seal();
        assert_eq!(it.message("a1"), "knex k", "the locked table is left alone");
        holder.rows("rollback");
        assert_eq!(it.sql("select count(*) from public.ran"), "0");
        it.is_whole();
    });
}

#[test]
fn sealing_reads_only_where_there_is_nothing_new() {
    each(|it| {
        it.seal();
        let before = it.sql("select pg_snapshot_xmax(pg_current_snapshot()), ctid from pggit.seal_state");
        for _ in 0..3 {
            assert_eq!(it.sql("select pggit.seal()"), "0");
        }
        // Other tests use the server, too: the row is what counts.
        let ctid = |text: &str| text.split('|').nth(1).unwrap().to_owned();
        let after = it.sql("select pg_snapshot_xmax(pg_current_snapshot()), ctid from pggit.seal_state");
        assert_eq!(ctid(&before), ctid(&after));
        assert_eq!(
            it.sql("begin; select pggit.seal(); select pg_current_xact_id_if_assigned() is null; commit"),
            "0\nt"
        );
        let error = it.server.try_psql(&it.database, "begin isolation level repeatable read; select pggit.seal()");
        assert!(String::from_utf8_lossy(&error.stderr).contains("READ COMMITTED"));
    });
}

#[test]
fn two_proxies_seal_everything_once_while_clients_work() {
    each(|it| {
        let proxies = [it.proxy(), it.proxy()];
        let (workers, rounds) = (6, 15);
        std::thread::scope(|scope| {
            for worker in 0..workers {
                let proxy = &proxies[worker % 2];
                scope.spawn(move || {
                    let mut client = proxy.connect(&it.database);
                    for round in 0..rounds {
                        let end = if round % 5 == 4 { "rollback" } else { "commit" };
                        client.rows(&format!("begin; create table t_{worker}_{round} (i int)"));
                        client.rows(&format!("savepoint s; alter table t_{worker}_{round} add j int; {end}"));
                    }
                });
            }
            // Somebody with psql at the same time.
            scope.spawn(|| {
                for _ in 0..20 {
                    it.sql("select pggit.seal(2)");
                }
            });
        });
        let unsealed = || it.sql("select count(*) from pggit.commits where seq is null");
        assert!(eventually(PATIENCE, || unsealed() == "0"), "{} commits are not sealed", unsealed());
        it.is_whole();
        let made = workers * (rounds - rounds / 5);
        assert_eq!(it.sql("select count(*) from pggit.commits where seq > 1 and changes = 2"), made.to_string());
        assert_eq!(
            it.sql(
                "select count(*) from pggit.seals s join pggit.seals p on p.seq = s.seq - 1 \
                 where s.parent is distinct from p.commit_id or s.previous <> p.hash"
            ),
            "0"
        );
        let health = proxies[0].control("show health branch, check, ok, message where check = 'seals'");
        assert!(health.starts_with("main|seals|t|"), "{health}");
        assert_eq!(it.sql("select status from pggit.health_check() where check_name = 'seals'"), "ok");
    });
}

#[test]
fn a_proxy_that_cannot_seal_says_so_and_stays_ready() {
    let server = PgServer::shared(Pg::V15);
    let it = repository(server);
    it.sql("delete from pggit.seal_state");
    it.sql("create table a1 ()");
    let proxy = it.proxy();
    let trouble = || proxy.control("show health ok, message where check = 'seals'");
    assert!(eventually(PATIENCE, || trouble().starts_with("f|") && trouble().contains("seal_state")), "{}", trouble());
    assert_eq!(proxy.get("/readyz").0, 200);
    proxy.psql(&it.database, "create table a2 ()");
    it.sql("insert into pggit.seal_state default values");
    assert!(eventually(PATIENCE, || trouble().starts_with("t|")), "{}", trouble());
    assert!(eventually(PATIENCE, || it.sql("select count(*) from pggit.seals where seq = 3") == "1"));
}
