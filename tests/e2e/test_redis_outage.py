"""The Redis engine while its server dies, moves, is full or busy: calls wait and are sent again, counts stay exact, errors name the server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import Guard, Proxy, Redis, RedisCluster, RedisPair

from dynatask import App, EngineError, Job, TaskSkipped, Unique, UsageError, children, context

NewRedis = Callable[..., Redis]
DOCS = Path(__file__).resolve().parents[2] / "docs" / "redis.md"


def tree(url: str, **options: object) -> tuple[App, Callable[[int], Job[int]]]:
    app = App("outage", url, **options)  # type: ignore[arg-type]

    @app.task(crashes=100)
    def leaf(n: int) -> int:
        return n

    @app.task(crashes=100)
    def branch(n: int) -> int:
        with children():
            handles = [leaf.spawn(i) for i in range(n)]
        return sum(h.result() for h in handles)

    return app, lambda n: branch.start(n)


def exact(job: Job[int], n: int) -> None:
    assert job.result(timeout=60) == sum(range(n))
    counts = job.info().counts
    assert counts.added == counts.succeeded == n + 1


def test_a_server_that_is_killed_and_started_again(new_redis: NewRedis) -> None:
    server = new_redis(aof="always")
    app, start = tree(server.url, slots=4)
    with app.worker():
        jobs = [start(200) for _ in range(5)]
        for _ in range(3):
            jobs += [start(50)]
            server.kill()
            server.start()
        for job, n in zip(jobs, [200] * 5 + [50] * 3):
            exact(job, n)


def test_calls_wait_for_a_server_that_is_away(new_redis: NewRedis) -> None:
    server = new_redis(aof="always")
    app, start = tree(server.url)
    start(0)
    server.kill()
    started: list[Job[int]] = []
    thread = threading.Thread(target=lambda: started.append(start(3)))
    thread.start()
    server.start()
    thread.join(30)
    with app.worker():
        exact(started[0], 3)


def test_the_error_after_engine_timeout_names_server_and_reason(new_redis: NewRedis) -> None:
    server = new_redis()
    _, start = tree(server.url, engine_timeout="300ms")
    start(0)
    server.kill()
    with pytest.raises(EngineError, match=rf"127\.0\.0\.1:{server.port}.*refused"):
        start(1)
    server.start()


def test_a_server_that_lost_its_functions(shared_redis: Redis) -> None:
    app, start = tree(shared_redis.url)
    with app.worker():
        for _ in range(5):
            shared_redis("FUNCTION", "FLUSH")
            exact(start(20), 20)


def test_connections_that_are_cut(shared_redis: Redis) -> None:
    app, start = tree(shared_redis.url)
    with app.worker():
        jobs: list[Job[int]] = []
        for _ in range(20):
            jobs.append(start(40))
            shared_redis("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            shared_redis("CLIENT", "KILL", "TYPE", "pubsub")
        for job in jobs:
            exact(job, 40)


def test_a_right_that_is_taken_away_leaves_nothing_half_done(new_redis: NewRedis) -> None:
    server = new_redis(acl=["user default off", "user app on >word ~* &* +@all"])
    app, start = tree(server.url.replace("://", "://app:word@"))
    with app.worker():
        for right in ("rpush", "hset", "zadd", "publish"):
            exact(start(20), 20)
            server("ACL", "SETUSER", "app", f"-{right}")
            with pytest.raises(EngineError, match=f"lacks the right to {right.upper()}: nothing was changed, the list is in docs/redis.md"):
                start(3)
            server("ACL", "SETUSER", "app", f"+{right}")
        exact(start(20), 20)


def test_a_busy_server_is_waited_for(new_redis: NewRedis) -> None:
    server = new_redis(config={"busy-reply-threshold": 10})
    app, start = tree(server.url)
    start(0)
    control = server.control()
    control.socket.sendall(b"*3\r\n$4\r\nEVAL\r\n$17\r\nwhile true do end\r\n$1\r\n0\r\n")
    server.until(lambda: is_busy(server), "BUSY")
    done: list[Job[int]] = []
    thread = threading.Thread(target=lambda: done.append(start(2)))
    thread.start()
    server("SCRIPT", "KILL")
    thread.join(30)
    control.close()
    with app.worker():
        exact(done[0], 2)


def is_busy(server: Redis) -> bool:
    from servers import RespError

    with server.control() as client:
        try:
            client("GET", "x")
        except RespError as error:
            return str(error).startswith("BUSY")
    return False


def test_a_server_that_stands_still_costs_no_attempt(new_redis: NewRedis) -> None:
    server = new_redis()
    app = App("outage", server.url, lease="500ms")
    begun, fenced = threading.Event(), threading.Event()
    attempts: list[int] = []

    @app.task
    def waits() -> int:
        attempts.append(context().attempt)
        begun.set()
        while not fenced.is_set() and not context().cancelled:
            fenced.wait(0.01)
        fenced.set()  # the worker could not renew its lease for so long that it gave this run up
        return 7

    with app.worker():
        job = waits.start()
        begun.wait(30)
        server.pause()
        assert fenced.wait(30)
        server.resume()
        assert job.result(timeout=30) == 7
    assert attempts == [1, 1]


def test_an_emptied_server(new_redis: NewRedis) -> None:
    server = new_redis()
    app, start = tree(server.url)
    other = App("outage", server.url)

    @other.extern("branch")
    def branch(n: int) -> int: ...

    branch.start(0)  # the types' numbers: this one first; the worker tells them in another order
    with app.worker():
        for n in range(20, 23):
            exact(start(n), n)
            server("FLUSHALL")
            exact(start(n), n)
            server("FLUSHALL")
            assert branch.start(n).result(timeout=30) == sum(range(n))


def test_a_full_server_ends_tasks_and_takes_none(new_redis: NewRedis) -> None:
    server = new_redis()
    app, start = tree(server.url, engine_timeout="20s")
    begun, go = threading.Event(), threading.Event()

    @app.task
    def waits() -> int:
        begun.set()
        go.wait(60)
        return 7

    with app.worker():
        job = waits.start()
        begun.wait(30)
        server("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(EngineError, match="full.*maxmemory"):
            start(1)
        go.set()
        assert job.result(timeout=30) == 7
        server("CONFIG", "SET", "maxmemory", 0)
        exact(start(10), 10)


def test_children_wait_for_room(new_redis: NewRedis) -> None:
    server = new_redis()
    app = App("full", server.url)
    begun, go = threading.Event(), threading.Event()

    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def parent() -> int:
        begun.set()
        go.wait(60)
        return sum(leaf.map(range(20)).result())

    with app.worker():
        job = parent.start()
        begun.wait(30)
        server("CONFIG", "SET", "maxmemory", 1)
        go.set()
        server.until(lambda: int(server.info("errorstats").get("errorstat_OOM", "count=0").partition("=")[2]) > 0, "OOM")
        server("CONFIG", "SET", "maxmemory", 0)
        assert job.result(timeout=60) == sum(range(20))


def test_the_user_of_the_documentation_is_enough(new_redis: NewRedis) -> None:
    (line,) = re.findall(r"^user .*$", DOCS.read_text(), re.MULTILINE)
    server = new_redis(acl=["user default off", line.replace("PASSWORD", "pw").replace("APP", "outage")])
    app, start = tree(f"redis://dynatask:pw@127.0.0.1:{server.port}/0")
    with app.worker():
        exact(start(30), 30)
    app.read({"what": "server"})
    with pytest.raises(EngineError, match="right"):  # of another app's keys
        App("other", f"redis://dynatask:pw@127.0.0.1:{server.port}/0").read({"what": "server"})


def in_step(pair: RedisPair) -> None:
    """What a replica lacks as its master dies is lost; this is about the rest."""
    offset = int(pair.master.info("replication")["master_repl_offset"])
    pair.replica.until(lambda: int(pair.replica.info("replication")["slave_repl_offset"]) >= offset, "the replica in step")


def test_a_failover(redis_pair: RedisPair) -> None:
    app, start = tree(redis_pair.url)
    with app.worker():
        for _ in range(2):
            before = start(50)
            exact(before, 50)
            in_step(redis_pair)
            redis_pair.failover()
            exact(start(50), 50)
            redis_pair.heal()


def test_a_slot_that_moves(redis_cluster: RedisCluster) -> None:
    app, start = tree(redis_cluster.url)
    with app.worker():
        exact(start(20), 20)
        slot = redis_cluster.nodes[0]("CLUSTER", "KEYSLOT", "{outage.0}")
        owner = redis_cluster.owner(slot)
        other = next(node for node in redis_cluster.nodes if node is not owner)
        job = start(100)
        redis_cluster.move(slot, other).finish()
        exact(job, 100)
        exact(start(20), 20)


def test_a_fork_answers_usage_error(shared_redis: Redis) -> None:
    app, start = tree(shared_redis.url)
    start(0)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            start(1)
        except UsageError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with app.worker():
        exact(start(5), 5)


def test_doctor_and_config_look_at_the_server_and_show_no_password(new_redis: NewRedis, tmp_path: Path) -> None:
    server = new_redis(password="s3cret-w0rd", aof="always")
    (tmp_path / "app.py").write_text("from dynatask import App\n\napp = App('doctor')\n")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"DYNATASK_URL": server.url, "DYNATASK_APP": "app.py"}
        return subprocess.run([sys.executable, "-m", "dynatask", *command], cwd=tmp_path, env=env, capture_output=True, text=True)

    doctor = run("doctor")
    assert doctor.returncode == 0, doctor
    for found in ("Redis 7.", f"127.0.0.1:{server.port}", "noeviction", "append-only file"):
        assert found in doctor.stdout
    server("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    evicting = run("doctor")
    assert evicting.returncode != 0 and "allkeys-lru" in evicting.stdout + evicting.stderr, evicting
    config = run("config")
    for output in (doctor, evicting, config):
        assert "s3cret-w0rd" not in output.stdout + output.stderr


def test_a_call_that_is_joined_as_its_handler_parks_for_it(shared_redis: Redis) -> None:
    """It has no row that would wake the handler, whose wait was armed while the answer that says so was on its way."""
    gate = threading.Event()
    with Guard() as guard:
        proxy = Proxy(guard, shared_redis.port)
        app = App("joined", f"redis://127.0.0.1:{proxy.port}/0")

        @app.task(unique=Unique(scope="job", over="drop"))
        def slow(n: int) -> int:
            if n:
                gate.wait(60)
            return n

        @app.task
        def root() -> list[object]:
            assert slow.spawn(0).result() == 0  # the worker knows the type from here on, and asks nothing
            proxy.pause()
            first, second = slow.spawn(1), slow.spawn(1)
            time.sleep(0.1)  # the message is on its way, and the answer is not
            resume = threading.Timer(0.3, proxy.resume)
            resume.start()
            error = second.error()
            assert isinstance(error, TaskSkipped)
            gate.set()
            resume.join()
            return [first.result(), error.reason]

        with app.worker(slots=2):
            assert root.start().result(timeout=60) == [1, "unique"]
