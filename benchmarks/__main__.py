"""``python -m benchmarks [NAME [OPTIONS]]``: run one benchmark, or all of them one after the other.

Rules: a benchmark is a module of this folder with ``main(arguments) -> exit status``; it is found by that alone.
"""

import importlib
import pathlib
import sys
from collections.abc import Sequence


def names() -> list[str]:
    """Return the benchmarks: the modules of this folder that do not begin with an underscore and hold ``main``."""
    files = pathlib.Path(__file__).parent.glob("[!_]*.py")
    return sorted(file.stem for file in files if "\ndef main(" in file.read_text(encoding="utf-8"))


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark that the first argument names, or all of them; the worst exit status counts."""
    if not arguments:
        return max((_run(name, []) for name in names()), default=0)
    if arguments[0] not in names():
        sys.stderr.write(f"usage: python -m benchmarks [NAME [OPTIONS]]; NAME is one of: {', '.join(names())}\n")
        return 2
    return _run(arguments[0], arguments[1:])


def _run(name: str, arguments: Sequence[str]) -> int:
    status: int = importlib.import_module(f"benchmarks.{name}").main(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
