"""Names that make a call once: id, key, unique."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dynatask import App, BadArguments, Conflict, Deadlock, TaskSkipped, TooBig, Unique, children, context


def test_same_id_same_call_is_the_same_job(app: App) -> None:
    runs: list[int] = []

    @app.task
    def f(n: int) -> int:
        runs.append(n)
        return n

    with app.worker(slots=1):
        a, b = f.using(id="one").start(1), f.using(id="one").start(1)
        assert a.id == b.id == "one"
        assert a.result() == b.result() == 1
        assert f.using(id="one").start(1).result() == 1  # after its end too
        assert runs == [1]


@pytest.mark.parametrize("url", ["memory", "sqlite", "redis"], indirect=True)  # Kafka's start cannot know it: a failed job tells
def test_same_id_other_call_is_a_conflict(app: App) -> None:
    @app.task
    def f(n: int) -> int:
        return n

    @app.task
    def g(n: int) -> int:
        return n

    f.using(id="one").start(1)
    for other in (lambda: f.using(id="one").start(2), lambda: g.using(id="one").start(1)):
        with pytest.raises(Conflict) as caught:
            other()
        assert "one" in str(caught.value) and caught.value.code == "ECONFLICT"
    assert f.job("one").info().counts.added == 1


@pytest.mark.parametrize("bad", ["", "a/b", "a!b", "a@b", "x" * 10_000])
def test_malformed_ids(app: App, bad: str) -> None:
    @app.task
    def f() -> None: ...

    with pytest.raises((BadArguments, TooBig)):
        f.using(id=bad).start()


def test_ids_of_many_letters_are_kept(app: App) -> None:
    @app.task
    def f() -> str:
        return context().job.id

    with app.worker(slots=1):
        for name in ("päge-ü", "a b", "x:y.z_1", "日本"):
            assert f.using(id=name).start().result() == name


def test_key_once_in_a_run(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root() -> str:
        leaf.using(key="k").spawn(1)
        with pytest.raises(Conflict):
            leaf.using(key="k").spawn(2)
        return "ok"

    with app.worker(slots=1):
        assert root.start().result() == "ok"


def test_equal_calls_are_separate_children(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root() -> list[int]:
        return [h.result() for h in [leaf.spawn(1), leaf.spawn(1), leaf.spawn(1)]]

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == [1, 1, 1]
        assert job.info().counts.added == 4


def test_unique_in_a_job_each_page_once(app: App) -> None:
    links = {"a": ["b", "c"], "b": ["a", "c", "d"], "c": ["a"], "d": ["d", "a"]}
    seen: list[str] = []

    @app.task(unique=Unique("url", scope="job"))
    def page(url: str, depth: int) -> None:
        seen.append(url)
        for link in links[url]:
            page.spawn(link, depth + 1)

    with app.worker(slots=2):
        job = page.start("a", 0)
        job.result()
        assert sorted(seen) == ["a", "b", "c", "d"]
        assert job.info().counts.added == 4
        page.start("a", 0).result()  # another job: again
        assert len(seen) == 8


def test_unique_in_a_job_holds_for_the_jobs_life(app: App) -> None:
    runs: list[int] = []

    @app.task(unique=Unique(scope="job"))
    def leaf(n: int) -> None:
        runs.append(n)

    @app.task
    def root() -> None:
        with children():
            leaf.spawn(1)
        with children():
            leaf.spawn(1)
            leaf.spawn(2)

    with app.worker(slots=1):
        root.start().result()
        assert runs == [1, 2]


def test_unique_in_the_app_joins(app: App) -> None:
    gate = threading.Event()
    runs: list[int] = []

    @app.task(unique=True)
    def slow(n: int) -> int:
        runs.append(n)
        gate.wait(60)
        return n

    with app.worker(slots=2):
        a, b, other = slow.start(1), slow.start(1), slow.start(2)
        assert a.id == b.id != other.id
        gate.set()
        assert a.result() == b.result() == 1
        assert other.result() == 2
        c = slow.start(1)  # the first is complete: a new one
        assert c.id != a.id and c.result() == 1
        assert sorted(runs) == [1, 1, 2]


def test_unique_by_key_same_and_over(app: App) -> None:
    @app.task(unique=Unique("user", over="raise"))
    def strict(user: str, n: int) -> int:
        return n

    @app.task(unique=Unique("user", over="drop"))
    def lossy(user: str, n: int) -> int:
        return n

    @app.task(unique=Unique("user", same=True))
    def same(user: str, n: int) -> int:
        return n

    first = strict.start("ann", 1)
    with pytest.raises(Conflict):
        strict.start("ann", 2)
    strict.start("bob", 2)

    lossy.start("ann", 1)
    dropped = lossy.start("ann", 2)

    joined = same.start("ann", 1)
    assert same.start("ann", 1).id == joined.id
    with pytest.raises(Conflict):
        same.start("ann", 2)

    with app.worker(slots=1):
        assert first.result() == 1
        error = dropped.error()
        assert isinstance(error, TaskSkipped) and error.reason == "unique"


def test_unique_until_run(app: App) -> None:
    running, gate = threading.Event(), threading.Event()

    @app.task(unique=Unique(until="run"))
    def slow() -> int:
        running.set()
        gate.wait(60)
        return 1

    with app.worker(slots=2):
        a = slow.start()
        running.wait(60)
        b = slow.start()  # the first runs already: not equal to it any more
        assert a.id != b.id
        gate.set()
        assert a.result() == b.result() == 1


def test_unique_keep_is_a_result_cache(app: App) -> None:
    runs: list[int] = []

    @app.task(unique=Unique(keep=3600))
    def square(n: int) -> int:
        runs.append(n)
        return n * n

    with app.worker(slots=1):
        assert square.start(4).result() == 16
        assert square.start(4).result() == 16
        assert runs == [4]


def test_unique_over_raise_in_a_handler(app: App) -> None:
    @app.task(unique=Unique(scope="job", over="raise"))
    def leaf(n: int) -> None: ...

    @app.task
    def root() -> str:
        leaf.spawn(1)
        with pytest.raises(Conflict):
            leaf.spawn(1)
        return "ok"

    with app.worker(slots=1):
        assert root.start().result() == "ok"


def test_unique_of_one_call(app: App) -> None:
    gate = threading.Event()

    @app.task
    def slow(user: str, n: int) -> int:
        gate.wait(60)
        return n

    @app.task(unique=True)
    def once(n: int) -> int:
        gate.wait(60)
        return n

    by_user = slow.using(unique=Unique("user"))
    with app.worker(slots=8):
        a, b, c, plain = by_user.start("ann", 1), by_user.start("ann", 2), by_user.start("bob", 3), slow.start("ann", 1)
        assert a.id == b.id and len({a.id, c.id, plain.id}) == 3
        with pytest.raises(Conflict):
            slow.using(unique=Unique("user", over="raise")).start("ann", 4)
        dropped = slow.using(unique=Unique(["user"], over="drop")).start("ann", 4)
        d, e = once.start(1), once.using(unique=False).start(1)
        assert d.id != e.id and once.start(1).id == d.id
        gate.set()
        assert [h.result() for h in (a, b, c, plain, d, e)] == [1, 1, 3, 1, 1, 1]
        error = dropped.error()
        assert isinstance(error, TaskSkipped) and error.reason == "unique"
        kept = slow.using(unique=Unique("*", keep=3600))
        f = kept.start("ann", 7)
        assert f.result() == 7 and kept.start("ann", 7).id == f.id


@pytest.mark.parametrize("how", ["spawn", "map", "range"])
def test_a_child_that_joins_is_that_calls_task(new_app: Callable[..., App], how: str) -> None:
    """Scope app: its handle has the other's id and result, once that is complete, and a re-run's too."""
    app = new_app(keep="all")
    running, gate, ended = threading.Event(), threading.Event(), threading.Event()

    @app.task(unique=Unique(keep=3600))
    def slow(n: int) -> int:
        running.set()
        gate.wait(60)
        return n * 10

    @app.task(retries=1, backoff=0)
    def root() -> list[Any]:
        if how == "spawn":
            task = slow.spawn(1)
            get: Callable[[], Any] = task.result
        else:
            batch = slow.map([1] if how == "map" else range(1, 2))
            task = batch[0]
            get = lambda: batch.result()[0]  # noqa: E731
        if context().attempt == 1:
            with pytest.raises(Deadlock):
                get()
            with pytest.raises(Deadlock):
                task.error()
            gate.set()
            raise ValueError("again, when the other is complete")
        ended.wait(60)
        return [get(), task.result(), task.error(), task.id]

    with app.worker(slots=3):
        other = slow.start(1)
        running.wait(60)
        job = root.start()
        assert other.result() == 10
        ended.set()
        assert job.result() == [10, 10, None, f"{other.id}/0"]
        assert job.info().counts.skipped >= 1


@pytest.mark.parametrize("scope", ["app", "job"])
def test_a_child_that_is_dropped_is_skipped(app: App, scope: Any) -> None:
    gate = threading.Event()

    @app.task(unique=Unique(scope=scope, over="drop"))
    def slow(n: int) -> int:
        gate.wait(60)
        return n

    @app.task
    def root() -> list[Any]:
        first, second = slow.spawn(1), slow.spawn(1)
        error = second.error()
        assert isinstance(error, TaskSkipped)
        gate.set()
        return [first.result(), error.reason]

    with app.worker(slots=2):
        assert root.start().result() == [1, "unique"]


@pytest.mark.parametrize("how", ["spawn", "map", "range"])
def test_unique_of_one_call_in_a_job(app: App, how: str) -> None:
    runs: list[int] = []

    @app.task
    def leaf(n: int) -> int:
        runs.append(n)
        return n

    @app.task
    def root() -> None:
        once = leaf.using(unique=Unique(scope="job"))
        for _ in range(2):
            with children():
                if how == "spawn":
                    once.spawn(1)
                    once.spawn(2)
                else:
                    once.map([1, 2] if how == "map" else range(1, 3))

    with app.worker(slots=1):
        job = root.start()
        job.result()
        assert sorted(runs) == [1, 2] and job.info().counts.added == 3
        runs.clear()
        assert leaf.using(unique=Unique(scope="job", over="drop")).start_map([5, 6]).result() == [5, 6]


@pytest.mark.parametrize("unique", [Unique("nosuch"), Unique(keep=-1), 5, None])
def test_unique_of_one_call_that_is_none(app: App, unique: Any) -> None:
    @app.task
    def leaf(n: int) -> None: ...

    with pytest.raises(BadArguments, match="unique|keep"):
        leaf.using(unique=unique)


def test_unique_names_a_parameter_that_is_not_there(app: App) -> None:
    with pytest.raises(BadArguments):

        @app.task(unique=Unique("nosuch"))
        def leaf(n: int) -> None: ...

        leaf.start(1)


def test_a_joined_call_is_not_waited_for(new_app: Callable[..., App]) -> None:
    """In a block, a batch and a wait: nobody waits for another call's task, and nobody hangs."""
    app = new_app(keep="all")  # else its result goes with its parent
    running, gate = threading.Event(), threading.Event()

    @app.task(unique=Unique(scope="job"))
    async def leaf(n: int) -> int:
        if n == 1:
            running.set()
            while not gate.is_set():
                await asyncio.sleep(0.001)
        return n

    @app.task
    def holder() -> None:
        leaf.spawn(1)

    @app.task
    def root() -> list[object]:
        holder.spawn()
        running.wait(60)
        with children():
            leaf.spawn(1)
            leaf.spawn(2)
            leaf.map([1, 3])
        joined = leaf.spawn(1)
        with pytest.raises(Deadlock):
            joined.result()
        batch = leaf.map([4, 1])
        with pytest.raises(Deadlock):
            batch.result()
        assert batch[0].result() == 4
        gate.set()
        while context().job.info().counts.running > 1:
            pass
        return [joined.result(), batch.result(), batch[1].result(), leaf.map([5, 1]).result()]

    with app.worker(slots=3):
        job = root.start()
        assert job.result() == [1, [4, 1], 1, [5, 1]]
        assert job.info().counts.added == 7
