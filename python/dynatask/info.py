"""What can be read of jobs and tasks: plain values, exact when read, never changing after."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple

from . import errors
from .errors import TaskFailed

__all__ = ["Counts", "Info", "JobInfo", "TaskInfo"]


class Counts(NamedTuple):
    """A job's tasks, exact at every read. added: all; claimed: ever begun; the others: now in that state."""

    added: int
    claimed: int
    blocked: int
    scheduled: int
    ready: int
    running: int
    parked: int
    closing: int
    succeeded: int
    failed: int
    cancelled: int
    skipped: int


@dataclass
class Info:
    """Of a job or a task. progress: (done, total or None). Times are aware, UTC."""

    id: str
    type: str
    state: str
    error: TaskFailed | None = field(compare=False)
    progress: tuple[float, float | None]
    started_at: datetime | None
    ended_at: datetime | None


@dataclass
class JobInfo(Info):
    """A job. state: running, cancelling, succeeded, failed, cancelled."""

    counts: Counts
    tags: dict[str, str]
    paused: bool


@dataclass
class TaskInfo(Info):
    """A task. attempt: failures + lost workers + 1. worker, language: where it ran last. children: as far as asked."""

    attempt: int
    worker: str
    language: str
    arguments: dict[str, Any]
    children: list[TaskInfo]


def _time(us: object) -> datetime | None:
    return datetime.fromtimestamp(us / 1e6, timezone.utc) if isinstance(us, int) and us else None


def _common(data: dict[str, Any]) -> dict[str, Any]:
    error = data.get("error")
    code = {"cancelled": "ECANCELLED", "skipped": "ESKIPPED"}.get(data["state"], "EFAILED")
    return {
        "id": data["id"],
        "type": data["type"],
        "state": data["state"],
        "error": errors.failure(code, error) if error else None,
        "started_at": _time(data.get("started")),
        "ended_at": _time(data.get("ended")),
    }


def job_info(data: dict[str, Any]) -> JobInfo:
    """A job as the core reads it."""
    counts = Counts(*(data["counts"][name] for name in Counts._fields))
    done = counts.succeeded + counts.failed + counts.cancelled + counts.skipped
    progress = _progress(data) or (float(done), float(counts.added))
    return JobInfo(
        **_common(data), progress=progress, counts=counts, tags=data["tags"], paused=data["paused"]
    )


def task_info(data: dict[str, Any]) -> TaskInfo:
    """A task as the core reads it, with the children that were asked for."""
    names: list[str] = data["params"]
    values: list[Any] = data["args"] or []
    return TaskInfo(
        **_common(data),
        progress=_progress(data) or (0.0, None),
        attempt=data["attempt"],
        worker=data["worker"],
        language=data["language"],
        arguments={names[i] if i < len(names) else str(i): value for i, value in enumerate(values)},
        children=[task_info(child) for child in data.get("children", ())],
    )


def _progress(data: dict[str, Any]) -> tuple[float, float | None] | None:
    if data["progress"] is None:
        return None
    done, total = data["progress"]
    return float(done), None if total is None or total < 0 else float(total)
