"""What a stranger makes of the REST interface: schemathesis reads the OpenAPI document, and tries all that it says.

A hub runs as a process with the things of two organizations in it. Schemathesis asks every operation for what the
document allows and for what it does not, first as staff and then as a user of one of the organizations, with all of its
checks: no 5xx, no answer, header or body that the document does not have, nothing wrong accepted, nothing open to
nobody. Besides, in no answer to the user may be an id or a name of the other organization's. Exit status 0 only then.
"""

import argparse
import dataclasses
import json
import logging
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Iterator, Sequence

import httpx
import structlog

from benchmarks.postgres import postgres
from deploy.demo.processes import Stage, program
from hub.keys import open_key

PASSWORD = "correct horse battery staple"  # noqa: S105 - of a user that lives as long as this bench
DOCUMENT = "/schema/openapi.json"

_CONFIGURED = textwrap.dedent(
    """
    [checks.positive_data_acceptance]
    # What no schema can say: a 400 that a text is no sheet, a 422 names ids that nothing has, a 404 an object, a 503
    # what this hub is not set up for.
    expected-statuses = ["2xx", "3xx", "400", "401", "403", "404", "409", "412", "422", "429", "503"]

    [checks.negative_data_rejection]
    # 412: what If-Match names is looked at before what is to be stored.
    expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "415", "422", "429"]
    """
)
_STAFF, _USER = "staff", "user"
_PHASES = "examples,coverage,fuzzing,stateful"


@dataclasses.dataclass(frozen=True)
class Tried:
    """One run: as whom, how much was sent, and what was found."""

    who: str
    operations: int
    cases: int
    failures: tuple[str, ...]
    foreign: tuple[str, ...]
    server_errors: int


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Both runs."""

    database: str
    seed: int
    runs: tuple[Tried, ...]

    @property
    def good(self) -> bool:
        """Whether nothing was found, of something."""
        return all(one.cases > 0 and not (one.failures or one.foreign or one.server_errors) for one in self.runs)


def main(arguments: Sequence[str]) -> int:
    """Try and print; the exit status says whether nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks rest", description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite", help="behind the hub")
    parser.add_argument("--seconds", type=int, default=600, help="for each run (600); 0: every operation once")
    parser.add_argument("--only", default="", metavar="REGEX", help="paths to try (all)")
    parser.add_argument("--cases", type=int, default=50, help="an operation, of each kind (50)")
    parser.add_argument(
        "--phases", default="examples,coverage,fuzzing,stateful", help="schemathesis's phases, by comma"
    )
    parser.add_argument("--as", dest="who", choices=(_STAFF, _USER), help="only as one of them")
    parser.add_argument("--seed", type=int, default=1, help="which cases are made (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR", help="keep logs and reports in DIR")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory(prefix="metergate-rest-") as temporary:
        folder = options.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        verdict = _on_database(folder, options)
    told = json.dumps(dataclasses.asdict(verdict) | {"good": verdict.good}) if options.json else _shown(verdict)
    sys.stdout.write(f"{told}\n")
    return 0 if verdict.good else 1


def _shown(verdict: Verdict) -> str:
    lines = [f"schemathesis on {verdict.database}, seed {verdict.seed}"]
    for one in verdict.runs:
        found = [*one.failures, *(f"another organization's: {text}" for text in one.foreign)]
        lines.append(
            f"as {one.who}: {one.cases} cases of {one.operations} operations; {one.server_errors} answers of 500 and "
            f"more, {len(one.failures)} failures, {len(one.foreign)} foreign"
        )
        lines += [f"  {text}" for text in found]
    return "\n".join([*lines, "nothing found" if verdict.good else "FOUND"])


def _on_database(folder: pathlib.Path, options: argparse.Namespace) -> Verdict:
    (folder / "schemathesis.toml").write_text(_CONFIGURED)
    if options.database == "sqlite":
        place = ["--data", str(folder / "data")]
        return _with_hub(folder, options, ["run", "--mqtt-port", "0", *place], place)
    with postgres(folder / "postgres", shared_buffers="64MB") as server:
        place = ["--database", server.url()]
        return _with_hub(folder, options, ["serve", "--data", str(folder / "data"), *place], place)


def _with_hub(folder: pathlib.Path, options: argparse.Namespace, command: list[str], place: list[str]) -> Verdict:
    with Stage(folder, {}) as stage:
        if command[0] == "serve":
            stage.run(["metergate-hub", "migrate", *place])
            # In place of a relay, which would say what secrets are sealed for.
            (folder / "data").mkdir()
            open_key(folder / "data" / "hub.key")
            stage.run(["metergate-hub", "keys", "rotate", "--data", str(folder / "data"), *place])
        url = stage.start("hub", ["metergate-hub", *command, "--port", "0"], hello=True).hello["rest"]
        staff = f"Token {stage.run(['metergate-hub', 'token', 'create', 'rest', *place]).split()[-1]}"
        with httpx.Client(base_url=url, headers={"Authorization": staff}, timeout=60) as client:
            ours, theirs = _things(client, "ours"), _things(client, "theirs")
            user = _signed_in(client, ours["organization"])
            asked = {_STAFF: (staff, frozenset[str]()), _USER: (user, frozenset(theirs.values()))}
            runs = tuple(
                _tried(who, url, authorization, foreign, folder, options)
                for who, (authorization, foreign) in asked.items()
                if options.who in {None, who}
            )
    return Verdict(options.database, options.seed, runs)


def _things(client: httpx.Client, name: str) -> dict[str, str]:
    """Make what an organization has; return the ids and its name, none of which anybody else has."""

    def made(path: str, **body: object) -> str:
        answer = client.post(f"/v1{path}", json=body)
        answer.raise_for_status()
        return str(answer.json()["id"])

    mark = f"{name}-{uuid.uuid4().hex[:12]}"
    organization = made("/organizations", name=mark)
    own = {"organization": organization, "name": mark}
    gateway = made("/gateways", organization=organization, gateway_id=mark)
    line = made("/metering/network-interfaces", **own, gateway=gateway, serial_port="/dev/ttyS0")
    series = made("/metering/meter-reading-series", **own, unit="m3")
    config = made("/metering/meter-device-configs", **own, series=[series])
    kind = made("/metering/meter-device-types", **own, manufacturer="Elster", manufacturer_model="EK280", config=config)
    meter = made("/metering/meter-devices", **own, protocol="lis-200", type=kind, network_interface=line)
    task = made(
        "/metering/amr-tasks",
        **own,
        schedule="hourly",
        meter_execution_type="generic_lis200",
        task_call="read_single_value",
        task_kwargs={"address": "2:300"},
    )
    group = made("/metering/amr-task-groups", **own)
    at = "2026-01-01T00:00:00Z"
    made(
        "/metering/meter-readings",
        organization=organization,
        meter_device=meter,
        series=series,
        timestamp=at,
        value="12.5",
    )
    made(
        "/metering/meter-system-events",
        organization=organization,
        meter_device=meter,
        timestamp=at,
        title=mark,
        content="open",
    )
    made("/metering/meter-security-keys", meter=meter)
    return {
        "mark": mark,
        "organization": organization,
        "gateway": gateway,
        "line": line,
        "series": series,
        "config": config,
        "kind": kind,
        "meter": meter,
        "task": task,
        "group": group,
    }


def _signed_in(client: httpx.Client, organization: str) -> str:
    """Make a user of an organization; return what such a one sends as ``Authorization``."""
    user = {"username": f"user-{uuid.uuid4().hex[:12]}", "password": PASSWORD}
    made = client.post("/v1/users", json=user).raise_for_status().json()
    client.post("/v1/organizations/memberships", json={"organization": organization, "user": made["id"]})
    answer = client.post("/v1/auth/jwt/token/", json=user)
    return f"JWT {answer.raise_for_status().json()['token']}"


def _tried(
    who: str, url: str, authorization: str, foreign: frozenset[str], folder: pathlib.Path, options: argparse.Namespace
) -> Tried:
    """Have schemathesis try everything as somebody."""
    report = folder / f"{who}.ndjson"
    command = [
        *(program("st"), "--config-file", "schemathesis.toml", "--no-color", "run", f"{url}{DOCUMENT}"),
        *("--header", f"Authorization: {authorization}", "--checks", "all", "--phases", options.phases),
        *("--max-examples", str(options.cases), "--seed", str(options.seed)),
        *("--generation-database", "none", "--continue-on-failure", "--request-timeout", "30"),
        *("--report", "ndjson", "--report-ndjson-path", str(report), "--output-sanitize", "false"),
    ]
    if options.seconds:
        command += ["--max-time", str(options.seconds)]
    if options.only:
        command += ["--include-path-regex", options.only]
    if who == _USER:
        # Who may not is told so, whatever is sent.
        command += ["--exclude-path-regex", "^/v1/auth/jwt/(change|renew)"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    (folder / f"{who}.txt").write_text(done.stdout + done.stderr)
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"schemathesis ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    found = re.search(r"(\d+) generated", done.stdout)
    tested = re.search(r"Tested: (\d+)", done.stdout)
    text = report.read_text("utf-8", "replace")
    return Tried(
        who,
        int(tested.group(1)) if tested else 0,
        int(found.group(1)) if found else 0,
        tuple(_failures(done.stdout)),
        tuple(sorted(one for one in foreign if one in text)),
        len(re.findall(r'"status_code": ?5\d\d', text)),
    )


def _failures(printed: str) -> Iterator[str]:
    """Yield what schemathesis says is wrong, with the operation: ``GET /v1/x: Undocumented status code``."""
    operation = ""
    for line in printed.splitlines():
        if title := re.fullmatch(r"_+ ([A-Z]+ /\S*) _+", line):
            operation = title.group(1)
        elif problem := re.fullmatch(r"- ST\d+ (.*)", line):
            yield f"{operation}: {problem.group(1)}"
