"""The crash rounds on Kafka, one short round of the quick faults (docs/guarantees.md). The whole: python tests/crash/kafka_rounds.py."""

import subprocess
import sys
from pathlib import Path

import pytest
from servers.fixtures import need_kafka

ROUNDS = Path(__file__).resolve().parent.parent / "crash" / "kafka_rounds.py"


@pytest.mark.parametrize("fault", ["kill-broker", "records-deleted", "cut-network"])
def test_a_round(fault: str, needs_redis: None) -> None:
    need_kafka()
    command = [sys.executable, str(ROUNDS), "--fault", fault, "--rounds", "1", "--kills", "1", "--tasks", "1000"]
    run = subprocess.run(command, capture_output=True, text=True)
    print(run.stdout, run.stderr)  # the seed, if it fails
    assert run.returncode == 0, run.stdout + run.stderr
