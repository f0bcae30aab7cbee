"""The wheel is whole, and with ``[agent]`` alone it stays small."""

import hashlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import venv
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[2]
ROOMS = ("protocol", "contexts", "receivers", "mqtt", "client", "agent", "hub")
SOURCES = (*ROOMS, "pyproject.toml", "README.md", "LICENSE")


def run(*command: str | pathlib.Path, cwd: pathlib.Path = ROOT) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def locked_for(wheel: pathlib.Path, extra: str) -> str:
    """Cut constraints.txt to what the wheel needs with one extra, as its own metadata says.

    pip takes hashes from requirements only, not from constraints; and if anything were missing it would refuse.
    """
    locked = {
        canonicalize_name(entry.split("==")[0]): entry
        for entry in re.split(r"^(?=\w)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
        if entry
    }
    home = next(path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info"))
    metadata = importlib.metadata.PathDistribution(home)
    needed: dict[str, str] = {}
    waiting = [(requirement, extra) for requirement in metadata.requires or ()]
    while waiting:
        text, wanted_extra = waiting.pop()
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name in needed or (requirement.marker and not requirement.marker.evaluate({"extra": wanted_extra})):
            continue
        needed[name] = locked[name]
        waiting.extend((line, "") for line in importlib.metadata.requires(name) or ())
    return "".join(needed.values())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Build it from a copy of what git would keep, so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        run("cp", "-R", ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", cwd=source)
    return next((source / "dist").glob("metergate-*.whl"))


@pytest.fixture(scope="module")
def gateway(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An environment as on a gateway: the wheel with ``[agent]``, everything by its hash. Returns its bin folder."""
    home = tmp_path_factory.mktemp("gateway")
    venv.create(home / "venv", with_pip=True, symlinks=True)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    wanted = home / "agent.txt"
    locked = locked_for(wheel, "agent")
    wanted.write_text(f"{locked}metergate[agent] @ {wheel.as_uri()} --hash=sha256:{digest}\n", encoding="utf-8")
    binaries = home / "venv" / "bin"
    run(
        *(binaries / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--require-hashes", "-r", wanted),
    )
    return binaries


def test_the_wheel_has_every_module_marker_and_migration(wheel: pathlib.Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    for room in ROOMS:
        assert f"{room}/py.typed" in packed
        for path in (ROOT / room).rglob("*.py"):
            assert str(path.relative_to(ROOT)) in packed
    assert any(name.startswith("hub/migrations/versions/") for name in packed)
    assert {name.split("/")[0] for name in packed if ".dist-info" not in name} == set(ROOMS)
    assert any(name.endswith("LICENSE") for name in packed)


def test_a_gateway_gets_the_agent_and_neither_orm_nor_web_framework(gateway: pathlib.Path) -> None:
    assert "simulate" in run(gateway / "metergate-agent", "--help")
    installed = run(gateway / "python", "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check").lower()
    assert "metergate==" in installed
    for heavy in ("litestar", "sqlalchemy", "uvicorn", "alembic", "iotcore"):
        assert heavy not in installed


def test_run_imports_no_command_line_library(gateway: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A gateway's memory is small: what ``run`` never uses it never loads. The settings are wrong, so that it ends."""
    settings = tmp_path / "agent.toml"
    settings.write_text("no_such_key = 1\n", encoding="utf-8")
    done = subprocess.run(
        [gateway / "python", "-X", "importtime", gateway / "metergate-agent", "run", "--config", settings],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {1, 2}
    assert "no_such_key" in done.stderr
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "agent.app" in loaded
    assert not {name for name in loaded if name.split(".")[0] in {"click", "sqlalchemy", "litestar"}}
