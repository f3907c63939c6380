"""Everything that dynatask raises, and how an error travels.

Errors of the library carry `code`, the name that C has for them. The failure
of a task is data: type, message, traceback and language; whoever asks for
the result gets the handler's own class where that is builtin or listed in
`App(errors=)`, its `__cause__` being the `TaskFailed` with all of it.
"""

from __future__ import annotations

import builtins
import math
import traceback as tracebacks
from collections.abc import Mapping
from types import TracebackType
from typing import Any

__all__ = [
    "BadArguments", "Cancelled", "ChildrenFailed", "Conflict", "Deadlock", "Diverged", "DynataskError", "EngineError",
    "Fatal", "NotFound", "NotInTask", "Retry", "TaskCancelled", "TaskFailed", "TaskSkipped", "TooBig", "Unwind",
    "UsageError", "VersionError", "WaitTimeout", "WouldBlock",
]  # fmt: skip


class DynataskError(Exception):
    """What the library raises. `code` is the C name of it, as "ENOTFOUND"."""

    code: str = "EINTERNAL"


class UsageError(DynataskError):
    """The call makes no sense here; the message says what does."""

    code = "EUSAGE"


class NotInTask(UsageError):
    """Only a running handler can do this, on the thread that runs it."""


class WouldBlock(UsageError):
    """On an event loop's thread, and not yet complete: await it."""


class Deadlock(UsageError):
    """A handler's wait for what is not its own child, and not yet complete."""

    code = "EDEADLOCK"


class BadArguments(UsageError, TypeError):
    """Arguments or options that do not fit. Raised before anything is stored."""

    code = "EARGS"


class NotFound(DynataskError, LookupError):
    """No such job, task or type."""

    code = "ENOTFOUND"


class Conflict(DynataskError):
    """The same id, key, unique key or name, but another call."""

    code = "ECONFLICT"


class TooBig(DynataskError):
    """Past a limit: payload, depth, tasks in a job."""

    code = "ETOOBIG"


class EngineError(DynataskError):
    """The engine could not be opened, or gave no answer within engine_timeout."""

    code = "EENGINE"


class VersionError(DynataskError):
    """A store, a message or a plugin of a newer version."""

    code = "EVERSION"


class WaitTimeout(DynataskError, TimeoutError):
    """The time given to a wait is over. What it waited for goes on."""

    code = "ETIMEOUT"


class Diverged(DynataskError):
    """A re-run asked for something else than was recorded. Names both."""

    code = "EDIVERGED"


class TaskFailed(DynataskError):
    """A task's end that is no success.

    type: name of the handler's error class. message: its text. traceback: text,
    may be empty. language: where the handler ran, "python" or "c". task_id:
    "job/ordinal". attempts: how many tries it had.
    """

    code = "EFAILED"

    def __init__(
        self, message: str = "", *, type: str = "", traceback: str = "", language: str = "", task_id: str = "",
        attempts: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.type = type or self.__class__.__name__
        self.message = message
        self.traceback = traceback
        self.language = language
        self.task_id = task_id
        self.attempts = attempts

    def __str__(self) -> str:
        text = f"{self.type}: {self.message}" if self.message else self.type
        if not self.task_id:
            return text
        tries = f", {self.attempts} attempts" if self.attempts > 1 else ""
        return f"{text} (task {self.task_id}{tries})"


class ChildrenFailed(TaskFailed):
    """Children failed. failed: how many; errors: the first 100 of them.

    Where it is read from a store, as of a task that failed with it, texts of
    errors are cut at 2 KiB, and a ChildrenFailed among them has its count only.
    Those of children whose payload went before (option keep) have no text.
    """

    def __init__(self, message: str = "", *, failed: int = 0, errors: list[TaskFailed] | None = None, **data: Any) -> None:
        super().__init__(message, **data)
        self.errors = errors or []
        self.failed = failed or len(self.errors)


class TaskCancelled(TaskFailed):
    """The task, or its job, was cancelled."""

    code = "ECANCELLED"


class TaskSkipped(TaskFailed):
    """The task never ran. reason: "after", "limit", "expired" or "unique"."""

    code = "ESKIPPED"

    def __init__(self, message: str = "", *, reason: str = "", **data: Any) -> None:
        super().__init__(message, **data)
        self.reason = reason


class Retry(Exception):
    """Raised by a handler: run this task again, whatever `retry_on` says.

    after: seconds from now, else by the type's backoff. counted: whether it is
    one of the type's `retries`. BadArguments: after is no number from 0, or
    counted no bool.
    """

    def __init__(self, message: str = "", *, after: float | None = None, counted: bool = True) -> None:
        super().__init__(message)
        _check_retry(after, counted)
        self.after = after
        self.counted = counted


def _check_retry(after: object, counted: object) -> None:
    number = isinstance(after, (int, float)) and not isinstance(after, bool) and 0 <= after < math.inf
    if after is not None and not number:
        raise BadArguments(f"Retry(after={after!r}): give seconds from now, a number from 0")
    if not isinstance(counted, bool):
        raise BadArguments(f"Retry(counted={counted!r}): give True or False")


class Fatal(Exception):
    """Raised by a handler: this task failed, and no retry can mend it."""


class Cancelled(BaseException):
    """Raised in plain handlers where they wait or look, once they are asked to end.

    In coroutines it is asyncio.CancelledError.
    """


class Unwind(BaseException):
    """Passes through a handler whose frame is dropped; it runs again later. Let it pass."""


class Dropped(Unwind):
    """The core's: one that a handler makes up is no reason to run it again."""


_BY_CODE: dict[str, type[DynataskError]] = {
    cls.code: cls
    for cls in (
        UsageError, NotFound, Conflict, TooBig, EngineError, VersionError, WaitTimeout, TaskFailed, TaskCancelled,
        TaskSkipped, Diverged, Deadlock, BadArguments,
    )  # fmt: skip
}


def of_code(code: str, detail: str) -> BaseException:
    """The exception for a C error, by its name and its one sentence."""
    if code == "EUNWIND" or code == "ELOST":  # the attempt is another's: its frame has nothing left to do
        return Dropped(detail)
    if code == "ENOMEM":
        return MemoryError(detail)
    error = _BY_CODE.get(code, DynataskError)(detail)
    error.code = code
    return error


# ---- errors as data ---------------------------------------------------------

_ERRORS_MAX = 100  # of ChildrenFailed
_CODES = {"TaskCancelled": "ECANCELLED", "TaskSkipped": "ESKIPPED"}  # of errors that the core lists


def describe(error: BaseException) -> dict[str, Any]:
    """A handler's exception as the map that travels. Each text is cut at 32 KiB.

    ChildrenFailed also has the count and the first errors.
    """
    if len(error.args) == 1 and isinstance(error.args[0], str):
        message = error.args[0]  # str(KeyError("x")) has quotes of its own
    else:
        try:
            message = str(error)
        except Exception as broken:  # a __str__ that raises must not hide the failure
            message = f"its text cannot be read: {type(broken).__name__}"
    trace = "".join(tracebacks.format_exception(type(error), error, _from_handler(error.__traceback__), limit=-50))
    data: dict[str, Any] = {
        "type": type(error).__qualname__,
        "message": _text(message, 32768),
        "traceback": _text(trace, 32768, tail=True),
        "language": "python",
    }
    if isinstance(error, ChildrenFailed):
        data["failed"] = error.failed
        data["errors"] = [_of_child(e) for e in error.errors[:_ERRORS_MAX]]
    return data


def _from_handler(trace: TracebackType | None) -> TracebackType | None:
    """From the handler on: what of this package called it is of no use to anybody. All, where no handler is in it."""
    at = trace
    while at is not None and at.tb_frame.f_globals.get("__package__") == __package__:
        at = at.tb_next
    return at or trace


def shorten(data: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Such a map within `most` bytes, 1,024 at least: without errors, the texts a third of that each."""
    cut = {**data, "type": _text(data["type"], 100)}
    cut.pop("errors", None)
    message, trace = data["message"].encode(), data["traceback"].encode()
    if len(message) > most // 3:
        cut["message"] = message[: most // 3 - 3].decode(errors="ignore") + "…"
    if len(trace) > most // 3:
        cut["traceback"] = "…" + trace[3 - most // 3 :].decode(errors="ignore")
    return cut


def _of_child(error: TaskFailed) -> dict[str, Any]:
    """One of the errors of ChildrenFailed: bounded, however deep the tree is that failed."""
    data: dict[str, Any] = {
        "code": error.code,
        "type": error.type,
        "message": _text(error.message, 2048),
        "traceback": _text(error.traceback, 2048, tail=True),
        "language": error.language,
        "task_id": error.task_id,
        "attempts": error.attempts,
    }
    if isinstance(error, TaskSkipped):
        data["reason"] = error.reason
    if isinstance(error, ChildrenFailed):
        data["failed"] = error.failed
    return data


def _text(text: str, most: int, *, tail: bool = False) -> str:
    """Encodable text of bounded length. Lone surrogates have no UTF-8."""
    if len(text) > most:
        text = "…" + text[-most:] if tail else text[:most] + "…"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def failure(code: str, data: Mapping[str, Any]) -> TaskFailed:
    """The TaskFailed of an error map that a waiter was given."""
    known: dict[str, Any] = {
        "type": str(data.get("type") or ""),
        "traceback": str(data.get("traceback") or ""),
        "language": str(data.get("language") or ""),
        "task_id": str(data.get("task_id") or ""),
        "attempts": int(data.get("attempts") or 0),
    }
    message = str(data.get("message") or "")
    if known["type"] == "ChildrenFailed":
        errors = [failure(str(e.get("code") or _CODES.get(e.get("type"), "EFAILED")), e) for e in data.get("errors") or ()]
        return ChildrenFailed(message, failed=int(data.get("failed") or 0), errors=errors, **known)
    if code == "ECANCELLED":
        return TaskCancelled(message, **known)
    if code == "ESKIPPED":
        return TaskSkipped(message, reason=str(data.get("reason") or ""), **known)
    return TaskFailed(message, **known)


def original(failed: TaskFailed, classes: Mapping[str, type[Exception]]) -> Exception:
    """What result() raises: the handler's own class if it is known, caused by `failed`."""
    if type(failed) is not TaskFailed:
        return failed
    cls: Any = classes.get(failed.type) or getattr(builtins, failed.type, None)
    if not (isinstance(cls, type) and issubclass(cls, Exception)):
        return failed
    try:
        error = cls(failed.message)
    except Exception:  # its constructor wants other arguments
        try:
            error = cls.__new__(cls, failed.message)
            error.args = (failed.message,)
            if failed.message not in str(error):  # it would say less than the failure does
                return failed
        except Exception:
            return failed
    error.__cause__ = failed
    return error
