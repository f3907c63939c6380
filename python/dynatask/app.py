"""The app: a name, an engine, and the task types that belong together."""

# pyright: reportPrivateUsage=false
# (the files of this package share what is private to it)

from __future__ import annotations

import builtins
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, overload

import msgspec

from . import options as opts
from ._core import Engine, EngineJob
from ._inline import Traces
from ._starts import Starts
from ._types import TypeCore
from ._watch import Watcher
from .codec import Codec
from .errors import BadArguments, Conflict, Retry
from .handles import End, Job, Task, in_thread
from .info import JobInfo, TaskInfo, job_info, task_info
from .tasktype import AsyncTaskType, SyncTaskType, TaskType
from .worker import Worker, Working

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import Unpack

    from .options import TaskOptions

__all__ = ["App"]

P = ParamSpec("P")
R = TypeVar("R")

_CUT = "more than 10,000 jobs were looked at: older ones are left out"


class TaskDecorator(Protocol):
    """What App.task(..) gives: App.task itself, with options."""

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTaskType[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> SyncTaskType[P, R]: ...


class App:
    """A namespace of task types on one engine.

    name: 1 to 100 of a-z A-Z 0-9 _ . -. url: where state lives, "memory:" or
    "sqlite:PATH"; None: as configured, at last sqlite:jobs.db. errors: classes
    that result() raises when a handler raised them; builtin ones always are.
    Further options: those of `dynatask config`, as lease=15.

    With "memory:?inline=1" a wait outside of handlers runs the job's handlers
    itself, on its own thread: for debugging. See _inline.py; a job that nobody
    waits for does not run, and a worker serves the C handlers of its plugins
    alone. A wait for what nobody serves is UsageError.

    Nothing is opened before the first use, which raises what is wrong with
    name, url or options: BadArguments, EngineError, VersionError. May be used
    from any thread; in a forked child of the process that opened it, it is
    UsageError.
    """

    def __init__(self, name: str, url: str | None = None, *, errors: Sequence[type[Exception]] = (), **options: Any) -> None:
        for what, value in (("name", name), ("url", url)):
            if not isinstance(cast(object, value), str) and not (what == "url" and value is None):
                raise BadArguments(f"the app's {what} is {value!r}: give text")
            if value is not None and "\0" in value:
                raise BadArguments(f"the app's {what} has a zero byte")
        self.name = name
        self.url = url
        self.error_classes: dict[str, type[Exception]] = {}
        for cls in errors:
            if not (isinstance(cast(object, cls), type) and issubclass(cast("type[object]", cls), Exception)):
                raise BadArguments(f"errors has {cls!r}: give classes of Exception")
            self.error_classes[cls.__qualname__] = cls
        self.options = opts.of_app(options)
        self.types: dict[str, TaskType[..., Any]] = {}
        self.codec = Codec(self._revive)
        self.working_here: list[Worker] = []
        self._engine: Engine | None = None
        self._lock = threading.RLock()
        self._watcher = Watcher(self)
        self.starts = Starts(self)  # of coroutines
        self.max_payload = 64 << 20  # as configured, once it is open
        self.traces: Traces | None = None  # inline: where handlers raised
        # Where processes= finds it again.
        caller = sys._getframe(1).f_globals
        self.module: tuple[str, str | None] = (str(caller.get("__name__")), cast("str | None", caller.get("__file__")))

    def __repr__(self) -> str:
        return f"<App {self.name}>"

    # ---- task types ----------------------------------------------------------------

    @overload
    def task(  # pyright: ignore[reportOverlappingOverload]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTaskType[P, R]: ...
    @overload
    def task(self, fn: Callable[P, R], /) -> SyncTaskType[P, R]: ...
    @overload
    def task(self, /, **o: Unpack[TaskOptions]) -> TaskDecorator: ...
    def task(self, fn: Callable[..., Any] | None = None, /, **o: Any) -> Any:
        """Makes the function a task type, plain or with options. Conflict: the name is taken.

        Plain functions run on the worker's slots, one each; coroutine functions
        on its event loop. Calling the task type still calls the function.
        """
        local = sys._getframe(1).f_locals

        def make(fn: Callable[..., Any]) -> TaskType[..., Any]:
            core = TypeCore(self, fn, o, local, served=True)
            return self._add(AsyncTaskType(core) if core.is_async else SyncTaskType(core))

        return make if fn is None else make(fn)

    def extern(self, type: str = "", /, **o: Unpack[TaskOptions]) -> Callable[[Callable[P, R]], TaskType[P, R]]:
        """Declares a task type whose handler is in C or another program: the function's signature is its own.

        type: its name, if not the function's. The function never runs.
        """
        if not isinstance(cast("object", type), str):
            raise BadArguments(f"extern takes the type's name, not {type!r}: without one write @app.extern()")
        local = sys._getframe(1).f_locals
        options: dict[str, Any] = {**o}
        if type:
            options["name"] = type

        def make(fn: Callable[P, R]) -> TaskType[P, R]:
            return self._add(TaskType[P, R](TypeCore(self, fn, options, local, served=False)))

        return make

    def on_complete(self, *roots: TaskType[..., Any]) -> Callable[[Callable[[JobInfo], Any]], Any]:
        """Makes the function a task that runs when a job with one of these roots (none: any root) has ended.

        It is given the job's JobInfo. It runs once for each job, as a job of
        its own, so it may spawn and wait. It is a task type by the function's
        name, served as others are: by each worker of this app, or where
        `types` names it. Until a worker that serves it is there it waits.
        Conflict: the name is taken.
        """
        for root in cast("tuple[object, ...]", roots):
            if not isinstance(root, TaskType):
                raise BadArguments(f"on_complete takes task types, not {root!r}: for jobs of all roots write @app.on_complete()")
        names = [root.name for root in roots]

        def make(fn: Callable[[JobInfo], Any]) -> TaskType[..., Any]:
            core = TypeCore(self, _of_job(fn), {"name": fn.__name__}, {}, served=True)
            core.callback_of = names
            return self._add(AsyncTaskType(core) if core.is_async else SyncTaskType(core))

        return make

    def _add(self, made: Any) -> Any:
        """One handler, and any number of declarations of it."""
        known = self.types.get(made.name)
        if known is not None and known._core.served and made._core.served:
            raise Conflict(f"the app {self.name} has a task type {made.name} already: give one another name=")
        if known is None or made._core.served:
            self.types[made.name] = made
        return made

    # ---- reading --------------------------------------------------------------------

    def jobs(self, query: str = "", limit: int = 100) -> list[JobInfo]:
        """The newest jobs, at most `limit`. query: words "type:NAME", "state:NAME", "since:1h". Waits for the engine."""
        found, cut = self._jobs(query, limit)
        if cut:
            warnings.warn(_CUT, stacklevel=2)
        return found

    async def ajobs(self, query: str = "", limit: int = 100) -> list[JobInfo]:
        """jobs() for coroutines."""
        found, cut = await in_thread(partial(self._jobs, query, limit))
        if cut:
            warnings.warn(_CUT, stacklevel=2)
        return found

    def worker(
        self, *, slots: int | None = None, types: Sequence[str] | Mapping[str, int] = (), plugins: Sequence[str] = (),
        **options: Any,
    ) -> Worker:  # fmt: skip
        """A worker of this app in this process. See Worker.

        slots: handlers at once, of plain functions, of coroutines and of C
        each; default: processors, for coroutines 256. types: serve only these,
        callbacks of on_complete too by their function's name; a mapping gives
        each its slots. BadArguments: one of them has no handler here. plugins:
        shared objects with C handlers.
        processes=n: that many child processes, each with these slots.
        """
        return Worker(self, slots, types, plugins, options)

    # ---- for the package's other files --------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The open engine."""
        if self._engine is None:
            with self._lock:
                if self._engine is None:
                    engine = Engine(self.name, self.url, self.options)
                    config = {row[0]: row[1] for row in msgspec.msgpack.decode(engine.config())}
                    self.traces = Traces() if config["inline"] == "1" else None
                    self.max_payload = config["max_payload"]
                    self._engine = engine
        return self._engine

    @property
    def inline(self) -> bool:
        """Whether a wait outside of handlers runs them: memory:?inline=1. Opens the app."""
        _ = self.engine
        return self.traces is not None

    @property
    def unopened(self) -> bool:
        """Whether it is yet to be opened."""
        return self._engine is None

    def known(self, core: TypeCore) -> None:
        """Before its first call: its name and options are in the store, unless a worker's are there."""
        if not core.declared:
            self.known_all()
            core.declared = True  # if not itself, then the handler of its name

    def known_all(self) -> None:
        """The same for all types: what a worker does not serve itself may be called in its handlers."""
        self._declare([t._core for t in self.types.values()])

    def _jobs(self, query: str, limit: int) -> tuple[list[JobInfo], bool]:
        ask: dict[str, Any] = {"what": "jobs", "limit": limit}
        for word in query.split():
            key, colon, value = word.partition(":")
            if not colon or key not in ("type", "state", "since") or not value:
                raise BadArguments(f"the query has {word!r}: it takes type:NAME, state:NAME and since:TIME, as 1h")
            ask[key] = time.time() - _seconds(value) if key == "since" else value
        answer = self.read(ask)
        return [job_info(data) for data in answer["jobs"]], answer["cut"]

    def _declare(self, cores: list[TypeCore]) -> None:
        with self._lock:
            new = [c for c in cores if not c.declared]
            if new:
                self.engine.declare([c.row() for c in new])
            for c in new:
                c.declared = True

    def read(self, query: Mapping[str, Any]) -> Any:
        """One question to the store. Waits."""
        return msgspec.msgpack.decode(self.engine.read(msgspec.msgpack.encode(query)))

    def read_config(self) -> dict[str, Any]:
        """Each option's value."""
        return {row[0]: row[1] for row in msgspec.msgpack.decode(self.engine.config())}

    def read_job(self, id: str) -> JobInfo:
        """Waits for the engine."""
        return job_info(self.read({"what": "job", "id": id}))

    def read_task(self, id: str, depth: int, limit: int) -> TaskInfo:
        """A task, and with depth > 0 its descendants. Waits for the engine."""
        what = {"what": "tree", "id": id, "depth": depth, "limit": limit} if depth else {"what": "task", "id": id}
        return task_info(self.read(what))

    def watch(self, job: EngineJob) -> asyncio.Future[End]:
        """The job's end, on the running event loop."""
        return self._watcher.watch(job)

    def working(self) -> Working:
        """A block in which a worker of this app runs in this process."""
        return Working(self)

    def _revive(self, text: str) -> Any:
        kind, id = text[:1], text[1:]
        if kind == "J":
            return Job[Any](self, self.codec.any, id)
        if kind == "T":
            return Task[Any](self, self.codec.any, id=id)
        raise ValueError(f"a handle is J or T and an id, not {text[:80]!r}")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise BadArguments(f"since:{text} is no time: write it as 90s, 5m, 2h or 1d")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _ended(info: JobInfo) -> JobInfo:
    """What a callback is given: counts that are final.

    A store that went back in time (a stale replica took over) may run the job
    again while an attempt that it does not know of is still here: that one
    ends without having called anybody.
    """
    if info.state == "running":
        raise Retry(f"the job {info.id} runs again, the store has lost its end", counted=False)
    return info


def _of_job(fn: Callable[[JobInfo], Any]) -> Callable[..., Any]:
    """The callback as a handler: its argument comes as the job's handle."""
    import functools
    import inspect

    if inspect.iscoroutinefunction(fn):

        async def run_async(job: Job[Any]) -> Any:
            return await fn(_ended(await job.ainfo()))

        made: Any = run_async
    else:

        def run(job: Job[Any]) -> Any:
            return fn(_ended(job.info()))

        made = run
    functools.update_wrapper(made, fn, assigned=("__name__", "__qualname__", "__module__", "__doc__"), updated=())
    del made.__wrapped__
    made.__annotations__ = {"job": Job[builtins.object], "return": Any}
    return made
