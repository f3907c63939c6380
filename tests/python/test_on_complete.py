"""The callback of a job's end: once, after the last descendant, whatever the end."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dynatask import App, JobInfo


class Ends:
    def __init__(self) -> None:
        self.infos: list[JobInfo] = []
        self.changed = threading.Condition()

    def add(self, info: JobInfo) -> None:
        with self.changed:
            self.infos.append(info)
            self.changed.notify_all()

    def until(self, n: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.infos) >= n, 60), f"{len(self.infos)} of {n}"


def test_once_with_the_final_counts(app: App) -> None:
    ends = Ends()

    @app.task
    def leaf(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return n

    @app.task
    def root(n: int) -> None:
        for i in range(n):
            leaf.spawn(i)  # unseen: a failure climbs

    @app.on_complete(root)
    def done(info: JobInfo) -> None:
        ends.add(info)

    with app.worker(slots=2):
        good, bad = root.start(3), root.start(5)
        good.wait()
        bad.wait()
        ends.until(2)
        good.wait()
    by_id = {i.id: i for i in ends.infos}
    assert set(by_id) == {good.id, bad.id} and len(ends.infos) == 2
    assert (by_id[good.id].state, by_id[good.id].counts.added, by_id[good.id].counts.failed) == ("succeeded", 4, 0)
    assert (by_id[bad.id].state, by_id[bad.id].counts.added, by_id[bad.id].counts.failed) == ("failed", 6, 1)


def test_only_for_its_roots_and_not_for_itself(app: App) -> None:
    ends, others = Ends(), Ends()

    @app.task
    def one() -> None: ...

    @app.task
    def two() -> None: ...

    @app.on_complete(one)
    def of_one(info: JobInfo) -> None:
        ends.add(info)

    @app.on_complete()
    def of_all(info: JobInfo) -> None:
        others.add(info)

    with app.worker(slots=1):
        a, b = one.start(), two.start()
        a.wait()
        b.wait()
        ends.until(1)
        others.until(2)
    assert [i.id for i in ends.infos] == [a.id]
    assert sorted(i.id for i in others.infos) == sorted([a.id, b.id])


def test_a_coroutine_callback(app: App) -> None:
    ends = Ends()

    @app.task
    def one() -> None: ...

    @app.on_complete(one)
    async def done(info: JobInfo) -> None:
        ends.add(info)

    with app.worker(slots=1):
        job = one.start()
        ends.until(1)
        assert ends.infos[0].id == job.id


def test_a_callback_that_fails_does_not_change_the_job(app: App) -> None:
    ran = threading.Event()

    @app.task
    def one() -> int:
        return 1

    @app.on_complete(one)
    def done(info: JobInfo) -> None:
        ran.set()
        raise RuntimeError("callback")

    with app.worker(slots=1):
        job = one.start()
        assert job.result() == 1
        assert ran.wait(60)
        assert job.info().state == "succeeded"


@pytest.mark.parametrize("shape", [list, lambda names: dict.fromkeys(names, 1)], ids=["list", "mapping"])
def test_runs_where_types_names_it(app: App, shape: Callable[[list[str]], Any]) -> None:
    ends = Ends()

    @app.task
    def one() -> None: ...

    @app.on_complete(one)
    def done(info: JobInfo) -> None:
        ends.add(info)

    @app.on_complete()
    async def every(info: JobInfo) -> None:
        await asyncio.sleep(0)
        ends.add(info)

    with app.worker(types=shape(["one"])):
        first = one.start()
        first.wait()
        # It waits for who serves it, also if that comes after the job's end.
        assert [(i.state, i.counts.ready) for i in app.jobs("type:done")] == [("running", 1)]
        with app.worker(types=shape(["done", "every"])):
            ends.until(2)
            second = one.start()
            ends.until(4)
    assert sorted(i.id for i in ends.infos) == sorted([first.id, second.id] * 2)
    assert {i.state for i in app.jobs("type:done")} == {"succeeded"}
