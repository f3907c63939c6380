"""The other release of Kafka: in each run a little of everything, all of it with DTASK_KAFKA_VERSION."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from servers import Kafka, Redis
from servers.kit import VERSION, VERSIONS

from dynatask import App

OTHER = next(version for version in VERSIONS if version != VERSION)


def test_the_other_release_serves(new_kafka: Callable[..., Kafka], new_redis: Callable[..., Redis], tmp_path: Path) -> None:
    kafka = new_kafka(OTHER)
    url = f"kafka://{kafka.address}?store={new_redis().url}&partitions=2&done=on"
    app = App("second", url, slots=2)

    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def tree(n: int) -> int:
        return sum(child.result() for child in [leaf.spawn(i) for i in range(n)])

    early = [tree.using(id=f"early-{n}") for n in range(20)]
    with app.worker():
        assert [job.result(timeout=60) for job in [start.start(n) for n, start in enumerate(early)]] == [n * (n - 1) // 2 for n in range(20)]
    waits = tree.using(id="waits").start(3)  # lies in Kafka, for no worker runs
    with app.worker():
        assert waits.result(timeout=60) == 3
    keys: set[str] = set()
    until = time.monotonic() + 60
    while not keys >= {"waits", *(f"early-{n}" for n in range(20))}:
        assert time.monotonic() < until, keys
        command = ["kcat", "-b", kafka.address, "-C", "-t", "second.done", "-o", "beginning", "-e", "-q", "-f", "%k\n"]
        keys = set(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split())
    (tmp_path / "app.py").write_text("from dynatask import App\n\napp = App('second')\n")
    env = os.environ | {"DYNATASK_URL": url, "DYNATASK_APP": "app.py"}
    run = subprocess.run([sys.executable, "-m", "dynatask", "doctor"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0 and f"{kafka.address} answers, brokers: 1" in " ".join(run.stdout.split()), run
