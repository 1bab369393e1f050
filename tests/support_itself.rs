//! What the other tests stand on, held against real servers without the proxy.

mod support;

use support::{PgServer, Wire, normalised, wire};

#[test]
fn server_of_each_version_answers() {
    for version in support::versions() {
        let server = PgServer::start(version);
        let number: u32 = server.psql("postgres", "show server_version_num").parse().unwrap_or_default();
        assert_eq!(number / 10_000, version.0);
    }
}

#[test]
fn same_conversation_twice_is_equal_once_normalised() {
    for version in support::versions() {
        let server = PgServer::shared(version);
        let conversation = || {
            let mut client = Wire::connect(server.address, &[("user", "postgres")]);
            let mut all = client.greeting.clone();
            all.extend(client.ask(&wire::query("select now(), 1; select * from nowhere")));
            all.extend(client.ask(&wire::extended("select $1::int + 1, null", &[Some("41")])));
            normalised(&all)
        };
        let once = conversation();
        assert_eq!(once, conversation());
        assert!(once.iter().any(|message| message.field(b'C').as_deref() == Some("42P01")));
    }
}

#[test]
fn server_comes_back_with_its_data() {
    let mut server = PgServer::start(support::versions()[0]);
    server.psql("postgres", "create table kept (a int)");
    server.restart();
    assert_eq!(server.psql("postgres", "select count(*) from kept"), "0");
}

#[test]
fn password_methods_are_asked_for() {
    for method in ["md5", "scram-sha-256", "password"] {
        let server = PgServer::with(support::versions()[0]).auth(method).start();
        server.psql("postgres", "create role anna login password 'secret'");
        let dsn = |password: &str| {
            let port = server.address.port();
            format!("host=127.0.0.1 port={port} user=anna dbname=postgres password={password}")
        };
        assert_eq!(support::psql_ok(&dsn("secret"), "select current_user"), "anna");
        assert!(!support::psql(&dsn("wrong"), "select 1").status.success());
    }
}
