"""Virtual LIS-200 meters on a pseudo-terminal or a TCP port: for demos, training, commissioning and tests.

Role: the other end of the line. The protocol is ``protocol.iec62056`` in the role of the meter; this room adds what a
meter *is*: a gas process that is a pure function of a seed, archives that fill as the meter's clock passes, locks,
objects, a line with a speed, and named faults. What the meters held and said is written down as the truth, so that a
program that knows neither agent nor hub can say what should have arrived (``docs/simulator.md``).

Theory of operation: ``process`` (what flows) <- ``schedules`` (when rows arise) <- ``archives`` (rows, numbered) <-
``meters`` (answers to telegrams) <- ``conversations`` (one meter, the protocol) <- ``shared_line`` (several meters,
pace, collisions) <- ``bus`` (puts it on ``wires``: pty, TCP).

In a test::

    bus = virtual_bus("1:4711:EK280", "2:4712:TC220", seed=7, now=clock.now)
    async with serve_tcp(bus) as endpoint:      # or serve_pty(bus)
        ...                                     # endpoint is what ``agent.links.open_link`` takes
"""
