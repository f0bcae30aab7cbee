"""The page on the simulator names everything that there is."""

from pathlib import Path

import click

from agent.simulator.cli import command
from agent.simulator.electricity import ELECTRICITY
from agent.simulator.faults import FAULTS
from agent.simulator.personas import PERSONAS

PAGE = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text(encoding="utf-8")


def test_every_option_fault_and_model_is_documented() -> None:
    options = [name for option in command.params if isinstance(option, click.Option) for name in option.opts]
    missing = [word for word in (*options, *FAULTS, *PERSONAS, *ELECTRICITY) if f"`{word}" not in PAGE]
    assert missing == []


def test_the_archives_of_every_model_are_documented() -> None:
    for persona in PERSONAS.values():
        line = next(line for line in PAGE.splitlines() if line.startswith(f"| `{persona.model}`"))
        assert all(str(archive.number) in line for archive in persona.archives)
