"""What a tap kept, as messages of the protocol, with what has to differ from run to run replaced.

Everything else must be the same byte for byte. Each replacement says why it has to be; each is counted.
"""

import datetime
import re
import struct
from collections import Counter
from dataclasses import dataclass

from tap import Connection

# scripts/clients.sh starts its servers with this as the next oid: no text and no length looks like it, and none of the server's own oids.
FIRST_OID = 0x7FEE0000
CANCEL = struct.pack("!I", 80877102)
SASL_FINAL = struct.pack("!I", 12)
XID = 28
MOMENT = rb"20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d(:?\d\d)?)?"
BRANCH = {b"app/feature/x", b"app%2Ffeature%2Fx", b"feature_x"}


@dataclass(frozen=True)
class Message:
    """`tag` is empty for the first packet of a client, which has none."""

    tag: str
    body: bytes

    def __str__(self) -> str:
        return f"{self.tag or 'start-up'} {self.body!r}"


FLUSH, SYNC = Message("H", b""), Message("S", b"")


def cut(raw: bytes, at: int = 0) -> list[Message]:
    """The messages in there; what is no whole message is one of its own at the end."""
    found = []
    while at < len(raw):
        length = struct.unpack_from("!I", raw, at + 1)[0] if at + 5 <= len(raw) else 0
        if length < 4 or at + 1 + length > len(raw):
            found.append(Message("not whole", raw[at:]))
            break
        found.append(Message(chr(raw[at]), raw[at + 5:at + 1 + length]))
        at += 1 + length
    return found


def cut_client(raw: bytes) -> list[Message]:
    """The same of what a client sends: its first packet has no tag."""
    length = struct.unpack_from("!I", raw)[0] if len(raw) >= 8 else len(raw)
    return [Message("", raw[4:length]), *cut(raw, length)]


@dataclass(frozen=True)
class Conversation:
    """One connection, replaced and ready to be compared."""

    road: tuple[str, ...]
    client: tuple[Message, ...]
    server: tuple[Message, ...]


class Run:
    """One run of a client: when it was, and what was replaced in what it said and heard: bytes by kind."""

    def __init__(self, began: float, ended: float) -> None:
        # A client may round to seconds.
        self.began, self.ended = began - 1, ended + 1
        self.replaced: Counter[str] = Counter()

    def conversation(self, connection: Connection) -> Conversation:
        replacing = Replacing(self)
        client = [replacing.client(message) for message in self.without_late_flush(cut_client(bytes(connection.client)))]
        server = [replacing.server(message) for message in cut(bytes(connection.server))]
        return Conversation(tuple(connection.road), tuple(client), tuple(server))

    def without_late_flush(self, messages: list[Message]) -> list[Message]:
        """psycopg sends a Flush behind the Sync that ends its pipeline, if not all answers have come by then. The server does nothing at it."""
        late = [message == FLUSH and before == SYNC for before, message in zip([None, *messages], messages)]
        if any(late):
            self.replaced["flush"] += 5 * sum(late)
        return [message for message, is_late in zip(messages, late) if not is_late]


class Replacing:
    """What was met in one connection, and what stands for it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.oids: dict[int, int] = {}
        self.nonce = b""
        self.prefix = b""
        # The statements that take how long something took.
        self.timed: set[bytes] = set()
        # What has to differ in the rows that follow, by the place of its column.
        self.columns: dict[int, str] = {}

    def counted(self, kind: str, was: bytes, becomes: bytes) -> bytes:
        if was != becomes:
            self.run.replaced[kind] += len(was)
        return becomes

    def client(self, message: Message) -> Message:
        tag, body = message.tag, message.body
        match tag:
            case "":
                body = self.startup(body)
            case "p":
                body = self.proof(body)
            case "P" | "B" | "D" | "C":
                body = self.values(self.statement(tag, self.took(tag, body)))
            case "Q":
                body = self.values(body)
        return Message(tag, body)

    def server(self, message: Message) -> Message:
        tag, body = message.tag, message.body
        match tag:
            case "K":
                # BackendKeyData: the process, and a random key; each as long as the other's.
                body = self.counted("key", body, bytes(len(body)))
            case "R":
                body = self.challenge(body)
            case "T":
                self.columns = telling_columns(body)
                body = self.values(body)
            case "D":
                body = self.values(self.row(body))
            case "C":
                self.columns = {}
            case "t" | "N" | "E" | "d":
                body = self.values(body)
        return Message(tag, body)

    def startup(self, body: bytes) -> bytes:
        """The branch has a name of its own before the proxy, and the server's without it. Go's clients send the parameters in any order."""
        code, fields = body[:4], body[4:].split(b"\0")
        if code == CANCEL:
            return code + self.counted("key", body[4:], bytes(len(body) - 4))
        parameters = sorted(zip(fields[:-2:2], fields[1:-2:2]))
        elsewhere = b"pggit.branch" in body
        said = [(name, self.counted("branch", value, b"the branch") if name == b"database" and (elsewhere or value in BRANCH) else value)
                for name, value in parameters]
        return code + b"\0".join([*(part for pair in said for part in pair), *fields[len(parameters) * 2:]])

    def proof(self, body: bytes) -> bytes:
        """SCRAM, from the client: its nonce (of sqlx's choice also its length), and the proof that depends on both nonces. The mechanism and what the
        login is bound to stay."""
        if first := re.match(rb"(SCRAM[^\0]*\0)(....)(.*,r=)(.*)$", body, re.S):
            self.nonce = first[4]
            if int.from_bytes(first[2]) == len(first[3] + first[4]):
                body = first[1] + first[3] + self.nonce
        body = re.sub(rb"(,p=)(.*)$", lambda found: found[1] + self.counted("nonce", found[2], b"?" * len(found[2])), body, flags=re.S)
        return self.nonces(body)

    def challenge(self, body: bytes) -> bytes:
        """SCRAM, from the server: its nonce behind the client's, and its signature. The salt and the number of hashes stay."""
        if body[:4] == SASL_FINAL:
            body = body[:6] + self.counted("nonce", body[6:], b"?" * len(body[6:]))
        return self.nonces(body)

    def nonces(self, body: bytes) -> bytes:
        """The client's nonce, and the server's behind it, which is as long as the other's."""
        if not self.nonce:
            return body
        return re.sub(rb"(r=)(" + re.escape(self.nonce) + rb")([^,]*)",
                      lambda found: found[1] + self.counted("nonce", found[2], b"nonce ") + self.counted("nonce", found[3], b"?" * len(found[3])), body)

    def statement(self, tag: str, body: bytes) -> bytes:
        """postgres.js names its statements by something random and a number, from 1."""
        if tag == "P" and not self.prefix and (named := re.match(rb"([0-9a-z]{8,14})1\0", body)):
            self.prefix = named[1]
        if not self.prefix:
            return body
        name = rb"(^|^S|\0)" + self.prefix + rb"(?=\d+\0)"
        return re.sub(name, lambda found: found[1] + self.counted("name", self.prefix, b"statement"), body)

    def took(self, tag: str, body: bytes) -> bytes:
        """sqlx notes how many nanoseconds a migration took, as the first parameter."""
        if tag == "P" and b"execution_time = $1" in body:
            self.timed.add(body[:body.index(b"\0")])
        bound = tag == "B" and re.match(rb"(\0([^\0]*)\0\0\x01\0\x01\0.\0\0\0\x08)(.{8})", body, re.S)
        if not bound or bound[2] not in self.timed:
            return body
        return bound[1] + self.counted("time", bound[3], b"a while") + body[bound.end():]

    def row(self, body: bytes) -> bytes:
        """The columns that have to differ, where they say anything."""
        if not self.columns:
            return body
        at, parts = 2, [body[:2]]
        for place in range(int.from_bytes(body[:2])):
            end = at + 4 + max(int.from_bytes(body[at:at + 4], signed=True), 0)
            value, kind = body[at:end], self.columns.get(place)
            parts.append(self.counted(kind, value, kind.encode()) if kind and value[4:] not in (b"", b"0") else value)
            at = end
        return b"".join([*parts, body[at:]])

    def values(self, body: bytes) -> bytes:
        return self.times(self.snapshots(self.known_oids(body)))

    def snapshots(self, body: bytes) -> bytes:
        """Names of exported snapshots, as pg_dump's workers share one: the server's numbers."""
        return re.sub(rb"\b[0-9A-F]{8}-[0-9A-F]{8}-1\b", lambda found: self.counted("snapshot", found[0], b"snapshot"), body)

    def known_oids(self, body: bytes) -> bytes:
        """Oids given since the server was started: the first one that a connection speaks of is 1, and so on. In either form they are as long as
        before, so that the lengths around them are compared."""
        def numbered(number: int) -> int | None:
            return self.oids.setdefault(number, len(self.oids) + 1) if FIRST_OID <= number < FIRST_OID + 0x10000 else None

        def text(found: re.Match) -> bytes:
            number = numbered(int(found[0]))
            return found[0] if number is None else self.counted("oid", found[0], b"oid %06d" % number)

        def binary(found: re.Match) -> bytes:
            return self.counted("oid", found[0], struct.pack("!HH", FIRST_OID >> 16, numbered(int.from_bytes(found[0]))))

        return re.sub(rb"\x7f\xee..", binary, re.sub(rb"(?<!\d)214\d{7}(?!\d)", text, body), flags=re.S)

    def times(self, body: bytes) -> bytes:
        """Times as text, of while it ran; others are what somebody wrote. Zeros at their end are not said, so how long they are differs, too."""
        def moment(found: re.Match) -> bytes:
            length, text = found["length"], found["text"]
            try:
                time = datetime.datetime.fromisoformat(text.decode())
            except ValueError:
                return found[0]
            time = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
            if not self.run.began <= time.timestamp() <= self.run.ended:
                return found[0]
            kept = b"" if int.from_bytes(length) == len(text) else length
            return kept + self.counted("time", text, b"now")

        return re.sub(rb"(?P<length>\0\0\0.|)(?P<text>" + MOMENT + rb")", moment, body, flags=re.S)


def telling_columns(body: bytes) -> dict[int, str]:
    """Of a RowDescription: numbers of transactions; and the stamp that Debian's 15 keeps of a table's columns, which is random."""
    at, found = 2, {}
    for place in range(int.from_bytes(body[:2])):
        if (name_ends := body.find(b"\0", at)) < 0:
            break
        if int.from_bytes(body[name_ends + 7:name_ends + 11]) == XID:
            found[place] = "xid"
        elif body[at:name_ends] == b"attversion":
            found[place] = "stamp"
        at = name_ends + 19
    return found
