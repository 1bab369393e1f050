//! Logging in: every way a client comes, every way to the server, everything the server may ask for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use support::wire::{V3_0, frame, query, startup};
use support::{Certs, PATIENCE, Pg, PgServer, Proxy, Wire, eventually, versions};

const PASSWORD: &str = "correct horse";

/// A server with TLS and users `md5`, `scram`, `trusted` and `cleartext`, each asked in that way.
fn server(version: Pg, certs: &Certs, file: &str) -> PgServer {
    let server = PgServer::with(version)
        .tls(certs, file)
        .hba("host all postgres all trust")
        .hba("host all trusted all trust")
        .hba("host all md5 all md5")
        .hba("host all cleartext all password")
        .hba("hostssl all certified all cert")
        .hba("host all all all scram-sha-256")
        .start();
    server.psql(
        "postgres",
        &format!(
            "set password_encryption = 'md5'; create role md5 login password '{PASSWORD}'; \
             set password_encryption = 'scram-sha-256'; create role scram login password '{PASSWORD}'; \
             create role trusted login; create role cleartext login password '{PASSWORD}'; create role certified login; \
             create role expired login password '{PASSWORD}' valid until '2001-01-01'; \
             create role unnamed login; create role locked nologin password '{PASSWORD}'"
        ),
    );
    server
}

/// How the server is reached: `[upstream]` keys.
fn legs(certs: &Certs) -> [(&'static str, String); 4] {
    let root = certs.path("root.crt").display().to_string();
    [
        ("plain", "sslmode = \"disable\"\n".to_owned()),
        ("prefer", "sslmode = \"prefer\"\n".to_owned()),
        ("require", "sslmode = \"require\"\n".to_owned()),
        ("verify-full", format!("sslmode = \"verify-full\"\nsslrootcert = \"{root}\"\n")),
    ]
}

fn config(certs: &Certs, mode: &str, tls: &str, upstream: &str, more: &str) -> String {
    format!("[auth]\nmode = \"{mode}\"\n{more}[upstream]\n{upstream}[listen.tls]\n{}", certs.listen(tls))
}

/// psql with the newest libpq there is: Debian's psql runs with that of a newer server, too.
fn psql(dsn: &str, password: Option<&str>, sql: &str) -> Output {
    let mut command = Command::new("psql");
    if let Some(libraries) = newest_libpq() {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command.args(["-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-d", dsn]);
    command.env_remove("PGPASSWORD").env("PGPASSFILE", "/nonexistent").env("PGCONNECT_TIMEOUT", "30");
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql is installed");
    child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn newest_libpq() -> Option<std::path::PathBuf> {
    let newest = versions().into_iter().max()?;
    let libraries = support::postgres::binaries(newest).parent()?.join("lib");
    (newest >= Pg::V18 && libraries.join("libpq.so.5").exists()).then_some(libraries)
}

/// How clients come, for libpq. Direct TLS and certificates of libpq 17 and later, protocol 3.2 of 18.
fn roads(certs: &Certs) -> Vec<(&'static str, String)> {
    let file = |name: &str| certs.path(name).display().to_string();
    let verified = format!("sslmode=verify-full sslrootcert={}", file("root.crt"));
    let mut roads = vec![("plain", "sslmode=disable".to_owned()), ("TLS", verified.clone())];
    if newest_libpq().is_some() {
        roads.push(("direct TLS", format!("{verified} sslnegotiation=direct")));
    }
    roads.push(("mTLS", format!("{verified} sslcert={} sslkey={}", file("ann.crt"), file("ann.key"))));
    roads
}

fn protocols() -> Vec<&'static str> {
    if newest_libpq().is_some() { vec!["max_protocol_version=3.0", "min_protocol_version=3.2"] } else { vec![""] }
}

fn dsn(proxy: &Proxy, user: &str, road: &str) -> String {
    let database = proxy.dsn("postgres").replace("user=postgres", &format!("user={user}"));
    format!("{database} {road}")
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Each cell connects, or is refused by the client or the server as it would be without a proxy.
#[test]
fn every_way_in_meets_every_way_on() {
    let certs = Certs::new();
    let asked: [(&str, &str); 5] =
        [("trusted", ""), ("md5", ""), ("cleartext", ""), ("scram", ""), ("scram", "channel_binding=require")];
    for version in versions() {
        let server = server(version, &certs, "server");
        let mut cells = 0;
        for (leg, upstream) in legs(&certs) {
            let proxy = Proxy::start(&server, &config(&certs, "scram", "allow", &upstream, ""));
            let with_ca = format!("client_ca = \"{}\"\n", certs.path("root.crt").display());
            let mutual = config(&certs, "scram", "allow", &upstream, "") + &with_ca;
            let mutual = Proxy::start(&server, &mutual);
            for (way, road) in roads(&certs) {
                let proxy = if way == "mTLS" { &mutual } else { &proxy };
                for (user, binding) in asked {
                    for protocol in protocols() {
                        // PostgreSQL 15 negotiates 3.2 down to 3.0, which `min_protocol_version` does not take.
                        if protocol.contains("min") && version < Pg::V18 {
                            continue;
                        }
                        let cell = format!("{} {way} -> {leg}, {user} {binding} {protocol}", version.0);
                        let came = psql(
                            &dsn(proxy, user, &format!("{road} {binding} {protocol}")),
                            Some(PASSWORD),
                            "select current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()",
                        );
                        let row = String::from_utf8_lossy(&came.stdout).trim().to_owned();
                        if binding.is_empty() || way != "plain" {
                            let over_tls = if leg == "plain" { "f" } else { "t" };
                            assert_eq!(row, format!("{user}|{over_tls}"), "{cell}: {}", words(&came));
                        } else {
                            let why = "channel binding required";
                            assert!(words(&came).contains(why), "{cell}: {row} {}", words(&came));
                        }
                        cells += 1;
                    }
                }
                // Nothing else than SCRAM can be bound: libpq itself refuses, as it does without a proxy.
                for user in ["trusted", "md5"] {
                    let came =
                        psql(&dsn(proxy, user, &format!("{road} channel_binding=require")), Some(PASSWORD), "select 1");
                    assert!(words(&came).contains("channel binding"), "{way} -> {leg}, {user}: {}", words(&came));
                }
            }
        }
        assert!(cells >= legs(&certs).len() * roads(&certs).len() * asked.len(), "{cells}");
    }
}

/// With passthrough one leg at most has TLS, or `check` refuses (see tests/config.rs).
#[test]
fn passwords_pass_through_where_one_leg_has_tls() {
    let certs = Certs::new();
    for version in versions() {
        let server = server(version, &certs, "server");
        for (tls, road, legs) in [
            ("disable", "sslmode=disable", legs(&certs).to_vec()),
            ("allow", "sslmode=require", legs(&certs)[..1].to_vec()),
        ] {
            for (leg, upstream) in legs {
                let proxy = Proxy::start(&server, &config(&certs, "passthrough", tls, &upstream, ""));
                for user in ["trusted", "md5", "cleartext", "scram"] {
                    let came = psql(&dsn(&proxy, user, road), Some(PASSWORD), "select current_user");
                    let row = String::from_utf8_lossy(&came.stdout).trim().to_owned();
                    assert_eq!(row, user, "{} {tls} -> {leg}: {}", version.0, words(&came));
                    let refused = psql(&dsn(&proxy, user, road), Some("wrong"), "select 1");
                    let wanted = format!("password authentication failed for user \"{user}\"");
                    assert!(user == "trusted" || words(&refused).contains(&wanted), "{}", words(&refused));
                }
            }
        }
    }
}

#[test]
fn who_is_refused_hears_what_the_server_would_say() {
    let certs = Certs::new();
    for version in versions() {
        let server = server(version, &certs, "server");
        let proxy = Proxy::start(&server, &config(&certs, "scram", "allow", "sslmode = \"require\"\n", ""));
        let direct = format!("host=127.0.0.1 port={} dbname=postgres", server.address.port());
        let proxied = format!("host=127.0.0.1 port={} dbname=postgres", proxy.clients.port());
        for (user, password) in [
            ("scram", "wrong"),
            ("md5", "wrong"),
            ("nobody", PASSWORD),
            ("expired", PASSWORD),
            ("unnamed", PASSWORD),
            ("locked", PASSWORD),
            ("locked", "wrong"),
        ] {
            let said = |dsn: &str| {
                let output = psql(&format!("{dsn} user={user} sslmode=require"), Some(password), "select 1");
                let words = words(&output);
                words[words.find("FATAL").unwrap_or_else(|| panic!("{user}: {words}"))..].to_owned()
            };
            assert_eq!(said(&proxied), said(&direct), "{} {user}", version.0);
        }
        assert!(proxy.metric("pggit_proxy_auth_failures_total{reason=\"password\"}").unwrap() >= 5.0);
        assert!(!proxy.log().contains(PASSWORD) && !proxy.log().contains("SCRAM-SHA-256$"), "{}", proxy.log());
        // A password that was set anew is the one that counts, at once.
        server.psql("postgres", "alter role scram password 'another one'");
        let came = psql(&dsn(&proxy, "scram", ""), Some("another one"), "select current_user");
        assert_eq!(String::from_utf8_lossy(&came.stdout).trim(), "scram", "{}", words(&came));
    }
}

/// What a client sees of a user who is there and of one who is not: the same messages, the same salt each time.
#[test]
fn an_unknown_user_is_asked_like_any_other() {
    let certs = Certs::new();
    let server = server(versions()[0], &certs, "server");
    let proxy = Proxy::start(&server, &config(&certs, "scram", "allow", "sslmode = \"require\"\n", ""));
    let conversation = |user: &str| {
        let mut wire = Wire::open(proxy.clients);
        wire.send(&startup(V3_0, &[("user", user), ("database", "postgres")]));
        let offer = wire.read_message().unwrap();
        wire.send(&frame(b'p', &initial("SCRAM-SHA-256", b"n,,n=,r=abc")));
        let question = wire.read_message().unwrap();
        let text = String::from_utf8(question.body[4..].to_vec()).unwrap();
        let (nonce, rest) = text.split_once(',').unwrap();
        let proof = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        wire.send(&frame(b'p', format!("c=biws,{nonce},p={proof}").as_bytes()));
        let error = wire.read_to_end();
        let lengths = (offer.body.clone(), nonce.len(), rest.len(), error.len());
        (lengths, rest.to_owned(), error[0].field(b'M').unwrap().replace(user, "?"), error[0].field(b'C').unwrap())
    };
    let (known, again) = (conversation("scram"), conversation("scram"));
    let (nobody, once_more, other) = (conversation("noone"), conversation("noone"), conversation("other"));
    assert_eq!((&known.0, &known.2, &known.3), (&nobody.0, &nobody.2, &nobody.3));
    assert_eq!(nobody.3, "28P01");
    assert_eq!((&known.1, &nobody.1), (&again.1, &once_more.1));
    assert!(nobody.1 != other.1 && nobody.1 != known.1);
}

/// The salt that a user is asked with.
fn salt(proxy: &Proxy, user: &str) -> String {
    let mut wire = Wire::open(proxy.clients);
    wire.send(&startup(V3_0, &[("user", user), ("database", "app")]));
    wire.read_message().unwrap();
    wire.send(&frame(b'p', &initial("SCRAM-SHA-256", b"n,,n=,r=abc")));
    let question = String::from_utf8(wire.read_message().unwrap().body[4..].to_vec()).unwrap();
    question.split_once(',').unwrap().1.to_owned()
}

#[test]
fn an_unknown_user_is_asked_alike_by_all_proxies_of_a_repository_and_by_no_other() {
    for version in versions() {
        let certs = Certs::new();
        let server = server(version, &certs, "server");
        for database in ["app", "strange"] {
            server.create_database(database);
            support::migrate(&server, database);
        }
        let start = |database: &str| {
            let upstream = format!("sslmode = \"disable\"\ndbname = \"{database}\"\n");
            Proxy::start(&server, &config(&certs, "scram", "disable", &upstream, ""))
        };
        let (one, two, strange) = (start("app"), start("app"), start("strange"));
        let asked = salt(&one, "noone");
        assert_eq!(asked, salt(&two, "noone"));
        drop(one);
        assert_eq!(asked, salt(&start("app"), "noone"), "nor does a restart tell");
        assert_ne!(asked, salt(&strange, "noone"));
        assert_ne!(asked, salt(&two, "another"));
        assert_eq!(salt(&two, "scram"), salt(&strange, "scram"), "that one is the server's");
        // Whoever could read the key could tell, too.
        let denied = psql(&dsn(&two, "scram", "dbname=app"), Some(PASSWORD), "select key from pggit.companion_key");
        assert!(words(&denied).contains("permission denied"), "{}", words(&denied));
        if version >= Pg::V16 {
            server.psql("postgres", "alter role postgres set scram_iterations = 5000");
            assert!(salt(&start("app"), "noone").ends_with(",i=5000"), "as the server would store a password now");
        }
    }
}

/// Round trips are what a login's time is made of.
#[test]
fn the_server_is_asked_as_much_for_an_unknown_user() {
    let certs = Certs::new();
    let server = PgServer::with(versions()[0])
        .config("log_statement = all")
        .hba("host all postgres all trust")
        .hba("host all all all scram-sha-256")
        .start();
    server.psql("postgres", &format!("create role scram login password '{PASSWORD}'; create role bare login"));
    server.create_database("app");
    support::migrate(&server, "app");
    let query = "auth_query = \"SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 /* a login */\"\n";
    let upstream = "sslmode = \"disable\"\ndbname = \"app\"\n";
    let proxy = Proxy::start(&server, &config(&certs, "scram", "disable", upstream, query));
    salt(&proxy, "scram");
    let asked = |user: &str| {
        let count = || ["/* a login */", "scram_iterations"].map(|what| server.log().matches(what).count());
        let before = count();
        salt(&proxy, user);
        let after = count();
        [after[0] - before[0], after[1] - before[1]]
    };
    for user in ["scram", "noone", "bare", "scram", "nobody_else"] {
        assert_eq!(asked(user), [1, 0], "{user}");
    }
}

fn initial(mechanism: &str, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [mechanism.as_bytes(), b"\0", &length, message].concat()
}

#[test]
fn what_is_no_scram_is_refused_and_nobody_else_notices() {
    let certs = Certs::new();
    let server = server(versions()[0], &certs, "server");
    let proxy = Proxy::start(&server, &config(&certs, "scram", "allow", "sslmode = \"require\"\n", ""));
    let ann = startup(V3_0, &[("user", "scram"), ("database", "postgres")]);
    let scram = |message: &[u8]| frame(b'p', &initial("SCRAM-SHA-256", message));
    for (answer, code) in [
        (query("select 1"), "08P01"),
        (scram(b"junk"), "08P01"),
        (scram(b"p=tls-server-end-point,,n=,r=abc"), "08P01"),
        (scram(b"n,a=postgres,n=,r=abc"), "0A000"),
        (frame(b'p', &initial("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc")), "08P01"),
        (frame(b'p', &initial("PLAIN", b"x")), "08P01"),
        (frame(b'p', b""), "08P01"),
        (frame(b'p', &[b'x'; 1000]), "08P01"),
        ([&b"p\xff\xff\xff\xff"[..], b"xx"].concat(), "08P01"),
    ] {
        let mut wire = Wire::open(proxy.clients);
        wire.send(&ann);
        wire.read_message().unwrap();
        wire.send(&answer);
        let said = wire.read_to_end();
        assert_eq!(said[0].field(b'C').as_deref(), Some(code), "{:?}: {said:?}", answer.escape_ascii().to_string());
    }
    // Over TLS, -PLUS was offered: who says that it was not has been lied to.
    let mut wire = Wire::open_tls(proxy.clients, &certs.rustls(None, true)).unwrap();
    wire.send(&ann);
    let offer = wire.read_message().unwrap();
    assert_eq!(&offer.body[4..], b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    wire.send(&scram(b"y,,n=,r=abc"));
    assert_eq!(wire.read_to_end()[0].field(b'M').unwrap(), "SCRAM channel binding negotiation error");
    // Bound to another certificate than ours.
    let mut wire = Wire::open_tls(proxy.clients, &certs.rustls(None, true)).unwrap();
    wire.send(&ann);
    wire.read_message().unwrap();
    wire.send(&frame(b'p', &initial("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc")));
    let question = String::from_utf8(wire.read_message().unwrap().body[4..].to_vec()).unwrap();
    let nonce = question.split(',').next().unwrap();
    wire.send(&frame(b'p', format!("c=cD10bHMtc2VydmVyLWVuZC1wb2ludCwsAAAA,{nonce},p=AAAA").as_bytes()));
    assert_eq!(wire.read_to_end()[0].field(b'M').unwrap(), "SCRAM channel binding check failed");
    // An answer without its first message is asked for it.
    let mut wire = Wire::open(proxy.clients);
    wire.send(&ann);
    wire.read_message().unwrap();
    wire.send(&frame(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff"));
    assert_eq!(wire.read_message().unwrap().body, 11u32.to_be_bytes());
    wire.send(&frame(b'p', b"n,,n=,r=abc"));
    assert!(wire.read_message().unwrap().body[4..].starts_with(b"r=abc"));
    drop(wire);
    let came = psql(&dsn(&proxy, "scram", ""), Some(PASSWORD), "select 1");
    assert!(came.status.success(), "{}", words(&came));
}

#[test]
fn the_server_is_verified_as_far_as_asked() {
    let certs = Certs::new();
    certs.server_elsewhere("elsewhere");
    certs.self_signed("own");
    certs.stranger("stranger");
    let version = *versions().last().unwrap();
    let path = |file: &str| certs.path(file).display().to_string();
    let keys = |mode: &str, root: &str| format!("sslmode = \"{mode}\"\nsslrootcert = \"{}\"\n", path(root));
    for (file, upstream, works) in [
        ("server", keys("verify-full", "root.crt"), true),
        ("server", keys("verify-ca", "stranger.crt"), false),
        ("server", keys("require", "stranger.crt"), false),
        ("server", keys("prefer", "stranger.crt"), true),
        ("elsewhere", keys("verify-full", "root.crt"), false),
        ("elsewhere", keys("verify-ca", "root.crt"), true),
        ("own", keys("verify-full", "own.crt"), true),
        ("own", keys("verify-ca", "own.crt"), true),
        ("own", keys("verify-ca", "root.crt"), false),
        ("own", "sslmode = \"require\"\n".to_owned(), true),
    ] {
        let server = server(version, &certs, file);
        let database = server.create_database("app");
        support::migrate(&server, &database);
        let proxy = Proxy::start(&server, &format!("[upstream]\ndbname = \"app\"\n{upstream}"));
        let came = psql(&dsn(&proxy, "trusted", ""), None, "select ssl from pg_stat_ssl where pid = pg_backend_pid()");
        let row = String::from_utf8_lossy(&came.stdout).trim().to_owned();
        assert_eq!(row, if works { "t" } else { "" }, "{file}, {upstream}: {}", words(&came));
        if works {
            // The recorder takes the same road: it is well, and the server sees it come by TLS.
            assert!(eventually(PATIENCE, || proxy.get("/readyz").0 == 200), "{file}, {upstream}: {}", proxy.log());
            let plain = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) \
                         where application_name = 'pggit-proxy' and not ssl";
            assert_eq!(server.psql("app", plain), "0", "{file}, {upstream}");
        } else {
            assert!(words(&came).contains("The proxy could not agree on TLS with it"), "{}", words(&came));
            assert_eq!(proxy.get("/readyz").0, 503, "{file}, {upstream}");
        }
    }
}

/// With `prefer`, a server without TLS is not asked for it by every session; but soon after it has been given TLS, it is.
#[test]
fn tls_that_a_server_is_given_is_used() {
    let certs = Certs::new();
    let server = PgServer::with(versions()[0]).tls(&certs, "server").config("ssl = off").start();
    let proxy = Proxy::start(&server, "");
    let over_tls = || {
        let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        support::psql_ok(&proxy.dsn("postgres"), sql)
    };
    assert_eq!([over_tls(), over_tls()], ["f", "f"]);
    server.psql("postgres", "alter system set ssl = on");
    server.psql("postgres", "select pg_reload_conf()");
    assert!(eventually(PATIENCE, || over_tls() == "t"), "{}", proxy.log());
}

#[test]
fn commands_take_tls_from_their_url() {
    let certs = Certs::new();
    let version = *versions().last().unwrap();
    let server = PgServer::with(version).tls(&certs, "server").hba("hostnossl all all all reject").start();
    let psql = |sql: &str| {
        let url = format!("{}?sslmode=require", server.url("postgres"));
        support::psql_ok(&url, sql)
    };
    psql("create database app");
    let root = certs.path("root.crt");
    let run = |action: &[&str], parameters: &str| {
        let url = format!("{}?{parameters}", server.url("app"));
        let output = support::proxy::run(&[action, &["--database-url", &url]].concat());
        (output.status.success(), words(&output))
    };
    let verified = format!("sslmode=verify-full&sslrootcert={}", root.display());
    assert_eq!(run(&["migrate", "up"], &verified), (true, String::new()));
    assert!(run(&["migrate", "status"], "").0, "prefer is the default");
    assert!(run(&["verify"], "sslmode=require").0);
    let (done, words) = run(&["migrate", "status"], "sslmode=disable");
    assert!(!done && words.contains("no encryption"), "{words}");
    certs.stranger("stranger");
    let stranger = format!("sslmode=verify-ca&sslrootcert={}", certs.path("stranger.crt").display());
    let (done, words) = run(&["migrate", "status"], &stranger);
    assert!(!done && words.contains("certificate"), "{words}");
}

#[test]
fn the_server_may_want_our_certificate_and_direct_tls() {
    let certs = Certs::new();
    certs.client("certified");
    let version = *versions().last().unwrap();
    let server = server(version, &certs, "server");
    let path = |file: &str| certs.path(file).display().to_string();
    let upstream = format!(
        "sslmode = \"verify-full\"\nsslrootcert = \"{}\"\nsslcert = \"{}\"\nsslkey = \"{}\"\n{}",
        path("root.crt"),
        path("certified.crt"),
        path("certified.key"),
        if version >= Pg(17) { "sslnegotiation = \"direct\"\n" } else { "" }
    );
    let proxy = Proxy::start(&server, &format!("[upstream]\n{upstream}"));
    let sql = "select client_dn from pg_stat_ssl where pid = pg_backend_pid()";
    let came = psql(&dsn(&proxy, "certified", ""), None, sql);
    assert_eq!(String::from_utf8_lossy(&came.stdout).trim(), "/CN=certified", "{}", words(&came));
}

#[test]
fn cancel_goes_to_the_server_by_tls() {
    let certs = Certs::new();
    for version in versions() {
        // Nothing without TLS reaches this server, and what does is logged.
        let server = PgServer::with(version)
            .tls(&certs, "server")
            .config("log_connections = on")
            .hba("hostnossl all all all reject")
            .start();
        let upstream = format!("sslmode = \"verify-full\"\nsslrootcert = \"{}\"\n", certs.path("root.crt").display());
        let proxy = Proxy::start(&server, &format!("[upstream]\n{upstream}"));
        let mut wire = proxy.connect("postgres");
        let (pid, secret) = wire.key();
        wire.send(&query("select pg_sleep(600)"));
        let mut watcher = proxy.connect("postgres");
        let running = format!("select count(*) from pg_stat_activity where pid = {pid} and state = 'active'");
        assert!(eventually(PATIENCE, || watcher.value(&running) == "1"));
        Wire::open(proxy.clients).cancel(pid, &secret);
        let answer = wire.read_until_ready();
        assert_eq!(answer.iter().find(|m| m.tag == b'E').unwrap().field(b'C').unwrap(), "57014");
    }
}

#[test]
fn whoever_stops_in_the_middle_of_a_login_is_told_when_it_is_over() {
    let certs = Certs::new();
    let server = server(versions()[0], &certs, "server");
    let limits = "[limits]\nlogin_timeout = \"3s\"\n";
    let proxy = Proxy::start(&server, &(config(&certs, "scram", "allow", "sslmode = \"require\"\n", "") + limits));
    let offered = |mut wire: Wire| {
        wire.send(&startup(V3_0, &[("user", "scram"), ("database", "postgres")]));
        assert_eq!(wire.read_message().unwrap().body[..4], 10u32.to_be_bytes());
        wire
    };
    let plain = offered(Wire::open(proxy.clients));
    let encrypted = offered(Wire::open_tls(proxy.clients, &certs.rustls(None, true)).unwrap());
    // Half of an answer is none.
    let mut half = offered(Wire::open(proxy.clients));
    half.send(b"p\0\0");
    for mut wire in [plain, encrypted, half] {
        let said = wire.read_to_end();
        assert_eq!(said[0].field(b'C').as_deref(), Some("57014"), "{said:?}");
    }
    // A client that leaves without an answer is no failure.
    drop(offered(Wire::open(proxy.clients)));
    assert_eq!(proxy.metric("pggit_proxy_auth_failures_total{reason=\"password\"}"), Some(0.0));
}

#[test]
fn over_a_unix_socket_there_is_no_tls_and_none_is_required() {
    let certs = Certs::new();
    let server = server(versions()[0], &certs, "server");
    let directory = tempfile::tempdir().unwrap();
    let config = config(&certs, "scram", "require", "sslmode = \"require\"\n", "");
    let socket = format!("[listen]\nunix_socket_dir = \"{}\"\n", directory.path().display());
    let proxy = Proxy::start(&server, &(config + &socket));
    let socket =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let port = socket.into_iter().find_map(|name| name.strip_prefix(".s.PGSQL.")?.parse::<u16>().ok()).unwrap();
    let dsn = format!("host={} port={port} user=scram dbname=postgres", directory.path().display());
    let came = psql(&dsn, Some(PASSWORD), "select current_user");
    assert_eq!(String::from_utf8_lossy(&came.stdout).trim(), "scram", "{}", words(&came));
    let refused = psql(&format!("{dsn} channel_binding=require"), Some(PASSWORD), "select 1");
    assert!(words(&refused).contains("channel binding required"), "{}", words(&refused));
    drop(proxy);
}

#[test]
fn failures_from_one_address_are_bounded() {
    let certs = Certs::new();
    let server = server(versions()[0], &certs, "server");
    for mode in ["scram", "passthrough"] {
        let proxy =
            Proxy::start(&server, &config(&certs, mode, "disable", "sslmode = \"disable\"\n", "max_failures = 3\n"));
        let try_with = |password: &str| words(&psql(&dsn(&proxy, "scram", ""), Some(password), "select 1"));
        for _ in 0..3 {
            assert!(try_with("wrong").contains("password authentication failed"));
        }
        assert!(try_with(PASSWORD).contains("too many failed logins from 127.0.0.1"), "{mode}");
    }
}

#[test]
fn a_query_that_fails_lets_nobody_in_and_says_so_in_the_log() {
    let certs = Certs::new();
    let server = server(versions()[0], &certs, "server");
    let broken = "auth_query = \"SELECT nothing FROM pg_catalog.nowhere WHERE name = $1\"\n";
    let proxy = Proxy::start(&server, &config(&certs, "scram", "disable", "sslmode = \"disable\"\n", broken));
    let came = psql(&dsn(&proxy, "scram", ""), Some(PASSWORD), "select 1");
    assert!(words(&came).contains("the password cannot be checked"), "{}", words(&came));
    assert!(proxy.log().contains("auth_query failed"), "{}", proxy.log());
    // A query of one's own: of a role that may not read pg_authid, by way of a function that may.
    server.psql(
        "postgres",
        "create role recorder login; create schema guard; grant usage on schema guard to recorder; \
         create function guard.secret_of(name text) returns table (name text, secret text) language sql security definer \
         set search_path = pg_catalog as 'select rolname::text, rolpassword from pg_authid where rolname = $1'; \
         grant execute on function guard.secret_of to recorder",
    );
    server.psql("postgres", "alter role recorder password 'r'");
    let own = "auth_query = \"SELECT * FROM guard.secret_of($1)\"\n";
    let upstream = "sslmode = \"disable\"\nuser = \"recorder\"\npassword = \"r\"\n";
    let proxy = Proxy::start(&server, &config(&certs, "scram", "disable", upstream, own));
    let came = psql(&dsn(&proxy, "scram", ""), Some(PASSWORD), "select current_user");
    assert_eq!(String::from_utf8_lossy(&came.stdout).trim(), "scram", "{}", words(&came));
}
