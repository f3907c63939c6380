"""The Kafka engine on a real broker and a real Redis: starts are records, taken in by workers' turns; faults lose and double none."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from servers import Kafka, Redis

from dynatask import App, EngineError, Job, NotFound, TaskCancelled, TaskFailed, TooBig, UsageError

NewRedis = Callable[..., Redis]
NewKafka = Callable[..., Kafka]

PROGRAM = """
import os, sys, time
from dynatask import App
app = App(sys.argv[1], sys.argv[2], slots=4, lease=2)

@app.task(crashes=100)
def leaf(n: int) -> int:
    time.sleep(0.05)  # so that there is a backlog
    while n == 0 and not os.path.exists(sys.argv[3]):  # and one in flight for sure, till all are started
        time.sleep(0.01)
    return n

if __name__ == "__main__":
    with app.worker():
        print("ready", flush=True)
        sys.stdin.read()
"""


def url_of(kafka: Kafka, redis: Redis) -> str:
    return f"kafka://{kafka.address}?store={redis.url}"


def kcat(kafka: Kafka, *arguments: str, text: str = "") -> str:
    run = subprocess.run(["kcat", "-b", kafka.address, *arguments], input=text, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


def touch(app: App) -> None:
    @app.task
    def touch() -> None: ...

    touch.start()


def test_a_type_is_known_as_soon_as_it_was_declared(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    redis = new_redis()
    for i in range(20):  # a broker tells of a new topic a moment after its controller does
        touch(App(f"soon-{i}", url_of(shared_kafka, redis)))


def test_a_job_is_started_taken_in_and_ends(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    redis = new_redis()
    app = App("one", url_of(shared_kafka, redis), slots=4)

    @app.task
    def twice(n: int) -> int:
        return 2 * n

    with app.worker():
        assert twice.start(21).result(timeout=30) == 42
        jobs = [twice.start(i) for i in range(1000)]
        assert [job.result(timeout=60) for job in jobs] == [2 * i for i in range(1000)]


def test_of_starts_that_share_a_wait_one_that_is_refused_is_alone(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    redis = new_redis()
    app = App("many", url_of(shared_kafka, redis) + "&kafka.message.max.bytes=2000", slots=4)

    @app.task
    def size(text: str) -> int:
        return len(text)

    async def ask() -> list[Job[int] | BaseException]:
        return await asyncio.gather(*(size.astart("x" * (5000 if n % 50 == 7 else n)) for n in range(200)), return_exceptions=True)

    jobs = asyncio.run(ask())
    with app.worker():
        for n, job in enumerate(jobs):
            if n % 50 == 7:
                assert isinstance(job, TooBig) and "kafka.message.max.bytes" in str(job)
            else:
                assert isinstance(job, Job) and job.result(timeout=60) == n


def test_a_full_type_is_not_taken_in_for_the_free_slots_of_others(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    url = url_of(shared_kafka, new_redis())
    app = App("full", url, slots=1)
    begun, go = threading.Event(), threading.Event()

    @app.task
    def held(n: int) -> int:
        begun.set()
        go.wait()
        return n

    @app.task
    async def quick(n: int) -> int:
        return n

    with app.worker():
        jobs = [held.start(i) for i in range(200)]
        assert begun.wait(30)
        for i in range(20):  # each is a turn that has room for one, with starts of the other at hand
            assert quick.start(i).result(timeout=30) == i
        there = [job for job in App("full", url).jobs(limit=1000) if job.type == "held"]
        go.set()
        assert [job.result(timeout=60) for job in jobs] == list(range(200))
    assert len(there) <= 4, "a backlog is Kafka's: in the store each job is a lane beside the others"


def test_what_lies_with_a_full_worker_comes_to_one_that_sleeps(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    url = url_of(shared_kafka, new_redis())
    go = threading.Event()
    begun = threading.Barrier(2)

    def member() -> App:
        app = App("sleeps", url, slots=1)

        @app.task(name="held")
        def held(n: int) -> int:
            if n < 0:
                begun.wait(60)
                go.wait()
            return n

        return app

    first, second = member(), member()
    held = first.extern("held")(lambda n: n)
    with first.worker():
        long = held.start(-1)
        with second.worker():
            begun.wait(60)
            jobs = [held.start(i) for i in range(40)]  # over all partitions, those of the full worker too
            assert [job.result(timeout=60) for job in jobs] == list(range(40))
            assert long.info().state == "running"
            go.set()
            assert long.result(timeout=60) == -1


def test_what_is_not_taken_in_is_running_for_its_starter_and_can_be_cancelled(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    url = url_of(shared_kafka, new_redis())
    app = App("early", url, slots=1)

    @app.task
    def echo(n: int) -> int:
        return n

    with app.worker():
        assert echo.start(1).result(timeout=30) == 1
    kept, cancelled = echo.using(id="kept").start(2), echo.using(id="cancelled").start(3)
    info = kept.info()
    assert (info.state, info.counts.added) == ("running", 0)
    with pytest.raises(NotFound):
        App("early", url).read_job("kept")
    cancelled.cancel()
    with app.worker():
        assert kept.result(timeout=30) == 2
        with pytest.raises(TaskCancelled):
            cancelled.result(timeout=30)


def test_an_id_that_another_call_has_is_a_failed_job(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    app = App("twice", url_of(shared_kafka, new_redis()), slots=1)

    @app.task
    def echo(n: int) -> int:
        return n

    with app.worker():
        assert echo.using(id="a").start(1).result(timeout=30) == 1
        echo.using(id="a").start(1)
        echo.using(id="a").start(2)
        assert echo.using(id="last").start(3).result(timeout=30) == 3
        with pytest.raises(TaskFailed, match="another call"):
            echo.job("a!conflict").result(timeout=30)
        assert echo.job("a").result(timeout=30) == 1


def test_records_that_are_none_of_ours_lie_in_quarantine(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    app = App("strange", url_of(shared_kafka, new_redis()), slots=1)

    @app.task
    def echo(n: int) -> int:
        return n

    with app.worker():
        assert echo.start(0).result(timeout=30) == 0
        for value in ("garbage", "\x93\x02\x01\x01", ""):
            for partition in range(4):
                kcat(shared_kafka, "-P", "-t", "strange.echo.intake", "-p", str(partition), text=value + "\n")
        jobs = [echo.start(i) for i in range(50)]
        assert [job.result(timeout=60) for job in jobs] == list(range(50))
    held = kcat(shared_kafka, "-C", "-t", "strange.quarantine", "-o", "beginning", "-e", "-q", "-f", "%o ")
    assert len(held.split()) >= 8


def test_a_start_that_is_refused_is_a_failed_job(shared_kafka: Kafka, new_redis: NewRedis, tmp_path: Path) -> None:
    app = App("refused", url_of(shared_kafka, new_redis()), slots=1)

    @app.task
    def echo(n: int) -> int:
        return n

    def put(key: str, value: bytes) -> None:
        (tmp_path / "record").write_bytes(value)
        kcat(shared_kafka, "-P", "-t", "refused.echo.intake", "-k", key, str(tmp_path / "record"))

    with app.worker():
        assert echo.using(id="first").start(0).result(timeout=30) == 0
        put("newer", b"\x94\x02\xc0\xc0\xc0")
        put("damaged", b"\x93\x01\xa7damaged\x90")
        put("first", b"\x93\x02\xc0\xc0")  # whose id is taken
        put("foreign", b'{"key": "value"}')
        put("not/an\tid", b"\x93\x02\xc0\xc0")
        for key, why in (("newer", "another format than 1: upgrade"), ("damaged", "it is damaged")):
            job = echo.job(key)
            until = time.monotonic() + 30
            while True:
                try:
                    job.info()
                    break
                except NotFound:
                    assert time.monotonic() < until
            with pytest.raises(TaskFailed, match=why) as failed:
                job.result(timeout=30)
            assert failed.value.type == "Refused" and "refused.quarantine" in str(failed.value)
        jobs = [echo.start(i) for i in range(50)]
        assert [job.result(timeout=60) for job in jobs] == list(range(50))
        held = ""
        while held.count(" ") < 5:
            held = kcat(shared_kafka, "-C", "-t", "refused.quarantine", "-o", "beginning", "-e", "-q", "-f", "%o ")
        assert echo.job("first").result(timeout=30) == 0
        with pytest.raises(NotFound):
            echo.job("foreign").info()


def test_bad_settings_are_named(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    redis = new_redis()
    with pytest.raises(UsageError, match="no.such.option"):
        touch(App("bad", f"kafka://127.0.0.1:1?store={redis.url}&kafka.no.such.option=1"))
    with pytest.raises(UsageError, match="store"):
        touch(App("bad", f"kafka://{shared_kafka.address}"))
    with pytest.raises(EngineError, match="127.0.0.1:1"):
        touch(App("bad", f"kafka://127.0.0.1:1?store={redis.url}&engine_timeout=2"))


# ---- faults: of 1,000 jobs none is lost, each ends once -------------------------------------------------

JOBS = 1000


class Fleet:
    """Two worker processes, and jobs started while they run."""

    def __init__(self, folder: Path, url: str) -> None:
        self.program, self.gate, self.url = folder / "fleet.py", folder / "gate", url
        self.program.write_text(PROGRAM)
        self.workers = [self.worker(), self.worker()]

    def worker(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(self.program), "fleet", self.url, str(self.gate)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline() == "ready\n"
        return process

    def kill(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()

    def close(self) -> None:
        for process in self.workers:
            self.kill(process)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    def body(url: str, fault: Callable[[Fleet], None]) -> None:
        fleet = Fleet(tmp_path, url)
        try:
            app = App("fleet", url)

            @app.extern()
            def leaf(n: int) -> int: ...

            ended: list[int] = []
            jobs = []
            for i in range(JOBS):
                jobs.append(leaf.using(id=f"job-{i}").start(i))
                if i in (300, 600):
                    fault(fleet)
            fleet.gate.touch()
            for i, job in enumerate(jobs):
                assert job.result(timeout=90) == i
                ended.append(i)
                counts = job.info().counts
                assert counts.added == counts.succeeded == 1
            assert len(ended) == JOBS
        finally:
            fleet.close()

    return body


def test_a_worker_is_killed(shared_kafka: Kafka, new_redis: NewRedis, run: Callable[..., None]) -> None:
    def fault(fleet: Fleet) -> None:
        fleet.kill(fleet.workers[0])
        fleet.workers[0] = fleet.worker()

    run(url_of(shared_kafka, new_redis()), fault)


def test_the_broker_is_killed(new_kafka: NewKafka, new_redis: NewRedis, run: Callable[..., None]) -> None:
    kafka = new_kafka()

    def fault(fleet: Fleet) -> None:
        kafka.kill()
        kafka.start()

    run(url_of(kafka, new_redis()), fault)


@pytest.mark.parametrize("aof", ["always", "everysec", "none"])
def test_the_store_is_killed(new_kafka: NewKafka, new_redis: NewRedis, run: Callable[..., None], aof: Literal["always", "everysec", "none"]) -> None:
    """none: it comes back empty, and all is read again from Kafka."""
    kafka, redis = new_kafka(), new_redis(aof=aof)

    def fault(fleet: Fleet) -> None:
        redis.kill()
        redis.start()

    run(url_of(kafka, redis), fault)


def test_watch_waits_until_a_job_is_taken_in(shared_kafka: Kafka, shared_redis: Redis) -> None:
    url = url_of(shared_kafka, shared_redis)
    app = App("watched", url)

    @app.task
    def echo(n: int) -> int:
        return n

    with app.worker():
        assert echo.start(1).result(timeout=30) == 1  # its topic is there
    job = echo.start(2)
    watch = [sys.executable, "-m", "dynatask", "watch", job.id, "-a", "watched", "--url", url]
    none = subprocess.run([*watch, "--timeout", "0"], capture_output=True, text=True)
    assert none.returncode == 3 and "lies in Kafka until a worker of its type comes" in none.stderr
    watching = subprocess.Popen(watch, stdout=subprocess.PIPE, text=True)
    with app.worker():
        assert watching.communicate(timeout=60)[0].splitlines()[0].startswith(f"{job.id} echo")
    assert watching.returncode == 0


def test_who_waits_for_a_start_that_was_deleted_hears_of_it(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    """No worker reads, nor does a later start lie behind it."""
    app = App("deleted", url_of(shared_kafka, new_redis()), slots=1)

    @app.task
    def echo(n: int) -> int:
        return n

    with app.worker():
        assert echo.start(1).result(timeout=30) == 1
    job = echo.start(2)
    assert job.info().state == "running"
    for partition in shared_kafka.metadata().topics["deleted.echo.intake"]:
        shared_kafka.delete_records("deleted.echo.intake", partition)
    with pytest.raises(NotFound):
        job.result(timeout=60)
