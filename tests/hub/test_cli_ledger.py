"""``metergate-hub ledger``: a ledger that was spoilt is found out, and made anew."""

import asyncio
import json
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from hub import models
from hub.cli import commands
from hub.database import create_engine, writing
from hub.settings import StartError
from tests.hub.test_ledger import BEGIN, HOUR, SERIES, arrival, expect, put, work_off
from tests.parts.databases import new_sqlite
from tests.parts.estates import Estate, make_estate


async def _spoilt(data: Path) -> Estate:
    """Make a hub's data whose ledger lacks all of one meter."""
    url = await new_sqlite(data / "hub.db")
    engine = create_engine(url)
    try:
        estate = await make_estate(engine)
        await expect(engine, estate, {"series": SERIES, "interval": "hour"})
        for meter in ("M1", "M2"):
            await put(engine, *(arrival(estate, BEGIN + hour * HOUR, meter=meter) for hour in range(5)))
        await work_off(engine)
        async with writing(engine) as session:
            first = sa.select(models.Expectation.id).where(models.Expectation.device == estate.meters["M1"])
            await session.execute(
                sa.update(models.LedgerChunk).where(models.LedgerChunk.expectation.in_(first)).values(bits=bytes(256))
            )
    finally:
        await engine.dispose()
    return estate


def run(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(commands, ["ledger", *arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.output


async def test_what_differs_is_told_and_a_rebuild_mends_it(tmp_path: Path) -> None:
    estate = await _spoilt(tmp_path)

    def check() -> None:
        data = ("--data", str(tmp_path))
        meter = str(estate.meters["M1"])
        status, said = run("check", *data)
        assert status == 1
        assert f"{meter} {estate.series[SERIES]}: 5 stored readings are not in the ledger, 0 slots" in said
        assert said.endswith(
            "1 sums are not those of their series: make the ledger anew\n2 series compared, 1 differ\n"
        )
        status, said = run("check", "--json", "--device", str(estate.meters["M2"]), *data)
        assert (status, json.loads(said)) == (0, {"series": 1, "differing": [], "wrong_sums": 0})
        status, said = run("check", "--json", *data)
        assert [(one["device"], one["lacking"]) for one in json.loads(said)["differing"]] == [(meter, 5)]
        status, said = run("rebuild", "--device", meter, "--json", *data)
        assert (status, json.loads(said)) == (0, {"series": 1})
        assert run("check", *data) == (0, "2 series compared, 0 differ\n")
        assert run("rebuild", *data) == (0, "2 series made anew from their readings\n")

    await asyncio.to_thread(check)


async def test_a_meter_of_which_nothing_is_expected_is_named(tmp_path: Path) -> None:
    await new_sqlite(tmp_path / "hub.db")
    with pytest.raises(StartError, match="nothing is expected of a meter"):
        await asyncio.to_thread(run, "rebuild", "--device", str(uuid.uuid4()), "--data", str(tmp_path))
