//! `SELECT pggit.create_branch(…)` by clients of the proxy: who may, where it is refused, what comes of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::wire::{bind, execute, extended, parse, query, sync};
use support::{Message, PATIENCE, PgServer, Proxy, Wire, eventually, migrate, psql, versions};

struct Place {
    server: &'static PgServer,
    app: String,
    /// A member of pggit_brancher, and nothing else.
    member: String,
    proxy: Proxy,
}

fn each(test: impl Fn(&Place)) {
    for version in versions() {
        let server = PgServer::shared(version);
        let app = server.unique_database("app");
        migrate(server, &app);
        let member = format!("member_{app}");
        server.psql(
            &app,
            &format!("create role {member} login; grant pggit_brancher to {member}; create table t (a int)"),
        );
        let dump = server.client_program("pg_dump");
        let config = format!("[upstream]\ndbname = \"{app}\"\n[branches]\npg_dump = \"{}\"\n", dump.display());
        test(&Place { server, proxy: Proxy::start(server, &config), app, member });
    }
}

impl Place {
    fn main(&self, sql: &str) -> String {
        self.server.psql(&self.app, sql)
    }

    fn on(&self, branch: &str, user: &str) -> Wire {
        Wire::connect(self.proxy.clients, &[("user", user), ("database", &format!("{}/{branch}", self.app))])
    }

    fn branches(&self) -> String {
        self.main("select string_agg(name, ' ' order by name) from pggit.branches")
    }
}

/// SQLSTATE, message and hint of the error among these.
fn error(replies: &[Message]) -> [String; 3] {
    let error = replies.iter().find(|reply| reply.tag == b'E').unwrap_or_else(|| panic!("no error: {replies:?}"));
    [b'C', b'M', b'H'].map(|code| error.field(code).unwrap_or_default())
}

#[test]
fn a_member_makes_a_branch_and_goes_there() {
    each(|it| {
        let mut client = it.on("main", &it.member);
        client.rows("set client_min_messages = error; set client_encoding = 'LATIN1'");
        let replies = client.ask(&query("select pggit.create_branch('feature/x', 'main')"));
        let tags: String = replies.iter().map(|reply| reply.tag as char).collect();
        assert_eq!(tags, "TDCZ", "the client sees a result and nothing else");
        // At once.
        let mut there = it.on("feature/x", "postgres");
        assert_eq!(there.value("select pggit.current_branch() || ' ' || count(*) from t"), "feature/x 0");
        let row = "select parent, status, created_by from pggit.branches where name = 'feature/x'";
        assert_eq!(it.main(row), format!("main|active|{}", it.member));
        // From the session's own branch, with parameters, in whatever text.
        let mut client = it.on("feature/x", &it.member);
        let replies = client.ask(&extended("select pggit.create_branch($1)", &[Some("feature/y")]));
        assert_eq!(replies.iter().map(|reply| reply.tag as char).collect::<String>(), "12TDCZ");
        client.rows("do $$ begin perform pggit.create_branch('é', 'main'); end $$");
        let parents =
            "select string_agg(parent, ' ' order by name) from pggit.branches where name in ('feature/y', 'é')";
        assert_eq!(it.main(parents), "feature/x main");
        // The parent's own branch was not taken for changed, and nobody keeps what was answered.
        assert_eq!(it.main("select count(*) from pggit.changes where created_by <> 'postgres'"), "0");
        assert_eq!(
            it.server.psql(
                &it.main("select database from pggit.branches where name = 'feature/y'"),
                "select count(*) from pggit.answers"
            ),
            "0"
        );
    });
}

#[test]
fn what_is_wrong_comes_back_to_the_caller() {
    each(|it| {
        let mut client = it.on("main", &it.member);
        let mut said = |call: &str| error(&client.ask(&query(&format!("select pggit.create_branch({call})"))));
        assert_eq!(said("'main', 'main'")[..2], ["42710", "branch \"main\" exists already"]);
        let unknown = said("'b', 'mian'");
        assert_eq!(unknown[..2], ["3D000", "branch \"mian\" does not exist"]);
        assert!(unknown[2].contains("\"main\""), "{unknown:?}");
        assert_eq!(said("'bad name\n', 'main'")[0], "42602");
        assert_eq!(said("null")[0], "22004");
        assert_eq!(it.branches(), "main");
        assert_eq!(client.value("select 1"), "1", "the session goes on");
    });
}

#[test]
fn nobody_else_may() {
    each(|it| {
        let (reader, nobody) = (format!("reader_{}", it.app), format!("nobody_{}", it.app));
        it.main(&format!("create role {reader} login; grant pggit_reader to {reader}; create role {nobody} login"));
        for user in [&reader, &nobody] {
            let mut client = it.on("main", user);
            assert_eq!(error(&client.ask(&query("select pggit.create_branch('b', 'main')")))[0], "42501");
            // Nor by asking the proxy as the function does, with all that it says, but for the signature.
            client.rows(
                "do $$ declare said text := translate(encode(convert_to(jsonb_build_object('do', 'create branch', 'name', 'forged', \
                     'parent', 'main', 'ask', gen_random_uuid(), 'session', current_setting('pggit.session'), 'query', 'x')::text, \
                     'UTF8'), 'base64'), E'\\n', ''); \
                 begin raise info using errcode = 'PGASK', message = 'pggit:ask ' || said || ' ' || encode(sha256(said::bytea), 'hex'); end $$",
            );
        }
        let mut client = it.on("main", &it.member);
        assert_eq!(error(&client.ask(&query("select pggit.ask_proxy('{}')")))[0], "42501");
        assert_eq!(
            error(&client.ask(&query("insert into pggit.answers values (gen_random_uuid(), true)")))[0],
            "42501"
        );
        assert!(eventually(PATIENCE, || it.proxy.log().matches("a message that is not ours").count() == 2));
        assert_eq!(it.branches(), "main");
        // Other messages pass, of the same severity, too.
        let replies = client
            .ask(&query("do $$ begin raise info 'hello'; raise notice using errcode = 'PGASK', message = 'x'; end $$"));
        let told: Vec<_> =
            replies.iter().filter(|reply| reply.tag == b'N').map(|reply| reply.field(b'M').unwrap()).collect();
        assert_eq!(told, ["hello", "x"]);
    });
}

#[test]
fn where_it_could_not_be_undone_it_is_refused() {
    each(|it| {
        let mut client = it.on("main", "postgres");
        const CALL: &str = "select pggit.create_branch('b', 'main')";
        let single = |client: &mut Wire, sql: &str| error(&client.ask(&query(sql)))[0].clone();
        client.rows("begin");
        assert_eq!(single(&mut client, CALL), "25001", "in a block");
        client.rows("rollback");
        assert_eq!(single(&mut client, &format!("select 1; {CALL}")), "25001", "among others");
        assert_eq!(single(&mut client, &format!("{CALL}; select 1 / 0")), "25001", "before others");
        assert_eq!(single(&mut client, &format!("begin; {CALL}; rollback")), "25001");
        client.rows("rollback");
        assert_eq!(
            single(&mut client, &format!("with x as (insert into t values (1) returning a) {CALL} from x")),
            "25001"
        );
        client.rows("set default_transaction_isolation = serializable");
        assert_eq!(single(&mut client, CALL), "25001", "it would wait for what it cannot see");
        client.rows("reset default_transaction_isolation");
        // Behind others in a batch of the extended protocol.
        let mut batch = Vec::new();
        for sql in ["begin", CALL] {
            batch.extend([parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat());
        }
        batch.extend(sync());
        assert_eq!(error(&client.ask(&batch))[0], "25001");
        client.rows("rollback");
        assert_eq!(it.branches(), "main");
        // Round the proxy there is nobody who could do it, whatever the session says of itself.
        for settings in ["", "set pggit.session = '0198c0de-0000-7000-8000-00000000000a'; "] {
            let output = psql(&it.server.url(&it.app), &format!("{settings}{CALL}"));
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(text.contains("55000") && text.contains("does not go through pggit-proxy"), "{text}");
        }
        assert_eq!(it.branches(), "main");
    });
}

/// A recorder that is no superuser.
#[test]
fn a_plain_role_answers_too() {
    for version in versions() {
        let server = PgServer::shared(version);
        let app = server.unique_database("app");
        let role = format!("recorder_{app}");
        server.psql(
            "postgres",
            &format!("create role {role} login createdb createrole; alter database {app} owner to {role}"),
        );
        let url = server.url(&app).replace("postgres@", &format!("{role}@"));
        assert!(support::proxy::run(&["migrate", "up", "--database-url", &url]).status.success());
        let dump = server.client_program("pg_dump");
        let config = format!(
            "[upstream]\ndbname = \"{app}\"\nuser = \"{role}\"\n[branches]\npg_dump = \"{}\"\n",
            dump.display()
        );
        let proxy = Proxy::start(server, &config);
        let member = format!("member_{app}");
        server.psql(&app, &format!("create role {member} login; grant pggit_brancher to {member}"));
        let connect = |branch: &str, user: &str| {
            Wire::connect(proxy.clients, &[("user", user), ("database", &format!("{app}/{branch}"))])
        };
        connect("main", &role).rows("create table t (a int)");
        let mut client = connect("main", &member);
        assert_eq!(client.value("select pggit.create_branch('dev')"), "dev");
        assert_eq!(connect("dev", &member).value("select count(*) from pg_tables where tablename = 't'"), "1");
        // What the recorder may not do is said to whoever asked.
        server.psql("postgres", &format!("alter role {role} nocreatedb"));
        connect("main", &role).rows("create table u (a int)");
        let refused = error(&client.ask(&query("select pggit.create_branch('dev2')")));
        assert!(refused[0] == "42501" && refused[2].contains("CREATEDB"), "{refused:?}");
    }
}
