"""Real Redis servers: one alone, three masters as a Cluster, a master with a replica and a Sentinel.

Each has a user `control` with every right, whose password only this package knows: that is how the helpers get in whatever passwords,
users and states a test sets up. `DEBUG` is allowed. Nothing is saved except by the append-only file, if one is asked for.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .certificates import Certificates
from .process import Guard, Server, ServerError
from .resp import Resp, RespError, fields

CONTROL = secrets.token_hex(8)
SLOTS = 16384


class Redis(Server):
    """A Redis server.

    aof         the append-only file: none, synced at each write, or each second
    maxmemory   bytes; 0 is no limit. The policy is noeviction
    password    of the default user (requirepass)
    acl         lines of an ACL file, e.g. ["user default off", "user app on >pw ~dt:* +@all"]; instead of `password`
    tls         TLS on its port, which then speaks nothing else
    mutual      with `tls`: clients must show a certificate
    unix        a unix socket, `path`, beside the port
    config      further directives
    """

    def __init__(
        self,
        guard: Guard,
        name: str = "redis",
        *,
        aof: Literal["none", "always", "everysec"] = "none",
        maxmemory: int = 0,
        password: str = "",
        acl: Sequence[str] = (),
        tls: Certificates | None = None,
        mutual: bool = False,
        unix: bool = False,
        config: Mapping[str, str | int] | None = None,
    ) -> None:
        super().__init__(guard, name)
        assert not (password and acl), "an ACL file and requirepass exclude each other"
        self.tls = tls
        self.password = password
        self.path = self.folder / "socket" if unix else None
        lines = [
            "bind 127.0.0.1",
            f"port {0 if tls else self.port}",
            "protected-mode no",
            'save ""',
            "enable-debug-command yes",
            "maxmemory-policy noeviction",
            f"maxmemory {maxmemory}",
            "repl-diskless-sync-delay 0",
            f"appendonly {'no' if aof == 'none' else 'yes'}",
        ]
        if aof != "none":
            lines.append(f"appendfsync {aof}")
        if self.path:
            lines.append(f"unixsocket {self.path}")
        if tls:
            lines += [f"tls-port {self.port}", f"tls-ca-cert-file {tls.ca}", f"tls-auth-clients {'yes' if mutual else 'no'}"]
            lines += [f"tls-cert-file {tls.certificate('server')}", f"tls-key-file {tls.key('server')}"]
        control = f"user control on >{CONTROL} ~* &* +@all"
        if acl:
            (self.folder / "users.acl").write_text("\n".join([*acl, control, ""]))
            lines.append("aclfile users.acl")
        else:
            lines.append(control)
            if password:
                lines.append(f"requirepass {password}")
        lines += [f"{key} {value}" for key, value in (config or {}).items()]
        (self.folder / "redis.conf").write_text("\n".join([*lines, ""]))
        self.start()

    def command(self) -> Sequence[str | Path]:
        return ["redis-server", "redis.conf"]

    def answers(self) -> bool:
        with self.control() as control:
            try:
                return control("PING") == "PONG"
            except RespError as error:
                if str(error).startswith("LOADING"):
                    return False
                raise

    @property
    def url(self) -> str:
        """redis://127.0.0.1:PORT/0 with the default user's password; rediss with TLS."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis{'s' if self.tls else ''}://{secret}127.0.0.1:{self.port}/0"

    def client(self, timeout: float = 10) -> Resp:
        """A connection that has said nothing yet: the default user's, if it has no password."""
        return Resp(("127.0.0.1", self.port), self.tls.context() if self.tls else None, timeout)

    def control(self) -> Resp:
        """A connection with every right."""
        client = self.client()
        try:
            client("AUTH", "control", CONTROL)
        except BaseException:
            client.close()
            raise
        return client

    def __call__(self, *command: str | bytes | int | float) -> Any:
        """One command on a connection of its own with every right; its reply."""
        with self.control() as control:
            return control(*command)

    def info(self, section: str = "everything") -> dict[str, str]:
        return fields(self("INFO", section))


class RedisCluster:
    """Masters that share the slots evenly, without replicas (`replica` adds them). The constructor returns once every one says
    cluster_state:ok.

    Made by hand (epochs, slots, meets): `redis-cli --cluster create` takes a second longer. The rest of the time is Redis', which keeps
    a cluster down for 2 s after its start.
    """

    def __init__(self, guard: Guard, masters: int = 3, config: Mapping[str, str | int] | None = None) -> None:
        self.nodes: list[Redis] = []
        self._bus: list[int] = []
        self._guard, self._config = guard, config or {}
        for _ in range(masters):
            self._node()
        edges = [SLOTS * i // masters for i in range(masters + 1)]
        for i, node in enumerate(self.nodes):
            node("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            node("CLUSTER", "ADDSLOTSRANGE", edges[i], edges[i + 1] - 1)
        for node, bus in zip(self.nodes[1:], self._bus[1:]):
            self.nodes[0]("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        self.ids = [node("CLUSTER", "MYID").decode() for node in self.nodes]
        self.ready()

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def ready(self) -> None:
        """Blocks until every node that runs sees every node, and all slots served."""
        for node in self.nodes:
            if node.alive:
                node.until(lambda: self._whole(node), "cluster_state:ok")

    def owner(self, slot: int) -> Redis:
        """The node that serves a slot, as the nodes that run tell."""
        for first, last, (_, port, *_), *_ in next(node for node in self.nodes if node.alive)("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise ServerError(f"nobody serves slot {slot}")

    def move(self, slot: int, to: Redis) -> Move:
        """Opens the move of a slot: from now on its owner answers ASK for keys it lacks, TRYAGAIN for split commands."""
        return Move(self, slot, to)

    def master(self) -> Redis:
        """Adds a master, to which the first one gives its last hundred slots that have no keys."""
        node = self._join()
        first = self.nodes[0]
        slots = [s for s in range(SLOTS // (len(self.nodes) - 1) - 1, 0, -1) if not first("CLUSTER", "COUNTKEYSINSLOT", s)][:100]
        for slot in slots:
            for one in (node, *self.nodes):
                one("CLUSTER", "SETSLOT", slot, "NODE", self.ids[-1])
        return node

    def replica(self, master: Redis) -> Redis:
        """Adds a replica of a master; returns once it is linked and every node knows it."""
        node = self._join()
        node("CLUSTER", "REPLICATE", self.ids[self.nodes.index(master)])
        node.until(lambda: node.info("replication").get("master_link_status") == "up", "master_link_status:up")
        for other in self.nodes:
            other.until(lambda: b"slave" in other("CLUSTER", "NODES"), "the replica known")
        return node

    def failover(self, master: Redis, replica: Redis) -> None:
        """SIGKILL of a master whose replica has all that was written so far; returns once that has its slots and all
        nodes that run say so."""
        # A link that is up may carry nothing yet: a master begins at its new replica's first acknowledgement, up to a second later.
        written = int(master.info("replication")["master_repl_offset"])
        replica.until(lambda: int(replica.info("replication")["slave_repl_offset"]) >= written, f"offset {written}")
        master.kill()
        replica.until(lambda: replica("ROLE")[0] == b"master", "role master")
        self.ready()

    def _join(self) -> Redis:
        node = self._node()
        self.nodes[0]("CLUSTER", "MEET", "127.0.0.1", node.port, self._bus[-1])
        self.ids.append(node("CLUSTER", "MYID").decode())
        self.ready()
        return node

    def _node(self) -> Redis:
        self._bus.append(self._guard.port())
        cluster = {"cluster-enabled": "yes", "cluster-node-timeout": 1000, "cluster-port": self._bus[-1]}
        self.nodes.append(Redis(self._guard, "redis-cluster", config={**cluster, **self._config}))
        return self.nodes[-1]

    def _whole(self, node: Redis) -> bool:
        info = fields(node("CLUSTER", "INFO"))
        return (info["cluster_state"], info["cluster_known_nodes"], info["cluster_slots_ok"]) == ("ok", str(len(self.nodes)), str(SLOTS))


class Move:
    """A slot on its way from one master to another: `carry` some or all keys, then `finish`."""

    def __init__(self, cluster: RedisCluster, slot: int, to: Redis) -> None:
        self.cluster, self.slot, self.source, self.target = cluster, slot, cluster.owner(slot), to
        self._source, self._target = (cluster.ids[cluster.nodes.index(node)] for node in (self.source, to))
        to("CLUSTER", "SETSLOT", slot, "IMPORTING", self._source)
        self.source("CLUSTER", "SETSLOT", slot, "MIGRATING", self._target)

    def carry(self, most: int | None = None) -> int:
        """Moves up to `most` keys, or all; how many it moved."""
        moved = 0
        with self.source.control() as source:
            while most is None or moved < most:
                keys = source("CLUSTER", "GETKEYSINSLOT", self.slot, 100 if most is None else min(100, most - moved))
                if not keys:
                    break
                source("MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "KEYS", *keys)
                moved += len(keys)
        return moved

    def finish(self) -> None:
        """Carries what is left, gives the slot to its new master, and waits until all nodes say so."""
        self.carry()
        for node in (self.target, self.source, *self.cluster.nodes):
            node("CLUSTER", "SETSLOT", self.slot, "NODE", self._target)


class Sentinel(Server):
    """A Sentinel that watches one master as `main`, alone (quorum 1). It fails over when it is told to; by itself only after half a minute,
    so that on a machine under load no second master arises beside the first."""

    MASTER = "main"

    def __init__(self, guard: Guard, master: Redis) -> None:
        super().__init__(guard, "sentinel")
        lines = ["bind 127.0.0.1", f"port {self.port}", f"sentinel monitor {self.MASTER} 127.0.0.1 {master.port} 1"]
        # What a replica says of itself comes once a second; a failover-timeout below that gives one up.
        options = {"auth-user": "control", "auth-pass": CONTROL, "down-after-milliseconds": 30000, "failover-timeout": 30000}
        lines += [f"sentinel {key} {self.MASTER} {value}" for key, value in options.items()]
        (self.folder / "sentinel.conf").write_text("\n".join([*lines, ""]))
        self.start()

    def command(self) -> Sequence[str | Path]:
        return ["redis-server", "sentinel.conf", "--sentinel"]

    def answers(self) -> bool:
        with self.client() as client:
            return client("PING") == "PONG"

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/{self.MASTER}/0"

    def client(self) -> Resp:
        return Resp(("127.0.0.1", self.port))

    def replicas(self) -> list[dict[bytes, bytes]]:
        with self.client() as client:
            return [dict(zip(r[::2], r[1::2])) for r in client("SENTINEL", "REPLICAS", self.MASTER)]


class RedisPair:
    """A master and a replica under one Sentinel. The constructor returns once the replica is in step and the Sentinel knows it.

    `master` and `replica` are who they are now: a failover swaps them.
    """

    def __init__(self, guard: Guard, aof: Literal["none", "always", "everysec"] = "none") -> None:
        # The replica comes in as a user of its own, so that it can be shut out.
        secret = secrets.token_hex(8)
        config: dict[str, str | int] = {"masteruser": "replica", "masterauth": secret}
        config["user"] = f"replica on >{secret} +psync +replconf +ping"
        self.master = Redis(guard, "redis-pair", aof=aof, config=config)
        self.replica = Redis(guard, "redis-pair", aof=aof, config={**config, "replicaof": f"127.0.0.1 {self.master.port}"})
        self.replica.until(self._linked, "master_link_status:up")
        self.sentinel = Sentinel(guard, self.master)
        self.sentinel.until(self._known, "the replica found")

    @property
    def url(self) -> str:
        return self.sentinel.url

    def cut(self) -> None:
        """Shuts the replica out of the master: what is written from now on, it has not.

        A Sentinel passes over a replica that was cut off for much longer than 5 s.
        """
        self.master("ACL", "SETUSER", "replica", "off")
        self.master("CLIENT", "KILL", "TYPE", "replica")
        self.replica.until(lambda: not self._linked(), "master_link_status:down")

    def failover(self) -> float:
        """SIGKILL of the master; returns once the replica is master, for the Sentinel too: seconds it took. Swaps the two."""
        with self.sentinel.client() as events:
            events("SUBSCRIBE", "+switch-master")
            events.socket.settimeout(30)
            begin = time.monotonic()
            self.master.kill()
            with self.sentinel.client() as sentinel:
                sentinel("SENTINEL", "FAILOVER", Sentinel.MASTER)
            events.reply()
        self.replica.until(lambda: self.replica("ROLE")[0] == b"master", "role master")
        self.master, self.replica = self.replica, self.master
        return time.monotonic() - begin

    def heal(self) -> None:
        """Starts the dead one again; returns once it follows the new master, its own writes gone."""
        self.replica.start()
        # As the Sentinel would some seconds later.
        self.replica("REPLICAOF", "127.0.0.1", self.master.port)
        self.replica.until(self._linked, "master_link_status:up")
        self.sentinel.until(lambda: any(r[b"flags"] == b"slave" for r in self.sentinel.replicas()), "the replica seen alive")

    def _linked(self) -> bool:
        return self.replica.info("replication").get("master_link_status") == "up"

    def _known(self) -> bool:
        return any(r[b"flags"] == b"slave" and r[b"master-link-status"] == b"ok" for r in self.sentinel.replicas())


def missing() -> str | None:
    """Why there can be no Redis here; None if there can."""
    return None if shutil.which("redis-server") else "redis-server is not installed: script/setup test does that"
