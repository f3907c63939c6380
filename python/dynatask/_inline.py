"""`memory:?inline=1`: a wait outside of handlers runs the handlers, on its own thread.

For debugging: breakpoints, prints and stacks are those of the program that
waits. A wait claims the tasks of its own job and no other's, and after the
job's end its callbacks'. Plain handlers run one at a time, and park as
greenlets; coroutines run on one event loop, of the wait or, with `await`, of
the caller. No thread of Python is made. The core's own I/O thread carries
outcomes, and keeps the lease while somebody sits at a breakpoint; what
dynatask itself serves, start_map's bookkeeping, runs on a thread of the core.

Not done: handlers in C. They run on the threads of a worker with `plugins=`.
A wait for what nobody serves, such a one or a type that the option `types`
leaves out, is UsageError: nobody else could come, so it would be for ever.
"""

# pyright: reportPrivateUsage=false
# (the files of this package share what is private to it)

from __future__ import annotations

import asyncio
import time
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from . import _core
from ._core import EngineJob, Item
from ._crew import Crew
from ._frame import passed
from ._loop import Loop, LoopFrame
from ._slots import Slot
from ._watch import look_out
from .errors import NotFound, UsageError

if TYPE_CHECKING:
    from ._frame import Frame
    from .app import App
    from .handles import End

_COROUTINES = 256
_TRACES_MAX = 100
_LOOK = 0.25  # a wait looks so often whether what it waits for can begin, in seconds
_ROWS = 1024  # read at once
_READY = 2  # of a row: the task's state


class Traces:
    """Where the handlers of inline waits raised, by task: what result() raises shows it."""

    def __init__(self) -> None:
        self._of: dict[str, TracebackType] = {}

    def keep(self, task: str, trace: TracebackType | None) -> None:
        if trace is None:
            return
        self._of.pop(task, None)
        self._of[task] = trace
        if len(self._of) > _TRACES_MAX:  # it keeps a handler's locals alive
            del self._of[next(iter(self._of))]

    def of(self, task: str) -> TracebackType | None:
        return self._of.get(task)


class _Here(Slot):
    """Runs plain handlers on the thread that calls `step`."""

    def __init__(self, crew: Crew) -> None:
        super().__init__(crew, 0)
        self._idle = False
        self._interrupt: KeyboardInterrupt | None = None
        self.ended = False

    def sit(self) -> int:
        """Takes the seat; its descriptor is readable when `step` has something to do."""
        self._take_seat(1)
        return self._seat.fd()

    def step(self) -> None:
        """Runs what there is to run. Raises what is no handler's failure: Ctrl-C."""
        self._root = getcurrent()
        self._idle = False
        # Handlers see no event loop: this may be a callback of one.
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            while not self._idle and not self._closed:
                greenlet(self._run, self._root).switch()
        finally:
            asyncio._set_running_loop(loop)
        self.ended = self._closed

    def leave(self) -> None:
        """After the last step: drops what is parked, and gives the seat back."""
        self._root = getcurrent()
        self._unwind_all()
        self._forget_root()
        self.flush()
        self._seat.leave()

    def _next(self) -> list[Item] | None:
        if self._interrupt is not None:
            interrupt, self._interrupt = self._interrupt, None
            raise interrupt
        taken = self._seat.poll(1, 0)  # one: nothing waits behind a breakpoint
        self._idle = taken == []
        return taken

    def _gave_up(self) -> bool:
        return self._idle

    def _failed(self, frame: Frame, error: BaseException) -> tuple[int, bytes]:
        if isinstance(error, KeyboardInterrupt):  # for the program, not for the task: that runs again
            self._interrupt = error
            self._crew.stop(0)  # before it is given back: else this worker would claim it again
            return _core.UNWOUND, b""
        return super()._failed(frame, error)


class _LoopHere(Loop):
    """Runs coroutines on the loop of the wait. Ctrl-C in one is for the program, as in _Here."""

    leaving = False
    _interrupt: KeyboardInterrupt | None = None

    def _failed(self, frame: LoopFrame, error: BaseException) -> tuple[int, bytes]:
        if not isinstance(error, KeyboardInterrupt):
            return super()._failed(frame, error)
        self._crew.stop(0)  # before it is given back
        if self._interrupt is None:
            self._interrupt = error
            self.loop.call_soon(self._out)
        return _core.UNWOUND, b""

    def _out(self) -> None:
        """Ends the run of the loop; not the one that leaves the wait."""
        if self._interrupt is not None and not self.leaving:
            raise self._interrupt


class Inline:
    """The waits of one thread for one job. `with` outside of event loops, `async with` on one."""

    def __init__(self, app: App, job: EngineJob) -> None:
        self._app = app
        self._job = job
        types = [t._core for t in app.types.values() if t._core.served]
        self._only = [name for part in app.read_config()["types"].split(",") if (name := part.strip())]
        self._callbacks = [t.name for t in types if t.callback_of is not None and (not self._only or t.name in self._only)]
        self._counts: object = None  # at the last look, if nothing ran
        self._look_at = time.monotonic() + _LOOK
        for type in types:
            type.max_payload = app.max_payload
        kinds = [[t for t in types if t.is_async is kind] for kind in (False, True)]
        app.known_all()
        self._crews: list[Crew] = []
        self._here: list[_Here] = []
        self._sitting: list[asyncio.Task[None]] = []
        for kind in [k for k in kinds if k] or [[]]:
            crew = Crew(app, kind, 0, _COROUTINES, {}, list(app.types), loop=_LoopHere)
            crew.core.only(job)
            self._crews.append(crew)
            if crew.loop is None:
                self._here.append(_Here(crew))

    # ---- life ------------------------------------------------------------------------

    def __enter__(self) -> Inline:
        self._loop = asyncio.new_event_loop()
        try:
            self._loop.run_until_complete(self.__aenter__())
        except BaseException:
            self._loop.close()
            raise
        # The core's watches, without the thread that serves event loops elsewhere.
        self._loop.add_reader(self._app.engine.fd(), partial(self._app.engine.poll, 0))
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._loop.run_until_complete(self.__aexit__(*error))
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    async def __aenter__(self) -> Inline:
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = loop.create_future()
        for crew in self._crews:
            crew.start_inline()
            if crew.loop is not None:
                self._sitting.append(loop.create_task(crew.loop.sit()))
        for here in self._here:
            loop.add_reader(here.sit(), self._step, here)  # from the next round of the loop on
        return self

    async def __aexit__(self, *error: Any) -> None:
        loop = asyncio.get_running_loop()
        for crew in self._crews:
            if isinstance(crew.loop, _LoopHere):
                crew.loop.leaving = True
            crew.stop(0)
        await asyncio.gather(*self._sitting, return_exceptions=True)
        for here in self._here:
            if not here.ended:
                await self._over
            loop.remove_reader(here._seat.fd())
            here.leave()
        for crew in self._crews:
            crew.finish()

    def _step(self, here: _Here) -> None:
        here.step()
        if here.ended and not self._over.done():
            self._over.set_result(None)

    # ---- waiting ----------------------------------------------------------------------

    def wait(self, deadline: float | None) -> bool:
        """Whether the job is complete in time, which is looked at between handlers; its callbacks have run too."""
        return self._loop.run_until_complete(self._until(deadline))

    async def _until(self, deadline: float | None) -> bool:
        if not await self._one(self._job, deadline):
            return False
        for name in self._callbacks if "/" not in self._job.id else ():
            try:
                await self._one(self._app.engine.find(f"{self._job.id}!{name}"), deadline)
            except NotFound:
                pass  # of another root type
        return True

    async def _one(self, job: EngineJob, deadline: float | None) -> bool:
        if job.end() is not None:
            return True
        future, done = look_out(self._app.engine, job)
        try:
            return await self.of(future, deadline)
        finally:
            done()

    async def of(self, future: asyncio.Future[End], deadline: float | None) -> bool:
        """Whether the future is done in time. UsageError: the job waits for a type that nobody serves."""
        while not future.done():
            now = time.monotonic()
            if passed(deadline):
                return False
            if now >= self._look_at:
                self._look()
                self._look_at = now + _LOOK
            await asyncio.wait([future], timeout=min(self._look_at, deadline or self._look_at) - now)
        return True

    # ---- what nobody serves -------------------------------------------------------------

    def _look(self) -> None:
        """If nothing was claimed since the last look and nothing runs: whether what is ready is of a type without a worker."""
        counts = self._app.read_job(self._job.id).counts
        stands = counts.ready > 0 and counts.running == 0
        if stands and counts == self._counts:
            self._complain(counts.added)
        self._counts = counts if stands else None

    def _complain(self, added: int) -> None:
        served = {type["name"] for type in self._app.read({"what": "types"}) if type["workers"]}
        for first in range(0, added, _ROWS):
            ords = list(range(first, min(added, first + _ROWS)))
            for row in self._app.read({"what": "rows", "id": self._job.id, "ords": ords}):
                if row[3] == _READY and row[2] not in served:
                    raise UsageError(self._unserved(row[2], f"{self._job.id}/{row[0]}"))

    def _unserved(self, name: str, task: str) -> str:
        what = f"the wait would be for ever: the task {task} is of the type {name}, which nobody serves: "
        type = self._app.types.get(name)
        if self._only and name not in self._only:
            return f"{what}the option types, which names {', '.join(self._only)}, leaves it out, so add it there"
        if type is not None and type._core.served:
            return f"{what}it was declared after the wait had begun, so declare it before"
        return (
            f"{what}its handler is not in Python here, so wait inside of `with app.worker(plugins=[\"./NAME.so\"]):`, "
            "or give the app another engine than memory:?inline=1, with a worker that serves it"
        )
