"""``metergate-agent ports``: where a meter may be plugged in on this machine."""

import click
import msgspec

from agent.cli_meter import WIDE
from agent.ports import Port, find_ports
from agent.tables import table

_HELP = """List the serial ports of this machine.

PATH is the one to put into a plan and to give to the other commands: it belongs to the adapter (by-id) or to the socket
that it is plugged into (by-path), while /dev/ttyUSB0 may be another one after the next start. `held by` says which
process has the port open or locked: a line has one owner. No port is opened for this.

\b
  metergate-agent ports
  metergate-agent ports --json | jq -r .path

Exit status: 0 done (also when there is none), 2 wrong usage.
"""


@click.command("ports", help=_HELP, context_settings=WIDE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per port and line.")
def command(*, as_json: bool) -> None:
    """List the serial ports of this machine."""
    ports = find_ports()
    if as_json:
        for port in ports:
            click.echo(msgspec.json.encode(port))
        return
    if not ports:
        click.echo("no serial port; an adapter that is plugged in shows in `dmesg` and in /dev/serial/by-id", err=True)
        return
    for line in table(("path", "device", "what", "held by"), [_row(port) for port in ports]):
        click.echo(line)
    if any(not port.writable for port in ports):
        click.echo("\n*: this user may not open it; add it to the group that owns the port (often dialout)", err=True)


def _row(port: Port) -> tuple[str, str, str, str]:
    what = " ".join(part for part in (port.vendor, port.product, port.serial, port.usb and f"[{port.usb}]") if part)
    held = ", ".join(f"{holder.command} ({holder.pid}, {holder.how})" for holder in port.held_by)
    return (port.path, f"{port.device}{'' if port.writable else ' *'}", what or port.driver, held)
