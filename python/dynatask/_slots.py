"""Plain handlers: a thread is a slot, a handler that waits is a parked greenlet.

Each thread runs one loop: take an item, run it, note the outcome. The loop
itself runs in a greenlet, a *runner*. A handler that waits gives the thread to
another runner, which goes on with the loop; when what it waited for is there,
the runner of that moment switches back to it. So a handler that never waits
costs no greenlet, and one that waits costs a stack of kilobytes.

Outcomes are gathered and committed together: when the batch is done, when the
first of them is a millisecond old, or, while a handler runs long, by the
watch of `Crew`, from another thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent, greenlet

from . import _core, errors
from ._core import CANCEL, PARK, RESUME, RUN, TIMEOUT, UNWIND, Item, Outcome, Seat
from ._frame import Frame, Wait, enter, milliseconds

if TYPE_CHECKING:
    from ._crew import Crew
    from ._types import TypeCore

BATCH_MAX = 64  # items of one poll, outcomes of one commit
_AHEAD = 0.01  # a thread takes no more than it thinks to run in so many seconds
_OLD = 0.001  # an outcome waits no longer for company
_POLL_MS = 60_000
_SPARE_MAX = 8  # idle runners that are kept


class PlainFrame(Frame):
    """A plain handler on its thread."""

    __slots__ = ("runner", "slot")

    def __init__(self, type: TypeCore, address: int, thread: int, slot: Slot) -> None:
        super().__init__(type, address, thread)
        self.slot = slot
        self.runner: Any = None

    def park(self, wait: Wait) -> None:
        children, flags, deadline = wait
        if self.unwinding:
            raise errors.Unwind("the frame is being dropped")
        if _core.cancelled(self.task):
            raise errors.Cancelled(f"a task of {self.type.name} was asked to end")
        if _core.arm(self.task, children, flags, milliseconds(deadline)):
            return
        event = self.slot.switch_away(self)
        if event == CANCEL:
            raise errors.Cancelled(f"a task of {self.type.name} was asked to end")
        if event == UNWIND:
            self.unwinding = True
            raise errors.Unwind("the frame is dropped; the handler runs again when what it waits for is there")


class Slot:
    """One thread that runs plain handlers."""

    def __init__(self, crew: Crew, number: int) -> None:
        self._crew = crew
        self._types = crew.types
        self._frames: dict[int, PlainFrame] = {}  # parked, by task
        self._items: Iterator[Item] = iter(())
        self._spare: list[Any] = []
        self._closed = False
        self._most = 1  # of the next poll
        self.outcomes: deque[Outcome] = deque()
        self.thread = threading.Thread(target=self._main, name=f"dynatask-slot-{number}", daemon=True)

    def flush(self) -> None:
        """Commits what is noted. From any thread."""
        self._crew.commit(self.outcomes)

    # ---- the thread ------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._take_seat(BATCH_MAX)
            self._root: Any = getcurrent()
            while not self._closed:  # each time that a runner is wanted, and at the end
                greenlet(self._run, self._root).switch()
            self._unwind_all()
            self.flush()
            self._seat.leave()
        except BaseException as error:
            self._crew.broke(error)
        finally:
            self._forget_root()
            self._crew.left()

    def _forget_root(self) -> None:
        """greenlet looks, when a thread has ended, for who still refers to its root, by an import and gc.get_referrers in
        whatever frame some thread is in (~ThreadState in its TThreadState.hpp), and takes a reference away where it finds
        none. A collection in progress hides us: then we would refer to what was freed.
        """
        self._root = None

    def _take_seat(self, batch: int) -> None:
        self._seat = Seat(self._crew.core, _core.THREAD, 1, batch)
        self._ident = get_ident()

    def _unwind_all(self) -> None:
        """At the end: frames that are still parked are dropped, and their `finally` runs."""
        self._closed = True
        while self._frames:
            _, frame = self._frames.popitem()
            frame.runner.parent = self._root
            frame.runner.switch(UNWIND)
        while self._spare:
            self._spare.pop().throw()

    # ---- runners -----------------------------------------------------------------------

    def switch_away(self, frame: PlainFrame) -> int:
        """Gives the thread to another runner until the frame is to go on; returns the event that it goes on by."""
        frame.runner = getcurrent()
        self._frames[frame.address] = frame
        self._note(frame.address, PARK, b"")
        # A new runner is begun by the root: begun here it would have this handler's recursion depth.
        runner = self._spare.pop() if self._spare else self._root
        return runner.switch()

    def _hand_over(self, frame: PlainFrame, event: int) -> bool:
        """Goes on with a parked frame. Returns when this runner has the thread again; False: it is to end."""
        me: Any = getcurrent()
        if len(self._spare) < _SPARE_MAX:
            self._spare.append(me)
            frame.runner.switch(event)
            return True
        me.parent = frame.runner  # ends, and that goes on with what _run returns
        return False

    def _run(self, *_: object) -> int:
        """A runner: the loop. Returns what its parent is to get."""
        now = time.perf_counter
        ran, began = 0, now()
        while not self._closed:
            item = next(self._items, None)
            if item is None:
                if ran:
                    mean = (now() - began) / ran
                    self._most = max(1, min(BATCH_MAX, int(_AHEAD / mean), self._most * 2))
                self.flush()
                taken = self._next()
                if taken is None:
                    self._closed = True
                    break
                if not taken and self._gave_up():
                    break
                self._items = iter(taken)
                ran, began = 0, now()
                continue
            address, number, event, data, size = item
            if event == RUN:
                self._handle(address, number, data, size)
                ran += 1
            elif event != TIMEOUT:  # which tells of a handler that has ended by now
                frame = self._frames.pop(address, None)
                if frame is not None and not self._hand_over(frame, event):
                    return event
                ran, began = 0, now()
        return RESUME

    # What a slot differs in that has no thread of its own (_inline.py).

    def _next(self) -> list[Item] | None:
        """The next items; None: the worker has stopped."""
        return self._seat.poll(self._most, _POLL_MS)

    def _gave_up(self) -> bool:
        """Nothing came: whether the runner ends."""
        return False

    def _failed(self, frame: Frame, error: BaseException) -> tuple[int, bytes]:
        """The outcome of a handler that raised."""
        return frame.raised(error)

    def _handle(self, address: int, number: int, data: int, size: int) -> None:
        core = self._types[number]
        frame = PlainFrame(core, address, self._ident, self)
        enter(frame)
        try:
            if size == 1 and not core.shape.names:
                value = core.fn()
            else:
                args, kwargs = core.shape.unpack(_core.read_at(data, size))
                value = core.fn(*args, **kwargs)
            what, payload = frame.returned(value)
        except BaseException as error:
            what, payload = self._failed(frame, error)
        frame.alive = False
        enter(None)
        self._note(address, what, payload)

    def _note(self, address: int, what: int, payload: bytes) -> None:
        outcomes = self.outcomes
        if not outcomes:
            self._since = time.perf_counter()
            outcomes.append((address, what, payload))
            self._crew.watch()
        else:
            outcomes.append((address, what, payload))
            if len(outcomes) >= BATCH_MAX or time.perf_counter() - self._since > _OLD:
                self.flush()
