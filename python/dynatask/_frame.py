"""A running handler: who it is, what it spawned, and how it waits.

A frame belongs to one attempt of one task and to one thread. It is found by a
context variable, so that plain functions, coroutines and what they call need
not pass it on. What waits is written once, as a generator that yields what it
waits for: a plain handler parks at each, a coroutine awaits.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Generator, Sequence
from contextvars import ContextVar
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from . import _core, errors
from ._core import ChildPtr, TaskPtr

if TYPE_CHECKING:
    from ._types import TypeCore

T = TypeVar("T")

# What a wait is for: children (none: all descendants), ANY and FAIL_FAST, and
# the monotonic time at which it is given up. It may also end early.
Wait = tuple[Sequence[ChildPtr], int, "float | None"]
Steps = Generator[Wait, None, T]

_LIFE_S = 4e9
_RETRY_ROOM = 16  # what stands beside the error of a Retry: the array's head, a number, a bool
STARTS_MAX = 10_000  # jobs that one task may start

_current: ContextVar[Frame | None] = ContextVar("dynatask_frame", default=None)
enter = _current.set
_encode = msgspec.msgpack.Encoder().encode


class Become:
    """What then() gives: returned by the handler, it says that another call takes the task's place."""

    __slots__ = ()


class Frame:
    """One attempt of one task, as long as its handler runs or waits."""

    __slots__ = ("_context", "_starts", "_task", "address", "alive", "become", "garbage", "thread", "type", "unwinding")

    def __init__(self, type: TypeCore, address: int, thread: int) -> None:
        self.type = type
        self.address = address
        self.thread = thread
        self.alive = True
        self.unwinding = False
        self.become: Become | None = None
        self.garbage: list[ChildPtr] | None = None
        self._task: TaskPtr | None = None
        self._context: dict[str, Any] | None = None
        self._starts: dict[bytes, int] | None = None

    @property
    def task(self) -> TaskPtr:
        if self._task is None:
            self._task = _core.task_at(self.address)
        return self._task

    @property
    def context(self) -> dict[str, Any]:
        if self._context is None:
            self._context = msgspec.msgpack.decode(_core.context(self.task), type=dict[str, Any])
        return self._context

    def park(self, wait: Wait) -> None:
        """Waits, in a plain handler. May return early."""
        raise NotImplementedError

    async def park_async(self, wait: Wait) -> None:
        """Waits, in a coroutine. May return early."""
        raise NotImplementedError

    def drop(self, child: ChildPtr) -> None:
        """A handle is no longer used. From any thread: the collector runs where it likes."""
        if not self.alive:
            return  # its handles ended with it
        if get_ident() == self.thread:
            _core.child_free(child)
        elif self.garbage is None:
            self.garbage = [child]
        else:
            self.garbage.append(child)

    def sweep(self) -> None:
        """Frees what other threads dropped."""
        while self.garbage:
            _core.child_free(self.garbage.pop())

    def start_count(self, call: bytes) -> int:
        """How many equal starts there were before in this run, and one more now."""
        if self._starts is None:
            self._starts = {}
        elif len(self._starts) >= STARTS_MAX:
            raise errors.TooBig(f"a task starts at most {STARTS_MAX} jobs; spawn children, or start_map")
        n = self._starts[call] = self._starts.get(call, -1) + 1
        return n

    # ---- how it ends -----------------------------------------------------------

    def returned(self, value: object) -> tuple[int, bytes]:
        """The outcome of a handler that returned."""
        if self.unwinding:
            return _core.UNWOUND, b""  # it caught Unwind: what it says is not its last word
        if self.become is not None or isinstance(value, Become):
            if value is self.become:
                return _core.THEN, b""
            error = errors.UsageError(f"{self.type.name}() called then() and did not return what that gave")
            return _core.FATAL, self._error_map(error)
        try:
            data = self.type.shape.give(value)
        except TypeError as error:
            if inspect.iscoroutine(value):
                value.close()  # the task's error tells of it, not a warning beside it
            return _core.FATAL, self._error_map(error)
        if len(data) > self.type.max_payload:
            too_big = errors.TooBig(
                f"the result of {self.type.name}() has {len(data)} bytes; max_payload is {self.type.max_payload}"
            )
            return _core.FATAL, self._error_map(too_big)
        return _core.DONE, data

    def raised(self, error: BaseException) -> tuple[int, bytes]:
        """The outcome of a handler that raised."""
        if self.unwinding or isinstance(error, errors.Dropped):
            return _core.UNWOUND, b""
        if isinstance(error, errors.Unwind):  # given back it would run again, at once and for ever
            error = errors.UsageError(f"{self.type.name}() raised Unwind, which only the worker raises: Retry runs a handler again")
        if isinstance(error, (errors.Cancelled, asyncio.CancelledError)) and _core.cancelled(self.task):
            return _core.CANCELLED, self._error_map(error)
        traces = self.type.app.traces
        if traces is not None and error.__traceback__ is not None:
            # From the handler on: what called it is of no use to anybody.
            traces.keep(self.context["id"], error.__traceback__.tb_next or error.__traceback__)
        if isinstance(error, errors.Retry):
            told = self._error_map(error, _RETRY_ROOM)
            return _core.RETRY, b"\x93" + told + _encode(error.after) + _encode(error.counted)
        if isinstance(error, self.type.retry_on) and not isinstance(error, errors.Fatal):
            return _core.FAIL, self._error_map(error)
        return _core.FATAL, self._error_map(error)

    def _error_map(self, error: BaseException, room: int = 0) -> bytes:
        """Within max_payload, with so much room beside it: an error that is too big would be another one, and no retry."""
        data, most = errors.describe(error), self.type.max_payload - room
        told = _encode(data)
        if len(told) > most and data.pop("errors", None):
            told = _encode(data)  # the count is told, and why the first of them failed
        return told if len(told) <= most else _encode(errors.shorten(data, most))


# ---- the current frame --------------------------------------------------------------


def current() -> Frame | None:
    """The frame of the handler that calls this, if it is one."""
    frame = _current.get()
    return frame if frame is not None and frame.alive else None


def here(what: str) -> Frame:
    """The same. NotInTask: no handler calls this, or a thread that it made."""
    frame = _current.get()
    if frame is None or not frame.alive:
        raise errors.NotInTask(f"{what} works in a running handler only; outside, use start")
    if frame.thread != get_ident():
        raise errors.NotInTask(f"{what} works on the handler's own thread only, and this is another")
    if frame.garbage:
        frame.sweep()
    return frame


# ---- waiting ---------------------------------------------------------------------------


def on_loop() -> bool:
    """Whether this thread runs an event loop just now."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def deadline_of(timeout: float | None) -> float | None:
    """A timeout in seconds as monotonic time. Beyond a human life it is no limit."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(cast(object, timeout), (int, float)) or not timeout >= 0:
        raise errors.BadArguments(f"timeout is {timeout!r}: give seconds from 0, or None for no limit")
    return time.monotonic() + timeout if timeout < _LIFE_S else None


def milliseconds(deadline: float | None) -> int:
    """What is left of it, rounded up; -1: no limit."""
    return -1 if deadline is None else max(0, int((deadline - time.monotonic()) * 1000) + 1)


def passed(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def drive(frame: Frame, steps: Steps[T]) -> T:
    """Runs what waits, in a plain handler. WouldBlock: this is an event loop's thread."""
    while True:
        try:
            wait = next(steps)
        except StopIteration as end:
            return end.value
        if on_loop():
            raise errors.WouldBlock("not complete yet, and waiting here would stop the event loop: await it")
        frame.park(wait)


async def drive_async(frame: Frame, steps: Steps[T]) -> T:
    """The same in a coroutine."""
    while True:
        try:
            wait = next(steps)
        except StopIteration as end:
            return end.value
        await frame.park_async(wait)


def until(done: Callable[[], bool], children: Sequence[ChildPtr], flags: int, deadline: float | None) -> Steps[bool]:
    """Waits for children until `done`. False: the time is over."""
    while not done():
        if passed(deadline):
            return False
        yield children, flags, deadline
    return True


def all_done(children: Sequence[ChildPtr]) -> Callable[[], bool]:
    """Whether they are all complete; each is asked until it is, once."""
    left = list(children)

    def done() -> bool:
        while left and _core.child_done(left[-1]):
            left.pop()
        return not left

    return done
