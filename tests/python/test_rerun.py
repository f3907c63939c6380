"""Running a handler again doubles nothing and loses nothing: workers that die."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from crash_app import build

from dynatask import App, Job, TaskFailed, context


class Keeper:
    """Keeps a worker alive: starts another whenever it died."""

    def __init__(self, start: Callable[[], "subprocess.Popen[bytes]"]) -> None:
        self.start = start
        self.process = start()
        self.deaths = 0
        self.ending = False
        self.thread = threading.Thread(target=self.keep)
        self.thread.start()

    def keep(self) -> None:
        while not self.ending:
            if self.process.wait() != 0 and not self.ending:
                self.deaths += 1
                self.process = self.start()

    def end(self) -> None:
        self.ending = True
        try:
            self.process.send_signal(signal.SIGTERM)
        except ProcessLookupError:
            pass
        self.thread.join()


@pytest.fixture
def crash(sqlite_url: str, effects: Any) -> SimpleNamespace:
    return build(sqlite_url, str(effects.path))


@pytest.fixture
def keeper(sqlite_url: str, effects: Any, start_worker: Any) -> Iterator[Keeper]:
    k = Keeper(lambda: start_worker("crash_app", sqlite_url, effects.path, 2))
    yield k
    k.end()


def added(job: Job[Any]) -> int:
    counts = job.info().counts
    assert sum(counts[2:]) == counts.added
    return counts.added


def test_a_rerun_finds_its_children(crash: Any, keeper: Keeper, effects: Any) -> None:
    job = crash.resumes.start(20, 2)
    assert job.result() == sum(range(20))
    assert keeper.deaths == 2
    assert added(job) == 21
    for n in range(20):
        assert effects.count(f"leaf {n}") == 1  # complete ones do not run again


def test_death_after_each_wait(crash: Any, keeper: Keeper, effects: Any) -> None:
    job = crash.dies_between.start(3)
    assert job.result() == 3
    assert keeper.deaths == 3
    assert added(job) == 4
    assert [effects.count(f"leaf {n}") for n in range(3)] == [1, 1, 1]


def test_poison_ends_in_the_dead_letter(crash: Any, keeper: Keeper, effects: Any) -> None:
    error = crash.poison.start().error()
    assert isinstance(error, TaskFailed)
    assert effects.count("poison") == 4 == error.attempts  # crashes=3: survived three
    error = crash.poison_once_survived.start().error()
    assert error is not None and effects.count("poison1") == 2
    assert "lost" in f"{error.type} {error.message}".lower() or "crash" in f"{error.type} {error.message}".lower()


def test_never_twice(crash: Any, keeper: Keeper, effects: Any) -> None:
    assert crash.never_twice.start().error() is not None
    assert effects.count("never_twice") == 1


def test_poison_does_not_charge_its_neighbours(crash: Any, keeper: Keeper, effects: Any) -> None:
    jobs = [crash.innocent.start(n) for n in range(50)]
    bad = crash.poison.start()
    jobs += [crash.innocent.start(50 + n) for n in range(50)]
    assert bad.error() is not None
    attempts = [j.result() for j in jobs]
    assert max(attempts) <= 3  # only what ran beside it at the moment of a death
    assert sum(a > 1 for a in attempts) <= 4


def test_a_crash_replays_the_failure_that_was_caught(crash: Any, keeper: Keeper, effects: Any) -> None:
    job = crash.caught_failure.start()
    assert job.result() == "good 1"
    assert effects.count("fails") == 1  # not made anew: no attempt had failed
    assert effects.count("caught") == 2
    assert added(job) == 3
    assert job.info().state == "succeeded"


def test_a_key_of_another_type_diverges(crash: Any, keeper: Keeper) -> None:
    error = crash.diverges.start().error()
    assert error is not None and error.type == "Diverged"
    assert "leaf" in error.message and "fails" in error.message


def test_a_key_with_other_arguments_is_accepted(crash: Any, keeper: Keeper, effects: Any) -> None:
    job = crash.keyed.start()
    assert job.result() == 1
    assert added(job) == 2 and effects.count("leaf 2") == 0


def test_a_coroutine_resumes(crash: Any, keeper: Keeper, effects: Any) -> None:
    job = crash.coroutine_dies.start(10)
    assert job.result() == 45
    assert added(job) == 11
    assert [effects.count(f"leaf {n}") for n in range(10)] == [1] * 10


def test_a_scope_resumes(crash: Any, keeper: Keeper, effects: Any) -> None:
    job = crash.scope_dies.start(10)
    assert job.result() == 10
    assert added(job) == 11


def test_then_after_a_crash_runs_what_comes_next_only(crash: Any, keeper: Keeper, effects: Any) -> None:
    job = crash.then_dies.start(10)
    assert job.result() == 10
    assert added(job) == 11 and keeper.deaths == 1
    assert [effects.count(f"leaf {n}") for n in range(10)] == [1] * 10


def test_a_job_started_by_a_handler_is_started_once(crash: Any, keeper: Keeper, effects: Any) -> None:
    child = crash.starts_once.start().result()
    assert crash.leaf.job(child).result() == 77
    # One job; its handler may have run in the worker that died, before the outcome was out.
    assert [info.id for info in crash.app.jobs("type:leaf")] == [child]
    assert 1 <= effects.count("leaf 77") <= 2


def test_on_complete_runs_for_each_job(crash: Any, keeper: Keeper, effects: Any) -> None:
    job = crash.resumes.start(5, 1)
    job.result()
    effects.until(f"ended {job.id} succeeded 6")


def test_kill_while_a_forked_child_of_the_handler_lives(start_worker: Any, sqlite_url: str, effects: Any) -> None:
    """The grandchild holds copies of descriptors; it must not keep the dead worker alive, nor jam the writers."""
    url = sqlite_url + "?lease=1h"  # its death is seen, not waited for
    crash = build(url, str(effects.path))
    first = start_worker("crash_app", url, effects.path, 1)
    job = crash.forks_and_waits.start(600.0)
    effects.until("forked")
    first.kill()
    first.wait()
    start_worker("crash_app", url, effects.path, 1)
    assert job.result(timeout=60) == 1


def test_kill_of_a_waiting_client_and_of_a_draining_worker(crash: Any, start_worker: Any, sqlite_url: str, effects: Any) -> None:
    worker = start_worker("crash_app", sqlite_url, effects.path, 1, "grace=0")
    job = crash.blocks.start()
    effects.until("blocks")
    worker.send_signal(signal.SIGTERM)  # gives it back uncounted
    worker.wait(30)
    start_worker("crash_app", sqlite_url, effects.path, 1)
    assert job.result() == 2


def test_sigterm_drains_and_exits_0(crash: Any, start_worker: Any, sqlite_url: str, effects: Any) -> None:
    worker = start_worker("crash_app", sqlite_url, effects.path, 2)
    job = crash.slow_root.start(50, 0.02)
    effects.until("slow 3")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    counts = job.info().counts
    assert counts.running == 0 and job.info().state == "running"
    start_worker("crash_app", sqlite_url, effects.path, 2)
    assert job.result() == sum(range(50))
    assert [effects.count(f"slow {n}") for n in range(50)] == [1] * 50


def test_two_sigterms_stop_at_once_and_lose_nothing(crash: Any, start_worker: Any, sqlite_url: str, effects: Any) -> None:
    worker = start_worker("crash_app", sqlite_url, effects.path, 1)
    job = crash.blocks.start()
    effects.until("blocks")
    worker.send_signal(signal.SIGTERM)
    while worker.poll() is None:  # two signals that are pending together are one
        worker.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(0.1)
    start_worker("crash_app", sqlite_url, effects.path, 1)
    assert job.result() == 2


def test_processes(crash: Any, start_worker: Any, sqlite_url: str, effects: Any) -> None:
    worker = start_worker("crash_app", sqlite_url, effects.path, 1, "processes=2")
    job = crash.slow_root.start(20, 0.01)
    assert job.result() == sum(range(20))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0


def test_a_process_that_dies_is_replaced(crash: Any, start_worker: Any, sqlite_url: str, effects: Any) -> None:
    start_worker("crash_app", sqlite_url, effects.path, 1, "processes=2")
    job = crash.resumes.start(10, 2)
    assert job.result() == 45
    assert added(job) == 11


def test_the_first_process_is_gone_and_the_file_serves_again(crash: Any, start_worker: Any, sqlite_url: str, effects: Any) -> None:
    job = crash.leaf.start(3)
    worker = start_worker("crash_app", sqlite_url, effects.path, 1)
    assert job.result() == 3
    worker.kill()
    worker.wait()
    assert crash.leaf.job(job.id).result() == 3
    assert os.path.exists(sqlite_url.removeprefix("sqlite:"))


def test_a_rerun_finds_a_maps_children_though_sets_come_in_another_order(app: App) -> None:
    orders = iter([{0, 8}, {8, 0}])
    assert list({0, 8}) != list({8, 0})

    @app.task
    def leaf(ns: set[int], more: dict[str, set[int]]) -> list[str]:
        return list(more)

    @app.task(retries=1, backoff=0)
    def root() -> list[list[str]]:
        ns = next(orders)
        found = leaf.map([ns], more={"b": ns, "a": ns}).result()
        if context().attempt == 1:
            raise ValueError("again")
        return found

    with app.worker(slots=1):
        job = root.start()
        job.result()
        assert job.info().counts.added == 2
