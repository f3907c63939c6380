"""Starts by coroutines: those that are made at once share one wait.

While some are on their way the next gather, so a lone one goes at once and a thousand cost hardly more. Each loop has its own. A coroutine
that is cancelled before its start went makes no job; later it may be there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from .handles import in_thread

if TYPE_CHECKING:
    from ._core import EngineJob, Start
    from .app import App
    from .tasktype import TypeCore

_MOST = 1024  # that one wait is for


class Starts:
    """An app's. Any loop, each on its own thread."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._of: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()

    async def start(self, core: TypeCore, start: Start) -> EngineJob:
        """Returns when the job is durable."""
        loop = asyncio.get_running_loop()
        line = self._of.get(loop)
        if line is None:
            line = self._of[loop] = _Line(self._app)
        return await line.add(loop, core, start)


class _Line:
    def __init__(self, app: App) -> None:
        self._app = app
        self._waiting: deque[tuple[TypeCore, Start, asyncio.Future[EngineJob]]] = deque()
        self._sender: asyncio.Task[None] | None = None

    def add(self, loop: asyncio.AbstractEventLoop, core: TypeCore, start: Start) -> asyncio.Future[EngineJob]:
        end: asyncio.Future[EngineJob] = loop.create_future()
        self._waiting.append((core, start, end))
        if self._sender is None:
            self._sender = loop.create_task(self._send())
        return end

    async def _send(self) -> None:
        some: list[tuple[TypeCore, Start, asyncio.Future[EngineJob]]] = []
        try:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MOST))]
                some = [one for one in some if not one[2].done()]
                made = await in_thread(partial(self._start, [one[:2] for one in some]))
                for (_, _, end), job in zip(some, made, strict=True):
                    if end.done():
                        continue
                    if isinstance(job, BaseException):
                        end.set_exception(job)
                    else:
                        end.set_result(job)
        finally:
            self._sender = None
            for _, _, end in (*some, *self._waiting):  # only a loop that ends leaves any
                end.cancel()
            self._waiting.clear()

    def _start(self, asked: list[tuple[TypeCore, Start]]) -> list[EngineJob | BaseException]:
        why: dict[TypeCore, Exception] = {}
        for core in dict.fromkeys(core for core, _ in asked):
            try:
                self._app.known(core)
            except Exception as e:
                why[core] = e
        try:
            made = iter(self._app.engine.start_many([start for core, start in asked if core not in why]))
        except Exception as e:  # the app is closed
            return [e] * len(asked)
        return [why[core] if core in why else next(made) for core, _ in asked]
