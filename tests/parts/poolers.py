"""A pooler before PostgreSQL as far as LISTEN goes: it takes the statement and delivers no notification.

That is what PgBouncer does in transaction mode: a notification that arrives while no client has the connection is
dropped. Here the byte stream of the server loses its NotificationResponse messages; all else passes.
"""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Iterable

from hub.database import async_url

_NOTIFICATION, _READY, _ERROR = b"A", b"Z", b"E"
"""Types of NotificationResponse, ReadyForQuery and ErrorResponse in PostgreSQL's protocol, version 3."""

_FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
_ENDED = _ERROR + struct.pack("!i", 4 + len(_FIELDS)) + _FIELDS


async def _downward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, last: int) -> None:
    """Pass on what the server says, but for notifications; with its answer number ``last`` it ends."""
    answered = 0
    while True:
        kind = await reader.readexactly(1)
        length = await reader.readexactly(4)
        body = await reader.readexactly(struct.unpack("!i", length)[0] - 4)
        answered += kind == _READY
        ends = answered == last
        if kind != _NOTIFICATION:
            writer.write(kind + length + body + (_ENDED if ends else b""))
            await writer.drain()
        if ends:
            return


@contextlib.asynccontextmanager
async def deaf_pooler(url: str, *, ending: Iterable[int] = ()) -> AsyncIterator[str]:
    """Return the URL of the database past such a pooler.

    ``ending``: with which answer of the server (1 is what follows the login) an administrator ends the first
    connection, the second, and so on; those that come later live.
    """
    answers = iter(ending)
    target = async_url(url)
    socket = f"{target.query['host']}/.s.PGSQL.5432"
    passing: set[asyncio.Task[None]] = set()

    async def upward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_unix_connection(socket)
        both = [
            asyncio.create_task(upward(client, to_server)),
            asyncio.create_task(_downward(server, to_client, next(answers, -1))),
        ]
        passing.update(both)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        for writer in (to_client, to_server):
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/{target.database}?ssl=disable"
    finally:
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        listener.close()
        await listener.wait_closed()
