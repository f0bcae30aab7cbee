"""The command group behind ``metergate-agent``; each command is imported when it is called, not before."""

import importlib

import click

_COMMANDS = {
    "run": ("", "Run this gateway: poll by the hub's plan, bring every reading home."),
    "outbox": ("agent.cli_outbox", "Show what waits here to reach the hub, beside a running agent or without it."),
    "lines": ("agent.cli_lines", "Show what the lines do: busy time, bytes, repeats, errors, meters that are silent."),
    "ports": ("agent.cli_ports", "List the serial ports of this machine, what they are, and who holds them."),
    "identify": ("agent.cli_identify", "Find the meter on a line: rate, parity, address, and what stands there."),
    "archive": ("agent.cli_archive", "Read an archive of a meter: a table, JSON lines or a CSV file."),
    "read": ("agent.cli_read", "Ask one meter one thing, without any hub."),
    "listen": ("agent.cli_listen", "Show what meters push: P1 telegrams and other unasked readouts, without any hub."),
    "replay": ("agent.cli_replay", "Run a recorded conversation again, offline."),
    "capture": ("agent.cli_capture", "Make a simulated meter or a regression test of a recorded conversation."),
    "simulate": ("agent.simulator.cli", "Be meters: on a pseudo-terminal or over TCP, with faults on demand."),
    "push": ("agent.simulator.cli_push", "Be meters that push, with loss, doubles, swaps and restarts on demand."),
    "invoke": ("agent.invoke", "Run a call on a meter through its gateway, over MQTT, hub or no hub."),
}
_HELP = """The edge of Metergate: reads meters where they stand and brings every reading home exactly once.

\b
First steps, without any hardware:
  metergate-agent simulate --listen tcp:127.0.0.1:4001
  metergate-agent read socket://127.0.0.1:4001 generic_lis200 read_single_value address=2:300

\b
In front of a meter:
  metergate-agent ports
  metergate-agent identify /dev/ttyUSB0
  metergate-agent archive /dev/ttyUSB0 3 --last 2d

\b
On a gateway:
  metergate-agent run --config /etc/metergate/agent.toml

Exit status: 0 done, 1 the work failed (the cause is on standard error), 2 wrong usage.
"""


class _LazyGroup(click.Group):
    """Knows the commands by name and one line of help, so that asking for help imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        module, _ = _COMMANDS.get(cmd_name, ("", ""))
        if not module:
            return None
        command: click.Command = importlib.import_module(module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, help=_HELP, context_settings={"max_content_width": 120})
@click.version_option(package_name="metergate")
def cli() -> None:
    """Hold the commands together."""
