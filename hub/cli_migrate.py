"""``metergate-hub migrate``: its options and words; the work is done by ``hub.migrating``."""

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from hub.cli_places import data_option, database_of, database_option, json_option
from hub.database import async_url, create_engine, make_place, named
from hub.logs import set_up_logs
from hub.sole_use import sole_use

if TYPE_CHECKING:
    from hub.migrating import Outlook, Step

_AWARE = (
    "--to {target} is a way back, on which something is lost: see it with --dry-run, end the hub's processes, "
    "then say --downgrade"
)


@click.command("migrate")
@click.option("--to", default="head", help="The schema to end with, such as 0021; this version's own unless given.")
@click.option("--dry-run", is_flag=True, help="Say where the database stands and what would be done; change nothing.")
@click.option("--downgrade", is_flag=True, help="Allow a way back, on which something is lost.")
@json_option
@data_option
@database_option
def migrate_command(
    data: Path | None, database: str | None, to: str, *, dry_run: bool, downgrade: bool, as_json: bool
) -> None:
    """Bring the database to this version's schema.

    Each step goes beside running processes, or says why they have to be ended before it. What steps have done stays
    done when one of them is refused; the next run goes on from there. SQLite: the hub on it must not run.
    """
    # Alembic is half a second: not for every other command.
    from hub.migrating import look, move  # noqa: PLC0415 - as above

    url = database_of(data, database)
    target = async_url(url)

    def say(step: "Step") -> None:
        if not as_json:
            click.echo(f"{step.revision} {step.title} ({step.seconds:.1f} s)")

    async def work() -> "Outlook":
        outlook = await look(url, to)
        if dry_run or not outlook.steps:
            return outlook
        if outlook.is_back and not downgrade:
            raise click.UsageError(_AWARE.format(target=outlook.target))
        with contextlib.ExitStack() as stack:
            await asyncio.to_thread(make_place, target)
            if target.get_backend_name() == "sqlite" and target.database:
                stack.enter_context(sole_use(Path(target.database).parent))
            else:
                # What is waited for is logged, and not to where the answer goes.
                set_up_logs()
            engine = create_engine(url)
            try:
                with named(target):
                    return await move(engine, to, tell=say)
            finally:
                await engine.dispose()

    outlook = asyncio.run(work())
    if as_json:
        click.echo(msgspec.json.encode(outlook))
    elif dry_run:
        click.echo("\n".join(_shown(outlook)))
    elif outlook.target == outlook.head:
        click.echo("the database is up to date")
    else:
        click.echo(f"the database has schema {outlook.target}")


def _shown(outlook: "Outlook") -> list[str]:
    lines = [f"the database has schema {outlook.schema or 'none'}, this version's is {outlook.head}"]
    if outlook.serves:
        lines.append(f"it serves processes of schema {outlook.serves} and of all above")
    for step in outlook.steps:
        how = "online"
        if step.back:
            how = f"the way back, after the hub's processes have ended: {step.back}"
        elif step.stop and outlook.schema:
            how = f"end the hub's processes first: {step.stop}"
        lines += [f"{step.revision} {step.title}", f"     {how}"]
    return lines
