"""What the simulator's tests share: a clock that stands until a test moves it."""

import pytest

from tests.agent.simulator.plain_reader import SetClock


@pytest.fixture
def clock() -> SetClock:
    """Standing at 2025-03-12 09:30:10 UTC."""
    return SetClock()
