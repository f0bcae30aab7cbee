"""The columns of LIS-200 archives that do not tell them themselves: by kind of meter, archive and number of columns.

Rules: tables only, used where a firmware lacks the attribute with the sources of its columns. A layout of another
length than the rows is never used, and a column whose object nobody documents has no source here (the maxima of data
loggers): no reading is better than one under a wrong name. Source: LIS-200 fact sheet 3.4, 3.5.
"""

from collections.abc import Sequence

from contexts.meters import Layout

_HEAD, _EVENT, _CHECK = "1:1F8|GONo {a}:A20|AONo 1:400|Time", "{a}:A22|Event", "|Check"
_COUNTERS = "2:300|Vb|m3 2:302|VbT|m3 4:300|V|m3 4:302|VT|m3"
_LOG = f"{_HEAD} {_EVENT} {_CHECK}"
_AUDIT = f"{_HEAD} |Address |Old |New |AL |ML |SL |CL {_CHECK}"
_EK_PERIODS = (
    f"{_HEAD} {_COUNTERS} 7:310|p|bar 6:310_1|T|{{{{C 8:310|K 5:310|C "
    f"2:110|St.2 4:110|St.4 7:110|St.7 6:110|St.6 2:100|StSy {_EVENT} {_CHECK}"
)
_TC_PERIODS = (
    f"{{a}}:A20|AONo 1:400|Time {_COUNTERS} 6:310_1|T|{{{{C 7:310|p|kPa 5:310|C 2:110|St.2 6:110|St.6 2:100|StSy "
    f"{_EVENT} {_CHECK}"
)


def _maximum(source: str, name: str) -> str:
    return f"{source}|{name}|m3 |Time |St"


def _maxima(*pairs: tuple[str, str]) -> str:
    return " ".join(_maximum(source, name) for source, name in pairs)


_STANDARD = _maxima(("10:161", "VbMPmax"), ("11:161", "VbDaymax"))
_ACTUAL = _maxima(("3:161", "VMPmax"), ("4:161", "VDaymax"))
_EK_MONTHS = (
    f"{_HEAD} 2:300|Vb|m3 2:302|VbT|m3 {_STANDARD} 4:300|V|m3 4:302|VT|m3 {_ACTUAL} 2:110|St.2 4:110|St.4 {_CHECK}"
)
_EK260_V1_MONTHS = f"{_HEAD} 2:300|Vb|m3 {_STANDARD} 4:300|V|m3 {_ACTUAL} 2:110|St.2 4:110|St.4 {_CHECK}"
_DL_PERIODS = f"{_HEAD} {{c}}:202|VT|m3 {{c}}:203|VA|m3 {{c}}:110|St.{{c}} 2:100|StSy {_EVENT} {_CHECK}"
_DL_MONTHS = (
    f"{_HEAD} {{c}}:202|VT|m3 {{c}}:203|VA|m3 |MPmax|m3 |Time |St |Daymax|m3 |Time |St "
    f"{{c}}:110|St.{{c}} 2:100|StSy {_CHECK}"
)
_LOGS: dict[int, tuple[str, ...]] = {4: (_LOG,), 5: (_AUDIT,)}
_EK = {1: (_EK_MONTHS, _EK260_V1_MONTHS), 3: (_EK_PERIODS,), 7: (_EK_PERIODS,), **_LOGS}
_TC = {3: (_TC_PERIODS,), 7: (_TC_PERIODS,), **_LOGS}
_CHANNELS = 4
_LOGGERS: dict[int, tuple[str, ...]] = {10: (_LOG,), 11: (_AUDIT,)}
for _channel in range(1, _CHANNELS + 1):
    _LOGGERS |= {2 * _channel - 1: (_DL_MONTHS,), 2 * _channel: (_DL_PERIODS,)}

_FAMILIES = {"EK": _EK, "TC": _TC, "DL": _LOGGERS}


def known_layouts(model: str, archive: int) -> list[Layout]:
    """What the columns of this archive of such a meter can be."""
    tables = _FAMILIES.get(model[:2].upper(), {})
    return [_layout(text, archive) for text in tables.get(archive, ())]


def completed(layout: Layout, model: str, archive: int, rows: Sequence[Sequence[str]]) -> Layout:
    """The layout, with the sources that are known for such rows where the meter tells none."""
    if any(layout.sources) or not rows:
        return layout
    count = len(layout.names) or max(len(row) for row in rows)
    for known in known_layouts(model, archive):
        if len(known.names) == count:
            return Layout(known.sources, layout.names or known.names, layout.units or known.units)
    return layout


def _layout(text: str, archive: int) -> Layout:
    cells = text.format(a=archive, c=(archive + 1) // 2).split()
    parts = [(*cell.split("|"), "", "")[:3] for cell in cells]
    sources, names, units = zip(*parts, strict=True)
    return Layout(sources, names, units)
