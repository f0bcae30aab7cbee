"""The archives of one meter, read over its open session: their columns once, their rows block by block.

Rules: columns are remembered, until rows say that they do not hold any more. A block is taken once it holds together or
came the same twice; a readout goes on after its last good row when the line was lent, a block was lost, or the question
was misunderstood. A slice of a readout may be cut after any block, and is over then for whoever asked.
"""

import math
import zoneinfo
from collections.abc import AsyncIterator, Awaitable, Callable

from agent.blocks import Blocks
from agent.conversation import NoAnswer
from agent.opening import Opening, data_only, shown
from agent.readouts import Readout
from agent.runs import LineMemory
from contexts.lis200_checks import ArchiveChecks, Doubt, Kind
from contexts.meters import Layout
from protocol import iec62056
from protocol.iec62056 import lis200
from protocol.iec62056.lock_codes import hidden_in_row

__all__ = ["NO_LAYOUT", "Archives"]

UNKNOWN_ATTRIBUTE = frozenset({4, 5})
NO_LAYOUT = Layout((), (), ())
"""Kept in place of columns that do not hold any more: an empty layout is none."""
_LAYOUT_ATTRIBUTES = (lis200.SOURCES, lis200.NAMES, lis200.UNITS)


class _Misunderstood(iec62056.RemoteProtocolError):
    """The meter may have heard something else than we said: not the block is to be repeated but the question."""

    def __init__(self, text: str, problem: Doubt | None = None) -> None:
        super().__init__(text)
        self.problem = problem


class Archives:
    """The archives of the meter of one session.

    Args:
        opening: The session's conversation.
        memory: What is remembered of the meter across restarts.
        zone: That of the meter's clock.
        come_back: Opens the meter again if it was left too early.
        between_blocks: Lends the line; True when it was used for something else and the archive has to be asked again.

    Attributes:
        rows_read: Rows read so far.
    """

    def __init__(
        self,
        opening: Opening,
        *,
        memory: LineMemory,
        zone: zoneinfo.ZoneInfo,
        come_back: Callable[[], Awaitable[None]],
        between_blocks: Callable[[], Awaitable[bool]],
    ) -> None:
        self._opening, self._memory, self._zone = opening, memory, zone
        self._come_back, self._between_blocks = come_back, between_blocks
        self._device = opening.device.id
        self.rows_read = 0
        self._layouts: dict[int, Layout] = {}
        self._remembered: set[int] = set()
        self._behind: str | None = ""
        # Of a slice: the rows that came, so that a call which asks twice gets them again; None outside of one.
        self._slice: list[list[list[str]]] | None = None
        self._cut = False
        self._block_seconds = math.inf

    async def layout(self, archive: int) -> Layout:
        """Read the archive's columns (attributes 4, 2, 3), once per meter.

        Raises:
            RemoteProtocolError: when the three do not have the same number of columns.
        """
        known = self._memory.layout(self._device, archive)
        if known is not None and known != NO_LAYOUT:
            self._layouts[archive] = known
            self._remembered.add(archive)
            return known
        sources, names, units = [await self._attribute(archive, attribute) for attribute in _LAYOUT_ATTRIBUTES]
        counts = [len(groups) for groups in (sources, names, units) if groups]
        if len(set(counts)) > 1:
            raise iec62056.RemoteProtocolError(
                f"archive {archive}: the meter's sources, names and units have {counts} columns; they must agree"
            )
        layout = Layout(tuple(_source(text) for text in sources), tuple(names), tuple(units))
        if counts:
            self._layouts[archive] = layout
            self._memory.keep_layout(self._device, archive, layout)
        return layout

    async def _attribute(self, archive: int, attribute: str) -> list[str]:
        """One row of column texts; nothing if this meter does not have that attribute."""
        try:
            await self._come_back()
            # Read once and kept for years, so one wrong character here would name every reading wrongly.
            return await self._opening.read(lis200.archive_address(archive, attribute), twice=True)
        except iec62056.MeterRefusal as refusal:
            if refusal.code not in UNKNOWN_ATTRIBUTE:
                raise
            return []

    async def rows(self, archive: int, position: int, start: str, end: str) -> AsyncIterator[list[list[str]]]:
        """Read an archive (R3) block by block; goes on after its last good row if the line was lent in between.

        It goes on by the archive's own row numbers where there are some, because a meter's clock may have gone back.
        """
        if self._cut:
            for rows in self._slice or ():
                yield rows
            return
        async for rows in self._readout(archive, position, start, end):
            if self._slice is not None:
                self._slice.append(rows)
            yield rows
            del rows

    async def _readout(self, archive: int, position: int, start: str, end: str) -> AsyncIterator[list[list[str]]]:
        """Ask for the rows, and again from the last good one, until all have come or the slice ends."""
        readout = Readout(archive, position, start, end, self._layouts.get(archive))
        checks = ArchiveChecks(archive, self._layouts.get(archive), self._zone)
        asked_anew = 0
        while not (readout.over or self._cut):
            try:
                async for rows in self._answer(readout, checks):
                    yield rows
                    del rows
            except iec62056.MeterRefusal as refusal:
                if not readout.goes_on_after(refusal.code, self._opening.times.repeats):
                    raise
            except _Misunderstood as misunderstood:
                asked_anew += 1
                if asked_anew > self._opening.times.repeats:
                    raise
                if misunderstood.problem is not None:
                    checks.settle(misunderstood.problem)
                await self._opening.conversation.quiet()
                readout.interrupted()
            except (NoAnswer, iec62056.RemoteProtocolError):
                # Where a long block does not come through, a shorter one may.
                if self._forgotten(archive) or self._rows_per_block(archive) == 1:
                    raise
                self._blocks(archive).lost()
                readout.interrupted()

    async def _answer(self, readout: Readout, checks: ArchiveChecks) -> AsyncIterator[list[list[str]]]:
        """Ask once (R3) and bring the new rows of each block, until it is over or the line was lent."""
        await self._come_back()
        talk, blocks = self._opening.conversation, self._blocks(readout.archive)
        asked = self._rows_per_block(readout.archive)
        command = iec62056.ReadBlocks(lis200.archive_address(readout.archive), readout.argument(asked))
        block = data_only(await talk.ask(command, again=True, expected=blocks.characters(asked), ours=_has_rows))
        stuck = 0
        while True:
            block, rows = await self._sound(block, readout, checks)
            anew = blocks.came(self._opening.times.repeats - talk.core.repeats_left)
            fresh = readout.take(rows, last=block.last)
            self.rows_read += len(fresh)
            if fresh:
                yield [hidden_in_row(row) for row in fresh]
            del rows, fresh  # of many lines that are waited for, none keeps a block
            if readout.over or readout.asks_on:
                return
            if await self._between_blocks() or anew:
                readout.interrupted()
                return
            # A block whose acknowledgement was lost comes again; its rows are dropped above.
            stuck = stuck + 1 if block.repeated else 0
            del block
            if stuck > self._opening.times.repeats:
                raise iec62056.TooManyRepeats
            block = await talk.next_block(good=True, expected=blocks.characters(asked))

    def begin_slice(self, block_seconds: float) -> None:
        """From now on an archive's readout may be cut after any block; blocks last no longer than that."""
        self._slice, self._cut, self._block_seconds = [], False, block_seconds

    @property
    def slice_rows(self) -> int:
        """How many rows the slice has brought."""
        return sum(map(len, self._slice or ()))

    def cut(self) -> None:
        """End the readout with the rows that have come: for the call it is over."""
        self._cut = True

    def end_slice(self) -> bool:
        """Let readouts go to their end again; whether this one was cut."""
        was, self._slice, self._cut = self._cut, None, False
        self._block_seconds = math.inf
        return was

    def _columns(self, archive: int) -> int | None:
        layout = self._layouts.get(archive)
        return len(layout.sources or layout.names) if layout else None

    def _rows_per_block(self, archive: int) -> int:
        rate, seconds = self._opening.conversation.core.rate, min(self._opening.times.block, self._block_seconds)
        return self._blocks(archive).rows(seconds, rate, self._columns(archive))

    def _blocks(self, archive: int) -> Blocks:
        return self._opening.learned.blocks.setdefault((self._device, archive), Blocks())

    def _forgotten(self, archive: int) -> bool:
        """Whether the columns turned out to be others than remembered."""
        return archive in self._remembered and self._memory.layout(self._device, archive) == NO_LAYOUT

    async def _sound(
        self, block: iec62056.Data, readout: Readout, checks: ArchiveChecks
    ) -> tuple[iec62056.Data, tuple[lis200.Row, ...]]:
        """Return the block and its rows once they hold together: the block check lets some errors through.

        What comes the same twice is the meter's own word, however odd, and is left to the context to judge.

        Raises:
            _Misunderstood: when not the block but the question has to be repeated.
            RemoteProtocolError: when the block never held together; with its text as it came.
        """
        archive, conversation = readout.archive, self._opening.conversation
        odd = None
        while True:
            problem: iec62056.RemoteProtocolError | None = None
            rows: tuple[lis200.Row, ...] = ()
            try:
                rows = block.rows
                problem = checks.doubt(rows, readout.asked)
            except iec62056.UnreadableValue as error:
                problem = error
            if await conversation.surplus() and not self._more_behind(block.text):
                raise _Misunderstood(f"archive {archive}: more came behind a block: {shown(block.text)}")
            same_again = bool(rows) and block.text == odd
            doubt = problem if isinstance(problem, Doubt) else None
            if doubt is not None and doubt.misunderstood:
                raise _Misunderstood(f"{doubt}; the block as it came: {shown(block.text)}", doubt)
            if same_again and doubt is not None:
                checks.settle(doubt)
                if doubt.kind is Kind.COLUMNS and archive in self._remembered:
                    # The meter was changed since its columns were read.
                    self._memory.keep_layout(self._device, archive, NO_LAYOUT)
                    raise iec62056.RemoteProtocolError(f"{doubt}; its columns will be read anew by the next run")
            if problem is None or same_again:
                checks.accept(rows)
                self._blocks(archive).seen(len(block.text), len(rows))
                return block, rows
            if not conversation.core.repeats_left:
                raise iec62056.RemoteProtocolError(f"{problem}; the block as it came: {shown(block.text)}")
            odd = block.text
            block = await conversation.next_block(good=False)

    def _more_behind(self, text: str) -> bool:
        """Whether this meter always sends something behind its blocks: it did so behind this very block before."""
        same, self._behind = self._behind in {text, None}, text
        if same:
            self._behind = None
        return same


def _has_rows(block: iec62056.Data) -> bool:
    """Whether a block may be one of an archive: those have no address in front. LIS-200 fact sheet 3.3."""
    return not block.address


def _source(text: str) -> str:
    """``0002:0300`` as ``2:300``; empty for a column without a source, or one that names none."""
    try:
        return lis200.Address.parse(text).core
    except iec62056.UnreadableValue:
        return ""
