"""Two relays under load, one of them killed: the short form of the bench ``relays``; that alone judges how quickly."""

from benchmarks.relays import KILLED, run


def test_a_relay_that_is_killed_under_load_loses_and_doubles_nothing() -> None:
    figures = run(gateways=10, readings=12_000, rows=20, edits=20, relays=(), ended=(KILLED,))

    (takeover,) = figures.takeovers
    assert takeover.readings >= 12_000
    assert (takeover.missing, takeover.doubled, takeover.wrong) == (0, 0, 0), takeover
    assert takeover.taken_over > 0, "something was to be on its way to the relay that was killed"
    # Both relays hear of each edit and each command, and one of them sends it.
    assert (figures.published.not_published, figures.published.doubled) == (0, 0), figures.published
    assert figures.published.commands == {1: 10}, figures.published
    assert figures.deadlocks == 0, figures.waited_for
