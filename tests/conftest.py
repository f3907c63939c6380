"""What all tests of the Python package share: an app on either engine, worker
processes that are ended whatever happens, compiled plugins, and a watchdog
that turns a hang into stack traces.

Nothing here reads the package's insides: only the public names.
"""

import faulthandler
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dynatask import App

HERE = Path(__file__).resolve().parent
INCLUDE = HERE.parent / "core" / "include"
sys.path.insert(0, str(HERE / "python" / "programs"))
pytest_plugins = ["servers.fixtures"]

LIMIT = int(os.environ.get("DTASK_TEST_LIMIT", "120"))  # seconds; a hang is worth more as stacks than as a dead CI
_stderr = 2

# A shell starts what goes to its background deaf to Ctrl-C, and every child of it: the tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
_serial = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    global _stderr
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():  # the real one, for the watchdog
        _stderr = os.dup(2)


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    faulthandler.dump_traceback_later(LIMIT, exit=True, file=_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(params=["memory", "sqlite", "redis", "kafka"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return request.getfixturevalue("shared_redis").url
    if request.param == "kafka":  # the broker keeps the topics of tests before: the Redis that is empty must have none of them
        kafka, redis = (request.getfixturevalue(name) for name in ("shared_kafka", "shared_redis"))
        return f"kafka://{kafka.address}?store={redis.url}&prefix=test-{next(_serial)}&partitions=1"
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/jobs.db"


@pytest.fixture
def at_once(url: str) -> bool:
    """Whether a job is in the store when its start returns; with Kafka it is when a worker took it in, and has no counts before."""
    return not url.startswith("kafka:")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/jobs.db"


@pytest.fixture
def new_app(url: str) -> Callable[..., App]:
    """An app of its own name on this test's engine; options as of App."""

    def make(**options: object) -> App:
        return App(f"test-{next(_serial)}", url, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def app(new_app: Callable[..., App]) -> App:
    return new_app()


class Effects:
    """An append-only log of lines that several processes write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    def count(self, line: str) -> int:
        return self.lines().count(line)

    def until(self, line: str, times: int = 1, timeout: float = 60) -> None:
        """Returns once the line was written so many times."""
        waiting = threading.Event()
        left = timeout
        while self.count(line) < times:
            if left <= 0:
                raise TimeoutError(f"{line!r} was not written {times} times in {timeout} s; log: {self.lines()[-20:]}")
            waiting.wait(0.005)
            left -= 0.005


@pytest.fixture
def effects(tmp_path: Path) -> Effects:
    return Effects(tmp_path / "effects")


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Start]:
    """Starts `programs/<name>.py ARGS` as a worker process in a group of its own."""
    running: list[subprocess.Popen[bytes]] = []

    def start(program: str, *args: object, **env: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-X", "faulthandler", str(HERE / "python" / "programs" / f"{program}.py"), *map(str, args)]
        process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | env, start_new_session=True)
        running.append(process)
        return process

    yield start
    for process in running:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


@pytest.fixture(scope="session")
def plugin() -> Iterator[Callable[..., str]]:
    """Compiles tests/python/plugins/<name>.c and returns the path of the .so."""
    folder = Path(tempfile.mkdtemp(prefix="dynatask-plugins-"))

    def build(name: str, *flags: str) -> str:
        suffix = "".join(c if c.isalnum() else "_" for c in "".join(flags))
        out = folder / f"{name}{suffix}.so"
        if not out.exists():
            source = HERE / "python" / "plugins" / f"{name}.c"
            subprocess.run(
                ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-shared", f"-I{INCLUDE}", *flags]
                + [str(source), "-o", str(out)],
                check=True,
            )
        return str(out)

    yield build
    shutil.rmtree(folder)
