"""The merged tree of the command line, over tasks that a test makes up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone

import pytest

from dynatask import Counts, JobInfo
from dynatask.cli import merged as m
from dynatask.cli import view
from dynatask.cli.merged import STATES, Merged, Row, Times

READY, RUNNING, SUCCEEDED, FAILED = (STATES.index(s) for s in ("ready", "running", "succeeded", "failed"))


class Job:
    """Rows as a store would give them; counts what is read."""

    def __init__(self) -> None:
        self.rows: list[Row | None] = []
        self.read_rows = 0

    def add(self, type: str, parent: int = 0, state: int = READY, **more: object) -> int:
        row = Row(len(self.rows), parent, type, state, 0, 0, 0, 0, 0, "")
        self.rows.append(row._replace(**more))  # type: ignore[arg-type]
        return row.ord

    def set(self, ord: int, state: int, **more: object) -> None:
        row = self.rows[ord]
        assert row is not None
        self.rows[ord] = row._replace(state=state, **more)  # type: ignore[arg-type]

    def read(self, ords: Sequence[int]) -> Sequence[Row]:
        assert 0 < len(ords) <= m.PAGE
        self.read_rows += len(ords)
        return [row for o in ords if o < len(self.rows) and (row := self.rows[o]) is not None]

    def merged(self, depth: int = 4) -> Merged:
        tree = Merged(depth)
        tree.finish(self.read, len(self.rows))
        return tree


def drawn(tree: Merged) -> list[str]:
    return [line.plain for line in view.merged_lines(tree, {"parse": "c", "fetch": "python"})]


def test_siblings_of_one_type_are_one_line() -> None:
    job = Job()
    root = job.add("crawl", state=RUNNING)
    for i in range(800):
        page = job.add("fetch", root, FAILED if i < 2 else SUCCEEDED, begun=1, ended=84_001, error="HTTPError" if i < 2 else "")
        if i >= 9:
            job.add("parse", page, SUCCEEDED, begun=1, ended=301)
    job.add("store", root)
    assert drawn(job.merged()) == [
        "└─ crawl                running 1",
        "   ├─ fetch ×800     py succeeded 798 failed 2 (HTTPError ×2)  p50 81ms p99 81ms",
        "   │  └─ parse ×791  C  succeeded 791  p50 0.3ms p99 0.3ms",
        "   └─ store             ready 1",
    ]


def test_what_waits_for_a_worker_is_told() -> None:
    job = Job()
    root = job.add("crawl", state=RUNNING)
    job.add("parse", root)
    job.add("fetch", root, SUCCEEDED)
    assert [line.plain for line in view.merged_lines(job.merged(), {}, {"parse", "fetch"})] == [
        "└─ crawl        running 1",
        "   ├─ parse     ready 1  no worker serves it",
        "   └─ fetch     succeeded 1",
    ]


def test_a_lone_task_has_its_time_while_it_runs() -> None:
    job = Job()
    root = job.add("crawl", state=RUNNING, begun=int((time.time() - 600) * 1e6))
    job.add("fetch", root, RUNNING, begun=1)
    job.add("fetch", root, RUNNING, begun=1)
    assert [line.split()[-1] for line in drawn(job.merged())] == ["10m00s", "2"]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_narrow_header_gives_up_its_bar_first(width: int) -> None:
    counts = Counts(1614, 1614, 0, 0, 3, 7, 1, 0, 1601, 2, 0, 0)
    info = JobInfo("c-42", "crawl", "running", None, (0, None), datetime.now(timezone.utc), None, counts, {}, False)
    text = view.header(info, 0, width).plain
    assert text.endswith("running 7 parked 1 ready 3 failed 2")
    assert len(text) <= max(width, 81)  # all but the bar
    drawn = sum(text.count(sign) for sign in "━╸╌")
    assert drawn == {60: 0, 80: 0, 100: 19, 200: view.BAR}[width]


def test_recursion_folds_below_the_depth() -> None:
    job = Job()
    at = job.add("walk")
    for _ in range(100):
        job.add("count", at)
        at = job.add("walk", at)
    lines = drawn(job.merged(depth=3))
    assert [line.split()[-3:] for line in lines[-2:]] == [["×98", "ready", "98"], ["×97", "ready", "97"]] 
    total = sum(line.added for _, line in view.walk(job.merged(depth=3).root))  # type: ignore[arg-type]
    assert total == 201
    # Two types that call each other stay as few lines.
    both = Job()
    at = both.add("a")
    for i in range(1000):
        at = both.add("ba"[i % 2], at)
    assert len(drawn(both.merged(depth=3))) <= 5


def test_a_look_reads_only_what_may_have_changed() -> None:
    job = Job()
    job.add("root", state=RUNNING)
    for _ in range(500):
        job.add("leaf", state=SUCCEEDED)
    live = job.add("leaf", state=RUNNING)
    tree = Merged()
    tree.look(job.read, len(job.rows))
    assert job.read_rows == 502
    job.set(live, FAILED, error="OSError", begun=1, ended=2)
    tree.look(job.read, len(job.rows))
    assert job.read_rows == 504  # root and the one that ran
    assert tree.root is not None
    leaf = tree.root.below["leaf"]
    assert leaf.named() == {"succeeded": 500, "failed": 1} and leaf.errors == {"OSError": 1}
    tree.look(job.read, len(job.rows))
    assert job.read_rows == 505


def test_a_look_is_bounded_and_finish_is_not() -> None:
    job = Job()
    job.add("root", state=RUNNING)
    for _ in range(3 * m.BUDGET):
        job.add("leaf")
    tree = Merged()
    tree.look(job.read, len(job.rows))
    assert job.read_rows == m.BUDGET
    tree.look(job.read, len(job.rows))
    assert job.read_rows == 3 * m.BUDGET
    tree.finish(job.read, len(job.rows))
    assert tree.root is not None and tree.root.below["leaf"].added == 3 * m.BUDGET
    for ord in range(len(job.rows)):
        job.set(ord, SUCCEEDED, begun=1, ended=2)
    tree.finish(job.read, len(job.rows))
    assert tree.root.below["leaf"].named() == {"succeeded": 3 * m.BUDGET}


def test_tasks_that_are_not_kept() -> None:
    job = Job()
    job.add("root", state=RUNNING)
    gone = job.add("leaf")
    stays = job.add("leaf")
    child = job.add("inner", gone)
    tree = Merged()
    tree.look(job.read, len(job.rows))
    for ord in (gone, child):
        job.rows[ord] = None
    job.set(stays, SUCCEEDED)
    job.rows += [None, None]
    job.add("inner", 4)  # its parent was never seen
    tree.finish(job.read, len(job.rows))
    assert tree.root is not None
    assert tree.root.below["leaf"].named() == {"succeeded": 2}
    assert tree.root.below["leaf"].below["inner"].named() == {"succeeded": 1}


def test_lost_attempts_are_counted_once() -> None:
    job = Job()
    job.add("root", state=RUNNING)
    leaf = job.add("leaf", lost=1, claims=2)
    tree = Merged()
    tree.look(job.read, 2)
    tree.look(job.read, 2)
    assert (tree.lost, tree.again) == (1, 1)
    job.set(leaf, SUCCEEDED, lost=3, claims=5)
    tree.look(job.read, 2)
    assert (tree.lost, tree.again) == (3, 4)
    assert "lost 3" in drawn(tree)[1]


@pytest.mark.parametrize("p", [0.5, 0.99])
def test_percentiles_are_near(p: float) -> None:
    times = Times()
    for us in range(1, 100_001):
        times.add(us)
    assert times.percentile(p) == pytest.approx(p * 0.1, rel=0.09)
    assert Times().percentile(p) == 0.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0003, "0.3ms"), (0.084, "84ms"), (1.24, "1.2s"), (59.97, "60.0s"), (185, "3m05s"), (7620, "2h07m")],
)
def test_seconds(value: float, text: str) -> None:
    assert view.seconds(value) == text


@pytest.mark.parametrize(("done", "of"), [(0, 0), (0, 10), (1606, 1614), (999_999, 1_000_000), (7, 7)])
def test_bar_is_full_only_at_the_end(done: int, of: int) -> None:
    bar = view.bar(done, of).plain
    assert len(bar) == view.BAR
    assert (bar == "━" * view.BAR) == (done == of > 0)
