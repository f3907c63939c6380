"""The Kafka engine while a server is away for some and not for others. The faults that meet all: tests/crash/kafka_rounds.py."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from servers import Guard, Kafka, Proxy, Redis

from dynatask import App, Job

NewRedis = Callable[..., Redis]
REFRESH = 5.0  # seconds after which a type is looked at again

PROGRAM = """
import sys
from dynatask import App
app = App(sys.argv[1], sys.argv[2], slots=4, lease=2)

@app.task(crashes=100)
def echo(n: int) -> int:
    return n

if __name__ == "__main__":
    with app.worker():
        print("ready", flush=True)
        sys.stdin.read()
"""


@contextmanager
def worker(folder: Path, name: str, url: str) -> Iterator[None]:
    program = folder / "worker.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen([sys.executable, str(program), name, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_starts_are_accepted_while_the_store_is_away(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    redis = new_redis(aof="always")
    app = App("alone", f"kafka://{shared_kafka.address}?store={redis.url}&engine_timeout=1h")

    @app.task
    def echo(n: int) -> int:
        return n

    with app.worker():
        jobs: list[Job[int]] = [echo.start(0)]
        assert jobs[0].result(timeout=30) == 0
    redis.kill()
    over = threading.Event()

    def starts() -> None:
        while not over.is_set():
            jobs.append(echo.start(len(jobs)))
            over.wait(0.05)

    starter = threading.Thread(target=starts, daemon=True)
    starter.start()
    over.wait(REFRESH + 1)
    over.set()
    starter.join(30)
    assert not starter.is_alive(), "a start waits for the store"
    redis.start()
    with app.worker():
        assert [job.result(timeout=30) for job in jobs] == list(range(len(jobs)))


def test_a_worker_that_does_not_reach_the_store_leaves_its_partitions_to_others(
    shared_kafka: Kafka, new_redis: NewRedis, guard: Guard, tmp_path: Path
) -> None:
    redis = new_redis()
    proxy = Proxy(guard, redis.port)

    def url(port: int) -> str:
        return f"kafka://{shared_kafka.address}?store=redis://127.0.0.1:{port}/0&engine_timeout=1h"

    with worker(tmp_path, "lonely", url(proxy.port)), worker(tmp_path, "lonely", url(redis.port)):
        app = App("lonely", url(redis.port))

        @app.extern()
        def echo(n: int) -> int: ...

        assert [job.result(timeout=30) for job in [echo.start(i) for i in range(50)]] == list(range(50))
        proxy.pause()
        jobs = [echo.start(i) for i in range(200)]  # in all partitions
        assert [job.result(timeout=60) for job in jobs] == list(range(200))
