"""The survey by two worker processes, one in C and one in Python, on one engine.

    python examples/survey/demo.py [DIR] [--db FILE]

Without DIR: Python's standard library. Without --db: DYNATASK_URL, else a
temporary file. Shows the job while it grows, and the pids of the workers:
kill -9 one of them, or both. The demo starts another in its place, and the
sums are the same; it says how many attempts were lost.
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from dynatask import EngineError

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from keep import BUILD, Worker, c_host, drain, run, say  # noqa: E402


def c_worker() -> list[str]:
    return [c_host(), "--app", "survey", "--plugin", str(BUILD / "examples/survey/survey.so")]


def python_worker() -> list[str]:
    return [sys.executable, "-m", "dynatask", "worker", str(HERE / "survey.py")]


def survey_by_two(folder: str) -> int:
    # Only now: the engine's address is in the environment.
    sys.path.insert(0, str(HERE))
    import survey

    from dynatask.cli.watch import watch

    began = time.monotonic()
    job = survey.start(folder)
    workers = [Worker("C", c_worker()), Worker("Python", python_worker())]
    try:
        say(f"job {job.id}: survey of {folder}; kill -9 a worker: another takes its place, and the sums stay")
        info, tree = watch(survey.app, job)
        took = time.monotonic() - began
    except EngineError:
        say(f"the demo gives up; job {job.id} is kept, and workers that come later end it")
        raise
    finally:
        drain(workers)
    if info.state != "succeeded":
        print(f"the job {info.state}: {info.error}", file=sys.stderr)
        return 1
    deaths = ", ".join(f"{worker.name} {worker.deaths}" for worker in workers)
    say(f"workers that died: {deaths}; lost attempts: {tree.lost}; tasks claimed again: {tree.again}")
    survey.report(job, job.result(), took)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="A survey by a C worker and a Python worker.")
    parser.add_argument("dir", nargs="?", default=sysconfig.get_paths()["stdlib"], help="a folder; else Python's library")
    parser.add_argument("--db", help="keep the jobs in this file")
    words = parser.parse_args()
    if not os.path.isdir(words.dir):
        parser.error(f"{words.dir} is no folder")
    if words.db is None and "DYNATASK_URL" in os.environ:
        return survey_by_two(words.dir)
    with tempfile.TemporaryDirectory(prefix="dynatask-demo-") as temporary:
        os.environ["DYNATASK_URL"] = f"sqlite:{os.path.abspath(words.db or os.path.join(temporary, 'jobs.db'))}"
        return survey_by_two(words.dir)


if __name__ == "__main__":
    run(main)
