"""``python -m tests.golden.make v2``: write the bytes of this version's messages, to be decoded for ever.

Do it once per released contract that appended a field. A folder that exists is never written again.
"""

import json
import pathlib
import sys

from tests.golden.messages import KINDS, described

FOLDER = pathlib.Path(__file__).parent


def write(folder: pathlib.Path) -> None:
    """Write one ``.bin`` and one ``.json`` per kind of message into a new folder."""
    folder.mkdir()
    for name, kind in KINDS.items():
        data = kind.make()
        (folder / f"{name}.bin").write_bytes(data)
        text = json.dumps(described(kind.read(data)), indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.golden.make VERSION, e.g. v2")
    try:
        write(FOLDER / sys.argv[1])
    except FileExistsError:
        sys.exit(f"{FOLDER / sys.argv[1]} exists: golden bytes are never made again")
