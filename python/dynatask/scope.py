"""Waiting for several: children() and as_completed."""

# pyright: reportPrivateUsage=false
# (the files of this package share what is private to it)

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from . import _core
from ._core import ANY, FAIL_FAST, ChildPtr
from ._frame import Frame, Steps, all_done, current, deadline_of, drive, drive_async, here, passed, until
from .errors import BadArguments, TaskFailed, UsageError, WaitTimeout, failure
from .handles import Batch, Task, children_failed

if TYPE_CHECKING:
    from .app import App

__all__ = ["Scope", "Stream", "With", "as_completed", "children"]

T = TypeVar("T")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)

_scope: ContextVar[Scope | None] = ContextVar("dynatask_scope", default=None)


class With(AbstractContextManager[T_co], AbstractAsyncContextManager[T_co]):
    """For `with` in plain code and `async with` in coroutines."""


class Stream(Iterable[T_co], AsyncIterable[T_co]):
    """For `for` in plain code and `async for` in coroutines."""


class Scope(With["Scope"]):
    """The block of children(). Leaving it waits for what was spawned in it."""

    def __init__(self, app: App, frame: Frame, tolerate: int | float, fail_fast: bool, timeout: float | None) -> None:
        self._app = app
        self._frame = frame
        self._tolerate = tolerate
        self._fail_fast = fail_fast
        self._timeout = timeout
        self._deadline: float | None = None
        self._handles: list[Task[Any] | Batch[Any]] = []  # kept: a dropped handle ends its pointer
        self._token: Token[Scope | None] | None = None

    def cancel(self) -> None:
        """Asks all that was spawned in it so far, and its descendants, to end."""
        for pointer in self._pointers():
            if not _core.child_done(pointer):
                _core.child_cancel(pointer)

    def _pointers(self) -> list[ChildPtr]:
        found: list[ChildPtr] = []
        for handle in self._handles:
            found += [part for part, _ in handle._parts] if isinstance(handle, Batch) else [handle._live()]
        return found

    def _enter(self) -> Scope:
        if self._token is not None or self._frame is not current():
            raise UsageError("children() is for one with block, in the handler that made it")
        self._deadline = deadline_of(self._timeout)
        self._token = _scope.set(self)
        return self

    def _leave(self) -> None:
        if self._token is not None:
            _scope.reset(self._token)

    def __enter__(self) -> Scope:
        return self._enter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()
        if error is None:
            drive(self._frame, self._steps())

    async def __aenter__(self) -> Scope:
        return self._enter()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()
        if error is None:
            await drive_async(self._frame, self._steps())

    def _steps(self) -> Steps[None]:
        pointers = self._pointers()
        done = all_done(pointers)
        failed = False

        def enough() -> bool:
            nonlocal failed
            if done():
                return True
            failed = failed or (self._fail_fast and any(_core.child_bad(p) for p in pointers))
            return failed

        flags = FAIL_FAST if self._fail_fast else 0
        in_time = yield from until(enough, pointers, flags, self._deadline)
        if failed or not in_time:
            self.cancel()
        if not in_time:
            left = sum(not _core.child_done(p) for p in pointers)
            raise WaitTimeout(f"{left} of the children are not complete after {self._timeout} s; they are cancelled")
        yield from until(done, pointers, 0, None)
        self._check(pointers)

    def _check(self, pointers: list[ChildPtr]) -> None:
        """ChildrenFailed: more than it tolerates. All failures count as looked at."""
        total = sum(len(h) if isinstance(h, Batch) else 1 for h in self._handles)
        failed, first = 0, list[TaskFailed]()
        for pointer in pointers:
            count, maps = _core.child_failures(pointer)
            failed += count
            if count and len(first) < 100:
                first += [failure("EFAILED", m) for m in self._app.codec.any.decode(maps)]
        allowed = self._tolerate if isinstance(self._tolerate, int) else self._tolerate * total
        if failed > allowed:
            raise children_failed(failed, first[:100], total)

def joined(frame: Frame, handle: Task[Any] | Batch[Any]) -> None:
    """A fresh handle belongs to the innermost block around the call."""
    scope = _scope.get()
    if scope is not None and scope._frame is frame:
        scope._handles.append(handle)


def children(*, tolerate: int | float = 0, fail_fast: bool = False, timeout: float | None = None) -> Scope:
    """`with children():` waits at its end for all that was spawned inside. Nests.

    More failures than `tolerate` (a count; a float is a fraction) are
    ChildrenFailed. fail_fast: the first one cancels the rest at once. timeout,
    in seconds: WaitTimeout, and the rest is cancelled. An error in the block
    leaves at once, and the children live on. NotInTask.
    """
    frame = here("children")
    kind = type(tolerate)
    if kind not in (int, float) or not 0 <= tolerate or not (kind is int or tolerate <= 1):
        raise BadArguments(f"tolerate is {tolerate!r}: give a count from 0, or a fraction from 0.0 to 1.0")
    return Scope(frame.type.app, frame, tolerate, fail_fast, timeout)


class _Completed(Stream[Task[R]]):
    def __init__(self, tasks: Iterable[Task[R]], timeout: float | None) -> None:
        self._frame = here("as_completed")
        self._left = dict[int, tuple[Task[R], ChildPtr]]()
        self._ready: list[Task[R]] = []
        self._timeout = timeout
        self._deadline = deadline_of(timeout)
        for task in tasks:
            own = task._own(self._frame)
            if own is None:
                task._wait_stored(0)  # complete: given first; else Deadlock
                self._ready.append(task)
            else:
                self._left[id(task)] = (task, own)
        self._ready.reverse()

    def _steps(self) -> Generator[Any, None, Task[R] | None]:
        """The next to complete, None: no more."""

        def found() -> bool:
            if not self._ready:
                done = [key for key, (_, child) in self._left.items() if _core.child_done(child)]
                self._ready = [self._left.pop(key)[0] for key in reversed(done)]
            return bool(self._ready)

        if not self._ready and not self._left:
            return None
        while not found():
            if passed(self._deadline):
                raise WaitTimeout(f"{len(self._left)} tasks are not complete after {self._timeout} s")
            yield [child for _, child in self._left.values()], ANY, self._deadline
        return self._ready.pop()

    def __iter__(self) -> Iterator[Task[R]]:
        while (task := drive(self._frame, self._steps())) is not None:
            yield task

    async def __aiter__(self) -> AsyncIterator[Task[R]]:
        while (task := await drive_async(self._frame, self._steps())) is not None:
            yield task


def as_completed(tasks: Iterable[Task[R]], timeout: float | None = None) -> Stream[Task[R]]:
    """Iterates over the tasks as they complete; `for` in plain handlers, `async for` in coroutines.

    timeout: seconds for all, then WaitTimeout. NotInTask; Deadlock: one is not
    this task's child, and not complete.
    """
    return _Completed(tasks, timeout)
