"""How this gateway stands, as it tells the hub, its people and Prometheus: life sign, status, page of figures."""

import contextlib
import functools
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import structlog

from agent import line_figures, metrics
from agent.backlog import STATUS, BacklogError, read_backlog
from agent.clocks import Clock
from agent.duties import EMPTY, Roster
from agent.settings import AgentSettings
from agent.storage_faults import StoreFullError
from agent.store import BROKEN, FOREIGN, RESTORED, Store
from agent.trust import ClockTrust
from protocol import reports

log = structlog.get_logger(__name__)

ORIGINS = {
    RESTORED: "the store file was copied or put back: it has a new id, and everything in it is sent again",
    FOREIGN: "the store file was another gateway's: it has a new id, and what it had not delivered is sent",
    BROKEN: "the store file was damaged: it was moved aside, and what could be read of it goes on in a new one",
}
"""What a store's origin means, for people."""


class Connected(NamedTuple):
    """How the uplink stands: whether the broker is connected, and what is odd about it."""

    connected: bool
    warning: str


class Receivers(Protocol):
    """How the receivers stand; there are none while the plan has none."""

    def trouble(self) -> str:
        """What people should know."""

    def samples(self) -> Iterable[metrics.Sample]:
        """Their figures."""


class Standing:
    """What is told of the gateway.

    Attributes:
        roster: The plan that runs.
        doubt: Why the clock was not believed at the last look; empty when it was.
    """

    def __init__(
        self,
        settings: AgentSettings,
        store: Store,
        clock: Clock,
        trust: ClockTrust,
        *,
        uplink: Callable[[], Connected],
        lines: Callable[[], list[reports.LineFigures]],
        receivers: Callable[[], Receivers | None],
        sealing_key: Callable[[], bytes],
    ) -> None:
        self._settings, self._store, self._clock, self._trust = settings, store, clock, trust
        self._uplink, self._lines, self._receivers = uplink, lines, receivers
        self._sealing_key = sealing_key
        self.roster: Roster = EMPTY
        self.doubt = ""

    def life_sign(self) -> reports.Online:
        """Return what the hub is told whenever something of it has changed."""
        store = self._store
        return reports.Online(
            gateway=self._settings.gateway,
            online=True,
            session=store.session,
            store=store.id,
            software=software(),
            at=self._clock.now(),
            plan_revision=self.roster.revision,
            plan_digest=self.roster.digest,
            readings_through=store.readings.through(),
            reports_through=store.reports.through(),
            depth=store.depth(),
            oldest=store.oldest_waiting(),
            clock_believed=self._trust.believed(),
            status=self._status(),
            sequence=store.last_state(),
            lines=line_figures.reported(self._lines()),
            sealing_key=self._sealing_key(),
        )

    def _status(self) -> str:
        """Say what people should know of this gateway, in a sentence each; ``metergate-agent outbox`` shows it too."""
        aside = self._store.readings.aside() + self._store.reports.aside()
        receivers = self._receivers()
        parts = [
            self._trust.doubt(),
            self._uplink().warning,
            self._store.fault,
            self._store.budget.stopped,
            ORIGINS.get(self._store.origin, ""),
            f"{aside} rows fit into no message that this broker takes" if aside else "",
            receivers.trouble() if receivers is not None else "",
        ]
        status = "; ".join(part for part in parts if part)
        if status != self._store.get(STATUS):
            with contextlib.suppress(StoreFullError), self._store.transaction(durable=False):
                self._store.put(STATUS, status)
        return status

    def page(self) -> str:
        """Write the page for Prometheus; runs in another thread, so that it asks the store's file, not the store."""
        try:
            backlog = metrics.of_backlog(read_backlog(self._settings.store, self._clock.now()))
        except BacklogError as error:
            log.warning("metrics_without_store", cause=str(error))
            backlog = []
        lines = self._lines()
        receivers = self._receivers()
        state = (
            ("connected", "Whether the broker is connected", self._uplink().connected),
            ("clock_believed", "Whether the clock was believed at the last look", not self.doubt),
            ("plan_revision", "Revision of the plan that runs", self.roster.revision),
            ("lines", "Lines in the plan that runs", len(lines)),
            ("tasks", "Tasks on meters in the plan that runs", len(self.roster.duties)),
        )
        samples = [
            metrics.Sample("info", "Who this is", 1, {"gateway": self._settings.gateway, "software": software()}),
            *(metrics.Sample(name, text, int(value)) for name, text, value in state),
            *backlog,
            *line_figures.samples(lines),
            *(receivers.samples() if receivers is not None else ()),
            *metrics.counted(),
        ]
        return metrics.render(samples, metrics.of_process())


@functools.cache
def software() -> str:
    """Return the version that the life sign names."""
    # By the installed folder's name: importlib.metadata would load the whole of email for it.
    found = (path.name for entry in sys.path for path in pathlib.Path(entry).glob("metergate-*.dist-info"))
    return f"metergate {next(found, 'metergate-unknown.dist-info').removesuffix('.dist-info').partition('-')[2]}"
