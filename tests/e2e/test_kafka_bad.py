"""What goes wrong between an app and its broker, each by a named error with a way out: records too large, rights that are missing,
two stores behind one app, records of a newer release, a broker that is too old."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import Guard, Kafka, Redis
from servers.certificates import Certificates
from servers.kafka import AUTHORIZER

import dynatask
from dynatask import App, BadArguments, EngineError, TaskType, TooBig

NewRedis = Callable[..., Redis]
NewKafka = Callable[..., Kafka]


def url_of(kafka: Kafka, redis: Redis, **options: str) -> str:
    return f"kafka://{kafka.address}?store={redis.url}" + "".join(f"&{name.replace('__', '.')}={value}" for name, value in options.items())


def echo_of(app: App) -> TaskType[[str], str]:
    @app.task
    def echo(text: str) -> str:
        return text

    return echo


def put(kafka: Kafka, topic: str, key: str, value: bytes, folder: Path) -> None:
    (folder / "record").write_bytes(value)
    command = ["kcat", "-b", kafka.address, "-P", "-t", topic, "-k", key, "-X", "message.max.bytes=10000000", str(folder / "record")]
    subprocess.run(command, check=True, timeout=60)


def ends(kafka: Kafka, topic: str) -> int:
    """How many records lie in a topic."""
    run = subprocess.run(["kcat", "-b", kafka.address, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%o\n"], capture_output=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return len(run.stdout.splitlines())


def doctor(folder: Path, name: str, url: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Its code, and the last line of each name."""
    code, found = doctor_lines(folder, name, url)
    return code, {name: lines[-1] for name, lines in found.items()}


def doctor_lines(folder: Path, name: str, url: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    (folder / "app.py").write_text(f"from dynatask import App\n\napp = App('{name}')\n")
    env = os.environ | {"DYNATASK_URL": url, "DYNATASK_APP": "app.py", "DYNATASK_ENGINE_TIMEOUT": "5"}
    run = subprocess.run([sys.executable, "-m", "dynatask", "doctor", "--json"], cwd=folder, env=env, capture_output=True, text=True)
    assert run.stdout, run.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for check in json.loads(run.stdout)["checks"]:
        found.setdefault(check["name"], []).append(check)
    return run.returncode, found


# ---- too large ----------------------------------------------------------------------------------------


def test_a_record_that_is_too_large_is_refused_before_it_is_sent(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    app = App("large", url_of(shared_kafka, new_redis(), kafka__message__max__bytes="4000"), slots=1)
    echo = echo_of(app)
    with app.worker():
        assert echo.start("small").result(timeout=30) == "small"
        before = ends(shared_kafka, "large.echo.intake")
        with pytest.raises(TooBig, match=r"kafka\.message\.max\.bytes: pass a reference"):
            echo.start("x" * 5000)
        assert ends(shared_kafka, "large.echo.intake") == before
        assert echo.start("still").result(timeout=30) == "still"


def test_a_topic_that_takes_less_names_its_setting(shared_kafka: Kafka, new_redis: NewRedis, tmp_path: Path) -> None:
    for topic, most in (("less.echo.intake", "2000"), ("less.quarantine", "1000")):
        shared_kafka.create_topic(topic, 1, {"max.message.bytes": most})
    app = App("less", url_of(shared_kafka, new_redis()), slots=1)
    echo = echo_of(app)
    with app.worker():
        with pytest.raises(TooBig, match=r"less\.echo\.intake takes: pass a reference.*max\.message\.bytes"):
            echo.start("x" * 3000)
        # What does not fit into the quarantine holds up nothing: it is told there without its value.
        put(shared_kafka, "less.echo.intake", "wide", b"\x93\x02\xc5\x05\xdc" + b"x" * 1500, tmp_path)
        assert echo.start("behind").result(timeout=30) == "behind"
        assert ends(shared_kafka, "less.quarantine") == 1


# ---- options ------------------------------------------------------------------------------------------

NOWHERE = "kafka://127.0.0.1:1?store=redis://127.0.0.1:1/0"


@pytest.mark.parametrize(
    "name",
    [
        "bootstrap.servers", "metadata.broker.list", "client.id", "group.id", "group.instance.id", "enable.auto.commit", "auto.commit.enable",
        "enable.auto.offset.store", "auto.offset.reset", "isolation.level", "partition.assignment.strategy", "allow.auto.create.topics", "acks",
        "request.required.acks", "enable.idempotence", "transactional.id", "message.timeout.ms", "delivery.timeout.ms", "delivery.report.only.error",
    ],
)  # fmt: skip
def test_options_that_are_not_for_users(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by name, with the reason, before a server is asked."""
    for app in (App("kept", f"{NOWHERE}&kafka.{name}=1"), App("kept", NOWHERE, **{f"kafka.{name}": "1"})):  # type: ignore[arg-type]
        with pytest.raises(BadArguments, match=rf"kafka\.{name} is not for users: .*\. Leave it out"):
            echo_of(app).start("x")
    monkeypatch.setenv(f"DYNATASK_KAFKA_{name.replace('.', '_').upper()}", "1")
    with pytest.raises(BadArguments, match=rf"kafka\.{name} is not for users"):
        echo_of(App("kept", NOWHERE)).start("x")


@pytest.mark.parametrize("name", ["sasl.passwort", "sasl.password2", "ssl.key.pem2", "sasl.oauthbearer.config2"])
def test_a_wrong_option_does_not_show_a_secret(name: str) -> None:
    with pytest.raises(BadArguments, match=rf"kafka\.{name}") as caught:
        echo_of(App("wrong", f"{NOWHERE}&kafka.{name}=s3cret")).start("x")
    assert "s3cret" not in str(caught.value)


# ---- rights -------------------------------------------------------------------------------------------


class Guarded:
    """A broker that grants nothing by itself; `url` comes by a user who is granted rights one by one."""

    def __init__(self, kafka: Kafka, redis: Redis) -> None:
        self.kafka, self.redis = kafka, redis
        options = kafka.client_options("plain")
        passed = "".join(f"&kafka.{name}={value}" for name, value in options.items() if name != "bootstrap.servers")
        self.url = f"kafka://{options['bootstrap.servers']}?store={redis.url}&engine_timeout=5{passed}"


@pytest.fixture
def guarded(new_kafka: NewKafka, new_redis: NewRedis, certificates: Certificates) -> Guarded:
    return Guarded(new_kafka(secure=certificates, properties=AUTHORIZER), new_redis())


def test_a_missing_right_is_named(guarded: Guarded, tmp_path: Path) -> None:
    kafka, url = guarded.kafka, guarded.url

    def serve(n: int) -> None:
        app = App("rights", url, slots=1)
        echo = echo_of(app)
        with app.worker():
            assert [job.result(timeout=30) for job in [echo.start(str(i)) for i in range(n)]] == [str(i) for i in range(n)]

    with pytest.raises(EngineError, match=r"the right Create on the topic rights\.") as refused:
        serve(1)
    assert "kafka-acls" in str(refused.value)
    code, checks = doctor(tmp_path, "rights", url)
    assert code and "the right Create on the topic rights.quarantine" in checks["rights"]["text"], checks

    kafka.grant("Create", "topic", "rights.")
    kafka.grant("Describe", "topic", "rights.")
    app = App("rights", url, slots=1)
    echo = echo_of(app)
    with pytest.raises(EngineError, match=r"the right Write on the topic rights\.echo\.intake"):
        echo.start("x")
    kafka.grant("Write", "topic", "rights.")
    until = time.monotonic() + 30
    while True:  # the broker knows of a right a moment after it was granted
        try:
            echo.using(id="waits").start("x")
            break
        except EngineError:
            assert time.monotonic() < until
    code, checks = doctor(tmp_path, "rights", url)
    assert code and "the right Read on the topic rights.echo.intake" in checks["rights"]["text"], checks
    assert "the right Read on the group rights" in checks["rights"]["text"], checks

    def refused_at_work(why: str) -> None:
        """The worker ends, and says why: a type whose starts it may not read it would never run."""
        (tmp_path / "served.py").write_text(
            f"from dynatask import App\n\napp = App('rights', slots=1, lease=2)\n\n@app.task\ndef echo(text: str) -> str:\n    return text\n"
        )
        env = os.environ | {"DYNATASK_URL": url}
        run = subprocess.run([sys.executable, "-m", "dynatask", "worker", "served.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        assert run.returncode and why in " ".join((run.stdout + run.stderr).split()), run

    refused_at_work("the right Read on the group rights")
    kafka.grant("Read", "group", "rights")
    refused_at_work("the right Read on the topic rights.")
    kafka.grant("Read", "topic", "rights.")
    with app.worker():
        assert echo.job("waits").result(timeout=30) == "x"
    code, checks = doctor(tmp_path, "rights", url)
    assert code == 0 and checks["rights"]["level"] == "ok", checks


GATED = """
import fcntl
from dynatask import App
app = App("aside", slots=2, lease=2)

@app.task
def gated(n: int, begun: str, gate: str) -> int:
    open(begun, "x").close()
    with open(gate) as f:
        fcntl.flock(f, fcntl.LOCK_SH)
    return n
"""


def test_what_runs_is_stored_while_a_right_is_missing(guarded: Guarded, tmp_path: Path) -> None:
    """The quarantine may not be written: the worker says so, stores what its handlers bring, and ends; no start is left out."""
    kafka = guarded.kafka
    for operation in ("Create", "Describe", "Read"):
        kafka.grant(operation, "topic", "aside.")
    kafka.grant("Read", "group", "aside")
    kafka.grant("Write", "topic", "aside.gated")
    (tmp_path / "served.py").write_text(GATED)
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    shut = gate.open("w")
    fcntl.flock(shut, fcntl.LOCK_EX)
    app = App("aside", guarded.url)

    @app.extern()
    def gated(n: int, begun: str, gate: str) -> int: ...

    command = [sys.executable, "-m", "dynatask", "worker", "served.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"DYNATASK_URL": guarded.url}, stderr=subprocess.PIPE, text=True) as worker:
        try:
            until = time.monotonic() + 60
            while "aside.gated.intake" not in kafka.metadata().topics:
                assert time.monotonic() < until
            job = gated.start(1, str(begun), str(gate))
            while not begun.exists():
                assert time.monotonic() < until
                time.sleep(0.01)
            put(kafka, "aside.gated.intake", "a", b"garbage", tmp_path)
            time.sleep(1.5)  # by now it was most likely refused; if not, this asks for less
            shut.close()
            said = worker.communicate(timeout=60)[1]
            assert worker.returncode and "the right Write on the topic aside.quarantine" in " ".join(said.split()), said
        finally:
            worker.kill()
    assert job.result(timeout=30) == 1  # no worker runs
    kafka.grant("Write", "topic", "aside.quarantine")
    here = App("aside", guarded.url, slots=1)

    @here.task(name="gated")
    def again(n: int, begun: str, gate: str) -> int:
        return n

    with here.worker():
        assert [job.result(timeout=30) for job in [again.start(i, "", "") for i in range(20)]] == list(range(20))
    assert ends(kafka, "aside.quarantine") == 1


def test_a_right_of_the_store_that_is_missing_costs_no_start(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    """What the store says then is said of its user, not of the start."""
    redis = new_redis(acl=["user default off", "user app on >word ~* &* +@all"])
    url = f"kafka://{shared_kafka.address}?store={redis.url.replace('://', '://app:word@')}"
    app = App("spared", url, slots=1)
    echo = echo_of(app)
    with app.worker():
        assert echo.start("x").result(timeout=30) == "x"
        redis("ACL", "SETUSER", "app", "-rpush")
        jobs = [echo.start(str(i)) for i in range(20)]
        asked = calls_of_script(redis) + 20
        redis.until(lambda: calls_of_script(redis) > asked, "the worker tries")
        redis("ACL", "SETUSER", "app", "+rpush")
        assert [job.result(timeout=30) for job in jobs] == [str(i) for i in range(20)]
    assert not ends(shared_kafka, "spared.quarantine")


def calls_of_script(redis: Redis) -> int:
    return int(redis.info("commandstats")["cmdstat_fcall"].partition("calls=")[2].partition(",")[0])


def test_ends_of_jobs_that_may_not_be_written_are_told_once_and_kept(guarded: Guarded, plugin: Callable[..., str], tmp_path: Path) -> None:
    kafka, url, log, there = guarded.kafka, guarded.url + "&done=on", tmp_path / "log", tmp_path / "there"
    for operation in ("Create", "Describe", "Read"):
        kafka.grant(operation, "topic", "unwritten.")
    kafka.grant("Read", "group", "unwritten")
    kafka.grant("Write", "topic", "unwritten.until")
    there.touch()
    app = App("unwritten", url)

    @app.extern()
    def until(mark: str, go: str) -> int: ...

    ended = 0

    def run() -> None:
        nonlocal ended
        until.start(str(tmp_path / "mark"), str(there)).result(timeout=30)
        ended += 1

    def told() -> int:
        return log.read_text().count("the right Write on the topic unwritten.done")

    host = Path(dynatask.__file__).parent / "bin" / "dynatask-worker"
    command = [host, "--app", "unwritten", "--url", url, "--plugin", plugin("host")]
    with log.open("w") as out, subprocess.Popen(command, stderr=out) as worker:
        try:
            end = time.monotonic() + 60
            while not told():
                assert time.monotonic() < end, log.read_text()
                run()
            for _ in range(5):
                run()
            assert told() == 1, log.read_text()
            kafka.grant("Write", "topic", "unwritten.done")
            while ends(kafka, "unwritten.done") < ended:
                assert time.monotonic() < end, log.read_text()
        finally:
            worker.kill()


def test_doctor_asks_for_no_right_to_make_what_is_there(guarded: Guarded, tmp_path: Path) -> None:
    kafka = guarded.kafka
    for topic in ("premade.quarantine", "premade.dynatask-2emap.intake"):
        kafka.create_topic(topic, 1)
    for operation in ("Describe", "Read", "Write"):
        kafka.grant(operation, "topic", "premade.")
    kafka.grant("Read", "group", "premade")
    until = time.monotonic() + 30
    while (checks := doctor(tmp_path, "premade", guarded.url)[1])["rights"]["level"] != "ok":  # a right is seen a moment later
        assert time.monotonic() < until, checks


# ---- two apps of one name -----------------------------------------------------------------------------


def test_two_stores_behind_one_app_are_refused(shared_kafka: Kafka, new_redis: NewRedis, tmp_path: Path) -> None:
    one, other = new_redis(), new_redis()
    app = App("same", url_of(shared_kafka, one), slots=1)
    echo = echo_of(app)
    with app.worker():
        assert echo.start("x").result(timeout=30) == "x"
        second = App("same", url_of(shared_kafka, other, engine_timeout="1"), slots=1)
        with pytest.raises(EngineError, match="another store .*group same: give one of the two apps another name or prefix"):
            echo_of(second).start("y")
        code, checks = doctor(tmp_path, "same", url_of(shared_kafka, other))
        assert code and "another store" in checks["group"]["text"], checks
        third = App("same", url_of(shared_kafka, other, prefix="third"), slots=1)
        echo = echo_of(third)
        with third.worker():
            assert echo.start("z").result(timeout=30) == "z"
        code, checks = doctor(tmp_path, "same", url_of(shared_kafka, one))
        assert code == 0 and "group" not in checks, checks


def test_a_worker_whose_member_is_anothers_now_ends_and_says_so(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    url = url_of(shared_kafka, new_redis(), member="one", engine_timeout="3")
    first, second = App("fenced", url, slots=1), App("fenced", url, slots=1)
    echo_of(first)
    echo = echo_of(second)
    with pytest.raises(EngineError, match="group fenced as the same member: give each worker .* the option member"), first.worker():
        with second.worker():
            assert echo.start("x").result(timeout=30) == "x"
            until = time.monotonic() + 60
            while len(second.read({"what": "workers"})) > 1:  # the first gives up
                assert time.monotonic() < until
                time.sleep(0.05)


def test_a_store_that_was_lost_with_its_workers_is_no_other_app(shared_kafka: Kafka, new_redis: NewRedis) -> None:
    """The dead worker is a member of the group until its session is over: who comes next waits for that, and reads all again."""
    redis = new_redis()
    program = "import sys\nfrom dynatask import App\napp = App('lost', sys.argv[1], slots=1)\n@app.task\ndef echo(text: str) -> str:\n    return text\n"
    program += "with app.worker():\n    echo.start('x').result(timeout=30)\n    print('ready', flush=True)\n    sys.stdin.read()\n"
    process = subprocess.Popen([sys.executable, "-c", program, url_of(shared_kafka, redis)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdin and process.stdout.readline() == "ready\n"
    process.kill()
    process.communicate()
    redis("FLUSHALL")
    app = App("lost", url_of(shared_kafka, redis), slots=1)
    echo = echo_of(app)
    with app.worker():
        assert echo.start("y").result(timeout=60) == "y"


# ---- what doctor sees -----------------------------------------------------------------------------------


def test_doctor_counts_what_lies_in_quarantine(shared_kafka: Kafka, new_redis: NewRedis, tmp_path: Path) -> None:
    url = url_of(shared_kafka, new_redis())
    app = App("held", url, slots=1)
    echo = echo_of(app)
    code, checks = doctor(tmp_path, "held", url)
    assert code == 0 and checks["held"]["level"] == "ok", checks
    assert "held.quarantine" not in shared_kafka.metadata().topics  # it looks only
    with app.worker():
        echo.start("x").result(timeout=30)
        put(shared_kafka, "held.echo.intake", "a", b"garbage", tmp_path)
        for n, key in enumerate(("b", "c"), 1):
            until = time.monotonic() + 60
            while "held.quarantine" not in shared_kafka.metadata().topics or ends(shared_kafka, "held.quarantine") < n:
                assert time.monotonic() < until
            put(shared_kafka, "held.echo.intake", key, b"\x94\x02\xc0\xc0\xc0", tmp_path)
        while ends(shared_kafka, "held.quarantine") < 3:
            assert time.monotonic() < until
    code, checks = doctor(tmp_path, "held", url)
    held = checks["held"]
    assert code == 0 and held["level"] == "warn", checks
    assert "3 records lie in held.quarantine" in held["text"] and "another format than 1: upgrade" in held["text"], held
    put(shared_kafka, "held.quarantine", "d", b"\x95\x01\xa1s\x00\xa6\xff\xc3\x1b[2J\xc0", tmp_path)  # whoever wrote that
    code, checks = doctor(tmp_path, "held", url)
    assert code == 0 and "4 records" in checks["held"]["text"], checks


def test_doctor_names_what_topics_are_set_to(shared_kafka: Kafka, new_redis: NewRedis, tmp_path: Path) -> None:
    url = url_of(shared_kafka, new_redis())
    app = App("settings", url, slots=1)
    names = {
        "fine": {"retention.ms": "-1"},
        "compacted": {"retention.ms": "-1", "cleanup.policy": "compact,delete"},
        "short": {"retention.ms": "7200000"},
        "small": {"retention.ms": "-1", "retention.bytes": "1000000"},
        "many": {"retention.ms": "-1", "min.insync.replicas": "2"},
    }
    for name, config in names.items():
        shared_kafka.create_topic(f"settings.{name}.intake", 1, config)
    made = [app.task(name=name)(lambda: None) for name in names]
    with app.worker():
        assert made[0].start().result(timeout=30) is None
    # Each is said alone: a line of its own for each setting.
    code, by_name = doctor_lines(tmp_path, "settings", url)
    said = {line["text"]: line for line in by_name["settings"]}
    assert code, by_name

    def line(words: str, topic: str) -> dict[str, Any]:
        found = [line for text, line in said.items() if words in text]
        assert len(found) == 1 and f"settings.{topic}.intake" in found[0]["text"] and "settings.fine" not in found[0]["text"], said
        return found[0]

    assert line("cleanup.policy is compact", "compacted")["level"] == "bad"
    assert line("within 2 hours", "short")["try_"].endswith("--entity-name settings.short.intake --add-config retention.ms=-1")
    assert line("retention.bytes is 1000000", "small")["level"] == "warn"
    assert line("min.insync.replicas is 2 of 1 copies: no start", "many")["level"] == "bad"
    assert len(said) == 4, said


def test_doctor_names_topics_that_were_deleted(shared_kafka: Kafka, new_redis: NewRedis, tmp_path: Path) -> None:
    redis = new_redis()
    app = App("deleted", url_of(shared_kafka, redis, done="on"), slots=1)
    echo = echo_of(app)
    with app.worker():
        assert echo.start("x").result(timeout=30) == "x"
    code, checks = doctor(tmp_path, "deleted", url_of(shared_kafka, redis))
    assert code == 0 and "topics" not in checks and checks["settings"]["level"] == "ok", checks
    for topic in ("deleted.echo.intake", "deleted.quarantine", "deleted.done"):
        shared_kafka.delete_topic(topic)
    until = time.monotonic() + 30
    while any(topic.startswith("deleted.echo") for topic in shared_kafka.metadata().topics):
        assert time.monotonic() < until
    code, checks = doctor(tmp_path, "deleted", url_of(shared_kafka, redis))
    assert checks["topics"]["level"] == "warn", checks
    assert all(topic in checks["topics"]["text"] for topic in ("deleted.echo.intake", "deleted.quarantine", "deleted.done")), checks
    assert "starts that lay in them are lost" in checks["topics"]["text"] and "dynatask worker" in checks["topics"]["try_"], checks


def test_doctor_names_rights_on_what_is_written(guarded: Guarded, tmp_path: Path) -> None:
    """Write on types, quarantine and the topic of ends, one by one; and the looks leave no record."""
    kafka = guarded.kafka
    topics = ("writes.dynatask-2emap.intake", "writes.echo.intake", "writes.quarantine", "writes.done")
    for topic in topics:
        kafka.create_topic(topic, 1, {"retention.ms": "-1"})
    for operation in ("Describe", "Read"):
        kafka.grant(operation, "topic", "writes.")
    kafka.grant("Read", "group", "writes")
    app = App("writes", f"kafka://{kafka.address}?store={guarded.url.partition('store=')[2].partition('&')[0]}&done=on", slots=1)
    echo = echo_of(app)
    with app.worker():
        assert echo.start("x").result(timeout=30) == "x"
    before = [ends(kafka, topic) for topic in topics]
    for topic in topics:
        until = time.monotonic() + 30  # a right is seen a moment after it was granted
        while f"the right Write on the topic {topic}" not in (checks := doctor(tmp_path, "writes", guarded.url)[1])["rights"]["text"]:
            assert time.monotonic() < until, checks
        assert checks["settings"]["level"] == "ok" and "lacks the right DescribeConfigs" in checks["settings"]["text"], checks
        kafka.grant("Write", "topic", topic)
        while f"the right Write on the topic {topic}" in (checks := doctor(tmp_path, "writes", guarded.url)[1])["rights"]["text"]:
            assert time.monotonic() < until, checks
    assert checks["rights"]["level"] == "ok", checks
    assert [ends(kafka, topic) for topic in topics] == before


class Older:
    """Between clients and a broker: tells them that it makes topics as Kafka 2.3 does (CreateTopics up to version 3)."""

    def __init__(self, port: int, target: int) -> None:
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self.target))
            except OSError:  # it ended ahead of its clients
                client.close()
                continue
            threading.Thread(target=self.carry, args=(client, broker, False), daemon=True).start()
            threading.Thread(target=self.carry, args=(broker, client, True), daemon=True).start()

    def carry(self, source: socket.socket, to: socket.socket, answers: bool) -> None:
        with source, to, source.makefile("rb") as file:
            try:
                if answers:  # the first is of ApiVersions, version 3: size, correlation, error, how many; each: key, from, to, no tags
                    data = bytearray(file.read(4))
                    data += file.read(int.from_bytes(data, "big"))
                    at = data.index(b"\x00\x13\x00", 11)
                    assert (at - 11) % 7 == 0
                    data[at + 4 : at + 6] = b"\x00\x03"
                    to.sendall(data)
                while some := file.read1(65536):
                    to.sendall(some)
            except OSError:
                pass


def test_a_broker_that_is_too_old_is_named(new_kafka: NewKafka, new_redis: NewRedis, guard: Guard, tmp_path: Path) -> None:
    port = guard.port()
    kafka = new_kafka(properties={"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}"})
    older = Older(port, kafka.port)
    url = f"kafka://127.0.0.1:{port}?store={new_redis().url}"
    try:
        code, checks = doctor(tmp_path, "old", url)
        assert code and "too old" in checks["engine"]["text"] and "2.4 or newer" in checks["engine"]["text"], checks
        with pytest.raises(EngineError, match="too old"):
            echo_of(App("old", url)).start("x")
    finally:
        older.listener.close()
