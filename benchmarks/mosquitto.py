"""A real Mosquitto for benches and tests, on a free port of the loopback, that can be killed, restarted empty, or hung.

``with mosquitto() as broker: ... broker.url``; ``broker.kill()`` and ``broker.start()`` lose everything unless it was
made with ``persistence=True``.
"""

import contextlib
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

START_SECONDS = 10.0
POLL_SECONDS = 0.02


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port of the loopback, of TCP unless asked otherwise, that nobody listens on right now."""
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Mosquitto:
    """One broker process; its port stays the same over restarts."""

    def __init__(
        self,
        folder: pathlib.Path,
        port: int = 0,
        max_packet_size: int | None = None,
        *,
        persistence: bool = False,
        login: tuple[str, str] | None = None,
        in_flight: int | None = None,
    ) -> None:
        self.port = port or free_port()
        self._config = folder / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None
        settings = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {'true' if login is None else 'false'}",
            "set_tcp_nodelay true",
            "max_queued_messages 100000",
            "log_type error",
        ]
        if in_flight is not None:
            settings.append(f"max_inflight_messages {in_flight}")
        if max_packet_size is not None:
            settings.append(f"max_packet_size {max_packet_size}")
        if persistence:
            settings += ["persistence true", "autosave_interval 1", f"persistence_location {folder}/"]
        if login is not None:
            passwords = folder / "passwords"
            subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), *login], check=True, capture_output=True)
            passwords.chmod(0o644)
            settings.append(f"password_file {passwords}")
        self._config.write_text("\n".join(settings) + "\n")

    @property
    def url(self) -> str:
        """The address in the form that agent and hub take."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def processes(self) -> list[int]:
        """Return the id of the broker's process, if it is there."""
        return [self._process.pid] if self._process is not None and self.running else []

    def start(self) -> None:
        """Start the broker and wait until it answers."""
        if self.running:
            return
        self._process = subprocess.Popen(
            ["mosquitto", "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"mosquitto ended with status {self._process.returncode}; see {self._config}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(POLL_SECONDS)
        self.kill()
        raise RuntimeError(f"mosquitto did not answer on port {self.port} within {START_SECONDS:g} s")

    def kill(self) -> None:
        """End the broker at once (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """Stop the process so that its port accepts and nothing answers; ``resume`` ends it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a hung broker go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def mosquitto(
    port: int = 0,
    max_packet_size: int | None = None,
    *,
    persistence: bool = False,
    login: tuple[str, str] | None = None,
    in_flight: int | None = None,
) -> Iterator[Mosquitto]:
    """Run a broker for the length of the block; port 0 takes a free one, ``login`` is the one user and its password.

    ``in_flight`` is its Receive Maximum, and how much it has under way to each client; Mosquitto's own is 20.
    """
    with tempfile.TemporaryDirectory(prefix="mosquitto-") as folder:
        # Started as root, Mosquitto changes to its own user, which must reach its folder.
        pathlib.Path(folder).chmod(0o777)
        broker = Mosquitto(
            pathlib.Path(folder), port, max_packet_size, persistence=persistence, login=login, in_flight=in_flight
        )
        try:
            broker.start()
            yield broker
        finally:
            broker.kill()
