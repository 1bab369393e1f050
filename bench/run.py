#!/usr/bin/env python3
"""pggit-proxy against direct connections, HAProxy (bytes only) and pgbouncer (session mode), side by side.

Every figure is taken for each of them in turn, round after round, so that a busy moment of the machine meets all alike;
the table shows medians. Processor time is the program's own, from /proc. Needs `scripts/setup.sh bench` and a release
build; `make bench` does both.
"""

import argparse
import os
import re
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import time

import report
import servers

DRAIN_QUERY = "SELECT filler FROM wide"
CREATE = "CREATE TABLE changing.t{} (id int PRIMARY KEY, name text NOT NULL)"
# So many tables of one way of recording, then of the next.
TURN = 10
READY_IDLE = b"Z\0\0\0\5I"


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def psql(port: int, database: str, sql: str, **options) -> None:
    options.setdefault("env", {**os.environ, "PGSSLMODE": "disable"})
    command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-d",
               database, "-c", sql]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)


def migrate(program: str, port: int, captures: dict[str, str]) -> None:
    """The schema pggit in these databases, each with its way of recording."""
    for database, capture in captures.items():
        url = f"postgres://postgres@127.0.0.1:{port}/{database}"
        command = [program, "migrate", "up", "--capture", capture, "--database-url", url]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def login(port: int, database: str, encrypted: bool = False) -> socket.socket:
    """A raw connection, logged in."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if encrypted:
        connection.sendall(struct.pack("!ii", 8, 80877103))
        if connection.recv(1) != b"S":
            raise SystemExit(f"no TLS on port {port}")
        anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
        connection = anybody.wrap_socket(connection)
    body = struct.pack("!i", 196608) + f"user\0postgres\0database\0{database}\0\0".encode()
    connection.sendall(struct.pack("!i", len(body) + 4) + body)
    read_until_ready(connection)
    return connection


def query(connection: socket.socket, sql: str) -> int:
    """Runs it and throws the answer away; the answer's size in bytes."""
    body = sql.encode() + b"\0"
    connection.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)
    return read_until_ready(connection)


def timed(connection: socket.socket, sql: str) -> float:
    """In milliseconds."""
    started = time.monotonic()
    query(connection, sql)
    return (time.monotonic() - started) * 1000


def read_until_ready(connection: socket.socket) -> int:
    """Looks at the last bytes only."""
    buffer = bytearray(1 << 20)
    total, tail = 0, b""
    while not tail.endswith(READY_IDLE):
        count = connection.recv_into(buffer)
        if count == 0:
            raise SystemExit("the connection ended")
        total += count
        tail = (tail + bytes(buffer[max(0, count - len(READY_IDLE)):count]))[-len(READY_IDLE):]
    return total


class Bench:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.machine = servers.Machine()
        self.figures = report.Figures()

    def prepare(self) -> None:
        say("starting PostgreSQL and what stands in front of it")
        self.direct = self.machine.start_postgres()
        port = self.direct.port
        for database in ("plain", "unproxied", "bench", "injected"):
            psql(port, "postgres", f"CREATE DATABASE {database}")
        say("loading data")
        pgbench = [self.machine.bin / "pgbench", "-i", "-q", "-s", str(self.options.scale), "-h", "127.0.0.1", "-p",
                   str(port), "-U", "postgres", "bench"]
        subprocess.run(pgbench, check=True, capture_output=True)
        rows = self.options.megabytes * 1000
        psql(port, "bench", "CREATE UNLOGGED TABLE wide (filler text)")
        psql(port, "bench", "ALTER TABLE wide ALTER filler SET STORAGE PLAIN")
        psql(port, "bench", f"INSERT INTO wide SELECT repeat('x', 1000) FROM generate_series(1, {rows})")
        psql(port, "bench", "CREATE UNLOGGED TABLE copied (a int, b int, c int, filler text)")
        psql(port, "bench", "VACUUM ANALYZE")
        migrate(self.options.program, port, {"unproxied": "trigger", "bench": "trigger", "injected": "inject"})
        line = "\t7\t42\t" + "y" * 90 + "\n"
        self.copy_file = self.machine.directory / "copy.txt"
        self.copy_file.write_text("".join(f"{n}{line}" for n in range(self.options.megabytes * 10_000)))

        self.targets = [self.direct]
        wanted = self.options.targets.split(",")
        if "pggit-proxy" in wanted:
            self.targets.append(self.machine.start_proxy(port, self.options.threads, self.options.program, "bench"))
        if "haproxy" in wanted:
            self.targets.append(self.machine.start_haproxy(port, self.options.threads))
        if "pgbouncer" in wanted:
            self.targets.append(self.machine.start_pgbouncer(port))

    def note(self, what: str, target: servers.Target, **figures: float) -> None:
        self.figures.add(what, target.name, figures)
        text = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        say(f"  {what:<24} {target.name:<12} {text}")

    def pgbench(self, what: str, target: servers.Target, *arguments: str, sslmode: str = "disable") -> None:
        environment = {**os.environ, "PGSSLMODE": sslmode}
        command = [self.machine.bin / "pgbench", "-n", "-S", "-h", "127.0.0.1", "-p", str(target.port), "-U",
                   "postgres", "-T", str(self.options.seconds), *arguments, "bench"]
        # On a very busy machine a short run may end before all its clients are connected: it measured nothing.
        for _ in range(5):
            before = target.cpu_seconds()
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
            cpu = target.cpu_seconds() - before
            count = int(re.search(r"actually processed: (\d+)", output).group(1))
            tps = re.search(r"^tps = ([\d.]+) ", output, re.M)
            if count and tps:
                self.note(what, target, tps=float(tps.group(1)), cpu=cpu / count * 100_000)
                return
            say(f"  {what} {target.name}: measured nothing, once more")
        raise SystemExit(f"pgbench measured nothing:\n{output}")

    def drain(self, target: servers.Target) -> None:
        connection = login(target.port, "bench")
        before, started = target.cpu_seconds(), time.monotonic()
        size = query(connection, DRAIN_QUERY)
        elapsed, cpu = time.monotonic() - started, target.cpu_seconds() - before
        connection.close()
        self.note("drain", target, mbs=size / 1e6 / elapsed, cpu=cpu / size * 1e9)

    def copy_in(self, target: servers.Target) -> None:
        psql(self.direct.port, "bench", "TRUNCATE copied")
        size = self.copy_file.stat().st_size
        before, started = target.cpu_seconds(), time.monotonic()
        with open(self.copy_file, "rb") as file:
            psql(target.port, "bench", "COPY copied FROM STDIN", stdin=file)
        elapsed, cpu = time.monotonic() - started, target.cpu_seconds() - before
        self.note("copy in", target, mbs=size / 1e6 / elapsed, cpu=cpu / size * 1e9)

    def in_turns(self, what: str, fsync: str, tables: int, statements) -> None:
        """Each way of recording runs these statements for a few tables, then the next does, on connections that stay: what one of them
        leaves to the system (ext4 looks through the files of the last minutes before it makes another) meets all alike."""
        ways = self.ways()
        connections = [login(target.port, database) for _, target, database in ways]
        for connection in connections:
            query(connection, "CREATE SCHEMA changing")
        times = [[] for _ in ways]
        for turn, first in enumerate(range(0, tables, TURN)):
            for nth in range(len(ways)):
                way = (turn + nth) % len(ways)
                for number in range(first, min(first + TURN, tables)):
                    times[way].append(statistics.mean([timed(connections[way], sql) for sql in statements(number)]))
        for connection in connections:
            connection.close()
        for (capture, target, database), taken in zip(ways, times):
            # What is left is not measured; all of it in one transaction would fill the lock table.
            for first in range(0, tables, 50):
                names = ", ".join(f"changing.t{number}" for number in range(first, min(first + 50, tables)))
                psql(self.direct.port, database, f"SET client_min_messages = error; DROP TABLE IF EXISTS {names}")
            psql(self.direct.port, database, "DROP SCHEMA changing")
            self.note(f"{what}, {capture}, fsync {fsync}", target, first=taken[0], ms=statistics.mean(taken[1:]))

    def ways(self) -> list[tuple[str, servers.Target, str]]:
        """How schema changes are recorded, through whom, and in which database: each has its own."""
        ways = [("plain", self.direct, "plain"), ("trigger", self.direct, "unproxied")]
        for target in self.targets:
            if target.name == "pggit-proxy":
                ways += [("trigger", target, "bench"), ("inject", target, "injected")]
        return ways

    def idle(self, target: servers.Target) -> None:
        """Memory of clients that have logged in, asked once, and wait. Those without TLS stay while those with it come: what they
        would give back cannot do for others."""
        there = []
        for what, encrypted in (("idle", False), ("idle, TLS", True)):
            login(target.port, "bench", encrypted).close()
            before = target.resident_kib()
            connections = [login(target.port, "bench", encrypted) for _ in range(self.options.idle)]
            for connection in connections:
                query(connection, "SELECT 1")
            self.note(what, target, kib=(target.resident_kib() - before) / len(connections))
            there += connections
        for connection in there:
            connection.close()

    def round(self, number: int) -> None:
        say(f"round {number + 1} of {self.options.rounds}")
        # Each goes first in turn: what runs before another leaves its traces in caches.
        turn = number % len(self.targets)
        targets = self.targets[turn:] + self.targets[:turn]
        if not self.options.only_schema:
            self.traffic(targets)
        self.schema_changes()

    def traffic(self, targets: list[servers.Target]) -> None:
        for mode in report.MODES:
            for clients in (1, 32):
                for target in targets:
                    jobs = min(clients, os.cpu_count() or 1)
                    self.pgbench(f"{mode} c{clients}", target, "-M", mode, "-c", str(clients), "-j", str(jobs))
        # Mostly the server's own work, and the noisiest figure of all.
        for target in targets * 3:
            self.pgbench("connect", target, "-C", "-c", "1")
        for clients in (1, 32):
            for target in targets:
                jobs = min(clients, os.cpu_count() or 1)
                self.pgbench(f"TLS c{clients}", target, "-M", "prepared", "-c", str(clients), "-j", str(jobs), sslmode="require")
        for target in targets:
            self.pgbench("TLS connect", target, "-C", "-c", "1", sslmode="require")
        for target in targets:
            self.drain(target)
        for target in targets:
            self.copy_in(target)

    def schema_changes(self) -> None:
        """With fsync, as a server runs that is to keep what it is told, and without, which shows what recording takes."""
        for fsync in report.FSYNC:
            for setting in ("fsync", "full_page_writes"):
                psql(self.direct.port, "postgres", f"ALTER SYSTEM SET {setting} = {fsync}")
            psql(self.direct.port, "postgres", "SELECT pg_reload_conf()")
            psql(self.direct.port, "postgres", "CHECKPOINT")
            self.in_turns("create table", fsync, self.options.tables, lambda number: [CREATE.format(number)])
            # What a migration does: tables made, altered, indexed and dropped, one statement after the other.
            self.in_turns("schema changes", fsync, self.options.tables // 2, lambda number: [
                CREATE.format(number),
                f"ALTER TABLE changing.t{number} ADD COLUMN note text DEFAULT 'none'",
                f"CREATE INDEX t{number}_name ON changing.t{number} (name)",
                f"DROP TABLE changing.t{number}",
            ])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=5, help="of each pgbench run")
    parser.add_argument("--scale", type=int, default=10, help="of pgbench's tables")
    parser.add_argument("--megabytes", type=int, default=300, help="of the drained result and of COPY")
    parser.add_argument("--tables", type=int, default=500, help="in the CREATE TABLE loop")
    parser.add_argument("--only-schema", action="store_true", help="measure schema changes and nothing else")
    parser.add_argument("--idle", type=int, default=200, help="idle clients")
    parser.add_argument("--threads", type=int, default=2, help="of pggit-proxy and of HAProxy")
    parser.add_argument("--targets", default="pggit-proxy,haproxy,pgbouncer")
    parser.add_argument("--program", default=str(servers.ROOT / "target/release/pggit-proxy"))
    bench = Bench(parser.parse_args())
    try:
        bench.prepare()
        for target in bench.targets[1:]:
            bench.idle(target)
        for number in range(bench.options.rounds):
            bench.round(number)
        names = [target.name for target in bench.targets]
        head = report.machine(bench.options, bench.machine.bin)
        print("\n".join([*head, "", *bench.figures.table(names), "", *bench.figures.goals()]))
    finally:
        bench.machine.stop()


if __name__ == "__main__":
    main()
