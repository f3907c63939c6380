"""When a call may begin: delay, at, expires, priority."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from dynatask import App, BadArguments, Job, TaskSkipped


def test_delay_is_scheduled(app: App) -> None:
    @app.task
    def f() -> int:
        return 1

    with app.worker(slots=1):
        far = f.using(delay=3600).start()
        near = f.using(delay=0.05).start()
        assert near.result() == 1
        info = far.info()
        assert (info.state, info.counts.scheduled, info.counts.claimed) == ("running", 1, 0)
        assert far.cancel() is True


def test_at(app: App) -> None:
    @app.task
    def f() -> int:
        return 1

    now = datetime.now(timezone.utc)
    with app.worker(slots=1):
        assert f.using(at=now - timedelta(days=1)).start().result() == 1
        assert f.using(at=now + timedelta(seconds=0.05)).start().result() == 1
        far = f.using(at=now + timedelta(days=1)).start()
        for info in far:
            if info.counts.added:
                break
        assert info.counts.scheduled == 1
        far.cancel()


def test_at_without_a_zone_is_refused(app: App) -> None:
    """A naive time must not be taken for UTC in silence."""

    @app.task
    def f() -> int:
        return 1

    tomorrow = datetime.now() + timedelta(days=1)
    with pytest.raises(BadArguments, match="zone"):
        f.using(at=tomorrow).start()
    assert app.jobs() == []


def test_expired_is_skipped(app: App) -> None:
    @app.task
    def f() -> int:
        return 1

    job = f.using(expires=0.01).start()
    lasting = f.using(expires=3600).start()
    job.wait(0.02)  # if the start itself took so long, it was skipped there
    with app.worker(slots=1):
        error = job.error()
        assert isinstance(error, TaskSkipped) and error.reason == "expired"
        assert lasting.result() == 1
        assert job.info().counts.skipped == 1


@pytest.mark.parametrize("priority", [-2, -1, 0, 1, 2])
def test_every_priority_runs(app: App, priority: int) -> None:
    @app.task(priority=priority)
    def f() -> int:
        return 1

    with app.worker(slots=1):
        assert f.start().result() == 1
        assert f.using(priority=-priority).start().result() == 1


def test_high_priority_has_the_larger_share(app: App, at_once: bool) -> None:
    order: list[int] = []

    @app.task
    def f(p: int) -> None:
        order.append(p)

    @app.task
    def root() -> None:
        for p in [-2, 2] * 40:
            f.using(priority=p).spawn(p)

    if at_once:
        jobs: list[Job[Any]] = [f.using(priority=p).start_map(range(p, p + 1)) for p in (-2,)]
        jobs += [f.using(priority=p).start(p) for p in [-2, 2] * 40]
    else:  # what waits in Kafka is taken in as it came: priorities count from then on
        jobs = [root.start()]
    with app.worker(slots=1, prefetch=1):
        for job in jobs:
            job.result()
    first_half = order[: len(order) // 2]
    assert first_half.count(2) > 3 * first_half.count(-2)
