//! Branches that a connection makes, by every way to log in: nobody makes one who could not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use support::postgres::binaries;
use support::wire::V3_0;
use support::{Certs, Pg, PgServer, Proxy, Wire, migrate, versions};

const PASSWORD: &str = "correct horse";

struct Place {
    server: PgServer,
    certs: Certs,
}

/// A server with users who are asked in the way of their name, and the database `app`.
fn each(test: impl Fn(&Place)) {
    for version in versions() {
        let certs = Certs::new();
        let mut builder = PgServer::with(version)
            .tls(&certs, "server")
            .hba("host all postgres all trust")
            .hba("host all md5 all md5")
            .hba("host all cleartext all password")
            .hba("host app kept_out all trust")
            .hba("host all kept_out all reject");
        if knows_gss(version) {
            builder = builder.hba("host all ticket all gss");
        }
        let server = builder.hba("host all all all scram-sha-256").start();
        server.psql(
            "postgres",
            &format!(
                "set password_encryption = 'md5'; create role md5 login password '{PASSWORD}'; \
                 set password_encryption = 'scram-sha-256'; create role scram login password '{PASSWORD}'; \
                 create role cleartext login password '{PASSWORD}'; create role kept_out login; create role ticket login"
            ),
        );
        server.create_database("app");
        migrate(&server, "app");
        test(&Place { server, certs });
    }
}

/// Not every build of the server has it.
fn knows_gss(version: Pg) -> bool {
    let program = std::fs::read(binaries(version).join("postgres")).unwrap();
    memchr::memmem::find(&program, b"libgssapi").is_some()
}

impl Place {
    fn proxy(&self, mode: &str, leg: &str) -> Proxy {
        let dump = self.server.client_program("pg_dump");
        // Passwords do not pass between two legs with TLS.
        let tls = if mode == "scram" { format!("[listen.tls]\n{}", self.certs.listen("allow")) } else { String::new() };
        let config = format!(
            "[auth]\nmode = \"{mode}\"\n[upstream]\ndbname = \"app\"\nsslmode = \"{leg}\"\n\
             [branches]\nauto_create = \"pr-*\"\npg_dump = \"{}\"\n{tls}",
            dump.display()
        );
        Proxy::start(&self.server, &config)
    }

    fn psql(&self, proxy: &Proxy, user: &str, road: &str, branch: &str, password: Option<&str>) -> Output {
        let dsn = proxy.dsn(&format!("app/{branch}")).replace("user=postgres", &format!("user={user}"));
        let mut command = Command::new("psql");
        // With a libpq that speaks protocol 3.2, where there is one.
        let libraries = binaries(versions().into_iter().max().unwrap()).parent().unwrap().join("lib");
        let newest = if libraries.join("libpq.so.5").exists() { "max_protocol_version=latest" } else { "" };
        if !newest.is_empty() {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.args(["-XAtqw", "-v", "VERBOSITY=verbose", "-d", &format!("{dsn} {road} {newest}")]);
        command.env_remove("PGPASSWORD").env("PGPASSFILE", "/nonexistent").env("PGCONNECT_TIMEOUT", "30");
        command.envs(password.map(|password| ("PGPASSWORD", password)));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql");
        // There and back, where that can be.
        let sql = "select session_user || ' ' || pggit.current_branch();\nset pggit.branch = 'main';\n\
                   select pggit.current_branch();\n";
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn branches(&self) -> String {
        self.server.psql("app", "select string_agg(name, ' ' order by name) from pggit.branches where name <> 'main'")
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn row(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn with_scram_the_session_begins_on_the_new_branch() {
    each(|it| {
        let verified = format!("sslmode=verify-full sslrootcert={}", it.certs.path("root.crt").display());
        let roads = [("sslmode=disable", "disable"), ("sslmode=disable", "require"), (verified.as_str(), "require")];
        let mut made = Vec::new();
        for (n, (road, leg)) in roads.into_iter().enumerate() {
            let (proxy, branch) = (it.proxy("scram", leg), format!("pr-{n}"));
            for password in [Some("wrong"), None] {
                let refused = it.psql(&proxy, "scram", road, &branch, password);
                assert!(!refused.status.success(), "{road} -> {leg}");
                let why = if password.is_some() { "password authentication failed" } else { "no password supplied" };
                assert!(words(&refused).contains(why), "{}", words(&refused));
            }
            let refused = it.psql(&proxy, "nobody", road, &branch, Some(PASSWORD));
            assert!(words(&refused).contains("password authentication failed"), "{}", words(&refused));
            assert_eq!(it.branches(), made.join(" "), "{road} -> {leg}");
            made.push(branch.clone());
            let came = it.psql(&proxy, "scram", road, &branch, Some(PASSWORD));
            assert_eq!(row(&came), format!("scram {branch}\nmain"), "{road} -> {leg}: {}", words(&came));
            assert!(words(&came).contains(&format!("branch \"{branch}\" was made from \"main\"")), "{}", words(&came));
            assert_eq!(it.branches(), made.join(" "));
        }
    });
}

#[test]
fn who_cannot_be_logged_in_twice_is_told_to_connect_again() {
    each(|it| {
        let mut made = Vec::new();
        for leg in ["disable", "require"] {
            let proxy = it.proxy("passthrough", leg);
            for user in ["cleartext", "md5", "scram"] {
                let branch = format!("pr-{leg}-{user}");
                for password in [Some("wrong"), None] {
                    let refused = it.psql(&proxy, user, "sslmode=disable", &branch, password);
                    let why =
                        if password.is_some() { "password authentication failed" } else { "no password supplied" };
                    assert!(words(&refused).contains(why), "{}", words(&refused));
                }
                assert_eq!(it.branches(), made.join(" "), "{branch}");
                made.push(branch.clone());
                let told = it.psql(&proxy, user, "sslmode=disable", &branch, Some(PASSWORD));
                assert!(!told.status.success());
                let wanted = format!("FATAL:  branch \"{branch}\" is made now: connect again");
                assert!(words(&told).contains(&wanted), "{}", words(&told));
                assert!(words(&told).contains("a password, which the proxy does not know"), "{}", words(&told));
                assert_eq!(it.branches(), made.join(" "));
                let came = it.psql(&proxy, user, "sslmode=disable", &branch, Some(PASSWORD));
                assert_eq!(row(&came), format!("{user} {branch}\n{branch}"), "{}", words(&came));
            }
        }
        // The server lets him in on the default branch only: the next connection hears that from itself.
        let proxy = it.proxy("passthrough", "disable");
        let come = |user: &str| {
            let parameters = [("user", user), ("database", "app/pr-other")];
            let heard = Wire::try_connect(proxy.clients, V3_0, &parameters).map(|_| ()).unwrap_err();
            let field = |code| heard.last().unwrap().field(code).unwrap_or_default();
            (field(b'C'), field(b'M') + &field(b'D'))
        };
        let (code, told) = come("kept_out");
        assert_eq!(code, "57P03", "{told}");
        assert!(told.contains("is made now: connect again") && told.contains("pg_hba.conf rejects"), "{told}");
        let (code, told) = come("kept_out");
        assert!(code == "28000" && told.contains("pg_hba.conf rejects"), "{told}");
        if knows_gss(it.server.version) {
            let heard = Wire::try_connect(proxy.clients, V3_0, &[("user", "ticket"), ("database", "app/pr-ticket")]);
            let error = heard.map(|_| ()).unwrap_err().remove(0);
            assert_eq!(error.field(b'C').unwrap(), "0A000");
            assert!(!it.branches().contains("ticket"));
        }
    });
}
