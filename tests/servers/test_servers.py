"""The servers of the tests do what the tests of the engines rely on."""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from .certificates import Certificates
from .process import Guard, ServerError
from .redis import Redis, RedisCluster, RedisPair
from .resp import Resp, RespError

TESTS = Path(__file__).resolve().parent.parent
NewRedis = Callable[..., Redis]


def raises(code: str) -> AbstractContextManager[object]:
    return pytest.raises(RespError, match=f"^{code}")


# ---- the guard -----------------------------------------------------------------

ORPHAN = """
import os, select, signal, sys
from servers import Guard, Redis
guard = Guard()
pids = [Redis(guard).pid, Redis(guard).pid]
if sys.argv[1] == "fork" and os.fork() == 0:  # holds the pipe to the warden, and outlives
    hung_up = select.poll()
    hung_up.register(0, 0)
    hung_up.poll()
    os._exit(0)
print(guard.folder, *pids, flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_nothing_outlives_a_sigkilled_process(needs_redis: None, how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, how], cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        folder, *pids = process.stdout.readline().split()
        assert len(list(Path(folder).iterdir())) == 2
        fds = [os.pidfd_open(int(pid)) for pid in pids]
        warden = os.pidfd_open(int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1]))
        process.stdin.write("x")
        process.stdin.flush()
        for fd in (*fds, warden):
            assert select.select([fd], [], [], 30)[0], "still there"
            os.close(fd)
        assert not Path(folder).exists()
        process.stdin.close()
    assert process.returncode == -signal.SIGKILL


def test_servers_die_with_a_sigkilled_warden(needs_redis: None) -> None:
    guard = Guard()
    redis = Redis(guard)
    parent = int(Path(f"/proc/{redis.pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert "warden.py" in Path(f"/proc/{parent}/cmdline").read_text()
    fd = os.pidfd_open(redis.pid)
    os.kill(parent, signal.SIGKILL)
    assert select.select([fd], [], [], 30)[0]
    os.close(fd)
    guard.close()
    assert not guard.folder.exists()


def test_close_removes_all(needs_redis: None) -> None:
    with Guard() as guard:
        redis = Redis(guard, aof="always")
        fd = os.pidfd_open(redis.pid)
        redis.pause()
    assert select.select([fd], [], [], 0)[0], "close returned before it was dead"
    os.close(fd)
    assert not guard.folder.exists()


def test_a_server_that_cannot_start_says_why(new_redis: NewRedis) -> None:
    with pytest.raises(ServerError, match="no-such-directive"):
        new_redis(config={"no-such-directive": "yes"})


def test_a_program_that_is_not_there_says_so(guard: Guard) -> None:
    with pytest.raises(ServerError, match="No such file"):
        guard.spawn(["/no/such/program"], guard.folder)


def test_ports_are_never_shared_nor_dialled_from(guard: Guard) -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    with Guard() as other:
        ports = [g.port() for _ in range(50) for g in (guard, other)]
    assert len(set(ports)) == 100
    assert not [p for p in ports if low <= p <= high] or high - low > 54000
    assert not set(ports) & {6379, 9092, 9093, 16379, 26379}


# ---- Redis -----------------------------------------------------------------------


def test_redis_answers_and_stops(new_redis: NewRedis) -> None:
    redis = new_redis()
    with redis.client() as client:
        assert client("PING") == "PONG"
        assert client("ROLE") == [b"master", 0, []]
        assert client("CONFIG", "GET", "maxmemory-policy") == [b"maxmemory-policy", b"noeviction"]
        replies = client.pipeline([("SET", "k", b"\r\n\0"), ("GET", "k"), ("GET", "none"), ("NONSENSE",), ("INCR", "n")])
    assert [*replies[:3], replies[4]] == ["OK", b"\r\n\0", None, 1]
    assert str(replies[3]).startswith("ERR unknown command")
    assert redis.stop() == 0
    assert not redis.alive
    with pytest.raises(OSError):
        redis.client()


@pytest.mark.parametrize("aof", ["always", "none"])
def test_redis_keeps_what_it_said_over_sigkill(new_redis: NewRedis, aof: str) -> None:
    redis = new_redis(aof=aof)
    redis("SET", "k", "v")
    port, pid = redis.port, redis.pid
    redis.restart()
    assert (redis.port, redis.pid != pid) == (port, True)
    assert redis("GET", "k") == (b"v" if aof == "always" else None)


def test_redis_everysec_survives_a_good_stop(new_redis: NewRedis) -> None:
    redis = new_redis(aof="everysec")
    assert redis("CONFIG", "GET", "appendfsync") == [b"appendfsync", b"everysec"]
    redis("SET", "k", "v")
    redis.stop()
    redis.start()
    assert redis("GET", "k") == b"v"


def test_redis_paused_holds_the_connection(new_redis: NewRedis) -> None:
    redis = new_redis()
    with redis.client(timeout=0.2) as client:
        redis.pause()
        with pytest.raises(TimeoutError):
            client("PING")
        redis.resume()
        client.socket.settimeout(10)
    assert redis("PING") == "PONG"


def test_redis_refuses_more_than_maxmemory(new_redis: NewRedis) -> None:
    redis = new_redis(maxmemory=1)
    with raises("OOM"):
        redis("SET", "k", "v")


def test_redis_password(new_redis: NewRedis) -> None:
    redis = new_redis(password="pw")
    assert redis.url == f"redis://:pw@127.0.0.1:{redis.port}/0"
    with redis.client() as client:
        with raises("NOAUTH"):
            client("PING")
        with raises("WRONGPASS"):
            client("AUTH", "wrong")
        client("AUTH", "pw")
        assert client("PING") == "PONG"
    redis.restart()


def test_redis_acl(new_redis: NewRedis) -> None:
    redis = new_redis(acl=["user default off", "user app on >pw ~app:* +get +set"])
    with redis.client() as client:
        with raises("NOAUTH"):
            client("GET", "app:1")
        client("AUTH", "app", "pw")
        assert client("SET", "app:1", 1) == "OK"
        for command in (("GET", "other"), ("DEL", "app:1")):
            with raises("NOPERM"):
                client(*command)


def test_redis_unix_socket(new_redis: NewRedis) -> None:
    redis = new_redis(unix=True)
    assert redis.path
    with Resp(redis.path) as client:
        assert client("PING") == "PONG"


def test_redis_tls_and_wrong_certificates(new_redis: NewRedis, certificates: Certificates) -> None:
    redis = new_redis(tls=certificates, mutual=True)
    address = ("127.0.0.1", redis.port)
    assert redis.url.startswith("rediss://")
    assert redis("PING") == "PONG"
    with Resp(address) as plain, pytest.raises(OSError):
        plain("PING")
    for name in ("stranger", None):
        with pytest.raises(OSError):  # the refusal of a client's certificate comes with its first read
            with Resp(address, certificates.context(name)) as client:
                client("PING")
    with pytest.raises(ssl.SSLCertVerificationError):
        Resp(address, ssl.create_default_context())


def test_redis_cluster(redis_cluster: RedisCluster) -> None:
    a, b, c = redis_cluster.nodes
    # The slots of these keys, by `CLUSTER KEYSLOT`: one at each node.
    keys = {node: next(k for k in map(str, range(100)) if redis_cluster.owner(a("CLUSTER", "KEYSLOT", k)) is node) for node in (a, b, c)}
    for node, key in keys.items():
        assert node("SET", key, "v") == "OK"
    slot: int = a("CLUSTER", "KEYSLOT", keys[a])
    with raises(f"MOVED {slot} 127.0.0.1:{a.port}"):
        b("GET", keys[a])

    names = [f"{{{keys[a]}}}{i}" for i in range(250)]
    with a.control() as client:
        client.pipeline([("SET", name, name) for name in names])
    move = redis_cluster.move(slot, b)
    with raises(f"ASK {slot} 127.0.0.1:{b.port}"):
        a("GET", f"{{{keys[a]}}}none")
    assert move.carry(101) == 101
    with raises("TRYAGAIN"):
        a("MGET", *names)
    move.finish()
    assert redis_cluster.owner(slot) is b
    assert b("MGET", *names) == [name.encode() for name in names]
    with raises(f"MOVED {slot} 127.0.0.1:{b.port}"):
        a("GET", keys[a])

    c.restart()
    redis_cluster.ready()
    assert c("SET", keys[c], "w") == "OK"


def test_redis_fails_over_to_its_replica(redis_pair: RedisPair) -> None:
    first = redis_pair.master
    assert redis_pair.replica("ROLE")[0] == b"slave"
    with first.control() as client:
        client("SET", "k", "v")
        client("WAIT", 1, 0)
    redis_pair.failover()
    assert redis_pair.master is not first
    with redis_pair.sentinel.client() as sentinel:
        assert sentinel("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main") == [b"127.0.0.1", str(redis_pair.master.port).encode()]
    assert redis_pair.master("GET", "k") == b"v"
    redis_pair.heal()
    redis_pair.failover()
    assert redis_pair.master is first


def test_redis_fails_over_to_a_stale_replica(redis_pair: RedisPair) -> None:
    with redis_pair.master.control() as client:
        client("SET", "k", "old")
        client("WAIT", 1, 0)
        redis_pair.cut()
        client("SET", "k", "new")
        client("SET", "more", "v")
    redis_pair.failover()
    assert redis_pair.master("MGET", "k", "more") == [b"old", None]
    redis_pair.heal()
    assert redis_pair.replica("MGET", "k", "more") == [b"old", None]


def test_two_of_everything_at_once(needs_redis: None, guard: Guard) -> None:
    with Guard() as other:
        one, two = Redis(guard), Redis(other)
        one("SET", "k", 1)
        assert two("GET", "k") is None
        with socket.create_connection(("127.0.0.1", two.port)):
            pass
    assert one("GET", "k") == b"1"
