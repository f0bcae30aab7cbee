"""The command ``metergate-hub``: finds out whether the hub is installed at all, and says causes, not tracebacks."""

import gc
import sys
from collections.abc import Sequence

_NEVER_NEEDED = "rich"
"""What structlog would load, with all of its parts, to write for a terminal: the hub's logs are JSON."""

_GARBAGE_AFTER = 50_000
"""Objects made before cycles are looked for; Python's 700 has a starting process do so thousands of times in vain."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; the process's own unless another is given.

    What ends the work is said in one sentence on standard error, with exit status 1; wrong usage is 2.
    """
    # None forbids the import.
    sys.modules.setdefault(_NEVER_NEEDED, None)  # type: ignore[arg-type]
    gc.set_threshold(_GARBAGE_AFTER, 10, 10)
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        if arguments[:1] == ["api"]:
            # Asks a hub from afar, often in a loop of a script: that waits for no database's library.
            from client.cli import api  # noqa: PLC0415 - as below

            api.main(args=arguments[1:], prog_name="metergate-hub api")
        from hub.cli import commands, expected_causes  # noqa: PLC0415 - without the extra [hub] this fails, and is said
    except ModuleNotFoundError as error:
        sys.stderr.write(f"metergate-hub lacks {error.name}: install it with pip install 'metergate[hub]'\n")
        sys.exit(1)
    expected = expected_causes()
    caught: tuple[type[BaseException], ...] = (ExceptionGroup, *expected)
    try:
        commands.main(args=argv, prog_name="metergate-hub")
    except caught as error:
        causes = leaves(error)
        if not all(isinstance(cause, expected) for cause in causes):
            raise
        for cause in causes:
            sys.stderr.write(f"metergate-hub: {cause}\n")
        sys.exit(1)


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors that a group of errors is made of, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]
