"""The bench of a large installation: what its gateways say, and which figures are no longer good."""

import dataclasses
import datetime as dt
import uuid

from benchmarks._fleet_figures import MOST_RELAY, WANTED_BURST, WANTED_REST, Burst, Change, Figures
from benchmarks._fleet_voices import Voice, meter_of
from protocol.envelopes import open_envelope
from protocol.plans import plan_digest, render_plan
from protocol.readings import checked_batch
from protocol.reports import PlanApplied, Receipt, decode_online, decode_report
from protocol.topics import Channel

NOW = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
CHANGE = Change(
    name="edit of all", gateways=10_000, answer=9.0, last_plan=20.0, known=30.0, plans=10_000, bare=4.0,
    relay_memory=150.0, rest_memory=150.0, wanted_seconds=60.0, wanted_share=0.1, asked=True,
)  # fmt: skip
BURST = Burst(
    number=1, batches=10_000, readings=100_000, mebibytes=10.0, seconds=30.0, published=3.0, missing=0, resent=0,
    rest_requests=100, rest_median=0.01, rest_p99=0.1, rest_failures=(), relay_memory=150.0, rest_memory=150.0,
)  # fmt: skip


def test_a_gateway_says_that_it_runs_the_plan_it_got() -> None:
    voice = Voice.of(3)
    body = render_plan(voice.name, 7, NOW, lines=[], devices=[], tasks=[], callers=[])
    said = voice.apply(body)
    assert said is not None
    batch = checked_batch(open_envelope(said.topic, said.payload).body)
    report = decode_report(batch.rows[0])
    assert isinstance(report, PlanApplied)
    assert (report.revision, report.digest) == (7, plan_digest(body))
    assert voice.apply(body) is None
    assert voice.receipted(Receipt(Channel.REPORT.value, [batch.name], NOW))
    online = voice.online()
    sign = decode_online(open_envelope(online.topic, online.payload).body)
    assert (sign.plan_revision, sign.plan_digest, sign.reports_through, sign.depth) == (7, plan_digest(body), 1, 0)


def test_meters_have_the_ids_that_sql_gives_them() -> None:
    # SELECT md5('meter 12 3')::uuid
    assert meter_of(12, 3) == uuid.UUID("842540ea-bab6-0ace-0b30-7a3f12dcd79b")


def test_a_figure_that_misses_its_bound_is_not_good() -> None:
    good = Figures(10_000, 100_000, 1.0, 5.0, {}, [CHANGE], [BURST, dataclasses.replace(BURST, number=2)])
    assert good.good
    assert "all goals hold" in good.lines()
    for wrong in (
        dataclasses.replace(CHANGE, answer=None),
        dataclasses.replace(CHANGE, last_plan=61.0),
        dataclasses.replace(CHANGE, last_plan=None),
        dataclasses.replace(CHANGE, known=None),
        dataclasses.replace(CHANGE, bare=1.0),
        dataclasses.replace(CHANGE, relay_memory=MOST_RELAY + 1),
    ):
        assert not dataclasses.replace(good, changes=[CHANGE, wrong]).good
    for late in (
        dataclasses.replace(BURST, seconds=WANTED_BURST + 1),
        dataclasses.replace(BURST, missing=1),
        dataclasses.replace(BURST, rest_p99=WANTED_REST + 0.1),
    ):
        assert not dataclasses.replace(good, bursts=[late]).good
    # Each is in time, but each is slower than the one before.
    growing = [dataclasses.replace(BURST, seconds=seconds) for seconds in (20.0, 30.0, 40.0)]
    assert not dataclasses.replace(good, bursts=growing).good
    assert not dataclasses.replace(good, signs_seconds=None).good
