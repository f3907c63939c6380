"""The crash rounds, small. The whole: python tests/crash/rounds.py (its head says how)."""

import subprocess
import sys
from pathlib import Path

ROUNDS = Path(__file__).resolve().parent.parent / "crash" / "rounds.py"


def test_two_rounds() -> None:
    run = subprocess.run(
        [sys.executable, str(ROUNDS), "--rounds", "2", "--tasks", "3000", "--kills", "5"], capture_output=True, text=True
    )
    print(run.stdout, run.stderr)  # the seed, if it fails
    assert run.returncode == 0, run.stdout + run.stderr
