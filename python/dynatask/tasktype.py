"""A task type and its verbs: call, start, spawn, map, run, using."""

# pyright: reportPrivateUsage=false
# (the files of this package share what is private to it)

from __future__ import annotations

import functools
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from . import _core
from . import options as opts
from ._core import Call, ChildPtr, Opts
from ._frame import Become, Frame, current, here
from ._types import TypeCore
from .codec import Output, array_head
from .errors import BadArguments, UsageError
from .handles import Batch, Job, Task
from .options import CallOptions
from .scope import joined

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ._core import EngineJob

__all__ = ["AsyncTaskType", "SyncTaskType", "TaskType"]

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")

_MAP = "dynatask.map"  # which every worker's core serves: [type and options, common arguments.., items]
_OF_CHILDREN = ("retries", "timeout", "expires", "unique", "may_fail", "priority")  # what a map's options say of each child
_CHUNK = 1000  # children that one call of the core takes


class _How:
    """The options of a call, and the core's form of them, made once for all calls."""

    __slots__ = ("after", "call", "opts", "options")

    def __init__(self, type: TypeCore, options: Mapping[str, Any]) -> None:
        self.options = options
        self.opts = opts.of_call(options, type.params)
        after = cast("Sequence[Task[Any]]", options.get("after", ()))
        self.after: tuple[Task[Any], ...] = tuple(after) if isinstance(cast(object, after), Sequence) else (cast(Any, after),)
        for task in self.after:
            if not isinstance(cast(object, task), Task):
                raise BadArguments(f"after has {task!r}: give tasks that this handler spawned before")
        self.call = Call(type.name, self.opts)


class TaskType(Generic[P, R]):
    """Work that is routed by a name. Made by App.task and App.extern.

    start makes a job of it, spawn and map make children of the running task,
    run starts and works here, using gives options. Arguments are checked
    against the annotations before anything is stored: BadArguments.
    """

    name: str

    def __init__(self, core: TypeCore, how: _How | None = None) -> None:
        self._core = core
        self._how = how or _How(core, {})
        self.name = core.name
        functools.update_wrapper(cast(Any, self), core.fn, updated=())

    def __repr__(self) -> str:
        return f"<task type {self.name}>"

    # ---- jobs --------------------------------------------------------------------

    def start(self, *a: P.args, **k: P.kwargs) -> Job[R]:
        """Makes a job. It is durable when this returns; waits for that.

        In a handler it happens once however often the handler runs: its id is
        made of the task, the call and how many equal ones there were; at most
        10,000 in a task. Conflict: the id is taken by another call. EngineError.
        """
        return self._begin(*self._packed_start(a, k))

    async def astart(self, *a: P.args, **k: P.kwargs) -> Job[R]:
        """start() for coroutines."""
        return self._job(await self._core.app.starts.start(self._core, self._packed_start(a, k)))

    def start_map(self: TaskType[Concatenate[A, ...], R], items: Iterable[A], **common: Any) -> Job[list[R]]:
        """A job with one child for each item; its result is the list of theirs, in order. Blocks as start.

        Of using(..), id, tags, delay and at are the job's; retries, timeout,
        expires and unique each child's; priority both's. If a child fails the job does,
        with ChildrenFailed; with may_fail=True its place in the list is None.
        """
        return self._begin_map(*self._packed_map(items, common))

    async def astart_map(self: TaskType[Concatenate[A, ...], R], items: Iterable[A], **common: Any) -> Job[list[R]]:
        """start_map() for coroutines."""
        return self._job_of_map(await self._core.app.starts.start(self._core, self._packed_map(items, common)))

    def run(self, *a: P.args, **k: P.kwargs) -> R:
        """Starts a job and works here until it is complete. Returns its result, or raises as Job.result.

        Where a worker of this app runs in this process, that does the work.
        """
        if current() is not None:
            raise UsageError(f"{self.name}.run() starts a worker: in a handler spawn a child, or call the function")
        with self._core.app.working():
            return self.start(*a, **k).result()

    async def arun(self, *a: P.args, **k: P.kwargs) -> R:
        """run() for coroutines."""
        if current() is not None:
            raise UsageError(f"{self.name}.arun() starts a worker: in a handler spawn a child, or call the function")
        async with self._core.app.working():
            return await (await self.astart(*a, **k))

    def job(self, id: str) -> Job[R]:
        """The handle of a job of this type by its id. No I/O; whether it exists shows at the first use."""
        return Job(self._core.app, self._core.shape.result_decoder, id)

    # ---- children ----------------------------------------------------------------

    def spawn(self, *a: P.args, **k: P.kwargs) -> Task[R]:
        """Makes a child of the running task. No I/O; waits while 10,000 are unsent.

        The same call by a re-run of the handler finds the child that is there.
        NotInTask: no handler runs here. NotFound: nobody ever named the type.
        """
        frame = here("spawn")
        self._core.app.known(self._core)
        return self._spawn(frame, self._core.shape.bind(a, k))

    def map(self: TaskType[Concatenate[A, ...], R], items: Iterable[A], **common: Any) -> Batch[R]:
        """One child for each item, which is its first argument; `common` are arguments of all. As spawn.

        A range of step 1 is never unrolled in memory.
        """
        if type(items) is range and items.step == 1 and items:
            batch = self._map_range(items, common)
            if batch is not None:
                return batch
        return self._spawn_all(((item,) for item in items), common)

    def starmap(self, items: Iterable[tuple[Any, ...]], **common: Any) -> Batch[R]:
        """One child for each tuple of arguments; `common` are arguments of all. As spawn."""
        return self._spawn_all(items, common)

    def using(self, **o: Unpack[CallOptions]) -> Self:
        """The same type whose calls have these options. BadArguments names what does not fit."""
        made = type(self)(self._core, _How(self._core, {**self._how.options, **o}))
        return made

    # ---- how -----------------------------------------------------------------------

    def _packed_start(self, a: tuple[Any, ...], k: dict[str, Any]) -> tuple[Call, bytes, bytes]:
        shape = self._core.shape
        args, hashed = shape.pack(shape.bind(a, k))
        return self._start_call(self._core.name, self._how.opts, args, hashed), args, hashed

    def _start_call(self, type: str, options: dict[str, str], args: bytes, hashed: bytes) -> Call:
        """The call of a start; in a handler with an id that a re-run draws again."""
        how = self._how
        for name in ("key", "after", "may_fail"):
            if name in (options if name == "may_fail" else how.options):
                raise BadArguments(f"{name} is of a child: start takes id, delay, at, priority, retries, timeout, expires, unique, tags")
        frame = current()
        if frame is None or "id" in how.options:
            return how.call if options is how.opts else Call(type, options)
        here("start")
        known = blake2b(b"%b\0%b" % (type.encode(), hashed or args), digest_size=16).digest()
        seed = b"%b\0%b\0%d" % (frame.context["id"].encode(), known, frame.start_count(known))
        return Call(type, {**options, "id": "s-" + blake2b(seed, digest_size=12).hexdigest()})

    def _begin(self, call: Call, args: bytes, hashed: bytes) -> Job[R]:
        core = self._core
        core.app.known(core)
        return self._job(core.app.engine.start(call, args, hashed))

    def _job(self, job: EngineJob) -> Job[R]:
        return Job(self._core.app, self._core.shape.result_decoder, job.id, job)

    def _packed_map(self, items: Iterable[Any], common: dict[str, Any]) -> tuple[Call, bytes, bytes]:
        shape, encode = self._core.shape, self._core.app.codec.encode
        firsts: list[bytes] = []
        known: list[bytes] = []  # what they are known by: the order of sets and dicts is no matter
        rest: list[bytes] = []
        known_rest: list[bytes] = []
        for item in items:
            values = shape.bind((item,), common)
            ordered = shape.pack(values)[1] != b""
            firsts.append(encode(values[0], f"{self.name}(): an item"))
            known.append(self._core.app.codec.ordered(values[0]) if ordered else firsts[-1])
            rest = rest or [encode(v, f"{self.name}(): an argument") for v in values[1:]]
            known_rest = known_rest or [self._core.app.codec.ordered(v) for v in values[1:]]
        given = self._how.opts
        words = [self.name, *(word for name in _OF_CHILDREN if name in given for word in (name, given[name]))]
        kind = encode(words if len(words) > 1 else self.name, "the type")
        args = array_head(2 + len(rest)) + b"".join([kind, *rest, array_head(len(firsts)), *firsts])
        hashed = array_head(2 + len(rest)) + b"".join([kind, *known_rest, array_head(len(firsts)), *known])
        if hashed == args:
            hashed = b""
        own = {name: value for name, value in given.items() if name == "priority" or name not in _OF_CHILDREN}
        return self._start_call(_MAP, own, args, hashed), args, hashed

    def _begin_map(self, call: Call, args: bytes, hashed: bytes) -> Job[list[R]]:
        core = self._core
        core.app.known(core)
        return self._job_of_map(core.app.engine.start(call, args, hashed))

    def _job_of_map(self, job: EngineJob) -> Job[list[R]]:
        core = self._core
        may_fail = self._how.options.get("may_fail", False)
        return Job(core.app, core.shape.gaps_decoder if may_fail else core.shape.list_decoder, job.id, job)

    def _spawn(self, frame: Frame, values: list[Any]) -> Task[R]:
        core, how = self._core, self._how
        shape = core.shape
        deps = _Deps(frame, how.after)
        args, hashed = shape.pack(values, deps.number)
        child = _core.spawn(frame.task, how.call, args, hashed, deps.pointers)
        task: Task[R] = Task(
            core.app, shape.result_decoder, frame=frame, child=child, call=b"%b\0%b" % (core.name.encode(), hashed or args)
        )
        joined(frame, task)
        return task

    def _map_range(self, items: range, common: dict[str, Any]) -> Batch[R] | None:
        """Its children, made by the core; None: the first parameter takes no int, or calls differ in more."""
        core, how = self._core, self._how
        shape = core.shape
        if how.after or not -(2**63) <= items[0] <= items[-1] < 2**63:
            return None
        frame = here("map")
        core.app.known(core)
        rest = shape.common(items[0], common)
        if rest is None:
            return None
        child = _core.spawn_range(frame.task, core.name, Opts(how.opts), items.start, len(items), rest)
        return self._batch(frame, [(child, len(items))], b"%b\0range %d" % (core.name.encode(), items.start))

    def _spawn_all(self, items: Iterable[tuple[Any, ...]], common: dict[str, Any]) -> Batch[R]:
        """By the chunk; a call with outputs has siblings of its own to come after, and is spawned alone."""
        frame = here("map")
        core, how = self._core, self._how
        core.app.known(core)
        shape = core.shape
        parts: list[tuple[ChildPtr, int]] = []
        tasks: list[Task[R]] = []  # those before parts
        known = blake2b(core.name.encode(), digest_size=16)
        deps = _Deps(frame, how.after)
        outputs: list[Output] = []
        chunk: list[bytes] = []

        def found(output: Output) -> int:
            outputs.append(output)
            return 0

        def flush() -> None:
            if chunk:
                parts.append((_core.spawn_many(frame.task, how.call, chunk, deps.pointers), len(chunk)))
                chunk.clear()

        for item in items:
            values = shape.bind(tuple(item), common)
            args = shape.pack_alone(values, found)
            if outputs:
                outputs.clear()
                flush()
                if parts:
                    tasks += self._batch(frame, parts, known.digest())
                    parts = []
                tasks.append(self._spawn(frame, values))
                known.update(tasks[-1]._identity())
                continue
            known.update(args)
            chunk.append(args)
            if len(chunk) == _CHUNK:
                flush()
        flush()
        if not tasks:
            return self._batch(frame, parts, known.digest())
        if parts:
            tasks += self._batch(frame, parts, known.digest())
        return Batch[R].of(core.app, tasks)

    def _batch(self, frame: Frame, parts: list[tuple[ChildPtr, int]], call: bytes) -> Batch[R]:
        shape = self._core.shape
        batch: Batch[R] = Batch(self._core.app, shape.result_decoder, shape.list_decoder, frame, parts, call)
        joined(frame, batch)
        return batch

    def _become(self, a: tuple[Any, ...], k: dict[str, Any]) -> Become:
        frame = here("then")
        if frame.become is not None:
            raise UsageError("then() was called before in this handler: one call takes the task's place")
        core, how = self._core, self._how
        core.app.known(core)
        deps = _Deps(frame, how.after)
        args, hashed = core.shape.pack(core.shape.bind(a, k), deps.number)
        _core.then(frame.task, how.call, args, hashed, deps.pointers)
        frame.become = Become()
        return frame.become


class _Deps:
    """The children that a call comes after: those of `after`, and those whose results it takes."""

    __slots__ = ("_frame", "pointers")

    def __init__(self, frame: Frame, after: Iterable[Task[Any]]) -> None:
        self._frame = frame
        self.pointers: list[ChildPtr] = []
        for task in after:
            self._add(task)

    def number(self, output: Output) -> int:
        return self._add(output.task)

    def _add(self, task: Task[Any]) -> int:
        pointer = task._own(self._frame)
        if pointer is None:
            raise UsageError(f"{task!r} is no child of this task: after and output name earlier siblings")
        self.pointers.append(pointer)
        return len(self.pointers) - 1


class SyncTaskType(TaskType[P, R]):
    """A task type whose handler is a plain function. Calling it calls that."""

    def __call__(self, *a: P.args, **k: P.kwargs) -> R:
        return self._core.fn(*a, **k)


class AsyncTaskType(TaskType[P, R]):
    """A task type whose handler is a coroutine function. Calling it calls that."""

    def __call__(self, *a: P.args, **k: P.kwargs) -> Coroutine[Any, Any, R]:
        return self._core.fn(*a, **k)


def then(f: TaskType[P, R], *a: P.args, **k: P.kwargs) -> R:
    """`return then(g, ..)`: g takes this task's place when all its descendants are complete, none failed.

    Holds nothing meanwhile: no slot, no frame. Same handle, fresh history. If a
    descendant failed g is not run, and the task fails with ChildrenFailed.
    What it returns is to be returned by the handler, and good for nothing else.
    """
    return cast(R, f._become(a, k))
