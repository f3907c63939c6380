"""Awaiting jobs outside of handlers: one thread per app, only while somebody awaits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._core import Engine, EngineJob

if TYPE_CHECKING:
    from .app import App
    from .handles import End

_IDLE_MS = 250  # the thread looks so often whether it is still needed


def look_out(engine: Engine, job: EngineJob) -> tuple[asyncio.Future[End], Callable[[], None]]:
    """The job's end, as long as somebody runs Engine.poll; and what ends the watch."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[End] = loop.create_future()
    wait = _Wait(job, loop, future)
    own = wait.own = engine.find(job.id)
    own.watch(wait.look)
    wait.look()  # it may have ended before the watch began
    return future, own.unwatch


class Watcher:
    """Hands the ends of jobs from the core's callbacks to event loops."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._waiting: set[_Wait] = set()
        self._runs = False

    def watch(self, job: EngineJob) -> asyncio.Future[End]:
        """The job's end. Cancelling the future ends the watch."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[End] = loop.create_future()
        wait = _Wait(job, loop, future)
        own = self._app.engine.find(job.id)  # a watch of its own: others may await the same handle
        wait.own = own
        with self._lock:
            self._waiting.add(wait)
            own.watch(wait.look)
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._main, name="dynatask-watch", daemon=True).start()
        future.add_done_callback(lambda _: self._done(wait))
        wait.look()  # it may have ended before the watch began
        return future

    def _done(self, wait: _Wait) -> None:
        with self._lock:
            self._waiting.discard(wait)
        assert wait.own is not None
        wait.own.unwatch()

    def _main(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._runs = False
                    return
            try:
                self._app.engine.poll(_IDLE_MS)
            except BaseException as error:  # as a closed app: whoever waits is told
                with self._lock:
                    waiting, self._waiting, self._runs = list(self._waiting), set(), False
                for wait in waiting:
                    wait.fail(error)
                return


class _Wait:
    def __init__(self, job: EngineJob, loop: asyncio.AbstractEventLoop, future: asyncio.Future[End]) -> None:
        self.job = job
        self.own: EngineJob | None = None
        self._loop = loop
        self._future = future

    def look(self) -> None:
        """The job changed: gives its end to the loop, if that is there."""
        try:
            end = self.job.end()
        except Exception as error:
            self.fail(error)
            return
        if end is not None:
            self._call(self._future.set_result, end)

    def fail(self, error: BaseException) -> None:
        self._call(self._future.set_exception, error)

    def _call(self, give: Callable[[Any], None], value: Any) -> None:
        def deliver() -> None:
            if not self._future.done():
                give(value)

        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:
            pass  # its loop is closed: nobody waits any more
