"""Worker processes that a program keeps up: what the demos of several workers share.

A `Worker` is one process in a session of its own. When it dies, another takes
its place, at most LIVES times; `stop` drains it. What it says is said by the
program, line by line, so that a live view on the same terminal stays whole.
"""

from __future__ import annotations

import _thread
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = Path(os.environ.get("DTASK_BUILD", ROOT / "build"))
LIVES = 30  # times that one worker is started, at most


_saying = threading.Lock()


def say(text: str) -> None:
    """A line, whole, whichever thread says it: print writes its end apart."""
    with _saying:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def c_host() -> str:
    """The program dynatask-worker: the one that is built here, else the one that is installed."""
    built = BUILD / "workers" / "dynatask-worker"
    program = str(built) if built.exists() else shutil.which("dynatask-worker")
    if program is None:
        sys.exit("no dynatask-worker: build the project (script/demo does), or set DTASK_BUILD")
    return program


class Worker:
    """One worker process; when it dies, the next takes its place."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.pids: list[int] = []  # of all its lives
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
        self.pids.append(process.pid)
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
