"""Kwargs judged key by key: by what JSON has, by the texts of a command line; what is wrong is named."""

from typing import Annotated, Any

import msgspec
import pytest

from protocol.kwargs import KwargsError, check_kwargs, kwargs_of_texts


class Word:
    """A type that is made from one text."""

    def __init__(self, text: str) -> None:
        if not text.isalpha():
            raise ValueError(f"{text!r} is no word")
        self.text = text


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody may ask for."""

    name: Annotated[Word, msgspec.Meta(description="a word")]
    count: Annotated[int, msgspec.Meta(ge=1, description="from 1 on")] = 1
    label: str | None = "none"
    parts: Annotated[list[str] | None, msgspec.Meta(description="some parts")] = None

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        if self.parts == []:
            raise KwargsError("parts", "there is none")
        if self.count == 13:
            raise ValueError("thirteen is too many")


@pytest.mark.parametrize(
    ("given", "key", "text"),
    [
        ({}, "name", "missing; expected a word"),
        ({"name": "x", "nmae": "y"}, "nmae", "unknown; asking takes name, count, label, parts"),
        ({"name": "4711"}, "name", "'4711' is no word"),
        ({"name": 5}, "name", "Expected `str`, got `int`; expected a word"),
        ({"name": "x", "count": "2"}, "count", "Expected `int`, got `str`"),
        ({"name": "x", "count": 0}, "count", "expected from 1 on"),
        ({"name": "x", "parts": []}, "parts", "there is none"),
        ({"name": "x", "count": 13}, "", "thirteen is too many"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], key: str, text: str) -> None:
    with pytest.raises(KwargsError) as caught:
        check_kwargs(Asked, given, "asking")
    assert (caught.value.key, text in caught.value.text) == (key, True), caught.value
    assert caught.value.below("kwargs") == (f"kwargs.{key}" if key else "kwargs")
    assert str(caught.value).startswith(f"{key}: " if key else "thirteen")


def test_texts_of_a_command_line() -> None:
    found = kwargs_of_texts(Asked, {"name": "pump", "count": "3", "label": "null", "parts": "a,b"}, "asking")
    assert (found.name.text, found.count, found.label, found.parts) == ("pump", 3, None, ["a", "b"])
    assert kwargs_of_texts(Asked, {"name": "null", "parts": "null"}, "asking").name.text == "null"
    with pytest.raises(KwargsError, match=r"count: .*expected from 1 on"):
        kwargs_of_texts(Asked, {"name": "x", "count": "many"}, "asking")
    with pytest.raises(KwargsError, match="rest: unknown"):
        kwargs_of_texts(Asked, {"name": "x", "rest": "1"}, "asking")
