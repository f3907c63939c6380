"""What the commands read of an app, beyond the package's public names."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import difflib
import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import click
import msgspec

from dynatask import App, Job, JobInfo, NotFound, TaskInfo, TaskType

from . import target
from .failures import NOT_FOUND, Failure
from .merged import Reader, Row

TAKEN_IN, LOOK = 10.0, 0.05  # seconds that a job may lie in Kafka before it is called missing; between looks


class WorkerRow(NamedTuple):
    name: str
    since: int
    dead: bool


class TypeRow(NamedTuple):
    name: str
    language: str
    workers: int
    system: bool


class Option(NamedTuple):
    name: str
    value: Any
    source: str
    default: Any
    help: str
    unit: str


_rows = msgspec.msgpack.Decoder(list[Row])


def type_of(app: App, name: str) -> TaskType[..., Any]:
    """The app's own, else one that takes what its handler takes."""
    found = app.types.get(name)
    if found is not None:
        return found
    known = dict.fromkeys([*app.types, *(t.name for t in types(app) if not t.system)])
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        told = f"the app {app.name} has no task type '{name}', nor did a worker serve one; it has {', '.join(known) or 'none'}"
        raise Failure(told, NOT_FOUND, f"{click.get_current_context().command_path} {near[0]}" if near else "dynatask doctor")

    @app.extern(name)
    def elsewhere(*args: Any) -> Any: ...

    return elsewhere


class Jobs(NamedTuple):
    found: list[JobInfo]
    more: bool  # others fit as well
    cut: bool  # older ones were not looked at


def jobs(app: App, query: str, limit: int) -> Jobs:
    """The newest that fit."""
    found, cut = app._jobs(query, limit + 1)
    return Jobs(found[:limit], len(found) > limit, cut)


def until_taken_in(app: App, id: str, timeout: float | None) -> None:
    """Others see a job that lies in Kafka once a worker took it in, and nothing rings then. Where none does there is a Failure."""
    until = time.monotonic() + min(TAKEN_IN if timeout is None else timeout, TAKEN_IN)
    while True:
        try:
            app.read_job(id)
            return
        except NotFound as error:
            if time.monotonic() >= until:
                told = f"no worker has taken in a job {id}: it never was, was removed, or lies in Kafka until a worker of its type comes"
                raise Failure(told, NOT_FOUND, "dynatask doctor") from error
        time.sleep(LOOK)


def job(app: App, id: str) -> Job[Any]:
    """NotFound: no such job."""
    return type_of(app, app.read_job(id).type).job(id)


def task(app: App, id: str) -> TaskInfo:
    return app.read_task(id, 0, 1)


class Payload(NamedTuple):
    kept: bool  # else arguments and result have left, as the option keep says
    result: Any  # as it is stored; None: none, or not yet


def payload(app: App, id: str) -> Payload:
    """Of a task."""
    row = app.read({"what": "task", "id": id})
    return Payload(row["args"] is not None, row["result"])


def rows(app: App, id: str) -> Reader:
    def read(ords: Sequence[int]) -> Sequence[Row]:
        return _rows.decode(app.engine.read(msgspec.msgpack.encode({"what": "rows", "id": id, "ords": list(ords)})))

    return read


def types(app: App) -> list[TypeRow]:
    found: list[dict[str, Any]] = app.read({"what": "types"})
    return [
        TypeRow(t["name"], t["options"].get("language", ""), t["workers"], t["name"].startswith("dynatask.")) for t in found
    ]


class Kinds(NamedTuple):
    languages: dict[str, str]  # of each type, as far as a worker has said
    unserved: set[str]  # types that no worker serves now


def kinds(app: App) -> Callable[[], Kinds]:
    """Of all types; asked anew when what is known is a second old."""
    known, at = Kinds({}, set()), -1.0

    def look() -> Kinds:
        nonlocal known, at
        if at < 0 or time.monotonic() - at > 1:
            found = types(app)
            known = Kinds({t.name: t.language for t in found}, {t.name for t in found if not t.workers})
            at = time.monotonic()
        return known

    return look


def workers(app: App) -> list[WorkerRow]:
    found: list[dict[str, Any]] = app.read({"what": "workers"})
    return [WorkerRow(w["name"], w["since"], w["dead"]) for w in found]


def server(app: App) -> dict[str, Any]:
    """Of an engine that has one: address, version, policy, persistence, maxmemory, used_memory, clock_ahead_us. Raises what it refuses."""
    return app.read({"what": "server"})


def config(app: App) -> list[Option]:
    options = [Option(*row) for row in msgspec.msgpack.decode(app.engine.config())]
    # What the command line says goes by way of the environment.
    return [o._replace(source="command line") if o.source == "environment" and o.name in target.given else o for o in options]


def app_of(f: TaskType[..., Any]) -> App:
    return f._core.app


def parameters(f: TaskType[..., Any]) -> dict[str, inspect.Parameter]:
    """Of its handler, with evaluated annotations."""
    return dict(inspect.signature(f._core.fn, eval_str=True).parameters)
