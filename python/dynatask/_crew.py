"""The handlers of one core worker: its slots, its event loop, and the watch over their outcomes."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import _core
from ._core import CoreWorker, Outcome
from ._loop import Loop
from ._slots import BATCH_MAX, Slot
from ._types import TypeCore
from .errors import UsageError

if TYPE_CHECKING:
    from .app import App

_LONG = 0.02  # an outcome beside a handler that runs long waits at most about so long


class Crew:
    """One dtask_worker with what runs its Python handlers.

    Made, then `load`ed, then started; `ended` is set once it has drained or
    broken. The core's own threads hold the lease: a handler that keeps the GIL
    does not lose it. told: callbacks that the store is to know of, though the
    option `types` leaves them to other workers.
    """

    def __init__(
        self, app: App, types: Sequence[TypeCore], threads: int, coroutines: int, options: Mapping[str, str], served: Sequence[str], *,
        told: Sequence[TypeCore] = (), loop: type[Loop] = Loop,
    ) -> None:  # fmt: skip
        """served: the types of all crews and plugins that go together, which are what the option types may name."""
        self.app = app
        self.core = CoreWorker(app.engine, dict(options))
        self.core.among(served)
        self.types: dict[int, TypeCore] = {}  # by the number in items
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self._commit_lock = threading.Lock()
        self._pid = os.getpid()
        self._watch = threading.Event()
        self._running = 0
        self._lock = threading.Lock()
        for core in types:
            self.types[self._handle(core)] = core
        for core in told:
            self._handle(core)
        self._slots = [Slot(self, i) for i in range(threads)] if any(not t.is_async for t in types) else []
        self.loop = loop(self, coroutines) if any(t.is_async for t in types) else None

    def _handle(self, core: TypeCore) -> int:
        number = self.core.handle(core.row(), _core.LOOP if core.is_async else _core.THREAD)
        if core.callback_of is not None:
            self.core.on_complete(number, core.callback_of)
        return number

    def start(self, *, own_loop: bool) -> None:
        """Starts the threads. own_loop: coroutines run on a thread too; else the caller awaits loop.sit()."""
        self.start_inline()
        threading.Thread(target=self._keep, name="dynatask-keeper", daemon=True).start()
        for slot in self._slots:
            self._running += 1
            slot.thread.start()
        if self.loop is not None and own_loop:
            self._running += 1
            self.loop.start_thread()
        if self._slots:
            threading.Thread(target=self._watch_main, name="dynatask-outcomes", daemon=True).start()

    def start_inline(self) -> None:
        """Starts the core's part alone: the caller runs the handlers, and calls `finish` after `stop`."""
        self.core.start()
        for core in self.types.values():
            core.declared = True  # by the worker itself

    def finish(self) -> None:
        """After stop, when all seats were left: waits for the core's end."""
        self._keep()
        if self.error is not None:
            raise self.error

    def stop(self, grace: float) -> None:
        """Begins to drain; again: stops at once. From any thread."""
        self.core.stop(int(min(grace, 1e6) * 1000))

    def broke(self, error: BaseException) -> None:
        """A thread of it cannot go on: the worker stops, and its owner is told why."""
        if self.error is None:
            self.error = error
        self.stop(0)

    def left(self) -> None:
        """A thread of it has ended."""
        with self._lock:
            self._running -= 1

    def commit(self, outcomes: deque[Outcome]) -> None:
        """Hands outcomes to the core, in their order. From any thread."""
        if os.getpid() != self._pid:  # a child that a handler forked, and let return: it has no worker, and locks that nobody opens
            os._exit(1)
        with self._commit_lock:
            try:
                while outcomes:
                    _core.commit(self.core, outcomes, BATCH_MAX)
            except UsageError:
                if not self.ended.is_set() and not self.stopping():
                    raise

    def stopping(self) -> bool:
        return self._watch_over

    # ---- its own threads ------------------------------------------------------------------

    _watch_over = False

    def _keep(self) -> None:
        """Waits in the core until the worker has drained."""
        try:
            self.core.run()
        except BaseException as error:
            if self.error is None:
                self.error = error
        self._watch_over = True
        self._watch.set()
        self.ended.set()

    def watch(self) -> None:
        """There are outcomes that a long handler could hold up."""
        if not self._watch.is_set():
            self._watch.set()

    def _watch_main(self) -> None:
        while not self._watch_over:
            self._watch.wait()
            time.sleep(_LONG)
            self._watch.clear()  # before the look at _watch_over: what is set after it is set in time
            for slot in self._slots:
                if slot.outcomes:
                    slot.flush()
