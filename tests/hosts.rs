//! Several hosts of one server: `target_session_attrs` in libpq's meaning, for sessions, the recorder and cancel requests;
//! a failover.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::{SocketAddr, TcpListener};

use support::wire::{V3_0, query};
use support::{Certs, Message, PATIENCE, PgServer, Proxy, Wire, eventually, migrate, versions};

/// A primary with a repository, and a standby that has it, too. Debian's pg_basebackup takes the first version.
struct Pair {
    primary: PgServer,
    standby: PgServer,
    database: String,
}

impl Pair {
    fn start() -> Self {
        let primary = PgServer::start(versions()[0]);
        let database = primary.create_database("app");
        migrate(&primary, &database);
        let standby = primary.standby(primary.address);
        Self { primary, standby, database }
    }

    fn proxy(&self, hosts: &[SocketAddr], attrs: &str) -> Proxy {
        let names: Vec<String> = hosts.iter().map(|host| host.ip().to_string()).collect();
        let ports: Vec<String> = hosts.iter().map(|host| host.port().to_string()).collect();
        let config = format!(
            "[upstream]\ndbname = \"{}\"\nhost = \"{}\"\nport = \"{}\"\ntarget_session_attrs = \"{attrs}\"\n",
            self.database,
            names.join(","),
            ports.join(",")
        );
        Proxy::start(&self.primary, &config)
    }

    fn try_connect(&self, proxy: &Proxy) -> Result<Wire, Vec<Message>> {
        Wire::try_connect(proxy.clients, V3_0, &[("user", "postgres"), ("database", &self.database)])
    }

    /// The port of the server that a new session is on.
    fn lands_on(&self, proxy: &Proxy) -> u16 {
        proxy.connect(&self.database).value("select inet_server_port()").parse().unwrap()
    }

    /// What libpq makes of the same hosts and words: the port it lands on, or nothing.
    fn libpq(&self, hosts: &[SocketAddr], attrs: &str) -> Option<u16> {
        let ports: Vec<String> = hosts.iter().map(|host| host.port().to_string()).collect();
        let names = vec!["127.0.0.1"; hosts.len()].join(",");
        let database = &self.database;
        let dsn = format!(
            "host={names} port={} user=postgres dbname={database} target_session_attrs={attrs}",
            ports.join(",")
        );
        let output = support::psql(&dsn, "select inet_server_port()");
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    }
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn sessions_land_where_libpqs_would() {
    let pair = Pair::start();
    let (primary, standby, gone) = (pair.primary.address, pair.standby.address, nobody());
    for hosts in [&[primary, standby][..], &[standby, primary], &[gone, standby, primary], &[standby], &[primary]] {
        for attrs in ["any", "read-write", "read-only", "primary", "standby", "prefer-standby"] {
            let proxy = pair.proxy(hosts, attrs);
            let expected = pair.libpq(hosts, attrs);
            match pair.try_connect(&proxy) {
                Ok(mut session) => {
                    let port: u16 = session.value("select inet_server_port()").parse().unwrap();
                    assert_eq!(Some(port), expected, "{hosts:?} {attrs}");
                    let shown = proxy.control("show servers address");
                    assert_eq!(shown, format!("127.0.0.1:{port}"));
                }
                Err(messages) => {
                    assert_eq!(expected, None, "{hosts:?} {attrs}: {messages:?}");
                    let word = messages.last().unwrap();
                    assert_eq!(word.field(b'C').as_deref(), Some("08006"));
                    assert!(word.field(b'D').unwrap().contains(attrs), "{word:?}");
                }
            }
        }
    }
}

/// Each host has its own TLS, and its own road for the recorder.
#[test]
fn hosts_are_verified_each_by_itself() {
    let certs = Certs::new();
    let server = PgServer::with(versions()[0]).tls(&certs, "server").start();
    let database = server.create_database("app");
    migrate(&server, &database);
    let (gone, port) = (nobody().port(), server.address.port());
    let config = |authority: &Certs| {
        format!(
            "[upstream]\ndbname = \"{database}\"\nhost = \"127.0.0.1,localhost\"\nport = \"{gone},{port}\"\n\
             target_session_attrs = \"read-write\"\nsslmode = \"verify-full\"\nsslrootcert = \"{}\"\n",
            authority.path("root.crt").display()
        )
    };
    let proxy = Proxy::start(&server, &config(&certs));
    let mut session = proxy.connect(&database);
    assert_eq!(session.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()"), "t");
    session.rows("create table t ()");
    assert_eq!(server.psql(&database, "select branch from pggit.history where object_name = 't'"), "main");
    let recorders = "select bool_and(s.ssl) from pg_stat_ssl s join pg_stat_activity a using (pid) \
                     where application_name = 'pggit-proxy'";
    assert_eq!(server.psql(&database, recorders), "t");
    assert_eq!(proxy.control("show servers address"), format!("localhost:{port}"));
    // The same server, believed by nobody.
    let proxy = Proxy::start(&server, &config(&Certs::new()));
    let login = [("user", "postgres"), ("database", database.as_str())];
    let messages = Wire::try_connect(proxy.clients, V3_0, &login).err().expect("not let in");
    assert_eq!(messages.last().unwrap().field(b'C').as_deref(), Some("08006"));
    assert!(eventually(PATIENCE, || proxy.log().contains("certificate")), "{}", proxy.log());
}

#[test]
fn the_recorder_is_on_the_primary_wherever_sessions_are() {
    let pair = Pair::start();
    let hosts = [pair.standby.address, pair.primary.address];
    let reading = pair.proxy(&hosts, "standby");
    assert_eq!(pair.lands_on(&reading), pair.standby.address.port());
    assert!(eventually(PATIENCE, || reading.get("/readyz").0 == 200), "{:?}", reading.get("/readyz"));
    // Nothing can be changed there, and the attempt is in the log on the primary.
    let mut session = reading.connect(&pair.database);
    assert_eq!(session.error("create table t ()").field(b'C').as_deref(), Some("25006"));
    let logged = "select string_agg(outcome || ' ' || sqlstate, ',') from pggit.statements";
    assert!(eventually(PATIENCE, || pair.primary.psql(&pair.database, logged) == "failed 25006"));

    let writing = pair.proxy(&hosts, "read-write");
    writing.psql(&pair.database, "create table t ()");
    let recorded = "select branch from pggit.history where object_name = 't'";
    assert_eq!(pair.primary.psql(&pair.database, recorded), "main");
}

#[test]
fn cancel_requests_go_to_the_sessions_host() {
    let pair = Pair::start();
    let proxy = pair.proxy(&[pair.standby.address, pair.primary.address], "primary");
    let mut session = proxy.connect(&pair.database);
    let (pid, secret) = session.key();
    session.send(&query("select pg_sleep(600)"));
    let active = format!("select count(*) from pg_stat_activity where pid = {pid} and state = 'active'");
    assert!(eventually(PATIENCE, || pair.primary.psql(&pair.database, &active) == "1"));
    Wire::open(proxy.clients).cancel(pid, &secret);
    let answer = session.read_until_ready();
    assert!(answer.iter().any(|message| message.tag == b'E' && message.field(b'C').as_deref() == Some("57014")));
}

#[test]
fn after_a_failover_sessions_and_recorder_are_on_the_new_primary() {
    let mut pair = Pair::start();
    let hosts = [pair.primary.address, pair.standby.address];
    let proxy = pair.proxy(&hosts, "read-write");
    proxy.psql(&pair.database, "create table before ()");
    let seen = "select to_regclass('before') is not null";
    assert!(eventually(PATIENCE, || pair.standby.psql(&pair.database, seen) == "t"));
    pair.primary.stop();
    // A standby alone will not do.
    assert!(eventually(PATIENCE, || pair.try_connect(&proxy).is_err()));
    pair.standby.psql("postgres", "select pg_promote()");
    assert!(eventually(PATIENCE, || pair.try_connect(&proxy).is_ok()));
    assert_eq!(pair.lands_on(&proxy), pair.standby.address.port());
    let mut session = proxy.connect(&pair.database);
    session.rows("create table after ()");
    let recorded = "select string_agg(object_name, ',' order by created_at) from pggit.history \
                    where object_name in ('before', 'after') and object_type = 'table'";
    assert_eq!(pair.standby.psql(&pair.database, recorded), "before,after");
    assert!(eventually(PATIENCE, || proxy.get("/readyz").0 == 200), "{:?}", proxy.get("/readyz"));
}
