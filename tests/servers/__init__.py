"""Real servers for the tests: Redis in three arrangements, Kafka of two versions, certificates.

    with servers.Guard() as guard:                      # a temporary folder; all in it dies with it
        redis = servers.Redis(guard, aof="always")      # answers when the constructor returns
        redis("SET", "a", 1)                            # one raw command
        redis.kill(); redis.start()                     # SIGKILL; again on the same data and port
        with redis.client() as client: ...              # a raw connection: resp.py
    proxy = servers.Proxy(guard, redis.port)        # a network that can be cut

Everything is on loopback ports that were free and are nobody's default, in a temporary folder, and is gone when the guard is closed or its
process dies, however it dies. pytest fixtures: `fixtures.py`. DTASK_KAFKA_VERSION=3.9.2 is the release of all brokers that a test does not
ask for by its own.

    seconds on 2 cores, to the first answer    machine idle    other jobs at it (load 14 to 20)
    Redis                                      0.04            0.15 to 0.6
    pair with its Sentinel                     0.11            0.65
        failover                               1.1             1.0
    three-master Cluster                       2.1             2.5        Redis itself waits 2 s
    Kafka 4.3.1                                1.4 to 1.6      up to 7
        again after SIGKILL                    2.2 to 2.4
    Kafka 3.9.2                                0.7 to 1.3
        again after SIGKILL                    1.9 to 2.3
    three brokers of 4.3.1                     2.4 to 3.5      8.9
"""

from .certificates import Certificates
from .kafka import Kafka, KafkaCluster
from .process import Guard, Process, Server, ServerError
from .proxy import Proxy
from .redis import Move, Redis, RedisCluster, RedisPair, Sentinel
from .resp import Resp, RespError

__all__ = [
    "Certificates", "Guard", "Kafka", "KafkaCluster", "Move", "Process", "Proxy", "Redis", "RedisCluster", "RedisPair", "Resp", "RespError", "Sentinel", "Server", "ServerError",
]  # fmt: skip
