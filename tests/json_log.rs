//! `log.format = "json"`: every line is one object that says when, how grave, and what; and whose, where it is a session's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use nix::sys::signal::Signal;
use serde::de::{MapAccess, Visitor};
use serde_json::{Map, Value};
use support::wire::query;
use support::{PATIENCE, PgServer, Proxy, Wire, eventually, migrate, versions};

/// An object with each key once: parsers do not agree on which of two is meant.
struct Line(Map<String, Value>);

impl<'de> serde::Deserialize<'de> for Line {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Line;

            fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
                let mut all = Map::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if all.insert(key.clone(), value).is_some() {
                        return Err(serde::de::Error::custom(format!("{key} twice")));
                    }
                }
                Ok(Line(all))
            }
        }
        from.deserialize_map(Once)
    }
}

impl Line {
    fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_else(|| panic!("no {key} in {:?}", self.0))
    }
}

/// Every line of the log, each held to what all have in common.
fn lines(proxy: &Proxy) -> Vec<Line> {
    let log = proxy.log();
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let line = |text: &str| {
        let line: Line = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let at = chrono::DateTime::parse_from_rfc3339(line.text("timestamp")).unwrap();
        assert!((chrono::Utc::now() - at.to_utc()).num_seconds().abs() < 600, "{text}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&line.text("level")), "{text}");
        assert!(line.text("target").starts_with("pggit_proxy") && !line.text("message").is_empty(), "{text}");
        line
    };
    whole.lines().map(line).collect()
}

/// The lines with that message, once there are some.
fn told(proxy: &Proxy, message: &str) -> Vec<Line> {
    let found = || lines(proxy).into_iter().filter(|line| line.0.get("message").is_some_and(|said| said == message));
    assert!(eventually(PATIENCE, || found().count() > 0), "{message} is not in {}", proxy.log());
    found().collect()
}

#[test]
fn every_line_is_an_object_that_says_when_what_and_whose() {
    for version in versions() {
        let server = PgServer::with(version).hba("host all +trusted all trust").auth("scram-sha-256").start();
        let app = server.create_database("app");
        migrate(&server, &app);
        let odd = "o\"d\n{d\u{1}\u{e9}\\";
        let quoted = odd.replace('"', "\"\"");
        server.psql(
            &app,
            &format!("create role ann login password 'x'; create role trusted; create role \"{quoted}\" login in role trusted"),
        );
        let config = |level: &str| {
            format!(
                "[auth]\nmode = \"scram\"\n[upstream]\ndbname = \"{app}\"\n[log]\nlevel = \"{level}\"\nformat = \"json\"\n"
            )
        };
        let mut proxy = Proxy::start(&server, &config("trace"));
        let session = |pid: u32| proxy.control(&format!("show clients session where backend_pid = {pid}"));

        // A protocol violation, by a session that was served before.
        let parameters = [("user", "postgres"), ("database", app.as_str())];
        let mut client = Wire::connect(proxy.clients, &parameters);
        client.rows("create table t (a int)");
        let violator = session(client.key().0);
        client.send(b"Q\0\0\0\x01");
        client.read_to_end();
        assert_eq!(told(&proxy, "protocol violation by the client")[0].text("session"), violator);

        // A message that is not ours: and nothing in a name leaves its line.
        let mut client = Wire::connect(proxy.clients, &[("user", odd), ("database", &app)]);
        let forger = session(client.key().0);
        client.ask(&query("do $$ begin raise info using errcode = 'PGASK', message = 'pggit:ask a b'; end $$"));
        let forged = told(&proxy, "a message that is not ours asks for something");
        assert_eq!(
            [forged[0].text("session"), forged[0].text("user"), forged[0].text("level")],
            [&forger, odd, "WARN"]
        );

        // A login that is refused: its session is in no other list.
        let refused = support::psql(&proxy.dsn(&app).replace("user=postgres", "user=ann password=wrong"), "select 1");
        assert!(!refused.status.success());
        let refused = told(&proxy, "login refused");
        assert!(refused.iter().all(|line| uuid::Uuid::parse_str(line.text("session")).is_ok()), "{}", proxy.log());

        // A reload, bad and good; the end.
        proxy.rewrite(&config("nonsense = ["));
        proxy.signal(Signal::SIGHUP);
        let stays = |line: &Line| {
            line.0
                .get("message")
                .is_some_and(|said| said.as_str().unwrap_or_default().ends_with("the old configuration stays"))
        };
        assert!(eventually(PATIENCE, || lines(&proxy).iter().any(stays)), "{}", proxy.log());
        proxy.rewrite(&config("info"));
        proxy.signal(Signal::SIGHUP);
        told(&proxy, "configuration reloaded");
        proxy.signal(Signal::SIGTERM);
        assert!(proxy.wait_exit(PATIENCE).is_some_and(|status| status.success()));
        // Not the first line always: the history is looked at meanwhile.
        assert_eq!(told(&proxy, "serving").len(), 1);
        assert_eq!(lines(&proxy).last().unwrap().text("message"), "ended");
    }
}
