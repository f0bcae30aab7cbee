"""Webhooks against real HTTP receivers that fail, hang, redirect, babble and die; and a relay killed in between."""

import asyncio
import base64
import contextlib
import datetime as dt
import decimal
import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models, webhooks_http
from hub.database import reading, writing
from hub.secrets_box import public_half, seal, unseal
from hub.webhooks import (
    CANCELLED,
    DELIVERED,
    GAVE_UP,
    MOST_TRIES,
    SENDING,
    WAITING,
    Sender,
    pause_after,
    secret_purpose,
)
from hub.webhooks_http import CallError, post, read_target
from hub.webhooks_signed import headers_of, key_of
from protocol.envelopes import SigningKey
from tests.parts.databases import database_url, engine
from tests.parts.rest import Rest, rest

__all__ = ["database_url", "engine", "rest"]

HOSTS = ("127.0.0.1",)
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
KEY = SigningKey(bytes(range(32)))

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """A receiver that answers each request as the next of its answers says, and the last one for ever."""

    def __init__(self, *answers: bytes | Answer) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.port = 0
        self._serving = set[asyncio.Task[None]]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.ensure_future(self._answer(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await serving
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def leave(self) -> None:
        """Let go of whoever still hangs, with the connection closed."""
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.sleep(0.01)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = [line.partition(": ") for line in head[1:] if line]
            headers = {name.lower(): value for name, _, value in fields}
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append(({"": head[0]} | headers, body))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, bytes):
                writer.write(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
            else:
                await answer(reader, writer)


@asynccontextmanager
async def receiver(*answers: bytes | Answer) -> AsyncIterator[Receiver]:
    """Run a receiver on a free port."""
    one = Receiver(*answers)
    async with await asyncio.start_server(one.serve, "127.0.0.1", 0) as server:
        one.port = server.sockets[0].getsockname()[1]
        try:
            yield one
        finally:
            await one.leave()


async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Say nothing until the other one goes."""
    await reader.read()


async def dribble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say a little for ever, so that no single read takes long."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)


async def close(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Go without an answer."""


async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say what is not HTTP."""
    writer.write(b"\x00\xff" * 40_000)
    await writer.drain()


class Hub:
    """A deadline with a webhook, and relays that send its events."""

    def __init__(self, engine: AsyncEngine, rest: Rest) -> None:
        self.engine, self.rest = engine, rest
        self.deadline = uuid.uuid4()

    @property
    def sender(self) -> Sender:
        """Another relay, or the same after a restart."""
        return Sender(self.engine, self.rest.clock, lambda sealed, purpose: unseal(KEY, sealed, purpose), HOSTS)

    async def point_to(self, url: str | None, key: SigningKey = KEY) -> None:
        secret = seal(public_half(key), SECRET.encode(), secret_purpose(self.deadline))
        async with writing(self.engine) as session:
            await session.execute(sa.update(models.Deadline).values(webhook_url=url, webhook_secret=secret))

    async def event(self) -> uuid.UUID:
        made = await self.rest.post(f"/v1/deadlines/{self.deadline}/notifications")
        return uuid.UUID(made["id"])

    async def row(self) -> models.Notification:
        async with reading(self.engine) as session:
            return (await session.scalars(sa.select(models.Notification))).one()

    def pass_pause(self) -> None:
        self.rest.clock.advance(seconds=3601)


@pytest.fixture
async def hub(engine: AsyncEngine, rest: Rest) -> Hub:
    made = Hub(engine, rest)
    owner = await rest.post("/v1/organizations", name="Stadtwerke")
    now = rest.clock.now()
    async with writing(engine) as session:
        session.add(
            models.Deadline(
                id=made.deadline, organization=uuid.UUID(owner["id"]), name="gas day", interval="gas_day",
                within_seconds=3600, target_percent=decimal.Decimal(99), created_at=now, updated_at=now,
            )
        )  # fmt: skip
    return made


async def test_an_event_arrives_once_signed_and_whole(hub: Hub) -> None:
    async with receiver(b"204 No Content") as one:
        await hub.point_to(f"http://127.0.0.1:{one.port}/hook?x=1")
        event = await hub.event()
        assert await hub.sender.turn() == 1
        assert await hub.sender.turn() == 0
    ((headers, body),) = one.requests
    assert headers[""] == "POST /hook?x=1 HTTP/1.1"
    assert headers["host"] == f"127.0.0.1:{one.port}"
    assert (headers["webhook-id"], headers["content-type"]) == (str(event), "application/json")
    assert json.loads(body) | {"timestamp": ""} == {
        "id": str(event), "type": "deadline.test", "timestamp": "", "number": 0, "period": None,
        "deadline": {
            "id": str(hub.deadline), "name": "gas day", "interval": "gas_day",
            "organization": json.loads(body)["deadline"]["organization"],
        },
    }  # fmt: skip
    signed = f"{event}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(bytes(range(32)), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert int(headers["webhook-timestamp"]) == int(hub.rest.clock.now().timestamp())
    row = await hub.row()
    assert (row.state, row.tries, row.last_status, row.last_error) == (DELIVERED, 1, 204, "")


async def test_what_fails_is_tried_again_less_and_less_often_as_the_same_event(hub: Hub) -> None:
    async with receiver(b"500 Oops", b"302 Found\r\nLocation: /elsewhere", close, babble, b"200 OK") as one:
        await hub.point_to(f"http://127.0.0.1:{one.port}/")
        await hub.event()
        begun, seen = hub.rest.clock.now(), []
        for _ in range(5):
            await hub.sender.turn()
            row = await hub.row()
            seen.append((row.state, row.last_status, row.next_at - hub.rest.clock.now()))
            assert await hub.sender.turn() == 0, "not before its time"
            hub.pass_pause()
    assert [(state, status) for state, status, _ in seen] == [
        (WAITING, 500), (WAITING, 302), (WAITING, None), (WAITING, None), (DELIVERED, 200)
    ]  # fmt: skip
    pauses = [pause.total_seconds() for _, _, pause in seen[:4]]
    assert all(24 * 2**number <= pause <= 30 * 2**number for number, pause in enumerate(pauses)), pauses
    assert {headers[""] for headers, _ in one.requests} == {"POST / HTTP/1.1"}, "redirects are not followed"
    assert len({(headers["webhook-id"], body) for headers, body in one.requests}) == 1
    assert len({headers["webhook-signature"] for headers, _ in one.requests}) == 5
    assert (await hub.row()).created_at == begun


async def test_who_hangs_or_dribbles_is_left_in_time(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks_http, "LIMIT_SECONDS", 0.3)
    async with receiver(hang, dribble) as one:
        await hub.point_to(f"http://127.0.0.1:{one.port}/")
        await hub.event()
        for _ in range(2):
            async with asyncio.timeout(5):
                await hub.sender.turn()
            row = await hub.row()
            assert (row.state, row.last_status) == (WAITING, None)
            assert "did not answer within 0.3 s" in row.last_error
            hub.pass_pause()


async def test_it_ends_and_can_be_sent_again_by_hand(hub: Hub) -> None:
    async with receiver(b"503 Later") as one:
        await hub.point_to(f"http://127.0.0.1:{one.port}/")
        event = await hub.event()
        path = f"/v1/deadlines/{hub.deadline}/notifications"
        for _ in range(MOST_TRIES):
            assert (await hub.row()).ended_at is None
            await hub.rest.call("POST", f"{path}/{event}/retry", {}, 409)
            assert await hub.sender.turn() == 1
            hub.pass_pause()
        assert await hub.sender.turn() == 0
        (shown,) = (await hub.rest.get(f"{path}?state=gave_up"))["results"]
        assert (shown["tries"], shown["last_status"], shown["next_at"]) == (MOST_TRIES, 503, None)
        await hub.rest.call("POST", f"{path}/{event}/retry", {}, 200)
        one.answers = [b"200 OK"]
        assert await hub.sender.turn() == 1
    assert (await hub.row()).state == DELIVERED
    assert {headers["webhook-id"] for headers, _ in one.requests} == {str(event)}
    assert (await hub.rest.get(f"{path}?state=gave_up"))["count"] == 0


async def test_who_wants_no_more_of_it_gets_no_more(hub: Hub) -> None:
    async with receiver(b"410 Gone") as one:
        await hub.point_to(f"http://127.0.0.1:{one.port}/")
        await hub.event()
        await hub.sender.turn()
        assert (await hub.row()).state == GAVE_UP
    await hub.point_to(None)
    async with writing(hub.engine) as session:
        await session.execute(sa.update(models.Notification).values(state=WAITING, ended_at=None))
    hub.pass_pause()
    assert await hub.sender.turn() == 0
    assert (await hub.row()).state == CANCELLED


async def test_a_relay_that_is_killed_while_it_sends_loses_nothing(hub: Hub) -> None:
    async with receiver(hang, b"200 OK") as one:
        await hub.point_to(f"http://127.0.0.1:{one.port}/")
        event = await hub.event()
        sending = asyncio.create_task(hub.sender.turn())
        while not one.requests:  # noqa: ASYNC110 - the receiver has no event of its own
            await asyncio.sleep(0.01)
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        assert (await hub.row()).state == SENDING
        assert await hub.sender.turn() == 0, "somebody may still be at it"
        hub.rest.clock.advance(seconds=31)
        assert await hub.sender.turn() == 1
    row = await hub.row()
    assert (row.state, row.tries) == (DELIVERED, 2)
    assert [headers["webhook-id"] for headers, _ in one.requests] == [str(event)] * 2


async def test_of_many_relays_one_sends_an_event(hub: Hub) -> None:
    async with receiver(b"200 OK") as one:
        await hub.point_to(f"http://127.0.0.1:{one.port}/")
        events = {str(await hub.event()) for _ in range(25)}
        while sum(await asyncio.gather(*(hub.sender.turn() for _ in range(4)))):
            pass
    assert sorted(headers["webhook-id"] for headers, _ in one.requests) == sorted(events)


async def test_what_a_slow_relay_finds_out_changes_nothing_that_another_one_did(hub: Hub) -> None:
    answered = asyncio.Event()

    async def wait(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answered.wait()
        writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with receiver(wait, b"200 OK") as one:
        await hub.point_to(f"http://127.0.0.1:{one.port}/")
        await hub.event()
        slow = asyncio.create_task(hub.sender.turn())
        while not one.requests:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        hub.rest.clock.advance(seconds=31)
        await hub.sender.turn()
        answered.set()
        await slow
    row = await hub.row()
    assert (row.state, row.tries, row.last_status) == (DELIVERED, 2, 200)


async def test_a_secret_of_another_hub_key_is_said_and_never_shown(hub: Hub) -> None:
    await hub.point_to("http://127.0.0.1:9/", SigningKey.generate())
    await hub.event()
    await hub.sender.turn()
    row = await hub.row()
    assert (row.state, row.last_status) == (WAITING, None)
    assert "give it again" in row.last_error
    assert SECRET not in str(await hub.rest.get(f"/v1/deadlines/{hub.deadline}/notifications"))


async def test_nobody_there_is_an_error_like_others(hub: Hub) -> None:
    async with receiver(b"200 OK") as one:
        pass
    await hub.point_to(f"http://127.0.0.1:{one.port}/secret-path")
    await hub.event()
    await hub.sender.turn()
    row = await hub.row()
    assert row.state == WAITING
    assert "127.0.0.1: ConnectionRefusedError" in row.last_error
    assert "secret-path" not in row.last_error


async def test_the_addresses_of_a_name_are_judged_when_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    target = read_target("https://receiver.example/", ())
    loop = asyncio.get_running_loop()
    for address in ("10.1.2.3", "127.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:192.168.1.1", "100.64.0.1"):

        async def resolve(*_args: object, address: str = address, **_more: object) -> list[object]:
            await asyncio.sleep(0)
            # A good address before it does not help: it may be the other one the next time.
            return [(0, 0, 0, "", ("93.184.216.34", 443)), (0, 0, 0, "", (address, 443))]

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        with pytest.raises(CallError, match="no host of the public internet"):
            await post(target, {}, b"", ())


async def test_interim_answers_are_passed_over_and_do_not_go_on_for_ever() -> None:
    def interim(count: int) -> Answer:
        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * count + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

        return answer

    async with receiver(interim(2), interim(50)) as one:
        target = read_target(f"http://127.0.0.1:{one.port}/", HOSTS)
        assert await post(target, {}, b"{}", HOSTS) == 200
        with pytest.raises(CallError):
            await post(target, {}, b"{}", HOSTS)


def test_the_signature_is_over_id_time_and_body() -> None:
    headers = headers_of(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        uuid.UUID("00000000-0000-4000-8000-000000000000"),
        dt.datetime.fromtimestamp(1614265330, dt.UTC),
        b'{"test": 2432232314}',
    )
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = b'00000000-0000-4000-8000-000000000000.1614265330.{"test": 2432232314}'
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize("secret", ["", "whsec_", "secret", SECRET.removeprefix("whsec_"), SECRET + "!", "whsec_YQ=="])
def test_a_secret_is_whsec_and_enough_bytes(secret: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 random bytes") as caught:
        key_of(secret)
    assert secret in {"", "whsec_", "secret"} or secret not in str(caught.value)


def test_pauses_double_up_to_an_hour() -> None:
    assert dt.timedelta(minutes=48) <= pause_after(30) <= dt.timedelta(hours=1)
    total = sum((pause_after(tries) for tries in range(1, MOST_TRIES)), dt.timedelta())
    assert dt.timedelta(hours=4) < total < dt.timedelta(hours=6)
