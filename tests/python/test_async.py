"""Coroutine handlers and callers: the same words, awaited."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from dynatask import (
    App,
    ChildrenFailed,
    Conflict,
    NotFound,
    Task,
    TaskFailed,
    Unique,
    UsageError,
    WaitTimeout,
    WouldBlock,
    as_completed,
    children,
    context,
)


class Boom(Exception):
    pass


def test_await_a_child(app: App) -> None:
    @app.task
    async def fib(n: int) -> int:
        if n < 2:
            return n
        a, b = fib.spawn(n - 1), fib.spawn(n - 2)
        return await a + await b

    with app.worker(slots=1):
        assert fib.start(9).result() == 34


def test_gather(app: App) -> None:
    @app.task
    async def leaf(n: int) -> int:
        await asyncio.sleep(0)
        return n

    @app.task
    async def root() -> list[int]:
        return list(await asyncio.gather(*(leaf.spawn(n) for n in range(20))))

    with app.worker(slots=1):
        assert root.start().result() == list(range(20))


def test_await_a_batch(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return -n

    @app.task
    async def root() -> list[int]:
        return await leaf.map(range(5))

    with app.worker(slots=1):
        assert root.start().result() == [0, -1, -2, -3, -4]


def test_async_with_children(app: App) -> None:
    done: list[int] = []

    @app.task
    async def leaf(n: int) -> None:
        done.append(n)

    @app.task
    async def root() -> int:
        async with children():
            for n in range(7):
                leaf.spawn(n)
        return len(done)

    with app.worker(slots=1):
        assert root.start().result() == 7


def test_async_children_failed_fail_fast_and_timeout(app: App) -> None:
    @app.task
    async def broken() -> None:
        raise Boom("x")

    @app.task
    async def never() -> None: ...

    @app.task
    async def root(how: str) -> str:
        try:
            async with children(fail_fast=how == "fast", timeout=0.05 if how == "timeout" else None):
                if how != "timeout":
                    broken.spawn()
                if how != "plain":
                    never.using(delay=3600).spawn()
        except ChildrenFailed as e:
            return f"failed {e.failed}"
        except WaitTimeout:
            return "timeout"
        return "none"

    with app.worker(slots=1):
        assert root.start("plain").result() == "failed 1"
        assert root.start("fast").result() == "failed 1"
        assert root.start("timeout").result() == "timeout"


def test_async_for_as_completed(app: App) -> None:
    gates: dict[int, asyncio.Event] = {}

    @app.task
    async def gated(n: int) -> int:
        await gates.setdefault(n, asyncio.Event()).wait()
        return n

    @app.task
    async def root() -> list[int]:
        hs = [gated.spawn(n) for n in range(3)]
        gates.setdefault(2, asyncio.Event()).set()
        order: list[int] = []
        async for h in as_completed(hs):
            order.append(await h)
            for n in (1, 0):
                gate = gates.setdefault(n, asyncio.Event())
                if not gate.is_set():
                    gate.set()
                    break
        return order

    with app.worker(slots=10):
        assert root.start().result() == [2, 1, 0]


def test_awaiting_does_not_hold_up_other_coroutines(app: App) -> None:
    """All are in their handlers at once, on one thread."""
    here: list[int] = []
    all_here = asyncio.Event()

    @app.task
    async def meet(n: int, total: int) -> int:
        here.append(n)
        if len(here) == total:
            all_here.set()
        await all_here.wait()
        return n

    @app.task
    async def root(total: int) -> int:
        return len(await meet.map(range(total), total=total))

    with app.worker(slots=30):
        assert root.start(20).result() == 20


def test_two_coroutines_of_one_handler_wait_for_different_children(app: App) -> None:
    @app.task
    async def leaf(n: int) -> int:
        return n

    @app.task
    async def root() -> int:
        async def chain(start: int) -> int:
            n = start
            for _ in range(5):
                n = await leaf.spawn(n + 1)
            return n

        a, b = await asyncio.gather(chain(0), chain(100))
        return a + b

    with app.worker(slots=1):
        assert root.start().result() == 5 + 105


def test_asyncio_timeout_around_a_wait(app: App) -> None:
    @app.task
    async def never() -> None: ...

    @app.task
    async def quick() -> int:
        return 1

    @app.task
    async def root() -> int:
        h = never.using(delay=3600).spawn()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(h, 0.05)
        got = await quick.spawn()
        h.cancel()
        return got

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == 1
        assert job.info().counts.cancelled == 1


def test_sync_wait_in_a_coroutine_handler_would_block(app: App) -> None:
    @app.task
    async def leaf() -> int:
        return 2

    @app.task
    async def root() -> int:
        h = leaf.using(delay=0.05).spawn()
        with pytest.raises(WouldBlock):
            h.result()
        with pytest.raises(WouldBlock):
            h.wait()
        with pytest.raises(WouldBlock):
            with children():
                leaf.using(key="other").spawn()
        await h
        return h.result()  # complete by now: allowed

    with app.worker(slots=1):
        assert root.start().result() == 2


def test_sync_wait_on_a_callers_event_loop_would_block(app: App) -> None:
    @app.task
    def never() -> None: ...

    job = never.using(delay=3600).start()

    async def main() -> None:
        for wait in (job.result, job.wait, job.error):
            with pytest.raises(WouldBlock, match="await"):
                wait()

    asyncio.run(main())
    job.cancel()


def test_a_callers_coroutine_twins(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        if n < 0:
            raise ValueError("negative")
        return n

    async def main() -> None:
        job = await leaf.astart(4)
        assert await job == 4
        assert (await job.ainfo()).state == "succeeded"
        assert (await job.atree()).type == "leaf"
        assert await job.acancel() is False
        assert await job.aerror() is None
        bad = await leaf.astart(-1)
        with pytest.raises(ValueError):
            await bad
        error = await bad.aerror()
        assert isinstance(error, TaskFailed)
        assert await asyncio.gather(*[await leaf.astart(n) for n in range(10)]) == list(range(10))
        assert job.result() == 4  # complete: no need to wait

    with app.worker(slots=1):
        asyncio.run(main())


def test_async_iteration_of_a_job(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root() -> int:
        return sum(leaf.map(range(20)).result())

    async def main() -> str:
        job = await root.astart()
        state = ""
        async for info in job:
            state = info.state
        return state

    with app.worker(slots=1):
        assert asyncio.run(main()) == "succeeded"


def test_worker_on_the_callers_loop(app: App) -> None:
    @app.task
    async def leaf(n: int) -> int:
        return id(asyncio.get_running_loop()) if n == 0 else n

    @app.task
    def plain(n: int) -> int:
        return n + 1

    async def main() -> None:
        async with app.worker(slots=1):
            job = await leaf.astart(0)
            assert await job == id(asyncio.get_running_loop())
            assert await (await plain.astart(1)) == 2

    asyncio.run(main())


def test_context_is_each_coroutines_own(app: App) -> None:
    @app.task
    async def who(n: int) -> str:
        before = context().task.id
        await asyncio.sleep(0)
        assert context().task.id == before
        return before

    @app.task
    async def root() -> int:
        ids = await who.map(range(30))
        return len(set(ids))

    with app.worker(slots=1):
        assert root.start().result() == 30


def test_a_task_handle_is_awaitable_twice(app: App) -> None:
    @app.task
    async def leaf() -> int:
        return 3

    @app.task
    async def root() -> int:
        h: Task[int] = leaf.spawn()
        return await h + await h

    with app.worker(slots=1):
        assert root.start().result() == 6


def test_workers_leave_the_loop_as_they_found_it(app: App) -> None:
    @app.task
    async def one() -> int:
        return 1

    @app.task
    async def two() -> int:
        return await one.spawn() + 1

    async def main() -> None:
        async with app.worker(types={"one": 1, "two": 1}):  # a crew for each, both on this loop
            assert await (await two.astart()) == 2
        assert asyncio.get_running_loop().get_task_factory() is None

    asyncio.run(main())


def test_starts_made_at_once_share_one_wait(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    @app.task(unique=Unique(over="raise"))
    def single(n: int) -> int:
        return n

    sizes: list[int] = []
    real = app.engine.start_many

    def counted(calls: Sequence[Any]) -> list[Any]:
        sizes.append(len(calls))
        return real(calls)

    monkeypatch.setattr(app.engine, "start_many", counted)
    first = single.start(7)

    async def ask() -> list[Any]:
        one_off = asyncio.ensure_future(double.using(id="never").astart(5))
        asked = asyncio.gather(
            *(double.astart(n) for n in range(300)), single.astart(7), single.astart(8), double.astart_map(range(3)), return_exceptions=True
        )
        await asyncio.sleep(0)  # all have asked, none is on its way
        one_off.cancel()
        return await asked

    jobs = asyncio.run(ask())
    assert len(sizes) == 1
    again = asyncio.run(ask())  # on another loop
    assert isinstance(jobs[300], Conflict) and first.id in str(jobs[300])
    assert isinstance(again[300], Conflict) and first.id in str(again[300])
    assert isinstance(again[301], Conflict) and jobs[301].id in str(again[301])
    with pytest.raises(NotFound):
        double.job("never").info()
    with app.worker():
        assert [job.result() for job in jobs[:300]] == [2 * n for n in range(300)]
        assert [job.result() for job in again[:300]] == [2 * n for n in range(300)]
        assert jobs[301].result() == 8 and jobs[302].result() == [0, 2, 4]


def test_an_engine_that_fails_is_told_to_each(app: App) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    async def ask() -> list[Any]:
        app.engine.close()
        return await asyncio.gather(*(double.astart(n) for n in range(3)), return_exceptions=True)

    double.start(1)
    assert [type(e) for e in asyncio.run(ask())] == [UsageError] * 3
