"""The context ``generic_iec6205621``: what a task may ask of any meter that speaks plain IEC 62056-21.

Role: its two calls and how its meters are spoken to. What they take is in ``contexts.iec6205621_kwargs``, what
registers mean in ``contexts.iec6205621_registers``.
"""

from collections.abc import Sequence

from contexts.calls import Call, Context
from contexts.iec6205621_kwargs import ReadReadout, ReadRegister
from contexts.iec6205621_registers import as_result, brought
from contexts.lis200_verify import TRIES, Disagreement
from contexts.meters import Answer, Manner, Moment, Opened, RegisterMeter
from protocol.iec62056.data_lines import Register, is_error, parse_data_message, parse_data_sets, same_register
from protocol.iec62056.errors import UnreadableValue

SERIAL_AT = ("0.0.0", "C.1.0", "96.1.0")
"""Where electricity and other meters show their number: the owner's, the maker's, the device's. IEC 62056-61."""

READOUT = Manner(opened=Opened.READOUT, serial_at=SERIAL_AT, unasked=True)
SINGLE = Manner(serial_at=SERIAL_AT, argument="", matches=same_register, numbered_locks=False, unasked=True)


async def read_readout(meter: RegisterMeter, moment: Moment, kwargs: ReadReadout) -> Answer:
    """Take the readings of a data readout; its texts are a result, an error register that is not zero an event.

    A value has the time that the meter gives it (a peak's, the end of its billing period), else the gateway's.
    """
    del moment
    named = None if kwargs.registers is None else [register.text for register in kwargs.registers]
    message = await meter.readout()
    registers: Sequence[Register] = parse_data_message(message.text)
    moving: list[str] = []
    if kwargs.verify == "twice":
        registers, moving = await _agreed(meter, registers, named)
    found = brought(registers, named=named, came=message.came, zone=meter.zone, mappings=meter.mappings)
    moved = [f"{name} was not the same in two of {TRIES} readouts" for name in moving]
    gone = {f"the meter does not show {name}" for name in named or () if any(same_register(name, m) for m in moving)}
    problems = [*moved, *(problem for problem in found.problems if problem not in gone)]
    return Answer(found.values, found.events, as_result(found, meter.model), problems=problems)


async def read_register(meter: RegisterMeter, moment: Moment, kwargs: ReadRegister) -> Answer:
    """Read one register; a number is a reading, a text a result.

    Raises:
        UnreadableValue: when the meter answers with an error message, or with what is no register.
        Disagreement: when no two reads in a row agreed (``verify: twice``).
    """
    del moment
    asked = kwargs.address.text
    text = await meter.register(asked, command=kwargs.command)
    if kwargs.verify == "twice":
        text = await _confirm(meter, asked, kwargs.command, text)
    registers = parse_data_sets(text)
    if len(registers) != 1 or is_error(registers[0].groups[0].text):
        raise UnreadableValue(text, f"the value of {asked}")
    shown = Register(registers[0].id or asked, registers[0].groups)
    found = brought([shown], named=[shown.id], came=await meter.now(), zone=meter.zone, mappings=meter.mappings)
    return Answer(found.values, found.events, as_result(found, meter.model), problems=found.problems)


async def _confirm(meter: RegisterMeter, asked: str, command: str, text: str) -> str:
    """Read until two answers in a row agree, and return what they say."""
    for _ in range(TRIES - 1):
        before, text = text, await meter.register(asked, command=command)
        if text == before:
            return text
    raise Disagreement(f"{asked} was read {TRIES} times and no two reads in a row agreed; the last is {text!r}")


async def _agreed(
    meter: RegisterMeter, registers: Sequence[Register], named: Sequence[str] | None
) -> tuple[list[Register], list[str]]:
    """The registers that came the same in two readouts in a row, and the ids of those that never did."""
    agreed: dict[str, Register] = {}
    for _ in range(TRIES - 1):
        before = {register.id: register for register in registers}
        registers = parse_data_message((await meter.readout(again=True)).text)
        agreed |= {register.id: register for register in registers if before.get(register.id) == register}
        wanted = [r.id for r in registers if named is None or any(same_register(name, r.id) for name in named)]
        if agreed.keys() >= set(wanted):
            break
    return list(agreed.values()), [name for name in wanted if name not in agreed]


CONTEXT = Context(
    "generic_iec6205621",
    "meters with plain IEC 62056-21 in modes A, B and C: data readout, and single registers by their OBIS ids",
    {
        call.name: call
        for call in (
            Call(
                "read_readout",
                ReadReadout,
                read_readout,
                manner=READOUT,
                sources=lambda kwargs: tuple(asked.text for asked in kwargs.registers or ()),
            ),
            Call(
                "read_register",
                ReadRegister,
                read_register,
                manner=SINGLE,
                sources=lambda kwargs: (kwargs.address.text,),
            ),
        )
    },
)
