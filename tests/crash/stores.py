"""What strikes at the Redis that has an app's rows, alone or behind Kafka: it dies, stands still, is full, forgets, is replaced."""

from __future__ import annotations

from typing import Literal

from faults import LEASE, Scene, last
from rounds import Lost
from servers import Guard, Redis, RedisPair

Aof = Literal["none", "always", "everysec"]


class StoreScene(Scene):
    """One Redis, or a pair with its Sentinel."""

    def __init__(self, guard: Guard, aof: Aof = "none", pair: bool = False) -> None:
        super().__init__(guard)
        self.pair = RedisPair(guard) if pair else None
        self.alone = None if pair else Redis(guard, aof=aof)

    @property
    def store(self) -> Redis:
        """The one that is master now."""
        store = self.pair.master if self.pair else self.alone
        assert store
        return store

    @property
    def store_url(self) -> str:
        return self.pair.url if self.pair else self.store.url

    def stores(self) -> list[Redis]:
        return [self.pair.master, self.pair.replica] if self.pair else [self.store]

    def errors(self, name: str) -> int:
        """How many errors of this name the server has answered."""
        return int(self.store.info("errorstats").get(f"errorstat_{name}", "count=0").partition("=")[2])


def kill_server(scene: StoreScene) -> None:
    scene.store.kill()
    last(scene.rng.choice([0, scene.rng.uniform(0, 2 * LEASE)]))
    scene.store.start()


def fail_over(scene: StoreScene) -> None:
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


def freeze_server(scene: StoreScene) -> None:
    scene.store.pause()
    last(LEASE * scene.rng.uniform(1.2, 3))
    scene.store.resume()


def sleep_server(scene: StoreScene) -> None:
    with scene.store.client(timeout=60) as client:
        client("DEBUG", "SLEEP", round(LEASE * scene.rng.uniform(1.2, 3), 2))


def fill_server(scene: StoreScene) -> None:
    before = scene.errors("OOM")
    scene.store("CONFIG", "SET", "maxmemory", 1)
    scene.store.until(lambda: scene.errors("OOM") > before, "a call refused for want of memory")
    last(scene.rng.uniform(0, 2 * LEASE))
    scene.store("CONFIG", "SET", "maxmemory", 0)


def flush_library(scene: StoreScene) -> None:
    scene.store("FUNCTION", "FLUSH")
    scene.store.until(lambda: scene.store("FUNCTION", "LIST"), "the library loaded again")


def cut_clients(scene: StoreScene) -> None:
    with scene.store.control() as control:
        control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        control("CLIENT", "KILL", "TYPE", "pubsub")


def flush_server(scene: StoreScene) -> None:
    scene.store("FLUSHALL")
