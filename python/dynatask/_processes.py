"""`processes=`: a worker that only watches over child processes, each a whole worker of its own.

The children are made by the spawn method of multiprocessing, never by
fork. Each imports the module that made the app, so that must not start a
worker by being imported. A child that dies is replaced, at most once a second.
A child whose parent dies drains.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from .errors import EngineError, UsageError

if TYPE_CHECKING:
    from .app import App

_Recipe = tuple[str, "str | None", str, "str | None"]  # module, its file, the app's name, its URL


class Processes:
    """The child processes of one Worker."""

    def __init__(
        self, app: App, count: int, slots: int | None, types: Sequence[str] | Mapping[str, int], plugins: Sequence[str],
        options: Mapping[str, Any],
    ) -> None:  # fmt: skip
        module, file = app.module
        if find(module, app.name) is not app:
            raise UsageError(f"processes= needs an app that a child process can import: make {app.name} at a module's top level")
        app.engine  # what is wrong with it is said here, once
        own = {**options, "processes": 0}  # a child has none of its own
        self._recipe: _Recipe = (module, file, app.name, app.url)
        self._work = (slots, dict(types) if isinstance(types, Mapping) else list(types), list(plugins), own)
        self._context = multiprocessing.get_context("spawn")
        self._stops = 0
        self._bad: list[int] = []
        self._wake, self._waker = multiprocessing.Pipe(duplex=False)
        self._lock = threading.RLock()
        self._alive: list[SpawnProcess] = []
        try:
            for _ in range(count):
                self._spawn()
        except OSError as error:
            self._give_up()
            raise EngineError(f"child process {len(self._alive) + 1} of {count} cannot be started ({error}): give fewer, or raise the limit") from error
        self._thread = threading.Thread(target=self._watch, name="dynatask-processes", daemon=True)
        self._thread.start()

    def _spawn(self) -> None:
        process = self._context.Process(target=_child, args=(self._recipe, self._work), name="dynatask-worker")
        process.start()
        self._alive.append(process)

    def _give_up(self) -> None:
        """Ends those that were started: else Python's exit waits for them for ever."""
        for process in self._alive:
            process.kill()
        for process in self._alive:
            process.join()

    def stop(self) -> None:
        """Drains them, with the grace time of their options; again: stops them at once."""
        with self._lock:
            self._stops += 1
            for process in self._alive:
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, signal.SIGTERM)
        self._waker.send_bytes(b"x")

    def _watch(self) -> None:
        """Until all have ended; replaces those that die before they were told to, one a second."""
        while self._alive:
            for ready in multiprocessing.connection.wait([self._wake, *(p.sentinel for p in self._alive)]):
                if ready is self._wake:
                    self._wake.recv_bytes()
            dead = [p for p in self._alive if not p.is_alive()]
            for process in dead:
                process.join()
                early = not self._stops
                if early:
                    multiprocessing.connection.wait([self._wake], timeout=1)
                with self._lock:
                    self._alive.remove(process)
                    if not self._stops:
                        self._spawn()
                    # -SIGTERM: told to stop before it had begun.
                    elif not early and process.exitcode not in (0, -signal.SIGTERM):
                        self._bad.append(process.exitcode or 0)

    def wait(self) -> None:
        """Until all have ended."""
        self._thread.join()

    def check(self) -> None:
        """EngineError: one did not end well."""
        if self._bad:
            raise EngineError(f"{len(self._bad)} child processes ended badly, the first with {self._bad[0]}")


def find(module: str, name: str) -> App | None:
    """The app of that name among a module's values."""
    from .app import App

    for value in vars(sys.modules.get(module) or object).values():
        if isinstance(value, App) and value.name == name:
            return value
    return None


def _child(recipe: _Recipe, work: tuple[int | None, Any, Sequence[str], dict[str, Any]]) -> None:
    module, file, name, url = recipe
    if module == "__main__":
        module = "__mp_main__"  # as multiprocessing has it in a child
    elif module not in sys.modules:
        _load(module, file)
    app = find(module, name)
    if app is None:
        raise UsageError(f"{module} has no app {name} when it is imported in a child process")
    app.url = url
    slots, types, plugins, options = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent's word counts
    worker = app.worker(types=types, plugins=plugins, **({} if slots is None else {"slots": slots}), **options)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel, worker), daemon=True).start()
    worker.run()


def _load(module: str, file: str | None) -> None:
    try:
        importlib.import_module(module)
    except ImportError:
        spec = importlib.util.spec_from_file_location(module, file) if file else None
        if spec is None or spec.loader is None:
            raise
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[module] = loaded
        spec.loader.exec_module(loaded)


def _follow(parent: int, worker: Any) -> None:
    """Drains when the parent process is gone."""
    multiprocessing.connection.wait([parent])
    worker.stop(30)
