"""A database that is made slow for the bench ``stampede``, so that it is the limit and not the processors of a bench.

All processes of the server are stopped and let go on in turn, many times a second, as if the machine gave it only a
share of its time. Whoever asks it meanwhile, relay or REST, waits; the processors are free for others.
"""

import signal
import threading
import time
from typing import Self

from benchmarks.postgres import Postgres

PERIOD = 0.02
"""Seconds of one turn: short, so that a request meets one pause and not a row of them."""


class Narrow:
    """Lets a PostgreSQL run for a share of the time only, for the length of a block; a share of 1 leaves it alone."""

    def __init__(self, server: Postgres | None, share: float) -> None:
        self._server = server
        self._share = share
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stopped = self._passed = 0.0

    @property
    def share(self) -> float:
        """The share of the time in which it really ran: a thread that pauses it may be late."""
        return 1.0 - self._stopped / self._passed if self._passed else 1.0

    def __enter__(self) -> Self:
        """Begin."""
        if self._server is not None and self._share < 1:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let it run."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        server = self._server
        if server is None:
            return
        begun = time.monotonic()
        try:
            while not self._ended.wait(PERIOD * self._share):
                stopped = time.monotonic()
                server.signal(signal.SIGSTOP)
                time.sleep(PERIOD * (1 - self._share))
                server.signal(signal.SIGCONT)
                now = time.monotonic()
                self._stopped += now - stopped
                self._passed = now - begun
        finally:
            server.signal(signal.SIGCONT)
