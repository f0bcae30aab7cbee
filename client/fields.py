"""Fields on a command line: ``name=text`` is a text, ``name:=JSON`` is whatever the JSON says."""

from collections.abc import Iterable
from typing import Any

import click
import msgspec


def read_fields(said: Iterable[str]) -> dict[str, Any]:
    """Return the fields that are said; a dot reaches into an object: ``task_kwargs.address=2:300``.

    Raises:
        click.UsageError: naming what is no field.
    """
    found: dict[str, Any] = {}
    for field in said:
        name, sign, text = field.partition("=")
        if not sign or not name.rstrip(":"):
            raise click.UsageError(
                f"{field!r} is no field: say name=text, or name:=JSON for numbers, true, null, lists"
            )
        *path, last = name.removesuffix(":").split(".")
        inner = found
        for step in path:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise click.UsageError(f"{field!r}: {step} is said to be something else already")
        inner[last] = _json(field, text) if name.endswith(":") else text
    return found


def _json(field: str, text: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return msgspec.json.decode(text.encode())
    except msgspec.DecodeError as error:
        raise click.UsageError(f"{field!r}: what stands after := is no JSON: {error}") from None
