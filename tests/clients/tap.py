"""A tap on the line: it stands between a client and what it connects to, passes every byte on, and keeps what was said.

TLS ends at the tap and begins anew behind it, as the client asked for it: by SSLRequest or at once. The tap has the certificate of what it stands
before, so that channel binding holds: that binds to the certificate, which is the same on both sides of the tap.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104


@dataclass
class Connection:
    """What one connection carried, in each direction. Requests for encryption and their answers stand in `road`."""

    road: list[str] = field(default_factory=list)
    client: bytearray = field(default_factory=bytearray)
    server: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class Certificate:
    """That of the target, with its key."""

    certificate: str
    key: str

    def before_client(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        context.set_alpn_protocols(["postgresql"])
        return context

    def before_target(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.certificate)
        context.set_alpn_protocols(["postgresql"])
        return context


class Broken(Exception):
    """The tap did not do its work."""


class Tap:
    """Listens on `port`; each connection goes on to `target`. `alter` gets every piece on its way, and its direction."""

    def __init__(self, target: tuple[str, int], certificate: Certificate, alter: Callable[[str, bytes], bytes] | None = None) -> None:
        self.target = target
        self.certificate = certificate
        self.alter = alter
        self.connections: list[Connection] = []
        self.relays: set[asyncio.Task] = set()
        self.broken: list[BaseException] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]

    async def listen(self) -> None:
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(self.listener)
            connection = Connection()
            self.connections.append(connection)
            relay = asyncio.create_task(self.relay(client, connection))
            self.relays.add(relay)
            relay.add_done_callback(self.ended)

    def ended(self, relay: asyncio.Task) -> None:
        self.relays.discard(relay)
        if not relay.cancelled() and relay.exception():
            self.broken.append(relay.exception())

    async def relay(self, client: socket.socket, connection: Connection) -> None:
        direct = await first_byte(client) == b"\x16"
        client_reader, client_writer = await adopt(client, self.certificate.before_client() if direct else None)
        target = {"ssl": self.certificate.before_target(), "server_hostname": self.target[0]} if direct else {}
        try:
            server_reader, server_writer = await asyncio.open_connection(*self.target, **target)
        except (OSError, ssl.SSLError) as error:
            connection.road.append(f"no way to the target: {error}")
            client_writer.close()
            return
        if direct:
            connection.road.append(f"TLS at once: {alpn(client_writer)}, {alpn(server_writer)}")
        else:
            await self.agree(connection, client_reader, client_writer, server_reader, server_writer)
        back = asyncio.create_task(self.pass_on("server", server_reader, client_writer, connection))
        await self.pass_on("client", client_reader, server_writer, connection)
        if server_writer.can_write_eof():
            with contextlib.suppress(OSError):
                server_writer.write_eof()
        elif not connection.client.endswith(b"X\0\0\0\x04"):
            # TLS has no half-close here. After Terminate the server closes by itself, and what it still says is waited for.
            server_writer.close()
        await back
        server_writer.close()

    async def agree(self, connection: Connection, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter,
                    server_reader: asyncio.StreamReader, server_writer: asyncio.StreamWriter) -> None:
        """Passes on requests for encryption and their answers, until there is TLS or a start-up packet."""
        while True:
            try:
                head = await client_reader.readexactly(8)
            except asyncio.IncompleteReadError as early:
                connection.client += early.partial
                return
            code = struct.unpack("!II", head)[1]
            server_writer.write(head)
            if code not in (SSL_REQUEST, GSS_REQUEST):
                connection.client += head
                return
            answer = await server_reader.read(1)
            connection.road.append(f"{'SSLRequest' if code == SSL_REQUEST else 'GSSENCRequest'}: {answer!r}")
            client_writer.write(answer)
            if code == SSL_REQUEST and answer == b"S":
                # The client's first: it begins as soon as it has the answer.
                await client_writer.start_tls(self.certificate.before_client())
                await server_writer.start_tls(self.certificate.before_target(), server_hostname=self.target[0])
                return

    async def pass_on(self, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection) -> None:
        kept = getattr(connection, direction)
        # Whoever has gone is no reason not to hear the other one out.
        with contextlib.suppress(OSError, ssl.SSLError):
            while piece := await reader.read(1 << 16):
                kept += piece
                with contextlib.suppress(OSError, ssl.SSLError):
                    writer.write(self.alter(direction, piece) if self.alter else piece)
                    await writer.drain()
        if direction == "server":
            writer.close()


@contextlib.asynccontextmanager
async def tapped(tap: Tap) -> AsyncIterator[Tap]:
    """The tap at work. At the end every connection has been heard out."""
    listening = asyncio.create_task(tap.listen())
    try:
        yield tap
        if tap.relays:
            await asyncio.wait(tap.relays, timeout=30)
    finally:
        for task in (listening, *tap.relays):
            task.cancel()
        left = len(tap.relays)
        await asyncio.gather(listening, *tap.relays, return_exceptions=True)
        tap.listener.close()
    if left or tap.broken:
        raise Broken(f"had a broken tap: {left} connections did not end; {tap.broken}")


async def first_byte(client: socket.socket) -> bytes:
    """The first byte that the client sends, left where it is."""
    loop = asyncio.get_running_loop()
    client.setblocking(False)
    readable = loop.create_future()
    loop.add_reader(client, lambda: readable.done() or readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(client)
    with contextlib.suppress(OSError):
        return client.recv(1, socket.MSG_PEEK)
    return b""


async def adopt(client: socket.socket, context: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Streams on an accepted socket."""
    loop = asyncio.get_running_loop()
    streams = loop.create_future()
    reader = asyncio.StreamReader()
    await loop.connect_accepted_socket(
        lambda: asyncio.StreamReaderProtocol(reader, lambda *pair: streams.set_result(pair)), client, ssl=context)
    return await streams


def alpn(writer: asyncio.StreamWriter) -> str:
    return f"ALPN {writer.get_extra_info('ssl_object').selected_alpn_protocol()}"
