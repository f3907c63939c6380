"""One slot's thread with a scripted core: who runs when, and what is committed."""

from __future__ import annotations

import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from dynatask import Unwind, _core, _slots
from dynatask._frame import here


class Type:
    """As much of a task type as a slot needs."""

    max_payload = 1 << 20
    retry_on = (Exception,)
    is_async = False
    app = SimpleNamespace(traces=None)

    class shape:
        names: list[str] = []
        give = staticmethod(lambda value: str(value).encode())

    def __init__(self, name: str, fn: Any) -> None:
        self.name, self.fn = name, fn


class Seat:
    """Gives the script's items, then says that the worker has stopped."""

    def __init__(self, *_: Any) -> None: ...

    script: list[list[tuple[int, int, int]]] = []

    def poll(self, most: int, ms: int) -> Any:
        if not Seat.script:
            return None
        return [(address, number, event, 0, 1) for address, number, event in Seat.script.pop(0)]

    def leave(self) -> None: ...


class Crew:
    def __init__(self, types: list[Type]) -> None:
        self.types = types
        self.core = None
        self.committed: list[tuple[int, int, bytes]] = []
        self.error: BaseException | None = None
        self.over = threading.Event()

    def commit(self, outcomes: deque[Any]) -> None:
        while outcomes:
            self.committed.append(outcomes.popleft())

    def watch(self) -> None: ...

    def broke(self, error: BaseException) -> None:
        self.error = error

    def left(self) -> None:
        self.over.set()


def run(monkeypatch: pytest.MonkeyPatch, fns: list[Any], script: list[list[tuple[int, int, int]]]) -> list[tuple[int, int, bytes]]:
    monkeypatch.setattr(_slots, "Seat", Seat)
    monkeypatch.setattr(_core, "arm", lambda *_: False)
    monkeypatch.setattr(_core, "cancelled", lambda *_: False)
    monkeypatch.setattr(_core, "task_at", lambda address: address)
    Seat.script = script
    crew = Crew([Type(fn.__name__, fn) for fn in fns])
    slot = _slots.Slot(crew, 0)  # type: ignore[arg-type]
    slot.thread.start()
    assert crew.over.wait(10)
    if crew.error is not None:
        raise crew.error
    return crew.committed


def park() -> None:
    here("a test").park(((), 0, None))


def test_handlers_run_in_order_and_all_outcomes_go(monkeypatch: pytest.MonkeyPatch) -> None:
    count = iter(range(200))

    def f() -> int:
        return next(count)

    items = [[(100 + i, 0, _core.RUN) for i in range(100)], [(200 + i, 0, _core.RUN) for i in range(100)]]
    assert run(monkeypatch, [f], items) == [(100 + i, _core.DONE, str(i).encode()) for i in range(200)]


def test_a_parked_handler_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def f() -> str:
        address = here("a test").address
        park()
        assert here("a test").address == address
        return f"f{address}"

    def g() -> str:
        return "g"

    script = [[(1, 0, _core.RUN), (2, 0, _core.RUN), (3, 1, _core.RUN)], [(2, 0, _core.RESUME), (1, 0, _core.RESUME)]]
    assert run(monkeypatch, [f, g], script) == [
        (1, _core.PARK, b""), (2, _core.PARK, b""), (3, _core.DONE, b"g"), (2, _core.DONE, b"f2"), (1, _core.DONE, b"f1"),
    ]  # fmt: skip


def test_many_parked_handlers_park_again_and_all_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def f() -> int:
        park()
        park()
        return here("a test").address

    n = 500
    everyone = range(1, n + 1)
    script = [[(i, 0, _core.RUN) for i in everyone]]
    script += [[(i, 0, _core.RESUME) for i in reversed(everyone)], [(i, 0, _core.RESUME) for i in everyone]]
    committed = run(monkeypatch, [f], script)
    assert sum(what == _core.PARK for _, what, _ in committed) == 2 * n
    assert sorted(a for a, what, _ in committed if what == _core.DONE) == list(everyone)


@pytest.mark.parametrize("event", [_core.CANCEL, _core.UNWIND])
def test_told_to_end_while_parked(monkeypatch: pytest.MonkeyPatch, event: int) -> None:
    ran: list[str] = []

    def f() -> None:
        try:
            park()
        finally:
            ran.append("finally")

    committed = run(monkeypatch, [f], [[(1, 0, _core.RUN)], [(1, 0, event)]])
    assert ran == ["finally"]
    assert committed[1][1] == (_core.UNWOUND if event == _core.UNWIND else _core.FATAL)


def test_frames_that_are_left_are_unwound(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type[BaseException]] = []

    def f() -> None:
        try:
            park()
        except BaseException as error:
            seen.append(type(error))
            raise

    committed = run(monkeypatch, [f], [[(i, 0, _core.RUN) for i in range(1, 31)]])
    assert seen == [Unwind] * 30
    assert sum(what == _core.UNWOUND for _, what, _ in committed) == 30


def test_an_error_is_an_outcome_and_the_next_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def f() -> None:
        raise KeyError("which")

    committed = run(monkeypatch, [f], [[(1, 0, _core.RUN), (2, 0, _core.RUN)]])
    assert [(a, what) for a, what, _ in committed] == [(1, _core.FAIL), (2, _core.FAIL)]
    assert b"which" in committed[0][2] and b"'which'" not in committed[0][2].split(b"traceback")[0]
