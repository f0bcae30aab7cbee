"""The context ``generic_lis200``: what a task may ask of any LIS-200 meter (EK, TC, DL, FE).

Role: the list of its calls. What they take is in ``contexts.lis200_kwargs``, what they do in
``contexts.lis200_values``, ``contexts.lis200_archives`` and ``contexts.lis200_clock``.
"""

from contexts.calls import Call, Context
from contexts.lis200_archives import (
    read_archive_by_date,
    read_archive_by_offset_seconds,
    read_archive_since_last,
    read_events,
)
from contexts.lis200_clock import set_time
from contexts.lis200_kwargs import (
    ReadArchiveByDate,
    ReadArchiveByOffsetSeconds,
    ReadArchiveSinceLast,
    ReadEvents,
    ReadIdentity,
    ReadSingleValue,
    ReadValues,
    SetTime,
)
from contexts.lis200_values import read_identity, read_single_value, read_values

CONTEXT = Context(
    "generic_lis200",
    "LIS-200 meters over IEC 62056-21 mode C: EK and TC volume correctors, DL data loggers, FE function extensions",
    {
        call.name: call
        for call in (
            Call(
                "read_single_value",
                ReadSingleValue,
                read_single_value,
                sources=lambda kwargs: (kwargs.address.parsed.core,),
            ),
            Call("read_archive_by_date", ReadArchiveByDate, read_archive_by_date, archive=True),
            Call(
                "read_archive_by_offset_seconds",
                ReadArchiveByOffsetSeconds,
                read_archive_by_offset_seconds,
                archive=True,
            ),
            Call("read_archive_since_last", ReadArchiveSinceLast, read_archive_since_last, archive=True),
            Call("read_events", ReadEvents, read_events, archive=True),
            Call(
                "read_values",
                ReadValues,
                read_values,
                sources=lambda kwargs: tuple(asked.parsed.core for asked in kwargs.addresses),
            ),
            Call("read_identity", ReadIdentity, read_identity),
            Call("set_time", SetTime, set_time, writes=True),
        )
    },
)
