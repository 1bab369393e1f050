//! Sessions move, and statements are sent to other branches, where both legs have TLS: nothing goes without it, nothing is lost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;

use support::wire::{V3_0, extended, query};
use support::{Certs, Message, PATIENCE, PgServer, Proxy, Wire, eventually, migrate, psql, versions};

const PASSWORD: &str = "correct horse";

/// Single statements of `main` are run on `staging`; sessions of tools begin there.
const RULES: &str = "[[rule]]\nname = \"tools\"\nbranch = \"main\"\napplication = \"tool\"\naction = \"reroute\"\nto = \"staging\"\n\
                     [[rule]]\nname = \"ddl\"\nbranch = \"main\"\nclass = \"ddl\"\naction = \"reroute\"\nto = \"staging\"\n";

struct Place {
    server: PgServer,
    proxy: Proxy,
    certs: Certs,
}

/// A server that takes nothing without TLS; `ann` needs a password, and whoever brings her a certificate.
fn each(test: impl Fn(&Place)) {
    for version in versions() {
        let certs = Certs::new();
        let server = PgServer::with(version)
            .tls(&certs, "server")
            .hba("hostnossl all all all reject")
            .hba("hostssl all postgres all trust")
            .hba("hostssl all ann all scram-sha-256 clientcert=verify-ca")
            .start();
        for database in ["app", "staging"] {
            server.create_database(database);
            migrate(&server, database);
            server.psql(
                database,
                "create table big (t text); insert into big select repeat('x', 1000) from generate_series(1, 3000)",
            );
        }
        server.psql(
            "staging",
            &format!("create role ann login password '{PASSWORD}'; grant create on schema public to ann; grant select on big to ann"),
        );
        server.psql("app", "grant select on big to ann");
        let config = format!(
            "[auth]\nmode = \"scram\"\n[upstream]\ndbname = \"app\"\nsslmode = \"verify-full\"\nsslrootcert = \"{}\"\n\
             sslcert = \"{}\"\nsslkey = \"{}\"\n[listen.tls]\n{}[branches.staging]\ndatabase = \"staging\"\n{RULES}",
            certs.path("root.crt").display(),
            certs.path("ann.crt").display(),
            certs.path("ann.key").display(),
            certs.listen("require")
        );
        let proxy = Proxy::start(&server, &config);
        test(&Place { server, proxy, certs });
    }
}

impl Place {
    fn client(&self, tls: &Arc<rustls::ClientConfig>, application: &str) -> Wire {
        let mut wire = Wire::open_tls(self.proxy.clients, tls).unwrap();
        wire.log_in(V3_0, &[("user", "postgres"), ("database", "app"), ("application_name", application)]);
        wire
    }

    /// psql as `ann`, with her password, verifying the proxy.
    fn ann(&self, more: &str, script: &str) -> (String, String) {
        let dsn = self.proxy.dsn("app").replace("user=postgres", "user=ann");
        let root = self.certs.path("root.crt");
        let dsn = format!("{dsn} password='{PASSWORD}' sslmode=verify-full sslrootcert={} {more}", root.display());
        let output = psql(&dsn, script);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (text(&output.stdout), text(&output.stderr))
    }
}

/// Without ParameterStatus, which moving brings, and with one tag for rows that stand together.
fn tags(messages: &[Message]) -> String {
    let mut tags: Vec<char> =
        messages.iter().map(|message| char::from(message.tag)).filter(|tag| *tag != 'S').collect();
    tags.dedup_by(|one, before| (*one, *before) == ('D', 'D'));
    tags.into_iter().collect()
}

const SSL: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
const GO: &str = "set pggit.branch = 'staging'";
const BACK: &str = "set pggit.branch = 'main'";

#[test]
fn a_session_moves_to_and_fro_with_all_that_is_pipelined() {
    each(|it| {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let tls = it.certs.rustls_versions(&[version]);
            let mut client = it.client(&tls, "psql");
            let (pid, secret) = client.key();
            // All in one go: what stands behind a move is in the proxy's buffers, decrypted or not, while it logs in there.
            let names = ["app", "staging", "app"];
            let mut all = Vec::new();
            for step in [GO, BACK] {
                all.extend(query("select current_database()"));
                all.extend(query("select t from big"));
                all.extend(query(step));
                all.extend(extended("select t from big", &[]));
            }
            all.extend(query("select current_database()"));
            client.send(&all);
            for database in &names[..2] {
                let name = client.read_until_ready();
                assert_eq!(name[1].values()[0].as_deref(), Some(database.as_bytes()));
                let rows = client.read_until_ready();
                assert_eq!((tags(&rows).as_str(), rows.len()), ("TDCZ", 3003));
                assert_eq!(tags(&client.read_until_ready()), "CZ");
                let rows = client.read_until_ready();
                assert_eq!((tags(&rows).as_str(), rows.len()), ("12TDCZ", 3005));
            }
            assert_eq!(client.read_until_ready()[1].values()[0].as_deref(), Some(names[2].as_bytes()));
            // The server process that it left is gone, and each new one is reached by TLS.
            for to in [GO, BACK, GO] {
                let before = client.value("select pg_backend_pid()");
                assert_eq!(tags(&client.ask(&query(to))), "CZ");
                assert_eq!(client.value(SSL), "t");
                let gone = format!("select count(*) = 0 from pg_stat_activity where pid = {before}");
                assert!(eventually(PATIENCE, || it.server.psql("app", &gone) == "t"));
            }
            // COPY in, of more than a record; what the server says by itself while nothing is asked; the key of the first process.
            client.rows("create temp table copied (t text)");
            client.send(&query("copy copied from stdin"));
            assert_eq!(client.read_until(b'G').len(), 1);
            for _ in 0..64 {
                client.send(&support::wire::copy_data(&[&[b'y'; 30_000][..], b"\n"].concat()));
            }
            client.send(&support::wire::copy_done());
            assert_eq!(client.read_until_ready()[0].command_tag(), "COPY 64");
            client.rows("listen news");
            it.server.psql("staging", "notify news, 'heard'");
            assert_eq!(client.read_message().map(|message| message.tag), Some(b'A'));
            client.send(&query("select pg_sleep(602)"));
            let sleeps =
                "select count(*) from pg_stat_activity where query = 'select pg_sleep(602)' and state = 'active'";
            assert!(eventually(PATIENCE, || it.server.psql("app", sleeps) == "1"));
            Wire::open_tls(it.proxy.clients, &tls).unwrap().cancel(pid, &secret);
            assert_eq!(tags(&client.read_until_ready()), "TEZ");
            client.send(&support::wire::terminate());
            assert!(client.read_to_end().is_empty());
        }
    });
}

#[test]
fn a_statement_is_run_on_the_other_branch_and_its_answer_arrives_whole() {
    each(|it| {
        // An answer of many records.
        it.server.psql(
            "staging",
            "create function tell() returns event_trigger language plpgsql as $f$ begin \
             raise notice 'ssl %', (select ssl from pg_stat_ssl where pid = pg_backend_pid()); \
             for i in 1..30 loop raise notice '% %', i, repeat('n', 20000); end loop; end $f$; \
             create event trigger tell on ddl_command_end when tag in ('CREATE TABLE') execute function tell()",
        );
        let tls = it.certs.rustls(None, false);
        let mut client = it.client(&tls, "psql");
        let pid = client.value("select pg_backend_pid()");
        // Pipelined between large answers of its own server.
        let all = [query("select t from big"), query("create table sent (i int)"), query("select t from big")].concat();
        client.send(&all);
        assert_eq!(client.read_until_ready().len(), 3003);
        let answer = client.read_until_ready();
        assert_eq!(tags(&answer), format!("{}CZ", "N".repeat(32)));
        assert_eq!(answer[1].field(b'M').as_deref(), Some("ssl t"));
        let whole = |(i, message): (usize, &Message)| {
            message.field(b'M').unwrap() == format!("{} {}", i + 1, "n".repeat(20000))
        };
        assert!(answer[2..32].iter().enumerate().all(whole));
        assert_eq!(client.read_until_ready().len(), 3003);
        assert_eq!(client.value("select pg_backend_pid()"), pid);
        let there = "select to_regclass('sent') is not null";
        assert_eq!([it.server.psql("app", there), it.server.psql("staging", there)], ["f", "t"]);
        // A cancel request finds it there.
        it.server.psql("staging", "create table locked (i int)");
        let mut holder = it.client(&tls, "tool");
        holder.rows("begin; lock table locked");
        let (pid, secret) = client.key();
        client.send(&query("alter table locked add j int"));
        let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = 'staging'";
        assert!(eventually(PATIENCE, || it.server.psql("app", waits) == "1"));
        Wire::open_tls(it.proxy.clients, &tls).unwrap().cancel(pid, &secret);
        let answer = client.read_until_ready();
        assert_eq!(answer.iter().find_map(|m| (m.tag == b'E').then(|| m.field(b'C'))?).as_deref(), Some("57014"));
        // A session that begins there.
        let mut tool = it.client(&tls, "tool");
        assert_eq!(tool.value("select current_database() || pg_is_in_recovery()"), "stagingfalse");
        assert_eq!(tool.value(SSL), "t");
    });
}

/// Her password is bound to the TLS of either leg; the proxy logs her in again with what she proved.
#[test]
fn who_proved_her_password_is_logged_in_again_by_tls() {
    each(|it| {
        let script = format!(
            "select current_database();\n{SSL};\n{GO};\nselect current_database(), current_user;\n{SSL};\n{BACK};\n\
             create table hers (i int);\nselect current_database();\n{GO};\n\\d hers\nselect count(*) from big;\n"
        );
        for binding in ["disable", "require"] {
            let (said, words) = it.ann(&format!("channel_binding={binding}"), &script);
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!(&lines[..6], ["app", "t", "staging|ann", "t", "app", "i|integer|||"], "{words}");
            assert_eq!(lines[6], "3000");
            assert!(words.contains("CREATE TABLE was sent to branch \"staging\""), "{words}");
            assert_eq!(it.server.psql("staging", "select tableowner from pg_tables where tablename = 'hers'"), "ann");
            it.server.psql("staging", "drop table hers");
        }
        let (said, words) = it.ann(
            "application_name=tool channel_binding=require",
            &format!("select current_database(), current_user;\n{SSL};"),
        );
        assert_eq!(said, "staging|ann\nt", "{words}");
        // With a password that is another one by now she is told why, and stays.
        let script = format!(
            "\\set ON_ERROR_STOP off\nalter role ann password 'another';\n{GO};\nselect current_database();\ncreate table no (i int);\n"
        );
        let (said, words) = it.ann("", &script);
        assert_eq!(said.lines().last(), Some("app"), "{words}");
        assert_eq!(words.matches("the user's password has changed").count(), 2, "{words}");
    });
}

/// `main` is reached with TLS only and `feature` without only: `prefer` leaves both open, and each login takes its own road.
#[test]
fn where_sslmode_leaves_it_open_each_branch_is_reached_by_its_own_road() {
    for version in versions() {
        let certs = Certs::new();
        let server = PgServer::with(version)
            .tls(&certs, "server")
            .hba("hostnossl app visitor,ann all reject")
            .hba("hostssl staging visitor,ann all reject")
            .hba("host all ann all scram-sha-256")
            .start();
        for database in ["app", "staging"] {
            server.create_database(database);
            migrate(&server, database);
        }
        server.psql(
            "staging",
            &format!("create role visitor login; grant create on schema public to visitor; create role ann login password '{PASSWORD}'"),
        );
        for sslmode in ["prefer", "allow"] {
            let config = format!(
                "[auth]\nmode = \"scram\"\n[upstream]\ndbname = \"app\"\nsslmode = \"{sslmode}\"\n[listen.tls]\n{}[branches.staging]\ndatabase = \"staging\"\n{RULES}",
                certs.listen("require")
            );
            let proxy = Proxy::start(&server, &config);
            let tls = certs.rustls(None, true);
            let mut client = Wire::open_tls(proxy.clients, &tls).unwrap();
            client.log_in(V3_0, &[("user", "visitor"), ("database", "app")]);
            let (pid, secret) = client.key();
            for (to, is_tls) in [("select 1", "t"), (GO, "f"), (BACK, "t"), (GO, "f")] {
                client.rows(to);
                assert_eq!(client.value(SSL), is_tls, "{to} with {sslmode}");
                // The cancel request goes by the road of the moment.
                client.send(&query("select pg_sleep(603)"));
                let sleeps =
                    "select count(*) from pg_stat_activity where query = 'select pg_sleep(603)' and state = 'active'";
                assert!(eventually(PATIENCE, || server.psql("app", sleeps) == "1"));
                Wire::open_tls(proxy.clients, &tls).unwrap().cancel(pid, &secret);
                assert_eq!(tags(&client.read_until_ready()), "TEZ", "{to} with {sslmode}");
            }
            client.rows(BACK);
            assert_eq!(tags(&client.ask(&query("create table sent (i int)"))), "NCZ");
            assert_eq!(server.psql("staging", "select to_regclass('sent') is not null"), "t");
            server.psql("staging", "drop table sent");
            // With a password, which is bound to TLS on one road and to nothing on the other.
            let ann = proxy.dsn("app").replace("user=postgres", "user=ann");
            let ann = format!("{ann} password='{PASSWORD}' sslmode=require channel_binding=require");
            let script = format!("{SSL};\n{GO};\n{SSL};\n{BACK};\n{SSL};\n");
            let output = psql(&ann, &script);
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                "t\nf\nt\n",
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}
