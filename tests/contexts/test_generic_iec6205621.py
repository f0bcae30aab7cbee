"""The context generic_iec6205621 against a meter that is a text: what becomes a reading, when it was, what is told."""

import dataclasses
import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contexts.calls import CallError
from contexts.catalogue import CONTEXTS, check_call, find_call, kwargs_from_text
from contexts.iec6205621_registers import brought
from contexts.meters import Answer, DataMessage, Moment, Opened
from protocol.iec62056 import MeterRefusal, UnreadableValue
from protocol.iec62056.data_lines import parse_data_message

CONTEXT = "generic_iec6205621"
BERLIN = ZoneInfo("Europe/Berlin")
CAME = dt.datetime(2025, 3, 12, 9, 30, 10, 250_000, tzinfo=dt.UTC)


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[misc, arg-type]


@dataclasses.dataclass
class TextMeter:
    """A meter of which only the calls of this context are asked; each readout says the next text."""

    texts: list[str] = dataclasses.field(default_factory=list)
    answers: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    mappings: Mapping[tuple[int, str], str] = dataclasses.field(default_factory=dict)
    zone: ZoneInfo = BERLIN
    model: str = "LZQ"

    async def readout(self, *, again: bool = False) -> DataMessage:
        text = self.texts.pop(0) if again and len(self.texts) > 1 else self.texts[0]
        return DataMessage(f"{text}\r\n!\r\n", CAME)

    async def register(self, address: str, *, command: str = "R1") -> str:
        assert command in {"R1", "R5"}
        answers = self.answers.get(address)
        if not answers:
            raise MeterRefusal(2)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def now(self) -> dt.datetime:
        return CAME


async def call(meter: TextMeter, name: str, **kwargs: object) -> Answer:
    return await find_call(CONTEXT, name).run(meter, Moment(CAME, CAME), check_call(CONTEXT, name, kwargs))


def values_of(answer: Answer) -> list[tuple[str, str, str]]:
    return [(value.series, str(value.value), value.unit) for value in answer.values]


def test_the_calls_and_what_their_sessions_are_opened_for() -> None:
    calls = CONTEXTS[CONTEXT].calls

    assert {name: call.manner.opened for name, call in calls.items()} == {
        "read_readout": Opened.READOUT,
        "read_register": Opened.PROGRAMMING,
    }
    assert not any(call.writes or call.archive for call in calls.values())


@pytest.mark.parametrize(
    ("name", "kwargs", "field"),
    [
        ("read_readout", {"registers": []}, "task_kwargs.registers"),
        ("read_readout", {"registers": ["1.8.0(1)"]}, "task_kwargs.registers"),
        ("read_readout", {"registers": ["1.8.0"] * 101}, "task_kwargs.registers"),
        ("read_readout", {"registers": "1.8.0"}, "task_kwargs.registers"),
        ("read_readout", {"verify": "thrice"}, "task_kwargs.verify"),
        ("read_register", {}, "task_kwargs.address"),
        ("read_register", {"address": ""}, "task_kwargs.address"),
        ("read_register", {"address": "1.8.0!"}, "task_kwargs.address"),
        ("read_register", {"address": "1.8.0", "command": "W1"}, "task_kwargs.command"),
    ],
)
def test_what_cannot_be_asked(name: str, kwargs: dict[str, object], field: str) -> None:
    with pytest.raises(CallError) as refused:
        check_call(CONTEXT, name, kwargs)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("text", "given"),
    [("1.8.0,2.8.0", ["1.8.0", "2.8.0"]), ("1.8.0", ["1.8.0"]), ("null", None)],
)
def test_a_list_on_a_command_line_is_its_parts(text: str, given: list[str] | None) -> None:
    assert kwargs_from_text(CONTEXT, "read_readout", {"registers": text}) == {"registers": given}


async def test_only_what_is_measured_is_a_reading() -> None:
    meter = TextMeter(
        ["F.F(00)\r\n0.0.0(4711)\r\n0.9.1(103010)\r\n0.1.0(62)\r\n1.8.0(0012.30*kWh)\r\nC.7.0(3)\r\n96.5.0(7)"]
    )

    answer = await call(meter, "read_readout")

    assert values_of(answer) == [("1.8.0", "12.30", "kWh")]
    assert answer.values[0].answered == CAME
    assert answer.result["texts"]["0.0.0"] == "4711"
    assert answer.events == []


async def test_numbers_of_other_registers_are_readings_if_they_are_named_but_names_and_times_never() -> None:
    meter = TextMeter(["0.0.0(4711)\r\n0.9.1(103010)\r\nC.7.0(3)\r\nF.F(0)"])

    answer = await call(meter, "read_readout", registers=["0.0.0", "0.9.1", "C.7.0", "F.F"])

    assert values_of(answer) == [("C.7.0", "3", "")]
    assert answer.problems == []


@pytest.mark.parametrize(
    ("line", "instant"),
    [
        ("1.6.1(1.5*kW)(2503101115)", utc(2025, 3, 10, 10, 15)),
        ("1.6.1(1.5*kW)(250710111500S)", utc(2025, 7, 10, 9, 15)),
        ("1.6.1(1.5*kW)(2250310111500)", utc(2025, 3, 10, 11, 15)),
        ("1.6.1(1.5*kW)(25-03-10 11:15)", utc(2025, 3, 10, 10, 15)),
        ("0-1:24.2.1(250310111500W)(1.5*m3)", utc(2025, 3, 10, 10, 15)),
        ("1.6.1(1.5*kW)(241027023000S)", utc(2024, 10, 27, 0, 30)),
        ("1.6.1(1.5*kW)(241027023000W)", utc(2024, 10, 27, 1, 30)),
        ("1.6.1(1.5*kW)(0000000000)", None),
        ("1.6.1(1.5*kW)(17*kW)", None),
        ("1.6.1(1.5*kW)", None),
    ],
)
async def test_a_value_has_the_time_that_stands_beside_it(line: str, instant: dt.datetime | None) -> None:
    [value] = (await call(TextMeter([line]), "read_readout")).values

    assert (value.value, value.timestamp) == (Decimal("1.5"), instant)


async def test_a_stored_value_has_the_end_of_its_billing_period() -> None:
    text = "0.1.0*02(2503010000)\r\n0.1.2*01(2502010000)\r\n1.8.0*02(8*kWh)\r\n1.8.0&01(7*kWh)\r\n1.8.0*00(6*kWh)"

    answer = await call(TextMeter([text]), "read_readout")

    assert {value.series: value.timestamp for value in answer.values} == {
        "1.8.0*02": utc(2025, 2, 28, 23),
        "1.8.0&01": utc(2025, 1, 31, 23),
        "1.8.0*00": None,
    }


async def test_series_are_mapped_by_the_id_or_what_it_means() -> None:
    mappings = {(0, "1.8.0"): "import", (0, "1-0:2.8.0*255"): "export", (3, "3.8.0"): "of an archive"}
    meter = TextMeter(["1-0:1.8.0*255(1*kWh)\r\n1-0:2.8.0*255(2*kWh)\r\n1-0:3.8.0*255(3*kvarh)"], mappings=mappings)

    answer = await call(meter, "read_readout")

    assert [value.series for value in answer.values] == ["import", "export", "1-0:3.8.0*255"]


async def test_what_is_not_as_it_should_be_costs_itself() -> None:
    text = "1.8.0(NaN*kWh)\r\n1.8.1(1*kWh)\r\n1.8.2(--*kWh)\r\n2.8.0(1*kWh)\r\n2.8.0(2*kWh)\r\n"
    text += "3.8.0(5*kWh)\r\n3.8.0(5*kWh)"

    answer = await call(TextMeter([text]), "read_readout")

    assert values_of(answer) == [("1.8.1", "1", "kWh"), ("3.8.0", "5", "kWh")]
    assert [problem.partition(":")[0] for problem in answer.problems] == [
        "1.8.0",
        "2.8.0 came more than once, with different values",
    ]
    assert answer.result["texts"]["1.8.2"] == "--"


async def test_an_error_register_that_is_not_zero_is_an_event_even_if_it_was_not_named() -> None:
    answer = await call(TextMeter(["F.F(00000010)\r\n1.8.0(1*kWh)"]), "read_readout", registers=["1.8.0"])

    [event] = answer.events
    assert (event.code, event.timestamp) == ("F.F:00000010", CAME)
    assert "F.F shows 00000010" in event.content


async def test_twice_takes_what_two_readouts_agree_on() -> None:
    texts = [f"1.8.0({value}*kWh)\r\n2.8.0(5*kWh)\r\n32.7.0({230 + value}*V)" for value in (1, 1, 2, 2, 3, 4)]

    answer = await call(TextMeter(texts), "read_readout", registers=["1.8.0", "2.8.0"], verify="twice")

    assert sorted(values_of(answer)) == [("1.8.0", "1", "kWh"), ("2.8.0", "5", "kWh")]
    assert answer.problems == []


async def test_a_register_is_read_until_two_answers_agree() -> None:
    meter = TextMeter(answers={"1.8.0": ["1.8.0(1*kWh)", "1.8.0(9*kWh)", "1.8.0(2*kWh)", "1.8.0(2*kWh)"]})

    assert values_of(await call(meter, "read_register", address="1.8.0", verify="twice")) == [("1.8.0", "2", "kWh")]


@pytest.mark.parametrize(
    ("text", "series"), [("1.8.0(1*kWh)", "1.8.0"), ("1-0:1.8.0*255(1*kWh)", "1-0:1.8.0*255"), ("(1*kWh)", "1.8.0")]
)
async def test_an_answer_may_repeat_the_id_in_its_own_way_or_not(text: str, series: str) -> None:
    meter = TextMeter(answers={"1.8.0": [text]})

    assert values_of(await call(meter, "read_register", address="1.8.0")) == [(series, "1", "kWh")]


@pytest.mark.parametrize("text", ["(ERROR)", "(ER07)", "1.8.0(1*kWh)1.8.1(2*kWh)", "nothing", ""])
async def test_what_is_no_value_of_a_register(text: str) -> None:
    with pytest.raises(UnreadableValue):
        await call(TextMeter(answers={"1.8.0": [text]}), "read_register", address="1.8.0")


async def test_a_refusal_ends_the_call() -> None:
    with pytest.raises(MeterRefusal):
        await call(TextMeter(), "read_register", address="1.8.0")


@given(st.text(st.sampled_from("0123456789.:*&-()FCkWhSW \r\n"), max_size=120))
def test_whatever_a_meter_shows_is_judged_and_never_raises(text: str) -> None:
    try:
        registers = parse_data_message(f"{text}\r\n!\r\n")
    except UnreadableValue:
        return
    found = brought(registers, named=None, came=CAME, zone=BERLIN, mappings={})
    assert all(value.value.is_finite() for value in found.values)
