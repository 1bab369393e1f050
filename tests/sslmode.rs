//! `upstream.sslmode` where it leaves TLS open: `prefer` and `allow` come to the server by the road that libpq comes by.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::{Command, Output};

use support::proxy::PROGRAM;
use support::{Certs, PATIENCE, PgServer, Proxy, Wire, eventually, psql, versions, wire};

const HOW: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

/// Users whom `pg_hba.conf` lets in by TLS only, without TLS only, either way, and not at all.
fn server(version: support::Pg, certs: &Certs) -> PgServer {
    let server = PgServer::with(version)
        .tls(certs, "server")
        .config("log_connections = on")
        .hba("hostnossl all encrypted,encrypted_password all reject")
        .hba("hostssl all unencrypted,unencrypted_password all reject")
        .hba("host all encrypted_password,unencrypted_password all scram-sha-256")
        .hba("host all nobody all reject")
        .start();
    server.psql(
        "postgres",
        "create role encrypted login; create role unencrypted login; create role either login; \
         create role nobody login; create role late login connection limit 0; \
         create role encrypted_password login password 'secret'; create role unencrypted_password login password 'secret'",
    );
    server
}

/// What was printed, and the last error in the server's words.
fn came(output: &Output) -> (String, Option<String>) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.rsplit_once("FATAL:").map(|(_, words)| words.trim().to_owned());
    (String::from_utf8_lossy(&output.stdout).trim().to_owned(), last)
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_road_is_the_one_that_libpq_takes() {
    let certs = Certs::new();
    for version in versions() {
        let server = server(version, &certs);
        for mode in ["disable", "allow", "prefer", "require"] {
            let passthrough = Proxy::start(&server, &format!("[upstream]\nsslmode = \"{mode}\"\n"));
            let scram = Proxy::start(&server, &format!("[auth]\nmode = \"scram\"\n[upstream]\nsslmode = \"{mode}\"\n"));
            for user in
                ["encrypted", "unencrypted", "either", "nobody", "late", "encrypted_password", "unencrypted_password"]
            {
                let ask = |port: u16, sslmode: &str| {
                    let to = format!("host=127.0.0.1 port={port} user={user} password=secret dbname=postgres");
                    psql(&format!("{to} sslmode={sslmode}"), HOW)
                };
                let direct = came(&ask(server.address.port(), mode));
                for (proxy, login) in [(&passthrough, "passthrough"), (&scram, "scram")] {
                    let through = ask(proxy.clients.port(), "disable");
                    assert_eq!(direct, came(&through), "{mode} {user} {login} on {}", version.0);
                }
            }
        }
    }
}

#[test]
fn a_wrong_password_is_not_tried_again_by_the_other_road() {
    let certs = Certs::new();
    let server = server(versions()[0], &certs);
    for (mode, user) in [("allow", "unencrypted_password"), ("prefer", "encrypted_password")] {
        let proxy = Proxy::start(&server, &format!("[upstream]\nsslmode = \"{mode}\"\n"));
        let dsn = format!("host=127.0.0.1 port={} user={user} password=wrong dbname=postgres", proxy.clients.port());
        assert!(words(&psql(&format!("{dsn} sslmode=disable"), "select 1")).contains("password authentication failed"));
        let refused = format!("password authentication failed for user \"{user}\"");
        assert!(eventually(PATIENCE, || server.log().contains(&refused)));
        assert_eq!(server.log().matches(&refused).count(), 1, "{mode}");
    }
}

#[test]
fn the_recorder_and_the_commands_take_the_other_road_too() {
    let certs = Certs::new();
    for version in versions() {
        for (mode, wrong, tls) in [("allow", "hostnossl", "t"), ("prefer", "hostssl", "f")] {
            let hba = format!("{wrong} all postgres all reject");
            let server = PgServer::with(version).tls(&certs, "server").hba(&hba).start();
            let url = format!("{}?sslmode={mode}", server.url("postgres"));
            let output = support::proxy::run(&["migrate", "up", "--database-url", &url]);
            assert!(output.status.success(), "{}", words(&output));
            let proxy = Proxy::start(&server, &format!("[upstream]\nsslmode = \"{mode}\"\n"));
            assert!(eventually(PATIENCE, || proxy.get("/readyz").0 == 200), "{mode}: {}", proxy.log());
            let mut client = proxy.connect("postgres");
            let recorder = "select bool_and(ssl), bool_or(ssl) from pg_stat_ssl join pg_stat_activity using (pid) \
                            where application_name = 'pggit-proxy'";
            assert_eq!(client.rows(recorder), [[Some(tls.to_owned()), Some(tls.to_owned())]], "{mode}");
            client.rows("create table t (a int)");
            assert_eq!(client.value("select count(*) from pggit.history where object_name = 't'"), "1");
        }
    }
}

#[test]
fn cancel_goes_by_the_road_of_its_session() {
    let certs = Certs::new();
    let server = server(versions()[0], &certs);
    for (mode, user) in [("allow", "encrypted"), ("prefer", "unencrypted")] {
        let proxy = Proxy::start(&server, &format!("[upstream]\nsslmode = \"{mode}\"\n"));
        let mut client = Wire::connect(proxy.clients, &[("user", user), ("database", "postgres")]);
        let (pid, secret) = client.key();
        client.send(&wire::query("select pg_sleep(600)"));
        let running = format!("select count(*) from pg_stat_activity where pid = {pid} and wait_event = 'PgSleep'");
        assert!(eventually(PATIENCE, || server.psql("postgres", &running) == "1"));
        Wire::open(proxy.clients).cancel(pid, &secret);
        let answer = client.read_until_ready();
        assert_eq!(answer.iter().find_map(|message| message.field(b'C')).as_deref(), Some("57014"), "{mode}");
    }
}

#[test]
fn the_machines_own_authorities_are_believed_for_the_right_name() {
    let certs = Certs::new();
    certs.server_elsewhere("elsewhere");
    certs.stranger("stranger");
    let version = *versions().last().unwrap();
    for (file, authorities, works) in
        [("server", "root.crt", true), ("server", "stranger.crt", false), ("elsewhere", "root.crt", false)]
    {
        let server = PgServer::with(version).tls(&certs, file).start();
        let mut command = Command::new(PROGRAM);
        command.env("SSL_CERT_FILE", certs.path(authorities));
        // `sslmode` is left unsaid: with these authorities it is verify-full.
        let config = "[upstream]\nsslrootcert = \"system\"\n";
        let proxy = Proxy::launch(server.address, config, command).unwrap();
        let dsn = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", proxy.clients.port());
        let came = psql(&dsn, HOW);
        let row = String::from_utf8_lossy(&came.stdout).trim().to_owned();
        assert_eq!(row, if works { "t" } else { "" }, "{file}, {authorities}: {}", words(&came));
        assert_eq!(proxy.control("SHOW CONFIG value WHERE key = 'upstream.sslmode'"), "verify-full");
        if works {
            let run = |more: &str| {
                let url = format!("{}?sslrootcert=system{more}", server.url("postgres"));
                let mut command = Command::new(PROGRAM);
                command.args(["migrate", "status", "--database-url", &url]);
                command.env("SSL_CERT_FILE", certs.path(authorities)).env_remove("PGSSLMODE");
                let output = command.output().unwrap();
                (output.status.success(), words(&output))
            };
            assert!(run("").0, "{}", run("").1);
            assert!(run("&sslmode=require").1.contains("verify-full"), "{}", run("&sslmode=require").1);
        }
    }
}
