"""Crash rounds on real Kafka brokers with a real Redis behind them.

    python tests/crash/kafka_rounds.py --fault kill-broker --rounds 20 --seed 1

The faults are below, in FAULTS, each with what it does, or in stores.py; what a round is and
what is checked after it stands in faults.py. No accepted job may be lost in
any of them, but by `records-deleted`, which takes records away that nobody has
read: those jobs are lost, exactly, and who waits for one is told so.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import rounds
from faults import LEASE, Fault, cut, freeze_worker, kill_all, kill_one, last, main, small
from rounds import Lost
from servers import Guard, Kafka, KafkaCluster, Proxy, Server
from stores import Aof, StoreScene, fail_over, fill_server, flush_library, flush_server, kill_server, sleep_server

TOPIC = "rounds.p-_node.intake"  # of the type that is started


class KafkaScene(StoreScene):
    """One broker or three, and the store, perhaps behind networks that can be cut; 2 or more pairs of workers."""

    def __init__(self, guard: Guard, aof: Aof = "always", pair: bool = False, three: bool = False, proxies: bool = False, pairs: int = 2) -> None:
        super().__init__(guard, aof, pair)
        self.pairs = pairs
        self.cluster = KafkaCluster(guard) if three else None
        self.proxies: list[Proxy] = []
        if proxies:  # the broker tells clients the proxy's address
            front = Proxy(guard)
            self.kafka = Kafka(guard, properties={"advertised.listeners": f"PLAINTEXT://127.0.0.1:{front.port}"})
            front.target = self.kafka.port
            front.start()
            self.proxies = [front, Proxy(guard, self.store.port)]
        else:
            self.kafka = self.cluster.brokers[0] if self.cluster else Kafka(guard)

    @property
    def url(self) -> str:
        if self.proxies:
            kafka, redis = (f"127.0.0.1:{proxy.port}" for proxy in self.proxies)
            return f"kafka://{kafka}?store=redis://{redis}/0"
        return f"kafka://{(self.cluster or self.kafka).address}?store={self.store_url}"

    def servers(self) -> list[Server]:
        return [*self.stores(), *(self.cluster.brokers if self.cluster else [self.kafka])]


def kill_broker(scene: KafkaScene) -> None:
    scene.kafka.kill()
    scene.kafka.start()


def kill_one_of_three(scene: KafkaScene) -> None:
    assert scene.cluster
    victim = scene.rng.choice(scene.cluster.brokers)
    victim.kill()
    last(scene.rng.uniform(0, 2 * LEASE))
    victim.start()
    victim.until(lambda: scene.cluster and scene.cluster.in_sync(TOPIC), "all replicas in sync")


def delete_records(scene: KafkaScene) -> None:
    """The workers die, starts go on, and their records are deleted before workers come back."""
    from dynatask import App, NotFound

    for worker in scene.workers:
        worker.kill()
    scene.starter.until(len(scene.starter.accepted) + scene.rng.randrange(20, 200))
    store = App("rounds", scene.url)  # one that has started nothing knows what the store has
    with scene.starter.gate:
        for job in scene.starter.accepted:
            try:
                store.read_job(job.id)
            except NotFound:
                scene.deleted.add(job.id)
        for partition in scene.kafka.metadata().topics[TOPIC]:
            scene.kafka.delete_records(TOPIC, partition)
    for worker in scene.workers:
        worker.start()


def add_partitions(scene: KafkaScene) -> None:
    """And from now on starts come from a process that knows of them."""
    import tree

    scene.kafka.add_partitions(TOPIC, len(scene.kafka.metadata().topics[TOPIC]) + scene.rng.randrange(1, 4))
    scene.starter.start_one = small(tree.App("rounds", scene.url))
    scene.starter.until(len(scene.starter.accepted) + 50)


def churn(scene: KafkaScene) -> None:
    """Workers leave, by a stop or a kill, and come back, for 10 steps."""
    away: list[rounds.Worker] = []
    for _ in range(10):
        if away and (len(away) == len(scene.workers) or scene.rng.random() < 0.5):
            away.pop(scene.rng.randrange(len(away))).start()
            continue
        worker = scene.rng.choice([w for w in scene.workers if w not in away])
        if scene.rng.random() < 0.3:
            worker.kill()
        elif code := worker.end():
            raise Lost(f"a worker drained with exit code {code}")
        away.append(worker)
    for worker in away:
        worker.start()


def without_kafka(scene: KafkaScene) -> None:
    """What was taken in goes on."""
    scene.kafka.kill()
    claimed = scene.counts().claimed
    scene.store.until(lambda: (now := scene.counts()).claimed > claimed or not now.running, "the tree goes on without Kafka")
    last(scene.rng.uniform(0, 5 * LEASE))
    scene.kafka.start()


def without_redis(scene: KafkaScene) -> None:
    """Starts are accepted all the same."""
    scene.store.kill()
    last(scene.rng.uniform(0, 5 * LEASE))
    scene.starter.until(len(scene.starter.accepted) + 10)
    scene.store.start()


def storm(scene: KafkaScene) -> None:
    """Workers are killed one after another, again and again, for 10 kills."""
    for _ in range(10):
        victim = scene.rng.choice(scene.workers)
        victim.kill()
        time.sleep(scene.rng.uniform(0, 0.2))  # how long they live
        victim.start()


def cut_network(scene: KafkaScene) -> None:
    cut(scene, scene.rng.choice([scene.proxies, scene.proxies[:1], scene.proxies[1:]]))


ALWAYS, EVERYSEC, NONE = "acks=all, AOF always", "acks=all, AOF everysec", "acks=all, no AOF"
everysec, none, pair = partial(KafkaScene, aof="everysec"), partial(KafkaScene, aof="none"), partial(KafkaScene, aof="none", pair=True)
three, behind_proxies, ten = partial(KafkaScene, three=True), partial(KafkaScene, proxies=True), partial(KafkaScene, pairs=5)
FAULTS: dict[str, Fault[KafkaScene]] = {
    "kill-broker": Fault("SIGKILL of the broker and restart", kill_broker, KafkaScene, ALWAYS),
    "kill-one-of-three": Fault("three brokers: SIGKILL of one, restart", kill_one_of_three, three, ALWAYS, kills=1),
    "records-deleted": Fault(
        "workers killed, what is started meanwhile deleted from Kafka", delete_records, KafkaScene, ALWAYS, "what was deleted", charges=True, kills=2
    ),
    "partitions-added": Fault("partitions added to the topic", add_partitions, KafkaScene, ALWAYS),
    "churn": Fault("of ten workers some leave or are killed, and come back", churn, ten, ALWAYS, charges=True, kills=2),
    "kill-redis": Fault("SIGKILL of Redis and restart, AOF synced always", kill_server, KafkaScene, ALWAYS),
    "kill-redis-everysec": Fault("SIGKILL of Redis and restart, AOF synced each second", kill_server, everysec, EVERYSEC),
    "kill-redis-none": Fault("SIGKILL of Redis and restart, nothing saved: all is read again from Kafka", kill_server, none, NONE),
    "failover-stale": Fault("SIGKILL of the master Redis, failover to a replica that was cut off", fail_over, pair, NONE, kills=1),
    "sleep-redis": Fault("DEBUG SLEEP of Redis for 1.2 to 3 leases", sleep_server, KafkaScene, ALWAYS),
    "full": Fault("maxmemory of Redis reached, for up to 2 leases, then raised", fill_server, KafkaScene, ALWAYS, kills=1),
    "library-flushed": Fault("FUNCTION FLUSH of Redis", flush_library, KafkaScene, ALWAYS),
    "without-kafka": Fault("the broker killed, and away for up to 5 leases", without_kafka, KafkaScene, ALWAYS, kills=1),
    "without-redis": Fault("Redis killed, and away for up to 5 leases", without_redis, KafkaScene, ALWAYS),
    "storm": Fault("SIGKILL of ten workers, one after another", storm, KafkaScene, ALWAYS, charges=True, kills=2),
    "cut-network": Fault(
        "the network to Kafka, to Redis or to both cut for up to 2 leases, in silence or by refusing", cut_network, behind_proxies, ALWAYS
    ),
    "flush": Fault("FLUSHALL of Redis: all is read again from Kafka", flush_server, KafkaScene, ALWAYS),
    "kill-c": Fault("SIGKILL of a C worker", kill_one("c"), KafkaScene, ALWAYS, charges=True),
    "kill-python": Fault("SIGKILL of a Python worker", kill_one("python"), KafkaScene, ALWAYS, charges=True),
    "kill-all": Fault("SIGKILL of all workers at once", kill_all, KafkaScene, ALWAYS, charges=True),
    "freeze-worker": Fault("SIGSTOP of a worker for 3 leases", freeze_worker, KafkaScene, ALWAYS, charges=True, kills=1),
}

if __name__ == "__main__":
    rounds.in_venv()
    sys.exit(main("Crash rounds on real Kafka brokers and Redis.", FAULTS))
