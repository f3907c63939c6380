"""dynatask-worker, the host of C plugins: its command line, its exit codes, its end."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import dynatask
from dynatask import App

HOST = Path(dynatask.__file__).parent / "bin" / "dynatask-worker"
VERSION = version("dynatask")


def run(*args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HOST, *map(str, args)], capture_output=True, text=True, timeout=60, **options)


def come(path: Path) -> None:
    """Waits for a file that another process makes."""
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.002)


class Shop:
    """An app on a file, with a type that a host serves."""

    def __init__(self, folder: Path, plugin: str) -> None:
        self.folder, self.plugin = folder, plugin
        self.url = f"sqlite:{folder}/jobs.db"
        self.app = App("shop", self.url)
        self.hosts: list[subprocess.Popen[str]] = []

        @self.app.extern()
        def until(mark: str, go: str) -> int: ...  # type: ignore[empty-body]

        self.until = until

    def host(self, *args: object) -> subprocess.Popen[str]:
        command = [HOST, "--app", "shop", "--url", self.url, "--plugin", self.plugin, *map(str, args)]
        host = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.hosts.append(host)
        assert host.stdout is not None
        assert host.stdout.readline() == f"dynatask-worker {VERSION} serves shop: until\n"
        return host

    def start(self, name: str) -> tuple[Any, Path, Path]:
        mark, go = self.folder / f"{name}-runs", self.folder / f"{name}-go"
        return self.until.start(str(mark), str(go)), mark, go


@pytest.fixture
def shop(tmp_path: Path, plugin: Callable[..., str]) -> Iterator[Shop]:
    shop = Shop(tmp_path, plugin("host"))
    yield shop
    for host in shop.hosts:
        host.kill()
        host.communicate()


def drains(host: subprocess.Popen[str]) -> str:
    """Waits until it says that it begins nothing more. Gives what it says."""
    assert host.stderr is not None
    for line in host.stderr:
        if (said := json.loads(line)["message"]).startswith("the worker drains: "):
            return said
    raise AssertionError("it ended, and never said that it drains")


def ends(host: subprocess.Popen[str]) -> None:
    """It drained: code 0, nothing but JSON lines as log."""
    assert host.stderr is not None
    log = host.stderr.read()
    assert host.wait(timeout=60) == 0, log
    for line in log.splitlines():
        assert {"time", "level", "message"} <= json.loads(line).keys()


def test_help_and_version() -> None:
    shown = run("--help")
    assert shown.returncode == 0 and shown.stdout.startswith("Usage: dynatask-worker --app NAME")
    shown = run("--version")
    assert (shown.returncode, shown.stdout) == (0, f"dynatask-worker {VERSION}\n")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--app", "shop.py", "--plugin", "none.so"], "not a file: shop.py"),
        ([], "--app"),
        (["--app", "x"], "--plugin"),
        (["--app"], "--app"),
        (["x"], "x"),
        (["--app", "x", "--plugin", "nowhere.so"], "nowhere.so"),
        (["--app", "a b", "--plugin", "nowhere.so"], "a b"),
        (["--app", "x", "--plugin", "nowhere.so", "--slots", "many"], "slots"),
        (["--app", "x", "--plugin", "nowhere.so", "--leese=1"], "no such option: --leese;"),
        (["--app", "x", "--plugin", "nowhere.so", "--Max-Leese", "1"], "no such option: --Max-Leese;"),
        (["--app", "x", "--plugin", "nowhere.so", "--url", "nonsense"], "nonsense"),
        (["--app", "x", "--plugin", "nowhere.so", "--url", "memory:"], "memory: is seen by one process alone"),
        (["--app", "x", "--plugin", "nowhere.so", "--url", "memory:?inline=1"], "as sqlite:jobs.db"),
    ],
)
def test_usage(args: list[str], says: str, tmp_path: Path) -> None:
    shown = run(*args, cwd=tmp_path)
    assert shown.returncode == 2 and shown.stdout == ""
    assert shown.stderr.startswith("dynatask-worker: ") and shown.stderr.count("\n") == 1 and says in shown.stderr
    assert not any(tmp_path.iterdir())  # nothing was opened


@pytest.mark.parametrize("name", ["bad_signature", "no_plugin", "other_abi"])
def test_a_bad_plugin_opens_nothing(name: str, plugin: Callable[..., str], tmp_path: Path) -> None:
    shown = run("--app", "x", "--plugin", plugin("host"), "--plugin", plugin(name), cwd=tmp_path)
    assert shown.returncode == 2 and shown.stdout == "" and shown.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_one_plugin_twice(plugin: Callable[..., str], tmp_path: Path) -> None:
    shown = run("--app", "x", "--plugin", plugin("host"), "--plugin", plugin("host"), cwd=tmp_path)
    assert shown.returncode == 2 and "until" in shown.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["option", "environment", "file"])
def test_types_without_a_handler(where: str, plugin: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "environment":
        monkeypatch.setenv("DYNATASK_TYPES", "until, untli")
    if where == "file":
        (tmp_path / "dynatask.toml").write_text('types = "until, untli"\n')
    before = list(tmp_path.iterdir())
    words = ["--types", "until, untli"] if where == "option" else []
    shown = run("--app", "x", "--plugin", plugin("host"), *words, cwd=tmp_path)
    assert shown.returncode == 2 and shown.stdout == "" and shown.stderr.count("\n") == 1
    assert 'names "untli", for which this worker has no handler: write until, ' in shown.stderr
    assert list(tmp_path.iterdir()) == before


def test_an_engine_out_of_reach(plugin: Callable[..., str]) -> None:
    shown = run("--app", "x", "--url", "sqlite:/nowhere/at/all.db", "--plugin", plugin("host"))
    assert shown.returncode == 5 and "/nowhere/at" in shown.stderr


def test_the_command_line_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNATASK_SLOTS", "many")
    shown = run("--app", "x", "--plugin", "nowhere.so", "--slots", "2", cwd=tmp_path)
    assert shown.returncode == 2 and "nowhere.so" in shown.stderr


def test_a_stop_lets_handlers_finish(shop: Shop) -> None:
    host = shop.host("--slots", 1, "--prefetch", 1)
    job, runs, go = shop.start("one")
    come(runs)
    host.send_signal(signal.SIGTERM)
    assert drains(host).endswith("handlers that run: 1, for at most 30000 ms")
    waits, _, waits_go = shop.start("two")  # nobody begins it any more
    waits_go.touch()
    go.touch()
    ends(host)
    assert job.result() == 7
    assert job.info().counts.succeeded == 1 and job.tree().attempt == 1
    assert waits.info().counts.ready == 1
    shop.host("--slots", 1)
    assert waits.result(timeout=60) == 7


@pytest.mark.parametrize("how", ["twice", "grace"])
def test_what_does_not_end_in_time_runs_elsewhere(shop: Shop, how: str) -> None:
    host = shop.host("--slots", 1, "--grace", "1h" if how == "twice" else "50ms")
    job, runs, go = shop.start("one")
    come(runs)
    host.send_signal(signal.SIGTERM)
    if how == "twice":
        host.send_signal(signal.SIGINT)
    ends(host)
    assert job.info().state == "running"
    runs.unlink()
    go.touch()
    shop.host("--slots", 1)
    assert job.result(timeout=60) == 7
    assert runs.exists()  # it ran again
