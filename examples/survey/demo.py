"""The survey by two worker processes, one in C and one in Python, on one engine.

    python examples/survey/demo.py [DIR] [--db FILE]

Without DIR: Python's standard library. Without --db: DYNATASK_URL, else a
temporary file. Shows the job while it grows, and the pids of the workers:
kill -9 one of them, or both. The demo starts another in its place, and the
sums are the same; it says how many attempts were lost.
"""

from __future__ import annotations

import _thread
import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = Path(os.environ.get("DTASK_BUILD", ROOT / "build"))
LIVES = 30  # times that one worker is started, at most


_saying = threading.Lock()


def say(text: str) -> None:
    """A line, whole, whichever thread says it: print writes its end apart."""
    with _saying:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class Worker:
    """One worker process; when it dies, the next takes its place."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._command = command
        self._leaving = threading.Event()
        self._lock = threading.Lock()
        self._process = self._start()
        self.deaths = 0
        self._keeper = threading.Thread(target=self._keep, name=f"keeps {name}")
        self._keeper.start()

    def _start(self) -> subprocess.Popen[bytes]:
        # In a session of its own: Ctrl-C is for the demo, which then drains it.
        process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        say(f"{self.name} worker: pid {process.pid}")
        return process

    def _keep(self) -> None:
        while True:
            # What it says goes by way of us, so that the live tree knows of it.
            assert self._process.stdout is not None
            for line in self._process.stdout:
                say(f"{self.name} worker {self._process.pid}: {line.decode(errors='replace').rstrip()}")
            code = self._process.wait()
            with self._lock:
                if self._leaving.is_set():
                    return
                self.deaths += 1
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
                if self.deaths >= LIVES:
                    say(f"{self.name} worker {self._process.pid} {how}, and so did {LIVES - 1} before it")
                    _thread.interrupt_main()
                    return
                say(f"{self.name} worker {self._process.pid} {how}: starting another")
                self._process = self._start()

    def stop(self) -> None:
        """Drains it."""
        with self._lock:
            self._leaving.set()
            if self._process.poll() is None:
                self._process.terminate()
        self._keeper.join()


def c_worker() -> list[str]:
    built = BUILD / "workers" / "dynatask-worker"
    program = str(built) if built.exists() else shutil.which("dynatask-worker")
    if program is None:
        sys.exit("demo: no dynatask-worker: build the project (script/demo does), or set DTASK_BUILD")
    return [program, "--app", "survey", "--plugin", str(BUILD / "examples/survey/survey.so")]


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
        print(f"job {job.id}: survey of {folder}; kill -9 a worker: another takes its place, and the sums stay", flush=True)
        info, tree = watch(survey.app, job)
        if info.state != "succeeded":
            print(f"the job {info.state}: {info.error}", file=sys.stderr)
            return 1
        took = time.monotonic() - began
    finally:
        for worker in workers:
            worker.stop()
    deaths = ", ".join(f"{worker.name} {worker.deaths}" for worker in workers)
    print(f"workers that died: {deaths}; lost attempts: {tree.lost}; tasks claimed again: {tree.again}")
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
    # A kill of the demo itself drains its workers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
