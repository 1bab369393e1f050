#!/usr/bin/env python3
"""Migration tools against a branch, against a protected main and against one whose changes are queued.

Each has two migrations. On the branch both are made. On main the first one is made; then main is protected, and the tool has to stop at
the second one and must not have marked it as done. Then changes of main are queued: the tool stops again, its change is approved, and its
next run makes it, marks it, and finds nothing to do afterwards.

scripts/clients.sh calls this for each version and capture; it rewrites the proxy's configuration and has it read again.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent

PROTECTED = """
[branches.main]
protected = true
"""

# The tools' own tables: who may migrate may note it. Nobody waits: a tool stops, and once its change is approved the next run makes it.
QUEUED = """
[[rule]]
name = "the notes of migration tools"
branch = "main"
class = ["ddl"]
object = "{notes}"
action = "allow"
[[rule]]
name = "four eyes"
branch = "main"
class = ["ddl"]
action = "queue"
"""


@dataclass
class Tool:
    """One tool: its script, and where it notes what it has done."""

    name: str
    command: list[str]
    table: str
    notes: str
    # How many migrations are noted; each is one.
    noted: str


def tools(work: pathlib.Path) -> list[Tool]:
    python = str(work / "python/bin/python")
    return [
        Tool("Alembic", [python, str(HERE / "python/migrate_alembic.py")], "alembic_tool", "alembic_version",
             "select coalesce(max(version_num), '0') from alembic_version"),
        Tool("Django", [python, str(HERE / "python/migrate_django.py")], "django_tool", "django_migrations",
             "select count(*) from django_migrations where app = 'shop'"),
        Tool("Knex", ["node", str(work / "node/migrate_knex.mjs")], "knex_tool", "knex_migrations*",
             "select count(*) from knex_migrations"),
        Tool("sqlx", [str(work / "rust/debug/migrate_sqlx")], "sqlx_tool", "_sqlx_migrations",
             "select count(*) from _sqlx_migrations where success"),
    ]


class Wrong(Exception):
    """The tool, or the proxy, did what it must not."""


def psql(port: str, database: str, sql: str, user: str = "postgres") -> str:
    command = ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", os.environ["HOST"], "-p", port, "-U", user,
               "-d", database, "-c", sql]
    answer = subprocess.run(command, text=True, capture_output=True)
    if answer.returncode != 0:
        raise Wrong(f"{sql}: {answer.stderr}")
    return answer.stdout.strip()


def control(command: str) -> str:
    return psql(os.environ["CONTROL_PORT"], "pggit", command, user="approver")


class Configuration:
    """The proxy's file: what it began with, and what is added for a while."""

    def __init__(self) -> None:
        self.path = pathlib.Path(os.environ["CONFIGURATION"])
        self.original = self.path.read_text()

    def add(self, text: str) -> None:
        self.path.write_text(self.original + text)
        control("RELOAD")


def run(tool: Tool, database: str, upto: int) -> subprocess.CompletedProcess:
    return subprocess.run([*tool.command, database, str(upto)], text=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)


def must(condition: bool, what: str, done: subprocess.CompletedProcess | None = None) -> None:
    if not condition:
        raise Wrong(what + (f"\n{done.stdout}{done.stderr}" if done else ""))


def state(tool: Tool, database: str) -> tuple[int, bool]:
    """How many migrations are noted, and whether the second one's column is there."""
    server = os.environ["SERVER_PORT"]
    column = psql(server, database, f"select exists (select from pg_attribute where attrelid = to_regclass('{tool.table}') and attname = 'price')")
    return int(psql(server, database, tool.noted)), column == "t"


def requests(status: str, tool: Tool) -> list[str]:
    return control(f"SHOW CHANGES number WHERE status = '{status}' AND sql LIKE '%{tool.table}%'").split()


def judge(tool: Tool, configuration: Configuration) -> None:
    configuration.add("")
    done = run(tool, "app/feature/tools", 2)
    must(done.returncode == 0 and state(tool, "feature_tools") == (2, True), "the branch does not have both", done)
    done = run(tool, "app/main", 1)
    must(done.returncode == 0 and state(tool, "app") == (1, False), "main does not have the first one", done)
    configuration.add(PROTECTED)
    done = run(tool, "app/main", 2)
    must(done.returncode != 0, "the tool did not stop at a protected branch", done)
    must("protected" in done.stdout + done.stderr, "the tool does not say why", done)
    must(state(tool, "app") == (1, False), f"a refused migration is noted: {state(tool, 'app')}", done)
    configuration.add(QUEUED.format(notes=tool.notes))
    done = run(tool, "app/main", 2)
    must(done.returncode != 0, "the tool did not stop at a queued change", done)
    must("change request" in done.stdout + done.stderr, "the tool does not say why", done)
    must(state(tool, "app") == (1, False), f"a queued migration is noted: {state(tool, 'app')}", done)
    numbers = requests("pending", tool)
    must(len(numbers) == 1, f"there is not one request: {numbers}")
    control(f"APPROVE CHANGE {numbers[0]}")
    must(state(tool, "app") == (1, False), "approving alone changed something")
    done = run(tool, "app/main", 2)
    must(done.returncode == 0 and state(tool, "app") == (2, True), f"approved, and not made: {state(tool, 'app')}", done)
    end = time.monotonic() + 30
    while requests("applied", tool) != numbers:
        must(time.monotonic() < end, f"the request is not applied: {control('SHOW CHANGES')}")
        time.sleep(0.1)
    done = run(tool, "app/main", 2)
    must(done.returncode == 0 and state(tool, "app") == (2, True), "the tool does not agree with what it did", done)
    must(requests("pending", tool) == [], "a run with nothing to do asked for something")
    told = psql(os.environ["SERVER_PORT"], "app", "select count(*) from pggit.history where branch = 'main' and application_name <> '' "
                f"and object_identity = 'public.{tool.table}' and new_definition ~ 'price'")
    must(told == "1", f"the history of main tells of it {told} times")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=pathlib.Path, required=True, help="where scripts/clients.sh installed the clients")
    parser.add_argument("--only", default="", help="names, with commas")
    arguments = parser.parse_args()
    wanted = [name for name in arguments.only.split(",") if name]
    configuration = Configuration()
    passed = failed = 0
    for tool in tools(arguments.work):
        if wanted and tool.name not in wanted:
            continue
        began = time.monotonic()
        try:
            judge(tool, configuration)
        except (Wrong, subprocess.TimeoutExpired) as wrong:
            failed += 1
            print(f"FAILED {tool.name} on protected and queued branches\n  {wrong}", flush=True)
        else:
            passed += 1
            print(f"ok     {tool.name} on protected and queued branches ({time.monotonic() - began:.1f} s)", flush=True)
        finally:
            configuration.add("")
    print(json.dumps({"passed": passed, "failed": failed}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
