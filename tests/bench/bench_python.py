"""Measures the Python side through the public API.

    bench_python.py noop URL N       one job of N no-op children: tasks a second
    bench_python.py starts URL N     N jobs that coroutines start at once, nobody serves them: jobs a second
    bench_python.py serve URL        a worker with a Python no-op, until stdin closes
    bench_python.py idle URL SECONDS an idle worker: per cent of one core
    bench_python.py million URL N    one job of N children: tasks/s, then peak RSS in MB of this process

Prints plain numbers; script/bench makes medians and JSON of them.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time

from dynatask import App, children

mode, url = sys.argv[1:3]
n = int(sys.argv[3]) if len(sys.argv) > 3 else 0
app = App("bench", url)


@app.task
def pynoop(i: int) -> None:
    return None


@app.task
def pyfan(n: int) -> int:
    with children():
        pynoop.map(range(n))
    return n


def run(n: int) -> float:
    began = time.monotonic()
    assert pyfan.start(n).result() == n
    return (n + 1) / (time.monotonic() - began)


async def start(n: int) -> float:
    began = time.monotonic()
    await asyncio.gather(*(pynoop.astart(i) for i in range(n)))
    return n / (time.monotonic() - began)


if mode == "starts":
    with app.worker():
        pass  # it said what types there are
    print(f"{asyncio.run(start(n)):.0f}")
    sys.exit()

with app.worker(slots=1):
    if mode == "serve":
        print("serving", flush=True)
        sys.stdin.read()
    elif mode == "noop":
        run(100)
        print(f"{run(n):.0f}")
    elif mode == "idle":
        time.sleep(1)
        before = time.process_time()
        time.sleep(n)
        print(f"{(time.process_time() - before) / n * 100:.3f}")
    elif mode == "million":
        print(f"{run(n):.0f}")
        print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.1f}")
    else:
        sys.exit(f"bench_python: no mode {mode}")
