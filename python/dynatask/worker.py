"""Running handlers: workers in this process, and in child processes."""

# pyright: reportPrivateUsage=false
# (the files of this package share what is private to it)

from __future__ import annotations

import asyncio
import difflib
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from . import _core
from . import options as opts
from ._crew import Crew
from ._signals import Signals
from .errors import BadArguments, UsageError
from .scope import With

if TYPE_CHECKING:
    from ._processes import Processes
    from .app import App

__all__ = ["Worker"]

_COROUTINES = 256  # at once, where nothing is said
_AS_CONFIGURED = -1.0  # the option grace
_PROCESSES_MAX = 256  # as of the option in files and URLs


class Worker(With["Worker"]):
    """Claims and runs tasks of an app in this process, plain handlers on threads, coroutines on an event loop.

    `with app.worker():` runs beside the block and drains on leaving it: no more
    claims, handlers get the grace time, the rest is given back uncounted.
    `async with`: coroutine handlers run on your loop. run() blocks instead.
    Errors that end it (EngineError past engine_timeout, a thread that broke)
    are raised when it is left.
    """

    def __init__(
        self, app: App, slots: int | None, types: Sequence[str] | Mapping[str, int], plugins: Sequence[str],
        options: Mapping[str, Any],
    ) -> None:  # fmt: skip
        for what, value in (("slots", slots), *(("slots", n) for n in (types.values() if isinstance(types, Mapping) else ()))):
            if value is not None and (isinstance(value, bool) or value < 1):
                raise BadArguments(f"{what} is {value!r}: give a count from 1")
        if isinstance(types, str) or isinstance(plugins, str):
            raise BadArguments("types and plugins are lists of text")
        served = [name for name, t in app.types.items() if t._core.served]
        for plugin in plugins:
            served += _core.plugin_types(os.fspath(plugin))
        for name in types:
            if name not in served:
                raise BadArguments(_no_handler(app, name, served))
        self._app = app
        self._served = served
        self._slots = slots
        self._types = types
        self._plugins = plugins
        self._options = dict(options)
        self._processes: Processes | None = None
        self._crews: list[Crew] = []
        self._sitting: list[asyncio.Task[None]] = []
        self._stops = 0
        self._started = False
        self._changed = threading.Event()
        self.begun: Callable[[list[str]], None] | None = None  # for the command line: told what is served, once it is

    # ---- life ------------------------------------------------------------------------

    def run(self) -> None:
        """Works until it is stopped and has drained; blocks. SIGTERM and SIGINT drain, a second one stops at once.

        Ignored ones stay ignored; on another thread than the main one all stay as they are.
        """
        if threading.current_thread() is threading.main_thread():
            self._run_main()
        else:
            self._start(own_loop=True)
            self._wait()
        self._raise()

    def _run_main(self) -> None:
        before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
        with Signals() as signals:
            for number, handler in before.items():
                if handler is not signal.SIG_IGN:
                    signal.signal(number, self._signalled)
            try:
                self._start(own_loop=True)
                signals.wait(self._wait)
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def stop(self, grace: float = 30) -> None:
        """Begins to drain, and returns: handlers get `grace` seconds. Again: stops at once. From any thread, or a signal."""
        self._stops += 1
        if self._processes is not None:
            self._processes.stop()
        for crew in self._crews:
            crew.stop(grace)

    def __enter__(self) -> Worker:
        self._start(own_loop=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._stops:
            self.stop(_AS_CONFIGURED)
        self._wait()
        if error is None:
            self._raise()

    async def __aenter__(self) -> Worker:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, partial(self._start, own_loop=False))
        self._sitting = [loop.create_task(c.loop.sit()) for c in self._crews if c.loop is not None]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._stops:
            self.stop(_AS_CONFIGURED)
        if self._sitting:
            await asyncio.gather(*self._sitting, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, self._wait)
        if error is None:
            for sitting in self._sitting:
                sitting.result()
            self._raise()

    # ---- how ---------------------------------------------------------------------------

    def _start(self, *, own_loop: bool) -> None:
        if self._started:
            raise UsageError("this worker ran before: make another with app.worker()")
        self._started = True
        app = self._app
        options = {k: v for k, v in self._options.items() if k != "processes"}
        if app.unopened:
            _core.check(app.name, app.url, app.options, self._served)
        config = app.read_config()
        processes = self._options.get("processes", config["processes"])
        if isinstance(processes, bool) or not isinstance(processes, int) or not 0 <= processes <= _PROCESSES_MAX:
            raise BadArguments(f"processes is {processes!r}: give a count up to {_PROCESSES_MAX}")
        if processes > 1 or (processes == 1 and "processes" in self._options):
            from ._processes import Processes

            if config["url"].startswith("memory:"):
                raise UsageError(
                    f"processes={processes} needs an engine that processes share, and memory: is seen by one alone: "
                    "name another, as sqlite:jobs.db, or leave processes out"
                )
            # What each child would refuse is refused here, once, before there is one.
            self._make([t._core for t in app.types.values() if t._core.served], opts.of_app(options))
            self._processes = Processes(app, processes, self._slots, self._types, self._plugins, options)
            self._told(config)
            self._catch_up()
            return
        self._slots = self._slots or config["slots"] or None
        cores = [t._core for t in app.types.values() if t._core.served and not app.inline]
        for core in cores:
            core.max_payload = config["max_payload"]
        if app.inline and self._types:
            python = {t.name for t in app.types.values() if t._core.served}
            types = self._types
            in_c = [name for name in types if name not in python]
            self._types = {name: types[name] for name in in_c} if isinstance(types, Mapping) else in_c
            self._plugins = self._plugins if in_c else ()
        self._crews = self._make(cores, opts.of_app(options))
        try:
            for crew in self._crews:
                crew.start(own_loop=own_loop)
        except BaseException:
            for crew in self._crews:
                crew.stop(0)
            raise
        app.known_all()
        app.working_here.append(self)
        self._told(config)
        self._catch_up()

    def _told(self, config: Mapping[str, Any]) -> None:
        if self.begun is not None:
            self.begun([*(self._types or [name for part in config["types"].split(",") if (name := part.strip())] or dict.fromkeys(self._served))])

    def _catch_up(self) -> None:
        """A stop that came while it was starting found nothing to stop."""
        early, self._stops = self._stops, 0
        for _ in range(early):
            self.stop(_AS_CONFIGURED)

    def _make(self, cores: list[Any], options: dict[str, str]) -> list[Crew]:
        """One crew; with slots for each type, one for each."""
        types = self._types
        served = list(dict.fromkeys([*self._served, *(c.name for c in cores)]))
        cpus = len(os.sched_getaffinity(0))
        callbacks = [c for c in cores if c.callback_of is not None]
        if not isinstance(types, Mapping):
            if self._slots is not None:
                options["slots"] = str(self._slots)
            if types:
                options["types"] = ",".join(types)
            serve = [c for c in cores if not types or c.name in types]
            told = [c for c in callbacks if c not in serve]
            crew = Crew(self._app, serve, self._slots or cpus, self._slots or _COROUTINES, options, served, told=told)
            self._load(crew)
            return [crew]
        crews: list[Crew] = []
        for name, slots in types.items():
            own = {**options, "slots": str(slots), "types": name}
            told = [c for c in callbacks if c.name != name]
            crew = Crew(self._app, [c for c in cores if c.name == name], slots, slots, own, served, told=told)
            self._load(crew)
            crews.append(crew)
        return crews

    def _load(self, crew: Crew) -> None:
        for plugin in self._plugins:
            crew.core.load(os.fspath(plugin))

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.stop(_AS_CONFIGURED)

    def _wait(self) -> None:
        """Until all has ended."""
        if self._processes is not None:
            self._processes.wait()
        for crew in self._crews:
            crew.ended.wait()
        if self in self._app.working_here:
            self._app.working_here.remove(self)

    def _raise(self) -> None:
        for crew in self._crews:
            if crew.error is not None:
                raise crew.error
        if self._processes is not None:
            self._processes.check()


def _no_handler(app: App, name: object, served: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name), served, 3)
    what = f"types names {name!r}, for which a worker of the app {app.name} has no handler here: "
    if near:
        what += f"write {' or '.join(near)}, or add the handler"
    elif name in app.types:
        what += "it is declared as extern, so load its plugin with plugins=, or leave the name out"
    else:
        what += "add the handler or its plugin, or leave the name out"
    return f"{what}; it has {', '.join(served[:50]) or 'none'}"


class Working(With[None]):
    """A worker of the app in this process, for the length of a block; if one runs already, that."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._own: Worker | None = None

    def _make(self) -> Worker | None:
        if not self._app.working_here and not self._app.inline:
            self._own = self._app.worker()
        return self._own

    def __enter__(self) -> None:
        worker = self._make()
        if worker is not None:
            worker.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._own is not None:
            self._own.__exit__(*error)

    async def __aenter__(self) -> None:
        worker = self._make()
        if worker is not None:
            await worker.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        if self._own is not None:
            await self._own.__aexit__(*error)
