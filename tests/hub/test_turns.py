"""Turns of a relay's transactions: some together, one alone, and nothing lost when somebody gives up."""

import asyncio

from hub.turns import Turns


async def test_some_store_together_and_who_is_alone_is_alone() -> None:
    turns = Turns(2)
    inside: list[str] = []
    seen: set[tuple[str, ...]] = set()

    async def work(name: str) -> None:
        async with turns.alone() if name == "alone" else turns.storing():
            inside.append(name)
            for _ in range(3):
                seen.add(tuple(sorted(inside)))
                await asyncio.sleep(0)
            inside.remove(name)

    await asyncio.gather(*(work(name) for name in ("a", "b", "c", "alone", "d", "alone", "e", "f")))
    assert ("a", "b") in seen
    assert all(len(group) <= 2 for group in seen)
    assert {group for group in seen if "alone" in group} == {("alone",)}


async def test_who_gives_up_takes_no_turn_with_him() -> None:
    turns = Turns(2)
    async with turns.storing():
        waiting = [asyncio.ensure_future(_enter(turns)) for _ in range(2)]
        await asyncio.sleep(0)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with asyncio.timeout(5), turns.storing():
            pass
    async with asyncio.timeout(5), turns.alone():
        pass


async def _enter(turns: Turns) -> None:
    async with turns.alone():
        raise AssertionError("somebody stores, and it was not waited for")
