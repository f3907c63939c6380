"""The event loop of coroutine handlers with a scripted core: when a frame parks, stays, and goes on."""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from dynatask import _core, _loop
from dynatask._frame import here

from .test_slots import Type


class Core:
    """A seat whose items are given by the test, and children that it completes."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.items: list[tuple[int, int, int, int, int]] | None = []
        self.done: set[int] = set()
        self.committed: list[tuple[int, int]] = []
        self.changed = asyncio.Event()

    def fd(self) -> int:
        return self.reader

    def poll(self, most: int, ms: int) -> Any:
        if self.items is None:
            return None
        items, self.items = self.items, []
        if items:
            os.read(self.reader, 1)
        return items

    def give(self, address: int, event: int) -> None:
        assert self.items is not None
        if not self.items:
            os.write(self.writer, b"x")
        self.items.append((address, 0, event, 0, 1))

    def complete(self, *children: int) -> None:
        self.done.update(children)
        self.give(1, _core.RESUME)

    def leave(self) -> None: ...

    # the crew
    core: Any = None
    types: list[Type] = []

    def commit(self, outcomes: deque[Any]) -> None:
        while outcomes:
            address, what, _ = outcomes.popleft()
            self.committed.append((address, what))
        self.changed.set()

    async def until(self, what: int) -> None:
        async with asyncio.timeout(10) if hasattr(asyncio, "timeout") else _nothing():
            while not self.committed or self.committed[-1][1] != what:
                self.changed.clear()
                await self.changed.wait()


class _nothing:
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *_: Any) -> None: ...


async def child(number: int) -> int:
    """As a handle's await."""
    frame = here("a test")
    while number not in core.done:
        await frame.park_async(((number,), 0, None))  # type: ignore[arg-type]
    return number


core: Core


def scripted(monkeypatch: pytest.MonkeyPatch, fn: Any, script: Callable[[Core], Any]) -> list[int]:
    """Runs the handler as task 1 while the script plays the core; what was committed."""

    async def main() -> list[int]:
        global core
        core = Core()
        monkeypatch.setattr(_loop, "Seat", lambda *_: core)
        monkeypatch.setattr(_core, "arm", lambda task, children, flags, ms: any(c in core.done for c in children))
        monkeypatch.setattr(_core, "child_done", lambda c: c in core.done)
        monkeypatch.setattr(_core, "cancelled", lambda *_: True)
        monkeypatch.setattr(_core, "task_at", lambda address: address)
        monkeypatch.setattr(_core, "read_at", lambda *_: b"\x90")
        kind = Type("f", fn)
        kind.shape = type("shape", (), {"give": staticmethod(lambda v: b""), "unpack": staticmethod(lambda _: ((), {}))})  # type: ignore[assignment, misc]
        core.types = [kind]
        loop = _loop.Loop(core, 8)  # type: ignore[arg-type]
        sitting = asyncio.ensure_future(loop.sit())
        core.give(1, _core.RUN)
        await script(core)
        core.items = None
        os.write(core.writer, b"x")
        await sitting
        return [what for _, what in core.committed]

    return asyncio.run(main())


def test_a_handler_that_is_cancelled_before_its_first_step_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def f() -> None:
        raise AssertionError("it never begins")

    async def script(core: Core) -> None:
        core.give(1, _core.CANCEL)
        while not core.committed:
            core.changed.clear()
            await core.changed.wait()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        scripted(monkeypatch, f, script)
        gc.collect()
    assert [str(w.message) for w in told] == []


def test_an_await_parks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def f() -> None:
        await child(5)

    async def script(core: Core) -> None:
        await core.until(_core.PARK)
        core.complete(5)
        await core.until(_core.DONE)

    assert scripted(monkeypatch, f, script) == [_core.PARK, _core.DONE]


def test_gathered_awaits_park_once_and_again_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    async def f() -> None:
        assert await asyncio.gather(child(5), child(6), asyncio.gather(child(7))) == [5, 6, [7]]

    async def script(core: Core) -> None:
        await core.until(_core.PARK)
        core.complete(6)
        while len(core.committed) < 2:
            core.changed.clear()
            await core.changed.wait()
        core.complete(5, 7)
        await core.until(_core.DONE)

    assert scripted(monkeypatch, f, script) == [_core.PARK, _core.PARK, _core.DONE]


def test_it_stays_while_another_coroutine_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    go = asyncio.Event()

    async def busy() -> None:
        await go.wait()

    async def f() -> None:
        await asyncio.gather(child(5), busy())

    async def script(core: Core) -> None:
        await core.until(_core.STAY)
        go.set()
        await core.until(_core.PARK)
        core.complete(5)
        await core.until(_core.DONE)

    assert scripted(monkeypatch, f, script) == [_core.STAY, _core.PARK, _core.DONE]


def test_a_forgotten_task_that_is_busy_keeps_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    async def f() -> None:
        background = asyncio.create_task(asyncio.Event().wait())
        await child(5)
        background.cancel()

    async def script(core: Core) -> None:
        await core.until(_core.STAY)
        core.complete(5)
        await core.until(_core.DONE)

    assert scripted(monkeypatch, f, script) == [_core.STAY, _core.DONE]


def test_a_park_is_committed_before_the_resume_that_crosses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame stayed, rests now, and its wake comes in the round of the loop in which it parks."""
    go = asyncio.Event()
    committed_at_poll: list[list[int]] = []

    async def f() -> None:
        await asyncio.gather(child(5), go.wait())

    async def script(core: Core) -> None:
        await core.until(_core.STAY)
        note, poll = _loop.Loop.note, core.poll

        def noted(loop: _loop.Loop, address: int, what: int, payload: bytes) -> None:
            if what == _core.PARK:
                loop.loop.call_soon(loop._poll)  # before the flush of what is noted now
                core.complete(5)
            note(loop, address, what, payload)

        def polled(most: int, ms: int) -> Any:
            items = poll(most, ms)
            if items and items[0][2] == _core.RESUME:
                committed_at_poll.append([what for _, what in core.committed])
            return items

        monkeypatch.setattr(_loop.Loop, "note", noted)
        monkeypatch.setattr(core, "poll", polled)
        go.set()
        await core.until(_core.DONE)

    assert scripted(monkeypatch, f, script) == [_core.STAY, _core.PARK, _core.DONE]
    assert committed_at_poll == [[_core.STAY, _core.PARK]]


@pytest.mark.skipif(not hasattr(asyncio, "TaskGroup"), reason="TaskGroup came with Python 3.11")
def test_a_task_group_of_awaits_parks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def f() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child(5))
            group.create_task(child(6))

    async def script(core: Core) -> None:
        await core.until(_core.PARK)
        core.complete(5, 6)
        await core.until(_core.DONE)

    assert scripted(monkeypatch, f, script) == [_core.PARK, _core.DONE]


@pytest.mark.parametrize(("event", "outcome"), [(_core.CANCEL, _core.CANCELLED), (_core.UNWIND, _core.UNWOUND)])
def test_told_to_end(monkeypatch: pytest.MonkeyPatch, event: int, outcome: int) -> None:
    async def f() -> None:
        try:
            await child(5)
        except asyncio.CancelledError:
            with pytest.raises(asyncio.CancelledError):
                await child(6)
            raise

    async def script(core: Core) -> None:
        await core.until(_core.PARK)
        core.give(1, event)
        await core.until(outcome)

    assert scripted(monkeypatch, f, script) == [_core.PARK, outcome]
