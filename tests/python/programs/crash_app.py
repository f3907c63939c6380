"""Task types that crash their process, for tests that start it as a worker.

`build(url, log)` gives the app and its types, so that a test can start jobs
of them; run as a program `crash_app.py URL LOG [SLOTS] [OPTION=VALUE ..]` it
is a worker.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
import time
from types import SimpleNamespace

from dynatask import App, children, context, then


def build(url: str, log: str, **options: object) -> SimpleNamespace:
    app = App("crash", url, **options)  # type: ignore[arg-type]

    def note(line: str) -> int:
        """Appends a line; returns how often it was there before."""
        fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(fd, f"{line}\n".encode())
        os.close(fd)
        with open(log) as f:
            return f.read().splitlines().count(line) - 1

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task
    def leaf(n: int) -> int:
        note(f"leaf {n}")
        return n

    @app.task(crashes=10)
    def resumes(n: int, crashes: int) -> int:
        """Dies after its children are complete, so many times."""
        total = sum(leaf.map(range(n)).result())
        if note("resumes") < crashes:
            die()
        return total

    @app.task(crashes=10)
    def dies_between(n: int) -> int:
        """Dies once after each child, one by one."""
        total = 0
        for i in range(n):
            total += leaf.spawn(i).result()
            if note(f"between {i}") == 0:
                die()
        return total

    @app.task
    def poison() -> None:
        note("poison")
        die()

    @app.task(crashes=1)
    def poison_once_survived() -> None:
        note("poison1")
        die()

    @app.task(crashes=0)
    def never_twice() -> None:
        note("never_twice")
        die()

    @app.task
    def crashing_child() -> int:
        if note("crashing_child") == 0:
            die()
        return 5

    @app.task
    def caught_failure() -> str:
        """Catches a child's failure, makes another, dies, and must see the same again."""
        bad = fails.spawn()
        try:
            bad.result()
            return "no failure"
        except ValueError:
            note("caught")
        good = leaf.spawn(1).result()
        if note("caught_failure") == 0:
            die()
        return f"good {good}"

    @app.task
    def fails() -> None:
        note("fails")
        raise ValueError("the first time only" if note("fails again") == 0 else "again")

    @app.task
    def diverges() -> str:
        name = "a" if note("diverges") == 0 else "b"
        (leaf if name == "a" else fails).using(key="k").spawn(*([1] if name == "a" else []))  # type: ignore[arg-type]
        if name == "a":
            leaf.spawn(7).result()  # what was spawned is stored by now
            die()
        return name

    @app.task
    def keyed() -> int:
        """Other arguments under the same key in a re-run: the child that is there."""
        n = 1 if note("keyed") == 0 else 2
        h = leaf.using(key="k").spawn(n)
        got = h.result()
        if n == 1:
            die()
        return got

    @app.task
    async def coroutine_dies(n: int) -> int:
        got = await asyncio.gather(*(leaf.spawn(i) for i in range(n)))
        if note("coroutine_dies") == 0:
            die()
        return sum(got)

    @app.task
    def scope_dies(n: int) -> int:
        with children():
            for i in range(n):
                leaf.spawn(i)
        if note("scope_dies") == 0:
            die()
        return n

    @app.task
    def then_dies(n: int) -> int:
        leaf.map(range(n))
        return then(last_dies, n)

    @app.task
    def last_dies(n: int) -> int:
        if note("last_dies") == 0:
            die()
        return n

    @app.task
    def starts_once() -> str:
        job = leaf.start(77)
        if note("starts_once") == 0:
            die()
        return job.id

    @app.task
    def innocent(n: int) -> int:
        note(f"innocent {n}")
        return context().attempt

    @app.task
    def forks_and_waits(seconds: float) -> int:
        """A handler with a forked child that outlives the worker."""
        p = multiprocessing.get_context("fork").Process(target=time.sleep, args=(seconds,))
        p.start()
        if note("forked") > 0:
            p.kill()
            p.join()
            return 1
        p.join()
        return 0

    @app.task
    def blocks() -> int:
        if note("blocks") > 0:
            return 2
        time.sleep(600)
        return 1

    @app.task
    def slow_leaf(n: int, seconds: float) -> int:
        time.sleep(seconds)
        note(f"slow {n}")
        return n

    @app.task
    def slow_root(n: int, seconds: float) -> int:
        return sum(slow_leaf.map(range(n), seconds=seconds).result())

    def await_file(path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.002)

    @app.task
    def held(folder: str) -> int:
        """Its n-th run waits for the file go-n, then makes a child."""
        n = note("held")
        await_file(f"{folder}/go-{n}")
        if n == 0:
            try:
                leaf.spawn(1000).result()
            finally:
                note("late")
        return n

    @app.task
    def fib(n: int) -> int:
        if n < 2:
            return n
        a, b = fib.spawn(n - 1), fib.spawn(n - 2)
        return a.result() + b.result()

    @app.task
    async def afib(n: int) -> int:
        if n < 2:
            return n
        a, b = afib.spawn(n - 1), afib.spawn(n - 2)
        return await a + await b

    @app.task
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down.spawn(n - 1).result()

    @app.task
    async def adown(n: int) -> int:
        return 0 if n == 0 else 1 + await adown.spawn(n - 1)

    @app.task
    def quiet(n: int) -> int:
        return n

    @app.task
    def wide(n: int) -> int:
        return sum(quiet.map(range(n)).result())

    @app.task
    def early(folder: str) -> str:
        early_child.spawn(folder)
        return "early"

    @app.task
    def early_child(folder: str) -> None:
        early_grandchild.spawn(folder)

    @app.task
    def early_grandchild(folder: str) -> None:
        note("grandchild")
        await_file(f"{folder}/go")

    @app.on_complete()
    def ended(info) -> None:  # type: ignore[no-untyped-def]
        note(f"ended {info.id} {info.state} {info.counts.added}")

    return SimpleNamespace(app=app, **{k: v for k, v in locals().items() if hasattr(v, "spawn")})


# As a program; also in the child processes of `processes=`, which import it.
if os.path.basename(sys.argv[0]) == os.path.basename(__file__):
    url, log = sys.argv[1:3]
    app = build(url, log).app

if __name__ == "__main__":
    slots = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    options: dict[str, object] = {}
    for option in sys.argv[4:]:
        name, value = option.split("=")
        options[name] = int(value)
    with open(log, "a") as f:
        f.write(f"begun {os.getpid()}\n")
    app.worker(slots=slots, **options).run()  # type: ignore[arg-type]
