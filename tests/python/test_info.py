"""What can be read of a job at any time: info, counts, tree, iteration."""

import asyncio
import threading
from collections.abc import Callable
from datetime import datetime

import pytest

from dynatask import App, BadArguments, Job, NotFound, Task, TaskFailed, TaskInfo


class Boom(Exception):
    pass


def total(counts) -> int:  # type: ignore[no-untyped-def]
    return sum(counts[2:])  # all states


def test_counts_at_every_stage(app: App, at_once: bool) -> None:
    gate, running = threading.Event(), threading.Event()

    @app.task
    def leaf(n: int) -> None:
        if n == 0:
            running.set()
            gate.wait(60)

    @app.task
    def broken() -> None:
        raise Boom("x")

    @app.task
    def root() -> None:
        first = leaf.spawn(0)
        leaf.using(after=[first]).spawn(1)
        leaf.using(delay=3600).spawn(2).cancel()
        leaf.using(delay=0.01).spawn(3)
        broken.using(may_fail=True).spawn()

    job = root.start()
    counts = job.info().counts
    assert counts._asdict() == dict.fromkeys(counts._fields, 0) | {"added": at_once, "ready": at_once}
    with app.worker(slots=2):
        running.wait(60)
        for info in job:
            counts = info.counts
            assert total(counts) == counts.added
            if counts.closing == 1 and counts.succeeded == 1 and counts.failed == 1:
                break
        assert (counts.added, counts.running, counts.blocked, counts.cancelled) == (6, 1, 1, 1)
        assert counts.claimed == 4
        gate.set()
        job.result()
        counts = job.info().counts
        assert counts._asdict() == dict.fromkeys(counts._fields, 0) | {
            "added": 6, "claimed": 5, "succeeded": 4, "failed": 1, "cancelled": 1,
        }  # fmt: skip


def test_a_root_that_returned_keeps_its_job_running(app: App) -> None:
    gate, deep = threading.Event(), threading.Event()

    @app.task
    def grandchild() -> None:
        deep.set()
        gate.wait(60)

    @app.task
    def child() -> None:
        grandchild.spawn()

    @app.task
    def root() -> str:
        child.spawn()
        return "early"

    with app.worker(slots=2):
        job = root.start()
        deep.wait(60)
        for info in job:
            assert info.state == "running"
            if info.counts.closing == 2:
                break
        assert job.wait(0) is False
        gate.set()
        assert job.result() == "early"
        assert job.info().state == "succeeded"


def test_info_fields(app: App) -> None:
    @app.task
    def f(n: int) -> int:
        return n

    @app.task
    def broken() -> int:
        raise Boom("why")

    with app.worker(slots=1):
        job = f.using(id="info-1").start(1)
        job.result()
        info = job.info()
        assert (info.id, info.type, info.state, info.error, info.paused) == ("info-1", "f", "succeeded", None, False)
        assert isinstance(info.started_at, datetime) and isinstance(info.ended_at, datetime)
        assert info.started_at.tzinfo is not None and info.started_at <= info.ended_at
        assert info.progress == (1, 1)
        bad = broken.start()
        bad.wait()
        info = bad.info()
        assert info.error is not None and info.error.type == "Boom" and info.error.message == "why"


def test_tags(app: App) -> None:
    @app.task
    def f() -> None: ...

    job = f.using(tags={"team": "maps", "run": "7"}).start()
    with app.worker(slots=1):
        job.result()
    assert job.info().tags == {"team": "maps", "run": "7"}


def test_progress_of_the_root_is_the_jobs(app: App) -> None:
    from dynatask import context

    gate, said = threading.Event(), threading.Event()

    @app.task
    def f() -> None:
        context().progress(3, 10)
        said.set()
        gate.wait(60)

    with app.worker(slots=1):
        job = f.start()
        said.wait(60)
        for info in job:
            if info.progress == (3, 10):
                break
        assert job.info().progress == (3, 10)
        gate.set()
        job.result()


def test_tree(new_app: Callable[..., App]) -> None:
    app = new_app(keep="all")  # else the payload of a child is gone when its parent completes

    @app.task
    def leaf(n: int) -> int:
        if n == 1:
            raise Boom("one")
        return n

    @app.task
    def middle(n: int) -> int:
        leaf.using(may_fail=True).spawn(n)
        return n

    @app.task
    def root(word: str) -> int:
        return sum(middle.map(range(3)).result())

    with app.worker(slots=1):
        job = root.start("x")
        job.result()
        tree = job.tree()
        assert isinstance(tree, TaskInfo)
        assert (tree.type, tree.state, tree.arguments, tree.attempt, tree.language) == (
            "root", "succeeded", {"word": "x"}, 1, "python",
        )  # fmt: skip
        assert [c.type for c in tree.children] == ["middle"] * 3
        assert [c.arguments for c in tree.children] == [{"n": 0}, {"n": 1}, {"n": 2}]
        leaves = [c.children[0] for c in tree.children]
        assert [x.state for x in leaves] == ["succeeded", "failed", "succeeded"]
        assert leaves[1].error is not None and leaves[1].error.type == "Boom"
        assert len({t.id for t in [tree, *tree.children, *leaves]}) == 7
        assert [c.children for c in job.tree(depth=1).children] == [[], [], []]


def test_tree_is_bounded(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root() -> int:
        return len(leaf.map(range(500)).result())

    with app.worker(slots=2):
        job = root.start()
        job.result()
        assert len(job.tree(limit=50).children) == 49
        assert len(job.tree(limit=2).children) == 1
        assert job.tree(limit=1).children == []
        assert len(job.tree(limit=1000).children) == 500
        with pytest.raises(BadArguments, match="from 1"):
            job.tree(limit=0)


def test_task_info_in_the_handler(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root() -> list[object]:
        h = leaf.spawn(5)
        h.result()
        info = h.info()
        return [info.type, info.state, info.arguments, info.id == h.id]

    with app.worker(slots=1):
        assert root.start().result() == ["leaf", "succeeded", {"n": 5}, True]


def test_keep(new_app: Callable[..., App]) -> None:
    """Which payloads stay when their parent completes."""

    def look(keep: str) -> tuple[str, str, bool]:
        app = new_app(keep=keep)

        @app.task
        def leaf(n: int) -> int:
            if n < 0:
                raise Boom("bad")
            return n

        @app.task
        def root() -> list[Task[int]]:
            good, bad = leaf.spawn(1), leaf.using(may_fail=True).spawn(-1)
            bad.wait()
            return [good, bad]

        def read(h: Task[int]) -> str:
            try:
                return str(h.result())
            except NotFound:
                return "gone"
            except TaskFailed as e:
                return e.type

        with app.worker(slots=1):
            job = root.start()
            good, bad = job.result()
            return read(good), read(bad), job.info().counts.failed == 1

    assert look("all") == ("1", "Boom", True)
    assert look("failed") == ("gone", "Boom", True)
    assert look("root") == ("gone", "gone", True)


def test_iteration_ends_with_the_end(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root() -> int:
        return sum(leaf.map(range(50)).result())

    with app.worker(slots=1):
        job = root.start()
        infos = list(job)
        assert infos[-1].state == "succeeded" and infos[-1].counts.succeeded == 51
        assert all(i.state == "running" for i in infos[:-1])
        added = [i.counts.added for i in infos]
        assert added == sorted(added)
        assert [i.state for i in job] == ["succeeded"]


def test_jobs_lists_the_newest_first(app: App) -> None:
    @app.task
    def f(n: int) -> int:
        return n

    ids = [f.using(id=f"j{n}").start(n).id for n in range(5)]
    with app.worker(slots=1):
        for i in ids:
            f.job(i).result()
        assert [j.id for j in app.jobs()] == ids[::-1]
        assert [j.id for j in app.jobs(limit=2)] == ids[:-3:-1]
        assert {j.state for j in app.jobs("type:f state:succeeded")} == {"succeeded"}
        assert app.jobs("state:failed") == []
        assert app.jobs("type:other") == []

        async def look() -> list[str]:
            return [j.id for j in await app.ajobs("type:f", limit=3)]

        assert asyncio.run(look()) == ids[:-4:-1]


def test_handles_compare_and_print_by_id(app: App) -> None:
    @app.task
    def f() -> None: ...

    a, b = f.job("x"), f.job("x")
    assert isinstance(a, Job) and a.id == b.id == "x"
    assert "x" in repr(a)
