//! Runs pg_dump: which one, as whom, on which snapshot.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::error::BranchError;
use crate::history::connect::Server;

/// Where Debian and others put PostgreSQL's programs, a directory for each major version.
const PLACES: [&str; 3] = ["/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt"];

/// A dump of a schema is a few hundred bytes for each object.
const MAX_DUMP: u64 = 1 << 30;

/// How much of its complaints is passed on.
const MAX_COMPLAINT: u64 = 4000;

/// The schema of a database in a snapshot that another session keeps, as a script. `version` is the server's, as in
/// `server_version_num`.
pub(super) async fn schema(
    server: &Server,
    database: &str,
    snapshot: &str,
    version: i32,
) -> Result<String, BranchError> {
    let program = find(server.pg_dump.as_deref(), version / 10_000).await?;
    let mut command = Command::new(&program);
    // What libpq would take from this process' surroundings is not meant for it.
    for (variable, _) in std::env::vars_os().filter(|(variable, _)| variable.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(variable);
    }
    command
        .args(["--schema-only", "--no-subscriptions", "--encoding=UTF8", "--lock-wait-timeout=60s"])
        .arg(format!("--snapshot={snapshot}"))
        // What a migration kept is about this database.
        .arg("--exclude-schema=pggit_backup_[0-9]+")
        .envs(server.libpq_environment(database).await)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let failed = |reason: String| BranchError::Dump(reason);
    let mut child = command.spawn().map_err(|error| failed(format!("{}: {error}", program.display())))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (script, complaint) = tokio::join!(read(stdout, MAX_DUMP), read(stderr, MAX_COMPLAINT));
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        let complaint = complaint.unwrap_or_default();
        return Err(failed(format!("{} ({status})", String::from_utf8_lossy(&complaint).trim())));
    }
    let script = script.map_err(|error| failed(error.to_string()))?;
    String::from_utf8(script).map_err(|_| failed("the schema cannot be written in UTF-8".to_owned()))
}

/// Reads to the end, and keeps the beginning: whoever writes must not wait for a reader.
async fn read(pipe: Option<impl tokio::io::AsyncRead + Unpin>, most: u64) -> std::io::Result<Vec<u8>> {
    let Some(mut pipe) = pipe else { return Ok(Vec::new()) };
    let mut kept = Vec::new();
    (&mut pipe).take(most).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok(kept)
}

/// The configured program; else the newest of those in `PATH` and the usual places that is not older than the server.
async fn find(configured: Option<&Path>, server: i32) -> Result<PathBuf, BranchError> {
    if let Some(program) = configured {
        return match major_version(program).await {
            Some(version) if version >= server => Ok(program.to_owned()),
            Some(version) => Err(BranchError::NoDump(format!(
                "branches.pg_dump, {}, is of version {version}, and the server of version {server}: it has to be as new",
                program.display()
            ))),
            None => Err(BranchError::NoDump(format!("branches.pg_dump, {}, cannot be run", program.display()))),
        };
    }
    let mut best: Option<(i32, PathBuf)> = None;
    for program in candidates() {
        if let Some(version) = major_version(&program).await
            && version >= server
            && best.as_ref().is_none_or(|(known, _)| version > *known)
        {
            best = Some((version, program));
        }
    }
    best.map(|(_, program)| program).ok_or_else(|| {
        BranchError::NoDump(format!(
            "there is no pg_dump of version {server} or newer: install it (Debian: postgresql-client-{server}), or name it \
             in branches.pg_dump"
        ))
    })
}

fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all: Vec<PathBuf> = std::env::split_paths(&path).map(|directory| directory.join("pg_dump")).collect();
    for place in PLACES {
        let versions = std::fs::read_dir(place).into_iter().flatten().flatten();
        all.extend(versions.map(|version| version.path().join("bin/pg_dump")));
    }
    all.retain(|program| program.is_file());
    all
}

/// `pg_dump (PostgreSQL) 15.14 (Debian …)`: 15.
async fn major_version(program: &Path) -> Option<i32> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().await.ok()?;
    read_version(&String::from_utf8_lossy(&output.stdout))
}

fn read_version(text: &str) -> Option<i32> {
    let version = text.split_once("(PostgreSQL) ")?.1;
    version.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(read_version("pg_dump (PostgreSQL) 15.14 (Debian 15.14-1)\n"), Some(15));
        assert_eq!(read_version("pg_dump (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(read_version("something else"), None);
    }
}
