"""A main thread that waits, and is woken by every signal.

Python runs signal handlers on the main thread only, but the kernel may give a
signal to any thread: to the first that goes on, if the process was stopped
when it came. A main thread that sleeps in a lock would then sleep on.
"""

from __future__ import annotations

import select
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType


class Signals:
    """`with Signals() as signals: signals.wait(f)`, on the main thread: runs f() on another and returns when that has.

    Signal handlers run meanwhile, as soon as their signals come; what one
    raises is raised by wait(), and f() is left to itself. Another user of
    signal.set_wakeup_fd has it back at the end of the block.
    """

    def __enter__(self) -> Signals:
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)
        self._before = signal.set_wakeup_fd(self._there.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.set_wakeup_fd(self._before)
        self._here.close()
        self._there.close()

    def wait(self, f: Callable[[], None]) -> None:
        over = threading.Event()

        def main() -> None:
            try:
                f()
            finally:
                over.set()
                with suppress(OSError):  # full: it is readable; closed: nobody waits any more
                    self._there.send(b"\0")

        poll = select.poll()
        poll.register(self._here, select.POLLIN)
        threading.Thread(target=main, name="dynatask-wait", daemon=True).start()
        while not over.is_set():
            poll.poll()
            with suppress(BlockingIOError):
                self._here.recv(4096)
