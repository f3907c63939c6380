"""What a running handler knows of itself."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from . import _core
from ._frame import Frame, here
from .errors import BadArguments, Cancelled
from .handles import Job, Task

__all__ = ["Context", "context"]

_log = logging.getLogger("dynatask.task")


class Context:
    """Of one attempt. Good on the handler's own thread, as long as it runs.

    task, job, parent: handles (parent: None for a job's root). attempt: from 1:
    failures + lost workers + 1. trigger: what started the job, if it was no
    call. version: of the type, as it was stored with the
    task. log: records carry dynatask_job, dynatask_task, dynatask_type and
    dynatask_attempt.
    """

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        data, app = frame.context, frame.type.app
        self.task: Task[Any] = Task(app, frame.type.shape.result_decoder, id=data["id"])
        self.job: Job[Any] = Job(app, app.codec.any, data["job"])
        parent = data.get("parent")
        self.parent: Task[Any] | None = Task(app, app.codec.any, id=parent) if parent else None
        self.attempt: int = data["attempt"]
        self.version: int = data["version"]
        self.trigger = None
        self.log = logging.LoggerAdapter(
            _log,
            {
                "dynatask_job": data["job"],
                "dynatask_task": data["id"],
                "dynatask_type": frame.type.name,
                "dynatask_attempt": self.attempt,
            },
        )

    @property
    def cancelled(self) -> bool:
        """Whether the task was asked to end. No I/O; may be read in a loop."""
        return self._frame.alive and _core.cancelled(self._frame.task)

    def check_cancelled(self) -> None:
        """Raises Cancelled (asyncio.CancelledError in a coroutine) if the task was asked to end."""
        if self.cancelled:
            text = f"{self.task.id} was asked to end"
            raise asyncio.CancelledError(text) if self._frame.type.is_async else Cancelled(text)

    def progress(self, done: float, total: float | None = None) -> None:
        """Says how far it is; others read it in info(). No I/O: sent with the next turn."""
        if done < 0 or (total is not None and total < 0):
            raise BadArguments(f"progress is {done} of {total}: give numbers from 0")
        _core.progress(here("progress").task, float(done), -1.0 if total is None else float(total))


def context() -> Context:
    """The running handler's. NotInTask: no handler runs here."""
    return Context(here("context"))
