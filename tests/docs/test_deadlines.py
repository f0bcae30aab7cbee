"""docs/deadlines.md names what there is, and its receiver knows a genuine event from others."""

import datetime as dt
import uuid
from typing import Any

from hub import deadlines_told, webhooks
from hub.deadlines_periods import MOST_OPEN, PAST, PERIODS, RATED
from hub.webhooks_signed import headers_of
from tests.docs.blocks import ROOT, blocks_of, python_script

PAGE = ROOT / "docs" / "deadlines.md"
TEXT = PAGE.read_text(encoding="utf-8")
SECRET = "whsec_" + "c2VjcmV0" * 5
BODY = b'{"id": 1}'


def test_its_receiver_takes_what_the_hub_sends_and_nothing_else() -> None:
    page: dict[str, Any] = {}
    exec(compile(python_script(PAGE), str(PAGE), "exec"), page)  # noqa: S102 - the page's own code
    is_genuine = page["is_genuine"]
    now = dt.datetime.now(dt.UTC)
    headers = headers_of(SECRET, uuid.uuid4(), now, BODY)
    old = headers_of(SECRET, uuid.uuid4(), now - dt.timedelta(minutes=6), BODY)
    assert is_genuine(SECRET, headers, BODY)
    assert is_genuine(SECRET, headers | {"webhook-signature": f"v1,AAAA {headers['webhook-signature']}"}, BODY)
    assert not is_genuine(SECRET, headers, BODY + b" ")
    assert not is_genuine("whsec_" + "b3RoZXIh" * 5, headers, BODY)
    assert not is_genuine(SECRET, headers | {"webhook-id": str(uuid.uuid4())}, BODY)
    assert not is_genuine(SECRET, old, BODY)


def test_it_is_ten_lines() -> None:
    (block,) = (block for block in blocks_of(PAGE) if block.language == "python")
    code = [line for line in block.text.splitlines() if line.strip() and not line.startswith("import")]
    assert len(code) <= 10


def test_every_word_stands_there() -> None:
    words = {
        *deadlines_told.TYPES,
        *webhooks.STATES,
        *PERIODS,
        *deadlines_told.Result.__struct_fields__,
        deadlines_told.RUNNING,
        deadlines_told.CLOSING,
        deadlines_told.OVER,
    } - {"start", "end", "zone", "due_at", "as_of", "projected_percent"}
    assert [word for word in sorted(words) if f"`{word}`" not in TEXT] == []
    assert (MOST_OPEN, PAST, RATED, webhooks.MOST_TRIES) == (10, 28, 7, 12), "the page has these in words"
