"""A few requests of Kafka's protocol, by hand: what the tests must ask a broker without the library under test.

One connection for each request; blocks up to 10 s. OSError if the broker is not there, KafkaError if it answers with an error.
Only the versions that both 3.9 and 4.x speak, from before the compact encoding.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


class KafkaError(Exception):
    """An error code of the protocol; `code` is its number."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what}: error {code}")
        self.code = code


@dataclass(frozen=True)
class Partition:
    leader: int
    replicas: list[int]
    in_sync: list[int]


@dataclass(frozen=True)
class Metadata:
    brokers: dict[int, tuple[str, int]]
    topics: dict[str, dict[int, Partition]]


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, kind: str) -> int:
        (value,) = struct.unpack_from(">" + kind, self.data, self.at)
        self.at += struct.calcsize(">" + kind)
        return value

    def text(self) -> str:
        length = self.take("h")
        self.at += max(length, 0)
        return self.data[self.at - length : self.at].decode() if length >= 0 else ""

    def many(self, one: Callable[[], T]) -> list[T]:
        return [one() for _ in range(self.take("i"))]


def _text(value: str | None) -> bytes:
    data = (value or "").encode()
    return struct.pack(">h", -1 if value is None else len(data)) + data


def _many(items: Sequence[bytes]) -> bytes:
    return struct.pack(">i", len(items)) + b"".join(items)


def _ask(port: int, key: int, version: int, body: bytes) -> Reader:
    request = struct.pack(">hhi", key, version, 7) + _text("tests") + body
    with socket.create_connection(("127.0.0.1", port), 10) as connection, connection.makefile("rb") as file:
        connection.sendall(struct.pack(">i", len(request)) + request)
        head = file.read(8)
        if len(head) < 8:
            raise ConnectionError("the broker closed the connection")
        length, _ = struct.unpack(">ii", head)
        return Reader(file.read(length - 4))


def _check(what: str, code: int) -> None:
    if code:
        raise KafkaError(what, code)


def metadata(port: int) -> Metadata:
    """The live brokers, and all topics."""
    r = _ask(port, 3, 4, struct.pack(">i?", -1, False))
    r.take("i")

    def broker() -> tuple[int, tuple[str, int]]:
        node, host, its_port = r.take("i"), r.text(), r.take("i")
        r.text()
        return node, (host, its_port)

    def partition() -> tuple[int, Partition]:
        r.take("h")
        number, leader = r.take("i"), r.take("i")
        return number, Partition(leader, r.many(lambda: r.take("i")), r.many(lambda: r.take("i")))

    def topic() -> tuple[str, dict[int, Partition]]:
        code = r.take("h")
        name = r.text()
        r.take("?")
        partitions = dict(r.many(partition))
        _check(name, code)
        return name, partitions

    brokers = dict(r.many(broker))
    r.text()
    r.take("i")
    return Metadata(brokers, dict(r.many(topic)))


def create_topic(port: int, name: str, partitions: int, replicas: int = 1, config: Mapping[str, str] | None = None) -> None:
    """Makes a topic and returns once every partition has a leader."""
    settings = [_text(key) + _text(value) for key, value in (config or {}).items()]
    topic = _text(name) + struct.pack(">ih", partitions, replicas) + _many([]) + _many(settings)
    r = _ask(port, 19, 2, _many([topic]) + struct.pack(">i?", 10000, False))
    r.take("i")
    for what, code in r.many(lambda: (r.text(), r.take("h"), r.text())[:2]):
        _check(what, code)
    while True:
        known = metadata(port).topics.get(name, {})
        if len(known) == partitions and all(p.leader >= 0 for p in known.values()):
            return


def add_partitions(port: int, name: str, total: int) -> None:
    """Gives a topic more partitions, `total` in all."""
    r = _ask(port, 37, 0, _many([_text(name) + struct.pack(">ii", total, -1)]) + struct.pack(">i?", 10000, False))
    r.take("i")
    for what, code in r.many(lambda: (r.text(), r.take("h"), r.text())[:2]):
        _check(what, code)


def delete_topic(port: int, name: str) -> None:
    """It is gone from the metadata a moment later."""
    r = _ask(port, 20, 1, _many([_text(name)]) + struct.pack(">i", 10000))
    r.take("i")
    for what, code in r.many(lambda: (r.text(), r.take("h"))):
        _check(what, code)


OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8}
RESOURCES = {"topic": 2, "group": 3}


def grant(port: int, user: str, operation: str, resource: str, prefix: str) -> None:
    """Lets a user do something with all topics or groups whose names begin so."""
    acl = struct.pack(">b", RESOURCES[resource]) + _text(prefix) + struct.pack(">b", 4) + _text(f"User:{user}") + _text("*")
    r = _ask(port, 30, 1, _many([acl + struct.pack(">bb", OPERATIONS[operation], 3)]))
    r.take("i")
    for code in r.many(lambda: (r.take("h"), r.text())[0]):
        _check("grant", code)


def delete_records(port: int, name: str, partition: int, before: int) -> None:
    """Deletes a partition's records below an offset, as retention would; -1 is all. `port` is the leader's."""
    r = _ask(port, 21, 0, _many([_text(name) + _many([struct.pack(">iq", partition, before)])]) + struct.pack(">i", 10000))
    r.take("i")
    for what, codes in r.many(lambda: (r.text(), r.many(lambda: (r.take("i"), r.take("q"), r.take("h"))[2]))):
        for code in codes:
            _check(what, code)
