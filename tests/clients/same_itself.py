#!/usr/bin/env python3
"""Whether a comparison would notice: one byte that is changed on the line, and one byte of what a tap kept, wherever it is.

scripts/clients.sh calls this before it runs the clients.
"""

import asyncio
import copy
import os
import sys

from legs import hold, road
from same import Leg, compare

CONVERSATION = """
set client_min_messages = notice;
create table talk (id int primary key, said text, at timestamptz default now());
insert into talk values (1, 'first'), (2, 'second');
select *, tableoid from talk order by id;
do $$ begin raise notice 'noticed'; end $$;
copy talk to stdout;
\\set ON_ERROR_STOP off
select 1 / 0;
\\d talk
drop table talk;
"""


EVERY = 3
# Not where the clients will be: nothing there may differ from what is behind the proxy.
ELSEWHERE = {"DATABASE": "postgres"}


def altered(direction: str, was: bytes, becomes: bytes):
    def alter(where: str, piece: bytes) -> bytes:
        if where != direction or was not in piece:
            return piece
        alter.hits += 1
        return piece.replace(was, becomes)

    alter.hits = 0
    return alter


ON_THE_LINE = [
    altered("server", b"first", b"First"),
    altered("server", b"noticed", b"noticeD"),
    altered("server", b"INSERT 0 2", b"INSERT 0 3"),
    altered("server", b"division by zero", b"division by zerO"),
    altered("server", b"integer_datetimes\0on", b"integer_datetimes\0oN"),
    # What the server is told is seen by what it answers.
    altered("client", b"'second'", b"'Second'"),
    altered("client", b"1 / 0;", b"1 / 1;"),
]


def talk(alter=None) -> Leg:
    command = ["bash", "-c", 'psql -X "host=$HOST port=$PORT user=postgres dbname=$DATABASE" <<< "$0"', CONVERSATION]
    return asyncio.run(hold(command, int(os.environ["DIRECT_PORT"]), ELSEWHERE, alter))[1]


def unnoticed(one: Leg, other: Leg) -> tuple[int, int, float]:
    """Of every third byte that was kept: how many those are, how many may become another one without a difference, and how many were replaced."""
    replaced = sum(compare(one, one).replaced.values()) / 2 / EVERY
    tried = missed = 0
    for direction in ("client", "server"):
        for place in range(0, len(getattr(other.connections[0], direction)), EVERY):
            changed = copy.deepcopy(other)
            getattr(changed.connections[0], direction)[place] ^= 1
            tried += 1
            missed += compare(one, changed).difference is None
    return tried, missed, replaced


def main() -> None:
    wrong = []
    one, other = talk(), talk()
    if verdict := compare(one, other).difference:
        wrong.append(f"the same twice differs: {verdict}")
    if not one.connections or any(connection.road != list(road()) for connection in one.connections):
        wrong.append(f"not this road: {[connection.road for connection in one.connections]}")
    for alter in ON_THE_LINE:
        verdict = compare(one, talk(alter)).difference
        if not alter.hits:
            wrong.append("nothing was changed on the line")
        elif verdict is None:
            wrong.append("a byte was changed on the line and nobody noticed")
    tried, missed, replaced = unnoticed(one, other)
    if missed > replaced:
        wrong.append(f"of {tried} bytes {missed} may change unnoticed, but only {replaced:.0f} were replaced")
    print(f"{'FAILED' if wrong else 'ok    '} the comparison itself: {len(ON_THE_LINE)} changes on the line; of {tried} bytes kept {missed} may "
          f"differ, where {replaced:.0f} are replaced")
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
