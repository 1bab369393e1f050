//! The control port as psql, a driver and ill-behaved peers find it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pggit_proxy::change::SessionFacts;
use pggit_proxy::config::{Config, ControlRole, ControlUser, Secret};
use pggit_proxy::history::History;
use pggit_proxy::state::{Clients, Life, Shared};
use pggit_proxy::telemetry::Metrics;
use pggit_proxy::{control, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Port {
    shared: Arc<Shared>,
    control: SocketAddr,
    http: SocketAddr,
}

impl Port {
    async fn open(config: Config) -> Self {
        let mut config = config;
        // Nobody listens there: the recorder has to live without a server.
        config.upstream.port = 1;
        let history = History::start(&config, || {});
        let shared = Arc::new(Shared {
            config: Default::default(),
            config_path: None,
            policy: Default::default(),
            branches: Default::default(),
            clients: Clients::default(),
            metrics: Metrics::register(),
            history,
            life: watch::Sender::new(Life::Serving),
            started: Instant::now(),
        });
        shared.apply(config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = listener.local_addr().unwrap();
        tokio::spawn(control::serve(listener, shared.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        tokio::spawn(http::serve(listener, shared.clone()));
        Self { shared, control, http }
    }

    async fn with_users() -> Self {
        let user = |name: &str, role| ControlUser { name: name.into(), password: Secret("hush".into()), role };
        let mut config = Config::default();
        config.control.users = vec![user("boss", ControlRole::Admin), user("eye", ControlRole::Monitor)];
        Self::open(config).await
    }

    async fn psql(&self, user: &str, password: &str, arguments: &[&str]) -> Output {
        let port = self.control.port().to_string();
        tokio::process::Command::new("psql")
            .args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", user, "-d", "pggit"])
            .args(arguments)
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "20")
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .unwrap()
    }

    async fn try_connect(&self, user: &str, password: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.control.port()).user(user).password(password).dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn connect(&self) -> Client {
        self.try_connect("op", "", "pggit").await.unwrap()
    }

    fn join(&self, user: &str, branch: &str) -> u64 {
        let client = self.shared.clients.admit(100, Some("10.0.0.7:5555".parse().unwrap())).unwrap();
        let facts = SessionFacts {
            id: uuid::Uuid::nil(),
            user: user.into(),
            database: "app".into(),
            branch: Some(branch.into()),
            client_addr: client.peer.load_full().map(|peer| peer.ip()),
            client_port: 5555,
            rerouted: None,
        };
        client.facts.store(Some(Arc::new(facts)));
        client.id
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn table(messages: Vec<SimpleQueryMessage>) -> Vec<Vec<String>> {
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).unwrap_or("∅").to_owned()).collect()),
        _ => None,
    });
    rows.collect()
}

fn code(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_sits_on_it() {
    let port = Port::open(Config::default()).await;
    port.join("ann", "main");
    for command in ["HELP", "VERSION", "CONFIG", "CLIENTS", "SERVERS", "STATS", "BRANCHES", "RULES", "HEALTH"] {
        let shown = port.psql("op", "", &["-c", &format!("SHOW {command}")]).await;
        assert!(shown.status.success(), "{command}: {}", text(&shown));
        assert!(shown.stderr.is_empty(), "{command}: {}", text(&shown));
    }
    let picked =
        port.psql("op", "", &["-Atc", "show clients user, branch where branch = 'main' limit 5; show rules"]).await;
    assert_eq!(text(&picked), "ann|main\n");
    let listed = port.psql("op", "", &["-c", "\\d"]).await;
    assert!(text(&listed).contains("ERROR:  the control port takes commands, not SQL: SELECT"), "{}", text(&listed));
    assert!(text(&listed).contains("HINT:  Try SHOW HELP."), "{}", text(&listed));
    let mistaken = port.psql("op", "", &["-c", "SHOW CLEINTS", "-c", "SHOW VERSION version"]).await;
    assert!(text(&mistaken).contains("Perhaps you meant SHOW CLIENTS."), "{}", text(&mistaken));
    assert!(text(&mistaken).contains("(1 row)"), "the connection stays: {}", text(&mistaken));
    let bound = port.psql("op", "", &["-Atc", "SHOW VERSION version \\bind \\g"]).await;
    assert!(!text(&bound).contains("server closed"), "{}", text(&bound));
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_get_types_and_columns() {
    let port = Port::open(Config::default()).await;
    let id = port.join("ann", "main");
    port.join("bob", "other");
    let client = port.connect().await;
    let statement = client.prepare("SHOW CLIENTS id, user, statements, session").await.unwrap();
    let columns: Vec<_> =
        statement.columns().iter().map(|column| (column.name().to_owned(), column.type_().name().to_owned())).collect();
    let expected = [("id", "int8"), ("user", "text"), ("statements", "int8"), ("session", "text")];
    assert_eq!(columns, expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
    let rows = client.query(&statement, &[]).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].get::<_, i64>(0), rows[0].get::<_, &str>(1)), (i64::try_from(id).unwrap(), "ann"));
    let branches = client.query("SHOW BRANCHES name, protected, frozen_by", &[]).await.unwrap();
    assert_eq!(branches[0].get::<_, Option<&str>>(2), None);
    assert!(!branches[0].get::<_, bool>(1));
    for show in ["HELP", "VERSION", "CONFIG", "CLIENTS", "STATS", "BRANCHES", "RULES", "HEALTH"] {
        client.query(&format!("SHOW {show}"), &[]).await.unwrap();
    }
    for show in ["HISTORY", "STATEMENTS"] {
        assert!(client.prepare(&format!("SHOW {show}")).await.unwrap().columns().len() > 15);
    }
    let parameter = client.query("SHOW CLIENTS WHERE id = $1", &[&1i64]).await.unwrap_err();
    assert_eq!(code(&parameter), "0A000");
    let several = client.prepare("SHOW RULES; SHOW HELP").await.err().unwrap();
    assert_eq!(code(&several), "42601");
    assert_eq!(client.query("", &[]).await.unwrap().len(), 0);
    client.query("SHOW VERSION", &[]).await.expect("errors leave the session usable");
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_are_read_in_parts() {
    let port = Port::open(Config::default()).await;
    let mut client = port.connect().await;
    let transaction = client.transaction().await.unwrap();
    let statement = transaction.prepare("SHOW HELP command").await.unwrap();
    let portal = transaction.bind(&statement, &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&portal, 4).await.unwrap().len(), 4);
    assert!(!transaction.query_portal(&portal, i32::MAX).await.unwrap().is_empty());
    transaction.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_may_begin_set_and_fail() {
    let port = Port::open(Config::default()).await;
    let client = port.connect().await;
    client
        .batch_execute("BEGIN; SET x = y; RESET ALL; COMMIT; DISCARD ALL; DEALLOCATE ALL; ; START TRANSACTION")
        .await
        .unwrap();
    let wrong = client.batch_execute("SHOW NOTHING").await.unwrap_err();
    assert_eq!(code(&wrong), "42601");
    let aborted = client.batch_execute("SHOW VERSION").await.unwrap_err();
    assert_eq!(code(&aborted), "25P02");
    client.batch_execute("ROLLBACK; SHOW VERSION").await.unwrap();
    let partly = client.simple_query("SHOW VERSION; KILL 99; SHOW VERSION").await.unwrap_err();
    assert_eq!(code(&partly), "22023");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_filtered_sorted_and_cut() {
    let port = Port::open(Config::default()).await;
    for n in 0..12 {
        port.join(&format!("user_{n}"), if n % 2 == 0 { "main" } else { "it's" });
    }
    let client = port.connect().await;
    for (rest, expected) in [
        ("id WHERE branch = 'main' AND id > 9 ORDER BY id DESC", "11"),
        ("id WHERE id IN (10, 2) ORDER BY id", "2,10"),
        ("id WHERE id BETWEEN '3' AND 4", "3,4"),
        ("id WHERE user LIKE 'user\\_1_' ORDER BY 1", "11,12"),
        ("id WHERE branch ILIKE 'IT%' AND NOT id < 10", "10,12"),
        ("id WHERE backend_pid IS NOT NULL", ""),
        ("id WHERE backend_pid = 1 OR id = 1", "1"),
        ("id WHERE NOT (backend_pid = 1) OR id = 1", "1"),
        ("id WHERE branch = 'it''s' ORDER BY id DESC LIMIT 2 OFFSET 1", "10,8"),
        ("id ORDER BY branch, id DESC LIMIT 1", "12"),
        ("id WHERE NULL", ""),
    ] {
        let rows = table(client.simple_query(&format!("SHOW CLIENTS {rest}")).await.unwrap());
        assert_eq!(rows.concat().join(","), expected, "{rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_checked_and_roles_kept() {
    let port = Port::with_users().await;
    assert_eq!(text(&port.psql("eye", "hush", &["-Atc", "SHOW VERSION state"]).await), "serving\n");
    for (user, password) in [("boss", "wrong"), ("nobody", "hush"), ("nobody", "")] {
        let error = port.try_connect(user, password, "pggit").await.err().unwrap();
        if password.is_empty() {
            continue;
        }
        let found = error.as_db_error().unwrap();
        assert_eq!((found.code().code(), found.severity()), ("28P01", "FATAL"));
        assert_eq!(found.message(), format!("password authentication failed for user \"{user}\""));
    }
    let elsewhere = port.try_connect("boss", "hush", "app").await.err().unwrap();
    assert_eq!(code(&elsewhere), "3D000");
    let id = port.join("ann", "main");
    let eye = port.try_connect("eye", "hush", "pggit").await.unwrap();
    for command in [
        &format!("KILL {id}"),
        "RELOAD",
        "SHUTDOWN",
        "SHUTDOWN NOW",
        "REFUSE DDL ON BRANCH main",
        "ALLOW DDL ON BRANCH main",
    ] {
        assert_eq!(code(&eye.batch_execute(command).await.unwrap_err()), "42501", "{command}");
    }
    assert_eq!(*port.shared.life.borrow(), Life::Serving);
    let boss = port.try_connect("boss", "hush", "pggit").await.unwrap();
    boss.batch_execute(&format!("KILL {id}")).await.unwrap();
    assert!(port.shared.clients.list()[0].is_killed());
    let mut config = Config::clone(&port.shared.config.load());
    config.control.users[0].password = Secret("new".into());
    port.shared.apply(config);
    assert!(port.try_connect("boss", "hush", "pggit").await.is_err());
    port.try_connect("boss", "new", "pggit").await.unwrap();
    let shown = table(boss.simple_query("SHOW CONFIG").await.unwrap()).concat().join(" ");
    assert!(shown.contains("boss") && !shown.contains("hush") && !shown.contains("new"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_that_do_not_exist_are_named() {
    let port = Port::open(Config::default()).await;
    let client = port.connect().await;
    let error = client.batch_execute("REFUSE DDL ON BRANCH maim").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.hint()), ("3D000", Some("Perhaps you meant \"main\".")));
    let frozen = timeout(PATIENCE, client.batch_execute("REFUSE DDL ON BRANCH main")).await.unwrap();
    assert!(frozen.is_ok() || code(&frozen.unwrap_err()) == "PG003", "without a server it cannot be recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_names_every_problem_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.toml");
    std::fs::write(&path, "[listen]\nmax_client = 1\n[nonsense]\n").unwrap();
    let mut port = Port::open(Config::default()).await;
    let shared = Arc::new(Shared {
        config: Default::default(),
        config_path: Some(path.clone()),
        policy: Default::default(),
        branches: Default::default(),
        clients: Clients::default(),
        metrics: Metrics::register(),
        history: port.shared.history.clone(),
        life: watch::Sender::new(Life::Serving),
        started: Instant::now(),
    });
    shared.apply(Config::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    port.control = listener.local_addr().unwrap();
    tokio::spawn(control::serve(listener, shared.clone()));
    let client = port.connect().await;
    let error = client.batch_execute("RELOAD").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(error.detail().unwrap().contains("p.toml:2"), "{:?}", error.detail());
    assert_eq!(shared.config.load().listen.max_clients, Config::default().listen.max_clients);
    std::fs::write(&path, "[listen]\nmax_clients = 7\n").unwrap();
    client.batch_execute("RELOAD").await.unwrap();
    assert_eq!(shared.config.load().listen.max_clients, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_drains_and_now_ends() {
    let port = Port::open(Config::default()).await;
    let client = port.connect().await;
    client.batch_execute("SHUTDOWN").await.unwrap();
    assert_eq!(*port.shared.life.borrow(), Life::Draining);
    port.connect().await.batch_execute("SHOW CLIENTS").await.expect("operators may look while it drains");
    client.batch_execute("SHUTDOWN NOW").await.unwrap();
    assert_eq!(*port.shared.life.borrow(), Life::Ending);
    timeout(PATIENCE, async { while client.batch_execute("SHOW VERSION").await.is_ok() {} }).await.unwrap();
}

/// Sends bytes and reads until the other side closes.
async fn provoke(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it closes");
    answer
}

fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(name.bytes().chain([0]).chain(value.bytes()).chain([0]));
    }
    body.push(0);
    let mut packet = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
    packet.extend(body);
    packet
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut all = vec![tag];
    all.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    all.extend(body);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_or_cut_off() {
    let port = Port::with_users().await;
    let login = startup(&[("user", "boss"), ("database", "pggit")]);
    let sasl = |length: u32, data: &[u8]| {
        let mut body = b"SCRAM-SHA-256\0".to_vec();
        body.extend(length.to_be_bytes());
        body.extend(data);
        message(b'p', &body)
    };
    let mut conversations: Vec<Vec<u8>> = vec![
        vec![],
        vec![0; 4],
        vec![0xff; 4000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00".to_vec(),
        [u32::MAX.to_be_bytes(), 196_608u32.to_be_bytes()].concat(),
        [10_001u32.to_be_bytes(), 196_608u32.to_be_bytes()].concat(),
        [8u32.to_be_bytes(), 196_608u32.to_be_bytes()].concat(),
        [9u32.to_be_bytes(), 131_072u32.to_be_bytes()].concat(),
        [16u32, 80_877_102, 1, 1].into_iter().flat_map(u32::to_be_bytes).collect(),
        [8u32, 80_877_103].repeat(9).into_iter().flat_map(u32::to_be_bytes).collect(),
        startup(&[("user", "")]),
        startup(&[("database", "pggit")]),
        login[..login.len() - 3].to_vec(),
    ];
    for answer in [
        sasl(0, b""),
        sasl(u32::MAX, b""),
        sasl(1 << 30, b"x"),
        sasl(5, b"n,,n="),
        sasl(9, b"n,,n=,r=a"),
        sasl(4, &[0xff; 4]),
        message(b'p', b""),
        message(b'p', b"hush\0"),
        message(b'p', &[0; 5000]),
        message(b'Q', b"SHOW CLIENTS\0"),
        message(b'Z', b""),
        [&b"p"[..], &u32::MAX.to_be_bytes()].concat(),
    ] {
        conversations.push([login.clone(), answer.clone()].concat());
        conversations.push([login.clone(), sasl(9, b"n,,n=,r=a"), answer].concat());
    }
    for cut in 0..login.len() {
        conversations.push(login[..cut].to_vec());
    }
    for bytes in conversations {
        let answer = provoke(port.control, &bytes).await;
        let shown = String::from_utf8_lossy(&answer);
        assert!(!shown.contains("connected_at"), "{bytes:?} got in: {shown}");
    }
    port.try_connect("boss", "hush", "pggit").await.expect("it still works");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_after_login_ends_that_session_only() {
    let port = Port::open(Config::default()).await;
    let login = startup(&[("user", "op"), ("database", "pggit")]);
    let prepare = [message(b'P', b"\0SHOW CLIENTS\0\0\0"), message(b'S', b"")].concat();
    for bytes in [
        message(b'Q', b"no terminator"),
        message(b'Q', b"\xff\xfe\0"),
        message(b'P', b"\0show rules\0\xff\xff"),
        message(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0"),
        [
            &prepare[..],
            &message(b'B', b"\0\0\0\0\0\0\0\x02\0\x01\0\x01"),
            &message(b'E', b"\0\0\0\0\0"),
            &message(b'S', b""),
        ]
        .concat(),
        [&prepare[..], &message(b'B', b"\0\0\0\0\0\0\0\0"), &message(b'E', b"\0\xff\xff\xff\xff"), &message(b'S', b"")]
            .concat(),
        [&prepare[..], &message(b'B', b"\0\0\0\0\0\0\0\0"), &message(b'E', b"\0\x7f\xff\xff\xff"), &message(b'S', b"")]
            .concat(),
        message(b'd', b"copy"),
        message(b'p', b"password"),
        message(0, b""),
        [&b"Q"[..], &0x3fff_ffffu32.to_be_bytes()].concat(),
        message(b'Q', &[b"SHOW CLIENTS WHERE ".to_vec(), b"(".repeat(50_000), vec![0]].concat()),
        message(b'Q', &[b"/*".repeat(30_000), vec![0]].concat()),
    ] {
        let answer = provoke(port.control, &[login.clone(), bytes.clone()].concat()).await;
        assert!(answer.starts_with(b"R"), "logged in before {bytes:?}");
    }
    let names: Vec<u8> = (0..400).flat_map(|n| message(b'P', format!("s{n}\0SHOW RULES\0\0\0").as_bytes())).collect();
    let answer = provoke(port.control, &[login, names, message(b'S', b"")].concat()).await;
    assert!(String::from_utf8_lossy(&answer).contains("53400"));
    port.connect().await.batch_execute("SHOW CLIENTS").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_slow_clients_keep_nobody_out() {
    let port = Port::open(Config::default()).await;
    let mut silent = Vec::new();
    for _ in 0..150 {
        silent.push(TcpStream::connect(port.control).await.unwrap());
    }
    let login = startup(&[("user", "op"), ("database", "pggit")]);
    let mut slow = TcpStream::connect(port.control).await.unwrap();
    slow.set_nodelay(true).unwrap();
    let shown =
        timeout(PATIENCE, async { port.connect().await.simple_query("SHOW VERSION").await.unwrap() }).await.unwrap();
    assert_eq!(table(shown).len(), 1);
    for byte in login {
        slow.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut tag = [0];
    timeout(PATIENCE, slow.read_exact(&mut tag)).await.unwrap().unwrap();
    assert_eq!(&tag, b"R");
    let mut first = [0];
    let gone = timeout(PATIENCE, silent[0].read(&mut first)).await.expect("the oldest had to go");
    assert!(matches!(gone, Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_requests_are_answered_no() {
    let port = Port::open(Config::default()).await;
    let requests: Vec<u8> = [8u32, 80_877_104, 8, 80_877_103].into_iter().flat_map(u32::to_be_bytes).collect();
    let login = startup(&[("user", "op"), ("database", "pggit")]);
    let answer = provoke(port.control, &[requests, login].concat()).await;
    assert_eq!(&answer[..3], b"NNR");
}

async fn get(address: SocketAddr, request: &str) -> String {
    let answer = provoke(address, request.as_bytes()).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn http_answers_what_it_should() {
    let port = Port::open(Config::default()).await;
    port.shared.metrics.client_joined(Some("main"));
    let metrics = get(port.http, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("pggit_proxy_clients{branch=\"main\"} 1\n"), "{metrics}");
    let head = get(port.http, "HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(get(port.http, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.ends_with("\r\n\r\nok\n"));
    assert!(get(port.http, "GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 404"));
    let post = get(port.http, "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
    assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET, HEAD"), "{post}");
    assert!(!get(port.http, "\0\0\0\x08\x04").await.contains("200 OK"));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    assert!(!get(port.http, &long).await.contains("200 OK"));
    port.shared.advance(Life::Draining);
    let ready = get(port.http, "GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("the proxy is shutting down\n"), "{ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_http_clients_are_let_go() {
    let port = Port::open(Config::default()).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(port.http).await.unwrap());
    }
    let answer = timeout(PATIENCE, get(port.http, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")).await.unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
}
