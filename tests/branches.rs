//! How a client reaches a branch, end to end: every carrier, every way to be wrong, rows that become branches.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::wire::V3_0;
use support::{Message, PATIENCE, PgServer, Proxy, Wire, eventually, migrate, versions};

/// A repository with the branches `main`, `feature/x` (declared) and their databases.
struct Repository {
    server: &'static PgServer,
    app: String,
    feature: String,
    proxy: Proxy,
}

fn each(test: impl Fn(&Repository)) {
    for version in versions() {
        let server = PgServer::shared(version);
        let (app, feature) = (server.unique_database("app"), server.unique_database("feat"));
        migrate(server, &app);
        migrate(server, &feature);
        let config = format!("[upstream]\ndbname = \"{app}\"\n[branches.\"feature/x\"]\ndatabase = \"{feature}\"\n");
        let proxy = Proxy::start(server, &config);
        test(&Repository { server, app, feature, proxy });
    }
}

impl Repository {
    fn login(&self, parameters: &[(&str, &str)]) -> Result<Wire, Message> {
        let all = [&[("user", "postgres")], parameters].concat();
        Wire::try_connect(self.proxy.clients, V3_0, &all).map_err(|messages| messages.last().unwrap().clone())
    }

    fn refused(&self, parameters: &[(&str, &str)]) -> Message {
        match self.login(parameters) {
            Ok(_) => panic!("{parameters:?} was let in"),
            Err(error) => error,
        }
    }

    /// Where a session with these start-up parameters is, and what its rows say.
    fn place(&self, parameters: &[(&str, &str)]) -> (String, String) {
        let mut client = self.login(parameters).unwrap_or_else(|error| panic!("{parameters:?}: {error:?}"));
        let database = client.value("select current_database()");
        client.rows("create table here ()");
        let branch = self.server.psql(&database, "select branch from pggit.history where object_name = 'here'");
        client.rows("drop table here");
        self.server.psql(&database, "delete from pggit.changes where object_name = 'here'");
        (database, branch)
    }
}

#[test]
fn every_carrier_leads_to_its_branch() {
    each(|it| {
        let app = it.app.as_str();
        let of = |suffix: &str| format!("{app}{suffix}");
        let (slash, at, percent, percent_at, lower) =
            (of("/feature/x"), of("@feature/x"), of("%2Ffeature%2Fx"), of("%40feature%2fx"), of("%2ffeature%2fx"));
        let feature: Vec<Vec<(&str, &str)>> = vec![
            vec![("database", app), ("pggit.branch", "feature/x")],
            vec![("database", app), ("options", "-c pggit.branch=feature/x")],
            vec![("database", app), ("options", "-cpggit.branch=feature/x")],
            vec![("database", app), ("options", "--pggit.branch=feature/x")],
            vec![("database", app), ("options", "-c PGGIT.Branch=feature/x")],
            vec![("database", app), ("options", "  -c   pggit.branch=feature/x   -c statement_timeout=7s ")],
            vec![
                ("database", app),
                ("options", "-c statement_timeout=7s -c pggit.branch=other -c pggit.branch=feature/x"),
            ],
            vec![("database", app), ("options", "-c pggit.branch=feature\\/x")],
            vec![("database", &slash)],
            vec![("database", &at)],
            vec![("database", &percent)],
            vec![("database", &percent_at)],
            vec![("database", &lower)],
            vec![("database", &it.feature)],
            vec![("database", &slash), ("pggit.branch", "feature/x"), ("options", "-c pggit.branch=feature/x")],
        ];
        for parameters in feature {
            assert_eq!(it.place(&parameters), (it.feature.clone(), "feature/x".to_owned()), "{parameters:?}");
        }
        let named = of("/main");
        let main: Vec<Vec<(&str, &str)>> = vec![
            vec![("database", app)],
            vec![("database", &named)],
            vec![("database", app), ("pggit.branch", "main")],
            vec![("database", app), ("options", "-c statement_timeout=7s")],
        ];
        for parameters in main {
            assert_eq!(it.place(&parameters), (it.app.clone(), "main".to_owned()), "{parameters:?}");
        }
        // Other options still reach the server.
        let mut client =
            it.login(&[("database", app), ("options", "-c statement_timeout=7s -c pggit.branch=main")]).unwrap();
        assert_eq!(client.value("show statement_timeout"), "7s");
        assert_eq!(client.value("select current_setting('pggit.branch')"), "main");
    });
}

#[test]
fn wrong_carriers_are_told_so() {
    each(|it| {
        let app = it.app.as_str();
        let error = it.refused(&[("database", &format!("{app}/feature/y"))]);
        assert_eq!(error.field(b'S').unwrap(), "FATAL");
        assert_eq!(error.field(b'C').unwrap(), "3D000");
        assert!(error.field(b'M').unwrap().contains("feature/y"), "{error:?}");
        assert!(error.field(b'H').unwrap().contains("feature/x"), "near names: {error:?}");
        for parameters in [
            vec![("database", app), ("pggit.branch", "nope")],
            vec![("database", app), ("options", "-c pggit.branch=nope")],
            vec![("database", app), ("pggit.branch", "")],
        ] {
            assert_eq!(it.refused(&parameters).field(b'C').unwrap(), "3D000", "{parameters:?}");
        }
        let named = format!("{app}/main");
        for parameters in [
            vec![("database", app), ("pggit.branch", "main"), ("options", "-c pggit.branch=feature/x")],
            vec![("database", named.as_str()), ("pggit.branch", "feature/x")],
            vec![("database", it.feature.as_str()), ("options", "-c pggit.branch=main")],
            vec![("database", "postgres"), ("pggit.branch", "main")],
        ] {
            let error = it.refused(&parameters);
            assert_eq!(error.field(b'C').unwrap(), "22023", "{parameters:?} {error:?}");
        }
        for parameters in [
            vec![("database", app), ("pggit.session", "x")],
            vec![("database", app), ("pggit.client", "x")],
            vec![("database", app), ("options", "-c pggit.session=x")],
            vec![("database", app), ("options", "--pggit.client=1.2.3.4:5")],
        ] {
            assert_eq!(it.refused(&parameters).field(b'C').unwrap(), "42501", "{parameters:?}");
        }
        // In mid-session there is one way to another branch (tests/switching.rs); these are none.
        let mut client = it.login(&[("database", app)]).unwrap();
        for sql in [
            "set pggit.branch to default",
            "set local pggit.branch to 'feature/x'",
            "set local \"pggit\".branch to x",
            "select set_config('pggit.branch', 'x', false)",
            "begin; set PgGit.Branch = x",
        ] {
            let error = client.error(sql);
            assert_eq!(error.field(b'C').unwrap(), "55P02", "{sql}: {error:?}");
            assert!(error.field(b'H').unwrap().contains("\\c"), "{sql}: {error:?}");
            client.rows("rollback");
        }
        client.rows("reset pggit.branch");
        assert_eq!(client.value("select current_setting('pggit.branch')"), "main");
        // Every one of these was counted, none is left.
        assert!(it.proxy.metric("pggit_proxy_connections_total{result=\"no_branch\"}").is_some_and(|n| n >= 8.0));
        drop(client);
        assert!(eventually(PATIENCE, || it.proxy.control("show clients").is_empty()));
    });
}

#[test]
fn rows_become_branches_without_a_restart() {
    each(|it| {
        let app = it.app.as_str();
        let late = it.server.unique_database("late");
        migrate(it.server, &late);
        let carrier = format!("{app}/late");
        assert_eq!(it.refused(&[("database", &carrier)]).field(b'C').unwrap(), "3D000");
        // A plain database so far: nothing is required of it, and its rows are not of this branch.
        it.server.psql(
            app,
            &format!("insert into pggit.branches (name, parent, database) values ('late', 'main', '{late}')"),
        );
        assert!(eventually(PATIENCE, || it.login(&[("database", &carrier)]).is_ok()));
        assert_eq!(it.place(&[("database", &carrier)]), (late.clone(), "late".to_owned()));
        assert!(it.proxy.control("show branches name, origin where name = 'late'").contains("table"));
        // Protection follows the row, in sessions that are open already.
        let mut client = it.login(&[("database", &carrier)]).unwrap();
        it.server.psql(app, "update pggit.branches set protected = true where name = 'late'");
        assert!(eventually(PATIENCE, || {
            let messages = client.ask(&support::wire::query("create table if not exists refused_soon ()"));
            messages.iter().any(|message| message.tag == b'E' && message.field(b'C').unwrap() == "42501")
        }));
        // A second name for the same database is no branch; the first stays.
        it.server.psql(app, &format!("insert into pggit.branches (name, database) values ('twin', '{late}')"));
        it.server.psql(app, "delete from pggit.branches where name = 'late'");
        assert!(eventually(PATIENCE, || it.login(&[("database", &carrier)]).is_err()));
        assert_eq!(it.refused(&[("database", &carrier)]).field(b'C').unwrap(), "3D000");
        assert_eq!(client.value("select 1"), "1", "whoever is there stays");
        // A row whose database does not exist: the server's own words.
        it.server.psql(app, "insert into pggit.branches (name, database) values ('ghost', 'no_such_database')");
        let ghost = format!("{app}/ghost");
        assert!(eventually(PATIENCE, || {
            it.login(&[("database", &ghost)])
                .is_err_and(|error| error.field(b'M').unwrap().contains("no_such_database"))
        }));
    });
}

#[test]
fn changes_that_go_round_the_proxy_carry_the_branch_of_their_database() {
    each(|it| {
        for (database, branch) in [(&it.app, "main"), (&it.feature, "feature/x")] {
            let known = || it.server.psql(database, "select pggit.default_branch()") == branch;
            assert!(eventually(PATIENCE, known), "the database of {branch} knows its name");
            it.server.psql(database, "create table roundabout ()");
            let row = "select branch, via_proxy from pggit.history where object_name = 'roundabout'";
            assert_eq!(it.server.psql(database, row), format!("{branch}|f"));
            let own = "select count(*) from pggit.history where schema_name = 'pggit'";
            assert_eq!(it.server.psql(database, own), "0", "giving the name is no change");
        }
    });
}

#[test]
fn psql_switches_branches() {
    each(|it| {
        let script = format!(
            "select current_database();\n\\c {app}/feature/x\nselect current_database();\ncreate table by_psql ();\n\
             \\c {app}@main\nselect current_database();\n\\c {feature}\nselect current_setting('pggit.branch');\n",
            app = it.app,
            feature = it.feature
        );
        let printed = it.proxy.psql(&it.app, &script);
        let values: Vec<&str> = printed.lines().filter(|line| !line.starts_with("You are")).collect();
        assert_eq!(values, [it.app.as_str(), &it.feature, &it.app, "feature/x"]);
        assert_eq!(
            it.server.psql(&it.feature, "select branch from pggit.history where object_name = 'by_psql'"),
            "feature/x"
        );
        assert_eq!(it.server.psql(&it.app, "select count(*) from pggit.history where object_name = 'by_psql'"), "0");
        // PGOPTIONS, as psql and every libpq program send it.
        let dsn = format!("{} options='-c pggit.branch=feature/x -c search_path=public'", it.proxy.dsn(&it.app));
        assert_eq!(
            support::psql_ok(&dsn, "select current_database(); show search_path"),
            format!("{}\npublic", it.feature)
        );
        // And the library that most drivers are like.
        assert!(it.proxy.control("show history branch where object_name = 'by_psql'").contains("feature/x"));
    });
}

#[test]
fn other_databases_pass_unmanaged() {
    each(|it| {
        let other = it.server.unique_database("other");
        let mut client = it.login(&[("database", &other)]).unwrap();
        // No schema pggit there: nothing is required.
        client.rows("create table free (); alter table free add a int; drop table free");
        assert_eq!(client.value("select coalesce(current_setting('pggit.branch', true), '')"), "");
        assert_eq!(
            it.server.psql(&it.app, &format!("select count(*) from pggit.statements where database = '{other}'")),
            "0"
        );
        assert_eq!(it.login(&[("database", "postgres")]).unwrap().value("select current_database()"), "postgres");
        // A database that does not exist gets the server's own answer; so does no database at all (that of the user's name).
        let error = it.refused(&[("database", "no_such_database")]);
        assert_eq!((error.field(b'C').unwrap().as_str(), error.field(b'F').is_some()), ("3D000", true));
        assert_eq!(it.login(&[]).unwrap().value("select current_database()"), "postgres");
        assert!(
            eventually(PATIENCE, || it.proxy.metric("pggit_proxy_clients{branch=\"none\"}") == Some(1.0)),
            "one is left"
        );
    });
}
