"""A fleet: two Python and two C workers, each with types of its own, as on four hosts.

    script/fleet [DIR]       # sets up, then: python examples/fleet/fleet.py [DIR]

Counts the words of the files below DIR; without DIR: /usr/include/linux. The
workers share nothing but the engine: DYNATASK_URL, else Kafka and Redis, real
servers that are started for this run. Shows the job while it grows, and the pids
of the workers: kill -9 any of them, and another takes its place.

At the end: who ran what, the most frequent words, and a last line whose sums
oracle.py finds too, by find, grep, sort and uniq.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynatask import Job, TaskInfo

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests")]
from keep import Worker, c_host, drain, run, say  # noqa: E402

FLEET = {  # worker: its types
    "desk": ("corpus", "rank"),
    "disk": ("listing", "shard"),
    "counter": ("tally",),
    "merger": ("merge",),
}
IN_C = ("counter", "merger")
TREE_MAX = 100_000


@contextmanager
def engine() -> Iterator[str]:
    """The configured engine's URL, or that of servers which end with the block."""
    if url := os.environ.get("DYNATASK_URL"):
        yield url
        return
    from servers import Guard, Kafka, Redis, kit, redis

    if reason := redis.missing():
        sys.exit(f"fleet.py: {reason}; or name an engine by DYNATASK_URL")
    with Guard() as guard:
        url = Redis(guard).url
        if reason := kit.Kit(kit.VERSIONS[0]).missing():
            say(f"no Kafka here, so Redis alone: {reason}")
        else:
            url = f"kafka://{Kafka(guard).address}?store={url}"
        say(f"engine: {url}, started for this run")
        yield url


def command(worker: str, plugin: Path) -> list[str]:
    host = [c_host(), "--app", "fleet", "--plugin", str(plugin)]
    if worker not in IN_C:
        host = [sys.executable, "-m", "dynatask", "worker", str(HERE / "words.py")]
    return [*host, "--types", ",".join(FLEET[worker])]


def say_who_ran_what(job: Job[Any], workers: list[Worker]) -> None:
    """Of each task, of the first TREE_MAX, the worker that ran it last, in whichever of its lives."""
    name_of = {str(pid): worker.name for worker in workers for pid in worker.pids}
    ran = {worker.name: Counter[str]() for worker in workers}

    def look(task: TaskInfo) -> None:
        _, pid, _ = task.worker.split(":")
        ran[name_of[pid]][task.type] += 1
        for child in task.children:
            look(child)

    look(job.tree(depth=10, limit=TREE_MAX))
    for name, types in ran.items():
        say(f"{name} ran " + ", ".join(f"{type} {n}" for type, n in sorted(types.items())))


def count_by_four(folder: str) -> int:
    # Only now: the engine's address is in the environment.
    sys.path.insert(0, str(HERE))
    import words

    from dynatask.cli.watch import watch

    began = time.monotonic()
    job = words.start(folder)
    workers = [Worker(name, command(name, words.PLUGIN)) for name in FLEET]
    try:
        say(f"job {job.id}: words of {folder}; kill -9 a worker: another takes its place, and the sums stay")
        info, tree = watch(words.app, job)
        took = time.monotonic() - began
    finally:
        drain(workers)
    if info.state != "succeeded":
        print(f"the job {info.state}: {info.error}", file=sys.stderr)
        return 1
    deaths = ", ".join(f"{worker.name} {worker.deaths}" for worker in workers)
    say(f"workers that died: {deaths}; lost attempts: {tree.lost}; tasks claimed again: {tree.again}")
    say_who_ran_what(job, workers)
    words.report(job, took)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Words counted by a fleet of four workers.")
    parser.add_argument("dir", nargs="?", default="/usr/include/linux", help="a folder; else the kernel's headers")
    folder: str = parser.parse_args().dir
    if not os.path.isdir(folder):
        parser.error(f"{folder} is no folder")
    with engine() as url:
        os.environ["DYNATASK_URL"] = url
        return count_by_four(folder)


if __name__ == "__main__":
    run(main)
