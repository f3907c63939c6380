"""The verbs of a task type: call, start, spawn, map, starmap, start_map, run, using."""

import asyncio
import threading
import time
from typing import Any

import pytest

from dynatask import App, BadArguments, Batch, ChildrenFailed, Job, NotInTask, Task, context


def test_call_is_a_plain_call_without_a_worker(app: App) -> None:
    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    assert add(1, 2) == 3
    assert add.name == "add"


def test_coroutine_function_called_is_a_coroutine(app: App) -> None:
    import asyncio

    @app.task
    async def add(a: int, b: int) -> int:
        return a + b

    assert asyncio.run(add(1, 2)) == 3


def test_start_gives_the_result(app: App) -> None:
    @app.task
    def add(a: int, b: int = 10, *, c: int = 100) -> int:
        return a + b + c

    with app.worker(slots=1):
        job = add.start(1)
        assert isinstance(job, Job)
        assert isinstance(job.id, str) and job.id
        assert job.result() == 111
        assert add.start(1, 2, c=3).result() == 6
        assert add.start(b=1, a=1, c=1).result() == 3
        assert job.info().state == "succeeded"


def test_start_of_coroutine_function(app: App) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    with app.worker(slots=1):
        assert double.start(21).result() == 42


def test_var_args_and_keywords(app: App) -> None:
    @app.task
    def show(first: str, *rest: int, **named: int) -> str:
        return f"{first} {rest} {sorted(named.items())}"

    with app.worker(slots=1):
        assert show.start("x", 1, 2, z=3, y=4).result() == "x (1, 2) [('y', 4), ('z', 3)]"


def test_known_type_without_a_worker_waits_visibly(app: App, at_once: bool) -> None:
    @app.task
    def late() -> str:
        return "done"

    job = late.start()
    info = job.info()
    assert (info.state, info.counts.added, info.counts.ready) == ("running", at_once, at_once)
    assert job.wait(0) is False
    with app.worker(slots=1):
        assert job.result() == "done"


def test_spawn_and_result(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n * n

    @app.task
    def root() -> int:
        child = leaf.spawn(7)
        assert isinstance(child, Task)
        return child.result() + 1

    with app.worker(slots=1):
        assert root.start().result() == 50


def test_fib_with_one_slot(app: App) -> None:
    @app.task
    def fib(n: int) -> int:
        if n < 2:
            return n
        a, b = fib.spawn(n - 1), fib.spawn(n - 2)
        return a.result() + b.result()

    with app.worker(slots=1):
        job = fib.start(9)
        assert job.result() == 34
        counts = job.info().counts
        assert counts.added == counts.succeeded == counts.claimed


def test_run_starts_and_works_here(app: App) -> None:
    here = threading.get_native_id()
    seen: list[int] = []

    @app.task
    def leaf(n: int) -> int:
        seen.append(threading.get_native_id())
        return n

    @app.task
    def root() -> int:
        return sum(leaf.map(range(5)).result())

    assert root.run() == 10
    assert len(seen) == 5 and here  # no worker was open: this process did the work
    assert root.run() == 10


def test_map_keeps_the_order_of_the_items(app: App) -> None:
    @app.task
    def scale(n: int, by: int) -> int:
        return n * by

    @app.task
    def root() -> list[int]:
        batch = scale.map([3, 1, 2], by=10)
        assert isinstance(batch, Batch) and len(batch) == 3
        return batch.result()

    with app.worker(slots=3):
        assert root.start().result() == [30, 10, 20]


def test_map_over_a_range_and_over_nothing(app: App) -> None:
    @app.task
    def same(n: int) -> int:
        return n

    @app.task
    def root(n: int) -> list[int]:
        return same.map(range(n)).result()

    with app.worker(slots=2):
        assert root.start(300).result() == list(range(300))
        assert root.start(0).result() == []


def test_map_over_a_generator(app: App) -> None:
    @app.task
    def same(n: str) -> str:
        return n

    @app.task
    def root() -> list[str]:
        return same.map(c for c in "abc").result()

    with app.worker(slots=2):
        assert root.start().result() == ["a", "b", "c"]


def test_batch_is_a_sequence_of_tasks(app: App) -> None:
    @app.task
    def same(n: int) -> int:
        return n

    @app.task
    def root() -> list[int]:
        batch = same.map(range(6))
        assert isinstance(batch[0], Task)
        last = batch[-1].result()
        with pytest.raises(IndexError):
            batch[6]
        return [last, *(t.result() for t in batch), *(t.result() for t in batch[1:3])]

    with app.worker(slots=1):
        assert root.start().result() == [5, 0, 1, 2, 3, 4, 5, 1, 2]


def test_starmap(app: App) -> None:
    @app.task
    def sub(a: int, b: int, c: int = 0) -> int:
        return a - b - c

    @app.task
    def root() -> list[int]:
        return sub.starmap([(5, 1), (7, 7)], c=1).result()

    with app.worker(slots=1):
        assert root.start().result() == [3, -1]


def test_start_map_is_a_job_of_a_list(app: App) -> None:
    @app.task
    def scale(n: int, by: int) -> int:
        return n * by

    with app.worker(slots=2):
        job = scale.start_map(range(20), by=2)
        assert job.result() == list(range(0, 40, 2))
        assert job.info().state == "succeeded"
        assert scale.start_map([], by=2).result() == []


def test_reduce_joins_neighbours_in_order(app: App) -> None:
    @app.task
    def text(n: int) -> str:
        return str(n)

    @app.task
    def join(a: str, b: str) -> str:
        return a + b

    @app.task
    def root(n: int) -> str:
        return text.map(range(n)).reduce(join).result()

    with app.worker(slots=2):
        job = root.start(9)
        assert job.result() == "012345678"
        assert job.info().counts.added == 1 + 9 + 8
        assert root.start(1).result() == "0"
        assert root.start(0).error() is not None


def test_using_leaves_the_type_alone(app: App) -> None:
    @app.task
    def who() -> str:
        return context().job.id

    with app.worker(slots=1):
        assert who.using(id="mine").start().result() == "mine"
        assert who.start().result() != "mine"
        assert who.using(id="yours").using(priority=1).start().id == "yours"


def test_using_refuses_what_it_does_not_know(app: App) -> None:
    @app.task
    def f() -> None: ...

    for wrong in ({"colour": 1}, {"priority": 5}, {"delay": -1.0}, {"retries": -1}, {"timeout": "soon"}, {"id": 7}):
        with pytest.raises(BadArguments):
            f.using(**wrong).start()  # type: ignore[arg-type]


def test_job_by_id(app: App) -> None:
    @app.task
    def f(n: int) -> int:
        return n

    with app.worker(slots=1):
        f.using(id="there").start(5).result()
        assert f.job("there").result() == 5
        assert f.job("there").info().type == "f"


def test_a_handler_may_start_jobs_of_their_own(app: App) -> None:
    @app.task
    def other(n: int) -> int:
        return n

    @app.task
    def root() -> list[str]:
        return [other.start(1).id, other.start(1).id, other.start(2).id]

    with app.worker(slots=1):
        ids = root.start().result()
        assert len(set(ids)) == 3
        assert [other.job(i).result() for i in ids] == [1, 1, 2]


def test_spawn_and_map_need_a_task(app: App) -> None:
    @app.task
    def f(n: int) -> int:
        return n

    for verb in (lambda: f.spawn(1), lambda: f.map([1]), lambda: f.starmap([(1,)])):
        with pytest.raises(NotInTask) as caught:
            verb()
        assert caught.value.code == "EUSAGE"


def test_name_option_and_extern(sqlite_url: str) -> None:
    app, other = App("named", sqlite_url), App("named", sqlite_url)

    @app.task(name="tools.upper")
    def upper(s: str) -> str:
        return s.upper()

    @other.extern("tools.upper")
    def far(s: str) -> str: ...

    assert upper.name == far.name == "tools.upper"
    with app.worker(slots=1):
        assert far.start("x").result() == "X"


def test_two_types_of_one_name_are_refused(app: App) -> None:
    @app.task(name="same")
    def one() -> int:
        return 1

    from dynatask import DynataskError

    with pytest.raises(DynataskError):

        @app.task(name="same")
        def two() -> int:
            return 2

    assert one() == 1


# ---- start_map: whose the options are --------------------------------------------


def until_added(job: Job[Any], count: int) -> None:
    assert any(info.counts.added == count for info in job)


def test_start_map_retries_each_child(app: App) -> None:
    @app.task(backoff=0)
    def flaky(n: int) -> int:
        attempt = context().attempt
        if attempt <= n:
            raise ValueError(f"attempt {attempt}")
        return attempt

    with app.worker(slots=2):
        job = flaky.using(retries=2).start_map([0, 1, 2])
        assert job.result() == [1, 2, 3]
        assert job.tree().attempt == 1  # the job's own task has nothing to retry
        short = flaky.using(retries=1).start_map([0, 3])
        failed = short.error()
        assert isinstance(failed, ChildrenFailed) and "1 of 2 children" in failed.message
        assert [child.attempt for child in short.tree().children] == [1, 2]


def test_start_map_gives_each_child_its_timeout(app: App) -> None:
    @app.task
    async def slow(n: int) -> int:
        await asyncio.sleep(3600)
        return n

    with app.worker():
        job = slow.using(timeout=0.05).start_map([0, 1])
        assert isinstance(job.error(), ChildrenFailed)  # the job's own task has none
        assert [child.error and child.error.type for child in job.tree().children] == ["TimeoutError"] * 2


def test_start_map_with_a_priority(app: App) -> None:
    ran: list[str] = []

    @app.task
    def note(what: str) -> None:
        ran.append(what)

    @app.task
    def gate() -> None:
        pass

    low = note.using(priority=-2).start_map([f"low {i}" for i in range(40)])
    high = note.using(priority=2).start_map([f"high {i}" for i in range(40)])
    for job in (low, high):  # the jobs' own tasks first: so all children are ready before one runs
        with app.worker(types=["gate"]) as worker:
            until_added(job, 41)
            worker.stop()
    with app.worker(slots=1, prefetch=0):
        low.result(), high.result()
    first = ran[:30]
    assert sum(what.startswith("high") for what in first) > 25, first


def test_start_map_whose_children_may_fail(app: App) -> None:
    @app.task
    def half(n: int) -> int:
        if n % 2:
            raise ValueError(n)
        return n // 2

    with app.worker(slots=2):
        job = half.using(may_fail=True, tags={"a": "b"}).start_map(range(9))
        assert job.result() == [0, None, 1, None, 2, None, 3, None, 4]
        info = job.info()
        assert (info.state, info.counts.failed, info.tags) == ("succeeded", 4, {"a": "b"})
        assert half.using(may_fail=True).start_map([2, 4]).result() == [1, 2]
        assert half.using(may_fail=True).start_map([]).result() == []


def test_start_map_many_of_which_some_may_fail(app: App) -> None:
    @app.task
    def odd(n: int) -> int:
        if n % 1000 == 0:
            raise ValueError(n)
        return n

    with app.worker(slots=2):
        got = odd.using(may_fail=True).start_map(range(5000)).result()
    assert got == [n if n % 1000 else None for n in range(5000)]


def test_start_map_children_expire(app: App) -> None:
    @app.task
    def late(n: int) -> int:
        return n

    @app.task
    def gate() -> None: ...

    job = late.using(expires=0.001).start_map([1, 2])
    with app.worker(types=["gate"]) as worker:  # runs the job's own task only
        until_added(job, 3)
        worker.stop()
    time.sleep(0.01)
    with app.worker():
        failed = job.error()
    assert failed is not None and job.info().counts.skipped == 2


def test_start_map_refuses_what_many_cannot_share(app: App) -> None:
    @app.task
    def one(n: int) -> int:
        return n

    for options in ({"key": "k"}, {"after": []}):
        with pytest.raises(BadArguments, match=next(iter(options))):
            one.using(**options).start_map([1])  # type: ignore[arg-type]
    with pytest.raises(BadArguments, match="may_fail"):
        one.using(may_fail=True).start(1)


def test_start_map_with_sets_in_another_order_is_the_same_call(app: App) -> None:
    @app.task
    def leaf(ns: set[int], more: dict[str, int]) -> int:
        return sum(ns) + len(more)

    once = leaf.using(id="sets")
    a = once.start_map([{0, 8}, {1}], more={"a": 1, "b": 2})
    b = once.start_map([{8, 0}, {1}], more={"b": 2, "a": 1})
    with app.worker(slots=1):
        assert a.result() == b.result() == [10, 3]
