//! Child processes that end with the test, however it ends.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Ends a process and removes a directory when the test process dies without having done so itself.
///
/// A shell reads a pipe that only the test process holds open: end of file means that the test process is gone.
pub struct Watchdog {
    shell: Child,
    pipe: Option<ChildStdin>,
}

const SCRIPT: &str = r#"
if read -r line; then exit 0; fi
kill -"$1" "$2" 2>/dev/null
for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$2" 2>/dev/null || break; sleep 0.1; done
case "$3" in */pggit-test-*) rm -rf "$3";; esac
"#;

impl Watchdog {
    /// `signal` as `kill` takes it; `directory` must be one of ours.
    pub fn start(pid: u32, signal: &str, directory: &Path) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "watchdog", signal, &pid.to_string()])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pipe = shell.stdin.take();
        Self { shell, pipe }
    }
}

impl Drop for Watchdog {
    /// Everything was tidied up already: the shell has nothing to do.
    fn drop(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.shell.wait();
    }
}
