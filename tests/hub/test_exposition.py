"""The page for Prometheus: named as its conventions want, bounded, and what dashboard and alarms ask for is on it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from hub import exposition, processes
from hub.wellbeing import CHECKS
from tests.parts.databases import database_url, engine
from tests.parts.rest import Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

HUB = Path(__file__).parents[2] / "deploy" / "hub"
PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
MOST_SERIES = 400
"""Series of one process beside those of deadlines; docs/operations.md says so."""

PROMETHEUS_SAYS = re.compile(r"^(process|python)_")
assert processes, "what a relay counts is counted once its modules are loaded"


async def families(rest: Rest) -> dict[str, Metric]:
    """Return the metrics of the page, by their names."""
    text = (await exposition.page(rest.hub)).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in found, f"{family.name} is on the page twice"
        found[family.name] = family
    return found


async def ours(rest: Rest) -> dict[str, Metric]:
    """Return those of the hub, not of the process as such."""
    return {name: metric for name, metric in (await families(rest)).items() if not PROMETHEUS_SAYS.match(name)}


@ONE_DATABASE
async def test_every_metric_has_a_name_a_help_and_a_unit_as_prometheus_wants(rest: Rest) -> None:
    found = await ours(rest)
    assert len(found) > 40
    for name, metric in found.items():
        assert re.fullmatch(r"metergate_[a-z][a-z0-9_]*", name), name
        assert metric.documentation.strip(), name
        assert metric.documentation[0].isupper(), f"{name}: help is a sentence"
        assert not re.search(r"_(milliseconds|ms|minutes|hours|percent|counter|gauge)(_|$)", name), name
        if metric.type == "gauge":
            assert not name.endswith(("_total", "_count", "_sum", "_bucket")), name
        for sample in metric.samples:
            if metric.type == "counter":
                assert sample.name == f"{name}_total", sample.name
            assert not set(sample.labels) & {"gateway", "meter", "meter_device", "device", "instance", "job"}, name


@ONE_DATABASE
async def test_ten_times_the_gateways_are_not_one_series_more(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    few = sum(len(metric.samples) for metric in (await ours(rest)).values())
    gateway = await rest.get(f"/v1/gateways/{fleet.gateway}")
    for number in range(10):
        await rest.post("/v1/gateways", organization=gateway["organization"], gateway_id=f"more-{number}", name="")
    found = await ours(rest)
    assert found["metergate_gateways"].samples[0].value >= 1
    assert sum(len(metric.samples) for metric in found.values()) <= few < MOST_SERIES
    assert f"{MOST_SERIES} series" in PAGE


@ONE_DATABASE
async def test_the_page_of_the_documentation_has_every_metric_with_its_help(rest: Rest) -> None:
    section = PAGE.split("### Metrics of the hub\n")[1].split("\n#")[0]
    listed = dict(re.findall(r"^\| `(metergate_\w+)`(?: [^|]*)?\| \w+ \| (.*?) \|$", section, re.MULTILINE))
    there = {
        f"{name}_total" if metric.type == "counter" else name: metric.documentation
        for name, metric in (await ours(rest)).items()
    }
    assert listed == there, [name for name in {*listed, *there} if listed.get(name) != there.get(name)]


def expressions(found: Any) -> list[str]:  # noqa: ANN401 - JSON
    """Return all queries of a dashboard."""
    if isinstance(found, dict):
        own = [found["expr"]] if "expr" in found else []
        return own + [one for value in found.values() for one in expressions(value)]
    return [one for value in found for one in expressions(value)] if isinstance(found, list) else []


@ONE_DATABASE
async def test_dashboard_and_alarms_ask_for_what_there_is(rest: Rest) -> None:
    there = {sample.name for metric in (await families(rest)).values() for sample in metric.samples}
    # Series with labels begin with their first value, so a new process has only their names.
    there |= {
        f"{name}{end}"
        for name, metric in (await families(rest)).items()
        for end in {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(metric.type, [""])
    }
    alarms = (HUB / "alerts.yml").read_text("utf-8")
    asked = re.findall(r"^ +expr: (.*)$", alarms, re.MULTILINE)
    asked += expressions(json.loads((HUB / "dashboard.json").read_text("utf-8")))
    named = {name for one in asked for name in re.findall(r"\b(?:metergate|process)_\w+", one)}
    assert len(named) > 25
    assert named <= there, named - there
    checks = {name for one in asked for name in re.findall(r'check="(\w+)"', one)}
    assert checks <= set(CHECKS)
    rules = alarms.split("- alert: ")[1:]
    assert len(rules) == len(re.findall(r"^ +expr:", alarms, re.MULTILINE))
    for rule in rules:
        assert re.search(r"^ +severity: (page|ticket)$", rule, re.MULTILINE), rule
        assert re.search(r"^ +summary: \S.*$", rule, re.MULTILINE), rule
        assert re.search(r"^ +do: \S.{20,}$", rule, re.MULTILINE), f"what is to be done? {rule}"
