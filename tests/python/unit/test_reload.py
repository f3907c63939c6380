"""`dynatask worker --reload`, without a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest
from dynatask.cli import reload


def test_a_worker_that_ended_by_itself_is_not_looked_after_without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, pauses = 0, 0

    def state(plugins: Sequence[str]) -> dict[str, int]:
        nonlocal looks
        looks += 1
        assert looks <= pauses + 2, "it spins"
        return {}

    def start(words: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])

    def sleep(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(reload, "state", state)
    monkeypatch.setattr(reload, "start", start)
    monkeypatch.setattr(reload, "sleep", sleep)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert reload.run(["worker"], []) == 3
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert pauses == 3
