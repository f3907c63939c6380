"""The crash rounds, small. The whole: python tests/crash/rounds.py (its head says how)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = Path(__file__).resolve().parent.parent / "crash" / "rounds.py"


def test_two_rounds() -> None:
    run = subprocess.run(
        [sys.executable, str(ROUNDS), "--rounds", "2", "--tasks", "3000", "--kills", "5"], capture_output=True, text=True
    )
    print(run.stdout, run.stderr)  # the seed, if it fails
    assert run.returncode == 0, run.stdout + run.stderr


VENV = ROUNDS.parents[2] / ".venv"


@pytest.mark.skipif(not VENV.exists(), reason="this checkout has no .venv")
def test_it_finds_the_package_itself() -> None:
    python = getattr(sys, "_base_executable", sys.executable)  # one that has no dynatask
    command = [python, str(ROUNDS), "--rounds", "1", "--tasks", "500", "--kills", "1"]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": "/usr/bin:/bin"})
    print(run.stdout, run.stderr)
    assert run.returncode == 0, run.stdout + run.stderr
