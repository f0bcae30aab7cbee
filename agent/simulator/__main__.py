"""``python -m agent.simulator``: the command ``simulate`` alone."""

from agent.simulator.cli import command

command(prog_name="simulate")
