"""ChildrenFailed, as it is read of a task that failed for its children: its
count and its first errors, whoever failed it, a handler in Python or C, or
dynatask itself before a `then`.
"""

from collections.abc import Callable
from typing import Any

import pytest

from dynatask import (
    App,
    ChildrenFailed,
    Job,
    TaskFailed,
    TaskSkipped,
    Unique,
    Worker,
    children,
    then,
)


class Boom(Exception):
    pass


@pytest.fixture
def booms(app: App) -> App:
    """With `boom`, which fails, and the C handler `c_waits`, whose children are booms."""

    @app.task
    def boom(n: int) -> None:
        raise Boom(f"boom {n}")

    @app.extern()
    def c_waits(how: str, n: int) -> None: ...

    @app.task
    def asked(name: str, how: str, n: int) -> tuple[int, list[str], str]:
        error = read(app.types[name].spawn(how, n).error())
        return error.failed, [e.task_id for e in error.errors], str(error)

    return app


@pytest.fixture
def worker(app: App, plugin: Callable[..., str]) -> Callable[[], Worker]:
    return lambda: app.worker(slots=2, plugins=[plugin("acc")])


def read(error: TaskFailed | None) -> ChildrenFailed:
    assert isinstance(error, ChildrenFailed), error
    return error


def everywhere(job: Job[Any]) -> ChildrenFailed:
    """The error, which is the same wherever it is read."""
    error = read(job.error())
    for other in (job.info().error, job.tree().error):
        same = read(other)
        assert (same.failed, same.message) == (error.failed, error.message)
        assert [(e.task_id, e.type, e.message) for e in same.errors] == [(e.task_id, e.type, e.message) for e in error.errors]
    return error


@pytest.mark.parametrize("how, n", [("all", 3), ("one", 1), ("batch", 3), ("result", 3)])
def test_a_c_handler_returns_what_a_wait_gave(booms: App, how: str, n: int, worker: Callable[[], Worker]) -> None:
    with worker():
        job = booms.types["c_waits"].start(how, n)
        error = everywhere(job)
        assert (error.failed, error.language, error.task_id) == (n, "c", f"{job.id}/0")
        assert [e.message for e in error.errors] == [f"boom {i}" for i in range(n)]
        assert [e.task_id for e in error.errors] == [f"{job.id}/{i + 1}" for i in range(n)]
        assert {(type(e), e.type, e.language, e.attempts) for e in error.errors} == {(TaskFailed, "Boom", "python", 1)}
        assert all("raise Boom" in e.traceback for e in error.errors)
        assert f"{job.id}/1: Boom: boom 0" in error.message
        assert str(error).count("(task ") == 1


def test_a_c_handler_with_many(booms: App, worker: Callable[[], Worker]) -> None:
    with worker():
        for how in ("all", "batch"):
            error = everywhere(booms.types["c_waits"].start(how, 120))
            assert (error.failed, [e.message for e in error.errors]) == (120, [f"boom {i}" for i in range(100)])


@pytest.mark.parametrize("how, type, message", [("own", "EFAILED", "my own words"), ("kept", "EARGS", "2 arguments")])
def test_a_c_handler_with_an_error_of_its_own(booms: App, how: str, type: str, message: str, worker: Callable[[], Worker]) -> None:
    with worker():
        error = booms.types["c_waits"].start(how, 2).error()
        assert error is not None and not isinstance(error, ChildrenFailed)
        assert error.type == type and message in error.message


def test_a_parent_reads_that_of_a_c_child(booms: App, worker: Callable[[], Worker]) -> None:
    with worker():
        job = booms.types["asked"].start("c_waits", "all", 2)
        failed, ids, text = job.result()
        assert (failed, ids) == (2, [f"{job.id}/2", f"{job.id}/3"])
        assert f"the first {job.id}/2: Boom: boom 0" in text and text.count("(task ") == 1


# ---- a `then` that was not run ------------------------------------------------------------


@pytest.fixture
def thens(booms: App) -> App:
    boom = booms.types["boom"]

    @booms.task
    def good(n: int) -> int:
        return n

    @booms.task
    def above(n: int) -> None:  # good itself, but for its child
        boom.spawn(n)

    @booms.task
    def after(word: str, n: int) -> int:
        """n children of each kind, those that fail last."""
        for i in range(n):
            good.spawn(i)
        for i in range(n):
            (boom if word == "child" else above).spawn(i)
        return then(good, n)

    return booms


def test_a_then_names_the_child_before_it(thens: App, worker: Callable[[], Worker]) -> None:
    with worker():
        error = everywhere(job := thens.types["after"].start("child", 1))
        assert (error.failed, error.task_id) == (1, f"{job.id}/0")
        assert [(e.task_id, e.type, e.message) for e in error.errors] == [(f"{job.id}/2", "Boom", "boom 0")]
        assert f"1 child did not succeed, {job.id}/2: Boom: boom 0" in error.message
        assert str(error).count("(task ") == 1


def test_a_then_behind_many(thens: App, worker: Callable[[], Worker]) -> None:
    with worker():
        error = everywhere(thens.types["after"].start("child", 120))
        assert (error.failed, len(error.errors)) == (120, 100)
        assert {e.type for e in error.errors} == {"Boom"}


def test_a_then_behind_descendants(thens: App, worker: Callable[[], Worker]) -> None:
    with worker():
        error = everywhere(thens.types["after"].start("descendant", 3))
        assert (error.failed, sorted(e.message for e in error.errors)) == (3, ["boom 0", "boom 1", "boom 2"])


def test_a_parent_reads_that_of_a_then(thens: App, worker: Callable[[], Worker]) -> None:
    with worker():
        job = thens.types["asked"].start("after", "child", 2)
        failed, ids, text = job.result()
        assert (failed, ids) == (2, [f"{job.id}/4", f"{job.id}/5"])
        assert f"the first {job.id}/4: Boom: boom 0" in text


def test_a_job_that_failed_by_a_then_below(thens: App, worker: Callable[[], Worker]) -> None:
    @thens.task
    def top() -> None:
        thens.types["after"].spawn("child", 2)

    with worker():
        job = top.start()
        error = everywhere(job)
        assert (error.failed, error.task_id) == (2, f"{job.id}/1")


def test_thens_among_the_errors_have_their_counts(thens: App, worker: Callable[[], Worker]) -> None:
    @thens.task
    def top(n: int) -> None:
        with children():
            for i in range(n):
                thens.types["after"].using(key=str(i)).spawn("child", 3)

    with worker():
        error = everywhere(thens.types["top"].start(2))
        assert error.failed == 2
        assert [(type(e), read(e).failed, read(e).errors) for e in error.errors] == [(ChildrenFailed, 3, [])] * 2


def test_a_then_for_which_an_argument_is_missing(thens: App, worker: Callable[[], Worker]) -> None:
    boom, good = thens.types["boom"], thens.types["good"]

    @thens.task
    def top() -> int:
        lost = boom.spawn(1)
        lost.wait()
        assert lost.error() is not None  # looked at: it does not count
        other = boom.using(may_fail=True).spawn(2)
        skipped = good.using(after=[other]).spawn(3)
        return then(good, skipped.output)

    with worker():
        job = top.start()
        error = everywhere(job)
        assert error.failed == 1
        assert [(type(e), e.task_id) for e in error.errors] == [(TaskSkipped, f"{job.id}/3")]


# ---- in Python ----------------------------------------------------------------------------


def test_the_text_has_each_task_once(booms: App, worker: Callable[[], Worker]) -> None:
    @booms.task
    def top(depth: int) -> None:
        with children():
            for i in range(2):
                (booms.types["boom"] if depth == 0 else top).spawn(i if depth == 0 else depth - 1)

    with worker():
        for depth in (0, 1):
            job = top.start(depth)
            text = str(job.error())
            assert text.count("(task ") == 1 and text.endswith(f"(task {job.id}/0)")
            assert f"the first {job.id}/1: " in text


def test_the_error_of_a_joined_call_names_that_calls_task(booms: App, worker: Callable[[], Worker]) -> None:
    @booms.task(unique=Unique(scope="job"))
    def once(n: int) -> int:
        raise Boom("once")

    @booms.task
    def joins() -> list[str]:
        ids: list[str] = []
        for error in (once.spawn(1).error(), once.map([1]).error()):
            ids += [e.task_id for e in ([error] if not isinstance(error, ChildrenFailed) else error.errors) if e]
        return ids

    @booms.task
    def top() -> list[str]:
        assert once.spawn(1).error() is not None
        return joins.spawn().result()

    with worker():
        job = top.start()
        assert job.result() == [f"{job.id}/1"] * 2
