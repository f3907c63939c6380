"""Trying again: retries, backoff, retry_on, Retry, Fatal, timeout."""

import asyncio
import re
import threading
import time
from typing import Any

import pytest

from dynatask import App, Backoff, BadArguments, Fatal, Retry, TaskFailed, context, then


class Boom(Exception):
    pass


@pytest.mark.parametrize("backoff", [0, 0.01, [0, 0.01], Backoff(0.01, 2, 0.02, jitter=False), Backoff(0.01)])
def test_until_it_works(app: App, backoff: object) -> None:
    attempts: list[int] = []

    @app.task(retries=3, backoff=backoff)  # type: ignore[arg-type]
    def flaky() -> str:
        attempts.append(context().attempt)
        if len(attempts) < 3:
            raise Boom("not yet")
        return "ok"

    with app.worker(slots=1):
        job = flaky.start()
        assert job.result() == "ok"
        assert attempts == [1, 2, 3]
        info = job.info()
        assert (info.counts.added, info.counts.failed, info.counts.succeeded) == (1, 0, 1)


def test_out_of_attempts(app: App) -> None:
    attempts: list[int] = []

    @app.task(retries=2, backoff=0)
    def broken() -> None:
        attempts.append(1)
        raise Boom(str(len(attempts)))

    with app.worker(slots=1):
        error = broken.start().error()
        assert error is not None
        assert (error.attempts, error.message, len(attempts)) == (3, "3", 3)


def test_no_retries_by_default(app: App) -> None:
    attempts: list[int] = []

    @app.task
    def broken() -> None:
        attempts.append(1)
        raise Boom("x")

    with app.worker(slots=1):
        assert broken.start().error() is not None
        assert attempts == [1]


def test_using_retries_overrides_the_type(app: App) -> None:
    attempts: list[int] = []

    @app.task(retries=5, backoff=0)
    def broken() -> None:
        attempts.append(1)
        raise Boom("x")

    with app.worker(slots=1):
        error = broken.using(retries=1).start().error()
        assert error is not None and error.attempts == 2 == len(attempts)


def test_retry_on(app: App) -> None:
    @app.task(retries=2, backoff=0, retry_on=(OSError,))
    def f(kind: str) -> None:
        raise {"value": ValueError, "os": OSError, "sub": FileNotFoundError}[kind]("x")

    with app.worker(slots=1):
        attempts = {k: f.start(k).error() for k in ("value", "os", "sub")}
        assert {k: e and e.attempts for k, e in attempts.items()} == {"value": 1, "os": 3, "sub": 3}


def test_fatal_is_not_retried(app: App) -> None:
    @app.task(retries=5, backoff=0)
    def f() -> None:
        raise Fatal("no use")

    with app.worker(slots=1):
        error = f.start().error()
        assert error is not None and error.attempts == 1


def test_retry_whatever_retry_on_says_and_counted(app: App) -> None:
    attempts: list[int] = []

    @app.task(retries=2, backoff=3600, retry_on=())
    def f() -> int:
        attempts.append(context().attempt)
        if len(attempts) < 3:
            raise Retry("again", after=0.01)
        return len(attempts)

    @app.task(retries=1)
    def always() -> None:
        raise Retry("again", after=0)

    with app.worker(slots=1):
        assert f.start().result() == 3
        assert attempts == [1, 2, 3]
        error = always.start().error()
        assert error is not None and error.attempts == 2 and "again" in error.message


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"after": -1}, "after=-1"),
        ({"after": float("nan")}, "after=nan"),
        ({"after": float("inf")}, "after=inf"),
        ({"after": "1"}, "after='1'"),
        ({"after": True}, "after=True"),
        ({"counted": 0}, "counted=0"),
    ],
)
def test_a_malformed_retry(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(BadArguments, match=re.escape(word)):
        Retry(**wrong)


def test_retry_not_counted(app: App) -> None:
    runs: list[int] = []

    @app.task  # retries=0
    def poll() -> int:
        runs.append(1)
        if len(runs) < 5:
            raise Retry("not ready", after=0, counted=False)
        return len(runs)

    with app.worker(slots=1):
        assert poll.start().result() == 5


def test_retry_makes_failed_children_anew_and_keeps_the_good(app: App) -> None:
    runs: list[str] = []

    @app.task
    def good() -> str:
        runs.append("good")
        return "good"

    @app.task
    def flaky() -> str:
        runs.append("flaky")
        if runs.count("flaky") == 1:
            raise Boom("first time")
        return "flaky"

    @app.task(retries=1, backoff=0)
    def root() -> list[str]:
        a, b = good.spawn(), flaky.spawn()
        return [a.result(), b.result()]

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == ["good", "flaky"]
        assert sorted(runs) == ["flaky", "flaky", "good"]
        info = job.info()
        assert (info.state, info.counts.added, info.counts.failed) == ("succeeded", 4, 1)


def test_retry_after_children_failed(app: App) -> None:
    runs: list[int] = []

    @app.task
    def flaky(n: int) -> int:
        runs.append(n)
        if n == 3 and runs.count(3) == 1:
            raise Boom("first time")
        return n

    @app.task(retries=1, backoff=0)
    def root() -> int:
        return sum(flaky.map(range(10)).result())

    with app.worker(slots=2):
        job = root.start()
        assert job.result() == 45
        assert len(runs) == 11
        assert job.info().state == "succeeded"


def test_what_a_failed_attempt_spawned_still_runs(app: App) -> None:
    ran = threading.Event()

    @app.task
    def orphan() -> None:
        ran.set()

    @app.task(retries=1, backoff=0)
    def root() -> int:
        if context().attempt == 1:
            orphan.spawn()
            raise Boom("after spawning")
        return 1

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == 1
        assert ran.is_set()
        assert job.info().counts.added == 2


def test_timeout_of_a_coroutine(app: App) -> None:
    cancelled: list[int] = []
    twice = threading.Event()

    @app.task(timeout=0.1, retries=1, backoff=0)
    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(1)
            if len(cancelled) == 2:
                twice.set()
            raise

    with app.worker(slots=1):
        error = slow.start().error()
        assert error is not None and error.attempts == 2
        assert "timeout" in f"{error.type} {error.message}".lower()
        assert twice.wait(60)


def test_timeout_of_a_plain_handler_frees_the_job_not_the_thread(app: App) -> None:
    gate = threading.Event()

    @app.task(timeout=0.1)
    def stuck() -> int:
        gate.wait(60)
        return 1

    @app.task
    def fine() -> int:
        return 2

    with app.worker(slots=2):
        error = stuck.start().error()
        assert isinstance(error, TaskFailed)
        assert fine.start().result() == 2
        gate.set()


def test_parked_time_does_not_count(app: App) -> None:
    gate = threading.Event()

    @app.task
    def child() -> int:
        gate.wait(60)
        return 4

    @app.task(timeout=0.3)
    def root() -> int:
        return child.spawn().result()

    with app.worker(slots=2):
        job = root.start()
        until = time.monotonic() + 0.6  # longer than its timeout
        while time.monotonic() < until:
            assert job.wait(0.1) is False
        gate.set()
        assert job.result() == 4


def test_using_timeout(app: App) -> None:
    @app.task
    async def slow() -> None:
        await asyncio.sleep(3600)

    with app.worker(slots=1):
        assert slow.using(timeout=0.05).start().error() is not None


@pytest.mark.parametrize("wrong", [{"retries": -1}, {"timeout": 0}, {"backoff": -1}, {"crashes": -1}, {"colour": 3}, {"priority": 9}])
def test_malformed_options(app: App, wrong: dict[str, object]) -> None:
    with pytest.raises(BadArguments):

        @app.task(**wrong)  # type: ignore[call-overload]
        def f() -> None: ...

        f.start()


def test_a_child_that_continued_as_another_type_is_found_again(app: App) -> None:
    @app.task
    def last(n: int) -> int:
        return n + 1

    @app.task
    def first(n: int) -> int:
        return then(last, n)

    @app.task(retries=1, backoff=0)
    def parent() -> int:
        n = first.spawn(1).result()
        if context().attempt == 1:
            raise Boom("after the child")
        return n

    with app.worker(slots=1):
        job = parent.start()
        assert job.result() == 2
        assert job.info().counts.added == 2
