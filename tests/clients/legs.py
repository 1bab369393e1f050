"""One run of a client with a tap before what it connects to: the server without the proxy, or the proxy."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator

from same import Leg
from tap import Certificate, Tap, tapped

# What a client is told: through the proxy the branch's name, without it the name of the branch's database.
DIRECT = {"DATABASE": "feature_x", "REPOSITORY": "feature_x"}
PROXIED = {"DATABASE": "app/feature/x", "REPOSITORY": "app"}
# How a connection begins on each road, by what clients are told of it.
ROADS = {("disable", "postgres"): (), ("require", "postgres"): ("SSLRequest: b'S'",),
         ("require", "direct"): ("TLS at once: ALPN postgresql, ALPN postgresql",)}

Alter = Callable[[str, bytes], bytes]


class Failed(Exception):
    """The client did not come to its end."""


def road() -> tuple[str, ...]:
    return ROADS[os.environ["PGSSLMODE"], os.environ["PGSSLNEGOTIATION"]]


async def hold(command: list[str], port: int, told: dict[str, str], alter: Alter | None = None) -> tuple[str, Leg]:
    """What it printed, and what the tap kept. `alter` changes the bytes behind the tap."""
    began = time.time()
    async with tap_before(port, alter) as tap:
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **told, "PORT": str(tap.port)}, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        try:
            printed, _ = await asyncio.wait_for(process.communicate(), 120)
        except TimeoutError:
            process.kill()
            raise Failed("did not end within two minutes") from None
    if process.returncode != 0:
        raise Failed(f"ended with {process.returncode}\n{printed.decode()}")
    return printed.decode(), Leg(tap.connections, began, time.time())


@contextlib.asynccontextmanager
async def tap_before(port: int, alter: Alter | None) -> AsyncIterator[Tap]:
    host = os.environ["HOST"]
    certificate = Certificate(os.environ["CERTIFICATE"], os.environ["KEY"])
    async with contextlib.AsyncExitStack() as stack:
        if alter:
            port = (await stack.enter_async_context(tapped(Tap((host, port), certificate, alter)))).port
        yield await stack.enter_async_context(tapped(Tap((host, port), certificate)))


def beside(program: str, port: str, *arguments: str) -> dict:
    """What Popen takes, for a program that asks the server itself for the branch's database, without TLS."""
    return {"args": [program, "-h", os.environ["HOST"], "-p", port, "-U", "postgres", "-d", "feature_x", *arguments], "text": True,
            "stdout": subprocess.PIPE, "env": {**os.environ, "PGSSLMODE": "disable", "PGSSLNEGOTIATION": "postgres"}}


ROWS_ALONE = ("-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1")


def rows(port: str, sql: str) -> list[str]:
    answer = subprocess.run(**beside("psql", port, *ROWS_ALONE, "-c", sql), stderr=subprocess.PIPE)
    if answer.returncode != 0:
        sys.exit(f"{sql}: {answer.stderr}")
    return answer.stdout.splitlines()


@contextlib.contextmanager
def nothing_pruned(port: str) -> Iterator[None]:
    """Keeps a snapshot for as long as that. Rows that nobody puts in order come as they lie, and that would depend on what was pruned when."""
    keeper = subprocess.Popen(**beside("psql", port, *ROWS_ALONE), stdin=subprocess.PIPE)
    keeper.stdin.write("begin isolation level repeatable read;\nselect 'kept';\n")
    keeper.stdin.flush()
    if keeper.stdout.readline() != "kept\n":
        sys.exit(f"no snapshot could be kept on port {port}")
    try:
        yield
    finally:
        keeper.communicate()


def left_behind(port: str) -> list[str]:
    """What is in the branch: its schema as SQL; of each table how many rows it has and, where they hold no times, which."""
    dump = subprocess.run(**beside("pg_dump", port, "--schema-only", "--exclude-schema=pggit"), check=True).stdout.splitlines()
    tables = rows(port, "select c.oid::regclass, bool_or(t.typcategory = 'D') from pg_class c join pg_attribute on attrelid = c.oid "
                  "join pg_type t on t.oid = atttypid where relkind = 'r' and relnamespace = 'public'::regnamespace and attnum > 0 "
                  "group by 1 order by 1::text")
    for name, times in (line.rsplit("|", 1) for line in tables):
        which = "'and times'" if times == "t" else "md5(string_agg(r::text, ',' order by r::text))"
        dump += rows(port, f"select '{name}', count(*), {which} from {name} r")
    # What guards a dump against psql's own commands is random.
    return [line for line in dump if not line.startswith(("\\restrict", "\\unrestrict"))]
