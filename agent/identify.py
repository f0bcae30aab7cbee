"""Who stands on a line, and how it is spoken to: tries rates, parities, wake-up and addresses, then looks around.

Rules: asks only, writes nothing (but a code that was given, to open a lock). A meter that is silent at one setting is
called at the next; one that answers ends the search. What cannot be understood is told from silence: several meters
that answer a general call at once are heard, not understood. What a meter does not have, or does not show, is part of
what is found. Source: LIS-200 fact sheet 1.1 to 1.6 (rates, wake-up), 2.4 (locks), 3.2 (attribute A), 4 (objects).
"""

import contextlib
from collections.abc import Callable, Sequence

import msgspec

from agent.cli_meter import LineAsked, NoMemory, Stage
from agent.conversation import NOISE, SessionError, Times
from agent.links import Link, read_endpoint
from agent.session import Learned, Session, open_session
from contexts.lis200_columns import number_column, time_column
from contexts.lis200_times import nearest
from protocol.iec62056 import (
    Identification,
    Iec62056Error,
    MeterEvent,
    MeterRefusal,
    ReaderEvent,
    RemoteProtocolError,
    UnreadableValue,
    lis200,
)
from protocol.iec62056.codes import NO_RIGHT_TO_READ, message_title
from protocol.iec62056.data_lines import is_error
from protocol.iec62056.lock_codes import hidden

LIS200, IEC_62056_21 = "LIS-200", "IEC 62056-21"
"""What a meter speaks: the objects of LIS-200, or at least the standard below it."""
CALLS = 2
"""How often a meter is called at each setting: with even parity, and without."""
PATIENCE = 2.0
"""Seconds to wait for an identification: 1.5 s of reaction time and its first characters. Fact sheet 1.6."""
ONE_ROW = 0.05
"""Seconds that a block may last when one row is wanted."""
ARCHIVES = range(1, 16)
"""Numbers that archives have. LIS-200 fact sheet 3.4."""
LOCKS = {1: "calibration", 2: "manufacturer", 3: "supplier", 4: "customer", 5: "data collector", 6: "further user"}
_MISSING = frozenset({1, 2, 3, 4, 5, 100})
"""Refusals by which a meter says that it has no such thing. LIS-200 fact sheet 5.1."""


class Setting(msgspec.Struct, frozen=True):
    """One way to call: opening rate in baud, whether it ever changes, whether the meter is woken up first."""

    rate: int = 300
    fixed_rate: bool = False
    wake_up: bool = False

    def __str__(self) -> str:
        kind = "fixed" if self.fixed_rate else "opening rate"
        return f"{self.rate} Bd {kind}{', with wake-up' if self.wake_up else ''}"


SERIAL_SETTINGS = (
    Setting(),
    *(Setting(rate, fixed_rate=True) for rate in (19200, 9600, 2400, 4800, 1200, 38400, 57600, 115200)),
    Setting(wake_up=True),
)
SOCKET_SETTINGS = (Setting(), Setting(wake_up=True))
"""Behind a device server the rate is the server's own."""


class ArchiveFound(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One archive: its rows, and the first and last of them as the meter's clock stamped them."""

    number: int
    rows: int | None = None
    columns: int = 0
    oldest: str = ""
    newest: str = ""
    says: str = ""


class MeterFound(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One meter: how it is reached, and what it tells of itself. Empty: it does not tell."""

    address: str
    setting: Setting
    parity: str
    echo: bool = False
    maker: str = ""
    ident: str = ""
    offers: int | None = None
    knows_hdlc: bool = False
    protocol: str = ""
    serial: str = ""
    type: str = ""
    version: str = ""
    station: str = ""
    bus_address: str = ""
    clock: str = ""
    drift_seconds: float | None = None
    battery_months: str = ""
    interval: str = ""
    day_boundary: str = ""
    messages: list[str] = []
    locks: dict[str, str] = {}
    archives: list[ArchiveFound] = []
    locked: bool = False


class Search(msgspec.Struct, kw_only=True):
    """What came of a search."""

    endpoint: str
    meters: list[MeterFound] = []
    silent: list[str] = []
    heard: list[str] = []
    hints: list[str] = []


class Ear:
    """Observes conversations: passes everything on, and keeps what tells silence from what cannot be understood."""

    def __init__(self, stage: Stage) -> None:
        self._next = stage.observer
        self._said, self._heard = b"", b""
        self.identification: Identification | None = None
        self.not_understood: list[bytes] = []
        self.echoes = False
        """Whether the line has returned what was said, a whole telegram of it."""

    def said(self, data: bytes, event: ReaderEvent, rate: int, begun: float, ended: float) -> None:
        """See Observer."""
        self._said, self._heard = data, b""
        if self._next is not None:
            self._next.said(data, event, rate, begun, ended)

    def heard(self, data: bytes, rate: int, at: float) -> None:
        """See Observer."""
        self._heard += data
        if len(self._said) > 1 and self._heard.lstrip(NOISE).startswith(self._said):
            self.echoes = True
        if self._next is not None:
            self._next.heard(data, rate, at)

    def understood(self, event: MeterEvent, rate: int, at: float) -> None:
        """See Observer."""
        if isinstance(event, Identification):
            self.identification = event
        if self._next is not None:
            self._next.understood(event, rate, at)

    def failed(self, error: Exception, rate: int, at: float) -> None:
        """See Observer."""
        if self._heard.strip(NOISE):
            self.not_understood.append(self._heard)
        if self._next is not None:
            self._next.failed(error, rate, at)


Tell = Callable[[str], None]
"""Told what is being done, for somebody who waits."""


class Searcher:
    """Looks for meters on one line.

    Args:
        stage: where.
        on: the line; its rate, parity, wake-up and address are found, not used.
        patience: seconds to wait for an identification.
        archives: whether to ask for the archives of what is found.
        tell: see ``Tell``.
    """

    def __init__(self, stage: Stage, on: LineAsked, *, patience: float, archives: bool, tell: Tell) -> None:
        self._stage, self._on, self._patience, self._archives, self._tell = stage, on, patience, archives, tell
        self._echo = on.echo
        self._failed_at: float | None = None
        self._found = Search(endpoint=on.endpoint)

    async def search(self, addresses: Sequence[str], settings: Sequence[Setting]) -> Search:
        """Call each address (an empty one calls everybody) at each setting until somebody answers.

        Raises:
            LinkError: when the port fails.
            SessionError: when the lock of a meter that was found does not open with the code that was given.
        """
        async with self._stage.link(self._on.endpoint, settings[0].rate) as link:
            for setting in settings:
                for address in addresses:
                    found = await self._called(link, setting, address)
                    if found is not None:
                        self._found.meters.append(found)
                if self._found.meters or self._found.heard:
                    break
        known = {meter.address for meter in self._found.meters}
        self._found.silent = [address for address in addresses if address not in known] if any(addresses) else []
        self._found.hints = self._hints(any(addresses))
        return self._found

    async def _called(self, link: Link, setting: Setting, address: str) -> MeterFound | None:
        called = f"address {address}" if address else "everybody"
        self._tell(f"calling {called} at {setting}")
        self._stage.note(f"calling {called} at {setting}")
        # Parity is learned anew for each meter and rate; a wake-up keeps its distance from whatever failed last.
        ear, learned = Ear(self._stage), Learned(failed_at=self._failed_at)
        try:
            async with self._open(link, setting, address, ear, learned, with_code=False) as session:
                found = self._settings_of(setting, address, ear, learned)
                if self._stage.code is None:
                    await self._look_around(session, found)
        except (SessionError, RemoteProtocolError) as error:
            self._failed_at = learned.failed_at
            return await self._not_opened(link, setting, address, ear, error)
        if self._stage.code is not None:
            async with self._open(link, setting, address, ear, learned, with_code=True) as session:
                await self._look_around(session, found)
        return found

    def _open(
        self, link: Link, setting: Setting, address: str, ear: Ear, learned: Learned, *, with_code: bool
    ) -> contextlib.AbstractAsyncContextManager[Session]:
        on = msgspec.structs.replace(
            self._on,
            address=address,
            rate=setting.rate,
            fixed_rate=setting.fixed_rate,
            wake_up=setting.wake_up,
            echo=self._echo,
        )
        return open_session(
            link,
            on.line,
            on.device(),
            memory=NoMemory(),
            now=self._stage.now,
            access=self._stage.code if with_code else None,
            times=Times(tries=CALLS, identification=self._patience, block=ONE_ROW),
            learned=learned,
            observer=ear,
        )

    async def _not_opened(
        self, link: Link, setting: Setting, address: str, ear: Ear, error: Exception
    ) -> MeterFound | None:
        if ear.echoes and not self._echo:
            self._echo = True
            return await self._called(link, setting, address)
        if ear.identification is not None:
            if not setting.fixed_rate:
                # The rate that a wired port announces may be another than it runs at: fact sheet 8.16.
                return await self._called(link, Setting(setting.rate, fixed_rate=True), address)
            self._found.heard.append(f"{ear.identification.ident} answers at {setting}, but: {hidden(str(error))}")
        elif len(ear.not_understood) >= CALLS and not address:
            count = len(ear.not_understood[-1])
            self._found.heard.append(
                f"something answers at {setting} that is no telegram ({count} bytes): several meters at once, "
                "or another protocol"
            )
        return None

    def _settings_of(self, setting: Setting, address: str, ear: Ear, learned: Learned) -> MeterFound:
        identified = ear.identification or Identification("", "", "")
        return MeterFound(
            address=address,
            setting=setting,
            parity=learned.parity.value if learned.parity else self._on.parity,
            echo=self._echo,
            maker=identified.maker,
            ident=identified.ident.strip(),
            offers=identified.rate,
            knows_hdlc=identified.escapes == "\\2",
        )

    def _hints(self, addressed: bool) -> list[str]:  # noqa: FBT001 - private, and named at its use
        if self._found.heard:
            return ["with several meters on a line each is called by its own address: --address 1 --address 2, or 1-16"]
        if self._found.meters:
            return []
        hints = [
            "check cable, optical head, A and B of RS-485, and the meter's call acceptance windows",
            "a port that is set to Modbus or to HDLC only gives no answer; the meter's own menu tells",
        ]
        if addressed:
            hints.insert(0, "without --address every meter on the line answers")
        if read_endpoint(self._on.endpoint) is not None:
            hints.append("rate and parity are those of the device server: look there (often 300 or 9600, 8N1 or 7E1)")
        return hints

    # --- looking around --------------------------------------------------------------------------------------------

    async def _look_around(self, session: Session, found: MeterFound) -> None:
        self._tell(f"reading what {found.ident or 'the meter'} tells of itself")
        found.serial = await self._text(session, found, "1:180.0")
        found.type = await self._text(session, found, "1:181.0")
        found.protocol = LIS200 if found.serial or found.type or found.locked else IEC_62056_21
        found.type = found.type or found.ident
        if found.protocol != LIS200:
            return  # its registers have other names
        found.version = await self._text(session, found, "2:190.0")
        found.station = await self._text(session, found, "3:180.0")
        found.bus_address = await self._text(session, found, "2:70E.0")
        found.battery_months = await self._text(session, found, "2:404.0")
        found.interval = await self._text(session, found, "4:150.0") or await self._text(session, found, "5:150.0")
        found.day_boundary = await self._text(session, found, "2:141.0") or await self._text(session, found, "5:141.0")
        await self._clock(session, found)
        status = await self._text(session, found, "2:100.0")
        with contextlib.suppress(UnreadableValue):
            found.messages = [message_title(number, None, found.ident) for number in lis200.parse_status(status)]
        for number, name in LOCKS.items():
            if state := await self._text(session, found, f"{number}:170.0", lock=True):
                found.locks[f"{number} {name}"] = {"0": "closed", "1": "open"}.get(state, state)
        if self._archives:
            await self._look_into_archives(session, found)

    async def _text(self, session: Session, found: MeterFound, address: str, *, lock: bool = False) -> str:
        """The text of an object with its unit; empty where the meter does not have it or does not show it."""
        try:
            groups = await session.read(address)
        except MeterRefusal as refusal:
            if refusal.code == NO_RIGHT_TO_READ and not lock:
                found.locked = True
            return ""
        if not groups or is_error(groups[0]):
            return ""
        value = lis200.parse_value(groups[0])
        return f"{value.text.strip()} {value.unit}".strip()

    async def _clock(self, session: Session, found: MeterFound) -> None:
        text = await self._text(session, found, "1:400.0")
        with contextlib.suppress(UnreadableValue):
            now = self._stage.now()
            shown = nearest(session.zone, lis200.parse_datetime(text), now)
            found.clock = shown.astimezone(session.zone).isoformat()
            found.drift_seconds = round((shown - now).total_seconds(), 1)

    async def _look_into_archives(self, session: Session, found: MeterFound) -> None:
        for number in ARCHIVES:
            self._tell(f"looking into archive {number}")
            try:
                found.archives.append(await span_of(session, number))
            except MeterRefusal as refusal:
                if refusal.code == NO_RIGHT_TO_READ and found.locked:
                    return  # it says so of every number, also of those that it does not have
                if refusal.code not in _MISSING:
                    found.archives.append(ArchiveFound(number=number, says=refusal.meaning))
            except Iec62056Error as error:
                found.archives.append(ArchiveFound(number=number, says=hidden(str(error))))


async def span_of(session: Session, number: int) -> ArchiveFound:
    """How many rows an archive has, and the first and last of them.

    The last one is found by its number: those of one archive follow each other (LIS-200 fact sheet 3.3).

    Raises:
        MeterRefusal: when the meter does not have that archive, or does not show it.
    """
    counted = await session.read(lis200.archive_address(number, lis200.ROW_COUNT))
    found = ArchiveFound(number=number, rows=int(lis200.parse_decimal(counted[0] if counted else "")))
    layout = await session.layout(number)
    found.columns = len(layout.sources or layout.names)
    time = time_column(layout)
    numbered = number_column(layout, time)
    if not found.rows or time is None:
        return found
    first = await first_row(session, number, time + 1, "")
    found.oldest = _shown(first, time)
    if numbered is not None and first is not None and numbered < len(first) and first[numbered].isdigit():
        last = await first_row(session, number, numbered + 1, str(int(first[numbered]) + found.rows - 1))
        found.newest = _shown(last, time)
    return found


async def first_row(session: Session, archive: int, position: int, start: str) -> list[str] | None:
    """The first row from ``start`` on; None if there is none."""
    try:
        async with contextlib.aclosing(session.rows(archive, position, start, "")) as blocks:  # type: ignore[type-var]
            async for block in blocks:
                return block[0]
    except MeterRefusal:
        return None
    return None


def _shown(row: list[str] | None, time: int) -> str:
    if row is None or time >= len(row):
        return ""
    try:
        return lis200.parse_datetime(row[time]).isoformat(sep=" ")
    except UnreadableValue:
        return row[time]
