"""Real Apache Kafka brokers (KRaft, broker and controller in one JVM): one alone, or three with replication factor 3.

SCRAM on 4.3.1 wants a librdkafka of 2.6.1 or newer (Debian 12 has 2.0.2): older ones send a wrong nonce, which 3.9.2 lets pass.
Both versions are started with the same properties, small and quick to notice a death. Topics are not made by themselves: `create_topic`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from . import wire
from .certificates import Certificates
from .kit import SCRAM, VERSION, Kit
from .process import Guard, Server

PLAIN = ("plain-user", "plain-secret")
Listener = Literal["plaintext", "tls", "scram", "plain"]
PROPERTIES = """process.roles=broker,controller
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT
log.dirs=data
num.partitions=4
auto.create.topics.enable=false
offsets.topic.num.partitions=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
num.network.threads=2
num.io.threads=2
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=4194304
log.segment.bytes=16777216
log.index.size.max.bytes=262144
broker.heartbeat.interval.ms=200
broker.session.timeout.ms=1000
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=1000
"""
SECURE = """sasl.enabled.mechanisms=SCRAM-SHA-256,PLAIN
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{0}="{1}";
ssl.keystore.type=PEM
ssl.truststore.type=PEM
"""


# Properties of a broker that asks for rights, of all but who comes by the listener without TLS and SASL.
AUTHORIZER = {"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users": "User:ANONYMOUS"}


class Kafka(Server):
    """One broker.

    version      of kit.VERSIONS
    secure       two more listeners: TLS, and SASL (SCRAM-SHA-256 and PLAIN) without TLS
    properties   more lines of server.properties, e.g. {"ssl.client.auth": "required"}
    node, controllers, start    for KafkaCluster
    """

    def __init__(
        self,
        guard: Guard,
        version: str = VERSION,
        *,
        secure: Certificates | None = None,
        properties: Mapping[str, str | int] | None = None,
        node: int = 1,
        controllers: Sequence[int] = (),
        start: bool = True,
        dump: Path | None = None,
    ) -> None:
        super().__init__(guard, "kafka")
        self.kit = Kit(version)
        self.secure = secure
        self.node = node
        self._brokers = max(1, len(controllers))
        self._dump = dump
        controllers = controllers or [guard.port()]
        ports = {"PLAINTEXT": self.port}
        if secure:
            ports |= {"SSL": guard.port(), "SASL_PLAINTEXT": guard.port()}
        self._ports = ports
        listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
        replicas, in_sync = (3, 2) if self._brokers >= 3 else (1, 1)
        lines = [
            PROPERTIES + (SECURE.format(*PLAIN) if secure else ""),
            f"node.id={node}",
            f"controller.quorum.voters={','.join(f'{i}@127.0.0.1:{port}' for i, port in enumerate(controllers, 1))}",
            f"listeners={listeners},CONTROLLER://127.0.0.1:{controllers[node - 1]}",
            f"advertised.listeners={listeners}",
        ]
        for name in ("default", "offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
            lines.append(f"{name}.replication.factor={replicas}")
        for name in ("min.insync.replicas", "transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr"):
            lines.append(f"{name}={in_sync}")
        if secure:
            lines += [f"ssl.keystore.location={secure.both('server')}", f"ssl.truststore.location={secure.ca}"]
        lines += [f"{key}={value}" for key, value in (properties or {}).items()]
        (self.folder / "server.properties").write_text("\n".join([*lines, ""]))
        data = self.folder / "data"
        shutil.copytree(self.kit.template / "data", data)
        meta = data / "meta.properties"
        meta.write_text(meta.read_text().replace("node.id=1", f"node.id={node}"))
        if start:
            self.start()

    def command(self) -> Sequence[str | Path]:
        options = ["-Xmx256m"] if self._brokers > 1 else []
        if self._dump:
            options.append(f"-XX:ArchiveClassesAtExit={self._dump}")
        return self.kit.java(options, ["kafka.Kafka", "server.properties"], archive=not self._dump)

    def answers(self) -> bool:
        return len(self.metadata().brokers) >= self._brokers

    @property
    def address(self) -> str:
        """host:port of the listener without TLS and SASL."""
        return f"127.0.0.1:{self.port}"

    def client_options(self, listener: Listener = "plaintext") -> dict[str, str]:
        """librdkafka's properties for one of its listeners, with the right secrets."""
        if listener == "plaintext":
            return {"bootstrap.servers": self.address}
        assert self.secure, "made without secure="
        if listener == "tls":
            both = {"ssl.certificate.location": self.secure.certificate("client"), "ssl.key.location": self.secure.key("client")}
            files = {"ssl.ca.location": self.secure.ca, **both}
            return {
                "bootstrap.servers": f"127.0.0.1:{self._ports['SSL']}",
                "security.protocol": "ssl",
                **{key: str(file) for key, file in files.items()},
            }
        user, secret = SCRAM if listener == "scram" else PLAIN
        return {
            "bootstrap.servers": f"127.0.0.1:{self._ports['SASL_PLAINTEXT']}",
            "security.protocol": "sasl_plaintext",
            "sasl.mechanism": "SCRAM-SHA-256" if listener == "scram" else "PLAIN",
            "sasl.username": user,
            "sasl.password": secret,
        }

    def metadata(self) -> wire.Metadata:
        return wire.metadata(self.port)

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Makes a topic; returns once every partition has a leader."""
        wire.create_topic(self.port, name, partitions, 1 if self._brokers < 3 else 3, config)

    def add_partitions(self, name: str, total: int) -> None:
        """Gives a topic more partitions, `total` in all."""
        wire.add_partitions(self.port, name, total)

    def delete_topic(self, name: str) -> None:
        """Deletes a topic with its records."""
        wire.delete_topic(self.port, name)

    def grant(self, operation: str, resource: str, prefix: str) -> None:
        """Gives PLAIN's user a right (Read, Write, Create, Describe) on a topic or group of such a name."""
        wire.grant(self.port, PLAIN[0], operation, resource, prefix)

    def delete_records(self, name: str, partition: int = 0, before: int = -1) -> None:
        """Deletes what a partition has below an offset, as retention would; -1 is all."""
        wire.delete_records(self.port, name, partition, before)


class KafkaCluster:
    """Three brokers: replication factor 3, min.insync.replicas 2. The constructor returns once each lists all three."""

    def __init__(self, guard: Guard, version: str = VERSION, properties: Mapping[str, str | int] | None = None) -> None:
        controllers = [guard.port() for _ in range(3)]
        self.brokers = [
            Kafka(guard, version, node=node, controllers=controllers, properties=properties, start=False) for node in (1, 2, 3)
        ]
        for broker in self.brokers:
            broker.start(wait=False)
        for broker in self.brokers:
            broker.ready()

    @property
    def address(self) -> str:
        return ",".join(broker.address for broker in self.brokers)

    def leader(self, topic: str, partition: int = 0) -> Kafka:
        """The broker that leads a partition, as the first one that runs tells."""
        node = next(b for b in self.brokers if b.alive).metadata().topics[topic][partition].leader
        return next(b for b in self.brokers if b.node == node)

    def in_sync(self, topic: str) -> bool:
        """Has every partition all its replicas in sync?"""
        partitions = next(b for b in self.brokers if b.alive).metadata().topics[topic].values()
        return all(len(p.in_sync) == len(p.replicas) for p in partitions)


def prepare(version: str, say: Callable[[str], None]) -> None:
    """Makes what brokers of a version need, if it is not there. ServerError says why it cannot."""

    def dump(archive: Path) -> None:
        with Guard() as guard:
            kafka = Kafka(guard, version, dump=archive)
            kafka.create_topic("warm", 2)
            kafka.stop()

    Kit(version).prepare(dump, say)
