"""memory:?inline=1: a wait runs the handlers of its job on its own thread."""

import asyncio
import itertools
import signal
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynatask import App, BadArguments, JobInfo, TaskFailed, UsageError, WaitTimeout, children, context, then

serial = itertools.count(1)


@pytest.fixture
def app() -> App:
    return App(f"inline-{next(serial)}", "memory:?inline=1")


others: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def threads_of_tests_before() -> None:
    others.clear()
    others.update(threading.enumerate())


def here() -> bool:
    """On the thread that waits, and no thread was made for it."""
    return threading.current_thread() is threading.main_thread() and others.issuperset(threading.enumerate())


@pytest.mark.parametrize("way", ["result", "run", "wait", "error", "iterate"])
def test_every_wait_runs_the_handler_on_its_thread(app: App, way: str) -> None:
    ran: list[bool] = []

    @app.task
    def double(n: int) -> int:
        ran.append(here())
        return 2 * n

    if way == "run":
        assert double.run(2) == 4
    else:
        job = double.start(2)
        assert ran == []  # nobody waits for it
        if way == "result":
            assert job.result() == 4
        elif way == "wait":
            assert job.wait()
        elif way == "error":
            assert job.error() is None
        else:
            assert [info.state for info in job][-1] == "succeeded"
        assert job.result() == 4
    assert ran == [True]


def test_a_wait_runs_its_own_job_alone(app: App) -> None:
    ran: list[int] = []

    @app.task
    def leaf(n: int) -> int:
        ran.append(n)
        return n

    @app.task
    def root(n: int) -> int:
        ran.append(-n)
        return leaf.spawn(n).result()

    jobs = [root.start(n) for n in range(1, 6)]
    assert jobs[3].result() == 4
    assert ran == [-4, 4]
    assert [job.result() for job in jobs] == [1, 2, 3, 4, 5]
    assert ran == [-4, 4, -1, 1, -2, 2, -3, 3, -5, 5]  # each once, none by halves


def test_children_waits_then_and_retries(app: App) -> None:
    ran: list[bool] = []

    @app.task
    def fib(n: int) -> int:
        ran.append(here())
        if n < 2:
            return n
        a, b = fib.spawn(n - 1), fib.spawn(n - 2)
        return a.result() + b.result()

    @app.task(retries=2, backoff=0)
    def flaky(n: int) -> int:
        ran.append(here())
        if context().attempt < 3:
            raise ValueError(n)
        return n

    @app.task
    def last(values: list[int]) -> int:
        ran.append(here())
        return sum(values)

    @app.task
    def root() -> int:
        with children():
            tasks = flaky.map([1, 2, 3])
        return then(last, [fib.spawn(10).result(), *tasks.result()])

    assert root.run() == 61
    assert all(ran) and len(ran) > 180


def test_deeper_than_python_recurses(app: App) -> None:
    @app.task
    def down(n: int) -> int:
        return down.spawn(n - 1).result() + 1 if n else 0

    assert down.run(1500) == 1500


def test_coroutines_and_plain_handlers_call_each_other(app: App) -> None:
    ran: list[bool] = []

    @app.task
    async def slow(n: int) -> int:
        ran.append(here())
        await asyncio.sleep(0)
        return sum(await asyncio.gather(*(plain.spawn(i) for i in range(n))))

    @app.task
    def plain(n: int) -> int:
        ran.append(here())
        asyncio.run(asyncio.sleep(0))  # no loop runs here, as far as it can see
        return slow.spawn(n - 1).result() + n if n > 1 else n

    assert plain.run(4) == plain.start(4).result()
    assert slow.start(4).result() > 0
    assert all(ran)


def test_start_map_and_map(app: App) -> None:
    @app.task
    def double(n: int) -> int:
        assert threading.current_thread() is threading.main_thread()
        return 2 * n

    @app.task
    def root(n: int) -> list[int]:
        return double.map(range(n)).result()

    assert double.start_map(range(100)).result() == root.run(100) == [2 * n for n in range(100)]


def test_what_a_handler_raised_is_one_stack(app: App) -> None:
    @app.task
    def broken(n: int) -> int:
        treasure = n
        raise ValueError(treasure)

    @app.task
    def root() -> int:
        return broken.spawn(7).result()

    with pytest.raises(ValueError) as caught:
        root.run()
    assert isinstance(caught.value.__cause__, TaskFailed)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[0] == "test_what_a_handler_raised_is_one_stack" and "root" in names
    with pytest.raises(ValueError) as caught:
        broken.start(7).result()
    *_, (frame, _) = traceback.walk_tb(caught.value.__traceback__)
    assert frame.f_code.co_name == "broken" and frame.f_locals["treasure"] == 7


def test_on_complete_has_run_when_the_wait_is_over(app: App) -> None:
    seen: list[str] = []

    @app.task
    def work() -> int:
        return 1

    @app.task
    def other() -> int:
        return 2

    @app.on_complete(work)
    def done(info: JobInfo) -> None:
        assert here()
        seen.append(f"{info.id} {info.state}")

    job = work.start()
    assert job.result() == 1
    assert seen == [f"{job.id} succeeded"]
    assert other.run() == 2 and len(seen) == 1


def test_a_timeout_is_looked_at_between_handlers(app: App) -> None:
    ran: list[str] = []

    @app.task
    def child() -> int:
        return 1

    @app.task
    def waits() -> int:
        ran.append("begins")
        return child.using(delay=3600).spawn().result()

    job = waits.start()
    while not ran:  # a slow machine's time is over before it began
        with pytest.raises(WaitTimeout):
            job.result(timeout=0.05)
    assert ran == ["begins"] and job.cancel()
    assert job.error() is not None


def test_ctrl_c_ends_the_wait_and_not_the_task(app: App) -> None:
    ran: list[int] = []

    @app.task
    def stopped() -> int:
        ran.append(context().attempt)
        if len(ran) == 1:
            raise KeyboardInterrupt
        return 1

    job = stopped.start()
    with pytest.raises(KeyboardInterrupt):
        job.result()
    assert job.info().state == "running" and ran == [1]
    assert job.result() == 1
    assert ran == [1, 1]


def test_ctrl_c_in_a_coroutine_does_the_same(app: App) -> None:
    ran: list[int] = []
    dropped: list[int] = []

    @app.task
    async def stopped(deep: bool) -> int:
        ran.append(context().attempt)
        await asyncio.sleep(0)
        if len(ran) % 2:
            await asyncio.gather(interrupt()) if deep else await interrupt()
        return 1

    async def interrupt() -> None:
        raise KeyboardInterrupt

    @app.task
    async def beside() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            dropped.append(1)

    @app.task
    def root(deep: bool) -> int:
        other = beside.spawn()
        value = stopped.spawn(deep).result()
        other.cancel()
        return value

    for deep in (False, True):
        ran.clear()
        job = root.start(deep)
        with pytest.raises(KeyboardInterrupt):
            job.result()
        assert job.info().state == "running" and job.info().counts.failed == 0 and ran == [1]
        assert len(dropped) == 1  # what else ran was left too
        assert job.result() == 1
        assert ran == [1, 1]  # the attempt was not counted
        dropped.clear()


def test_ctrl_c_leaves_an_await(app: App) -> None:
    ran: list[str] = []

    @app.task
    async def slow(n: int) -> int:
        ran.append("coroutine")
        if len(ran) == 1:
            raise KeyboardInterrupt
        return n

    @app.task
    def plain(n: int) -> int:
        ran.append("plain")
        if len(ran) == 2:
            raise KeyboardInterrupt
        return slow.spawn(n).result()

    async def main() -> int:
        return await handle

    for handle, before in ((slow.start(1), ["coroutine"]), (plain.start(2), ["coroutine", "plain"])):
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
        assert ran == before and handle.info().state == "running"
        ran.append("waited again")
        assert asyncio.run(main()) > 0
        del ran[len(before) :]


def test_a_signal_leaves_the_wait(app: App) -> None:
    """The real one, which hits where the program waits for a coroutine's timer."""
    began: list[int] = []

    @app.task
    async def sleeps() -> int:
        began.append(context().attempt)
        if len(began) == 1:
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
            await asyncio.Event().wait()
        return 1

    job = sleeps.start()
    with pytest.raises(KeyboardInterrupt):
        job.result()
    assert job.info().state == "running"
    assert job.result() == 1 and began == [1, 1]


@pytest.mark.parametrize("way", ["result", "iterate", "await", "async for"])
def test_what_nobody_serves_is_no_silent_wait(app: App, way: str) -> None:
    @app.extern()
    def c_add(a: int, b: int) -> int: ...  # type: ignore[empty-body]

    @app.task
    def leaf() -> int:
        return 1

    @app.task
    async def root() -> int:
        await leaf.spawn()
        return await c_add.spawn(1, 2)

    @app.on_complete(c_add)  # that it is listened to does not serve it
    def done(info: JobInfo) -> None: ...

    job = root.start()

    async def main() -> object:
        return await job if way == "await" else [info async for info in job]

    def wait() -> object:
        return job.result() if way == "result" else list(job) if way == "iterate" else asyncio.run(main())

    for _ in range(2):  # and the program may go on, and ask again
        with pytest.raises(UsageError) as caught:
            wait()
        for part in (f"{job.id}/2", "c_add", "app.worker(plugins=", "memory:?inline=1"):
            assert part in str(caught.value)
    assert job.info().state == "running"


def test_it_goes_on_once_a_worker_serves_it(app: App, plugin: Callable[..., str]) -> None:
    @app.extern()
    def c_add(a: int, b: int) -> int: ...  # type: ignore[empty-body]

    @app.task
    def root(n: int) -> int:
        return c_add.spawn(n, n).result()

    job = root.start(2)
    with pytest.raises(UsageError):
        job.result()
    with pytest.raises(UsageError):
        c_add.run(1, 1)
    with app.worker(plugins=[plugin("acc")]):
        assert job.result() == 4


def test_a_wait_for_time_is_no_such(app: App) -> None:
    """What is due later, or slow, is not what nobody serves."""

    @app.extern()
    def elsewhere() -> int: ...  # type: ignore[empty-body]

    @app.task
    def later() -> int:
        return 1

    @app.task
    async def slow() -> int:
        await asyncio.sleep(0.6)  # longer than two looks
        return 1

    @app.task
    def root() -> int:
        tasks = [later.using(delay=0.6).spawn(), slow.spawn()]
        return sum(task.result() for task in tasks)

    with pytest.raises(UsageError):
        elsewhere.run()
    assert root.run() == 2


def test_plain_and_coroutine_types_that_the_option_types_names(app: App, monkeypatch: pytest.MonkeyPatch, plugin: Callable[..., str]) -> None:
    ran: list[str] = []

    @app.extern()
    def c_add(a: int, b: int) -> int: ...  # type: ignore[empty-body]

    @app.task
    def plain(n: int) -> int:
        return n + 1

    @app.task
    async def coroutine(n: int) -> int:
        return await plain.spawn(n) + await c_add.spawn(n, n)

    @app.task
    def left_out() -> int:
        return 1

    @app.on_complete(coroutine)
    def done(info: JobInfo) -> None:
        ran.append(info.state)

    monkeypatch.setenv("DYNATASK_TYPES", "plain, coroutine, c_add")
    with app.worker(plugins=[plugin("acc")]):
        assert coroutine.run(2) == 7
        assert sum(plain.start_map(range(3)).result()) == 6
        with pytest.raises(UsageError, match="left_out.*option types.*plain, coroutine, c_add"):
            left_out.run()
    assert ran == []  # it is left out too


@pytest.mark.parametrize("given", [["one", "two"], {"one": 1, "two": 1}, ["one"], {"one": 1}], ids=repr)
def test_types_of_the_worker_and_of_the_environment(given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves what both name; what the environment names must be there, in any part of the worker."""
    app = App("both", f"sqlite:{tmp_path}/jobs.db")

    @app.task
    def one() -> int:
        return 1

    @app.task
    async def two() -> int:
        return 2

    @app.task
    def three() -> None: ...

    monkeypatch.setenv("DYNATASK_TYPES", "one, two")
    with app.worker(types=given):
        jobs = [one.start(), two.start(), three.start()]
        assert jobs[0].result() == 1
        if "two" in given:
            assert jobs[1].result() == 2
    assert jobs[2].info().counts.ready == 1


def test_await_runs_them_on_the_loop_of_the_caller(app: App) -> None:
    ran: list[bool] = []

    @app.task
    async def slow(n: int) -> int:
        ran.append(threading.current_thread() is threading.main_thread())
        await asyncio.sleep(0)
        return n

    @app.task
    def plain(n: int) -> int:
        ran.append(threading.current_thread() is threading.main_thread())
        return slow.spawn(n).result()

    async def main() -> None:
        assert await plain.arun(3) == 3
        one, two = await plain.astart(1), await slow.astart(2)
        assert await asyncio.gather(one, two) == [1, 2]
        job = await plain.astart(5)
        assert [info.state async for info in job][-1] == "succeeded"
        assert asyncio.get_running_loop().get_task_factory() is None

    asyncio.run(main())
    assert all(ran) and len(ran) == 7


def test_threads_wait_each_for_its_own(app: App) -> None:
    ran: dict[int, int] = {}

    @app.task
    def leaf(n: int) -> int:
        return threading.get_ident()

    @app.task
    def root(n: int) -> bool:
        return leaf.spawn(n).result() == threading.get_ident()

    def wait(n: int) -> None:
        ran[n] = root.start(n).result()

    threads = [threading.Thread(target=wait, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ran == dict.fromkeys(range(4), True)


def test_a_worker_serves_the_c_handlers_alone(app: App, plugin: Callable[..., str]) -> None:
    main = threading.get_ident()

    @app.extern()
    def c_add(a: int, b: int) -> int: ...  # type: ignore[empty-body]

    @app.task
    def root(n: int) -> int:
        assert threading.get_ident() == main
        return c_add.spawn(n, n).result()

    with app.worker(plugins=[plugin("acc")]):
        assert root.start(2).result() == 4


def test_of_memory_alone(tmp_path: Path) -> None:
    @(file := App("inline-file", f"sqlite:{tmp_path}/jobs.db?inline=1")).task
    def f() -> None: ...

    with pytest.raises(BadArguments, match="inline.*memory:"):
        f.start()
    assert file.name and not any(tmp_path.iterdir())
    with pytest.raises(BadArguments, match="inline"):
        App("inline-bad", "memory:?inline=2").jobs()
