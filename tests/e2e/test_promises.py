"""The promises of DESIGN 2 at the sizes that the issue names, on SQLite, with worker processes."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from crash_app import build

from dynatask import Job


@pytest.fixture
def crash(sqlite_url: str, effects: Any) -> SimpleNamespace:
    return build(sqlite_url, str(effects.path))


@pytest.fixture
def one_slot(start_worker: Any, sqlite_url: str, effects: Any) -> Any:
    return start_worker("crash_app", sqlite_url, effects.path, 1)


def whole(job: Job[Any], tasks: int) -> None:
    """Ended, with so many tasks, all good."""
    info = job.info()
    assert info.state == "succeeded"
    assert info.counts.added == info.counts.succeeded == info.counts.claimed == tasks


@pytest.mark.parametrize("kind", ["fib", "afib"])
def test_fib_18_by_tasks_on_one_slot(crash: Any, one_slot: Any, kind: str) -> None:
    job = getattr(crash, kind).start(18)
    assert job.result() == 2584
    whole(job, 8361)


@pytest.mark.parametrize("kind", ["down", "adown"])
def test_recursion_of_depth_5000_on_one_slot(crash: Any, one_slot: Any, kind: str) -> None:
    job = getattr(crash, kind).start(5000)
    assert job.result() == 5000
    whole(job, 5001)


def test_a_parent_with_100000_children_on_one_slot(crash: Any, one_slot: Any) -> None:
    job = crash.wide.start(100_000)
    assert job.result() == sum(range(100_000))
    whole(job, 100_001)
    peak = next(
        int(line.split()[1]) for line in Path(f"/proc/{one_slot.pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    assert peak < 200 * 1024  # KiB


def test_running_until_the_last_grandchild(crash: Any, one_slot: Any, effects: Any, tmp_path: Path) -> None:
    job = crash.early.start(str(tmp_path))
    effects.until("grandchild")
    info = job.info()
    assert (info.state, info.counts.closing, info.counts.running, info.counts.succeeded) == ("running", 2, 1, 0)
    assert effects.count(f"ended {job.id} succeeded 3") == 0
    (tmp_path / "go").touch()
    assert job.result() == "early"
    whole(job, 3)
    effects.until(f"ended {job.id} succeeded 3")


def test_a_worker_stopped_for_three_leases_doubles_nothing(
    sqlite_url: str, effects: Any, start_worker: Any, tmp_path: Path
) -> None:
    crash = build(sqlite_url + "?lease=1", str(effects.path))
    first = start_worker("crash_app", sqlite_url + "?lease=1", effects.path, 1)
    job = crash.held.start(str(tmp_path))
    effects.until("held")
    os.kill(first.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    start_worker("crash_app", sqlite_url + "?lease=1", effects.path, 1)
    effects.until("held", 2)  # another attempt runs elsewhere
    time.sleep(max(0.0, stopped + 3 - time.monotonic()))
    os.kill(first.pid, signal.SIGCONT)
    (tmp_path / "go-0").touch()  # the late one goes on, to spawn and to return
    effects.until("late")
    counts = job.info().counts
    assert (counts.added, counts.running) == (1, 1)  # nothing of it was taken
    (tmp_path / "go-1").touch()
    assert job.result() == 1  # the second attempt's
    whole(job, 1)
    effects.until(f"ended {job.id} succeeded 1")
    assert [line for line in effects.lines() if line.startswith("ended")] == [f"ended {job.id} succeeded 1"]
    # and the one that was stopped serves on
    assert crash.leaf.start(5).result() == 5
    assert first.poll() is None


@pytest.mark.parametrize("how", ["idle", "busy"])
def test_a_kill_is_seen_long_before_the_lease_ends(sqlite_url: str, effects: Any, start_worker: Any, how: str) -> None:
    """What it costs in seconds is measured by the crash rounds."""
    url = sqlite_url + "?lease=3600"
    crash = build(url, str(effects.path))
    first = start_worker("crash_app", url, effects.path, 1)
    job = crash.blocks.start()
    effects.until("blocks")
    start_worker("crash_app", url, effects.path, 1)
    effects.until(f"begun {first.pid}")
    if how == "busy":
        load = crash.slow_root.start(200, 0.005)
        effects.until("slow 5")
    else:
        crash.leaf.start(1).result()  # the second one is up
    first.kill()
    effects.until("blocks", 2)
    assert job.result() == 2
    if how == "busy":
        assert load.result() == sum(range(200))
