"""A job's tree of tasks, siblings of one type merged into one line.

Follows a live job at a bounded cost: what is kept of a task is its state and
its line, and a look reads only tasks that are new or had not ended, at most
`BUDGET` of each. So a line may be some looks behind while a job has more live
tasks than that; the job's own counts are exact at every read, and `finish`
reads the rest.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

STATES = ("blocked", "scheduled", "ready", "running", "parked", "closing", "succeeded", "failed", "cancelled", "skipped")
ENDED = STATES.index("succeeded")  # from here on: terminal
PAGE = 1024
BUDGET = 4 * PAGE
ERRORS = 5  # different ones that a line keeps


class Row(NamedTuple):
    """What is read of one task. Times in microseconds, 0: not yet; error: its class's name."""

    ord: int
    parent: int
    type: str
    state: int
    begun: int
    ended: int
    claims: int
    tries: int
    lost: int
    error: str


Reader = Callable[[Sequence[int]], Sequence[Row]]
"""Rows of these ordinals; those that are not kept are left out."""


class Times:
    """Durations in buckets 9 % wide, for percentiles without keeping each."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.n = 0

    def add(self, us: int) -> None:
        self._buckets[int(math.log2(max(us, 1)) * 8)] += 1
        self.n += 1

    def percentile(self, p: float) -> float:
        """Seconds; 0.0 if there are none."""
        left = math.ceil(self.n * p)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return 2 ** ((bucket + 0.5) / 8) / 1e6
        return 0.0


@dataclass
class Line:
    """Tasks of one type whose parents share a line."""

    type: str
    above: Line | None
    depth: int
    place: int
    counts: list[int] = field(default_factory=lambda: [0] * len(STATES))
    times: Times = field(default_factory=Times)
    errors: Counter[str] = field(default_factory=Counter[str])
    lost: int = 0
    since: int = 0  # when its last seen live task began
    below: dict[str, Line] = field(default_factory=dict[str, "Line"])

    @property
    def added(self) -> int:
        return sum(self.counts)

    def named(self) -> dict[str, int]:
        """State to count, without zeros, in the order of life."""
        return {name: n for name, n in zip(STATES, self.counts, strict=True) if n}


class Merged:
    def __init__(self, depth: int = 4) -> None:
        self._depth = depth  # below it a recursive type joins its own line further up
        self._lines: list[Line] = []
        self._line_of = array("H")  # by ordinal
        self._state_of = bytearray()
        self._lost_of: dict[int, int] = {}
        self._again_of: dict[int, int] = {}
        self._live: deque[int] = deque()
        self.lost = 0  # attempts that ended with their worker
        self.again = 0  # claims beyond a task's first: also of what a dead worker had not begun, or had parked

    @property
    def root(self) -> Line | None:
        return self._lines[0] if self._lines else None

    def look(self, read: Reader, added: int) -> None:
        """Brings it nearer to the job, which has `added` tasks."""
        self._again(read, BUDGET)
        self._new(read, added, BUDGET)

    def finish(self, read: Reader, added: int) -> None:
        """All of it, as it is now."""
        self._again(read, len(self._live))
        self._new(read, added, added)

    def _again(self, read: Reader, budget: int) -> None:
        """Those that had not ended, the longest not looked at first."""
        left = min(budget, len(self._live))
        while left > 0:
            page = [self._live.popleft() for _ in range(min(PAGE, left))]
            left -= len(page)
            self._take(page, read(page))

    def _new(self, read: Reader, added: int, budget: int) -> None:
        end = min(added, len(self._state_of) + budget)
        while len(self._state_of) < end:
            page = range(len(self._state_of), min(len(self._state_of) + PAGE, end))
            self._take(page, read(page))

    def _take(self, ords: Sequence[int], rows: Sequence[Row]) -> None:
        found = {row.ord: row for row in rows}
        for ord in ords:
            row = found.get(ord)
            if ord == len(self._state_of):
                self._add(ord, row)
            elif row is not None:
                self._move(row)
            else:  # history=counts: only good ends are not kept
                self._count(ord, ENDED)

    def _add(self, ord: int, row: Row | None) -> None:
        line = self._line(row) if row is not None else None
        self._line_of.append(line.place if line is not None else 0xFFFF)
        self._state_of.append(row.state if row is not None else ENDED)
        if row is None or line is None:
            return
        line.counts[row.state] += 1
        self._seen(line, row)

    def _move(self, row: Row) -> None:
        self._seen(self._count(row.ord, row.state), row)

    def _count(self, ord: int, state: int) -> Line:
        line = self._lines[self._line_of[ord]]
        line.counts[self._state_of[ord]] -= 1
        line.counts[state] += 1
        self._state_of[ord] = state
        return line

    def _seen(self, line: Line, row: Row) -> None:
        if row.lost:
            more = row.lost - self._lost_of.get(row.ord, 0)
            self._lost_of[row.ord] = row.lost
            line.lost += more
            self.lost += more
        if row.claims > 1:
            self.again += row.claims - 1 - self._again_of.get(row.ord, 0)
            self._again_of[row.ord] = row.claims - 1
        if row.state < ENDED:
            line.since = row.begun
            self._live.append(row.ord)
            return
        if row.begun and row.ended:
            line.times.add(row.ended - row.begun)
        if row.error and (row.error in line.errors or len(line.errors) < ERRORS):
            line.errors[row.error] += 1

    def _line(self, row: Row) -> Line | None:
        """The line of a task that is new; None: its parent is not kept, or there are more lines than can be shown."""
        above = None
        if row.ord:
            place = self._line_of[row.parent]
            if place == 0xFFFF:
                return None
            above = self._lines[place]
        if above is not None and above.depth >= self._depth:
            fold: Line | None = above
            while fold is not None and fold.type != row.type:
                fold = fold.above
            if fold is not None:
                return fold
        line = above.below.get(row.type) if above is not None else None
        if line is None:
            if len(self._lines) == 0xFFFF:
                return None
            line = Line(row.type, above, above.depth + 1 if above is not None else 0, len(self._lines))
            self._lines.append(line)
            if above is not None:
                above.below[row.type] = line
        return line
