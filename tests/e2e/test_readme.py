"""What the README shows is run as it stands there, by somebody new in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import Redis

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
WORDS = "Call me Ishmael. Some years ago\n\nnever mind how  long\n"
# The commands of this interpreter's environment, and nothing configured.
ENV = {k: v for k, v in os.environ.items() if not k.startswith("DYNATASK_")} | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
}


def block(language: str, holds: str) -> str:
    found = [text for kind, text in BLOCKS if kind == language and holds in text]
    assert len(found) == 1, f"{len(found)} blocks of {language} hold {holds}"
    return found[0]


def shell(folder: Path, script: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=ENV, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """The folder after the chapter on C: a plugin, words.py, book.txt."""
    (tmp_path / "textkit.c").write_text(block("c", "DTASK_PLUGIN"))
    (tmp_path / "words.py").write_text(block("python", "def wordcount"))
    (tmp_path / "book.txt").write_text(WORDS)
    shell(tmp_path, block("sh", "cc -shared"))
    return tmp_path


def test_the_first_program(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(block("python", "def fib"))
    assert shell(tmp_path, "python hello.py").strip() == "144"
    assert (tmp_path / "jobs.db").exists()


def test_the_plugin_beside_python(words: Path) -> None:
    assert shell(words, "python words.py").strip() == str(len(WORDS.split()))


@contextmanager
def workers(folder: Path, app: str, starts: list[str]) -> Iterator[None]:
    """Each in a terminal of its own, from when it says what it serves; stopped by SIGTERM they end well."""
    running: list[subprocess.Popen[str]] = []
    try:
        for start in starts:
            command = ["bash", "-c", f"{app}\nexec {shlex.join(shlex.split(start))}"]
            running.append(subprocess.Popen(command, cwd=folder, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
            assert (out := running[-1].stdout) and " serves " in out.readline()
        yield
    finally:
        for worker in running:
            worker.send_signal(signal.SIGTERM)
        for worker in running:
            worker.communicate(timeout=60)
    assert [worker.returncode for worker in running] == [0, 0]


def test_the_command_line(words: Path) -> None:
    lines = block("sh", "dynatask worker --plugin").splitlines()
    with workers(words, lines[0], [line.partition("#")[0] for line in lines[1:]]):
        said = shell(words, block("sh", "dynatask tree"))
    assert str(len(WORDS.split())) in said and "wordcount" in said


@pytest.mark.parametrize("kafka", [False, True], ids=["redis", "kafka"])
def test_many_machines(words: Path, request: pytest.FixtureRequest, shared_redis: Redis, kafka: bool) -> None:
    """As it stands there, but for the port."""
    url = shared_redis.url
    if kafka:  # with topics of its own on a broker that others use
        url = f"'kafka://{request.getfixturevalue('shared_kafka').address}?store={url}&prefix={uuid.uuid4()}'"
    settings, doctor, c, python, job = block("sh", "DYNATASK_URL=redis:").replace("redis://127.0.0.1/0", url).splitlines()
    assert "bad " not in shell(words, f"{settings}\n{doctor}")
    with workers(words, settings, [line.partition("#")[0] for line in (c, python)]):
        said = shell(words, f"{settings}\n{job}")
    assert re.search(r"wordcount +succeeded", said) and re.search(r"count_words +×\d+ +C +succeeded", said), said
