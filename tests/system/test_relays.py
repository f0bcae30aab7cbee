"""Two relays under load, one of them killed, or asked to end: the short form of the bench ``relays``.

That alone judges how quickly.
"""

from benchmarks.relays import KILLED, STOPPED, run


def test_a_relay_that_ends_under_load_loses_and_doubles_nothing_and_one_that_is_asked_costs_no_repeat() -> None:
    figures = run(gateways=10, readings=12_000, rows=20, edits=20, relays=(), ended=(KILLED, STOPPED))

    takeover, drained = figures.takeovers
    for one in figures.takeovers:
        assert (one.missing, one.doubled, one.wrong) == (0, 0, 0), one
    assert drained.readings >= takeover.readings + 12_000 >= 24_000
    # What the one that was asked to end had taken it stored and receipted, and the other one took the rest.
    assert (drained.resent, drained.repeated) == (0, 0), drained
    assert takeover.taken_over > 0, "something was to be on its way to the relay that was killed"
    # Both relays hear of each edit and each command, and one of them sends it.
    assert (figures.published.not_published, figures.published.doubled) == (0, 0), figures.published
    assert figures.published.commands == {1: 10}, figures.published
    assert figures.deadlocks == 0, "\n".join(figures.deadlocked)
