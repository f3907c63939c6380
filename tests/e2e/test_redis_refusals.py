"""What a Redis URL is refused for: each with a named error and one sentence that says what to do, before anything is written.

Secrets never stand in an error.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import Certificates, Redis, RedisCluster, RedisPair

from dynatask import App, BadArguments, DynataskError, EngineError, VersionError

NewRedis = Callable[..., Redis]
SECRET = "s3cret-w0rd"


def touch(app: App) -> None:
    @app.task
    def touch() -> None: ...

    touch.using(delay=3600).start()


def refused(url: str, *words: str, kind: type[DynataskError] = EngineError, **options: object) -> None:
    with pytest.raises(kind) as caught:
        touch(App("refused", url, **options))  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text and SECRET not in text, text
    for word in words:
        assert word in text, text


def with_password(url: str, user: str = "", password: str = SECRET) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{user}:{password}@{rest}"


@contextmanager
def fake(info: str, replies: dict[str, bytes] | None = None) -> Iterator[str]:
    """A server that knows little but INFO; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, client.makefile("rb") as lines:
            while count := lines.readline():
                words = [lines.read(int(lines.readline()[1:]) + 2)[:-2].decode() for _ in range(int(count[1:]))]
                body = info.replace("\n", "\r\n").encode()
                reply = (replies or {}).get(words[0], b"+OK\r\n")
                client.sendall(b"$%d\r\n%b\r\n" % (len(body), body) if words[0] == "INFO" else reply)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# ---- the URL ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "redis:", "redis:host", "redis://", "redis://:6379", "redis://h:0", "redis://h:65536", "redis://h:x", "redis://h/x", "redis://h/70000",
        "redis://a,b/0", "redis://[::1/0", "redis://u@h", "redis://:@h", "redis://a@b:c@h", "redis://u:%zz@h", "redis+cluster://h/1",
        "redis+cluster://", "redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel:///main", "redis+other://h", "redisss://h",
        "redis://h?nosuch=1", "redis://" + "h," * 20 + "h",
    ],
)  # fmt: skip
def test_malformed_urls(url: str) -> None:
    refused(url, kind=BadArguments)


def test_a_malformed_url_does_not_show_its_password() -> None:
    for url in (f"redis://u:{SECRET}@", f"redis://u:{SECRET}@h:x/0", f"nosuch://u:{SECRET}@h/0", f"redis://u:{SECRET}@h/0?nosuch=1"):
        refused(url, kind=BadArguments)


def test_tls_files_without_tls(certificates: Certificates) -> None:
    refused("redis://127.0.0.1", "rediss://", kind=BadArguments, tls_ca=str(certificates.ca))


# ---- reaching it -------------------------------------------------------------------


def test_a_closed_port() -> None:
    port = closed_port()
    refused(with_password(f"redis://127.0.0.1:{port}/0", "u"), f"127.0.0.1:{port}", "refused")


def test_a_name_without_an_address() -> None:
    refused("redis://no-such-host.invalid/0", "no-such-host.invalid")


def test_all_addresses_of_a_name_are_tried(shared_redis: Redis) -> None:
    # localhost is ::1 first where there is IPv6, and the server listens on 127.0.0.1 alone.
    touch(App("addresses", f"redis://localhost:{shared_redis.port}/0"))


def test_a_server_that_is_no_redis() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(1)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    refused(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", "not Redis")
    thread.join()
    listener.close()


def test_a_server_that_takes_connections_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", "does not answer", engine_timeout="300ms")


# ---- who may -----------------------------------------------------------------------


def test_passwords(new_redis: NewRedis) -> None:
    server = new_redis(password=SECRET + "!")
    plain = f"redis://127.0.0.1:{server.port}/0"
    refused(plain, "password")
    refused(with_password(plain), "password")
    refused(with_password(plain, "nobody"), "nobody")
    touch(App("allowed", with_password(plain, password=SECRET + "%21")))


def test_a_password_where_none_is_set(shared_redis: Redis) -> None:
    refused(with_password(shared_redis.url), "no password set")


def test_a_user_without_the_rights(new_redis: NewRedis) -> None:
    server = new_redis(acl=["user default off", f"user app on >{SECRET} ~* &* +info +client|setname"])
    refused(with_password(f"redis://127.0.0.1:{server.port}/0", "app"), "app", "right", "fcall")


# ---- TLS ---------------------------------------------------------------------------


def test_a_plain_port_with_rediss(shared_redis: Redis) -> None:
    refused(shared_redis.url.replace("redis:", "rediss:"), "TLS", engine_timeout="5s")


def test_a_tls_port_with_redis(new_redis: NewRedis, certificates: Certificates) -> None:
    server = new_redis(tls=certificates)
    refused(server.url.replace("rediss:", "redis:"), "TLS")


def test_certificates(new_redis: NewRedis, certificates: Certificates) -> None:
    server = new_redis(tls=certificates, mutual=True)
    own = {"tls_cert": str(certificates.certificate("client")), "tls_key": str(certificates.key("client"))}
    trusted = {"tls_ca": str(certificates.ca)}
    refused(server.url, "certificate", "tls_ca", **own)
    refused(server.url, "certificate", tls_ca=str(certificates.certificate("stranger")), **own)
    refused(server.url, "tls_cert", **trusted)
    stranger = {"tls_cert": str(certificates.certificate("stranger")), "tls_key": str(certificates.key("stranger"))}
    refused(server.url, "certificate", **trusted, **stranger)
    touch(App("allowed", server.url, **trusted, **own))
    touch(App("allowed", server.url.replace("127.0.0.1", "localhost"), **trusted, **own))
    # 127.0.0.2 is the same server, and not in the certificate.
    server("CONFIG", "SET", "bind", "127.0.0.1 127.0.0.2")
    refused(server.url.replace("127.0.0.1", "127.0.0.2"), "IP address mismatch", **trusted, **own)


def test_tls_files_that_do_not_fit(certificates: Certificates, tmp_path: Path) -> None:
    url = "rediss://127.0.0.1"
    refused(url, "tls_ca", kind=BadArguments, tls_ca=str(tmp_path / "none"))
    refused(url, "tls_key", kind=BadArguments, tls_cert=str(certificates.certificate("client")))
    other = {"tls_cert": str(certificates.certificate("client")), "tls_key": str(certificates.key("server"))}
    refused(url, "tls_key", kind=BadArguments, **other)
    refused(url, "tls_cert", kind=BadArguments, tls_cert=str(tmp_path / "none"), tls_key=str(certificates.key("client")))


# ---- which server --------------------------------------------------------------------


def test_an_old_server() -> None:
    with fake("# Server\nredis_version:6.2.14\n") as url:
        refused(url, "6.2.14", "7.0", kind=VersionError)


def test_a_proxy_that_does_not_say_its_version() -> None:
    with fake("# Server\n") as url:
        refused(url, "which Redis")


def test_a_policy_that_evicts(new_redis: NewRedis) -> None:
    server = new_redis(config={"maxmemory-policy": "allkeys-lru"})
    refused(server.url, "allkeys-lru", "noeviction")


def test_a_replica(redis_pair: RedisPair) -> None:
    refused(redis_pair.replica.url, "replica", f"127.0.0.1:{redis_pair.master.port}")


def test_sentinels(redis_pair: RedisPair) -> None:
    refused(redis_pair.url.replace("/main", "/other"), "other")
    refused(redis_pair.url.replace("redis+sentinel", "redis").replace("/main/0", "/0"), engine_timeout="1s")
    touch(App("allowed", redis_pair.url))
    # The first of two Sentinels is not there.
    touch(App("allowed", redis_pair.url.replace("://", f"://127.0.0.1:{closed_port()},")))


def test_a_cluster_and_a_server_alone(redis_cluster: RedisCluster, shared_redis: Redis) -> None:
    refused(f"redis://127.0.0.1:{redis_cluster.nodes[0].port}/0", "redis+cluster://")
    refused(f"redis+cluster://127.0.0.1:{shared_redis.port}", "redis://")
    for i in range(4):  # on whichever node its slot is
        touch(App(f"allowed-{i}", redis_cluster.url))


def test_loading_is_waited_for() -> None:
    with fake("redis_version:7.0.15\nloading:1\n") as url:
        refused(url, "loading", engine_timeout="300ms")


def test_two_apps_of_one_name_under_prefixes(shared_redis: Redis) -> None:
    touch(App("same", shared_redis.url))
    touch(App("same", shared_redis.url, prefix="team"))
    keys = {key.decode().partition("}")[0] for key in shared_redis("KEYS", "*")}
    assert keys == {"{same.0", "{team:same.0"}
    refused(shared_redis.url, "prefix", kind=BadArguments, prefix="a{b")
