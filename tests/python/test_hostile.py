"""What people do wrong, or all at once; and that nothing is left behind."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from greenlet import getcurrent, greenlet

from dynatask import App, Cancelled, Deadlock, DynataskError, TaskCancelled, Unwind, UsageError, as_completed, children, context


def run(code: str, *args: object, send: int | None = None, **env: str) -> "subprocess.CompletedProcess[str]":
    """Runs a script; `send` is a signal for when it has printed `ready`."""
    p = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", code, *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | env,
    )  # fmt: skip
    assert p.stdout is not None
    if send is not None:
        assert p.stdout.readline() == "ready\n"
        p.send_signal(send)
    try:
        out, err = p.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        p.send_signal(signal.SIGABRT)
        out, err = p.communicate()
        pytest.fail(f"it hangs: {err}")
    return subprocess.CompletedProcess(p.args, p.returncode, out, err)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.001)


# ---- nothing is left behind ------------------------------------------------------


def test_workers_leave_no_threads_and_no_descriptors(app: App) -> None:
    @app.task
    async def leaf(n: int) -> int:
        return n

    @app.task
    def root(n: int) -> int:
        return sum(leaf.map(range(n)).result())

    def once() -> None:
        with app.worker(slots=3):
            assert root.start(20).result() == 190

    for _ in range(3):
        once()
    gc.collect()
    fds, threads = descriptors(), threading.active_count()
    native = len(os.listdir("/proc/self/task"))
    for _ in range(10):
        once()

    def gone() -> bool:  # what the last threads held goes after they ended
        gc.collect()
        return descriptors() <= fds + 1 and threading.active_count() <= threads and len(os.listdir("/proc/self/task")) <= native

    until(gone)


def test_a_slot_that_ended_does_not_hold_its_threads_root(app: App) -> None:
    """greenlet would look for who does, and free it under us while the collector is at work."""
    roots: list[weakref.ref[greenlet]] = []

    @app.task
    def leaf() -> None:
        root = getcurrent()
        while root.parent is not None:
            root = root.parent
        roots.append(weakref.ref(root))

    @app.task
    def root() -> None:
        leaf.spawn().result()

    worker = app.worker(slots=2)
    with worker:
        root.start().result()
    until(lambda: roots[0]() is None)  # when Python looks at its pending calls
    del worker  # till here it had the slots


def test_apps_that_are_dropped_close(tmp_path: Path) -> None:
    def once(n: int) -> None:
        app = App("gone", f"sqlite:{tmp_path}/jobs.db")

        @app.task
        def f(n: int) -> int:
            return n

        job = f.using(delay=3600).start(n)
        job.info()
        job.cancel()

    for n in range(3):
        once(n)
        gc.collect()
    fds, native = descriptors(), len(os.listdir("/proc/self/task"))
    for n in range(20):
        once(n)
        gc.collect()
    assert descriptors() <= fds + 3
    assert len(os.listdir("/proc/self/task")) <= native + 1


def test_memory_is_steady_over_many_jobs(sqlite_url: str) -> None:
    app = App("steady", sqlite_url)

    @app.task
    def leaf(data: bytes) -> bytes:
        return data

    @app.task
    def root(n: int) -> int:
        return sum(len(x) for x in leaf.map([bytes(2000)] * n).result())

    def rss() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with app.worker(slots=2):
        for _ in range(80):  # until the caches are full
            assert root.start(200).result() == 400_000
        before = rss()
        for _ in range(40):
            assert root.start(200).result() == 400_000
        assert rss() - before < 12 << 20


def test_python_objects_of_tasks_are_freed(app: App) -> None:
    @app.task
    def leaf(n: int) -> list[int]:
        return [n] * 100

    @app.task
    def root() -> int:
        return len(leaf.map(range(100)).result())

    with app.worker(slots=2):
        for _ in range(3):
            root.start().result()
        gc.collect()
        tracemalloc.start()
        first = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            root.start().result()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - first
        tracemalloc.stop()
    assert grown < 1 << 20


# ---- many at once --------------------------------------------------------------------


def test_many_threads_start_and_wait(app: App) -> None:
    @app.task
    def f(n: int) -> int:
        return n

    got: list[int] = []

    def caller(base: int) -> None:
        for n in range(20):
            got.append(f.start(base + n).result())

    with app.worker(slots=2):
        threads = [threading.Thread(target=caller, args=(100 * i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert sorted(got) == sorted(100 * i + n for i in range(8) for n in range(20))


def test_many_wait_for_one(app: App) -> None:
    runs, gate = threading.Event(), threading.Event()

    @app.task
    def f() -> int:
        runs.set()
        gate.wait(60)
        return 9

    got: list[int] = []
    with app.worker(slots=1):
        job = f.start()
        runs.wait(60)  # with Kafka nobody finds it by its id before it was taken in
        threads = [threading.Thread(target=lambda: got.append(f.job(job.id).result())) for _ in range(20)]
        for t in threads:
            t.start()
        gate.set()
        for t in threads:
            t.join()
    assert got == [9] * 20


def test_more_unsent_children_than_may_be(app: App) -> None:
    @app.task
    def leaf(n: int) -> None: ...

    @app.task
    def root(n: int) -> int:
        for i in range(n):
            leaf.spawn(i)
        return n

    with app.worker(slots=2):
        job = root.start(25_000)
        assert job.result() == 25_000
        assert job.info().counts.succeeded == 25_001


def test_two_workers_of_one_app_in_one_process(app: App) -> None:
    @app.task
    def fib(n: int) -> int:
        return n if n < 2 else sum(h.result() for h in [fib.spawn(n - 1), fib.spawn(n - 2)])

    with app.worker(slots=1), app.worker(slots=1):
        assert fib.start(10).result() == 55
    with app.worker(slots=1):
        assert fib.start(5).result() == 5


def test_a_worker_that_serves_only_some_types(app: App, at_once: bool) -> None:
    @app.task
    def one() -> int:
        return 1

    @app.task
    def two() -> int:
        return 2

    with app.worker(slots=1, types=["one"]):
        a, b = one.start(), two.start()
        assert a.result() == 1
        assert b.info().counts.ready == at_once
        with app.worker(types={"two": 1}):
            assert b.result() == 2


# ---- the wrong thing in a handler ----------------------------------------------------------


def test_waiting_for_a_job_that_one_started(app: App) -> None:
    @app.task
    def leaf() -> int:
        return 1

    @app.task
    def root() -> str:
        try:
            leaf.using(delay=0.05).start().result()
        except Deadlock as e:
            return str(e)
        return ""

    with app.worker(slots=1):
        assert "spawn" in root.start().result()


def test_a_handler_that_swallows_everything(app: App) -> None:
    """`except BaseException: pass` around a wait must not hang or double."""

    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def rude(n: int) -> int:
        while True:
            try:
                return n if n == 0 else 1 + rude.spawn(n - 1).result()
            except Exception:  # noqa: BLE001
                continue

    with app.worker(slots=1, max_parked=5):
        job = rude.start(20)
        assert job.result() == 20
        assert job.info().counts.added == 21


def test_a_handler_that_swallows_cancelled(app: App) -> None:
    waiting = threading.Event()

    @app.task
    def never() -> None: ...

    @app.task
    def stubborn() -> str:
        try:
            waiting.set()
            never.using(delay=3600).spawn().result()
        except Cancelled:
            pass
        return "not me"

    with app.worker(slots=1):
        job = stubborn.start()
        waiting.wait(60)
        job.cancel()
        job.wait()
        assert job.info().state == "cancelled"


def test_a_handler_that_swallows_unwind_ends_all_the_same(app: App) -> None:
    @app.task
    def down(n: int) -> int:
        if n == 0:
            return 0
        h = down.spawn(n - 1)
        try:
            return 1 + h.result()
        except Unwind:
            return -1_000_000  # told to let it pass

    with app.worker(slots=1, max_parked=3):
        job = down.start(12)
        assert job.result() == 12  # what a dropped frame says is not an outcome


def test_finally_and_with_run_on_unwind(app: App) -> None:
    opened, closed = [0], [0]

    @app.task
    def down(n: int) -> int:
        opened[0] += 1
        try:
            return 0 if n == 0 else 1 + down.spawn(n - 1).result()
        finally:
            closed[0] += 1

    with app.worker(slots=1, max_parked=3):
        assert down.start(12).result() == 12
    assert opened == closed and opened[0] >= 13


def test_leaving_as_completed_early(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root() -> int:
        for h in as_completed(leaf.map(range(10))):
            return h.result()
        return -1

    @app.task
    async def aroot() -> int:
        async for h in as_completed(leaf.map(range(10))):
            return await h
        return -1

    with app.worker(slots=1):
        assert root.start().result() in range(10)
        assert aroot.start().result() in range(10)


def test_background_coroutines_that_outlive_their_handler(app: App) -> None:
    @app.task
    async def leaf() -> int:
        return 1

    @app.task
    async def root() -> int:
        async def later() -> None:
            await asyncio.sleep(0.01)
            leaf.spawn()

        root_later.append(asyncio.ensure_future(later()))
        return 5

    root_later: list[Any] = []
    with app.worker(slots=1):
        job = root.start()
        assert job.result() == 5
        assert job.info().counts.added in (1, 2)
        assert leaf.start().result() == 1


def test_a_blocking_call_in_a_coroutine_does_not_lose_the_lease(tmp_path: Path) -> None:
    app = App("blocked", f"sqlite:{tmp_path}/jobs.db", lease=1)

    @app.task
    async def rude() -> int:
        end = time.monotonic() + 2.5  # two and a half leases with the GIL and the loop
        while time.monotonic() < end:
            pass
        return context().attempt

    with app.worker(slots=1):
        job = rude.start()
        assert job.result() == 1


def test_deep_python_recursion_in_a_handler(app: App) -> None:
    @app.task
    def deep(n: int) -> int:
        def f(k: int) -> int:
            return 0 if k == 0 else 1 + f(k - 1)

        return f(n)

    with app.worker(slots=1):
        assert deep.start(800).result() == 800
        error = deep.start(1_000_000).error()
        assert error is not None and error.type == "RecursionError"
        assert deep.start(1).result() == 1


def test_children_left_open_by_an_exception_elsewhere(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root() -> int:
        scope = children()
        scope.__enter__()
        leaf.spawn(1)
        return 3  # never left

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == 3
        assert job.info().counts.added == 2


def test_mutating_an_argument_after_spawn(app: App) -> None:
    @app.task
    def total(ns: list[int]) -> int:
        return sum(ns)

    @app.task
    def root() -> int:
        ns = [1, 2, 3]
        h = total.spawn(ns)
        ns.append(100)
        return h.result()

    with app.worker(slots=1):
        assert root.start().result() == 6


def test_run_inside_a_handler_is_refused(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root() -> str:
        with pytest.raises(UsageError, match="spawn"):
            leaf.run(3)
        return "refused"

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == "refused"
        assert job.info().counts.added == 1


def test_a_task_defined_while_a_worker_runs(app: App) -> None:
    @app.task
    def first() -> int:
        return 1

    with app.worker(slots=1):
        assert first.start().result() == 1

        @app.task
        def late() -> int:
            return 2

        job = late.start()
        assert job.info().state == "running"  # known, served by the next worker
    with app.worker(slots=1):
        assert job.result() == 2


# ---- leaving the program ------------------------------------------------------------------

HEAD = """
import os, sys, threading, time, asyncio
from dynatask import App
app = App("leave", sys.argv[1])
@app.task
def never() -> None: ...
@app.task
def fast(n: int) -> int: return n
@app.task
def slow() -> None: time.sleep(1000)
@app.task
def waits() -> None: never.using(delay=3600).spawn().result()
"""


def test_ctrl_c_ends_a_wait(url: str) -> None:
    out = run(
        HEAD + """
job = never.using(delay=3600).start()
try:
    print("ready", flush=True)
    job.result()
except KeyboardInterrupt: print("interrupted")
job.cancel()
""", url, send=signal.SIGINT)  # fmt: skip
    assert out.returncode == 0 and out.stdout == "interrupted\n", out


def test_ctrl_c_ends_the_iteration_of_a_job(url: str) -> None:
    out = run(
        HEAD + """
job = never.using(delay=3600).start()
try:
    print("ready", flush=True)
    for info in job: pass
except KeyboardInterrupt: print("interrupted")
""", url, send=signal.SIGINT)  # fmt: skip
    assert out.returncode == 0 and out.stdout == "interrupted\n", out


def test_ctrl_c_in_the_body_of_a_worker_drains(url: str) -> None:
    out = run(
        HEAD + """
try:
    with app.worker(slots=2):
        fast.start(1).result()
        print("ready", flush=True)
        never.using(delay=3600).start().result()
except KeyboardInterrupt: print("interrupted")
""", url, send=signal.SIGINT)  # fmt: skip
    assert out.returncode == 0 and out.stdout == "interrupted\n", out


@pytest.mark.parametrize("end", ["", "w.stop()", "raise SystemExit(0)", "del w, app"])
def test_falling_off_the_end_with_a_worker_running(url: str, end: str) -> None:
    out = run(
        HEAD + f"""
w = app.worker(slots=2)
w.__enter__()
print(fast.start(1).result())
job = waits.start()
while job.info().counts.added < 1: time.sleep(0.001)
{end}
""", url)  # fmt: skip
    assert out.returncode == 0 and out.stdout == "1\n" and "Traceback" not in out.stderr, out


def test_a_worker_body_that_raises(url: str) -> None:
    out = run(
        HEAD + """
with app.worker(slots=2):
    print(fast.start(1).result())
    raise RuntimeError("body")
""", url)  # fmt: skip
    assert out.returncode == 1 and "RuntimeError: body" in out.stderr


def test_stop_with_no_grace_while_a_handler_is_stuck(url: str) -> None:
    out = run(
        HEAD + """
w = app.worker(slots=1)
w.__enter__()
job = slow.start()
while job.info().counts.running == 0: time.sleep(0.001)
w.stop(grace=0)
while job.info().counts.running: time.sleep(0.001)  # its handler sleeps on, long after this test
print(job.info().state, job.info().counts.ready)
sys.stdout.flush()
os._exit(0)
""", url)  # fmt: skip
    assert out.stdout == "running 1\n", out


def test_sigterm_with_a_stuck_handler_exits_after_grace(sqlite_url: str) -> None:
    out = run(
        HEAD + """
job = slow.start()
def say():
    while job.info().counts.running == 0: time.sleep(0.001)
    print("ready", flush=True)
threading.Thread(target=say, daemon=True).start()
app.worker(slots=1, grace=0.2).run()
""", sqlite_url, send=signal.SIGTERM)  # fmt: skip
    assert out.returncode == 0, out


def test_asyncio_cancel_of_a_callers_wait(app: App) -> None:
    @app.task
    def never() -> None: ...

    async def main() -> None:
        job = await never.using(delay=3600).astart()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(job, 0.05)
        assert (await job.ainfo()).state == "running"
        assert await job.acancel() is True
        with pytest.raises(TaskCancelled):
            await job

    with app.worker(slots=1):
        asyncio.run(main())


def test_several_event_loops_one_after_another(app: App) -> None:
    @app.task
    async def f(n: int) -> int:
        return n

    async def main(n: int) -> int:
        return await (await f.astart(n))

    with app.worker(slots=1):
        assert [asyncio.run(main(n)) for n in range(3)] == [0, 1, 2]


def test_an_app_used_from_a_thread_that_ends(app: App) -> None:
    @app.task
    def f(n: int) -> int:
        return n

    jobs: list[Any] = []
    with app.worker(slots=1):
        for n in range(20):
            t = threading.Thread(target=lambda n=n: jobs.append(f.start(n)))  # type: ignore[misc]
            t.start()
            t.join()
        assert [j.result() for j in jobs] == list(range(20))


def test_huge_integers_of_ids_and_strange_handles(app: App) -> None:
    @app.task
    def f() -> None: ...

    for bad in ("x/99999999999999999999", "/0", "x/", "x/-1", "x/1/2", "\x00", "x\n"):
        with pytest.raises(DynataskError):
            f.job(bad).info()


def test_new_app_is_cheap(new_app: Callable[..., App]) -> None:
    before = descriptors()
    apps = [new_app() for _ in range(20)]
    assert descriptors() - before <= 20 * 8
    assert len(apps) == 20


def test_a_stop_that_comes_before_the_start_counts(app: App) -> None:
    @app.task
    def f() -> int:
        return 1

    worker = app.worker(slots=1)
    worker.stop()
    worker.run()  # returns: it was told to stop
    with app.worker(slots=1):
        assert f.start().result() == 1


def test_a_signal_that_another_thread_is_given_stops_the_worker() -> None:
    # So it is with one that comes while the process is stopped: any thread may be the first to go on.
    done = run(
        """
import signal, threading
from dynatask import App
app = App("hostile", url="memory:")

@app.task
def f() -> None:
    assert threading.current_thread() is not threading.main_thread()
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

f.start()
app.worker(slots=1).run()
print("drained")
"""
    )
    assert (done.returncode, done.stdout) == (0, "drained\n"), done.stderr
