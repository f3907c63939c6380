"""Follows a job to its end: a live merged tree on a terminal, else plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from dynatask import App, Job, JobInfo, WaitTimeout

from . import out, read, view
from .merged import Merged

PAUSE, PAUSE_MAX = 0.25, 5.0  # between looks; the end is pushed
SHARE = 10  # looking takes at most one part in so many of the time, while that leaves a look now and then
PLAIN = 1.0  # between plain lines


class Follower:
    """One look after the other at a job and its merged tree. `seen` gets each."""

    def __init__(self, app: App, job: Job[Any], seen: Callable[[JobInfo, Merged], None], depth: int) -> None:
        self._job = job
        self._reader = read.rows(app, job.id)
        self._seen = seen
        self.merged = Merged(depth)

    def to_end(self, timeout: float | None) -> JobInfo:
        def look(info: JobInfo) -> None:
            ended = info.state not in view.LIVE
            (self.merged.finish if ended else self.merged.look)(self._reader, info.counts.added)
            self._seen(info, self.merged)

        return follow(self._job, look, timeout)


def follow(job: Job[Any], look: Callable[[JobInfo], None], timeout: float | None) -> JobInfo:
    """Gives `look` the job until it has ended, and that end. WaitTimeout: the job goes on."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        began = time.monotonic()
        info = job.info()
        look(info)
        if info.state not in view.LIVE:
            return info
        pause = min(max(PAUSE, SHARE * (time.monotonic() - began)), PAUSE_MAX)
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise WaitTimeout(f"job {info.id} is still {info.state} after {timeout:g} s")
            pause = min(pause, left)
        job.wait(pause)


def watch(app: App, job: Job[Any], timeout: float | None = None, depth: int = 4) -> tuple[JobInfo, Merged]:
    """To standard output: live on a terminal, else plain lines."""
    return (live if sys.stdout.isatty() else plain)(app, job, timeout, depth)


def plain(app: App, job: Job[Any], timeout: float | None, depth: int) -> tuple[JobInfo, Merged]:
    """A line now and then while it changes; the whole tree at the end."""
    kinds = read.kinds(app)
    last, last_time = "", 0.0

    def seen(info: JobInfo, merged: Merged) -> None:
        nonlocal last, last_time
        changed = f"{info.state} {info.counts}"
        if info.state not in view.LIVE:
            out.plain(*view.job_lines(info, merged, *kinds()))
        elif changed != last and time.monotonic() - last_time >= PLAIN:
            out.plain(view.header(info, merged.lost))
            last, last_time = changed, time.monotonic()

    follower = Follower(app, job, seen, depth)
    return follower.to_end(timeout), follower.merged


def as_json(job: Job[Any], timeout: float | None) -> JobInfo:
    """A line of JSON for each change."""
    last: JobInfo | None = None

    def look(info: JobInfo) -> None:
        nonlocal last
        if last is None or (info.state, info.counts, info.progress) != (last.state, last.counts, last.progress):
            out.json(view.job_json(info))
        last = info

    return follow(job, look, timeout)


def live(app: App, job: Job[Any], timeout: float | None, depth: int) -> tuple[JobInfo, Merged]:
    """The tree is drawn in place, and stays on the screen at the end."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    kinds = read.kinds(app)
    console = out.console()
    shown: tuple[JobInfo, int, list[Text]] | None = None

    def picture() -> Group:  # called by rich's thread too: the clock goes on between looks
        if shown is None:
            return Group()
        info, lost, tree = shown
        rows = [out.clean_text(row) for row in (view.header(info, lost, console.width), *tree)]
        most = max(console.height - 1, 2)
        if len(rows) > most:
            rows = [*rows[: most - 1], Text(f"… {len(rows) - most + 1} more lines: dynatask tree {info.id}", "dim")]
        for row in rows:
            row.no_wrap, row.overflow = True, "ellipsis"
        return Group(*rows)

    def seen(info: JobInfo, merged: Merged) -> None:
        nonlocal shown
        shown = info, merged.lost, view.merged_lines(merged, *kinds())

    follower = Follower(app, job, seen, depth)
    with Live(get_renderable=picture, console=console, refresh_per_second=8):
        info = follower.to_end(timeout)
    return info, follower.merged
