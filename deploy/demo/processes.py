"""The processes of the demo: started with one shared clock, their output kept in files, ended in order."""

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Self

START_SECONDS = 60.0
"""How long a process may take to print its first line on a slow machine."""

END_SECONDS = 15.0


class StartError(RuntimeError):
    """A process of the demo did not come up; the text says which, and where its output is."""


@dataclasses.dataclass
class Process:
    """One running process with its log file and the JSON object of its first line (empty if it prints none)."""

    name: str
    popen: subprocess.Popen[bytes]
    log: pathlib.Path
    hello: dict[str, Any]

    def end(self) -> None:
        """Ask it to end, and make it end if it does not."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait(END_SECONDS)
        if self.popen.stdout is not None:
            self.popen.stdout.close()


class Stage:
    """Starts processes and ends them in reverse order, whatever happens in between.

    ``apart``: they do not hear Ctrl-C, which a terminal sends to everybody in the foreground; the stage ends them.
    """

    def __init__(self, folder: pathlib.Path, environment: dict[str, str], *, apart: bool = False) -> None:
        self.folder = folder
        self.environment = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
        self.processes: list[Process] = []
        self._apart = apart

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            process.end()

    def start(self, name: str, command: list[str], *, hello: bool) -> Process:
        """Start a command of this environment; with ``hello`` wait for the JSON object on its first line.

        Raises:
            StartError: when it ends or stays silent before that line.
        """
        log = self.folder / f"{name}.log"
        with log.open("ab") as errors:
            popen = subprocess.Popen(
                [program(command[0]), *command[1:]],
                stdout=subprocess.PIPE if hello else errors,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                start_new_session=self._apart,
            )
        process = Process(name, popen, log, {})
        self.processes.append(process)
        if hello:
            process.hello = self._first_line(process)
        return process

    def run(self, command: list[str]) -> str:
        """Run a command to its end and return what it printed.

        Raises:
            StartError: when its exit status is not 0.
        """
        done = subprocess.run(
            [program(command[0]), *command[1:]],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
        )
        if done.returncode:
            raise StartError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    @staticmethod
    def _first_line(process: Process) -> dict[str, Any]:
        pipe = process.popen.stdout
        line = b""
        until = time.monotonic() + START_SECONDS
        while pipe is not None and not line.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                break
            byte = os.read(pipe.fileno(), 1)
            if not byte:
                break
            line += byte
        try:
            hello = json.loads(line)
        except ValueError:
            tail = process.log.read_text(errors="replace")[-800:]
            raise StartError(
                f"{process.name} printed no JSON on its first line ({line!r}); its log {process.log} ends:\n{tail}"
            ) from None
        return dict(hello)


def program(name: str) -> str:
    """Return the path of a command that stands beside the running interpreter."""
    return str(pathlib.Path(sys.executable).parent / name)


@contextlib.contextmanager
def quiet_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the demo without a traceback."""
    with contextlib.suppress(KeyboardInterrupt):
        yield
