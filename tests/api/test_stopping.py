"""Tasks are stopped although a cancellation is swallowed, and what must end first does."""

import asyncio

import pytest

from api.stopping import outlast, stop


def test_a_task_that_swallows_a_cancellation_is_stopped() -> None:
    async def scenario() -> int:
        swallowed = 0

        async def deaf() -> None:
            nonlocal swallowed
            while swallowed < 2:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    swallowed += 1
            await asyncio.sleep(60)

        task = asyncio.create_task(deaf())
        await asyncio.sleep(0)
        await stop(task)
        assert task.cancelled()
        return swallowed

    assert asyncio.run(scenario()) == 2


def test_what_must_end_first_does_however_often_it_is_cancelled() -> None:
    async def scenario() -> list[str]:
        done = []

        async def tidy() -> None:
            await asyncio.sleep(1.2)
            done.append("tidied")

        async def work() -> None:
            tidying = asyncio.ensure_future(tidy())
            try:
                await asyncio.shield(tidying)
            except asyncio.CancelledError:
                await outlast(tidying)
                done.append("worked")
                raise

        async def parent(child: "asyncio.Task[None]") -> None:
            try:
                await child
            finally:
                await stop(child)

        child = asyncio.create_task(work())
        await asyncio.sleep(0)
        above = asyncio.create_task(parent(child))
        await asyncio.sleep(0)
        await stop(above)
        assert child.cancelled()
        with pytest.raises(asyncio.CancelledError):
            above.result()
        return done

    assert asyncio.run(scenario()) == ["tidied", "worked"]
