"""Cancelling a job, a task, and what is below it."""

import asyncio
import threading

import pytest

from dynatask import App, Cancelled, TaskCancelled, children, context


def test_a_job_that_has_not_begun(app: App) -> None:
    @app.task
    def f() -> None: ...

    job = f.start()
    assert job.cancel() is True
    with app.worker(slots=1):
        with pytest.raises(TaskCancelled):
            job.result()
        assert job.info().state == "cancelled"
        assert job.info().counts.cancelled == 1
        assert job.cancel() is False


def test_all_descendants(app: App) -> None:
    @app.task
    def never() -> None: ...

    @app.task
    def middle(n: int) -> None:
        never.using(delay=3600).spawn()

    @app.task
    def root() -> None:
        middle.map(range(50)).result()

    with app.worker(slots=2):
        job = root.start()
        for info in job:
            if info.counts.scheduled == 50:
                break
        assert job.cancel() is True
        assert isinstance(job.error(), TaskCancelled)
        info = job.info()
        counts = info.counts
        assert info.state == "cancelled"
        assert counts.added == counts.succeeded + counts.cancelled == 101
        assert counts.cancelled >= 50


def test_a_running_plain_handler_sees_it(app: App) -> None:
    begun, saw = threading.Event(), threading.Event()

    @app.task
    def busy() -> None:
        begun.set()
        me = context()
        while not me.cancelled:
            threading.Event().wait(0.001)
        saw.set()
        me.check_cancelled()

    with app.worker(slots=1):
        job = busy.start()
        begun.wait(60)
        assert job.cancel() is True
        assert isinstance(job.error(), TaskCancelled)
        assert saw.is_set() and job.info().state == "cancelled"


def test_a_waiting_plain_handler_gets_cancelled(app: App) -> None:
    log: list[str] = []

    @app.task
    def never() -> None: ...

    @app.task
    def waits() -> None:
        log.append("waiting")
        try:
            never.using(delay=3600).spawn().result()
        except Cancelled:
            log.append("cancelled")
            raise

    with app.worker(slots=1):
        job = waits.start()
        for info in job:
            if info.counts.scheduled == 1 and info.counts.parked == 1:
                break
        job.cancel()
        assert isinstance(job.error(), TaskCancelled)
        assert log == ["waiting", "cancelled"]


def test_a_coroutine_gets_cancelled_error(app: App) -> None:
    log: list[str] = []
    begun = threading.Event()

    @app.task
    async def sleeps() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    with app.worker(slots=1):
        job = sleeps.start()
        begun.wait(60)
        job.cancel()
        assert isinstance(job.error(), TaskCancelled)
        assert log == ["cancelled"]


def test_a_subtree_only(app: App) -> None:
    @app.task
    def never() -> None: ...

    @app.task
    def quick() -> int:
        return 1

    @app.task
    def branch() -> None:
        with children():
            never.using(delay=3600).spawn()
            never.using(delay=3600, key="b").spawn()

    @app.task
    def root() -> int:
        a, b = branch.spawn(), quick.spawn()
        got = b.result()
        assert a.cancel() is True
        with pytest.raises(TaskCancelled):
            a.result()
        return got

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == 1
        info = job.info()
        assert info.state == "succeeded"
        assert info.counts.added == info.counts.succeeded + info.counts.cancelled


def test_nothing_is_spawned_in_a_cancelled_job(app: App) -> None:
    begun, go = threading.Event(), threading.Event()

    @app.task
    def leaf(n: int) -> None: ...

    @app.task
    def root() -> None:
        begun.set()
        go.wait(60)
        for n in range(100):
            leaf.spawn(n)

    with app.worker(slots=1):
        job = root.start()
        begun.wait(60)
        job.cancel()
        go.set()
        assert isinstance(job.error(), TaskCancelled)  # though its root returned
        counts = job.info().counts
        assert counts.added == counts.cancelled + counts.succeeded
        assert counts.added <= 101


def test_cancel_is_idempotent_and_the_end_comes_once(app: App) -> None:
    ends: list[str] = []
    told = threading.Event()

    @app.task
    def never() -> None: ...

    @app.on_complete(never)
    def done(info) -> None:  # type: ignore[no-untyped-def]
        ends.append(info.state)
        told.set()

    with app.worker(slots=1):
        job = never.using(delay=3600).start()
        for _ in range(5):
            job.cancel()
        job.wait()
        assert told.wait(60)
    assert ends == ["cancelled"]


def test_a_cancelled_job_with_a_failure_is_cancelled(app: App) -> None:
    failed = threading.Event()

    @app.task
    def broken() -> None:
        failed.set()
        raise ValueError("x")

    @app.task
    def never() -> None: ...

    @app.task
    def root() -> None:
        broken.spawn()
        never.using(delay=3600).spawn()

    with app.worker(slots=1):
        job = root.start()
        for info in job:
            if info.counts.failed == 1:
                break
        job.cancel()
        job.wait()
        assert job.info().state == "cancelled"
