"""The Kafka brokers of the tests do what the tests of the engines rely on; librdkafka's kcat is the client."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping

import pytest

from . import wire
from .certificates import Certificates
from .fixtures import give_up
from .kafka import Kafka, KafkaCluster, Listener
from .kit import VERSIONS

NewKafka = Callable[..., Kafka]
QUICK = {"reconnect.backoff.ms": "50", "reconnect.backoff.max.ms": "500", "message.timeout.ms": "30000"}


@pytest.fixture(scope="module", autouse=True)
def needs_kcat() -> None:
    if not shutil.which("kcat"):
        give_up("kcat is not installed: script/setup test does that")


def kcat(options: Mapping[str, str], *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    settings = [word for key, value in {**QUICK, **options}.items() for word in ("-X", f"{key}={value}")]
    return subprocess.run(["kcat", *settings, *arguments], input=text, capture_output=True, text=True, timeout=60)


def produce(options: Mapping[str, str], topic: str, *lines: str) -> None:
    run = kcat(options, "-P", "-t", topic, "-X", "acks=all", text="".join(f"{line}\n" for line in lines))
    assert run.returncode == 0, run.stderr


def librdkafka() -> tuple[int, ...]:
    """The version that kcat is linked with. Before 2.6.1 its SCRAM repeats the client's nonce (confluentinc/librdkafka#4895): Kafka 3.9
    lets that pass, 4.3 refuses it as a wrong password."""
    found = re.search(r"librdkafka (\d+)\.(\d+)\.(\d+)", subprocess.run(["kcat", "-V"], capture_output=True, text=True).stdout)
    assert found
    return tuple(map(int, found.groups()))


def consume(options: Mapping[str, str], topic: str) -> list[str]:
    """All that a topic holds now."""
    run = kcat(options, "-C", "-t", topic, "-o", "beginning", "-e", "-q")
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.parametrize("version", VERSIONS)
def test_kafka_keeps_what_it_acknowledged_over_sigkill(new_kafka: NewKafka, version: str) -> None:
    kafka = new_kafka(version)
    options = kafka.client_options()
    assert kafka.metadata() == wire.Metadata({1: ("127.0.0.1", kafka.port)}, {})
    kafka.create_topic("t", 2, {"retention.ms": "100000"})
    produce(options, "t", "a", "b", "c")
    pid = kafka.pid
    kafka.restart()
    assert kafka.pid != pid
    assert sorted(consume(options, "t")) == ["a", "b", "c"]
    produce(options, "t", "d")
    assert sorted(consume(options, "t")) == ["a", "b", "c", "d"]
    kafka.stop()
    assert not kafka.alive
    with pytest.raises(OSError):
        kafka.metadata()


def test_kafka_topics_grow_and_lose_records(shared_kafka: Kafka) -> None:
    options = shared_kafka.client_options()
    shared_kafka.create_topic("grows", 1)
    with pytest.raises(wire.KafkaError, match="grows: error 36"):  # TOPIC_ALREADY_EXISTS
        shared_kafka.create_topic("grows", 1)
    produce(options, "grows", "a", "b", "c")
    shared_kafka.delete_records("grows", 0, before=2)
    assert consume(options, "grows") == ["c"]
    shared_kafka.add_partitions("grows", 3)
    assert len(shared_kafka.metadata().topics["grows"]) == 3
    shared_kafka.delete_records("grows")
    assert consume(options, "grows") == []


def test_kafka_makes_no_topic_by_itself(shared_kafka: Kafka) -> None:
    run = kcat({**shared_kafka.client_options(), "message.timeout.ms": "1000"}, "-P", "-t", "nobody-made-it", text="a\n")
    assert run.returncode != 0
    assert "nobody-made-it" not in shared_kafka.metadata().topics


def test_kafka_paused_holds_the_connection(new_kafka: NewKafka) -> None:
    kafka = new_kafka()
    kafka.create_topic("t")
    kafka.pause()
    assert kcat({**kafka.client_options(), "message.timeout.ms": "500"}, "-P", "-t", "t", text="a\n").returncode != 0
    kafka.resume()
    produce(kafka.client_options(), "t", "b")
    assert "b" in consume(kafka.client_options(), "t")


@pytest.mark.parametrize("version", VERSIONS)
def test_kafka_secure_listeners(new_kafka: NewKafka, certificates: Certificates, version: str) -> None:
    kafka = new_kafka(version, secure=certificates)
    kafka.create_topic("t")
    listeners: list[Listener] = ["plaintext", "tls", "plain"]
    if version == "3.9.2" or librdkafka() >= (2, 6, 1):
        listeners.append("scram")
    for listener in listeners:
        produce(kafka.client_options(listener), "t", listener)
    assert consume(kafka.client_options("tls"), "t") == listeners
    wrong: list[tuple[Listener, str, str, str]] = [
        ("scram", "sasl.password", "x", "uthentication failed"),
        ("plain", "sasl.username", "x", "uthentication failed"),
        ("tls", "ssl.ca.location", str(certificates.certificate("stranger")), "certificate verify failed"),
    ]
    for listener, key, value, error in wrong:
        options = {**kafka.client_options(listener), key: value, "message.timeout.ms": "1000"}
        run = kcat(options, "-P", "-t", "t", text="a\n")
        assert run.returncode != 0
        assert error in run.stderr
    assert consume(kafka.client_options(), "t") == listeners


def test_kafka_cluster_survives_its_leader(kafka_cluster: KafkaCluster) -> None:
    options = {"bootstrap.servers": kafka_cluster.address}
    first, *_ = kafka_cluster.brokers
    first.create_topic("t")
    produce(options, "t", "a")
    leader = kafka_cluster.leader("t")
    leader.kill()
    produce(options, "t", "b")
    assert kafka_cluster.leader("t") is not leader
    leader.start()
    leader.until(lambda: kafka_cluster.in_sync("t"), "all replicas in sync")
    assert consume(options, "t") == ["a", "b"]
