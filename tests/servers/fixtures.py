"""pytest fixtures of the servers; tests/conftest.py names this file as a plugin.

`new_redis(..)` and `new_kafka(..)` make a server for one test. `shared_redis` and `shared_kafka` are one plain server for all tests that
need no more: that Redis is empty at the start of each test; on that broker a test takes topics of its own names. Where a server cannot run the test is skipped and says why; in CI (CI=true, or DTASK_CI set) it fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import pytest

from . import redis
from .certificates import Certificates
from .kafka import Kafka, KafkaCluster
from .kit import VERSION, Kit
from .process import Guard
from .redis import Redis, RedisCluster, RedisPair


def give_up(reason: str) -> NoReturn:
    """Skips the test, or fails it in CI."""
    if os.environ.get("CI") == "true" or os.environ.get("DTASK_CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def guard() -> Iterator[Guard]:
    """A folder and processes for one test."""
    with Guard() as guard:
        yield guard


@pytest.fixture(scope="session")
def session_guard() -> Iterator[Guard]:
    """A folder and processes for all tests."""
    with Guard() as guard:
        yield guard


@pytest.fixture(scope="session")
def certificates(session_guard: Guard) -> Certificates:
    return Certificates(session_guard)


@pytest.fixture(scope="session")
def needs_redis() -> None:
    if reason := redis.missing():
        give_up(reason)


@pytest.fixture
def new_redis(needs_redis: None, guard: Guard) -> Callable[..., Redis]:
    """Redis(guard, ..), for one test."""
    return partial(Redis, guard)


@pytest.fixture(scope="session")
def _shared_redis(needs_redis: None, session_guard: Guard) -> Redis:
    return Redis(session_guard)


@pytest.fixture
def shared_redis(_shared_redis: Redis) -> Redis:
    _shared_redis("FLUSHALL")
    _shared_redis("SCRIPT", "FLUSH")
    return _shared_redis


@pytest.fixture
def redis_cluster(needs_redis: None, guard: Guard) -> RedisCluster:
    return RedisCluster(guard)


@pytest.fixture
def redis_pair(needs_redis: None, guard: Guard) -> RedisPair:
    return RedisPair(guard)


@pytest.fixture
def new_kafka(guard: Guard) -> Callable[..., Kafka]:
    """Kafka(guard, version, ..), for one test."""

    def make(version: str = VERSION, **options: Any) -> Kafka:
        need_kafka(version)
        return Kafka(guard, version, **options)

    return make


@pytest.fixture(scope="session")
def shared_kafka(session_guard: Guard) -> Kafka:
    need_kafka()
    return Kafka(session_guard)


@pytest.fixture
def kafka_cluster(guard: Guard) -> KafkaCluster:
    need_kafka()
    return KafkaCluster(guard)


def need_kafka(version: str = VERSION) -> None:
    """Gives up if no broker of this version can start here."""
    if reason := Kit(version).missing():
        give_up(reason)
