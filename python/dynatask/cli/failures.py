"""From an error to what the shell sees: one sentence, the next command to try, an exit code.

Exit codes: 0 ok or drained, 1 job failed, 2 usage, 3 not found, 4 cancelled,
5 engine unreachable, 6 timeout.
"""

from __future__ import annotations

import sys

import click

from . import out

OK, FAILED, USAGE, NOT_FOUND, CANCELLED, ENGINE, TIMEOUT = range(7)
INTERRUPTED, UNREAD = 130, 141  # as shells say of SIGINT and SIGPIPE

END_CODES = {"succeeded": OK, "failed": FAILED, "cancelled": CANCELLED}


class Failure(click.ClickException):
    """Ends a command. try_: the next command."""

    def __init__(self, message: str, code: int, try_: str) -> None:
        super().__init__(message)
        self.code = code
        self.try_ = try_


def usage(message: str, try_: str = "dynatask --help") -> Failure:
    return Failure(message, USAGE, try_)


def of_error(error: BaseException, try_: str) -> Failure | None:
    """try_: the help of the command that it was. None: an error of ours, which deserves its traceback."""
    import dynatask as d

    if isinstance(error.__cause__, d.TaskFailed):  # the handler's own class, as result() raises it
        error = error.__cause__
    text = str(error) or type(error).__name__
    if isinstance(error, d.TaskCancelled):
        return Failure(text, CANCELLED, f"dynatask show {error.task_id}")
    if isinstance(error, d.TaskFailed):
        return Failure(f"{error.type}: {error.message}", FAILED, f"dynatask show {error.task_id}")
    if isinstance(error, d.NotFound):
        return Failure(text, NOT_FOUND, "dynatask jobs")
    if isinstance(error, d.WaitTimeout):
        return Failure(text, TIMEOUT, "dynatask jobs state:running")
    if isinstance(error, (d.EngineError, d.VersionError)):
        return Failure(text, ENGINE, "dynatask doctor")
    if isinstance(error, d.Conflict):
        return Failure(text, USAGE, "dynatask jobs")
    if isinstance(error, d.DynataskError):
        return Failure(text, USAGE, try_)
    return None


def show(error: click.ClickException) -> int:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        try_, code = f"{error.ctx.command_path} --help", USAGE
    elif isinstance(error, Failure):
        try_, code = error.try_, error.code
    else:
        try_, code = "dynatask --help", USAGE
    click.echo(out.clean(f"dynatask: {error.format_message()}\n  try: {try_}"), err=True)
    sys.stderr.flush()
    return code
