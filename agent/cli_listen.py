"""``metergate-agent listen``: what a meter pushes, for whoever stands in front of it. No hub, nothing is stored."""

import asyncio
import datetime as dt
import pathlib
import sys
from zoneinfo import ZoneInfo

import click
import msgspec

from agent.arguments import pairs, rfc3339
from agent.cli_meter import WIDE
from agent.clocks import Clock, system_clock
from agent.links import LinkError, open_link
from agent.listen_keys import VARIABLES, environment_keys, keys_given, meters_with
from agent.receiver_links import listen_to
from agent.settings import SettingsError
from agent.tables import Growing
from protocol.wire import ContractError
from receivers.catalogue import NAMES, check_receiver, find_receiver, kwargs_from_text
from receivers.endpoints import Endpoint, Way, parse_endpoint
from receivers.receiver import Arrival, Decoder, Meters, Pushed, Receiver, ReceiverError, Undecodable

FAILED = 1
MOST_SHOWN = 200
"""Bytes of a payload that could not be read."""

_HELP = f"""Show what comes in at ENDPOINT, taken apart by RECEIVER; KEY=VALUE are what `receiver_kwargs` has.

\b
ENDPOINT                what is listened to
/dev/serial/by-id/...   a serial port (`metergate-agent ports` lists them)
socket://HOST:PORT      a TCP connection made to a device server or a P1 bridge
listen://HOST:PORT      a TCP port that meters call
udp://HOST:PORT         a UDP port that meters send to

\b
RECEIVER: {", ".join(NAMES)}

Every payload is shown: unless a raster is given, nothing is left out. Nothing is stored or sent. `last seen` in the
table is the meter's own time in UTC; a dash stands where it gives none, then the gateway's would be used.

Keys of meters that cipher (dlms_push) come from a file, the environment or a prompt; they are never shown. The file is
TOML: encryption_key and authentication_key, and where meters use them dedicated_key and broadcast_key, 32 hex digits
each; what stands below a line [SYSTEM TITLE] is of that meter only. Counters begin anew with each start: a payload that
is played back is seen as such only where the other one was shown, too.

\b
  metergate-agent listen /dev/ttyUSB0 dsmr_p1
  metergate-agent listen socket://p1.local:23 dsmr_p1 --seconds 15 --json | jq -c 'select(.series == "1-0:1.8.1")'
  metergate-agent listen udp://0.0.0.0:4059 dlms_push security=encrypted --ask-keys

Exit status: 0 something was read, 1 nothing was or the endpoint failed (the cause is on standard error), 2 wrong usage.
"""


@click.command("listen", help=_HELP, context_settings=WIDE)
@click.argument("endpoint")
@click.argument("receiver")
@click.argument("kwargs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="End after this time. Else: with Ctrl-C.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many values.")
@click.option(
    "--keys",
    "keys_file",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    metavar="FILE",
    help=f"Keys of meters that cipher; or set {', '.join(VARIABLES.values())}.",
)
@click.option("--ask-keys", is_flag=True, help="Ask for the encryption and the authentication key; they are not shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per value or unreadable payload, and line.")
def command(
    endpoint: str,
    receiver: str,
    kwargs: tuple[str, ...],
    *,
    seconds: float | None,
    count: int | None,
    keys_file: pathlib.Path | None,
    ask_keys: bool,
    as_json: bool,
) -> None:
    """Show what meters push."""
    try:
        kind = find_receiver(receiver)
        way = parse_endpoint(endpoint)
        texts = pairs(kwargs)
        if any(field.name == "raster" for field in msgspec.structs.fields(kind.kwargs)):
            texts.setdefault("raster", "null")
        typed = kwargs_from_text(receiver, texts)
        # The endpoint must be one for this receiver; its kwargs were judged above.
        check_receiver(receiver, endpoint, msgspec.structs.asdict(typed))
        clock = system_clock()
        if way.way is Way.BROKER:
            raise click.UsageError("endpoint: messages of the broker come to a running agent only")
        if not kind.ciphered and (keys_file is not None or ask_keys):
            raise click.UsageError(f"{receiver} takes no keys: what it receives is not ciphered")
        keys = keys_given(keys_file, environment_keys(), ask=ask_keys) if kind.ciphered else {}
    except (ReceiverError, ContractError, SettingsError) as error:
        raise click.UsageError(str(error)) from error
    meters = meters_with(keys, ZoneInfo(getattr(typed, "timezone", "UTC"))) if kind.ciphered else Meters()
    shown = _Shown(kind, typed, meters, clock, count, as_json=as_json)
    failure = ""
    try:
        asyncio.run(_listen(way, shown, seconds))
    except KeyboardInterrupt:
        click.echo("", err=True)
    except LinkError as error:
        failure = str(error)
    if not failure and not shown.values:
        failure = f"{endpoint}: {f'{shown.bytes} bytes came, but no value' if shown.bytes else 'nothing came'}"
    if shown.locked and not any(keys.values()):
        click.echo("metergate-agent: what is ciphered needs keys: --keys FILE, --ask-keys, or the variables", err=True)
    if failure:
        click.echo(f"metergate-agent: {failure}", err=True)
        sys.exit(FAILED)


async def _listen(endpoint: Endpoint, shown: "_Shown", seconds: float | None) -> None:
    listening = asyncio.create_task(listen_to(endpoint, shown.rate, shown, open_link))
    enough = asyncio.create_task(shown.enough.wait())
    try:
        done, _ = await asyncio.wait({listening, enough}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if listening in done and (error := listening.exception()) is not None and not shown.enough.is_set():
            raise error
    finally:
        listening.cancel()
        enough.cancel()
        await asyncio.wait({listening, enough})


class _Shown:
    """Prints what comes. Implements ``agent.receiver_links.Sink``."""

    def __init__(
        self,
        receiver: Receiver,
        kwargs: msgspec.Struct,
        meters: Meters,
        clock: Clock,
        most: int | None,
        *,
        as_json: bool,
    ) -> None:
        self.silence = receiver.silence
        self.rate = receiver.rate(kwargs)
        self.values = 0
        self.bytes = 0
        self.locked = False
        """Whether something that could not be read is of a meter that may cipher."""
        self.enough = asyncio.Event()
        self._intake = receiver.open(kwargs, meters, b"")
        self._clock, self._most, self._json = clock, most, as_json
        self._ciphered = receiver.ciphered
        self._table: Growing | None = None

    def begin(self) -> Decoder:
        """A decoder for one connection, port or datagram."""
        return self._intake.connection()

    async def hear(self, decoder: Decoder, data: bytes, source: str) -> bool:
        """Show what these bytes end."""
        self.bytes += len(data)
        before = self.values
        self._show(decoder.receive(data, self._clock.now()), source)
        return self.values > before

    def cease(self, decoder: Decoder, source: str) -> None:
        """Show what is left."""
        self._show(decoder.end(self._clock.now()), source)

    def missed(self, count: int) -> None:
        """Say that payloads were lost."""
        click.echo(f"{count} payloads were lost: they came faster than they were taken", err=True)

    def works(self) -> None:
        """Say nothing: what comes is shown."""

    def _show(self, arrivals: list[Arrival], source: str) -> None:
        for arrival in arrivals:
            if isinstance(arrival, Undecodable):
                self._refused(arrival, source)
            elif not self.enough.is_set():
                self._value(arrival, source)
        sys.stdout.flush()

    def _value(self, pushed: Pushed, source: str) -> None:
        self.values += 1
        if self._json:
            told = {
                "meter": pushed.meter,
                "series": pushed.series,
                "timestamp": _time(pushed.timestamp),
                "value": format(pushed.value, "f"),
                "unit": pushed.unit,
                "came": _time(pushed.came),
                "clock_offset": pushed.clock_offset,
                "source": source,
            }
            click.echo(msgspec.json.encode(told))
        else:
            row = (pushed.meter or "-", pushed.series, _time(pushed.timestamp) or "-", format(pushed.value, "f"))
            if self._table is None:
                self._table = Growing(("meter", "series", "last seen", "value", "unit"), [(*row, pushed.unit)], {3})
                click.echo(self._table.line(self._table.head))
            click.echo(self._table.line((*row, pushed.unit)))
        if self._most is not None and self.values >= self._most:
            self.enough.set()

    def _refused(self, undecodable: Undecodable, source: str) -> None:
        self.locked = self.locked or (self._ciphered and bool(undecodable.meter))
        payload = undecodable.payload[:MOST_SHOWN]
        if self._json:
            told = {
                "undecodable": payload.hex(),
                "bytes": len(undecodable.payload),
                "cause": undecodable.cause,
                "meter": undecodable.meter,
                "came": _time(undecodable.came),
                "source": source,
            }
            click.echo(msgspec.json.encode(told))
        else:
            click.echo(f"{source}: {undecodable.cause}: {payload!r}", err=True)


def _time(instant: dt.datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)
