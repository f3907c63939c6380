"""Kafka behind SASL and TLS: what `kafka.NAME` passes reaches librdkafka, and no secret reaches a text."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pytest
from servers import Guard, Kafka, Redis
from servers.certificates import Certificates

from dynatask import App, EngineError

NewRedis = Callable[..., Redis]
NewKafka = Callable[..., Kafka]


def url_of(options: dict[str, str], redis: Redis) -> str:
    passed = "".join(f"&kafka.{name}={quote(value, safe='')}" for name, value in options.items() if name != "bootstrap.servers")
    return f"kafka://{options['bootstrap.servers']}?store={redis.url}{passed}"


@pytest.mark.parametrize("listener", ["plain", "tls"])
def test_jobs_run_behind_a_password_and_behind_tls(
    new_kafka: NewKafka, new_redis: NewRedis, certificates: Certificates, listener: Literal["plain", "tls"]
) -> None:
    kafka = new_kafka(secure=certificates, properties={"ssl.client.auth": "required"})
    app = App("secure", url_of(kafka.client_options(listener), new_redis()), slots=2)

    @app.task
    def echo(n: int) -> int:
        return n

    with app.worker():
        assert [job.result(timeout=60) for job in [echo.start(i) for i in range(20)]] == list(range(20))


def test_what_no_waiting_mends_is_named(new_kafka: NewKafka, new_redis: NewRedis, certificates: Certificates, guard: Guard) -> None:
    """A wrong password, a certificate of another authority, none where one is asked for, TLS where there is none, a closed port."""
    kafka = new_kafka(secure=certificates, properties={"ssl.client.auth": "required"})
    redis = new_redis()
    plain, tls = kafka.client_options("plain"), kafka.client_options("tls")
    tls_only = {name: value for name, value in tls.items() if name not in ("ssl.certificate.location", "ssl.key.location")}
    closed = f"127.0.0.1:{guard.port()}"
    for options, named in (
        (plain | {"sasl.password": "another"}, r"refuses this user or password: set kafka\.sasl\.username, kafka\.sasl\.password"),
        (tls | {"ssl.ca.location": str(certificates.certificate("stranger"))}, r"no TLS with it: give its certificate's authority by kafka\.ssl\.ca\.location"),
        (tls_only, r"no broker answers.*kafka\.security\.protocol.*certificate"),
        (tls | {"bootstrap.servers": kafka.address}, r"no TLS with it|kafka\.security\.protocol"),
        ({"bootstrap.servers": closed}, rf"Kafka at {closed}: no broker answers: start it, or correct host and port"),
    ):
        with pytest.raises(EngineError, match=named):
            App("named", url_of(options, redis) + "&engine_timeout=6").jobs()


def test_a_broker_that_is_started_anew_is_waited_for(new_kafka: NewKafka, new_redis: NewRedis) -> None:
    kafka, redis = new_kafka(), new_redis()
    kafka.kill()
    starter = threading.Thread(target=kafka.start)
    starter.start()
    try:
        assert App("anew", url_of({"bootstrap.servers": kafka.address}, redis)).jobs() == []
    finally:
        starter.join()


def test_a_wrong_password_is_named_and_shown_nowhere(new_kafka: NewKafka, new_redis: NewRedis, certificates: Certificates, tmp_path: Path) -> None:
    kafka = new_kafka(secure=certificates)
    options = kafka.client_options("plain")
    wrong = url_of(options | {"sasl.password": "s3cret-w0rd"}, new_redis()) + "&engine_timeout=3"
    with pytest.raises(EngineError, match=r"(?i)authentication") as failed:
        App("secure", wrong).jobs()
    assert "s3cret-w0rd" not in str(failed.value)
    (tmp_path / "app.py").write_text("from dynatask import App\n\napp = App('secure')\n")
    for url in (wrong, wrong.replace("redis://", "redis%3A%2F%2Fuser%3As3cret-w0rd%40"), wrong.replace("redis://", "redis://user:s3cret-w0rd@")):
        env = os.environ | {"DYNATASK_URL": url, "DYNATASK_APP": "app.py"}
        for command in ("doctor", "config"):
            run = subprocess.run([sys.executable, "-m", "dynatask", command], cwd=tmp_path, env=env, capture_output=True, text=True)
            assert run.returncode, run
            assert "s3cret-w0rd" not in run.stdout + run.stderr
