"""`processes=`: a worker that only watches over child processes, each a whole worker of its own.

The children are made anew by the spawn method of multiprocessing, never by
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
import time
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
        own = {k: v for k, v in options.items() if k != "processes"}
        self._recipe: _Recipe = (module, file, app.name, app.url)
        self._work = (slots, dict(types) if isinstance(types, Mapping) else list(types), list(plugins), own)
        self._context = multiprocessing.get_context("spawn")
        self._stops = 0
        self._bad: list[int] = []
        self._wake, self._waker = multiprocessing.Pipe(duplex=False)
        self._began: dict[SpawnProcess, float] = {}
        for _ in range(count):
            self._spawn()

    def _spawn(self) -> None:
        process = self._context.Process(target=_child, args=(self._recipe, self._work), name="dynatask-worker")
        process.start()
        self._began[process] = time.monotonic()

    def stop(self, grace: float) -> None:
        """Drains them; again: stops them at once. They use the grace time of their options."""
        self._stops += 1
        for process in list(self._began):
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)
        self._waker.send_bytes(b"x")

    def wait(self) -> None:
        """Until all have ended; replaces those that die before they were told to."""
        while self._began:
            ready = multiprocessing.connection.wait([self._wake, *(p.sentinel for p in self._began)])
            if self._wake in ready:
                self._wake.recv_bytes()
            for process in [p for p in self._began if not p.is_alive()]:
                process.join()
                began = self._began.pop(process)
                if self._stops:
                    if process.exitcode:
                        self._bad.append(process.exitcode)
                    continue
                time.sleep(max(0.0, began + 1 - time.monotonic()))
                self._spawn()

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
    worker = app.worker(types=types, plugins=plugins, **({} if slots is None else {"slots": slots}), **options)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel, worker), daemon=True).start()
    os.environ.pop("DYNATASK_PROCESSES", None)
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
