"""The fleet by its one command: four workers share an engine, each runs its own types and no other, and the sums are grep's and sort's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Redis
from servers.fixtures import need_kafka

from dynatask import App, Job, NotFound, TaskFailed

ROOT = Path(__file__).resolve().parents[2]
FLEET = ROOT / "examples/fleet"
BUILD = Path(os.environ.get("DTASK_BUILD", ROOT / "build"))
FILES = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words that are hard to count right."""
    top = tmp_path_factory.mktemp("fleet") / "count me"
    (top / "a" / "b").mkdir(parents=True)
    (top / "nothing").write_bytes(b"")
    (top / "no words").write_bytes(b"12 -- \n\0\xff" * 10_000)
    (top / "not ours").write_bytes("na\u00efve \u0130stanbul x\u017fy".encode())
    (top / "case").write_bytes(b"The THE the_the the1the\0the\r\nThe")
    (top / "a" / "long word").write_bytes(b"x" * (2 << 15) + b" x")
    (top / "a" / "at the border").write_bytes(b"w" * (1 << 15) + b" v " + b"w" * ((1 << 15) - 3) + b"v")
    (top / "a" / "b" / os.fsdecode(b"name \xff\xfe")).write_bytes(bytes(range(256)) * 1000)
    (top / "link").symlink_to(top / "case")
    (top / "a" / "loop").symlink_to(top)
    os.mkfifo(top / "pipe")
    for i in range(FILES):
        (top / "a" / f"{i}.txt").write_bytes(b"".join(b"w%s " % (b"abcdefghij"[j % 10 : j % 10 + 1] * (j % 7)) for j in range(i * 40)))
    return top


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, str]:
    out = subprocess.run([sys.executable, FLEET / "oracle.py", folder], capture_output=True, text=True, check=True)
    return dict(word.split("=") for word in out.stdout.split())


@pytest.fixture(params=["redis", "kafka"])
def url(request: pytest.FixtureRequest, shared_redis: Redis) -> str:
    if request.param == "redis":
        return shared_redis.url
    # The broker keeps what earlier tests started: each has topics of its own.
    return f"kafka://{request.getfixturevalue('shared_kafka').address}?store={shared_redis.url}&prefix={uuid.uuid4()}"


Popen = subprocess.Popen[str]


@pytest.fixture
def fleets(tmp_path: Path) -> Iterator[list[Popen]]:
    running: list[Popen] = []
    yield running
    for one in running:
        one.terminate()  # it drains its workers
        one.communicate(timeout=60)


def start(fleets: list[Popen], folder: Path, url: str | None) -> Popen:
    env = {name: value for name, value in os.environ.items() if name != "DYNATASK_URL"} | {"DTASK_BUILD": str(BUILD), "NO_COLOR": "1"}
    if url is not None:
        env["DYNATASK_URL"] = url
    command = [sys.executable, FLEET / "fleet.py"] if url is not None else [ROOT / "script/fleet"]
    fleets.append(subprocess.Popen([*command, folder], stdout=subprocess.PIPE, text=True, env=env))
    return fleets[-1]


def check(fleet: Popen, lines: list[str], expected: dict[str, str]) -> None:
    """What it says to its end: the sums are right, and no worker ran a type that is another's."""
    assert fleet.stdout is not None
    lines += fleet.stdout.read().splitlines()
    text = "\n".join(lines)
    assert fleet.wait() == 0, text
    got = dict(word.split("=") for word in lines[-1].split())
    assert {name: got[name] for name in expected} == expected, text
    ran: dict[str, dict[str, int]] = {}
    for name, tasks in re.findall(r"^(\w+) ran (.*)$", text, re.M):
        ran[name] = {type: int(n) for type, n in (one.split() for one in tasks.split(", "))}
    assert {name: list(types) for name, types in ran.items()} == {
        "desk": ["rank"], "disk": ["listing", "shard"], "counter": ["tally"], "merger": ["merge"]
    }, text  # fmt: skip
    assert sum(n for types in ran.values() for n in types.values()) == int(got["tasks"])
    assert ran["disk"]["shard"] == FILES + 7  # no link, no pipe


def test_each_type_on_its_own_worker(fleets: list[Popen], url: str, folder: Path, expected: dict[str, str]) -> None:
    lines: list[str] = []
    check(start(fleets, folder, url), lines, expected)
    served = [m[1] for line in lines if (m := re.fullmatch(r"(?:counter|merger) worker \d+: dynatask-worker \S+ serves fleet: (.*)", line))]
    assert sorted(served) == ["merge", "tally"]
    assert any(line.startswith("workers that died: desk 0, disk 0, counter 0, merger 0; lost attempts: 0; ") for line in lines)


def test_without_an_engine_it_starts_its_own(fleets: list[Popen], needs_redis: None, folder: Path, expected: dict[str, str]) -> None:
    need_kafka()
    lines: list[str] = []
    subprocess.run([ROOT / "script/setup", "test"], check=True)  # what script/fleet would build first
    check(start(fleets, folder, None), lines, expected)
    assert re.fullmatch(r"engine: kafka://127.0.0.1:\d+\?store=redis://127.0.0.1:\d+/0, started for this run", lines[0])


def there(job: Job[Any]) -> bool:
    """Another process sees a job only once it was taken in from Kafka; nothing rings then."""
    try:
        job.info()
    except NotFound:
        return False
    return True


def test_each_worker_killed_once(
    fleets: list[Popen], url: str, folder: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNATASK_LEASE", "2s")
    fleet = start(fleets, folder, url)
    lines: list[str] = []
    pids: dict[str, int] = {}
    assert fleet.stdout is not None
    for line in fleet.stdout:
        lines.append(line.rstrip())
        if m := re.match(r"(\w+) worker: pid (\d+)", line):
            pids[m[1]] = int(m[2])
        if m := re.match(r"job (\S+):", line):
            break
    app = App("fleet", url)

    @app.extern()
    def corpus(folder: bytes) -> Any: ...  # type: ignore[empty-body]

    assert m
    job = corpus.job(m[1])
    while not there(job):
        time.sleep(0.01)
    assert any(info.counts.succeeded > 100 and info.counts.running for info in job), "it ended too soon"
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    check(fleet, lines, expected)
    for name, pid in pids.items():
        assert f"{name} worker {pid} was killed by SIGKILL: starting another" in lines
    assert any(line.startswith("workers that died: desk 1, disk 1, counter 1, merger 1; ") for line in lines)


def test_what_is_no_table_fails_for_good() -> None:
    app = App("fleet", "memory:")

    @app.extern()
    def merge(a: bytes, b: bytes) -> bytes: ...  # type: ignore[empty-body]

    with app.worker(plugins=[str(BUILD / "examples/fleet/words.so")]):
        assert merge.start(b"a 1\nc 3\n", b"a 9\nb 2\n").result() == b"a 10\nb 2\nc 3\n"
        for bad in (b"a", b"a 1", b" 1\n", b"a b\n", b"\n", b"a 1\nb"):
            with pytest.raises(TaskFailed, match="a table has lines"):
                merge.start(b"a 1\n", bad).result()
