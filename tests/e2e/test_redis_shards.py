"""An app on a Redis Cluster: its jobs lie in four shards for each master, and what spans shards is seen as one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import Redis, RedisCluster

from dynatask import App, EngineError, Job, JobInfo, UsageError, children

SHARDS = 12
BUILD = Path(os.environ.get("DTASK_BUILD") or Path(__file__).resolve().parents[2] / "build")


def node_of(cluster: RedisCluster, app: str, shard: int) -> Redis:
    node = next(node for node in cluster.nodes if node.alive)
    return cluster.owner(node("CLUSTER", "KEYSLOT", f"{{{app}.{shard}}}"))


def shard_of(cluster: RedisCluster, app: str, job: str) -> int:
    """Where a job lies, as the keys tell."""
    (shard,) = [k for k in range(SHARDS) if node_of(cluster, app, k)("HEXISTS", f"{{{app}.{k}}}:ids", job)]
    return shard


def rows(cluster: RedisCluster, app: App, *, node: Redis | None = None) -> list[int]:
    """The shards that lie on a node; without one, all that there are."""
    there = [k for k in range(SHARDS + 1) if node_of(cluster, app.name, k)("EXISTS", f"{{{app.name}.{k}}}:meta")]
    return [k for k in there if node is None or node_of(cluster, app.name, k) is node]


def test_conformance(redis_cluster: RedisCluster) -> None:
    program = BUILD / "tests" / "conformance" / "test_conformance_cluster"
    done = subprocess.run([program, "-j1"], env=os.environ | {"DTEST_CLUSTER": redis_cluster.url}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Passing: 3" in done.stderr  # thirty and more


def test_c_and_python_share_jobs_of_all_shards(redis_cluster: RedisCluster, plugin: Callable[..., str]) -> None:
    python, c = App("mixed", redis_cluster.url), App("mixed", redis_cluster.url)

    @python.task
    def py_double(n: int) -> int:
        return 2 * n

    @python.extern()
    def c_add(a: int, b: int) -> int: ...

    @python.extern()
    def c_calls_python(n: int) -> int: ...

    @python.task
    def both(n: int) -> int:
        with children():
            a, b = c_add.spawn(n, b=1), py_double.spawn(n)
        return a.result() + b.result()

    with python.worker(slots=4), c.worker(slots=2, plugins=[plugin("acc")]):
        jobs = [both.start(n) for n in range(120)]
        others = [c_calls_python.start(n) for n in range(120)]
        assert [job.result(timeout=60) for job in jobs] == [3 * n + 1 for n in range(120)]
        assert [job.result(timeout=60) for job in others] == [2 * n + 1 for n in range(120)]
        assert rows(redis_cluster, python) == list(range(SHARDS))
        assert len({shard_of(redis_cluster, "mixed", job.id) for job in jobs}) == SHARDS
        # Each worker is a member of every shard, and one worker all the same.
        workers = python.read({"what": "workers"})
        assert len([w for w in workers if not w["dead"]]) == 2
        types = Counter(t["name"] for t in python.read({"what": "types"}))
        assert types["both"] == types["c_add"] == 1
    assert python.read({"what": "server"})["shards"] == SHARDS


def test_lists_are_of_all_shards(redis_cluster: RedisCluster) -> None:
    app = App("lists", redis_cluster.url)

    @app.task
    def one(n: int) -> int:
        if n % 3 == 0:
            raise ValueError(n)
        return n

    @app.task
    def other() -> None: ...

    with app.worker(slots=8):
        jobs = [one.start(n) if n % 2 else other.start() for n in range(600)]  # more than two pages
        for job in jobs:
            job.wait(60)
    listed = app.jobs(limit=1000)
    assert [info.id for info in listed] == [job.id for job in reversed(jobs)]
    failed = app.jobs("state:failed", limit=1000)
    assert [info.id for info in failed] == [job.id for n, job in reversed(list(enumerate(jobs))) if n % 2 and n % 3 == 0]
    assert [info.id for info in app.jobs(limit=7)] == [info.id for info in listed[:7]]


def test_what_a_job_starts(redis_cluster: RedisCluster) -> None:
    """Callbacks lie in their job's shard; a job that a handler starts lies where its own id says; signals find theirs."""
    app = App("starts", redis_cluster.url)
    ended: Counter[str] = Counter()
    begun = threading.Semaphore(0)

    @app.task
    def inner(n: int) -> int:
        return n

    @app.task
    def outer(n: int) -> list[str]:
        return [inner.start(n + i).id for i in range(10)]

    @app.on_complete(outer)
    def note(job: JobInfo) -> None:
        ended[job.id] += 1
        begun.release()

    with app.worker(slots=4):
        jobs = [outer.start(10 * n) for n in range(30)]
        started = [id for job in jobs for id in job.result(timeout=60)]
        assert [app.read_job(id).id for id in started] == started
        for _ in jobs:
            assert begun.acquire(timeout=60)
    assert ended == Counter(job.id for job in jobs)
    for job in jobs[:5]:
        assert shard_of(redis_cluster, "starts", f"{job.id}!note") == shard_of(redis_cluster, "starts", job.id)


def test_a_job_that_is_due_later_is_heard_of(redis_cluster: RedisCluster) -> None:
    app = App("due", redis_cluster.url)

    @app.task
    def later(n: int) -> float:
        return n

    with app.worker(slots=1):
        jobs = [later.using(delay=0.3).start(n) for n in range(24)]
        assert [job.result(timeout=60) for job in jobs] == list(range(24))


def test_limits_of_the_whole_app_are_refused(redis_cluster: RedisCluster) -> None:
    app = App("limits", redis_cluster.url)

    @app.task(unique=True)
    def once(n: int) -> None: ...

    with pytest.raises(UsageError, match=r"once has a unique key over the whole app.*12 shards.*scope \"job\""):
        once.start(1)
    with pytest.raises(UsageError, match="once has a unique key"), app.worker():
        pass


def test_the_number_of_shards_stays(redis_cluster: RedisCluster) -> None:
    first = App("stays", redis_cluster.url)

    @first.task
    def one(n: int) -> int:
        return n

    job = one.start(4)
    # A fourth master does not change it: an app that is opened then has as many.
    redis_cluster.master()
    second = App("stays", redis_cluster.url)
    name = one.name

    @second.task(name=name)
    def again(n: int) -> int:
        return n

    with second.worker():
        assert job.result(timeout=60) == 4
    assert second.read({"what": "server"})["shards"] == SHARDS
    assert rows(redis_cluster, first) == list(range(SHARDS))
    assert App("fresh", redis_cluster.url).read({"what": "server"})["shards"] == 4 * 4


def test_a_shard_that_began_anew_is_refused(redis_cluster: RedisCluster) -> None:
    App("old", redis_cluster.url).read({"what": "types"})
    node = node_of(redis_cluster, "old", 0)
    with node.control() as control:
        control("DEL", "{old.0}:meta")  # it is made anew, and the others are not
    with pytest.raises(EngineError, match="another app"):
        App("old", redis_cluster.url).read({"what": "types"})


def test_what_a_killed_worker_held_is_given_back(redis_cluster: RedisCluster, tmp_path: Path) -> None:
    program = tmp_path / "held.py"
    program.write_text(HELD)
    app = App("killed", redis_cluster.url, lease=2)

    @app.extern()
    def held(n: int) -> int: ...

    @contextmanager
    def worker(does: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen([sys.executable, program, redis_cluster.url, does], stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    with worker("hang") as first:
        assert first.stdout and first.stdout.readline() == "serves\n"
        jobs = [held.start(n) for n in range(24)]
        assert Counter(first.stdout.readline() for _ in jobs) == Counter(f"{n}\n" for n in range(24))
        with worker("end"):
            first.kill()
            assert [job.result(timeout=60) for job in jobs] == list(range(24))


HELD = """
import sys, threading
from dynatask import App
app = App("killed", sys.argv[1], lease=2)

@app.task
def held(n: int) -> int:
    print(n, flush=True)
    if sys.argv[2] == "hang":
        threading.Event().wait()
    return n

with app.worker(slots=24):
    print("serves", flush=True)
    threading.Event().wait()
"""


def test_a_master_that_fails_takes_its_shards_alone(redis_cluster: RedisCluster) -> None:
    victim = redis_cluster.nodes[1]
    replica = redis_cluster.replica(victim)
    app = App("failover", redis_cluster.url)
    gate = threading.Event()
    runs: Counter[int] = Counter()

    @app.task(crashes=100)
    def leaf(n: int) -> int:
        return n

    @app.task(crashes=100)
    async def held(n: int) -> int:  # on a thread of a slot it would hold up the trees that are parked there
        runs[n] += 1
        await asyncio.to_thread(gate.wait)
        return n

    @app.task(crashes=100)
    def tree(n: int) -> int:
        with children():
            handles = [leaf.spawn(i) for i in range(n)]
        return sum(h.result() for h in handles)

    def exact(job: Job[int], n: int) -> None:
        assert job.result(timeout=120) == sum(range(n))
        assert job.info().counts.succeeded == n + 1

    with app.worker(slots=40):
        before = [tree.start(20) for _ in range(24)]
        waits = {n: held.start(n) for n in range(24)}
        for job in before:
            exact(job, 20)
        shards = {n: shard_of(redis_cluster, "failover", job.id) for n, job in waits.items()}
        lost = set(rows(redis_cluster, app, node=victim))
        assert lost and {n for n in waits if shards[n] in lost} not in (set(), set(waits))
        while len(runs) < len(waits):
            assert not gate.wait(0.01)
        redis_cluster.failover(victim, replica)
        after = [tree.start(20) for _ in range(48)]
        for job in after:
            exact(job, 20)
        gate.set()
        assert [waits[n].result(timeout=120) for n in waits] == list(waits)
    # What ran in the shards of the other masters ran once.
    assert all(runs[n] == 1 for n in waits if shards[n] not in lost)
    assert all(runs[n] == 2 for n in waits if shards[n] in lost)
