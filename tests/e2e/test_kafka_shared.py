"""Rare types share a topic of Kafka (the option `shared`): whoever serves one of them takes in the starts of all, and holds up none."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import Kafka, Redis
from test_kafka_bad import doctor, ends, put, url_of

from dynatask import App, BadArguments, TaskCancelled, TaskFailed

NewRedis = Callable[..., Redis]


def member(name: str, url: str, go: threading.Event | None = None, begun: threading.Event | None = None) -> App:
    """a waits for `go`, where there is one; b and c do not."""
    app = App(name, url, slots=1)

    @app.task(name="a")
    def a(n: int) -> int:
        if begun and go:
            begun.set()
            go.wait()
        return n

    for kind in ("b", "c"):

        @app.task(name=kind)
        def _(n: int) -> int:
            return 10 * n

    return app


def keys(kafka: Kafka, topic: str) -> set[str]:
    command = ["kcat", "-b", kafka.address, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%k\n"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines())


def test_types_share_a_topic_and_each_goes_to_who_serves_it(shared_kafka: Kafka, new_redis: NewRedis, tmp_path: Path) -> None:
    url = url_of(shared_kafka, new_redis(), shared="a,b")
    app, other = member("share", url), member("share", url)
    with app.worker(types=["a"]), other.worker(types=["b", "c"]):
        starter = member("share", url)
        jobs = [starter.types[kind].start(n) for n in range(100) for kind in ("a", "b", "c")]
        assert [job.result(timeout=60) for job in jobs] == [value for n in range(100) for value in (n, 10 * n, 10 * n)]
    assert ends(shared_kafka, "share.shared") == 200
    topics = {topic for topic in shared_kafka.metadata().topics if topic.startswith("share.")}
    assert topics == {"share.shared", "share.c.intake", "share.dynatask-2emap.intake", "share.quarantine"}
    code, checks = doctor(tmp_path, "share", url)
    assert code == 0 and "topics" not in checks, checks  # it misses none, of `a` or `b` neither


def test_a_worker_whose_slots_are_full_takes_in_what_others_serve(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    """One partition, so that one worker reads all of it: the one that is busy."""
    url = url_of(shared_kafka, new_redis(), shared="a,b", partitions="1")
    go, begun = threading.Event(), threading.Event()
    busy = member("busy", url, go, begun)
    with busy.worker(types=["a"]):
        held = [member("busy", url).types["a"].start(n) for n in range(3)]
        assert begun.wait(30)
        # The second worker serves b alone and joins the group; whichever has the partition, nobody waits for `a`.
        with member("busy", url).worker(types=["b"]):
            assert [member("busy", url).types["b"].start(n).result(timeout=60) for n in range(20)] == [10 * n for n in range(20)]
        late = [member("busy", url).types["b"].start(n) for n in range(20)]
        until = time.monotonic() + 60  # the busy one has it alone now
        while len([job for job in busy.jobs(limit=100) if job.type == "b"]) < 40:
            assert time.monotonic() < until
        go.set()
        assert [job.result(timeout=60) for job in held] == [0, 1, 2]
    with member("busy", url).worker(types=["b"]):
        assert [job.result(timeout=60) for job in late] == [10 * n for n in range(20)]


def test_what_lies_there_can_be_read_of_and_cancelled(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    url = url_of(shared_kafka, new_redis(), shared="a,b")
    with member("lies", url).worker():
        pass  # who makes the topics
    app = member("lies", url)
    job, kept = app.types["a"].start(1), app.types["b"].start(2)
    assert job.info().state == "running" and job.info().type == "a"
    job.cancel()
    with app.worker():
        with pytest.raises(TaskCancelled):
            job.result(timeout=60)
        assert kept.result(timeout=60) == 20


def test_what_a_store_has_lost_is_read_again_though_nobody_serves_it(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    """The store knows neither the type nor its worker any more: its starts hold up nobody, and wait for one."""
    redis = new_redis()
    url = url_of(shared_kafka, redis, shared="a,b", partitions="1")
    starter = member("lost", url)
    with member("lost", url).worker(types=["b"]):
        assert starter.types["b"].start(1).result(timeout=60) == 10
    app = member("lost", url)
    with app.worker(types=["a"]):
        waits = starter.types["b"].start(2)
        assert starter.types["a"].start(3).result(timeout=60) == 3
        redis("FLUSHALL")
        assert starter.types["a"].start(4).result(timeout=60) == 4
        assert waits.info().state == "running"
    with member("lost", url).worker(types=["b"]):
        assert waits.result(timeout=60) == 20


def test_records_that_are_no_starts_are_put_aside(shared_kafka: Kafka, new_redis: NewRedis, tmp_path: Path) -> None:
    app = member("aside", url_of(shared_kafka, new_redis(), shared="a,b", partitions="1"))
    with app.worker():
        assert app.types["a"].start(1).result(timeout=60) == 1
        put(shared_kafka, "aside.shared", "none", b"garbage", tmp_path)
        put(shared_kafka, "aside.shared", "nameless", b"\x93\x01\xa8nameless\xc0", tmp_path)  # as in a topic of one type
        put(shared_kafka, "aside.shared", "unknown", b"\x94\x01\xa7unknown\xc0\xa3who", tmp_path)
        put(shared_kafka, "aside.shared", "newer", b"\x94\x02\xc0\xc0\xa1b", tmp_path)  # a newer format's name stands last too
        assert app.types["b"].start(2).result(timeout=60) == 20
        assert keys(shared_kafka, "aside.quarantine") == {"none", "nameless", "unknown", "newer"}  # some perhaps twice
        for id, kind, why in (("newer", "b", "another format than 1"), ("unknown", "who", "it is damaged")):
            with pytest.raises(TaskFailed, match=why):
                app.types[kind].job(id).result(timeout=60) if kind == "b" else app.extern(kind)(lambda: None).job(id).result(timeout=60)
            assert next(job for job in app.jobs() if job.id == id).type == kind
        assert {job.id for job in app.jobs()}.isdisjoint({"none", "nameless"})


@pytest.mark.parametrize("names", ["a,,b", ",a", "a, b", "x" * 201])
def test_a_list_that_is_none_is_refused(names: str) -> None:
    app = App("refused", "kafka://127.0.0.1:1?store=redis://127.0.0.1:1/0", shared=names)
    with pytest.raises(BadArguments, match="option shared cannot be"):
        app.jobs()
