"""Real servers for the tests: Redis in three arrangements; certificates.

    with servers.Guard() as guard:                      # a temporary folder; all in it dies with it
        redis = servers.Redis(guard, aof="always")      # answers when the constructor returns
        redis("SET", "a", 1)                            # one raw command
        redis.kill(); redis.start()                     # SIGKILL; again on the same data and port
        with redis.client() as client: ...              # a raw connection: resp.py

Everything is on loopback ports that were free and are nobody's default, in a temporary folder, and is gone when the guard is closed or its
process dies, however it dies. pytest fixtures: `fixtures.py`. From a shell or a C test: `python -m servers --help` with tests/ on
PYTHONPATH.
"""

from .certificates import Certificates
from .process import Guard, Process, Server, ServerError
from .redis import Move, Redis, RedisCluster, RedisPair, Sentinel
from .resp import Resp, RespError

__all__ = [
    "Certificates", "Guard", "Move", "Process", "Redis", "RedisCluster", "RedisPair", "Resp", "RespError", "Sentinel", "Server", "ServerError",
]  # fmt: skip
