//! The demo's private PostgreSQL server.

use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A temporary directory that the server's user owns.
pub struct Directory {
    path: PathBuf,
    owner: Option<Owner>,
}

/// The user that the server runs as where we are root: PostgreSQL refuses to be root.
#[derive(Debug, Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

/// A running server.
pub struct Server {
    /// On 127.0.0.1.
    pub port: u16,
    /// As `postgres --version` says it.
    pub version: String,
    bin: PathBuf,
    data: PathBuf,
    owner: Option<Owner>,
    child: Child,
}

impl Directory {
    /// A new one.
    pub fn create() -> anyhow::Result<Self> {
        let owner = Owner::wanted()?;
        // The other user may not be able to reach root's own temporary directory.
        let base = if owner.is_some() { PathBuf::from("/tmp") } else { std::env::temp_dir() };
        let path = base.join(format!("pggit-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("making {}", path.display()))?;
        if let Some(owner) = owner {
            chown(&path, Some(owner.uid), Some(owner.gid))?;
        }
        Ok(Self { path, owner })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it and all that is in it.
    pub fn remove(self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("could not remove {}: {error}", self.path.display());
        }
    }
}

impl Owner {
    fn wanted() -> anyhow::Result<Option<Self>> {
        let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        if !root {
            return Ok(None);
        }
        let users = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        let find = |name: &str| {
            let mut fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
            let found = fields.find(|fields| fields.first() == Some(&name))?;
            Some(Self { uid: found.get(2)?.parse().ok()?, gid: found.get(3)?.parse().ok()? })
        };
        let owner = find("postgres").or_else(|| find("nobody"));
        owner.map(Some).context("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
    }
}

impl Server {
    /// Makes a data directory and starts a server on it.
    pub async fn start(directory: &Directory) -> anyhow::Result<Self> {
        let bin = programs()?;
        let owner = directory.owner;
        let data = directory.path.join("data");
        let initdb = command(&bin, "initdb", owner)
            .args(["-N", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data)
            .output()
            .await
            .context("running initdb")?;
        if !initdb.status.success() {
            bail!("initdb failed:\n{}", String::from_utf8_lossy(&initdb.stderr));
        }
        let version = Command::new(bin.join("postgres")).arg("--version").output().await?;
        let version = String::from_utf8_lossy(&version.stdout).trim().replace("postgres (PostgreSQL) ", "");
        // Between finding a free port and using it, somebody else may take it.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let log = std::fs::File::create(directory.path.join("postgres.log"))?;
            let child = command(&bin, "postgres", owner)
                .arg("-D")
                .arg(&data)
                .args(["-c", "listen_addresses=127.0.0.1", "-c", &format!("port={port}"), "-c", "fsync=off"])
                .args(["-c", &format!("unix_socket_directories={}", directory.path.display())])
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .context("starting postgres")?;
            let mut server =
                Self { port, version: version.clone(), bin: bin.clone(), data: data.clone(), owner, child };
            if server.wait_ready().await? {
                return Ok(server);
            }
            let log = std::fs::read_to_string(directory.path.join("postgres.log")).unwrap_or_default();
            if !log.contains("Address already in use") {
                bail!("PostgreSQL did not start:\n{log}");
            }
        }
        bail!("no free port found for PostgreSQL");
    }

    /// For `--database-url`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes a database.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<()> {
        let sql = format!("CREATE DATABASE {name}");
        let psql = Command::new("psql").args(["-X", "-q", "-d", &self.url("postgres"), "-c", &sql]).output().await;
        let output = psql.context("running psql: is postgresql-client installed?")?;
        if !output.status.success() {
            bail!("{sql} failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Stops it at once: nothing in it is kept.
    pub async fn stop(mut self) {
        let stopped = command(&self.bin, "pg_ctl", self.owner)
            .args(["stop", "-w", "-m", "immediate", "-D"])
            .arg(&self.data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        if !stopped.is_ok_and(|status| status.success()) {
            let _ = self.child.start_kill();
        }
        let _ = self.child.wait().await;
    }

    /// Its state is the eighth line of postmaster.pid; pg_ctl waits the same way. False when it ended instead.
    async fn wait_ready(&mut self) -> anyhow::Result<bool> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            let file = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
            if file.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(true);
            }
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("PostgreSQL was not ready after {START_TIMEOUT:?}");
    }
}

fn command(bin: &Path, program: &str, owner: Option<Owner>) -> Command {
    let mut command = Command::new(bin.join(program));
    if let Some(owner) = owner {
        command.uid(owner.uid).gid(owner.gid);
    }
    command.current_dir("/").env("LC_ALL", "C").process_group(0).kill_on_drop(true);
    command
}

/// The directory of initdb and postgres: `PGGIT_PG_BIN`, Debian's newest, that of `PATH`, the tests' own.
fn programs() -> anyhow::Result<PathBuf> {
    let numbered = |base: &str| {
        let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
        let mut found: Vec<(u32, PathBuf)> = entries
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
            .collect();
        found.sort();
        found.into_iter().rev().map(|(_, bin)| bin)
    };
    let named = std::env::var_os("PGGIT_PG_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = named
        .into_iter()
        .chain(numbered("/usr/lib/postgresql"))
        .chain(std::env::split_paths(&path))
        .chain(numbered(".cache/postgres"));
    let mut complete = places.filter(|bin| ["initdb", "postgres", "pg_ctl"].iter().all(|name| bin.join(name).exists()));
    let found = complete.next().context(
        "no PostgreSQL server programs found (initdb, postgres, pg_ctl): install the package postgresql, \
         or name their directory in PGGIT_PG_BIN",
    )?;
    // A link in PATH would hide where the server's other files are.
    let program = found.join("postgres").canonicalize()?;
    Ok(program.parent().map_or(found, Path::to_path_buf))
}
