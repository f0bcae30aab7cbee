"""The embedded MQTT broker of ``metergate-hub run``: iotcore in a child process that is watched and started again.

Rules:
- It listens on the loopback only and speaks MQTT 5 only. It is a convenience for a first look and small sites on one
  machine; it keeps nothing over a restart, which is no loss (DESIGN section 4: the broker is a wire).
- The native broker has no way to stop and keeps its backlog in memory, so it lives in a child, with small segments:
  at most SEGMENTS x SEGMENT_BYTES per topic family are held for slow subscribers.
- The child ends with its parent, however that ends: it holds the read end of a pipe whose write end only the parent
  has, and the kernel closes that also for a process that was killed.
- When the child dies the supervisor starts it again on the same port, after a pause that doubles while it keeps dying.

Run as a program (``python -P -m hub.broker CONFIG``) this module is that child.
"""

import asyncio
import contextlib
import logging
import os
import pathlib
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator

import structlog

from protocol.wire import MAX_MESSAGE_BYTES

HOST = "127.0.0.1"
PAYLOAD_BYTES = MAX_MESSAGE_BYTES + 64 * 1024
"""iotcore counts the whole packet against its limit and drops the connection beyond it, so there is room to spare."""

SEGMENT_BYTES = 4 * 1024 * 1024
SEGMENTS = 8
START_SECONDS = 10.0
STOP_SECONDS = 3.0
POLL_SECONDS = 0.02
PAUSE_SECONDS = (0.1, 10.0)
"""Shortest and longest pause before the broker is started again."""

STEADY_SECONDS = 30.0
"""A broker that lived this long is started again after the shortest pause."""

_CONFIG = """\
id = 0
[router]
id = 0
max_connections = 10000
max_outgoing_packet_count = 200
max_segment_size = {segment}
max_segment_count = {segments}
[v5.1]
name = "v5"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {payload}
max_inflight_count = 100
"""

_log = structlog.get_logger(__name__)


class BrokerError(RuntimeError):
    """The embedded broker does not come up; the text names the port and what to do."""


class EmbeddedBroker:
    """The broker's child process and the task that keeps it alive."""

    def __init__(self, port: int, config: pathlib.Path, pid_file: pathlib.Path | None) -> None:
        self.port = port
        self._config = config
        self._pid_file = pid_file
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where the broker answers, in the form that agent and relay take."""
        return f"mqtt://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the child and wait until it answers.

        Raises:
            BrokerError: when it ends at once or does not answer in time.
        """
        if await _answers(self.port):
            raise BrokerError(f"port {self.port} of {HOST} is taken; choose another with --mqtt-port")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a folder named like one of our packages, where the hub was started, must not shadow it
            "-m",
            "hub.broker",
            str(self._config),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            # Ctrl-C goes to the whole foreground group; the parent ends the child when it is done with it.
            start_new_session=True,
        )
        self._process = process
        deadline = time.monotonic() + START_SECONDS
        while not await _answers(self.port):
            if process.returncode is not None:
                raise BrokerError(
                    f"the embedded broker ended with status {process.returncode} at start on port {self.port}; "
                    "its words stand above; use --broker URL to work with another broker"
                )
            if time.monotonic() > deadline:
                await self.stop()
                raise BrokerError(f"the embedded broker did not answer on port {self.port} in {START_SECONDS:g} s")
            await asyncio.sleep(POLL_SECONDS)
        if self._pid_file is not None:
            _write_whole(self._pid_file, f"{process.pid}\n")
        _log.info("broker_started", url=self.url, pid=process.pid)

    async def keep_alive(self) -> None:
        """Start the child again whenever it ends, for ever."""
        pause = PAUSE_SECONDS[0]
        while True:
            began = time.monotonic()
            if self._process is not None:
                status = await self._process.wait()
                if time.monotonic() - began > STEADY_SECONDS:
                    pause = PAUSE_SECONDS[0]
                _log.warning("broker_died", url=self.url, status=status, pause_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_SECONDS[1])
            try:
                await self.start()
            except BrokerError as error:
                _log.error("broker_not_started", url=self.url, cause=str(error))

    async def stop(self) -> None:
        """End the child, at once if it does not listen."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._pid_file is not None:
            self._pid_file.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def embedded_broker(port: int = 0, *, pid_file: pathlib.Path | None = None) -> AsyncIterator[EmbeddedBroker]:
    """Run the broker for the length of the block; it answers when the block begins. Port 0 takes a free one.

    ``pid_file`` always names the process that runs now, over restarts.

    Raises:
        BrokerError: when it does not come up the first time.
    """
    with tempfile.TemporaryDirectory(prefix="metergate-broker-") as folder:
        chosen = port or _free_port()
        config = pathlib.Path(folder) / "broker.toml"
        config.write_text(
            _CONFIG.format(host=HOST, port=chosen, segment=SEGMENT_BYTES, segments=SEGMENTS, payload=PAYLOAD_BYTES)
        )
        broker = EmbeddedBroker(chosen, config, pid_file)
        keeper: asyncio.Task[None] | None = None
        try:
            await broker.start()
            keeper = asyncio.create_task(broker.keep_alive(), name="embedded-broker")
            yield broker
        finally:
            if keeper is not None:
                keeper.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await keeper
            await broker.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def _write_whole(path: pathlib.Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)


def _serve(config: str) -> None:
    """Be the child: serve until the parent is gone."""
    from iotcore import IotCoreBroker  # noqa: PLC0415 - only the child loads the native broker

    # rumqttd reports every packet as an error record; what matters is whether it answers, and that is watched.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    logging.getLogger("rumqttd").addHandler(logging.NullHandler())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    broker = IotCoreBroker(config_path=config)
    broker.check_ports()
    broker.run_forever()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
