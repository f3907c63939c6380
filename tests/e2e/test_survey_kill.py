"""The survey, its workers killed half way: the same sums, and the lost attempts are told."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("DTASK_BUILD", ROOT / "build"))
FOLDERS, FILES = 200, 100  # in each


def totals(line: str) -> dict[str, str]:
    found = dict(word.split("=") for word in line.split())
    return {name: found[name] for name in ("files", "lines", "words", "bytes")}


class Demo:
    """The demo in a process of its own, its output read as it comes: script/demo, or the program that it runs."""

    def __init__(self, folder: str, db: Path, script: bool) -> None:
        command = [str(ROOT / "script/demo"), folder] if script else [sys.executable, str(ROOT / "examples/survey/demo.py"), folder]
        self.env = os.environ | {"DYNATASK_URL": f"sqlite:{db}", "DTASK_BUILD": str(BUILD), "NO_COLOR": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.env, start_new_session=True)
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            for line in out:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def until(self, pattern: str, nth: int = 1) -> re.Match[str]:
        """The nth line that matches; waits for it."""
        with self._news:
            while True:
                found = [m for line in self.lines if (m := re.search(pattern, line))]
                if len(found) >= nth:
                    return found[nth - 1]
                assert not self._ended, f"no line {nth} like {pattern!r} in:\n" + "\n".join(self.lines)
                self._news.wait()

    def until_done(self, share: float) -> dict[str, int]:
        """Counts, once so much of what is known is done; follows the job by `dynatask watch --json`."""
        job = self.until(r"^job (\S+):")[1]
        watching = subprocess.Popen(
            [sys.executable, "-m", "dynatask", "watch", job, "-a", "survey", "--json"], stdout=subprocess.PIPE, text=True, env=self.env
        )
        assert watching.stdout is not None
        try:
            for line in watching.stdout:
                told = json.loads(line)
                counts = told["counts"]
                ended = sum(counts[s] for s in ("succeeded", "failed", "cancelled", "skipped"))
                if told["state"] != "running" or (counts["added"] > 1000 and ended >= share * counts["added"]):
                    return counts
            raise AssertionError("watch ended before the job")
        finally:
            watching.kill()
            watching.communicate()

    def end(self) -> list[str]:
        self._reader.join()
        assert self.process.wait() == 0, "\n".join(self.lines)
        return self.lines

    def kill(self) -> None:
        try:
            self.process.terminate()  # it drains its workers
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


@pytest.fixture(scope="module")
def ready() -> None:
    """What script/demo would build first: before a test's watchdog begins, which is for hangs."""
    subprocess.run([ROOT / "script/setup", "demo"], check=True)


@pytest.fixture
def demo(tmp_path: Path, ready: None):
    running: list[Demo] = []

    def start(folder: str, *, script: bool = False) -> Demo:
        running.append(Demo(folder, tmp_path / "jobs.db", script))
        return running[-1]

    yield start
    for one in running:
        one.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Large enough that there is a middle to kill in."""
    top = tmp_path_factory.mktemp("folder")
    for i in range(FOLDERS):
        inner = top / f"{i % 10}" / f"{i}"
        inner.mkdir(parents=True)
        for j in range(FILES):
            (inner / f"{j}.txt").write_bytes(b"some words in file %d\n" % j * (j + 1))
    (top / "large").write_bytes(b"words \n" * 1_000_000)
    return str(top)


@pytest.fixture(scope="module")
def expected(folder: str) -> dict[str, str]:
    out = subprocess.run([sys.executable, ROOT / "examples/survey/oracle.py", folder], capture_output=True, text=True, check=True)
    return totals(out.stdout)


def test_undisturbed(demo, folder: str, expected: dict[str, str]) -> None:
    lines = demo(folder).end()
    assert totals(lines[-1]) == expected
    assert any(line.startswith("workers that died: C 0, Python 0; lost attempts: 0; ") for line in lines)


@pytest.mark.parametrize("names", [["C"], ["Python"], ["C", "Python"]], ids="+".join)
def test_killed(demo, folder: str, expected: dict[str, str], names: list[str]) -> None:
    share = random.uniform(0.2, 0.8)
    print(f"killed at {share:.0%}")
    survey = demo(folder, script=True)
    pids = {name: int(survey.until(rf"^{name} worker: pid (\d+)")[1]) for name in names}
    survey.until_done(share)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    for name in names:
        survey.until(rf"^{name} worker {pids[name]} was killed by SIGKILL: starting another")
    lines = survey.end()
    assert totals(lines[-1]) == expected
    deaths = {name: int(name in names) for name in ("C", "Python")}
    said = next(m for line in lines if (m := re.fullmatch(r"workers that died: (.*); lost attempts: (\d+); tasks claimed again: (\d+)", line)))
    assert said[1] == f"C {deaths['C']}, Python {deaths['Python']}"
    # What the dead worker held was claimed again, which may be nothing; of that, one attempt a slot may be lost.
    assert int(said[2]) <= int(said[3])
