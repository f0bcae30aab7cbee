"""Who stands on a line, and how it is spoken to: tries rates, parities, wake-up and addresses, then looks around.

Rules: asks only, writes nothing (but a code that was given, to open a lock). Nobody is called while somebody speaks. A
meter that is silent at one setting is called at the next; one that answers ends the search. What cannot be understood
is told from silence: several meters that answer a general call at once are heard, not understood; so are telegrams of
another master, which are passed over. What a meter does not have, or does not show, is part of what is found.

What is tried first is what stands in front of technicians most: optical heads at 300 baud (with even parity and
without), the two usual rates of wired ports, then the wake-up of battery devices, which takes six seconds. The other
rates follow, and at last everything once more without parity. Source: LIS-200 fact sheet 1.1 to 1.6 (rates, wake-up),
2.4 (locks), 3.2 (attribute A), 4 (objects), 8.6 (other masters).
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import msgspec

from agent.cli_meter import LineAsked, NoMemory, Stage
from agent.conversation import NOISE, SessionError, Times
from agent.ears import Ear
from agent.links import Link, read_endpoint
from agent.session import Learned, Session, open_session
from agent.trace import meaning, readable
from contexts.lis200_columns import number_column, time_column
from contexts.lis200_layouts import completed
from contexts.lis200_times import nearest
from contexts.meters import Layout
from protocol.iec62056 import (
    Identification,
    Iec62056Error,
    MeterRefusal,
    RemoteProtocolError,
    UnreadableValue,
    lis200,
)
from protocol.iec62056.codes import NO_RIGHT_TO_READ, message_title
from protocol.iec62056.data_lines import is_error
from protocol.iec62056.lock_codes import hidden

LIS200, IEC_62056_21 = "LIS-200", "IEC 62056-21"
"""What a meter speaks: the objects of LIS-200, or at least the standard below it."""
HEARD_CALLS = 3
"""How often somebody is called who answers what cannot be understood."""
NO_PARITY_FIRST = 3
"""Calls left unanswered before, with which the core calls without parity first: an odd number."""
LISTEN, SILENCE = 10.0, 0.25
"""Seconds for which a line is listened to until it is silent, and the silence after which it is."""
MOST_SHOWN = 5
"""Different telegrams of another master that are shown."""
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
    *(Setting(rate, fixed_rate=True) for rate in (19200, 9600)),
    Setting(wake_up=True),
    *(Setting(rate, fixed_rate=True) for rate in (2400, 4800, 1200, 38400, 57600, 115200)),
)
"""In the order in which they are tried."""
SOCKET_SETTINGS = (Setting(), Setting(wake_up=True))
"""Behind a device server the rate is the server's own."""


class Way(msgspec.Struct, frozen=True):
    """One call: at a setting, with even parity or without."""

    setting: Setting
    even: bool = True

    def __str__(self) -> str:
        return f"{self.setting}, {'even' if self.even else 'no'} parity"


def ways(settings: Sequence[Setting]) -> list[Way]:
    """Every call that is tried, in its order: the first setting with even parity and without, the others after it."""
    first, *others = settings
    return [
        *(Way(first, even) for even in (True, False)),
        *(Way(setting, even) for even in (True, False) for setting in others),
    ]


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
    foreign: list[str] = []
    foreign_count: int = 0


Tell = Callable[[str, float | None], None]
"""Told what is being done, and how much of the search is done (0 to 1) if that is known, for somebody who waits."""


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
        tried = ways(settings)
        async with self._stage.link(self._on.endpoint, settings[0].rate) as link:
            await self._listen(link, settings[0].rate)
            for at, way in enumerate(tried):
                await self._call(link, way, addresses, done=at / len(tried))
                if self._found.meters:
                    # Whoever stands beside a meter that answers is called twice: a call may be lost on the line.
                    met = {meter.address for meter in self._found.meters}
                    silent = [address for address in addresses if address not in met]
                    await self._call(link, way, silent, done=at / len(tried))
                if self._found.meters or self._found.heard:
                    break
        self._found.meters.sort(key=lambda meter: addresses.index(meter.address))
        known = {meter.address for meter in self._found.meters}
        self._found.silent = [address for address in addresses if address not in known] if any(addresses) else []
        self._found.hints += self._hints(any(addresses))
        return self._found

    async def _listen(self, link: Link, rate: int) -> None:
        """Wait until nobody speaks: another master may be at work, and a call in the middle of that disturbs both."""
        loop, ear = asyncio.get_running_loop(), Ear(self._stage.observer)
        latest = loop.time() + LISTEN
        said = False
        while loop.time() < latest and (data := await link.read(SILENCE)):
            ear.heard(data, rate, loop.time())
            if data.strip(NOISE) and not said:
                said = True
                self._say("somebody speaks on this line; listening until it is silent", None)
        ear.end()
        self._overheard(ear)
        if said and loop.time() >= latest:
            self._found.hints.append(f"somebody has been speaking on this line for {LISTEN:g} s without a pause")

    def _overheard(self, ear: Ear) -> None:
        self._found.foreign_count += len(ear.foreign)
        for telegram in ear.foreign:
            text = hidden(" ".join((readable(telegram), f"({meaning(telegram)})")))
            if text not in self._found.foreign and len(self._found.foreign) < MOST_SHOWN:
                self._found.foreign.append(text)

    def _say(self, text: str, done: float | None) -> None:
        self._tell(text, done)
        self._stage.note(text)

    async def _call(self, link: Link, way: Way, addresses: Sequence[str], *, done: float) -> None:
        for address in addresses:
            self._say(f"calling {f'address {address}' if address else 'everybody'} at {way}", done)
            found = await self._called(link, way, address)
            if found is not None:
                self._found.meters.append(found)

    async def _called(self, link: Link, way: Way, address: str) -> MeterFound | None:
        # Parity is learned anew for each meter and rate; a wake-up keeps its distance from whatever failed last.
        ear, learned = Ear(self._stage.observer), Learned(failed_at=self._failed_at)
        if not way.even:
            learned.unanswered[self._on_the_bus(way.setting, address).device().id] = NO_PARITY_FIRST
        try:
            async with self._open(link, way.setting, address, ear, learned, with_code=False) as session:
                found = self._settings_of(way.setting, address, ear, learned)
                echoes = ear.echoes and not self._echo
                if self._stage.code is None and not echoes:
                    await self._look_around(session, found)
        except (SessionError, RemoteProtocolError) as error:
            self._failed_at = learned.failed_at
            return await self._not_opened(link, way, address, ear, error)
        finally:
            ear.end()
            self._overheard(ear)
        if echoes:
            self._echo = True
            return await self._called(link, way, address)
        if self._stage.code is not None:
            async with self._open(link, way.setting, address, ear, learned, with_code=True) as session:
                await self._look_around(session, found)
        return found

    def _on_the_bus(self, setting: Setting, address: str) -> LineAsked:
        return msgspec.structs.replace(
            self._on,
            address=address,
            rate=setting.rate,
            fixed_rate=setting.fixed_rate,
            wake_up=setting.wake_up,
            echo=self._echo,
        )

    def _open(
        self, link: Link, setting: Setting, address: str, ear: Ear, learned: Learned, *, with_code: bool
    ) -> contextlib.AbstractAsyncContextManager[Session]:
        on = self._on_the_bus(setting, address)
        return open_session(
            link,
            on.line,
            on.device(),
            memory=NoMemory(),
            now=self._stage.now,
            access=self._stage.code if with_code else None,
            times=Times(tries=HEARD_CALLS, identification=self._patience, block=ONE_ROW),
            calls=1,
            learned=learned,
            observer=ear,
        )

    async def _not_opened(self, link: Link, way: Way, address: str, ear: Ear, error: Exception) -> MeterFound | None:
        setting = way.setting
        if ear.echoes and not self._echo:
            self._echo = True
            return await self._called(link, way, address)
        if ear.identification is not None:
            if not setting.fixed_rate:
                # The rate that a wired port announces may be another than it runs at: fact sheet 8.16.
                return await self._called(link, Way(Setting(setting.rate, fixed_rate=True), way.even), address)
            self._found.heard.append(f"{ear.identification.ident} answers at {setting}, but: {hidden(str(error))}")
        elif len(ear.not_understood) >= HEARD_CALLS and not address:
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
        if self._found.silent and self._found.meters and not self._found.meters[0].setting.wake_up:
            return ["a battery device sleeps until it is woken: call those that are silent with --wake-up"]
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
        self._tell(f"reading what {found.ident or 'the meter'} tells of itself", None)
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
            self._tell(f"looking into archive {number}", number / len(ARCHIVES))
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
    layout = await layout_of(session, number)
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


async def layout_of(session: Session, number: int) -> Layout:
    """An archive's columns by the meter's own word; by what is known of such meters where it does not describe them.

    Raises:
        MeterRefusal: when the meter does not have that archive, or does not show it.
    """
    layout = await session.layout(number)
    if layout.sources or layout.names:
        return layout
    row = await first_row(session, number, 1, "")
    return completed(layout, session.model, number, [row] if row else [])


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
