"""Crash rounds on real Redis servers.

    python tests/crash/redis_rounds.py --fault kill-always --rounds 20 --seed 1

The faults are below, in FAULTS, each with what it does; what a round is and
what is checked after it stands in faults.py.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Literal

import rounds
from faults import LEASE, Fault, Scene, cut, freeze_worker, kill_all, kill_one, last, main
from rounds import Lost
from servers import Guard, Proxy, Redis, RedisPair, Server


class RedisScene(Scene):
    """One server, perhaps behind a network that can be cut; or a pair with its Sentinel."""

    def __init__(self, guard: Guard, aof: Literal["none", "always", "everysec"] = "none", pair: bool = False, proxy: bool = False) -> None:
        super().__init__(guard)
        self.pair = RedisPair(guard) if pair else None
        self.alone = None if pair else Redis(guard, aof=aof)
        self.proxy = Proxy(guard, self.server.port) if proxy else None

    @property
    def server(self) -> Redis:
        """The one that is master now."""
        server = self.pair.master if self.pair else self.alone
        assert server
        return server

    @property
    def url(self) -> str:
        if self.proxy:
            return f"redis://127.0.0.1:{self.proxy.port}/0"
        return self.pair.url if self.pair else self.server.url

    def servers(self) -> list[Server]:
        return [self.pair.master, self.pair.replica] if self.pair else [self.server]

    def keep(self, folder: Path) -> None:
        for server in self.servers():
            if server.alive:
                assert isinstance(server, Redis)
                server("SAVE")
        super().keep(folder)

    def errors(self, name: str) -> int:
        """How many errors of this name the server has answered."""
        return int(self.server.info("errorstats").get(f"errorstat_{name}", "count=0").partition("=")[2])


def kill_server(scene: RedisScene) -> None:
    scene.server.kill()
    last(scene.rng.choice([0, scene.rng.uniform(0, 2 * LEASE)]))
    scene.server.start()


def fail_over(scene: RedisScene) -> None:
    pair = scene.pair
    assert pair
    if pair.replica("ROLE")[0] != b"slave":
        raise Lost("the Sentinel failed over by itself: this round says nothing")
    pair.cut()
    before, stale = scene.counts().claimed, int(pair.replica.info("replication")["slave_repl_offset"])
    enough = scene.rng.randrange(1, 200)
    pair.master.until(lambda: (now := scene.counts()).claimed >= before + enough or not now.running, "work that the replica misses")
    if int(pair.master.info("replication")["master_repl_offset"]) <= stale:
        raise Lost("the replica misses nothing")
    pair.failover()
    pair.heal()


def freeze_server(scene: RedisScene) -> None:
    scene.server.pause()
    last(LEASE * scene.rng.uniform(1.2, 3))
    scene.server.resume()


def sleep_server(scene: RedisScene) -> None:
    with scene.server.client(timeout=60) as client:
        client("DEBUG", "SLEEP", round(LEASE * scene.rng.uniform(1.2, 3), 2))


def fill_server(scene: RedisScene) -> None:
    before = scene.errors("OOM")
    scene.server("CONFIG", "SET", "maxmemory", 1)
    scene.server.until(lambda: scene.errors("OOM") > before, "a call refused for want of memory")
    last(scene.rng.uniform(0, 2 * LEASE))
    scene.server("CONFIG", "SET", "maxmemory", 0)


def flush_library(scene: RedisScene) -> None:
    scene.server("FUNCTION", "FLUSH")
    scene.server.until(lambda: scene.server("FUNCTION", "LIST"), "the library loaded again")


def cut_clients(scene: RedisScene) -> None:
    with scene.server.control() as control:
        control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        control("CLIENT", "KILL", "TYPE", "pubsub")


def flush_server(scene: RedisScene) -> None:
    scene.server("FLUSHALL")


def cut_network(scene: RedisScene) -> None:
    assert scene.proxy
    cut(scene, [scene.proxy])


NONE, EVERYSEC, ALWAYS = "no AOF", "AOF everysec", "AOF always"
always, everysec = partial(RedisScene, aof="always"), partial(RedisScene, aof="everysec")
FAULTS: dict[str, Fault[RedisScene]] = {
    "kill-always": Fault("SIGKILL of the server and restart, AOF synced always", kill_server, always, ALWAYS),
    "kill-everysec": Fault("SIGKILL of the server and restart, AOF synced each second", kill_server, everysec, EVERYSEC, lossy=True),
    "kill-none": Fault("SIGKILL of the server and restart, nothing saved", kill_server, RedisScene, NONE, lossy=True),
    "flush": Fault("FLUSHALL", flush_server, always, ALWAYS, lossy=True),
    "failover-stale": Fault(
        "SIGKILL of the master, failover to a replica that was cut off", fail_over, partial(RedisScene, pair=True), NONE, lossy=True, kills=1
    ),
    "freeze-server": Fault("SIGSTOP of the server for 1.2 to 3 leases", freeze_server, RedisScene, NONE),
    "sleep-server": Fault("DEBUG SLEEP for 1.2 to 3 leases", sleep_server, RedisScene, NONE),
    "full": Fault("maxmemory reached, for up to 2 leases, then raised", fill_server, RedisScene, NONE, kills=1),
    "library-flushed": Fault("FUNCTION FLUSH", flush_library, RedisScene, NONE),
    "cut-clients": Fault("all connections cut by the server", cut_clients, RedisScene, NONE),
    "cut-network": Fault("the network cut for up to 2 leases, in silence or by refusing", cut_network, partial(RedisScene, proxy=True), NONE),
    "kill-c": Fault("SIGKILL of a C worker", kill_one("c"), RedisScene, NONE, charges=True),
    "kill-python": Fault("SIGKILL of a Python worker", kill_one("python"), RedisScene, NONE, charges=True),
    "kill-all": Fault("SIGKILL of all workers at once", kill_all, RedisScene, NONE, charges=True),
    "freeze-worker": Fault("SIGSTOP of a worker for 3 leases", freeze_worker, RedisScene, NONE, charges=True, kills=1),
}

if __name__ == "__main__":
    rounds.in_venv()
    sys.exit(main("Crash rounds on real Redis servers.", FAULTS))
