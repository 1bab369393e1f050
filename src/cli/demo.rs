//! `pggit-proxy demo`: a private PostgreSQL, the proxy in front of it, and a tour of real statements.
//!
//! Everything it starts it stops again, by process id, and its directory is removed, however the tour ends.

mod server;
mod tour;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};

use server::Server;

const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The databases of the demo's branches; the first is the repository's main one.
const DATABASES: [&str; 3] = ["app", "app__feature_x", "app__release"];

/// Where the demo's proxy listens.
struct Addresses {
    clients: String,
    control: String,
    http: String,
}

/// The serving process. Its standard output stays open, so that it can go on writing there.
struct Proxy {
    child: Child,
    addresses: Addresses,
    _stdout: BufReader<ChildStdout>,
}

/// Runs the tour; stays until a signal unless `once`. An error when any step came to something else than it should.
pub async fn run(once: bool) -> anyhow::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let directory = server::Directory::create()?;
    let mut server = None;
    let outcome = tokio::select! {
        outcome = play(&directory, &mut server, once) => outcome,
        _ = interrupted.recv() => Ok(()),
        _ = terminated.recv() => Ok(()),
    };
    if let Some(server) = server {
        server.stop().await;
    }
    directory.remove();
    outcome
}

/// Fills `server` as soon as there is one to stop. Dropping this future ends the proxy.
async fn play(directory: &server::Directory, server: &mut Option<Server>, once: bool) -> anyhow::Result<()> {
    println!("Starting a private PostgreSQL in {} …", directory.path().display());
    let server = server.insert(Server::start(directory).await?);
    println!("PostgreSQL {} listens on 127.0.0.1:{}.", server.version, server.port);

    println!("Installing the pggit schema in the databases {} …", DATABASES.join(", "));
    for database in DATABASES {
        server.create_database(database).await?;
        migrate(&server.url(database)).await?;
    }

    let mut proxy = serve(directory.path(), server).await?;
    let at = &proxy.addresses;
    println!("pggit-proxy serves: clients {}, control {}, http {}.", at.clients, at.control, at.http);
    if let Err(error) = tour::run(at).await {
        eprintln!("--- the proxy's log\n{}", log(directory.path()));
        return Err(error);
    }
    println!("{}", farewell(at, server));
    if once {
        return Ok(());
    }
    println!("Ctrl-C ends it all.");
    let status = proxy.child.wait().await?;
    bail!("the proxy ended by itself, {status}:\n{}", log(directory.path()));
}

async fn migrate(url: &str) -> anyhow::Result<()> {
    let output = own_program()?.args(["migrate", "up", "--database-url", url]).output().await?;
    if !output.status.success() {
        bail!("migrate up failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

async fn serve(directory: &Path, server: &Server) -> anyhow::Result<Proxy> {
    let config = directory.join("pggit-proxy.toml");
    std::fs::write(&config, configuration(server.port))?;
    let mut child = own_program()?
        .arg("serve")
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(log_path(directory))?)
        .spawn()?;
    let stdout = child.stdout.take().context("the proxy's standard output")?;
    let mut stdout = BufReader::new(stdout);
    match tokio::time::timeout(START_TIMEOUT, announced(&mut stdout)).await {
        Ok(Ok(addresses)) => Ok(Proxy { child, addresses, _stdout: stdout }),
        _ => bail!("the proxy did not start:\n{}", log(directory)),
    }
}

/// Reads `clients ADDRESS`, `control ADDRESS`, `http ADDRESS` and `ready`.
async fn announced(stdout: &mut BufReader<ChildStdout>) -> anyhow::Result<Addresses> {
    let mut addresses = Addresses { clients: String::new(), control: String::new(), http: String::new() };
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line).await? == 0 {
            bail!("it ended");
        }
        match line.trim().split_once(' ') {
            Some(("clients", address)) => addresses.clients = address.to_owned(),
            Some(("control", address)) => addresses.control = address.to_owned(),
            Some(("http", address)) => addresses.http = address.to_owned(),
            _ if line.trim() == "ready" => return Ok(addresses),
            _ => {}
        }
    }
}

fn configuration(port: u16) -> String {
    format!(
        r#"# The demo's configuration.
[listen]
address = "127.0.0.1:0"

[control]
address = "127.0.0.1:0"

[http]
address = "127.0.0.1:0"

[upstream]
host = "127.0.0.1"
port = {port}
dbname = "app"
user = "postgres"

[branches."feature-x"]
database = "app__feature_x"

[branches.release]
database = "app__release"
protected = true

[[rule]]
name = "keep-tables"
branch = "main"
tag = "DROP TABLE"
action = "refuse"
message = "tables are not dropped on main"
hint = "Drop it on a branch first: \\c app/feature-x"

[log]
level = "warn"
"#
    )
}

fn farewell(at: &Addresses, server: &Server) -> String {
    let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
    let (clients, control) = (port(&at.clients), port(&at.control));
    format!(
        "
Every step came to what it should. Connect yourself:
  branch main       psql \"host=127.0.0.1 port={clients} user=postgres dbname=app\"
  branch feature-x  psql \"host=127.0.0.1 port={clients} user=postgres dbname=app/feature-x\"
  branch release    psql \"host=127.0.0.1 port={clients} user=postgres dbname=app/release\"
  control port      psql \"host=127.0.0.1 port={control} user=admin dbname=pggit\" -c 'SHOW HELP'
  metrics           http://{}/metrics
  without the proxy psql \"host=127.0.0.1 port={} user=postgres dbname=app\"",
        at.http, server.port
    )
}

/// This program again. In a process group of its own: Ctrl-C is for the demo, which then ends the others in order.
fn own_program() -> anyhow::Result<Command> {
    let program: PathBuf = std::env::current_exe().context("finding this program's own file")?;
    let mut command = Command::new(program);
    command.process_group(0).kill_on_drop(true);
    Ok(command)
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("proxy.log")
}

fn log(directory: &Path) -> String {
    std::fs::read_to_string(log_path(directory)).unwrap_or_default()
}
