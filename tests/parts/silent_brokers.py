"""A broker that stops answering: it takes connections, and after an answer to the CONNECT, if any, reads nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

CONNACK = bytes([0x20, 3, 0, 0, 0])
"""MQTT 5, 3.2: accepted, no session, no properties."""


@contextlib.asynccontextmanager
async def silent_broker(answer: bytes = b"") -> AsyncIterator[int]:
    """Serve for the length of the block; yields the port."""
    held: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        if answer:
            await reader.read(1)
            writer.write(answer)
        # What comes now fills the buffers of both ends.
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # streams have read transports

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for writer in held:
            writer.transport.abort()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)
