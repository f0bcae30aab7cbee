"""Every context and call that a task may name, with what its kwargs must be.

The kwargs of a call are a msgspec struct that forbids unknown fields: its fields are the documentation, the check of
the hub's 422 and of the agent's refusal, and the typed argument of the call itself.
"""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from contexts.meters import Answer, Meter, Moment


class CallError(ValueError):
    """A call that cannot be made as asked. ``field`` names the key at fault (``task_call``, ``task_kwargs.address``)."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field
        self.text = text


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call of a context: its kwargs struct, the coroutine that makes it, and how it behaves.

    ``archive`` marks reads that a later read makes up for (missed runs coalesce); ``writes`` marks calls that change
    the meter (never repeated blindly).
    """

    name: str
    kwargs: type[msgspec.Struct]
    run: Callable[[Meter, Moment, Any], Awaitable[Answer]]
    archive: bool = False
    writes: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """An execution context: the calls that one kind of meter understands."""

    name: str
    description: str
    calls: Mapping[str, Call]
