"""Arrays as PostgreSQL writes them, told to it as one text each: ``CAST(CAST(:ids AS text) AS uuid[])``.

Of a list its driver asks for each element whether that is a list as well, which takes as long as all else that is done
with it: a millisecond for a thousand ids.
"""

import uuid
from collections.abc import Iterable, Sequence


def of_words(words: Iterable[str]) -> str:
    """Return an array of words that need no quotes, such as numbers."""
    return f"{{{','.join(words)}}}"


def of_texts(texts: Sequence[str]) -> str:
    """Return an array of any texts but such with NUL, which PostgreSQL does not have."""
    quoted = {text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in set(texts)}
    return of_words([quoted[text] for text in texts])


def of_ids(ids: Iterable[uuid.UUID]) -> str:
    """Return an array of ids."""
    return f"{{{b''.join([one.int.to_bytes(16, 'big') for one in ids]).hex(',', -16)}}}"
