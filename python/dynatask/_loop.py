"""Coroutine handlers: all on one event loop, each an asyncio task or several.

A frame parks when none of its asyncio tasks can go on by itself: each waits
for a child, or for another task of the frame that does. As long as one of them
is busy with something else (a socket, a timer), the frame stays, and holds its
slot. Which tasks belong to a frame is noted by the loop's task factory: a task
that is created inside a handler is the handler's.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import weakref
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast

from . import _core
from ._core import ANY, CANCEL, PARK, RESUME, RUN, STAY, UNWIND, ChildPtr, Outcome, Seat
from ._frame import Frame, Wait, current, enter, milliseconds, passed

if TYPE_CHECKING:
    from ._crew import Crew
    from ._types import TypeCore

_BATCH = 256
_IDLE, _BUSY, _MOVES = range(3)
_ROUNDS_MIN, _ROUNDS_MAX = 3, 8  # rounds of the loop that a frame of several tasks is given to come to rest


class _Waiter:
    """One await of a frame."""

    __slots__ = ("children", "deadline", "flags", "future")

    def __init__(self, wait: Wait, future: asyncio.Future[None]) -> None:
        self.children, self.flags, self.deadline = wait
        self.future = future

    def holds(self) -> bool:
        if passed(self.deadline):
            return True
        if not self.children:
            return False  # all descendants: only the core knows
        return (any if self.flags else all)(_core.child_done(c) for c in self.children)


class LoopFrame(Frame):
    """A coroutine handler on its loop."""

    __slots__ = ("due", "ending", "loop", "main", "parked", "rounds", "tasks", "waiters")

    def __init__(self, type: TypeCore, address: int, thread: int, loop: Loop) -> None:
        super().__init__(type, address, thread)
        self.loop = loop
        self.main: asyncio.Task[Any] | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.waiters: list[_Waiter] = []
        self.parked = False
        self.due = False  # _settle is scheduled
        self.rounds = 0
        self.ending = False  # it was told to end

    async def park_async(self, wait: Wait) -> None:
        if self.ending:
            raise asyncio.CancelledError("asked to end")
        future: asyncio.Future[None] = self.loop.loop.create_future()
        waiter = _Waiter(wait, future)
        self.waiters.append(waiter)
        self.later()
        try:
            await future
        finally:
            if waiter in self.waiters:  # cancelled
                self.waiters.remove(waiter)

    def later(self) -> None:
        """Looks again whether the frame can park, once its tasks have gone as far as they can."""
        if not self.due and self.alive:
            self.due = True
            self.loop.loop.call_soon(self._settle)

    def _settle(self) -> None:
        self.due = False
        if not self.alive or self.parked or not self.waiters:
            return
        state = self._state()
        # What ended takes some rounds of the loop to be known to whoever gathered it.
        if len(self.tasks) > 1 and self.rounds < (_ROUNDS_MAX if state == _MOVES else _ROUNDS_MIN):
            self.rounds += 1
            self.later()
            return
        self.rounds = 0
        for wait in self._waits():
            if _core.arm(self.task, *wait):
                self.wake(True)
                return
        self.parked = state == _IDLE
        self.loop.note(self.address, PARK if self.parked else STAY, b"")

    def _waits(self) -> list[tuple[list[ChildPtr], int, int]]:
        """What to arm: single children go together, so that a thousand awaits are one."""
        waits: list[tuple[list[ChildPtr], int, int]] = []
        singles: list[ChildPtr] = []
        least: float | None = None
        for w in self.waiters:
            if len(w.children) == 1:
                singles.append(w.children[0])
                if w.deadline is not None:
                    least = w.deadline if least is None else min(least, w.deadline)
            else:
                waits.append((list(w.children), w.flags, milliseconds(w.deadline)))
        if singles:
            waits.append((singles, ANY, milliseconds(least)))
        return waits

    def wake(self, certain: bool) -> None:
        """Something that is awaited is there. certain: wake all if it is not seen which."""
        self.parked = False
        ready = [w for w in self.waiters if w.holds()]
        if not ready and certain:
            ready = list(self.waiters)
        for w in ready:
            self.waiters.remove(w)
            if not w.future.done():
                w.future.set_result(None)
        if self.waiters:
            self.later()

    def _state(self) -> int:
        """Whether one of its tasks goes on by itself: at once, later, or none before a child is complete."""
        ours = {id(w.future) for w in self.waiters}

        def of(future: Any, depth: int) -> int:
            if future is None or future.done():
                return _MOVES
            if id(future) in ours:
                return _IDLE
            if isinstance(future, asyncio.Task):
                return _IDLE if future in self.tasks else _BUSY
            parts: list[Any] | None = getattr(future, "_children", None)  # of gather
            if not parts or depth == 32:
                return _BUSY
            return max((of(p, depth + 1) for p in parts if not p.done()), default=_MOVES)

        states: list[int] = []
        for task in self.tasks:
            state = _MOVES if task.done() else of(getattr(task, "_fut_waiter", None), 0)
            states.append(_IDLE if state == _BUSY and _joins(task) else state)
        return _MOVES if _MOVES in states else max(states, default=_IDLE)


def _joins(task: asyncio.Task[Any]) -> bool:
    """Whether it waits at the end of a TaskGroup, whose tasks are asked themselves."""
    coro: Any = task.get_coro()
    while (inner := getattr(coro, "cr_await", None)) is not None and hasattr(inner, "cr_code"):
        coro = inner
    code = getattr(coro, "cr_code", None)
    return code is not None and code in _JOINS


_GROUP: Any = getattr(asyncio, "TaskGroup", None)  # since 3.11
_JOINS = {_GROUP.__aexit__.__code__} if _GROUP else set[Any]()


class Loop:
    """The event loop of a crew, on a thread of its own or on the caller's."""

    def __init__(self, crew: Crew, slots: int) -> None:
        self._crew = crew
        self._slots = slots
        self._frames: dict[int, LoopFrame] = {}
        self._flush_due = False
        self.outcomes: deque[Outcome] = deque()
        self.loop: asyncio.AbstractEventLoop = cast(Any, None)
        self.thread: threading.Thread | None = None

    def flush(self) -> None:
        """Commits what is noted. From any thread."""
        self._crew.commit(self.outcomes)

    def start_thread(self) -> None:
        """Runs on a thread of its own."""
        self.thread = threading.Thread(target=self._main, name="dynatask-loop", daemon=True)
        self.thread.start()

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._crew.broke(error)
        finally:
            self._crew.left()

    async def _serve(self) -> None:
        await self.sit()

    async def sit(self) -> None:
        """Serves on the running loop until the worker has stopped."""
        self.loop = asyncio.get_running_loop()
        self._ident = get_ident()
        self._seat = Seat(self._crew.core, _core.LOOP, self._slots, _BATCH)
        self._over: asyncio.Future[None] = self.loop.create_future()
        _factory_in(self.loop)
        fd = self._seat.fd()
        self.loop.add_reader(fd, self._poll)
        try:
            self._poll()
            await self._over
        finally:
            self.loop.remove_reader(fd)
            _factory_out(self.loop)
            for frame in list(self._frames.values()):
                self._unwind(frame)
            left = [f.main for f in self._frames.values() if f.main is not None]
            if left:
                await asyncio.wait(left, timeout=1)
            self.flush()
            self._seat.leave()

    def _poll(self) -> None:
        try:
            self.flush()  # a RESUME ends what a frame had armed: a PARK noted before it would be refused after it
            items = self._seat.poll(_BATCH, 0)
        except BaseException as error:
            if not self._over.done():
                self._over.set_exception(error)
            return
        if items is None:
            if not self._over.done():
                self._over.set_result(None)
            return
        for address, number, event, data, size in items:
            if event == RUN:
                self._run(address, number, data, size)
                continue
            frame = self._frames.get(address)
            if frame is None:
                continue
            if event == RESUME:
                frame.wake(True)
            elif event == UNWIND:
                self._unwind(frame)
            elif frame.main is not None:  # asked to end, or out of time
                frame.parked = False
                frame.ending = True
                frame.main.cancel("asked to end" if event == CANCEL else "timeout")
        if len(items) == _BATCH:
            self.loop.call_soon(self._poll)

    def _unwind(self, frame: LoopFrame) -> None:
        frame.unwinding = frame.ending = True
        frame.parked = False
        if frame.main is not None:
            frame.main.cancel("its frame is dropped")

    def _run(self, address: int, number: int, data: int, size: int) -> None:
        core = self._crew.types[number]
        frame = LoopFrame(core, address, self._ident, self)
        enter(frame)
        try:
            args, kwargs = core.shape.unpack(_core.read_at(data, size))
            coro = core.fn(*args, **kwargs)
        except BaseException as error:
            frame.alive = False
            self.note(address, *self._failed(frame, error))
            return
        finally:
            enter(None)
        self._frames[address] = frame
        enter(frame)
        try:
            frame.main = self.loop.create_task(_kept(coro))
        finally:
            enter(None)
        frame.main.add_done_callback(lambda task: self._ended(frame, task, coro))

    def _ended(self, frame: LoopFrame, task: asyncio.Task[Any], coro: Any) -> None:
        if inspect.iscoroutine(coro):
            coro.close()  # cancelled before its first step, nobody awaited it
        del self._frames[frame.address]
        try:
            what, payload = frame.returned(task.result())
        except _Exit as exit:
            what, payload = self._failed(frame, exit.error)
        except BaseException as error:
            what, payload = self._failed(frame, error)
        frame.alive = False
        self.note(frame.address, what, payload)

    def _failed(self, frame: LoopFrame, error: BaseException) -> tuple[int, bytes]:
        """The outcome of a handler that raised. Of an inline wait it differs (_inline.py)."""
        return frame.raised(error)

    def note(self, address: int, what: int, payload: bytes) -> None:
        """Outcomes of one round of the loop are committed together."""
        self.outcomes.append((address, what, payload))
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_due = False
        while self.outcomes:
            self.flush()


class _Exit(Exception):
    """Carries what asyncio would end the loop by."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def _kept(coro: Any) -> Any:
    """A handler's sys.exit() fails its task; it must not end the loop of all the others."""
    try:
        return await coro
    except (SystemExit, KeyboardInterrupt) as error:
        raise _Exit(error) from None


# Loops that several serve at once, by turns: how many do, and the factory from before the first.
_served: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[Any]] = weakref.WeakKeyDictionary()


def _factory_in(loop: asyncio.AbstractEventLoop) -> None:
    known = _served.get(loop)
    if known is not None:
        known[0] += 1
        return
    before = loop.get_task_factory()
    _served[loop] = [1, before]
    loop.set_task_factory(_factory(before))


def _factory_out(loop: asyncio.AbstractEventLoop) -> None:
    known = _served[loop]
    known[0] -= 1
    if not known[0]:
        loop.set_task_factory(known[1])
        del _served[loop]


def _factory(before: Any) -> Callable[..., Any]:
    """Creates tasks as before, and notes whose they are."""

    def create(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        task: asyncio.Task[Any] = before(loop, coro, **options) if before else asyncio.Task(coro, loop=loop, **options)
        frame = current()
        if isinstance(frame, LoopFrame) and frame.loop.loop is loop:
            frame.tasks.add(task)
            task.add_done_callback(lambda task: _gone(frame, task))
        return task

    return create


def _gone(frame: LoopFrame, task: asyncio.Task[Any]) -> None:
    frame.tasks.discard(task)
    if frame.waiters:
        frame.later()
