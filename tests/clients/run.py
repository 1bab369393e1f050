#!/usr/bin/env python3
"""Real clients, each on a branch by its connection string: it runs its migrations, and they must be in the history under its own
application name, with nothing of what it rolled back. Each runs before a server without the proxy as well, with a tap on the line both times: it
must say and hear the same, byte for byte.

scripts/clients.sh starts servers and the proxy for each version, road and capture and calls this; `make clients` does it all.
The table in docs/CLIENTS.md is made from what ran (--page write), and must be what ran (--page check).
"""

import argparse
import asyncio
import difflib
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from dataclasses import dataclass

from legs import DIRECT, PROXIED, Failed, hold, left_behind, nothing_pruned, road, rows
from same import compare
from tap import Broken

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "CLIENTS.md"
BEGIN, END = "<!-- what ran -->\n", "<!-- until here -->\n"


@dataclass
class Client:
    """One client: how it is started, and what must be in the history of its branch afterwards."""

    name: str
    application: str
    prefix: str
    command: list[str]
    branch: str
    migrations: str
    # A regular expression for each message that must be there, of commits under its application name.
    messages: tuple[str, ...] = ()
    # Changes, as `CHANGE type identity`; without it those of the tables that all clients make.
    changes: tuple[str, ...] = ()
    note: str = ""
    # Whether it can begin TLS at once, without asking: PGSSLNEGOTIATION=direct. All can be told to use TLS: PGSSLMODE.
    at_once: str = "yes"

    def wanted(self) -> tuple[str, ...]:
        item = f"public.{self.prefix}_item"
        return self.changes or (f"CREATE table {item}", f"ALTER table {item}", f"CREATE index {item}_name")


def clients(work: pathlib.Path) -> list[Client]:
    python = [str(work / "python/bin/python"), "-W", "error::RuntimeWarning"]

    def script(name: str) -> list[str]:
        return [*python, str(HERE / "python" / f"use_{name}.py")]

    def node(name: str) -> list[str]:
        return ["node", str(work / "node" / f"use_{name}.mjs")]

    def rust(name: str) -> list[str]:
        return [str(work / "rust/debug" / f"use_{name}")]

    def shell(name: str) -> list[str]:
        return [str(HERE / "shell" / f"use_{name}.sh")]

    key, url, plain = "`dbname=app/feature/x`", "`…/app%2Ffeature%2Fx`", "`app/feature/x`"
    own = "SQL in one transaction"
    libpq = "from libpq 17 on"
    pgbench = tuple(f"CREATE table public.pgbench_{table}" for table in ("accounts", "branches", "history", "tellers"))
    return [
        Client("psql", "psql", "psql", shell("psql"), "`\\c app/feature/x`", own, at_once=libpq),
        Client("pgbench", "pgbench", "pgbench", shell("pgbench"), plain, "`-i`; then `-M simple`, `extended`, `prepared`, a pipeline of DDL",
               changes=(*pgbench, "ALTER table public.pgbench_accounts", "CREATE index public.pgbench_accounts_pkey"), at_once=libpq),
        Client("pg_dump and pg_restore", "pg_restore", "dump", shell("pg_dump"), "`-d app/feature/x`", "`--single-transaction`",
               changes=("CREATE table public.dump_item", "CREATE index public.dump_item_name", "CREATE sequence public.dump_item_id_seq"), at_once=libpq),
        Client("psycopg2", "psycopg2", "psycopg2", script("psycopg2"), key, own),
        Client("psycopg", "psycopg", "psycopg", script("psycopg"), url, own + "; prepared, pipelined, COPY"),
        Client("asyncpg", "asyncpg", "asyncpg", script("asyncpg"), "`server_settings={'pggit.branch': 'feature/x'}`",
               own + "; each statement prepared and described"),
        Client("SQLAlchemy", "sqlalchemy", "sqlalchemy", script("sqlalchemy"), "`URL.create(database='app/feature/x')`", "`metadata.create_all`",
               at_once="as psycopg"),
        Client("Alembic", "alembic", "alembic", script("alembic"), url, "`upgrade head`, `downgrade -1`, `upgrade head`", messages=("alembic two_prices",),
               note="of several revisions within two seconds only the last one's", at_once="as psycopg"),
        Client("Django", "django", "django", script("django"), "`'NAME': 'app/feature/x'`", "`migrate`",
               messages=(r"django shop\.0001_items", r"django shop\.0002_prices"), at_once="as psycopg"),
        Client("node-postgres", "node-postgres", "node_pg", node("pg"), url, own),
        Client("postgres.js", "postgres.js", "postgres_js", node("postgres"), url, own + "; all prepared, pipelined"),
        Client("Knex", "knex", "knex", node("knex"), "`database: 'app/feature/x'`", "`migrate.latest`",
               messages=(r"knex 20260101_items\.js", r"knex 20260102_prices\.js"), at_once="as node-postgres"),
        Client("Drizzle", "drizzle", "drizzle", node("drizzle"), url, "`migrate` over postgres.js, all files in one transaction",
               note="its table names a hash of the file, no name: no message", at_once="as postgres.js"),
        Client("TypeORM", "typeorm", "typeorm", node("typeorm"), "`database: 'app/feature/x'`", "`runMigrations`, each in its transaction",
               note="its table is not among those that are looked up: no message", at_once="as node-postgres"),
        Client("tokio-postgres", "tokio-postgres", "tokio_postgres", rust("tokio_postgres"), key, "SQL, each statement by itself"),
        Client("sqlx", "sqlx", "sqlx", rust("sqlx"), url, "`Migrator`", messages=("sqlx 1 items", "sqlx 2 prices"), at_once="no"),
        Client("Diesel", "diesel", "diesel", rust("diesel"), url, "`run_pending_migrations`",
               messages=("diesel 20260101000000", "diesel 20260102000000"), at_once=libpq),
        Client("pgx", "pgx", "pgx", [str(work / "go/use_pgx")], "`?options=-c%20pggit.branch%3Dfeature/x`", own, at_once="no"),
        Client("lib/pq", "pq", "pq", [str(work / "go/use_pq")], key, own, at_once="no"),
        Client("pgjdbc", "pgjdbc", "jdbc", ["java", "-cp", "/usr/share/java/postgresql.jar:" + str(work / "java"), "UseJdbc"],
               "`jdbc:postgresql://…/app%2Ffeature%2Fx`", own + "; two statements in one, a batch", at_once="no"),
        Client("ActiveRecord", "activerecord", "activerecord", ["ruby", "-W0", str(HERE / "ruby/use_activerecord.rb")], url,
               "two migrations, each in its transaction", messages=("migration 20260101000000", "migration 20260102000000"),
               note="its number: the table holds no other", at_once=libpq),
    ]


def package_versions(work: pathlib.Path) -> dict[str, str]:
    """Of those that do not say it themselves."""
    lock = (HERE / "rust/Cargo.toml").read_text()
    found = {name: re.search(rf'^{crate} = .*?"=([0-9.]+)"', lock, re.M).group(1)
             for name, crate in (("tokio-postgres", "tokio-postgres"), ("sqlx", "sqlx"), ("Diesel", "diesel"))}
    for name, package in (("pgx", "golang-github-jackc-pgx-v4-dev"), ("lib/pq", "golang-github-lib-pq-dev")):
        version = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], check=True, text=True, capture_output=True).stdout
        found[name] = version.split("-")[0]
    return found


def history(sql: str) -> list[str]:
    return rows(os.environ["SERVER_PORT"], sql)


def judge(client: Client) -> list[str]:
    """What is wrong with the history after it."""
    told = history("select concat_ws(' ', change_type, object_type, object_identity) from pggit.history "
                   f"where application_name = '{client.application}' and branch = 'feature/x' and via_proxy "
                   "and captured_by in ('trigger', 'inject') order by created_at, ordinal")
    wrong = [f"not in the history: {change}" for change in client.wanted() if change not in told]
    wrong += [f"rolled back, and in the history: {row}" for row in
              history(f"select change_type || ' ' || object_identity from pggit.history where object_name ~ '^{client.prefix}_gone'")]
    wrong += [f"under another application: {row}" for row in
              history(f"select distinct object_identity || ': ' || application_name from pggit.history where object_name ~ '^{client.prefix}_item' "
                      f"and application_name <> '{client.application}'")]
    for message in client.messages:
        # A message is looked up when the commit is sealed, some seconds later.
        end = time.monotonic() + 30
        while True:
            said = history(f"select message from pggit.commits where application_name = '{client.application}' and message is not null")
            if any(re.search(message, line) for line in said):
                break
            if time.monotonic() > end:
                wrong.append(f"no message like {message}, but {said}")
                break
            time.sleep(0.2)
    return wrong


def run(client: Client, versions: dict[str, str]) -> list[str]:
    began = time.monotonic()
    try:
        _, direct = asyncio.run(hold(client.command, int(os.environ["DIRECT_PORT"]), DIRECT))
    except (Failed, Broken) as failed:
        return [f"without the proxy it {failed}"]
    try:
        printed, proxied = asyncio.run(hold(client.command, int(os.environ["PORT"]), PROXIED))
    except (Failed, Broken) as failed:
        return [str(failed)]
    if version := re.search(r"^version (.*)$", printed, re.M):
        versions[client.name] = version.group(1)
    verdict = compare(direct, proxied)
    wrong = verdict.wrong(road()) + judge(client)
    took = time.monotonic() - began
    print(f"{'FAILED' if wrong else 'ok    '} {client.name} {versions.get(client.name, '?')} ({took:.1f} s), the same but for {verdict}",
          flush=True)
    return wrong


def shown(client: Client, version: str) -> str:
    """What is not pinned here is Debian's, which mends it: then its series."""
    parts = {"psql": 1, "pgbench": 1, "pg_dump and pg_restore": 1, "pgx": 2, "lib/pq": 2, "pgjdbc": 2, "ActiveRecord": 2}.get(client.name, 9)
    return ".".join(version.split(".")[:parts])


def table(all_clients: list[Client], versions: dict[str, str]) -> str:
    lines = ["| client | version | the branch is named by | its migrations | message of its commits | TLS at once |", "|---|---|---|---|---|---|"]
    for client in all_clients:
        message = "its migration's name" if client.messages else "none"
        message += f" ({client.note})" if client.note else ""
        lines.append(f"| {client.name} | {shown(client, versions[client.name])} | {client.branch} | {client.migrations} | {message} | {client.at_once} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=pathlib.Path, required=True, help="where scripts/clients.sh installed the clients")
    parser.add_argument("--only", default="", help="names, with commas")
    parser.add_argument("--page", choices=["write", "check", "leave"], default="leave", help="what to do with the table in docs/CLIENTS.md")
    arguments = parser.parse_args()
    wanted = [name for name in arguments.only.split(",") if name]
    encrypted = os.environ["PGSSLMODE"] != "disable"
    direct_tls = os.environ["PGSSLNEGOTIATION"] == "direct"
    chosen = [client for client in clients(arguments.work)
              if (not wanted or client.name in wanted) and not (direct_tls and client.at_once == "no")]
    versions = package_versions(arguments.work)
    failed = 0
    with nothing_pruned(os.environ["DIRECT_PORT"]), nothing_pruned(os.environ["SERVER_PORT"]):
        for client in chosen:
            if wrong := run(client, versions):
                failed += 1
                print(f"FAILED {client.name}\n  " + "\n  ".join(wrong), flush=True)
    # What the proxy sent to the server is seen by what it made of it.
    direct, proxied = (left_behind(os.environ[port]) for port in ("DIRECT_PORT", "SERVER_PORT"))
    if differs := list(difflib.unified_diff(direct, proxied, "directly", "through the proxy", lineterm="")):
        failed += 1
        print("FAILED the databases differ\n" + "\n".join(differs[:60]))
    else:
        print(f"ok     the databases are the same ({len(direct)} lines)")
    if arguments.page != "leave" and not wanted and not encrypted and not failed:
        page = PAGE.read_text()
        head, _, rest = page.partition(BEGIN)
        made = head + BEGIN + table(chosen, versions) + END + rest.partition(END)[2]
        if arguments.page == "write":
            PAGE.write_text(made)
        elif made != page:
            print("FAILED docs/CLIENTS.md does not say what ran: make clients WRITE=1")
            failed += 1
    print(json.dumps({"passed": len(chosen) - failed, "failed": failed}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
