//! TLS with clients: asked for, direct, required, with certificates; reloaded; nothing lost and nothing stuck.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use nix::sys::signal::Signal;
use rustls::ProtocolVersion;
use support::wire::{V3_0, V3_2, frame, gss_request, query, ssl_request, startup, terminate};
use support::{Certs, PATIENCE, PgServer, Proxy, Wire, eventually, versions};

const ANN: &[(&str, &str)] = &[("user", "postgres"), ("database", "postgres")];

fn config(certs: &Certs, mode: &str, more: &str) -> String {
    format!("[upstream]\nsslmode = \"disable\"\n[listen.tls]\n{}{more}", certs.listen(mode))
}

fn started(mode: &str, more: &str) -> (Certs, Proxy) {
    let certs = Certs::new();
    let server = PgServer::shared(versions()[0]);
    let proxy = Proxy::start(server, &config(&certs, mode, more));
    (certs, proxy)
}

/// libpq's connection string over TLS, believing the authority.
fn dsn(certs: &Certs, proxy: &Proxy, more: &str) -> String {
    let root = certs.path("root.crt");
    format!("{} sslmode=verify-full sslrootcert={} {more}", proxy.dsn("postgres"), root.display())
}

#[test]
fn libpq_verifies_us_and_every_row_arrives() {
    let certs = Certs::new();
    for version in versions() {
        let proxy = Proxy::start(PgServer::shared(version), &config(&certs, "require", ""));
        let rows = support::psql_ok(&dsn(&certs, &proxy, ""), "select count(*), 'x' from generate_series(1, 10)");
        assert_eq!(rows, "10|x");
        let all = support::psql_ok(&dsn(&certs, &proxy, ""), "select repeat('y', 1000) from generate_series(1, 20000)");
        assert_eq!(all.len(), 20_000 * 1001 - 1);
        let refused = support::psql(&proxy.dsn("postgres"), "select 1");
        assert!(refused.status.success(), "sslmode=prefer finds TLS by itself");
        let plain = support::psql(&format!("{} sslmode=disable", proxy.dsn("postgres")), "select 1");
        let words = String::from_utf8_lossy(&plain.stderr).into_owned();
        assert!(words.contains("connections without TLS are not accepted"), "{words}");
    }
}

#[test]
fn allow_takes_both_and_disable_answers_no() {
    let (certs, proxy) = started("allow", "");
    assert_eq!(proxy.psql("postgres", "select 1"), "1");
    let plain = format!("{} sslmode=disable", proxy.dsn("postgres"));
    assert_eq!(support::psql_ok(&plain, "select 2"), "2");
    let (_, without) = started("disable", "");
    let mut wire = Wire::open(without.clients);
    wire.send(&ssl_request());
    assert_eq!(wire.read_bytes(1).unwrap(), b"N");
    wire.log_in(V3_0, ANN);
    let refused = support::psql(&dsn(&certs, &without, ""), "select 1");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("server does not support SSL"));
}

#[test]
fn both_versions_of_tls_and_no_third_request() {
    let (certs, proxy) = started("require", "");
    for (version, wanted) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let config = certs.rustls_versions(&[version]);
        let mut wire = Wire::open_tls(proxy.clients, &config).unwrap();
        assert_eq!(wire.tls().protocol_version(), Some(wanted));
        wire.log_in(V3_2, ANN);
        assert_eq!(wire.value("select 'over TLS'"), "over TLS");
    }
    // GSS first is answered N, after which TLS may still be asked for; inside TLS both are versions nobody speaks.
    let mut wire = Wire::open(proxy.clients);
    wire.send(&gss_request());
    assert_eq!(wire.read_bytes(1).unwrap(), b"N");
    wire.send(&ssl_request());
    assert_eq!(wire.read_bytes(1).unwrap(), b"S");
    wire.start_tls(&certs.rustls(None, true)).unwrap();
    wire.send(&ssl_request());
    let error = wire.read_to_end();
    assert!(error[0].field(b'M').unwrap().starts_with("unsupported frontend protocol 1234.5679"), "{error:?}");
}

#[test]
fn direct_tls_needs_its_protocol_named() {
    let (certs, proxy) = started("require", "");
    let mut wire = Wire::open(proxy.clients);
    wire.start_tls(&certs.rustls(None, true)).unwrap();
    assert_eq!(wire.tls().alpn_protocol(), Some(&b"postgresql"[..]));
    wire.log_in(V3_0, ANN);
    assert_eq!(wire.value("select 1"), "1");

    let mut wire = Wire::open(proxy.clients);
    wire.start_tls(&certs.rustls(None, false)).unwrap();
    assert!(wire.read_to_end().is_empty());
    // Another protocol is refused in the handshake, whichever way TLS began.
    let other = certs.rustls_alpn(b"http/1.1");
    assert!(Wire::open(proxy.clients).start_tls(&other).is_err());
    assert!(Wire::open_tls(proxy.clients, &other).is_err());
}

#[test]
fn what_was_not_encrypted_is_not_taken() {
    let (certs, proxy) = started("allow", "");
    let mut wire = Wire::open(proxy.clients);
    wire.send(&[ssl_request(), startup(V3_0, ANN)].concat());
    let answer = wire.read_to_end();
    assert_eq!(answer[0].field(b'M').unwrap(), "received unencrypted data after SSL request");
    assert_eq!(answer[0].field(b'C').unwrap(), "08P01");

    // After our S: it is taken for TLS, and is none.
    let mut wire = Wire::open(proxy.clients);
    wire.send(&ssl_request());
    assert_eq!(wire.read_bytes(1).unwrap(), b"S");
    wire.send(&startup(V3_0, ANN));
    let mut rest = Vec::new();
    let _ = wire.stream.read_to_end(&mut rest);
    assert!(!rest.contains(&b'Z') && rest.len() < 16, "an alert at most: {rest:?}");
    // Garbage at any place ends its connection and nothing else.
    for garbage in [&b"\x16\x03\x01\xff\xff"[..], b"\x16", b"\x16\x03\x01\x00\x05hello"] {
        let mut wire = Wire::open(proxy.clients);
        wire.send(garbage);
        wire.shut_writing();
        let mut rest = Vec::new();
        let _ = wire.stream.read_to_end(&mut rest);
    }
    let mut wire = Wire::open_tls(proxy.clients, &certs.rustls(None, true)).unwrap();
    wire.log_in(V3_0, ANN);
    wire.stream.write_all(b"\x17\x03\x03\x00\x20these bytes were not encrypted!!").unwrap();
    assert!(wire.read_plainly_to_end(), "a record that does not authenticate ends the session");
    assert!(proxy.metric("pggit_proxy_connections_total{result=\"protocol\"}").unwrap() >= 2.0);
    assert_eq!(proxy.psql("postgres", "select 1"), "1");
}

#[test]
fn cancel_works_over_tls_and_without() {
    let (certs, proxy) = started("allow", "");
    let tls = certs.rustls(None, true);
    for over_tls in [true, false] {
        let mut wire = Wire::open_tls(proxy.clients, &tls).unwrap();
        wire.log_in(V3_2, ANN);
        let (pid, secret) = wire.key();
        assert_eq!(secret.len() % 4, 0);
        wire.send(&query("select pg_sleep(600)"));
        let server = PgServer::shared(versions()[0]);
        let running =
            format!("select count(*) from pg_stat_activity where pid = {pid} and query like '%pg_sleep(600)%'");
        assert!(eventually(PATIENCE, || server.psql("postgres", &running) == "1"));
        let canceller = if over_tls { Wire::open_tls(proxy.clients, &tls).unwrap() } else { Wire::open(proxy.clients) };
        canceller.cancel(pid, &secret);
        let answer = wire.read_until_ready();
        assert_eq!(answer.iter().find(|m| m.tag == b'E').unwrap().field(b'C').unwrap(), "57014");
    }
}

#[test]
fn certificates_are_read_again_and_sessions_stay() {
    let (certs, proxy) = started("require", "");
    let tls = certs.rustls(None, true);
    let shown = |wire: &mut Wire| wire.tls().peer_certificates().unwrap()[0].to_vec();
    let mut old = Wire::open_tls(proxy.clients, &tls).unwrap();
    old.log_in(V3_0, ANN);
    let first = shown(&mut old);

    // A broken file is refused as a whole.
    let key = std::fs::read_to_string(certs.path("server.key")).unwrap();
    std::fs::write(certs.path("server.key"), "no key").unwrap();
    let refused = support::psql(&proxy.control_dsn(), "reload");
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("server.key holds no private key"), "{words}");
    assert_eq!(shown(&mut Wire::open_tls(proxy.clients, &tls).unwrap()), first);
    std::fs::write(certs.path("server.key"), key).unwrap();

    certs.server("server");
    proxy.signal(Signal::SIGHUP);
    assert!(eventually(PATIENCE, || {
        // Another configuration: a resumed session would show the old certificate.
        let mut new = Wire::open_tls(proxy.clients, &certs.rustls(None, true)).unwrap();
        shown(&mut new) != first
    }));
    assert_eq!(old.value("select 'still here'"), "still here");
}

#[test]
fn sessions_of_tls_are_resumed() {
    let (certs, proxy) = started("require", "");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let tls = certs.rustls_versions(&[version]);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut wire = Wire::open_tls(proxy.clients, &tls).unwrap();
            // TLS 1.3's tickets come with the first bytes.
            wire.log_in(V3_0, ANN);
            kinds.push(wire.tls().handshake_kind().unwrap());
        }
        assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed], "{version:?}");
    }
}

#[test]
fn a_client_needs_a_certificate_where_authorities_are_named() {
    let certs = Certs::new();
    let more = format!("client_ca = \"{}\"\nclient_name = true\n", certs.path("root.crt").display());
    let server = PgServer::shared(versions()[0]);
    server.try_psql("postgres", "create role ann login; create role bob login");
    let proxy = Proxy::start(server, &config(&certs, "require", &more));
    let shown = |user: &str, certificate: &str| {
        let file = |end: &str| certs.path(&format!("{certificate}.{end}")).display().to_string();
        let dsn = dsn(&certs, &proxy, &format!("sslcert={} sslkey={}", file("crt"), file("key")));
        support::psql(&dsn.replace("user=postgres", &format!("user={user}")), "select current_user")
    };
    let ann = shown("ann", "ann");
    assert_eq!(String::from_utf8_lossy(&ann.stdout).trim(), "ann", "{}", String::from_utf8_lossy(&ann.stderr));
    let words = String::from_utf8_lossy(&shown("bob", "ann").stderr).into_owned();
    assert!(words.contains("certificate authentication failed for user \"bob\""), "{words}");
    // Without one, and with one that somebody else signed.
    let none = support::psql(&dsn(&certs, &proxy, "sslcert=/nonexistent"), "select 1");
    assert!(!none.status.success());
    certs.self_signed("mallory");
    assert!(!shown("mallory", "mallory").status.success());
    // A client without TLS has no certificate either, but the mode says what becomes of it.
    assert!(proxy.log().is_empty() || !proxy.log().contains("panicked"));
}

/// Requests pipelined far beyond all buffers while the answers are not read: nothing may stall, nothing may be lost.
#[test]
fn a_pipelining_client_over_tls_does_not_stall() {
    let (certs, proxy) = started("require", "");
    let mut wire = Wire::open_tls(proxy.clients, &certs.rustls(None, true)).unwrap();
    wire.log_in(V3_0, ANN);
    let filler = "-".repeat(1000);
    let one = query(&format!("select repeat('z', 16000) /*{filler}*/"));
    let rounds = 1500;
    let all = one.repeat(rounds);
    // Written bit by bit from this thread, with TLS as full as it gets, and read when the socket takes no more.
    wire.stream.set_nonblocking(true).unwrap();
    let (mut sent, mut ready, mut unread) = (0, 0, Vec::new());
    let stop = std::time::Instant::now() + PATIENCE * 2;
    while ready < rounds {
        assert!(std::time::Instant::now() < stop, "stalled after {ready} answers, {sent} of {} bytes sent", all.len());
        let mut moved = false;
        let (tls, stream) = wire.parts();
        if sent < all.len() && !tls.wants_write() {
            sent += tls.writer().write(&all[sent..(sent + 16_000).min(all.len())]).unwrap();
            moved = true;
        }
        moved |= tls.wants_write() && tls.write_tls(stream).is_ok_and(|n| n > 0);
        if (sent == all.len() || !moved) && tls.read_tls(stream).is_ok_and(|n| n > 0) {
            moved = true;
            let state = tls.process_new_packets().unwrap();
            let mut chunk = vec![0; state.plaintext_bytes_to_read()];
            tls.reader().read_exact(&mut chunk).unwrap();
            unread.extend_from_slice(&chunk);
        }
        let mut at = 0;
        while let Some(head) = unread.get(at..at + 5) {
            let length = u32::from_be_bytes(head[1..5].try_into().unwrap()) as usize + 1;
            if unread.len() < at + length {
                break;
            }
            ready += usize::from(head[0] == b'Z');
            at += length;
        }
        unread.drain(..at);
        if !moved {
            std::thread::yield_now();
        }
    }
    assert!(unread.is_empty());
}

/// What TLS has taken and the socket has not yet is sent when the client reads again, although nothing follows it.
#[test]
fn the_end_of_an_answer_arrives_when_the_client_reads_late() {
    let (certs, proxy) = started("require", "");
    let server = PgServer::shared(versions()[0]);
    let mut wire = Wire::open_tls(proxy.clients, &certs.rustls(None, true)).unwrap();
    wire.log_in(V3_0, ANN);
    let mut watcher = Wire::connect(server.address, ANN);
    let pid = wire.key().0;
    let done = format!("select state = 'idle' from pg_stat_activity where pid = {pid}");
    // Somewhere on the way all sockets are full, and the last record is nowhere but in TLS.
    for kib in (32..6000).step_by(32) {
        wire.send(&query(&format!("select repeat('z', {kib} * 1024)")));
        eventually(Duration::from_millis(50), || watcher.value(&done) == "t");
        let answer = wire.read_until_ready();
        assert_eq!(answer.iter().find(|m| m.tag == b'D').unwrap().body.len(), kib * 1024 + 6);
    }
}

/// A record that fills a whole buffer, and one behind it that came with it: it is heard, although the socket is empty.
#[test]
fn records_that_come_together_are_all_heard() {
    let (certs, proxy) = started("require", "");
    let mut wire = Wire::open_tls(proxy.clients, &certs.rustls(None, true)).unwrap();
    wire.log_in(V3_0, ANN);
    for length in [16_384 - 40, 16_384 - 1, 16_384] {
        let long = query(&format!("select 1{}", " ".repeat(length - 14)));
        assert_eq!(long.len(), length);
        wire.tls().writer().write_all(&long).unwrap();
        wire.tls().writer().write_all(&query("select 2")).unwrap();
        wire.flush_tls();
        for _ in 0..2 {
            assert_eq!(wire.read_until_ready().last().map(|m| m.tag), Some(b'Z'));
        }
    }
}

#[test]
fn copy_of_much_data_goes_both_ways() {
    let (certs, proxy) = started("require", "");
    let mut wire = Wire::open_tls(proxy.clients, &certs.rustls(None, true)).unwrap();
    wire.log_in(V3_0, ANN);
    wire.rows("create temp table t (x text)");
    wire.send(&query("copy t from stdin"));
    wire.read_until(b'G');
    let row = [vec![b'c'; 9999], b"\n".to_vec()].concat();
    for _ in 0..2000 {
        wire.send(&frame(b'd', &row));
    }
    wire.send(&frame(b'c', b""));
    wire.read_until_ready();
    assert_eq!(wire.value("select sum(length(x)) from t"), (2000 * 9999).to_string());
    let rows = wire.ask(&query("select x from t"));
    assert_eq!(rows.iter().filter(|m| m.tag == b'D').count(), 2000);
}

#[test]
fn the_end_is_told_on_both_sides() {
    let (certs, proxy) = started("require", "");
    let tls = certs.rustls(None, true);
    // What the client asked for before it closed its side is still answered.
    let mut wire = Wire::open_tls(proxy.clients, &tls).unwrap();
    wire.log_in(V3_0, ANN);
    wire.send(&query("select 'the last answer'"));
    wire.tls().send_close_notify();
    wire.flush_tls();
    wire.shut_writing();
    let answers = wire.read_until_ready();
    assert!(answers.iter().any(|m| m.tag == b'D'), "{answers:?}");

    // KILL is told, and then the end, by TLS itself: a clean one is no error to read.
    let mut wire = Wire::open_tls(proxy.clients, &tls).unwrap();
    wire.log_in(V3_0, ANN);
    let id = proxy.control(&format!("show clients id where backend_pid = {}", wire.key().0));
    proxy.control(&format!("kill {id}"));
    let words = wire.read_to_end();
    assert_eq!(words[0].field(b'C').unwrap(), "57P01");

    let mut wire = Wire::open_tls(proxy.clients, &tls).unwrap();
    wire.log_in(V3_0, ANN);
    wire.send(&terminate());
    assert!(wire.read_to_end().is_empty());
    assert!(eventually(Duration::from_secs(30), || proxy.control("show clients id").is_empty()));
}

#[test]
fn a_silent_handshake_ends_in_time() {
    let certs = Certs::new();
    let config = config(&certs, "require", "[limits]\nlogin_timeout = \"1s\"\n");
    let proxy = Proxy::start(PgServer::shared(versions()[0]), &config);
    for begun in [&b"\x16\x03\x01"[..], &ssl_request()] {
        let mut wire = Wire::open(proxy.clients);
        wire.send(begun);
        let mut rest = Vec::new();
        let _ = wire.stream.read_to_end(&mut rest);
        assert!(rest.is_empty() || rest == b"S");
    }
}
