"""The crash rounds on Redis, one short round of each fault (docs/guarantees.md). The whole: python tests/crash/redis_rounds.py (its head says how)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = Path(__file__).resolve().parent.parent / "crash" / "redis_rounds.py"
FAULTS = [
    "kill-always", "kill-everysec", "kill-none", "flush", "failover-stale", "freeze-server", "sleep-server", "full", "library-flushed", "cut-clients",
    "cut-network", "kill-c", "kill-python", "kill-all", "freeze-worker",
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_round(fault: str, needs_redis: None) -> None:
    command = [sys.executable, str(ROUNDS), "--fault", fault, "--rounds", "1", "--kills", "1", "--tasks", "1500"]
    run = subprocess.run(command, capture_output=True, text=True)
    print(run.stdout, run.stderr)  # the seed, if it fails
    assert run.returncode == 0, run.stdout + run.stderr
