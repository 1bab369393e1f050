//! The unix socket `.s.PGSQL.PORT`, where libpq looks for it, and its lock file, as a server has them.
//!
//! The lock file holds the process id of whoever listens. Where that process lives, nobody else takes the socket,
//! neither a proxy nor a server; where it does not, both files are stale and are replaced.
//! <https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-UNIX-SOCKET-DIRECTORIES>

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use socket2::{Domain, SockAddr, Socket, Type};

/// Our socket; its files go when it is dropped, unless another process has taken them over.
pub(super) struct UnixSocket {
    path: PathBuf,
    lock: PathBuf,
}

impl UnixSocket {
    /// Listens in this directory. With `take_over` a living process is succeeded: it keeps those who came to it.
    pub fn open(
        directory: &Path,
        port: u16,
        permissions: u32,
        take_over: bool,
    ) -> anyhow::Result<(Self, UnixListener)> {
        let path = directory.join(format!(".s.PGSQL.{port}"));
        let lock = directory.join(format!(".s.PGSQL.{port}.lock"));
        write_lock(&lock, take_over)?;
        let socket = Self { path, lock };
        // Under another name first: at no time is there a socket that nobody listens to, or one open to all.
        let fresh = directory.join(format!(".s.PGSQL.{port}.{}", std::process::id()));
        let listener = listen(&fresh, permissions)
            .and_then(|listener| fs::rename(&fresh, &socket.path).map(|()| listener))
            .with_context(|| format!("cannot listen on {}", socket.path.display()));
        if listener.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        Ok((socket, listener?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if holder(&self.lock) == Some(std::process::id().cast_signed()) {
            let _ = fs::remove_file(&self.path);
            let _ = fs::remove_file(&self.lock);
        }
    }
}

fn listen(path: &Path, permissions: u32) -> std::io::Result<UnixListener> {
    let _ = fs::remove_file(path);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(permissions))?;
    socket.listen(4096)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

/// Makes the lock file ours.
fn write_lock(path: &Path, take_over: bool) -> anyhow::Result<()> {
    let shown = path.display();
    loop {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                return writeln!(file, "{}", std::process::id()).with_context(|| format!("cannot write {shown}"));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if let Some(pid) = holder(path).filter(|pid| !take_over && lives(*pid)) {
                    bail!("lock file {shown} already exists: process {pid} uses the socket");
                }
                match fs::remove_file(path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(error).with_context(|| format!("cannot remove the stale lock file {shown}"));
                    }
                    _ => {}
                }
            }
            Err(error) => return Err(error).with_context(|| format!("cannot make the lock file {shown}")),
        }
    }
}

/// The process that a lock file names; a server writes a minus before that of a single-user process.
fn holder(lock: &Path) -> Option<i32> {
    let text = fs::read_to_string(lock).ok()?;
    text.lines().next()?.trim().trim_start_matches('-').parse().ok()
}

/// Our own number in a file that we did not write is a stale one: numbers come again, in containers at once.
fn lives(pid: i32) -> bool {
    let own = std::process::id().cast_signed();
    pid > 0 && pid != own && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}
