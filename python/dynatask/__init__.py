"""Jobs that grow while they run: tasks that spawn tasks, in C and Python, counted to the very last one.

    from dynatask import App

    app = App("hello")

    @app.task
    def fib(n: int) -> int:
        if n < 2:
            return n
        a, b = fib.spawn(n - 1), fib.spawn(n - 2)
        return a.result() + b.result()

    print(fib.run(12))
"""

from .app import App
from .context import Context, context
from .errors import (
    BadArguments,
    Cancelled,
    ChildrenFailed,
    Conflict,
    Deadlock,
    Diverged,
    DynataskError,
    EngineError,
    Fatal,
    NotFound,
    NotInTask,
    Retry,
    TaskCancelled,
    TaskFailed,
    TaskSkipped,
    TooBig,
    Unwind,
    UsageError,
    VersionError,
    WaitTimeout,
    WouldBlock,
)
from .handles import Batch, Handle, Job, Task
from .info import Counts, Info, JobInfo, TaskInfo
from .options import Backoff, CallOptions, Options, TaskOptions, Unique
from .scope import Scope, Stream, With, as_completed, children
from .tasktype import AsyncTaskType, SyncTaskType, TaskType, then
from .worker import Worker

__all__ = [
    "App", "AsyncTaskType", "Backoff", "BadArguments", "Batch", "CallOptions", "Cancelled", "ChildrenFailed", "Conflict",
    "Context", "Counts", "Deadlock", "Diverged", "DynataskError", "EngineError", "Fatal", "Handle", "Info", "Job",
    "JobInfo", "NotFound", "NotInTask", "Options", "Retry", "Scope", "Stream", "SyncTaskType", "Task", "TaskCancelled",
    "TaskFailed", "TaskInfo", "TaskOptions", "TaskSkipped", "TaskType", "TooBig", "Unique", "Unwind", "UsageError",
    "VersionError", "WaitTimeout", "With", "Worker", "WouldBlock", "as_completed", "children", "context", "then",
]  # fmt: skip
