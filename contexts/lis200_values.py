"""Single values of a LIS-200 meter: objects read one by one, and what becomes a reading of them.

Rules: a number of a quantity is a reading in the series of its address; a text, a state or another attribute is a
result for people only.
"""

import datetime as dt

from contexts.lis200_columns import is_number_like, is_quantity, is_total, series_name
from contexts.lis200_kwargs import ReadSingleValue
from contexts.lis200_times import nearest
from contexts.meters import Answer, Meter, Moment, Value
from protocol.iec62056.errors import UnreadableValue
from protocol.iec62056.lis200 import VALUE, parse_datetime, parse_value

_VALUE_AND_TIME = 2


async def read_single_value(meter: Meter, moment: Moment, kwargs: ReadSingleValue) -> Answer:
    """Read one object; a number becomes a reading, a text (serial number, state, date) only a result.

    The reading has no timestamp unless the meter answers with one of its own (maxima: value and time).

    Raises:
        UnreadableValue: when a number is there that is none (``NaN``) or is too long, with its text.
        MeterRefusal: when the meter says no.
    """
    address = kwargs.address.parsed
    groups = await meter.read(str(address))
    if not groups:
        raise UnreadableValue("", f"the value of {address}")
    value = parse_value(groups[0])
    result = {"address": address.core, "text": value.text, "unit": value.unit}
    if address.attribute not in {"", VALUE}:
        return Answer(result={**result, "address": str(address)})
    if not is_quantity(address) or not is_number_like(value.text):
        return Answer(result=result)
    series = series_name(meter.mappings, 0, address.core, total=is_total(address))
    timestamp = _stamp(meter, groups[1], moment) if len(groups) == _VALUE_AND_TIME else None
    return Answer(values=[Value(series, value.number, value.unit, timestamp)], result=result)


def _stamp(meter: Meter, text: str, moment: Moment) -> dt.datetime | None:
    """The time of a maximum; None if that group holds something else."""
    try:
        return nearest(meter.zone, parse_datetime(text), moment.now)
    except UnreadableValue:
        return None
