"""The one file that touches CFFI: the C library with Python's types.

Every function here raises what `errors.of_code` makes of a C error. Pointers
leave this file only as the opaque `TaskPtr`, `ChildPtr` or inside objects
that free them. The GIL is released for the length of every C call; those
marked Waits may take long.
"""

from __future__ import annotations

import itertools
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NewType

from . import errors
from ._cffi import ffi, lib

TaskPtr = NewType("TaskPtr", object)  # a dtask_task *, valid until its outcome is committed
ChildPtr = NewType("ChildPtr", object)  # a dtask_child *, likewise; child_free before is allowed

# item.event and outcome.what
RUN, RESUME, CANCEL, UNWIND, TIMEOUT = (
    int(n)
    for n in (lib.DTASK_B_RUN, lib.DTASK_B_RESUME, lib.DTASK_B_CANCEL, lib.DTASK_B_UNWIND, lib.DTASK_B_TIMEOUT)
)
DONE, FAIL, FATAL, RETRY, CANCELLED, PARK, STAY, THEN, UNWOUND = (
    int(n)
    for n in (
        lib.DTASK_B_DONE, lib.DTASK_B_FAIL, lib.DTASK_B_FATAL, lib.DTASK_B_RETRY, lib.DTASK_B_CANCELLED,
        lib.DTASK_B_PARK, lib.DTASK_B_STAY, lib.DTASK_B_THEN, lib.DTASK_B_UNWOUND,
    )  # fmt: skip
)
ANY, FAIL_FAST = int(lib.DTASK_B_ANY), int(lib.DTASK_B_FAIL_FAST)
THREAD, LOOP = int(lib.DTASK_B_THREAD), int(lib.DTASK_B_LOOP)

_EUSAGE, _ETIMEOUT = int(lib.DTASK_EUSAGE), int(lib.DTASK_ETIMEOUT)
_ENDS = frozenset(int(n) for n in (lib.DTASK_EFAILED, lib.DTASK_ECANCELLED, lib.DTASK_ESKIPPED))
_MAYBE = frozenset(int(n) for n in (lib.DTASK_EENGINE, lib.DTASK_ENOMEM, lib.DTASK_EINTERNAL))  # a start may be there after it
_NULL = ffi.NULL

# dtask_b_item and dtask_b_outcome as struct reads and writes them: a batch costs
# one pass over its bytes instead of five attribute look-ups for each item.
_ITEM, _OUTCOME = struct.Struct("@PIIPN"), struct.Struct("@PIPN")
assert _ITEM.size == ffi.sizeof("dtask_b_item") and _OUTCOME.size == ffi.sizeof("dtask_b_outcome")

Item = tuple[int, int, int, int, int]  # task's address, type, event, address and length of the data
Outcome = tuple[int, int, bytes]  # task's address, what, data


def _text(s: Any) -> str:
    return ffi.string(s).decode("utf-8", "replace")


def _code(err: int) -> str:
    return _text(lib.dtask_err_name(err))


def _raise(err: int) -> None:
    raise errors.of_code(_code(err), _text(lib.dtask_err_detail()))


def _check(err: int) -> None:
    if err:
        _raise(err)


def _bytes(s: Any) -> bytes:
    return ffi.buffer(s.p, s.n)[:] if s.n else b""


def _taken(out: Any) -> bytes:
    """The bytes of a dtask_str that the library gave away, freed."""
    try:
        return _bytes(out[0])
    finally:
        lib.dtask_b_free(out[0])


def version() -> str:
    """The library's version, "0.1.0"."""
    return _text(lib.dtask_version())


class Opts:
    """Options as C takes them: name, value, .., NULL. Kept alive by this object."""

    __slots__ = ("_keep", "pointer")

    def __init__(self, options: dict[str, str]) -> None:
        if not options:
            self.pointer = _NULL
            return
        self._keep = [ffi.new("char[]", text.encode()) for pair in options.items() for text in pair]
        self.pointer = ffi.new("const char *[]", [*self._keep, _NULL])


class Call:
    """What is called, and how: the parts of a dtask_b_call that many calls share."""

    __slots__ = ("_opts", "_type")

    def __init__(self, type: str, options: dict[str, str]) -> None:
        self._type = ffi.new("char[]", type.encode())
        self._opts = Opts(options)

    def fill(self, args: bytes, hashed: bytes, deps: Sequence[ChildPtr]) -> tuple[Any, Any]:
        """The struct, and what must live as long as it is used."""
        call = ffi.new("dtask_b_call *")
        self.fill_in(call, args, hashed)
        keep: Any = None
        if deps:
            keep = call.deps = ffi.new("dtask_child *[]", list(deps))
            call.ndeps = len(deps)
        return call, keep

    def fill_in(self, call: Any, args: bytes, hashed: bytes) -> None:
        """A struct of zeros; this call and the bytes must live as long as it is used."""
        call.type = self._type
        call.opts = self._opts.pointer
        if args:
            call.args.p = ffi.from_buffer(args)
            call.args.n = len(args)
        if hashed:
            call.hashed.p = ffi.from_buffer(hashed)
            call.hashed.n = len(hashed)


Start = tuple[Call, bytes, bytes]  # arguments; what they are known by, if not by themselves


# ---- before an engine is opened ------------------------------------------------------


def check(name: str, url: str | None, options: dict[str, str], served: Sequence[str]) -> None:
    """What opening the app would refuse of its options, and that the option types names only what is served."""
    opts, keep = Opts(options), [ffi.new("char[]", s.encode()) for s in served]
    has = ffi.new("const char *[]", [*keep, _NULL])
    _check(lib.dtask_b_check(name.encode(), _NULL if url is None else url.encode(), opts.pointer, has, len(served)))


def plugin_types(path: str) -> list[str]:
    """What a plugin has handlers for. Loads it, once for the process."""
    out = ffi.new("const dtask_plugin_v1 **")
    _check(lib.dtask_b_plugin(path.encode(), out))
    return [_text(h.type) for h in itertools.takewhile(lambda h: h.type, (out[0].handlers[i] for i in itertools.count()))]


# ---- app and jobs ---------------------------------------------------------------------


class TypeRow:
    """A task type as it is published. options: one msgpack map."""

    def __init__(self, name: str, signature: str | None, options: bytes, version: int, min_version: int) -> None:
        self.name = name
        self.signature = signature
        self.options = options
        self.version = version
        self.min_version = min_version

    def fill(self, row: Any) -> list[Any]:
        """Writes a dtask_b_type; returns what must live as long."""
        keep = [ffi.new("char[]", self.name.encode()), _NULL, ffi.from_buffer(self.options)]
        if self.signature is not None:
            keep[1] = ffi.new("char[]", self.signature.encode())
        row.name, row.signature = keep[0], keep[1]
        row.version, row.min_version = self.version, self.min_version
        row.options.p, row.options.n = keep[2], len(self.options)
        return keep


class Engine:
    """An open dtask_app."""

    def __init__(self, name: str, url: str | None, options: dict[str, str]) -> None:
        """Waits for the engine, at most engine_timeout."""
        out = ffi.new("dtask_app **")
        where = _NULL if url is None else url.encode()
        opts = Opts(options)  # a name, so that it lives as long as the call
        _check(lib.dtask_open(name.encode(), where, opts.pointer, out))
        self.pointer = ffi.gc(out[0], lib.dtask_close)

    def close(self) -> None:
        """Its jobs and workers then answer UsageError. May be called twice."""
        ffi.release(self.pointer)

    def declare(self, types: Sequence[TypeRow]) -> None:
        """Makes types known without serving them. Waits."""
        rows = ffi.new("dtask_b_type[]", len(types))
        keep = [row.fill(rows[i]) for i, row in enumerate(types)]
        _check(lib.dtask_b_declare(self.pointer, rows, len(types)))
        del keep

    def start(self, call: Call, args: bytes, hashed: bytes) -> EngineJob:
        """Waits until the job is durable."""
        out = ffi.new("dtask_job **")
        made, _keep = call.fill(args, hashed, ())
        _check(lib.dtask_b_start(self.pointer, made, out))
        return EngineJob(out[0])

    def start_many(self, calls: Sequence[Start]) -> list[EngineJob | BaseException]:
        """Waits until each job is durable, for all at once: the job, or why there is none."""
        made = ffi.new("dtask_b_call[]", len(calls))
        errs, out = ffi.new("dtask_err[]", len(calls)), ffi.new("dtask_job *[]", len(calls))
        for i, (call, args, hashed) in enumerate(calls):
            call.fill_in(made[i], args, hashed)
        first = lib.dtask_b_start_many(self.pointer, made, len(calls), errs, out)
        why = _text(lib.dtask_err_detail()) if first else ""
        jobs: list[EngineJob | BaseException] = [EngineJob(out[i]) if not errs[i] else errors.of_code(_code(errs[i]), why) for i in range(len(calls))]
        for i, job in enumerate(jobs):
            if isinstance(job, BaseException) and len(calls) > 1 and errs[i] not in _MAYBE:
                jobs[i] = self._start_or_why(calls[i])  # it was not started, and the sentence is another one's
        return jobs

    def _start_or_why(self, start: Start) -> EngineJob | BaseException:
        try:
            return self.start(*start)
        except Exception as why:
            return why

    def find(self, id: str) -> EngineJob:
        """A job or task ("job/ord") by its id, no I/O."""
        out = ffi.new("dtask_job **")
        _check(lib.dtask_job_find(self.pointer, id.encode(), out))
        return EngineJob(out[0])

    def read(self, query: bytes) -> bytes:
        """Msgpack map in, one msgpack value out. Waits."""
        out = ffi.new("dtask_str *")
        ask = ffi.new("dtask_str *", {"p": ffi.from_buffer(query), "n": len(query)})
        _check(lib.dtask_b_read(self.pointer, ask[0], out))
        return _taken(out)

    def config(self) -> bytes:
        """Msgpack list of [name, value, source, default, help]."""
        out = ffi.new("dtask_str *")
        _check(lib.dtask_b_config(self.pointer, out))
        return _taken(out)

    def fd(self) -> int:
        """Readable when poll has something to do."""
        return lib.dtask_fd(self.pointer)

    def poll(self, ms: int) -> None:
        """Runs the callbacks of watched jobs that are due on this thread. Waits up to ms."""
        _check(lib.dtask_poll(self.pointer, ms))


class EngineJob:
    """A dtask_job: a job, or one task of it."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = ffi.gc(pointer, lib.dtask_job_free)
        self._watch = 0

    @property
    def id(self) -> str:
        return _text(lib.dtask_b_job_id(self._pointer))

    @property
    def pointer(self) -> Any:
        return self._pointer

    def wait(self, ms: int) -> bool:
        """Whether it completed within ms (-1: for ever). Waits."""
        err = lib.dtask_job_wait(self._pointer, ms)
        if err == _ETIMEOUT:
            return False
        _check(err)
        return True

    def end(self) -> tuple[str, bytes] | None:
        """("", result), or the error's code and map. None: not complete."""
        if not self.wait(0):
            return None
        out = ffi.new("dtask_str *")
        err = lib.dtask_b_job_end(self._pointer, out)
        if err and err not in _ENDS:
            _raise(err)
        return _code(err) if err else "", _taken(out)

    def control(self, verb: str) -> bool:
        """False: it had ended. Waits."""
        err = lib.dtask_job_control(self._pointer, verb.encode())
        if err == _EUSAGE and self.wait(0):
            return False
        _check(err)
        return True

    def watch(self, changed: Callable[[], None]) -> None:
        """changed is called by Engine.poll when the job changed, and at its end."""
        self._watch = next(_watch_numbers)
        _watched[self._watch] = changed
        _check(lib.dtask_job_watch(self._pointer, lib.on_job, ffi.cast("void *", self._watch)))

    def unwatch(self) -> None:
        """A call that has begun in another thread may still be on its way."""
        if _watched.pop(self._watch, None) is not None:
            _check(lib.dtask_job_watch(self._pointer, _NULL, _NULL))


# By number, not by address: a call may come just after its watch has ended.
_watch_numbers = itertools.count(1)
_watched: dict[int, Callable[[], None]] = {}


def _on_job(_job: Any, arg: Any) -> None:
    changed = _watched.get(int(ffi.cast("uintptr_t", arg)))
    if changed is not None:
        changed()


ffi.def_extern(name="on_job")(_on_job)


# ---- in a handler ------------------------------------------------------------------------


def task_at(address: int) -> TaskPtr:
    """The task of an item's address."""
    return TaskPtr(ffi.cast("dtask_task *", address))


def context(task: TaskPtr) -> bytes:
    """Msgpack map {id, job, parent, type, attempt, version, trigger, tags}."""
    out = ffi.new("dtask_str *")
    _check(lib.dtask_b_context(task, out))
    return _bytes(out[0])


def cancelled(task: TaskPtr) -> bool:
    """Whether it was asked to end: an atomic read."""
    return bool(lib.dtask_cancelled(task))


def progress(task: TaskPtr, done: float, total: float) -> None:
    """total < 0: unknown."""
    _check(lib.dtask_b_progress(task, done, total))


def spawn(task: TaskPtr, call: Call, args: bytes, hashed: bytes, deps: Sequence[ChildPtr]) -> ChildPtr:
    """Makes a child. Waits while 10,000 are unsent."""
    out = ffi.new("dtask_child **")
    made, _keep = call.fill(args, hashed, deps)
    err = lib.dtask_b_spawn(task, made, out)
    if err:
        _raise(err)
    return out[0]


def spawn_many(task: TaskPtr, call: Call, args: Sequence[bytes], deps: Sequence[ChildPtr]) -> ChildPtr:
    """One batch of children that differ in their arguments only."""
    out = ffi.new("dtask_child **")
    made, _keep = call.fill(b"", b"", deps)
    views = ffi.new("dtask_str[]", len(args))
    pinned = [ffi.from_buffer(a) for a in args]
    for i, p in enumerate(pinned):
        view = views[i]
        view.p = p
        view.n = len(args[i])
    _check(lib.dtask_b_spawn_many(task, made, views, len(args), out))
    return out[0]


def spawn_range(task: TaskPtr, type: str, opts: Opts, first: int, count: int, common: Sequence[bytes]) -> ChildPtr:
    """One batch of count children whose first argument is first, first + 1, ..; common: the others, encoded."""
    out = ffi.new("dtask_child **")
    keep = [ffi.from_buffer(c) for c in common]
    rest = [ffi.new("dtask_str *", {"p": p, "n": len(c)})[0] for p, c in zip(keep, common)]
    fmt = " ".join("v" for _ in rest).encode()
    _check(lib.dtask_b_map(task, type.encode(), opts.pointer, out, first, count, fmt, *rest))
    return out[0]


def then(task: TaskPtr, call: Call, args: bytes, hashed: bytes, deps: Sequence[ChildPtr]) -> None:
    """The call takes the task's place; the handler's outcome is then THEN."""
    made, _keep = call.fill(args, hashed, deps)
    _check(lib.dtask_b_then(task, made))


def child_id(child: ChildPtr) -> str:
    """"job/ord". Waits one turn if the child is unsent."""
    out = ffi.new("dtask_str *")
    _check(lib.dtask_b_child_id(child, out))
    return _bytes(out[0]).decode()


def child_done(child: ChildPtr) -> bool:
    """Whether it is complete, as far as this frame was told. No I/O."""
    return bool(lib.dtask_b_child_done(child))


def child_bad(child: ChildPtr) -> bool:
    """Whether it, or one of the batch, is known to have failed. No I/O."""
    return bool(lib.dtask_b_child_bad(child))


def child_end(child: ChildPtr, looked: bool) -> tuple[str, bytes]:
    """Of a complete child: ("", result), or the error's code and map. looked: a failure counts as looked at."""
    out = ffi.new("dtask_str *")
    err = lib.dtask_b_child_end(child, looked, out)
    if err and err not in _ENDS:
        _raise(err)
    return _code(err) if err else "", _bytes(out[0])


def child_failures(child: ChildPtr) -> tuple[int, bytes]:
    """Of a complete child or batch: how many failed, and the first 100 error maps as an array. They count as looked at."""
    out, count = ffi.new("dtask_str *"), ffi.new("uint64_t *")
    _check(lib.dtask_b_child_failures(child, out, count))
    return count[0], _taken(out)


def child_at(batch: ChildPtr, i: int) -> ChildPtr:
    """A batch's i-th child, to be freed."""
    out = ffi.new("dtask_child **")
    _check(lib.dtask_b_child_at(batch, i, out))
    return out[0]


def child_find(task: TaskPtr, id: str) -> ChildPtr | None:
    """An own child by its id; None: it is another's."""
    out = ffi.new("dtask_child **")
    err = lib.dtask_b_child_find(task, id.encode(), out)
    if err == lib.DTASK_EDEADLOCK:
        return None
    _check(err)
    return out[0]


def child_cancel(child: ChildPtr) -> None:
    """It and all its descendants are asked to end."""
    _check(lib.dtask_b_child_cancel(child))


def child_free(child: ChildPtr) -> None:
    """The handle, not the child."""
    lib.dtask_b_child_free(child)


def arm(task: TaskPtr, children: Sequence[ChildPtr], flags: int, ms: int) -> bool:
    """Arms a wait for these children (none: all descendants); ms -1: no limit. True: it holds already."""
    array = ffi.new("dtask_child *[]", list(children)) if children else _NULL
    _check(lib.dtask_b_await(task, array, len(children), flags, ms))
    return bool(lib.dtask_b_ready(task))


# ---- a worker ---------------------------------------------------------------------------------


class CoreWorker:
    """A dtask_worker."""

    def __init__(self, engine: Engine, options: dict[str, str]) -> None:
        out = ffi.new("dtask_worker **")
        opts = Opts(options)  # a name, so that it lives as long as the call
        _check(lib.dtask_worker_new(engine.pointer, opts.pointer, out))
        self.pointer = ffi.gc(out[0], lib.dtask_worker_free)

    def handle(self, row: TypeRow, seat: int) -> int:
        """Before start: serves the type on seats of that kind. Returns its number in items."""
        out, native = ffi.new("uint32_t *"), ffi.new("dtask_b_type *")
        keep = row.fill(native)
        _check(lib.dtask_b_handle(self.pointer, native, seat, out))
        del keep
        return out[0]

    def on_complete(self, index: int, roots: Sequence[str]) -> None:
        """Before start: type `index` runs when a job of one of these root types (none: any) has ended."""
        keep = [ffi.new("char[]", r.encode()) for r in roots]
        _check(lib.dtask_b_on_complete(self.pointer, index, ffi.new("const char *[]", keep), len(roots)))

    def among(self, served: Sequence[str]) -> None:
        """Before start: it is one of several workers, which together have these types. BadArguments: the option types names another."""
        keep = [ffi.new("char[]", s.encode()) for s in served]
        _check(lib.dtask_b_among(self.pointer, ffi.new("const char *[]", [*keep, _NULL]), len(served)))

    def only(self, job: EngineJob) -> None:
        """Before start: claims tasks of this job and its callbacks alone. Waits. NotFound."""
        _check(lib.dtask_b_only(self.pointer, job.pointer))

    def load(self, path: str) -> None:
        """A plugin with C handlers."""
        _check(lib.dtask_worker_load(self.pointer, path.encode()))

    def start(self) -> None:
        _check(lib.dtask_worker_start(self.pointer))

    def run(self) -> None:
        """Waits until it was stopped and has drained; raises why it ended, if not by that."""
        _check(lib.dtask_worker_run(self.pointer))

    def stop(self, grace_ms: int) -> None:
        """No more claims; a second call stops at once."""
        lib.dtask_worker_stop(self.pointer, grace_ms)


class Seat:
    """This thread's place at a worker: pulls items, pushes outcomes."""

    def __init__(self, worker: CoreWorker, kind: int, slots: int, batch: int) -> None:
        """Sits down on the calling thread. batch: the most items of one poll."""
        self._worker = worker.pointer
        self._items = ffi.new("dtask_b_item[]", batch)
        self._bytes = ffi.buffer(self._items)
        self._n = ffi.new("size_t *")
        _check(lib.dtask_b_sit(self._worker, kind, slots))

    def fd(self) -> int:
        """Readable when poll has items."""
        return lib.dtask_b_fd(self._worker)

    def poll(self, most: int, ms: int) -> list[Item] | None:
        """Up to `most` items; None: the worker has stopped. Waits up to ms for the first."""
        err = lib.dtask_b_poll(self._worker, self._items, most, ms, self._n)
        if err:
            if err == _EUSAGE:
                return None
            _raise(err)
        return list(_ITEM.iter_unpack(self._bytes[: self._n[0] * _ITEM.size]))

    def leave(self) -> None:
        """On the thread that sat down. What it holds is given back."""
        lib.dtask_b_leave(self._worker)


def read_at(address: int, size: int) -> bytes:
    """The bytes of an item's data, copied."""
    return ffi.buffer(ffi.cast("char *", address), size)[:]


def commit(worker: CoreWorker, outcomes: deque[Outcome], most: int) -> None:
    """Takes up to `most` outcomes from the left and queues them, in their order. From any thread, one at a time."""
    batch: list[Outcome] = []
    while outcomes and len(batch) < most:
        batch.append(outcomes.popleft())
    if not batch:
        return
    payload = b"".join([o[2] for o in batch])
    at = int(ffi.cast("uintptr_t", ffi.from_buffer(payload)))
    packed = bytearray(len(batch) * _OUTCOME.size)
    for i, (task, what, data) in enumerate(batch):
        _OUTCOME.pack_into(packed, i * _OUTCOME.size, task, what, at, len(data))
        at += len(data)
    native = ffi.from_buffer("dtask_b_outcome[]", packed)
    _check(lib.dtask_b_commit(worker.pointer, native, len(batch)))
