"""`dynatask worker --reload`: for development, a worker that begins anew when its code changes.

Looks once a second at the Python files below the working directory and at the
plugins. The worker is a child process; it drains before the next begins, so
no task is lost by a change.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from time import sleep
from types import FrameType

import click

from .failures import usage

LOOK = 1.0
FILES = 10_000


def sources(plugins: Sequence[str]) -> Iterator[str]:
    yield from plugins
    left = FILES
    for folder, inner, names in os.walk("."):
        # What is hidden, installed or built is not the user's code.
        inner[:] = [d for d in inner if not d.startswith((".", "__")) and d not in ("node_modules", "site-packages", "build")]
        for name in names:
            if name.endswith(".py"):
                left -= 1
                if left < 0:
                    raise usage(f"--reload looks at {FILES} files at most: run it in the project's own folder")
                yield os.path.join(folder, name)


def state(plugins: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in sources(plugins):
        try:
            found[path] = os.stat(path).st_mtime_ns
        except FileNotFoundError:  # between the listing and now
            continue
    return found


def run(words: Sequence[str], plugins: Sequence[str]) -> int:
    """words: the command line of the worker itself. The exit code is its last one's."""
    stops = 0
    seen = state(plugins)
    child = start(words)

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stops
        stops += 1
        child.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while True:
        try:
            code = child.wait(LOOK)
        except subprocess.TimeoutExpired:
            code = None
        if code is not None and not stops:
            sleep(LOOK)  # it ended by itself: nothing but a change begins the next
        if code is not None and stops:
            return code
        now = state(plugins)
        if now == seen:
            continue
        changed = sorted(path for path in now.keys() | seen.keys() if now.get(path) != seen.get(path))
        click.echo(f"{changed[0]} changed: the worker begins anew", err=True)
        seen = now
        if code is None:
            child.terminate()
            child.wait()
        child = start(words)


def start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    # In a group of its own, so that Ctrl-C reaches it once, through us.
    return subprocess.Popen([sys.executable, "-m", "dynatask", *words], start_new_session=True)
