"""Worker processes that a program keeps up: what the demos of several workers share.

A `Worker` is one process in a session of its own. When it dies, another takes
its place, at most LIVES times; `drain` ends them in good order. What it says is
said by the program, line by line, so that a live view on the same terminal
stays whole; of its log lines, which are JSON, the words, unless they only inform.

`run` is the whole life of such a program: what the engine refuses is one sentence.
"""

from __future__ import annotations

import _thread
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dynatask import BadArguments, DynataskError, EngineError

ROOT = Path(__file__).resolve().parents[1]
BUILD = Path(os.environ.get("DTASK_BUILD", ROOT / "build"))
LIVES = 30  # times that one worker is started, at most
PAUSE, PAUSE_MAX = 1.0, 5.0  # seconds before the next, after one that ended by itself, and more after each: the engine may be away
PATIENCE = 5.0  # seconds for workers to drain; then they leave at once, which loses nothing either
USAGE, UNREACHABLE = 2, 5  # exit codes of dynatask


_saying = threading.Lock()


def say(text: str) -> None:
    """A line, whole, whichever thread says it: print writes its end apart."""
    with _saying:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def in_words(line: str) -> str:
    """What a worker said; of a log line its message, or nothing where it only informs."""
    try:
        told: Any = json.loads(line) if line.startswith("{") else None
    except ValueError:
        told = None
    if not isinstance(told, dict) or "message" not in told:
        return line
    return "" if told.get("level") in ("info", "debug") else str(told["message"])


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
        self.deaths = 0
        self._command = command
        self._leaving = threading.Event()
        self._lock = threading.Lock()
        self._process = self._start()
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
        pause = 0.0
        while True:
            # What it says goes by way of us, so that the live tree knows of it.
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if words := in_words(line.decode(errors="replace").rstrip()):
                    say(f"{self.name} worker {self._process.pid}: {words}")
            code = self._process.wait()
            if self._leaving.is_set():
                return
            self.deaths += 1
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            if self.deaths >= LIVES or code == USAGE:
                say(f"{self.name} worker {self._process.pid} {how}: no other is started")
                _thread.interrupt_main()
                return
            say(f"{self.name} worker {self._process.pid} {how}: starting another")
            pause = min(pause + PAUSE, PAUSE_MAX) if code >= 0 else 0.0
            self._leaving.wait(pause)
            with self._lock:
                if self._leaving.is_set():
                    return
                self._process = self._start()

    def leave(self) -> None:
        """Asks it to drain; again: to leave at once."""
        with self._lock:
            self._leaving.set()
            if self._process.poll() is None:
                self._process.terminate()

    def left(self, seconds: float | None = None) -> bool:
        """Waits so long for its end."""
        self._keeper.join(seconds)
        return not self._keeper.is_alive()


def drain(workers: Sequence[Worker]) -> None:
    """Ends them; returns once they have."""
    for worker in workers:
        worker.leave()
    for worker in workers:
        if not worker.left(PATIENCE):
            worker.leave()
            worker.left()


def run(main: Callable[[], int]) -> NoReturn:
    """Ends the process with the code of `main`. SIGTERM and Ctrl-C leave it by an exception, so that its workers are drained."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if os.environ.get("DYNATASK_URL", "").startswith("memory:"):
            raise BadArguments("DYNATASK_URL is memory:, which one process alone sees, and the workers are others: take sqlite:PATH or a server")
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except DynataskError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(UNREACHABLE if isinstance(error, EngineError) else USAGE)
