"""One hub per data directory: ``metergate-hub run`` holds a lock there while it lives, ``restore`` while it works.

The lock is the kernel's (flock) on ``hub.lock``: it goes with the process, however that ends, so it is never stale.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hub.settings import StartError

LOCK_FILE = "hub.lock"


@contextlib.contextmanager
def sole_use(data: Path) -> Iterator[None]:
    """Hold the data directory for the length of the block.

    Raises:
        StartError: when a hub runs on it, or its database is just being put back.
    """
    file = os.open(data / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartError(
                f"the data directory {data} is in use: a hub runs on it; end that first, or name another with --data"
            ) from error
        yield
    finally:
        os.close(file)
