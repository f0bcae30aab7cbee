"""The bench ``stampede``: what its processes tell is put together, and a case that was not what it is called fails."""

from typing import Any

from benchmarks._stampede_figures import Figures
from benchmarks._stampede_fleet import Course


def told(at: float, stored: int, waiting: int, *, feeding: bool = False, online: int = 2) -> dict[str, Any]:
    line = {"at": at, "stored": stored, "waiting": waiting, "feeding": feeding, "online": online}
    return line | {"windows": online * 4096, "sent": stored // 10, "resent": 0, "connections": online}


def test_offered_and_taken_are_of_the_seconds_in_which_all_processes_store() -> None:
    first = [told(0, 100, 100), told(10, 100, 90), told(20, 300, 240, feeding=True), told(30, 500, 380, feeding=True)]
    first += [told(40, 500, 200), told(50, 500, 0)]
    second = [told(0, 100, 100), told(10, 200, 150, feeding=True), told(20, 400, 300, feeding=True)]
    second += [told(30, 600, 420, feeding=True), told(40, 600, 0)]
    course = Course.of([[{"ready": "return"}, *first], second])
    assert course.fed == (20.0, 30.0)
    # Stored: from 700 to 1,100; without receipt: from 540 to 800.
    assert (course.offered_rate, course.taken_rate) == (40.0, 14.0)
    assert (course.seconds, course.taken) == (50, 1100)
    assert course.window_fed == 4.0


def test_a_course_in_which_nothing_is_stored_has_no_load() -> None:
    course = Course.of([[told(0, 100, 100), told(10, 100, 0)]])
    assert (course.offered_rate, course.taken_rate, course.fed) == (0.0, 0.0, (0.0, 0.0))
    assert course.best_rate == 10.0


def figures(**other: Any) -> Figures:  # noqa: ANN401 - any field
    values: dict[str, Any] = dict.fromkeys(Figures.__dataclass_fields__, 0)
    values |= {"case": "a case", "rest_kinds": {}, "processor": {}, "failures": (), "waiting_share": 1.0}
    values |= {"wanted_rate": 500.0, "offered_rate": 480.0, "taken_rate": 200.0, "ratio": 0.5, "resent_share": 0.01}
    return Figures(**values | other)


def test_a_case_holds_only_under_the_load_that_is_meant() -> None:
    assert figures().good
    assert not figures(taken_rate=300.0).good, "1.6 times is not twice"
    assert not figures(offered_rate=0.0, taken_rate=0.0).good, "nothing was stored although it was to be"
    assert not figures(waiting_share=0.4).good, "the database was not the limit"
    assert figures(wanted_rate=0.0, offered_rate=0.0, taken_rate=0.0, waiting_share=0.0).good
    for bad in ({"ratio": 1.1}, {"resent_share": 0.05}, {"missing": 1}, {"doubled": 1}, {"relay_growth": 200.0}):
        assert not figures(**bad).good
        assert figures(**bad).lines()[-1].endswith("A GOAL DOES NOT HOLD")
