"""Logs: one JSON object per line on standard error, with stable event names; never a secret.

What the hub itself logs is written as it is said, without a record of ``logging`` for it: a relay has three lines to
say of each plan that it publishes.
"""

import contextlib
import logging
import sys
import threading
from typing import TextIO

import structlog

_LEVEL = logging.INFO


class _Lines:
    """Writes whole lines; ``name`` is whose they are. As with ``logging``, one that nobody takes is gone."""

    def __init__(self, stream: TextIO, lock: threading.Lock, name: str) -> None:
        self.name = name
        self._stream = stream
        self._lock = lock

    def _write(self, line: str) -> None:
        # ValueError: it is closed.
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = _write


def set_up_logs() -> None:
    """Send everything that this process logs, libraries included, to standard error."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    rendering = structlog.processors.JSONRenderer()
    stream, lock = sys.stderr, threading.Lock()
    structlog.configure(
        processors=[*shared, rendering],
        logger_factory=lambda name="": _Lines(stream, lock, name),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVEL),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVEL)
    for chatty in ("uvicorn", "alembic", "mqtt", "aiosqlite"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
