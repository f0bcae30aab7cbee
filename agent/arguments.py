"""What ``read`` and ``invoke`` have in common on the command line: ``key=value`` in, RFC 3339 out."""

import datetime as dt
from collections.abc import Sequence

import click

from contexts.calls import CallError


def in_words_of_here(error: CallError) -> str:
    """Say what is wrong with a call in the words of the command line instead of a task's."""
    text = str(error).replace("task_kwargs.", "").replace("meter_execution_type", "CONTEXT")
    return text.replace("task_call", "CALL")


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Take ``key=value`` arguments apart.

    Raises:
        click.UsageError: naming the argument that is none, or the key that is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{text!r} is not key=value")
        if key in found:
            raise click.UsageError(f"{key} is given twice")
        found[key] = value
    return found


def rfc3339(instant: dt.datetime) -> str:
    """Write an instant in UTC, with milliseconds only where it has some."""
    text = instant.astimezone(dt.UTC).isoformat(timespec="milliseconds" if instant.microsecond else "seconds")
    return text.replace("+00:00", "Z")
