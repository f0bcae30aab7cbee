"""Single values of a LIS-200 meter: objects read one by one, what becomes a reading of them, and who the meter is.

Rules: a number of a quantity is a reading in the series of its address; a text, a state or another attribute is a
result for people only. Of several values each is judged by itself.
"""

import dataclasses
import datetime as dt
from typing import Any

from contexts.lis200_columns import is_number_like, is_quantity, is_total, series_name
from contexts.lis200_kwargs import ReadIdentity, ReadSingleValue, ReadValues
from contexts.lis200_times import nearest
from contexts.lis200_verify import verified
from contexts.meters import Answer, LineFailure, Meter, Moment, Value
from protocol.iec62056 import codes
from protocol.iec62056.errors import MeterRefusal, RemoteProtocolError, UnreadableValue
from protocol.iec62056.lis200 import VALUE, Address, decode_text, parse_datetime, parse_status, parse_value

IDENTITY = (
    ("serial_number", "1:180"),
    ("type", "1:181"),
    ("software_version", "2:190"),
    ("maker", "2:181"),
    ("station_number", "3:180"),
    ("metrology_version", "1:190"),
    ("software_checksum", "2:191"),
    ("metrology_checksum", "1:191"),
    ("gas_meter_serial", "1:222"),
    ("temperature_sensor_serial", "5:222"),
    ("pressure_sensor_serial", "6:222"),
    ("bus_address", "2:70E"),
    ("battery_months", "2:404"),
)
"""What is asked for who a meter is, by the word in the result. Source: LIS-200 fact sheet 4."""

NOT_THERE = frozenset({1, 2, 3, 4, 5, 101})
"""Refusals that mean that this meter has no such object. Source: LIS-200 fact sheet 5.1."""

STATES = frozenset({"100", "110", "111"})
"""Objects that hold a list of messages. Source: LIS-200 fact sheet 4."""

_VALUE_AND_TIME = 2
_SYSTEM_STATUS = "2:100"


async def read_single_value(meter: Meter, moment: Moment, kwargs: ReadSingleValue) -> Answer:
    """Read one object; a number becomes a reading, a text (serial number, state, date) only a result.

    The reading has no timestamp unless the meter answers with one of its own (maxima: value and time). A state
    (``1:110``) is told with the meaning of each message.

    Raises:
        UnreadableValue: when a number is there that is none (``NaN``) or is too long, with its text.
        MeterRefusal: when the meter says no.
    """
    meter = verified(meter, kwargs.verify)
    value, result = await _read_object(meter, moment, kwargs.address.parsed)
    return Answer(values=[value] if value else [], result=result)


async def read_values(meter: Meter, moment: Moment, kwargs: ReadValues) -> Answer:
    """Read several objects; a refusal or an unreadable value is a problem of the answer and costs that value only.

    Where the conversation ends before all were asked for, what was read until then is the answer.
    """
    meter = verified(meter, kwargs.verify)
    values, results, problems = [], [], []
    ended_by = None
    for asked in kwargs.addresses:
        address = asked.parsed
        try:
            value, result = await _read_object(meter, moment, address)
        except (MeterRefusal, UnreadableValue) as error:
            problems.append(f"{address.core}: {error}")
            results.append({"address": address.core, "problem": str(error)})
            continue
        except (LineFailure, RemoteProtocolError) as error:
            missing = len(kwargs.addresses) - len(results)
            problems.append(f"{address.core}: {error}; {missing} of {len(kwargs.addresses)} objects were not read")
            ended_by = error
            break
        results.append(result)
        if value is not None:
            values.append(dataclasses.replace(value, answered=await meter.now()))
    return Answer(values=values, result={"values": results}, problems=problems, ended_by=ended_by)


async def read_identity(meter: Meter, moment: Moment, kwargs: ReadIdentity) -> Answer:
    """Read serial number, type, versions and what is connected; what a meter does not have is not in the result.

    ``identification`` is what it called itself when it was opened: in compatibility mode that is a sibling's name
    (LIS-200 fact sheet 8.18), ``type`` is its own.
    """
    del moment, kwargs  # texts without a time
    result: dict[str, Any] = {"identification": meter.model}
    problems = []
    for word, core in IDENTITY:
        try:
            groups = await meter.read(f"{core}.{VALUE}")
        except MeterRefusal as refusal:
            if refusal.code not in NOT_THERE:
                problems.append(f"{word} ({core}): {refusal}")
            continue
        except UnreadableValue as error:
            problems.append(f"{word} ({core}): {error}")
            continue
        if groups:
            result[word] = decode_text(groups[0].partition("*")[0]).strip()
    return Answer(result=result, problems=problems)


async def _read_object(meter: Meter, moment: Moment, address: Address) -> tuple[Value | None, dict[str, Any]]:
    """The reading, if it is one, and what people are told."""
    groups = await meter.read(str(address))
    if not groups:
        raise UnreadableValue("", f"the value of {address}")
    value = parse_value(groups[0])
    result: dict[str, Any] = {"address": address.core, "text": value.text, "unit": value.unit}
    if address.attribute not in {"", VALUE}:
        return None, {**result, "address": str(address)}
    if address.object in STATES:
        return None, {**result, "messages": _messages(address, value.text, meter.model)}
    if not is_quantity(address) or not is_number_like(value.text):
        return None, result
    series = series_name(meter.mappings, 0, address.core, total=is_total(address))
    timestamp = _stamp(meter, groups[1], moment) if len(groups) == _VALUE_AND_TIME else None
    return Value(series, value.number, value.unit, timestamp), result


def _messages(address: Address, text: str, model: str) -> list[dict[str, Any]]:
    """The messages of a state with their meanings. Source: LIS-200 fact sheet 5.2.

    ``1:100`` shows those of all states together, so that only their severity is known.
    """
    status = None if address.core == _SYSTEM_STATUS else address.instance
    everything = address.object == "100" and status is not None
    try:
        numbers = parse_status(text)
    except UnreadableValue:
        return []
    return [
        {
            "message": number,
            "severity": codes.severity(number),
            "meaning": "" if everything else codes.message_title(number, status, model),
        }
        for number in numbers
    ]


def _stamp(meter: Meter, text: str, moment: Moment) -> dt.datetime | None:
    """The time of a maximum; None if that group holds something else."""
    try:
        return nearest(meter.zone, parse_datetime(text), moment.now)
    except UnreadableValue:
        return None
