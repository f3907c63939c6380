"""The option `retain`: how long an ended job can be read. Then it leaves, with all that was kept of it."""

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from dynatask import App, Job, NotFound

serial = itertools.count(1)


def until(true: Callable[[], bool], what: str, timeout: float = 60) -> None:
    waiting = threading.Event()
    left = timeout
    while not true():
        assert left > 0, f"not within {timeout} s: {what}"
        waiting.wait(0.005)
        left -= 0.005


def gone(job: Job[object]) -> bool:
    try:
        job.info()
    except NotFound:
        return True
    return False


def all_gone(jobs: Iterable[Job[object]]) -> None:
    for job in jobs:
        until(lambda: gone(job), f"{job.id} leaves")


def test_an_ended_job_leaves(url: str) -> None:
    """It alone, of those that are short: what the app that started it said holds, not what others say."""
    name = f"retain-{next(serial)}"
    short, long = App(name, url, retain=0.01), App(name, url)
    ran: list[str] = []

    @long.task
    def kept() -> int:
        return 1

    @short.task
    def leaf() -> int:
        return 1

    @short.task
    def work(of: str) -> int:
        ran.append(of)
        return sum(leaf.map(range(0)).result()) + leaf.spawn().result()

    with long.worker(slots=1, types=["kept"]), short.worker(slots=1):
        stays = kept.start()
        assert stays.result() == 1
        job = work.using(id="again").start("first")
        until(lambda: gone(job), "the job leaves")
        with pytest.raises(NotFound, match="retention"):
            job.result(timeout=60)
        with pytest.raises(NotFound):
            job.tree()
        assert [info.id for info in short.jobs()] == [stays.id]
        # Its id is free: another call under it is no Conflict, and runs.
        again = work.using(id="again").start("second")
        until(lambda: gone(again), "the second job leaves")
        assert ran == ["first", "second"]
        assert stays.info().state == "succeeded" and stays.result() == 1


def test_a_job_that_has_not_ended_stays(new_app: Callable[..., App]) -> None:
    """However long its root has ended, and however short `retain` is."""
    app = new_app(retain=0)
    release = threading.Event()

    @app.task
    def holds() -> None:
        release.wait()

    @app.task
    def root() -> None:
        holds.spawn()

    @app.task
    def other() -> None: ...

    with app.worker(slots=2):
        job = root.start()
        until(lambda: job.info().counts.closing == 1 and job.info().counts.running == 1, "the root ends, its child runs")
        all_gone([other.start() for _ in range(3)])
        assert job.info().state == "running" and job.info().counts.added == 2
        release.set()
        until(lambda: gone(job), "the job leaves")


def test_a_file_stops_growing(tmp_path: Path) -> None:
    """Jobs come and go without an end; after six times as many rounds the file is as large as before, and as empty."""
    app = App(f"retain-{next(serial)}", f"sqlite:{tmp_path}/jobs.db", retain=0, blob_min=4096, keep="all")

    @app.task
    def leaf(n: int, text: str) -> str:
        return text * 4

    @app.task
    def root(n: int, text: str) -> int:
        broken.using(may_fail=True).map(range(20)).wait()
        return len(leaf.map(range(20), text=text).result())

    @app.task
    def broken(n: int) -> None:
        raise ValueError("x" * 1000)

    def pages() -> tuple[int, int]:
        """In the file, and in use."""
        with sqlite3.connect(tmp_path / "jobs.db") as file:
            count, free = (file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
        file.close()
        return count, count - free

    sizes: list[int] = []
    with app.worker(slots=1):
        all_gone([broken.start(0)])
        fresh = pages()[1]  # the store's own: types, workers, the schema
        for n in range(36):
            all_gone([root.using(tags={"round": str(n)}).start(i, f"{n} {i} " * 200) for i in range(5)])
            until(lambda: pages()[1] <= fresh + 8, f"the rows of round {n} leave")
            sizes.append(pages()[0])
    full = max(sizes[:6])
    assert full > 3 * (fresh + 8)  # a round needs room: had a part of it stayed, it would show
    assert max(sizes) <= 3 * full, sizes
    assert (tmp_path / "jobs.db").stat().st_size <= 4096 * max(sizes)
