"""Numbers and texts at and beyond the edges: an error with a name or the obvious meaning, never a crash or a hang."""

import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import pytest

from dynatask import (
    App,
    Backoff,
    BadArguments,
    DynataskError,
    JobInfo,
    Retry,
    TaskCancelled,
    TaskFailed,
    TooBig,
    Unique,
    WaitTimeout,
    children,
    context,
)

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("timeout", [1e18, INF, NAN, -1, -INF, "1", True])
def test_timeouts_of_waits(app: App, timeout: Any) -> None:
    @app.task
    def f() -> int:
        return 1

    @app.task
    def root(case: str) -> int:
        t = {"big": 1e18, "inf": INF}[case]
        with children(timeout=t):
            f.spawn()
        return f.using(key="2").spawn().result(timeout=t)

    with app.worker(slots=1):
        try:
            assert f.start().result(timeout=timeout) == 1
        except (BadArguments, WaitTimeout, TypeError) as e:
            assert timeout not in (1e18, INF), e
        if timeout in (1e18, INF):
            assert root.start("inf" if timeout == INF else "big").result() == 1


@pytest.mark.parametrize(
    "option",
    [{"delay": v} for v in (1e18, INF, NAN, -1, "1", True)]
    + [{"timeout": v} for v in (1e18, INF, NAN, -1, 0, "1")]
    + [{"expires": v} for v in (1e18, INF, NAN, -1, "1")]
    + [{"retries": v} for v in (2**31, 2**64, 1.5, NAN, "1", True)]
    + [{"priority": v} for v in (3, -3, 0.5, "1", True)]
    + [{"at": v} for v in (datetime.max.replace(tzinfo=timezone.utc), datetime.min.replace(tzinfo=timezone.utc), 5, "now")]
    + [{"tags": v} for v in ({"": "x"}, {"a" * 100_000: "x"}, {"a\x00b": "x"}, [1], {"a": None})]
    + [{"may_fail": v} for v in (1, "yes")]
    + [{"after": v} for v in (5, [5], "x")],
    ids=repr,
)
def test_options_of_calls(app: App, option: dict[str, Any], at_once: bool) -> None:
    """Refused before anything is stored, or accepted and readable."""

    @app.task
    def f() -> int:
        return 1

    try:
        job = f.using(**option).start()
    except DynataskError as e:
        assert isinstance(e, (BadArguments, TooBig)) and str(e)
        assert app.jobs() == []
        return
    info = job.info()
    assert info.counts.added == sum(info.counts[2:]) == at_once
    job.cancel()
    job.wait()


@pytest.mark.parametrize("id", ["\u202e", "x" * 200, "ü" * 100])
def test_ids(app: App, id: str) -> None:
    @app.task
    def f() -> str:
        return context().job.id

    job = f.using(id=id).start()
    with app.worker(slots=1):
        assert job.result() == id


@pytest.mark.parametrize("id", ["\ud800", "a\nb", "\x7f"])
def test_ids_that_are_none(app: App, id: str) -> None:
    @app.task
    def f() -> None: ...

    with pytest.raises(BadArguments, match="id"):
        f.using(id=id).start()
    assert app.jobs() == []


@pytest.mark.parametrize(
    ("key", "end"),
    [("ü" * 100, "1"), *((bad, "key") for bad in ("", "\ud800", "x" * 100_000, "a\x00b", 7, None))],
)
def test_keys(app: App, key: Any, end: str) -> None:
    @app.task
    def leaf() -> int:
        return 1

    @app.task
    def root(i: int) -> str:
        try:
            return f"{leaf.using(key=key).spawn().result()}"
        except BadArguments as e:
            return str(e)

    with app.worker(slots=1):
        assert end in root.start(0).result()


@pytest.mark.parametrize("backoff", [NAN, INF, -1, "1", [], [1, -1], [NAN], Backoff(-1), Backoff(NAN), Backoff(factor=0.1), Backoff(max=INF)])
def test_backoffs(app: App, backoff: Any) -> None:
    with pytest.raises(BadArguments, match="backoff"):

        @app.task(backoff=backoff, retries=1)
        def f() -> None: ...

        f.start()


@pytest.mark.parametrize("after", [-1, NAN, INF, 1e18, "1", True, None])
def test_retry_after(app: App, after: Any) -> None:
    @app.task(retries=1, backoff=0)
    def f() -> int:
        if context().attempt == 1:
            raise Retry("again", after=after)
        return 2

    @app.task
    def fine() -> int:
        return 3

    with app.worker(slots=1):
        job = f.start()
        assert fine.start().result() == 3
        try:
            while not job.wait(timeout=0.01) and not job.info().counts.scheduled:
                pass
            if not job.wait(timeout=0):
                assert job.cancel()
            assert job.result(timeout=30) == 2
        except TaskFailed as failed:
            assert job.info().state == ("cancelled" if isinstance(failed, TaskCancelled) else "failed")
        assert fine.start().result() == 3  # the worker lives


@pytest.mark.parametrize("tolerate", [NAN, INF, -1, 1.5, "1", True])
def test_tolerate(app: App, tolerate: Any) -> None:
    @app.task
    def root() -> str:
        with pytest.raises(BadArguments, match="tolerate"):
            with children(tolerate=tolerate):
                pass
        return "refused"

    with app.worker(slots=1):
        assert root.start().result() == "refused"


@pytest.mark.parametrize("unique", [Unique(()), Unique(["n", "n"])])
def test_uniques(app: App, unique: Any) -> None:
    @app.task(unique=unique)
    def f(n: int) -> int:
        return n

    with app.worker(slots=1):
        assert f.start(1).result() == 1


@pytest.mark.parametrize("unique", [Unique(keep=-1), Unique(keep=NAN), Unique(keep=1e18), Unique(""), Unique(cast(str, 5)), 5, "n"])
def test_uniques_that_are_none(app: App, unique: Any) -> None:
    with pytest.raises(BadArguments, match="unique|keep"):

        @app.task(unique=unique)
        def f(n: int) -> int:
            return n

        f.start(1)


@pytest.mark.parametrize("name", ["", 5, b"f", "a\0b"])
def test_names_that_are_none(app: App, name: Any) -> None:
    with pytest.raises(BadArguments, match="name"):

        @app.task(name=name)
        def f() -> None: ...


def test_decorators_without_their_brackets(app: App) -> None:
    def f(info: JobInfo) -> None: ...

    with pytest.raises(BadArguments, match=r"@app\.extern\(\)"):
        app.extern(f)  # type: ignore[arg-type]
    with pytest.raises(BadArguments, match=r"@app\.on_complete\(\)"):
        app.on_complete(f)  # type: ignore[arg-type]


def test_progress(app: App) -> None:
    @app.task
    def f() -> list[str]:
        said: list[str] = []
        for done, total in ((NAN, 1), (INF, 1), (-1, 1), (1, -1), (2, 1), ("1", 2), (0, 0)):
            try:
                context().progress(done, total)  # type: ignore[arg-type]
                said.append("taken")
            except (BadArguments, TypeError, ValueError):
                said.append("refused")
        return said

    with app.worker(slots=1):
        job = f.start()
        assert job.result()[2:4] == ["refused", "refused"]
        job.info()


def test_times_far_away_are_readable(app: App) -> None:
    @app.task
    def f(t: datetime, d: timedelta) -> datetime:
        return t

    with app.worker(slots=1):
        for t in (datetime.min, datetime.max, datetime.max.replace(tzinfo=timezone.utc)):
            assert f.start(t, timedelta.max).result() == t


@pytest.mark.parametrize("options", [{"lease": 0.01}, {"lease": 1e9}, {"max_depth": 0}, {"max_tasks": 0}, {"max_payload": 0}, {"prefetch": 0}, {"max_parked": 0}, {"engine_timeout": 0}, {"grace": 0}, {"retain": 0}], ids=repr)
def test_options_of_apps(new_app: Callable[..., App], options: dict[str, Any]) -> None:
    """Refused by name, or the app works."""
    app = new_app(**options)

    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root() -> int:
        return leaf.spawn(1).result() + leaf.spawn(2).result()

    try:
        with app.worker(slots=2):
            job = root.start()
            try:
                job.result(timeout=20)
            except (TooBig, Exception) as e:  # noqa: BLE001
                assert not isinstance(e, WaitTimeout), e
    except BadArguments as e:
        assert next(iter(options)) in str(e)
