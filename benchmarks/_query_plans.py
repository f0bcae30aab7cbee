"""What PostgreSQL planned for statements that a hub sent: taken from the server's own log, explained again.

Every statement that a process sends is logged with its parameters while ``logged`` lasts; so what is explained is what
REST asked, not what somebody thinks that it asks.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

LARGE = 10_000
"""Rows from which on a table must not be read from its beginning to its end."""

_ENTRY = re.compile(r"^\d{4}-\d\d-\d\d .*? \[\d+\] (LOG|DETAIL|[A-Z]+):  ", re.MULTILINE)
_DONE = re.compile(r"duration: ([\d.]+) ms  (parse|bind|execute) [^:]*: (.*)", re.DOTALL)
_ONE = re.compile(r"\$\d+ = (NULL|'(?:[^']|'')*')")
_MONTH = re.compile(r"readings_(\d{4}_\d\d|default)")


@dataclasses.dataclass
class Sent:
    """A statement with its parameters as SQL, and the milliseconds that the database took for it."""

    text: str
    parameters: list[str]
    milliseconds: float


@dataclasses.dataclass
class Planned:
    """What a statement reads: indexes, large tables read from end to end, and how many months."""

    indexes: list[str]
    read_whole: list[str]
    months: int


def sent(log: str) -> list[Sent]:
    """Return the statements of a part of the log, in the order in which they were executed."""
    found: list[Sent] = []
    taken = 0.0
    entries = list(_ENTRY.finditer(log))
    for number, entry in enumerate(entries):
        end = entries[number + 1].start() if number + 1 < len(entries) else len(log)
        text = log[entry.end() : end].strip()
        if entry[1] == "LOG" and (done := _DONE.match(text)):
            taken += float(done[1])
            if done[2] == "execute":
                found.append(Sent(done[3].strip(), [], round(taken, 3)))
                taken = 0.0
        elif entry[1] == "DETAIL" and found and text.lower().startswith("parameters:") and not found[-1].parameters:
            found[-1].parameters = _ONE.findall(text)
    return found


def size_of(log: pathlib.Path) -> int:
    """Return where the log ends now."""
    return log.stat().st_size


async def plan_of(connection: AsyncConnection, statement: Sent) -> Planned:
    """Explain a statement with its parameters."""
    await connection.exec_driver_sql(f"PREPARE asked AS {statement.text}")
    try:
        values = f"({', '.join(statement.parameters)})" if statement.parameters else ""
        told = (await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) EXECUTE asked{values}")).scalar_one()
    finally:
        await connection.exec_driver_sql("DEALLOCATE asked")
    parts = nodes(told)
    whole = {node["Relation Name"] for node in parts if node["Node Type"] == "Seq Scan"}
    of_large = sa.text("SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples >= :large")
    large = set((await connection.execute(of_large, {"large": LARGE})).scalars())
    months = {found[0] for node in parts if (found := _MONTH.search(node.get("Relation Name", "")))}
    indexes = {_MONTH.sub("readings", node["Index Name"]) for node in parts if "Index Name" in node}
    return Planned(sorted(indexes), sorted(whole & large), len(months))


def nodes(told: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - JSON, read by the driver or not
    """Return the parts of an explained plan."""
    return list(_nodes((json.loads(told) if isinstance(told, str) else told)[0]["Plan"]))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for one in plan.get("Plans", []):
        yield from _nodes(one)
