"""Keys of meters that push come with the plan of the gateway that receives them, sealed for it and nobody else."""

import dataclasses
import pathlib
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import key_sealing, plans
from hub.audit import Author
from hub.database import reading as looking
from hub.database import writing
from hub.key_sealing import Sealer
from hub.lifesigns import note_life_signs
from hub.models import Gateway, MeterDevice, MeterSecurityKeys, SealedMeterKeys
from hub.sealed_keys import MOST_TOLD
from hub.secrets_box import public_half, seal
from hub.secrets_ring import Ring, note_ring
from hub.secrets_rotation import rotate
from hub.security_keys import purpose_of
from hub.signs_waiting import LifeSign
from protocol import reports
from protocol.envelopes import SigningKey, fingerprint
from protocol.meter_keys import SEALED_BYTES, MeterKeys, gateway_sealing_key, open_keys
from protocol.plans import PushMeter, read_plan
from protocol.seals import UnsealableError
from tests.parts.databases import engine, url_of_walks
from tests.parts.estates import new_meter
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

PATH = "/v1/metering/meter-security-keys"
UNICAST, AUTHENTICATION = "00112233445566778899AABBCCDDEEFF", "d0d1d2d3d4d5d6d7d8d9dadbdcdddedf"
KEYS = MeterKeys(bytes.fromhex(UNICAST), bytes.fromhex(AUTHENTICATION))


@dataclasses.dataclass
class Station:
    """One gateway that receives one DLMS meter, and the relay that seals for it."""

    rest: Rest
    engine: AsyncEngine
    fleet: Fleet
    ring: Ring
    receiver: dict[str, Any]
    meter: uuid.UUID
    key: SigningKey = dataclasses.field(default_factory=SigningKey.generate)
    session: int = 0

    async def says(self, key: SigningKey | None = None, sealing: bytes | None = None) -> None:
        """Hear the gateway's life sign, with its sealing key."""
        self.session += 1
        key = key or self.key
        sign = reports.Online(
            "gw-utility",
            online=True,
            session=self.session,
            store=b"1" * 16,
            software="test",
            at=self.rest.clock.now(),
            sealing_key=gateway_sealing_key(key).public if sealing is None else sealing,
        )
        await note_life_signs(self.engine, [LifeSign(sign, key.public)], self.rest.clock.now())

    async def seals(self) -> None:
        """Have a relay look once."""
        await Sealer(self.engine, self.rest.clock, self.ring.unseal).turn()

    async def gives(self, **keys: str) -> dict[str, Any]:
        """Give the hub keys of the meter."""
        given: dict[str, Any] = await self.rest.post(PATH, meter=str(self.meter), **keys)
        return given

    async def gives_keys(self) -> dict[str, Any]:
        """Give the hub what the meter ciphers with, and what is no receiver's affair."""
        return await self.gives(
            dlms_global_unicast_encryption_key=UNICAST,
            dlms_global_authentication_key=AUTHENTICATION,
            dlms_master_key="f" * 32,
            iec62056_21_password="00000042",  # noqa: S106 - a test's password
        )

    async def planned(self) -> tuple[int, bytes, PushMeter]:
        """Return the plan's revision, its bytes, and what it says of the meter."""
        async with looking(self.engine) as session:
            rendered = await plans.render(session, uuid.UUID(self.fleet.gateway))
        assert rendered is not None
        (receiver,) = read_plan(rendered.body).receivers.values()
        return rendered.revision, rendered.body, receiver.meters[0]

    async def opened(self) -> MeterKeys:
        """Return the keys that the gateway gets."""
        _, _, meter = await self.planned()
        return open_keys(gateway_sealing_key(self.key), meter.keys, "gw-utility", self.meter)

    async def missing(self) -> list[str]:
        """Return what the hub says that the gateway lacks."""
        gateway = await self.rest.get(f"/v1/gateways/{self.fleet.gateway}")
        assert {one["item"] for one in gateway["problems"]} <= {self.receiver["id"]}
        return [one["text"].partition(": ")[2] for one in gateway["problems"]]


@pytest.fixture
async def station(rest: Rest, engine: AsyncEngine, tmp_path: pathlib.Path) -> Station:
    """Return a station."""
    fleet = await create_fleet(rest)
    ring = Ring(SigningKey(bytes(32)), tmp_path / "hub.key.secrets")
    async with writing(engine) as session:
        await note_ring(session, ring)
    meter = await rest.post(
        "/v1/metering/meter-devices",
        organization=fleet.organization,
        name="Feeder 2",
        protocol="iec62056-21",
        type=fleet.type,
        dlms_system_title="4D47530000000001",
    )
    receiver = await rest.post(
        "/v1/receivers",
        organization=fleet.organization,
        gateway=fleet.gateway,
        name="dlms",
        receiver="dlms_push",
        endpoint="udp://0.0.0.0:4059",
        meter_devices=[meter["id"]],
    )
    return Station(rest, engine, fleet, ring, receiver, uuid.UUID(meter["id"]))


async def test_keys_come_with_the_plan_and_what_is_missing_is_said(station: Station) -> None:
    begun, _, meter = await station.planned()
    assert meter.keys == b""
    assert await station.missing() == [
        "the keys of Feeder 2 are not known: POST /v1/metering/meter-security-keys takes them"
    ]
    await station.gives_keys()
    await station.seals()
    assert (await station.planned())[0] == begun
    assert await station.missing() == [
        "the keys of Feeder 2 wait for the gateway's sealing key, which its agent says when it runs this plan"
    ]
    await station.says()
    gateway = await station.rest.get(f"/v1/gateways/{station.fleet.gateway}")
    assert gateway["sealing_key_fingerprint"] == fingerprint(gateway_sealing_key(station.key).public)
    assert await station.missing() == ["the keys of Feeder 2 wait for a relay that seals them"]
    await station.seals()
    revision, body, meter = await station.planned()
    assert revision == begun + 1
    assert await station.missing() == []
    # Neither a master key nor a password leaves the hub.
    assert await station.opened() == KEYS
    assert not any(key in body + meter.keys for key in KEYS.by_kind().values())
    with pytest.raises(UnsealableError):
        open_keys(gateway_sealing_key(SigningKey.generate()), meter.keys, "gw-utility", station.meter)
    # Sealed once: neither a relay that looks again, nor a life sign, nor another edit makes another plan of it.
    await station.says()
    await station.seals()
    await station.says(sealing=b"")
    await station.seals()
    await station.rest.patch(f"/v1/receivers/{station.receiver['id']}", receiver_kwargs={"security": "encrypted"})
    assert (await station.planned())[0] == revision + 1
    assert (await station.planned())[2] == meter


async def test_changed_keys_are_sealed_anew_and_deleted_ones_leave_the_plan(station: Station) -> None:
    await station.gives_keys()
    await station.says()
    await station.seals()
    revision, _, before = await station.planned()
    given = await station.gives(dlms_dedicated_key="ab" * 32)
    # Until a relay has sealed them the plan has the old ones.
    assert await station.missing() == ["the keys of Feeder 2 wait for a relay that seals them"]
    assert (await station.planned())[::2] == (revision, before)
    await station.seals()
    assert (await station.planned())[0] == revision + 1
    assert await station.opened() == MeterKeys(b"", dedicated=b"\xab" * 32)
    await station.gives(iec62056_21_password="1")  # noqa: S106 - a test's password
    assert (await station.planned())[2].keys == b""
    assert (await station.missing())[0].startswith("the keys of Feeder 2 are not known")
    await station.gives_keys()
    await station.seals()
    assert await station.opened() == KEYS
    revision = (await station.planned())[0]
    await station.rest.call("DELETE", f"{PATH}/{given['id']}", status=204)
    assert (await station.planned())[0] == revision + 1
    assert (await station.planned())[2].keys == b""


async def test_a_meter_that_leaves_takes_its_keys_and_needs_them_where_it_comes(station: Station) -> None:
    await station.gives_keys()
    await station.says()
    await station.seals()
    path = f"/v1/receivers/{station.receiver['id']}"
    await station.rest.patch(path, meter_devices=[])
    await station.gives(dlms_global_unicast_encryption_key="ee" * 16)
    await station.rest.patch(path, meter_devices=[str(station.meter)])
    await station.seals()
    assert await station.opened() == MeterKeys(b"\xee" * 16)
    # A receiver that needs none gets none.
    await station.rest.patch(path, receiver="iec62056_push", endpoint="listen://0.0.0.0:5000", receiver_kwargs={})
    assert (await station.planned())[2].keys == b""
    assert await station.missing() == []


async def test_another_machine_gets_keys_of_its_own_and_the_old_one_none(station: Station) -> None:
    await station.gives_keys()
    await station.says()
    await station.seals()
    old = (await station.planned())[2].keys
    stranger = SigningKey.generate()
    await station.says(stranger)
    await station.seals()
    assert (await station.planned())[2].keys == old
    answer = await station.rest.call("POST", f"/v1/gateways/{station.fleet.gateway}/forget-key")
    assert (answer["key_fingerprint"], answer["sealing_key_fingerprint"]) == (None, None)
    revision, _, meter = await station.planned()
    assert (meter.keys, revision) == (b"", answer["desired_revision"])
    async with looking(station.engine) as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(SealedMeterKeys)) == 0
    station.key = stranger
    await station.says()
    await station.seals()
    assert await station.opened() == KEYS


async def test_of_many_meters_some_are_told_and_of_those_that_need_no_keys_none(station: Station) -> None:
    async with writing(station.engine) as session:
        kind = await session.scalar(sa.select(MeterDevice.type).where(MeterDevice.id == station.meter))
        assert kind is not None
        more = [
            new_meter(f"M{number:02}", uuid.UUID(station.fleet.organization), kind, None)
            for number in range(MOST_TOLD + 4)
        ]
        session.add_all(more)
        await session.flush()
        for number, meter in enumerate(more):
            meter.dlms_system_title = f"4D475300000001{number:02}"
        ids = [str(meter.id) for meter in more]
    path = f"/v1/receivers/{station.receiver['id']}"
    await station.rest.patch(path, meter_devices=[*ids, str(station.meter)])
    told = await station.missing()
    assert (len(told), told[-1]) == (MOST_TOLD + 1, "")
    problems = (await station.rest.get(f"/v1/gateways/{station.fleet.gateway}"))["problems"]
    assert problems[-1]["text"] == "and the keys of 5 more meters"
    await station.rest.patch(path, receiver_kwargs={"security": "none"})
    await station.gives(iec62056_21_password="1")  # noqa: S106 - a test's password
    assert await station.missing() == []


async def test_a_rotation_of_the_hubs_own_key_changes_no_plan(station: Station) -> None:
    await station.gives_keys()
    await station.says()
    await station.seals()
    before = await station.planned()
    await rotate(station.engine, station.ring, Author("cli", "operator@host", "keys rotate"), station.rest.clock.now())
    await station.seals()
    assert await station.planned() == before
    await station.gives(dlms_global_unicast_encryption_key=UNICAST)
    await station.seals()
    assert await station.opened() == MeterKeys(KEYS.encryption)


async def test_keys_that_cannot_be_sealed_are_said_and_cost_nobody_else(station: Station) -> None:
    await station.says()
    await station.gives(dlms_global_authentication_key="no hex")
    await station.seals()
    assert await station.missing() == [
        "the keys of Feeder 2 cannot be sealed: dlms_global_authentication_key is not 32 or 64 hex digits"
    ]
    await station.gives_keys()
    await station.says(sealing=bytes(32))
    await station.seals()
    assert await station.missing() == [f"the keys of Feeder 2 cannot be sealed: {key_sealing.NO_SEALING_KEY}"]
    await station.says()
    lost = SigningKey.generate()
    async with writing(station.engine) as session:
        row = (await session.scalars(sa.select(MeterSecurityKeys))).one()
        row.sealed, good = seal(public_half(lost), b"{}", purpose_of(row.meter)), row.sealed
    await station.seals()
    assert await station.missing() == [f"the keys of Feeder 2 cannot be sealed: {key_sealing.UNREADABLE}"]
    # The lost line comes back, and a relay starts.
    async with writing(station.engine) as session:
        (await session.scalars(sa.select(MeterSecurityKeys))).one().sealed = good
    await station.seals()
    assert await station.missing() == []
    assert await station.opened() == KEYS


async def test_what_would_not_fit_when_it_is_sealed_is_refused_with_the_edit(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, body, _ = await station.planned()
    monkeypatch.setattr(plans, "MAX_MESSAGE_BYTES", len(body) + 112 + SEALED_BYTES // 4)
    await station.gives_keys()
    other = await station.rest.call(
        "PATCH", f"/v1/receivers/{station.receiver['id']}", {"endpoint": "udp://0.0.0.0:4060"}, 409
    )
    assert "gw-utility" in other["detail"]
    # An older gateway has no sealing key yet: when it says one the plan goes on without keys, and it is said why.
    await station.says()
    await station.seals()
    assert await station.missing() == ["the keys of Feeder 2 wait for a relay that seals them"]
    async with looking(station.engine) as session:
        assert (await session.get_one(Gateway, uuid.UUID(station.fleet.gateway))).keys_wanted
