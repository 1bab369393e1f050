//! Two-phase commit: what a transaction did is in the history when COMMIT PREPARED came, from whichever session, and not
//! before; the statement log says what became of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use nix::sys::signal::Signal;
use support::{PATIENCE, Pg, PgServer, Proxy, eventually, migrate, versions};

struct Repository {
    server: &'static PgServer,
    database: String,
    config: String,
}

fn each_version(test: impl Fn(Repository)) {
    for version in versions() {
        let server = PgServer::shared(version);
        let database = server.unique_database("app");
        migrate(server, &database);
        let config = format!("[upstream]\ndbname = \"{database}\"\n");
        test(Repository { server, database, config });
    }
}

impl Repository {
    fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.database, sql)
    }

    fn proxy(&self) -> Proxy {
        Proxy::start(self.server, &self.config)
    }

    /// Names are the server's, not a database's.
    fn gid(&self, name: &str) -> String {
        format!("{}_{name}", self.database)
    }

    fn prepare(&self, proxy: &Proxy, name: &str) {
        let mut client = proxy.connect(&self.database);
        client.rows(&format!(
            "begin; create table {name}_a (i int); savepoint s; create table {name}_undone (); rollback to s; \
             create table {name}_b (); prepare transaction '{}'",
            self.gid(name)
        ));
    }

    fn history(&self, name: &str) -> String {
        self.sql(&format!(
            "select coalesce(string_agg(object_name, ' ' order by object_name), ''), count(distinct commit_id), count(distinct session_id) \
             from pggit.history where object_name like '{name}\\_%' and object_type = 'table'"
        ))
    }

    /// Outcomes of the two statements that count, and of the one that a savepoint undid.
    fn outcomes(&self, name: &str) -> String {
        self.sql(&format!(
            "select coalesce(string_agg(outcome, ' ' order by sql), '') from pggit.statements where sql like 'create table {name}\\_%'"
        ))
    }

    fn becomes(&self, name: &str, outcome: &str) {
        let wanted = format!("{outcome} {outcome} rolled_back");
        assert!(eventually(PATIENCE, || self.outcomes(name) == wanted), "{name}: {} not {wanted}", self.outcomes(name));
    }
}

#[test]
fn the_end_may_come_from_any_session_of_any_proxy_or_round_them() {
    each_version(|r| {
        let mut proxy = r.proxy();
        for name in ["other", "undone", "round", "later", "undonelater", "open"] {
            r.prepare(&proxy, name);
            // The client was told of it, so it is remembered already.
            let known = format!("select outcome is null from pggit.prepared where gid = '{}'", r.gid(name));
            assert_eq!(r.sql(&known), "t", "{name}");
            r.becomes(name, "unknown");
            assert_eq!(r.history(name), "|0|0");
        }
        let end = |proxy: &Proxy, how: &str, name: &str| {
            proxy.connect(&r.database).rows(&format!("{how} prepared '{}'", r.gid(name)));
        };
        end(&proxy, "commit", "other");
        r.becomes("other", "applied");
        assert_eq!(r.history("other"), "other_a other_b|1|1");
        end(&proxy, "rollback", "undone");
        r.becomes("undone", "rolled_back");
        assert_eq!(r.history("undone"), "|0|0");
        r.sql(&format!("commit prepared '{}'", r.gid("round")));
        r.becomes("round", "applied");
        assert_eq!(r.history("round"), "round_a round_b|1|1");

        // The proxy that saw it prepared is gone without a word; meanwhile it ends, and afterwards.
        proxy.signal(Signal::SIGKILL);
        proxy.wait_exit(PATIENCE).unwrap();
        r.sql(&format!("rollback prepared '{}'", r.gid("undonelater")));
        let second = r.proxy();
        r.becomes("undonelater", "rolled_back");
        end(&second, "commit", "later");
        r.becomes("later", "applied");
        assert_eq!(r.history("later"), "later_a later_b|1|1");
        // Whose change it was is the session that prepared it.
        let who = "select count(*) from pggit.history h join pggit.statements s using (session_id) \
                   where h.object_name = 'later_a' and s.sql like 'create table later_a%' and h.captured_by = 'trigger'";
        assert_eq!(r.sql(who), "1");
        r.becomes("open", "unknown");
        assert_eq!(r.sql("select string_agg(gid, ',') from pggit.prepared where outcome is null"), r.gid("open"));
        end(&second, "rollback", "open");
        r.becomes("open", "rolled_back");
    });
}

#[test]
fn a_prepare_that_fails_is_a_rollback() {
    each_version(|r| {
        let proxy = r.proxy();
        let mut client = proxy.connect(&r.database);
        client.rows("begin; create table failed_a ()");
        client.error("no sql");
        client.rows(&format!("prepare transaction '{}'", r.gid("failed")));
        let outcome = |table: &str| {
            let logged = format!("select outcome from pggit.statements where sql = 'create table {table} ()'");
            assert!(eventually(PATIENCE, || !r.sql(&logged).is_empty()));
            r.sql(&logged)
        };
        assert_eq!(outcome("failed_a"), "rolled_back");
        // A name that is taken, and a transaction that cannot be prepared.
        r.prepare(&proxy, "taken");
        client.rows("begin; create table another_too ()");
        client.error(&format!("prepare transaction '{}'", r.gid("taken")));
        assert_eq!(outcome("another_too"), "rolled_back");
        client.rows("begin; create temp table t (a int); create table temporary_too ()");
        client.error(&format!("prepare transaction '{}'", r.gid("temporary")));
        assert_eq!(outcome("temporary_too"), "rolled_back");
        r.becomes("taken", "unknown");
        client.rows(&format!("commit prepared '{}'", r.gid("taken")));
        r.becomes("taken", "applied");
        // The same name again is another transaction.
        client.rows(&format!("begin; create table again_a (); prepare transaction '{}'", r.gid("taken")));
        client.rows(&format!("rollback prepared '{}'", r.gid("taken")));
        assert!(eventually(PATIENCE, || outcome("again_a") == "rolled_back"));
        r.becomes("taken", "applied");
        assert_eq!(
            r.sql("select string_agg(outcome, ' ' order by prepared_at) from pggit.prepared"),
            "applied rolled_back"
        );
    });
}

#[test]
fn a_prepared_transaction_outlives_a_crash_of_the_server() {
    for version in [Pg::V15, Pg::V18].into_iter().filter(|version| versions().contains(version)) {
        let mut server = PgServer::start(version);
        let database = server.create_database("app");
        migrate(&server, &database);
        let proxy = Proxy::start(&server, "[upstream]\ndbname = \"app\"\n");
        proxy.connect(&database).rows("begin; create table a (); prepare transaction 'one'");
        proxy.connect(&database).rows("begin; create table b (); prepare transaction 'two'");
        let outcomes = |server: &PgServer| {
            let output = server.try_psql(
                &database,
                "select string_agg(sql || ' ' || outcome, ', ' order by sql) from pggit.statements where class = 'ddl'",
            );
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        assert!(eventually(PATIENCE, || outcomes(&server) == "create table a () unknown, create table b () unknown"));
        server.restart();
        let commit = |sql: &str| server.try_psql(&database, sql).status.success();
        assert!(eventually(PATIENCE, || commit("commit prepared 'one'")));
        assert!(eventually(PATIENCE, || outcomes(&server) == "create table a () applied, create table b () unknown"));
        let mut client = proxy.connect(&database);
        client.rows("rollback prepared 'two'");
        assert!(
            eventually(PATIENCE, || outcomes(&server) == "create table a () applied, create table b () rolled_back")
        );
        let rows = "select string_agg(object_name, ',') from pggit.history where object_type = 'table'";
        assert_eq!(server.psql(&database, rows), "a");
    }
}
