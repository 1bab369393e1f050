"""What the benchmark starts: a private PostgreSQL, and each program in front of it. All of it ends with the process."""

import glob
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


def newest_server() -> pathlib.Path:
    """The directory of Debian's newest server programs."""
    found = glob.glob("/usr/lib/postgresql/*/bin/initdb")
    if not found:
        raise SystemExit("no PostgreSQL here: run scripts/setup.sh bench")
    return pathlib.Path(max(found, key=lambda path: int(path.split("/")[4]))).parent


def unprivileged() -> list[str]:
    """The prefix of a command that must not be root."""
    if os.geteuid() != 0:
        return []
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = pwd.getpwnam("nobody")
    return ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen, what: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{what} ended at once")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{what} does not listen")


class Target:
    """One way to the database: the server itself, or a program in front of it."""

    def __init__(self, name: str, port: int, process: subprocess.Popen | None):
        self.name, self.port, self.process = name, port, process

    def cpu_seconds(self) -> float:
        """Processor time of the program so far; 0 for the server itself, which is not what is measured."""
        if self.process is None:
            return 0.0
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_kib(self) -> int:
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


class Machine:
    """The private server and the programs in front of it."""

    def __init__(self):
        base = "/tmp" if os.geteuid() == 0 else None
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="pggit-bench-", dir=base))
        self.directory.chmod(0o777)
        self.bin = newest_server()
        self.processes: list[subprocess.Popen] = []
        # A terminated benchmark tidies up as an interrupted one does.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def start(self, command: list, log: str) -> subprocess.Popen:
        with open(self.directory / log, "wb") as file:
            process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd="/",
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def make_certificate(self) -> None:
        """For all who speak TLS, each its own owner's."""
        self.certificate, self.key = self.directory / "tls.crt", self.directory / "tls.key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
                   "-subj", "/CN=localhost", "-keyout", self.key, "-out", self.certificate]
        subprocess.run([*unprivileged(), *map(str, command)], check=True, capture_output=True, cwd="/")

    def start_postgres(self) -> Target:
        self.make_certificate()
        data = self.directory / "data"
        initdb = [self.bin / "initdb", "-N", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-D", data]
        subprocess.run(
            [*unprivileged(), *map(str, initdb)], check=True, stdout=subprocess.DEVNULL, cwd="/",
            env={**os.environ, "LC_ALL": "C"},
        )
        # Not on the command line: schema changes are measured with it, too.
        with open(data / "postgresql.auto.conf", "a") as file:
            file.write("fsync = off\nfull_page_writes = off\n")
        return self.run_postgres([])

    def run_postgres(self, under: list[str]) -> Target:
        """The server on the data there is; `under` is what runs it."""
        data = self.directory / "data"
        settings = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": self.directory, "shared_buffers": "512MB", "max_connections": 600, "max_wal_size": "8GB",
            "autovacuum": "off", "checkpoint_timeout": "1h",
            # For those who ask for it; whoever measures without says sslmode=disable.
            "ssl": "on", "ssl_cert_file": self.certificate, "ssl_key_file": self.key,
        }
        # Between finding a free port and using it, somebody else may take it.
        for _ in range(10):
            port = free_port()
            command = [*unprivileged(), *under, self.bin / "postgres", "-D", data, "-p", port]
            for key, value in settings.items():
                command += ["-c", f"{key}={value}"]
            process = self.start(command, "postgres.log")
            try:
                wait_for_port(port, process, "PostgreSQL")
            except SystemExit:
                if "already in use" not in (self.directory / "postgres.log").read_text():
                    raise
                continue
            return Target("direct", port, None)
        raise SystemExit("no free port for PostgreSQL")

    def stop_postgres(self) -> None:
        """In order, so that it may start again."""
        stop = [self.bin / "pg_ctl", "-D", self.directory / "data", "-m", "fast", "-w", "stop"]
        subprocess.run([*unprivileged(), *map(str, stop)], check=True, stdout=subprocess.DEVNULL, cwd="/")

    def start_proxy(self, server: int, workers: int, program: str, database: str) -> Target:
        config = self.directory / "pggit-proxy.toml"
        config.write_text(
            f"""
[listen]
address = "127.0.0.1:0"
workers = {workers}
[listen.tls]
mode = "allow"
cert = "{self.certificate}"
key = "{self.key}"
[control]
address = "127.0.0.1:0"
[http]
address = "127.0.0.1:0"
[upstream]
host = "127.0.0.1"
port = {server}
dbname = "{database}"
user = "postgres"
sslmode = "disable"
[branches.injected]
database = "injected"
[log]
level = "warn"
"""
        )
        process = self.start([program, "serve", "--config", config], "proxy.log")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            lines = (self.directory / "proxy.log").read_text(errors="replace").splitlines()
            if "ready" in lines:
                port = next(line for line in lines if line.startswith("clients ")).rsplit(":", 1)[1]
                return Target("pggit-proxy", int(port), process)
            time.sleep(0.05)
        raise SystemExit("the proxy did not start:\n" + (self.directory / "proxy.log").read_text(errors="replace"))

    def start_haproxy(self, server: int, threads: int) -> Target:
        port = free_port()
        config = self.directory / "haproxy.cfg"
        config.write_text(
            f"""
global
  nbthread {threads}
  maxconn 2000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen postgres
  bind 127.0.0.1:{port}
  server one 127.0.0.1:{server}
"""
        )
        program = shutil.which("haproxy") or "/usr/sbin/haproxy"
        process = self.start([program, "-db", "-f", config], "haproxy.log")
        wait_for_port(port, process, "HAProxy")
        return Target("HAProxy", port, process)

    def start_pgbouncer(self, server: int) -> Target:
        port = free_port()
        users = self.directory / "users.txt"
        users.write_text('"postgres" ""\n')
        config = self.directory / "pgbouncer.ini"
        config.write_text(
            f"""
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = session
server_reset_query = DISCARD ALL
max_client_conn = 1000
server_tls_sslmode = disable
client_tls_sslmode = allow
client_tls_cert_file = {self.certificate}
client_tls_key_file = {self.key}
default_pool_size = 500
"""
        )
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        process = self.start([*unprivileged(), program, "-q", config], "pgbouncer.log")
        wait_for_port(port, process, "pgbouncer")
        return Target("pgbouncer", port, process)

    def stop(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                # SIGINT is a fast shutdown to PostgreSQL, and an end to the others.
                process.send_signal(signal.SIGINT)
        for process in reversed(self.processes):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
