//! TLS on the control port.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Output;

use support::{Certs, PATIENCE, PgServer, Proxy, Wire, eventually, psql, versions, wire};

fn started(mode: &str, more: &str) -> (Certs, Proxy) {
    let certs = Certs::new();
    let config = format!(
        "[upstream]\nsslmode = \"disable\"\n[[control.users]]\nname = \"ann\"\npassword = \"secret\"\nrole = \"admin\"\n\
         [[control.users]]\nname = \"bob\"\npassword = \"secret\"\n\
         [control.tls]\n{}{more}",
        certs.listen(mode)
    );
    let proxy =
        Proxy::start(PgServer::shared(versions()[0]), &config.replace("CERTS", &certs.path("").display().to_string()));
    (certs, proxy)
}

fn ask(proxy: &Proxy, user: &str, more: &str) -> Output {
    let dsn = format!("host=127.0.0.1 port={} user={user} password=secret dbname=pggit {more}", proxy.control.port());
    psql(&dsn, "SHOW VERSION version;")
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn psql_is_encrypted_and_still_asked_for_its_password() {
    let (certs, proxy) = started("require", "");
    let root = format!("sslmode=verify-full sslrootcert={}", certs.path("root.crt").display());
    for more in ["sslmode=require", "sslmode=prefer", &root] {
        let came = ask(&proxy, "ann", more);
        assert!(came.status.success() && !came.stdout.is_empty(), "{more}: {}", words(&came));
    }
    let wrong = ask(&proxy, "ann", "sslmode=require password=wrong");
    assert!(words(&wrong).contains("password authentication failed"), "{}", words(&wrong));
    let plain = ask(&proxy, "ann", "sslmode=disable");
    assert!(words(&plain).contains("connections without TLS are not accepted"), "{}", words(&plain));
    certs.stranger("stranger");
    let stranger = format!("sslmode=verify-ca sslrootcert={}", certs.path("stranger.crt").display());
    assert!(words(&ask(&proxy, "ann", &stranger)).contains("certificate verify failed"));
    // A new certificate is shown after a reload; it is the file that psql verifies against that has to follow.
    certs.self_signed("server");
    assert!(ask(&proxy, "ann", &root).status.success(), "the old one is still in force");
    let reload = format!("host=127.0.0.1 port={} user=ann password=secret dbname=pggit", proxy.control.port());
    support::psql_ok(&reload, "RELOAD;");
    assert!(words(&ask(&proxy, "ann", &root)).contains("certificate verify failed"));
    let own = format!("sslmode=verify-full sslrootcert={}", certs.path("server.crt").display());
    assert!(ask(&proxy, "ann", &own).status.success());
}

#[test]
fn allow_takes_both_and_disable_answers_no() {
    let (_certs, proxy) = started("allow", "");
    for more in ["sslmode=disable", "sslmode=require"] {
        assert!(ask(&proxy, "bob", more).status.success(), "{more}");
    }
    let (_certs, proxy) = started("disable", "");
    assert!(words(&ask(&proxy, "bob", "sslmode=require")).contains("server does not support SSL"));
    assert!(ask(&proxy, "bob", "sslmode=prefer").status.success());
}

#[test]
fn certificates_are_asked_for_and_may_name_the_user() {
    let (certs, proxy) = started("allow", "client_ca = \"CERTS/root.crt\"\nclient_name = true\n");
    certs.client("bob");
    let path = |file: &str| certs.path(file).display().to_string();
    let shown = |user: &str| {
        format!("sslmode=require sslcert={} sslkey={}", path(&format!("{user}.crt")), path(&format!("{user}.key")))
    };
    assert!(ask(&proxy, "ann", &shown("ann")).status.success());
    let other = ask(&proxy, "ann", &shown("bob"));
    assert!(words(&other).contains("certificate authentication failed for user \"ann\""), "{}", words(&other));
    let none = ask(&proxy, "ann", "sslmode=require sslcert=/nonexistent");
    assert!(!none.status.success());
}

#[test]
fn direct_tls_needs_its_protocol_and_nothing_passes_before_it() {
    let (certs, proxy) = started("require", "");
    let ann = wire::startup(wire::V3_0, &[("user", "ann"), ("database", "pggit")]);
    let mut direct = Wire::open(proxy.control);
    direct.start_tls(&certs.rustls(None, true)).unwrap();
    direct.send(&ann);
    assert_eq!(direct.read_message().unwrap().body, b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    // Asked for within TLS it is no more to be had.
    let mut twice = Wire::open_tls(proxy.control, &certs.rustls(None, true)).unwrap();
    twice.send(&wire::gss_request());
    assert_eq!(twice.read_bytes(1).unwrap(), b"N");
    twice.send(&ann);
    assert_eq!(twice.read_message().unwrap().tag, b'R');
    // Without saying what it speaks, it is somebody who was led here.
    let mut led = Wire::open(proxy.control);
    led.start_tls(&certs.rustls(None, false)).unwrap();
    assert!(led.read_plainly_to_end());
    // A start-up packet behind the request, in the open, is never read as one.
    let mut hasty = Wire::open(proxy.control);
    hasty.send(&[wire::ssl_request(), ann.clone()].concat());
    assert_eq!(hasty.read_bytes(1).unwrap(), b"S");
    assert!(hasty.read_plainly_to_end());
    // Who stops in the middle of a handshake keeps nobody out.
    let silent: Vec<Wire> = (0..100)
        .map(|_| {
            let mut wire = Wire::open(proxy.control);
            wire.send(&wire::ssl_request());
            wire
        })
        .collect();
    assert!(ask(&proxy, "ann", "sslmode=require").status.success());
    drop(silent);
}

#[test]
fn clients_are_shown_with_their_tls() {
    let certs = Certs::new();
    let config = format!("[upstream]\nsslmode = \"disable\"\n[listen.tls]\n{}", certs.listen("allow"));
    let proxy = Proxy::start(PgServer::shared(versions()[0]), &config);
    let login = [("user", "postgres"), ("database", "postgres")];
    let _plain = Wire::connect(proxy.clients, &login);
    let mut encrypted = Wire::open_tls(proxy.clients, &certs.rustls_versions(&[&rustls::version::TLS12])).unwrap();
    encrypted.log_in(wire::V3_0, &login);
    let mut newest = Wire::open_tls(proxy.clients, &certs.rustls(None, true)).unwrap();
    newest.log_in(wire::V3_0, &login);
    let shown = || proxy.control("SHOW CLIENTS id, tls ORDER BY id");
    assert!(eventually(PATIENCE, || shown() == "1|\n2|TLSv1.2\n3|TLSv1.3"), "{}", shown());
}
