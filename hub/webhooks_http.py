"""One POST to a webhook's receiver: bounded in time and bytes, to no place that the operator would not want.

Rules:
- Anybody who may edit a deadline chooses the URL, and the hub stands inside the operator's network. So unless its host
  is one of those that the operator has named (``--webhook-host``), only https is spoken, and only to addresses of the
  public internet: every address of the name has to be one, and the connection is made to the very address that was
  judged, so that a name which resolves otherwise the next time gains nothing.
- Nothing of the answer is used but its status; redirects are not followed. All of it together has ``LIMIT_SECONDS``.
- What went wrong is said without the URL, whose path may be a secret of the receiver's.
"""

import asyncio
import contextlib
import functools
import ipaddress
import socket
import ssl
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import h11

LIMIT_SECONDS = 10.0
"""Real seconds for everything: the name, the connection, sending, and the head of the answer."""

MOST_URL = 500
_HEAD_BYTES = 16 * 1024
_CLOSE_SECONDS = 0.5
_CONNECT_SECONDS = 2.0
_MOST_ADDRESSES = 4
_MOST_INTERIM = 10
_PORTS = {"http": 80, "https": 443}
_EMBEDDING = [ipaddress.ip_network(one) for one in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")]
"""IPv6 addresses that are IPv4 ones behind a translator or a tunnel."""


class CallError(RuntimeError):
    """The receiver was not reached, or is not to be; the text says why."""


class Target(NamedTuple):
    """A URL, taken apart."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What stands in the header ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def read_target(url: str, hosts: Collection[str]) -> Target:
    """Take a webhook's URL apart; ``hosts`` are those that the operator has named.

    Raises:
        ValueError: when it is no URL to send to.
    """
    if len(url) > MOST_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"must be at most {MOST_URL} printable ASCII characters without spaces")
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise ValueError("has a port that is no port") from None
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme not in _PORTS or not host:
        raise ValueError("must begin with https:// or http://, and a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or password: receivers check the signature")
    if parts.fragment:
        raise ValueError("must not have a fragment (#...)")
    target = Target(
        parts.scheme,
        host,
        port or _PORTS[parts.scheme],
        (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )
    if target.host not in hosts:
        if target.scheme == "http":
            raise ValueError(f"must be https, unless the hub is started with --webhook-host {host}")
        with contextlib.suppress(CallError):
            _judge(target, _literal(host), hosts)
            return target
        raise ValueError(f"is no address of the public internet; the hub may be started with --webhook-host {host}")
    return target


def _literal(host: str) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return []


def _judge(target: Target, addresses: Collection[str], hosts: Collection[str]) -> None:
    """Refuse what must not be reached.

    Raises:
        CallError: naming the host.
    """
    if target.host in hosts:
        return
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        embedded = any(address in network for network in _EMBEDDING)
        if not address.is_global or address.is_multicast or embedded:
            raise CallError(f"{target.host} is no host of the public internet, and no --webhook-host")


async def post(target: Target, headers: Mapping[str, str], body: bytes, hosts: Collection[str]) -> int:
    """Send a body; return the status of the answer.

    Raises:
        CallError: when no answer came within ``LIMIT_SECONDS``, with what happened instead.
    """
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await _post(target, headers, body, hosts)
    except TimeoutError:
        raise CallError(f"{target.host} did not answer within {LIMIT_SECONDS:g} s") from None
    except ssl.SSLCertVerificationError as error:
        raise CallError(f"{target.host}: its certificate is not good: {error.verify_message}") from None
    except (OSError, h11.RemoteProtocolError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise CallError(f"{target.host}: {type(error).__name__}: {said}") from None


async def _post(target: Target, headers: Mapping[str, str], body: bytes, hosts: Collection[str]) -> int:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise CallError(f"{target.host} is no name that can be resolved") from None
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    _judge(target, addresses, hosts)
    reader, writer = await _connect(target, addresses[:_MOST_ADDRESSES])
    try:
        return await _talk(reader, writer, target, headers, body)
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await writer.wait_closed()


async def _connect(target: Target, addresses: Sequence[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first address that takes us: a machine without IPv6 is given IPv6 addresses, too."""
    secure = target.scheme == "https"
    for address in addresses[:-1]:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CONNECT_SECONDS):
                return await _open(target, address, secure=secure)
    return await _open(target, addresses[-1], secure=secure)


async def _open(target: Target, address: str, *, secure: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        address,
        target.port,
        ssl=_tls() if secure else None,
        server_hostname=target.host if secure else None,
        limit=_HEAD_BYTES,
    )


async def _talk(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    target: Target,
    headers: Mapping[str, str],
    body: bytes,
) -> int:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
    fields = {"Host": target.authority, "Content-Length": str(len(body)), "Connection": "close", **headers}
    request = h11.Request(method="POST", target=target.path, headers=list(fields.items()))
    for event in (request, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    await writer.drain()
    for _ in range(_MOST_INTERIM):
        answer = connection.next_event()
        while answer is h11.NEED_DATA:
            connection.receive_data(await reader.read(_HEAD_BYTES))
            answer = connection.next_event()
        if isinstance(answer, h11.Response):
            return answer.status_code
        if not isinstance(answer, h11.InformationalResponse):
            break
    raise CallError(f"{target.host} closed the connection without an answer")


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
