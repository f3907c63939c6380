"""Measures the Python side through the public API.

    bench_python.py noop URL N       one job of N no-op children: tasks a second
    bench_python.py starts URL N     N jobs that coroutines start at once, nobody serves them: jobs a second
    bench_python.py serve URL        a worker with a Python no-op, until stdin closes
    bench_python.py idle URL SECONDS an idle worker: per cent of one core
    bench_python.py hold URL         a worker as serve, whose task that begins first never ends
    bench_python.py recovery URL N   so many workers killed at such a task: how long after its lease the task began elsewhere, the worst, ms
    bench_python.py million URL N    one job of N children: tasks/s, then peak RSS in MB of this process

Prints plain numbers; script/bench makes medians and JSON of them.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

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


LEASE = 1.5


@app.task
def pyhold(path: str) -> None:
    with open(path, "a") as file:
        file.write(f"{time.time()}\n")
    if len(Path(path).read_text().splitlines()) == 1:
        threading.Event().wait()


def begins(path: Path, n: int) -> float:
    """When the n-th begin was."""
    until = time.monotonic() + 60
    while len(lines := path.read_text().splitlines() if path.exists() else []) < n:
        if time.monotonic() > until:
            sys.exit("recovery: the task did not begin")
        time.sleep(0.001)
    return float(lines[n - 1])


def worker() -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "hold", url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"DYNATASK_LEASE": str(LEASE)})
    assert process.stdout and process.stdout.readline()
    return process


def recovery(kills: int) -> float:
    """Beyond the end of the lease, as the store has it; where deaths are seen and there is none, beyond the kill. The other worker sleeps."""
    late: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        at_work = worker()
        for i in range(kills):
            path = Path(folder, str(i))
            job = pyhold.start(str(path))
            begins(path, 1)
            idle = worker()
            time.sleep(LEASE + random.random() * LEASE / 2)  # at any moment between two signs of life
            at_work.kill()
            killed = time.time()
            end = min(row["expires"] for row in app.read({"what": "workers"})) / 1e6
            late.append(begins(path, 2) - (end or killed))
            job.result()
            at_work.wait()
            at_work = idle
        at_work.kill()
        at_work.wait()
    return max(late) * 1000


if mode == "recovery":
    print(f"{recovery(n):.1f}")
    sys.exit()
if mode == "starts":
    with app.worker():
        pass  # it said what types there are
    print(f"{asyncio.run(start(n)):.0f}")
    sys.exit()

with app.worker(slots=1):
    if mode in ("serve", "hold"):
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
