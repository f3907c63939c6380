"""Handles: a job, a child task, a batch of children.

A handle is plain data: its id travels as an argument or a result, and whoever
holds it may read the end once it is complete. Every wait means complete: the
task and all its descendants. In a handler one waits for one's own children
only, else Deadlock; outside, for whatever one likes.

Blocking: what waits blocks its thread outside of handlers; in a plain handler
it parks, and the slot is free meanwhile; in a coroutine it is WouldBlock, and
`await` or the twin with the prefix `a` is what to use.
"""

# pyright: reportPrivateUsage=false
# (the files of this package share what is private to it)

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from . import _core, errors
from ._core import ChildPtr, EngineJob
from ._frame import Frame, Steps, all_done, current, deadline_of, drive, drive_async, milliseconds, on_loop, passed, until
from ._inline import Inline
from .codec import Codec, Output, Portable
from .errors import ChildrenFailed, Deadlock, TaskFailed, UsageError, WaitTimeout, WouldBlock
from .info import JobInfo, TaskInfo

if TYPE_CHECKING:
    import msgspec

    from .app import App
    from .tasktype import TaskType

__all__ = ["Batch", "Handle", "Job", "Task"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

End = tuple[str, bytes]  # the error's code ("": none), and the result or the error map
_SLICE_MS = 500  # a thread that waits in C looks this often for signals


class Handle(Portable, Generic[R_co]):
    """What stands for something that completes. See Job, Task and Batch."""

    _app: App

    @property
    def id(self) -> str:
        """A job's id, or a task's: "job/ordinal". Of a fresh child: waits until it is stored, milliseconds."""
        raise NotImplementedError

    def result(self, timeout: float | None = None) -> R_co:
        """Waits, at most `timeout` seconds, and returns the result.

        Raises the handler's own error where its class is builtin or in
        App(errors=), its `__cause__` the TaskFailed; else TaskFailed,
        TaskCancelled, TaskSkipped, or ChildrenFailed. WaitTimeout. Deadlock:
        not one's own child, and not complete. WouldBlock: on an event loop's
        thread, and not complete. NotFound: no such job, or purged.
        """
        return self._take(self._wait(timeout, True))

    async def aresult(self, timeout: float | None = None) -> R_co:
        """result() for coroutines."""
        return self._take(await self._await(timeout, True))

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.aresult().__await__()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits; whether it is complete in time. Looks at no failure."""
        try:
            self._wait(timeout, False)
        except WaitTimeout:
            return False
        return True

    async def await_(self, timeout: float | None = None) -> bool:
        """wait() for coroutines."""
        try:
            await self._await(timeout, False)
        except WaitTimeout:
            return False
        return True

    def error(self, timeout: float | None = None) -> TaskFailed | None:
        """Waits, and returns the failure instead of raising it; None: a good end. Raises what a wait may."""
        return self._failure(self._wait(timeout, True))

    async def aerror(self, timeout: float | None = None) -> TaskFailed | None:
        """error() for coroutines."""
        return self._failure(await self._await(timeout, True))

    def cancel(self) -> bool:
        """Asks it and all its descendants to end. Returns at once; False: it had ended."""
        raise NotImplementedError

    async def acancel(self) -> bool:
        """cancel() for coroutines."""
        raise NotImplementedError

    # ---- what the kinds differ in ------------------------------------------------

    def _wait(self, timeout: float | None, look: bool) -> Any:
        raise NotImplementedError

    async def _await(self, timeout: float | None, look: bool) -> Any:
        raise NotImplementedError

    def _take(self, end: Any) -> R_co:
        raise NotImplementedError

    def _failure(self, end: Any) -> TaskFailed | None:
        raise NotImplementedError


class _One(Handle[R_co]):
    """A handle of one task, a root or another."""

    _decoder: msgspec.msgpack.Decoder[Any]

    def _take(self, end: End) -> R_co:
        code, data = end
        if code:
            failed = self._failure_of(end)
            error = errors.original(failed, self._app.error_classes)
            traces = self._app.traces
            raise error.with_traceback(traces.of(failed.task_id)) if traces is not None else error
        return self._decoder.decode(data) if data else cast("R_co", None)

    def _failure(self, end: End) -> TaskFailed | None:
        return self._failure_of(end) if end[0] else None

    def _failure_of(self, end: End) -> TaskFailed:
        return errors.failure(end[0], self._app.codec.any.decode(end[1]) if end[1] else {})

    @classmethod
    def _adopt(cls, value: object, codec: Codec, arguments: tuple[Any, ...]) -> object:
        if not isinstance(value, cls):
            raise TypeError(f"Expected `{cls.__name__}`, got `{type(value).__name__}`")
        if arguments and not isinstance(arguments[0], TypeVar):
            value._decoder = codec.decoder(arguments[0])
        return value

    # ---- by id: from outside of handlers, and what is not one's own child ----------

    def _stored(self) -> EngineJob:
        raise NotImplementedError

    def _wait_stored(self, timeout: float | None) -> End:
        deadline = deadline_of(timeout)
        job = self._stored()
        end = job.end()
        if end is None and current() is not None:
            raise Deadlock(self._foreign())
        if end is None and on_loop():
            raise WouldBlock(f"{self.id} is not complete, and waiting here would stop the event loop: await it")
        if end is None and self._app.inline:
            with Inline(self._app, job) as inline:
                inline.wait(deadline)
            end = job.end()
            if end is None:
                raise WaitTimeout(f"{self.id} is not complete after {timeout} s")
        while end is None:
            left = milliseconds(deadline)
            if job.wait(_SLICE_MS if left < 0 else min(left, _SLICE_MS)):
                end = job.end()
            elif passed(deadline):
                raise WaitTimeout(f"{self.id} is not complete after {timeout} s")
        return end

    async def _await_stored(self, timeout: float | None) -> End:
        deadline = deadline_of(timeout)
        job = self._stored()
        end = await in_thread(job.end)
        if end is not None:
            return end
        if current() is not None:
            raise Deadlock(self._foreign())
        try:
            if self._app.inline:
                async with Inline(self._app, job) as inline:
                    ended = self._app.watch(job)
                    try:
                        if await inline.of(ended, deadline):
                            return ended.result()
                    finally:
                        ended.cancel()
                raise TimeoutError
            return await asyncio.wait_for(self._app.watch(job), timeout)
        except (asyncio.TimeoutError, TimeoutError):
            raise WaitTimeout(f"{self.id} is not complete after {timeout} s") from None

    def _foreign(self) -> str:
        return f"{self.id} is not complete and not a child of this task: a handler waits for its own children only, so spawn it instead"


class Task(_One[R_co]):
    """A child of the running task, or the id of another's.

    As long as its parent's handler runs it may be waited for there; by anyone
    it may be read once complete.
    """

    __slots__ = ("_app", "_call", "_child", "_decoder", "_frame", "_id")

    def __init__(
        self, app: App, decoder: msgspec.msgpack.Decoder[Any], *, frame: Frame | None = None,
        child: ChildPtr | None = None, id: str | None = None, call: bytes = b"",
    ) -> None:  # fmt: skip
        self._app = app
        self._decoder = decoder
        self._frame = frame
        self._child = child
        self._id = id
        self._call = call

    def __del__(self) -> None:
        if getattr(self, "_frame", None) is not None and self._child is not None:
            cast(Frame, self._frame).drop(self._child)

    def __repr__(self) -> str:
        return f"<Task {self._id or 'new'}>"

    @property
    def id(self) -> str:
        if self._id is None:
            self._id = _core.child_id(self._live())
        return self._id

    @property
    def output(self) -> R_co:
        """Stands for the result in the arguments of a sibling's call, which then comes after this one.

        Not the result: it is good for nothing but spawn, map, starmap and then.
        """
        return cast("R_co", Output(self))

    def cancel(self) -> bool:
        frame = current()
        child = self._own(frame) if frame is not None else None
        if child is None:
            return self._stored().control("cancel")
        if _core.child_done(child):
            return False
        _core.child_cancel(child)
        return True

    async def acancel(self) -> bool:
        if current() is not None:
            return self.cancel()
        return await in_thread(self.cancel)

    def info(self) -> TaskInfo:
        """What is stored of it now. Waits for the engine. NotFound."""
        return self._app.read_task(self.id, 0, 1)

    async def ainfo(self) -> TaskInfo:
        """info() for coroutines."""
        return await in_thread(partial(self._app.read_task, self.id, 0, 1))

    def _live(self) -> ChildPtr:
        """The child of a spawn in this frame. UsageError: its handler is over."""
        if self._child is None or self._frame is None or not self._frame.alive:
            raise UsageError("this handle was spawned by a handler that has ended, before its id was asked for")
        return self._child

    def _own(self, frame: Frame) -> ChildPtr | None:
        """As a child of this frame, else None."""
        if self._frame is frame and self._child is not None:
            return self._child
        found = _core.child_find(frame.task, self.id)
        if self._frame is not None and self._child is not None:
            self._frame.drop(self._child)
        self._frame, self._child = frame, found
        return found

    def _identity(self) -> bytes:
        """What a call that depends on this one is known by: this call, so that a re-run finds it."""
        return self._call or self.id.encode()

    def _portable(self) -> str:
        return f"T{self.id}"

    def _stored(self) -> EngineJob:
        return self._app.engine.find(self.id)

    def _steps(self, child: ChildPtr, timeout: float | None, look: bool) -> Steps[End]:
        done = yield from until(partial(_core.child_done, child), (child,), 0, deadline_of(timeout))
        if not done:
            raise WaitTimeout(f"the child is not complete after {timeout} s")
        return _core.child_end(child, look) if look else ("", b"")

    def _wait(self, timeout: float | None, look: bool) -> End:
        frame = current()
        child = self._own(frame) if frame is not None else None
        if frame is None or child is None:
            return self._wait_stored(timeout)
        return drive(frame, self._steps(child, timeout, look))

    async def _await(self, timeout: float | None, look: bool) -> End:
        frame = current()
        child = self._own(frame) if frame is not None else None
        if frame is None or child is None:
            return await self._await_stored(timeout)
        return await drive_async(frame, self._steps(child, timeout, look))


class Batch(Handle[list[R]], Sequence["Task[R]"]):
    """The children of one map, in the order of the items.

    result() is the list of their results; if one of them has none it raises
    ChildrenFailed, and all failures count as looked at.
    """

    def __init__(
        self, app: App, decoder: msgspec.msgpack.Decoder[Any], list_decoder: msgspec.msgpack.Decoder[list[Any]],
        frame: Frame, parts: list[tuple[ChildPtr, int]], call: bytes,
    ) -> None:  # fmt: skip
        self._app = app
        self._decoder = decoder
        self._list_decoder = list_decoder
        self._frame = frame
        self._parts = parts
        self._call = call
        self._tasks: list[Task[R]] | None = None  # of a batch that came as an argument, or whose calls took outputs
        self._size = sum(n for _, n in parts)

    @classmethod
    def _adopt(cls, value: object, codec: Codec, arguments: tuple[Any, ...]) -> object:
        tasks = cast("list[Any]", value) if isinstance(value, list) else [value]
        own = [cast("Task[Any]", Task._adopt(t, codec, arguments)) for t in tasks]
        return cls.of(cast("App", own[0]._app if own else None), own)

    @classmethod
    def of(cls, app: App, tasks: list[Task[R]]) -> Batch[R]:
        """Of tasks that have handles of their own."""
        batch: Batch[R] = cls.__new__(cls)
        batch._app, batch._parts, batch._tasks, batch._size = app, [], tasks, len(tasks)
        return batch

    def __del__(self) -> None:
        for child, _ in getattr(self, "_parts", ()):
            self._frame.drop(child)

    def __repr__(self) -> str:
        return f"<Batch of {self._size}>"

    @property
    def id(self) -> str:
        """The first child's id and how many there are, "job/5+100"; empty: "+0"."""
        return f"{self[0].id}+{self._size}" if self._size else "+0"

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Task[R]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Task[R]]: ...
    def __getitem__(self, index: int | slice) -> Task[R] | Sequence[Task[R]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._size))]
        place = index + self._size if index < 0 else index
        if not 0 <= place < self._size:
            raise IndexError(f"the batch has {self._size} tasks, none at {index}")
        if self._tasks is not None:
            return self._tasks[place]
        left = place
        self._alive()
        for child, n in self._parts:
            if left < n:
                call = self._call + place.to_bytes(8, "big") if self._call else b""
                return Task(self._app, self._decoder, frame=self._frame, child=_core.child_at(child, left), call=call)
            left -= n
        raise IndexError(index)

    def cancel(self) -> bool:
        if self._tasks is not None:
            return any([t.cancel() for t in self._tasks])
        self._alive()
        live = [c for c, _ in self._parts if not _core.child_done(c)]
        for child in live:
            _core.child_cancel(child)
        return bool(live)

    async def acancel(self) -> bool:
        if self._tasks is not None:
            return any([await t.acancel() for t in self._tasks])
        return self.cancel()

    def reduce(self: Batch[T], f: TaskType[[T, T], T]) -> Task[T]:
        """Joins the results by f, neighbours in order, in siblings that come after what they join.

        n - 1 calls of f; the last one's handle. BadArguments: an empty batch.
        """
        if not self._size:
            raise errors.BadArguments("an empty batch has nothing to reduce")
        level: list[Task[T]] = list(self)
        while len(level) > 1:
            pairs = [f.spawn(a.output, b.output) for a, b in zip(level[::2], level[1::2])]
            level = pairs + level[len(pairs) * 2 :]
        return level[0]

    def _alive(self) -> None:
        if not self._frame.alive:
            raise UsageError("this batch was mapped by a handler that has ended; pass it on as an argument or a result")

    def _portable(self) -> object:
        return list(self)

    def _steps(self, timeout: float | None, look: bool) -> Steps[list[End] | End]:
        self._alive()
        children = [child for child, _ in self._parts]
        done = yield from until(all_done(children), children, 0, deadline_of(timeout))
        if not done:
            raise WaitTimeout(f"{self!r} is not complete after {timeout} s")
        if not look:
            return []
        return _core.child_end(self._parts[0][0], True) if len(self._parts) == 1 else self._ends()

    def _ends(self) -> list[End]:
        """Each child's end; failures count as looked at."""
        ends: list[End] = []
        for child, n in self._parts:
            for i in range(n):
                one = _core.child_at(child, i)
                ends.append(_core.child_end(one, True))
                _core.child_free(one)
        return ends

    def _wait(self, timeout: float | None, look: bool) -> Any:
        frame = current()
        if self._tasks is None and frame is not None:
            return drive(frame, self._steps(timeout, look))
        deadline = deadline_of(timeout)
        return [t._wait(_left(deadline), look) for t in self._tasks or ()]

    async def _await(self, timeout: float | None, look: bool) -> Any:
        frame = current()
        if self._tasks is None and frame is not None:
            return await drive_async(frame, self._steps(timeout, look))
        deadline = deadline_of(timeout)
        return [await t._await(_left(deadline), look) for t in self._tasks or ()]

    def _take(self, end: Any) -> list[R]:
        failed = self._failure(end)
        if failed is not None:
            raise failed
        if isinstance(end, tuple):
            return self._list_decoder.decode(cast(End, end)[1])
        decoders = [t._decoder for t in self._tasks] if self._tasks is not None else [self._decoder] * self._size
        results = [d.decode(data) if data else None for d, (_, data) in zip(decoders, end)]
        return cast("list[R]", results)

    def _failure(self, end: Any) -> TaskFailed | None:
        if isinstance(end, tuple):  # the core's own summary of all
            code, data = cast(End, end)
            return errors.failure(code, self._app.codec.any.decode(data) if data else {}) if code else None
        bad = [e for e in cast("list[End]", end) if e[0]]
        first = [errors.failure(code, self._app.codec.any.decode(data) if data else {}) for code, data in bad[:100]]
        return children_failed(len(bad), first, self._size) if bad else None


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def children_failed(failed: int, first: list[TaskFailed], total: int) -> ChildrenFailed:
    """The error of so many children, with the first of them."""
    one = first[0]
    said = f"{one.type}: {one.message}" if one.message else one.type
    return ChildrenFailed(f"{failed} of {total} children failed, the first {one.task_id}: {said}", failed=failed, errors=first)


class Job(_One[R_co], Iterable[JobInfo], AsyncIterable[JobInfo]):
    """A job by its id: its root task and all descendants.

    Iterating reads it at most ten times a second and yields it when it changed;
    the end is pushed, and is the last that is yielded.
    """

    def __init__(self, app: App, decoder: msgspec.msgpack.Decoder[Any], id: str, job: EngineJob | None = None) -> None:
        self._app = app
        self._decoder = decoder
        self._id = id
        self._job = job

    def __repr__(self) -> str:
        return f"<Job {self._id}>"

    @property
    def id(self) -> str:
        return self._id

    def info(self) -> JobInfo:
        """What is stored of it now, exact, O(1). Waits for the engine. NotFound."""
        return self._app.read_job(self._id)

    async def ainfo(self) -> JobInfo:
        """info() for coroutines."""
        return await in_thread(self.info)

    def tree(self, depth: int = 3, limit: int = 1000) -> TaskInfo:
        """The root with its descendants down to `depth`, at most `limit` tasks. Waits for the engine."""
        return self._app.read_task(f"{self._id}/0", depth, limit)

    async def atree(self, depth: int = 3, limit: int = 1000) -> TaskInfo:
        """tree() for coroutines."""
        return await in_thread(partial(self.tree, depth, limit))

    def cancel(self) -> bool:
        return self._stored().control("cancel")

    async def acancel(self) -> bool:
        return await in_thread(self.cancel)

    def __iter__(self) -> Iterator[JobInfo]:
        last: JobInfo | None = None
        with ExitStack() as waits:
            inline: Inline | None = None
            while True:
                info = self.info()
                if info != last:
                    yield info
                if info.ended_at is not None:
                    return
                last = info
                if current() is not None:
                    raise Deadlock(self._foreign())
                if on_loop():
                    raise WouldBlock(f"{self._id} is not complete, and waiting here would stop the event loop: async for")
                if inline is None and self._app.inline:
                    inline = waits.enter_context(Inline(self._app, self._stored()))
                if inline is not None:
                    inline.wait(deadline_of(0.1))
                else:
                    self._stored().wait(100)

    async def __aiter__(self) -> AsyncIterator[JobInfo]:
        last: JobInfo | None = None
        ended: asyncio.Future[End] | None = None
        inline: Inline | None = None
        try:
            while True:
                info = await self.ainfo()
                if info != last:
                    yield info
                if info.ended_at is not None:
                    return
                last = info
                if current() is not None:
                    raise Deadlock(self._foreign())
                if ended is None:
                    if self._app.inline:
                        inline = await Inline(self._app, self._stored()).__aenter__()
                    ended = self._app.watch(self._stored())
                if inline is not None:
                    await inline.of(ended, deadline_of(0.1))
                else:
                    await asyncio.wait([ended], timeout=0.1)
        finally:
            if ended is not None:
                ended.cancel()
            if inline is not None:
                await inline.__aexit__(None, None, None)

    def _portable(self) -> str:
        return f"J{self._id}"

    def _stored(self) -> EngineJob:
        if self._job is None:
            self._job = self._app.engine.find(self._id)
        return self._job

    def _wait(self, timeout: float | None, look: bool) -> End:
        return self._wait_stored(timeout)

    async def _await(self, timeout: float | None, look: bool) -> End:
        return await self._await_stored(timeout)


async def in_thread(fn: Callable[[], T]) -> T:
    """Engine calls wait a moment; the loop goes on meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(None, fn)
