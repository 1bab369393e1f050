#!/usr/bin/env python3
"""How many instructions the server takes for a schema change: without us, recorded by triggers, and by added calls.

Times differ from minute to minute; instructions do not, and so show what a change in `migrations/` is worth. The server
runs under valgrind's callgrind, which counts what a session's statements take, without parsing them and without the
commit. What the first statements of a session take besides (plans are made) is left out: each figure is the difference
between a session with few and one with more statements. `make instructions` installs what is needed.

    bench/instructions.py [--statements N] [--profiles DIRECTORY] [--patch FILE]

With --profiles the counts of each session are kept there for callgrind_annotate and kcachegrind. With --patch the SQL in the file
is run in the recorded databases first: to try something out.
"""

import argparse
import os
import pathlib
import re
import subprocess
import time

import run
import servers

WARM = 4
KINDS = {
    "CREATE TABLE": "CREATE TABLE changing.{name} (id int PRIMARY KEY, name text NOT NULL)",
    "ALTER TABLE": "ALTER TABLE changing.{name} ADD COLUMN note text DEFAULT 'none'",
    "CREATE INDEX": "CREATE INDEX {name}_name ON changing.{name} (name)",
    "DROP TABLE": "DROP TABLE changing.{name}",
}
WAYS = {"no pggit schema": "plain", "recorded by triggers": "bench", "recorded by added calls": "injected"}


def connect(port: int, database: str):
    """Under callgrind the server takes its time to begin: it refuses connections until it has."""
    for _ in range(60):
        try:
            return run.login(port, database)
        except (OSError, SystemExit):
            time.sleep(0.5)
    raise SystemExit("the server does not let anybody in")


def counted(counts: pathlib.Path) -> int:
    """A server process writes its counts when it ends."""
    for _ in range(600):
        found = re.search(r"^totals: (\d+)", counts.read_text(), re.M) if counts.exists() else None
        if found:
            return int(found.group(1))
        time.sleep(0.1)
    raise SystemExit(f"no counts in {counts}")


class Instructions:
    def __init__(self, machine: servers.Machine, options: argparse.Namespace):
        self.options = options
        self.counts = machine.directory / "counts"
        self.counts.mkdir()
        self.counts.chmod(0o777)
        server = machine.start_postgres()
        for database in WAYS.values():
            run.psql(server.port, "postgres", f"CREATE DATABASE {database}")
            run.psql(server.port, database, "CREATE SCHEMA changing")
        run.migrate(options.program, server.port, {"bench": "trigger", "injected": "inject"})
        if options.patch:
            for database in ("bench", "injected"):
                run.psql(server.port, database, options.patch.read_text())
        machine.stop_postgres()
        self.server = machine.run_postgres(
            ["valgrind", "-q", "--tool=callgrind", "--trace-children=yes", "--toggle-collect=PortalRun",
             f"--callgrind-out-file={self.counts}/%p"]
        )
        connect(self.server.port, "plain").close()
        self.proxy = machine.start_proxy(self.server.port, 1, options.program, "bench")

    def of_session(self, way: str, kind: str, statements: int) -> int:
        """What a session with so many of them takes in all."""
        database = WAYS[way]
        port = self.server.port if way == "no pggit schema" else self.proxy.port
        session = connect(port, database)
        name = f"{way} {kind} {statements}".replace(" ", "_")
        run.query(session, f"SET application_name = '{name}'")
        asked = subprocess.run(
            ["psql", "-XAtq", "-h", "127.0.0.1", "-p", str(self.server.port), "-U", "postgres", "-d", "plain", "-c",
             f"SELECT pid FROM pg_stat_activity WHERE application_name = '{name}'"],
            check=True, capture_output=True, text=True, env={**os.environ, "PGSSLMODE": "disable"},
        )
        for n in range(statements):
            run.query(session, KINDS[kind].format(name=f"t{statements}_{n}"))
        session.sendall(b"X\0\0\0\4")
        session.close()
        counts = self.counts / asked.stdout.strip()
        total = counted(counts)
        if self.options.profiles:
            (self.options.profiles / f"{name}.out").write_bytes(counts.read_bytes())
        return total

    def of(self, way: str, kind: str) -> float:
        more = self.options.statements
        return (self.of_session(way, kind, WARM + more) - self.of_session(way, kind, WARM)) / more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--statements", type=int, default=12, help="how many of each kind are counted")
    parser.add_argument("--profiles", type=pathlib.Path, help="keep the counts in this directory")
    parser.add_argument("--patch", type=pathlib.Path, help="run this SQL in the recorded databases first")
    parser.add_argument("--program", default=str(servers.ROOT / "target/debug/pggit-proxy"))
    options = parser.parse_args()
    if options.profiles:
        options.profiles.mkdir(parents=True, exist_ok=True)
    machine = servers.Machine()
    try:
        instructions = Instructions(machine, options)
        print("| million instructions | " + " | ".join(KINDS) + " | one of four | |")
        print("|---" * (len(KINDS) + 3) + "|")
        least = None
        for way in WAYS:
            taken = []
            for kind in KINDS:
                run.say(f"{way}, {kind}")
                taken.append(instructions.of(way, kind) / 1e6)
            mean = sum(taken) / len(taken)
            least = least or mean
            print(f"| {way} | " + " | ".join(f"{t:.2f}" for t in taken) + f" | {mean:.2f} | {mean / least:.2f}x |", flush=True)
    finally:
        machine.stop()


if __name__ == "__main__":
    main()
