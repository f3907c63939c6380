"""What may not cost the square of its number: done in seconds, or not within the watchdog's time."""

import asyncio
import threading

from dynatask import App, as_completed, children


def test_as_completed_over_many(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root(n: int) -> int:
        return sum(h.result() for h in as_completed(leaf.map(range(n))))

    @app.task
    async def aroot(n: int) -> int:
        return sum([await h async for h in as_completed(leaf.map(range(n)))])

    with app.worker(slots=2):
        assert root.start(5_000).result() == sum(range(5_000))
        assert aroot.start(5_000).result() == sum(range(5_000))


def test_gather_of_many(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    async def root(n: int) -> int:
        return sum(await asyncio.gather(*(leaf.spawn(i) for i in range(n))))

    with app.worker(slots=2):
        assert root.start(5_000).result() == sum(range(5_000))


def test_results_one_by_one(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root(n: int) -> int:
        hs = [leaf.spawn(i) for i in range(n)]
        with children():
            for i in range(n):
                leaf.spawn(-i)
        return sum(h.result() for h in reversed(hs))

    with app.worker(slots=2):
        assert root.start(5_000).result() == sum(range(5_000))


def test_many_awaits_of_jobs_on_one_loop(app: App) -> None:
    @app.task
    def f(n: int) -> int:
        return n

    async def main(n: int) -> int:
        jobs = [await f.astart(i) for i in range(n)]
        return sum(await asyncio.gather(*jobs))

    with app.worker(slots=2):
        assert asyncio.run(main(500)) == sum(range(500))


def test_many_threads_wait_at_once(app: App) -> None:
    gate = threading.Event()

    @app.task
    def held(n: int) -> int:
        gate.wait(60)
        return n

    got: list[int] = []
    with app.worker(slots=1):
        jobs = [held.start(n) for n in range(200)]
        threads = [threading.Thread(target=lambda j=j: got.append(j.result())) for j in jobs]  # type: ignore[misc]
        for t in threads:
            t.start()
        gate.set()
        for t in threads:
            t.join()
    assert sorted(got) == list(range(200))


def test_a_chain_of_after(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root(n: int) -> int:
        last = leaf.spawn(0)
        for i in range(1, n):
            last = leaf.using(after=[last]).spawn(i)
        return last.result()

    with app.worker(slots=2):
        assert root.start(2_000).result() == 1_999


def test_one_after_many(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def total(ns: list[int]) -> int:
        return sum(ns)

    @app.task
    def root(n: int) -> int:
        return total.spawn([leaf.spawn(i).output for i in range(n)]).result()

    with app.worker(slots=2):
        assert root.start(1_000).result() == sum(range(1_000))
