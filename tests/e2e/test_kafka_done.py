"""The `done` topic of the Kafka engine: each job that ends is in it, whatever is killed between its end and its record."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from servers import Kafka, Redis

from dynatask import App, TaskCancelled

NewRedis = Callable[..., Redis]
NewKafka = Callable[..., Kafka]

PROGRAM = """
import fcntl, sys
from dynatask import App
app = App(sys.argv[1], sys.argv[2], slots=8, lease=2)

@app.task(crashes=100)
def gated(n: int, begun: str, gate: str) -> int:
    with open(begun, "a") as f:
        f.write(f"{n}\\n")
    with open(gate) as f:
        fcntl.flock(f, fcntl.LOCK_SH)
    return n

@app.task(crashes=100)
def echo(n: int) -> int:
    return n

if __name__ == "__main__":
    with app.worker():
        print("ready", flush=True)
        sys.stdin.read()
"""


def url_of(kafka: Kafka, redis: Redis, done: str = "on") -> str:
    return f"kafka://{kafka.address}?store={redis.url}&partitions=2" + (f"&done={done}" if done else "")


def records(kafka: Kafka, topic: str) -> list[tuple[str, dict[str, Any]]]:
    """Keys and values of all that lies in a topic now."""
    run = subprocess.run(
        ["kcat", "-b", kafka.address, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%R%s%k\n"], capture_output=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    out, at = [], 0
    while at < len(run.stdout):
        n = int.from_bytes(run.stdout[at : at + 4], "big")
        end = run.stdout.index(b"\n", at + 4 + n)
        out.append((run.stdout[at + 4 + n : end].decode(), msgspec.msgpack.decode(run.stdout[at + 4 : at + 4 + n])))
        at = end + 1
    return out


def told(kafka: Kafka, topic: str, ids: set[str]) -> list[tuple[str, dict[str, Any]]]:
    """What is in the topic once these ids are."""
    until = time.monotonic() + 60
    while True:
        out = records(kafka, topic)
        missing = ids - {key for key, _ in out}
        if not missing:
            return out
        assert time.monotonic() < until, f"{len(missing)} are not in the topic, of {len(ids)}: {sorted(missing)[:5]}"


class Workers:
    def __init__(self, folder: Path) -> None:
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM)
        self.running: list[subprocess.Popen[str]] = []

    def start(self, app: str, url: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, str(self.program), app, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.running.append(process)
        assert process.stdout and process.stdout.readline() == "ready\n"
        return process

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(tmp_path)
    yield workers
    workers.close()


def test_each_kind_of_end_is_told(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    app = App("ends", url_of(shared_kafka, new_redis()), slots=4)

    @app.task
    def echo(text: str | None) -> str | None:
        return text

    @app.task
    def wrong(text: str) -> None:
        raise ValueError(text)

    @app.task
    def parent() -> str:
        wrong.spawn("of a child")
        return "done"

    with app.worker():
        jobs = {
            "small": echo.using(id="small").start("x"),
            "none": echo.using(id="none").start(None),
            "large": echo.using(id="large").start("y" * 5000),
            "wrong": wrong.using(id="wrong").start("z" * 2000 + "ü" * 2000),
            "parent": parent.using(id="parent").start(),
        }
        for job in jobs.values():
            job.wait(timeout=30)
        echo.using(id="small").start("another")
    early = echo.using(id="early").start("never runs")
    early.cancel()
    with app.worker():
        with pytest.raises(TaskCancelled):
            early.result(timeout=30)
        assert echo.using(id="again").start("q").result(timeout=30) == "q"
        found = dict(told(shared_kafka, "ends.done", {*jobs, "early", "again", "small!conflict"}))
    for key, end in found.items():
        assert end["id"] == key and end["format"] == 1
        assert end["created"] <= end["ended"]
    assert (found["small"]["state"], found["small"]["type"], found["small"]["result"]) == ("succeeded", "echo", "x")
    assert found["none"]["result"] is None
    assert "result" not in found["large"] and found["large"]["result_bytes"] > 5000
    error = found["wrong"]["error"]
    assert (found["wrong"]["state"], error["type"]) == ("failed", "ValueError")
    assert error["message"].startswith("z") and len(error["message"].encode()) <= 1000
    assert (found["parent"]["state"], found["parent"]["reason"], found["parent"]["tasks"]) == ("failed", "children", 2)
    assert found["early"]["state"] == "cancelled" and "error" not in found["early"]
    assert found["small!conflict"]["error"]["type"] == "Conflict"


def test_none_is_kept_unless_it_was_asked_for(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    redis = new_redis()
    app = App("unasked", url_of(shared_kafka, redis, done=""), slots=2)

    @app.task
    def echo(n: int) -> int:
        return n

    with app.worker():
        assert echo.start(1).result(timeout=30) == 1
    assert "unasked.done" not in shared_kafka.metadata().topics
    assert not [key for key in redis("KEYS", "*") if key.endswith(b":done")]
    on, off = (App("unasked", url_of(shared_kafka, redis, done=done), slots=2) for done in ("on", "off"))
    for app, key in ((on, "told"), (off, "untold")):

        @app.task(name="echo")
        def again(n: int) -> int:
            return n

        with app.worker():
            assert again.using(id=key).start(1).result(timeout=30) == 1
    assert [key for key, _ in told(shared_kafka, "unasked.done", {"told"})] == ["told"]


def test_who_was_there_before_it_was_asked_for_tells_ends(shared_kafka: Kafka, new_redis: NewRedis, workers: Workers) -> None:
    """No worker says hello after the first client that asks."""
    redis = new_redis()
    workers.start("before", url_of(shared_kafka, redis, done=""))
    app = App("before", url_of(shared_kafka, redis))

    @app.task
    def echo(n: int) -> int:
        return n

    assert echo.using(id="first").start(1).result(timeout=30) == 1
    assert echo.using(id="second").start(2).result(timeout=30) == 2
    told(shared_kafka, "before.done", {"first", "second"})


@pytest.mark.parametrize("killed", [True, False], ids=["worker-killed", "worker-stays"])
def test_ends_wait_for_the_broker(new_kafka: NewKafka, new_redis: NewRedis, workers: Workers, tmp_path: Path, killed: bool) -> None:
    """Jobs end while the broker is dead, so that no end can be told; then their worker is killed too, or stays."""
    kafka, redis = new_kafka(), new_redis()
    url = url_of(kafka, redis)
    worker = workers.start("gate", url)
    app = App("gate", url)

    @app.extern()
    def gated(n: int, begun: str, gate: str) -> int: ...

    begun, gate = tmp_path / "begun", tmp_path / "gate"
    begun.touch()
    shut = gate.open("w")
    fcntl.flock(shut, fcntl.LOCK_EX)
    jobs = [gated.using(id=f"job-{i}").start(i, str(begun), str(gate)) for i in range(8)]
    until = time.monotonic() + 60
    while len(begun.read_text().splitlines()) < 8:
        assert time.monotonic() < until
    kafka.kill()
    shut.close()
    for i, job in enumerate(jobs):
        assert job.result(timeout=60) == i
    if killed:
        worker.kill()
        worker.wait()
    kafka.start()
    if killed:
        assert records(kafka, "gate.done") == []
        workers.start("gate", url)
    ids = {job.id for job in jobs}
    assert {key for key, _ in told(kafka, "gate.done", ids)} == ids


def test_workers_are_killed_at_any_time(shared_kafka: Kafka, new_redis: NewRedis, workers: Workers) -> None:
    redis = new_redis()
    url = url_of(shared_kafka, redis)
    running = [workers.start("killed", url) for _ in range(2)]
    app = App("killed", url)

    @app.extern()
    def echo(n: int) -> int: ...

    jobs = []
    for i in range(2000):
        jobs.append(echo.using(id=f"job-{i}").start(i))
        if i % 300 == 299:
            running[0].kill()
            running[0].wait()
            running = [running[1], workers.start("killed", url)]
    for i, job in enumerate(jobs):
        assert job.result(timeout=90) == i
    ids = {job.id for job in jobs}
    found = told(shared_kafka, "killed.done", ids)
    assert {key for key, _ in found} == ids
    assert {end["state"] for _, end in found} == {"succeeded"}


def test_a_worker_that_ends_tells_all_first(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    app = App("leaves", url_of(shared_kafka, new_redis()), slots=4)

    @app.task
    def echo(n: int) -> int:
        return n

    with app.worker():
        jobs = [echo.start(i) for i in range(1000)]
        assert [job.result(timeout=60) for job in jobs] == list(range(1000))
    found = records(shared_kafka, "leaves.done")
    assert sorted(key for key, _ in found) == sorted(job.id for job in jobs)  # each once, where nothing fails


def test_too_many_that_wait_hold_up_new_tasks(new_kafka: NewKafka, new_redis: NewRedis) -> None:
    """65,536 ends wait, and the broker is away: nothing new begins until it is back."""
    kafka, redis = new_kafka(), new_redis()
    app = App("full", url_of(kafka, redis), slots=2, lease=4)
    key = "{full.0}:done"

    @app.task(unique=True)  # so that a start goes past Kafka, to the store
    def waiting() -> int:
        first, next_ = redis("HMGET", key, "first", "next")
        return int(next_ or 1) - int(first or 1)

    with app.worker():
        assert waiting.start().result(timeout=30) < 65536
    first = int(redis("HGET", key, "next"))
    ids = {f"old-{i}" for i in range(65536)}
    for at in range(0, 65536, 4096):
        held = [(b"%d" % (first + i), msgspec.msgpack.encode({"id": f"old-{i}", "format": 1})) for i in range(at, at + 4096)]
        redis("HSET", key, *(x for pair in held for x in pair))
    redis("HSET", key, "next", str(first + 65536))

    def turned(n: int) -> None:  # each turn of who has the first of them says anew until when
        for _ in range(n):
            was, until = redis("HGET", key, "until"), time.monotonic() + 60
            while redis("HGET", key, "until") == was:
                assert time.monotonic() < until
                time.sleep(0.01)

    kafka.pause()
    with app.worker():
        try:
            turned(2)
            job = waiting.start()
            turned(3)
            assert job.info().counts.claimed == 0
        finally:
            kafka.resume()
        assert job.result(timeout=60) < 65536
    assert {key for key, _ in told(kafka, "full.done", ids)} >= ids
