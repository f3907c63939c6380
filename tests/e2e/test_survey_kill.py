"""The survey by script/demo on each engine that has more than one process: killed half way, a worker, Redis or the broker, the sums
are the same, and what was lost, or away, is told. The sums to come are found by find, wc and bytes.split().
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import Kafka, Redis

from dynatask import App, Counts, Job, NotFound

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("DTASK_BUILD", ROOT / "build"))
FOLDERS, FILES = 200, 100  # in each


def totals(line: str) -> dict[str, str]:
    found = dict(word.split("=") for word in line.split())
    return {name: found[name] for name in ("files", "lines", "words", "bytes")}


def ended(counts: Counts) -> int:
    return counts.succeeded + counts.failed + counts.cancelled + counts.skipped


def there(job: Job[Any]) -> bool:
    """Another process sees a job only once it was taken in from Kafka; nothing rings then."""
    try:
        job.info()
    except NotFound:
        return False
    return True


class Demo:
    """The demo in a process of its own, all that it says read as it comes: script/demo, or the program that it runs."""

    def __init__(self, folder: str, url: str, script: bool, options: dict[str, str]) -> None:
        command = [str(ROOT / "script/demo"), folder] if script else [sys.executable, str(ROOT / "examples/survey/demo.py"), folder]
        self.url = url
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env=os.environ | {"DYNATASK_URL": url, "DTASK_BUILD": str(BUILD), "NO_COLOR": "1"} | options,
        )  # fmt: skip
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            for line in out:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def until(self, pattern: str, nth: int = 1) -> re.Match[str]:
        """The nth line that matches; waits for it."""
        with self._news:
            while True:
                found = [m for line in self.lines if (m := re.search(pattern, line))]
                if len(found) >= nth:
                    return found[nth - 1]
                assert not self._ended, f"no line {nth} like {pattern!r} in:\n" + "\n".join(self.lines)
                self._news.wait()

    def until_half_way(self) -> None:
        """Returns in the middle of the job, when some share of what is known is done."""
        app = App("survey", self.url)

        @app.extern()
        def walk(root: bytes, path: bytes) -> Any: ...  # type: ignore[empty-body]

        job = walk.job(self.until(r"^job (\S+):")[1])
        while not there(job):
            time.sleep(0.01)
        share = random.uniform(0.2, 0.6)
        for info in job:
            if info.counts.added > 1000 and ended(info.counts) >= share * info.counts.added:
                print(f"{ended(info.counts)} of {info.counts.added} tasks done")
                assert info.state == "running", "it ended too soon"
                return
        raise AssertionError("it ended too soon")

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """A worker stands still meanwhile."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def pid(self, name: str) -> int:
        return int(self.until(rf"^{name} worker: pid (\d+)")[1])

    def end(self, code: int = 0) -> list[str]:
        """All that it said."""
        self._reader.join()
        said = "\n".join(self.lines)
        assert self.process.wait() == code, said
        assert "Traceback" not in said and '{"' not in said, said
        return self.lines

    def kill(self) -> None:
        try:
            self.process.terminate()  # it drains its workers
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


@pytest.fixture(scope="module")
def ready() -> None:
    """What script/demo would build first: before a test's watchdog begins, which is for hangs."""
    subprocess.run([ROOT / "script/setup", "demo"], check=True)


@pytest.fixture
def demo(ready: None) -> Iterator[Callable[..., Demo]]:
    running: list[Demo] = []

    def start(folder: str, url: str, *, script: bool = False, **options: str) -> Demo:
        running.append(Demo(folder, url, script, options))
        return running[-1]

    yield start
    for one in running:
        one.kill()


@pytest.fixture(params=["sqlite", "redis", "kafka"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/jobs.db"
    redis: Redis = request.getfixturevalue("shared_redis")
    if request.param == "redis":
        return redis.url
    # The broker keeps what earlier tests started: each has topics of its own.
    return f"kafka://{request.getfixturevalue('shared_kafka').address}?store={redis.url}&prefix={uuid.uuid4()}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Large enough that there is a middle to kill in."""
    top = tmp_path_factory.mktemp("folder")
    for i in range(FOLDERS):
        inner = top / f"{i % 10}" / f"{i}"
        inner.mkdir(parents=True)
        for j in range(FILES):
            (inner / f"{j}.txt").write_bytes(b"some words in file %d\n" % j * (j + 1))
    (top / "large").write_bytes(b"words \n" * 1_000_000)
    return str(top)


@pytest.fixture(scope="module")
def expected(folder: str) -> dict[str, str]:
    out = subprocess.run([sys.executable, ROOT / "examples/survey/oracle.py", folder], capture_output=True, text=True, check=True)
    return totals(out.stdout)


def test_undisturbed(demo, folder: str, url: str, expected: dict[str, str]) -> None:
    lines = demo(folder, url).end()
    assert totals(lines[-1]) == expected
    assert any(line.startswith("workers that died: C 0, Python 0; lost attempts: 0; ") for line in lines)


def losses(lines: list[str]) -> tuple[str, int, int]:
    """As the demo tells them: which workers died, lost attempts, tasks claimed again."""
    said = next(m for line in lines if (m := re.fullmatch(r"workers that died: (.*); lost attempts: (\d+); tasks claimed again: (\d+)", line)))
    return said[1], int(said[2]), int(said[3])


@pytest.mark.parametrize("names", [["C"], ["Python"], ["C", "Python"]], ids="+".join)
def test_a_worker_killed(demo, folder: str, url: str, expected: dict[str, str], names: list[str]) -> None:
    survey = demo(folder, url, script=True, DYNATASK_LEASE="2s")
    pids = {name: survey.pid(name) for name in names}
    survey.until_half_way()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    for name in names:
        survey.until(rf"^{name} worker {pids[name]} was killed by SIGKILL: starting another")
    lines = survey.end()
    assert totals(lines[-1]) == expected
    deaths, lost, again = losses(lines)
    assert deaths == ", ".join(f"{name} {int(name in names)}" for name in ("C", "Python"))
    # What the dead worker held was claimed again, which may be nothing; of that, one attempt a slot may be lost.
    assert lost <= again


NewRedis, NewKafka = Callable[..., Redis], Callable[..., Kafka]


AWAY, BACK = r"^C worker \d+: the engine is away, calls wait for it: .*Redis at ", r"^C worker \d+: the engine is back after \d+\.\d s: Redis at "


@pytest.mark.parametrize("kafka", [False, True], ids=["redis", "kafka"])
def test_redis_killed(demo, folder: str, expected: dict[str, str], request: pytest.FixtureRequest, new_redis: NewRedis, kafka: bool) -> None:
    redis = new_redis(aof="always")
    front = f"kafka://{request.getfixturevalue('shared_kafka').address}?prefix={uuid.uuid4()}&store=" if kafka else ""
    survey = demo(folder, front + redis.url, script=True)
    survey.until_half_way()
    redis.kill()
    survey.until(AWAY)
    redis.start()
    survey.until(BACK)
    lines = survey.end()
    assert totals(lines[-1]) == expected
    deaths, lost, _ = losses(lines)
    assert deaths == "C 0, Python 0" and lost == 0  # what workers held is given back uncharged


def test_the_broker_killed(demo, folder: str, expected: dict[str, str], new_redis: NewRedis, new_kafka: NewKafka) -> None:
    broker = new_kafka()
    survey = demo(folder, f"kafka://{broker.address}?store={new_redis(aof='always').url}", script=True)
    survey.until_half_way()
    with survey.hold("Python"):  # the job does not need the broker any more: so that it does not end before
        broker.kill()
        survey.until(r"^C worker \d+: Kafka is away, ")
        broker.start()
        survey.until(r"^C worker \d+: Kafka is back after \d+\.\d s: ")
    lines = survey.end()
    assert totals(lines[-1]) == expected
    assert losses(lines)[0] == "C 0, Python 0"


def test_redis_that_stays_away(demo, folder: str, new_redis: NewRedis) -> None:
    redis = new_redis(aof="always")
    survey = demo(folder, redis.url, DYNATASK_ENGINE_TIMEOUT="2s")
    survey.until_half_way()
    redis.kill()
    lines = survey.end(5)
    job = survey.until(r"^job (\S+):")[1]
    assert f"the demo gives up; job {job} is kept, and workers that come later end it" in lines
    assert lines[-1].startswith(f"demo.py: Redis at 127.0.0.1:{redis.port} did not answer for ")


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "nosuch://host", "memory:"])
def test_an_engine_that_is_none(demo, folder: str, url: str) -> None:
    lines = demo(folder, url).end(5 if url.startswith("redis:") else 2)
    assert len(lines) == 1 and lines[0].startswith("demo.py: ")
