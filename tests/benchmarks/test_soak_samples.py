"""What the soak takes for flat, and what for growth."""

import os

from benchmarks.soak_samples import Held, Sample, course_of, growth_of, look


def an_hour(**changes: float) -> list[Sample]:
    """Samples of an hour, one every ten seconds; ``changes`` is what each hour adds."""
    samples = []
    for number in range(361):
        share = number / 360
        # A process warms up, and what it holds moves to and fro.
        rss = min(40.0, 30.0 + number) + number % 3 * 0.1 + changes.get("rss", 0.0) * share
        descriptors = 11 + (32 if number % 50 < 5 else 0) + int(changes.get("descriptors", 0) * share)
        held = Held(rss, descriptors, 3, number * 0.5)
        samples.append(Sample(number * 10.0, {"agent": held}, {"agent.log": int(36_000 * share)}))
    return samples


def test_a_process_that_only_warms_up_is_flat() -> None:
    course = course_of("agent", an_hour())
    assert course is not None
    assert abs(course.rss_growth_mib) < 0.1
    assert abs(course.rss_slope_mib_per_hour) < 0.1
    assert (course.descriptors_growth, course.threads_growth) == (0, 0)
    assert course.descriptors_highest == 43
    assert round(course.cpu_share, 3) == 0.05


def test_a_leak_shows() -> None:
    course = course_of("agent", an_hour(rss=8.0, descriptors=20))
    assert course is not None
    assert 3.5 < course.rss_growth_mib < 4.5
    assert 7.5 < course.rss_slope_mib_per_hour < 8.5
    assert course.descriptors_growth >= 8


def test_a_file_grows_by_what_it_has_grown_in_the_second_half() -> None:
    assert growth_of("agent.log", an_hour()) == (18_000, 36_000, 36_000.0)


def test_a_restarted_process_has_used_what_both_have_used() -> None:
    samples = an_hour()
    for sample in samples[180:]:
        held = sample.processes["agent"]
        sample.processes["agent"] = Held(held.rss_mib, held.descriptors, held.threads, held.cpu_seconds - 90.0)
    course = course_of("agent", samples)
    assert course is not None
    assert 0.049 < course.cpu_share < 0.0501


def test_one_looks_at_what_is_there() -> None:
    held = look([os.getpid()])
    assert held is not None
    assert held.rss_mib > 5
    assert held.descriptors >= 3
    assert look([2**22 + 1]) is None
