"""Whether two runs of a client said and heard the same."""

from dataclasses import dataclass

from messages import Conversation, Message, Run
from tap import Connection


@dataclass
class Leg:
    """One run of a client: what a tap kept of it, and between which times."""

    connections: list[Connection]
    began: float
    ended: float


@dataclass
class Verdict:
    difference: str | None
    # How each connection began.
    roads: set[tuple[str, ...]]
    # How many bytes there were on both legs, and how many of them were replaced, by kind.
    bytes: int
    replaced: dict[str, int]

    def wrong(self, road: tuple[str, ...]) -> list[str]:
        found = [self.difference] if self.difference else []
        if self.roads != {road}:
            found.append(f"not the road {road}: {self.roads}")
        # The shortest conversations are a seventh login, whose nonces are replaced.
        if sum(self.replaced.values()) * 5 > self.bytes:
            found.append(f"too much was replaced: {self}")
        return found

    def __str__(self) -> str:
        return f"{', '.join(f'{count} {kind}' for kind, count in sorted(self.replaced.items()))} of {self.bytes} bytes"


def compare(direct: Leg, proxied: Leg) -> Verdict:
    sides = []
    replaced: dict[str, int] = {}
    for leg in (direct, proxied):
        run = Run(leg.began, leg.ended)
        sides.append([run.conversation(connection) for connection in leg.connections])
        for kind, count in run.replaced.items():
            replaced[kind] = replaced.get(kind, 0) + count
    size = sum(len(connection.client) + len(connection.server) for leg in (direct, proxied) for connection in leg.connections)
    roads = {conversation.road for side in sides for conversation in side}
    return Verdict(difference(*sides), roads, size, replaced)


def difference(direct: list[Conversation], proxied: list[Conversation]) -> str | None:
    """The first one. Connections that are open side by side come in any order."""
    left = list(proxied)
    unmatched = []
    for conversation in direct:
        if conversation in left:
            left.remove(conversation)
        else:
            unmatched.append(conversation)
    if not unmatched and not left:
        return None
    if len(direct) != len(proxied):
        return f"{len(direct)} connections directly, {len(proxied)} through the proxy"
    one, other = unmatched[0], left[0]
    if one.road != other.road:
        return f"directly {one.road}, through the proxy {other.road}"
    return first("the client says", one.client, other.client) or first("the client hears", one.server, other.server)


def first(what: str, direct: tuple[Message, ...], proxied: tuple[Message, ...]) -> str | None:
    for place in range(max(len(direct), len(proxied))):
        one, other = (side[place] if place < len(side) else "nothing" for side in (direct, proxied))
        if one != other:
            before = direct[place - 1] if place else "nothing"
            return (f"{what} (message {place}, behind {str(before)[:1200]})\n"
                    f"    directly          {str(one)[:2000]}\n    through the proxy {str(other)[:2000]}")
    return None
